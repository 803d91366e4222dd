"""A source of labelled images: the files of a folder or a zip, and their classes."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from keras_tinyalex.datasets.classes import Classes, select_classes

# The deepest layout is tiny-imagenet-200/train/<wnid>/images/<file>.
MAX_DEPTH = 6
# Zip members that are not data: hidden files (but not ".."), and what macOS adds.
HIDDEN = re.compile(r"(?:^|/)(?:\.(?!\.?/)|__MACOSX/)")


@dataclass(frozen=True)
class LabelledImage:
    """One image of a source.

    Attributes:
        name: POSIX path, relative to the source.
        class_name: The wnid, or the name of the class folder.
    """

    name: str
    class_name: str


class FolderTree:
    """The files of a folder.

    Paths are strings: making a `Path` takes a third of the time of reading a file.

    Attributes:
        names: Paths of the files, relative to the folder, with "/".
        folders: The same of the folders, each with a "/" at the end.
    """

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

    def fingerprint(self, name: str) -> tuple[int, int]:
        status = os.stat(self.prefix + name)  # noqa: PTH116
        return status.st_size, status.st_mtime_ns


class ZipTree:
    """The files of a zip, with the attributes of `FolderTree`."""

    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path)
        members = [name for name in self.zip.namelist() if not HIDDEN.search(name)]
        self.names = [name for name in members if not name.endswith("/")]
        self.folders = [name for name in members if name.endswith("/")]

    def read(self, name: str) -> bytes:
        return self.zip.read(name)

    def fingerprint(self, name: str) -> tuple[int, int]:
        member = self.zip.getinfo(name)
        return member.file_size, member.CRC


Tree: TypeAlias = FolderTree | ZipTree


class Source:
    """The labelled images of a folder or zip, from `open_source`.

    Attributes:
        location: Path of the folder or zip.
        is_zip: Whether the source is a zip file.
        kind: `"official"`, `"restructured"` or `"folders"`.
        images: Dictionary from the splits `"train"` and, if the source has
            one, `"val"` to tuples of `LabelledImage`, sorted by class and
            name.
        class_names: Sorted wnids or folder names.
        words: Readable names by class name, as far as they are known.
    """

    def __init__(
        self,
        location: Path,
        kind: str,
        images: Mapping[str, Sequence[LabelledImage]],
        words: Mapping[str, str],
        tree: Tree,
    ) -> None:
        self.location = location
        self.kind = kind
        self.is_zip = isinstance(tree, ZipTree)
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

    def select(self, classes: Classes) -> tuple[str, ...]:
        """Returns the selected class names in label order; see `select_classes`."""
        return select_classes(self.class_names, classes, self.words)

    def read(self, image: LabelledImage) -> bytes:
        """Returns the bytes of the image's file.

        Raises:
            OSError: If it cannot be read. The message names the file.
        """
        try:
            return self._tree.read(image.name)
        except (OSError, zipfile.BadZipFile) as error:
            raise OSError(f"Cannot read {self.describe(image)}: {error}") from error

    def fingerprint(self, image: LabelledImage) -> tuple[int, int]:
        """Returns the file's size and its CRC (zip) or modification time (folder)."""
        return self._tree.fingerprint(image.name)

    def path(self, image: LabelledImage) -> str:
        """Returns the path of the image's file, for a source that is a folder.

        A string, because making 110,000 `Path` objects takes too long.
        """
        if self.is_zip:
            raise ValueError(f"Images inside a zip have no path. Received: {self!r}")
        return f"{self.location}/{image.name}"

    def describe(self, image: LabelledImage) -> str:
        """Returns the image's location, for messages."""
        return f"{self.location}{'!' if self.is_zip else '/'}{image.name}"

    def __repr__(self) -> str:
        return f"Source({str(self.location)!r}, kind={self.kind!r})"
