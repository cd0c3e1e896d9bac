"""All ranges in one variable: a call of the network holds them as loose numbers, and whoever is
inside of it in a graph of its own reads and writes the variable.
"""

import collections
import contextlib

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place.fake_quant import ActivationQuantizer
from keras_compress.engines.in_place.followed_ranges import FollowedRanges
from keras_compress.engines.quantizers import Mode
from keras_compress.engines.state import Phase

START = [(-1.0, 2.0), (-1.0, 2.0), (0.0, 2.0)]
KEPT = 0.9


def quantizers(phase=Phase.ON):
    """Three that follow, of which the last never sees what is below zero."""
    mode = Mode(phase=phase)
    ranges = FollowedRanges(mode, [False, False, True], 8)
    ranges.variable.assign(START)
    return ranges, [ActivationQuantizer(mode, 8, ranges[row]) for row in range(3)]


@contextlib.contextmanager
def step(ranges):
    """A training step with one call of the network in it."""
    mode = ranges.mode
    with tf.init_scope():  # known in every graph
        decay = tf.constant(KEPT)
    mode.trace, mode.updating, mode.decay = mode.trace + 1, True, decay
    try:
        with ranges.call_of_model():
            yield
    finally:
        mode.updating, mode.decay = False, None


def moved(old, *seen):
    """NumPy: a range that has met these tensors in one step; zero is inside."""
    numbers = np.concatenate([*map(np.ravel, seen), [0.0]])
    return KEPT * np.asarray(old) + (1 - KEPT) * np.array([numbers.min(), numbers.max()])


def in_function(call):
    return tf.function(call)()


def in_loop(call):
    """Once: each time would move the range."""
    tf.while_loop(lambda i: i < 1, lambda i: (call(), i + 1)[1:], [tf.constant(0)])


def in_taken_branch(call):
    tf.cond(tf.constant(True), lambda: (call(), 1)[1], lambda: 0)


def in_other_branch(call):
    tf.cond(tf.constant(False), lambda: (call(), 1)[1], lambda: 0)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_call_moves_each_range_by_what_it_has_met(graph):
    ranges, (first, second, third) = quantizers()
    a, b, c = tf.constant([-3.0, 1.0]), tf.constant([0.5, 9.0]), tf.constant([4.0, 1.0])

    def one_step():
        with step(ranges):
            rounded = first(a)
            second(a)
            second(b)  # covers both
            third(c)
        return rounded

    rounded = (tf.function(one_step) if graph else one_step)()
    expected = [moved(START[0], a), moved(START[1], a, b), moved(START[2], c)]
    np.testing.assert_allclose(ranges.variable, expected, rtol=1e-6)
    scale = np.diff(expected[0])[0] / 255
    np.testing.assert_allclose(rounded, np.rint(np.array([expected[0][0], 1.0]) / scale) * scale)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_call_that_fails_moves_nothing(graph):
    ranges, (first, *_) = quantizers()

    def one_step():
        with step(ranges):
            first(tf.constant([-3.0, 1.0]))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        (tf.function(one_step) if graph else one_step)()
    np.testing.assert_array_equal(ranges.variable, START)
    assert ranges.call_with(0) is None


@pytest.mark.parametrize(
    ("where", "graph"),
    [
        (in_function, False),
        *((where, True) for where in (in_function, in_loop, in_taken_branch, in_other_branch)),
    ],
)
def test_who_meets_a_range_in_a_graph_inside_goes_on_from_what_the_call_has(where, graph):
    """And the end of the call does not undo it."""
    ranges, (first, second, third) = quantizers()
    a, b, c = tf.constant([-3.0, 1.0]), tf.constant([0.5, 9.0]), tf.constant([4.0, 1.0])

    def one_step():
        with step(ranges):
            first(a)
            where(lambda: first(b))
            where(lambda: second(b))
            third(c)

    run = tf.function(one_step) if graph else one_step
    met = () if where is in_other_branch else (b,)
    expected = np.array(START)
    for _ in range(2):  # in eager mode the second one knows already that they are met inside
        run()
        expected = [
            moved(expected[0], a, *met),
            moved(expected[1], *met) if met else expected[1],
            moved(expected[2], c),
        ]
        np.testing.assert_allclose(ranges.variable, expected, rtol=1e-6)


