"""Figures of data sets, trainings and results: returned, never shown.

Each function makes a `matplotlib.figure.Figure` of its own, without pyplot, so
it needs no display and leaves no global state. `figure.savefig(path)` writes it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_tinyalex.augmentation import Augmentation
    from keras_tinyalex.evaluation import Evaluation

DPI = 150
PICTURE = 1.28  # inches: 192 dots, so a 64-pixel image is enlarged exactly 3 times
MARGIN = 0.2
TRAIN_COLOR, VAL_COLOR = "#8b95a1", "#0b63b0"
# Told apart by lightness too, and doubled by a mark for colour-blind readers.
RIGHT_COLOR, WRONG_COLOR = "#00694e", "#d1380f"
MOST_CLASSES_WITH_NUMBERS, MOST_CLASSES_WITH_NAMES = 30, 60


def plot_samples(
    images: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    columns: int = 10,
    seed: int = 0,
    per_class: int = 1,
) -> Figure:
    """Draws random images of each class under the name of the class.

    Args:
        images: `(N, H, W, 3)` or `(N, H, W, 1)`, uint8, or float in 0 to 1 or
            0 to 255 (told apart by the largest value).
        labels: `(N,)` integers, the positions in `class_names`.
        class_names: Wnids or names in label order. Of synonyms ("sea slug,
            nudibranch") the first is shown; long names are wrapped and cut.
        columns: Classes beside each other, a positive integer.
        seed: Seed of the choice of images.
        per_class: Images of each class, below each other; fewer where there
            are not as many.

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
    pictures, white, (real,) = _check(images, class_names, labels=labels)
    _check_positive(columns=columns, per_class=per_class)
    generator, present = np.random.default_rng(seed), np.unique(real)
    columns = min(columns, len(present))
    gap, header = 0.16, 0.36
    block = header + per_class * (PICTURE + 0.06)
    rows = math.ceil(len(present) / columns)
    figure = _figure(columns * (PICTURE + gap) - gap, rows * block)
    names = _short(class_names)
    for position, label in enumerate(present):
        left = (position % columns) * (PICTURE + gap)
        top = (position // columns) * block + header
        found = np.flatnonzero(real == label)
        chosen = generator.permutation(found)[:per_class]
        for row, index in enumerate(chosen):
            axes = _add_picture(figure, pictures[index], white, left, top, PICTURE)
            top += PICTURE + 0.06
            if row == 0:
                title = _fit(names[label], PICTURE * 72 + 6, size=8, lines=2)
                axes.set_title(title, size=8, pad=4, parse_math=False)
    return figure


def plot_history(history: Mapping[str, Sequence[Any]] | Any) -> Figure:
    """Draws accuracy and loss by epoch, of training and validation.

    Args:
        history: Mapping of `"accuracy"`, `"val_accuracy"`, `"loss"` and
            `"val_loss"` to one value per epoch, as numbers or as read from
            `history.csv`, or what `model.fit()` returns. Absent curves are
            left out, but one of the four must be there.

    Returns:
        A `matplotlib.figure.Figure` with two axes, accuracy and loss. Each
        curve ends in its last value; a dot and the title mark the best
        validation value.

    Raises:
        ValueError: If there are no curves, or their lengths differ.

    Examples:
        >>> figure = plot_history({"loss": [2.0, 1.5], "val_loss": [2.1, 1.8]})
        >>> figure.axes[1].get_title(loc="right")
        'best val 1.800 (epoch 2)'
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    values = getattr(history, "history", history)
    curves: dict[str, NDArray[np.float64]] = {
        key: np.asarray(values[key], dtype="float64")
        for key in ("accuracy", "val_accuracy", "loss", "val_loss")
        if key in values
    }
    lengths = {key: curve.size for key, curve in curves.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(
            "`history` must map 'accuracy', 'val_accuracy', 'loss' or 'val_loss' to "
            "equally many values, one per epoch. "
            f"Received: history with the keys {list(values)} and lengths {lengths}"
        )
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, wspace=0.04)
    figure = Figure(figsize=(10, 3.8), dpi=DPI, layout=layout)
    accuracy, loss = figure.subplots(1, 2)
    _draw_curves(accuracy, "accuracy", curves, best=np.nanargmax)
    _draw_curves(loss, "loss", curves, best=np.nanargmin)
    return figure


def plot_predictions(
    images: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    class_names: Sequence[str],
    confidences: ArrayLike | None = None,
    n: int = 20,
    seed: int = 0,
) -> Figure:
    """Draws random images titled `R:` (real) and `P:` (predicted class).

    Titles and frames of right predictions are green, of wrong ones red; a
    mark in the corner says the same, with the confidence where it is given.

    Args:
        images: `(N, H, W, 3)` or `(N, H, W, 1)`, uint8, or float in 0 to 1 or
            0 to 255 (told apart by the largest value).
        labels: `(N,)` integers, the real positions in `class_names`.
        predictions: `(N,)` integers, the predicted positions.
        class_names: Wnids or names in label order. Of synonyms the first is
            shown; long names are cut.
        confidences: `(N,)` floats in 0 to 1, or `None`.
        n: Number of images, a positive integer; all if there are fewer.
        seed: Seed of the choice of images.

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
    pictures, white, (real, predicted) = _check(
        images, class_names, labels=labels, predictions=predictions
    )
    _check_positive(n=n)
    sure = None if confidences is None else np.asarray(confidences, dtype="float64")
    if sure is not None and sure.shape != real.shape:
        raise ValueError(
            "`confidences` must have one value per image. "
            f"Received: confidences.shape={sure.shape} for {len(real)} images"
        )
    count = min(n, len(real))
    chosen = np.random.default_rng(seed).choice(len(real), count, replace=False)
    columns, side, gap, header = min(5, count), PICTURE * 4 / 3, 0.2, 0.46
    rows = math.ceil(count / columns)
    figure = _figure(columns * (side + gap) - gap, rows * (side + header))
    names = _short(class_names)
    for position, index in enumerate(np.sort(chosen)):
        left = (position % columns) * (side + gap)
        top = (position // columns) * (side + header) + header
        axes = _add_picture(figure, pictures[index], white, left, top, side)
        right = bool(real[index] == predicted[index])
        color = RIGHT_COLOR if right else WRONG_COLOR
        lines = (f"R: {names[real[index]]}", f"P: {names[predicted[index]]}")
        title = "\n".join(_fit(line, side * 72 + 6, size=8) for line in lines)
        axes.set_title(title, loc="left", size=8, pad=4, color=color, parse_math=False)
        axes.spines[:].set(visible=True, color=color, linewidth=1.5)
        percent = "" if sure is None else f" {sure[index]:.0%}"
        axes.text(
            0.965,
            0.035,
            ("✓" if right else "✗") + percent,
            transform=axes.transAxes,
            ha="right",
            va="bottom",
            size=6.5,
            color="white",
            bbox={"boxstyle": "round,pad=0.25", "color": color, "linewidth": 0},
        )
    return figure


def plot_confusion_matrix(
    confusion: ArrayLike, class_names: Sequence[str], normalize: bool = True
) -> Figure:
    """Draws how often each real class (y) was predicted as each class (x).

    Cells carry their numbers up to 30 classes, axes their names up to 60.

    Args:
        confusion: `(C, C)` integers, rows real, columns predicted.
        class_names: `C` wnids or names in label order. Of synonyms the first
            is shown; long names are cut.
        normalize: Whether to show the percentage of the images of the real
            class (rows sum to 100) instead of the number of images.

    Returns:
        A `matplotlib.figure.Figure` with two axes, matrix and colour bar.

    Raises:
        ValueError: If `confusion` is not square with counts from 0, or the
            number of names differs.

    Examples:
        >>> figure = plot_confusion_matrix([[3, 1], [0, 4]], ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['75', '25', '0', '100']
    """
    from matplotlib.figure import Figure

    counts, size = np.asarray(confusion), len(class_names)
    if counts.shape != (size, size) or not size or np.any(counts < 0):
        raise ValueError(
            "`confusion` must be a (C, C) array of counts from 0, with C names in "
            f"`class_names`. Received: confusion.shape={counts.shape}, {size} names, "
            f"smallest count {counts.min() if counts.size else None}"
        )
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = 100 * counts / totals if normalize else counts
    named = size <= MOST_CLASSES_WITH_NAMES
    cell = 0.36 if size <= MOST_CLASSES_WITH_NUMBERS else 0.18
    side = max(cell * size, 2.4) if named else 7.2
    names = [_fit(name, 130, size=8) for name in _short(class_names)] if named else []
    space = max((_text_width(name, 8) for name in names), default=0) / 72
    figsize = (side + space + 1.6, side + 0.75 * space + 1.1)
    figure = Figure(figsize=figsize, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    top = max(float(shown.max()), 1.0)
    image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=top, interpolation="nearest")
    ticks = range(size) if named else ()
    axes.set_yticks(ticks, names, size=8, parse_math=False)
    axes.set_xticks(ticks, names, size=8, parse_math=False)
    for text in axes.get_xticklabels():
        text.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_color("#c8ced6")
    axes.set_xlabel("predicted", labelpad=6)
    axes.set_ylabel("real", labelpad=6)
    total = int(counts.sum())
    right = int(counts.trace()) / max(total, 1)
    axes.set_title(f"{right:.1%} of {total:,} images right", size=10, pad=8)
    label = "% of the images of the real class" if normalize else "images"
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label(label, size=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    if size <= MOST_CLASSES_WITH_NUMBERS:
        _write_numbers(axes, shown, top)
    return figure


def plot_class_accuracy(
    evaluation: Evaluation, class_names: Sequence[str] | None = None
) -> Figure:
    """Draws the accuracy on each class, the best class on top.

    Thin lines are 95% Wilson intervals, the dashed one is the accuracy on all
    images. Bars carry their names and numbers up to 60 classes.

    Args:
        evaluation: What `keras_tinyalex.evaluate()` returns.
        class_names: Readable names in label order. Of synonyms the first is
            shown; long names are cut. Default: those of `evaluation`.

    Returns:
        A `matplotlib.figure.Figure` with one axes. Classes without images are
        left out.

    Raises:
        ValueError: If the number of names differs.

    Examples:
        >>> from types import SimpleNamespace
        >>> measured = SimpleNamespace(
        ...     confusion=np.array([[1, 3], [0, 4]]), class_names=("cat", "dog")
        ... )
        >>> figure = plot_class_accuracy(measured)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['100%', '25%']
    """
    from matplotlib.figure import Figure

    from keras_tinyalex.evaluation import wilson_interval

    confusion = evaluation.confusion
    names = _short(evaluation.class_names if class_names is None else class_names)
    if len(names) != len(confusion):
        raise ValueError(
            f"`class_names` must be {len(confusion)} names, one for each class of "
            f"`evaluation`. Received: {len(names)} names"
        )
    totals, hits = confusion.sum(axis=1), confusion.diagonal()
    accuracy = hits / np.maximum(totals, 1)
    order = [k for k in np.argsort(-accuracy, kind="stable") if totals[k]]
    named = len(order) <= MOST_CLASSES_WITH_NAMES
    bar = 0.24 if named else 7.2 / len(order)
    height = max(bar * len(order), 1.2) + 0.9
    figure = Figure(figsize=(7, height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    places, values = range(len(order)), accuracy[order]
    bounds = [wilson_interval(int(hits[k]), int(totals[k])) for k in order]
    errors = np.abs(np.transpose(bounds) - values)
    axes.barh(places, values, 0.72, color=VAL_COLOR)
    axes.errorbar(
        values, places, xerr=errors, fmt="none", ecolor=TRAIN_COLOR, elinewidth=1
    )
    total, right = int(totals.sum()), int(hits.sum())
    axes.axvline(right / total, color="#1c2733", linestyle="--", linewidth=1)
    fitted = [_fit(names[k], 130, size=8) for k in order] if named else []
    axes.set_yticks(places if named else (), fitted, size=8, parse_math=False)
    for place, value, (_, high) in zip(places, values, bounds, strict=True):
        if named:
            text = axes.text(high + 0.01, place, f"{value:.0%}", va="center", size=8)
            text.set_bbox({"color": "white", "pad": 1, "linewidth": 0})
    axes.set(xlim=(0, 1.08), ylim=(len(order) - 0.5, -0.5), xlabel="accuracy")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    title = f"Accuracy by class; of all {total:,} images {right / total:.1%}"
    axes.set_title(title, size=10, pad=8)
    return figure


def plot_calibration(evaluation: Evaluation, bins: int = 15) -> Figure:
    """Draws a reliability diagram: how often predictions this sure are right.

    Above, the accuracy of the predictions in each bin of confidence, beside
    the diagonal of a calibrated model; below, the number of images in it.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks" (2017).

    Args:
        evaluation: What `keras_tinyalex.evaluate()` returns.
        bins: Positive integer, bins of equal width. Defaults to 15, of which
            `evaluation.ece` is computed too.

    Returns:
        A `matplotlib.figure.Figure` with two axes, accuracies and numbers of
        images; the expected calibration error is in the title.

    Raises:
        ValueError: If `bins` is not a positive integer.

    Examples:
        >>> from types import SimpleNamespace
        >>> measured = SimpleNamespace(
        ...     confidences=np.array([0.75, 0.75]),
        ...     predictions=np.array([0, 1]),
        ...     labels=np.array([0, 0]),
        ... )
        >>> plot_calibration(measured).axes[0].get_title()
        'Expected calibration error 0.250 (15 bins, 2 images)'
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from keras_tinyalex.evaluation import calibration_curve, expected_calibration_error

    correct = evaluation.predictions == evaluation.labels
    sure = evaluation.confidences
    counts, accuracy, confidence = calibration_curve(sure, correct, bins)
    error = expected_calibration_error(sure, correct, bins)
    figure = Figure(figsize=(5, 5.6), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    centers = (np.arange(bins) + 0.5) / bins
    above.bar(centers, accuracy, 0.9 / bins, color=VAL_COLOR)
    above.plot((0, 1), (0, 1), "--", color="#1c2733", linewidth=1)
    gaps = {"color": WRONG_COLOR, "linewidth": 1.5}
    above.vlines(confidence, accuracy, confidence, **gaps)
    above.plot(confidence, confidence, "o", markersize=3, color=WRONG_COLOR)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    title = (
        f"Expected calibration error {error:.3f} ({bins} bins, {len(sure):,} images)"
    )
    above.set_title(title, size=10, pad=8)
    below.bar(centers, counts, 0.9 / bins, color=TRAIN_COLOR)
    below.set(xlabel="confidence", ylabel="images")
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_filters(model: Any, layer: str | None = None, columns: int = 8) -> Figure:
    """Draws the kernels of the first convolution as small images.

    All have one scale: grey is 0, and the strongest weight of all is black or
    white in its channel. A kernel that is grey all over looks for nothing.

    Args:
        model: A built `keras.Model`.
        layer: Name of a convolution over 1 or 3 channels. Default: the first
            `keras.layers.Conv2D`.
        columns: Kernels beside each other, a positive integer.

    Returns:
        A `matplotlib.figure.Figure` with one axes per kernel, titled by its
        number.

    Raises:
        ValueError: If an argument is not as above.

    Examples:
        >>> import keras_tinyalex
        >>> model = keras_tinyalex.AlexNetMini()
        >>> len(plot_filters(model).axes)
        32
    """
    from keras_tinyalex.gradcam import find_convolution

    _check_positive(columns=columns)
    found = find_convolution(model, layer, last=False)
    kernel: NDArray[Any] = next(iter(found.get_weights()), np.zeros(0))
    if kernel.ndim != 4 or kernel.shape[2] not in (1, 3):
        raise ValueError(
            "`layer` must be a convolution over 1 or 3 channels, with a kernel of "
            "shape (height, width, channels, filters). "
            f"Received: layer={found.name!r} with a kernel of shape {kernel.shape}"
        )
    largest = np.abs(kernel).max() or 1.0
    pictures = np.moveaxis(0.5 + kernel.astype("float64") / (2 * largest), -1, 0)
    side, gap, header = PICTURE / 2, 0.1, 0.18
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure = _figure(columns * (side + gap) - gap, rows * (side + header))
    for position, picture in enumerate(pictures):
        left = (position % columns) * (side + gap)
        top = (position // columns) * (side + header) + header
        axes = _add_picture(figure, picture, 1, left, top, side)
        axes.set_title(str(position), size=7, pad=3)
    return figure


def plot_gradcam(
    model: Any,
    images: ArrayLike,
    class_names: Sequence[str],
    classes: int | ArrayLike | None = None,
    layer: str | None = None,
    columns: int = 5,
) -> Figure:
    """Draws images, and below each where Grad-CAM finds its class.

    The image is grey there, under colours from black (nothing speaks for the
    class in the title) to yellow (most does). See
    `keras_tinyalex.gradcam.gradcam()` for the computation.

    Args:
        model: A built Functional or Sequential `keras.Model` from images to
            scores of shape `(batch, C)`.
        images: `(N, H, W, 3)` or `(N, H, W, 1)`, uint8, or float in 0 to 1 or
            0 to 255, as the model takes them (but channels last always).
        class_names: `C` wnids or names in label order. Of synonyms the first
            is shown; long names are wrapped and cut.
        classes: The class that each image is explained for: `N` integers, or
            one for all. Default: the class predicted for each image.
        layer: Name of the layer to look at. Default: the last
            `keras.layers.Conv2D`.
        columns: Images beside each other, a positive integer.

    Returns:
        A `matplotlib.figure.Figure` with two axes per image, the image and
        its heatmap.

    Raises:
        ValueError: If an argument is not as above, or there are no images.

    Examples:
        >>> import keras_tinyalex
        >>> model = keras_tinyalex.AlexNetMini(num_classes=2)
        >>> images = np.zeros((3, 64, 64, 3), "uint8")
        >>> figure = plot_gradcam(model, images, ["cat", "dog"], classes=[0, 1, 1])
        >>> [axes.get_title() for axes in figure.axes[::2]]
        ['cat', 'dog', 'dog']
    """
    import keras

    from keras_tinyalex.gradcam import gradcam

    _check_positive(columns=columns)
    pictures, white, _ = _check(images, class_names)
    first = keras.config.image_data_format() == "channels_first"
    x = np.moveaxis(pictures, -1, 1) if first else pictures
    if classes is None:
        classes = np.argmax(model.predict_on_batch(x), axis=-1)
    heat = gradcam(model, x, classes, layer)
    labels = np.broadcast_to(classes, len(pictures))
    _check(images, class_names, classes=labels)
    columns, side = min(columns, len(pictures)), PICTURE * 4 / 3
    gap, header = 0.16, 0.36
    block = header + 2 * side + 0.06
    rows = math.ceil(len(pictures) / columns)
    figure = _figure(columns * (side + gap) - gap, rows * block)
    names = _short(class_names)
    for position, picture in enumerate(pictures):
        left = (position % columns) * (side + gap)
        top = (position // columns) * block + header
        axes = _add_picture(figure, picture, white, left, top, side)
        title = _fit(names[labels[position]], side * 72 + 6, size=8, lines=2)
        axes.set_title(title, size=8, pad=4, parse_math=False)
        grey = picture.mean(axis=-1, keepdims=True)
        axes = _add_picture(figure, grey, white, left, top + side + 0.06, side)
        height, width = picture.shape[:2]
        axes.imshow(
            heat[position],
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=0.7,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="nearest",
        )
    return figure


def plot_augmentation(
    images: ArrayLike,
    augmentation: str | Augmentation,
    variants: int = 7,
    seed: int = 0,
) -> Figure:
    """Draws each image beside what an augmentation makes of it.

    Args:
        images: `(N, H, W, 3)` or `(N, H, W, 1)`, uint8, or float in 0 to 1 or
            0 to 255 (told apart by the largest value).
        augmentation: A name of `keras_tinyalex.augmentation`, such as
            `"crop_flip"`, or a function `(images, generator) -> images` over
            uint8 arrays.
        variants: Augmented images of each image, a positive integer.
        seed: Seed of the augmentation.

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
    from keras_tinyalex.augmentation import get

    pictures, white, _ = _check(images, [])
    _check_positive(variants=variants)
    augment = get(augmentation)
    if augment is None:
        raise ValueError(
            "`augmentation` must be a name or a function. Received: augmentation=None"
        )
    generator = np.random.default_rng(seed)
    original = _as_uint8(pictures, white)
    shown = [original, *(augment(original, generator) for _ in range(variants))]
    gap, header = 0.06, 0.24
    height = header + len(pictures) * (PICTURE + gap) - gap
    figure = _figure((variants + 1) * (PICTURE + gap) - gap, height)
    for row, column in np.ndindex(len(pictures), variants + 1):
        left, top = column * (PICTURE + gap), header + row * (PICTURE + gap)
        axes = _add_picture(figure, shown[column][row], 255, left, top, PICTURE)
        if row == 0:
            axes.set_title(str(column or "image"), size=8, pad=4)
    return figure


def _write_numbers(axes: Axes, shown: NDArray[Any], top: float) -> None:
    for (row, column), value in np.ndenumerate(shown):
        # Zeros are pale: most cells are, and the others are to stand out.
        color = "white" if value > top / 2 else "#1c2733" if value else "#c3cbd5"
        number = f"{value:.0f}"
        axes.text(column, row, number, ha="center", va="center", size=7, color=color)


def _draw_curves(
    axes: Axes, metric: str, curves: Mapping[str, NDArray[np.float64]], best: Any
) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(metric.capitalize(), loc="left", size=11, weight="bold")
    axes.set_xlabel("epoch")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e8ed", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(
        MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )
    ends: list[tuple[float, str, str]] = []
    for key, part, color in (
        (metric, "train", TRAIN_COLOR),
        (f"val_{metric}", "val", VAL_COLOR),
    ):
        if key not in curves:
            continue
        curve = curves[key]
        epochs = np.arange(1, curve.size + 1)
        marker = "o" if curve.size == 1 else None
        axes.plot(epochs, curve, color=color, linewidth=2, marker=marker, label=part)
        finite = np.isfinite(curve)
        if finite[-1]:
            ends.append((float(curve[-1]), f"{part} {curve[-1]:.3f}", color))
        if part == "val" and finite.any():
            at = int(best(np.where(finite, curve, np.nan)))
            axes.plot(at + 1, curve[at], "o", color=color, markersize=6, label="best")
            text = f"best val {curve[at]:.3f} (epoch {at + 1})"
            axes.set_title(text, loc="right", size=9, color=color)
    axes.margins(x=0.02)
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Writes beside the last point of each curve, apart from each other."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ends.sort()
    heights = [(value - low) / (high - low) for value, _, _ in ends]
    if len(ends) == 2 and heights[1] - heights[0] < 0.075:
        middle = sum(heights) / 2
        heights = [middle - 0.0375, middle + 0.0375]
    for height, (_, text, color) in zip(heights, ends, strict=True):
        axes.annotate(
            text,
            (1, height),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            size=9,
            color=color,
            annotation_clip=False,
        )


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width + 2 * MARGIN, height + 2 * MARGIN), dpi=DPI)


def _add_picture(
    figure: Figure,
    picture: NDArray[Any],
    white: int,
    left: float,
    top: float,
    side: float,
) -> Axes:
    """Adds an image of `side` inches at `left` and `top` inside the margins."""
    width, height = figure.get_size_inches()
    x, y = (left + MARGIN) / width, 1 - (top + MARGIN + side) / height
    axes = figure.add_axes((x, y, side / width, side / height))
    pixels = _as_uint8(picture, white)
    rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    axes.imshow(rgb, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def _as_uint8(pixels: NDArray[Any], white: int) -> NDArray[np.uint8]:
    return np.rint(pixels * (255 / white)).astype("uint8")


def _check(
    images: ArrayLike, class_names: Sequence[str], **integers: ArrayLike
) -> tuple[NDArray[Any], int, list[NDArray[np.int64]]]:
    """Returns the images, their value of white, and `integers` as arrays."""
    pictures = np.asarray(images)
    if pictures.ndim != 4 or pictures.shape[-1] not in (1, 3) or not pictures.size:
        raise ValueError(
            "`images` must have the shape (N, H, W, 3) or (N, H, W, 1), N > 0. "
            f"Received: images.shape={pictures.shape}"
        )
    if pictures.dtype != np.uint8 and pictures.dtype.kind != "f":
        raise ValueError(
            "`images` must be uint8 or float; convert them with "
            f"`images.astype('uint8')`. Received: images.dtype={pictures.dtype}"
        )
    if not (pictures.min() >= 0 and pictures.max() <= 255):  # also if NaN
        raise ValueError(
            "`images` must lie in 0 to 1 or in 0 to 255; undo their normalization. "
            f"Received: values from {pictures.min()} to {pictures.max()}"
        )
    arrays = []
    for name, values in integers.items():
        array = np.asarray(values)
        if array.shape != pictures.shape[:1] or array.dtype.kind not in "iu":
            raise ValueError(
                f"`{name}` must be one integer per image. Received: "
                f"{name}.shape={array.shape}, {name}.dtype={array.dtype}, "
                f"images.shape={pictures.shape}"
            )
        if array.min() < 0 or array.max() >= len(class_names):
            raise ValueError(
                f"`{name}` must be positions in `class_names`, from 0 to "
                f"{len(class_names) - 1}. "
                f"Received: {name} from {array.min()} to {array.max()}"
            )
        arrays.append(array.astype("int64"))
    whole_range = pictures.dtype == np.uint8 or pictures.max() > 1
    return pictures, 255 if whole_range else 1, arrays


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, (int, np.integer)) or number < 1:
            raise ValueError(
                f"`{name}` must be a positive integer. Received: {name}={number!r}"
            )


def _short(class_names: Sequence[str]) -> list[str]:
    """Returns the first synonym of each name, or all where it is not unique."""
    first = [str(name).split(",")[0].strip() for name in class_names]
    times = Counter(first)
    return [
        short if times[short] == 1 else str(name)
        for short, name in zip(first, class_names, strict=True)
    ]


def _fit(text: str, width: float, size: float, lines: int = 1) -> str:
    """Wraps `text` to `lines` of `width` points, and cuts what is left over."""
    if _text_width(text, size) <= width:
        return text
    words = text.split(" ")
    if lines > 1:
        for end in range(len(words) - 1, 0, -1):
            line = " ".join(words[:end])
            if _text_width(line, size) <= width:
                rest = " ".join(words[end:])
                return f"{line}\n{_fit(rest, width, size, lines - 1)}"
    end = len(text)
    while end > 1 and _text_width(text[:end].rstrip() + "…", size) > width:
        end -= 1
    return text[:end].rstrip() + "…"


def _text_width(text: str, size: float) -> float:
    """Returns the width of `text` in points, without a display."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width)
