"""The command line: parses arguments and calls the library."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_tinyalex import __version__

# What a command returns: the JSON object of its result.
Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status.

    Args:
        arguments: Command line without the program's name; default
            `sys.argv[1:]`.

    Returns:
        0 if the work is done, 1 if it failed. Wrong arguments exit with 2.
    """
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], Result] = options.command
    try:
        _load_keras()
        result = command(options)
        if options.json:
            print(json.dumps(result))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output, e.g. `head`, has enough of it. What is left
        # in the buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on where it stopped")
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        expected = isinstance(
            error, ValueError | OSError | FloatingPointError | ImportError
        )
        kind = "" if expected else f"{type(error).__name__}: "
        return _fail(f"{kind}{error}")
    return 1 if result.get("failed") else 0


def _load_keras() -> None:
    """Imports Keras and wakes its backend.

    The notices about processor and drivers that TensorFlow writes meanwhile
    are shown only if this fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow leaves oneDNN off on processors without AVX-512, where it trains
    # this network about 1.3 times as fast.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        os.dup2(notices.fileno(), 2)
        try:
            import keras

            keras.ops.zeros(1)
        except BaseException:
            notices.seek(0)
            os.write(stderr, notices.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _fail(message: str) -> int:
    text = " ".join(message.split())
    print(f"keras-tinyalex: error: {text}", file=sys.stderr)
    return 1


def _say(text: str) -> None:
    print(text, file=sys.stderr)


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
    _say(
        f"{report.files:,} images of {len(report.classes)} classes {would}in "
        f"{report.destination}; {report.written:,} written in {report.seconds:.1f} s"
    )
    return result


def _verify(options: argparse.Namespace) -> Result:
    from keras_tinyalex.datasets.tiny_imagenet import find_bad_images

    count, problems = find_bad_images(options.data, progress=True)
    for where, problem in problems:
        _say(f"{where}: {problem}")
    _say(f"{len(problems)} of {count:,} images are bad")
    bad = [{"file": where, "problem": problem} for where, problem in problems]
    return {"images": count, "bad": bad, "failed": bool(bad)}


def _train(options: argparse.Namespace) -> Result:
    from keras_tinyalex.datasets.layout import open_source
    from keras_tinyalex.training import train

    classes = options.classes
    if classes is None:  # people's own folders often have fewer than 20
        classes = min(20, len(open_source(options.data).class_names))
    run = train(
        options.recipe,
        options.data,
        classes,
        options.output,
        options.seed,
        options.resume,
        epochs=options.epochs,
        batch_size=options.batch_size,
        dtype=options.dtype,
    )
    low, high = run.metrics["interval"]
    _say(
        f"val_accuracy {run.metrics['val_accuracy']:.4f} (95% {low:.3f} to {high:.3f}, "
        f"n {run.metrics['n_val']}), top 5 {run.metrics['val_top5']:.4f}\n"
        f"run folder: {run.path}\n"
        f"curves: tensorboard --logdir {run.path / 'tensorboard'}"
    )
    return run.metrics


def _evaluate(options: argparse.Namespace) -> Result:
    from keras_tinyalex.applications import load_model
    from keras_tinyalex.datasets.classes import readable_name, select_classes
    from keras_tinyalex.datasets.layout import open_source
    from keras_tinyalex.datasets.tiny_imagenet import read_split
    from keras_tinyalex.evaluation import evaluate
    from keras_tinyalex.training import plot_evaluation, write_figures

    model, class_names = load_model(options.model)
    source = open_source(options.data)
    if options.classes is not None or class_names is None:
        class_names = select_classes(source.class_names, options.classes, source.words)
    elif missing := sorted(set(class_names) - set(source.class_names)):
        raise ValueError(
            f"--data must hold the {len(class_names)} classes that the model knows; "
            f"{len(missing)} are missing, e.g. {missing[0]}. "
            f"Received: --data {options.data}"
        )
    split = "val" if "val" in source.images else "train"
    data = read_split(source, split, class_names, progress=True, cache=True)
    result = evaluate(
        model, (data.images, data.labels), class_names=class_names, tta=options.tta
    )
    low, high = result.interval
    _say(
        f"top 1 {result.top1:.4f} (95% {low:.3f} to {high:.3f}), top 5 "
        f"{result.top5:.4f}, loss {result.loss:.4f}, n {result.n} ({split} images)"
    )
    if options.plots:
        names = [readable_name(name, source.words) for name in class_names]
        write_figures(Path(options.plots), plot_evaluation(result, data, names))
        _say(f"pictures: {options.plots}")
    return {**result.as_dict(), "split": split}


def _predict(options: argparse.Namespace) -> Result:
    import numpy as np

    from keras_tinyalex.applications import decode_predictions, load_model
    from keras_tinyalex.datasets.images import read_image_file

    images = np.stack([read_image_file(path) for path in options.images])
    model, class_names = load_model(options.model)
    scores = model.predict(images, verbose=0)
    rows = decode_predictions(scores, options.top, class_names)
    predictions = []
    for path, row in zip(options.images, rows, strict=True):
        _say(path)
        for class_name, name, score in row:
            _say(f"  {score:6.1%}  {name} ({class_name})")
        fields = ("class_name", "name", "score")
        top = [dict(zip(fields, (c, n, float(s)), strict=True)) for c, n, s in row]
        predictions.append({"image": path, "predictions": top})
    return {"images": predictions}


def _export(options: argparse.Namespace) -> Result:
    from keras_tinyalex.export import export

    result = export(options.model, options.output, options.format)
    _say(
        f"{result.path}: {result.size / 1e6:.1f} MB, scores within "
        f"{result.max_difference:.1e} of Keras'"
    )
    return result.as_dict()


def _tune(options: argparse.Namespace) -> Result:
    from keras_tinyalex.datasets.layout import open_source
    from keras_tinyalex.tuning import retrain, search

    classes = options.classes
    if classes is None:
        classes = min(20, len(open_source(options.data).class_names))
    found = search(
        options.data,
        options.space,
        options.tuner,
        classes=classes,
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
    _say(f"{len(completed)} of {len(found.trials)} trials completed: {found.path}")
    result: Result = {
        "search": str(found.path),
        "trials": len(found.trials),
        "completed": len(completed),
        "best": completed[0] if completed else None,
        "recipe": str(found.path / "best.json") if found.best else None,
    }
    if found.best:
        _say(f"{found.best.description}\ntrain --recipe {result['recipe']}")
    if options.retrain and options.worker is None:
        result["retrained"] = retrain(
            found.path,
            best=options.retrain,
            seeds=options.retrain_seeds,
            epochs=options.retrain_epochs,
        )
    return result


def _weights(options: argparse.Namespace) -> Result:
    from keras_tinyalex.applications import list_weights, model_card, weights_path

    if options.action == "list":
        for name in list_weights():
            print(name)
        return {"weights": list_weights()}
    if options.name is None:
        raise ValueError(
            f"`weights {options.action}` needs a NAME, one of {list_weights()}."
        )
    if options.action == "path":
        path = str(weights_path(options.name))
        print(path)
        return {"path": path}
    card = model_card(options.name)
    if not options.json:
        print(json.dumps(card, indent=2))
    return card


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-tinyalex",
        description="AlexNetMini on Tiny ImageNet: prepare data, train, evaluate.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    source = (
        "official folder or zip, restructured folder, folder of class folders, "
        "or 'sample' (generated, needs no download)"
    )
    classes = (
        "number of classes (the first N by sorted wnid), comma separated wnids or "
        "names, or a file with one a line"
    )

    command = _command(commands, "prepare", _prepare, "restructure Tiny ImageNet")
    command.add_argument(
        "--source",
        default="download",
        help="official folder or zip, or 'download' (default: download)",
    )
    command.add_argument("--output", required=True, help="new folder")
    command.add_argument("--classes", type=_classes, help=classes)
    command.add_argument(
        "--mode",
        choices=("copy", "hardlink", "symlink", "move"),
        default="copy",
        help="how files get there (default: copy)",
    )
    command.add_argument("--dry-run", action="store_true", help="write nothing")
    command.add_argument("--overwrite", action="store_true", help="replace --output")

    command = _command(commands, "verify", _verify, "decode every image, list bad ones")
    command.add_argument("data", metavar="DATA", help=source)

    command = _command(commands, "train", _train, "train AlexNetMini by a recipe")
    command.add_argument("--data", default="sample", help=f"{source} (default: sample)")
    recipe = "name, or a JSON file such as best.json of a search (default: baseline)"
    command.add_argument("--recipe", default="baseline", help=recipe)
    command.add_argument(
        "--classes", type=_classes, help=f"{classes} (default: 20, or all if fewer)"
    )
    command.add_argument("--epochs", type=_positive, help="replaces the recipe's")
    command.add_argument("--batch-size", type=_positive, help="replaces the recipe's")
    command.add_argument("--seed", type=_natural, default=0, help="default: 0")
    command.add_argument("--dtype", help="dtype policy, or auto: the fastest here")
    command.add_argument(
        "--output", help="run folder (default: runs/RECIPE-DATA-seedN)"
    )
    command.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with a stopped run (default) or start again",
    )

    model = "model file, or a name from 'keras-tinyalex weights list'"
    command = _command(commands, "evaluate", _evaluate, "measure a model")
    command.add_argument("model", metavar="MODEL", help=model)
    command.add_argument("--data", required=True, help=source)
    command.add_argument(
        "--classes", type=_classes, help=f"{classes} (default: the model's)"
    )
    command.add_argument(
        "--tta", action="store_true", help="average with the mirrored image"
    )
    command.add_argument("--plots", metavar="DIR", help="write pictures there")

    command = _command(commands, "predict", _predict, "classify image files")
    command.add_argument("model", metavar="MODEL", help=model)
    command.add_argument("images", metavar="IMAGE", nargs="+", help="image file")
    command.add_argument(
        "--top", type=_positive, default=5, help="classes shown (default: 5)"
    )

    command = _command(commands, "export", _export, "export for another runtime")
    command.add_argument("model", metavar="MODEL", help=model)
    command.add_argument(
        "--format",
        required=True,
        choices=("onnx", "litert", "openvino", "saved_model"),
        help="ONNX Runtime, LiteRT (TFLite), OpenVINO or TensorFlow SavedModel",
    )
    command.add_argument("--output", required=True, metavar="PATH", help="new file")

    command = _command(commands, "tune", _tune, "search for a better recipe")
    command.add_argument("--data", required=True, help=source)
    command.add_argument(
        "--space",
        choices=("architecture", "optimizer", "augmentation", "all"),
        default="all",
        help="what may vary (default: all)",
    )
    command.add_argument(
        "--tuner",
        choices=("random", "hyperband", "bayesian"),
        default="hyperband",
        help="default: hyperband",
    )
    command.add_argument(
        "--max-trials", type=_positive, help="default: 30, or one pass of hyperband"
    )
    command.add_argument(
        "--epochs", type=_positive, default=12, help="of a whole training (default: 12)"
    )
    command.add_argument("--recipe", default="baseline", help=recipe)
    command.add_argument(
        "--classes", type=_classes, help=f"{classes} (default: 20, or all if fewer)"
    )
    command.add_argument("--seed", type=_natural, default=0, help="default: 0")
    command.add_argument(
        "--output", help="folder (default: runs/tune-SPACE-DATA-seedN)"
    )
    command.add_argument(
        "--keep",
        type=_positive,
        default=3,
        help="best trials whose checkpoints stay (default: 3)",
    )
    command.add_argument(
        "--retrain",
        type=_positive,
        metavar="K",
        help="train the best K recipes on all training images afterwards",
    )
    command.add_argument(
        "--retrain-seeds",
        type=_natural,
        nargs="+",
        default=[0, 1, 2],
        metavar="N",
        help="default: 0 1 2",
    )
    command.add_argument(
        "--retrain-epochs", type=_positive, metavar="N", help="default: as --epochs"
    )
    role = command.add_mutually_exclusive_group()
    role.add_argument("--chief", action="store_true", help="hand out trials to workers")
    role.add_argument("--worker", metavar="ID", help="run trials of a chief")
    command.add_argument(
        "--oracle",
        metavar="HOST:PORT",
        help="where the chief listens (default: 127.0.0.1:9090)",
    )
    command.add_argument(
        "--deadline",
        type=_positive,
        default=600,
        metavar="SECONDS",
        help="silence after which a chief gives a worker up (default: 600)",
    )

    command = _command(commands, "weights", _weights, "the weights in the package")
    command.add_argument(
        "action",
        nargs="?",
        choices=("list", "show", "path"),
        default="list",
        help="names, the model card of one, or its file (default: list)",
    )
    command.add_argument("name", nargs="?", metavar="NAME", help="shipped weights")
    return parser


def _command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], Result],
    description: str,
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=description, description=description
    )
    command.set_defaults(command=function)
    command.add_argument(
        "--json", action="store_true", help="print the result as one JSON line"
    )
    command.add_argument(
        "--debug", action="store_true", help="show the traceback of an error"
    )
    return command


def _classes(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer >= 0, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
