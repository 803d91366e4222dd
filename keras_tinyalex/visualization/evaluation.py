"""Figures of an evaluation: confusions, accuracy by class, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_tinyalex.arguments import check_integer
from keras_tinyalex.metrics import (
    CALIBRATION_BINS,
    calibration_curve,
    expected_calibration_error,
    wilson_interval,
)
from keras_tinyalex.visualization.style import (
    DPI,
    FAINT_TEXT_COLOR,
    FRAME_COLOR,
    INCORRECT_COLOR,
    PRIMARY_COLOR,
    SECONDARY_COLOR,
    TEXT_COLOR,
    fit_text,
    in_own_style,
    open_frame,
    short_names,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_tinyalex.evaluation import Evaluation

# More classes than these leave no room for numbers in cells, or names on axes.
MAX_CLASSES_WITH_NUMBERS, MAX_CLASSES_WITH_NAMES = 30, 60
MAX_NAME_WIDTH = 130  # points
# Of more than MAX_CLASSES_WITH_NAMES, so many of the best and of the worst are drawn.
EXTREME_CLASSES = 20


@in_own_style
def plot_confusion_matrix(
    confusion: ArrayLike, class_names: Sequence[str], normalize: bool = True
) -> Figure:
    """Draws how often each true label (row) got each prediction (column).

    Cells show their numbers for up to 30 classes, axes their names for up to
    60.

    Args:
        confusion: `(C, C)` integers: true labels in rows, predictions in
            columns.
        class_names: `C` wnids or names in label order. Of several synonyms the
            first is shown; long names are cut.
        normalize: Whether to show percentages of the images with the true
            label, so that rows sum to 100, instead of numbers of images.
            Defaults to `True`.

    Returns:
        A `matplotlib.figure.Figure` with two axes, matrix and color bar.

    Raises:
        ValueError: If `confusion` is not a square of non-negative counts, or
            the number of names differs.

    Examples:
        >>> figure = plot_confusion_matrix([[3, 1], [0, 4]], ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['75', '25', '0', '100']
    """
    from matplotlib.figure import Figure

    counts, size = np.asarray(confusion), len(class_names)
    if counts.shape != (size, size) or not size or np.any(counts < 0):
        raise ValueError(
            "`confusion` must be a (C, C) array of non-negative counts, with C names "
            f"in `class_names`. Received: confusion.shape={counts.shape}, "
            f"confusion.min()={counts.min() if counts.size else None}, "
            f"len(class_names)={size}"
        )
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    values = 100 * counts / totals if normalize else counts
    named = size <= MAX_CLASSES_WITH_NAMES
    cell = 0.36 if size <= MAX_CLASSES_WITH_NUMBERS else 0.18
    side = max(cell * size, 2.4) if named else 7.2
    names = _fitted_names(class_names) if named else []
    space = max((text_width(name, 8) for name in names), default=0) / 72
    figsize = (side + space + 1.6, side + 0.75 * space + 1.2)
    figure = Figure(figsize=figsize, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    top = max(float(values.max()), 1.0)
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=top, interpolation="nearest")
    ticks = range(size) if named else ()
    axes.set_yticks(ticks, names, size=8, parse_math=False)
    axes.set_xticks(ticks, names, size=8, parse_math=False)
    for text in axes.get_xticklabels():
        text.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_color(FRAME_COLOR)
    axes.set_xlabel("prediction", labelpad=6)
    axes.set_ylabel("true label", labelpad=6)
    total = int(counts.sum())
    accuracy = int(counts.trace()) / max(total, 1)
    axes.set_title(f"Accuracy {accuracy:.1%} ({total:,} images)", size=10, pad=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("% of images per true label" if normalize else "images", size=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    if size <= MAX_CLASSES_WITH_NUMBERS:
        _write_numbers(axes, values, top)
    return figure


def _write_numbers(axes: Axes, values: NDArray[Any], top: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        # Most cells are zero: pale numbers make the others stand out.
        color = (
            "white" if value > top / 2 else TEXT_COLOR if value else FAINT_TEXT_COLOR
        )
        number = f"{value:.0f}"
        axes.text(column, row, number, ha="center", va="center", size=7, color=color)


@in_own_style
def plot_class_accuracy(
    evaluation: Evaluation, class_names: Sequence[str] | None = None
) -> Figure:
    """Draws the accuracy of each class, the best class on top.

    Thin lines are 95% Wilson intervals; the dashed line is the accuracy on all
    images. Of more than 60 classes, the best 20 and the worst 20 are drawn.

    Args:
        evaluation: What `keras_tinyalex.evaluate()` returns.
        class_names: Readable names in label order. Of several synonyms the
            first is shown; long names are cut. Defaults to the names of
            `evaluation`.

    Returns:
        A `matplotlib.figure.Figure` with one axes. It leaves out classes
        without images.

    Raises:
        ValueError: If the number of names differs.

    Examples:
        >>> from types import SimpleNamespace
        >>> evaluation = SimpleNamespace(
        ...     confusion=np.array([[1, 3], [0, 4]]), class_names=("cat", "dog")
        ... )
        >>> figure = plot_class_accuracy(evaluation)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['100%', '25%']
    """
    from matplotlib.figure import Figure

    confusion, names = evaluation.confusion, _checked_names(evaluation, class_names)
    totals, hits = confusion.sum(axis=1), confusion.diagonal()
    accuracy = hits / np.maximum(totals, 1)
    order = [k for k in np.argsort(-accuracy, kind="stable") if totals[k]]
    shown, gap = order, ""
    if len(order) > MAX_CLASSES_WITH_NAMES:
        shown = order[:EXTREME_CLASSES] + order[-EXTREME_CLASSES:]
        gap = f"{len(order) - len(shown)} classes between"
    places = np.arange(len(shown), dtype=float)
    if gap:  # room for its line
        places[EXTREME_CLASSES:] += 2
    height = max(0.24 * (places[-1] + 1), 1.2) + 0.9
    figure = Figure(figsize=(7, height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    values = accuracy[shown]
    bounds = [wilson_interval(int(hits[k]), int(totals[k])) for k in shown]
    errors = np.abs(np.transpose(bounds) - values)
    axes.barh(places, values, 0.72, color=PRIMARY_COLOR)
    axes.errorbar(
        values, places, xerr=errors, fmt="none", ecolor=SECONDARY_COLOR, elinewidth=1
    )
    total = int(totals.sum())
    overall = int(hits.sum()) / total
    axes.axvline(overall, color=TEXT_COLOR, linestyle="--", linewidth=1)
    fitted = _fitted_names(names)
    axes.set_yticks(places, [fitted[k] for k in shown], size=8, parse_math=False)
    for place, value, (_, high) in zip(places, values, bounds, strict=True):
        text = axes.text(high + 0.01, place, f"{value:.0%}", va="center", size=8)
        text.set_bbox({"color": "white", "pad": 1, "linewidth": 0})
    if gap:
        axes.text(0.02, EXTREME_CLASSES + 0.5, gap, va="center", size=8)
    axes.set(xlim=(0, 1.08), ylim=(places[-1] + 0.5, -0.5), xlabel="accuracy")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.tick_params(axis="y", length=0)
    open_frame(axes)
    title = f"Accuracy by class (overall {overall:.1%}, {total:,} images)"
    axes.set_title(title, size=10, pad=8)
    return figure


@in_own_style
def plot_confused_pairs(
    evaluation: Evaluation, class_names: Sequence[str] | None = None, n: int = 20
) -> Figure:
    """Draws the pairs of classes that a model confuses most.

    A bar is a percentage of the images of a class, and says how many they are.

    Args:
        evaluation: What `keras_tinyalex.evaluate()` returns.
        class_names: Readable names in label order. Of several synonyms the
            first is shown; long names are cut. Defaults to the names of
            `evaluation`.
        n: Number of pairs; fewer where fewer are confused. Defaults to 20.

    Returns:
        A `matplotlib.figure.Figure` with one axes, the most confused pair on
        top. The title says which part of all errors they are.

    Raises:
        ValueError: If the number of names differs, or `n` is not a positive
            integer.

    Examples:
        >>> from types import SimpleNamespace
        >>> evaluation = SimpleNamespace(
        ...     confusion=np.array([[1, 3], [0, 4]]), class_names=("cat", "dog")
        ... )
        >>> figure = plot_confused_pairs(evaluation)
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['cat → dog']
    """
    from matplotlib.figure import Figure

    names = _fitted_names(_checked_names(evaluation, class_names))
    confusion, n = evaluation.confusion, check_integer("n", n)
    errors = confusion - np.diag(confusion.diagonal())
    share = errors / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    order = np.argsort(-share, axis=None, kind="stable")[:n]
    rows, columns = np.unravel_index(order, errors.shape)
    pairs = [(i, j) for i, j in zip(rows, columns, strict=True) if errors[i, j]]
    values = [100 * share[pair] for pair in pairs]
    labels = [f"{names[i]} → {names[j]}" for i, j in pairs]
    space = max((text_width(label, 8) for label in labels), default=0) / 72
    figsize = (space + 4.8, max(0.24 * len(pairs), 1.2) + 0.9)
    figure = Figure(figsize, DPI, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(pairs))
    axes.barh(places, values, 0.72, color=INCORRECT_COLOR)
    axes.set_yticks(places, labels, size=8, parse_math=False)
    for place, value, (i, j) in zip(places, values, pairs, strict=True):
        counts = f" {errors[i, j]} of {confusion[i].sum()}"
        axes.text(value, place, counts, va="center", size=8)
    top = max(values, default=1)
    axes.set(xlim=(0, 1.15 * top), ylim=(max(len(pairs), 1) - 0.5, -0.5))
    axes.set_xlabel("% of the images of the true label")
    axes.tick_params(axis="y", length=0)
    open_frame(axes)
    part = sum(int(errors[pair]) for pair in pairs) / max(int(errors.sum()), 1)
    title = f"True label → prediction ({part:.0%} of {errors.sum():,} errors)"
    axes.set_title(title, size=10, pad=8)
    return figure


def _checked_names(
    evaluation: Evaluation, class_names: Sequence[str] | None
) -> Sequence[str]:
    names = evaluation.class_names if class_names is None else class_names
    if len(names) != len(evaluation.confusion):
        raise ValueError(
            f"`class_names` must be {len(evaluation.confusion)} names, one for each "
            f"class of `evaluation`. Received: len(class_names)={len(names)}"
        )
    return names


def _fitted_names(class_names: Sequence[str]) -> list[str]:
    return [fit_text(name, MAX_NAME_WIDTH, size=8) for name in short_names(class_names)]


@in_own_style
def plot_calibration(evaluation: Evaluation, bins: int = CALIBRATION_BINS) -> Figure:
    """Draws a reliability diagram: accuracy by confidence.

    The upper axes shows the accuracy of the predictions in each bin of
    confidence, and the diagonal of a calibrated model; the lower axes shows the
    number of images in each bin.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks" (2017).

    Args:
        evaluation: What `keras_tinyalex.evaluate()` returns.
        bins: Number of bins of equal width. Defaults to 15, the number that
            `evaluation.ece` has.

    Returns:
        A `matplotlib.figure.Figure` with two axes, accuracies and numbers of
        images. The title shows the expected calibration error.

    Raises:
        ValueError: If `bins` is not a positive integer.

    Examples:
        >>> from types import SimpleNamespace
        >>> evaluation = SimpleNamespace(
        ...     confidences=np.array([0.75, 0.75]),
        ...     predictions=np.array([0, 1]),
        ...     labels=np.array([0, 0]),
        ... )
        >>> plot_calibration(evaluation).axes[0].get_title()
        'Expected calibration error 0.250 (15 bins, 2 images)'
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    correct = evaluation.predictions == evaluation.labels
    confidences = evaluation.confidences
    counts, accuracy, confidence = calibration_curve(confidences, correct, bins)
    error = expected_calibration_error(confidences, correct, bins)
    figure = Figure(figsize=(5, 5.6), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    centers = (np.arange(bins) + 0.5) / bins
    above.bar(centers, accuracy, 0.9 / bins, color=PRIMARY_COLOR)
    above.plot((0, 1), (0, 1), "--", color=TEXT_COLOR, linewidth=1)
    gaps = {"color": INCORRECT_COLOR, "linewidth": 1.5}
    above.vlines(confidence, accuracy, confidence, **gaps)
    above.plot(confidence, confidence, "o", markersize=3, color=INCORRECT_COLOR)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    images = f"{len(confidences):,} images"
    title = f"Expected calibration error {error:.3f} ({bins} bins, {images})"
    above.set_title(title, size=10, pad=8)
    below.bar(centers, counts, 0.9 / bins, color=SECONDARY_COLOR)
    below.set(xlabel="confidence", ylabel="images")
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in (above, below):
        open_frame(axes)
    return figure
