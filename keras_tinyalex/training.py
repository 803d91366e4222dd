"""Trains AlexNetMini by a recipe into a run folder."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from keras_tinyalex import augmentation, recipes
from keras_tinyalex.applications.weights import load_model, save_model
from keras_tinyalex.building import (
    build,
    fastest_dtype,
    finished_model,
    half_size,
    keep_freed_memory,
)
from keras_tinyalex.callbacks import (
    Checkpoint,
    History,
    ProgressReport,
    TensorBoardScalars,
)
from keras_tinyalex.datasets.classes import readable_name, select_classes
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.tiny_imagenet import (
    Batches,
    Classes,
    LabelledArrays,
    read_split,
)
from keras_tinyalex.evaluation import Evaluation, evaluate
from keras_tinyalex.files import one_writer, write_json
from keras_tinyalex.progress import Progress
from keras_tinyalex.recipes import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The part of the training images that is held out where a source has no val.
DEFAULT_VALIDATION_SPLIT = 0.1
# In the run folder, while a process trains there.
LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        path: The run folder.
        model: The trained `keras.Model`.
        class_names: Class names (wnids) in label order.
        history: Values by epoch, as lists under their names.
        metrics: Results, as in `metrics.json`.
    """

    path: Path
    model: Any
    class_names: tuple[str, ...]
    history: dict[str, list[float]]
    metrics: dict[str, Any]


