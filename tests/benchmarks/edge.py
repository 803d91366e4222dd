"""Compares exported networks: size, accuracy, latency, memory and start-up.

    python tests/benchmarks/edge.py tiny-imagenet-200.zip

Exports models to ONNX Runtime, LiteRT and OpenVINO in float32, float16 and int8, and
prints Markdown tables. The accuracy is that of all `--models`, the latency that of the
first one and, for scale, of MobileNetV3Small without weights. Keras is measured by
`predict`, by `model(x)` and by `tf.function(jit_compile=True)`.

Each row runs in a process of its own, which imports its runtime alone. In every round
each process is timed in turn (A B A B), and latency is the median over `--rounds`, in
milliseconds a picture. Start-up is the time from the first import to the first scores,
and memory the peak of the process after all latencies. Ratios are medians of the ratios
within a round.
"""

import argparse
import importlib.metadata
import importlib.util
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
KINDS = ("float32", "float16", "int8")
KERAS = ("predict", "model(x)", "compiled")
# Calls in a round, by batch size.
CALLS = {1: 20, 32: 3}
PACKAGES = ("keras", "tensorflow", "onnxruntime", "ai-edge-litert", "openvino")
SCALE = "MobileNetV3Small"


@dataclass
class Row:
    """What runs in one process, and its measurements.

    Attributes:
        network: Name of the network.
        runtime: `"Keras"`, or a format of `export`.
        kind: How Keras is called, or the type of the weights.
        path: The file, beside `images.npy` and `labels.npy`.
        times: Milliseconds a picture in each round, by threads and batch size.
        startup: Seconds, by threads.
        memory: Bytes, by threads.
        accuracy: Top 1 and the number of images, or `None`.
    """

    network: str
    runtime: str
    kind: str
    path: Path
    times: dict = field(default_factory=lambda: defaultdict(list))
    startup: dict = field(default_factory=dict)
    memory: dict = field(default_factory=dict)
    accuracy: tuple | None = None

    @property
    def size(self):
        weights = self.path.with_suffix(".bin")  # of OpenVINO
        files = [self.path, weights] if self.runtime == "openvino" else [self.path]
        return sum(file.stat().st_size for file in files)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", help="source of images: the train split calibrates, val measures")
    weights = ["tiny_imagenet_200", "tiny_imagenet_20"]
    add("--models", nargs="+", default=weights, help="names of weights, or files")
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--rounds", type=int, default=10)
    add("--only", default="", help="regular expression: rows 'network runtime kind'")
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for index, name in enumerate(options.models):
            rows += export_all(name, options, Path(folder), for_scale=index == 0)
        for row in rows:
            if row.network != SCALE and row.kind not in KERAS[1:]:
                note("accuracy", row)
                row.accuracy = measure_accuracy(row, max(options.threads))
        timed = [row for row in rows if row.network in (options.models[0], SCALE)]
        for network in (options.models[0], SCALE):
            for threads in options.threads:
                alternating = [row for row in timed if row.network == network]
                time_rows(alternating, threads, options.rounds)
        print_environment(options)
        print_accuracy([row for row in rows if row.accuracy])
        print_latency(timed, options.threads)
        print_ratios(timed, options.threads)


def note(what, row):
    print(what, row.network, row.runtime, row.kind, file=sys.stderr)


def export_all(name, options, folder, for_scale):
    """Writes the models and the val images; returns the rows of the tables."""
    import keras

    from keras_tinyalex import export
    from keras_tinyalex.applications import load_model, save_model
    from keras_tinyalex.exporting import measuring

    folder = folder / Path(name).name
    folder.mkdir()
    model, class_names = load_model(name)
    images, labels = measuring.read_images(
        "data", model, options.data, class_names, "val"
    )
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    networks = {name: model}
    if for_scale:
        networks[SCALE] = keras.applications.MobileNetV3Small(
            input_shape=(64, 64, 3), weights=None, classes=len(class_names)
        )
    rows = []
    for network, model in networks.items():
        path = folder / f"{model.name}.keras"
        save_model(model, path, class_names)
        new = [Row(network, "Keras", call, path) for call in KERAS]
        for runtime, suffix in SUFFIXES.items():
            for kind in KINDS:
                path = folder / f"{model.name}-{kind}{suffix}"
                new.append(Row(network, runtime, kind, path))
        for row in new:
            if not re.search(options.only, f"{network} {row.runtime} {row.kind}"):
                continue
            rows.append(row)
            if row.runtime != "Keras":
                note("export", row)
                quantize = None if row.kind == "float32" else row.kind
                data = options.data if row.kind == "int8" else None
                arguments = {"quantize": quantize, "calibration": data}
                # Its accuracy is measured later; MobileNet's scores are random.
                export(model, row.path, row.runtime, False, class_names, **arguments)
    return rows


class Worker:
    """A process that has opened a model."""

    def __init__(self, row, threads):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, row.runtime, row.kind, row.path, threads)
        self.process = context.Process(target=serve, args=arguments)
        self.process.start()
        theirs.close()
        self.startup = self.pipe.recv()

    def ask(self, *question):
        self.pipe.send(question)
        return self.pipe.recv()

    def close(self):
        self.pipe.send(None)
        self.process.join()


