"""Metrics of the float network, the fake-quantized one and the file on `fit`'s validation data."""

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.engines.engine import engine_of

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

ROWS = 43  # not a multiple of any batch size here
NETWORKS = ["float", "fake-quantized", "tflite"]


@pytest.fixture(scope="module")
def data(digits):
    x, y, x_test, y_test = digits
    return x[:64], y[:64], x_test[:ROWS], y_test[:ROWS]


def tiny_net(keras, **compile_arguments):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    steps = [layers.Input((8, 8, 1), name="image"), layers.Flatten()]
    model = keras.Sequential([*steps, layers.Dense(10, activation="softmax", name="scores")])
    arguments = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile("adam", **{**arguments, "jit_compile": False, **compile_arguments})
    return model


def fit(model, data, path=None, **arguments):
    """What the report says of the validation; with a file of it, where a path is given."""
    export = None if path is None else kc.Export(path)
    compress = kc.Compress(quantization=kc.Quantization(), export=export)
    given = {"batch_size": 16, "verbose": 0, "callbacks": [compress], **arguments}
    model.fit(data[0], data[1], **given)
    assert path is None or compress.report.export.error is None
    return compress.report.validation


@pytest.fixture(scope="module")
def model(keras, data):
    """For tests that only go on with it."""
    model = tiny_net(keras)
    fit(model, data)
    return model


def by_hand(model, x, y, path=None):
    """The accuracies of the networks, without `evaluate`."""
    answers = {
        "float": kc.strip(model).predict(x, verbose=0),
        "fake-quantized": model.predict(x, verbose=0),
    }
    if path is not None:
        answers["tflite"] = kc.load_tflite(path).predict(x)
    return {name: float((each.argmax(-1) == y).mean()) for name, each in answers.items()}


def cross_entropy(probabilities, y):
    chosen = probabilities[np.arange(len(y)), y] / probabilities.sum(-1)
    return -np.log(np.clip(chosen, 1e-7, 1 - 1e-7))


def accuracies(report):
    return {name: values["accuracy"] for name, values in report.metrics.items()}


def test_the_three_networks_on_arrays(model, data, tmp_path):
    _, _, x, y = data
    path = tmp_path / "net.tflite"
    report = fit(model, data, path, validation_data=(x, y))
    assert list(report.metrics) == NETWORKS
    assert report.rows == ROWS
    assert report.reasons == {}
    assert accuracies(report) == pytest.approx(by_hand(model, x, y, path))
    probabilities = kc.load_tflite(path).predict(x)
    loss = cross_entropy(probabilities, y).mean()
    assert report.metrics["tflite"]["loss"] == pytest.approx(loss, rel=1e-4)
    rounded, plain = (report.metrics[name]["loss"] for name in ("fake-quantized", "float"))
    assert rounded == pytest.approx(model.evaluate(x, y, verbose=0)[0], rel=1e-5)
    assert rounded != pytest.approx(plain, rel=1e-5)  # they are different networks


def as_dataset(x, y, **_):
    return {"validation_data": tf.data.Dataset.from_tensor_slices((x, y)).batch(10)}


def as_endless_dataset(x, y, **_):
    endless = tf.data.Dataset.from_tensor_slices((x, y)).batch(10).repeat()
    return {"validation_data": endless, "validation_steps": 3}


def as_batches(x, y, **_):
    return {"validation_data": (x, y), "validation_batch_size": 7, "validation_steps": 3}


def as_generator_function(x, y, keras):
    kind = keras.utils.Sequence if keras.__name__ == "tf_keras" else keras.utils.PyDataset

    class Data(kind):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            part = slice(10 * index, 10 * index + 10)
            return x[part], y[part]

    return {"validation_data": Data()}


@pytest.mark.parametrize(
    ("make", "rows"),
    [(as_dataset, ROWS), (as_endless_dataset, 30), (as_batches, 21), (as_generator_function, ROWS)],
)
def test_whatever_can_be_read_again_is_read_again(keras, model, data, make, rows):
    _, _, x, y = data
    report = fit(model, data, **make(x, y, keras=keras))
    assert report.rows == rows
    assert accuracies(report) == pytest.approx(by_hand(model, x[:rows], y[:rows]))


def test_a_split_off_part_of_the_training_data(model, data):
    report = fit(model, data, validation_split=0.25)
    x, y = data[0][48:], data[1][48:]
    assert report.rows == 16
    assert accuracies(report) == pytest.approx(by_hand(model, x, y))


