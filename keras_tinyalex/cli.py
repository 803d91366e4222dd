"""The command line: one `add_<command>` a command, which parses and calls."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_tinyalex import __version__, machine, recipes, tables

# The JSON object that a command prints with --json.
Result = dict[str, Any]
Commands = Any  # what `add_subparsers` returns

SOURCE = (
    "official folder or zip, restructured folder, folder of class folders, or "
    "'sample' (generated, no download)"
)
CLASSES = (
    "number of classes (the first N in sorted order), comma separated wnids or names, "
    "a file with one per line, or 'all'"
)
RECIPE = f"{', '.join(recipes.RECIPES)}, or a JSON file such as best.json of a search"
MODEL = "model file, or a name from 'keras-tinyalex weights list'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Args:
        arguments: Command line without the program's name. Defaults to
            `sys.argv[1:]`.

    Returns:
        0 if the work is done, 1 if it failed. Wrong arguments exit with 2.
    """
    options = make_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], Result] = options.command
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that a console cannot show is escaped, as on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if options.needs_keras:
            machine.load_keras()
        result = command(options)
        if options.json:
            print(json.dumps(result))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output, e.g. `head`, has closed it. What is left in the
        # buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted; the same command resumes where it stopped")
    except Exception as error:
        return _fail(_describe(error, options.debug))
    return 1 if result.get("failed") else 0


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="keras-tinyalex",
        description="AlexNetMini on Tiny ImageNet: prepare data, train, evaluate.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_prepare(commands)
    add_verify(commands)
    add_train(commands)
    add_runs(commands)
    add_evaluate(commands)
    add_predict(commands)
    add_export(commands)
    add_tune(commands)
    add_weights(commands)
    return parser


def _describe(error: Exception, debug: bool) -> str:
    if debug:
        traceback.print_exception(error)
    expected = ValueError | OSError | FloatingPointError | ImportError
    kind = "" if isinstance(error, expected) else f"{type(error).__name__}: "
    return f"{kind}{error}"


def _fail(message: str) -> int:
    text = " ".join(message.split())
    print(f"keras-tinyalex: error: {text}", file=sys.stderr)
    return 1


def _report(text: str) -> None:
    print(text, file=sys.stderr)


# ------------------------------------------------------------------ commands


def add_prepare(commands: Commands) -> None:
    description = "restructure Tiny ImageNet"
    parser = _add_command(commands, "prepare", _prepare, description, needs_keras=False)
    add = parser.add_argument
    add(
        "--source",
        default="download",
        help="official folder or zip, or 'download' (default: download)",
    )
    add("--output", required=True, help="new folder")
    add("--classes", type=_classes, help=CLASSES)
    modes = ("copy", "hardlink", "symlink", "move")
    add("--mode", choices=modes, default="copy", help="default: copy")
    add("--dry-run", action="store_true", help="check everything, write nothing")
    add("--overwrite", action="store_true", help="replace an earlier result")


def _prepare(options: argparse.Namespace) -> Result:
    from keras_tinyalex.datasets import tiny_imagenet

    source = options.source
    if source == "download":
        source = tiny_imagenet.download()
    report = tiny_imagenet.restructure(
        source,
        options.output,
        classes=options.classes,
        mode=options.mode,
        overwrite=options.overwrite,
        dry_run=options.dry_run,
    )
    result = report.as_dict()
    would = "would be " if options.dry_run else ""
    _report(
        f"{report.files:,} images of {len(report.classes)} classes {would}in "
        f"{report.destination}; {report.written:,} written in {report.seconds:.1f} s"
    )
    return result


def add_verify(commands: Commands) -> None:
    description = "decode every image and list the bad ones"
    parser = _add_command(commands, "verify", _verify, description, needs_keras=False)
    add = parser.add_argument
    add("data", metavar="DATA", help=SOURCE)


