"""Real numbers for what computes in float and was given integers.

Where a layer that stays in float multiplies batches of rows with one kernel (`tf.matmul` of three
axes and two, as in `EinsumDense` and attention), the converter leaves out the DEQUANTIZE before
it: the op then reads int8 beside a float kernel, and LiteRT refuses the file.
"""

from __future__ import annotations

from keras_compress.tflite.file.flatbuffer import text
from keras_compress.tflite.file.inspect import op_name
from keras_compress.tflite.file.schema import ModelT, OperatorT, SubGraphT

WITH_KERNELS = ("FULLY_CONNECTED", "BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D")


def dequantize_for_float_kernels(model: ModelT) -> None:
    """Put a DEQUANTIZE before each op of a `ModelT` that has a float kernel and reads int8."""
    for graph in model.subgraphs:
        given: dict[int, int] = {}
        operators: list[OperatorT] = []
        for operator in graph.operators or []:
            if _mixes(model, graph, operator):
                index = int(operator.inputs[0])
                if index not in given:
                    operators.append(_dequantize(model, graph, index))
                    given[index] = int(operators[-1].outputs[0])
                operator.inputs = [given[index], *operator.inputs[1:]]
            operators.append(operator)
        graph.operators = operators


def _mixes(model: ModelT, graph: SubGraphT, operator: OperatorT) -> bool:
    from ai_edge_litert.schema_py_generated import TensorType

    if op_name(model.operatorCodes[operator.opcodeIndex]) not in WITH_KERNELS:
        return False
    rows, kernel = (graph.tensors[int(index)].type for index in operator.inputs[:2])
    return bool(rows == TensorType.INT8 and kernel == TensorType.FLOAT32)


def _dequantize(model: ModelT, graph: SubGraphT, index: int) -> OperatorT:
    """A DEQUANTIZE of a tensor, with a tensor for what it gives."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = graph.tensors[index]
    graph.tensors.append(
        schema.TensorT(
            name=f"{text(tensor.name)}_real",
            type=schema.TensorType.FLOAT32,
            shape=tensor.shape,
            shapeSignature=tensor.shapeSignature,
        )
    )
    operator: OperatorT = schema.OperatorT(
        opcodeIndex=_code(model), inputs=[index], outputs=[len(graph.tensors) - 1]
    )
    return operator


def _code(model: ModelT) -> int:
    """Where DEQUANTIZE stands among the kinds of ops of a `ModelT`."""
    from ai_edge_litert import schema_py_generated as schema

    for position, code in enumerate(model.operatorCodes):
        if op_name(code) == "DEQUANTIZE":
            return position
    number = schema.BuiltinOperator.DEQUANTIZE
    model.operatorCodes.append(
        # Of int8: 2, by the converter's own table of versions.
        schema.OperatorCodeT(builtinCode=number, deprecatedBuiltinCode=number, version=2)
    )
    return len(model.operatorCodes) - 1
