"""Fixtures of the tests of `datasets`."""

import pytest
from restructure_helpers import make_source

from keras_tinyalex.datasets import download


@pytest.fixture
def source(tmp_path):
    """An official folder of two classes, from `restructure_helpers.make_source`."""
    return make_source(tmp_path / "source")


@pytest.fixture
def target(tmp_path):
    """Path of a folder that does not exist."""
    return tmp_path / "target"


@pytest.fixture
def fast_and_direct(monkeypatch):
    """Downloads without pauses between attempts, and without a proxy."""
    monkeypatch.setattr(download, "RETRY_PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "*")
