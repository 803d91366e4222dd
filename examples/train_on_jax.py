"""Trains under JAX, and uses the saved model under another backend.

    pip install jax
    python examples/train_on_jax.py tiny-imagenet-200.zip

The backend is chosen once, before Keras is imported. Nothing else in your code
changes; JAX compiles the training step, and no TensorFlow takes part in it.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"  # or "torch"

import keras

import keras_tinyalex as tinyalex

# What the other process does with the model file.
PREDICT = """
import keras_tinyalex as tinyalex, keras, sys
model = keras.models.load_model(sys.argv[1])
print(f"loaded under {keras.backend.backend()}: {model.count_params():,} parameters")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="sample", help="zip or folder")
    parser.add_argument("--epochs", type=int, default=35)
    parser.add_argument("--smoke", action="store_true", help="2 classes, 1 epoch")
    options = parser.parse_args()

    print(f"training under {keras.backend.backend()}")
    run = tinyalex.train(
        data=options.data,
        classes=2 if options.smoke else 20,
        epochs=1 if options.smoke else options.epochs,
        output=f"runs/jax-{Path(options.data).stem}" + "-smoke" * options.smoke,
    )
    print(f"accuracy {run.metrics['val_accuracy']:.3f}")

    # A model file knows no backend: here TensorFlow reads it, in a new process.
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-c", PREDICT, str(run.path / "model.keras")]
    subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
