"""search(): data + space + tuner -> the folder of a search."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras_tuner

from keras_tinyalex import recipes
from keras_tinyalex.datasets.classes import select_classes
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.tiny_imagenet import Classes, LabelledArrays, read_split
from keras_tinyalex.files import one_writer, write_json
from keras_tinyalex.recipes import Recipe
from keras_tinyalex.training import (
    LOCK,
    digest,
    environment,
    require_same,
    train,
    with_fingerprint,
    write_figures,
)
from keras_tinyalex.tuning import distributed, results, spaces
from keras_tinyalex.tuning.hypermodel import HyperAlexNetMini
from keras_tinyalex.tuning.oracles import MOST_FAILURES, Oracle, make_oracle
from keras_tinyalex.tuning.plots import plot_search
from keras_tinyalex.tuning.results import Search
from keras_tinyalex.tuning.trials import Tuner

# The part of the training images that decides, always the same one.
HELD_OUT = 0.1
DEFAULT_EPOCHS = 12
DEFAULT_DEADLINE = 600.0
CONFIG_FILE = "search.json"


def search(
    data: str | os.PathLike[str] = "sample",
    space: str = "all",
    tuner: str = "hyperband",
    *,
    classes: Classes = 20,
    recipe: str | os.PathLike[str] | Recipe = "baseline",
    epochs: int = DEFAULT_EPOCHS,
    max_trials: int | None = None,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    keep: int = 3,
    progress: bool = True,
    chief: bool = False,
    worker: str | None = None,
    oracle: str | None = None,
    deadline: float = DEFAULT_DEADLINE,
) -> Search:
    """Searches hyperparameters of AlexNetMini into a folder.

    What decides is the accuracy on a tenth of the training images, held out
    by class; the val images are never read. The first trial is the baseline.

    The folder holds `search.json`, `environment.json`, `results.csv`,
    `best.json` (a recipe for `train`), `search.png`, `tensorboard/`, the state of
    KerasTuner and a folder for each trial. Called again with the same
    arguments, a stopped search goes on and loses at most the last epoch of
    the trial that ran; `max_trials` and `keep` may differ.

    Args:
        data: Source of images; see `datasets.tiny_imagenet.load_data`.
        space: `"architecture"`, `"optimizer"`, `"augmentation"` or `"all"`.
        tuner: `"random"`, `"hyperband"` or `"bayesian"` (needs scikit-learn).
        classes: Which classes; see `datasets.tiny_imagenet.load_data`.
        recipe: Name, file or `Recipe` with the value of what the space does
            not have.
        epochs: Epochs of a whole training. Hyperband stops most earlier.
        max_trials: Number of trials. Default 30; for Hyperband, as many as
            one pass of it has: 30 with 12 epochs.
        seed: Seed >= 0. Same seed, same trials; on a CPU, same results too.
        output: Folder of the search. Default
            `runs/tune-<space>-<data>-seed<seed>` in the working directory.
        keep: How many of the best trials keep their checkpoints.
        progress: Whether to report progress on standard error.
        chief: Whether to hand out the trials to workers instead of running
            them. KerasTuner's environment variables have the same effect as
            these three arguments.
        worker: Name of this worker, which runs trials of a chief.
        oracle: `"HOST:PORT"` of the chief. Default `"127.0.0.1:9090"`, which
            only this machine can reach.
        deadline: Seconds without a sign of life after which a chief gives a
            worker's trial to another one and, without any worker, ends.

    Returns:
        A `Search`; for a worker, as far as the search has come.

    Raises:
        ConnectionError: If a worker's chief does not answer.
        OSError: If another process searches in `output`.
        FileNotFoundError: If `data` does not exist.
        RuntimeError: If three trials in a row failed.
        ImportError: If `"bayesian"` lacks scikit-learn.
        TimeoutError: If a chief ends since there is no worker.
        ValueError: If an argument is out of its range, or `output` holds
            another search or other files.

    Examples:
        >>> found = search(
        ...     classes=2, space="augmentation", tuner="random", max_trials=1,
        ...     epochs=1, output="found", progress=False)
        >>> [trial["status"] for trial in found.trials]
        ['completed']
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"`seed` must be an integer >= 0. Received: seed={seed!r}")
    if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
        raise ValueError(f"`keep` must be an integer >= 1. Received: keep={keep!r}")
    if not deadline > 0:
        raise ValueError(
            f"`deadline` must be a positive number. Received: deadline={deadline!r}"
        )
    spaces.get(space)
    role = distributed.find_role(chief, worker, oracle)
    base = recipes.get(recipe).over(epochs)
    made = make_oracle(tuner, seed, max_trials, epochs)
    train_data, held_out = _load(data, classes, progress)
    hypermodel = HyperAlexNetMini(
        num_classes=len(train_data.class_names), space=space, recipe=base
    )
    config = _config(space, tuner, base, seed, data, train_data, held_out)
    folder = Path(output) if output else _default_folder(space, data, seed)

    def make_tuner() -> Tuner:
        return Tuner(made, hypermodel, folder, train_data, held_out, seed, progress)

    # KerasTuner prints; standard output is for results.
    with contextlib.redirect_stdout(sys.stderr):
        if role.worker is not None:
            _work(role, folder, config, make_tuner)
            return results.read_search(folder)
        _check_folder(folder)
        with one_writer(folder / LOCK, "output", folder):
            _open(folder, config)
            running = make_tuner()
            record = _recorder(made, folder, keep, progress)
            made.on_end = record
            record()
            if role.chief:
                distributed.serve(made, role, folder, deadline, progress)
            else:
                running.search()
            record()
    if made.failure is not None:
        raise RuntimeError(
            f"{MOST_FAILURES} trials failed in a row, so the search stopped; the same "
            f"command goes on behind them. The last one: "
            f"{made.failure.strip().splitlines()[-1]}"
        )
    found = results.read_search(folder)
    if found.ranking:
        write_figures(folder, {"search": plot_search(found)})
    return found


