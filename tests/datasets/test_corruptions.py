"""The corruptions of Tiny-ImageNet-C: each one's arithmetic at each severity."""

import colorsys
import io
import math

import corruption_helpers as slow
import numpy as np
import pytest
from PIL import Image

from keras_tinyalex.datasets.corruptions import CORRUPTIONS, corrupt, spatter

SIZE = 16
every_severity = pytest.mark.parametrize("severity", range(1, 6))


@pytest.fixture(scope="module")
def image():
    """A smooth picture with noise, of all values from 0 to 255, partly gray."""
    random = np.random.default_rng(7)
    waves = np.sin(np.arange(SIZE) / 3)[:, None, None] * np.cos(
        np.arange(SIZE)[:, None] / 4 + np.arange(3)
    )
    picture = 128 + 110 * waves + random.normal(0, 15, (SIZE, SIZE, 3))
    picture[3:6] = picture[3:6, :, :1]
    picture[0, 0], picture[9, 9], picture[9, 10] = 0, 255, (255, 0, 7)
    return np.clip(picture, 0, 255).astype(np.uint8)


def generator(name, severity, index=0, seed=0):
    """The random numbers of one image."""
    return np.random.default_rng([seed, index, list(CORRUPTIONS).index(name), severity])


def without_jpeg(images, name, severity):
    return corrupt(images, name, severity, jpeg_quality=None)


def check(image, name, severity, expected, tolerance=0.01):
    """Compares with the expected pixels, cut to whole numbers.

    Rounding errors decide where a value is within `tolerance` of a whole number.
    """
    got = without_jpeg(image[None], name, severity)[0].astype(float)
    expected = np.clip(expected, 0, 255)
    assert (got >= np.floor(expected - tolerance)).all()
    assert (got <= np.floor(expected + tolerance)).all()


def moments(probabilities, values):
    mean = np.dot(probabilities, values)
    return mean, np.dot(probabilities, (values - mean) ** 2)


def normal_moments(mean, deviation):
    """Of a normal number that is cut to a whole one from 0 to 255."""
    below = [0.5 * math.erfc((mean - k) / deviation / 2**0.5) for k in range(1, 256)]
    return moments(np.diff([0, *below, 1]), np.arange(256))


def check_moments(name, severity, value, expected, count=64):
    images = np.full((count, 64, 64, 3), value, np.uint8)
    got = without_jpeg(images, name, severity).astype(float)
    mean, variance = expected
    assert got.mean() - value == pytest.approx(mean - value, rel=0.02, abs=0.1)
    assert got.var() == pytest.approx(variance, rel=0.02)
    assert got[0, 0, 0, 0] != got[1, 0, 0, 0] or got[0, 1, 0, 0] != got[1, 1, 0, 0]


# ------------------------------------------------------------------------ noise


@every_severity
def test_gaussian_noise(severity):
    deviation = 255 * [0.04, 0.08, 0.12, 0.15, 0.18][severity - 1]
    check_moments("gaussian_noise", severity, 128, normal_moments(128, deviation))
    check_moments("gaussian_noise", severity, 20, normal_moments(20, deviation))


@every_severity
def test_shot_noise(severity):
    white = [250, 100, 50, 30, 15][severity - 1]
    expected = 102 / 255 * white
    counts = np.arange(1000)
    logs = counts * math.log(expected) - expected
    chances = np.exp(logs - np.array([math.lgamma(k + 1) for k in counts]))
    values = np.floor(np.minimum(counts / white, 1) * 255 + 1e-6)
    check_moments("shot_noise", severity, 102, moments(chances, values))


