"""From a recipe to a compiled model, and back to the plain network."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_tinyalex.aliases import Images, PathLike, Tensor
from keras_tinyalex.applications.alexnet_mini import build_alexnet_mini
from keras_tinyalex.applications.network import (
    CLASSIFIER,
    FIRST_LAYER,
    Network,
    is_own_layer,
)
from keras_tinyalex.datasets.batches import LabelledArrays
from keras_tinyalex.kernels import use_fused_ops
from keras_tinyalex.machine import fastest_dtype
from keras_tinyalex.optimizers import Muon
from keras_tinyalex.recipes import Recipe


# An update of the weights must be remembered for hundreds of steps, over which the
# noise of small batches evens out. With few images these are many epochs.
MAX_WEIGHT_DECAY_PER_STEP = 0.002


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
        weights: Where training starts, as in `AlexNetMini`. Defaults to `None`:
            `recipe.initialization`.

    Raises:
        ValueError: If `weights` do not fit.
    """
    shapes = {
        "num_classes": len(data.class_names),
        "input_shape": data.images.shape[1:],
    }
    if weights is None:
        model = build_model(recipe, seed, **shapes)
        initialize(model, recipe, data.images, seed)
    else:
        plain = dataclasses.replace(recipe, folded_batch_norm=False)
        model = build_model(plain, seed, weights=weights, **shapes)
        model = unfold_batch_norm(model, recipe, data.images, seed)
    compile_model(model, recipe, len(data.labels))
    return model


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