def _verify(options: argparse.Namespace) -> Result:
    from keras_tinyalex.datasets.reading import MISNAMED, verify
    from keras_tinyalex.datasets.source import count_names

    found = verify(options.data, progress=True)
    for file, problem in found.bad:
        _report(f"{file}: {problem}")
    for problem in found.problems:
        _report(f"problem: {problem}")
    if found.misnamed:
        names = [f"{file} ({kind})" for file, kind in found.misnamed]
        _report(count_names(MISNAMED, names))
    count = sum(found.images.values())
    splits = ", ".join(f"{split} {n:,}" for split, n in found.images.items())
    _report(
        f"{len(found.bad)} of {count:,} images are bad ({splits}; "
        f"{len(found.class_names)} classes)"
    )
    return {
        "images": count,
        "splits": found.images,
        "classes": len(found.class_names),
        "bad": [{"file": file, "problem": problem} for file, problem in found.bad],
        "problems": found.problems,
        "misnamed": [{"file": f, "format": kind} for f, kind in found.misnamed],
        "left_out": found.left_out,
        "failed": bool(found.bad or found.problems),
    }


def add_train(commands: Commands) -> None:
    parser = _add_command(commands, "train", _train, "train AlexNetMini with a recipe")
    add = parser.add_argument
    add("--data", default="sample", help=f"{SOURCE} (default: sample)")
    add("--recipe", default="baseline", help=f"{RECIPE} (default: baseline)")
    add("--classes", type=_classes, help=f"{CLASSES} (default: 20, or all if fewer)")
    add("--weights", help=f"where training starts: {MODEL} (default: random)")
    add("--image-size", type=_positive, metavar="N", help="in pixels (default: 64)")
    add("--epochs", type=_positive, help="replaces the recipe's")
    add("--batch-size", type=_positive, help="replaces the recipe's")
    add(
        "--seed",
        type=_non_negative,
        nargs="+",
        default=[0],
        metavar="N",
        help="one run for each (default: 0)",
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
        image_size=options.image_size,
        epochs=options.epochs,
        batch_size=options.batch_size,
        dtype=options.dtype,
    )
    low, high = run.metrics["interval"]
    top5 = run.metrics["val_top5"]
    _report(
        f"val_accuracy {run.metrics['val_accuracy']:.4f} (95% {low:.3f} to {high:.3f}, "
        f"n {run.metrics['n_val']}){'' if top5 is None else f', top 5 {top5:.4f}'}\n"
        f"run folder: {run.path}\n"
        f"curves: tensorboard --logdir {run.path / 'tensorboard'}"
    )
    return {**run.metrics, "already_finished": run.already_finished}


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
            failed.append({"seed": seed, "error": _describe(error, options.debug)})
            _fail(f"seed {seed}: {failed[-1]['error']}")
        keras.utils.clear_session()  # or each model stays in memory
    result: Result = {"runs": [run["run"] for run in metrics], "n": len(metrics)}
    result |= {"mean": None, "standard_deviation": None, "interval": None}
    if metrics:
        result |= summarize([run["val_accuracy"] for run in metrics])._asdict()
        trained = " ".join(str(run["seed"]) for run in metrics)
        _report(f"val_accuracy of seeds {trained}: {_spread(result)}")
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
    parser = _add_command(commands, "runs", _runs, description, needs_keras=False)
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
        _report(f"left out: {folder}: {reason}")
    if not studies:
        _fail("there is no finished run; `keras-tinyalex train` makes one")
    elif options.plot:
        from keras_tinyalex.visualization import plot_runs, style

        Path(options.plot).parent.mkdir(parents=True, exist_ok=True)
        with style.own_style():
            plot_runs(studies).savefig(options.plot)
        _report(f"figure: {options.plot}")
    return {
        "runs": [study.as_dict() for study in studies],
        "left_out": [
            {"folder": str(folder), "reason": reason}
            for folder, reason in found.left_out.items()
        ],
        "failed": not studies,
    }


def add_evaluate(commands: Commands) -> None:
    parser = _add_command(commands, "evaluate", _evaluate, "measure a model")
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add("--data", required=True, help=SOURCE)
    add("--classes", type=_classes, help=f"{CLASSES} (default: the model's)")
    add("--tta", action="store_true", help="average with the mirror image")
    add("--plots", metavar="DIR", help="write figures to this folder")


