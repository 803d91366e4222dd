"""Classifies images with the weights in the package.

    python examples/predict.py my_fish.jpg my_koala.jpg

Without images, the script classifies some of the embedded sample: striped discs, which
belong to none of the model's classes. The predictions can still look confident: a
softmax distributes 100% among its classes and has none for "something else".
"""

import argparse

import keras
import numpy as np

import keras_tinyalex as tinyalex
from keras_tinyalex.datasets import tiny_imagenet


def read(path: str) -> np.ndarray:
    """Reads an image as the model expects it: 64x64 pixels, RGB, 0 to 255."""
    return keras.utils.img_to_array(keras.utils.load_img(path, target_size=(64, 64)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="*", help="image files (default: the sample)")
    parser.add_argument("--weights", default="tiny_imagenet_20")
    parser.add_argument("--smoke", action="store_true", help="quick test: 2 images")
    options = parser.parse_args()

    # The model card describes the weights: origin, accuracy and classes.
    card = tinyalex.model_card(options.weights)
    print(f"{options.weights}: top-1 accuracy {card['accuracy']['top1']:.3f}")

    if options.images:
        images = np.stack([read(path) for path in options.images])
    else:
        _, (x_val, _) = tiny_imagenet.load_data("sample", classes=2)
        images = x_val[: 2 if options.smoke else 8]

    # The model takes pixels from 0 to 255: its first layer divides them by 255.
    model = tinyalex.AlexNetMini(weights=options.weights)
    scores = model.predict(images, verbose=0)
    # Each row of `scores` has 20 probabilities, one per class name.
    best = tinyalex.decode_predictions(scores, top=3, class_names=card["class_names"])
    for index, row in enumerate(best):
        classes = ", ".join(f"{name} {score:.0%}" for _, name, score in row)
        print(f"{options.images[index] if options.images else index}: {classes}")


if __name__ == "__main__":
    main()
