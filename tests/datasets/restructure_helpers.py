"""Helpers of the tests of `restructure`: a small source, and the files of folders."""

import errno
from pathlib import Path

from keras_tinyalex.datasets.restructure import restructure

GOLDFISH, BULLFROG = WNIDS = ("n01443537", "n01641577")


def make_source(root):
    """Two classes, each with 2 train images and 1 val image; no real JPEGs.

    The file of class c (0, 1) and number i (0, 1; 2 for val) has 10 + 3c + i
    bytes: 10, 11, 12, 13, 14, 15, which are 75 in all.
    """
    annotations = []
    (root / "val/images").mkdir(parents=True)
    for label, wnid in enumerate(WNIDS):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{wnid}_boxes.txt").write_text("")
        for index in range(2):
            content = b"%d" % label * (10 + 3 * label + index)
            (folder / f"{wnid}_{index}.JPEG").write_bytes(content)
        content = b"v" * (12 + 3 * label)
        (root / f"val/images/val_{label}.JPEG").write_bytes(content)
        annotations.append(f"val_{label}.JPEG\t{wnid}\t0\t0\t9\t9\n")
    (root / "val/val_annotations.txt").write_text("".join(annotations))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    words = f"{GOLDFISH}\tgoldfish, Carassius auratus\n{BULLFROG}\tbullfrog\n"
    (root / "words.txt").write_text(words)
    return root


SIZES = {
    f"train_images/{GOLDFISH}/{GOLDFISH}_0.JPEG": 10,
    f"train_images/{GOLDFISH}/{GOLDFISH}_1.JPEG": 11,
    f"train_images/{BULLFROG}/{BULLFROG}_0.JPEG": 13,
    f"train_images/{BULLFROG}/{BULLFROG}_1.JPEG": 14,
    f"val_images/{GOLDFISH}/val_0.JPEG": 12,
    f"val_images/{BULLFROG}/val_1.JPEG": 15,
}


def contents(folder):
    """Returns the contents of all files in `folder`, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def images(folder):
    found = contents(folder)
    return {name: data for name, data in found.items() if name.endswith(".JPEG")}


def sizes(folder):
    return {name: len(data) for name, data in images(folder).items()}


def quiet(*arguments, **options):
    return restructure(*arguments, progress=False, **options)


def no_link(source, destination):
    raise OSError(errno.EXDEV, "Invalid cross-device link")
