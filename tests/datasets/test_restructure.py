"""Restructuring: each mode, its result and its report."""

import hashlib
import json
import shutil
import time
import zipfile

import pytest
from restructure_helpers import (
    BULLFROG,
    GOLDFISH,
    SIZES,
    WNIDS,
    contents,
    images,
    quiet,
    sizes,
)

from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.plan import Move, plan_moves
from keras_tinyalex.datasets.publish import apply_moves
from keras_tinyalex.datasets.restructure import MODES, RestructureReport, restructure


@pytest.mark.parametrize("mode", MODES)
def test_each_mode(source, target, mode):
    before = contents(source)
    report = quiet(source, target, mode=mode)
    assert sizes(target) == SIZES
    assert sorted(images(target).values()) == sorted(
        data for name, data in before.items() if name.endswith(".JPEG")
    )
    assert (report.files, report.bytes, report.written) == (6, 75, 6)
    assert (report.mode, report.classes, report.dry_run) == (mode, WNIDS, False)
    first = target / f"train_images/{GOLDFISH}/{GOLDFISH}_0.JPEG"
    original = source / f"train/{GOLDFISH}/images/{GOLDFISH}_0.JPEG"
    if mode == "move":
        gone = {name for name in before if name.endswith(".JPEG")}
        left = {name: data for name, data in before.items() if name not in gone}
        assert contents(source) == left
    else:
        assert contents(source) == before
        assert first.samefile(original) == (mode in ("hardlink", "symlink"))
    assert first.is_symlink() == (mode == "symlink")
    if mode == "symlink":
        assert first.readlink() == original.resolve()
    assert {path.name for path in target.parent.iterdir()} == {"source", "target"}
    assert {path.name for path in target.iterdir()} == {
        "manifest.json",
        "train_images",
        "val_images",
    }


def test_manifest(source, target):
    quiet(source, target, classes=["bullfrog", GOLDFISH])
    manifest = json.loads((target / "manifest.json").read_text())
    files = manifest.pop("files")
    assert manifest == {
        "format": "keras_tinyalex restructured data set",
        "format_version": 1,
        "source": str(source),
        "mode": "copy",
        "classes": ["bullfrog", GOLDFISH],
        "class_names": [GOLDFISH, BULLFROG],
        "words": {GOLDFISH: "goldfish, Carassius auratus", BULLFROG: "bullfrog"},
    }
    assert files == [
        {
            "path": path,
            "size": size,
            "sha256": hashlib.sha256((target / path).read_bytes()).hexdigest(),
        }
        for path, size in SIZES.items()
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_second_run_writes_nothing(source, target, mode):
    quiet(source, target, mode=mode)

    def states():
        found = {path: path.lstat() for path in target.rglob("*")}
        return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in found.items()}

    before = states()
    report = quiet(source, target, mode=mode)
    assert (report.files, report.bytes, report.written) == (6, 75, 0)
    assert report.classes == WNIDS
    assert states() == before


@pytest.mark.parametrize("mode", MODES)
def test_a_dry_run_writes_nothing(source, target, mode):
    before = contents(source)
    report = quiet(source, target / "deep", mode=mode, dry_run=True)
    assert (report.files, report.bytes, report.written) == (6, 75, 0)
    assert report.dry_run is True
    assert contents(source) == before
    assert not target.exists()


def test_report_as_dict_is_json(target):
    report = RestructureReport(target, "copy", 6, 75, 0, WNIDS, 0.12345, True, [])
    assert json.loads(json.dumps(report.as_dict())) == {
        "destination": str(target),
        "mode": "copy",
        "files": 6,
        "bytes": 75,
        "written": 0,
        "classes": list(WNIDS),
        "seconds": 0.123,
        "dry_run": True,
        "left_out": [],
    }


def test_subset(source, target):
    report = quiet(source, target, classes=1)
    # 10 + 11 + 12 bytes
    assert (report.classes, report.files, report.bytes) == ((GOLDFISH,), 3, 33)
    assert sizes(target) == {k: v for k, v in SIZES.items() if GOLDFISH in k}


def test_the_result_is_a_source(source, target, tmp_path):
    quiet(source, target)
    again = open_source(target)
    assert again.class_names == WNIDS
    assert again.words[BULLFROG] == "bullfrog"
    report = quiet(target, tmp_path / "second", mode="hardlink")
    assert report.files == 6
    assert images(tmp_path / "second") == images(target)


def test_zip_source(source, target):
    path = source.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in source.rglob("*"):
            archive.write(file, file.relative_to(source.parent))
    assert quiet(path, target).written == 6
    assert sizes(target) == SIZES
    assert quiet(path, target).written == 0
    for mode in ("hardlink", "symlink", "move"):
        with pytest.raises(ValueError, match=f"inside a file.*Received: mode='{mode}'"):
            quiet(path, target.with_name("other"), mode=mode)


def test_folder_of_class_folders_has_no_val(source, target):
    quiet(source, target)
    folders = target.with_name("folders")
    shutil.copytree(target / "train_images", folders)
    report = quiet(folders, target.with_name("result"))
    assert report.files == 4
    assert not (target.with_name("result") / "val_images").exists()


def test_an_empty_destination_is_used(source, target):
    target.mkdir()
    assert quiet(source, str(target)).written == 6


def test_links_lead_to_files_not_to_links(source, tmp_path):
    # source -> linked (symbolic links) -> hard links and a move of these
    linked = tmp_path / "linked"
    quiet(source, linked, mode="symlink")
    original = source / "val/images/val_0.JPEG"
    for mode in ("hardlink", "symlink", "move"):
        quiet(linked, tmp_path / mode, mode=mode)
        path = tmp_path / mode / f"val_images/{GOLDFISH}/val_0.JPEG"
        assert path.is_symlink() == (mode == "symlink")
        assert path.samefile(original)
    link = tmp_path / f"symlink/val_images/{GOLDFISH}/val_0.JPEG"
    assert link.readlink() == original.resolve()
    # The move took the links away and left the files.
    assert images(linked) == {}
    assert len(images(source)) == 6


def test_plan_touches_no_file(source, target):
    found = open_source(source)
    before = contents(source)
    plan = plan_moves(found, target, classes=["bullfrog"])
    assert plan.class_names == (BULLFROG,)
    assert plan.words == {BULLFROG: "bullfrog"}
    assert [move.path for move in plan.moves] == [p for p in SIZES if BULLFROG in p]
    assert plan.moves[-1] == Move(found.images["val"][1], plan.moves[-1].path)
    assert contents(source) == before
    assert not target.exists()
    target.mkdir()
    files = apply_moves(plan, found, target, "copy", progress=False)
    assert {file["path"]: file["size"] for file in files} == sizes(target)


def test_real_images(real_zip, tmp_path, capfd):
    report = restructure(real_zip, tmp_path / "result")
    assert (report.files, len(report.classes)) == (11_000, 20)
    assert "copying: 11,000/11,000 files" in capfd.readouterr().err
    start = time.perf_counter()
    assert restructure(real_zip, tmp_path / "result").written == 0
    # Takes 0.3 s; 10 s would mean that every file is read again.
    assert time.perf_counter() - start < 10
