"""Networks side by side: the numbers against NumPy, the layer at fault, and what is refused."""

import ast
import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from helpers import tf1_graphs
from helpers.nets import small_net

import keras_compress as kc
from keras_compress.comparison import compare as compare_module
from keras_compress.comparison.detections import counted
from keras_compress.comparison.signals import layer_signals
from keras_compress.reports.comparison import ComparedNetwork, Comparison, LayerSignal
from keras_compress.tflite.file.flatbuffer import pack, unpack


def decibels(reference, quantized):
    reference = np.asarray(reference, np.float64)
    return 10 * math.log10(np.sum(reference**2) / np.sum((reference - quantized) ** 2))


@pytest.fixture(scope="module")
def two_layers(keras, tmp_path_factory):
    """A network that also gives its hidden layer, its float file and its integer file, and data."""
    keras.utils.set_random_seed(0)
    given = keras.Input((6,), name="given")
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(given)
    model = keras.Model(given, [hidden, keras.layers.Dense(3, name="answer")(hidden)])
    x = np.random.default_rng(0).uniform(-1, 1, (50, 6)).astype("float32")
    folder = tmp_path_factory.mktemp("two_layers")
    kc.export_tflite(model, kc.Export(folder / "float.tflite", mode="float32"))
    export = kc.Export(
        folder / "int8.tflite", representative_dataset=x, inference_output_type="float32"
    )
    kc.export_tflite(model, export)
    alone = keras.Model(given, model.outputs[1])
    kc.export_tflite(alone, kc.Export(folder / "alone.tflite", mode="float32"))
    return model, folder, x


# --- layer by layer


def test_the_ratios_are_those_of_the_formula(two_layers):
    model, folder, x = two_layers
    files = [folder / name for name in ("float.tflite", "int8.tflite")]
    found, alone = layer_signals(*(file.read_bytes() for file in files), {"given": x})
    by_layer = {each.layers: each for each in found}
    assert set(by_layer) == {("hidden",), ("answer",)}
    assert alone == ()
    theirs, ours = (kc.load_tflite(file).predict(x) for file in files)
    for name, each in by_layer.items():
        assert each.sqnr_db == pytest.approx(decibels(theirs[name[0]], ours[name[0]]), abs=1e-3)
    # By itself: the float layer on the numbers that the integer file gave it.
    kernel, bias = (np.asarray(weight) for weight in model.get_layer("answer").get_weights())
    expected = decibels(ours["hidden"] @ kernel + bias, ours["answer"])
    assert by_layer["answer",].own_db == pytest.approx(expected, abs=1e-2)
    assert by_layer["answer",].own_db > by_layer["answer",].sqnr_db


def test_a_file_against_itself_has_no_noise(two_layers):
    data = (two_layers[1] / "float.tflite").read_bytes()
    found, _ = layer_signals(data, data, {"given": two_layers[2][:3]})
    assert [each.own_db for each in found] == [math.inf] * 2
    assert [each.sqnr_db for each in found] == [math.inf] * 2


@pytest.mark.slow_after(1)
def test_the_layer_at_fault_comes_first_and_leaving_it_out_helps(keras, digits, tmp_path):
    x, y = digits[0][:128], digits[1][:128]
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(24, activation="relu", name="first"),
            layers.Dense(24, activation="relu", name="bad"),
            layers.Dense(24, activation="relu", name="fine"),
            layers.Dense(10, activation="softmax", name="last"),
        ]
    )
    # One unit is dead, and what reads it has a weight so large that no other is left in 8 bits.
    kernel, bias = model.get_layer("first").get_weights()
    kernel[:, 0], bias[0] = 0, -1
    model.get_layer("first").set_weights([kernel, bias])
    kernel, bias = model.get_layer("bad").get_weights()
    kernel[0, 0] = 100
    model.get_layer("bad").set_weights([kernel, bias])
    kc.export_tflite(model, kc.Export(tmp_path / "float.tflite", mode="float32"))

    def quantized(name, layers):
        compress = kc.Compress(
            quantization=kc.Quantization(layers=layers), export=kc.Export(tmp_path / name)
        )
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        copy.compile(
            keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy", jit_compile=False
        )
        copy.fit(x, y, verbose=0, callbacks=[compress])
        assert compress.report.export.error is None

    quantized("all.tflite", None)
    quantized("without.tflite", ["first", "fine", "last"])
    files = [tmp_path / name for name in ("float.tflite", "all.tflite", "without.tflite")]
    found = kc.compare(*files, data=x, runs=0)
    worst, *others = found.layers["all.tflite"]
    assert worst.layers == ("bad",)
    assert worst.own_db < 3
    assert min(each.own_db for each in others) > 20
    (left,) = (each for each in found.layers["without.tflite"] if each.layers == ("bad",))
    assert left.own_db > worst.own_db + 5
    _reference, whole, without = found.networks
    assert without.largest_difference < whole.largest_difference / 2
    assert without.agreement > whole.agreement


