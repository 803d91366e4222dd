"""Augmentations and mixings, compared with what their definitions give."""

import numpy as np
import pytest

from keras_tinyalex import augmentation


def make_images(count=64):
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)


def test_flip_flips_about_half():
    images = make_images()
    before = images.copy()
    flipped = augmentation.flip(images, np.random.default_rng(1))
    same = [(a == b).all() for a, b in zip(flipped, images, strict=True)]
    mirrored = [(a == b[:, ::-1]).all() for a, b in zip(flipped, images, strict=True)]
    assert np.all(np.logical_xor(same, mirrored))
    assert 16 < sum(mirrored) < 48
    assert (images == before).all()


@pytest.mark.parametrize("name", ["crop", "crop_flip"])
def test_each_image_is_cropped_at_its_own_offset(name):
    images = make_images()
    crop = getattr(augmentation, name)
    cropped = crop(images, np.random.default_rng(1), padding=2)
    offsets = set()
    for image, result in zip(images, cropped, strict=True):
        padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], mode="reflect")
        found = [
            (top, left, step)
            for top in range(5)
            for left in range(5)
            for step in (1, -1)
            if (padded[top : top + 16, left : left + 16][:, ::step] == result).all()
        ]
        assert len(found) == 1
        offsets.update(found)
    flips = name == "crop_flip"
    assert {step for *_, step in offsets} == ({1, -1} if flips else {1})
    assert len(offsets) > (25 if flips else 20)


def test_same_generator_same_images():
    first, second = (
        augmentation.crop_flip(make_images(), np.random.default_rng(5))
        for _ in range(2)
    )
    assert (first == second).all()


def test_get():
    assert augmentation.get(None) is None
    assert augmentation.get("flip") is augmentation.flip
    assert augmentation.get(augmentation.flip) is augmentation.flip
    with pytest.raises(ValueError, match=r"'crop_flip', .*'flip'.*Received"):
        augmentation.get("mirror")


def test_cutout_covers_one_square():
    images = make_images() // 2  # below the gray of the square
    result = augmentation.cutout(images, np.random.default_rng(1), size=6)
    gray = (result == 128).all(axis=-1)
    assert (result[~gray] == images[~gray]).all()
    for mask in gray:
        rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
        assert mask.sum() == len(rows) * len(columns)
        assert 3 <= len(rows) <= 6
        assert 3 <= len(columns) <= 6
    assert (gray.sum(axis=(1, 2)) == 36).any()
    assert len({mask.tobytes() for mask in gray}) > 32


def test_color_maps_each_channel_linearly():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = np.repeat(np.repeat(levels, 3, axis=-1), 8, axis=0)
    result = augmentation.color(images, np.random.default_rng(1), strength=0.3)
    for image in result.reshape(8, 256, 3).astype(int):
        for line in image.T:
            free = (line > 0) & (line < 255)
            x = np.arange(256)[free]
            slope, offset = np.polyfit(x, line[free], 1)
            assert np.abs(line[free] - slope * x - offset).max() < 1
            assert 1 - 0.4 <= slope <= 1 + 0.4
    assert (augmentation.color(images, np.random.default_rng(1), 0) == images).all()


def test_zoom_crop_resizes_a_box():
    rows, columns = np.indices((16, 16), dtype=np.uint8)
    images = np.stack([rows, columns, rows], axis=-1)[None].repeat(64, axis=0)
    result = augmentation.zoom_crop(images, np.random.default_rng(1), scale=0.5)
    for positions in (result[:, :, 0, 0], result[:, 0, :, 1]):
        assert (np.diff(positions.astype(int), axis=1) >= 0).all()
        spans = positions[:, -1].astype(int) - positions[:, 0] + 1
        assert spans.min() in (8, 9)
        assert spans.max() == 16
    # Rows do not depend on the column, nor columns on the row.
    assert (result[..., 0] == result[:, :, :1, 0]).all()
    assert (result[..., 1] == result[:, :1, :, 1]).all()
    unchanged = augmentation.zoom_crop(images, np.random.default_rng(1), scale=1)
    assert (unchanged == images).all()


