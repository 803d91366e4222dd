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

# Rooms that any other may import. They import none of ours but each other.
TOOLS = {"aliases", "arguments", "files", "lazy_imports", "progress", "tables"}
# Which other rooms a room may import; callers stand above what they call.
ALLOWED = {
    "__main__": {"cli"},
    "cli": {"applications", "comparing", "datasets", "evaluation", "exporting",
            "labelled_data", "machine", "metrics", "outputs", "processes", "recipes",
            "robustness", "training", "tuning", "visualization"},
    "tuning": {"building", "datasets", "devices", "fitting", "outputs", "recipes",
               "runs", "splits", "training", "visualization"},
    "training": {"applications", "building", "callbacks", "datasets", "devices",
                 "distillation", "evaluation", "fitting", "machine", "outputs",
                 "processes", "recipes", "runs", "splits", "visualization"},
    "distillation": {"applications", "datasets", "labelled_data"},
    "splits": {"datasets"},
    "outputs": {"applications", "checkpoints", "datasets", "visualization"},
    "fitting": {"augmentation", "building", "callbacks", "checkpoints", "comparing",
                "datasets", "devices", "machine", "recipes"},
    "devices": {"building", "checkpoints", "processes", "recipes"},
    "processes": set(),
    "runs": {"applications", "comparing", "datasets", "machine", "recipes"},
    "building": {"applications", "datasets", "kernels", "machine", "optimizers",
                 "recipes"},
    "exporting": {"applications", "datasets", "kernels", "labelled_data", "layers",
                  "web"},
    "web": {"applications", "datasets", "labelled_data", "layers"},
    "visualization": {"augmentation", "comparing", "datasets", "evaluation", "gradcam",
                      "labelled_data", "metrics", "robustness"},
    "checkpoints": {"callbacks", "datasets"},
    "callbacks": {"datasets"},
    "robustness": {"datasets", "evaluation", "labelled_data", "metrics"},
    "evaluation": {"applications", "datasets", "labelled_data", "metrics"},
    "labelled_data": {"datasets"},
    "applications": {"datasets", "labelled_data", "layers"},
    "datasets": {"augmentation"},
    "layers": {"kernels"},
    "recipes": {"augmentation"},
    "augmentation": set(),
    "comparing": {"metrics"},
    "gradcam": set(),
    "kernels": set(),
    "machine": set(),
    "metrics": set(),
    "optimizers": set(),
    "registration": set(),
    **{name: set() for name in TOOLS},
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
        if room == "__init__":
            continue
        for name in own_imports(path):
            first, *rest = name.split(".")
            assert name[:9] != "keras.src", f"{path} uses private Keras: {name}"
            if first == "keras_tinyalex":
                own = {room, "__version__"}
                assert rest[0] in ALLOWED[room] | TOOLS | own, (path, name)


def test_no_room_leads_back_to_itself():
    above = {room: set(below) for room, below in ALLOWED.items()}
    while above:
        ground = {room for room, below in above.items() if not below & above.keys()}
        assert ground, f"a circle: {above}"
        above = {room: below for room, below in above.items() if room not in ground}


def test_public_names():
    assert keras_tinyalex.__all__ == sorted(keras_tinyalex.__all__)
    for name in keras_tinyalex.__all__:
        assert hasattr(keras_tinyalex, name), name


def test_other_names():
    assert keras_tinyalex.gradcam.gradcam  # a module that nobody imported
    assert {"train", "tuning"} <= set(dir(keras_tinyalex))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = keras_tinyalex.no_such_name


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
for name in set(keras_tinyalex.__all__) - {"tuning"}:
    getattr(keras_tinyalex, name)
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(new)))
"""


@pytest.mark.backend
def test_import_loads_nothing_heavy():
    """Not even with all names, but for KerasTuner with that of the search."""
    new = set(run_python(LOADED))
    heavy = {"tensorflow", "matplotlib", "keras_tuner", "PIL", "tensorboard", "torch"}
    assert not new & heavy


def test_import_alone_loads_no_keras():
    code = """
import json, sys
import keras_tinyalex
print(json.dumps(sorted({"keras", "numpy", "tensorflow"} & set(sys.modules))))
"""
    assert run_python(code) == []


LOADS = """
import json
{imports}
path = keras_tinyalex.weights_path("tiny_imagenet_20_baseline")
print(json.dumps(keras.models.load_model(path).count_params()))
"""


@pytest.mark.backend
@pytest.mark.parametrize(
    "imports",
    [
        "import keras, keras_tinyalex",
        "import keras_tinyalex, keras",
        "import importlib.util, keras_tinyalex\n"
        "assert importlib.util.find_spec('keras')\n"  # looks, and does not import
        "import keras",
    ],
)
def test_models_load_after_the_import_in_either_order(imports):
    assert run_python(LOADS.format(imports=imports)) == 5_045_012


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["train", "--help"],
        ["train", "--epochs", "x"],
        ["verify"],
        ["evaluate", "model.keras"],
        ["weights", "shw"],
        ["tune", "--help"],
        ["export", "--format", "x"],
    ],
)
def test_command_answers_at_once(arguments):
    code = f"""
import json, sys
from keras_tinyalex.cli import main
try:
    main({arguments})
except SystemExit as stop:
    print(json.dumps([stop.code, *({{"keras", "numpy"}} & set(sys.modules))]))
"""
    answered = "--version" in arguments or "--help" in arguments
    assert run_python(code) == [0 if answered else 2]


def test_data_commands_load_no_keras(official_folder, tmp_path):
    code = f"""
import json, sys
from keras_tinyalex.cli import main
source, output = {str(official_folder)!r}, {str(tmp_path / "sorted")!r}
status = [main(["verify", source])]
status += [main(["prepare", "--source", source, "--output", output])]
print(json.dumps([*status, "keras" in sys.modules]))
"""
    assert run_python(code) == [0, 0, False]


def test_weights_are_listed_without_keras(tmp_path):
    code = f"""
import json, sys
from keras_tinyalex.cli import main
card = {str(tmp_path / "card.md")!r}
status = [main(["weights", *arguments.split()]) for arguments in (
    "list --json", "show tiny_imagenet_20 --json", "path tiny_imagenet_20",
    "card tiny_imagenet_20 --output " + card)]
print(json.dumps([*status, "keras" in sys.modules, "numpy" in sys.modules]))
"""
    assert run_python(code)[:5] == [0, 0, 0, 0, False]


def test_comparing_runs_loads_no_keras(tmp_path, make_run):
    make_run(tmp_path / "run")
    code = f"""
import json, sys
from keras_tinyalex.cli import main
import keras_tinyalex
folder = {str(tmp_path)!r}
status = [main(["runs", folder, "--plot", folder + "/curves.png"])]
status += [len(keras_tinyalex.runs.compare(folder))]
status += [name in sys.modules for name in ("keras", "tensorflow", "jax", "torch")]
print(json.dumps(status))
"""
    assert run_python(code) == [0, 1, False, False, False, False]


def test_version_is_the_installed_one():
    from importlib.metadata import version

    assert version("keras-tinyalex") == keras_tinyalex.__version__
