"""Decoded images on disk, so that they are decoded once a machine.

The key is made of everything that decides the pixels: for a zip the checksums in
its directory, for a folder the names, sizes and times of its files. Entries are
memory-mapped, not read; delete the folder at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_tinyalex.datasets.layout import LabelledImage, Source

Images = npt.NDArray[np.uint8]
# Part of each key: count it up when images come to be decoded otherwise.
VERSION = 1


def cache_folder() -> Path:
    """Returns where decoded images are kept, under `KERAS_HOME` or `~/.keras`."""
    home = os.environ.get("KERAS_HOME") or "~/.keras"
    return Path(home).expanduser() / "keras_tinyalex" / "decoded"


def decoded(
    source: Source,
    images: Sequence[LabelledImage],
    image_size: tuple[int, int],
    decode: Callable[[Images], None],
) -> Images:
    """Returns the pixels of `images`, from the cache where they are there.

    Args:
        source: Where the images are.
        images: What to decode.
        image_size: `(height, width)` in pixels.
        decode: Fills a uint8 array `(N, height, width, 3)`.

    Returns:
        That array, memory-mapped and read-only, or in memory where the cache
        cannot be written.
    """
    shape = (len(images), *image_size, 3)
    path = cache_folder() / f"{_key(source, images, image_size)}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or damaged
        cached: Images = np.load(path, mmap_mode="r", allow_pickle=False)
        if cached.shape == shape and cached.dtype == np.uint8:
            return cached
    pixels = np.empty(shape, np.uint8)
    decode(pixels)
    # A full or read-only disk: it works without, only slower.
    with contextlib.suppress(OSError, ValueError):
        with _aside(path) as aside:
            np.save(aside, pixels)
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels


def _key(
    source: Source, images: Sequence[LabelledImage], image_size: tuple[int, int]
) -> str:
    stamps = [(image.name, *source.stamp(image)) for image in images]
    text = json.dumps([VERSION, image_size, stamps])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.stem}-{uuid.uuid4().hex}.part.npy")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
