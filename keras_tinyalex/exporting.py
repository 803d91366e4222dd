"""Exports models to other runtimes, and verifies that the scores agree."""

from __future__ import annotations

import dataclasses
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.applications import load_model
from keras_tinyalex.arguments import check_choice

Array = npt.NDArray[np.float32]
# Largest accepted difference between the scores of Keras and of the exported model.
# Runtimes sum in different orders; this is a hundred times the difference that was
# seen on float32 models.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Export:
    """An exported model.

    Attributes:
        path: The file, or the folder of a SavedModel.
        format: The format; see `export`.
        size: Bytes of all files that were written, including the class names.
        class_names: Class names in label order, or `None`.
        max_difference: Largest difference between a score of the exported model
            and of Keras on 8 random images, or `None` if it was not verified.
    """

    path: Path
    format: str
    size: int
    class_names: tuple[str, ...] | None
    max_difference: float | None

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as a JSON-ready dictionary."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class Format:
    """A format: how it is exported, and how an exported model is run.

    Attributes:
        keras_name: The name for `keras.Model.export`.
        suffix: File name suffix, empty for a folder.
        backends: Keras backends that can export it.
        packages: Packages it needs: the first to export, all to verify.
        run: Function `(path, images) -> scores` that runs an exported model.
    """

    keras_name: str
    suffix: str
    backends: tuple[str, ...]
    packages: tuple[str, ...]
    run: Callable[[Path, Array], Array]


def export(
    model: keras.Model | PathLike,
    path: PathLike,
    format: str = "onnx",
    verify: bool = True,
    class_names: Sequence[str] | None = None,
) -> Export:
    """Exports a model to another runtime, and verifies its scores there.

    The exported model takes float32 pixels `(batch, 64, 64, 3)` in 0..255, for
    any batch size; it scales them itself. The class names are written to
    `<path>.labels.txt`, one per line. Models with a half-precision dtype policy
    are exported in float32.

    If the export or its verification fails, nothing is left at `path`.

    Args:
        model: A `keras.Model`, a name from `list_weights()`, or the path of a
            `.keras` or `.h5` file.
        path: File to write, or folder for `"saved_model"`. It must not exist.
        format: `"onnx"` (ONNX Runtime), `"litert"` (LiteRT, formerly TFLite),
            `"openvino"` (Intel) or `"saved_model"` (TensorFlow). Defaults to
            `"onnx"`.
        verify: Whether to run the exported model on 8 random images and
            compare its scores with those of Keras. Defaults to `True`.
        class_names: Class names in label order. Defaults to those stored in
            the file of the model.

    Returns:
        An `Export`.

    Raises:
        FileExistsError: If `path` exists.
        ImportError: If a package is missing; the message has the command that
            installs it.
        ValueError: If an argument is out of its range, the backend cannot
            export the format, or the scores of the exported model differ.

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
    with _folder_beside(path) as folder:
        if not isinstance(model, keras.Model):
            model, stored = load_model(model)
            class_names = class_names or stored
        names = tuple(class_names) if class_names is not None else None
        if names is not None and len(names) != model.output_shape[-1]:
            raise ValueError(
                f"`class_names` must be {model.output_shape[-1]} names, one for each "
                f"class of the model. Received: len(class_names)={len(names)}"
            )
        model = _in_float32(model)
        images = _random_images(model)
        expected = model.predict(images, verbose=0)  # Keras exports what was called
        # Some converters require the suffix.
        exported = Path(folder, "model" + chosen.suffix)
        model.export(str(exported), format=chosen.keras_name, verbose=False)
        scores = chosen.run(exported, images) if verify else None
        difference = None if scores is None else _difference(format, scores, expected)
        size = _publish(exported, path, names)
    return Export(path, format, size, names, difference)


def _check_arguments(path: Path, format: str, verify: bool) -> Format:
    check_choice("format", format, sorted(FORMATS))
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
    for package in (*needed, *EXPORTERS.get((format, backend), ())):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"`format` {format!r} needs the package {package}: "
                f'pip install "keras-tinyalex[export]" {package} ({error})'
            ) from error
    return chosen


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


def _in_float32(model: keras.Model) -> keras.Model:
    """Returns the model, or a float32 copy if a layer has another dtype policy."""
    if all(layer.dtype_policy.name == "float32" for layer in _all_layers(model)):
        return model

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    single = keras.models.clone_model(model, clone_function=copy, recursive=True)
    single.set_weights(model.get_weights())
    for layer, copied in zip(_all_layers(model), _all_layers(single), strict=True):
        # What layers derive from their weights when loaded, as Normalization does.
        state: dict[str, Any] = {}
        layer.save_own_variables(state)
        copied.load_own_variables(state)
    return single


def _all_layers(model: Any) -> Iterator[keras.layers.Layer]:
    """Yields the layers of a model, and of the models inside it."""
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from _all_layers(layer)


def _difference(format: str, scores: Array, expected: Array) -> float:
    """Returns the largest difference of scores; refuses more than `TOLERANCE`."""
    difference = float(np.abs(scores - expected).max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"The exported {format} model differs from Keras by {difference:.2g}, more "
            f"than {TOLERANCE}; nothing was written."
        )
    return difference


def _random_images(model: keras.Model) -> Array:
    shape = [64 if length is None else length for length in model.input_shape[1:]]
    return np.random.default_rng(0).integers(0, 256, (8, *shape)).astype(np.float32)


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


def _run_onnx(path: Path, images: Array) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    scores: Array = session.run(None, {session.get_inputs()[0].name: images})[0]
    return scores


def _run_litert(path: Path, images: Array) -> Array:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, images)
    interpreter.invoke()
    scores: Array = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return scores


def _run_openvino(path: Path, images: Array) -> Array:
    import openvino

    # By default it computes in bfloat16 on processors that support it.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    scores: Array = openvino.compile_model(str(path), "CPU", options)(images)[0]
    return scores


def _run_saved_model(path: Path, images: Array) -> Array:
    import tensorflow as tf

    # In a variable, as it owns the weights.
    loaded = tf.saved_model.load(str(path))
    return np.asarray(loaded.serve(images))


# What Keras imports to export, by format and backend.
EXPORTERS = {
    ("onnx", "tensorflow"): ("tf2onnx",),
    ("onnx", "torch"): ("onnxscript",),
    ("openvino", "tensorflow"): ("scipy",),
    ("openvino", "torch"): ("scipy",),
}
FORMATS = {
    "onnx": Format(
        "onnx", ".onnx", ("tensorflow", "torch"), ("onnx", "onnxruntime"), _run_onnx
    ),
    "litert": Format(
        "litert",
        ".tflite",
        ("tensorflow",),
        ("tensorflow", "ai_edge_litert"),
        _run_litert,
    ),
    "openvino": Format(
        "openvino", ".xml", ("tensorflow", "torch"), ("openvino",), _run_openvino
    ),
    "saved_model": Format(
        "tf_saved_model", "", ("tensorflow",), ("tensorflow",), _run_saved_model
    ),
}
