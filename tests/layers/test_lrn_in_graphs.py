"""LRN in TensorFlow's graphs: compiled in `fit` only, plain operations elsewhere."""

import keras
import numpy as np
import pytest
from lrn_helpers import random, reference

from keras_tinyalex.kernels import local_response_normalization as kernels
from keras_tinyalex.layers import LocalResponseNormalization

tf = pytest.importorskip("tensorflow")
pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow"),
]
CONSTANTS = (2, 1.5, 0.4, 0.75)


def in_step_of_fit(function, shape=(None, 3, 7)):
    """The function as `fit` calls it: traced, inside of a strategy."""

    @tf.function(input_signature=[tf.TensorSpec(shape)])
    def step(x):
        return tf.distribute.get_strategy().run(function, (x,))

    return step


def normalize(x):
    return LocalResponseNormalization(*CONSTANTS)(x, training=True)


def gradient(x):
    """d sum(normalize(x)**2) / dx."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(normalize(x) ** 2)
    return tape.gradient(loss, x)


def make_model():
    inputs = keras.Input((3, 7))
    outputs = LocalResponseNormalization(2)(keras.layers.Dense(7)(inputs))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def fit(model, **arguments):
    x = random(20, 3, 7)
    model.fit(x, np.zeros_like(x), batch_size=16, verbose=0, **arguments)


class Training(keras.layers.Layer):
    """A model in training mode, for an exporter."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, inputs):
        return self.model(inputs, training=True)


def in_training(model):
    inputs = keras.Input((3, 7))
    return keras.Model(inputs, Training(model)(inputs))


@pytest.fixture
def compiled_to_zeros(monkeypatch):
    """Replaces the compiled kernel by zeros, which show where it is used."""
    zeros = lambda x: (tf.zeros_like(x), tf.zeros_like(x))  # noqa: E731
    functions = zeros, lambda x, root, dy: tf.zeros_like(x)
    monkeypatch.setattr(kernels, "_xla_functions", lambda window: functions)


def sizes_compiled(step, shapes):
    return [shape for shape in shapes if not step(tf.ones(shape)).numpy().any()]


@pytest.mark.usefixtures("compiled_to_zeros")
def test_few_batch_sizes_are_compiled():
    shapes = [(n, 3, 7) for n in range(1, 65)]
    expected = [(16, 3, 7), (32, 3, 7), (64, 3, 7)]
    assert sizes_compiled(in_step_of_fit(normalize), shapes) == expected
    # Sizes that vary from step to step could each be compiled: none is.
    step = in_step_of_fit(normalize, (None, None, 7))
    assert sizes_compiled(step, expected) == []
    assert sizes_compiled(in_step_of_fit(normalize, (16, 3, 7)), expected[:1])
    assert not sizes_compiled(in_step_of_fit(normalize, (24, 3, 7)), [(24, 3, 7)])


@pytest.mark.usefixtures("compiled_to_zeros")
def test_only_steps_of_fit_are_compiled():
    x = tf.ones((16, 3, 7))
    assert normalize(x).numpy().all()
    assert tf.function(normalize)(x).numpy().all()
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        assert tf.function(normalize)(x).numpy().all()
    model = make_model()
    fit(model)
    assert model.evaluate(x, x, verbose=0) > 0
    assert in_training(model)(x).numpy().any()


@pytest.mark.usefixtures("compiled_to_zeros")
def test_a_frozen_layer_has_a_compiled_gradient():
    """But no compiled output, which `predict` would wait for."""
    layer = LocalResponseNormalization(*CONSTANTS)

    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, tape.gradient(y, x)

    y, dx = in_step_of_fit(both)(tf.ones((16, 3, 7)))
    assert y.numpy().all()
    assert not dx.numpy().any()


@pytest.mark.parametrize("training", [False, None])
def test_other_graphs_have_no_condition(training):
    """Exporters trace them, and delegates of phones run no conditions."""
    layer = LocalResponseNormalization(*CONSTANTS)
    traced = tf.function(lambda x: layer(x, training=training))
    graph = traced.get_concrete_function(tf.TensorSpec((None, 3, 7))).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert not {kind for kind in kinds if "If" in kind or "Call" in kind}
    assert "IsNan" in kinds


