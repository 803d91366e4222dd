"""The images of a source in each layout, and the sources that are refused."""

import gc
import shutil
import zipfile

import pytest

from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.tiny_imagenet import restructure

WNIDS = ("n01443537", "n01629819", "n01641577")


def counts(source):
    return {split: len(images) for split, images in source.images.items()}


def test_official_folder(official_folder):
    source = open_source(official_folder)
    assert source.has_files
    assert source.class_names == WNIDS
    assert counts(source) == {"train": 24, "val": 6}
    # By the annotations, val_1 is of the second class.
    labels = {image.name: image.class_name for image in source.images["val"]}
    assert labels["val/images/val_1.JPEG"] == WNIDS[1]
    assert source.words[WNIDS[0]] == "goldfish, Carassius auratus"


def test_parent_folder_of_the_dataset(official_folder):
    (official_folder.parent / "notes.txt").write_text("")
    assert counts(open_source(official_folder.parent)) == {"train": 24, "val": 6}


def test_zip_has_the_images_of_the_folder(official_folder, official_zip):
    folder, archive = open_source(official_folder), open_source(official_zip)
    assert not archive.has_files
    assert archive.class_names == folder.class_names
    assert [i.class_name for i in archive.images["val"]] == [
        i.class_name for i in folder.images["val"]
    ]
    image = archive.images["train"][0]
    assert archive.read(image) == folder.read(folder.images["train"][0])
    assert archive.tree.describe(image.name).endswith(
        "tiny-imagenet-200.zip!tiny-imagenet-200/train/n01443537/images/"
        "n01443537_0.JPEG"
    )
    with pytest.raises(ValueError, match="inside a file have no path"):
        archive.path(image)


def test_restructured_folder(official_folder, tmp_path):
    restructure(official_folder, tmp_path / "sorted", progress=False)
    source = open_source(tmp_path / "sorted")
    assert counts(source) == {"train": 24, "val": 6}
    assert source.words[WNIDS[2]] == "bullfrog"


def test_folders_of_classes(official_folder, tmp_path):
    for label, name in enumerate(("röd fisk", "salamander 2")):
        source = official_folder / "train" / WNIDS[label] / "images"
        shutil.copytree(source, tmp_path / "own" / name)
    source = open_source(tmp_path / "own")
    assert source.class_names == ("röd fisk", "salamander 2")
    assert counts(source) == {"train": 16}
    shutil.copytree(tmp_path / "own", tmp_path / "both" / "train")
    shutil.copytree(tmp_path / "own", tmp_path / "both" / "val")
    assert counts(open_source(tmp_path / "both")) == {"train": 16, "val": 16}


def test_garbage_collection_resumes_afterwards(official_folder, tmp_path):
    open_source(official_folder)
    assert gc.isenabled()
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "none")
    assert gc.isenabled()
    gc.disable()
    try:
        open_source(official_folder)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_loop_of_links_ends(official_folder, tmp_path):
    images = official_folder / "train" / WNIDS[0] / "images"
    shutil.copytree(images, tmp_path / "own" / "fish")
    (tmp_path / "own" / "fish" / "loop").symlink_to(tmp_path / "own")
    assert counts(open_source(tmp_path / "own")) == {"train": 8}


def test_missing_path():
    with pytest.raises(FileNotFoundError, match="Received: source='no/such/folder'"):
        open_source("no/such/folder")


def test_the_classes_of_a_model(official_folder):
    source = open_source(official_folder)
    source.select_trained([WNIDS[2], WNIDS[0]], "data")
    with pytest.raises(ValueError) as error:  # noqa: PT011, its whole text follows
        source.select_trained([*WNIDS, "n99999999", "n88888888"], "data")
    assert str(error.value) == (
        "`data` must hold the 5 classes that the model was trained on; 2 are missing, "
        f"e.g. n88888888. Received: data={str(official_folder)!r}"
    )
    shutil.rmtree(official_folder / "train" / WNIDS[1])
    with pytest.raises(ValueError, match=f"'{WNIDS[1]}' has val images but no train"):
        open_source(official_folder).select_trained(WNIDS, "data")


def test_what_macos_adds_to_a_zip_is_skipped(official_zip):
    before = open_source(official_zip)
    with zipfile.ZipFile(official_zip, "a") as archive:
        first = before.images["train"][0].name
        hidden = first.replace(f"{WNIDS[0]}_0", f"._{WNIDS[0]}_0")
        for name in (f"__MACOSX/{hidden}", hidden, "tiny-imagenet-200/.DS_Store"):
            archive.writestr(name, b"Mac OS X")
    assert open_source(official_zip).images == before.images


def test_file_that_is_not_a_zip(tmp_path):
    path = tmp_path / "data.zip"
    path.write_text("<html>")
    with pytest.raises(ValueError, match="not a complete zip file"):
        open_source(path)


def test_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="no training image was found"):
        open_source(tmp_path)


def test_raw_val_folder(official_folder):
    with pytest.raises(ValueError, match=r"raw 'val' folder.*keras-tinyalex prepare"):
        open_source(official_folder / "val")


def test_val_without_annotations(official_folder):
    (official_folder / "val" / "val_annotations.txt").unlink()
    with pytest.raises(ValueError, match=r"no val/val_annotations\.txt"):
        open_source(official_folder)


def test_empty_class_folder(official_folder):
    (official_folder / "train" / "n01644900" / "images").mkdir(parents=True)
    source = open_source(official_folder)
    assert source.select(["goldfish"]) == WNIDS[:1]
    # It is a class, or the labels of the classes after it would shift.
    assert source.class_names == (*WNIDS, "n01644900")
    with pytest.raises(ValueError, match="1 problem: no image in train/n01644900"):
        source.select(None)


def test_every_wrong_annotation_is_listed(official_folder):
    path = official_folder / "val" / "val_annotations.txt"
    lines = path.read_text().splitlines()
    lines[0] = "val_0.JPEG"
    lines[1] = "val_99.JPEG\tn01629819"
    lines[2] = "../val_2.JPEG\tn01629819"
    lines[3] = lines[4]
    path.write_text("\r\n".join(lines))
    with pytest.raises(ValueError, match=r"val_annotations\.txt has") as refusal:
        open_source(official_folder)
    text = str(refusal.value)
    assert "line 1: not 'file<TAB>wnid" in text
    assert "line 2: 'val_99.JPEG' is not in val/images" in text
    assert "line 3: '../val_2.JPEG' is not a plain file name" in text
    assert "line 5: 'val_4.JPEG' is labelled twice" not in text.split("line 4")[0]
    assert "'val_0.JPEG' has no line" in text


def test_annotations_with_windows_line_ends(official_folder):
    path = official_folder / "val" / "val_annotations.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert counts(open_source(official_folder)) == {"train": 24, "val": 6}


def test_val_class_without_train_images(official_folder):
    shutil.rmtree(official_folder / "train" / WNIDS[1])
    source = open_source(official_folder)
    assert source.select([WNIDS[0], WNIDS[2]]) == (WNIDS[0], WNIDS[2])
    with pytest.raises(ValueError, match="'n01629819' has val images but no train"):
        source.select(None)


def test_real_archive(real_zip):
    source = open_source(real_zip)
    assert counts(source) == {"train": 10_000, "val": 1_000}
    assert len(source.class_names) == 20
    with zipfile.ZipFile(real_zip) as archive:
        wnids = archive.read("tiny-imagenet-200/wnids.txt").decode().split()
    assert list(source.class_names) == sorted(wnids) != wnids
