"""Reading and restructuring images, imports and predictions."""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from measure import paired, row

LOAD_OURS = """
from keras_tinyalex.datasets.tiny_imagenet import load_dataset
for images, labels in load_dataset({folder!r}): pass
"""
FIRST_BATCH = """
from keras_tinyalex.datasets.tiny_imagenet import load_dataset
next(iter(load_dataset({folder!r})))
"""
LOAD_KERAS = """
import keras, tensorflow as tf
data = keras.utils.image_dataset_from_directory(
    {folder!r} + "/train_images", image_size=(64, 64), batch_size=16, verbose=0)
data = data.map(lambda x, y: (x / 255.0, y)).cache().prefetch(tf.data.AUTOTUNE)
for images, labels in data: pass
"""
MEASURED = """
import time
import keras_tinyalex
import tensorflow
start = time.perf_counter()
{code}
import resource
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return [float(word) for word in done.stdout.split()]


def loading(folder, rounds):
    """First epoch through the data in new processes: seconds and memory peak.

    Each of ours finds an empty cache, which one more process then finds filled.
    """
    ours = MEASURED.format(code=LOAD_OURS.format(folder=folder))
    theirs = MEASURED.format(code=LOAD_KERAS.format(folder=folder))
    pairs, again = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as home:
            pairs.append((python(ours, KERAS_HOME=home), python(theirs)))
            first = MEASURED.format(code=FIRST_BATCH.format(folder=folder))
            again.append(python(first, KERAS_HOME=home)[0])
    idle = python(MEASURED.format(code=""))[1]
    against = "image_dataset_from_directory, map, cache"
    for index, what, target, base in (
        (0, "first pass over the images, s", 2, 0),
        (1, "its memory, KiB", 3, idle),
    ):
        row(
            what,
            against,
            statistics.median((t[index] - base) / (o[index] - base) for o, t in pairs),
            target,
            ours=statistics.median(o[index] - base for o, _ in pairs),
            theirs=statistics.median(t[index] - base for _, t in pairs),
            rounds=rounds,
        )
    second = statistics.median(again)
    row("second start to the first batch, s", "1 s", 1 / second, 1, ours=second)


def restructuring(official, scratch, rounds):
    """Leaves the copy in `scratch/out`."""
    from keras_tinyalex.datasets.tiny_imagenet import restructure

    target = scratch / "out"

    def ours(mode):
        def run():
            shutil.rmtree(target, ignore_errors=True)
            restructure(official, target, mode=mode, progress=False)

        return run

    def theirs(option):
        def run():
            shutil.rmtree(target, ignore_errors=True)
            subprocess.run(["cp", option, official, target], check=True)

        return run

    for mode, option in (("hardlink", "-al"), ("copy", "-r")):
        pair = ours(mode), theirs(option)
        paired(f"restructure, {mode}", f"cp {option}", *pair, 1 / 1.5, rounds=rounds)
    ours("copy")()


def importing(rounds):
    code = "import time; a = time.perf_counter(); import {}\nb = time.perf_counter()"
    code += "\nprint(b - a)"
    pairs = [
        (python(code.format("keras_tinyalex"))[0], python(code.format("keras"))[0])
        for _ in range(rounds)
    ]
    added = statistics.median((ours - theirs) * 1e3 for ours, theirs in pairs)
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    row("import keras_tinyalex", "import keras", ratio, added_ms=added, rounds=rounds)


def predicting():
    import numpy as np

    from keras_tinyalex import AlexNetMini

    model = AlexNetMini()
    for batch_size in (1, 256):
        x = np.zeros((batch_size, 64, 64, 3), np.uint8)
        paired(
            f"predict, batch {batch_size}",
            "model(x), no predict loop",
            lambda x=x: model.predict_on_batch(x),
            lambda x=x: np.asarray(model(x)),
        )


def main(archive, rounds):
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        with zipfile.ZipFile(archive) as file:
            file.extractall(scratch / "zip")
        official = next(path for path in (scratch / "zip").rglob("train")).parent
        restructuring(official, scratch, rounds)
        loading(str(scratch / "out"), rounds)
    importing(rounds)
    predicting()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", help="zip of images in the official layout")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    main(options.archive, options.rounds)
