"""Inputs of free shapes: `input_shape` fixes them for the file, and for all that is done for it."""

import re

import numpy as np
import pytest
from helpers.untouched import untouched

import keras_compress as kc

pytestmark = pytest.mark.by_turns

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.random((16, 8, 10, 3)).astype("float32")
SERIES = GENERATOR.random((16, 6, 3)).astype("float32")
Y = GENERATOR.random((16, 2)).astype("float32")
FIXED = {"image": (12, 9, 3), "series": (5, 3)}
"""Other shapes than those trained on."""


def free_net(keras, *kinds):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs, parts = [], []
    if "image" in kinds:
        inputs.append(layers.Input((None, None, 3), name="image"))
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs[-1])
        parts.append(layers.GlobalAveragePooling2D(name="mean")(layers.MaxPooling2D()(x)))
    if "series" in kinds:
        inputs.append(layers.Input((None, 3), name="series"))
        parts.append(layers.GlobalMaxPooling1D(name="most")(layers.Dense(4)(inputs[-1])))
    x = parts[0] if len(parts) == 1 else layers.Concatenate()(parts)
    model = keras.Model(inputs[0] if len(inputs) == 1 else inputs, layers.Dense(2, name="two")(x))
    model.compile("sgd", "mse", jit_compile=False)
    return model


def train(model, kinds, *callbacks):
    data = [{"image": IMAGES, "series": SERIES}[kind] for kind in kinds]
    given = data[0] if len(data) == 1 else data
    return model.fit(given, Y, batch_size=4, verbose=0, callbacks=list(callbacks))


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("kinds", [("image",), ("series",), ("image", "series")], ids="-".join)
def test_a_quantized_fit_leaves_a_file_of_the_shape_asked_for(keras, kinds, tmp_path):
    path = tmp_path / "net.tflite"
    export = kc.Export(path, input_shape={kind: FIXED[kind] for kind in kinds}, batch_size=2)
    compress = kc.Compress(quantization=kc.Quantization(delay=2), export=export)
    model = free_net(keras, *kinds)
    train(model, kinds, compress)
    report = compress.report.export
    assert report.error is None
    assert kc.inspect_tflite(path).all_integer
    assert {name: end["shape"] for name, end in report.inputs.items()} == {
        kind: [2, *FIXED[kind]] for kind in kinds
    }
    assert report.largest_steps["two"] <= 2
    assert report.predict_steps["two"] <= 2
    assert report.layers
    rows = {kind: GENERATOR.random((6, *FIXED[kind])).astype("float32") for kind in kinds}
    given = list(rows.values())
    answers = model.predict(given[0] if len(given) == 1 else given, verbose=0)
    step = report.outputs["two"]["scale"]
    assert np.abs(kc.load_tflite(path).predict(rows) - answers).max() <= 2.01 * step


@pytest.mark.parametrize("form", [{"image": [12, 9, 3]}, (12, 9, 3), [12, 9, 3]])
def test_a_single_input_needs_no_name(keras, form, tmp_path):
    model = free_net(keras, "image")
    model.save(tmp_path / "net.keras")
    for source in (model, tmp_path / "net.keras"):
        path = tmp_path / "net.tflite"
        report = kc.export_tflite(source, kc.Export(path, mode="float32", input_shape=form))
        assert report.inputs["image"]["shape"] == [1, 12, 9, 3]
        assert report.largest_steps["two"] < 1e-5


def test_data_has_the_shape_of_the_file(keras, tmp_path):
    model = free_net(keras, "series")
    given = {"input_shape": (5, 3), "representative_dataset": SERIES[:, :5]}
    report = kc.export_tflite(model, kc.Export(tmp_path / "net.tflite", **given))
    assert report.verified_on == "representative_dataset"
    message = "Export: `representative_dataset` must"
    with pytest.raises(ValueError, match=message):
        kc.export_tflite(
            model, kc.Export(tmp_path / "net.tflite", **{**given, "input_shape": (6, 3)})
        )


IMAGE = "input 'image' of shape (None, None, None, 3)"
REFUSED = [
    (
        ("image",),
        None,
        "Export: every dimension of an input but the batch must be fixed; give its shape with "
        f"`input_shape={{'image': shape}}`. Received: {IMAGE}",
    ),
    (
        ("image", "series"),
        {"image": (12, 9, 3)},
        "Export: every dimension of an input but the batch must be fixed; give its shape with "
        "`input_shape={'series': shape}`. Received: input 'series' of shape (None, None, 3)",
    ),
    (
        ("image",),
        {"picture": (12, 9, 3)},
        "Export: `input_shape` must be for inputs of the model, ['image']. "
        "Received: input_shape={'picture': (12, 9, 3)}",
    ),
    (
        ("image", "series"),
        (5, 3),
        "Export: `input_shape` must be a dict of input name -> shape for a model of several "
        "inputs, ['image', 'series']. Received: input_shape=(5, 3)",
    ),
    *(
        (
            ("image",),
            shape,
            f"Export: `input_shape` must fit the model's {IMAGE}, without the batch. "
            f"Received: input_shape={shape}",
        )
        for shape in [(12, 9, 1), (12, 3), (1, 12, 9, 3), ()]
    ),
]


@pytest.mark.parametrize("rehearse", [True, False])
@pytest.mark.parametrize(("kinds", "given", "message"), REFUSED)
def test_what_does_not_fit_is_refused(keras, kinds, given, message, rehearse, tmp_path):
    model = free_net(keras, *kinds)
    export = kc.Export(tmp_path / "net.tflite", input_shape=given, rehearse=rehearse)
    compress = kc.Compress(quantization=kc.Quantization(delay=2), export=export)
    with untouched(model), pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(model, kinds, compress)
    assert not model.optimizer.iterations.numpy()
    floats = kc.Export(tmp_path / "net.tflite", mode="float32", input_shape=given)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kc.export_tflite(model, floats)


def test_a_graph_gets_its_shapes_elsewhere(keras, tmp_path):
    (tmp_path / "net.pb").write_bytes(b"")
    message = (
        "Export: `input_shape` must be None, but for a model of Keras: give shapes with "
        "`inputs={name: shape}`. Received: input_shape=(5, 3)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kc.export_tflite(
            tmp_path / "net.pb", kc.Export(tmp_path / "net.tflite", input_shape=(5, 3))
        )
