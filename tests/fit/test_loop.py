"""A training loop of one's own: the same masks, ranges and phases as in a `fit`."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.nets import small_net

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.snapshot import take
from keras_compress.engines.state import Phase

pytestmark = pytest.mark.by_turns

BATCH, STEPS = 16, 12
SCHEDULE = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=7, frequency=2)
# Off in updates 1..4, watching in 5 and 6, on from 7, frozen from 10.
QUANTIZATION = kc.Quantization(delay=6, calibration_steps=2, freeze_step=10)
PHASES = ["off"] * 4 + ["watching"] * 2 + ["on"] * 4 + ["frozen"] * 2


def compress(**arguments):
    specs = {"pruning": kc.Pruning(SCHEDULE), "quantization": QUANTIZATION, "verbose": 0}
    return kc.Compress(**{**specs, **arguments})


def net(keras, compiled=True):
    model = small_net(keras, batch_norm=True, jit_compile=False, optimizer="sgd")
    return model if compiled else keras.Sequential.from_config(model.get_config())


@pytest.fixture(scope="module")
def batches(digits):
    x, y = digits[0][: STEPS * BATCH], digits[1][: STEPS * BATCH]
    return [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]


@pytest.fixture(scope="module")
def by_fit(keras, batches):
    model = net(keras)
    x, y = (np.concatenate(each) for each in zip(*batches, strict=True))
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[compress()])
    return model


def train_step(keras, model, compiled=True):
    """An update as a user writes it."""
    loss_of = keras.losses.SparseCategoricalCrossentropy()

    def train(x, y, phase):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return tf.function(train) if compiled else train


def run(callback, train, batches, phase=None):
    for x, y in batches:
        with callback.step():
            train(tf.constant(x), tf.constant(y), phase or callback.phase)


def assert_like(model, expected):
    got, wanted = take(engine_of(model)), take(engine_of(expected))
    for name in ("step", "phase", "observed", "switched_at", "iterations", "steps", "schedules"):
        assert getattr(got, name) == getattr(wanted, name), name
    for key, mask in wanted.masks.items():
        np.testing.assert_array_equal(got.masks[key], mask, err_msg=key)
    for key, limits in wanted.ranges.items():
        np.testing.assert_allclose(got.ranges[key], limits, rtol=1e-3, atol=1e-4, err_msg=key)
    for found, weights in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(found, weights, atol=1e-4)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
def test_a_loop_is_as_a_fit(keras, batches, by_fit, tmp_path, compiled):
    model = net(keras)
    train = train_step(keras, model, compiled)
    export = kc.Export(tmp_path / "net.tflite")
    callback, phases = compress(export=export), []
    callback.begin(model, steps=STEPS)
    for x, y in batches:
        with callback.step():
            phases.append(callback.phase)
            train(tf.constant(x), tf.constant(y), callback.phase)
    callback.epoch_end()
    report = callback.finish()
    assert phases == PHASES
    assert_like(model, by_fit)
    assert report is callback.report
    assert (report.missed, report.export.written, report.step) == ([], True, STEPS)
    assert max(report.export.largest_steps.values()) <= 2
    for target in engine_of(model).pruner.targets:
        np.testing.assert_array_equal(target.kernel.numpy() != 0, target.kept())
    assert callback.stripped_model is not None


def test_fractions_are_of_the_loop(keras, batches):
    model = net(keras)
    train = train_step(keras, model)
    schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=0.1, end_step=0.5, frequency=1)
    callback = kc.Compress(
        pruning=kc.Pruning(schedule), quantization=kc.Quantization(delay=0.75), verbose=0
    )
    callback.begin(model, steps=STEPS)
    run(callback, train, batches)
    report = callback.finish()
    assert report.steps["delay"] == 9
    assert report.sparsity == pytest.approx(0.5, abs=0.01)


def test_single_batches_go_through_the_phases(keras, batches, by_fit):
    model, callback = net(keras), compress()
    callback.begin(model, steps=STEPS)
    phases = []
    for x, y in batches:
        model.train_on_batch(x, y)
        phases.append(callback.phase)
    callback.finish()
    assert phases == PHASES
    assert_like(model, by_fit)


def test_single_batches_of_a_wrapped_model_go_through_the_phases(keras, batches, by_fit):
    model = kc.wrap(
        net(keras, compiled=False),
        pruning=kc.Pruning(SCHEDULE),
        quantization=QUANTIZATION,
        engine="in_place",
    )
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    model.set_weights(net(keras).get_weights())
    phases = []
    for x, y in batches:
        model.train_on_batch(x, y)
        phases.append(str(engine_of(model).phase))
    assert phases == PHASES
    engine_of(model).settle()
    assert_like(model, by_fit)


def test_tfmots_wrappers_in_a_loop(batches):
    import tf_keras

    model = kc.wrap(
        net(tf_keras, compiled=False), quantization=kc.Quantization(delay=4), engine="tfmot"
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    callback = kc.compression_of(model)
    train = train_step(tf_keras, model)
    callback.begin(model, steps=STEPS)
    run(callback, train, batches)
    report = callback.finish()
    assert (report.step, report.switched_at) == (STEPS, 5)
    for key, limits in take(engine_of(model)).ranges.items():
        assert limits[0] < limits[1], key
        assert list(limits) != [-6.0, 6.0], key


# --- what goes wrong without a word elsewhere


def test_a_compiled_step_that_does_not_know_of_the_phase_is_an_error(keras, batches):
    model = net(keras)
    train = train_step(keras, model)
    callback = compress()
    callback.begin(model, steps=STEPS)
    with pytest.raises(RuntimeError, match=r"give `compress\.phase` to your `tf\.function`"):
        run(callback, train, batches, "always the same")
    assert engine_of(model).step in (4, 5), "the first that watches, counted if it still moved"


def test_two_updates_in_one_step_are_an_error(keras, batches):
    model, callback = net(keras), compress()
    train = train_step(keras, model)
    callback.begin(model, steps=STEPS)

    def twice(*arguments):
        train(*arguments)
        train(*arguments)

    with pytest.raises(RuntimeError, match=r"there must be one update.*Received: 2 updates"):
        run(callback, twice, batches[:1])


def test_train_on_batch_in_a_step_is_an_error(keras, batches):
    model, callback = net(keras), compress()
    callback.begin(model, steps=STEPS)
    with pytest.raises(RuntimeError, match="not by `train_on_batch`"), callback.step():
        model.train_on_batch(*batches[0])


def test_updates_that_nobody_counted_are_warned_of_once(keras, batches, caplog):
    model = kc.wrap(net(keras, compiled=False), pruning=kc.Pruning(SCHEDULE), engine="in_place")
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    train = train_step(keras, model)
    for x, y in batches[:5]:
        train(x, y, "")
    for _ in range(2):
        model.get_weights()
    warnings = [r.getMessage() for r in caplog.records if r.name == "keras_compress"]
    assert warnings == [
        "The optimizer has made 5 updates that compression did not see: in a loop of your own, "
        "call `compress.begin(model, steps=...)` before it and make each update inside "
        "`with compress.step():`."
    ]


def test_a_fit_and_loaded_weights_are_no_such_updates(keras, batches, caplog, tmp_path):
    model = net(keras)
    x, y = batches[0]
    schedule = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[kc.Compress(pruning=kc.Pruning(schedule))])
    model.save_weights(tmp_path / "some.weights.h5")
    kc.save_state(model, tmp_path / "state.npz")
    other = net(keras)
    kc.load_state(other, tmp_path / "state.npz")
    other.load_weights(tmp_path / "some.weights.h5")
    other.evaluate(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    assert not [r for r in caplog.records if r.name == "keras_compress"]


def test_an_update_that_failed_is_not_counted(keras, batches):
    model, callback = net(keras), compress()
    train = train_step(keras, model)
    callback.begin(model, steps=STEPS)
    with pytest.raises(KeyError), callback.step():
        raise KeyError
    assert engine_of(model).step == 0
    with callback.step():
        train(*batches[0], callback.phase)
    assert engine_of(model).step == 1


@pytest.mark.parametrize("verb", ["step", "epoch_end", "finish"])
def test_the_verbs_come_after_begin(verb):
    with pytest.raises(RuntimeError, match=rf"Compress\.{verb}: `begin` must come first"):
        getattr(compress(), verb)()


@pytest.mark.parametrize("steps", [0, -3, 2.5, "12", True])
def test_the_number_of_steps_is_checked(keras, steps):
    with pytest.raises((TypeError, ValueError), match=r"Compress\.begin: `steps` must be an int"):
        compress().begin(net(keras), steps=steps)


def test_fractions_of_a_loop_without_a_length_are_refused(keras):
    model = net(keras)
    with pytest.raises(ValueError, match="steps must be ints"):
        kc.Compress(quantization=kc.Quantization(delay=0.5)).begin(model)
    assert kc.compression_of(model) is None


def test_what_lies_beyond_the_loop_is_refused(keras):
    with pytest.raises(ValueError, match="ends at update 8"):
        compress().begin(net(keras), steps=8)


def test_a_loop_that_ends_early_leaves_no_file(keras, batches, tmp_path):
    model = net(keras)
    train = train_step(keras, model)
    callback = compress(export=kc.Export(tmp_path / "net.tflite", rehearse=False))
    callback.begin(model, steps=STEPS)
    run(callback, train, batches[:3])
    report = callback.finish()
    assert report.missed[0] == "the final sparsity at update 7"
    assert not report.export.written
    assert engine_of(model).phase is Phase.OFF


def fail(callback, train, x, y):
    """A step that is traced, and then not run."""
    with callback.step():
        train.get_concrete_function(tf.constant(x), tf.constant(y), callback.phase)
        raise KeyError


def test_a_failure_behind_the_update_leaves_it_counted(keras, batches):
    model, callback = net(keras), compress()
    train = train_step(keras, model)

    def fail_late(x, y, phase):
        train(x, y, phase)
        raise KeyError

    callback.begin(model, steps=STEPS)
    with pytest.raises(KeyError):
        run(callback, fail_late, batches[:1])
    assert engine_of(model).step == 1


def test_after_an_update_that_failed_the_phases_are_where_they_were(keras, batches, by_fit):
    model, callback, phases = net(keras), compress(), []
    train = train_step(keras, model)
    callback.begin(model, steps=STEPS)
    for number, (x, y) in enumerate(batches):
        if number in (2, 4, 6, 7):  # of two phases the first step, which then is traced
            with pytest.raises(KeyError):
                fail(callback, train, x, y)
        with callback.step():
            phases.append(callback.phase)
            train(tf.constant(x), tf.constant(y), callback.phase)
    callback.finish()
    assert phases == PHASES
    assert_like(model, by_fit)


def test_updates_of_ones_own_and_single_batches_share_one_count(keras, batches):
    model, callback, phases = net(keras), compress(), []
    train = train_step(keras, model)
    callback.begin(model, steps=STEPS)
    for number, (x, y) in enumerate(batches):
        if number % 2:
            model.train_on_batch(x, y)
        else:
            with callback.step():
                train(tf.constant(x), tf.constant(y), callback.phase)
        phases.append(callback.phase)
    callback.finish()
    assert phases == PHASES


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("delay", [0, 1])
def test_a_loop_that_rounds_from_its_first_steps_with_an_optimizer_of_its_own(
    keras, batches, delay
):
    """Which makes its variables in the first step, so that TensorFlow traces it twice."""
    model = keras.Sequential.from_config(net(keras).get_config())
    optimizer = keras.optimizers.Adam(0.01)
    loss_of = keras.losses.SparseCategoricalCrossentropy()

    @tf.function
    def train(x, y, phase):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    callback = compress(quantization=kc.Quantization(delay=delay), pruning=None)
    callback.begin(model, steps=STEPS, optimizer=optimizer)
    run(callback, train, batches)

    def twice(*arguments):
        train(*arguments)
        train(*arguments)

    with pytest.raises(RuntimeError, match="Received: 2 updates"):
        run(callback, twice, batches[:1])
    for key, limits in take(engine_of(model)).ranges.items():
        assert limits[0] <= 0 < limits[1], key
        assert list(limits) != [-6.0, 6.0], key


def test_a_step_without_an_update_is_an_error(keras, batches):
    model, callback = net(keras), compress()
    callback.begin(model, steps=STEPS)
    with pytest.raises(RuntimeError, match="Received: 0 updates"), callback.step():
        pass


def test_a_short_batch_in_tfmots_wrappers_does_not_hide_an_old_trace_either(batches):
    import tf_keras

    model = kc.wrap(net(tf_keras, compiled=False), quantization=QUANTIZATION, engine="tfmot")
    model.compile("sgd", "sparse_categorical_crossentropy")
    callback = kc.compression_of(model)
    train = train_step(tf_keras, model)
    callback.begin(model, steps=STEPS)
    x, y = batches[4]
    run(callback, train, batches[:4], "always the same")
    run(callback, train, [(x[:7], y[:7])], "always the same")
    with pytest.raises(RuntimeError, match=r"give `compress\.phase` to your `tf\.function`"):
        run(callback, train, batches[5:6], "always the same")


def test_a_short_batch_at_the_edge_does_not_hide_an_old_trace(keras, batches):
    model, callback = net(keras), compress()
    train = train_step(keras, model)
    callback.begin(model, steps=STEPS)
    x, y = batches[4]
    run(callback, train, batches[:4], "always the same")
    run(callback, train, [(x[:7], y[:7])], "always the same")  # traced for its shape
    with pytest.raises(RuntimeError, match=r"give `compress\.phase` to your `tf\.function`"):
        run(callback, train, batches[5:6], "always the same")


def test_a_model_without_weights_is_refused(keras):
    model = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"Compress\.begin: `model` must be built"):
        compress().begin(model, steps=STEPS)


def test_a_second_loop_ends_the_first(keras, batches):
    first, second, callback = net(keras), net(keras), compress()
    callback.begin(first, steps=STEPS)
    with pytest.raises(ValueError, match="ends at update 8"):
        callback.begin(second, steps=8)
    with pytest.raises(RuntimeError, match="`begin` must come first"):
        callback.step()
    assert not engine_of(first).in_loop
