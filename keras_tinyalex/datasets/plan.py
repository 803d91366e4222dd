"""Decides which image of a source goes where; touches no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keras_tinyalex.datasets.classes import (
    TINY_IMAGENET_WORDS,
    ClassSpec,
    select_classes,
)
from keras_tinyalex.datasets.layout import LabelledImage, Source

SPLIT_FOLDERS = {"train": "train_images", "val": "val_images"}


@dataclass(frozen=True)
class Move:
    """One image and the path it gets, relative to the destination."""

    image: LabelledImage
    path: str


@dataclass(frozen=True)
class Plan:
    """What a restructured data set will hold; labels follow `class_names`."""

    destination: Path
    class_names: tuple[str, ...]
    words: Mapping[str, str]
    moves: tuple[Move, ...]


def plan_moves(source: Source, destination: Path, classes: ClassSpec = None) -> Plan:
    """Decides which image goes where. Nothing is read or written.

    Args:
        source: A `Source`, from `open_source`.
        destination: Folder of the restructured data set.
        classes: See `restructure`.

    Returns:
        A `Plan`; its moves are sorted by split, class and file name.

    Raises:
        ValueError: If a class is unknown, two images would get the same
            path, a name is not a plain file name, or the destination and the
            source lie in each other.
    """
    _require_apart(source.location.resolve(), destination)
    class_names = select_classes(source.class_names, classes, source.words)
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
                    f"{source.describe(moves[path].image)} and "
                    f"{source.describe(image)}. Rename one of them."
                )
            moves[path] = Move(image, path)
    words = {**TINY_IMAGENET_WORDS, **source.words}
    known = {name: words[name] for name in class_names if name in words}
    return Plan(destination, class_names, known, tuple(moves.values()))


def _require_apart(location: Path, destination: Path) -> None:
    ours = (destination, staging_of(destination), backup_of(destination))
    for folder in ours:
        if location in (folder, *folder.parents) or folder in location.parents:
            raise ValueError(
                "`destination` must lie outside of the source, and the source outside "
                f"of it. Received: source={str(location)!r}, "
                f"destination={str(destination)!r}"
            )


def _file_name(image: LabelledImage, source: Source) -> str:
    """Returns the image's file name; nothing may lead out of the folder."""
    file_name = image.name.rpartition("/")[2]
    for name in (image.class_name, file_name):
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise ValueError(
                f"{name!r}, of {source.describe(image)}, is not the plain name of a "
                "class or file. Rename it."
            )
    return file_name


def staging_of(target: Path) -> Path:
    """Where a data set is made before it gets its name."""
    return target.with_name(f"{target.name}.partial")


def backup_of(target: Path) -> Path:
    """Where an earlier result waits while it is replaced."""
    return target.with_name(f".{target.name}.replaced")
