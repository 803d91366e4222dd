"""The layout follows from where the images lie; what is left out is said."""

import unicodedata
import zipfile

import pytest
from PIL import Image

from keras_tinyalex.datasets import source as sources
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.tiny_imagenet import load_data, load_dataset


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(sources, "_said", set())


def write(root, *names):
    """Writes an image, or an empty file, at each of these paths."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".jpg", ".JPEG", ".png"):
            Image.new("RGB", (8, 8)).save(path)
        else:
            path.write_bytes(b"")


def found(root):
    """Returns `class: number` for each split, as a string."""
    source = open_source(root)
    splits = {}
    for split, images in source.images.items():
        names = [image.class_name for image in images]
        splits[split] = " ".join(f"{n}:{names.count(n)}" for n in sorted(set(names)))
    return splits


def left_out(root):
    return {item.reason: item.names for item in open_source(root).left_out}


TRAIN = [f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(2)]


@pytest.mark.parametrize("train", ["train", "Train", "training", "train_images"])
@pytest.mark.parametrize("val", ["val", "VAL", "valid", "validation", "dev", "test"])
def test_splits_by_other_names(tmp_path, train, val):
    write(tmp_path, *(f"{train}/{name}" for name in TRAIN), f"{val}/cat/9.jpg")
    assert found(tmp_path) == {"train": "cat:2 dog:2", "val": "cat:1"}
    reason = "classes from val, which has no image of them"
    assert left_out(tmp_path) == {reason: ("dog",)}


def test_test_images_beside_val_are_left_out(tmp_path):
    names = [f"{split}/{name}" for split in ("train", "val", "test") for name in TRAIN]
    write(tmp_path, *names)
    assert found(tmp_path) == {"train": "cat:2 dog:2", "val": "cat:2 dog:2"}
    assert left_out(tmp_path) == {
        "images in test/": tuple(f"test/{name}" for name in TRAIN)
    }


def test_two_folders_of_one_split(tmp_path):
    write(tmp_path, *(f"train/{n}" for n in TRAIN), "val/cat/1.jpg", "valid/cat/1.jpg")
    with pytest.raises(
        ValueError, match="one folder of val images, but it has val/, v"
    ):
        open_source(tmp_path)


def test_a_split_without_an_image_is_left_out(tmp_path):
    write(tmp_path, *(f"train/{name}" for name in TRAIN), "dev/cat/1.tif", "val/x.txt")
    assert found(tmp_path) == {"train": "cat:2 dog:2"}
    assert left_out(tmp_path)["splits without an image"] == ("dev/", "val/")
    write(tmp_path, "val/dog/1.jpg")
    assert found(tmp_path) == {"train": "cat:2 dog:2", "val": "dog:1"}


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    write(tmp_path, "car/1.jpg", "plane/1.jpg", "train/1.jpg")
    assert found(tmp_path) == {"train": "car:1 plane:1 train:1"}


def test_splits_without_class_folders_are_no_classes(tmp_path):
    write(tmp_path, "training/cat.1.jpg", "testing/1.jpg")
    with pytest.raises(ValueError, match="its images lie in no class folder"):
        open_source(tmp_path)


@pytest.mark.parametrize("folder", ["val", "val/images"])
def test_sorted_val_with_the_annotations_left_there(official_folder, folder):
    """What most scripts for Tiny ImageNet produce."""
    expected = found(official_folder)
    annotations = official_folder / "val" / "val_annotations.txt"
    for line in annotations.read_text().splitlines():
        name, wnid, *_ = line.split("\t")
        target = official_folder / folder / wnid
        target.mkdir(exist_ok=True)
        (official_folder / "val" / "images" / name).rename(target / name)
    if folder == "val":
        (official_folder / "val" / "images").rmdir()
    assert found(official_folder) == expected
    assert left_out(official_folder) == {}


def test_half_sorted_val(official_folder):
    expected = found(official_folder)
    (official_folder / "val" / "n01443537").mkdir()
    image = official_folder / "val" / "images" / "val_0.JPEG"
    image.rename(official_folder / "val" / "n01443537" / "val_0.JPEG")
    assert found(official_folder) == expected


def test_unlabelled_val_images_are_refused(tmp_path):
    write(tmp_path, *(f"train/{name}" for name in TRAIN), "val/1.jpg")
    with pytest.raises(ValueError, match=r"images in val/ but no val/val_annotations"):
        open_source(tmp_path)


@pytest.mark.parametrize("split", ["", "train/"])
def test_the_data_set_inside_other_folders(tmp_path, split):
    write(tmp_path, *(f"a/b/{split}{name}" for name in TRAIN), "a/words.txt", "x.png")
    assert found(tmp_path) == {"train": "cat:2 dog:2"}
    reason = "images in no class folder, or deeper than one"
    assert left_out(tmp_path) == {reason: ("x.png",)}


def test_two_data_sets_are_refused(tmp_path):
    write(tmp_path, *(f"{s}/train/{name}" for s in "ab" for name in TRAIN))
    with pytest.raises(ValueError, match="one data set, but it holds 2: a/, b/"):
        open_source(tmp_path)


def test_class_folders_on_two_levels_are_refused(tmp_path):
    write(tmp_path, *(f"{s}/{name}" for s in ("pets", "cars") for name in TRAIN))
    with pytest.raises(
        ValueError, match="in one folder, but they lie in 2: cars/, pet"
    ):
        open_source(tmp_path)


def test_a_class_folder_itself_is_refused(tmp_path):
    write(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(ValueError, match=r"no class folder.* or pass the folder above"):
        open_source(tmp_path)


def test_what_systems_and_commands_leave_behind_is_no_class(tmp_path):
    write(tmp_path, *TRAIN)
    systems = ("__MACOSX", "@eaDir", "lost+found", ".git", "$RECYCLE.BIN")
    write(tmp_path, *(f"{name}/x.jpg" for name in systems), "cat/Thumbs.db")
    write(tmp_path, *(f"runs/one/{name}.json" for name in ("config", "environment")))
    write(tmp_path, "runs/one/plots/samples.png", "logs/1.log")
    write(tmp_path, "plots/calibration.png", "plots/per_class.csv")
    source = open_source(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.select(None) == ("cat", "dog")
    assert left_out(tmp_path) == {
        "folders that keras-tinyalex wrote": ("plots/", "runs/one/"),
        "folders without an image": ("logs/",),
    }


def test_figures_are_known_by_their_names():
    """`FIGURES` are what `train` and `evaluate` draw."""
    import inspect
    import re

    from keras_tinyalex.cli import models
    from keras_tinyalex.datasets.known_files import FIGURES
    from keras_tinyalex.visualization import summary

    source = inspect.getsource(summary) + inspect.getsource(models)
    names = re.findall(r'"(\w+)": (?:visualization\.)?plot_', source)
    assert {f"{name}.png" for name in names} == FIGURES


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["fox/1.tif", "fox/2.tif"], r"no image in fox, but other files \(2 \.tif\)"),
        (["fox/photo"], r"no image in fox, but other files \(1 no suffix\)"),
        (["fox/2024/1.jpg"], "no image in fox/, but in fox/2024/"),
    ],
)
def test_a_class_without_an_image_is_refused(tmp_path, names, problem):
    write(tmp_path, *TRAIN, *names)
    source = open_source(tmp_path)
    assert source.select(["cat", "dog"]) == ("cat", "dog")
    with pytest.raises(ValueError, match=problem):
        source.select(None)


def test_a_class_that_is_a_link_to_nothing(tmp_path):
    write(tmp_path, *TRAIN)
    (tmp_path / "cow").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match="1 problem: cow is a link to nothing"):
        load_data(tmp_path)


def test_other_files_are_said_once(tmp_path, capsys):
    write(tmp_path, *TRAIN, "cat/1.tif", "cat/2.psd", "cat/photo", "cat/sub/3.jpg")
    write(tmp_path, "cat/cat_boxes.txt", "words.txt", "cat/2.mov", "notes.txt")
    load_data(tmp_path)
    load_dataset(tmp_path)
    assert capsys.readouterr().err == (
        "left out: images in no class folder, or deeper than one (1): cat/sub/3.jpg\n"
        "left out: files that are not JPEG, PNG, BMP, GIF, WebP, AVIF or HEIC images, "
        ".tif 1, .mov 1, .psd 1, no suffix 1, .txt 1 (5): cat/1.tif, cat/2.mov, "
        "cat/2.psd, ...\n"
        "held out: 10% of the training images of each class\n"
    )


def test_all_suffixes_of_the_formats_are_read(tmp_path):
    suffixes = ("jpg", "JPG", "jpeg", "jfif", "jpe", "png", "bmp", "gif", "webp")
    for suffix in (*suffixes, "avif", "heic", "HEIC", "heif", "hif"):
        write(tmp_path, "cat/0.jpg")
        (tmp_path / "cat" / "0.jpg").rename(tmp_path / "cat" / f"picture.{suffix}")
    assert found(tmp_path) == {"train": "cat:14"}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_one_name_written_in_two_ways_is_one_class(tmp_path, form):
    composed = unicodedata.normalize("NFC", "café")
    decomposed = unicodedata.normalize("NFD", "café")
    write(tmp_path, f"train/{composed}/1.jpg", f"train/{decomposed}/2.jpg")
    write(tmp_path, f"val/{decomposed}/3.jpg")
    assert found(tmp_path) == {"train": f"{composed}:2", "val": f"{composed}:1"}
    name = unicodedata.normalize(form, "CAFÉ")
    assert open_source(tmp_path).select([name]) == (composed,)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        (
            "data/train-0.parquet",
            r"write the images in the \.parquet file to class fol",
        ),
        ("images.npz", r"write the images in the \.npz file to class fold"),
        ("tiny-imagenet-200.zip", r"extract the \.zip file and pass the folder"),
        ("cat/1.tiff", r"save the \.tiff files as PNG or JPEG"),
    ],
)
def test_data_sets_of_other_kinds_are_refused_with_a_way(tmp_path, name, cure):
    write(tmp_path / "folder", name)
    with pytest.raises(ValueError, match=cure):
        open_source(tmp_path / "folder")
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as nested:
        nested.writestr(f"inner/{name}", b"")
    with pytest.raises(ValueError, match=cure):
        open_source(archive)


@pytest.mark.parametrize("suffix", ["parquet", "npz", "tar", "7z"])
def test_files_of_other_kinds_are_refused_with_a_way(tmp_path, suffix):
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=rf"must be a folder.*\.{suffix} file"):
        open_source(path)
