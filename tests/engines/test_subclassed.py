"""Subclassed models: no graph, `call` is Python. The whole model is one unit."""

import contextlib
import inspect

import numpy as np
import pytest
import tensorflow as tf
from helpers.replicas import printed
from helpers.subclassed_nets import (
    DATA,
    STEPS,
    around,
    classes_of,
    compiled,
    fit,
    labels,
    net,
    normal,
)
from helpers.untouched import untouched

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.engines.state import Phase
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.wrap_method import wrap_method

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

HALF = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=2)


def shipped(keras, kind, path, *, epochs=4, layers=None, **compile_arguments):
    """A net that nobody has built, trained over the switch, pruned and exported."""
    model, data = net(keras, kind, **compile_arguments), DATA[kind]()
    compress = kc.Compress(
        pruning=kc.Pruning(HALF),
        quantization=kc.Quantization(delay=0.5, calibration_steps=STEPS, layers=layers),
        export=kc.Export(path, verify_data=data[0]),
        verbose=0,
    )
    fit(model, data, compress, epochs=epochs)
    report = compress.report
    assert report.export.error is None
    assert report.switched_at == 2 * STEPS + 1
    return model, report


def steps_between(model, path, x):
    """The largest and the mean difference of `predict` and the file, in output steps."""
    network, file = model.predict(x, verbose=0), kc.load_tflite(path)
    answers = file.predict(x if isinstance(x, dict) else tf.nest.flatten(x))
    flat = [answers] if isinstance(answers, np.ndarray) else list(answers.values())
    differences = [
        np.abs(one - other) / info.scale
        for one, other, info in zip(tf.nest.flatten(network), flat, file.outputs, strict=True)
    ]
    return max(d.max() for d in differences), max(d.mean() for d in differences)


# Kind -> the kernels in order, the largest difference in steps.
SHIPPED = {
    "Image": (["conv", "head"], 2),
    "Ends": (["front", "words", "kind", "size"], 2),
    "Pair": (["left", "right", "head"], 3),
    "Nested": (
        [
            "one/first",
            "one/second",
            "two/first",
            "two/second",
            "tower/dense",
            "row/dense",
            "inner/dense",
            "head",
        ],
        6,
    ),
    "Attending": (
        ["front", "attend/query", "attend/key", "attend/value", "attend/attention_output", "head"],
        5,
    ),
}


def weights_after(model):
    variables = model.optimizer.variables
    slots = variables() if callable(variables) else variables
    return [*model.get_weights(), *(np.asarray(v.numpy()) for v in slots)]


def assert_same_weights(one, other):
    for expected, found in zip(weights_after(one), weights_after(other), strict=True):
        np.testing.assert_array_equal(expected, found)


def _left_to_the_sweep(keras, kind):
    """Each kind but one with one of the two Keras; the sweep has all with both."""
    return kind == "Pair" or (kind == "Attending") == (keras == "keras3")


@pytest.mark.sweep_if(when=_left_to_the_sweep)
@pytest.mark.parametrize("kind", SHIPPED)
def test_a_model_that_nobody_has_built_ships_as_integers(keras, kind, tmp_path):
    paths, most = SHIPPED[kind]
    path = tmp_path / "net.tflite"
    model, report = shipped(keras, kind, path)
    assert not report.left_out
    contents = kc.inspect_tflite(path)
    assert contents.all_integer, contents.float_ops
    assert {row.path for row in report.layers} == set(paths)
    assert all(row.bits == 8 for row in report.layers if row.path != "words")
    assert all(row.sparsity == pytest.approx(0.5, abs=0.01) for row in report.layers)
    assert report.export.predict_steps
    largest, mean = steps_between(model, path, DATA[kind](seed=1)[0])
    assert largest <= most
    assert mean <= 0.7
    assert max(report.export.predict_steps.values()) <= most


# Where a sum or tanh follows a Dense, watching costs the last bit, in functional models too:
# TensorFlow's oneDNN fuses them only where nobody looks between.
BIT_BY_BIT = {
    Phase.OFF: ("Image", "Ends", "Pair", "Nested", "Attending"),
    Phase.WATCHING: ("Image", "Ends"),
}


