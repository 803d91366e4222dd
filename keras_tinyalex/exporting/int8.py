"""Lets exported models compute in 8-bit integers, by the runtimes' own tools.

What stays in float32, and why:

* The first convolution, 864 of 5 million weights in AlexNetMini. Its trained filters
  cancel the brightness of an image, which rounded ones do not: that alone makes 0.0049
  of the 0.0057 by which the scores diverge (KL, 4,000 images, 180 classes) when the
  weights of all layers are rounded.
* Local response normalization, see `PlainNormalization`. Its squares span the square of
  the range of the activations, of which 8 bits keep little.
* The scores: the last dense layer has int8 weights and returns float32, because 255
  steps over the range of the logits make ties.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tinyalex.exporting.formats import Array
from keras_tinyalex.exporting.networks import PlainNormalization, all_layers

# Images in a batch of calibration. Ranges are means over batches, which leave out what
# a single image exceeds them by.
BATCH_SIZE = 16


def quantize_onnx(
    source: Path, target: Path, model: keras.Model, images: Array | None
) -> None:
    """Quantizes statically, with QuantizeLinear and DequantizeLinear nodes."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    assert images is not None
    prepared = target.with_name("prepared.onnx")
    # Makes one Gemm of the product and the sum of a dense layer.
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    graph = _with_float_pooling(prepared)
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
        op_types_to_quantize=["Conv", "Gemm", "MatMul", "Relu"],
        nodes_to_exclude=_float_convolutions(_onnx_kernels(graph)),
        extra_options={
            "CalibMovingAverage": True,
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
        },
    )


def _with_float_pooling(path: Path) -> Any:
    """Adds the maximum of one tensor, an identity, after each max pooling of a file.

    ONNX Runtime moves quantization from after a pooling to before it, where 8 bits take
    ten times as long as float32. It does not move it across a maximum.

    Returns:
        The graph of the new content of the file.
    """
    import onnx

    model = onnx.load(path)
    _number_anew(model.graph)
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "MaxPool":
            (result,) = node.output
            node.output[0] = result + "_pooled"
            nodes.append(onnx.helper.make_node("Max", list(node.output), [result]))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return model.graph


def _number_anew(graph: Any) -> None:
    """Gives the names that tf2onnx makes up, such as `Transpose__74`, other numbers.

    Its own differ from process to process, and so would the files.
    """
    kept = {value.name for value in (*graph.input, *graph.output)}
    numbers: dict[str, str] = {}

    def rename(name: str) -> str:
        if name in kept:
            return name
        if not (found := re.fullmatch(r"(.*)(__\d+)(:\d+)?", name)):
            return name
        base, number, output = found.groups()
        # Of equal constants, any one is kept.
        base = "const" if base.startswith("const_") else base
        number = numbers.setdefault(number, f"__{len(numbers)}")
        return base + number + (output or "")

    for node in graph.node:
        node.name = rename(node.name)
        for field in (node.input, node.output):
            field[:] = [rename(name) for name in field]
    for value in (*graph.initializer, *graph.value_info):
        value.name = rename(value.name)


def _onnx_kernels(graph: Any) -> list[tuple[str, Any]]:
    """The names and kernels of the convolutions of an ONNX graph."""
    import onnx

    constants = {constant.name: constant for constant in graph.initializer}
    return [
        (node.name, onnx.numpy_helper.to_array(constants[node.input[1]]))
        for node in graph.node
        if node.op_type == "Conv" and node.input[1] in constants
    ]


def quantize_openvino(
    source: Path, target: Path, model: keras.Model, images: Array | None
) -> None:
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
    batches = _batches(images)
    quantized = nncf.quantize(
        exported,
        nncf.Dataset(batches),
        subset_size=len(batches),
        # Its estimate costs more than it corrects here: of 2,500 val images of 200
        # classes, 168 have another answer than in float32 with it, and 97 without.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            disable_bias_correction=True
        ),
        # The products are those of the normalization.
        ignored_scope=nncf.IgnoredScope(
            names=_float_convolutions(convolutions),
            types=["Multiply", "Power"],
            validate=False,
        ),
    )
    openvino.save_model(quantized, target, compress_to_fp16=False)


def quantize_litert(
    source: Path, target: Path, model: keras.Model, images: Array | None
) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from litert_quantizer import qtyping, quantizer

    assert images is not None
    work = quantizer.Quantizer(str(source))
    operations = qtyping.TFLOperationName
    computing = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    for operation in (*computing, "MAX_POOL_2D", "RESHAPE"):
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
