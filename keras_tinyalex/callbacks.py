"""Callbacks of `train`: history, checkpoints, TensorBoard, progress."""

from __future__ import annotations

import csv
import os
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tinyalex.datasets.tiny_imagenet import Batches
from keras_tinyalex.progress import Progress, format_seconds

# The one before the newest stays in case that is damaged later.
CHECKPOINTS_KEPT = 2


class History(keras.callbacks.Callback):  # type: ignore[misc]
    """Values by epoch, kept in `rows` and written to a CSV file.

    Beside the metrics it measures `train_seconds`, the time of an epoch
    without its validation, `seconds` with it, and `images_per_second`.
    Puts its measurements into `logs` for the callbacks behind it.

    Args:
        path: The CSV file.
        batches: The training batches.
    """

    def __init__(self, path: Path, batches: Batches) -> None:
        super().__init__()
        self.path = path
        self.images = len(batches.data.labels)
        self.rows: dict[str, list[float]] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()
        self._validation_begin: float | None = None

    def on_test_begin(self, logs: Any = None) -> None:
        self._validation_begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        end = time.perf_counter()
        train_seconds = (self._validation_begin or end) - self._begin
        values = {"epoch": epoch + 1, **(logs or {})}
        values["train_seconds"] = round(train_seconds, 3)
        values["seconds"] = round(end - self._begin, 3)
        values["images_per_second"] = round(self.images / train_seconds, 1)
        for name, value in values.items():
            self.rows.setdefault(name, []).append(float(value))
        self.write()

    def write(self) -> None:
        """Writes all rows aside and moves the file into place."""
        aside = self.path.with_name(self.path.name + ".part")
        with aside.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.rows)
            for values in zip(*self.rows.values(), strict=True):
                writer.writerow([f"{value:.7g}" for value in values])
        os.replace(aside, self.path)


class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves all that the rest of a training depends on, after each epoch.

    That is the weights, the optimizer's state, the seeds of dropout and the
    history; the order of the images follows from the seed and the epoch, and
    so does torch's global generator. A file is written aside, synced and
    renamed, and the one before it stays.

    Stops the training with `FloatingPointError` before saving a model that
    is no longer finite.

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
        state: dict[str, Any] = {
            name: keras.ops.convert_to_numpy(variable)
            for name, variable in _state_variables(self.model).items()
        }
        _check_finite(epoch + 1, (logs or {}).get("loss", 0.0), state)
        for name, values in self.history.rows.items():
            state[f"history/{name}"] = np.array(values)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"epoch-{epoch + 1:03}.npz"
        aside = path.with_name(path.name + ".part")
        with aside.open("wb") as file:
            np.savez(file, **state)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        for old in self._paths()[:-CHECKPOINTS_KEPT]:
            old.unlink()

    def restore(self, model: Any) -> int:
        """Restores the newest whole checkpoint; returns its epoch, or 0."""
        for path in reversed(self._paths()):
            try:
                with np.load(path, allow_pickle=False) as file:
                    saved = dict(file)
            except (OSError, ValueError, EOFError, zipfile.BadZipFile):
                continue  # damaged: the one before it is whole
            model.optimizer.build(model.trainable_variables)
            variables = _state_variables(model)
            rows = {
                name.removeprefix("history/"): saved.pop(name).tolist()
                for name in list(saved)
                if name.startswith("history/")
            }
            if saved.keys() != variables.keys():
                continue
            for name, variable in variables.items():
                variable.assign(saved[name])
            self.history.rows = rows
            self.history.write()
            return int(path.stem.split("-")[1])
        return 0

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.npz"))


def _state_variables(model: Any) -> dict[str, Any]:
    """All variables of the model and its optimizer, by a stable name."""
    metrics = {id(v) for metric in model.metrics for v in metric.variables}
    variables = [v for v in model.variables if id(v) not in metrics]
    named = {f"model/{i}/{_stable(v.path)}": v for i, v in enumerate(variables)}
    for i, variable in enumerate(model.optimizer.variables):
        named[f"optimizer/{i}/{variable.name}"] = variable
    return named


def _stable(path: str) -> str:
    """Leaves out the number that Keras gives the n-th seed of a process."""
    return path.rpartition("/")[2] if path.startswith("seed_generator") else path


def _check_finite(epoch: int, loss: float, state: Mapping[str, Any]) -> None:
    bad = [
        name.split("/", 2)[2]
        for name, value in state.items()
        if value.dtype.kind == "f" and not np.isfinite(value).all()
    ]
    if not np.isfinite(loss) or bad:
        where = f", weights not finite: {', '.join(bad[:5])}" if bad else ""
        raise FloatingPointError(
            f"The training diverged in epoch {epoch}: loss {loss}{where}. The last "
            "finite state is in checkpoints/. A smaller learning rate is the usual "
            "cure."
        )


class TensorBoardScalars(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes the scalars of each epoch for TensorBoard, without TensorFlow.

    Names and folders are those of `keras.callbacks.TensorBoard`:
    `epoch_<metric>` under `train/` and `validation/`.

    Args:
        folder: The log folder.
        history: The `History` whose earlier epochs are written first, so
            that a resumed training shows one unbroken curve.
    """

    def __init__(self, folder: Path, history: History) -> None:
        super().__init__()
        self.folder = folder
        self.history = history

    def on_train_begin(self, logs: Any = None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._writers: dict[str, Any] = {}
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
    """Advances a bar with each step and prints a line for each epoch.

    Args:
        bar: The open `Progress`, in images.
        epochs: Number of all epochs.
        batches: The training batches.
        history: The `History` with the values to show.
    """

    def __init__(
        self, bar: Progress, epochs: int, batches: Batches, history: History
    ) -> None:
        super().__init__()
        self.bar = bar
        self.epochs = epochs
        self.batches = batches
        self.history = history

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.bar.advance(0, note=f"epoch {epoch + 1}/{self.epochs}")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        images = len(self.batches.data.labels)
        size = self.batches.batch_size
        self.bar.advance(min(size, images - batch * size))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        last = {name: values[-1] for name, values in self.history.rows.items()}
        left = (self.epochs - epoch - 1) * last["seconds"]
        self.bar.message(
            f"epoch {epoch + 1}/{self.epochs}  "
            f"loss {last['loss']:.4f}  accuracy {last['accuracy']:.4f}  "
            f"val_loss {last['val_loss']:.4f}  "
            f"val_accuracy {last['val_accuracy']:.4f}  "
            f"{last['images_per_second']:,.0f} images/s  "
            f"{format_seconds(left)} left"
        )
