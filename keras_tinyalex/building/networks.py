"""The network of a recipe, not trained and not compiled."""

from __future__ import annotations

import random
from typing import Any

import keras

from keras_tinyalex.applications.alexnet_mini import build_alexnet_mini
from keras_tinyalex.applications.network import Network, is_own_layer
from keras_tinyalex.machine import fastest_dtype
from keras_tinyalex.recipes import Recipe


def build_model(recipe: Recipe, seed: int, **arguments: Any) -> keras.Model:
    """Returns the AlexNetMini of a recipe, not compiled.

    Args:
        recipe: A `Recipe`.
        seed: Seed of the weights and of dropout.
        **arguments: Arguments of `AlexNetMini` that are not fields of a recipe.

    Returns:
        A `keras.Model`, with batch normalization before each ReLU but the first
        where the recipe has `folded_batch_norm`. It takes images
        `(N, H, W, C)` whatever `keras.config.image_data_format()` is, since
        files are read as such.
    """
    policy, state = keras.config.dtype_policy(), random.getstate()
    automatic = recipe.dtype == "auto"
    keras.config.set_dtype_policy(fastest_dtype()[0] if automatic else recipe.dtype)
    # Keras draws the seeds of initializers and dropout here. Its own
    # `set_random_seed` would import TensorFlow under every backend.
    random.seed(seed)
    try:
        return build_alexnet_mini(_network(recipe), **arguments)
    finally:
        keras.config.set_dtype_policy(policy)
        random.setstate(state)


def _network(recipe: Recipe) -> Network:
    return Network(
        recipe.normalization,
        recipe.width_multiplier,
        recipe.dropout,
        "channels_last",
        lrn={
            "depth_radius": recipe.lrn_depth_radius,
            "bias": recipe.lrn_bias,
            "alpha": recipe.lrn_alpha,
            "beta": recipe.lrn_beta,
        },
        dense_units={"fc1": recipe.fc1_units, "fc2": recipe.fc2_units},
        folded_batch_norm=recipe.folded_batch_norm,
    )


def own_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of AlexNetMini: any before its input belong to the caller."""
    return [layer for layer in model.layers if is_own_layer(layer.name)]
