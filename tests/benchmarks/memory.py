"""Compares the training step with kept freed memory, as in `train`, and without.

    KERAS_BACKEND=jax python tests/benchmarks/memory.py

A process cannot undo what it has set in glibc, so each measurement has its own
process. They alternate: 3 of each, or as many as BENCHMARK_PROCESSES says.
"""

import os
import statistics
import subprocess
import sys

import keras
from measure import row, seconds
from step import epoch_of, images, our_batches, ours

from keras_tinyalex.machine import keep_freed_memory

PROCESSES = int(os.environ.get("BENCHMARK_PROCESSES", "3"))


def step_seconds(batch_size):
    """The median of three epochs, after one that compiles."""
    x, y = images(512)
    epoch = epoch_of(ours("float32"), our_batches(x, y, batch_size))
    epoch()
    return statistics.median(seconds(epoch) for _ in range(3)) * batch_size / len(x)


def in_a_process(batch_size, kept):
    command = [sys.executable, __file__, str(batch_size), kept]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main():
    for batch_size in (16, 128):
        times = [
            [in_a_process(batch_size, kept) for kept in ("kept", "returned")]
            for _ in range(PROCESSES)
        ]
        row(
            f"training step, batch {batch_size}, {keras.backend.backend()}",
            "freed memory returned",
            ratio=statistics.median(returned / kept for kept, returned in times),
            ours_ms=statistics.median(kept for kept, _ in times) * 1e3,
            theirs_ms=statistics.median(returned for _, returned in times) * 1e3,
            rounds=PROCESSES,
        )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        if sys.argv[2] == "kept":
            keep_freed_memory()
        print(step_seconds(int(sys.argv[1])))
