"""Stores the weights of exported models in float16, in half the space."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from keras_tinyalex.exporting.formats import Array

# Smaller constants stay float32.
MIN_SIZE = 64


def quantize_onnx(
    source: Path, target: Path, model: keras.Model, images: Array | None
) -> None:
    """Stores constants as float16; ONNX Runtime casts them once, when it loads."""
    import onnx

    exported = onnx.load(source)
    graph = exported.graph
    casts = []
    for constant in list(graph.initializer):
        values = onnx.numpy_helper.to_array(constant)
        if values.dtype != np.float32 or values.size < MIN_SIZE:
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


def quantize_openvino(
    source: Path, target: Path, model: keras.Model, images: Array | None
) -> None:
    import openvino

    exported = openvino.Core().read_model(source)
    openvino.save_model(exported, target, compress_to_fp16=True)


def quantize_litert(
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
