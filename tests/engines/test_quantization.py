"""Delayed quantization-aware training: plain while it is off, the integer network once it is on."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from helpers.nets import slots, small_net

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.snapshot import take

pytestmark = pytest.mark.by_turns

STEPS = 8  # per epoch of the fits below


def fit(model, digits, *callbacks, epochs=1, scale=1.0, **arguments):
    x, y, _, _ = digits
    given = {"batch_size": 16, "shuffle": False, "verbose": 0, **arguments}
    n = STEPS * given["batch_size"]
    return model.fit(x[:n] * scale, y[:n], epochs=epochs, callbacks=list(callbacks), **given)


def quantize(delay, **fields):
    return kc.Compress(quantization=kc.Quantization(delay=delay, **fields))


def ops_of(step, batch):
    """How often each op occurs in the traced step, functions inside included."""
    graph = tf.function(lambda *data: step(data), autograph=False).get_concrete_function(*batch)
    definition = graph.graph.as_graph_def()
    nodes = list(definition.node)
    for function in definition.library.function:
        nodes += function.node_def
    return collections.Counter(node.op for node in nodes)


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def added_ops(keras, depth):
    """The ops that attaching adds to the train step of a net of so many Dense layers."""
    batch = (tf.ones((16, 4)), tf.zeros((16, 4)))

    def net():
        keras.utils.set_random_seed(0)
        dense = [keras.layers.Dense(4, activation="relu") for _ in range(depth)]
        model = keras.Sequential([keras.Input((4,)), *dense])
        model.compile("adam", "mse", jit_compile=False)
        return model

    plain, model = net(), net()
    plain.train_on_batch(*batch)  # builds the optimizer and the metrics
    compress = kc.Compress(quantization=kc.Quantization(delay=900), partial=True)
    model.fit(*batch, verbose=0, callbacks=[compress])
    expected, found = ops_of(plain.train_step, batch), ops_of(model.train_step, batch)
    assert not expected - found
    return found - expected


def test_while_off_the_train_graph_has_the_plain_ones_ops_a_counter_and_two_logs(keras):
    added = added_ops(keras, 2)
    assert added == added_ops(keras, 6)  # nothing per layer
    # The increment with its handle and its 1, and the values of the two logs on their way out.
    assert added["AssignAddVariableOp"] == 1
    assert set(added) == {"AssignAddVariableOp", "Placeholder", "Const", "Identity", "NoOp"} & set(
        added
    )
    assert added["Const"] == 3
    assert added["Placeholder"] == 1


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("calibration_steps", [0, 12], ids=["off", "watching"])
def test_before_the_delay_weights_and_slots_are_those_of_a_plain_fit(
    keras, digits, jit, calibration_steps
):
    plain = small_net(keras, batch_norm=True, jit_compile=jit)
    fit(plain, digits, epochs=2)
    model = small_net(keras, batch_norm=True, jit_compile=jit)
    compress = quantize(2 * STEPS, calibration_steps=calibration_steps)
    recorded = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            recorded.append(str(engine_of(model).phase))

    fit(model, digits, compress, Record(), epochs=2)
    assert recorded.count("watching") == calibration_steps
    assert_same(model.get_weights(), plain.get_weights())
    assert_same(slots(model), slots(plain))
    engine = engine_of(model)
    seen = [r for r in engine.quantizers.ranges().values() if r[1] != 6.0]
    assert len(seen) == (len(engine.quantizers.ranges()) if calibration_steps else 0)


def counting_traces(model):
    """The phase at each trace of the model's train step, as a list that fills itself."""
    traces = []
    original = model.train_step

    def counted(data):
        traces.append(str(engine_of(model).phase) if engine_of(model) else "plain")
        return original(data)

    vars(model)["train_step"] = counted
    return traces


def test_each_phase_edge_traces_once(keras, digits):
    plain = small_net(keras, jit_compile=False)
    plain_traces = counting_traces(plain)
    fit(plain, digits, epochs=3)
    model = small_net(keras, jit_compile=False)
    traces = counting_traces(model)
    fit(model, digits, quantize(12, calibration_steps=3, freeze_step=20), epochs=3)
    # TensorFlow traces a first call twice, to make the optimizer's variables.
    assert traces == ["off"] * len(plain_traces) + ["watching", "on", "frozen"]


