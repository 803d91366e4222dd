"""Selecting classes by count, wnid, name and file."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from keras_tinyalex.datasets.classes import (
    TINY_IMAGENET_WORDS,
    readable_name,
    select_classes,
)

# Goldfish, bullfrog, station wagon, police van: the last two are both wagons.
GOLDFISH, BULLFROG, STATION_WAGON, POLICE_VAN = WNIDS = (
    "n01443537",
    "n01641577",
    "n02814533",
    "n03977966",
)


def test_table_has_the_200_classes_sorted():
    assert len(TINY_IMAGENET_WORDS) == 200
    assert list(TINY_IMAGENET_WORDS) == sorted(TINY_IMAGENET_WORDS)
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in TINY_IMAGENET_WORDS)
    assert all(words == words.strip() != "" for words in TINY_IMAGENET_WORDS.values())
    assert TINY_IMAGENET_WORDS["n12267677"] == "acorn"
    with pytest.raises(TypeError, match="does not support item assignment"):
        TINY_IMAGENET_WORDS["n12267677"] = "nut"


def test_table_agrees_with_the_archive(real_zip):
    with zipfile.ZipFile(real_zip) as archive:
        text = archive.read("tiny-imagenet-200/words.txt").decode()
    words = dict(line.split("\t") for line in text.splitlines())
    assert len(words) == 20
    assert words == {wnid: TINY_IMAGENET_WORDS[wnid] for wnid in words}
    # They are the first 20 of the 200.
    assert tuple(words) == select_classes(TINY_IMAGENET_WORDS, 20)


def test_readable_name_is_the_first_synonym():
    assert readable_name("n01443537") == "goldfish"
    assert readable_name("n01443537", {"n01443537": "gold one, fish"}) == "gold one"
    assert readable_name("n01443537", {}) == "goldfish"
    assert readable_name("folder") == "folder"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, WNIDS),
        (1, WNIDS[:1]),
        (4, WNIDS),
        (np.int64(2), WNIDS[:2]),
        ("3", WNIDS[:3]),
        (" 3 ", WNIDS[:3]),
        ([BULLFROG, GOLDFISH], (GOLDFISH, BULLFROG)),
        ((POLICE_VAN,), (POLICE_VAN,)),
        ({GOLDFISH}, (GOLDFISH,)),
        (["Carassius AURATUS"], (GOLDFISH,)),
        (["goldfish, Carassius auratus"], (GOLDFISH,)),
        (["estate  car", "paddy wagon"], (STATION_WAGON, POLICE_VAN)),
        ("goldfish", (GOLDFISH,)),
        ("goldfish, Carassius auratus", (GOLDFISH,)),
        (f"bullfrog,{GOLDFISH},", (GOLDFISH, BULLFROG)),
    ],
)
def test_select(spec, expected):
    assert select_classes(reversed(WNIDS), spec) == expected


def test_select_all():
    assert select_classes(["b", "a"], "all") == ("a", "b")
    assert select_classes(["b", "all"], "all") == ("all",)  # a class of this name


def test_select_by_file(tmp_path):
    path = tmp_path / "my classes.txt"
    path.write_text(
        f"\ufeff# two\n\n{BULLFROG}\tbullfrog, Rana\r\n  goldfish # my favorite\n",
        encoding="utf-8",
    )
    assert select_classes(WNIDS, path) == (GOLDFISH, BULLFROG)
    assert select_classes(WNIDS, str(path)) == (GOLDFISH, BULLFROG)


def test_given_words_take_precedence_over_the_table():
    words = {GOLDFISH: "house one"}
    assert select_classes(WNIDS, ["house one"], words) == (GOLDFISH,)
    assert select_classes(WNIDS, ["bullfrog"], words) == (BULLFROG,)
    with pytest.raises(ValueError, match="'goldfish', which is not one of the 4"):
        select_classes(WNIDS, ["goldfish"], words)


def test_class_name_takes_precedence_over_a_readable_name():
    # A folder named "bullfrog" and the wnid with that readable name.
    assert select_classes([*WNIDS, "bullfrog"], "bullfrog") == ("bullfrog",)
    # In a list "7" is a folder's name; as a text it is a count.
    digits = [str(digit) for digit in range(10)]
    assert select_classes(digits, ["7"]) == ("7",)
    assert len(select_classes(digits, "7")) == 7


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (0, "from 1 to 4, the number of classes .*, or None for all. .*classes=0"),
        (-1, "Received: classes=-1"),
        (5, "from 1 to 4"),
        ("5", "from 1 to 4"),
        (True, "must be None, 'all', an integer, a list .* Received: classes=True"),
        (2.0, r"must be None, 'all', an integer, a list .* Received: classes=2\.0"),
        ([], r"at least one class. Received: classes=\[\]"),
        ("", "at least one class. Received: classes=''"),
        ([1], r"must list strings, wnids or names, not 1\. Received"),
        (["goldfsh"], r"Did you mean 'goldfish' \(n01443537\)\?"),
        (["n01443536"], "Did you mean 'n01443537'"),
        (["xyzzy"], r"'xyzzy', which is not .* Pass a wnid .*classes=\['xyzzy'\]"),
        (["wagon"], "matches more than one class: n02814533, n03977966"),
        ("wagon", "matches more than one class: n02814533, n03977966"),
        (["goldfish", GOLDFISH], "'goldfish' and 'n01443537' both select 'n01443537'"),
        ("no such file.txt", "No such file or directory.*'no such file.txt'"),
        (Path("nowhere"), "No such file or directory.*'nowhere'"),
    ],
)
def test_refused(spec, text):
    with pytest.raises(ValueError, match=text):
        select_classes(WNIDS, spec)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match=r"not UTF-8 text. Received: classes="):
        select_classes(WNIDS, path)
    with pytest.raises(ValueError, match="Is a directory"):
        select_classes(WNIDS, str(tmp_path))
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match="at least one class"):
        select_classes(WNIDS, path)


def test_a_long_list_is_shortened_in_the_message():
    with pytest.raises(ValueError, match="unknown 0'") as refusal:
        select_classes(WNIDS, [f"unknown {index}" for index in range(10_000)])
    assert len(str(refusal.value)) < 500


def test_a_list_too_long_for_a_path():
    # 40 wnids of 9 characters and 39 commas: 399, and file names end at 255.
    chosen = sorted(TINY_IMAGENET_WORDS)[:40]
    assert select_classes(TINY_IMAGENET_WORDS, ",".join(chosen)) == tuple(chosen)


def test_the_home_of_an_unknown_user_is_an_unknown_name():
    with pytest.raises(ValueError, match=r"Received: classes='~nobody-here'"):
        select_classes(TINY_IMAGENET_WORDS, "~nobody-here")
