"""What the rows of the contract share: one short compressed training, and what it leaves behind.

Three epochs of eight updates: pruned to a half from update 2 to 10, watched from update 9, rounded
from update 13, so that everything happens, and the switch in the middle of an epoch.
"""

import dataclasses

import numpy as np

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.snapshot import take

BATCH, STEPS, EPOCHS = 32, 8, 3
UPDATES = EPOCHS * STEPS
DELAY, CALIBRATION, PRUNED_AT = 12, 4, 10
PRUNING = kc.Pruning(
    kc.PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=PRUNED_AT, frequency=4)
)
QUANTIZATION = kc.Quantization(delay=DELAY, calibration_steps=CALIBRATION)
LOGS = {"sparsity", "quantized"}


def compress(**arguments):
    """The callback of every row; `arguments` replace its specs or add to them."""
    return kc.Compress(**{"pruning": PRUNING, "quantization": QUANTIZATION, **arguments})


def watcher():
    """A callback that changes no number: it watches during the last updates, and never rounds."""
    return kc.Compress(quantization=kc.Quantization(delay=UPDATES, calibration_steps=CALIBRATION))


def uncompiled_net(keras):
    """Small enough to trace in half a second, with the same weights every time."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((8, 8, 1), name="image"),
            layers.Conv2D(4, 3, strides=2, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flatten"),
            layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )


def net(keras, **arguments):
    """`uncompiled_net`, compiled."""
    return compiled(keras, uncompiled_net(keras), **arguments)


def compiled(keras, model, optimizer=None, **compile_arguments):
    """Without XLA, which would compile every phase anew for seconds."""
    arguments = {
        "optimizer": optimizer or keras.optimizers.Adam(0.01),
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        "jit_compile": False,
        **compile_arguments,
    }
    model.compile(**arguments)
    return model


def fit(model, data, callbacks=(), **arguments):
    """Train on the same batches in the same order every time; `data` are the arrays."""
    x, y = data
    arguments = {"epochs": EPOCHS, "verbose": 0, "shuffle": False, **arguments}
    return model.fit(x, y, batch_size=BATCH, callbacks=list(callbacks), **arguments)


@dataclasses.dataclass
class Outcome:
    """What a fit left behind. `state` is None for a plain model."""

    model: object
    compress: object
    history: dict
    weights: list
    state: object

    @property
    def report(self):
        return self.compress.report


def outcome(model, history, callback=None):
    engine = engine_of(model)
    return Outcome(
        model,
        callback,
        history.history,
        model.get_weights(),
        None if engine is None else take(engine),
    )


def train(keras, data, callback, others=(), before=True, model=None, **arguments):
    """One fit of `net` with `callback` (None: without), `others` before or after it in the list."""
    model = net(keras) if model is None else model
    own = [] if callback is None else [callback]
    callbacks = [*others, *own] if before else [*own, *others]
    return outcome(model, fit(model, data, callbacks, **arguments), callback)


def assert_same_weights(got, expected, tolerance=0.0):
    for left, right in zip(got, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)


def assert_same_arrays(got, expected):
    assert set(got) == set(expected)
    for key in expected:
        np.testing.assert_array_equal(got[key], expected[key], err_msg=key)


def assert_same_counts(got, expected):
    """Both runs did the same things at the same steps."""
    for name in ("step", "phase", "observed", "switched_at", "iterations", "schedules", "steps"):
        assert getattr(got.state, name) == getattr(expected.state, name), name


def assert_same_run(got, expected, also=()):
    """To the last bit: weights, masks, ranges and logs; `also` are the only additional logs."""
    assert_same_counts(got, expected)
    assert_same_arrays(got.state.masks, expected.state.masks)
    assert_same_arrays(got.state.ranges, expected.state.ranges)
    assert_same_weights(got.weights, expected.weights)
    assert set(got.history) == {*expected.history, *also}
    for name, values in expected.history.items():
        assert got.history[name] == values, name


def kept(state):
    """How many weights each mask keeps."""
    return {key: int(mask.sum()) for key, mask in state.masks.items()}


def kernels(weights):
    """The weights that are pruned."""
    return [array for array in weights if array.ndim > 1]


def plain_copy(keras, weights, **compile_arguments):
    """A model without compression that has these weights."""
    model = net(keras, **compile_arguments)
    model.set_weights(weights)
    return model