def measure_accuracy(row, threads):
    worker = Worker(row, threads)
    accuracy = worker.ask("accuracy")
    worker.close()
    return accuracy


def time_rows(rows, threads, rounds):
    """Times models, which alternate."""
    workers = []
    for row in rows:
        note(f"{threads} thread(s)", row)
        workers.append((row, Worker(row, threads)))
    for row, worker in workers:
        row.startup[threads] = worker.startup
    for _ in range(rounds):
        for batch_size, calls in CALLS.items():
            for row, worker in workers:
                found = worker.ask("latency", batch_size, calls)
                row.times[threads, batch_size].append(found)
    for row, worker in workers:
        row.memory[threads] = worker.ask("memory")
        worker.close()


def serve(pipe, runtime, kind, path, threads):
    """Answers a `Worker`, in the other process."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    start = time.perf_counter()
    run = open_model(runtime, kind, path, threads)
    np.asarray(run(np.zeros((1, 64, 64, 3), np.float32)))
    pipe.send(time.perf_counter() - start)
    images = np.load(path.with_name("images.npy"), mmap_mode="r")
    labels = np.load(path.with_name("labels.npy"))
    for question, *arguments in iter(pipe.recv, None):
        if question == "latency":
            pipe.send(latency(run, images, *arguments))
        elif question == "memory":
            pipe.send(peak_memory())
        else:
            pipe.send(accuracy(run, images, labels))


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


def latency(run, images, batch_size, calls):
    batch = np.resize(images[:batch_size], (batch_size, *images.shape[1:]))
    batch = batch.astype(np.float32)
    for _ in range(2):  # compiles, allocates, and fills caches that others used
        np.asarray(run(batch))
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        np.asarray(run(batch))
        times.append(time.perf_counter() - start)
    return statistics.median(times) / batch_size * 1e3


def accuracy(run, images, labels):
    starts = range(0, len(images), 100)
    batches = (images[i : i + 100].astype(np.float32) for i in starts)
    found = np.concatenate([np.asarray(run(x)).argmax(axis=-1) for x in batches])
    return float((found == labels).mean()), len(labels)


def peak_memory():
    """Returns bytes. Linux counts what the starting process had in `ru_maxrss`."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def print_environment(options):
    from keras_tinyalex import machine

    found = machine.environment()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    threads = " and ".join(map(str, options.threads))
    print(
        f"{found['processor']}, {found['cores']} cores; {threads} thread(s), ", end=""
    )
    print(f"{options.rounds} rounds; {', '.join(versions)}")


def print_accuracy(rows):
    lines = []
    for row in rows:
        top1, n = row.accuracy
        kind = "" if row.runtime == "Keras" else row.kind
        figures = [f"{row.size / 1e6:.1f}", f"{top1:.4f}", f"{n:,}"]
        lines.append([row.network, row.runtime, kind, *figures])
    print_table(["network", "runtime", "", "size, MB", "top 1", "n"], lines)


def print_latency(rows, threads):
    settings = columns_of(threads)
    lines = []
    for row in rows:
        times = [statistics.median(row.times[key]) for key in settings.values()]
        line = [row.network, row.runtime, row.kind, *(f"{t:.2f}" for t in times)]
        first = threads[0]
        line += [f"{row.memory[first] / 1e6:.0f}", f"{row.startup[first]:.2f}"]
        lines.append(line)
    header = ["network", "runtime", "", *(f"ms, {name}" for name in settings)]
    print_table([*header, "memory, MB", "start-up, s"], lines)


def print_ratios(rows, threads):
    settings = columns_of(threads)
    lines = []
    for network in dict.fromkeys(row.network for row in rows):
        found = {(r.runtime, r.kind): r for r in rows if r.network == network}
        exported = [row for row in found.values() if row.runtime != "Keras"]
        for runtime in SUFFIXES:
            pair = found.get((runtime, "float32")), found.get((runtime, "int8"))
            if all(pair):
                cells = [f"{ratio(*pair, key):.1f}" for key in settings.values()]
                lines.append([network, f"{runtime}: float32 / int8", *cells])
        predict = found.get(("Keras", "predict"))
        if predict and exported:
            cells = []
            for key in settings.values():
                fastest = min(exported, key=lambda r: statistics.median(r.times[key]))
                name = f"{fastest.runtime} {fastest.kind}"
                cells.append(f"{ratio(predict, fastest, key):.1f} ({name})")
            lines.append([network, "`predict` / fastest export", *cells])
    print_table(["network", "time / time", *settings], lines)


def columns_of(threads):
    """Returns the keys of `Row.times` by the name of the column."""
    return {
        f"batch {batch_size}, {count} thread{'s' if count > 1 else ''}": (
            count,
            batch_size,
        )
        for count in threads
        for batch_size in CALLS
    }


def ratio(slow, fast, key):
    pairs = zip(slow.times[key], fast.times[key], strict=True)
    return statistics.median(a / b for a, b in pairs)


def print_table(header, lines):
    texts = sum(
        column in ("network", "runtime", "", "time / time") for column in header
    )
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    print()
    for line in (header, rule, *lines):
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
