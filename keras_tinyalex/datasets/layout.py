"""Finds the labelled images of a source: a folder or zip file in a known layout.

The layout follows from where the images lie, not from the names beside them.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.datasets.annotations import read_annotations
from keras_tinyalex.datasets.classes import compose
from keras_tinyalex.datasets.images import FORMAT_NAMES, IMAGE_SUFFIXES
from keras_tinyalex.datasets.known_files import (
    ANNOTATIONS,
    IMAGES,
    METADATA,
    OTHER_IMAGES,
    RESULTS,
    RUN_FILES,
    SPLIT_NAMES,
    conversion,
    suffix_of,
)
from keras_tinyalex.datasets.paths import (
    is_alone,
    is_in,
    list_folders,
    name_of,
    parent,
    shallowest,
)
from keras_tinyalex.datasets.source import LabelledImage, LeftOut, Source
from keras_tinyalex.datasets.trees import Tree, open_tree

SUFFIXES = tuple(IMAGE_SUFFIXES)


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pauses Python's garbage collector, as a context manager or a decorator.

    Code that makes hundreds of thousands of objects triggers collections, each
    of which visits every object of Keras and its backend.

    In a process with TensorFlow loaded, `open_source` takes 0.42 s instead of
    0.62 s for a folder of 110,000 files (ratio 1.5): medians of 7 alternating
    rounds. To repeat the measurement:
    `python tests/benchmarks/reading.py tiny-imagenet-20.zip`.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@garbage_collection_paused()
def open_source(source: PathLike) -> Source:
    """Finds the labelled images of a folder or zip file.

    Args:
        source: One of

            * `"sample"`: the embedded sample dataset;
            * the official folder `tiny-imagenet-200/` or its zip file
              (`train/<wnid>/images/*.JPEG`, `val/images/*.JPEG` with
              `val/val_annotations.txt`), or a part of it;
            * a restructured folder (`train_images/<wnid>/*.JPEG`,
              `val_images/<wnid>/*.JPEG`);
            * a folder with `train/<class>/*` and optionally
              `val/<class>/*`; also by the names in
              `known_files.SPLIT_NAMES`;
            * a folder of the .npz files of downsampled ImageNet, or one of
              them; see `datasets.arrays`;
            * any other folder of class folders. All its images are
              `"train"`.

            Each may lie inside other folders.

    Returns:
        A `Source`. Its `left_out` lists what is not read.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If it has none of these layouts, or the annotations of the
            val images are wrong. The message lists the wrong lines.
    """
    if source == "sample":
        from keras_tinyalex.datasets.sample import sample_path

        source = sample_path()
    location = Path(os.path.expanduser(source))  # noqa: PTH111, it never raises
    if not location.exists():
        raise FileNotFoundError(
            "`source` must be an existing folder or zip file, or 'sample'. "
            f"Received: source={str(source)!r}"
        )
    return _Layout(open_tree(location), f"Received: source={str(source)!r}").source()


class _Layout:
    """Where the images of a tree lie, and what follows from it.

    `images` and `others` map the folders to the names of their images and of their
    other files. The methods take out the images that they use; the rest is left out,
    and said to be.
    """

    def __init__(self, tree: Tree, received: str) -> None:
        self.tree = tree
        self.received = received
        self.left_out: list[LeftOut] = []
        self.problems: dict[str, str] = {}
        self._leave_out_own_folders()
        self.images: dict[str, list[str]] = {}
        self.others: dict[str, list[str]] = {}
        for folder, files in tree.folders.items():
            if found := [name for name in files if _is_image(name)]:
                self.images[folder] = found
            if len(found) < len(files):
                self.others[folder] = [name for name in files if not _is_image(name)]

    def source(self) -> Source:
        """Sorts the images into splits and classes."""
        if not self.images:
            raise ValueError(self._nothing_found())
        root = self._find_root_of_splits()
        if root is None:
            root = self._find_class_level()
            images = {"train": self._take_class_folders(root)}
        else:
            images = self._take_splits(root)
        if not images["train"]:
            raise ValueError(self._nothing_found())
        self._compare_classes(images)
        self._note_the_rest()
        words = self._read_words(root)
        return Source(self.tree, images, words, self.left_out, self.problems)

    def _leave_out(self, reason: str, names: Iterable[str]) -> None:
        if ordered := tuple(sorted(names)):
            self.left_out.append(LeftOut(reason, ordered))

    def _leave_out_own_folders(self) -> None:
        """Removes run folders and figures that commands wrote into the data."""
        folders = self.tree.folders
        runs = [path for path, files in folders.items() if set(files) >= RUN_FILES]
        figures = [p for p, files in folders.items() if files and set(files) <= RESULTS]
        tops = shallowest([*runs, *figures])
        self._leave_out("folders that keras-tinyalex wrote", tops)
        for path in [path for path in folders if path.startswith(tuple(tops))]:
            del folders[path]
        for above in map(parent, tops):
            if above and not folders.get(above, True) and is_alone(above, folders):
                del folders[above]  # "runs/", which held nothing else

    # ---------------------------------------------------------- where they lie

    def _find_root_of_splits(self) -> str | None:
        """Returns the folder of train/ and val/, or `None` if there are none."""
        roots = set()
        for folder in self.images:
            parts = folder.split("/")[:-1]
            for depth, name in enumerate(parts):
                below = parts[depth + 1 :]
                if _split_of(f"{name}/") == "train" and below not in ([], [IMAGES]):
                    roots.add("".join(f"{part}/" for part in parts[:depth]))
                    break
        tops = shallowest(roots)
        if len(tops) > 1:
            raise ValueError(
                f"`source` must be one data set, but it holds {len(tops)}: "
                f"{list_folders(tops)}. Pass the path of one of them. {self.received}"
            )
        return tops[0] if tops else None

    def _find_class_level(self) -> str:
        """Returns the folder of the class folders, in a source without splits."""
        of_classes = {_class_folder(folder) for folder in self.images}
        for folder in of_classes:
            if ANNOTATIONS in self.tree.folders[folder]:
                raise ValueError(
                    "`source` must be the folder tiny-imagenet-200, not its raw 'val' "
                    "folder, whose labels are in a file of its own. Pass the parent "
                    "folder, or sort the images with keras-tinyalex prepare. "
                    f"{self.received}"
                )
        tops = shallowest({parent(folder) for folder in of_classes if folder})
        if not tops or all(_split_of(folder) for folder in of_classes):
            raise ValueError(self._nothing_found())
        if len(tops) > 1:
            raise ValueError(
                "`source` must have all its class folders in one folder, but they lie "
                f"in {len(tops)}: {list_folders(tops)}. Pass the path of one of them, "
                f"or bring the class folders together. {self.received}"
            )
        return tops[0]

    # ----------------------------------------------------- splits and classes

    def _take_splits(self, root: str) -> dict[str, list[LabelledImage]]:
        folders = self._find_split_folders(root)
        images = {"train": self._take_class_folders(folders["train"])}
        if "val" in folders:
            images["val"] = self._take_val(folders["val"])
        elif "test" in folders and self._has_class_folders(folders["test"]):
            images["val"] = self._take_class_folders(folders["test"])
        if test := folders.get("test"):
            left = [path for path in self.images if path.startswith(test)]
            names = (path + name for path in left for name in self.images.pop(path))
            self._leave_out(f"images in {test}", names)
        return images

    def _compare_classes(self, images: Mapping[str, Sequence[LabelledImage]]) -> None:
        """Finds the classes that only one split has."""
        train = {image.class_name for image in images["train"]}
        val = {image.class_name for image in images.get("val", ())}
        for name in val - train - self.problems.keys():
            self.problems[name] = f"{name!r} has val images but no train images"
        if val:
            reason = "classes from val, which has no image of them"
            self._leave_out(reason, train - val - self.problems.keys())

    def _find_split_folders(self, root: str) -> dict[str, str]:
        """Returns the folder of each split."""
        found: dict[str, list[str]] = {}
        for folder in sorted(self.tree.folders):
            if is_in(folder, root) and (split := _split_of(folder)):
                found.setdefault(split, []).append(folder)
        for split, folders in found.items():
            full = [folder for folder in folders if self._has_images(folder)]
            if len(full) > 1:
                raise ValueError(
                    f"`source` must have one folder of {split} images, but it has "
                    f"{list_folders(full)}. Remove or rename all but one. "
                    f"{self.received}"
                )
            found[split] = full
            empty = [folder for folder in folders if folder not in full]
            self._leave_out("splits without an image", empty)
        return {split: full[0] for split, full in found.items() if full}

    def _has_images(self, folder: str) -> bool:
        return any(path.startswith(folder) for path in self.images)

    def _has_class_folders(self, folder: str) -> bool:
        below = (folder, f"{folder}{IMAGES}/")
        return any(p.startswith(folder) and p not in below for p in self.images)

    def _take_val(self, folder: str) -> list[LabelledImage]:
        """Takes val images from class folders, or as the annotations say."""
        unsorted = {
            path: self.images.pop(path)
            for path in (folder, f"{folder}{IMAGES}/")
            if path in self.images
        }
        images: list[LabelledImage] = []
        if self._has_class_folders(folder):
            images = self._take_class_folders(folder)
        if unsorted:
            if ANNOTATIONS not in self.tree.folders[folder]:
                raise ValueError(
                    f"`source` has images in {list_folders(unsorted)} but no "
                    f"{folder}{ANNOTATIONS} with their labels; restore that file from "
                    "the official archive, or sort them into class folders. "
                    f"{self.received}"
                )
            sorted_names = {image.name.rpartition("/")[2] for image in images}
            images += read_annotations(self.tree, folder, unsorted, sorted_names)
        return images

    def _take_class_folders(self, level: str) -> list[LabelledImage]:
        """Takes the images of `<level>/<class>/` and `<level>/<class>/images/`."""
        levels = (level, f"{level}{IMAGES}/")
        found = []
        for folder in list(self.images):
            of_class = _class_folder(folder)
            if of_class not in levels and parent(of_class) in levels:
                class_name = _class_name(of_class)
                names = self.images.pop(folder)
                found += [LabelledImage(folder + name, class_name) for name in names]
        self._judge_other_folders(level, {image.class_name for image in found})
        return found

    def _judge_other_folders(self, level: str, classes: set[str]) -> None:
        """Finds what may be a class without an image, which would shift the labels."""
        no_images = []
        for folder in self.tree.folders:
            name = _class_name(folder)
            if not is_in(folder, level) or name in classes or name == IMAGES:
                continue
            below = [p for p in self.tree.folders if p.startswith(folder)]
            suffixes = Counter(
                suffix_of(f) for p in below for f in self.tree.folders[p]
            )
            if any(path in self.images for path in below):
                where = next(path for path in below if path in self.images)
                self.problems[name] = f"no image in {folder}, but in {where}"
            elif suffixes.keys() <= OTHER_IMAGES | {""}:
                kinds = ", ".join(
                    f"{n} {s or 'no suffix'}" for s, n in suffixes.items()
                )
                but = f", but other files ({kinds})" if kinds else ""
                self.problems[name] = f"no image in {folder[:-1]}{but}"
            else:
                no_images.append(folder)
        for link in self.tree.broken:
            if is_in(f"{link}/", level) and not _is_image(link):
                self.problems[_class_name(f"{link}/")] = f"{link} is a link to nothing"
        self._leave_out("folders without an image", no_images)

    # ------------------------------------------------------- what is left out

    def _note_the_rest(self) -> None:
        """Notes the files that nothing took."""
        rest = [
            folder + name for folder, found in self.images.items() for name in found
        ]
        self._leave_out("images in no class folder, or deeper than one", rest)
        noted = [n for left in self.left_out for n in left.names if n.endswith("/")]
        others = [
            folder + name
            for folder, files in self.others.items()
            if not folder.startswith(tuple(noted))
            for name in files
            if not name.endswith(METADATA)
        ]
        kinds = Counter(suffix_of(name) or "no suffix" for name in sorted(others))
        listed = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
        self._leave_out(f"files that are not {FORMAT_NAMES} images, {listed}", others)

    def _nothing_found(self) -> str:
        loose = ("", f"{IMAGES}/", *(f for f in self.images if _split_of(f)))
        if any(folder in self.images for folder in loose):
            hint = (
                "its images lie in no class folder. Sort them into one folder a class, "
                "or pass the folder above"
            )
        else:
            hint = "no training image was found"
            names = (name for files in self.tree.folders.values() for name in files)
            for suffix, _ in Counter(map(suffix_of, names)).most_common():
                if cure := conversion(suffix):
                    hint += f": {cure}"
                    break
        return (
            "`source` must hold images in class folders, e.g. train/<class>/*.JPEG or "
            f"<class>/*.JPEG, but {hint}. {self.received}"
        )

    def _read_words(self, root: str) -> dict[str, str]:
        """Returns readable names from `words.txt` or from our `manifest.json`."""
        files = self.tree.folders[root]
        if "words.txt" in files:
            text = self.tree.read(f"{root}words.txt").decode("utf-8", errors="replace")
            pairs = (line.partition("\t") for line in text.splitlines())
            return {class_name: text.strip() for class_name, _, text in pairs}
        if "manifest.json" in files:
            with contextlib.suppress(ValueError, AttributeError, RecursionError):
                manifest = json.loads(self.tree.read(f"{root}manifest.json"))
                words = manifest.get("words", {}).items()
                return {name: text for name, text in words if isinstance(text, str)}
        return {}  # or the manifest.json of another program


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _split_of(folder: str) -> str | None:
    return SPLIT_NAMES.get(name_of(folder).lower())


def _class_folder(folder: str) -> str:
    """Returns the folder itself, or the one above its folder "images"."""
    return parent(folder) if name_of(folder) == IMAGES else folder


def _class_name(folder: str) -> str:
    return compose(name_of(folder))
