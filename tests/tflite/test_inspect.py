"""What `inspect_tflite` reads out of files whose contents are known."""

import json
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from helpers.tflite_files import CONV, DENSE, file_of

from keras_compress.tflite import Conversion, FloatOp, convert, inspect_tflite, zipped_size
from keras_compress.tflite.file.flatbuffer import pack, unpack
from keras_compress.tflite.file.stored import bits_of, index_bytes, numbers_of

fake_quant = tf.quantization.fake_quant_with_min_max_vars

# Two output channels; scales 1/127 and 2/127 (or 1/7 and 2/7), three of the eight weights zero.
KERNEL = np.array([[1.0, 0.0, -1.0, 0.0], [2.0, -2.0, 0.0, 2.0]], "float32").T.reshape(1, 1, 4, 2)


def conv(bits=8, tail=lambda y: y, quantized=True):
    def function(x):
        kernel = tf.constant(KERNEL)
        if quantized:
            x = fake_quant(x, -1.0, 1.0)
            kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(
                kernel, [-1.0, -2.0], [1.0, 2.0], num_bits=bits, narrow_range=True
            )
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
        return {"y": tail(fake_quant(y, -8.0, 8.0) if quantized else y)}

    return tf.function(function).get_concrete_function(tf.TensorSpec((1, 2, 2, 4), name="x"))


def quantized_file(**options):
    ends = options.pop("ends", "int8")
    return convert(
        conv(**options), Conversion("int8", quantized=True, input_type=ends, output_type=ends)
    )


def the_kernel(report):
    (found,) = (t for t in report.tensors if t.constant and t.shape == (2, 1, 1, 4))
    return found


@pytest.mark.parametrize(("bits", "limit", "size"), [(8, 127, 8), (4, 7, 4)])
def test_the_kernel_is_read_as_integers(bits, limit, size):
    report = inspect_tflite(quantized_file(bits=bits))
    kernel = the_kernel(report)
    assert (kernel.dtype, kernel.bits, kernel.bytes) == (f"int{bits}", bits, size)
    assert kernel.scales == pytest.approx((1 / limit, 2 / limit))
    assert kernel.zero_points == (0, 0)
    assert kernel.axis == 0
    assert kernel.zeros == 3 / 8
    expected = np.array([[1, 0, -1, 0], [1, -1, 0, 1]]).reshape(2, 1, 1, 4) * limit
    np.testing.assert_array_equal(report.kernel(kernel.name), expected)


def test_four_bit_numbers_are_unpacked_low_half_first_with_their_sign():
    weights = np.arange(-7, 8, dtype="float32").reshape(15, 1)  # an odd number of elements

    def function(x):
        kernel = fake_quant(tf.constant(weights), -7.0, 7.0, num_bits=4, narrow_range=True)
        return {"y": fake_quant(tf.matmul(fake_quant(x, -1.0, 1.0), kernel), -9.0, 9.0)}

    concrete = tf.function(function).get_concrete_function(tf.TensorSpec((1, 15), name="x"))
    report = inspect_tflite(convert(concrete, Conversion("int8", quantized=True)))
    (kernel,) = (t for t in report.tensors if t.bits == 4)
    np.testing.assert_array_equal(report.kernel(kernel.name), [np.arange(-7, 8)])
    assert kernel.zeros == pytest.approx(1 / 15)


@pytest.mark.parametrize("ends", ["int8", "uint8", "float32"])
def test_the_ends_do_not_count_as_float_ops(ends):
    report = inspect_tflite(quantized_file(ends=ends))
    assert report.all_integer
    assert report.inputs == ("x",)
    assert report.outputs == ("y",)
    assert report.tensor("x").dtype == ends


def test_float_ops_in_the_middle_are_named_with_their_output():
    def tail(y):
        with tf.name_scope("my_elu"):
            return fake_quant(tf.nn.elu(y), -1.0, 8.0)

    report = inspect_tflite(quantized_file(tail=tail))
    assert not report.all_integer
    assert [op.op for op in report.float_ops] == ["DEQUANTIZE", "ELU", "QUANTIZE"]
    assert FloatOp("ELU", "my_elu/Elu") in report.float_ops
    (elu,) = (op for op in report.ops if op.name == "ELU")
    assert elu.inputs == elu.outputs == ("float32",)
    assert report.op_counts == {"CONV_2D": 1, "DEQUANTIZE": 1, "ELU": 1, "QUANTIZE": 1}


def test_a_float_file_is_float_all_over():
    data = convert(conv(quantized=False), Conversion("float32"))
    report = inspect_tflite(data)
    assert [op.op for op in report.float_ops] == ["CONV_2D"]
    kernel = the_kernel(report)
    assert (kernel.bits, kernel.bytes, kernel.scales, kernel.axis) == (32, 32, (), None)
    np.testing.assert_array_equal(report.kernel(kernel.name), KERNEL.transpose(3, 0, 1, 2))


