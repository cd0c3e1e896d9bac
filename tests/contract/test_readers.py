"""Whoever reads the weights between two updates gets masked ones, and the training does not see it.

An update moves dropped weights too, so that in between a kernel is dense.
"""

import numpy as np
import pytest
from contract.runs import (
    BATCH,
    assert_same_arrays,
    assert_same_run,
    assert_same_weights,
    compress,
    fit,
    kernels,
    net,
    plain_copy,
    train,
    uncompiled_net,
)

import keras_compress as kc
from keras_compress.engines.engine import engine_of

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]


def masked(model):
    """The model's kernels, each with zeros where its mask drops it."""
    targets = engine_of(model).pruner.targets
    return [np.where(each.kept(), each.kernel.numpy(), 0.0) for each in targets]


def is_dense(model):
    """Whether some dropped weight is not zero right now."""
    targets = engine_of(model).pruner.targets
    return any((each.kernel.numpy()[~each.kept()] != 0).any() for each in targets)


class Reading:
    """Calls `read(model)` after every update, and notes how often the kernels were dense then."""

    def __init__(self, keras, read):
        self.dense = 0

        def on_batch_end(batch, logs):
            self.dense += is_dense(callback.model)
            read(callback.model)

        self.callback = callback = keras.callbacks.LambdaCallback(on_train_batch_end=on_batch_end)


def assert_kernels(weights, expected):
    for found, kernel in zip(kernels(weights), expected, strict=True):
        np.testing.assert_array_equal(found, kernel)


def loaded(keras, path):
    """The weights in a file of a whole model, or of weights alone."""
    if path.suffix == ".keras":
        return keras.models.load_model(path).get_weights()
    plain = uncompiled_net(keras)
    plain.load_weights(path)
    return plain.get_weights()


def saved_whole(keras, model, folder):
    model.save(folder / "whole.keras")
    return loaded(keras, folder / "whole.keras")


def saved_weights(keras, model, folder):
    model.save_weights(folder / "some.weights.h5")
    return loaded(keras, folder / "some.weights.h5")


WEIGHTS = {
    "get_weights": lambda keras, model, folder: model.get_weights(),
    "save": saved_whole,
    "save_weights": saved_weights,
}


@pytest.mark.sweep_if(when=lambda how: how == "save")
@pytest.mark.parametrize("how", WEIGHTS)
def test_weights_are_masked_after_every_update(keras, data, reference, tmp_path, how):
    def read(model):
        assert_kernels(WEIGHTS[how](keras, model, tmp_path), masked(model))

    reading = Reading(keras, read)
    assert_same_run(train(keras, data, compress(), [reading.callback]), reference)
    assert reading.dense > 5, "or the test could not fail"


def test_a_dropped_weight_comes_back_though_somebody_has_read(keras, data):
    """It is the one update in between that brings it back, and the reader must not undo that."""
    schedule = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=1)

    def masks(read):
        found = []

        def read_and_note(model):
            read(model)
            found.append([target.kept() for target in engine_of(model).pruner.targets])

        model = net(keras, optimizer=keras.optimizers.SGD(1.0))
        compress = kc.Compress(pruning=kc.Pruning(schedule), verbose=0)
        fit(model, data, [compress, Reading(keras, read_and_note).callback], epochs=1)
        return found

    alone, read = masks(lambda model: None), masks(lambda model: model.get_weights())
    assert any((~old & new).any() for old, new in zip(alone[0], alone[-1], strict=True))
    for mine, expected in zip(read, alone, strict=True):
        for mask, same in zip(mine, expected, strict=True):
            np.testing.assert_array_equal(mask, same)


