"""Kernels that Keras 3 makes of others at every call: LoRA's, and those it quantized itself."""

import numpy as np
import pytest

import keras_compress as kc

pytestmark = pytest.mark.by_turns

ROWS, BATCH = 64, 16
HALF = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=3, frequency=1)


@pytest.fixture(scope="module")
def keras():
    """tf_keras has neither."""
    import keras

    return keras


def dense(layers):
    return (12,), layers.Dense(16, activation="relu", name="adapted")


def convolution(layers):
    return (8, 8, 3), layers.Conv2D(8, 3, activation="relu", name="adapted")


def einsum(layers):
    return (6, 12), layers.EinsumDense("abc,cd->abd", (6, 16), bias_axes="d", name="adapted")


def net(keras, kind):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    shape, adapted = kind(layers)
    stack = [keras.Input(shape), adapted, layers.Flatten(name="flat"), layers.Dense(4, name="head")]
    return keras.Sequential(stack)


def with_lora(keras, kind):
    """B is not zero any more, as after some training, so that the kernel is not W alone."""
    model = net(keras, kind)
    adapted = model.get_layer("adapted")
    adapted.enable_lora(2)
    shape = adapted.lora_kernel_b.shape
    adapted.lora_kernel_b.assign(np.random.default_rng(1).normal(0.0, 0.3, shape))
    return model


def fit(model, *callbacks, epochs=1):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(ROWS, *model.input_shape[1:])).astype("float32")
    model.compile("adam", "mse", jit_compile=False)
    y = generator.normal(size=(ROWS, 4)).astype("float32")
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return x


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("kind", [dense, convolution, einsum])
def test_pruning_leaves_lora_alone_and_says_so(keras, kind):
    # Zeros of W would be no zeros of W + A B.
    model = with_lora(keras, kind)
    compress = kc.Compress(pruning=kc.Pruning(HALF), verbose=0)
    fit(model, compress)
    (reason,) = compress.report.left_out["pruning"].values()
    assert reason.startswith("'kernel' is made of other weights when it is used (LoRA")
    assert [layer.path for layer in compress.report.layers] == ["head"]
    assert compress.report.sparsity == pytest.approx(0.5, abs=0.01)


def test_pruning_refuses_lora_by_name(keras):
    model = with_lora(keras, dense)
    message = "'adapted' cannot: 'kernel' is made of other weights"
    with pytest.raises(ValueError, match=message):
        fit(model, kc.Compress(pruning=kc.Pruning(HALF, layers=["adapted"]), verbose=0))


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("kind", [dense, convolution, einsum])
def test_lora_is_quantized_by_its_ops(keras, kind, tmp_path):
    """The file has W + A B rounded as one kernel, and what is trained is A and B."""
    model = with_lora(keras, kind)
    adapted = model.get_layer("adapted")
    before = adapted._kernel.numpy(), adapted.lora_kernel_a.numpy()
    path = tmp_path / "m.tflite"
    compress = kc.Compress(quantization=kc.Quantization(delay=4), export=kc.Export(path), verbose=0)
    x = fit(model, compress, epochs=3)
    np.testing.assert_array_equal(adapted._kernel, before[0])
    assert np.abs(adapted.lora_kernel_a - before[1]).max() > 0
    report = compress.report.export
    assert report.error is None
    assert report.float_ops == ()
    file = kc.load_tflite(path)
    scale = file.outputs[0].scale
    assert np.abs(file.predict(x) - model.predict(x, verbose=0)).max() < 1.5 * scale


def test_what_keras_has_quantized_itself_is_refused(keras, tmp_path):
    model = net(keras, dense)
    model.get_layer("adapted").quantize("int8")
    message = "adapted \\('kernel' is made of other weights when it is used .*quantization\\)"
    with pytest.raises(ValueError, match=message):
        fit(
            model,
            kc.Compress(
                quantization=kc.Quantization(delay=4),
                export=kc.Export(tmp_path / "m.tflite"),
                verbose=0,
            ),
        )