def test_computed_tensors_have_no_bytes_and_no_values():
    report = inspect_tflite(quantized_file())
    y = report.tensor("y")
    assert (y.bytes, y.zeros, y.constant) == (0, None, False)
    assert y.scales == pytest.approx((16 / 255,))
    with pytest.raises(KeyError, match="no constant 'y'"):
        report.kernel("y")
    with pytest.raises(KeyError, match="no tensor 'z'"):
        report.tensor("z")


def test_sizes(tmp_path):
    data = quantized_file()
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    report = inspect_tflite(path)
    assert report.bytes == len(data) == path.stat().st_size
    with zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.write(path, "model.tflite")
    assert report.zipped_bytes == (tmp_path / "zip").stat().st_size
    assert zipped_size(bytes(100_000)) < 500


@pytest.mark.parametrize("damage", ["none", "text", "cut", "empty"])
def test_what_is_no_tflite_file_is_refused(tmp_path, damage):
    data = quantized_file()
    path = tmp_path / "model.tflite"
    path.write_bytes(
        {"none": data, "text": b"# not a model", "cut": data[:200], "empty": b""}[damage]
    )
    if damage == "none":
        assert inspect_tflite(path).ops
        return
    message = "must be a whole TFLite file" if damage == "cut" else "must be a TFLite file"
    with pytest.raises(ValueError, match=f"inspect_tflite: `source` {message}"):
        inspect_tflite(path)


# Of the kernels of `tflite_files`: conv (36 elements, none 0) and dense (1440, about 3 of 5).
KERNELS = {
    "float32": ("float32", 32),
    "sparse": ("float32", 32),
    "float16": ("float16", 16),
    "int8": ("int8", 8),
    "int16x8": ("int8", 8),
}


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_of_every_kind_of_file(kind):
    report = inspect_tflite(file_of(kind))
    dtype, bits = KERNELS[kind]
    conv, dense = sorted(report.kernels, key=lambda kernel: kernel.shape[0])
    assert (conv.shape, dense.shape) == ((4, 3, 3, 1), (10, 144))
    assert {(kernel.dtype, kernel.bits) for kernel in (conv, dense)} == {(dtype, bits)}
    assert dense.zeros >= np.mean(DENSE == 0)
    assert dense.zeros == pytest.approx(np.mean(DENSE == 0), abs=0.01)
    total = (conv.zeros * CONV.size + dense.zeros * DENSE.size) / (CONV.size + DENSE.size)
    assert report.sparsity == pytest.approx(total)
    scale = np.reshape(dense.scales, (-1, 1)) if dense.scales else 1.0
    values = report.kernel(dense.name).astype("float32") * scale
    np.testing.assert_allclose(values, DENSE.T, atol=0.51 * np.max(scale) if dense.scales else 2e-3)
    assert report.all_integer == kind.startswith("int")


def test_a_sparse_kernel_is_counted_with_its_indices():
    dense, sparse = (inspect_tflite(file_of(kind)) for kind in ("float32", "sparse"))
    (kernel,) = (kernel for kernel in sparse.kernels if kernel.sparse)
    stored = 4 * np.count_nonzero(DENSE)
    assert stored < kernel.bytes < 4 * DENSE.size
    assert sparse.bytes < dense.bytes
    assert not any(kernel.sparse for kernel in dense.kernels)
    np.testing.assert_array_equal(sparse.kernel(kernel.name), DENSE.T)


def test_sixteen_bit_activations():
    report = inspect_tflite(file_of("int16x8"))
    assert (report.ops[0].inputs, report.ops[0].outputs) == (("int16", "int8", "int64"), ("int16",))
    x = report.tensor("x")
    assert (x.dtype, x.bits, x.zero_points, x.axis) == ("int16", 16, (0,), None)


