"""The names that folders and files of data sets have, and those that are no data."""

from __future__ import annotations

import os

# The folders of each split, in lower case.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "train_images"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "val_images", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "test_images"), "test"),
}
# A folder between a class, or the official val images, and the files.
IMAGES = "images"
# The labels of the official val images, beside their folder.
ANNOTATIONS = "val_annotations.txt"
# Marks the folder of the embedded sample.
SAMPLE_MARKER = "sample.json"
# The files of Tiny ImageNet, of what `prepare` writes and of the sample that hold no
# images.
METADATA = (
    *(ANNOTATIONS, "_boxes.txt", "manifest.json", SAMPLE_MARKER),
    *("wnids.txt", "words.txt"),
)
# What operating systems and tools leave behind, in lower case. So is everything
# whose name starts with a dot.
SYSTEM_NAMES = frozenset(
    {
        *("#recycle", "#snapshot", "$recycle.bin", "@eadir", "@tmp", "__macosx"),
        *("__pycache__", "desktop.ini", "lost+found", "system volume information"),
        "thumbs.db",
    }
)
# Files that every run folder and search folder holds.
RUN_FILES = frozenset({"config.json", "environment.json"})
# The figures that `train` and `evaluate` write.
FIGURES = frozenset(
    {
        *("samples.png", "history.png", "predictions.png", "confusion_matrix.png"),
        "confused_pairs.png",
        *("class_accuracy.png", "calibration.png", "corruptions.png"),
    }
)
# What a folder of results holds.
RESULTS = FIGURES | {"per_class.csv"}
# Images of formats that are not read.
OTHER_IMAGES = frozenset(
    {
        *(".arw", ".cr2", ".cr3", ".dng", ".exr", ".ico", ".j2k", ".jp2", ".jxl"),
        *(".nef", ".orf", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".raf", ".rw2"),
        *(".svg", ".tga", ".tif", ".tiff"),
    }
)
# Files that hold a data set otherwise.
ARCHIVES = frozenset(
    {".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"}
)
TABLES = frozenset(
    {
        *(".arrow", ".h5", ".hdf5", ".mat", ".npy", ".npz", ".parquet", ".pickle"),
        *(".pkl", ".tfrecord"),
    }
)


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name is no data: hidden, or of a system."""
    hidden = name.startswith(".") and name not in (".", "..")
    return hidden or name.lower() in SYSTEM_NAMES


def suffix_of(name: str) -> str:
    """Returns the suffix of a file name in lower case, ".jpeg"."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122, fast


def conversion(suffix: str) -> str | None:
    """Returns how to make files of this suffix a source, if there is a way."""
    if suffix in ARCHIVES:
        return f"extract the {suffix} file and pass the folder"
    if suffix in TABLES:
        return (
            f"write the images in the {suffix} file to class folders, as the page "
            "'Your own folders and images' of the documentation shows"
        )
    if suffix in OTHER_IMAGES:
        return f"save the {suffix} files as PNG or JPEG"
    return None
