"""Callbacks of a fit: history, TensorBoard, progress."""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import keras

from keras_tinyalex.datasets.batches import Batches
from keras_tinyalex.files import atomic_write
from keras_tinyalex.progress import Progress, format_seconds


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
