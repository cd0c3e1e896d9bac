"""MirroredStrategy over two logical CPUs, in a process of its own: devices are set but once."""

import pytest
from helpers.replicas import printed

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
    sparsity, quantized, ranges, masks, step, error, steps = printed(keras, SCRIPT, tmp_path)
    assert sparsity == pytest.approx([0.5, 0.5], abs=0.01)
    assert quantized == [0.0, 1.0]
    assert step == 16  # global batches, not one for each replica
    assert ranges
    assert all(first == second for first, second in ranges)
    assert all(first == second for first, second in masks)
    assert error is None
    assert max(steps.values()) <= 4