# --- side by side


@pytest.fixture(scope="module")
def trained(keras, digits, tmp_path_factory):
    """A small net with its quantization on, and its file."""
    x, y, *_ = digits
    path = tmp_path_factory.mktemp("trained") / "net.tflite"
    model = small_net(keras, batch_norm=True, jit_compile=False)
    compress = kc.Compress(quantization=kc.Quantization(delay=20), export=kc.Export(path))
    model.fit(x[:640], y[:640], batch_size=32, epochs=2, verbose=0, callbacks=[compress])
    assert compress.report.export.error is None
    return model, path


@pytest.mark.slow_after(1)
def test_a_quantized_model_counts_as_two_networks(trained, digits):
    model, path = trained
    x, y = digits[2], digits[3]
    found = kc.compare(model, path, data=x, labels=y, runs=5)
    real, fake, file = found.networks
    assert [each.name for each in found.networks] == [
        f"{model.name} (float)", f"{model.name} (fake-quantized)", "net.tflite"
    ]  # fmt: skip
    assert fake.metrics["accuracy"] == pytest.approx(model.evaluate(x, y, verbose=0)[1])
    plain = kc.strip(model)
    assert real.metrics["accuracy"] == pytest.approx(plain.evaluate(x, y, verbose=0)[1])
    assert file.metrics == {"accuracy": kc.load_tflite(path).evaluate(x, y)["accuracy"]}
    # Differences are from the first, whose answers these are.
    expected = plain.predict(x, verbose=0)
    answers = kc.load_tflite(path).predict(x)
    assert file.largest_difference == pytest.approx(np.abs(answers - expected).max(), abs=1e-5)
    assert file.mean_difference == pytest.approx(np.abs(answers - expected).mean(), abs=1e-5)
    assert file.agreement == np.mean(answers.argmax(-1) == expected.argmax(-1))
    assert (real.largest_difference, real.agreement) == (0, 1)
    report = kc.inspect_tflite(path)
    assert (file.bytes, file.zipped_bytes) == (report.bytes, report.zipped_bytes)
    assert real.bytes > file.bytes
    assert real.latency_ms > 0
    assert (fake.bytes, fake.zipped_bytes, fake.latency_ms) == (None, None, None)
    assert list(found.layers) == ["net.tflite"]
    layers = {each.layers for each in found.layers["net.tflite"]}
    assert layers == {("conv1", "norm1", "relu1"), ("dense1",), ("probabilities",)}
    assert found.notes == []


def test_several_inputs_outputs_and_metrics(two_layers):
    _, folder, x = two_layers
    files = [folder / name for name in ("float.tflite", "int8.tflite")]
    labels = {"answer": np.zeros((50, 3), "float32")}

    def largest(y, answers):
        return np.abs(answers).max()

    metric = {"answer": ["mse", largest]}
    found = kc.compare(*files, data={"given": x}, labels=labels, metric=metric, runs=0)
    answers = [kc.load_tflite(file).predict(x)["answer"] for file in files]
    for network, own in zip(found.networks, answers, strict=True):
        assert network.metrics == pytest.approx(
            {
                "answer_mse": np.mean(own.astype(np.float64) ** 2),
                "answer_largest": np.abs(own).max(),
            }
        )
    assert [network.latency_ms for network in found.networks] == [None, None]


