"""8 bits for the kernels that the converter leaves in float in mode "dynamic", as they are small.

It passes over constants of fewer than 1,024 numbers, which in a small net are a good part of the
file. They are rounded here as it rounds the others: symmetrically, by output channel.
"""

from __future__ import annotations

import collections

import numpy as np

from keras_compress.tflite.file.flatbuffer import is_stored
from keras_compress.tflite.file.inspect import op_name
from keras_compress.tflite.file.schema import ModelT, TensorT

KERNELS = {"CONV_2D": (0, 5), "DEPTHWISE_CONV_2D": (3, 6), "FULLY_CONNECTED": (0, 12)}
"""Op -> the channel axis of its kernel, and the version of the op that takes float activations with
such a kernel, as the converter writes it.
"""


def quantize_small_kernels(model: ModelT, per_channel_dense: bool = True) -> None:
    """Give the float kernels of a `ModelT` of mode "dynamic" int8 too; `per_channel_dense`: those
    of dense layers one scale for each unit.
    """
    from ai_edge_litert import schema_py_generated as schema

    for graph in model.subgraphs:
        readers = collections.Counter(int(i) for op in graph.operators or [] for i in op.inputs)
        for operator in graph.operators or []:
            code = model.operatorCodes[operator.opcodeIndex]
            name = op_name(code)
            if name not in KERNELS:
                continue
            axis, version = KERNELS[name]
            index = int(operator.inputs[1])
            kernel = graph.tensors[index]
            real = kernel.type == schema.TensorType.FLOAT32
            # What another op reads as well has to stay what that one takes it for.
            if not real or not is_stored(model, kernel) or readers[index] > 1:
                continue
            numbers = (
                np.asarray(model.buffers[kernel.buffer].data, np.uint8)
                .view(np.float32)
                .reshape(tuple(kernel.shape))
            )
            dense = name == "FULLY_CONNECTED"
            _quantize(model, kernel, numbers, axis, by_channel=per_channel_dense or not dense)
            code.version = max(code.version, version)
            if dense:
                operator.builtinOptions.asymmetricQuantizeInputs = True


def _quantize(
    model: ModelT, kernel: TensorT, numbers: np.ndarray, axis: int, by_channel: bool
) -> None:
    from ai_edge_litert import schema_py_generated as schema

    others = tuple(i for i in range(numbers.ndim) if not (by_channel and i == axis))
    scales = np.abs(numbers).max(axis=others, keepdims=True) / np.float32(127)
    scales[scales == 0] = 1.0  # nothing but zeros still needs a scale
    kernel.type = schema.TensorType.INT8
    kernel.buffer = len(model.buffers)
    model.buffers.append(
        schema.BufferT(data=np.round(numbers / scales).astype(np.int8).view(np.uint8).ravel())
    )
    kernel.quantization = schema.QuantizationParametersT(
        scale=scales.ravel().astype(np.float32),
        zeroPoint=np.zeros(scales.size, np.int64),
        quantizedDimension=axis,
    )
