"""Several processes that train one model, by `jax.distributed`.

All train; process 0 alone reads and writes the run folder, and gives the others a copy
of what is in it when they begin.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tinyalex.arguments import check_integer

# Loopback: other machines cannot reach it.
COORDINATOR = "127.0.0.1:29571"
# For which `connect` waits for the other processes.
CONNECT_SECONDS = 120
# After which a process that cannot be reached counts as ended.
HEARTBEAT_SECONDS = 60
LOST = (
    "another process of this training has ended or cannot be reached; start the same "
    "command in all processes to resume from the last checkpoint"
)
# Reads what libraries, and `fail`, write to standard error, in a process that outlives
# theirs. That a process is lost may be told by any of them, or by JAX as it ends the
# process: it is said once.
FILTER = f"""
import sys
alone, said, logged = b"", False, False
for line in sys.stdin.buffer:
    if b"JAX distributed service detected fatal errors" in line:
        alone = line + sys.stdin.buffer.read()
    elif line[:1] in b"IWEF" and line[1:5].isdigit() or b"absl::Init" in line:
        logged = True
    # What is logged may be of several lines.
    elif not logged or line.startswith((b"keras-tinyalex", b"Fatal", b"Traceback")):
        logged = False
        said = said or {LOST.encode()!r} in line
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
if b"RegisterTask" in alone:
    print("keras-tinyalex: error: the processes did not all connect to", sys.argv[1],
          "within", sys.argv[2], "seconds; start all of them, with the same "
          "coordinator", file=sys.stderr)
elif alone and not said:
    print("keras-tinyalex: error:", {LOST!r}, file=sys.stderr)
"""


def connect(
    processes: int | str,
    process_id: int | None = None,
    coordinator: str = COORDINATOR,
    timeout: int = CONNECT_SECONDS,
) -> None:
    """Connects this process with the others, so that `train` trains with them.

    Call it in each process before JAX computes anything. Messages of JAX that the
    connection is lost, which end the process, are replaced by one line.

    Args:
        processes: Number of processes; with 1, nothing is done. `"auto"` takes it,
            and the next two, from the variables of SLURM's `srun` or Open MPI's
            `mpirun`, as `jax.distributed` reads them.
        process_id: Number of this one, from 0.
        coordinator: `HOST:PORT` of process 0, where it listens and to which the
            others connect. There is no authentication or encryption: use a private
            network. Defaults to a port of the loopback address.
        timeout: Seconds to wait for the other processes. Defaults to 120.

    Raises:
        ValueError: If an argument is out of its range, or the backend is not JAX.
        OSError: If process 0 cannot listen at `coordinator`.
    """
    place: dict[str, Any] = {}
    if processes != "auto":
        place = _place(processes, process_id, coordinator)
    backend = keras.backend.backend()
    if backend != "jax" and processes != 1:
        raise ValueError(
            f"`processes` must be 1 on the backend {backend}: set KERAS_BACKEND=jax to "
            f"train in several. Received: processes={processes!r}"
        )
    if processes == 1:
        return
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # type: ignore[no-untyped-call]
    _filter_messages(coordinator if place else "process 0", timeout)
    try:
        jax.distributed.initialize(
            **place,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        raise OSError(
            f"`coordinator` must be an address where process 0 can listen ({error}). "
            f"Received: coordinator={coordinator!r}"
        ) from error
    except ValueError as error:  # `initialize` has found no launcher
        raise ValueError(
            "`processes` must be a number, since this process was started neither by "
            f"srun nor by mpirun ({error}) Received: processes={processes!r}"
        ) from error


def _place(
    processes: int | str, process_id: int | None, coordinator: str
) -> dict[str, Any]:
    """Checks the place of this process; returns arguments of `initialize`."""
    processes = check_integer("processes", processes)
    process_id = check_integer("process_id", process_id, minimum=0)
    if process_id >= processes:
        raise ValueError(
            f"`process_id` must be below `processes`, {processes}. "
            f"Received: process_id={process_id}"
        )
    host, _, port = str(coordinator).rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"`coordinator` must be HOST:PORT. Received: coordinator={coordinator!r}"
        )
    return {
        "coordinator_address": coordinator,
        "num_processes": processes,
        "process_id": process_id,
        "coordinator_bind_address": coordinator,
    }


def _filter_messages(coordinator: str, timeout: int) -> None:
    """Leads what libraries write to standard error through `FILTER`."""
    sys.stderr.flush()
    console = os.dup(2)
    reader = subprocess.Popen(
        [sys.executable, "-c", FILTER, coordinator, str(timeout)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=console,
        start_new_session=True,  # an interrupt is not for it
    )
    assert reader.stdin
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()
    reader.returncode = 0  # it ends after this process, which must not wait for it
    if sys.stderr is sys.__stderr__:
        sys.stderr = os.fdopen(console, "w", buffering=1, errors="backslashreplace")


@contextlib.contextmanager
def filtered() -> Iterator[None]:
    """Leads what Python writes to standard error through `FILTER`, too."""
    with (
        os.fdopen(os.dup(2), "w", errors="backslashreplace") as stream,
        contextlib.redirect_stderr(stream),
    ):
        yield


def count() -> int:
    """Returns the number of processes that train together."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return int(jax.process_count())


