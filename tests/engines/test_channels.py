"""Whole channels: which go together, which are dropped, and what is left of the network."""

import re

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from helpers.channel_graphs import with_random_weights
from helpers.dropped_channels import answers, assert_same, pruned
from helpers.nets import compile_net

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place.channels import table
from keras_compress.engines.in_place.channels.groups import map_channels
from keras_compress.engines.in_place.channels.rows import How, Passing, Side, Weight
from keras_compress.frameworks.choose import adapter_of

pytestmark = pytest.mark.by_turns

HALF = kc.ConstantSparsity(0.5, 1)
BATCH = 8


def channels(schedule=HALF, **more):
    return kc.Pruning(schedule, structure="channels", **more)


def image_net(keras):
    """A residual net with what hangs on channels: batch norm, slopes, a depthwise kernel, a Flatten
    before a Dense.
    """
    layers = keras.layers
    image = keras.Input((8, 8, 2), name="image")
    x = layers.Conv2D(6, 3, padding="same", name="first")(image)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="second")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.DepthwiseConv2D(3, strides=2, name="depthwise")(x)
    x = layers.PReLU(shared_axes=[1, 2], name="slopes")(x)
    z = layers.Conv2D(4, 2, name="third")(x)
    x = layers.Concatenate(name="join")([layers.Cropping2D(((0, 1), (0, 1)))(x), z])
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(8, activation="sigmoid", name="hidden")(x)
    x = layers.Dense(3, activation="softmax", name="out")(x)
    return with_random_weights(keras.Model(image, x))


def dense_net(keras, *names_and_widths, activation="relu"):
    layers = keras.layers
    steps = [layers.Dense(w, activation=activation, name=n) for n, w in names_and_widths]
    return with_random_weights(
        keras.Sequential([layers.Input((5,)), *steps, layers.Dense(3, name="out")])
    )


# --- which go together


def test_channels_that_meet_go_together_and_what_hangs_on_them_is_known(keras):
    model = image_net(keras)
    found = map_channels(adapter_of(model, "test"), model)
    assert {group.layers: len(group.members) for group in found.groups} == {
        ("first", "second"): 6,
        ("third",): 4,
        ("hidden",): 8,
        ("out",): 3,
    }
    (first, *_), ids = found.groups, {}
    member = set(first.members[2].tolist())
    for slot in found.slots:
        places = [i for i, each in enumerate(slot.ids.tolist()) if each in member]
        if places:
            ids[f"{slot.path}/{slot.weight.name}", slot.axis] = places
    # Worked by hand: 6 + 4 channels in each of 2 x 2 places before Flatten.
    assert ids == {
        ("first/kernel", 3): [2],
        ("first/bias", 0): [2],
        **{(f"norm/{n}", 0): [2] for n in ("gamma", "beta", "moving_mean", "moving_variance")},
        ("second/kernel", 2): [2],
        ("second/kernel", 3): [2],
        ("second/bias", 0): [2],
        ("depthwise/depthwise_kernel", 2): [2],
        ("depthwise/bias", 0): [2],
        ("slopes/alpha", 2): [2],
        ("third/kernel", 2): [2],
        ("hidden/kernel", 0): [2, 12, 22, 32],
    }


