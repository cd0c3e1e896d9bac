"""Files that make detections of a detector's heads, against suppression written in NumPy."""

import dataclasses
import re

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.export.detections import check_same_heads
from keras_compress.tflite import ConversionError, TFLiteModel
from keras_compress.tflite.file.detection import with_detections
from keras_compress.tflite.file.flatbuffer import pack, unpack

pytestmark = pytest.mark.by_turns(suite="tf_keras")

BOXES, CLASSES, SCORES, NUMBER = (
    f"TFLite_Detection_PostProcess{suffix}" for suffix in ("", ":1", ":2", ":3")
)
COUNT = 16 * 2 + 4 * 2  # anchors: 2 at each place of 4 x 4 and 2 x 2
GENERATOR = np.random.default_rng(3)
ANCHORS = np.concatenate(
    [GENERATOR.uniform(0.2, 0.8, (COUNT, 2)), GENERATOR.uniform(0.2, 0.5, (COUNT, 2))], axis=1
).astype("float32")
PIXELS = GENERATOR.integers(0, 256, (64, 16, 16, 3))
X = ((PIXELS - 128) / 128).astype("float32")
OP = kc.DetectionPostProcess(ANCHORS, max_detections=25, nms_iou_threshold=0.3)


def detector(keras, classes=3):
    """A small net with an SSD's heads on two scales, random but for a few steps."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = layers.Input((16, 16, 3), name="image")
    fine = layers.Conv2D(8, 3, strides=4, padding="same", activation="relu")(image)
    coarse = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(fine)

    def heads(columns, name):
        parts = [
            layers.Reshape((-1, columns), name=f"{name}_rows{i}")(
                layers.Conv2D(2 * columns, 1, name=f"{name}_conv{i}")(scale)
            )
            for i, scale in enumerate((fine, coarse))
        ]
        return layers.Concatenate(axis=1, name=name)(parts)

    scores = layers.Activation("sigmoid", name="scores")(heads(classes, "logits"))
    model = keras.Model(image, [heads(4, "boxes"), scores])
    model.compile("adam", ["mse", "binary_crossentropy"], jit_compile=False)
    return model


def train(model, *callbacks, epochs=3):
    # Wide apart, so that there are scores of every height and boxes of every size.
    generator = np.random.default_rng(0)
    boxes = generator.normal(0, 4, (64, COUNT, 4)).astype("float32")
    scores = generator.integers(0, 2, (64, COUNT, model.output_shape[1][-1])).astype("float32")
    model.fit(X, [boxes, scores], batch_size=16, epochs=epochs, verbose=0, callbacks=[*callbacks])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("detections")


def quantized_export(path, **options):
    options = {"postprocess": OP, "inference_input_type": "uint8", **options}
    return kc.Export(path, quantized_input_stats=(128, 128), verify_data=X, **options)


@pytest.fixture(scope="module")
def trained(keras, folder):
    """(the model, the report on its file with detections)."""
    model = detector(keras)
    export = quantized_export(folder / "ssd.tflite")
    compress = kc.Compress(quantization=kc.Quantization(delay=0.5), export=export)
    train(model, compress)
    return model, compress.report.export


# --- the reference: what the op is documented to do, in float32 as its kernel


def decoded(encodings, op):
    """(ymin, xmin, ymax, xmax) of box encodings [N, 4]."""
    y, x, h, w = ANCHORS.T
    ty, tx, th, tw = encodings.astype("float64").T
    center_y = (ty / op.y_scale * h + y).astype("float32")
    center_x = (tx / op.x_scale * w + x).astype("float32")
    half_h = (np.exp(th / op.h_scale) * h / 2).astype("float32")
    half_w = (np.exp(tw / op.w_scale) * w / 2).astype("float32")
    corners = [center_y - half_h, center_x - half_w, center_y + half_h, center_x + half_w]
    return np.stack(corners, axis=-1)


def overlap(one, others):
    """Intersection over union of one box with each of the others."""
    low = np.maximum(one[:2], others[:, :2])
    high = np.minimum(one[2:], others[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1, dtype="float32")
    areas = [np.prod(b[..., 2:] - b[..., :2], axis=-1, dtype="float32") for b in (one, others)]
    return common / (areas[0] + areas[1] - common)


def suppressed(boxes, scores, op, most):
    """The places that non-maximum suppression keeps, best first."""
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= op.nms_score_threshold]
    kept = []
    while len(order) and len(kept) < most:
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[overlap(boxes[best], boxes[order]) <= op.nms_iou_threshold]
    return kept


def fast(encodings, scores, op):
    """(box, class, score) of every detection: each box has its best class."""
    boxes = decoded(encodings, op)
    ranked = np.argsort(-scores, axis=-1, kind="stable")[:, : op.max_classes_per_detection]
    return [
        (boxes[place], kind, scores[place, kind])
        for place in suppressed(boxes, scores.max(axis=-1), op, op.max_detections)
        for kind in ranked[place]
    ]


def regular(encodings, scores, op):
    """Likewise, each class by itself."""
    boxes = decoded(encodings, op)
    found = [
        (boxes[place], kind, scores[place, kind])
        for kind in range(scores.shape[-1])
        for place in suppressed(boxes, scores[:, kind], op, op.detections_per_class)
    ]
    return sorted(found, key=lambda each: -each[2])[: op.max_detections]


def check(answers, row, expected, op=OP):
    number = int(answers[NUMBER][row]) * op.max_classes_per_detection
    assert number == len(expected) > 3
    boxes, classes, scores = (np.array([each[i] for each in expected], "float32") for i in range(3))
    np.testing.assert_allclose(answers[SCORES][row, :number], scores, atol=1e-6)
    np.testing.assert_array_equal(answers[CLASSES][row, :number], classes)
    np.testing.assert_allclose(answers[BOXES][row, :number], boxes, rtol=1e-5, atol=1e-6)


# --- the quantized file


def test_the_file_has_the_four_outputs_and_takes_bytes_as_they_are(trained):
    _, report = trained
    assert report.error is None
    file = kc.load_tflite(report.path)
    (image,) = file.inputs
    assert (image.dtype, image.scale, image.zero_point) == ("uint8", 1 / 128, 128)
    assert [(o.name, o.dtype, o.shape) for o in file.outputs] == [
        (BOXES, "float32", (1, 25, 4)),
        (CLASSES, "float32", (1, 25)),
        (SCORES, "float32", (1, 25)),
        (NUMBER, "float32", (1,)),
    ]
    assert list(report.outputs) == [BOXES, CLASSES, SCORES, NUMBER]
    ops = [op.name for op in kc.inspect_tflite(report.path).ops]
    assert ops[-1] == "TFLite_Detection_PostProcess"
    assert ops.count("TFLite_Detection_PostProcess") == 1
    assert report.float_ops == ()  # of the network; behind it all is float
    with open(report.path, "rb") as written:
        assert report.bytes == len(written.read())


def test_what_the_op_is_given_is_verified(trained):
    _, report = trained
    assert set(report.largest_steps) == {"boxes", "scores"}
    assert max(report.largest_steps.values()) <= 2
    assert report.layers
    assert max(layer.largest_steps for layer in report.layers) <= 1
    assert "boxes and scores are what the op is given" in str(report)


def test_its_detections_are_those_of_suppression_in_numpy(trained, folder):
    """Of the heads that the file without the op gives, to the bit."""
    model, report = trained
    raw = quantized_export(folder / "raw.tflite", postprocess=None, inference_output_type="float32")
    kc.export_tflite(model, raw)
    heads = kc.load_tflite(raw.path).predict(X)
    assert heads["boxes"].shape == (64, COUNT, 4)
    answers = kc.load_tflite(report.path).predict(X)
    counts = set()
    for row in range(16):
        check(answers, row, fast(heads["boxes"][row], heads["scores"][row], OP))
        counts.add(int(answers[NUMBER][row]))
    assert len(counts) > 1  # something was suppressed


def test_without_the_op_the_heads_are_integers(trained, folder):
    model, _ = trained
    export = quantized_export(folder / "int8.tflite", postprocess=None)
    report = kc.export_tflite(model, export)
    assert kc.inspect_tflite(export.path).all_integer
    assert list(report.outputs) == ["boxes", "scores"]
    assert report.outputs["boxes"]["dtype"] == "int8"


@pytest.mark.slow
def test_the_head_of_the_boxes_can_be_left_in_float(keras, folder):
    """Then its op's boxes are no multiples of a step; the scores are rounded as before."""
    model = detector(keras)
    spec = kc.Quantization(delay=0.5, layers=lambda layer: not layer.name.startswith("boxes"))
    export = quantized_export(folder / "float_boxes.tflite")
    compress = kc.Compress(quantization=spec, export=export)
    train(model, compress, epochs=1)
    report = compress.report.export
    assert report.error is None
    assert {op.layer for op in report.float_ops if op.op == "CONV_2D"} == {
        "boxes_conv0",
        "boxes_conv1",
    }
    kernels = {t.shape: t.dtype for t in kc.inspect_tflite(report.path).kernels}
    assert kernels[(8, 1, 1, 8)] == "float32"  # of the boxes
    assert kernels[(6, 1, 1, 8)] == "int8"  # of the scores
    answers = kc.load_tflite(report.path).predict(X[:2])
    assert (answers[NUMBER] > 3).all()


