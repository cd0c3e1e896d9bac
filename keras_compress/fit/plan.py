"""What a fit is going to do, read off the engine that will do it."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from keras_compress.engines.engine import Engine
from keras_compress.engines.masks import Target
from keras_compress.engines.reporting import compressed_kernels, report_on
from keras_compress.fit.preflight import Checks
from keras_compress.reports.preview import PlannedFile, PlannedLayer, Preview


def plan_of(checks: Checks, epochs: int, problems: list[str] | None = None) -> Preview:
    """The plan that these checks were about, once its steps are resolved.

    `epochs`: over which its updates are spread.
    """
    engine = checks.engine
    files = [PlannedFile(e.path, e.mode, checks.sizes.get(e.path)) for e in checks.exports]
    step = 0 if engine is None else engine.step
    watched = quantized = frozen = None
    masks: list[int] = []
    if engine is not None:
        timetable = engine.timetable
        schedules = timetable.schedules.values()
        masks = [each.first_step for each in schedules]
        masks += [timetable.reached_at(each) for each in schedules]
        if engine.quantization is not None and timetable.delay is not None:
            quantized = timetable.delay + 1
            before = min(engine.quantization.calibration_steps, timetable.delay)
            watched = quantized - before if before else None
            if timetable.freeze_step is not None:
                frozen = timetable.freeze_step + 1
    return Preview(
        step=step,
        updates=checks.updates,
        epochs=epochs,
        pruned_from=min(masks, default=None),
        pruned_by=max(masks, default=None),
        watched_from=watched,
        quantized_from=quantized,
        frozen_from=frozen,
        layers=[] if engine is None else list(_layers(engine)),
        left_out={} if engine is None else report_on(engine).left_out,
        files=files,
        problems=problems or [],
    )


def _layers(engine: Engine) -> Iterator[PlannedLayer]:
    """Every kernel, and every layer without one that is rounded, in the order of the graph."""
    quantizers = engine.quantizers
    ways = {} if quantizers is None else quantizers.rounded_by()
    rounded = {} if quantizers is None else {id(k): k for *_, k in quantizers.kernels_by_path()}
    pruned = {} if engine.pruner is None else {id(t.kernel): t for t in engine.pruner.targets}
    with_kernels = set()
    for path, name, kernel in compressed_kernels(engine):
        with_kernels.add(path)
        target, bits = pruned.get(id(kernel)), None
        if quantizers is not None and id(kernel) in rounded and engine.quantization is not None:
            bits = quantizers.kernel_bits(kernel) or engine.quantization.weight_bits
        yield PlannedLayer(
            path,
            name,
            tuple(kernel.shape),
            None if target is None else _zeros_at_the_end(engine, target),
            bits,
            _way(path, ways) if bits is not None else None,
        )
    for path, way in ways.items():
        if not any(each == path or each.startswith(f"{path}/") for each in with_kernels):
            yield PlannedLayer(path, None, None, None, None, way)


def _way(path: str, ways: dict[str, str]) -> str | None:
    """What rounds a layer, which may stand inside of one that is quantized by its ops."""
    while path not in ways and "/" in path:
        path = path.rpartition("/")[0]
    return ways.get(path)


def _zeros_at_the_end(engine: Engine, target: Target) -> float:
    """The share of zeros that the final mask of a kernel will have: it is made of the weights as
    they are now, by the code that makes the real one, and taken back.
    """
    if engine.pruner is None:
        return 0.0
    before = target.noted()
    try:
        end = engine.timetable.reached_at(target.schedule)
        engine.pruner.update(target, tf.constant(end, tf.int64))
        return 1 - float(target.kept().mean())
    finally:
        target.put_back(before)
