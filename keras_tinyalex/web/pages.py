"""Writes the folder with the page: its files, the network, and the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import keras

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.applications.shipped import list_weights, model_card
from keras_tinyalex.datasets.classes import readable_name
from keras_tinyalex.web.layers import describe

# What `model.json` describes; the page refuses another one.
VERSION = 1
# Of the files of the page, those that are not for the browser.
_SOURCES = ("kernels.c",)
# Arrays in `model.bin` start at a multiple of this.
ALIGNMENT = 4


def write_page(
    model: keras.Model,
    folder: PathLike,
    class_names: Sequence[str],
    source: PathLike | None = None,
) -> None:
    """Writes a page that classifies pictures with a model.

    Args:
        model: An AlexNetMini with a classifier.
        folder: Folder to write. It must not exist.
        class_names: Class names in label order.
        source: Where the model came from, for what the page says about it: a
            name from `list_weights()`, or a file, in a run folder for its accuracy.

    Raises:
        ValueError: If it is another network.

    Examples:
        >>> from keras_tinyalex import AlexNetMini
        >>> model = AlexNetMini(num_classes=2, width_multiplier=1 / 16)
        >>> write_page(model, "page", ["n01443537", "<b>"])
        >>> json.loads(Path("page", "model.json").read_text())["names"]
        ['goldfish', '<b>']
    """
    image, layers = describe(model)
    folder = Path(folder)
    page = resources.files("keras_tinyalex.web") / "page"
    with resources.as_file(page) as files:
        ignored = shutil.ignore_patterns(*_SOURCES)
        shutil.copytree(files, folder, ignore=ignored)
    content = {
        "version": VERSION,
        "name": _name_of(model, source),
        "image": image,
        "layers": [layer for layer, _ in layers],
        "class_names": list(class_names),
        "names": [readable_name(name) for name in class_names],
        "pictures": _choose_pictures(folder, class_names),
        "card": _card(model, source),
    }
    with (folder / "model.bin").open("wb") as file:
        for _, arrays in layers:
            for array in arrays:
                data = array.astype(array.dtype.newbyteorder("<")).tobytes()
                file.write(data + bytes(-len(data) % ALIGNMENT))
    # Names of folders that are no UTF-8 cannot be written as such: escaped.
    text = json.dumps(content, indent=1)
    (folder / "model.json").write_text(text + "\n", encoding="ascii", newline="\n")


def _name_of(model: keras.Model, source: PathLike | None) -> str:
    if source is None:
        return str(model.name)
    path = Path(source)
    return path.parent.name if _metrics_of(source) else path.stem


def _choose_pictures(folder: Path, class_names: Sequence[str]) -> list[dict[str, str]]:
    """Keeps the pictures of the model's classes, or else the drawn ones; lists them."""
    pictures = sorted((folder / "pictures").iterdir())
    own = [path for path in pictures if path.stem in class_names]
    chosen = own or [path for path in pictures if path.suffix == ".svg"]
    for path in pictures:
        if path not in chosen:
            path.unlink()
    return [{"file": path.name, "name": readable_name(path.stem)} for path in chosen]


def _card(model: keras.Model, source: PathLike | None) -> dict[str, str]:
    """Returns what is known about a model, by title."""
    card = {"Parameters": f"{model.count_params():,}"}
    if source in list_weights():
        shipped = model_card(str(source))
        accuracy = shipped["accuracy"]
        return {
            "Model": shipped["description"],
            "Accuracy": _accuracy(accuracy["top1"], accuracy["top5"], accuracy["n"]),
            **card,
            "Licence": shipped["licence"],
            "Data": shipped["data_note"],
        }
    metrics = _metrics_of(source)
    if metrics:
        values = (metrics[key] for key in ("val_accuracy", "val_top5", "n_val"))
        card["Accuracy"] = _accuracy(*values)
        card["Recipe"] = f"{metrics['recipe']}, {metrics['epochs']} epochs"
    return card


def _accuracy(top1: float, top5: float, n: int) -> str:
    return f"top 1 {top1:.1%}, top 5 {top5:.1%} on {n:,} images"


def _metrics_of(source: PathLike | None) -> Mapping[str, Any]:
    """Returns the results of the run whose model is at `source`, if it is one."""
    if source is None:
        return {}
    try:
        text = Path(source).with_name("metrics.json").read_text(encoding="utf-8")
        metrics: Mapping[str, Any] = json.loads(text)
        return {key: metrics[key] for key in _METRICS}
    except (OSError, ValueError, KeyError, TypeError):  # not one of our runs
        return {}


_METRICS = ("val_accuracy", "val_top5", "n_val", "recipe", "epochs")
