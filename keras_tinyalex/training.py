"""train(): model + data + recipe -> a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_tinyalex import __version__, machine, processes, recipes, runs
from keras_tinyalex import devices as training_devices
from keras_tinyalex.aliases import PathLike
from keras_tinyalex.applications.alexnet_mini import MIN_IMAGE_SIZE
from keras_tinyalex.applications.model_files import save_model
from keras_tinyalex.applications.shipped import find_weights
from keras_tinyalex.arguments import check_choice, check_integer
from keras_tinyalex.building import fold_batch_norm
from keras_tinyalex.callbacks import History
from keras_tinyalex.datasets.classes import Classes
from keras_tinyalex.datasets.images import IMAGE_SIZE
from keras_tinyalex.evaluation import TOP_K, Evaluation, evaluate
from keras_tinyalex.files import sha256_of, write_json
from keras_tinyalex.fitting import ResumableFit, check_callbacks
from keras_tinyalex.outputs import optional, try_outputs
from keras_tinyalex.recipes import Recipe
from keras_tinyalex.runs import Run
from keras_tinyalex.splits import Splits, load_splits

if TYPE_CHECKING:
    import keras


@training_devices.without_distribution()
def train(
    recipe: PathLike | Recipe | None = None,
    data: PathLike = "sample",
    classes: Classes = None,
    output: PathLike | None = None,
    seed: int = 0,
    resume: bool = True,
    *,
    weights: PathLike | None = None,
    teacher: PathLike | Sequence[PathLike] | None = None,
    image_size: int | tuple[int, int] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    augmentation: str | None = None,
    validation_split: float | None = None,
    keep: str = "last",
    devices: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    progress: bool = True,
) -> Run:
    """Trains AlexNetMini with a recipe and writes a run folder.

    The folder holds `config.json`, `environment.json`, `history.csv`,
    `metrics.json`, `per_class.csv`, `tensorboard/`, `checkpoints/`,
    `model.keras`, `model.h5` and `plots/`. A checkpoint is written after each
    epoch. Called again with the same arguments, a stopped training resumes
    from the last checkpoint, with the same result as an uninterrupted one, and
    a finished run is returned as it is, with `already_finished`.

    What can fail at the end is tried before the first epoch: disk space, class
    names in files, figures. Where `model.h5`, `per_class.csv` or the plots
    cannot be written, a line on standard error and `not_written` in
    `metrics.json` say why.

    Global seeds are not changed. On Linux, the process keeps freed memory until
    it ends, see `machine.keep_freed_memory`.

    Args:
        recipe: Name from `keras_tinyalex.recipes`, or a `Recipe`. Defaults to
            `None`: `"baseline"`, or `"fine_tune"` with `weights`.
        data: Source of images; see `datasets.tiny_imagenet.load_data`.
        classes: Which classes; see `datasets.tiny_imagenet.load_data`.
            `"all"` takes all. Defaults to `None`: all, but of Tiny ImageNet,
            whose class names are wnids such as `n01443537`, the first 20.
        output: Run folder. Default
            `runs/<recipe>-<data>-seed<seed>` in the working directory.
        seed: Seed >= 0 of weights, dropout, order and augmentation.
        resume: Whether to resume a stopped run in `output`. `False` removes
            what the run folder holds and starts again. Defaults to `True`.
        weights: Where training starts: a name or file as in `AlexNetMini`.
            Where the classes differ, the classifier is new and starts as a
            ridge regression on the features of the body. Defaults to `None`:
            random weights.
        teacher: A trained model, or several: names or files with class names,
            for a recipe with a `teacher_weight`, such as `"distilled"`. The label
            of an image is then `1 - teacher_weight` times its class, plus
            `teacher_weight` times the mean of the probabilities that these models
            give it, without augmentation (Hinton et al., 2015,
            https://arxiv.org/abs/1503.02531). Defaults to `None`: no teacher.
        image_size: Size to which images are resized, an integer or
            `(height, width)` in pixels, at least 8. Defaults to `None`: 64x64.
        epochs: Replaces the recipe's; see `Recipe.over`.
        batch_size: Replaces the recipe's.
        dtype: Dtype policy that replaces the recipe's, or `"auto"`: the
            faster of float32 and mixed_bfloat16 on this machine, chosen once
            by `machine.fastest_dtype` when the run begins. The finished model
            is always float32.
        augmentation: Name of an augmentation that replaces the recipe's, such
            as `"crop_cutout"` for classes that a mirror would change, or
            `"none"`.
        validation_split: Fraction of the training images, by class and with
            seed 0, to hold out and validate on instead of the val images.
            Defaults to `None`: the val images, or 0.1 for a source without
            any.
        keep: Which epoch's weights become the model: `"last"` (default), or
            `"best"`, that of the highest validation accuracy at full image
            size. The best of many is an optimistic figure: report one from
            images that did not choose it.
        devices: Number of devices to train on, of the JAX backend. Batch size
            and learning rate stay those of the recipe: each batch is divided.
            Defaults to `None`: all devices that JAX finds, and one on other
            backends.
        callbacks: `keras.callbacks.Callback` objects, called as by
            `keras.Model.fit`. What they change (weights, learning rate) and
            log is resumed; their own state is not, so that in a resumed
            training `EarlyStopping` counts anew and stops later. They are not
            part of what tells runs apart: a finished run is returned without
            calling them. In epochs at half size their model is
            `building.half_resolution_model`, with the same weights.
        progress: Whether to report progress on standard error.

    Returns:
        A `Run`.

    Raises:
        FileNotFoundError: If `data` does not exist.
        ValueError: If an argument is out of its range, an image cannot be
            decoded, or `output` holds another run or other files.
        OSError: If the disk is full, which leaves the checkpoints as they
            are, `output` cannot be written, or another process is training
            into it.
        FloatingPointError: If the loss or a weight is no longer finite. The last
            finite checkpoint stays.

    Examples:
        >>> import tempfile
        >>> run = train(classes=2, epochs=1, output=tempfile.mkdtemp(), progress=False)
        >>> run.metrics["epochs"], run.metrics["n_train"], run.metrics["n_val"]
        (1, 200, 40)
    """
    started = time.monotonic()
    if recipe is None:
        recipe = "baseline" if weights is None else "fine_tune"
    changes = {"batch_size": batch_size, "dtype": dtype, "augmentation": augmentation}
    recipe = _adjusted(recipes.get(recipe), epochs, changes)
    seed = check_integer("seed", seed, minimum=0)
    check_callbacks(callbacks)
    check_choice("keep", keep, ("last", "best"))
    size = _image_size(image_size)
    devices = training_devices.count(devices)
    path = None if weights is None else find_weights(weights)
    teachers = _teachers(teacher, recipe)
    progress = progress and processes.is_first()
    splits = load_splits(data, classes, validation_split, progress, size)
    recipe = recipe.for_images(len(splits.train.labels))
    folder = Path(output) if output else runs.default_folder(recipe.name, data, seed)
    decisive = {
        "recipe": recipe.as_dict(),
        "seed": seed,
        "validation_split": validation_split,
        "class_names": list(splits.train.class_names),
        "train_sha256": runs.data_digest(splits.train),
        "val_sha256": runs.data_digest(splits.val),
    }
    if keep != "last":
        decisive["keep"] = keep
    if path is not None:
        decisive["weights_sha256"] = sha256_of(path)
    if teachers:
        decisive["teacher_sha256"] = [sha256_of(file) for file in teachers]
    config = runs.with_fingerprint(data, decisive)
    with processes.lost_is_one_line():
        processes.agree(_to_agree_on(decisive, devices, resume))
        begun = _begun(folder, config, recipe, resume)
        with processes.one_folder(begun) as place:
            if (place / runs.METRICS_FILE).exists():
                run = runs.read(place)
                if progress:
                    _report_finished(run)
            else:
                if teachers:
                    splits = _taught(splits, teachers, recipe, progress)
                fit = functools.partial(
                    ResumableFit,
                    weights=path,
                    keep=keep,
                    distribution=training_devices.distribution(devices),
                )
                run = _train(
                    recipe, seed, place, splits, callbacks, progress, started, fit
                )
    return dataclasses.replace(
        run, path=folder, metrics={**run.metrics, "run": str(folder)}
    )


def _to_agree_on(
    decisive: dict[str, Any], devices: int, resume: bool
) -> dict[str, Any]:
    """What must be the same in all processes, by its name in the message."""
    return {
        "version": (__version__, machine.environment()["versions"]),
        "recipe": decisive["recipe"],
        "dtype": decisive["recipe"]["dtype"],
        "seed": decisive["seed"],
        "classes": decisive["class_names"],
        "data": (decisive["train_sha256"], decisive["val_sha256"]),
        "weights": decisive.get("weights_sha256"),
        "teacher": decisive.get("teacher_sha256"),
        "options": (decisive.get("keep"), devices, resume),
    }


def _teachers(
    teacher: PathLike | Sequence[PathLike] | None, recipe: Recipe
) -> list[Path]:
    """The files of the teacher, where the recipe needs one."""
    recipe.check_teacher(teacher)
    if teacher is None:
        return []
    if isinstance(teacher, str | os.PathLike):
        teacher = [teacher]
    found = [find_weights(path) for path in teacher]
    if not found:
        raise ValueError("`teacher` must be one model or more. Received: teacher=[]")
    return found


def _taught(
    splits: Splits, teachers: Sequence[Path], recipe: Recipe, progress: bool
) -> Splits:
    from keras_tinyalex.distillation import with_teacher

    with machine.channels_last():
        train_data = with_teacher(
            splits.train, teachers, recipe.teacher_weight, progress
        )
    return splits._replace(train=train_data)


@contextlib.contextmanager
def _begun(
    folder: Path, config: dict[str, Any], recipe: Recipe, resume: bool
) -> Iterator[Path]:
    """Begins the run folder, or checks that it is that of this run; locks it."""
    runs.claim(folder, runs.RUN)
    with runs.lock(folder):
        if not resume:
            runs.clear(folder)
        runs.begin(folder, runs.RUN, config, recipe.dtype)
        yield folder


def _train(
    recipe: Recipe,
    seed: int,
    folder: Path,
    splits: Splits,
    callbacks: Sequence[keras.callbacks.Callback],
    progress: bool,
    started: float,
    make_fit: Callable[..., ResumableFit],
) -> Run:
    """Trains in a begun run folder, from its newest checkpoint."""
    recipe = runs.resolve_dtype(recipe, folder, progress)
    fit = make_fit(recipe, splits.train, splits.val, seed, folder)
    done, history = fit.initial_epoch, fit.history
    if progress:
        _report_start(folder, done, recipe.epochs)
    class_names = splits.train.class_names
    try_outputs(folder, fit.model, class_names, splits.words)
    fit.run(recipe.epochs, folder / "tensorboard", progress, callbacks=callbacks)
    with machine.channels_last():
        model = fold_batch_norm(fit.model, recipe, splits.train.images, seed)
    not_written = _write_model(model, folder, class_names)
    evaluation = evaluate(
        model, (splits.val.images, splits.val.labels), class_names=class_names
    )
    with optional("per_class.csv", not_written):
        evaluation.save_per_class(folder / "per_class.csv", splits.words)
    with optional("plots", not_written):
        _write_plots(folder, splits, fit, evaluation)
    earlier = sum(history.rows["seconds"][:done])
    metrics = {
        **_results(evaluation),
        **_speed(history, len(splits.train.labels)),
        "seconds_total": round(time.monotonic() - started + earlier, 3),
        "epochs": len(history.rows["epoch"]),
        "kept_epoch": fit.kept_epoch or len(history.rows["epoch"]),
        "recipe": recipe.name,
        "seed": seed,
        "devices": fit.devices,
        "classes": len(class_names),
        "n_train": len(splits.train.labels),
        "left_out": splits.left_out,
        "run": str(folder),
        "not_written": not_written,
    }
    # Written last: its presence says that the run is complete.
    write_json(folder / runs.METRICS_FILE, metrics)
    return Run(folder, model, class_names, history.rows, metrics)


def _write_model(
    model: keras.Model, folder: Path, class_names: Sequence[str]
) -> list[str]:
    """Writes the model; returns which of its files could not be written."""
    save_model(model, folder / "model.keras", class_names)
    not_written: list[str] = []
    with optional("model.h5", not_written):
        save_model(model, folder / "model.h5", class_names)
    return not_written


def _report_start(folder: Path, done: int, epochs: int) -> None:
    if done:
        print(f"resuming {folder} after epoch {done}/{epochs}", file=sys.stderr)
    if machine.onednn_is_off():
        print(
            "TensorFlow computes without oneDNN, which may double its speed; set "
            "TF_ENABLE_ONEDNN_OPTS=1 before the import to use it",
            file=sys.stderr,
        )


def _report_finished(run: Run) -> None:
    written = (run.path / runs.METRICS_FILE).stat().st_mtime
    date = datetime.fromtimestamp(written).strftime("%Y-%m-%d %H:%M")
    print(
        f"{run.path} is finished; this is its result of {date}. resume=False "
        "(--no-resume) trains it again",
        file=sys.stderr,
    )


def _adjusted(recipe: Recipe, epochs: int | None, changes: dict[str, Any]) -> Recipe:
    given = {name: value for name, value in changes.items() if value is not None}
    if given.get("augmentation") == "none":
        given["augmentation"] = None
    recipe = dataclasses.replace(recipe, **given)
    return recipe if epochs is None else recipe.over(epochs)


def _image_size(image_size: int | tuple[int, int] | None) -> tuple[int, int]:
    if image_size is None:
        return IMAGE_SIZE
    pair = image_size if isinstance(image_size, tuple | list) else (image_size,) * 2
    sizes = [check_integer("image_size", size) for size in pair]
    if len(sizes) != 2 or min(sizes) < MIN_IMAGE_SIZE:
        raise ValueError(
            f"`image_size` must be an integer of at least {MIN_IMAGE_SIZE}, or two as "
            f"(height, width). Received: image_size={image_size!r}"
        )
    return sizes[0], sizes[1]


def _results(evaluation: Evaluation) -> dict[str, Any]:
    few = len(evaluation.class_names) <= TOP_K  # 1.0 whatever the model
    return {
        "val_accuracy": evaluation.top1,
        "val_top5": None if few else evaluation.top5,
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
    folder: Path, splits: Splits, fit: ResumableFit, evaluation: Evaluation
) -> None:
    from keras_tinyalex import visualization

    figures = visualization.plot_run(
        *splits[:3], fit.history.rows, evaluation, fit.kept_epoch
    )
    visualization.save_figures(folder / "plots", figures)