def test_a_function_that_is_not_traced_again_still_moves_what_it_has_met():
    ranges, (first, second, _) = quantizers(Phase.WATCHING)
    b = tf.constant([0.5, 9.0])
    traced = []

    @tf.function
    def inside():
        traced.append(True)
        second(b)
        return tf.constant(0)

    def one_step(a):
        with step(ranges):
            first(a)
            inside()

    expected = np.array(START)
    outer = tf.function(one_step)
    for size in (2, 3):  # two traces of the step, one of what is inside
        a = tf.range(1.0, 1.0 + size)
        outer(a)
        expected = [moved(expected[0], a), moved(expected[1], b), expected[2]]
        np.testing.assert_allclose(ranges.variable, expected, rtol=1e-6)
    assert len(traced) == 1


def test_who_shares_a_range_is_rounded_over_what_the_call_has_moved():
    ranges, (first, *_) = quantizers()
    a = tf.constant([-3.0, 1.0])
    with step(ranges):
        rounded = first(a)
        again = first(rounded, shares=True)
        inside = in_function(lambda: first(rounded, shares=True))
    np.testing.assert_array_equal(again, rounded)
    np.testing.assert_array_equal(inside, rounded)
    np.testing.assert_allclose(ranges.variable[0], moved(START[0], a), rtol=1e-6)


def test_a_function_of_before_the_call_keeps_what_it_moves_in_it():
    """It was traced without one, so that nobody knows of it."""
    ranges, (first, second, third) = quantizers(Phase.WATCHING)
    a, b = tf.constant([-3.0, 1.0]), tf.constant([0.5, 9.0])

    @tf.function
    def inside():
        second(b)
        return tf.constant(0)

    ranges.mode.updating, ranges.mode.decay = True, tf.constant(KEPT)
    inside()
    with step(ranges):
        for each in (first, third):
            each(a)
        inside()
    twice = moved(moved(START[1], b), b)
    expected = [moved(START[0], a), twice, moved(START[2], [0.0, 1.0])]
    np.testing.assert_allclose(ranges.variable, expected, rtol=1e-6)


def test_a_call_inside_of_a_call_is_part_of_it():
    ranges, (first, second, _) = quantizers()
    a, b = tf.constant([-3.0, 1.0]), tf.constant([0.5, 9.0])
    with step(ranges):
        first(a)
        with ranges.call_of_model():
            first(b)
            second(b)
    expected = [moved(START[0], a, b), moved(START[1], b), START[2]]
    np.testing.assert_allclose(ranges.variable, expected, rtol=1e-6)


def test_two_calls_in_one_step_cover_what_both_have_met():
    ranges, (first, second, _) = quantizers()
    a, b = tf.constant([-3.0, 1.0]), tf.constant([0.5, 9.0])
    with step(ranges):
        first(a)
        second(a)
    ranges.mode.updating, ranges.mode.decay = True, tf.constant(KEPT)
    with ranges.call_of_model():  # the same step goes on
        first(b)
    expected = [moved(START[0], a, b), moved(START[1], a), START[2]]
    np.testing.assert_allclose(ranges.variable, expected, rtol=1e-6)


