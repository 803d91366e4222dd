"""Rewrites a source as train_images/<class>/ and val_images/<class>/.

`plan.py` decides without touching a file, `publish.py` writes so that the result
appears complete or not at all, and this module checks the arguments and reports.
"""

from __future__ import annotations

import errno
import operator
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.arguments import check_choice
from keras_tinyalex.datasets.classes import Classes
from keras_tinyalex.datasets.layout import garbage_collection_paused, open_source
from keras_tinyalex.datasets.manifest import find_difference, read_manifest
from keras_tinyalex.datasets.plan import Plan, plan_moves
from keras_tinyalex.datasets.publish import finish_move, is_moved, publish, recover
from keras_tinyalex.datasets.source import Source
from keras_tinyalex.files import single_writer, size_on_disk

MODES = ("copy", "hardlink", "symlink", "move")


@dataclass(frozen=True)
class RestructureReport:
    """What `restructure` did.

    Attributes:
        destination: Path of the restructured dataset.
        mode: `"copy"`, `"hardlink"`, `"symlink"` or `"move"`.
        files: Number of images in the dataset.
        bytes: Their total size.
        written: Number of images written; 0 if the dataset was complete.
        classes: Class names in label order.
        seconds: Time taken.
        dry_run: Whether this was a dry run.
        left_out: What of the source was not read, as in `--json`: `reason`,
            `count` and `first` names. Empty for a move that was done before.
    """

    destination: Path
    mode: str
    files: int
    bytes: int
    written: int
    classes: tuple[str, ...]
    seconds: float
    dry_run: bool
    left_out: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as values that can be written to JSON."""
        values = asdict(self)
        return {
            **values,
            "destination": str(self.destination),
            "classes": list(self.classes),
            "seconds": round(self.seconds, 3),
        }


@garbage_collection_paused()
def restructure(
    source: PathLike,
    destination: PathLike,
    classes: Classes = None,
    mode: str = "copy",
    overwrite: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> RestructureReport:
    """Writes a dataset as one folder of images per split and class.

    The destination gets `train_images/<class>/*`, `val_images/<class>/*` and
    `manifest.json` with the class names in label order, their readable
    names, the source of the images, and each file's size and SHA-256.

    Everything is written to the folder `<destination>.partial`, which is
    then renamed: a destination is complete or absent, even if the process is
    killed. The same call made again finds its result and writes nothing.

    Args:
        source: Official folder or zip file of Tiny ImageNet, a restructured
            folder, a folder of class folders, or `"sample"`.
        destination: Path of the folder to write. It must not exist, be
            empty, or hold an earlier result.
        classes: `None` for all classes, an integer n for the first n sorted
            class names, a list of wnids or names, or the path of a file with
            one of these per line. Defaults to `None`.
        mode: One of

            * `"copy"` (default);
            * `"hardlink"`: takes no space, but needs source and destination
              on the same file system;
            * `"symlink"`: absolute symbolic links to the source's files;
            * `"move"`: deletes the source's images once the destination is
              complete. If the process is killed, the same call finishes it.

            A zip file can only be copied.
        overwrite: Whether to replace an earlier result at the destination.
            Other folders, and the results of a move (the only copies of
            their images), are never replaced. Defaults to `False`.
        dry_run: Whether to check everything and write nothing. Defaults to
            `False`.
        progress: Whether to show progress on standard error. Defaults to
            `True`.

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
    check_choice("mode", mode, MODES)
    if isinstance(classes, Iterable) and not isinstance(classes, str):
        classes = list(classes)  # it may be an iterator, and is read twice
    target = _check_destination(destination)
    request = {
        "source": os.fspath(source),
        "mode": mode,
        "classes": _as_json(classes),
    }

    def run(dry_run: bool) -> _Done:
        return _restructure(
            source, target, classes, request, overwrite, dry_run, progress
        )

    lock: AbstractContextManager[None] = nullcontext()
    if not dry_run:
        if not target.parent.exists():
            run(dry_run=True)  # checks everything before it makes the first folder
            target.parent.mkdir(parents=True)
        path = target.with_name(f".{target.name}.lock")
        lock = single_writer(path, "destination", target)
    with lock:
        done = run(dry_run)
    return RestructureReport(
        destination=target,
        mode=mode,
        files=len(done.files),
        bytes=sum(file["size"] for file in done.files),
        written=done.written,
        classes=done.class_names,
        seconds=time.perf_counter() - start,
        dry_run=dry_run,
        left_out=done.left_out,
    )


class _Done(NamedTuple):
    class_names: tuple[str, ...]
    files: list[dict[str, Any]]
    written: int
    left_out: list[dict[str, Any]]


