"""Stores exported models in float16, or in 8-bit integers, by the runtimes' own tools.

What stays in float32 in an int8 model, and why, by the mean divergence (KL) of the
scores of 180 classes from those of float32, over 9,000 images:

* The first convolution, 0.3% of the weights. In a trained AlexNetMini its filters
  cancel the brightness of an image; rounded weights no longer do, and that alone is a
  divergence of 0.0049, of 0.0057 for all weights.
* Local response normalization, between a convolution and a pooling that are int8. Its
  squares span the square of the activations' range: 8 bits leave most of them zero.
* The scores: the last dense layer has int8 weights, but what it returns is float32, as
  255 steps over the range of the logits make ties.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_tinyalex.exporting.formats import Array
from keras_tinyalex.exporting.networks import PlainNormalization, all_layers

Quantize: TypeAlias = Callable[[Path, Path, keras.Model, Array | None], None]
"""Function `(exported file, new file, model, calibration images)`."""

# Images in a batch of calibration. Ranges are means over batches, which leave out what
# a single image exceeds them by.
BATCH_SIZE = 16
# Smaller constants stay float32 in a float16 model.
MIN_FLOAT16_SIZE = 64


def float16_onnx(
    source: Path, target: Path, model: keras.Model, images: Array | None
) -> None:
    """Stores constants as float16; ONNX Runtime casts them once, when it loads."""
    import onnx

    exported = onnx.load(source)
    graph = exported.graph
    casts = []
    for constant in list(graph.initializer):
        values = onnx.numpy_helper.to_array(constant)
        if values.dtype != np.float32 or values.size < MIN_FLOAT16_SIZE:
            continue
        half = constant.name + "_float16"
        graph.initializer.remove(constant)
        graph.initializer.append(
            onnx.numpy_helper.from_array(values.astype(np.float16), half)
        )
        casts.append(
            onnx.helper.make_node(
                "Cast", [half], [constant.name], half, to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
    onnx.save(exported, target)


def int8_onnx(
    source: Path, target: Path, model: keras.Model, images: Array | None
) -> None:
    """Quantizes statically, with QuantizeLinear and DequantizeLinear nodes."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    assert images is not None
    prepared = target.with_name("prepared.onnx")
    # Makes one Gemm of the product and the sum of a dense layer.
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    graph = onnx.load(prepared).graph
    constants = {constant.name: constant for constant in graph.initializer}
    convolutions = [
        (node.name, onnx.numpy_helper.to_array(constants[node.input[1]]))
        for node in graph.node
        if node.op_type == "Conv" and node.input[1] in constants
    ]
    name = graph.input[0].name
    batches = iter([{name: batch} for batch in _batches(images)])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Array] | None:
            return next(batches, None)

    quantization.quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        # The pair for which processors have instructions.
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv", "Gemm", "MatMul", "MaxPool", "Relu"],
        nodes_to_exclude=_float_convolutions(convolutions),
        extra_options={
            "CalibMovingAverage": True,
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
        },
    )


def float16_openvino(
    source: Path, target: Path, model: keras.Model, images: Array | None
) -> None:
    import openvino

    exported = openvino.Core().read_model(source)
    openvino.save_model(exported, target, compress_to_fp16=True)


def int8_openvino(
    source: Path, target: Path, model: keras.Model, images: Array | None
) -> None:
    # It reports its use to its makers, but for this variable.
    os.environ.setdefault("NNCF_CI", "1")
    import nncf
    import openvino

    assert images is not None
    nncf.set_log_level(logging.ERROR)
    exported = openvino.Core().read_model(source)
    convolutions = [
        (node.get_friendly_name(), node.input_value(1).get_node().data)
        for node in exported.get_ordered_ops()
        if node.get_type_name() == "Convolution"
        and node.input_value(1).get_node().get_type_name() == "Constant"
    ]
    quantized = nncf.quantize(
        exported,
        nncf.Dataset([image[None] for image in images]),
        subset_size=len(images),
        # The products are those of the normalization.
        ignored_scope=nncf.IgnoredScope(
            names=_float_convolutions(convolutions),
            types=["Multiply", "Power"],
            validate=False,
        ),
    )
    openvino.save_model(quantized, target, compress_to_fp16=False)


