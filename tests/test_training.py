"""train(): what it writes, and that stopping and repeating change nothing."""

import csv
import dataclasses
import json
import os
import platform
import random
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from keras_tinyalex import AlexNetMini, building, recipes, train, training
from keras_tinyalex.applications import load_model
from keras_tinyalex.callbacks import Checkpoint

WNIDS = ("n01443537", "n01629819", "n01641577")
EPOCHS = 3

pytestmark = pytest.mark.backend


def narrow(recipe):
    """A sixteenth of the width: the same layers, in a fraction of the time."""
    return dataclasses.replace(recipes.get(recipe), width_multiplier=1 / 16)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_official_folder):
    """A whole run of three epochs; tests read it and change nothing."""
    folder = tmp_path_factory.mktemp("finished")
    data = make_official_folder(folder / "data")
    recipe = narrow("baseline")
    return train(recipe, data, 3, folder / "run", epochs=EPOCHS, progress=False)


@pytest.fixture
def quick(official_folder, tmp_path, monkeypatch):
    """Trains on the small official folder, into `tmp_path/run`, undrawn."""
    monkeypatch.setattr(training, "_write_plots", lambda *arguments: None)

    def start(output="run", recipe="baseline", **arguments):
        arguments = {"epochs": EPOCHS, "classes": 3, "progress": False, **arguments}
        output = tmp_path / output
        return train(narrow(recipe), official_folder, output=output, **arguments)

    return start


def weights(run):
    return np.concatenate([np.ravel(w) for w in run.model.get_weights()])


def test_run_folder_is_complete(finished):
    run = finished
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        "config.json",
        "environment.json",
        "history.csv",
        "metrics.json",
        "tensorboard",
        "checkpoints",
        "model.keras",
        "model.h5",
        "plots",
    }
    config = json.loads((run.path / "config.json").read_text())
    assert config["recipe"]["epochs"] == EPOCHS
    assert config["class_names"] == list(WNIDS)
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["backend"] == keras.backend.backend()
    assert environment["versions"]["keras"] == keras.__version__
    assert environment["keeps_freed_memory"] is building.keep_freed_memory()
    plots = sorted((run.path / "plots").iterdir())
    assert [plot.name for plot in plots] == [
        "calibration.png",
        "class_accuracy.png",
        "confusion_matrix.png",
        "history.png",
        "predictions.png",
        "samples.png",
    ]
    for plot in plots:
        with Image.open(plot) as picture:
            assert min(picture.size) > 300


def test_metrics_agree_with_the_model(finished):
    run = finished
    written = json.loads((run.path / "metrics.json").read_text())
    assert written == run.metrics
    assert written["epochs"] == EPOCHS
    assert written["n_train"] == 24
    assert written["n_val"] == 6
    assert written["val_accuracy"] == pytest.approx(run.history["val_accuracy"][-1])
    assert written["val_loss"] == pytest.approx(run.history["val_loss"][-1], rel=1e-4)
    # the first epoch compiles and is left out of the speed
    steady = run.history["train_seconds"][1:]
    speed = 24 * len(steady) / sum(steady)
    assert written["images_per_second"] == pytest.approx(speed, rel=0.01)
    assert written["train_seconds"] <= written["seconds_total"]