def _restructure(
    source: PathLike,
    target: Path,
    classes: Classes,
    request: Mapping[str, Any],
    overwrite: bool,
    dry_run: bool,
    progress: bool,
) -> _Done:
    if not dry_run:
        recover(target)
    old = read_manifest(target)
    if old and is_moved(old, request, target):
        # The source has no images left to plan from.
        if not dry_run:
            finish_move(target, old)
        return _Done(tuple(old["class_names"]), old["files"], 0, [])
    opened = open_source(source)
    left_out = opened.report_left_out()
    plan = plan_moves(opened, target, classes)
    files = _list_files(plan, opened, request["mode"])
    if old and not overwrite:
        _check_same_result(old, plan, files, request)
        return _Done(plan.class_names, files, 0, left_out)
    _check_writable(old, files, request["mode"], target)
    if dry_run:
        return _Done(plan.class_names, files, 0, left_out)
    files = publish(plan, opened, request, progress)
    return _Done(plan.class_names, files, len(files), left_out)


def _check_destination(destination: PathLike) -> Path:
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
            "`destination` must not exist, be empty, or hold a dataset made by "
            "`restructure`. This folder holds other files, which are never "
            f"replaced, not even with overwrite=True. {received}"
        )
    return target


def _list_files(plan: Plan, source: Source, mode: str) -> list[dict[str, Any]]:
    """Returns path, size and device of each file of the plan.

    Raises:
        OSError: If a file is missing.
        ValueError: If the source does not allow the mode.
    """
    if not source.has_files:
        if mode != "copy":
            raise ValueError(
                "`mode` must be 'copy' if the images are inside a file, such as a zip, "
                f"where they cannot be linked or moved. Received: mode={mode!r}"
            )
        sizes = (source.tree.size(move.image.name) for move in plan.moves)
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
    if mode == "hardlink" and not _on_same_device(files, plan.destination):
        raise ValueError(
            "`mode` must be 'copy', 'symlink' or 'move' if source and destination "
            "are on different file systems, between which there are no hard links. "
            f"Received: mode='hardlink', destination={str(plan.destination)!r}"
        )
    return files


def _existing_parent(target: Path) -> Path:
    return next(parent for parent in target.parents if parent.exists())


def _on_same_device(files: Sequence[Mapping[str, Any]], target: Path) -> bool:
    device = _existing_parent(target).stat().st_dev
    return all(file["device"] == device for file in files)


def _check_writable(
    old: Mapping[str, Any] | None,
    files: Sequence[Mapping[str, Any]],
    mode: str,
    target: Path,
) -> None:
    """Checks that nothing irreplaceable is overwritten, and the free space."""
    if old and old["mode"] == "move":
        raise ValueError(
            "`overwrite` must not replace images that were moved: the only copy of "
            "them is in the destination. Pass another `destination`, or remove that "
            f"folder yourself. Received: destination={str(target)!r}"
        )
    if mode == "copy" or (mode == "move" and not _on_same_device(files, target)):
        needed = size_on_disk(file["size"] for file in files)
        free = shutil.disk_usage(_existing_parent(target)).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"The disk of {target} is too full: {needed / 1e6:,.0f} MB are needed, "
                f"{free / 1e6:,.0f} MB are free. Make room, or use mode='hardlink'",
            )


def _check_same_result(
    old: Mapping[str, Any],
    plan: Plan,
    files: Sequence[Mapping[str, Any]],
    request: Mapping[str, Any],
) -> None:
    """Refuses an earlier result that differs from what this call would write."""
    wanted = {file["path"]: file["size"] for file in files}
    if old["source"] != request["source"]:
        problem = f"it was made from source={old['source']!r}"
    elif old["mode"] != request["mode"]:
        problem = f"it was made with mode={old['mode']!r}"
    elif tuple(old["class_names"]) != plan.class_names:
        problem = f"it has {len(old['class_names'])} classes, not those selected"
    elif {file["path"]: file["size"] for file in old["files"]} != wanted:
        problem = "the source's files have changed since it was made"
    else:
        problem = find_difference(old, plan.destination)
    if problem:
        raise ValueError(
            f"`destination` holds another dataset: {problem}. Pass overwrite=True "
            "(--overwrite) to replace it. "
            f"Received: destination={str(plan.destination)!r}"
        )


def _as_json(classes: Classes) -> Any:
    """Returns the argument `classes` as a value that can be written to JSON."""
    if isinstance(classes, list):
        return sorted(map(str, classes))
    if isinstance(classes, os.PathLike):
        return os.fspath(classes)
    if isinstance(classes, SupportsIndex):
        return operator.index(classes)
    return classes