# --- what the op can be told


@pytest.fixture(scope="module")
def float_file(keras, folder):
    """(the bytes of a float file without the op, its boxes and scores for some images)."""
    model = detector(keras)
    train(model, epochs=1)
    path = folder / "float.tflite"
    kc.export_tflite(model, kc.Export(path, mode="float32"))
    heads = kc.load_tflite(path).predict(X[:4])
    return path.read_bytes(), heads["boxes"], heads["scores"]


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        pytest.param({"y_scale": 4, "x_scale": 3, "h_scale": 2.5, "w_scale": 6}, fast, id="scales"),
        pytest.param({"nms_score_threshold": 0.55}, fast, id="threshold"),
        pytest.param({"max_classes_per_detection": 2}, fast, id="two-classes-a-box"),
        pytest.param({"num_classes": 2}, fast, id="background"),
        pytest.param({"use_regular_nms": True, "max_detections": 40}, regular, id="regular"),
        pytest.param({"use_regular_nms": True, "detections_per_class": 2}, regular, id="per-class"),
    ],
)
def test_an_attribute_of_the_op_is_the_kernels(float_file, options, reference):
    op = dataclasses.replace(OP, **options)
    raw, boxes, scores = float_file
    answers = TFLiteModel(with_detections(raw, "boxes", "scores", op)).predict(X[:4])
    plain = TFLiteModel(with_detections(raw, "boxes", "scores", OP)).predict(X[:4])
    assert any(not np.array_equal(answers[name], plain[name]) for name in (BOXES, SCORES, NUMBER))
    if op.num_classes == 2:  # the first column is the background
        scores = scores[..., 1:]
    for row in range(4):
        check(answers, row, reference(boxes[row], scores[row], op), op)


