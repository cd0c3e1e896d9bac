"""Bad input: one clear error, before the first step where it can be known, and nothing lost.

What the specs refuse at construction is in `test_specs.py` and `test_schedules.py`, names of layers
in `test_selection.py`, plans that do not fit a fit in `test_plan_over_fits.py`.
"""

import re

import numpy as np
import pytest
from conftest import small_net

import keras_compress as kc
from keras_compress.engines.base import engine_of

PRUNING = kc.Pruning(kc.ConstantSparsity(target_sparsity=0.5, begin_step=1))
INT8 = {"quantization": kc.Quantization(delay=0.5)}


def refused(model, compress, x, y, error=ValueError, **arguments):
    """The message of a `fit` that raises before its first update, and leaves a plain model."""
    before = model.get_weights() if model.built else None
    with pytest.raises(error) as caught:
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[compress], **arguments)
    assert engine_of(model) is None
    if before is not None:
        for one, other in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, other)
    assert compress.report is None
    return str(caught.value)


@pytest.fixture
def data(digits):
    return digits[0][:64], digits[1][:64]


def fits_after(model, data):
    """The refusal left nothing behind: a plan that is right trains."""
    compress = kc.Compress(pruning=PRUNING)
    model.fit(*data, batch_size=16, verbose=0, callbacks=[compress])
    assert compress.report.sparsity == pytest.approx(0.5, abs=0.02)


# --- Compress itself


def test_nothing_to_do():
    with pytest.raises(ValueError, match="^Compress: ") as caught:
        kc.Compress()
    assert str(caught.value) == (
        "Compress: one of `pruning`, `quantization` and `export` must be given. "
        "Received: nothing to do"
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pruning", "Pruning"), ("quantization", "Quantization"), ("export", "Export")],
)
def test_a_spec_of_the_wrong_type(name, kind):
    with pytest.raises(TypeError) as caught:
        kc.Compress(**{name: 0.5})
    assert str(caught.value) == f"Compress: `{name}` must be a {kind} or None. Received: {name}=0.5"


@pytest.mark.parametrize(("name", "value"), [("partial", 1), ("verbose", True)])
def test_flags_of_the_wrong_type(name, value):
    rule = "True or False" if name == "partial" else "an int >= 0"
    with pytest.raises(TypeError) as caught:
        kc.Compress(pruning=PRUNING, **{name: value})
    assert str(caught.value) == f"Compress: `{name}` must be {rule}. Received: {name}={value!r}"


# --- the model


def test_an_uncompiled_model_is_refused_by_keras_itself(keras, data):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    refused(model, kc.Compress(pruning=PRUNING), *data, error=(ValueError, RuntimeError))


def test_an_unbuilt_subclassed_model(data):
    """tf_keras only: Keras 3 has built it before any callback is asked."""
    import tf_keras

    class Net(tf_keras.Model):
        def call(self, inputs):
            return inputs

    model = Net()
    model.compile("sgd", "mse")
    assert refused(model, kc.Compress(pruning=PRUNING), *data) == (
        "Compress: the model must be built; a subclassed one is built by calling it on a batch of "
        "data. Received: model=Net without weights"
    )


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend(backend, data, monkeypatch):
    import keras

    model = small_net(keras)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    compress = kc.Compress(pruning=PRUNING)
    with pytest.raises(TypeError) as caught:
        compress.set_model(model)
    assert str(caught.value) == (
        "Compress: the model must run on the TensorFlow backend, because it ends as a TFLite file; "
        f"set KERAS_BACKEND=tensorflow before importing keras. Received: backend={backend!r}"
    )


def test_what_is_no_keras_model():
    with pytest.raises(TypeError) as caught:
        kc.Compress(pruning=PRUNING).set_model(3)
    assert str(caught.value) == (
        "Compress: the model must be a Keras 3 or tf_keras model. "
        "Received: model of class builtins.int"
    )


@pytest.mark.parametrize("name", ["sparsity", "quantized"])
@pytest.mark.parametrize("form", ["object", "function"])
def test_a_metric_with_the_name_of_a_log_of_ours(keras, data, name, form):
    def metric(y_true, y_pred):
        return y_pred[:, 0]

    metric.__name__ = name
    given = metric if form == "function" else keras.metrics.SparseCategoricalAccuracy(name)
    model = small_net(keras, metrics=[given])
    message = refused(model, kc.Compress(pruning=PRUNING), *data)
    assert message.startswith(
        f"Compress: a metric must not be named {name!r}, which is a log of ours. Received: metrics="
    )
    assert repr(name) in message.partition("metrics=")[2]
    model.compile("sgd", "sparse_categorical_crossentropy")
    fits_after(model, data)


def test_nan_weights(keras, data):
    model = small_net(keras)
    kernel, bias = model.get_layer("dense1").get_weights()
    kernel[3, 4] = np.nan
    model.get_layer("dense1").set_weights([kernel, bias])
    message = refused(model, kc.Compress(pruning=PRUNING), *data)
    assert re.fullmatch(
        "Compress: the weights must be finite; training went wrong before this fit. "
        "Received: .*dense1/kernel.* with NaN or infinite values",
        message,
    )


def test_quantization_of_a_subclassed_model_while_pruning_works(keras, data):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(10)

        def call(self, inputs):
            return self.dense(self.flat(inputs))

    model = Net()
    model(data[0][:1])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert refused(model, kc.Compress(**INT8), *data) == (
        "Quantization: the model must be Sequential or functional; a subclassed one computes in "
        "Python, so there is no graph to place quantizers in. Build it with the functional API, or "
        "prune it only. Received: model=Net"
    )
    fits_after(model, data)


# --- the export


