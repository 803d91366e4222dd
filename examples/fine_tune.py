"""Fine-tunes the pretrained network on few images, and compares it with random weights.

    python examples/fine_tune.py my_folder --images 20

The folder has one subfolder per class, or train/ and val/ with such subfolders. The
convolutions start from weights trained on 20 classes of Tiny ImageNet; only the head
is new. Training the same network from random weights shows what those weights are
worth. Without a folder, the script uses the 20 classes of the embedded sample and
gives the results of docs/fine-tune.md.
"""

import argparse
import math

import keras
import numpy as np

import keras_tinyalex as tinyalex
from keras_tinyalex.datasets import tiny_imagenet

BATCH_SIZE = 16


def few_of_each(x, y, count):
    """Returns the first `count` images of each class."""
    chosen = [np.flatnonzero(y == label)[:count] for label in np.unique(y)]
    index = np.concatenate(chosen)
    return x[index], y[index]


def network(weights, num_classes):
    """Returns the body with global average pooling and a new head."""
    body = tinyalex.AlexNetMini(
        include_top=False, weights=weights, input_shape=(64, 64, 3), pooling="avg"
    )
    # There are few images: dropout keeps the head from memorizing them.
    outputs = keras.layers.Dense(num_classes, activation="softmax")(
        keras.layers.Dropout(0.3)(body.output)
    )
    return keras.Model(body.input, outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="sample", help="zip or folder")
    parser.add_argument("--classes", help="names, or a file of names (default: all)")
    parser.add_argument("--images", type=int, default=20, help="per class")
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
        keras.utils.set_random_seed(0)  # same head, image order and dropout
        model = network(weights, int(y.max()) + 1)
        # Decay the learning rate to 0, so the last batches do not sway the result.
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
