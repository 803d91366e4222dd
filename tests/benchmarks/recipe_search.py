"""Trains many variants of a recipe at once on a GPU, to choose between them.

    python tests/benchmarks/recipe_search.py tiny-imagenet-20.zip --recipe best \
        '{}' '{"weight_decay": 0.4}' '{"weight_decay": 0.8, "learning_rate": 0.005}'

Each argument is a variant: JSON of the choices in `CHOICES` that differ from the
recipe. All variants are trained side by side in one program, each once for every
fold: a tenth of the training images that it does not see, other images in each fold
and with another seed.
Prints a line for each: accuracy on the held-out images (mean of the folds, then each),
the same for the mean with the mirror image and for a moving average of the weights,
the loss, and the accuracy in training.

It is the training of `keras_tinyalex.train` for recipes with Muon, whitening, folded
batch normalization and a cosine, written again in JAX alone: convolutions as matrix
products, over which `vmap` adds the variants, and augmentation on the GPU. What it
finds is to be trained by the package. A processor is enough for a try with
`--epochs 2 --folds 0`.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
# To choose among kernels takes longer than the best of them gains.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"
)

import jax
import jax.numpy as jnp
import numpy as np

from keras_tinyalex import recipes
from keras_tinyalex.datasets.tiny_imagenet import load_data
from keras_tinyalex.optimizers import orthogonalized

CONVOLUTIONS = {
    "conv1": (3, 32),
    "conv2": (32, 64),
    "conv3": (64, 128),
    "conv4": (128, 128),
    "conv5": (128, 64),
}
DENSE = {"fc1": (4096, 1024), "fc2": (1024, 512), "out": (512, 20), "aux": (64, 20)}
# Of the recipe, then those that only this script knows, with what the package does.
RECIPE_CHOICES = (
    "learning_rate",
    "weight_decay",
    "label_smoothing",
    "dropout",
    "warmup_epochs",
    "mixing_probability",
    "unmixed_epochs",
)
CHOICES = {
    **dict.fromkeys(RECIPE_CHOICES),
    "mixup_beta": 0.8,
    "padding": 8.0,  # pixels to shift by
    "cutout": 16.0,  # pixels
    "zoom": 1.0,  # smallest side of a random box
    "color": 0.0,
    "flatten_dropout": 0.0,
    "channel_dropout": 0.0,  # behind the third and fourth convolution
    "auxiliary": 0.0,  # weight of the loss of a classifier on the mean of the maps
    "average": 0.998,  # momentum of the moving average of the weights
}
HALF = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def initial(images, seed):
    generator = np.random.default_rng(seed)
    weights = {}
    for name, (inputs, outputs) in {**CONVOLUTIONS, **DENSE}.items():
        rows = 9 * inputs if name in CONVOLUTIONS else inputs
        gain = 1 if name in ("out", "aux") else 2
        kernel = generator.standard_normal((rows, outputs)) * np.sqrt(gain / rows)
        weights[name] = {"kernel": kernel, "bias": np.zeros(outputs)}
        if name not in ("conv1", "out", "aux"):
            weights[name] |= {"gamma": np.ones(outputs), "beta": np.zeros(outputs)}
    # As `keras_tinyalex.building.whiten`.
    sample = images[:: max(1, len(images) // 1000)].astype(np.float32) / 255
    windows = np.lib.stride_tricks.sliding_window_view(sample, (3, 3), axis=(1, 2))
    windows = windows[:, ::4, ::4].transpose(0, 1, 2, 4, 5, 3).reshape(-1, 27)
    mean = windows.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(windows - mean, rowvar=False))
    components = (vectors / np.sqrt(values + 1e-3))[:, ::-1][:, :16]
    filters = np.concatenate([components, -components], axis=1)
    weights["conv1"] = {"kernel": filters, "bias": -mean @ filters}
    return jax.tree.map(lambda array: array.astype(np.float32), weights)


def patches(x):
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate(
        [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)],
        axis=-1,
    )


def normalized(x, layer, statistics, name, found):
    x = x.astype(jnp.float32)
    if statistics is None:
        axes = tuple(range(x.ndim - 1))
        found[name] = x.mean(axes), x.var(axes)
    mean, variance = found[name] if statistics is None else statistics[name]
    scale = jax.lax.rsqrt(variance + 1e-3) * layer["gamma"]
    return ((x - mean) * scale + layer["beta"]).astype(HALF)


def lrn(x):
    index = np.arange(x.shape[-1])
    band = (np.abs(index[:, None] - index) <= 5).astype(np.float32)
    x = x.astype(jnp.float32)
    return (x * jax.lax.rsqrt(1 + jnp.square(x) @ band)).astype(HALF)


def pooled(x):
    count, height, width, channels = x.shape
    return x.reshape(count, height // 2, 2, width // 2, 2, channels).max((2, 4))


def dropped(x, key, rate, shape=None):
    keep = jax.random.uniform(key, shape or x.shape) >= rate
    return jnp.where(keep, x / (1 - rate).astype(x.dtype), 0)


def product(x, layer):
    return x @ layer["kernel"].astype(HALF) + layer["bias"].astype(HALF)


def forward(weights, x, half, choices=None, key=None, statistics=None):
    """Logits, those of the auxiliary classifier, means and variances; `x` in 0..255."""
    found = {}
    x = x / 255
    if half:
        x = x.reshape(-1, 32, 2, 32, 2, 3).mean((2, 4))
    x = x.astype(HALF)
    keys = None if key is None else dict(enumerate(jax.random.split(key, 5)))
    for name in CONVOLUTIONS:
        layer = weights[name]
        x = product(patches(x), layer)
        if "gamma" in layer:
            x = normalized(x, layer, statistics, name, found)
        x = jax.nn.relu(x)
        if name in ("conv1", "conv2"):
            x = lrn(x)
        if name in ("conv1", "conv2", "conv5"):
            x = pooled(x)
        if keys and name in ("conv3", "conv4"):
            rate, shape = choices["channel_dropout"], (len(x), 1, 1, x.shape[-1])
            x = dropped(x, keys[int(name == "conv4")], rate, shape)
    mean = x.astype(jnp.float32).mean((1, 2))
    auxiliary = mean @ weights["aux"]["kernel"] + weights["aux"]["bias"]
    if half:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    x = x.reshape(len(x), -1)
    if keys:
        x = dropped(x, keys[2], choices["flatten_dropout"])
    for name, place in (("fc1", 3), ("fc2", 4)):
        x = product(x, weights[name])
        x = jax.nn.relu(normalized(x, weights[name], statistics, name, found))
        if keys:
            x = dropped(x, keys[place], choices["dropout"])
    logits = x.astype(jnp.float32) @ weights["out"]["kernel"] + weights["out"]["bias"]
    return logits, auxiliary, found


def boxes(key, count, sizes):
    """Masks of squares around random centres."""
    starts = jnp.floor(jax.random.uniform(key, (count, 2)) * 64)
    starts -= jnp.floor(jnp.broadcast_to(sizes, (count,)) / 2)[:, None]
    ends = starts + jnp.broadcast_to(sizes, (count,))[:, None]
    place = jnp.arange(64.0)
    inside = [
        (place >= starts[:, i, None]) & (place < ends[:, i, None]) for i in (0, 1)
    ]
    return inside[0][:, :, None] & inside[1][:, None, :]


def augmented(images, index, choices, key):
    keys = jax.random.split(key, 6)
    count = len(index)

    def coordinates(key, mirrored):
        first, second, third = jax.random.split(key, 3)
        low, pad = choices["zoom"], choices["padding"]
        sides = 64 * jax.random.uniform(first, (count, 1), minval=low, maxval=1)
        starts = jax.random.uniform(second, (count, 1)) * (64 - sides)
        shift = jax.random.uniform(third, (count, 1), minval=-pad, maxval=pad + 1)
        at = jnp.floor(starts + (jnp.arange(64) + 0.5) * (sides / 64))
        at = jnp.abs(at + jnp.floor(shift))
        at = jnp.minimum(at, 126 - at).astype(jnp.int32)
        return jnp.where(mirrored, at[:, ::-1], at)

    def change(key):
        first, second = jax.random.split(key)
        whole = jax.random.uniform(first, (count, 1), minval=-1)
        each = jax.random.uniform(second, (count, 3), minval=-1)
        return (choices["color"] * (whole + each / 3))[:, None, None, :]

    rows = coordinates(keys[0], False)
    mirrored = jax.random.uniform(keys[2], (count, 1)) < 0.5
    columns = coordinates(keys[1], mirrored)
    x = images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    x = (1 + change(keys[3])) * (x - 128.0) + 128 * change(keys[4]) + 128
    painted = boxes(keys[5], count, choices["cutout"])
    return jnp.where(painted[..., None], 128.0, jnp.clip(x, 0, 255))


def mixed(x, y, choices, key, parts, on):
    keys = jax.random.split(key, 6)
    count = len(x)
    other = jax.random.permutation(keys[0], count)
    part = parts[jax.random.randint(keys[1], (count,), 0, len(parts))]
    sizes = jnp.floor(64 * jnp.sqrt(jax.random.uniform(keys[3], (count,))))
    inside = boxes(keys[2], count, sizes).astype(jnp.float32)
    cut = jax.random.uniform(keys[4]) < 0.5
    on &= jax.random.uniform(keys[5]) < choices["mixing_probability"]
    blend = jnp.where(cut, inside, part[:, None, None]) * on
    share = blend.mean((1, 2))[:, None]
    return x + blend[..., None] * (x[other] - x), y + share * (y[other] - y)


def updated(weights, gradients, moments, choices, rate, step):
    """One step of `keras_tinyalex.optimizers.Muon`."""

    def update(path, value, gradient, first, second):
        layer, kind = (part.key for part in path)
        if kind != "bias":
            value = value - value * choices["weight_decay"] * rate
        if layer in CONVOLUTIONS and kind == "kernel":
            first = 0.95 * first + gradient
            scale = 0.2 * np.sqrt(max(value.shape))
            move = scale * orthogonalized(gradient + 0.95 * first)
        else:
            first = first + 0.1 * (gradient - first)
            second = second + 0.001 * (jnp.square(gradient) - second)
            scale = jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            move = scale * first / (jnp.sqrt(second) + 1e-7)
        return value - rate * move, first, second

    new = jax.tree_util.tree_map_with_path(update, weights, gradients, *moments)
    return tuple(
        jax.tree.map(lambda t, i=i: t[i], new, is_leaf=lambda t: isinstance(t, tuple))
        for i in range(3)
    )


def trained_epoch(state, choices, epoch, total, parts, seen, data, half, batch_size):
    images, labels = data
    *state, key = state
    key, order_key = jax.random.split(key)
    steps = len(seen) // batch_size
    order = seen[jax.random.permutation(order_key, len(seen))]
    order = order[: steps * batch_size].reshape(steps, batch_size)
    whole = total * steps
    warmup = jnp.minimum(choices["warmup_epochs"] * steps, whole / 2)
    on = epoch < total - choices["unmixed_epochs"]

    def train_step(carry, batch):
        weights, first, second, average, key = carry
        number, index = batch
        key, *keys = jax.random.split(key, 4)
        step = epoch * steps + number + 1.0
        cosine = (1 + jnp.cos(jnp.pi * (step - warmup) / (whole - warmup))) / 2
        rate = jnp.where(step < warmup, step / warmup, cosine)
        rate *= choices["learning_rate"]
        x = augmented(images, index, choices, keys[0])
        y = jax.nn.one_hot(labels[index], 20)
        x, y = mixed(x, y, choices, keys[1], parts, on)
        smoothing = choices["label_smoothing"]
        y = (1 - smoothing) * y + smoothing / 20

        def loss(weights):
            logits, auxiliary, _ = forward(weights, x, half, choices, keys[2])
            entropy = lambda z: -(y * jax.nn.log_softmax(z)).sum(-1).mean()  # noqa: E731
            right = (logits.argmax(-1) == y.argmax(-1)).mean()
            return entropy(logits) + choices["auxiliary"] * entropy(auxiliary), right

        gradients, right = jax.grad(loss, has_aux=True)(weights)
        weights, first, second = updated(
            weights, gradients, (first, second), choices, rate, step
        )
        kept = choices["average"]
        average = jax.tree.map(
            lambda old, new: kept * old + (1 - kept) * new, average, weights
        )
        return (weights, first, second, average, key), right

    numbered = jnp.arange(steps), order
    state, right = jax.lax.scan(train_step, (*state, key), numbered)
    return state, right.mean()


def scored(weights, seen, held_out, images):
    """Log-probabilities of the held-out images and of their mirror images."""
    some = seen[:: max(1, len(seen) // 1024)][:1024]
    whole = images[some].astype(jnp.float32)
    statistics = forward(weights, whole, False)[2]

    def of(index):
        x = images[index].astype(jnp.float32)
        return [
            jax.nn.log_softmax(forward(weights, x, False, statistics=statistics)[0])
            for x in (x, x[:, :, ::-1])
        ]

    size = np.gcd(len(held_out), 250)
    found = jax.lax.map(of, held_out.reshape(-1, size))
    return [part.reshape(-1, 20) for part in found]


def folds_of(labels, folds):
    """Images to train on and a tenth of each class, not seen, for each fold."""
    for fold in folds:
        generator = np.random.default_rng(1000 + fold)
        held_out = [
            generator.permutation(np.flatnonzero(labels == label))[: times // 10]
            for label, times in enumerate(np.bincount(labels))
        ]
        held_out = np.sort(np.concatenate(held_out))
        yield np.setdiff1d(np.arange(len(labels)), held_out), held_out


def search(variants, recipe, images, labels, folds):
    """Trains all variants on all folds; returns what was found, `(variants, folds)`."""
    split = list(folds_of(labels, folds)) * len(variants)
    seen, held_out = (jnp.asarray(np.stack(part)) for part in zip(*split, strict=True))
    each = [variant for variant in variants for _ in folds]
    choices = {name: jnp.asarray([float(v[name]) for v in each]) for name in CHOICES}
    generator = np.random.default_rng(7)
    parts = [generator.beta(b, b, 4096) for b in choices["mixup_beta"]]
    parts = jnp.asarray(np.stack(parts), jnp.float32)
    seeds = jnp.tile(jnp.asarray(folds), len(variants))
    weights = [initial(images, 100 + int(seed)) for seed in seeds]
    weights = jax.tree.map(lambda *arrays: jnp.asarray(np.stack(arrays)), *weights)
    zeros = [jax.tree.map(jnp.zeros_like, weights) for _ in range(2)]
    average = jax.tree.map(jnp.array, weights)
    state = (weights, *zeros, average, jax.vmap(jax.random.key)(seeds))
    data = jnp.asarray(images), jnp.asarray(labels)

    def epoch_at(half):
        def epoch_of_one(*arguments):
            return trained_epoch(*arguments, data, half, recipe.batch_size)

        over = jax.vmap(epoch_of_one, in_axes=(0, 0, None, None, 0, 0))
        return jax.jit(over, donate_argnums=0)

    epochs = {half: epoch_at(half) for half in (True, False)}
    for epoch in range(recipe.epochs):
        train = epochs[epoch < recipe.half_size_epochs]
        numbers = jnp.float32(epoch), jnp.float32(recipe.epochs)
        state, right = train(state, choices, *numbers, parts, seen)
    score = jax.jit(jax.vmap(lambda *arguments: scored(*arguments, data[0])))
    expected = labels[np.asarray(held_out)]
    plain, mirrored = map(np.asarray, score(state[0], seen, held_out))
    averaged, _ = map(np.asarray, score(state[3], seen, held_out))
    both = np.exp(plain) + np.exp(mirrored)
    found = {
        name: (values.argmax(-1) == expected).mean(axis=1)
        for name, values in (("top1", plain), ("tta", both), ("averaged", averaged))
    }
    true = np.take_along_axis(plain, expected[..., None], axis=-1)
    found |= {"loss": -true.mean(axis=(1, 2)), "in_training": np.asarray(right)}
    return {name: v.reshape(len(variants), len(folds)) for name, v in found.items()}


def fold_numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="zip or folder")
    parser.add_argument("variants", nargs="+", type=json.loads, help="JSON of choices")
    parser.add_argument("--recipe", default="best")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--folds", type=fold_numbers, default=[0, 1], help="as in 0,1")
    parser.add_argument("--output", type=Path, help="JSON lines to add to")
    options = parser.parse_args()
    recipe = recipes.get(options.recipe)
    recipe = recipe.over(options.epochs) if options.epochs else recipe
    fields = dataclasses.asdict(recipe)
    base = {name: fields.get(name, value) for name, value in CHOICES.items()}
    base["mixing_probability"] *= recipe.mixing is not None
    steps = (recipe.augmentation or "").split("_")
    base |= {"padding": 8 * ("crop" in steps), "cutout": 16 * ("cutout" in steps)}
    base["color"] = 0.2 * ("color" in steps)
    for variant in options.variants:
        if unknown := set(variant) - set(CHOICES):
            parser.error(f"{sorted(unknown)} are none of {sorted(CHOICES)}")
    (images, labels), _ = load_data(options.data)
    started = time.perf_counter()
    found = search(
        [{**base, **v} for v in options.variants], recipe, images, labels, options.folds
    )
    print(f"{time.perf_counter() - started:.0f} s on {jax.devices()[0].device_kind}")
    for number, variant in enumerate(options.variants):
        values = {name: rows[number].tolist() for name, rows in found.items()}
        means = "  ".join(f"{name} {np.mean(v):.3f}" for name, v in values.items())
        print(f"{means}  {np.round(values['top1'], 3).tolist()}  {json.dumps(variant)}")
        if options.output:
            line = {"recipe": recipe.name, "epochs": recipe.epochs, **variant, **values}
            with options.output.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
