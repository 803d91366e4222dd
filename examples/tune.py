"""Searches for a better recipe than the baseline, then measures what it found.

    python examples/tune.py tiny-imagenet-200.zip --space all --epochs 12

Without a data set it searches on the embedded sample. `--smoke` tries it out in a
minute or two: one quarter of the width, two classes, two trials. A stopped script
goes on where it was when it is started again.
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
    parser.add_argument("--smoke", action="store_true", help="quick, says nothing")
    options = parser.parse_args()

    # A space says which choices of a recipe may vary; a tuner, in which order they are
    # tried. Hyperband trains many recipes briefly and goes on with the promising ones.
    arguments: dict = {"space": options.space, "tuner": options.tuner}
    arguments |= {"epochs": options.epochs, "classes": 20}
    if options.smoke:
        narrow = Recipe("narrow", width_multiplier=0.25)
        arguments |= {"space": "augmentation", "tuner": "random", "max_trials": 2}
        arguments |= {"recipe": narrow, "epochs": 1, "classes": 2}
        options.seeds, options.output = [0], "runs/smoke-tune"
    found = tuning.search(options.data, output=options.output, **arguments)

    # Trials are compared on a tenth of the training images. The best of many is lucky
    # there, too, so that the number below is a little too good.
    print(f"{len(found.ranking)} trials completed; all of them are in {found.path}")
    baseline, best = found.trials[0], found.ranking[0]
    for name, trial in (("baseline", baseline), ("best", best)):
        accuracy, epochs = trial["val_accuracy"], trial["epochs"]
        print(f"  {name}: {accuracy:.3f} on the held-out images, {epochs} epochs")
    print(f"its recipe, for train --recipe: {found.path / 'best.json'}")

    # The honest number: trained again with new seeds, measured on the val images, which
    # the search has not seen.
    runs = tuning.retrain(found.path, seeds=options.seeds)
    accuracies = [run["val_accuracy"] for run in runs]
    print(
        f"best recipe on the val images, {runs[0]['epochs']} epochs on all training "
        f"images, mean of {len(runs)}: {statistics.mean(accuracies):.3f}"
    )


if __name__ == "__main__":
    main()
