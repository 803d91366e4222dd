"""Checks of arguments, and the one form of the errors they raise.

Every message says what the argument must be, what came and, where there is one,
the cure: "`name` must be ... Received: name=value".
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import operator
import re
from collections.abc import Callable, Collection
from typing import Any, ParamSpec, TypeVar

import numpy as np

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def check_integer(name: str, value: Any, minimum: int = 1) -> int:
    """Returns an integer argument as an `int`.

    Args:
        name: Name of the argument, for the message.
        value: What came. Integers of NumPy are taken, booleans are not.
        minimum: Smallest value allowed, 0 or 1. Defaults to `1`.

    Raises:
        ValueError: If it is no integer, or below `minimum`.

    Examples:
        >>> check_integer("epochs", 35)
        35
        >>> check_integer("seed", -1, minimum=0)
        Traceback (most recent call last):
        ValueError: `seed` must be a non-negative integer. Received: seed=-1
    """
    boolean = isinstance(value, bool | np.bool_)
    try:
        number = minimum - 1 if boolean else operator.index(value)
    except TypeError:
        number = minimum - 1
    if number < minimum:
        kind = {0: "non-negative", 1: "positive"}[minimum]
        raise ValueError(
            f"`{name}` must be a {kind} integer. Received: {name}={value!r}"
        )
    return number


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    minimum: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
) -> float:
    """Returns a finite number as a `float`.

    Args:
        name: Name of the argument, for the message.
        value: What came. Booleans are not taken.
        above: Number that it must be greater than.
        minimum: Smallest value allowed.
        below: Number that it must be less than.
        maximum: Largest value allowed.

    Raises:
        ValueError: If it is no finite number, or out of its range.

    Examples:
        >>> check_number("alpha", 1)
        1.0
        >>> check_number("dropout", 1, minimum=0, below=1)
        Traceback (most recent call last):
        ValueError: `dropout` must be a finite number of at least 0 and below 1. \
Received: dropout=1
    """
    tests: list[tuple[str, float | None, Callable[[Any, Any], bool]]] = [
        ("above", above, operator.gt),
        ("of at least", minimum, operator.ge),
        ("below", below, operator.lt),
        ("of at most", maximum, operator.le),
    ]
    bounds = [bound for bound in tests if bound[1] is not None]
    finite = (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )
    if not finite or not all(holds(value, limit) for _, limit, holds in bounds):
        wanted = " and ".join(f"{text} {limit}" for text, limit, _ in bounds)
        expected = f"a finite number {wanted}".strip()
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")
    return float(value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Refuses a value that is not one of `choices`.

    Examples:
        >>> check_choice("mode", "copy", ("copy", "move"))
        >>> check_choice("mode", "steal", ("copy", "move"))
        Traceback (most recent call last):
        ValueError: `mode` must be one of 'copy', 'move'. Received: mode='steal'
    """
    if not any(value is choice or value == choice for choice in choices):
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}. "
            f"Received: {name}={value!r}"
        )


def check_boolean(name: str, value: Any) -> None:
    """Refuses a value that is not `True` or `False`, or 1 or 0.

    Examples:
        >>> check_boolean("include_top", "no")
        Traceback (most recent call last):
        ValueError: `include_top` must be True or False. Received: include_top='no'
    """
    if not isinstance(value, bool | np.bool_ | int) or value not in (0, 1):
        raise ValueError(
            f"`{name}` must be True or False. Received: {name}={value!r:.80}"
        )


def is_file_name(text: str) -> bool:
    """Whether a file can have this name on Linux, macOS and Windows.

    Source: https://learn.microsoft.com/windows/win32/fileio/naming-a-file

    Examples:
        >>> is_file_name("best-long"), is_file_name("a/b"), is_file_name("nul.txt")
        (True, False, False)
    """
    forbidden = any(letter < " " or letter in '<>:"/\\|?*' for letter in text)
    device = re.fullmatch(
        r"(con|prn|aux|nul|(com|lpt)[1-9\u00b9\u00b2\u00b3])( *\..*)?", text.lower()
    )
    return bool(text) and not forbidden and not device and text[-1] not in ". "


def named_arguments(
    function: Callable[Parameters, Result],
) -> Callable[Parameters, Result]:
    """Lets a function say which arguments it has when it gets another one.

    Examples:
        >>> @named_arguments
        ... def make(num_classes=20): ...
        >>> make(classes=10)
        Traceback (most recent call last):
        TypeError: make() has no argument `classes`: did you mean `num_classes`? \
Its arguments are num_classes. Received: classes=10
    """
    names = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        for name, value in kwargs.items():
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f": did you mean `{close[0]}`?" if close else "."
                called = function.__qualname__.removesuffix(".__init__")
                raise TypeError(
                    f"{called}() has no argument `{name}`{hint} Its arguments are "
                    f"{', '.join(names)}. Received: {name}={value!r:.80}"
                )
        return function(*args, **kwargs)

    return checked
