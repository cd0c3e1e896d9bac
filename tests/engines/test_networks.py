"""Kinds of models, each pruned, switched and exported: what ships answers as what was trained."""

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.engines.engine import engine_of

pytestmark = pytest.mark.by_turns

ROWS, STEPS = 64, 4  # per epoch, in batches of 16


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.4, 0.5, (ROWS, *shape)).astype("float32")


def compress_fit(model, x, y, path, **export):
    """Two epochs with the delay after the first, and the `Compress` that did it."""
    compress = kc.Compress(
        pruning=kc.Pruning(kc.ConstantSparsity(target_sparsity=0.5, begin_step=2, frequency=3)),
        quantization=kc.Quantization(delay=STEPS, calibration_steps=3),
        export=kc.Export(path, verify_data=x, **export),
    )
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False, callbacks=[compress])
    return compress


def assert_ships(compress, model, path):
    """An all-integer file, under the model's own names, that answers alike."""
    report = compress.report.export
    assert report.error is None
    contents = kc.inspect_tflite(path)
    assert contents.all_integer
    assert max(report.largest_steps.values()) <= 4
    file = kc.load_tflite(path)
    engine = engine_of(model)
    inputs, outputs = engine.adapter.flat_names(model)
    assert [end.name for end in file.inputs] == inputs
    assert [end.name for end in file.outputs] == outputs
    assert all(end.shape[0] == 1 for end in (*file.inputs, *file.outputs))
    return file


def block(keras, x, filters):
    layers = keras.layers
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(x)


@pytest.mark.slow
def test_residual_net_with_an_operator(keras, tmp_path):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3), name="image")
    x = block(keras, inputs, 4)
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(block(keras, x, 4)))
    x = layers.ReLU()(x + y)
    outputs = layers.Dense(5, name="scores")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse", jit_compile=False)
    compress = compress_fit(model, images(8, 8, 3), np.zeros((ROWS, 5)), tmp_path / "net.tflite")
    assert_ships(compress, model, tmp_path / "net.tflite")
    assert set(kc.inspect_tflite(tmp_path / "net.tflite").op_counts) == {
        "CONV_2D",
        "ADD",
        "MEAN",
        "FULLY_CONNECTED",
    }


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("form", ["list", "dict"])
def test_several_inputs_and_outputs(keras, form, tmp_path):
    layers = keras.layers
    picture = keras.Input((8, 8, 1), name="z_picture")
    numbers = keras.Input((6,), name="a_numbers")
    x = layers.Flatten()(block(keras, picture, 3))
    both = layers.Concatenate()([x, layers.Dense(8, activation="relu")(numbers)])
    # Its user knows an output of a dict by its key, whatever the layer is called.
    names = ("kind", "a_size") if form == "list" else ("kind_layer", "size_layer")
    kind = layers.Dense(4, activation="softmax", name=names[0])(both)
    size = layers.Dense(1, activation="sigmoid", name=names[1])(both)
    x = {"z_picture": images(8, 8, 1), "a_numbers": images(6, seed=1)}
    y = {"kind": np.zeros((ROWS, 4)), "a_size": np.zeros((ROWS, 1))}
    if form == "list":
        model = keras.Model([picture, numbers], [kind, size])
        x, y = list(x.values()), list(y.values())
    else:
        model = keras.Model(
            {"z_picture": picture, "a_numbers": numbers}, {"kind": kind, "a_size": size}
        )
    model.compile("sgd", "mse", jit_compile=False)
    path = tmp_path / "net.tflite"
    compress = compress_fit(model, x, y, path)
    file = assert_ships(compress, model, path)
    # By name, each input is the one it says it is.
    given = dict(zip(["z_picture", "a_numbers"], x, strict=True)) if form == "list" else x
    answers = file.predict(given)
    expected = model.predict(x, verbose=0)
    if form == "list":
        expected = dict(zip(["kind", "a_size"], expected, strict=True))
    for name, value in expected.items():
        assert np.abs(answers[name] - value).max() <= 4 / 256


def test_a_functional_subclass_with_its_own_train_step(keras, tmp_path):
    class Trainer(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"own_loss": loss}

    inputs = keras.Input((8, 8, 1), name="image")
    hidden = keras.layers.Flatten()(block(keras, inputs, 4))
    model = Trainer(inputs, keras.layers.Dense(3, name="out")(hidden))
    model.compile("sgd", jit_compile=False)
    compress = compress_fit(model, images(8, 8, 1), np.zeros((ROWS, 3)), tmp_path / "net.tflite")
    assert set(model.history.history) == {"own_loss", "sparsity", "quantized"}
    assert compress.report.step == 2 * STEPS
    assert compress.report.switched_at == STEPS + 1
    assert_ships(compress, model, tmp_path / "net.tflite")
    assert type(kc.strip(model)) is Trainer


