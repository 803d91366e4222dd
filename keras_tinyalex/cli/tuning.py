"""The command `tune`."""

from __future__ import annotations

import argparse

from keras_tinyalex.cli.parsing import (
    CLASSES,
    DEFAULT_CLASSES,
    RECIPE,
    SOURCE,
    Commands,
    Result,
    add_command,
    classes_spec,
    non_negative,
    positive,
    report,
)


def add_tune(commands: Commands) -> None:
    parser = add_command(commands, "tune", _tune, "search for a better recipe")
    add = parser.add_argument
    add("--data", required=True, help=SOURCE)
    add(
        "--space",
        choices=("architecture", "optimizer", "augmentation", "all"),
        default="all",
        help="what to vary (default: all)",
    )
    tuners = ("random", "hyperband", "bayesian")
    add("--tuner", choices=tuners, default="hyperband", help="default: hyperband")
    add("--max-trials", type=positive, help="default: 30, or one Hyperband iteration")
    add(
        "--epochs",
        type=positive,
        default=12,
        help="epochs of a full training (default: 12)",
    )
    fixed = "for what the space does not contain (default: baseline)"
    add("--recipe", default="baseline", help=f"{RECIPE}, {fixed}")
    add("--classes", type=classes_spec, help=f"{CLASSES} (default: {DEFAULT_CLASSES})")
    add("--seed", type=non_negative, default=0, help="default: 0")
    add("--output", help="folder (default: runs/tune-SPACE-DATA-seedN)")
    add(
        "--keep",
        type=positive,
        default=3,
        help="number of best trials that keep their checkpoints (default: 3)",
    )
    _add_retrain_options(parser)
    _add_distributed_options(parser)


def _add_retrain_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--retrain",
        type=positive,
        metavar="K",
        help="train the best K recipes on all training images afterwards",
    )
    add(
        "--retrain-seeds",
        type=non_negative,
        nargs="+",
        default=[0, 1, 2],
        metavar="N",
        help="default: 0 1 2",
    )
    add("--retrain-epochs", type=positive, metavar="N", help="default: --epochs")


def _add_distributed_options(parser: argparse.ArgumentParser) -> None:
    role = parser.add_mutually_exclusive_group()
    role.add_argument("--chief", action="store_true", help="hand out trials to workers")
    role.add_argument("--worker", metavar="ID", help="run trials of a chief")
    add = parser.add_argument
    add(
        "--oracle",
        metavar="HOST:PORT",
        help="address of the chief (default: 127.0.0.1:9090)",
    )
    add(
        "--deadline",
        type=positive,
        default=600,
        metavar="SECONDS",
        help="silence after which a chief takes a worker for dead (default: 600)",
    )


def _tune(options: argparse.Namespace) -> Result:
    from keras_tinyalex.tuning import retrain, search

    found = search(
        options.data,
        options.space,
        options.tuner,
        classes=options.classes,
        recipe=options.recipe,
        epochs=options.epochs,
        max_trials=options.max_trials,
        seed=options.seed,
        output=options.output,
        keep=options.keep,
        chief=options.chief,
        worker=options.worker,
        oracle=options.oracle,
        deadline=options.deadline,
    )
    completed = found.ranking
    report(f"{len(completed)} of {len(found.trials)} trials completed: {found.path}")
    result: Result = {
        "search": str(found.path),
        "trials": len(found.trials),
        "completed": len(completed),
        "best": completed[0] if completed else None,
        "recipe": str(found.path / "best.json") if found.best else None,
    }
    if found.best:
        report(f"{found.best.description}\ntrain --recipe {result['recipe']}")
    if options.retrain and options.worker is None:
        result["retrained"] = retrain(
            found.path,
            best=options.retrain,
            seeds=options.retrain_seeds,
            epochs=options.retrain_epochs,
        )
    return result
