"""Makes the files of shipped weights from a finished run: the model and its card.

    python tests/publishing/ship_weights.py RUN DATA NAME [FOLDER]

The model's weights are rounded to half precision, and measured on the official val
images of DATA, Tiny ImageNet, as they are then. FOLDER is by default that of the
package. Before a release, see that the card says what the run was.
"""

import argparse
import hashlib
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np

from keras_tinyalex import evaluate, runs
from keras_tinyalex.applications import load_model, shipped
from keras_tinyalex.datasets import tiny_imagenet
from keras_tinyalex.datasets.classes import readable_name

WEIGHTS = "model.weights.h5"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member: the same weights are the same file
GOLDEN = "numpy.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), numpy.uint8)"


def write_rounded(model_file, path):
    """Copies a .keras file with its weights in float16."""
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(model_file) as before,
        zipfile.ZipFile(path, "w") as after,
    ):
        weights = Path(before.extract(WEIGHTS, folder))
        rounded = weights.with_suffix(".rounded")
        with h5py.File(weights) as old, h5py.File(rounded, "w", libver="latest") as new:
            new.attrs.update(old.attrs)

            def copy(name, item):
                if isinstance(item, h5py.Dataset):
                    values = np.asarray(item, np.float16)
                    if not np.isfinite(values).all():
                        raise SystemExit(f"{name} is too large for float16")
                    new.create_dataset(name, data=values, track_times=False)
                else:
                    new.require_group(name)
                new[name].attrs.update(item.attrs)

            old.visititems(copy)
        for member in before.namelist():
            data = rounded.read_bytes() if member == WEIGHTS else before.read(member)
            after.writestr(zipfile.ZipInfo(member, EPOCH), data)


def accuracy_of(model, data, class_names):
    """Returns what a card says of a model on the official val images."""
    val = tiny_imagenet.load_data(data, classes=list(class_names))[1]
    result = evaluate(model, val, class_names=class_names).as_dict()
    return {"split": "official val images of the classes, single view", **result}


def make_card(run, path, name, data):
    """Returns the model card of a rounded model."""
    model, class_names = load_model(path)
    config, environment = (
        json.loads((run / file).read_text("utf-8"))
        for file in (runs.CONFIG_FILE, runs.ENVIRONMENT_FILE)
    )
    recipe, seed = config["recipe"], config["seed"]
    count = len(class_names)
    every = count == 200
    classes = "all 200 classes" if every else f"the first {count} classes"
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    scores = model.predict(image, verbose=0)[0]
    return {
        "name": name,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "description": f"AlexNetMini after the {recipe['epochs']} epochs of the recipe "
        f"{recipe['name']}, on {classes} of Tiny ImageNet.",
        "parameters": model.count_params(),
        "storage": "float16",
        "class_names": list(class_names),
        "words": {wnid: readable_name(wnid) for wnid in class_names},
        "recipe": recipe,
        "seed": seed,
        "train_sha256": config["train_sha256"],
        "val_sha256": config["val_sha256"],
        "accuracy": accuracy_of(model, data, class_names),
        "command": "keras-tinyalex train --data tiny-imagenet-200.zip --classes "
        f"{'all' if every else count} --recipe {recipe['name']} --seed {seed}",
        "environment": environment,
        "licence": "Apache-2.0",
        "data_note": "Trained on images of Tiny ImageNet, which are for non-commercial "
        "research and education and are not part of this package.",
        "golden": {
            "input": GOLDEN,
            "output": [round(float(score), 6) for score in scores],
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("data", help="Tiny ImageNet, zip or folder")
    parser.add_argument("name", help="such as tiny_imagenet_200")
    parser.add_argument("folder", type=Path, nargs="?")
    options = parser.parse_args()
    folder = options.folder or shipped._pretrained_folder()
    path = folder / f"{options.name}.keras"
    with tempfile.TemporaryDirectory() as scratch:
        rounded = Path(scratch, path.name)
        write_rounded(options.run / "model.keras", rounded)
        card = make_card(options.run, rounded, options.name, options.data)
        shutil.copyfile(rounded, path)
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {card['accuracy']['top1']:.4f}")


if __name__ == "__main__":
    main()
