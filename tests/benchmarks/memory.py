"""The training step where freed memory is kept, as `train` does, and where it is not.

What glibc does with freed memory cannot be set back, so each has processes of its
own, by turns: 3 of each unless BENCHMARK_PROCESSES says another number.
"""

import os
import statistics
import subprocess
import sys

import keras
from measure import row, seconds
from step import epoch_of, images, our_batches, ours

from keras_tinyalex.building import keep_freed_memory

PROCESSES = int(os.environ.get("BENCHMARK_PROCESSES", "3"))


def step_seconds(batch_size):
    """The median of three epochs, behind one that compiles."""
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
