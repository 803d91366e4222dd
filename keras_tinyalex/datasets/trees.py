"""The files of a folder or a zip, by the folder that they lie in."""

from __future__ import annotations

import abc
import os
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from keras_tinyalex.datasets.images import IMAGE_SUFFIXES
from keras_tinyalex.datasets.known_files import conversion, is_system_name, suffix_of

# The deepest layout is tiny-imagenet-200/train/<wnid>/images/<file>.
MAX_DEPTH = 8
METHODS = (
    *(zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
    *(zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA),
)


class Tree(abc.ABC):
    """The files of a folder or a zip.

    Paths are strings: making a `Path` takes a third of the time of reading a file.

    Attributes:
        location: Path of the folder or the zip.
        folders: The names of the files in each folder, by the path of the folder
            in `location`: "" or, e.g., "train/n01443537/".
        broken: Paths of the files that are links to nothing.
        separator: What is between `location` and a path in messages.
        identity: Where the files are, if their fingerprints do not tell.
    """

    separator = "/"
    identity = ""

    def __init__(self, location: Path) -> None:
        self.location = location
        self.folders: dict[str, list[str]] = {}
        self.broken: list[str] = []

    def names(self) -> Iterator[str]:
        """The paths of all files, without those that are no data."""
        return (f"{d}{file}" for d, files in self.folders.items() for file in files)

    def describe(self, name: str) -> str:
        """Returns where the file of this name is, for messages."""
        return f"{self.location}{self.separator}{name}"

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """Returns the bytes of a file; an `OSError` names it."""

    @abc.abstractmethod
    def size(self, name: str) -> int:
        """Returns the size of a file in bytes."""

    @abc.abstractmethod
    def fingerprint(self, name: str) -> tuple[int, ...]:
        """Returns what differs when the file is another one, or changes."""

    def damaged(self) -> list[tuple[str, str]]:
        """Returns the damage that `read` of all files does not show, and where."""
        return []


class FolderTree(Tree):
    """The files of a folder."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self.identity = str(location.resolve())
        self._scan(str(location), "", ())

    def _scan(self, path: str, folder: str, parents: tuple[str, ...]) -> None:
        identity = os.path.realpath(path)
        if identity in parents or len(parents) > MAX_DEPTH:
            return  # a loop of symbolic links
        files = self.folders[folder] = []
        with os.scandir(path) as entries:
            for entry in entries:
                if is_system_name(entry.name):
                    continue
                if entry.is_dir():
                    child = f"{folder}{entry.name}/"
                    self._scan(entry.path, child, (*parents, identity))
                    continue
                files.append(entry.name)
                if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
                    self.broken.append(folder + entry.name)

    def read(self, name: str) -> bytes:
        with open(f"{self.location}/{name}", "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()

    def fingerprint(self, name: str) -> tuple[int, ...]:
        # `cp -p` and `rsync -t` keep the modification time, but nothing sets the time
        # of the last change of the status. (On Windows it is the time of creation.)
        status = os.stat(f"{self.location}/{name}")  # noqa: PTH116
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def size(self, name: str) -> int:
        return os.stat(f"{self.location}/{name}").st_size  # noqa: PTH116


class ZipTree(Tree):
    """The files of a zip."""

    separator = "!"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.folders[""] = []
        file = path.open("rb")
        try:
            self._zip = zipfile.ZipFile(file)
        except Exception as error:  # a damaged directory raises many types of errors
            file.close()
            raise ValueError(
                "`source` must be a folder, a zip file or 'sample'; this file is not a "
                f"complete zip file ({error}). Received: source={str(path)!r}"
            ) from None
        members = self._zip.infolist()
        if problem := find_lost_members(members, path):
            raise ValueError(
                "`source` must not be a damaged zip: "
                f"{problem}. Copy or download it again. Received: source={str(path)!r}"
            )
        # Some programs on Windows write backslashes, against the standard.
        self._members = {info.filename.replace("\\", "/"): info for info in members}
        with path.open("rb", buffering=0) as raw:
            for name, info in self._members.items():
                _check_name(info, raw, path)
                self._add(name, info)

    def _add(self, name: str, info: zipfile.ZipInfo) -> None:
        folder, separator, file_name = name.rpartition("/")
        folder += separator
        if folder not in self.folders:
            if any(map(is_system_name, folder.split("/"))):
                return
            self._add_folder(folder)
        if file_name and not is_system_name(file_name):
            _check_readable(info, self.location)
            self.folders[folder].append(file_name)

    def _add_folder(self, folder: str) -> None:
        """Adds a folder and those above it, which need not be members."""
        while folder not in self.folders:
            self.folders[folder] = []
            parent, separator, _ = folder[:-1].rpartition("/")
            folder = parent + separator

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(self._members[name])
        except Exception as error:  # zipfile and zlib raise many types of errors
            problem = str(error) or type(error).__name__
            raise OSError(f"Cannot read {self.describe(name)}: {problem}") from error

    def size(self, name: str) -> int:
        return self._members[name].file_size

    def fingerprint(self, name: str) -> tuple[int, ...]:
        return self._members[name].file_size, self._members[name].CRC


def find_lost_members(members: Sequence[zipfile.ZipInfo], archive: Path) -> str | None:
    """Returns the problem of a zip that says to hold another number of members.

    zipfile ignores the number in the end record.
    """
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - (1 << 16) - 22))
        tail = file.read()
    count: int = struct.unpack_from("<H", tail, tail.rfind(b"PK\5\6") + 10)[0]
    zip64 = tail.rfind(b"PK\6\6")
    if count == 0xFFFF and zip64 >= 0:
        (count,) = struct.unpack_from("<Q", tail, zip64 + 32)
    # Older programs store the number modulo 65,536.
    if (len(members) - count) % (1 << 16) == 0:
        return None
    return f"it holds {len(members):,} members, but declares {count:,}"


def _check_name(info: zipfile.ZipInfo, file: IO[bytes], path: Path) -> None:
    """Refuses a member whose name is damaged, which would hide it.

    The name is in the zip twice.
    """
    name = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
    file.seek(info.header_offset + 30)
    if file.read(len(name)) != name:
        raise ValueError(
            "`source` must not be a damaged zip: the name of its member "
            f"{info.filename!r} is damaged. Copy or download it again. "
            f"Received: source={str(path)!r}"
        )


def _check_readable(info: zipfile.ZipInfo, path: Path) -> None:
    """Refuses a member that Python cannot unpack."""
    problem = None
    if info.flag_bits & 1:
        problem = "is encrypted"
    elif info.compress_type not in METHODS:
        problem = f"is compressed by method {info.compress_type}, not by Deflate"
    if problem:
        raise ValueError(
            "`source` must be a zip that Python can unpack. Extract this one with the "
            f"program that made it, and pass the folder: {info.filename} {problem}. "
            f"Received: source={str(path)!r}"
        )


def open_tree(location: Path) -> Tree:
    """Opens a folder, a zip or .npz files of downsampled ImageNet.

    Raises:
        ValueError: If it is another kind of file, or one that is damaged or cannot
            be unpacked.
    """
    from keras_tinyalex.datasets.arrays import BATCH, ArrayTree

    if location.is_dir():
        tree = FolderTree(location)
        arrays = [name for name in tree.names() if name.endswith(".npz")]
        arrays = list(filter(BATCH.fullmatch, arrays))
        if arrays and not IMAGE_SUFFIXES.keys() & map(suffix_of, tree.names()):
            return ArrayTree(location, arrays, tree.folders)
        return tree
    if BATCH.fullmatch(location.name):
        return ArrayTree(location, [location.name])
    suffix = location.suffix.lower()
    if suffix != ".zip" and (cure := conversion(suffix)):
        raise ValueError(
            f"`source` must be a folder, a zip file or 'sample': {cure}. "
            f"Received: source={str(location)!r}"
        )
    return ZipTree(location)
