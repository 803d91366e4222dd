"""Batch normalization into a network for its training, and out of it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_tinyalex.aliases import Images, Tensor
from keras_tinyalex.applications.network import CLASSIFIER
from keras_tinyalex.building.networks import build_model
from keras_tinyalex.recipes import Recipe


def fold_batch_norm(
    model: keras.Model, recipe: Recipe, images: Images, seed: int = 0
) -> keras.Model:
    """Returns the trained network as a plain AlexNetMini in float32.

    Batch normalization of a recipe with `folded_batch_norm` first gets its
    statistics from images at full resolution without dropout, which training
    may not have seen. Then it is folded into the kernel before it and a bias,
    with the same outputs (Jacob et al., 2017,
    https://arxiv.org/abs/1712.05877).

    Args:
        model: A trained model from `build`.
        recipe: Its `Recipe`.
        images: Training images, uint8 `(N, H, W, C)`; up to 1,024 are used.
        seed: Seed >= 0 of their choice.

    Returns:
        A `keras.Model`; `model` itself where there is nothing to change.
    """
    if recipe.dtype == "float32" and not recipe.folded_batch_norm:
        return model
    if recipe.folded_batch_norm:
        _estimate_statistics(model, images, seed)
    recipe = dataclasses.replace(recipe, dtype="float32", folded_batch_norm=False)
    plain = build_model(
        recipe,
        seed=0,
        num_classes=model.output_shape[-1],
        input_shape=model.input_shape[1:],
    )
    trained = {layer.name: layer for layer in model.layers}
    for layer in plain.layers:
        weights = trained[layer.name].get_weights()
        if norm := trained.get(f"{layer.name}_bn"):
            gamma, beta, mean, variance = norm.get_weights()
            scale = gamma / np.sqrt(variance + norm.epsilon)
            weights = [weights[0] * scale, beta - mean * scale]
        layer.set_weights(weights)
    return plain


def unfold_batch_norm(
    model: keras.Model, recipe: Recipe, images: Images, seed: int = 0
) -> keras.Model:
    """Returns a plain AlexNetMini with the batch normalization of a recipe.

    The reverse of `fold_batch_norm`, to go on training from its result: the
    network computes the same. Kernels are scaled so that all activations
    before a normalization have variance 1, as in a network that starts with
    `recipe.initialization`, since learning rates and weight decay are made for
    such kernels.

    Args:
        model: A model from `build_model` without `folded_batch_norm`.
        recipe: A `Recipe`.
        images: Training images, uint8 `(N, H, W, C)`; up to 1,024 are used.
        seed: Seed >= 0 of their choice, and of dropout.

    Returns:
        A `keras.Model`; `model` itself where the recipe has no
        `folded_batch_norm`.
    """
    if not recipe.folded_batch_norm:
        return model
    unfolded = build_model(
        recipe,
        seed,
        num_classes=model.output_shape[-1],
        input_shape=model.input_shape[1:],
    )
    norms = _batch_norms(unfolded)
    normalized = {norm.name.removesuffix("_bn"): norm for norm in norms}
    for layer in model.layers:
        weights = layer.get_weights()
        if norm := normalized.get(layer.name):
            # Adds the bias, and nothing more until all have their statistics.
            norm.beta.assign(weights.pop())
            norm.moving_variance.assign(norm.moving_variance - norm.epsilon)
        unfolded.get_layer(layer.name).set_weights(weights)
    inputs = keras.Model(unfolded.input, [norm.input for norm in norms])
    moments = [_moments(inputs(batch)) for batch in _batches_of(images, seed)]
    scale = 1.0
    for norm, values in zip(norms, zip(*moments, strict=True), strict=True):
        layer = unfolded.get_layer(norm.name.removesuffix("_bn"))
        scale = _normalize(layer, norm, np.mean(values, axis=0), scale)
    classifier = unfolded.get_layer(CLASSIFIER)
    kernel, bias = classifier.get_weights()
    classifier.set_weights([kernel * scale, bias])
    return unfolded


def _normalize(
    layer: keras.Layer,
    norm: keras.Layer,
    moments: npt.NDArray[np.float64],
    scale: float,
) -> float:
    """Normalizes what a layer gives, and undoes it in the normalization after it.

    Args:
        layer: A convolution or dense layer.
        norm: The `BatchNormalization` after it.
        moments: Means of each of its channels and of its square.
        scale: By what the inputs of the layer have been divided.

    Returns:
        By what its outputs are divided.
    """
    mean, square = moments
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    # A channel that is always 0 must not start to amplify rounding errors.
    divisor = np.maximum(deviation, max(1e-2 * deviation.max(), 1e-6))
    variance = (deviation / divisor) ** 2  # 1 but for such channels
    layer.kernel.assign(ops.convert_to_numpy(layer.kernel) * scale / divisor)
    # LRN, after block 2, is not the same for activations of another scale.
    scale = 1.0 if layer.name.startswith("block2") else float(divisor.mean())
    gamma = divisor / scale * np.sqrt(variance + norm.epsilon)
    beta = (mean + ops.convert_to_numpy(norm.beta)) / scale
    norm.set_weights([gamma, beta, mean / divisor, variance])
    return scale


def _moments(activations: list[Tensor]) -> list[npt.NDArray[np.float64]]:
    """Returns the means of each channel and of its square."""
    arrays = [ops.convert_to_numpy(ops.cast(x, "float32")) for x in activations]
    rows = [array.reshape(-1, array.shape[-1]) for array in arrays]
    return [
        np.stack([row.mean(0, dtype=np.float64), (row**2).mean(0, dtype=np.float64)])
        for row in rows
    ]


def _batch_norms(model: keras.Model) -> list[keras.Layer]:
    norm = keras.layers.BatchNormalization
    return [layer for layer in model.layers if isinstance(layer, norm)]


def _batches_of(images: Images, seed: int) -> Iterator[Tensor]:
    """Yields up to 1,024 of the images, in batches of about 64."""
    order = np.random.default_rng(seed).permutation(len(images))[:1024]
    for part in np.array_split(order, max(1, len(order) // 64)):
        yield ops.convert_to_tensor(images[np.sort(part)])


def _estimate_statistics(model: keras.Model, images: Images, seed: int) -> None:
    """Sets the means and variances of batch normalization from images."""
    layers = _batch_norms(model)
    momentums = [layer.momentum for layer in layers]
    for number, x in enumerate(_batches_of(images, seed)):
        for layer in layers:
            layer.momentum = number / (number + 1)  # the mean of all batches
        for layer in model.layers[1:]:
            x = layer(x, training=True) if layer in layers else layer(x)
    for layer, momentum in zip(layers, momentums, strict=True):
        layer.momentum = momentum
