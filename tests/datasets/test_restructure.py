"""Restructuring: each mode, each refusal, and a kill at every step."""

import errno
import hashlib
import json
import os
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from keras_tinyalex.datasets import publish
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.plan import Move, plan_moves
from keras_tinyalex.datasets.publish import apply_moves
from keras_tinyalex.datasets.restructure import MODES, RestructureReport, restructure

GOLDFISH, BULLFROG = WNIDS = ("n01443537", "n01641577")


def make_source(root):
    """Two classes, each with 2 train images and 1 val image; no real JPEGs.

    The file of class c (0, 1) and number i (0, 1; 2 for val) holds 10 + 3c + i
    bytes: 10, 11, 12, 13, 14, 15, in all 75.
    """
    annotations = []
    (root / "val/images").mkdir(parents=True)
    for label, wnid in enumerate(WNIDS):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{wnid}_boxes.txt").write_text("")
        for index in range(2):
            content = b"%d" % label * (10 + 3 * label + index)
            (folder / f"{wnid}_{index}.JPEG").write_bytes(content)
        content = b"v" * (12 + 3 * label)
        (root / f"val/images/val_{label}.JPEG").write_bytes(content)
        annotations.append(f"val_{label}.JPEG\t{wnid}\t0\t0\t9\t9\n")
    (root / "val/val_annotations.txt").write_text("".join(annotations))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    words = f"{GOLDFISH}\tgoldfish, Carassius auratus\n{BULLFROG}\tbullfrog\n"
    (root / "words.txt").write_text(words)
    return root


SIZES = {
    f"train_images/{GOLDFISH}/{GOLDFISH}_0.JPEG": 10,
    f"train_images/{GOLDFISH}/{GOLDFISH}_1.JPEG": 11,
    f"train_images/{BULLFROG}/{BULLFROG}_0.JPEG": 13,
    f"train_images/{BULLFROG}/{BULLFROG}_1.JPEG": 14,
    f"val_images/{GOLDFISH}/val_0.JPEG": 12,
    f"val_images/{BULLFROG}/val_1.JPEG": 15,
}


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "source")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "target"