def train(
    recipe: str | Recipe = "baseline",
    data: str | os.PathLike[str] = "sample",
    classes: Classes = 20,
    output: str | os.PathLike[str] | None = None,
    seed: int = 0,
    resume: bool = True,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    validation_split: float | None = None,
    progress: bool = True,
) -> Run:
    """Trains AlexNetMini by a recipe and writes a run folder.

    The folder holds `config.json`, `environment.json`, `history.csv`,
    `metrics.json`, `tensorboard/`, `checkpoints/`, `model.keras`, `model.h5`
    and `plots/`. A checkpoint is written after each epoch; called again with
    the same arguments, a stopped training goes on behind the last one, with
    the same result as if it had not been stopped, and a finished one is
    returned as it is.

    Global seeds are left as they are. On Linux, the process keeps memory that is
    freed until it ends, see `building.keep_freed_memory`.

    Args:
        recipe: Name from `keras_tinyalex.recipes`, or a `Recipe`.
        data: Source of images; see `datasets.tiny_imagenet.load_data`.
        classes: Which classes; see `datasets.tiny_imagenet.load_data`.
            Default 20, the first 20 sorted wnids. `None` takes all.
        output: Run folder. Default
            `runs/<recipe>-<data>-seed<seed>` in the working directory.
        seed: Seed >= 0 of weights, dropout, order and augmentation.
        resume: Whether to go on with a stopped run in `output`; `False`
            starts again and removes what the run folder holds.
        epochs: Replaces the recipe's; see `Recipe.over`.
        batch_size: Replaces the recipe's.
        dtype: Dtype policy that replaces the recipe's, or `"auto"`: the
            faster one of float32 and mixed_bfloat16 on this machine, chosen
            by `fastest_dtype` when the run begins. The finished model is
            float32 in any case.
        validation_split: Fraction of the training images, chosen by class
            and seed 0, to validate on instead of the val images. Default:
            the val images, or 0.1 for a source without any.
        progress: Whether to report progress on standard error.

    Returns:
        A `Run`.

    Raises:
        FileNotFoundError: If `data` does not exist.
        ValueError: If an argument is out of its range, an image cannot be
            decoded, or `output` holds another run or other files.
        OSError: If the disk is full, which leaves the checkpoints as they
            are, or another process is training into `output`.
        FloatingPointError: If the loss or a weight is no longer finite; the
            last finite checkpoint stays.

    Examples:
        >>> import tempfile
        >>> run = train(classes=2, epochs=1, output=tempfile.mkdtemp(), progress=False)
        >>> run.metrics["epochs"], run.metrics["n_train"], run.metrics["n_val"]
        (1, 200, 40)
    """
    started = time.monotonic()
    recipe = _adjusted(recipes.get(recipe), epochs, batch_size, dtype)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"`seed` must be an integer >= 0. Received: seed={seed!r}")
    loaded = _load(data, classes, validation_split, progress)
    folder = Path(output) if output else _default_folder(recipe, data, seed)
    config = _config(recipe, data, seed, validation_split, *loaded[:2])
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output` must be a folder. Received: output={str(folder)!r}")
    folder.mkdir(parents=True, exist_ok=True)
    with one_writer(folder / LOCK, "output", folder):
        finished = _open_run_folder(folder, config, resume)
        return finished or _train(recipe, seed, folder, loaded, progress, started)


def _train(
    recipe: Recipe,
    seed: int,
    folder: Path,
    loaded: tuple[LabelledArrays, LabelledArrays, dict[str, str]],
    progress: bool,
    started: float,
) -> Run:
    """Trains in the prepared run folder, from its newest checkpoint on."""
    train_data, val_data, words = loaded
    recipe = dataclasses.replace(recipe, dtype=_dtype_of_run(recipe, folder, progress))
    model = build(recipe, train_data, seed)
    batches, val_batches = make_batches(recipe, train_data, val_data, seed)
    history = History(folder / "history.csv", batches)
    checkpoint = Checkpoint(folder / "checkpoints", batches, history)
    done = checkpoint.restore(model)
    total = recipe.epochs
    if done and progress:
        print(f"resuming {folder} after epoch {done}/{total}", file=sys.stderr)
    if progress and _onednn_is_off():
        print(
            "TensorFlow computes without oneDNN, which may double its speed; to have "
            "it, set TF_ENABLE_ONEDNN_OPTS=1 before the import",
            file=sys.stderr,
        )
    to_do = len(train_data.labels) * (total - done)
    with Progress("training", to_do, "images", progress, lines=False) as bar:
        fit(
            model,
            recipe,
            batches,
            val_batches,
            epochs=total,
            initial_epoch=done,
            verbose=0,
            callbacks=[
                history,
                checkpoint,
                TensorBoardScalars(folder / "tensorboard", history),
                ProgressReport(bar, total, batches, history),
            ],
        )
    model = finished_model(model, recipe, train_data.images, seed)
    evaluation = evaluate(
        model, (val_data.images, val_data.labels), class_names=val_data.class_names
    )
    save_model(model, folder / "model.keras", train_data.class_names)
    save_model(model, folder / "model.h5", train_data.class_names)
    _write_plots(folder / "plots", train_data, val_data, words, history, evaluation)
    earlier = sum(history.rows["seconds"][:done])
    metrics = {
        **_results(evaluation),
        **_speed(history, len(train_data.labels)),
        "seconds_total": round(time.monotonic() - started + earlier, 3),
        "epochs": total,
        "recipe": recipe.name,
        "seed": seed,
        "classes": len(train_data.class_names),
        "n_train": len(train_data.labels),
        "run": str(folder),
    }
    # Written last: its presence says that the run is complete.
    write_json(folder / "metrics.json", metrics)
    return Run(folder, model, train_data.class_names, history.rows, metrics)


def _dtype_of_run(recipe: Recipe, folder: Path, progress: bool) -> str:
    """The dtype policy to train in: the recipe's, or the one chosen for the run."""
    if recipe.dtype != "auto":
        return recipe.dtype
    file = folder / "environment.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    if "dtype" not in content:
        content["dtype"], content["dtype_reason"] = fastest_dtype()
        write_json(file, content)
    if progress:
        print(f"dtype {content['dtype']}: {content['dtype_reason']}", file=sys.stderr)
    return str(content["dtype"])


def make_batches(
    recipe: Recipe, train_data: LabelledArrays, val_data: LabelledArrays, seed: int
) -> tuple[Batches, Batches]:
    """Returns the batches to train on, as a recipe says, and to validate on."""
    batches = Batches(
        train_data,
        recipe.batch_size,
        seed,
        augmentation=recipe.augmentation,
        one_hot=recipe.soft_labels,
        mixing=augmentation.MIXINGS.get(recipe.mixing or ""),
        mixing_probability=recipe.mixing_probability,
        mixed_epochs=recipe.epochs - recipe.unmixed_epochs,
    )
    return batches, Batches(val_data, 128, shuffle=False, one_hot=recipe.soft_labels)


def fit(
    model: Any,
    recipe: Recipe,
    batches: Batches,
    val_batches: Batches,
    epochs: int,
    initial_epoch: int = 0,
    **options: Any,
) -> Any:
    """Trains a compiled model in the phases of a recipe.

    Args:
        model: A compiled `AlexNetMini`.
        recipe: The `Recipe` that it was built and compiled by.
        batches: The batches to train on.
        val_batches: The batches to validate on.
        epochs: Epoch to stop behind.
        initial_epoch: Epochs that are done.
        **options: Other arguments of `keras.Model.fit`.

    Returns:
        The `keras.callbacks.History` of the last phase.
    """
    keep_freed_memory()
    half = min(recipe.half_size_epochs, epochs)
    phases = [(model, epochs)] if half < epochs else []
    if initial_epoch < half or not phases:  # there is one, even with nothing to do
        phases.insert(0, (half_size(model, recipe), half))
    with backend_seeds_kept():
        for network, end in phases:
            done = network.fit(
                batches.feed(),
                validation_data=val_batches.feed(),
                epochs=end,
                initial_epoch=initial_epoch,
                # `Batches` has its order from the seed; Keras would mix it again.
                shuffle=False,
                **options,
            )
            initial_epoch = end
    return done


def _adjusted(
    recipe: Recipe, epochs: int | None, batch_size: int | None, dtype: str | None
) -> Recipe:
    changes = {"batch_size": batch_size, "dtype": dtype}
    given = {name: value for name, value in changes.items() if value is not None}
    recipe = dataclasses.replace(recipe, **given)  # type: ignore[arg-type]
    return recipe if epochs is None else recipe.over(epochs)


def _load(
    data: str | os.PathLike[str],
    classes: Classes,
    validation_split: float | None,
    progress: bool,
) -> tuple[LabelledArrays, LabelledArrays, dict[str, str]]:
    source = open_source(data)
    names = select_classes(source.class_names, classes, source.words)
    train_data = read_split(source, "train", names, progress=progress, cache=True)
    if validation_split is None and "val" in source.images:
        val_data = read_split(source, "val", names, progress=progress, cache=True)
        return train_data, val_data, source.words
    fraction = validation_split or DEFAULT_VALIDATION_SPLIT
    if not 0 < fraction < 1:
        raise ValueError(
            "`validation_split` must be a fraction between 0 and 1. "
            f"Received: validation_split={validation_split!r}"
        )
    held_out = train_data.part(True, fraction, seed=0)
    return train_data.part(False, fraction, seed=0), held_out, source.words


def _default_folder(recipe: Recipe, data: object, seed: int) -> Path:
    return Path("runs", f"{recipe.name}-{Path(str(data)).stem}-seed{seed}")


def _config(
    recipe: Recipe,
    data: object,
    seed: int,
    validation_split: float | None,
    train_data: LabelledArrays,
    val_data: LabelledArrays,
) -> dict[str, Any]:
    """Everything that decides the result, with one digest over all of it."""
    decisive: dict[str, Any] = {
        "recipe": recipe.as_dict(),
        "seed": seed,
        "validation_split": validation_split,
        "class_names": list(train_data.class_names),
        "train_sha256": digest(train_data),
        "val_sha256": digest(val_data),
    }
    return with_fingerprint(data, decisive)


def with_fingerprint(data: object, decisive: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a config file: `decisive` and a digest over it."""
    text = json.dumps(decisive, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"data": str(data), **decisive, "fingerprint": fingerprint}


def require_same(
    config_file: Path, config: Mapping[str, Any], what: str, otherwise: str
) -> None:
    """Refuses a folder whose config file has another fingerprint.

    Args:
        config_file: The file that was written when the folder was begun.
        config: What `with_fingerprint` returned now.
        what: `"run"` or `"search"`, for the message.
        otherwise: What to do instead, for the message.
    """
    try:
        old = json.loads(config_file.read_text(encoding="utf-8"))
        fingerprint = old["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config_file} is damaged ({error}); {otherwise}.") from None
    if fingerprint != config["fingerprint"]:
        changed = [k for k in config if k != "fingerprint" and old.get(k) != config[k]]
        raise ValueError(
            f"`output` holds another {what} ({fingerprint}) than the one asked for "
            f"({config['fingerprint']}): {', '.join(changed)} differ; {otherwise}. "
            f"Received: output={str(config_file.parent)!r}"
        )


def digest(data: LabelledArrays) -> str:
    """Returns the SHA-256 of images and labels."""
    sha256 = hashlib.sha256(data.images.data)
    sha256.update(data.labels.data)
    return sha256.hexdigest()


def _open_run_folder(folder: Path, config: dict[str, Any], resume: bool) -> Run | None:
    """Prepares the folder; returns the run where it is already complete."""
    config_file = folder / "config.json"
    if present := [path for path in folder.iterdir() if path.name != LOCK]:
        if not config_file.exists():
            raise ValueError(
                "`output` must be a new or empty folder, or the folder of a run; "
                f"this one holds other files. Received: output={str(folder)!r}"
            )
        if resume:
            cure = "choose another `output`, or start again with resume=False"
            require_same(config_file, config, "run", f"{cure} (--no-resume)")
            if (folder / "metrics.json").exists():
                return _read_run(folder)
        else:
            # First what says that the run is complete, last whose folder it is.
            order = {"metrics.json": 0, "config.json": 2}
            for path in sorted(present, key=lambda path: order.get(path.name, 1)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(config_file, config)
    write_json(folder / "environment.json", environment())
    return None


def _read_run(folder: Path) -> Run:
    model, class_names = load_model(folder / "model.keras")
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    history = {name: [float(row[name]) for row in rows] for name in rows[0]}
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return Run(folder, model, class_names or (), history, metrics)


def environment() -> dict[str, Any]:
    """Returns what `environment.json` says about this machine."""
    backend = keras.backend.backend()
    packages = ["keras_tinyalex", "keras", "numpy", backend]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "backend": backend,
        "keeps_freed_memory": keep_freed_memory(),
        "versions": {name: sys.modules[name].__version__ for name in packages},
    }


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor()


def _cpuinfo(key: str) -> str:
    """The value of a key for the first processor, empty where nothing tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = (line.split(":", 1)[1] for line in lines if line.startswith(key))
    return next(values, "").strip()


def _onednn_is_off() -> bool:
    """Whether TensorFlow leaves the kernels of oneDNN off, though nobody said so."""
    if keras.backend.backend() != "tensorflow" or "TF_ENABLE_ONEDNN_OPTS" in os.environ:
        return False
    # It switches them on by itself on processors with one of these.
    own = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile"}
    flags = set(_cpuinfo("flags").split())
    return bool(flags) and not flags & own


def backend_seeds_kept() -> AbstractContextManager[Any]:
    """Gives torch's global generator, which `Checkpoint` seeds, its state back."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    kept: AbstractContextManager[Any] = torch.random.fork_rng()
    return kept


def _results(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "val_accuracy": evaluation.top1,
        "val_top5": evaluation.top5,
        "val_loss": evaluation.loss,
        "interval": list(evaluation.interval),
        "n_val": evaluation.n,
    }


def _speed(history: History, images: int) -> dict[str, float]:
    seconds = history.rows["train_seconds"]
    # The first epoch also traces and compiles.
    steady = seconds[1:] or seconds
    return {
        "train_seconds": round(sum(seconds), 3),
        "images_per_second": round(images * len(steady) / sum(steady), 1),
    }


def _write_plots(
    folder: Path,
    train_data: LabelledArrays,
    val_data: LabelledArrays,
    words: dict[str, str],
    history: History,
    evaluation: Evaluation,
) -> None:
    from keras_tinyalex import visualization

    names = [readable_name(name, words) for name in train_data.class_names]
    samples = visualization.plot_samples(train_data.images, train_data.labels, names)
    curves = visualization.plot_history(history.rows)
    write_figures(folder, {"samples": samples, "history": curves})
    write_figures(folder, plot_evaluation(evaluation, val_data, names))


def plot_evaluation(
    evaluation: Evaluation, data: LabelledArrays, names: Sequence[str]
) -> dict[str, Figure]:
    """Returns the pictures of an evaluation by their file names.

    Args:
        evaluation: Result of `evaluate` on `data`.
        data: The images and labels.
        names: Readable class names in label order.

    Returns:
        `predictions`, the grid of real and predicted classes,
        `confusion_matrix`, `class_accuracy` and `calibration`, as matplotlib
        figures.
    """
    from keras_tinyalex import visualization

    return {
        "predictions": visualization.plot_predictions(
            data.images,
            data.labels,
            evaluation.predictions,
            names,
            confidences=evaluation.confidences,
        ),
        "confusion_matrix": visualization.plot_confusion_matrix(
            evaluation.confusion, names
        ),
        "class_accuracy": visualization.plot_class_accuracy(evaluation, names),
        "calibration": visualization.plot_calibration(evaluation),
    }


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Writes figures as PNG files named by their keys."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