@pytest.mark.parametrize("jit_compile", ["auto", True])
def test_fit_uses_the_compiled_kernel(monkeypatch, jit_compile):
    traced = []
    functions = kernels._xla_functions
    monkeypatch.setattr(
        kernels, "_xla_functions", lambda window: traced.append(1) or functions(window)
    )
    model = make_model()
    model.compile("sgd", "mse", jit_compile=jit_compile)
    fit(model)
    assert traced


@pytest.mark.parametrize("can_compile", [True, False])
@pytest.mark.parametrize("batch", [16, 17])
def test_step_of_fit_matches_the_formula(monkeypatch, batch, can_compile):
    monkeypatch.setattr(kernels, "can_compile", lambda: can_compile)
    x = random(batch, 3, 7)
    found = in_step_of_fit(normalize)(x).numpy()
    np.testing.assert_allclose(found, reference(x, *CONSTANTS), rtol=1e-5)
    # Eager, as `test_lrn_gradients` compares it with differences.
    expected = gradient(tf.constant(x)).numpy()
    found = in_step_of_fit(gradient)(x).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_second_derivative_in_a_step_of_fit():
    def second(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(gradient(x) ** 2)
        return tape.gradient(loss, x)

    x = random(16, 3, 7)
    expected = second(tf.constant(x)).numpy()
    np.testing.assert_allclose(
        in_step_of_fit(second)(x).numpy(), expected, rtol=1e-3, atol=1e-4
    )


def test_tensorflow_has_xla():
    assert kernels.can_compile()


def test_nan_upstream_stays_at_its_channel():
    x, upstream = tf.ones((1, 16)), np.ones((1, 16), "float32")
    upstream[0, 7] = np.nan
    layer = LocalResponseNormalization(2)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    found = tape.gradient(y, x, output_gradients=tf.constant(upstream)).numpy()
    assert np.flatnonzero(np.isnan(found)).tolist() == [7]


def test_saved_gradients_are_plain_operations(tmp_path):
    class Module(tf.Module):
        def __init__(self):
            self.model = make_model()

        @tf.function(input_signature=[tf.TensorSpec((None, 3, 7))])
        def step(self, x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(self.model(x, training=True))
            return tape.gradient(loss, self.model.trainable_variables)

    module, x = Module(), random(16, 3, 7)
    fit(module.model)
    tf.saved_model.save(module, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    for found, expected in zip(loaded.step(x), module.step(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    graph = module.step.get_concrete_function().graph.as_graph_def()
    functions = graph.library.function
    assert not [f for f in functions if f.attr["_XlaMustCompile"].b]


@pytest.mark.parametrize("batch", [None, 16])
def test_onnx_of_training_mode(tmp_path, batch):
    """After `fit`, and another model still trains after the export."""
    onnxruntime = pytest.importorskip("onnxruntime")
    tf2onnx = pytest.importorskip("tf2onnx")
    model, x = make_model(), random(16, 3, 7)
    fit(model)
    path = str(tmp_path / "model.onnx")
    tf2onnx.convert.from_function(
        tf.function(lambda x: model(x, training=True)),
        input_signature=[tf.TensorSpec((batch, 3, 7))],
        output_path=path,
    )
    session = onnxruntime.InferenceSession(path)
    found = session.run(None, {session.get_inputs()[0].name: x})[0]
    np.testing.assert_allclose(found, model(x, training=True), rtol=1e-5, atol=1e-6)
    for other in (model, make_model()):
        fit(other)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_in_fit(dtype):
    initializer = keras.initializers.GlorotUniform(seed=0)
    dense = keras.layers.Dense(7, kernel_initializer=initializer, dtype=dtype)
    layer = LocalResponseNormalization(2, dtype=dtype)
    model = keras.Sequential([keras.Input((3, 7)), dense, layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x = random(32, 3, 7)
    before = model.evaluate(x, np.zeros_like(x), verbose=0)
    model.fit(x, np.zeros_like(x), batch_size=16, epochs=6, verbose=0)
    assert model.evaluate(x, np.zeros_like(x), verbose=0) < 0.9 * before


def test_check_numerics():
    tf.debugging.enable_check_numerics()
    try:
        fit(make_model())
    finally:
        tf.debugging.disable_check_numerics()
    assert kernels.can_compile()
