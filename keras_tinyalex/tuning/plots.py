"""Figures of a hyperparameter search, and the importance of hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.tuning import results, spaces
from keras_tinyalex.tuning.oracles import require_scikit_learn
from keras_tinyalex.tuning.results import Search
from keras_tinyalex.visualization.style import (
    DPI,
    PRIMARY_COLOR,
    SECONDARY_COLOR,
    in_own_style,
    set_panel_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Importance needs at least this many trials to be meaningful.
MIN_TRIALS_FOR_IMPORTANCE = 8


@in_own_style
def plot_search(search: Search | PathLike) -> Figure:
    """Draws the trials of a search and the importance of its hyperparameters.

    The axes are, from top to bottom:

    * the accuracy of each trial, and the best so far;
    * parallel coordinates: one line per trial through the hyperparameters that
      vary, darker for a higher accuracy;
    * the importance of the hyperparameters (see `importance`), if scikit-learn
      is installed and at least 8 trials have completed.

    Args:
        search: A `Search`, or the folder of one.

    Returns:
        A `matplotlib.figure.Figure` with one to three axes.

    Raises:
        ValueError: If no trial has completed.

    Examples:
        >>> rows = [
        ...     {"trial": str(i), "status": "completed", "epochs": 1,
        ...      "val_accuracy": 0.1 * i, "batch_size": 16 * i} for i in (1, 2)]
        >>> figure = plot_search(Search("found", rows, None))
        >>> figure.axes[0].get_title(loc="left")
        'Trials in start order'
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
    _draw_trials(axes[0], completed)
    if names:
        _draw_parallel(axes[1], completed, names)
    if scores:
        _draw_importance(axes[2], scores)
    return figure


def varied(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the hyperparameters that differ between trials, in search order."""
    fields = dict.fromkeys(parameter.field for parameter in spaces.SPACES["all"])
    return [f for f in fields if len({row.get(f, "-") for row in rows}) > 1]


def importance(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns how much each hyperparameter affects the accuracy.

    A random forest is fitted to the accuracy, with the hyperparameters and the
    number of epochs as inputs. The importance of an input is the decrease of
    the forest's R² when the input is shuffled: scikit-learn's permutation
    importance with 10 repeats. With few trials, it is only a hint.

    Args:
        rows: Completed trials, as in `Search.ranking`.

    Returns:
        The mean decrease of R² by name, the largest first.

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
    decreases = zip(names, found.importances_mean.tolist(), strict=True)
    return dict(sorted(decreases, key=lambda item: -item[1]))


def _can_rank(rows: Sequence[dict[str, Any]]) -> bool:
    try:
        require_scikit_learn("`importance`")
    except ImportError:
        return False
    return len(rows) >= MIN_TRIALS_FOR_IMPORTANCE and bool(varied(rows))


def _positions(
    rows: Sequence[dict[str, Any]], name: str
) -> tuple[npt.NDArray[np.float64], list[tuple[float, str]]]:
    """Returns positions of the trials' values on an axis 0..1, and its ticks.

    Ranges have a logarithmic scale, as they are sampled. Choices are evenly
    spaced in the order of the space. A trial without the value is at -0.1.
    """
    values = [row.get(name, _ABSENT) for row in rows]
    parameters = [p for p in spaces.SPACES["all"] if p.field == name]
    present = [value for value in values if value is not _ABSENT]
    if parameters and not parameters[0].choices:
        low, high = np.log10(min(present)), np.log10(max(present))
        span = (high - low) or 1.0
        positions = {v: float((np.log10(v) - low) / span) for v in present}
        ticks = [(0.0, f"{min(present):.2g}"), (1.0, f"{max(present):.2g}")]
    else:
        order = [
            None if choice == spaces.NONE else choice
            for parameter in parameters
            for choice in parameter.choices
        ]
        others = sorted({v for v in present if v not in order})
        choices = [v for v in order if v in present] + others
        last = max(1, len(choices) - 1)
        positions = {value: index / last for index, value in enumerate(choices)}
        ticks = [(position, _text(value)) for value, position in positions.items()]
    if len(present) < len(values):
        ticks.append((-0.1, "unused"))
    return np.array([positions.get(v, -0.1) for v in values]), ticks


_ABSENT = object()


def _text(value: Any) -> str:
    return spaces.NONE if value is None else f"{value}"


def _draw_trials(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    scores = np.array([row[results.OBJECTIVE] for row in rows])
    number = np.arange(1, len(rows) + 1)
    epochs = np.array([row["epochs"] for row in rows])
    sizes = 12 + 40 * epochs / epochs.max()
    label = "trial (larger: more epochs)"
    axes.scatter(number, scores, sizes, SECONDARY_COLOR, label=label)
    best = np.maximum.accumulate(scores)
    axes.step(number, best, where="post", color=PRIMARY_COLOR, label="best so far")
    axes.set_ylabel("held-out accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(
        loc="lower right",  # above the axes, where it hides no trial
        bbox_to_anchor=(1, 1),
        ncols=2,
        frameon=False,
        fontsize=8,
    )
    set_panel_title(axes, "Trials in start order")


def _draw_parallel(
    axes: Axes, rows: Sequence[dict[str, Any]], names: Sequence[str]
) -> None:
    from matplotlib import colormaps

    scores = np.array([row[results.OBJECTIVE] for row in rows])
    shade = (scores - scores.min()) / (np.ptp(scores) or 1.0)
    columns = [_positions(rows, name) for name in names]
    lines = np.array([positions for positions, _ in columns]).T
    for index in np.argsort(scores):  # the best on top
        best = index == np.argmax(scores)
        gray = colormaps["Greys"](0.15 + 0.6 * shade[index])
        color = PRIMARY_COLOR if best else gray
        axes.plot(lines[index], color=color, linewidth=2.2 if best else 1.0)
    for column, (_, ticks) in enumerate(columns):
        axes.axvline(column, color="black", linewidth=0.5)
        for position, text in ticks:
            label = axes.text(column + 0.04, position, text, fontsize=7, va="center")
            label.set_bbox({"color": "white", "alpha": 0.8, "pad": 1, "linewidth": 0})
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.set_yticks([])
    set_panel_title(axes, "Hyperparameters (darker: higher accuracy; blue: best trial)")


def _draw_importance(axes: Axes, scores: dict[str, float]) -> None:
    names = list(scores)[::-1]
    axes.barh(names, [scores[name] for name in names], color=PRIMARY_COLOR)
    axes.tick_params(axis="y", labelsize=8)
    set_panel_title(axes, "Importance: decrease of a random forest's R² when shuffled")
