"""A source of labelled images: the files of a folder or a zip, and their classes."""

from __future__ import annotations

import copy
import itertools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import Labels, PathLike
from keras_tinyalex.datasets.classes import Classes, select_classes
from keras_tinyalex.datasets.trees import FolderTree, Tree

# The part of the training images that is held out where a source has no val images.
VALIDATION_SPLIT = 0.1
# Names that a line about what was left out lists.
MAX_NAMES = 3
# Problems that an error message lists.
MAX_PROBLEMS = 20
# What `say` has said.
_said: set[tuple[str, str]] = set()


def say(line: str, location: PathLike) -> None:
    """Prints a line about a source to standard error, once in a process."""
    if (line, str(location)) not in _said:
        _said.add((line, str(location)))
        print(line, file=sys.stderr)


def count_names(reason: str, names: Sequence[str]) -> str:
    """Returns what names have in common, their number and the first of them.

    Examples:
        >>> count_names("empty files", ["a", "b", "c", "d"])
        'empty files (4): a, b, c, ...'
    """
    first = ", ".join([*names[:MAX_NAMES], *["..."] * (len(names) > MAX_NAMES)])
    return f"{reason} ({len(names):,}): {first}"


@dataclass(frozen=True)
class LabelledImage:
    """One image of a source.

    Attributes:
        name: POSIX path, relative to the source.
        class_name: The wnid, or the name of the class folder.
    """

    name: str
    class_name: str


@dataclass(frozen=True)
class LeftOut:
    """What of a source is not read, for one reason.

    Attributes:
        reason: What the names have in common, e.g. "folders without an image".
        names: Paths relative to the source, or class names.
    """

    reason: str
    names: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the reason, the number and the first names, for JSON."""
        first = list(self.names[:MAX_NAMES])
        return {"reason": self.reason, "count": len(self.names), "first": first}

    def __str__(self) -> str:
        return f"left out: {count_names(self.reason, self.names)}"


class Source:
    """The labelled images of a folder, zip or .npz files, from `open_source`.

    Attributes:
        location: Path of the folder, zip or .npz file.
        has_files: Whether each image is a file of its own.
        images: Dictionary from the splits `"train"` and, if the source has
            one, `"val"` to tuples of `LabelledImage`, sorted by class and
            name.
        class_names: Sorted wnids or folder names.
        words: Readable names by class name, as far as they are known.
        left_out: List of `LeftOut`: what is not read, and why.
        problems: Why a class cannot be used, by class name. `select` raises it.
    """

    def __init__(
        self,
        tree: Tree,
        images: Mapping[str, Sequence[LabelledImage]],
        words: Mapping[str, str],
        left_out: Sequence[LeftOut] = (),
        problems: Mapping[str, str] | None = None,
    ) -> None:
        self.location = tree.location
        self.has_files = isinstance(tree, FolderTree)
        self.images = {
            split: tuple(sorted(found, key=lambda i: (i.class_name, i.name)))
            for split, found in images.items()
            if found
        }
        self.problems = dict(problems or {})
        named = {i.class_name for found in images.values() for i in found}
        self.class_names = tuple(sorted(named | self.problems.keys()))
        self.words = {name: words[name] for name in self.class_names if name in words}
        self.left_out = list(left_out)
        self.tree = tree

    def select(self, classes: Classes) -> tuple[str, ...]:
        """Returns the selected class names in label order; see `select_classes`.

        Raises:
            ValueError: As `select_classes`, or if a selected class cannot be
                used. The message lists them.
        """
        names = select_classes(self.class_names, classes, self.words)
        found = [self.problems[name] for name in names if name in self.problems]
        if found:
            problems = list_problems(f"{self.location} has", found)
            raise ValueError(f"{problems} Fix it, or choose other `classes`.")
        return names

    def select_trained(self, class_names: Sequence[str], argument: str) -> None:
        """Checks that the classes of a model are here, and can be used.

        Args:
            class_names: The classes that the model was trained on.
            argument: Name of the argument that is this source, for the message.

        Raises:
            ValueError: If classes are missing, or as `select`.
        """
        if missing := sorted(set(class_names) - set(self.class_names)):
            raise ValueError(
                f"`{argument}` must hold the {len(class_names)} classes that the model "
                f"was trained on; {len(missing)} are missing, e.g. {missing[0]}. "
                f"Received: {argument}={str(self.location)!r}"
            )
        self.select(list(class_names))

    def one_class_problem(self) -> list[str]:
        """Returns the problem of a source with one class, if it has one."""
        if len(self.class_names) > 1:
            return []
        return [
            f"only one class folder has images, {self.class_names[0]!r}: pass the "
            "folder above if this is a class, or the one below if it is not"
        ]

    def single_image_problems(self) -> list[str]:
        """Returns the problems of classes of which no image can be held out."""
        if "val" in self.images:
            return []
        counts = Counter(image.class_name for image in self.images["train"])
        return [
            f"only one image of {name!r}, and no val images: `train` needs two images "
            "of each class, to hold one out"
            for name, count in counts.items()
            if count == 1
        ]

    def hold_out(self, validation_split: float | None = None) -> float | None:
        """Returns the fraction of the train images to validate on, if any.

        The rule of every command and function: the val images, or, in a source
        without any, 10% of the train images of each class, with seed 0. That is
        said on standard error, once in a process.

        Args:
            validation_split: Fraction to hold out in any case, as asked for.
        """
        if validation_split is not None or "val" in self.images:
            return validation_split
        line = f"held out: {VALIDATION_SPLIT:.0%} of the training images of each class"
        say(line, self.location)
        return VALIDATION_SPLIT

    def with_held_out(
        self, class_names: Sequence[str], fraction: float, seed: int
    ) -> Source:
        """Returns the source with held-out train images as its val images.

        They are chosen before any is decoded: a set that is larger than the memory
        is never divided in it.

        Args:
            class_names: The selected classes, in label order.
            fraction: See `choose_held_out`.
            seed: See `choose_held_out`.
        """
        labels = {name: label for label, name in enumerate(class_names)}
        found = [i for i in self.images.get("train", ()) if i.class_name in labels]
        numbers = np.array([labels[image.class_name] for image in found], np.int64)
        chosen = choose_held_out(numbers, class_names, fraction, seed)
        parts = {
            split: tuple(itertools.compress(found, chosen == held_out))
            for split, held_out in (("train", False), ("val", True))
        }
        divided = copy.copy(self)
        divided.images = parts
        return divided

    def report_left_out(self) -> list[dict[str, Any]]:
        """Says on standard error what is left out, once in a process.

        Returns:
            The list for a command's JSON: `reason`, `count` and `first` names.
        """
        for item in self.left_out:
            say(str(item), self.location)
        return [item.as_dict() for item in self.left_out]

    def read(self, image: LabelledImage) -> bytes:
        """Returns the bytes of the image's file.

        Raises:
            OSError: If it cannot be read. The message names the file.
        """
        return self.tree.read(image.name)

    def fingerprint(self, image: LabelledImage) -> tuple[int, ...]:
        """Returns what differs when the image's file is another one, or changes."""
        return self.tree.fingerprint(image.name)

    def path(self, image: LabelledImage) -> str:
        """Returns the path of the image's file, for a source that is a folder.

        A string, because making 110,000 `Path` objects takes too long.
        """
        if not self.has_files:
            raise ValueError(f"Images inside a file have no path. Received: {self!r}")
        return f"{self.location}/{image.name}"

    def __repr__(self) -> str:
        return f"Source({str(self.location)!r})"


