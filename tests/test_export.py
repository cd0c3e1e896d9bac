"""The file at the end of fit: its ends, its names, and what happens when it cannot be made."""

import numpy as np
import pytest
from conftest import small_net

import keras_compress as kc


@pytest.fixture(scope="module")
def trained(keras, digits):
    """A quantized net, once for every test here that only exports it."""
    model = small_net(keras, batch_norm=True, jit_compile=False)
    x, y, _, _ = digits
    compress = kc.Compress(quantization=kc.Quantization(delay=0.5))
    model.fit(x, y, epochs=2, batch_size=32, verbose=0, callbacks=[compress])
    return model


@pytest.fixture(scope="module")
def plain(keras, digits):
    model = small_net(keras, batch_norm=True, jit_compile=False)
    x, y, _, _ = digits
    model.fit(x, y, epochs=2, batch_size=32, verbose=0)
    return model


@pytest.mark.parametrize("kind", ["int8", "uint8", "float32"])
def test_the_ends_have_the_type_asked_for_and_the_answers_are_the_networks(
    trained, digits, kind, tmp_path
):
    path = tmp_path / "net.tflite"
    given = kc.Export(path, inference_input_type=kind, inference_output_type=kind)
    report = kc.export_tflite(trained, given)
    file = kc.load_tflite(path)
    (image,), (answer,) = file.inputs, file.outputs
    assert (image.name, answer.name) == ("image", "probabilities")
    assert np.dtype(image.dtype) == np.dtype(answer.dtype) == np.dtype(kind)
    assert image.shape == (1, 8, 8, 1)
    if kind != "float32":
        assert answer.scale == pytest.approx(1 / 256)  # softmax's own
        assert answer.zero_point == {"int8": -128, "uint8": 0}[kind]
    x_test = digits[2]
    difference = np.abs(file.predict(x_test) - trained.predict(x_test, verbose=0))
    assert difference.max() <= 4 / 256
    assert report.largest_steps["probabilities"] <= 4
    assert report.verified_on == "inputs drawn inside the watched ranges"
    assert report.samples == 64


def test_a_batch_size_of_its_own(trained, digits, tmp_path):
    report = kc.export_tflite(trained, kc.Export(tmp_path / "net.tflite", batch_size=4))
    file = kc.load_tflite(tmp_path / "net.tflite")
    assert file.inputs[0].shape == (4, 8, 8, 1)
    assert report.largest_steps["probabilities"] <= 4


def test_sizes_are_those_of_the_file(trained, tmp_path):
    path = tmp_path / "net.tflite"
    report = kc.export_tflite(trained, kc.Export(path))
    assert report.bytes == path.stat().st_size
    assert 0 < report.zipped_bytes < report.bytes


def test_a_float_file_of_a_quantized_model_is_its_float_network(trained, digits, tmp_path):
    path = tmp_path / "net.tflite"
    report = kc.export_tflite(trained, kc.Export(path, mode="float32"))
    stripped = kc.strip(trained)
    x_test = digits[2]
    answers = kc.load_tflite(path).predict(x_test)
    np.testing.assert_allclose(answers, stripped.predict(x_test, verbose=0), atol=1e-5)
    assert report.largest_steps["probabilities"] < 1e-5
    assert np.abs(answers - trained.predict(x_test, verbose=0)).max() > 1e-4


def test_a_plain_model_is_calibrated_on_representative_data(plain, digits, tmp_path):
    path = tmp_path / "net.tflite"
    export = kc.Export(path, representative_dataset=digits[0][:200])
    report = kc.export_tflite(plain, export)
    assert kc.inspect_tflite(path).all_integer
    assert report.verified_on == "representative_dataset"
    assert report.argmax_agreement["probabilities"] >= 0.95
    accuracy = (kc.load_tflite(path).predict(digits[2]).argmax(1) == digits[3]).mean()
    expected = plain.evaluate(digits[2], digits[3], verbose=0)[1]
    assert abs(accuracy - expected) <= 0.02


def test_compress_with_an_export_alone_exports_a_plain_fit(keras, digits, tmp_path):
    model = small_net(keras, jit_compile=False)
    compress = kc.Compress(export=kc.Export(tmp_path / "net.tflite", mode="float32"))
    x, y, x_test, _ = digits
    model.fit(x[:64], y[:64], verbose=0, callbacks=[compress])
    assert compress.report.export.error is None
    answers = kc.load_tflite(tmp_path / "net.tflite").predict(x_test)
    np.testing.assert_allclose(answers, model.predict(x_test, verbose=0), atol=1e-5)


def test_an_older_file_survives_an_export_that_fails(trained, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(b"older")
    with pytest.raises(kc.tflite.ConversionError, match="took longer than"):
        kc.export_tflite(trained, kc.Export(path, timeout=1e-3))
    assert path.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["net.tflite"]


def test_float_ops_are_refused_in_the_finished_file_too(keras, digits, tmp_path):
    """The net below the table: a layer it takes for integer, and the converter does not."""
    from keras_compress.engines.in_place import placement

    model = small_net(keras, jit_compile=False)
    layers = keras.layers
    model = keras.Model(model.inputs, layers.ELU(name="elu")(model.get_layer("relu1").output))
    model.compile("sgd", "mse", jit_compile=False)
    path = tmp_path / "net.tflite"
    compress = kc.Compress(quantization=kc.Quantization(), export=kc.Export(path))
    wrong = {**placement.TABLE, "ELU": placement.Row()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "TABLE", wrong)
        model.fit(digits[0][:32], np.zeros((32, 6, 6, 8)), verbose=0, callbacks=[compress])
    assert "float ops would be left in the integer file: " in compress.report.export.error
    assert "ELU (" in compress.report.export.error
    assert not path.exists()


def test_a_model_of_a_mixed_policy_ships_in_integers(keras, digits, tmp_path):
    policy = keras.mixed_precision.Policy if keras.__name__ == "tf_keras" else keras.DTypePolicy
    layers = keras.layers
    mixed = {"dtype": policy("mixed_float16")}
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, use_bias=False, **mixed)(inputs)
    x = layers.ReLU(**mixed)(layers.BatchNormalization(**mixed)(x))
    outputs = layers.Dense(10, activation="softmax", **mixed)(layers.Flatten(**mixed)(x))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    path = tmp_path / "net.tflite"
    compress = kc.Compress(quantization=kc.Quantization(delay=0.5), export=kc.Export(path))
    model.fit(digits[0][:128], digits[1][:128], batch_size=16, verbose=0, callbacks=[compress])
    assert compress.report.export.error is None
    assert max(compress.report.export.largest_steps.values()) <= 4
    assert model.layers[1].compute_dtype == "float16"  # as before
