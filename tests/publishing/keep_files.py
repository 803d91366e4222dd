"""Makes the files of this version that later versions must read.

    python tests/publishing/keep_files.py

writes `kept/VERSION`: a run folder, a model of the user's own with our layer and
optimizer, and the scores of both models.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np

import keras_tinyalex as tinyalex
from keras_tinyalex import optimizers, recipes

KEPT = Path(__file__).with_name("kept")
# What people may delete; plots and checkpoints are large.
NOT_KEPT = ("checkpoints", "plots", "tensorboard", ".lock")


def main():
    folder = KEPT / tinyalex.__version__
    folder.mkdir(parents=True)
    os.chdir(folder)
    recipe = dataclasses.replace(recipes.FAST, name="kept", width_multiplier=1 / 32)
    run = tinyalex.train(recipe, "sample", classes=3, output="run", progress=False)
    for name in NOT_KEPT:
        path = Path("run", name)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    own = own_model()
    own.save("own.keras")
    scores = {"run": scores_of(run.model), "own": scores_of(own)}
    Path("scores.json").write_text(json.dumps(scores, indent=1) + "\n")


def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)


def scores_of(model):
    # Not by `predict`, for compilers of narrow networks have faults of their own.
    return keras.ops.convert_to_numpy(model(images())).tolist()


def own_model():
    """Returns a trained network with our layer and our optimizer."""
    model = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, strides=4),
            tinyalex.LocalResponseNormalization.from_caffe(alpha=1e-3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(optimizers.Muon(), loss="sparse_categorical_crossentropy")
    model.fit(images(), np.array([0, 1]), verbose=0)
    return model


if __name__ == "__main__":
    main()
