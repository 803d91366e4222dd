"""Shared fixtures: small data sets, the real images, and short trainings."""

import dataclasses
import os
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Or `torch.compile` forks workers, which keep the locks of HDF5 files open then.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

WNIDS = ("n01443537", "n01629819", "n01641577")
WORDS = ("goldfish, Carassius auratus", "European fire salamander", "bullfrog")
CLASSES = dict(zip(WNIDS, WORDS, strict=True))
COLORS = ((250, 5, 5), (5, 250, 5), (5, 5, 250))


def pytest_addoption(parser):
    parser.addoption("--faults-json", help="file for the figures of -m faults")


@pytest.fixture(autouse=True, scope="session")
def _own_keras_home(tmp_path_factory):
    """Keeps the sample data set out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras_home")))
        yield


@pytest.fixture(scope="session")
def make_official_folder():
    """The function that `official_folder` calls, for fixtures of wider scope."""
    return write_official_folder


@pytest.fixture(scope="session")
def make_official_zip():
    """The function that makes such a folder the archive that people download."""
    return zip_folder


@pytest.fixture
def official_folder(tmp_path):
    """Three classes of one color each, 8 train and 2 val images a class."""
    return write_official_folder(tmp_path / "tiny-imagenet-200")


@pytest.fixture
def official_zip(official_folder):
    """The official folder as the zip file that people download."""
    return zip_folder(official_folder)


@pytest.fixture(scope="session")
def real_zip():
    """20 classes of the real Tiny ImageNet, where somebody has put them."""
    default = Path(__file__).parents[2] / "shared" / "data" / "tiny-imagenet-20.zip"
    path = Path(os.environ.get("TINY_IMAGENET_20", default))
    if not path.exists():
        pytest.skip("no real images: set TINY_IMAGENET_20 to tiny-imagenet-20.zip")
    return path


@pytest.fixture
def quick(official_folder, tmp_path, monkeypatch):
    """The function that trains on the small official folder, into `tmp_path/run`.

    The network has all layers at a sixteenth of their width, to save time. By
    default it trains 3 epochs on 3 classes. No plots are written.
    """
    from keras_tinyalex import recipes, train, training

    monkeypatch.setattr(training, "_write_plots", lambda *arguments: None)

    def start(output="run", recipe="baseline", **arguments):
        recipe = dataclasses.replace(recipes.get(recipe), width_multiplier=1 / 16)
        arguments = {"epochs": 3, "classes": 3, "progress": False, **arguments}
        return train(recipe, official_folder, output=tmp_path / output, **arguments)

    return start


@pytest.fixture(scope="session")
def make_run():
    """The function that writes what the comparison reads of a finished run."""
    return write_run


@pytest.fixture
def weights_of():
    """The function that returns all weights of a run in one array."""

    def weights_of(run):
        return np.concatenate([np.ravel(w) for w in run.model.get_weights()])

    return weights_of


def write_run(folder, seed=0, accuracy=0.5, **changes):
    """A run of `changes`: recipe, data, class_names, curve, environment, seconds."""
    from keras_tinyalex import recipes, runs
    from keras_tinyalex.files import write_json

    recipe = changes.get("recipe", dataclasses.replace(recipes.BASELINE, epochs=2))
    names = changes.get("class_names", ["cat", "dog"])
    digest = changes.get("train_sha256", f"{len(names):064}")
    decisive = {"recipe": recipe.as_dict(), "seed": seed, "class_names": names}
    decisive |= {"validation_split": None, "train_sha256": digest}
    config = runs.with_fingerprint(changes.get("data", "pets.zip"), decisive)
    environment = {"backend": "tensorflow", **changes.get("environment", {})}
    curve = changes.get("curve", [accuracy / 2, accuracy])
    rows = [f"{i + 1},{value},{1 - value}" for i, value in enumerate(curve)]
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    write_json(folder / "environment.json", environment)
    header = "epoch,val_accuracy,val_loss"
    (folder / "history.csv").write_text("\n".join([header, *rows]) + "\n")
    metrics = {"val_accuracy": accuracy, "seconds_total": changes.get("seconds", 60.0)}
    write_json(folder / "metrics.json", metrics)
    return folder


def zip_folder(folder):
    """Zips a folder as the official archive is: its name is part of each path."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def write_official_folder(root, train=8, val=2, classes=CLASSES):
    generator = np.random.default_rng(0)
    annotations = []
    for label, wnid in enumerate(classes):
        color = COLORS[label % len(COLORS)]
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for index in range(train):
            save_image(folder / f"{wnid}_{index}.JPEG", color, generator)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
        (root / "val" / "images").mkdir(parents=True, exist_ok=True)
        for index in range(val):
            # Files of the classes alternate, as in the official archive.
            name = f"val_{index * len(classes) + label}.JPEG"
            save_image(root / "val" / "images" / name, color, generator)
            annotations.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(annotations))
    (root / "wnids.txt").write_text("\n".join(reversed(classes)) + "\n")
    lines = [f"{wnid}\t{text}\n" for wnid, text in classes.items()]
    (root / "words.txt").write_text("".join(lines))
    return root


def save_image(path, color, generator):
    pixels = np.clip(np.array(color) + generator.integers(-5, 6, (64, 64, 3)), 0, 255)
    Image.fromarray(pixels.astype("uint8")).save(path, "JPEG", quality=95)
