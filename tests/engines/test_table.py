"""Every kind that the placement table knows, alone in a network: all-integer, and the function that
it was.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from helpers.kinds import CASES, available

import keras_compress as kc
from keras_compress.engines.in_place import form_check, plan, table
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.engines.in_place.table import ACTIVATIONS, TABLE
from keras_compress.engines.state import Phase
from keras_compress.export.model_source import ModelSource
from keras_compress.frameworks.choose import adapter_of
from keras_compress.tflite import Conversion, TFLiteModel, convert, inspect_tflite

# Keras 3 warns of what is meant here: some of these networks have nothing to train.
pytestmark = [
    pytest.mark.by_turns,
    pytest.mark.filterwarnings("ignore:The model does not have any trainable weights"),
]

ROWS = 64


def test_every_row_has_a_case():
    kinds = {case.kind for case in CASES}
    assert set(TABLE) <= kinds
    assert set(ACTIVATIONS) - {"steep_hard_sigmoid"} <= kinds  # tf_keras' hard_sigmoid


def network(keras, case):
    """The case between an input and an output, and numbers for it."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(case.shape, dtype=case.dtype, name="given")
    model = keras.Model(inputs, case.make(keras, inputs))
    generator = np.random.default_rng(0)
    # Uniform, so that every batch shows about the same range and nothing is clipped.
    x = generator.uniform(-2.0, 2.5, (ROWS, *case.shape)).astype("float32")
    if case.dtype != "float32":
        limit = 20 if case.kind == "Embedding" else 256
        x = generator.integers(0, limit, (ROWS, *case.shape)).astype(case.dtype)
    return model, x


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kind_is_integer_in_the_file_and_stays_the_function_it_was(keras, case, monkeypatch):
    if not available(keras, case):
        pytest.skip(f"{keras.__name__} has no {case.name}")
    model, x = network(keras, case)
    plain = np.asarray(model(x, training=False))
    monkeypatch.setattr(form_check, "CLOSE", 1e-6)  # of the form in float, to the layer
    engine = InPlace(adapter_of(model, "test"), model, None, kc.Quantization())
    engine.attach()
    assert engine.left_out["quantization"] == {}

    engine.set_phase(Phase.WATCHING)
    with engine.quantizers.training_step():
        watched = np.asarray(model(x, training=False))
    np.testing.assert_array_equal(watched, plain)  # bit for bit

    engine.set_phase(Phase.ON)
    rounded = np.asarray(model(x, training=False))
    assert np.abs(rounded - plain).mean() <= 0.012 * max(np.ptp(plain), 1e-3)

    data = convert(
        ModelSource(model).function(1, quantized=True), Conversion("int8", quantized=True)
    )
    contents = inspect_tflite(data)
    assert contents.all_integer, [str(op) for op in contents.float_ops]
    steps = np.abs(TFLiteModel(data).predict(x) - rounded) / contents.output_scales[0]
    assert steps.max() <= case.steps + 1e-3
    # One step is what a tie takes that falls the other way, and ties are rare. Means whose halves
    # fall the other way are off by 0.04 and more.
    assert steps.mean() <= case.mean


