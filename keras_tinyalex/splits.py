"""The images of a training: those to train on and those to validate on."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.arguments import check_number
from keras_tinyalex.datasets.batches import LabelledArrays
from keras_tinyalex.datasets.classes import Classes
from keras_tinyalex.datasets.images import IMAGE_SIZE
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.reading import read_parts
from keras_tinyalex.datasets.source import LeftOut, Source

# The first sorted classes of Tiny ImageNet, where it has more.
DEFAULT_CLASSES = 20


class Splits(NamedTuple):
    """The images of a training.

    Attributes:
        train: To train on.
        val: To validate on.
        words: Readable names by class name.
        left_out: What of the source is not read; see `Source.report_left_out`.
    """

    train: LabelledArrays
    val: LabelledArrays
    words: dict[str, str]
    left_out: list[dict[str, Any]]


def load_splits(
    data: PathLike,
    classes: Classes = None,
    validation_split: float | None = None,
    progress: bool = False,
    image_size: tuple[int, int] = IMAGE_SIZE,
) -> Splits:
    """Loads the images of a training; the arguments are those of `train`."""
    if validation_split is not None:
        check_number("validation_split", validation_split, above=0, below=1)
    source = open_source(data)
    names = source.select(_default_classes(source) if classes is None else classes)
    left_out = source.report_left_out()
    if problem := source.one_class_problem():
        raise ValueError(
            f"`data` must have two or more classes, but {problem[0]}. "
            f"Received: data={str(data)!r}"
        )
    train_data, val_data = read_parts(
        source,
        names,
        image_size=image_size,
        validation_split=validation_split,
        progress=progress,
        cache=True,
    )
    return Splits(train_data, val_data, source.words, left_out)


def _default_classes(source: Source) -> int:
    """Returns 20 for Tiny ImageNet, and all classes of another source."""
    names = source.class_names
    wnids = all(re.fullmatch(r"n\d{8}", name) for name in names)
    rest = names[DEFAULT_CLASSES:] if wnids else ()
    if rest:
        reason = f"classes after the first {DEFAULT_CLASSES} (--classes all takes all)"
        source.left_out.append(LeftOut(reason, rest))
    return len(names) - len(rest)
