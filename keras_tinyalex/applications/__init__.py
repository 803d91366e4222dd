"""Applications: AlexNetMini and its weights."""

from typing import TYPE_CHECKING

from keras_tinyalex.lazy_imports import lazy_imports

if TYPE_CHECKING:
    from keras_tinyalex.applications.alexnet_mini import AlexNetMini, preprocess_input
    from keras_tinyalex.applications.model_files import (
        load_model,
        read_class_names,
        save_model,
    )
    from keras_tinyalex.applications.predictions import (
        classify_files,
        decode_predictions,
    )
    from keras_tinyalex.applications.shipped import (
        list_weights,
        model_card,
        weights_path,
    )
    from keras_tinyalex.applications.weights import load_weights_into

__all__ = [
    "AlexNetMini",
    "classify_files",
    "decode_predictions",
    "list_weights",
    "load_model",
    "load_weights_into",
    "model_card",
    "preprocess_input",
    "read_class_names",
    "save_model",
    "weights_path",
]

# Where these names are.
_MODULES = {
    "AlexNetMini": "alexnet_mini",
    "classify_files": "predictions",
    "decode_predictions": "predictions",
    "list_weights": "shipped",
    "load_model": "model_files",
    "load_weights_into": "weights",
    "model_card": "shipped",
    "preprocess_input": "alexnet_mini",
    "read_class_names": "model_files",
    "save_model": "model_files",
    "weights_path": "shipped",
}

__getattr__, __dir__ = lazy_imports(__name__, _MODULES)
