"""The public API changes only with a line in the changelog."""

import public_api
import pytest

CHANGELOG = """# Changelog

## 0.2.0 (unreleased)

- `export(quantize=...)`, and `predict --csv`.

## 0.1.0 (2026-01-31)

- `train`
"""
RELEASED = ["a.export(path)", "a.train(seed: int = 0)", "keras-tinyalex predict --top"]


def test_every_change_since_the_release_is_in_the_changelog():
    missing = public_api.unexplained(
        public_api.RELEASED.read_text(encoding="utf-8").splitlines(),
        public_api.current(),
        (public_api.ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    )
    assert not missing, (
        "CHANGELOG.md must name these in backticks, in a first section marked "
        "(unreleased):\n" + "\n".join(missing)
    )


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        (RELEASED, []),
        (["a.export(path, quantize=None)", *RELEASED[1:]], []),
        ([*RELEASED, "keras-tinyalex predict --csv"], []),
        ([*RELEASED, "keras-tinyalex predict --cs"], ["+ keras-tinyalex predict --cs"]),
        # `train` stands in the section of a release, which explains no later change.
        (
            [RELEASED[0], "a.train(seed: int = 1)", RELEASED[2]],
            ["- a.train(seed: int = 0)", "+ a.train(seed: int = 1)"],
        ),
        (RELEASED[:2], ["- keras-tinyalex predict --top"]),
    ],
)
def test_what_the_changelog_must_name(lines, missing):
    assert public_api.unexplained(RELEASED, lines, CHANGELOG) == missing


def test_a_released_section_explains_nothing():
    lines = ["a.export(path, quantize=None)", *RELEASED[1:]]
    changelog = CHANGELOG.replace("(unreleased)", "(2026-02-28)")
    missing = public_api.unexplained(RELEASED, lines, changelog)
    assert missing == ["- a.export(path)", "+ a.export(path, quantize=None)"]


def test_lines_show_signatures_as_they_are_written():
    def function(path: "str | None", *, seed: int = 0) -> "list[int]":
        return [seed]

    assert list(public_api.describe("a.function", function)) == [
        "a.function(path: str | None, *, seed: int = 0) -> list[int]"
    ]
    lines = public_api.current()
    assert "keras_tinyalex.list_weights() -> list[str]" in lines
    assert "keras_tinyalex.exporting.Export.as_dict(self) -> dict[str, Any]" in lines
    assert "keras_tinyalex.evaluation.evaluate is keras_tinyalex.evaluate" in lines
    assert "keras-tinyalex verify DATA required=True" in lines
