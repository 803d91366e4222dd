"""Applications: AlexNetMini and its weights."""

from keras_tinyalex.applications.alexnet_mini import (
    AlexNetMini,
    decode_predictions,
    preprocess_input,
)
from keras_tinyalex.applications.weights import (
    list_weights,
    load_model,
    load_weights_into,
    model_card,
    read_class_names,
    save_model,
    weights_path,
)

__all__ = [
    "AlexNetMini",
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
