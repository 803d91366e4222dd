"""Machines of other people: letters, homes, locales, switches of Python, processes."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import keep_files
import pytest

from keras_tinyalex import recipes

LETTERS = "Übung mit Leerzeichen данные"
# `python -W error:::keras_tinyalex` would mean the module of that name alone.
OWN_WARNINGS_AS_ERRORS = """
import runpy, warnings
warnings.filterwarnings("error", module=r"keras_tinyalex(\\.|$)")
runpy.run_module("keras_tinyalex", run_name="__main__", alter_sys=True)
"""


def run(arguments, folder, program=("-m", "keras_tinyalex"), **environment):
    """Runs a command without a terminal, and returns what it printed."""
    done = subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={k: v for k, v in {**os.environ, **environment}.items() if v is not None},
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def test_letters_and_spaces_in_a_poor_environment(tmp_path, make_official_folder):
    """With no home, an ASCII locale, -O, and our own warnings as errors."""
    folder = tmp_path / LETTERS
    make_official_folder(folder / "tiny-imagenet-200")
    recipe = dataclasses.replace(recipes.BASELINE, name="é", width_multiplier=1 / 16)
    recipe.save(folder / "schmäl.json")
    poor = {
        "HOME": None,
        "KERAS_HOME": "/proc/no/home",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "TERM": None,
    }
    program = ("-O", "-c", OWN_WARNINGS_AS_ERRORS)
    command = ["train", "--data", "tiny-imagenet-200", "--recipe", "schmäl.json"]
    command += ["--epochs", 1, "--output", "läuft", "--json"]
    result = json.loads(run(command, folder, program, **poor))
    assert result["not_written"] == []
    assert (folder / "läuft" / "plots" / "history.png").is_file()


def test_a_missing_package_is_named():
    """As after `pip install --no-deps`."""
    code = (
        "import runpy, sys; sys.modules['numpy'] = None; "
        "runpy.run_module('keras_tinyalex', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "keras-tinyalex needs the package numpy. Install it with what it needs: "
        "pip install keras-tinyalex\n"
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_a_console_cannot_show(tmp_path, encoding):
    """Such as that of Windows: they are escaped, as on standard error."""
    kept = keep_files.KEPT / "0.1.0" / "run"
    shutil.copytree(kept, tmp_path / "runs" / "run")
    for name in ("config.json", "metrics.json"):
        path = tmp_path / "runs" / "run" / name
        path.write_text(path.read_text("utf-8").replace('"kept"', '"данные"'), "utf-8")
    shown = run(["runs"], tmp_path, PYTHONIOENCODING=encoding)
    assert rb"\u0434\u0430\u043d\u043d\u044b\u0435" in shown


PROCESSES = """
import multiprocessing, os, sys
import numpy as np

def network(width):
    import keras_tinyalex
    model = keras_tinyalex.AlexNetMini(num_classes=3, width_multiplier=width)
    return float(model(np.zeros((1, 64, 64, 3), "float32"))[0].numpy().sum())

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert abs(pool.map(network, [1 / 16])[0] - 1) < 1e-5
    assert abs(network(1 / 16) - 1) < 1e-5  # TensorFlow runs from here on
    child = os.fork()
    if child == 0:
        from keras_tinyalex.datasets import tiny_imagenet
        (images, _), _ = tiny_imagenet.load_data(sys.argv[1])
        os._exit(0 if images.shape == (24, 64, 64, 3) else 1)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_spawned_and_forked_processes(tmp_path, official_folder):
    """A spawned one runs the network; one forked after TensorFlow reads images."""
    (tmp_path / "script.py").write_text(PROCESSES)
    subprocess.run(
        [sys.executable, "script.py", official_folder],
        cwd=tmp_path,
        check=True,
        timeout=300,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )
