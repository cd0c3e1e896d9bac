"""What an engine has done to its model, as a report."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.engines.engine import Engine
from keras_compress.frameworks.operation_counts import macs
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.reports.channels import ChannelsReport
from keras_compress.reports.fit import LayerReport, Report

logger = logging.getLogger("keras_compress")


def compressed_kernels(engine: Engine) -> Iterator[tuple[str, str, tf.Variable]]:
    """(path, name, variable) of every kernel that is pruned or quantized, each once."""
    found: dict[int, tuple[str, str, tf.Variable]] = {}
    if engine.quantizers is not None:
        for path, name, kernel in engine.quantizers.kernels_by_path():
            found.setdefault(id(kernel), (path, name, kernel))
    if engine.pruner is not None:
        for target in filter(lambda each: each.listed, engine.pruner.targets):
            own = (target.path, target.kernel_name, target.kernel)
            found.setdefault(id(target.kernel), own)
    yield from found.values()


def in_place(kernel: tf.Variable) -> np.ndarray:
    """The numbers of a kernel, to be read at once: where they are, and not a copy of them."""
    return np.asarray(kernel.read_value())


def report_on(engine: Engine) -> Report:
    """The report on the model as it is now, without an export."""
    # A model without shapes has nothing that a callable `layers` could choose from.
    specs = dict(engine.configs) if engine.is_placed else {}
    timetable = engine.timetable
    steps: dict[str, Any] = {"delay": timetable.delay, "freeze_step": timetable.freeze_step}
    steps["schedules"] = {path: s.get_config() for path, s in timetable.schedules.items()}
    return Report(
        step=engine.step,
        phase=str(engine.phase),
        switched_at=engine.switched_at,
        sparsity=engine.sparsity,
        layers=_layers(engine),
        left_out=left_out(engine),
        steps=steps,
        specs=specs,
    )


def channels_report(engine: Engine, small: KerasModel) -> ChannelsReport:
    """What is left of an engine's model in the network that ships."""
    model = engine.model
    counts: list[int] | None = []
    try:
        with engine.in_float():
            counts = [macs(model), macs(small)]
    except ValueError as error:  # a count must not cost the report
        logger.warning("No count of multiply-accumulates: %s", error)
        counts = None
    return ChannelsReport(
        layers=list(engine.channels()),
        parameters=(model.count_params(), small.count_params()),
        macs=None if counts is None else (counts[0], counts[1]),
    )


def left_out(engine: Engine) -> dict[str, dict[str, str]]:
    """Per spec that leaves something alone: path -> reason, frozen kernels too."""
    found = {**engine.left_out, "pruning": {**engine.left_out["pruning"], **_frozen(engine)}}
    return {what: dict(reasons) for what, reasons in found.items() if reasons}


def _frozen(engine: Engine) -> dict[str, str]:
    """Path -> reason of the kernels that are frozen at the moment."""
    return {
        target.path: "frozen: its mask starts when it is trained"
        for target in (() if engine.pruner is None else engine.pruner.targets)
        if not target.trainable and not target.started
    }


def _layers(engine: Engine) -> list[LayerReport]:
    """One row for every kernel that is pruned or quantized."""
    quantizers = engine.quantizers if engine.phase.rounds else None
    kernels = () if quantizers is None else quantizers.kernels_by_path()
    rounded = {id(kernel) for _, _, kernel in kernels}
    scales = {} if quantizers is None else engine.kernel_scales()
    rows = []
    for path, name, kernel in compressed_kernels(engine):
        kept = int(np.count_nonzero(in_place(kernel)))
        zeros = 1.0 - kept / kernel.shape.num_elements()
        row = LayerReport(path, name, tuple(kernel.shape), zeros, None)
        if quantizers is not None and id(kernel) in rounded:
            row.bits = quantizers.kernel_bits(kernel)
            if row.bits is None and engine.quantization is not None:
                row.bits = engine.quantization.weight_bits
            row.scale = _smallest_and_largest(scales.get(id(kernel)))
        rows.append(row)
    return rows


def _smallest_and_largest(scale: np.ndarray | None) -> tuple[float, ...] | None:
    """The one scale of a kernel, or the smallest and largest of its channels'."""
    if scale is None:
        return None
    return (float(scale),) if scale.ndim == 0 else (float(scale.min()), float(scale.max()))
