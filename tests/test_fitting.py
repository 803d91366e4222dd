"""ResumableFit: phases, checkpoints, and stopped runs that resume."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_tinyalex import fitting, recipes, runs
from keras_tinyalex.checkpoints import BestWeights, Checkpoint

EPOCHS = 3  # of `quick`

pytestmark = pytest.mark.backend


@pytest.mark.parametrize(("recipe", "half"), [("sgd", 0), ("adamw", 0), ("muon", 1)])
def test_stopped_run_resumes_with_the_same_result(
    quick, weights_of, monkeypatch, recipe, half
):
    changes = {"optimizer": recipe, "schedule": "cosine", "augmentation": "crop_flip"}
    changes |= {"half_size_epochs": half, "folded_batch_norm": bool(half)}
    changes["epochs"] = EPOCHS
    # Batches of 2: many of them, so that their order matters.
    recipe = dataclasses.replace(recipes.BASELINE, batch_size=2, **changes)
    uninterrupted = quick("uninterrupted", recipe=recipe)
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
    assert (weights_of(resumed) == weights_of(uninterrupted)).all()
    assert resumed.history["loss"] == uninterrupted.history["loss"]
    assert resumed.history["epoch"] == [1, 2, 3]


def test_stopped_run_at_half_resolution_only_resumes(quick, weights_of):
    half = {"epochs": EPOCHS, "half_size_epochs": EPOCHS}
    recipe = dataclasses.replace(recipes.BASELINE, **half)
    finished = quick(recipe=recipe)
    (finished.path / "metrics.json").unlink()  # as if it had been stopped
    assert (weights_of(quick(recipe=recipe)) == weights_of(finished)).all()


def test_damaged_checkpoint_falls_back_to_the_previous_one(quick, weights_of):
    uninterrupted = quick("uninterrupted")
    folder = quick("damaged").path
    (folder / "metrics.json").unlink()
    last = folder / "checkpoints" / "epoch-003.npz"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.warns(UserWarning, match=r"epoch-003.npz is damaged") as warned:
        assert (weights_of(quick("damaged")) == weights_of(uninterrupted)).all()
    # epoch-002.npz was used
    assert sum("is damaged" in str(warning.message) for warning in warned) == 1


def test_divergence_is_reported_and_the_last_finite_checkpoint_kept(
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


def test_half_resolution_epochs_come_first(quick, monkeypatch):
    sizes = []

    class Sizes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            names = [layer.name for layer in self.model.layers]
            sizes.append((epoch, any("average" in name for name in names)))

    fit = fitting.fit

    def watched(*arguments, callbacks, **options):
        return fit(*arguments, callbacks=[*callbacks, Sizes()], **options)

    monkeypatch.setattr(fitting, "fit", watched)
    half = dataclasses.replace(recipes.BASELINE, epochs=EPOCHS, half_size_epochs=2)
    run = quick(recipe=half)
    assert sizes == [(0, True), (1, True), (2, False)]
    assert run.history["epoch"] == [1, 2, 3]
    assert "val_accuracy" in run.history


@pytest.mark.parametrize("half", [0, 1])
def test_learning_rate_and_half_size_of_each_epoch(quick, half):
    """Cosine from 0.1 over 3 epochs: at their ends 3/4, 1/4 and nothing of it."""
    recipe = dataclasses.replace(
        recipes.BASELINE,
        epochs=EPOCHS,
        learning_rate=0.1,
        schedule="cosine",
        half_size_epochs=half,
    )
    history = quick(recipe=recipe).history
    assert history["learning_rate"] == pytest.approx([0.075, 0.025, 0], abs=1e-6)
    assert history["half_size"] == [1] * half + [0] * (EPOCHS - half)


def test_a_line_says_that_an_epoch_was_at_half_size(quick, capsys):
    half = dataclasses.replace(recipes.BASELINE, epochs=2, half_size_epochs=1)
    quick(recipe=half, epochs=2, progress=True)
    lines = [x for x in capsys.readouterr().err.splitlines() if "val_accuracy" in x]
    assert [" (at half size)  " in line for line in lines] == [True, False]


class Recorder(keras.callbacks.Callback):
    """Records its calls, and logs a metric in every second epoch."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.calls, self.stop_after = [], stop_after

    def on_train_begin(self, logs=None):
        self.calls.append("begin")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(epoch)
        assert self.params["epochs"] == EPOCHS
        if epoch % 2:
            logs["mine"] = 10.0 * epoch
        if epoch == self.stop_after:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.calls.append("end")


