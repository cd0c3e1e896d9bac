"""A training that goes wrong: NaN weights are neither pruned nor shipped, and are named."""

import os

import numpy as np
import pytest
import tensorflow as tf
from helpers.nets import small_net

import keras_compress as kc
from keras_compress.engines.engine import engine_of

pytestmark = pytest.mark.by_turns

UPDATES = 8
SCHEDULE = kc.PolynomialDecay(final_sparsity=0.75, begin_step=1, end_step=7, frequency=2)


def breaking(keras, layer, at, value=np.nan):
    """A callback after which a kernel has one such weight, behind the update of that number."""

    def on_batch_end(batch, logs):
        if batch + 1 == at:
            kernel, *others = callback.model.get_layer(layer).get_weights()
            kernel.flat[3] = value
            callback.model.get_layer(layer).set_weights([kernel, *others])

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=on_batch_end)
    return callback


def fit(model, digits, *callbacks):
    x, y = digits[0][: 16 * UPDATES], digits[1][: 16 * UPDATES]
    return model.fit(
        x, y, batch_size=16, epochs=1, verbose=0, shuffle=False, callbacks=[*callbacks]
    )


def noting_masks(keras, at, into):
    def on_batch_end(batch, logs):
        if batch + 1 == at:
            into.update({t.path: t.kept() for t in engine_of(callback.model).pruner.targets})

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=on_batch_end)
    return callback


@pytest.mark.slow_after(1)
@pytest.mark.parametrize(
    ("value", "on"), [(np.nan, "cpu"), (np.inf, "cpu"), (np.nan, "gpu"), (np.nan, "gpu with xla")]
)
def test_a_broken_kernel_keeps_its_mask_and_is_named_once(
    keras, digits, caplog, value, on, request
):
    if on != "cpu":
        request.getfixturevalue("as_on_a_gpu")
    model, masks = small_net(keras, jit_compile=on == "gpu with xla"), {}
    compress = kc.Compress(pruning=kc.Pruning(SCHEDULE))
    fit(model, digits, compress, noting_masks(keras, 4, masks), breaking(keras, "dense1", 4, value))
    for target in engine_of(model).pruner.targets:
        # What is in front breaks in the update after the next masks, and so does what is behind
        # where a ReLU hands a NaN on.
        same = (target.kept() == masks[target.path]).all()
        assert same == (target.path == "dense1"), target.path
    kept = np.concatenate([t.kept().ravel() for t in engine_of(model).pruner.targets])
    assert compress.report.sparsity == pytest.approx(1 - kept.mean(), abs=1e-6)
    warnings = [r.getMessage() for r in caplog.records if r.name == "keras_compress"]
    hands_on = on == "gpu with xla" or tf.config.list_physical_devices("GPU")
    broken = ["conv1/kernel", "dense1/kernel", *(["probabilities/kernel"] if hands_on else [])]
    assert warnings == [
        f"NaN or infinite weights in {', '.join(broken)}: the training has diverged, and their "
        "masks stay as they are."
    ]


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("how", ["graph", "eager", "xla"])
@pytest.mark.parametrize("at", [UPDATES - 2, UPDATES])
def test_a_weight_that_is_dropped_breaks_its_kernel_too(keras, digits, caplog, at, how):
    """A mask makes no zero of what is no number: the training would be healed in silence."""

    def on_batch_end(batch, logs):
        if batch + 1 == at:
            model = callback.model
            target = next(t for t in engine_of(model).pruner.targets if t.path == "dense1")
            kernel = target.kernel.numpy()
            kernel.flat[np.flatnonzero(~target.kept())[0]] = np.nan
            target.kernel.assign(kernel)

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=on_batch_end)
    model = small_net(keras, jit_compile=how == "xla", run_eagerly=how == "eager")
    compress = kc.Compress(pruning=kc.Pruning(SCHEDULE))
    fit(model, digits, compress, callback)
    assert np.isnan(model.get_layer("dense1").get_weights()[0]).any()
    warnings = [r.getMessage() for r in caplog.records if r.name == "keras_compress"]
    assert len(warnings) == 1
    assert "dense1/kernel" in warnings[0]