def test_the_text_and_the_plain_values_say_the_same(two_layers):
    _, folder, x = two_layers
    found = kc.compare(
        folder / "float.tflite", folder / "int8.tflite", data=x, names=["float", "int8"], runs=3
    )
    text = str(found)
    assert text.startswith("50 rows; agreement and differences are from float:\n")
    worst = found.layers["int8"][0]
    assert f"│ {worst.own_db:9.1f} │ {worst.sqnr_db:6.1f} │" in text
    assert f"│ {found.networks[1].bytes:,} │" in text
    assert max(map(len, text.splitlines())) <= 100
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["networks"][1]["bytes"] == found.networks[1].bytes
    assert plain["layers"]["int8"][0] == {
        **dataclasses.asdict(worst), "layers": list(worst.layers)
    }  # fmt: skip


def test_files_that_do_not_fit_layer_by_layer_get_a_note(two_layers):
    _, folder, x = two_layers
    files = [folder / name for name in ("int8.tflite", "float.tflite")]
    found = kc.compare(*files, data=x, runs=0)
    assert found.layers == {}
    assert "`reference` must be a float file" in found.notes[0]
    assert found.notes[0] in str(found)
    found = kc.compare(*files, data=x, runs=0, layer_rows=0)
    assert (found.layers, found.notes) == ({}, [])


@pytest.mark.by_turns
def test_a_network_that_is_equal_is_said_to_be(two_layers):
    _, folder, x = two_layers
    data = (folder / "float.tflite").read_bytes()
    text = str(kc.compare(folder / "float.tflite", data, data=x, runs=0))
    assert (
        "bytes is equal to float.tflite: all 2 layers compute the same numbers, and so are its"
        in text
    )
    assert "inf" not in text
    data = (folder / "int8.tflite").read_bytes()
    text = str(kc.compare(folder / "int8.tflite", data, data=x, runs=0, rounds=0))
    assert "bytes is equal to int8.tflite: all its answers are the same numbers" in text
    text = str(kc.compare(folder / "float.tflite", data, data=x, runs=0, rounds=0))
    assert "equal to" not in text


def test_equal_is_said_only_where_all_is():
    """Answers to rows that no layer saw; files without a layer in common; NaN in one of two."""

    def text(difference, layers):
        networks = [
            ComparedNetwork(name, {}, None, largest, 0.0, 1, 1, None)
            for name, largest in (("first", 0.0), ("other", difference))
        ]
        return str(Comparison(9, networks, {"other": layers}, [], 5))

    layer = LayerSignal(("dense",), "FULLY_CONNECTED", "dense", math.inf, math.inf)
    assert "other is equal to first: all 1 layers" in text(0.0, [layer])
    assert "equal to" not in text(0.5, [layer])
    assert "equal to" not in text(0.5, [])
    assert "equal to" not in text(math.nan, [layer])
    assert "other is equal to first: all its answers are the same" in text(0.0, [])


@pytest.mark.by_turns
def test_nan_in_the_second_output_is_no_equality(two_layers):
    _, folder, x = two_layers
    wrong = unpack((folder / "float.tflite").read_bytes(), "test")
    tensors = wrong.subgraphs[0].tensors
    (kernel,) = (tensor for tensor in tensors if list(tensor.shape) == [3, 8])
    wrong.buffers[kernel.buffer].data = np.full(24, np.nan, "<f4").view(np.uint8)
    found = kc.compare(
        folder / "float.tflite", pack(wrong, 9999), data=x, runs=0, rounds=0, layer_rows=0
    )
    assert math.isnan(found.networks[1].largest_difference)
    assert "equal to" not in str(found)


def test_a_detector_s_graph_beside_its_file(tmp_path):
    graph, _ = tf1_graphs.detector(tmp_path / "ssd.pb", rounds=False)
    export = kc.Export(tmp_path / "ssd.tflite", mode="float32")
    kc.export_tflite(graph, export)
    x = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype("float32")
    with pytest.raises(ValueError, match="must be files of its heads") as caught:
        kc.compare(graph, export.path, data=x)
    (heads,) = re.findall(r"outputs=(\[.*?\])\)", str(caught.value))
    kc.export_tflite(graph, export, outputs=ast.literal_eval(heads))  # as the error says
    found = kc.compare(graph, export.path, data=x, runs=0, rounds=0)
    assert found.networks[1].largest_difference < 1e-5


