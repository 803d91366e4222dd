"""The sets of corrupted images: made from clean ones, or files of Tiny-ImageNet-C."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import keras
import numpy as np

from keras_tinyalex.aliases import Images, Labels, PathLike
from keras_tinyalex.datasets.corruptions import corrupt
from keras_tinyalex.datasets.corruptions.folders import find_sets
from keras_tinyalex.labelled_data import ImageShape, Pair, image_shape
from keras_tinyalex.robustness.result import CLEAN, Key

if TYPE_CHECKING:
    from keras_tinyalex.datasets.classes import Classes
    from keras_tinyalex.datasets.source import Source

Parts: TypeAlias = list[Callable[[], Pair]]
"""Functions that make the parts of a set, images and labels as the model takes them."""


class Sets(Protocol):
    """Sets of corrupted images.

    Attributes:
        class_names: The classes, in label order, if they are known.
        digest: What differs when the images do.
        ahead: Number of parts that may be in memory before they are needed.
    """

    class_names: Sequence[str] | None
    digest: bytes
    ahead: int

    @property
    def count(self) -> int:
        """Number of images in a set; some sets of files may have fewer."""

    def has(self, key: Key) -> bool:
        """Whether there is such a set."""

    def parts(self, key: Key) -> Parts:
        """Returns the functions that make a set."""


def open_sets(
    model: keras.Model,
    data: tuple[Images, Labels] | PathLike,
    class_names: Sequence[str] | None,
    classes: Classes,
    batch_size: int,
    seed: int,
    jpeg_quality: int | None,
) -> Sets:
    """Finds out what `data` is; see `evaluate_corruptions`."""
    shape = image_shape(model)
    if isinstance(data, (str, os.PathLike)):
        if paths := find_sets(data):
            return _Files(paths, shape, class_names, classes)
        data, names = _read_clean(data, class_names, classes)
        class_names = names if class_names is None else class_names
    if not isinstance(data, tuple) or len(data) != 2 or len(data[0]) != len(data[1]):
        raise ValueError(
            "`data` must be a tuple (images, labels) of two arrays of the same length, "
            f"or the path of a source. Received: {type(data)}"
        )
    # Checks the images and the arguments.
    corrupt(data[0][:0], "contrast", 1, seed, jpeg_quality=jpeg_quality)
    any_size = None in model.input_shape[1:]
    make = functools.partial(corrupt, seed=seed, jpeg_quality=jpeg_quality)
    fit = functools.partial(_fit, shape=shape, any_size=any_size)
    digest = hashlib.sha256(f"{seed} {jpeg_quality} {data[0].shape}".encode())
    digest.update(np.ascontiguousarray(data[0]).data)
    digest.update(np.ascontiguousarray(data[1]).tobytes())
    return _Made(data, class_names, digest.digest(), batch_size, make, fit)


@dataclass
class _Made:
    """Sets that are corrupted when they are needed, a batch at a time."""

    data: tuple[Images, Labels]
    class_names: Sequence[str] | None
    digest: bytes
    batch_size: int
    corrupt: Callable[..., Images]
    fit: Callable[[Images], Images]
    ahead: int = 2 * (os.cpu_count() or 1)

    @property
    def count(self) -> int:
        return len(self.data[0])

    def has(self, key: Key) -> bool:
        return True

    def parts(self, key: Key) -> Parts:
        starts = range(0, len(self.data[0]), self.batch_size)
        return [functools.partial(self._make, key, start) for start in starts]

    def _make(self, key: Key, start: int) -> Pair:
        part = slice(start, start + self.batch_size)
        images, labels = self.data[0][part], self.data[1][part]
        if key != CLEAN:
            images = self.corrupt(images, *key, first=start)
        return self.fit(images), labels


class _Files:
    """Sets that are folders of class folders, of Tiny-ImageNet-C."""

    ahead = 1  # 10,000 images are 123 MB

    def __init__(
        self,
        paths: dict[Key, Path],
        shape: ImageShape,
        class_names: Sequence[str] | None,
        classes: Classes,
    ) -> None:
        from keras_tinyalex.datasets.layout import open_source

        self.paths, self.shape = paths, shape
        first = next(iter(paths.values()))
        source = open_source(first)
        self.names = _select(source, class_names, classes)
        self.count = sum(i.class_name in self.names for i in source.images["train"])
        self.class_names: Sequence[str] | None
        self.class_names = self.names if class_names is None else class_names
        root = first.parents[1].resolve()
        self.digest = hashlib.sha256(f"{root} {self.names}".encode()).digest()

    def has(self, key: Key) -> bool:
        return key in self.paths

    def parts(self, key: Key) -> Parts:
        return [functools.partial(self._read, self.paths[key])]

    def _read(self, path: Path) -> Pair:
        from keras_tinyalex.datasets.layout import open_source
        from keras_tinyalex.datasets.reading import read_split

        source = open_source(path)
        source.select(self.names)  # refuses a set without one of them
        source.report_left_out()
        size, channels = self.shape.size, self.shape.channels
        read = read_split(source, "train", self.names, size, channels=channels)
        return self.shape.arrange(read.images), read.labels


def _read_clean(
    location: PathLike, class_names: Sequence[str] | None, classes: Classes
) -> tuple[tuple[Images, Labels], tuple[str, ...]]:
    """Reads the images to validate on of a source, at 64x64 pixels."""
    from keras_tinyalex.datasets.layout import open_source
    from keras_tinyalex.datasets.reading import read_parts

    source = open_source(location)
    source.report_left_out()
    names = _select(source, class_names, classes)
    (read,) = read_parts(source, names, ["val"])
    return (read.images, read.labels), names


def _select(
    source: Source, class_names: Sequence[str] | None, classes: Classes
) -> tuple[str, ...]:
    """Returns the classes of a source, in the order of `class_names` if there are."""
    if classes is not None or class_names is None:
        return source.select(classes)
    return tuple(source.select([name])[0] for name in class_names)


def _fit(images: Images, shape: ImageShape, any_size: bool) -> Images:
    """Returns images of the size, the channels and the layout that a model takes."""
    from PIL import Image

    size = images.shape[1:3] if any_size else shape.size
    if images.shape[1:] != (*size, shape.channels):
        mode: Any = "RGB" if shape.channels == 3 else "L"
        bilinear = Image.Resampling.BILINEAR
        pictures = [Image.fromarray(image).convert(mode) for image in images]
        resized = [np.asarray(p.resize(size[::-1], bilinear)) for p in pictures]
        images = np.stack(resized).reshape(-1, *size, shape.channels)
    return shape.arrange(images)
