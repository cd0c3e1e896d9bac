"""Models that a user wrapped with tfmot by hand: recognised by `Compress`, driven, exported."""

import importlib.resources
import json
import re

import jsonschema
import numpy as np
import pytest
import tf_keras
from helpers.untouched import own_methods
from helpers.wrapped_nets import (
    BATCH,
    HALF,
    PRUNING,
    STEPS,
    assert_same,
    compiled,
    data,
    fit,
    masks,
    net,
    zeros,
)

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.export.record import record

pytestmark = pytest.mark.slow_after(1)

layers = tf_keras.layers
DELAYED = kc.Quantization(delay=5, calibration_steps=2)


def pruned(tfmot, schedule=(0.1, 0.75, 1, 7, 3, 3), model=None, eager=True, **arguments):
    """`net` in `PruneLowMagnitude` wrappers, every 3 updates from 1 to 7."""
    sparsity = tfmot.sparsity.keras
    model = net(tf_keras) if model is None else model
    model = sparsity.prune_low_magnitude(model, sparsity.PolynomialDecay(*schedule), **arguments)
    return compiled(tf_keras, model, run_eagerly=eager)


def quantized(tfmot, model=None, eager=True):
    model = tfmot.quantization.keras.quantize_model(net(tf_keras) if model is None else model)
    return compiled(tf_keras, model, run_eagerly=eager)


def exporting(path, **arguments):
    """`Compress` with nothing but an export, as a user of tfmot's wrappers would add it."""
    return kc.Compress(export=kc.Export(path, **arguments))


@pytest.fixture
def driver(tmp_path):
    """What makes a `Compress` that drives what it finds; its float file matters to no test here."""

    def make(**arguments):
        export = kc.Export(tmp_path / "model.tflite", mode="float32")
        return kc.Compress(export=export, **arguments)

    return make


def own_masks(model):
    return [mask.numpy() for layer in model.layers for _, mask, _ in layer.pruning_vars]


# --- pruned


@pytest.mark.parametrize("with_callback", ["without", "before", "after"])
def test_a_pruned_model_is_driven_by_the_schedule_it_carries(tfmot, with_callback, tmp_path):
    update = tfmot.sparsity.keras.UpdatePruningStep
    theirs = pruned(tfmot)
    fit(theirs, update())
    model = pruned(tfmot)
    compress = exporting(tmp_path / "model.tflite", mode="float32")
    callbacks = {
        "without": [compress],
        "before": [update(), compress],
        "after": [compress, update()],
    }[with_callback]
    fit(model, *callbacks)
    assert_same(model.get_weights(), theirs.get_weights())
    assert_same(own_masks(model), own_masks(theirs))
    for mask in own_masks(model):
        assert 1 - mask.mean() == pytest.approx(0.75, abs=0.03)
    assert compress.report.sparsity == pytest.approx(0.75, abs=0.02)
    assert [row.path for row in compress.report.layers] == ["conv", "hidden", "kind"]
    assert kc.compression_of(model) is compress


def test_its_end_step_off_the_grid_is_reached(tfmot, driver):
    schedule = (0.0, 0.8, 1, 6, 3, 4)  # updates at 1 and 5, and ours at 6
    theirs, model = pruned(tfmot, schedule), pruned(tfmot, schedule)
    fit(theirs, tfmot.sparsity.keras.UpdatePruningStep())
    fit(model, driver())
    found = [1 - np.concatenate([m.ravel() for m in own_masks(m)]).mean() for m in (theirs, model)]
    assert found == pytest.approx([0.8 - 0.8 * 0.2**3, 0.8], abs=0.002)


def test_a_pruned_model_is_stripped_and_exported(tfmot, tmp_path):
    model = pruned(tfmot)
    x, _ = data()
    compress = exporting(tmp_path / "model.tflite", representative_dataset=x)
    fit(model, compress)
    assert compress.report.export.error is None
    report = kc.inspect_tflite(tmp_path / "model.tflite")
    assert report.all_integer
    assert (report.inputs, report.outputs) == (("image",), ("kind",))
    constants = {t.name: t.zeros for t in report.tensors if t.constant and t.dtype == "int8"}
    assert len(constants) == 3
    for name, share in constants.items():
        assert share >= 0.72, name
    stripped = compress.stripped_model
    assert [type(layer) for layer in stripped.layers] == [
        type(layer) for layer in net(tf_keras).layers
    ]


