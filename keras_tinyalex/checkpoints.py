"""Weights of a training in files: the newest to resume from, and the best."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tinyalex.callbacks import History
from keras_tinyalex.datasets.batches import Batches
from keras_tinyalex.files import atomic_write

# The second newest is there in case the newest is damaged later.
MAX_CHECKPOINTS = 2
BEST_FILE = "best.npz"


class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the state of a training after each epoch, to resume from.

    That is the weights, the optimizer's state, the seeds of dropout and the
    history. The order of the images follows from the seed and the epoch, and
    so does torch's global generator. Files are written atomically, and the two
    newest are kept: where the SHA-256 of the newest is wrong, the training
    resumes from the other one, with a warning.

    Stops the training with `FloatingPointError` instead of saving a model that
    is no longer finite, and with `OSError` where a file cannot be written, as
    on a full disk.

    Args:
        folder: Where the files `epoch-<n>.npz` go.
        batches: The training batches, set to the right epoch.
        history: The `History` to save and restore.
    """

    def __init__(self, folder: Path, batches: Batches, history: History) -> None:
        super().__init__()
        self.folder = folder
        self.batches = batches
        self.history = history

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.batches.epoch = epoch
        if keras.backend.backend() == "torch":
            # Keras' Dropout draws from torch's global generator there.
            import torch

            seeds = np.random.SeedSequence([self.batches.seed, epoch])
            torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        variables = _state_variables(self.model)
        state = {name: _as_array(variable) for name, variable in variables.items()}
        bad = [
            variables[name].path
            for name, values in state.items()
            if values.dtype.kind == "f" and not np.isfinite(values).all()
        ]
        _refuse_divergence(epoch + 1, (logs or {}).get("loss", 0.0), bad, self._paths())
        for name, values in self.history.rows.items():
            state[f"history/{name}"] = np.array(values)
        path = self.folder / f"epoch-{epoch + 1:03}.npz"
        _save(path, state, epoch + 1)
        for old in self._paths()[:-MAX_CHECKPOINTS]:
            old.unlink()

    def restore(self, model: keras.Model) -> int:
        """Restores the newest intact checkpoint; returns its epoch, or 0."""
        variables = _state_variables(model)
        for path in reversed(self._paths()):
            try:
                saved = _read_checkpoint(path)
                rows = {
                    name.removeprefix("history/"): saved.pop(name).tolist()
                    for name in list(saved)
                    if name.startswith("history/")
                }
                if saved.keys() != variables.keys():
                    raise ValueError("it belongs to another model")
            except Exception as error:  # NumPy and zipfile raise all kinds here
                warnings.warn(
                    f"The checkpoint {path} is damaged and was not used: {error}. The "
                    "training resumes from the one before it.",
                    stacklevel=2,
                )
                continue
            for name, variable in variables.items():
                variable.assign(saved[name])
            self.history.rows = rows
            self.history.write()
            return int(path.stem.split("-")[1])
        return 0

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.npz"))


class BestWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights of the epoch with the best validation accuracy.

    Epochs that validate at half the image size count only where all do: their
    accuracies are not those of the finished model.

    Args:
        folder: Where the file `best.npz` goes.
        history: The `History`, which must come before this callback.
    """

    def __init__(self, folder: Path, history: History) -> None:
        super().__init__()
        self.path = folder / BEST_FILE
        self.history = history

    @property
    def epoch(self) -> int:
        """The best epoch so far, from 1; the first of equal ones."""
        rows = self.history.rows
        accuracies = np.array(rows["val_accuracy"])
        half = np.array(rows["half_size"]) == 1
        if not half.all():
            accuracies[half] = -1
        return int(np.argmax(accuracies)) + 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.epoch != epoch + 1:
            return
        arrays = {str(i): _as_array(w) for i, w in enumerate(self.model.weights)}
        arrays["epoch"] = np.array(epoch + 1)
        _save(self.path, arrays, epoch + 1)

    def restore(self, model: keras.Model) -> int:
        """Gives the best weights to a model; returns their epoch.

        Raises:
            ValueError: If the file is damaged or missing.
        """
        try:
            saved = _read_checkpoint(self.path)
            if int(saved["epoch"]) != self.epoch:
                raise ValueError(f"it is of epoch {saved['epoch']}, not {self.epoch}")
        except Exception as error:  # NumPy and zipfile raise all kinds here
            raise ValueError(
                f"{self.path} must hold the weights of the best epoch, but cannot be "
                f"used: {error}. resume=False (--no-resume) trains again"
            ) from error
        for i, variable in enumerate(model.weights):
            variable.assign(saved[str(i)])
        return self.epoch


def copy_state(source: keras.Model, target: keras.Model) -> None:
    """Gives the weights, seeds and optimizer state of a model to one of its kind."""
    variables = _state_variables(source)
    for name, variable in _state_variables(target).items():
        variable.assign(keras.ops.convert_to_numpy(variables[name]))


def _save(path: Path, arrays: dict[str, Any], epoch: int) -> None:
    path.parent.mkdir(exist_ok=True)
    try:
        with atomic_write(path, sync=True) as file:
            np.savez(file, **arrays, sha256=np.array(_digest(arrays)))
    except OSError as error:
        raise OSError(
            error.errno,
            f"The training stopped after epoch {epoch}: its checkpoint cannot "
            f"be saved ({error.strerror}). The epochs before it are safe. Fix the "
            "cause, and the same call resumes from there",
        ) from error


def _state_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """All variables of the model and its optimizer, by a stable name.

    Not by their paths, in which Keras counts the optimizers and seeds that the
    process made before.
    """
    metrics = {id(v) for metric in model.metrics for v in metric.variables}
    variables = [v for v in model.variables if id(v) not in metrics]
    named = {f"model/{i}/{v.name}": v for i, v in enumerate(variables)}
    for i, variable in enumerate(model.optimizer.variables):
        named[f"optimizer/{i}/{variable.name}"] = variable
    return named


def _as_array(variable: keras.Variable) -> Any:
    """The values as a NumPy array of a dtype that a file can hold."""
    values = keras.ops.convert_to_numpy(variable)
    # NumPy has no bfloat16, and float32 holds its values exactly.
    return values.astype(np.float32) if values.dtype.kind == "V" else values


def _digest(state: Mapping[str, Any]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, values in sorted(state.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _read_checkpoint(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        saved = dict(file)
    expected = str(saved.pop("sha256", "none"))
    if (found := _digest(saved)) != expected:
        raise ValueError(f"its SHA-256 is {found}, not {expected}")
    return saved


def _refuse_divergence(
    epoch: int, loss: float, bad: Sequence[str], kept: Sequence[Path]
) -> None:
    if np.isfinite(loss) and not bad:
        return
    where = f", weights not finite: {', '.join(bad[:5])}" if bad else ""
    last = f"The last finite checkpoint is {kept[-1]}. " if kept else ""
    raise FloatingPointError(
        f"The training diverged in epoch {epoch}: loss {loss}{where}. {last}A lower "
        "learning rate is the usual cure."
    )
