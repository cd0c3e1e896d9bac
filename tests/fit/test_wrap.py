"""`wrap`: the way in before `compile`, after which a bare `fit` does it all. Both engines."""

import inspect
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tf_keras
from helpers.untouched import own_methods, untouched
from helpers.wrapped_nets import (
    BATCH,
    HALF,
    PRUNING,
    QUANTIZATION,
    STEPS,
    assert_same,
    compiled,
    data,
    fit,
    masks,
    net,
    wrapped,
    zeros,
)

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.engines.tfmot.engine import Tfmot
from keras_compress.fit.callback import POSITION_OF_CALLBACKS

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

BOTH = {"pruning": PRUNING, "quantization": QUANTIZATION}


@pytest.fixture(params=["keras3", "tf_keras-in-place", "tf_keras-tfmot"], scope="module")
def way(request):
    """(package, engine): every way in there is."""
    import keras

    return {
        "keras3": (keras, "in_place"),
        "tf_keras-in-place": (tf_keras, "in_place"),
        "tf_keras-tfmot": (tf_keras, "tfmot"),
    }[request.param]


def wrapper_classes(model):
    return [type(layer).__name__ for layer in model.layers]


# --- which engine


def test_for_keras_3_the_default_attaches_ours_and_returns_the_same_model():
    import keras

    model = net(keras)
    classes = wrapper_classes(model)
    assert kc.wrap(model, **BOTH) is model
    assert wrapper_classes(model) == classes
    assert type(engine_of(model)) is InPlace


def test_in_place_is_possible_for_tf_keras_too():
    model = net(tf_keras)
    assert kc.wrap(model, **BOTH, engine="in_place") is model
    assert type(engine_of(model)) is InPlace


LAYERS = 6  # of `net`, its input aside


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ({"pruning": PRUNING}, {"PruneLowMagnitude": LAYERS}),
        ({"quantization": QUANTIZATION}, {"QuantizeLayer": 1, "QuantizeWrapperV2": LAYERS}),
        (BOTH, {"QuantizeLayer": 1, "QuantizeWrapperV2": LAYERS}),
    ],
    ids=["pruning", "quantization", "both"],
)
def test_for_tf_keras_the_default_are_tfmots_own_wrappers(specs, expected):
    plain = net(tf_keras)
    model = kc.wrap(plain, **specs)
    assert model is not plain
    assert type(engine_of(model)) is Tfmot
    found = wrapper_classes(model)
    assert {name: found.count(name) for name in set(found)} == expected
    for layer in model.layers:
        assert type(layer).__module__.startswith("tensorflow_model_optimization.")


def test_only_what_layers_names_is_wrapped():
    spec = kc.Pruning(HALF, layers=["hidden"])
    model = kc.wrap(net(tf_keras), pruning=spec)
    found = {layer.name: type(layer).__name__ for layer in model.layers}
    assert found["prune_low_magnitude_hidden"] == "PruneLowMagnitude"
    assert {"conv", "norm", "relu", "flatten", "kind"} <= set(found)
    assert list(masks(model)) == [("hidden", "kernel")]


def test_every_layer_has_the_schedule_it_was_given():
    other = kc.ConstantSparsity(target_sparsity=0.25, begin_step=1, frequency=1)
    spec = kc.Pruning(HALF, layers={"kind": other})
    model = wrapped(tf_keras, pruning=spec)
    fit(model)
    found = {path: 1 - mask.mean() for (path, _), mask in masks(model).items()}
    assert found == pytest.approx({"conv": 0.5, "hidden": 0.5, "kind": 0.25}, abs=0.02)


# --- a bare fit does it all


@pytest.fixture(scope="module")
def trained(way):
    """(model, its bare fit's History), pruned to a half and quantized from update 6."""
    keras, engine = way
    model = wrapped(keras, engine=engine, **BOTH)
    return model, fit(model)


def test_a_bare_fit_prunes_and_switches(trained):
    model, history = trained
    engine = engine_of(model)
    assert (engine.step, str(engine.phase), engine.switched_at) == (2 * STEPS, "on", 6)
    assert history.history["quantized"] == [0.0, 1.0]
    assert history.history["sparsity"][-1] == pytest.approx(0.5, abs=0.02)
    for mask in masks(model).values():
        assert 1 - mask.mean() == pytest.approx(0.5, abs=0.03)


