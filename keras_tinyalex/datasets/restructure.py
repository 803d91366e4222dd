"""Rewrites a source as train_images/<class>/ and val_images/<class>/.

`plan.py` decides, without touching a file; `publish.py` does it, so that the
result appears whole or not at all; this module checks before, and reports.
"""

from __future__ import annotations

import errno
import operator
import os
import shutil
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, SupportsIndex

from keras_tinyalex.datasets.classes import ClassSpec
from keras_tinyalex.datasets.layout import Source, open_source, without_collection
from keras_tinyalex.datasets.manifest import find_difference, read_manifest
from keras_tinyalex.datasets.plan import Plan, plan_moves
from keras_tinyalex.datasets.publish import finish_move, is_moved, publish, recover
from keras_tinyalex.files import one_writer

MODES = ("copy", "hardlink", "symlink", "move")
DISK_BLOCK = 4096  # a small file takes at least this


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


@without_collection()
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
        OSError: If a file cannot be read or written, or another process is
            writing to the destination. The source is intact.

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
    guard: AbstractContextManager[None] = nullcontext()
    if not dry_run:
        if not target.parent.exists():
            # What is refused is refused before the first folder is made.
            _carry_out(source, target, classes, request, overwrite, True, False)
            target.parent.mkdir(parents=True)
        lock = target.with_name(f".{target.name}.lock")
        guard = one_writer(lock, "destination", target)
    with guard:
        class_names, files, written = _carry_out(
            source, target, classes, request, overwrite, dry_run, progress
        )
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


def _carry_out(
    source: str | os.PathLike[str],
    target: Path,
    classes: ClassSpec,
    request: Mapping[str, Any],
    overwrite: bool,
    dry_run: bool,
    progress: bool,
) -> tuple[tuple[str, ...], list[dict[str, Any]], int]:
    """Returns the class names, the files, and how many of them were written."""
    if not dry_run:
        recover(target)
    old = read_manifest(target)
    if old and is_moved(old, request, target):
        # The source holds nothing to plan from any more.
        if not dry_run:
            finish_move(target, old)
        return tuple(old["class_names"]), old["files"], 0
    found = open_source(source)
    plan = plan_moves(found, target, classes)
    files = _measure(plan, found, request["mode"])
    if old and not overwrite:
        _require_same(old, plan, files, request)
        return plan.class_names, files, 0
    _check_writable(old, files, request["mode"], target)
    if dry_run:
        return plan.class_names, files, 0
    files = publish(plan, found, request, progress)
    return plan.class_names, files, len(files)


def _check_destination(destination: str | os.PathLike[str]) -> Path:
    target = Path(os.path.expanduser(destination)).resolve()  # noqa: PTH111
    received = f"Received: destination={os.fspath(destination)!r}"
    if target == target.parent or target == Path.cwd():
        raise ValueError(
            "`destination` must be a folder of its own, neither the root of the file "
            f"system nor the current folder. {received}"
        )
    if target.exists() and not target.is_dir():
        raise ValueError(f"`destination` must be a folder, not a file. {received}")
    if target.exists() and not read_manifest(target) and any(target.iterdir()):
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
        status = os.stat(source.path(move.image))  # noqa: PTH116, fast
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
        problem = find_difference(old, plan.destination)
    if problem:
        raise ValueError(
            f"`destination` holds another data set: {problem}. Pass overwrite=True "
            "(--overwrite) to replace it. "
            f"Received: destination={str(plan.destination)!r}"
        )


def _plain(classes: ClassSpec) -> Any:
    """Returns the choice of classes as JSON holds it."""
    if isinstance(classes, list):
        return sorted(map(str, classes))
    if isinstance(classes, os.PathLike):
        return os.fspath(classes)
    if isinstance(classes, SupportsIndex):
        return operator.index(classes)
    return classes
