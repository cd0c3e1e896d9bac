"""Conversion through the real worker process, of hand-made graphs with fake-quant ops."""

import os
import pathlib
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback

import numpy as np
import pytest
import tensorflow as tf
from helpers.processes import alive, run_script, wait_until_gone
from helpers.worker import worker_pid

from keras_compress.tflite import (
    Conversion,
    ConversionError,
    agreement,
    convert,
    inspect_tflite,
    load_tflite,
    stop_worker,
)
from keras_compress.tflite.child_process import child_environment
from keras_compress.tflite.conversion import process
from keras_compress.tflite.conversion.errors import remedy_for_crash, translate
from keras_compress.tflite.conversion.process import Session, WorkerCrashError

fake_quant = tf.quantization.fake_quant_with_min_max_vars
fake_quant_per_channel = tf.quantization.fake_quant_with_min_max_vars_per_channel


class Net(tf.Module):
    """Conv, ReLU and Dense on a (8, 8, 2) image, plus a second input added to the logits."""

    def __init__(self, quantized: bool = True, weight_bits: int = 8) -> None:
        super().__init__()
        random = np.random.default_rng(0)
        self.quantized, self.weight_bits = quantized, weight_bits
        self.kernel = tf.Variable(random.normal(size=(3, 3, 2, 4)).astype("float32") * 0.4)
        self.dense = tf.Variable(random.normal(size=(256, 3)).astype("float32") * 0.1)
        self.bias = tf.Variable(random.normal(size=4).astype("float32"))

    def activation(self, values, low, high):
        return fake_quant(values, low, high) if self.quantized else values

    def weight(self, kernel, axes):
        if not self.quantized:
            return kernel
        limit = tf.reduce_max(tf.abs(kernel), axis=axes)
        op = fake_quant_per_channel if axes is not None else fake_quant
        return op(kernel, -limit, limit, num_bits=self.weight_bits, narrow_range=True)

    def __call__(self, image, extra):
        hidden = tf.nn.conv2d(
            self.activation(image, -1.0, 1.0), self.weight(self.kernel, [0, 1, 2]), 1, "SAME"
        )
        hidden = self.activation(tf.nn.relu(hidden + self.bias), 0.0, 4.0)
        with tf.name_scope("head"):
            logits = tf.matmul(tf.reshape(hidden, [-1, 256]), self.weight(self.dense, None))
        logits = self.activation(logits, -8.0, 8.0)
        shifted = self.activation(logits + self.activation(extra, -2.0, 2.0), -9.0, 9.0)
        return {"z-scores": logits, "a/shifted": shifted}

    def function(self, batch=1, names=("second image", "bias/in")):
        shapes = ((batch, 8, 8, 2), (batch, 3))
        specs = [tf.TensorSpec(shape, name=name) for shape, name in zip(shapes, names, strict=True)]
        concrete = tf.function(self.__call__).get_concrete_function(*specs)
        concrete.keeps_alive = self  # it refers to its variables weakly
        return concrete


def rows(count):
    random = np.random.default_rng(1)
    return [
        random.uniform(-1, 1, (count, 8, 8, 2)).astype("float32"),
        random.uniform(-2, 2, (count, 3)).astype("float32"),
    ]


def answers(function, columns):
    parts = [
        function(*(tf.constant(column[i : i + 1]) for column in columns))
        for i in range(len(columns[0]))
    ]
    return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}


def steps_between(function, model, columns):
    scales = {info.name: info.scale or 18 / 255 for info in model.outputs}
    found = agreement(answers(function, columns), model.predict(columns), scales)
    return max(output.largest_steps for output in found.values())


@pytest.fixture(scope="module")
def quantized():
    return Net().function()


@pytest.mark.parametrize("ends", ["int8", "uint8", "float32"])
def test_a_fake_quantized_graph_becomes_an_integer_file_that_answers_alike(quantized, ends):
    data = convert(quantized, Conversion("int8", quantized=True, input_type=ends, output_type=ends))
    report, model = inspect_tflite(data), load_tflite(data)
    assert report.float_ops == ()
    assert report.op_counts["CONV_2D"] == 1
    assert {info.dtype for info in model.inputs + model.outputs} == {ends}
    assert steps_between(quantized, model, rows(32)) <= 1.01


