"""The optimizer's part: a multiple of its learning rate, and where it begins anew. What is to come
out is what a plain optimizer comes to whose rate somebody has set by hand, or which is really new.
"""

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.engines.engine import engine_of

pytestmark = pytest.mark.slow_after(1)

STEPS, EDGE = 9, 6
"""Updates, and the one of the first mask: five lie before it."""
RATE, FACTOR = 0.05, 0.25
LOWERED = np.float32(RATE) * np.float32(FACTOR)

OPTIMIZERS = {
    "Adam": {},
    "Adam, amsgrad": {"amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "Nadam": {},
    "Adamax": {},
    "SGD": {"momentum": 0.9, "nesterov": True},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Adagrad": {"initial_accumulator_value": 0.3},
    "Adadelta": {},
    "Ftrl": {"initial_accumulator_value": 0.2},
    "Lion": {},
    "Adafactor": {},
    "Adam, averaged": {"use_ema": True, "ema_momentum": 0.5},
    "Lamb": {},
    "Muon": {},
    "ScheduleFreeAdamW": {},
    "legacy.Adam": {},
    "legacy.Nadam": {},
    "legacy.SGD": {"momentum": 0.9, "decay": 0.1},
    "legacy.Adagrad": {"initial_accumulator_value": 0.3},
}


def made(keras, name, rate=RATE):
    """One of the optimizers above; skips where this Keras has none."""
    path, *_ = name.split(",")
    # Keras 3 has names of older ones that are none; tf_keras' Adafactor cannot be built.
    missing = "legacy" in path if keras.__name__ == "keras" else path == "Adafactor"
    of = keras.optimizers.legacy if "legacy" in path else keras.optimizers
    kind = getattr(of, path.removeprefix("legacy."), None)
    if missing or kind is None:
        pytest.skip(f"{keras.__name__} has no {path}")
    return kind(rate, **OPTIMIZERS[name])


def net(keras):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((4,)), layers.Dense(6, activation="relu"), layers.Dense(3)]
    )


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * 8, 4)).astype("float32")
    return x, (x @ rng.normal(size=(4, 3))).astype("float32")


def nothing_pruned(**kwargs):
    """Pruning that changes no weight, from update EDGE on."""
    schedule = kc.ConstantSparsity(target_sparsity=0.0, begin_step=EDGE)
    return kc.Pruning(schedule, **kwargs)


def gradients(model, step):
    rng = np.random.default_rng(step)
    return [
        tf.constant(rng.normal(size=tuple(each.shape)).astype("float32"))
        for each in model.trainable_variables
    ]


def apply(model, optimizer, step):
    optimizer.apply_gradients(zip(gradients(model, step), model.trainable_variables, strict=True))


def in_a_loop(model, optimizer, **kwargs):
    compress = kc.Compress(pruning=nothing_pruned(**kwargs), verbose=0)
    compress.begin(model, optimizer=optimizer)
    for step in range(1, STEPS + 1):
        with compress.step():
            apply(model, optimizer, step)
    compress.finish()


def assert_equal_weights(model, other):
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


# --- the rate


@pytest.mark.by_turns
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_updates_with_a_multiple_of_its_rate(keras, name):
    ours, theirs = net(keras), net(keras)
    optimizer, plain = made(keras, name), made(keras, name)
    in_a_loop(ours, optimizer, learning_rate_factor=FACTOR)
    for step in range(1, STEPS + 1):
        if step == EDGE:
            plain.learning_rate = LOWERED
        apply(theirs, plain, step)
    assert_equal_weights(ours, theirs)
    assert float(tf.convert_to_tensor(optimizer.learning_rate)) == pytest.approx(RATE)
    assert type(optimizer) is type(plain)


# --- beginning anew


