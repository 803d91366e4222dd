"""Trains variants of a recipe, to see what each choice brings and what it costs.

    python tests/benchmarks/ablation.py tiny-imagenet-20.zip --epochs 8
    python tests/benchmarks/ablation.py tiny-imagenet-20.zip --recipe best_long \
        'no dropout' '{"weight_decay_per_epoch": 0.4, "learning_rate": 0.005}'

A variant is a name from `CHOICES` or a JSON object with fields of `Recipe`. Without
any, all of `CHOICES` are trained: the ablation of `best`. Recipes are trained on 90% of
the training images and compared on the other 10%. `augmentation` may also be functions
joined by plus signs, e.g. `crop_flip+patch_noise`.

Prints a row of a Markdown table for the recipe, which is always trained first, and for
each variant: accuracy on the held-out images and in training (means over the seeds),
the accuracy of the recipe minus that of the variant in points, the CPU time of the
recipe divided by that of the variant, and the number of held-out images. CPU time
depends little on other programs. With --corruptions there is another column: the mean
accuracy on the held-out images with the four extra corruptions, by which robustness
is chosen, since none of them is reported. Called again, the script reuses finished
trainings.
"""

import argparse
import dataclasses
import hashlib
import json
import re
import statistics
import time
from pathlib import Path

import numpy as np

from keras_tinyalex import augmentation, evaluate_corruptions, recipes, train
from keras_tinyalex.datasets import tiny_imagenet
from keras_tinyalex.datasets.corruptions import CORRUPTIONS
from keras_tinyalex.files import write_json

HELD_OUT = 0.1

CHOICES = {
    # The learning rate of `best` needs batch normalization.
    "no batch normalization": {"folded_batch_norm": False, "learning_rate": 1e-3},
    "AdamW": {"optimizer": "adamw", "learning_rate": 1e-3},
    "constant learning rate": {"schedule": "constant", "learning_rate": 1e-3},
    "no weight decay": {"weight_decay_per_epoch": 0.0},
    "hard labels": {"label_smoothing": 0.0},
    "no dropout": {"dropout": 0.0},
    "no augmentation": {"augmentation": None},
    "flip only": {"augmentation": "flip"},
    "no cutout": {"augmentation": "crop_flip"},
    "He, no whitening": {"initialization": "he"},
    "full resolution throughout": {"half_size_epochs": 0},
    "batches of 128": {"batch_size": 128},
}


def variant_recipe(base, variant):
    """Returns a recipe with the fields of a name or a JSON object.

    Its description is the variant.

    Raises:
        ValueError: If the variant is neither, or a field is unknown or out of its
            range.
    """
    try:
        fields = CHOICES[variant] if variant in CHOICES else json.loads(variant)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise ValueError(
            f"it must be one of {', '.join(map(repr, CHOICES))}, or a JSON object with "
            'fields of a recipe, e.g. {"weight_decay_per_epoch": 0.4}'
        )
    known = {field.name for field in dataclasses.fields(base)} - {"name", "description"}
    if unknown := sorted(fields.keys() - known):
        raise ValueError(
            f"a field must be one of {', '.join(sorted(known))}. "
            f"Received: {', '.join(unknown)}"
        )
    name = fields.get("augmentation")
    if isinstance(name, str) and "+" in name:
        augmentation.AUGMENTATIONS[name] = chain(name.split("+"))
    readable = re.sub(r"\W+", "-", variant, flags=re.ASCII).strip("-")[:60]
    recipe = dataclasses.replace(base, name=readable, description=variant, **fields)
    augmentation.get(recipe.augmentation)  # `train` checks it only later
    return recipe


def chain(names):
    """Returns the augmentation that applies functions one after the other."""
    if unknown := set(names).difference(augmentation.__all__):
        raise ValueError(f"no function of the augmentations: {', '.join(unknown)}")
    return augmentation.compose(*(getattr(augmentation, name) for name in names))


def extra_accuracy(model, data):
    """Returns the mean accuracy on held-out images with the extra corruptions."""
    held_out = tiny_imagenet.load_dataset(
        data, split="held_out", validation_split=HELD_OUT, shuffle=False
    )
    images, labels = zip(*held_out, strict=True)
    result = evaluate_corruptions(
        model,
        (np.concatenate(images), np.concatenate(labels)),
        corruptions=[name for name, group in CORRUPTIONS.items() if group == "extra"],
        seed=1,  # not that of reports
    )
    return result.mean_extra_accuracy


def trained(recipe, data, seed, output, corruptions):
    """Trains a recipe with one seed, or returns the kept result."""
    decisive = {**recipe.as_dict(), "name": "", "description": "", "data": data}
    if corruptions:
        decisive["corruptions"] = True
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    folder = output / f"{recipe.name}-{digest[:12]}-seed{seed}"
    kept = folder.with_name(f"{folder.name}.json")
    if not kept.exists():
        begin = time.process_time()
        run = train(
            recipe,
            data,
            output=folder,
            seed=seed,
            validation_split=HELD_OUT,
            resume=False,  # the CPU time of a stopped training is not known
        )
        found = {
            "accuracy": run.metrics["val_accuracy"],
            "training_accuracy": run.history["accuracy"][-1],
            "cpu_seconds": time.process_time() - begin,
            "n": run.metrics["n_val"],
        }
        if corruptions:
            found["extra_accuracy"] = extra_accuracy(run.model, data)
        write_json(kept, found)
    return json.loads(kept.read_text())


def parse_arguments():
    """Returns the options and the recipes to train, that of `--recipe` first."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="zip or folder, or 'sample'")
    parser.add_argument("variants", nargs="*", help="names or JSON; default: CHOICES")
    parser.add_argument("--recipe", default="best", help="name or .json file")
    parser.add_argument("--epochs", type=int, help="default: those of the recipe")
    parser.add_argument("--seed", type=int, nargs="+", default=[0], metavar="N")
    parser.add_argument("--dtype", help="default: that of the recipe")
    parser.add_argument(
        "--corruptions", action="store_true", help="also measure robustness"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    # Options may stand between data and variants.
    options = parser.parse_intermixed_args()
    try:
        base = recipes.get(options.recipe)
        if options.epochs is not None:
            base = base.over(options.epochs)
        if options.dtype is not None:
            base = dataclasses.replace(base, dtype=options.dtype)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    chosen = [dataclasses.replace(base, description=base.name)]
    for variant in options.variants or CHOICES:
        try:
            chosen.append(variant_recipe(base, variant))
        except (TypeError, ValueError) as error:
            parser.error(f"variant {variant!r}: {error}")
    return options, chosen


def main():
    options, (base, *variants) = parse_arguments()
    base_row = None
    corrupted = " corrupted |" if options.corruptions else ""
    print(
        f"| variant | accuracy | training accuracy | difference | cost | n |{corrupted}"
    )
    print("| --- " * (6 + options.corruptions) + "|", flush=True)
    for recipe in (base, *variants):
        runs = [
            trained(recipe, options.data, seed, options.output, options.corruptions)
            for seed in options.seed
        ]
        row = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
        base_row = base_row or row
        gain = 100 * (base_row["accuracy"] - row["accuracy"])
        print(
            f"| {recipe.description.replace('|', ' ')} | {row['accuracy']:.3f} "
            f"| {row['training_accuracy']:.3f} | {gain:+.1f} "
            f"| {base_row['cpu_seconds'] / row['cpu_seconds']:.2f} | {row['n']:,} |"
            + (f" {row['extra_accuracy']:.3f} |" if options.corruptions else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
