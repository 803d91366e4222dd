"""Numbers that say how good a classifier is: it never prints and never plots."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

TOP_K = 5
CALIBRATION_BINS = 15
SMALLEST_PROBABILITY = 1e-7

Batches = Iterator[tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate()` measured, over `n` images and `C` classes.

    Attributes:
        top1: Float in `[0, 1]`. Part of the images whose most probable class is
            the real one (the lowest label where classes tie).
        top5: Float in `[0, 1]`. Part of the images with fewer than 5 classes
            strictly more probable than the real one; ties count as right, as in
            `keras.metrics.SparseTopKCategoricalAccuracy`. It is 1.0 where
            `C <= 5`.
        loss: Float. Mean cross entropy in nats, of probabilities clipped at
            1e-7.
        n: Integer. Number of images.
        ece: Float in `[0, 1]`. Expected calibration error, see
            `expected_calibration_error()`.
        interval: `(low, high)`. The 95% Wilson score interval of `top1`.
        per_class: Dictionary of class name to top-1 accuracy, in label order.
            Classes without images are left out.
        class_names: Tuple of `C` strings, in label order.
        confusion: Integer array of shape `(C, C)`: images by real class (rows)
            and predicted class (columns).
        labels: Integer array of shape `(n,)`, the real labels.
        predictions: Integer array of shape `(n,)`, the predicted labels.
        confidences: Float array of shape `(n,)`, the probability of each
            predicted label.
    """

    top1: float
    top5: float
    loss: float
    n: int
    ece: float
    interval: tuple[float, float]
    per_class: dict[str, float] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    confusion: NDArray[np.int64] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    predictions: NDArray[np.int64] = field(repr=False)
    confidences: NDArray[np.float64] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Returns the figures (not the arrays) as a JSON-ready dictionary."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "n": self.n,
            "ece": self.ece,
            "interval": list(self.interval),
            "per_class": dict(self.per_class),
        }


def evaluate(
    model: Any,
    data: Any,
    class_names: Sequence[str] | None = None,
    batch_size: int = 128,
    tta: bool = False,
    *,
    classes: Any = None,
    data_format: str | None = None,
) -> Evaluation:
    """Measures a classifier on labelled images.

    The model's outputs are taken as probabilities if every row lies within
    `[0, 1]` and sums to 1 (within 0.01), else as logits, to which a softmax
    is applied. The model is not changed and need not be compiled.

    Args:
        model: A `keras.Model` with one output of shape `(batch, C)`:
            probabilities or logits.
        data: One of

            * a tuple `(x, y)` of arrays: images `(N, H, W, C)`, uint8 or
              float, as the model takes them, and integer labels `(N,)`;
            * an iterable of such `(x, y)` batches: a
              `keras.utils.PyDataset`, a `tf.data.Dataset`, a list;
            * a source as in `datasets.tiny_imagenet.load_data`: a folder, a
              zip file or `"sample"`, of which the val images are taken.
        class_names: `C` different strings in label order. Where `data` is a
            source, these classes are read from it. Default: the
            `class_names` of `data`, or else `"0"`, `"1"`, ...
        batch_size: Images in a step, a positive integer. Batches of an
            iterable keep their size.
        tta: Test-time augmentation: whether to average the probabilities of
            each image and of its horizontal mirror.
        classes: The classes to read where `data` is a source, as in
            `load_data`. Default: `class_names`.
        data_format: `"channels_last"` or `"channels_first"`. Default:
            `keras.config.image_data_format()`.

    Returns:
        An `Evaluation`.

    Raises:
        FileNotFoundError: If `data` is a source that does not exist.
        ValueError: If an argument, the shapes, the labels or the model's
            outputs are not as above, or there are no images.

    Examples:
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
        ... )
        >>> x, y = np.zeros((4, 8, 8, 3), "uint8"), np.array([0, 1, 2, 0])
        >>> result = evaluate(model, (x, y), class_names=["cat", "dog", "fox"])
        >>> result.top1, result.per_class
        (0.5, {'cat': 1.0, 'dog': 0.0, 'fox': 0.0})
    """
    _check_arguments(model, data, batch_size, classes, data_format)
    data_format = data_format or keras.config.image_data_format()
    names: Sequence[str] | None = getattr(data, "class_names", None)
    if isinstance(data, (str, os.PathLike)):
        x, y, names = _read_source(data, class_names, classes)
        if data_format == "channels_first":
            x = np.moveaxis(x, -1, 1)
        data = (x, y)
    names = names if class_names is None else class_names
    labels, views = _predict(model, _batches(data, batch_size), tta, data_format, names)
    return _measure(labels, _probabilities(views), names)


