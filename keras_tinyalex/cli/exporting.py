"""The command `export`: a model for another runtime, verified."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from keras_tinyalex.cli.parsing import (
    MODEL,
    SOURCE,
    Commands,
    Result,
    add_command,
    non_negative,
    report,
)
from keras_tinyalex.tables import format_table

if TYPE_CHECKING:
    from keras_tinyalex.exporting import Export


def add_export(commands: Commands) -> None:
    description = "export a model for another runtime"
    parser = add_command(commands, "export", _export, description)
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add(
        "--format",
        required=True,
        choices=("onnx", "litert", "openvino", "saved_model", "web"),
        help="ONNX Runtime, LiteRT (TFLite), OpenVINO, TensorFlow SavedModel, or a "
        "page that classifies pictures in the browser",
    )
    add("--output", required=True, metavar="PATH", help="new file or folder")
    add(
        "--quantize",
        choices=("float16", "int8"),
        help="store weights in half the space, or in a quarter of it and compute in "
        "8-bit integers (default: float32)",
    )
    add(
        "--calibration",
        metavar="SOURCE",
        help=f"training images for int8, of the model's classes: {SOURCE}",
    )
    add(
        "--data",
        metavar="SOURCE",
        help="measure the accuracy of Keras and of the exported model on the val "
        "images of this source",
    )
    add(
        "--max-loss",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="of top-1 accuracy that the exported model may lose on --data "
        "(default: 1)",
    )
    add(
        "--seed",
        type=non_negative,
        default=0,
        help="of the choice of the calibration images (default: 0)",
    )


def _export(options: argparse.Namespace) -> Result:
    from keras_tinyalex.exporting import export

    result = export(
        options.model,
        options.output,
        options.format,
        quantize=options.quantize,
        calibration=options.calibration,
        data=options.data,
        max_loss=options.max_loss,
        seed=options.seed,
    )
    report(
        f"{result.path}: {result.size / 1e6:.1f} MB, scores within "
        f"{result.max_difference:.1e} of Keras', {result.disagreements} of "
        f"{result.n} images in another class"
    )
    if result.top1_keras is not None:
        _report_accuracy(result)
    return result.as_dict()


def _report_accuracy(result: Export) -> None:
    measured = (
        ("Keras", result.top1_keras, result.milliseconds_keras),
        (result.format, result.top1_exported, result.milliseconds_exported),
    )
    rows = [
        [name, f"{top1:.4f}", *(f"{time:.2f}" for time in (times or {}).values())]
        for name, top1, times in measured
    ]
    columns = ["", "top 1", "ms a picture, batch 1", "batch 32"]
    report(format_table(columns, rows))
