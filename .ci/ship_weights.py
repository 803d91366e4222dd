"""Adds the model of a run folder to the weights in the package, with a model card.

    python .ci/ship_weights.py runs/baseline-tiny-imagenet-20-seed0 \
        tiny_imagenet_20_baseline.h5 "What it is, in a sentence."

Weights are stored in half precision. The accuracy on the card is that of the stored
file, on the data that the run's `config.json` names.
"""

import argparse
import hashlib
import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np

import keras_tinyalex as tinyalex
from keras_tinyalex import runs
from keras_tinyalex.applications.model_files import load_model
from keras_tinyalex.datasets.classes import readable_name
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.reading import read_split

PRETRAINED = Path(tinyalex.__file__).parent / "applications" / "pretrained"
DATA_NOTE = (
    "Trained on images of Tiny ImageNet, which are for non-commercial research and "
    "education and are not part of this package."
)


def copy_in_half_precision(source, target):
    """Copies an HDF5 file; float32 arrays become float16."""
    target.attrs.update(source.attrs)
    for name, item in source.items():
        if name == "optimizer_weights":
            continue
        if isinstance(item, h5py.Group):
            copy_in_half_precision(item, target.create_group(name, track_order=True))
        else:
            values = item[()]
            if item.dtype == np.float32:
                values = values.astype(np.float16)
            target.create_dataset(name, data=values).attrs.update(item.attrs)


def model_in_half_precision(path):
    """Returns the bytes of a saved model with its weights in half precision."""
    if path.suffix == ".h5":
        return h5_in_half_precision(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename.endswith(".h5"):
                content = h5_in_half_precision(io.BytesIO(content))
            new.writestr(zipfile.ZipInfo(member.filename), content)
    return buffer.getvalue()


def h5_in_half_precision(file):
    buffer = io.BytesIO()
    with h5py.File(file, "r") as source, h5py.File(buffer, "w") as target:
        copy_in_half_precision(source, target)
    return buffer.getvalue()


def model_card(run, path, description):
    """Returns the model card of a stored file, with its measured accuracy."""
    config, environment = (
        json.loads((run / f"{name}.json").read_text())
        for name in ("config", "environment")
    )
    model, classes = load_model(path)
    source = open_source(config["data"])
    val = read_split(source, "val", classes)
    assert runs.data_digest(val) == config["val_sha256"]
    evaluation = tinyalex.evaluate(model, (val.images, val.labels), classes)
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    recipe, seed = config["recipe"], config["seed"]
    return {
        "name": path.stem,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "description": description,
        "parameters": model.count_params(),
        "storage": "float16",
        "class_names": list(classes),
        "words": {name: readable_name(name, source.words) for name in classes},
        "recipe": recipe,
        "seed": seed,
        "train_sha256": config["train_sha256"],
        "val_sha256": config["val_sha256"],
        "accuracy": {
            "split": "official val images of the classes, single view",
            **evaluation.as_dict(),
        },
        "command": "keras-tinyalex train --data tiny-imagenet-200.zip "
        f"--classes {len(classes)} --recipe {recipe['name']} --seed {seed}",
        "environment": environment,
        "licence": "Apache-2.0",
        "data_note": DATA_NOTE,
        "golden": {
            "input": "numpy.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), "
            "numpy.uint8)",
            "output": model.predict(images, verbose=0)[0].round(6).tolist(),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("file", help="<name>.h5 or <name>.keras")
    parser.add_argument("description")
    options = parser.parse_args()
    path = PRETRAINED / options.file
    path.write_bytes(model_in_half_precision(options.run / f"model{path.suffix}"))
    content = json.dumps(model_card(options.run, path, options.description), indent=2)
    path.with_suffix(".json").write_text(content + "\n")


if __name__ == "__main__":
    main()
