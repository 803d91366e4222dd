"""Sorts Tiny ImageNet into one folder a class, and checks every image.

    python examples/restructure_dataset.py tiny-imagenet-200.zip tiny-imagenet-20

The official archive keeps its val images in one folder, with the classes in a text
file. Most tools want train_images/<class>/ and val_images/<class>/ instead.
"""

import argparse

from keras_tinyalex.datasets import tiny_imagenet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", nargs="?", default="sample", help="zip or folder")
    parser.add_argument("destination", nargs="?", default="restructured")
    parser.add_argument("--classes", type=int, default=20, help="the first N wnids")
    parser.add_argument("--smoke", action="store_true", help="2 classes, to try it out")
    options = parser.parse_args()
    classes = 2 if options.smoke else options.classes
    if options.smoke:
        options.destination += "-smoke"

    # A dry run plans everything, finds every problem, and writes nothing.
    plan = tiny_imagenet.restructure(
        options.source, options.destination, classes=classes, dry_run=True
    )
    print(f"{plan.files} images of {len(plan.classes)} classes to write")

    # Each image arrives under the folder of its class, and manifest.json lists them.
    # Hard links take no space; use mode="copy" where the destination is another disk.
    report = tiny_imagenet.restructure(
        options.source, options.destination, classes=classes, mode="hardlink"
    )
    print(f"{report.written} written to {report.destination}")

    # A second run sees that all is there, and writes nothing.
    again = tiny_imagenet.restructure(
        options.source, options.destination, classes=classes, mode="hardlink"
    )
    print(f"{again.written} written by a second run")

    # Any Keras model can be trained on it; labels are in the order of the names.
    dataset = tiny_imagenet.load_dataset(options.destination, "train", batch_size=16)
    images, _ = next(iter(dataset))
    print(f"batches of {tuple(images.shape)}, classes {dataset.class_names[:2]}...")


if __name__ == "__main__":
    main()
