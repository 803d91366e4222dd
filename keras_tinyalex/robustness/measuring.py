"""Measures a classifier on sets of corrupted images, one after the other."""

from __future__ import annotations

import functools
import hashlib
import itertools
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_tinyalex.aliases import Images, Labels, PathLike
from keras_tinyalex.arguments import check_boolean, check_choice, check_integer
from keras_tinyalex.datasets.corruptions import CORRUPTIONS, SEVERITIES
from keras_tinyalex.datasets.reading import map_in_order
from keras_tinyalex.evaluation import Evaluation, evaluate
from keras_tinyalex.labelled_data import Pair
from keras_tinyalex.progress import Progress
from keras_tinyalex.robustness.result import (
    CLEAN,
    MAIN,
    CorruptionEvaluation,
    Key,
    summarize,
)
from keras_tinyalex.robustness.sets import Sets, open_sets
from keras_tinyalex.robustness.table import Table

if TYPE_CHECKING:
    from keras_tinyalex.datasets.classes import Classes


def evaluate_corruptions(
    model: keras.Model,
    data: tuple[Images, Labels] | PathLike,
    class_names: Sequence[str] | None = None,
    corruptions: Sequence[str] | None = None,
    batch_size: int = 128,
    seed: int = 0,
    *,
    classes: Classes = None,
    tta: bool = False,
    jpeg_quality: int | None = 85,
    csv: PathLike | None = None,
    progress: bool = False,
) -> CorruptionEvaluation:
    """Measures a classifier on corrupted images (Hendrycks and Dietterich, 2019).

    Each image is corrupted at the size that it has, then resized to the
    model's. Batches are corrupted while the model predicts others. See
    `datasets.corruptions.corrupt` for what differs from the official files.

    The baseline of the mean corruption error (mCE) is a ResNet-18 trained on
    all 200 classes of Tiny ImageNet, with a mean error of 0.761 on the
    official files. With fewer classes any model makes fewer errors: compare
    the mCE of models with the same classes only.

    Args:
        model: See `evaluate`.
        data: One of

            * a tuple `(images, labels)`: RGB uint8 `(N, H, W, 3)` and integers
              `(N,)`;
            * a source as in `datasets.tiny_imagenet.load_data`: its val images,
              or those that `train` holds out, are corrupted at 64x64 pixels;
            * the folder `Tiny-ImageNet-C` or a part of it: its files are read
              as they are.
        class_names: See `evaluate`. Classes of a source are read in this
            order.
        corruptions: Names in `datasets.corruptions.CORRUPTIONS`. Defaults to
            `None`: the 15 of the benchmark.
        batch_size: Number of images in a batch. Defaults to 128.
        seed: Seed of the corruptions. Defaults to `0`.
        classes: See `evaluate`.
        tta: See `evaluate`. Defaults to `False`.
        jpeg_quality: See `datasets.corruptions.corrupt`. Defaults to `85`.
        csv: File for the table, written after each set: `corruption`,
            `severity`, `accuracy`, `n`, and a `fingerprint` of the weights,
            the images and the arguments. Sets that are in an existing file
            are not measured again. Defaults to `None`.
        progress: Whether to report progress on standard error. Defaults to
            `False`.

    Returns:
        A `CorruptionEvaluation`.

    Raises:
        FileNotFoundError: If `data` is a source that does not exist.
        ValueError: If an argument is not as above, or `csv` is of another
            model or of other images.

    Examples:
        >>> layers = [keras.Input((16, 16, 3)), keras.layers.Flatten()]
        >>> model = keras.Sequential([*layers, keras.layers.Dense(3)])
        >>> x, y = np.zeros((4, 16, 16, 3), "uint8"), np.array([0, 1, 2, 0])
        >>> result = evaluate_corruptions(model, (x, y), corruptions=["contrast"])
        >>> result.corruptions
        {'contrast': (0.5, 0.5, 0.5, 0.5, 0.5)}
    """
    names = _check_names(corruptions)
    check_integer("batch_size", batch_size)
    check_boolean("tta", tta)
    sets = open_sets(model, data, class_names, classes, batch_size, seed, jpeg_quality)
    wanted = [(name, severity) for name in names for severity in SEVERITIES]
    keys = [key for key in (CLEAN, *wanted) if sets.has(key)]
    if not set(wanted) & set(keys):
        raise ValueError(
            "`data` must hold images of at least one corruption that is asked for. "
            f"Received: data={str(data)!r}, corruptions={list(names)}"
        )
    fingerprint = _fingerprint(model, sets.digest, tta)
    table = Table(csv, fingerprint)
    todo = [key for key in keys if key not in table.rows]
    measure = functools.partial(evaluate, model, class_names=sets.class_names, tta=tta)
    resumed = len(keys) - len(todo)
    total = len(todo) * sets.count
    with Progress("corrupted", total, "images", progress) as bar:
        if resumed:
            bar.advance(0, f"{resumed} of {len(keys)} sets from {csv}")
        for key, result in _measure_sets(sets, todo, batch_size, measure):
            table.add(key, result.top1, result.n)
            bar.advance(result.n)
    rows = {key: table.rows[key] for key in keys}
    return summarize(names, rows, resumed)


def _check_names(corruptions: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the names in the official order, each once."""
    if corruptions is None:
        return MAIN
    if isinstance(corruptions, str) or not corruptions:
        raise ValueError(
            "`corruptions` must be a list of names, such as ['fog'], or None for the "
            f"15 of the benchmark. Received: corruptions={corruptions!r}"
        )
    for name in corruptions:
        check_choice("corruptions", name, tuple(CORRUPTIONS))
    return tuple(name for name in CORRUPTIONS if name in corruptions)


def _fingerprint(model: keras.Model, digest: bytes, tta: bool) -> str:
    """Returns what differs for other weights, images or arguments."""
    total = hashlib.sha256(digest + bytes([tta]))
    for weight in model.weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        total.update(f"{values.shape} {values.dtype}".encode())
        total.update(values.tobytes())
    return total.hexdigest()[:16]


def _measure_sets(
    sets: Sets,
    keys: Sequence[Key],
    batch_size: int,
    measure: Callable[[Iterable[Pair]], Evaluation],
) -> Iterator[tuple[Key, Evaluation]]:
    """Yields the result of each set; the next batches are made meanwhile."""
    parts = {key: sets.parts(key) for key in keys}
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        calls = itertools.chain.from_iterable(parts.values())
        pairs = map_in_order(pool, operator.call, calls, sets.ahead)
        for key in keys:
            of_set = itertools.islice(pairs, len(parts[key]))
            yield key, measure(_split(of_set, batch_size))
    finally:
        pool.shutdown(cancel_futures=True)


def _split(pairs: Iterable[Pair], batch_size: int) -> Iterator[Pair]:
    for x, y in pairs:
        for start in range(0, len(x), batch_size):
            yield x[start : start + batch_size], y[start : start + batch_size]
