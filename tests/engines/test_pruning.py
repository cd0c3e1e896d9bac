"""What pruning does to a model in `fit`, against a training loop written by hand.

The loop computes masks with a sort by NumPy, writes the masked kernels into a plain model, and
trains it batch by batch with `train_on_batch`. What comes out must be equal to the last bit.
"""

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.engines.engine import engine_of

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

BATCH = 8
STEPS = 6  # of an epoch


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(11)
    x = generator.normal(size=(BATCH * STEPS, 6)).astype("float32")
    return x, generator.normal(size=(len(x), 3)).astype("float32")


def compiled(keras, model, optimizer="sgd", **arguments):
    """Compiled without XLA, so that two graphs round alike."""
    optimizers = {"sgd": keras.optimizers.SGD(0.1), "adam": keras.optimizers.Adam(0.01)}
    optimizer = optimizers.get(optimizer, optimizer)
    model.compile(optimizer, loss="mse", **{"jit_compile": False, **arguments})
    return model


def seeded(model, seed=5):
    """The same weights in both Keras, none of them zero."""
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    return model


def two_layers(keras, **arguments):
    """6 -> 10 -> 3, uncompiled; `arguments` go to the first layer."""
    layers = keras.layers
    return seeded(
        keras.Sequential(
            [
                layers.Input((6,)),
                layers.Dense(10, activation="tanh", name="first", **arguments),
                layers.Dense(3, name="second"),
            ]
        )
    )


def smallest_dropped(kernel, sparsity):
    """True for the weights to keep, by a sort; ties with the smallest one kept are kept."""
    magnitudes = np.abs(kernel)
    keep = max(round(magnitudes.size * (1 - sparsity)), 1)
    return magnitudes >= np.sort(magnitudes, axis=None)[-keep]


def train_by_hand(model, data, schedules, steps, first=1, masks=None):
    """Prune while training, as the documentation says it; returns the masks by layer.

    `schedules`: layer name -> schedule. `masks`: those that hold already.
    """
    x, y = data
    kernels = {name: model.get_layer(name).kernel for name in schedules}
    masks = masks or {name: np.ones(tuple(k.shape), bool) for name, k in kernels.items()}
    for step in range(first, first + steps):
        for name, kernel in kernels.items():
            if schedules[name].updates_at(step):
                sparsity = schedules[name].sparsity(step)
                masks[name] = smallest_dropped(np.asarray(kernel), sparsity)
            kernel.assign(np.asarray(kernel) * masks[name])
        rows = slice((step - 1) % STEPS * BATCH, ((step - 1) % STEPS + 1) * BATCH)
        model.train_on_batch(x[rows], y[rows])
    for name, kernel in kernels.items():
        kernel.assign(np.asarray(kernel) * masks[name])
    return masks


def fit(model, data, epochs=2, callbacks=(), **arguments):
    given = {"batch_size": BATCH, "epochs": epochs, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(*data, callbacks=list(callbacks), **given)


def masks_of(model):
    """path -> mask; a layer with two kernels shows the last."""
    return {target.path: target.mask.numpy() for target in engine_of(model).pruner.targets}


def assert_same_weights(model, expected):
    for mine, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def assert_masks_hold(model):
    """Exactly the dropped weights are zero, and the last mask is not the trivial one."""
    engine = engine_of(model)
    dropped = 0
    for target in engine.pruner.targets:
        np.testing.assert_array_equal(target.kernel.numpy() != 0, target.mask.numpy())
        dropped += np.count_nonzero(~target.mask.numpy())
    assert dropped
    return dropped


POLYNOMIAL = kc.PolynomialDecay(final_sparsity=0.7, begin_step=2, end_step=10, frequency=3)
CONSTANT = kc.ConstantSparsity(target_sparsity=0.3, begin_step=4, frequency=2)
HALF = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=1)