@pytest.mark.parametrize("scheduled", [True, False], ids=["schedule", "constant"])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.sweep_if(when=lambda scheduled: not scheduled)
@pytest.mark.by_turns
def test_every_optimizer_begins_anew_as_a_new_one_would(keras, name, scheduled):
    """Its `iterations` and the schedule go on."""

    def rate(after=0):
        if not scheduled or name == "legacy.Nadam":  # which takes no schedule
            return RATE
        decay = keras.optimizers.schedules.PiecewiseConstantDecay
        return decay([EDGE + 1 - after], [RATE, RATE / 3])

    ours, theirs = net(keras), net(keras)
    optimizer, plain = made(keras, name, rate()), made(keras, name, rate())
    in_a_loop(ours, optimizer, restart_optimizer=True)
    for step in range(1, EDGE):
        apply(theirs, plain, step)
    if name == "legacy.SGD":  # its own `decay` goes by the iterations too
        new = made(keras, name, rate())
        new.iterations = tf.Variable(EDGE - 1, dtype=tf.int64)
    else:
        new = made(keras, name, rate(after=EDGE - 1))
    for step in range(EDGE, STEPS + 1):
        apply(theirs, new, step)
    assert_equal_weights(ours, theirs)
    assert int(tf.convert_to_tensor(optimizer.iterations)) == STEPS


# --- in a fit


def fit(model, data, callbacks=(), first=0, steps=STEPS, epochs=1, initial_epoch=0):
    x, y = (each[first * 8 : (first + steps) * 8] for each in data)
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=epochs,
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


def compiled(keras, optimizer, **kwargs):
    model = net(keras)
    model.compile(optimizer, "mse", **{"jit_compile": False, **kwargs})
    return model


@pytest.mark.by_turns
@pytest.mark.parametrize("together", [1, 3, 9], ids="{} steps per execution".format)
def test_the_rate_falls_at_the_very_update_inside_of_an_execution(keras, data, together):
    model = compiled(keras, keras.optimizers.SGD(RATE), steps_per_execution=together)
    pruning = nothing_pruned(learning_rate_factor=FACTOR)
    fit(model, data, [kc.Compress(pruning=pruning, verbose=0)])
    other = compiled(keras, keras.optimizers.SGD(RATE))
    fit(other, data, steps=EDGE - 1)
    other.optimizer.learning_rate.assign(LOWERED)
    fit(other, data, first=EDGE - 1, steps=STEPS - EDGE + 1)
    assert_equal_weights(model, other)


@pytest.mark.by_turns
def test_what_callbacks_make_of_the_rate_is_multiplied(keras, data):
    """They read it as it is."""
    rates, seen = [0.05, 0.03, 0.01], []

    class Reads(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(float(tf.convert_to_tensor(self.model.optimizer.learning_rate)))

    def scheduled(by):
        return keras.callbacks.LearningRateScheduler(lambda epoch: float(rates[epoch] * by))

    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=1e9)
    schedule = kc.ConstantSparsity(target_sparsity=0.0, begin_step=STEPS + 1)
    pruning = kc.Pruning(schedule, learning_rate_factor=0.5)
    model = compiled(keras, keras.optimizers.SGD(RATE))
    compress = kc.Compress(pruning=pruning, verbose=0)
    fit(model, data, [scheduled(1), Reads(), compress], epochs=3)
    assert seen == pytest.approx(rates)
    other = compiled(keras, keras.optimizers.SGD(RATE))
    fit(other, data, [scheduled(1)])
    fit(other, data, [scheduled(0.5)], epochs=3, initial_epoch=1)
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)

    model = compiled(keras, keras.optimizers.SGD(RATE))
    compress = kc.Compress(pruning=pruning, verbose=0, reset_best=False)
    fit(model, data, [plateau, compress], epochs=3)
    other = compiled(keras, keras.optimizers.SGD(RATE))
    for epoch, rate in enumerate([RATE, RATE * 0.5, RATE * 0.25]):  # the last falls after its own
        other.optimizer.learning_rate.assign(rate)
        fit(other, data, epochs=epoch + 1, initial_epoch=epoch)
    assert float(tf.convert_to_tensor(model.optimizer.learning_rate)) == pytest.approx(RATE / 4)
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["Adam", "Nadam"])
def test_a_fit_begins_anew_before_the_first_mask(keras, data, name):
    model = compiled(keras, made(keras, name))
    fit(model, data, [kc.Compress(pruning=nothing_pruned(restart_optimizer=True), verbose=0)])
    other = compiled(keras, made(keras, name))
    fit(other, data, steps=EDGE - 1)
    other.compile(made(keras, name), "mse", jit_compile=False)
    if keras.__name__ == "tf_keras" and name == "Nadam":
        # It counts its weights whenever it is traced, and a step that makes variables is traced
        # twice.
        other.optimizer.build(other.trainable_variables)
    fit(other, data, first=EDGE - 1, steps=STEPS - EDGE + 1)
    assert_equal_weights(model, other)


