"""`strip` of models in tfmot's wrappers: plain models of the original names and classes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tf_keras
from helpers.wrapped_nets import (
    BATCH,
    HALF,
    STEPS,
    assert_same,
    compiled,
    data,
    fit,
    masks,
    net,
    zeros,
)

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.frameworks.choose import adapter_of

layers = tf_keras.layers
PRUNING = kc.Pruning(HALF)
QUANTIZATION = kc.Quantization(delay=5, calibration_steps=2)


class Scale(layers.Layer):
    """A user's own layer, registered nowhere."""

    def __init__(self, start=2.0, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, shape):
        initializer = tf_keras.initializers.Constant(self.start)
        self.factor = self.add_weight(name="factor", shape=(), initializer=initializer)
        super().build(shape)

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return {**super().get_config(), "start": self.start}


class Pair(layers.Layer):
    """A user's own layer with two others in it, of which the first is frozen."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(4, name="first")
        self.second = layers.Dense(4, name="second")

    def call(self, x):
        return self.second(self.first(x))


def leak(x):
    return x * 0.5


def chain(*made, shape=(6, 6, 1)):
    """These one after the other between an input and a Dense layer, functional."""
    given = layers.Input(shape, name="given")
    x = given
    for layer in made:
        x = layer(x)
    x = layers.Flatten(name="flatten")(x)
    return tf_keras.Model(given, layers.Dense(4, activation="softmax", name="kind")(x))


def sequential():
    return net(tf_keras)


def shape_on_the_first_layer():
    dense = layers.Dense(8, activation="relu", input_shape=(6,), name="hidden")
    return tf_keras.Sequential([dense, layers.Dense(4, name="kind")], name="no_input")


def separable():
    """Two of them, one with all that tfmot has to carry over, and pairs that only look like it."""
    return chain(
        layers.SeparableConv2D(
            4,
            3,
            padding="same",
            depth_multiplier=2,
            activation="relu",
            depthwise_regularizer="l2",
            bias_initializer="ones",
            name="wide",
        ),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="deep"),
        layers.Conv2D(4, 1, name="pointwise"),
        layers.SeparableConv2D(3, 3, dilation_rate=2, use_bias=False, name="narrow"),
    )


def transposed():
    return chain(
        layers.Conv2DTranspose(3, 2, strides=2, activation="relu", name="up"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, name="deep"),
        layers.AveragePooling2D(name="pool"),
    )


def residual():
    given = layers.Input((6, 6, 1), name="given")
    x = layers.Conv2D(3, 3, padding="same", use_bias=False, name="conv")(given)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(6.0, name="relu")(x)
    y = layers.Conv2D(3, 1, activation="relu", name="side")(given)
    x = layers.Add(name="add")([x, y])
    x = layers.Concatenate(name="both")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Activation("relu", name="act")(x))
    return tf_keras.Model(given, layers.Dense(4, activation="softmax", name="kind")(x), name="res")


def shared():
    given = layers.Input((6,), name="given")
    dense = layers.Dense(6, activation="relu", name="twice")
    x = layers.Add(name="add")([dense(given), dense(dense(given))])
    return tf_keras.Model(given, layers.Dense(4, name="kind")(x))


def nested():
    """A model in a model, in part frozen."""
    inner = tf_keras.Sequential(
        [
            layers.Input((6, 6, 1)),
            layers.Conv2D(3, 3, activation="relu", name="frozen"),
            layers.BatchNormalization(name="norm"),
        ],
        name="inner",
    )
    inner.get_layer("frozen").trainable = False
    return chain(inner, layers.Conv2D(2, 3, name="conv"))


def frozen():
    model = chain(
        layers.SeparableConv2D(3, 3, name="separable"),
        layers.BatchNormalization(name="norm"),
        layers.Conv2D(2, 3, name="conv"),
    )
    for name in ("separable", "norm", "conv"):
        model.get_layer(name).trainable = False
    return model


def recurrent():
    given = layers.Input((5, 3), name="given")
    x = layers.LSTM(4, return_sequences=True, name="lstm")(given)
    x = layers.GRU(4, name="gru")(x)
    return tf_keras.Model(given, layers.Dense(4, name="kind")(x))


def half_frozen():
    """Layers with two others of equal shapes in them, of which one is frozen."""
    given = layers.Input((5, 4), name="given")
    both, pair = layers.Bidirectional(layers.GRU(4), merge_mode="sum", name="both"), Pair(name="p")
    model = tf_keras.Model(given, layers.Dense(4, name="kind")(pair(both(given))))
    both.forward_layer.trainable = False
    pair.first.trainable = False
    return model


def listed():
    left, right = layers.Input((6,), name="left"), layers.Input((3,), name="right")
    x = layers.Concatenate(name="both")([left, right])
    x = layers.Dense(6, activation="relu", name="hidden")(x)
    ends = [layers.Dense(4, activation="softmax", name="kind")(x), layers.Dense(1, name="size")(x)]
    return tf_keras.Model([left, right], ends, name="listed")


def by_name():
    given = {name: layers.Input((6,), name=name) for name in ("right", "left")}
    x = layers.Add(name="add")([given["left"], given["right"]])
    return tf_keras.Model(given, layers.Dense(4, name="kind")(x))


def operators():
    given = layers.Input((6,), name="given")
    x = layers.Dense(6, name="hidden")(given)
    x = 1.0 - x * 2.0 + layers.Dense(6, activation="swish", name="side")(given)
    return tf_keras.Model(given, layers.Dense(4, name="kind")(x[:, 1:]))


def own_classes():
    return chain(
        layers.Dense(5, activation=leak, name="leaking"),
        Scale(3.0, name="scale"),
        layers.Dense(5, activation="relu", name="hidden"),
        shape=(6,),
    )


def trusted():
    return chain(
        layers.Dense(5, name="hidden"),
        layers.Lambda(lambda x: x * 2.0, name="twice"),
        shape=(6,),
    )


def unnamed():
    """With automatic names, a SeparableConv2D among others."""
    return chain(layers.Conv2D(3, 3), layers.ReLU(), layers.SeparableConv2D(3, 3), layers.Dense(3))


KINDS = {
    make.__name__: make
    for make in (
        sequential,
        shape_on_the_first_layer,
        separable,
        transposed,
        residual,
        shared,
        nested,
        frozen,
        recurrent,
        half_frozen,
        listed,
        by_name,
        operators,
        own_classes,
        trusted,
        unnamed,
    )
}
# What tfmot itself wraps whole.
BY_HAND = {
    "pruned": (
        sequential,
        shape_on_the_first_layer,
        shared,
        nested,
        recurrent,
        by_name,
        trusted,
        unnamed,
    ),
    "quantized": (
        sequential,
        shape_on_the_first_layer,
        separable,
        transposed,
        residual,
        frozen,
        listed,
        unnamed,
    ),
}
WRAPPED = [
    *((kind.__name__, f"{how}-by-hand") for how, kinds in BY_HAND.items() for kind in kinds),
    *((kind, "pruned") for kind in ("nested", "half_frozen", "operators", "own_classes")),
    *((kind, "both") for kind in KINDS),
]
NAMELESS = ("separable", "frozen", "unnamed")  # whose split layers tfmot leaves no name


def wrap(tfmot, plain, how):
    if how == "pruned-by-hand":
        return tfmot.sparsity.keras.prune_low_magnitude(plain)
    if how == "quantized-by-hand":
        return tfmot.quantization.keras.quantize_model(plain)
    specs = {"pruning": PRUNING}
    if how == "both":
        specs["quantization"] = QUANTIZATION
    return kc.wrap(plain, **specs)


def made(kind):
    """A plain model of that kind, with weights of which no two are equal."""
    tf_keras.utils.set_random_seed(0)
    model = KINDS[kind]()
    generator = np.random.default_rng(1)
    model.set_weights([generator.uniform(0.1, 1.0, w.shape) for w in model.get_weights()])
    return model


def inputs(model):
    """Something for each input, in the form in which the model takes it."""
    generator = np.random.default_rng(2)
    rows = [generator.normal(size=(BATCH, *i.shape[1:])).astype("float32") for i in model.inputs]
    structure, _ = adapter_of(model, "test").structures(model)
    if isinstance(structure, dict):
        return dict(zip(sorted(structure), rows, strict=True))
    return rows if len(rows) > 1 else rows[0]


def answers(model):
    found = model(inputs(model), training=False)
    return [each.numpy() for each in (found if isinstance(found, list) else [found])]


def described(model):
    """Path, class, `trainable` and shapes of the model and of all layers in it."""
    return [
        (path, type(layer), layer.trainable, [tuple(weight.shape) for weight in layer.weights])
        for path, layer in [("", model), *adapter_of(model, "test").layers(model)]
    ]


def configs(model):
    """The whole config, as JSON would have it, without what a layer notes of being built."""

    def clean(value):
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if k != "build_config"}
        return [clean(v) for v in value] if isinstance(value, list | tuple) else value

    return json.loads(json.dumps(clean(model.get_config()), default=repr))


@pytest.mark.slow_after(1)
@pytest.mark.parametrize(("kind", "how"), WRAPPED)
def test_unwrapped_it_is_what_was_wrapped(tfmot, kind, how):
    plain = made(kind)
    weights, expected, config = plain.get_weights(), described(plain), configs(plain)
    answer = answers(plain)
    stripped = kc.strip(wrap(tfmot, plain, how))
    assert type(stripped) is type(plain)
    assert kc.compression_of(stripped) is None
    if kind in NAMELESS and how == "quantized-by-hand":
        assert [row[1:] for row in described(stripped)] == [row[1:] for row in expected]
    elif kind != "half_frozen":  # whose inner layers get automatic names anew
        assert described(stripped) == expected
        if kind != "trusted":  # whose config is the code of its function
            assert configs(stripped) == config
    assert_same(stripped.get_weights(), weights)
    for mine, theirs in zip(answers(stripped), answer, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_separable_convolutions_wrapped_by_hand_keep_all_but_their_names(tfmot):
    plain = made("separable")
    stripped = kc.strip(wrap(tfmot, plain, "quantized-by-hand"))
    found = [layer for layer in stripped.layers if type(layer) is layers.SeparableConv2D]
    for mine, name in zip(found, ("wide", "narrow"), strict=True):
        ours, theirs = configs_of(mine), configs_of(plain.get_layer(name))
        assert ours.pop("name").startswith("separable_conv2d")
        assert theirs.pop("name") == name
        assert ours == theirs
    assert [layer.name for layer in stripped.layers if layer not in found] == [
        layer.name for layer in plain.layers if layer.name not in ("wide", "narrow")
    ]


def configs_of(layer):
    return json.loads(json.dumps(layer.get_config(), default=repr))


def test_only_what_was_split_is_joined_again():
    # Halves of the same make as those that tfmot makes of a SeparableConv2D.
    tf_keras.backend.clear_session()
    plain = chain(
        layers.DepthwiseConv2D(3, use_bias=False),
        layers.Conv2D(3, 1),
        layers.SeparableConv2D(3, 3, name="left"),
        layers.SeparableConv2D(3, 1, name="done"),
    )
    spec = kc.Quantization(layers=lambda layer: layer.name != "left")
    model = kc.wrap(plain, quantization=spec)
    assert engine_of(model).left_out["quantization"] == {"left": "left out by `layers`"}
    stripped = kc.strip(model)
    assert described(stripped) == described(plain)
    assert_same(stripped.get_weights(), plain.get_weights())


def test_a_wrapped_model_in_a_plain_one_is_unwrapped(tfmot):
    inner, last = made("sequential"), layers.Dense(2, name="last")
    expected = tf_keras.Sequential([layers.Input((6, 6, 1), name="given"), inner, last])
    quantized = tfmot.quantization.keras.quantize_model(inner)
    outer = tf_keras.Sequential([layers.Input((6, 6, 1), name="given"), quantized, last])
    stripped = kc.strip(outer)
    assert described(stripped) == described(expected)
    for mine, theirs in zip(answers(stripped), answers(expected), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_model_that_wrap_made_can_stand_in_a_plain_one():
    inner = kc.wrap(made("sequential"), quantization=kc.Quantization(delay=1))
    given = layers.Input((6, 6, 1), name="given")
    outer = tf_keras.Sequential([given, inner, layers.Dense(2, name="last")])
    assert outer.get_config()["layers"]
    assert outer.to_json()
    stripped = kc.strip(outer)
    assert not any("quant" in layer.name for layer in stripped.layers[0].layers)
    np.testing.assert_allclose(answers(stripped)[0], answers(outer)[0], atol=1e-6)


# --- trained


@pytest.fixture(scope="module", params=["pruned", "both"])
def trained(request, tfmot):
    """(a wrapped model after its fit, its stripped one)."""
    model = compiled(tf_keras, wrap(tfmot, net(tf_keras), request.param), run_eagerly=True)
    fit(model)
    return model, kc.strip(model)


def test_it_gives_the_float_answers_of_the_masked_weights(trained):
    model, stripped = trained
    for (path, _), mask in masks(model).items():
        kernel = stripped.get_layer(path).get_weights()[0]
        assert not kernel[~mask].any()
        assert zeros(kernel) == pytest.approx(0.5, abs=0.03)
    plain = net(tf_keras, seed=1)
    plain.set_weights(stripped.get_weights())
    np.testing.assert_array_equal(answers(stripped)[0], answers(plain)[0])


def test_both_answers_are_reachable_at_any_time(trained):
    model, stripped = trained
    x, y = data()
    rounded, exact = answers(model)[0], answers(stripped)[0]
    if engine_of(model).phase.rounds:
        assert np.any(rounded != exact)
        np.testing.assert_allclose(rounded, exact, atol=0.1)
    else:
        np.testing.assert_array_equal(rounded, exact)
    before = model.evaluate(x, y, verbose=0)
    assert kc.strip(model).evaluate(x, y, verbose=0) == stripped.evaluate(x, y, verbose=0)
    assert model.evaluate(x, y, verbose=0) == before


def test_within_a_fit_too(tfmot):
    seen = []

    class Strip(tf_keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            x, _ = data()
            stripped = kc.strip(self.model)
            kernel = stripped.get_layer("hidden").get_weights()[0]
            seen.append((zeros(kernel), bool(np.any(stripped.predict(x, verbose=0)))))

    model = compiled(tf_keras, wrap(tfmot, net(tf_keras), "both"), run_eagerly=True)
    fit(model, Strip())
    assert [any_ for _, any_ in seen] == [True] * 2 * STEPS
    found = [share for share, _ in seen]
    # Updates 1, 3 and 5; nothing is pruned before the first wants anything.
    assert found == pytest.approx([0.0, 0.0, 0.4375, 0.4375, 0.5, 0.5, 0.5, 0.5], abs=0.01)


def test_the_argument_stays_as_it_was(trained):
    model, _ = trained
    weights, before, step = model.get_weights(), answers(model)[0], engine_of(model).step
    names = [layer.name for layer in model.layers]
    again = kc.strip(model)
    fit(again)
    assert_same(model.get_weights(), weights)
    np.testing.assert_array_equal(answers(model)[0], before)
    assert [layer.name for layer in model.layers] == names
    assert (engine_of(model).step, kc.compression_of(again)) == (step, None)


@pytest.mark.slow_after(1)
def test_it_is_compiled_alike_and_trains_on(trained):
    model, _ = trained
    stripped = kc.strip(model)
    assert stripped.optimizer is not model.optimizer
    assert stripped.optimizer.get_config() == model.optimizer.get_config()
    before = stripped.get_weights()
    history = fit(stripped).history
    assert set(history) == {"loss", "accuracy"}
    assert any(np.any(a != b) for a, b in zip(before, stripped.get_weights(), strict=True))
    stripped.compile("sgd", "sparse_categorical_crossentropy")
    fit(stripped, epochs=1)
    again = compiled(tf_keras, kc.strip(stripped), run_eagerly=True)
    compress = kc.Compress(pruning=PRUNING)  # and may be compressed anew
    fit(again, compress)
    assert compress.report.step == 2 * STEPS


def test_losses_and_metrics_find_the_outputs_of_a_model_wrapped_by_hand(tfmot):
    model = wrap(tfmot, made("listed"), "quantized-by-hand")
    assert model.output_names == ["quant_kind", "quant_size"]
    model.compile(
        "sgd",
        loss={"quant_kind": "sparse_categorical_crossentropy", "quant_size": "mse"},
        loss_weights={"quant_kind": 2.0, "quant_size": 1.0},
        metrics={"quant_kind": ["accuracy"]},
        run_eagerly=True,
    )
    stripped = kc.strip(model)
    x = inputs(stripped)
    y = [np.arange(BATCH) % 4, np.ones((BATCH, 1), "float32")]
    found = stripped.evaluate(x, y, verbose=0, return_dict=True)
    assert set(found) == {"loss", "kind_loss", "size_loss", "kind_accuracy"}
    assert found["loss"] == pytest.approx(2 * found["kind_loss"] + found["size_loss"], rel=1e-5)


# --- without tfmot and without us

ALONE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] not in ("tensorflow_model_optimization", "keras_compress")

sys.meta_path.insert(0, Refuse())
import numpy as np
import tf_keras

for kind, how in json.loads(sys.argv[2]):
    stem = f"{sys.argv[1]}/{kind}-{how}"
    model = tf_keras.models.load_model(f"{stem}.keras")
    with np.load(f"{stem}.npz") as file:
        rows = [file[f"x{i}"] for i in range(len(model.inputs))]
        expected = [file[f"y{i}"] for i in range(len(model.outputs))]
    if kind == "by_name":
        rows = dict(zip(("left", "right"), rows))
    rows = rows if len(rows) > 1 else rows[0]
    found = model(rows, training=False)
    found = found if isinstance(found, list) else [found]
    for mine, theirs in zip(found, expected):
        np.testing.assert_array_equal(mine, theirs, err_msg=stem)
model = tf_keras.models.load_model(f"{sys.argv[1]}/sequential-both.keras")
model.compile("sgd", "mse", run_eagerly=True)
model.fit(np.ones((4, 6, 6, 1), "float32"), np.ones((4, 4), "float32"), verbose=0)
print("all the same")
"""