def retrain(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    best: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Trains the best recipes of a search on all training images.

    Each gets a run folder, `retrained/<trial>-seed<seed>` in the folder of
    the search, and is measured on the val images (see `train`), which took no
    part in the search. A stopped call goes on when it is repeated.

    Args:
        path: Folder of the search.
        data: Source of images. Default: that of the search.
        best: How many different recipes, the best first.
        seeds: Seeds to train each with.
        epochs: Replaces the search's.
        progress: Whether to report progress on standard error.

    Returns:
        The metrics of each run, as in its `metrics.json`, and its `trial`.

    Raises:
        FileNotFoundError: If there is no search in `path`, or no `data`.
        ValueError: If an argument is out of its range.
    """
    folder = Path(path)
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    found: dict[str, Recipe] = {}
    for row in results.read_search(folder).ranking:
        recipe = results.trial_recipe(folder, row)
        # Hyperband tries the good ones again and again, for longer.
        content = {**recipe.as_dict(), "name": "", "description": ""}
        found.setdefault(json.dumps(content), recipe)
    runs = []
    for recipe in list(found.values())[:best]:
        for seed in seeds:
            trial = recipe.name.rpartition("-")[2]
            run = train(
                recipe,
                config["data"] if data is None else data,
                config["class_names"],
                folder / "retrained" / f"{trial}-seed{seed}",
                seed,
                epochs=epochs,
                progress=progress,
            )
            runs.append({"trial": trial, **run.metrics})
    return runs


def _load(
    data: str | os.PathLike[str], classes: Classes, progress: bool
) -> tuple[LabelledArrays, LabelledArrays]:
    source = open_source(data)
    names = select_classes(source.class_names, classes, source.words)
    images = read_split(source, "train", names, progress=progress, cache=True)
    return images.part(False, HELD_OUT, seed=0), images.part(True, HELD_OUT, seed=0)


def _default_folder(space: str, data: object, seed: int) -> Path:
    return Path("runs", f"tune-{space}-{Path(str(data)).stem}-seed{seed}")


def _config(
    space: str,
    tuner: str,
    base: Recipe,
    seed: int,
    data: object,
    train_data: LabelledArrays,
    held_out: LabelledArrays,
) -> dict[str, Any]:
    """Everything that decides the result, with one digest over all of it."""
    hp = keras_tuner.HyperParameters()
    spaces.declare(hp, space)
    decisive = {
        "space": space,
        "hyperparameters": hp.get_config()["space"],
        "tuner": tuner,
        "recipe": base.as_dict(),
        "seed": seed,
        "class_names": list(train_data.class_names),
        "train_sha256": digest(train_data),
        "held_out_sha256": digest(held_out),
    }
    return with_fingerprint(data, decisive)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output` must be a folder. Received: output={str(folder)!r}")
    ours = (folder / CONFIG_FILE).exists() or (folder / LOCK).exists()
    if folder.exists() and any(folder.iterdir()) and not ours:
        raise ValueError(
            "`output` must be a new or empty folder, or the folder of a search; this "
            f"one holds other files. Received: output={str(folder)!r}"
        )
    folder.mkdir(parents=True, exist_ok=True)


def _open(folder: Path, config: dict[str, Any]) -> None:
    # First what says whose folder it is, also to a search that goes on here.
    if (folder / CONFIG_FILE).exists():
        _check_same_search(folder, config)
    else:
        write_json(folder / CONFIG_FILE, config)
    if not (folder / "environment.json").exists():
        write_json(folder / "environment.json", environment())


def _check_same_search(folder: Path, config: dict[str, Any]) -> None:
    require_same(folder / CONFIG_FILE, config, "search", "choose another `output`")


def _recorder(
    oracle: Oracle, folder: Path, keep: int, progress: bool
) -> Callable[[], None]:
    """Returns what writes the results down and says how the last trial went."""
    said = len(oracle.end_order)

    def record() -> None:
        nonlocal said
        rows = results.table(oracle, folder)
        results.write_table(folder / results.RESULTS_FILE, rows)
        best = results.best_recipe(folder, rows)
        if best is not None:
            write_json(folder / results.BEST_FILE, best.as_dict())
        results.prune(oracle, folder, keep)
        by_id = {row["trial"]: row for row in rows}
        for trial_id in oracle.end_order[said:]:
            if progress:
                print(_line(by_id[trial_id], rows, oracle), file=sys.stderr, flush=True)
        said = len(oracle.end_order)

    return record


def _line(row: dict[str, Any], rows: list[dict[str, Any]], oracle: Oracle) -> str:
    ended = f"trial {row['trial']} {row['status']}"
    if row["status"] == "completed":
        ended += f", {results.OBJECTIVE} {row[results.OBJECTIVE]:.4f} after "
        ended += f"{row['epochs']} epochs, {row['seconds']:.0f} s"
    elif row["status"] == "failed":
        message = (oracle.trials[row["trial"]].message or "").strip().splitlines()
        ended += f": {message[-1]}" if message else ""
    for best in results.ranking(rows)[:1]:
        ended += f"; best {best[results.OBJECTIVE]:.4f} (trial {best['trial']})"
    return f"{ended}; {len(oracle.end_order)} of {oracle.max_trials}"


def _work(
    role: distributed.Role,
    folder: Path,
    config: dict[str, Any],
    make_tuner: Callable[[], Tuner],
) -> None:
    """Runs trials of a chief until it has no more."""
    end = time.monotonic() + distributed.CHIEF_START
    while not (folder / CONFIG_FILE).exists():  # the chief is still starting
        if time.monotonic() > end:
            raise ValueError(
                f"`output` must be the folder of the chief, shared with it; there is "
                f"no {CONFIG_FILE} in it. Received: output={str(folder)!r}"
            )
        time.sleep(0.5)
    _check_same_search(folder, config)
    lock = folder / f".{role.worker}.lock"
    with (
        one_writer(lock, "output", folder, f"worker named {role.worker}"),
        distributed.connected(role, folder),
    ):
        make_tuner().search()
