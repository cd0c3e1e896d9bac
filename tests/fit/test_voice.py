"""What a fit prints, and that nothing of it stands in Keras' bar."""

import pytest
from helpers.nets import small_net

import keras_compress as kc

pytestmark = pytest.mark.by_turns

PRUNING = kc.Pruning(kc.PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=8, frequency=2))
QUANTIZATION = kc.Quantization(delay=13, calibration_steps=3)


def fit(keras, digits, compress, verbose=0, **more):
    x, y, *_ = digits
    model = small_net(keras, jit_compile=False)
    callbacks = [compress, *more.pop("callbacks", [])]
    model.fit(
        x[:160], y[:160], batch_size=16, epochs=2, verbose=verbose, callbacks=callbacks, **more
    )
    return model


def ours(printed):
    """The lines that are not Keras' own."""
    words = ("Compress:", "Update ", "net.tflite")
    return [line for line in printed.splitlines() if line.startswith(words)]


def test_a_fit_tells_its_plan_what_was_reached_and_what_became_of_the_file(
    keras, digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    export = kc.Export("net.tflite")
    compress = kc.Compress(pruning=PRUNING, quantization=QUANTIZATION, export=export)
    fit(keras, digits, compress)
    plan, pruned, rounds, file = capsys.readouterr().out.splitlines()
    assert plan.startswith("Compress: prunes ")
    assert "in updates 2 to 8 of 20 (epoch 1)" in plan
    assert "rounds to integers from update 14 of 20 (epoch 2)" in plan
    assert "writes net.tflite (int8, about" in plan
    assert pruned == "Update 10: pruned, 50.0% of the weights are zeros."
    assert rounds == "Update 14: from here on the network rounds to integers."
    report = compress.report.export
    assert file.startswith(f"net.tflite: int8, {report.bytes:,} bytes")
    assert f"{report.float_bytes:,} as a float file" in file
    assert "output steps from the network" in file


def test_lines_stand_between_the_bars_and_not_in_them(keras, digits, capsys):
    compress = kc.Compress(pruning=PRUNING, quantization=QUANTIZATION)
    fit(keras, digits, compress, verbose=1)
    printed = capsys.readouterr().out
    assert len(ours(printed)) == 3
    for line in printed.splitlines():
        if "Update " in line or "Compress:" in line:
            assert "step" not in line.replace("steps", "")
            assert not line.strip().startswith("\x1b")


def test_verbose_2_prints_the_preview_and_0_nothing(keras, digits, capsys):
    fit(keras, digits, kc.Compress(pruning=PRUNING, verbose=2))
    printed = capsys.readouterr().out
    assert "zeros at the end" in printed
    fit(keras, digits, kc.Compress(pruning=PRUNING, verbose=0))
    assert capsys.readouterr().out == ""


def test_why_there_is_no_file(keras, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    compress = kc.Compress(quantization=QUANTIZATION, export=kc.Export("net.tflite"))
    fit(keras, digits, compress, callbacks=[Stop()])
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "net.tflite: not written, the fit ended before the delay at update 13"


def test_where_keras_logs_nothing_is_printed(keras, digits, capsys):
    config = getattr(keras, "config", keras.utils)
    config.disable_interactive_logging()
    try:
        fit(keras, digits, kc.Compress(pruning=PRUNING))
    finally:
        config.enable_interactive_logging()
    assert "Compress:" not in capsys.readouterr().out


def test_a_wrapped_model_tells_it_in_its_bare_fit(keras, digits, capsys):
    x, y, *_ = digits
    model = keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, activation="softmax"))
    model = kc.wrap(model, pruning=PRUNING)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x[:160], y[:160], batch_size=16, verbose=0)
    assert [line.split()[0] for line in ours(capsys.readouterr().out)] == ["Compress:", "Update"]


def test_the_hook_gets_the_report_once_the_file_exists(keras, digits, tmp_path):
    path = tmp_path / "net.tflite"
    seen = []

    def hook(report):
        seen.append((report, path.stat().st_size))

    export = kc.Export(path, mode="float32")
    compress = kc.Compress(pruning=PRUNING, export=export, on_export=hook, verbose=0)
    fit(keras, digits, compress)
    assert seen == [(compress.report, compress.report.export.bytes)]
    # There is nothing to hand on where there is no file.
    never = kc.Compress(
        pruning=PRUNING,
        export=kc.Export(path, mode="float32", timeout=1e-3, rehearse=False),
        on_export=hook,
        verbose=0,
    )
    fit(keras, digits, never)
    assert never.report.export.error
    assert len(seen) == 1
    with pytest.raises(TypeError, match="`on_export` must be a callable or None"):
        kc.Compress(export=export, on_export="mlflow")


def test_no_warning_of_tensorflow_about_what_we_trace(keras, digits, caplog):
    """The networks of a fit are evaluated on its validation data: a few traces of few batches."""
    x, y, *_ = digits
    for _ in range(3):
        fit(
            keras,
            digits,
            kc.Compress(pruning=PRUNING, quantization=QUANTIZATION, verbose=0),
            validation_data=(x[:16], y[:16]),
        )
    assert "retracing" not in caplog.text
