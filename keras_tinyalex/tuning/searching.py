"""search(): data + space + tuner -> the folder of a search."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras_tuner

from keras_tinyalex import recipes, runs, visualization
from keras_tinyalex.aliases import PathLike
from keras_tinyalex.arguments import check_integer, check_number
from keras_tinyalex.datasets.classes import Classes
from keras_tinyalex.files import single_writer, write_json
from keras_tinyalex.outputs import optional
from keras_tinyalex.recipes import Recipe
from keras_tinyalex.splits import Splits, load_splits
from keras_tinyalex.training import train
from keras_tinyalex.tuning import distributed, results, spaces
from keras_tinyalex.tuning.hypermodel import HyperAlexNetMini
from keras_tinyalex.tuning.oracles import MAX_FAILURES, Oracle, make_oracle
from keras_tinyalex.tuning.plots import plot_search
from keras_tinyalex.tuning.results import Search
from keras_tinyalex.tuning.trials import Tuner

# The held-out part of the training images, on which trials are compared.
HELD_OUT = 0.1
DEFAULT_EPOCHS = 12
DEFAULT_DEADLINE = 600.0


def search(
    data: PathLike = "sample",
    space: str = "all",
    tuner: str = "hyperband",
    *,
    classes: Classes = None,
    recipe: PathLike | Recipe = "baseline",
    epochs: int = DEFAULT_EPOCHS,
    max_trials: int | None = None,
    seed: int = 0,
    output: PathLike | None = None,
    keep: int = 3,
    progress: bool = True,
    chief: bool = False,
    worker: str | None = None,
    oracle: str | None = None,
    deadline: float = DEFAULT_DEADLINE,
) -> Search:
    """Searches hyperparameters of AlexNetMini and writes the folder of a search.

    Trials are compared by their accuracy on a tenth of the training images,
    held out by class; the val images are never read. The first trial is the
    baseline.

    The folder holds `search.json`, `environment.json`, `results.csv`,
    `best.json` (a recipe for `train`), `search.png`, `tensorboard/`, the state of
    KerasTuner and a folder for each trial. Called again with the same
    arguments, a stopped search resumes and repeats at most one epoch;
    `max_trials` and `keep` may differ. The dtype `"auto"` of a recipe is decided
    once for the search, and used by every trial and worker.

    Args:
        data: Source of images; see `datasets.tiny_imagenet.load_data`.
        space: `"architecture"`, `"optimizer"`, `"augmentation"` or `"all"`.
        tuner: `"random"`, `"hyperband"` or `"bayesian"` (needs scikit-learn).
        classes: Which classes, as in `train`. Defaults to `None`: all, but of
            Tiny ImageNet the first 20.
        recipe: Name, file or `Recipe`, for what the space does not contain.
        epochs: Epochs of a full training. Hyperband stops most trials earlier.
        max_trials: Number of trials. Defaults to 30; for Hyperband, to one
            iteration of it, which is 30 with 12 epochs.
        seed: Seed >= 0. The same seed tries the same hyperparameters and, on a
            CPU, gets the same results.
        output: Folder of the search. Default
            `runs/tune-<space>-<data>-seed<seed>` in the working directory.
        keep: How many of the best trials keep their checkpoints.
        progress: Whether to report progress on standard error.
        chief: Whether to hand out trials to workers instead of running them.
            KerasTuner's environment variables have the same effect as `chief`,
            `worker` and `oracle`.
        worker: Name of this worker, which runs trials of a chief.
        oracle: `"HOST:PORT"` of the chief. Default `"127.0.0.1:9090"`, which
            only this machine can reach.
        deadline: Seconds without a heartbeat after which a chief gives a
            worker's trial to another worker and, without any worker, ends.

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
    seed = check_integer("seed", seed, minimum=0)
    keep = check_integer("keep", keep)
    check_number("deadline", deadline, above=0)
    spaces.get(space)
    role = distributed.find_role(chief, worker, oracle)
    base = recipes.get(recipe).over(epochs)
    base.check_teacher(None)
    trial_oracle = make_oracle(tuner, seed, max_trials, epochs)
    splits = load_splits(data, classes, HELD_OUT, progress)
    config = _config(space, tuner, base, seed, data, splits)
    hypermodel = HyperAlexNetMini(
        num_classes=len(splits.train.class_names), space=space, recipe=base
    )
    default = runs.default_folder(f"tune-{space}", data, seed)
    folder = Path(output) if output else default

    def make_tuner() -> Tuner:
        data = splits.train, splits.val
        return Tuner(trial_oracle, hypermodel, folder, *data, seed, progress)

    # KerasTuner prints; standard output is for results.
    with contextlib.redirect_stdout(sys.stderr):
        if role.worker is not None:
            _run_worker(role, folder, config, make_tuner)
            return results.read_search(folder)
        runs.claim(folder, runs.SEARCH)
        with runs.lock(folder):
            runs.begin(folder, runs.SEARCH, config, base.dtype)
            runs.resolve_dtype(base, folder, progress)
            search_tuner = make_tuner()
            record = _recorder(trial_oracle, folder, keep, progress)
            trial_oracle.on_end = record
            record()
            ended = len(trial_oracle.end_order)
            if role.chief:
                distributed.serve(trial_oracle, role, folder, deadline, progress)
            else:
                search_tuner.search()
            record()
    _raise_failure(trial_oracle)
    if progress and ended == len(trial_oracle.end_order):
        print(f"{folder} is finished: its trials were run before", file=sys.stderr)
    found = results.read_search(folder)
    if found.ranking:
        with optional("search.png"):
            visualization.save_figures(folder, {"search": plot_search(found)})
    return found


def _raise_failure(oracle: Oracle) -> None:
    if oracle.failure is not None:
        raise RuntimeError(
            f"{MAX_FAILURES} trials failed in a row, so the search stopped. The same "
            "command resumes after them. The last error: "
            f"{oracle.failure.strip().splitlines()[-1]}"
        )


def retrain(
    path: PathLike,
    data: PathLike | None = None,
    *,
    best: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Trains the best recipes of a search on all training images.

    Each gets a run folder, `retrained/<trial>-seed<seed>` in the folder of
    the search, and is measured on the val images (see `train`), which the
    search does not use. A stopped call resumes when it is repeated.

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
    config_file = folder / runs.SEARCH.config_file
    config = json.loads(config_file.read_text(encoding="utf-8"))
    found: dict[str, Recipe] = {}
    for row in results.read_search(folder).ranking:
        recipe = results.trial_recipe(folder, row)
        # Hyperband trains good recipes several times, each time for longer.
        content = {**recipe.as_dict(), "name": "", "description": ""}
        found.setdefault(json.dumps(content), recipe)
    metrics = []
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
            metrics.append({"trial": trial, **run.metrics})
    return metrics


def _config(
    space: str,
    tuner: str,
    base: Recipe,
    seed: int,
    data: object,
    splits: Splits,
) -> dict[str, Any]:
    hp = keras_tuner.HyperParameters()
    spaces.declare(hp, space)
    decisive = {
        "space": space,
        "hyperparameters": hp.get_config()["space"],
        "tuner": tuner,
        "recipe": base.as_dict(),
        "seed": seed,
        "class_names": list(splits.train.class_names),
        "train_sha256": runs.data_digest(splits.train),
        "held_out_sha256": runs.data_digest(splits.val),
    }
    return runs.with_fingerprint(data, decisive)


def _recorder(
    oracle: Oracle, folder: Path, keep: int, progress: bool
) -> Callable[[], None]:
    """Returns a function that writes the results and reports ended trials."""
    reported = len(oracle.end_order)

    def record() -> None:
        nonlocal reported
        rows = results.table(oracle, folder)
        results.write_table(folder / results.RESULTS_FILE, rows)
        best = results.best_recipe(folder, rows)
        if best is not None:
            write_json(folder / results.BEST_FILE, best.as_dict())
        results.prune(oracle, folder, keep)
        by_id = {row["trial"]: row for row in rows}
        for trial_id in oracle.end_order[reported:]:
            if progress:
                print(_line(by_id[trial_id], rows, oracle), file=sys.stderr, flush=True)
        reported = len(oracle.end_order)

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


def _run_worker(
    role: distributed.Role,
    folder: Path,
    config: dict[str, Any],
    make_tuner: Callable[[], Tuner],
) -> None:
    """Runs trials of a chief until there are no more."""
    end = time.monotonic() + distributed.CHIEF_START_TIMEOUT
    while not (folder / runs.SEARCH.config_file).exists():  # the chief is starting
        if time.monotonic() > end:
            raise ValueError(
                "`output` must be the folder of the chief, shared with it; there is no "
                f"{runs.SEARCH.config_file} in it. Received: output={str(folder)!r}"
            )
        time.sleep(0.5)
    runs.require_same(folder, runs.SEARCH, config)
    lock = folder / f".{role.worker}.lock"
    with (
        single_writer(lock, "output", folder, f"worker named {role.worker}"),
        distributed.connected(role, folder),
    ):
        make_tuner().search()
