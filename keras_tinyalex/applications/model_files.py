"""Whole models in files, together with their class names."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import keras

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.applications.shipped import find_weights
from keras_tinyalex.applications.weight_files import require_sound_heaps

_CLASSES_MEMBER = "keras_tinyalex.json"
_CLASSES_ATTRIBUTE = "keras_tinyalex"
# HDF5 stores attributes of up to 64 KiB.
_ATTRIBUTE_LIMIT = 64_000
_CLASSES_LIMIT = 1 << 24


def save_model(model: keras.Model, path: PathLike, class_names: Sequence[str]) -> None:
    """Saves a whole model together with its class names, atomically.

    At every moment `path` is the old file or the complete new one.
    `keras.models.load_model` reads the result, too.

    Args:
        model: A Keras model.
        path: Where to save, ending in `.keras` or `.h5`. An existing file is
            replaced.
        class_names: The classes in label order.

    Raises:
        ValueError: If `path` ends otherwise, or if `class_names` is not a
            sequence of strings, or too long for `.h5` (64 KB).
        OSError: If the file cannot be written, as on a full disk.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> save_model(model, "example.keras", ["cat", "dog"])
        >>> read_class_names("example.keras")
        ('cat', 'dog')
    """
    path = Path(path)
    if path.suffix not in (".keras", ".h5") or path.name.endswith(".weights.h5"):
        raise ValueError(
            "`path` must end in `.keras` or `.h5` (a whole model). "
            f"Received: path={str(path)!r}"
        )
    if isinstance(class_names, str) or not all(
        isinstance(name, str) for name in class_names
    ):
        raise ValueError(
            "`class_names` must be a sequence of strings, the classes in "
            f"label order. Received: class_names={class_names!r}"
        )
    text = json.dumps({"class_names": list(class_names)})
    if path.suffix == ".h5" and len(text) > _ATTRIBUTE_LIMIT:
        raise ValueError(
            f"`class_names` is too long for an `.h5` file ({len(text)} "
            f"bytes, at most {_ATTRIBUTE_LIMIT}); save as `.keras` instead. "
            f"Received: {len(class_names)} names, path={str(path)!r}"
        )
    # Keras and HDF5 write by name, and need the suffix: not by `files.atomic_write`.
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        _require_disk_space(model, path)
        with _without_legacy_warning():
            model.save(temporary)
        _add_class_names(temporary, text)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # h5py raises both on a full disk
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"Cannot save the model to {path}: {reason}. Free disk space, or make the "
            "folder writable. An existing file is unchanged"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _require_disk_space(model: keras.Model, path: Path) -> None:
    """Raises `OSError` where a disk has too little space for the model.

    HDF5 must not notice first: once it has run out of space in the middle of a
    file, it can end the process at the next one.
    """
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    size = sum(math.prod(v.shape) * (8 if "64" in v.dtype else 4) for v in variables)
    # The rest of the file: names, the configuration, HDF5's own tables.
    if shutil.disk_usage(path.parent).free < 1.1 * size + (1 << 18):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _without_legacy_warning() -> Iterator[None]:
    """Hides Keras' warning that `.h5` is a legacy format: the user asked for it."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _add_class_names(path: Path, text: str) -> None:
    if path.suffix == ".keras":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(_CLASSES_MEMBER, text)
    else:
        with h5py.File(path, "r+") as file:
            file.attrs[_CLASSES_ATTRIBUTE] = text


def read_class_names(path: PathLike) -> tuple[str, ...] | None:
    """Reads the class names that `save_model()` stored in a file.

    Args:
        path: A `.keras` or `.h5` file.

    Returns:
        The class names in label order, or `None` if the file holds none.

    Raises:
        ValueError: If the file cannot be read, or holds class names that are
            not a list of strings.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> model.save("example.keras")
        >>> read_class_names("example.keras") is None
        True
    """
    path = Path(path)
    try:
        text = _read_class_text(path)
        names = None if text is None else json.loads(text)["class_names"]
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"Cannot read class names from {path}: {error}") from error
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ValueError(
            f"The class names in {path} must be a list of strings. Save the model "
            f"again. Received: class_names={str(names)[:80]}"
        )
    return tuple(names)


def _read_class_text(path: Path) -> str | bytes | None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if _CLASSES_MEMBER not in archive.namelist():
                return None
            size = archive.getinfo(_CLASSES_MEMBER).file_size
            if size > _CLASSES_LIMIT:
                raise ValueError(f"{_CLASSES_MEMBER} claims {size} bytes")
            return archive.read(_CLASSES_MEMBER)
    if path.suffix == ".h5":
        require_sound_heaps(path)
        with h5py.File(path, "r") as file:
            text: str | None = file.attrs.get(_CLASSES_ATTRIBUTE)
            return text
    with path.open("rb"):  # a file that is not there is an error
        return None


def load_model(
    name_or_path: PathLike,
) -> tuple[keras.Model, tuple[str, ...] | None]:
    """Loads a whole model and its class names.

    The model is not compiled: it is ready to predict, evaluate or export.
    Keras' safe mode stays on, so that a file cannot run code of its own.

    Args:
        name_or_path: A name from `list_weights()`, or the path of a `.keras` or
            `.h5` file with a whole model.

    Returns:
        A tuple `(model, class_names)`; `class_names` is `None` if the file
        holds none.

    Raises:
        ValueError: If there is no such name or file, or if it does not hold a
            whole model that Keras can load.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> save_model(model, "example.keras", ["cat", "dog"])
        >>> model, class_names = load_model("example.keras")
        >>> class_names
        ('cat', 'dog')
    """
    path = find_weights(name_or_path)
    if path.name.endswith((".weights.h5", ".safetensors")):
        raise ValueError(
            f"{path} holds weights without a model. Make the model with "
            "`AlexNetMini(weights=path)`, or give a `.keras` or `.h5` file with a "
            f"whole model. Received: name_or_path={str(name_or_path)!r}"
        )
    try:
        if path.suffix in (".keras", ".h5"):
            require_sound_heaps(path)
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras, h5py and zipfile raise all kinds here
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"Cannot load a model from {path}: {reason}") from error
    return model, read_class_names(path)
