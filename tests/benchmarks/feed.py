"""Measures the batches of a decoded set that may be larger than the memory.

    KERAS_BACKEND=jax python tests/benchmarks/feed.py 10000 1300000

Writes sets of so many 64 x 64 images of noise, as `datasets.cache` does, into a
temporary folder: 12,288 bytes an image, 16 GB for 1.3 million. Each is read by a
process of its own, which maps it, computes its digest and shuffles it. The second rate
is of images that the system no longer holds in its memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHAPE = (64, 64, 3)
BLOCK = 10_000
BATCH = 128
CLASSES = 1000


def write(path, count):
    """Blocks of noise, each with its number in it."""
    noise = np.random.default_rng(0).integers(0, 256, (BLOCK, *SHAPE), np.uint8)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *SHAPE)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, BLOCK):
            noise[:, 0, 0, 0] = start // BLOCK % 256
            file.write(noise[: count - start].data)


def read(path, batches):
    path = Path(path)
    start = time.perf_counter()
    from keras_tinyalex import runs
    from keras_tinyalex.datasets.batches import Batches, LabelledArrays

    imported = time.perf_counter()
    before = memory("VmRSS")
    images = np.load(path, mmap_mode="r")
    names = tuple(f"class{n // 1000}/{n}.png" for n in range(len(images)))
    classes = tuple(f"class{n}" for n in range(CLASSES))
    data = LabelledArrays(images, np.arange(len(images)) % CLASSES, classes, names)
    runs.data_digest(data)
    digested = time.perf_counter()
    feed = Batches(data, BATCH, seed=0, augmentation="crop_flip_cutout")
    feed[0]
    first = time.perf_counter()
    rates = {}
    for name in ("images_per_s", "images_per_s_from_disk"):
        if name.endswith("disk"):  # as if the set were larger than all memory
            with path.open("rb") as file:
                os.fsync(file)
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begun = time.perf_counter()
        for index in range(batches):
            feed[(index if name == "images_per_s" else -1 - index) % len(feed)]
        rates[name] = batches * BATCH / (time.perf_counter() - begun)
    figures = {
        "images": len(images),
        "import_s": imported - start,
        "digest_s": digested - imported,
        "first_batch_s": first - digested,
        **rates,
        "peak_mb": memory("VmHWM") / 1000,
        "before_data_mb": before / 1000,
        "load": os.getloadavg()[0],
    }
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


def memory(name):
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def main(counts, batches=300):
    with tempfile.TemporaryDirectory() as folder:
        for count in map(int, counts):
            path = Path(folder, f"{count}.npy")
            write(path, count)
            command = [sys.executable, __file__, str(path), str(batches)]
            subprocess.run(command, check=True)
            path.unlink()


if __name__ == "__main__":
    if sys.argv[1].endswith(".npy"):
        read(sys.argv[1], int(sys.argv[2]))
    else:
        main(sys.argv[1:])
