"""The formats of `export`, and how an exported model is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float32]
Run: TypeAlias = Callable[[Array], Array]
"""Function of float32 images that returns their scores."""


@dataclass(frozen=True)
class Format:
    """A format: how it is exported, and how an exported model is run.

    Attributes:
        keras_name: The name for `keras.Model.export`.
        suffix: File name suffix, empty for a folder.
        backends: Keras backends that can export it.
        packages: Packages it needs: the first to export, all to verify.
        open: Function `(path, threads) -> Run` that loads an exported model.
            With `threads=None` the runtime chooses.
    """

    keras_name: str
    suffix: str
    backends: tuple[str, ...]
    packages: tuple[str, ...]
    open: Callable[..., Run]


def open_onnx(path: Path, threads: int | None = None) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options)
    name = session.get_inputs()[0].name

    def run(images: Array) -> Array:
        scores: Array = session.run(None, {name: images})[0]
        return scores

    return run


def open_litert(path: Path, threads: int | None = None) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    allocated: tuple[int, ...] = ()

    def run(images: Array) -> Array:
        nonlocal allocated
        if images.shape != allocated:
            interpreter.resize_tensor_input(source, images.shape)
            interpreter.allocate_tensors()
            allocated = images.shape
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        scores: Array = interpreter.get_tensor(target)
        return scores

    return run


def open_openvino(path: Path, threads: int | None = None) -> Run:
    import openvino

    # By default it computes in bfloat16 on processors that support it.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.compile_model(str(path), "CPU", options)

    def run(images: Array) -> Array:
        scores: Array = compiled(images)[0]
        return scores

    return run


def open_saved_model(path: Path, threads: int | None = None) -> Run:
    """Loads a SavedModel. Its threads are set when TensorFlow starts, not here."""
    import tensorflow as tf

    # In a variable, as it owns the weights.
    loaded = tf.saved_model.load(str(path))
    return lambda images: np.asarray(loaded.serve(images))


def open_page(path: Path, threads: int | None = None) -> Run:
    """Computes in NumPy what the page computes, on one thread."""
    from keras_tinyalex import web  # with Keras, which the other runtimes do without

    return lambda images: web.read_scores(path, images)


# What Keras imports to export, by format and backend.
EXPORTERS = {
    ("onnx", "tensorflow"): ("tf2onnx",),
    ("onnx", "torch"): ("onnxscript",),
    ("openvino", "tensorflow"): ("scipy",),
    ("openvino", "torch"): ("scipy",),
}
FORMATS = {
    "onnx": Format(
        "onnx", ".onnx", ("tensorflow", "torch"), ("onnx", "onnxruntime"), open_onnx
    ),
    "litert": Format(
        "litert",
        ".tflite",
        ("tensorflow",),
        ("tensorflow", "ai_edge_litert"),
        open_litert,
    ),
    "openvino": Format(
        "openvino", ".xml", ("tensorflow", "torch"), ("openvino",), open_openvino
    ),
    "saved_model": Format(
        "tf_saved_model", "", ("tensorflow",), ("tensorflow",), open_saved_model
    ),
    # Not one of Keras'.
    "web": Format("", "", ("jax", "tensorflow", "torch"), (), open_page),
}