@pytest.mark.slow
def test_a_sequential_without_shapes_is_attached_with_the_first_batch_which_counts(keras, tmp_path):
    def build(**arguments):
        keras.utils.set_random_seed(0)
        layers = keras.layers
        steps = [layers.Conv2D(4, 3, name="conv"), layers.ReLU(), layers.Flatten(), layers.Dense(3)]
        model = keras.Sequential(steps)
        if arguments:
            model.build((None, *arguments["shape"]))
        model.compile("sgd", "mse", jit_compile=False)
        return model

    x, y = images(8, 8, 2), np.zeros((ROWS, 3), "float32")
    model = build()
    compress = compress_fit(model, x, y, tmp_path / "net.tflite")
    assert compress.report.step == 2 * STEPS
    assert compress.report.switched_at == STEPS + 1
    assert_ships(compress, model, tmp_path / "net.tflite")
    shaped = build(shape=(8, 8, 2))
    shaped.set_weights(build_weights(keras, build, x))
    same = compress_fit(shaped, x, y, tmp_path / "same.tflite")
    assert same.report.sparsity == compress.report.sparsity
    for one, other in zip(model.get_weights(), shaped.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def build_weights(keras, build, x):
    model = build()
    model(x[:1])
    return model.get_weights()


def test_nested_models_and_a_shared_layer(keras, tmp_path):
    layers = keras.layers
    inner_input = keras.Input((8, 8, 3))
    inner = keras.Model(inner_input, block(keras, inner_input, 4), name="backbone")
    tail = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(2, 3), layers.ReLU()], name="tail"
    )
    shared = layers.Dense(4, activation="relu", name="shared")
    one, two = keras.Input((8, 8, 3), name="one"), keras.Input((8, 8, 3), name="two")
    x, y = (layers.Flatten()(tail(inner(part))) for part in (one, two))
    outputs = layers.Add()([shared(x), shared(y)])
    model = keras.Model([one, two], outputs)
    model.compile("sgd", "mse", jit_compile=False)
    x = [images(8, 8, 3), images(8, 8, 3, seed=1) * 2]
    path = tmp_path / "net.tflite"
    compress = compress_fit(model, x, np.zeros((ROWS, 4)), path)
    assert_ships(compress, model, path)
    assert {layer.path.split("/")[0] for layer in compress.report.layers} == {
        "backbone",
        "tail",
        "shared",
    }
    # Both calls of the shared layer are inside the one range: the larger input's.
    engine = engine_of(model)
    assert compress.report.step == 2 * STEPS
    assert engine.quantizers.ranges()["input/1"][1] > 1.5 * engine.quantizers.ranges()["input/0"][1]


@pytest.mark.slow
def test_depthwise_and_separable(keras, tmp_path):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(5, 3, strides=2, activation="relu", name="separable")(x)
    x = layers.Dropout(0.2)(layers.AveragePooling2D(2, 1)(x))
    x = layers.BatchNormalization()(layers.Dense(7, use_bias=False)(layers.Flatten()(x)))
    outputs = layers.Softmax(name="kind")(layers.Dense(4)(layers.Activation("silu")(x)))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse", jit_compile=False)
    path = tmp_path / "net.tflite"
    compress = compress_fit(model, images(8, 8, 3), np.zeros((ROWS, 4)), path)
    assert_ships(compress, model, path)
    kernels = {(layer.path, layer.kernel) for layer in compress.report.layers}
    assert ("separable", "depthwise_kernel") in kernels
    assert ("separable", "pointwise_kernel") in kernels


def test_a_batch_norm_with_a_dead_channel(keras, tmp_path):
    """A gamma of zero, and a channel that is pruned away with its bias left, still are integer."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm", gamma_initializer="zeros")(x))
    x = layers.Conv2D(3, 3, name="dead")(x)
    model = keras.Model(inputs, layers.Flatten(name="out")(x))
    kernel, _ = model.get_layer("dead").get_weights()
    kernel[..., 1] = 0.0
    model.get_layer("dead").set_weights([kernel, np.array([0.3, 1.0, -0.5], "float32")])
    model.get_layer("norm").beta.assign([0.5, 0.1, 0.7, -0.2])
    model.trainable = False
    model.compile("sgd", "mse", jit_compile=False)
    path = tmp_path / "net.tflite"
    compress = kc.Compress(
        quantization=kc.Quantization(), export=kc.Export(path, verify_data=images(8, 8, 1))
    )
    with pytest.warns() if keras.__name__ == "keras" else NoWarning():
        model.fit(images(8, 8, 1), np.zeros((ROWS, 48)), verbose=0, callbacks=[compress])
    assert_ships(compress, model, path)


class NoWarning:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False
