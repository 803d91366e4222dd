"""Muon, an optimizer for convolutions."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_tinyalex.aliases import Tensor

# Newton-Schulz steps, and the coefficients of their quintic.
STEPS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)


@keras.saving.register_keras_serializable(package="keras_tinyalex")
class Muon(keras.optimizers.AdamW):  # type: ignore[misc]
    """Muon for the kernels of convolutions, AdamW for all other weights.

    The update of a convolution's kernel is its Nesterov momentum, as a matrix
    of `height * width * inputs` rows, made nearly orthogonal by five
    Newton-Schulz steps. It is scaled by `0.2 * sqrt(max(rows, columns))`, to
    the size of AdamW's updates, so that both share a learning rate and weight
    decay.

    `keras.optimizers.Muon` does the reverse: it applies Muon to matrices only,
    so that convolutions get AdamW, and a large dense kernel the most expensive
    update.

    Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural
    networks" (2024, https://kellerjordan.github.io/posts/muon/); the scale is
    that of J. Liu et al. (2025, https://arxiv.org/abs/2502.16982).

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`.
            Defaults to `0.001`.
        momentum: Float in [0, 1), of the kernels of convolutions. Defaults to
            `0.95`.
        **kwargs: Arguments of `keras.optimizers.AdamW`.

    Examples:
        >>> from keras_tinyalex import AlexNetMini
        >>> model = AlexNetMini(num_classes=2, width_multiplier=0.25)
        >>> model.compile(Muon(1e-3), "sparse_categorical_crossentropy")
    """

    _learning_rate: Any  # of Keras: a schedule, or a variable

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        momentum: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self._kernel_momentums = [
            self.add_variable_from_reference(variable, name="kernel_momentum")
            if len(variable.shape) > 2
            else None
            for variable in variables
        ]

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        # With a learning rate computed once, not for each variable: TensorFlow
        # takes 0.03 s to trace a schedule.
        schedule, self._learning_rate = self._learning_rate, self.learning_rate
        try:
            super()._apply_weight_decay(variables)
        finally:
            self._learning_rate = schedule

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        momentum = self._kernel_momentums[self._get_variable_index(variable)]
        if momentum is None:
            if keras.backend.backend() == "tensorflow" and not self.amsgrad:
                self._fused_adam_step(gradient, variable, learning_rate)
            else:
                super().update_step(gradient, variable, learning_rate)
            return
        gradient = ops.cast(gradient, variable.dtype)
        self.assign(momentum, self.momentum * momentum + gradient)
        matrix = ops.reshape(
            gradient + self.momentum * momentum, (-1, variable.shape[-1])
        )
        scale = 0.2 * math.sqrt(max(matrix.shape))
        step = ops.cast(learning_rate, variable.dtype) * scale * orthogonalized(matrix)
        self.assign_sub(variable, ops.reshape(step, variable.shape))

    def _fused_adam_step(
        self, gradient: Any, variable: Any, learning_rate: Any
    ) -> None:
        """Keras' AdamW step as the one operation that TensorFlow has for it.

        The dense kernels, 90% of the network, and tensors of their size are read
        and written 7 times instead of 30.
        """
        import tensorflow as tf

        index = self._get_variable_index(variable)
        beta_1, beta_2, epsilon, rate, step = (
            ops.cast(number, variable.dtype)
            for number in (
                self.beta_1,
                self.beta_2,
                self.epsilon,
                learning_rate,
                self.iterations + 1,
            )
        )
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=ops.power(beta_1, step),
            beta2_power=ops.power(beta_2, step),
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=ops.cast(gradient, variable.dtype),
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum}


def orthogonalized(matrix: Tensor) -> Tensor:
    """Brings all singular values of a matrix close to 1.

    Args:
        matrix: Tensor of rank 2.

    Returns:
        Tensor of the same shape and dtype, whose singular values lie between
        about 0.7 and 1.2, unless they were almost 0.

    Examples:
        >>> import numpy as np
        >>> matrix = ops.convert_to_tensor([[3.0, 0.0], [0.0, 0.5]])
        >>> values = np.linalg.svd(ops.convert_to_numpy(orthogonalized(matrix)))[1]
        >>> bool(0.6 < values.min() < values.max() < 1.3)
        True
    """
    x = matrix / (ops.norm(matrix) + 1e-7)  # no singular value above 1
    tall = x.shape[0] > x.shape[1]
    a, b, c = QUINTIC
    unit = a * ops.eye(min(x.shape), dtype=x.dtype)
    for _ in range(STEPS):
        square = ops.transpose(x) @ x if tall else x @ ops.transpose(x)
        factor = unit + b * square + c * square @ square
        x = x @ factor if tall else factor @ x
    return x
