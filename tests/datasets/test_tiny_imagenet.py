"""Loading pixels, labels and datasets."""

import zipfile

import keras
import numpy as np
import pytest

from keras_tinyalex.datasets import tiny_imagenet
from keras_tinyalex.datasets.images import decode_image
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.reading import read_parts
from keras_tinyalex.splits import load_splits

WNIDS = ("n01443537", "n01629819", "n01641577")

pytestmark = pytest.mark.backend


def test_load_data_labels_are_sorted_wnids(official_folder, official_zip):
    for source in (official_folder, official_zip):
        (x_train, y_train), (x_val, y_val) = tiny_imagenet.load_data(source)
        assert x_train.shape == (24, 64, 64, 3)
        assert x_train.dtype == np.uint8
        assert y_train.tolist() == [0] * 8 + [1] * 8 + [2] * 8
        # Class k is drawn in color channel k.
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


def test_source_without_val(official_folder, capsys):
    """One of the 8 images of each class is held out, the same one by everybody."""
    data = official_folder / "train"
    (x, _), (x_val, y_val) = tiny_imagenet.load_data(data)
    assert (x.shape, x_val.shape) == ((21, 64, 64, 3), (3, 64, 64, 3))
    assert y_val.tolist() == [0, 1, 2]
    # 10% of 8, rounded: which one depends on seed 0 and the class.
    indices = np.arange(8)
    chosen = [np.random.default_rng([0, k]).permutation(indices)[0] for k in range(3)]
    names = tuple(
        f"{wnid}/images/{wnid}_{index}.JPEG"
        for wnid, index in zip(WNIDS, chosen, strict=True)
    )
    splits = load_splits(data)
    val = tiny_imagenet.load_dataset(data, split="val", seed=5)
    assert val.file_names == splits.val.file_names == names
    train = tiny_imagenet.load_dataset(data, seed=5)
    assert train.file_names == splits.train.file_names
    assert sorted(train.file_names + names) == sorted(
        tiny_imagenet.load_dataset(data, "all").file_names
    )
    assert np.array_equal(x_val, splits.val.images)
    said = "held out: 10% of the training images of each class\n"
    assert capsys.readouterr().err.count(said) == 1
    (turned,) = read_parts(open_source(data), WNIDS[::-1], ["val"])
    assert sorted(turned.file_names) == sorted(names)


def test_all_images_of_a_source_with_val(official_folder):
    assert len(tiny_imagenet.load_dataset(official_folder, "all").file_names) == 30


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
        ({"split": "held_out"}, "`validation_split` must be a fraction, .*=None"),
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