def test_names_and_order_are_the_models_own(quantized):
    data = convert(
        quantized, Conversion("int8", quantized=True, input_type="uint8", output_type="uint8")
    )
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    inputs = [end["name"] for end in interpreter.get_input_details()]
    outputs = [end["name"] for end in interpreter.get_output_details()]
    # Not in alphabetical order, and with characters that TensorFlow allows in no op's name.
    assert inputs == ["second image", "bias/in"]
    assert outputs == ["z-scores", "a/shifted"]
    signature = interpreter.get_signature_list()["serving_default"]
    assert set(signature["inputs"]) == set(inputs)
    assert set(signature["outputs"]) == set(outputs)


def test_the_signature_runs(quantized):
    data = convert(quantized, Conversion("int8", quantized=True))
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=data).get_signature_runner("serving_default")
    zeros = {"second image": np.zeros((1, 8, 8, 2), "int8"), "bias/in": np.zeros((1, 3), "int8")}
    expected = load_tflite(data).predict(zeros, raw=True)
    found = runner(**zeros)
    for name in ("z-scores", "a/shifted"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_keyword_inputs_and_shared_outputs_keep_their_names():
    @tf.function
    def function(b, a):
        total = fake_quant(fake_quant(a, -1.0, 1.0) + fake_quant(b, -1.0, 1.0), -2.0, 2.0)
        return {"first": total, "again": total}

    specs = {name: tf.TensorSpec((1, 4), name=name) for name in ("b", "a")}
    model = load_tflite(
        convert(function.get_concrete_function(**specs), Conversion("int8", quantized=True))
    )
    assert {info.name for info in model.inputs} == {"a", "b"}
    assert [info.name for info in model.outputs] == ["first", "again"]
    found = model.predict({"a": np.full((1, 4), 0.5), "b": np.full((1, 4), 0.25)})
    np.testing.assert_allclose(found["again"], 0.75, atol=4 / 255)


def test_inputs_in_a_dict_keep_its_order():
    @tf.function
    def function(inputs):
        return {"y": fake_quant(fake_quant(inputs["z"], -1.0, 1.0) * 1.0, -1.0, 1.0), **inputs}

    specs = {"z": tf.TensorSpec((1, 4), name="z"), "a": tf.TensorSpec((1, 2), name="a")}
    data = convert(function.get_concrete_function(specs), Conversion("float32"))
    model = load_tflite(data)
    assert [(info.name, info.shape) for info in model.inputs] == [("z", (1, 4)), ("a", (1, 2))]
    assert [info.name for info in model.outputs] == ["y", "z", "a"]


@pytest.mark.parametrize("batch", [1, 4])
def test_float32_mode_answers_as_the_function(batch):
    net = Net(quantized=False)
    data = convert(net.function(batch), Conversion("float32"))
    model = load_tflite(data)
    assert model.batch_size == batch
    columns = rows(6)
    expected = answers(net.function(), columns)
    for name, values in model.predict(columns).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-4)


def test_post_training_quantization_uses_the_representative_data():
    function = Net(quantized=False).function()
    columns = rows(32)
    samples = [
        {"bias/in": columns[1][i : i + 1], "second image": columns[0][i : i + 1]} for i in range(32)
    ]
    data = convert(function, Conversion("int8"), representative=iter(samples))
    model = load_tflite(data)
    assert inspect_tflite(data).all_integer
    # The range of the first input is that of the data, [-1, 1].
    assert model.inputs[0].scale == pytest.approx(2 / 255, rel=0.01)
    assert steps_between(function, model, columns) < 6


def test_four_bit_weights_are_four_bit_in_the_file():
    function = Net(weight_bits=4).function()
    data = convert(function, Conversion("int8", quantized=True))
    report = inspect_tflite(data)
    kernels = [tensor for tensor in report.tensors if tensor.bits == 4]
    assert sorted(tensor.shape for tensor in kernels) == [(3, 256), (4, 3, 3, 2)]
    assert report.all_integer
    assert steps_between(function, load_tflite(data), rows(16)) <= 1.01


def test_the_variables_of_the_function_are_left_alone():
    net = Net()
    before = net.kernel.numpy()
    first = convert(net.function(), Conversion("int8", quantized=True))
    np.testing.assert_array_equal(net.kernel.numpy(), before)
    net.kernel.assign(-net.kernel)
    assert convert(net.function(), Conversion("int8", quantized=True)) != first