def shipped(keras, make, shape, path):
    """The report on the file of one layer, quantized in place in a fit, and the model."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, name="given")
    model = keras.Model(inputs, make(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    x = np.random.default_rng(0).uniform(-2.0, 2.5, (64, *shape)).astype("float32")
    float_answers = model.predict(x, verbose=0)
    compress = kc.Compress(
        quantization=kc.Quantization(delay=1.0), export=kc.Export(path, verify_data=x)
    )
    y = np.zeros((64, *model.output_shape[1:]), "float32")
    model.fit(x, y, batch_size=16, verbose=0, epochs=2, callbacks=[compress])
    assert compress.report.export.error is None
    return model, x, float_answers, compress.report.export


# --- forms are compared with their layers


@pytest.fixture
def without_ops(monkeypatch):
    """What the table refuses is not quantized by its ops instead."""
    monkeypatch.setattr(plan, "_units", lambda adapter, model, graph, unknown: ({}, dict(unknown)))


def left_out(keras, make, shape=(12,)):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.Dense(3)(make(inputs)))
    engine = InPlace(adapter_of(model, "test"), model, None, kc.Quantization())
    engine.attach()
    return engine.left_out["quantization"]


@pytest.mark.usefixtures("without_ops")
def test_a_function_called_with_an_argument_that_its_form_does_not_know_is_refused(keras):
    """A form that ignored it would train another network, without a word."""
    if keras.__name__ == "keras":
        pytest.skip("no operation of Keras 3 has such an argument")
    reasons = left_out(keras, lambda t: tf.nn.silu(keras.layers.Dense(5)(t), beta=4.0))
    ((path, reason),) = reasons.items()
    assert path.startswith("tf.nn.silu")  # numbers count on in a process
    assert "its quantized form does not compute the same: it differs by 0." in reason


@pytest.mark.usefixtures("without_ops")
def test_a_wrong_form_is_refused_by_name(keras, monkeypatch):
    wrong = dataclasses.replace(table.TABLE["Multiply"], form=lambda call: call.inputs[0])
    monkeypatch.setitem(table.TABLE, "Multiply", wrong)

    def make(inputs):
        halves = [keras.layers.Dense(4, name=name)(inputs) for name in "ab"]
        return keras.layers.Multiply(name="gate")(halves)

    reasons = left_out(keras, make)
    assert list(reasons) == ["gate"]
    assert reasons["gate"].startswith("its quantized form does not compute the same: it differs by")


def test_calls_that_differ_by_their_weights_alone_are_compared_once(keras, monkeypatch):
    compared, difference = [], form_check._difference

    def noting(adapter, node, *rows):
        compared.append(node.path)
        return difference(adapter, node, *rows)

    monkeypatch.setattr(form_check, "_difference", noting)
    layers = keras.layers
    many = np.arange(1.0, 2001.0, dtype="float32")  # NumPy's own words leave most of them out

    def make(x):
        x = layers.PReLU(name="first")(layers.PReLU(name="of_its_kind")(x))
        x = layers.LayerNormalization(name="second")(x)
        x = layers.LayerNormalization(name="other_epsilon", epsilon=0.5)(x)
        x = layers.Dense(2000)(x)
        for number in (1001.0, 1001.0, 1001.5):
            factor = many.copy()
            factor[1000] = number
            x = x * factor
        return layers.LayerNormalization(name="other_shape")(x)

    assert left_out(keras, make) == {}
    products = [path for path in compared if "mul" in path]
    # In tf_keras each of TensorFlow's own ops has a `call` of its own.
    assert len(products) == (2 if keras.__name__ == "keras" else 3)
    named = [path for path in compared if path not in products and "dense" not in path]
    assert named == ["of_its_kind", "second", "other_epsilon", "other_shape"]


@pytest.mark.usefixtures("without_ops")
def test_a_layer_whose_own_call_was_replaced_is_not_taken_for_one_of_its_kind(keras):
    def make(x):
        honest, other = (keras.layers.LayerNormalization(name=name) for name in ("honest", "other"))
        x = other(honest(x))
        other.call = lambda inputs: 2.0 * inputs
        return x

    assert list(left_out(keras, make)) == ["other"]


@pytest.mark.usefixtures("without_ops")
def test_a_form_that_fails_is_refused_by_name(keras, monkeypatch):
    def failing(call):
        raise KeyError("beta")

    wrong = dataclasses.replace(table.TABLE["Multiply"], form=failing)
    monkeypatch.setitem(table.TABLE, "Multiply", wrong)
    reasons = left_out(keras, lambda t: keras.layers.Multiply(name="gate")([t, t]))
    message = "its quantized form fails for these arguments (KeyError: 'beta')"
    assert reasons == {"gate": message}


# --- subclasses


@pytest.mark.usefixtures("without_ops")
def test_a_subclass_that_changes_nothing_is_its_base(keras):
    class Mine(keras.layers.Dense):
        """With another constructor."""

        def __init__(self, units=5, **arguments):
            super().__init__(units, **arguments)

        def get_config(self):
            return super().get_config()

    assert left_out(keras, lambda t: Mine()(t)) == {}


@pytest.mark.parametrize("method", ["call", "build"])
@pytest.mark.usefixtures("without_ops")
def test_a_subclass_that_computes_something_else_is_refused(keras, method):
    def call(self, inputs):
        return keras.layers.Dense.call(self, inputs)

    def build(self, input_shape):
        keras.layers.Dense.build(self, input_shape)

    mine = type("Mine", (keras.layers.Dense,), {method: {"call": call, "build": build}[method]})
    reasons = left_out(keras, lambda t: mine(5, name="mine")(t))
    assert reasons == {"mine": "Mine is not in the placement table"}
