"""What `inspect_tflite` reads out of files whose contents are known."""

import zipfile

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.tflite import Conversion, FloatOp, convert, inspect_tflite, zipped_size

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
