"""The public API as text: each name with its signature, each option of a command.

    python tests/publishing/public_api.py

writes `public_api.txt`, the API of the latest release. Names are public if the Python
reference shows them, or if `__all__` of their package does.
"""

import argparse
import importlib
import inspect
import re
from pathlib import Path

from keras_tinyalex import recipes
from keras_tinyalex.cli import make_parser

ROOT = Path(__file__).parents[2]
RELEASED = Path(__file__).with_name("public_api.txt")
PACKAGES = (
    "keras_tinyalex",
    "keras_tinyalex.applications",
    "keras_tinyalex.datasets.tiny_imagenet",
    "keras_tinyalex.evaluation",
    "keras_tinyalex.layers",
    "keras_tinyalex.tuning",
    "keras_tinyalex.visualization",
)


def current():
    """Returns the lines of the public API, sorted."""
    described = {}
    lines = []
    for name, value in sorted(public_objects(), key=lambda pair: shortest_first(*pair)):
        first = described.setdefault(id(value), name)
        lines += describe(name, value) if first == name else [f"{name} is {first}"]
    return sorted(lines) + sorted(command_lines())


def shortest_first(name, value):
    return name.count("."), name


def public_objects():
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    names = set(re.findall(r"^::: ([\w.]+)$", page, re.M))
    for package in PACKAGES:
        names |= {f"{package}.{n}" for n in importlib.import_module(package).__all__}
    names |= {
        f"keras_tinyalex.recipes.{name}"
        for name, value in vars(recipes).items()
        if isinstance(value, recipes.Recipe)
    }
    for name in names:
        owner, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(owner), attribute)
        if not inspect.ismodule(value):
            yield name, value


def describe(name, value):
    """Yields the line of a name, and those of the methods of a class."""
    if not callable(value):
        yield f"{name}: {type(value).__name__}"
        return
    yield f"{name}{signature(value)}"
    if not inspect.isclass(value):
        return
    for attribute, member in vars(value).items():
        if attribute.startswith("_"):
            continue
        member = getattr(member, "__func__", member)  # that of a class method
        if inspect.isfunction(member):
            yield f"{name}.{attribute}{signature(member)}"
        elif isinstance(member, property):
            returns = inspect.signature(member.fget).return_annotation
            yield f"{name}.{attribute}: {returns}"


def signature(function):
    """Returns the signature on one line, the same on each version of Python."""
    described = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=verbatim(parameter.annotation))
        for parameter in described.parameters.values()
    ]
    returns = verbatim(described.return_annotation)
    return str(described.replace(parameters=parameters, return_annotation=returns))


def verbatim(annotation):
    """Returns what is shown for an annotation: its text without quotes."""
    return Verbatim(annotation) if isinstance(annotation, str) else annotation


class Verbatim(str):
    __repr__ = str.__str__


def command_lines():
    """Yields a line for each argument and option of each command."""
    (commands,) = (
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    for command, parser in commands.choices.items():
        for action in parser._actions:
            names = ", ".join(action.option_strings) or action.metavar or action.dest
            choices = f" {{{','.join(action.choices)}}}" if action.choices else ""
            facts = [
                f"{fact}={getattr(action, fact)!r}"
                for fact in ("nargs", "required", "default")
                if getattr(action, fact) not in (None, False, argparse.SUPPRESS)
            ]
            yield " ".join([f"keras-tinyalex {command} {names}{choices}", *facts])


def unexplained(released, lines, changelog):
    """Lists what differs from the latest release and is not in the changelog.

    Args:
        released: The lines of `public_api.txt`.
        lines: Those of `current()`.
        changelog: The text of the changelog. Only its first section counts, and
            only if it is unreleased; it must name the function, class, method,
            field or option in backticks.

    Returns:
        Lines that begin with - or +.
    """
    sections = re.split(r"^## ", changelog, flags=re.M)[1:]
    section = sections[0] if "(unreleased)" in sections[0].splitlines()[0] else ""
    explained = " ".join(re.findall(r"`([^`]+)`", section))
    removed = [f"- {line}" for line in released if line not in set(lines)]
    added = [f"+ {line}" for line in lines if line not in set(released)]
    return [
        line
        for line in sorted([*removed, *added], key=lambda line: line[2:])
        if not re.search(rf"(?<![\w-]){name_of(line[2:])}(?![\w-])", explained)
    ]


def name_of(line):
    """The name that a changelog uses: `export`, or `--format` of that command."""
    if line.startswith("keras-tinyalex "):
        _, command, argument, *_ = line.replace(",", "").split(" ")
        return argument if argument.startswith("-") else command
    return re.match(r"[\w.]+", line)[0].rpartition(".")[2]


if __name__ == "__main__":
    RELEASED.write_text("\n".join(current()) + "\n", encoding="utf-8")
