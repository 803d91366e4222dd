"""AlexNet-inspired networks for Tiny ImageNet in Keras 3."""

import importlib
import sys
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "AlexNetMini",
    "Evaluation",
    "LocalResponseNormalization",
    "Recipe",
    "Run",
    "__version__",
    "datasets",
    "decode_predictions",
    "evaluate",
    "export",
    "list_weights",
    "model_card",
    "preprocess_input",
    "recipes",
    "train",
    "tuning",
    "visualization",
    "weights_path",
]

# The installed command imports what it needs, when it needs it: --help and wrong
# arguments are answered at once, without the seconds that Keras takes to load.
if Path(*sys.argv[:1]).name not in ("keras-tinyalex", "keras-tinyalex.exe"):
    from keras_tinyalex import datasets, recipes, visualization
    from keras_tinyalex.applications import (
        AlexNetMini,
        decode_predictions,
        list_weights,
        model_card,
        preprocess_input,
        weights_path,
    )
    from keras_tinyalex.evaluation import Evaluation, evaluate
    from keras_tinyalex.export import export
    from keras_tinyalex.layers import LocalResponseNormalization
    from keras_tinyalex.recipes import Recipe
    from keras_tinyalex.training import Run, train


def __getattr__(name: str) -> Any:
    # KerasTuner takes seconds to load: only when somebody tunes.
    if name == "tuning":
        return importlib.import_module("keras_tinyalex.tuning")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
