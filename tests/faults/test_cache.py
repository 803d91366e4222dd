"""The cache of decoded images: kills while it is written, and full disks."""

import os

import numpy as np
import pytest
from PIL import Image

from keras_tinyalex.datasets.cache import cache_folder
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.reading import read_split

pytestmark = pytest.mark.faults

IMAGES = 250  # decoded and written 100 at a time


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Returns a function that reads the same images, with a cache in a given folder."""
    generator = np.random.default_rng(0)
    (tmp_path / "images/class").mkdir(parents=True)
    for number in range(IMAGES):
        pixels = generator.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/class/{number}.JPEG")
    source = open_source(tmp_path / "images")
    monkeypatch.setenv("KERAS_HOME", "")  # restores it at the end

    def read(home=None):
        if home is not None:
            os.environ["KERAS_HOME"] = str(home)
        return read_split(source, "train", ["class"], cache=home is not None).images

    return read


@pytest.mark.parametrize("torn", [False, True])
def test_kills_at_every_change(tmp_path, kill_at_every_change, load, figure, torn):
    expected = load()

    def check(home, finished):
        os.environ["KERAS_HOME"] = str(home)
        entries = [path for path in cache_folder().glob("*.npy") if path.stem.isalnum()]
        assert len(entries) == 1 or not finished
        for entry in entries:
            assert (np.load(entry) == expected).all()

    kills = kill_at_every_change(
        tmp_path / "kills", lambda home: None, load, check, torn=torn
    )
    assert kills >= 3  # folder, file, name
    half = ", files half written" * torn
    result = f"{kills} of {kills} kills survived, 0 wrong pixels"
    figure("load", f"SIGKILL at every change of a first load{half}", result)


def test_a_disk_that_becomes_full(disk, load, figure):
    home = disk(2500)  # holds 200 of the 250
    images = load(home)
    assert not any(home.rglob("*.npy"))
    assert images.shape == (IMAGES, 64, 64, 3)
    assert (images == load()).all()
    assert not isinstance(images, np.memmap)
    figure("load", "the disk becomes full", "read without the cache, nothing left")
