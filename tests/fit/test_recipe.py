"""The optimizer's part: a multiple of its learning rate, and where it begins anew. What is to come
out is what a plain optimizer comes to whose rate somebody has set by hand, or which is really new.
"""

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc

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
    """Nadam of tf_keras counts its weights while it is traced."""
    model = compiled(keras, made(keras, name))
    fit(model, data, [kc.Compress(pruning=nothing_pruned(restart_optimizer=True), verbose=0)])
    other = compiled(keras, made(keras, name))
    fit(other, data, steps=EDGE - 1)
    other.compile(made(keras, name), "mse", jit_compile=False)
    fit(other, data, first=EDGE - 1, steps=STEPS - EDGE + 1)
    assert_equal_weights(model, other)


def quantization(**kwargs):
    return kc.Quantization(delay=EDGE - 1, calibration_steps=3, **kwargs)


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
