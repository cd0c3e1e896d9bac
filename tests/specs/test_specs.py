"""The specs: what they refuse, what they store, and that what was written reads back equal."""

import copy
import dataclasses
import inspect
import json
import os
import pathlib
import pickle
import re
import tempfile

import numpy as np
import pytest

import keras_compress
from keras_compress import (
    ConstantSparsity,
    DetectionPostProcess,
    Export,
    PolynomialDecay,
    Pruning,
    Quantization,
)
from keras_compress.specs.fields import OF_UPDATES

HALF = PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=10)
ANCHORS = np.array([[0.5, 0.5, 1, 0.1], [0.25, 0, 0.3, 2]], "float32")
FLAT = ConstantSparsity(target_sparsity=0.25, begin_step=0.5)

ROUND_TRIPS = [
    PolynomialDecay(
        initial_sparsity=0.1, final_sparsity=0.8, begin_step=3, end_step=0.5, power=2.5, frequency=7
    ),
    ConstantSparsity(target_sparsity=0.5, begin_step=0.25, end_step=1.0, frequency=1),
    Pruning(HALF),
    Pruning(HALF, layers=["conv1", "backbone/conv1"], block_size=[1, 4], block_pooling_type="MAX"),
    Pruning(None, layers={"conv1": HALF, "conv2": FLAT}),
    Pruning(HALF, layers={"conv2": HALF}, sparsity_m_by_n=[2, 4]),
    Pruning(HALF, structure="channels", score="gamma", allocation="global", multiple_of=8),
    Pruning(HALF, structure="channels", weights=FLAT),
    Pruning(HALF, learning_rate_factor=0.5),
    Pruning(HALF, structure="channels", restart_optimizer=True),
    Quantization(),
    Quantization(learning_rate_factor=2, restart_optimizer=True),
    Quantization(
        delay=0.8, weight_bits=4, calibration_steps=0, freeze_step=1.0, layers=("conv1", "dense")
    ),
    Export("lenet.tflite"),
    Export("lenet.tflite", quantized_input_stats=(127.5, 127.5), default_ranges_stats=(0, 6)),
    Export("lenet.tflite", quantized_input_stats={"image": [0, 255]}, c_array=True),
    Export("lenet.tflite", per_channel_dense=False),
    Export("lenet.tflite", quantized_input_stats="auto"),
    Export("lenet.tflite", mode="float32", sparse=True, allow_custom_ops=True),
    Export(
        "out/lenet.tflite",
        inference_input_type="uint8",
        inference_output_type="float32",
        allow_float_ops=True,
        batch_size=4,
        timeout=0.5,
    ),
    Export(pathlib.Path("lenet.tflite"), mode="float32"),
    Export("lenet.tflite", input_shape={"image": (224, 224, 3), "state": []}, rehearse=False),
    Export("lenet.tflite", input_shape=[28, 28, 1]),
    DetectionPostProcess(ANCHORS),
    DetectionPostProcess(
        ANCHORS.tolist(),
        max_detections=3,
        num_classes=2,
        use_regular_nms=True,
        y_scale=1,
        nms_score_threshold=0,
        nms_iou_threshold=1,
        boxes="where",
        scores="what",
    ),
    Export("ssd.tflite", postprocess=DetectionPostProcess(ANCHORS, max_classes_per_detection=2)),
]


@pytest.mark.parametrize("value", ROUND_TRIPS, ids=repr)
def test_what_was_written_reads_back_equal(value):
    config = value.get_config()
    again = type(value).from_config(json.loads(json.dumps(config)))
    assert again == value
    assert repr(again) == repr(value)  # so 1 and 1.0, which are equal, did not change places
    assert again.get_config() == config
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value


def test_every_public_class_takes_part_in_the_round_trip():
    homes = keras_compress._PUBLIC.items()
    public = {name for name, home in homes if home.startswith("specs.")}
    assert {type(value).__name__ for value in ROUND_TRIPS} == public


@pytest.mark.parametrize("value", ROUND_TRIPS, ids=repr)
def test_a_config_that_misses_a_key_is_refused(value):
    config = value.get_config()
    key = [each for each in config if each not in OF_UPDATES][-1]
    config.pop(key)
    with pytest.raises(ValueError, match=re.escape(f"(missing: '{key}')")):
        type(value).from_config(config)


@pytest.mark.parametrize("value", ROUND_TRIPS, ids=repr)
def test_a_spec_cannot_be_changed(value):
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)


