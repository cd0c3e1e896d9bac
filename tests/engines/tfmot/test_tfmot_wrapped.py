"""Models in tfmot's wrappers: those that `wrap` made of tf_keras models, driven by a bare fit."""

import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers.nets import slots
from helpers.untouched import own_methods
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

pytestmark = pytest.mark.slow_after(1)

BOTH = {"pruning": PRUNING, "quantization": QUANTIZATION}
layers = tf_keras.layers

# What pruning does alone, quantization does not undo: the sweep has it.
ALONE_OR_BOTH = [
    pytest.param({"pruning": PRUNING}, id="pruning", marks=pytest.mark.sweep),
    pytest.param(BOTH, id="both"),
]
ALONE_OR_QUANTIZED = [
    pytest.param(False, id="alone", marks=pytest.mark.sweep),
    pytest.param(True, id="and-quantized"),
]


# --- before the delay


def regular_net():
    """`net` with a penalty, whose gradient goes past the wrappers."""
    model = net(tf_keras)
    config = model.get_config()
    (hidden,) = (e["config"] for e in config["layers"] if e["config"]["name"] == "hidden")
    hidden["kernel_regularizer"] = {"class_name": "L2", "config": {"l2": 0.01}}
    copy = tf_keras.Sequential.from_config(config)
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("calibration_steps", [0, 6], ids=["off", "watching"])
def test_before_the_delay_weights_and_slots_are_those_of_a_plain_fit(calibration_steps):
    plain = compiled(tf_keras, regular_net())
    fit(plain)
    spec = kc.Quantization(delay=2 * STEPS, calibration_steps=calibration_steps)
    model = wrapped(tf_keras, model=regular_net(), eager=False, quantization=spec)
    history = fit(model, kc.Compress(quantization=spec, partial=True)).history
    assert history["quantized"] == [0.0, 0.0]
    assert_same(kc.strip(model).get_weights(), plain.get_weights())
    assert_same(slots(model), slots(plain))


