"""Compares fine-tuning on few images with training from scratch and a linear probe.

    python tests/benchmarks/fine_tune.py tiny-imagenet-200.zip

Of the 200 classes, every tenth is left out of the training of the body (10 epochs,
30 minutes on two cores). On these 20 classes, some images of each train

- `fine-tuned`: the body, with the recipe `fine_tune`,
- `from scratch`: the recipe `best` from random weights, for at least as many steps,
- `probe`: a ridge regression on what the first hidden dense layer of the body gives.

Prints a row of a Markdown table for each number of images: mean top-1 accuracy over
the seeds with its standard deviation, on the 1,000 official val images of the 20
classes. The seeds choose the images, too. Called again, the script continues where it
stopped.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import numpy as np

from keras_tinyalex import evaluate, recipes, train
from keras_tinyalex.applications import load_model
from keras_tinyalex.datasets import tiny_imagenet
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.reading import read_parts
from keras_tinyalex.files import write_json

BODY = dataclasses.replace(
    recipes.BEST.over(10),
    name="body",
    batch_size=128,
    learning_rate=0.0042,
    weight_decay_per_epoch=1.0,
    warmup_epochs=0.6,
)
METHODS = ("fine-tuned", "from scratch", "probe")


def train_body(data, output):
    """Returns the file of a body that has not seen every tenth class."""
    names = open_source(data).class_names
    seen = [name for name in names if name not in names[9::10]]
    return train(BODY, data, seen, output / "body").path / "model.keras"


def few_images(data, count, seed, output, held_out):
    """Writes `count` train images of each unseen class, and images to test on.

    These are the official val images, or 50 of the train images with `held_out`.
    They are in `test/`; in `val/` is one of each class, as a training validates after
    each of hundreds of epochs.
    """
    folder = output / f"images-{count}-{seed}{'-held-out' if held_out else ''}"
    shutil.rmtree(folder, ignore_errors=True)
    source = open_source(data)
    for label, name in enumerate(source.class_names[9::10]):
        train_images, val = (
            [image for image in source.images[split] if image.class_name == name]
            for split in ("train", "val")
        )
        if held_out:
            train_images, val = train_images[:400], train_images[400:450]
        order = np.random.default_rng([seed, label]).permutation(len(train_images))
        chosen = [train_images[i] for i in order[:count]]
        for split, images in (("train", chosen), ("val", val[:1]), ("test", val)):
            (folder / split / name).mkdir(parents=True)
            for image in images:
                path = folder / split / name / Path(image.name).name
                path.write_bytes(source.tree.read(image.name))
    return folder


def probe(body, data):
    """Returns the accuracy of a ridge regression on the first dense layer."""
    import keras

    model, _ = load_model(body)
    features = keras.Model(model.input, model.get_layer("fc1").output)
    (x, y), _ = tiny_imagenet.load_data(data)
    x_val, y_val = test_images(data)
    x, x_val = (features.predict(a, verbose=0).astype(float) for a in (x, x_val))
    x, x_val = (a / (x.std(axis=0) + 1e-3) for a in (x, x_val))
    centered, targets = x - x.mean(axis=0), np.eye(20)[y] - 1 / 20
    gram = centered @ centered.T
    gram += np.trace(gram) / len(gram) * np.eye(len(gram))
    kernel = centered.T @ np.linalg.solve(gram, targets)
    scores = (x_val - x.mean(axis=0)) @ kernel
    return float((scores.argmax(axis=1) == y_val).mean())


def test_images(data):
    """Returns the images of `test/` and their labels."""
    source = open_source(data / "test")
    test = read_parts(source, source.class_names, ["all"])[0]
    return test.images, test.labels


def measure(method, body, data, output):
    """Returns the accuracy of one method on the images of a folder."""
    if method == "probe":
        return probe(body, data)
    images = len(list(data.glob("train/*/*")))
    if method == "fine-tuned":
        run = train("fine_tune", data, output=output, weights=body)
    else:
        steps = recipes.FINE_TUNE.min_steps
        scratch = dataclasses.replace(recipes.BEST, min_steps=steps)
        run = train(scratch.for_images(images), data, output=output)
    return evaluate(run.model, test_images(data)).top1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="Tiny ImageNet, zip or folder")
    parser.add_argument("--images", type=int, nargs="+", default=[5, 20, 100])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--body", help="model file; default: it is trained")
    parser.add_argument(
        "--held-out", action="store_true", help="test on train images, to choose"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/fine-tune"))
    options = parser.parse_args()
    body = options.body or train_body(options.data, options.output)
    print(f"| images per class | {' | '.join(options.methods)} | seeds |")
    print(f"| --- {'| --- ' * len(options.methods)}| --- |", flush=True)
    for count in options.images:
        cells = []
        for method in options.methods:
            found = []
            for seed in options.seed:
                where = f"{method.replace(' ', '-')}-{count}-{seed}"
                kept = options.output / f"{where}{options.held_out * '-held-out'}.json"
                if not kept.exists():
                    data = few_images(
                        options.data, count, seed, options.output, options.held_out
                    )
                    run = options.output / kept.stem
                    write_json(kept, {"accuracy": measure(method, body, data, run)})
                    shutil.rmtree(data)
                found.append(json.loads(kept.read_text())["accuracy"])
            spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.3f}{spread}")
        print(f"| {count} | {' | '.join(cells)} | {len(options.seed)} |", flush=True)


if __name__ == "__main__":
    main()