def test_without_a_word_of_the_optimizer_a_config_is_what_it_was_before_there_was_one():
    assert not {"learning_rate_factor", "restart_optimizer"} & set(Pruning(HALF).get_config())
    assert set(Quantization().get_config()) == {
        "delay", "weight_bits", "activation_bits", "calibration_steps", "freeze_step", "layers",
    }  # fmt: skip


@pytest.mark.parametrize("spec", [Pruning(HALF), Quantization(), Export("a.tflite")], ids=repr)
def test_only_the_first_field_may_be_positional(spec):
    fields = [field.name for field in dataclasses.fields(spec) if not field.kw_only]
    assert (
        fields
        == {"Pruning": ["schedule"], "Quantization": [], "Export": ["path"]}[type(spec).__name__]
    )


USUAL = PolynomialDecay(final_sparsity=0.5, begin_step=0.2, end_step=0.6, frequency=10)


def test_a_sparsity_stands_for_the_usual_schedule():
    assert Pruning(0.5).schedule == USUAL
    assert Pruning(None, layers={"a": 0.5}) == Pruning(None, layers={"a": USUAL})
    assert Pruning.from_config(Pruning(0.5).get_config()) == Pruning(USUAL)  # what a report shows
    for wrong in (1.0, 50, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"`schedule` must be a number in \[0, 1\)"):
            Pruning(wrong)
    with pytest.raises(TypeError, match="or a sparsity"):
        Pruning(True)


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_a_layer_stands_for_its_name(package):
    layers = pytest.importorskip(package).layers
    one, two = layers.Dense(2, name="one"), layers.Dense(2, name="two")
    assert Quantization(layers=[one, "two"]).layers == ("one", "two")
    assert Pruning(0.5, layers={one: USUAL, two: HALF}).layers == {"one": USUAL, "two": HALF}
    with pytest.raises(TypeError, match=r"\(did you mean \['one'\]\?\)"):
        Quantization(layers=one)  # which could be called, as a function that chooses layers


def test_of_two_layers_of_one_name_the_one_is_meant_that_was_given():
    keras = pytest.importorskip("keras")
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="same")], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(4, name="same")])
    model.compile("sgd", "mse")
    for layer, path in (
        (inner.get_layer("same"), "inner/same"),
        (model.get_layer("same"), "same"),
    ):
        spec = Pruning(0.5, layers=[layer])
        found = keras_compress.preview(model, pruning=spec, steps=10)
        assert [each.path for each in found.layers] == [path]
        assert copy.deepcopy(spec) == pickle.loads(pickle.dumps(spec)) == spec


def test_schedules_take_tfmots_positions():
    tfmot = pytest.importorskip("tensorflow_model_optimization").sparsity.keras
    for ours, theirs in (
        (PolynomialDecay, tfmot.PolynomialDecay),
        (ConstantSparsity, tfmot.ConstantSparsity),
    ):
        names = list(inspect.signature(theirs.__init__).parameters)[1:]
        assert list(inspect.signature(ours).parameters) == names
    assert PolynomialDecay(0.1, 0.5, 10, 20) == PolynomialDecay(
        initial_sparsity=0.1, final_sparsity=0.5, begin_step=10, end_step=20
    )
    assert ConstantSparsity(0.5, 10) == ConstantSparsity(target_sparsity=0.5, begin_step=10)
    with pytest.raises(TypeError, match="`final_sparsity` and `end_step` must be given"):
        PolynomialDecay(0.5, begin_step=10)


def test_specs_differ_when_a_value_does():
    assert Pruning(HALF) == Pruning(HALF, layers=None, block_size=[1, 1])
    assert Pruning(HALF) != Pruning(HALF, layers=["conv1"])
    assert Pruning(HALF, layers={"a": HALF}) != Pruning(HALF, layers={"a": FLAT})
    assert Quantization() != Quantization(delay=1)
    assert Export("a.tflite") != Export("b.tflite")


def test_a_dict_of_layers_is_the_specs_own():
    layers = {"conv1": HALF}
    spec = Pruning(FLAT, layers=layers)
    layers["conv2"] = FLAT
    assert spec.layers == {"conv1": HALF}
    assert spec.schedules == (FLAT, HALF)


