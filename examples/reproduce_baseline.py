"""Reproduces the 35-epoch baseline on 20 classes of Tiny ImageNet.

    python examples/reproduce_baseline.py tiny-imagenet-200.zip --seeds 0 1 2

Without a dataset, the script trains on the embedded sample. Each seed gets a run folder
under runs/ with the model, curves and figures. If the script is interrupted, start it
again to resume. To see the curves: tensorboard --logdir runs
"""

import argparse
import statistics

import keras_tinyalex as tinyalex


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="sample", help="zip or folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="default: 35")
    parser.add_argument("--smoke", action="store_true", help="2 classes, 1 epoch")
    options = parser.parse_args()

    # The initial weights and the order of the images are random. Train with several
    # seeds to see how much the result varies.
    accuracies = []
    for seed in options.seeds:
        run = tinyalex.train(
            recipe="baseline",
            data=options.data,
            classes=2 if options.smoke else 20,
            output=f"runs/smoke-seed{seed}" if options.smoke else None,
            seed=seed,
            epochs=1 if options.smoke else options.epochs,
        )
        # 1,000 val images measure accuracy to within about 3 percentage points.
        low, high = run.metrics["interval"]
        accuracies.append(run.metrics["val_accuracy"])
        print(f"seed {seed}: {accuracies[-1]:.3f} (95% {low:.3f} to {high:.3f})")
        print(f"  run folder: {run.path}")
    print(f"mean of {len(accuracies)}: {statistics.mean(accuracies):.3f}")


if __name__ == "__main__":
    main()
