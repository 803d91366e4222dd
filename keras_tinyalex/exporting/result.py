"""What `export` returns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Export:
    """An exported model.

    Attributes:
        path: The file, or the folder of a SavedModel.
        format: The format; see `export`.
        size: Bytes of all files that were written, including the class names.
        class_names: Class names in label order, or `None`.
        max_difference: Largest difference between a score of the exported model
            and of Keras on the `n` images, or `None` if it was not verified.
        quantize: `None`, `"float16"` or `"int8"`.
        n: Number of images that were compared: the val images of `data`; without
            it 8 random images, or for int8 the calibration images. `None` if
            it was not verified.
        disagreements: How many of them the exported model puts into another
            class than Keras, or `None`.
        top1_keras: Top-1 accuracy of Keras on the val images of `data`, or
            `None`.
        top1_exported: That of the exported model.
        milliseconds_keras: Dictionary of batch size, `"1"` and `"32"`, to the
            milliseconds a picture in Keras, or `None` without `data`.
        milliseconds_exported: Those of the exported model.
    """

    path: Path
    format: str
    size: int
    class_names: tuple[str, ...] | None
    max_difference: float | None
    quantize: str | None = None
    n: int | None = None
    disagreements: int | None = None
    top1_keras: float | None = None
    top1_exported: float | None = None
    milliseconds_keras: dict[str, float] | None = None
    milliseconds_exported: dict[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as a JSON-ready dictionary."""
        return {**dataclasses.asdict(self), "path": str(self.path)}