def test_sample_weights_weigh(keras, data, tmp_path):
    model = tiny_net(keras, weighted_metrics=["accuracy"], metrics=[])
    _, _, x, y = data
    weights = np.zeros(ROWS, "float32")
    weights[:9] = 1.0
    path = tmp_path / "net.tflite"
    report = fit(model, data, path, validation_data=(x, y, weights))
    expected = by_hand(model, x[:9], y[:9], path)
    assert accuracies(report) == pytest.approx(expected)
    assert report.rows == ROWS


def two_ends(keras, form):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = {name: keras.Input((4,), name=name) for name in ("wide", "deep")}
    x = layers.Concatenate()([layers.Dense(6, activation="relu")(i) for i in inputs.values()])
    names = ("size", "kind")
    outputs = {name: layers.Dense(2, name=f"{name}_layer")(x) for name in names}
    if form == "dict":
        model = keras.Model(inputs, outputs)
    else:
        model = keras.Model(list(inputs.values()), list(outputs.values()))
    model.compile("sgd", "mse", metrics={"kind": "mae"} if form == "dict" else [[], ["mae"]])
    return model


@pytest.mark.parametrize("form", ["list", "dict"])
def test_several_inputs_and_outputs(keras, tmp_path, form):
    model = two_ends(keras, form)
    generator = np.random.default_rng(0)
    x = {name: generator.normal(size=(32, 4)).astype("float32") for name in ("wide", "deep")}
    y = {name: generator.normal(size=(32, 2)).astype("float32") for name in ("size", "kind")}
    if form == "list":
        x, y = list(x.values()), list(y.values())
    path = tmp_path / "net.tflite"
    report = fit(model, (x, y), path, validation_data=(x, y))
    assert report.reasons == {}
    assert report.rows == 32
    answers = kc.load_tflite(path).predict(x)
    kind = answers["kind"] if form == "dict" else answers["kind_layer"]
    found = next(value for name, value in report.metrics["tflite"].items() if "mae" in name)
    assert found == pytest.approx(
        np.abs(kind - y["kind" if form == "dict" else 1]).mean(), rel=1e-4
    )


