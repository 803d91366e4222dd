"""A cache of decoded images on disk, so that each machine decodes them once.

An entry's key is a hash of everything that decides the pixels: the checksums in
the directory of a zip; or the place of a folder, and the names, sizes, inodes and
times of its files. Entries are memory-mapped: whoever reads one from end to end lets
go of it in between, so that it need not fit into memory. You may delete the folder at
any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import Images
from keras_tinyalex.datasets.source import LabelledImage, Source
from keras_tinyalex.files import atomic_write, keras_home, one_at_a_time

# Part of each key: raise it when images are decoded to other pixels.
VERSION = 2
# Bytes of mapped images that a process reads before it lets go of them.
BLOCK_BYTES = 1 << 26
# Age in seconds from which an unfinished entry is taken for a killed process's.
STALE_SECONDS = 3600


def cache_folder() -> Path:
    """Returns the folder of decoded images, under `KERAS_HOME` or `~/.keras`."""
    return keras_home() / "keras_tinyalex" / "decoded"


def load_or_decode(
    source: Source,
    images: Sequence[LabelledImage],
    image_shape: tuple[int, int, int],
    decode: Callable[[], Iterable[Images]],
) -> Images:
    """Returns the pixels of `images` from the cache, which it fills if needed.

    Args:
        source: The source of the images.
        images: The images to decode.
        image_shape: `(height, width, channels)`.
        decode: Returns the pixels in the order of `images`, as chunks: uint8
            arrays `(n, *image_shape)`. Called on a cache miss only.

    Returns:
        uint8 array `(N, *image_shape)`: memory-mapped and read-only, or
        in memory if the cache cannot be written.
    """
    shape = (len(images), *image_shape)
    path = cache_folder() / f"{_key(source, images, image_shape)}.npy"
    pixels = _open_entry(path, shape)
    if pixels is None:
        with contextlib.suppress(OSError):  # a full or read-only disk
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(path.parent)
            with one_at_a_time(Path(f"{path}.lock")):
                pixels = _open_entry(path, shape)  # another process may have written it
                if pixels is None:
                    _write_entry(path, shape, decode())
                    pixels = _open_entry(path, shape)
    # Without the cache it works, only slower.
    return concatenate(decode(), shape) if pixels is None else pixels


def concatenate(chunks: Iterable[Images], shape: tuple[int, ...]) -> Images:
    """Returns the chunks as one array of this shape, in memory."""
    images = np.empty(shape, np.uint8)
    done = 0
    for chunk in chunks:
        images[done : done + len(chunk)] = chunk
        done += len(chunk)
    return images


def blocks(images: Images) -> Iterator[Images]:
    """Yields consecutive parts of images, and lets go of each after its use."""
    count = max(1, BLOCK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), count):
        yield images[start : start + count]
        release(images)


def release(images: Images) -> None:
    """Removes mapped images from the memory of this process.

    They stay in the memory of the system as long as it has room, and are read
    again when used. Arrays that are not mapped stay as they are.
    """
    if memory := _mapped(images):
        memory.madvise(mmap.MADV_DONTNEED)


def read_ahead(images: Images, chosen: npt.NDArray[np.int64]) -> None:
    """Lets the system read mapped images from disk all at once.

    It would read them one after the other, each when its memory is used, and much of
    the file around it: a twentieth of the images a second.

    Args:
        images: Arrays that are not mapped stay as they are.
        chosen: Indices of the images that are used next.
    """
    if memory := _mapped(images):
        start = images.ctypes.data - np.frombuffer(memory, np.uint8).ctypes.data
        size = images.strides[0]
        for offset in (start + size * chosen).tolist():
            page = offset % mmap.PAGESIZE
            memory.madvise(mmap.MADV_WILLNEED, offset - page, page + size)


def _mapped(images: Images) -> mmap.mmap | None:
    """Returns the mapped memory of images, where the system takes advice on it."""
    base: object = images
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        return base
    return None  # as on Windows


def _write_entry(path: Path, shape: tuple[int, ...], chunks: Iterable[Images]) -> None:
    with atomic_write(path, concurrent=True) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(chunk.data)


def _open_entry(path: Path, shape: tuple[int, ...]) -> Images | None:
    with contextlib.suppress(OSError, ValueError, EOFError):  # missing or damaged
        images: Images = np.load(path, mmap_mode="r", allow_pickle=False)
        if images.shape == shape and images.dtype == np.uint8:
            return images
    return None


def _key(
    source: Source, images: Sequence[LabelledImage], image_shape: tuple[int, int, int]
) -> str:
    start = VERSION, image_shape, source.tree.identity
    digest = hashlib.sha256(repr(start).encode())
    # One image at a time: a list of as many tuples triggers garbage collections
    # that take longer than everything else here.
    for image in images:
        digest.update(repr((image.name, *source.fingerprint(image))).encode())
    return digest.hexdigest()[:32]


def _remove_stale(folder: Path) -> None:
    """Removes the unfinished entries of processes that were killed."""
    for path in folder.glob("*.part-*"):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            path.unlink(missing_ok=True)