def test_what_tfmot_has_pruned_already_is_gone_on_with(tfmot, driver):
    model = pruned(tfmot)
    fit(model, tfmot.sparsity.keras.UpdatePruningStep())
    before = own_masks(model)
    compress = driver()
    fit(model, compress, epochs=1)
    assert compress.report.step == 3 * STEPS
    assert_same(own_masks(model), before)
    assert compress.report.sparsity == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("make", [pruned, quantized])
def test_a_model_that_never_saw_compress_is_exported(tfmot, make, tmp_path):
    model = make(tfmot)
    x, _ = data()
    fit(model, tfmot.sparsity.keras.UpdatePruningStep())
    path = tmp_path / "model.tflite"
    data_of_pruned = {"representative_dataset": x} if make is pruned else {}
    report = kc.export_tflite(model, kc.Export(path, **data_of_pruned))
    assert report.float_ops == ()
    assert report.largest_steps["kind"] <= 4
    assert [output.name for output in kc.load_tflite(path).outputs] == ["kind"]
    assert engine_of(model) is None, "reading changes nothing"
    told = json.loads((tmp_path / "model.tflite.json").read_text())["report"]
    assert told["step"] == 2 * STEPS
    assert [row["path"] for row in told["layers"]] == ["conv", "hidden", "kind"]
    if make is pruned:
        kernels = [t for t in kc.inspect_tflite(path).tensors if t.constant and t.dtype == "int8"]
        assert max(t.zeros for t in kernels) > 0.7
        assert told["sparsity"] == pytest.approx(0.75, abs=0.02)
        assert told["specs"]["pruning"] is not None
        for row in told["layers"]:
            assert row["sparsity"] == pytest.approx(0.75, abs=0.03)
    else:
        assert {row["bits"] for row in told["layers"]} == {8}
        assert told["specs"]["quantization"] is None
    fit(model, tfmot.sparsity.keras.UpdatePruningStep())  # its wrappers are what they were


def test_each_layer_keeps_the_schedule_of_its_wrapper(tfmot, driver):
    sparsity = tfmot.sparsity.keras

    def wrap(layer):
        if not isinstance(layer, layers.Dense):
            return layer
        target = {"hidden": 0.25, "kind": 0.5}[layer.name]
        return sparsity.prune_low_magnitude(layer, sparsity.ConstantSparsity(target, 1, -1, 1))

    model = tf_keras.models.clone_model(net(tf_keras), clone_function=wrap)
    compiled(tf_keras, model, run_eagerly=True)
    compress = driver()
    fit(model, compress)
    found = {path: 1 - mask.mean() for (path, _), mask in masks(model).items()}
    assert found == pytest.approx({"hidden": 0.25, "kind": 0.5}, abs=0.02)


@pytest.mark.parametrize(
    "arguments",
    [
        {"block_size": (1, 2)},
        {"block_size": (2, 2), "block_pooling_type": "MAX"},
        {"sparsity_m_by_n": (2, 4)},
    ],
    ids=["block", "max", "two-of-four"],
)
def test_patterns_are_those_of_the_wrappers(tfmot, driver, arguments):
    schedule = (0.0, 0.5, 1, 7, 3, 3)
    found = []
    for callback in (tfmot.sparsity.keras.UpdatePruningStep(), driver()):
        tf_keras.utils.set_random_seed(0)
        dense = [layers.Dense(8, activation="relu"), layers.Dense(4, activation="softmax")]
        plain = tf_keras.Sequential([layers.Input((8,)), *dense])
        model = pruned(tfmot, schedule, plain, **arguments)
        fit(model, callback)
        found.append((model.get_weights(), own_masks(model)))
    for mine, theirs in zip(*found, strict=True):
        assert_same(mine, theirs)
    assert not all(mask.all() for mask in own_masks(model))


def test_a_bare_fit_afterwards_keeps_the_masks(tfmot, driver):
    model = pruned(tfmot)
    fit(model, driver())
    before = own_masks(model)
    weights = model.get_weights()
    fit(model)
    assert_same(own_masks(model), before)
    kernels = [w for layer in model.layers for w, _, _ in layer.pruning_vars]
    for kernel, mask in zip(kernels, before, strict=True):
        assert not kernel.numpy()[mask == 0].any()
    assert np.any(model.get_weights()[-1] != weights[-1])
    assert engine_of(model).step == 4 * STEPS


