"""Measures the time from the start of a process to a model of some accuracy.

    python tests/benchmarks/time_to_accuracy.py tiny-imagenet-20.zip --accuracy 0.43

For the recipe `fast`, that is the time until `model.keras` is saved; it also decodes
the images. For the plain Keras script of step.py with the baseline's optimizer, it is
the time to the end of the first epoch that reaches the accuracy on the val images;
restructuring the data for it is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import row

# After these, the plain script gives up.
MAX_EPOCHS = 60


def fast(archive, home):
    """Returns the seconds and the accuracy of `keras-tinyalex train --recipe fast`."""
    command = [Path(sys.executable).with_name("keras-tinyalex"), "train", "--json"]
    command += ["--data", archive, "--recipe", "fast", "--output", f"{home}/run"]
    started = time.time()
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "KERAS_HOME": home},
    )
    seconds = Path(home, "run", "model.keras").stat().st_mtime - started
    return seconds, json.loads(done.stdout)["val_accuracy"]


def plain(folder, accuracy):
    """Returns the seconds, the accuracy and the epochs of the plain script."""
    started = time.time()
    done = subprocess.run(
        [sys.executable, __file__, folder, "--accuracy", str(accuracy), "--plain"],
        stdout=subprocess.PIPE,
        check=True,
    )
    if not done.stdout:
        sys.exit(f"The plain script did not reach {accuracy} in {MAX_EPOCHS} epochs.")
    reached = json.loads(done.stdout)
    return reached.pop("at") - started, reached


def plain_script(folder, accuracy):
    import keras
    import tensorflow as tf
    from step import plain_keras

    def pipeline(split):
        dataset = keras.utils.image_dataset_from_directory(
            f"{folder}/{split}_images", image_size=(64, 64), batch_size=16, verbose=0
        )
        return dataset.map(lambda x, y: (x / 255, y)).cache().prefetch(tf.data.AUTOTUNE)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            print(epoch + 1, logs["val_accuracy"], file=sys.stderr, flush=True)
            if logs["val_accuracy"] >= accuracy:
                self.model.stop_training = True
                found = {"accuracy": logs["val_accuracy"], "epochs": epoch + 1}
                print(json.dumps({**found, "at": time.time()}), flush=True)

    keras.utils.set_random_seed(0)
    model = plain_keras()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    train, val = pipeline("train"), pipeline("val")
    options = {"epochs": MAX_EPOCHS, "verbose": 0, "callbacks": [Stop()]}
    model.fit(train, validation_data=val, **options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", help="zip of 20 classes in the official layout")
    parser.add_argument("--accuracy", type=float, default=0.43)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain_script(options.archive, options.accuracy)
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    from keras_tinyalex.datasets.tiny_imagenet import restructure

    with tempfile.TemporaryDirectory() as home:
        ours, reached = fast(options.archive, home)
        print(f"fast: {ours:.0f} s to {reached:.3f}", flush=True)
        folder = f"{home}/sorted"
        restructure(options.archive, folder, progress=False)
        theirs, end = plain(folder, options.accuracy)
        print(f"plain script: {theirs:.0f} s to {end['accuracy']:.3f}", flush=True)
    what, against = f"a model of {options.accuracy}, s", "plain Keras script"
    row(what, against, theirs / ours, 10, ours=ours, theirs=theirs, **end)


if __name__ == "__main__":
    main()
