"""Figures of images: samples, predictions, augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from keras_tinyalex.arguments import check_integer
from keras_tinyalex.augmentation import Augmentation
from keras_tinyalex.augmentation import get as get_augmentation
from keras_tinyalex.visualization.image_grid import (
    IMAGE_SIDE,
    STACK_GAP,
    ImageGrid,
    check_images,
    check_labels,
    to_uint8,
)
from keras_tinyalex.visualization.style import (
    CORRECT_COLOR,
    INCORRECT_COLOR,
    in_own_style,
    short_names,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@in_own_style
def plot_samples(
    images: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    columns: int = 10,
    seed: int = 0,
    per_class: int = 1,
    max_classes: int = 50,
) -> Figure:
    """Draws random images of each class under the name of the class.

    Of more than `max_classes` classes, so many are drawn, at equal distances in
    label order; a line below the images says so.

    Args:
        images: `(N, H, W, 3)` or `(N, H, W, 1)`, uint8, or float in 0..1 or
            0..255 (recognized by the largest value).
        labels: `(N,)` integers, the positions in `class_names`.
        class_names: Wnids or names in label order. Of several synonyms ("sea
            slug, nudibranch") the first is shown; long names are wrapped and
            cut.
        columns: Number of classes in a row. Defaults to 10.
        seed: Seed of the choice of images. Defaults to 0.
        per_class: Number of images of each class, one below the other; fewer
            for a class that has fewer. Defaults to 1.
        max_classes: Number of classes at most. Defaults to 50.

    Returns:
        A `matplotlib.figure.Figure` with one axes per image, class by class.

    Raises:
        ValueError: If an argument is not as above, or there are no images.

    Examples:
        >>> images = np.random.default_rng(0).random((6, 64, 64, 3))
        >>> figure = plot_samples(images, [0, 1, 2, 0, 1, 2], ["cat", "dog", "fox"])
        >>> [axes.get_title() for axes in figure.axes]
        ['cat', 'dog', 'fox']
    """
    pixels, scale = check_images(images)
    true_labels = check_labels("labels", labels, pixels, class_names)
    columns = check_integer("columns", columns)
    per_class = check_integer("per_class", per_class)
    max_classes = check_integer("max_classes", max_classes)
    generator, present = np.random.default_rng(seed), np.unique(true_labels)
    every = len(present)
    count = min(every, max_classes)
    present = present[np.arange(count) * every // count]
    grid = ImageGrid(
        count,
        min(columns, count),
        gap=0.16,
        header=0.36,
        stacked=per_class,
        row_gap=STACK_GAP,
    )
    names = short_names(class_names)
    for cell, label in enumerate(present):
        of_class = np.flatnonzero(true_labels == label)
        chosen = generator.permutation(of_class)[:per_class]
        for row, index in enumerate(chosen):
            axes = grid.add_image(cell, pixels[index], scale, row)
            if row == 0:
                grid.set_title(axes, names[label])
    if count < every:
        grid.add_note(f"{count} of {every} classes")
    return grid.figure


@in_own_style
def plot_predictions(
    images: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    class_names: Sequence[str],
    confidences: ArrayLike | None = None,
    n: int = 20,
    seed: int = 0,
) -> Figure:
    """Draws random images titled with their true label (R) and prediction (P).

    Titles and frames are green for correct predictions and red for incorrect
    ones. A mark in the corner repeats this, with the confidence if it is given.

    Args:
        images: `(N, H, W, 3)` or `(N, H, W, 1)`, uint8, or float in 0..1 or
            0..255 (recognized by the largest value).
        labels: `(N,)` integers, the positions of the true labels in
            `class_names`.
        predictions: `(N,)` integers, the predicted positions.
        class_names: Wnids or names in label order. Of several synonyms the
            first is shown; long names are cut.
        confidences: `(N,)` floats in 0..1, or `None`.
        n: Number of images; all if there are fewer. Defaults to 20.
        seed: Seed of the choice of images. Defaults to 0.

    Returns:
        A `matplotlib.figure.Figure` with one axes per image, five in a row,
        in the order of `images`.

    Raises:
        ValueError: If an argument is not as above, or there are no images.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> figure = plot_predictions(images, [0, 1], [0, 0], ["cat", "dog"])
        >>> figure.axes[1].get_title(loc="left")
        'R: dog\\nP: cat'
    """
    pixels, scale = check_images(images)
    true_labels = check_labels("labels", labels, pixels, class_names)
    predicted = check_labels("predictions", predictions, pixels, class_names)
    n = check_integer("n", n)
    if confidences is not None:
        confidences = np.asarray(confidences, dtype="float64")
        if confidences.shape != true_labels.shape:
            raise ValueError(
                "`confidences` must be one number per image. Received: "
                f"confidences.shape={confidences.shape}, images.shape={pixels.shape}"
            )
    count = min(n, len(true_labels))
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(true_labels), count, replace=False)
    grid = ImageGrid(count, min(5, count), IMAGE_SIDE * 4 / 3, gap=0.2, header=0.46)
    names = short_names(class_names)
    for cell, index in enumerate(np.sort(chosen)):
        axes = grid.add_image(cell, pixels[index], scale)
        label, prediction = true_labels[index], predicted[index]
        correct = bool(label == prediction)
        color = CORRECT_COLOR if correct else INCORRECT_COLOR
        lines = (f"R: {names[label]}", f"P: {names[prediction]}")
        title = "\n".join(map(grid.fit_title, lines))
        axes.set_title(title, loc="left", size=8, pad=4, color=color, parse_math=False)
        axes.spines[:].set(visible=True, color=color, linewidth=1.5)
        percent = "" if confidences is None else f" {confidences[index]:.0%}"
        _add_mark(axes, ("✓" if correct else "✗") + percent, color)
    return grid.figure


def _add_mark(axes: Axes, text: str, color: str) -> None:
    """Writes white text on a colored box into the lower right corner."""
    axes.text(
        0.965,
        0.035,
        text,
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        size=6.5,
        color="white",
        bbox={"boxstyle": "round,pad=0.25", "color": color, "linewidth": 0},
    )


@in_own_style
def plot_augmentation(
    images: ArrayLike,
    augmentation: str | Augmentation,
    variants: int = 7,
    seed: int = 0,
) -> Figure:
    """Draws each image and augmented variants of it in a row.

    Args:
        images: `(N, H, W, 3)` or `(N, H, W, 1)`, uint8, or float in 0..1 or
            0..255 (recognized by the largest value).
        augmentation: A name of `keras_tinyalex.augmentation`, such as
            `"crop_flip"`, or a function `(images, generator) -> images` of
            uint8 arrays.
        variants: Number of variants of each image. Defaults to 7.
        seed: Seed of the augmentation. Defaults to 0.

    Returns:
        A `matplotlib.figure.Figure` with one axes per image: in each row the
        image and its variants.

    Raises:
        ValueError: If an argument is not as above, or there are no images.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> figure = plot_augmentation(images, "crop_flip", variants=3)
        >>> len(figure.axes), figure.axes[0].get_title()
        (8, 'image')
    """
    pixels, scale = check_images(images)
    variants = check_integer("variants", variants)
    augment = get_augmentation(augmentation)
    if augment is None:
        raise ValueError(
            "`augmentation` must be a name or a function. Received: augmentation=None"
        )
    generator = np.random.default_rng(seed)
    original = to_uint8(pixels, scale)
    versions = [original, *(augment(original, generator) for _ in range(variants))]
    columns = len(versions)
    grid = ImageGrid(
        columns, columns, gap=STACK_GAP, header=0.24, stacked=len(original)
    )
    for row, column in np.ndindex(len(original), columns):
        axes = grid.add_image(column, versions[column][row], 1.0, row)
        if row == 0:
            grid.set_title(axes, str(column or "image"))
    return grid.figure
