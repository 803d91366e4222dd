"""Examples and Python blocks of the documentation run; its links and names hold."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import keras_tinyalex

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(keras_tinyalex.__path__, "keras_tinyalex.")
)
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_most_modules_have_examples():
    finder = doctest.DocTestFinder()
    tests = [t for name in MODULES for t in finder.find(importlib.import_module(name))]
    assert sum(bool(test.examples) for test in tests) >= 35


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
    if not blocks:
        pytest.skip("no Python block")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    """Each `keras-tinyalex` line of a shell block is a command line we accept."""
    from keras_tinyalex.cli import _parser

    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
    lines = [part for block in blocks for part in re.split(r"\n|&&", block)]
    for line in lines:
        command, *arguments = line.split("#")[0].split() or [""]
        if command == "keras-tinyalex":
            _parser().parse_args(arguments)


def anchors(page):
    """The ids of a page's headings, and of the names that mkdocstrings puts there."""
    text = page.read_text("utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    headings = re.findall(r"^#+ (.*)$", prose, re.M)
    words = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    names = re.findall(r"^::: (\S+)$", text, re.M)
    return {re.sub(r"[\s-]+", "-", heading) for heading in words} | set(names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):  # https:, mailto:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_anchors_are_those_of_the_site():
    assert {"the-run-folder"} <= anchors(ROOT / "docs/reference/command-line.md")
    names = {"augmentation", "keras_tinyalex.Recipe"}
    assert names <= anchors(ROOT / "docs/reference/python.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_ours_exist(page):
    text = page.read_text("utf-8")
    for name in re.findall(r"\b(?:keras_)?tinyalex((?:\.[^\W\d]\w*)+)", text):
        pkgutil.resolve_name(f"keras_tinyalex{name}")


def test_every_page_is_in_the_navigation():
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    nav = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    assert sorted(nav) == sorted(pages)


def test_troubleshooting_quotes_what_we_say():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    cells = re.findall(r"^\| (`.*?`) \|", page, re.M)
    assert len(cells) > 5
    sources = "\n".join(
        path.read_text("utf-8") for path in (ROOT / "keras_tinyalex").rglob("*.py")
    )
    # Join the pieces of a message, and let each value in it be anything.
    joined = re.sub(r'"\s*f?"', "", re.sub(r"\s+", " ", sources))
    joined = re.sub(r"\{[^}]*\}", "*", joined)
    for cell in cells:
        message = cell.strip("`").strip()
        if message.startswith("Layer"):  # Keras says that one
            continue
        pattern = re.escape(message).replace("N", ".").replace("onnx", ".")
        pattern = re.sub(r"'litert'|\\\('tensorflow',\\\)", ".", pattern)
        assert re.search(pattern, joined), message