def test_every_phase_trains_every_weight():
    spec = kc.Quantization(delay=5, calibration_steps=2, freeze_step=7)
    model = wrapped(tf_keras, quantization=spec)
    seen, moved = [], []

    class Record(tf_keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.before = [variable.numpy() for variable in model.trainable_variables]

        def on_train_batch_end(self, batch, logs=None):
            seen.append(str(engine_of(model).phase))
            moved.append(
                {
                    variable.name
                    for variable, value in zip(model.trainable_variables, self.before, strict=True)
                    if np.any(variable.numpy() != value)
                }
            )

    plain = {v.name for v in net(tf_keras).trainable_variables}
    fit(model, Record())
    assert seen == ["off"] * 3 + ["watching"] * 2 + ["on"] * 2 + ["frozen"]
    assert moved == [plain] * 8


# --- ranges


def test_the_ranges_at_the_switch_are_what_numpy_says():
    # The learning rate is 0, so every batch sees the same network, and a batch norm would not.
    keras = tf_keras
    keras.utils.set_random_seed(0)
    plain = keras.Sequential(
        [
            layers.Input((6,), name="given"),
            layers.Dense(8, activation="relu", name="hidden"),
            layers.Dense(5, name="middle"),
            layers.Dense(4, activation="softmax", name="kind"),
        ]
    )
    x, _ = data((6,))
    middle, kind = plain.get_layer("middle"), plain.get_layer("kind")
    inner = keras.Model(plain.input, [plain.get_layer("hidden").output, middle.output])
    hidden, before = inner.predict(x, verbose=0)
    logits = before @ kind.get_weights()[0] + kind.get_weights()[1]

    # The last three of four updates are watched: the input's range is that of all of them.
    expected = [(x[BATCH:].min(), x[BATCH:].max())]
    for values in (hidden, before, logits):
        batches = np.split(values, STEPS)[1:]
        found = np.array([[min(b.min(), 0.0), max(b.max(), 0.0)] for b in batches])
        average = found[0]
        for n, each in enumerate(found[1:], 1):
            decay = n / (n + 10)
            average = average * decay + each * (1 - decay)
        expected.append(tuple(average))

    spec = kc.Quantization(delay=STEPS, calibration_steps=3)
    model = wrapped(keras, model=plain, quantization=spec, eager=False)
    model.optimizer.learning_rate = 0.0
    fit(model, epochs=1)
    engine = engine_of(model)
    assert str(engine.phase) == "on"
    ranges = list(engine.quantizers.ranges().values())
    np.testing.assert_allclose(ranges, expected, rtol=1e-5)
    assert not np.any(np.abs(ranges) == 6.0)


def test_ranges_contain_what_was_seen_when_all_batches_are_alike():
    spec = kc.Quantization(delay=STEPS, calibration_steps=3)
    model = wrapped(tf_keras, quantization=spec)
    x, y = (array[:BATCH] for array in data())
    model.fit(x, y, batch_size=BATCH, epochs=STEPS, verbose=0)
    (low, high), *_ = engine_of(model).quantizers.ranges().values()
    assert (low, high) == pytest.approx((x.min(), x.max()), rel=1e-6)


def digits_net():
    tf_keras.utils.set_random_seed(0)
    return tf_keras.Sequential(
        [
            layers.Input((8, 8, 1), name="image"),
            layers.Conv2D(8, 3, name="conv1"),
            layers.BatchNormalization(name="norm1"),
            layers.ReLU(name="relu1"),
            layers.MaxPooling2D(name="pool1"),
            layers.Flatten(name="flatten"),
            layers.Dense(32, activation="relu", name="dense1"),
            layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_right_after_the_switch_the_accuracy_is_what_it_was(digits, scale):
    x, y, x_test, y_test = digits
    steps = 4 * (len(x) // 32)
    spec = kc.Quantization(delay=steps, calibration_steps=40)
    model = compiled(tf_keras, kc.wrap(digits_net(), quantization=spec))
    model.fit(scale * x, y, batch_size=32, epochs=4, verbose=0)
    assert engine_of(model).switched_at == steps + 1  # no update was rounded
    _, rounded = model.evaluate(scale * x_test, y_test, verbose=0)
    _, before = kc.strip(model).evaluate(scale * x_test, y_test, verbose=0)
    assert before > 0.9
    assert abs(rounded - before) <= 0.02


def test_from_freeze_step_on_ranges_and_statistics_stand_still():
    spec = kc.Quantization(delay=2, calibration_steps=1, freeze_step=STEPS)
    model = wrapped(tf_keras, quantization=spec)
    fit(model, epochs=1)
    quantizers = engine_of(model).quantizers
    moving = ("moving_mean", "moving_variance", "_min", "_max")

    def still():
        return {
            v.name: v.numpy()
            for v in model.non_trainable_variables
            if v.name.split(":")[0].endswith(moving)
        }

    before = still()
    assert len(before) == 2 + 2 * (len(quantizers.ranges()) + 3)
    fit(model, epochs=1)
    assert str(engine_of(model).phase) == "frozen"
    for name, value in still().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


# --- the file


def file_kernels(path, *names):
    """Layer -> the stored integers of its kernel, in Keras' order of axes."""
    report = kc.inspect_tflite(path)
    found = {}
    for name in names:
        (tensor,) = (
            tensor
            for tensor in report.tensors
            if tensor.constant and tensor.dtype != "int32" and f"quant_{name}/" in tensor.name
        )
        found[name] = np.moveaxis(report.kernel(tensor.name), 0, -1)
    return report, found


@pytest.mark.parametrize("weight_bits", [8, 4])
def test_pruned_zeros_are_zeros_in_the_integers_of_the_file(weight_bits, tmp_path):
    spec = kc.Quantization(delay=5, calibration_steps=2, weight_bits=weight_bits)
    model = wrapped(tf_keras, pruning=PRUNING, quantization=spec)
    compress = kc.Compress(export=kc.Export(tmp_path / "model.tflite"))
    fit(model, compress)
    export = compress.report.export
    assert (export.error, export.float_ops) == (None, ())
    report, kernels = file_kernels(tmp_path / "model.tflite", "conv", "hidden", "kind")
    assert report.all_integer
    assert {kernel.dtype for kernel in kernels.values()} == {np.dtype("int8")}
    quantized = {t.dtype for t in report.tensors if t.constant and t.bits < 32}
    assert quantized == {f"int{weight_bits}"}
    rows = {row.path: row for row in compress.report.layers}
    stripped = compress.stripped_model
    for (path, _), mask in masks(model).items():
        integers = kernels[path].reshape(mask.shape)
        assert not integers[~mask].any(), path
        assert 1 - mask.mean() == pytest.approx(0.5, abs=0.03)
        # And the others are the weights, in the steps that the report says.
        weights, (low, *high) = stripped.get_layer(path).get_weights()[0], rows[path].scale
        step = np.abs(weights).max() / (2 ** (weight_bits - 1) - 1)
        assert (high or [low])[-1] == pytest.approx(step, rel=1e-5)
        assert rows[path].bits == weight_bits
    file = kc.load_tflite(tmp_path / "model.tflite")
    x, _ = data()
    (ending,) = file.outputs
    assert ending.name == "kind"
    difference = file.predict(x) - model.predict(x, verbose=0)
    assert np.abs(difference).max() <= 4 * ending.scale


# --- frozen layers


def weights_of(model, name):
    return kc.strip(model).get_layer(name).get_weights()


@pytest.mark.parametrize(
    "specs",
    [{"pruning": PRUNING}, {"quantization": kc.Quantization(delay=2, calibration_steps=1)}, BOTH],
    ids=["pruning", "quantization", "both"],
)
def test_frozen_layers_stay_frozen_until_they_are_not(specs):
    plain = net(tf_keras)
    for name in ("hidden", "norm"):
        plain.get_layer(name).trainable = False
    start = {name: plain.get_layer(name).get_weights() for name in ("hidden", "norm")}
    model = wrapped(tf_keras, model=plain, **specs)
    assert {v.name for v in model.trainable_variables} == {
        "conv/kernel:0",
        "kind/kernel:0",
        "kind/bias:0",
    }
    order = [variable.name for variable in model.weights]
    conv = weights_of(model, "conv")
    fit(model)
    for name, expected in start.items():
        assert_same(weights_of(model, name), expected)
    assert np.any(weights_of(model, "conv")[0] != conv[0])
    if "pruning" in specs:
        assert masks(model)["hidden", "kernel"].all()
        reason = kc.compression_of(model).report.left_out["pruning"]
        assert reason == {"hidden": "frozen: its mask starts when it is trained"}

    for layer in model.layers:
        layer.trainable = True
    compiled(tf_keras, model, run_eagerly=True)
    names = {variable.name for variable in net(tf_keras).trainable_variables}
    assert {variable.name for variable in model.trainable_variables} == names
    assert [variable.name for variable in model.weights] == order
    fit(model)
    for name, before in start.items():
        for old, new in zip(before, weights_of(model, name), strict=True):
            assert np.any(old != new), name
    if "pruning" in specs:
        assert zeros(weights_of(model, "hidden")[0]) == pytest.approx(0.5, abs=0.02)
        assert kc.compression_of(model).report.left_out == {}


def test_weights_are_listed_as_tfmot_lists_them(tmp_path):
    # So that files of weights, which know only the order, go from one to the other.
    import tensorflow_model_optimization as tfmot

    theirs = tfmot.quantization.keras.quantize_model(net(tf_keras, seed=1))
    model = wrapped(tf_keras, quantization=QUANTIZATION)
    fit(model)
    model.save_weights(tmp_path / "ours.h5")
    theirs.load_weights(tmp_path / "ours.h5")
    assert_same(theirs.get_weights(), model.get_weights())
    x, _ = data()
    np.testing.assert_array_equal(theirs.predict(x, verbose=0), model.predict(x, verbose=0))


# --- the optimizer


def test_the_optimizer_can_be_built_before_and_after():
    found = []
    for build in (False, True):
        optimizer = tf_keras.optimizers.Adam(0.01)
        model = kc.wrap(net(tf_keras), **BOTH)
        if build:
            optimizer.build(model.trainable_variables)
        compiled(tf_keras, model, optimizer=optimizer, run_eagerly=True)
        fit(model)
        found.append([*model.get_weights(), *slots(model)])
    assert_same(*found)


# --- what tfmot refuses


def functional(*made, shape=(6, 6, 2)):
    """Input, then these one after the other, then a Dense layer."""
    given = layers.Input(shape, name="given")
    x = given
    for layer in made:
        x = layer(x)
    if len(x.shape) > 2:
        x = layers.Flatten(name="flatten")(x)
    return tf_keras.Model(given, layers.Dense(3, name="last")(x))


def nested():
    inner = tf_keras.Sequential([layers.Input((6, 6, 2)), layers.Conv2D(2, 3)], name="inner")
    return functional(inner)


def operator():
    given = layers.Input((5,), name="given")
    hidden = layers.Dense(4, name="first")(given)
    return tf_keras.Model(given, layers.Dense(3, name="last")(hidden * 2.0))


def shadowed():
    """Two layers of which one's name ends as the other's."""
    given = layers.Input((6, 6, 2), name="given")
    x = layers.Conv2D(2, 3, name="conv")(given)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.BatchNormalization(name="late_norm")(x)
    return tf_keras.Model(given, layers.Dense(3, name="last")(layers.Flatten(name="flatten")(x)))


REFUSED = {
    "nested": (nested, {"inner": "tfmot does not quantize a model inside a model"}),
    "operator": (operator, {"tf.math.multiply": "tfmot does not quantize TFOpLambda"}),
    "elu": (
        lambda: functional(layers.Dense(4, activation="elu", name="elu"), shape=(5,)),
        {"elu": "tfmot does not quantize the activation elu"},
    ),
    "conv1d": (
        lambda: functional(layers.Conv1D(2, 3, name="conv"), shape=(6, 2)),
        {"conv": "tfmot does not quantize Conv1D"},
    ),
    "layer-norm": (
        lambda: functional(layers.LayerNormalization(name="norm")),
        {"norm": "tfmot does not quantize LayerNormalization"},
    ),
    "late-norm": (
        shadowed,
        {
            "late_norm": "tfmot: Layer late_norm:<class "
            "'tf_keras.src.layers.normalization.batch_normalization.BatchNormalization'> is not "
            "supported"
        },
    ),
    "dense-norm": (
        lambda: functional(
            layers.Dense(4, name="first"), layers.BatchNormalization(name="norm"), shape=(5,)
        ),
        {"norm": "TFLite computes tfmot's Dense with it in float"},
    ),
    "swish": (
        lambda: functional(layers.Dense(4, activation="swish", name="swish"), shape=(5,)),
        {"swish": "TFLite computes tfmot's swish in float"},
    ),
    "lambda": (
        lambda: functional(layers.Lambda(lambda x: x * 2.0, name="twice"), shape=(5,)),
        {"twice": "tfmot does not quantize Lambda"},
    ),
    "lstm": (
        lambda: functional(layers.LSTM(3, name="lstm"), shape=(6, 2)),
        {"lstm": "tfmot does not quantize LSTM"},
    ),
}


def plain_reasons(left_out):
    """Automatic names of operators without their numbers."""
    return {re.sub(r"_\d+$", "", path): reason for path, reason in left_out.items()}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_tfmot_refuses_is_left_unwrapped_and_listed(kind):
    make, expected = REFUSED[kind]
    model = kc.wrap(make(), quantization=QUANTIZATION)
    left_out = engine_of(model).left_out["quantization"]
    assert plain_reasons(left_out) == expected
    if kind not in ("dense-norm", "swish"):  # which tfmot wraps, and TFLite leaves in float
        there = {layer.name: layer for layer in model.layers}
        for path in left_out:
            # With an activation that tfmot does not know it gets a wrapper for its output.
            wrapper = there.get(f"quant_{path}")
            assert (path in there) is (wrapper is None)
            assert wrapper is None or (kind == "elu" and not wrapper._weight_vars)
    assert "quant_last" in [layer.name for layer in model.layers]
    answers = model(np.zeros((1, *model.input_shape[1:]), "float32"))
    assert answers.shape == (1, 3)


@pytest.mark.parametrize("kind", ["nested", "elu", "conv1d", "layer-norm", "late-norm"])
def test_what_tfmot_refuses_is_an_error_when_it_is_named(kind):
    make, expected = REFUSED[kind]
    (path,), (reason,) = expected, expected.values()
    spec = kc.Quantization(delay=1, layers=[path, "last"])
    message = (
        f"wrap: `layers` must name layers that tfmot quantizes; {path!r} cannot: {reason}; "
        f'use `engine="in_place"`. Received: layers containing {path!r}'
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kc.wrap(make(), quantization=spec)


def test_a_model_of_which_tfmot_can_quantize_nothing_is_refused():
    given = layers.Input((6, 2))
    model = tf_keras.Model(given, layers.LSTM(3, name="lstm")(given))
    message = (
        'wrap: tfmot must be able to quantize some layer of `model`; use `engine="in_place"`. '
        "Received: a model of which it refuses {'lstm': 'tfmot does not quantize LSTM'}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kc.wrap(model, quantization=QUANTIZATION)


def stack():
    cells = [layers.LSTMCell(2, name="one"), layers.LSTMCell(2, name="two")]
    return functional(layers.RNN(cells), shape=(6, 2))


def chosen(*names):
    return kc.Pruning(HALF, layers=lambda layer: layer.name in names)


OTHER = kc.ConstantSparsity(target_sparsity=0.25, begin_step=1)
# name -> (model, a spec that names what cannot be done, one that only means it, which, why)
PRUNED_WITH_DIFFICULTY = {
    "depthwise": (
        lambda: functional(layers.DepthwiseConv2D(2, name="deep")),
        kc.Pruning(HALF, layers=["deep", "last"]),
        chosen("deep", "last"),
        {"deep"},
        "tfmot does not prune DepthwiseConv2D",
    ),
    "bidirectional": (
        lambda: functional(layers.Bidirectional(layers.LSTM(2), name="both"), shape=(6, 2)),
        kc.Pruning(HALF, layers=["both/forward_lstm/lstm_cell", "last"]),
        chosen("lstm_cell", "last"),
        {"both/forward_lstm/lstm_cell", "both/backward_lstm/lstm_cell"},
        "tfmot does not prune Bidirectional",
    ),
    "part-of-a-stack": (
        stack,
        kc.Pruning(HALF, layers=["one", "last"]),
        chosen("one", "last"),
        {"rnn/stacked_rnn_cells/one"},
        "tfmot prunes all kernels of RNN alike",
    ),
    "a-stack-of-two-minds": (
        stack,
        kc.Pruning(None, layers={"one": HALF, "two": OTHER, "last": HALF}),
        None,
        set(),
        "tfmot prunes all kernels of RNN alike",
    ),
}


@pytest.mark.parametrize("kind", PRUNED_WITH_DIFFICULTY)
def test_what_tfmot_does_not_prune_is_an_error_when_named_and_listed_otherwise(kind):
    make, naming, meaning, paths, reason = PRUNED_WITH_DIFFICULTY[kind]
    tf_keras.backend.clear_session()  # for names without numbers
    plain = make()
    with pytest.raises(ValueError, match=re.escape(f"cannot: {reason}; use `engine=")):
        kc.wrap(plain, pruning=naming)
    if meaning is not None:
        model = kc.wrap(plain, pruning=meaning)
        assert engine_of(model).left_out["pruning"] == dict.fromkeys(paths, reason)
        assert set(masks(model)) == {("last", "kernel")}


@pytest.mark.parametrize("quantized", ALONE_OR_QUANTIZED)
def test_kernels_that_a_block_spans_are_left_alone(quantized):
    # tfmot fails on them in mid-training.
    specs = {"quantization": QUANTIZATION} if quantized else {}
    spec = kc.Pruning(HALF, block_size=(1, 4))
    model = wrapped(tf_keras, pruning=spec, **specs)
    fit(model)
    assert set(masks(model)) == {("hidden", "kernel")}
    reasons = kc.compression_of(model).report.left_out["pruning"]
    assert reasons == {
        "conv": "blocks apply to rank-2 kernels, this one has rank 4",
        "kind": "tfmot prunes no kernel that is not larger than a block in each dimension",
    }
    named = kc.Pruning(HALF, block_size=(1, 4), layers=["hidden", "kind"])
    with pytest.raises(ValueError, match=r"^Pruning: `layers` must name layers that can be pruned"):
        kc.wrap(net(tf_keras), pruning=named, **specs)


@pytest.mark.parametrize("quantized", ALONE_OR_QUANTIZED)
def test_kernels_deep_in_a_layer_are_pruned(quantized):
    tf_keras.backend.clear_session()  # for names without numbers
    given = layers.Input((6, 4), name="given")
    x = layers.MultiHeadAttention(3, 3, name="attention")(given, given)
    x = layers.LSTM(3, name="lstm")(x)
    plain = tf_keras.Model(given, layers.Dense(3, name="last")(x))
    specs = {"pruning": PRUNING}
    if quantized:
        specs["quantization"] = QUANTIZATION
    model = compiled(tf_keras, kc.wrap(plain, **specs), run_eagerly=True)
    x, y = data((6, 4), 3)
    model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0)
    attention = ("query", "key", "value", "attention_output")
    expected = [*((f"attention/{name}", "kernel") for name in attention)]
    expected += [("lstm/lstm_cell", "kernel"), ("lstm/lstm_cell", "recurrent_kernel")]
    assert list(masks(model)) == [*expected, ("last", "kernel")]
    stripped = kc.strip(model)
    kernels = stripped.get_layer("attention").get_weights()[::2]  # and the biases between them
    kernels += stripped.get_layer("lstm").get_weights()[:2]
    kernels += stripped.get_layer("last").get_weights()[:1]
    assert len(kernels) == 7
    for kernel in kernels:
        assert zeros(kernel) == pytest.approx(0.5, abs=0.06), kernel.shape


def test_an_integer_export_with_float_layers_is_refused_before_the_first_step(tmp_path):
    make, _ = REFUSED["elu"]
    model = wrapped(tf_keras, model=make(), quantization=QUANTIZATION)
    message = (
        "Export: `allow_float_ops` must be True for an integer file of this model, whose layers "
        "would not all be rounded in the training: elu (tfmot does not quantize the activation "
        "elu). The file would compute in float: FULLY_CONNECTED of 'elu', ELU of 'elu'. What can "
        "be done: leave them out by `Quantization(layers=...)`; say "
        "`Export(allow_float_ops=True)`; or give no `quantization`, and "
        "`Export(representative_dataset=..., allow_float_ops=True)`, which quantizes after the "
        "training. Received: allow_float_ops=False"
    )
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(model, kc.Compress(export=kc.Export(path)))
    assert engine_of(model).step == 0
    compress = kc.Compress(export=kc.Export(path, allow_float_ops=True))
    fit(model, compress)
    assert compress.report.export.error is None
    assert {op.op for op in compress.report.export.float_ops} >= {"ELU"}
    assert compress.report.left_out["quantization"] == {
        "elu": "tfmot does not quantize the activation elu"
    }


# --- names


def two_ends():
    given = layers.Input((5,), name="given")
    x = layers.Dense(6, activation="relu", name="hidden")(given)
    ends = [
        layers.Dense(3, activation="softmax", name="kind")(x),
        layers.Dense(1, name="size")(x),
    ]
    return tf_keras.Model(given, ends)


@pytest.mark.parametrize("specs", ALONE_OR_BOTH)
def test_outputs_keep_their_names(specs, tmp_path):
    x, y = data((5,), 3)
    targets = {"kind": y, "size": x[:, :1]}

    def train(model, *callbacks):
        error = tf_keras.metrics.MeanAbsoluteError("mae")  # which tf_keras will rename
        model.compile(
            "sgd",
            loss={"kind": "sparse_categorical_crossentropy", "size": "mse"},
            loss_weights={"kind": 2.0, "size": 1.0},
            metrics={"kind": ["accuracy"], "size": [error]},
            run_eagerly=True,
        )
        return model.fit(
            x,
            targets,
            batch_size=BATCH,
            epochs=2,
            verbose=0,
            validation_data=(x, targets),
            callbacks=list(callbacks),
        ).history

    expected = set(train(two_ends()))
    model = kc.wrap(two_ends(), **specs)
    mode = "int8" if "quantization" in specs else "float32"
    compress = kc.Compress(export=kc.Export(tmp_path / "model.tflite", mode=mode))
    assert set(train(model, compress)) == {*expected, "sparsity", "quantized"}
    assert model.output_names == ["kind", "size"]
    assert compress.report.export.error is None
    file = kc.load_tflite(tmp_path / "model.tflite")
    assert [info.name for info in file.inputs] == ["given"]
    assert [info.name for info in file.outputs] == ["kind", "size"]
    stripped = compress.stripped_model
    assert set(stripped.evaluate(x, targets, return_dict=True, verbose=0)) == {
        name for name in expected if not name.startswith("val_")
    }


# --- state


@pytest.mark.parametrize(
    "specs",
    [{"pruning": PRUNING}, {"quantization": QUANTIZATION}, BOTH],
    ids=["pruning", "quantization", "both"],
)
def test_a_state_goes_on_in_a_freshly_wrapped_model(specs, tmp_path):
    model = wrapped(tf_keras, **specs)
    fit(model)
    kc.save_state(model, tmp_path / "state.npz")
    model.save_weights(tmp_path / "weights.h5")
    x, y = data()
    expected = model.evaluate(x, y, verbose=0)
    assert expected != kc.strip(model).evaluate(x, y, verbose=0) or "quantization" not in specs

    again = wrapped(tf_keras, model=net(tf_keras, seed=1), **specs)
    again.load_weights(tmp_path / "weights.h5")
    kc.load_state(again, tmp_path / "state.npz")
    assert again.evaluate(x, y, verbose=0) == expected
    assert engine_of(again).step == 2 * STEPS
    if "pruning" in specs:
        for key, mask in masks(again).items():
            np.testing.assert_array_equal(mask, masks(model)[key])
    fit(again)
    assert engine_of(again).step == 4 * STEPS
    with pytest.raises(ValueError, match="must be plain, or freshly wrapped"):
        kc.load_state(again, tmp_path / "state.npz")


def test_a_state_of_another_wrapped_model_is_refused(tmp_path):
    model = wrapped(tf_keras, pruning=PRUNING)
    fit(model)
    kc.save_state(model, tmp_path / "state.npz")
    other = wrapped(tf_keras, model=functional(shape=(5,)), pruning=PRUNING)
    with pytest.raises(
        ValueError, match=r"^load_state: the state must belong to this model; masks"
    ):
        kc.load_state(other, tmp_path / "state.npz")


class StopError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("specs", ALONE_OR_BOTH)
def test_an_interrupted_bare_fit_is_resumed_from_its_backup(specs, tmp_path):
    class StopAt(tf_keras.callbacks.Callback):
        seen = 0

        def on_train_batch_end(self, batch, logs=None):
            self.seen += 1
            if self.seen == 2 * STEPS + 2:  # after the second backup, which is after the switch
                raise StopError

    def backup(name):
        return tf_keras.callbacks.BackupAndRestore(str(tmp_path / name))

    whole = wrapped(tf_keras, **specs)
    fit(whole, backup("whole"), epochs=3)
    first = wrapped(tf_keras, **specs)
    with pytest.raises(StopError):
        fit(first, backup("parts"), StopAt(), epochs=3)
    second = wrapped(tf_keras, model=net(tf_keras, seed=1), **specs)
    history = fit(second, backup("parts"), epochs=3)
    assert history.epoch == [2]
    assert engine_of(second).step == 3 * STEPS
    assert_same(second.get_weights(), whole.get_weights())  # ranges and wrappers' masks included
    for key, mask in masks(second).items():
        np.testing.assert_array_equal(mask, masks(whole)[key])
    assert int(engine_of(whole).step) == kc.compression_of(second).report.step


def test_early_stopping_brings_masks_and_ranges_back():
    model = wrapped(tf_keras, **BOTH)
    kept = []

    class Worse(tf_keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = [3.0, 2.0, 5.0, 6.0][epoch]
            if epoch == 1:
                engine_of(model).settle()  # as at the end of a fit
                kept.extend(model.get_weights())

    stopping = tf_keras.callbacks.EarlyStopping(
        monitor="score", mode="min", patience=2, restore_best_weights=True
    )
    fit(model, Worse(), stopping, epochs=4)
    assert_same(model.get_weights(), kept)


# --- saving


@pytest.mark.parametrize("specs", ALONE_OR_BOTH)
def test_saving_as_keras_is_refused_with_what_to_do(specs, tmp_path):
    model = wrapped(tf_keras, **specs)
    path = str(tmp_path / "model.keras")
    message = (
        "save: `filepath` must not end in '.keras' for a model in tfmot's wrappers, because such a "
        "file cannot be loaded again; `strip` the model first, or save its weights and "
        f"`save_state`. Received: filepath={path!r}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.save(path)
    by_function = message.replace(f"filepath={path!r}", f"model={type(model).__name__}")
    with pytest.raises(ValueError, match=f"^{re.escape(by_function)}$"):
        tf_keras.models.save_model(model, path)
    assert not list(tmp_path.iterdir())
    whole = tf_keras.callbacks.ModelCheckpoint(path)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(model, whole)
    assert engine_of(model).step == 0
    weights = tf_keras.callbacks.ModelCheckpoint(
        str(tmp_path / "weights.h5"), save_weights_only=True
    )
    fit(model, weights)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.h5"]


@pytest.mark.slow
@pytest.mark.sweep_if(when=lambda ending: ending == "")
@pytest.mark.parametrize("ending", [".h5", ""], ids=["h5", "SavedModel"])
def test_other_formats_hold_the_model_as_it_answers(ending, tmp_path):
    import tensorflow_model_optimization as tfmot

    model = wrapped(tf_keras, eager=False, quantization=QUANTIZATION)
    fit(model)
    path = str(tmp_path / f"model{ending}")
    model.save(path, **({} if ending else {"save_format": "tf"}))
    with tfmot.quantization.keras.quantize_scope():
        again = tf_keras.models.load_model(path)
    x, _ = data()
    np.testing.assert_allclose(
        again.predict(x, verbose=0), model.predict(x, verbose=0), rtol=0, atol=1e-6
    )


# --- leaving no trace


def test_a_refused_wrap_leaves_the_plain_model_alone():
    model = functional(layers.DepthwiseConv2D(2, name="deep"))
    methods, weights = own_methods(model), model.get_weights()
    with pytest.raises(ValueError, match=r"^wrap: `layers` must name layers that tfmot prunes"):
        kc.wrap(model, pruning=kc.Pruning(HALF, layers=["deep", "last"]))
    assert own_methods(model) == methods
    assert_same(model.get_weights(), weights)
    assert kc.compression_of(model) is None


def test_the_plain_model_of_a_quantized_one_is_its_own():
    plain = net(tf_keras)
    before = plain.get_weights()
    model = wrapped(tf_keras, model=plain, quantization=QUANTIZATION)
    fit(model)
    assert_same(plain.get_weights(), before)
    assert np.all(np.isfinite(tf.reduce_sum(model(data()[0]))))
