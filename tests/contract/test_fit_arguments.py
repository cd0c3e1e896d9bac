"""Whatever `fit` and `compile` are given, the run is the one without it."""

import copy
import logging

import numpy as np
import pytest
import tensorflow as tf
from contract.runs import (
    BATCH,
    DELAY,
    EPOCHS,
    LOGS,
    PRUNING,
    STEPS,
    UPDATES,
    assert_same_arrays,
    assert_same_counts,
    assert_same_run,
    assert_same_weights,
    compiled,
    compress,
    fit,
    kept,
    net,
    outcome,
    plain_copy,
    train,
    watcher,
)

import keras_compress as kc
from keras_compress.engines.state import Phase

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]


def test_the_reference_prunes_watches_and_switches(reference, plain):
    # Every other row leans on this one.
    state = reference.state
    assert (state.step, state.phase, state.switched_at) == (UPDATES, Phase.ON, DELAY + 1)
    assert set(reference.history) == set(plain.history) | LOGS
    assert reference.history["quantized"] == [0.0, 1.0, 1.0]
    # At update 6 it is 0.5 * (1 - (1 - 4 / 8)**3), but for the rounding to whole weights.
    assert reference.history["sparsity"] == pytest.approx([0.4375, 0.5, 0.5], abs=5e-3)
    for mask in state.masks.values():
        assert mask.mean() == pytest.approx(0.5, abs=0.01)


# --- validation


def test_validation_changes_nothing_but_the_log(keras, data, test_data, reference):
    got = train(keras, data, compress(), validation_data=test_data)
    assert_same_run(got, reference, also={"val_loss", "val_accuracy"})


@pytest.mark.slow
def test_validation_sees_masked_weights_and_the_quantized_network(keras, data, test_data):
    weights = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.append(note.model.get_weights())
    )
    got = train(keras, data, compress(), [note], validation_data=test_data)
    losses = got.history["val_loss"]

    def loss_of(model):
        return model.evaluate(*test_data, batch_size=BATCH, verbose=0)[0]

    # The first epoch ends in float, with 44 % zeros; the notes are taken of masked weights.
    assert np.mean(weights[0][0] == 0) == pytest.approx(0.4375, abs=0.01)
    assert losses[0] == pytest.approx(loss_of(plain_copy(keras, weights[0])), rel=1e-6)
    # The last one ends quantized: not the float network's number.
    assert losses[-1] == pytest.approx(loss_of(got.model), rel=1e-6)
    assert losses[-1] != pytest.approx(loss_of(plain_copy(keras, weights[-1])), rel=1e-4)


def test_a_validation_split_trains_on_the_rest_only(keras, digits, reference):
    x, y, _, _ = digits
    got = train(keras, (x[:320], y[:320]), compress(), validation_split=0.2)
    assert_same_run(got, reference, also={"val_loss", "val_accuracy"})


# --- steps_per_execution


def test_steps_per_execution_that_divides_the_delay_changes_nothing(keras, data, reference):
    model = net(keras, steps_per_execution=4)
    assert_same_run(train(keras, data, compress(), model=model), reference)


# Executions of epoch 2 begin after updates 8, 11, 14 (span 3) and 8, 13 (span 5; the last of every
# epoch is cut short): the first that begins at or after 12.
@pytest.mark.parametrize(("span", "switched_at"), [(3, 15), (5, 14)])
def test_steps_per_execution_that_does_not_divide_the_delay_moves_the_switch_to_the_next_boundary(
    keras, data, reference, span, switched_at
):
    got = train(keras, data, compress(), model=net(keras, steps_per_execution=span))
    assert got.report.switched_at == switched_at
    assert f"quantized from update {switched_at}" in str(got.report)
    assert got.state.step == reference.state.step
    assert got.state.phase == reference.state.phase
    assert got.history["sparsity"] == reference.history["sparsity"]
    assert got.history["quantized"] == reference.history["quantized"]
    assert_same_arrays(got.state.masks, reference.state.masks)  # all of them from before the delay


# --- run_eagerly and jit_compile


def test_run_eagerly_changes_the_last_bits_only(keras, data, reference):
    got = train(keras, data, compress(), model=net(keras, run_eagerly=True))
    assert_same_counts(got, reference)
    assert kept(got.state) == kept(reference.state)
    assert set(got.history) == set(reference.history)
    assert got.history["sparsity"] == reference.history["sparsity"]
    assert got.history["quantized"] == reference.history["quantized"]
    assert got.history["loss"] == pytest.approx(reference.history["loss"], rel=1e-3)


