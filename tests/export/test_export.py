"""The file at the end of fit: its ends, its names, and what happens when it cannot be made."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.nets import small_net, trained_net
from helpers.replacing import replaced, room_for

import keras_compress as kc
from keras_compress.engines.in_place import table
from keras_compress.engines.in_place.rows import ActivationRow
from keras_compress.export import record, writing
from keras_compress.reports.export import ExportReport, FloatOpReport
from keras_compress.reports.fit import Report

pytestmark = pytest.mark.by_turns


@pytest.fixture(autouse=True)
def untaught(monkeypatch):
    """What these tests take for unknown has a row by now."""
    monkeypatch.delitem(table.ACTIVATIONS, "elu")


@pytest.fixture(scope="module")
def trained(keras, digits):
    """A quantized net, once for every test here that only exports it."""
    compress = kc.Compress(quantization=kc.Quantization(delay=0.5))
    return trained_net(keras, digits, compress, epochs=2, batch_norm=True)


@pytest.fixture(scope="module")
def plain(keras, digits):
    return trained_net(keras, digits, epochs=2, batch_norm=True)


@pytest.mark.slow_after(1)
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
    with pytest.raises(kc.ConversionError, match="took longer than"):
        kc.export_tflite(trained, kc.Export(path, timeout=1e-3))
    assert path.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["net.tflite"]


def test_float_ops_are_refused_in_the_finished_file_too(keras, digits, tmp_path):
    """The net below the table: a layer it takes for integer, and the converter does not, which the
    rehearsal tells before.
    """
    model = small_net(keras, jit_compile=False)
    layers = keras.layers
    model = keras.Model(model.inputs, layers.ELU(name="elu")(model.get_layer("relu1").output))
    model.compile("sgd", "mse", jit_compile=False)
    path = tmp_path / "net.tflite"
    rehearsed, compress = (
        kc.Compress(quantization=kc.Quantization(), export=kc.Export(path, rehearse=rehearse))
        for rehearse in (True, False)
    )
    data = digits[0][:32], np.zeros((32, 6, 6, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(table.ACTIVATIONS, "elu", ActivationRow())
        with pytest.raises(kc.ConversionError, match="in the integer file: ELU of 'elu'"):
            model.fit(*data, verbose=0, callbacks=[rehearsed])
        model.fit(*data, verbose=0, callbacks=[compress])
    assert "float ops would be left in the integer file: ELU of 'elu'." in (
        compress.report.export.error
    )
    assert not path.exists()


def with_elu(keras, *, behind=()):
    """A net with an ELU, which no integer kernel computes, inside a nested model."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inner = keras.Input((6, 6, 4))
    hidden = layers.Conv2D(4, 3, use_bias=False, name="conv")(inner)
    hidden = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(hidden))
    backbone = keras.Model(inner, layers.ELU(name="elu")(hidden), name="backbone")
    inputs = keras.Input((8, 8, 1), name="image")
    x = backbone(layers.Conv2D(4, 3, name="stem")(inputs))
    x = layers.Dense(10, name="scores")(layers.Flatten(name="flatten")(x))
    for layer in behind:
        x = layer(x)
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse", jit_compile=False)
    return model


@pytest.mark.slow
def test_float_ops_are_named_with_their_layers(keras, digits, tmp_path):
    model = with_elu(keras)
    export = kc.Export(tmp_path / "net.tflite", allow_float_ops=True)
    compress = kc.Compress(quantization=kc.Quantization(), export=export)
    model.fit(digits[0][:32], np.zeros((32, 10)), verbose=0, callbacks=[compress])
    ops = compress.report.export.float_ops
    # It is they on whose account there is a way from integers to floats and back.
    assert [(op.op, op.layer) for op in ops] == [
        ("DEQUANTIZE", "backbone/elu"),
        ("ELU", "backbone/elu"),
        ("RESHAPE", "flatten"),
        ("QUANTIZE", "flatten"),
    ]
    assert ops[1].tensor == "backbone/elu/Elu"
    assert "float ops: DEQUANTIZE of 'backbone/elu', ELU of 'backbone/elu'" in str(compress.report)


def test_the_layers_of_a_file_quantized_after_training_are_named_too(keras, digits, tmp_path):
    export = kc.Export(
        tmp_path / "net.tflite", allow_float_ops=True, representative_dataset=digits[0][:8]
    )
    report = kc.export_tflite(with_elu(keras), export)
    assert FloatOpReport("ELU", "backbone/elu", "backbone/elu/Elu") in report.float_ops


OWN_CHOICE = ("stem", "flatten", "backbone/conv", "backbone/norm", "backbone/relu")


