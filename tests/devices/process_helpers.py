"""Processes of one training, started as from the command line."""

import dataclasses
import os
import socket
import subprocess
import sys

import numpy as np
from PIL import Image

from keras_tinyalex import recipes
from keras_tinyalex.applications import load_model


class Processes:
    """Starts `keras-tinyalex train` in several processes, and ends them all.

    The network has a quarter of its width, and trains on images of 16 x 16 pixels, if
    not told otherwise, in batches of 10.
    """

    def __init__(
        self, folder, data, count, *options, recipe="baseline", epochs=2, size=16
    ):
        file = folder / f"{recipe}.json"
        changes = {"width_multiplier": 1 / 4, "batch_size": 10, "dtype": "float32"}
        dataclasses.replace(recipes.get(recipe).over(epochs), **changes).save(file)
        self.count = count
        self.command = [sys.executable, "-m", "keras_tinyalex", "train"]
        self.command += ["--recipe", file, "--data", data, "--image-size", size]
        self.command += options
        self.environment = {
            **os.environ,
            "KERAS_BACKEND": "jax",
            # The same programs are compiled again and again.
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.coordinator = "{}:{}".format(*server.getsockname())
        self.all = []

    def start(self, output, **options_of):
        """Starts all; `options_of` has further options by `process_<id>`."""
        for number in range(self.count):
            options = ["--output", output, *options_of.get(f"process_{number}", ())]
            if self.count > 1:
                options += ["--processes", self.count, "--process-id", number]
                options += ["--coordinator", self.coordinator]
            process = subprocess.Popen(
                [str(part) for part in (*self.command, *options)],
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.all.append(process)
        return self.all

    def finish(self, timeout=1800):
        """Waits for all; returns exit statuses and what they wrote, by process."""
        errors = [process.communicate(timeout=timeout)[1] for process in self.all]
        return [process.returncode for process in self.all], errors

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.all:
            process.kill()
            process.communicate()


def train_in(folder, data, count, output, *options, **arguments):
    with Processes(folder, data, count, *options, **arguments) as processes:
        processes.start(folder / output)
        statuses, errors = processes.finish()
    assert statuses == [0] * count, "\n".join(errors)[-3000:]
    return errors


def roughen(folder):
    """Gives the images of a folder structure."""
    generator = np.random.default_rng(0)
    for path in sorted(folder.rglob("*.JPEG")):
        pixels = np.asarray(Image.open(path)) // 2
        pixels += generator.integers(0, 128, pixels.shape, np.uint8)
        Image.fromarray(pixels).save(path, "JPEG", quality=95)


def weights_of(run):
    model, _ = load_model(run / "model.keras")
    return np.concatenate([np.ravel(w) for w in model.get_weights()])