def wilson_interval(
    successes: int, trials: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Computes the Wilson score interval of a proportion.

    Source: E. B. Wilson, "Probable inference, the law of succession, and
    statistical inference", JASA 22 (1927).

    Args:
        successes: Integer in `[0, trials]`.
        trials: Positive integer.
        confidence: Float in `(0, 1)`. Defaults to 0.95.

    Returns:
        `(low, high)`, floats in `[0, 1]`.

    Raises:
        ValueError: If an argument is out of its range.

    Examples:
        >>> low, high = wilson_interval(430, 1000)
        >>> round(low, 3), round(high, 3)
        (0.4, 0.461)
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            "`trials` must be positive and `successes` in [0, trials]. "
            f"Received: successes={successes}, trials={trials}"
        )
    if not 0 < confidence < 1:
        raise ValueError(
            "`confidence` must be between 0 and 1, such as 0.95. "
            f"Received: confidence={confidence}"
        )
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    rate, scale = successes / trials, 1 + z**2 / trials
    center = (rate + z**2 / (2 * trials)) / scale
    margin = z / scale * (rate * (1 - rate) / trials + (z / (2 * trials)) ** 2) ** 0.5
    # At 0 and at `trials` the bound is exact, but for rounding.
    low = 0.0 if successes == 0 else center - margin
    high = 1.0 if successes == trials else center + margin
    return float(low), float(high)


def expected_calibration_error(
    confidences: ArrayLike, correct: ArrayLike, bins: int = CALIBRATION_BINS
) -> float:
    """Computes how far confidence and accuracy lie apart.

    The mean over the images of `abs(accuracy - mean confidence)` of their bin
    of `calibration_curve()`: `sum(counts / n * abs(accuracy - confidence))`.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks" (2017).

    Args:
        confidences: Floats of shape `(n,)` in `[0, 1]`: the probability of each
            predicted class.
        correct: Booleans of shape `(n,)`: whether it was the real class.
        bins: Positive integer. Defaults to 15.

    Returns:
        Float in `[0, 1]`; 0 is perfectly calibrated.

    Raises:
        ValueError: If the shapes differ, there are no values, or `bins` is
            not a positive integer.

    Examples:
        >>> expected_calibration_error([0.75, 0.75], [True, False])
        0.25
    """
    counts, accuracy, confidence = calibration_curve(confidences, correct, bins)
    gaps = np.abs(accuracy - confidence)[counts > 0]
    return float((counts[counts > 0] * gaps).sum() / counts.sum())


