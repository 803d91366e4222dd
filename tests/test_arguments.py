"""Checks of arguments that no other test reaches."""

import pytest

from keras_tinyalex.arguments import is_file_name
from keras_tinyalex.recipes import Recipe


@pytest.mark.parametrize(
    "name",
    ["best", "größe 2", "a.b", ".hidden", "console", "com0", "com10", "nul2", "con-1"],
)
def test_file_names_of_every_system(name):
    assert is_file_name(name)
    assert Recipe(name).name == name


FORBIDDEN = ("a/b", "a\\b", "c:", "a?", "x<y", 'say "a"', "a|b", "a*", "tab\t", "a\0")
DEVICES = ("con", "NUL", "Aux.txt", "lpt9", "COM¹", "prn .x")


@pytest.mark.parametrize("name", [*FORBIDDEN, *DEVICES, "", "end.", "end ", ".."])
def test_names_that_windows_refuses(name):
    assert not is_file_name(name)
    with pytest.raises(ValueError, match="`name` must be a file name on every system"):
        Recipe(name)
