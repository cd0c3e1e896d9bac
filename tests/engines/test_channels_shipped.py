"""What ships of a model whose channels are pruned, quantized in the same fit."""

import json

import jsonschema
import numpy as np
import pytest
from helpers.channel_graphs import with_random_weights
from helpers.dropped_channels import answers, assert_same
from helpers.nets import compile_net

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.shipping import network_that_ships
from keras_compress.export.record import record

pytestmark = pytest.mark.by_turns(suite="keras3")  # which share one fit

SPEC = kc.Pruning(
    kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=10, frequency=2),
    structure="channels",
    multiple_of=2,
)


def residual_net(keras):
    layers = keras.layers
    image = keras.Input((8, 8, 1))  # without a name: with a number for one, which counts on
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="second")(x)
    x = layers.Add()([x, layers.BatchNormalization()(y)])
    x = layers.MaxPooling2D()(layers.ReLU()(x))
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    x = layers.Dense(12, activation="relu", name="hidden")(layers.Flatten()(x))
    x = layers.Dense(10, activation="softmax", name="digit")(x)
    return compile_net(keras, keras.Model(image, x))


@pytest.fixture(
    scope="module", params=["frozen", pytest.param("not frozen", marks=pytest.mark.sweep)]
)
def trained(request, keras, digits, tmp_path_factory):
    """(model, compress, inputs) after a fit with everything in it."""
    keras.utils.set_random_seed(3)
    x, y, x_test, y_test = digits
    model = residual_net(keras)
    quantization = kc.Quantization(delay=14, freeze_step=18 if request.param == "frozen" else None)
    path = tmp_path_factory.mktemp("channels") / "digits.tflite"
    export = kc.Export(path, verify_data=x_test[:64])
    compress = kc.Compress(pruning=SPEC, quantization=quantization, export=export, verbose=0)
    arguments = {"batch_size": 64, "epochs": 1, "verbose": 0, "callbacks": [compress]}
    validation = (x_test[:100], y_test[:100])
    model.fit(x[:1280], y[:1280], validation_data=validation, **arguments)
    return model, compress, x_test[:64]


def test_the_file_is_small_and_answers_as_the_masked_network(trained):
    model, compress, x = trained
    export = compress.report.export
    assert export.error is None
    assert export.largest_steps["digit"] <= 2
    assert export.predict_steps["digit"] <= 2  # of the model that was trained
    assert list(export.inputs) == engine_of(model).adapter.flat_names(model)[0]
    assert not compress.report.left_out["pruning"].keys() - {"digit"}
    file = kc.load_tflite(export.path)
    assert kc.inspect_tflite(export.path).all_integer
    steps = np.abs(file.predict(x) - model.predict(x, verbose=0)) * 256
    assert steps.max() <= 2  # the model that was trained, all channels in it, rounds alike
    shapes = sorted(tuple(each.shape) for each in kc.inspect_tflite(export.path).kernels)
    # Worked by hand, as TFLite has it, (out, height, width, in): half of 8 and of 12 channels.
    assert shapes == [(1, 3, 3, 4), (4, 3, 3, 1), (4, 3, 3, 4), (6, 64), (10, 6)]


def test_the_small_network_rounds_as_the_masked_one(trained):
    model, _, x = trained
    engine = engine_of(model)
    small, own = network_that_ships(engine)
    assert own.phase is engine.phase
    mine, theirs = engine.quantizers.ranges(), own.quantizers.ranges()
    assert mine.keys() == theirs.keys()
    for key, limits in mine.items():
        np.testing.assert_array_equal(limits, theirs[key])
    assert_same(answers(model, x), answers(small, x))


def test_the_stripped_model_is_the_float_network_without_them(keras, trained, tmp_path):
    model, compress, x = trained
    small = compress.stripped_model
    with engine_of(model).in_float():
        expected = np.asarray(model(x, training=False))
    assert_same([expected], answers(small, x))
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert [type(layer) for layer in small.layers] == [type(layer) for layer in model.layers]
    assert (small.get_layer("first").filters, small.get_layer("hidden").units) == (4, 6)
    small.save(tmp_path / "small.keras")
    assert_same([expected], answers(keras.models.load_model(tmp_path / "small.keras"), x))


