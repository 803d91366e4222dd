"""Figures of corrupted images, and of the accuracy on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keras_tinyalex.datasets.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from keras_tinyalex.visualization.image_grid import (
    STACK_GAP,
    ImageGrid,
    check_images,
    to_uint8,
)
from keras_tinyalex.visualization.style import (
    DPI,
    GRID_COLOR,
    SECONDARY_COLOR,
    in_own_style,
    set_panel_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_tinyalex.robustness import CorruptionEvaluation


@in_own_style
def plot_corruptions(result: CorruptionEvaluation) -> Figure:
    """Draws accuracy by severity, with one panel for each group of corruptions.

    The dashed line is the accuracy on clean images, where it is known.

    Args:
        result: What `keras_tinyalex.evaluate_corruptions()` returned.

    Returns:
        A `matplotlib.figure.Figure` with one axes per group that has
        corruptions: noise, blur, weather, digital, extra.

    Examples:
        >>> from keras_tinyalex.robustness.result import summarize
        >>> rows = {("fog", severity): (0.25, 100) for severity in range(1, 6)}
        >>> figure = plot_corruptions(summarize(["fog"], rows))
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['Weather']
    """
    from matplotlib.figure import Figure

    groups: dict[str, list[str]] = {}
    for name in result.corruptions:
        groups.setdefault(CORRUPTIONS[name], []).append(name)
    size = (2.6 * max(len(groups), 2) + 0.4, 3.9)
    figure = Figure(size, DPI, layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (group, names) in zip(panels, groups.items(), strict=True):
        _draw_group(axes, group, names, result)
    panels[0].set_ylabel("top-1 accuracy")
    if result.clean_accuracy is not None:
        panels[0].set_title("dashed: clean images", loc="right", size=8)
    return figure


def _draw_group(
    axes: Axes, group: str, names: list[str], result: CorruptionEvaluation
) -> None:
    from matplotlib import colormaps

    set_panel_title(axes, group.capitalize())
    if result.clean_accuracy is not None:
        axes.axhline(result.clean_accuracy, color=SECONDARY_COLOR, linestyle="--")
    for index, name in enumerate(names):
        color, marker = colormaps["tab10"](index), "os^D"[index]
        accuracies = np.array(result.corruptions[name], float)  # None becomes NaN
        label = name.replace("_", " ")
        style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 4}
        axes.plot(SEVERITIES, accuracies, label=label, **style)
    axes.set(xlabel="severity", xticks=SEVERITIES, ylim=(0, 1))
    axes.grid(axis="y", color=GRID_COLOR, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=8
    )


@in_own_style
def plot_corrupted(
    image: NDArray[Any], severity: int = 3, columns: int = 5, seed: int = 0
) -> Figure:
    """Draws an image and what each corruption makes of it.

    Args:
        image: `(H, W, 3)`, uint8, or float in 0..1 or 0..255 (recognized by
            the largest value).
        severity: Integer from 1 to 5. Defaults to 3.
        columns: Number of images in a row. Defaults to 5.
        seed: Seed of the corruptions. Defaults to 0.

    Returns:
        A `matplotlib.figure.Figure` with one axes per image: the image, then
        the 19 corruptions.

    Raises:
        ValueError: If an argument is not as above.

    Examples:
        >>> figure = plot_corrupted(np.zeros((64, 64, 3), "uint8"))
        >>> len(figure.axes), figure.axes[1].get_title()
        (20, 'gaussian noise')
    """
    pixels, scale = check_images(np.asarray(image)[None])
    original = to_uint8(pixels, scale)
    shown = {"image": original}
    for name in CORRUPTIONS:
        shown[name.replace("_", " ")] = corrupt(original, name, severity, seed)
    grid = ImageGrid(len(shown), columns, gap=0.16, header=0.26, row_gap=STACK_GAP)
    for cell, (title, images) in enumerate(shown.items()):
        grid.set_title(grid.add_image(cell, images[0], 1.0), title)
    return grid.figure