def test_a_head_is_found_by_its_name(float_file):
    raw, _, _ = float_file
    op = dataclasses.replace(OP, boxes="boxes", scores="scores")
    shapes = {"scores": (1, COUNT, 3), "boxes": (1, COUNT, 4)}
    assert op.heads(shapes) == ("boxes", "scores")
    assert with_detections(raw, *op.heads(shapes), op) == with_detections(
        raw, "boxes", "scores", OP
    )


# --- what is refused


@pytest.mark.parametrize("rehearse", [True, False], ids=["rehearsed", "not-rehearsed"])
def test_anchors_that_do_not_match_the_heads_are_refused_before_training(keras, folder, rehearse):
    model = detector(keras)
    before = model.get_weights()
    op = kc.DetectionPostProcess(ANCHORS[1:])
    export = quantized_export(folder / "no.tflite", postprocess=op, rehearse=rehearse)
    message = f"`anchors` must be one for each row.*Received: {COUNT - 1} anchors for boxes="
    with pytest.raises(ValueError, match=message):
        train(model, kc.Compress(quantization=kc.Quantization(delay=0.5), export=export))
    assert all(map(np.array_equal, model.get_weights(), before))
    assert not (folder / "no.tflite").exists()


def test_an_image_of_the_wrong_size_is_refused(trained):
    _, report = trained
    message = (
        "input 'image' must have the shape ('rows', 16, 16, 3). Received: image=(1, 20, 16, 3)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        kc.load_tflite(report.path).predict(np.zeros((1, 20, 16, 3)))


def test_heads_that_are_computed_otherwise_behind_the_op_are_found(float_file):
    raw, _, _ = float_file
    rows = [{"image": X[:1]}]
    good = with_detections(raw, "boxes", "scores", OP)
    check_same_heads(raw, good, rows)
    model = unpack(good, "test")
    kernel = next(t for t in model.subgraphs[0].tensors if list(t.shape) == [8, 3, 3, 3])
    buffer = model.buffers[kernel.buffer]
    buffer.data = np.array(buffer.data)
    buffer.data[7] ^= 1
    with pytest.raises(ConversionError, match="it computes 'boxes' otherwise"):
        check_same_heads(raw, pack(model, len(good)), rows)
