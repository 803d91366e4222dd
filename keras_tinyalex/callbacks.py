"""Callbacks of a fit: history, checkpoints, TensorBoard, progress."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tinyalex.datasets.batches import Batches
from keras_tinyalex.files import atomic_write
from keras_tinyalex.progress import Progress, format_seconds

# The second newest is there in case the newest is damaged later.
MAX_CHECKPOINTS = 2


class History(keras.callbacks.Callback):  # type: ignore[misc]
    """Values by epoch, in `rows` and in a CSV file.

    Adds to the metrics `learning_rate`, as it is at the end of the epoch,
    `half_size`, 1 where the epoch trained and validated on images of half the
    size and else 0, `train_seconds`, the time of an epoch without its
    validation, `seconds`, the time with it, and `images_per_second`.

    Args:
        path: The CSV file.
        batches: The training batches.
        half_size_epochs: Number of first epochs at half the image size.
    """

    def __init__(self, path: Path, batches: Batches, half_size_epochs: int = 0) -> None:
        super().__init__()
        self.path = path
        self.images = len(batches.data.labels)
        self.half_size_epochs = half_size_epochs
        self.rows: dict[str, list[float]] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()
        self._validation_begin: float | None = None

    def on_test_begin(self, logs: Any = None) -> None:
        self._validation_begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        end = time.perf_counter()
        train_seconds = (self._validation_begin or end) - self._begin
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        # A callback that changed it for the next epoch leaves the old one in the logs.
        values = {"epoch": epoch + 1, "learning_rate": rate, **(logs or {})}
        values["half_size"] = epoch < self.half_size_epochs
        values["train_seconds"] = round(train_seconds, 3)
        values["seconds"] = round(end - self._begin, 3)
        values["images_per_second"] = round(self.images / train_seconds, 1)
        done = len(self.rows.get("epoch", ()))
        for name in {**values, **self.rows}:  # users' callbacks may log now and then
            column = self.rows.setdefault(name, [math.nan] * done)
            column.append(float(values.get(name, math.nan)))
        self.write()

    def write(self) -> None:
        """Writes all rows to the CSV file."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(self.rows)
        for values in zip(*self.rows.values(), strict=True):
            writer.writerow([f"{value:.7g}" for value in values])
        with atomic_write(self.path) as file:
            file.write(text.getvalue().encode())


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
        state["sha256"] = np.array(_digest(state))
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"epoch-{epoch + 1:03}.npz"
        try:
            with atomic_write(path, sync=True) as file:
                np.savez(file, **state)
        except OSError as error:
            raise OSError(
                error.errno,
                f"The training stopped after epoch {epoch + 1}: its checkpoint cannot "
                f"be saved ({error.strerror}). The epochs before it are safe. Fix the "
                "cause, and the same call resumes from there",
            ) from error
        for old in self._paths()[:-MAX_CHECKPOINTS]:
            old.unlink()

    def restore(self, model: keras.Model) -> int:
        """Restores the newest intact checkpoint; returns its epoch, or 0."""
        model.optimizer.build(model.trainable_variables)
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


class TensorBoardScalars(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes the scalars of each epoch for TensorBoard, without TensorFlow.

    Names and folders are those of `keras.callbacks.TensorBoard`:
    `epoch_<metric>` under `train/` and `validation/`.

    Args:
        folder: The log folder.
        history: The `History`. Its earlier epochs are written first, so that
            a resumed training shows one curve.
    """

    def __init__(self, folder: Path, history: History) -> None:
        super().__init__()
        self.folder = folder
        self.history = history

    def on_train_begin(self, logs: Any = None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._writers: dict[str, Any] = {}
        for run in ("train", "validation"):  # or fail before the first epoch
            self._writer(run)
        for epoch in range(len(self.history.rows.get("epoch", ()))):
            self._write(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._write(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        for file, _ in self._writers.values():
            file.close()

    def _write(self, epoch: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name, values in self.history.rows.items():
            if name in ("epoch", "seconds"):
                continue
            run = "validation" if name.startswith("val_") else "train"
            tag = f"epoch_{name.removeprefix('val_')}"
            value = Summary.Value(tag=tag, simple_value=values[epoch])
            event = Event(
                step=epoch, wall_time=time.time(), summary=Summary(value=[value])
            )
            self._writer(run).write(event.SerializeToString())
        for file, _ in self._writers.values():
            file.flush()

    def _writer(self, run: str) -> Any:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        if run not in self._writers:
            folder = self.folder / run
            folder.mkdir(parents=True)
            name = f"events.out.tfevents.{int(time.time())}.{os.getpid()}"
            file = (folder / name).open("wb")
            writer = RecordWriter(file)
            start = Event(wall_time=time.time(), file_version="brain.Event:2")
            writer.write(start.SerializeToString())
            self._writers[run] = (file, writer)
        return self._writers[run][1]


class ProgressReport(keras.callbacks.Callback):  # type: ignore[misc]
    """Advances a progress bar with each step, and prints a line for each epoch.

    Args:
        bar: The open `Progress`, in images.
        epochs: Number of all epochs.
        batches: The training batches.
        history: The `History` with the values to print.
        epoch_lines: Whether to print the lines.
    """

    def __init__(
        self,
        bar: Progress,
        epochs: int,
        batches: Batches,
        history: History,
        epoch_lines: bool = True,
    ) -> None:
        super().__init__()
        self.bar = bar
        self.epochs = epochs
        self.batches = batches
        self.history = history
        self.epoch_lines = epoch_lines

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.bar.advance(0, note=f"epoch {epoch + 1}/{self.epochs}")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        images = len(self.batches.data.labels)
        size = self.batches.batch_size
        self.bar.advance(min(size, images - batch * size))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self.epoch_lines:
            return
        last = {name: values[-1] for name, values in self.history.rows.items()}
        left = (self.epochs - epoch - 1) * last["seconds"]
        half_size = " (at half size)" if last["half_size"] else ""
        self.bar.message(
            f"epoch {epoch + 1}/{self.epochs}  "
            f"loss {last['loss']:.4f}  accuracy {last['accuracy']:.4f}  "
            f"val_loss {last['val_loss']:.4f}  "
            f"val_accuracy {last['val_accuracy']:.4f}{half_size}  "
            f"{last['images_per_second']:,.0f} images/s  "
            f"{format_seconds(left)} left"
        )