HALF = dataclasses.replace(recipes.BASELINE, epochs=EPOCHS, half_size_epochs=1)


def test_callbacks_see_one_training_and_log_into_the_history(quick, tmp_path):
    recorder = Recorder()
    run = quick(recipe=HALF, callbacks=[recorder])
    assert recorder.calls == ["begin", 0, 1, 2, "end"]
    nan = float("nan")
    np.testing.assert_array_equal(run.history["mine"], [nan, 10, nan])
    np.testing.assert_array_equal(runs.read(run.path).history["mine"], [nan, 10, nan])
    assert quick(recipe=HALF, callbacks=[Recorder(0)]).already_finished


@pytest.mark.parametrize("last", [0, 1])
def test_a_callback_stops_all_phases(quick, last):
    """In the epoch at half size, and in the one after it."""
    recorder = Recorder(stop_after=last)
    run = quick(recipe=HALF, callbacks=[recorder])
    assert recorder.calls == ["begin", *range(last + 1), "end"]
    assert run.metrics["epochs"] == len(run.history["loss"]) == last + 1


def test_what_a_callback_changes_is_resumed(quick, weights_of, monkeypatch):
    """A rate halved after each epoch: of 0.01 the next ones have 0.005 and 0.0025."""

    def halving():
        return keras.callbacks.LearningRateScheduler(
            lambda epoch, rate: rate / 2 if epoch else rate
        )

    whole = quick("whole", callbacks=[halving()])
    assert whole.history["learning_rate"] == pytest.approx([0.01, 0.005, 0.0025])
    with pytest.raises(KeyboardInterrupt):
        quick("stopped", callbacks=[halving(), Interruption()])
    resumed = quick("stopped", callbacks=[halving()])
    assert resumed.history["learning_rate"] == whole.history["learning_rate"]
    assert (weights_of(resumed) == weights_of(whole)).all()


class Interruption(keras.callbacks.Callback):
    """Stops before the third epoch, as the user does."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "callbacks", [keras.callbacks.EarlyStopping(), [keras.callbacks.EarlyStopping], 5]
)
def test_wrong_callbacks(quick, tmp_path, callbacks):
    with pytest.raises(ValueError, match=r"`callbacks` must be a list of .*Received: "):
        quick(callbacks=callbacks)
    assert not (tmp_path / "run").exists()


def test_best_epoch_is_kept(quick, weights_of):
    """Of three epochs the second is made the best; a stopped run finds it again."""
    accuracies = [0.2, 0.9, 0.5]

    fake = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(val_accuracy=accuracies[epoch])
    )
    options = {"callbacks": [fake], "keep": "best"}
    run = quick("best", **options)
    assert run.metrics["kept_epoch"] == 2
    two = quick("two", epochs=2)  # the learning rate is constant
    assert (weights_of(run) == weights_of(two)).all()
    (run.path / "metrics.json").unlink()  # as if it had been stopped
    assert (weights_of(quick("best", **options)) == weights_of(two)).all()
    with pytest.raises(ValueError, match="keep differ"):
        quick("best")
    (run.path / "metrics.json").unlink()
    best = run.path / "checkpoints" / "best.npz"
    best.write_bytes(best.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"best\.npz must hold the weights of"):
        quick("best", **options)


def test_best_epoch_is_not_one_at_half_size(tmp_path):
    history = SimpleNamespace()
    best = BestWeights(tmp_path, history)
    history.rows = {"val_accuracy": [0.9, 0.4, 0.5, 0.5], "half_size": [1, 1, 0, 0]}
    assert best.epoch == 3
    history.rows = {"val_accuracy": [0.3, 0.4], "half_size": [1, 1]}
    assert best.epoch == 2