def test_the_switch_falls_after_the_delay_and_optimizer_and_metrics_go_on(keras, digits):
    model = small_net(keras, jit_compile=False)
    seen = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((float(logs["quantized"]), int(model.optimizer.iterations)))

    compress = quantize(11, calibration_steps=4)
    history = fit(model, digits, compress, Record(), epochs=2)
    assert [quantized for quantized, _ in seen] == [0.0] * 11 + [1.0] * 5
    assert [count for _, count in seen] == list(range(1, 17))
    assert compress.report.switched_at == 12
    assert history.history["quantized"] == [0.0, 1.0]


def test_metrics_and_optimizer_slots_go_on_over_a_switch_in_mid_epoch(keras, digits):
    """With a learning rate of zero every batch has the accuracy that `evaluate` gives it."""
    x, y, _, _ = digits
    x, y = x[:128], y[:128]
    model = small_net(keras, optimizer=keras.optimizers.Adam(0.0), jit_compile=False)
    before, after = [], []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch in (3, 4):  # around the switch: the last float update, the first rounded one
                (before if batch == 3 else after).extend(slots(model))

    plain = [model.evaluate(x[i : i + 16], y[i : i + 16], verbose=0)[1] for i in range(0, 128, 16)]
    history = fit(model, digits, quantize(4, calibration_steps=2), Record()).history
    rounded = [
        model.evaluate(x[i : i + 16], y[i : i + 16], verbose=0)[1] for i in range(0, 128, 16)
    ]
    expected = np.mean([*plain[:4], *rounded[4:]])
    assert history["accuracy"][0] == pytest.approx(expected, abs=1e-6)
    # Adam's moments: each update keeps 0.9 of the first and 0.999 of the second.
    assert len(before) == len(after)
    moved = [(one, two) for one, two in zip(before, after, strict=True) if one.ndim and np.any(one)]
    assert moved
    for one, two in moved:
        assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.5


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_evaluation_right_after_the_switch_is_what_it_was_right_before(keras, digits, scale):
    x, y, x_test, y_test = digits
    model = small_net(keras, batch_norm=True, jit_compile=False)
    accuracies = []

    class Around(keras.callbacks.Callback):
        """Evaluates before and after the delay's last update, and before the next one."""

        def on_epoch_end(self, epoch, logs=None):
            accuracies.append(model.evaluate(x_test * scale, y_test, verbose=0)[1])

    n = 80 * 16
    arguments = {"batch_size": 16, "epochs": 4, "verbose": 0, "shuffle": False}
    compress = quantize(4 * 80, calibration_steps=100)
    model.fit(x[:n] * scale, y[:n], callbacks=[compress, Around()], **arguments)
    # The delay ends with the fit: the switch happened after the last epoch, before any update.
    assert engine_of(model).phase == "on"
    assert compress.report.switched_at == 4 * 80 + 1
    after = model.evaluate(x_test * scale, y_test, verbose=0)[1]
    before = accuracies[-1]
    assert before > 0.85
    assert abs(after - before) <= 0.01


def test_without_a_delay_the_first_batch_is_rounded_over_its_own_range(keras, digits):
    model = small_net(keras, jit_compile=False)
    batch = digits[0][:16] * 0.37 + 0.05
    model.fit(batch, digits[1][:16], batch_size=16, verbose=0, callbacks=[quantize(0)])
    low, high = engine_of(model).quantizers.ranges()["input/0"]
    assert low == 0.0  # zero is always inside
    assert high == np.float32(batch.max())


def test_ranges_follow_the_documented_average(keras, digits):
    """decay = min(0.999, n / (n + 10)) after n updates; worked here in NumPy."""
    x = digits[0][: STEPS * 16].copy()
    x *= np.linspace(0.3, 1.7, len(x), dtype="float32")[:, None, None, None]
    model = small_net(keras, jit_compile=False)
    arguments = {"batch_size": 16, "verbose": 0, "shuffle": False}
    model.fit(x, digits[1][: len(x)], callbacks=[quantize(0)], **arguments)
    expected = 0.0
    for n in range(STEPS):
        decay = min(0.999, n / (n + 10))
        expected = decay * expected + (1 - decay) * x[16 * n : 16 * (n + 1)].max()
    assert engine_of(model).quantizers.ranges()["input/0"][1] == pytest.approx(expected, rel=1e-5)