@pytest.mark.parametrize("under_way", [False, True], ids=["after the call", "under way"])
@pytest.mark.parametrize("jit", [None, False, True], ids=["eager", "graph", "xla"])
def test_gradients_pass_inside_the_range_that_each_tensor_was_rounded_over(jit, under_way):
    """TensorFlow's own, over the ends worked by NumPy; the second range meets two tensors."""
    ranges, (first, second, third) = quantizers()
    x = tf.constant(np.linspace(-3.0, 4.0, 57), tf.float32)
    y = 4.0 * x

    def gradients(x, y):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([x, y])
            with step(ranges):
                rounded = [first(x), second(x), second(y), third(tf.abs(x))]
                if under_way:
                    return [tape.gradient(each, [x, y]) for each in rounded]
        return [tape.gradient(each, [x, y]) for each in rounded]

    with_tape = gradients if jit is None else tf.function(gradients, jit_compile=jit)
    found = with_tape(x, y)
    ends = [
        moved(START[0], x),
        moved(START[1], x),
        moved(START[1], x, y),
        moved(START[2], np.abs(x)),
    ]
    for (of_x, of_y), (low, high), numbers in zip(found, ends, (x, x, y, tf.abs(x)), strict=True):
        expected = tf.quantization.fake_quant_with_min_max_vars_gradient(
            tf.ones_like(x), numbers, low, high
        )[0]
        assert 0 < np.count_nonzero(expected) < 57
        sign = np.sign(x) if numbers is not x and numbers is not y else 1.0
        np.testing.assert_array_equal(of_y if numbers is y else of_x, expected * sign)


# --- in a network


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("training", [False, True])
def test_a_penalty_on_the_gradients_of_a_rounded_network_has_its_own(keras, digits, training):
    """In a step of somebody else's too, as that of a generator behind a compressed critic."""
    x, y, _, _ = digits
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    z = layers.Dense(6, activation="relu")(layers.Flatten()(inputs))
    model = keras.Model(inputs, layers.Dense(10)(z))
    model.compile("sgd", "mse", jit_compile=False)
    compress = kc.Compress(quantization=kc.Quantization(), partial=True, verbose=0)
    model.fit(x[:32], np.eye(10)[y[:32]], 16, verbose=0, callbacks=[compress])
    given = tf.constant(x[:4])
    quantizers = engine_of(model).quantizers
    around = quantizers.training_step() if training else contextlib.nullcontext()
    with around, tf.GradientTape() as outer:
        outer.watch(given)
        with tf.GradientTape() as tape:
            tape.watch(given)
            total = tf.reduce_sum(model(given) ** 2)
        penalty = tf.reduce_sum(tape.gradient(total, given) ** 2)
    found = outer.gradient(penalty, given)
    assert found is not None
    assert np.count_nonzero(found)


def ops_with(variable, function):
    """How many ops of each kind of a ConcreteFunction use a variable."""
    graph = function.graph
    handle = next(inner for outer, inner in graph.captures if outer is variable.handle)
    return collections.Counter(
        op.type for op in graph.get_operations() if any(each is handle for each in op.inputs)
    )


@pytest.mark.slow_after(1)
def test_a_networks_step_reads_and_writes_its_ranges_once(keras, digits):
    x, y, _, _ = digits
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    z = layers.Conv2D(4, 3, activation="relu")(inputs)
    z = layers.BatchNormalization()(layers.Conv2D(4, 3)(z))
    z = layers.Dense(10, activation="softmax")(layers.Flatten()(layers.ReLU(6.0)(z)))
    model = keras.Model(inputs, z)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    compress = kc.Compress(quantization=kc.Quantization(), partial=True, verbose=0)
    model.fit(x[:32], y[:32], 16, verbose=0, callbacks=[compress])
    variable = engine_of(model).quantizers.followed.variable
    assert variable.shape[0] >= 3
    batch = (tf.constant(x[:16]), tf.constant(y[:16]))
    training = tf.function(model.train_step).get_concrete_function(batch)
    assert ops_with(variable, training) == {"ReadVariableOp": 1, "AssignVariableOp": 1}
    answering = tf.function(lambda x: model(x, training=False)).get_concrete_function(batch[0])
    assert ops_with(variable, answering) == {"ReadVariableOp": 1}
