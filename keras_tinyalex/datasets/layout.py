"""Finds the labelled images of a source: a folder or zip in a known layout."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp")
# The deepest layout is tiny-imagenet-200/train/<wnid>/images/<file>.
MAX_DEPTH = 6
WNID = re.compile(r"n\d{8}")
# Members of a zip that are no data: hidden (not ".." folders), or what macOS adds.
HIDDEN = re.compile(r"(?:^|/)(?:\.(?!\.?/)|__MACOSX/)")


@dataclass(frozen=True)
class LabelledImage:
    """One image of a source.

    Attributes:
        name: POSIX path inside the source.
        class_name: The wnid, or the name of the class folder.
    """

    name: str
    class_name: str


class _Tree(Protocol):
    """A folder or a zip seen alike: relative POSIX names and their bytes."""

    names: list[str]
    folders: list[str]

    def read(self, name: str) -> bytes: ...

    def stamp(self, name: str) -> tuple[int, int]: ...


class _FolderTree:
    """A folder. Paths are strings: a `Path` a file takes a third of a read's time."""

    def __init__(self, root: Path) -> None:
        self.prefix = f"{root}/"
        self.names: list[str] = []
        self.folders: list[str] = []
        self._scan(str(root), "", ())

    def _scan(self, folder: str, prefix: str, parents: tuple[str, ...]) -> None:
        identity = os.path.realpath(folder)
        if identity in parents or len(parents) > MAX_DEPTH:
            return  # a loop of symbolic links
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    child = f"{prefix}{entry.name}/"
                    self.folders.append(child)
                    self._scan(entry.path, child, (*parents, identity))
                else:
                    self.names.append(prefix + entry.name)

    def read(self, name: str) -> bytes:
        with open(self.prefix + name, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()

    def stamp(self, name: str) -> tuple[int, int]:
        status = os.stat(self.prefix + name)  # noqa: PTH116
        return status.st_size, status.st_mtime_ns


class _ZipTree:
    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path)
        members = [name for name in self.zip.namelist() if not HIDDEN.search(name)]
        self.names = [name for name in members if not name.endswith("/")]
        self.folders = [name for name in members if name.endswith("/")]

    def read(self, name: str) -> bytes:
        return self.zip.read(name)

    def stamp(self, name: str) -> tuple[int, int]:
        member = self.zip.getinfo(name)
        return member.file_size, member.CRC


class Source:
    """The labelled images of a folder or zip.

    Made by `open_source`; see there for the layouts.

    Attributes:
        location: Path of the folder or zip.
        is_zip: Whether the source is a zip file.
        kind: `"official"`, `"restructured"` or `"folders"`.
        images: Tuples of `LabelledImage`, sorted by class and name, under
            the splits `"train"` and, where the source has it, `"val"`.
        class_names: Sorted wnids or folder names.
        words: Readable names by class name; empty where none are known.
    """

    def __init__(
        self,
        location: Path,
        kind: str,
        images: Mapping[str, Sequence[LabelledImage]],
        words: Mapping[str, str],
        tree: _FolderTree | _ZipTree,
    ) -> None:
        self.location = location
        self.kind = kind
        self.is_zip = isinstance(tree, _ZipTree)
        self.images = {
            split: tuple(sorted(found, key=lambda i: (i.class_name, i.name)))
            for split, found in images.items()
            if found
        }
        self.class_names = tuple(
            sorted({i.class_name for found in images.values() for i in found})
        )
        self.words = {name: words[name] for name in self.class_names if name in words}
        self._tree = tree

    def read(self, image: LabelledImage) -> bytes:
        """Returns the bytes of the image's file."""
        try:
            return self._tree.read(image.name)
        except (OSError, zipfile.BadZipFile) as error:
            raise OSError(f"Cannot read {self.describe(image)}: {error}") from error

    def stamp(self, image: LabelledImage) -> tuple[int, int]:
        """Returns the file's size, and its checksum or time of change."""
        return self._tree.stamp(image.name)

    def path(self, image: LabelledImage) -> str:
        """Returns the path of the image's file in a folder source.

        Not a `Path`: there are 110,000 of them, and each takes a while to make.
        """
        if self.is_zip:
            raise ValueError(f"Images inside a zip have no path. Received: {self!r}")
        return f"{self.location}/{image.name}"

    def describe(self, image: LabelledImage) -> str:
        """Returns where the image is, for messages."""
        return f"{self.location}{'!' if self.is_zip else '/'}{image.name}"

    def __repr__(self) -> str:
        return f"Source({str(self.location)!r}, kind={self.kind!r})"


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Makes objects by the 100,000 without a search for cycles among them.

    That would go through every object of Keras and its backend, again and again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@without_collection()
