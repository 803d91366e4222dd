import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from keras_tinyalex.visualization import (
    plot_augmentation,
    plot_predictions,
    plot_samples,
    style,
)

NAMES = ["goldfish, Carassius auratus", "European fire salamander", "sea slug"]
IMAGES, LABELS = np.zeros((3, 8, 8, 3), "uint8"), np.array([0, 1, 2])


def test_samples_show_one_image_of_each_class(numbered_images, image_number):
    labels = np.array([2, 0, 0, 1, 2, 2])

    figure = plot_samples(numbered_images(labels), labels, NAMES)

    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes] == [
        "goldfish",
        "European fire\nsalamander",
        "sea slug",
    ]
    assert [labels[image_number(axes)] for axes in figure.axes] == [0, 1, 2]
    assert {axes.images[0].get_interpolation() for axes in figure.axes} == {"nearest"}


def test_samples_per_class_are_different_images_under_one_title(
    numbered_images, image_number
):
    labels = np.array([0, 1] * 10 + [2])

    figure = plot_samples(numbered_images(labels), labels, NAMES, per_class=3)

    shown = [image_number(axes) for axes in figure.axes]
    assert labels[shown].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert len(set(shown)) == 7
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "goldfish",
        "",
        "",
        "European fire\nsalamander",
        "",
        "",
        "sea slug",
    ]
    left = [axes.get_position().x0 for axes in figure.axes]
    assert left[0] == left[1] == left[2] < left[3]


def test_samples_of_many_classes(numbered_images, image_number, assert_readable):
    labels = np.arange(200)
    names = [f"class {label}" for label in labels]
    figure = plot_samples(numbered_images(labels), labels, names)

    every_fourth = list(range(0, 200, 4))
    assert [image_number(axes) for axes in figure.axes] == every_fourth
    assert [axes.get_title() for axes in figure.axes] == [
        names[k] for k in every_fourth
    ]
    assert [text.get_text() for text in figure.texts] == ["50 of 200 classes"]
    assert_readable(figure)
    few = plot_samples(numbered_images(labels), labels, names, max_classes=3)
    assert [image_number(axes) for axes in few.axes] == [0, 66, 133]
    assert not plot_samples(numbered_images(labels[:50]), labels[:50], names).texts


def test_samples_wrap_after_columns_and_skip_classes_without_images(numbered_images):
    labels = np.array([0, 1, 3, 4])
    figure = plot_samples(numbered_images(labels), labels, list("abcde"), columns=3)

    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "d", "e"]
    rows = [round(axes.get_position().y0, 3) for axes in figure.axes]
    assert rows[0] == rows[1] == rows[2] > rows[3]


def test_seed_chooses_the_samples(numbered_images, image_number):
    labels = np.zeros(100, "int64")

    def chosen(seed):
        figure = plot_samples(
            numbered_images(labels), labels, ["a"], seed=seed, per_class=5
        )
        return [image_number(axes) for axes in figure.axes]

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)


def test_images_are_enlarged_by_whole_dots():
    labels = np.arange(20)
    images = np.zeros((20, 64, 64, 3), "uint8")
    names = [f"class {label}" for label in labels]

    for figure, scale in (
        (plot_samples(images, labels, names), 3),
        (plot_predictions(images, labels, labels, names), 4),
    ):
        for axes in figure.axes:
            box = axes.get_window_extent()
            assert box.width == pytest.approx(64 * scale, abs=1e-6)
            assert box.height == pytest.approx(64 * scale, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [("uint8", 51), ("float32", 51.0), ("float32", 0.2), ("float64", 0.2)],
)
def test_images_of_each_kind_show_the_same_color(dtype, value, channels):
    images = np.zeros((2, 4, 4, channels), dtype)
    images[:, 0] = value  # 51 of 255, and 0.2 of 1

    figure = plot_samples(images, [0, 1], ["a", "b"])

    pixels = figure.axes[0].images[0].get_array()
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 4, 3)
    assert pixels[0].tolist() == [[51, 51, 51]] * 4
    assert pixels[1:].max() == 0


def test_synonyms_stay_where_the_first_is_not_unique(numbered_images):
    names = ["crane", "crane, machine", "sea slug, nudibranch"]
    figure = plot_samples(numbered_images([0, 1, 2]), [0, 1, 2], names)

    shown = [axes.get_title() for axes in figure.axes]
    assert shown == ["crane", "crane, machine", "sea slug"]


def test_long_names_do_not_overlap(numbered_images, assert_readable, long_names):
    labels = np.arange(5)
    images = numbered_images(labels)

    assert_readable(plot_samples(images, labels, long_names))
    assert_readable(plot_predictions(images, labels, labels[::-1], long_names))


def test_long_names_are_cut(numbered_images, long_names):
    figure = plot_predictions(numbered_images([0]), [0], [2], long_names)

    true_label, prediction = figure.axes[0].get_title(loc="left").split("\n")
    assert true_label == "R: European fire salamander"
    assert prediction.startswith("P: WWWWW")
    assert prediction.endswith("W…")


