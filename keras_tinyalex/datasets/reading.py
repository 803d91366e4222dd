"""Decodes the images of a source in parallel, and checks them."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from keras_tinyalex.aliases import Images, PathLike
from keras_tinyalex.datasets.cache import concatenate, load_or_decode
from keras_tinyalex.datasets.images import IMAGE_SIZE, check_format, decode_image
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.source import LabelledImage, Source
from keras_tinyalex.progress import Progress

if TYPE_CHECKING:
    from keras_tinyalex.datasets.batches import LabelledArrays

# Images that one thread decodes at a time.
CHUNK_SIZE = 100
# Bad images that an error message lists.
MAX_LISTED = 20


def read_split(
    source: Source,
    split: str,
    class_names: Sequence[str],
    image_size: tuple[int, int] = IMAGE_SIZE,
    progress: bool = False,
    cache: bool = False,
) -> LabelledArrays:
    """Decodes all images of some classes in one split.

    Args:
        source: A `Source`, from `open_source`.
        split: `"train"` or `"val"`.
        class_names: Names of the classes in label order. Images of other
            classes are skipped.
        image_size: `(height, width)` in pixels; other sizes are resized.
            Defaults to `(64, 64)`.
        progress: Whether to report progress on standard error. Defaults to
            `False`.
        cache: Whether to decode the images once and memory-map the result
            from then on; see `datasets.cache`. Defaults to `False`.

    Returns:
        A `LabelledArrays`, whose length is 0 if the source has no such split.

    Raises:
        ValueError: If images cannot be decoded. The message names them.
    """
    # `batches` imports Keras, which the rest of this module does without.
    from keras_tinyalex.datasets.batches import LabelledArrays

    labels = {name: label for label, name in enumerate(class_names)}
    found = [i for i in source.images.get(split, ()) if i.class_name in labels]
    decode = functools.partial(
        _decode_chunks, source, split, found, image_size, progress
    )
    if cache:
        pixels = load_or_decode(source, found, image_size, decode)
    else:
        pixels = concatenate(decode(), (len(found), *image_size, 3))
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
    image_size: tuple[int, int],
    progress: bool,
) -> Iterator[Images]:
    """Yields the pixels of `images` in order, decoded by several threads."""
    problems: list[str] = []

    def decode(chunk: Sequence[LabelledImage]) -> Images:
        pixels = np.empty((len(chunk), *image_size, 3), np.uint8)
        for index, image in enumerate(chunk):
            try:
                pixels[index] = decode_image(source.read(image), image_size)
            except (ValueError, OSError) as error:
                problems.append(f"{source.describe(image)}: {error}")
        return pixels

    starts = range(0, len(images), CHUNK_SIZE)
    chunks = [images[start : start + CHUNK_SIZE] for start in starts]
    with (
        Progress(f"decoding {split}", len(images), "images", progress) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for pixels in pool.map(decode, chunks):
            yield pixels
            bar.advance(len(pixels))
    if problems:
        listed = "\n  ".join(sorted(problems)[:MAX_LISTED])
        first = f" (the first {MAX_LISTED})" if len(problems) > MAX_LISTED else ""
        raise ValueError(
            f"{len(problems)} of {len(images)} {split} images cannot be decoded; "
            f"restore or remove them{first}:\n  {listed}"
        )


def find_bad_images(
    source: PathLike, progress: bool = False
) -> tuple[int, list[tuple[str, str]]]:
    """Decodes every image of a source to its last byte and reports the bad ones.

    Two kinds of files are reported although they would load: those of
    another format than their suffix, e.g. a GIF named `.JPEG`, and a JPEG of
    which only the end marker is missing.

    Args:
        source: See `load_data`.
        progress: Whether to report progress on standard error. Defaults to
            `False`.

    Returns:
        The number of images, and a list of pairs `(path, problem)`.
    """
    opened = open_source(source)
    images = [image for split in opened.images.values() for image in split]

    def check(image: LabelledImage) -> tuple[str, str] | None:
        try:
            data = opened.read(image)
            decode_image(data, image_size=None)
            check_format(image.name, data)
        except (ValueError, OSError) as error:
            return opened.describe(image), str(error)
        return None

    problems = []
    with (
        Progress("checking", len(images), "images", progress) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for problem in pool.map(check, images):
            bar.advance()
            if problem is not None:
                problems.append(problem)
    return len(images), problems
