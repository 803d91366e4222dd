"""The command `predict`: names for image files, as lines, JSON and CSV."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_tinyalex.cli.parsing import (
    MODEL,
    Commands,
    Result,
    add_command,
    fail,
    positive,
    report,
)
from keras_tinyalex.tables import csv_file

if TYPE_CHECKING:
    import keras

COLUMNS = ("image", "rank", "class_name", "name", "score", "error")


def add_predict(commands: Commands) -> None:
    parser = add_command(commands, "predict", _predict, "classify image files")
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add("images", metavar="IMAGE", nargs="+", help="image file, or a folder of them")
    add("--top", type=positive, default=5, help="classes to list (default: 5)")
    add(
        "--classes",
        help="names in label order, for a model without: comma separated, or a file "
        "with one per line",
    )
    add("--csv", metavar="FILE", type=_csv_path, help="write a table to this .csv file")


def _csv_path(text: str) -> Path:
    # `--csv a.jpg b.jpg` would replace a picture.
    if Path(text).suffix.lower() != ".csv":
        raise argparse.ArgumentTypeError(f"must end in .csv, not {text!r}")
    return Path(text)


def _predict(options: argparse.Namespace) -> Result:
    from keras_tinyalex.applications import load_model
    from keras_tinyalex.applications.predictions import classify_files
    from keras_tinyalex.datasets.source import list_problems

    images = []
    with _table(options.csv) as write:  # tried before the work
        model, stored = load_model(options.model)
        names = _label_names(options.classes, stored, model)
        for result in classify_files(model, options.images, options.top, names):
            images.append(result)
            write(result)
            if "error" not in result:
                _report(result)
    if options.csv:
        report(f"table: {options.csv}")
    errors = [result["error"] for result in images if "error" in result]
    if errors:
        fail(list_problems(f"of {len(images)} files,", errors))
    return {
        "images": images,
        "csv": str(options.csv) if options.csv else None,
        "failed": len(errors),
    }


def _report(result: Result) -> None:
    report(result["image"])
    for row in result["predictions"]:
        report(f"  {row['score']:6.1%}  {row['name']} ({row['class_name']})")


def _label_names(
    spec: str | None, stored: Sequence[str] | None, model: keras.Model
) -> Sequence[str] | None:
    """Returns the class names of the model's file, or else those of `--classes`."""
    from keras_tinyalex.datasets.classes import TINY_IMAGENET_WORDS, list_names

    outputs = getattr(model, "output_shape", [None])[-1]
    expected = f"the {outputs} classes of the model in label order"
    if spec is None:
        if stored is None and outputs != len(TINY_IMAGENET_WORDS):
            raise ValueError(
                f"--classes must name {expected}, because its file has no class names "
                "(`save_model` stores them). Received: no --classes"
            )
        return stored
    names = list_names(spec)
    if stored is not None and tuple(names) != tuple(stored):
        raise ValueError(
            "--classes must be left out for a model whose file has class names, "
            f"here {', '.join(stored[:3])}, ... To change them, save the model again "
            f"with `save_model`. Received: --classes {spec}"
        )
    if len(names) != outputs or len(set(names)) != len(names):
        raise ValueError(
            f"--classes must name {expected}, each once. "
            f"Received: {len(names)} names, {len(set(names))} unique"
        )
    return names


@contextlib.contextmanager
def _table(path: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields the function that writes the rows of one result of `classify_files`."""
    if path is None:
        yield lambda result: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ValueError(f"--csv must be a file, not a folder. Received: --csv {path}")
    with csv_file(path, COLUMNS) as table:
        yield lambda result: table.writerows(_rows(result))


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    image = result["image"]
    if "error" in result:
        return [{"image": image, "error": result["error"].removeprefix(f"{image}: ")}]
    return [
        {"image": image, "rank": rank, **row, "score": f"{row['score']:.6f}"}
        for rank, row in enumerate(result["predictions"], 1)
    ]
