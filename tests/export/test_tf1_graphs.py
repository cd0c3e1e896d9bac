"""Frozen graphs as TF1's quantization left them, against the graph run by TensorFlow."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from helpers import tf1_graphs
from helpers.tf1_graphs import CLASSES, OP, OUTPUTS

import keras_compress as kc

ROUNDED = [
    f"{layer}/FakeQuantWithMinMaxVars"
    for layer in (
        "first/act_quant", "depthwise/act_quant", "project/act_quant", "block/add_quant",
        "expand/act_quant", "concat_quant", "logits/act_quant",
    )
]  # fmt: skip
PIXELS = np.random.default_rng(5).integers(0, 256, (40, tf1_graphs.SIZE, tf1_graphs.SIZE, 3))
X = ((PIXELS - 128) / 64).astype("float32")
"""What bytes mean with a mean of 128 and a standard deviation of 64."""


def export_of(path, **options):
    options = {"inference_input_type": "uint8", "quantized_input_stats": (128, 64), **options}
    return kc.Export(path, verify_data=X, **options)


def kernel_types(path):
    return {tensor.dtype for tensor in kc.inspect_tflite(path).tensors if tensor.kernel}


@pytest.mark.slow_after(1)
@pytest.mark.sweep_if(when=lambda symmetric, head: symmetric and head == "dense")
@pytest.mark.parametrize(
    ("symmetric", "head"), [(False, "conv"), (True, "conv"), (False, "dense"), (True, "dense")]
)
def test_a_graph_with_fake_quantized_weights(tmp_path, symmetric, head):
    graph = tf1_graphs.classifier(tmp_path / "net.pb", symmetric, head)
    path = tmp_path / "net.tflite"
    names = ["softmax", *ROUNDED]
    report = kc.export_tflite(graph, export_of(path), outputs=names)
    contents = kc.inspect_tflite(path)
    assert contents.all_integer
    assert kernel_types(path) == {"int8" if symmetric else "uint8"}
    if not symmetric:
        kernels = [tensor for tensor in contents.tensors if tensor.kernel]
        assert any(abs(tensor.zero_points[0] - 128) > 10 for tensor in kernels)
    expected = tf1_graphs.answers(graph, {"input": X}, names)
    file = kc.load_tflite(path)
    assert (file.inputs[0].dtype, file.inputs[0].zero_point) == ("uint8", 128)
    found = file.predict(X)
    for name, values in zip(names, expected, strict=True):
        steps = np.abs(found[name] - values) / report.outputs[name]["scale"]
        assert steps.max() <= 2.001
        assert steps.mean() < 0.5
        assert report.largest_steps[name] == pytest.approx(steps.max(), abs=0.01)
    assert report.verified_on == "verify_data"


@pytest.fixture(scope="module")
def asymmetric(tmp_path_factory):
    return tf1_graphs.classifier(tmp_path_factory.mktemp("tf1") / "net.pb")


def test_the_ends_of_a_uint8_file_may_have_any_type(asymmetric, tmp_path):
    found = {}
    for kind in ("uint8", None, "float32"):
        path = tmp_path / f"{kind}.tflite"
        options = {"inference_input_type": kind, "inference_output_type": kind}
        kc.export_tflite(asymmetric, export_of(path, **options))
        file = kc.load_tflite(path)
        ends = (*file.inputs, *file.outputs)
        assert {info.dtype for info in ends} == {kind or "int8"}
        assert [info.name for info in ends] == ["input", "softmax"]
        assert kc.inspect_tflite(path).all_integer
        found[kind] = file.predict(X)
    assert np.array_equal(found["uint8"], found[None])
    assert np.array_equal(found["uint8"], found["float32"])


def test_firmware_has_no_such_kernels(asymmetric, tmp_path, caplog):
    kc.export_tflite(asymmetric, export_of(tmp_path / "net.tflite", c_array=True))
    assert "compute in uint8" in caplog.text
    assert (tmp_path / "net.cc").exists()


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_graph_that_does_not_round_its_input_asks_for_statistics(tmp_path, symmetric):
    graph = tf1_graphs.classifier(tmp_path / "net.pb", symmetric)
    export = export_of(tmp_path / "net.tflite", quantized_input_stats=None)
    with pytest.raises(ValueError, match="`quantized_input_stats` must be given for the input 'in"):
        kc.export_tflite(graph, export)
    assert not (tmp_path / "net.tflite").exists()
    if not symmetric:
        guess = dataclasses.replace(export, default_ranges_stats=(-2, 2))
        report = kc.export_tflite(graph, guess)
        assert report.inputs["input"]["scale"] == pytest.approx(4 / 255)


# --- detectors

HEADS = ("raw_outputs/box_encodings", "raw_outputs/class_predictions")


def overlap(a, b):
    top, left = np.maximum(a[:2], b[:2])
    bottom, right = np.minimum(a[2:], b[2:])
    shared = max(bottom - top, 0) * max(right - left, 0)
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(sizes) - shared)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("rounds", [True, False])
def test_a_detector_with_its_op(tmp_path, rounds):
    graph, anchors = tf1_graphs.detector(tmp_path / "ssd.pb", rounds=rounds)
    path = tmp_path / "ssd.tflite"
    export = export_of(path) if rounds else kc.Export(path, mode="float32", verify_data=X)
    report = kc.export_tflite(graph, export, outputs=OUTPUTS)
    file = kc.load_tflite(path)
    assert [end.name for end in file.outputs] == OUTPUTS
    assert {end.dtype for end in file.outputs} == {"float32"}
    assert file.inputs[0].dtype == ("uint8" if rounds else "float32")
    assert kc.inspect_tflite(path).op_counts[OP] == 1
    # The graph itself, up to the op, which TensorFlow does not have.
    heads = tf1_graphs.answers(graph, {file.inputs[0].name: X}, HEADS)
    assert list(report.largest_steps) == list(HEADS)
    assert max(report.largest_steps.values()) <= (2 if rounds else 1e-4)
    kc.export_tflite(graph, dataclasses.replace(export, path=str(path)), outputs=HEADS)
    given = kc.load_tflite(path).predict(X)
    for name, expected in zip(HEADS, heads, strict=True):
        scale = 8.2 / 255 if name == HEADS[0] else 1 / 256
        assert np.abs(given[name] - expected).max() <= (2 * scale + 1e-6 if rounds else 1e-4)
    for row in range(4):
        boxes, classes, scores, count = (file.predict(X[row : row + 1])[n][0] for n in OUTPUTS)
        # The best of all is the first one, decoded as the graph says.
        encodings, predictions = (given[name][row] for name in HEADS)
        own = predictions[:, 1:]  # without the background
        place, kind = np.unravel_index(own.argmax(), own.shape)
        assert scores[0] == own[place, kind]
        found = np.flatnonzero(own.max(axis=1) == own.max())
        y, x, height, width = anchors[found].T
        ty, tx, th, tw = encodings[found].T
        center = np.stack([ty / 10 * height + y, tx / 10 * width + x])
        half = np.stack([np.exp(th / 5) * height, np.exp(tw / 5) * width]) / 2
        decoded = np.concatenate([center - half, center + half]).T
        assert np.abs(decoded - boxes[0]).max(axis=1).min() < 1e-5
        assert 1 <= count <= 6
        kept = [boxes[i] for i in range(int(count))]
        assert all(overlap(a, b) <= 0.5 for i, a in enumerate(kept) for b in kept[:i])
        assert (np.diff(scores[: int(count)]) <= 0).all()
        assert set(classes[: int(count)]) <= set(range(CLASSES))


def test_what_the_op_is_told_stands_in_the_record(tmp_path):
    graph, anchors = tf1_graphs.detector(
        tmp_path / "ssd.pb", rounds=False, use_regular_nms=True, max_detections=3, y_scale=2.0
    )
    export = kc.Export(tmp_path / "ssd.tflite", mode="float32")
    # A graph may have more that nobody reads.
    graph_def = tf.compat.v1.GraphDef.FromString(graph.read_bytes())
    graph_def.node.add(name="remnant", op="Identity", input=["logits"]).attr["T"].type = 1
    graph.write_bytes(graph_def.SerializeToString())
    assert list(kc.export_tflite(graph, export).outputs) == OUTPUTS
    # One of the four, as some commands have it, stands for all.
    report = kc.export_tflite(graph, export, outputs=[OP])
    assert report.outputs[OP]["shape"] == [1, 3, 4]
    import json

    record = json.loads((tmp_path / "ssd.tflite.json").read_text())
    told = record["report"]["specs"]["export"]["postprocess"]
    assert told["use_regular_nms"] is True
    assert (told["y_scale"], told["x_scale"], told["num_classes"]) == (2, 10, CLASSES)
    np.testing.assert_allclose(told["anchors"], anchors, rtol=1e-6)


def test_what_cannot_be_made_of_a_detector_is_refused(tmp_path):
    graph, anchors = tf1_graphs.detector(tmp_path / "ssd.pb", rounds=False)
    export = kc.Export(tmp_path / "ssd.tflite", mode="float32")
    with pytest.raises(ValueError, match=r"`outputs` must be either those of one TFLite_Detection"):
        kc.export_tflite(graph, export, outputs=[*OUTPUTS, "logits"])
    own = kc.DetectionPostProcess(anchors)
    with pytest.raises(ValueError, match="`postprocess` must be None for a graph with a TFLite_De"):
        kc.export_tflite(graph, dataclasses.replace(export, postprocess=own))
    with pytest.raises(ValueError, match="`batch_size` must be 1 with `postprocess`"):
        kc.export_tflite(graph, dataclasses.replace(export, batch_size=2))
    graph_def = tf.compat.v1.GraphDef.FromString(graph.read_bytes())
    node = next(node for node in graph_def.node if node.op == OP)
    node.input[2] = "raw_outputs/box_encodings"
    graph.write_bytes(graph_def.SerializeToString())
    with pytest.raises(ValueError, match="whose anchors are a constant of the graph"):
        kc.export_tflite(graph, export)
    node.op = "Fancy"
    graph.write_bytes(graph_def.SerializeToString())
    with pytest.raises(ValueError, match=r"`outputs` must be computed by ops that TensorFlow know"):
        kc.export_tflite(graph, export)
    kc.export_tflite(graph, export, outputs=["logits"])  # which needs it not
