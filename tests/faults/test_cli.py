"""500 random command lines: an exit status, one line, never a traceback."""

import dataclasses
import os
import random
import subprocess
import sys

import pytest

from keras_tinyalex import AlexNetMini, recipes, training
from keras_tinyalex.applications import save_model
from keras_tinyalex.cli import main

pytestmark = pytest.mark.faults

LINES = 500


@pytest.fixture
def place(make_official_folder, tmp_path, monkeypatch):
    """A folder of right and wrong inputs; trainings are narrow and short."""
    make_official_folder(tmp_path / "data", train=4, val=1)
    names = ("n01443537", "n01629819", "n01641577")
    save_model(
        AlexNetMini(num_classes=3, width_multiplier=1 / 16),
        tmp_path / "model.keras",
        names,
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.keras").write_bytes(b"")
    (tmp_path / "text.keras").write_text("no model")
    (tmp_path / "text.txt").write_text("goldfish\nbullfrog\n")
    (tmp_path / "noise.zip").write_bytes(b"PK\3\4" + bytes(100))
    (tmp_path / "bytes-\udcff.JPEG").write_bytes(b"\xff\xd8\xff")
    monkeypatch.chdir(tmp_path)
    for name, recipe in list(recipes.RECIPES.items()):
        narrow = dataclasses.replace(recipe, width_multiplier=1 / 16)
        monkeypatch.setitem(recipes.RECIPES, name, narrow)
    monkeypatch.setattr(training, "_write_plots", lambda *arguments: None)
    # Nothing is fetched from the network in a test.
    monkeypatch.setattr(
        "keras_tinyalex.datasets.tiny_imagenet.download",
        lambda: (_ for _ in ()).throw(OSError("Cannot download: no network")),
    )
    return tmp_path


SOURCES = (
    "data",
    "data/train",
    "data/val",
    "empty",
    "nowhere",
    "noise.zip",
    "text.txt",
    "",
    "/dev/null",
    "~nobody-here/x",
    "a" * 300,
    "data/../data",
    "model.keras",
    "\udcff",
    "data\n",
)
MODELS = (
    "model.keras",
    "zero.keras",
    "text.keras",
    "empty",
    "nowhere.keras",
    "",
    "data",
    "alexnet",
    "noise.zip",
    "../model.keras",
    "model.h5",
    "text.txt",
)
IMAGES = (
    "data/val/images/val_0.JPEG",
    "bytes-\udcff.JPEG",
    "text.txt",
    "empty",
    "nowhere.JPEG",
    "",
    "/dev/null",
    "model.keras",
)
CLASSES = (
    "1",
    "3",
    "0",
    "-1",
    "4",
    "99999999999999999999",
    "goldfish",
    "goldfsh",
    "",
    ",",
    "n01443537,n01641577",
    "goldfish,goldfish",
    "text.txt",
    "nowhere.txt",
    "2.5",
    "~nobody-here",
    "/",
    "\u0663",
    "n" * 400,
    "goldfish,",
    "None",
)
NUMBERS = ("1", "0", "-1", "x", "", "1e3", "1.0", "\u0661", "9" * 5000, " 1", "None")
OUTPUTS = (
    "out",
    "out2",
    "empty",
    "data",
    "text.txt",
    "",
    ".",
    "/",
    "a/b/c",
    "data/train/x",
    "/dev/null/x",
    "/proc/x",
    "b" * 300,
    "new\n",
)
OPTIONS = {
    "prepare": {
        "--source": (*SOURCES, "download"),
        "--output": OUTPUTS,
        "--classes": CLASSES,
        "--mode": ("copy", "hardlink", "symlink", "fly", ""),
        "--dry-run": None,
        "--overwrite": None,
    },
    "verify": {},
    "train": {
        "--data": SOURCES,
        "--recipe": ("baseline", "best", "", "x", "base"),
        "--classes": CLASSES,
        "--batch-size": NUMBERS,
        "--seed": NUMBERS,
        "--dtype": ("float32", "float16", "int8", "", "x"),
        "--output": OUTPUTS,
        "--resume": None,
        "--no-resume": None,
    },
    "evaluate": {
        "--data": SOURCES,
        "--classes": CLASSES,
        "--tta": None,
        "--plots": OUTPUTS,
    },
    "predict": {"--top": NUMBERS},
    "weights": {},
    "": {},
    "fly": {},
    "--version": {},
    "--help": {},
}
POSITIONAL = {
    "verify": (SOURCES,),
    "evaluate": (MODELS,),
    "predict": (MODELS, IMAGES),
    "weights": (("list", "show", "path", "steal"), ("alexnet", "", "../x")),
}
EXTRA = ("--json", "--debug-not", "-x", "--", "--outpu", "extra", "--json=yes")


def command_line(chosen):
    command = chosen.choice(list(OPTIONS))
    words = [command]
    for values in POSITIONAL.get(command, ()):
        if chosen.random() < 0.95:
            words.append(chosen.choice(values))
    for option, values in OPTIONS[command].items():
        if chosen.random() < (0.7 if option in ("--output", "--data") else 0.3):
            words += [option] if values is None else [option, chosen.choice(values)]
    if command == "train":
        words += ["--epochs", chosen.choice(("1", "1", *NUMBERS))]
    if chosen.random() < 0.15:
        words.insert(chosen.randrange(len(words) + 1), chosen.choice(EXTRA))
    if chosen.random() < 0.1 and len(words) > 1:
        words.pop(chosen.randrange(len(words)))
    return words


def run(words, capfd):
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    return status, *capfd.readouterr()


def test_500_command_lines(place, capfd, figure):
    chosen = random.Random(0)
    statuses = {0: 0, 1: 0, 2: 0}
    for _ in range(LINES):
        words = command_line(chosen)
        status, out, error = run(words, capfd)
        assert status in statuses, (words, status)
        assert "Traceback" not in out + error, (words, error)
        statuses[status] += 1
        told = [line for line in error.splitlines() if ": error: " in line]
        if status == 2:
            assert len(told) == 1, (words, error)
        if status == 1 and words[0] != "verify":
            assert len(told) == 1, (words, error)
            # A line for people, not the name of an exception.
            kind = told[0].removeprefix("keras-tinyalex: error: ").split(":")[0]
            assert not kind.endswith(("Error", "Exception")), (words, told)
    assert min(statuses.values()) > 20  # all three kinds were met
    figure(
        "CLI",
        f"{LINES} random command lines",
        f"0 tracebacks; exit 0: {statuses[0]}, 1: {statuses[1]}, 2: {statuses[2]}",
    )


def test_a_reader_that_leaves(place, figure):
    """As `keras-tinyalex weights list --json | true`."""
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from keras_tinyalex.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "weights", "list", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    figure("CLI", "standard output closed", "exit 1, no traceback")
