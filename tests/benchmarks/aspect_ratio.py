"""Measures two ways to make a square of a picture of 4:3 or 3:4.

    keras-tinyalex train --data tiny-imagenet-20.zip --recipe best --epochs 6 \\
        --image-size 48 --output runs/48
    python tests/benchmarks/aspect_ratio.py tiny-imagenet-20.zip \\
        --model runs/48/model.keras

From each val image a random window of 64x48 or 48x64 pixels is taken. It is squeezed
to a square, or its central 48x48 pixels are taken. A model of 48x48 pixels sees both
in full detail, as of a large photo. `better` and `worse` are the images that only
squeezing, or only cropping, gets right.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image

from keras_tinyalex.applications import load_model
from keras_tinyalex.datasets import tiny_imagenet
from keras_tinyalex.metrics import wilson_interval

LONG, SHORT = 64, 48


def windows(images, seed):
    """Returns a random window of each image: one in two is lying, others stand."""
    generator = np.random.default_rng(seed)
    for pixels in images:
        at = generator.integers(0, LONG - SHORT + 1)
        lying = generator.random() < 0.5
        part = pixels[at : at + SHORT] if lying else pixels[:, at : at + SHORT]
        yield Image.fromarray(part)


def squeeze(image, size):
    return image.resize((size, size), Image.Resampling.BILINEAR)


def crop(image, size):
    left, top = ((side - SHORT) // 2 for side in image.size)
    return squeeze(image.crop((left, top, left + SHORT, top + SHORT)), size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="zip or folder of Tiny ImageNet")
    parser.add_argument("--model", default="tiny_imagenet_20")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    model, classes = load_model(options.model)
    size = model.input_shape[1]
    _, (images, labels) = tiny_imagenet.load_data(options.data, list(classes))

    def correct(pictures):
        pixels = np.stack([np.asarray(picture) for picture in pictures])
        scores = model.predict(pixels, batch_size=100, verbose=0)
        return scores.argmax(axis=-1) == labels

    whole = correct(squeeze(Image.fromarray(pixels), size) for pixels in images)
    print(f"whole images: {whole.mean():.3f}")
    for seed in options.seeds:
        made = list(windows(images, seed))
        squeezed = correct(squeeze(image, size) for image in made)
        cropped = correct(crop(image, size) for image in made)
        for name, right in (("squeezed", squeezed), ("cropped", cropped)):
            low, high = wilson_interval(int(right.sum()), len(right))
            print(f"seed {seed}, {name}: {right.mean():.3f} ({low:.3f} to {high:.3f})")
        better, worse = (squeezed & ~cropped).sum(), (cropped & ~squeezed).sum()
        print(f"seed {seed}: better {better}, worse {worse}, n {len(labels)}")


if __name__ == "__main__":
    main()
