"""Steps, fractions and fits: when a plan resolves, when it cannot be reached, how it goes on."""

import logging

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.snapshot import take

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

BATCH, STEPS = 8, 6  # updates of an epoch


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(17)
    x = generator.normal(size=(BATCH * STEPS, 6)).astype("float32")
    return x, generator.normal(size=(len(x), 3)).astype("float32")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


@pytest.fixture
def warnings_logged(caplog):
    """The texts of our own warnings so far."""
    caplog.set_level(logging.INFO, logger="keras_compress")
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name == "keras_compress" and record.levelno >= logging.WARNING
    ]


def net(keras, *, shapes=True, **arguments):
    layers = keras.layers
    keras.utils.set_random_seed(6)
    steps = [layers.Dense(10, activation="relu", name="first"), layers.Dense(3, name="second")]
    model = keras.Sequential([layers.Input((6,)), *steps] if shapes else steps)
    model.compile(keras.optimizers.SGD(0.05), loss="mse", **{"jit_compile": False, **arguments})
    return model


def fit(model, data, *callbacks, epochs=2, **arguments):
    given = {"batch_size": BATCH, "epochs": epochs, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(*data, callbacks=list(callbacks), **given)


def until(end_step, final=0.5):
    """A pruning spec that ends at this step."""
    begin = 0.0 if isinstance(end_step, float) else 1
    return kc.Pruning(
        kc.PolynomialDecay(final_sparsity=final, begin_step=begin, end_step=end_step, frequency=2)
    )


def unknown_length(data):
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH).filter(lambda x, y: True)


def resolved(report):
    """(end_step of the pruning, delay, freeze_step)."""
    ends = {schedule["end_step"] for schedule in report.steps["schedules"].values()}
    return (*(ends or {None}), report.steps["delay"], report.steps["freeze_step"])


# --- fractions

FRACTIONS = {
    "pruning": until(0.3),
    "quantization": kc.Quantization(delay=0.6, freeze_step=0.8, calibration_steps=2),
}


def test_fractions_are_of_the_updates_of_this_fit(keras, data):
    model, compress = net(keras), kc.Compress(**FRACTIONS)
    fit(model, data, compress, epochs=3)
    # Of 18 updates: round(5.4), round(10.8), round(14.4).
    assert resolved(compress.report) == (5, 11, 14)
    assert compress.report.switched_at == 12
    assert compress.report.phase == "frozen"
    assert compress.report.sparsity == pytest.approx(0.5)
    assert compress.report.missed == []


def test_fractions_follow_the_epochs_that_are_left(keras, data):
    # Neither Keras tells of `initial_epoch` before the first epoch: 2 of 5 epochs are gone.
    model, compress = net(keras), kc.Compress(**FRACTIONS)
    fit(model, data, compress, epochs=5, initial_epoch=2)
    assert resolved(compress.report) == (5, 11, 14)
    assert compress.report.step == 18


@pytest.mark.parametrize("steps_per_execution", [2, 5])
def test_fractions_count_updates_and_not_executions(keras, data, steps_per_execution):
    # With 5, the switch falls on the last execution of an epoch, which runs a single update.
    model = net(keras, steps_per_execution=steps_per_execution)
    compress = kc.Compress(**FRACTIONS)
    fit(model, data, compress, epochs=3)
    assert resolved(compress.report) == (5, 11, 14)
    assert compress.report.step == 18


def test_a_second_fit_keeps_the_steps_of_the_first(keras, data):
    model, compress = net(keras), kc.Compress(**FRACTIONS)
    fit(model, data, compress, epochs=3)
    masks = [target.mask.numpy() for target in engine_of(model).pruner.targets]
    fit(model, data, kc.Compress(**FRACTIONS), epochs=1)  # equal specs go on with what they find
    fit(model, data, compress, epochs=2)
    assert resolved(compress.report) == (5, 11, 14)
    assert (compress.report.step, compress.report.switched_at) == (18 + 6 + 12, 12)
    for target, mask in zip(engine_of(model).pruner.targets, masks, strict=True):
        np.testing.assert_array_equal(target.mask.numpy(), mask)


