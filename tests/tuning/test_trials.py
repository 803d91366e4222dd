"""Trials that really train: resumed, continued, diverged, and rerun by train()."""

import dataclasses
import json

import keras
import keras_tuner
import numpy as np
import pytest

from keras_tinyalex import machine, recipes, train, training
from keras_tinyalex.checkpoints import Checkpoint
from keras_tinyalex.splits import load_splits
from keras_tinyalex.tuning import HyperAlexNetMini, retrain, search, trials
from keras_tinyalex.tuning.searching import HELD_OUT

pytestmark = pytest.mark.backend


def measured(result):
    """A result without its times."""
    return {name: value for name, value in result.items() if name != "seconds"}


@pytest.fixture
def data(official_folder):
    return load_splits(official_folder, 3, HELD_OUT)[:2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_official_folder):
    """A Hyperband search: 3 trials of an epoch, the best continues, 2 of three."""
    folder = tmp_path_factory.mktemp("search")
    return search(
        make_official_folder(folder / "data"),
        "augmentation",
        classes=3,
        epochs=3,
        recipe=recipes.Recipe("narrow", width_multiplier=1 / 16),
        output=folder / "found",
        progress=False,
    )


def test_short_search(finished):
    found = finished
    assert [trial["epochs"] for trial in found.trials] == [1, 1, 1, 3, 3, 3]
    assert {trial["status"] for trial in found.trials} == {"completed"}
    continued = found.trials[3]
    first = found.trials[int(continued["from_trial"])]
    assert first == max(found.trials[:3], key=lambda trial: trial["val_accuracy"])
    assert continued["seed"] == first["seed"]
    for name in ("loss", "accuracy", "top5", "val_loss", "val_accuracy", "val_top5"):
        assert np.isfinite(continued[name])
    # Of the history, no metric: the hyperparameter of this name is another column.
    assert {"learning_rate", "half_size"}.isdisjoint(continued)
    assert found.best.width_multiplier == 1 / 16
    assert (found.path / "search.png").stat().st_size > 10_000


def test_a_continued_trial_ends_like_a_full_training(data, tmp_path, narrow):
    recipe = dataclasses.replace(
        narrow, epochs=3, schedule="cosine", momentum=0.9, augmentation="flip"
    )

    def run(name, epochs):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return measured(trials.train_trial(recipe, data, 7, epochs, folder, False))

    whole = run("whole", 3)
    run("first", 1)
    (tmp_path / "second").mkdir()
    trials._copy_checkpoint(tmp_path / "first", tmp_path / "second", 1)
    assert run("second", 3) == whole


@pytest.mark.slow
def test_killed_trial_resumes_from_its_last_checkpoint(
    data, tmp_path, narrow, monkeypatch
):
    recipe = dataclasses.replace(narrow, epochs=3, optimizer="adamw")
    (tmp_path / "whole").mkdir()
    whole = trials.train_trial(recipe, data, 7, 3, tmp_path / "whole", False)
    (tmp_path / "killed").mkdir()
    save, saved = Checkpoint.on_epoch_end, []

    def stop_after_two(self, epoch, logs=None):
        save(self, epoch, logs)
        saved.append(epoch)
        if epoch == 1 and len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "on_epoch_end", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        trials.train_trial(recipe, data, 7, 3, tmp_path / "killed", False)
    killed = trials.train_trial(recipe, data, 7, 3, tmp_path / "killed", False)
    assert saved == [0, 1, 2]  # no epoch twice
    assert measured(killed) == measured(whole)


@pytest.mark.slow
def test_averaged_weights_are_what_counts(data, tmp_path, narrow):
    """With `averaged` the metrics are those of the average, as in train()."""
    recipe = dataclasses.replace(narrow, epochs=1, averaged=0.5)
    result = trials.train_trial(recipe, data, 7, 1, tmp_path, False)
    with (tmp_path / "history.csv").open() as file:
        header, row = (line.strip().split(",") for line in file)
    last = float(dict(zip(header, row, strict=True))["val_loss"])
    assert result["metrics"]["val_loss"] != pytest.approx(last, rel=1e-4)


