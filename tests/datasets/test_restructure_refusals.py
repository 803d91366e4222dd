"""What `restructure` refuses, and what it replaces."""

import errno
import os
import shutil
import zipfile

import pytest
from restructure_helpers import (
    GOLDFISH,
    SIZES,
    contents,
    images,
    make_source,
    no_link,
    quiet,
    sizes,
)

from keras_tinyalex.datasets import publish


def test_overwrite_replaces_an_earlier_result(source, target):
    quiet(source, target, classes=1)
    with pytest.raises(ValueError, match=r"has 1 classes, not those.*--overwrite"):
        quiet(source, target)
    assert quiet(source, target, overwrite=True).written == 6
    assert sizes(target) == SIZES
    assert {path.name for path in target.parent.iterdir()} == {"source", "target"}


def test_the_difference_is_reported(source, target, tmp_path):
    quiet(source, target)
    other = make_source(tmp_path / "other")
    with pytest.raises(ValueError, match=r"it was made from source='.*/source'"):
        quiet(other, target)
    with pytest.raises(ValueError, match="it was made with mode='copy'"):
        quiet(source, target, mode="hardlink")
    first = target / f"train_images/{GOLDFISH}/{GOLDFISH}_0.JPEG"
    first.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"_0.JPEG has 1 bytes instead of 10"):
        quiet(source, target)
    first.unlink()
    with pytest.raises(ValueError, match=r"_0.JPEG is missing"):
        quiet(source, target)
    first.write_bytes(b"0" * 10)
    assert quiet(source, target).written == 0
    (first.parent / "extra.JPEG").write_bytes(b"")
    with pytest.raises(ValueError, match=r"extra.JPEG is not in its manifest.json"):
        quiet(source, target)
    (first.parent / "extra.JPEG").unlink()
    (source / "val/images/val_0.JPEG").write_bytes(b"longer than before")
    with pytest.raises(ValueError, match="the source's files have changed"):
        quiet(source, target)


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folders_are_never_replaced(source, target, overwrite):
    target.mkdir()
    (target / "thesis.tex").write_text("mine")
    for manifest in ("", "{", "[1]", '{"format": "something else"}'):
        (target / "manifest.json").write_text(manifest)
        with pytest.raises(
            ValueError, match="This folder holds other files, which are never replaced"
        ):
            quiet(source, target, overwrite=overwrite)
    assert (target / "thesis.tex").read_text() == "mine"


def test_a_partial_folder_of_something_else_is_not_touched(source, target):
    partial = target.with_name("target.partial")
    partial.mkdir()
    (partial / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"target.partial is in the way"):
        quiet(source, target)
    assert (partial / "thesis.tex").read_text() == "mine"


def test_moved_images_are_never_replaced(source, target, tmp_path):
    quiet(source, target, mode="move")
    other = make_source(tmp_path / "other")
    with pytest.raises(ValueError, match="the only copy of them is in the destination"):
        quiet(other, target, overwrite=True)
    assert sizes(target) == SIZES


def test_refused_arguments(source, target, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"`mode` must be one of .*mode='link'"):
        quiet(source, target, mode="link")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        quiet(tmp_path / "nowhere", target)
    with pytest.raises(ValueError, match="'tench', which is not one of the 2"):
        quiet(source, target, classes=["tench"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder, not a file"):
        quiet(source, tmp_path / "file")
    with pytest.raises(
        ValueError, match=r"neither the root .* Received: destination='/'"
    ):
        quiet(source, "/")
    target.mkdir()
    monkeypatch.chdir(target)
    with pytest.raises(ValueError, match="nor the current folder"):
        quiet(source, ".")
    assert list(target.iterdir()) == []


def test_source_and_destination_must_not_overlap(source, target):
    inside = "`destination` must be outside of the source"
    before = contents(source)
    with pytest.raises(ValueError, match=inside):
        quiet(source, source / "result")
    quiet(source, target)
    with pytest.raises(ValueError, match=inside):
        quiet(target, target, overwrite=True)
    with pytest.raises(ValueError, match=inside):
        quiet(target / "train_images", target, overwrite=True)
    # The folder that would be written first is the source.
    target.rename(target.with_name("new.partial"))
    with pytest.raises(ValueError, match=inside):
        quiet(target.with_name("new.partial"), target.with_name("new"))
    assert sizes(target.with_name("new.partial")) == SIZES
    assert contents(source) == before


def test_two_images_with_the_same_path_are_refused(source, target):
    images_folder = source / f"train/{GOLDFISH}/images"
    shutil.copy(images_folder / f"{GOLDFISH}_0.JPEG", images_folder.parent)
    with pytest.raises(ValueError, match=f"would become train_images/{GOLDFISH}"):
        quiet(source, target)
    assert not target.exists()


@pytest.mark.parametrize("name", ["..", "."])
def test_names_that_lead_out_of_the_folder_are_refused(source, target, name):
    path = source.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in source.rglob("*"):
            archive.write(file, file.relative_to(source.parent))
        archive.writestr(f"source/train/{name}/x.JPEG", b"")
    with pytest.raises(ValueError, match=r"x\.JPEG, is not the plain name of a class"):
        quiet(path, target)
    assert not target.exists()


def test_hardlink_across_file_systems(source, target, monkeypatch):
    real_stat = os.stat

    class OtherDevice:
        def __init__(self, status):
            self.st_size, self.st_dev = status.st_size, status.st_dev + 1

    def stat(path, **options):
        status = real_stat(path, **options)
        return OtherDevice(status) if str(path).endswith(".JPEG") else status

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        with pytest.raises(ValueError, match=r"on different file systems.*'hardlink'"):
            quiet(source, target, mode="hardlink")
    assert not target.exists()


def test_if_links_are_not_possible(source, target, monkeypatch):
    monkeypatch.setattr(os, "link", no_link)
    before = contents(source)
    with pytest.raises(OSError, match=r"Cannot make a hard link.*Use mode='copy'"):
        quiet(source, target, mode="hardlink")
    assert contents(source) == before
    assert [path.name for path in target.parent.iterdir()] == ["source"]
    # A move copies, compares and then deletes.
    assert quiet(source, target, mode="move").written == 6
    assert sizes(target) == SIZES
    assert images(source) == {}


def test_a_full_disk_is_reported_first(source, target, monkeypatch):
    class Usage:
        free = 6 * 4096 - 1  # one block for each of six small files

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(OSError, match=r"too full.*mode='hardlink'"):
        quiet(source, target)
    assert not target.exists()
    assert quiet(source, target, mode="hardlink").written == 6


def test_a_failed_write_leaves_nothing(source, target, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publish, "_write_file", full)
    with pytest.raises(OSError, match="No space left"):
        quiet(source, target)
    assert [path.name for path in target.parent.iterdir()] == ["source"]