def test_an_export_folder_that_is_missing(keras, data, tmp_path):
    model = small_net(keras)
    path = tmp_path / "no" / "net.tflite"
    message = refused(model, kc.Compress(**INT8, export=kc.Export(path)), *data)
    assert message == (
        f"Export: `path` must be in a folder that exists. Received: path={str(path)!r}"
    )
    fits_after(model, data)


def test_an_export_folder_that_is_a_file(keras, data, tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "net.tflite"
    message = refused(small_net(keras), kc.Compress(**INT8, export=kc.Export(path)), *data)
    assert message.startswith(
        "Export: `path` must be in a folder, and what should be one is a file"
    )


def test_int8_without_quantization_and_without_data(keras, data, tmp_path):
    model = small_net(keras)
    compress = kc.Compress(pruning=PRUNING, export=kc.Export(tmp_path / "net.tflite"))
    assert refused(model, compress, *data) == (
        "Export: `representative_dataset` must be given in mode 'int8' without `quantization`, to "
        "calibrate the ranges with. Received: representative_dataset=None"
    )
    fits_after(model, data)


BAD_DATA = [
    pytest.param(
        np.zeros((5, 9, 8, 1)),
        "must be data of shape ('rows', 8, 8, 1) for the input 'image'. "
        "Received: {field}=(5, 9, 8, 1)",
        id="shape",
    ),
    pytest.param(
        np.full((5, 8, 8, 1), "a"),
        "must be numbers for the input 'image'. Received: {field}='ndarray of dtype <U1'",
        id="dtype",
    ),
    pytest.param(
        np.full((1, 8, 8, 1), np.nan),
        "must be finite for the input 'image'. Received: {field}='64 NaN or infinite'",
        id="nan",
    ),
]


@pytest.mark.parametrize("field", ["representative_dataset", "verify_data"])
@pytest.mark.parametrize(("bad", "rule"), BAD_DATA)
def test_data_that_does_not_fit_the_model(keras, data, tmp_path, field, bad, rule):
    model = small_net(keras)
    export = kc.Export(tmp_path / "net.tflite", **{field: bad})
    message = refused(model, kc.Compress(**INT8, export=export), *data)
    assert message == f"Export: `{field}` " + rule.format(field=field)
    fits_after(model, data)


def test_data_that_yields_nothing(keras, data, tmp_path):
    export = kc.Export(tmp_path / "net.tflite", representative_dataset=lambda: iter(()))
    message = refused(small_net(keras), kc.Compress(**INT8, export=export), *data)
    assert message.startswith("Export: `representative_dataset` must be ")
    assert "at least one" in message


def test_layers_that_would_stay_in_float_are_refused_by_name(keras, data, tmp_path):
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.ELU(name="first")(layers.Conv2D(3, 3)(inputs))
    x = layers.LayerNormalization(name="second")(layers.ReLU()(layers.Conv2D(3, 3)(x)))
    outputs = layers.Dense(10, activation="softmax")(layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    path = tmp_path / "net.tflite"
    message = refused(model, kc.Compress(**INT8, export=kc.Export(path)), *data)
    assert message == (
        "Export: `allow_float_ops` must be True for an integer file of this model, whose layers "
        "would not all be integer: first (ELU is not in the placement table); second "
        "(LayerNormalization is not in the placement table). Leave them out by "
        "`Quantization(layers=...)` if that is meant. Received: allow_float_ops=False"
    )
    # With the permission the rest is integer, and the float ops are named.
    compress = kc.Compress(**INT8, export=kc.Export(path, allow_float_ops=True))
    model.fit(*data, batch_size=16, verbose=0, callbacks=[compress])
    assert compress.report.export.error is None
    assert any(op.startswith("ELU") for op in compress.report.export.float_ops)
    assert set(compress.report.left_out["quantization"]) == {"first", "second"}


def test_a_sequential_without_shapes_is_refused_before_its_first_update(keras, data, tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [layers.Flatten(), layers.Dense(10, name="dense"), layers.ELU(name="odd")]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    seen = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

    compress = kc.Compress(**INT8, export=kc.Export(tmp_path / "net.tflite"))
    with pytest.raises(ValueError, match=r"odd \(ELU is not in the placement table\)"):
        model.fit(*data, batch_size=16, verbose=0, callbacks=[compress, Count()])
    assert not seen
    assert engine_of(model) is None
    fits_after(model, data)


# --- what goes wrong after the training costs only the file


def test_a_failing_export_never_costs_the_training(keras, data, tmp_path):
    model = small_net(keras, jit_compile=False)
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "net.tflite"

    class Remove(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            folder.rmdir()

    compress = kc.Compress(**INT8, export=kc.Export(path))
    history = model.fit(*data, batch_size=16, verbose=0, callbacks=[compress, Remove()])
    assert history.history["quantized"] == [1.0]
    report = compress.report.export
    assert not report.written
    assert report.error == (
        f"ValueError: Export: `path` must be in a folder that exists. Received: path={str(path)!r}"
    )
    assert report.error in str(compress.report)
    folder.mkdir()
    assert kc.export_tflite(model, compress.export).written
    assert path.exists()


def test_an_export_that_times_out_keeps_the_older_file_and_can_be_repeated(keras, data, tmp_path):
    model = small_net(keras, jit_compile=False)
    path = tmp_path / "net.tflite"
    path.write_bytes(b"older")
    compress = kc.Compress(**INT8, export=kc.Export(path, timeout=0.001))
    model.fit(*data, batch_size=16, verbose=0, callbacks=[compress])
    assert "took longer than" in compress.report.export.error
    assert "Give it more with `timeout`" in compress.report.export.error
    assert path.read_bytes() == b"older"
    assert kc.export_tflite(model, kc.Export(path)).written
    assert path.read_bytes() != b"older"