def compile_model(model: keras.Model, recipe: Recipe, images: int) -> None:
    """Compiles a model with the optimizer, loss and metrics of a recipe.

    Args:
        model: An `AlexNetMini`.
        recipe: A `Recipe`.
        images: Number of training images, for the length of the schedule.
    """
    use_fused_ops(_own_layers(model))
    loss: keras.losses.Loss = keras.losses.SparseCategoricalCrossentropy()
    if recipe.soft_labels:
        loss = keras.losses.CategoricalCrossentropy(
            label_smoothing=recipe.label_smoothing
        )
    optimizer = _optimizer(recipe, -(-images // recipe.batch_size))
    model.compile(optimizer, loss, metrics=_metrics(model, recipe))


def _metrics(model: keras.Model, recipe: Recipe) -> list[Any]:
    top = min(5, model.output_shape[-1])
    if recipe.soft_labels:
        return ["accuracy", keras.metrics.TopKCategoricalAccuracy(top, name="top5")]
    return ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(top, name="top5")]


def _optimizer(recipe: Recipe, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe, for epochs of `steps` steps."""
    rate: Any = recipe.learning_rate
    if recipe.schedule == "cosine":
        total = recipe.epochs * steps
        warmup = min(round(recipe.warmup_epochs * steps), total // 2)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate,
            total - warmup,
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    options: dict[str, Any] = {}
    if recipe.weight_decay_per_epoch:
        per_step = recipe.weight_decay_per_epoch * recipe.accumulated_steps / steps
        decay = min(per_step, MAX_WEIGHT_DECAY_PER_STEP)
        options["weight_decay"] = decay / recipe.learning_rate
    if recipe.accumulated_steps > 1:
        options["gradient_accumulation_steps"] = recipe.accumulated_steps
    if recipe.averaged:
        momentum = 1 - 1 / max(1, recipe.averaged * recipe.epochs * steps)
        options.update(use_ema=True, ema_momentum=momentum)
    if recipe.optimizer in ("adamw", "muon"):
        adam = keras.optimizers.AdamW if recipe.optimizer == "adamw" else Muon
        optimizer = adam(rate, **options)
    else:
        nesterov = bool(recipe.momentum)
        optimizer = keras.optimizers.SGD(rate, recipe.momentum, nesterov, **options)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


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
    layers = [layer for layer in _own_layers(model) if hasattr(layer, "kernel")]
    for number, layer in enumerate(layers):
        if layer.name != CLASSIFIER:
            initializer = keras.initializers.HeNormal(seed=1000 * seed + number)
            layer.kernel.assign(initializer(layer.kernel.shape))
    if recipe.initialization == "whitening":
        whiten(model, images)


def _own_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of AlexNetMini: any before its input belong to the caller."""
    return [layer for layer in model.layers if is_own_layer(layer.name)]


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


def half_resolution_model(model: keras.Model, recipe: Recipe) -> keras.Model:
    """Returns the same layers on images of half the height and width.

    Convolutions take a quarter of the work; a training may begin with it
    (progressive resizing, J. Howard, 2018, https://www.fast.ai/posts/2018-08-10-fastai-diu-imagenet.html).
    The network averages 2x2 pixels of its input, and upsamples the feature maps
    before the dense layers, so that inputs and weights are the same. Where the
    feature maps have an odd height or width, the halved image is padded with
    zeros, and the feature maps are cropped.

    Args:
        model: A compiled `AlexNetMini`.
        recipe: The `Recipe` that it was compiled by.

    Returns:
        A `keras.Model` that shares layers and optimizer with `model`.
    """
    sizes = model.get_layer(FIRST_LAYER).input.shape[1:3]
    # The feature maps before the dense layers have an eighth of it, rounded down.
    odd = [size // 8 % 2 for size in sizes]
    padding = [
        (0, 4 * (size // 8 + 1) - size // 2 if is_odd else 0)
        for size, is_odd in zip(sizes, odd, strict=True)
    ]
    cropping = [(0, is_odd) for is_odd in odd]

    def call(layer: keras.Layer, x: Any, *args: Any, **kwargs: Any) -> Tensor:
        layers, options = keras.layers, {"data_format": "channels_last"}
        if layer.name == FIRST_LAYER:
            x = layers.AveragePooling2D(2, **options)(x)
            x = layers.ZeroPadding2D(padding, **options)(x) if any(odd) else x
        if layer.name == "flatten":
            x = layers.UpSampling2D(2, **options)(x)
            x = layers.Cropping2D(cropping, **options)(x) if any(odd) else x
        return layer(x, *args, **kwargs)

    # The layers are shared, not copied; this walks the graph, which may have
    # branches before the network.
    half = keras.models.clone_model(
        keras.Model(model.input, model.output),
        clone_function=lambda layer: layer,
        call_function=call,
    )
    half.compile(model.optimizer, model.loss, metrics=_metrics(model, recipe))
    return half


def fold_batch_norm(
    model: keras.Model, recipe: Recipe, images: Images, seed: int = 0
) -> keras.Model:
    """Returns the trained network as a plain AlexNetMini in float32.

    Batch normalization of a recipe with `folded_batch_norm` first gets its
    statistics from images at full resolution without dropout, which training
    may not have seen. Then it is folded into the kernel and bias before it,
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
            kernel, bias = weights
            gamma, beta, mean, variance = norm.get_weights()
            scale = gamma / np.sqrt(variance + norm.epsilon)
            weights = [kernel * scale, (bias - mean) * scale + beta]
        layer.set_weights(weights)
    return plain


def unfold_batch_norm(
    model: keras.Model, recipe: Recipe, images: Images, seed: int = 0
) -> keras.Model:
    """Returns a plain AlexNetMini with the batch normalization of a recipe.

    The reverse of `fold_batch_norm`, to go on training from its result: the
    network computes the same. Kernels are scaled so that all activations
    before a normalization have mean 0 and variance 1, as in a network that
    starts with `recipe.initialization`, since learning rates and weight decay
    are made for such kernels.

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
    for layer in model.layers:
        unfolded.get_layer(layer.name).set_weights(layer.get_weights())
    norms = _batch_norms(unfolded)
    for norm in norms:  # without effect until all have their statistics
        norm.moving_variance.assign(norm.moving_variance - norm.epsilon)
    inputs = keras.Model(unfolded.input, [norm.input for norm in norms])
    moments = [_moments(inputs(batch)) for batch in _batches_of(images, seed)]
    scale = 1.0  # by which the activations are smaller than those of `model`
    for norm, values in zip(norms, zip(*moments, strict=True), strict=True):
        mean, square = np.mean(values, axis=0)
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        # A channel that is always 0 must not start to amplify rounding errors.
        deviation = np.maximum(deviation, 1e-2 * deviation.max())
        layer = unfolded.get_layer(norm.name.removesuffix("_bn"))
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * scale / deviation, (bias - mean) / deviation])
        # LRN, after block 2, is not the same for activations of another scale.
        scale = 1.0 if layer.name.startswith("block2") else deviation.mean()
        gamma = deviation / scale * np.sqrt(1 + norm.epsilon)
        zero, one = np.zeros_like(mean), np.ones_like(mean)
        norm.set_weights([gamma, mean / scale, zero, one])
    classifier = unfolded.get_layer(CLASSIFIER)
    kernel, bias = classifier.get_weights()
    classifier.set_weights([kernel * scale, bias])
    return unfolded


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