# --- whole fits against the loop by hand


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_fit_is_the_loop_by_hand_with_the_extra_update_at_the_end(keras, data, optimizer):
    # Updates at 2, 5, 8 and, off the grid, at end_step 10.
    model, by_hand = (compiled(keras, two_layers(keras), optimizer) for _ in range(2))
    fit(model, data, callbacks=[kc.Compress(pruning=kc.Pruning(POLYNOMIAL))])
    masks = train_by_hand(by_hand, data, {"first": POLYNOMIAL, "second": POLYNOMIAL}, 2 * STEPS)
    assert_same_weights(model, by_hand)
    for path, mask in masks.items():
        np.testing.assert_array_equal(masks_of(model)[path], mask)
    assert np.count_nonzero(~masks["first"]) == 42  # 0.7 of 60


@pytest.mark.parametrize(
    ("pruning", "expected"),
    [
        pytest.param(
            kc.Pruning(POLYNOMIAL, layers={"second": CONSTANT}),
            {"first": POLYNOMIAL, "second": CONSTANT},
            id="others-get-the-general-one",
        ),
        pytest.param(
            kc.Pruning(None, layers={"second": CONSTANT}), {"second": CONSTANT}, id="only-the-dict"
        ),
        pytest.param(
            kc.Pruning(None, layers={"first": CONSTANT, "second": POLYNOMIAL}),
            {"first": CONSTANT, "second": POLYNOMIAL},
            id="one-each",
        ),
    ],
)
def test_each_layer_follows_its_own_schedule(keras, data, pruning, expected):
    model, by_hand = (compiled(keras, two_layers(keras)) for _ in range(2))
    compress = kc.Compress(pruning=pruning)
    fit(model, data, callbacks=[compress])
    train_by_hand(by_hand, data, expected, 2 * STEPS)
    assert_same_weights(model, by_hand)
    sparsity = {layer.path: layer.sparsity for layer in compress.report.layers}
    targets = {name: schedule.target for name, schedule in expected.items()}
    assert sparsity == pytest.approx(targets)


@pytest.mark.parametrize(("name", "arguments"), [("NonNeg", ()), ("MaxNorm", (0.7,))])
def test_a_kernel_constraint_keeps_working(keras, data, name, arguments):
    def constraint():
        return getattr(keras.constraints, name)(*arguments)

    model, by_hand, unconstrained = (
        compiled(keras, two_layers(keras, kernel_constraint=each))
        for each in (constraint(), constraint(), None)
    )
    kept = model.get_layer("first").kernel_constraint
    for each in (model, unconstrained):
        fit(each, data, callbacks=[kc.Compress(pruning=kc.Pruning(POLYNOMIAL))])
    train_by_hand(by_hand, data, {"first": POLYNOMIAL, "second": POLYNOMIAL}, 2 * STEPS)
    assert_same_weights(model, by_hand)
    assert model.get_layer("first").kernel_constraint is kept
    kernel, free = (each.get_layer("first").get_weights()[0] for each in (model, unconstrained))
    assert np.abs(kernel - free).max() > 0.01  # the constraint mattered
    # Applied after every update, so before the masks of the next one: they can only shrink a norm.
    assert kernel.min() >= 0 if name == "NonNeg" else np.linalg.norm(kernel, axis=0).max() < 0.701


def test_a_shared_layer_counts_once(keras, data):
    def build():
        layers = keras.layers
        inputs = keras.Input((6,))
        shared = layers.Dense(6, activation="tanh", name="shared")
        outputs = layers.Dense(3, name="head")(shared(shared(inputs)))
        return compiled(keras, seeded(keras.Model(inputs, outputs)))

    model, by_hand = build(), build()
    compress = kc.Compress(pruning=kc.Pruning(POLYNOMIAL))
    fit(model, data, callbacks=[compress])
    train_by_hand(by_hand, data, {"shared": POLYNOMIAL, "head": POLYNOMIAL}, 2 * STEPS)
    assert_same_weights(model, by_hand)
    assert compress.report.step == 2 * STEPS
    assert [layer.path for layer in compress.report.layers] == ["shared", "head"]


def test_a_sequential_without_shapes_is_pruned_from_its_first_batch(keras, data):
    def build():
        layers = keras.layers
        first = layers.Dense(10, activation="tanh", name="first")
        return compiled(keras, keras.Sequential([first, layers.Dense(3, name="second")]))

    keras.utils.set_random_seed(2)
    model = build()
    fit(model, data, callbacks=[kc.Compress(pruning=kc.Pruning(HALF))])
    assert_masks_hold(model)

    keras.utils.set_random_seed(2)
    by_hand = build()
    by_hand.build((None, 6))
    train_by_hand(by_hand, data, {"first": HALF, "second": HALF}, 2 * STEPS)
    assert_same_weights(model, by_hand)


