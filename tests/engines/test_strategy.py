"""Several replicas: MirroredStrategy over two logical CPUs, and two workers on this machine."""

import json
import os

import numpy as np
import pytest
from helpers.replicas import printed, printed_by_workers

pytestmark = pytest.mark.by_turns

SCRIPT = """
    from helpers.nets import small_net

    with two_replicas():
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
    ranges = list(ranges_of(model).values())
    masks = [
        [copy.numpy().tolist() for copy in t.mask.values] for t in engine_of(model).pruner.targets
    ]
    report = compress.report
    print(json.dumps([
        history["sparsity"], history["quantized"], ranges, masks, report.step,
        report.export.error, report.export.largest_steps,
    ]))
"""


@pytest.mark.slow
def test_two_replicas_agree_and_the_logs_show_one_number(keras, tmp_path):
    sparsity, quantized, ranges, masks, step, error, steps = printed(keras, SCRIPT, tmp_path)
    assert sparsity == pytest.approx([0.5, 0.5], abs=0.01)
    assert quantized == [0.0, 1.0]
    assert step == 16  # global batches, not one for each replica
    assert ranges
    assert all(first == second for first, second in ranges)
    assert all(first == second for first, second in masks)
    assert error is None
    assert max(steps.values()) <= 4


RESUMED = """
    import contextlib
    from helpers.nets import small_net

    x = np.random.default_rng(0).normal(size=(128, 8, 8, 1)).astype("float32")
    y = np.zeros(128, "int32")

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def fit(*callbacks, backup=None):
        with two_replicas():
            model = small_net(keras, jit_compile=False, optimizer=keras.optimizers.SGD(0.05))
        compress = kc.Compress(quantization=kc.Quantization(delay=4))
        backups = [] if backup is None else [keras.callbacks.BackupAndRestore(backup)]
        with contextlib.suppress(KeyboardInterrupt):
            called = [*backups, compress, *callbacks]
            model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=called)
        return model

    whole = fit()
    fit(Stop(), backup="backup")
    resumed = fit(backup="backup")
    pair = [ranges_of(whole), ranges_of(resumed)]
    with two_replicas():  # as tf_keras' `fit` is
        engine_of(resumed).quantizers.set_input_range(0, (-7.0, 9.0))
    print(json.dumps([*pair, ranges_of(resumed)["input/0"]]))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_ranges_of_all_replicas(keras, tmp_path):
    whole, resumed, given = printed(keras, RESUMED, tmp_path)
    assert resumed == whole
    assert all(first == second for first, second in resumed.values())
    assert given == [[-7.0, 9.0]] * 2


ONE_OR_TWO = """
    import contextlib
    from helpers.nets import small_net

    def trained(scope, kind):
        with scope():
            model = small_net(keras, jit_compile=False, optimizer=keras.optimizers.SGD(0.05))
        generator = np.random.default_rng(0)
        x = generator.normal(size=(256, 8, 8, 1)).astype("float32")
        y = generator.integers(0, 10, 256).astype("int32")
        schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=8, frequency=2)
        delay = 16 if kind == "watched" else 8
        compress = kc.Compress(
            pruning=kc.Pruning(schedule),
            quantization=kc.Quantization(delay=delay, calibration_steps=8),
        )
        model.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0, callbacks=[compress])
        engine = engine_of(model)
        return (
            {k: v.tolist() for k, v in engine.quantizers.ranges().items()},
            [target.kept().tolist() for target in engine.pruner.targets],
            [weight.tolist() for weight in model.get_weights()],
        )

    print(json.dumps({
        kind: [trained(contextlib.nullcontext, kind), trained(two_replicas, kind)]
        for kind in ("watched", "rounded")
    }))
"""


@pytest.fixture(scope="module")
def one_and_two(keras, tmp_path_factory):
    return printed(keras, ONE_OR_TWO, tmp_path_factory.mktemp("replicas"))


def assert_near(one, two, weights, ranges):
    """What two trainings came to; `ranges` is relative, beside 1e-5."""
    assert one[1] == two[1], "masks"
    for mine, same in zip(one[2], two[2], strict=True):
        np.testing.assert_allclose(mine, same, atol=weights)
    assert set(one[0]) == set(two[0])
    for key, limits in one[0].items():
        np.testing.assert_allclose(limits, two[0][key], rtol=ranges, atol=1e-5, err_msg=key)


@pytest.mark.sweep
def test_two_replicas_watch_as_one_device_with_the_same_batch(one_and_two):
    assert_near(*one_and_two["watched"], weights=1e-5, ranges=1e-7)  # NumPy's own


@pytest.mark.sweep
def test_two_replicas_that_round_stay_near_one_device(one_and_two):
    """Each rounds over the range that it has seen itself until the step is through."""
    assert_near(*one_and_two["rounded"], weights=5e-3, ranges=0.01)


WORKERS = """
    from helpers.nets import small_net

    with strategy.scope():
        model = small_net(keras, jit_compile=False, optimizer=keras.optimizers.SGD(0.05))
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 8, 8, 1)).astype("float32")
    y = generator.integers(0, 10, 64).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(16)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=8, frequency=2)
    compress = kc.Compress(
        pruning=kc.Pruning(schedule),
        quantization=kc.Quantization(delay=8, calibration_steps=4),
        export=kc.Export("net.tflite", rehearse=False),
    )

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if engine_of(model).step == STOP_AT:
                os._exit(3)

    callbacks = [compress, keras.callbacks.BackupAndRestore("backup"), Stop()]
    history = model.fit(
        data.with_options(options), steps_per_epoch=4, epochs=4, verbose=0, callbacks=callbacks
    )
    engine, export = engine_of(model), compress.report.export
    print(json.dumps([
        history.epoch, engine.step, str(engine.phase),
        {key: limits.tolist() for key, limits in engine.quantizers.ranges().items()},
        [target.kept().tolist() for target in engine.pruner.targets],
        [weights.tolist() for weights in model.get_weights()],
        export.written, export.skipped, export.error,
    ]))
"""


@pytest.mark.sweep
@pytest.mark.timeout(300)
def test_two_workers_agree_one_writes_and_killed_ones_go_on(tmp_path):
    (tmp_path / "whole").mkdir()
    lines, codes = printed_by_workers(WORKERS.replace("STOP_AT", "-1"), tmp_path / "whole")
    assert codes == [0, 0], lines
    chief, other = map(json.loads, lines)
    assert chief[:6] == other[:6]
    assert chief[0] == [0, 1, 2, 3]
    assert chief[1:3] == [16, "on"]
    assert chief[6:] == [True, None, None]
    assert other[6:] == [False, "the chief of the strategy's processes writes it", None]
    assert sorted(os.listdir(tmp_path / "whole")) == [
        "backup",
        "backup.compress.npz",
        "backup.compress.previous.npz",
        "net.tflite",
        "net.tflite.json",
    ]
    (tmp_path / "killed").mkdir()
    _, codes = printed_by_workers(WORKERS.replace("STOP_AT", "11"), tmp_path / "killed")
    assert codes == [3, 3]
    lines, codes = printed_by_workers(WORKERS.replace("STOP_AT", "-1"), tmp_path / "killed")
    assert codes == [0, 0], lines
    resumed, also = map(json.loads, lines)
    assert resumed[0] == [2, 3]
    assert resumed[1:] == chief[1:]
    assert also[1:6] == chief[1:6]
