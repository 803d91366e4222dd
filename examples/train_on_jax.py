"""Trains on JAX, and loads the saved model on TensorFlow.

    pip install jax
    python examples/train_on_jax.py tiny-imagenet-200.zip

Choose the backend before you import Keras; nothing else in your code changes. JAX
compiles the training step, which does not use TensorFlow.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"  # or "torch"

import keras

import keras_tinyalex as tinyalex

# Runs in another process.
PREDICT = """
import keras_tinyalex as tinyalex, keras, sys
model = keras.models.load_model(sys.argv[1])
print(f"loaded on {keras.backend.backend()}: {model.count_params():,} parameters")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="sample", help="zip or folder")
    parser.add_argument("--epochs", type=int, default=35)
    parser.add_argument("--smoke", action="store_true", help="2 classes, 1 epoch")
    options = parser.parse_args()

    print(f"training on {keras.backend.backend()}")
    run = tinyalex.train(
        data=options.data,
        classes=2 if options.smoke else 20,
        epochs=1 if options.smoke else options.epochs,
        output=f"runs/jax-{Path(options.data).stem}" + "-smoke" * options.smoke,
    )
    print(f"accuracy {run.metrics['val_accuracy']:.3f}")

    # A model file does not depend on the backend. Load it on TensorFlow, in a new
    # process.
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-c", PREDICT, str(run.path / "model.keras")]
    subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
