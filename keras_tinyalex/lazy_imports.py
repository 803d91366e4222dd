"""Public names that are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_imports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns the `__getattr__` and the `__dir__` of a package.

    So the command line starts at once: what a command does not use is not
    imported, above all Keras and its backend.

    Args:
        package: `__name__` of the package.
        modules: The module of each name, within the package. Any other name is
            that of a module.

    Examples:
        >>> get, _ = lazy_imports("keras_tinyalex", {})
        >>> get("aliases").__name__
        'keras_tinyalex.aliases'
    """

    def import_name(name: str) -> Any:
        module = f"{package}.{modules.get(name, name)}"
        try:
            value: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:  # a dependency that is not installed
                raise
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}"
            ) from None
        if name in modules:
            value = getattr(value, name)
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        module = sys.modules[package]
        return sorted({*vars(module), *module.__all__})

    return import_name, list_names
