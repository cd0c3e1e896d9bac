"""Frozen graphs as TF1 left them: `tf.contrib.quantize`'s `create_training_graph`, its
`create_eval_graph`, then `freeze_graph`, which leaves a constant and an Identity for each variable.
"""

import numpy as np
import tensorflow as tf

SIZE, CLASSES, PLACES = 16, 3, 4
OP = "TFLite_Detection_PostProcess"
OUTPUTS = [OP, f"{OP}:1", f"{OP}:2", f"{OP}:3"]


class _Maker:
    """The parts of such a graph, with weights drawn by a seed."""

    def __init__(self, symmetric, rounds):
        self._rounds = rounds
        self._draw = np.random.default_rng(0)
        self._symmetric = symmetric

    def variable(self, values, name):
        return tf.identity(tf.constant(np.float32(values), name=name), f"{name}/read")

    def rounded(self, x, low, high, name, narrow=False):
        if not self._rounds:
            return x
        ends = [
            self.variable(end, f"{name}/{which}") for end, which in ((low, "min"), (high, "max"))
        ]
        return tf.quantization.fake_quant_with_min_max_vars(
            x, *ends, narrow_range=narrow, name=f"{name}/FakeQuantWithMinMaxVars"
        )

    def kernel(self, kernel, values, name):
        low, high = values.min(), values.max()
        if self._symmetric:
            high = max(-low, high)
            low = -high
        return self.rounded(kernel, low, high, f"{name}/weights_quant", narrow=True)

    def convolution(
        self, x, filters, name, size=3, stride=1, depthwise=False, relu=True, ends=None
    ):
        """With its batch norm folded into kernel and bias, as these graphs have it."""
        draw, taken = self._draw, x.shape[-1]
        shape = (size, size, taken, 1 if depthwise else filters)
        fans = size * size * (1 if depthwise else taken)
        weights = draw.normal(0.15, 1.0, shape) / np.sqrt(fans)
        gamma, variance = draw.uniform(0.5, 1.5, (2, filters))
        beta, mean = draw.normal(0, 0.3, (2, filters))
        norm = {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": variance}
        norm = {key: self.variable(each, f"{name}/BatchNorm/{key}") for key, each in norm.items()}
        factor = tf.multiply(
            norm["gamma"],
            tf.math.rsqrt(norm["moving_variance"] + 1e-3),
            f"{name}/BatchNorm_Fold/mul",
        )
        bias = tf.subtract(
            norm["beta"], norm["moving_mean"] * factor, f"{name}/BatchNorm_Fold/bias"
        )
        factors = gamma / np.sqrt(variance + 1e-3)
        if depthwise:
            factor, factors = tf.reshape(factor, (taken, 1)), factors.reshape(taken, 1)
        kernel = self.variable(weights, f"{name}/weights")
        folded = tf.multiply(kernel, factor, f"{name}/mul_fold")
        folded = self.kernel(folded, weights * factors, name)
        if depthwise:
            x = tf.nn.depthwise_conv2d(
                x, folded, (1, stride, stride, 1), "SAME", name=f"{name}/conv"
            )
        else:
            x = tf.nn.conv2d(x, folded, stride, "SAME", name=f"{name}/conv")
        x = tf.add(x, bias, f"{name}/add_fold")
        if relu:
            return self.rounded(tf.nn.relu6(x, f"{name}/Relu6"), 0.0, 6.0, f"{name}/act_quant")
        return self.rounded(x, *(ends or (-4.0, 4.2)), f"{name}/act_quant")

    def backbone(self, x):
        x = self.convolution(x, 8, "first", stride=2)
        y = self.convolution(x, 8, "depthwise", depthwise=True)
        y = self.convolution(y, 8, "project", size=1, relu=False)
        x = self.rounded(tf.add(x, y, "block/add"), -3.0, 8.0, "block/add_quant")
        y = self.convolution(x, 8, "expand", size=1)
        return self.rounded(tf.concat([x, y], -1, "concat"), -3.0, 8.0, "concat_quant")

    def dense(self, x, units, name):
        weights = self._draw.normal(0.05, 0.15, (int(x.shape[-1]), units))
        x = tf.matmul(x, self.kernel(self.variable(weights, f"{name}/weights"), weights, name))
        x = tf.nn.bias_add(x, self.variable(self._draw.normal(0, 0.3, units), f"{name}/biases"))
        return self.rounded(x, -1.6, 1.7, f"{name}/act_quant")

    def anchors(self, count):
        centers, sizes = self._draw.uniform(0.2, 0.8, (2, count, 2))
        return np.float32(np.concatenate([centers, sizes / 2], axis=1))


def classifier(path, symmetric=False, head="conv", batch=1, rounds=True):
    """Convolutions, an addition, a concatenation, a softmax; the input is not rounded.

    Inputs and outputs: "input", "softmax".
    """
    make = _Maker(symmetric, rounds)
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (batch, SIZE, SIZE, 3), "input")
        x = tf.nn.avg_pool2d(make.backbone(image), SIZE // 2, 1, "VALID", name="pool")
        x = make.rounded(x, -3.0, 8.0, "pool_quant")
        if head == "conv":
            x = make.convolution(x, 5, "logits", size=1, relu=False, ends=(-2.0, 1.8))
            x = tf.squeeze(x, (1, 2), "flat")
        else:
            x = make.dense(tf.squeeze(x, (1, 2), "flat"), 5, "logits")
        tf.nn.softmax(x, name="softmax")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def detector(path, symmetric=False, rounds=True, **attributes):
    """An SSD's graph, as `export_tflite_ssd_graph` wrote it, with the op behind its heads.

    Input: "normalized_input_image_tensor"; outputs: `OUTPUTS`. Returns the path and the anchors.
    """
    make = _Maker(symmetric, rounds)
    count = (SIZE // PLACES) ** 2
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(
            tf.float32, (1, SIZE, SIZE, 3), "normalized_input_image_tensor"
        )
        x = make.convolution(make.backbone(image), 8, "places", stride=2)
        boxes = make.convolution(x, 4, "BoxPredictor/box", size=1, relu=False)
        tf.reshape(boxes, (1, count, 4), "raw_outputs/box_encodings")
        logits = make.convolution(x, CLASSES + 1, "BoxPredictor/class", size=1, relu=False)
        logits = tf.reshape(logits, (1, count, CLASSES + 1), "logits")
        scores = tf.sigmoid(logits, name="scores")
        scores = make.rounded(scores, 0.0, 255 / 256, "scores_quant")
        tf.identity(scores, "raw_outputs/class_predictions")
        anchors = make.anchors(count)
        tf.constant(anchors, name="anchors")
    graph = graph.as_graph_def()
    node = graph.node.add(name=OP, op=OP)
    node.input.extend(["raw_outputs/box_encodings", "raw_outputs/class_predictions", "anchors"])
    given = {
        "max_detections": 6, "max_classes_per_detection": 1, "detections_per_class": 100,
        "use_regular_nms": False, "num_classes": CLASSES, "nms_score_threshold": 1e-8,
        "nms_iou_threshold": 0.5, "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
        "_output_quantized": True, "_support_output_type_float_in_quantized_op": True,
        **attributes,
    }  # fmt: skip
    for name, value in given.items():
        field = {bool: "b", int: "i", float: "f"}[type(value)]
        setattr(node.attr[name], field, value)
    path.write_bytes(graph.SerializeToString())
    return path, anchors


def answers(path, inputs, outputs):
    """What TensorFlow computes of a graph: name of a node -> numbers, to a list of such.

    Without the op that makes detections, which TensorFlow does not have; rows come one by one, as
    the graph takes them.
    """
    graph_def = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    kept = [node for node in graph_def.node if node.op != OP]
    del graph_def.node[:]
    graph_def.node.extend(kept)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            ((name, rows),) = inputs.items()
            found = [
                session.run([f"{each}:0" for each in outputs], {f"{name}:0": rows[i : i + 1]})
                for i in range(len(rows))
            ]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]
