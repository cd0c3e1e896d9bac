"""`strip`: a new plain model out of a compressed one, which stays as it was."""

import dataclasses
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from helpers.untouched import own_methods

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.snapshot import take
from keras_compress.engines.state import State
from keras_compress.frameworks.choose import adapter_of

pytestmark = pytest.mark.by_turns

SCHEDULE = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=3, frequency=1)
PRUNING, QUANTIZATION = kc.Pruning(SCHEDULE), kc.Quantization(delay=2)
ROWS, BATCH = 16, 4


@pytest.fixture(scope="module")
def classes(keras):
    """A user's own classes and functions, for one Keras."""
    layers = keras.layers

    class Scale(layers.Layer):
        """A custom layer with an argument and a weight."""

        def __init__(self, start=2.0, **kwargs):
            super().__init__(**kwargs)
            self.start = start

        def build(self, shape):
            self.factor = self.add_weight(
                name="factor", shape=(), initializer=keras.initializers.Constant(self.start)
            )
            super().build(shape)

        def call(self, x):
            return x * self.factor

        def get_config(self):
            return {**super().get_config(), "start": self.start}

    class Halved(keras.Model):
        """A functional model with a train step of its own, on half the inputs."""

        def train_step(self, data):
            x, y = data
            return super().train_step((x * 0.5, y))

    class Subclassed(keras.Model):
        """A subclassed model that its config can make again."""

        def __init__(self, units=6, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.first = layers.Dense(units, activation="relu", name="first")
            self.second = layers.Dense(3, activation="softmax", name="second")

        def call(self, x):
            return self.second(self.first(x))

        def get_config(self):
            return {"units": self.units, "name": self.name}

    class Errors(keras.metrics.Metric):
        """A custom metric with an argument."""

        def __init__(self, factor=1.0, name="errors", **kwargs):
            super().__init__(name=name, **kwargs)
            self.factor = factor
            self.total = self.add_weight(name="total", initializer="zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.total.assign_add(self.factor)

        def result(self):
            return self.total

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    class Squared(keras.losses.Loss):
        """A custom loss with an argument."""

        def __init__(self, factor=1.0, name="squared", **kwargs):
            super().__init__(name=name)
            self.factor = factor

        def call(self, y_true, y_pred):
            return self.factor * y_pred[:, 0] ** 2

        def get_config(self):
            return {"factor": self.factor, "name": self.name}

    class Falling(keras.optimizers.schedules.LearningRateSchedule):
        """A custom schedule."""

        def __init__(self, start):
            self.start = start

        def __call__(self, step):
            return self.start

        def get_config(self):
            return {"start": self.start}

    def leak(x):
        return x * 0.5

    def first_class(y_true, y_pred):
        return -y_pred[:, 0]

    return types.SimpleNamespace(
        Scale=Scale,
        Halved=Halved,
        Subclassed=Subclassed,
        Errors=Errors,
        Squared=Squared,
        Falling=Falling,
        leak=leak,
        first_class=first_class,
    )


def sequential(keras, classes):
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((4,), name="given"),
            layers.Dense(6, activation="relu", name="first"),
            layers.Dropout(0.5, name="dropped"),
            layers.Dense(3, activation="softmax", name="second"),
        ],
        name="in_a_row",
    )


def without_shapes(keras, classes):
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Dense(6, activation="relu", name="first"),
            layers.Dense(3, activation="softmax", name="second"),
        ]
    )


def functional(keras, classes):
    layers = keras.layers
    given = layers.Input((4,), name="given")
    x = layers.Dense(6, use_bias=False, name="first")(given)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    shared = layers.Dense(6, activation="relu", name="shared")
    x = layers.Add(name="add")([shared(x), shared(shared(x))])
    return keras.Model(given, layers.Dense(3, activation="softmax", name="second")(x), name="graph")


