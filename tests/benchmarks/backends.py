"""Compares the training step on JAX and PyTorch with that on TensorFlow, on a CPU.

    python tests/benchmarks/backends.py

Each backend trains in a process of its own, in the dtype that `--dtype auto` chooses
for it, and keeps freed memory, as `train` does. The processes alternate. A ratio is the
time of TensorFlow divided by that of the backend.

Other rows for each backend give the same for a model with `compile` and `fit` of one's
own, and the part of the step that the convolutions take, each measured alone, forward
and backward, in the same process: the framework's own time.
"""

import functools
import json
import os
import statistics
import subprocess
import sys

import keras
import numpy as np
from measure import row, seconds
from step import epoch_of, images, our_batches, ours

from keras_tinyalex.machine import fastest_dtype, keep_freed_memory

BATCH_SIZE, STEPS = 64, 8
# Height and width, input and output channels of the convolutions of AlexNetMini.
CONVOLUTIONS = [(64, 3, 32), (32, 32, 64), (16, 64, 128), (16, 128, 128), (16, 128, 64)]
BACKENDS = ("tensorflow", "jax", "torch")


def gradients(convolve, x, kernel, upstream, wrt):
    """Calls a convolution and its gradients on a backend, compiled where it can be."""
    backend = keras.backend.backend()
    if backend == "torch":

        def step():
            leaves = [
                t.detach().requires_grad_(i in wrt) for i, t in enumerate((x, kernel))
            ]
            convolve(*leaves).backward(upstream)

        return step
    if backend == "jax":
        import jax

        @jax.jit
        def both_ways(x, kernel):
            y, backward = jax.vjp(convolve, x, kernel)
            found = backward(upstream)
            return y, [found[i] for i in wrt]

        return lambda: jax.block_until_ready(both_ways(x, kernel))
    import tensorflow as tf

    @tf.function
    def both_ways(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = convolve(x, kernel)
        return y, tape.gradient(y, [(x, kernel)[i] for i in wrt], upstream)

    return lambda: both_ways(x, kernel)


def convolution_seconds(dtype):
    """The time of all convolutions of a step, forward and backward."""
    generator = np.random.default_rng(0)
    total = 0.0
    for size, channels, filters in CONVOLUTIONS:
        shapes = [(BATCH_SIZE, size, size, n) for n in (channels, filters)]
        shapes.insert(1, (3, 3, channels, filters))
        x, kernel, upstream = (
            keras.ops.convert_to_tensor(generator.normal(size=shape), dtype)
            for shape in shapes
        )
        convolve = functools.partial(keras.ops.conv, padding="same")
        if keras.backend.backend() == "torch":
            # As in training, without the copies that Keras makes.
            import torch

            x, upstream = x.permute(0, 3, 1, 2), upstream.permute(0, 3, 1, 2)
            kernel = kernel.permute(3, 2, 0, 1)
            convolve = functools.partial(torch.nn.functional.conv2d, padding="same")
        # Nothing needs the gradient of the pixels.
        wrt = (1,) if channels == 3 else (0, 1)
        step = gradients(convolve, x, kernel, upstream, wrt)
        step()
        total += statistics.median(seconds(step) for _ in range(5))
    return total


def measure_here():
    keep_freed_memory()
    dtype, _ = fastest_dtype()
    x, y = images(BATCH_SIZE * STEPS)
    batches = our_batches(x, y, BATCH_SIZE)
    steps = []
    for fused in (True, False):
        epoch = epoch_of(ours(dtype, fused), batches)
        epoch()
        epoch()
        steps.append(statistics.median(seconds(epoch) for _ in range(5)) / STEPS)
    convolutions = convolution_seconds(keras.dtype_policies.get(dtype).compute_dtype)
    print(json.dumps([*steps, convolutions, dtype]))


def main(rounds=3):
    found = {backend: [] for backend in BACKENDS}
    for _ in range(rounds):
        for backend in BACKENDS:
            environment = {**os.environ, "KERAS_BACKEND": backend}
            environment.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
            command = [sys.executable, __file__, "here"]
            text = subprocess.check_output(command, text=True, env=environment)
            found[backend].append(json.loads(text.splitlines()[-1]))
    base = [step for step, *_ in found["tensorflow"]]

    def compare(what, steps, target=None):
        ratio = statistics.median(a / b for a, b in zip(base, steps, strict=True))
        times = {"ours_ms": statistics.median(steps) * 1e3, "rounds": rounds}
        row(what, "that of `train` on TensorFlow", ratio, target, **times)

    for backend, results in found.items():
        steps, plain, convolutions, dtypes = zip(*results, strict=True)
        name = f"training step of {BATCH_SIZE}, {backend}, {dtypes[0]}"
        compare(name, steps, 1 / 1.6)
        compare(f"{name}, own fit", plain)
        parts = [c / s for c, s in zip(convolutions, steps, strict=True)]
        row(name, "of which convolutions", statistics.median(parts))


if __name__ == "__main__":
    measure_here() if sys.argv[1:] else main()