def test_run_eagerly_equals_a_plain_eager_fit_while_off_and_watching(keras, data):
    plain = train(keras, data, None, model=net(keras, run_eagerly=True), epochs=1)
    callback = kc.Compress(quantization=kc.Quantization(delay=STEPS, calibration_steps=4))
    got = train(keras, data, callback, model=net(keras, run_eagerly=True), epochs=1)
    assert got.state.observed == 4
    assert_same_weights(got.weights, plain.weights)
    assert got.history["loss"] == plain.history["loss"]


@pytest.mark.sweep
def test_jit_compile_changes_the_last_bits_only(keras, data):
    # Two epochs of one phase each, because XLA takes seconds for every phase: watching, then on.
    def run(jit_compile):
        weights = []
        note = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: weights.append(note.model.get_weights())
        )
        callback = compress(quantization=kc.Quantization(delay=STEPS, calibration_steps=STEPS))
        model = net(keras, jit_compile=jit_compile)
        return train(keras, data, callback, [note], model=model, epochs=2), weights

    (compiled, compiled_weights), (got, weights) = run(True), run(False)
    assert compiled.model.jit_compile
    assert not got.model.jit_compile
    # Float updates differ in the last bits; rounding makes whole steps of some of them later.
    assert_same_weights(compiled_weights[0], weights[0], tolerance=1e-5)
    assert compiled.history["loss"] == pytest.approx(got.history["loss"], rel=1e-2)
    assert_same_counts(compiled, got)
    assert kept(compiled.state) == kept(got.state)
    assert set(compiled.history) == set(got.history)
    assert compiled.history["sparsity"] == pytest.approx(got.history["sparsity"], rel=1e-6)
    assert compiled.history["quantized"] == got.history["quantized"] == [0.0, 1.0]


# --- weights of classes and samples


def _class_weight(y):
    return {"class_weight": {label: 0.25 * label for label in range(10)}}


def _sample_weight(y):
    return {"sample_weight": np.linspace(0.0, 2.0, len(y), dtype="float32")}


WEIGHTINGS = [
    pytest.param(_class_weight, id="class_weight"),
    pytest.param(_sample_weight, id="sample_weight"),
]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weighted_training_equals_the_plain_one_while_off_and_watching(
    keras, data, plain, weighting
):
    arguments = weighting(data[1])
    weighted = train(keras, data, None, **arguments)
    got = train(keras, data, watcher(), **arguments)
    assert_same_weights(got.weights, weighted.weights)
    assert got.history["loss"] == weighted.history["loss"]
    assert got.history["loss"] != plain.history["loss"]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weighted_training_keeps_to_the_schedule_and_the_delay(keras, data, reference, weighting):
    got = train(keras, data, compress(), **weighting(data[1]))
    assert_same_counts(got, reference)
    assert kept(got.state) == kept(reference.state)
    assert set(got.history) == set(reference.history)
    assert got.history["sparsity"] == reference.history["sparsity"]
    assert got.history["quantized"] == reference.history["quantized"]
    assert got.history["loss"] != reference.history["loss"]


# --- where the data come from


def _batches(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)


def _endless(keras, x, y):
    return _batches(x, y).repeat(), {"steps_per_epoch": STEPS}


def _generator(keras, x, y):
    def forever():
        while True:
            for i in range(0, len(x), BATCH):
                yield x[i : i + BATCH], y[i : i + BATCH]

    return forever(), {"steps_per_epoch": STEPS}


def _sequence(keras, x, y):
    base = getattr(keras.utils, "PyDataset", None) or keras.utils.Sequence

    class Batches(base):
        def __len__(self):
            return len(x) // BATCH

        def __getitem__(self, i):
            return x[i * BATCH : (i + 1) * BATCH], y[i * BATCH : (i + 1) * BATCH]

    return Batches(), {}


def _train_on(batches, model, **arguments):
    callback = compress()
    arguments = {"epochs": EPOCHS, "shuffle": False, "verbose": 0, **arguments}
    history = model.fit(batches, callbacks=[callback], **arguments)
    return outcome(model, history, callback)


@pytest.fixture(scope="module")
def from_dataset(keras, data):
    return _train_on(_batches(*data), net(keras))


