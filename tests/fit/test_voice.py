"""What a fit prints, and that nothing of it stands in Keras' bar."""

import contextlib
import errno
import io
import logging
import re
import sys
import time
import weakref

import pytest
import tensorflow as tf
from helpers.nets import small_net

import keras_compress as kc
from keras_compress.export.progress import Parts
from keras_compress.frameworks import own_traces
from keras_compress.frameworks.own_traces import keep_quiet_about_them

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

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
    assert pruned == "Update 8: pruned, 50.0% of the weights are zeros."
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


def test_verbose_2_tells_how_long_each_part_of_a_file_took(keras, digits, tmp_path, capsys, caplog):
    x, y, *_ = digits
    caplog.set_level(logging.INFO, logger="keras_compress")
    export = kc.Export(tmp_path / "net.tflite", mode="float32")
    began = time.perf_counter()
    data = {"validation_data": (x[:16], y[:16])}
    fit(keras, digits, kc.Compress(pruning=PRUNING, export=export, verbose=2), **data)
    whole = time.perf_counter() - began
    (line,) = (each for each in capsys.readouterr().out.splitlines() if " took " in each)
    assert line in caplog.messages
    total, told = re.fullmatch(r".*net\.tflite took ([\d.]+) s: (.*)\.", line).groups()
    parts = {name: float(seconds) for name, seconds in re.findall(r"([a-z ]+) ([\d.]+)", told)}
    assert [name.strip() for name in parts] == [
        "tracing",
        "converting",
        "comparing with the network",
        "measuring the float file",
        "evaluating on the validation data",
    ]
    assert float(total) == pytest.approx(sum(parts.values()), abs=0.3)  # a digit each
    assert 0 < float(total) < whole


def test_parts_that_come_again_are_added_up(monkeypatch):
    now = iter([10.0, 11.0, 14.0, 15.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    told = []
    parts = Parts(lambda *what: told.append(what))
    for what, count in (("tracing", None), ("converting", 1), ("converting", 2), ("tracing", None)):
        parts(what, count, None)
    parts.end()
    assert parts.seconds == {"tracing": 1.0 + 1.5, "converting": 3.0}
    assert parts.in_a_line() == "5.5 s: tracing 2.5, converting 3.0"
    assert len(told) == 4


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


@pytest.mark.parametrize("verbose", [0, 1])
def test_a_wrapped_model_tells_it_in_its_bare_fit(keras, digits, capsys, verbose):
    x, y, *_ = digits
    model = keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, activation="softmax"))
    model = kc.wrap(model, pruning=PRUNING, verbose=verbose)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x[:160], y[:160], batch_size=16, verbose=0)
    begun = [line.split()[0] for line in ours(capsys.readouterr().out)]
    assert begun == ["Compress:", "Update"] * verbose


@pytest.mark.slow
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


@pytest.mark.sweep  # three fits, until tf_keras, whose functions count as one, would warn
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


@pytest.mark.parametrize("name", ["TensorFlowTrainer._make", "Model.make_test_function"])
def test_what_tensorflow_says_of_other_functions_is_heard(name, caplog, monkeypatch):
    # Not those who asked for it in fits that have failed, and live on in a traceback.
    monkeypatch.setattr(own_traces, "_asked", weakref.WeakSet())
    logger = logging.getLogger("tensorflow")
    warning = "5 out of the last 7 calls to <function %s> triggered tf.function retracing."
    hear_again = keep_quiet_about_them()
    try:
        logger.warning(warning, name)
        assert not caplog.records
        logger.warning(warning, "the users own")
        assert len(caplog.records) == 1
    finally:
        hear_again()
    logger.warning(warning, name)
    assert len(caplog.records) == 2


