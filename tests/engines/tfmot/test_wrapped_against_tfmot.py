"""A bare fit of what `wrap` returns equals tfmot's own training, step for step and bit by bit.

Pruning alone is compared with `prune_low_magnitude` and `UpdatePruningStep`, quantization alone
with a hand-trained `quantize_model`, both at once with a hand-written train step that calls tfmot's
`pruning_impl.Pruning` on the kernels inside the quantize wrappers.

One deviation is documented: ranges follow with the decay min(0.999, n / (n + 10)), where tfmot has
0.999 and starts at +-6. The reference has that decay patched into tfmot's own op.
"""

import functools
import re
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers.tfmot_fits import (
    EPOCHS,
    PRUNINGS,
    STEPS_PER_EPOCH,
    Recorder,
    assert_a_fair_reference,
    assert_equal,
    assert_same,
    compile_and_fit,
    net,
    reference,
)

import keras_compress as kc
from keras_compress.engines.engine import engine_of

NAMES = ("conv1", "conv2", "dense1", "dense2")
SCHEDULE = (0.1, 0.75, 4, 46, 3, 7)  # every 7 updates, and 46 is on that grid


def tfmot_schedule(kind="PolynomialDecay", values=SCHEDULE):
    import tensorflow_model_optimization as tfmot

    return getattr(tfmot.sparsity.keras, kind)(*values)


def wrapped_layers(model):
    """Original name -> layer of a wrapped model."""
    return {layer.name.removeprefix("prune_low_magnitude_"): layer for layer in model.layers}


# --- pruning alone


@pytest.mark.slow_after(1)
@pytest.mark.parametrize(
    ("pruning", "optimizer", "steps_per_execution"),
    [
        ("every-7", "sgd", 1),
        ("every-7", "adam", 1),
        ("block-1x4", "adam", 1),
        ("every-7", "adam", 4),
        ("two-of-four", "sgd", 1),
    ],
)
def test_pruning_alone_equals_prune_low_magnitude(pruning, optimizer, steps_per_execution):
    kind, values, pruned, further = PRUNINGS[pruning]
    theirs = reference(pruning, optimizer)
    assert len(theirs.executions) == STEPS_PER_EPOCH * EPOCHS
    assert_a_fair_reference(theirs.executions, pruning)

    spec = kc.Pruning(
        tfmot_schedule(kind, values), layers=None if pruned == NAMES else pruned, **further
    )
    model = kc.wrap(net(tf_keras), pruning=spec)
    layers = wrapped_layers(model)

    def read():
        weights = {name: layers[name].get_weights() for name in NAMES}
        masks = {name: layers[name].pruning_vars[0][1].numpy() for name in pruned}
        return weights, masks

    recorder = Recorder(tf_keras, read)
    compile_and_fit(
        tf_keras,
        model,
        [[recorder.callback]],
        optimizer=optimizer,
        steps_per_execution=steps_per_execution,
    )
    assert_same(
        theirs.executions[steps_per_execution - 1 :: steps_per_execution], recorder.executions
    )
    assert_same(theirs.epochs, recorder.epochs)
    assert_equal(theirs.stripped, kc.strip(model).get_weights())


@pytest.mark.slow
def test_an_end_step_off_the_grid_is_reached_which_tfmots_is_not():
    # Every 10 updates from 3 on: tfmot's last update is at 43, with 0.779 of the weights gone.
    values = (0.0, 0.8, 3, 49, 3, 10)
    masks = []
    for wrap in (_wrapped_by_tfmot, _wrapped_by_us):
        model, callbacks = wrap(values)
        compile_and_fit(tf_keras, model, [callbacks], optimizer="sgd")
        found = [w for layer in model.layers for _, w, _ in layer.pruning_vars]
        masks.append(1 - np.mean(np.concatenate([mask.numpy().ravel() for mask in found])))
    assert masks[0] == pytest.approx(0.8 - 0.8 * (6 / 46) ** 3, abs=0.002)
    assert masks[1] == pytest.approx(0.8, abs=0.001)
    assert masks[1] > masks[0]


def _wrapped_by_tfmot(values):
    from tensorflow_model_optimization.sparsity import keras as sparsity

    schedule = sparsity.PolynomialDecay(*values)
    return sparsity.prune_low_magnitude(net(tf_keras), schedule), [sparsity.UpdatePruningStep()]


def _wrapped_by_us(values):
    pruning = kc.Pruning(tfmot_schedule(values=values))
    return kc.wrap(net(tf_keras), pruning=pruning), []


# --- quantization


class Quantized(NamedTuple):
    """The variables of a wrapped model by name, and its masks, after every execution."""

    variables: list
    masks: list


