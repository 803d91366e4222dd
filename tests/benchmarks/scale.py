"""Shows how the cost of the data grows with the number of images.

    python tests/benchmarks/scale.py tiny-imagenet-200.zip --plot scale.png

Loads the train images of 2, 20, 60 and 200 classes, with 500 images each, as `train`
does. Each size has a process of its own and an empty cache. Prints a row of a Markdown
table for each: seconds to find the images, to load them for the first time (decoding),
to load them again, and to digest their pixels; what the process needs in memory beyond
its imports; and the size of a checkpoint of `best` with so many classes. Values are
medians of three processes, with the range of the first load.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

CLASSES = (2, 20, 60, 200)
COLUMNS = ("find", "first load", "load again", "digest")


def peak_megabytes():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_here(data, count):
    """Prints the seconds of each column, the memory, and the number of images."""
    from measure import seconds

    from keras_tinyalex import runs
    from keras_tinyalex.datasets.layout import open_source
    from keras_tinyalex.datasets.reading import read_split

    sample = open_source("sample")
    read_split(sample, "train", sample.class_names)  # imports what it uses
    idle = peak_megabytes()
    found = {}

    def find():
        found["source"] = open_source(data)
        found["names"] = found["source"].select(count)

    def load():
        arguments = found["source"], "train", found["names"]
        found["images"] = read_split(*arguments, cache=True)

    times = [seconds(find), seconds(load), seconds(load)]
    times.append(seconds(lambda: runs.data_digest(found["images"])))
    memory = peak_megabytes() - idle
    print(json.dumps([len(found["images"].labels), *times, memory, checkpoint(count)]))


def checkpoint(classes):
    """The megabytes of weights, averages and state of the optimizer."""
    from keras_tinyalex import building, recipes
    from keras_tinyalex.checkpoints import _state_variables

    model = building.build_model(recipes.BEST, seed=0, num_classes=classes)
    building.compile_model(model, recipes.BEST, images=500 * classes)
    model.optimizer.build(model.trainable_variables)
    variables = _state_variables(model).values()
    return sum(variable.numpy().nbytes for variable in variables) / 1e6


def measure(data, count):
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, __file__, data, "--child", str(count)]
        text = subprocess.check_output(
            command, text=True, env={**os.environ, "KERAS_HOME": home}
        )
    return json.loads(text.splitlines()[-1])


def chart(rows, path):
    from matplotlib.figure import Figure

    from keras_tinyalex.visualization.style import own_style

    with own_style():
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        images = [row[0] for row in rows]
        for index, name in enumerate(COLUMNS, 1):
            axes.loglog(images, [row[index] for row in rows], marker="o", label=name)
        axes.set_xticks(images, [f"{count:,}" for count in images])
        axes.set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
        axes.minorticks_off()
        axes.set_xlabel("training images")
        axes.set_ylabel("seconds")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="all of Tiny ImageNet, zip or folder")
    parser.add_argument("--plot", metavar="FILE", help="write a chart to this file")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure_here(options.data, options.child)
        return
    print("| images | " + " | ".join(COLUMNS) + " | memory, MB | checkpoint, MB |")
    print("| --- " * (len(COLUMNS) + 3) + "|", flush=True)
    rows = []
    for count in CLASSES:
        values = list(
            zip(*(measure(options.data, count) for _ in range(3)), strict=True)
        )
        images, *medians = (statistics.median(column) for column in values)
        rows.append((images, *medians))
        cells = [f"{value:.2f}" for value in medians[:4]]
        cells[1] += f" ({min(values[2]):.2f} to {max(values[2]):.2f})"
        cells += [f"{value:.0f}" for value in medians[4:]]
        print(f"| {images:,} | {' | '.join(cells)} |", flush=True)
    if options.plot:
        chart(rows, options.plot)


if __name__ == "__main__":
    main()