@pytest.mark.parametrize(
    ("phase", "kind"), [(phase, kind) for phase, kinds in BIT_BY_BIT.items() for kind in kinds]
)
def test_while_off_and_while_watching_training_is_the_plain_one_to_the_last_bit(keras, kind, phase):
    data, seen = DATA[kind](), 2 * STEPS if phase is Phase.WATCHING else 0
    plain = net(keras, kind)
    history = [fit(plain, data).history["loss"]]
    quantization = kc.Quantization(delay=2 * STEPS, calibration_steps=seen)
    model = net(keras, kind)  # only now, as seeds are drawn when it is built
    history.append(
        fit(model, data, kc.Compress(quantization=quantization, verbose=0)).history["loss"]
    )
    assert int(engine_of(model).quantizers.observed.numpy()) == seen
    assert history[0] == history[1]
    assert_same_weights(plain, model)


@pytest.mark.slow
def test_whether_it_was_built_before_makes_no_difference(keras):
    models = []
    for is_built in (False, True):
        models.append(net(keras, "Image"))
        if is_built:
            models[-1](DATA["Image"]()[0][:3])
        compress = kc.Compress(pruning=kc.Pruning(HALF), quantization=kc.Quantization(delay=STEPS))
        fit(models[-1], DATA["Image"](), compress)
    assert_same_weights(*models)
    ranges = [engine_of(model).quantizers.ranges() for model in models]
    assert list(ranges[0]) == list(ranges[1])
    for key, value in ranges[0].items():
        np.testing.assert_array_equal(value, ranges[1][key])


def test_it_is_planned_before_the_first_step_of_its_first_fit(keras):
    """Not by the first batch: what is refused is so before a step is traced."""
    model, planned = net(keras, "Ends"), []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            planned.append((engine_of(model).is_placed, engine_of(model).step))

    compress = kc.Compress(quantization=kc.Quantization(delay=2), verbose=0)
    fit(model, DATA["Ends"](), compress, Look(), epochs=1)
    assert planned == [(True, 0)]


@pytest.mark.slow
def test_outputs_are_rounded_each_over_a_range_of_its_own(keras, tmp_path):
    path = tmp_path / "net.tflite"
    _, report = shipped(keras, "Ends", path)
    file = kc.load_tflite(path)
    scales = {info.name: info.scale for info in file.outputs}
    assert scales["kind"] == 1 / 256  # of a softmax
    assert scales["size"] > 0.05
    assert {info.name: info.dtype for info in file.inputs} == {"signal": "int8", "word": "int32"}
    assert set(report.export.outputs) == set(report.export.largest_steps) == {"kind", "size"}


@pytest.mark.slow
def test_ends_without_names_are_numbered(keras, tmp_path):
    path = tmp_path / "net.tflite"
    _, report = shipped(keras, "Pair", path)
    assert list(report.export.inputs) == ["input_1", "input_2"]
    assert list(report.export.outputs) == ["output_1", "output_2"]
    assert len({end["scale"] for end in report.export.outputs.values()}) == 1  # moved, not computed
    assert report.export.inputs["input_1"]["shape"] == [1, 5]


@pytest.mark.sweep
def test_metrics_of_every_network_are_measured(keras, tmp_path):
    model, data = net(keras, "Image", metrics=["accuracy"]), DATA["Image"]()
    compress = kc.Compress(
        quantization=kc.Quantization(delay=2), export=kc.Export(tmp_path / "net.tflite"), verbose=0
    )
    fit(model, data, compress, validation_data=data)
    metrics = compress.report.validation.metrics
    assert set(metrics) == {"float", "fake-quantized", "tflite"}
    assert metrics["tflite"]["loss"] == pytest.approx(metrics["fake-quantized"]["loss"], abs=0.02)