def test_predictions_are_titled_with_true_label_and_prediction(numbered_images):
    labels, predictions = np.array([0, 1, 2]), np.array([0, 2, 2])

    figure = plot_predictions(
        numbered_images(labels),
        labels,
        predictions,
        NAMES,
        confidences=[0.5, 0.25, 0.994],
    )

    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "R: goldfish\nP: goldfish",
        "R: European fire salamander\nP: sea slug",
        "R: sea slug\nP: sea slug",
    ]
    assert [axes.texts[0].get_text() for axes in figure.axes] == [
        "✓ 50%",
        "✗ 25%",
        "✓ 99%",
    ]
    colors = (style.CORRECT_COLOR, style.INCORRECT_COLOR, style.CORRECT_COLOR)
    for axes, color in zip(figure.axes, colors, strict=True):
        title = next(text for text in axes.findobj(Text) if "R: " in text.get_text())
        assert title.get_color() == color
        assert axes.spines["left"].get_edgecolor() == to_rgba(color)
    assert {axes.images[0].get_interpolation() for axes in figure.axes} == {"nearest"}


def test_predictions_choose_n_images_by_seed(numbered_images, image_number):
    labels = np.arange(50) % 3
    predictions = np.zeros(50, "int64")

    def chosen(n, seed):
        figure = plot_predictions(
            numbered_images(labels), labels, predictions, NAMES, n=n, seed=seed
        )
        for axes in figure.axes:
            name = NAMES[labels[image_number(axes)]].split(",")[0]
            assert axes.get_title(loc="left") == f"R: {name}\nP: goldfish"
        return [image_number(axes) for axes in figure.axes]

    assert len(set(chosen(20, seed=0))) == 20
    assert chosen(20, seed=0) == chosen(20, seed=0)
    assert chosen(20, seed=0) != chosen(20, seed=1)
    assert chosen(60, seed=0) == list(range(50))


def test_augmentation_shows_what_the_function_returns(image_number, assert_readable):
    def brighter(images, generator):
        assert images.dtype == np.uint8
        return images + generator.integers(1, 100, (len(images), 1, 1, 1), "uint8")

    images = np.array([0.0, 0.2]).reshape(2, 1, 1, 1) * np.ones((2, 8, 8, 3))
    figure = plot_augmentation(images, brighter, variants=3, seed=5)

    generator = np.random.default_rng(5)
    added = np.array([generator.integers(1, 100, 2, "uint8") for _ in range(3)])
    expected = [[0, *added[:, 0]], [51, *(51 + added[:, 1])]]
    assert [image_number(axes) for axes in figure.axes] == np.ravel(expected).tolist()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", "1", "2", "3", "", "", "", ""]
    assert_readable(figure)


def test_augmentation_by_name():
    images = np.zeros((1, 64, 64, 3), "uint8")
    figure = plot_augmentation(images, "crop_flip_cutout", variants=1)

    image, variant = (axes.images[0].get_array() for axes in figure.axes)
    assert image.max() == 0
    assert variant.max() == 128  # the gray cutout


@pytest.mark.parametrize(
    ("images", "labels", "arguments", "message"),
    [
        (
            IMAGES[0],
            LABELS,
            {},
            r"`images` must have the shape.*images\.shape=\(8, 8, 3",
        ),
        (
            IMAGES[..., :2],
            LABELS,
            {},
            r"`images` must have.*images\.shape=\(3, 8, 8, 2",
        ),
        (IMAGES[:0], LABELS[:0], {}, r"`images` must have.*N > 0\. .*\(0, 8, 8, 3\)"),
        (IMAGES.astype("int32"), LABELS, {}, r"uint8 or float.*images\.dtype=int32"),
        (IMAGES - 1.0, LABELS, {}, r"0 to 255\. Undo .*from -1\.0 to -1\.0"),
        (IMAGES + 256.0, LABELS, {}, r"0 to 255\. Undo .*from 256\.0 to 256\.0"),
        (IMAGES + np.nan, LABELS, {}, r"0 to 255\. Undo .*from nan to nan"),
        (IMAGES, LABELS[:2], {}, r"`labels` must be one integer.*labels\.shape=\(2,\)"),
        (
            IMAGES,
            LABELS / 1,
            {},
            r"`labels` must be one integer.*labels\.dtype=float64",
        ),
        (IMAGES, LABELS + 1, {}, r"`labels` must be .*from 0 to 2.*labels from 1 to 3"),
        (
            IMAGES,
            LABELS - 1,
            {},
            r"`labels` must be .*from 0 to 2.*labels from -1 to 1",
        ),
        (IMAGES, LABELS, {"columns": 0}, r"`columns` must be a positive.*columns=0"),
        (IMAGES, LABELS, {"per_class": 1.5}, r"`per_class` must be.*per_class=1\.5"),
    ],
)
def test_wrong_samples(images, labels, arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_samples(images, labels, NAMES, **arguments)


def test_wrong_predictions():
    with pytest.raises(ValueError, match=r"`predictions` must be .*from 3 to 3"):
        plot_predictions(IMAGES, LABELS, [3, 3, 3], NAMES)
    with pytest.raises(ValueError, match=r"confidences\.shape=\(2,\), .*shape=\(3,"):
        plot_predictions(IMAGES, LABELS, LABELS, NAMES, confidences=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"`n` must be a positive.*n=0"):
        plot_predictions(IMAGES, LABELS, LABELS, NAMES, n=0)


@pytest.mark.parametrize(
    ("augmentation", "variants", "message"),
    [
        ("blur", 7, r"must be one of .*'blur'"),
        (None, 7, r"Received: augmentation=None"),
        ("flip", 0, r"`variants` .*variants=0"),
    ],
)
def test_wrong_augmentation(augmentation, variants, message):
    with pytest.raises(ValueError, match=message):
        plot_augmentation(IMAGES, augmentation, variants)
