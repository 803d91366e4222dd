"""Compares `tuning.search` with a bare KerasTuner search over the same trials.

    python tests/benchmarks/tuning_overhead.py --epochs 2 --trials 2 --repeats 3

Both train the same recipes on 1,800 images of the sample, alternating (A B A B).
Prints the wall-clock and CPU time of each, and the overhead from their medians. On a
machine with other programs, look at CPU time only.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras_tuner

from keras_tinyalex import Recipe
from keras_tinyalex.splits import load_splits
from keras_tinyalex.tuning import HyperAlexNetMini, search
from keras_tinyalex.tuning.searching import HELD_OUT


class Given(keras_tuner.oracles.RandomSearchOracle):
    """Tries the given values, so that both searches have the same trials."""

    def __init__(self, values, **options):
        super().__init__(max_trials=len(values), **options)
        self.given = values

    def populate_space(self, trial_id):
        return {"status": "RUNNING", "values": self.given[int(trial_id)]}


def ours(recipe, epochs, trials, folder):
    search(
        "sample",
        "augmentation",
        "random",
        recipe=recipe,
        epochs=epochs,
        max_trials=trials,
        output=folder,
        progress=False,
    )
    state = json.loads((folder / "oracle.json").read_text())["trials"]
    return [state[name]["hyperparameters"]["values"] for name in sorted(state)]


def bare(recipe, epochs, values, folder):
    train_data, held_out, _ = load_splits("sample", 20, HELD_OUT)
    oracle = Given(values, objective=keras_tuner.Objective("val_accuracy", "max"))
    hypermodel = HyperAlexNetMini(space="augmentation", recipe=recipe)
    tuner = keras_tuner.Tuner(oracle, hypermodel, directory=folder, project_name="bare")
    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        tuner.search(
            train_data.images,
            train_data.labels,
            validation_data=(held_out.images, held_out.labels),
            epochs=epochs,
            verbose=0,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    recipe = Recipe("bench", batch_size=64, epochs=options.epochs)
    seconds = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # The first of each fills the caches and is not counted.
        for repeat in range(options.repeats + 1):
            for name in seconds:
                begin = time.perf_counter(), time.process_time()
                if name == "ours":
                    where = folder / f"ours{repeat}"
                    values = ours(recipe, options.epochs, options.trials, where)
                else:
                    bare(recipe, options.epochs, values, folder / f"bare{repeat}")
                wall = time.perf_counter() - begin[0]
                cpu = time.process_time() - begin[1]
                print(f"{name} {repeat}: {wall:.2f} s, CPU {cpu:.2f} s")
                if repeat:
                    seconds[name].append((wall, cpu))
    for kind, index in (("wall clock", 0), ("CPU", 1)):
        a, b = (statistics.median(t[index] for t in seconds[n]) for n in seconds)
        print(f"{kind}: ours {a:.2f} s, bare {b:.2f} s, overhead {a / b - 1:+.1%}")


if __name__ == "__main__":
    main()
