"""Refuses arguments of `export` that cannot work, before any work is done."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.arguments import check_choice, check_integer, check_number
from keras_tinyalex.exporting.formats import EXPORTERS, FORMATS, Format
from keras_tinyalex.exporting.quantization import QUANTIZATIONS, quiet


def check_numbers(max_loss: Any, seed: Any) -> None:
    check_number("max_loss", max_loss, minimum=0, maximum=100)
    check_integer("seed", seed, minimum=0)


def check_quantization(
    format: str, quantize: str | None, calibration: PathLike | None
) -> None:
    check_choice("format", format, sorted(FORMATS))
    check_choice("quantize", quantize, (None, "float16", "int8"))
    if quantize is not None and (format, quantize) not in QUANTIZATIONS:
        others = sorted({name for name, _ in QUANTIZATIONS})
        raise ValueError(
            f"`quantize` must be None for format {format!r}. Choose one of "
            f"{', '.join(others)}. Received: quantize={quantize!r}"
        )
    if quantize == "int8" and calibration is None:
        raise ValueError(
            "`calibration` must be a source of training images, e.g. the data of the "
            "training, if `quantize` is 'int8'. Received: calibration=None"
        )
    if quantize != "int8" and calibration is not None:
        raise ValueError(
            "`calibration` must be None unless `quantize` is 'int8': nothing else "
            f"needs images. Received: calibration={str(calibration)!r}, "
            f"quantize={quantize!r}"
        )


def check_path(path: Path, format: str, quantize: str | None, verify: bool) -> Format:
    chosen = FORMATS[format]
    backend = keras.backend.backend()
    if backend not in chosen.backends:
        raise ValueError(
            f"`format` must be one that Keras can export on the backend {backend}. "
            "Set KERAS_BACKEND=tensorflow, which loads models saved on any backend. "
            f"Received: format={format!r}, KERAS_BACKEND={backend!r}"
        )
    if chosen.suffix and path.suffix != chosen.suffix:
        raise ValueError(
            f"`path` must end in {chosen.suffix!r} for format {format!r}. "
            f"Received: path={str(path)!r}"
        )
    if path.exists():
        raise FileExistsError(
            "`path` must not exist. Remove it or choose another path. "
            f"Received: path={str(path)!r}"
        )
    needed = chosen.packages if verify else chosen.packages[:1]
    needed = (*needed, *EXPORTERS.get((format, backend), ()))
    _try_packages(f"`format` {format!r}", "export", needed)
    if quantize is not None:
        packages, _ = QUANTIZATIONS[format, quantize]
        what = f"`quantize` {quantize!r} for format {format!r}"
        _try_packages(what, "export,quantize", packages)
    return chosen


def _try_packages(what: str, extras: str, packages: Sequence[str]) -> None:
    # Without it, nncf reports its use to its makers.
    os.environ.setdefault("NNCF_CI", "1")
    for package in packages:
        # The name on the package index.
        name = package.replace("_", "-")
        try:
            with quiet():
                importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"{what} needs the package {name}: "
                f'pip install "keras-tinyalex[{extras}]" {name} ({error})'
            ) from error


def checked_names(
    model: keras.Model, class_names: Sequence[str] | None, needed: bool = False
) -> tuple[str, ...] | None:
    names = tuple(class_names) if class_names is not None else None
    if names is None and needed:
        raise ValueError(
            "`class_names` must be given for format 'web' and a model whose file has "
            "none; `save_model` stores them in it. Received: class_names=None"
        )
    if names is not None and len(names) != model.output_shape[-1]:
        raise ValueError(
            f"`class_names` must be {model.output_shape[-1]} names, one for each "
            f"class of the model. Received: len(class_names)={len(names)}"
        )
    return names
