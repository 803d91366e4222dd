"""Grad-CAM: where in an image a classifier finds what speaks for a class."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray


def gradcam(
    model: Any,
    images: ArrayLike,
    classes: int | ArrayLike | None = None,
    layer: str | None = None,
) -> NDArray[np.float32]:
    """Computes Grad-CAM heatmaps under each backend that has gradients.

    The activations `A` of a convolution are summed over its channels `k`, each
    weighted by the mean over the positions of the gradient of the class'
    score `y`, and what speaks against the class is cut off:
    `relu(sum_k(mean(dy / dA_k) * A_k))`. The score is the one before a softmax
    (or another activation) in the last layer.

    Source: R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep
    Networks via Gradient-based Localization" (2016).

    Args:
        model: A built Functional or Sequential `keras.Model` from images to
            scores of shape `(batch, C)`; it is not changed.
        images: Array `(N, H, W, channels)`, or channels first, as the model
            takes them; one batch, `N > 0`.
        classes: The class that each image is explained for: `N` integers, or
            one for all. Default: the class predicted for each image.
        layer: Name of a layer of `model` with the output `(batch, h, w, K)`,
            or channels first, through which the image goes. Default: the last
            `keras.layers.Conv2D`.

    Returns:
        float32 array `(N, h, w)` in `[0, 1]`, as large as the output of
        `layer`; 1 is the largest value of each image. All of it is 0 where
        nothing speaks for the class.

    Raises:
        ValueError: If an argument is not as above.

    Examples:
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((8, 8, 3)),
        ...         keras.layers.Conv2D(4, 3, activation="relu"),
        ...         keras.layers.Flatten(),
        ...         keras.layers.Dense(2, activation="softmax"),
        ...     ]
        ... )
        >>> gradcam(model, np.ones((5, 8, 8, 3))).shape
        (5, 6, 6)
    """
    body, head, positions = _split(model, layer)
    pixels = ops.convert_to_tensor(np.asarray(images), "float32")
    activations = body(pixels, training=False)
    scores = ops.convert_to_numpy(
        ops.cast(head(activations, training=False), "float32")
    )
    chosen = _chosen(classes, scores)
    gradient = _gradient(head, activations, chosen)
    weights = ops.mean(gradient, positions, keepdims=True)
    (channels,) = {1, 2, 3} - set(positions)
    maps = ops.relu(ops.sum(weights * ops.cast(activations, "float32"), channels))
    heat = ops.convert_to_numpy(maps).astype("float32")
    largest = heat.max(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.float32] = heat / np.where(largest > 0, largest, 1)
    return scaled


def find_convolution(model: Any, name: str | None, last: bool) -> Any:
    """Returns the layer of a name, or the first or last `Conv2D` of a model.

    Args:
        model: A built `keras.Model`.
        name: Name of a layer, or `None`.
        last: Which `Conv2D` is meant by `None`.

    Returns:
        A `keras.Layer`.

    Raises:
        ValueError: If there is no such layer.
    """
    layers = {layer.name: layer for layer in getattr(model, "layers", [])}
    found = [key for key in layers if isinstance(layers[key], keras.layers.Conv2D)]
    if name is None and found:
        return layers[found[-1 if last else 0]]
    if name not in layers:
        raise ValueError(
            "`layer` must be the name of a layer of `model`, which may be left out "
            "where it has a Conv2D; its layers are "
            f"{list(layers)}. Received: layer={name!r}"
        )
    return layers[name]


def _split(model: Any, name: str | None) -> tuple[Any, Any, tuple[int, int]]:
    """Returns image to activations, these to scores, and the axes of positions."""
    layer = find_convolution(model, name, last=True)
    try:
        activations, (outputs,) = layer.output, model.outputs
    except (AttributeError, ValueError) as error:
        raise ValueError(
            "`model` must be a Functional or Sequential model with a known input shape "
            f"and one output. Received: model={model} ({error})"
        ) from None
    if len(getattr(activations, "shape", ())) != 4 or len(outputs.shape) != 2:
        raise ValueError(
            "`layer` must have an output of rank 4, and `model` one of shape (batch, "
            f"C). Received: layer={layer.name!r} of {layer.output}, model of {outputs}"
        )
    try:
        head = keras.Model(activations, _raw_scores(model))
    except ValueError as error:
        raise ValueError(
            "`layer` must be one that everything goes through, neither beside a "
            f"shortcut nor a model. Received: layer={layer.name!r} ({error})"
        ) from None
    data_format = getattr(layer, "data_format", keras.config.image_data_format())
    positions = (1, 2) if data_format == "channels_last" else (2, 3)
    return keras.Model(model.inputs, activations), head, positions


def _raw_scores(model: Any) -> Any:
    """The scores before the activation, with which a classifier ends."""
    last = model.layers[-1]
    if isinstance(last, (keras.layers.Activation, keras.layers.Softmax)):
        return last.input
    if not isinstance(last, keras.layers.Dense):
        return model.outputs[0]
    # A copy, for the model is to stay as it is.
    copy = keras.layers.Dense.from_config({**last.get_config(), "activation": None})
    scores = copy(last.input)
    copy.set_weights(last.get_weights())
    return scores


def _chosen(classes: Any, scores: NDArray[Any]) -> NDArray[np.int64]:
    chosen = scores.argmax(axis=-1) if classes is None else np.asarray(classes)
    count = scores.shape[1]
    if (
        chosen.shape not in ((), scores.shape[:1])
        or chosen.dtype.kind not in "iu"
        or chosen.min() < 0
        or chosen.max() >= count
    ):
        raise ValueError(
            f"`classes` must be one integer, or {len(scores)}, from 0 to {count - 1}. "
            f"Received: classes={classes!r}"
        )
    return np.broadcast_to(chosen, len(scores)).astype("int64")


def _gradient(head: Any, activations: Any, classes: NDArray[np.int64]) -> Any:
    """The gradient of each image's score by its activations, float32."""
    chosen = ops.one_hot(classes, head.output.shape[-1])

    def total(activations: Any) -> Any:
        # Images do not meet in a network, so that the sum has their gradients.
        scores = head(activations, training=False)
        return ops.sum(ops.cast(scores, "float32") * chosen)

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(activations)
            score = total(activations)
        gradient = tape.gradient(score, activations)
    elif backend == "jax":
        import jax

        gradient = jax.grad(total)(activations)
    else:
        import torch

        with torch.enable_grad():
            leaf = activations.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(total(leaf), leaf)
    return ops.cast(gradient, "float32")
