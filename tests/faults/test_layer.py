"""The LRN layer on numbers and shapes that break other implementations."""

import keras
import numpy as np
import pytest

from keras_tinyalex import LocalResponseNormalization

pytestmark = [pytest.mark.faults, pytest.mark.backend]


def reference(x, radius=5, bias=1.0, alpha=1.0, beta=0.5):
    """The definition, in float64, window by window."""
    x = x.astype(np.float64)
    y = np.empty_like(x)
    for i in range(x.shape[-1]):
        window = x[..., max(0, i - radius) : i + radius + 1]
        with np.errstate(invalid="ignore", over="ignore"):
            y[..., i] = x[..., i] / (bias + alpha * (window**2).sum(-1)) ** beta
    return y


def run(x, dtype="float32", **arguments):
    layer = LocalResponseNormalization(dtype=dtype, **arguments)
    return np.asarray(keras.ops.convert_to_numpy(layer(x))).astype(np.float64)


def error(found, expected):
    return float(np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 1e-30)))


@pytest.mark.parametrize(("beta", "alpha"), [(0.5, 1.0), (0.75, 1e-4), (0.7, 0.3)])
def test_random_numbers_of_all_sizes(figure, beta, alpha):
    generator = np.random.default_rng(0)
    worst = 0.0
    for scale in (1e-6, 1.0, 1e4, 1e8):
        x = (generator.standard_normal((8, 8, 64)) * scale).astype("float32")
        found = run(x, alpha=alpha, beta=beta)
        worst = max(worst, error(found, reference(x, alpha=alpha, beta=beta)))
    assert worst <= 1e-5
    figure("layer", f"1e-6 to 1e8, beta {beta}, alpha {alpha:g}", f"error {worst:.1e}")


def test_one_channel_of_1e10_among_2000(figure):
    x = np.ones((4, 2000), "float32")
    x[:, 1000] = 1e10
    found, expected = run(x), reference(x)
    worst = error(found, expected)
    assert worst <= 1e-5
    far = np.abs(np.arange(2000) - 1000) > 5
    ones = run(np.ones((4, 2000), "float32"))
    changed = int((found[:, far] != ones[:, far]).any(axis=0).sum())
    assert changed == 0
    result = f"error {worst:.1e}, {changed} channels outside its window touched"
    figure("layer", "one channel of 1e10 among 2,000", result)


def test_half_precision_does_not_overflow(figure):
    x = np.full((2, 16), 200, "float16")
    found, expected = (
        run(x, dtype="float16", alpha=1e-4, beta=0.75),
        reference(x, alpha=1e-4, beta=0.75),
    )
    assert np.isfinite(found).all()
    worst = error(found, expected)
    assert worst <= 2**-11  # the rounding of the result to float16
    figure(
        "layer", "float16 input of 200", f"error {worst:.1e} (its rounding: 4.9e-04)"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_channel_that_is_no_number(figure, value):
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("float32")
    clean = run(x, depth_radius=2)
    x[:, 30] = value
    found = run(x, depth_radius=2)
    touched = np.flatnonzero((found != clean).any(axis=0) | np.isnan(found).any(axis=0))
    assert touched.tolist() == [28, 29, 30, 31, 32]
    figure("layer", f"one channel of {value}", "5 of 64 channels touched: its window")


def test_wrong_arguments(figure):
    wrong = [
        {"depth_radius": -1},
        {"depth_radius": 2.5},
        {"depth_radius": "2"},
        {"depth_radius": None},
        {"depth_radius": True},
        {"bias": 0},
        {"bias": -1.0},
        {"bias": np.nan},
        {"bias": "1"},
        {"alpha": -1e-9},
        {"alpha": np.inf},
        {"beta": np.nan},
        {"beta": None},
        {"data_format": "last"},
    ]
    for arguments in wrong:
        ((name, value),) = arguments.items()
        with pytest.raises(ValueError, match=rf"Received: {name}={value!r}"):
            LocalResponseNormalization(**arguments)
    count = len(wrong)
    figure("layer", "wrong arguments", f"{count} of {count} refused when it is made")


def test_a_huge_radius_is_clamped(figure):
    x = np.random.default_rng(0).standard_normal((5, 12)).astype("float32")
    found = run(x, depth_radius=10**12)
    worst = error(found, reference(x, radius=12))
    assert worst <= 1e-5
    figure("layer", "radius 10**12 on 12 channels", f"clamped, error {worst:.1e}")


def test_shapes(figure):
    layer = LocalResponseNormalization(depth_radius=1)
    shapes = [(0, 8), (0, 4, 4, 8), (2, 0, 8), (1, 8), (2, 3, 4, 5, 8)]
    for shape in shapes:
        assert tuple(layer(np.ones(shape, "float32")).shape) == shape
    inputs = keras.Input((None, None, 8))
    model = keras.Model(inputs, LocalResponseNormalization()(inputs))
    for size in (1, 5, 7):
        x = np.random.default_rng(0).standard_normal((2, size, size + 1, 8))
        x = x.astype("float32")
        found = keras.ops.convert_to_numpy(model(x))
        assert error(found.astype("float64"), reference(x)) <= 1e-5
    count = len(shapes) + 3
    figure("layer", "empty batches, unknown sizes", f"{count} of {count} shapes right")
