"""The file against its network: on which inputs, and layer by layer on equal inputs."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.nets import small_net

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.export.layer_by_layer import compare_layers
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.naming import Naming
from keras_compress.tflite import ComputedTensor, Conversion, computed_tensors, convert

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

fake_quant = tf.quantization.fake_quant_with_min_max_vars


# --- what a file computes between its ops


def two_ops(x):
    """Two roundings, worked by hand: steps of 1/4 and of 1."""
    first = fake_quant(x + fake_quant(tf.constant([0.5, 0.5]), 0.0, 0.5), -32.0, 31.75)
    return {"y": fake_quant(first * first, -128.0, 127.0)}


@pytest.mark.parametrize("ends", ["int8", "float32"])
def test_the_numbers_between_the_ops_are_read_for_every_row(ends):
    def function(x):
        return two_ops(fake_quant(x, -32.0, 31.75))

    spec = tf.TensorSpec((2, 2), name="x")
    concrete = tf.function(function).get_concrete_function(spec)
    data = convert(concrete, Conversion("int8", quantized=True, input_type=ends, output_type=ends))
    rows = [{"x": np.array([[1, 2.1], [3, -4]])}, {"x": np.array([[5, 6], [7, 8]])}]
    inputs, tensors = computed_tensors(data, rows)
    rounded = np.array([[1, 2], [3, -4], [5, 6], [7, 8]])
    if ends == "int8":
        np.testing.assert_allclose(inputs["x"], rounded)  # 2.1 is 2 in steps of 1/4
    else:
        np.testing.assert_allclose(inputs["x"], [[1, 2.1], *rounded[1:]], rtol=1e-6)
    sums, squares = tensors[-2:]
    assert (sums.scale, squares.scale) == (0.25, 1.0)
    np.testing.assert_allclose(sums.values, rounded + 0.5, atol=1e-6)
    # Halves go away from zero in LiteRT's kernel, or up: at most one step from the true square.
    np.testing.assert_allclose(squares.values, (rounded + 0.5) ** 2, atol=0.75)
    assert squares.values.shape == (4, 2)


# --- which layer a tensor came from


def test_scopes_tell_layers_whatever_they_are_called(keras):
    layers = keras.layers
    inner = keras.Input((4,), name="inner_input")
    outputs = layers.Dense(4, name="dense")(inner)
    backbone = keras.Model(inner, [outputs, layers.Dense(4, name="dense_1")(outputs)], name="b")
    inputs = keras.Input((4,), name="x")
    first, second = backbone(inputs)
    odd = "odd-name.1" if keras.__name__ == "tf_keras" else "_odd-name.1"
    total = layers.Dense(2, name=odd)(first + second)
    model = keras.Model(inputs, {"sum": total, "second": second, "raw": inputs})
    naming = Naming(adapter_of(model, "test"), model)
    assert naming.layers("b/dense/MatMul;b/dense/BiasAdd") == ("b/dense",)
    assert naming.layers("b/dense_1/some/deeper/op1") == ("b/dense_1",)
    scope = odd if odd[0] == "o" else "layer_odd-name.1"  # none may begin with "_"
    assert naming.layers(f"{scope.replace('-', '_')}/MatMul") == ()
    assert naming.layers(f"{scope}/MatMul") == (odd,)
    assert naming.layers("b/Relu") == naming.layers("x") == naming.layers("tfl.pseudo_qconst") == ()
    # In the order of the network, and those that only round are left out if others compute.
    assert naming.layers("b/dense_1/Relu;b/dense/MatMul") == ("b/dense", "b/dense_1")
    assert naming.layers("b/dense_1/Relu;b/dense/FakeQuantWithMinMaxVars") == ("b/dense_1",)
    assert naming.touching("b/dense_1/Relu;b/dense/FakeQuantWithMinMaxVars") == (
        "b/dense",
        "b/dense_1",
    )
    assert naming.layers("b/dense/FakeQuantWithMinMaxVars;b/dense/unstack") == ("b/dense",)
    # Outputs have the model's names.
    assert naming.layers("sum") == (odd,)
    assert naming.layers("second") == ("b/dense_1",)
    assert naming.layers("raw") == ()


def test_two_names_that_make_one_scope_are_told_apart():
    import keras  # tf_keras takes no name that begins with "_"

    layers = keras.layers
    inputs = keras.Input((4,), name="x")
    x = layers.Dense(4, name="_a")(inputs)
    model = keras.Model(inputs, layers.Dense(4, name="layer_a")(x))
    adapter = adapter_of(model, "test")
    naming = Naming(adapter, model)
    with naming.scoped():
        graph = tf.function(lambda x: adapter.call_flat(model, [x])).get_concrete_function(
            tf.TensorSpec((1, 4))
        )
    matmuls = [op.name for op in graph.graph.get_operations() if op.type == "MatMul"]
    assert [naming.layers(name) for name in matmuls] == [("_a",), ("layer_a",)]
    assert all("call" not in vars(layer) for layer in model.layers)


# --- on which inputs


@pytest.fixture(scope="module")
def rounded(keras, digits):
    """A net with every kind of rounding, quantized from its first update."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inner = keras.Input((6, 6, 4))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(inner)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    backbone = keras.Model(inner, x, name="backbone")
    inputs = keras.Input((8, 8, 1), name="image")
    stem = layers.Conv2D(4, 3, activation="relu", name="stem")(inputs)
    deep = backbone(stem)
    x = layers.SeparableConv2D(4, 3, padding="same", activation="silu", name="separable")(deep)
    x = layers.Add(name="add")([x, deep, stem])
    x = layers.Concatenate(name="join")([x, deep])
    x = layers.AveragePooling2D(2, name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.BatchNormalization(name="norm2")(layers.Dense(6, name="dense")(x))
    twice = layers.Dense(6, activation="tanh", name="twice")
    x = twice(twice(x))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="scores")(x))
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    x, y, _, _ = digits
    compress = kc.Compress(quantization=kc.Quantization(layers=lambda layer: True))
    model.fit(x[:320], y[:320], batch_size=16, verbose=0, callbacks=[compress])
    return model