def quantization(**kwargs):
    return kc.Quantization(delay=EDGE - 1, calibration_steps=3, **kwargs)


@pytest.mark.by_turns
def test_between_two_restarts_an_execution_may_be_cut_short_by_the_end_of_an_epoch(keras, data):
    """Of updates 5 to 8 only 5 is made, whose mask is the first; the switch is at 6."""
    x, y = data
    model = compiled(keras, made(keras, "Adam"), steps_per_execution=4)
    schedule = kc.ConstantSparsity(target_sparsity=0.0, begin_step=5)
    compress = kc.Compress(
        pruning=kc.Pruning(schedule, restart_optimizer=True),
        quantization=kc.Quantization(delay=5, calibration_steps=2, restart_optimizer=True),
        verbose=0,
    )
    restarts = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            restarts.append(engine_of(model).recipe.restarted_at)

    model.fit(x[:40], y[:40], 8, epochs=2, shuffle=False, verbose=0, callbacks=[compress, Record()])
    assert list(dict.fromkeys(restarts)) == [None, 4, 5]


@pytest.mark.slow
@pytest.mark.by_turns
def test_the_switch_is_as_a_fit_compiled_anew_with_another_rate(keras, data):
    """It takes the place of what pruning has asked for."""
    schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=3, end_step=5, frequency=1)
    model = compiled(keras, made(keras, "Adam"))
    compress = kc.Compress(
        pruning=kc.Pruning(schedule, learning_rate_factor=0.5, restart_optimizer=True),
        quantization=quantization(learning_rate_factor=FACTOR, restart_optimizer=True),
        verbose=0,
    )
    fit(model, data, [compress])
    other = compiled(keras, made(keras, "Adam"))
    for first, last, factor in ((0, 2, 1.0), (2, 5, 0.5), (5, 9, FACTOR)):
        other.compile(made(keras, "Adam"), "mse", jit_compile=False)
        other.optimizer.learning_rate.assign(np.float32(RATE) * np.float32(factor))
        member = kc.Compress(
            pruning=kc.Pruning(schedule), quantization=quantization(), partial=True, verbose=0
        )
        fit(other, data, [member], first=first, steps=last - first)
    assert_equal_weights(model, other)


