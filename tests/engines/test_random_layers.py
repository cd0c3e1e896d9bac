"""Layers with random numbers draw what a plain fit would, however often the step is traced anew."""

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.frameworks.random_streams import RandomStreams, Stream

tf_keras = pytest.importorskip("tf_keras")

ROWS, BATCH = 30, 8  # four updates in an epoch, the last of six rows
DELAY = 12
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.random((ROWS, 5, 5, 2)).astype("float32")
Y = GENERATOR.random((ROWS, 3)).astype("float32")


# --- the numbers


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_a_stream_gives_what_the_stateful_op_gives(kind, dtype):
    seeds = 87654321, 7
    stateful = {"uniform": "RandomUniform", "normal": "RandomStandardNormal"}[kind]
    stateless = {"uniform": "StatelessRandomUniformV2", "normal": "StatelessRandomNormalV2"}[kind]
    stream = Stream.beginning(seeds)

    @tf.function(reduce_retracing=True)
    def both(shape):
        given = {"shape": shape, "dtype": dtype, "seed": seeds[0], "seed2": seeds[1]}
        theirs = getattr(tf.raw_ops, stateful)(**given)
        ours = stream.draw(getattr(tf.raw_ops, stateless), shape, tf.as_dtype(dtype))
        return theirs, ours

    drawn = []
    for shape in ([4, 5], [3, 5], [1, 1], [300, 70], [4, 5]):
        theirs, ours = both(tf.constant(shape))
        np.testing.assert_array_equal(ours, theirs)
        drawn.append(theirs.numpy())
    assert not np.array_equal(drawn[0], drawn[-1])


# --- the trainings


KINDS = {
    "Dropout": lambda layers, **seed: layers.Dropout(0.3, **seed),
    "Dropout, one mask for a channel": lambda layers, **seed: layers.Dropout(
        0.3, noise_shape=(None, 1, 1, 4), **seed
    ),
    "SpatialDropout2D": lambda layers, **seed: layers.SpatialDropout2D(0.3, **seed),
    "GaussianDropout": lambda layers, **seed: layers.GaussianDropout(0.2, **seed),
    "GaussianNoise": lambda layers, **seed: layers.GaussianNoise(0.1, **seed),
    "AlphaDropout": lambda layers, **seed: layers.AlphaDropout(0.2, **seed),
    # As a loop it is not even equal to itself in tf_keras: its steps draw in any order.
    "GRU, unrolled": lambda layers, **seed: layers.GRU(4, dropout=0.3, unroll=True, **seed),
}
IN_THE_SUITE = [("Dropout", None), ("SpatialDropout2D", 11), ("GaussianDropout", None)]


def net(keras, kind, seed, **compile_with):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    given = {} if seed is None else {"seed": seed}
    front = [layers.Conv2D(4, 3)]
    if kind.startswith("GRU"):
        front = [layers.Reshape((5, 10))]
    model = keras.Sequential(
        [
            layers.Input((5, 5, 2)),
            *front,
            KINDS[kind](layers, **given),
            layers.Flatten(),
            layers.Dropout(0.2, **given),
            layers.Dense(3),
        ]
    )
    model.compile(**{"optimizer": "adam", "loss": "mse", "jit_compile": False, **compile_with})
    return model


def weights_of(keras, model, *callbacks):
    """What they are after the last update before quantization is on, of a fit that goes on."""
    found = []

    class Noting(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if model.optimizer.iterations.numpy() == DELAY:
                found.extend(model.get_weights())

    given = {"batch_size": BATCH, "epochs": 4, "shuffle": False, "verbose": 0}
    model.fit(IMAGES, Y, callbacks=[*callbacks, Noting()], **given)
    return found


def compressing():
    """Ranges are watched in the second half of the delay."""
    quantization = kc.Quantization(delay=DELAY, calibration_steps=DELAY // 2)
    return kc.Compress(quantization=quantization, verbose=0)


def assert_equal(found, expected):
    assert found
    for own, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own, theirs)


@pytest.mark.slow_after(1)
@pytest.mark.by_turns("tf_keras")
@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        *IN_THE_SUITE,
        *(
            pytest.param(kind, seed, marks=pytest.mark.sweep)
            for kind in KINDS
            for seed in (None, 11)
            if (kind, seed) not in IN_THE_SUITE
        ),
    ],
)
def test_until_quantization_is_on_a_training_is_the_plain_one(keras, kind, seed):
    expected = weights_of(keras, net(keras, kind, seed))
    assert_equal(weights_of(keras, net(keras, kind, seed), compressing()), expected)


@pytest.mark.by_turns("tf_keras")
def test_several_steps_in_one_execution_draw_on(keras):
    nets = [net(keras, "Dropout", 5, steps_per_execution=2) for _ in range(2)]
    expected = weights_of(keras, nets[0])
    assert_equal(weights_of(keras, nets[1], compressing()), expected)


def test_batches_of_another_shape_begin_streams_of_their_own_as_in_a_plain_fit():
    """Keras traces them for themselves, each time from the layer's next seed."""

    def trained(compressed):
        model = net(tf_keras, "Dropout", 5)
        if compressed:
            quantization = kc.Quantization(delay=DELAY, calibration_steps=DELAY // 2)
            weights, model = model.get_weights(), tf_keras.models.clone_model(model)
            model.set_weights(weights)
            model = kc.wrap(model, quantization=quantization, engine="in_place")
            model.compile("adam", "mse")
        for update in range(DELAY):
            rows = 8 if update % 3 else 6
            model.train_on_batch(IMAGES[:rows], Y[:rows])
        return [variable.numpy() for variable in model.trainable_variables]

    assert_equal(trained(True), trained(False))


@pytest.mark.slow
def test_the_generators_are_left_as_they_were():
    model = net(tf_keras, "Dropout", 5)
    generator = vars(model.layers[1])["_random_generator"]
    before = set(vars(generator))
    weights_of(tf_keras, model, compressing())
    assert set(vars(generator)) == before


def test_what_breaks_in_a_step_gives_the_generators_back():
    generator = vars(tf_keras.layers.Dropout(0.5, seed=1))["_random_generator"]
    before = set(vars(generator))
    with pytest.raises(ZeroDivisionError), RandomStreams().going_on([generator]):
        raise ZeroDivisionError
    assert set(vars(generator)) == before
