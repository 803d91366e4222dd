"""A network that starts from trained weights, with a classifier for its classes."""

from __future__ import annotations

import dataclasses
import warnings

import keras
import numpy as np

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.applications.model_files import read_class_names
from keras_tinyalex.applications.network import CLASSIFIER
from keras_tinyalex.applications.shipped import find_weights
from keras_tinyalex.applications.weights import assign_weights
from keras_tinyalex.building.batch_norm import unfold_batch_norm
from keras_tinyalex.building.networks import build_model
from keras_tinyalex.datasets.batches import LabelledArrays
from keras_tinyalex.recipes import Recipe

# Of the regression: its penalty as a multiple of the mean variance of the features,
# and by how much its scores, which lie between 0 and 1, are multiplied.
PENALTY = 1.0
SCALE = 8.0
MAX_IMAGES = 4096


def load_pretrained(
    weights: PathLike, recipe: Recipe, data: LabelledArrays, seed: int
) -> keras.Model:
    """Returns the network of a recipe with trained weights.

    Where the file's classes are others than those of `data`, in names or number,
    the classifier is new, see `fit_classifier`. A file without class names keeps
    its classifier if the numbers are equal.

    Args:
        weights: As in `AlexNetMini`.
        recipe: A `Recipe`.
        data: The training images.
        seed: Seed >= 0 of dropout.

    Raises:
        ValueError: If `weights` do not fit.
    """
    path = find_weights(weights)
    names = read_class_names(path)
    model = build_model(
        dataclasses.replace(recipe, folded_batch_norm=False),
        seed,
        num_classes=len(data.class_names),
        input_shape=data.images.shape[1:],
    )
    head = assign_weights(model, path, new_head=True)
    new = names is not None and names != data.class_names
    if head is not None and head.layers == (CLASSIFIER,):
        new = True
    elif head is not None:
        warnings.warn(head.message, stacklevel=4)
    if new:
        fit_classifier(model, data, seed)
    return unfold_batch_norm(model, recipe, data.images, seed)


def fit_classifier(model: keras.Model, data: LabelledArrays, seed: int = 0) -> None:
    """Fits the classifier by ridge regression on the features before it.

    A training that starts here moves the body less than one that starts from a
    random classifier, whose first gradients are noise (Kumar et al., 2022,
    https://arxiv.org/abs/2202.10054).

    Args:
        model: An `AlexNetMini` with the top, changed in place.
        data: The training images, of which up to 4,096 are used.
        seed: Seed >= 0 of their choice.
    """
    classifier = model.get_layer(CLASSIFIER)
    chosen = np.random.default_rng(seed).permutation(len(data.labels))[:MAX_IMAGES]
    body = keras.Model(model.input, classifier.input)
    x = body.predict(data.images[chosen], verbose=0).astype(np.float64)
    y = np.eye(len(data.class_names))[data.labels[chosen]]
    centered = x - x.mean(axis=0)
    covariance = centered.T @ centered
    penalty = max(PENALTY * np.trace(covariance) / len(chosen), 1e-6)
    covariance += penalty * np.eye(len(covariance))
    kernel = np.linalg.solve(covariance, centered.T @ (y - y.mean(axis=0)))
    bias = y.mean(axis=0) - x.mean(axis=0) @ kernel
    classifier.set_weights([SCALE * kernel, SCALE * bias])