def choose_held_out(
    labels: Labels, class_names: Sequence[str], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Returns which images to hold out: at least one of each class, and not all.

    Args:
        labels: int64 array `(N,)`.
        class_names: Class names in label order.
        fraction: Fraction of each class to hold out, in (0, 1).
        seed: Non-negative integer that the choice depends on.

    Returns:
        bool array `(N,)`.

    Raises:
        ValueError: If a class has fewer than two images.
    """
    chosen = np.zeros(len(labels), bool)
    for label, name in enumerate(class_names):
        (indices,) = np.nonzero(labels == label)
        if len(indices) < 2:
            raise ValueError(
                "`data` must have two or more training images of each class, one "
                "to train on and one held out to validate on. Add images of "
                f"{name!r}, or choose other classes. To measure a model on "
                "images that it was not trained on, evaluate all (`--all`). "
                f"Received: {len(indices)} of {name!r}"
            )
        count = min(max(1, round(fraction * len(indices))), len(indices) - 1)
        # The rank of the name: the order of the labels must not matter.
        rank = sum(other < name for other in class_names)
        shuffled = np.random.default_rng([seed, rank]).permutation(indices)
        chosen[shuffled[:count]] = True
    return chosen


def list_problems(subject: str, problems: Sequence[str]) -> str:
    """Returns one line with the number of problems and the first of them."""
    shown = "; ".join(problems[:MAX_PROBLEMS])
    rest = len(problems) - MAX_PROBLEMS
    more = f"; and {rest} more" if rest > 0 else ""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return f"{subject} {count}: {shown}{more}."
