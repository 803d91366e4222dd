"""From a recipe to a compiled model, and back to the plain network."""

from __future__ import annotations

import keras

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.building.batch_norm import fold_batch_norm
from keras_tinyalex.building.compilation import compile_model, half_resolution_model
from keras_tinyalex.building.initialization import initialize, whiten
from keras_tinyalex.building.networks import build_model
from keras_tinyalex.building.pretrained import load_pretrained
from keras_tinyalex.datasets.batches import LabelledArrays
from keras_tinyalex.recipes import Recipe

__all__ = [
    "build",
    "build_model",
    "compile_model",
    "fold_batch_norm",
    "half_resolution_model",
    "initialize",
    "whiten",
]


def build(
    recipe: Recipe,
    data: LabelledArrays,
    seed: int,
    weights: PathLike | None = None,
) -> keras.Model:
    """Returns the model of a recipe, compiled to train on `data`.

    Args:
        recipe: A `Recipe`.
        data: The training images.
        seed: Seed of the weights and of dropout.
        weights: Where training starts, see `load_pretrained`. Defaults to
            `None`: `recipe.initialization`.

    Raises:
        ValueError: If `weights` do not fit.
    """
    if weights is None:
        model = build_model(
            recipe,
            seed,
            num_classes=len(data.class_names),
            input_shape=data.images.shape[1:],
        )
        initialize(model, recipe, data.images, seed)
    else:
        model = load_pretrained(weights, recipe, data, seed)
    compile_model(model, recipe, len(data.labels))
    return model