def test_trials_train_on_all_devices_of_their_process(
    data, tmp_path, narrow, monkeypatch
):
    class StartedError(Exception):
        pass

    def start(*arguments, distribution):
        raise StartedError(distribution)

    monkeypatch.setattr(trials.devices, "count", lambda devices: (4, devices))
    monkeypatch.setattr(trials.devices, "distribution", lambda devices: devices)
    monkeypatch.setattr(trials, "ResumableFit", start)
    with pytest.raises(StartedError) as raised:
        trials.train_trial(narrow, data, 7, 1, tmp_path, False)
    assert raised.value.args == ((4, None),)


@pytest.fixture
def dtypes(monkeypatch):
    """The dtype of each fit, in their order."""
    seen = []

    class Fit(trials.ResumableFit):
        def __init__(self, recipe, *arguments, **options):
            seen.append(recipe.dtype)
            super().__init__(recipe, *arguments, **options)

    monkeypatch.setattr(trials, "ResumableFit", Fit)
    return seen


def test_automatic_dtype_is_chosen_once_for_a_search(
    start, narrow, dtypes, monkeypatch
):
    automatic = dataclasses.replace(narrow, dtype="auto")
    again = {"space": "augmentation", "recipe": automatic, "epochs": 1}
    choices = [("mixed_bfloat16", "because"), ("float32", "changed its mind")]
    monkeypatch.setattr(machine, "fastest_dtype", lambda: choices[0])
    found = start(**again, max_trials=1)
    monkeypatch.setattr(machine, "fastest_dtype", lambda: choices[1])
    start(**again, max_trials=2)  # as on another machine
    assert dtypes == ["mixed_bfloat16"] * 2
    environment = json.loads((found.path / "environment.json").read_text())
    assert environment["dtype"] == "mixed_bfloat16"
    assert environment["dtype_reason"] == "because"
    assert found.best.dtype == "auto"  # whoever trains it chooses again


def test_automatic_dtype_of_a_worker_is_that_of_the_search(
    data, narrow, dtypes, monkeypatch, tmp_path
):
    monkeypatch.setattr(machine, "fastest_dtype", lambda: ("float32", "is faster"))
    content = {"dtype": "mixed_bfloat16", "dtype_reason": "was faster on the chief"}
    (tmp_path / "environment.json").write_text(json.dumps(content))
    (tmp_path / "trial_0").mkdir()
    automatic = dataclasses.replace(narrow, dtype="auto", epochs=1)
    trials.train_trial(automatic, data, 7, 1, tmp_path / "trial_0", False)
    assert dtypes == ["mixed_bfloat16"]


def test_a_search_whose_dtype_was_lost_is_refused(data, narrow, tmp_path):
    automatic = dataclasses.replace(narrow, dtype="auto")
    with pytest.raises(ValueError, match=r"environment\.json must hold the dtype"):
        trials.train_trial(automatic, data, 7, 1, tmp_path / "trial_0", False)


def test_divergence_is_a_result(start, narrow):
    broken = dataclasses.replace(narrow, learning_rate=1e30)
    found = start(space="augmentation", recipe=broken, max_trials=1)
    (trial,) = found.trials
    assert (trial["status"], trial["val_accuracy"]) == ("diverged", 0.0)
    assert found.best is None
    assert found.ranking == []