def test_a_blocked_sparse_tensor_by_hand():
    """The example of TFLite's sparse format: 4x4, blocks of 2x2, two of four of them stored."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

    def level(size=0, segments=None, indices=None):
        found = schema.DimensionMetadataT(format=int(segments is not None), denseSize=size)
        if segments is not None:
            found.arraySegments = schema.Uint8VectorT(values=np.array(segments, np.uint8))
            found.arrayIndices = schema.Uint8VectorT(values=np.array(indices, np.uint8))
        return found

    sparsity = schema.SparsityParametersT(
        traversalOrder=[0, 1, 2, 3],
        blockMap=[0, 1],
        dimMetadata=[level(2), level(segments=[0, 1, 2], indices=[1, 0]), level(2), level(2)],
    )
    raw = np.arange(1, 9, dtype=np.int8).view(np.uint8)
    expected = [[0, 0, 1, 2], [0, 0, 3, 4], [5, 6, 0, 0], [7, 8, 0, 0]]
    np.testing.assert_array_equal(numbers_of(raw, "int8", (4, 4), sparsity), expected)
    assert index_bytes(sparsity) == 5
    sparsity.dimMetadata[1].arrayIndices.values[0] = 9
    with pytest.raises(IndexError):
        numbers_of(raw, "int8", (4, 4), sparsity)
    with pytest.raises(ValueError, match="reshape"):
        numbers_of(raw, "int8", (4, 4), None)


@pytest.mark.parametrize(
    ("dtype", "raw", "expected"),
    [
        ("int4", [0x21, 0xF8], [1, 2, -8]),
        ("uint4", [0x21, 0xF8], [1, 2, 8]),
        ("int2", [0b11_10_01_00], [0, 1, -2]),
        ("bfloat16", [0x80, 0x3F, 0x00, 0xC0, 0x00, 0x00], [1.0, -2.0, 0.0]),
        ("bool", [1, 0, 1], [1, 0, 1]),
    ],
)
def test_narrow_numbers_by_hand(dtype, raw, expected):
    found = numbers_of(np.array(raw, np.uint8), dtype, (3,), None)
    np.testing.assert_array_equal(found, expected)


def test_kinds_that_are_no_numbers():
    assert numbers_of(np.zeros(8, np.uint8), "string", (2,), None) is None
    assert [bits_of(kind) for kind in ("string", "int4", "bfloat16", "float8_e5m2")] == [
        0,
        4,
        16,
        8,
    ]


# Channel 0 is 127 * [1, 0, -1, 0] and channel 1 is 127 * [1, -1, 0, 1].
@pytest.mark.parametrize(
    ("zero_points", "zeros"),
    [([0, 127], 4 / 8), ([-127, -127], 2 / 8), ([127], 3 / 8), ([], 3 / 8)],
)
def test_zeros_are_what_means_zero(zero_points, zeros):
    data = quantized_file()
    model = unpack(data, "test")
    kernel = next(t for t in model.subgraphs[0].tensors if list(t.shape) == [2, 1, 1, 4])
    kernel.quantization.zeroPoint = np.array(zero_points, np.int64)
    assert the_kernel(inspect_tflite(pack(model, len(data)))).zeros == zeros


def test_the_report_as_text():
    text = str(inspect_tflite(file_of("int8")))
    assert "all ops in integers" in text.splitlines()[0]
    assert "% of the kernels' weights are zeros" in text.splitlines()[0]
    (conv,) = (line for line in text.splitlines() if "CONV_2D" in line)
    assert conv.split("│")[1:-1] == [" CONV_2D         ", " int8 int8 int32 ", " int8  ", "     1 "]
    (x,) = (line for line in text.splitlines() if line.startswith("│ x "))
    assert " in " in x
    assert "1x8x8x1" in x
    assert len([line for line in text.splitlines() if "│ kernel │" in line]) == 2
    assert max(map(len, text.splitlines())) <= 100


def test_the_text_names_float_ops_in_an_integer_file():
    report = inspect_tflite(quantized_file(tail=lambda y: fake_quant(tf.nn.elu(y), -1.0, 8.0)))
    text = str(report)
    assert f"{len(report.float_ops)} of {len(report.ops)} ops in float" in text
    assert "float op" in text
    assert "float op" not in str(inspect_tflite(file_of("float32")))  # there every one is


def test_of_a_large_file_the_largest_tensors_are_shown(monkeypatch):
    monkeypatch.setattr("keras_compress.reports.inspection.TENSORS_SHOWN", 3)
    report = inspect_tflite(file_of("int8"))
    text = str(report)
    assert f"and {len(report.tensors) - 3} smaller tensors" in text
    assert [t.name for t in report.tensors if f"│ {t.name} " in text] == [
        t.name for t in report.tensors if t.name in ("x", "y") or t.bytes == DENSE.size
    ]


@pytest.mark.parametrize("kind", ["int8", "float16", "sparse"])
def test_plain_values_for_json(kind):
    report = inspect_tflite(file_of(kind))
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (found["bytes"], found["zipped_bytes"]) == (report.bytes, report.zipped_bytes)
    assert found["inputs"] == ["x"]
    assert found["op_counts"] == report.op_counts
    assert found["sparsity"] == report.sparsity
    assert len(found["float_ops"]) == len(report.float_ops)
    for plain, tensor in zip(found["tensors"], report.tensors, strict=True):
        assert (plain["name"], plain["bits"], plain["zeros"]) == (
            tensor.name,
            tensor.bits,
            tensor.zeros,
        )
        assert plain["shape"] == list(tensor.shape)
