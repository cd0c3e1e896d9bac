"""MirroredStrategy over two logical CPUs, in a process of its own: devices are set but once."""

import json
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import json
    import sys

    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    device = tf.config.LogicalDeviceConfiguration
    tf.config.set_logical_device_configuration(cpu, [device(), device()])
    sys.path[:0] = {paths}
    import {keras} as keras
    import keras_compress as kc
    from helpers.nets import small_net
    from keras_compress.engines.engine import engine_of

    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = small_net(keras, batch_norm=True, jit_compile=False)
    x = np.random.default_rng(0).normal(size=(128, 8, 8, 1)).astype("float32")
    y = np.zeros(128, "int32")
    schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=8, frequency=2)
    compress = kc.Compress(
        pruning=kc.Pruning(schedule),
        quantization=kc.Quantization(delay=8),
        export=kc.Export("net.tflite"),
    )
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[compress]).history
    quantizers = engine_of(model).quantizers.activations.values()
    ranges = [q.range for q in quantizers if q.range is not None]
    ranges = [[copy.numpy().tolist() for copy in each.values] for each in ranges]
    masks = [
        [copy.numpy().tolist() for copy in t.mask.values] for t in engine_of(model).pruner.targets
    ]
    report = compress.report
    print(json.dumps([
        history["sparsity"], history["quantized"], ranges, masks, report.step,
        report.export.error, report.export.largest_steps,
    ]))
"""


def test_two_replicas_agree_and_the_logs_show_one_number(keras, tmp_path):
    script = textwrap.dedent(SCRIPT).format(paths=sys.path, keras=keras.__name__)
    child = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr[-2000:]
    sparsity, quantized, ranges, masks, step, error, steps = json.loads(
        child.stdout.strip().splitlines()[-1]
    )
    assert sparsity == pytest.approx([0.5, 0.5], abs=0.01)
    assert quantized == [0.0, 1.0]
    assert step == 16  # global batches, not one for each replica
    assert ranges
    assert all(first == second for first, second in ranges)
    assert all(first == second for first, second in masks)
    assert error is None
    assert max(steps.values()) <= 4
