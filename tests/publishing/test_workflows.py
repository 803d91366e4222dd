"""The workflows call scripts, use pinned actions, and a release checks its tag."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
if not WORKFLOWS:
    pytest.skip("no workflows, as in the sdist", allow_module_level=True)
COMMANDS = (
    r"(python )?\.ci/(?P<script>[\w.]+)( [-\w./\"${}#]+)*",
    r"python -m pip install --force-reinstall --no-deps dist/\*\.whl",
    r"gh auth setup-git",
)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_steps_call_scripts_that_exist(path):
    steps = re.findall(r"^ +- run: (.*)$", path.read_text(encoding="utf-8"), re.M)
    assert steps
    for step in steps:
        match = next(filter(None, (re.fullmatch(c, step) for c in COMMANDS)), None)
        assert match, f"{step!r} lives in YAML only"
        if script := match.groupdict().get("script"):
            assert (ROOT / ".ci" / script).is_file(), script


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned(path):
    text = path.read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.*)$", text, re.M)
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    assert re.search(r"^permissions: \{\}$", text, re.M)


@pytest.fixture
def check_release():
    path = ROOT / ".ci" / "check_release.py"
    spec = importlib.util.spec_from_file_location("check_release", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    """What a release looks at, ready for version 0.3.0."""
    for name in ("CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    pyproject = tmp_path / "pyproject.toml"
    text = pyproject.read_text(encoding="utf-8")
    pyproject.write_text(text.replace(".invalid/", ".example/"), encoding="utf-8")
    (tmp_path / "keras_tinyalex").mkdir()
    (tmp_path / "keras_tinyalex" / "__init__.py").write_text('__version__ = "0.3.0"\n')
    citation = (tmp_path / "CITATION.cff").read_text(encoding="utf-8")
    citation = re.sub(r"^version: .*$", "version: 0.3.0", citation, flags=re.M)
    (tmp_path / "CITATION.cff").write_text(citation, encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.3.0 (2026-01-31)\n")
    (tmp_path / "tests" / "publishing" / "kept" / "0.3.0").mkdir(parents=True)
    return tmp_path


def test_a_release_that_is_ready(check_release, checkout):
    assert list(check_release.problems("v0.3.0", checkout)) == []


def test_what_keeps_a_release_back(check_release, checkout):
    shutil.copy(ROOT / "pyproject.toml", checkout)
    (checkout / "CHANGELOG.md").write_text("# Changelog\n\n## 0.3.0 (unreleased)\n")
    (checkout / "keras_tinyalex" / "__init__.py").write_text('__version__ = "0.4.0"\n')
    found = "\n".join(check_release.problems("v0.3.0", checkout))
    home = "https://home.invalid/keras-tinyalex"
    for text in (
        "the tag must be v0.4.0, as in keras_tinyalex/__init__.py, not v0.3.0",
        "CITATION.cff must have version: 0.4.0",
        "must be 0.4.0 (YYYY-MM-DD), not 0.3.0 (unreleased)",
        f"home must be set in pyproject.toml, not {home}",
        "documentation must be set in pyproject.toml",
        "files of 0.4.0 must be kept",
    ):
        assert text in found
