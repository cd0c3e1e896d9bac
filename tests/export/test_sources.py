"""What a file is made of besides a model in memory: files of Keras, SavedModels, frozen graphs."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers.nets import trained_net

import keras_compress as kc

pytestmark = pytest.mark.by_turns


@pytest.fixture(scope="module")
def plain(keras, digits):
    return trained_net(keras, digits, epochs=1, batch_norm=True)


@pytest.fixture(scope="module")
def rounded(keras, digits):
    compress = kc.Compress(quantization=kc.Quantization(delay=0.5))
    return trained_net(keras, digits, compress, epochs=1)


@pytest.fixture(scope="module")
def calibrated(plain, digits, tmp_path_factory):
    """What the model in memory gives: the report."""
    return kc.export_tflite(plain, with_data(tmp_path_factory.mktemp("memory"), digits))


def with_data(folder, digits):
    return kc.Export(folder / "net.tflite", representative_dataset=digits[0][:64])


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_of_keras_gives_the_file_that_its_model_gives(
    plain, calibrated, digits, tmp_path, suffix
):
    plain.save(tmp_path / f"net{suffix}")
    report = kc.export_tflite(str(tmp_path / f"net{suffix}"), with_data(tmp_path, digits))
    assert report.sha256 == calibrated.sha256


def saved(keras, model, folder):
    if keras.__name__ == "keras":
        model.export(folder, verbose=False)
    else:
        model.save(folder, save_format="tf")


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("mode", ["int8", "float32"])
def test_a_saved_model_answers_as_its_model(keras, plain, digits, tmp_path, mode):
    saved(keras, plain, tmp_path / "net")
    path = tmp_path / "net.tflite"
    data = digits[0][:64]
    report = kc.export_tflite(
        tmp_path / "net",
        kc.Export(path, mode=mode, representative_dataset=data if mode == "int8" else None),
    )
    _, _, x_test, _ = digits
    answers = plain.predict(x_test, verbose=0)
    limit = {"int8": 0.1, "float32": 1e-5}[mode]
    assert np.abs(kc.load_tflite(path).predict(x_test) - answers).max() < limit
    assert list(report.inputs) == ["image"]
    assert kc.inspect_tflite(path).all_integer is (mode == "int8")


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("state", ["net.npz", "elsewhere.npz"])
def test_a_file_with_its_state_gives_the_file_of_the_rounded_model(
    rounded, tmp_path, suffix, state
):
    kc.strip(rounded).save(tmp_path / f"net{suffix}")
    kc.save_state(rounded, tmp_path / state)
    expected = kc.export_tflite(rounded, kc.Export(tmp_path / "a.tflite"))
    found = kc.export_tflite(
        tmp_path / f"net{suffix}",
        kc.Export(tmp_path / "b.tflite"),
        state=None if state == "net.npz" else tmp_path / state,
    )
    assert found.sha256 == expected.sha256
    assert found.layers == expected.layers


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda weight: weight + 0.01, "it drops weights of '.*' that are not zero there"),
        (lambda weight: weight * 1.01, "it was saved with other weights"),
    ],
)
def test_a_state_of_other_weights_is_not_taken_for_theirs(keras, changed, why, tmp_path, caplog):
    """Masks and ranges of an earlier training, beside the file of a later one."""
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse", jit_compile=False)
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    pruning = kc.Pruning(kc.ConstantSparsity(0.5, begin_step=1, frequency=1))
    compress = kc.Compress(pruning=pruning, quantization=kc.Quantization(delay=2), verbose=0)
    model.fit(x, x[:, :3], batch_size=4, verbose=0, callbacks=[compress])
    kc.save_state(model, tmp_path / "net.npz")
    later = kc.strip(model)
    later.set_weights([changed(weight) for weight in later.get_weights()])
    later.save(tmp_path / "net.keras")
    export = kc.Export(tmp_path / "net.tflite")
    with pytest.raises(ValueError, match=f"of the same moment as its weights; {why}"):
        kc.export_tflite(tmp_path / "net.keras", export)
    assert not (tmp_path / "net.tflite").exists()
    if "saved with other weights" in why:  # who asks for it gets it, and is told
        kc.export_tflite(tmp_path / "net.keras", export, state=tmp_path / "net.npz")
        assert why in caplog.text
    kc.strip(model).save(tmp_path / "net.keras")
    kc.export_tflite(tmp_path / "net.keras", export)


def test_without_state_and_data_there_are_no_ranges(rounded, digits, tmp_path):
    rounded.save(tmp_path / "net.keras")
    np.savez(tmp_path / "net.npz", image=digits[0][:8])  # data of the same name is no state
    with pytest.raises(ValueError, match="`representative_dataset` must be given"):
        kc.export_tflite(tmp_path / "net.keras", kc.Export(tmp_path / "net.tflite"))
    with pytest.raises(ValueError, match="`path` must be a file that `save_state` wrote"):
        kc.export_tflite(
            tmp_path / "net.keras",
            kc.Export(tmp_path / "net.tflite"),
            state=tmp_path / "net.npz",
        )
    assert not (tmp_path / "net.tflite").exists()


def test_a_saved_model_of_several_signatures(tmp_path):
    """As tf_keras and TF1 left them, with a signature "predict" that is none of the usual ones."""

    class Two(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
        def twice(self, x):
            return {"y": 2.0 * x}

        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
        def thrice(self, x):
            return {"z": 3.0 * x}

    module, folder = Two(), str(tmp_path / "two")
    tf.saved_model.save(module, folder, {"predict": module.twice, "other": module.thrice})
    path = tmp_path / "net.tflite"
    export = kc.Export(path, mode="float32")
    x = np.ones((2, 3), "float32")
    for signature, factor in (("predict", 2), ("other", 3)):
        kc.export_tflite(folder, export, signature=signature, tags=["serve"])
        np.testing.assert_array_equal(kc.load_tflite(path).predict(x), factor * x)
    with pytest.raises(
        ValueError, match=r"it has \['other', 'predict'\]; give the one you mean as"
    ):
        kc.export_tflite(folder, export)
    with pytest.raises(ValueError, match=r"`signature` must be one of \['other', 'predict'\]"):
        kc.export_tflite(folder, export, signature="serving_default")
    with pytest.raises(ValueError, match=r"`tags` must be those of a graph in it.*tags=\['gpu'\]"):
        kc.export_tflite(folder, export, tags=["gpu"])
    with pytest.raises(TypeError, match="`tags` must be a list of names"):
        kc.export_tflite(folder, export, tags="serve")
    graph = frozen_graph(tmp_path / "net.pb")
    with pytest.raises(ValueError, match="`signature` must be None, but for the folder of a Saved"):
        kc.export_tflite(graph, export, signature="predict")


# TF1's frozen graphs. One is written as TF1 wrote them: placeholders, constants, no signature.


def frozen_graph(path, rounds=None):
    """A dense layer with ReLU and one to three classes; `rounds` puts fake-quant ops into it, with
    or without one behind the input.
    """
    generator = np.random.default_rng(0)
    v1 = tf.compat.v1

    def rounded(tensor, low, high, **options):
        if not rounds:
            return tensor
        return tf.quantization.fake_quant_with_min_max_vars(tensor, low, high, **options)

    with tf.Graph().as_default() as graph:
        image = v1.placeholder(tf.float32, (None, 8), "input")
        x = rounded(image, -6.0, 6.0) if rounds == "input too" else image
        for units, name in ((16, "hidden"), (3, "logits")):
            kernel = tf.constant(generator.normal(size=(x.shape[-1], units)), tf.float32)
            x = tf.matmul(x, rounded(kernel, -3.0, 3.0, narrow_range=True), name=name)
            x = tf.nn.relu(x) if units == 16 else x
            x = rounded(x, 0.0, 20.0) if units == 16 else rounded(x, -40.0, 40.0)
        tf.identity(x, "scores")
        tf.nn.softmax(x, name="classes")
        path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def answers_of_graph(path, values, output):
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(tf.compat.v1.GraphDef.FromString(path.read_bytes()), name="")
        with tf.compat.v1.Session(graph=graph) as session:
            return session.run(f"{output}:0", {"input:0": values})


@pytest.fixture
def values():
    return np.random.default_rng(1).uniform(-1, 1, (32, 8)).astype("float32")


def test_a_frozen_graph_with_named_ends(values, tmp_path):
    graph, path = frozen_graph(tmp_path / "net.pb"), tmp_path / "net.tflite"
    kc.export_tflite(
        graph, kc.Export(path, mode="float32"), inputs=["input"], outputs=["classes", "scores"]
    )
    file = kc.load_tflite(path)
    assert [end.name for end in file.outputs] == ["classes", "scores"]
    found = file.predict(values)
    for name in ("classes", "scores"):
        expected = answers_of_graph(graph, values, name)
        np.testing.assert_allclose(found[name], expected, atol=1e-4)
    # By themselves: what nobody fed, and what nobody reads.
    kc.export_tflite(graph, kc.Export(path, mode="float32"))
    assert [end.name for end in kc.load_tflite(path).outputs] == ["scores", "classes"]
    kc.export_tflite(graph, kc.Export(path, representative_dataset=values), outputs=["classes"])
    assert kc.inspect_tflite(path).all_integer
    kc.export_tflite(graph, kc.Export(path, mode="float32", batch_size=4), outputs=["hidden"])
    assert kc.load_tflite(path).inputs[0].shape == (4, 8)


@pytest.mark.parametrize("rounds", ["inside", "input too"])
def test_a_frozen_graph_with_fake_quant_ops_takes_their_ranges(values, tmp_path, rounds):
    """The classic of TF1: `create_eval_graph`, then `mean_values` and `std_dev_values`."""
    graph = frozen_graph(tmp_path / "net.pb", rounds)
    path = tmp_path / "net.tflite"
    export = kc.Export(
        path,
        inference_input_type="uint8",
        quantized_input_stats=(127.5, 127.5),
        verify_data=values,
    )
    report = kc.export_tflite(graph, export, outputs=["scores"])
    assert kc.inspect_tflite(path).all_integer
    image = report.inputs["input"]
    assert (image["scale"], image["zero_point"]) == (pytest.approx(1 / 127.5, rel=1e-6), 128)
    assert report.largest_steps["scores"] <= 1
    expected = answers_of_graph(graph, values, "scores")
    step = report.outputs["scores"]["scale"]
    assert np.abs(kc.load_tflite(path).predict(values) - expected).mean() < step
    # As a float network it rounds nothing.
    kc.export_tflite(graph, kc.Export(path, mode="float32"), outputs=["scores"])
    assert set(kc.inspect_tflite(path).op_counts) == {"FULLY_CONNECTED"}


def test_a_graph_written_as_text(values, tmp_path):
    graph = frozen_graph(tmp_path / "net.pb")
    graph_def = tf.compat.v1.GraphDef.FromString(graph.read_bytes())
    (tmp_path / "net.pbtxt").write_text(str(graph_def))
    files = [tmp_path / name for name in ("of_text.tflite", "of_bytes.tflite")]
    kc.export_tflite(tmp_path / "net.pbtxt", kc.Export(files[0], mode="float32"))
    kc.export_tflite(graph, kc.Export(files[1], mode="float32"))
    assert files[0].read_bytes() == files[1].read_bytes()
    (tmp_path / "net.pbtxt").write_text("node { no such thing }")
    with pytest.raises(ValueError, match="a frozen graph, as TF1's `freeze_graph` wrote it"):
        kc.export_tflite(tmp_path / "net.pbtxt", kc.Export(files[0], mode="float32"))


def test_the_range_of_a_rounded_input_is_known(tmp_path):
    graph = frozen_graph(tmp_path / "net.pb", "input too")
    export = kc.Export(tmp_path / "net.tflite")
    report = kc.export_tflite(graph, export, outputs=["scores"])
    assert report.inputs["input"]["scale"] == pytest.approx(12 / 255, rel=1e-5)
    assert report.verified_on == "inputs drawn inside the watched ranges"


def test_a_graph_cut_at_an_inner_tensor(values, tmp_path):
    graph, path = frozen_graph(tmp_path / "net.pb"), tmp_path / "net.tflite"
    export = kc.Export(path, mode="float32")
    report = kc.export_tflite(graph, export, inputs=["hidden"], outputs=["scores"])
    assert report.inputs["hidden"]["shape"] == [1, 16]
    hidden = answers_of_graph(graph, values, "hidden")
    expected = answers_of_graph(graph, values, "scores")
    np.testing.assert_allclose(kc.load_tflite(path).predict(hidden), expected, atol=1e-4)


def test_a_graph_with_its_batch_in_it(values, tmp_path):
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 2, 4), "input")
        with tf.control_dependencies([image]):
            tf.reshape(image, (2, 8), name="flat")
        (tmp_path / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    export = kc.Export(tmp_path / "net.tflite", mode="float32")
    with pytest.raises(ValueError, match=r"give the `batch_size` .*'input': \[1, 2, 4\]"):
        kc.export_tflite(tmp_path / "net.pb", export)
    export = kc.Export(tmp_path / "net.tflite", mode="float32", batch_size=2)
    assert kc.export_tflite(tmp_path / "net.pb", export).outputs["flat"]["shape"] == [2, 8]


def test_a_graph_that_leaves_a_shape_open_asks_for_it(tmp_path):
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3), "input")
        tf.reduce_mean(image, axis=(1, 2), name="mean")
        (tmp_path / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    export = kc.Export(tmp_path / "net.tflite", mode="float32")
    with pytest.raises(ValueError, match=r"inputs=\{'input': shape\}.*\(None, None, None, 3\)"):
        kc.export_tflite(tmp_path / "net.pb", export)
    report = kc.export_tflite(tmp_path / "net.pb", export, inputs={"input": (None, 8, 8, 3)})
    assert report.inputs["input"]["shape"] == [1, 8, 8, 3]


# What goes wrong.


def test_ends_that_a_graph_does_not_have(keras, plain, tmp_path):
    export = kc.Export(tmp_path / "net.tflite", mode="float32")
    graph = frozen_graph(tmp_path / "net.pb")
    with pytest.raises(ValueError, match=r"`outputs` must be names of nodes.*'scores'.*'score'"):
        kc.export_tflite(graph, export, outputs=["score"])
    with pytest.raises(ValueError, match=r"`inputs` must be names of nodes.*'input'.*'image'"):
        kc.export_tflite(graph, export, inputs=["image"])
    with pytest.raises(TypeError, match="`outputs` must be a list of names"):
        kc.export_tflite(graph, export, outputs="scores")
    with pytest.raises(ValueError, match=r"must be names of tensors of the graph.*'scores:3'"):
        kc.export_tflite(graph, export, outputs=["scores:3"])
    with pytest.raises(TypeError, match="`export` must be an Export"):
        kc.export_tflite(graph, "net.tflite")
    with pytest.raises(TypeError, match="export_tflite: the model must be a Keras 3 or tf_keras"):
        kc.export_tflite(None, export)
    with pytest.raises(ValueError, match=r"`state` must be None, but for a .keras or .h5 file"):
        kc.export_tflite(graph, export, state="net.npz")
    saved(keras, plain, tmp_path / "net")
    with pytest.raises(ValueError, match="`outputs` must be names of the signature"):
        kc.export_tflite(tmp_path / "net", export, outputs=["nothing"])
    with pytest.raises(ValueError, match="`inputs` must be None for a model"):
        kc.export_tflite(plain, export, inputs=["image"])
    plain.save(tmp_path / "net.keras")
    with pytest.raises(ValueError, match=r"`outputs` must be None for a .keras file"):
        kc.export_tflite(tmp_path / "net.keras", export, outputs=["x"])


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("net.keras", b"nothing", "it is damaged, or something else"),
        ("net.h5", b"nothing", "it is damaged, or something else"),
        ("net.pb", b"nothing", "a frozen graph.*it cannot be read"),
        ("net.pb", b"", "a frozen graph.*it is empty"),
        ("net.tflite", b"nothing", "a TFLite file already: see `inspect_tflite`"),
        ("net.onnx", b"nothing", r"path of a \.keras, \.h5 or frozen \.pb file, or of a Saved"),
        ("folder", None, r"path of a \.keras, \.h5 or frozen \.pb file, or of a Saved"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, name, contents, message):
    path = tmp_path / name
    path.mkdir() if contents is None else path.write_bytes(contents)
    export = kc.Export(tmp_path / "out.tflite", mode="float32")
    with pytest.raises(ValueError, match=message) as caught:
        kc.export_tflite(path, export)
    assert repr(str(path)) in str(caught.value)
    assert not (tmp_path / "out.tflite").exists()


def test_a_path_with_nothing_at_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        kc.export_tflite(tmp_path / "net.keras", kc.Export(tmp_path / "out.tflite"))


def test_a_cut_saved_model(keras, plain, tmp_path):
    saved(keras, plain, tmp_path / "net")
    shutil.rmtree(tmp_path / "net" / "variables")
    with pytest.raises(ValueError, match="the folder of a whole SavedModel"):
        kc.export_tflite(tmp_path / "net", kc.Export(tmp_path / "out.tflite", mode="float32"))


def test_weights_alone_are_no_model(plain, tmp_path):
    plain.save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(ValueError, match="it holds weights only: load them into the model"):
        kc.export_tflite(
            tmp_path / "net.weights.h5", kc.Export(tmp_path / "out.tflite", mode="float32")
        )


def test_a_damaged_state_is_not_taken_for_data(rounded, digits, tmp_path):
    kc.strip(rounded).save(tmp_path / "net.keras")
    kc.save_state(rounded, tmp_path / "net.npz")
    whole = (tmp_path / "net.npz").read_bytes()
    (tmp_path / "net.npz").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"`path` must be a file that `save_state` wrote.*net.npz"):
        kc.export_tflite(tmp_path / "net.keras", with_data(tmp_path, digits))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_in_a_file_is_not_run(keras, tmp_path, suffix):
    layers = keras.layers
    model = keras.Sequential([layers.Input((4,)), layers.Lambda(lambda x: 2 * x)])
    model.save(tmp_path / f"net{suffix}")
    with pytest.raises(ValueError, match="Lambda layers of your own with Keras, and give the mod"):
        kc.export_tflite(
            tmp_path / f"net{suffix}", kc.Export(tmp_path / "out.tflite", mode="float32")
        )


def test_classes_of_the_users_own_are_loaded_by_the_user(keras, tmp_path):
    class Doubled(keras.layers.Layer):
        def call(self, inputs):
            return 2.0 * inputs

    model = keras.Sequential([keras.layers.Input((4,)), Doubled(), keras.layers.Dense(2)])
    model.save(tmp_path / "net.keras")
    export = kc.Export(tmp_path / "out.tflite", mode="float32")
    with pytest.raises(ValueError, match=r"load one with classes.*give the model.*Doubled"):
        kc.export_tflite(tmp_path / "net.keras", export)
    with keras.utils.custom_object_scope({"Doubled": Doubled}):
        kc.export_tflite(tmp_path / "net.keras", export)
    values = np.ones((1, 4), "float32")
    found = kc.load_tflite(tmp_path / "out.tflite").predict(values)
    np.testing.assert_allclose(found, model.predict(values, verbose=0), atol=1e-5)


def test_a_free_shape_is_refused(keras, tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((None, None, 3), name="image"), layers.GlobalAveragePooling2D()]
    )
    model.save(tmp_path / "net.keras")
    with pytest.raises(ValueError, match=r"every dimension of an input but the batch.*'image'"):
        kc.export_tflite(tmp_path / "net.keras", kc.Export(tmp_path / "out.tflite", mode="float32"))


def test_an_op_that_tflite_does_not_know(tmp_path):
    with tf.Graph().as_default() as graph:
        matrix = tf.compat.v1.placeholder(tf.float32, (None, 3, 3), "input")
        tf.linalg.cholesky(matrix, name="triangle")
        (tmp_path / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    path = tmp_path / "net.tflite"
    with pytest.raises(kc.ConversionError, match=r"no such op|neither a custom op"):
        kc.export_tflite(tmp_path / "net.pb", kc.Export(path, mode="float16"))
    report = kc.export_tflite(
        tmp_path / "net.pb", kc.Export(path, mode="float32", allow_custom_ops=True)
    )
    assert "LiteRT does not have" in report.verified_on
    assert "Cholesky" in report.verified_on
    assert "Cholesky" in str(kc.inspect_tflite(path))
    with pytest.raises(ValueError, match="Cholesky"):
        kc.load_tflite(path)