@pytest.mark.parametrize("shapes", [True, False], ids=["built", "without-shapes"])
def test_one_is_an_update_and_one_point_nought_the_whole_fit(keras, data, shapes):
    model = net(keras, shapes=shapes)
    pruning = kc.Pruning(
        kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=1.0, frequency=100)
    )
    compress = kc.Compress(pruning=pruning, quantization=kc.Quantization(delay=1))
    fit(model, data, compress)
    assert resolved(compress.report) == (12, 1, None)
    assert compress.report.switched_at == 2
    assert compress.report.sparsity == pytest.approx(0.5)  # by the update at end_step, 12


def test_a_fraction_that_rounds_to_a_step_out_of_order_is_an_error(keras, data):
    schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=5, end_step=0.25)
    message = (
        "PolynomialDecay: `begin_step` must be less than `end_step`. "
        "Received: begin_step=5, end_step=0.25 (step 3)"
    )
    refused(keras, data, message, pruning=kc.Pruning(schedule))


# --- fits that do not know their length


@pytest.mark.parametrize("spec", ["pruning", "quantization"])
@pytest.mark.parametrize("source", ["dataset", "generator"])
def test_fractions_of_an_unknown_length_are_an_error(keras, data, spec, source):
    if source == "dataset":
        batches = unknown_length(data)
    else:
        batches = ((data[0][i : i + BATCH], data[1][i : i + BATCH]) for i in range(0, 48, BATCH))
    model = net(keras)
    before = model.get_weights()
    compress = kc.Compress(**{spec: FRACTIONS[spec]})
    with pytest.raises(ValueError, match=r"^Compress: ") as error:
        model.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=[compress])
    assert str(error.value) == (
        "Compress: steps must be ints, because this fit does not know its length; give "
        f"`steps_per_epoch`, or count updates. Received: {FRACTIONS[spec]}"
    )
    assert_plain(model, before)


def test_steps_per_epoch_gives_a_length(keras, data):
    model, compress = net(keras), kc.Compress(**FRACTIONS)
    batches, fixed = unknown_length(data).repeat(), {"shuffle": False, "verbose": 0}
    model.fit(batches, epochs=3, steps_per_epoch=STEPS, callbacks=[compress], **fixed)
    assert resolved(compress.report) == (5, 11, 14)


# Keras 3 says so at the end of every epoch of unknown length.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_ints_of_an_unknown_length_are_checked_at_the_end(keras, data, path, warnings_logged):
    model = net(keras)
    compress = kc.Compress(pruning=until(13), export=kc.Export(path, mode="float32"))
    given = {"shuffle": False, "verbose": 0, "callbacks": [compress]}
    model.fit(unknown_length(data), epochs=2, **given)
    assert warnings_logged() == [
        "The fit ended at update 12, before the final sparsity at update 13; nothing is exported."
    ]
    assert compress.report.missed == ["the final sparsity at update 13"]
    assert not path.exists()

    # One epoch more, and the plan is done.
    model.fit(unknown_length(data), epochs=1, **given)
    assert compress.report.missed == []
    assert compress.report.sparsity == pytest.approx(0.5)
    assert path.exists()
    assert len(warnings_logged()) == 1


# --- unreachable targets


def assert_plain(model, weights):
    """Nothing was trained, nothing is attached, nothing is patched."""
    for mine, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(mine, before)
    assert int(np.asarray(model.optimizer.iterations)) == 0
    assert engine_of(model) is None
    assert kc.compression_of(model) is None
    patched = {"train_step", "fit", "export", "call"} & set(vars(model))
    assert not patched
    assert not any("call" in vars(layer) for layer in model.layers)


