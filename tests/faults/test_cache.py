"""Decoded images on disk: kills while they are made, and a disk that becomes full."""

import os

import numpy as np
import pytest

from keras_tinyalex.datasets.cache import cache_folder
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.tiny_imagenet import read_split

pytestmark = pytest.mark.faults

IMAGES = 400  # of two classes: decoded and written 100 at a time


def load(home):
    os.environ["KERAS_HOME"] = str(home)
    source = open_source("sample")
    return read_split(source, "train", source.class_names[:2], cache=True).images


@pytest.fixture
def expected(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # restored in the end
    source = open_source("sample")
    return read_split(source, "train", source.class_names[:2]).images


@pytest.mark.parametrize("torn", [False, True])
def test_kills_at_every_change(tmp_path, kill_at_every_change, expected, figure, torn):
    def check(home, finished):
        os.environ["KERAS_HOME"] = str(home)
        entries = [path for path in cache_folder().glob("*.npy") if path.stem.isalnum()]
        assert len(entries) == finished or not finished
        for entry in entries:
            assert (np.load(entry) == expected).all()

    kills = kill_at_every_change(
        tmp_path / "kills", lambda home: None, load, check, torn=torn
    )
    assert kills >= 3  # folder, file, name
    half = ", files half written" * torn
    result = f"{kills} of {kills} kills survived, 0 wrong pixels"
    figure("load", f"SIGKILL at every change of a first load{half}", result)


def test_a_disk_that_becomes_full(disk, expected, figure):
    home = disk(2500)  # the first 200 of 400 images fit
    images = load(home)
    assert images.shape == (IMAGES, 64, 64, 3)
    assert (images == expected).all()
    assert not isinstance(images, np.memmap)
    assert not any(cache_folder().iterdir())
    figure("load", "the disk becomes full", "read all the same, nothing left")