@pytest.mark.slow
@pytest.mark.by_turns
def test_compiled_by_xla_it_is_the_same(keras, data):
    """The step by XLA; or each update by itself, as tf_keras does on a GPU."""
    alone = keras.__name__ == "tf_keras"
    asked = {"learning_rate_factor": FACTOR, "restart_optimizer": True}

    def trained(xla):
        optimizer = made(keras, "Adam")
        if alone:
            optimizer.jit_compile = xla
        model = compiled(keras, optimizer, jit_compile=xla and not alone)
        if alone:
            fit(model, data, steps=1)  # what is traced before must not be what is run
        fit(model, data, [kc.Compress(pruning=nothing_pruned(**asked), verbose=0)])
        return model

    for one, two in zip(trained(True).get_weights(), trained(False).get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_gradients_that_are_collected_are_so_all_the_same(data):
    """Keras 3 alone has that. Two batches make an update; the edge lies between two updates."""
    import keras

    def collecting():
        return keras.optimizers.Adam(RATE, gradient_accumulation_steps=2)

    schedule = kc.ConstantSparsity(target_sparsity=0.0, begin_step=5)
    pruning = kc.Pruning(schedule, restart_optimizer=True, learning_rate_factor=FACTOR)
    model = compiled(keras, collecting())
    fit(model, data, [kc.Compress(pruning=pruning, verbose=0)])
    other = compiled(keras, collecting())
    fit(other, data, steps=4)
    other.compile(collecting(), "mse", jit_compile=False)
    other.optimizer.learning_rate.assign(LOWERED)
    fit(other, data, first=4, steps=STEPS - 4)
    assert_equal_weights(model, other)


def test_an_optimizer_that_scales_the_loss_goes_by_the_rate_too(keras, data):
    """The one inside does."""
    scaled = getattr(keras, "mixed_precision", keras.optimizers).LossScaleOptimizer
    model = compiled(keras, scaled(made(keras, "Adam")))
    pruning = nothing_pruned(learning_rate_factor=FACTOR)
    fit(model, data, [kc.Compress(pruning=pruning, verbose=0)])
    other = compiled(keras, scaled(made(keras, "Adam")))
    fit(other, data, steps=EDGE - 1)
    other.optimizer.learning_rate = LOWERED
    fit(other, data, first=EDGE - 1, steps=STEPS - EDGE + 1)
    assert_equal_weights(model, other)


@pytest.mark.by_turns
def test_a_preview_tells_what_becomes_of_rate_and_optimizer(keras):
    planned = kc.preview(
        compiled(keras, made(keras, "Adam")),
        pruning=nothing_pruned(learning_rate_factor=0.5, restart_optimizer=True),
        quantization=kc.Quantization(delay=7, learning_rate_factor=0.1),
        steps=STEPS,
    )
    assert planned.learning_rate_factors == [(6, 0.5), (8, 0.1)]
    assert planned.restarts == [6]
    assert "from update 8 on updates are made with 0.1 of the rate" in str(planned)
    assert "before update 6 the optimizer begins anew" in str(planned)


# --- resumed


@pytest.mark.by_turns
@pytest.mark.parametrize("epoch", [1, 2], ids=["before the edge", "behind it"])
def test_a_killed_fit_goes_on_as_if_it_had_not_been(keras, data, tmp_path, epoch):
    """The edge lies in the second of three epochs, of four steps each; it is passed once."""
    asked = {"learning_rate_factor": FACTOR, "restart_optimizer": True}

    class Kills(keras.callbacks.Callback):
        def on_epoch_begin(self, at, logs=None):
            if at == epoch:
                raise KeyboardInterrupt

    def trained(*more):
        model = compiled(keras, made(keras, "Adam"))
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        compress = kc.Compress(pruning=nothing_pruned(**asked), verbose=0)
        fit(model, data, [compress, *([backup] if more else []), *more], epochs=3, steps=4)
        return model

    whole = trained()
    with pytest.raises(KeyboardInterrupt):
        trained(Kills())
    resumed = trained(keras.callbacks.Callback())
    assert_equal_weights(resumed, whole)
    assert int(tf.convert_to_tensor(resumed.optimizer.iterations)) == 12


@pytest.mark.by_turns
def test_a_saved_state_goes_on_as_if_it_had_not_been_saved(keras, data, tmp_path):
    asked = {"learning_rate_factor": FACTOR, "restart_optimizer": True}
    compress = kc.Compress(pruning=nothing_pruned(**asked), verbose=0)
    whole, model = compiled(keras, made(keras, "Adam")), compiled(keras, made(keras, "Adam"))
    fit(whole, data, [compress])
    partial = kc.Compress(pruning=nothing_pruned(**asked), partial=True, verbose=0)
    fit(model, data, [partial], steps=7)
    model.save(tmp_path / "model.keras")
    kc.save_state(model, tmp_path / "state.npz")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    kc.load_state(loaded, tmp_path / "state.npz")
    fit(loaded, data, first=7, steps=2)
    for one, two in zip(loaded.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)  # it comes back under XLA


# --- what is left alone, and what is refused


def test_an_optimizer_is_changed_inside_of_a_step_alone_and_only_if_asked_to(keras):
    for asked in ({}, {"learning_rate_factor": FACTOR}):
        model, optimizer = net(keras), made(keras, "Adam")
        plain = type(optimizer)
        compress = kc.Compress(pruning=nothing_pruned(**asked), partial=True, verbose=0)
        compress.begin(model, optimizer=optimizer)
        with compress.step():
            assert (type(optimizer) is plain) == (not asked)
            assert isinstance(optimizer, plain)
            read = float(tf.convert_to_tensor(optimizer.learning_rate))
            assert read == pytest.approx(RATE)  # by a step of the user's own
            apply(model, optimizer, 1)
        assert type(optimizer) is plain
        with pytest.raises(KeyboardInterrupt), compress.step():
            raise KeyboardInterrupt
        assert type(optimizer) is plain


def test_a_step_that_goes_by_another_rate_is_an_error(keras):
    model, optimizer, another = net(keras), made(keras, "Adam"), made(keras, "SGD")
    pruning = nothing_pruned(learning_rate_factor=FACTOR)
    compress = kc.Compress(pruning=pruning, partial=True, verbose=0)
    compress.begin(model, optimizer=optimizer)

    def by_another():
        with compress.step():
            apply(model, another, 1)
            optimizer.iterations.assign_add(1)

    with pytest.raises(RuntimeError, match="a step in which Adam made no update"):
        by_another()

    class Past(type(another)):
        def apply_gradients(self, pairs):
            for gradient, weight in pairs:
                weight.assign_sub(gradient * RATE)
            return self.iterations.assign_add(1)

    compress.begin(model, optimizer=Past(RATE))
    unasked = "Past (was not asked for its learning rate|made no update)"
    with pytest.raises(RuntimeError, match=unasked), compress.step():
        apply(model, compress._loop._optimizer, 1)
    with pytest.raises(ValueError, match="`optimizer` must be given for a model that is not"):
        kc.Compress(pruning=pruning, verbose=0).begin(net(keras))


def refused(keras, optimizer, data, **asked):
    model = compiled(keras, optimizer)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"`(restart_opt|learning_rate_f).* must be left") as found:
        fit(model, data, [kc.Compress(pruning=nothing_pruned(**asked), verbose=0)])
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    assert kc.compression_of(model) is None
    return str(found.value)


