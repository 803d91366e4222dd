"""Rewrites a source as train_images/<class>/ and val_images/<class>/.

`plan_moves` decides, without touching a file; `apply_moves` does it; and
`restructure` makes the result appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import operator
import os
import shutil
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, SupportsIndex

from keras_tinyalex.datasets.classes import (
    TINY_IMAGENET_WORDS,
    ClassSpec,
    select_classes,
)
from keras_tinyalex.datasets.layout import LabelledImage, Source, open_source
from keras_tinyalex.progress import Progress

MODES = ("copy", "hardlink", "symlink", "move")
SPLIT_FOLDERS = {"train": "train_images", "val": "val_images"}
MANIFEST = "manifest.json"
FORMAT = "keras_tinyalex restructured data set"
FORMAT_VERSION = 1
# Sources which a move has still to delete; hidden, so that it is not data.
JOURNAL = ".move_journal.json"
DISK_BLOCK = 4096  # a small file takes at least this


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


@dataclass(frozen=True)
class RestructureReport:
    """What `restructure` did.

    Attributes:
        destination: Path of the restructured data set.
        mode: `"copy"`, `"hardlink"`, `"symlink"` or `"move"`.
        files: Number of images in the data set.
        bytes: Their size.
        written: Number of images written; 0 if they were there already.
        classes: Class names in label order.
        seconds: Time taken.
        dry_run: Whether nothing was to be written.
    """

    destination: Path
    mode: str
    files: int
    bytes: int
    written: int
    classes: tuple[str, ...]
    seconds: float
    dry_run: bool

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as values that JSON can hold."""
        values = asdict(self)
        return {
            **values,
            "destination": str(self.destination),
            "classes": list(self.classes),
            "seconds": round(self.seconds, 3),
        }