@pytest.mark.sweep_if(when=lambda how: how.endswith("on_batch"))
@pytest.mark.parametrize("how", ["predict", "predict_on_batch", "evaluate", "test_on_batch"])
def test_answers_in_mid_epoch_are_those_of_the_masked_network(keras, data, reference, how):
    x, y = (array[:BATCH] for array in data)
    arguments = (x,) if "predict" in how else (x, y)
    quiet = {} if how.endswith("on_batch") else {"verbose": 0}
    differed = []

    def read(model):
        if engine_of(model).phase.rounds or engine_of(model).step % 3:
            return
        answer = getattr(model, how)(*arguments, **quiet)
        weights = iter(masked(model))
        expected = [next(weights) if each.ndim > 1 else each for each in model.get_weights()]
        plain = plain_copy(keras, expected)
        np.testing.assert_allclose(answer, getattr(plain, how)(*arguments, **quiet), rtol=1e-5)
        plain.set_weights([each.numpy() for each in model.weights])  # as they are
        differed.append(not np.allclose(answer, getattr(plain, how)(*arguments, **quiet)))

    reading = Reading(keras, read)
    got = train(keras, data, compress(), [reading.callback])
    assert any(differed), "or the test could not fail"
    assert_same_weights(got.weights, reference.weights)
    assert_same_arrays(got.state.masks, reference.state.masks)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "weights"])
def test_checkpoints_in_mid_epoch_are_masked(keras, data, reference, tmp_path, whole):
    name = "{epoch}.keras" if whole else "{epoch}.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(tmp_path / name), save_weights_only=not whole, save_freq=5
    )
    expected = []

    def read(model):
        if engine_of(model).step == 15:
            expected.extend(masked(model))
            assert is_dense(model)

    reading = Reading(keras, read)
    got = train(keras, data, compress(), [reading.callback, checkpoint])
    assert_same_run(got, reference)
    assert_kernels(loaded(keras, tmp_path / name.format(epoch=2)), expected)


def test_after_an_interruption_in_mid_epoch_the_saved_model_is_masked(keras, data, tmp_path):
    def stop(batch, logs):
        if engine_of(model).step == 13:
            raise KeyboardInterrupt

    model = net(keras)
    interrupting = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, [compress(), interrupting])
    assert is_dense(model)
    assert_kernels(saved_whole(keras, model, tmp_path), masked(model))


@pytest.fixture
def begun(keras, data):
    """(a model after one epoch, its callback, a batch to go on with)."""
    model, callback = net(keras), compress(partial=True)
    fit(model, data, [callback], epochs=1)
    return model, callback, tuple(array[:BATCH] for array in data)


def test_after_single_steps_the_weights_are_masked(begun):
    model, _, batch = begun
    for _ in range(3):
        model.train_on_batch(*batch)
        assert is_dense(model)
        assert_kernels(model.get_weights(), masked(model))


def test_what_reads_past_keras_gets_the_weights_as_they_are(begun):
    model, callback, (x, y) = begun
    model.train_on_batch(x, y)
    (target, *_) = engine_of(model).pruner.targets
    kernel = model.get_layer("conv").get_weights()[0]
    assert (kernel[~target.kept()] != 0).any()
    direct, asked = np.asarray(model(x, training=False)), model.predict(x, verbose=0)
    assert not np.array_equal(direct, asked)
    callback.begin(model, steps=8)  # a loop of one's own, in which nobody knows when an epoch ends
    model.train_on_batch(x, y)
    assert is_dense(model)
    callback.epoch_end()
    assert not is_dense(model)
    np.testing.assert_allclose(model(x, training=False), model.predict(x, verbose=0), atol=1e-6)


def test_in_tfmots_wrappers_too(data):
    import tf_keras

    schedule = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=4)
    plain = uncompiled_net(tf_keras)
    model = kc.wrap(plain, pruning=kc.Pruning(schedule), engine="tfmot")
    model.compile(tf_keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")

    def read(model):
        names = [weight.name for weight in model.weights]
        for target in engine_of(model).pruner.targets:
            own = next(i for i, w in enumerate(model.weights) if w.name == target.variable.name)
            assert names.count(names[own]) == 1
            expected = np.where(target.kept(), target.kernel.numpy(), 0.0)
            np.testing.assert_array_equal(model.get_weights()[own], expected)

    reading = Reading(tf_keras, read)
    fit(model, data, [reading.callback], epochs=1)
    assert reading.dense > 3
