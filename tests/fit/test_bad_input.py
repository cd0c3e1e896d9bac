"""What a user can get wrong: a clear error, before the first step, and the model as it was.

What the specs refuse on their own is in test_specs.py and test_schedules.py.
"""

import dataclasses
import os
import re
import shutil
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from helpers.untouched import untouched

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.tflite.conversion import process
from keras_compress.tuner import sensitivity

pytestmark = pytest.mark.by_turns

ROWS, BATCH = 16, 4  # four updates in an epoch
X = np.random.default_rng(0).uniform(-1, 1, (ROWS, 4)).astype("float32")
Y = np.arange(ROWS) % 3
SCHEDULE = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=3, frequency=1)
PRUNING, QUANTIZATION = kc.Pruning(SCHEDULE), kc.Quantization(delay=2)
LOSS = "sparse_categorical_crossentropy"


def dense_net(keras, layers=(), *, compiled=True, **arguments):
    """An eager net, so that nothing is traced; `layers` stand before its last one."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((4,), name="given"),
            keras.layers.Dense(6, activation="relu", name="first"),
            *layers,
            keras.layers.Dense(3, activation="softmax", name="second"),
        ]
    )
    return compile_net(model, **arguments) if compiled else model


def compile_net(model, **arguments):
    arguments = {"optimizer": "adam", "loss": LOSS, "run_eagerly": True, **arguments}
    model.compile(**arguments)
    return model


def train(model, *callbacks, y=Y, **arguments):
    arguments = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(X, y, callbacks=list(callbacks), **arguments)


def is_exactly(message):
    return f"^{re.escape(message)}$"


def refused(model, compress, message, kind=ValueError, *, corrected=None, **arguments):
    """The fit is refused with that message and left no trace; the corrected one works."""
    with untouched(model), pytest.raises(kind, match=is_exactly(message)):
        train(model, compress, **arguments)
    assert not model.optimizer.iterations.numpy()
    corrected = corrected or kc.Compress(pruning=PRUNING, verbose=0)
    train(model, corrected)
    assert corrected.report.step == 4


# --- Compress itself


def needs(kind):
    return f"must be a {kind} or None"


MADE_WRONG = [
    (
        {},
        ValueError,
        "Compress: one of `pruning`, `quantization` and `export` must be given. "
        "Received: nothing to do",
    ),
    (
        {"partial": True, "verbose": 0},
        ValueError,
        "Compress: one of `pruning`, `quantization` and `export` must be given. "
        "Received: nothing to do",
    ),
    (
        {"pruning": 0.5},
        TypeError,
        "Compress: `pruning` must be a Pruning or None. Received: pruning=0.5",
    ),
    (
        {"pruning": SCHEDULE},
        TypeError,
        f"Compress: `pruning` must be a Pruning or None. Received: pruning={SCHEDULE!r}",
    ),
    (
        {"quantization": 8},
        TypeError,
        "Compress: `quantization` must be a Quantization or None. Received: quantization=8",
    ),
    (
        {"quantization": PRUNING},
        TypeError,
        "Compress: `quantization` must be a Quantization or None. "
        f"Received: quantization={PRUNING!r}",
    ),
    (
        {"export": "net.tflite"},
        TypeError,
        "Compress: `export` must be an Export or None. Received: export='net.tflite'",
    ),
    (
        {"pruning": PRUNING, "partial": 1},
        TypeError,
        "Compress: `partial` must be True or False. Received: partial=1",
    ),
    (
        {"pruning": PRUNING, "reset_best": 0},
        TypeError,
        "Compress: `reset_best` must be True or False. Received: reset_best=0",
    ),
    (
        {"pruning": PRUNING, "verbose": True},
        TypeError,
        "Compress: `verbose` must be an int >= 0. Received: verbose=True",
    ),
    (
        {"pruning": PRUNING, "verbose": -1},
        ValueError,
        "Compress: `verbose` must be an int >= 0. Received: verbose=-1",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), MADE_WRONG)
def test_a_callback_made_wrong_is_refused_when_it_is_made(arguments, kind, message):
    with pytest.raises(kind, match=is_exactly(message)):
        kc.Compress(**arguments)


def test_nothing_may_be_positional():
    with pytest.raises(TypeError, match="positional argument"):
        kc.Compress(PRUNING)


def test_a_hook_called_by_hand_is_refused(keras):
    model, compress = dense_net(keras), kc.Compress(pruning=PRUNING)
    compress.set_model(model)
    message = (
        "Compress: must stand in the `callbacks` of a `fit`, whose list calls it. "
        "Received: a call from elsewhere"
    )
    with untouched(model), pytest.raises(RuntimeError, match=is_exactly(message)):
        compress.on_train_begin()


# --- the model


def test_a_model_that_is_not_compiled_is_refused_by_keras_itself(keras):
    model = dense_net(keras, compiled=False)
    kind, message = {
        "keras": (ValueError, "You must call `compile()` before using the model."),
        "tf_keras": (
            RuntimeError,
            "You must compile your model before training/testing. "
            "Use `model.compile(optimizer, loss)`.",
        ),
    }[keras.__name__]
    with untouched(model), pytest.raises(kind, match=is_exactly(message)):
        train(model, kc.Compress(pruning=PRUNING))
    compress = kc.Compress(pruning=PRUNING)
    train(compile_net(model), compress)
    assert compress.report.step == 4


def test_what_needs_no_optimizer_needs_no_compiled_model(keras, tmp_path):
    trained = dense_net(keras)
    train(trained, kc.Compress(pruning=PRUNING, quantization=QUANTIZATION, verbose=0))
    kc.save_state(trained, tmp_path / "state.npz")
    model = dense_net(keras, compiled=False)
    model.set_weights(trained.get_weights())
    plain = kc.strip(model)
    np.testing.assert_array_equal(plain.predict(X, verbose=0), model.predict(X, verbose=0))
    kc.load_state(model, tmp_path / "state.npz")
    np.testing.assert_array_equal(model.predict(X, verbose=0), trained.predict(X, verbose=0))
    report = kc.export_tflite(model, kc.Export(tmp_path / "net.tflite"))
    assert report.written
    assert not report.float_ops


@pytest.fixture(scope="module")
def subclass(keras):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = keras.layers.Dense(6, activation="relu")
            self.second = keras.layers.Dense(3, activation="softmax")

        def call(self, x):
            return self.second(self.first(x))

    return Subclassed


def test_a_subclassed_model_that_the_data_of_the_fit_cannot_build_is_refused(keras, subclass):
    model, compress = compile_net(subclass()), kc.Compress(pruning=PRUNING, verbose=0)
    ragged = tf.data.Dataset.from_tensor_slices((tf.ragged.constant([[0.5] * 4] * 8), Y[:8]))
    message = (
        "Compress: the model must be built; a subclassed one is built by calling it on a batch of "
        "data. Received: model=Subclassed without weights"
    )
    with pytest.raises(ValueError, match=is_exactly(message)):
        model.fit(ragged.batch(4), verbose=0, shuffle=False, callbacks=[compress])
    assert kc.compression_of(model) is None
    train(model, compress)
    assert compress.report.step == 4


def test_a_subclassed_model_that_was_not_built_has_no_file(keras, subclass, tmp_path):
    message = (
        "Export: the model must be built, so that its inputs are known; a subclassed one is by "
        "calling it on a batch of data, as one argument. Received: model=Subclassed"
    )
    with pytest.raises(ValueError, match=is_exactly(message)):
        kc.export_tflite(subclass(), kc.Export(tmp_path / "net.tflite", mode="float32"))


def test_a_free_dimension_has_no_file(keras, tmp_path):
    given = keras.layers.Input((None, 4), name="given")
    x = keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling1D()(given))
    model = compile_net(keras.Model(given, x))
    export = kc.Export(tmp_path / "net.tflite", mode="float32")
    message = (
        "Export: every dimension of an input but the batch must be fixed; give its shape with "
        "`input_shape={'given': shape}`. Received: input 'given' of shape (None, None, 4)"
    )
    compress = kc.Compress(pruning=PRUNING, export=export)
    with untouched(model), pytest.raises(ValueError, match=is_exactly(message)):
        model.fit(X[:, None], Y, callbacks=[compress], verbose=0)
    assert not model.optimizer.iterations.numpy()


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("verb", ["fit", "strip", "export_tflite", "save_state", "load_state"])
def test_another_backend_is_refused(backend, verb, monkeypatch, tmp_path):
    import keras

    model = dense_net(keras)
    verbs = {
        "fit": lambda: train(model, kc.Compress(pruning=PRUNING)),
        "strip": lambda: kc.strip(model),
        "export_tflite": lambda: kc.export_tflite(model, kc.Export(tmp_path / "net.tflite")),
        "save_state": lambda: kc.save_state(model, tmp_path / "state.npz"),
        "load_state": lambda: kc.load_state(model, tmp_path / "state.npz"),
    }
    owner = "Compress" if verb == "fit" else verb
    message = (
        f"{owner}: the model must run on the TensorFlow backend, because it ends as a TFLite file; "
        "set KERAS_BACKEND=tensorflow before importing keras. "
        f"Received: backend={backend!r}"
    )
    with untouched(model), monkeypatch.context() as patched:
        patched.setattr(keras.backend, "backend", lambda: backend)
        with pytest.raises(TypeError, match=is_exactly(message)):
            verbs[verb]()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("thing", [None, 3, tf.Module(), np.ones(3)], ids=lambda thing: type(thing))
def test_what_is_no_model_is_refused(thing, tmp_path):
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    export = kc.Export(tmp_path / "net.tflite")
    for owner, verb in (
        ("strip", kc.strip),
        ("compression_of", kc.compression_of),
        ("export_tflite", lambda thing: kc.export_tflite(thing, export)),
        ("compare", lambda thing: kc.compare(thing, data=[])),
        ("sensitivity", lambda thing: sensitivity(thing, [], [])),
    ):
        message = (
            f"{owner}: the model must be a Keras 3 or tf_keras model. "
            f"Received: model of class {kind}"
        )
        with pytest.raises(TypeError, match=is_exactly(message)):
            verb(thing)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(keras, value):
    model = dense_net(keras)
    weights = model.get_weights()
    sound = [weight.copy() for weight in weights]
    weights[2][1, 2] = value
    model.set_weights(weights)
    kernel = model.get_layer("second").kernel
    name = kernel.path if keras.__name__ == "keras" else kernel.name
    assert "second/kernel" in name
    message = (
        "Compress: the weights must be finite; training went wrong before this fit. "
        f"Received: {name} with NaN or infinite values"
    )
    with untouched(model), pytest.raises(ValueError, match=is_exactly(message)):
        train(model, kc.Compress(pruning=PRUNING))
    model.set_weights(sound)
    compress = kc.Compress(pruning=PRUNING)
    train(model, compress)
    assert compress.report.step == 4


# --- metrics that bear a name of ours


def metric_function(name):
    def metric(y_true, y_pred):
        return y_pred[:, 0]

    metric.__name__ = name
    return metric


def metric_object(keras, name):
    return keras.metrics.SparseCategoricalAccuracy(name=name)


METRICS = {
    "object": lambda keras, name: {"metrics": [metric_object(keras, name)]},
    "function": lambda keras, name: {"metrics": ["accuracy", metric_function(name)]},
    "weighted": lambda keras, name: {"weighted_metrics": [metric_function(name)]},
    "of an output": lambda keras, name: {"metrics": {"second": [metric_object(keras, name)]}},
    "function of an output": lambda keras, name: {"metrics": {"second": metric_function(name)}},
}


@pytest.mark.parametrize("name", ["sparsity", "quantized"])
@pytest.mark.parametrize("form", METRICS)
def test_a_metric_with_a_name_of_our_logs_is_refused(keras, form, name):
    model = dense_net(keras, **METRICS[form](keras, name))
    with untouched(model), pytest.raises(ValueError, match=r"^Compress: a metric ") as caught:
        train(model, kc.Compress(pruning=PRUNING))
    start, _, listed = str(caught.value).partition(" Received: metrics=")
    assert start == f"Compress: a metric must not be named {name!r}, which is a log of ours."
    assert repr(name) in listed
    assert not model.optimizer.iterations.numpy()
    compile_net(model, metrics=["accuracy"])
    compress = kc.Compress(pruning=PRUNING)
    history = train(model, compress).history
    assert history["sparsity"][0] > 0


@pytest.mark.parametrize("name", ["sparsity", "quantized"])
def test_a_log_with_a_name_of_ours_is_refused(keras, name):
    class Told(keras.Sequential):
        def train_step(self, data):
            return {**super().train_step(data), name: tf.constant(7.0)}

    model = Told([keras.layers.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    compile_net(model, run_eagerly=False, jit_compile=False)
    message = rf"must leave the names .* call yours otherwise. Received: logs named \['{name}'\]"
    with pytest.raises(ValueError, match=message):
        train(model, kc.Compress(pruning=PRUNING))
    assert not model.optimizer.iterations.numpy()


def test_a_metric_that_the_model_brings_along_is_found(keras, subclass):
    class Own(subclass):
        def __init__(self):
            super().__init__()
            self.own = keras.metrics.Mean(name="quantized")

        @property
        def metrics(self):
            return [self.own]

    model = compile_net(Own())
    model(X[:1])
    message = (
        "Compress: a metric must not be named 'quantized', which is a log of ours. "
        "Received: metrics=['quantized']"
    )
    with untouched(model), pytest.raises(ValueError, match=is_exactly(message)):
        train(model, kc.Compress(pruning=PRUNING))


# --- specs that do not fit the model or the fit

PATHS = "['first', 'second']"

UNFIT = [
    pytest.param(
        {"pruning": kc.Pruning(SCHEDULE, layers=["third"])},
        f"Pruning: `layers` must name layers of the model; it has {PATHS}. "
        "Received: layers containing 'third'",
        id="unknown-layer",
    ),
    pytest.param(
        {"pruning": kc.Pruning(None, layers={"third": SCHEDULE})},
        f"Pruning: `layers` must name layers of the model; it has {PATHS}. "
        "Received: layers containing 'third'",
        id="unknown-layer-with-a-schedule",
    ),
    pytest.param(
        {"pruning": PRUNING, "quantization": kc.Quantization(layers=["third"])},
        f"Quantization: `layers` must name layers of the model; it has {PATHS}. "
        "Received: layers containing 'third'",
        id="unknown-layer-to-quantize",
    ),
    pytest.param(
        {"quantization": kc.Quantization(delay=5)},
        "Compress: the delay must be reached within this fit, which ends at update 4; train "
        "longer, use fractions, or say `partial=True` for a plan over several fits. "
        "Received: step 5",
        id="delay-beyond-the-fit",
    ),
    pytest.param(
        {"pruning": kc.Pruning(dataclasses.replace(SCHEDULE, end_step=2000))},
        "Compress: the final sparsity must be reached within this fit, which ends at update 4; "
        "train longer, use fractions, or say `partial=True` for a plan over several fits. "
        "Received: step 2000",
        id="sparsity-beyond-the-fit",
    ),
    pytest.param(
        {"pruning": kc.Pruning(kc.ConstantSparsity(target_sparsity=0.5, begin_step=0))},
        "Compress: the final sparsity must be reached within this fit, which ends at update 4; "
        "train longer, use fractions, or say `partial=True` for a plan over several fits. "
        "Received: step 100",
        id="first-mask-beyond-the-fit",
    ),
    pytest.param(
        {"quantization": kc.Quantization(delay=2, freeze_step=5)},
        "Compress: freeze_step must be reached within this fit, which ends at update 4; train "
        "longer, use fractions, or say `partial=True` for a plan over several fits. "
        "Received: step 5",
        id="freeze-beyond-the-fit",
    ),
    pytest.param(
        {"quantization": kc.Quantization(freeze_step=0)},
        "Quantization: `freeze_step` must lie after the delay, or `calibration_steps` be above 0 "
        "and the delay too, or no update would set the ranges. "
        "Received: freeze_step=0, delay=0, calibration_steps=200",
        id="frozen-from-the-start",
    ),
    pytest.param(
        {"quantization": kc.Quantization(delay=2, calibration_steps=0, freeze_step=2)},
        "Quantization: `freeze_step` must lie after the delay, or `calibration_steps` be above 0 "
        "and the delay too, or no update would set the ranges. "
        "Received: freeze_step=2, delay=2, calibration_steps=0",
        id="frozen-before-any-update-follows",
    ),
    pytest.param(
        {"quantization": kc.Quantization(delay=0.75, freeze_step=2)},
        "Quantization: `freeze_step` must be at least `delay`. "
        "Received: freeze_step=2, delay=0.75 (step 3)",
        id="out-of-order-once-resolved",
    ),
    pytest.param(
        {"pruning": kc.Pruning(dataclasses.replace(SCHEDULE, begin_step=3, end_step=0.5))},
        "PolynomialDecay: `begin_step` must be less than `end_step`. "
        "Received: begin_step=3, end_step=0.5 (step 2)",
        id="schedule-out-of-order-once-resolved",
    ),
]


@pytest.mark.parametrize(("specs", "message"), UNFIT)
def test_specs_that_do_not_fit_are_refused_before_the_first_step(keras, specs, message):
    refused(dense_net(keras), kc.Compress(**specs), message)


def test_an_ambiguous_name_is_refused(keras):
    def part(name):
        layers = [keras.layers.Input((4,)), keras.layers.Dense(4, name="inner")]
        return keras.Sequential(layers, name=name)

    model = dense_net(keras, [keras.layers.Dense(4, name="narrow"), part("one"), part("other")])
    refused(
        model,
        kc.Compress(pruning=kc.Pruning(SCHEDULE, layers=["inner"])),
        "Pruning: `layers` must name one layer each; 'inner' is ambiguous, write one of the paths "
        "['one/inner', 'other/inner']. Received: layers containing 'inner'",
    )


def test_the_second_of_two_that_differ_leaves_no_trace_of_the_first(keras):
    model = dense_net(keras)
    other = kc.Compress(pruning=PRUNING, quantization=QUANTIZATION)
    message = (
        "Compress: one callback must have all specs; write `Compress(pruning=..., "
        f"quantization=...)` in the place of two. Received: quantization={QUANTIZATION!r} in a "
        "list with another Compress"
    )
    with untouched(model), pytest.raises(ValueError, match=is_exactly(message)):
        train(model, kc.Compress(pruning=PRUNING), other)
    train(model, other)
    assert other.report.step == 4


def test_a_fit_without_an_epoch_is_refused(keras):
    model = dense_net(keras)
    message = (
        "Compress: the delay must be reached within this fit, which ends at update 0; train "
        "longer, use fractions, or say `partial=True` for a plan over several fits. "
        "Received: step 2"
    )
    with untouched(model), pytest.raises(ValueError, match=is_exactly(message)):
        train(model, kc.Compress(quantization=QUANTIZATION), epochs=3, initial_epoch=3)


# --- exports


def test_a_missing_folder_is_refused(keras, tmp_path):
    path = str(tmp_path / "missing" / "net.tflite")
    message = f"Export: `path` must be in a folder that exists. Received: path={path!r}"
    compress = kc.Compress(pruning=PRUNING, export=kc.Export(path, mode="float32"))
    refused(dense_net(keras), compress, message)


def test_a_file_in_the_place_of_the_folder_is_refused(keras, tmp_path):
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "net.tflite")
    message = (
        "Export: `path` must be in a folder, and what should be one is a file. "
        f"Received: path={path!r}"
    )
    compress = kc.Compress(pruning=PRUNING, export=kc.Export(path, mode="float32"))
    refused(dense_net(keras), compress, message)


def test_a_folder_in_the_place_of_the_file_is_refused(keras, tmp_path):
    path = str(tmp_path / "net.tflite")
    os.mkdir(path)
    message = (
        "Export: `path` must be the path of a file, and a folder has this name. "
        f"Received: path={path!r}"
    )
    refused(dense_net(keras), kc.Compress(export=kc.Export(path, mode="float32")), message)


def test_a_folder_that_refuses_files_is_refused(keras, tmp_path, monkeypatch):
    def refuse(dir):
        raise OSError(30, "Read-only file system", dir)

    # Not by taking permissions away: root, whom containers run tests as, needs none.
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    path = str(tmp_path / "net.tflite")
    message = (
        "Export: `path` must be in a folder that can be written to (Read-only file system). "
        f"Received: path={path!r}"
    )
    compress = kc.Compress(pruning=PRUNING, export=kc.Export(path, mode="float32"))
    refused(dense_net(keras), compress, message)


@pytest.mark.parametrize("pruning", [PRUNING, None], ids=["pruned", "plain"])
def test_integers_need_quantization_or_data(keras, pruning, tmp_path):
    export = kc.Export(tmp_path / "net.tflite")
    message = (
        "Export: `representative_dataset` must be given in mode 'int8' without `quantization`, to "
        "calibrate the ranges with, or `default_ranges_stats` as a guess. "
        "Received: representative_dataset=None"
    )
    model = dense_net(keras)
    refused(model, kc.Compress(pruning=pruning, export=export), message)
    with pytest.raises(ValueError, match=is_exactly(message)):
        kc.export_tflite(model, export)


def test_before_the_delay_there_are_no_ranges_to_export(keras, tmp_path):
    model = dense_net(keras)
    train(model, kc.Compress(quantization=kc.Quantization(delay=10), partial=True, verbose=0))
    message = (
        "Export: `mode` must be 'float32' before the delay is reached, or `representative_dataset` "
        "be given. Received: mode='int8' at step 4 of delay=10"
    )
    with pytest.raises(ValueError, match=is_exactly(message)):
        kc.export_tflite(model, kc.Export(tmp_path / "net.tflite"))


def dataset(array, batch):
    return tf.data.Dataset.from_tensor_slices(array).batch(batch)


def late_nan():
    array = np.ones((300, 4), "float32")
    array[299, 1] = np.nan
    return array


FOR_GIVEN = "for the input 'given'"

DATA = [
    pytest.param(
        np.ones((10, 7), "float32"),
        ValueError,
        f"data of shape ('rows', 4) {FOR_GIVEN}",
        "(10, 7)",
        id="shape",
    ),
    pytest.param(
        dataset(np.ones((10, 2, 4), "float32"), 5),
        ValueError,
        f"data of shape ('rows', 4) {FOR_GIVEN}",
        "(5, 2, 4)",
        id="shape-of-a-dataset",
    ),
    pytest.param(
        np.full((10, 4), "0.5"),
        ValueError,
        f"numbers {FOR_GIVEN}",
        "'ndarray of dtype <U3'",
        id="strings",
    ),
    pytest.param(
        np.ones((10, 4), complex),
        ValueError,
        f"numbers {FOR_GIVEN}",
        "'ndarray of dtype complex128'",
        id="complex",
    ),
    pytest.param(late_nan(), ValueError, f"finite {FOR_GIVEN}", "'1 NaN or infinite'", id="nan"),
    pytest.param(
        dataset(late_nan(), 10),
        ValueError,
        f"finite {FOR_GIVEN}",
        "'1 NaN or infinite'",
        id="nan-late-in-a-dataset",
    ),
    pytest.param(
        np.ones((0, 4), "float32"),
        ValueError,
        "data with at least one row",
        "'no rows'",
        id="empty",
    ),
    pytest.param(
        dataset(np.ones((4, 4), "float32"), 2).take(0),
        ValueError,
        "data with at least one row",
        "'no rows'",
        id="empty-dataset",
    ),
    pytest.param(
        lambda: iter(()), ValueError, "data with at least one row", "'no rows'", id="empty-callable"
    ),
    pytest.param(
        lambda: 3,
        TypeError,
        "a callable that returns an iterable of batches or samples",
        "'int'",
        id="callable-of-a-number",
    ),
    pytest.param(
        {"taken": np.ones((10, 4), "float32")},
        ValueError,
        "an array for the input 'given', or a dict with this name",
        "['taken']",
        id="name",
    ),
    pytest.param(
        [np.ones((10, 4)), np.ones((10, 4))],
        ValueError,
        "an array for the input 'given', or a dict with this name",
        "'list of 2'",
        id="two-for-one",
    ),
]


@pytest.mark.parametrize("field", ["representative_dataset", "verify_data"])
@pytest.mark.parametrize(("data", "kind", "rule", "received"), DATA)
def test_data_that_does_not_fit_is_refused(keras, field, data, kind, rule, received, tmp_path):
    mode = "int8" if field == "representative_dataset" else "float32"
    if field == "verify_data" and received == "'1 NaN or infinite'":
        data = data if isinstance(data, np.ndarray) else data.skip(25)  # it reads fewer rows
    export = kc.Export(tmp_path / "net.tflite", mode=mode, **{field: data})
    message = f"Export: `{field}` must be {rule}. Received: {field}={received}"
    refused(dense_net(keras), kc.Compress(pruning=PRUNING, export=export), message, kind)
    assert not os.listdir(tmp_path)


def test_fractions_for_an_input_of_integers_are_refused(keras, tmp_path):
    model = keras.Sequential(
        [
            keras.layers.Input((4,), dtype="int32", name="given"),
            keras.layers.Embedding(5, 2),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    export = kc.Export(tmp_path / "net.tflite", representative_dataset=X)
    message = (
        "Export: `representative_dataset` must be integers for the input 'given' (int32). "
        "Received: representative_dataset='float32'"
    )
    compile_net(model)
    compress = kc.Compress(pruning=PRUNING, export=export)
    with untouched(model), pytest.raises(ValueError, match=is_exactly(message)):
        model.fit(np.ones((4, 4), "int32"), Y[:4], callbacks=[compress], verbose=0)


def test_a_generator_object_is_refused_when_the_spec_is_made():
    generator = (row for row in X)
    message = (
        "Export: `representative_dataset` must be array(s), a tf.data.Dataset, the path of a .npz "
        "file or a callable without arguments that returns an iterable. "
        f"Received: representative_dataset={generator!r} "
        "(a generator can be neither copied nor read twice: pass the function that makes it)"
    )
    with pytest.raises(TypeError, match=is_exactly(message)):
        kc.Export("net.tflite", representative_dataset=generator)


def test_a_file_of_data_that_is_not_there_is_refused(keras, tmp_path):
    path = str(tmp_path / "data.npz")
    export = kc.Export(tmp_path / "net.tflite", representative_dataset=path)
    message = (
        "Export: `representative_dataset` must be the path of a file that exists. "
        f"Received: representative_dataset={path!r}"
    )
    refused(dense_net(keras), kc.Compress(pruning=PRUNING, export=export), message)


def test_a_file_of_other_data_is_refused(keras, tmp_path):
    np.savez(tmp_path / "data.npz", one=X, other=X)
    export = kc.Export(tmp_path / "net.tflite", representative_dataset=tmp_path / "data.npz")
    message = (
        "Export: `representative_dataset` must be an array for the input 'given', or a dict with "
        "this name. Received: representative_dataset=['one', 'other']"
    )
    refused(dense_net(keras), kc.Compress(pruning=PRUNING, export=export), message)


# --- float ops


def bent(keras):
    """Two layers that neither the placement table nor the table of ops knows."""
    layers = keras.layers
    return [
        layers.Lambda(lambda x: tf.sqrt(tf.abs(x) + 1.0), name="bent"),
        layers.Lambda(lambda x: x / (tf.abs(x) + 1.0), name="scaled"),
    ]


FLOAT_OPS = (
    "Export: `allow_float_ops` must be True for an integer file of this model, whose layers would "
    "not all be rounded in the training: bent (Lambda is not in the placement table; inside: "
    "TensorFlow's Sqrt: LiteRT has no integer kernel for it); scaled (Lambda is not in the "
    "placement table; inside: TensorFlow's RealDiv: LiteRT has no integer division but by a "
    "number; multiply by the reciprocal). The file would compute in float: ABS of 'bent', "
    "ADD of 'bent', SQRT of 'bent', ABS of 'scaled', ADD of 'scaled', DIV of 'scaled'. What can be "
    "done: leave them out by `Quantization(layers=...)`; say `Export(allow_float_ops=True)`; or "
    "give no `quantization`, and `Export(representative_dataset=...)`, which quantizes after the "
    "training. Received: allow_float_ops=False"
)


def test_float_ops_are_refused_before_the_first_step_naming_the_layers(keras, tmp_path):
    export = kc.Export(tmp_path / "net.tflite")
    compress = kc.Compress(quantization=QUANTIZATION, export=export)
    refused(dense_net(keras, bent(keras)), compress, FLOAT_OPS)
    assert not os.listdir(tmp_path)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("way", ["allowed", "left out"])
def test_float_ops_that_are_meant_are_written(keras, way, tmp_path):
    export = kc.Export(tmp_path / "net.tflite", allow_float_ops=way == "allowed")
    layers = ["first", "second"] if way == "left out" else None
    quantization = kc.Quantization(delay=2, layers=layers)
    compress = kc.Compress(quantization=quantization, export=export)
    train(dense_net(keras, bent(keras)), compress)
    assert compress.report.export.error is None
    assert sorted(os.listdir(tmp_path)) == ["net.tflite", "net.tflite.json"]
    assert compress.report.export.float_ops
    assert set(compress.report.left_out["quantization"]) == {"bent", "scaled"}


# --- a Sequential that has no shapes before its first batch


def without_shapes(keras, layers=(), **arguments):
    keras.utils.set_random_seed(0)
    first = keras.layers.Dense(6, activation="relu", name="first")
    last = keras.layers.Dense(3, activation="softmax", name="second")
    return compile_net(keras.Sequential([first, *layers, last]), jit_compile=False, **arguments)


LATE = [
    pytest.param(
        {"pruning": kc.Pruning(SCHEDULE, layers=["third"])}, UNFIT[0].values[1], id="unknown-layer"
    ),
    pytest.param(
        {"pruning": PRUNING, "quantization": kc.Quantization(layers=["third"])},
        UNFIT[2].values[1],
        id="unknown-layer-to-quantize",
    ),
    pytest.param(UNFIT[4].values[0], UNFIT[4].values[1], id="sparsity-beyond-the-fit"),
    pytest.param(UNFIT[3].values[0], UNFIT[3].values[1], id="delay-beyond-the-fit"),
]


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize(("specs", "message"), LATE)
def test_a_model_without_shapes_is_refused_before_its_first_update(keras, specs, message, eager):
    model = without_shapes(keras, run_eagerly=eager)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        train(model, kc.Compress(**specs))
    if eager or keras.__name__ == "keras":  # autograph of tf_keras puts a traceback before it
        assert str(caught.value) == message
    assert kc.compression_of(model) is None
    assert not model.optimizer.iterations.numpy()
    assert_plain_and_trains(model)


@pytest.mark.parametrize("subclassed", [True, False])
@pytest.mark.parametrize(("delay", "eager"), [(0, False), (2, False), (2, True)])
def test_a_step_that_does_not_call_the_model_is_refused(keras, subclassed, delay, eager):
    """Nothing would be rounded, or not what the file rounds, and no range of its input followed."""

    class ByItsPart(keras.Model):
        def __init__(self, part=None, **kwargs):
            super().__init__(**kwargs)
            if part is not None:
                self.part = part

        def call(self, x, training=False):
            return self.part(x, training=training) if subclassed else super().call(x, training)

        def train_step(self, data):
            x, y = data
            part = self.part if subclassed else self.get_layer("part")
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, part(x)))
            variables = self.trainable_variables
            self.optimizer.apply_gradients(
                zip(tape.gradient(loss, variables), variables, strict=True)
            )
            return {"loss": loss}

    def made():
        part = keras.Sequential(
            [keras.layers.Input((4,)), keras.layers.Dense(3, activation="softmax")], name="part"
        )
        given = keras.Input((4,))
        model = ByItsPart(part) if subclassed else ByItsPart(inputs=given, outputs=part(given))
        model(X[:1])
        how = {} if eager else {"run_eagerly": False, "jit_compile": False}
        return compile_net(model, **how)

    model = made()
    before = model.get_weights()
    message = "`train_step` must call the model itself.*Received: a step of ByItsPart"
    with pytest.raises(ValueError, match=message):
        train(model, kc.Compress(quantization=kc.Quantization(delay=delay)))
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    train(made(), kc.Compress(pruning=PRUNING))  # whose masks are on the weights


def train_and_set(keras, model, trainable):
    """Two epochs, between which somebody sets `trainable` of the first layer; the switch is in the
    second.
    """

    class Set(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_layer("first").trainable = trainable

    train(model, Set(), kc.Compress(quantization=kc.Quantization(delay=6)), epochs=2)


def test_what_thaws_without_compile_is_an_error_in_words(keras):
    """The step is traced anew at the switch, of an optimizer that knows nothing of it."""
    model = dense_net(keras, compiled=False)
    model.get_layer("first").trainable = False
    compile_net(model, run_eagerly=False, jit_compile=False)
    with pytest.raises(ValueError, match=r"holds from the next `compile` on.*Received: .*first"):
        train_and_set(keras, model, True)


def test_what_freezes_without_compile_is_told(keras, caplog):
    model = dense_net(keras, run_eagerly=False, jit_compile=False)
    train_and_set(keras, model, False)
    (told,) = [r.getMessage() for r in caplog.records if "`trainable`" in r.getMessage()]
    assert "first/kernel" in told


def assert_plain_and_trains(model):
    assert not {"train_step", "fit", "call"} & set(vars(model))
    compress = kc.Compress(pruning=PRUNING, quantization=QUANTIZATION, verbose=0)
    train(model, compress)
    assert compress.report.step == 4
    assert compress.report.switched_at == 3


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("place", [0, 1])
def test_float_ops_of_a_model_without_shapes_are_refused_too(keras, place, tmp_path):
    model = without_shapes(keras, bent(keras))
    charge = kc.Compress(quantization=QUANTIZATION)
    fine = kc.Compress(export=kc.Export(tmp_path / "fine.tflite", mode="float32"))
    integers = kc.Compress(export=kc.Export(tmp_path / "net.tflite"))
    joining = [fine, integers] if place else [integers, fine]  # each of them is looked at
    with pytest.raises(ValueError, match=is_exactly(FLOAT_OPS)):
        train(model, charge, *joining)
    assert not model.optimizer.iterations.numpy()
    assert kc.compression_of(model) is None
    assert_plain_and_trains(model)


def test_an_export_alone_of_a_model_without_shapes_is_none_of_these(keras, tmp_path):
    compress = kc.Compress(export=kc.Export(tmp_path / "net.tflite", mode="float32"))
    train(without_shapes(keras), compress)
    assert compress.report.export.error is None
    assert compress.report.export.written


# --- an export that fails costs nothing but the file


def killed(monkeypatch):
    run = process.Worker.run

    def die(self, *arguments):
        self.process.kill()
        return run(self, *arguments)

    monkeypatch.setattr(process.Worker, "run", die)


def gone(keras, folder):
    class Remove(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            shutil.rmtree(folder)

    return Remove()


FAILURES = {
    "killed": (
        "ConversionError: The TFLite conversion failed: the converter process was killed by "
        "SIGKILL. Most likely the memory ran out: close other programs or export a smaller model"
    ),
    "too slow": (
        "ConversionError: The TFLite conversion failed: it took longer than 0.001 seconds. "
        "Give it more with `timeout`, or export a smaller model"
    ),
    "folder gone": (
        "ValueError: Export: `path` must be in a folder that exists. Received: path={path!r}"
    ),
}


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failing_export_costs_nothing_but_the_file(keras, failure, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / "net.tflite"
    path.write_bytes(b"an older file")
    model = dense_net(keras)
    timeout = 0.001 if failure == "too slow" else 600
    export = kc.Export(path, timeout=timeout, rehearse=False)  # which would find it before
    compress = kc.Compress(pruning=PRUNING, quantization=QUANTIZATION, export=export)
    others = [gone(keras, folder)] if failure == "folder gone" else []
    with monkeypatch.context() as patched:
        if failure == "killed":
            killed(patched)
        history = train(model, compress, *others)
    assert len(history.history["loss"]) == 1
    error = FAILURES[failure].format(path=str(path))
    report = compress.report
    assert (report.step, report.phase, report.missed) == (4, "on", [])
    assert report.export.error == error
    assert not report.export.written
    assert f"{path}: not written, {error}" in str(report)
    assert f"No file at {path}: {error.partition(': ')[2]}" in caplog.messages
    if failure == "folder gone":
        folder.mkdir()
    else:
        assert os.listdir(folder) == ["net.tflite"]
        assert path.read_bytes() == b"an older file"
    # The model is trained, quantized and whole, and the export may be called again.
    assert engine_of(model).step == 4
    assert compress.stripped_model is not None
    again = kc.export_tflite(model, dataclasses.replace(export, timeout=600))
    assert again.written
    assert again.bytes == path.stat().st_size
    assert sorted(os.listdir(folder)) == ["net.tflite", "net.tflite.json"]
    answers = kc.load_tflite(path).predict(X)
    assert np.mean(answers.argmax(-1) == model.predict(X, verbose=0).argmax(-1)) > 0.9
