"""Processes of one training, of which one is killed at random moments."""

import random
import signal
import statistics
import time

import pytest
from process_helpers import Processes, train_in, weights_of

from keras_tinyalex import processes

pytestmark = pytest.mark.faults

KILLS = 20
EPOCHS = 500


def test_any_process_killed_at_random_moments(
    tmp_path, make_official_folder, wait_for, figure
):
    data = make_official_folder(tmp_path / "data")
    train_in(tmp_path, data, 2, "uninterrupted", epochs=EPOCHS)
    chosen = random.Random(0)
    checkpoints = tmp_path / "killed" / "checkpoints"
    starting, waited, victims = 0.0, [], []
    for kill in range(KILLS):
        before = newest(checkpoints)
        with Processes(tmp_path, data, 2, epochs=EPOCHS) as two:
            begin = time.monotonic()
            started = two.start(tmp_path / "killed")
            if kill % 4 == 3:  # while they start, connect and compile
                time.sleep(chosen.uniform(0, starting))
            else:
                wait_for(lambda before=before: newest(checkpoints) > before, 1800)
                starting = time.monotonic() - begin
                time.sleep(chosen.uniform(0, 0.5))
            victim = chosen.randrange(2)
            assert started[victim].poll() is None, "it ended before its kill"
            started[victim].send_signal(signal.SIGKILL)
            begin = time.monotonic()
            _, error = started[1 - victim].communicate(timeout=300)
            waited.append(time.monotonic() - begin)
        victims.append(victim)
        print(f"{kill}: {victim} after {newest(checkpoints)}, {waited[-1]:.1f} s")
        assert started[1 - victim].returncode
        lines = [line for line in error.splitlines() if "error" in line]
        assert len(lines) == 1, error
        assert "the processes did not all connect" in error or processes.LOST in error
        assert "Traceback" not in error
        assert "stack trace" not in error
    killed_at = newest(checkpoints)
    train_in(tmp_path, data, 2, "killed", epochs=EPOCHS)
    uninterrupted, killed = (
        weights_of(tmp_path / name) for name in ("uninterrupted", "killed")
    )
    assert (uninterrupted == killed).all()
    assert max(waited) < processes.CONNECT_SECONDS + processes.HEARTBEAT_SECONDS
    figure(
        "train",
        f"SIGKILL of one of two processes at {KILLS} random moments",
        f"process 0 {victims.count(0)} times; the other ended with one line after "
        f"{statistics.median(waited):.1f} s (median), {max(waited):.0f} s at most; "
        f"epoch {killed_at} of {EPOCHS} after the last kill; weights identical to "
        "those of the uninterrupted run",
    )


def newest(checkpoints):
    names = sorted(path.stem for path in checkpoints.glob("epoch-*.npz"))
    return int(names[-1].removeprefix("epoch-")) if names else 0