def refused(keras, data, message, **specs):
    """The fit raises `message`, the model stays plain, and another fit with good specs works."""
    model = net(keras)
    before = model.get_weights()
    compress = kc.Compress(**specs)
    with pytest.raises(ValueError, match=r"^\w+: ") as error:
        fit(model, data, compress)
    assert str(error.value) == message
    assert compress.report is None
    assert_plain(model, before)

    better = kc.Compress(pruning=until(12), quantization=kc.Quantization(delay=8))
    fit(model, data, better)
    assert (better.report.step, better.report.switched_at) == (12, 9)
    assert better.report.sparsity == pytest.approx(0.5)


def unreachable(name, step):
    return (
        f"Compress: {name} must be reached within this fit, which ends at update 12; train longer, "
        "use fractions, or say `partial=True` for a plan over several fits. "
        f"Received: step {step}"
    )


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        pytest.param({"pruning": until(13)}, unreachable("the final sparsity", 13), id="end_step"),
        pytest.param(
            {
                "pruning": kc.Pruning(
                    kc.ConstantSparsity(target_sparsity=0.5, begin_step=20, end_step=40)
                )
            },
            unreachable("the final sparsity", 20),
            id="begin_step-of-a-constant",
        ),
        pytest.param(
            {"pruning": kc.Pruning(until(4).schedule, layers={"second": until(13).schedule})},
            unreachable("the pruning of second", 13),
            id="end_step-of-one-layer",
        ),
        pytest.param(
            {"quantization": kc.Quantization(delay=13)}, unreachable("the delay", 13), id="delay"
        ),
        pytest.param(
            {"quantization": kc.Quantization(delay=3, freeze_step=13)},
            unreachable("freeze_step", 13),
            id="freeze_step",
        ),
        pytest.param(
            {"quantization": kc.Quantization(freeze_step=0)},
            "Quantization: `freeze_step` must lie after the delay, or `calibration_steps` be above "
            "0 and the delay too, or no update would set the ranges. Received: freeze_step=0, "
            "delay=0, calibration_steps=200",
            id="freeze_step-before-any-update",
        ),
    ],
)
def test_what_this_fit_cannot_reach_is_an_error_before_it_trains(keras, data, specs, message):
    refused(keras, data, message, **specs)


def test_a_model_without_shapes_is_refused_with_its_first_batch(keras, data):
    # What it holds is known then only; nothing is updated, and it is plain again.
    model = net(keras, shapes=False)
    with pytest.raises(ValueError, match="the final sparsity must be reached") as error:
        fit(model, data, kc.Compress(pruning=until(13)))
    assert unreachable("the final sparsity", 13) in str(error.value)
    assert int(np.asarray(model.optimizer.iterations)) == 0
    assert_plain(model, net(keras, shapes=True).get_weights())
    better = kc.Compress(pruning=until(12))
    fit(model, data, better)
    assert better.report.sparsity == pytest.approx(0.5)


@pytest.mark.parametrize("step", [12, 1.0])
def test_the_last_update_of_the_fit_is_within_reach(keras, data, step):
    model = net(keras)
    compress = kc.Compress(
        pruning=until(step), quantization=kc.Quantization(delay=step, freeze_step=step)
    )
    fit(model, data, compress)
    assert resolved(compress.report) == (12, 12, 12)
    assert compress.report.missed == []
    assert compress.report.sparsity == pytest.approx(0.5)
    assert compress.report.phase == "frozen"  # no update was rounded, the model is
    assert engine_of(model).phase.rounds