def test_its_history_has_the_plain_names(way, trained):
    keras, _ = way
    plain = fit(compiled(keras, net(keras), run_eagerly=True)).history
    _, history = trained
    assert set(history.history) == {*plain, "sparsity", "quantized"}


def test_compression_of_finds_the_one_in_charge(trained):
    model, _ = trained
    compress = kc.compression_of(model)
    assert type(compress) is kc.Compress
    assert (compress.pruning, compress.quantization) == (PRUNING, QUANTIZATION)
    assert (compress.report.step, compress.report.switched_at) == (2 * STEPS, 6)
    assert compress.report.sparsity == pytest.approx(0.5, abs=0.02)


def test_the_stripped_model_is_there_and_plain(way, trained):
    keras, _ = way
    model, _ = trained
    stripped = kc.compression_of(model).stripped_model
    names = [layer.name for layer in stripped.layers]
    assert names == [layer.name for layer in net(keras).layers]
    for (path, _), mask in masks(model).items():
        kernel = stripped.get_layer(path).get_weights()[0]
        np.testing.assert_array_equal(kernel[~mask], 0)
        assert zeros(kernel) == pytest.approx(0.5, abs=0.03)


def test_every_engine_reports_the_same(trained):
    model, _ = trained
    report = kc.compression_of(model).report
    rows = [(row.path, row.kernel, row.shape, row.bits) for row in report.layers]
    assert rows == [
        ("conv", "kernel", (3, 3, 1, 4), 8),
        ("hidden", "kernel", (64, 8), 8),
        ("kind", "kernel", (8, 4), 8),
    ]
    assert all(row.scale is not None for row in report.layers)
    assert [row.sparsity for row in report.layers] == pytest.approx([0.5] * 3, abs=0.03)
    assert (report.phase, report.left_out, report.missed) == ("on", {}, [])


def test_both_engines_make_the_same_masks_and_weights_of_tf_keras():
    # Before the switch: rounding is where the engines may differ.
    found = []
    for engine in ("in_place", "tfmot"):
        model = wrapped(tf_keras, engine=engine, eager=False, **BOTH)
        compress = kc.Compress(**BOTH, partial=True)
        fit(model, compress, epochs=1)
        found.append((masks(model), compress.stripped_model.get_weights()))
    (one, weights), (other, theirs) = found
    assert set(one) == set(other)
    for key, mask in one.items():
        np.testing.assert_array_equal(mask, other[key])
        assert not mask.all()
    assert_same(weights, theirs)


def test_in_place_is_the_fit_with_the_callback(keras):
    model = wrapped(keras, engine="in_place", **BOTH)
    history = fit(model).history
    other = compiled(keras, net(keras), run_eagerly=True)
    assert fit(other, kc.Compress(**BOTH)).history == history
    assert_same(model.get_weights(), other.get_weights())


def test_a_sequential_without_shapes_is_built_by_its_first_batch(keras):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [layers.Flatten(), layers.Dense(8, activation="relu"), layers.Dense(4, "softmax")]
    )
    assert kc.wrap(model, **BOTH, engine="in_place") is model
    compiled(keras, model, run_eagerly=True)
    x, y = data()
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    report = kc.compression_of(model).report
    assert (report.step, report.switched_at) == (2 * STEPS, 6)
    assert report.sparsity == pytest.approx(0.5, abs=0.02)


# --- steps


def test_fractions_are_resolved_by_the_first_fit(way):
    keras, engine = way
    half = kc.PolynomialDecay(final_sparsity=0.5, begin_step=0.125, end_step=0.5, frequency=1)
    model = wrapped(
        keras,
        engine=engine,
        pruning=kc.Pruning(half),
        quantization=kc.Quantization(delay=0.75, calibration_steps=1),
    )
    compress = kc.compression_of(model)
    fit(model)
    steps = compress.report.steps
    assert (steps["delay"], compress.report.switched_at) == (6, 7)
    for schedule in steps["schedules"].values():
        assert (schedule["begin_step"], schedule["end_step"]) == (1, 4)
    fit(model)  # and stay what they are
    assert compress.report.steps == steps
    assert compress.report.step == 4 * STEPS


