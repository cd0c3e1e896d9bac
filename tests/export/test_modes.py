"""Every mode of conversion, checked by LiteRT on the digits."""

import dataclasses
import sys

import numpy as np
import pytest
from helpers.nets import small_net, trained_net

import keras_compress as kc
from keras_compress.ranges import quantization_of_stats
from keras_compress.tflite import ConversionError

pytestmark = pytest.mark.by_turns

CALIBRATED = ("int8", "int16x8")
MODES = ("float32", "float16", "dynamic", *CALIBRATED)


@pytest.fixture(scope="module")
def plain(keras, digits):
    optimizer = keras.optimizers.Adam(0.005)
    return trained_net(keras, digits, epochs=6, optimizer=optimizer, batch_norm=True)


@pytest.fixture(scope="module")
def rounded(keras, digits):
    """A net trained with quantization on, on images in [-1, 1]."""
    x, *others = digits
    compress = kc.Compress(quantization=kc.Quantization(delay=0.5))
    return trained_net(keras, (2 * x - 1, *others), compress, epochs=4)


def export_of(path, mode, digits, **options):
    if mode in CALIBRATED:
        options.setdefault("representative_dataset", digits[0][:200])
    return kc.Export(path, mode=mode, **options)


def accuracy(path, x, y):
    return kc.load_tflite(path).evaluate(x, y)["accuracy"]


@pytest.fixture(scope="module")
def exported(plain, digits, tmp_path_factory):
    """mode -> (path, report), each written once."""
    folder = tmp_path_factory.mktemp("modes")
    made = {}
    for mode in MODES:
        path = folder / f"{mode}.tflite"
        made[mode] = path, kc.export_tflite(plain, export_of(path, mode, digits))
    return made


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_keeps_the_accuracy_of_the_network(plain, exported, digits, mode):
    _, _, x, y = digits
    path, report = exported[mode]
    network = np.mean(plain.predict(x, verbose=0).argmax(axis=-1) == y)
    assert network > 0.85
    assert accuracy(path, x, y) == pytest.approx(network, abs=0.015)
    assert report.argmax_agreement["probabilities"] >= 0.95
    ends = {"int8": "int8", "int16x8": "int16"}.get(mode, "float32")
    assert report.inputs["image"]["dtype"] == report.outputs["probabilities"]["dtype"] == ends
    assert report.float_ops == ()


def test_what_the_modes_store(exported):
    kinds = {}
    for mode, (path, _) in exported.items():
        contents = kc.inspect_tflite(path)
        kernels = {tensor.dtype for tensor in contents.kernels if np.prod(tensor.shape) > 1000}
        computed = {t.dtype for t in contents.tensors if not t.constant}
        kinds[mode] = kernels, "float32" in computed
    assert kinds == {
        "float32": ({"float32"}, True),
        "float16": ({"float16"}, True),
        "dynamic": ({"int8"}, True),
        "int8": ({"int8"}, False),
        "int16x8": ({"int8"}, False),
    }
    sizes = {mode: report.bytes for mode, (_, report) in exported.items()}
    assert sizes["float32"] > sizes["float16"] > max(sizes["int8"], sizes["dynamic"])
    whole = exported["float32"][1].bytes
    assert all(report.float_bytes == whole for _, report in exported.values())


def test_activations_of_16_bits_are_closer_than_those_of_8(plain, exported, digits):
    x = digits[2]
    answers = plain.predict(x, verbose=0)

    def error(mode):
        return np.abs(kc.load_tflite(exported[mode][0]).predict(x) - answers).mean()

    assert error("int16x8") < error("int8") / 2


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_calibrated_files_have_the_ends_asked_for(plain, digits, tmp_path, kind):
    path = tmp_path / "net.tflite"
    options = {"inference_input_type": kind, "inference_output_type": kind}
    report = kc.export_tflite(plain, export_of(path, "int8", digits, **options))
    assert report.inputs["image"]["dtype"] == report.outputs["probabilities"]["dtype"] == kind
    _, _, x, y = digits
    assert accuracy(path, x, y) > 0.85


