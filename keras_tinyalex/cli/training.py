"""Commands that train or compare what was trained: `train` and `runs`."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from keras_tinyalex import machine, tables
from keras_tinyalex.cli.parsing import (
    CLASSES,
    DEFAULT_CLASSES,
    MODEL,
    RECIPE,
    SOURCE,
    Commands,
    Result,
    add_command,
    classes_spec,
    describe,
    fail,
    non_negative,
    positive,
    report,
)


def add_train(commands: Commands) -> None:
    description = "train AlexNetMini with a recipe"
    parser = add_command(commands, "train", _train, description, needs_keras=False)
    add = parser.add_argument
    add("--data", default="sample", help=f"{SOURCE} (default: sample)")
    add("--recipe", help=f"{RECIPE} (default: baseline, or fine_tune with --weights)")
    add("--classes", type=classes_spec, help=f"{CLASSES} (default: {DEFAULT_CLASSES})")
    add("--weights", help=f"where training starts: {MODEL} (default: random)")
    add(
        "--teacher",
        nargs="+",
        metavar="MODEL",
        help="models whose scores are part of the labels, for the recipe distilled",
    )
    add("--image-size", type=positive, metavar="N", help="in pixels (default: 64)")
    add("--epochs", type=positive, help="replaces the recipe's")
    add("--batch-size", type=positive, help="replaces the recipe's")
    add(
        "--seed",
        type=non_negative,
        nargs="+",
        default=[0],
        metavar="N",
        help="one run for each (default: 0)",
    )
    add(
        "--augmentation",
        metavar="NAME",
        help="replaces the recipe's: crop_cutout flips no image; see the reference",
    )
    add(
        "--validation-split",
        type=float,
        metavar="FRACTION",
        help="part of the training images to validate on, instead of the val images",
    )
    add(
        "--keep",
        choices=("last", "best"),
        default="last",
        help="epoch whose weights become the model (default: last)",
    )
    add(
        "--devices",
        type=positive,
        metavar="N",
        help="devices to train on, of the JAX backend (default: all)",
    )
    add(
        "--processes",
        type=lambda text: text if text == "auto" else positive(text),
        default=1,
        metavar="N",
        help="train in N processes, of one or more machines, on the JAX backend; "
        "'auto' where srun or mpirun starts them",
    )
    add(
        "--process-id",
        type=non_negative,
        metavar="I",
        help="number of this process, from 0; process 0 writes the run folder",
    )
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="where process 0 listens (default: a port of this machine)",
    )
    add("--dtype", help="dtype policy, or 'auto' for the fastest on this machine")
    add(
        "--output",
        help="run folder (default: runs/RECIPE-DATA-seedN); with several seeds, the "
        "folder of run folders seedN",
    )
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="resume a stopped run (default), or start again",
    )


def _train(options: argparse.Namespace) -> Result:
    seeds = list(dict.fromkeys(options.seed))
    several = options.processes != 1
    machine.load_keras(compute=not several)
    if not several:
        return _train_all(options, seeds)
    if options.process_id is None and options.processes != "auto":
        raise ValueError(
            "--process-id must be the number of this process, from 0 to "
            f"{options.processes - 1}. Received: --processes {options.processes}"
        )
    from keras_tinyalex import processes

    coordinator = options.coordinator or processes.COORDINATOR
    processes.connect(options.processes, options.process_id, coordinator)
    try:
        return _train_all(options, seeds)
    except Exception as error:
        with processes.filtered():
            fail(describe(error, options.debug))
        if not options.process_id:
            time.sleep(2)  # the others, which end with it, may have to say the same
        # Not by the usual way, on which JAX waits for processes that are lost.
        os._exit(1)


def _train_all(options: argparse.Namespace, seeds: Sequence[int]) -> Result:
    if len(seeds) > 1:
        return _train_seeds(options, seeds)
    return _train_run(options, seeds[0], options.output)


def _train_run(options: argparse.Namespace, seed: int, output: str | None) -> Result:
    from keras_tinyalex.training import train

    run = train(
        options.recipe,
        options.data,
        options.classes,
        output,
        seed,
        options.resume,
        weights=options.weights,
        teacher=options.teacher,
        image_size=options.image_size,
        epochs=options.epochs,
        batch_size=options.batch_size,
        dtype=options.dtype,
        augmentation=options.augmentation,
        validation_split=options.validation_split,
        keep=options.keep,
        devices=options.devices,
    )
    low, high = run.metrics["interval"]
    top5 = run.metrics["val_top5"]
    report(
        f"val_accuracy {run.metrics['val_accuracy']:.4f} (95% {low:.3f} to {high:.3f}, "
        f"n {run.metrics['n_val']}){'' if top5 is None else f', top 5 {top5:.4f}'}"
        f"{_kept(run.metrics)}\n"
        f"run folder: {run.path}\n"
        f"curves: tensorboard --logdir {run.path / 'tensorboard'}"
    )
    return {**run.metrics, "already_finished": run.already_finished}


def _kept(metrics: Result) -> str:
    epoch = metrics.get("kept_epoch", metrics["epochs"])
    return "" if epoch == metrics["epochs"] else f", model of epoch {epoch}"


def _train_seeds(options: argparse.Namespace, seeds: Sequence[int]) -> Result:
    import keras

    from keras_tinyalex.comparing import CONFIG_FILE
    from keras_tinyalex.metrics import summarize

    if options.output and Path(options.output, CONFIG_FILE).exists():
        raise ValueError(
            "--output must be a folder of run folders where there are several seeds, "
            f"not a run folder itself. Received: --output {options.output}"
        )
    logging.getLogger("tensorflow").addFilter(_is_not_about_tracing)
    metrics: list[Result] = []
    failed: list[Result] = []
    for seed in seeds:
        output = str(Path(options.output, f"seed{seed}")) if options.output else None
        try:
            metrics.append(_train_run(options, seed, output))
        except Exception as error:  # the other seeds must not be lost with it
            failed.append({"seed": seed, "error": describe(error, options.debug)})
            fail(f"seed {seed}: {failed[-1]['error']}")
        keras.utils.clear_session()  # or each model stays in memory
    result: Result = {"runs": [run["run"] for run in metrics], "n": len(metrics)}
    result |= {"mean": None, "standard_deviation": None, "interval": None}
    if metrics:
        result |= summarize([run["val_accuracy"] for run in metrics])._asdict()
        trained = " ".join(str(run["seed"]) for run in metrics)
        report(f"val_accuracy of seeds {trained}: {_spread(result)}")
    return {**result, "metrics": metrics, "failed": failed}


def _is_not_about_tracing(record: logging.LogRecord) -> bool:
    # Each seed's model is traced, of which TensorFlow warns from the third on.
    return "tf.function retracing" not in record.getMessage()


def _spread(result: Result) -> str:
    if result["interval"] is None:
        return f"mean {result['mean']:.4f}, n 1"
    low, high = result["interval"]
    return (
        f"mean {result['mean']:.4f}, standard deviation "
        f"{result['standard_deviation']:.4f} (n - 1), 95% interval of the mean "
        f"{low:.4f} to {high:.4f} (Student t), n {result['n']}"
    )


def add_runs(commands: Commands) -> None:
    description = "compare finished runs over their seeds"
    parser = add_command(commands, "runs", _runs, description, needs_keras=False)
    add = parser.add_argument
    add(
        "folders",
        metavar="FOLDER",
        nargs="*",
        default=["runs"],
        help="run folders, or folders with run folders below (default: runs)",
    )
    add("--format", choices=tables.STYLES, default="table", help="default: table")
    add("--plot", metavar="FILE", help="draw the curves by epoch to this image file")


def _runs(options: argparse.Namespace) -> Result:
    from keras_tinyalex import comparing

    found = comparing.find_runs(options.folders)
    studies = comparing.group(found.runs)
    if studies and not options.json:
        print(tables.format_table(*comparing.cells(studies), options.format))
    for folder, reason in found.left_out.items():
        report(f"left out: {folder}: {reason}")
    if not studies:
        fail("there is no finished run; `keras-tinyalex train` makes one")
    elif options.plot:
        from keras_tinyalex.visualization import plot_runs, style

        Path(options.plot).parent.mkdir(parents=True, exist_ok=True)
        with style.own_style():
            plot_runs(studies).savefig(options.plot)
        report(f"figure: {options.plot}")
    return {
        "runs": [study.as_dict() for study in studies],
        "left_out": [
            {"folder": str(folder), "reason": reason}
            for folder, reason in found.left_out.items()
        ],
        "failed": not studies,
    }
