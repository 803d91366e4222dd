"""Compares the training step with plain Keras, plain PyTorch and the machine's peak.

    TF_ENABLE_ONEDNN_OPTS=1 python tests/benchmarks/step.py

Freed memory is not kept, unlike in `train`: the other programs do not keep it either.
On TensorFlow it makes little difference (see `memory.py`).
"""

import keras
import numpy as np
from measure import paired, row, seconds

from keras_tinyalex import AlexNetMini, recipes
from keras_tinyalex.building import build, half_resolution_model
from keras_tinyalex.kernels import use_fused_ops
from keras_tinyalex.machine import fastest_dtype

FLOP_PER_IMAGE = 0.625e9  # forward and backward of AlexNetMini at 64x64


def images(count):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 64, 64, 3), np.uint8)
    return pixels, generator.integers(0, 20, count)


def compiled(model, dtype=None):
    model.compile(keras.optimizers.SGD(), "sparse_categorical_crossentropy")
    return model


def ours(dtype, fused=True):
    """With the operations of `train`, or as after `compile` of one's own."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = AlexNetMini()
        if fused:
            use_fused_ops(model.layers)
        return compiled(model)
    finally:
        keras.config.set_dtype_policy(policy)


def plain_keras():
    """What a competent user writes: Lambda layers around TensorFlow's operation."""
    import tensorflow as tf
    from keras import layers

    def lrn():
        return layers.Lambda(tf.nn.local_response_normalization)

    def conv(filters):
        return layers.Conv2D(filters, 3, padding="same", activation="relu")

    hidden = [
        layer
        for units in (1024, 512)
        for layer in (layers.Dense(units, activation="relu"), layers.Dropout(0.5))
    ]
    blocks = [conv(32), lrn(), layers.MaxPooling2D()]
    blocks += [conv(64), lrn(), layers.MaxPooling2D()]
    blocks += [conv(128), conv(128), conv(64), layers.MaxPooling2D()]
    head = [layers.Flatten(), *hidden, layers.Dense(20, activation="softmax")]
    return compiled(keras.Sequential([keras.Input((64, 64, 3)), *blocks, *head]))


def plain_pipeline(x, y, batch_size):
    """map -> cache -> shuffle -> batch -> prefetch, with float32 in the cache."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    dataset = dataset.map(lambda x, y: (tf.cast(x, tf.float32) / 255, y)).cache()
    dataset = dataset.shuffle(len(x)).batch(batch_size).prefetch(tf.data.AUTOTUNE)
    # With autotuning, an epoch on TensorFlow 2.21 ends only when the tuning thread
    # wakes up, after 2.55 or 5.11 s, however fast a step is.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def plain_torch(x, y, batch_size):
    import torch
    from torch import nn

    def conv(inputs, outputs):
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]

    def lrn():
        return nn.LocalResponseNorm(11, 11.0, 0.5, 1.0)

    layers = [*conv(3, 32), lrn(), nn.MaxPool2d(2), *conv(32, 64), lrn()]
    layers += [nn.MaxPool2d(2), *conv(64, 128), *conv(128, 128), *conv(128, 64)]
    layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4096, 1024), nn.ReLU()]
    layers += [nn.Dropout(), nn.Linear(1024, 512), nn.ReLU(), nn.Dropout()]
    model = nn.Sequential(*layers, nn.Linear(512, 20))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    loss = nn.CrossEntropyLoss()
    pixels = torch.tensor(x).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(y)

    def epoch():
        order = torch.randperm(len(labels))
        for chosen in order.split(batch_size):
            optimizer.zero_grad()
            loss(model(pixels[chosen].float() / 255), labels[chosen]).backward()
            optimizer.step()

    return epoch


def epoch_of(model, data):
    return lambda: model.fit(data, verbose=0, shuffle=False)


def augmentations(x, step_seconds):
    """Compares each augmentation of a batch with the training step of that batch."""
    from keras_tinyalex.augmentation import AUGMENTATIONS

    generator = np.random.default_rng(0)
    for name, augmentation in AUGMENTATIONS.items():
        cost = min(seconds(lambda f=augmentation: f(x, generator)) for _ in range(20))
        what = f"{name} of {len(x)} images, ms"
        row(what, "its training step", step_seconds / cost, 20, ours=cost * 1e3)


def labelled(x, y):
    from keras_tinyalex.datasets.batches import LabelledArrays

    names = tuple(f"class{i}" for i in range(20))
    return LabelledArrays(x, y, names, ("",) * len(y))


def our_batches(x, y, batch_size, **arguments):
    from keras_tinyalex.datasets.batches import Batches

    return Batches(labelled(x, y), batch_size, seed=0, **arguments).feed()


def recipe_rows(dtype, count=512):
    """Compares a step of the recipe `best` with one of the baseline, same batch."""
    x, y = images(count)
    recipe = recipes.BEST
    model = build(recipe, labelled(x, y), seed=0)
    augmented = {"augmentation": recipe.augmentation, "one_hot": True}
    feed = our_batches(x, y, recipe.batch_size, **augmented)
    plain = epoch_of(ours(dtype), our_batches(x, y, recipe.batch_size))
    half = half_resolution_model(model, recipe)
    for resolution, trained in (("full resolution", model), ("half resolution", half)):
        name = f"training step of best, batch {recipe.batch_size}, {resolution}"
        paired(name, "that of the baseline, auto", epoch_of(trained, feed), plain)


def peak(dtype):
    """FLOP/s of a large matrix product."""
    import tensorflow as tf

    a = tf.cast(tf.random.normal((2048, 2048)), dtype)
    product = tf.function(lambda: tf.linalg.matmul(a, a))
    product()
    return 2 * 2048**3 / min(seconds(lambda: product().cpu(), 3) for _ in range(5))


def main():
    auto, reason = fastest_dtype()
    print(f"--dtype auto is {auto}: {reason}", flush=True)
    for batch_size, count in ((16, 512), (128, 1024)):
        x, y = images(count)
        feed = our_batches(x, y, batch_size)
        plain = epoch_of(plain_keras(), plain_pipeline(x, y, batch_size))
        for dtype, policy, target in (("float32", "float32", 1.3), ("auto", auto, 1.8)):
            epoch = epoch_of(ours(policy), feed)
            name = f"training step, batch {batch_size}, {dtype}"
            target = target if batch_size == 16 else None
            paired(name, "plain Keras script", epoch, plain, target)
        if batch_size == 128:
            torch = plain_torch(x, y, batch_size)
            paired(name, "plain PyTorch, float32", epoch, torch, 3)
            rate = count * FLOP_PER_IMAGE / min(seconds(epoch) for _ in range(3))
            for kind, target in (("float32", None), ("bfloat16", 0.55)):
                if kind == "bfloat16" and auto == "float32":
                    continue  # emulated, or not supported
                best = peak(kind)
                against = f"{kind} matrix product peak"
                row(name, against, rate / best, target, gflops=best / 1e9)
    recipe_rows(auto)
    x, y = images(64)
    step = compiled(AlexNetMini())
    step.train_on_batch(x, y)
    augmentations(x, min(seconds(lambda: step.train_on_batch(x, y)) for _ in range(5)))


if __name__ == "__main__":
    main()
