"""The layers of AlexNetMini, from one table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers

from keras_tinyalex.aliases import Tensor
from keras_tinyalex.arguments import check_choice, check_number
from keras_tinyalex.layers import LocalResponseNormalization

# The convolutions of each block, as (layer name, filters). The first two blocks
# end in normalization and pooling, the last one in pooling alone.
_BLOCKS = {
    "block1": [("conv", 32)],
    "block2": [("conv", 64)],
    "block3": [("conv1", 128), ("conv2", 128), ("conv3", 64)],
}
_NORMALIZED_BLOCKS = ("block1", "block2")
DENSE_UNITS = {"fc1": 1024, "fc2": 512}
CLASSIFIER = "predictions"
TOP_LAYERS = (*DENSE_UNITS, CLASSIFIER)
FIRST_LAYER = "block1_conv"


def is_own_layer(name: str) -> bool:
    """Whether a layer of this name, with weights, is one of AlexNetMini's."""
    blocks = tuple(f"{block}_" for block in _BLOCKS)
    return name.startswith(blocks) or name.removesuffix("_bn") in TOP_LAYERS


@dataclass(frozen=True)
class Network:
    """What the layers of an AlexNetMini are: its arguments, and those of a recipe.

    Attributes:
        normalization: See `AlexNetMini`.
        width_multiplier: See `AlexNetMini`.
        dropout: See `AlexNetMini`.
        data_format: `"channels_last"` or `"channels_first"`.
        lrn: Arguments of `LocalResponseNormalization`.
        dense_units: Units of the hidden dense layers by name, before
            `width_multiplier`.
        folded_batch_norm: Whether there is batch normalization before each
            ReLU but the first; see `Recipe`.
    """

    normalization: str | None = "lrn"
    width_multiplier: float = 1.0
    dropout: float = 0.5
    data_format: str = field(default_factory=keras.config.image_data_format)
    lrn: Mapping[str, Any] = field(default_factory=dict)
    dense_units: Mapping[str, int] = field(default_factory=lambda: DENSE_UNITS)
    folded_batch_norm: bool = False

    def __post_init__(self) -> None:
        check_number("dropout", self.dropout, minimum=0, below=1)
        check_choice("normalization", self.normalization, ("lrn", "batch", None))
        check_number("width_multiplier", self.width_multiplier, above=0)

    def convolve(self, x: Tensor) -> Tensor:
        """Applies the blocks of convolutions."""
        for block, convolutions in _BLOCKS.items():
            for name, filters in convolutions:
                convolution = functools.partial(
                    layers.Conv2D,
                    self._scaled(filters),
                    3,
                    padding="same",
                    data_format=self.data_format,
                )
                x = self._rectified(convolution, f"{block}_{name}", x)
            if block in _NORMALIZED_BLOCKS:
                x = self._normalized(x, block)
            x = layers.MaxPooling2D(
                2, data_format=self.data_format, name=f"{block}_pool"
            )(x)
        return x

    def classify(self, x: Tensor, num_classes: int, activation: Any) -> Tensor:
        """Applies the dense layers and the classifier."""
        x = layers.Flatten(data_format=self.data_format, name="flatten")(x)
        for name, units in self.dense_units.items():
            dense = functools.partial(layers.Dense, self._scaled(units))
            x = self._rectified(dense, name, x)
            x = layers.Dropout(self.dropout, name=f"{name}_dropout")(x)
        # float32 under mixed policies too: half precision is too coarse for a
        # softmax and its loss.
        double = keras.config.dtype_policy().compute_dtype == "float64"
        dtype = "float64" if double else "float32"
        return layers.Dense(
            num_classes, activation=activation, dtype=dtype, name=CLASSIFIER
        )(x)

    def pool(self, x: Tensor, pooling: str | None) -> Tensor:
        """Applies global pooling, `"avg"` or `"max"`, or nothing."""
        if pooling == "avg":
            pool = layers.GlobalAveragePooling2D
        elif pooling == "max":
            pool = layers.GlobalMaxPooling2D
        else:
            return x
        return pool(data_format=self.data_format, name=f"{pooling}_pool")(x)

    def _scaled(self, units: int) -> int:
        return max(1, round(units * self.width_multiplier))

    def _rectified(
        self, make: Callable[..., keras.Layer], name: str, x: Tensor
    ) -> Tensor:
        """Applies a layer and ReLU."""
        # The feature maps of the first layer are the largest: batch normalization
        # costs most there.
        if not self.folded_batch_norm or name == FIRST_LAYER:
            return make(activation="relu", name=name)(x)
        # A bias before it would change nothing: its gradient is rounding noise.
        x = make(use_bias=False, name=name)(x)
        x = self._batch_norm(f"{name}_bn", momentum=0.95)(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    def _normalized(self, x: Tensor, block: str) -> Tensor:
        if self.normalization == "lrn":
            x = LocalResponseNormalization(
                **self.lrn, data_format=self.data_format, name=f"{block}_lrn"
            )(x)
        elif self.normalization == "batch":
            x = self._batch_norm(f"{block}_bn")(x)
        return x

    def _batch_norm(self, name: str, **arguments: Any) -> keras.Layer:
        axis = 1 if self.data_format == "channels_first" else -1
        return layers.BatchNormalization(axis=axis, name=name, **arguments)
