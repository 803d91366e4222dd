"""Chief and workers: roles, heartbeats, and processes that are killed."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from keras_tinyalex import recipes
from keras_tinyalex.tuning import distributed
from keras_tinyalex.tuning.distributed import Heartbeats, Role, find_role


def test_roles():
    assert find_role(False, None, None) == Role(False, None, "127.0.0.1", 9090)
    assert find_role(True, None, "0.0.0.0:80").address == "0.0.0.0:80"
    assert find_role(False, "gpu-2", None).worker == "gpu-2"


def test_roles_of_keras_tuners_environment_variables(monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "10.0.0.1")
    with pytest.raises(ValueError, match="KERASTUNER_ORACLE_IP needs"):
        find_role(False, None, None)
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "8000")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    assert find_role(False, None, None) == Role(True, None, "10.0.0.1", 8000)
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "b")
    assert find_role(False, None, None) == Role(False, "b", "10.0.0.1", 8000)
    # arguments come first
    assert find_role(False, "c", "h:1") == Role(False, "c", "h", 1)


def test_heartbeats(tmp_path):
    folder = tmp_path / "workers"
    folder.mkdir()
    (folder / "dead").write_text("")
    heartbeats = Heartbeats(tmp_path)
    assert heartbeats.silence() == {}  # a file from before the chief started
    (folder / "a").write_text("")
    assert heartbeats.silence()["a"] < 0.1
    time.sleep(0.2)
    assert 0.2 <= heartbeats.silence()["a"] < 2
    os.utime(folder / "a", ns=(1, 1))  # any change counts, whatever the clock says
    assert heartbeats.silence()["a"] < 0.1
    assert heartbeats.silence().keys() == {"a"}


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_dead_chief_is_noticed_in_seconds(tmp_path, monkeypatch, handler):
    """The worker's body is interrupted, even where it only waits, or ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, handler)
    monkeypatch.setattr(distributed, "HEARTBEAT", 0.1)
    monkeypatch.setattr(distributed, "CHIEF_TIMEOUT", 0.5)
    server = socket.create_server(("127.0.0.1", 0))
    role = Role(False, "a", *server.getsockname())
    threading.Timer(0.5, server.close).start()
    begin = time.monotonic()
    lost = pytest.raises(ConnectionError, match=rf"{role.address} has not answered")
    try:
        with lost, distributed.connected(role, tmp_path):
            assert os.environ["KERASTUNER_TUNER_ID"] == "a"
            while time.monotonic() - begin < 5:
                time.sleep(0.05)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begin < 5
    assert "KERASTUNER_TUNER_ID" not in os.environ
    assert (tmp_path / "workers" / "a").exists()


def test_no_chief(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "CHIEF_START_TIMEOUT", 0.2)
    role = Role(False, "a", "127.0.0.1", free_port())
    with (
        pytest.raises(ConnectionError, match="has not answered for 0 s"),
        distributed.connected(role, tmp_path),
    ):
        pass


class Oracle(SimpleNamespace):
    """As much of an oracle as the chief looks at."""

    def __init__(self):
        super().__init__(
            tuner_ids={"a"},
            ongoing_trials={"a": SimpleNamespace(trial_id="0")},
            end_order=["1"],
            max_trials=2,
            _retry_queue=[],
        )

    def requeue_trial(self, worker):
        self.tuner_ids.discard(worker)
        self._retry_queue.append(self.ongoing_trials.pop(worker).trial_id)
        return self._retry_queue[-1]


def test_chief_requeues_the_trial_of_a_silent_worker(tmp_path, capsys):
    role = Role(True, None, "127.0.0.1", free_port())
    oracle = Oracle()
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"1 of 2 trials done.*same commands"):
        distributed.serve(oracle, role, tmp_path, deadline=1, progress=True)
    assert 1 < time.monotonic() - begin < 10
    assert oracle._retry_queue == ["0"]
    assert "worker a for 1 s; trial 0 goes to another" in capsys.readouterr().err


