"""Shipped weights, verified loading, and models saved with their classes."""

import contextlib
import difflib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import uuid
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_tinyalex.applications.weight_files import (
    Array,
    open_weights,
    require_sound_heaps,
)

# Layers that follow the convolutions, the last of which is the classifier.
_TOP_LAYERS = ("fc1", "fc2", "predictions")
_CLASSIFIER = _TOP_LAYERS[-1]
_CLASSES_MEMBER = "keras_tinyalex.json"
_CLASSES_ATTRIBUTE = "keras_tinyalex"
# HDF5 stores attributes of up to 64 KiB.
_ATTRIBUTE_LIMIT = 64_000
_CLASSES_LIMIT = 1 << 24
_SHIPPED_SUFFIXES = (".keras", ".h5", ".weights.h5")


def _pretrained_folder() -> Path:
    return Path(str(resources.files("keras_tinyalex.applications"))) / "pretrained"


def list_weights() -> list[str]:
    """Lists the names of the weights that come with the package.

    Returns:
        A sorted list of names for `AlexNetMini(weights=...)`.

    Examples:
        >>> isinstance(list_weights(), list)
        True
    """
    return sorted(card.stem for card in _pretrained_folder().glob("*.json"))


def model_card(name: str) -> dict[str, Any]:
    """Reads the model card of shipped weights.

    Args:
        name: A name from `list_weights()`.

    Returns:
        A dict with the SHA-256 of the file, how the weights were trained, their
        classes and their measured accuracy.

    Raises:
        ValueError: If no weights of this name are shipped.

    Examples:
        >>> cards = [model_card(name) for name in list_weights()]
    """
    if name not in list_weights():
        raise ValueError(
            f"Argument `name` must be one of {list_weights()}."
            f"{_suggestion(name)} Received: name={name!r}"
        )
    text = (_pretrained_folder() / f"{name}.json").read_text(encoding="utf-8")
    card: dict[str, Any] = json.loads(text)
    return card


