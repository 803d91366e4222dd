"""AlexNet-inspired networks for Tiny ImageNet in Keras 3.

Public names are imported when they are first used, so that the command line starts at
once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_tinyalex import registration

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
    from keras_tinyalex.robustness import CorruptionEvaluation, evaluate_corruptions
    from keras_tinyalex.runs import Run
    from keras_tinyalex.training import train

__all__ = [
    "AlexNetMini",
    "CorruptionEvaluation",
    "Evaluation",
    "LocalResponseNormalization",
    "Recipe",
    "Run",
    "__version__",
    "datasets",
    "decode_predictions",
    "evaluate",
    "evaluate_corruptions",
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

# Where these names are; any other name is that of a module.
_MODULES = {
    "AlexNetMini": "applications",
    "CorruptionEvaluation": "robustness",
    "Evaluation": "evaluation",
    "LocalResponseNormalization": "layers",
    "Recipe": "recipes",
    "Run": "runs",
    "decode_predictions": "applications",
    "evaluate": "evaluation",
    "evaluate_corruptions": "robustness",
    "export": "exporting",
    "list_weights": "applications",
    "model_card": "applications",
    "preprocess_input": "applications",
    "train": "training",
    "weights_path": "applications",
}

registration.register_with_keras()


def __getattr__(name: str) -> Any:
    module = f"{__name__}.{_MODULES.get(name, name)}"
    try:
        value: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # a dependency that is not installed
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    if name in _MODULES:
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
