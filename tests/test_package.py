"""The package as a whole: public names, import costs, direction of imports."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_tinyalex

ROOT = Path(keras_tinyalex.__file__).parent

# Which of our modules a module may import; callers stand above what they call.
ALLOWED = {
    "cli": None,  # anything
    "tuning": {"building", "callbacks", "datasets", "files", "progress", "recipes",
               "training"},
    "training": {"applications", "augmentation", "building", "callbacks", "datasets",
                 "evaluation", "files", "progress", "recipes", "visualization"},
    "building": {"applications", "datasets", "optimizers", "recipes"},
    "callbacks": {"datasets", "files", "progress"},
    "export": {"applications"},
    "recipes": {"augmentation"},
    "evaluation": {"datasets"},
    "applications": {"layers", "datasets"},
    "datasets": {"augmentation", "files", "progress"},
    "layers": set(),
    "optimizers": set(),
    "augmentation": set(),
    "visualization": {"augmentation", "evaluation", "gradcam"},
    "gradcam": set(),
    "files": set(),
    "progress": set(),
}  # fmt: skip


def own_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("keras"))


def room_of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def test_imports_go_one_way():
    for path in ROOT.rglob("*.py"):
        room = room_of(path)
        if room == "__init__" or ALLOWED[room] is None:
            continue
        for name in own_imports(path):
            first, *rest = name.split(".")
            assert name[:9] != "keras.src", f"{path} uses private Keras: {name}"
            if first == "keras_tinyalex":
                assert rest[0] in ALLOWED[room] | {room, "__version__"}, (path, name)


def test_public_names():
    assert keras_tinyalex.__all__ == sorted(keras_tinyalex.__all__)
    for name in keras_tinyalex.__all__:
        assert hasattr(keras_tinyalex, name), name


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return json.loads(done.stdout.splitlines()[-1])


LOADED = """
import json, sys
import keras
before = set(sys.modules)
import keras_tinyalex
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(new)))
"""


@pytest.mark.backend
def test_import_loads_nothing_heavy():
    new = set(run_python(LOADED))
    heavy = {"tensorflow", "matplotlib", "keras_tuner", "PIL", "tensorboard", "torch"}
    assert not new & heavy


# Who looks for TensorFlow. Where it is installed, Keras' own `Model.save` imports it
# under every backend, and torch looks whether it is there; nobody else may.
IMPORTERS = """
import json, sys, traceback
importers = []
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "tensorflow":
            stack = [frame.filename for frame in traceback.extract_stack()]
            if not any("/keras/src/saving/" in f or "/torch/" in f for f in stack):
                importers.append(stack)
sys.meta_path.insert(0, Watch())
"""


@pytest.mark.backend
def test_training_does_not_import_tensorflow(official_folder, tmp_path):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("the backend is TensorFlow itself")
    code = f"""
{IMPORTERS}
import keras_tinyalex
data = {str(official_folder)!r}
keras_tinyalex.train(
    data=data, classes=3, epochs=1, output={str(tmp_path / "r")!r}, progress=False)
keras_tinyalex.datasets.tiny_imagenet.load_dataset(data)
print(json.dumps(importers))
"""
    assert run_python(code) == []


def test_command_answers_help_without_keras():
    code = """
import json, sys
sys.argv = ["/usr/bin/keras-tinyalex", "--version"]
try:
    from keras_tinyalex.cli import main
    main()
except SystemExit as stop:
    print(json.dumps([stop.code, "keras" in sys.modules]))
"""
    assert run_python(code) == [0, False]


def test_version_is_the_installed_one():
    from importlib.metadata import version

    assert version("keras-tinyalex") == keras_tinyalex.__version__
