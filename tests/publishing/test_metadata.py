"""The metadata of the package: one home, links that hold, types that users see."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import keras_tinyalex

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ADDRESSES = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]


@pytest.fixture
def hook():
    pytest.importorskip("hatchling")
    path = ROOT / ".ci" / "metadata.py"
    spec = importlib.util.spec_from_file_location("metadata_hook", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_addresses_derive_from_one(hook):
    home = "https://forge.example/us/keras-tinyalex"
    config = {"home": home, "documentation": "https://docs.example/"}
    metadata = {}
    hook.CustomMetadataHook(str(ROOT), config).update(metadata)
    assert metadata["urls"] == {
        "Homepage": home,
        "Documentation": "https://docs.example",
        "Changelog": f"{home}/blob/main/CHANGELOG.md",
        "Issues": f"{home}/issues",
        "Source": home,
    }
    text = metadata["readme"]["text"]
    tag = f"v{keras_tinyalex.__version__}"
    assert f"]({home}/blob/{tag}/docs/quickstart.md)" in text
    assert f"]({home}/raw/{tag}/docs/images/predictions.png)" in text
    assert re.findall(r"\]\((?!https://)[^)]*\)", text) == []
    assert len(text.splitlines()) == len((ROOT / "README.md").read_text().splitlines())


def test_absolute_links(hook):
    text = "![a\nb](x.png) [c](d.md#e) [f](https://g.example) [h](#i) `[j] (k)`"
    assert hook.with_absolute_links(text, "https://h", "v1") == (
        "![a\nb](https://h/raw/v1/x.png) [c](https://h/blob/v1/d.md#e) "
        "[f](https://g.example) [h](#i) `[j] (k)`"
    )


def test_the_home_is_in_one_place():
    """No file but pyproject.toml says where the project is."""
    names = {
        re.match(r"https://([^/]+)", address)[1]
        for address in ADDRESSES.values()
        if "://" in address
    }
    assert len(names) == 2
    places = (".ci", ".github", "docs", "examples", "keras_tinyalex")
    files = [file for place in places for file in (ROOT / place).rglob("*.*")]
    files += [file for file in ROOT.iterdir() if file.is_file()]
    for file in files:
        if file.suffix in {".cff", ".md", ".py", ".toml", ".yml"}:
            text = file.read_text(encoding="utf-8")
            found = [name for name in names if f"//{name}" in text]
            assert bool(found) == (file == ROOT / "pyproject.toml"), (file, found)


def test_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, re.M)[1] == keras_tinyalex.__version__
    assert re.search(r"^license: (.*)$", text, re.M)[1] == PROJECT["project"]["license"]


USER = """
import keras_tinyalex

names: list[str] = keras_tinyalex.list_weights()
number: int = keras_tinyalex.list_weights()
keras_tinyalex.train(recipe="baseline", sed=1)
path: str = keras_tinyalex.export(names[0], "model.onnx").path
"""


def test_users_see_our_types(tmp_path):
    """mypy finds the three mistakes in a user's script, which takes py.typed."""
    pytest.importorskip("mypy")
    environment = tmp_path / "environment"
    venv.create(environment)
    (packages,) = environment.rglob("site-packages")
    code = shutil.ignore_patterns("pretrained", "__pycache__")
    shutil.copytree(ROOT / "keras_tinyalex", packages / "keras_tinyalex", ignore=code)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    (tmp_path / "user.py").write_text(USER)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--python-executable",
            python,
            "user.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"^user\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M)
    expected = [("5", "assignment"), ("6", "call-arg"), ("7", "assignment")]
    assert found == expected, done.stdout + done.stderr
