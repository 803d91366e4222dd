"""Runs the trials of a search, each a resumable fit in a folder of its own."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial

from keras_tinyalex import devices, runs
from keras_tinyalex.datasets.batches import LabelledArrays
from keras_tinyalex.files import atomic_write, write_json
from keras_tinyalex.fitting import ResumableFit
from keras_tinyalex.recipes import Recipe
from keras_tinyalex.tuning.hypermodel import HyperAlexNetMini
from keras_tinyalex.tuning.oracles import Oracle
from keras_tinyalex.tuning.results import RESULT_FILE, read_result, trial_folder

# Seconds between two requests while the oracle waits for other trials.
IDLE_SECONDS = 0.5
# In `History`, but not metrics of a model.
_MEASUREMENTS = (
    *("epoch", "learning_rate", "half_size"),
    *("train_seconds", "seconds", "images_per_second"),
)


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
        """Waits a little where KerasTuner would ask again at once."""
        time.sleep(max(0.0, self._asked + IDLE_SECONDS - time.monotonic()))
        self._asked = time.monotonic()

    def on_trial_begin(self, trial: Trial) -> None:
        """Lets the next request start at once."""
        self._asked = -IDLE_SECONDS

    def run_trial(self, trial: Trial) -> dict[str, float]:
        """Trains a trial, or the rest of it; returns its metrics."""
        folder = Path(self.get_trial_dir(trial.trial_id))
        values = trial.hyperparameters.values
        recipe = self.hypermodel.recipe(trial.hyperparameters)
        epochs = values.get("tuner/epochs") or recipe.epochs
        first = values.get("tuner/trial_id") or trial.trial_id
        if first != trial.trial_id:
            past = trial_folder(folder.parent, first)
            _copy_checkpoint(past, folder, values["tuner/initial_epoch"])
        while before := self.oracle.get_trial(first).hyperparameters.values.get(
            "tuner/trial_id"
        ):
            first = before
        seed = trial_seed(self.seed, first)
        result = train_trial(recipe, self.data, seed, epochs, folder, self.progress)
        metrics: dict[str, float] = result["metrics"]
        return metrics


def trial_seed(seed: int, trial_id: str) -> int:
    """Returns the seed of a trial, from that of the search and its number."""
    return int(np.random.SeedSequence([seed, int(trial_id)]).generate_state(1)[0])


def _copy_checkpoint(past: Path, folder: Path, epoch: int) -> None:
    """Gives a trial the last checkpoint of the trial that it continues.

    Without it, the trial trains from its first epoch, with the same result.
    """
    source = past / "checkpoints" / f"epoch-{epoch:03}.npz"
    target = folder / "checkpoints"
    if source.exists() and not any(target.glob("epoch-*.npz")):
        target.mkdir(exist_ok=True)
        with source.open("rb") as old, atomic_write(target / source.name) as new:
            shutil.copyfileobj(old, new)


@devices.without_distribution()
def train_trial(
    recipe: Recipe,
    data: tuple[LabelledArrays, LabelledArrays],
    seed: int,
    epochs: int,
    folder: Path,
    progress: bool,
) -> dict[str, Any]:
    """Trains a recipe up to an epoch; resumes where it was stopped.

    It trains on all devices that JAX finds in this process.

    Args:
        recipe: A `Recipe`; its own epochs are the length of its schedule. The
            dtype `"auto"` is that of the search, see `runs.resolve_dtype`.
        data: Images to train on, and the held-out ones.
        seed: Of weights, dropout, order and augmentation.
        epochs: Epoch to stop after.
        folder: For `history.csv`, `checkpoints/` and `result.json`, in the
            folder of the search.
        progress: Whether to report progress on standard error.

    Returns:
        The content of `result.json`. Metrics are those of the last epoch, since
        `train` keeps the last model. A diverged training has accuracy 0.
    """
    if done := read_result(folder):  # killed before the oracle got the result
        return done
    keras.utils.clear_session()  # or each model stays in memory
    trial_id = folder.name.removeprefix("trial_")
    tensorboard = folder.parent / "tensorboard" / trial_id
    recipe_of_fit = runs.resolve_dtype(recipe, folder.parent)
    distribution = devices.distribution(devices.count(None))
    fit = ResumableFit(recipe_of_fit, *data, seed, folder, distribution=distribution)
    status = "completed"
    try:
        fit.run(epochs, tensorboard, progress, f"trial {trial_id}", epoch_lines=False)
    except FloatingPointError:
        status = "diverged"
    rows = fit.history.rows
    metrics = {n: v[-1] for n, v in rows.items() if n not in _MEASUREMENTS}
    if recipe.averaged and status == "completed":
        # The averaged weights became the model's after the last epoch.
        values = fit.model.evaluate(fit.val_batches, verbose=0, return_dict=True)
        metrics.update({f"val_{name}": float(v) for name, v in values.items()})
    if status == "diverged":
        metrics = {"val_accuracy": 0.0}
    result = {
        "status": status,
        "metrics": {name: round(value, 6) for name, value in metrics.items()},
        "epochs": len(rows.get("epoch", ())),
        "seconds": [round(s, 3) for s in rows.get("seconds", ())],
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