def normed_net():
    """A convolution with its batch norm and ReLU, a pooling and two Dense layers."""
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Input((6, 6, 1)),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(momentum=0.8, name="norm"),
            layers.ReLU(name="relu"),
            layers.AveragePooling2D(name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(12, activation="relu", name="dense1"),
            layers.Dense(10, name="dense2"),
        ]
    )
    generator = np.random.default_rng(7)
    for layer in model.layers:
        kernels = [v for v in layer.trainable_weights if len(v.shape) > 1]
        for kernel in kernels:
            kernel.assign(0.3 * generator.normal(size=kernel.shape))
    return model


def named(model):
    """What a wrapped model holds, without the automatic number of its input's quantizer."""
    return {
        re.sub(r"quantize_layer(_\d+)?", "quantize_layer", variable.name): variable.numpy()
        for variable in model.variables
        if "optimizer_step" not in variable.name
    }


def kernels(model):
    """Original name -> the variable that is rounded in a quantize wrapper."""
    return {
        layer.layer.name: layer._weight_vars[0][0]
        for layer in model.layers
        if getattr(layer, "_weight_vars", ())
    }


@functools.cache
def quantized_by_tfmot(optimizer, pruned):
    """`quantize_model` trained by hand, its averages with our decay; `pruned`: and by a train step
    that calls tfmot's own pruning.
    """
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl
    from tensorflow_model_optimization.quantization.keras import quantize_model

    model = quantize_model(normed_net())
    original = quant_ops.MovingAvgQuantize

    def with_our_decay(*args, ema_decay, **kwargs):
        n = tf.cast(model.optimizer.iterations, tf.float32)
        return original(*args, ema_decay=tf.minimum(0.999, n / (n + 10.0)), **kwargs)

    step = tf.Variable(0, dtype=tf.int64)
    prunings, masks = [], {}
    for name, kernel in kernels(model).items() if pruned else ():
        masks[name] = tf.Variable(tf.ones_like(kernel))
        prunings.append(
            pruning_impl.Pruning(
                training_step_fn=lambda: step,
                pruning_vars=[(kernel, masks[name], tf.Variable(0.0))],
                pruning_schedule=tfmot_schedule(),
                block_size=(1, 1),
                block_pooling_type="AVG",
            )
        )
    plain_step = model.train_step

    def train_step(data):
        step.assign_add(1)
        for pruning in prunings:
            pruning.conditional_mask_update()
            pruning.weight_mask_op()
        return plain_step(data)

    model.train_step = train_step

    def read():
        return named(model), {name: mask.numpy() for name, mask in masks.items()}

    class MaskAtEpochEnd(tf_keras.callbacks.Callback):
        """What `UpdatePruningStep` does for its own wrappers."""

        def on_epoch_end(self, epoch, logs=None):
            for pruning in prunings:
                pruning.weight_mask_op()

    recorder = Recorder(tf_keras, read)
    callbacks = [[recorder.callback, MaskAtEpochEnd()]]
    quant_ops.MovingAvgQuantize = with_our_decay
    try:
        compile_and_fit(tf_keras, model, callbacks, optimizer=optimizer)
    finally:
        quant_ops.MovingAvgQuantize = original
    return Quantized(*zip(*recorder.executions, strict=True))


def quantized_by_us(optimizer, pruned, **arguments):
    specs = {"quantization": kc.Quantization(delay=0)}
    if pruned:
        specs["pruning"] = kc.Pruning(tfmot_schedule())
    model = kc.wrap(normed_net(), **specs)

    def read():
        pruner = engine_of(model).pruner
        targets = () if pruner is None else pruner.targets
        return named(model), {target.path: target.mask.numpy() for target in targets}

    recorder = Recorder(tf_keras, read)
    compile_and_fit(tf_keras, model, [[recorder.callback]], optimizer=optimizer, **arguments)
    return Quantized(*zip(*recorder.executions, strict=True))


def assert_same_variables(theirs, mine):
    for point, (expected, found) in enumerate(zip(theirs, mine, strict=True)):
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{name} at {point}")


@pytest.mark.slow_after(1)
@pytest.mark.parametrize(
    ("optimizer", "pruned", "steps_per_execution"),
    [("sgd", False, 1), ("adam", True, 1), ("adam", True, 4)],
)
def test_quantization_equals_quantize_model(optimizer, pruned, steps_per_execution):
    theirs = quantized_by_tfmot(optimizer, pruned)
    ranges = [name for name in theirs.variables[-1] if name.endswith(("_max:0", "_min:0"))]
    assert len(ranges) == 2 * (1 + 3 + 1 + 1 + 2)  # input, kernels, ReLU, pooling, two outputs
    if pruned:
        for mask in theirs.masks[-1].values():
            assert 1 - mask.mean() == pytest.approx(0.75, abs=0.02)
    mine = quantized_by_us(optimizer, pruned, steps_per_execution=steps_per_execution)
    chosen = slice(steps_per_execution - 1, None, steps_per_execution)
    assert_same_variables(theirs.variables[chosen], mine.variables)
    assert_same_variables(theirs.masks[chosen], mine.masks)