def weights_path(name: str) -> Path:
    """Finds the file of shipped weights and checks its SHA-256.

    Args:
        name: A name from `list_weights()`.

    Returns:
        The path of the `.keras` or `.h5` file.

    Raises:
        ValueError: If no weights of this name are shipped, or if the file is
            missing or is not the one that its model card describes.

    Examples:
        >>> paths = [weights_path(name) for name in list_weights()]
    """
    expected = model_card(name).get("sha256")
    files = (_pretrained_folder() / f"{name}{suffix}" for suffix in _SHIPPED_SUFFIXES)
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise ValueError(
            f"The weights {name!r} have a model card but no file in "
            f"{_pretrained_folder()}. Install keras-tinyalex again."
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(
            f"The file of the weights {name!r} is damaged; install keras-tinyalex "
            f"again. Expected: sha256={expected}. Received: sha256={found}, {path}"
        )
    return path


def find_weights(weights: str | Path) -> Path:
    """The file behind `weights`, a shipped name or a path.

    Args:
        weights: A name from `list_weights()` or the path of an existing file.

    Returns:
        The path of the file; a shipped one is verified.

    Raises:
        ValueError: If `weights` is neither.

    Examples:
        >>> paths = [find_weights(name) for name in list_weights()]
    """
    if weights in list_weights():
        return weights_path(str(weights))
    if isinstance(weights, str | os.PathLike) and Path(weights).is_file():
        return Path(weights)
    raise ValueError(
        f"Argument `weights` must be None, one of the shipped {list_weights()}, or "
        f"the path of an existing file.{_suggestion(weights)} "
        f"Received: weights={str(weights)!r}"
    )


def _suggestion(name: Any) -> str:
    close = difflib.get_close_matches(str(name), list_weights(), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def load_weights_into(
    model: keras.Model, path: str | Path, new_head: bool = False
) -> None:
    """Loads weights from a file into a model: all of them or none.

    Only arrays are read, never code. The names, shapes and dtypes in the file
    are compared with the model before an array is read, and all arrays are
    checked for finite values before the first is assigned: a refused file
    leaves the model as it was.

    Args:
        model: A built model whose layers hold their weights directly, such as
            AlexNetMini. Layers are matched by name.
        path: A `.keras`, `.h5` (whole model or weights), `.weights.h5` or
            `.safetensors` file. Names in the latter are `block1_conv/kernel`.
        new_head: Whether a file with another top is accepted. If the model has
            no top, the top in the file is ignored. If the classifiers differ in
            the number of classes, the model keeps its own, newly initialized
            one, and warns. Defaults to `False`.

    Raises:
        ValueError: If the file cannot be read as weights, or does not fit.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> model.save_weights("example.weights.h5")
        >>> load_weights_into(model, "example.weights.h5")
    """
    path = Path(path)
    variables = {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
    }
    order = {layer.name: [v.name for v in layer.weights] for layer in model.layers}
    with open_weights(path, order) as arrays:
        if new_head:
            _leave_out_top(variables, arrays, path)
        problems = _compare(variables, arrays)
        if problems:
            raise ValueError(
                f"The weights in {path} do not fit the model {model.name!r}: "
                f"{'; '.join(problems)}. Make the model with the arguments that the "
                "file was made with. The model is unchanged."
            )
        try:
            values, bad = _read(variables, arrays)
        except Exception as error:  # as in `open_weights`
            raise ValueError(
                f"Cannot read weights from {path}: {error}. The model is unchanged."
            ) from error
    if bad:
        raise ValueError(
            f"The weights in {path} must be finite, but {_brief(bad)} "
            "hold NaN or infinite values. The model is unchanged."
        )
    for name, variable in variables.items():
        variable.assign(values.pop(name))


def _read(
    variables: dict[str, Any], arrays: dict[str, Array]
) -> tuple[dict[str, Any], list[str]]:
    """The values as tensors, and the names of those that are not finite."""
    values, bad = {}, []
    for name, variable in variables.items():
        values[name], finite = _read_tensor(arrays[name], variable.dtype)
        if not finite:
            bad.append(name)
    return values, bad


def _read_tensor(array: Array, dtype: str) -> tuple[Any, bool]:
    if keras.backend.backend() == "jax":
        # It compiles each operation for each shape, in more memory than the array.
        whole = np.empty(array.shape, dtype)
        rows, end, finite = np.atleast_1d(whole), 0, True
        with np.errstate(over="ignore"):  # an infinity is found below
            for block in array.blocks(1 << 18):
                start, end = end, end + len(np.atleast_1d(block))
                rows[start:end] = block
                finite = finite and bool(np.isfinite(rows[start:end]).all())
        return keras.ops.convert_to_tensor(whole, dtype), finite
    # TensorFlow makes two copies of an array that it converts, and keeps both
    # beside the tensor: blocks of it, copied once more, are gone at once.
    blocks = [
        keras.ops.copy(keras.ops.convert_to_tensor(values, dtype=dtype))
        for values in array.blocks(1 << 18)
    ]
    # After the conversion, which can make an infinity of 1e300.
    finite = all(bool(keras.ops.all(keras.ops.isfinite(block))) for block in blocks)
    return (blocks[0] if len(blocks) == 1 else keras.ops.concatenate(blocks)), finite


def _leave_out_top(
    variables: dict[str, Any], arrays: dict[str, Array], path: Path
) -> None:
    """Drops what belongs to another top from both sides, see `new_head`."""
    if not any(name.startswith(f"{_CLASSIFIER}/") for name in variables):
        for name in [n for n in arrays if n.split("/")[0] in _TOP_LAYERS]:
            del arrays[name]
        return
    bias = f"{_CLASSIFIER}/bias"
    if bias not in variables or bias not in arrays:
        return
    here, there = variables[bias].shape, arrays[bias].shape
    if here == there or len(there) != 1:
        return
    for name in (f"{_CLASSIFIER}/kernel", bias):
        del variables[name]
        arrays.pop(name, None)
    warnings.warn(
        f"The weights in {path} are for {there[0]} classes and the model has "
        f"{here[0]}: it keeps the body and starts with a new, untrained classifier.",
        stacklevel=4,
    )


def _compare(variables: dict[str, Any], arrays: dict[str, Array]) -> list[str]:
    missing = [name for name in variables if name not in arrays]
    unexpected = [name for name in arrays if name not in variables]
    both = [name for name in variables if name in arrays]
    shapes = [
        f"{name} has shape {arrays[name].shape}, not {tuple(variables[name].shape)}"
        for name in both
        if arrays[name].shape != tuple(variables[name].shape)
    ]
    dtypes = [
        f"{name} has dtype {arrays[name].dtype}, not a float"
        for name in both
        if not arrays[name].is_float
    ]
    problems = []
    if missing:
        problems.append(f"missing {_brief(missing)}")
    if unexpected:
        problems.append(f"unexpected {_brief(unexpected)}")
    if shapes or dtypes:
        problems.append(_brief(shapes + dtypes))
    return problems


def _brief(items: list[str], limit: int = 4) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def save_model(
    model: keras.Model, path: str | Path, class_names: Sequence[str]
) -> None:
    """Saves a whole model together with its class names, in one step.

    Keras writes a temporary file in the same folder, the class names are added,
    and the file takes its final name: at every moment `path` is the old file or
    the complete new one. `keras.models.load_model` reads the result as well.

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
            "Argument `path` must end in `.keras` or `.h5` (a whole model). "
            f"Received: path={str(path)!r}"
        )
    if isinstance(class_names, str) or not all(
        isinstance(name, str) for name in class_names
    ):
        raise ValueError(
            "Argument `class_names` must be a sequence of strings, the classes in "
            f"label order. Received: class_names={class_names!r}"
        )
    text = json.dumps({"class_names": list(class_names)})
    if path.suffix == ".h5" and len(text) > _ATTRIBUTE_LIMIT:
        raise ValueError(
            f"Argument `class_names` is too long for an `.h5` file ({len(text)} "
            f"bytes, at most {_ATTRIBUTE_LIMIT}); save as `.keras` instead. "
            f"Received: {len(class_names)} names, path={str(path)!r}"
        )
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        _require_room(model, path)
        with _without_legacy_warning():
            model.save(temporary)
        _add_class_names(temporary, text)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # h5py raises both on a full disk
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"Cannot save the model to {path}: {reason}. Make room, or see to it that "
            "the folder can be written. A file that was there is as it was"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _require_room(model: keras.Model, path: Path) -> None:
    """Raises `OSError` where a disk has too little room for the model.

    Told before HDF5 notices: once that has run out of room in the middle of a
    file, it can bring the process down with the next one.
    """
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    size = sum(math.prod(v.shape) * (8 if "64" in v.dtype else 4) for v in variables)
    # And what the file holds besides: names, the configuration, HDF5's own tables.
    if shutil.disk_usage(path.parent).free < 1.1 * size + (1 << 18):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _without_legacy_warning() -> Iterator[None]:
    """Keras calls `.h5` legacy at each save; here it was asked for by name."""
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


def read_class_names(path: str | Path) -> tuple[str, ...] | None:
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
    name_or_path: str | Path,
) -> tuple[keras.Model, tuple[str, ...] | None]:
    """Loads a whole model and its class names.

    The model is not compiled: it is ready to predict, evaluate or export.
    The safe mode of Keras stays on, so a file cannot bring code of its own.

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