def nested(keras, classes):
    """A frozen model with a trainable layer in it, in a model."""
    layers = keras.layers
    backbone = keras.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(6, activation="relu", name="frozen"),
            layers.Dense(6, activation="relu", name="free"),
        ],
        name="backbone",
    )
    backbone.get_layer("frozen").trainable = False
    given = layers.Input((4,), name="given")
    x = backbone(given)
    outer = layers.Dense(5, activation="relu", name="also_frozen")
    outer.trainable = False
    return keras.Model(given, layers.Dense(3, activation="softmax", name="head")(outer(x)))


def many_ends(keras, classes):
    layers = keras.layers
    left, right = layers.Input((4,), name="left"), layers.Input((4,), name="right")
    x = layers.Concatenate(name="both")([left, right])
    x = layers.Dense(6, activation="relu", name="first")(x)
    ends = {
        "kind": layers.Dense(3, activation="softmax", name="kind")(x),
        "size": layers.Dense(2, name="size")(x),
    }
    return keras.Model({"left": left, "right": right}, ends, name="many_ends")


def own_step(keras, classes):
    plain = functional(keras, classes)
    return classes.Halved(plain.input, plain.output, name="halved")


def subclassed(keras, classes):
    model = classes.Subclassed(units=5)
    model(inputs(model))
    return model


def own_layer(keras, classes):
    layers = keras.layers
    given = layers.Input((4,), name="given")
    x = layers.Dense(6, activation=classes.leak, name="first")(given)
    x = classes.Scale(start=3.0, name="scale")(x)
    return keras.Model(given, layers.Dense(3, activation="softmax", name="second")(x))


KINDS = {
    make.__name__: make
    for make in (
        sequential,
        without_shapes,
        functional,
        nested,
        many_ends,
        own_step,
        subclassed,
        own_layer,
    )
}
STANDARD = ("sequential", "without_shapes", "functional", "nested", "many_ends")


def inputs(model):
    x = np.random.default_rng(0).uniform(-1, 1, (ROWS, 4)).astype("float32")
    if model.name == "many_ends":
        return {"left": x, "right": x[::-1]}
    return x


def targets(model):
    y = np.arange(ROWS) % 3
    if isinstance(inputs(model), dict):
        return {"kind": y, "size": np.eye(2, dtype="float32")[y % 2]}
    return y


LOSSES = {"kind": "sparse_categorical_crossentropy", "size": "mean_squared_error"}


def made(keras, classes, kind, **compile_arguments):
    """A compiled model of that kind; eager, which needs no trace."""
    keras.utils.set_random_seed(0)
    model = KINDS[kind](keras, classes)
    loss = LOSSES if kind == "many_ends" else LOSSES["kind"]
    metrics = None if kind == "many_ends" else ["accuracy"]
    arguments = {
        "optimizer": keras.optimizers.Adam(0.01),
        "loss": loss,
        "metrics": metrics,
        "run_eagerly": True,
        **compile_arguments,
    }
    model.compile(**arguments)
    return model


def train(model, compress=None, **arguments):
    callbacks = [] if compress is None else [compress]
    arguments = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
    callbacks += arguments.pop("callbacks", [])
    return model.fit(inputs(model), targets(model), callbacks=callbacks, **arguments)


def specs_for(kind):
    specs = {"pruning": PRUNING}
    if kind != "own_layer":  # not to be quantized (whole)
        specs["quantization"] = QUANTIZATION
    return specs


@pytest.fixture(scope="module")
def compressed(keras, classes):
    """Kind -> a trained, compressed model and its callback."""
    found = {}
    for kind in KINDS:
        model = made(keras, classes, kind)
        compress = kc.Compress(**specs_for(kind), verbose=0)
        train(model, compress)
        found[kind] = (model, compress)
    return found


def answer(model):
    found = model.predict(inputs(model), verbose=0)
    return found if isinstance(found, dict) else {"": found}


