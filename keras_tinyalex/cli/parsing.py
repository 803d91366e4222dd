"""What all commands share: their options, arguments and messages."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from typing import Any

# The JSON object that a command prints with --json.
Result = dict[str, Any]
Commands = Any  # what `add_subparsers` returns

SOURCE = (
    "official folder or zip, restructured folder, folder of class folders, .npz files "
    "of downsampled ImageNet, or 'sample' (generated, no download)"
)
CLASSES = (
    "number of classes (the first N in sorted order), comma separated wnids or names, "
    "a file with one per line, or 'all'"
)
DEFAULT_CLASSES = "all, but 20 of Tiny ImageNet"
# Names that stand here, too: so wrong arguments are answered before NumPy is loaded.
RECIPES = (
    *("baseline", "best", "best_long", "best_200"),
    *("robust", "distilled", "fast", "fine_tune"),
)
RECIPE = f"{', '.join(RECIPES)}, or a JSON file such as best.json of a search"
MODEL = "model file, or a name from 'keras-tinyalex weights list'"


def add_command(
    commands: Commands,
    name: str,
    function: Callable[[argparse.Namespace], Result],
    description: str,
    needs_keras: bool = True,
) -> argparse.ArgumentParser:
    """Adds a command with the options that all commands have."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=description, description=description
    )
    parser.set_defaults(command=function, needs_keras=needs_keras)
    parser.add_argument(
        "--json", action="store_true", help="print the result as one JSON line"
    )
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error"
    )
    return parser


def classes_spec(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def non_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"must be a non-negative integer, not {text!r}"
        )
    return int(text)


def report(text: str) -> None:
    print(text, file=sys.stderr)


def fail(message: str) -> int:
    text = " ".join(message.split())
    print(f"keras-tinyalex: error: {text}", file=sys.stderr)
    return 1


def show_warning(message: Warning | str, *place: Any) -> None:
    """Prints a warning as one line: where in the source it arose is no help here."""
    text = " ".join(str(message).split())
    print(f"keras-tinyalex: warning: {text}", file=sys.stderr)


def describe(error: Exception, debug: bool) -> str:
    if debug:
        traceback.print_exception(error)
    expected = ValueError | OSError | FloatingPointError | ImportError
    kind = "" if isinstance(error, expected) else f"{type(error).__name__}: "
    return f"{kind}{error}"