def test_a_dataset_gives_the_same_run_as_arrays(from_dataset, reference):
    # In Keras 3 a plain fit differs in the last bits, too.
    assert_same_counts(from_dataset, reference)
    assert_same_arrays(from_dataset.state.masks, reference.state.masks)
    assert_same_weights(from_dataset.weights, reference.weights, tolerance=1e-5)
    assert set(from_dataset.history) == set(reference.history)


@pytest.mark.parametrize("source", [_endless, _generator, _sequence])
def test_the_same_batches_from_elsewhere_give_the_same_run(keras, data, from_dataset, source):
    batches, arguments = source(keras, *data)
    assert_same_run(_train_on(batches, net(keras), **arguments), from_dataset)


# Keras 3 says so at the end of every such epoch, of a plain fit, too.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_the_step_without_a_batch_that_ends_a_dataset_of_unknown_length_does_not_count(keras, data):
    # With SGD, because that step does count for Adam's own corrections, in a plain fit, too.
    def run(dataset):
        return _train_on(dataset, net(keras, optimizer=keras.optimizers.SGD(0.05)))

    batches = _batches(*data)
    got, expected = run(batches.filter(lambda *_: True)), run(batches)
    got.state.iterations = expected.state.iterations  # for the same reason
    assert_same_run(got, expected)


# --- initial_epoch and fractions


def test_initial_epoch_shortens_the_fit_that_fractions_refer_to(keras, data):
    # Two epochs are left, 16 updates: 0.25 is update 4, 0.5 is 8, 0.75 is 12.
    fractions = kc.Compress(
        pruning=kc.Pruning(
            kc.PolynomialDecay(final_sparsity=0.5, begin_step=0.25, end_step=0.5, frequency=2)
        ),
        quantization=kc.Quantization(delay=0.75, calibration_steps=4),
    )
    integers = kc.Compress(
        pruning=kc.Pruning(
            kc.PolynomialDecay(final_sparsity=0.5, begin_step=4, end_step=8, frequency=2)
        ),
        quantization=kc.Quantization(delay=12, calibration_steps=4),
    )
    expected = train(keras, data, integers, epochs=2)
    assert expected.state.switched_at == 13
    assert_same_run(train(keras, data, fractions, initial_epoch=1, epochs=3), expected)


def test_initial_epoch_counts_for_what_is_within_reach(keras, data):
    callback = kc.Compress(quantization=kc.Quantization(delay=UPDATES))
    with pytest.raises(ValueError, match="ends at update 16"):
        train(keras, data, callback, initial_epoch=1)


# --- more than one fit


def test_a_second_fit_with_the_callback_continues(keras, data, reference):
    callback = compress(partial=True)
    first = train(keras, data, callback, epochs=1)
    assert first.report.missed == [
        f"the final sparsity at update {PRUNING.schedule.last_step}",
        f"the delay at update {DELAY}",
    ]
    second = train(keras, data, callback, model=first.model, initial_epoch=1)
    assert second.report.missed == []
    for name, values in second.history.items():
        second.history[name] = first.history[name] + values
    assert_same_run(second, reference)


def test_a_second_fit_with_an_equal_callback_continues(keras, data, reference):
    model = net(keras)
    train(keras, data, compress(partial=True), model=model, epochs=1)
    got = train(keras, data, compress(), model=model, initial_epoch=1)
    assert_same_counts(got, reference)
    assert_same_arrays(got.state.masks, reference.state.masks)
    assert_same_arrays(got.state.ranges, reference.state.ranges)
    assert_same_weights(got.weights, reference.weights)


def test_a_fit_without_the_callback_keeps_the_masks_to_their_schedule(keras, data, caplog):
    # Quantization would watch from update 9 and round from 13; a bare fit does neither.
    caplog.set_level(logging.INFO, logger="keras_compress")
    model = net(keras)
    train(keras, data, compress(partial=True), model=model, epochs=1)
    caplog.clear()
    bare = outcome(model, fit(model, data, epochs=2))
    assert caplog.messages == [
        "This fit has no Compress: masks keep to their schedule, quantization stays off."
    ]

    pruned = train(keras, data, kc.Compress(pruning=PRUNING), epochs=EPOCHS)
    assert (bare.state.step, bare.state.phase) == (UPDATES, Phase.OFF)
    assert (bare.state.observed, bare.state.switched_at) == (0, None)
    assert_same_arrays(bare.state.masks, pruned.state.masks)
    assert_same_weights(bare.weights, pruned.weights)
    assert bare.history["sparsity"] == pruned.history["sparsity"][1:]
    assert bare.history["quantized"] == [0.0, 0.0]