def test_a_sequential_without_shapes_gets_the_inputs_that_a_plain_fit_gives_it(keras, data):
    def build():
        return keras.Sequential([keras.layers.Rescaling(0.5), keras.layers.Dense(3, name="dense")])

    integers = (data[0] * 10).astype("int32"), data[1]
    model, plain = compiled(keras, build()), compiled(keras, build())
    fit(plain, integers, epochs=1)
    fit(model, integers, epochs=1, callbacks=[kc.Compress(pruning=kc.Pruning(HALF))])
    assert_masks_hold(model)
    (mine,), (theirs,) = model.inputs, plain.inputs
    assert (mine.dtype, tuple(mine.shape[1:])) == (theirs.dtype, tuple(theirs.shape[1:]))


def test_a_schedule_that_is_read_later_is_the_one_that_counts(keras, data):
    """A state brings the steps of the process that it was saved in; what the step has traced of
    other ones is not run any more.
    """
    at_first, later = (
        kc.PolynomialDecay(final_sparsity=final, begin_step=1, end_step=2 * STEPS, frequency=3)
        for final in (0.7, 0.4)
    )
    model, by_hand = compiled(keras, two_layers(keras)), compiled(keras, two_layers(keras))
    compress = kc.Compress(pruning=kc.Pruning(at_first), partial=True)
    fit(model, data, epochs=1, callbacks=[compress])
    paths = ("first", "second")
    engine = engine_of(model)
    engine.timetable.schedules = dict.fromkeys(paths, later)
    engine.go_by(engine.timetable)
    fit(compiled(keras, model), data, epochs=1, callbacks=[compress])
    masks = train_by_hand(by_hand, data, dict.fromkeys(paths, at_first), STEPS)
    train_by_hand(
        compiled(keras, by_hand), data, dict.fromkeys(paths, later), STEPS, STEPS + 1, masks
    )
    assert_same_weights(model, by_hand)


# --- frozen kernels


def test_a_frozen_kernel_is_not_pruned(keras, data):
    model = two_layers(keras)
    model.get_layer("first").trainable = False
    before = model.get_layer("first").get_weights()
    compress = kc.Compress(pruning=kc.Pruning(POLYNOMIAL))
    history = fit(compiled(keras, model), data, callbacks=[compress]).history
    for mine, theirs in zip(model.get_layer("first").get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert masks_of(model)["first"].all()
    sparsity = {layer.path: layer.sparsity for layer in compress.report.layers}
    assert sparsity == pytest.approx({"first": 0.0, "second": 0.7})
    # Frozen kernels count in the log: 21 zeros among 60 + 30 weights.
    assert history["sparsity"][-1] == pytest.approx(21 / 90)


def test_a_thawed_kernel_starts_at_the_current_sparsity(keras, data):
    # Frozen over the updates 1..6, which include two of the mask; thawed before 7, off the grid.
    schedule = kc.PolynomialDecay(final_sparsity=0.7, begin_step=2, end_step=14, frequency=3)
    model, by_hand = two_layers(keras), two_layers(keras)
    compress = kc.Compress(pruning=kc.Pruning(schedule), partial=True)
    for each in (model, by_hand):
        each.get_layer("first").trainable = False
        compiled(keras, each)
    fit(model, data, epochs=1, callbacks=[compress])
    masks = train_by_hand(by_hand, data, {"second": schedule}, STEPS)

    for each in (model, by_hand):
        each.get_layer("first").trainable = True
        compiled(keras, each)
    seen = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(masks_of(model)["first"])
    )
    fit(model, data, epochs=2, callbacks=[compress, record])

    kernel = by_hand.get_layer("first").get_weights()[0]
    masks["first"] = smallest_dropped(kernel, schedule.sparsity(STEPS + 1))
    np.testing.assert_array_equal(seen[0], masks["first"])
    assert 0.3 < 1 - masks["first"].mean() < 0.7
    schedules = {"first": schedule, "second": schedule}
    train_by_hand(by_hand, data, schedules, 2 * STEPS, first=STEPS + 1, masks=masks)
    assert_same_weights(model, by_hand)
    assert compress.report.step == 3 * STEPS
    sparsity = {layer.path: layer.sparsity for layer in compress.report.layers}
    assert sparsity == pytest.approx({"first": 0.7, "second": 0.7})