def open_source(source: str | os.PathLike[str]) -> Source:
    """Finds the labelled images of a folder or zip file.

    Args:
        source: One of

            * `"sample"`: the embedded sample data set;
            * the official folder `tiny-imagenet-200/` or its zip file
              (`train/<wnid>/images/*.JPEG`, `val/images/*.JPEG` with
              `val/val_annotations.txt`), or a part of it;
            * a restructured folder (`train_images/<wnid>/*.JPEG`,
              `val_images/<wnid>/*.JPEG`);
            * a folder with `train/<class>/*` and optionally
              `val/<class>/*`, or any folder of class folders, whose
              images are all `"train"`.

    Returns:
        A `Source`.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If it is not one of these layouts, a class folder is
            empty, or the annotations of the val images are wrong; every
            wrong line is listed.
    """
    if source == "sample":
        from keras_tinyalex.datasets.sample import sample_path

        source = sample_path()
    location = Path(os.path.expanduser(source))  # noqa: PTH111, it never fails
    if not location.exists():
        raise FileNotFoundError(
            "`source` must be an existing folder or zip file, or 'sample'. "
            f"Received: source={str(source)!r}"
        )
    tree = _FolderTree(location) if location.is_dir() else _open_zip(location)
    root = _find_root(tree.names)
    inside = {name[len(root) :] for name in tree.names if name.startswith(root)}
    top = {name.split("/", 1)[0] for name in inside if "/" in name}
    _refuse_raw_val(inside, top, source)
    if top & {"train_images", "val_images"}:
        kind, folders = "restructured", {"train": "train_images/", "val": "val_images/"}
    elif "train" in top and "val/val_annotations.txt" in inside:
        kind, folders = "official", {"train": "train/"}
    elif "train" in top:
        kind, folders = "folders", {"train": "train/", "val": "val/"}
    else:
        kind, folders = "folders", {"train": ""}
    images = {
        split: _class_folders(tree, root + folder, location)
        for split, folder in folders.items()
    }
    if kind == "official":
        images["val"] = _annotated(tree, root, {i.class_name for i in images["train"]})
    if not images["train"]:
        raise ValueError(
            "`source` must hold images in class folders, e.g. "
            "train/<class>/*.JPEG or <class>/*.JPEG, but no training image was "
            f"found. Received: source={str(source)!r}"
        )
    found = Source(location, kind, images, _read_words(tree, root), tree)
    trained = {image.class_name for image in images["train"]}
    if unknown := [name for name in found.class_names if name not in trained]:
        problems = [f"{name!r} has val images but no train images" for name in unknown]
        raise ValueError(_list_problems(f"{location} has", problems))
    return found


def _open_zip(path: Path) -> _ZipTree:
    try:
        return _ZipTree(path)
    except zipfile.BadZipFile as error:
        raise ValueError(
            "`source` must be a folder, a zip file or 'sample'; this file is not a "
            f"complete zip file ({error}). Received: source={str(path)!r}"
        ) from None


