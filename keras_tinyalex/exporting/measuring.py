"""Images to calibrate and to measure an exported model on, its accuracy and speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_tinyalex.aliases import Labels, PathLike
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.reading import read_parts
from keras_tinyalex.exporting.formats import Array, Run
from keras_tinyalex.labelled_data import image_shape

# Training images that an int8 export takes.
MIN_CALIBRATION = 100
MAX_CALIBRATION = 512
BATCH_SIZE = 100
# Batch sizes that are timed, with the number of times.
TIMED = {1: 50, 32: 10}


@dataclass(frozen=True)
class Comparison:
    """What an exported model and Keras return for the same images.

    Attributes:
        n: Number of images.
        max_difference: Largest difference between two scores.
        mean_difference: Mean over the images of the largest difference.
        disagreements: Images whose most probable class differs.
    """

    n: int
    max_difference: float
    mean_difference: float
    disagreements: int


def compare(scores: Array, expected: Array) -> Comparison:
    differences = np.abs(scores - expected).max(axis=-1)
    return Comparison(
        len(scores),
        float(differences.max()),
        float(differences.mean()),
        int((scores.argmax(axis=-1) != expected.argmax(axis=-1)).sum()),
    )


def calibration_images(
    model: keras.Model, source: PathLike, class_names: Sequence[str] | None, seed: int
) -> Array:
    """Returns training images of the model's classes, as the model takes them.

    Raises:
        ValueError: If the source lacks classes of the model, or has too few images.
    """
    images, _ = read_images("calibration", model, source, class_names, "train")
    if len(images) < MIN_CALIBRATION:
        raise ValueError(
            f"`calibration` must hold {MIN_CALIBRATION} training images of the "
            "model's classes, or more: the ranges of the activations are measured on "
            f"them. Received: {len(images)} in {str(source)!r}"
        )
    # In random order, as the tools average over batches, the later ones more.
    chosen = np.random.default_rng(seed).permutation(len(images))[:MAX_CALIBRATION]
    return np.asarray(images[chosen], np.float32)


def read_images(
    argument: str,
    model: keras.Model,
    source: PathLike,
    class_names: Sequence[str] | None,
    part: str,
) -> tuple[Any, Labels]:
    """Returns the images of a part of a source as the model takes them, and labels."""
    if class_names is None:
        raise ValueError(
            "`class_names` must be the classes of the model in label order if "
            f"`{argument}` is given, because its file has none. Save the model by "
            "`keras_tinyalex.applications.save_model`, which stores them. "
            "Received: class_names=None"
        )
    opened = open_source(source)
    opened.select_trained(class_names, argument)
    opened.report_left_out()
    shape = image_shape(model)
    (data,) = read_parts(
        opened, class_names, [part], shape.size, cache=True, channels=shape.channels
    )
    return shape.arrange(data.images), data.labels


def scores_of(run: Run, images: Any) -> Array:
    """Returns the scores of images of any dtype, computed in batches."""
    starts = range(0, len(images), BATCH_SIZE)
    batches = (np.asarray(images[i : i + BATCH_SIZE], np.float32) for i in starts)
    return np.concatenate([np.asarray(run(batch)) for batch in batches])


def accuracy(scores: Array, labels: Labels) -> float:
    return float((scores.argmax(axis=-1) == labels).mean())


def milliseconds(run: Run, images: Any) -> dict[str, float]:
    """Returns the median time a picture, by batch size."""
    times = {}
    for batch_size, rounds in TIMED.items():
        batch = np.resize(images[:batch_size], (batch_size, *images.shape[1:]))
        batch = batch.astype(np.float32)
        run(batch)  # compiles, allocates
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            run(batch)
            seconds.append(time.perf_counter() - start)
        times[str(batch_size)] = statistics.median(seconds) / batch_size * 1e3
    return times
