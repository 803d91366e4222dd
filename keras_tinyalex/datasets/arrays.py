"""The images of downsampled ImageNet, which are rows of arrays in .npz files.

Source: P. Chrabaszcz, I. Loshchilov and F. Hutter, "A downsampled variant of ImageNet
as an alternative to the CIFAR datasets" (2017, https://arxiv.org/abs/1707.08819).
"""

from __future__ import annotations

import functools
import io
import math
import re
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_tinyalex.aliases import Images
from keras_tinyalex.datasets.trees import Tree

# `train_data_batch_1.npz` to `train_data_batch_10.npz`, and `val_data.npz`.
BATCH = re.compile(r"(?:.*/)?(?:train|val)_data(?:_batch_\d+)?\.npz")
CHANNELS = 3
# Bytes of a header of a file inside a zip, before its name.
LOCAL_HEADER = 30


class _Batch(NamedTuple):
    """The images of one .npz file.

    Attributes:
        path: The file that holds the rows: it, or what was unpacked from it.
        start: Where in it the first row is, in bytes.
        size: Height and width in pixels. A row is the red, green and blue plane of
            an image, uint8.
        identity: What differs when the file is another one, or changes.
    """

    path: Path
    start: int
    size: int
    identity: tuple[int, ...]


class ArrayTree(Tree):
    """The images of .npz files, as if each were a BMP file in a folder of its class.

    Their names are, e.g., `train/0017/train_data_batch_1-000123.bmp` for row 123 with
    the label 17. A file is never read as a whole, but one row at a time. Compressed
    rows are first unpacked into a temporary file.

    Args:
        location: Path of the folder, or of one .npz file.
        names: Paths of the .npz files, relative to it.
        files: All files of the folder, as in `folders`.

    Raises:
        ValueError: If a file is not as those of downsampled ImageNet.
    """

    separator = "!"

    def __init__(
        self,
        location: Path,
        names: Sequence[str],
        files: dict[str, list[str]] | None = None,
    ) -> None:
        super().__init__(location)
        self.identity = str(location.resolve())
        taken = set(names)
        self.folders = {
            folder: [file for file in found if folder + file not in taken]
            for folder, found in {"": [], **(files or {})}.items()
        }
        self._paths: list[Path] = []
        self._batches: dict[str, _Batch] = {}
        self._unpacked: list[Any] = []
        for name in sorted(names):
            self._add(name)

    def _add(self, name: str) -> None:
        path = self.location / name if self.location.is_dir() else self.location
        stem = path.stem
        try:
            if stem in self._batches:
                raise ValueError(f"there are two files {path.name}")
            with np.load(path, allow_pickle=False) as arrays:
                labels = arrays["labels"]
            rows, start = self._find_rows(path)
            shape, start = _read_header(rows, start)
            size = math.isqrt(shape[1] // CHANNELS) if len(shape) == 2 else 0
            if not size or CHANNELS * size * size != shape[1]:
                raise ValueError(f"`data` has the shape {shape}")
            if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
                raise ValueError(f"`labels` is {labels.dtype}, shape {labels.shape}")
        except Exception as error:  # damaged files raise many types of errors
            raise ValueError(
                "`source` must hold .npz files of downsampled ImageNet, with uint8 "
                "`data` of shape (N, 3 * size * size) and N integer `labels`, but "
                f"{path.name} is not: {error}. Received: source={str(self.location)!r}"
            ) from error
        self._paths.append(path)
        status = path.stat()
        identity = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        self._batches[stem] = _Batch(rows, start, size, identity)
        split = stem.partition("_")[0]
        self.folders.setdefault(f"{split}/", [])
        for row, label in enumerate(labels.tolist()):
            files = self.folders.setdefault(f"{split}/{label:04}/", [])
            files.append(f"{stem}-{row:06}.bmp")

    def _find_rows(self, path: Path) -> tuple[Path, int]:
        """Returns the file, and where in it, that holds the rows as a .npy file."""
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("data.npy")
            if info.compress_type == zipfile.ZIP_STORED:
                with path.open("rb") as file:
                    file.seek(info.header_offset)
                    lengths = struct.unpack("<26xHH", file.read(LOCAL_HEADER))
                return path, info.header_offset + LOCAL_HEADER + sum(lengths)
            folder = tempfile.TemporaryDirectory(prefix="keras-tinyalex-")
            self._unpacked.append(folder)  # removed with this object
            return Path(archive.extract(info, folder.name)), 0

    def _row(self, name: str) -> tuple[_Batch, int]:
        stem, _, number = name.rpartition("/")[2].removesuffix(".bmp").rpartition("-")
        return self._batches[stem], int(number)

    def read(self, name: str) -> bytes:
        if not name.endswith(".bmp"):
            return (self.location / name).read_bytes()
        batch, row = self._row(name)
        length = CHANNELS * batch.size**2
        with batch.path.open("rb", buffering=0) as file:
            file.seek(batch.start + row * length)
            pixels = np.frombuffer(file.read(length), np.uint8)
        planes = pixels.reshape(CHANNELS, batch.size, batch.size)
        return _encode(planes.transpose(1, 2, 0).copy())

    def size(self, name: str) -> int:
        return _encoded_size(self._row(name)[0].size)

    def fingerprint(self, name: str) -> tuple[int, ...]:
        return self._row(name)[0].identity

    def damaged(self) -> list[tuple[str, str]]:
        damaged = []
        for path in self._paths:
            try:
                with zipfile.ZipFile(path) as archive:
                    bad = archive.testzip()
                problem = f"the checksum of {bad} is another one" if bad else None
            except (OSError, zipfile.BadZipFile) as error:
                problem = str(error)
            if problem:
                damaged.append((str(path), problem))
        return damaged


def _encode(pixels: Images) -> bytes:
    """Returns an image `(H, W, 3)` as a BMP file."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "BMP")
    return content.getvalue()


@functools.cache
def _encoded_size(size: int) -> int:
    """Bytes of a square image, the same for all, since BMP does not compress."""
    return len(_encode(np.zeros((size, size, CHANNELS), np.uint8)))


def _read_header(path: Path, start: int) -> tuple[tuple[int, ...], int]:
    """Returns the shape of a .npy file within another file, and where its data is."""
    with path.open("rb") as file:
        file.seek(start)
        if np.lib.format.read_magic(file) == (1, 0):
            header = np.lib.format.read_array_header_1_0(file)
        else:
            header = np.lib.format.read_array_header_2_0(file)
        shape, fortran_order, dtype = header
        if dtype != np.uint8 or fortran_order:
            raise ValueError(f"`data` is {dtype}, not uint8 in C order")
        if path.stat().st_size < file.tell() + math.prod(shape):
            raise ValueError("it ends before its data")
        return shape, file.tell()
