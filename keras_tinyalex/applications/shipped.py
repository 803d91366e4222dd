"""The weights in the package: their names, model cards and files."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.files import sha256_of

_SUFFIXES = (".keras", ".h5", ".weights.h5")


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
            f"`name` must be one of {list_weights()}."
            f"{_suggestion(name)} Received: name={name!r}"
        )
    text = (_pretrained_folder() / f"{name}.json").read_text(encoding="utf-8")
    card: dict[str, Any] = json.loads(text)
    return card


def known_class_names(class_names: Sequence[str] | None) -> Sequence[str] | None:
    """Returns class names as they are, or those of shipped weights.

    Args:
        class_names: Class names in label order, a name from `list_weights()`,
            or `None`.

    Examples:
        >>> known_class_names(["cat", "dog"])
        ['cat', 'dog']
        >>> len(known_class_names("tiny_imagenet_20"))
        20
    """
    if isinstance(class_names, str) and class_names in list_weights():
        names: list[str] = model_card(class_names)["class_names"]
        return names
    return class_names


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
    files = (_pretrained_folder() / f"{name}{suffix}" for suffix in _SUFFIXES)
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise ValueError(
            f"The file of the weights {name!r} is missing in "
            f"{_pretrained_folder()}. Reinstall keras-tinyalex."
        )
    found = sha256_of(path)
    if found != expected:
        raise ValueError(
            f"The file of the weights {name!r} is damaged. Reinstall keras-tinyalex. "
            f"Expected: sha256={expected}. Received: sha256={found}, {path}"
        )
    return path


def find_weights(weights: PathLike) -> Path:
    """Finds the file of `weights`, a shipped name or a path.

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
        f"`weights` must be None, one of the shipped {list_weights()}, or "
        f"the path of an existing file.{_suggestion(weights)} "
        f"Received: weights={str(weights)!r}"
    )


def _suggestion(name: Any) -> str:
    close = difflib.get_close_matches(str(name), list_weights(), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
