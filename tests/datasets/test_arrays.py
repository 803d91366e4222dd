"""The .npz files of downsampled ImageNet, read as a source."""

import numpy as np
import pytest

from keras_tinyalex import cli
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.reading import read_split, verify
from keras_tinyalex.datasets.tiny_imagenet import load_data, restructure

SIZE = 16


def write_batches(folder, save=np.savez):
    """Two files of 6 train images and one of 4 val images, labels 1, 2 and 10."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    batches = {
        "train_data_batch_1": [10, 1, 2, 1, 10, 2],
        "train_data_batch_2": [2, 2, 1, 1, 10, 10],
        "val_data": [1, 10, 2, 1],
    }
    written = {}
    for name, labels in batches.items():
        data = generator.integers(0, 256, (len(labels), 3 * SIZE**2), np.uint8)
        mean = data.mean(axis=0)
        save(folder / f"{name}.npz", data=data, labels=np.array(labels), mean=mean)
        written[name] = data
    return written


def channels_last(row):
    red, green, blue = row.reshape(3, SIZE, SIZE)
    return np.stack([red, green, blue], axis=-1)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_each_row_is_an_image(tmp_path, save):
    written = write_batches(tmp_path / "imagenet", save)
    source = open_source(tmp_path / "imagenet")
    assert source.class_names == ("0001", "0002", "0010")
    assert {split: len(found) for split, found in source.images.items()} == {
        "train": 12,
        "val": 4,
    }
    assert not source.left_out
    data = read_split(source, "train", source.class_names, (SIZE, SIZE))
    assert data.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.file_names[:3] == (
        "train/0001/train_data_batch_1-000001.bmp",
        "train/0001/train_data_batch_1-000003.bmp",
        "train/0001/train_data_batch_2-000002.bmp",
    )
    second = channels_last(written["train_data_batch_1"][3])
    np.testing.assert_array_equal(data.images[1], second)
    name = data.file_names[1]
    assert source.tree.size(name) == len(source.tree.read(name))
    val = read_split(source, "val", source.class_names, (SIZE, SIZE))
    np.testing.assert_array_equal(val.images[0], channels_last(written["val_data"][0]))


def test_one_file_and_files_in_folders(tmp_path):
    write_batches(tmp_path / "part1")
    one = tmp_path / "part1" / "train_data_batch_2.npz"
    (_, labels), (_, held_out) = load_data(one)
    assert (len(labels), len(held_out)) == (3, 3)
    (tmp_path / "part2").mkdir()
    one.rename(tmp_path / "part2" / one.name)
    (tmp_path / "part2" / "read me.txt").write_text("")
    source = open_source(tmp_path)
    assert len(source.images["train"]) == 12
    assert [left.names for left in source.left_out] == [("part2/read me.txt",)]


def test_they_are_verified_and_written_as_files(tmp_path, capsys):
    written = write_batches(tmp_path / "imagenet")
    assert cli.main(["verify", str(tmp_path / "imagenet")]) == 0
    assert "0 of 16 images are bad (train 12, val 4;" in capsys.readouterr().err
    restructure(tmp_path / "imagenet", tmp_path / "sorted", progress=False)
    data = read_split(
        open_source(tmp_path / "sorted"), "train", ("0001", "0002", "0010"), (16, 16)
    )
    second = channels_last(written["train_data_batch_1"][3])
    np.testing.assert_array_equal(data.images[1], second)
    with pytest.raises(ValueError, match="`mode` must be 'copy' if the images are ins"):
        restructure(tmp_path / "imagenet", tmp_path / "moved", mode="move")


def test_a_changed_pixel_is_found_by_its_checksum(tmp_path):
    rows = write_batches(tmp_path / "imagenet")["train_data_batch_2"]
    file = tmp_path / "imagenet" / "train_data_batch_2.npz"
    content = bytearray(file.read_bytes())
    pixel = content.index(rows[3].tobytes())
    content[pixel] ^= 1
    file.write_bytes(content)
    result = verify(tmp_path / "imagenet")
    assert result.bad == [(str(file), "the checksum of data.npy is another one")]


def test_a_changed_file_is_decoded_again(tmp_path):
    write_batches(tmp_path)
    source = open_source(tmp_path)
    image = source.images["train"][0]
    before = source.fingerprint(image)
    assert open_source(tmp_path).fingerprint(image) == before
    write_batches(tmp_path)
    assert open_source(tmp_path).fingerprint(image) != before


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"data": np.zeros((2, 12), np.uint8)}, "labels"),
        ({"labels": np.arange(2)}, "data"),
        ({"data": np.zeros((2, 13), np.uint8), "labels": np.arange(2)}, r"\(2, 13\)"),
        ({"data": np.zeros((2, 12)), "labels": np.arange(2)}, "float64, not uint8"),
        ({"data": np.zeros((2, 12), np.uint8), "labels": np.arange(3)}, r"\(3,\)"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, problem):
    np.savez(tmp_path / "train_data_batch_1.npz", **arrays)
    message = f"`source` must hold .npz files of downsampled ImageNet.*{problem}"
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path)


def test_a_file_that_is_cut_or_there_twice_is_refused(tmp_path):
    write_batches(tmp_path / "a")
    path = tmp_path / "a" / "train_data_batch_1.npz"
    content = path.read_bytes()
    for cut in (content[: len(content) // 2], b""):
        path.write_bytes(cut)
        with pytest.raises(ValueError, match=r"train_data_batch_1\.npz is not"):
            open_source(tmp_path)
    path.write_bytes(content)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / path.name).write_bytes(content)
    with pytest.raises(ValueError, match="there are two files train_data"):
        open_source(tmp_path)


def test_damaged_bytes_are_refused_or_read(tmp_path):
    write_batches(tmp_path, np.savez_compressed)
    path = tmp_path / "train_data_batch_1.npz"
    content = path.read_bytes()
    refusals = []
    for position in range(0, len(content), len(content) // 60):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            open_source(tmp_path)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 40
    assert all("must hold .npz files of downsampled ImageNet" in r for r in refusals)


def test_other_npz_files_are_no_source(tmp_path):
    np.savez(tmp_path / "mine.npz", data=np.zeros((2, 12), np.uint8))
    with pytest.raises(ValueError, match="no training image was found: write the imag"):
        open_source(tmp_path)
