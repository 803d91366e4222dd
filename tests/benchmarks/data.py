"""Measures reading and restructuring of images, imports and predictions.

    TF_ENABLE_ONEDNN_OPTS=1 python tests/benchmarks/data.py tiny-imagenet-20.zip

Each row compares ours with the tool of Keras or the shell that does the same.
"""

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

# The public names import Keras and the rest of the package when they are first used;
# `tuning` also imports KerasTuner.
IMPORT_NAMES = """
import keras_tinyalex
for name in set(keras_tinyalex.__all__) - {"tuning"}: getattr(keras_tinyalex, name)
"""
LOAD_OURS = """
from keras_tinyalex.datasets.tiny_imagenet import load_dataset
for images, labels in load_dataset({folder!r}): pass
"""
FIRST_BATCH = """
from keras_tinyalex.datasets.tiny_imagenet import load_dataset
next(iter(load_dataset({folder!r})))
"""
DECODE_ALONE = """
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.images import decode_image
opened = open_source({folder!r})
for image in opened.images["train"]: decode_image(opened.read(image))
"""
LOAD_KERAS = """
import keras, tensorflow as tf
data = keras.utils.image_dataset_from_directory(
    {folder!r} + "/train_images", image_size=(64, 64), batch_size=16, verbose=0)
data = data.map(lambda x, y: (x / 255.0, y)).cache().prefetch(tf.data.AUTOTUNE)
for images, labels in data: pass
"""
START = """
import time
start = time.perf_counter()
"""
STOP = """
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
    """Loads the images in new processes: seconds, and memory of the first pass.

    Our first pass and first start find an empty cache, the second start a full one.
    """
    imports = f"{IMPORT_NAMES}\nimport tensorflow\n{START}"
    all_images, first, decoding, keras = (
        imports + code.format(folder=folder) + STOP
        for code in (LOAD_OURS, FIRST_BATCH, DECODE_ALONE, LOAD_KERAS)
    )
    rows = []
    for _ in range(rounds):
        with (
            tempfile.TemporaryDirectory() as home,
            tempfile.TemporaryDirectory() as new,
        ):
            pair = python(all_images, KERAS_HOME=home), python(keras)
            start, again = (python(first, KERAS_HOME=h)[0] for h in (new, home))
            rows.append((*pair, start, again, python(decoding)[0]))
    idle = python(imports + STOP)[1]
    passes, kerases, starts, later, decodings = zip(*rows, strict=True)
    keras_s = [seconds for seconds, _ in kerases]
    memory = [peak - idle for _, peak in passes], [peak - idle for _, peak in kerases]
    for what, target, ours, theirs in (
        ("first start to the first batch, s", 2, starts, keras_s),
        ("first pass over the images, s", None, [s for s, _ in passes], keras_s),
        ("its memory, KiB", 3, *memory),
        ("one core decoding, nothing else, s", None, decodings, keras_s),
    ):
        row(
            what,
            "a pass of image_dataset_from_directory, map, cache",
            statistics.median(t / o for o, t in zip(ours, theirs, strict=True)),
            target,
            ours=statistics.median(ours),
            theirs=statistics.median(theirs),
            rounds=rounds,
        )
    second = statistics.median(later)
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
    def seconds(code):
        return python(START + code + STOP, PYTHONDONTWRITEBYTECODE="")[0]

    seconds(IMPORT_NAMES)  # writes the bytecode, as pip does
    for what, code in (
        ("import keras_tinyalex", "import keras_tinyalex"),
        ("import keras_tinyalex and its names", IMPORT_NAMES),
    ):
        pairs = [(seconds(code), seconds("import keras")) for _ in range(rounds)]
        added = statistics.median((ours - theirs) * 1e3 for ours, theirs in pairs)
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        row(what, "import keras", ratio, added_ms=added, rounds=rounds)


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