def test_a_second_bare_fit_goes_on(way):
    keras, engine = way
    once = wrapped(keras, engine=engine, **BOTH)
    fit(once, epochs=3)
    twice = wrapped(keras, engine=engine, **BOTH)
    fit(twice, epochs=2)
    before = masks(twice)
    fit(twice, epochs=1)
    assert engine_of(twice).step == 3 * STEPS
    assert_same(twice.get_weights(), once.get_weights())
    for key, mask in masks(twice).items():
        np.testing.assert_array_equal(mask, before[key])


def test_what_a_bare_fit_cannot_reach_is_refused_before_its_first_step(way):
    keras, engine = way
    model = wrapped(keras, engine=engine, **BOTH)
    before = model.get_weights()
    message = (
        "Compress: the final sparsity must be reached within this fit, which ends at update 4; "
        "train longer, use fractions, or say `partial=True` for a plan over several fits. "
        "Received: step 5"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(model, epochs=1)
    assert_same(model.get_weights(), before)
    assert engine_of(model).step == 0
    fit(model)  # it stays wrapped
    assert kc.compression_of(model).report.step == 2 * STEPS


def test_a_plan_over_several_fits_is_said_by_a_compress_that_joins(way):
    keras, engine = way
    model = wrapped(keras, engine=engine, **BOTH)
    compress = kc.Compress(**BOTH, partial=True)
    fit(model, compress, epochs=1)
    assert (compress.report.step, str(compress.report.phase)) == (STEPS, "watching")
    assert compress.report.missed == ["the final sparsity at update 5", "the delay at update 5"]
    fit(model, epochs=1)
    assert kc.compression_of(model).report.missed == []
    assert str(engine_of(model).phase) == "on"


def test_a_fit_that_was_interrupted_is_gone_on_with(way):
    keras, engine = way

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    model = wrapped(keras, engine=engine, **BOTH)
    with pytest.raises(KeyboardInterrupt):
        fit(model, Stop())
    assert engine_of(model).step == 3
    fit(model)
    assert kc.compression_of(model).report.step == 3 + 2 * STEPS


# --- who is in charge


def test_an_equal_compress_joins(way):
    keras, engine = way
    model = wrapped(keras, engine=engine, **BOTH)
    owner, joining = kc.compression_of(model), kc.Compress(**BOTH)
    fit(model, joining)
    assert kc.compression_of(model) is owner
    assert joining.report.step == owner.report.step == 2 * STEPS
    assert joining.report.to_dict() == owner.report.to_dict()


def test_the_one_in_charge_may_be_in_the_list(way):
    keras, engine = way
    model = wrapped(keras, engine=engine, **BOTH)
    owner = kc.compression_of(model)
    history = fit(model, owner)
    assert owner.report.step == 2 * STEPS
    assert len(history.history["sparsity"]) == 2


def test_a_different_compress_is_refused(way):
    keras, engine = way
    model = wrapped(keras, engine=engine, **BOTH)
    before = model.get_weights()
    other = kc.Quantization(delay=6)
    message = (
        "Compress: `quantization` must equal that of the Compress already in charge of this "
        f"model, which has {QUANTIZATION!r}; `strip` the model to begin anew. "
        f"Received: quantization={other!r}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(model, kc.Compress(pruning=PRUNING, quantization=other))
    assert_same(model.get_weights(), before)
    fit(model)


@pytest.mark.parametrize("chosen", [["conv", "kind"], ["kind"]])
def test_callable_layers_are_compared_by_what_they_choose(way, chosen):
    keras, engine = way
    specs = {
        "pruning": kc.Pruning(HALF, layers=lambda layer: layer.name in ("conv", "kind")),
        "quantization": kc.Quantization(
            delay=5, calibration_steps=2, layers=lambda layer: layer.name in ("hidden", "kind")
        ),
    }
    model = wrapped(keras, engine=engine, **specs)
    same = kc.Pruning(HALF, layers=lambda layer: layer.name in chosen)
    compress = kc.Compress(pruning=same, quantization=specs["quantization"])
    if len(chosen) == 2:
        fit(model, compress)
        assert set(masks(model)) == {("conv", "kernel"), ("kind", "kernel")}
        return
    with pytest.raises(ValueError, match=r"^Compress: `pruning` must equal that of"):
        fit(model, compress)
    more = kc.Quantization(delay=5, calibration_steps=2, layers=lambda layer: True)
    with pytest.raises(ValueError, match=r"^Compress: `quantization` must equal that of"):
        fit(model, kc.Compress(pruning=specs["pruning"], quantization=more))


@pytest.mark.parametrize("engine", ["in_place", "tfmot"])
def test_a_compress_that_only_exports_joins(engine, tmp_path):
    model = wrapped(tf_keras, engine=engine, **BOTH)
    path = tmp_path / "model.tflite"
    compress = kc.Compress(export=kc.Export(path))
    fit(model, compress)
    assert compress.report.export.error is None
    assert compress.report.export.float_ops == ()
    assert kc.compression_of(model).report.export is None
    assert engine_of(model).step == 2 * STEPS
    x, _ = data()
    file = kc.load_tflite(path)
    (ending,) = file.outputs
    assert np.abs(file.predict(x) - model.predict(x, verbose=0)).max() <= 4 * ending.scale


@pytest.mark.slow
def test_the_callbacks_argument_takes_every_form(keras):
    class Count(keras.callbacks.Callback):
        seen = 0

        def on_epoch_end(self, epoch, logs=None):
            type(self).seen += 1

    x, y = data()
    given = {"batch_size": 8, "epochs": 2, "verbose": 0}
    model = wrapped(keras, engine="in_place", **BOTH)
    model.fit(x, y, callbacks=None, **given)
    model.fit(x, y, callbacks=Count(), **given)
    model.fit(x, y, callbacks=(Count(),), **given)
    ready = keras.callbacks.CallbackList(
        [Count()], add_history=True, model=model, epochs=2, steps=STEPS, verbose=0
    )
    model.fit(x, y, callbacks=ready, **given)
    assert Count.seen == 6
    assert kc.compression_of(model).report.step == 8 * STEPS


def test_a_fit_of_the_users_own_passes_its_arguments_on(keras):
    class Own(keras.Model):
        def fit(self, *args, **kwargs):
            return super().fit(*args, **kwargs)

    def make():
        inputs = keras.Input((6, 6, 1))
        x = keras.layers.Flatten()(inputs)
        model = Own(inputs, keras.layers.Dense(4, activation="softmax")(x))
        return compiled(keras, kc.wrap(model, engine="in_place", quantization=QUANTIZATION))

    x, y = data()
    for give in (
        lambda model, seen: model.fit(x, y, BATCH, 2, 0, [seen]),
        lambda model, seen: model.fit(x, y, BATCH, 2, 0, callbacks=seen),
        lambda model, seen: model.fit(x, y, BATCH, 2, 0),
    ):
        model, seen = make(), keras.callbacks.History()
        give(model, seen)
        assert kc.compression_of(model).report.phase == "on"


def test_callbacks_are_the_sixth_argument_of_fit(keras):
    names = list(inspect.signature(keras.Model.fit).parameters)
    assert names.index("callbacks") == POSITION_OF_CALLBACKS + 1


def test_a_ready_list_of_callbacks_goes_through_the_phases(way):
    keras, engine = way
    model = wrapped(keras, engine=engine, quantization=QUANTIZATION)
    x, y = data()
    ready = keras.callbacks.CallbackList(
        [keras.callbacks.Callback()], True, model=model, epochs=2, steps=STEPS, verbose=0
    )
    model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0, callbacks=ready)
    report = kc.compression_of(model).report
    assert (report.phase, report.switched_at, report.missed) == ("on", 6, [])


# --- what is refused


def test_a_model_with_a_compressed_one_inside_is_refused(keras):
    inner = kc.wrap(net(keras), engine="in_place", pruning=PRUNING)
    outer = keras.Sequential([keras.layers.Input((6, 6, 1)), inner, keras.layers.Dense(4)])
    message = (
        "wrap: `model` must be plain, without a compressed or wrapped part; `strip` it first. "
        "Received: model=Sequential with compression in it"
    )
    refused(message, outer, quantization=QUANTIZATION)
    compiled(keras, outer)
    message = (
        "Compress: the model must not hold one that is compressed on its own; `strip` that one "
        "first. Received: model=Sequential with a compressed model in it"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(outer, kc.Compress(quantization=QUANTIZATION))


def test_a_refused_fit_leaves_no_check_for_later_batches(keras):
    layers = keras.layers
    grows = keras.Sequential([layers.Flatten(), layers.Dense(4, activation="softmax")])
    model = wrapped(keras, model=grows, engine="in_place", pruning=PRUNING)
    x, y = data()
    with pytest.raises(ValueError, match="must be reached within this fit"):
        model.fit(x[:BATCH], y[:BATCH], batch_size=BATCH, verbose=0)
    model.train_on_batch(x[:BATCH], y[:BATCH])
    assert engine_of(model).step == 1


def refused(message, model, **arguments):
    with untouched(model), pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kc.wrap(model, **arguments)


def test_a_compiled_model_is_refused(keras):
    message = (
        "wrap: `model` must not be compiled yet; wrap it first and compile what `wrap` returns, or "
        "give `Compress` to `fit`. Received: model=Sequential, compiled"
    )
    refused(message, compiled(keras, net(keras)), pruning=PRUNING)


def test_wrapping_twice_is_refused(way):
    keras, engine = way
    model = kc.wrap(net(keras), pruning=PRUNING, engine=engine)
    methods, owner = own_methods(model), kc.compression_of(model)
    for again in ({"pruning": PRUNING}, {"quantization": QUANTIZATION}):
        with pytest.raises(ValueError, match=r"^wrap: `model` must be plain, without a compressed"):
            kc.wrap(model, **again, engine=engine)
    assert own_methods(model) == methods
    assert kc.compression_of(model) is owner


def by_hand(kind):
    """`net` with one wrapper of that kind of tfmot's in it."""
    import tensorflow_model_optimization as tfmot

    wrap = {
        "pruned": tfmot.sparsity.keras.prune_low_magnitude,
        "annotated": tfmot.quantization.keras.quantize_annotate_layer,
        "clustered": lambda layer: tfmot.clustering.keras.cluster_weights(
            layer, 2, tfmot.clustering.keras.CentroidInitialization.LINEAR
        ),
        "within": lambda layer: tf_keras.layers.TimeDistributed(
            tfmot.sparsity.keras.prune_low_magnitude(layer), name=layer.name
        ),
    }[kind]
    layers = tf_keras.layers
    inputs = layers.Input((3, 6), name="given")
    x = layers.Dense(5, name="first")(inputs)
    return tf_keras.Model(inputs, wrap(layers.Dense(4, name="second"))(x))


def test_a_model_with_some_wrapped_layers_is_refused():
    message = (
        "wrap: `model` must be plain, without a compressed or wrapped part; `strip` it first. "
        "Received: model=Functional with compression in it"
    )
    refused(message, by_hand("pruned"), pruning=PRUNING)


UNKNOWN = {
    "annotated": "QuantizeAnnotate",
    "clustered": "ClusterWeights",
    "within": "PruneLowMagnitude",
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_wrappers_that_we_do_not_know_are_refused(kind):
    message = (
        "{}: the model must bear no wrapper of tfmot but those that `prune_low_magnitude`, "
        "`quantize_model` and `quantize_apply` put around its layers; apply or strip it first. "
        "Received: layer {!r} with {}"
    ).format
    model = by_hand(kind)
    path, name = model.layers[-1].name, UNKNOWN[kind]
    refused(message("wrap", path, name), model, pruning=PRUNING)
    expected = message("strip", path, name)
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        kc.strip(model)
    model.compile("sgd", "mse")
    x, expected = np.zeros((4, 3, 6), "float32"), message("Compress", path, name)
    with untouched(model), pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        model.fit(x, x[..., :4], verbose=0, callbacks=[kc.Compress(quantization=QUANTIZATION)])


def test_tfmot_for_a_keras_3_model_is_refused():
    import keras

    message = (
        'wrap: `engine` must be "in_place" for a Keras 3 model, which tfmot does not know. '
        "Received: engine='tfmot'"
    )
    refused(message, net(keras), pruning=PRUNING, engine="tfmot")


def test_an_unknown_engine_is_refused(keras):
    message = "wrap: `engine` must be 'in_place' or 'tfmot'. Received: engine='graft'"
    refused(message, net(keras), pruning=PRUNING, engine="graft")


def test_nothing_to_do_is_refused(keras):
    message = "wrap: one of `pruning` and `quantization` must be given. Received: nothing to do"
    refused(message, net(keras))


@pytest.mark.parametrize("thing", [None, "model", tf_keras.layers.Dense(2), np.zeros(2)])
@pytest.mark.parametrize("function", ["wrap", "strip"])
def test_what_is_no_model_is_a_type_error(thing, function):
    call = {"wrap": lambda: kc.wrap(thing, pruning=PRUNING), "strip": lambda: kc.strip(thing)}
    with pytest.raises(
        TypeError, match=f"^{function}: the model must be a Keras 3 or tf_keras model"
    ):
        call[function]()


def test_a_spec_of_the_wrong_kind_is_a_type_error(keras):
    with pytest.raises(TypeError, match="`pruning` must be a Pruning or None"):
        kc.wrap(net(keras), pruning=HALF)


def test_a_subclassed_model_must_be_built(keras):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Own()
    with pytest.raises(ValueError, match=r"^wrap: `model` must be built; a subclassed one"):
        kc.wrap(model, pruning=PRUNING, engine="in_place")
    model(np.zeros((1, 3), "float32"))
    assert kc.wrap(model, pruning=PRUNING, engine="in_place") is model


def subclassed():
    class Own(tf_keras.Model):
        pass

    return Own()


def without_shapes():
    return tf_keras.Sequential([tf_keras.layers.Dense(3)])


def own_train_step():
    class Own(tf_keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    return Own([tf_keras.layers.Input((3,)), tf_keras.layers.Dense(3, name="dense")])


def mixed():
    inputs = tf_keras.layers.Input((3,))
    return tf_keras.Model(inputs, tf_keras.layers.Dense(3, dtype="mixed_bfloat16")(inputs))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (subclassed, "must be a Sequential or functional model whose input shape is known"),
        (without_shapes, "must be a Sequential or functional model whose input shape is known"),
        (mixed, "must have the policy float32 for tfmot"),
        (own_train_step, "must be of a class of Keras' own for tfmot"),
    ],
)
@pytest.mark.parametrize("specs", [{"pruning": PRUNING}, {"quantization": QUANTIZATION}])
def test_what_tfmot_cannot_wrap_is_refused_with_what_to_do(make, message, specs):
    model = make()
    pattern = f'^wrap: `model` {message}.*`engine="in_place"`'
    with pytest.raises(ValueError, match=pattern):
        kc.wrap(model, **specs)
    assert kc.compression_of(model) is None


def test_a_functional_model_of_an_own_class_keeps_its_train_step_when_pruned():
    class Halved(tf_keras.Model):
        def train_step(self, data):
            x, y = data
            return super().train_step((x * 0.5, y))

    plain = net(tf_keras)
    model = kc.wrap(Halved(plain.input, plain.output), pruning=PRUNING)
    fit(compiled(tf_keras, model, run_eagerly=True))
    assert type(kc.strip(model)) is type(model) is Halved
    other = wrapped(tf_keras, pruning=PRUNING)
    x, y = data()
    other.fit(x * 0.5, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_same(model.get_weights(), other.get_weights())


# --- without tfmot

IN_A_PROCESS_OF_ITS_OWN = """
import json, os, sys
import numpy as np
import keras
import keras_compress as kc

class NoTfmot:
    def find_spec(self, name, path=None, target=None):
        assert not name.startswith("tensorflow_model_optimization"), name

sys.meta_path.insert(0, NoTfmot())
before = os.environ.get("TF_USE_LEGACY_KERAS")
half = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=1)
specs = {"pruning": kc.Pruning(half), "quantization": kc.Quantization(delay=1)}
x, y = np.ones((8, 3), "float32"), np.ones((8, 2), "float32")

def net():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])

for model, callbacks in (
    (kc.wrap(net(), **specs), []),
    (net(), [kc.Compress(**specs)]),
):
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=callbacks)
    kc.save_state(model, sys.argv[1])
    plain = kc.strip(model)
    kc.load_state(plain, sys.argv[1])
    assert kc.compression_of(model).report.step == 2
print(json.dumps({
    "tfmot": sorted(n for n in sys.modules if n.startswith("tensorflow_model_optimization")),
    "same": os.environ.get("TF_USE_LEGACY_KERAS") == before,
}))
"""


@pytest.mark.slow
def test_a_keras_3_model_never_loads_tfmot(tmp_path):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_USE_LEGACY_KERAS", None)  # which tfmot sets in this process
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN, str(tmp_path / "state.npz")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"tfmot": [], "same": True}


# --- after a fit that was refused


LATE = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=6, frequency=2)


@pytest.mark.parametrize("called_before", [False, True])
def test_an_unbuilt_model_stays_wrapped_when_its_fit_is_refused(keras, called_before):
    layers = keras.layers
    model = keras.Sequential([layers.Flatten(), layers.Dense(8), layers.Dense(4)])
    model = kc.wrap(model, pruning=kc.Pruning(LATE), engine="in_place")
    compiled(keras, model, loss="mse", metrics=[], run_eagerly=True)
    x, _ = data()
    y = np.zeros((len(x), 4), "float32")
    if called_before:
        model(x[:2])
    with pytest.raises(ValueError, match="must be reached within this fit"):
        model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history
    assert history["sparsity"][-1] == pytest.approx(0.5, abs=0.01)
    assert kc.compression_of(model).report.sparsity == pytest.approx(0.5, abs=0.01)


def test_fractions_are_of_the_fit_that_runs_not_of_one_refused(keras):
    decay = kc.PolynomialDecay(final_sparsity=0.5, begin_step=0.0, end_step=0.5, frequency=1)
    model = wrapped(
        keras,
        pruning=kc.Pruning(decay),
        quantization=kc.Quantization(delay=2 * STEPS),
        engine="in_place",
    )
    with pytest.raises(ValueError, match="the delay must be reached within this fit"):
        fit(model, epochs=1)
    fit(model, epochs=3)
    schedules = kc.compression_of(model).report.steps["schedules"]
    assert {each["end_step"] for each in schedules.values()} == {3 * STEPS // 2}


def test_fractions_outside_of_fit_are_refused(keras):
    decay = kc.PolynomialDecay(final_sparsity=0.5, begin_step=0.0, end_step=0.5)
    model = wrapped(keras, pruning=kc.Pruning(decay), engine="in_place")
    x, y = data()
    with pytest.raises(ValueError, match="steps must be ints outside of `fit`"):
        model.train_on_batch(x[:8], y[:8])


@pytest.mark.parametrize("engine", ["tfmot", "in_place"])
def test_ranges_frozen_at_the_delay_are_those_of_the_kernels_then(engine):
    specs = {"quantization": kc.Quantization(delay=STEPS, freeze_step=STEPS)}
    model = wrapped(tf_keras, engine=engine, **specs)
    magnitudes = []

    class Note(tf_keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernel = kc.strip(model).get_layer("hidden").kernel
            magnitudes.append(np.abs(kernel.numpy()).max())

    fit(model, Note(), epochs=2)
    hidden = next(r for r in kc.compression_of(model).report.layers if r.path == "hidden")
    assert magnitudes[0] != pytest.approx(magnitudes[1], rel=1e-4)
    assert hidden.scale[0] == pytest.approx(magnitudes[0] / 127, rel=1e-5)
