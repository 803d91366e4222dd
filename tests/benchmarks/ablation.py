"""What each choice of the recipe `best` brings, and what it costs.

    python tests/benchmarks/ablation.py tiny-imagenet-20.zip --epochs 8

Trains `best` over fewer epochs, and once more for each choice with that one taken
back, on the training images but a tenth, on which they are compared. Prints a line for
each: accuracy there and in training, the points that `best` is ahead, how many times
the processor time of the other it takes (other work on the machine changes that
little), and the images. Called again, the script keeps what is finished; names as
arguments take some of the choices.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

from keras_tinyalex import recipes, train

CHOICES = {
    "best": {},
    # Larger steps than these need the normalization.
    "no batch normalization": {"folded_batch_norm": False, "learning_rate": 1e-3},
    "AdamW": {"optimizer": "adamw", "learning_rate": 1e-3},
    "constant steps": {"schedule": "constant", "learning_rate": 1e-3},
    "no weight decay": {"weight_decay": 0.0},
    "hard labels": {"label_smoothing": 0.0},
    "no dropout": {"dropout": 0.0},
    "no augmentation": {"augmentation": None},
    "flip alone": {"augmentation": "flip"},
    "no cutout": {"augmentation": "crop_flip"},
    "more augmentation": {"augmentation": "zoom_flip_color_cutout"},
    "mixup or cutmix": {"mixing": "mixup_cutmix", "unmixed_epochs": 2},
    "He, no whitening": {"initialization": "he"},
    "Glorot, no whitening": {"initialization": "glorot"},
    "whole images throughout": {"half_size_epochs": 0},
    "batch 16": {"batch_size": 16},
    "batch 128": {"batch_size": 128},
}


def result(name, options):
    """Trains one and returns what is found; kept beside its run folder."""
    base = dataclasses.replace(recipes.BEST.over(options.epochs), dtype=options.dtype)
    recipe = dataclasses.replace(base, name=name, **CHOICES[name])
    data = Path(options.data).stem
    kind = f"{name} {data} {options.epochs} {options.dtype} {options.seed}"
    folder = options.output / kind.replace(" ", "-").replace(",", "")
    kept = folder.with_suffix(".json")
    if not kept.exists():
        before = time.process_time()
        run = train(
            recipe,
            options.data,
            output=folder,
            seed=options.seed,
            validation_split=0.1,
            resume=False,
        )
        found = {
            "accuracy": run.metrics["val_accuracy"],
            "n": run.metrics["n_val"],
            "in_training": run.history["accuracy"][-1],
            "processor_seconds": time.process_time() - before,
        }
        kept.write_text(json.dumps(found))
    return json.loads(kept.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="zip or folder")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CHOICES)}")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    options = parser.parse_args()
    base = result("best", options)
    for name in options.names or CHOICES:
        found = result(name, options)
        gain = 100 * (base["accuracy"] - found["accuracy"])
        cost = base["processor_seconds"] / found["processor_seconds"]
        print(
            f"| {name} | {found['accuracy']:.3f} | {found['in_training']:.3f} "
            f"| {gain:+.1f} | {cost:.2f} | {found['n']:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
