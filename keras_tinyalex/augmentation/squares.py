"""Squares at random places of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def draw_squares(
    images: npt.NDArray[Any], generator: np.random.Generator, sizes: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Returns masks `(N, H, W)` of squares around random centers."""
    count, height, width, _ = images.shape

    def draw(length: int) -> npt.NDArray[np.bool_]:
        starts = generator.integers(0, length, count) - sizes // 2
        position = np.arange(length) - starts[:, None]
        return (position >= 0) & (position < sizes[:, None])

    return draw(height)[:, :, None] & draw(width)[:, None, :]
