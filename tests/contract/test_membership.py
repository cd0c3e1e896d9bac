"""Who is in charge: two `Compress` in one list, copies of one, and lists of other methods."""

import copy
import inspect
import pickle
import re

import numpy as np
import pytest
from contract.runs import (
    DELAY,
    PRUNING,
    QUANTIZATION,
    UPDATES,
    assert_same_arrays,
    assert_same_run,
    assert_same_weights,
    compress,
    fit,
    net,
    outcome,
    train,
)

import keras_compress as kc
from keras_compress.engines.state import Phase

pytestmark = pytest.mark.by_turns


def test_two_equal_ones_in_one_list_are_as_one(keras, data, reference):
    model, first, second = net(keras), compress(), compress()
    got = outcome(model, fit(model, data, [first, second]), first)
    assert_same_run(got, reference)
    assert kc.compression_of(model) is first
    assert first.report == second.report == reference.report
    assert_same_weights(second.stripped_model.get_weights(), reference.weights)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("joins_first", [True, False])
def test_one_with_only_an_export_joins(keras, data, reference, tmp_path, joins_first):
    export = kc.Export(tmp_path / "net.tflite", mode="float32")
    model, charge, joining = net(keras), compress(), kc.Compress(export=export)
    callbacks = [joining, charge] if joins_first else [charge, joining]
    got = outcome(model, fit(model, data, callbacks), charge)
    assert_same_run(got, reference)
    assert kc.compression_of(model) is charge
    assert charge.report.export is None
    assert joining.report.export.error is None
    assert joining.report.export.written
    assert (joining.report.step, joining.report.switched_at) == (UPDATES, DELAY + 1)
    # The float network, whose zeros are in the file.
    x, _ = data
    answers = kc.load_tflite(export.path).predict(x[:8])
    np.testing.assert_allclose(
        answers, got.compress.stripped_model.predict(x[:8], verbose=0), atol=1e-5
    )


DIFFERING = [
    pytest.param(
        {"pruning": kc.Pruning(kc.ConstantSparsity(target_sparsity=0.25, begin_step=1))},
        "Compress: `pruning` must equal that of the Compress already in charge of this model",
        "target_sparsity=0.25",
        id="pruning",
    ),
    pytest.param(
        {"pruning": None}, "Compress: `pruning` must equal", "pruning=None", id="no-pruning"
    ),
    pytest.param(
        {"quantization": kc.Quantization(delay=DELAY + 1)},
        "Compress: `quantization` must equal that of the Compress already in charge",
        f"delay={DELAY + 1}",
        id="quantization",
    ),
    pytest.param(
        {"quantization": None},
        "Compress: `quantization` must equal",
        "quantization=None",
        id="no-quantization",
    ),
]


@pytest.mark.parametrize(("differing", "message", "received"), DIFFERING)
def test_one_with_other_specs_is_refused_before_training(keras, data, differing, message, received):
    model = net(keras)
    before = model.get_weights()
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        fit(model, data, [compress(), compress(**differing)])
    assert received in str(refusal.value).partition("Received: ")[2]
    assert_same_weights(model.get_weights(), before)


def test_after_a_refusal_the_model_is_as_if_nothing_had_been_asked(keras, data, plain):
    model = net(keras)
    with pytest.raises(ValueError, match="`quantization` must equal"):
        fit(model, data, [compress(), compress(quantization=None)])
    assert kc.compression_of(model) is None
    got = outcome(model, fit(model, data))
    assert got.history == plain.history
    assert_same_weights(got.weights, plain.weights)


def test_one_with_other_specs_is_refused_in_a_later_fit_and_harms_nothing(keras, data):
    callback = compress()
    first = train(keras, data, callback)
    with pytest.raises(ValueError, match="`pruning` must equal"):
        fit(first.model, data, [compress(pruning=None)])
    assert kc.compression_of(first.model) is callback
    second = outcome(first.model, fit(first.model, data, [callback], epochs=1), callback)
    assert second.state.step == UPDATES + 8
    assert_same_arrays(second.state.masks, first.state.masks)


def test_an_export_alone_leaves_a_plain_fit_as_it_is(keras, data, plain, tmp_path):
    callback = kc.Compress(export=kc.Export(tmp_path / "net.tflite", mode="float32"))
    got = train(keras, data, callback)
    assert got.state is None
    assert got.history == plain.history
    assert_same_weights(got.weights, plain.weights)
    assert got.report.export.written