def test_pruning_resolves_every_schedule():
    spec = Pruning(FLAT, layers={"conv1": HALF, "conv2": FLAT})
    assert spec.has_fractions
    resolved = spec.resolve(100, 40)
    flat = ConstantSparsity(target_sparsity=0.25, begin_step=120)
    assert resolved == Pruning(flat, layers={"conv1": HALF, "conv2": flat})
    assert not resolved.has_fractions


def test_quantization_resolves_its_steps():
    spec = Quantization(delay=0.5, freeze_step=1.0)
    assert spec.has_fractions
    assert spec.resolve(100, 40) == Quantization(delay=120, freeze_step=140)
    assert Quantization(delay=0.5).resolve(100, 40) == Quantization(delay=120)
    assert not Quantization(delay=3, freeze_step=9).has_fractions


def test_tfmot_schedules_are_taken():
    import tensorflow_model_optimization as tfmot

    theirs = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.5, 2, 10)
    assert Pruning(theirs, layers={"conv1": theirs}) == Pruning(HALF, layers={"conv1": HALF})


@pytest.mark.parametrize(
    ("mode", "given", "expected"),
    [("int8", None, "int8"), ("int8", "uint8", "uint8"), ("float32", None, "float32")],
)
def test_the_types_at_the_ends_default_to_the_modes(mode, given, expected):
    spec = Export("a.tflite", mode=mode, inference_input_type=given, inference_output_type=given)
    assert (spec.input_type, spec.output_type) == (expected, expected)


def test_types_may_be_dtypes():
    import tensorflow as tf

    for given in (tf.uint8, np.uint8, np.dtype("uint8"), "uint8"):
        assert Export("a.tflite", inference_input_type=given).inference_input_type == "uint8"


class Uncopyable:
    """Data that fails when it is copied or compared, as a large data set should not be."""

    def __iter__(self):
        return iter([np.zeros(3)])

    def __deepcopy__(self, memo):
        raise AssertionError("copied")

    def __eq__(self, other):
        raise AssertionError("compared")

    __hash__ = None


def test_statistics_by_name_are_hashed_and_handed_out_as_a_copy():
    export = Export("a.tflite", quantized_input_stats={"image": (0, 255)})
    assert hash(export) == hash(Export("a.tflite"))
    assert hash(Export("a.tflite", input_shape={"x": (2,)})) == hash(Export("a.tflite"))
    export.get_config()["quantized_input_stats"]["image"][0] = 9
    assert export.quantized_input_stats == {"image": (0.0, 255.0)}


def test_data_is_shared_by_copies_and_no_part_of_equality_or_the_dict():
    data = Uncopyable()
    spec = Export("a.tflite", representative_dataset=data, verify_data=data)
    assert copy.deepcopy(spec).representative_dataset is data
    assert spec == Export("a.tflite", representative_dataset=Uncopyable())
    assert spec.get_config() == Export("a.tflite").get_config()
    assert "Uncopyable" not in repr(spec)
    again = dataclasses.replace(Export.from_config(spec.get_config()), verify_data=data)
    assert again.verify_data is data


def data_forms():
    import tensorflow as tf

    return [
        np.zeros((4, 2)),
        [np.zeros((4, 2)), np.zeros((4, 3))],
        {"a": np.zeros((4, 2))},
        tf.zeros((4, 2)),
        tf.data.Dataset.from_tensor_slices(np.zeros((4, 2))),
        lambda: iter([np.zeros(2)]),
        lambda count=3: iter([np.zeros(2)] * count),
    ]


@pytest.mark.parametrize("index", range(7))
def test_data_may_come_in_any_form_that_can_be_read_twice(index):
    data = data_forms()[index]
    assert Export("a.tflite", representative_dataset=data).representative_dataset is data


def test_data_may_be_a_file():
    spec = Export("a.tflite", verify_data=pathlib.Path("data.npz"))
    assert spec.verify_data == "data.npz"


def every_layer(layer):
    return True


GENERATOR = (number for number in range(3))
NAMES = "None, a list of layer names or a callable `layer -> bool`"
NAMES_OR_DICT = (
    "None, a list of layer names, a callable `layer -> bool` or a dict of name -> schedule"
)
SCHEDULE = "a PolynomialDecay or ConstantSparsity, of keras_compress or of tfmot, or a sparsity"
STEP = "an int >= 0 or a float in [0, 1]"
DATA = (
    "array(s), a tf.data.Dataset, the path of a .npz file or a callable without arguments "
    "that returns an iterable"
)