def test_a_kernel_that_freezes_keeps_its_mask(keras, data):
    schedule = kc.PolynomialDecay(final_sparsity=0.7, begin_step=2, end_step=12, frequency=1)
    model = compiled(keras, two_layers(keras))
    compress = kc.Compress(pruning=kc.Pruning(schedule), partial=True)
    fit(model, data, epochs=1, callbacks=[compress])
    mask = masks_of(model)["first"]
    assert 0 < np.count_nonzero(~mask) < 42
    before = model.get_layer("first").get_weights()[0]
    model.get_layer("first").trainable = False
    compiled(keras, model)
    fit(model, data, epochs=1, callbacks=[compress])
    np.testing.assert_array_equal(masks_of(model)["first"], mask)
    np.testing.assert_array_equal(model.get_layer("first").get_weights()[0], before)
    assert assert_masks_hold(model) == np.count_nonzero(~mask) + 21


# --- masks hold when fit returns


class Score:
    """A callback that gives EarlyStopping the scores of a script, and keeps what it saw."""

    def __init__(self, keras, model, scores):
        outer = self
        self.weights, self.masks = [], []

        class Callback(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                logs["score"] = scores[epoch]
                outer.weights.append(model.get_weights())
                outer.masks.append(masks_of(model))

        self.callback = Callback()


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("best", [1, 3], ids=["in-the-middle", "at-the-end"])
def test_masks_are_those_of_the_weights_that_early_stopping_restores(keras, data, order, best):
    # The masks go on changing at every update, so those of the best epoch are not the last ones.
    schedule = kc.ConstantSparsity(target_sparsity=0.2, begin_step=1, frequency=1)
    model = compiled(keras, two_layers(keras), keras.optimizers.Adam(0.1))
    scores = [1.0, 2.0, 3.0, 4.0]
    scores[best] = 0.5
    score = Score(keras, model, scores)
    stopping = keras.callbacks.EarlyStopping(
        monitor="score", patience=10, mode="min", restore_best_weights=True
    )
    compress = kc.Compress(pruning=kc.Pruning(schedule))
    others = [score.callback, stopping]
    callbacks = [compress, *others] if order == "before" else [*others, compress]
    fit(model, data, epochs=4, callbacks=callbacks)

    assert stopping.best_epoch == best
    if best == 1:
        assert (score.masks[-1]["first"] != score.masks[best]["first"]).any()
    for path, mask in score.masks[best].items():
        np.testing.assert_array_equal(masks_of(model)[path], mask)
    for mine, theirs in zip(model.get_weights(), score.weights[best], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert_masks_hold(model)
    for mine, stripped in zip(
        model.get_weights(), compress.stripped_model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, stripped)


def test_early_stopping_forgets_the_best_of_before_the_final_sparsity(keras, data):
    # Epoch 0 scores best, before the final sparsity: its weights would ship half pruned.
    schedule = kc.PolynomialDecay(final_sparsity=0.7, begin_step=2, end_step=10, frequency=2)
    model = compiled(keras, two_layers(keras))
    score = Score(keras, model, [0.1, 0.5, 0.4, 0.6])
    stopping = keras.callbacks.EarlyStopping(
        monitor="score", patience=10, mode="min", restore_best_weights=True
    )
    compress = kc.Compress(pruning=kc.Pruning(schedule))
    fit(model, data, epochs=4, callbacks=[score.callback, stopping, compress])
    assert stopping.best_epoch == 2
    assert assert_masks_hold(model) == 42 + 21
    assert compress.report.sparsity == pytest.approx(0.7)


@pytest.mark.parametrize("overwrite", [None, 4])
def test_masks_hold_over_an_optimizers_moving_average(keras, data, overwrite):
    # The average still holds values of before the pruning; fit ends by writing it to the weights.
    def build():
        average = {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": overwrite}
        return compiled(keras, two_layers(keras), keras.optimizers.SGD(0.1, **average))

    model, by_hand = build(), build()
    schedules = {"first": POLYNOMIAL, "second": POLYNOMIAL}
    fit(model, data, callbacks=[kc.Compress(pruning=kc.Pruning(POLYNOMIAL))])
    assert assert_masks_hold(model) == 42 + 21

    masks = train_by_hand(by_hand, data, schedules, 2 * STEPS)
    by_hand.optimizer.finalize_variable_values(by_hand.trainable_variables)
    averaged = by_hand.get_layer("first").get_weights()[0]
    assert np.count_nonzero(averaged) == averaged.size  # without us the zeros would be gone
    for name, mask in masks.items():
        kernel = by_hand.get_layer(name).kernel
        kernel.assign(np.asarray(kernel) * mask)
    assert_same_weights(model, by_hand)


@pytest.mark.parametrize("order", ["before", "after"])
def test_masks_hold_whatever_a_callback_writes_at_the_end(keras, data, order):
    model = compiled(keras, two_layers(keras))

    def scribble(logs=None):
        model.set_weights([w + 1.0 for w in model.get_weights()])

    scribbler = keras.callbacks.LambdaCallback(on_train_end=scribble)
    compress = kc.Compress(pruning=kc.Pruning(POLYNOMIAL))
    callbacks = [compress, scribbler] if order == "before" else [scribbler, compress]
    fit(model, data, callbacks=callbacks)
    assert assert_masks_hold(model) == 42 + 21
    assert np.count_nonzero(compress.stripped_model.get_weights()[0]) == 18


def test_masks_hold_at_every_epoch_end_for_every_callback(keras, data):
    # A checkpoint before Compress in the list must not save unpruned weights.
    model = compiled(keras, two_layers(keras))
    held = []
    first = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: held.append(assert_masks_hold(model))
    )
    fit(model, data, callbacks=[first, kc.Compress(pruning=kc.Pruning(POLYNOMIAL))])
    assert len(held) == 2


# --- which kernels


def convolutional(keras):
    layers = keras.layers
    return seeded(
        keras.Sequential(
            [
                layers.Input((6, 6, 2)),
                layers.Conv2D(4, 3, name="conv"),
                layers.DepthwiseConv2D(3, name="depthwise"),
                layers.SeparableConv2D(4, 2, name="separable"),
                layers.Flatten(name="flatten"),
                layers.Dense(3, name="dense"),
            ]
        )
    )


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(12)
    x = generator.normal(size=(BATCH * STEPS, 6, 6, 2)).astype("float32")
    return x, generator.normal(size=(len(x), 3)).astype("float32")


def test_by_default_the_kernels_that_tfmot_prunes(keras, images):
    model = compiled(keras, convolutional(keras))
    compress = kc.Compress(pruning=kc.Pruning(HALF))
    fit(model, images, epochs=1, callbacks=[compress])
    rows = [(row.path, row.kernel, row.sparsity) for row in compress.report.layers]
    assert rows == [
        ("conv", "kernel", 0.5),
        ("separable", "pointwise_kernel", 0.5),
        ("dense", "kernel", 0.5),
    ]
    reason = "depthwise kernels are pruned only when named"
    assert compress.report.left_out == {"pruning": {"depthwise": reason}}
    assert_masks_hold(model)
    for name in ("depthwise", "separable"):
        assert np.count_nonzero(model.get_layer(name).get_weights()[0]) > 0.99 * 3 * 3


def test_a_depthwise_kernel_is_pruned_when_named(keras, images):
    model = compiled(keras, convolutional(keras))
    compress = kc.Compress(pruning=kc.Pruning(HALF, layers=["depthwise"]))
    fit(model, images, epochs=1, callbacks=[compress])
    rows = [(row.path, row.kernel, row.sparsity) for row in compress.report.layers]
    assert rows == [("depthwise", "depthwise_kernel", 0.5)]
    kernel = model.get_layer("depthwise").get_weights()[0]
    assert np.count_nonzero(kernel) == kernel.size / 2
    assert np.count_nonzero(model.get_layer("conv").get_weights()[0]) == 3 * 3 * 2 * 4


def test_blocks_prune_rank_2_kernels_and_leave_the_others(keras, images):
    model = compiled(keras, convolutional(keras))
    compress = kc.Compress(pruning=kc.Pruning(HALF, block_size=(4, 1)))
    fit(model, images, epochs=1, callbacks=[compress])
    assert [row.path for row in compress.report.layers] == ["dense"]
    reason = "blocks apply to rank-2 kernels, this one has rank 4"
    assert compress.report.left_out["pruning"] == {
        "conv": reason,
        "depthwise": "depthwise kernels are pruned only when named",
        "separable": reason,
    }
    kernel = model.get_layer("dense").get_weights()[0]  # (4, 3): blocks of a whole column
    columns = np.count_nonzero(kernel, axis=0)
    assert sorted(columns) in ([0, 4, 4], [0, 0, 4])


def test_blocks_on_a_named_kernel_of_rank_4_are_an_error(keras, images):
    model = compiled(keras, convolutional(keras))
    pruning = kc.Pruning(HALF, block_size=(4, 1), layers=["dense", "conv"])
    with pytest.raises(ValueError, match=r"^Pruning: ") as error:
        fit(model, images, epochs=1, callbacks=[kc.Compress(pruning=pruning)])
    assert str(error.value) == (
        "Pruning: `layers` must name layers that can be pruned; 'conv' cannot: blocks apply to "
        "rank-2 kernels, this one has rank 4. Received: layers containing 'conv'"
    )
    assert engine_of(model) is None


def test_two_of_four_zeroes_along_the_input_channels(keras, images):
    model = compiled(keras, convolutional(keras))
    pruning = kc.Pruning(HALF, layers=["dense"], sparsity_m_by_n=(2, 4))
    fit(model, images, epochs=1, callbacks=[kc.Compress(pruning=pruning)])
    kernel = model.get_layer("dense").get_weights()[0]
    assert np.count_nonzero(kernel, axis=0).tolist() == [2, 2, 2]  # of four inputs each


def subclass(keras):
    """A user's own model, whose `call` is Python."""

    class Twice(keras.Model):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.first = keras.layers.Dense(10, activation="tanh", name="first")
            self.second = keras.layers.Dense(3, name="second")

        def call(self, inputs):
            return self.second(self.first(inputs) * 2.0)

    return Twice()


def test_a_subclassed_model_is_pruned(keras, data):
    models = [subclass(keras) for _ in range(2)]
    for each in models:
        each(data[0][:1])
        compiled(keras, seeded(each))
    model, by_hand = models
    compress = kc.Compress(pruning=kc.Pruning(POLYNOMIAL))
    fit(model, data, callbacks=[compress])
    train_by_hand(by_hand, data, {"first": POLYNOMIAL, "second": POLYNOMIAL}, 2 * STEPS)
    assert_same_weights(model, by_hand)
    assert [row.path for row in compress.report.layers] == ["first", "second"]


def test_an_unbuilt_subclassed_model_is_built_by_the_data_of_the_fit(keras, data):
    model = compiled(keras, subclass(keras))
    compress = kc.Compress(pruning=kc.Pruning(POLYNOMIAL))
    fit(model, data, callbacks=[compress])
    assert [row.path for row in compress.report.layers] == ["first", "second"]
    assert compress.report.steps["schedules"]["first"] == POLYNOMIAL.get_config()


def test_nested_models_are_pruned_by_path(keras, data):
    def build():
        layers = keras.layers
        inner = keras.Sequential(
            [layers.Input((6,)), layers.Dense(10, activation="tanh", name="first")], name="inner"
        )
        inputs = keras.Input((6,))
        tower = keras.Model(inputs, layers.Dense(8, name="wide")(inner(inputs)), name="tower")
        outer = keras.Input((6,))
        outputs = layers.Dense(3, name="second")(tower(outer))
        return compiled(keras, seeded(keras.Model(outer, outputs)))

    model = build()
    compress = kc.Compress(pruning=kc.Pruning(POLYNOMIAL))
    fit(model, data, callbacks=[compress])
    sparsity = {row.path: row.sparsity for row in compress.report.layers}
    expected = {"tower/inner/first": 42 / 60, "tower/wide": 56 / 80, "second": 17 / 24}
    assert sparsity == pytest.approx(expected)
    assert_masks_hold(model)


# --- odd kernels


@pytest.mark.parametrize("value", [0.0, 0.25], ids=["all-zero", "all-equal"])
def test_a_kernel_of_ties_is_kept_whole(keras, data, value):
    # Which of equal weights is the smallest? None, as tfmot has it; training breaks the tie.
    model = two_layers(keras)
    first = model.get_layer("first")
    first.set_weights([np.full((6, 10), value), np.zeros(10)])
    compiled(keras, model)
    schedule = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=4)
    masks = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: masks.append(masks_of(model)["first"])
    )
    fit(model, data, epochs=1, callbacks=[kc.Compress(pruning=kc.Pruning(schedule)), record])
    assert all(mask.all() for mask in masks[:4])
    assert masks[4].mean() == 0.5  # the second update of the mask, at 5
    assert np.isfinite(first.get_weights()[0]).all()