def test_a_metric_with_a_value_for_each_class(keras, data):
    class PerClass(keras.metrics.Metric):
        def __init__(self, name="per_class", **config):
            super().__init__(name=name, **config)
            self.count = self.add_weight(name="count", shape=(2,), initializer="zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.count.assign_add([1.0, 2.0])

        def result(self):
            return tf.convert_to_tensor(self.count)

        def reset_state(self):
            self.count.assign([0.0, 0.0])

    report = fit(tiny_net(keras, metrics=[PerClass()]), data, validation_data=data[2:])
    batches = -(-ROWS // 16)
    assert report.metrics["float"]["per_class"] == [batches, 2 * batches]
    assert f" {batches:.4f} {2 * batches:.4f} │" in str(report)


def test_a_generator_was_read_to_its_end(model, data):
    _, _, x, y = data

    def batches():
        while True:
            yield x[:8], y[:8]

    report = fit(model, data, validation_data=batches(), validation_steps=2)
    why = "the validation data can be read only once"
    assert report.metrics == {}
    assert report.rows is None
    assert report.reasons == dict.fromkeys(NETWORKS[:2], why)
    assert f"no metrics of float, fake-quantized: {why}" in str(report)


def test_without_validation_data_there_is_no_report_of_it(model, data):
    assert fit(model, data) is None


def test_what_was_not_made_is_not_evaluated(keras, data):
    """Pruned only, and nothing exported: there is one network."""
    model = tiny_net(keras)
    x, y, *validation = data
    schedule = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=5)
    compress = kc.Compress(pruning=kc.Pruning(schedule))
    model.fit(x, y, verbose=0, callbacks=[compress], validation_data=tuple(validation))
    report = compress.report.validation
    assert list(report.metrics) == ["float"]
    assert report.metrics["float"]["loss"] == pytest.approx(
        model.evaluate(*validation, verbose=0)[0], rel=1e-5
    )


def test_each_file_has_its_own_metrics(model, data, tmp_path):
    x, y, *validation = data
    compress = kc.Compress(
        quantization=kc.Quantization(), export=kc.Export(tmp_path / "int8.tflite")
    )
    joined = kc.Compress(export=kc.Export(tmp_path / "float.tflite", mode="float32"))
    callbacks = [compress, joined]
    model.fit(x, y, verbose=0, callbacks=callbacks, validation_data=tuple(validation))
    int8, plain = (each.report.validation.metrics for each in callbacks)
    assert {name: int8[name] for name in NETWORKS[:2]} == {n: plain[n] for n in NETWORKS[:2]}
    assert plain["tflite"] == pytest.approx(plain["float"], rel=1e-4)
    assert int8["tflite"]["loss"] != pytest.approx(plain["tflite"]["loss"], rel=1e-6)


def test_a_test_step_of_ones_own_evaluates_all_three(keras, data, tmp_path):
    class Tester(keras.Model):
        def test_step(self, data):
            x, y = data
            answers = self(x, training=False)
            right = tf.equal(tf.argmax(answers, -1), tf.cast(y, tf.int64))
            return {"wrong": 1.0 - tf.reduce_mean(tf.cast(right, tf.float32))}

    plain = tiny_net(keras)
    model = Tester(plain.inputs, plain.outputs)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    _, _, x, y = data
    path = tmp_path / "net.tflite"
    report = fit(model, data, path, validation_data=(x, y), validation_batch_size=ROWS)
    found = {name: 1 - values["wrong"] for name, values in report.metrics.items()}
    assert found == pytest.approx(by_hand(model, x, y, path))


class Snapshot:
    """Whatever an evaluation could have left behind in a model."""

    def __init__(self, model):
        self.metrics = {
            metric.name: [variable.numpy() for variable in metric.variables]
            for metric in model.metrics
        }
        self.functions = (model.train_function, model.test_function, model.predict_function)
        self.phase = engine_of(model).phase
        self.weights = model.get_weights()
        self.patched = sorted(vars(model))

    def __eq__(self, other):
        for name, values in self.metrics.items():
            for mine, theirs in zip(values, other.metrics[name], strict=True):
                np.testing.assert_array_equal(mine, theirs)
        for mine, theirs in zip(self.weights, other.weights, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for mine, theirs in zip(self.functions, other.functions, strict=True):
            assert mine is theirs
        return self.phase is other.phase and self.patched == other.patched


def test_the_model_is_left_as_it_was(keras, data, tmp_path, monkeypatch):
    from keras_compress.fit.validation import Validation

    found = []

    def report(self, path, original=Validation.report):
        found.append(original(self, path))
        found.append(Snapshot(model))
        return found[0]

    def start(self, *arguments, original=Validation.__init__):
        found.append(Snapshot(model))
        original(self, *arguments)
        found.append(Snapshot(model))

    monkeypatch.setattr(Validation, "__init__", start)
    monkeypatch.setattr(Validation, "report", report)
    model = tiny_net(keras)
    fit(model, data, tmp_path / "net.tflite", epochs=2, validation_data=data[2:])
    before, evaluated, metrics, after = found
    assert list(metrics.metrics) == NETWORKS
    assert before.functions[1] is not None
    assert before == evaluated
    assert before == after
    model.fit(data[0], data[1], batch_size=16, verbose=0)  # and goes on


def test_what_cannot_be_evaluated_costs_no_training(model, data, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("no interpreter\n\x1b[1mwith details\x1b[0m")

    monkeypatch.setattr("keras_compress.fit.validation.load_tflite", failing)
    report = fit(model, data, tmp_path / "net.tflite", validation_data=data[2:])
    assert list(report.metrics) == NETWORKS[:2]
    assert report.reasons == {"tflite": "RuntimeError: no interpreter with details"}
    monkeypatch.setattr("keras_compress.fit.validation.strip", failing)
    report = fit(model, data, validation_data=data[2:])
    assert report.metrics == {}
    assert list(report.reasons) == NETWORKS[:2]


def test_a_model_that_cannot_be_compiled_again_has_a_reason(keras, data):
    class Own(keras.Model):
        def compile(self, *arguments, **options):
            super().compile(*arguments, **options)

    plain = tiny_net(keras)
    model = Own(plain.inputs, plain.outputs)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    report = fit(model, data, validation_data=data[2:])
    why = "the stripped model could not be compiled like this one"
    assert report.reasons == dict.fromkeys(NETWORKS[:2], why)


@pytest.mark.parametrize(
    "options",
    [{"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 3}],
    ids=lambda options: next(iter(options)),
)
def test_however_the_model_is_run(keras, data, tmp_path, options):
    model = tiny_net(keras, **options)
    path = tmp_path / "net.tflite"
    report = fit(model, data, path, validation_data=data[2:])
    assert report.rows == ROWS
    assert accuracies(report) == pytest.approx(by_hand(model, *data[2:], path))
