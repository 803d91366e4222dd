"""Classifies pictures with the weights that come with the package.

    python examples/predict.py my_fish.jpg my_koala.jpg

Without pictures it classifies some of the embedded sample: striped discs, which are
none of the classes that these weights know. See what they answer, and how sure they
are: a softmax divides 100% among its classes, and has none for "something else".
"""

import argparse

import keras
import numpy as np

import keras_tinyalex as tinyalex
from keras_tinyalex.datasets import tiny_imagenet


def read(path: str) -> np.ndarray:
    """Any picture as the network wants it: 64x64 pixels, RGB, 0 to 255."""
    return keras.utils.img_to_array(keras.utils.load_img(path, target_size=(64, 64)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pictures", nargs="*")
    parser.add_argument("--weights", default="tiny_imagenet_20")
    parser.add_argument("--smoke", action="store_true", help="2 pictures")
    options = parser.parse_args()

    # The model card: where the weights come from, what they can do, what they know.
    card = tinyalex.model_card(options.weights)
    print(f"{options.weights}: top-1 accuracy {card['accuracy']['top1']:.3f}")

    if options.pictures:
        images = np.stack([read(path) for path in options.pictures])
    else:
        _, (x_val, _) = tiny_imagenet.load_data("sample", classes=2)
        images = x_val[: 2 if options.smoke else 8]

    # Pixels go in as they are; the division by 255 is the model's first layer.
    model = tinyalex.AlexNetMini(weights=options.weights)
    scores = model.predict(images, verbose=0)
    # One row of 20 probabilities a picture; the class names give them their meaning.
    best = tinyalex.decode_predictions(scores, top=3, class_names=card["class_names"])
    for index, row in enumerate(best):
        answers = ", ".join(f"{name} {score:.0%}" for _, name, score in row)
        print(f"{options.pictures[index] if options.pictures else index}: {answers}")


if __name__ == "__main__":
    main()
