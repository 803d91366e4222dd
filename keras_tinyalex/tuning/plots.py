"""Figures of a search: returned, never shown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_tinyalex.tuning import results, spaces
from keras_tinyalex.tuning.oracles import require_scikit_learn
from keras_tinyalex.tuning.results import Search

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
DOT_COLOR, BEST_COLOR = "#8b95a1", "#0b63b0"
# Fewer trials than this say nothing about a dozen hyperparameters.
LEAST_TRIALS_FOR_IMPORTANCE = 8


def plot_search(search: Search | str | os.PathLike[str]) -> Figure:
    """Draws a search: its course, its trials, and what mattered.

    From top to bottom: the accuracy of each trial and the best so far;
    parallel coordinates, a line for each trial through the hyperparameters
    that vary, dark where it is accurate; and the importance of the hyperparameters (see
    `importance`), where scikit-learn is installed and there are at least 8
    completed trials.

    Args:
        search: A `Search`, or the folder of one.

    Returns:
        A `matplotlib.figure.Figure` with an axes for each.

    Raises:
        ValueError: If no trial has completed.

    Examples:
        >>> rows = [
        ...     {"trial": str(i), "status": "completed", "epochs": 1,
        ...      "val_accuracy": 0.1 * i, "batch_size": 16 * i} for i in (1, 2)]
        >>> figure = plot_search(Search("found", rows, None))
        >>> figure.axes[0].get_title(loc="left")
        'Trials in the order of their start'
    """
    from matplotlib.figure import Figure

    found = search if isinstance(search, Search) else results.read_search(search)
    completed = [row for row in found.trials if row["status"] == "completed"]
    if not completed:
        raise ValueError(
            "`search` must have a completed trial to draw. "
            f"Received: search in {str(found.path)!r} with {len(found.trials)} trials"
        )
    names = varied(completed)
    scores = importance(completed) if _can_rank(completed) else {}
    heights = [3.0]
    if names:
        heights.append(3.6)
    if scores:
        heights.append(0.6 + 0.28 * len(scores))
    width = max(8.0, 1.25 * len(names))
    figure = Figure((width, sum(heights)), DPI, layout="constrained")
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_course(axes[0], completed)
    if names:
        _draw_parallel(axes[1], completed, names)
    if scores:
        _draw_importance(axes[2], scores)
    return figure


def varied(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the hyperparameters that differ between trials, in order."""
    fields = dict.fromkeys(knob.field for knob in spaces.SPACES["all"])
    return [f for f in fields if len({row.get(f, "-") for row in rows}) > 1]


def importance(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns how much each hyperparameter mattered to the accuracy.

    A random forest learns the accuracy from the hyperparameters and the
    number of epochs; the importance is how much its R² falls when one of them
    is shuffled (scikit-learn's permutation importance, 10 repeats). With few
    trials it is a hint, not a proof.

    Args:
        rows: Completed trials, as `Search.ranking`.

    Returns:
        The mean fall by name, the greatest first.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    require_scikit_learn("`importance`")
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    names = ["epochs", *varied(rows)]
    inputs = np.stack([_positions(rows, name)[0] for name in names], axis=1)
    outputs = np.array([row[results.OBJECTIVE] for row in rows])
    forest = RandomForestRegressor(100, random_state=0).fit(inputs, outputs)
    found = permutation_importance(
        forest, inputs, outputs, n_repeats=10, random_state=0
    )
    falls = zip(names, found.importances_mean.tolist(), strict=True)
    return dict(sorted(falls, key=lambda item: -item[1]))


def _can_rank(rows: Sequence[dict[str, Any]]) -> bool:
    try:
        require_scikit_learn("`importance`")
    except ImportError:
        return False
    return len(rows) >= LEAST_TRIALS_FOR_IMPORTANCE and bool(varied(rows))


def _positions(
    rows: Sequence[dict[str, Any]], name: str
) -> tuple[npt.NDArray[np.float64], list[tuple[float, str]]]:
    """Places of the trials' values on an axis 0..1, and its ticks.

    Ranges sampled by their logarithm keep it; choices are evenly spaced in the
    order of the space; a trial without the value lies below, at -0.1.
    """
    values = [row.get(name, _ABSENT) for row in rows]
    knobs = [knob for knob in spaces.SPACES["all"] if knob.field == name]
    present = [value for value in values if value is not _ABSENT]
    if knobs and not knobs[0].choices:
        low, high = np.log10(min(present)), np.log10(max(present))
        span = (high - low) or 1.0
        places = {v: float((np.log10(v) - low) / span) for v in present}
        ticks = [(0.0, f"{min(present):.2g}"), (1.0, f"{max(present):.2g}")]
    else:
        order = [None if c == spaces.NONE else c for k in knobs for c in k.choices]
        others = sorted({v for v in present if v not in order})
        choices = [v for v in order if v in present] + others
        last = max(1, len(choices) - 1)
        places = {value: index / last for index, value in enumerate(choices)}
        ticks = [(place, _text(value)) for value, place in places.items()]
    if len(present) < len(values):
        ticks.append((-0.1, "unused"))
    return np.array([places.get(v, -0.1) for v in values]), ticks


_ABSENT = object()


def _text(value: Any) -> str:
    return spaces.NONE if value is None else f"{value}"


def _draw_course(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    scores = np.array([row[results.OBJECTIVE] for row in rows])
    number = np.arange(1, len(rows) + 1)
    epochs = np.array([row["epochs"] for row in rows])
    sizes = 12 + 40 * epochs / epochs.max()
    axes.scatter(number, scores, sizes, DOT_COLOR, label="trial (larger: more epochs)")
    best = np.maximum.accumulate(scores)
    axes.step(number, best, where="post", color=BEST_COLOR, label="best so far")
    axes.set_ylabel("held-out accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(
        loc="lower right",  # above the axes, where it covers no trial
        bbox_to_anchor=(1, 1),
        ncols=2,
        frameon=False,
        fontsize=8,
    )
    _title(axes, "Trials in the order of their start")


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", size=11, weight="bold")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_parallel(
    axes: Axes, rows: Sequence[dict[str, Any]], names: Sequence[str]
) -> None:
    from matplotlib import colormaps

    scores = np.array([row[results.OBJECTIVE] for row in rows])
    shade = (scores - scores.min()) / (np.ptp(scores) or 1.0)
    columns = [_positions(rows, name) for name in names]
    lines = np.array([places for places, _ in columns]).T
    for index in np.argsort(scores):  # the best on top
        best = index == np.argmax(scores)
        color = BEST_COLOR if best else colormaps["Greys"](0.15 + 0.6 * shade[index])
        axes.plot(lines[index], color=color, linewidth=2.2 if best else 1.0)
    for column, (_, ticks) in enumerate(columns):
        axes.axvline(column, color="black", linewidth=0.5)
        for place, text in ticks:
            label = axes.text(column + 0.04, place, text, fontsize=7, va="center")
            label.set_bbox({"color": "white", "alpha": 0.8, "pad": 1, "linewidth": 0})
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.set_yticks([])
    _title(axes, "Hyperparameters (dark: accurate; blue: the best)")


def _draw_importance(axes: Axes, scores: dict[str, float]) -> None:
    names = list(scores)[::-1]
    axes.barh(names, [scores[name] for name in names], color=BEST_COLOR)
    axes.tick_params(axis="y", labelsize=8)
    _title(axes, "Importance: fall of a random forest's R² when shuffled")