def assert_same_answers(one, other):
    assert set(one) == set(other)
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def assert_same_weights(one, other):
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def described(model):
    """(path, class, trainable, shapes) of every layer, and the model's own."""
    layers = [("", model), *adapter_of(model, "test").layers(model)]
    return [
        (
            path,
            type(layer),
            layer.name,
            layer.trainable,
            [tuple(weight.shape) for weight in layer.weights],
        )
        for path, layer in layers
    ]


def variables(model):
    return {id(adapter_of(model, "test").tf_variable(weight)) for weight in model.weights}


@pytest.mark.parametrize("kind", KINDS)
def test_the_stripped_model_is_plain_and_the_same(keras, classes, compressed, kind):
    model, _ = compressed[kind]
    plain = kc.strip(model)
    assert plain is not model
    assert described(plain) == described(model)
    assert not variables(plain) & variables(model)
    assert kc.compression_of(plain) is None
    fresh = made(keras, classes, kind)
    if not fresh.built:
        fresh.build((None, 4))
    assert own_methods(plain) == own_methods(fresh)
    assert_same_weights(plain.get_weights(), model.get_weights())
    fresh.set_weights(model.get_weights())
    assert_same_answers(answer(plain), answer(fresh))


@pytest.mark.parametrize("kind", KINDS)
def test_its_masked_weights_are_zeros(compressed, kind):
    model, _ = compressed[kind]
    plain = kc.strip(model)
    engine = engine_of(model)
    pruned = {target.path for target in engine.pruner.targets}
    assert pruned
    found = set()
    for path, layer in adapter_of(plain, "test").layers(plain):
        if path in pruned:
            zeros = 1 - np.count_nonzero(layer.kernel.numpy()) / layer.kernel.numpy().size
            assert zeros == pytest.approx(0.5, abs=0.05) or not layer.trainable, path
            found.add(path)
    assert found == pruned


@pytest.mark.parametrize("kind", KINDS)
def test_the_argument_stays_as_it_was(compressed, kind):
    model, compress = compressed[kind]
    state, weights, before = take(engine_of(model)), model.get_weights(), answer(model)
    methods = own_methods(model)
    plain = kc.strip(model)
    train(plain, epochs=1)  # nor does training the copy reach it
    assert kc.compression_of(model) is compress
    assert own_methods(model) == methods
    assert_same_weights(model.get_weights(), weights)
    assert_same_answers(answer(model), before)
    after = take(engine_of(model))
    for field in dataclasses.fields(State):
        if field.name in State._ARRAYS:
            mine, theirs = getattr(after, field.name), getattr(state, field.name)
            assert set(mine) == set(theirs)
            assert_same_weights([mine[key] for key in theirs], list(theirs.values()))
        else:
            assert getattr(after, field.name) == getattr(state, field.name)


@pytest.mark.slow_after(1)
@pytest.mark.sweep_if(when=lambda optimizer, jit: optimizer == "sgd")
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_both_have_one_memory_until_either_is_trained(keras, optimizer, jit):
    """Of the weights; whoever writes to his own then has them for himself, under XLA too."""

    def places(model):
        variables = map(adapter_of(model, "test").tf_variable, model.trainable_weights)
        tensors = [np.asarray(variable.read_value()) for variable in variables]
        return [tensor.__array_interface__["data"][0] for tensor in tensors]

    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile(optimizer, "mse", jit_compile=jit)
    x = np.random.default_rng(0).normal(size=(ROWS, 4)).astype("float32")
    y = x[:, :2] ** 2

    def fit(each, *callbacks):
        each.fit(x, y, batch_size=BATCH, verbose=0, callbacks=list(callbacks))

    compress = kc.Compress(pruning=PRUNING)
    fit(model, compress)
    for order in (1, -1):
        plain = kc.strip(model)
        assert places(plain) == places(model)
        trained, other = (plain, model)[::order]
        own, before = trained.get_weights(), other.get_weights()
        fit(trained)
        assert_same_weights(other.get_weights(), before)
        assert not any(map(np.array_equal, trained.get_weights(), own))
        assert not set(places(plain)) & set(places(model))


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_on_as_any_model(compressed, kind):
    model, _ = compressed[kind]
    plain = kc.strip(model)
    assert plain.optimizer is not model.optimizer
    assert int(plain.optimizer.iterations.numpy()) == 0
    history = train(plain).history
    assert not {"sparsity", "quantized"} & set(history)
    assert int(plain.optimizer.iterations.numpy()) == 4
    before = model.get_weights()
    changed = [
        not np.array_equal(mine, theirs)
        for mine, theirs in zip(plain.get_weights(), before, strict=True)
    ]
    assert any(changed)
    compress = kc.Compress(**specs_for(kind), verbose=0)  # and may be compressed anew
    train(plain, compress)
    assert compress.report.step == 4


