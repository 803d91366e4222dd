"""Training on several devices by Keras' own engine, `keras.distribution` on JAX."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from keras_tinyalex import processes
from keras_tinyalex.arguments import check_integer
from keras_tinyalex.building import build_model, compile_model
from keras_tinyalex.checkpoints import copy_state
from keras_tinyalex.recipes import Recipe


class WholeBatch(keras.distribution.DataParallel):  # type: ignore[misc]
    """Data parallelism with the results of the whole batch, whatever its size.

    `DataParallel` places equal parts of a batch on the devices, and refuses a batch
    that has none, as the last one of an epoch may be. Here each device is given the
    pixels of the whole batch, and takes its part of them within the compiled step,
    where XLA divides any number of images. Loss, gradient, metrics, dropout and the
    statistics of batch normalization are those of the whole batch.

    Layers must be called in compiled steps, such as those of `fit` and `predict`.
    """

    def get_data_layout(
        self, data_shape: tuple[int, ...]
    ) -> keras.distribution.TensorLayout:
        axes = [None] * len(data_shape)  # not divided
        return keras.distribution.TensorLayout(axes, self.device_mesh)

    def get_tensor_layout(self, path: str) -> keras.distribution.TensorLayout:
        # Of the outputs of each layer.
        return keras.distribution.TensorLayout([self.batch_dim_name], self.device_mesh)


def count(devices: int | None) -> int:
    """Returns on how many devices of this process to train.

    Args:
        devices: As in `train`.

    Raises:
        ValueError: If there are not so many, or if the backend trains on one only.

    Examples:
        >>> count(1)
        1
    """
    if devices is not None:
        devices = check_integer("devices", devices)
    backend = keras.backend.backend()
    if backend != "jax":
        if devices is not None and devices > 1:
            raise ValueError(
                f"`devices` must be 1 on the backend {backend}: set KERAS_BACKEND=jax "
                f"to train on several. Received: devices={devices}"
            )
        return 1
    import jax

    found = jax.local_device_count()
    if devices is not None and devices > found:
        raise ValueError(
            f"`devices` must be at most {found}, as many as JAX finds here. "
            f"Received: devices={devices}"
        )
    return devices or found


def distribution(devices: int) -> keras.distribution.DataParallel | None:
    """Returns the distribution over so many devices of each process.

    `None` for one device of one process.
    """
    if devices == 1 and processes.count() == 1:
        return None
    import jax

    chosen: list[str] = []
    for process in range(jax.process_count()):
        own = [d for d in jax.devices() if d.process_index == process]
        chosen += [f"{device.platform}:{device.id}" for device in own[:devices]]
    return WholeBatch(devices=chosen, auto_shard_dataset=False)


@contextlib.contextmanager
def without_distribution() -> Iterator[None]:
    """Sets the caller's own distribution aside, in case there is one."""
    callers = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(callers)


def copy_to(
    devices: keras.distribution.DataParallel,
    model: keras.Model,
    recipe: Recipe,
    images: int,
) -> keras.Model:
    """Returns a copy of a model from `build` whose variables are on all devices.

    Args:
        devices: The distribution.
        model: A model from `build`.
        recipe: Its `Recipe`.
        images: Number of training images.
    """
    with devices.scope():
        copied = build_model(
            recipe,
            seed=0,
            num_classes=model.output_shape[-1],
            input_shape=model.input_shape[1:],
        )
        compile_model(copied, recipe, images)
        copy_state(model, copied)
    return copied
