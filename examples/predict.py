"""Classifies images with the weights in the package.

    python examples/predict.py my_fish.jpg my_koala.jpg

Without images, the script classifies some of the embedded sample: striped discs, which
belong to none of the model's classes. The predictions can still look confident: a
softmax distributes 100% among its classes and has none for "something else".
"""

import argparse

import keras_tinyalex as tinyalex
from keras_tinyalex.applications import classify_files
from keras_tinyalex.datasets import tiny_imagenet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="*", help="image files (default: the sample)")
    parser.add_argument("--weights", default="tiny_imagenet_200")
    parser.add_argument("--smoke", action="store_true", help="quick test: 2 images")
    options = parser.parse_args()

    # The model card describes the weights: origin, accuracy and classes.
    card = tinyalex.model_card(options.weights)
    print(f"{options.weights}: top-1 accuracy {card['accuracy']['top1']:.3f}")
    class_names = card["class_names"]
    model = tinyalex.AlexNetMini(num_classes=len(class_names), weights=options.weights)

    # Files of any size are read upright and resized to 64x64 pixels.
    for result in classify_files(model, options.images, 3, class_names):
        if "error" in result:
            print(result["error"])
            continue
        rows = result["predictions"]
        classes = ", ".join(f"{row['name']} {row['score']:.0%}" for row in rows)
        print(f"{result['image']}: {classes}")
    if options.images:
        return

    # The model takes pixels from 0 to 255: its first layer divides them by 255.
    _, (x_val, _) = tiny_imagenet.load_data("sample", classes=2)
    images = x_val[: 2 if options.smoke else 8]
    scores = model.predict(images, verbose=0)
    # Each row of `scores` has a probability for each class name.
    best = tinyalex.decode_predictions(scores, top=3, class_names=class_names)
    for index, row in enumerate(best):
        classes = ", ".join(f"{name} {score:.0%}" for _, name, score in row)
        print(f"{index}: {classes}")


if __name__ == "__main__":
    main()
