"""Compares trainings on several devices and in several processes with one device.

    python tests/benchmarks/devices.py weights --dtype float64
    python tests/benchmarks/devices.py gradient
    python tests/benchmarks/devices.py overhead

Each training has processes of its own, on the JAX backend. Devices are those of a CPU
that JAX divides; processes meet on the loopback address.
"""

import argparse
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ONE = (1, 1)
# Devices of each process, and processes.
OTHERS = ((4, 1), (1, 2), (1, 4))
# Other first weights, to see how far a training amplifies a rounding error.
PERTURBED = 1e-7


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("weights", "gradient", "overhead"))
    parser.add_argument("--recipe", nargs="+", default=["baseline", "best"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=90)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--perturbed", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(**json.loads(options.child))
    elif options.table == "overhead":
        start_child(options.dtype, kind="overhead", recipes=options.recipe)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for recipe in options.recipe:
                compare(Path(folder), recipe, options)


def compare(folder, recipe, options):
    """Prints the largest differences to a training on one device."""
    changes = {"dtype": options.dtype, "width_multiplier": options.width}
    epochs = options.epochs
    gradient = options.table == "gradient"
    if gradient:
        # One step, whose gradient is accumulated and therefore in the checkpoint.
        changes |= {"batch_size": options.images, "accumulated_steps": 2}
        epochs = 1
    print(
        f"{recipe}, {options.dtype}, width {options.width:g}, {options.images} images, "
        f"{epochs} epochs: {options.table} that differ from those of one device",
        flush=True,
    )
    first = None
    for devices, processes in (ONE, *OTHERS[: 1 + 2 * (not options.perturbed)]):
        perturbed = options.perturbed and (devices, processes) != ONE
        found = train_in(
            folder, options, recipe, changes, epochs, devices, processes, perturbed
        )
        arrays = [
            array
            for name, array in found.items()
            if array.dtype.kind == "f"
            and ("accumul" in name if gradient else name.startswith("model/"))
        ]
        assert arrays
        found = np.concatenate([np.ravel(array) for array in arrays])
        if first is None:
            first = found
            continue
        largest = abs(found - first).max()
        relative = np.linalg.norm(found - first) / np.linalg.norm(first)
        name = f"first weights changed by {PERTURBED:g}"
        if not perturbed:
            name = (
                f"{devices * processes} {'processes' if processes > 1 else 'devices'}"
            )
        print(f"  {name:<34} {largest:9.2g} {relative:9.2g} relative", flush=True)


def train_in(folder, options, recipe, changes, epochs, devices, processes, perturbed):
    """Trains in so many processes; returns the newest checkpoint."""
    output = Path(tempfile.mkdtemp(dir=folder))
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = "{}:{}".format(*server.getsockname())
    started = [
        start_child(
            options.dtype,
            devices,
            home=folder,
            kind="train",
            connect=(processes, number, coordinator),
            recipe=recipe,
            changes=changes,
            epochs=epochs,
            images=options.images,
            output=str(output),
            perturbed=perturbed,
        )
        for number in range(processes)
    ]
    errors = [process.communicate()[1] for process in started]
    assert not any(process.returncode for process in started), "\n".join(errors)[-3000:]
    newest = sorted((output / "checkpoints").glob("epoch-*.npz"))[-1]
    with np.load(newest) as arrays:
        return dict(arrays)


def start_child(dtype, devices=1, home=None, **arguments):
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_ENABLE_X64": str(int(dtype == "float64")),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, __file__, "overhead", "--child", json.dumps(arguments)]
    if home is None:
        return subprocess.run(command, env=environment, check=True)
    # Losses have the dtype of Keras' configuration.
    (home / "keras.json").write_text(json.dumps({"floatx": dtype}))
    environment["KERAS_HOME"] = str(home)
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def child(kind, **arguments):
    train(**arguments) if kind == "train" else overhead(**arguments)


def train(connect, recipe, changes, epochs, images, output, perturbed):
    from keras_tinyalex import fitting, processes, recipes, training

    processes.connect(*connect)
    if perturbed:
        fitting.build = perturb(fitting.build)
    recipe = recipes.get(recipe).over(epochs)
    data = pictures(images)
    training.load_splits = lambda *arguments: training.Splits(data, data, {}, [])
    training._write_plots = lambda *arguments: None
    training.train(
        dataclasses.replace(recipe, **changes), output=output, progress=False
    )


def perturb(build):
    def perturbed(*arguments):
        model = build(*arguments)
        generator = np.random.default_rng(1)
        for variable in model.trainable_variables:
            noise = generator.standard_normal(variable.shape)
            variable.assign_add(PERTURBED * noise.astype(variable.dtype))
        return model

    return perturbed


def pictures(count):
    """Blurred noise of another color in each of three classes."""
    from keras_tinyalex.datasets.batches import LabelledArrays

    generator = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = generator.integers(0, 128, (count, 8, 8, 3)).repeat(8, 1).repeat(8, 2)
    images[np.arange(count), :, :, labels] += 64
    images = images + generator.integers(0, 64, images.shape)
    names = tuple(f"{number}.JPEG" for number in range(count))
    return LabelledArrays(images.astype("uint8"), labels, ("a", "b", "c"), names)


def overhead(recipes, rounds=9, steps=8):
    """Times training steps on one device through the engine and without, A B A B."""
    from keras_tinyalex.building import build
    from keras_tinyalex.devices import WholeBatch, copy_to
    from keras_tinyalex.fitting import fit, make_batches
    from keras_tinyalex.recipes import get

    engine = WholeBatch(devices=["cpu:0"], auto_shard_dataset=False)
    for name in recipes:
        recipe = dataclasses.replace(
            get(name), dtype="float32", half_size_epochs=0, epochs=1
        )
        data = pictures(recipe.batch_size * steps)
        plain = build(recipe, data, 0, None)
        through = copy_to(engine, plain, recipe, len(data.labels))
        batches, _ = make_batches(recipe, data, data, 0)

        def measure(model, scope, recipe=recipe, batches=batches):
            wall, cpu = time.perf_counter(), time.process_time()
            with scope:
                fit(model, recipe, batches, None, 1, verbose=0)
            return time.perf_counter() - wall, time.process_time() - cpu

        pairs = []
        for _ in range(rounds + 1):
            without = measure(plain, tempfile.TemporaryDirectory())
            pairs.append((measure(through, engine.scope()), without))
        ratios = np.array([np.divide(a, b) for a, b in pairs[1:]])
        wall, cpu = np.median(ratios, axis=0)
        low, high = np.quantile(ratios[:, 1], [0.25, 0.75])
        milliseconds = statistics.median(b[1] for _, b in pairs[1:]) / steps * 1e3
        print(
            f"{name}, one device through the engine against without, batch "
            f"{recipe.batch_size}, {rounds} rounds of {steps} steps of "
            f"{milliseconds:.0f} ms of CPU time: wall {wall:.3f}, CPU time {cpu:.3f} "
            f"(quartiles {low:.3f} to {high:.3f}), load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
