"""Decodes the images of a source in parallel, and checks them."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from keras_tinyalex.aliases import Images, PathLike
from keras_tinyalex.datasets.cache import concatenate, load_or_decode
from keras_tinyalex.datasets.images import (
    IMAGE_SIZE,
    IMAGE_SUFFIXES,
    decode_image,
    read_format,
)
from keras_tinyalex.datasets.known_files import suffix_of
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.source import (
    LabelledImage,
    LeftOut,
    Source,
    count_names,
    say,
)
from keras_tinyalex.datasets.trees import FolderTree
from keras_tinyalex.progress import Progress

if TYPE_CHECKING:
    from keras_tinyalex.datasets.batches import LabelledArrays

Item = TypeVar("Item")
Result = TypeVar("Result")

# Images that one thread decodes at a time.
CHUNK_SIZE = 100
# Results of threads that wait in memory to be used, such as decoded chunks.
MAX_WAITING = 2 * (os.cpu_count() or 1)
# Bad images that an error message lists.
MAX_LISTED = 20
# What the images have in common whose suffix is that of another format.
MISNAMED = "read as what they hold, not as their suffix says"


def read_parts(
    source: Source,
    class_names: Sequence[str],
    parts: Sequence[str] = ("train", "val"),
    image_size: tuple[int, int] = IMAGE_SIZE,
    *,
    validation_split: float | None = None,
    seed: int = 0,
    progress: bool = False,
    cache: bool = False,
    channels: int = 3,
) -> list[LabelledArrays]:
    """Decodes the images to train on, those to validate on, or all.

    No image is in both parts: see `Source.hold_out`.

    Args:
        source: See `read_split`.
        class_names: See `read_split`.
        parts: Of `"train"` and `"val"`, or `"all"` alone: every image.
            Defaults to `("train", "val")`.
        image_size: See `read_split`.
        validation_split: Fraction in (0, 1) of each class's train images that
            is `"val"`. Defaults to `None`: the val images, or 0.1 where there
            are none.
        seed: Of the choice of the images that are held out. Defaults to `0`.
        progress: See `read_split`.
        cache: See `read_split`.
        channels: See `read_split`.

    Returns:
        A `LabelledArrays` for each of `parts`.

    Raises:
        ValueError: As `read_split`, or if a class has too few images to hold
            one out.
    """
    fraction = None if "all" in parts else source.hold_out(validation_split)
    if fraction is not None:
        source = source.with_held_out(class_names, fraction, seed)
    return [
        read_split(source, part, class_names, image_size, progress, cache, channels)
        for part in parts
    ]


def read_split(
    source: Source,
    split: str,
    class_names: Sequence[str],
    image_size: tuple[int, int] = IMAGE_SIZE,
    progress: bool = False,
    cache: bool = False,
    channels: int = 3,
) -> LabelledArrays:
    """Decodes all images of some classes in one split.

    Args:
        source: A `Source`, from `open_source`.
        split: `"train"` or `"val"`, or `"all"` for both.
        class_names: Names of the classes in label order. Images of other
            classes are skipped.
        image_size: `(height, width)` in pixels; other sizes are resized.
            Defaults to `(64, 64)`.
        progress: Whether to report progress on standard error. Defaults to
            `False`.
        cache: Whether to decode the images once and memory-map the result
            from then on; see `datasets.cache`. Defaults to `False`.
        channels: `3` (default) for RGB, `1` for gray.

    Returns:
        A `LabelledArrays`, whose length is 0 if the source has no such split.

    Raises:
        ValueError: If images cannot be decoded. The message names them.
        ImportError: If a package for AVIF or HEIC is missing.
    """
    # `batches` imports Keras, which the rest of this module does without.
    from keras_tinyalex.datasets.batches import LabelledArrays

    labels = {name: label for label, name in enumerate(class_names)}
    splits = source.images if split == "all" else [split]
    images = (image for name in splits for image in source.images.get(name, ()))
    found = [image for image in images if image.class_name in labels]
    shape = (*image_size, channels)
    decode = functools.partial(_decode_chunks, source, split, found, shape, progress)
    if cache:
        pixels = load_or_decode(source, found, shape, decode)
    else:
        pixels = concatenate(decode(), (len(found), *shape))
    return LabelledArrays(
        pixels,
        np.array([labels[image.class_name] for image in found], np.int64),
        tuple(class_names),
        tuple(image.name for image in found),
    )


def _decode_chunks(
    source: Source,
    split: str,
    images: Sequence[LabelledImage],
    shape: tuple[int, int, int],
    progress: bool,
) -> Iterator[Images]:
    """Yields the pixels of `images` in order, decoded by several threads."""
    problems: list[str] = []
    misnamed: list[str] = []

    def decode(chunk: Sequence[LabelledImage]) -> Images:
        pixels = np.empty((len(chunk), *shape), np.uint8)
        for index, image in enumerate(chunk):
            try:
                data = source.read(image)
                pixels[index] = decode_image(data, shape[:2], shape[2])
            except (ValueError, OSError) as error:
                problems.append(f"{source.tree.describe(image.name)}: {error}")
            else:
                if found := _other_format(image.name, data):
                    misnamed.append(f"{image.name} ({found})")
        return pixels

    starts = range(0, len(images), CHUNK_SIZE)
    chunks = [images[start : start + CHUNK_SIZE] for start in starts]
    with (
        Progress(f"decoding {split}", len(images), "images", progress) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for pixels in map_in_order(pool, decode, chunks):
            yield pixels
            bar.advance(len(pixels))
    if misnamed:
        say(count_names(MISNAMED, sorted(misnamed)), source.location)
    if problems:
        listed = "\n  ".join(sorted(problems)[:MAX_LISTED])
        kind = "" if split == "all" else f"{split} "
        first = f" (the first {MAX_LISTED})" if len(problems) > MAX_LISTED else ""
        raise ValueError(
            f"{len(problems)} of {len(images)} {kind}images cannot be decoded; "
            f"restore or remove them{first}:\n  {listed}"
        )


def map_in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int = MAX_WAITING,
) -> Iterator[Result]:
    """Yields the results of a function, of which `ahead` may wait in memory.

    `pool.map` would compute all, as fast as it can, while whoever uses them is
    slower.
    """
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclass(frozen=True)
class Verification:
    """What `verify` found in a source.

    Attributes:
        images: Number of images by split.
        class_names: The classes, in label order.
        bad: Pairs of a path and its problem: damaged files of the source.
        problems: Problems of classes; `train` refuses these classes.
        misnamed: Pairs of a path and its format, of images whose suffix is
            that of another format. They are read by their content.
        left_out: What is not read: `reason`, `count` and `first` names.
    """

    images: dict[str, int]
    class_names: tuple[str, ...]
    bad: list[tuple[str, str]]
    problems: list[str]
    misnamed: list[tuple[str, str]]
    left_out: list[dict[str, Any]]


def verify(source: PathLike, progress: bool = False) -> Verification:
    """Reads a source to its last byte, as `train` does, and reports what is wrong.

    Every image is decoded. Of a zip, the checksums of its other files are
    compared, too, and of an .npz file those of its arrays.

    Args:
        source: See `load_data`.
        progress: Whether to report progress on standard error. Defaults to
            `False`.

    Returns:
        A `Verification`.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If it has no known layout, or is a damaged zip.
    """
    opened = open_source(source)
    images = {i.name for found in opened.images.values() for i in found}
    # A damaged name in a zip hides an image, so all files are read.
    names = sorted(images.union(() if opened.has_files else opened.tree.names()))
    misnamed = []

    def check(name: str) -> tuple[str, str] | None:
        try:
            data = opened.tree.read(name)
            if name in images:
                decode_image(data, image_size=None)
                if found := _other_format(name, data):
                    misnamed.append((opened.tree.describe(name), found))
        except (ValueError, OSError, ImportError) as error:
            return opened.tree.describe(name), str(error)
        return None

    bad = opened.tree.damaged()
    with (
        Progress("checking", len(names), "files", progress) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for problem in pool.map(check, names):
            bar.advance()
            if problem is not None:
                bad.append(problem)
    return Verification(
        {split: len(found) for split, found in opened.images.items()},
        opened.class_names,
        bad,
        [
            *opened.problems.values(),
            *opened.one_class_problem(),
            *opened.single_image_problems(),
        ],
        sorted(misnamed),
        opened.report_left_out(),
    )


def _other_format(name: str, data: bytes) -> str | None:
    """Returns the format of an image whose suffix is that of another one."""
    found = read_format(data)
    expected = IMAGE_SUFFIXES[suffix_of(name)]
    return found if found != expected else None


def find_image_files(paths: Sequence[PathLike]) -> list[str]:
    """Returns files as they are, and the image files of folders, at any depth.

    What else a folder holds is said on standard error.
    """
    files = []
    for path in (os.fspath(path) for path in paths):
        if not os.path.isdir(path):  # noqa: PTH112
            files.append(path)
            continue
        names = sorted(FolderTree(Path(path)).names())
        found = [name for name in names if suffix_of(name) in IMAGE_SUFFIXES]
        files += [os.path.join(path, name) for name in found] or [path]  # noqa: PTH118
        if others := tuple(name for name in names if name not in set(found)):
            say(str(LeftOut("files of other formats", others)), path)
    return files


def read_image_files(
    paths: Sequence[str], image_size: tuple[int, int], channels: int = 3
) -> list[Images | Exception]:
    """Reads image files in parallel.

    Args:
        paths: Paths of the files.
        image_size: See `decode_image`.
        channels: See `decode_image`.

    Returns:
        For each file uint8 pixels `(height, width, channels)`, or the error,
        whose message names the file.
    """

    def read(path: str) -> Images | Exception:
        try:
            if "://" in path:
                raise ValueError("not a file but an address: download the image first")
            if os.path.isdir(path):  # noqa: PTH112
                raise ValueError("this folder has no image files")
            return decode_image(Path(path).read_bytes(), image_size, channels)
        except OSError as error:
            return OSError(f"{path}: {error.strerror or error}")
        except (ValueError, ImportError) as error:
            return ValueError(f"{path}: {error}")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(read, paths))
