"""Restructuring 200 files: a kill at every change, full disks, two disks."""

import errno
import os
import shutil
import signal
import subprocess
import time

import pytest

from keras_tinyalex.datasets.restructure import MODES, restructure

pytestmark = pytest.mark.faults

WNIDS = ("n01443537", "n01629819", "n01641577", "n01644900")
FILES = 200


def make_source(root):
    """4 classes, each with 45 train and 5 val images of different bytes."""
    (root / "val/images").mkdir(parents=True)
    lines = []
    for label, wnid in enumerate(WNIDS):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for index in range(45):
            (folder / f"{wnid}_{index}.JPEG").write_bytes(b"%s %d" % (b"t" * 99, index))
        for index in range(5):
            name = f"val_{label * 5 + index}.JPEG"
            (root / "val/images" / name).write_bytes(b"%s %d" % (b"v" * 99, index))
            lines.append(f"{name}\t{wnid}\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    return root


def images(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.JPEG")
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    source = make_source(folder / "source")
    restructure(source, folder / "target", progress=False)
    result = images(folder / "target")
    assert len(result) == FILES
    return images(source), result


@pytest.mark.parametrize(
    ("mode", "torn"), [*((mode, False) for mode in MODES), ("copy", True)]
)
def test_kills_at_every_change(
    tmp_path, kill_at_every_change, expected, figure, mode, torn
):
    sources, result = expected

    def check(place, finished):
        source, target = images(place / "source"), place / "target"
        if target.exists():  # then it is complete
            assert images(target) == result
        if mode != "move":
            assert source == sources
        elif not finished:
            # All images are in the source, or all in the target.
            there = images(target) if target.exists() else {}
            assert len(source) == FILES or len(there) == FILES
        if finished:
            assert {path.name for path in place.iterdir()} == {"source", "target"}
            names = {path.name for path in target.iterdir()}
            assert names == {"manifest.json", "train_images", "val_images"}
            assert images(target) == result
            assert mode != "move" or not source

    kills = kill_at_every_change(
        tmp_path,
        lambda place: make_source(place / "source"),
        lambda place: restructure(
            place / "source", place / "target", mode=mode, progress=False
        ),
        check,
        torn=torn,
    )
    assert kills > FILES * (2 if mode == "move" else 1)
    figure(
        "restructure",
        f"SIGKILL at every change, {mode}{', files half written' * torn}",
        f"{kills} of {kills} kills survived; {FILES} files: 0 lost, 0 doubled",
    )


def test_second_run_writes_nothing(tmp_path, changes_of, figure):
    source = make_source(tmp_path / "source")
    for mode in MODES:
        target = tmp_path / mode
        from_source = shutil.copytree(source, tmp_path / f"{mode}-source")

        def run(from_source=from_source, target=target, mode=mode):
            restructure(from_source, target, mode=mode, progress=False)

        assert changes_of(run, tmp_path) > FILES  # the first run is counted
        log = tmp_path / "changes.log"
        log.unlink()
        assert changes_of(run, target) == 0
        log.unlink()
    figure("restructure", "second run, each of 4 modes", "0 writes")


@pytest.mark.parametrize("mode", ["copy", "symlink", "move"])
def test_another_disk(tmp_path, disk, expected, figure, mode):
    source, target = make_source(tmp_path / "source"), disk(4_000) / "target"
    restructure(source, target, mode=mode, progress=False)
    assert images(target) == expected[1]
    assert images(source) == ({} if mode == "move" else expected[0])
    figure("restructure", f"{mode} to another disk", f"{FILES} files, 0 lost")


def test_hard_links_to_another_disk(tmp_path, disk, expected, figure):
    source, place = make_source(tmp_path / "source"), disk(4_000)
    with pytest.raises(ValueError, match="on different file systems"):
        restructure(source, place / "target", mode="hardlink", progress=False)
    assert list(place.iterdir()) == []
    assert images(source) == expected[0]
    figure("restructure", "hard links to another disk", "refused before a write")


@pytest.mark.parametrize("mode", MODES)
def test_a_disk_that_cannot_be_written(tmp_path, disk, expected, figure, mode):
    source, place = make_source(tmp_path / "source"), disk(4_000)
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    refusal = ValueError if mode == "hardlink" else OSError
    with pytest.raises(refusal, match=r"Read-only file system|different file systems"):
        restructure(source, place / "target", mode=mode, progress=False)
    assert images(source) == expected[0]
    figure("restructure", f"read-only disk, {mode}", "refused, 0 lost")


def test_result_on_a_disk_that_became_read_only(tmp_path, disk):
    """Nothing has to be written, so no lock is needed."""
    source, place = make_source(tmp_path / "source"), disk(4_000)
    restructure(source, place / "target", progress=False)
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    assert restructure(source, place / "target", progress=False).written == 0


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_a_full_disk(tmp_path, disk, expected, figure, mode):
    source, place = make_source(tmp_path / "source"), disk(2_000)
    filler = place / "filler"
    filler.write_bytes(b"x" * 1_500_000)
    with pytest.raises(OSError, match="is too full: 1 MB are needed, 1 MB are free"):
        restructure(source, place / "target", mode=mode, progress=False)
    assert list(place.iterdir()) == [filler]
    assert images(source) == expected[0]
    filler.unlink()
    restructure(source, place / "target", mode=mode, progress=False)
    assert images(place / "target") == expected[1]
    figure("restructure", f"disk full, {mode}", "refused before a write; 0 lost")


def test_a_disk_that_becomes_full(tmp_path, disk, expected, monkeypatch, figure):
    source, place = make_source(tmp_path / "source"), disk(2_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: os.terminal_size)
    monkeypatch.setattr(os.terminal_size, "free", 1 << 30, raising=False)
    (place / "filler").write_bytes(b"x" * 1_500_000)
    with pytest.raises(OSError, match=r"train_images/n\d+.*JPEG: No space") as full:
        restructure(source, place / "target", progress=False)
    assert full.value.errno == errno.ENOSPC
    assert [path.name for path in place.iterdir()] == ["filler"]
    (place / "filler").unlink()
    restructure(source, place / "target", progress=False)
    assert images(place / "target") == expected[1]
    figure("restructure", "disk full in the middle", "nothing left; then repeated")


def test_two_at_once(tmp_path, forked, expected, figure, wait_for):
    """The second is refused while the first one writes."""
    source = make_source(tmp_path / "source")
    target = tmp_path / "target"
    pid = os.fork()
    if not pid:
        from keras_tinyalex.datasets import publish

        write = publish._write_file
        publish._write_file = lambda *rest: (time.sleep(0.05), write(*rest))
        restructure(source, target, progress=False)
        os._exit(0)
    wait_for((tmp_path / "target.partial").exists)
    with pytest.raises(OSError, match="`destination` is in use: another process"):
        restructure(source, target, progress=False)
    # A killed writer leaves its lock file, which does not lock.
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (tmp_path / ".target.lock").exists()
    restructure(source, target, progress=False)
    assert images(target) == expected[1]
    assert not (tmp_path / ".target.lock").exists()
    figure("restructure", "two processes at once", "the second is refused")
