"""The op that makes detections, put behind the two outputs of a file.

It is put there by the schema library: TensorFlow has no such op to convert, and its own way (a
function marked as `TFLite_Detection_PostProcess` that the converter fuses) takes a SavedModel and
cannot be told to keep the ranges of a quantized network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_compress.specs.detection import OP, OUTPUTS, DetectionPostProcess
from keras_compress.tflite.file.flatbuffer import end_names, name_ends, pack, unpack


def with_detections(data: bytes, boxes: str, scores: str, op: DetectionPostProcess) -> bytes:
    """A file of two float32 outputs, as one of the four of TFLite_Detection_PostProcess.

    What the file computed it computes still, op for op; the two outputs are inner tensors then, by
    their names.

    Args:
        data: the file, whose outputs are float32 and have these names.
        boxes: [1, N, 4], as `DetectionPostProcess` describes them.
        scores: [1, N, classes], likewise.
        op: its attributes, and the N anchors.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = unpack(data, "with_detections")
    graph = model.subgraphs[0]
    inputs, outputs = end_names(model)
    places = dict(zip(outputs, map(int, graph.outputs), strict=True))

    def added(name: str, shape: Sequence[int], buffer: int = 0) -> int:
        graph.tensors.append(
            schema.TensorT(name=name, shape=list(shape), type=schema.TensorType.FLOAT32)
        )
        graph.tensors[-1].buffer = buffer
        return len(graph.tensors) - 1

    anchors = np.asarray(op.anchors, "<f4")
    model.buffers.append(schema.BufferT(data=np.frombuffer(anchors.tobytes(), np.uint8)))
    given = added("anchors", anchors.shape, len(model.buffers) - 1)
    number = op.max_detections * op.max_classes_per_detection
    shapes = ((1, number, 4), (1, number), (1, number), (1,))
    results = [added(name, shape) for name, shape in zip(OUTPUTS, shapes, strict=True)]
    columns = int(graph.tensors[places[scores]].shape[2])
    code = schema.BuiltinOperator.CUSTOM
    model.operatorCodes = [
        *model.operatorCodes,
        schema.OperatorCodeT(
            builtinCode=code, deprecatedBuiltinCode=code, customCode=OP, version=1
        ),
    ]
    graph.operators = [
        *(graph.operators or []),
        schema.OperatorT(
            opcodeIndex=len(model.operatorCodes) - 1,
            inputs=[places[boxes], places[scores], given],
            outputs=results,
            customOptions=list(_options(op, columns)),
        ),
    ]
    graph.outputs = results
    name_ends(model, inputs, OUTPUTS)
    return pack(model, len(data) + anchors.nbytes)


def _options(op: DetectionPostProcess, columns: int) -> bytes:
    """The attributes as the kernel reads them: a map in FlatBuffers' format without a schema."""
    from flatbuffers import flexbuffers

    builder = flexbuffers.Builder()
    with builder.Map():
        for name, value in op.options(columns).items():
            builder.Key(name)
            if isinstance(value, bool):
                builder.Bool(value)
            elif isinstance(value, int):
                builder.Int(value)
            else:
                builder.Float(value, 4)
    return bytes(builder.Finish())