@every_severity
def test_impulse_noise(severity):
    amount = [0.01, 0.02, 0.05, 0.08, 0.14][severity - 1]
    images = np.full((256, 64, 64, 3), 100, np.uint8)
    got = without_jpeg(images, "impulse_noise", severity)
    assert set(np.unique(got)) == {0, 100, 255}
    assert np.mean(got != 100) == pytest.approx(amount, rel=0.02)
    assert np.mean(got[got != 100] == 0) == pytest.approx(0.5, rel=0.02)
    # Each channel is hit on its own.
    both = np.mean((got[..., 0] != 100) & (got[..., 1] != 100))
    assert both == pytest.approx(amount**2, rel=0.2)


@every_severity
def test_speckle_noise(severity):
    deviation = [0.15, 0.2, 0.25, 0.3, 0.35][severity - 1]
    for value in (40, 150):
        expected = normal_moments(value, value * deviation)
        check_moments("speckle_noise", severity, value, expected)


# ------------------------------------------------------------------------- blur


@every_severity
def test_gaussian_blur(severity, image):
    sigma = [0.5, 0.75, 1, 1.25, 1.5][severity - 1]
    check(image, "gaussian_blur", severity, slow.gaussian(image, sigma))


@every_severity
def test_defocus_blur(severity, image):
    radius, sigma = [(0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)][
        severity - 1
    ]
    offsets = range(-4, 5)
    disk = np.array(
        [[float(y * y + x * x <= radius**2) for y in offsets] for x in offsets]
    )
    assert disk.sum() == [1, 5, 9, 21, 29][severity - 1]
    beside = math.exp(-1 / (2 * sigma**2))
    weights = np.array([beside, 1, beside]) / (1 + 2 * beside)
    smooth = slow.convolve(disk / disk.sum(), np.outer(weights, weights), slow.clamp)
    mirrored = lambda index, size: slow.bounce(index, size, 0)  # noqa: E731
    check(image, "defocus_blur", severity, slow.convolve(image, smooth, mirrored))


@every_severity
def test_glass_blur(severity, image):
    sigma, reach, rounds = [
        *((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2))
    ][severity - 1]
    pixels = np.floor(slow.gaussian(image, sigma) + 1e-3)
    order = range(SIZE - reach, reach, -1)
    shape = (rounds, len(order), len(order), 2)
    shifts = generator("glass_blur", severity).integers(-reach, reach, shape)
    for one_round in shifts:
        for y, row in zip(order, one_round, strict=True):
            for x, (down, across) in zip(order, row, strict=True):
                pixels[y, x] = pixels[y + down, x + across]
    check(image, "glass_blur", severity, slow.gaussian(pixels, sigma))


@every_severity
def test_motion_blur(severity, image):
    radius, sigma = [(10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)][severity - 1]
    degrees = generator("motion_blur", severity).uniform(-45, 45)
    expected = slow.drag(image, radius, sigma, degrees)
    got = without_jpeg(image[None], "motion_blur", severity)[0]
    assert np.mean(got != expected) < 0.01  # but for ties
    assert np.abs(got - expected).max() <= 1


@every_severity
def test_zoom_blur(severity, image):
    count = [7, 12, 16, 21, 26][severity - 1]
    factors = [1 + 0.01 * k for k in range(count)]
    total = image + sum(slow.enlarge(image, factor) for factor in factors)
    check(image, "zoom_blur", severity, total / (count + 1))


# ---------------------------------------------------------------------- weather


@every_severity
def test_snow(severity, image):
    mean, deviation, zoom, threshold, radius, sigma, kept = [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ][severity - 1]
    random = generator("snow", severity)
    flakes = random.normal(mean, deviation, (SIZE, SIZE, 1))
    flakes = slow.enlarge(flakes, zoom)
    flakes[flakes < threshold] = 0
    flakes = np.floor(255 * np.minimum(flakes, 1) + 1e-6)
    flakes = slow.drag(flakes, radius, sigma, random.uniform(-135, -45))
    x = image / 255
    gray = (0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2])[..., None]
    pale = kept * x + (1 - kept) * np.maximum(x, 1.5 * gray + 0.5)
    expected = 255 * pale + flakes + np.rot90(flakes, 2)
    check(image, "snow", severity, expected, tolerance=1.01)


