"""`layers=` in all its forms, of both specs: which layers it means, and what it refuses."""

import re

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.engines.engine import engine_of

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

HALF = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1)
QUARTER = kc.ConstantSparsity(target_sparsity=0.25, begin_step=1)


def nested(keras):
    """Two towers of equal layer names, a head, and a layer that neither spec can do.

    Paths: left/conv, left/flatten, right/conv, right/flatten, both, scaled, head. `scaled` holds a
    user's own layer with a weight.
    """
    keras.utils.set_random_seed(4)
    layers = keras.layers

    class Scale(layers.Layer):
        def build(self, shape):
            # The two Keras agree on keywords only.
            self.matrix = self.add_weight(
                name="matrix", shape=(shape[-1], shape[-1]), initializer="ones"
            )

        def call(self, inputs):
            return inputs / self.matrix[0]

        def compute_output_shape(self, shape):
            return shape

    def tower(name):
        return keras.Sequential(
            [
                layers.Input((4, 4, 1)),
                layers.Conv2D(2, 3, name="conv"),
                layers.Flatten(name="flatten"),
            ],
            name=name,
        )

    inputs = keras.Input((4, 4, 1), name="image")
    merged = layers.Concatenate(name="both")([tower("left")(inputs), tower("right")(inputs)])
    outputs = layers.Dense(2, name="head")(Scale(name="scaled")(merged))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.01), loss="mse", jit_compile=False)
    return model


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(13)
    x = generator.normal(size=(12, 4, 4, 1)).astype("float32")
    return x, generator.normal(size=(12, 2)).astype("float32")


def fit(model, data, **specs):
    """Three updates; the report."""
    compress = kc.Compress(**specs)
    model.fit(*data, batch_size=4, epochs=1, verbose=0, callbacks=[compress])
    return compress.report


def pruned(report):
    return {row.path: row.sparsity for row in report.layers}


ALL = {"left/conv", "right/conv", "head"}
NO_KERNEL = "Scale has no kernel that pruning knows"


# --- pruning


def test_none_prunes_all_that_can_be_and_lists_the_rest(keras, data):
    report = fit(nested(keras), data, pruning=kc.Pruning(HALF))
    assert set(pruned(report)) == ALL
    assert report.left_out == {"pruning": {"scaled": NO_KERNEL}}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["head"], {"head"}, id="name"),
        pytest.param(["left/conv"], {"left/conv"}, id="path"),
        pytest.param(("head", "right/conv"), {"head", "right/conv"}, id="several"),
    ],
)
def test_names_prune_those_and_nothing_else(keras, data, names, expected):
    model = nested(keras)
    report = fit(model, data, pruning=kc.Pruning(HALF, layers=names))
    assert pruned(report) == dict.fromkeys(expected, 0.5)
    assert report.left_out == {}  # nobody asked for the others
    for path in ALL - expected:
        *tower, name = path.split("/")
        holder = model.get_layer(tower[0]) if tower else model
        assert np.all(holder.get_layer(name).get_weights()[0])


def test_a_bare_name_is_enough_where_it_is_unique(keras, data):
    layers = keras.layers
    keras.utils.set_random_seed(4)
    inner = keras.Sequential([layers.Input((3,)), layers.Dense(4, name="deep")], name="inner")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2, name="head")(inner(inputs)))
    model.compile("sgd", loss="mse", jit_compile=False)
    generator = np.random.default_rng(0)
    arrays = generator.normal(size=(12, 3)), generator.normal(size=(12, 2))
    report = fit(model, arrays, pruning=kc.Pruning(HALF, layers=["deep"]))
    assert pruned(report) == {"inner/deep": 0.5}


def test_a_name_at_the_top_wins_over_the_same_name_inside(keras, data):
    # "conv" is a path of its own here, so it is no more ambiguous than "left/conv".
    layers = keras.layers
    inner = keras.Sequential([layers.Input((3,)), layers.Dense(4, name="conv")], name="inner")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2, name="conv")(inner(inputs)))
    model.compile("sgd", loss="mse", jit_compile=False)
    generator = np.random.default_rng(0)
    arrays = generator.normal(size=(12, 3)), generator.normal(size=(12, 2))
    report = fit(model, arrays, pruning=kc.Pruning(HALF, layers=["conv"]))
    assert pruned(report) == {"conv": 0.5}