def test_16_bits_can_have_float_ends(plain, digits, tmp_path):
    path = tmp_path / "net.tflite"
    options = {"inference_input_type": "float32", "inference_output_type": "float32"}
    report = kc.export_tflite(plain, export_of(path, "int16x8", digits, **options))
    assert report.inputs["image"]["dtype"] == "float32"
    assert accuracy(path, *digits[2:]) > 0.85


def test_other_modes_of_a_rounded_model_are_of_its_float_network(rounded, digits, tmp_path):
    path = tmp_path / "net.tflite"
    x = 2 * digits[2] - 1
    float_network = kc.strip(rounded)
    kc.export_tflite(rounded, kc.Export(path, mode="float16"))
    difference = kc.load_tflite(path).predict(x) - float_network.predict(x, verbose=0)
    assert np.abs(difference).max() < 5e-3
    assert (
        np.abs(difference).mean()
        < np.abs(rounded.predict(x, verbose=0) - float_network.predict(x, verbose=0)).mean()
    )


def test_weights_of_4_bits_where_the_training_used_them(keras, digits, tmp_path):
    model = small_net(keras, jit_compile=False)
    x, y, x_test, _ = digits
    spec = kc.Quantization(delay=0.5, weight_bits=4)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[kc.Compress(quantization=spec)])
    path = tmp_path / "net.tflite"
    report = kc.export_tflite(model, kc.Export(path))
    assert {tensor.dtype for tensor in kc.inspect_tflite(path).kernels} == {"int4"}
    assert report.largest_steps["probabilities"] <= 4
    found, expected = kc.load_tflite(path).predict(x_test), model.predict(x_test, verbose=0)
    steps = np.abs(found - expected).max() * 256
    assert steps <= 4
    # After two epochs many answers are all but ties, and only these may be others.
    others = found.argmax(-1) != expected.argmax(-1)
    first, second = np.sort(expected[others])[:, [-1, -2]].T
    assert ((first - second) * 256 <= 2 * steps).all()
    assert others.mean() < 0.05


# Input statistics of TF1.

CLASSIC = {
    # (mean, std): real numbers of the inputs, scale and zero point in uint8
    "0..255": ((0.0, 1.0), 255.0, 0.0, (1.0, 0)),
    "-1..1": ((127.5, 127.5), 2.0, -1.0, (1 / 127.5, 128)),
    "0..1": ((0.0, 255.0), 1.0, 0.0, (1 / 255, 0)),
}


def test_statistics_become_scale_and_zero_point_after_training(plain, digits, tmp_path):
    """The calibrated range would be another one: the data has no 1."""
    path = tmp_path / "net.tflite"
    x, _, x_test, y_test = digits
    for stats, _, _, (scale, zero_point) in CLASSIC.values():
        options = {
            "inference_input_type": "uint8",
            "representative_dataset": 0.9 * x[:200],
            "quantized_input_stats": stats,
        }
        report = kc.export_tflite(plain, kc.Export(path, **options))
        image = report.inputs["image"]
        assert image["scale"] == pytest.approx(scale, rel=1e-6)
        assert image["zero_point"] == zero_point
        report = kc.export_tflite(
            plain, kc.Export(path, **{**options, "inference_input_type": "int8"})
        )
        assert report.inputs["image"]["zero_point"] == zero_point - 128
    # Of the last: the bytes of an image go in as they are.
    pixels = np.round(255 * x_test).astype("uint8")
    kc.export_tflite(plain, kc.Export(path, **options))
    answers = kc.load_tflite(path).predict(pixels, raw=True)
    assert np.mean(answers.argmax(axis=-1) == y_test) > 0.85


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("name", ["image", None])
def test_statistics_of_a_rounded_model_win_over_what_it_watched(rounded, digits, tmp_path, name):
    path = tmp_path / "net.tflite"
    x_test = digits[2]
    before = rounded.predict(2 * x_test[:64] - 1, verbose=0)
    for stats in ((127.5, 127.5), (100.0, 60.0)):
        given = stats if name is None else {name: stats}
        export = kc.Export(path, inference_input_type="uint8", quantized_input_stats=given)
        report = kc.export_tflite(rounded, export)
        scale, zero_point = quantization_of_stats(*stats)
        assert report.inputs["image"]["scale"] == pytest.approx(scale, rel=1e-6)
        assert report.inputs["image"]["zero_point"] == zero_point
        assert report.largest_steps["probabilities"] <= 4  # against a network rounded so too
    # The model keeps its own range.
    np.testing.assert_array_equal(rounded.predict(2 * x_test[:64] - 1, verbose=0), before)


