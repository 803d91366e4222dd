"""The embedded sample: layout, reproducibility, difficulty, interrupted writes."""

import hashlib
import re
import threading

import numpy as np
import pytest
from PIL import Image

from keras_tinyalex.datasets import sample
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.sample import CLASS_WORDS, make_sample, sample_path


@pytest.fixture(scope="module")
def full_set(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("sample") / "set")


@pytest.fixture
def small(monkeypatch):
    """Two train images and one val image per class: 60 images instead of 2,400."""
    monkeypatch.setattr(sample, "TRAIN_PER_CLASS", 2)
    monkeypatch.setattr(sample, "VAL_PER_CLASS", 1)


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def read_arrays(folder):
    source = open_source(folder)
    splits = []
    for split in ("train", "val"):
        images = [np.asarray(Image.open(source.path(i))) for i in source.images[split]]
        labels = [source.class_names.index(i.class_name) for i in source.images[split]]
        splits.append((np.stack(images), np.array(labels)))
    return splits


def test_layout_is_the_official_one(full_set):
    wnids = (full_set / "wnids.txt").read_text().split()
    assert sorted(wnids) == list(CLASS_WORDS)
    assert wnids != sorted(wnids)  # as in the official archive
    for wnid in wnids:
        assert re.fullmatch(r"n99\d{6}", wnid)
        folder = full_set / "train" / wnid
        names = {f"{wnid}_{index}.JPEG" for index in range(100)}
        assert {path.name for path in (folder / "images").iterdir()} == names
        lines = (folder / f"{wnid}_boxes.txt").read_text().splitlines()
        assert {line.split("\t")[0] for line in lines} == names
        assert all(len(line.split("\t")) == 5 for line in lines)
    val_names = {path.name for path in (full_set / "val" / "images").iterdir()}
    assert val_names == {f"val_{index}.JPEG" for index in range(400)}
    rows = [
        line.split("\t")
        for line in (full_set / "val" / "val_annotations.txt").read_text().splitlines()
    ]
    assert [row[0] for row in rows] == [f"val_{index}.JPEG" for index in range(400)]
    labels = [row[1] for row in rows]
    assert {labels.count(wnid) for wnid in wnids} == {20}
    assert labels != sorted(labels)


def test_source_is_read_as_official(full_set):
    source = open_source(full_set)
    assert {split: len(i) for split, i in source.images.items()} == {
        "train": 2000,
        "val": 400,
    }
    assert source.class_names == tuple(CLASS_WORDS)
    assert source.words == CLASS_WORDS
    # 4 patterns x 5 shapes
    assert len(set(CLASS_WORDS.values())) == 20
    assert CLASS_WORDS["n99000000"] == "striped disc"


def test_images_are_64x64_rgb_jpeg(full_set):
    for path in full_set.rglob("*.JPEG"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))


def test_boxes_are_around_the_object(full_set):
    (file, *box) = (
        (full_set / "train" / "n99000000" / "n99000000_boxes.txt")
        .read_text()
        .splitlines()[0]
        .split("\t")
    )
    assert file == "n99000000_0.JPEG"
    # The object, a disc of radius 0.9 r: as wide as it is high.
    x0, y0, x1, y1 = map(int, box)
    assert 0 <= x0 < x1 <= 63
    assert 0 <= y0 < y1 <= 63
    assert 2 * 0.9 * 22 - 2 <= x1 - x0 + 1 <= 2 * 0.9 * 28 + 2
    assert abs((x1 - x0) - (y1 - y0)) <= 1


def test_same_seed_gives_the_same_bytes(full_set, tmp_path):
    again = make_sample(tmp_path / "again", seed=0)
    assert digests(again) == digests(full_set)
    # 2,000 train + 400 val + 20 boxes + annotations, wnids, words, marker
    assert len(digests(again)) == 2424


@pytest.mark.parametrize(
    ("label", "box", "mean"),
    [
        (0, (3, 11, 49, 57), (82.12, 47.79, 54.81)),
        (7, (2, 0, 59, 55), (107.91, 116.99, 99.85)),
        (14, (11, 4, 59, 52), (106.37, 97.9, 90.05)),
    ],
)
def test_images_of_version_1(label, box, mean):
    # Caches identify the sample by its version: a change to the images, and so to
    # these numbers, must raise `VERSION`.
    assert sample.VERSION == 1
    pixels, drawn_box = sample._draw(np.random.default_rng([0, 0, label, 0]), label)
    assert drawn_box == box
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), mean, atol=0.05)


@pytest.mark.usefixtures("small")
def test_another_seed_gives_other_images(tmp_path):
    zero = digests(make_sample(tmp_path / "0", seed=0))
    one = digests(make_sample(tmp_path / "1", seed=1))
    assert zero.keys() == one.keys()
    same = [name for name in zero if zero[name] == one[name]]
    assert same == ["words.txt"]


@pytest.mark.usefixtures("small")
def test_complete_sample_is_reused(tmp_path, monkeypatch):
    folder = make_sample(tmp_path / "set")
    monkeypatch.setattr(sample, "_write_files", None)  # would fail if called
    assert make_sample(str(tmp_path / "set")) == folder


