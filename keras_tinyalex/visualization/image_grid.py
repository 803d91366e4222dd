"""Figures made of images: checks of their arguments, and the position of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_tinyalex.aliases import Images, Labels
from keras_tinyalex.visualization.style import DPI, fit_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# In inches. 1.28 inches are 192 dots: 3 for each pixel of a 64x64 image.
IMAGE_SIDE = 1.28
MARGIN = 0.2
STACK_GAP = 0.06


class ImageGrid:
    """A figure of equal cells in rows, each a header above one or more images.

    Lengths are in inches.

    Args:
        cells: Number of cells.
        columns: Number of cells in a row.
        side: Side of an image; a multiple of 1.28 / 3 enlarges a 64x64 image
            by a whole number of dots.
        gap: Space between cells in a row.
        header: Space above the images of a cell, for its title.
        stacked: Number of images in a cell, one below the other.
        row_gap: Space between rows.

    Attributes:
        figure: The `matplotlib.figure.Figure`.
    """

    def __init__(
        self,
        cells: int,
        columns: int,
        side: float = IMAGE_SIDE,
        *,
        gap: float,
        header: float,
        stacked: int = 1,
        row_gap: float = 0.0,
    ) -> None:
        from matplotlib.figure import Figure

        self.columns, self.side, self.gap, self.header = columns, side, gap, header
        images = stacked * (side + STACK_GAP) - STACK_GAP
        self.cell_height = header + images + row_gap
        width = columns * (side + gap) - gap
        height = math.ceil(cells / columns) * self.cell_height
        self.figure = Figure((width + 2 * MARGIN, height + 2 * MARGIN), DPI)

    def add_image(
        self, cell: int, image: NDArray[Any], scale: float, row: int = 0
    ) -> Axes:
        """Draws an image in a cell, below `row` others; returns its axes."""
        left = MARGIN + (cell % self.columns) * (self.side + self.gap)
        top = MARGIN + (cell // self.columns) * self.cell_height + self.header
        top += row * (self.side + STACK_GAP)
        width, height = self.figure.get_size_inches()
        bottom = height - top - self.side
        axes = self.figure.add_axes(
            (left / width, bottom / height, self.side / width, self.side / height)
        )
        pixels = to_uint8(image, scale)
        rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        axes.imshow(rgb, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    def set_title(self, axes: Axes, title: str) -> None:
        """Writes a title of up to two lines above an image."""
        fitted = self.fit_title(title, lines=2)
        axes.set_title(fitted, size=8, pad=4, parse_math=False)

    def add_note(self, text: str) -> None:
        """Writes a line below all images."""
        bottom = 0.25 * MARGIN / self.figure.get_size_inches()[1]
        self.figure.text(0.5, bottom, text, ha="center", size=8)

    def fit_title(self, title: str, lines: int = 1) -> str:
        """Wraps or cuts a title to the width of a cell."""
        return fit_text(title, self.side * 72 + 6, size=8, lines=lines)


def check_images(images: ArrayLike) -> tuple[NDArray[Any], float]:
    """Returns images as an array, and the factor that scales them to 0..255.

    Raises:
        ValueError: If they are not a batch of images, or there are none.

    Examples:
        >>> _, scale = check_images(np.full((2, 64, 64, 3), 0.5))
        >>> scale
        255.0
    """
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or not array.size:
        raise ValueError(
            "`images` must have the shape (N, H, W, 3) or (N, H, W, 1), N > 0. "
            f"Received: images.shape={array.shape}"
        )
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ValueError(
            "`images` must be uint8 or float. Convert them with "
            f"`images.astype('uint8')`. Received: images.dtype={array.dtype}"
        )
    if array.dtype == np.uint8:
        return array, 1.0
    if not (array.min() >= 0 and array.max() <= 255):  # also if NaN
        raise ValueError(
            "`images` must be in the range 0 to 1 or 0 to 255. Undo their "
            f"normalization. Received: images from {array.min()} to {array.max()}"
        )
    return array, 1.0 if array.max() > 1 else 255.0


def check_labels(
    name: str, labels: ArrayLike, images: NDArray[Any], class_names: Sequence[str]
) -> Labels:
    """Returns an argument of labels as an array, one for each of `images`.

    Raises:
        ValueError: If they are not integers from 0 to `len(class_names) - 1`.
    """
    array = np.asarray(labels)
    if array.shape == (len(images), 1):  # as in the data sets of Keras
        array = array[:, 0]
    if array.shape != images.shape[:1] or array.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be one integer per image. Received: "
            f"{name}.shape={array.shape}, {name}.dtype={array.dtype}, "
            f"images.shape={images.shape}"
        )
    if array.min() < 0 or array.max() >= len(class_names):
        raise ValueError(
            f"`{name}` must be positions in `class_names`, from 0 to "
            f"{len(class_names) - 1}. "
            f"Received: {name} from {array.min()} to {array.max()}"
        )
    return array.astype("int64")


def to_uint8(image: NDArray[Any], scale: float) -> Images:
    """Returns pixels as uint8 after multiplication by `scale`."""
    return np.rint(image * scale).astype("uint8")
