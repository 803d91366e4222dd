"""Uses local response normalization (LRN) in a network of your own.

    python examples/lrn_in_your_model.py

Trains three small networks on the embedded sample that differ only in normalization:
LRN with TensorFlow's constants, LRN with those of the AlexNet paper, and none.
"""

import argparse

import keras
from keras import layers

import keras_tinyalex as tinyalex
from keras_tinyalex import LocalResponseNormalization
from keras_tinyalex.datasets import tiny_imagenet

NORMALIZATIONS = {
    # y = x / sqrt(1 + sum of squares over 11 channels): a strong effect
    "TensorFlow's constants": lambda: LocalResponseNormalization(depth_radius=5),
    # y = x / (2 + 0.0001 * sum of squares over 5 channels)**0.75: almost a constant
    "the paper's constants": LocalResponseNormalization.from_paper,
    "none": lambda: layers.Identity(),
}


def network(normalization, num_classes):
    return keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            layers.Rescaling(1 / 255),
            # LRN comes after the activation and before pooling, as in AlexNet.
            layers.Conv2D(16, 5, strides=2, activation="relu"),
            normalization(),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, activation="relu"),
            normalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="2 classes, 1 epoch")
    options = parser.parse_args()
    classes = 2 if options.smoke else options.classes
    epochs = 1 if options.smoke else options.epochs

    (x, y), (x_val, y_val) = tiny_imagenet.load_data("sample", classes)
    for name, normalization in NORMALIZATIONS.items():
        keras.utils.set_random_seed(0)
        model = network(normalization, classes)
        model.compile("adam", loss="sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
        print(f"{name}: {tinyalex.evaluate(model, (x_val, y_val)).top1:.3f}")

    # The layer is registered, so the file loads once keras_tinyalex is imported.
    model.save("own_model.keras")
    keras.models.load_model("own_model.keras")


if __name__ == "__main__":
    main()
