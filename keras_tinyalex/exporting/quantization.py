"""Quantizes exported files: which function, with which packages."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import keras

from keras_tinyalex.exporting import float16, int8
from keras_tinyalex.exporting.formats import Array

Quantize: TypeAlias = Callable[[Path, Path, keras.Model, Array | None], None]
"""Function `(exported file, new file, model, calibration images)`."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides the progress bars, tables and hints of the tools."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def quantize_file(
    format: str,
    quantize: str,
    source: Path,
    target: Path,
    model: keras.Model,
    images: Array | None,
) -> None:
    """Quantizes an exported file.

    Args:
        format: Name of the format.
        quantize: `"float16"` or `"int8"`.
        source: The exported float32 file.
        target: The file to write.
        model: The model that was exported.
        images: Calibration images, for `"int8"`.
    """
    _, function = QUANTIZATIONS[format, quantize]
    with quiet():
        function(source, target, model, images)


# The packages to quantize, and the function, by format and kind.
QUANTIZATIONS: dict[tuple[str, str], tuple[tuple[str, ...], Quantize]] = {
    ("onnx", "float16"): (("onnx",), float16.quantize_onnx),
    ("onnx", "int8"): (("onnx", "onnxruntime"), int8.quantize_onnx),
    ("litert", "float16"): (("litert_quantizer",), float16.quantize_litert),
    ("litert", "int8"): (("litert_quantizer",), int8.quantize_litert),
    ("openvino", "float16"): (("openvino",), float16.quantize_openvino),
    ("openvino", "int8"): (("openvino", "nncf"), int8.quantize_openvino),
}