def test_the_single_largest_weight_survives_any_sparsity(keras, data):
    model = compiled(keras, two_layers(keras))
    schedule = kc.ConstantSparsity(target_sparsity=0.999, begin_step=1, frequency=1)
    fit(model, data, epochs=1, callbacks=[kc.Compress(pruning=kc.Pruning(schedule))])
    assert [np.count_nonzero(model.get_weights()[i]) for i in (0, 2)] == [1, 1]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float64"])
def test_the_stored_kernel_is_pruned_whatever_the_policy(keras, data, policy):
    layers = keras.layers
    dense = layers.Dense(10, name="dense", dtype=policy)
    model = compiled(keras, seeded(keras.Sequential([layers.Input((6,)), dense])))
    wide = data[0], np.tile(data[1][:, :1], 10)
    before = model.get_weights()[0].dtype
    fit(model, wide, callbacks=[kc.Compress(pruning=kc.Pruning(POLYNOMIAL))])
    assert assert_masks_hold(model) == 42
    assert model.get_weights()[0].dtype == before


# --- the log


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_the_sparsity_log_is_the_true_fraction(keras, data, steps_per_execution):
    model = compiled(keras, two_layers(keras), steps_per_execution=steps_per_execution)
    compress = kc.Compress(pruning=kc.Pruning(POLYNOMIAL, layers={"second": CONSTANT}))
    batches, epochs = [], []

    def fraction(arrays):
        flat = np.concatenate([np.ravel(array) for array in arrays])
        return 1 - np.count_nonzero(flat) / flat.size

    def on_batch(batch, logs):
        batches.append((float(logs["sparsity"]), fraction(masks_of(model).values())))

    def on_epoch(epoch, logs):
        kernels = [model.get_layer(name).get_weights()[0] for name in ("first", "second")]
        epochs.append((float(logs["sparsity"]), fraction(kernels)))

    record = keras.callbacks.LambdaCallback(on_train_batch_end=on_batch, on_epoch_end=on_epoch)
    history = fit(model, data, callbacks=[record, compress]).history
    assert len(batches) == 2 * STEPS / steps_per_execution
    for logged, true in [*batches, *epochs]:
        assert logged == pytest.approx(true, abs=1e-6)
    assert len({logged for logged, _ in batches}) > 3
    assert history["sparsity"] == pytest.approx([true for _, true in epochs])
    assert compress.report.sparsity == pytest.approx((42 + 9) / 90)  # 0.7 of 60, 0.3 of 30


def test_a_kernel_that_was_frozen_while_its_schedule_ended_reaches_it_when_thawed(keras):
    """The mask is computed anew, at the sparsity of then, with the first update after a thaw."""
    schedule = kc.PolynomialDecay(final_sparsity=0.75, begin_step=1, end_step=9, frequency=4)
    x, y = np.ones((24, 6), "float32"), np.zeros((24, 3), "float32")
    model = compiled(keras, two_layers(keras))
    layer = model.layers[-1]

    def fit(trainable):
        layer.trainable = trainable
        compiled(keras, model)
        callback = kc.Compress(pruning=kc.Pruning(schedule), partial=True)
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[callback])  # six updates
        return (layer.get_weights()[0] == 0).mean()

    assert 0 < fit(True) < 0.75
    assert fit(False) < 0.75  # updates 7..12, over the schedule's end
    assert fit(True) >= 0.73  # 22 of 30
