"""Labels from a teacher: what trained models say of the training images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import Images
from keras_tinyalex.applications.model_files import load_model
from keras_tinyalex.datasets.batches import LabelledArrays
from keras_tinyalex.datasets.cache import blocks
from keras_tinyalex.labelled_data import image_shape
from keras_tinyalex.progress import Progress

BATCH_SIZE = 250


def with_teacher(
    data: LabelledArrays,
    teacher: Sequence[Path],
    weight: float,
    progress: bool = False,
) -> LabelledArrays:
    """Returns the same images, labelled by a teacher (knowledge distillation).

    An image's target is `(1 - weight)` for its own class, plus `weight` times the
    probabilities that the teacher gives to all classes: with them, it learns
    which classes are similar, and which images are hard to tell (Hinton, Vinyals
    and Dean, 2015, https://arxiv.org/abs/1503.02531). The teacher sees each image
    once, without augmentation.

    Args:
        data: The training images.
        teacher: Files of models with softmax outputs, whose class names are in
            them. Several models are an ensemble: their probabilities are
            averaged. A model may know more classes.
        weight: Of the teacher's probabilities, in (0, 1].
        progress: Whether to report progress on standard error.

    Raises:
        ValueError: If a model knows too few classes, or takes other images.
    """
    taught = np.zeros((len(data.labels), len(data.class_names)), np.float32)
    images = len(data.labels) * len(teacher)
    with Progress("asking the teacher", images, "images", progress) as bar:
        for path in teacher:
            taught += _probabilities(path, data, bar) / len(teacher)
    targets = weight * taught
    targets[np.arange(len(targets)), data.labels] += 1 - weight
    return dataclasses.replace(data, targets=targets)


def _probabilities(
    path: Path, data: LabelledArrays, bar: Progress
) -> npt.NDArray[np.float32]:
    """What a model says of each image, among the classes of `data`."""
    model, names = load_model(path)
    missing = sorted(set(data.class_names) - set(names or ()))
    if names is None or missing:
        problem = (
            f"{path} does not know {len(missing)} of them, such as {missing[0]!r}"
            if names
            else f"{path} has no class names"
        )
        raise ValueError(
            "`teacher` must be models of the classes to train on, saved by "
            f"keras_tinyalex, but {problem}. Received: teacher={str(path)!r}"
        )
    _, height, width, channels = data.images.shape
    expected = image_shape(model)
    if (*expected.size, expected.channels) != (height, width, channels):
        raise ValueError(
            f"`teacher` must take images of {height}x{width} pixels and {channels} "
            f"channels, as the training does, not {expected.size[0]}x"
            f"{expected.size[1]} and {expected.channels}. "
            f"Received: teacher={str(path)!r}"
        )
    columns = [names.index(name) for name in data.class_names]
    rows = []
    for batch in _batches(data.images):
        arranged = expected.arrange(batch)
        outputs = keras.ops.convert_to_numpy(model.predict_on_batch(arranged))
        outputs = outputs.astype(np.float32)
        if outputs.min() < 0 or abs(outputs.sum(axis=1) - 1).max() > 0.01:
            raise ValueError(
                "`teacher` must be models that end in a softmax: their outputs are "
                f"probabilities, whose sum is 1. Received: teacher={str(path)!r}"
            )
        rows.append(outputs[:, columns] + 1e-9)  # not all 0 among its other classes
        bar.advance(len(batch))
    probabilities = np.concatenate(rows)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities


def _batches(images: Images) -> Iterator[Images]:
    for block in blocks(images):
        for start in range(0, len(block), BATCH_SIZE):
            yield block[start : start + BATCH_SIZE]
