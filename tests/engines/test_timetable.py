"""When everything happens, on numbers worked by hand; no network is needed."""

import math

import pytest

from keras_compress import ConstantSparsity, PolynomialDecay, Pruning, Quantization
from keras_compress.engines.state import Phase
from keras_compress.engines.timetable import Timetable

OFF, WATCHING, ON, FROZEN = Phase.OFF, Phase.WATCHING, Phase.ON, Phase.FROZEN


def quantized(**arguments):
    timetable = Timetable(None, Quantization(**arguments))
    timetable.resolve(0, 100)
    return timetable


# delay 10, three updates watched (8, 9, 10), frozen from update 16 on.
BY_HAND = [
    pytest.param(0, 1, OFF, id="first-update"),
    pytest.param(6, 1, OFF, id="last-off"),
    pytest.param(7, 1, WATCHING, id="first-watched"),
    pytest.param(9, 1, WATCHING, id="last-float"),
    pytest.param(10, 1, ON, id="first-rounded"),
    pytest.param(14, 1, ON, id="last-that-moves-ranges"),
    pytest.param(15, 1, FROZEN, id="first-frozen"),
    pytest.param(10_000, 1, FROZEN, id="long-after"),
    pytest.param(3, 4, OFF, id="execution-before-the-watched"),
    pytest.param(4, 4, WATCHING, id="execution-that-holds-one-watched"),
    pytest.param(8, 4, WATCHING, id="execution-across-the-delay-does-not-round"),
    pytest.param(12, 4, ON, id="execution-across-the-freeze-step"),
]


@pytest.mark.parametrize(("done", "span", "phase"), BY_HAND)
def test_the_phase_of_the_next_updates(done, span, phase):
    timetable = quantized(delay=10, calibration_steps=3, freeze_step=15)
    assert timetable.phase_after(done, span) is phase


def test_an_edge_is_where_the_phase_can_change():
    timetable = quantized(delay=10, calibration_steps=3, freeze_step=15)
    edges = {phase: timetable.edge_after(phase) for phase in Phase}
    assert edges == {OFF: 7, WATCHING: 10, ON: 15, FROZEN: math.inf}
    for phase, edge in edges.items():
        if edge < math.inf:  # one update earlier nothing has changed yet, at the edge it has
            assert timetable.phase_after(int(edge) - 1, 1) is phase
            assert timetable.phase_after(int(edge), 1) is not phase
    assert quantized(delay=10).edge_after(ON) == math.inf


@pytest.mark.parametrize(
    ("arguments", "phases"),
    [
        pytest.param({"delay": 0}, [ON, ON], id="no-delay"),
        pytest.param({"delay": 1, "calibration_steps": 0}, [OFF, ON], id="nothing-watched"),
        pytest.param({"delay": 1, "calibration_steps": 200}, [WATCHING, ON], id="watched-at-once"),
        pytest.param({"delay": 1, "freeze_step": 1}, [WATCHING, FROZEN], id="frozen-at-the-delay"),
        pytest.param({"delay": 0, "freeze_step": 0}, [FROZEN, FROZEN], id="frozen-at-once"),
    ],
)
def test_the_first_two_updates(arguments, phases):
    timetable = quantized(**arguments)
    assert [timetable.phase_after(done, 1) for done in (0, 1)] == phases


def test_nothing_is_rounded_where_nobody_asked_or_before_the_fractions_are_known():
    assert Timetable(None, None).phase_after(10_000, 1) is OFF
    assert Timetable(None, Quantization(delay=0.5)).phase_after(10_000, 1) is OFF
    assert Timetable(None, None).edge_after(OFF) == math.inf


def test_fractions_are_those_of_the_fit_that_begins():
    spec = Pruning(PolynomialDecay(final_sparsity=0.5, begin_step=0.1, end_step=0.5))
    timetable = Timetable(spec, Quantization(delay=0.5, freeze_step=0.75))
    assert timetable.has_fractions
    timetable.schedules = {"dense": spec.schedule}
    assert timetable.has_fractions
    timetable.resolve(100, 40)  # 100 updates were done, the fit has 40 more
    assert not timetable.has_fractions
    schedule = timetable.schedules["dense"]
    assert (schedule.begin_step, schedule.end_step) == (104, 120)
    assert (timetable.delay, timetable.freeze_step) == (120, 130)
    timetable.resolve(140, 1000)  # a later fit changes nothing that is known
    assert timetable.schedules["dense"] == schedule
    assert timetable.delay == 120


def test_fractions_of_a_model_without_shapes_are_resolved_once_it_has_some():
    spec = Pruning(PolynomialDecay(final_sparsity=0.5, begin_step=0.0, end_step=1.0))
    timetable = Timetable(spec, None)
    timetable.resolve(0, 50)
    assert not timetable.has_fractions
    timetable.schedules = {"dense": spec.schedule}
    timetable.load()
    assert timetable.schedules["dense"].end_step == 50
    timetable.clear()
    assert timetable.has_fractions


def test_a_copy_goes_on_by_itself():
    timetable = quantized(delay=10)
    timetable.schedules = {"dense": ConstantSparsity(target_sparsity=0.5, begin_step=3)}
    copied = timetable.copy()
    copied.schedules["dense"] = None
    copied.delay = 11
    assert timetable.delay == 10
    assert timetable.schedules["dense"] is not None


def test_targets_and_whether_they_are_reached():
    timetable = quantized(delay=10, freeze_step=15)
    assert not timetable.is_pruned_by(10_000)
    decay = PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=8)
    timetable.schedules = {"a": decay, "b": decay}
    assert timetable.targets() == [
        ("the final sparsity", 8),
        ("the delay", 10),
        ("freeze_step", 15),
    ]
    assert (timetable.is_pruned_by(7), timetable.is_pruned_by(8)) == (False, True)
    later = PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=9)
    timetable.schedules = {"a": decay, "b": later}
    assert timetable.targets()[:2] == [("the pruning of a", 8), ("the pruning of b", 9)]
    assert not timetable.is_pruned_by(8)
    fraction = PolynomialDecay(final_sparsity=0.5, begin_step=0.0, end_step=0.5)
    timetable.schedules = {"a": fraction}
    assert not timetable.is_pruned_by(10_000)


def test_pruning_begins_with_the_first_of_its_schedules():
    early = ConstantSparsity(target_sparsity=0.5, begin_step=0, frequency=1)
    late = PolynomialDecay(final_sparsity=0.5, begin_step=40, end_step=60)
    later = PolynomialDecay(final_sparsity=0.5, begin_step=0.5, end_step=60)
    timetable = Timetable(Pruning(late), None)
    assert timetable.pruned_from is None
    timetable.schedules = {"a": late}
    assert timetable.pruned_from == 40
    timetable.schedules = {"a": late, "b": early}
    assert timetable.pruned_from == 1  # updates are counted from 1
    timetable.schedules = {"a": late, "b": later}
    assert timetable.pruned_from is None  # a fraction may come before it
