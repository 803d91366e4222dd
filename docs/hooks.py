"""Fills the tables of reference/command-line.md with what the parser itself says."""

import argparse
import re
import sys


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replaces each `<!-- options of COMMAND -->` of a page by a table."""
    return re.sub(
        r"^<!-- options of (\w+) -->$",
        lambda match: table(match[1]),
        markdown,
        flags=re.M,
    )


def table(command: str) -> str:
    """The arguments and options of one command, as a Markdown table."""
    rows = ["| | |", "| --- | --- |"]
    for action in parsers()[command]._actions:
        if action.dest in ("help", "json", "debug"):  # those of all commands
            continue
        name = ", ".join(action.option_strings) or action.metavar or action.dest
        if action.option_strings and action.nargs != 0:
            value = action.metavar or action.dest.upper().replace("-", "_")
            name += f" {value}" + (" ..." if action.nargs == "+" else "")
        text = action.help or ""
        if action.choices:
            text += ("; " if text else "") + "one of "
            text += ", ".join(f"`{choice}`" for choice in action.choices)
        rows.append(f"| `{name}` | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    arguments, sys.argv = sys.argv, ["keras-tinyalex"]  # as which Keras is not loaded
    try:
        from keras_tinyalex.cli import _parser
    finally:
        sys.argv = arguments
    (commands,) = (
        action
        for action in _parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(commands.choices)
