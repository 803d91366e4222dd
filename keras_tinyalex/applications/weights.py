"""Loads weights into a model: checked first, all of them or none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.applications.network import (
    CLASSIFIER,
    FIRST_LAYER,
    TOP_LAYERS,
    is_own_layer,
)
from keras_tinyalex.applications.weight_files import Array, open_weights


class NewHead(NamedTuple):
    """What of a model a file of weights lacks, and stays newly initialized.

    Attributes:
        layers: Names of the layers, in order; the last is the classifier.
        message: A sentence on it, for a warning.
    """

    layers: tuple[str, ...]
    message: str


def load_weights_into(
    model: keras.Model, path: PathLike, new_head: bool = False
) -> None:
    """Loads weights from a file into a model: all of them or none.

    Only arrays are read, never code. Names, shapes and dtypes are compared with
    the model before any array is read, and all values must be finite before the
    first is assigned: a refused file leaves the model unchanged.

    Args:
        model: A built model whose layers hold their weights directly, such as
            AlexNetMini. Layers are matched by name.
        path: A `.keras`, `.h5` (whole model or weights), `.weights.h5` or
            `.safetensors` file. Names in the latter are `block1_conv/kernel`.
        new_head: Whether a file with another head is accepted, of a model that
            has an AlexNetMini beside other layers, or within another model.
            What the model lacks of the file's head is ignored. What the file
            lacks of the model's, from some dense layer to the classifier, or a
            classifier for another number of classes, stays newly initialized,
            and a warning says so. Defaults to `False`.

    Raises:
        ValueError: If the file cannot be read as weights, or does not fit.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> model.save_weights("example.weights.h5")
        >>> load_weights_into(model, "example.weights.h5")
    """
    if head := assign_weights(model, path, new_head):
        warnings.warn(head.message, stacklevel=2)


def assign_weights(
    model: keras.Model, path: PathLike, new_head: bool
) -> NewHead | None:
    """As `load_weights_into`, but returns what is new instead of a warning."""
    path = Path(path)
    variables = {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
    }
    order = {layer.name: [v.name for v in layer.weights] for layer in model.layers}
    head = None
    with open_weights(path, order) as arrays:
        if new_head:
            arrays = _network_arrays(variables, arrays, path)
            head = _keep_new_head(variables, arrays, path)
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
    return head


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


def _network_arrays(
    variables: dict[str, Any], arrays: dict[str, Array], path: Path
) -> dict[str, Array]:
    """The arrays of the one AlexNetMini in a file, wherever in it they are.

    Those of layers that only another kind of AlexNetMini has stay among them, so
    that they are found not to fit.
    """
    first = f"{FIRST_LAYER}/kernel"
    places = {
        name.removesuffix(first)
        for name in arrays
        if name == first or name.endswith(f"/{first}")
    }
    if len(places) > 1:
        found = ", ".join(repr(place.rstrip("/")) for place in sorted(places))
        raise ValueError(
            f"The weights in {path} must be of one AlexNetMini, but {found} are "
            "several. Load the model with `keras.models.load_model`, and save the "
            "one that you want, `model.get_layer(name)`, to a file of its own."
        )
    place = places.pop() if places else ""
    here = {name.split("/")[0] for name in variables}
    others = () if here.intersection(TOP_LAYERS) else TOP_LAYERS
    chosen = {}
    for name in [name for name in arrays if name.startswith(place)]:
        own = name.removeprefix(place)
        layer = own.split("/")[0]
        head = layer.removesuffix("_bn") in others
        if layer in here or (is_own_layer(layer) and not head):
            chosen[own] = arrays[name]
    return chosen


def _keep_new_head(
    variables: dict[str, Any], arrays: dict[str, Array], path: Path
) -> NewHead | None:
    """Drops the layers of the head that stay new from both sides; see `new_head`."""
    there = {name.split("/")[0] for name in arrays}
    new = [layer for layer in TOP_LAYERS if f"{layer}/kernel" in variables]
    while new and new[0] in there:
        new.pop(0)
    if not there or there.intersection(new):
        return None  # a gap is a fault of the file, not another head
    bias = f"{CLASSIFIER}/bias"
    message = ""
    if new:
        message = (
            f"The weights in {path} have no {', '.join(map(repr, new))}: the body is "
            "loaded, and the model's are new and untrained."
        )
    elif bias in variables and bias in arrays:
        here, found = variables[bias].shape, arrays[bias].shape
        if here != found and len(found) == 1:
            new = [CLASSIFIER]
            message = (
                f"The weights in {path} are for {found[0]} classes and the model has "
                f"{here[0]}: the body is loaded, and the classifier is new and "
                "untrained."
            )
    for name in [name for name in variables if name.split("/")[0] in new]:
        del variables[name]
        arrays.pop(name, None)
    return NewHead(tuple(new), message) if message else None


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
