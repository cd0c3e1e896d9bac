"""The `.tflite` file as the flatbuffer it is: read, checked and given the model's own names.

`ai_edge_litert.schema_py_generated` is the schema library; nothing here loads TensorFlow.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from keras_compress._shared.checks import type_error, value_error
from keras_compress._shared.tensor_names import INNER
from keras_compress.tflite.file.schema import Integers, ModelT, TensorMapT, TensorT, Text

IDENTIFIER = b"TFL3"
SIGNATURE = "serving_default"


def read_bytes(source: str | os.PathLike[str] | bytes, owner: str) -> bytes:
    """The bytes of a TFLite file given as path or as bytes.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: it is neither a path nor bytes.
        ValueError: it is no file, or these bytes are no TFLite file.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif not isinstance(source, str | os.PathLike):
        raise type_error(owner, "source", source, "the path of a TFLite file, or its bytes")
    elif os.path.exists(source) and not os.path.isfile(source):
        raise value_error(owner, "source", os.fspath(source), "a file, not a folder or device")
    else:
        with open(source, "rb") as file:
            # Not all of it at once: what is no such file may be very large.
            data = file.read(8)
            if data[4:8] == IDENTIFIER:
                data += file.read()
    if data[4:8] != IDENTIFIER:
        raise ValueError(
            f"{owner}: `source` must be a TFLite file (its bytes 4 to 8 are 'TFL3'). "
            f"Received: source={described(source)}"
        )
    return data


def described(source: str | os.PathLike[str] | bytes) -> str:
    """A source as errors quote it: the path, or how many bytes."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes"
    return repr(os.fspath(source))


def unpack(data: bytes, owner: str) -> ModelT:
    """The schema library's `ModelT` of these bytes.

    Raises:
        ValueError: the file is cut off or damaged.
    """
    from ai_edge_litert import schema_py_generated as schema

    with refusing_damage(data, owner):
        model: ModelT = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        if not model.subgraphs or model.operatorCodes is None:
            raise ValueError("no graph")
    return model


@contextlib.contextmanager
def refusing_damage(data: bytes, owner: str) -> Iterator[None]:
    """Within it, whatever a bad number in the file leads to is one ValueError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"{owner}: `source` must be a whole TFLite file, not cut off or damaged. "
            f"Received: source={len(data)} bytes ({type(error).__name__}: {error})"
        ) from error


def pack(model: ModelT, size: int) -> bytes:
    """The file of a `ModelT`; `size` is about how many bytes it will have."""
    import flatbuffers

    builder = flatbuffers.Builder(size + 4096)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def text(value: Text) -> str:
    """A name of the schema library, which gives bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else (value or "")


def is_stored(model: ModelT, tensor: TensorT) -> bool:
    """Whether the numbers of a tensor stand in the file; else they are computed."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def scale_of(tensor: TensorT) -> tuple[float, int] | None:
    """(scale, zero point) of a tensor that has one for all of it."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
        return None
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def end_names(model: ModelT) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs of a `ModelT`, in the file's order.

    They are the signature's where there is one (another converter leaves tensor names like
    `serving_default_x:0`), else the tensors' own.
    """
    graph = model.subgraphs[0]
    signature = next((s for s in model.signatureDefs or [] if s.subgraphIndex == 0), None)

    def names(ends: Integers, maps: Sequence[TensorMapT] | None) -> list[str]:
        free = [(entry.tensorIndex, text(entry.name)) for entry in maps or []]
        found = []
        for index in ends:
            named = next((pair for pair in free if pair[0] == index), None)
            if named is None:
                found.append(text(graph.tensors[index].name))
            else:
                free.remove(named)  # two outputs may share one tensor
                found.append(named[1])
        return found

    return (
        names(graph.inputs, None if signature is None else signature.inputs),
        names(graph.outputs, None if signature is None else signature.outputs),
    )


def custom_ops(model: ModelT) -> list[str]:
    """Names of the ops that TFLite does not know, and whoever runs the file has to bring."""
    return sorted({text(code.customCode) for code in model.operatorCodes if code.customCode})


def undefined_tensors(model: ModelT) -> list[str]:
    """Names of tensors that some op reads and nothing defines: such a file cannot run.

    The converter leaves one behind when an input of the model goes through two fake-quant ops.
    """
    graph = model.subgraphs[0]
    defined = {-1, *map(int, graph.inputs)}
    missing = []
    for operator in graph.operators or []:
        for index in () if operator.inputs is None else map(int, operator.inputs):
            tensor = graph.tensors[index]
            if index not in defined and not is_stored(model, tensor) and not tensor.isVariable:
                missing.append(text(tensor.name))
        defined.update(() if operator.outputs is None else map(int, operator.outputs))
    return missing


def name_ends(model: ModelT, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Renames inputs and outputs, in the file's order, and adds the signature with these names.

    A tensor that is two ends at once (an input passed through, one tensor as two outputs) can bear
    one name only, the first; the signature names it rightly every time. An inner tensor that
    already has one of the names gets `_inner` appended.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    ends: dict[int, str] = {}
    for index, name in [
        *zip(graph.inputs, inputs, strict=True),
        *zip(graph.outputs, outputs, strict=True),
    ]:
        ends.setdefault(int(index), name)
    taken = set(ends.values())
    for index, tensor in enumerate(graph.tensors):
        if index in ends:
            tensor.name = ends[index]
        elif text(tensor.name) in taken:
            tensor.name = text(tensor.name) + INNER

    def maps(names: Sequence[str], indices: Integers) -> list[TensorMapT]:
        return [
            schema.TensorMapT(name=name, tensorIndex=int(index))
            for name, index in zip(names, indices, strict=True)
        ]

    model.signatureDefs = [
        schema.SignatureDefT(
            inputs=maps(inputs, graph.inputs),
            outputs=maps(outputs, graph.outputs),
            signatureKey=SIGNATURE,
            subgraphIndex=0,
        )
    ]


def drop_waste(model: ModelT) -> None:
    """Leave out what the converter writes and no runtime reads: an empty buffer for each tensor
    that is computed (by the schema, number 0 is everybody's), the extremes of what has scales, and
    the converter's own version, which stands in the record.
    """
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            # A variable's empty buffer is its own: LiteRT tells variables apart by it.
            if not is_stored(model, tensor) and not tensor.isVariable:
                tensor.buffer = 0
            quantization = tensor.quantization
            if quantization is not None and quantization.scale is not None:
                quantization.min = quantization.max = None
    model.metadata = [m for m in model.metadata or [] if text(m.name) != "CONVERSION_METADATA"]
    entries = [*(t for graph in model.subgraphs for t in graph.tensors), *model.metadata]
    used = sorted({0, *(entry.buffer for entry in entries)})
    places = {old: new for new, old in enumerate(used)}
    model.buffers = [model.buffers[old] for old in used]
    for entry in entries:
        entry.buffer = places[entry.buffer]