# Errors.


def test_an_op_without_a_tflite_kernel_is_named():
    def function(values):
        with tf.name_scope("my_layer"):
            return {"y": tf.linalg.inv(values)}

    concrete = tf.function(function).get_concrete_function(tf.TensorSpec((1, 4, 4), name="x"))
    with pytest.raises(ConversionError) as caught:
        convert(concrete, Conversion("float32"))
    assert caught.value.reason == (
        "'tf.MatrixInverse' op is neither a custom op nor a flex op (at 'my_layer/MatrixInverse')"
    )
    assert caught.value.remedy.startswith("TFLite has no such op")
    assert worker_pid() is not None  # an ordinary failure does not cost the worker


def test_channel_axes_that_do_not_fit_are_named_with_the_layer():
    class PerChannelDense(Net):
        def weight(self, kernel, axes):
            return super().weight(kernel, axes or [0])

    with pytest.raises(ConversionError, match=r"mismatched quantized axes.*'head/MatMul'"):
        convert(PerChannelDense().function(), Conversion("int8", quantized=True))


def test_an_input_with_two_quantizers_is_refused_not_shipped_broken():
    def function(a, b):
        inner = fake_quant(
            tf.concat([fake_quant(a, -2.0, 2.0), fake_quant(b, -2.0, 2.0)], -1), -2.0, 2.0
        )
        return {"y": fake_quant(tf.concat([inner, fake_quant(a, -3.0, 3.0)], -1), -3.0, 3.0)}

    specs = [tf.TensorSpec((1, 4), name=name) for name in "ab"]
    with pytest.raises(ConversionError, match="which nothing defines"):
        convert(
            tf.function(function).get_concrete_function(*specs), Conversion("int8", quantized=True)
        )


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [("killed by SIGKILL", "memory"), ("killed by SIGSEGV", "crash"), ("code 1", "damaged")],
)
def test_the_remedy_for_a_crash_depends_on_how_it_ended(reason, remedy):
    assert remedy in remedy_for_crash(reason, quantized=True)


def test_long_converter_messages_become_one_line():
    message = (
        '<unknown>:0: error: loc(fused["ExpandDims:", "block/conv1d/ExpandDims_1"]): '
        "'tfl.reshape' op requires 'tensor<1x!quant.uniform<i8:f32:2, {0.01,0.02}>>'\n"
        "<unknown>:0: note: called from\n"
    )
    assert translate("ConverterError", message).reason == (
        "'tfl.reshape' op requires 'tensor<1x!quant.uniform<i8:f32:2, {...}>>' "
        "(at 'block/conv1d/ExpandDims_1')"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "int4", "quantized": True}, "`mode` must be 'float32', 'float16', 'dynamic'"),
        ({"mode": "float32", "quantized": True}, "`quantized` must be False in mode 'float32'"),
        ({"mode": "int8", "quantized": False}, "`representative` must be given"),
        ({"mode": "int8", "quantized": True, "representative": []}, "`representative` must be"),
        ({"mode": "int8", "quantized": False, "representative": []}, "at least one batch"),
        ({"mode": "int8", "quantized": True, "output_type": "int16"}, "`output_type` must be"),
        ({"mode": "int8", "quantized": True, "timeout": 0}, "`timeout` must be"),
    ],
)
def test_arguments_that_do_not_go_together(quantized, arguments, message):
    how = {name: value for name, value in arguments.items() if name != "representative"}
    with pytest.raises(ValueError, match=message):
        convert(quantized, Conversion(**how), representative=arguments.get("representative"))


def test_functions_without_names_or_fixed_shapes_are_refused():
    @tf.function
    def function(values):
        return {"y": values * 2.0}

    free = function.get_concrete_function(tf.TensorSpec((None, 4), name="x"))
    with pytest.raises(ValueError, match=r"fixed shapes.*Received: function='x \(None, 4\)'"):
        convert(free, Conversion("float32"))
    bare = tf.function(lambda values: values * 2.0)
    bare = bare.get_concrete_function(tf.TensorSpec((1, 4), name="x"))
    with pytest.raises(ValueError, match="returns a dict"):
        convert(bare, Conversion("float32"))


# The worker.


