"""Checks that the checkout is ready to be released as the tag given.

    python .ci/check_release.py v0.1.0

Prints what is missing, and exits with 1 if anything is.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def problems(tag, root=ROOT):
    """Yields what keeps the checkout from being released as this tag."""

    def read(name):
        return (root / name).read_text(encoding="utf-8")

    version = re.search(
        r'^__version__ = "(.+)"$', read("keras_tinyalex/__init__.py"), re.M
    )[1]
    if tag != f"v{version}":
        yield f"the tag must be v{version}, as in keras_tinyalex/__init__.py, not {tag}"
    if f"\nversion: {version}\n" not in read("CITATION.cff"):
        yield f"CITATION.cff must have version: {version}"
    heading = re.search(r"^## (.*)$", read("CHANGELOG.md"), re.M)[1]
    if not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", heading):
        yield (
            f"the first section of CHANGELOG.md must be {version} (YYYY-MM-DD), "
            f"not {heading}"
        )
    hooks = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["metadata"]["hooks"]
    for name in ("home", "documentation"):
        if ".invalid/" in hooks["custom"][name]:
            yield f"{name} must be set in pyproject.toml, not {hooks['custom'][name]}"
    if not (root / "tests/publishing/kept" / version).is_dir():
        yield f"files of {version} must be kept: python tests/publishing/keep_files.py"


def api_problems():
    """Yields whether the list of the public API is that of this checkout."""
    sys.path.insert(0, str(ROOT / "tests" / "publishing"))
    import public_api

    if public_api.RELEASED.read_text("utf-8").splitlines() != public_api.current():
        yield "the API has changed: python tests/publishing/public_api.py"


if __name__ == "__main__":
    found = [*problems(sys.argv[1]), *api_problems()]
    print("\n".join(found) or f"{sys.argv[1]} is ready")
    sys.exit(bool(found))
