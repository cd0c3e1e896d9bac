"""A kill within the write of `BackupAndRestore`'s own file, which Keras 3 writes in its place."""

import keras
import numpy as np
import pytest

import keras_compress as kc

EPOCHS, BATCH = 4, 16  # of 4 updates
WEIGHTS = "latest.weights.h5"


class Gone(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise RuntimeError("gone")


def fit(folder, *others, **backup):
    """The model and the `Compress` of a fit with a backup in that folder."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 12)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(4, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    half = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=14, frequency=3)
    compress = kc.Compress(
        pruning=kc.Pruning(half), quantization=kc.Quantization(delay=10, calibration_steps=4)
    )
    callbacks = [compress, keras.callbacks.BackupAndRestore(folder / "backup", **backup), *others]
    arguments = {"epochs": EPOCHS, "batch_size": BATCH, "shuffle": False, "verbose": 0}
    model.fit(x, x[:, :4].argmax(axis=-1), callbacks=callbacks, **arguments)
    return model, compress


def cut_off(folder, **backup):
    """A training that ended before its third epoch, in the middle of the second backup's file."""
    with pytest.raises(RuntimeError, match=r"^gone$"):
        fit(folder, Gone(), **backup)
    file = folder / "backup" / WEIGHTS
    file.write_bytes(file.read_bytes()[:96])


def test_keras_own_second_backup_is_resumed_with_its_state(tmp_path):
    cut_off(tmp_path, double_checkpoint=True)
    resumed, compress = fit(tmp_path, double_checkpoint=True)
    (tmp_path / "whole").mkdir()
    whole, alone = fit(tmp_path / "whole")
    assert compress.report.step == alone.report.step == 16
    assert compress.report.switched_at == alone.report.switched_at == 11
    for ours, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_damaged_backup_without_a_second_one_is_keras_own_error(tmp_path):
    cut_off(tmp_path)
    with pytest.raises(OSError, match="truncated file"):
        fit(tmp_path)