def _evaluate(options: argparse.Namespace) -> Result:
    from keras_tinyalex import visualization
    from keras_tinyalex.applications import load_model
    from keras_tinyalex.datasets.classes import readable_name
    from keras_tinyalex.datasets.layout import open_source
    from keras_tinyalex.datasets.reading import read_split
    from keras_tinyalex.evaluation import TOP_K, evaluate
    from keras_tinyalex.labelled_data import image_shape
    from keras_tinyalex.outputs import optional

    if options.plots:  # tried before the work
        Path(options.plots).mkdir(parents=True, exist_ok=True)
    model, class_names = load_model(options.model)
    source = open_source(options.data)
    left_out = source.report_left_out()
    if options.classes is not None or class_names is None:
        class_names = source.select(options.classes)
    elif missing := sorted(set(class_names) - set(source.class_names)):
        raise ValueError(
            f"--data must hold the {len(class_names)} classes that the model was "
            f"trained on; {len(missing)} are missing, e.g. {missing[0]}. "
            f"Received: --data {options.data}"
        )
    else:
        source.select(class_names)  # refuses those that cannot be used
    split = "val" if "val" in source.images else "train"
    shape = image_shape(model)
    data = read_split(
        source,
        split,
        class_names,
        shape.size,
        progress=True,
        cache=True,
        channels=shape.channels,
    )
    images = shape.arrange(data.images)
    result = evaluate(
        model, (images, data.labels), class_names=class_names, tta=options.tta
    )
    low, high = result.interval
    # With 5 classes it is 1.0 whatever the model.
    top5 = result.top5 if len(class_names) > TOP_K else None
    _report(
        f"top 1 {result.top1:.4f} (95% {low:.3f} to {high:.3f}), "
        f"{'' if top5 is None else f'top 5 {top5:.4f}, '}"
        f"loss {result.loss:.4f}, n {result.n} ({split} images)"
    )
    not_written: list[str] = []
    if options.plots:
        names = [readable_name(name, source.words) for name in class_names]
        with optional("plots", not_written):
            figures = visualization.plot_evaluation(result, data, names)
            visualization.save_figures(Path(options.plots), figures)
            _report(f"figures: {options.plots}")
    return {
        **result.as_dict(),
        "top5": top5,
        "split": split,
        "left_out": left_out,
        "not_written": not_written,
    }


def add_predict(commands: Commands) -> None:
    parser = _add_command(commands, "predict", _predict, "classify image files")
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add("images", metavar="IMAGE", nargs="+", help="image file, or a folder of them")
    add("--top", type=_positive, default=5, help="classes to list (default: 5)")


def _predict(options: argparse.Namespace) -> Result:
    from keras_tinyalex.applications import load_model
    from keras_tinyalex.applications.predictions import classify_files
    from keras_tinyalex.datasets.source import list_problems

    model, class_names = load_model(options.model)
    images = []
    for result in classify_files(model, options.images, options.top, class_names):
        images.append(result)
        if "error" in result:
            continue
        _report(result["image"])
        for row in result["predictions"]:
            _report(f"  {row['score']:6.1%}  {row['name']} ({row['class_name']})")
    errors = [result["error"] for result in images if "error" in result]
    if errors:
        _fail(list_problems(f"of {len(images)} files,", errors))
    return {"images": images, "failed": len(errors)}


def add_export(commands: Commands) -> None:
    description = "export a model for another runtime"
    parser = _add_command(commands, "export", _export, description)
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add(
        "--format",
        required=True,
        choices=("onnx", "litert", "openvino", "saved_model"),
        help="ONNX Runtime, LiteRT (TFLite), OpenVINO or TensorFlow SavedModel",
    )
    add("--output", required=True, metavar="PATH", help="new file")


def _export(options: argparse.Namespace) -> Result:
    from keras_tinyalex.exporting import export

    result = export(options.model, options.output, options.format)
    _report(
        f"{result.path}: {result.size / 1e6:.1f} MB, scores within "
        f"{result.max_difference:.1e} of Keras'"
    )
    return result.as_dict()