@pytest.mark.sweep
def test_saved_as_keras_it_loads_in_a_process_without_tfmot_and_us(tfmot, tmp_path):
    kinds = (sequential, separable, nested, recurrent, listed, by_name, operators, residual)
    saved = [("shape_on_the_first_layer", "pruned-by-hand"), ("separable", "quantized-by-hand")]
    saved += [(kind.__name__, "both") for kind in kinds]
    for kind, how in saved:
        stripped = kc.strip(wrap(tfmot, made(kind), how))
        stem = str(tmp_path / f"{kind}-{how}")
        stripped.save(f"{stem}.keras")
        rows = inputs(stripped)
        rows = list(rows.values()) if isinstance(rows, dict) else rows
        rows = rows if isinstance(rows, list) else [rows]
        arrays = {f"x{i}": value for i, value in enumerate(rows)}
        arrays |= {f"y{i}": value for i, value in enumerate(answers(stripped))}
        np.savez(f"{stem}.npz", **arrays)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path), json.dumps(saved)],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all the same"


# --- Lambda layers, in every model


def test_a_lambda_layer_is_the_callers_own(keras):
    given = keras.layers.Input((6,), name="given")
    x = keras.layers.Lambda(lambda x: x * 2.0, name="twice")(given)
    plain = keras.Model(given, keras.layers.Dense(4, name="kind")(x))
    model = compiled(keras, plain, run_eagerly=True)
    compress = kc.Compress(pruning=PRUNING)
    fit(model, compress)
    rows = np.ones((2, 6), "float32")
    np.testing.assert_array_equal(compress.stripped_model(rows), model(rows))


# --- what cannot be stripped


def test_a_layer_that_cannot_be_made_from_its_config_is_named(tfmot):
    class Odd(layers.Layer):
        def __init__(self, size):
            super().__init__(name="odd")
            self.size = size

        def call(self, x):
            return x

        def get_config(self):
            return {"name": "odd"}

    given = layers.Input((6,))
    prune = tfmot.sparsity.keras.prune_low_magnitude
    model = tf_keras.Model(given, prune(layers.Dense(4))(Odd(3)(given)))
    with pytest.raises(
        ValueError, match=r"^strip: `model` must be of layers that can be made from"
    ):
        kc.strip(model)


def test_a_subclassed_model_with_wrappers_cannot_be_stripped(tfmot):
    class Own(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = tfmot.sparsity.keras.prune_low_magnitude(layers.Dense(4))

        def call(self, x):
            return self.dense(x)

    model = Own()
    with pytest.raises(ValueError, match=r"^strip: `model` must be built"):
        kc.strip(model)
    model(np.zeros((1, 3), "float32"))
    with pytest.raises(ValueError, match=r"^strip: `model` must be a built Sequential or"):
        kc.strip(model)
