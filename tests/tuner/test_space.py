"""The search space: what one declares, and the specs of one point in it."""

import re

import keras_tuner
import pytest

import keras_compress as kc
from keras_compress.tuner import Space


def test_the_default_space_searches_the_sparsity_alone():
    hp = keras_tuner.HyperParameters()
    pruning, quantization = Space().specs(hp)
    assert [(entry.name, entry.min_value, entry.max_value) for entry in hp.space] == [
        ("final_sparsity", 0.3, 0.9)
    ]
    assert pruning == kc.Pruning(
        kc.PolynomialDecay(final_sparsity=0.3, begin_step=0.0, end_step=0.5, frequency=10)
    )
    assert quantization == kc.Quantization(delay=0.6)


def test_every_field_can_be_searched():
    space = Space(
        final_sparsity=(0.2, 0.8),
        begin_step=(0.0, 0.2),
        end_step=(0.3, 0.6),
        delay=[0.6, 0.8],
        weight_bits=[8, 4],
        frequency=5,
    )
    hp = keras_tuner.HyperParameters()
    hp.values = {
        "final_sparsity": 0.7,
        "begin_step": 0.1,
        "end_step": 0.5,
        "delay": 0.8,
        "weight_bits": 4,
    }
    pruning, quantization = space.specs(hp)
    assert sorted(entry.name for entry in hp.space) == sorted(hp.values)
    assert pruning.schedule == kc.PolynomialDecay(
        final_sparsity=0.7, begin_step=0.1, end_step=0.5, frequency=5
    )
    assert quantization == kc.Quantization(delay=0.8, weight_bits=4)


def test_channels_are_searched_as_single_weights_are():
    space = Space(final_sparsity=(0.2, 0.8), structure="channels", multiple_of=4, score="l1")
    hp = keras_tuner.HyperParameters()
    pruning, _ = space.specs(hp)
    assert (pruning.structure, pruning.multiple_of, pruning.score) == ("channels", 4, "l1")
    named, _ = Space(final_sparsity={"conv": 0.4}, structure="channels").specs(hp)
    assert (named.structure, list(named.layers)) == ("channels", ["conv"])
    with pytest.raises(ValueError, match="`multiple_of` must be its default without structure"):
        Space(multiple_of=4)


def test_layers_and_groups_have_targets_of_their_own():
    space = Space(final_sparsity={"conv": (0.1, 0.5), ("a", "b"): [0.6, 0.9], "head": 0.2})
    hp = keras_tuner.HyperParameters()
    hp.values = {"final_sparsity/conv": 0.4, "final_sparsity/a+b": 0.9}
    pruning, _ = space.specs(hp)
    assert pruning.schedule is None
    assert {name: s.final_sparsity for name, s in pruning.layers.items()} == {
        "conv": 0.4,
        "a": 0.9,
        "b": 0.9,
        "head": 0.2,
    }


def test_whole_numbers_are_fractions_too():
    """To the specs an int is a step."""
    hp = keras_tuner.HyperParameters()
    pruning, quantization = Space(begin_step=0, end_step=[1, 0.9], delay=1).specs(hp)
    assert quantization == kc.Quantization(delay=1.0)
    assert isinstance(quantization.delay, float)
    assert isinstance(pruning.schedule.begin_step, float)
    assert isinstance(pruning.schedule.end_step, float)
    assert hp.get("end_step") == 1.0


def test_without_pruning():
    hp = keras_tuner.HyperParameters()
    pruning, quantization = Space(final_sparsity=None, weight_bits=[8, 4]).specs(hp)
    assert pruning is None
    assert quantization.weight_bits == 8
    assert [entry.name for entry in hp.space] == ["weight_bits"]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"final_sparsity": (0.9, 0.3)},
            ValueError,
            "`final_sparsity` must be a range (low, high) with low < high. "
            "Received: final_sparsity=(0.9, 0.3)",
        ),
        ({"final_sparsity": (0.5, 0.5)}, ValueError, "a range (low, high) with low < high"),
        ({"final_sparsity": (0.1, 0.5, 0.9)}, ValueError, "a range (low, high) with low < high"),
        ({"final_sparsity": (0.5, 1.0)}, ValueError, "fractions between 0 and 0.999"),
        ({"final_sparsity": []}, TypeError, "a list of numbers to choose from"),
        ({"final_sparsity": "0.5"}, TypeError, "`final_sparsity` must be a number, a range"),
        ({"final_sparsity": {}}, ValueError, "None or name some layer"),
        ({"final_sparsity": {"conv": (0.9, 0.1)}}, ValueError, "low < high"),
        ({"delay": True}, TypeError, "`delay` must be a number"),
        ({"delay": (0.5, 1.5)}, ValueError, "`delay` must be fractions between 0 and 1"),
        ({"delay": 2000}, ValueError, "`delay` must be fractions between 0 and 1"),
        (
            {"begin_step": (0.1, 0.6), "end_step": (0.5, 0.7)},
            ValueError,
            "`end_step` must be above `begin_step`",
        ),
        (
            {"begin_step": [0.0, 0.5], "end_step": [0.5, 0.9]},
            ValueError,
            "`end_step` must be above",
        ),
        (
            {"final_sparsity": {"a": 0.5, ("a", "b"): (0.1, 0.2)}},
            ValueError,
            "a dict that names every layer once",
        ),
        ({"weight_bits": (4, 8)}, ValueError, "`weight_bits` must be 4, 8 or [4, 8]"),
        ({"weight_bits": [8, 2]}, ValueError, "`weight_bits` must be 4, 8 or [4, 8]"),
        ({"frequency": 0}, ValueError, "`frequency` must be"),
        ({"layers": 3}, TypeError, "Quantization: `layers`"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(fields, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Space(**fields)
