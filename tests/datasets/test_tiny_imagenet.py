"""Pixels, labels and batches."""

import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from keras_tinyalex.datasets import tiny_imagenet
from keras_tinyalex.datasets.images import decode_image
from keras_tinyalex.datasets.tiny_imagenet import (
    Batches,
    LabelledArrays,
    find_bad_images,
)

WNIDS = ("n01443537", "n01629819", "n01641577")

pytestmark = pytest.mark.backend


def numbered(count=10, classes=2):
    """Images whose every pixel is their own number."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(images, (count, 4, 4, 3)).copy()
    labels = np.arange(count) % classes
    names = tuple(f"{i}.JPEG" for i in range(count))
    return LabelledArrays(images, labels, tuple("ab")[:classes], names)


def drawn(batches):
    return [int(i) for images, _ in batches for i in np.asarray(images)[:, 0, 0, 0]]


def test_load_data_labels_are_sorted_wnids(official_folder, official_zip):
    for source in (official_folder, official_zip):
        (x_train, y_train), (x_val, y_val) = tiny_imagenet.load_data(source)
        assert x_train.shape == (24, 64, 64, 3)
        assert x_train.dtype == np.uint8
        assert y_train.tolist() == [0] * 8 + [1] * 8 + [2] * 8
        # class k is drawn in colour channel k
        assert x_train.mean((1, 2)).argmax(1).tolist() == y_train.tolist()
        assert x_val.mean((1, 2)).argmax(1).tolist() == y_val.tolist()


def test_subset_renumbers_labels(official_folder):
    (x, y), _ = tiny_imagenet.load_data(official_folder, classes=["bullfrog"])
    assert y.tolist() == [0] * 8
    assert x.mean((1, 2)).argmax(1).tolist() == [2] * 8


def test_class_names():
    assert tiny_imagenet.class_names(2) == WNIDS[:2]
    assert len(tiny_imagenet.class_names()) == 200
    assert tiny_imagenet.class_names(["bullfrog", "goldfish"]) == (WNIDS[0], WNIDS[2])


def test_source_without_val(official_folder):
    data = official_folder / "train"
    _, (x_val, y_val) = tiny_imagenet.load_data(data)
    assert x_val.shape == (0, 64, 64, 3)
    assert y_val.shape == (0,)
    with pytest.raises(ValueError, match=r"validation_split=0\.1"):
        tiny_imagenet.load_dataset(data, split="val")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "the file is empty"),
        (lambda data: b"hello, world", "not a JPEG, PNG"),
        (lambda data: data[: len(data) // 2], "damaged image"),
        (lambda data: data[:10], "not a JPEG|damaged"),
    ],
)
def test_bad_images_are_named(official_folder, damage, message):
    path = official_folder / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_3.JPEG"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="1 of 24 train images") as error:
        tiny_imagenet.load_data(official_folder)
    assert error.match(message)
    assert error.match(f"{WNIDS[1]}_3.JPEG")


def test_find_bad_images(official_folder):
    folder = official_folder / "train" / WNIDS[0] / "images"
    (folder / f"{WNIDS[0]}_0.JPEG").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(folder / f"{WNIDS[0]}_1.JPEG", "GIF")
    count, problems = find_bad_images(official_folder)
    assert count == 30
    assert [where.rsplit("_", 1)[1] for where, _ in problems] == ["0.JPEG", "1.JPEG"]
    assert "empty" in problems[0][1]
    assert "a GIF image with the suffix .jpeg" in problems[1][1]


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


def test_a_feed_left_early_is_not_an_epoch():
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


@pytest.mark.parametrize(("part", "least", "most"), [(0.3, 40, 80), (1.0, 200, 200)])
def test_a_part_of_the_batches_is_mixed_and_none_at_the_end(part, least, most):
    def white(images, labels, _):
        return np.full_like(images, 255), labels

    batches = Batches(
        numbered(), 1, 0, one_hot=True, mixing=white, mixing_probability=part
    )
    batches.mixed_epochs = 20
    mixed = []
    for batches.epoch in range(22):
        mixed.append(drawn(batches).count(255))
    # 200 batches; for 0.3, 60 with a standard deviation of 6.5.
    assert least <= sum(mixed[:20]) <= most
    assert mixed[20:] == [0, 0]


def test_held_out_part_is_the_same_share_of_each_class():
    data = numbered(20)
    rest, held_out = data.part(False, 0.2, 0), data.part(True, 0.2, 0)
    assert held_out.labels.tolist().count(0) == 2
    assert held_out.labels.tolist().count(1) == 2
    together = sorted(rest.file_names + held_out.file_names)
    assert together == sorted(data.file_names)
    assert data.part(True, 0.2, 0).file_names == held_out.file_names
    assert data.part(True, 0.2, 1).file_names != held_out.file_names


def test_load_dataset(official_folder):
    train = tiny_imagenet.load_dataset(official_folder, seed=0)
    val = tiny_imagenet.load_dataset(official_folder, split="val", batch_size=4)
    assert len(train) == 2
    assert train.class_names == WNIDS
    assert [len(labels) for _, labels in val] == [4, 2]
    labels = np.concatenate([np.asarray(labels) for _, labels in val])
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    images, _ = next(iter(train))
    assert tuple(images.shape) == (16, 64, 64, 3)
    assert "uint8" in str(images.dtype)
    is_tf_data = type(train).__module__.startswith("tensorflow")
    assert is_tf_data == (keras.backend.backend() == "tensorflow")


def test_load_dataset_epochs_differ(official_folder):
    data = tiny_imagenet.load_dataset(official_folder, seed=0, batch_size=24)
    if keras.backend.backend() != "tensorflow":
        pytest.skip("PyDataset epochs are counted by fit")
    first, second = (np.asarray(next(iter(data))[1]) for _ in range(2))
    assert first.tolist() != second.tolist()


def test_load_dataset_held_out(official_folder):
    options = {"validation_split": 0.25, "seed": 3, "batch_size": 99}
    train = tiny_imagenet.load_dataset(official_folder, **options)
    held_out = tiny_imagenet.load_dataset(official_folder, "held_out", **options)
    assert len(train.file_names) == 18
    assert len(held_out.file_names) == 6
    assert not set(train.file_names) & set(held_out.file_names)


def test_augmentation_is_for_training_only(official_folder):
    def black(images, generator):
        return np.zeros_like(images)

    options = {"augmentation": black, "validation_split": 0.25, "seed": 0}
    train = tiny_imagenet.load_dataset(official_folder, **options)
    held_out = tiny_imagenet.load_dataset(official_folder, "held_out", **options)
    assert np.asarray(next(iter(train))[0]).max() == 0
    assert np.asarray(next(iter(held_out))[0]).max() > 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "Received: split='test'"),
        ({"validation_split": 1.0}, "Received: validation_split=1.0"),
        ({"split": "held_out"}, "needs `validation_split`"),
        ({"batch_size": 0}, "Received: batch_size=0"),
        ({"augmentation": "rotate"}, "Received: augmentation='rotate'"),
        ({"classes": "tabby"}, "tabby"),
        ({"classes": 4}, "4"),
    ],
)
def test_wrong_arguments(official_folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_imagenet.load_dataset(official_folder, **arguments)


def test_real_images(real_zip):
    (x_train, y_train), (x_val, y_val) = tiny_imagenet.load_data(real_zip, classes=2)
    assert x_train.shape == (1000, 64, 64, 3)
    assert np.bincount(y_train).tolist() == [500, 500]
    assert np.bincount(y_val).tolist() == [50, 50]
    with zipfile.ZipFile(real_zip) as archive:
        text = archive.read("tiny-imagenet-200/val/val_annotations.txt").decode()
        lines = [line.split("\t") for line in text.splitlines()]
        goldfish = sorted(name for name, wnid, *_ in lines if wnid == WNIDS[0])
        first = archive.read(f"tiny-imagenet-200/val/images/{goldfish[0]}")
    assert (x_val[0] == decode_image(first)).all()
