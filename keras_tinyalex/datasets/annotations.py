"""Reads the labels of the official val images from val_annotations.txt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keras_tinyalex.datasets.known_files import ANNOTATIONS
from keras_tinyalex.datasets.source import LabelledImage, list_problems
from keras_tinyalex.datasets.trees import Tree


def read_annotations(
    tree: Tree,
    folder: str,
    unsorted: Mapping[str, Sequence[str]],
    sorted_names: set[str],
) -> list[LabelledImage]:
    """Returns the val images that lie in no class folder, with their labels.

    Args:
        tree: The files of the source.
        folder: The folder of the val images, with "/" at its end.
        unsorted: Names of the images by the folder that they lie in.
        sorted_names: Names of the images that lie in class folders. Their
            lines are skipped.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If lines are wrong, or an image has none. The message
            lists the wrong lines.
    """
    path = folder + ANNOTATIONS
    try:
        text = tree.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{tree.describe(path)} is not UTF-8 text ({error}); restore that file "
            "from the official archive."
        ) from None
    present = {name: where for where, names in unsorted.items() for name in names}
    labels: dict[str, str] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        name, *fields = line.split("\t")
        if not line.strip() or name in sorted_names:
            continue
        if not fields or not fields[0].strip():
            problems.append(f"line {number}: not 'file<TAB>wnid...': {line[:60]!r}")
        elif "/" in name or "\\" in name:
            problems.append(f"line {number}: {name!r} is not a plain file name")
        elif name in labels:
            problems.append(f"line {number}: {name!r} is labelled twice")
        elif name not in present:
            problems.append(f"line {number}: {name!r} is not in {folder}images")
        else:
            labels[name] = fields[0].strip()
    problems += [f"{name!r} has no line" for name in sorted(present.keys() - labels)]
    if problems:
        raise ValueError(list_problems(f"{tree.describe(path)} has", problems))
    return [LabelledImage(present[n] + n, label) for n, label in labels.items()]
