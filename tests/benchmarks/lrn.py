"""Compares the LRN layer, forward and backward, with what each framework offers.

    KERAS_BACKEND=torch python tests/benchmarks/lrn.py

On TensorFlow, `fit` over many shapes is compared with the same network without LRN, in
new processes, from the first step on.

Each step returns `y`, too: a compiler removes a forward pass whose result neither the
caller nor the backward pass needs. Both sides keep freed memory, as `train` does.
"""

import functools
import statistics
import subprocess
import sys
import time

import keras
import numpy as np
from measure import paired, row

from keras_tinyalex import AlexNetMini, LocalResponseNormalization
from keras_tinyalex.machine import keep_freed_memory

SHAPES = [(n, *s) for n in (16, 128) for s in ((64, 64, 32), (32, 32, 64))]
RADIUS = 5


def band(channels):
    index = np.arange(channels)
    near = np.abs(index[:, None] - index) <= RADIUS
    return near.astype("float32")


def tensorflow_rows(pair, x, upstream):
    import tensorflow as tf

    def step(function):
        @tf.function
        def both_ways(x, upstream):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = function(x)
            return y, tape.gradient(y, x, output_gradients=upstream)

        # On a CPU, a call returns when it is done; `.numpy()` would copy both results.
        return lambda: both_ways(x, upstream)

    x, upstream = tf.constant(x), tf.constant(upstream)
    layer = LocalResponseNormalization()
    run = tf.distribute.get_strategy().run  # as `fit` calls the layer
    ours = step(lambda x: run(layer, (x,), {"training": True}))
    peer = step(tf.nn.local_response_normalization)
    pair("tf.nn.local_response_normalization", ours, peer, 4)
    pair("the same, training left out", step(layer), peer, 3.5)
    pair("one pass that scales", ours, step(scaling(tf)), 1 / 2.5)


def scaling(tf):
    @tf.custom_gradient
    def scale(x):
        return x * 1.01, lambda upstream: upstream * 1.01

    return scale


def torch_lrn(x):
    from torch.nn.functional import local_response_norm

    return local_response_norm(x, 2 * RADIUS + 1, 2 * RADIUS + 1.0, 0.5, 1.0)


def torch_rows(pair, x, upstream):
    import torch

    def step(function, x, upstream):
        def both_ways():
            leaf = x.detach().requires_grad_(True)
            function(leaf).backward(upstream)

        return both_ways

    x, upstream = torch.tensor(x), torch.tensor(upstream)
    layer = LocalResponseNormalization()
    ours = step(lambda x: layer(x, training=True), x, upstream)
    channels_last = [t.permute(0, 3, 1, 2) for t in (x, upstream)]
    channels_first = [t.contiguous() for t in channels_last]
    peer = step(torch_lrn, *channels_first)
    pair("torch, NCHW, training left out", step(layer, x, upstream), peer, 6)
    for layout, tensors in (("NCHW", channels_first), ("NHWC", channels_last)):
        against = f"torch local_response_norm, {layout}"
        pair(against, ours, step(torch_lrn, *tensors), 5)
    scale = step(lambda x: x * 1.01, x, upstream)
    pair("one pass that scales", ours, scale, 1 / 2.5)


def compiled(function):
    """`x` and `dy` to `y` and `dx`, in JAX."""
    import jax

    @jax.jit
    def both_ways(x, upstream):
        y, backward = jax.vjp(function, x)
        return y, backward(upstream)

    return both_ways


def jax_rows(pair, x, upstream):
    import jax
    import jax.numpy as jnp

    matrix = jnp.array(band(x.shape[-1]))

    def product(x):
        sums = (jnp.square(x).reshape(-1, len(matrix)) @ matrix).reshape(x.shape)
        return x * jax.lax.rsqrt(1 + sums)

    def window(x):
        size = (1, 1, 1, 2 * RADIUS + 1)
        sums = jax.lax.reduce_window(
            jnp.square(x), 0.0, jax.lax.add, size, (1, 1, 1, 1), "SAME"
        )
        return x * jax.lax.rsqrt(1 + sums)

    def step(function):
        both_ways = compiled(function)
        return lambda: jax.block_until_ready(both_ways(x, upstream))

    x, upstream = jnp.array(x), jnp.array(upstream)
    layer = LocalResponseNormalization()
    ours = step(lambda x: layer(x, training=True))
    pair("jax banded product, autodiff", ours, step(product), 1)
    peer = step(window)
    pair("jax lax.reduce_window", ours, peer, 1)
    pair("the same, training left out", step(layer), peer, 1.3)
    pair("one pass that scales", ours, step(lambda x: x * 1.01), 0.4)


FITS = {
    "30 picture sizes": [(8, size, size, 3) for size in range(32, 92, 2)],
    "32 batch sizes": [(size, 64, 64, 3) for size in range(1, 33)],
}


def fit_seconds(name, normalization):
    """Trains a new network for two epochs of one step for each shape."""
    model = AlexNetMini(include_top=False, pooling="avg", normalization=normalization)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    batches = [(np.ones(s, "float32"), np.zeros((s[0], 64))) for s in FITS[name]]
    start = time.perf_counter()
    twice = (batch for _ in range(2) for batch in batches)
    model.fit(twice, steps_per_epoch=len(batches), epochs=2, verbose=0)
    return time.perf_counter() - start


def many_shapes_rows(processes=3):
    def measure(name, normalization):
        command = [sys.executable, __file__, name, normalization]
        return float(subprocess.check_output(command, text=True).splitlines()[-1])

    for name in FITS:
        kinds = ("lrn", "none")
        rounds = [[measure(name, kind) for kind in kinds] for _ in range(processes)]
        ratio = statistics.median(none / lrn for lrn, none in rounds)
        lrn, none = (statistics.median(times) for times in zip(*rounds, strict=True))
        figures = {"ours_ms": lrn * 1e3, "theirs_ms": none * 1e3, "rounds": processes}
        row(f"fit over {name}", "no LRN", ratio, 1 / 1.5, **figures)


if __name__ == "__main__":
    keep_freed_memory()
    if sys.argv[1:]:
        name, normalization = sys.argv[1:]
        print(fit_seconds(name, None if normalization == "none" else normalization))
        sys.exit()
    backend = keras.backend.backend()
    for shape in SHAPES:
        generator = np.random.default_rng(0)
        x, upstream = generator.normal(size=(2, *shape)).astype("float32")
        name = f"LRN {'x'.join(map(str, shape))} {backend}"
        # 16 images take only milliseconds, so a round repeats them 8 times.
        pair = functools.partial(paired, name, repeat=128 // shape[0])
        {"tensorflow": tensorflow_rows, "torch": torch_rows, "jax": jax_rows}[backend](
            pair, x, upstream
        )
    if backend == "tensorflow":
        many_shapes_rows()