def test_a_fit_within_a_plan_is_checked_against_the_whole_count(keras, data):
    # After 12 updates, 20 is within reach of two epochs; after 12 more a delay of 20 lies behind.
    model = net(keras)
    specs = {"pruning": until(20), "quantization": kc.Quantization(delay=16)}
    fit(model, data, kc.Compress(**specs, partial=True))
    with pytest.raises(ValueError, match=r"^Compress: ") as error:
        fit(model, data, kc.Compress(**specs), epochs=1)
    assert str(error.value) == unreachable("the final sparsity", 20).replace("12", "18")
    assert engine_of(model).step == 12  # the plan of the fit before stays in charge

    compress = kc.Compress(**specs)
    fit(model, data, compress)
    assert (compress.report.step, compress.report.switched_at) == (24, 17)
    assert compress.report.missed == []
    fit(model, data, compress, epochs=1)
    assert compress.report.step == 30


# --- plans over several fits


def test_a_partial_plan_exports_when_a_later_fit_completes_it(keras, data, path, warnings_logged):
    specs = {
        "pruning": until(20),
        "quantization": kc.Quantization(delay=16),
        "export": kc.Export(path),
    }
    model, compress = net(keras), kc.Compress(**specs, partial=True)
    fit(model, data, compress)
    report = compress.report
    assert report.step == 12
    assert report.missed == ["the final sparsity at update 20", "the delay at update 16"]
    why = "the fit ended before the final sparsity at update 20 and the delay at update 16"
    assert report.export.skipped == why
    assert not report.export.written
    assert report.export.error is None
    assert not path.exists()
    assert 0 < report.sparsity < 0.5
    assert report.phase == "watching"  # 16 - 200 < 12
    assert f"missed: {report.missed[0]}" in str(report)
    assert f"{path}: not written, {why}" in str(report)

    # Past the delay, before the final sparsity: still nothing.
    fit(model, data, compress, epochs=1)
    assert compress.report.missed == ["the final sparsity at update 20"]
    assert compress.report.switched_at == 17
    assert not path.exists()

    fit(model, data, compress, epochs=1)
    assert compress.report.missed == []
    assert compress.report.export.error is None
    assert compress.report.export.written
    assert path.exists()
    assert kc.inspect_tflite(path).float_ops == ()
    assert warnings_logged() == []  # all of it was meant