def test_statistics_in_tfmots_wrappers(digits, tmp_path):
    import tf_keras

    model = tf_keras.models.clone_model(small_net(tf_keras))  # not compiled
    model = kc.wrap(model, quantization=kc.Quantization())
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    x, y, _, _ = digits
    model.fit(x, y, epochs=1, verbose=0)
    path = tmp_path / "net.tflite"
    export = kc.Export(path, inference_input_type="uint8", quantized_input_stats=(0, 200))
    report = kc.export_tflite(model, export)
    image = report.inputs["image"]
    assert (image["scale"], image["zero_point"]) == (pytest.approx(1 / 200, rel=1e-6), 0)
    assert report.largest_steps["probabilities"] <= 4


def test_statistics_of_the_data_by_themselves(plain, digits, tmp_path):
    export = kc.Export(
        tmp_path / "net.tflite",
        inference_input_type="uint8",
        representative_dataset=2 * digits[0][:200] - 1,
        quantized_input_stats="auto",
    )
    image = kc.export_tflite(plain, export).inputs["image"]
    assert (image["scale"], image["zero_point"]) == (pytest.approx(1 / 127.5, rel=1e-6), 128)


def test_statistics_of_another_input_are_refused(rounded, plain, digits, tmp_path):
    for model, data in ((rounded, None), (plain, digits[0][:8])):
        export = kc.Export(
            tmp_path / "net.tflite",
            quantized_input_stats={"picture": (0, 1)},
            representative_dataset=data,
        )
        with pytest.raises(ValueError, match=r"for inputs of real numbers, \['image'\].*picture"):
            kc.export_tflite(model, export)


# Ranges that nobody knows.


def test_default_ranges_in_the_place_of_data(plain, digits, tmp_path):
    path = tmp_path / "net.tflite"
    export = kc.Export(
        path,
        inference_input_type="uint8",
        quantized_input_stats=(0, 255),
        default_ranges_stats=(-10, 10),
    )
    same = dataclasses.replace(export, default_ranges_stats=(0, 1))
    assert "image" not in kc.export_tflite(plain, same).guessed  # it was given that range
    report = kc.export_tflite(plain, export)
    assert kc.inspect_tflite(path).all_integer
    assert report.inputs["image"]["scale"] == pytest.approx(1 / 255, rel=1e-6)
    assert report.guessed
    assert "image" not in report.guessed
    assert "probabilities" not in report.guessed  # of a softmax it is known
    assert "ACCURACY IS A GUESS" in str(report)
    tensors = {tensor.name: tensor for tensor in kc.inspect_tflite(path).tensors}
    for name in report.guessed:
        assert tensors[name].scales == pytest.approx((20 / 255,), rel=1e-5)
    # A wider guess than the truth costs accuracy, not all of it.
    assert accuracy(path, *digits[2:]) > 0.6


