"""Training on several devices: four of a CPU, in a child with the JAX backend."""

import json
import os
import subprocess
import sys
import textwrap

import keras
import pytest

from keras_tinyalex import devices, train

# The start of each child: how it trains, and what it reports.
START = textwrap.dedent("""
    import dataclasses, json, sys
    from pathlib import Path
    import keras
    import numpy as np
    from keras_tinyalex import recipes, train, training

    training._write_plots = lambda *arguments: None
    folder = Path(sys.argv[1])

    def start(name, devices, recipe="baseline", epochs=2, **arguments):
        # 24 images in batches of 10, 10 and 4: parts of 3, 3, 3 and 1 of four devices.
        recipe = dataclasses.replace(
            recipes.get(recipe).over(epochs),
            width_multiplier=1 / 4, batch_size=10, dtype="float32")
        arguments = {"image_size": 16, "progress": False, **arguments}
        return train(recipe, folder / "tiny-imagenet-200", output=folder / name,
                     devices=devices, **arguments)

    def difference(run, other):
        # Of all weights; relative to the largest of an array that is larger than 1.
        pairs = zip(run.model.get_weights(), other.model.get_weights(), strict=True)
        return max(float(abs(a - b).max() / max(1, abs(a).max())) for a, b in pairs)
""")

ONE_AND_FOUR = """
class Devices(keras.callbacks.Callback):
    def on_train_end(self, logs=None):
        for variable in self.model.variables + self.model.optimizer.variables:
            found.add(len(variable.value.devices()))

found = set()
four, one = start("four", None, callbacks=[Devices()]), start("one", 1)
print(json.dumps({
    "difference": difference(one, four),
    "losses": [abs(a - b) for a, b in zip(one.history["loss"], four.history["loss"])],
    "trained on": sorted(found),
    "afterwards": sorted({len(v.value.devices()) for v in four.model.variables}),
    "distribution": keras.distribution.distribution(),
    "metrics": [run.metrics["devices"] for run in (one, four)],
}))
"""


def run_child(code, folder, devices=4):
    flag = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(code), str(folder)],
        env={**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flag},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_four_devices_train_as_one(official_folder, tmp_path):
    result = run_child(ONE_AND_FOUR, tmp_path)
    assert result["difference"] < 1e-6
    assert max(result["losses"]) < 1e-6
    assert result["trained on"] == [4]
    assert result["afterwards"] == [1]
    assert result["distribution"] is None
    assert result["metrics"] == [1, 4]


# Half size, folded batch normalization, augmentation, mixing and the best epoch. The
# images have structure and all 64 x 64 pixels: where no value of a channel is below 0,
# the next batch normalization undoes what is added to it, and its gradient is noise.
RESUMED = """
from keras_tinyalex.datasets.batches import LabelledArrays

generator = np.random.default_rng(0)
labels = np.arange(24) % 3
images = generator.integers(0, 128, (24, 64, 64, 3), np.uint8)
images[np.arange(24), :, :, labels] += 64
names = tuple(f"{number}.JPEG" for number in range(24))
data = LabelledArrays(images, labels, ("a", "b", "c"), names)
training.load_splits = lambda *arguments: training.Splits(data, data, {}, [])

class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt

arguments = {"recipe": "best_long", "epochs": 4, "keep": "best"}
one, four = (start(f"{n}", n, **arguments) for n in (1, 4))
try:
    start("stopped", 4, callbacks=[Stop()], **arguments)
except KeyboardInterrupt:
    pass
again = start("stopped", 4, **arguments)
print(json.dumps({
    "difference": difference(one, four),
    "resumed": difference(four, again),
    "kept": [run.metrics["kept_epoch"] for run in (one, four, again)],
    "half size": four.history["half_size"],
}))
"""


@pytest.mark.slow
def test_recipe_of_all_phases_stopped_and_resumed(official_folder, tmp_path):
    result = run_child(RESUMED, tmp_path)
    assert result["difference"] < 1e-5
    assert result["resumed"] == 0
    assert len(set(result["kept"])) == 1
    assert set(result["half size"]) == {0, 1}


# 10 rows: parts of 3, 3, 3 and 1.
WHOLE_BATCH = """
import contextlib
from keras_tinyalex.devices import distribution

def train(devices):
    found = distribution(devices)
    with found.scope() if found else contextlib.nullcontext():
        initializer = keras.initializers.GlorotUniform(seed=0)
        layers = keras.layers
        model = keras.Sequential([
            layers.Input((8,)),
            layers.Dense(6, kernel_initializer=initializer),
            layers.BatchNormalization(),
            layers.Dropout(0.5, seed=1),
            layers.Dense(1, kernel_initializer=initializer),
        ])
        model.compile(keras.optimizers.SGD(0.1), "mean_squared_error")
        generator = np.random.default_rng(0)
        for _ in range(3):
            x, y = generator.normal(size=(10, 8)), generator.normal(size=(10, 1))
            model.train_on_batch(x, y)
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()])

one, four = train(1), train(4)
print(json.dumps([float(abs(one - four).max()), float(abs(one).max())]))
"""


def test_batch_that_cannot_be_divided_is_trained_as_a_whole(tmp_path):
    difference, largest = run_child(WHOLE_BATCH, tmp_path)
    assert difference < 1e-6 < largest


@pytest.mark.backend
def test_more_devices_than_there_are(official_folder, tmp_path):
    message = "`devices` must be 1 on the backend .*: set KERAS_BACKEND=jax"
    if keras.backend.backend() == "jax":
        found = devices.count(None)
        message = f"`devices` must be at most {found}, as many as JAX finds here"
    with pytest.raises(ValueError, match=f"{message}.* Received: devices=99"):
        train(data=official_folder, output=tmp_path / "run", devices=99)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"`devices` must be.* Received: devices=0"):
        train(data=official_folder, output=tmp_path / "run", devices=0)


def test_distribution_of_the_caller_is_set_aside_and_restored():
    callers = object()
    keras.distribution.set_distribution(callers)
    try:
        with devices.without_distribution():
            assert keras.distribution.distribution() is None
        assert keras.distribution.distribution() is callers
    finally:
        keras.distribution.set_distribution(None)
