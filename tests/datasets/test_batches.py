"""Batches: their order, their epochs, their labels, and held-out parts."""

import dataclasses

import numpy as np
import pytest

from keras_tinyalex.datasets.batches import Batches, LabelledArrays

pytestmark = pytest.mark.backend


def numbered(count=10, classes=2):
    """Images with every pixel equal to the image's index."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(images, (count, 4, 4, 3)).copy()
    labels = np.arange(count) % classes
    names = tuple(f"{i}.JPEG" for i in range(count))
    return LabelledArrays(images, labels, tuple("ab")[:classes], names)


def drawn(batches):
    return [int(i) for images, _ in batches for i in np.asarray(images)[:, 0, 0, 0]]


def test_batches_cover_each_epoch_once():
    batches = Batches(numbered(), batch_size=4, seed=1)
    assert len(batches) == 3
    first = drawn(batches)
    assert sorted(first) == list(range(10))
    batches.on_epoch_end()
    second = drawn(batches)
    assert sorted(second) == list(range(10))
    assert first != second


def test_order_depends_on_seed_and_epoch_only():
    batches = Batches(numbered(), batch_size=4, seed=1)
    batches.epoch = 7
    again = Batches(numbered(), batch_size=4, seed=1)
    again.epoch = 7
    assert drawn(batches) == drawn(again)
    assert drawn(batches) != drawn(Batches(numbered(), batch_size=4, seed=2))
    assert drawn(Batches(numbered(), shuffle=False)) == list(range(10))


def test_one_batch_of_a_feed_is_not_an_epoch():
    batches = Batches(numbered(), batch_size=4, seed=1)
    feed = batches.feed()
    assert len(feed) == 3
    first = drawn(batches)
    next(iter(feed))
    assert drawn(feed) == first
    if feed is batches:
        return
    assert not feed.options().autotune.enabled
    second = drawn(feed)
    assert second != first
    assert sorted(second) == list(range(10))


def test_feed_with_probabilities_as_labels():
    batches = Batches(numbered(classes=2), batch_size=4, seed=1, one_hot=True)
    labels = np.concatenate([np.asarray(labels) for _, labels in batches.feed()])
    assert labels.dtype == np.float32
    assert labels.sum(axis=0).tolist() == [5, 5]


@pytest.mark.parametrize(
    ("probability", "minimum", "maximum"), [(0.3, 40, 80), (1.0, 200, 200)]
)
def test_mixing_probability_and_mixed_epochs(probability, minimum, maximum):
    def white(images, labels, _):
        return np.full_like(images, 255), labels

    batches = Batches(
        numbered(), 1, 0, one_hot=True, mixing=white, mixing_probability=probability
    )
    batches.mixed_epochs = 20
    mixed = []
    for batches.epoch in range(22):
        mixed.append(drawn(batches).count(255))
    # Of 200 batches; at 0.3, the mean is 60 and the standard deviation 6.5.
    assert minimum <= sum(mixed[:20]) <= maximum
    assert mixed[20:] == [0, 0]


def test_held_out_part_has_the_same_fraction_of_each_class():
    data = numbered(20)
    rest, held_out = data.part(False, 0.2, 0), data.part(True, 0.2, 0)
    assert held_out.labels.tolist().count(0) == 2
    assert held_out.labels.tolist().count(1) == 2
    together = sorted(rest.file_names + held_out.file_names)
    assert together == sorted(data.file_names)
    assert data.part(True, 0.2, 0).file_names == held_out.file_names
    assert data.part(True, 0.2, 1).file_names != held_out.file_names


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.9, 0.99])
def test_each_part_has_an_image_of_each_class(fraction):
    """Of 3 images a class, round(0.1 * 3) would be none."""
    data = numbered(6)
    for held_out in (False, True):
        assert set(data.part(held_out, fraction, 0).labels) == {0, 1}
    data = numbered(3)  # two images of class a, one of b
    expected = r"`data` must have two or more .* each class, .*Received: 1 of 'b'"
    with pytest.raises(ValueError, match=expected):
        data.part(True, fraction, 0)


def test_balanced_classes_count_the_same():
    images = np.zeros((8, 8, 8, 3), np.uint8)
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    data = LabelledArrays(images, labels, ("cat", "dog"), tuple("abcdefgh"))
    # 8 images, half of the weight for the 6 and half for the 2.
    np.testing.assert_allclose(data.balanced().weights, [4 / 6] * 6 + [4 / 2] * 2)
    weighted = dataclasses.replace(data, weights=np.array([1, 3] * 4, np.float32))
    np.testing.assert_allclose(
        weighted.balanced().weights, [1 / 3, 1, 1 / 3, 1, 1 / 3, 1, 1, 3]
    )