def test_detections_that_do_not_count_are_no_difference(tmp_path):
    """Where the op writes nothing anything may stand; and no argmax of a box is a decision."""
    graph, _ = tf1_graphs.detector(tmp_path / "ssd.pb", rounds=False, nms_score_threshold=0.6)
    export = kc.Export(tmp_path / "ssd.tflite", mode="float32")
    kc.export_tflite(graph, export)
    x = np.random.default_rng(0).uniform(-1, 1, (9, 16, 16, 3)).astype("float32")
    found = kc.compare(export.path, export.path, data=x, runs=0, rounds=0)
    assert found.networks[1].agreement is None
    assert "detections are compared place by place" in found.notes[0]

    raw = {
        tf1_graphs.OUTPUTS[0]: np.arange(16.0).reshape(2, 2, 4),
        tf1_graphs.OUTPUTS[1]: np.float32([[1, np.nan], [2, 3]]),
        tf1_graphs.OUTPUTS[2]: np.float32([[0.9, 7], [0.8, 0.7]]),
        tf1_graphs.OUTPUTS[3]: np.float32([1, 2]),
    }
    file = types.SimpleNamespace(answers=lambda columns: dict(raw))
    boxes, classes, scores, number = counted(file, {}).values()
    assert boxes.tolist()[0] == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert boxes.tolist()[1] == raw[tf1_graphs.OUTPUTS[0]].tolist()[1]
    assert classes.tolist() == [[1, 0], [2, 3]]
    assert scores.tolist() == np.float32([[0.9, 0], [0.8, 0.7]]).tolist()
    assert number.tolist() == [1, 2]


@pytest.mark.parametrize("order", list(itertools.permutations(("alone", "float", "int8"))))
def test_the_network_that_differs_is_named_whatever_the_order(two_layers, order):
    _, folder, x = two_layers
    with pytest.raises(ValueError, match="must have the same outputs, ") as caught:
        kc.compare(*(folder / f"{name}.tflite" for name in order), data=x, runs=0)
    assert str(caught.value).endswith("Received: 'alone.tflite' with ['answer']")


@pytest.mark.by_turns
def test_of_two_networks_that_differ_both_are_named(two_layers, keras):
    _, folder, x = two_layers
    with pytest.raises(ValueError, match=r"same outputs\. Received: 'alone") as caught:
        kc.compare(folder / "alone.tflite", folder / "float.tflite", data=x)
    assert "'float.tflite' with ['" in str(caught.value)
    given = keras.Input((6,), name="given")
    wide = keras.Model(given, keras.layers.Dense(4, name="answer")(given))
    message = r"the same shape of the output 'answer', \(3,\). Received: 'wide' with \(4,\)"
    alone = folder / "alone.tflite"
    with pytest.raises(ValueError, match=message):
        kc.compare(wide, alone, alone, data=x, names=["wide", "one", "other"], runs=0, rounds=0)


@pytest.mark.by_turns
def test_a_frozen_graph_a_model_and_a_file_of_them(tmp_path, keras):
    """The three-way table of TF1's tutorials: size, accuracy, time."""
    graph = tf1_graphs.classifier(tmp_path / "net.pb", symmetric=True)
    x = np.random.default_rng(0).uniform(-2, 2, (30, 16, 16, 3)).astype("float32")
    export = kc.Export(tmp_path / "net.tflite", quantized_input_stats=(128, 64))
    kc.export_tflite(graph, export)
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(5, activation="softmax"))
    answers = tf1_graphs.answers(graph, {"input": x}, ["softmax"])[0]
    y = answers.argmax(-1)
    found = kc.compare(graph, model, tmp_path / "net.tflite", data=x, labels=y, runs=0)
    names = [network.name for network in found.networks]
    assert names == ["net.pb (float)", "net.pb (fake-quantized)", model.name, "net.tflite"]
    real, fake, other, file = found.networks
    assert fake.metrics == {"accuracy": 1.0}  # it is what TensorFlow computes
    assert file.metrics["accuracy"] > 0.9
    assert file.largest_difference < 0.05 < other.largest_difference
    assert [network.given_bytes for network in found.networks] == [
        graph.stat().st_size, graph.stat().st_size, None, (tmp_path / "net.tflite").stat().st_size
    ]  # fmt: skip
    assert found.rounds == 10
    assert all(network.seconds > 0 for network in found.networks)
    assert real.bytes > file.bytes
    text = str(found)
    assert "10 times all rows, files by LiteRT, models and graphs by TensorFlow:" in text
    assert f"{graph.stat().st_size:,}" in text