def test_an_optimizer_that_cannot_is_refused_before_training(keras, data):
    class Unmade(keras.optimizers.Adam):
        def __init__(self, own):
            super().__init__(RATE)

    said = refused(keras, Unmade(1), data, restart_optimizer=True)
    assert "cannot be made again" in said
    assert said.endswith("Received: restart_optimizer with optimizer=Unmade")
    if keras.__name__ == "tf_keras":
        averaged = keras.optimizers.Adam(RATE, use_ema=True, ema_overwrite_frequency=2)
        assert "ema_overwrite" in refused(keras, averaged, data, restart_optimizer=True)
        return
    scaled = keras.optimizers.LossScaleOptimizer(made(keras, "Adam"))
    assert "overflow" in refused(keras, scaled, data, restart_optimizer=True)
    several = keras.optimizers.MultiOptimizer(lambda weight: made(keras, "Adam"))
    assert "several" in refused(keras, several, data, learning_rate_factor=0.5)


def test_an_optimizer_given_by_its_name_begins_anew(keras):
    """What TensorFlow keeps of one that a model has made itself has other places in a new one."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    model.compile("adam", "mse", jit_compile=False)
    quantization = kc.Quantization(delay=3, calibration_steps=1, restart_optimizer=True)
    compress = kc.Compress(quantization=quantization, verbose=0)
    x, y = np.ones((24, 4), "float32"), np.ones((24, 3), "float32")
    model.fit(x, y, 4, verbose=0, callbacks=[compress])
    assert engine_of(model).recipe.restarted_at == 3
