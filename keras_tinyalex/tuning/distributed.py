"""KerasTuner's chief and workers, with heartbeats.

The protocol is KerasTuner's own: gRPC without authentication or encryption. Its
server and client are private, and used in this file only. Heartbeats are files in the
folder that all processes share.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from keras_tinyalex.tuning.oracles import Oracle

DEFAULT_ADDRESS = "127.0.0.1:9090"
# Seconds between two heartbeats.
HEARTBEAT = 1.0
# Seconds without an answer after which a worker takes the chief for dead, and for
# which it waits for a chief that is starting.
CHIEF_TIMEOUT = 5.0
CHIEF_START_TIMEOUT = 60.0


@dataclass(frozen=True)
class Role:
    """What this process does in a search.

    Attributes:
        chief: Whether it hands out the trials.
        worker: Its name as a worker, or `None`. A process that is neither
            searches alone.
        host: Host on which the chief listens.
        port: Port of the chief.
    """

    chief: bool
    worker: str | None
    host: str
    port: int

    @property
    def address(self) -> str:
        """Host and port as one text."""
        return f"{self.host}:{self.port}"


def find_role(chief: bool, worker: str | None, address: str | None) -> Role:
    """Returns the role from arguments, or from KerasTuner's environment variables.

    Raises:
        ValueError: If arguments contradict each other or are out of range.
    """
    environment = os.environ
    if not chief and worker is None and "KERASTUNER_ORACLE_IP" in environment:
        name = environment.get("KERASTUNER_TUNER_ID", "")
        port = environment.get("KERASTUNER_ORACLE_PORT", "")
        if not name or not port:
            raise ValueError(
                "The environment variable KERASTUNER_ORACLE_IP needs "
                "KERASTUNER_TUNER_ID ('chief' or a worker's name) and "
                "KERASTUNER_ORACLE_PORT, too."
            )
        chief = "chief" in name
        worker = None if chief else name
        address = f"{environment['KERASTUNER_ORACLE_IP']}:{port}"
    if chief and worker is not None:
        raise ValueError(
            "A process is the chief or a worker, not both. "
            f"Received: chief=True, worker={worker!r}"
        )
    if worker is not None and (not worker or not worker.replace("-", "").isalnum()):
        raise ValueError(
            "`worker` must be a name of letters, digits and hyphens, a different one "
            f"for each worker. Received: worker={worker!r}"
        )
    if worker is not None and "chief" in worker:
        raise ValueError(
            "`worker` must not contain 'chief', KerasTuner's name for the chief. "
            f"Received: worker={worker!r}"
        )
    host, _, port = (address or DEFAULT_ADDRESS).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(
            f"`oracle` must be HOST:PORT, e.g. {DEFAULT_ADDRESS}. "
            f"Received: oracle={address!r}"
        )
    return Role(chief, worker, host, int(port))


def serve(
    oracle: Oracle, role: Role, folder: Path, deadline: float, progress: bool
) -> None:
    """Hands out trials until all have ended.

    Args:
        oracle: The oracle.
        role: The chief's role.
        folder: Of the search.
        deadline: Seconds without a heartbeat after which a worker's trial goes
            to another worker, and without any worker the search ends.
        progress: Whether to report on standard error.

    Raises:
        OSError: If the port is taken.
        TimeoutError: If there was no heartbeat for `deadline` seconds.
    """
    import grpc
    from keras_tuner.src import protos
    from keras_tuner.src.distribute.oracle_chief import OracleServicer

    if len(oracle.end_order) == oracle.max_trials:
        return
    servicer = OracleServicer(oracle)
    # With SO_REUSEPORT two chiefs could share a port.
    options = [("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(max_workers=1), options=options)
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    try:
        server.add_insecure_port(role.address)
    except RuntimeError as error:
        raise OSError(
            f"Cannot listen on {role.address}: is another chief running there? Choose "
            f"another port with `oracle`. ({error})"
        ) from error
    server.start()
    if progress:
        print(f"chief: waiting for workers on {role.address}", file=sys.stderr)
    heartbeats = Heartbeats(folder)
    try:
        while not (servicer.stop_triggered and not oracle.tuner_ids):
            time.sleep(HEARTBEAT / 2)
            silence = heartbeats.silence()
            for worker in {*oracle.tuner_ids, *oracle.ongoing_trials}:
                if silence.get(worker, heartbeats.waited()) > deadline:
                    trial_id = oracle.requeue_trial(worker)
                    if progress and trial_id is not None:
                        print(
                            f"chief: no heartbeat of worker {worker} for "
                            f"{deadline:.0f} s; trial {trial_id} goes to another",
                            file=sys.stderr,
                        )
            if min(silence.values(), default=heartbeats.waited()) > deadline:
                if not servicer.stop_triggered or oracle._retry_queue:
                    raise TimeoutError(_unfinished(oracle, deadline))
                break
    finally:
        # Workers still wait for the answer that tells them to stop.
        server.stop(grace=2).wait()


def _unfinished(oracle: Oracle, deadline: float) -> str:
    return (
        f"No heartbeat of any worker for {deadline:.0f} s: the search ends with "
        f"{len(oracle.end_order)} of {oracle.max_trials} trials done. To resume, start "
        "the chief and the workers again with the same commands."
    )


class Heartbeats:
    """How long each worker has been silent.

    Compares the times of files with each other, not with this machine's clock.

    Args:
        folder: Of the search.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "workers"
        self._begin = time.monotonic()
        # Files that were there before may be of dead workers.
        self._seen = {name: (beat, self._begin) for name, beat in self._beats().items()}
        self._alive: set[str] = set()

    def silence(self) -> dict[str, float]:
        """Returns seconds since the last heartbeat of each worker."""
        now = time.monotonic()
        for name, beat in self._beats().items():
            if self._seen.get(name, (None,))[0] != beat:
                self._seen[name] = (beat, now)
                self._alive.add(name)
        return {name: now - self._seen[name][1] for name in self._alive}

    def waited(self) -> float:
        """Returns seconds since the chief started."""
        return time.monotonic() - self._begin

    def _beats(self) -> dict[str, int]:
        return {p.name: p.stat().st_mtime_ns for p in self.folder.glob("*")}