def test_layers_left_out_may_be_float_and_so_may_what_moves_their_numbers(keras, digits, tmp_path):
    model = with_elu(keras, behind=[keras.layers.Reshape((2, 5), name="reshape")])
    compress = kc.Compress(
        quantization=kc.Quantization(layers=[*OWN_CHOICE, "reshape"]),
        export=kc.Export(tmp_path / "net.tflite"),
    )
    model.fit(digits[0][:32], np.zeros((32, 2, 5)), verbose=0, callbacks=[compress])
    report = compress.report
    assert list(report.left_out["quantization"]) == ["backbone/elu", "scores"]
    assert report.export.error is None
    computing = [op for op in report.export.float_ops if not op.op.endswith("QUANTIZE")]
    assert [(op.op, op.layer) for op in computing] == [
        ("ELU", "backbone/elu"),
        ("RESHAPE", "flatten"),
        ("FULLY_CONNECTED", "scores"),
        ("RESHAPE", "reshape"),
    ]


def test_layers_left_out_may_take_what_moves_their_numbers_along(keras, digits, tmp_path):
    """The converter rounds behind the Flatten what the ELU has computed before it."""
    compress = kc.Compress(
        quantization=kc.Quantization(layers=[*OWN_CHOICE, "scores"]),
        export=kc.Export(tmp_path / "net.tflite"),
    )
    model = with_elu(keras)
    model.fit(digits[0][:32], np.zeros((32, 10)), verbose=0, callbacks=[compress])
    assert list(compress.report.left_out["quantization"]) == ["backbone/elu"]
    assert compress.report.export.error is None
    assert {op.layer for op in compress.report.export.float_ops} == {"backbone/elu", "flatten"}


