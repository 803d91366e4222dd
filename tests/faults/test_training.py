"""Training: killed 20 times, diverging, another run in the folder."""

import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest

from keras_tinyalex import fitting, recipes
from keras_tinyalex.building import build
from keras_tinyalex.checkpoints import Checkpoint, _read_checkpoint

pytestmark = pytest.mark.faults

EPOCHS = 35

KILLS = 20


# A child that trains a narrow network and logs the start and end of each epoch.
CHILD = textwrap.dedent("""
    import os, sys
    from keras_tinyalex import Recipe, train, training
    from keras_tinyalex.checkpoints import Checkpoint

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
    uninterrupted, log = tmp_path / "uninterrupted", tmp_path / "uninterrupted.log"
    finish(start(data, uninterrupted, log))
    history = (uninterrupted / "history.csv").read_text().splitlines()[1:]
    # Without the first epoch, which compiles.
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
        for path in paths:  # a file under its final name is complete
            _read_checkpoint(path)
    finish(start(data, killed, log))

    assert digest_of(killed) == digest_of(uninterrupted)
    rows = (killed / "history.csv").read_text().splitlines()[1:]
    assert [float(row.split(",")[0]) for row in rows] == list(range(1, EPOCHS + 1))
    repeated = len(begun(log)) - EPOCHS
    assert set(begun(log)) == set(range(EPOCHS))
    assert repeated <= kills  # a kill costs at most the epoch it interrupts
    figure(
        "train",
        f"SIGKILL at {kills} random moments over {EPOCHS} epochs",
        f"weights identical to those of the uninterrupted run; {repeated} epochs "
        f"repeated, at most 1 per kill",
    )


def test_nan_loss_stops_training(quick, tmp_path, monkeypatch, figure):
    def poisoned(*arguments):
        model = build(*arguments)
        # In the last layer: a ReLU after it could turn NaN into 0.
        model.get_layer("predictions").bias.assign([np.nan] * 3)
        return model

    monkeypatch.setattr(fitting, "build", poisoned)
    with pytest.raises(
        FloatingPointError,
        match=r"diverged in epoch 1: loss nan, weights .*block1_conv",
    ):
        quick()
    assert not (tmp_path / "run" / "checkpoints").exists()
    figure("train", "NaN loss", "stopped in its epoch, layers named, nothing saved")


@pytest.mark.parametrize("layer", ["block1_conv", "block3_conv2", "fc1", "predictions"])
def test_nan_weight_with_a_finite_loss_stops_training(
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
    tmp_path, official_folder, quick, wait_for, figure
):
    log = tmp_path / "log"
    child = start(official_folder, tmp_path / "run", log, epochs=1000)
    wait_for(lambda: len(begun(log)) > 1 or child.poll() is not None, 120)
    with pytest.raises(OSError, match="`output` is in use: another process"):
        quick(epochs=1000)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    # The lock of a killed process is released.
    with pytest.raises(ValueError, match="holds another run"):
        quick(epochs=2)
    figure("train", "two trainings in one folder", "the second is refused")
