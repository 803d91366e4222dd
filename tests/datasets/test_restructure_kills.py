"""Restructuring that is killed at every step, and the next run."""

import os

import pytest
from restructure_helpers import (
    GOLDFISH,
    SIZES,
    images,
    make_source,
    no_link,
    quiet,
    sizes,
)

from keras_tinyalex.datasets.restructure import MODES


class KillError(BaseException):
    """Simulates SIGKILL: `except Exception` does not catch it."""


STEPS = ("link", "symlink", "replace", "unlink", "mkdir", "rmdir", "open", "rename")


class Killer:
    """Raises before the k-th file operation and all later ones."""

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
    """Kills `run` at operation 1, 2, ... until it ends without being killed."""
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
        # As between file systems, the move has to copy.
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
    # At least 6 images are written, and a move also deletes 6.
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


def test_a_replacement_that_was_killed_is_undone_first(source, target):
    quiet(source, target, classes=1)
    target.rename(target.with_name(".target.replaced"))
    assert quiet(source, target, classes=1).written == 0
    assert sizes(target) == {k: v for k, v in SIZES.items() if GOLDFISH in k}


def killed_move(source, target):
    """Runs a move and kills it before its first deletion."""
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
