"""Runs trials: a training each, in a folder of its own, that can be resumed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np

from keras_tinyalex.building import build
from keras_tinyalex.callbacks import Checkpoint, History, TensorBoardScalars
from keras_tinyalex.datasets.tiny_imagenet import LabelledArrays
from keras_tinyalex.files import write_json
from keras_tinyalex.progress import Progress
from keras_tinyalex.recipes import Recipe
from keras_tinyalex.training import fit, make_batches
from keras_tinyalex.tuning.hypermodel import HyperAlexNetMini
from keras_tinyalex.tuning.oracles import Oracle
from keras_tinyalex.tuning.results import RESULT_FILE, read_result, trial_folder

# Seconds between two requests where the oracle has to wait for other trials.
IDLE_SECONDS = 0.5
# In `History` but no metric of a model.
_MEASUREMENTS = ("epoch", "train_seconds", "seconds", "images_per_second")


class Tuner(keras_tuner.Tuner):  # type: ignore[misc]
    """Runs the trials of an oracle in a folder.

    Args:
        oracle: From `make_oracle`.
        hypermodel: The search space.
        folder: Of the search.
        train_data: To train on.
        val_data: The held-out images.
        seed: Of the search.
        progress: Whether to report progress on standard error.
    """

    def __init__(
        self,
        oracle: Oracle,
        hypermodel: HyperAlexNetMini,
        folder: Path,
        train_data: LabelledArrays,
        val_data: LabelledArrays,
        seed: int,
        progress: bool,
    ) -> None:
        self.data = (train_data, val_data)
        self.seed = seed
        self.progress = progress
        self._asked = -IDLE_SECONDS
        super().__init__(
            oracle, hypermodel, directory=folder.parent, project_name=folder.name
        )

    def _populate_initial_space(self) -> None:
        # KerasTuner would build a model for each condition of the space.
        hp = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(hp)
        self.oracle.update_space(hp)

    def _get_tuner_fname(self) -> str:
        return str(Path(self.project_dir, "oracle.json"))

    def save(self) -> None:
        """Saves the oracle: the tuner itself has no state."""
        if not self._is_worker():
            self.oracle.save()

    def reload(self) -> None:
        """Reloads the oracle."""
        if self._is_worker():
            self._populate_initial_space()
        else:
            self.oracle.reload()

    def pre_create_trial(self) -> None:
        """Waits where KerasTuner would ask again at once."""
        time.sleep(max(0.0, self._asked + IDLE_SECONDS - time.monotonic()))
        self._asked = time.monotonic()

    def on_trial_begin(self, trial: Any) -> None:
        """Notes that a trial came, so that the next request need not wait."""
        self._asked = -IDLE_SECONDS

    def run_trial(self, trial: Any) -> dict[str, float]:
        """Trains one trial, or what is left of it; returns its metrics."""
        folder = Path(self.get_trial_dir(trial.trial_id))
        values = trial.hyperparameters.values
        recipe = self.hypermodel.recipe(trial.hyperparameters)
        epochs = values.get("tuner/epochs") or recipe.epochs
        first = values.get("tuner/trial_id") or trial.trial_id
        if first != trial.trial_id:
            past = trial_folder(folder.parent, first)
            _continue_from(past, folder, values["tuner/initial_epoch"])
        while before := self.oracle.get_trial(first).hyperparameters.values.get(
            "tuner/trial_id"
        ):
            first = before
        seed = trial_seed(self.seed, first)
        result = train_trial(recipe, self.data, seed, epochs, folder, self.progress)
        metrics: dict[str, float] = result["metrics"]
        return metrics


def trial_seed(seed: int, trial_id: str) -> int:
    """Returns the seed of a trial: it depends on the search's and its number."""
    return int(np.random.SeedSequence([seed, int(trial_id)]).generate_state(1)[0])


