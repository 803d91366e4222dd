"""Optimizer, loss and metrics of a recipe, at both image sizes."""

from __future__ import annotations

from typing import Any

import keras

from keras_tinyalex.aliases import Tensor
from keras_tinyalex.applications.network import FIRST_LAYER
from keras_tinyalex.building.networks import own_layers
from keras_tinyalex.kernels import use_fused_ops
from keras_tinyalex.optimizers import Muon
from keras_tinyalex.recipes import Recipe

# An update of the weights must be remembered for hundreds of steps, over which the
# noise of small batches evens out. With few images these are many epochs.
MAX_WEIGHT_DECAY_PER_STEP = 0.002


def compile_model(model: keras.Model, recipe: Recipe, images: int) -> None:
    """Compiles a model with the optimizer, loss and metrics of a recipe.

    Args:
        model: An `AlexNetMini`.
        recipe: A `Recipe`.
        images: Number of training images, for the length of the schedule.
    """
    use_fused_ops(own_layers(model))
    loss: keras.losses.Loss = keras.losses.SparseCategoricalCrossentropy()
    if recipe.soft_labels:
        loss = keras.losses.CategoricalCrossentropy(
            label_smoothing=recipe.label_smoothing
        )
    optimizer = _optimizer(recipe, -(-images // recipe.batch_size))
    # TensorFlow traces a step that makes variables twice.
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss, metrics=_metrics(model, recipe))


def _metrics(model: keras.Model, recipe: Recipe) -> list[Any]:
    top = min(5, model.output_shape[-1])
    metrics = keras.metrics
    accuracy: Any = metrics.SparseCategoricalAccuracy
    top_accuracy: Any = metrics.SparseTopKCategoricalAccuracy
    if recipe.soft_labels:
        accuracy = metrics.CategoricalAccuracy
        top_accuracy = metrics.TopKCategoricalAccuracy
    return [accuracy(name="accuracy"), top_accuracy(top, name="top5")]


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