def test_a_crash_of_the_converter_is_an_error_and_the_next_conversion_works(quantized):
    keras = pytest.importorskip("keras")
    layer = keras.layers.LSTM(4)
    layer.build((1, 8, 3))
    function = tf.function(lambda x: {"y": layer(x)}).get_concrete_function(
        tf.TensorSpec((1, 8, 3), name="x")
    )
    sample = {"x": np.random.default_rng(0).normal(size=(1, 8, 3)).astype("float32")}
    with pytest.raises(ConversionError, match=r"killed by SIG.*LSTM") as caught:
        convert(function, Conversion("int8"), representative=[sample] * 4)
    assert "mode 'float32'" in caught.value.remedy
    shown = "".join(traceback.format_exception(caught.value))
    assert "The converter printed at the end:" in shown
    assert caught.value.chatter.strip().splitlines()[-1] in shown
    assert worker_pid() is None
    assert convert(quantized, Conversion("int8", quantized=True))
    assert convert(function, Conversion("float32"))


@pytest.mark.slow
def test_a_timeout_replaces_the_worker(quantized, tmp_path, monkeypatch):
    stop_worker()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    convert(quantized, Conversion("int8", quantized=True))
    first = worker_pid()
    os.kill(first, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(ConversionError, match=r"longer than 0\.4 seconds.*`timeout`"):
        convert(quantized, Conversion("int8", quantized=True, timeout=0.4))
    assert time.monotonic() - begin < 5
    assert not alive(first)
    assert list(tmp_path.iterdir()) == []
    assert convert(quantized, Conversion("int8", quantized=True))
    assert worker_pid() != first


@pytest.mark.slow
def test_what_is_done_meanwhile_may_outlast_the_timeout(quantized, monkeypatch):
    """Only the conversion must not: one that was through in time is no failure."""
    convert(quantized, Conversion("int8", quantized=True))
    first = worker_pid()
    ringing = []

    class Timer(threading.Timer):
        def __init__(self, seconds, stop):
            super().__init__(seconds, stop)
            ringing.append(stop)

    def meanwhile():
        _, answers = process._keeper.child.pipes
        assert select.select([answers], [], [], 60)[0]  # it has said that it is through
        ringing[0]()

    with monkeypatch.context() as patched:
        patched.setattr(threading, "Timer", Timer)
        assert convert(quantized, Conversion("int8", quantized=True), meanwhile=meanwhile)
    assert not alive(first)
    assert convert(quantized, Conversion("int8", quantized=True))


@pytest.fixture
def interruptible():
    """A suite that runs in the background ignores Ctrl-C, and Python then leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_control_c_ends_the_worker_and_goes_on(quantized, interruptible):
    convert(quantized, Conversion("int8", quantized=True))
    first = worker_pid()
    os.kill(first, signal.SIGSTOP)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        convert(quantized, Conversion("int8", quantized=True))
    timer.join()
    assert worker_pid() is None
    assert not alive(first)
    assert convert(quantized, Conversion("int8", quantized=True))


@pytest.mark.slow
def test_a_worker_whose_folder_was_cleaned_away_is_replaced(quantized, tmp_path, monkeypatch):
    stop_worker()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    convert(quantized, Conversion("int8", quantized=True))
    first = worker_pid()
    (folder,) = tmp_path.iterdir()
    shutil.rmtree(folder)
    assert convert(quantized, Conversion("int8", quantized=True))
    assert worker_pid() != first
    stop_worker()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_cannot_be_started_leaves_no_folder(quantized, tmp_path, monkeypatch):
    stop_worker()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError):
        convert(quantized, Conversion("int8", quantized=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="read from /proc")
def test_the_child_runs_in_that_environment_and_is_replaced_when_it_changes(quantized, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    convert(quantized, Conversion("int8", quantized=True))
    first = worker_pid()
    environment = pathlib.Path(f"/proc/{first}/environ").read_text().split("\0")
    assert "OMP_NUM_THREADS=1" in environment
    assert not [entry for entry in environment if entry.startswith("TF_USE_LEGACY_KERAS")]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    convert(quantized, Conversion("int8", quantized=True))
    assert worker_pid() != first


@pytest.mark.slow
def test_a_worker_that_died_idle_is_replaced_without_an_error(quantized):
    convert(quantized, Conversion("int8", quantized=True))
    os.kill(worker_pid(), signal.SIGKILL)
    while worker_pid() is not None:
        time.sleep(0.01)
    assert convert(quantized, Conversion("int8", quantized=True))


@pytest.mark.slow
def test_thirty_conversions_leave_nothing_behind(quantized, tmp_path, monkeypatch):
    stop_worker()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    descriptors = len(os.listdir("/proc/self/fd"))
    convert(quantized, Conversion("int8", quantized=True))
    first, held = worker_pid(), len(os.listdir("/proc/self/fd"))
    for _ in range(29):
        convert(quantized, Conversion("int8", quantized=True))
    assert worker_pid() == first
    assert len(os.listdir("/proc/self/fd")) == held
    assert [entry.name for entry in tmp_path.glob("*/*")] == ["chatter"]
    stop_worker()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert list(tmp_path.iterdir()) == []
    assert not alive(first)


@pytest.mark.slow
def test_threads_take_turns(quantized):
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(convert(quantized, Conversion("int8", quantized=True)))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1


def test_the_environment_of_the_child_is_its_own(monkeypatch):
    before = child_environment()
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=2")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert child_environment() == before
    assert before["CUDA_VISIBLE_DEVICES"] == "-1"


def test_another_search_path_replaces_the_worker(quantized, tmp_path, monkeypatch):
    convert(quantized, Conversion("int8", quantized=True))
    first = worker_pid()
    monkeypatch.syspath_prepend(tmp_path)
    with Session():
        assert worker_pid() != first
    stop_worker()


def test_the_worker_ends_with_its_parent(tmp_path):
    pid, result = run_script(
        """
        from helpers.worker import worker_pid
        from keras_compress.tflite.conversion.process import Session
        with Session():
            print(worker_pid(), flush=True)
        """,
        tmp_path,
    )
    assert result.returncode == 0
    assert result.stderr == ""
    assert not alive(pid)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_worker_that_dies_of_its_own_exception_was_not_killed():
    with Session() as session:
        (session.folder / "job.json").write_text("{")  # no JSON: read before anything is caught
        with pytest.raises(WorkerCrashError) as error:
            session.run(60)
    assert str(error.value) == "the converter process ended by itself with code 1"
    assert "JSONDecodeError" in error.value.chatter
    assert "may be damaged" in remedy_for_crash(str(error.value), True, error.value.chatter)


@pytest.mark.sweep
@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_a_worker_without_memory_says_so():
    weights = tf.Variable(tf.random.normal((4096, 8192)), trainable=False)  # 134 MB

    def large(x):
        return {"y": tf.matmul(x, weights)}

    function = tf.function(large).get_concrete_function(tf.TensorSpec((1, 4096), name="x"))
    with Session():
        worker = worker_pid()
    # Until it has loaded TensorFlow, it needs room for that.
    small = tf.function(lambda x: {"y": x + 1.0}).get_concrete_function(
        tf.TensorSpec((1, 4), name="x")
    )
    convert(small, Conversion("float32"))
    assert worker_pid() == worker
    size = next(
        1024 * int(line.split()[1])
        for line in pathlib.Path(f"/proc/{worker}/status").read_text().splitlines()
        if line.startswith("VmSize")
    )
    resource.prlimit(worker, resource.RLIMIT_AS, (size + 2**27, size + 2**27))
    with pytest.raises(ConversionError, match="memory ran out"):
        convert(function, Conversion("float32"))
    assert convert(small, Conversion("float32"))  # by a new one


def test_the_worker_ends_when_its_parent_is_killed(tmp_path):
    pid, result = run_script(
        """
        from helpers.worker import worker_pid
        from keras_compress.tflite.conversion.process import Session
        with Session():
            print(worker_pid(), flush=True)
            os.kill(os.getpid(), 9)
        """,
        tmp_path,
    )
    assert result.returncode == -signal.SIGKILL
    assert wait_until_gone([pid], tmp_path)


def test_a_fork_starts_its_own_worker_and_leaves_the_parents_alone(tmp_path):
    _, result = run_script(
        """
        from helpers.worker import worker_pid
        from keras_compress.tflite.conversion.process import Session
        with Session() as session:
            first, folder = worker_pid(), session.folder.parent
        print(first, flush=True)
        child = os.fork()
        if not child:
            assert worker_pid() is None
            with Session():
                assert worker_pid() not in (None, first)
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert worker_pid() == first
        assert folder.is_dir()
        """,
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
