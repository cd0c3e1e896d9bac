"""`preview` says what a fit then does, and what a fit would refuse."""

import json

import numpy as np
import pytest
from helpers.nets import small_net

import keras_compress as kc
from keras_compress.engines.engine import engine_of

pytestmark = pytest.mark.by_turns

ROWS, BATCH, EPOCHS = 320, 32, 4
STEPS = ROWS // BATCH * EPOCHS  # 40
PRUNING = kc.Pruning(kc.PolynomialDecay(final_sparsity=0.5, begin_step=0.2, end_step=0.6))
QUANTIZATION = kc.Quantization(delay=0.8, calibration_steps=8, freeze_step=0.9)


def fit(keras, digits, compress, model):
    x, y, *_ = digits
    arguments = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "callbacks": [compress]}
    model.fit(x[:ROWS], y[:ROWS], **arguments)
    return compress.report


@pytest.mark.slow
def test_it_is_what_the_fit_then_does(keras, digits, tmp_path):
    model = small_net(keras, jit_compile=False)
    before = model.get_weights()
    specs = {
        "pruning": PRUNING,
        "quantization": QUANTIZATION,
        "export": kc.Export(tmp_path / "net.tflite"),
    }
    found = kc.preview(model, steps=STEPS, epochs=EPOCHS, **specs)
    assert kc.compression_of(model) is None  # left as it was
    assert all(map(np.array_equal, before, model.get_weights()))
    assert not (tmp_path / "net.tflite").exists()
    assert found.problems == []

    report = fit(keras, digits, kc.Compress(**specs), model)
    kernels = [layer for layer in found.layers if layer.kernel]
    assert [(each.path, each.kernel, each.shape, each.bits) for each in kernels] == [
        (each.path, each.kernel, each.shape, each.bits) for each in report.layers
    ]
    pruned = {each.path: each.sparsity for each in kernels if each.sparsity is not None}
    for layer in report.layers:
        # The bits where a weight was zero anyway: exactly what the mask drops, no more.
        if layer.path in pruned:
            assert layer.sparsity == pytest.approx(pruned[layer.path], abs=1e-6)
    assert found.left_out == report.left_out
    assert found.quantized_from == report.switched_at == 33
    assert found.frozen_from == report.steps["freeze_step"] + 1 == 37
    schedule = report.steps["schedules"]["conv1"]
    assert (found.pruned_from, found.pruned_by) == (schedule["begin_step"], schedule["end_step"])
    assert found.watched_from == 33 - 8
    (file,) = found.files
    assert (file.path, file.mode) == (report.export.path, report.export.mode)
    assert file.bytes == pytest.approx(report.export.bytes, rel=0.05)


def test_the_first_mask_is_where_the_sparsity_first_shows(keras, digits):
    spec = kc.Pruning(
        kc.PolynomialDecay(0.2, 0.5, 0, 30, power=1, frequency=7)
    )  # there is no update 0
    model = small_net(keras, jit_compile=False)
    found = kc.preview(model, pruning=spec, steps=STEPS)
    seen = []

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(logs["sparsity"]))

    x, y, *_ = digits
    callbacks = [kc.Compress(pruning=spec, verbose=0), Note()]
    model.fit(x[:ROWS], y[:ROWS], batch_size=BATCH, epochs=4, verbose=0, callbacks=callbacks)
    assert 1 + next(i for i, sparsity in enumerate(seen) if sparsity > 0) == found.pruned_from == 7
    final = 1 + next(i for i, each in enumerate(seen) if each == pytest.approx(max(seen)))
    assert final == found.pruned_by == 30
    assert found.sparsity == pytest.approx(seen[-1], abs=1e-6)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize(
    ("spec", "block"), [({"block_size": (4, 4)}, "dense"), ({"sparsity_m_by_n": (2, 4)}, "")]
)
def test_masks_of_any_pattern_are_foreseen(keras, digits, spec, block):
    pruning = kc.Pruning(kc.ConstantSparsity(0.5, 3), layers=["dense1"], **spec)
    model = small_net(keras, jit_compile=False)
    found = kc.preview(model, pruning=pruning, steps=STEPS)
    report = fit(keras, digits, kc.Compress(pruning=pruning, verbose=0), model)
    assert [each.sparsity for each in found.layers] == [
        pytest.approx(each.sparsity, abs=1e-6) for each in report.layers
    ]


