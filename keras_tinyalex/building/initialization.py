"""Where a training starts: random kernels, whitening, a new classifier."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import Images
from keras_tinyalex.applications.network import CLASSIFIER, FIRST_LAYER
from keras_tinyalex.building.networks import own_layers
from keras_tinyalex.recipes import Recipe


def initialize(model: keras.Model, recipe: Recipe, images: Images, seed: int) -> None:
    """Initializes the kernels by `recipe.initialization`.

    `"glorot"` leaves Keras' default. `"he"` keeps the variance after a ReLU,
    which Glorot's scale halves (He et al., 2015,
    https://arxiv.org/abs/1502.01852); the classifier keeps Keras' default.
    `"whitening"` is `"he"` followed by `whiten`.

    Args:
        model: An `AlexNetMini`, changed in place.
        recipe: A `Recipe`.
        images: Training images, uint8 `(N, H, W, C)`.
        seed: Seed >= 0 of the kernels.
    """
    if recipe.initialization == "glorot":
        return
    layers = [layer for layer in own_layers(model) if hasattr(layer, "kernel")]
    for number, layer in enumerate(layers):
        if layer.name != CLASSIFIER:
            initializer = keras.initializers.HeNormal(seed=1000 * seed + number)
            layer.kernel.assign(initializer(layer.kernel.shape))
    if recipe.initialization == "whitening":
        whiten(model, images)


def whiten(model: keras.Model, images: Images) -> None:
    """Initializes the first convolution to whiten patches of its input.

    Filters are the largest principal components of 3x3 patches, scaled to unit
    variance, and their negatives, so that the ReLU loses nothing. The bias
    subtracts the mean (Page, 2018, and Jordan, 2024,
    https://arxiv.org/abs/2404.00498). A layer with more filters than twice the
    9 x C components keeps the others as they are, as does one with an odd number
    its last.

    Args:
        model: An `AlexNetMini` with its preprocessing, changed in place.
        images: uint8 array `(N, H, W, C)`, of which about 1,000 are used.
    """
    layer = model.get_layer(FIRST_LAYER)
    kernel, bias = layer.get_weights()
    sample = _inputs_of(model, layer, images[:: max(1, len(images) // 1000)])
    windows = np.lib.stride_tricks.sliding_window_view(sample, (3, 3), axis=(1, 2))
    # (N, H, W, C, 3, 3) to rows of (3, 3, C), as the kernel is laid out.
    patches = windows[:, ::4, ::4].transpose(0, 1, 2, 4, 5, 3)
    patches = patches.reshape(-1, patches[0, 0, 0].size)
    mean = patches.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
    half = min(kernel.shape[-1] // 2, len(values))
    components = (vectors / np.sqrt(values + 1e-3))[:, ::-1][:, :half]
    filters = np.concatenate([components, -components], axis=1)
    kernel.reshape(len(values), -1)[:, : 2 * half] = filters
    bias[: 2 * half] = -mean @ filters
    layer.set_weights([kernel, bias])


def _inputs_of(
    model: keras.Model, layer: keras.Layer, images: Images
) -> npt.NDArray[np.float32]:
    """What a model gives to a layer for images."""
    before = keras.Model(model.input, layer.input)
    if [layer.name for layer in before.layers[1:]] == ["rescaling"]:
        # Not by the model, whose dtype policy may round pixels to bfloat16.
        return images.astype(np.float32) / np.float32(255)
    inputs: npt.NDArray[np.float32] = before.predict(images, verbose=0)
    return inputs.astype(np.float32)
