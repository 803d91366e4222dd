"""Applications: AlexNetMini and its weights."""

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