# --- quantized


@pytest.mark.slow
def test_a_quantized_model_is_left_to_itself(tfmot, tmp_path):
    theirs, model = quantized(tfmot), quantized(tfmot)
    fit(theirs)
    compress = exporting(tmp_path / "model.tflite")
    history = fit(model, compress).history
    for mine, their in zip(model.variables, theirs.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), their.numpy(), err_msg=mine.name)
    assert history["quantized"] == [1.0, 1.0]
    report = compress.report
    assert (report.phase, report.switched_at, report.left_out) == ("on", 1, {})
    assert report.export.error is None
    file = kc.load_tflite(tmp_path / "model.tflite")
    assert kc.inspect_tflite(tmp_path / "model.tflite").all_integer
    x, _ = data()
    (ending,) = file.outputs
    assert ending.name == "kind"
    difference = file.predict(x) - model.predict(x, verbose=0)
    assert np.abs(difference).max() <= 4 * ending.scale


def test_a_quantized_model_is_driven_when_it_is_asked_for(tfmot):
    plain = compiled(tf_keras, net(tf_keras), run_eagerly=True)
    fit(plain, epochs=1)
    model = quantized(tfmot)
    compress = kc.Compress(quantization=DELAYED, partial=True)
    fit(model, compress, epochs=1)
    assert_same(compress.stripped_model.get_weights(), plain.get_weights())
    fit(model, compress, epochs=1)
    assert (str(compress.report.phase), compress.report.switched_at) == ("on", 6)
    ranges = np.array(list(engine_of(model).quantizers.ranges().values()))
    assert not np.any(np.abs(ranges) == 6.0)
    for row in compress.report.layers:
        assert (row.bits, row.sparsity) == (8, 0.0)


@pytest.mark.parametrize("order", [1, -1], ids=["export-last", "export-first"])
def test_a_refusal_is_the_same_wherever_an_export_stands(tfmot, order, tmp_path):
    model = pruned(tfmot)
    callbacks = [kc.Compress(pruning=PRUNING), exporting(tmp_path / "a.tflite", mode="float32")]
    with pytest.raises(ValueError, match=r"^Compress: `pruning` must be None for a model wrapped"):
        fit(model, *callbacks[::order])
    assert engine_of(model) is None
    assert kc.compression_of(model) is None


@pytest.mark.parametrize("order", [1, -1], ids=["export-last", "export-first"])
def test_an_export_beside_the_specs_may_stand_anywhere(tfmot, order, tmp_path):
    model = quantized(tfmot)
    export = exporting(tmp_path / "model.tflite")
    compress = kc.Compress(quantization=DELAYED)
    fit(model, *[compress, export][::order])
    assert kc.compression_of(model) is compress
    for report in (compress.report, export.report):
        assert (report.phase, report.switched_at) == ("on", 6)
    assert export.report.export.error is None
    # Two that ask for something must agree, in either order.
    other = kc.Compress(quantization=kc.Quantization(delay=6), partial=True)
    with pytest.raises(ValueError, match=r"^Compress: `quantization` must equal"):
        fit(quantized(tfmot), *[export, compress, other][::order])


def test_frozen_layers_of_a_quantized_model_stay_frozen(tfmot, driver):
    # Trained by hand, tfmot thaws the kernel.
    moved = []
    for callbacks in ([], [driver()]):
        model = net(tf_keras)
        model.get_layer("hidden").trainable = False
        before = model.get_layer("hidden").get_weights()[0]
        model = quantized(tfmot, model)
        fit(model, *callbacks)
        after = kc.strip(model).get_layer("hidden").get_weights()[0]
        moved.append(bool(np.any(after != before)))
    assert moved == [True, False]


@pytest.mark.parametrize("stock", [True, False], ids=["left-to-itself", "driven"])
def test_some_layers_annotated(tfmot, stock, tmp_path):
    quantization = tfmot.quantization.keras

    def annotate(layer):
        return layer if layer.name == "kind" else quantization.quantize_annotate_layer(layer)

    model = tf_keras.models.clone_model(net(tf_keras), clone_function=annotate)
    model = compiled(tf_keras, quantization.quantize_apply(model), run_eagerly=True)
    export = kc.Export(tmp_path / "model.tflite")
    compress = kc.Compress(export=export, quantization=None if stock else DELAYED)
    fit(model, compress)
    assert compress.report.left_out == {"quantization": {"kind": "left out by `layers`"}}
    assert compress.report.export.error is None
    assert {op.layer for op in compress.report.export.float_ops} == {"kind"}
    assert [row.path for row in compress.report.layers] == ["conv", "hidden"]