@pytest.mark.parametrize(
    ("specs", "problem"),
    [
        ({"pruning": kc.Pruning(kc.ConstantSparsity(0.5, 41))}, "which ends at update 40"),
        ({"pruning": kc.Pruning(kc.PolynomialDecay(0, 0.5, 0, 400))}, "Received: step 400"),
        ({"quantization": kc.Quantization(delay=41)}, "the delay must be reached"),
        (
            {"quantization": kc.Quantization(delay=0, freeze_step=0)},
            "no update would set the ranges",
        ),
        ({"export": kc.Export("/nowhere/at/all.tflite", mode="float32")}, "`path` must be in"),
        ({"export": kc.Export("a.tflite")}, "representative_dataset"),
    ],
)
def test_what_a_fit_would_refuse_is_a_problem_of_the_plan(keras, digits, specs, problem):
    model = small_net(keras, jit_compile=False)
    found = kc.preview(model, steps=STEPS, **specs)
    (said,) = found.problems
    assert problem in said
    assert f"problem: {said}" in str(found)
    with pytest.raises((ValueError, OSError)) as refused:
        fit(keras, digits, kc.Compress(**specs, verbose=0), model)
    assert said == " ".join(str(refused.value).split())
    assert kc.compression_of(model) is None


def test_what_means_nothing_in_this_model_is_refused(keras):
    model = small_net(keras, jit_compile=False)
    with pytest.raises(ValueError, match="nobody"):
        kc.preview(model, pruning=kc.Pruning(0.5, layers=["nobody"]), steps=STEPS)
    with pytest.raises(ValueError, match="`steps` must be given"):
        kc.preview(model, pruning=kc.Pruning(0.5))
    assert kc.compression_of(model) is None
    with pytest.raises(ValueError, match="must be built"):
        kc.preview(keras.Sequential([keras.layers.Dense(2)]), pruning=kc.Pruning(0.5), steps=4)
    with pytest.raises(ValueError, match="one of `pruning`"):
        kc.preview(model, steps=STEPS)


def test_a_model_on_its_way_is_previewed_from_where_it_is(keras, digits):
    pruning = kc.Pruning(kc.PolynomialDecay(0, 0.5, 10, 60, frequency=10))
    model = small_net(keras, jit_compile=False)
    compress = kc.Compress(pruning=pruning, partial=True, verbose=0)
    fit(keras, digits, compress, model)
    kept = [np.asarray(kernel) for kernel in model.get_weights()]
    found = kc.preview(model, steps=STEPS)  # it has its specs
    assert (found.step, found.pruned_from, found.pruned_by) == (40, 10, 60)
    assert found.problems == []
    assert kc.compression_of(model) is compress
    assert all(map(np.array_equal, kept, model.get_weights()))
    fit(keras, digits, compress, model)
    assert compress.report.sparsity == pytest.approx(found.sparsity, abs=1e-6)


