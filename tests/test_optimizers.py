"""Muon: its arithmetic in NumPy, and AdamW for all that is no convolution."""

import keras
import numpy as np
import pytest

from keras_tinyalex.optimizers import Muon, orthogonalized

pytestmark = pytest.mark.backend


def as_array(x):
    return keras.ops.convert_to_numpy(x)


@pytest.mark.parametrize("shape", [(27, 32), (64, 9), (16, 16)])
def test_orthogonalized_keeps_directions_and_evens_out_their_lengths(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype("float32")
    result = as_array(orthogonalized(keras.ops.convert_to_tensor(matrix)))
    u, lengths, vt = np.linalg.svd(matrix, full_matrices=False)
    along = u.T @ result @ vt.T
    kept = lengths > lengths.max() / 50
    np.testing.assert_allclose(along - np.diag(np.diag(along)), 0, atol=1e-3)
    assert np.diag(along)[kept].min() > 0.65
    assert np.diag(along).max() < 1.25


def test_two_steps_of_a_convolution_by_hand():
    generator = np.random.default_rng(0)
    start, *gradients = generator.normal(size=(3, 3, 3, 2, 4)).astype("float32")
    kernel = keras.Variable(start)
    optimizer = Muon(0.01, momentum=0.9, weight_decay=0.1)
    momentum, expected = 0, start.astype("float64")
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [kernel])
        expected = expected * (1 - 0.01 * 0.1)
        momentum = 0.9 * momentum + gradient
        x = (gradient + 0.9 * momentum).reshape(18, 4)
        x = x / np.linalg.norm(x)
        for _ in range(5):
            s = x.T @ x
            x = 3.4445 * x + x @ (-4.775 * s + 2.0315 * s @ s)
        expected = expected - 0.01 * 0.2 * 18**0.5 * x.reshape(3, 3, 2, 4)
    np.testing.assert_allclose(as_array(kernel), expected, rtol=1e-4, atol=1e-6)


def test_matrices_and_vectors_get_adamw():
    generator = np.random.default_rng(0)
    shapes = [(5, 4), (4,)]
    starts = [generator.normal(size=shape).astype("float32") for shape in shapes]
    results = []
    for optimizer in (Muon(0.01, weight_decay=0.1), keras.optimizers.AdamW(0.01, 0.1)):
        variables = [keras.Variable(start) for start in starts]
        for step in range(3):
            gradients = [keras.ops.cos(variable + step) for variable in variables]
            optimizer.apply(gradients, variables)
        results.append([as_array(variable) for variable in variables])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_muon_survives_serialization():
    optimizer = Muon(0.02, momentum=0.8, weight_decay=0.3)
    saved = keras.optimizers.serialize(optimizer)
    assert saved["registered_name"] == "keras_tinyalex>Muon"
    again = keras.optimizers.deserialize(saved)
    assert again.get_config() == optimizer.get_config()
    assert (again.momentum, again.weight_decay) == (0.8, 0.3)


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """1, 1/2, 1/4, ...; counts its calls."""

    calls = 0

    def __call__(self, step):
        self.calls += 1
        return 0.5 ** keras.ops.cast(step, "float32")


def test_weight_decay_computes_a_schedule_once_a_step():
    schedule = Halving()
    optimizer = Muon(schedule, weight_decay=0.1)
    variables = [keras.Variable([8.0]), keras.Variable([16.0])]
    for calls in (2, 4):  # for weight decay, and for the update
        optimizer.apply([keras.ops.zeros(1)] * 2, variables)
        assert schedule.calls == calls
    decayed = (1 - 0.1) * (1 - 0.5 * 0.1)
    values = [float(as_array(variable)[0]) for variable in variables]
    np.testing.assert_allclose(values, [8 * decayed, 16 * decayed], rtol=1e-6)
    assert float(optimizer.learning_rate) == 0.25