def test_the_record_of_a_scheme_of_other_widths_is_valid(tfmot, tmp_path):
    quantization = tfmot.quantization.keras
    scheme = quantization.experimental.default_n_bit.DefaultNBitQuantizeScheme(
        num_bits_weight=6, num_bits_activation=8
    )
    model = quantization.quantize_apply(quantization.quantize_annotate_model(net(tf_keras)), scheme)
    compiled(tf_keras, model, run_eagerly=True)
    compress = exporting(tmp_path / "model.tflite", allow_float_ops=True)
    fit(model, compress)
    assert {row.bits for row in compress.report.layers} == {6}
    schema = json.loads(
        importlib.resources.files("keras_compress").joinpath("report.schema.json").read_text()
    )
    jsonschema.validate(json.loads(json.dumps(record(compress.report, tf_keras))), schema)


def test_an_n_bit_scheme(tfmot, tmp_path):
    quantization = tfmot.quantization.keras
    scheme = quantization.experimental.default_n_bit.DefaultNBitQuantizeScheme(
        num_bits_weight=4, num_bits_activation=8
    )
    model = quantization.quantize_apply(quantization.quantize_annotate_model(net(tf_keras)), scheme)
    compiled(tf_keras, model, run_eagerly=True)
    compress = exporting(tmp_path / "model.tflite")
    fit(model, compress)
    assert compress.report.export.error is None
    assert {row.bits for row in compress.report.layers} == {4}
    report = kc.inspect_tflite(tmp_path / "model.tflite")
    assert {t.dtype for t in report.tensors if t.constant and t.bits < 32} == {"int4"}
    other = kc.Compress(quantization=kc.Quantization(delay=5))
    model = quantization.quantize_apply(quantization.quantize_annotate_model(net(tf_keras)), scheme)
    message = (
        "Quantization: `weight_bits` must be 4 for this model, whose wrappers were put around its "
        "layers before. Received: weight_bits=8"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(compiled(tf_keras, model), other)


@pytest.mark.parametrize("stock", [True, False], ids=["left-to-itself", "driven"])
def test_the_prune_preserving_scheme(tfmot, stock, tmp_path):
    first = pruned(tfmot)
    fit(first, tfmot.sparsity.keras.UpdatePruningStep())
    plain = tfmot.sparsity.keras.strip_pruning(first)
    quantization, combined = tfmot.quantization.keras, tfmot.experimental.combine
    model = quantization.quantize_apply(
        quantization.quantize_annotate_model(plain),
        combined.Default8BitPrunePreserveQuantizeScheme(),
    )
    compiled(tf_keras, model, run_eagerly=True)
    export = kc.Export(tmp_path / "model.tflite")
    compress = kc.Compress(export=export, quantization=None if stock else DELAYED)
    fit(model, compress)
    assert compress.report.export.error is None
    for name in ("conv", "hidden", "kind"):
        before = plain.get_layer(name).get_weights()[0]
        after = compress.stripped_model.get_layer(name).get_weights()[0]
        assert zeros(before) == pytest.approx(0.75, abs=0.03)
        assert not after[before == 0].any(), name
        assert np.any(after != before)
    report = kc.inspect_tflite(tmp_path / "model.tflite")
    for tensor in report.tensors:
        if tensor.constant and tensor.dtype == "int8":
            assert tensor.zeros >= 0.72, tensor.name


def test_a_quantized_model_is_pruned_in_its_wrappers(tfmot):
    model = quantized(tfmot)
    compress = kc.Compress(pruning=PRUNING, quantization=DELAYED)
    fit(model, compress)
    for mask in masks(model).values():
        assert 1 - mask.mean() == pytest.approx(0.5, abs=0.03)
    for name in ("conv", "hidden", "kind"):
        kernel = compress.stripped_model.get_layer(name).get_weights()[0]
        assert zeros(kernel) == pytest.approx(0.5, abs=0.03)


def test_a_quantizer_of_the_users_own(tfmot):
    keras_quantizers = tfmot.quantization.keras.quantizers

    class Clip(keras_quantizers.Quantizer):
        """With another variable than a range, as tfmot's guide shows it."""

        def build(self, tensor_shape, name, layer):
            top = layer.add_weight(
                f"{name}_range", initializer=tf_keras.initializers.Constant(3.0), trainable=False
            )
            return {"range_var": top}

        def __call__(self, inputs, training, weights, **kwargs):
            return tf_keras.backend.clip(inputs, 0.0, weights["range_var"])

        def get_config(self):
            return {}

    class Config(tfmot.quantization.keras.QuantizeConfig):
        def get_weights_and_quantizers(self, layer):
            return [(layer.kernel, Clip())]

        def get_activations_and_quantizers(self, layer):
            return [(layer.activation, Clip())]

        def set_quantize_weights(self, layer, quantize_weights):
            layer.kernel = quantize_weights[0]

        def set_quantize_activations(self, layer, quantize_activations):
            layer.activation = quantize_activations[0]

        def get_output_quantizers(self, layer):
            return []

        def get_config(self):
            return {}

    quantization = tfmot.quantization.keras

    def annotate(layer):
        config = Config() if layer.name == "hidden" else None
        return quantization.quantize_annotate_layer(layer, config)

    model = tf_keras.models.clone_model(net(tf_keras), clone_function=annotate)
    with quantization.quantize_scope({"Config": Config, "Clip": Clip}):
        model = quantization.quantize_apply(model)
    compiled(tf_keras, model, run_eagerly=True)
    plain = compiled(tf_keras, net(tf_keras), run_eagerly=True)
    fit(plain, epochs=1)
    compress = kc.Compress(quantization=DELAYED, partial=True)
    fit(model, compress, epochs=1)
    assert_same(compress.stripped_model.get_weights(), plain.get_weights())
    fit(model, compress, epochs=1)
    assert str(engine_of(model).phase) == "on"
    x, _ = data()
    rounded, exact = model.predict(x, verbose=0), kc.strip(model).predict(x, verbose=0)
    assert np.any(rounded != exact)


# --- state


@pytest.mark.parametrize("make", [pruned, quantized])
def test_a_state_goes_on_in_a_model_wrapped_anew(tfmot, driver, make, tmp_path):
    # Automatic names differ between the two.
    def plain():
        tf_keras.utils.set_random_seed(0)
        dense = [layers.Dense(8, activation="relu"), layers.Dense(4, activation="softmax")]
        return tf_keras.Sequential([layers.Input((6,)), *dense])

    model = make(tfmot, model=plain())
    specs = {}
    if make is quantized:
        first = model.layers[1].layer.name
        specs = {"pruning": kc.Pruning(HALF, layers=[first]), "quantization": DELAYED}
    fit(model, driver(**specs))
    kc.save_state(model, tmp_path / "state.npz")
    model.save_weights(tmp_path / "weights.h5")
    again = make(tfmot, model=plain())
    assert again.layers[-1].name != model.layers[-1].name
    again.load_weights(tmp_path / "weights.h5")
    kc.load_state(again, tmp_path / "state.npz")
    x, y = data((6,))
    assert again.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    mine, theirs = masks(again), masks(model)
    assert len(mine) == (1 if make is quantized else 2)
    for one, other in zip(mine.values(), theirs.values(), strict=True):
        np.testing.assert_array_equal(one, other)
        assert not one.all()
    fit(again)
    assert engine_of(again).step == 4 * STEPS


@pytest.mark.slow
def test_the_state_of_quantizers_left_to_themselves_leaves_them_so(tfmot, driver, tmp_path):
    model = quantized(tfmot)
    fit(model, driver())
    kc.save_state(model, tmp_path / "state.npz")
    again, theirs = quantized(tfmot), quantized(tfmot)
    for other in (again, theirs):
        other.set_weights(model.get_weights())
    kc.load_state(again, tmp_path / "state.npz")
    assert engine_of(again).asked["quantization"] is None
    assert engine_of(again).step == 2 * STEPS
    fit(again)
    fit(theirs)
    assert_same(again.get_weights(), theirs.get_weights())
    # Who asks for something now is told that nobody did.
    with pytest.raises(ValueError, match=r"`quantization` must equal .* which has None"):
        fit(again, kc.Compress(quantization=kc.Quantization(delay=0)))


def test_saving_as_keras_is_refused(tfmot, driver, tmp_path):
    model = pruned(tfmot)
    fit(model, driver())
    with pytest.raises(ValueError, match=r"^save: `filepath` must not end in '.keras'"):
        model.save(tmp_path / "model.keras")
    model = pruned(tfmot)
    compress = driver()
    whole = tf_keras.callbacks.ModelCheckpoint(str(tmp_path / "model.keras"))
    with pytest.raises(ValueError, match=r"^save: `filepath` must not end in '.keras'"):
        fit(model, whole, compress)
    assert kc.compression_of(model) is None


# --- what is refused


def refused(message, model, **specs):
    methods, weights = own_methods(model), model.get_weights() if model.built else []
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(model, kc.Compress(**specs))
    assert kc.compression_of(model) is None
    assert own_methods(model) == methods
    assert_same(model.get_weights() if weights else [], weights)


@pytest.mark.parametrize("spec", [PRUNING, DELAYED], ids=["pruning", "quantization"])
def test_a_pruned_model_is_given_no_other_spec(tfmot, spec):
    name = "pruning" if spec is PRUNING else "quantization"
    message = (
        f"Compress: `{name}` must be None for a model wrapped by `prune_low_magnitude`, which is "
        "pruned by the schedule that it carries; `strip` it first, or `wrap` the plain one. "
        f"Received: {name}={spec!r}"
    )
    refused(message, pruned(tfmot), **{name: spec})


def test_a_quantized_model_is_given_no_other_layers(tfmot):
    message = (
        "Quantization: `layers` must be None for this model, whose wrappers were put around its "
        "layers before. Received: layers=('kind',)"
    )
    refused(message, quantized(tfmot), quantization=kc.Quantization(layers=["kind"]))


def test_a_refused_fit_leaves_the_wrappers_to_tfmot(tfmot, driver):
    theirs, model = pruned(tfmot), pruned(tfmot)
    message = (
        "Compress: the final sparsity must be reached within this fit, which ends at update 4; "
        "train longer, use fractions, or say `partial=True` for a plan over several fits. "
        "Received: step 7"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(model, driver(), epochs=1)
    assert kc.compression_of(model) is None
    for each in (model, theirs):
        fit(each, tfmot.sparsity.keras.UpdatePruningStep())
    assert_same(own_masks(model), own_masks(theirs))
    assert_same(model.get_weights(), theirs.get_weights())


def test_both_kinds_of_wrappers_in_one_model_are_refused(tfmot):
    quantization = tfmot.quantization.keras
    inner = quantization.quantize_model(net(tf_keras))
    last = tfmot.sparsity.keras.prune_low_magnitude(layers.Dense(4))
    model = compiled(tf_keras, tf_keras.Sequential([layers.Input((6, 6, 1)), inner, last]))
    message = (
        "Compress: the model must be wrapped by one of tfmot's functions only; for both at once "
        "wrap the plain one with `keras_compress.wrap`. Received: layers wrapped by "
        "['prune_low_magnitude', 'quantize_apply']"
    )
    refused(message, model, export=kc.Export("model.tflite"))


def test_wrappers_of_different_patterns_are_refused(tfmot, driver):
    prune = tfmot.sparsity.keras.prune_low_magnitude
    made = [
        prune(layers.Dense(4, name="one"), block_size=(1, 2)),
        prune(layers.Dense(4, name="two")),
    ]
    model = compiled(tf_keras, tf_keras.Sequential([layers.Input((6,)), *made]))
    with pytest.raises(ValueError, match="must share block size, pooling and m by n"):
        fit(model, driver())


def test_subclassed_and_unbuilt_models_with_wrappers_are_refused(tfmot, driver):
    prune = tfmot.sparsity.keras.prune_low_magnitude

    class Own(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = prune(layers.Dense(4))

        def call(self, x):
            return self.dense(x)

    own, unbuilt = Own(), tf_keras.Sequential([prune(layers.Dense(4))])
    x, y = data((6,))
    own(x)
    for model, name in ((own, "Own"), (unbuilt, "Sequential")):
        model.compile("sgd", "sparse_categorical_crossentropy")
        message = (
            "Compress: a model that was wrapped by hand must be Sequential or functional, and "
            f"built; call a Sequential on a batch of data first. Received: model={name}"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            model.fit(
                x,
                y,
                batch_size=BATCH,
                verbose=0,
                callbacks=[driver()],
            )
        assert kc.compression_of(model) is None
