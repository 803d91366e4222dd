"""Measures classifiers, without printing or plotting."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from keras_tinyalex.aliases import Labels, PathLike, Tensor
from keras_tinyalex.applications.shipped import known_class_names
from keras_tinyalex.arguments import check_choice, check_integer
from keras_tinyalex.labelled_data import (
    Pair,
    batches,
    class_numbers,
    find_data_format,
    read_source,
)
from keras_tinyalex.metrics import (
    calibration_curve,
    expected_calibration_error,
    wilson_interval,
)
from keras_tinyalex.tables import csv_file

if TYPE_CHECKING:
    from keras_tinyalex.datasets.classes import Classes

__all__ = [
    "Evaluation",
    "calibration_curve",
    "evaluate",
    "expected_calibration_error",
    "wilson_interval",
]

TOP_K = 5
MIN_PROBABILITY = 1e-7
# Of the table by class.
CLASS_COLUMNS = (
    *("class_name", "name", "n", "accuracy", "low", "high"),
    *("confused_with", "confused"),
)

Probabilities: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of `evaluate()` for `n` images and `C` classes.

    Attributes:
        top1: Float in `[0, 1]`. Top-1 accuracy: the fraction of images whose
            most probable class is the true label (in a tie, the lowest label).
        top5: Float in `[0, 1]`. Top-5 accuracy: the fraction of images with
            fewer than 5 classes strictly more probable than the true label.
            Ties count as correct, as in
            `keras.metrics.SparseTopKCategoricalAccuracy`. It is 1.0 where
            `C <= 5`.
        loss: Float. Mean cross entropy in nats, of probabilities clipped at
            1e-7.
        n: Integer. Number of images.
        ece: Float in `[0, 1]`. Expected calibration error; see
            `expected_calibration_error()`.
        interval: `(low, high)`. The 95% Wilson score interval of `top1`.
        per_class: Dictionary of class name to top-1 accuracy, in label order.
            Classes without images are left out.
        class_names: Tuple of `C` strings, in label order.
        confusion: Integer array of shape `(C, C)`: number of images by true
            label (rows) and prediction (columns).
        labels: Integer array of shape `(n,)`, the true labels.
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
    labels: Labels = field(repr=False)
    predictions: Labels = field(repr=False)
    confidences: NDArray[np.float64] = field(repr=False)

    @property
    def confidence_correct(self) -> float | None:
        """Mean confidence of the correct predictions, `None` if there are none."""
        return self._mean_confidence(True)

    @property
    def confidence_wrong(self) -> float | None:
        """Mean confidence of the wrong predictions, `None` if there are none."""
        return self._mean_confidence(False)

    def _mean_confidence(self, correct: bool) -> float | None:
        chosen = self.confidences[(self.predictions == self.labels) == correct]
        return float(chosen.mean()) if len(chosen) else None

    def as_dict(self) -> dict[str, Any]:
        """Returns the numbers (not the arrays) as a JSON-ready dictionary."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "n": self.n,
            "ece": self.ece,
            "interval": list(self.interval),
            "confidence_correct": self.confidence_correct,
            "confidence_wrong": self.confidence_wrong,
            "per_class": dict(self.per_class),
        }

    def save_per_class(
        self, path: PathLike, words: Mapping[str, str] | None = None
    ) -> None:
        """Writes a CSV table with a row for each class that has images.

        Its columns are `class_name`, `name` (a readable one), `n` (images),
        `accuracy`, `low` and `high` (95% Wilson score interval), `confused_with`
        (the wrong class that was predicted most often, empty where none was) and
        `confused` (how many images got it).

        Args:
            path: The file, which is replaced.
            words: Readable names by class name. Defaults to those of Tiny
                ImageNet.

        Raises:
            OSError: If the file cannot be written.

        Examples:
            >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
            >>> scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
            >>> result = evaluate(model, (scores, np.array([0, 0, 1])), ["cat", "dog"])
            >>> result.save_per_class("per_class.csv")
            >>> print(open("per_class.csv", encoding="utf-8-sig").read())
            class_name,name,n,accuracy,low,high,confused_with,confused
            cat,cat,2,0.5000,0.0945,0.9055,dog,1
            dog,dog,1,1.0000,0.2065,1.0000,,0
            <BLANKLINE>
        """
        # Read when used: a measurement itself needs no names.
        from keras_tinyalex.datasets.classes import readable_name

        with csv_file(Path(path), CLASS_COLUMNS) as table:
            for label, name in enumerate(self.class_names):
                wrong = self.confusion[label].copy()
                hits, wrong[label] = int(wrong[label]), 0
                n = hits + int(wrong.sum())
                if not n:
                    continue
                low, high = wilson_interval(hits, n)
                most = int(wrong.argmax())
                row = (
                    *(name, readable_name(name, words), n),
                    *(f"{value:.4f}" for value in (hits / n, low, high)),
                    *(self.class_names[most] if wrong[most] else "", int(wrong[most])),
                )
                table.writerow(dict(zip(CLASS_COLUMNS, row, strict=True)))


