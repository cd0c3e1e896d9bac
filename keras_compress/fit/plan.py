"""What a fit is going to do, read off the engine that will do it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from keras_compress.engines.engine import Engine
from keras_compress.engines.reporting import compressed_kernels, left_out
from keras_compress.fit.preflight import Checks
from keras_compress.reports.channels import LayerChannels
from keras_compress.reports.preview import PlannedFile, PlannedLayer, Preview


def plan_of(
    checks: Checks, first_epoch: int, last_epoch: int, problems: list[str] | None = None
) -> Preview:
    """The plan that these checks were about, once its steps are resolved.

    `first_epoch`, `last_epoch`: over which its updates are spread, counted from 1.
    """
    engine = checks.engine
    files = [PlannedFile(e.path, e.mode, checks.sizes.get(e.path)) for e in checks.exports]
    step = 0 if engine is None else engine.step
    watched = quantized = frozen = None
    masks: list[int] = []
    factors: list[tuple[int, float]] = []
    restarts: list[int] = []
    if engine is not None:
        timetable = engine.timetable
        schedules = timetable.schedules.values()
        masks = [timetable.begun_at(each) for each in schedules]
        masks += [timetable.reached_at(each) for each in schedules]
        if engine.quantization is not None and timetable.delay is not None:
            quantized = timetable.delay + 1
            before = min(engine.quantization.calibration_steps, timetable.delay)
            watched = quantized - before if before else None
            if timetable.freeze_step is not None:
                frozen = timetable.freeze_step + 1
        factors, restarts = engine.recipe.planned(quantized)
    return Preview(
        step=step,
        updates=checks.updates,
        first_epoch=first_epoch,
        last_epoch=last_epoch,
        pruned_from=min(masks, default=None),
        pruned_by=max(masks, default=None),
        watched_from=watched,
        quantized_from=quantized,
        frozen_from=frozen,
        layers=[] if engine is None else list(_layers(engine)),
        left_out={} if engine is None else left_out(engine),
        files=files,
        problems=problems or [],
        channels=[] if engine is None else _channels_at_the_end(engine),
        learning_rate_factors=factors,
        restarts=restarts,
    )


def _layers(engine: Engine) -> Iterator[PlannedLayer]:
    """Every kernel, and every layer without one that is rounded, in the order of the graph."""
    quantizers = engine.quantizers
    ways = {} if quantizers is None else quantizers.rounded_by()
    rounded = {} if quantizers is None else {id(k): k for *_, k in quantizers.kernels_by_path()}
    zeros = _zeros_at_the_end(engine)
    with_kernels: set[str] = set()
    for path, name, kernel in compressed_kernels(engine):
        with_kernels.update(_up_from(path))
        bits = None
        if quantizers is not None and id(kernel) in rounded and engine.quantization is not None:
            bits = quantizers.kernel_bits(kernel) or engine.quantization.weight_bits
        yield PlannedLayer(
            path,
            name,
            tuple(kernel.shape),
            zeros.get(id(kernel)),
            bits,
            None if bits is None else next(filter(None, map(ways.get, _up_from(path))), None),
        )
    for path, way in ways.items():
        if path not in with_kernels:
            yield PlannedLayer(path, None, None, None, None, way)


def _up_from(path: str) -> Iterator[str]:
    """A layer, and those that it stands inside of: one of these may be quantized by its ops."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def _channels_at_the_end(engine: Engine) -> list[LayerChannels]:
    """Empty where no channels are pruned."""
    if not engine.shrinks:
        return []
    with engine.pruned_to_the_end():
        return list(engine.channels())


def _zeros_at_the_end(engine: Engine) -> dict[int, float]:
    """id of a kernel -> the share of zeros that its final mask will have: it is made of the weights
    as they are now, by the code that makes the real one, and taken back. A frozen kernel has none.
    """
    pruner, found = engine.pruner, {}
    if pruner is not None:
        with engine.pruned_to_the_end():
            kept: dict[int, np.ndarray] = {}
            for target in pruner.targets:
                if target.trainable or target.started:
                    mask = target.kept()
                    kept[id(target.kernel)] = mask & kept.get(id(target.kernel), True)
        found = {kernel: 1 - float(mask.mean()) for kernel, mask in kept.items()}
    return found