def test_the_report_counts_what_is_left(keras, trained):
    model, compress, _ = trained
    report = compress.report
    found = report.channels
    assert [(each.path, each.before, each.after) for each in found.layers] == [
        ("first", 8, 4),
        ("second", 8, 4),
        ("hidden", 12, 6),
    ]
    # By hand: 64 places of a 3 x 3 window, 16 of a depthwise one, 16 places before the Dense.
    before = 64 * 9 * 8 + 64 * 9 * 8 * 8 + 16 * 9 * 8 + 16 * 8 * 12 + 12 * 10
    after = 64 * 9 * 4 + 64 * 9 * 4 * 4 + 16 * 9 * 4 + 16 * 4 * 6 + 6 * 10
    assert found.macs == (before, after)
    small = compress.stripped_model
    assert found.parameters == (model.count_params(), small.count_params())
    assert report.sparsity == pytest.approx(14 / 28)
    text = str(report)
    assert "50.0% of the channels are dropped" in text
    assert f"multiply-accumulates: {before:,} before, {after:,}" in text
    assert kc.Report.from_dict(report.to_dict()) == report
    import importlib.resources

    schema = importlib.resources.files("keras_compress").joinpath("report.schema.json").read_text()
    jsonschema.validate(json.loads(json.dumps(record(report, keras))), json.loads(schema))


def test_the_picture_shows_the_channels_of_each_layer(trained):
    figure = trained[1].report.plot()
    (axes,) = [
        axes for part in figure.subfigs for axes in part.axes if axes.get_xlabel() == "channels"
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second", "hidden"]
    assert [bar.get_width() for bar in axes.patches] == [8, 8, 12, 4, 4, 6]


def test_the_metrics_of_all_networks_are_measured(trained):
    metrics = trained[1].report.validation.metrics
    assert metrics["tflite"]["accuracy"] == pytest.approx(metrics["fake-quantized"]["accuracy"])


def test_the_plan_is_what_will_be(keras):
    model = residual_net(keras)
    before = [weight.copy() for weight in model.get_weights()]
    plan = kc.preview(model, pruning=SPEC, steps=20)
    assert [(each.path, each.after) for each in plan.channels] == [
        ("first", 4),
        ("second", 4),
        ("hidden", 6),
    ]
    assert "prunes the channels of 3 layers to 50% in updates 1 to 10 of 20" in plan.in_a_line()
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_float_file_of_a_pruned_model_is_small_too(keras, tmp_path):
    layers = keras.layers
    model = with_random_weights(
        keras.Sequential([layers.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3)])
    )
    model.compile("sgd", "mse", jit_compile=False)
    draw = np.random.default_rng(1)
    x, y = (draw.normal(size=(16, width)).astype("float32") for width in (6, 3))
    compress = kc.Compress(pruning=kc.Pruning(0.5, structure="channels"), verbose=0)
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[compress])
    report = kc.export_tflite(model, kc.Export(tmp_path / "net.tflite", mode="float32"))
    assert sorted(tuple(k.shape) for k in kc.inspect_tflite(report.path).kernels) == [
        (3, 4),
        (4, 6),
    ]
    found = kc.load_tflite(report.path).predict(x)
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=1e-5)


class StoppedError(Exception):
    pass


@pytest.mark.sweep
def test_a_fit_that_was_stopped_goes_on_to_the_same_end(keras, digits, tmp_path):
    x, y, _, _ = digits

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise StoppedError

    def fit(*callbacks):
        keras.utils.set_random_seed(3)
        model = residual_net(keras)
        pruning = kc.Pruning(
            kc.PolynomialDecay(final_sparsity=0.5, begin_step=3, end_step=20, frequency=3),
            structure="channels",
            weights=0.5,
        )
        quantization = kc.Quantization(delay=22)
        compress = kc.Compress(pruning=pruning, quantization=quantization, verbose=0)
        arguments = {"batch_size": 32, "epochs": 4, "shuffle": False, "verbose": 0}
        model.fit(x[:256], y[:256], callbacks=[compress, *callbacks], **arguments)
        return model, compress

    whole, _ = fit()
    with pytest.raises(StoppedError):
        fit(keras.callbacks.BackupAndRestore(tmp_path / "backup"), Stop())
    resumed, compress = fit(keras.callbacks.BackupAndRestore(tmp_path / "backup"))
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [each.after for each in compress.report.channels.layers] == [4, 4, 6]