@pytest.mark.slow
def test_keys_are_the_same_for_every_name_and_however_the_model_was_met(keras, tmp_path):
    def keys(model):
        quantizers = engine_of(model).quantizers
        return [*quantizers.activations], [*quantizers.kernels]

    quantization = kc.Quantization(delay=2)
    found = []
    for name in ("one", "other"):
        model = compiled(keras, classes_of(keras)["Image"](name=name))
        fit(model, DATA["Image"](), kc.Compress(quantization=quantization, verbose=0), epochs=1)
        found.append(keys(model))
    single = compiled(keras, classes_of(keras)["Image"]())
    x, y = DATA["Image"]()
    compress = kc.Compress(quantization=quantization, verbose=0)
    fit(single, (x[:4], y[:4]), compress, epochs=1, batch_size=1)
    found.append(keys(single))
    assert found[0] == found[1] == found[2]
    assert found[0] == (
        ["input/0", "0/Image/0.Relu", "0/Image/1.Add", "0/Image/2.Mul", "0/Image/output"],
        ["0/Image/0.Conv2D/3x3x3x4", "0/Image/1.MatMul/144x4"],
    )


def test_a_patched_call_still_tells_what_it_takes(keras):
    """As tf_keras' wrappers of layers ask the one inside."""
    layer = keras.layers.LSTM(2)
    before = inspect.getfullargspec(layer.call)
    undo = wrap_method(layer, "call", lambda original: lambda *args: None)
    assert inspect.getfullargspec(layer.call) == before
    undo()


# --- what goes on after


@pytest.mark.slow
@pytest.mark.sweep_if(when=lambda kind: kind == "Ends")
@pytest.mark.filterwarnings("ignore:You are saving your model")
@pytest.mark.parametrize("kind", ["Image", "Ends"])
def test_state_and_weights_bring_it_back(keras, kind, tmp_path):
    model, (x, y) = net(keras, kind), DATA[kind]()
    compress = kc.Compress(
        pruning=kc.Pruning(HALF), quantization=kc.Quantization(delay=2), verbose=0
    )
    fit(model, (x, y), compress)
    kc.save_state(model, tmp_path / "state.npz")
    again = net(keras, kind)
    again(tf.nest.map_structure(lambda part: part[:1], x))
    again.set_weights(model.get_weights())
    kc.load_state(again, tmp_path / "state.npz")
    tf.nest.map_structure(
        np.testing.assert_array_equal, model.predict(x, verbose=0), again.predict(x, verbose=0)
    )
    report = kc.export_tflite(again, kc.Export(tmp_path / "net.tflite"))
    assert report.written
    assert kc.inspect_tflite(tmp_path / "net.tflite").all_integer


@pytest.mark.slow
def test_a_training_that_was_interrupted_ends_as_the_whole_one(keras, tmp_path):
    class StopError(Exception):
        pass

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise StopError

    def made():
        model = net(keras, "Nested")
        model(DATA["Nested"]()[0][:1])
        compress = kc.Compress(
            pruning=kc.Pruning(HALF), quantization=kc.Quantization(delay=2 * STEPS), verbose=0
        )
        return model, compress

    whole, compress = made()
    fit(whole, DATA["Nested"](), compress, epochs=4)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    model, compress = made()
    with pytest.raises(StopError):
        fit(model, DATA["Nested"](), backup, compress, Stop(), epochs=4)
    model, compress = made()
    fit(model, DATA["Nested"](), backup, compress, epochs=4)
    assert compress.report.step == 4 * STEPS
    assert_same_weights(whole, model)
    ranges = engine_of(whole).quantizers.ranges()
    for key, value in engine_of(model).quantizers.ranges().items():
        np.testing.assert_array_equal(value, ranges[key], err_msg=key)


@pytest.mark.sweep_if(when=lambda kind: kind in ("Pair", "Nested"))
@pytest.mark.parametrize("kind", ["Image", "Ends", "Pair", "Nested"])
def test_strip_gives_a_plain_model_of_the_same_class(keras, kind):
    model, data = net(keras, kind), DATA[kind]()
    compress = kc.Compress(
        pruning=kc.Pruning(HALF), quantization=kc.Quantization(delay=2), verbose=0
    )
    fit(model, data, compress)
    plain = kc.strip(model)
    assert type(plain) is type(model)
    assert kc.compression_of(plain) is None
    kernels = [weight for weight in plain.get_weights() if weight.shape == (8, 4)]
    assert all(np.mean(kernel == 0) == 0.5 for kernel in kernels)
    engine_of(model).set_phase(Phase.OFF)
    tf.nest.map_structure(
        np.testing.assert_array_equal,
        plain.predict(data[0], verbose=0),
        model.predict(data[0], verbose=0),
    )
    fit(plain, data, epochs=1)  # compiled like the other