def float16_litert(
    source: Path, target: Path, model: keras.Model, images: Array | None
) -> None:
    from litert_quantizer import qtyping, quantizer

    half = qtyping.TensorQuantizationConfig(
        num_bits=16, dtype=qtyping.TensorDataType.FLOAT
    )
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=half,
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    work = quantizer.Quantizer(str(source))
    for operation in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        work.update_quantization_recipe(
            ".*",
            qtyping.TFLOperationName[operation],
            config,
            quantizer.AlgorithmName.FLOAT_CASTING,
        )
    result = work.quantize(enable_progress_report=False)
    target.write_bytes(result.quantized_model)


def int8_litert(
    source: Path, target: Path, model: keras.Model, images: Array | None
) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from litert_quantizer import qtyping, quantizer

    assert images is not None
    work = quantizer.Quantizer(str(source))
    operations = qtyping.TFLOperationName
    for operation in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        work.add_static_config(".*", operations[operation], 8, 8)
    for operation in ("MAX_POOL_2D", "RESHAPE"):
        work.add_static_config(".*", operations[operation], 8, 8)
    layers = list(all_layers(model))
    convolutions = [x for x in layers if isinstance(x, keras.layers.Conv2D)]
    normalizations = [x for x in layers if isinstance(x, PlainNormalization)]
    for layer in [*convolutions[:1], *normalizations]:
        work.update_quantization_recipe(
            _tensors_of(layer),
            operations.ALL_SUPPORTED,
            algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
        )
    dense = [x for x in layers if isinstance(x, keras.layers.Dense)]
    for layer in dense[-1:]:
        work.add_weight_only_config(
            _tensors_of(layer), operations.FULLY_CONNECTED, num_bits=8
        )
    ((signature, names),) = Interpreter(str(source)).get_signature_list().items()
    (name,) = names["inputs"]
    data = {signature: [{name: batch} for batch in _batches(images)]}
    ranges = work.calibrate(data, num_threads=1)
    result = work.quantize(ranges, enable_progress_report=False)
    target.write_bytes(result.quantized_model)


def _tensors_of(layer: keras.layers.Layer) -> str:
    """A regular expression of the tensors of a layer, which TensorFlow numbers."""
    return rf"(^|/){re.escape(layer.name)}(_\d+)?/"


def _batches(images: Array) -> list[Array]:
    return [images[i : i + BATCH_SIZE] for i in range(0, len(images), BATCH_SIZE)]


def _float_convolutions(convolutions: list[tuple[str, Any]]) -> list[str]:
    """The first of named kernels, and those that sum over a window of channels."""
    names = [name for name, _ in convolutions[:1]]
    for name, kernel in convolutions[1:]:
        # A band: zeros and `alpha`.
        if kernel.shape[2:] == (1, 1) and len(np.unique(kernel)) <= 2:
            names.append(name)
    return names


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
    with _quiet():
        function(source, target, model, images)


# The packages to quantize, and the function, by format and kind.
QUANTIZATIONS: dict[tuple[str, str], tuple[tuple[str, ...], Quantize]] = {
    ("onnx", "float16"): (("onnx",), float16_onnx),
    ("onnx", "int8"): (("onnx", "onnxruntime"), int8_onnx),
    ("litert", "float16"): (("litert_quantizer",), float16_litert),
    ("litert", "int8"): (("litert_quantizer",), int8_litert),
    ("openvino", "float16"): (("openvino",), float16_openvino),
    ("openvino", "int8"): (("openvino", "nncf"), int8_openvino),
}
