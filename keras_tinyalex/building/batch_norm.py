"""Batch normalization into a network for its training, and out of it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

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
        images: Training images, uint8 `(N, H, W, C)`, of which 1% of the
            training is used: `N * recipe.epochs / 100`, at least 1,024.
        seed: Seed >= 0 of their choice.

    Returns:
        A `keras.Model`; `model` itself where there is nothing to change.
    """
    if recipe.dtype == "float32" and not recipe.folded_batch_norm:
        return model
    if recipe.folded_batch_norm:
        _estimate_statistics(model, _sample(images, recipe, seed))
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
        images: Training images, uint8 `(N, H, W, C)`, of which as many are used
            as by `fold_batch_norm`.
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
    normalized = {
        norm.name.removesuffix("_bn"): norm for norm in _batch_norms(unfolded)
    }
    for layer in model.layers:
        weights = layer.get_weights()
        if norm := normalized.get(layer.name):
            # Adds the bias, and nothing more until all have their statistics.
            norm.beta.assign(weights.pop())
            norm.moving_variance.assign(norm.moving_variance - norm.epsilon)
        unfolded.get_layer(layer.name).set_weights(weights)
    scale = 1.0
    batches = _sample(images, recipe, seed)
    moments = _batch_moments(unfolded, batches, training=False)
    for (name, norm), (means, variances) in zip(
        normalized.items(), moments, strict=True
    ):
        variance = variances.mean(axis=0) + means.var(axis=0)  # of all batches
        statistics = means.mean(axis=0), variance
        scale = _normalize(unfolded.get_layer(name), norm, *statistics, scale)
    classifier = unfolded.get_layer(CLASSIFIER)
    kernel, bias = classifier.get_weights()
    classifier.set_weights([kernel * scale, bias])
    return unfolded


def _normalize(
    layer: keras.Layer,
    norm: keras.Layer,
    mean: npt.NDArray[np.float64],
    variance: npt.NDArray[np.float64],
    scale: float,
) -> float:
    """Normalizes what a layer gives, and undoes it in the normalization after it.

    Args:
        layer: A convolution or dense layer.
        norm: The `BatchNormalization` after it.
        mean: Mean of each channel that the layer gives.
        variance: Its variance.
        scale: By what the inputs of the layer have been divided.

    Returns:
        By what its outputs are divided.
    """
    deviation = np.sqrt(variance)
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


def _estimate_statistics(model: keras.Model, batches: Iterable[Images]) -> None:
    """Sets the means and variances of batch normalization from images."""
    moments = _batch_moments(model, batches, training=True)
    for norm, (means, variances) in zip(_batch_norms(model), moments, strict=True):
        norm.moving_mean.assign(means.mean(axis=0))
        norm.moving_variance.assign(variances.mean(axis=0))


def _batch_moments(
    model: keras.Model, batches: Iterable[Images], training: bool
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Returns what each batch normalization has to normalize, without dropout.

    Args:
        model: A model from `build`.
        batches: Training images, uint8 `(N, H, W, C)`.
        training: Whether batches are normalized by their own statistics, as in
            training.

    Returns:
        For each normalization the means and variances of its inputs, arrays
        `(batches, channels)`.
    """
    norms = _batch_norms(model)
    moments: list[Tensor] = []

    def call(layer: keras.Layer, x: Tensor, **arguments: Any) -> Tensor:
        if layer not in norms:
            return layer(x, **arguments)
        wide = ops.cast(x, "float32")
        mean, variance = ops.moments(wide, axes=tuple(range(len(x.shape) - 1)))
        moments.extend((mean, variance))
        if not training:
            return layer(x, **arguments)
        # `predict` would not let the layer train.
        offset, scale = (ops.convert_to_tensor(w) for w in (layer.beta, layer.gamma))
        outputs = ops.batch_normalization(
            wide, mean, variance, -1, offset, scale, layer.epsilon
        )
        return ops.cast(outputs, layer.compute_dtype)

    # The layers are shared, not copied.
    cloned = keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=call
    )
    measure = keras.Model(cloned.input, moments)
    measured = [measure.predict_on_batch(batch) for batch in batches]
    arrays = [
        np.stack(values).astype(np.float64) for values in zip(*measured, strict=True)
    ]
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _batch_norms(model: keras.Model) -> list[keras.Layer]:
    """The layers of batch normalization, in their order."""
    norm = keras.layers.BatchNormalization
    return [layer for layer in model.layers if isinstance(layer, norm)]


def _sample(images: Images, recipe: Recipe, seed: int) -> Iterator[Images]:
    """Yields 1% of a training's images, at least 1,024, in batches of about 64."""
    count = max(1024, len(images) * recipe.epochs // 100)
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    for part in np.array_split(order, max(1, len(order) // 64)):
        yield images[np.sort(part)]