def stopped(keras, make):
    """Path -> reason of the network that `make` puts between a convolution and the output."""
    layers = keras.layers
    image = keras.Input((4, 4, 4), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(image)
    x = layers.Dense(2, name="out")(layers.Flatten()(make(layers, x, image)))
    model = keras.Model(image, x)
    with pytest.raises(ValueError, match="no channel of this model can be dropped") as refused:
        pruned(model)
    return str(refused.value)


def _reshape(x, sizes):
    """By the function of either Keras."""
    if isinstance(x, keras3.KerasTensor):
        return keras3.ops.reshape(x, sizes)
    return tf.reshape(x, sizes)


STOPS = {
    "unknown": (
        lambda layers, x, image: layers.LayerNormalization(name="norm")(x),
        "its channels meet 'norm' (LayerNormalization), which no row tells of",
    ),
    "inputs": (
        lambda layers, x, image: layers.Add()([x, image]),
        "its channels go together with inputs of the model",
    ),
    "softmax": (
        lambda layers, x, image: layers.Softmax(name="shares")(x),
        "its channels meet 'shares' (Softmax), whose 'softmax' may compute one of another",
    ),
    "reshape": (
        lambda layers, x, image: layers.Reshape((4, 8, 2), name="halves")(x),
        "its channels meet 'halves' (Reshape), which lays them out anew",
    ),
    "permute": (
        lambda layers, x, image: layers.Permute((3, 1, 2), name="turned")(x),
        "its channels meet 'turned' (Permute), which lays them out anew",
    ),
    "groups": (
        lambda layers, x, image: layers.Conv2D(4, 3, groups=2, trainable=False, name="two")(x),
        "its channels meet 'two' (Conv2D): its kernel is in groups=2",
    ),
    "axis": (
        lambda layers, x, image: layers.BatchNormalization(axis=1, name="rows")(x),
        "its channels meet 'rows' (BatchNormalization): axis=1 of 4",
    ),
    "frozen": (
        lambda layers, x, image: layers.BatchNormalization(trainable=False, name="still")(x),
        "'still' was frozen when the channels were followed",
    ),
    "reshape by a function": (
        lambda layers, x, image: _reshape(x, (-1, 64)),
        "its sizes are numbers that stay, as those of a `Reshape` layer would not",
    ),
    "constant": (
        lambda layers, x, image: x * np.arange(4, dtype="float32"),
        "one of its operands is a constant with many numbers",
    ),
}


@pytest.mark.parametrize("name", STOPS)
def test_what_is_not_known_stops_the_channels_that_meet_it_by_name(keras, name):
    make, reason = STOPS[name]
    assert reason in stopped(keras, make)


# --- which are dropped


def rms(*parts):
    """The root of the mean square of the rows of several arrays (channels, numbers)."""
    return np.sqrt(np.mean(np.concatenate(parts, 1).astype("float64") ** 2, 1))


def along(value, axis):
    return np.moveaxis(np.asarray(value), axis, 0).reshape(value.shape[axis], -1)


def reference_scores(model, score):
    """Of the channels of `image_net`, group by group, as the documentation says it."""
    weights = {
        f"{layer.name}/{name}": np.asarray(getattr(layer, name))
        for layer in model.layers
        for name in ("kernel", "depthwise_kernel", "bias", "gamma", "beta", "alpha")
        if getattr(layer, name, None) is not None
    }
    depthwise = weights.get("depthwise/depthwise_kernel", weights.get("depthwise/kernel"))
    hidden = weights["hidden/kernel"]
    rows = hidden.reshape(4, 10, 8).transpose(1, 0, 2).reshape(10, 32)  # by channel before Flatten
    groups = [
        [
            *(along(weights[f"{name}/kernel"], 3) for name in ("first", "second")),
            *(along(weights[f"{name}/kernel"], 2) for name in ("second", "third")),
            *(along(weights[f"{n}"], 0) for n in ("first/bias", "second/bias", "depthwise/bias")),
            along(weights["norm/gamma"], 0),
            along(weights["norm/beta"], 0),
            along(depthwise, 2),
            along(weights["slopes/alpha"], 2),
            rows[:6],
        ],
        [along(weights["third/kernel"], 3), weights["third/bias"][:, None], rows[6:]],
        [hidden.T, weights["hidden/bias"][:, None], weights["out/kernel"]],
    ]
    if score == "l2":
        return [rms(*parts) for parts in groups]
    return [np.mean(np.abs(np.concatenate(parts, 1).astype("float64")), 1) for parts in groups]


def reference_masks(scores, sparsity, allocation, multiple_of):
    """The masks of groups with these scores."""

    def keep(scores, wanted):
        times = np.clip(np.round(wanted / multiple_of), 1, len(scores) // multiple_of)
        order = np.argsort(-scores, kind="stable")
        return np.isin(np.arange(len(scores)), order[: int(times) * multiple_of])

    if allocation == "uniform":
        return [keep(own, len(own) * (1 - sparsity)) for own in scores]
    shares = [own / own.mean() for own in scores]
    for own, share in zip(scores, shares, strict=True):
        share[np.argsort(-own, kind="stable")[:multiple_of]] = np.inf
    total = sum(map(len, scores))
    limit = np.sort(np.concatenate(shares))[::-1][round(total * (1 - sparsity)) - 1]
    return [keep(own, (share >= limit).sum()) for own, share in zip(scores, shares, strict=True)]


@pytest.mark.parametrize("multiple_of", [1, 2, 4])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("score", ["l2", "l1"])
def test_the_masks_are_those_of_the_formula(keras, score, allocation, multiple_of):
    model = image_net(keras)
    expected = reference_masks(reference_scores(model, score), 0.55, allocation, multiple_of)
    schedule = kc.ConstantSparsity(0.55, 1)
    arguments = {"score": score, "allocation": allocation, "multiple_of": multiple_of}
    engine = pruned(model, schedule=schedule, **arguments)
    kept = engine.pruner.kept().numpy()
    np.testing.assert_array_equal(kept, np.concatenate(expected))
    assert engine.sparsity == pytest.approx(1 - kept.mean())
    masks = {f"{t.path}/{t.kernel_name}": t.kept() for t in engine.pruner.targets}
    both = np.multiply.outer(kept[:6], kept[6:10])
    np.testing.assert_array_equal(masks["third/kernel"], np.broadcast_to(both, (2, 2, 6, 4)))
    np.testing.assert_array_equal(masks["norm/moving_mean"], kept[:6])


def test_gamma_alone_decides_where_it_is_asked_for(keras):
    model = image_net(keras)
    engine = pruned(model, score="gamma")
    gamma = np.abs(np.asarray(model.get_layer("norm").gamma))
    expected = np.isin(np.arange(6), np.argsort(-gamma)[:3])
    np.testing.assert_array_equal(engine.pruner.kept().numpy(), expected)
    assert "no batch norm scales them" in engine.left_out["pruning"]["hidden"]


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_of_nan_nobody_can_tell_which_channels_are_the_lowest(keras, allocation):
    model = dense_net(keras, ("first", 8), ("second", 8), ("third", 8))
    engine = pruned(model, allocation=allocation)
    before = engine.pruner.kept().numpy()
    broken = [weight.copy() for weight in model.get_weights()]
    broken[0][0, 0] = np.nan  # of the first layer alone
    broken[4] = -np.roll(broken[4], 1, 1)
    model.set_weights(broken)
    engine.pruner.update_all(lambda schedule: 1)
    after = engine.pruner.kept().numpy()
    np.testing.assert_array_equal(after[:8], before[:8])
    # Among all groups, where one cannot be compared none can.
    assert (after[16:] == before[16:]).all() == (allocation == "global")
    assert after.mean() == 0.5


def test_one_channel_of_each_layer_stays(keras):
    model = dense_net(keras, ("few", 3), ("many", 40))
    engine = pruned(model, schedule=kc.ConstantSparsity(0.99, 1), allocation="global")
    assert [kc.strip(model).get_layer(name).units for name in ("few", "many")] == [1, 1]
    assert engine.sparsity == pytest.approx(41 / 43)


# --- in a fit


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(7)
    return draw.normal(size=(48, 5)).astype("float32"), draw.normal(size=(48, 3)).astype("float32")


def fit(model, data, *callbacks, epochs=2, **arguments):
    given = {"batch_size": BATCH, "epochs": epochs, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(*data, callbacks=list(callbacks), **given)


def compiled(keras, model, learning_rate=0.1):
    model.compile(keras.optimizers.SGD(learning_rate), "mse", jit_compile=False)
    return model


def train_by_hand(model, data, schedule, steps):
    """Drop channels of the layers "first" and "second" while training, by NumPy."""
    x, y = data
    first, second, out = (model.get_layer(name) for name in ("first", "second", "out"))
    kept = [np.ones(8, bool), np.ones(6, bool)]
    for step in range(1, steps + 1):
        if schedule.updates_at(step):
            a, b, c = (np.asarray(layer.kernel) for layer in (first, second, out))
            scores = [
                rms(a.T, np.asarray(first.bias)[:, None], b),
                rms(b.T, np.asarray(second.bias)[:, None], c),
            ]
            kept = reference_masks(scores, schedule.sparsity(step), "uniform", 1)
        mask_by_hand(first, second, out, kept)
        rows = slice((step - 1) % 6 * BATCH, ((step - 1) % 6 + 1) * BATCH)
        model.train_on_batch(x[rows], y[rows])
    mask_by_hand(first, second, out, kept)
    return kept


def mask_by_hand(first, second, out, kept):
    one, two = (each.astype("float32") for each in kept)
    first.kernel.assign(np.asarray(first.kernel) * one)
    first.bias.assign(np.asarray(first.bias) * one)
    second.kernel.assign(np.asarray(second.kernel) * one[:, None] * two)
    second.bias.assign(np.asarray(second.bias) * two)
    out.kernel.assign(np.asarray(out.kernel) * two[:, None])


def test_a_fit_is_the_loop_written_by_hand_to_the_last_bit(keras, data):
    schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=9, frequency=3)
    mine, by_hand = (
        compiled(keras, dense_net(keras, ("first", 8), ("second", 6), activation="tanh"))
        for _ in range(2)
    )
    compress = kc.Compress(pruning=channels(schedule), verbose=0)
    logs = fit(mine, data, compress).history
    kept = train_by_hand(by_hand, data, schedule, 12)
    for one, other in zip(mine.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert logs["sparsity"] == pytest.approx(
        [5 / 14, 0.5]
    )  # of 8 and 6 channels 3 and 2, then half
    assert [each.sum() for each in kept] == [4, 3]
    small = compress.stripped_model
    assert [small.get_layer(name).units for name in ("first", "second", "out")] == [4, 3, 3]
    assert type(small) is type(mine)
    assert_same(answers(mine, data[0]), answers(small, data[0]))
    fit(small, data)  # it is compiled, and trains on
    again = kc.Compress(pruning=channels(kc.ConstantSparsity(0.5, 1)), verbose=0)
    fit(small, data, again)
    assert again.stripped_model.get_layer("first").units == 2
    assert mine.get_layer("first").units == 8


def test_single_weights_of_what_is_left_go_in_the_same_fit(keras, data, tmp_path):
    """Of the channels that are left half of the weights are zero: checked on the small network."""
    schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=8, frequency=3)
    model = compiled(keras, dense_net(keras, ("first", 8), ("second", 6), activation="tanh"))
    spec = channels(schedule, weights=kc.ConstantSparsity(0.25, begin_step=9, frequency=2))
    compress = kc.Compress(pruning=spec, partial=True, verbose=0)
    plan = kc.preview(model, pruning=spec, steps=12)
    foreseen = {each.path: each.sparsity for each in plan.layers}
    fit(model, data, compress)
    small = compress.stripped_model
    kernels = {name: np.asarray(small.get_layer(name).kernel) for name in foreseen}
    assert {name: kernel.shape for name, kernel in kernels.items()} == {
        "first": (5, 4),
        "second": (4, 3),
        "out": (3, 3),
    }
    zeros = {name: int((kernel == 0).sum()) for name, kernel in kernels.items()}
    assert zeros == {"first": 5, "second": 3, "out": 2}  # 20 x 0.25, 12 x 0.25, 9 x 0.25
    # Of the whole kernels, with what the dropped channels leave.
    by_hand = {"first": 25 / 40, "second": 39 / 48, "out": 11 / 18}
    assert foreseen == pytest.approx(by_hand)
    assert {e.path: e.sparsity for e in compress.report.layers} == pytest.approx(by_hand)
    assert_same(answers(model, data[0]), answers(small, data[0]))
    kc.save_state(model, tmp_path / "state.npz")
    loaded = compiled(keras, dense_net(keras, ("first", 8), ("second", 6), activation="tanh"))
    loaded.set_weights(model.get_weights())
    kc.load_state(loaded, tmp_path / "state.npz")
    for one, other in zip(kc.strip(loaded).get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_smallest_of_the_weights_that_are_left_go(keras):
    model = image_net(keras)
    engine = pruned(model, weights=kc.ConstantSparsity(0.5, 1))
    kept = {t.path: t.kept() for t in engine.pruner.targets}
    hidden = np.abs(np.asarray(model.get_layer("hidden").kernel))
    there = {t.path: t.kept() for t in engine.pruner.hanging if t.listed}["hidden"]
    expected = hidden >= np.sort(hidden[there])[-round(there.sum() * 0.5)]
    np.testing.assert_array_equal(kept["hidden (weights)"], expected | ~there)


@pytest.mark.slow
def test_a_state_goes_on_where_it_was_saved(keras, data, tmp_path):
    schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=9, frequency=3)
    nets = [
        compiled(keras, dense_net(keras, ("first", 8), ("second", 6), activation="tanh"))
        for _ in range(3)
    ]
    whole, before, after = nets
    fit(whole, data, kc.Compress(pruning=channels(schedule), verbose=0))
    fit(before, data, kc.Compress(pruning=channels(schedule), partial=True, verbose=0), epochs=1)
    kc.save_state(before, tmp_path / "state.npz")
    with engine_of(before).readers.get_all():
        after.set_weights(before.get_weights())
    kc.load_state(after, tmp_path / "state.npz")
    fit(after, data, kc.Compress(pruning=channels(schedule), verbose=0), epochs=1)
    for one, other in zip(whole.get_weights(), after.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert_same(answers(whole, data[0]), answers(kc.strip(after), data[0]))


def test_layers_chooses_whole_groups_and_dicts_have_schedules(keras):
    model = image_net(keras)
    engine = pruned(model, layers={"hidden": kc.ConstantSparsity(0.75, 1)})
    assert kc.strip(model).get_layer("hidden").units == 2
    engine.detach()
    engine = pruned(model, layers=lambda layer: layer.name != "second")
    assert engine.left_out["pruning"]["first"] == (
        "its channels go together with those of 'second', left by `layers`"
    )
    assert engine.pruner.makers == ["third", "hidden"]


# --- errors

REFUSED = {
    "output": ({"layers": ["out"]}, "those of 'out' cannot: its channels are outputs of the model"),
    "half": ({"layers": ["first"]}, "those of 'first' cannot: .*go together with .*'second'"),
    "no-maker": ({"layers": ["norm"]}, "those of 'norm' cannot: it makes no channels"),
    "multiple": ({"multiple_of": 5}, r"multiple_of=5, and 4 channels of 'third'"),
    "schedules": (
        {"layers": {"first": HALF, "second": kc.ConstantSparsity(0.25, 1)}, "schedule": None},
        "the same schedule. Received: .*'second'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_before_the_first_step(keras, name):
    more, message = REFUSED[name]
    model = compile_net(keras, image_net(keras))
    spec = channels(**{"schedule": HALF, **more})
    with pytest.raises(ValueError, match=message):
        model.fit(np.zeros((4, 8, 8, 2)), np.zeros(4), callbacks=[kc.Compress(pruning=spec)])
    assert engine_of(model) is None


def test_a_model_that_its_config_does_not_make_is_refused_before_the_first_step(keras):
    class Picky(keras.layers.Layer):
        def __init__(self, needed, **arguments):
            super().__init__(**arguments)

        def call(self, x):
            return x

        def get_config(self):
            return super().get_config()  # without what its class needs

    layers = keras.layers
    image = keras.Input((5,))
    x = layers.Dense(3, name="out")(layers.Dense(4, name="hidden")(Picky(1, name="odd")(image)))
    model = compiled(keras, keras.Model(image, x))
    before = [weight.copy() for weight in model.get_weights()]
    with pytest.raises(ValueError, match="that its class can be made from"):
        fit(model, (np.ones((16, 5)), np.ones((16, 3))), kc.Compress(pruning=channels()))
    assert engine_of(model) is None
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_without_a_graph_is_refused(keras):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.zeros((1, 3), "float32"))
    with pytest.raises(ValueError, match="a `call` of its own has not: make it Sequential"):
        kc.preview(model, pruning=channels(), steps=3)


def test_wrappers_of_tfmot_refuse_channels():
    import tf_keras

    model = dense_net(tf_keras, ("first", 8))
    with pytest.raises(ValueError, match='engine="in_place"') as refused:
        kc.wrap(model, pruning=channels())
    assert "tfmot's wrappers" in str(refused.value)


# --- a wrong table does not pass


def _broken(row, **weights):
    """A row with other axes for some of its weights."""
    return Passing(
        row.how,
        tuple(Weight(each.name, weights.get(each.name, each.axes)) for each in row.weights),
        size=row.size,
        activated=row.activated,
        config=row.config,
    )


BROKEN = {
    "Conv2D": _broken(table.CHANNELS["Conv2D"], kernel=((-1, Side.IN), (-2, Side.OUT))),
    "Dense": _broken(table.CHANNELS["Dense"], bias=()),
    "DepthwiseConv2D": _broken(table.CHANNELS["DepthwiseConv2D"], bias=()),
    "Add": Passing(How.KEEPS),
    "Flatten": Passing(How.MERGES),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_wrong_row_is_found_out(keras, kind, monkeypatch):
    monkeypatch.setitem(table.CHANNELS, kind, BROKEN[kind])
    model = image_net(keras)

    def both():
        pruned(model)
        kc.strip(model)

    with pytest.raises(Exception, match=re.compile("strip|shape|axis|index", re.I)):
        both()


@pytest.mark.parametrize(("kind", "weight"), [("BatchNormalization", "gamma"), ("PReLU", "alpha")])
def test_weights_of_which_a_row_tells_nothing_stop_the_channels(keras, kind, weight, monkeypatch):
    monkeypatch.setitem(table.CHANNELS, kind, Passing(How.KEEPS))
    left_out = pruned(image_net(keras)).left_out["pruning"]
    assert f"({kind}): it has a weight" in left_out["first"]
    assert weight in left_out["first"]
