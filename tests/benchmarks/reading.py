"""Measures what the JPEG header parser and the paused garbage collector save.

    python tests/benchmarks/reading.py tiny-imagenet-20.zip

Decodes the zip's training images, and opens a folder of 110,000 files.
"""

import os
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow  # noqa: F401, the garbage collector visits its objects
from measure import paired

from keras_tinyalex.datasets import images, layout


def decode(chunks, threads, decoder):
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda chunk: [decoder(data) for data in chunk], chunks))


def open_image(data):
    return np.asarray(images._decode_any(data))


def decoding(archive):
    with zipfile.ZipFile(archive) as file:
        names = (n for n in file.namelist() if "/train/" in n and ".JPEG" in n)
        data = [file.read(name) for name in names]
    chunks = [data[start : start + 64] for start in range(0, len(data), 64)]
    for threads in (1, 2):
        ours = partial(decode, chunks, threads, images.decode_image)
        theirs = partial(decode, chunks, threads, open_image)
        paired(f"decode, threads: {threads}", "Image.open", ours, theirs, rounds=5)


def opening(root):
    for folder in (root / "train" / f"n{label:08}" for label in range(200)):
        folder.mkdir(parents=True)
        for index in range(550):
            (folder / f"{index}.JPEG").touch()
    ours = partial(layout.open_source, root)
    theirs = partial(layout.open_source.__wrapped__, root)
    paired("open 110,000 files", "with the garbage collector", ours, theirs, rounds=7)


if __name__ == "__main__":
    decoding(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        opening(Path(folder))
