"""Checkpoints: flipped bits, full disks, kills while saving, and their cost."""

import dataclasses
import random
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from keras_tinyalex import recipes
from keras_tinyalex.building import build
from keras_tinyalex.callbacks import History
from keras_tinyalex.checkpoints import Checkpoint, _read_checkpoint
from keras_tinyalex.datasets.batches import Batches, LabelledArrays

pytestmark = pytest.mark.faults


def checkpoints(run):
    return sorted(path.name for path in (Path(run) / "checkpoints").iterdir())


def test_flipped_bytes_in_a_checkpoint(quick, figure):
    path = quick(epochs=1).path / "checkpoints" / "epoch-001.npz"
    good, body = _read_checkpoint(path), path.read_bytes()
    chosen = random.Random(0)
    found = harmless = 0
    for _ in range(1000):
        at, bit = chosen.randrange(len(body)), 1 << chosen.randrange(8)
        path.write_bytes(body[:at] + bytes([body[at] ^ bit]) + body[at + 1 :])
        try:
            state = _read_checkpoint(path)
        except Exception:
            found += 1
            continue
        # Bits that nothing reads, such as the time of a member, have no effect.
        assert state.keys() == good.keys()
        for name, values in state.items():
            assert values.dtype == good[name].dtype
            assert values.tobytes() == good[name].tobytes(), name
        harmless += 1
    assert found > 900
    figure(
        "train",
        "1,000 flipped bits in a checkpoint",
        f"{found} refused, {harmless} without effect on any value, 0 accepted",
    )


def test_changed_value_under_a_valid_zip_checksum(quick, tmp_path, figure):
    """Only the SHA-256 of the state reveals it."""
    uninterrupted = quick(tmp_path / "uninterrupted")
    folder = quick().path
    path = folder / "checkpoints" / "epoch-003.npz"
    with np.load(path) as file:
        state = dict(file)
    name = next(name for name in state if name.endswith("kernel"))
    state[name] = state[name] + np.float32(1e-6)
    np.savez(path, **state)
    (folder / "metrics.json").unlink()
    with pytest.warns(UserWarning, match=r"epoch-003.npz is damaged .* its SHA-256 is"):
        resumed = quick()
    for ours, theirs in zip(
        resumed.model.get_weights(), uninterrupted.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    result = "found by SHA-256, warned, previous checkpoint used, same weights"
    figure("train", "changed value in the newest checkpoint", result)


def test_training_restarts_when_all_checkpoints_are_damaged(quick, tmp_path):
    folder = quick().path
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"")
    (folder / "metrics.json").unlink()
    with pytest.warns(UserWarning, match=r"epoch-00\d.npz is damaged"):
        again = quick()
    assert again.history["epoch"] == [1, 2, 3]


def test_bfloat16_variables_are_restored(quick, tmp_path):
    """NumPy's file format has no bfloat16."""
    uninterrupted = quick(tmp_path / "uninterrupted", dtype="bfloat16")
    folder = quick(dtype="bfloat16").path
    (folder / "checkpoints" / "epoch-003.npz").unlink()
    (folder / "metrics.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        resumed = quick(dtype="bfloat16")
    for ours, theirs in zip(
        resumed.model.get_weights(), uninterrupted.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours.astype("f4"), theirs.astype("f4"))


@pytest.mark.parametrize(
    ("left", "text", "kept"),
    [
        (4_096, r"stopped after epoch 3: .* No space left", 2),
        # Room for the checkpoint, but not for the model files afterwards.
        (200_000, r"Cannot save the model to .*model\.(keras|h5): ", 3),
    ],
)
def test_disk_full_while_saving(
    quick, tmp_path, disk, monkeypatch, figure, left, text, kept
):
    uninterrupted = quick(tmp_path / "uninterrupted")
    place = disk(4_000)
    save = Checkpoint.on_epoch_end

    def fill(self, epoch, logs=None):
        if epoch == 2:
            free = shutil.disk_usage(place).free
            (place / "filler").write_bytes(b"x" * (free - left))
        save(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_end", fill)
        with pytest.raises(OSError, match=text):
            quick(place / "run")
    names = checkpoints(place / "run")
    assert names == [f"epoch-00{kept - 1}.npz", f"epoch-00{kept}.npz"]
    (place / "filler").unlink()
    resumed = quick(place / "run")
    for ours, theirs in zip(
        resumed.model.get_weights(), uninterrupted.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    what = "checkpoint" if kept == 2 else "model"
    result = "stopped with a clear error; then resumed to the same weights"
    figure("train", f"disk full while saving the {what}", result)


def test_kill_at_every_change_of_a_save(tmp_path, kill_at_every_change, figure):
    """The callback alone, with one array as its state, so that it can fork."""
    state = {"values": np.arange(50_000.0)}

    class Stub(Checkpoint):
        def __init__(self, folder):
            super().__init__(folder, None, History.__new__(History))
            self.history.rows = {"epoch": [1.0, 2.0]}

    def save(place, epoch):
        Stub(place / "checkpoints").on_epoch_end(epoch, {"loss": 1.0})

    def check(place, finished):
        paths = sorted((place / "checkpoints").glob("epoch-*.npz"))
        assert len(paths) >= 2
        for path in paths:
            _read_checkpoint(path)
        if finished:
            names = checkpoints(place)
            assert names == ["epoch-002.npz", "epoch-003.npz"]

    def prepare(place):
        save(place, 0)
        save(place, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "keras_tinyalex.checkpoints._state_variables", lambda model: state
        )
        patch.setattr("keras_tinyalex.checkpoints._as_array", lambda values: values)
        patch.setattr(Stub, "model", None, raising=False)
        kills = sum(
            kill_at_every_change(
                tmp_path, prepare, lambda place: save(place, 2), check, torn=torn
            )
            for torn in (False, True)
        )
    assert kills >= 6
    result = f"{kills} of {kills} kills survived, 2 complete checkpoints at any time"
    figure("train", "SIGKILL at every change of a save", result)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_overhead_of_checkpoints(tmp_path, optimizer, figure):
    """Of the full model, relative to the measured time of 10,000 images."""
    recipe = dataclasses.replace(recipes.BASELINE, optimizer=optimizer)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (512, 64, 64, 3), np.uint8)
    data = LabelledArrays(
        images, np.arange(512) % 20, tuple(map(str, range(20))), ("",) * 512
    )
    model = build(recipe, data, seed=0)
    batches = Batches(data, recipe.batch_size, seed=0)
    model.fit(batches, epochs=1, verbose=0)  # traces and compiles
    begin = time.perf_counter()
    model.fit(batches, epochs=2, verbose=0)
    epoch = (time.perf_counter() - begin) / 1024 * 10_000

    history = History(tmp_path / "history.csv", batches)
    checkpoint = Checkpoint(tmp_path / "checkpoints", batches, history)
    checkpoint.set_model(model)
    times = []
    for number in range(9):
        begin = time.perf_counter()
        checkpoint.on_epoch_end(number, {"loss": 1.0})
        times.append(time.perf_counter() - begin)
    save = float(np.median(times))
    size = next((tmp_path / "checkpoints").iterdir()).stat().st_size
    assert save / epoch < 0.03
    figure(
        "train",
        f"overhead of a checkpoint, {optimizer} ({size / 1e6:.0f} MB)",
        f"{save:.2f} s of {epoch:.0f} s for an epoch of 10,000 images: "
        f"{save / epoch:.1%} (median of 9)",
    )
