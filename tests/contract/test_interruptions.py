"""Keras calls no hook on an exception or Ctrl-C: the model must be usable between any two."""

import numpy as np
import pytest
from contract.runs import (
    BATCH,
    STEPS,
    assert_same_arrays,
    assert_same_counts,
    assert_same_weights,
    compiled,
    fit,
    kernels,
    outcome,
)

import keras_compress as kc

# Where each hook raises, as the number of updates done by then. Pruned from update 2 to 6, watched
# from the first, rounded from update 9.
HOOKS = {
    "on_train_begin": 0,
    "on_train_batch_begin": 3,
    "on_epoch_begin": 8,
    "on_test_begin": 8,
    "on_test_batch_begin": 8,
    "on_test_batch_end": 8,
    "on_train_batch_end": 11,
    "on_epoch_end": 16,
    "on_test_end": 16,
    "on_train_end": 24,
}
ALL = 32


def compress():
    schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=6, frequency=2)
    return kc.Compress(
        pruning=kc.Pruning(schedule),
        quantization=kc.Quantization(delay=STEPS, calibration_steps=STEPS),
    )


def dense_net(keras):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return compiled(
        keras,
        keras.Sequential(
            [
                layers.Input((64,), name="pixels"),
                layers.Dense(8, activation="relu", name="hidden"),
                layers.Dense(10, activation="softmax", name="probabilities"),
            ]
        ),
    )


def raising(keras, hook, error, at):
    """A callback that raises in `hook`, once, when `at` updates are done."""

    def raise_there(self, *_, **__):
        if not self.has_raised and int(self.model.optimizer.iterations.numpy()) == at:
            self.has_raised = True
            raise error

    members = {hook: raise_there, "has_raised": False}
    return type("Raising", (keras.callbacks.Callback,), members)()


@pytest.fixture(scope="module")
def rows(data):
    """The same batch `ALL` times, so that a fit can go on anywhere within an epoch."""
    x, y = data
    return np.tile(x[:BATCH].reshape(BATCH, -1), (ALL, 1)), np.tile(y[:BATCH], ALL)


@pytest.fixture(scope="module")
def test_rows(test_data):
    x, y = test_data
    return x.reshape(len(x), -1), y


def train(model, rows, callbacks, epochs, updates, **arguments):
    """`epochs` times `updates`."""
    x, y = (array[: updates * BATCH] for array in rows)
    return fit(model, (x, y), callbacks, epochs=epochs, **arguments)


@pytest.fixture(scope="module")
def uninterrupted(keras, rows, test_rows):
    model, callback = dense_net(keras), compress()
    history = train(model, rows, [callback], ALL // STEPS, STEPS, validation_data=test_rows)
    return outcome(model, history, callback)


def _rows_of_hooks():
    """Every hook with both errors and at both places; which goes with which alternates."""
    for i, (hook, at) in enumerate(HOOKS.items()):
        for error, before in ((RuntimeError, i % 2 == 0), (KeyboardInterrupt, i % 2 == 1)):
            place = "before" if before else "after"
            yield pytest.param(hook, at, error, before, id=f"{hook}-{error.__name__}-{place}")


def _left_to_the_sweep(keras, hook, error):
    """Each hook with one Keras and one error, in which every error occurs at either place."""
    number = list(HOOKS).index(hook)
    own = RuntimeError if (number // 2 % 2 == 0) == (keras == "keras3") else KeyboardInterrupt
    return error is not own or (number % 2 == 0) != (keras == "keras3")


@pytest.mark.slow_after(1)
@pytest.mark.sweep_if(when=_left_to_the_sweep)
@pytest.mark.parametrize(("hook", "at", "error", "before"), [*_rows_of_hooks()])
def test_after_an_interruption_the_model_is_usable_and_the_next_fit_goes_on(
    keras, rows, test_rows, uninterrupted, tmp_path, hook, at, error, before
):
    model, callback = dense_net(keras), compress()
    culprit = raising(keras, hook, error("on purpose"), at)
    callbacks = [culprit, callback] if before else [callback, culprit]
    with pytest.raises(error, match="on purpose"):
        train(model, rows, callbacks, 3, STEPS, validation_data=test_rows)
    assert int(model.optimizer.iterations.numpy()) == at

    if at in (8, 16, 24):  # the end of an epoch
        losses = uninterrupted.history["val_loss"]
        loss, _ = model.evaluate(*test_rows, verbose=0, batch_size=BATCH)
        assert loss == pytest.approx(losses[at // STEPS - 1], rel=1e-6)
    plain = kc.strip(model)
    assert kc.compression_of(plain) is None
    if at >= 8:
        for kernel in kernels(plain.get_weights()):
            assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.01)
    model.save(tmp_path / "model.keras")
    # Not compiled: Keras 3 cannot load an optimizer that was saved before its first update.
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert_same_weights(loaded.get_weights(), model.get_weights())
    assert loaded.predict(test_rows[0], verbose=0).shape == (len(test_rows[0]), 10)

    got = outcome(model, train(model, rows, [callback], 1, ALL - at), callback)
    assert got.report.step == ALL
    assert_same_counts(got, uninterrupted)
    assert_same_arrays(got.state.masks, uninterrupted.state.masks)
    assert_same_arrays(got.state.ranges, uninterrupted.state.ranges)
    assert_same_weights(got.weights, uninterrupted.weights)