def test_chief_of_a_finished_search_does_not_wait(start, trained):
    found = start(max_trials=2)
    begin = time.monotonic()
    again = start(max_trials=2, chief=True, oracle=f"127.0.0.1:{free_port()}")
    assert again == found
    assert time.monotonic() - begin < 60  # the deadline is 600


def test_chief_says_that_the_port_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        role = Role(True, None, *server.getsockname())
        with pytest.raises(OSError, match=f"Cannot listen on {role.address}"):
            distributed.serve(Oracle(), role, tmp_path, deadline=1, progress=False)


class Processes:
    """Starts `keras-tinyalex tune` processes over one folder, and ends them all."""

    def __init__(self, folder, data, *options):
        self.folder = folder
        self.log = (folder.parent / "processes.log").open("a+")
        recipe = folder.parent / "narrow.json"
        recipes.Recipe("narrow", width_multiplier=1 / 16).save(recipe)
        self.command = [sys.executable, "-m", "keras_tinyalex", "tune"]
        self.command += ["--data", data, "--classes", "3", "--space", "augmentation"]
        self.command += ["--recipe", recipe, "--output", folder, *options]
        self.all = []

    def start(self, *options):
        process = subprocess.Popen(
            [str(part) for part in (*self.command, *options)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.all.append(process)
        return process

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.all:
            process.kill()
            process.wait()
            process.stdout.close()
        self.log.close()

    def errors(self):
        self.log.seek(0)
        return self.log.read()

    def rows(self):
        try:
            with (self.folder / "results.csv").open() as file:
                return list(csv.DictReader(file))
        except FileNotFoundError:
            return []

    def ended(self):
        return sum(row["status"] == "completed" for row in self.rows())

    def wait_for(self, condition, seconds=300):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.errors()
            time.sleep(0.1)


def hyperparameters(rows):
    names = ("trial", "status", "seed", "augmentation", "mixing", "val_accuracy")
    return [tuple(row[name] for name in names) for row in rows]


TRIALS = 12
OPTIONS = ("--tuner", "random", "--max-trials", str(TRIALS), "--epochs", "2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, make_official_folder):
    """The data, 12 trials of one process that nobody disturbed, and their seconds."""
    folder = tmp_path_factory.mktemp("alone")
    data = make_official_folder(folder / "data")
    with Processes(folder / "found", data, *OPTIONS) as processes:
        process = processes.start("--json")
        processes.wait_for(processes.rows)
        begin = time.monotonic()
        assert process.wait(900) == 0, processes.errors()
        result = json.loads(process.stdout.read().splitlines()[-1])
        assert result["completed"] == TRIALS
        seconds = time.monotonic() - begin
        return data, hyperparameters(processes.rows()), seconds


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_search_resumes(alone, tmp_path, seed):
    """SIGKILL at random moments until the search ends: the trials are the same."""
    data, expected, seconds = alone
    generator = np.random.default_rng(seed)
    kills = 0
    with Processes(tmp_path / "found", data, *OPTIONS) as processes:
        table = tmp_path / "found" / "results.csv"
        while True:
            table.unlink(missing_ok=True)
            process = processes.start()
            processes.wait_for(table.exists)
            try:
                # It has the time of two or three trials, then it dies.
                left = generator.uniform(0.1, 0.4) * seconds
                assert process.wait(left) == 0, processes.errors()
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        assert hyperparameters(processes.rows()) == expected
    assert kills > 0


@pytest.mark.slow
def test_chief_and_two_workers(alone, tmp_path):
    """12 trials, each once; a worker killed in a trial gets it back."""
    data, expected, _ = alone
    address = f"127.0.0.1:{free_port()}"
    with Processes(
        tmp_path / "found", data, *OPTIONS, "--oracle", address, "--deadline", "300"
    ) as processes:
        chief = processes.start("--chief", "--json")
        first = processes.start("--worker", "a")
        second = processes.start("--worker", "b")
        processes.wait_for(lambda: processes.ended() >= 3)
        first.send_signal(signal.SIGKILL)
        first.wait()
        first = processes.start("--worker", "a")
        for process in (first, second, chief):
            assert process.wait(600) == 0, processes.errors()
        assert hyperparameters(processes.rows()) == expected
        assert json.loads(chief.stdout.read().splitlines()[-1])["completed"] == TRIALS
        state = json.loads((tmp_path / "found" / "oracle.json").read_text())
        assert sorted(state["end_order"]) == [f"{i:02}" for i in range(TRIALS)]
        assert set(state["run_times"].values()) == {1}


@pytest.mark.slow
def test_all_killed_and_started_again(alone, tmp_path):
    data, expected, _ = alone
    address = f"127.0.0.1:{free_port()}"
    with Processes(
        tmp_path / "found", data, *OPTIONS, "--oracle", address
    ) as processes:
        roles = (("--chief",), ("--worker", "a"), ("--worker", "b"))
        started = [processes.start(*role) for role in roles]
        processes.wait_for(lambda: processes.ended() >= 4)
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.wait()
        ended = processes.ended()
        started = [processes.start(*role) for role in roles]
        for process in started:
            assert process.wait(600) == 0, processes.errors()
        assert hyperparameters(processes.rows()) == expected
    assert 4 <= ended < TRIALS


@pytest.mark.slow
def test_worker_that_does_not_come_back(alone, tmp_path):
    """The other one finishes its trial; a chief alone ends by the deadline."""
    data, expected, _ = alone
    address = f"127.0.0.1:{free_port()}"
    with Processes(
        tmp_path / "found", data, *OPTIONS, "--oracle", address, "--deadline", "10"
    ) as processes:
        chief = processes.start("--chief")
        dead = processes.start("--worker", "a")
        processes.wait_for(lambda: processes.ended() >= 2)
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        begin = time.monotonic()
        assert chief.wait(60) == 1
        assert 10 < time.monotonic() - begin < 40
        assert "keras-tinyalex: error: No sign of life" in processes.errors()
        begin = time.monotonic()
        left = processes.start("--chief"), processes.start("--worker", "b")
        for process in left:
            assert process.wait(600) == 0, processes.errors()
        assert hyperparameters(processes.rows()) == expected


@pytest.mark.slow
def test_dead_chief_stops_its_worker(alone, tmp_path):
    data, _, _ = alone
    address = f"127.0.0.1:{free_port()}"
    with Processes(
        tmp_path / "found", data, *OPTIONS, "--oracle", address
    ) as processes:
        chief = processes.start("--chief")
        worker = processes.start("--worker", "a")
        processes.wait_for(lambda: processes.ended() >= 1)
        chief.send_signal(signal.SIGKILL)
        chief.wait()
        begin = time.monotonic()
        assert worker.wait(60) == 1
        assert time.monotonic() - begin < 15
        assert f"The chief at {address} has not answered" in processes.errors()


@pytest.mark.slow
def test_workers_that_do_not_belong(alone, tmp_path, make_official_folder):
    """Other data, and a second worker of the same name."""
    data, _, _ = alone
    address = f"127.0.0.1:{free_port()}"
    other = make_official_folder(tmp_path / "other")
    next((other / "train").rglob("*.JPEG")).unlink()
    with Processes(
        tmp_path / "found", data, *OPTIONS, "--oracle", address
    ) as processes:
        processes.start("--chief")
        processes.start("--worker", "a")
        processes.wait_for(lambda: processes.ended() >= 1)
        twin = processes.start("--worker", "a")
        assert twin.wait(120) == 1
        assert "in use: another worker named a" in processes.errors()
        stranger = processes.start("--worker", "b", "--data", other)
        assert stranger.wait(120) == 1
        assert "train_sha256" in processes.errors()