@contextlib.contextmanager
def connected(role: Role, folder: Path) -> Iterator[None]:
    """Connects a worker with its chief while the body runs.

    Writes heartbeats, and interrupts the body within seconds if the chief no
    longer answers. KerasTuner's client would notice after an hour.

    Raises:
        ConnectionError: If the chief does not answer.
    """
    import grpc

    assert role.worker is not None
    lost = threading.Event()
    ended = threading.Event()
    heartbeat = folder / "workers" / role.worker
    heartbeat.parent.mkdir(exist_ok=True)
    if not _chief_answers(role, CHIEF_START_TIMEOUT):
        raise ConnectionError(_no_chief(role, CHIEF_START_TIMEOUT))

    def watch() -> None:
        while not ended.wait(HEARTBEAT):
            heartbeat.write_text(str(os.getpid()))
            if not _chief_answers(role, CHIEF_TIMEOUT) and not ended.is_set():
                lost.set()
                _thread.interrupt_main()
                return

    thread = threading.Thread(target=watch, daemon=True)
    heartbeat.write_text(str(os.getpid()))
    thread.start()
    names = ("TUNER_ID", role.worker), ("ORACLE_IP", role.host)
    wanted = {f"KERASTUNER_{name}": value for name, value in names}
    wanted["KERASTUNER_ORACLE_PORT"] = str(role.port)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    # Background jobs of a script ignore SIGINT, and so `interrupt_main`.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, grpc.RpcError) as error:
        if lost.is_set() or isinstance(error, grpc.RpcError):
            raise ConnectionError(_no_chief(role, CHIEF_TIMEOUT)) from None
        raise
    finally:
        ended.set()
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _chief_answers(role: Role, timeout: float) -> bool:
    """Whether the chief accepts a connection within `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((role.host, role.port), timeout=timeout).close()
            return True
        except OSError:
            if time.monotonic() > end:
                return False
            time.sleep(HEARTBEAT / 2)


def _no_chief(role: Role, timeout: float) -> str:
    return (
        f"The chief at {role.address} has not answered for {timeout:.0f} s. If its "
        "search is not finished, start it again with the same command, then this "
        "worker: the trial resumes from its last checkpoint."
    )