def restructure(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    classes: ClassSpec = None,
    mode: str = "copy",
    overwrite: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> RestructureReport:
    """Writes a data set as one folder of images for each split and class.

    The destination gets `train_images/<class>/*`, `val_images/<class>/*` and
    `manifest.json` with the class names in label order, their readable
    names, where the images came from, and each file's size and SHA-256.

    Everything is written to the folder `<destination>.partial`, which is
    then renamed: a destination is complete or absent, even if the run is
    killed. The same call made again finds its result and writes nothing.

    Args:
        source: Official folder or zip file of Tiny ImageNet, a restructured
            folder, a folder of class folders, or `"sample"`.
        destination: Path of the folder to write. It must not exist, be
            empty, or hold an earlier result.
        classes: `None` for all classes, an integer n for the first n sorted
            class names, a list of wnids or names, or the path of a file with
            one of these a line. Defaults to `None`.
        mode: One of

            * `"copy"` (default);
            * `"hardlink"`: on the same file system, takes no space;
            * `"symlink"`: absolute symbolic links to the source's files;
            * `"move"`: the source's images are deleted once the destination
              is complete. A killed run is finished by the same call.

            A zip file can only be copied from.
        overwrite: Whether to replace an earlier result at the destination.
            Other folders, and the results of a move (the only copies of
            their images), are never replaced. Defaults to `False`.
        dry_run: Whether to check everything and write nothing.
            Defaults to `False`.
        progress: Whether to show progress on standard error.
            Defaults to `True`.

    Returns:
        A `RestructureReport`.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If an argument is wrong, two images would get the same
            path, or the destination holds something else.
        OSError: If a file cannot be read or written. The source is intact.

    Examples:
        >>> import keras_tinyalex, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> report = keras_tinyalex.datasets.tiny_imagenet.restructure(
        ...     "sample", folder, classes=2, progress=False)
        >>> report.files, report.classes
        (240, ('n99000000', 'n99000001'))
    """
    start = time.perf_counter()
    if mode not in MODES:
        raise ValueError(f"`mode` must be one of {MODES}. Received: mode={mode!r}")
    if isinstance(classes, Iterable) and not isinstance(classes, str):
        classes = list(classes)  # it may be an iterator, and is read twice
    target = _check_destination(destination)
    request = {"source": os.fspath(source), "mode": mode, "classes": _plain(classes)}
    if not dry_run:
        _recover(target)
    old = _read_manifest(target)
    written = 0
    if old and _is_moved(old, request, target):
        # The source holds nothing to plan from any more.
        class_names, files = tuple(old["class_names"]), old["files"]
        if not dry_run:
            _finish_move(target, old)
    else:
        found = open_source(source)
        plan = plan_moves(found, target, classes)
        class_names, files = plan.class_names, _measure(plan, found, mode)
        if old and not overwrite:
            _require_same(old, plan, files, request)
        else:
            _check_writable(old, files, mode, target)
            if not dry_run:
                files = _publish(plan, found, request, progress)
                written = len(files)
    return RestructureReport(
        destination=target,
        mode=mode,
        files=len(files),
        bytes=sum(file["size"] for file in files),
        written=written,
        classes=class_names,
        seconds=time.perf_counter() - start,
        dry_run=dry_run,
    )


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
    ours = (destination, _staging(destination), _backup(destination))
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


def apply_moves(
    plan: Plan, source: Source, folder: Path, mode: str, progress: bool = True
) -> list[dict[str, Any]]:
    """Writes the plan's files below `folder`; the source is not changed.

    Args:
        plan: From `plan_moves`.
        source: The `Source` of the plan.
        folder: Existing folder to write to.
        mode: See `restructure`. `"move"` makes hard links, or copies where
            these are not possible, and leaves the deletion to the caller.
        progress: Whether to show progress on standard error.

    Returns:
        For each move a dictionary of its `path`, `size` and `sha256`.
    """
    for parent in sorted({move.path.rpartition("/")[0] for move in plan.moves}):
        (folder / parent).mkdir(parents=True, exist_ok=True)
    files = []
    description = {"copy": "copying", "move": "moving"}.get(mode, "linking")
    with Progress(description, len(plan.moves), "files", enabled=progress) as bar:
        for move in plan.moves:
            data = source.read(move.image)
            path = f"{folder}/{move.path}"
            if mode == "copy":
                _write_file(path, data)
            else:
                _link(str(source.path(move.image)), path, mode, data)
            digest = hashlib.sha256(data).hexdigest()
            files.append({"path": move.path, "size": len(data), "sha256": digest})
            bar.advance()
    return files


def _write_file(path: str, data: bytes, sync: bool = False) -> None:
    with open(path, "xb") as file:  # noqa: PTH123, Path.open takes twice as long
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def _link(original: str, path: str, mode: str, data: bytes) -> None:
    if mode == "symlink":
        Path(path).symlink_to(os.path.realpath(original))
        return
    # A link to a symbolic link would end with the latter.
    is_link = os.path.islink(original)  # noqa: PTH114, half the time of Path
    real = os.path.realpath(original) if is_link else original
    try:
        os.link(real, path)
    except OSError as error:
        if mode == "move":
            _write_file(path, data, sync=True)  # the original will be deleted
        else:
            raise OSError(
                error.errno,
                f"Cannot make a hard link to {real}: {error.strerror}. Use "
                "mode='copy' or mode='symlink'",
            ) from error


# ------------------------------------------------- one step from old to new


def _publish(
    plan: Plan, source: Source, request: Mapping[str, Any], progress: bool
) -> list[dict[str, Any]]:
    """Makes the data set beside the destination, then renames it."""
    target, mode = plan.destination, request["mode"]
    staging, backup = _staging(target), _backup(target)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **request,
        "class_names": list(plan.class_names),
        "words": dict(plan.words),
        "files": [],
    }
    _remove_ours(staging)
    staging.mkdir(parents=True)
    try:
        # Without files: says whose folder it is if this run is killed.
        _write_json(staging / MANIFEST, manifest)
        manifest["files"] = files = apply_moves(plan, source, staging, mode, progress)
        if mode == "move":
            originals = [str(source.path(move.image).absolute()) for move in plan.moves]
            _write_json(staging / JOURNAL, originals, sync=True)
        # A move deletes its sources, so that a power cut must not undo this.
        _write_json(staging / MANIFEST, manifest, sync=mode == "move")
        if _read_manifest(target):
            os.replace(target, backup)
        elif target.exists():
            target.rmdir()  # it is empty
        os.replace(staging, target)
    except Exception:
        with contextlib.suppress(OSError, ValueError):
            _recover(target)
            _remove_ours(staging)
        raise
    _remove_ours(backup)
    if mode == "move":
        _finish_move(target, manifest)
    return files


