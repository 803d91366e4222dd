"""Compares the LRN layer and the training step on a GPU with PyTorch and its limits.

    KERAS_BACKEND=jax python tests/benchmarks/gpu.py
    KERAS_BACKEND=torch python tests/benchmarks/gpu.py

PyTorch must see the GPU under both. Calls are repeated before the GPU is waited for,
so that the GPU takes the time and not Python.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import keras
import numpy as np
import torch
from lrn import band, compiled, torch_lrn
from measure import paired, row, seconds
from step import FLOP_PER_IMAGE, epoch_of, images, our_batches, ours, plain_torch

from keras_tinyalex import LocalResponseNormalization

BACKEND = keras.backend.backend()
SHAPES = [(n, *s) for n in (128, 1024) for s in ((64, 64, 32), (32, 32, 64))]
CALLS = 20
DEVICE = "cuda"


def repeated(call, wait):
    def many():
        for _ in range(CALLS):
            result = call()
        wait(result)

    return many


def on_torch(function, x, upstream):
    def both_ways():
        leaf = x.detach().requires_grad_(True)
        function(leaf).backward(upstream)

    return repeated(both_ways, lambda _: torch.cuda.synchronize())


def on_jax(function, x, upstream):
    import jax

    x, upstream = (
        jax.numpy.asarray(t.float().cpu().numpy(), _name(t)) for t in (x, upstream)
    )
    both_ways = compiled(function)
    return repeated(lambda: both_ways(x, upstream), jax.block_until_ready)


def _name(tensor):
    return str(tensor.dtype).removeprefix("torch.")


def bandwidth():
    """Bytes per second that a large copy reads and writes."""
    source = torch.empty(2**30, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copy = repeated(lambda: target.copy_(source), lambda _: torch.cuda.synchronize())
    copy()
    return 2 * 2**30 * CALLS / min(seconds(copy) for _ in range(5))


def lrn_rows(shape, dtype, rate):
    name = f"LRN {'x'.join(map(str, shape))} {dtype} {BACKEND}"
    x, upstream = torch.randn(2, *shape, device=DEVICE).to(getattr(torch, dtype))
    layer = LocalResponseNormalization(
        dtype="mixed_bfloat16" if dtype == "bfloat16" else dtype
    )
    step = on_jax if BACKEND == "jax" else on_torch
    layer_step = step(lambda x: layer(x, training=True), x, upstream)
    channels_last = [t.permute(0, 3, 1, 2) for t in (x, upstream)]
    channels_first = [t.contiguous() for t in channels_last]
    for layout, tensors in (("NCHW", channels_first), ("NHWC", channels_last)):
        against = f"torch local_response_norm, {layout}"
        paired(name, against, layer_step, on_torch(torch_lrn, *tensors))
    # Forward reads x and writes y, backward reads x and dy and writes dx.
    limit = 5 * x.nbytes / rate
    best = min(seconds(layer_step) for _ in range(5)) / CALLS
    row(name, "five passes at the bandwidth", limit / best, ours_ms=best * 1e3)


def exactness():
    """The largest relative error of the layer in float32."""
    x = np.random.default_rng(0).normal(size=(16, 32, 32, 64)) * 3
    expected = x / np.sqrt(1 + np.square(x) @ band(64))
    for training in (False, True):
        y = LocalResponseNormalization()(x.astype("float32"), training=training)
        error = np.abs(keras.ops.convert_to_numpy(y) / expected - 1).max()
        print(f"relative error, training={training}: {error:.1e}", flush=True)


def peak(dtype):
    """FLOP/s of a large matrix product."""
    a = torch.randn(8192, 8192, device=DEVICE, dtype=getattr(torch, dtype))
    product = repeated(lambda: a @ a, lambda _: torch.cuda.synchronize())
    product()
    return 2 * 8192**3 * CALLS / min(seconds(product) for _ in range(3))


def step_rows(batch_size, count=12800):
    x, y = images(count)
    torch.set_default_device(DEVICE)
    plain = plain_torch(x, y, batch_size)
    torch.set_default_device(None)

    def theirs():
        plain()
        torch.cuda.synchronize()

    feed = our_batches(x, y, batch_size)
    for dtype in ("float32", "mixed_bfloat16"):
        epoch = epoch_of(ours(dtype), feed)
        name = f"training step, batch {batch_size}, {dtype}, {BACKEND}"
        paired(name, "plain PyTorch, float32", epoch, theirs, rounds=3)
        rate = count / min(seconds(epoch) for _ in range(2))
        best = peak("bfloat16")
        row(
            name,
            "bfloat16 matrix product peak",
            rate * FLOP_PER_IMAGE / best,
            images_per_second=rate,
        )


def main():
    print(torch.cuda.get_device_name(), keras.__version__, torch.__version__)
    exactness()
    rate = bandwidth()
    print(f"a copy moves {rate / 1e12:.2f} TB/s, read and written", flush=True)
    for shape in SHAPES:
        for dtype in ("float32", "bfloat16"):
            lrn_rows(shape, dtype, rate)
    for batch_size in (128, 1024):
        step_rows(batch_size)


if __name__ == "__main__":
    main()