@pytest.mark.usefixtures("small")
def test_damaged_sample_is_made_again(tmp_path):
    folder = make_sample(tmp_path / "set")
    before = digests(folder)
    (folder / "val" / "images" / "val_3.JPEG").unlink()
    (folder / "wnids.txt").write_text("")
    assert digests(make_sample(folder)) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("step", [0, 1, 41, 59])
@pytest.mark.parametrize("error", [OSError("No space left"), KeyboardInterrupt("^C")])
def test_no_incomplete_sample_after_an_error(tmp_path, monkeypatch, step, error):
    encode = sample._encode_image
    left = [step]

    def encode_and_fail(*arguments):
        if not left[0]:
            raise error
        left[0] -= 1
        return encode(*arguments)

    monkeypatch.setattr(sample, "_encode_image", encode_and_fail)
    with pytest.raises(type(error), match=re.escape(str(error))):
        make_sample(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small")
def test_files_of_a_killed_process_are_ignored(tmp_path):
    # What SIGKILL leaves: a part of the sample under the temporary name.
    (tmp_path / ".set-abc" / "new" / "train").mkdir(parents=True)
    folder = make_sample(tmp_path / "set")
    assert len(digests(folder)) == 60 + 20 + 4


@pytest.mark.usefixtures("small")
def test_two_at_once_make_one_sample(tmp_path, monkeypatch):
    write = sample._write_files
    barrier = threading.Barrier(2, timeout=60)

    def write_and_wait(root, seed):
        write(root, seed)
        barrier.wait()

    monkeypatch.setattr(sample, "_write_files", write_and_wait)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(make_sample(tmp_path / "set")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "set"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert len(digests(tmp_path / "set")) == 60 + 20 + 4


@pytest.mark.usefixtures("small")
def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    assert len(digests(make_sample(tmp_path / "set"))) == 60 + 20 + 4


@pytest.mark.usefixtures("small")
def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    message = r"`destination` must be a new or empty folder.*Received: destination="
    with pytest.raises(FileExistsError, match=message):
        make_sample(tmp_path)
    with pytest.raises(FileExistsError, match=message):
        make_sample(tmp_path / "notes.txt")
    other = make_sample(tmp_path / "seed1", seed=1)
    with pytest.raises(FileExistsError, match="a sample of version 1 and seed 0"):
        make_sample(other, seed=0)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_wrong_seed(tmp_path, seed):
    message = f"`seed` must be a non-negative integer. Received: seed={seed!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_sample(tmp_path / "set", seed)


@pytest.mark.usefixtures("small")
def test_sample_path(tmp_path, monkeypatch):
    name = "keras_tinyalex/sample-v1-seed0"
    assert sample_path(tmp_path / "given") == tmp_path / "given" / name
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    assert sample_path() == tmp_path / "home" / name
    monkeypatch.delenv("KERAS_HOME")
    for name_of_home in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name_of_home, str(tmp_path))
    assert sample_path() == tmp_path / ".keras" / name
    assert open_source("sample").location == tmp_path / ".keras" / name


@pytest.mark.usefixtures("small")
def test_sample_path_if_the_cache_cannot_be_written(tmp_path, monkeypatch):
    # A file at the folder's path stops even the superuser.
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sample.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    expected = tmp_path / "tmp" / ".keras" / "keras_tinyalex" / "sample-v1-seed0"
    assert sample_path(tmp_path / "file") == expected
    assert sample_path(tmp_path / "file") == expected


@pytest.mark.parametrize("standardized", [False, True])
def test_linear_classifier_stays_below_half(full_set, standardized):
    (x, y), (x_val, y_val) = read_arrays(full_set)
    x, x_val = (part.reshape(len(part), -1) / np.float32(255) for part in (x, x_val))
    mean, deviation = x.mean(axis=0), x.std(axis=0) if standardized else 1.0
    x, x_val = (x - mean) / deviation, (x_val - mean) / deviation
    # Ridge regression to the 20 classes. With more pixels than images its weights
    # are x.T @ (x @ x.T + penalty)^-1 @ target: 2,000 equations.
    products, val_products = x @ x.T, x_val @ x.T
    target = np.eye(20, dtype="float32")[y] - 1 / 20
    fitted, accuracies = [], []
    for strength in (0.001, 0.01, 0.1, 1.0):
        penalty = strength * np.trace(products) / 20
        solution = np.linalg.solve(products + penalty * np.eye(len(x)), target)
        fitted.append(np.mean((products @ solution).argmax(axis=1) == y))
        accuracies.append(np.mean((val_products @ solution).argmax(axis=1) == y_val))
    # It memorizes the training images, so it is the data that are hard.
    assert fitted[0] > 0.99
    assert 0.15 < max(accuracies) < 0.45


@pytest.mark.slow
def test_baseline_passes_eighty_percent(tmp_path):
    import keras_tinyalex

    run = keras_tinyalex.train("baseline", "sample", output=tmp_path / "run")
    assert run.metrics["val_accuracy"] > 0.80


def test_nothing_of_it_is_left_out(small, tmp_path):
    source = open_source(make_sample(tmp_path / "set"))
    assert source.report_left_out() == []