def contents(folder):
    """Contents of all files below `folder`, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def images(folder):
    found = contents(folder)
    return {name: data for name, data in found.items() if name.endswith(".JPEG")}


def sizes(folder):
    return {name: len(data) for name, data in images(folder).items()}


def quiet(*arguments, **options):
    return restructure(*arguments, progress=False, **options)


# ------------------------------------------------------------ the plain way


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
    report = RestructureReport(target, "copy", 6, 75, 0, WNIDS, 0.12345, True)
    assert json.loads(json.dumps(report.as_dict())) == {
        "destination": str(target),
        "mode": "copy",
        "files": 6,
        "bytes": 75,
        "written": 0,
        "classes": list(WNIDS),
        "seconds": 0.123,
        "dry_run": True,
    }


def test_subset(source, target):
    report = quiet(source, target, classes=1)
    # 10 + 11 + 12 bytes
    assert (report.classes, report.files, report.bytes) == ((GOLDFISH,), 3, 33)
    assert sizes(target) == {k: v for k, v in SIZES.items() if GOLDFISH in k}


def test_the_result_is_a_source_again(source, target, tmp_path):
    quiet(source, target)
    again = open_source(target)
    assert (again.kind, again.class_names) == ("restructured", WNIDS)
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
        with pytest.raises(ValueError, match=f"zip file.*Received: mode='{mode}'"):
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


# ---------------------------------------------------------------- overwrite


def test_overwrite_replaces_an_earlier_result(source, target):
    quiet(source, target, classes=1)
    with pytest.raises(ValueError, match=r"has 1 classes, not those.*--overwrite"):
        quiet(source, target)
    assert quiet(source, target, overwrite=True).written == 6
    assert sizes(target) == SIZES
    assert {path.name for path in target.parent.iterdir()} == {"source", "target"}


def test_what_differs_is_told(source, target, tmp_path):
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
        with pytest.raises(ValueError, match="holds other files and is left as it is"):
            quiet(source, target, overwrite=overwrite)
    assert (target / "thesis.tex").read_text() == "mine"


def test_a_partial_folder_that_is_not_ours_is_left_alone(source, target):
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


# ----------------------------------------------------------------- refusals


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


def test_source_and_destination_must_lie_apart(source, target):
    inside = "`destination` must lie outside of the source"
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


def test_two_images_of_one_name_are_refused(source, target):
    images_folder = source / f"train/{GOLDFISH}/images"
    shutil.copy(images_folder / f"{GOLDFISH}_0.JPEG", images_folder.parent)
    with pytest.raises(ValueError, match=f"would become train_images/{GOLDFISH}"):
        quiet(source, target)
    assert not target.exists()


@pytest.mark.parametrize("name", ["..", "a\\b"])
def test_names_that_lead_out_are_refused(source, target, name):
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


def no_link(source, destination):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_where_links_are_not_possible(source, target, monkeypatch):
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


def test_a_full_disk_is_told_first(source, target, monkeypatch):
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


# ------------------------------------------------------------ plan and apply


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


# ------------------------------------------------------------------- kills


class KillError(BaseException):
    """Stands for SIGKILL: no `except Exception` sees it."""


STEPS = ("link", "symlink", "replace", "unlink", "mkdir", "rmdir", "open", "rename")


class Killer:
    """Raises before the k-th file operation, and at all that follow."""

    def __init__(self, patch, k):
        self.left = k
        for name in STEPS:
            patch.setattr(os, name, self.wrap(getattr(os, name)))
        import builtins
        import io

        opened = self.wrap(io.open, is_write=lambda mode="r", *rest: mode != "r")
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)

    def wrap(self, function, is_write=None):
        def step(*arguments, **options):
            if is_write is None or is_write(*arguments[1:2]):
                if self.left <= 0:
                    raise KillError
                self.left -= 1
            return function(*arguments, **options)

        return step


def kill_everywhere(tmp_path, prepare, run, check):
    """Runs with a kill at operation 1, 2, ... until a run ends by itself."""
    for k in range(500):
        place = tmp_path / str(k)
        place.mkdir()
        prepare(place)
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(patch, k)
            try:
                run(place)
                killed = False
            except KillError:
                killed = True
        if not killed:
            assert killer.left == 0
            return k
        check(place)
        run(place)
        check(place, finished=True)
    raise AssertionError("the run never ended")


@pytest.mark.parametrize(
    ("mode", "links"), [*((mode, True) for mode in MODES), ("move", False)]
)
def test_a_kill_at_any_step(tmp_path, monkeypatch, mode, links):
    if not links:
        # As between file systems: the move has to copy.
        monkeypatch.setattr(os, "link", no_link)
    expected = images(make_source(tmp_path / "reference"))
    everything = sorted(expected.values())

    def prepare(place):
        make_source(place / "source")

    def run(place):
        quiet(place / "source", place / "target", mode=mode)

    def check(place, finished=False):
        target = place / "target"
        if target.exists():
            assert sizes(target) == SIZES
        if mode == "move":
            # Each image is in at least one of the two places.
            found = images(place / "source")
            found |= images(target) if target.exists() else {}
            assert sorted(set(found.values())) == everything
        else:
            assert images(place / "source") == expected
        if finished:
            assert sizes(target) == SIZES
            assert {path.name for path in place.iterdir()} == {"source", "target"}
            names = {path.name for path in target.iterdir()}
            assert names == {"manifest.json", "train_images", "val_images"}
            if mode == "move":
                assert images(place / "source") == {}

    steps = kill_everywhere(tmp_path, prepare, run, check)
    # 6 images written at least, and deleted too by a move.
    assert steps > (18 if mode == "move" else 12)


def test_a_kill_at_any_step_of_an_overwrite(tmp_path):
    expected = images(make_source(tmp_path / "reference"))
    one_class = {path: size for path, size in SIZES.items() if GOLDFISH in path}

    def prepare(place):
        make_source(place / "source")
        quiet(place / "source", place / "target", classes=1)

    def run(place):
        quiet(place / "source", place / "target", overwrite=True)

    def check(place, finished=False):
        assert images(place / "source") == expected
        target, backup = place / "target", place / ".target.replaced"
        if target.exists():
            assert sizes(target) in (one_class, SIZES)
        else:
            assert sizes(backup) == one_class
        if finished:
            assert sizes(target) == SIZES
            assert {path.name for path in place.iterdir()} == {"source", "target"}

    assert kill_everywhere(tmp_path, prepare, run, check) > 20


def test_an_exchange_that_was_killed_is_undone_first(source, target):
    quiet(source, target, classes=1)
    target.rename(target.with_name(".target.replaced"))
    assert quiet(source, target, classes=1).written == 0
    assert sizes(target) == {k: v for k, v in SIZES.items() if GOLDFISH in k}


def killed_move(source, target):
    """A move that is killed before its first deletion."""
    with pytest.MonkeyPatch.context() as patch:

        def kill(path, **options):
            if str(path).endswith(".JPEG"):
                raise KillError
            real(path, **options)

        real = os.unlink
        patch.setattr(os, "unlink", kill)
        with pytest.raises(KillError):
            quiet(source, target, mode="move")
    assert len(images(source)) == len(images(target)) == 6


def test_only_the_same_call_finishes_a_move(source, target):
    killed_move(source, target)
    text = "interrupted .* finish it first, with source='.*', mode='move', classes=None"
    for options in ({"mode": "copy"}, {"mode": "move", "classes": 1}):
        with pytest.raises(ValueError, match=text):
            quiet(source, target, overwrite=True, **options)
    assert quiet(source, target, mode="move", dry_run=True).files == 6
    assert len(images(source)) == 6
    assert quiet(source, target, mode="move", overwrite=True).written == 0
    assert images(source) == {}
    assert sizes(target) == SIZES


def test_a_move_never_deletes_an_image_that_did_not_arrive(source, target):
    killed_move(source, target)
    arrived = target / f"val_images/{GOLDFISH}/val_0.JPEG"
    arrived.unlink()
    with pytest.raises(ValueError, match=r"val_0.JPEG is missing. No file was deleted"):
        quiet(source, target, mode="move")
    arrived.write_bytes(b"x" * 12)  # the size is right, the content is not
    with pytest.raises(ValueError, match=r"val_0.JPEG has changed since it was moved"):
        quiet(source, target, mode="move")
    assert (source / "val/images/val_0.JPEG").read_bytes() == b"v" * 12


# ------------------------------------------------------------- real images


def test_real_images(real_zip, tmp_path, capfd):
    report = restructure(real_zip, tmp_path / "result")
    assert (report.files, len(report.classes)) == (11_000, 20)
    assert "copying: 11,000/11,000 files" in capfd.readouterr().err
    start = time.perf_counter()
    assert restructure(real_zip, tmp_path / "result").written == 0
    # Takes 0.3 s; 10 s would mean that every file is read again.
    assert time.perf_counter() - start < 10
