"""Two models trained in two threads of one process, each with a Compress of its own."""

import logging
import random
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf
from helpers.nets import compile_net

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.snapshot import take
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.own_traces import keep_quiet_about_them

pytestmark = pytest.mark.timeout(300)

EPOCHS, STEPS, BATCH = 3, 4, 16
SIZES = (16, 24)
"""Of the hidden layers: two networks of different structure, so that neither file will do for
both.
"""


def net(keras, number):
    """Its numbers are drawn from seeds of its own: the global ones are one for all threads."""
    layers, seed = keras.layers, 10 * number

    def kernel(offset):
        return keras.initializers.GlorotUniform(seed=seed + offset)

    model = keras.Sequential(
        [
            layers.Input((12,), name=f"input{number}"),
            layers.Dense(SIZES[number], kernel_initializer=kernel(1), name=f"hidden{number}"),
            layers.BatchNormalization(name=f"norm{number}"),
            layers.ReLU(name=f"relu{number}"),
            layers.Dense(4, "softmax", kernel_initializer=kernel(2), name=f"classes{number}"),
        ],
        name=f"net{number}",
    )
    return compile_net(keras, model)


def data(number):
    generator = np.random.default_rng(number)
    x = generator.uniform(-1, 1, (STEPS * BATCH, 12)).astype("float32")
    return x, x[:, :4].argmax(axis=-1).astype("int32")


class Trained:
    """A model that was trained, and all that it left. `meet` is called when an epoch begins and
    before the export.
    """

    def __init__(self, keras, number, path, meet=lambda: None):
        schedule = kc.PolynomialDecay(final_sparsity=0.5 + 0.25 * number, begin_step=1, end_step=8)
        compress = kc.Compress(
            pruning=kc.Pruning(schedule),
            quantization=kc.Quantization(delay=5, calibration_steps=2),
            export=kc.Export(path),
            verbose=0,
        )
        meeting = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda *_: meet(), on_train_end=lambda *_: meet()
        )
        model, (x, y) = net(keras, number), data(number)
        model.fit(
            x,
            y,
            validation_data=(x, y),
            epochs=EPOCHS,
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
            callbacks=[compress, meeting],
        )
        self.weights = model.get_weights()
        self.state = take(engine_of(model))
        self.file = path.read_bytes()
        self.record = path.with_name(f"{path.name}.json").read_bytes()
        self.report = compress.report.to_dict()


@pytest.mark.slow
def test_two_fits_in_two_threads_end_as_each_alone(tmp_path, monkeypatch):
    import keras

    check_two_threads(keras, tmp_path, monkeypatch)


@pytest.mark.sweep
def test_two_fits_of_tf_keras_in_two_threads_end_as_each_alone(tmp_path, monkeypatch):
    import tf_keras

    check_two_threads(tf_keras, tmp_path, monkeypatch)


def check_two_threads(keras, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_compress.export.rehearse._passed", {})
    paths = [tmp_path / f"net{number}.tflite" for number in range(2)]
    alone = [Trained(keras, number, path) for number, path in enumerate(paths)]
    for path in paths:
        path.unlink()
    monkeypatch.setattr("keras_compress.export.rehearse._passed", {})
    together = in_threads(lambda number, meet: Trained(keras, number, paths[number], meet))
    for mine, expected in zip(together, alone, strict=True):
        for weight, other in zip(mine.weights, expected.weights, strict=True):
            np.testing.assert_array_equal(weight, other)
        for name in ("masks", "ranges"):
            arrays, others = getattr(mine.state, name), getattr(expected.state, name)
            assert set(arrays) == set(others)
            for key, array in arrays.items():
                np.testing.assert_array_equal(array, others[key], err_msg=key)
        assert mine.state.phase == expected.state.phase
        assert mine.file == expected.file
        assert mine.report == expected.report
        assert mine.record == expected.record
    assert together[0].file != together[1].file


def in_threads(call):
    """What two calls return that run at the same time, switching often from one to the other."""
    results, errors = [None, None], []
    barrier = threading.Barrier(2, timeout=100)

    def run(number):
        try:
            results[number] = call(number, barrier.wait)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    if errors:
        raise errors[0]
    return results


def test_of_two_fits_the_first_to_end_leaves_the_others_traces_quiet(caplog):
    logger = logging.getLogger("tensorflow")
    before = list(logger.filters)

    def is_heard():
        caplog.clear()
        logger.warning("5 calls to <Model.make_train_function> triggered tf.function retracing")
        return bool(caplog.records)

    assert is_heard()
    first, second = keep_quiet_about_them(), keep_quiet_about_them()
    first()
    assert not is_heard()
    first()  # once is enough
    assert not is_heard()
    second()
    assert is_heard()
    assert logger.filters == before
    failed = keep_quiet_about_them()
    assert not is_heard()
    del failed
    assert is_heard()


def test_two_rehearsals_put_the_seeds_aside_one_after_the_other(keras):
    adapter = adapter_of(net(keras, 0), "test")
    keras.utils.set_random_seed(1)
    expected = drawn()
    keras.utils.set_random_seed(1)
    first_is_in, first_may_go, second_is_in = (threading.Event() for _ in range(3))

    def first():
        with adapter.seeds_kept():
            first_is_in.set()
            first_may_go.wait(10)
            drawn()

    def second():
        first_is_in.wait(10)
        with adapter.seeds_kept():
            second_is_in.set()
            drawn()

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    first_is_in.wait(10)
    alone = not second_is_in.wait(0.3)
    first_may_go.set()
    for thread in threads:
        thread.join()
    assert alone
    assert second_is_in.is_set()
    assert drawn() == expected


def drawn():
    """From each of the global generators."""
    eager = tf.random.uniform(()).numpy().item()
    return random.random(), np.random.random(), eager