def _find_root(names: Sequence[str]) -> str:
    """Returns the prefix of the data set, "" or e.g. "tiny-imagenet-200/"."""
    root = ""
    # A folder or zip that holds the data set's folder and nothing else.
    while len(tops := {name[len(root) :].split("/", 1)[0] for name in names}) == 1:
        (top,) = tops
        if top in ("train", "val", "train_images", "val_images") or WNID.match(top):
            break
        deeper = f"{root}{top}/"
        if sum(name.count("/", len(deeper)) >= 1 for name in names) == 0:
            break  # its children are files: this is a class folder
        root = deeper
    if not root and any(name.startswith("tiny-imagenet-200/") for name in names):
        root = "tiny-imagenet-200/"
    return root


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _class_folders(tree: _Tree, prefix: str, location: Path) -> list[LabelledImage]:
    """Images of `<prefix>/<class>/*` or `<prefix>/<class>/images/*`."""
    found = []
    for name in tree.names:
        if not name.startswith(prefix) or not _is_image(name):
            continue
        class_name, *rest = name[len(prefix) :].split("/")
        if len(rest) == 1 or (len(rest) == 2 and rest[0] == "images"):
            found.append(LabelledImage(name, class_name))
    # An empty class folder would shift the labels of all classes behind it.
    full = {image.class_name for image in found}
    folders = {
        name[len(prefix) :].split("/", 1)[0]
        for name in tree.folders
        if name.startswith(prefix) and name != prefix
    }
    if found and folders - full:
        problems = [f"no image in {prefix}{name}" for name in sorted(folders - full)]
        raise ValueError(_list_problems(f"{location} has", problems))
    return found


def _annotated(tree: _Tree, root: str, classes: set[str]) -> list[LabelledImage]:
    """Images of `val/images/` labelled by `val/val_annotations.txt`."""
    annotations = f"{root}val/val_annotations.txt"
    folder = f"{root}val/images/"
    present = {
        name[len(folder) :]
        for name in tree.names
        if name.startswith(folder) and _is_image(name)
    }
    try:
        text = tree.read(annotations).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{annotations} is not UTF-8 text ({error}); restore that file from the "
            "official archive."
        ) from None
    labels: dict[str, str] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 2 or not fields[1].strip():
            problems.append(f"line {number}: not 'file<TAB>wnid...': {line[:60]!r}")
        elif "/" in fields[0] or "\\" in fields[0]:
            problems.append(f"line {number}: {fields[0]!r} is not a plain file name")
        elif fields[0] in labels:
            problems.append(f"line {number}: {fields[0]!r} is labelled twice")
        elif fields[0] not in present:
            problems.append(f"line {number}: {fields[0]!r} is not in val/images")
        else:
            labels[fields[0]] = class_name = fields[1].strip()
            if class_name not in classes:
                problems.append(f"line {number}: no train images of {class_name!r}")
    problems += [f"{n!r} has no line" for n in sorted(present - labels.keys())]
    if problems:
        raise ValueError(_list_problems(f"{annotations} has", problems))
    return [LabelledImage(folder + name, label) for name, label in labels.items()]


def _refuse_raw_val(inside: set[str], top: set[str], source: object) -> None:
    """Refuses an official `val` folder by itself, or without its labels.

    Its images lie unsorted in one folder called "images", which must not be
    taken for a class.
    """
    annotated = "val_annotations.txt" in inside or "val/val_annotations.txt" in inside
    if "train" not in top and (annotated or top == {"images"}):
        raise ValueError(
            "`source` must be the folder tiny-imagenet-200, not its raw 'val' "
            "folder, whose images are not sorted into classes. Pass the parent "
            "folder, or restructure that with 'keras-tinyalex prepare'. "
            f"Received: source={str(source)!r}"
        )
    if not annotated and any(name.startswith("val/images/") for name in inside):
        raise ValueError(
            "`source` has val/images but no val/val_annotations.txt with their "
            "labels; restore that file from the official archive. "
            f"Received: source={str(source)!r}"
        )


def _list_problems(subject: str, problems: Sequence[str], limit: int = 20) -> str:
    shown = "; ".join(problems[:limit])
    more = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return f"{subject} {count}: {shown}{more}."


def _read_words(tree: _Tree, root: str) -> dict[str, str]:
    """Readable names: words.txt of an official, manifest.json of ours."""
    if f"{root}words.txt" in tree.names:
        text = tree.read(f"{root}words.txt").decode("utf-8", errors="replace")
        lines = text.splitlines()
        pairs = (line.partition("\t") for line in lines)
        return {class_name: text.strip() for class_name, _, text in pairs}
    if f"{root}manifest.json" in tree.names:
        try:
            manifest = json.loads(tree.read(f"{root}manifest.json"))
            words = manifest.get("words", {}).items()
            return {name: text for name, text in words if isinstance(text, str)}
        except (ValueError, AttributeError, RecursionError):
            return {}  # somebody else's manifest.json
    return {}
