"""Fine-tunes the weights in the package on your own images.

    python examples/fine_tune.py my_folder

The folder has one subfolder per class, or train/ and val/ with such subfolders. Without
a folder, the script uses the embedded sample. `--scratch` trains the same network from
random weights for as many steps, which shows what the weights are worth.
"""

import argparse
import dataclasses

from keras_tinyalex import recipes, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="sample", help="folder or zip")
    parser.add_argument("--weights", default="tiny_imagenet_200", help="name or file")
    parser.add_argument("--epochs", type=int, help="default: those of the recipe")
    parser.add_argument("--scratch", action="store_true", help="from random weights")
    parser.add_argument("--smoke", action="store_true", help="2 classes, 1 epoch")
    options = parser.parse_args()
    recipe, weights = recipes.FINE_TUNE, options.weights
    if options.scratch:
        recipe = dataclasses.replace(recipes.BEST, min_steps=recipe.min_steps)
        weights = None

    run = train(
        recipe,
        options.data,
        classes=2 if options.smoke else None,
        weights=weights,
        epochs=1 if options.smoke else options.epochs,
        output=f"runs/{'scratch' if options.scratch else 'fine-tune'}",
    )
    low, high = run.metrics["interval"]
    accuracy = run.metrics["val_accuracy"]
    print(f"{accuracy:.3f} (95% {low:.3f} to {high:.3f}, n {run.metrics['n_val']})")


if __name__ == "__main__":
    main()
