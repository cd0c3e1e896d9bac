"""The schedules against values worked by hand and against tfmot's own."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest

from keras_compress.specs.schedules import (
    ConstantSparsity,
    PolynomialDecay,
    as_schedule,
    schedule_from_config,
)

# Worked by hand: final 0.8 over steps 10..50, so t = (step - 10) / 40 and the value is
# 0.8 * (1 - (1 - t)**3).
BY_HAND = [
    pytest.param(0, 0.0, id="before-begin"),
    pytest.param(10, 0.0, id="begin"),
    pytest.param(20, 0.4625, id="quarter"),  # 0.8 * (1 - 0.75**3)
    pytest.param(30, 0.7, id="half"),  # 0.8 * (1 - 0.5**3)
    pytest.param(50, 0.8, id="end"),
    pytest.param(9_999, 0.8, id="long-after"),
]

# Settings whose grid ends on end_step, and settings whose grid does not.
POLYNOMIALS = [
    pytest.param((0.0, 0.5, 0, 100, 3, 1), id="every-step"),
    pytest.param((0.2, 0.8, 10, 50, 3, 7), id="off-grid"),
    pytest.param((0.25, 0.9, 25, 525, 1, 25), id="straight-line-on-grid"),
    pytest.param((0.0, 0.5, 0, 564, 3, 100), id="default-frequency-off-grid"),
    pytest.param((0.1, 0.99, 3, 333, 2.5, 11), id="broken-power"),
]


@pytest.fixture(scope="module")
def tf():
    import tensorflow

    return tensorflow


@pytest.fixture(scope="module")
def tfmot_sparsity():
    import tensorflow_model_optimization as tfmot

    return tfmot.sparsity.keras


@pytest.mark.parametrize(("step", "expected"), BY_HAND)
def test_polynomial_decay_follows_the_worked_values(step, expected):
    schedule = PolynomialDecay(final_sparsity=0.8, begin_step=10, end_step=50)
    assert schedule.sparsity(step) == pytest.approx(expected, abs=1e-12)


def test_polynomial_decay_hits_both_ends_exactly():
    schedule = PolynomialDecay(initial_sparsity=0.1, final_sparsity=0.7, begin_step=3, end_step=10)
    assert (schedule.sparsity(3), schedule.sparsity(10)) == (0.1, 0.7)


def test_polynomial_decay_updates_on_its_grid_and_at_the_end():
    schedule = PolynomialDecay(final_sparsity=0.8, begin_step=10, end_step=50, frequency=15)
    assert [step for step in range(200) if schedule.updates_at(step)] == [10, 25, 40, 50]
    assert (schedule.last_step, schedule.target) == (50, 0.8)


def test_constant_sparsity_without_an_end_updates_forever():
    schedule = ConstantSparsity(target_sparsity=0.5, begin_step=10, frequency=30)
    assert [step for step in range(111) if schedule.updates_at(step)] == [10, 40, 70, 100]
    assert [schedule.sparsity(step) for step in (0, 10, 10_000)] == [0.5, 0.5, 0.5]
    assert (schedule.last_step, schedule.target) == (10, 0.5)


@pytest.mark.parametrize(
    ("begin", "end", "frequency", "expected"),
    [(0, -1, 100, 100), (0, -1, 1, 1), (0, 30, 100, 30), (0, 300, 100, 100), (7, -1, 100, 7)],
)
def test_the_first_mask_of_constant_sparsity_comes_at_a_step_that_there_is(
    begin, end, frequency, expected
):
    schedule = ConstantSparsity(
        target_sparsity=0.5, begin_step=begin, end_step=end, frequency=frequency
    )
    assert schedule.last_step == expected
    assert expected == min(step for step in range(1, 400) if schedule.updates_at(step))


def test_constant_sparsity_that_ends_before_the_first_step_is_refused():
    with pytest.raises(
        ValueError, match=r"`end_step` must be at least the first.*Received: end_step=0"
    ):
        ConstantSparsity(target_sparsity=0.5, begin_step=0, end_step=0)
    fractions = ConstantSparsity(target_sparsity=0.5, begin_step=0.0, end_step=0.0)
    with pytest.raises(ValueError, match="`end_step` must be at least the first step"):
        fractions.resolve(0, 100)


def test_constant_sparsity_with_an_end_updates_there_for_the_last_time():
    schedule = ConstantSparsity(target_sparsity=0.5, begin_step=10, end_step=50, frequency=30)
    assert [step for step in range(200) if schedule.updates_at(step)] == [10, 40, 50]


def test_constant_sparsity_may_update_once():
    schedule = ConstantSparsity(target_sparsity=0.5, begin_step=7, end_step=7)
    assert [step for step in range(200) if schedule.updates_at(step)] == [7]


@pytest.mark.parametrize("values", POLYNOMIALS)
def test_polynomial_decay_agrees_with_tfmot_but_for_the_update_at_the_end(
    tf, tfmot_sparsity, values
):
    initial, final, begin, end, power, frequency = values
    theirs = tfmot_sparsity.PolynomialDecay(initial, final, begin, end, power, frequency)
    ours = PolynomialDecay(
        initial_sparsity=initial,
        final_sparsity=final,
        begin_step=begin,
        end_step=end,
        power=power,
        frequency=frequency,
    )
    steps = range(end + 2 * frequency)
    should_prune, sparsity = theirs(tf.constant(list(steps), tf.int64))
    # tfmot computes in float32.
    np.testing.assert_allclose([ours.sparsity(s) for s in steps], sparsity.numpy(), atol=1e-6)
    our_updates = {step for step in steps if ours.updates_at(step)}
    their_updates = set(np.flatnonzero(should_prune.numpy()).tolist())
    assert their_updates
    assert our_updates == their_updates | {end}


@pytest.mark.parametrize(("begin", "end"), [(0, -1), (5, 47), (5, 45), (8, 8)])
def test_constant_sparsity_agrees_with_tfmot_but_for_the_update_at_the_end(
    tf, tfmot_sparsity, begin, end
):
    theirs = tfmot_sparsity.ConstantSparsity(0.6, begin, end, 10)
    ours = ConstantSparsity(target_sparsity=0.6, begin_step=begin, end_step=end, frequency=10)
    steps = range(120)
    should_prune, sparsity = theirs(tf.constant(list(steps), tf.int64))
    assert [ours.sparsity(step) for step in steps] == pytest.approx([float(sparsity)] * 120)
    our_updates = {step for step in steps if ours.updates_at(step)}
    their_updates = set(np.flatnonzero(should_prune.numpy()).tolist())
    assert our_updates == their_updates | ({end} if end >= 0 else set())


def test_tfmot_schedules_are_converted(tfmot_sparsity):
    # Its steps are counts, even where a division made them floats: 1.0 is the first update.
    polynomial = tfmot_sparsity.PolynomialDecay(0.2, 0.8, np.int64(1), 50.0, power=2, frequency=5)
    assert as_schedule(polynomial, "Owner") == PolynomialDecay(
        initial_sparsity=0.2, final_sparsity=0.8, begin_step=1, end_step=50, power=2, frequency=5
    )
    constant = tfmot_sparsity.ConstantSparsity(0.5, 1.0)
    expected = ConstantSparsity(target_sparsity=0.5, begin_step=1)
    assert as_schedule(constant, "Owner") == expected
    assert isinstance(as_schedule(constant, "Owner").begin_step, int)


def test_a_class_derived_from_tfmots_is_refused(tfmot_sparsity):
    class PolynomialDecay(tfmot_sparsity.PolynomialDecay):
        pass

    with pytest.raises(TypeError, match=r"^Owner: `schedule` must be a PolynomialDecay or"):
        as_schedule(PolynomialDecay(0.2, 0.8, 1, 50), "Owner")


def test_a_tfmot_schedule_with_a_broken_step_is_refused(tfmot_sparsity):
    theirs = tfmot_sparsity.ConstantSparsity(0.5, 0.5)
    message = "ConstantSparsity: `begin_step` must be an int. Received: begin_step=0.5"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        as_schedule(theirs, "Owner")


def test_anything_else_is_no_schedule():
    message = (
        "Pruning: `schedule` must be a PolynomialDecay or ConstantSparsity, of keras_compress or "
        "of tfmot, or a sparsity. Received: schedule='half'"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        as_schedule("half", "Pruning")


def test_fractions_are_resolved_after_the_updates_done():
    schedule = PolynomialDecay(final_sparsity=0.5, begin_step=0.25, end_step=1.0)
    assert schedule.has_fractions
    resolved = schedule.resolve(1000, 200)
    assert resolved == PolynomialDecay(final_sparsity=0.5, begin_step=1050, end_step=1200)
    assert not resolved.has_fractions
    assert resolved.resolve(5, 5) is resolved


def test_an_int_stays_beside_a_fraction():
    schedule = ConstantSparsity(target_sparsity=0.5, begin_step=0.5)
    resolved = schedule.resolve(10, 20)
    assert resolved == ConstantSparsity(target_sparsity=0.5, begin_step=20, end_step=-1)


UNRESOLVED = PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=0.5)


@pytest.mark.parametrize(
    "use",
    [
        lambda: UNRESOLVED.sparsity(3),
        lambda: UNRESOLVED.updates_at(3),
        lambda: UNRESOLVED.last_step,
    ],
    ids=["sparsity", "updates_at", "last_step"],
)
def test_an_unresolved_fraction_cannot_be_used(use):
    message = (
        "PolynomialDecay: `end_step` must be an int here: a fraction has to be resolved first. "
        "Received: end_step=0.5"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        use()


def polynomial(**changes):
    return PolynomialDecay(**{"final_sparsity": 0.5, "begin_step": 0, "end_step": 10, **changes})


def constant(**changes):
    return ConstantSparsity(**{"target_sparsity": 0.5, "begin_step": 0, **changes})


STEP = "an int >= 0 or a float in [0, 1]"
REFUSED = [
    (
        lambda: polynomial(final_sparsity=1.0),
        ValueError,
        "PolynomialDecay: `final_sparsity` must be a number in [0, 1). "
        "Received: final_sparsity=1.0",
    ),
    (
        lambda: polynomial(initial_sparsity=-0.1),
        ValueError,
        "PolynomialDecay: `initial_sparsity` must be a number in [0, 1). "
        "Received: initial_sparsity=-0.1",
    ),
    (
        lambda: polynomial(final_sparsity="half"),
        TypeError,
        "PolynomialDecay: `final_sparsity` must be a number in [0, 1). "
        "Received: final_sparsity='half'",
    ),
    (
        lambda: constant(target_sparsity=50),
        ValueError,
        "ConstantSparsity: `target_sparsity` must be a number in [0, 1). "
        "Received: target_sparsity=50",
    ),
    (
        lambda: constant(target_sparsity=False),
        TypeError,
        "ConstantSparsity: `target_sparsity` must be a number in [0, 1). "
        "Received: target_sparsity=False",
    ),
    (
        lambda: polynomial(begin_step=2e3, end_step=4000),
        ValueError,
        f"PolynomialDecay: `begin_step` must be {STEP}. "
        "Received: begin_step=2000.0 (did you mean 2000?)",
    ),
    (
        lambda: polynomial(begin_step=True),
        TypeError,
        f"PolynomialDecay: `begin_step` must be {STEP}. Received: begin_step=True",
    ),
    (
        lambda: polynomial(end_step=-1),
        ValueError,
        f"PolynomialDecay: `end_step` must be {STEP}. Received: end_step=-1",
    ),
    (
        lambda: polynomial(end_step=None),
        TypeError,
        f"PolynomialDecay: `end_step` must be {STEP}. Received: end_step=None",
    ),
    (
        lambda: constant(end_step=-2),
        ValueError,
        "ConstantSparsity: `end_step` must be an int >= 0, a float in [0, 1] or -1. "
        "Received: end_step=-2",
    ),
    (
        lambda: polynomial(begin_step=10),
        ValueError,
        "PolynomialDecay: `begin_step` must be less than `end_step`. "
        "Received: begin_step=10, end_step=10",
    ),
    (
        lambda: polynomial(begin_step=0.5, end_step=0.25),
        ValueError,
        "PolynomialDecay: `begin_step` must be less than `end_step`. "
        "Received: begin_step=0.5, end_step=0.25",
    ),
    (
        lambda: constant(begin_step=11, end_step=10),
        ValueError,
        "ConstantSparsity: `begin_step` must be at most `end_step`. "
        "Received: begin_step=11, end_step=10",
    ),
    (
        lambda: polynomial(begin_step=0.9, end_step=500).resolve(0, 1000),
        ValueError,
        "PolynomialDecay: `begin_step` must be less than `end_step`. "
        "Received: begin_step=0.9 (step 900), end_step=500",
    ),
    (
        lambda: polynomial(begin_step=0.5, end_step=0.52).resolve(100, 10),
        ValueError,
        "PolynomialDecay: `begin_step` must be less than `end_step`. "
        "Received: begin_step=0.5 (step 105), end_step=0.52 (step 105)",
    ),
    (
        lambda: polynomial(power=0),
        ValueError,
        "PolynomialDecay: `power` must be a number > 0. Received: power=0",
    ),
    (
        lambda: polynomial(frequency=0),
        ValueError,
        "PolynomialDecay: `frequency` must be an int >= 1. Received: frequency=0",
    ),
    (
        lambda: constant(frequency=1e2),
        TypeError,
        "ConstantSparsity: `frequency` must be an int >= 1. "
        "Received: frequency=100.0 (did you mean 100?)",
    ),
    (
        lambda: schedule_from_config({"kind": "Linear"}),
        ValueError,
        "Schedule: `kind` must be 'PolynomialDecay' or 'ConstantSparsity'. Received: kind='Linear'",
    ),
    (
        lambda: ConstantSparsity.from_config(polynomial().get_config()),
        ValueError,
        "ConstantSparsity: `config` must be a dict as `get_config` returns it. Received: config="
        "{'kind': 'PolynomialDecay', 'initial_sparsity': 0.0, 'final_sparsity': 0.5, "
        "'begin_step': 0, 'end_step': 10, 'power': 3, 'frequency': 100} (unknown: "
        "'final_sparsity', 'initial_sparsity', 'power'; missing: 'target_sparsity')",
    ),
]


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED)
def test_bad_values_are_refused_with_the_exact_message(make, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        make()


def test_numpy_numbers_are_stored_as_plain_ones():
    schedule = PolynomialDecay(
        final_sparsity=np.float64(0.5), begin_step=np.int32(2), end_step=np.int64(9)
    )
    assert schedule == PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=9)
    kinds = {type(value) for value in schedule.get_config().values()}
    assert kinds == {str, float, int}


def test_a_sparsity_of_any_step_lies_between_the_two_ends():
    schedule = PolynomialDecay(
        initial_sparsity=0.3, final_sparsity=0.9, begin_step=7, end_step=1_000, power=0.5
    )
    values = [schedule.sparsity(step) for step in range(1_100)]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0.3, 0.9)
    assert not any(math.isnan(value) for value in values)


def test_converting_needs_no_tfmot():
    code = (
        "import sys, keras_compress.specs.schedules as s\n"
        "s.as_schedule(s.ConstantSparsity(target_sparsity=0.5, begin_step=1), 'Owner')\n"
        "assert 'tensorflow_model_optimization' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
