"""Runs the benchmarks, prints a table, and saves JSON and a chart.

    python tests/benchmarks/run.py --data tiny-imagenet-20.zip --output benchmarks

Close other programs first. Each benchmark runs in its own process, where both sides
alternate (A B A B). A ratio is their time divided by ours: above 1 ours is faster. A
target is met if the ratio is at least as large.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from measure import environment

HERE = Path(__file__).parent


def parts(options):
    """Yields a backend and a command for each benchmark."""
    backends = ["tensorflow"]
    backends += [name for name in ("torch", "jax") if importlib.util.find_spec(name)]
    for backend in backends:
        yield backend, ["lrn.py"]
        yield backend, ["memory.py"]
    yield "tensorflow", ["step.py"]
    if options.data:
        yield "tensorflow", ["data.py", options.data]


def run(backend, command):
    process = subprocess.Popen(
        [sys.executable, HERE / command[0], *command[1:]],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    for line in process.stdout:
        if line.startswith("ROW "):
            row = json.loads(line[4:])
            print(table_line(row), flush=True)
            yield row
    if process.wait():
        sys.exit(f"{' '.join(command)} failed under {backend}")


def table_line(row):
    target = row["target"]
    if target is None:
        verdict = ""
    else:
        verdict = f"{'met' if row['ratio'] >= target else 'short'} ({target:.3g}x)"
    return f"{row['ratio']:8.2f}x  {row['what']:46}  {row['against']:42}  {verdict}"


def chart(rows, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.32 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['what']}  vs.  {row['against']}" for row in rows]
    places = range(len(rows))
    axes.barh(places, [row["ratio"] for row in rows], color="#4c72b0")
    for place, row in zip(places, rows, strict=True):
        if row["target"] is not None:
            axes.plot([row["target"]] * 2, [place - 0.4, place + 0.4], color="#c44e52")
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("speedup (red: target)")
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="Tiny ImageNet's zip; default: skip data.py")
    parser.add_argument("--output", default="benchmarks", help="path without suffix")
    options = parser.parse_args()
    machine = environment()
    print(json.dumps(machine))
    rows = [row for backend, command in parts(options) for row in run(backend, command)]
    content = {"machine": machine, "rows": rows}
    Path(options.output + ".json").write_text(json.dumps(content, indent=1) + "\n")
    chart(rows, options.output + ".png")


if __name__ == "__main__":
    main()
