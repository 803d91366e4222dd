"""Reading images: bad ones are named, and Keras is not needed to check them."""

import subprocess
import sys

import pytest
from PIL import Image

from keras_tinyalex.datasets import tiny_imagenet
from keras_tinyalex.datasets.reading import find_bad_images

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


def test_find_bad_images(official_folder):
    folder = official_folder / "train" / WNIDS[0] / "images"
    (folder / f"{WNIDS[0]}_0.JPEG").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(folder / f"{WNIDS[0]}_1.JPEG", "GIF")
    count, problems = find_bad_images(official_folder)
    assert count == 30
    assert [where.rsplit("_", 1)[1] for where, _ in problems] == ["0.JPEG", "1.JPEG"]
    assert "empty" in problems[0][1]
    assert "a GIF image with the suffix .jpeg" in problems[1][1]


def test_keras_is_loaded_for_batches_only(official_folder, tmp_path):
    code = f"""
import sys
from keras_tinyalex.datasets import (
    cache, classes, download, extract, images, layout, manifest, plan, publish,
    reading, restructure, sample, source, tiny_imagenet,
)
assert tiny_imagenet.class_names(1) == ("n01443537",)
tiny_imagenet.restructure({str(official_folder)!r}, {str(tmp_path / "sorted")!r})
count, problems = reading.find_bad_images({str(tmp_path / "sorted")!r})
assert (count, problems) == (30, [])
loaded = {{"keras", "tensorflow", "jax", "torch"}} & sys.modules.keys()
assert not loaded, loaded
tiny_imagenet.load_dataset({str(tmp_path / "sorted")!r})
assert "keras" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
