"""Training: killed 20 times, diverging, full disks, damaged checkpoints."""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_tinyalex import building, recipes, train, training
from keras_tinyalex.callbacks import Checkpoint, History, _read_checkpoint

pytestmark = pytest.mark.faults

EPOCHS = 35
KILLS = 20

# A child that trains a narrow net and notes each epoch it begins and ends.
CHILD = textwrap.dedent("""
    import os, sys
    from keras_tinyalex import Recipe, train, training
    from keras_tinyalex.callbacks import Checkpoint

    data, output, log, epochs = sys.argv[1:]
    note = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    begin, end = Checkpoint.on_epoch_begin, Checkpoint.on_epoch_end

    def on_epoch_begin(self, epoch, logs=None):
        os.write(note, b"begin %d\\n" % epoch)
        begin(self, epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        end(self, epoch, logs)
        os.write(note, b"saved %d\\n" % epoch)

    Checkpoint.on_epoch_begin, Checkpoint.on_epoch_end = on_epoch_begin, on_epoch_end
    training._write_plots = lambda *arguments: None
    recipe = Recipe("narrow", epochs=int(epochs), width_multiplier=1 / 16)
    train(recipe, data, 3, output, progress=False)
    os.write(note, b"done\\n")
""")


def start(data, output, log, epochs=EPOCHS):
    command = [sys.executable, "-c", CHILD, *map(str, (data, output, log, epochs))]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(child):
    _, error = child.communicate(timeout=600)
    assert child.returncode == 0, error[-3000:]


def digest_of(run):
    model = keras.models.load_model(run / "model.keras", compile=False)
    digest = hashlib.sha256()
    for values in model.get_weights():
        digest.update(values.tobytes())
    return digest.hexdigest()


def begun(log):
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith("begin")]


def test_killed_at_20_random_moments(tmp_path, make_official_folder, wait_for, figure):
    data = make_official_folder(tmp_path / "data")
    whole, log = tmp_path / "whole", tmp_path / "whole.log"
    finish(start(data, whole, log))
    history = (whole / "history.csv").read_text().splitlines()[1:]
    # Without the first epoch, which also compiles.
    seconds = np.median([float(line.split(",")[-2]) for line in history[1:]])

    chosen = random.Random(0)
    killed, log = tmp_path / "killed", tmp_path / "killed.log"
    kills = 0
    while kills < KILLS:
        before = len(begun(log))
        child = start(data, killed, log)
        # The 20 kills share the 35 epochs: one or two each, and a part.
        target = before + chosen.choice((1, 2, 2, 3))
        wait_for(
            lambda child=child, target=target: (
                len(begun(log)) >= target or child.poll() is not None
            ),
            120,
        )
        time.sleep(chosen.uniform(0, 1.5 * seconds))
        assert child.poll() is None, "the training ended before its kills"
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        kills += 1
        paths = sorted((killed / "checkpoints").glob("epoch-*.npz"))
        for path in paths:  # under their names they are whole, always
            _read_checkpoint(path)
    finish(start(data, killed, log))

    assert digest_of(killed) == digest_of(whole)
    rows = (killed / "history.csv").read_text().splitlines()[1:]
    assert [float(row.split(",")[0]) for row in rows] == list(range(1, EPOCHS + 1))
    repeated = len(begun(log)) - EPOCHS
    assert set(begun(log)) == set(range(EPOCHS))
    assert repeated <= kills  # each kill costs the epoch it fell in, at most
    figure(
        "train",
        f"SIGKILL at {kills} random moments over {EPOCHS} epochs",
        f"weights bit for bit those of the uninterrupted run; {repeated} epochs "
        f"begun again, at most 1 a kill",
    )


# ------------------------------------------------------------- in this process


@pytest.fixture
def quick(make_official_folder, tmp_path, monkeypatch):
    """Trains a narrow net in this process into `tmp_path/run`."""
    data = make_official_folder(tmp_path / "data")
    monkeypatch.setattr(training, "_write_plots", lambda *arguments: None)

    def run(output=tmp_path / "run", recipe=recipes.BASELINE, epochs=3, **options):
        narrow = dataclasses.replace(recipe, width_multiplier=1 / 16)
        options = {"classes": 3, "epochs": epochs, "progress": False, **options}
        return train(narrow, data, output=output, **options)

    return run


def checkpoints(run):
    return sorted(path.name for path in (Path(run) / "checkpoints").iterdir())


def test_a_loss_that_is_not_a_number(quick, tmp_path, monkeypatch, figure):
    def poisoned(*arguments):
        model = building.build(*arguments)
        # A ReLU can make 0 of NaN; behind this layer there is none.
        model.get_layer("predictions").bias.assign([np.nan] * 3)
        return model

    monkeypatch.setattr(training, "build", poisoned)
    with pytest.raises(
        FloatingPointError,
        match=r"diverged in epoch 1: loss nan, weights .*block1_conv",
    ):
        quick()
    assert not (tmp_path / "run" / "checkpoints").exists()
    figure("train", "NaN loss", "stopped in its epoch, layers named, nothing saved")


