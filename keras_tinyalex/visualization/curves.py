"""Figures of trainings: accuracy and loss by epoch, of one run or of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keras_tinyalex.visualization.style import (
    DPI,
    GRID_COLOR,
    PRIMARY_COLOR,
    SECONDARY_COLOR,
    in_own_style,
    set_panel_title,
)

if TYPE_CHECKING:
    import keras
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_tinyalex.comparing import Study

Curves = dict[str, NDArray[np.float64]]


@in_own_style
def plot_history(
    history: Mapping[str, Sequence[Any]] | keras.callbacks.History,
    kept_epoch: int | None = None,
) -> Figure:
    """Draws accuracy and loss by epoch, for training and validation.

    Args:
        history: What `model.fit()` returns, or a mapping of `"accuracy"`,
            `"val_accuracy"`, `"loss"` and `"val_loss"` to one value per epoch
            (numbers, or text as in `history.csv`). At least one of the four is
            required. Epochs with `"half_size"` 1, the first ones, are dashed.
        kept_epoch: Epoch, from 1, whose weights the model has; a line marks it.
            Defaults to `None`: the last, without a line.

    Returns:
        A `matplotlib.figure.Figure` with two axes, accuracy and loss. The last
        value is written at the end of each curve; a dot and the title mark the
        best validation value.

    Raises:
        ValueError: If there are no curves, or their lengths differ.

    Examples:
        >>> figure = plot_history({"loss": [2.0, 1.5], "val_loss": [2.1, 1.8]})
        >>> figure.axes[1].get_title(loc="right")
        'best val 1.800 (epoch 2)'
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    values: Mapping[str, Sequence[Any]] = getattr(history, "history", history)
    curves: Curves = {
        key: np.asarray(values[key], dtype="float64")
        for key in ("accuracy", "val_accuracy", "loss", "val_loss")
        if key in values
    }
    lengths = {key: curve.size for key, curve in curves.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(
            "`history` must map 'accuracy', 'val_accuracy', 'loss' or 'val_loss' to "
            "the same number of values, one per epoch. "
            f"Received: history with the keys {list(values)} and lengths {lengths}"
        )
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, wspace=0.04)
    figure = Figure(figsize=(10, 3.8), dpi=DPI, layout=layout)
    accuracy, loss = figure.subplots(1, 2)
    half = _half_size_epochs(values)
    _draw_curves(accuracy, "accuracy", curves, half, find_best=np.nanargmax)
    _draw_curves(loss, "loss", curves, half, find_best=np.nanargmin)
    if kept_epoch is not None:
        for axes in (accuracy, loss):
            axes.axvline(kept_epoch, color=SECONDARY_COLOR, linestyle=":", linewidth=1)
        label = f" model of epoch {kept_epoch} "
        accuracy.annotate(label, (kept_epoch, 0), xycoords=("data", "axes fraction"))
    return figure