ANCHOR_RULE = (
    "array-like of shape (N, 4): rows of (center y, center x, height, width), finite, with height "
    "and width above 0"
)
REFUSED = [
    # Pruning
    (
        lambda: Pruning("half"),
        TypeError,
        f"Pruning: `schedule` must be {SCHEDULE}. Received: schedule='half'",
    ),
    (
        lambda: Pruning(None),
        TypeError,
        "Pruning: `schedule` must be a schedule unless `layers` is a dict of name -> schedule. "
        "Received: schedule=None",
    ),
    (
        lambda: Pruning(None, layers=["conv1"]),
        TypeError,
        "Pruning: `schedule` must be a schedule unless `layers` is a dict of name -> schedule. "
        "Received: schedule=None",
    ),
    (
        lambda: Pruning(HALF, layers="conv1"),
        TypeError,
        f"Pruning: `layers` must be {NAMES_OR_DICT}. "
        "Received: layers='conv1' (did you mean ['conv1']?)",
    ),
    (
        lambda: Pruning(HALF, layers=[]),
        ValueError,
        "Pruning: `layers` must be None or name at least one layer. Received: layers=[]",
    ),
    (
        lambda: Pruning(None, layers={}),
        ValueError,
        "Pruning: `layers` must be None or name at least one layer. Received: layers={}",
    ),
    (
        lambda: Pruning(HALF, layers=["conv1", 2]),
        TypeError,
        "Pruning: `layers` must be names that are strings, or layers. "
        "Received: layers=['conv1', 2]",
    ),
    (
        lambda: Pruning(HALF, layers=["conv1", "conv1"]),
        ValueError,
        "Pruning: `layers` must be names that are not empty or repeated. "
        "Received: layers=['conv1', 'conv1']",
    ),
    (
        lambda: Pruning(None, layers={"conv1": "half"}),
        TypeError,
        f"Pruning: `layers['conv1']` must be {SCHEDULE}. Received: layers['conv1']='half'",
    ),
    (
        lambda: Pruning(HALF, block_size=4),
        TypeError,
        "Pruning: `block_size` must be two ints >= 1. Received: block_size=4",
    ),
    (
        lambda: Pruning(HALF, block_size=(1, 0)),
        ValueError,
        "Pruning: `block_size` must be two ints >= 1. Received: block_size=(1, 0)",
    ),
    (
        lambda: Pruning(HALF, block_pooling_type="MEAN"),
        ValueError,
        "Pruning: `block_pooling_type` must be 'AVG' or 'MAX'. Received: block_pooling_type='MEAN'",
    ),
    (
        lambda: Pruning(HALF, sparsity_m_by_n=(4, 4)),
        ValueError,
        "Pruning: `sparsity_m_by_n` must be (m, n) with 0 < m < n. "
        "Received: sparsity_m_by_n=(4, 4)",
    ),
    (
        lambda: Pruning(HALF, sparsity_m_by_n="2:4"),
        TypeError,
        "Pruning: `sparsity_m_by_n` must be two ints >= 1. Received: sparsity_m_by_n='2:4'",
    ),
    (
        lambda: Pruning(HALF, sparsity_m_by_n=(2, 4), block_size=(1, 4)),
        ValueError,
        "Pruning: `block_size` must be (1, 1) with sparsity_m_by_n=(2, 4). "
        "Received: block_size=(1, 4)",
    ),
    (
        lambda: Pruning(HALF, sparsity_m_by_n=(1, 4)),
        ValueError,
        "Pruning: `final_sparsity` must be 1/4 with sparsity_m_by_n=(1, 4). "
        "Received: final_sparsity=0.5",
    ),
    (
        lambda: Pruning(HALF, sparsity_m_by_n=(2, 4), layers={"conv1": FLAT}),
        ValueError,
        "Pruning: `target_sparsity` must be 2/4 with sparsity_m_by_n=(2, 4). "
        "Received: target_sparsity=0.25",
    ),
    (
        lambda: Pruning(HALF, structure="filters"),
        ValueError,
        "Pruning: `structure` must be 'channels' or None. Received: structure='filters'",
    ),
    (
        lambda: Pruning(HALF, structure="channels", block_size=(1, 4)),
        ValueError,
        "Pruning: `block_size` must be its default with structure='channels'. "
        "Received: block_size=(1, 4)",
    ),
    (
        lambda: Pruning(HALF, structure="channels", sparsity_m_by_n=(2, 4)),
        ValueError,
        "Pruning: `sparsity_m_by_n` must be its default with structure='channels'. "
        "Received: sparsity_m_by_n=(2, 4)",
    ),
    (
        lambda: Pruning(HALF, multiple_of=8),
        ValueError,
        "Pruning: `multiple_of` must be its default without structure='channels'. "
        "Received: multiple_of=8",
    ),
    (
        lambda: Pruning(HALF, structure="channels", multiple_of=0),
        ValueError,
        "Pruning: `multiple_of` must be an int >= 1. Received: multiple_of=0",
    ),
    (
        lambda: Pruning(HALF, structure="channels", score="fisher"),
        ValueError,
        "Pruning: `score` must be 'l2', 'l1' or 'gamma'. Received: score='fisher'",
    ),
    (
        lambda: Pruning(HALF, layers=every_layer).get_config(),
        ValueError,
        "Pruning: `layers` must be None or names to be written down: a callable has no plain form. "
        f"Received: layers={every_layer!r}",
    ),
    (
        lambda: FLAT.last_step,
        ValueError,
        "ConstantSparsity: `begin_step` must be an int here: a fraction has to be resolved first. "
        "Received: begin_step=0.5",
    ),
    # Quantization
    (
        lambda: Quantization(delay=8e3),
        ValueError,
        f"Quantization: `delay` must be {STEP}. Received: delay=8000.0 (did you mean 8000?)",
    ),
    (
        lambda: Quantization(delay=True),
        TypeError,
        f"Quantization: `delay` must be {STEP}. Received: delay=True",
    ),
    (
        lambda: Quantization(weight_bits=2),
        ValueError,
        "Quantization: `weight_bits` must be 4 or 8. Received: weight_bits=2",
    ),
    (
        lambda: Quantization(activation_bits=16),
        ValueError,
        "Quantization: `activation_bits` must be 8. Received: activation_bits=16",
    ),
    (
        lambda: Quantization(calibration_steps=0.5),
        TypeError,
        "Quantization: `calibration_steps` must be an int >= 0. Received: calibration_steps=0.5",
    ),
    (
        lambda: Quantization(freeze_step=-1),
        ValueError,
        f"Quantization: `freeze_step` must be {STEP}. Received: freeze_step=-1",
    ),
    (
        lambda: Quantization(delay=10, freeze_step=9),
        ValueError,
        "Quantization: `freeze_step` must be at least `delay`. Received: freeze_step=9, delay=10",
    ),
    (
        lambda: Quantization(delay=0.5, freeze_step=0.25),
        ValueError,
        "Quantization: `freeze_step` must be at least `delay`. "
        "Received: freeze_step=0.25, delay=0.5",
    ),
    (
        lambda: Quantization(delay=0.5, freeze_step=40).resolve(0, 100),
        ValueError,
        "Quantization: `freeze_step` must be at least `delay`. "
        "Received: freeze_step=40, delay=0.5 (step 50)",
    ),
    (
        lambda: Quantization(layers="dense"),
        TypeError,
        f"Quantization: `layers` must be {NAMES}. "
        "Received: layers='dense' (did you mean ['dense']?)",
    ),
    (
        lambda: Quantization(layers={"dense": 8}),
        TypeError,
        f"Quantization: `layers` must be {NAMES}. Received: layers={{'dense': 8}}",
    ),
    (
        lambda: Quantization(layers=every_layer).get_config(),
        ValueError,
        "Quantization: `layers` must be None or names to be written down: a callable has no plain "
        f"form. Received: layers={every_layer!r}",
    ),
    (
        lambda: Quantization(learning_rate_factor=0),
        ValueError,
        "Quantization: `learning_rate_factor` must be a number > 0. "
        "Received: learning_rate_factor=0",
    ),
    (
        lambda: Pruning(HALF, learning_rate_factor=float("inf")),
        ValueError,
        "Pruning: `learning_rate_factor` must be a number > 0. Received: learning_rate_factor=inf",
    ),
    (
        lambda: Pruning(HALF, learning_rate_factor="0.1"),
        TypeError,
        "Pruning: `learning_rate_factor` must be a number > 0. "
        "Received: learning_rate_factor='0.1'",
    ),
    (
        lambda: Quantization(restart_optimizer=1),
        TypeError,
        "Quantization: `restart_optimizer` must be True or False. Received: restart_optimizer=1",
    ),
    # Export
    (
        lambda: Export("lenet.h5"),
        ValueError,
        "Export: `path` must be the path of a file that ends in '.tflite'. "
        "Received: path='lenet.h5'",
    ),
    (
        lambda: Export(b"lenet.tflite"),
        TypeError,
        "Export: `path` must be the path of a file that ends in '.tflite'. "
        "Received: path=b'lenet.tflite'",
    ),
    (
        lambda: Export("a.tflite", mode="int4"),
        ValueError,
        "Export: `mode` must be 'float32', 'float16', 'dynamic', 'int8' or 'int16x8'. "
        "Received: mode='int4'",
    ),
    (
        lambda: Export("a.tflite", inference_input_type="int16"),
        ValueError,
        "Export: `inference_input_type` must be 'int8', 'uint8' or 'float32' in mode 'int8'. "
        "Received: inference_input_type='int16'",
    ),
    (
        lambda: Export("a.tflite", mode="float32", inference_output_type=np.int8),
        ValueError,
        "Export: `inference_output_type` must be 'float32' in mode 'float32'. "
        "Received: inference_output_type='int8'",
    ),
    (
        lambda: Export("a.tflite", inference_output_type=8),
        TypeError,
        "Export: `inference_output_type` must be 'int8', 'uint8' or 'float32' in mode 'int8'. "
        "Received: inference_output_type=8",
    ),
    (
        lambda: Export("a.tflite", mode="float16", quantized_input_stats=(0, 1)),
        ValueError,
        "Export: `quantized_input_stats` must be None in mode 'float16': only integers of 8 bits "
        "have such statistics. Received: quantized_input_stats=(0, 1)",
    ),
    (
        lambda: Export("a.tflite", quantized_input_stats="automatic"),
        ValueError,
        "Export: `quantized_input_stats` must be 'auto'. "
        "Received: quantized_input_stats='automatic'",
    ),
    (
        lambda: Export("a.tflite", quantized_input_stats=127.5),
        TypeError,
        "Export: `quantized_input_stats` must be (mean, std), two finite numbers. "
        "Received: quantized_input_stats=127.5",
    ),
    (
        lambda: Export("a.tflite", quantized_input_stats=(300, 1)),
        ValueError,
        "Export: `quantized_input_stats` must be (mean, std) with a mean in [0, 255] and a std "
        "above 0. Received: quantized_input_stats=(300, 1)",
    ),
    (
        lambda: Export("a.tflite", quantized_input_stats={"x": (0, -1)}),
        ValueError,
        "Export: `quantized_input_stats['x']` must be (mean, std) with a mean in [0, 255] and a "
        "std above 0. Received: quantized_input_stats['x']=(0, -1)",
    ),
    (
        lambda: Export("a.tflite", default_ranges_stats=(1, 6)),
        ValueError,
        "Export: `default_ranges_stats` must be (min, max) with min <= 0 <= max, not both 0. "
        "Received: default_ranges_stats=(1, 6)",
    ),
    (
        lambda: Export("a.tflite", default_ranges_stats=(0, float("inf"))),
        ValueError,
        "Export: `default_ranges_stats` must be (min, max), two finite numbers. "
        "Received: default_ranges_stats=(0, inf)",
    ),
    (
        lambda: Export("a.tflite", mode="int16x8", default_ranges_stats=(0, 6)),
        ValueError,
        "Export: `default_ranges_stats` must be None in mode 'int16x8'. "
        "Received: default_ranges_stats=(0, 6)",
    ),
    (
        lambda: Export("a.tflite", mode="int16x8", inference_input_type="uint8"),
        ValueError,
        "Export: `inference_input_type` must be 'int16' or 'float32' in mode 'int16x8'. "
        "Received: inference_input_type='uint8'",
    ),
    (
        lambda: Export("a.tflite", c_array="yes"),
        TypeError,
        "Export: `c_array` must be True or False. Received: c_array='yes'",
    ),
    (
        lambda: Export("a.tflite", representative_dataset=GENERATOR),
        TypeError,
        f"Export: `representative_dataset` must be {DATA}. "
        f"Received: representative_dataset={GENERATOR!r} "
        "(a generator can be neither copied nor read twice: pass the function that makes it)",
    ),
    (
        lambda: Export("a.tflite", verify_data=every_layer),
        TypeError,
        f"Export: `verify_data` must be {DATA}. "
        f"Received: verify_data={every_layer!r} (it takes arguments: (layer))",
    ),
    (
        lambda: Export("a.tflite", representative_dataset=100),
        TypeError,
        f"Export: `representative_dataset` must be {DATA}. Received: representative_dataset=100",
    ),
    (
        lambda: Export("a.tflite", representative_dataset="data.csv"),
        ValueError,
        "Export: `representative_dataset` must be the path of a file that ends in '.npz'. "
        "Received: representative_dataset='data.csv'",
    ),
    (
        lambda: Export("a.tflite", allow_float_ops=1),
        TypeError,
        "Export: `allow_float_ops` must be True or False. Received: allow_float_ops=1",
    ),
    (
        lambda: Export("a.tflite", rehearse="no"),
        TypeError,
        "Export: `rehearse` must be True or False. Received: rehearse='no'",
    ),
    (
        lambda: Export("a.tflite", input_shape=224),
        TypeError,
        "Export: `input_shape` must be a shape without the batch, ints >= 1, or a dict of input "
        "name -> shape. Received: input_shape=224",
    ),
    (
        lambda: Export("a.tflite", input_shape=(None, 3)),
        TypeError,
        "Export: `input_shape` must be a shape without the batch, ints >= 1, or a dict of input "
        "name -> shape. Received: input_shape=(None, 3)",
    ),
    (
        lambda: Export("a.tflite", input_shape={"x": (2.0,)}),
        TypeError,
        "Export: `input_shape['x']` must be a shape without the batch, ints >= 1. "
        "Received: input_shape['x']=(2.0,)",
    ),
    (
        lambda: Export("a.tflite", input_shape={"x": (0, 3)}),
        ValueError,
        "Export: `input_shape['x']` must be a shape without the batch, ints >= 1. "
        "Received: input_shape['x']=(0, 3)",
    ),
    (
        lambda: Export("a.tflite", batch_size=None),
        TypeError,
        "Export: `batch_size` must be an int >= 1. Received: batch_size=None",
    ),
    (
        lambda: Export("a.tflite", batch_size=0),
        ValueError,
        "Export: `batch_size` must be an int >= 1. Received: batch_size=0",
    ),
    (
        lambda: Export("a.tflite", timeout=0),
        ValueError,
        "Export: `timeout` must be seconds > 0. Received: timeout=0",
    ),
    (
        lambda: Export("a.tflite", verify_data="no/such.npz").check_data_files(),
        ValueError,
        "Export: `verify_data` must be the path of a file that exists. "
        "Received: verify_data='no/such.npz'",
    ),
    (
        lambda: Export("a.tflite", postprocess="nms"),
        TypeError,
        "Export: `postprocess` must be a DetectionPostProcess or None. Received: postprocess='nms'",
    ),
    (
        lambda: Export("a.tflite", postprocess=DetectionPostProcess(ANCHORS), batch_size=2),
        ValueError,
        "Export: `batch_size` must be 1 with `postprocess`, whose op takes one image at a time. "
        "Received: batch_size=2",
    ),
    (
        lambda: Export(
            "a.tflite",
            postprocess=DetectionPostProcess(ANCHORS),
            inference_output_type="uint8",
        ),
        ValueError,
        "Export: `inference_output_type` must be 'float32' with `postprocess`, whose op gives real "
        "numbers. Received: inference_output_type='uint8'",
    ),
    # DetectionPostProcess
    (
        lambda: DetectionPostProcess(7),
        TypeError,
        f"DetectionPostProcess: `anchors` must be {ANCHOR_RULE}. Received: anchors=7",
    ),
    (
        lambda: DetectionPostProcess([]),
        ValueError,
        f"DetectionPostProcess: `anchors` must be {ANCHOR_RULE}. Received: anchors=[]",
    ),
    (
        lambda: DetectionPostProcess([[0.5, 0.5, 0.1]]),
        ValueError,
        f"DetectionPostProcess: `anchors` must be {ANCHOR_RULE}. Received: anchors=[0.5, 0.5, 0.1]",
    ),
    (
        lambda: DetectionPostProcess([[0.5, 0.5, 0.1, 0]]),
        ValueError,
        f"DetectionPostProcess: `anchors` must be {ANCHOR_RULE}. "
        "Received: anchors=[0.5, 0.5, 0.1, 0]",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS, max_detections=0),
        ValueError,
        "DetectionPostProcess: `max_detections` must be an int >= 1. Received: max_detections=0",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS, use_regular_nms=1),
        TypeError,
        "DetectionPostProcess: `use_regular_nms` must be True or False. "
        "Received: use_regular_nms=1",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS, nms_iou_threshold=0),
        ValueError,
        "DetectionPostProcess: `nms_iou_threshold` must be a number in (0, 1]. "
        "Received: nms_iou_threshold=0",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS, nms_score_threshold=30),
        ValueError,
        "DetectionPostProcess: `nms_score_threshold` must be a number in [0, 1]. "
        "Received: nms_score_threshold=30",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS, h_scale=0),
        ValueError,
        "DetectionPostProcess: `h_scale` must be a number > 0. Received: h_scale=0",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS, boxes="boxes"),
        ValueError,
        "DetectionPostProcess: `scores` must be the name of an output too, where `boxes` is one. "
        "Received: scores=None",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS, boxes="a", scores="a"),
        ValueError,
        "DetectionPostProcess: `boxes` must be another output than `scores`. Received: boxes='a'",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS).heads({"a": (1, 2, 4), "b": (1, 2, 3), "c": (1, 2)}),
        ValueError,
        "DetectionPostProcess: this must be for a model of two outputs, boxes and scores. "
        "Received: outputs ['a', 'b', 'c']",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS).heads({"a": (1, 2, 3), "b": (1, 2, 4)}),
        ValueError,
        "DetectionPostProcess: `anchors` must be one for each row of the output 'a' of shape "
        "(1, anchors, 4). Received: 2 anchors for a=(1, 2, 3)",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS).heads({"a": (1, 2, 4), "b": (1, 3, 4)}),
        ValueError,
        "DetectionPostProcess: `anchors` must be one for each row of the output 'b' of shape "
        "(1, anchors, classes). Received: 2 anchors for b=(1, 3, 4)",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS, num_classes=2).heads(
            {"a": (1, 2, 4), "b": (1, 2, 4)}
        ),
        ValueError,
        "DetectionPostProcess: `num_classes` must be 4, the columns of 'b', or one less with the "
        "background first. Received: num_classes=2",
    ),
    (
        lambda: DetectionPostProcess(ANCHORS, boxes="b", scores="c").heads(
            {"a": (1, 2, 4), "b": (1, 2, 3)}
        ),
        ValueError,
        "DetectionPostProcess: this must be for a model of two outputs, boxes and scores. "
        "Received: outputs ['a', 'b'], boxes='b', scores='c'",
    ),
]


