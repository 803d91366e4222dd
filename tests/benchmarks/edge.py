"""Compares exported networks: size, accuracy, latency, memory and start-up.

    python tests/benchmarks/edge.py tiny_imagenet_20 tiny-imagenet-20.zip

Exports a model, and MobileNetV3Small without weights for scale, to ONNX Runtime,
LiteRT and OpenVINO in float32, float16 and int8, and prints a Markdown table. Each row
has processes of its own, for each number of threads; they alternate, `--rounds` times,
and the table shows medians. Keras is measured by `predict`, by `model(x)` and by
`tf.function(jit_compile=True)`.

Latency is in milliseconds a picture. Start-up is the time from the first import to the
first scores, and memory the peak of the process until then and after all latencies.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
FORMATS = {"onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
KINDS = {"float32": None, "float16": "float16", "int8": "int8"}
KERAS = ("predict", "model(x)", "compiled")
BATCHES = {1: 200, 32: 20}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("model", help="model file, or a name from 'keras-tinyalex weights list'")
    add("data", help="source of images: the train split calibrates, val measures")
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--rounds", type=int, default=3)
    add("--measure", help=argparse.SUPPRESS)  # one row, in this process
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = export_all(options.model, options.data, Path(folder))
        for _ in range(options.rounds):
            for row in rows:
                for threads in options.threads:
                    row["measured"][threads].append(in_a_process(row, threads))
        print_table(rows, options.threads)


def export_all(name, data, folder):
    """Writes the models and the val images; returns the rows of the table."""
    import keras

    from keras_tinyalex.applications import load_model, save_model
    from keras_tinyalex.exporting import measuring

    model, class_names = load_model(name)
    images, labels = measuring.read_images("data", model, data, class_names, "val")
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    small = keras.applications.MobileNetV3Small(
        input_shape=(64, 64, 3), weights=None, classes=len(class_names)
    )
    rows = []
    for network, trained in (model, True), (small, False):
        path = folder / f"{network.name}.keras"
        save_model(network, path, class_names)
        for call in KERAS:
            size = path.stat().st_size
            rows.append(row(network.name, "Keras", call, path, size, trained))
        for format in FORMATS:
            for kind in KINDS:
                path = folder / f"{network.name}-{kind}{FORMATS[format]}"
                size = export_one(network, path, format, kind, class_names, data)
                rows.append(row(network.name, format, kind, path, size, trained))
    return rows


def export_one(model, path, format, kind, class_names, data):
    """Exports a model and returns its size; the accuracy is measured later."""
    from keras_tinyalex import export

    calibration = data if kind == "int8" else None
    arguments = {"quantize": KINDS[kind], "calibration": calibration}
    return export(model, path, format, False, class_names, **arguments).size


def row(network, runtime, kind, path, size, trained):
    return {
        "network": network,
        "runtime": runtime,
        "kind": kind,
        "path": str(path),
        "size": size,
        "trained": trained,
        "measured": defaultdict(list),
    }


def in_a_process(row, threads):
    task = [row["runtime"], row["kind"], row["path"], threads, row["trained"]]
    command = [sys.executable, __file__, "-", "-", "--measure", json.dumps(task)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(runtime, kind, path, threads, trained):
    """Measures one model in this process, which imports its runtime alone."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    path = Path(path)
    start = time.perf_counter()
    run = open_model(runtime, kind, path, threads)
    run(np.zeros((1, 64, 64, 3), np.float32))
    result = {"startup": time.perf_counter() - start}
    images = np.load(path.with_name("images.npy"), mmap_mode="r")
    for batch_size, rounds in BATCHES.items():
        result[f"batch {batch_size}"] = latency(run, images, batch_size, rounds)
    result["memory"] = peak_memory()
    if trained:
        labels = np.load(path.with_name("labels.npy"))
        starts = range(0, len(images), 100)
        batches = (images[i : i + 100].astype(np.float32) for i in starts)
        found = np.concatenate([np.asarray(run(x)).argmax(axis=-1) for x in batches])
        result["top1"] = float((found == labels).mean())
    return result


def open_model(runtime, kind, path, threads):
    if runtime == "Keras":
        return open_keras(kind, path, threads)
    # The package would import Keras: only the module that runs models is wanted.
    place = ROOT / "keras_tinyalex" / "exporting" / "formats.py"
    spec = importlib.util.spec_from_file_location("formats", place)
    formats = importlib.util.module_from_spec(spec)
    sys.modules["formats"] = formats
    spec.loader.exec_module(formats)
    return formats.FORMATS[runtime].open(path, threads)


def open_keras(call, path, threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    import keras

    import keras_tinyalex.layers  # noqa: F401, registers the layer

    model = keras.models.load_model(path, compile=False)
    if call == "predict":
        return lambda images: model.predict(images, verbose=0)
    if call == "model(x)":
        return lambda images: model(images, training=False)
    return tf.function(lambda images: model(images, training=False), jit_compile=True)


def latency(run, images, batch_size, rounds):
    batch = np.resize(images[:batch_size], (batch_size, *images.shape[1:]))
    batch = batch.astype(np.float32)
    for _ in range(3):
        np.asarray(run(batch))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        np.asarray(run(batch))
        times.append(time.perf_counter() - start)
    return statistics.median(times) / batch_size * 1e3


def peak_memory():
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def print_table(rows, threads):
    columns = ["network", "runtime", "", "size, MB", "top 1"]
    for count in threads:
        plural = "s" if count > 1 else ""
        columns += [f"ms, batch {b}, {count} thread{plural}" for b in BATCHES]
    columns += ["memory, MB", "start-up, s"]
    lines = [columns, ["---"] * 3 + ["---:"] * (len(columns) - 3)]
    for row in rows:
        first = row["measured"][threads[0]]

        def median(key, measured=first):
            return statistics.median(result[key] for result in measured)

        cells = [
            row["network"],
            row["runtime"],
            row["kind"],
            f"{row['size'] / 1e6:.1f}",
        ]
        cells.append(f"{first[0]['top1']:.4f}" if row["trained"] else "")
        for count in threads:
            measured = row["measured"][count]
            cells += [f"{median(f'batch {b}', measured):.2f}" for b in BATCHES]
        cells += [f"{median('memory'):.0f}", f"{median('startup'):.2f}"]
        lines.append(cells)
    for line in lines:
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
