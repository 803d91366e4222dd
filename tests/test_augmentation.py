"""Augmentations move pixels and change no values."""

import numpy as np
import pytest

from keras_tinyalex import augmentation


def pictures(count=64):
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)


def test_flip_mirrors_about_half():
    images = pictures()
    before = images.copy()
    flipped = augmentation.flip(images, np.random.default_rng(1))
    same = [(a == b).all() for a, b in zip(flipped, images, strict=True)]
    mirrored = [(a == b[:, ::-1]).all() for a, b in zip(flipped, images, strict=True)]
    assert np.all(np.logical_xor(same, mirrored))
    assert 16 < sum(mirrored) < 48
    assert (images == before).all()


def test_crop_flip_shifts_each_image_by_its_own_offset():
    images = pictures()
    moved = augmentation.crop_flip(images, np.random.default_rng(1), padding=2)
    offsets = set()
    for image, result in zip(images, moved, strict=True):
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
    assert len(offsets) > 25


def test_same_generator_same_images():
    first, second = (
        augmentation.crop_flip(pictures(), np.random.default_rng(5)) for _ in range(2)
    )
    assert (first == second).all()


def test_get():
    assert augmentation.get(None) is None
    assert augmentation.get("flip") is augmentation.flip
    assert augmentation.get(augmentation.flip) is augmentation.flip
    with pytest.raises(ValueError, match=r"\['crop_flip', 'flip'\].*Received"):
        augmentation.get("mirror")
