"""`strip`: a plain model out of a compressed one, which loses nothing and needs nobody."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from conftest import small_net

import keras_compress as kc
from keras_compress.engines.base import engine_of


def compressed(model, x, y, **arguments):
    """The model after a short fit that pruned half of it and switched quantization on."""
    compress = kc.Compress(
        pruning=kc.Pruning(kc.ConstantSparsity(target_sparsity=0.5, begin_step=2, frequency=3)),
        quantization=kc.Quantization(delay=4, calibration_steps=2),
    )
    model.fit(x, y, batch_size=16, verbose=0, callbacks=[compress], **arguments)
    return compress


def masked_weights(model):
    """What `strip` must give: the weights with the masks applied, worked here from the state."""
    masks = {id(t.kernel): t.mask.numpy() for t in engine_of(model).pruner.targets}
    adapter = engine_of(model).adapter
    weights = []
    for variable in model.weights:
        kernel = adapter.tf_variable(variable)
        weights.append(kernel.numpy() * masks.get(id(kernel), 1))
    return weights


def assert_plain_copy(keras, plain, model):
    """Another object of the same make, with nothing of ours on it."""
    assert plain is not model
    assert type(plain) is type(model)
    assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
    assert [type(layer) for layer in plain.layers] == [type(layer) for layer in model.layers]
    assert engine_of(plain) is None
    holders = [plain, *plain._flatten_layers(include_self=False)]
    assert not {"call", "train_step", "fit"} & {key for holder in holders for key in vars(holder)}


def test_strip_gives_the_masked_weights_and_leaves_the_argument_alone(keras, digits):
    x, y, x_test, _ = digits
    model = small_net(keras, batch_norm=True, jit_compile=False)
    compress = compressed(model, x[:128], y[:128])
    answers = model.predict(x_test, verbose=0)
    plain = kc.strip(model)
    assert_plain_copy(keras, plain, model)
    for ours, expected in zip(plain.get_weights(), masked_weights(model), strict=True):
        np.testing.assert_array_equal(ours, expected)
    kernel = plain.get_layer("dense1").get_weights()[0]
    assert (kernel == 0).mean() == pytest.approx(0.5, abs=0.01)
    # The argument still answers as the quantized network, the copy in float.
    assert engine_of(model) is not None
    np.testing.assert_array_equal(model.predict(x_test, verbose=0), answers)
    assert np.abs(plain.predict(x_test, verbose=0) - answers).max() > 0
    stripped = compress.stripped_model
    assert_plain_copy(keras, stripped, model)
    for ours, other in zip(stripped.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, other)


def test_the_masks_hold_in_the_copy_even_where_a_fit_broke_off(keras, digits):
    x, y, _, _ = digits
    model = small_net(keras, jit_compile=False)

    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch >= 6:
                raise KeyboardInterrupt

    compress = kc.Compress(
        pruning=kc.Pruning(kc.ConstantSparsity(target_sparsity=0.5, begin_step=2, frequency=3))
    )
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[compress, Break()])
    zeros = (kc.strip(model).get_layer("dense1").get_weights()[0] == 0).mean()
    assert zeros == pytest.approx(0.5, abs=0.01)


def test_the_copy_is_compiled_as_the_argument_is_and_trains_on(keras, digits):
    x, y, x_test, y_test = digits

    class Brier(keras.losses.Loss):
        def call(self, y_true, y_pred):
            truth = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), 10)
            return tf.reduce_sum(tf.square(truth - y_pred), axis=-1)

    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 100, 0.5)
    model = small_net(keras)
    model.compile(
        keras.optimizers.Adam(schedule, beta_1=0.8),
        loss=Brier(),
        metrics=[keras.metrics.SparseCategoricalAccuracy("hits")],
        jit_compile=False,
        steps_per_execution=2,
    )
    compressed(model, x[:128], y[:128])
    plain = kc.strip(model)
    assert type(plain.optimizer) is type(model.optimizer)
    assert plain.optimizer is not model.optimizer
    assert int(plain.optimizer.iterations) == 0
    config = plain.optimizer.get_config()
    assert config["beta_1"] == pytest.approx(0.8)
    assert config["learning_rate"]["config"]["decay_rate"] == 0.5
    loss, hits = plain.evaluate(x_test, y_test, verbose=0)
    assert loss > 0
    assert hits == pytest.approx((plain.predict(x_test, verbose=0).argmax(1) == y_test).mean())
    history = plain.fit(x[:128], y[:128], batch_size=16, epochs=3, verbose=0).history
    assert set(history) == {"loss", "hits"}
    assert history["loss"][-1] < history["loss"][0]
    # Trained on without masks: the copy is plain.
    assert (plain.get_layer("dense1").get_weights()[0] == 0).mean() < 0.4


def test_a_learning_rate_that_was_changed_is_kept(keras, digits):
    x, y, _, _ = digits
    model = small_net(keras, jit_compile=False)
    compressed(model, x[:128], y[:128])
    model.optimizer.learning_rate = 0.0375
    rate = kc.strip(model).optimizer.learning_rate
    assert float(rate.numpy()) == pytest.approx(0.0375)


def test_a_custom_layer_and_function_are_passed_on(keras, digits):
    def swell(x):
        return x * 1.5

    class Shift(keras.layers.Layer):
        def call(self, inputs):
            return inputs + 0.25

    x, y, x_test, _ = digits
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Dense(6, activation=swell)(Shift(name="shift")(layers.Flatten()(inputs)))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(hidden))
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    pruning = kc.Pruning(kc.ConstantSparsity(target_sparsity=0.5, begin_step=1))
    model.fit(x[:64], y[:64], verbose=0, callbacks=[kc.Compress(pruning=pruning)])
    plain = kc.strip(model)
    assert type(plain.get_layer("shift")) is Shift
    np.testing.assert_allclose(
        plain.predict(x_test, verbose=0), model.predict(x_test, verbose=0), atol=1e-6
    )


def test_frozen_layers_are_frozen_in_the_copy_nested_ones_too(keras, digits):
    x, y, _, _ = digits
    layers = keras.layers
    inner_input = keras.Input((8, 8, 1))
    hidden = layers.Conv2D(4, 3, name="first")(inner_input)
    backbone = keras.Model(inner_input, layers.Conv2D(4, 3, name="second")(hidden), name="backbone")
    inputs = keras.Input((8, 8, 1))
    outputs = layers.Dense(10, activation="softmax")(layers.Flatten()(backbone(inputs)))
    model = keras.Model(inputs, outputs)
    backbone.get_layer("first").trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    compressed(model, x[:128], y[:128])
    plain = kc.strip(model)
    assert not plain.get_layer("backbone").get_layer("first").trainable
    assert plain.get_layer("backbone").get_layer("second").trainable
    assert len(plain.trainable_weights) == len(model.trainable_weights) == 4


def test_a_subclassed_model_with_a_config(keras, digits):
    class Net(keras.Model):
        def __init__(self, units, **arguments):
            super().__init__(**arguments)
            self.units = units
            self.flat = keras.layers.Flatten()
            self.dense = keras.layers.Dense(units, name="dense")

        def call(self, inputs):
            return self.dense(self.flat(inputs))

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    x, y, x_test, _ = digits
    model = Net(10)
    model(x[:1])
    model.compile("sgd", "mse", jit_compile=False)
    pruning = kc.Pruning(kc.ConstantSparsity(target_sparsity=0.5, begin_step=1))
    model.fit(x[:64], np.eye(10)[y[:64]], verbose=0, callbacks=[kc.Compress(pruning=pruning)])
    plain = kc.strip(model)
    assert type(plain) is Net
    assert (plain.dense.get_weights()[0] == 0).mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(
        plain.predict(x_test, verbose=0), model.predict(x_test, verbose=0), atol=1e-6
    )


def test_a_model_that_was_never_compressed_is_copied(keras, digits):
    model = small_net(keras, batch_norm=True)
    plain = kc.strip(model)
    assert_plain_copy(keras, plain, model)
    for ours, other in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, other)


def test_an_unbuilt_model_is_refused(keras):
    model = keras.Sequential([keras.layers.Dense(3)])
    message = (
        "strip: `model` must be built; call it on a batch of data first. "
        "Received: model=Sequential without weights"
    )
    with pytest.raises(ValueError, match="^strip: ") as refused:
        kc.strip(model)
    assert str(refused.value) == message


def test_what_is_no_keras_model_is_refused():
    with pytest.raises(TypeError, match="must be a Keras 3 or tf_keras model. Received: .*dict"):
        kc.strip({})


def test_the_saved_copy_loads_without_us_and_without_tfmot(keras, digits, tmp_path):
    x, y, x_test, _ = digits
    model = small_net(keras, batch_norm=True, jit_compile=False)
    compressed(model, x[:128], y[:128])
    plain = kc.strip(model)
    plain.save(tmp_path / "plain.keras")
    np.save(tmp_path / "x.npy", x_test[:20])
    script = f"""
        import sys
        for name in ("keras_compress", "tensorflow_model_optimization"):
            sys.modules[name] = None  # an import of it fails
        import numpy as np
        import {keras.__name__} as keras
        model = keras.models.load_model("plain.keras")
        np.save("answers.npy", model.predict(np.load("x.npy"), verbose=0))
        print(model.optimizer.get_config()["name"], [type(l).__name__ for l in model.layers])
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    answers = np.load(tmp_path / "answers.npy")
    np.testing.assert_allclose(answers, plain.predict(x_test[:20], verbose=0), atol=1e-6)
    assert "BatchNormalization" in child.stdout
