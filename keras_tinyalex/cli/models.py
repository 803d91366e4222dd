"""Commands on a model: `evaluate` and `weights`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from keras_tinyalex.cli.parsing import (
    CLASSES,
    MODEL,
    SOURCE,
    Commands,
    Result,
    add_command,
    classes_spec,
    report,
)
from keras_tinyalex.tables import format_table

if TYPE_CHECKING:
    import keras

    from keras_tinyalex.aliases import Images
    from keras_tinyalex.robustness import CorruptionEvaluation

# The names of `datasets.corruptions`, in their order.
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur"),
    *("motion_blur", "zoom_blur", "snow", "frost", "fog", "brightness", "contrast"),
    *("elastic_transform", "pixelate", "jpeg_compression", "speckle_noise"),
    *("gaussian_blur", "spatter", "saturate"),
)


def add_evaluate(commands: Commands) -> None:
    parser = add_command(commands, "evaluate", _evaluate_all, "measure a model")
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add("--data", required=True, help=SOURCE)
    add("--classes", type=classes_spec, help=f"{CLASSES} (default: the model's)")
    add("--all", action="store_true", help="every image, for data not trained on")
    add("--tta", action="store_true", help="average with the mirror image")
    add(
        "--corruptions",
        nargs="*",
        choices=CORRUPTIONS,
        metavar="NAME",
        help="measure accuracy on corrupted images, too: of these corruptions "
        f"({', '.join(CORRUPTIONS)}), or without a NAME of the first 15; if --data is "
        "the folder Tiny-ImageNet-C, of its files",
    )
    add(
        "--unknown",
        nargs="?",
        const="",
        metavar="SOURCE",
        help="measure how well scores tell images of other classes from these, too: of "
        "the classes of --data that the model does not know, or of SOURCE",
    )
    add("--csv", metavar="FILE", help="table of --corruptions, to resume from as well")
    add("--plots", metavar="DIR", help="write figures and per_class.csv to this folder")


def _evaluate_all(options: argparse.Namespace) -> Result:
    """Evaluates on clean images, then on corrupted ones if that is asked for."""
    from keras_tinyalex.applications import load_model
    from keras_tinyalex.datasets.corruptions.folders import find_sets

    if options.corruptions is None:
        if options.csv:
            raise ValueError(
                "--csv must be used with --corruptions, whose table it is. "
                f"Received: --csv {options.csv}"
            )
    elif options.unknown is not None:
        raise ValueError(
            "--unknown must be measured without --corruptions: run the command twice. "
            "Received: --unknown --corruptions"
        )
    elif options.all:
        raise ValueError(
            "--corruptions must be measured on images to validate on: leave --all out, "
            "or put all images into a folder `val`. Received: --all"
        )
    if options.plots:  # tried before the work
        Path(options.plots).mkdir(parents=True, exist_ok=True)
    model, class_names = load_model(options.model)
    if options.unknown is not None:
        return _evaluate_with_unknown(options, model, class_names)
    if options.corruptions is None:
        return _evaluate(options, model, class_names)[1]
    if find_sets(options.data):  # files of Tiny-ImageNet-C: none of them is clean
        clean: Result = {"top1": None, "top5": None, "loss": None, "not_written": []}
    else:
        _, clean = _evaluate(options, model, class_names)
    corrupted = _evaluate_corruptions(options, model, class_names, clean["not_written"])
    return {**clean, **corrupted}


def _evaluate_with_unknown(
    options: argparse.Namespace,
    model: keras.Model,
    class_names: tuple[str, ...] | None,
) -> Result:
    from keras_tinyalex.robustness import evaluate_unknown

    unknown, names = _read_others(options, model, class_names)
    known, clean = _evaluate(options, model, class_names)
    result = evaluate_unknown(model, known, unknown)
    report(
        f"images of {len(names)} other classes: AUROC "
        f"{result.auroc['max_softmax']:.3f} by the highest probability, "
        f"{result.auroc['energy']:.3f} by energy, n {result.n_unknown}; mean "
        f"confidence {result.confidence_unknown:.3f}, of known images "
        f"{result.confidence_known:.3f}"
    )
    return {**clean, "unknown": {**result.as_dict(), "classes": list(names)}}


def _read_others(
    options: argparse.Namespace,
    model: keras.Model,
    class_names: tuple[str, ...] | None,
) -> tuple[Images, tuple[str, ...]]:
    """Reads the images of `--unknown`; returns them and their classes."""
    from keras_tinyalex.datasets.layout import open_source
    from keras_tinyalex.datasets.reading import read_parts
    from keras_tinyalex.labelled_data import image_shape

    source = open_source(options.unknown or options.data)
    known = class_names
    if options.classes is not None or known is None:
        known = open_source(options.data).select(options.classes)
    names = tuple(name for name in source.class_names if name not in known)
    if not names:
        raise ValueError(
            "--unknown must be a source with other classes than the model's; "
            f"{options.unknown or options.data} has none. "
            f"Received: --unknown {options.unknown}"
        )
    source.select(names)  # refuses those that cannot be used
    shape = image_shape(model)
    parts = ["val"] if "val" in source.images else ["all"]
    (data,) = read_parts(
        source,
        names,
        parts,
        shape.size,
        progress=True,
        cache=True,
        channels=shape.channels,
    )
    return shape.arrange(data.images), names


def _evaluate_corruptions(
    options: argparse.Namespace,
    model: keras.Model,
    class_names: tuple[str, ...] | None,
    not_written: list[str],
) -> Result:
    from keras_tinyalex import visualization
    from keras_tinyalex.outputs import optional
    from keras_tinyalex.robustness import evaluate_corruptions

    result = evaluate_corruptions(
        model,
        options.data,
        None if options.classes is not None else class_names,
        options.corruptions or None,
        classes=options.classes,
        tta=options.tta,
        csv=options.csv,
        progress=True,
    )
    _report_corruptions(result)
    if options.plots:
        with optional("plots", not_written):
            figures = {"corruptions": visualization.plot_corruptions(result)}
            visualization.save_figures(Path(options.plots), figures)
    return result.as_dict()


def _report_corruptions(result: CorruptionEvaluation) -> None:
    rows = [
        [name, *("-" if accuracy is None else f"{accuracy:.3f}" for accuracy in five)]
        for name, five in result.corruptions.items()
    ]
    report(format_table(["corruption", "1", "2", "3", "4", "5"], rows))
    if result.missing:
        report(f"no images of: {', '.join(result.missing)}")
    if result.mean_corruption_accuracy is not None:
        report(
            f"mean accuracy {result.mean_corruption_accuracy:.4f} over "
            f"{len(result.measured)} of the 15 corruptions, mCE {result.mce:.3f} "
            f"(1 is a ResNet-18 on 200 classes), n {result.n}"
        )


def _evaluate(
    options: argparse.Namespace,
    model: keras.Model,
    class_names: tuple[str, ...] | None,
) -> tuple[Images, Result]:
    """Returns the images, and what was measured on them."""
    from keras_tinyalex import visualization
    from keras_tinyalex.datasets.classes import readable_name
    from keras_tinyalex.datasets.layout import open_source
    from keras_tinyalex.datasets.reading import read_parts
    from keras_tinyalex.evaluation import TOP_K, evaluate
    from keras_tinyalex.labelled_data import image_shape
    from keras_tinyalex.outputs import optional

    source = open_source(options.data)
    left_out = source.report_left_out()
    if options.classes is not None or class_names is None:
        class_names = source.select(options.classes)
    else:
        source.select_trained(class_names, "data")
    validation = "val" if "val" in source.images else "held_out"
    split = "all" if options.all else validation
    shape = image_shape(model)
    (data,) = read_parts(
        source,
        class_names,
        ["all" if options.all else "val"],
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
    report(
        f"{split.replace('_', '-')} images: "
        f"top 1 {result.top1:.4f} (95% {low:.3f} to {high:.3f}), "
        f"{'' if top5 is None else f'top 5 {top5:.4f}, '}"
        f"loss {result.loss:.4f}, n {result.n}"
        f"{'; --all measures every image' if split == 'held_out' else ''}"
    )
    not_written: list[str] = []
    if options.plots:
        names = [readable_name(name, source.words) for name in class_names]
        with optional("plots", not_written):
            figures = visualization.plot_evaluation(result, data, names)
            visualization.save_figures(Path(options.plots), figures)
            result.save_per_class(Path(options.plots, "per_class.csv"), source.words)
            report(f"figures and per_class.csv: {options.plots}")
    return images, {
        **result.as_dict(),
        "top5": top5,
        "split": split,
        "left_out": left_out,
        "not_written": not_written,
    }


def add_weights(commands: Commands) -> None:
    description = "list the weights in the package"
    parser = add_command(commands, "weights", _weights, description, needs_keras=False)
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
    report(f"model card of {options.name}: {options.output}")
    return {"path": options.output}