def test_ranges_follow_in_a_function_that_an_eager_step_has_traced_once(keras, digits):
    """The share that moves them is a number of each step, not of the first."""

    class Inner(keras.Sequential):
        def train_step(self, data):
            x, y = data
            if not hasattr(self, "function"):
                self.function = tf.function(lambda x: self(x, training=True))
            with tf.GradientTape() as tape:
                answers = self.function(x)
                loss = keras.losses.sparse_categorical_crossentropy(y, answers)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"loss": tf.reduce_mean(loss)}

    def followed(kind):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Input((8, 8, 1)), keras.layers.Flatten()]
        model = kind([*layers, keras.layers.Dense(10, activation="softmax")])
        model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
        model.run_eagerly = True
        x = digits[0][:64] * np.linspace(1, 3, 64, dtype="float32").reshape(-1, 1, 1, 1)
        model.fit(x, digits[1][:64], 8, shuffle=False, verbose=0, callbacks=[quantize(0)])
        return engine_of(model).quantizers.ranges()

    found, expected = followed(Inner), followed(keras.Sequential)
    assert found.keys() == expected.keys()
    for key, limits in expected.items():
        np.testing.assert_allclose(found[key], limits, rtol=1e-5, err_msg=key)


def test_after_freeze_step_ranges_and_statistics_stand_still_and_weights_do_not(keras, digits):
    model = small_net(keras, batch_norm=True, jit_compile=False)
    states = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            engine = engine_of(model)
            norm = model.get_layer("norm1")
            statistics = np.concatenate([norm.moving_mean, norm.moving_variance])
            ranges = np.concatenate(list(engine.quantizers.ranges().values()))
            states.append((ranges, statistics, model.get_layer("dense1").get_weights()[0]))

    fit(model, digits, quantize(0, freeze_step=5), Record())
    for step in range(1, STEPS):
        (r0, s0, w0), (r1, s1, w1) = states[step - 1 : step + 1]
        moved = step < 5  # the update with number step + 1
        assert np.array_equal(r0, r1) is not moved
        assert np.array_equal(s0, s1) is not moved
        assert not np.array_equal(w0, w1)
    magnitudes = take(engine_of(model)).kernel_ranges
    key = next(key for key in magnitudes if "Dense/kernel/72" in key)
    assert magnitudes[key] == np.abs(states[4][2]).max()  # as update 5 left the kernel


def test_zeros_of_the_masks_are_zeros_of_the_file(keras, digits, tmp_path):
    model = small_net(keras, jit_compile=False)
    path = tmp_path / "net.tflite"
    pruning = kc.Pruning(kc.PolynomialDecay(final_sparsity=0.75, begin_step=1, end_step=10))
    compress = kc.Compress(
        pruning=pruning, quantization=kc.Quantization(delay=6), export=kc.Export(path)
    )
    fit(model, digits, compress, epochs=2)
    contents = kc.inspect_tflite(path)
    kernels = {
        t.shape: contents.kernel(t.name) for t in contents.tensors if t.bytes and t.bits == 8
    }
    kernels = {shape: k for shape, k in kernels.items() if len(shape) > 1}
    for target in engine_of(model).pruner.targets:
        mask = target.mask.numpy()
        order = (1, 0) if mask.ndim == 2 else (3, 0, 1, 2)  # TFLite stores the output channel first
        mask = mask.transpose(order)
        kernel = kernels[mask.shape]
        assert (kernel[~mask] == 0).all()
        assert mask.mean() == pytest.approx(0.25, abs=0.01)
        assert (kernel[mask] != 0).mean() > 0.9


