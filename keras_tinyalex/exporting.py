"""Exports models to other runtimes and checks that they answer alike."""

from __future__ import annotations

import dataclasses
import importlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_tinyalex.applications.weights import load_model

Scores = npt.NDArray[np.float32]
# Largest difference between the scores of Keras and of the exported model. Runtimes
# sum in other orders; on float32 models this is a hundred times what was seen.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Export:
    """An exported model.

    Attributes:
        path: The file, or the folder of a SavedModel.
        format: See `export`.
        size: Bytes of everything that was written, labels included.
        class_names: Class names in label order, or `None`.
        max_difference: Largest difference of a score from Keras', over 8
            random images; `None` if it was not verified.
    """

    path: Path
    format: str
    size: int
    class_names: tuple[str, ...] | None
    max_difference: float | None

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as a JSON-ready dict."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class _Format:
    """How Keras names a format, who can make it, and what runs it."""

    keras_name: str
    suffix: str
    backends: tuple[str, ...]
    packages: tuple[str, ...]
    run: Callable[[Path, Scores], Scores]


def export(
    model: Any,
    path: str | os.PathLike[str],
    format: str = "onnx",
    verify: bool = True,
    class_names: Sequence[str] | None = None,
) -> Export:
    """Exports a model for another runtime, and checks the result there.

    The exported model takes float32 pixels `(batch, 64, 64, 3)` in 0..255,
    for any batch size: the scaling is inside. The class names go beside it,
    one a line, into `<path>.labels.txt`. Models of half precision policies
    are exported in float32.

    Nothing is left at `path` if the export or its check fails.

    Args:
        model: A `keras.Model`, a name from `list_weights()`, or the path of a
            `.keras` or `.h5` file.
        path: File to write, or folder for `"saved_model"`. It must not exist.
        format: `"onnx"` (ONNX Runtime), `"litert"` (LiteRT, formerly TFLite),
            `"openvino"` (Intel) or `"saved_model"` (TensorFlow).
        verify: Whether to run the exported model on 8 random images and
            compare its scores with Keras'.
        class_names: Class names in label order. Default: those stored with
            the model's file.

    Returns:
        An `Export`.

    Raises:
        FileExistsError: If `path` exists.
        ImportError: If a package is missing; says how to install it.
        ValueError: If an argument is out of its range, the backend cannot
            make the format, or the exported model answers otherwise.

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
    chosen = _check_arguments(path, format, verify)
    if not isinstance(model, keras.Model):
        model, stored = load_model(model)
        class_names = class_names or stored
    names = tuple(class_names) if class_names is not None else None
    if names is not None and len(names) != model.output_shape[-1]:
        raise ValueError(
            f"`class_names` must name the {model.output_shape[-1]} classes of the "
            f"model. Received: {len(names)} names"
        )
    model = _in_float32(model)
    images = _random_images(model)
    expected = model.predict(images, verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        # Converters want their suffix.
        made = Path(folder, "model" + chosen.suffix)
        model.export(str(made), format=chosen.keras_name, verbose=False)
        difference = None
        if verify:
            difference = float(np.abs(chosen.run(made, images) - expected).max())
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"The exported {format} model differs from Keras by "
                    f"{difference:.2g}, more than {TOLERANCE}; nothing was written."
                )
        size = _publish(made, path, names)
    return Export(path, format, size, names, difference)


def _check_arguments(path: Path, format: str, verify: bool) -> _Format:
    if format not in _FORMATS:
        raise ValueError(
            f"`format` must be one of {sorted(_FORMATS)}. Received: format={format!r}"
        )
    chosen = _FORMATS[format]
    backend = keras.backend.backend()
    if backend not in chosen.backends:
        raise ValueError(
            f"`format` {format!r} can be made under the backends {chosen.backends}; "
            "a model saved under one loads under all: set KERAS_BACKEND=tensorflow. "
            f"Received: KERAS_BACKEND={backend}"
        )
    if chosen.suffix and path.suffix != chosen.suffix:
        raise ValueError(
            f"`path` must end in {chosen.suffix!r} for format {format!r}. "
            f"Received: path={str(path)!r}"
        )
    if path.exists():
        raise FileExistsError(
            f"`path` must not exist; remove it or choose another. "
            f"Received: path={str(path)!r}"
        )
    needed = chosen.packages if verify else chosen.packages[:1]
    for package in needed:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"`format` {format!r} needs the package {package}: "
                f'pip install "keras-tinyalex[export]" ({error})'
            ) from error
    return chosen


def _in_float32(model: Any) -> Any:
    if all(layer.dtype_policy.name == "float32" for layer in model.layers):
        return model

    def copy(layer: Any) -> Any:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    single = keras.models.clone_model(model, clone_function=copy)
    single.set_weights(model.get_weights())
    return single


def _random_images(model: Any) -> Scores:
    shape = [64 if length is None else length for length in model.input_shape[1:]]
    return np.random.default_rng(0).integers(0, 256, (8, *shape)).astype(np.float32)


def _publish(made: Path, path: Path, class_names: tuple[str, ...] | None) -> int:
    """Moves the files of an export into place; returns their bytes."""
    moves = [(made, path)]
    if made.with_suffix(".bin").exists():  # the weights of OpenVINO
        moves.insert(0, (made.with_suffix(".bin"), path.with_suffix(".bin")))
    if class_names is not None:
        labels = made.with_name("labels.txt")
        labels.write_text("\n".join(class_names) + "\n", encoding="utf-8")
        moves.insert(0, (labels, path.with_name(path.name + ".labels.txt")))
    for source, destination in moves:
        os.replace(source, destination)
    files = [f for _, target in moves for f in (target, *target.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def _run_onnx(path: Path, images: Scores) -> Scores:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    scores: Scores = session.run(None, {session.get_inputs()[0].name: images})[0]
    return scores


def _run_litert(path: Path, images: Scores) -> Scores:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, images)
    interpreter.invoke()
    scores: Scores = interpreter.get_tensor(
        interpreter.get_output_details()[0]["index"]
    )
    return scores


def _run_openvino(path: Path, images: Scores) -> Scores:
    import openvino

    # Its default on processors with bfloat16 is to compute in that.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    scores: Scores = openvino.compile_model(str(path), "CPU", options)(images)[0]
    return scores


def _run_saved_model(path: Path, images: Scores) -> Scores:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # held: it owns the variables
    return np.asarray(loaded.serve(images))


_FORMATS = {
    "onnx": _Format(
        "onnx", ".onnx", ("tensorflow", "torch"), ("onnx", "onnxruntime"), _run_onnx
    ),
    "litert": _Format(
        "litert",
        ".tflite",
        ("tensorflow",),
        ("tensorflow", "ai_edge_litert"),
        _run_litert,
    ),
    "openvino": _Format(
        "openvino", ".xml", ("tensorflow", "torch"), ("openvino",), _run_openvino
    ),
    "saved_model": _Format(
        "tf_saved_model", "", ("tensorflow",), ("tensorflow",), _run_saved_model
    ),
}