@pytest.mark.slow
def test_wrapped_before_compile_it_goes_on_in_bare_fits(keras):
    keras.utils.set_random_seed(0)
    model = classes_of(keras)["Image"]()
    model(DATA["Image"]()[0][:1])
    quantization = kc.Quantization(delay=STEPS, calibration_steps=2)
    kc.wrap(model, pruning=kc.Pruning(HALF), quantization=quantization, engine="in_place")
    fit(compiled(keras, model), DATA["Image"]())
    report = kc.compression_of(model).report
    assert report.switched_at == STEPS + 1
    assert report.sparsity == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_a_plain_one_is_exported_too(keras, mode, tmp_path):
    model, (x, _) = net(keras, "Ends"), DATA["Ends"]()
    model(x)
    path = tmp_path / "net.tflite"
    report = kc.export_tflite(model, kc.Export(path, mode=mode, representative_dataset=x))
    dtypes = {name: end["dtype"] for name, end in report.inputs.items()}
    assert dtypes == {"signal": "float32" if mode == "float32" else "int8", "word": "int32"}
    assert max(report.predict_steps.values()) <= (1e-5 if mode == "float32" else 5)


def test_to_ask_what_it_gives_leaves_no_losses_behind(keras):
    layer = keras.layers.Dense(8, activity_regularizer="l2", name="middle")
    model = around(keras, layer)
    model(normal(8))
    before = [float(loss) for loss in model.losses]
    assert adapter_of(model, "test").has_ends(model)
    assert [float(loss) for loss in model.losses] == before


def test_a_train_step_of_its_own_may_make_other_inputs(keras):
    class Halving(classes_of(keras)["Image"]):
        def train_step(self, data):
            x, y = data
            return super().train_step((x[:, ::2, ::2], y))

    keras.utils.set_random_seed(0)
    model = compiled(keras, Halving(name="halving"))
    model(normal(8, 8, 3)[:1])
    compress = kc.Compress(quantization=kc.Quantization(delay=2), verbose=0)
    fit(model, (normal(16, 16, 3), labels()), compress)
    assert engine_of(model).adapter.input_specs(model)[0].shape.as_list() == [None, 8, 8, 3]
    assert engine_of(model).phase is Phase.ON


@pytest.mark.slow
def test_eager_training_rounds_as_a_graph_does(keras):
    def ranges(**arguments):
        model = net(keras, "Pair", **arguments)
        spec = kc.Quantization(delay=2, calibration_steps=2)
        fit(model, DATA["Pair"](), kc.Compress(quantization=spec, verbose=0), epochs=1)
        return engine_of(model).quantizers.ranges()

    graph, eager = ranges(), ranges(run_eagerly=True)
    assert list(graph) == list(eager)
    for key, value in graph.items():
        np.testing.assert_allclose(value, eager[key], rtol=1e-2, atol=1e-2, err_msg=key)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["Image", "Ends"])
def test_under_xla(keras, kind, tmp_path):
    path = tmp_path / "net.tflite"
    model, _ = shipped(keras, kind, path, jit_compile=True)
    assert kc.inspect_tflite(path).all_integer
    assert steps_between(model, path, DATA[kind](seed=1)[0])[0] <= SHIPPED[kind][1]


@pytest.mark.sweep
def test_under_a_mixed_policy(keras, tmp_path):
    path = tmp_path / "net.tflite"
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model, _ = shipped(keras, "Image", path)
        largest, _ = steps_between(model, path, DATA["Image"](seed=1)[0])
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert kc.inspect_tflite(path).all_integer
    assert largest <= 4  # float16 has some 3 digits


