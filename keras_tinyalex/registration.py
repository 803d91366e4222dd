"""Registers our layer and optimizer with Keras, without importing Keras.

Files with `LocalResponseNormalization` load by `keras.models.load_model` once
`keras_tinyalex` is imported, before or after Keras. Importing Keras takes seconds, and
some commands need none of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Their import registers them.
_MODULES = ("keras_tinyalex.layers", "keras_tinyalex.optimizers")


def register_with_keras() -> None:
    """Registers now where Keras is imported, else as soon as it is."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterKeras())


def _register() -> None:
    for name in _MODULES:
        importlib.import_module(name)


class _AfterKeras(MetaPathFinder):
    """Finds `keras` as the other finders do, and registers after its import."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec("keras")
        finally:
            sys.meta_path.insert(0, self)  # some only look whether Keras is there
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            sys.meta_path.remove(self)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
