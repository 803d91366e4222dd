"""Plans which image of a source gets which path, without touching a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keras_tinyalex.datasets.classes import TINY_IMAGENET_WORDS, Classes
from keras_tinyalex.datasets.source import LabelledImage, Source

SPLIT_FOLDERS = {"train": "train_images", "val": "val_images"}


@dataclass(frozen=True)
class Move:
    """One image and its new path, relative to the destination."""

    image: LabelledImage
    path: str


@dataclass(frozen=True)
class Plan:
    """The content of a restructured dataset; label i is `class_names[i]`."""

    destination: Path
    class_names: tuple[str, ...]
    words: Mapping[str, str]
    moves: tuple[Move, ...]


def plan_moves(source: Source, destination: Path, classes: Classes = None) -> Plan:
    """Plans which image gets which path. Reads and writes nothing.

    Args:
        source: A `Source`, from `open_source`.
        destination: Folder of the restructured dataset.
        classes: See `restructure`.

    Returns:
        A `Plan`; its moves are sorted by split, class and file name.

    Raises:
        ValueError: If a class is unknown, two images would get the same
            path, a name is not a plain file name, or one of destination and
            source is inside the other.
    """
    _check_no_overlap(source.location.resolve(), destination)
    class_names = source.select(classes)
    chosen = frozenset(class_names)
    moves: dict[str, Move] = {}
    for split, folder in SPLIT_FOLDERS.items():
        for image in source.images.get(split, ()):
            if image.class_name not in chosen:
                continue
            path = f"{folder}/{image.class_name}/{_file_name(image, source)}"
            if path in moves:
                raise ValueError(
                    f"Two images of the source would become {path}: "
                    f"{source.tree.describe(moves[path].image.name)} and "
                    f"{source.tree.describe(image.name)}. Rename one of them."
                )
            moves[path] = Move(image, path)
    words = {**TINY_IMAGENET_WORDS, **source.words}
    known = {name: words[name] for name in class_names if name in words}
    return Plan(destination, class_names, known, tuple(moves.values()))


def _check_no_overlap(location: Path, destination: Path) -> None:
    written = (destination, staging_folder(destination), backup_folder(destination))
    for folder in written:
        if location in (folder, *folder.parents) or folder in location.parents:
            raise ValueError(
                "`destination` must be outside of the source, and the source outside "
                f"of it. Received: source={str(location)!r}, "
                f"destination={str(destination)!r}"
            )


def _file_name(image: LabelledImage, source: Source) -> str:
    """Returns the image's file name; refuses names that lead out of a folder."""
    file_name = image.name.rpartition("/")[2]
    for name in (image.class_name, file_name):
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise ValueError(
                f"{name!r}, of {source.tree.describe(image.name)}, is not the plain "
                "name of a class or file. Rename it."
            )
    return file_name


def staging_folder(target: Path) -> Path:
    """Returns the folder in which a dataset is written before it is renamed."""
    return target.with_name(f"{target.name}.partial")


def backup_folder(target: Path) -> Path:
    """Returns the folder that keeps an earlier result while it is replaced."""
    return target.with_name(f".{target.name}.replaced")
