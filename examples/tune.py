"""Searches for a better recipe than the baseline, then trains and measures it.

    python examples/tune.py tiny-imagenet-200.zip --space all --epochs 12

Without a dataset, the script searches on the embedded sample. `--smoke` is a quick test
of a minute or two: a quarter of the width, two classes, two trials. If the script is
interrupted, start it again to resume.
"""

import argparse
import statistics

from keras_tinyalex import Recipe, tuning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="sample", help="zip or folder")
    parser.add_argument("--space", choices=list(tuning.SPACES), default="all")
    parser.add_argument("--tuner", default="hyperband")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", default="runs/example-tune")
    parser.add_argument("--smoke", action="store_true", help="2 classes, 1 epoch")
    options = parser.parse_args()

    # The space lists the fields of a recipe that may vary; the tuner selects trials.
    # Hyperband trains many recipes briefly and continues the most promising ones.
    arguments: dict = {"space": options.space, "tuner": options.tuner}
    arguments |= {"epochs": options.epochs, "classes": 20}
    if options.smoke:
        narrow = Recipe("narrow", width_multiplier=0.25)
        arguments |= {"space": "augmentation", "tuner": "random", "max_trials": 2}
        arguments |= {"recipe": narrow, "epochs": 1, "classes": 2}
        options.seeds, options.output = [0], "runs/smoke-tune"
    found = tuning.search(options.data, output=options.output, **arguments)

    # Trials are compared on a held-out split, 10% of the training images. The best of
    # many trials is partly luck, so its accuracy here is slightly optimistic.
    print(f"{len(found.ranking)} trials completed; search folder: {found.path}")
    baseline, best = found.trials[0], found.ranking[0]
    for name, trial in (("baseline", baseline), ("best", best)):
        accuracy, epochs = trial["val_accuracy"], trial["epochs"]
        print(f"  {name}: {accuracy:.3f} on the held-out split, {epochs} epochs")
    print(f"best recipe, for train --recipe: {found.path / 'best.json'}")

    # For an unbiased result, train the recipe again with new seeds, on all training
    # images, and measure it on the val images, which the search has not used.
    runs = tuning.retrain(found.path, seeds=options.seeds)
    accuracies = [run["val_accuracy"] for run in runs]
    print(
        f"best recipe on the val images, {runs[0]['epochs']} epochs on all training "
        f"images, mean of {len(runs)}: {statistics.mean(accuracies):.3f}"
    )


if __name__ == "__main__":
    main()
