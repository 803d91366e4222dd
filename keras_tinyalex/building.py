"""Builds and compiles the model that a recipe describes."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import math
import os
import platform
import random
import time
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_tinyalex.applications.alexnet_mini import AlexNetMini
from keras_tinyalex.datasets.tiny_imagenet import LabelledArrays
from keras_tinyalex.optimizers import Muon
from keras_tinyalex.recipes import Recipe


def build(recipe: Recipe, data: LabelledArrays, seed: int) -> Any:
    """Returns the model of a recipe, compiled to train on `data`."""
    model = build_model(recipe, seed, num_classes=len(data.class_names))
    initialize(model, recipe, data.images, seed)
    compile_model(model, recipe, len(data.labels))
    return model


def build_model(recipe: Recipe, seed: int, **arguments: Any) -> Any:
    """Returns the AlexNetMini of a recipe, not compiled.

    Args:
        recipe: A `Recipe`.
        seed: Seed of the weights and of dropout.
        arguments: Arguments of `AlexNetMini` that no recipe holds.
    """
    policy, state = keras.config.dtype_policy(), random.getstate()
    automatic = recipe.dtype == "auto"
    keras.config.set_dtype_policy(fastest_dtype()[0] if automatic else recipe.dtype)
    # Keras draws the seeds of initializers and dropout here. Its own
    # `set_random_seed` would import TensorFlow under every backend.
    random.seed(seed)
    try:
        model = AlexNetMini(
            dropout=recipe.dropout,
            normalization=recipe.normalization,
            width_multiplier=recipe.width_multiplier,
            **arguments,
        )
        model = _with_layers(model, recipe)
        return _with_batch_norm(model) if recipe.folded_batch_norm else model
    finally:
        keras.config.set_dtype_policy(policy)
        random.setstate(state)


def _with_layers(model: Any, recipe: Recipe) -> Any:
    """Gives layers the arguments of the recipe that `AlexNetMini` does not take."""
    lrn = {
        "depth_radius": recipe.lrn_depth_radius,
        "bias": recipe.lrn_bias,
        "alpha": recipe.lrn_alpha,
        "beta": recipe.lrn_beta,
    }
    arguments: dict[str, dict[str, Any]] = {"block1_lrn": lrn, "block2_lrn": lrn}
    for name, units in (("fc1", recipe.fc1_units), ("fc2", recipe.fc2_units)):
        arguments[name] = {"units": max(1, round(units * recipe.width_multiplier))}

    def renewed(layer: Any) -> Any:
        config = {**layer.get_config(), **arguments.get(layer.name, {})}
        return type(layer).from_config(config)

    configs = {layer.name: layer.get_config() for layer in model.layers}
    if all(
        configs[name].items() >= values.items()
        for name, values in arguments.items()
        if name in configs
    ):
        return model
    return keras.models.clone_model(model, clone_function=renewed)


def _with_kernels(model: Any) -> list[Any]:
    """The layers of a model that have a kernel, from the image on."""
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def _with_batch_norm(model: Any) -> Any:
    """Normalizes what goes into each ReLU, until `finished_model` folds it away.

    Not in the first layer, whose maps are the largest: there it costs most.
    """
    names = [layer.name for layer in _with_kernels(model)]
    normalized = set(names[1:]) - {"predictions"}

    def renewed(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name in normalized:
            config["activation"] = None
        return type(layer).from_config(config)

    def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
        x = layer(*args, **kwargs)
        if layer.name not in normalized:
            return x
        first = getattr(layer, "data_format", None) == "channels_first"
        x = keras.layers.BatchNormalization(
            axis=1 if first else -1, momentum=0.95, name=f"{layer.name}_bn"
        )(x)
        return keras.layers.ReLU(name=f"{layer.name}_relu")(x)

    return keras.models.clone_model(model, clone_function=renewed, call_function=called)


def compile_model(model: Any, recipe: Recipe, images: int) -> None:
    """Compiles a model as a recipe says.

    Args:
        model: An `AlexNetMini`.
        recipe: A `Recipe`.
        images: Number of training images: an epoch's steps follow from it.
    """
    hasten(model)
    model.compile(
        optimizer=_optimizer(recipe, -(-images // recipe.batch_size)),
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=recipe.label_smoothing
        )
        if recipe.soft_labels
        else keras.losses.SparseCategoricalCrossentropy(),
        metrics=_metrics(model, recipe),
    )


def hasten(model: Any) -> None:
    """Lets layers compute the same in less time while they train.

    TensorFlow multiplies a small batch by the transposed kernel of a dense layer,
    which is slow with oneDNN: for the 4,096 inputs of the first one, an eighth of a
    training step of 16 images in float32. The same product the other way round takes
    hardly any of it. And Keras normalizes a batch operation by operation, for which
    TensorFlow and PyTorch have one.

    Args:
        model: An `AlexNetMini`, changed in place. Its config and its files know
            nothing of this.
    """
    backend = keras.backend.backend()
    for layer in model.layers:
        if type(layer) is keras.layers.Dense and backend == "tensorflow":
            layer.call = functools.partial(_call_dense, layer)
        if type(layer) is keras.layers.BatchNormalization and backend in _BATCH_NORM:
            layer.call = functools.partial(_call_batch_norm, layer)


def _call_dense(layer: Any, inputs: Any, training: bool | None = None) -> Any:
    if not training:
        return keras.layers.Dense.call(layer, inputs, training=training)
    outputs = _product()(inputs, keras.ops.convert_to_tensor(layer.kernel))
    return layer.activation(keras.ops.add(outputs, layer.bias))


@functools.cache
def _product() -> Any:
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def product(x: Any, kernel: Any) -> tuple[Any, Any]:
        def gradient(upstream: Any) -> tuple[Any, Any]:
            dx = tf.transpose(tf.matmul(kernel, upstream, transpose_b=True))
            return dx, tf.matmul(x, upstream, transpose_a=True)

        return tf.matmul(x, kernel), gradient

    return product


def _call_batch_norm(
    layer: Any, inputs: Any, training: bool | None = None, mask: Any = None
) -> Any:
    last = len(inputs.shape) == 4 and layer.axis in (-1, 3)
    if not (training and layer.trainable and last and layer.dtype == "float32"):
        return keras.layers.BatchNormalization.call(layer, inputs, training, mask)
    ops = keras.ops
    gamma, beta = (ops.convert_to_tensor(w) for w in (layer.gamma, layer.beta))
    normalize = _BATCH_NORM[keras.backend.backend()]
    outputs, mean, variance = normalize(inputs, gamma, beta, layer.epsilon)
    # Both give the variance of what the batch is a sample of, Keras that of the batch.
    count = ops.cast(math.prod(ops.shape(inputs)[:-1]), variance.dtype)
    variance = variance * ((count - 1) / count)
    for moving, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(moving * layer.momentum + new * (1 - layer.momentum))
    return outputs


def _tensorflow_batch_norm(
    x: Any, gamma: Any, beta: Any, epsilon: float
) -> tuple[Any, Any, Any]:
    import tensorflow as tf

    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon
    )
    return y, mean, variance


def _torch_batch_norm(
    x: Any, gamma: Any, beta: Any, epsilon: float
) -> tuple[Any, Any, Any]:
    import torch

    mean, variance = (torch.zeros_like(beta) for _ in range(2))
    y = torch.nn.functional.batch_norm(
        x.permute(0, 3, 1, 2),
        *(mean, variance, gamma, beta),
        training=True,
        momentum=1.0,
        eps=epsilon,
    )
    return y.permute(0, 2, 3, 1), mean, variance


# `x, gamma, beta, epsilon` to the output, the mean and the variance, the latter two
# of float32; `x` is `(N, H, W, C)` of any dtype.
_BATCH_NORM = {"tensorflow": _tensorflow_batch_norm, "torch": _torch_batch_norm}


def _metrics(model: Any, recipe: Recipe) -> list[Any]:
    top = min(5, model.output_shape[-1])
    if recipe.soft_labels:
        return ["accuracy", keras.metrics.TopKCategoricalAccuracy(top, name="top5")]
    return ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(top, name="top5")]


def _optimizer(recipe: Recipe, steps: int) -> Any:
    """The optimizer of a recipe for epochs of `steps` steps."""
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
    if recipe.weight_decay:
        options["weight_decay"] = recipe.weight_decay
    if recipe.ema_momentum:
        options.update(use_ema=True, ema_momentum=recipe.ema_momentum)
    if recipe.optimizer in ("adamw", "muon"):
        adam = keras.optimizers.AdamW if recipe.optimizer == "adamw" else Muon
        optimizer = adam(rate, **options)
    else:
        nesterov = bool(recipe.momentum)
        optimizer = keras.optimizers.SGD(rate, recipe.momentum, nesterov, **options)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def initialize(
    model: Any, recipe: Recipe, images: npt.NDArray[np.uint8], seed: int
) -> None:
    """Draws the kernels anew where a recipe asks for other ones than Keras'.

    `"he"` keeps the variance behind a ReLU, which Glorot's scale halves (He
    et al., 2015, https://arxiv.org/abs/1502.01852); the classifier keeps
    Keras' kernel. `"whitening"` is that and `whiten`.

    Args:
        model: An `AlexNetMini`; changed in place.
        recipe: A `Recipe`.
        images: Training images, uint8 `(N, H, W, C)`.
        seed: Seed >= 0 of the kernels.
    """
    if recipe.initialization == "glorot":
        return
    for number, layer in enumerate(_with_kernels(model)[:-1]):
        initializer = keras.initializers.HeNormal(seed=1000 * seed + number)
        layer.kernel.assign(initializer(layer.kernel.shape))
    if recipe.initialization == "whitening":
        whiten(model, images)


def whiten(model: Any, images: npt.NDArray[np.uint8]) -> None:
    """Starts the first convolution as a whitening of the images' patches.

    Half of the filters are the strongest principal components of 3x3 patches,
    scaled to unit variance; the other half are their negatives, so that
    nothing is lost behind the ReLU. The bias removes the mean (Page, 2018,
    and Jordan, 2024, https://arxiv.org/abs/2404.00498).

    Args:
        model: An `AlexNetMini` with its preprocessing; changed in place.
        images: uint8 array `(N, H, W, 3)`; 1,000 of them are looked at.
    """
    layer = model.get_layer("block1_conv")
    kernel, _ = layer.get_weights()
    sample = images[:: max(1, len(images) // 1000)].astype(np.float32) / 255
    windows = np.lib.stride_tricks.sliding_window_view(sample, (3, 3), axis=(1, 2))
    # (N, H, W, C, 3, 3) to rows of (3, 3, C), as the kernel is laid out.
    patches = windows[:, ::4, ::4].transpose(0, 1, 2, 4, 5, 3)
    patches = patches.reshape(-1, patches[0, 0, 0].size)
    mean = patches.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
    half = kernel.shape[-1] // 2
    components = (vectors / np.sqrt(values + 1e-3))[:, ::-1][:, :half]
    filters = np.concatenate([components, -components], axis=1)
    layer.set_weights([filters.reshape(kernel.shape), -mean @ filters])


def half_size(model: Any, recipe: Recipe) -> Any:
    """Returns the same layers on images of half the height and width.

    A quarter of the work of the convolutions: a training may begin with it
    (progressive resizing, J. Howard, 2018, https://www.fast.ai/posts/2018-08-10-fastai-diu-imagenet.html).
    The images are averaged over 2x2 pixels inside of the network, and the maps
    before the dense layers doubled, so that inputs and weights are the same.

    Args:
        model: A compiled `AlexNetMini`.
        recipe: The `Recipe` that it was compiled by.

    Returns:
        A `keras.Model` that shares layers and optimizer with `model`.
    """
    inputs = keras.Input(model.input_shape[1:])
    x = inputs
    for layer in model.layers[1:]:
        if layer.name == "block1_conv":
            x = keras.layers.AveragePooling2D(2)(x)
        if layer.name == "flatten":
            x = keras.layers.UpSampling2D(2)(x)
        x = layer(x)
    half = keras.Model(inputs, x)
    metrics = _metrics(model, recipe)
    half.compile(model.optimizer, model.loss, metrics=metrics)
    return half


def finished_model(
    model: Any, recipe: Recipe, images: npt.NDArray[np.uint8], seed: int = 0
) -> Any:
    """Returns the trained network in float32, as everybody builds it.

    Batch normalization of a recipe with `folded_batch_norm` gets its
    statistics from whole images without dropout, which training did not see.
    Then it becomes a part of the kernel and bias before it, which computes the
    same (Jacob et al., 2017, https://arxiv.org/abs/1712.05877).

    Args:
        model: What `build` returned, trained.
        recipe: Its `Recipe`.
        images: Training images, uint8 `(N, H, W, C)`; up to 1,024 are used.
        seed: Seed >= 0 of their choice.

    Returns:
        An `AlexNetMini`: `model` itself where there is nothing to change.
    """
    if recipe.dtype == "float32" and not recipe.folded_batch_norm:
        return model
    if recipe.folded_batch_norm:
        _set_statistics(model, images, seed)
    recipe = dataclasses.replace(recipe, dtype="float32", folded_batch_norm=False)
    plain = build_model(recipe, seed=0, num_classes=model.output_shape[-1])
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


def _set_statistics(model: Any, images: npt.NDArray[np.uint8], seed: int) -> None:
    """Sets the means and variances of batch normalization to those of images."""
    norm = keras.layers.BatchNormalization
    layers = [layer for layer in model.layers if isinstance(layer, norm)]
    momentums = [layer.momentum for layer in layers]
    order = np.random.default_rng(seed).permutation(len(images))[:1024]
    for number, part in enumerate(np.array_split(order, max(1, len(order) // 64))):
        for layer in layers:
            layer.momentum = number / (number + 1)  # the mean of all batches
        x = keras.ops.convert_to_tensor(images[np.sort(part)])
        for layer in model.layers[1:]:
            x = layer(x, training=True) if isinstance(layer, norm) else layer(x)
    for layer, momentum in zip(layers, momentums, strict=True):
        layer.momentum = momentum


@functools.cache
def keep_freed_memory() -> bool:
    """Lets this process keep the memory that a training step frees.

    Every step allocates and frees tensors of the same sizes. glibc gives most of
    that memory back at once, and the system clears each page anew before the next
    step has it: a third of the time of a step of 128 images on torch, a quarter
    of one of 16 images on JAX. On TensorFlow it is little.

    What the environment says in variables such as `MALLOC_TRIM_THRESHOLD_` stands.

    Returns:
        Whether freed memory is kept from now on, until the process ends. Not
        with another C library than glibc.
    """
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if told or platform.libc_ver()[0] != "glibc":
        return False
    # The numbers of `malloc.h`. Larger blocks than the limit (on JAX a step of more
    # than 64 images is one) would lie in memory twice if they were kept.
    arenas, mmap_threshold, trim_threshold, top_pad = -8, -3, -1, -2
    settings = {
        arenas: 1,
        mmap_threshold: 2**29,
        trim_threshold: 2**31 - 1,
        top_pad: 2**26,
    }
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) for name, value in settings.items())


@functools.cache
def fastest_dtype() -> tuple[str, str]:
    """Chooses the dtype policy in which this machine trains fastest.

    A convolution of the network runs in float32 and in bfloat16 by turns.
    bfloat16 has to win clearly, as it does on processors that multiply in it. There
    are machines on which it fails.

    Returns:
        `"float32"` or `"mixed_bfloat16"`, and the reason as a sentence.

    Examples:
        >>> policy, reason = fastest_dtype()
        >>> policy in ("float32", "mixed_bfloat16")
        True
    """
    generator = np.random.default_rng(0)
    images = generator.standard_normal((16, 16, 16, 128)).astype(np.float32)
    kernel = generator.standard_normal((3, 3, 128, 128)).astype(np.float32)

    def convolve(dtype: str) -> float:
        x, w = (keras.ops.convert_to_tensor(a, dtype) for a in (images, kernel))
        started = time.perf_counter()
        y = keras.ops.conv(x, w, padding="same", data_format="channels_last")
        keras.ops.convert_to_numpy(y[0, 0, 0])
        return time.perf_counter() - started

    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(7):
        seconds["float32"].append(convolve("float32"))
        try:
            seconds["bfloat16"].append(convolve("bfloat16"))
        except Exception as error:  # each backend has its own
            return (
                "float32",
                f"a convolution in bfloat16 fails ({type(error).__name__})",
            )
    plain, half = (1000 * min(measured) for measured in seconds.values())
    policy = "mixed_bfloat16" if 1.3 * half < plain else "float32"
    return policy, (
        f"a convolution took {half:.1f} ms in bfloat16 and {plain:.1f} ms in float32"
    )