def test_a_callable_is_asked_for_every_layer(keras, data):
    asked = []

    def is_convolution(layer):
        asked.append(layer.name)
        return isinstance(layer, keras.layers.Conv2D)

    report = fit(nested(keras), data, pruning=kc.Pruning(HALF, layers=is_convolution))
    assert pruned(report) == {"left/conv": 0.5, "right/conv": 0.5}
    assert report.left_out == {}
    assert sorted(asked) == sorted(
        ["left", "conv", "flatten", "right", "conv", "flatten", "both", "scaled", "head"]
    )


def test_what_a_callable_takes_in_and_cannot_be_done_is_listed(keras, data):
    report = fit(nested(keras), data, pruning=kc.Pruning(HALF, layers=lambda layer: True))
    assert set(pruned(report)) == ALL
    assert report.left_out["pruning"]["scaled"] == NO_KERNEL


@pytest.mark.parametrize(
    ("pruning", "expected"),
    [
        pytest.param(
            kc.Pruning(HALF, layers={"left/conv": QUARTER}),
            {"left/conv": 0.25, "right/conv": 0.5, "head": 0.5},
            id="the-others-get-the-general-schedule",
        ),
        pytest.param(
            kc.Pruning(None, layers={"left/conv": QUARTER, "head": HALF}),
            {"left/conv": 0.25, "head": 0.5},
            id="only-the-dict",
        ),
    ],
)
def test_a_dict_gives_each_its_schedule(keras, data, pruning, expected):
    # left/conv has 18 weights: round(18 * 0.75) = round(13.5) = 14 are kept.
    report = fit(nested(keras), data, pruning=pruning)
    expected = {path: 4 / 18 if s == 0.25 else s for path, s in expected.items()}
    assert pruned(report) == pytest.approx(expected)


def test_with_a_dict_and_a_general_schedule_the_rest_is_listed(keras, data):
    report = fit(nested(keras), data, pruning=kc.Pruning(HALF, layers={"head": QUARTER}))
    assert report.left_out == {"pruning": {"scaled": NO_KERNEL}}


def test_a_named_container_or_a_layer_without_weights_is_an_error(keras, data):
    kind = type(nested(keras).get_layer("left")).__name__
    for name, reason in (
        ("left", f"{kind} has no kernel that pruning knows"),
        ("both", "Concatenate has no kernel that pruning knows"),
        ("scaled", NO_KERNEL),
    ):
        message = (
            f"Pruning: `layers` must name layers that can be pruned; {name!r} cannot: {reason}. "
            f"Received: layers containing {name!r}"
        )
        refused(keras, data, message, pruning=kc.Pruning(HALF, layers=[name]))
        refused(keras, data, message, pruning=kc.Pruning(None, layers={name: HALF}))


def test_nothing_to_prune_is_an_error(keras, data):
    def nothing(layer):
        return layer.name == "scaled"

    message = (
        "Pruning: `layers` must leave something to prune; no kernel of this model can be. "
        f"Received: layers={nothing!r}; left out: {{'scaled': {NO_KERNEL!r}}}"
    )
    refused(keras, data, message, pruning=kc.Pruning(HALF, layers=nothing))


# --- quantization

NOT_IN_TABLE = (
    "Scale is not in the placement table; inside: TensorFlow's RealDiv: LiteRT has no integer "
    "division but by a number; multiply by the reciprocal"
)


def bits(report):
    return {row.path: row.bits for row in report.layers}


def test_none_quantizes_all_that_can_be_and_lists_the_rest(keras, data):
    report = fit(nested(keras), data, quantization=kc.Quantization())
    assert bits(report) == dict.fromkeys(ALL, 8)
    assert report.left_out == {"quantization": {"scaled": NOT_IN_TABLE}}


