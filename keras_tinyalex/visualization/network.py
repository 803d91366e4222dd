"""Figures of a network: its first filters, and where it looks (Grad-CAM)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_tinyalex.arguments import check_integer
from keras_tinyalex.visualization.image_grid import (
    IMAGE_SIDE,
    ImageGrid,
    check_images,
    check_labels,
)
from keras_tinyalex.visualization.style import in_own_style, short_names

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure


@in_own_style
def plot_filters(
    model: keras.Model, layer: str | None = None, columns: int = 8
) -> Figure:
    """Draws the kernels of the first convolution as small images.

    All kernels share one scale: gray is 0, and the largest absolute weight is
    black or white in its channel. A uniformly gray kernel detects nothing.

    Args:
        model: A built `keras.Model`.
        layer: Name of a convolution over 1 or 3 channels. Defaults to the
            first `keras.layers.Conv2D`.
        columns: Number of kernels in a row. Defaults to 8.

    Returns:
        A `matplotlib.figure.Figure` with one axes per kernel, titled with its
        number.

    Raises:
        ValueError: If an argument is not as above.

    Examples:
        >>> import keras_tinyalex
        >>> model = keras_tinyalex.AlexNetMini()
        >>> len(plot_filters(model).axes)
        32
    """
    from keras_tinyalex.gradcam import find_convolution

    columns = check_integer("columns", columns)
    found = find_convolution(model, layer, last=False)
    kernel: NDArray[Any] = next(iter(found.get_weights()), np.zeros(0))
    if kernel.ndim != 4 or kernel.shape[2] not in (1, 3):
        raise ValueError(
            "`layer` must be a convolution over 1 or 3 channels, with a kernel of "
            "shape (height, width, channels, filters). "
            f"Received: layer={found.name!r} with a kernel of shape {kernel.shape}"
        )
    largest = np.abs(kernel).max() or 1.0
    images = np.moveaxis(0.5 + kernel.astype("float64") / (2 * largest), -1, 0)
    columns = min(columns, len(images))
    grid = ImageGrid(len(images), columns, IMAGE_SIDE / 2, gap=0.1, header=0.18)
    for cell, image in enumerate(images):
        axes = grid.add_image(cell, image, 255.0)
        axes.set_title(str(cell), size=7, pad=3)
    return grid.figure


@in_own_style
def plot_gradcam(
    model: keras.Model,
    images: ArrayLike,
    class_names: Sequence[str],
    classes: int | ArrayLike | None = None,
    layer: str | None = None,
    columns: int = 5,
) -> Figure:
    """Draws images, each above its Grad-CAM heatmap.

    The heatmap lies over the image in gray. Its colors go from black, where
    nothing supports the class in the title, to yellow, where most does. See
    `keras_tinyalex.gradcam.gradcam()` for the computation.

    Args:
        model: A built Functional or Sequential `keras.Model` from images to
            scores of shape `(batch, C)`.
        images: `(N, H, W, 3)` or `(N, H, W, 1)`, uint8, or float in 0..1 or
            0..255, in the range that the model takes. Channels are last, even
            for a model with channels first.
        class_names: `C` wnids or names in label order. Of several synonyms the
            first is shown; long names are wrapped and cut.
        classes: The class to explain for each image: `N` integers, or one
            integer for all images. Defaults to the predicted classes.
        layer: Name of the layer to explain. Defaults to the last
            `keras.layers.Conv2D`.
        columns: Number of images in a row. Defaults to 5.

    Returns:
        A `matplotlib.figure.Figure` with two axes per image, the image and
        its heatmap.

    Raises:
        ValueError: If an argument is not as above, or there are no images.

    Examples:
        >>> import keras_tinyalex
        >>> model = keras_tinyalex.AlexNetMini(num_classes=2)
        >>> images = np.zeros((3, 64, 64, 3), "uint8")
        >>> figure = plot_gradcam(model, images, ["cat", "dog"], classes=[0, 1, 1])
        >>> [axes.get_title() for axes in figure.axes[::2]]
        ['cat', 'dog', 'dog']
    """
    from keras_tinyalex.gradcam import gradcam
    from keras_tinyalex.labelled_data import find_data_format

    columns = check_integer("columns", columns)
    pixels, scale = check_images(images)
    channels_first = find_data_format(model) == "channels_first"
    x = np.moveaxis(pixels, -1, 1) if channels_first else pixels
    if classes is None:
        classes = np.argmax(model.predict_on_batch(x), axis=-1)
    heatmaps = gradcam(model, x, classes, layer)
    per_image = np.broadcast_to(classes, len(pixels))
    labels = check_labels("classes", per_image, pixels, class_names)
    columns, side = min(columns, len(pixels)), IMAGE_SIDE * 4 / 3
    grid = ImageGrid(len(pixels), columns, side, gap=0.16, header=0.36, stacked=2)
    names = short_names(class_names)
    for cell, (image, heatmap) in enumerate(zip(pixels, heatmaps, strict=True)):
        axes = grid.add_image(cell, image, scale)
        grid.set_title(axes, names[labels[cell]])
        gray = image.mean(axis=-1, keepdims=True)
        axes = grid.add_image(cell, gray, scale, row=1)
        height, width = image.shape[:2]
        axes.imshow(
            heatmap,
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=0.7,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="nearest",
        )
    return grid.figure