def test_a_model_that_was_wrapped_before_it_had_shapes(keras):
    layers = [keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")]
    model = kc.wrap(keras.Sequential(layers), pruning=kc.Pruning(0.5), engine="in_place")
    model(np.ones((2, 3), "float32"))
    found = kc.preview(model, steps=STEPS)
    assert [(each.path, each.sparsity) for each in found.layers] == [("a", 0.5), ("b", 0.5)]
    assert (found.pruned_from, found.pruned_by) == (8, 24)
    with pytest.raises(TypeError, match="`partial` must be True or False"):
        kc.preview(model, steps=STEPS, partial="no")


def test_steps_are_told_in_updates_and_epochs(keras):
    model = small_net(keras, jit_compile=False)
    found = kc.preview(
        model, pruning=PRUNING, quantization=kc.Quantization(delay=8), steps=STEPS, epochs=EPOCHS
    )
    line = found.in_a_line()
    assert "in updates 8 to 24 of 40 (epochs 1 to 3)" in line
    assert "rounds to integers from update 9 of 40 (epoch 1)" in line  # 8 are updates, not epochs
    assert line == str(found).splitlines()[0]
    values = json.loads(json.dumps(found.to_dict()))
    assert values["pruned_by"] == 24
    assert values["layers"][0]["rounded_by"] == "as its kind"


def test_what_is_quantized_op_by_op_is_called_so(keras):
    class Own(keras.layers.Layer):
        def build(self, shape):
            self.dense = keras.layers.Dense(4, name="dense")
            self.dense.build(shape)
            self.built = True

        def call(self, x):
            return self.dense(x) * 2.0

    model = keras.Sequential(
        [keras.layers.Input((8,)), Own(name="own"), keras.layers.ReLU(name="re_lu")]
    )
    found = kc.preview(model, quantization=kc.Quantization(), steps=4)
    ways = {each.path: each.rounded_by for each in found.layers}
    assert ways["own/dense"] == "op by op"
    assert ways["re_lu"] == "as its kind"


def test_a_frozen_kernel_is_not_said_to_be_pruned(keras, digits):
    model = small_net(keras, jit_compile=False)
    model.get_layer("dense1").trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    found = kc.preview(model, pruning=kc.Pruning(0.5), steps=STEPS)
    assert "dense1" in found.left_out["pruning"]
    planned = {each.path: each.sparsity for each in found.layers}
    assert planned["dense1"] is None
    report = fit(keras, digits, kc.Compress(pruning=kc.Pruning(0.5), verbose=0), model)
    assert {each.path: each.sparsity for each in report.layers} == {
        path: pytest.approx(sparsity or 0.0, abs=1e-6) for path, sparsity in planned.items()
    }


@pytest.mark.by_turns(suite="tf_keras")
def test_what_is_frozen_is_so_as_the_fit_has_it(keras, digits):
    """tf_keras goes by what was frozen when the model was compiled."""
    model = small_net(keras, jit_compile=False)
    model.get_layer("dense1").trainable = False
    found = kc.preview(model, pruning=kc.Pruning(0.5), steps=STEPS)
    report = fit(keras, digits, kc.Compress(pruning=kc.Pruning(0.5), verbose=0), model)
    assert found.left_out == report.left_out
    planned = {each.path: each.sparsity or 0.0 for each in found.layers}
    assert planned == {each.path: pytest.approx(each.sparsity) for each in report.layers}
    assert model.get_layer("dense1").trainable is False


@pytest.mark.slow
@pytest.mark.by_turns(suite="tf_keras")
def test_a_plan_leaves_every_mask_of_a_wrapped_layer_alone(keras, digits):
    """tfmot makes the masks of all kernels of one wrapper at once."""
    if keras.__name__ == "keras":
        pytest.skip("tfmot's wrappers are of tf_keras")
    x, y, *_ = digits

    def trained(verbose):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Input((8, 8)), keras.layers.LSTM(6)])
        model.add(keras.layers.Dense(10, activation="softmax"))
        schedule = kc.PolynomialDecay(0, 0.5, 20, 40, frequency=10)
        model = kc.wrap(model, pruning=kc.Pruning(schedule))
        kc.compression_of(model).verbose = verbose
        kc.compression_of(model).partial = True
        model.compile("sgd", "sparse_categorical_crossentropy")
        if verbose:
            kc.preview(model, steps=60)
        model.fit(x[:64, ..., 0], y[:64], batch_size=16, verbose=0, shuffle=False)
        return model

    silent, told = trained(0), trained(1)
    assert engine_of(told).sparsity == 0.0
    for one, other in zip(silent.get_weights(), told.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_behind_is_not_announced(keras, digits):
    pruning = kc.Pruning(kc.PolynomialDecay(0, 0.5, 10, 60, frequency=10))
    model = small_net(keras, jit_compile=False)
    compress = kc.Compress(
        pruning=pruning, quantization=kc.Quantization(delay=20), partial=True, verbose=0
    )
    fit(keras, digits, compress, model)
    line = kc.preview(model, steps=STEPS, epochs=EPOCHS).in_a_line()
    assert "goes on pruning 3 kernels to 50% until update 60 of 80 (epoch 2)" in line
    assert "; rounds to integers." in line
    fit(keras, digits, compress, model)
    assert "keeps 3 kernels pruned to 50%; rounds" in kc.preview(model, steps=STEPS).in_a_line()


def plan(**values):
    given = {"step": 0, "updates": 100, "first_epoch": 1, "last_epoch": 10, "layers": []}
    ends = dict.fromkeys(
        ("pruned_from", "pruned_by", "watched_from", "quantized_from", "frozen_from")
    )
    return kc.Preview(**{**given, **ends, "left_out": {}, "files": [], **values}).in_a_line()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quantized_from": 10}, "from update 10 of 100 (epoch 1)"),
        ({"quantized_from": 11}, "from update 11 of 100 (epoch 2)"),
        ({"quantized_from": 100}, "from update 100 of 100 (epoch 10)"),
        ({"quantized_from": 101}, "after its last update, 100"),
        ({"quantized_from": 1001}, "from update 1,001 (this fit ends at 100)"),
        # A fit that a backup has brought back to where its sixth epoch begins.
        ({"step": 50, "updates": 50, "first_epoch": 6, "quantized_from": 91}, "100 (epoch 10)"),
        ({"updates": 25, "last_epoch": 4, "quantized_from": 25}, "25 of 25 (epoch 4)"),
        ({"updates": None, "quantized_from": 11}, "from update 11."),
        ({"last_epoch": 1, "quantized_from": 11}, "from update 11 of 100."),
    ],
)
def test_epochs_are_those_that_keras_counts(values, said):
    assert said in plan(**values)


