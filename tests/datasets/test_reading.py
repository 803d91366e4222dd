"""Reading images: bad ones are named, and Keras is not needed to check them."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_tinyalex.datasets import tiny_imagenet
from keras_tinyalex.datasets.reading import (
    find_image_files,
    read_image_files,
    verify,
)

pytestmark = pytest.mark.backend
WNIDS = ("n01443537", "n01629819", "n01641577")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "the file is empty"),
        (lambda data: b"hello, world", "not a JPEG, PNG"),
        (lambda data: data[: len(data) // 2], "damaged image"),
        (lambda data: data[:10], "not a JPEG|damaged"),
    ],
)
def test_error_names_bad_images(official_folder, damage, message):
    path = official_folder / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_3.JPEG"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="1 of 24 train images") as error:
        tiny_imagenet.load_data(official_folder)
    assert error.match(message)
    assert error.match(f"{WNIDS[1]}_3.JPEG")


def test_verify(official_folder):
    folder = official_folder / "train" / WNIDS[0] / "images"
    (folder / f"{WNIDS[0]}_0.JPEG").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(folder / f"{WNIDS[0]}_1.JPEG", "GIF")
    found = verify(official_folder)
    assert found.images == {"train": 24, "val": 6}
    assert found.class_names == WNIDS
    assert found.bad == [(str(folder / f"{WNIDS[0]}_0.JPEG"), "the file is empty")]
    assert found.misnamed == [(str(folder / f"{WNIDS[0]}_1.JPEG"), "GIF")]
    assert (found.problems, found.left_out) == ([], [])


def test_verify_and_loading_judge_alike(official_folder, capsys):
    """What an image is named, and what follows it, is no damage."""
    folder = official_folder / "train" / WNIDS[0] / "images"
    first, second, third = (folder / f"{WNIDS[0]}_{i}.JPEG" for i in range(3))
    Image.new("RGB", (64, 64), (9, 9, 9)).save(first, "PNG")
    Image.new("RGB", (64, 64), (9, 9, 9)).save(second, "WEBP", lossless=True)
    third.write_bytes(third.read_bytes() + b"video\xff\xda\x00\x08" + bytes(50))
    assert verify(official_folder).bad == []
    (x_train, _), _ = tiny_imagenet.load_data(official_folder)
    assert (x_train[:2] == 9).all()
    assert (
        "read as what they hold, not as their suffix says (2): "
        f"train/{WNIDS[0]}/images/{first.name} (PNG), "
    ) in capsys.readouterr().err
    third.write_bytes(third.read_bytes()[:900])
    ((file, problem),) = verify(official_folder).bad
    assert file == str(third)
    with pytest.raises(ValueError, match="1 of 24 train images") as refusal:
        tiny_imagenet.load_data(official_folder)
    assert problem in str(refusal.value)


def test_verify_names_one_class_and_classes_without_images(official_folder):
    train = official_folder / "train"
    (train / "n01644900").mkdir()
    found = verify(train)
    assert found.problems == ["no image in n01644900"]
    for wnid in WNIDS[1:]:
        shutil.rmtree(train / wnid)
    (train / "n01644900").rmdir()
    (problem,) = verify(train).problems
    assert problem.startswith("only one class folder has images, 'n01443537': pass")


def test_verify_names_classes_of_one_image(official_folder):
    """Which `train` refuses where it has to hold one out."""
    train = official_folder / "train"
    for number in range(1, 8):
        (train / WNIDS[1] / "images" / f"{WNIDS[1]}_{number}.JPEG").unlink()
    assert verify(official_folder).problems == []
    (problem,) = verify(train).problems
    assert problem.startswith("only one image of 'n01629819', and no val images: ")
    with pytest.raises(ValueError, match="Received: 1 of 'n01629819'"):
        tiny_imagenet.load_data(train)


def test_files_folders_and_what_is_neither(official_folder, tmp_path):
    write = tmp_path / "photos" / "deep"
    write.mkdir(parents=True)
    Image.new("L", (30, 20), 7).save(write / "b.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "photos" / "a.jfif", "JPEG")
    (tmp_path / "photos" / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_bytes(b"text")
    address = "https://example.com/cat.jpg"
    paths = [str(tmp_path / name) for name in ("photos", "empty", "bad.jpg", "none")]
    files = find_image_files([*paths, address])
    assert [file.removeprefix(f"{tmp_path}/") for file in files] == [
        *("photos/a.jfif", "photos/deep/b.png"),
        *("empty", "bad.jpg", "none", address),
    ]
    read = read_image_files(files, (4, 6), channels=1)
    assert [pixels.shape for pixels in read[:2]] == [(4, 6, 1)] * 2
    assert np.unique(read[1]).tolist() == [7]
    assert [str(error).removeprefix(f"{tmp_path}/") for error in read[2:]] == [
        "empty: this folder has no image files",
        "bad.jpg: not a JPEG, PNG, BMP, GIF, WebP, AVIF or HEIC image",
        "none: No such file or directory",
        f"{address}: not a file but an address: download the image first",
    ]


def test_keras_is_loaded_for_batches_only(official_folder, tmp_path):
    code = f"""
import sys
from keras_tinyalex.datasets import (
    annotations, cache, classes, download, extract, images, known_files, layout,
    manifest, paths, plan, publish, reading, restructure, sample, source,
    tiny_imagenet, trees,
)
assert tiny_imagenet.class_names(1) == ("n01443537",)
tiny_imagenet.restructure({str(official_folder)!r}, {str(tmp_path / "sorted")!r})
found = reading.verify({str(tmp_path / "sorted")!r})
assert (found.images, found.bad) == ({{"train": 24, "val": 6}}, [])
loaded = {{"keras", "tensorflow", "jax", "torch"}} & sys.modules.keys()
assert not loaded, loaded
tiny_imagenet.load_dataset({str(tmp_path / "sorted")!r})
assert "keras" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