def _staging(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _backup(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def _recover(target: Path) -> None:
    """Undoes or finishes the exchange of a run that was killed."""
    backup = _backup(target)
    if target.exists():
        _remove_ours(backup)
    elif _read_manifest(backup):
        os.replace(backup, target)


def _remove_ours(folder: Path) -> None:
    """Removes a folder of `restructure`, if it exists, its manifest last."""
    if not folder.exists():
        return
    own = (folder / f"{MANIFEST}.tmp", folder / MANIFEST)
    children = [child for child in folder.iterdir() if child not in own]
    if children and not _read_manifest(folder):
        raise ValueError(
            f"{folder} is in the way and was not made by `restructure`. Rename or "
            "remove it, or pass another `destination`."
        )
    for child in children:
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()
    for child in own:
        child.unlink(missing_ok=True)
    folder.rmdir()


def _is_moved(old: Mapping[str, Any], request: Mapping[str, Any], target: Path) -> bool:
    """Whether `old` is the result of this very move, perhaps unfinished."""
    earlier = {key: old[key] for key in request}
    if earlier == request and request["mode"] == "move":
        problem = _find_difference(old, target)
        if problem:
            raise ValueError(
                f"{target} has changed since the images were moved there: {problem}. "
                "No file was deleted; pass another `destination`."
            )
        return True
    if (target / JOURNAL).exists():
        call = ", ".join(f"{key}={value!r}" for key, value in earlier.items())
        raise ValueError(
            "`destination` is the result of a move that was interrupted before all "
            f"sources were deleted; finish it first, with {call}. "
            f"Received: destination={str(target)!r}"
        )
    return False


def _finish_move(target: Path, manifest: Mapping[str, Any]) -> None:
    """Deletes the moved sources, each one only if its image has arrived."""
    journal = target / JOURNAL
    if not journal.exists():
        return
    originals = map(Path, json.loads(journal.read_text(encoding="utf-8")))
    for original, file in zip(originals, manifest["files"], strict=True):
        if not os.path.lexists(original):
            continue  # deleted by a run that was killed
        arrived = target / file["path"]
        # A symbolic link may lead to an image that was moved before it.
        exists = original.exists()
        if not (exists and original.samefile(arrived)):
            for path in (arrived, original) if exists else (arrived,):
                if hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
                    raise ValueError(
                        f"{original} was not deleted: {path} has changed since it was "
                        f"moved to {arrived}. Look at both, and delete one of them."
                    )
        original.unlink()
    journal.unlink()


# ------------------------------------------------------------------- checks


def _check_destination(destination: str | os.PathLike[str]) -> Path:
    target = Path(destination).expanduser().resolve()
    received = f"Received: destination={os.fspath(destination)!r}"
    if target == target.parent or target == Path.cwd():
        raise ValueError(
            "`destination` must be a folder of its own, neither the root of the file "
            f"system nor the current folder. {received}"
        )
    if target.exists() and not target.is_dir():
        raise ValueError(f"`destination` must be a folder, not a file. {received}")
    if target.exists() and not _read_manifest(target) and any(target.iterdir()):
        raise ValueError(
            "`destination` must not exist, be empty, or hold a data set made by "
            "`restructure`; this folder holds other files and is left as it is, also "
            f"with overwrite=True. {received}"
        )
    return target


def _measure(plan: Plan, source: Source, mode: str) -> list[dict[str, Any]]:
    """Returns path, size and device of each file; fails if one is missing."""
    if source.is_zip:
        if mode != "copy":
            raise ValueError(
                "`mode` must be 'copy' where the source is a zip file, whose images "
                f"cannot be linked or moved. Received: mode={mode!r}"
            )
        with zipfile.ZipFile(source.location) as zip_file:
            sizes = [zip_file.getinfo(move.image.name).file_size for move in plan.moves]
        return [
            {"path": move.path, "size": size, "device": None}
            for move, size in zip(plan.moves, sizes, strict=True)
        ]
    files = []
    for move in plan.moves:
        status = os.stat(f"{source.location}/{move.image.name}")  # noqa: PTH116, fast
        files.append(
            {"path": move.path, "size": status.st_size, "device": status.st_dev}
        )
    if mode == "hardlink" and not _on_one_device(files, plan.destination):
        raise ValueError(
            "`mode` must be 'copy', 'symlink' or 'move' where source and destination "
            "are on different file systems, which hard links cannot join. "
            f"Received: mode='hardlink', destination={str(plan.destination)!r}"
        )
    return files


def _existing_parent(target: Path) -> Path:
    return next(parent for parent in target.parents if parent.exists())


def _on_one_device(files: Sequence[Mapping[str, Any]], target: Path) -> bool:
    device = _existing_parent(target).stat().st_dev
    return all(file["device"] == device for file in files)


def _check_writable(
    old: Mapping[str, Any] | None,
    files: Sequence[Mapping[str, Any]],
    mode: str,
    target: Path,
) -> None:
    if old and old["mode"] == "move":
        raise ValueError(
            "`overwrite` must not replace images that were moved: the only copy of "
            "them is in the destination. Pass another `destination`, or remove that "
            f"folder yourself. Received: destination={str(target)!r}"
        )
    if mode == "copy" or (mode == "move" and not _on_one_device(files, target)):
        needed = sum(-(-file["size"] // DISK_BLOCK) * DISK_BLOCK for file in files)
        free = shutil.disk_usage(_existing_parent(target)).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"The disk of {target} is too full: {needed / 1e6:,.0f} MB are needed, "
                f"{free / 1e6:,.0f} MB are free. Make room, or use mode='hardlink'",
            )


def _require_same(
    old: Mapping[str, Any],
    plan: Plan,
    files: Sequence[Mapping[str, Any]],
    request: Mapping[str, Any],
) -> None:
    """Accepts an earlier result if this call would make the same."""
    wanted = {file["path"]: file["size"] for file in files}
    if old["source"] != request["source"]:
        problem = f"it was made from source={old['source']!r}"
    elif old["mode"] != request["mode"]:
        problem = f"it was made with mode={old['mode']!r}"
    elif tuple(old["class_names"]) != plan.class_names:
        problem = f"it has {len(old['class_names'])} classes, not those chosen now"
    elif {file["path"]: file["size"] for file in old["files"]} != wanted:
        problem = "the source's files have changed since"
    else:
        problem = _find_difference(old, plan.destination)
    if problem:
        raise ValueError(
            f"`destination` holds another data set: {problem}. Pass overwrite=True "
            "(--overwrite) to replace it. "
            f"Received: destination={str(plan.destination)!r}"
        )


def _find_difference(manifest: Mapping[str, Any], target: Path) -> str:
    """Returns how the files differ from the manifest, "" if not at all."""
    listed = {file["path"]: file["size"] for file in manifest["files"]}
    present = dict(_scan(target))
    for path in sorted(listed.keys() | present.keys()):
        if path not in present:
            return f"{path} is missing"
        if path not in listed:
            return f"{path} is not in its {MANIFEST}"
        if listed[path] != present[path]:
            return f"{path} has {present[path]} bytes instead of {listed[path]}"
    return ""


def _scan(target: Path) -> Iterator[tuple[str, int | None]]:
    """Yields relative paths and sizes; no size for a broken link."""
    for split in SPLIT_FOLDERS.values():
        if not (target / split).is_dir():
            continue
        for folder in (target / split).iterdir():
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = f"{split}/{folder.name}/{entry.name}"
                    try:
                        yield path, entry.stat().st_size
                    except FileNotFoundError:
                        yield path, None


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Returns the manifest if `restructure` made this folder, else None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder / MANIFEST} was written by another version of keras_tinyalex. "
            "Pass another `destination`, or remove that folder."
        )
    return manifest


def _write_json(path: Path, content: object, sync: bool = False) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)


def _plain(classes: ClassSpec) -> Any:
    """Returns the choice of classes as JSON holds it."""
    if isinstance(classes, list):
        return sorted(map(str, classes))
    if isinstance(classes, os.PathLike):
        return os.fspath(classes)
    if isinstance(classes, SupportsIndex):
        return operator.index(classes)
    return classes
