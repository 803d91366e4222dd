"""Fills pages from their one source, and adds the page that classifies pictures."""

import argparse
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_config(config: dict[str, Any]) -> None:
    """Sets the addresses of the site and of the repository, once they are known."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    addresses = project["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    if ".invalid/" not in addresses["home"]:
        config["repo_url"] = addresses["home"]
        config["site_url"] = addresses["documentation"]


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replaces `<!-- README -->`, and each `<!-- options of COMMAND -->`, of a page."""
    markdown = markdown.replace("<!-- README -->", readme())
    return re.sub(
        r"^<!-- options of (\w+) -->$",
        lambda match: table(match[1]),
        markdown,
        flags=re.M,
    )


def on_post_build(config: dict[str, Any]) -> None:
    """Adds the classifier of the page `Try it` to the site."""
    from keras_tinyalex import export

    folder = Path(config["site_dir"], "try-it", "page")
    shutil.rmtree(folder, ignore_errors=True)
    export("tiny_imagenet_200", folder, "web")


def readme() -> str:
    """The README, with its links as they lead from the home page."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = text.replace("](docs/", "](")
    return re.sub(r"\]\((CHANGELOG|CONTRIBUTING)\.md\)", lambda m: m[0].lower(), text)


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
    from keras_tinyalex.cli import make_parser

    (commands,) = (
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(commands.choices)
