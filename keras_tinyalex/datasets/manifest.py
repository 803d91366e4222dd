"""The manifest: a file that lists the content of a restructured dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_tinyalex.datasets.plan import SPLIT_FOLDERS

MANIFEST = "manifest.json"
FORMAT = "keras_tinyalex restructured data set"
FORMAT_VERSION = 1
_FIELDS = {"source": str, "mode": str, "class_names": list, "files": list}
_FILE_FIELDS = {"path": str, "size": int, "sha256": str}


def find_difference(manifest: Mapping[str, Any], target: Path) -> str:
    """Returns the first difference between files and manifest, "" if none."""
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
    """Yields relative paths and sizes; the size of a broken link is `None`."""
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


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Returns the manifest if `restructure` made this folder, else `None`."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder / MANIFEST} was written by another version of keras_tinyalex. "
            "Pass another `destination`, or remove that folder."
        )
    if not _has_fields(manifest, _FIELDS) or "classes" not in manifest:
        return None
    complete = all(_has_fields(file, _FILE_FIELDS) for file in manifest["files"])
    return manifest if complete else None


def _has_fields(value: Any, fields: Mapping[str, type]) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), kind) for name, kind in fields.items()
    )