@in_own_style
def plot_runs(studies: Sequence[Study]) -> Figure:
    """Draws validation accuracy and loss by epoch, of each row of a comparison.

    A line is the mean of the runs of a row, and the band around it their range.
    It is dashed in epochs that validated at half the image size. A dot is the
    mean accuracy of the finished models.

    Args:
        studies: Rows of `keras_tinyalex.runs.compare()`, one or more.

    Returns:
        A `matplotlib.figure.Figure` with two axes, accuracy and loss.

    Raises:
        ValueError: If there are no rows.

    Examples:
        >>> from keras_tinyalex.comparing import FinishedRun, group
        >>> run = FinishedRun(
        ...     "run", "best", "sample", 0, {"epochs": 2, "class_names": ["a", "b"]},
        ...     0.5, 60.0, {"val_accuracy": [0.2, 0.5], "val_loss": [2.0, 1.5]})
        >>> figure = plot_runs(group([run]))
        >>> figure.legends[0].get_texts()[0].get_text()
        'best, sample, 2 classes, 2 epochs (1 run)'
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if not studies:
        raise ValueError(
            "`studies` must be rows of `runs.compare`, one or more. "
            f"Received: studies={studies!r}"
        )
    count = len(studies)
    colors = colormaps["tab10"](range(count))
    if count > 10:
        colors = colormaps["turbo"](np.linspace(0.05, 0.95, count))
    figure = Figure((10, 3.9 + 0.25 * count), DPI, layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    halves = [_half_size_epochs(study.runs[0].history) for study in studies]
    for axes, metric in ((accuracy, "accuracy"), (loss, "loss")):
        _prepare_axes(axes, f"Validation {metric}", any(halves))
        for study, half, color in zip(studies, halves, colors, strict=True):
            curves = [run.history.get(f"val_{metric}", []) for run in study.runs]
            _draw_range(axes, curves, half, color)
            if axes is accuracy:
                axes.plot(max(map(len, curves)), study.mean, "o", color=color)
    accuracy.set_title("dots: finished models", loc="right", size=9)
    _add_legend(figure, [_label(study) for study in studies], colors)
    return figure


def _half_size_epochs(history: Mapping[str, Sequence[Any]]) -> int:
    return sum(float(value) == 1 for value in history.get("half_size", ()))


def _add_legend(figure: Figure, labels: Sequence[str], colors: Any) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=color, linewidth=2) for color in colors]
    legend = figure.legend(
        lines, labels, loc="outside lower left", frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _label(study: Study) -> str:
    parts = [study.recipe, study.data, f"{study.classes} classes"]
    parts += [f"{study.epochs} epoch{'s' * (study.epochs > 1)}"]
    parts += [study.settings] if study.settings else []
    return f"{', '.join(parts)} ({study.n} run{'s' * (study.n > 1)})"


def _draw_range(
    axes: Axes, curves: Sequence[Sequence[float]], half_size_epochs: int, color: Any
) -> None:
    """Draws mean and range of curves, which may end at different epochs."""
    table = np.full((len(curves), max(map(len, curves))), np.nan)
    for row, curve in zip(table, curves, strict=True):
        row[: len(curve)] = curve
    known = np.ma.masked_invalid(table)
    epochs = np.arange(1, table.shape[1] + 1)
    mean = known.mean(axis=0)
    _draw_line(axes, mean, half_size_epochs, color=color)
    if len(curves) > 1:
        low, high = known.min(axis=0), known.max(axis=0)
        axes.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)


def _draw_line(
    axes: Axes, values: NDArray[np.float64], half_size_epochs: int, **style: Any
) -> None:
    """Draws values by epoch, dashed up to the first epoch at full size."""
    epochs = np.arange(1, len(values) + 1)
    style |= {"linewidth": 2, "marker": "o" if len(epochs) == 1 else None}
    half = half_size_epochs
    axes.plot(epochs[half:], values[half:], **style)
    if half:
        style["label"] = None
        axes.plot(epochs[: half + 1], values[: half + 1], "--", **style)


def _prepare_axes(axes: Axes, title: str, half_size: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    set_panel_title(axes, title)
    axes.set_xlabel("epoch (dashed: at half the image size)" if half_size else "epoch")
    axes.grid(axis="y", color=GRID_COLOR, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(
        MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )


def _draw_curves(
    axes: Axes,
    metric: str,
    curves: Curves,
    half_size_epochs: int,
    find_best: Callable[..., Any],
) -> None:
    _prepare_axes(axes, metric.capitalize(), half_size_epochs > 0)
    ends: list[tuple[float, str, str]] = []
    for key, part, color in (
        (metric, "train", SECONDARY_COLOR),
        (f"val_{metric}", "val", PRIMARY_COLOR),
    ):
        if key not in curves:
            continue
        curve = curves[key]
        _draw_line(axes, curve, half_size_epochs, color=color, label=part)
        finite = np.isfinite(curve)
        if finite[-1]:
            ends.append((float(curve[-1]), f"{part} {curve[-1]:.3f}", color))
        if part == "val" and finite.any():
            best = int(find_best(np.where(finite, curve, np.nan)))
            axes.plot(
                best + 1, curve[best], "o", color=color, markersize=6, label="best"
            )
            text = f"best val {curve[best]:.3f} (epoch {best + 1})"
            axes.set_title(text, loc="right", size=9, color=color)
    axes.margins(x=0.02)
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Writes a text beside the end of each curve, without overlap.

    Args:
        axes: The axes of the curves.
        ends: Last value, text and color of at most two curves.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ends.sort()
    heights = [(value - low) / (high - low) for value, _, _ in ends]
    if len(ends) == 2 and heights[1] - heights[0] < 0.075:
        middle = sum(heights) / 2
        heights = [middle - 0.0375, middle + 0.0375]
    for height, (_, text, color) in zip(heights, ends, strict=True):
        axes.annotate(
            text,
            (1, height),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            size=9,
            color=color,
            annotation_clip=False,
        )