def test_the_rounds_go_in_turns():
    calls = []

    def network(name):
        def answer(columns):
            calls.append((name, *columns))
            return {}

        return types.SimpleNamespace(answer=answer)

    networks, given = [network("a"), network("b")], [{"x": 1}, {"y": 2}]
    seconds, done = compare_module._timed(networks, given, 3)
    assert calls == [("a", "x"), ("b", "y")] * 3
    assert all(each > 0 for each in seconds)
    assert done == 3
    assert compare_module._timed(networks, given, 0) == ([None, None], 0)
    assert len(calls) == 6


def test_unasked_the_rounds_are_those_that_a_minute_has_room_for(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(compare_module.time, "perf_counter", lambda: clock[0])

    def taking(seconds):
        def answer(columns):
            clock[0] += seconds
            return {}

        return [types.SimpleNamespace(answer=answer)] * 2

    assert compare_module._timed(taking(1), [{}, {}], None) == ([10.0, 10.0], 10)
    assert compare_module._timed(taking(7), [{}, {}], None) == ([28.0, 28.0], 4)
    assert compare_module._timed(taking(100), [{}, {}], None) == ([100.0, 100.0], 1)
    assert compare_module._timed(taking(7), [{}, {}], 6) == ([42.0, 42.0], 6)


def test_comparing_files_loads_no_framework(two_layers):
    _, folder, x = two_layers
    np.save(folder / "x.npy", x)
    program = (
        "import sys, numpy, keras_compress as kc\n"
        "files = 'float.tflite', 'int8.tflite'\n"
        "print(len(kc.compare(*files, data=numpy.load('x.npy')).layers['int8.tflite']))\n"
        "print({'tensorflow', 'keras', 'tf_keras'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, check=True, capture_output=True, text=True
    )
    assert done.stdout == "2\nset()\n"


BAD = [
    ({"networks": ["float.tflite"]}, ValueError, "`networks` must be two or more"),
    ({"networks": ["float.tflite", "none.tflite"]}, FileNotFoundError, "none.tflite"),
    (
        {"networks": ["float.tflite", 3]},
        TypeError,
        "compare: the model must be a Keras 3 or tf_keras model",
    ),
    ({"networks": ["float.tflite", "alone.tflite"]}, ValueError, "must have the same outputs"),
    ({"data": {"taken": np.zeros((2, 6))}}, ValueError, r"an array for the input 'given'"),
    ({"data": np.zeros((2, 5))}, ValueError, "must have the shape"),
    ({"data": np.zeros((0, 6))}, ValueError, "`data` must be arrays with at least one row"),
    ({"names": ["one"]}, ValueError, "`names` must be 2 names. Received: names="),
    ({"labels": [1, 2, 3]}, ValueError, "`y` must be an array for each of the outputs"),
    ({"labels": {"answer": np.zeros((50, 3))}, "metric": "f1"}, ValueError, "'accuracy'"),
    ({"layer_rows": -1}, ValueError, "`layer_rows` must be an int >= 0"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), BAD)
def test_bad_input_is_refused(two_layers, monkeypatch, wrong, kind, message):
    _, folder, x = two_layers
    monkeypatch.chdir(folder)
    arguments = {"networks": ["float.tflite", "int8.tflite"], "data": x, "runs": 0, **wrong}
    with pytest.raises(kind, match=message):
        kc.compare(*arguments.pop("networks"), **arguments)