def calibration_curve(
    confidences: ArrayLike, correct: ArrayLike, bins: int = CALIBRATION_BINS
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Computes the accuracy of predictions that are about equally confident.

    The confidences are put into bins of equal width, `[0, 1/bins]`,
    `(1/bins, 2/bins]`, ...

    Args:
        confidences: Floats of shape `(n,)` in `[0, 1]`: the probability of each
            predicted class.
        correct: Booleans of shape `(n,)`: whether it was the real class.
        bins: Positive integer. Defaults to 15.

    Returns:
        `(counts, accuracy, confidence)` of the bins, arrays of shape
        `(bins,)`: the number of images, the part of them that is correct,
        and their mean confidence; NaN where there are no images.

    Raises:
        ValueError: If the shapes differ, there are no values, or `bins` is
            not a positive integer.

    Examples:
        >>> counts, accuracy, confidence = calibration_curve(
        ...     [0.25, 0.625, 0.875], [False, False, True], bins=2
        ... )
        >>> counts.tolist(), accuracy.tolist(), confidence.tolist()
        ([1, 2], [0.0, 0.5], [0.25, 0.75])
    """
    confidences = np.asarray(confidences, dtype="float64")
    correct = np.asarray(correct, dtype="float64")
    if confidences.ndim != 1 or confidences.shape != correct.shape or not correct.size:
        raise ValueError(
            "`confidences` and `correct` must have the same shape (n,), n > 0. "
            f"Received: shapes {confidences.shape} and {correct.shape}"
        )
    if not isinstance(bins, (int, np.integer)) or bins < 1:
        raise ValueError(f"`bins` must be a positive integer. Received: bins={bins!r}")
    index = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(index, correct, bins) / counts
        confidence = np.bincount(index, confidences, bins) / counts
    return counts, accuracy, confidence


def _check_arguments(
    model: Any, data: Any, batch_size: Any, classes: Any, data_format: str | None
) -> None:
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model` must be a keras.Model: load a file with "
            "`keras.models.load_model(path)`, weights of this package with "
            f"`AlexNetMini(weights=name)`. Received: model={model!r}"
        )
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(
            "`batch_size` must be a positive integer. "
            f"Received: batch_size={batch_size!r}"
        )
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(
            '`data_format` must be "channels_last" or "channels_first". '
            f"Received: data_format={data_format!r}"
        )
    if classes is not None and not isinstance(data, (str, os.PathLike)):
        raise ValueError(
            "`classes` selects the classes of a folder, a zip or 'sample'; name those "
            "of arrays and batches with `class_names`. "
            f"Received: classes={classes!r}, data of {type(data)}"
        )


def _read_source(
    source: Any, class_names: Sequence[str] | None, classes: Any
) -> tuple[NDArray[Any], NDArray[Any], tuple[str, ...]]:
    """Returns the val images, their labels, and the class names."""
    from keras_tinyalex.datasets import tiny_imagenet
    from keras_tinyalex.datasets.classes import select_classes
    from keras_tinyalex.datasets.layout import open_source

    opened = open_source(source)
    if "val" not in opened.images:
        raise ValueError(
            "`data` must be a source with val images; of one with training images "
            "only, evaluate the arrays: `evaluate(model, load_data(source)[0])`. "
            f"Received: data={str(source)!r}"
        )

    def select(selection: Any) -> tuple[str, ...]:
        return tuple(select_classes(opened.class_names, selection, opened.words))

    names = select(class_names if classes is None else classes)
    # The label order of a source is sorted: another one would mix up labels.
    if (
        classes is None
        and class_names is not None
        and names != tuple(select([name])[0] for name in class_names)
    ):
        raise ValueError(
            "`class_names` must be in the label order of `data`, which is that of "
            f"the sorted class names, {list(names)}. "
            f"Received: class_names={class_names}"
        )
    val = tiny_imagenet.read_split(opened, "val", names)
    return val.images, val.labels, names


def _batches(data: Any, batch_size: int) -> Batches:
    """Yields `(x, y)` batches of checked NumPy arrays."""
    if isinstance(data, tuple) and len(data) == 2:
        x, y = _checked_pair(*data)
        for start in range(0, len(x), batch_size):
            yield x[start : start + batch_size], y[start : start + batch_size]
        return
    if not isinstance(data, Iterable) or _is_infinite(data):
        raise ValueError(
            "`data` must be a tuple (x, y) of arrays, (x, y) batches that end (without "
            f"`.repeat()`), or a path. Received: data={data!r}"
        )
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                "`data` must yield pairs (x, y) of images and integer labels. "
                f"Received: a batch of {type(batch)}"
            )
        yield _checked_pair(*batch)


def _is_infinite(data: Any) -> bool:
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    # A `tf.data.Dataset` says -1; found by name, not to import TensorFlow.
    cardinality = getattr(data, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1


def _checked_pair(x: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    x, y = keras.ops.convert_to_numpy(x), keras.ops.convert_to_numpy(y)
    if y.ndim != 1 or x.ndim < 1 or len(x) != len(y):
        raise ValueError(
            "`data` must hold as many labels y of shape (N,) as images x of shape "
            f"(N, H, W, C). Received: x.shape={x.shape}, y.shape={y.shape}"
        )
    if y.size and y.dtype.kind not in "iu":
        raise ValueError(
            "`data` must hold integer labels y; convert them with "
            f"`y.astype('int64')`. Received: y.dtype={y.dtype}"
        )
    return x, y


def _predict(
    model: Any,
    batches: Batches,
    tta: bool,
    data_format: str,
    class_names: Sequence[str] | None,
) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """Returns the labels and the raw outputs, one array for each view."""
    labels: list[NDArray[Any]] = []
    outputs: list[list[NDArray[Any]]] = [[], []] if tta else [[]]
    for x, y in batches:
        if not len(x):
            continue
        _check_images(model, x, tta)
        labels.append(y.astype("int64"))
        outputs[0].append(_outputs(model, x))
        _check_classes(labels[-1], outputs[0][-1].shape[1], class_names)
        if tta:
            width_axis = -2 if data_format == "channels_last" else -1
            # torch takes no negative strides, hence the copy.
            mirrored = np.ascontiguousarray(np.flip(x, width_axis))
            outputs[1].append(_outputs(model, mirrored))
    if not labels:
        raise ValueError("`data` must hold at least one image. Received: no images")
    return np.concatenate(labels), [np.concatenate(view) for view in outputs]


def _check_images(model: Any, x: NDArray[Any], tta: bool) -> None:
    if tta and x.ndim != 4:
        raise ValueError(
            "`tta` mirrors images, so `data` must hold images of rank 4. "
            f"Received: tta={tta}, x.shape={x.shape}"
        )
    expected = getattr(model, "input_shape", None)
    if not isinstance(expected, tuple):
        return  # several inputs, or not built: Keras judges
    if len(expected) != x.ndim or any(
        size not in (None, got)
        for size, got in zip(expected[1:], x.shape[1:], strict=True)
    ):
        raise ValueError(
            f"`data` must hold images of the model's input shape {expected}; resize "
            f"them, or use another model. Received: x.shape={x.shape}"
        )


def _outputs(model: Any, x: NDArray[Any]) -> NDArray[np.float64]:
    outputs = model.predict_on_batch(x)
    shape = getattr(outputs, "shape", type(outputs))
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != len(x):
        raise ValueError(
            "`model` must be a classifier with one output of shape (batch, classes). "
            f"Received: for {len(x)} images, an output of {shape}"
        )
    result: NDArray[np.float64] = np.asarray(outputs, dtype="float64")
    bad = int(np.sum(~np.isfinite(result).all(axis=-1)))
    if bad:
        raise ValueError(
            "`model` must give finite outputs; its weights are probably damaged, or "
            "its training diverged: load others. "
            f"Received: NaN or infinity for {bad} of {len(x)} images"
        )
    return result


def _check_classes(
    labels: NDArray[np.int64], count: int, class_names: Sequence[str] | None
) -> None:
    if class_names is not None:
        different = len(set(class_names))
        if len(class_names) != count or different != count:
            raise ValueError(
                f"`class_names` must be {count} different names, one for each output "
                "of the model; of a source, choose the model's classes with `classes`. "
                f"Received: {len(class_names)} names, {different} different"
            )
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(
            f"`data` must hold labels from 0 to {count - 1}, as the model has {count} "
            "outputs; keep to the classes that it was trained on. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )


def _probabilities(views: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Returns the mean over the views of their probabilities, `(n, C)`."""
    first = views[0]
    # Rows of a bfloat16 softmax miss 1 by some 0.4%.
    sums_to_one = np.all(np.abs(first.sum(axis=-1) - 1) < 0.01)
    if not (sums_to_one and np.all((first >= 0) & (first <= 1))):
        views = [_softmax(outputs) for outputs in views]
    mean: NDArray[np.float64] = np.mean(views, axis=0)
    return mean


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _measure(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    class_names: Sequence[str] | None,
) -> Evaluation:
    n, count = probabilities.shape
    names = tuple(map(str, range(count) if class_names is None else class_names))
    predictions = probabilities.argmax(axis=-1)
    confidences = probabilities.max(axis=-1)
    correct = predictions == labels
    real = probabilities[np.arange(n), labels]
    higher = (probabilities > real[:, None]).sum(axis=-1)
    confusion = np.bincount(labels * count + predictions, minlength=count**2)
    confusion = confusion.reshape(count, count)
    totals, hits = confusion.sum(axis=1), confusion.diagonal()
    return Evaluation(
        top1=float(correct.mean()),
        top5=float((higher < TOP_K).mean()),
        loss=float(-np.log(np.clip(real, SMALLEST_PROBABILITY, 1.0)).mean()),
        n=n,
        ece=expected_calibration_error(confidences, correct),
        interval=wilson_interval(int(correct.sum()), n),
        per_class={
            name: float(hit / total)
            for name, hit, total in zip(names, hits, totals, strict=True)
            if total
        },
        class_names=names,
        confusion=confusion,
        labels=labels,
        predictions=predictions,
        confidences=confidences,
    )