def test_its_own_train_step_is_used(keras, classes, compressed):
    model, _ = compressed["own_step"]
    plain, reference = kc.strip(model), made(keras, classes, "own_step")
    ordinary = made(keras, classes, "functional")
    for other in (reference, ordinary):
        other.set_weights(plain.get_weights())
        train(other, epochs=1)
    train(plain, epochs=1)
    assert_same_weights(plain.get_weights(), reference.get_weights())
    assert not np.array_equal(plain.get_weights()[0], ordinary.get_weights()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_callback_has_it_when_fit_returns(compressed, kind):
    model, compress = compressed[kind]
    assert described(compress.stripped_model) == described(model)
    assert_same_weights(compress.stripped_model.get_weights(), model.get_weights())
    assert kc.compression_of(compress.stripped_model) is None


def test_within_a_fit_the_masks_hold_in_it(keras, classes):
    """Between two updates the weights are as the optimizer left them."""
    found = []

    class Strip(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernel = self.model.get_layer("first").kernel.numpy()
            stripped = kc.strip(self.model).get_layer("first").kernel.numpy()
            mask = engine_of(self.model).pruner.targets[0].mask.numpy()
            found.append((kernel, stripped, mask))

    model = made(keras, classes, "sequential")
    train(model, kc.Compress(pruning=PRUNING), callbacks=[Strip()])
    assert len(found) == 4
    kernel, stripped, mask = found[-1]
    assert np.count_nonzero(kernel[~mask])
    np.testing.assert_array_equal(stripped, np.where(mask, kernel, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_plain_model_it_is_a_copy(keras, classes, kind):
    model = made(keras, classes, kind)
    if kind == "without_shapes":
        train(model)
    plain = kc.strip(model)
    assert plain is not model
    assert not variables(plain) & variables(model)
    assert described(plain) == described(model)
    assert_same_answers(answer(plain), answer(model))


def test_of_a_model_that_is_not_compiled_it_is_not_either(keras, classes):
    keras.utils.set_random_seed(0)
    model = sequential(keras, classes)
    plain = kc.strip(model)
    assert not adapter_of(plain, "test").is_compiled(plain)
    assert_same_answers(answer(plain), answer(model))


# --- compiled like the argument


def stripped(keras, classes, kind="sequential", **arguments):
    """(model, stripped) after a fit."""
    model = made(keras, classes, kind, **arguments)
    train(model, kc.Compress(pruning=PRUNING, verbose=0))
    return model, kc.strip(model)


def rate(model):
    return float(np.asarray(model.optimizer.learning_rate))


def test_the_optimizer_is_new_with_the_rate_of_now(keras, classes):
    optimizer = keras.optimizers.SGD(0.25, momentum=0.5, nesterov=True)
    model = made(keras, classes, "sequential", optimizer=optimizer)
    reduce = keras.callbacks.LearningRateScheduler(lambda epoch, now: 0.125)
    train(model, kc.Compress(pruning=PRUNING, verbose=0), callbacks=[reduce])
    plain = kc.strip(model)
    assert type(plain.optimizer) is type(optimizer)
    assert plain.optimizer is not optimizer
    assert (plain.optimizer.momentum, plain.optimizer.nesterov) == (0.5, True)
    assert rate(plain) == 0.125
    reduced = plain.optimizer.learning_rate
    reduced.assign(0.5)
    assert rate(model) == 0.125


def test_a_schedule_of_the_learning_rate_is_passed_on(keras, classes):
    schedule = keras.optimizers.schedules.CosineDecay(0.5, 7)
    _, plain = stripped(keras, classes, optimizer=keras.optimizers.SGD(schedule))
    got = plain.optimizer.get_config()["learning_rate"]
    assert got["class_name"] == "CosineDecay"
    assert got["config"]["initial_learning_rate"] == 0.5
    assert got["config"]["decay_steps"] == 7


def test_a_schedule_of_the_users_own_is_passed_on(keras, classes):
    optimizer = keras.optimizers.SGD(classes.Falling(0.25))
    _, plain = stripped(keras, classes, optimizer=optimizer)
    own = next(v for v in vars(plain.optimizer).values() if isinstance(v, classes.Falling))
    assert own.start == 0.25
    train(plain)


def test_loss_and_metric_objects_are_rebuilt(keras, classes):
    loss = keras.losses.SparseCategoricalCrossentropy(reduction="sum", name="mine")
    metric = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top2")
    weighted = keras.metrics.SparseCategoricalAccuracy(name="weighted")
    model, plain = stripped(
        keras, classes, loss=loss, metrics=["accuracy", metric], weighted_metrics=[weighted]
    )
    compiled = plain._compile_config.config
    assert compiled["loss"] is not loss
    assert compiled["loss"].get_config() == loss.get_config()
    assert compiled["metrics"][0] == "accuracy"
    assert compiled["metrics"][1] is not metric
    assert compiled["metrics"][1].get_config() == metric.get_config()
    assert compiled["weighted_metrics"][0] is not weighted
    # To the names of the logs and the numbers in them.
    model.set_weights(plain.get_weights())
    mine, theirs = (
        m.evaluate(inputs(m), targets(m), verbose=0, return_dict=True) for m in (plain, model)
    )
    assert mine == theirs
    assert {"accuracy", "top2", "weighted"} <= set(mine)


def test_the_users_own_loss_and_metric_are_passed_on(keras, classes):
    model, plain = stripped(
        keras,
        classes,
        loss=classes.first_class,
        metrics=[classes.Errors(factor=3.0), classes.first_class],
    )
    compiled = plain._compile_config.config
    assert compiled["loss"] is classes.first_class
    assert compiled["metrics"][1] is classes.first_class
    metric = compiled["metrics"][0]
    assert type(metric) is classes.Errors
    assert metric.factor == 3.0
    assert metric is not model._compile_config.config["metrics"][0]
    assert set(train(plain).history) >= {"errors", "first_class"}


def test_a_loss_class_of_the_users_own_is_passed_on(keras, classes):
    loss = classes.Squared(factor=4.0)
    _, plain = stripped(keras, classes, loss=loss, metrics=None)
    own = plain._compile_config.config["loss"]
    assert type(own) is classes.Squared
    assert own is not loss
    assert own.factor == 4.0


def test_dicts_of_losses_weights_and_metrics_are_passed_on(keras, classes):
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="hits")
    model, plain = stripped(
        keras,
        classes,
        "many_ends",
        loss={"kind": keras.losses.SparseCategoricalCrossentropy(), "size": "mse"},
        loss_weights={"kind": 1.0, "size": 0.25},
        metrics={"kind": [accuracy], "size": ["mae"]},
    )
    mine, theirs = (
        m.evaluate(inputs(m), targets(m), verbose=0, return_dict=True) for m in (plain, model)
    )
    assert mine == theirs
    assert {"kind_hits", "size_mae"} <= set(mine)
    assert plain._compile_config.config["metrics"]["kind"][0] is not accuracy


def test_how_steps_run_is_passed_on(keras, classes):
    arguments = {"run_eagerly": False, "steps_per_execution": 2, "jit_compile": False}
    _, plain = stripped(keras, classes, **arguments)
    compiled = plain._compile_config.config
    assert {name: compiled[name] for name in arguments} == arguments
    assert adapter_of(plain, "test").steps_per_execution(plain) == 2


def test_a_metric_that_its_config_cannot_make_leaves_it_uncompiled(keras, classes, caplog):
    class Counted(classes.Errors):
        def __init__(self, number):
            super().__init__(name="counted")

        def get_config(self):
            return {}

    _, plain = stripped(keras, classes, metrics=[Counted(3)])
    assert not adapter_of(plain, "test").is_compiled(plain)
    (said, again) = (record.getMessage() for record in caplog.records)  # in fit, and here
    assert said == again
    assert re.fullmatch(
        r"strip: Counted cannot be made from its config \(.*'number'.*\), "
        r"so the stripped model is not compiled\.",
        said,
        re.DOTALL,
    )


def test_a_class_that_compiles_in_its_own_way_is_left_uncompiled(keras, classes, caplog):
    class Own(classes.Subclassed):
        def compile(self, **arguments):
            super().compile(**arguments)

    keras.utils.set_random_seed(0)
    model = Own()
    x = np.ones((2, 4), "float32")
    model(x)
    model.compile(optimizer="sgd", loss=LOSSES["kind"])
    plain = kc.strip(model)
    assert not adapter_of(plain, "test").is_compiled(plain)
    assert_same_weights(plain.get_weights(), model.get_weights())
    assert [record.getMessage() for record in caplog.records] == [
        "strip: Own overrides `compile`, so the stripped model is not compiled."
    ]


# --- what is refused


def test_a_subclass_that_its_config_cannot_make_is_refused(keras, caplog):
    class Fixed(keras.Model):
        def __init__(self, function):
            super().__init__()
            self.dense = keras.layers.Dense(3)
            self.function = function

        def call(self, x):
            return self.function(self.dense(x))

    model = Fixed(lambda x: x * 2)
    model(np.ones((1, 4), "float32"))
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    compress = kc.Compress(pruning=PRUNING)
    with caplog.at_level("WARNING", "keras_compress"):
        train(model, compress)  # it must not cost the training
    assert compress.report.step == 4
    assert compress.stripped_model is None
    with pytest.raises(ValueError, match=r"^strip: `model` must be Sequential, ") as caught:
        kc.strip(model)
    cause = caught.value.__cause__
    message = (
        "strip: `model` must be Sequential, functional, or subclassed with a `get_config` that its "
        "class can be made from. Received: model=Fixed, which failed with "
        f"{type(cause).__name__}: {cause}"
    )
    assert str(caught.value) == message
    said = [record.getMessage() for record in caplog.records if record.name == "keras_compress"]
    assert said == [f"No stripped model: {message}"]
    assert engine_of(model).step == 4


@pytest.mark.parametrize(("given", "made"), [(1, 2), (2, 1)])
def test_a_subclass_whose_config_makes_another_network_is_refused(keras, given, made):
    class Deep(keras.Model):
        def __init__(self, depth=made):
            super().__init__()
            self.own = [keras.layers.Dense(3) for _ in range(depth)]

        def call(self, x):
            for layer in self.own:
                x = layer(x)
            return x

        def get_config(self):
            return {}

    model = Deep(given)
    model(np.ones((1, 3), "float32"))
    message = (
        "strip: `model` must have as many weights as its class makes from its config, "
        f"{2 * made}. Received: model=Deep with {2 * given}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kc.strip(model)


def test_a_model_without_weights_is_refused(keras, classes):
    message = (
        "strip: `model` must be built; call it on a batch of data first. "
        "Received: model=Sequential without weights"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kc.strip(without_shapes(keras, classes))


def test_what_is_no_model_is_refused():
    message = (
        "strip: the model must be a Keras 3 or tf_keras model. "
        "Received: model of class builtins.int"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        kc.strip(3)


# --- in a process that knows neither us nor tfmot

LOAD = """
import importlib, pathlib, sys
sys.modules["keras_compress"] = sys.modules["tensorflow_model_optimization"] = None
import numpy as np
keras = importlib.import_module(sys.argv[1])
folder = pathlib.Path(sys.argv[2])
for path in sorted(folder.glob("*.keras")):
    model = keras.models.load_model(path)
    with np.load(path.with_suffix(".inputs.npz")) as file:
        given = {name: file[name] for name in file.files}
    found = model.predict(given.get("x", given), verbose=0)
    found = found if isinstance(found, dict) else {"x": found}
    np.savez(path.with_suffix(".found.npz"), **found)
    print(path.stem, [type(layer).__name__ for layer in model.layers], bool(model.optimizer))
try:
    import keras_compress
except ImportError:
    print("blocked")
"""


@pytest.mark.slow
def test_saved_it_loads_where_we_are_not_installed(keras, compressed, tmp_path):
    expected, lines = {}, []
    for kind in sorted(STANDARD):
        plain = kc.strip(compressed[kind][0])
        plain.save(tmp_path / f"{kind}.keras")
        given = inputs(plain)
        np.savez(
            tmp_path / f"{kind}.inputs.npz", **given if isinstance(given, dict) else {"x": given}
        )
        expected[kind] = plain.predict(given, verbose=0)
        lines.append(f"{kind} {[type(layer).__name__ for layer in plain.layers]} True")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, keras.__name__, str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*lines, "blocked"]
    for kind, value in expected.items():
        value = value if isinstance(value, dict) else {"x": value}
        with np.load(tmp_path / f"{kind}.found.npz") as found:
            assert_same_answers(value, dict(found))


@pytest.mark.slow
def test_a_subclass_that_takes_none_of_keras_own_arguments(keras):
    """What most people write: no `**kwargs`, no `get_config`."""

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = keras.layers.Dense(4, activation="relu", name="hidden")
            self.head = keras.layers.Dense(2, name="head")

        def call(self, x):
            return self.head(self.hidden(x))

    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    y = np.zeros((16, 2), "float32")
    model = Own()
    model.compile("sgd", "mse", metrics=["mae"])
    compress = kc.Compress(quantization=kc.Quantization(delay=1), verbose=0)
    model.fit(x, y, batch_size=8, validation_data=(x, y), callbacks=[compress], verbose=0)
    plain = kc.strip(model)
    assert type(plain) is Own
    if keras.__name__ == "keras":  # tf_keras has no name in the config of such a class
        assert plain.name == model.name
    for mine, theirs in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert compress.report.validation.reasons == {}
    assert set(compress.report.validation.metrics) == {"float", "fake-quantized"}
    assert compress.stripped_model is not None


@pytest.mark.parametrize("structure", [None, "channels"])
def test_what_a_layer_has_made_of_its_weights_goes_with_them(keras, structure):
    """An adapted `Normalization` computes with numbers made of its weights when it was adapted."""
    layers = keras.layers
    generator = np.random.default_rng(0)
    normalization = layers.Normalization()
    normalization.adapt(generator.normal(2, 3, (50, 6, 6, 2)).astype("float32"))
    model = keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            normalization,
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    model.compile("sgd", "mse", jit_compile=False)
    x = generator.normal(2, 3, (ROWS, 6, 6, 2)).astype("float32")
    y = generator.normal(size=(ROWS, 3)).astype("float32")
    pruning = kc.Pruning(SCHEDULE, structure=structure)
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[kc.Compress(pruning=pruning)])
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(kc.strip(model).predict(x, verbose=0), expected, atol=1e-5)