REPLICAS = """
    from helpers.subclassed_nets import DATA, fit, net

    with two_replicas():
        model = net(keras, "Nested")
    x, y = DATA["Nested"]()
    compress = kc.Compress(
        quantization=kc.Quantization(delay=4), export=kc.Export("net.tflite", verify_data=x)
    )
    fit(model, (x, y), compress)
    agree = all(first == second for first, second in ranges_of(model).values())
    report = compress.report.export
    integer = kc.inspect_tflite("net.tflite").all_integer
    print(json.dumps([agree, report.error, report.largest_steps, integer]))
"""


@pytest.mark.sweep  # as that of a unit; of the table, `test_strategy.py` has it in the suite
def test_two_replicas_agree(keras, tmp_path):
    agree, error, steps, integer = printed(keras, REPLICAS, tmp_path)
    assert agree
    assert error is None
    assert integer
    assert steps["output_1"] <= 6


# --- what cannot be done


def branching(keras):
    def call(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2.0, lambda: x)

    return call


def opaque(keras):
    return tf.function(lambda x: x * 2.0)


def masking(keras):
    return lambda x: tf.nn.softmax(x + tf.constant([0.0] * 7 + [-1e9]))


def without_a_row(keras):
    return lambda x: tf.math.digamma(tf.abs(x) + 1.0)


def asking_for_numbers(keras):
    return lambda x: x * float(x.numpy().max())