@every_severity
def test_frost(severity, image):
    image_weight, frost_weight = [
        *((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55))
    ][severity - 1]
    black = np.zeros((2000, SIZE, SIZE, 3), np.uint8)
    got = without_jpeg(black, "frost", severity).astype(float)
    red, _, blue = (got.mean(axis=(0, 1, 2)) + 0.5) / frost_weight
    assert red == pytest.approx((77 + 198 + 198 + 145 + 101) / 5, rel=0.02)
    assert blue == pytest.approx((165 + 211 + 211 + 172 + 124) / 5, rel=0.02)
    inside = got[..., 1].var(axis=(1, 2)).mean() / frost_weight**2
    expected = (13**2 + 18**2 + 18**2 + 23**2 + 32**2) / 5
    assert inside == pytest.approx(expected, rel=0.03)
    both = without_jpeg(image[None] // 2, "frost", severity) - got[:1]
    assert np.abs(both - image_weight * (image // 2)).max() <= 1


@every_severity
def test_fog(severity, image):
    amount, decay = [(0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)][severity - 1]
    chances = generator("fog", severity).uniform(-1, 1, (SIZE, SIZE))
    foggy = image / 255 + amount * slow.plasma(chances, decay)[..., None]
    for brightest in (255, 100):
        darker = np.minimum(image, brightest)
        foggy = darker / 255 + amount * slow.plasma(chances, decay)[..., None]
        scale = brightest / 255 / (brightest / 255 + amount)
        check(darker, "fog", severity, 255 * scale * foggy)


@every_severity
def test_brightness(severity, image):
    amount = [0.1, 0.2, 0.3, 0.4, 0.5][severity - 1]
    check(image, "brightness", severity, in_hsv(image, lambda s, v: (s, v + amount)))


def in_hsv(image, change):
    def pixel(rgb):
        hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))
        saturation, value = np.clip(change(saturation, value), 0, 1)
        return np.array(colorsys.hsv_to_rgb(hue, saturation, value))

    return 255 * np.apply_along_axis(pixel, 2, image)


# ---------------------------------------------------------------------- digital


@every_severity
def test_saturate(severity, image):
    factor, amount = [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)][severity - 1]
    expected = in_hsv(image, lambda s, v: (factor * s + amount, v))
    check(image, "saturate", severity, expected)


@every_severity
def test_contrast(severity, image):
    kept = [0.4, 0.3, 0.2, 0.1, 0.05][severity - 1]
    means = np.array([image[..., c].sum() / SIZE**2 for c in range(3)])
    check(image, "contrast", severity, kept * image + (1 - kept) * means)