@pytest.mark.slow
def test_a_line_costs_no_training_whatever_the_terminal_lacks(
    keras, digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    export = kc.Export("gr\u00fcn_\u2713.tflite", mode="float32")
    page = io.TextIOWrapper(io.BytesIO(), "ascii")
    with contextlib.redirect_stdout(page):
        compress = kc.Compress(pruning=PRUNING, export=export)
        fit(keras, digits, compress)
    assert compress.report.export.written
    page.seek(0)
    assert "gr\\xfcn_\\u2713.tflite: float32" in page.read()
    page.close()
    with contextlib.redirect_stdout(page):  # a terminal that is gone
        fit(keras, digits, compress)
    assert compress.report.export.written


class Gone(io.StringIO):
    """A terminal whose other end was closed."""

    def isatty(self):
        return True

    def write(self, text):
        raise OSError(errno.EIO, "Input/output error")

    flush = write


@pytest.mark.parametrize("error", [None, Gone(), io.StringIO()], ids=["none", "gone", "closed"])
def test_without_a_terminal_the_file_is_written_all_the_same(
    keras, digits, tmp_path, monkeypatch, error
):
    if not isinstance(error, Gone | None):
        error.close()
    compress = kc.Compress(
        pruning=PRUNING, export=kc.Export(tmp_path / "net.tflite", mode="float32")
    )
    model = small_net(keras, jit_compile=False)
    x, y, *_ = digits
    monkeypatch.setattr(sys, "stderr", error)
    try:
        model.fit(x[:160], y[:160], batch_size=16, verbose=0, callbacks=[compress])
        out = sys.stdout
    finally:
        monkeypatch.undo()
    assert compress.report.export.written
    assert (tmp_path / "net.tflite").exists()
    assert out is sys.stdout  # rich has taken its own place back


def test_a_hook_that_fails_costs_nothing(keras, digits, tmp_path, caplog):
    def hook(report):
        raise ConnectionError("mlflow is down")

    export = kc.Export(tmp_path / "net.tflite", mode="float32")
    first = kc.Compress(pruning=PRUNING, export=export, on_export=hook, verbose=0)
    second = kc.Compress(export=kc.Export(tmp_path / "b.tflite", mode="float32"), verbose=0)
    fit(keras, digits, first, callbacks=[second])
    assert first.report.export.written
    assert second.report.export.written
    assert "`on_export` failed" in caplog.text
    assert "mlflow is down" in caplog.text


def test_a_delay_that_ends_with_the_fit_is_told(keras, digits, capsys):
    fit(keras, digits, kc.Compress(quantization=kc.Quantization(delay=20)))
    plan, rounds = capsys.readouterr().out.splitlines()
    assert plan == "Compress: rounds to integers after its last update, 20."
    assert rounds == "Update 21: from here on the network rounds to integers."


def test_what_happened_is_told_in_its_order(keras, digits, capsys):
    late = kc.Pruning(kc.PolynomialDecay(0, 0.5, 2, 9))
    compress = kc.Compress(pruning=late, quantization=kc.Quantization(delay=4))
    fit(keras, digits, compress)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "Compress",
        "Update 5",
        "Update 9",
    ]


@pytest.mark.parametrize("wanted", [False, True])
def test_in_a_search_the_line_of_a_file_is_all_that_shows(
    keras, digits, tmp_path, capsys, monkeypatch, wanted
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    export = kc.Export(tmp_path / "net.tflite", mode="float32")
    compress = kc.Compress(pruning=PRUNING, export=export, verbose=0)
    compress.shows_progress = wanted
    fit(keras, digits, compress)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("net.tflite: comparing with the network" in err) is wanted


def test_a_bare_fit_is_as_silent_as_the_one_in_charge(keras, digits, capsys):
    x, y, *_ = digits
    compress = kc.Compress(pruning=PRUNING, partial=True, verbose=0)
    model = small_net(keras, jit_compile=False)
    arguments = {"batch_size": 16, "verbose": 0}
    model.fit(x[:64], y[:64], callbacks=[compress], **arguments)
    model.fit(x[:160], y[:160], **arguments)
    assert capsys.readouterr().out == ""


def test_a_loop_of_ones_own_tells_each_thing_once(keras, digits, capsys):
    x, y, *_ = digits
    for epochs in (True, False):
        model = small_net(keras, jit_compile=False)
        optimizer = keras.optimizers.SGD(0.1)
        loss = keras.losses.SparseCategoricalCrossentropy()
        compress = kc.Compress(pruning=PRUNING)
        compress.begin(model, steps=12, optimizer=optimizer)
        for step in range(12):
            rows = slice(16 * step, 16 * step + 16)
            with compress.step(), tf.GradientTape() as tape:
                value = loss(y[rows], model(x[rows], training=True))
                gradients = tape.gradient(value, model.trainable_variables)
                optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            if epochs and step % 4 == 3:
                compress.epoch_end()
        compress.finish()
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["Compress", "Update 8"]
