"""Exports models to other runtimes, and verifies that the scores agree."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tinyalex import web
from keras_tinyalex.aliases import PathLike
from keras_tinyalex.applications import load_model
from keras_tinyalex.exporting import measuring
from keras_tinyalex.exporting.checks import (
    check_numbers,
    check_path,
    check_quantization,
    checked_names,
)
from keras_tinyalex.exporting.formats import FORMATS, Array, Run
from keras_tinyalex.exporting.measuring import Comparison
from keras_tinyalex.exporting.networks import in_float32, with_plain_normalization
from keras_tinyalex.exporting.quantization import quantize_file
from keras_tinyalex.exporting.result import Export

# Largest accepted difference between a score of Keras and of the exported model.
# Runtimes sum in different orders; the first is a hundred times the difference that was
# seen on float32 models. float16 has 11 digits, and int8 is judged by the mean.
TOLERANCES = {None: 1e-4, "float16": 0.02}
# Of a page, whose weights are integers.
PAGE_TOLERANCE = 0.02
# Of the largest difference of each calibration image, the largest accepted mean.
INT8_TOLERANCE = 0.05


def export(
    model: keras.Model | PathLike,
    path: PathLike,
    format: str = "onnx",
    verify: bool = True,
    class_names: Sequence[str] | None = None,
    *,
    quantize: str | None = None,
    calibration: PathLike | None = None,
    data: PathLike | None = None,
    max_loss: float = 1.0,
    seed: int = 0,
) -> Export:
    """Exports a model to another runtime, and verifies it there.

    The exported model takes float32 pixels `(batch, 64, 64, 3)` in 0..255, for
    any batch size; it scales them itself, and returns float32 scores, also where
    it computes in 8-bit integers. The class names are written to
    `<path>.labels.txt`, one per line. Models with a half-precision dtype policy
    are exported in float32.

    The exported model is compared with Keras: on 8 random images, where a score
    may differ by 0.0001 (0.02 with `"float16"` and `"web"`); with `"int8"` on the
    calibration images, where the mean of the largest difference of each may be
    0.05; and on the val images of `data`, where the top-1 accuracy may fall by
    `max_loss`, which takes the place of the rule for `"int8"`.

    If the export or its verification fails, nothing is left at `path`.

    Args:
        model: A `keras.Model`, a name from `list_weights()`, or the path of a
            `.keras` or `.h5` file.
        path: File to write, or folder for `"saved_model"` and `"web"`. It must
            not exist.
        format: `"onnx"` (ONNX Runtime), `"litert"` (LiteRT, formerly TFLite),
            `"openvino"` (Intel), `"saved_model"` (TensorFlow) or `"web"` (a page
            that classifies pictures in the browser, for any AlexNetMini). Defaults
            to `"onnx"`.
        verify: Whether to run the exported model and compare its scores with
            those of Keras. Defaults to `True`.
        class_names: Class names in label order. Defaults to those stored in
            the file of the model.
        quantize: `"float16"` stores the weights in half the space. `"int8"`
            stores them in a quarter of it, and computes in 8-bit integers but
            for the first convolution and local response normalization.
            Defaults to `None`: float32.
        calibration: The source of images, as in `load_data`, whose training
            images set the ranges of the activations: 512 of the model's
            classes, at least 100. `"int8"` needs it.
        data: The source of images, as in `load_data`, on whose val images
            Keras and the exported model are measured. Defaults to `None`.
        max_loss: Number from 0 to 100, the points of top-1 accuracy that the
            exported model may lose on `data`. Defaults to `1.0`.
        seed: Non-negative integer that the choice of the calibration images
            depends on. The same seed gives the same file. Defaults to `0`.

    Returns:
        An `Export`.

    Raises:
        FileExistsError: If `path` exists.
        ImportError: If a package is missing; the message has the command that
            installs it.
        ValueError: If an argument is out of its range, the backend cannot
            export the format, a source lacks classes of the model, or the
            exported model differs more than it may.

    Examples:
        >>> from keras_tinyalex import AlexNetMini
        >>> model = AlexNetMini(num_classes=2, width_multiplier=1 / 16)
        >>> result = export(model, "animals", "saved_model", class_names=["cat", "dog"])
        >>> result.max_difference < 1e-4
        True
        >>> Path("animals.labels.txt").read_text().split()
        ['cat', 'dog']
    """
    path = Path(path)
    check_numbers(max_loss, seed)
    check_quantization(format, quantize, calibration)
    chosen = check_path(path, format, quantize, verify or data is not None)
    source = None if isinstance(model, keras.Model) else model
    with _folder_beside(path) as folder:
        if not isinstance(model, keras.Model):
            model, stored = load_model(model)
            class_names = class_names or stored
        names = checked_names(model, class_names, needed=format == "web")
        model = in_float32(model)
        images = _random_images(model)
        if calibration is not None:
            images = measuring.calibration_images(model, calibration, names, seed)
        val = None
        if data is not None:
            val = measuring.read_images("data", model, data, names, "val")
        if format == "web":
            exported = Path(folder, "page")
            web.write_page(model, exported, names or (), source)
        else:
            exported = _convert(model, Path(folder), format, quantize, images)
        measured: dict[str, Any] = {}
        if verify or val is not None:
            run = chosen.open(exported)
            judged = verify and not (quantize == "int8" and val is not None)
            if judged:
                measured = _verify(model, run, images, format, quantize)
            if val is not None:
                measured = _measure(model, run, *val, max_loss, format)
            del run  # some runtimes keep the file open
        size = _publish(exported, path, None if format == "web" else names)
    difference = measured.pop("max_difference", None)
    return Export(path, format, size, names, difference, quantize, **measured)


def _folder_beside(path: Path) -> tempfile.TemporaryDirectory[str]:
    """Returns a temporary folder on the disk of `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"`path` must be in a folder that can be written ({error.strerror}). "
            f"Choose another. Received: path={str(path)!r}",
        ) from None


def _random_images(model: keras.Model) -> Array:
    shape = [64 if length is None else length for length in model.input_shape[1:]]
    return np.random.default_rng(0).integers(0, 256, (8, *shape)).astype(np.float32)


def _convert(
    model: keras.Model,
    folder: Path,
    format: str,
    quantize: str | None,
    images: Array,
) -> Path:
    """Writes the exported, and perhaps quantized, model; returns its path."""
    plain = with_plain_normalization(model)
    plain.predict(images[:8], verbose=0)  # Keras exports what was called
    # Some converters require the suffix.
    exported = folder / ("model" + FORMATS[format].suffix)
    plain.export(str(exported), format=FORMATS[format].keras_name, verbose=False)
    if quantize is None:
        return exported
    quantized = folder / "quantized" / exported.name
    quantized.parent.mkdir()
    quantize_file(format, quantize, exported, quantized, plain, images)
    return quantized


def _verify(
    model: keras.Model, run: Run, images: Array, format: str, quantize: str | None
) -> dict[str, Any]:
    """Compares scores with Keras', and refuses those that differ too much."""
    scores = measuring.scores_of(run, images)
    found = measuring.compare(scores, _scores_of_keras(model, images, format))
    if quantize == "int8":
        _require_at_most(INT8_TOLERANCE, found.mean_difference, format, " on average")
    elif format == "web":
        # With the weights of the page, it is as exact as the others.
        same = _scores_of_keras(web.dequantized(model), images, format)
        exact = measuring.compare(scores, same).max_difference
        _require_at_most(TOLERANCES[None], exact, format)
        _require_at_most(PAGE_TOLERANCE, found.max_difference, format)
    else:
        _require_at_most(TOLERANCES[quantize], found.max_difference, format)
    return _fields(found)


def _require_at_most(
    limit: float, difference: float, format: str, kind: str = ""
) -> None:
    if not difference <= limit:  # nor NaN
        raise ValueError(
            f"The exported {format} model differs from Keras by {difference:.2g}"
            f"{kind}, more than {limit}; nothing was written."
        )


def _scores_of_keras(model: keras.Model, images: Any, format: str) -> Array:
    """Returns the scores of a model, for a page always as probabilities of pixels."""
    if format == "web":
        return web.expected_scores(model, np.asarray(images, np.float32))
    return measuring.scores_of(model.predict_on_batch, images)


def _measure(
    model: keras.Model,
    run: Run,
    images: Any,
    labels: Any,
    max_loss: float,
    format: str,
) -> dict[str, Any]:
    """Measures both on val images, and refuses a loss of more than `max_loss`."""
    expected = _scores_of_keras(model, images, format)
    scores = measuring.scores_of(run, images)
    top1_keras = measuring.accuracy(expected, labels)
    top1_exported = measuring.accuracy(scores, labels)
    if not (loss := 100 * (top1_keras - top1_exported)) <= max_loss:
        raise ValueError(
            f"`max_loss` must be at least {loss:.2f} to accept this model, whose top 1 "
            f"falls from {top1_keras:.4f} to {top1_exported:.4f} on {len(labels)} val "
            f"images; nothing was written. Received: max_loss={max_loss}"
        )
    return {
        **_fields(measuring.compare(scores, expected)),
        "top1_keras": top1_keras,
        "top1_exported": top1_exported,
        "milliseconds_keras": measuring.milliseconds(model.predict_on_batch, images),
        "milliseconds_exported": measuring.milliseconds(run, images),
    }


def _fields(found: Comparison) -> dict[str, Any]:
    """The fields of an `Export` that a comparison sets."""
    fields = dataclasses.asdict(found)
    del fields["mean_difference"]
    return fields


def _publish(exported: Path, path: Path, class_names: tuple[str, ...] | None) -> int:
    """Moves the files of an export into place; returns their size in bytes."""
    moves = [(exported, path)]
    if exported.with_suffix(".bin").exists():  # the weights of OpenVINO
        moves.insert(0, (exported.with_suffix(".bin"), path.with_suffix(".bin")))
    if class_names is not None:
        labels = exported.with_name("labels.txt")
        # One per line, and UTF-8 also where the name of a folder is not.
        lines = [" ".join(name.splitlines()) + "\n" for name in class_names]
        labels.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
        moves.insert(0, (labels, path.with_name(path.name + ".labels.txt")))
    for source, destination in moves:
        os.replace(source, destination)
    files = [f for _, target in moves for f in (target, *target.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())
