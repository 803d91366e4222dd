"""AlexNet-inspired networks for Tiny ImageNet in Keras 3."""

from typing import TYPE_CHECKING

from keras_tinyalex import registration
from keras_tinyalex.lazy_imports import lazy_imports

__version__ = "0.1.0"

if TYPE_CHECKING:
    from keras_tinyalex import datasets, recipes, runs, tuning, visualization
    from keras_tinyalex.applications import (
        AlexNetMini,
        decode_predictions,
        list_weights,
        model_card,
        preprocess_input,
        weights_path,
    )
    from keras_tinyalex.evaluation import Evaluation, evaluate
    from keras_tinyalex.exporting import export
    from keras_tinyalex.layers import LocalResponseNormalization
    from keras_tinyalex.recipes import Recipe
    from keras_tinyalex.robustness import (
        CorruptionEvaluation,
        UnknownEvaluation,
        evaluate_corruptions,
        evaluate_unknown,
    )
    from keras_tinyalex.runs import Run
    from keras_tinyalex.training import train

__all__ = [
    "AlexNetMini",
    "CorruptionEvaluation",
    "Evaluation",
    "LocalResponseNormalization",
    "Recipe",
    "Run",
    "UnknownEvaluation",
    "__version__",
    "datasets",
    "decode_predictions",
    "evaluate",
    "evaluate_corruptions",
    "evaluate_unknown",
    "export",
    "list_weights",
    "model_card",
    "preprocess_input",
    "recipes",
    "runs",
    "train",
    "tuning",
    "visualization",
    "weights_path",
]

# Where these names are.
_MODULES = {
    "AlexNetMini": "applications",
    "CorruptionEvaluation": "robustness",
    "Evaluation": "evaluation",
    "LocalResponseNormalization": "layers",
    "Recipe": "recipes",
    "Run": "runs",
    "UnknownEvaluation": "robustness",
    "decode_predictions": "applications",
    "evaluate": "evaluation",
    "evaluate_corruptions": "robustness",
    "evaluate_unknown": "robustness",
    "export": "exporting",
    "list_weights": "applications",
    "model_card": "applications",
    "preprocess_input": "applications",
    "train": "training",
    "weights_path": "applications",
}

registration.register_with_keras()


__getattr__, __dir__ = lazy_imports(__name__, _MODULES)
