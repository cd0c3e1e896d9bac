"""`sparsity` and `quantized` are shown as they are: not averaged over the steps of an epoch."""

import re

import pytest
from contract.runs import DELAY, compress, fit, net

pytestmark = pytest.mark.by_turns


def numbers(name, text):
    return [float(number) for number in re.findall(rf"\b{name}: ([0-9.e+-]+)", text)]


def test_batch_hooks_see_the_numbers_of_their_step(keras, data, reference):
    steps = []

    def note_step(batch, logs):
        steps.append((float(logs["sparsity"]), float(logs["quantized"])))

    note = keras.callbacks.LambdaCallback(on_train_batch_end=note_step)
    fit(net(keras), data, [compress(), note])
    middle, final = reference.history["sparsity"][:2]
    # 0.5 * (1 - (1 - 4 / 8)**3) at update 6, but for the rounding to whole weights.
    assert (middle, final) == (pytest.approx(0.4375, abs=5e-3), pytest.approx(0.5, abs=1e-6))
    assert [sparsity for sparsity, _ in steps] == [0.0] * 5 + [middle] * 4 + [final] * 15
    assert [quantized for _, quantized in steps] == [0.0] * DELAY + [1.0] * 12


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("verbose", [1, 2])
def test_the_progress_bar_shows_the_last_step_of_the_epoch(keras, data, reference, capsys, verbose):
    fit(net(keras), data, [compress()], verbose=verbose)
    text = capsys.readouterr().out
    # What stands in the line when an epoch ends.
    epochs = [re.split(r"[\r\x08]+", part)[-1] for part in re.split(r"Epoch \d/3", text)[1:]]
    for name in ("sparsity", "quantized"):
        shown = [numbers(name, epoch)[-1] for epoch in epochs]
        assert shown == pytest.approx(reference.history[name], abs=5e-5)  # four digits


def test_the_progress_bar_shows_no_number_in_between(keras, data, reference, capsys):
    fit(net(keras), data, [compress()], verbose=1)
    text = capsys.readouterr().out
    middle, final = reference.history["sparsity"][:2]
    for number in numbers("sparsity", text):
        assert any(number == pytest.approx(true, abs=5e-5) for true in (0.0, middle, final))
    assert set(numbers("quantized", text)) == {0.0, 1.0}


def test_the_two_logs_are_the_only_new_ones_and_numbers_between_0_and_1(reference, plain):
    assert set(reference.history) - set(plain.history) == {"sparsity", "quantized"}
    for name in ("sparsity", "quantized"):
        for value in reference.history[name]:
            assert 0.0 <= float(value) <= 1.0


def test_pruning_alone_logs_both_and_so_does_quantization(keras, data):
    pruned = fit(net(keras), data, [compress(quantization=None)], epochs=2).history
    assert pruned["quantized"] == [0.0, 0.0]
    assert pruned["sparsity"][-1] == pytest.approx(0.5)
    quantized = fit(net(keras), data, [compress(pruning=None)], epochs=2).history
    assert quantized["quantized"] == [0.0, 1.0]
    assert quantized["sparsity"] == [0.0, 0.0]
