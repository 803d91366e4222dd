"""ResumableFit: phases, checkpoints, and stopped runs that resume."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_tinyalex import fitting, recipes
from keras_tinyalex.callbacks import Checkpoint

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