@pytest.mark.slow
def test_verify_data_comes_before_representative_data_before_drawn_inputs(
    rounded, digits, tmp_path
):
    path = tmp_path / "net.tflite"
    some, others = digits[2][:5], digits[2][5:12]
    both = kc.Export(path, verify_data=some, representative_dataset=others)
    report = kc.export_tflite(rounded, both)
    assert (report.verified_on, report.samples, report.layer_samples) == ("verify_data", 5, 5)
    report = kc.export_tflite(rounded, kc.Export(path, representative_dataset=others))
    assert (report.verified_on, report.samples) == ("representative_dataset", 7)
    report = kc.export_tflite(rounded, kc.Export(path, batch_size=3))
    assert report.verified_on == "inputs drawn inside the watched ranges"
    assert (report.samples, report.layer_samples) == (66, 9)  # whole batches


# --- layer by layer

# (path, tensor) of everything that is rounded and has a scale of its own in the file; what goes
# into the Concatenate alone is rounded there.
ROUNDINGS = [
    ("stem", "output"),
    ("backbone/relu", "output"),
    ("separable", "between"),
    ("separable", "before"),
    ("separable", "gate"),
    ("separable", "output"),
    ("add", "sum1"),
    ("join", "output"),
    ("pool", "output"),
    ("norm2", "output"),
    ("twice", "before"),
    ("twice", "output"),
    ("twice", "before"),
    ("twice", "output"),
    ("scores", "before"),
    ("scores", "output"),
]