def test_train_takes_the_best_recipe(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_write_plots", lambda *arguments: None)
    best = finished.ranking[0]
    run = train(
        finished.path / "best.json",
        finished.path.parent / "data",
        3,
        tmp_path / "run",
        best["seed"],
        validation_split=0.1,
        progress=False,
    )
    assert run.metrics["epochs"] == 3
    # the same images, seed and recipe give the same result
    for name in ("loss", "accuracy", "val_loss"):
        then = run.history[name][best["epochs"] - 1]
        assert then == pytest.approx(best[name], rel=1e-4)


@pytest.mark.slow
def test_retrain(finished, monkeypatch):
    monkeypatch.setattr(training, "_write_plots", lambda *arguments: None)
    runs = retrain(finished.path, best=2, seeds=(0, 1), epochs=1, progress=False)
    # all training images, and the val images to report on
    assert [(r["n_train"], r["n_val"], r["seed"]) for r in runs] == [
        (24, 6, 0),
        (24, 6, 1),
    ] * 2
    best, _, second, _ = (run["trial"] for run in runs)
    assert best == finished.ranking[0]["trial"]
    assert second != best
    folder = finished.path / "retrained" / f"{best}-seed1"
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"] == dataclasses.replace(finished.best, epochs=1).as_dict()


def test_hyperparameters_for_tensorboard(finished):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams import plugin_data_pb2

    folder = finished.path / "tensorboard" / "0"
    (path,) = folder.glob("*.hparams")
    values = [v for e in EventFileLoader(str(path)).Load() for v in e.summary.value]
    data = plugin_data_pb2.HParamsPluginData.FromString(
        values[0].metadata.plugin_data.content
    )
    hparams = data.session_start_info.hparams
    assert hparams["batch_size"].number_value == 16
    assert hparams["mixing"].string_value == "none"
    assert (folder / "validation").is_dir()


def test_plain_keras_tuner(data, narrow, tmp_path):
    """The hypermodel alone, with a tuner of KerasTuner's and arrays."""
    train_data, held_out = data
    hypermodel = HyperAlexNetMini(
        num_classes=3,
        space="augmentation",
        recipe=dataclasses.replace(narrow, epochs=2),
    )
    tuner = keras_tuner.RandomSearch(
        hypermodel,
        "val_accuracy",
        max_trials=1,
        seed=1,
        directory=tmp_path,
        project_name="plain",
    )
    tuner.search(
        train_data.images,
        train_data.labels,
        validation_data=(held_out.images, held_out.labels),
        verbose=0,
    )
    (best,) = tuner.get_best_hyperparameters()
    assert 0 <= tuner.oracle.get_best_trials()[0].score <= 1
    assert hypermodel.recipe(best).width_multiplier == 1 / 16


def test_schedule_follows_the_images(data, narrow):
    recipe = dataclasses.replace(narrow, schedule="cosine", epochs=2, batch_size=4)
    hypermodel = HyperAlexNetMini(num_classes=3, space="augmentation", recipe=recipe)
    hp = keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    train_data, held_out = data
    hypermodel.fit(
        hp,
        model,
        train_data.images,
        train_data.labels,
        (held_out.images, held_out.labels),
        verbose=0,
    )
    # 21 images in batches of 4 are 6 steps; the cosine is down after 2 epochs
    assert int(model.optimizer.iterations) == 12
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


def test_conventions_of_keras_tuner_applications(narrow):
    hp = keras_tuner.HyperParameters
    image = keras.Input((32, 32, 3))
    mirror = keras.Sequential([keras.layers.RandomFlip("horizontal")])
    model = HyperAlexNetMini(
        num_classes=4, input_tensor=image, augmentation_model=mirror, recipe=narrow
    ).build(hp())
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 4))
    assert any(isinstance(x, keras.Sequential) for x in model.layers)
    assert model.compiled
    body = HyperAlexNetMini(include_top=False, recipe=narrow).build(hp())
    assert body.output_shape == (None, 64)
    assert not body.compiled

    class Flips(keras_tuner.HyperModel):
        def build(self, hp):
            return keras.layers.RandomFlip(hp.Choice("flip", ["horizontal"]))

    found = hp()
    HyperAlexNetMini(augmentation_model=Flips(), recipe=narrow).build(found)
    assert "flip" in found.values


def test_compile_hook(narrow):
    class Own(HyperAlexNetMini):
        def _compile(self, model, hp):
            model.compile("adam", "mse")

    model = Own(recipe=narrow).build(keras_tuner.HyperParameters())
    assert model.loss == "mse"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"augmentation_model": "flip"}, "Received: augmentation_model='flip'"),
        ({"space": "alll"}, "Received: space='alll'"),
        ({"recipe": "fastest"}, "Received: recipe='fastest'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HyperAlexNetMini(**arguments)


def test_wrong_number_of_classes(narrow):
    with pytest.raises(ValueError, match="Received: num_classes=0"):
        HyperAlexNetMini(num_classes=0, recipe=narrow).build(
            keras_tuner.HyperParameters()
        )


def test_wrong_arrays(narrow):
    hypermodel = HyperAlexNetMini(recipe=narrow)
    images = np.zeros((2, 64, 64, 3), "uint8")
    with pytest.raises(ValueError, match=r"x of shape .*, y of shape \(3,\)"):
        hypermodel.fit(keras_tuner.HyperParameters(), None, images, [0, 1, 2], (0, 0))


def test_recipes_are_unchanged_by_default():
    hypermodel = HyperAlexNetMini()
    recipe = hypermodel.recipe(keras_tuner.HyperParameters())
    expected = dataclasses.replace(recipes.BASELINE, name="tuned", description="")
    assert recipe == expected