def test_default_ranges_for_what_the_training_left_out(keras, digits, tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1), name="image"),
            layers.Flatten(name="flatten"),
            *(layers.Dense(16, activation="relu", name=name) for name in "abc"),
            layers.Dense(10, activation="softmax", name="d"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    x, y, _, _ = digits
    path = tmp_path / "net.tflite"
    export = kc.Export(path, default_ranges_stats=(-8, 8))
    compress = kc.Compress(quantization=kc.Quantization(layers=("a", "d")), export=export)
    model.fit(x, y, epochs=1, verbose=0, callbacks=[compress])
    report = compress.report.export
    assert report.error is None
    assert kc.inspect_tflite(path).all_integer
    assert report.float_ops == ()
    # c needs none: the rounded input of d is its output.
    assert report.rounded_anyway == ("b", "c")
    assert [name.partition("/")[0] for name in report.guessed] == ["b"]
    without = kc.export_tflite(model, dataclasses.replace(export, default_ranges_stats=None))
    assert {op.layer for op in without.float_ops} == {"b", "c"}
    assert without.guessed == ()
    assert without.rounded_anyway == ()


def test_a_layer_left_out_between_rounded_ones_is_named(keras, digits, tmp_path):
    model = small_net(keras, jit_compile=False)
    x, y, _, _ = digits
    compress = kc.Compress(
        quantization=kc.Quantization(layers=lambda layer: layer.name != "dense1"),
        export=kc.Export(tmp_path / "net.tflite"),
    )
    model.fit(x[:64], y[:64], verbose=0, callbacks=[compress])
    report = compress.report.export
    assert report.float_ops == ()
    assert report.rounded_anyway == ("dense1",)
    assert "integer all the same, since all around them is: dense1" in str(report)


# Sparse files.


def test_a_sparse_float_file_is_smaller_and_runs(keras, digits, tmp_path):
    model = small_net(keras, jit_compile=False)
    x, y, x_test, _ = digits
    pruning = kc.Pruning(kc.ConstantSparsity(target_sparsity=0.8, begin_step=0, frequency=1))
    model.fit(x, y, epochs=1, verbose=0, callbacks=[kc.Compress(pruning=pruning)])
    path = tmp_path / "net.tflite"
    report = kc.export_tflite(model, kc.Export(path, mode="float32", sparse=True))
    assert report.bytes < 0.6 * report.float_bytes
    assert f"{report.float_bytes:,}" in str(report)
    answers = kc.load_tflite(path).predict(x_test)
    np.testing.assert_allclose(answers, kc.strip(model).predict(x_test, verbose=0), atol=1e-5)
    assert kc.inspect_tflite(path).sparsity == pytest.approx(0.8, abs=0.01)
    path.write_bytes(b"older")
    export = kc.Export(path, mode="int8", sparse=True, representative_dataset=x[:64])
    with pytest.raises(ConversionError, match="LiteRT cannot run a sparse file of mode 'int8'"):
        kc.export_tflite(model, export)
    assert path.read_bytes() == b"older"


def scales_of_kernels(path):
    """Rank of a kernel -> how many scales each of that rank has."""
    found = {}
    for tensor in kc.inspect_tflite(path).tensors:
        if tensor.kernel:
            found.setdefault(len(tensor.shape), []).append(len(tensor.scales))
    return found


@pytest.mark.parametrize("mode", ["int8", "dynamic"])
def test_a_dense_layer_with_one_scale(plain, exported, digits, tmp_path, mode):
    path = tmp_path / "net.tflite"
    kc.export_tflite(plain, export_of(path, mode, digits, per_channel_dense=False))
    several, one = scales_of_kernels(exported[mode][0]), scales_of_kernels(path)
    assert min(several[2]) > 1
    assert set(one[2]) == {1}
    assert one[4] == several[4]  # those of convolutions stay as they were
    kernel = plain.get_layer("probabilities").get_weights()[0]
    scales = [t.scales[0] for t in kc.inspect_tflite(path).tensors if t.kernel]
    # The largest number of all of it is 127 steps.
    assert np.isclose(scales, np.abs(kernel).max() / 127, rtol=1e-5).any()
    _, _, x, y = digits
    assert accuracy(path, x, y) > accuracy(exported[mode][0], x, y) - 0.03


def test_c_files_beside_the_file(plain, digits, tmp_path, caplog):
    report = kc.export_tflite(
        plain, export_of(tmp_path / "net.tflite", "int8", digits, c_array=True)
    )
    assert [path.rpartition("/")[2] for path in report.c_files] == ["net.h", "net.cc"]
    size = (tmp_path / "net.tflite").stat().st_size
    assert f"net_tflite_len = {size};" in (tmp_path / "net.cc").read_text()
    assert "dense layers with one scale for each unit" in caplog.text
    assert "`Export(per_channel_dense=False)` gives each layer one" in caplog.text
    caplog.clear()
    export = export_of(
        tmp_path / "net.tflite", "int8", digits, c_array=True, per_channel_dense=False
    )
    kc.export_tflite(plain, export)
    assert caplog.text == ""


# What goes wrong.


@pytest.mark.parametrize("mode", CALIBRATED)
def test_an_integer_mode_without_data_is_refused(plain, rounded, tmp_path, mode):
    export = kc.Export(tmp_path / "net.tflite", mode=mode)
    with pytest.raises(
        ValueError, match=f"`representative_dataset` must be given in mode '{mode}'"
    ):
        kc.export_tflite(plain, export)
    if mode == "int16x8":  # which no training has ranges for
        with pytest.raises(ValueError, match="`representative_dataset` must be given"):
            kc.export_tflite(rounded, export)


@pytest.mark.parametrize("mode", CALIBRATED)
def test_data_that_cannot_be_is_refused(plain, tmp_path, mode):
    path = tmp_path / "net.tflite"
    for data, message in (
        (np.full((4, 8, 8, 1), np.nan, "float32"), "256 NaN or infinite"),
        (lambda: iter(()), "no rows"),
        (np.zeros((4, 8, 8, 3), "float32"), r"\(4, 8, 8, 3\)"),
        (np.full((4, 8, 8, 1), "a"), "numbers for the input 'image'"),
    ):
        export = kc.Export(path, mode=mode, representative_dataset=data)
        with pytest.raises(ValueError, match=message):
            kc.export_tflite(plain, export)
        assert not path.exists()


def test_statistics_by_themselves_need_data(rounded, tmp_path):
    export = kc.Export(tmp_path / "net.tflite", quantized_input_stats="auto")
    with pytest.raises(ValueError, match="must be numbers, unless `representative_dataset`"):
        kc.export_tflite(rounded, export)
    export = dataclasses.replace(export, representative_dataset=np.zeros((4, 8, 8, 1)))
    with pytest.raises(ValueError, match="more than one number for the input 'image'"):
        kc.export_tflite(rounded, export)


def test_what_an_npz_holds_besides_the_inputs_are_labels(plain, digits, tmp_path):
    x, y, _, _ = digits
    np.savez(tmp_path / "data.npz", image=x[:200], y=y[:200])
    data = tmp_path / "data.npz"
    export = export_of(tmp_path / "a.tflite", "int8", digits, representative_dataset=data)
    first = kc.export_tflite(plain, export)
    second = kc.export_tflite(plain, export_of(tmp_path / "b.tflite", "int8", digits))
    assert first.sha256 == second.sha256
    data.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"npz file of arrays .it is damaged, something else"):
        kc.export_tflite(plain, export)


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_an_embedding(keras, tmp_path, mode):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((4,), dtype="int32", name="ids"),
            layers.Embedding(7, 3),
            layers.Flatten(),
            layers.Dense(2, name="scores"),
        ]
    )
    ids = np.random.default_rng(0).integers(0, 7, (32, 4)).astype("int32")
    path = tmp_path / "net.tflite"
    data = ids if mode == "int8" else None
    kc.export_tflite(model, kc.Export(path, mode=mode, representative_dataset=data))
    difference = kc.load_tflite(path).predict(ids) - model.predict(ids, verbose=0)
    assert np.abs(difference).max() < {"float32": 1e-5, "int8": 0.01}[mode]
    if keras.__name__ != "keras":
        return
    # There it is a GATHER of what has no range; tf_keras has an op of its own for it.
    export = kc.Export(path, mode="int16x8", representative_dataset=ids)
    with pytest.raises(ConversionError, match="input of integers: use mode 'int8'"):
        kc.export_tflite(model, export)