def evaluate(
    model: keras.Model,
    data: tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]] | PathLike,
    class_names: Sequence[str] | None = None,
    batch_size: int = 128,
    tta: bool = False,
    *,
    classes: Classes = None,
    data_format: str | None = None,
) -> Evaluation:
    """Measures a classifier on labeled images.

    The model's outputs are taken as probabilities if each row is in `[0, 1]`
    and sums to 1 (within 0.01). Otherwise they are taken as logits, and a
    softmax is applied. The model is not changed and need not be compiled.

    Args:
        model: A `keras.Model` with one output of shape `(batch, C)`:
            probabilities or logits.
        data: One of

            * a tuple `(x, y)` of arrays: images `(N, H, W, C)`, uint8 or
              float, as the model takes them, and labels: integers `(N,)` or
              `(N, 1)`, or one-hot `(N, C)`;
            * an iterable of such `(x, y)` batches: a
              `keras.utils.PyDataset`, a `tf.data.Dataset`, a list;
            * a source as in `datasets.tiny_imagenet.load_data`: a folder, a
              zip file or `"sample"`. Its val images are evaluated; where there
              are none, the 10% of the training images that `train` holds out.
              `load_dataset(source, "all")` has every image.
        class_names: `C` unique strings in label order, or a name from
            `list_weights()` for its classes. If `data` is a source, these
            classes are read from it. Defaults to the `class_names` of
            `data`, or else to `"0"`, `"1"`, ...
        batch_size: Number of images in a batch. Batches of an iterable keep
            their size. Defaults to 128.
        tta: Test-time augmentation: whether to average the probabilities of
            each image and its horizontal mirror. Defaults to `False`.
        classes: The classes to read if `data` is a source, as in `load_data`.
            Defaults to `class_names`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to that
            of the model's input shape, or `keras.config.image_data_format()`
            where the shape does not tell.

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
    class_names = known_class_names(class_names)
    data_format = data_format or find_data_format(model)
    names: Sequence[str] | None = getattr(data, "class_names", None)
    if isinstance(data, (str, os.PathLike)):
        x, y, names = read_source(model, data, class_names, classes, data_format)
        data = (x, y)
    names = names if class_names is None else class_names
    labels, views = _predict(model, batches(data, batch_size), tta, data_format, names)
    return _measure(labels, _probabilities(views), names)


def _check_arguments(
    model: Any, data: Any, batch_size: Any, classes: Any, data_format: str | None
) -> None:
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model` must be a `keras.Model`. Load a file with "
            "`keras.models.load_model(path)`, or weights of this package with "
            f"`AlexNetMini(weights=name)`. Received: model={model!r}"
        )
    check_integer("batch_size", batch_size)
    check_choice("data_format", data_format, (None, "channels_last", "channels_first"))
    if classes is not None and not isinstance(data, (str, os.PathLike)):
        raise ValueError(
            "`classes` must be None unless `data` is a folder, a zip file or 'sample'. "
            "Name the classes of arrays and batches with `class_names`. "
            f"Received: classes={classes!r}, type(data)={type(data)}"
        )


def _predict(
    model: keras.Model,
    data: Iterable[Pair],
    tta: bool,
    data_format: str,
    class_names: Sequence[str] | None,
) -> tuple[Labels, list[NDArray[np.float64]]]:
    """Returns the labels and the raw outputs, one array for each view."""
    labels: list[Labels] = []
    outputs: list[list[NDArray[Any]]] = [[], []] if tta else [[]]
    for x, y in data:
        if not len(x):
            continue
        _check_images(model, x, tta)
        outputs[0].append(_outputs(model, x))
        labels.append(class_numbers(y, outputs[0][-1].shape[1]))
        _check_classes(labels[-1], outputs[0][-1].shape[1], class_names)
        if tta:
            width_axis = -2 if data_format == "channels_last" else -1
            # A copy, as torch does not accept negative strides.
            mirrored = np.ascontiguousarray(np.flip(x, width_axis))
            outputs[1].append(_outputs(model, mirrored))
    if not labels:
        raise ValueError("`data` must hold at least one image. Received: no images")
    return np.concatenate(labels), [np.concatenate(view) for view in outputs]


def _check_images(model: keras.Model, x: NDArray[Any], tta: bool) -> None:
    if tta and x.ndim != 4:
        raise ValueError(
            "`tta` must be False unless `data` holds images of rank 4. "
            f"Received: tta={tta}, x.shape={x.shape}"
        )
    expected = getattr(model, "input_shape", None)
    if not isinstance(expected, tuple):
        return  # several inputs, or not built: Keras checks
    if len(expected) != x.ndim or any(
        size not in (None, got)
        for size, got in zip(expected[1:], x.shape[1:], strict=True)
    ):
        raise ValueError(
            f"`data` must hold images of the model's input shape {expected}. Resize "
            f"them or use another model. Received: x.shape={x.shape}"
        )


def _outputs(model: keras.Model, x: NDArray[Any]) -> NDArray[np.float64]:
    outputs = model.predict_on_batch(x)
    shape = getattr(outputs, "shape", type(outputs))
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != len(x):
        raise ValueError(
            "`model` must be a classifier with one output of shape (batch, classes). "
            f"Received: for {len(x)} images, an output of {shape}"
        )
    result: NDArray[np.float64] = np.asarray(outputs, dtype="float64")
    not_finite = int(np.sum(~np.isfinite(result).all(axis=-1)))
    if not_finite:
        raise ValueError(
            "`model` must return finite outputs. Its weights are probably damaged, or "
            "its training diverged: load other weights. "
            f"Received: NaN or infinity for {not_finite} of {len(x)} images"
        )
    return result


def _check_classes(
    labels: Labels, count: int, class_names: Sequence[str] | None
) -> None:
    if class_names is not None:
        unique = len(set(class_names))
        if len(class_names) != count or unique != count:
            raise ValueError(
                f"`class_names` must be {count} unique names, one for each output of "
                "the model. If `data` is a source, choose the model's classes with "
                f"`classes`. Received: {len(class_names)} names, {unique} unique"
            )
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(
            f"`data` must hold labels from 0 to {count - 1}, as the model has {count} "
            "outputs. Load the classes that it was trained on. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )


def _probabilities(views: list[NDArray[np.float64]]) -> Probabilities:
    """Returns the mean probabilities of the views, `(n, C)`."""
    first = views[0]
    # Rows of a bfloat16 softmax differ from 1 by about 0.4%.
    sums_to_one = np.all(np.abs(first.sum(axis=-1) - 1) < 0.01)
    if not (sums_to_one and np.all((first >= 0) & (first <= 1))):
        views = [_softmax(outputs) for outputs in views]
    mean: Probabilities = np.mean(views, axis=0)
    return mean


def _softmax(logits: NDArray[np.float64]) -> Probabilities:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Probabilities = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _measure(
    labels: Labels, probabilities: Probabilities, class_names: Sequence[str] | None
) -> Evaluation:
    n, count = probabilities.shape
    names = tuple(map(str, range(count) if class_names is None else class_names))
    predictions = probabilities.argmax(axis=-1)
    confidences = probabilities.max(axis=-1)
    correct = predictions == labels
    of_true_label = probabilities[np.arange(n), labels]
    higher = (probabilities > of_true_label[:, None]).sum(axis=-1)
    confusion = np.bincount(labels * count + predictions, minlength=count**2)
    confusion = confusion.reshape(count, count)
    totals, hits = confusion.sum(axis=1), confusion.diagonal()
    return Evaluation(
        top1=float(correct.mean()),
        top5=float((higher < TOP_K).mean()),
        loss=float(-np.log(np.clip(of_true_label, MIN_PROBABILITY, 1.0)).mean()),
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
