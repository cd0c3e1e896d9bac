"""Inputs and outputs of a uint8 file in another type."""

from __future__ import annotations

from keras_compress.tflite.file.schema import ModelT, OperatorT


def change_ends(model: ModelT, input_type: str, output_type: str) -> None:
    """Give the inputs and outputs of a `ModelT` that are uint8 these types: "uint8", "int8" of the
    same real numbers, or "float32". What was an end is an inner tensor then.
    """
    graph = model.subgraphs[0]
    before = [_inserted(model, place, input_type, into=True) for place in range(len(graph.inputs))]
    behind = [
        _inserted(model, place, output_type, into=False) for place in range(len(graph.outputs))
    ]
    operators = [*before, *(graph.operators or []), *behind]
    graph.operators = [operator for operator in operators if operator is not None]


def _inserted(model: ModelT, place: int, wanted: str, *, into: bool) -> OperatorT | None:
    """The op between an end of another type, which becomes the file's, and the one that it had."""
    from ai_edge_litert import schema_py_generated as schema

    types = schema.TensorType
    graph = model.subgraphs[0]
    ends = [int(index) for index in (graph.inputs if into else graph.outputs)]
    inner = graph.tensors[ends[place]]
    quantization = inner.quantization
    if wanted == "uint8" or inner.type != types.UINT8 or quantization is None:
        return None
    end = schema.TensorT(shape=inner.shape, name=inner.name, hasRank=True)
    end.type = {"int8": types.INT8, "float32": types.FLOAT32}[wanted]
    if wanted == "int8":
        end.quantization = schema.QuantizationParametersT(
            scale=quantization.scale, zeroPoint=[int(quantization.zeroPoint[0]) - 128]
        )
    graph.tensors.append(end)
    old, ends[place] = ends[place], len(graph.tensors) - 1
    if into:
        graph.inputs = ends
    else:
        graph.outputs = ends
    kind = "DEQUANTIZE" if wanted == "float32" and not into else "QUANTIZE"
    operator: OperatorT = schema.OperatorT(
        opcodeIndex=_code(model, getattr(schema.BuiltinOperator, kind)),
        inputs=[ends[place] if into else old],
        outputs=[old if into else ends[place]],
    )
    return operator


def _code(model: ModelT, builtin: int) -> int:
    """The place of a new op among the codes of a file."""
    from ai_edge_litert import schema_py_generated as schema

    code = schema.OperatorCodeT(builtinCode=builtin, deprecatedBuiltinCode=builtin, version=1)
    model.operatorCodes = [*model.operatorCodes, code]
    return len(model.operatorCodes) - 1