# --- copies


def test_a_copy_of_a_used_callback_has_no_model_and_gives_the_same_run(keras, data, reference):
    for copied in (
        copy.deepcopy(reference.compress),
        kc.Compress.from_config(reference.compress.get_config()),
    ):
        assert copied is not reference.compress
        assert (copied.report, copied.stripped_model) == (None, None)
        assert getattr(copied, "model", None) is None
        assert (copied.pruning, copied.quantization) == (PRUNING, QUANTIZATION)
        assert copied.get_config() == reference.compress.get_config()
        assert kc.compression_of(reference.model) is reference.compress
    assert_same_run(train(keras, data, copied), reference)


def test_a_copy_keeps_every_argument(tmp_path):
    given = {
        "pruning": PRUNING,
        "quantization": QUANTIZATION,
        "export": kc.Export(tmp_path / "net.tflite"),
        "partial": True,
        "reset_best": False,
        "verbose": 0,
        "on_export": print,
    }
    assert set(given) == set(inspect.signature(kc.Compress).parameters)
    own = kc.Compress(**given)
    for copied in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert {name: getattr(copied, name) for name in given} == given
    written = kc.Compress.from_config(own.get_config())  # a function is no plain value
    assert {name: getattr(written, name) for name in given} == {**given, "on_export": None}


@pytest.mark.slow
def test_one_that_has_been_through_a_fit_can_be_sent_to_another_process(keras, data, tmp_path):
    callback = kc.Compress(
        pruning=PRUNING,
        quantization=QUANTIZATION,
        export=kc.Export(tmp_path / "net.tflite"),
        verbose=0,
    )
    run = train(keras, data, callback)
    copied = pickle.loads(pickle.dumps(callback))
    assert copied.report == callback.report
    assert copied.get_config() == callback.get_config()
    assert copied.stripped_model is None
    assert kc.compression_of(run.model) is callback
    assert train(keras, data, copied).model is not run.model  # it works there
    assert copied.report.export.written


def test_two_with_a_spec_each_are_told_to_be_one(keras, data):
    one, two = kc.Compress(pruning=PRUNING), kc.Compress(quantization=QUANTIZATION)
    with pytest.raises(
        ValueError, match=r"write `Compress\(pruning=\.\.\., quantization=\.\.\.\)`"
    ):
        train(keras, data, one, [two])


@pytest.mark.slow
def test_the_original_goes_on_with_another_model(keras, data, reference):
    # One callback, two models one after the other: nothing of the first is left in it.
    callback = compress()
    first = train(keras, data, callback)
    second = train(keras, data, callback)
    assert_same_run(first, reference)
    assert_same_run(second, reference)
    assert kc.compression_of(first.model) is kc.compression_of(second.model) is callback


# --- evaluate and predict


def test_evaluate_and_predict_take_the_callback_and_do_as_without_it(
    keras, data, test_data, reference
):
    model, callback = net(keras), compress()
    history = fit(model, data, [callback])
    x, y = test_data
    for callbacks in ([callback], [compress()]):
        assert model.evaluate(x, y, verbose=0, callbacks=callbacks) == model.evaluate(
            x, y, verbose=0
        )
        np.testing.assert_array_equal(
            model.predict(x, verbose=0, callbacks=callbacks), model.predict(x, verbose=0)
        )
    assert_same_run(outcome(model, history, callback), reference)
    assert callback.report == reference.report


def test_evaluate_and_predict_compress_no_plain_model(keras, data, test_data, plain):
    model = net(keras)
    x, y = test_data
    callback = compress()
    expected = model.evaluate(x, y, verbose=0), model.predict(x, verbose=0)
    assert model.evaluate(x, y, verbose=0, callbacks=[callback]) == expected[0]
    np.testing.assert_array_equal(model.predict(x, verbose=0, callbacks=[callback]), expected[1])
    assert kc.compression_of(model) is None
    assert callback.report is None
    got = outcome(model, fit(model, data))
    assert got.history == plain.history
    assert_same_weights(got.weights, plain.weights)


def test_the_callback_goes_in_alone_too(keras, data, reference):
    model, callback = net(keras), compress()
    x, y = data
    history = model.fit(x, y, batch_size=32, epochs=3, shuffle=False, verbose=0, callbacks=callback)
    got = outcome(model, history, callback)
    assert_same_run(got, reference)
    assert got.state.phase == Phase.ON
