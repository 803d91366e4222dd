"""Names for the types that public signatures use."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Tensor: TypeAlias = Any
"""A tensor of Keras' backend, a symbolic `keras.KerasTensor`, or a NumPy array."""

PathLike: TypeAlias = str | os.PathLike[str]
"""A path as text or as a `pathlib.Path`."""

Images: TypeAlias = npt.NDArray[np.uint8]
"""Pixels 0 to 255, `(N, H, W, C)`."""

Labels: TypeAlias = npt.NDArray[np.int64]
"""Class numbers, `(N,)`."""
