"""Teaches the shipped network new classes from few images, against from scratch.

    python examples/fine_tune.py my_folder --images 20

The folder holds one folder a class (or train/ and val/ with those inside). The
convolutions come with what they learned on 20 classes of Tiny ImageNet; only the
head starts anew. The same network from random weights shows what that is worth.
Without a folder it learns the 20 classes of the embedded sample, and the results are
those of docs/fine-tune.md.
"""

import argparse
import math

import keras
import numpy as np

import keras_tinyalex as tinyalex
from keras_tinyalex.datasets import tiny_imagenet

BATCH_SIZE = 16


def few_of_each(x, y, count):
    """The first `count` images of each class."""
    chosen = [np.flatnonzero(y == label)[:count] for label in np.unique(y)]
    index = np.concatenate(chosen)
    return x[index], y[index]


def network(weights, num_classes):
    """The body, what its last block sees averaged over the picture, and a head."""
    body = tinyalex.AlexNetMini(
        include_top=False, weights=weights, input_shape=(64, 64, 3), pooling="avg"
    )
    # A small head on few images: dropout keeps it from learning them by heart.
    outputs = keras.layers.Dense(num_classes, activation="softmax")(
        keras.layers.Dropout(0.3)(body.output)
    )
    return keras.Model(body.input, outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="sample", help="zip or folder")
    parser.add_argument("--classes", help="names, or a file of names; default: all")
    parser.add_argument("--images", type=int, default=20, help="of each class")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--weights", default="tiny_imagenet_20")
    parser.add_argument("--smoke", action="store_true", help="2 classes, 1 epoch")
    options = parser.parse_args()
    classes = 2 if options.smoke else options.classes
    epochs = 1 if options.smoke else options.epochs

    (x, y), (x_val, y_val) = tiny_imagenet.load_data(options.data, classes)
    x, y = few_of_each(x, y, options.images)
    print(f"{len(x)} images of {y.max() + 1} classes")
    for name, weights in (("fine-tuned", options.weights), ("from scratch", None)):
        keras.utils.set_random_seed(0)  # the same head, order and dropout for both
        model = network(weights, int(y.max()) + 1)
        # The steps shrink to 0, so that not the last few decide the result.
        steps = epochs * math.ceil(len(x) / BATCH_SIZE)
        optimizer = keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(0.001, steps)
        )
        model.compile(optimizer, loss="sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
        result = tinyalex.evaluate(model, (x_val, y_val))
        low, high = result.interval
        print(f"{name}: {result.top1:.3f} (95% {low:.3f} to {high:.3f}, n {result.n})")


if __name__ == "__main__":
    main()
