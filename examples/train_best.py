"""Trains the recipe `best`, and measures the effect of one of its choices.

    python examples/train_best.py tiny-imagenet-200.zip
    python examples/train_best.py tiny-imagenet-200.zip --without augmentation

With --without, a second run uses the baseline's value of that field. Both runs are
compared on a held-out split, 10% of the training images: choosing on the val images,
which are the test set, would bias the result. Without a dataset, the script trains on
the embedded sample. If it is interrupted, start it again to resume.
"""

import argparse
import dataclasses
from pathlib import Path

import keras_tinyalex as tinyalex
from keras_tinyalex import recipes


def main() -> None:
    choices = [field.name for field in dataclasses.fields(recipes.Recipe)]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="sample", help="zip or folder")
    parser.add_argument("--without", choices=choices, help="field of the recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="2 classes, 1 epoch")
    options = parser.parse_args()

    # Each run needs its own folder: `train` refuses the folder of another run.
    kind = ("held-out" if options.without else "val") + "-smoke" * options.smoke
    folder = f"{Path(options.data).stem}-{kind}-seed{options.seed}"
    # A recipe is a frozen dataclass: `replace` returns a copy with changed fields.
    compared = [recipes.BEST]
    if options.without:
        old = {options.without: getattr(recipes.BASELINE, options.without)}
        name = f"best-without-{options.without}"
        compared.append(dataclasses.replace(recipes.BEST, name=name, **old))
    for recipe in compared:
        run = tinyalex.train(
            recipe=recipe,
            data=options.data,
            classes=2 if options.smoke else 20,
            output=f"runs/{recipe.name}-{folder}",
            seed=options.seed,
            epochs=1 if options.smoke else None,
            validation_split=0.1 if options.without else None,
        )
        low, high = run.metrics["interval"]
        accuracy, n = run.metrics["val_accuracy"], run.metrics["n_val"]
        print(f"{recipe.name}: {accuracy:.3f} (95% {low:.3f} to {high:.3f}, n {n})")
        print(f"  run folder: {run.path}")


if __name__ == "__main__":
    main()
