"""Shared fixtures: small data sets in every layout, and the real images."""

import os
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
from PIL import Image

WNIDS = ("n01443537", "n01629819", "n01641577")
WORDS = ("goldfish, Carassius auratus", "European fire salamander", "bullfrog")
CLASSES = dict(zip(WNIDS, WORDS, strict=True))
COLOURS = ((250, 5, 5), (5, 250, 5), (5, 5, 250))


def pytest_addoption(parser):
    parser.addoption("--faults-json", help="file for the figures of -m faults")


@pytest.fixture(autouse=True, scope="session")
def _own_keras_home(tmp_path_factory):
    """Keeps the sample data set out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras_home")))
        yield


@pytest.fixture(scope="session")
def make_official_folder():
    """The function that `official_folder` calls, for fixtures of wider scope."""
    return write_official_folder


@pytest.fixture(scope="session")
def make_official_zip():
    """The function that makes such a folder the archive that people download."""
    return zip_folder


@pytest.fixture
def official_folder(tmp_path):
    """Three classes of one colour each, 8 train and 2 val images a class."""
    return write_official_folder(tmp_path / "tiny-imagenet-200")


@pytest.fixture
def official_zip(official_folder):
    """The official folder as the zip file that people download."""
    return zip_folder(official_folder)


@pytest.fixture(scope="session")
def real_zip():
    """20 classes of the real Tiny ImageNet, where somebody has put them."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "tiny-imagenet-20.zip"
    path = Path(os.environ.get("TINY_IMAGENET_20", beside))
    if not path.exists():
        pytest.skip("no real images: set TINY_IMAGENET_20 to tiny-imagenet-20.zip")
    return path


def zip_folder(folder):
    """Zips a folder as the official archive is: its name is part of each path."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def write_official_folder(root, train=8, val=2, classes=CLASSES):
    generator = np.random.default_rng(0)
    annotations = []
    for label, wnid in enumerate(classes):
        colour = COLOURS[label % len(COLOURS)]
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for index in range(train):
            save_picture(folder / f"{wnid}_{index}.JPEG", colour, generator)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
        (root / "val" / "images").mkdir(parents=True, exist_ok=True)
        for index in range(val):
            # Files of the classes alternate, as in the official archive.
            name = f"val_{index * len(classes) + label}.JPEG"
            save_picture(root / "val" / "images" / name, colour, generator)
            annotations.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(annotations))
    (root / "wnids.txt").write_text("\n".join(reversed(classes)) + "\n")
    lines = [f"{wnid}\t{text}\n" for wnid, text in classes.items()]
    (root / "words.txt").write_text("".join(lines))
    return root


def save_picture(path, colour, generator):
    pixels = np.clip(np.array(colour) + generator.integers(-5, 6, (64, 64, 3)), 0, 255)
    Image.fromarray(pixels.astype("uint8")).save(path, "JPEG", quality=95)
