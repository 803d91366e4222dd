"""Decoded images on disk, so that they are decoded once a machine.

The key is made of everything that decides the pixels: for a zip the checksums in
its directory, for a folder the names, sizes and times of its files. Entries are
memory-mapped, not read; delete the folder at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_tinyalex.datasets.layout import LabelledImage, Source
from keras_tinyalex.files import written_whole

Images = npt.NDArray[np.uint8]
# Part of each key: count it up when images come to be decoded otherwise.
VERSION = 1
# Seconds after which nobody writes to an unfinished entry any more.
STALE = 3600


def cache_folder() -> Path:
    """Returns where decoded images are kept, under `KERAS_HOME` or `~/.keras`."""
    home = os.environ.get("KERAS_HOME") or "~/.keras"
    return Path(home).expanduser() / "keras_tinyalex" / "decoded"


def decoded(
    source: Source,
    images: Sequence[LabelledImage],
    image_size: tuple[int, int],
    decode: Callable[[], Iterable[Images]],
) -> Images:
    """Returns the pixels of `images`, from the cache where they are there.

    Args:
        source: Where the images are.
        images: What to decode.
        image_size: `(height, width)` in pixels.
        decode: Decodes them: gives uint8 arrays `(n, height, width, 3)`, as they
            follow each other.

    Returns:
        uint8 array `(N, height, width, 3)`, memory-mapped and read-only, or in
        memory where the cache cannot be written.
    """
    shape = (len(images), *image_size, 3)
    path = cache_folder() / f"{_key(source, images, image_size)}.npy"
    if (pixels := _mapped(path, shape)) is None:
        with contextlib.suppress(OSError):  # a full or read-only disk
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_left(path.parent)
            with written_whole(path, several=True) as file:
                head = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, head)
                for some in decode():
                    file.write(some.data)
            pixels = _mapped(path, shape)
    # It works without the cache, only slower.
    return joined(decode(), shape) if pixels is None else pixels


def joined(parts: Iterable[Images], shape: tuple[int, ...]) -> Images:
    """Returns the parts as one array of this shape, in memory."""
    images = np.empty(shape, np.uint8)
    done = 0
    for part in parts:
        images[done : done + len(part)] = part
        done += len(part)
    return images


def _mapped(path: Path, shape: tuple[int, ...]) -> Images | None:
    with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or damaged
        images: Images = np.load(path, mmap_mode="r", allow_pickle=False)
        if images.shape == shape and images.dtype == np.uint8:
            return images
    return None


def _key(
    source: Source, images: Sequence[LabelledImage], image_size: tuple[int, int]
) -> str:
    digest = hashlib.sha256(f"{VERSION} {image_size}".encode())
    # One by one: a list of so many tuples wakes the garbage collector, for longer
    # than all the rest takes.
    for image in images:
        digest.update(repr((image.name, *source.stamp(image))).encode())
    return digest.hexdigest()[:32]


def _remove_left(folder: Path) -> None:
    """Removes what a run that was killed has left, once nobody writes to it."""
    for left in folder.glob("*.part-*"):
        if time.time() - left.stat().st_mtime > STALE:
            left.unlink(missing_ok=True)
