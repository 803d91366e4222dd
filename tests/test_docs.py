"""Examples and Python blocks of the documentation run; its links and names hold."""

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_tinyalex
from keras_tinyalex import cli
from keras_tinyalex.datasets import sample, tiny_imagenet
from keras_tinyalex.datasets.classes import TINY_IMAGENET_WORDS

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


@pytest.mark.filterwarnings("ignore:.*the classifier is new and untrained")  # shown
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    """And print what the page shows, where a block of text follows at once."""
    pattern = r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?"
    blocks = re.findall(pattern, page.read_text("utf-8"), re.S | re.M)
    if not blocks:
        pytest.skip("no Python block")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block, shown in blocks:
        capsys.readouterr()
        exec(compile(block, str(page), "exec"), names)
        if shown:
            assert capsys.readouterr().out == shown


def commands_of(page):
    """The lines of the shell blocks that call us, or write a small file for us."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
    joined = [re.sub(r"\\\n\s*", "", block) for block in blocks]
    lines = [part.strip() for block in joined for part in re.split(r"\n|&&", block)]
    lines = [line.removeprefix(".venv/bin/") for line in lines]
    ours = ("keras-tinyalex ", *WRITERS)
    return [line for line in lines if split(line)[1].startswith(ours)]


WRITERS = ("echo ", "sed ")


def split(line):
    """Into the variables that it sets, and the command after them."""
    variables, command = re.fullmatch(r"((?:[A-Z_]+=\S+ )*)(.*)", line).groups()
    return dict(word.split("=", 1) for word in variables.split()), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    for line in commands_of(page):
        if not line.startswith(WRITERS):
            command = split(line)[1]
            cli.make_parser().parse_args(shlex.split(command, comments=True)[1:])


@pytest.fixture(scope="module")
def small_tiny_imagenet(tmp_path_factory, make_official_folder, make_official_zip):
    """The archive, unpacked too, with 11 images of each of its classes."""
    folder = tmp_path_factory.mktemp("official") / "tiny-imagenet-200"
    classes = dict(TINY_IMAGENET_WORDS)
    return make_official_zip(
        make_official_folder(folder, train=10, val=1, classes=classes)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.name
)
def test_commands_run(page, small_tiny_imagenet, tmp_path, monkeypatch):
    """As printed, one after the other, but for few images, epochs and trials."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(sample, "TRAIN_PER_CLASS", 10)
    monkeypatch.setattr(sample, "VAL_PER_CLASS", 1)
    monkeypatch.setattr(tiny_imagenet, "download", lambda: small_tiny_imagenet)
    Path("tiny-imagenet-200.zip").symlink_to(small_tiny_imagenet)
    shutil.copytree(small_tiny_imagenet.with_suffix(""), "tiny-imagenet-200")
    shutil.copytree("tiny-imagenet-200/train", "my_images")
    for name in ("goldfish.jpg", "picture.jpg", "my_picture.jpg"):
        shutil.copy("tiny-imagenet-200/val/images/val_0.JPEG", name)
    for line in commands_of(page):
        if line.startswith(WRITERS):
            subprocess.run(line, shell=True, check=True)
            continue
        variables, command = split(line)
        arguments = shlex.split(command, comments=True)[1:]
        if {"--chief", "--worker"} & set(arguments):
            continue  # tests/tuning/test_distributed.py starts them together
        if arguments[0] in ("train", "tune"):
            arguments += ["--epochs", "1"]
        if arguments[0] == "tune":
            arguments += ["--max-trials", "2", "--retrain-epochs", "1"]
            arguments += ["--retrain-seeds", "0"]
        if variables:  # which count when a process begins
            run = [sys.executable, "-m", "keras_tinyalex", *arguments]
            subprocess.run(run, env=os.environ | variables, check=True)
        else:
            assert cli.main(arguments) == 0, arguments


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
    assert {"the-run-folder"} <= anchors(ROOT / "docs/reference/files.md")
    names = {"augmentation", "keras_tinyalex.Recipe"}
    assert names <= anchors(ROOT / "docs/reference/python.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_ours_exist(page):
    text = page.read_text("utf-8")
    for name in re.findall(r"\b(?:keras_)?tinyalex((?:\.[^\W\d]\w*)+)", text):
        pkgutil.resolve_name(f"keras_tinyalex{name}")


def options_of(parser):
    return {option for action in parser._actions for option in action.option_strings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_exist(page, hooks):
    """Each `--option` is one of ours, of a script, or of a tool named here."""
    # Those of other programs.
    known = {"--logdir", "--strict", "--faults-json", "--fix", "--xla_cpu_max_isa",
             "--xla_force_host_platform_device_count"}  # fmt: skip
    known |= {"--folds"}
    known = known.union(*map(options_of, hooks.parsers().values()))
    scripts = [*ROOT.glob("examples/*.py"), *ROOT.glob("tests/benchmarks/*.py")]
    for path in scripts:
        known |= set(re.findall(r'add_argument\("(--[\w-]+)"', path.read_text("utf-8")))
    found = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", page.read_text("utf-8")))
    assert found <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_code_are_names_of_the_code(page):
    """Each `snake_case`, `CamelCase` or `name=` in the prose is in the sources."""
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.S | re.M)
    pattern = r"`\.?((?:[a-z]+_\w+|[A-Z]+[a-z]\w+|[a-z]\w*(?==)))(?:[=(][^`]*)?`"
    known = {"Lambda"}  # of Keras
    for folder in ("keras_tinyalex", "examples", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".json") and path != Path(__file__):
                known |= set(re.findall(r"\w+", path.read_text("utf-8")))
    assert set(re.findall(pattern, prose)) <= known


@pytest.fixture
def hooks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("hooks")


def test_command_line_page_has_every_option(hooks):
    page = (ROOT / "docs/reference/command-line.md").read_text("utf-8")
    shown = hooks.on_page_markdown(page)
    for name, parser in hooks.parsers().items():
        assert f"<!-- options of {name} -->" in page
        for option in options_of(parser) - {"-h"}:
            assert re.search(rf"`[^`\n]*{option}\b", shown), f"{name} {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_are_small_and_described(page):
    for text, path in re.findall(r"!\[(.*?)\]\((.*?)\)", page.read_text("utf-8")):
        assert len(text) > 15, f"{path} has no description"
        assert (page.parent / path).stat().st_size < 400_000


def test_home_page_is_the_readme(hooks):
    shown = hooks.on_page_markdown((ROOT / "docs/index.md").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    assert shown.splitlines()[0] == readme.splitlines()[0] == "# keras-tinyalex"
    links = re.findall(r"\]\(([^)\s]+)\)", shown)
    assert len(links) > 15
    for link in links:
        assert (ROOT / "docs" / link).is_file(), link


def test_every_page_is_in_the_navigation():
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    nav = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    assert sorted(nav) == sorted(pages)


def test_troubleshooting_quotes_what_we_say():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    terms = re.findall(r"^(`.*`)\n:   ", page, re.M)
    assert len(terms) > 25
    sources = "\n".join(
        path.read_text("utf-8") for path in (ROOT / "keras_tinyalex").rglob("*.py")
    )
    # Join the pieces of a message, and let each value in it be anything.
    joined = re.sub(r'"\s*f?"', "", re.sub(r"\s+", " ", sources))
    joined = re.sub(r"\{[^}]*\}", "*", joined)
    values = r"\b(?:N|FILE|\d+x\d+)\b|'[\w.]+'|\('tensorflow',\)|\(64, 64, 3\)|onnx$"
    values += r"|process(?= writes)"
    for term in terms:
        message = term.strip("`").strip()
        if message.startswith(NOT_OURS):
            continue
        pattern = ".{1,40}".join(map(re.escape, re.split(values, message)))
        assert re.search(pattern, joined), message


# Messages of Keras, pip and Python.
NOT_OURS = (
    *("Input 0", "Could not locate", "requires a different", "No module named"),
    *("Bad CRC-32", "externally-managed", "No matching distribution"),
)


def test_troubleshooting_quotes_what_keras_says():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    model = keras_tinyalex.AlexNetMini()
    with pytest.raises(ValueError, match="Input 0") as error:
        model(np.zeros((2, 63, 63, 3), "float32"))
    assert f"`{error.value}`" in page