def test_four_bit_weights_are_four_bits_in_the_file(keras, digits, tmp_path):
    model = small_net(keras, batch_norm=True, jit_compile=False)
    path = tmp_path / "net.tflite"
    compress = kc.Compress(
        quantization=kc.Quantization(delay=4, weight_bits=4), export=kc.Export(path)
    )
    fit(model, digits, compress, epochs=2)
    assert compress.report.export.error is None
    contents = kc.inspect_tflite(path)
    kernels = [t for t in contents.tensors if t.bytes and t.bits == 4]
    assert len(kernels) == 3
    for tensor in kernels:
        values = contents.kernel(tensor.name)
        assert np.abs(values).max() == 7
    assert max(compress.report.export.largest_steps.values()) <= 4
    assert {layer.bits for layer in compress.report.layers} == {4}


def test_frozen_layers_stay_frozen(keras, digits):
    model = small_net(keras, batch_norm=True)
    model.get_layer("conv1").trainable = False
    model.get_layer("norm1").trainable = False
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    frozen = [*model.get_layer("conv1").get_weights(), *model.get_layer("norm1").get_weights()]
    trainable = [w.name for w in model.trainable_weights]
    fit(model, digits, quantize(4), epochs=2)
    assert [w.name for w in model.trainable_weights] == trainable
    assert_same(
        [*model.get_layer("conv1").get_weights(), *model.get_layer("norm1").get_weights()], frozen
    )
    # Fake-quantized all the same.
    assert "0/Conv2D/kernel/3x3x1x8" in engine_of(model).quantizers.kernels


def test_layers_left_out_by_name_stay_in_float_and_are_listed(keras, digits, tmp_path):
    model = small_net(keras, jit_compile=False)
    path = tmp_path / "net.tflite"
    names = ("conv1", "relu1", "pool1", "flatten", "dense1")
    compress = kc.Compress(
        quantization=kc.Quantization(delay=4, layers=names), export=kc.Export(path)
    )
    fit(model, digits, compress)
    report = compress.report
    assert report.left_out["quantization"] == {"probabilities": "left out by `layers`"}
    assert report.export.error is None
    assert any(op.op == "FULLY_CONNECTED" for op in report.export.float_ops)
    bits = {layer.path: layer.bits for layer in report.layers}
    assert bits == {"conv1": 8, "dense1": 8}


def test_a_plan_in_which_no_update_sets_the_ranges_is_refused(keras, digits):
    model = small_net(keras, jit_compile=False)
    message = (
        "Quantization: `freeze_step` must lie after the delay, or `calibration_steps` be above 0 "
        "and the delay too, or no update would set the ranges. Received: freeze_step=2, delay=2, "
        "calibration_steps=0"
    )
    with pytest.raises(ValueError, match=r"^Quantization: ") as refused:
        fit(model, digits, quantize(2, freeze_step=2, calibration_steps=0))
    assert str(refused.value) == message
    assert engine_of(model) is None


def test_a_fit_that_ends_before_any_update_sets_the_ranges_exports_nothing(keras, digits, tmp_path):
    model = small_net(keras, jit_compile=False)
    compress = kc.Compress(
        quantization=kc.Quantization(delay=STEPS, calibration_steps=0),
        export=kc.Export(tmp_path / "net.tflite"),
    )
    fit(model, digits, compress)
    assert compress.report.missed == ["any update that would set the ranges"]
    assert not compress.report.export.written
    assert engine_of(model).phase == "off"


def test_watching_a_sum_behind_a_dense_costs_its_last_bit_at_most(keras):
    """TensorFlow computes both in one, unless somebody reads the tensor between them."""

    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        layers = keras.layers
        inputs = layers.Input((12,))
        first = layers.Dense(12)(inputs)
        outputs = layers.Add()([layers.Dense(12)(first), first])
        model = keras.Model(inputs, layers.Dense(4)(outputs))
        model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
        x = np.random.default_rng(0).normal(size=(64, 12)).astype("float32")
        model.fit(x, x[:, :4], batch_size=16, shuffle=False, verbose=0, callbacks=list(callbacks))
        return model.get_weights()

    plain = trained()
    for seen, tolerance in ((0, 0.0), (4, 1e-6)):
        quantization = kc.Quantization(delay=4, calibration_steps=seen)
        found = trained(kc.Compress(quantization=quantization, verbose=0))
        for expected, weights in zip(plain, found, strict=True):
            np.testing.assert_allclose(weights, expected, rtol=0, atol=tolerance)