@pytest.mark.parametrize("ends", ["int8", "uint8", "float32"])
def test_every_rounding_is_compared_and_within_a_step(rounded, tmp_path, ends):
    export = kc.Export(
        tmp_path / "net.tflite", inference_input_type=ends, inference_output_type=ends
    )
    report = kc.export_tflite(rounded, export)
    found = [(layer.path, layer.tensor) for layer in report.layers]
    assert sorted(found) == sorted(ROUNDINGS)
    largest = [layer.largest_steps for layer in report.layers]
    assert largest == sorted(largest, reverse=True)
    assert largest[0] <= 1
    assert all(0 <= layer.mean_steps <= layer.largest_steps for layer in report.layers)
    assert report.layer_samples == 8


def test_a_layer_that_differs_is_found_and_those_behind_it_are_not_blamed(rounded, tmp_path):
    path = tmp_path / "net.tflite"
    kc.export_tflite(rounded, kc.Export(path))
    engine = engine_of(rounded)
    rows = np.random.default_rng(0).uniform(size=(8, 1, 8, 8, 1)).astype("float32")
    inputs, tensors = computed_tensors(path.read_bytes(), [{"image": row} for row in rows])
    before = {(e.path, e.tensor): e.largest_steps for e in compare_layers(engine, inputs, tensors)}
    layer = next(
        layer for _, layer in adapter_of(rounded, "test").layers(rounded) if layer.name == "norm"
    )
    kept = layer.get_weights()
    gamma, beta, *statistics = kept
    try:
        layer.set_weights([gamma, beta + 0.2, *statistics])
        after = {
            (e.path, e.tensor): e.largest_steps for e in compare_layers(engine, inputs, tensors)
        }
    finally:
        layer.set_weights(kept)
    # The batch norm is part of the convolution, which is compared behind its ReLU.
    assert after.pop(("backbone/relu", "output")) > 5
    del before["backbone/relu", "output"]
    assert after == before


def test_the_calls_of_a_shared_layer_are_told_apart(rounded, tmp_path):
    """Where they do not depend on each other, a file may have them in another order."""
    path = tmp_path / "net.tflite"
    kc.export_tflite(rounded, kc.Export(path))
    engine = engine_of(rounded)
    rows = np.random.default_rng(0).uniform(size=(8, 1, 8, 8, 1)).astype("float32")
    inputs, tensors = computed_tensors(path.read_bytes(), [{"image": row} for row in rows])
    found = compare_layers(engine, inputs, tensors)
    assert max(each.largest_steps for each in found) <= 1
    assert compare_layers(engine, inputs, tensors[::-1]) == found


def test_what_the_file_has_not_is_left_out_and_passed_over(rounded, tmp_path):
    """Without its own tensor a layer is compared together with the one behind it."""
    path = tmp_path / "net.tflite"
    kc.export_tflite(rounded, kc.Export(path))
    engine = engine_of(rounded)
    rows = np.random.default_rng(0).uniform(size=(4, 1, 8, 8, 1)).astype("float32")
    inputs, tensors = computed_tensors(path.read_bytes(), [{"image": row} for row in rows])
    naming = Naming(adapter_of(rounded, "test"), rounded)
    fewer = [tensor for tensor in tensors if naming.layers(tensor.name) != ("stem",)]
    assert len(fewer) == len(tensors) - 1
    found = compare_layers(engine, inputs, fewer)
    assert [(each.path, each.tensor) for each in found] == ROUNDINGS[1:]
    # Of two calls of a shared layer nobody can tell whose the only tensor is.
    one = [tensor for tensor in tensors if "twice/call_2/Tanh" not in tensor.name]
    assert len(one) == len(tensors) - 1
    found = compare_layers(engine, inputs, one)
    assert ("twice", "output") not in [(each.path, each.tensor) for each in found]
    wrong = [ComputedTensor(t.name, t.scale * 1.01, t.values) for t in tensors]
    assert compare_layers(engine, inputs, wrong) == []


