"""The rehearsal: what would cost the file at the end of a fit is an error before its first step."""

import dataclasses
import logging
import os
import random
import re

import numpy as np
import pytest
import tensorflow as tf
from helpers.untouched import untouched
from tensorflow.python.eager import context as tf_context

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place import followed_ranges, plan, table
from keras_compress.export import rehearse as rehearsing
from keras_compress.tflite.conversion import process
from keras_compress.tflite.file.flatbuffer import pack, unpack
from keras_compress.tflite.file.inspect import op_name

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

ROWS, BATCH = 32, 8  # four updates in an epoch
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.random((ROWS, 6, 6, 2)).astype("float32")
SERIES = GENERATOR.random((ROWS, 5, 4)).astype("float32")
Y = GENERATOR.random((ROWS, 2)).astype("float32")
NOTHING_TRAINED = (
    "Nothing is trained yet: this was the rehearsal, which `rehearse=False` leaves out"
)
AFTERWARDS = (
    "give no `quantization`, and `Export(representative_dataset=...)`, which quantizes after the "
    "training"
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """What other tests have rehearsed is forgotten."""
    monkeypatch.setattr(rehearsing, "_passed", {})


@pytest.fixture
def conversions(monkeypatch):
    """The modes of what rehearsals have converted."""
    convert, found = rehearsing.convert, []

    def counted(function, how, **others):
        found.append(how.mode)
        return convert(function, how, **others)

    monkeypatch.setattr(rehearsing, "convert", counted)
    return found


def images_net(keras, *own, between=(), **arguments):
    """`own` directly behind the input, `between` behind the convolution."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    steps = [
        layers.Input((6, 6, 2), name="image"),
        *own,
        layers.Conv2D(3, 3, name="conv"),
        *between,
        layers.Flatten(name="flatten"),
        layers.Dense(2, name="scores"),
    ]
    return compiled(keras.Sequential(steps), **arguments)


def attention(keras):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((5, 4), name="series")
    query, value = (layers.Dense(4, name=name)(inputs) for name in ("query", "value"))
    x = layers.MultiHeadAttention(2, 4, name="attend")(query, value)
    return compiled(keras.Model(inputs, layers.Dense(2, name="scores")(layers.Flatten()(x))))


def compiled(model, **arguments):
    model.compile(**{"optimizer": "sgd", "loss": "mse", "jit_compile": False, **arguments})
    return model


def data_of(model):
    return SERIES if model.input_shape[1:] == SERIES.shape[1:] else IMAGES


def train(model, *callbacks, **arguments):
    given = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(data_of(model), Y, callbacks=list(callbacks), **given)


def compress(path, *, delay=2, layers=None, partial=False, **export):
    quantization = kc.Quantization(delay=delay, layers=layers)
    return kc.Compress(quantization=quantization, export=kc.Export(path, **export), partial=partial)


def all_but(*names):
    return lambda layer: layer.name not in names


@pytest.fixture
def integers_for_float_ops(monkeypatch):
    """Files as the converter by itself leaves some: an op with a float kernel reads integers."""
    convert = rehearsing.convert

    def without_dequantize(function, how, **others):
        data = convert(function, how, **others)
        model = unpack(data, "test")
        (graph,) = model.subgraphs
        kinds = [op_name(model.operatorCodes[op.opcodeIndex]) for op in graph.operators]
        real = {
            int(op.outputs[0]): int(op.inputs[0])
            for op, kind in zip(graph.operators, kinds, strict=True)
            if kind == "DEQUANTIZE"
        }
        for op, kind in zip(graph.operators, kinds, strict=True):
            if kind == "FULLY_CONNECTED":
                op.inputs = [real.get(int(index), int(index)) for index in op.inputs]
        read = {int(index) for op in graph.operators for index in op.inputs} | {*graph.outputs}
        graph.operators = [op for op in graph.operators if int(op.outputs[0]) in read]
        return pack(model, len(data))

    monkeypatch.setattr(rehearsing, "convert", without_dequantize)


# --- what it finds


CANNOT_RUN = (
    "LiteRT cannot run the file: FULLY_CONNECTED of 'attend': tflite/kernels/fully_connected.cc:301"
    " input->type != kTfLiteFloat32 (INT8 != FLOAT32)Node number 1 (FULLY_CONNECTED) failed to "
    "prepare"
)


@pytest.mark.usefixtures("integers_for_float_ops")
def test_a_file_that_litert_cannot_run_is_an_error_before_the_first_step(keras, tmp_path):
    model = attention(keras)
    with untouched(model), pytest.raises(kc.ConversionError) as caught:
        train(model, compress(tmp_path / "net.tflite", layers=all_but("attend")))
    assert str(caught.value) == (
        f"The TFLite conversion failed: {CANNOT_RUN}. What ends with a file: {AFTERWARDS}. "
        f"{NOTHING_TRAINED}"
    )
    assert not model.optimizer.iterations.numpy()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("way", ["layers", "allow_float_ops", "representative_dataset"])
def test_every_way_out_of_attention_ends_with_a_file(keras, way, tmp_path):
    """Cross-attention in float multiplies batches with one kernel: there the converter gives a
    float op integers, which nobody can run, and the file gets the DEQUANTIZE that it left out.
    """
    model, path = attention(keras), tmp_path / "net.tflite"
    callback = {
        "layers": compress(path, layers=all_but("attend")),
        "allow_float_ops": compress(path, allow_float_ops=True),
        "representative_dataset": kc.Compress(
            export=kc.Export(path, representative_dataset=SERIES)
        ),
    }[way]
    train(model, callback)
    assert callback.report.export.written
    if way == "representative_dataset":  # the network does not round
        return
    (step,) = kc.inspect_tflite(path).output_scales
    found = kc.load_tflite(path).predict(SERIES)
    assert np.abs(found - model.predict(SERIES, verbose=0)).max() <= 1.01 * step


def cholesky(keras):
    class Cholesky(keras.layers.Layer):
        def call(self, x):
            return tf.linalg.cholesky(tf.matmul(x, x, transpose_b=True) + 9 * tf.eye(5))

        def compute_output_shape(self, shape):
            return (*shape[:-1], shape[-2])

    layers = keras.layers
    steps = [layers.Input((5, 4)), layers.Dense(4), Cholesky(name="own"), layers.Flatten()]
    return compiled(keras.Sequential([*steps, layers.Dense(2)]))


@pytest.mark.parametrize("quantized", [True, False])
def test_an_op_that_tflite_does_not_know_is_named_with_its_layer(keras, quantized, tmp_path):
    model = cholesky(keras)
    path = tmp_path / "net.tflite"
    callback = kc.Compress(export=kc.Export(path, mode="float32"))
    if quantized:
        callback = compress(path, layers=all_but("own"))
    with untouched(model), pytest.raises(kc.ConversionError) as caught:
        train(model, callback)
    assert str(caught.value) == (
        "The TFLite conversion failed: 'tf.Cholesky' op is neither a custom op nor a flex op (at "
        "'own/Cholesky'). TFLite has no such op: replace that layer, or compute its part outside "
        f"the model. {NOTHING_TRAINED}"
    )
    assert not model.optimizer.iterations.numpy()


def test_the_export_alone_of_a_plain_fit_is_rehearsed(keras, tmp_path):
    model = images_net(keras, between=[keras.layers.ELU(name="bent")])
    given = kc.Export(tmp_path / "net.tflite", representative_dataset=IMAGES)
    with untouched(model), pytest.raises(kc.ConversionError) as caught:
        train(model, kc.Compress(export=given))
    assert str(caught.value) == (
        "The TFLite conversion failed: float ops would be left in the integer file: ELU of 'bent'. "
        "What ends with a file: say `Export(allow_float_ops=True)`; or say "
        f"`Export(mode='float32')`. {NOTHING_TRAINED}"
    )
    allowed = kc.Compress(export=dataclasses.replace(given, allow_float_ops=True))
    train(model, allowed)
    assert allowed.report.export.written


@pytest.mark.parametrize("mode", ["float16", "dynamic", "int16x8"])
def test_every_mode_is_rehearsed(keras, conversions, mode, tmp_path):
    data = {"representative_dataset": IMAGES} if mode == "int16x8" else {}
    callback = kc.Compress(export=kc.Export(tmp_path / "net.tflite", mode=mode, **data))
    train(images_net(keras), callback)
    assert conversions == [mode]
    assert callback.report.export.written


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_before_the_first_step(keras, tmp_path, monkeypatch):
    run = process.Worker.run

    def die(self, *arguments):
        self.process.kill()
        return run(self, *arguments)

    model = images_net(keras)
    with monkeypatch.context() as patched, untouched(model):
        patched.setattr(process.Worker, "run", die)
        with pytest.raises(kc.ConversionError) as caught:
            train(model, compress(tmp_path / "net.tflite"))
    assert str(caught.value) == (
        "The TFLite conversion failed: the converter process was killed by SIGKILL. Most likely "
        "the memory ran out: close other programs or export a smaller model. " + NOTHING_TRAINED
    )
    callback = compress(tmp_path / "net.tflite")
    train(model, callback)  # a failure is not taken for known
    assert callback.report.export.written


def test_the_timeout_is_that_of_the_export(keras, tmp_path):
    model = images_net(keras)
    with untouched(model), pytest.raises(kc.ConversionError, match=r"longer than 0\.001 seconds"):
        train(model, compress(tmp_path / "net.tflite", timeout=0.001))
    callback = compress(tmp_path / "net.tflite", timeout=0.001, rehearse=False)
    train(model, callback)
    assert "longer than 0.001 seconds" in callback.report.export.error


@pytest.fixture(autouse=True)
def untaught(monkeypatch):
    """What these tests take for unknown has a row by now, or is quantized by its ops."""
    monkeypatch.delitem(table.ACTIVATIONS, "elu")
    monkeypatch.delitem(table.TABLE, "GaussianDropout")
    monkeypatch.setattr(plan, "_units", lambda adapter, model, graph, unknown: ({}, dict(unknown)))


def from_first_batch(keras, **arguments):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    steps = [layers.Flatten(), layers.Dense(4), layers.Activation("elu", name="bent")]
    return compiled(keras.Sequential([*steps, layers.Dense(2)]), **arguments)


@pytest.mark.parametrize("eager", [True, False])
def test_a_model_without_shapes_is_rehearsed_with_its_first_batch(keras, eager, tmp_path):
    model = from_first_batch(keras, run_eagerly=eager)
    callback = compress(tmp_path / "net.tflite", default_ranges_stats=(-1, 1))
    with pytest.raises(kc.ConversionError, match="left in the integer file: ELU of 'bent'"):
        model.fit(IMAGES, Y, batch_size=BATCH, verbose=0, callbacks=[callback])
    assert not model.optimizer.iterations.numpy()
    assert kc.compression_of(model) is None
    allowed = compress(tmp_path / "net.tflite", allow_float_ops=True)
    model.fit(IMAGES, Y, batch_size=BATCH, verbose=0, callbacks=[allowed])
    assert allowed.report.export.written


# --- layers that do nothing in inference, directly behind the input


IDENTITIES = {
    "GaussianDropout": (0.1,),
    "AlphaDropout": (0.1,),
    "ActivityRegularization": (0.0,),
    "RandomFlip": ("horizontal",),
    "RandomRotation": (0.1,),
}


@pytest.mark.parametrize("kind", IDENTITIES)
def test_a_layer_left_out_that_does_nothing_behind_the_input_costs_no_file(keras, kind, tmp_path):
    own = getattr(keras.layers, kind)(*IDENTITIES[kind], name="own")
    callback = compress(tmp_path / "net.tflite", layers=all_but("own"))
    train(images_net(keras, own), callback)
    report = callback.report.export
    assert report.error is None
    assert {op.op for op in report.float_ops} <= {"DEQUANTIZE", "QUANTIZE"}
    assert max(report.largest_steps.values()) <= 1


def test_ranges_that_nobody_has_set_differ_as_set_ones_do(keras, tmp_path):
    """Between two equal ones the converter makes no op, which there is between two that differ."""
    model = images_net(keras, keras.layers.GaussianDropout(0.1, name="own"))
    with pytest.raises(ValueError, match=r"would compute in float: DEQUANTIZE .*QUANTIZE of 'own'"):
        train(model, compress(tmp_path / "net.tflite"))


# --- what it leaves behind


def drawing(keras):
    """A layer that draws numbers whenever it is traced, from all there is to draw from."""

    class Drawing(keras.layers.Layer):
        def call(self, x):
            with tf.init_scope():
                drawn = random.random() + np.random.rand() + float(tf.random.uniform(()))
            return x + tf.cast(drawn, x.dtype)

        def compute_output_shape(self, shape):
            return shape

    return Drawing(name="own")


def noisy_net(keras, draws):
    keras.utils.set_random_seed(0)  # before the first layer that will be random
    layers = keras.layers
    between = [
        layers.BatchNormalization(name="norm"),
        layers.ReLU(),
        layers.Dropout(0.3),
        *([drawing(keras)] if draws else []),
    ]
    return images_net(keras, layers.GaussianNoise(0.1), between=between, optimizer="adam")


def trained(keras, *callbacks, draws):
    model = noisy_net(keras, draws)
    history = train(model, *callbacks, epochs=2, shuffle=True)
    seeds = random.random(), np.random.rand(), float(tf.random.uniform(()))
    return [*model.get_weights(), np.array(history.history["loss"]), np.array(seeds)]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def run(keras, tmp_path, rehearse, delay):
    given = {"layers": all_but("own"), "allow_float_ops": True, "rehearse": rehearse}
    callback = compress(tmp_path / "net.tflite", delay=delay, **given)
    return callback, trained(keras, callback, draws=True)


@pytest.mark.parametrize("delay", [0, 5])
def test_a_training_is_bit_identical_to_one_without(keras, conversions, delay, tmp_path):
    _, without = run(keras, tmp_path, False, delay)
    assert conversions == []
    callback, found = run(keras, tmp_path, True, delay)
    assert conversions == ["int8"]
    assert_equal(found, without)
    assert callback.report.export.written


def test_a_training_is_bit_identical_to_a_plain_one_until_the_delay(keras, conversions, tmp_path):
    plain = trained(keras, draws=False)
    quantization = kc.Quantization(delay=9)
    export = kc.Export(tmp_path / "net.tflite")
    callback = kc.Compress(quantization=quantization, export=export, partial=True)
    found = trained(keras, callback, draws=False)
    assert conversions == ["int8"]  # a plan over several fits too
    assert callback.report.export.skipped
    assert_equal(found[:-1], plain[:-1])  # what is drawn after the fit comes after its `strip`


def test_without_a_seed_there_is_none_to_keep(keras, tmp_path, monkeypatch):
    """As in a script that sets none; TensorFlow has no generator of seeds then."""
    context = tf_context.context()
    model = images_net(keras)
    monkeypatch.delattr(context, "_rng")
    monkeypatch.setattr(context, "_seed", None)
    callback = compress(tmp_path / "net.tflite")
    train(model, callback)
    assert callback.report.export.written
    assert not hasattr(context, "_rng")


def test_ranges_phase_and_folder_are_as_before(keras, tmp_path):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                engine = engine_of(self.model)
                quantizers = engine.quantizers
                ranges = [tuple(each) for each in quantizers.ranges().values()]
                modes = quantizers.mode.phase, quantizers.mode.constants, quantizers.mode.exporting
                seen.append((set(ranges), engine.phase, *modes, engine.step))
                seen.append((os.listdir(tmp_path), path.read_bytes()))

    path = tmp_path / "net.tflite"
    path.write_bytes(b"an older file")
    stats = {"quantized_input_stats": (0, 255)}  # which gives the input another range for a while
    callback = kc.Compress(
        quantization=kc.Quantization(delay=4, calibration_steps=2), export=kc.Export(path, **stats)
    )
    train(images_net(keras), Look(), callback)
    assert seen == [
        ({followed_ranges.UNSEEN}, "off", "off", False, False, 0),
        (["net.tflite"], b"an older file"),
    ]
    assert callback.report.export.written


def test_the_weights_are_not_masked_early(keras, conversions, tmp_path):
    """Between two fits the user may write to weights; what the masks do to them comes with a step,
    rehearsed or not.
    """
    model = images_net(keras)
    half = kc.Pruning(kc.ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=1))
    train(model, kc.Compress(pruning=half))
    kernel = model.get_layer("conv").kernel
    kernel.assign(np.linspace(1, 2, 54).reshape(kernel.shape))
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(np.mean(kernel.numpy() == 0))

    export = kc.Export(tmp_path / "net.tflite", mode="float32")
    train(model, kc.Compress(pruning=half, export=export), Look())
    assert conversions == ["float32"]
    assert seen[0] == 0.0
    assert np.mean(kernel.numpy() == 0) == pytest.approx(0.5, abs=0.01)


# --- when it is left out


def messages(caplog):
    return [said for said in caplog.messages if said.startswith("The export to ")]


def test_it_says_that_it_is_done_and_how_long_it_took(keras, conversions, tmp_path, caplog):
    caplog.set_level(logging.INFO, "keras_compress")
    path = tmp_path / "net.tflite"
    train(images_net(keras), compress(path))
    (said,) = messages(caplog)
    pattern = rf"The export to {re.escape(str(path))} is rehearsed: it took \d+\.\d s\."
    assert re.fullmatch(pattern, said)
    assert conversions == ["int8"]


def test_what_has_passed_is_not_rehearsed_again(keras, conversions, tmp_path, caplog):
    caplog.set_level(logging.INFO, "keras_compress")
    path = tmp_path / "net.tflite"
    model = images_net(keras)
    train(model, compress(path, delay=6, partial=True))
    train(model, compress(path, delay=6))  # the plan's second fit
    other = images_net(keras)  # and another model, with other weights and perhaps other names
    other.set_weights([weight + 1 for weight in other.get_weights()])
    train(other, compress(path))
    assert conversions == ["int8"]
    again = f"The export to {path} is not rehearsed again: a network of this structure has passed "
    assert messages(caplog)[1:] == [f"{again}before."] * 2


@pytest.mark.parametrize("change", ["structure", "export", "choice"])
def test_what_differs_is_rehearsed(keras, conversions, change, tmp_path):
    path = tmp_path / "net.tflite"
    train(images_net(keras), compress(path))
    layers = keras.layers
    between = [layers.ReLU()] if change == "structure" else []
    given = {"export": {"inference_input_type": "uint8"}, "choice": {"layers": ["conv", "flatten"]}}
    train(images_net(keras, between=between), compress(path, **given.get(change, {})))
    assert conversions == ["int8"] * 2


def test_other_sizes_are_another_structure(keras, conversions, tmp_path):
    def dense_net(units):
        layers = keras.layers
        steps = [layers.Input((5, 4)), layers.Flatten(), layers.Dense(units), layers.Dense(2)]
        return compiled(keras.Sequential(steps))

    for units in (3, 4, 3):
        callback = kc.Compress(export=kc.Export(tmp_path / "net.tflite", mode="float32"))
        train(dense_net(units), callback)
    assert conversions == ["float32"] * 2


def test_names_are_no_part_of_a_structure(keras, conversions, tmp_path):
    """Automatic ones are "dense_8", "dense_9" and then "dense_9", "dense_10", sorted otherwise."""
    for names in (("a", "z"), ("z", "a")):
        layers = keras.layers
        steps = [layers.Input((5, 4)), layers.Flatten()]
        steps += [layers.Dense(2, name=name) for name in names]
        callback = kc.Compress(export=kc.Export(tmp_path / "net.tflite", mode="float32"))
        train(compiled(keras.Sequential(steps)), callback)
    assert conversions == ["float32"]


def test_it_is_left_out_where_that_is_asked_for(keras, conversions, tmp_path, caplog):
    caplog.set_level(logging.INFO, "keras_compress")
    callback = compress(tmp_path / "net.tflite", rehearse=False)
    train(images_net(keras), callback)
    assert conversions == messages(caplog) == []
    assert callback.report.export.written


def test_without_a_step_to_come_there_is_none(keras, conversions, tmp_path):
    path = tmp_path / "net.tflite"
    model = images_net(keras)
    callback = kc.Compress(export=kc.Export(path, mode="float32"))
    train(model, callback, epochs=2, initial_epoch=2)
    assert conversions == []
    assert callback.report.export.written


def two_means(keras, between):
    """Two means of one image, of which one goes through a layer first; and numbers for it."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    image = layers.Conv2D(4, 3, activation="relu")(inputs)
    images = image, image if between is None else between(image)
    answers = [layers.Dense(2)(layers.GlobalAveragePooling2D()(each)) for each in images]
    model = compiled(keras.Model(inputs, answers))
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    return model, (x, [np.zeros((32, 2), "float32")] * 2)


def test_twins_are_no_reason_to_refuse(keras, tmp_path):
    """Of two means of one tensor the converter makes one, which has a single scale."""
    model, data = two_means(keras, None)
    callback = compress(tmp_path / "net.tflite")
    model.fit(*data, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    assert callback.report.export.error is None
    assert callback.report.export.float_ops == ()


def test_what_only_inference_makes_equal_are_no_twins(keras, tmp_path):
    """Behind a dropout a mean has a range of its own, and the converter makes one of the two still:
    there is no file, before the training as after it.
    """
    message = "float ops would be left in the integer file: MEAN"
    model, data = two_means(keras, keras.layers.Dropout(0.5, seed=1))
    with pytest.raises(kc.ConversionError, match=message):
        model.fit(*data, batch_size=4, verbose=0, callbacks=[compress(tmp_path / "net.tflite")])

    callback = compress(tmp_path / "net.tflite", rehearse=False)
    model, data = two_means(keras, keras.layers.Dropout(0.5, seed=1))
    model.fit(*data, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    assert message in callback.report.export.error


# --- what the refusal says


MULTIPLIED = (
    "Export: `allow_float_ops` must be True for an integer file of this model, whose layers would "
    "not all be rounded in the training: own (Drawn is not in the placement table). The file would "
    "be all-integer all the same, because the converter takes for quantized what stands between "
    "rounded tensors; its report would list as `rounded_anyway`: own. What can be done: leave them "
    "out by `Quantization(layers=...)`; say `Export(allow_float_ops=True)`; or give no "
    "`quantization`, and `Export(representative_dataset=...)`, which quantizes after the "
    "training. Received: allow_float_ops=False"
)


def own_product(keras):
    class Drawn(keras.layers.Layer):
        def call(self, x):
            return x * x

        def compute_output_shape(self, shape):
            return shape

    return Drawn(name="own")


def test_a_refusal_tells_that_the_file_would_be_all_integer(keras, tmp_path):
    model = images_net(keras, between=[own_product(keras)])
    with untouched(model), pytest.raises(ValueError, match=f"^{re.escape(MULTIPLIED)}$"):
        train(model, compress(tmp_path / "net.tflite"))
    assert not model.optimizer.iterations.numpy()


@pytest.mark.usefixtures("integers_for_float_ops")
def test_a_refusal_does_not_name_ways_that_end_without_a_file(keras, tmp_path):
    with pytest.raises(ValueError, match="allow_float_ops") as caught:
        train(attention(keras), compress(tmp_path / "net.tflite"))
    assert str(caught.value) == (
        "Export: `allow_float_ops` must be True for an integer file of this model, whose layers "
        "would not all be rounded in the training: attend (MultiHeadAttention is not in the "
        f"placement table). With them there would be no file: {CANNOT_RUN}. What can be done: "
        f"{AFTERWARDS}. Received: allow_float_ops=False"
    )


def test_a_refusal_without_rehearsal_names_the_ways_alone(keras, tmp_path):
    model = images_net(keras, between=[own_product(keras)])
    begin, _, rest = MULTIPLIED.partition("The file would")
    expected = begin + rest[rest.index("What can be done") :]
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        train(model, compress(tmp_path / "net.tflite", rehearse=False))


@pytest.mark.parametrize("kind", ["product", "elu"])
@pytest.mark.parametrize("way", ["layers", "allow_float_ops", "representative_dataset"])
def test_every_way_out_that_a_refusal_names_ends_with_a_file(keras, kind, way, tmp_path):
    own = own_product(keras) if kind == "product" else keras.layers.ELU(name="own")
    model, path = images_net(keras, between=[own]), tmp_path / "net.tflite"
    with pytest.raises(ValueError, match="allow_float_ops") as caught:
        train(model, compress(path))
    told = str(caught.value).partition("What can be done: ")[2]
    assert way in told
    floats = "representative_dataset=..., allow_float_ops=True" in told
    assert floats is (kind == "elu")
    callback = {
        "layers": compress(path, layers=all_but("own")),
        "allow_float_ops": compress(path, allow_float_ops=True),
        "representative_dataset": kc.Compress(
            export=kc.Export(path, representative_dataset=IMAGES, allow_float_ops=floats)
        ),
    }[way]
    train(model, callback)
    report = callback.report.export
    assert report.written
    if kind == "product":  # as it said
        assert report.float_ops == ()
        assert report.rounded_anyway == (() if way == "representative_dataset" else ("own",))
    else:
        assert {op.op for op in report.float_ops if op.layer == "own"} >= {"ELU"}