def test_a_layer_of_ones_own_choice_in_float_is_no_leave_for_others(keras, digits, tmp_path):
    """`scores` is left out; the ELU, which the table here takes for integer, is not."""
    model = with_elu(keras)
    path = tmp_path / "net.tflite"
    compress = kc.Compress(
        quantization=kc.Quantization(layers=[*OWN_CHOICE, "backbone/elu"]),
        export=kc.Export(path, rehearse=False),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(table.ACTIVATIONS, "elu", ActivationRow())
        model.fit(digits[0][:32], np.zeros((32, 10)), verbose=0, callbacks=[compress])
    assert list(compress.report.left_out["quantization"]) == ["scores"]
    assert "left in the integer file: ELU of 'backbone/elu'. Set" in compress.report.export.error
    assert not path.exists()


def test_the_size_of_the_float_file_is_that_of_the_file_in_mode_float32(trained, tmp_path):
    report = kc.export_tflite(trained, kc.Export(tmp_path / "net.tflite"))
    as_float = kc.export_tflite(trained, kc.Export(tmp_path / "float.tflite", mode="float32"))
    assert report.float_bytes == as_float.bytes == as_float.float_bytes
    assert report.float_zipped_bytes == as_float.zipped_bytes == as_float.float_zipped_bytes
    assert report.bytes < as_float.bytes


def test_a_float_file_that_fails_costs_only_its_size(trained, tmp_path, monkeypatch, caplog):
    def failing(function, how):
        raise kc.ConversionError("no such luck", "Try again")

    monkeypatch.setattr(writing, "measure", failing)
    report = kc.export_tflite(trained, kc.Export(tmp_path / "net.tflite"))
    assert report.written
    assert report.bytes == (tmp_path / "net.tflite").stat().st_size
    assert (report.float_bytes, report.float_zipped_bytes) == (None, None)
    assert "│ as a float file │     - │      - │" in str(report)
    assert "No float file to compare sizes with: " in caplog.text


def test_the_record_stands_beside_the_file_and_tells_which_it_is(trained, tmp_path):
    path = tmp_path / "net.tflite"
    report = kc.export_tflite(trained, kc.Export(path, inference_input_type="uint8"))
    assert sorted(os.listdir(tmp_path)) == ["net.tflite", "net.tflite.json"]
    written = json.loads((tmp_path / "net.tflite.json").read_text())
    assert written["report"]["export"]["bytes"] == report.bytes
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert written["report"]["export"]["sha256"] == report.sha256 == digest
    specs = written["report"]["specs"]
    assert kc.Export.from_config(specs["export"]) == kc.Export(path, inference_input_type="uint8")
    assert kc.Quantization.from_config(specs["quantization"]) == kc.Quantization(delay=0.5)


def test_a_failed_export_leaves_an_older_record_with_its_file(trained, tmp_path):
    path, beside = tmp_path / "net.tflite", tmp_path / "net.tflite.json"
    kc.export_tflite(trained, kc.Export(path))
    before = path.read_bytes(), beside.read_bytes()
    with pytest.raises(kc.ConversionError):
        kc.export_tflite(trained, kc.Export(path, timeout=1e-3))
    assert (path.read_bytes(), beside.read_bytes()) == before


def test_a_record_that_cannot_be_written_costs_neither_file_nor_truth(
    trained, tmp_path, monkeypatch, caplog
):
    path, beside = tmp_path / "net.tflite", tmp_path / "net.tflite.json"
    beside.write_text("of an older file")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(record, "write_atomically", full)
    report = kc.export_tflite(trained, kc.Export(path))
    assert report.bytes == path.stat().st_size
    assert not beside.exists()
    assert f"No record at {beside}: no space left" in caplog.text
    assert (report.written, report.record_error) == (True, "OSError: no space left")
    assert "without its record: OSError: no space left" in str(report)


@pytest.mark.sweep
@pytest.mark.timeout(300)
def test_two_processes_that_export_to_one_path_leave_one_whole_file(plain, digits, tmp_path):
    plain.save(tmp_path / "net.keras")
    np.savez(tmp_path / "data.npz", digits[0][:32])
    script = """
import sys
import keras_compress as kc
for _ in range(5):
    kc.export_tflite(
        "net.keras", kc.Export("net.tflite", mode=sys.argv[1], representative_dataset="data.npz"
        if sys.argv[1] == "int8" else None)
    )
"""
    modes = ("int8", "float32")
    running = [
        subprocess.Popen([sys.executable, "-c", script, mode], cwd=tmp_path) for mode in modes
    ]
    assert [process.wait() for process in running] == [0, 0]
    sizes = []
    for mode in modes:
        data = digits[0][:32] if mode == "int8" else None
        export = kc.Export(tmp_path / f"{mode}.tflite", mode=mode, representative_dataset=data)
        sizes.append(kc.export_tflite(plain, export).bytes)
    assert (tmp_path / "net.tflite").stat().st_size in sizes
    assert kc.load_tflite(tmp_path / "net.tflite").predict(digits[2][:4]).shape == (4, 10)
    assert not list(tmp_path.glob(".*"))


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


@pytest.mark.parametrize("step", ["writing._measure_float", "to_tflite.write_record"])
def test_a_file_never_stands_beside_the_record_of_another(trained, tmp_path, monkeypatch, step):
    path, beside = tmp_path / "model.tflite", tmp_path / "model.tflite.json"
    path.write_bytes(b"older")
    beside.write_text("of the older one")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"keras_compress.export.{step}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kc.export_tflite(trained, kc.Export(path))
    if path.read_bytes() == b"older":
        assert beside.read_text() == "of the older one"
    else:
        assert not beside.exists()


def test_every_file_of_an_export_replaces_an_older_one_and_none_is_written_into(trained, tmp_path):
    path = tmp_path / "net.tflite"
    with replaced(path, f"{path}.json", tmp_path / "net.h", tmp_path / "net.cc"):
        kc.export_tflite(trained, kc.Export(path, c_array=True))


def test_a_record_replaces_an_older_one_and_is_not_written_into_it(tmp_path):
    report = Report.of_plain_model()
    report.export = ExportReport(str(tmp_path / "net.tflite"), "float32", bytes=1)
    with replaced(tmp_path / "net.tflite.json"):
        record.write_record(report, None)


def test_a_disk_that_ends_in_the_middle_of_the_file_leaves_what_was_there(
    trained, tmp_path, monkeypatch
):
    path = tmp_path / "net.tflite"
    path.write_bytes(b"older")
    measure = writing._measure_float
    with contextlib.ExitStack() as full:

        def last_before_the_writing(*arguments):
            measure(*arguments)
            full.enter_context(room_for(4096))

        monkeypatch.setattr(writing, "_measure_float", last_before_the_writing)
        with pytest.raises(OSError, match=f"File too large: '{path}'"):
            kc.export_tflite(trained, kc.Export(path))
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["net.tflite"]


@pytest.fixture
def full_disk(tmp_path):
    """A folder with room for four kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_what_was_there(trained, full_disk):
    path = full_disk / "net.tflite"
    path.write_bytes(b"older")
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        kc.export_tflite(trained, kc.Export(path))
    assert path.read_bytes() == b"older"
    assert os.listdir(full_disk) == ["net.tflite"]


def test_a_full_temporary_folder_is_named(trained, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(kc.ConversionError, match=r"temporary folder .*No space left.*TMPDIR"):
        kc.export_tflite(trained, kc.Export(tmp_path / "net.tflite"))
    assert os.listdir(tmp_path) == []
