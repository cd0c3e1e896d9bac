"""Inputs of integers of which a network makes floats itself: the file takes the very integers."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.nets import slots

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.engines.in_place.placement import OTHER_INTEGERS
from keras_compress.engines.state import Phase
from keras_compress.frameworks.choose import adapter_of

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

ROWS, BATCH = 32, 8
STEPS = ROWS // BATCH
SHAPE = (8, 8, 3)


def cast(keras, tensor, dtype="float32"):
    return keras.ops.cast(tensor, dtype) if keras.__name__ == "keras" else tf.cast(tensor, dtype)


FRONTS = {
    # Of whole steps. With 1 / 127.5 and -1 every byte is half a step off, and so a tie.
    "Rescaling": lambda keras, t: keras.layers.Rescaling(1 / 200, -0.6, name="front")(t),
    "Rescaling by keyword": lambda keras, t: keras.layers.Rescaling(1 / 255)(inputs=t),
    "Normalization": lambda keras, t: keras.layers.Normalization(mean=100.0, variance=5000.0)(t),
    "cast": lambda keras, t: cast(keras, t) / 255,
    "cast twice": lambda keras, t: keras.layers.Concatenate()(
        [cast(keras, t) / 255, cast(keras, t) * 0.01]
    ),
    "nested": lambda keras, t: nested(keras)(t),
}


def nested(keras):
    """A model inside, whose own input is what the outer one is not: floats."""
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, keras.layers.Rescaling(1 / 255)(inputs), name="inside")


def ends(keras, tensor):
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(tensor)
    return keras.layers.Dense(4, name="scores")(keras.layers.Flatten()(x))


def compiled(keras, model):
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    return model


def net(keras, front, dtype):
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE, dtype=dtype, name="image")
    if front == "Sequential":
        layers = keras.layers
        steps = [layers.Conv2D(4, 3, name="conv"), layers.Flatten(), layers.Dense(4, name="scores")]
        return compiled(keras, keras.Sequential([image, layers.Rescaling(1 / 255), *steps]))
    return compiled(keras, keras.Model(image, ends(keras, FRONTS[front](keras, image))))


def pixels(dtype="uint8", high=256):
    return np.random.default_rng(0).integers(0, high, (ROWS, *SHAPE)).astype(dtype)


def targets():
    return np.random.default_rng(1).random((ROWS, 4)).astype("float32")


def fit(model, x, *callbacks, epochs=2):
    model.fit(
        x, targets(), batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0,
        callbacks=list(callbacks),
    )  # fmt: skip


def quantize(path=None, **export):
    given = None if path is None else kc.Export(path, **export)
    quantization = kc.Quantization(delay=STEPS, calibration_steps=STEPS)
    return kc.Compress(quantization=quantization, export=given, verbose=0)


@pytest.mark.parametrize(
    ("front", "dtype"),
    [
        *((front, "uint8") for front in (*FRONTS, "Sequential")),
        ("cast", "int32"),
        ("Rescaling", "int32"),
    ],
)
def test_the_file_takes_the_integers_themselves(keras, front, dtype, tmp_path):
    model, x, path = net(keras, front, dtype), pixels(dtype), tmp_path / "net.tflite"
    x[:, 0, 0, 0] = 255  # in every batch, so that the watched range of an int32 ends there too
    compress = quantize(path, inference_input_type="uint8", verify_data=x)
    fit(model, x, compress)  # rehearsed before
    report = compress.report
    assert report.left_out == {}
    assert report.export.error is None
    assert kc.inspect_tflite(path).all_integer
    ops = {op.name for op in kc.inspect_tflite(path).ops}
    assert not ops & {"CAST", "DEQUANTIZE"}
    file = kc.load_tflite(path)
    (image,) = file.inputs
    assert (image.dtype, image.zero_point) == ("uint8", 0)
    assert image.scale == pytest.approx(1.0, rel=1e-6)

    # A camera's bytes, as they are, and what `predict` says of them.
    (scores,) = file.outputs
    raw = file.predict(x.astype("uint8"), raw=True).astype("float32")
    answers = model.predict(x, verbose=0)
    found = (raw - scores.zero_point) * scores.scale
    assert np.abs(found - answers).max() <= 1.01 * scores.scale
    assert max(report.export.largest_steps.values()) <= 1.01
    assert max(report.export.predict_steps.values()) <= 1.01
    assert {each.path for each in report.export.layers} >= {"conv", "scores"}
    assert max(each.largest_steps for each in report.export.layers) <= 1


def test_layers_are_compared_on_the_numbers_that_the_file_took(keras, tmp_path):
    """Which are no whole ones over a range of an int32: cut to integers, they were others."""
    model, x = net(keras, "cast", "int32"), pixels("int32", high=100)
    compress = quantize(tmp_path / "net.tflite", verify_data=x)
    fit(model, x, compress)
    layers = compress.report.export.layers
    assert {each.path for each in layers} >= {"conv", "scores"}
    assert max(each.largest_steps for each in layers) <= 1


def test_rows_that_are_drawn_are_integers_within_the_range(keras, tmp_path):
    model, path = net(keras, "cast", "int32"), tmp_path / "net.tflite"
    asked = []
    original = model.predict

    def predict(x, **arguments):
        asked.append(x)
        return original(x, **arguments)

    vars(model)["predict"] = predict
    compress = quantize(path)
    fit(model, pixels("int32", high=1000) - 300, compress)
    assert compress.report.export.verified_on == "inputs drawn inside the watched ranges"
    assert max(compress.report.export.predict_steps.values()) <= 1.01
    drawn = np.concatenate([np.asarray(tf.nest.flatten(x)[0]) for x in asked])
    assert drawn.dtype == np.int32
    assert -310 <= drawn.min() < -250
    assert 650 < drawn.max() <= 710


def test_a_range_of_bytes_is_theirs_whatever_was_seen(keras, tmp_path):
    """So that no byte of a later picture is cut off, and none is another in the file."""
    model, path = net(keras, "Rescaling", "uint8"), tmp_path / "net.tflite"
    fit(model, pixels(high=100), quantize(path))
    (image,) = kc.load_tflite(path).inputs
    assert (image.dtype, image.scale, image.zero_point) == ("int8", 1.0, -128)
    assert engine_of(model).input_range(0) == (0.0, 255.0)


@pytest.mark.parametrize(("front", "dtype"), [("Rescaling", "uint8"), ("cast", "int32")])
def test_while_watching_the_training_is_that_of_a_plain_fit(keras, front, dtype):
    plain, model = net(keras, front, dtype), net(keras, front, dtype)
    fit(plain, pixels(dtype))
    quantization = kc.Quantization(delay=2 * STEPS, calibration_steps=2 * STEPS)
    fit(model, pixels(dtype), kc.Compress(quantization=quantization, verbose=0))
    for mine, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(slots(model), slots(plain), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    ranges = engine_of(model).quantizers.ranges()
    assert all(tuple(each) != (-6.0, 6.0) for each in ranges.values())
    if dtype == "int32":
        assert ranges["input/0"] == pytest.approx([0, 255], abs=2)


def round_over(model, x):
    """Let a model round over the ranges that numbers have in it."""
    engine = InPlace(adapter_of(model, "test"), model, None, kc.Quantization())
    engine.attach()
    engine.set_phase(Phase.WATCHING)
    with engine.quantizers.training_step():
        model(x, training=True)
    engine.set_phase(Phase.ON)


def test_a_users_floats_are_cut_to_integers_as_without_quantization(keras):
    model, x = net(keras, "cast", "int32"), pixels("int32", high=6)
    round_over(model, x)
    whole = np.asarray(model(x, training=False))
    np.testing.assert_array_equal(np.asarray(model(x + 0.9, training=False)), whole)
    assert np.abs(np.asarray(model(x + 1, training=False)) - whole).max() > 0  # it can differ


def test_strip_gives_the_integers_back(keras):
    model, x = net(keras, "Rescaling", "uint8"), pixels()
    before = model.predict(x, verbose=0)
    round_over(model, x)
    assert np.abs(model.predict(x, verbose=0) - before).max() > 0
    plain = kc.strip(model)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), before)
    assert plain.inputs[0].dtype == "uint8"


@pytest.mark.parametrize(("front", "dtype"), [("Rescaling", "uint8"), ("cast", "int32")])
def test_the_state_is_that_of_the_one_who_saved_it(keras, front, dtype, tmp_path):
    model, x = net(keras, front, dtype), pixels(dtype)
    fit(model, x, quantize())
    kc.save_state(model, tmp_path / "state")
    model.save_weights(tmp_path / "net.weights.h5")
    other = net(keras, front, dtype)
    other.load_weights(tmp_path / "net.weights.h5")
    kc.load_state(other, tmp_path / "state")
    np.testing.assert_array_equal(other.predict(x, verbose=0), model.predict(x, verbose=0))
    assert engine_of(other).input_range(0) == engine_of(model).input_range(0)


def test_a_training_that_is_interrupted_goes_on_as_it_would_have(keras, tmp_path):
    x = pixels("int32")
    whole, first, second = (net(keras, "cast", "int32") for _ in range(3))
    fit(whole, x, quantize(), epochs=4)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(KeyboardInterrupt):
        fit(first, x, backup(), quantize(), Stop(), epochs=4)
    fit(second, x, backup(), quantize(), epochs=4)
    for mine, theirs in zip(second.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert engine_of(second).input_range(0) == engine_of(whole).input_range(0)


def test_files_without_trained_quantization_take_integers_as_before(keras, tmp_path):
    model, x = net(keras, "cast", "uint8"), pixels()
    fit(model, x, quantize())
    path = tmp_path / "float.tflite"
    report = kc.export_tflite(model, kc.Export(path, mode="float32", verify_data=x))
    (image,) = kc.load_tflite(path).inputs
    assert (image.dtype, image.scale) == ("uint8", None)
    assert max(report.largest_steps.values()) < 1e-5


# --- what stays integers


def left_out(keras, inputs, outputs):
    """What stays in float, and the keys of the inputs that are rounded."""
    model = keras.Model(inputs, outputs)
    engine = InPlace(adapter_of(model, "test"), model, None, kc.Quantization())
    engine.attach()
    return engine.left_out["quantization"], engine.quantizers.placement.inputs


def test_integers_that_are_looked_up_too_stay_integers(keras):
    words = keras.Input((7,), dtype="int32")
    looked_up = keras.layers.Flatten()(keras.layers.Embedding(20, 4)(words))
    merged = keras.layers.Concatenate()([cast(keras, words), looked_up])
    reasons, inputs = left_out(keras, words, keras.layers.Dense(3)(merged))
    assert list(reasons.values()) == [f"Cast: {OTHER_INTEGERS}"]
    assert inputs == [None]


def test_what_integer_ops_take_of_a_cast_in_float_is_rounded(keras):
    given = keras.Input((7,), dtype="int32")
    model = keras.Model(given, [keras.layers.Dense(3)(cast(keras, given)), given])
    engine = InPlace(adapter_of(model, "test"), model, None, kc.Quantization())
    engine.attach()
    ranges = [key.partition("/")[2] for key in engine.quantizers.ranges()]
    assert ranges == ["Cast/output", "Dense/output"]


def test_one_layer_on_two_inputs_of_integers_is_left_out(keras):
    one, two = (keras.Input((7,), dtype="uint8", name=name) for name in ("one", "two"))
    shared = keras.layers.Rescaling(1 / 255, name="shared")
    sums = keras.layers.Add()([shared(one), shared(two)])
    reasons, inputs = left_out(keras, [one, two], keras.layers.Dense(3)(sums))
    assert reasons == {"shared": f"Rescaling: {OTHER_INTEGERS}"}
    assert inputs == [None, None]


def test_booleans_stay_what_they_are(keras):
    given = keras.Input((7,), dtype="bool")
    reasons, inputs = left_out(keras, given, keras.layers.Dense(3)(cast(keras, given)))
    assert list(reasons.values()) == [f"Cast: {OTHER_INTEGERS}"]
    assert inputs == [None]


def test_a_cast_to_anything_but_float32_is_refused(keras):
    given = keras.Input((7,), dtype="uint8")
    reasons, inputs = left_out(keras, given, keras.layers.Dense(3)(cast(keras, given, "float64")))
    (reason,) = reasons.values()
    assert inputs == [None]
    assert reason.startswith("Cast: dtype float64 is not float32")


def test_a_cast_that_is_named_and_cannot_be_done_is_refused(keras):
    words = keras.Input((7,), dtype="int32")
    looked_up = keras.layers.Flatten()(keras.layers.Embedding(20, 4)(words))
    rescaled = keras.layers.Rescaling(0.1, name="rescaled")(words)
    merged = keras.layers.Concatenate()([rescaled, looked_up])
    model = keras.Model(words, keras.layers.Dense(3, name="scores")(merged))
    quantization = kc.Quantization(layers=["rescaled", "scores"])
    engine = InPlace(adapter_of(model, "test"), model, None, quantization)
    with pytest.raises(ValueError, match="'rescaled' cannot: Rescaling: it makes floats of"):
        engine.attach()


def test_integers_that_are_given_back_stay_integers(keras):
    given = keras.Input((7,), dtype="int32")
    outputs = [keras.layers.Dense(3)(cast(keras, given)), given]
    reasons, inputs = left_out(keras, given, outputs)
    assert list(reasons.values()) == [f"Cast: {OTHER_INTEGERS}"]
    assert inputs == [None]