def test_a_resumed_fit_tells_its_own_epochs(keras, digits, capsys):
    x, y, *_ = digits
    model = small_net(keras, jit_compile=False)
    compress = kc.Compress(quantization=kc.Quantization(delay=35))
    model.fit(
        x[:ROWS],
        y[:ROWS],
        batch_size=BATCH,
        initial_epoch=5,
        epochs=9,
        verbose=0,
        callbacks=[compress],
    )
    assert "from update 36 of 40 (epoch 9)" in capsys.readouterr().out


def test_a_plan_over_several_fits_is_no_problem(keras):
    model = small_net(keras, jit_compile=False)
    late = kc.Quantization(delay=1000)
    assert kc.preview(model, quantization=late, steps=STEPS).problems
    assert not kc.preview(model, quantization=late, steps=STEPS, partial=True).problems


def test_m_by_n_is_done_once(keras):
    pruning = kc.Pruning(kc.ConstantSparsity(0.5, 0), layers=["dense1"], sparsity_m_by_n=(2, 4))
    found = kc.preview(small_net(keras, jit_compile=False), pruning=pruning, steps=STEPS)
    assert (found.pruned_from, found.pruned_by) == (1, 1)


def test_the_bytes_of_a_sparse_file_are_not_guessed(keras, tmp_path):
    export = kc.Export(tmp_path / "net.tflite", mode="float32", sparse=True)
    model = small_net(keras, jit_compile=False)
    found = kc.preview(model, pruning=kc.Pruning(0.5), export=export, steps=STEPS)
    assert [file.bytes for file in found.files] == [None]
