"""Files that another converter made: sizes and indices among the inputs, ops of their own."""

import json

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.cli import main
from keras_compress.tflite import TFLiteModel
from keras_compress.tflite.file.flatbuffer import pack, unpack
from keras_compress.tflite.litert.latency import measure_latency

IMAGE = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)


def converted(function, **shapes):
    """The file that TensorFlow's converter makes; names with a "_" at the end are integers."""
    specs = [
        tf.TensorSpec(shape, tf.int32 if name.endswith("_") else tf.float32, name)
        for name, shape in shapes.items()
    ]
    concrete = tf.function(function).get_concrete_function(*specs)
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()


@pytest.fixture(scope="module")
def files():
    return {
        "size": converted(
            lambda image, size_: tf.image.resize(image, size_), image=(1, 4, 4, 1), size_=(2,)
        ),
        "index": converted(lambda x, i_: tf.gather(x, i_ - 1, axis=1), x=(1, 4), i_=(1,)),
        "shape": converted(lambda x, s_: tf.reshape(x, s_), x=(1, 6), s_=(2,)),
        "scalar": converted(lambda x, factor: x * factor, x=(1, 6), factor=()),
    }


def test_a_size_among_the_inputs(files):
    """Of zeros it can make nothing, and is not damaged for that."""
    file = kc.load_tflite(files["size"])
    assert file.rows is None
    with pytest.raises(ValueError, match="LiteRT must be able to run"):
        file.run_on_zeros()
    answer = file.predict({"image": IMAGE, "size_": [8, 2]})
    expected = tf.image.resize(IMAGE, (8, 2)).numpy()
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    assert file.predict([IMAGE, np.int32([2, 2])]).shape == (1, 2, 2, 1)
    with pytest.raises(ValueError, match=r"'image' must have the shape \(1, 4, 4, 1\), since the"):
        file.predict([np.concatenate([IMAGE, IMAGE]), [8, 2]])
    with pytest.raises(ValueError, match="'size_' must be integers that int32 holds"):
        file.predict([IMAGE, [0.5, 2.0]])
    with pytest.raises(ValueError, match="must have the same number of rows along the first axis"):
        _ = file.batch_size


def test_an_index_a_shape_and_a_scalar_among_the_inputs(files):
    x = np.arange(8, dtype="float32").reshape(2, 4)
    index = kc.load_tflite(files["index"])
    assert index.rows == 1  # each row has its own
    assert index.predict([x, [2, 3]]).tolist() == [[1], [6]]
    x = np.arange(6, dtype="float32")[None]
    assert kc.load_tflite(files["shape"]).predict([x, [2, 3]]).tolist() == [[0, 1, 2], [3, 4, 5]]
    scalar = kc.load_tflite(files["scalar"])
    assert scalar.predict([x, 2.0]).tolist() == [[0, 2, 4, 6, 8, 10]]
    with pytest.raises(ValueError, match="'factor' must be free of NaN"):
        scalar.predict([x, np.nan])


def test_their_latency(files, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name, data in files.items():
        (tmp_path / f"{name}.tflite").write_bytes(data)
    for name in ("size", "index", "scalar"):
        assert main(f"benchmark {name}.tflite --runs 3 --json".split()) == 0
        found = json.loads(capfd.readouterr().out)
        assert found["median_ms"] > 0
        assert found["rows"] == (1 if name == "index" else None)
    assert main(["benchmark", "size.tflite"]) == 0
    assert "│ size.tflite │    - │" in capfd.readouterr().out
    with pytest.raises(ValueError, match="where its sizes and indices are all 0, or all 1"):
        measure_latency(TFLiteModel(files["shape"]), 3)


def test_what_fails_on_zeros_without_a_size_names_the_way_out(tmp_path, capfd):
    """Real zeros that it cannot take: a row is looked up where the numbers say."""
    data = converted(
        lambda x: tf.gather(tf.constant([1.0, 2.0]), tf.cast(x, tf.int32) - 1), x=(1, 2)
    )
    with pytest.raises(ValueError, match=r"it fails on zeros \(.*\): pass `probe=False` if it is"):
        kc.load_tflite(data)
    assert kc.load_tflite(data, probe=False).predict([[2.0, 1.0]]).tolist() == [[2, 1]]
    (tmp_path / "net.tflite").write_bytes(data)
    assert main(["benchmark", str(tmp_path / "net.tflite")]) == 2
    assert "pass --no-probe if it is meant to take other numbers" in capfd.readouterr().err
    assert main(["inspect", str(tmp_path / "net.tflite"), "--no-probe"]) == 0
    # Without it the file itself says what is wrong, where it is run on zeros all the same.
    assert main(["benchmark", str(tmp_path / "net.tflite"), "--no-probe"]) == 2
    assert "LiteRT must be able to run" in capfd.readouterr().err


# --- ops that TFLite calls custom, some of which LiteRT has


def audio_graph(path):
    with tf.Graph().as_default() as graph:
        sound = tf.compat.v1.placeholder(tf.float32, (1, 800), "sound")
        power = tf.raw_ops.AudioSpectrogram(
            input=tf.reshape(sound, (800, 1)), window_size=200, stride=100, magnitude_squared=True
        )
        tf.raw_ops.Mfcc(spectrogram=power, sample_rate=16000, name="features")
        path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def test_custom_ops_that_litert_has_are_run_and_compared(tmp_path):
    graph = audio_graph(tmp_path / "audio.pb")
    export = kc.Export(tmp_path / "audio.tflite", mode="float32", allow_custom_ops=True)
    report = kc.export_tflite(graph, export)
    assert report.verified_on == "inputs drawn from [0, 1)"
    assert report.largest_steps["features"] < 1e-2
    contents = kc.inspect_tflite(tmp_path / "audio.tflite")
    assert contents.op_counts["AudioSpectrogram"] == contents.op_counts["Mfcc"] == 1
    file = kc.load_tflite((tmp_path / "audio.tflite").read_bytes())
    assert file.predict(np.zeros((1, 800), "float32")).shape == tuple(
        report.outputs["features"]["shape"]
    )


def test_custom_ops_that_litert_does_not_have_are_inspected_and_named(tmp_path):
    graph = audio_graph(tmp_path / "audio.pb")
    export = kc.Export(tmp_path / "audio.tflite", mode="float32", allow_custom_ops=True)
    kc.export_tflite(graph, export)
    data = (tmp_path / "audio.tflite").read_bytes()
    model = unpack(data, "test")
    for code in model.operatorCodes:
        code.customCode = {b"Mfcc": b"OurMfcc"}.get(code.customCode, code.customCode)
    data = pack(model, len(data))
    contents = kc.inspect_tflite(data)
    assert contents.op_counts["OurMfcc"] == 1
    assert "OurMfcc" in str(contents)
    assert {op.output for op in contents.ops} >= {"features"}
    with pytest.raises(ValueError, match="Encountered unresolved custom op: OurMfcc"):
        kc.load_tflite(data)