def test_a_partial_plan_trains_as_one_fit_does(keras, data):
    specs = {"pruning": until(15), "quantization": kc.Quantization(delay=9, calibration_steps=4)}
    whole, parts = net(keras), net(keras)
    fit(whole, data, kc.Compress(**specs), epochs=3)
    for _ in range(3):
        fit(parts, data, kc.Compress(**specs, partial=True), epochs=1)
    for mine, theirs in zip(parts.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    states = take(engine_of(parts)), take(engine_of(whole))
    assert states[0].phase == states[1].phase
    assert states[0].switched_at == states[1].switched_at == 10
    for group in ("masks", "ranges"):
        ours, theirs = (getattr(state, group) for state in states)
        assert set(ours) == set(theirs)
        assert ours
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def test_partial_fractions_are_of_the_first_fit(keras, data):
    # Nothing else is known when it begins; a plan over several fits is better told in ints.
    model, compress = net(keras), kc.Compress(**FRACTIONS, partial=True)
    fit(model, data, compress, epochs=1)
    assert resolved(compress.report) == (2, 4, 5)
    fit(model, data, compress, epochs=3)
    assert resolved(compress.report) == (2, 4, 5)


# --- fits that end early


def stop_after(keras, updates):
    """Ends the fit as a user's own callback would."""
    done = iter(range(1, 1000))

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if next(done) == updates:
                self.model.stop_training = True

    return Stop()


@pytest.mark.slow
def test_early_stopping_before_the_targets_is_one_warning_and_no_file(
    keras, data, path, warnings_logged
):
    # The score gets worse at once: stopped after the second of six epochs.
    class Worse(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = float(epoch)

    stopping = keras.callbacks.EarlyStopping(
        monitor="score", mode="min", patience=1, restore_best_weights=True
    )
    model = net(keras)
    compress = kc.Compress(
        pruning=until(20), quantization=kc.Quantization(delay=30), export=kc.Export(path)
    )
    fit(model, data, Worse(), stopping, compress, epochs=6)
    missed = ["the final sparsity at update 20", "the delay at update 30"]
    assert compress.report.missed == missed
    assert compress.report.step == 12
    assert warnings_logged() == [
        f"The fit ended at update 12, before {' and '.join(missed)}; nothing is exported."
    ]
    assert compress.report.export.skipped == f"the fit ended before {' and '.join(missed)}"
    assert not path.exists()
    assert not engine_of(model).phase.rounds  # it answers as the float network that it is


@pytest.mark.parametrize(
    ("specs", "missed"),
    [
        pytest.param({"pruning": until(20)}, "the final sparsity at update 20", id="pruning"),
        pytest.param(
            {"quantization": kc.Quantization(delay=20)}, "the delay at update 20", id="delay"
        ),
        pytest.param(
            {"pruning": kc.Pruning(until(2).schedule, layers={"first": until(20).schedule})},
            "the pruning of first at update 20",
            id="one-layer",
        ),
    ],
)
def test_a_fit_stopped_by_a_callback_says_what_it_missed(
    keras, data, path, warnings_logged, specs, missed
):
    model = net(keras)
    compress = kc.Compress(**specs, export=kc.Export(path, mode="float32"))
    fit(model, data, stop_after(keras, 9), compress, epochs=4)
    stopped_at = compress.report.step
    assert stopped_at in (9, 12)  # tf_keras ends within the epoch, Keras 3 with it
    assert warnings_logged() == [
        f"The fit ended at update {stopped_at}, before {missed}; nothing is exported."
    ]
    assert compress.report.missed == [missed]
    assert not path.exists()

    # The targets are where they were: a second fit reaches them, and exports.
    fit(model, data, compress, epochs=4)
    assert compress.report.missed == []
    assert path.exists()


def test_a_fit_stopped_after_its_targets_exports(keras, data, path, warnings_logged):
    model = net(keras)
    compress = kc.Compress(pruning=until(8), export=kc.Export(path, mode="float32"))
    fit(model, data, stop_after(keras, 9), compress, epochs=4)
    assert compress.report.missed == []
    assert path.exists()
    assert warnings_logged() == []


@pytest.mark.parametrize("batches", [None, 5])
@pytest.mark.parametrize("steps", [4, 6])
def test_executions_that_do_not_divide_the_epoch_are_counted_whole(keras, data, steps, batches):
    """As a plain fit counts them: Keras 3 makes six updates of four steps, three at a time, where
    there are as many batches.
    """
    if batches is not None and steps > batches:
        pytest.skip("the data run dry, of which Keras warns")
    x, y = data
    there_are = len(x) if batches is None else batches * BATCH
    given = tf.data.Dataset.from_tensor_slices((x[:there_are], y[:there_are])).batch(BATCH)
    if batches is None:
        given = given.repeat()
    arguments = {"epochs": 2, "steps_per_epoch": steps, "shuffle": False, "verbose": 0}
    epochs = 2 if keras.__name__ == "keras" or batches is None else 1  # tf_keras begins no new one
    arguments["epochs"] = epochs
    plain = net(keras, steps_per_execution=3)
    plain.fit(given, **arguments)
    updates = int(plain.optimizer.iterations.numpy())
    whole = min(6, batches or 6) if keras.__name__ == "keras" else steps
    assert updates == epochs * whole
    compress = kc.Compress(quantization=kc.Quantization(delay=0.5), verbose=0)
    model = net(keras, steps_per_execution=3)
    model.fit(given, callbacks=[compress], **arguments)
    assert compress.report.step == updates
    assert engine_of(model).timetable.delay == updates // 2
    late = kc.Compress(quantization=kc.Quantization(delay=updates + 1), verbose=0)
    with pytest.raises(ValueError, match=f"update {updates}"):
        net(keras, steps_per_execution=3).fit(given, callbacks=[late], **arguments)