def is_first() -> bool:
    """Whether this process writes the run folder and reports."""
    if count() == 1:
        return True
    import jax

    return bool(jax.process_index() == 0)


@contextlib.contextmanager
def lost_is_one_line() -> Iterator[None]:
    """Raises `OSError` where an operation of all processes fails in one of them."""
    try:
        yield
    except Exception as error:
        words = ("Gloo", "NCCL", "oordination", "Connection reset", "heartbeat")
        if count() > 1 and any(word in str(error) for word in words):
            raise OSError(LOST) from error
        raise


def agree(values: Mapping[str, Any]) -> None:
    """Refuses to train unless all processes have the same values.

    Args:
        values: By their names for the message, the same names in all processes.

    Raises:
        ValueError: In all processes, if a value is not the same.
    """
    if count() == 1:
        return
    import jax
    from jax.experimental import multihost_utils

    if jax.device_count() != jax.process_count() * jax.local_device_count():
        raise ValueError(
            "all processes must have the same number of devices; "
            f"this one has {jax.local_device_count()} of {jax.device_count()}"
        )
    digests = [
        hashlib.sha256(repr(value).encode()).digest() for value in values.values()
    ]
    own = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    gathered = np.asarray(multihost_utils.process_allgather(own))
    same = (gathered == gathered[:1]).all(axis=(0, 2))
    different = [name for name, equal in zip(values, same, strict=True) if not equal]
    if different:
        raise ValueError(
            f"all processes must train the same, but they differ in "
            f"{', '.join(different)}. Start each with the same version, data and "
            "options"
        )


@contextlib.contextmanager
def one_folder(begun: AbstractContextManager[Path]) -> Iterator[Path]:
    """Gives process 0 the run folder, and the others a temporary copy of it.

    Args:
        begun: Locks and begins the run folder, for process 0.

    Raises:
        OSError: In the other processes, if process 0 cannot begin.
    """
    if count() == 1:
        with begun as folder:
            yield folder
    elif is_first():
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(begun)
            except Exception as error:
                _broadcast(f"process 0 cannot begin: {error}".encode())
                raise
            _broadcast(_packed(folder))
            yield folder
    else:
        content = _broadcast(b"")
        if not content.startswith(b"PK"):
            raise OSError(content.decode())
        with tempfile.TemporaryDirectory() as copy:
            zipfile.ZipFile(io.BytesIO(content)).extractall(copy)
            yield Path(copy)


def _packed(folder: Path) -> bytes:
    """What another process needs of a run folder, as a zip."""
    names = ["*.json", "history.csv", "model.keras", "checkpoints/*.npz"]
    if (folder / "metrics.json").exists():  # finished
        names.pop()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(path for name in names for path in folder.glob(name)):
            archive.write(path, path.relative_to(folder))
    return content.getvalue()


def _broadcast(content: bytes) -> bytes:
    """Returns the content of process 0 in all processes."""
    from jax.experimental import multihost_utils

    size = multihost_utils.broadcast_one_to_all(np.array([len(content)], np.int32))
    padded = np.zeros(int(size[0]), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()
