"""How well a model tells images of its classes from those of others."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_tinyalex.aliases import Images
from keras_tinyalex.arguments import check_integer
from keras_tinyalex.labelled_data import image_shape
from keras_tinyalex.metrics import auroc

# Part of the known images that a threshold is to accept.
ACCEPTED = 0.95

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class UnknownEvaluation:
    """The result of `evaluate_unknown`.

    Each score has a key: `"max_softmax"`, the probability of the predicted class
    (Hendrycks and Gimpel, 2017, https://arxiv.org/abs/1610.02136), and
    `"energy"`, the logarithm of the sum of the exponentials of the logits, the
    negative of the energy of Liu et al. (2020, https://arxiv.org/abs/2010.03759).
    Both are higher for known images.

    Attributes:
        n_known: Number of images of the model's classes.
        n_unknown: Number of images of other classes.
        auroc: By score, in `[0, 1]`: the probability that a known image has a
            higher score than an unknown one; 0.5 is chance.
        accepted: By score, in `[0, 1]`: the fraction of the unknown images that a
            threshold accepts which accepts 95% of the known ones.
        confidence_known: Mean probability of the predicted class, known images.
        confidence_unknown: The same of the unknown images.
    """

    n_known: int
    n_unknown: int
    auroc: dict[str, float]
    accepted: dict[str, float]
    confidence_known: float
    confidence_unknown: float

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as a JSON-ready dictionary."""
        return dataclasses.asdict(self)


def evaluate_unknown(
    model: keras.Model, known: Images, unknown: Images, batch_size: int = 128
) -> UnknownEvaluation:
    """Measures how well scores tell images of a model's classes from others.

    Args:
        model: A classifier whose last layer is a softmax, a dense layer with
            one, or returns logits.
        known: Images of its classes, as the model takes them, that it was not
            trained on.
        unknown: Images of other classes.
        batch_size: Number of images in a batch. Defaults to 128.

    Returns:
        An `UnknownEvaluation`.

    Raises:
        ValueError: If the model is another one, or there are no images.

    Examples:
        >>> model = keras.Sequential(
        ...     [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
        ... )
        >>> known, unknown = np.ones((4, 8, 8, 3)), np.ones((2, 8, 8, 3))
        >>> evaluate_unknown(model, known, unknown).auroc["max_softmax"]
        0.5
    """
    batch_size = check_integer("batch_size", batch_size)
    image_shape(model)  # refuses what is no model of images
    for name, images in (("known", known), ("unknown", unknown)):
        if not len(images):
            raise ValueError(
                f"`{name}` must hold at least one image. Received: no images"
            )
    body, kernel, bias = _before_softmax(model)

    def scores(images: Images) -> dict[str, Scores]:
        found = body.predict(images, batch_size=batch_size, verbose=0)
        logits = np.asarray(found, np.float64)
        logits = logits if kernel is None else logits @ kernel + bias
        highest = logits.max(axis=1)
        total = np.exp(logits - highest[:, None]).sum(axis=1)
        return {"max_softmax": 1 / total, "energy": highest + np.log(total)}

    of_known, of_unknown = scores(known), scores(unknown)
    return UnknownEvaluation(
        len(known),
        len(unknown),
        {name: auroc(of_known[name], of_unknown[name]) for name in of_known},
        {name: _accepted(of_known[name], of_unknown[name]) for name in of_known},
        float(of_known["max_softmax"].mean()),
        float(of_unknown["max_softmax"].mean()),
    )


def _before_softmax(model: keras.Model) -> tuple[keras.Model, Any, Any]:
    """Returns a model of logits, or one of features with kernel and bias to them."""
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    if isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation)
        and activation is keras.activations.softmax
    ):
        return keras.Model(model.inputs, last.input), None, None
    if activation is keras.activations.softmax and isinstance(last, keras.layers.Dense):
        kernel, *bias = (np.asarray(w, np.float64) for w in last.get_weights())
        return keras.Model(model.inputs, last.input), kernel, bias[0] if bias else 0.0
    if activation is None or activation is keras.activations.linear:
        return model, None, None
    raise ValueError(
        "`model` must end in a softmax, a dense layer with one, or in logits. "
        f"Received: last layer {last.name!r} of {type(last).__name__}, "
        f"activation={getattr(activation, '__name__', activation)}"
    )


def _accepted(known: Scores, unknown: Scores) -> float:
    """Returns which part of the unknown reaches the score of 95% of the known."""
    threshold = np.sort(known)[int((1 - ACCEPTED) * len(known))]
    return float((unknown >= threshold).mean())
