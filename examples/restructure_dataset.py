"""Sorts Tiny ImageNet into one folder per class, and loads the result.

    python examples/restructure_dataset.py tiny-imagenet-200.zip tiny-imagenet-20

The official archive has all val images in one folder and their classes in a text file.
Most tools expect one folder per class: train_images/<class>/ and val_images/<class>/.
"""

import argparse

from keras_tinyalex.datasets import tiny_imagenet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", nargs="?", default="sample", help="zip or folder")
    parser.add_argument("destination", nargs="?", default="restructured")
    parser.add_argument("--classes", type=int, default=20, help="the first N wnids")
    parser.add_argument("--smoke", action="store_true", help="quick test: 2 classes")
    options = parser.parse_args()
    classes = 2 if options.smoke else options.classes
    if options.smoke:
        options.destination += "-smoke"

    # A dry run finds all problems and writes nothing.
    plan = tiny_imagenet.restructure(
        options.source, options.destination, classes=classes, dry_run=True
    )
    print(f"{plan.files} images of {len(plan.classes)} classes to write")

    # Each image goes into the folder of its class, and manifest.json lists all of them.
    # Hard links take no space; if the destination is on another disk, use mode="copy".
    report = tiny_imagenet.restructure(
        options.source, options.destination, classes=classes, mode="hardlink"
    )
    print(f"{report.written} written to {report.destination}")

    # A second run finds everything in place and writes nothing.
    again = tiny_imagenet.restructure(
        options.source, options.destination, classes=classes, mode="hardlink"
    )
    print(f"{again.written} written by a second run")

    # Any Keras model can train on the dataset. Labels follow the sorted class names.
    dataset = tiny_imagenet.load_dataset(options.destination, "train", batch_size=16)
    images, _ = next(iter(dataset))
    print(f"batches of {tuple(images.shape)}, classes {dataset.class_names[:2]}...")


if __name__ == "__main__":
    main()