def add_tune(commands: Commands) -> None:
    parser = _add_command(commands, "tune", _tune, "search for a better recipe")
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
    add("--max-trials", type=_positive, help="default: 30, or one Hyperband iteration")
    add(
        "--epochs",
        type=_positive,
        default=12,
        help="epochs of a full training (default: 12)",
    )
    fixed = "for what the space does not contain (default: baseline)"
    add("--recipe", default="baseline", help=f"{RECIPE}, {fixed}")
    add("--classes", type=_classes, help=f"{CLASSES} (default: 20, or all if fewer)")
    add("--seed", type=_non_negative, default=0, help="default: 0")
    add("--output", help="folder (default: runs/tune-SPACE-DATA-seedN)")
    add(
        "--keep",
        type=_positive,
        default=3,
        help="number of best trials that keep their checkpoints (default: 3)",
    )
    _add_retrain_options(parser)
    _add_distributed_options(parser)


def _add_retrain_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--retrain",
        type=_positive,
        metavar="K",
        help="train the best K recipes on all training images afterwards",
    )
    add(
        "--retrain-seeds",
        type=_non_negative,
        nargs="+",
        default=[0, 1, 2],
        metavar="N",
        help="default: 0 1 2",
    )
    add("--retrain-epochs", type=_positive, metavar="N", help="default: --epochs")


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
        type=_positive,
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
    _report(f"{len(completed)} of {len(found.trials)} trials completed: {found.path}")
    result: Result = {
        "search": str(found.path),
        "trials": len(found.trials),
        "completed": len(completed),
        "best": completed[0] if completed else None,
        "recipe": str(found.path / "best.json") if found.best else None,
    }
    if found.best:
        _report(f"{found.best.description}\ntrain --recipe {result['recipe']}")
    if options.retrain and options.worker is None:
        result["retrained"] = retrain(
            found.path,
            best=options.retrain,
            seeds=options.retrain_seeds,
            epochs=options.retrain_epochs,
        )
    return result


def add_weights(commands: Commands) -> None:
    description = "list the weights in the package"
    parser = _add_command(commands, "weights", _weights, description)
    add = parser.add_argument
    add(
        "action",
        nargs="?",
        choices=("list", "show", "path", "card"),
        default="list",
        help="names, the model card of one, its file, or its card for a hub "
        "(default: list)",
    )
    add("name", nargs="?", metavar="NAME", help="shipped weights")
    add(
        "--format",
        choices=("huggingface",),
        default="huggingface",
        help="of `card`: the hub (default: huggingface)",
    )
    add(
        "--output",
        metavar="FILE",
        default="README.md",
        help="of `card`: new file (default: README.md)",
    )


def _weights(options: argparse.Namespace) -> Result:
    from keras_tinyalex.applications.shipped import (
        list_weights,
        model_card,
        weights_path,
    )

    if options.action == "list":
        for name in list_weights():
            print(name)
        return {"weights": list_weights()}
    if options.name is None:
        raise ValueError(
            f"`weights {options.action}` needs a NAME, one of {list_weights()}."
        )
    if options.action == "card":
        return _weights_card(options)
    if options.action == "path":
        path = str(weights_path(options.name))
        print(path)
        return {"path": path}
    card = model_card(options.name)
    if not options.json:
        print(json.dumps(card, indent=2))
    return card


def _weights_card(options: argparse.Namespace) -> Result:
    from keras_tinyalex.applications.model_cards import huggingface_card

    text = huggingface_card(options.name)
    try:
        with Path(options.output).open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise ValueError(
            f"--output must be a new file. Received: --output {options.output}"
        ) from None
    _report(f"model card of {options.name}: {options.output}")
    return {"path": options.output}


# ------------------------------------------------------------------- parsing


def _add_command(
    commands: Commands,
    name: str,
    function: Callable[[argparse.Namespace], Result],
    description: str,
    needs_keras: bool = True,
) -> argparse.ArgumentParser:
    """Adds a command with the options that all commands have."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=description, description=description
    )
    parser.set_defaults(command=function, needs_keras=needs_keras)
    parser.add_argument(
        "--json", action="store_true", help="print the result as one JSON line"
    )
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error"
    )
    return parser


def _classes(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def _non_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"must be a non-negative integer, not {text!r}"
        )
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