def test_a_fit_with_the_callback_after_one_without_enters_the_phase_of_its_step(keras, data):
    model = net(keras)
    train(keras, data, compress(partial=True), model=model, epochs=1)
    fit(model, data, epochs=1)
    got = train(keras, data, compress(), model=model, epochs=1)
    assert (got.state.step, got.state.phase) == (UPDATES, Phase.ON)
    assert got.state.switched_at == 2 * STEPS + 1  # past the delay of 12, at the first it saw
    assert got.history["quantized"] == [1.0]


def test_a_fit_without_the_callback_goes_on_rounding(keras, data, caplog):
    # One epoch with it and one without equal two with it, when the phase changes in neither.
    callback = kc.Compress(quantization=kc.Quantization(delay=4, calibration_steps=4))
    expected = train(keras, data, copy.deepcopy(callback), epochs=2)
    caplog.set_level(logging.INFO, logger="keras_compress")
    model = train(keras, data, callback, epochs=1).model
    caplog.clear()
    got = outcome(model, fit(model, data, epochs=1))
    assert caplog.messages == [
        "This fit has no Compress: masks keep to their schedule, quantization stays on."
    ]
    assert_same_counts(got, expected)
    assert_same_arrays(got.state.ranges, expected.state.ranges)
    assert_same_weights(got.weights, expected.weights)


# --- freeze, fit, unfreeze, recompile, fit


def test_a_frozen_kernel_gets_its_mask_when_it_thaws(keras, data):
    model = net(keras)
    backbone = model.get_layer("conv")
    backbone.trainable = False
    compiled(keras, model)
    before = backbone.get_weights()[0]
    first = train(keras, data, compress(), model=model)
    np.testing.assert_array_equal(backbone.get_weights()[0], before)
    frozen, other = first.state.masks.values()
    assert frozen.all()
    assert other.mean() == pytest.approx(0.5, abs=0.01)

    backbone.trainable = True
    compiled(keras, model)
    second = train(keras, data, compress(), model=model)
    assert (second.state.step, second.state.phase) == (2 * UPDATES, Phase.ON)
    assert second.state.switched_at == first.state.switched_at
    thawed, same = second.state.masks.values()
    # By magnitude, of the kernel as it was when it thawed: the last update with a mask is long ago.
    magnitudes = np.abs(before)
    np.testing.assert_array_equal(thawed, magnitudes >= np.sort(magnitudes, axis=None)[18])
    np.testing.assert_array_equal(same, other)
    after = backbone.get_weights()[0]
    assert not after[~thawed].any()
    assert (after[thawed] != before[thawed]).all()
    # As many zeros over all as if nothing had ever been frozen.
    assert second.history["sparsity"][0] == pytest.approx(0.5, abs=1e-3)


def test_recompiling_resets_neither_step_nor_masks_nor_phase(keras, data):
    model = net(keras)
    first = train(keras, data, compress(), model=model)
    compiled(keras, model, keras.optimizers.SGD(0.0))
    second = train(keras, data, compress(), model=model, epochs=1)
    assert second.state.step == UPDATES + STEPS
    assert second.state.phase == Phase.ON
    assert second.state.switched_at == DELAY + 1
    assert second.state.observed == first.state.observed + STEPS
    assert_same_arrays(second.state.masks, first.state.masks)
    assert_same_weights(second.weights[:1], first.weights[:1])  # its learning rate is zero


# --- learning rates


def _decaying(keras):
    return keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 4, 0.8))


def test_a_learning_rate_schedule_goes_on_over_the_switch(keras, data, reference):
    def run(callback):
        def note_rate(*_):
            rates.append(float(np.asarray(note.model.optimizer.learning_rate)))

        rates = []
        note = keras.callbacks.LambdaCallback(on_epoch_end=note_rate)
        model = net(keras, optimizer=_decaying(keras))
        return train(keras, data, callback, [note], model=model), rates

    got, rates = run(compress())
    _, plain_rates = run(None)
    assert rates == plain_rates
    assert len(set(rates)) == EPOCHS
    assert_same_counts(got, reference)
    assert kept(got.state) == kept(reference.state)


def test_a_learning_rate_schedule_equals_the_plain_fit_while_off_and_watching(keras, data):
    plain = train(keras, data, None, model=net(keras, optimizer=_decaying(keras)))
    got = train(keras, data, watcher(), model=net(keras, optimizer=_decaying(keras)))
    assert_same_weights(got.weights, plain.weights)
    assert got.state.iterations == UPDATES