def test_the_zeros_of_a_fit_have_no_sign(keras, digits):
    """Zipped, a file of negative ones is larger."""
    model = small_net(keras, jit_compile=False)
    compress = kc.Compress(pruning=kc.Pruning(SCHEDULE))
    fit(model, digits, compress)
    for each in (model, compress.stripped_model):
        zeros = np.concatenate([w[w == 0] for w in each.get_weights() if w.ndim > 1])
        assert len(zeros)
        assert not np.signbit(zeros).any()


def test_tfmots_masks_of_a_broken_kernel_stay_too(digits):
    import tf_keras

    plain = tf_keras.models.clone_model(small_net(tf_keras))  # not compiled
    model = kc.wrap(plain, pruning=kc.Pruning(SCHEDULE), engine="tfmot")
    model.compile("sgd", "sparse_categorical_crossentropy")
    masks = {}

    def on_batch_end(batch, logs):
        if batch + 1 == 4:
            for target in engine_of(model).pruner.targets:
                masks[target.path] = target.kept()
            kernel = engine_of(model).pruner.targets[-1].kernel
            value = kernel.numpy()
            value.flat[3] = np.nan
            kernel.assign(value)

    fit(model, digits, tf_keras.callbacks.LambdaCallback(on_train_batch_end=on_batch_end))
    last = engine_of(model).pruner.targets[-1]
    np.testing.assert_array_equal(last.kept(), masks[last.path])


def test_a_diverged_training_leaves_no_file_and_says_what_broke(keras, digits, tmp_path, caplog):
    model = small_net(keras, jit_compile=False)
    path = tmp_path / "net.tflite"
    path.write_bytes(b"of an earlier training")
    compress = kc.Compress(quantization=kc.Quantization(delay=2), export=kc.Export(path))
    fit(model, digits, compress, breaking(keras, "dense1", UPDATES))
    export = compress.report.export
    assert not export.written
    assert "the weights and ranges must be finite" in export.error
    assert "dense1" in export.error
    assert path.read_bytes() == b"of an earlier training"


@pytest.mark.parametrize("mode", ["float32", "float16", "dynamic", "int8", "int16x8"])
def test_no_mode_writes_weights_that_are_not_finite(keras, digits, tmp_path, mode):
    model = small_net(keras, jit_compile=False)
    kernel, *others = model.get_layer("dense1").get_weights()
    kernel[0, 0] = np.nan
    model.get_layer("dense1").set_weights([kernel, *others])
    data = digits[0][:16] if mode in ("int8", "int16x8") else None
    with pytest.raises(ValueError, match=r"must be finite.*Received: .*dense1.*NaN"):
        kc.export_tflite(
            model, kc.Export(tmp_path / "net.tflite", mode=mode, representative_dataset=data)
        )
    assert not os.listdir(tmp_path)


def test_a_graph_with_a_nan_in_it_is_refused(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (1, 4), name="x")
        weights = tf.constant([[1.0], [np.nan], [0.0], [2.0]], name="weights")
        tf.matmul(x, weights, name="y")
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(ValueError, match=r"must be finite.*Received: weights with NaN"):
        kc.export_tflite(
            path,
            kc.Export(tmp_path / "net.tflite", mode="float32"),
            inputs=["x"],
            outputs=["y"],
        )


def test_a_range_that_is_not_finite_is_no_file(keras, digits, tmp_path):
    model = small_net(keras, jit_compile=False)
    fit(model, digits, kc.Compress(quantization=kc.Quantization(delay=2)))
    quantizers = engine_of(model).quantizers.activations
    key, quantizer = next((k, q) for k, q in quantizers.items() if q.range is not None)
    quantizer.range.assign([-1.0, np.inf])
    with pytest.raises(ValueError, match=f"must be finite.*Received: {key}"):
        kc.export_tflite(model, kc.Export(tmp_path / "net.tflite"))
