"""What the worker does with a job: a graph and its weights become the bytes of a file.

The job's folder holds `job.json`, `graph.pb`, one `capture_N.npy` for each weight and, for
calibration, one `sample_N.npz` for each batch; `convert.py` writes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_compress.ranges import stats_of_range
from keras_compress.tflite.conversion.graph_defs import node_of, remove_nodes
from keras_compress.tflite.file.ends import change_ends
from keras_compress.tflite.file.flatbuffer import (
    drop_waste,
    is_stored,
    name_ends,
    pack,
    undefined_tensors,
    unpack,
)
from keras_compress.tflite.file.float_inputs import dequantize_for_float_kernels
from keras_compress.tflite.file.schema import TensorT
from keras_compress.tflite.file.small_kernels import quantize_small_kernels

if TYPE_CHECKING:
    import tensorflow as tf

Job = dict[str, Any]


def convert_job(folder: Path, job: Job, progress: Callable[[int], None]) -> bytes:
    """Converts what the parent wrote into a job's folder.

    `progress` is told how many batches have been calibrated on.
    """
    function, weights = _rebuilt(folder, job)
    graph_def = frozen(function)
    del weights  # a function does not keep its variables alive
    if job["asymmetric"]:
        data = _in_uint8(function, graph_def, job)
        model = unpack(data, "worker")
        change_ends(model, job["input_type"], job["output_type"])
    else:
        data = _converted(function, graph_def, folder, job, progress)
        model = unpack(data, "worker")
    if job["mode"] == "dynamic":
        quantize_small_kernels(model, job["per_channel_dense"])
    dequantize_for_float_kernels(model)
    missing = undefined_tensors(model)
    if missing:
        raise RuntimeError(f"the file would read the tensor {missing[0]!r}, which nothing defines")
    name_ends(
        model,
        [end["name"] for end in job["inputs"]],
        [end["name"] for end in job["outputs"]],
    )
    drop_waste(model)
    return pack(model, len(data))


def _converted(
    function: tf.types.experimental.ConcreteFunction,
    graph_def: tf.compat.v1.GraphDef,
    folder: Path,
    job: Job,
    progress: Callable[[int], None],
) -> bytes:
    """What today's converter makes of a function whose frozen graph is given."""
    import tensorflow as tf
    from tensorflow.lite.python import lite

    # Private: without it the converter's errors name lines of Python, not the layer's op. If it
    # is gone, they do so again and nothing else changes (a test would notice).
    lite._get_debug_info = lambda *_: None
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    # Private: it would freeze the graph by itself, and make a function of it, which copies all
    # weights many times over: more than half of the time that a large network takes. The function
    # would be for Grappler, which has nothing to do here. A canary test tells when it moves.
    converter._freeze_concrete_function = lambda: (graph_def, *_ends(function, job), None)
    converter.allow_custom_ops = job["allow_custom_ops"]
    # Private, as it is called experimental; a test of the file would notice.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = not job[
        "per_channel_dense"
    ]
    _set_mode(converter, job)
    if job["samples"]:
        converter.representative_dataset = lambda: _samples(folder, job, progress)
    elif job["default_range"] and not job["quantized"]:
        converter.representative_dataset = lambda: [_nothing(job)]  # its ranges are not used
    # This way in keeps a fake-quantized graph integer from end to end, inputs and outputs in the
    # given order; the names, which it does not know, are put in afterwards.
    with _given_ranges(converter, job):
        data: bytes = converter.convert()
    return data


