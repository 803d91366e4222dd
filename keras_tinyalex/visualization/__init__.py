"""Figures of data sets, training runs, results and networks.

Each function returns a new `matplotlib.figure.Figure`. It does not use pyplot,
so it needs no display and changes no global state. A notebook shows the figure;
`figure.savefig("name.png")` writes it to a file.
"""

from keras_tinyalex.visualization.corruptions import plot_corrupted, plot_corruptions
from keras_tinyalex.visualization.curves import plot_history, plot_runs
from keras_tinyalex.visualization.evaluation import (
    plot_calibration,
    plot_class_accuracy,
    plot_confused_pairs,
    plot_confusion_matrix,
)
from keras_tinyalex.visualization.images import (
    plot_augmentation,
    plot_predictions,
    plot_samples,
)
from keras_tinyalex.visualization.network import plot_filters, plot_gradcam
from keras_tinyalex.visualization.summary import (
    plot_evaluation,
    plot_run,
    save_figures,
)

__all__ = [
    "plot_augmentation",
    "plot_calibration",
    "plot_class_accuracy",
    "plot_confused_pairs",
    "plot_confusion_matrix",
    "plot_corrupted",
    "plot_corruptions",
    "plot_evaluation",
    "plot_filters",
    "plot_gradcam",
    "plot_history",
    "plot_predictions",
    "plot_run",
    "plot_runs",
    "plot_samples",
    "save_figures",
]
