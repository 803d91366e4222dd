"""Writes a planned dataset to a temporary folder and renames it at the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_tinyalex.datasets.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    find_difference,
    read_manifest,
)
from keras_tinyalex.datasets.plan import Plan, backup_folder, staging_folder
from keras_tinyalex.datasets.source import Source
from keras_tinyalex.files import sha256_of, write_json
from keras_tinyalex.progress import Progress

# The sources that a move must still delete. Hidden, so that it is not taken for data.
JOURNAL = ".move_journal.json"


def apply_moves(
    plan: Plan, source: Source, folder: Path, mode: str, progress: bool = True
) -> list[dict[str, Any]]:
    """Writes the plan's files to `folder`. The source is not changed.

    Args:
        plan: From `plan_moves`.
        source: The `Source` of the plan.
        folder: Existing folder to write to.
        mode: See `restructure`. `"move"` makes hard links, or copies if
            these are not possible. The caller must delete the sources.
        progress: Whether to show progress on standard error.

    Returns:
        List of dictionaries, one per move, with its `path`, `size` and
        `sha256`.
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
                _link(source.path(move.image), path, mode, data)
            digest = hashlib.sha256(data).hexdigest()
            files.append({"path": move.path, "size": len(data), "sha256": digest})
            bar.advance()
    return files


def _write_file(path: str, data: bytes, sync: bool = False) -> None:
    try:
        with open(path, "xb") as file:  # noqa: PTH123, Path.open takes twice as long
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:  # that of a full disk does not name the file
        text = f"Cannot write {path}: {error.strerror}"
        raise OSError(error.errno, text) from error


def _link(original: str, path: str, mode: str, data: bytes) -> None:
    if mode == "symlink":
        Path(path).symlink_to(os.path.realpath(original))
        return
    # A hard link to a symbolic link would break when that is removed.
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


def publish(
    plan: Plan, source: Source, request: Mapping[str, Any], progress: bool
) -> list[dict[str, Any]]:
    """Writes the dataset to the staging folder and renames it to its destination.

    Args:
        plan: From `plan_moves`.
        source: The `Source` of the plan.
        request: The arguments `source`, `mode` and `classes` of `restructure`
            as JSON values, for the manifest.
        progress: Whether to show progress on standard error.

    Returns:
        The files of the dataset; see `apply_moves`.
    """
    target, mode = plan.destination, request["mode"]
    staging, backup = staging_folder(target), backup_folder(target)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **request,
        "class_names": list(plan.class_names),
        "words": dict(plan.words),
        "files": [],
    }
    _remove_own_folder(staging)
    staging.mkdir(parents=True)
    try:
        # Still without files: marks the folder as ours, should this run be killed.
        write_json(staging / MANIFEST, manifest)
        manifest["files"] = files = apply_moves(plan, source, staging, mode, progress)
        if mode == "move":
            paths = [Path(source.path(move.image)) for move in plan.moves]
            originals = [str(path.absolute()) for path in paths]
            write_json(staging / JOURNAL, originals, sync=True)
        # A move will delete the sources, so a power cut must not lose this file.
        write_json(staging / MANIFEST, manifest, sync=mode == "move", indent=None)
        if read_manifest(target):
            os.replace(target, backup)
        elif target.exists():
            target.rmdir()  # it is empty
        os.replace(staging, target)
    except Exception:
        with contextlib.suppress(OSError, ValueError):
            recover(target)
            _remove_own_folder(staging)
        raise
    _remove_own_folder(backup)
    if mode == "move":
        finish_move(target, manifest)
    return files


def recover(target: Path) -> None:
    """Undoes or finishes the replacement that a killed run has begun."""
    backup = backup_folder(target)
    if target.exists():
        _remove_own_folder(backup)
    elif read_manifest(backup):
        os.replace(backup, target)


def _remove_own_folder(folder: Path) -> None:
    """Removes a folder of `restructure`, if it exists, with its manifest last."""
    if not folder.exists():
        return
    own = (folder / f"{MANIFEST}.part", folder / MANIFEST)
    children = [child for child in folder.iterdir() if child not in own]
    if children and not read_manifest(folder):
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


def is_moved(old: Mapping[str, Any], request: Mapping[str, Any], target: Path) -> bool:
    """Returns whether `old` is the result of the same move, perhaps unfinished.

    Raises:
        ValueError: If that result has changed, or is of an unfinished move
            with other arguments.
    """
    earlier = {key: old[key] for key in request}
    if earlier == request and request["mode"] == "move":
        problem = find_difference(old, target)
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


def finish_move(target: Path, manifest: Mapping[str, Any]) -> None:
    """Deletes the sources of a move, each only after checking its image's copy.

    Raises:
        ValueError: If a source or its image has changed since it was moved.
    """
    journal = target / JOURNAL
    if not journal.exists():
        return
    originals = map(Path, json.loads(journal.read_text(encoding="utf-8")))
    for original, file in zip(originals, manifest["files"], strict=True):
        if not os.path.lexists(original):
            continue  # deleted by a run that was killed
        moved = target / file["path"]
        # A symbolic link may lead to an image that was moved before it.
        exists = original.exists()
        if not (exists and original.samefile(moved)):
            for path in (moved, original) if exists else (moved,):
                if sha256_of(path) != file["sha256"]:
                    raise ValueError(
                        f"{original} was not deleted: {path} has changed since it was "
                        f"moved to {moved}. Compare both, and delete one of them."
                    )
        original.unlink()
    journal.unlink()