@pytest.mark.parametrize("layer", ["block1_conv", "block3_conv2", "fc1", "predictions"])
def test_weights_that_are_not_numbers_with_a_finite_loss(
    quick, tmp_path, monkeypatch, layer, figure
):
    save = Checkpoint.on_epoch_end

    def poison(self, epoch, logs=None):
        if epoch == 1:
            kernel = self.model.get_layer(layer).kernel
            values = keras.ops.convert_to_numpy(kernel).copy()
            values.flat[7] = np.nan
            kernel.assign(values)
            assert np.isfinite(logs["loss"])
        save(self, epoch, logs)

    monkeypatch.setattr(Checkpoint, "on_epoch_end", poison)
    kept = tmp_path / "run" / "checkpoints" / "epoch-001.npz"
    text = rf"epoch 2: loss \d.*not finite: {layer}/kernel\. The last .* is {kept}"
    with pytest.raises(FloatingPointError, match=text):
        quick()
    state = _read_checkpoint(kept)
    assert all(np.isfinite(v).all() for v in state.values() if v.dtype.kind == "f")
    figure(
        "train", f"1 NaN weight in {layer}, finite loss", "found, epoch and layer named"
    )


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
        # Bits that nothing reads, as the time of a member, change nothing.
        assert state.keys() == good.keys()
        for name, values in state.items():
            assert values.dtype == good[name].dtype
            assert values.tobytes() == good[name].tobytes(), name
        harmless += 1
    assert found > 900
    figure(
        "train",
        "1,000 flipped bits in a checkpoint",
        f"{found} refused, {harmless} without effect on any value, 0 let in",
    )


def test_damage_that_the_zip_file_does_not_see(quick, tmp_path, figure):
    """Another value under a right checksum: only the digest tells."""
    whole = quick(tmp_path / "whole")
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
        resumed.model.get_weights(), whole.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    result = "found by SHA-256, said, the one before used, same weights"
    figure("train", "changed value in the newest checkpoint", result)


def test_no_checkpoint_is_whole(quick, tmp_path):
    folder = quick().path
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"")
    (folder / "metrics.json").unlink()
    with pytest.warns(UserWarning, match=r"epoch-00\d.npz is damaged"):
        again = quick()
    assert again.history["epoch"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("left", "text", "kept"),
    [
        (4_096, r"stopped after epoch 3, .* No space left", 2),
        # Room for the checkpoint, but not for the whole model afterwards.
        (200_000, r"Cannot save the model to .*model\.(keras|h5): ", 3),
    ],
)
def test_disk_full_while_saving(
    quick, tmp_path, disk, monkeypatch, figure, left, text, kept
):
    whole = quick(tmp_path / "whole")
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
        resumed.model.get_weights(), whole.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    what = "checkpoint" if kept == 2 else "model"
    result = "stopped with a clear error; then resumed to the same weights"
    figure("train", f"disk full while saving the {what}", result)


def test_kill_at_every_change_of_a_save(tmp_path, kill_at_every_change, figure):
    """The callback alone, on a model of three weights, so that it can fork."""
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
        patch.setattr("keras_tinyalex.callbacks._state_variables", lambda model: state)
        patch.setattr("keras_tinyalex.callbacks._as_array", lambda values: values)
        patch.setattr(Stub, "model", None, raising=False)
        kills = sum(
            kill_at_every_change(
                tmp_path, prepare, lambda place: save(place, 2), check, torn=torn
            )
            for torn in (False, True)
        )
    assert kills >= 6
    result = f"{kills} of {kills} kills survived, 2 whole checkpoints at any time"
    figure("train", "SIGKILL at every change of a save", result)


def test_changed_recipe_is_refused(quick, tmp_path, figure):
    folder = quick().path
    old = json.loads((folder / "config.json").read_text())["fingerprint"]
    changes = [
        {"recipe": dataclasses.replace(recipes.BASELINE, learning_rate=0.5)},
        {"epochs": 4},
        {"batch_size": 3},
        {"seed": 1},
        {"classes": 2},
        {"validation_split": 0.25},
    ]
    for change in changes:
        with pytest.raises(
            ValueError, match=rf"\({old}\) than the one asked .*\(\w{{16}}\)"
        ):
            quick(**change)
    count = len(changes)
    figure(
        "train",
        "changed between runs",
        f"{count} of {count} refused, both fingerprints",
    )


def test_two_trainings_in_one_folder(
    tmp_path, make_official_folder, quick, wait_for, figure
):
    log = tmp_path / "log"
    child = start(tmp_path / "data", tmp_path / "run", log, epochs=1000)
    wait_for(lambda: begun(log) or child.poll() is not None, 120)
    with pytest.raises(OSError, match="`output` is in use: another process"):
        quick(epochs=1000)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    # The lock of a killed process does not lock.
    with pytest.raises(ValueError, match="holds another run"):
        quick(epochs=2)
    figure("train", "two trainings in one folder", "the second is refused")


# ------------------------------------------------------------------- overhead


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_overhead_of_checkpoints(tmp_path, optimizer, figure):
    """Of the full model, against an epoch of 10,000 images measured here."""
    recipe = dataclasses.replace(recipes.BASELINE, optimizer=optimizer)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (512, 64, 64, 3), np.uint8)
    data = training.LabelledArrays(
        images, np.arange(512) % 20, tuple(map(str, range(20))), ("",) * 512
    )
    model = building.build(recipe, data, seed=0)
    batches = training.Batches(data, recipe.batch_size, seed=0)
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
        f"{save:.2f} s of {epoch:.0f} s an epoch of 10,000 images: "
        f"{save / epoch:.1%} (median of 9)",
    )


def test_bfloat16_variables_come_back(quick, tmp_path):
    """NumPy's file format has no bfloat16."""
    whole = quick(tmp_path / "whole", dtype="bfloat16")
    folder = quick(dtype="bfloat16").path
    (folder / "checkpoints" / "epoch-003.npz").unlink()
    (folder / "metrics.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        resumed = quick(dtype="bfloat16")
    for ours, theirs in zip(
        resumed.model.get_weights(), whole.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours.astype("f4"), theirs.astype("f4"))