@pytest.mark.parametrize("form", ["names", "callable"])
def test_quantization_leaves_out_what_layers_does_not_take_in(keras, data, form):
    chosen = ["left/conv", "left/flatten", "head"]
    layers = chosen
    if form == "callable":
        model = nested(keras)
        objects = [model.get_layer("left").get_layer(name) for name in ("conv", "flatten")]
        objects.append(model.get_layer("head"))

        def layers(layer):
            return any(layer is each for each in objects)
    else:
        model = nested(keras)
    report = fit(model, data, quantization=kc.Quantization(layers=layers))
    assert bits(report) == {"left/conv": 8, "head": 8}
    by_user = "left out by `layers`"
    expected = dict.fromkeys(["right/conv", "right/flatten", "both", "scaled"], by_user)
    assert report.left_out == {"quantization": expected}


def test_a_named_layer_that_cannot_be_quantized_is_an_error(keras, data):
    message = (
        "Quantization: `layers` must name layers that can be quantized; 'scaled' cannot: "
        f"{NOT_IN_TABLE}. Received: layers containing 'scaled'"
    )
    refused(keras, data, message, quantization=kc.Quantization(layers=["head", "scaled"]))


def test_nothing_to_quantize_is_an_error(keras, data):
    def nothing(layer):
        return False

    paths = ["left/conv", "left/flatten", "right/conv", "right/flatten", "both", "scaled", "head"]
    left_out = dict.fromkeys(paths, "left out by `layers`")
    message = (
        "Quantization: `layers` must leave something to quantize; nothing in this model can be. "
        f"Received: layers={nothing!r}; left out: {left_out}"
    )
    refused(keras, data, message, quantization=kc.Quantization(layers=nothing))


# --- names that do not fit, in both specs


def refused(keras, data, message, **specs):
    """The fit raises `message` before any update, and leaves a plain model that trains."""
    model = nested(keras)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"^(Pruning|Quantization): ") as error:
        fit(model, data, **specs)
    assert str(error.value) == message
    for mine, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert engine_of(model) is None
    assert "train_step" not in vars(model)


def specs(layers):
    return [
        {"pruning": kc.Pruning(HALF, layers=layers)},
        {"pruning": kc.Pruning(None, layers=dict.fromkeys(layers, HALF))},
        {"quantization": kc.Quantization(layers=layers)},
    ]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["names", "dict", "quantization"])
def test_an_ambiguous_name_is_an_error(keras, data, which):
    given = specs(["head", "conv"])[which]
    owner = "Quantization" if which == 2 else "Pruning"
    message = (
        f"{owner}: `layers` must name one layer each; 'conv' is ambiguous, write one of the paths "
        "['left/conv', 'right/conv']. Received: layers containing 'conv'"
    )
    refused(keras, data, message, **given)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["names", "dict", "quantization"])
def test_two_names_for_one_layer_are_an_error(keras, data, which):
    layers = keras.layers
    inner = keras.Sequential(
        [layers.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2, name="deep")], name="inner"
    )
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, inner(image))
    model.compile("sgd", "mse")
    owner = "Quantization" if which == 2 else "Pruning"
    message = (
        f"{owner}: `layers` must name each layer once; 'deep' and 'inner/deep' are the same. "
        "Received: layers containing both"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(model, data, **specs(["deep", "inner/deep"])[which])
    assert engine_of(model) is None


@pytest.mark.parametrize("which", [0, 1, 2], ids=["names", "dict", "quantization"])
def test_an_unknown_name_is_an_error(keras, data, which):
    given = specs(["head", "lefd/conv"])[which]
    paths = ["both", "head", "left/conv", "left/flatten", "right/conv", "right/flatten", "scaled"]
    owner = "Quantization"
    if which != 2:  # containers can be neither pruned nor quantized, but a path leads over them
        owner, paths = "Pruning", sorted([*paths, "left", "right"])
    message = (
        f"{owner}: `layers` must name layers of the model; it has {paths}. "
        "Received: layers containing 'lefd/conv'"
    )
    refused(keras, data, message, **given)