def test_heads_are_found_by_place_or_by_name():
    shapes = {"a": (1, 2, 4), "b": (1, 2, 4)}
    assert DetectionPostProcess(ANCHORS).heads(shapes) == ("a", "b")
    assert DetectionPostProcess(ANCHORS, boxes="b", scores="a").heads(shapes) == ("b", "a")


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED)
def test_bad_values_are_refused_with_the_exact_message(make, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        make()


def test_a_folder_that_can_be_written_to_is_left_as_it_was(tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(b"old")
    Export(path).check_folder()
    assert os.listdir(tmp_path) == ["a.tflite"]
    assert path.read_bytes() == b"old"


def test_a_path_without_a_folder_is_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Export("a.tflite").check_folder()


def refused_folder(path, rule):
    message = f"Export: `path` must be {rule}. Received: path={str(path)!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Export(path).check_folder()


def test_a_missing_folder_is_found_before_training(tmp_path):
    refused_folder(tmp_path / "missing" / "a.tflite", "in a folder that exists")


def test_a_folder_in_the_place_of_the_file_is_found(tmp_path):
    path = tmp_path / "a.tflite"
    path.mkdir()
    refused_folder(path, "the path of a file, and a folder has this name")


def test_a_file_in_the_place_of_the_folder_is_found(tmp_path):
    (tmp_path / "folder").touch()
    rule = "in a folder, and what should be one is a file"
    refused_folder(tmp_path / "folder" / "a.tflite", rule)


def test_a_folder_that_refuses_files_is_found(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", dir)

    # Not by taking permissions away: root, whom containers run tests as, needs none.
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    rule = "in a folder that can be written to (Permission denied)"
    refused_folder(tmp_path / "a.tflite", rule)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
def test_a_read_only_folder_is_found(tmp_path):
    tmp_path.chmod(0o555)
    rule = "in a folder that can be written to (Permission denied)"
    refused_folder(tmp_path / "a.tflite", rule)