def test_c_files_that_fail_leave_all_as_it_was(plain, digits, tmp_path):
    path = tmp_path / "net.tflite"
    export = export_of(path, "int8", digits, c_array=True)
    kc.export_tflite(plain, export)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    (tmp_path / "net.cc").unlink()
    (tmp_path / "net.cc").mkdir()
    with pytest.raises(ValueError, match=r"a folder has the name '.*net\.cc'"):
        kc.export_tflite(plain, dataclasses.replace(export, batch_size=2))
    assert path.read_bytes() == before["net.tflite"]
    assert (tmp_path / "net.tflite.json").read_bytes() == before["net.tflite.json"]


def test_a_labelled_dataset_is_read_without_its_labels(plain, digits, tmp_path):
    import tensorflow as tf

    x, y, _, _ = digits
    dataset = tf.data.Dataset.from_tensor_slices((x[:200], y[:200])).batch(7)
    export = export_of(tmp_path / "a.tflite", "int8", digits, representative_dataset=dataset)
    first = kc.export_tflite(plain, export)
    second = kc.export_tflite(plain, export_of(tmp_path / "b.tflite", "int8", digits))
    assert first.sha256 == second.sha256


def test_several_inputs_by_name(keras, tmp_path):
    layers = keras.layers
    image, number = layers.Input((8, 8, 1), name="image"), layers.Input((2,), name="number")
    x = layers.Concatenate()([layers.Flatten()(layers.Conv2D(4, 3)(image)), number])
    model = keras.Model([image, number], layers.Dense(3, name="scores")(x))
    generator = np.random.default_rng(0)
    data = {
        "number": generator.uniform(-4, 4, (64, 2)).astype("float32"),
        "image": generator.uniform(0, 1, (64, 8, 8, 1)).astype("float32"),
    }
    np.savez(tmp_path / "data.npz", **data)
    made = []
    for given in (
        data,
        tmp_path / "data.npz",
        lambda: ({k: v[i] for k, v in data.items()} for i in range(64)),
    ):
        export = kc.Export(
            tmp_path / "net.tflite",
            inference_input_type="uint8",
            representative_dataset=given,
            quantized_input_stats={"image": (0, 255)},
        )
        made.append(kc.export_tflite(model, export))
    assert len({report.sha256 for report in made}) == 1
    ends = made[0].inputs
    assert ends["image"]["scale"] == pytest.approx(1 / 255, rel=1e-6)
    assert ends["number"]["scale"] == pytest.approx(8 / 255, rel=0.05)  # what was calibrated
    file = kc.load_tflite(tmp_path / "net.tflite")
    expected = model.predict([data["image"], data["number"]], verbose=0)
    assert np.abs(file.predict(data) - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(("terminal", "wanted"), [(True, True), (True, False), (False, True)])
def test_progress_is_a_line_where_standard_error_is_a_terminal(
    plain, digits, tmp_path, capsys, monkeypatch, terminal, wanted
):
    if terminal:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    else:
        monkeypatch.setenv("FORCE_COLOR", "1")  # as CI does, which is none
    export = export_of(tmp_path / "net.tflite", "int8", digits)
    kc.export_tflite(plain, export, progress=wanted)
    out, err = capsys.readouterr()
    assert out == ""
    shown = terminal and wanted
    for what in ("calibrating", "comparing with the network"):
        assert (what in err) is shown
    assert ("\x1b[2K" in err) is shown  # it is gone afterwards