def _continue_from(past: Path, folder: Path, epoch: int) -> None:
    """Starts a trial with the last checkpoint of another one.

    Where that is gone, the trial trains from its first epoch, to the same end.
    """
    source = past / "checkpoints" / f"epoch-{epoch:03}.npz"
    target = folder / "checkpoints"
    if source.exists() and not any(target.glob("epoch-*.npz")):
        target.mkdir(exist_ok=True)
        aside = target / (source.name + ".part")
        shutil.copyfile(source, aside)
        os.replace(aside, target / source.name)


def train_trial(
    recipe: Recipe,
    data: tuple[LabelledArrays, LabelledArrays],
    seed: int,
    epochs: int,
    folder: Path,
    progress: bool,
) -> dict[str, Any]:
    """Trains a recipe up to an epoch; goes on where it was stopped.

    Args:
        recipe: A `Recipe`; its own epochs are the length of its schedule.
        data: Images to train on, and the held-out ones.
        seed: Of weights, dropout, order and augmentation.
        epochs: Epoch to stop behind.
        folder: For `history.csv`, `checkpoints/` and `result.json`.
        progress: Whether to report progress on standard error.

    Returns:
        What `result.json` holds. Metrics are those of the last epoch, as
        `train` keeps its model. A training that diverged has the accuracy 0.
    """
    if done := read_result(folder):  # killed before the oracle heard of it
        return done
    keras.utils.clear_session()  # or each model stays in memory
    model = build(recipe, data[0], seed)
    batches, val_batches = make_batches(recipe, *data, seed)
    history = History(folder / "history.csv", batches)
    checkpoint = Checkpoint(folder / "checkpoints", batches, history)
    begun = checkpoint.restore(model)
    images = len(data[0].labels)
    to_do = images * (epochs - begun)
    trial_id = folder.name.removeprefix("trial_")
    tensorboard = folder.parent / "tensorboard" / trial_id
    status = "completed"
    with Progress(f"trial {trial_id}", to_do, "images", progress) as bar:
        advance = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: bar.advance(
                images, f"epoch {epoch + 1}/{epochs}"
            )
        )
        try:
            fit(
                model,
                recipe,
                batches,
                val_batches,
                epochs,
                initial_epoch=begun,
                verbose=0,
                callbacks=[
                    history,
                    checkpoint,
                    TensorBoardScalars(tensorboard, history),
                    advance,
                ],
            )
        except FloatingPointError:
            status = "diverged"
    rows = history.rows.items()
    metrics = {name: v[-1] for name, v in rows if name not in _MEASUREMENTS}
    if recipe.ema_momentum and status == "completed":
        # The averaged weights became the model's behind the last epoch.
        values = model.evaluate(val_batches, verbose=0, return_dict=True)
        metrics.update({f"val_{name}": float(v) for name, v in values.items()})
    if status == "diverged":
        metrics = {"val_accuracy": 0.0}
    result = {
        "status": status,
        "metrics": {name: round(value, 6) for name, value in metrics.items()},
        "epochs": len(history.rows.get("epoch", ())),
        "seconds": [round(s, 3) for s in history.rows.get("seconds", ())],
        "seed": seed,
        "recipe": recipe.as_dict(),
    }
    write_hparams(tensorboard, trial_id, result)
    write_json(folder / RESULT_FILE, result)
    return result


def write_hparams(folder: Path, trial_id: str, result: dict[str, Any]) -> None:
    """Writes a trial's hyperparameters for TensorBoard's HParams page."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams import summary_v2
    from tensorboard.summary.writer.record_writer import RecordWriter

    values = {
        name: "none" if value is None else value
        for name, value in result["recipe"].items()
        if name not in ("name", "description")
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"events.out.tfevents.{int(time.time())}.hparams").open("wb") as f:
        writer = RecordWriter(f)
        start = Event(wall_time=time.time(), file_version="brain.Event:2")
        writer.write(start.SerializeToString())
        summary = summary_v2.hparams_pb(values, trial_id)
        event = Event(wall_time=time.time(), summary=summary)
        writer.write(event.SerializeToString())
