"""Training in several processes on the loopback address, on the JAX backend."""

import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from process_helpers import Processes, roughen, train_in, weights_of

from keras_tinyalex import processes

RUN_FOLDER = {"checkpoints", "config.json", "environment.json", "history.csv",
              "metrics.json", "model.h5", "model.keras", "per_class.csv", "plots",
              "tensorboard"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("count", "recipe"), [(2, "baseline"), (4, "best")])
def test_processes_train_as_one(official_folder, tmp_path, count, recipe):
    roughen(official_folder)  # see `RESUMED` in test_devices.py
    arguments = {"recipe": recipe, "epochs": 3, "size": 64}
    train_in(tmp_path, official_folder, 1, "one", **arguments)
    errors = train_in(tmp_path, official_folder, count, "many", **arguments)
    one, many = (weights_of(tmp_path / name) for name in ("one", "many"))
    assert np.linalg.norm(one - many) < 1e-5 * np.linalg.norm(one)
    assert {path.name for path in (tmp_path / "many").iterdir()} == RUN_FOLDER
    assert "epoch 3/3" in errors[0]
    assert "".join(errors[1:]).count("epoch") == 0
    # A finished run is read by all.
    errors = train_in(tmp_path, official_folder, count, "many", **arguments)
    assert "is finished; this is its result" in errors[0]


@pytest.mark.slow
def test_processes_that_differ_are_refused_before_the_first_step(
    official_folder, tmp_path
):
    with Processes(tmp_path, official_folder, 2) as two:
        other = ["--seed", "1", "--classes", "2", "--epochs", "3"]
        two.start(tmp_path / "run", process_1=other)
        statuses, errors = two.finish()
    assert statuses == [1, 1]
    for error in errors:
        assert "they differ in recipe, seed, classes, data. Start each" in error
        assert len([line for line in error.splitlines() if "decoding" not in line]) == 1
    assert not (tmp_path / "run").exists()


def test_each_thing_that_differs_is_named(monkeypatch):
    jax = pytest.importorskip("jax")
    from jax.experimental import multihost_utils

    gathered = []

    def allgather(own):
        gathered.append(own)
        return np.stack([gathered[0], own])

    for name, value in (("process", 2), ("local_device", 1), ("device", 2)):
        monkeypatch.setattr(jax, f"{name}_count", lambda value=value: value)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", allgather)
    values = {"version": "0.1.0", "recipe": {"epochs": 3}, "data": ("a1", "b2")}
    processes.agree(values)
    for name in values:
        with pytest.raises(ValueError, match=f"they differ in {name}. Start each"):
            processes.agree({**values, name: "another"})


@pytest.mark.slow
def test_process_0_that_cannot_begin_says_why_to_all(official_folder, tmp_path):
    (tmp_path / "notes.txt").write_text("a folder of other files")
    with Processes(tmp_path, official_folder, 2) as two:
        two.start(tmp_path)
        statuses, errors = two.finish()
    assert statuses == [1, 1]
    for error in errors:
        assert "`output` must be a new or empty folder" in error
        assert len([line for line in error.splitlines() if "decoding" not in line]) == 1


CONNECT = """
import sys
from keras_tinyalex import processes
processes.connect(2, int(sys.argv[1]), sys.argv[2], timeout=5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("process_id", [0, 1])
def test_process_that_never_comes(process_id):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "{}:{}".format(*server.getsockname())
    done = subprocess.run(
        [sys.executable, "-c", CONNECT, str(process_id), address],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode
    assert done.stderr == (
        f"keras-tinyalex: error: the processes did not all connect to {address} within "
        "5 seconds; start all of them, with the same coordinator\n"
    )


LAUNCHED = """
import jax
from keras_tinyalex import processes
processes.connect("auto")
print(jax.process_index(), jax.process_count(), processes.is_first())
"""


@pytest.mark.slow
def test_processes_that_open_mpi_starts():
    """Their variables as mpirun sets them, without mpirun."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", LAUNCHED],
            env={
                **os.environ,
                "KERAS_BACKEND": "jax",
                "JAX_COORDINATOR_PORT": port,
                "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
                "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_RANK": str(rank),
                "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    assert outputs == ["0 2 True\n", "1 2 False\n"]


def test_no_launcher(monkeypatch):
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHED],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    message = "`processes` must be a number, since this process was started neither by"
    assert message in done.stderr.splitlines()[-1]


LOST = f"keras-tinyalex: error: {processes.LOST}\n"
FATAL = "F0000 00:00 client.h:80] JAX distributed service detected fatal errors\n"
GRPC = "E0000 00:00 agent.cc:1] Lost\n:UNKNOWN {grpc_status:14}\n"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (FATAL, LOST),
        (LOST + GRPC + FATAL, LOST),
        (FATAL + GRPC + LOST, LOST),
        ("E0000 00:00 client.cc:1] INTERNAL: Barrier failed\n1\n" + LOST, LOST),
        ("I0000 00:00 a.cc:1] b\nFatal Python error: c\n", "Fatal Python error: c\n"),
        (GRPC + LOST, LOST),
        ("epoch 1/3\nI0000 00:00 cpu.cc:2] notice\n", "epoch 1/3\n"),
    ],
)
def test_that_a_process_is_lost_is_said_once(written, expected):
    done = subprocess.run(
        [sys.executable, "-c", processes.FILTER, "127.0.0.1:1", "5"],
        input=written,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == expected


@pytest.mark.backend
def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"`processes` must .* Received: processes=0"):
        processes.connect(0, 0)
    with pytest.raises(ValueError, match="`process_id` must be below `processes`, 2"):
        processes.connect(2, 2)
    with pytest.raises(ValueError, match="`coordinator` must be HOST:PORT"):
        processes.connect(2, 0, "somewhere")
    if keras.backend.backend() != "jax":
        with pytest.raises(ValueError, match="set KERAS_BACKEND=jax to train in sev"):
            processes.connect(2, 0)