@pytest.fixture(scope="module", params=["wrap", "by hand"])
def wrapped(request, digits):
    """A net in tfmot's quantize wrappers, and what is rounded in it and stands in its file."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    inputs = tf_keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = stem = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.SeparableConv2D(4, 3, padding="same", activation="relu", name="separable")(x)
    x = layers.Add(name="add")([x, stem])
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(6, activation="tanh", name="dense")(x)
    model = tf_keras.Model(inputs, layers.Dense(10, activation="softmax", name="scores")(x))
    if request.param == "wrap":
        model = kc.wrap(model, quantization=kc.Quantization(delay=5))
    else:
        model = tfmot.quantization.keras.quantize_model(model)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    x, y, _, _ = digits
    model.fit(x[:320], y[:320], batch_size=16, verbose=0)
    return model


WRAPPED_ROUNDINGS = [
    ("relu", "output"),
    ("separable", "output"),
    ("separable", "output"),
    ("add", "output"),
    ("dense", "before"),
    ("scores", "before"),
]


def test_layers_in_tfmots_wrappers_are_compared_by_the_users_names(wrapped, tmp_path):
    report = kc.export_tflite(wrapped, kc.Export(tmp_path / "net.tflite"))
    # The name of a separable layer that tfmot split by hand is not known any more.
    found = [(layer.path.partition("_conv2d")[0], layer.tensor) for layer in report.layers]
    assert sorted(found) == sorted(WRAPPED_ROUNDINGS)
    assert report.layer_samples == 8
    # Its biases are floats, those of the file integers.
    assert max(layer.largest_steps for layer in report.layers) <= 2


def test_a_wrapped_layer_that_differs_is_found(wrapped, tmp_path):
    from keras_compress.export.model_source import ModelSource

    path = tmp_path / "net.tflite"
    kc.export_tflite(wrapped, kc.Export(path))
    engine = ModelSource(wrapped).engine
    rows = np.random.default_rng(0).uniform(size=(8, 1, 8, 8, 1)).astype("float32")
    inputs, tensors = computed_tensors(path.read_bytes(), [{"image": row} for row in rows])
    answer = wrapped.predict(rows[:, 0], verbose=0)
    before = compare_layers(engine, inputs, tensors)
    norm = next(layer.layer for layer in wrapped.layers if layer.name == "quant_norm")
    kept = norm.get_weights()
    gamma, beta, *statistics = kept
    try:
        norm.set_weights([gamma, beta + 0.5, *statistics])
        after = compare_layers(engine, inputs, tensors)
    finally:
        norm.set_weights(kept)
    assert [each.path for each in before] == [each.path for each in after]
    assert after[0].path == "relu"
    assert after[0].largest_steps > 5
    assert after[1:] == before[1:]
    np.testing.assert_array_equal(wrapped.predict(rows[:, 0], verbose=0), answer)


def test_a_comparison_that_fails_costs_neither_file_nor_network(
    rounded, digits, tmp_path, monkeypatch, caplog
):
    def failing(*_):
        raise RuntimeError("no tensors")

    expected = rounded.predict(digits[2][:8], verbose=0)
    monkeypatch.setattr("keras_compress.export.verify.computed_tensors", failing)
    report = kc.export_tflite(rounded, kc.Export(tmp_path / "net.tflite"))
    assert report.written
    assert report.layers == []
    assert "No comparison layer by layer: RuntimeError: no tensors" in caplog.text
    assert engine_of(rounded).quantizers._on_rounded is None
    np.testing.assert_array_equal(rounded.predict(digits[2][:8], verbose=0), expected)


def test_files_without_ranges_of_ours_have_no_layers(rounded, digits, tmp_path):
    assert kc.export_tflite(rounded, kc.Export(tmp_path / "a.tflite", mode="float32")).layers == []
    export = kc.Export(tmp_path / "b.tflite", representative_dataset=digits[0][:8])
    report = kc.export_tflite(kc.strip(rounded), export)
    assert report.layers == []
    assert report.largest_steps


def test_what_fills_the_last_batch_does_not_count(keras, digits, tmp_path):
    x, y, *_ = digits
    model = small_net(keras)
    compress = kc.Compress(
        quantization=kc.Quantization(delay=1),
        export=kc.Export(tmp_path / "model.tflite", batch_size=16, verify_data=x[:10]),
    )
    model.fit(x[:64], y[:64], batch_size=32, verbose=0, callbacks=[compress])
    export = compress.report.export
    assert export.error is None
    assert export.samples == 10
    network = model.predict(x[:10], verbose=0)
    file = kc.load_tflite(tmp_path / "model.tflite").predict(x[:10])
    equal = np.mean(network.argmax(axis=-1) == file.argmax(axis=-1))
    assert export.argmax_agreement["probabilities"] == pytest.approx(equal)


def test_layer_by_layer_what_fills_the_last_batch_does_not_count(rounded, digits, tmp_path):
    def compared(**arguments):
        export = kc.Export(tmp_path / "net.tflite", verify_data=digits[2][:3], **arguments)
        report = kc.export_tflite(rounded, export)
        assert report.layer_samples == 3
        return {(each.path, each.tensor): each.mean_steps for each in report.layers}

    one, padded = compared(), compared(batch_size=4)
    assert one.keys() == padded.keys()
    assert any(one.values())
    assert padded == pytest.approx(one)


# --- what `predict` gives


def test_predict_is_what_the_file_gives(rounded, digits, tmp_path):
    report = kc.export_tflite(rounded, kc.Export(tmp_path / "net.tflite", batch_size=3))
    answers = rounded.predict(digits[2], verbose=0)
    assert report.predict_steps.keys() == report.largest_steps.keys() == {"scores"}
    assert report.predict_steps["scores"] <= 1
    assert "│ scores, by model.predict │" in str(report)
    np.testing.assert_array_equal(rounded.predict(digits[2], verbose=0), answers)


def stepping(keras, step):
    """A quantized fit of a functional model whose `predict_step` is `step(its own answer)`."""

    class Stepping(keras.Model):
        def predict_step(self, data):
            return step(super().predict_step(data))

    def trained(path, **export):
        keras.utils.set_random_seed(0)
        inputs = keras.layers.Input((4,), name="x")
        model = Stepping(inputs, keras.layers.Dense(3, name="scores")(inputs))
        model.compile("sgd", "mse", jit_compile=False)
        given = kc.Export(path, **export)
        compress = kc.Compress(quantization=kc.Quantization(delay=1), export=given)
        x = np.random.default_rng(0).random((16, 4)).astype("float32")
        history = model.fit(x, x[:, :3], batch_size=4, verbose=0, callbacks=[compress])
        assert len(history.history["loss"]) == 1  # `predict` leaves that of the fit
        return compress.report.export

    return trained


def test_a_predict_step_of_ones_own_is_told(keras, tmp_path):
    path = tmp_path / "net.tflite"
    report = stepping(keras, lambda answer: answer + 1.0)(path)
    assert report.largest_steps["scores"] <= 1  # the network that was traced
    scale = report.outputs["scores"]["scale"]
    assert report.predict_steps["scores"] == pytest.approx(1 / scale, abs=1.01)
    assert f"│ scores, by model.predict │ {report.predict_steps['scores']:>7.3g} │" in str(report)


@pytest.mark.parametrize(
    "step", [lambda answer: answer[:, 0], lambda answer: (answer, answer), tf.as_string]
)
def test_a_predict_of_another_form_is_told(keras, step, tmp_path):
    report = stepping(keras, step)(tmp_path / "net.tflite")
    assert report.written
    assert report.predict_steps == {"scores": None}
    assert "│ scores, by model.predict │ other form │" in str(report)


def test_a_predict_that_fails_costs_nothing_but_its_row(keras, tmp_path, caplog):
    def step(answer):
        raise RuntimeError("not today")

    report = stepping(keras, step)(tmp_path / "net.tflite")
    assert report.written
    assert report.predict_steps == {}
    assert "No comparison with `predict`: RuntimeError" in caplog.text


def test_predict_is_compared_where_it_is_the_network_of_the_file(rounded, digits, tmp_path):
    path = tmp_path / "net.tflite"
    assert kc.export_tflite(rounded, kc.Export(path, mode="float32")).predict_steps == {}
    plain = kc.strip(rounded)
    report = kc.export_tflite(plain, kc.Export(path, mode="float32"))
    assert report.predict_steps["scores"] < 1e-5
    after = kc.Export(path, representative_dataset=digits[0][:64])
    assert 0 < kc.export_tflite(plain, after).predict_steps["scores"] < 40


# --- what would be another network


def faint(keras, kind, scale):
    """A trained net of one layer whose kernel is next to nothing beside its bias."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    first = {
        "dense": lambda: [layers.Flatten(), layers.Dense(8, name="faint"), layers.ReLU()],
        "conv": lambda: [layers.Conv2D(8, 3, name="faint"), layers.ReLU(), layers.Flatten()],
        "depthwise": lambda: [
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="faint"),
            layers.ReLU(),
            layers.Flatten(),
        ],
    }[kind]()
    model = keras.Sequential(
        [layers.Input((8, 8, 1)), *first, layers.Dense(10, activation="softmax")]
    )
    kernel, bias = model.get_layer("faint").get_weights()
    own = np.linspace(0.2, 0.4, bias.size, dtype="float32")
    model.get_layer("faint").set_weights([scale * kernel, own])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", jit_compile=False)
    return model


