"""Whatever leaves the model is the plain one, in every phase, and loads without us."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from contract.runs import (
    BATCH,
    STEPS,
    assert_same_arrays,
    assert_same_counts,
    assert_same_weights,
    compress,
    fit,
    kernels,
    net,
    outcome,
    uncompiled_net,
)

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.state import Phase

pytestmark = pytest.mark.by_turns

# Epochs of eight updates that end in each phase.
ENDING_IN = {
    Phase.OFF: kc.Quantization(delay=30, calibration_steps=4),
    Phase.WATCHING: kc.Quantization(delay=18, calibration_steps=18),
    Phase.ON: kc.Quantization(delay=12, calibration_steps=4),
    Phase.FROZEN: kc.Quantization(delay=12, calibration_steps=4, freeze_step=14),
}


@pytest.fixture(scope="module")
def models(keras, data):
    """A compressed model for every phase, after 16 updates."""
    models = {}
    for phase, quantization in ENDING_IN.items():
        models[phase] = net(keras)
        callback = compress(quantization=quantization, partial=True)
        fit(models[phase], data, [callback], epochs=2)
        engine = engine_of(models[phase])
        assert (engine.step, engine.phase) == (2 * STEPS, phase)
    return models


@pytest.fixture(params=ENDING_IN, ids=str)
def model(models, request):
    return models[request.param]


def answers(model, test_data):
    """What a model answers, and what the plain one does."""
    x, _ = test_data
    plain = kc.strip(model).predict(x, verbose=0)
    now = model.predict(x, verbose=0)
    if engine_of(model).phase.rounds:
        assert np.abs(now - plain).max() > 1e-4
    else:
        np.testing.assert_array_equal(now, plain)
    return now, plain


@pytest.mark.slow_after(1)
def test_pickle_deepcopy_and_clone_give_the_plain_model(keras, model, test_data):
    x, _ = test_data
    now, plain = answers(model, test_data)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), clone):
        assert kc.compression_of(copied) is None
        assert type(copied) is type(model)
        assert [layer.name for layer in copied.layers] == [layer.name for layer in model.layers]
        np.testing.assert_allclose(copied.predict(x, verbose=0), plain, atol=1e-6)
        assert copied.layers[0] is not model.layers[0]
    np.testing.assert_array_equal(model.predict(x, verbose=0), now)  # none the worse for it


def test_a_copy_trains_as_a_plain_model(models, data):
    copied = copy.deepcopy(models[Phase.ON])
    assert any((kernel == 0).any() for kernel in kernels(copied.get_weights()))
    history = fit(copied, data, epochs=1).history
    assert set(history) == {"loss", "accuracy"}
    # Nobody keeps the zeros any more.
    assert all((kernel != 0).all() for kernel in kernels(copied.get_weights()))


LOADER = """
    import os
    import pickle
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "keras_compress":
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Absent())
    keras = __import__(sys.argv[1])
    import numpy as np

    folder = sys.argv[2]
    x = np.load(os.path.join(folder, "x.npy"))
    for name in sys.argv[3:]:
        path = os.path.join(folder, name)
        if name.endswith(".pickle"):
            with open(path, "rb") as file:
                model = pickle.load(file)
        else:
            model = keras.models.load_model(path)
        np.save(path + ".npy", model.predict(x, verbose=0))
    assert not any(name.startswith("keras_compress") for name in sys.modules)
"""


def test_files_load_without_us_and_answer_as_the_stripped_model(keras, models, test_data, tmp_path):
    x, _ = test_data
    np.save(tmp_path / "x.npy", x)
    expected = {}
    for phase, model in models.items():
        now, plain = answers(model, test_data)
        names = [f"{phase}{suffix}" for suffix in (".keras", ".h5", ".pickle")]
        model.save(tmp_path / names[0])
        model.save(tmp_path / names[1])
        (tmp_path / names[2]).write_bytes(pickle.dumps(model))
        if keras.__name__ == "tf_keras":
            names.append(str(phase))
            model.save(tmp_path / str(phase), save_format="tf")
        expected.update(dict.fromkeys(names, plain))
        np.testing.assert_array_equal(model.predict(x, verbose=0), now)  # none the worse for it

    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOADER), keras.__name__, tmp_path, *expected],
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    for name, plain in expected.items():
        np.testing.assert_allclose(
            np.load(tmp_path / f"{name}.npy"), plain, atol=1e-6, err_msg=name
        )


def test_export_answers_as_predict_does(keras, model, test_data, tmp_path):
    x, _ = test_data
    now, _ = answers(model, test_data)
    model.export(tmp_path / "served", **({"verbose": False} if keras.__name__ == "keras" else {}))
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(loaded.serve(tf.constant(x)).numpy(), now, atol=1e-6)
    np.testing.assert_array_equal(model.predict(x, verbose=0), now)


@pytest.mark.slow_after(1)
def test_weights_alone_go_into_a_plain_model_and_back(keras, model, test_data, tmp_path):
    x, _ = test_data
    now, plain = answers(model, test_data)
    model.save_weights(tmp_path / "net.weights.h5")
    other = uncompiled_net(keras)
    other.load_weights(tmp_path / "net.weights.h5")
    np.testing.assert_allclose(other.predict(x, verbose=0), plain, atol=1e-6)
    model.load_weights(tmp_path / "net.weights.h5")
    np.testing.assert_array_equal(model.predict(x, verbose=0), now)


def test_train_on_batch_goes_on_as_a_fit_does(keras, data, reference):
    # Two epochs by `fit`, the third one batch by batch.
    x, y = data
    model = net(keras)
    fit(model, data, [compress()], epochs=2)
    for i in range(0, len(x), BATCH):
        logs = model.train_on_batch(x[i : i + BATCH], y[i : i + BATCH], return_dict=True)
        assert float(logs["quantized"]) == 1.0
        assert float(logs["sparsity"]) == pytest.approx(0.5)
    got = outcome(model, model.history)
    assert_same_counts(got, reference)
    assert_same_arrays(got.state.masks, reference.state.masks)
    for key, limits in reference.state.ranges.items():
        np.testing.assert_allclose(got.state.ranges[key], limits, rtol=1e-5)
    assert_same_weights(kc.strip(model).get_weights(), reference.weights, tolerance=1e-5)
