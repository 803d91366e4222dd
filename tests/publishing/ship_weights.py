"""Makes the files of shipped weights from a finished run: the model and its card.

    python tests/publishing/ship_weights.py NAME DATA --run RUN

The model's weights are rounded to half precision, and measured as they are then on the
official val images of DATA, Tiny ImageNet. Without --run, the card of NAME is measured
again. With --corruptions FILE, robustness is measured, too, and kept in this CSV file
to resume from (4 minutes for 20 classes on two cores, 40 for 200).
"""

import argparse
import hashlib
import json
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np

from keras_tinyalex import evaluate, evaluate_corruptions, evaluate_unknown, runs
from keras_tinyalex.applications import load_model, shipped
from keras_tinyalex.datasets import tiny_imagenet
from keras_tinyalex.datasets.classes import TINY_IMAGENET_WORDS, readable_name
from keras_tinyalex.files import write_json

WEIGHTS = "model.weights.h5"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member: the same weights are the same file
GOLDEN = "numpy.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), numpy.uint8)"


def write_rounded(model_file, path):
    """Copies a .keras or .h5 file with its weights in float16."""
    if path.suffix == ".h5":
        _round(model_file, path)
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(model_file) as before,
        zipfile.ZipFile(path, "w") as after,
    ):
        weights = Path(before.extract(WEIGHTS, folder))
        rounded = weights.with_suffix(".rounded")
        _round(weights, rounded)
        for member in before.namelist():
            data = rounded.read_bytes() if member == WEIGHTS else before.read(member)
            after.writestr(zipfile.ZipInfo(member, EPOCH), data)


def _round(weights, rounded):
    with h5py.File(weights) as old, h5py.File(rounded, "w", libver="latest") as new:
        new.attrs.update(old.attrs)

        def copy(name, item):
            if name.startswith("optimizer_weights"):
                return
            if isinstance(item, h5py.Dataset):
                values = np.asarray(item)
                if values.dtype == np.float32:
                    values = values.astype(np.float16)
                    if not np.isfinite(values).all():
                        raise SystemExit(f"{name} is too large for float16")
                new.create_dataset(name, data=values, track_times=False)
            else:
                new.require_group(name)
            new[name].attrs.update(item.attrs)

        old.visititems(copy)


def describe(run, path, name):
    """Returns what the card of a rounded model says of its training."""
    model, class_names = load_model(path)
    config, environment = (
        json.loads((run / file).read_text("utf-8"))
        for file in (runs.CONFIG_FILE, runs.ENVIRONMENT_FILE)
    )
    recipe, seed, count = config["recipe"], config["seed"], len(class_names)
    spec = "all" if count == len(TINY_IMAGENET_WORDS) else count
    classes = "all 200" if spec == "all" else f"the first {count}"
    return {
        "name": name,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "description": f"AlexNetMini after the {recipe['epochs']} epochs of the recipe "
        f"{recipe['name']}, on {classes} classes of Tiny ImageNet.",
        "parameters": model.count_params(),
        "storage": "float16",
        "class_names": list(class_names),
        "words": {wnid: readable_name(wnid) for wnid in class_names},
        "recipe": recipe,
        "seed": seed,
        "train_sha256": config["train_sha256"],
        "val_sha256": config["val_sha256"],
        "command": "keras-tinyalex train --data tiny-imagenet-200.zip "
        f"--classes {spec} --recipe {recipe['name']} --seed {seed}",
        "environment": environment,
        "licence": "Apache-2.0",
        "data_note": "Trained on images of Tiny ImageNet, which are for non-commercial "
        "research and education and are not part of this package.",
    }


def measure(path, data, corruptions):
    """Yields fields of a card and what was measured for them."""
    model, names = load_model(path)
    _, (images, labels) = tiny_imagenet.load_data(data, classes=list(names))
    result = evaluate(model, (images, labels), class_names=names).as_dict()
    split = "official val images of the classes, single view"
    yield "accuracy", {"split": split, **result}
    if others := sorted(set(TINY_IMAGENET_WORDS).difference(names)):
        unknown = tiny_imagenet.load_data(data, classes=others)[1][0]
        found = evaluate_unknown(model, images, unknown).as_dict()
        yield "unknown", {"classes": len(others), **found}
    if corruptions:
        found = evaluate_corruptions(
            model, (images, labels), csv=corruptions, progress=True
        ).as_dict()
        keys = ("mean_corruption_accuracy", "mce", "relative_mce", "n", "corruptions")
        yield "robustness", {key: found[key] for key in keys}
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    scores = model.predict(image, verbose=0)[0]
    output = [round(float(score), 6) for score in scores]
    yield "golden", {"input": GOLDEN, "output": output}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", help="such as tiny_imagenet_200")
    parser.add_argument("data", help="all of Tiny ImageNet, zip or folder")
    parser.add_argument("--run", type=Path, help="run folder")
    parser.add_argument("--format", choices=("keras", "h5"), default="keras")
    parser.add_argument("--corruptions", metavar="FILE")
    parser.add_argument("--folder", type=Path, default=shipped._pretrained_folder())
    options = parser.parse_args()
    card_file = options.folder / f"{options.name}.json"
    if options.run:
        path = options.folder / f"{options.name}.{options.format}"
        write_rounded(options.run / f"model.{options.format}", path)
        card = describe(options.run, path, options.name)
    else:
        card = json.loads(card_file.read_text("utf-8"))
        path = options.folder / card["file"]
    card.update(measure(path, options.data, options.corruptions))
    card["golden"] = card.pop("golden")  # last, as it is long
    write_json(card_file, card)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {card['accuracy']['top1']:.4f}")


if __name__ == "__main__":
    main()
