"""All figures of a training run or of an evaluation, and how they are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.visualization.curves import plot_history
from keras_tinyalex.visualization.evaluation import (
    plot_calibration,
    plot_class_accuracy,
    plot_confused_pairs,
    plot_confusion_matrix,
)
from keras_tinyalex.visualization.images import plot_predictions, plot_samples
from keras_tinyalex.visualization.style import (
    DPI,
    in_own_style,
    own_style,
    short_names,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_tinyalex.datasets.batches import LabelledArrays
    from keras_tinyalex.evaluation import Evaluation


def plot_run(
    train_data: LabelledArrays,
    val_data: LabelledArrays,
    words: Mapping[str, str] | None,
    history_rows: Mapping[str, Sequence[Any]],
    evaluation: Evaluation,
    kept_epoch: int | None = None,
) -> dict[str, Figure]:
    """Draws the figures that `keras_tinyalex.train` writes to `plots/`.

    Args:
        train_data: Images that the model was trained on.
        val_data: Images of `evaluation`.
        words: Comma-separated names by class name (wnid), or `None`; see
            `keras_tinyalex.datasets.classes.readable_name`.
        history_rows: Values by epoch, as in `plot_history()`.
        evaluation: Result of `keras_tinyalex.evaluate()` on `val_data`.
        kept_epoch: As in `plot_history()`.

    Returns:
        Figures by name: `samples`, `history`, and those of
        `plot_evaluation()`.
    """
    from keras_tinyalex.datasets.classes import readable_name

    names = [readable_name(name, words) for name in train_data.class_names]
    return {
        "samples": plot_samples(train_data.images, train_data.labels, names),
        "history": plot_history(history_rows, kept_epoch),
        **plot_evaluation(evaluation, val_data, names),
    }


def plot_evaluation(
    evaluation: Evaluation, data: LabelledArrays, names: Sequence[str]
) -> dict[str, Figure]:
    """Draws the figures of an evaluation.

    Args:
        evaluation: Result of `keras_tinyalex.evaluate()` on `data`.
        data: Images and labels.
        names: Readable class names in label order.

    Returns:
        Figures by name: `predictions` (images with true label and
        prediction), `confusion_matrix`, `confused_pairs`, `class_accuracy` and
        `calibration`.
    """
    return {
        "predictions": plot_predictions(
            data.images,
            data.labels,
            evaluation.predictions,
            names,
            confidences=evaluation.confidences,
        ),
        "confusion_matrix": plot_confusion_matrix(evaluation.confusion, names),
        "confused_pairs": plot_confused_pairs(evaluation, names),
        "class_accuracy": plot_class_accuracy(evaluation, names),
        "calibration": plot_calibration(evaluation),
    }


@in_own_style
def plot_letters(names: Sequence[str]) -> Figure:
    """Draws all letters of names, to try whether figures of them can be drawn."""
    from matplotlib.figure import Figure

    figure = Figure((1, 1), DPI)
    letters = "".join(sorted(set("".join(short_names(names)))))
    figure.text(0, 0, letters, size=8, parse_math=False)
    return figure


def save_figures(folder: PathLike, figures: Mapping[str, Figure]) -> None:
    """Writes each figure to `<name>.png` in a folder.

    Args:
        folder: The folder, made if it does not exist. Files of the same name
            are replaced.
        figures: Figures by name.

    Examples:
        >>> save_figures("plots", {"history": plot_history({"loss": [2.0, 1.5]})})
        >>> Path("plots/history.png").exists()
        True
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with own_style():
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png")
