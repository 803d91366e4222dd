"""Grad-CAM: which positions of an image support the prediction of a class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray

from keras_tinyalex.aliases import Labels, Tensor


def gradcam(
    model: keras.Model,
    images: ArrayLike,
    classes: int | ArrayLike | None = None,
    layer: str | None = None,
) -> NDArray[np.float32]:
    """Computes Grad-CAM heatmaps on TensorFlow, JAX and PyTorch.

    For the score `y` of a class and the activations `A` of a convolution, the
    heatmap is `relu(sum_k(mean(dy / dA_k) * A_k))`. The mean over the positions
    of the gradient weights each channel `k`; the ReLU keeps only what raises
    the score. The score is taken before a softmax (or another activation) in
    the last layer.

    Source: R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep
    Networks via Gradient-based Localization" (2016).

    Args:
        model: A built Functional or Sequential `keras.Model` from images to
            scores of shape `(batch, C)`; layers may be such models, too. It is
            not changed.
        images: Array `(N, H, W, channels)`, or channels first, as the model
            takes them. They are one batch, `N > 0`.
        classes: The class to explain for each image: `N` integers, or one
            integer for all images. Defaults to the predicted classes.
        layer: Name of a layer of `model` with an output `(batch, h, w, K)`, or
            channels first, on every path from input to output. One inside
            another model may be called by its path, `"body/conv"`. Defaults to
            the last `keras.layers.Conv2D`.

    Returns:
        float32 array `(N, h, w)` in `[0, 1]`, of the size of the output of
        `layer`. The largest value of each image is 1, or 0 if nothing supports
        the class.

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
    body, head, positions = _split_model(model, layer)
    pixels = ops.convert_to_tensor(np.asarray(images), "float32")
    activations = body(pixels, training=False)
    scores = ops.convert_to_numpy(
        ops.cast(head(activations, training=False), "float32")
    )
    gradient = _gradient(head, activations, _check_classes(classes, scores))
    weights = ops.mean(gradient, positions, keepdims=True)
    (channels,) = {1, 2, 3} - set(positions)
    maps = ops.relu(ops.sum(weights * ops.cast(activations, "float32"), channels))
    heatmaps = ops.convert_to_numpy(maps).astype("float32")
    largest = heatmaps.max(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.float32] = heatmaps / np.where(largest > 0, largest, 1)
    return scaled


def find_convolution(
    model: keras.Model, name: str | None, last: bool
) -> keras.layers.Layer:
    """Returns a layer by name, or the first or last `Conv2D` of a model.

    Args:
        model: A built `keras.Model`. Models among its layers are searched, too.
        name: Name or path (`"body/conv"`) of a layer, or `None` for a `Conv2D`.
        last: Whether `None` stands for the last `Conv2D` or the first.

    Returns:
        A `keras.Layer`.

    Raises:
        ValueError: If there is no such layer, or several.
    """
    layers = dict(_layers_by_path(model))
    if name is None:
        kind = keras.layers.Conv2D
        found = [path for path in layers if isinstance(layers[path], kind)]
        found = found[-1:] if last else found[:1]
    else:
        found = [path for path in layers if f"/{path}".endswith(f"/{name}")]
        found = [name] if name in found else found
    if len(found) != 1:
        raise ValueError(
            "`layer` must be the name of one layer of `model`, or None if it has a "
            f"Conv2D. Its layers are {list(layers)}. Received: layer={name!r}"
        )
    return layers[found[0]]


