"""The files of Tiny-ImageNet-C: `<corruption>/<severity>/<wnid>/*.JPEG`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.datasets.corruptions import CORRUPTIONS, SEVERITIES


def find_sets(location: PathLike) -> dict[tuple[str, int], Path]:
    """Returns the folders of corrupted images, by corruption and severity.

    Args:
        location: The folder `Tiny-ImageNet-C`, or the one that it lies in. Any
            part of it will do.

    Returns:
        Dictionary of `(name, severity)` to a folder of class folders, in the
        official order. It is empty if this is no such folder.

    Examples:
        >>> Path("Tiny-ImageNet-C/fog/3/n01443537").mkdir(parents=True)
        >>> find_sets("Tiny-ImageNet-C")[("fog", 3)].as_posix()
        'Tiny-ImageNet-C/fog/3'
    """
    root = Path(os.path.expanduser(location))  # noqa: PTH111, it never raises
    if not root.is_dir():
        return {}
    below = (path for path in sorted(root.iterdir()) if path.is_dir())
    return next((found for folder in (root, *below) if (found := _sets(folder))), {})


def _sets(folder: Path) -> dict[tuple[str, int], Path]:
    names = set(os.listdir(folder))
    wanted: Iterable[tuple[str, int]] = (
        (name, severity)
        for name in CORRUPTIONS
        if name in names
        for severity in SEVERITIES
    )
    paths = {(name, level): folder / name / str(level) for name, level in wanted}
    return {key: path for key, path in paths.items() if path.is_dir()}