def _ends(
    function: tf.types.experimental.ConcreteFunction, job: Job
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The inputs and outputs of the file in the function's graph."""
    # What is captured comes behind the arguments.
    outputs = [
        function.graph.get_tensor_by_name(f"output_of_file_{position}:0")
        for position in range(len(job["outputs"]))
    ]
    return function.inputs[: len(job["inputs"])], outputs


def _in_uint8(
    function: tf.types.experimental.ConcreteFunction, graph_def: tf.compat.v1.GraphDef, job: Job
) -> bytes:
    """The file that TF1's converter makes of a function that rounds kernels over ranges whose
    middle is not 0.

    Today's gives them a zero point in int8, which no kernel of LiteRT's has: some refuse it, others
    leave it out without a word.
    """
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
    inputs, outputs = (
        [graph.get_tensor_by_name(tensor.name) for tensor in tensors]
        for tensors in _ends(function, job)
    )
    converter = tf.compat.v1.lite.TFLiteConverter(graph_def, inputs, outputs)
    converter.inference_type = tf.uint8
    converter.allow_custom_ops = job["allow_custom_ops"]
    converter.quantized_input_stats = {
        tensor.op.name: (0.0, 1.0) if limits is None else stats_of_range(*limits)
        for tensor, limits in zip(inputs, job["input_ranges"], strict=True)
    }
    if job["default_range"]:
        converter.default_ranges_stats = tuple(job["default_range"])
    data: bytes = converter.convert()
    return data


def _rebuilt(
    folder: Path, job: Job
) -> tuple[tf.types.experimental.ConcreteFunction, list[tf.Variable | np.ndarray]]:
    """The parent's function, with variables of this process, and these."""
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef.FromString((folder / "graph.pb").read_bytes())
    replaced = {capture["node"] for capture in job["captures"]}
    remove_nodes(graph_def, replaced | {node_of(end["tensor"]) for end in job["inputs"]})
    values = []
    for position, capture in enumerate(job["captures"]):
        # NumPy writes what it does not know, as bfloat16, as plain bytes.
        dtype = tf.as_dtype(capture["dtype"])
        value = np.load(folder / f"capture_{position}.npy").view(dtype.as_numpy_dtype)
        values.append(tf.Variable(value, dtype=dtype) if capture["variable"] else value)

    def build(*inputs: tf.Tensor) -> list[tf.Tensor]:
        graph = tf.compat.v1.get_default_graph()
        given = {end["tensor"]: tensor for end, tensor in zip(job["inputs"], inputs, strict=True)}
        for capture, value in zip(job["captures"], values, strict=True):
            node = capture["node"]
            if capture["variable"]:
                given[f"{node}:0"] = graph.capture(value.handle, name=node)
            else:
                given[f"{node}:0"] = tf.constant(value, name=node)
        outputs = tf.graph_util.import_graph_def(
            graph_def,
            input_map=given,
            return_elements=[end["tensor"] for end in job["outputs"]],
            name="",
        )
        for capture, value in zip(job["captures"], values, strict=True):
            if capture["variable"]:
                value.read_value()  # only so does the function know that it has this variable
        return [
            tf.identity(output, f"output_of_file_{position}")
            for position, output in enumerate(outputs)
        ]

    specs = [
        tf.TensorSpec(end["shape"], end["dtype"], name=node_of(end["tensor"]))
        for end in job["inputs"]
    ]
    function = tf.function(build, input_signature=specs, autograph=False)
    return function.get_concrete_function(), values


def frozen(function: tf.types.experimental.ConcreteFunction) -> tf.compat.v1.GraphDef:
    """The graph of a ConcreteFunction as a GraphDef with constants for its variables.

    The two halves of `convert_variables_to_constants_v2`, private, without the third, which makes a
    function of the graph again: it holds all weights six times over, and for long. Loops stay
    loops: the converter wants them so.
    """
    from tensorflow.python.framework import convert_to_constants

    variables = convert_to_constants._FunctionConverterDataInEager(
        func=function, lower_control_flow=False, aggressive_inlining=False
    )
    return convert_to_constants._replace_variables_by_constants(variables)[0]


def _set_mode(converter: tf.lite.TFLiteConverter, job: Job) -> None:
    import tensorflow as tf

    mode = job["mode"]
    optimize = tf.lite.Optimize
    converter.optimizations = [
        *([] if mode == "float32" else [optimize.DEFAULT]),
        *([optimize.EXPERIMENTAL_SPARSITY] if job["sparse"] else []),
    ]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode == "int16x8":
        # The second set lets an op without such a kernel stay in float, where it can be named.
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            tf.lite.OpsSet.TFLITE_BUILTINS,
        ]
        # The new one would calibrate first and then leave it to the old one, which does so again.
        converter.experimental_new_quantizer = False
    if mode in ("int8", "int16x8"):
        converter.inference_input_type = tf.as_dtype(job["input_type"])
        converter.inference_output_type = tf.as_dtype(job["output_type"])


@contextlib.contextmanager
def _given_ranges(converter: tf.lite.TFLiteConverter, job: Job) -> Iterator[None]:
    """Converts with the ranges that the job names, in the place of calibrated or missing ones.

    Private, since the public converter has only TF1's way, which leaves most of a file in float. A
    canary test tells when it moves.
    """
    from tensorflow.lite.python import lite

    if not (job["input_ranges"] or job["default_range"]):
        yield
        return
    quantize, arguments = lite._mlir_quantize, converter._get_base_converter_args

    def quantize_with_ranges(calibrated: bytes, *args: object, **kwargs: object) -> bytes:
        quantized: bytes = quantize(_with_ranges(calibrated, job), *args, **kwargs)
        return quantized

    lite._mlir_quantize = quantize_with_ranges
    if job["quantized"] and job["default_range"]:
        default = tuple(job["default_range"])
        converter._get_base_converter_args = lambda: {
            **arguments(),
            "default_ranges_stats": default,
        }
    try:
        yield
    finally:
        lite._mlir_quantize = quantize


def _with_ranges(calibrated: bytes, job: Job) -> bytes:
    """A calibrated float file with the ranges that the job names."""
    from ai_edge_litert import schema_py_generated as schema

    model = unpack(calibrated, "worker")
    if job["default_range"] and not job["samples"]:
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                real = tensor.type == schema.TensorType.FLOAT32
                if real and not is_stored(model, tensor):
                    _set_range(tensor, *job["default_range"])
    graph = model.subgraphs[0]
    for index, limits in zip(graph.inputs, job["input_ranges"] or [], strict=False):
        if limits is not None:
            _set_range(graph.tensors[index], *limits)
    return pack(model, len(calibrated))


def _set_range(tensor: TensorT, minimum: float, maximum: float) -> None:
    from ai_edge_litert import schema_py_generated as schema

    tensor.quantization = schema.QuantizationParametersT(min=[minimum], max=[maximum])


def _nothing(job: Job) -> list[np.ndarray]:
    return [np.zeros(end["shape"], end["dtype"]) for end in job["inputs"]]


def _samples(folder: Path, job: Job, progress: Callable[[int], None]) -> Iterator[list[np.ndarray]]:
    for position in range(job["samples"]):
        with np.load(folder / f"sample_{position}.npz") as sample:
            yield [sample[f"input_{i}"] for i in range(len(job["inputs"]))]
        progress(position + 1)