def _layers_by_path(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for layer in getattr(model, "layers", []):
        yield prefix + layer.name, layer
        yield from _layers_by_path(layer, f"{prefix}{layer.name}/")


def _split_model(
    model: keras.Model, name: str | None
) -> tuple[keras.Model, keras.Model, tuple[int, int]]:
    """Splits a model after a layer.

    Returns:
        The model from images to activations of the layer, the model from these
        to scores, and the axes of the positions in the activations.
    """
    layer = find_convolution(model, name, last=True)
    graph = _Graph()
    try:
        inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in model.inputs]
        (_,), outputs = model.outputs, graph.add(model, inputs)
        activations = graph.outputs[id(layer)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "`model` must be a Functional or Sequential model with a known input shape "
            "and one output, and so must be the models that hold `layer`. "
            f"Received: model={model} ({error})"
        ) from None
    if len(getattr(activations, "shape", ())) != 4 or len(outputs.shape) != 2:
        raise ValueError(
            "`layer` must have an output of rank 4, and `model` an output of shape "
            f"(batch, C). Received: layer={layer.name!r} with the output "
            f"{activations}, model with the output {outputs}"
        )
    try:
        head = keras.Model(activations, graph.raw_scores())
    except ValueError as error:
        raise ValueError(
            "`layer` must be on every path from input to output: not one beside a "
            f"shortcut. Received: layer={layer.name!r} ({error})"
        ) from None
    data_format = getattr(layer, "data_format", keras.config.image_data_format())
    positions = (1, 2) if data_format == "channels_last" else (2, 3)
    return keras.Model(inputs, activations), head, positions


class _Graph:
    """The layers of a model, and of the models inside it, in one graph.

    Attributes:
        outputs: The symbolic output of each layer, by its `id`.
        last: The layer that was called last, its input and its output.
    """

    def __init__(self) -> None:
        self.outputs: dict[int, Tensor] = {}
        self.last: tuple[Any, Tensor, Tensor] = (None, None, None)
        self._calls = 0

    def add(self, model: keras.Model, inputs: list[Tensor]) -> Tensor:
        """Calls the layers of a model with one output; returns that."""
        # Not compiled, and a Functional model also where this one is Sequential.
        plain = keras.Model(model.inputs, model.outputs)
        plain_calls = (type(plain).call, keras.Sequential.call)

        def call(layer: Any, *args: Any, **kwargs: Any) -> Tensor:
            if type(layer).call in plain_calls and len(layer.outputs) == 1:
                result = self.add(layer, keras.tree.flatten(args))
            else:
                self._calls += 1
                result = _Call(layer, f"call_{self._calls}")(*args, **kwargs)
                self.last = layer, args[0], result
            self.outputs[id(layer)] = result
            return result

        keras.models.clone_model(
            plain, inputs, clone_function=lambda layer: layer, call_function=call
        )
        return self.last[2]  # the output is computed last

    def raw_scores(self) -> Tensor:
        """Returns the scores before the last activation of a classifier."""
        last, inputs, scores = self.last
        if isinstance(last, (keras.layers.Activation, keras.layers.Softmax)):
            return inputs
        if not isinstance(last, keras.layers.Dense):
            return scores
        # A copy, so that the model is not changed.
        copy = keras.layers.Dense.from_config({**last.get_config(), "activation": None})
        raw = copy(inputs)
        copy.set_weights(last.get_weights())
        return raw


class _Call(keras.Operation):  # type: ignore[misc]
    """A layer under another name: in a graph, names must be unique."""

    def __init__(self, layer: keras.Operation, name: str) -> None:
        super().__init__(name=name)
        self.layer = layer

    def call(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.layer.compute_output_spec(*args, **kwargs)


def _check_classes(classes: int | ArrayLike | None, scores: NDArray[Any]) -> Labels:
    """Returns the class of each image; by default the one with the top score."""
    chosen = scores.argmax(axis=-1) if classes is None else np.asarray(classes)
    count = scores.shape[1]
    if (
        chosen.shape not in ((), scores.shape[:1])
        or chosen.dtype.kind not in "iu"
        or chosen.min() < 0
        or chosen.max() >= count
    ):
        raise ValueError(
            f"`classes` must be an integer from 0 to {count - 1}, or {len(scores)} of "
            f"them, one per image. Received: classes={classes!r}"
        )
    return np.broadcast_to(chosen, len(scores)).astype("int64")


def _gradient(head: keras.Model, activations: Tensor, classes: Labels) -> Tensor:
    """Returns the gradient of each image's score by its activations, float32."""
    chosen = ops.one_hot(classes, head.output.shape[-1])

    def total(activations: Tensor) -> Tensor:
        # Images do not affect each other, so the gradient of the sum is that of each.
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