@every_severity
def test_elastic_transform(severity, image):
    lengths = (
        *((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06)),
        *((0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    )[severity - 1]
    distance, sigma, corner = SIZE * np.array(lengths)
    random = generator("elastic_transform", severity)
    # The middle is 8, and a third of the size 5.
    points = np.array([[13, 13], [13, 3], [3, 3]])
    moved = points + random.uniform(-corner, corner, (3, 2))
    sources = slow.affine_sources(points, moved, SIZE)
    warped = np.zeros(image.shape)
    for pixel, (x, y) in sources.items():
        warped[pixel] = slow.sample(image, y, x, repeat=0)
    expected = warped
    if distance:
        moves = random.uniform(-1, 1, (SIZE, SIZE, 2))
        mirrored = lambda index, size: slow.bounce(index, size, 1)  # noqa: E731
        moves = distance * slow.gaussian(moves, sigma, truncate=3, border=mirrored)
        expected = np.zeros(image.shape)
        for y, x in sources:
            across, down = moves[y, x]
            expected[y, x] = slow.sample(warped, y + down, x + across, repeat=1)
    check(image, "elastic_transform", severity, expected, tolerance=0.02)


@every_severity
def test_pixelate(severity, image):
    small = [14, 12, 11, 9, 8][severity - 1]
    positions = (np.arange(SIZE) + 0.5) * small / SIZE

    def average(pixels):  # over the pixels whose middle is in the box
        inside = [(positions > k) & (positions <= k + 1) for k in range(small)]
        return np.floor(np.stack([pixels[box].mean(axis=0) for box in inside]) + 0.5)

    blocks = average(average(image.swapaxes(0, 1)).swapaxes(0, 1))
    nearest = np.floor(positions).astype(int)
    expected = blocks[nearest][:, nearest]
    got = without_jpeg(image[None], "pixelate", severity)[0]
    assert np.abs(got - expected).max() <= 1
    assert np.mean(got == expected) > 0.95


@every_severity
def test_jpeg_compression(severity, image):
    expected = through_jpeg(image, [65, 58, 50, 40, 25][severity - 1])
    check(image, "jpeg_compression", severity, expected)


def through_jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


# ---------------------------------------------------------------------- spatter


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_spatter_of_water(severity, image):
    mean, deviation, sigma, threshold = [
        *((0.62, 0.1, 0.7, 0.7), (0.65, 0.1, 0.8, 0.7), (0.65, 0.3, 1, 0.69))
    ][severity - 1]
    random = generator("spatter", severity)
    liquid = slow.gaussian(random.normal(mean, deviation, (SIZE, SIZE)), sigma)
    liquid[liquid < threshold] = 0
    drops = np.floor(255 * liquid).astype(int) % 256
    mirrored = lambda index, size: slow.bounce(index, size, 0)  # noqa: E731
    box = np.full((3, 3), 1 / 9)
    depth = slow.chamfer(slow.canny(drops, 50, 150))
    depth = np.floor(slow.convolve(depth, box, mirrored) + 1e-3).astype(int)
    counts = np.bincount(depth.ravel(), minlength=256)
    first = counts[depth.min()]
    depth = np.rint(255 * (np.cumsum(counts) - first)[depth] / (SIZE**2 - first))
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    depth = np.clip(slow.convolve(depth, relief, mirrored), 0, 255)
    water = drops * np.rint(slow.convolve(depth, box, mirrored))
    expected = image + 0.6 * (water / water.max())[..., None] * [175, 238, 238]
    check(image, "spatter", severity, expected)


@pytest.mark.parametrize("severity", [4, 5])
def test_spatter_of_mud(severity, image):
    sigma, threshold = [(0.7, 0.68), (0.5, 0.67)][severity - 4]
    random = generator("spatter", severity)
    liquid = slow.gaussian(random.normal(0.65, 0.1, (SIZE, SIZE)), sigma)
    mud = slow.gaussian((liquid > threshold).astype(float), 0.6)
    mud = np.where(mud < 0.8, 0, mud)[..., None]
    check(image, "spatter", severity, image * (1 - mud) + mud * [63, 42, 20])


def test_edges_of_a_step():
    """One column of edges: of the two with the same gradient, the first."""
    step = np.zeros((1, 6, 8), np.int64)
    step[:, :, 4:] = 100
    edges = spatter.find_edges(step)
    assert edges[0].sum(axis=0).tolist() == [0, 0, 0, 6, 0, 0, 0, 0]
    assert not spatter.find_edges(step // 9).any()  # a gradient of 44, below 50
    # Between the thresholds, an edge counts where it touches a strong one.
    step[0, :, 4:] = np.array([40, 38, 36, 34, 32, 30])[:, None]
    assert spatter.find_edges(step)[0].any(axis=1).all()
    assert not spatter.find_edges(step[:, 3:]).any()


# ---------------------------------------------------------------- all of them


@pytest.fixture(scope="module")
def pictures():
    """Ten pictures that are not square."""
    return np.random.default_rng(3).integers(0, 256, (10, 24, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_picture_looks_the_same_in_any_batch(name, pictures):
    before = pictures.copy()
    for severity in (1, 3, 5):
        together = corrupt(pictures, name, severity, seed=5)
        assert together.shape == pictures.shape
        assert together.dtype == np.uint8
        parts = [
            corrupt(pictures[:1], name, severity, seed=5),
            corrupt(pictures[1:7], name, severity, seed=5, first=1),
            corrupt(pictures[7:], name, severity, seed=5, first=7),
        ]
        np.testing.assert_array_equal(np.concatenate(parts), together)
    np.testing.assert_array_equal(pictures, before)


def test_blocks_change_nothing(pictures, monkeypatch):
    together = corrupt(pictures, "fog", 2)
    monkeypatch.setattr("keras_tinyalex.datasets.corruptions.BLOCK", 3)
    np.testing.assert_array_equal(corrupt(pictures, "fog", 2), together)


RANDOM = set(CORRUPTIONS) - {
    *("defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast"),
    *("pixelate", "jpeg_compression", "saturate"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_the_random_numbers_follow_from(name, pictures):
    one = np.repeat(pictures[:1], 2, axis=0)
    first, second = corrupt(one, name, 3)
    other_seed = corrupt(one[:1], name, 3, seed=1)[0]
    assert (first != second).any() == (name in RANDOM)
    assert (first != other_seed).any() == (name in RANDOM)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_differ(name, image):
    results = {
        corrupt(image[None], name, severity).tobytes() for severity in range(1, 6)
    }
    assert len(results) == 5


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("value", [0, 255])
def test_images_of_one_color(name, value):
    """Nothing divides by zero."""
    images = np.full((3, 16, 16, 3), value, np.uint8)
    with np.errstate(all="raise", under="ignore"):
        for severity in range(1, 6):
            corrupt(images, name, severity)


def test_written_as_the_official_files(image):
    plain = without_jpeg(image[None], "contrast", 1)[0]
    kept = corrupt(image[None], "contrast", 1)[0]
    np.testing.assert_array_equal(kept, through_jpeg(plain, 85))
    low = corrupt(image[None], "contrast", 1, jpeg_quality=10)[0]
    np.testing.assert_array_equal(low, through_jpeg(plain, 10))


def test_names():
    assert len(CORRUPTIONS) == 19
    groups = list(CORRUPTIONS.values())
    assert [groups.count(g) for g in ("noise", "blur", "weather", "digital")] == [
        *(3, 4, 4, 4)
    ]
    assert groups[15:] == ["extra"] * 4
    with pytest.raises(TypeError):
        CORRUPTIONS["fog"] = "noise"


def test_no_images():
    assert corrupt(np.zeros((0, 64, 64, 3), np.uint8), "fog", 1).shape == (0, 64, 64, 3)


WRONG = [
    ({"images": np.zeros((1, 64, 64, 3))}, "uint8 NumPy array.*dtype=float64"),
    ({"images": np.zeros((64, 64, 3), np.uint8)}, r"\(N, H, W, 3\)"),
    ({"images": np.zeros((1, 64, 64, 1), np.uint8)}, r"shape=\(1, 64, 64, 1\)"),
    ({"images": np.zeros((1, 15, 64, 3), np.uint8)}, "at least 16x16 pixels"),
    ({"images": [1]}, "Received: images=<class 'list'>"),
    ({"name": "rain"}, "`name` must be one of 'gaussian_noise'.*Received: name='rain'"),
    ({"severity": 6}, "`severity` must be one of 1, 2, 3, 4, 5. Received: severity=6"),
    ({"severity": 0}, "`severity` must be a positive integer"),
    ({"seed": -1}, "`seed` must be a non-negative integer"),
    ({"first": 0.5}, "`first` must be a non-negative integer"),
    ({"jpeg_quality": 0}, "`jpeg_quality` must be"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_wrong_arguments(wrong, message):
    right = {"images": np.zeros((1, 64, 64, 3), np.uint8), "name": "fog", "severity": 1}
    with pytest.raises(ValueError, match=message):
        corrupt(**{**right, **wrong})