def looping(keras):
    class Loop(keras.layers.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.leaky = keras.layers.LeakyReLU(name="leaky")  # one op of a unit elsewhere

        def call(self, x):
            def turn(i, y):
                return [i + 1, self.leaky(y * 1.1 - 0.1)]

            return tf.while_loop(lambda i, y: i < 3, turn, [0, x])[1]

    return Loop(name="loop")


REFUSED = {
    "a branch": (branching, "TensorFlow's StatelessIf: a branch that the data decides"),
    "an opaque function": (
        opaque,
        "TensorFlow's (Stateful)?PartitionedCall: a function of its own",
    ),
    "a loop in a layer": (looping, "in 'loop': TensorFlow's (Stateless)?While: a loop"),
    "a mask": (masking, "a constant of 1e\\+09"),
    "an unknown op": (without_a_row, "TensorFlow's Digamma is not in the table of ops"),
}


@pytest.mark.parametrize("is_built", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_rounded_is_refused_before_the_first_step(keras, case, is_built, tmp_path):
    make, reason = REFUSED[case]
    model = around(keras, make(keras))
    if is_built:
        model(normal(8)[:1])
    compress = kc.Compress(
        quantization=kc.Quantization(delay=1), export=kc.Export(tmp_path / "net.tflite")
    )
    steps = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            steps.append(batch)

    before = untouched(model) if is_built else contextlib.nullcontext()
    message = f"it cannot: ({reason}).*`Quantization\\(layers="
    with before, pytest.raises(ValueError, match=message):
        fit(model, (normal(8), labels()), compress, Count())
    assert not steps
    assert kc.compression_of(model) is None
    assert not (tmp_path / "net.tflite").exists()


def test_a_call_that_needs_numbers_is_refused(keras):
    model = around(keras, asking_for_numbers(keras))
    model.run_eagerly = True
    model(normal(8)[:1])
    compress = kc.Compress(quantization=kc.Quantization(delay=1))
    with untouched(model), pytest.raises(ValueError, match="the model's `call` must be traceable"):
        fit(model, (normal(8), labels()), compress)
    pruned = kc.Compress(pruning=kc.Pruning(HALF), verbose=0)
    fit(model, (normal(8), labels()), pruned, epochs=1)
    assert pruned.report.sparsity == pytest.approx(0.5, abs=0.01)


def test_layers_left_out_stay_in_float_with_all_that_cannot_be_rounded_in_them(keras, tmp_path):
    model = around(keras, looping(keras))
    path = tmp_path / "net.tflite"
    compress = kc.Compress(
        quantization=kc.Quantization(delay=2, layers=["front", "head"]),
        export=kc.Export(path, verify_data=normal(8)),
        verbose=0,
    )
    fit(model, (normal(8), labels()), compress)
    report = compress.report
    assert set(report.left_out["quantization"]) == {"loop", "loop/leaky"}
    assert report.export.error is None
    assert {op.layer for op in report.export.float_ops} <= {"loop", "loop/leaky"}
    assert report.export.float_ops
    assert steps_between(model, path, normal(8, seed=1))[0] <= 2
    assert "0/Around/1.Float" in engine_of(model).quantizers.activations


LEFT = {
    "by name": ["one", "tower", "inner", "row/dense", "head"],
    "by a callable": lambda layer: layer.name not in ("two", "second"),
}


@pytest.mark.parametrize("case", LEFT)
def test_layers_name_what_is_inside(keras, case, tmp_path):
    model, data = net(keras, "Nested"), DATA["Nested"]()
    compress = kc.Compress(quantization=kc.Quantization(delay=2, layers=LEFT[case]), verbose=0)
    fit(model, data, compress)
    rounded = {row.path for row in compress.report.layers}
    left = set(compress.report.left_out["quantization"])
    if case == "by name":  # a container stands for all in it
        assert left == {"two", "two/first", "two/second", "row"}
        assert rounded == {
            "one/first", "one/second", "tower/dense", "row/dense", "inner/dense", "head"
        }  # fmt: skip
    else:
        assert left == {"one/second", "two", "two/second"}
        assert "two/first" in rounded
    kc.save_state(model, tmp_path / "state.npz")
    again = net(keras, "Nested")
    again(data[0][:1])
    again.set_weights(model.get_weights())
    kc.load_state(again, tmp_path / "state.npz")
    np.testing.assert_array_equal(
        model.predict(data[0], verbose=0), again.predict(data[0], verbose=0)
    )


def test_what_is_left_out_computes_as_it_does_alone(keras):
    """Watching the others is the plain training, and nothing that it reads is rounded for it."""
    data = normal(8), labels()
    models = []
    for callbacks in ((), (kc.Compress(quantization=QUIET, verbose=0),)):
        keras.utils.set_random_seed(0)
        models.append(around(keras, classes_of(keras)["Block"](8, name="block")))
        fit(models[-1], data, *callbacks, epochs=1)
    assert_same_weights(*models)
    quantizers = engine_of(models[1]).quantizers
    assert [*quantizers.kernels] == ["0/Around/0.MatMul/8x8", "0/Around/1.MatMul/8x4"]
    (whole,) = quantizers.placement.operations
    assert not whole.unit.plan.constants  # as the block's kernels and gate would be


QUIET = kc.Quantization(delay=STEPS, calibration_steps=STEPS, layers=["front", "head"])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["nobody"], "`layers` must name layers of the model; it has .*'one/first'"),
        (["first"], "'first' is ambiguous, write one of the paths"),
        (lambda layer: False, "`layers` must leave something to quantize"),
    ],
)
def test_layers_that_name_nothing_are_refused(keras, layers, message):
    model = net(keras, "Nested")
    model(DATA["Nested"]()[0][:1])
    compress = kc.Compress(quantization=kc.Quantization(delay=1, layers=layers))
    with untouched(model), pytest.raises(ValueError, match=message):
        fit(model, DATA["Nested"](), compress)


def test_what_only_training_computes_is_refused(keras):
    """Though the model does not take `training`: the layer inside does."""

    class Noisy(keras.layers.Layer):
        def call(self, x, training=None):
            return tf.nn.relu(x * 1.5) if training else x

    model = around(keras, Noisy(name="noisy"))
    compress = kc.Compress(quantization=kc.Quantization(delay=1))
    with pytest.raises(ValueError, match="computes otherwise in training than in inference"):
        fit(model, (normal(8), labels()), compress)


def test_a_state_of_old_knows_no_such_model(keras, monkeypatch):
    monkeypatch.setattr(InPlace, "by_ops", False)
    model = net(keras, "Image")
    with pytest.raises(ValueError, match="states of old know no such model"):
        fit(model, DATA["Image"](), kc.Compress(quantization=kc.Quantization(delay=1)))


def test_a_model_that_fit_alone_can_build_is_refused_where_there_is_none(keras, tmp_path):
    model = net(keras, "Image")
    with pytest.raises(ValueError, match="the model must be built"):
        kc.export_tflite(model, kc.Export(tmp_path / "net.tflite", mode="float32"))