def exported(model, digits, path):
    compress = kc.Compress(
        quantization=kc.Quantization(delay=2), export=kc.Export(path, rehearse=False), verbose=0
    )
    model.fit(digits[0][:64], digits[1][:64], batch_size=16, verbose=0, callbacks=[compress])
    return compress.report.export


@pytest.mark.sweep_if(when=lambda scale, kind: (scale == 1e-5) != (kind == "conv"))
@pytest.mark.parametrize("scale", [1e-5, 1e-7])
@pytest.mark.parametrize("kind", ["dense", "conv", "depthwise"])
def test_the_bias_beside_a_faint_kernel_fits_into_its_integer(
    keras, digits, tmp_path, kind, scale, caplog
):
    report = exported(faint(keras, kind, scale), digits, tmp_path / "net.tflite")
    assert max(layer.largest_steps for layer in report.layers) <= 1
    assert not [r for r in caplog.records if r.name == "keras_compress"]


def test_a_file_that_is_another_network_is_warned_of(keras, digits, tmp_path, caplog, monkeypatch):
    # Without room for it a bias runs over, and the converter says nothing.
    monkeypatch.setattr("keras_compress.engines.in_place.fake_quant.LARGEST_BIAS", 2.0**60)
    report = exported(faint(keras, "dense", 1e-6), digits, tmp_path / "net.tflite")
    assert report.layers[0].mean_steps > 2
    (said,) = [r.getMessage() for r in caplog.records if r.name == "keras_compress"]
    assert f"The file at {report.path} is not the network that was trained" in said
    assert f"layer {report.layers[0].path!r}" in said


# --- what is left of it


def test_after_the_comparison_predict_follows_the_ranges(keras, digits, tmp_path):
    """It is compared over ranges that are written into its graph, which nobody must go on with."""
    x, y, *_ = digits
    model = small_net(keras, jit_compile=False)
    export = kc.Export(tmp_path / "net.tflite")
    compress = kc.Compress(quantization=kc.Quantization(), export=export, verbose=0)
    model.fit(x[:64], y[:64], verbose=0, callbacks=[compress])
    assert compress.report.export.predict_steps["probabilities"] <= 2
    # In batches of 32, as the comparison's.
    before = model.predict(x[:64], verbose=0)
    engine_of(model).quantizers.set_input_range(0, (0.0, 0.1))  # pixels are in [0, 1]
    assert np.abs(model.predict(x[:64], verbose=0) - before).max() > 0.01
    kc.export_tflite(model, export)  # with what `predict` has traced by now
    narrow = model.predict(x[:64], verbose=0)
    engine_of(model).quantizers.set_input_range(0, (0.0, 1.0))
    assert np.abs(model.predict(x[:64], verbose=0) - narrow).max() > 0.01