def test_history_file(finished):
    run = finished
    with (run.path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for name in ("loss", "accuracy", "top5", "val_loss", "val_accuracy", "val_top5"):
        values = [float(row[name]) for row in rows]
        assert values == pytest.approx(run.history[name], rel=1e-6)


def test_tensorboard_shows_the_history(finished):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    run = finished
    for part, prefix in (("train", ""), ("validation", "val_")):
        (path,) = (run.path / "tensorboard" / part).iterdir()
        seen = {}
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = value.tensor.float_val[0]
                seen.setdefault(value.tag, {})[event.step] = number
        expected = run.history[f"{prefix}accuracy"]
        assert seen["epoch_accuracy"] == pytest.approx(dict(enumerate(expected)))


def test_saved_models_predict_alike_and_know_their_classes(finished):
    run = finished
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    expected = run.model.predict(image, verbose=0)
    for name in ("model.keras", "model.h5"):
        model, class_names = load_model(run.path / name)
        assert class_names == WNIDS
        np.testing.assert_allclose(model.predict(image, verbose=0), expected, rtol=1e-5)


def test_same_seed_same_weights(quick):
    first, second, other = (
        weights(quick(name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert (first == second).all()
    assert (first != other).any()


@pytest.mark.parametrize(("recipe", "half"), [("sgd", 0), ("adamw", 0), ("muon", 1)])
def test_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    quick, monkeypatch, recipe, half
):
    changes = {"optimizer": recipe, "schedule": "cosine", "augmentation": "crop_flip"}
    changes |= {"half_size_epochs": half, "folded_batch_norm": bool(half)}
    changes["epochs"] = EPOCHS
    # Batches of 2: many of them, so that their order counts.
    recipe = dataclasses.replace(recipes.BASELINE, batch_size=2, **changes)
    whole = quick("whole", recipe=recipe)
    save, epochs = Checkpoint.on_epoch_end, []

    def save_and_count(self, epoch, logs=None):
        save(self, epoch, logs)
        epochs.append(epoch)

    def stop_after_two(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_end", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            quick("stopped", recipe=recipe)
    monkeypatch.setattr(Checkpoint, "on_epoch_end", save_and_count)
    resumed = quick("stopped", recipe=recipe)
    assert epochs == [2]
    assert (weights(resumed) == weights(whole)).all()
    assert resumed.history["loss"] == whole.history["loss"]
    assert resumed.history["epoch"] == [1, 2, 3]


def test_damaged_checkpoint_falls_back_to_the_one_before(quick):
    whole = quick("whole")
    folder = quick("damaged").path
    (folder / "metrics.json").unlink()
    last = folder / "checkpoints" / "epoch-003.npz"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.warns(UserWarning, match=r"epoch-003.npz is damaged") as warned:
        assert (weights(quick("damaged")) == weights(whole)).all()
    # epoch-002.npz was used
    assert sum("is damaged" in str(warning.message) for warning in warned) == 1


def test_finished_run_is_returned(quick):
    first = quick()
    before = (first.path / "model.keras").stat().st_mtime_ns
    again = quick()
    assert (again.path / "model.keras").stat().st_mtime_ns == before
    assert again.metrics == first.metrics
    assert again.class_names == WNIDS
    assert again.history["loss"] == pytest.approx(first.history["loss"], rel=1e-5)


def test_other_run_in_the_folder_is_refused(quick):
    run = quick()
    kept = (run.path / "model.keras").read_bytes()
    fingerprint = json.loads((run.path / "config.json").read_text())["fingerprint"]
    refusal = rf"another run \({fingerprint}\).*seed differ"
    with pytest.raises(ValueError, match=refusal):
        quick(seed=5)
    assert (run.path / "model.keras").read_bytes() == kept
    replaced = quick(seed=5, resume=False)
    assert replaced.metrics["seed"] == 5


def test_folder_with_other_files_is_refused(quick, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    for resume in (True, False):
        with pytest.raises(ValueError, match="holds other files"):
            quick(resume=resume)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"


def test_divergence_is_reported_and_the_last_finite_state_kept(
    quick, monkeypatch, tmp_path
):
    good = Checkpoint.on_epoch_end

    def poison(self, epoch, logs=None):
        if epoch == 1:
            layer = self.model.get_layer("fc1")
            layer.kernel.assign(np.full(layer.kernel.shape, np.nan))
        good(self, epoch, logs)

    monkeypatch.setattr(Checkpoint, "on_epoch_end", poison)
    with pytest.raises(FloatingPointError, match=r"epoch 2: .*fc1/kernel"):
        quick()
    kept = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert kept == ["epoch-001.npz"]


def test_validation_split_holds_training_images_out(quick):
    run = quick(validation_split=0.25)
    assert run.metrics["n_train"] == 18
    assert run.metrics["n_val"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "fastest"}, "Received: recipe='fastest'"),
        ({"epochs": 0}, "Received: epochs=0"),
        ({"batch_size": 0}, "Received: batch_size=0"),
        ({"seed": -1}, "Received: seed=-1"),
        ({"validation_split": 2.0}, "Received: validation_split=2.0"),
        ({"classes": 4}, "4"),
        ({"dtype": "float7"}, "float7"),
    ],
)
def test_wrong_arguments(quick, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        quick(**arguments)
    assert not (tmp_path / "run").exists()


def test_global_seeds_are_left_alone(quick):
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    quick(epochs=1)
    drawn = random.random(), np.random.random()  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    assert drawn == (random.random(), np.random.random())  # noqa: NPY002


def test_automatic_dtype_is_chosen_once_and_the_model_is_float32(quick, monkeypatch):
    choices = iter([("mixed_bfloat16", "because"), ("float32", "changed its mind")])
    monkeypatch.setattr(training, "fastest_dtype", lambda: next(choices))
    run = quick(dtype="auto", epochs=1)
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["dtype"] == "mixed_bfloat16"
    assert environment["dtype_reason"] == "because"
    config = json.loads((run.path / "config.json").read_text())
    assert config["recipe"]["dtype"] == "auto"
    (run.path / "metrics.json").unlink()  # as if it had been stopped
    again = quick(dtype="auto", epochs=1)
    assert np.array_equal(weights(again), weights(run))
    for model in (run.model, load_model(run.path / "model.keras")[0]):
        assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


@pytest.mark.parametrize(
    ("flags", "setting", "told"),
    [
        ("fma avx2", None, True),
        ("fma avx2 avx512f avx512_vnni", None, False),  # TensorFlow switches it on
        ("fma avx2", "1", False),
        ("fma avx2", "0", False),  # the user's choice
        ("", None, False),  # not known
    ],
)
def test_training_tells_that_onednn_is_off(
    quick, monkeypatch, capsys, flags, setting, told
):
    monkeypatch.setattr(training, "_cpuinfo", {"flags": flags, "model name": "A"}.get)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if setting is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", setting)
    quick(epochs=1, progress=True)
    tensorflow = keras.backend.backend() == "tensorflow"
    message = "set TF_ENABLE_ONEDNN_OPTS=1 before the import"
    assert (message in capsys.readouterr().err) == (told and tensorflow)


def test_fastest_dtype_gives_its_reason():
    policy, reason = building.fastest_dtype()
    assert policy in ("float32", "mixed_bfloat16")
    assert "ms in bfloat16 and" in reason


def test_fastest_dtype_is_float32_where_bfloat16_fails(monkeypatch):
    """As on TensorFlow, where oneDNN is held to AVX2 on a processor that has it."""
    convolve = keras.ops.conv

    def fails(x, kernel, **arguments):
        if keras.backend.standardize_dtype(x.dtype) == "bfloat16":
            raise RuntimeError("could not create a primitive")
        return convolve(x, kernel, **arguments)

    monkeypatch.setattr(keras.ops, "conv", fails)
    chosen = building.fastest_dtype.__wrapped__()
    assert chosen == ("float32", "a convolution in bfloat16 fails (RuntimeError)")


# Fills and frees 64 MiB five times: 16,384 pages of 4 KiB.
PAGES = """
import resource
from keras_tinyalex.building import keep_freed_memory
kept = keep_freed_memory()
faults = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [b"x" * (16 << 20) for _ in range(4)]
    del held
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, max(faults[1:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
@pytest.mark.parametrize(
    ("variables", "kept"), [({}, True), ({"MALLOC_TOP_PAD_": "131072"}, False)]
)
def test_freed_memory_is_kept_unless_the_environment_says_otherwise(variables, kept):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PAGES],
        capture_output=True,
        text=True,
        check=True,
        env={**inherited, **variables},
    )
    told, faults = done.stdout.split()
    assert told == str(kept)
    assert (int(faults) < 1000) == kept


def test_freed_memory_is_left_alone_without_glibc(monkeypatch):
    monkeypatch.setattr(building.platform, "libc_ver", lambda: ("", ""))
    assert building.keep_freed_memory.__wrapped__() is False


def hastened_layers(model):
    """The types by name of its layers that compute in another way."""
    others = [layer for layer in model.layers if hasattr(layer.call, "func")]
    return {layer.name: type(layer) for layer in others}


def assert_one_step_is_the_same(plain, hastened, x, y, tolerance):
    before = plain.get_weights()
    for model in (plain, hastened):
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        model.train_on_batch(x, y)
    for start, one, other in zip(
        before, plain.get_weights(), hastened.get_weights(), strict=True
    ):
        step = np.abs(one - start).max()
        assert step > 0
        assert np.abs(one - other).max() < tolerance * step


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-4), ("mixed_bfloat16", 0.05)]
)
def test_hastened_dense_layers_learn_the_same(dtype, tolerance, tmp_path):
    recipe = dataclasses.replace(narrow("baseline"), dtype=dtype, dropout=0.0)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (16, 64, 64, 3), np.uint8)
    labels = generator.integers(0, 20, 16)
    plain, hastened = (building.build_model(recipe, seed=2) for _ in range(2))
    building.hasten(hastened)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    names = ("fc1", "fc2", "predictions") if on_tensorflow else ()
    assert hastened_layers(hastened) == dict.fromkeys(names, keras.layers.Dense)
    assert_one_step_is_the_same(plain, hastened, images, labels, tolerance)
    assert plain.get_config() == hastened.get_config()
    hastened.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = hastened.predict(images, verbose=0)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-4), ("mixed_bfloat16", 0.05)]
)
@pytest.mark.parametrize("shape", [(6, 5, 4), (7,)])
def test_hastened_batch_norm_learns_the_same(dtype, tolerance, shape):
    # No ReLU, which a digit of rounding can switch.
    plain = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.BatchNormalization(momentum=0.7, dtype=dtype),
            keras.layers.Flatten(dtype=dtype),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    hastened = keras.models.clone_model(plain)
    hastened.set_weights(plain.get_weights())
    building.hasten(hastened)
    backend = keras.backend.backend()
    types = hastened_layers(hastened).values()
    assert (keras.layers.BatchNormalization in types) == (backend != "jax")
    generator = np.random.default_rng(0)
    x = generator.normal(3, 2, (8, *shape)).astype("float32")
    y = generator.integers(0, 3, 8)
    assert_one_step_is_the_same(plain, hastened, x, y, tolerance)
    mean, variance = hastened.layers[0].get_weights()[2:]
    axes = tuple(range(len(shape)))
    rtol = 1e-5 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(mean, 0.3 * x.mean(axes), rtol=rtol)
    np.testing.assert_allclose(variance, 0.7 + 0.3 * x.var(axes), rtol=rtol)
    expected = plain.predict(x, verbose=0)
    np.testing.assert_allclose(hastened.predict(x, verbose=0), expected, atol=tolerance)


def test_he_initialization_has_the_variance_of_the_paper():
    images = np.zeros((10, 64, 64, 3), np.uint8)
    he = dataclasses.replace(recipes.BASELINE, initialization="he")
    model = building.build_model(he, seed=3)
    classifier = model.get_layer("predictions").get_weights()[0]
    building.initialize(model, he, images, seed=3)
    for name, inputs in (("block3_conv2", 9 * 128), ("fc1", 4096), ("fc2", 1024)):
        kernel = model.get_layer(name).get_weights()[0]
        assert kernel.std() == pytest.approx((2 / inputs) ** 0.5, rel=0.02)
    assert np.array_equal(model.get_layer("predictions").get_weights()[0], classifier)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_folded_batch_norm_gives_the_same_network(data_format):
    recipe = recipes.Recipe("n", width_multiplier=1 / 16, folded_batch_norm=True)
    before = keras.config.image_data_format()
    if data_format == "channels_first" and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow on CPU has no max pooling in channels_first")
    keras.config.set_image_data_format(data_format)
    try:
        model = building.build_model(recipe, seed=1, num_classes=4)
        generator = np.random.default_rng(0)
        for layer in model.layers:  # as after some training
            if layer.name.endswith("_bn"):
                scales = generator.uniform(0.5, 2, (4, *layer.gamma.shape))
                layer.set_weights(list(scales * [[1], [0.3], [0.1], [1]]))
        images = generator.integers(0, 256, (70, *model.input_shape[1:]), np.uint8)
        images[0] = 0
        plain = building.finished_model(model, recipe, images)
        expected = model.predict(images, verbose=0)
        np.testing.assert_allclose(
            plain.predict(images, verbose=0), expected, rtol=1e-4, atol=1e-6
        )
        same = AlexNetMini(num_classes=4, width_multiplier=1 / 16)
        assert [w.path for w in plain.weights] == [w.path for w in same.weights]
        assert np.ptp(expected, axis=0).max() > 0.01  # it does depend on the image
    finally:
        keras.config.set_image_data_format(before)


def test_statistics_are_those_of_whole_images_without_dropout():
    recipe = recipes.Recipe("n", width_multiplier=1 / 16, folded_batch_norm=True)
    model = building.build_model(recipe, seed=1, num_classes=4)
    images = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8)
    building.finished_model(model, recipe, images)
    x = images
    for layer in model.layers[1:]:
        if layer.name in ("block2_conv_bn", "fc2_bn"):
            values = keras.ops.convert_to_numpy(x).reshape(-1, x.shape[-1])
            found = [keras.ops.convert_to_numpy(w) for w in layer.weights[2:]]
            np.testing.assert_allclose(found[0], values.mean(axis=0), atol=1e-5)
            np.testing.assert_allclose(found[1], values.var(axis=0), rtol=1e-3)
            assert layer.momentum == 0.95
        # Batch normalization of a batch, as in training; dropout does nothing.
        norm = isinstance(layer, keras.layers.BatchNormalization)
        x = layer(keras.ops.convert_to_tensor(x), training=True) if norm else layer(x)


def test_warm_up_takes_at_most_half_of_a_short_training():
    model = building.build_model(
        recipes.Recipe("narrow", width_multiplier=1 / 16), seed=0, num_classes=2
    )
    # Asks for 2 epochs of warm-up.
    short = dataclasses.replace(recipes.BEST, epochs=1, learning_rate=0.001)
    building.compile_model(model, short, images=64 * 10)
    rate = model.optimizer._learning_rate
    at = [float(rate(step)) for step in (0, 4, 5, 10)]
    assert at == pytest.approx([0, 0.0008, 0.001, 0], abs=1e-9)


def test_half_size_network_is_the_network_on_averaged_pixels():
    recipe = dataclasses.replace(recipes.BASELINE, width_multiplier=1 / 16)
    model = building.build_model(recipe, seed=1, num_classes=4)
    building.compile_model(model, recipe, images=10)
    small = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    images = small.repeat(2, axis=1).repeat(2, axis=2)
    half = building.half_size(model, recipe)
    body = AlexNetMini(False, input_shape=(32, 32, 3), width_multiplier=1 / 16)
    body.set_weights(model.get_weights()[: len(body.weights)])
    x = body.predict(small, verbose=0).repeat(2, axis=1).repeat(2, axis=2)
    x = x.reshape(2, -1)
    for name in ("fc1", "fc2", "predictions"):
        x = keras.ops.convert_to_numpy(model.get_layer(name)(x))
    np.testing.assert_allclose(half.predict(images, verbose=0), x, rtol=1e-4)
    assert half.optimizer is model.optimizer


def test_phases_of_half_and_whole_size(quick, monkeypatch):
    sizes = []

    class Sizes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            names = [layer.name for layer in self.model.layers]
            sizes.append((epoch, any("average" in name for name in names)))

    fit = training.fit

    def watched(*arguments, callbacks, **options):
        return fit(*arguments, callbacks=[*callbacks, Sizes()], **options)

    monkeypatch.setattr(training, "fit", watched)
    half = dataclasses.replace(recipes.BASELINE, epochs=EPOCHS, half_size_epochs=2)
    run = quick(recipe=half)
    assert sizes == [(0, True), (1, True), (2, False)]
    assert run.history["epoch"] == [1, 2, 3]
    assert "val_accuracy" in run.history


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_every_recipe_ends_in_the_plain_network(quick, name):
    run = quick(recipe=name, epochs=1)
    plain = AlexNetMini(num_classes=3, width_multiplier=1 / 16)
    assert [w.path for w in run.model.weights] == [w.path for w in plain.weights]
    stored, _ = load_model(run.path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    np.testing.assert_allclose(
        stored.predict(images, verbose=0),
        run.model.predict(images, verbose=0),
        atol=1e-5,
    )


def test_half_size_and_averaged_weights_exclude_each_other():
    with pytest.raises(ValueError, match=r"half_size_epochs=2, ema_momentum=0\.9"):
        recipes.Recipe("both", half_size_epochs=2, ema_momentum=0.9)


def test_a_run_of_half_size_alone_that_was_stopped_at_its_end(quick):
    half = {"epochs": EPOCHS, "half_size_epochs": EPOCHS}
    recipe = dataclasses.replace(recipes.BASELINE, **half)
    whole = quick(recipe=recipe)
    (whole.path / "metrics.json").unlink()  # as if it had been stopped
    assert (weights(quick(recipe=recipe)) == weights(whole)).all()