def test_patch_noise_adds_normal_noise_in_a_square():
    images = np.full((256, 32, 32, 3), 128, np.uint8)
    noise = augmentation.patch_noise(images, np.random.default_rng(1), strength=0.2)
    noise = noise.astype(float) - 128
    noisy = noise.any(axis=(1, 2, 3))
    assert 0.4 < noisy.mean() < 0.6
    whole = [part for part in noise if (np.abs(part).max(axis=-1) > 0).mean() > 0.95]
    assert 20 < len(whole) < 80
    # Uniform between 0 and 0.2 * 255, of which the smallest leave pixels as they are.
    deviations = [part.std() / 255 for part in whole]
    assert 0.17 < max(deviations) < 0.201
    assert 0.08 < np.mean(deviations) < 0.13
    for part in noise[noisy]:
        rows, columns, _ = np.nonzero(part)
        inside = part[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert np.count_nonzero(inside) == np.count_nonzero(part)
    assert not augmentation.patch_noise(
        images, np.random.default_rng(1), probability=0
    ).any(where=images != 128)


def test_random_filter_has_nine_taps_of_sum_1():
    """A single bright pixel becomes the kernel, neighbors or every second pixel."""
    images = np.full((64, 9, 9, 1), 100, np.uint8)
    images[:, 4, 4] = 150
    result = augmentation.random_filter(images, np.random.default_rng(1), probability=1)
    responses = result[..., 0].astype(float) - 100
    np.testing.assert_allclose(responses.sum(axis=(1, 2)), 50, atol=9 * 0.5)
    near, far = responses[:, 3:6, 3:6], responses[:, 2:7:2, 2:7:2]
    taps = np.abs(responses).sum(axis=(1, 2))
    spacings = {1: np.abs(near).sum(axis=(1, 2)) == taps}
    spacings[2] = np.abs(far).sum(axis=(1, 2)) == taps
    assert np.all(spacings[1] | spacings[2])
    assert all(16 < found.sum() < 48 for found in spacings.values())
    constant = np.full((8, 9, 9, 3), 7, np.uint8)
    filtered = augmentation.random_filter(constant, np.random.default_rng(1), 1)
    assert (filtered == 7).all()


def test_random_tones_depend_on_the_value_alone():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = np.concatenate([levels, levels[:, ::-1, ::-1]]).repeat(3, axis=-1)
    images = images.repeat(32, axis=0)
    before = images.copy()
    changed = augmentation.random_tones(images, np.random.default_rng(1))
    assert (images == before).all()
    same = (changed == images).all(axis=(1, 2, 3))
    assert 16 < same.sum() < 48
    curves = changed[~same].reshape(-1, 256, 3).astype(int)
    values = images[~same].reshape(-1, 256, 3)
    for curve, value in zip(curves, values, strict=True):
        ordered = curve[np.argsort(value[:, 0])]
        # Smooth: no step of two neighboring values is large.
        assert np.abs(np.diff(ordered, axis=0)).max() <= 8
    spread = [np.ptp(curve) for curve in curves]
    assert min(spread) < 128 < max(spread)


@pytest.mark.parametrize("name", sorted(augmentation.MIXINGS))
def test_mixing_blends_images_and_labels_alike(name):
    """Image i is filled with 8 * i, so its pixels show what its label must be."""
    count = 32
    images = np.arange(count, dtype=np.uint8) * 8
    images = images[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    labels = np.eye(count, dtype=np.float32)
    before = images.copy(), labels.copy()
    mixed, soft = augmentation.MIXINGS[name](images, labels, np.random.default_rng(3))
    assert mixed.dtype == np.uint8
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)
    expected = soft @ (np.arange(count) * 8)
    np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), expected, atol=0.51)
    assert (soft.max(axis=1) < 1).sum() > count / 2
    assert all((a == b).all() for a, b in zip((images, labels), before, strict=True))


@pytest.mark.parametrize("name", sorted(augmentation.AUGMENTATIONS))
def test_named_pipelines_keep_shape_and_input(name):
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    before = images.copy()
    results = [
        augmentation.get(name)(images, np.random.default_rng(7)) for _ in range(2)
    ]
    assert results[0].shape == images.shape
    assert results[0].dtype == np.uint8
    assert (results[0] == results[1]).all()
    assert (results[0] != images).any()
    assert (images == before).all()
