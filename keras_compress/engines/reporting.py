"""What an engine has done to its model, as a report."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.engines.engine import Engine
from keras_compress.reports.fit import LayerReport, Report


def report_on(engine: Engine) -> Report:
    """The report on the model as it is now, without an export."""
    # A model without shapes has nothing that a callable `layers` could choose from.
    specs = dict(engine.configs) if engine.is_placed else {}
    timetable = engine.timetable
    steps: dict[str, Any] = {"delay": timetable.delay, "freeze_step": timetable.freeze_step}
    steps["schedules"] = {path: s.get_config() for path, s in timetable.schedules.items()}
    left_out = {**engine.left_out, "pruning": {**engine.left_out["pruning"], **_frozen(engine)}}
    return Report(
        step=engine.step,
        phase=str(engine.phase),
        switched_at=engine.switched_at,
        sparsity=engine.sparsity,
        layers=_layers(engine),
        left_out={what: dict(reasons) for what, reasons in left_out.items() if reasons},
        steps=steps,
        specs=specs,
    )


def _frozen(engine: Engine) -> dict[str, str]:
    """Path -> reason of the kernels that are frozen at the moment."""
    return {
        target.path: "frozen: its mask starts when it is trained"
        for target in (() if engine.pruner is None else engine.pruner.targets)
        if not target.trainable and not target.started
    }


def _layers(engine: Engine) -> list[LayerReport]:
    """One row for every kernel that is pruned or quantized."""
    rows: dict[int, LayerReport] = {}

    def row(path: str, name: str, kernel: tf.Variable) -> LayerReport:
        if id(kernel) not in rows:
            kept = int(np.count_nonzero(kernel.numpy()))
            zeros = 1.0 - kept / kernel.shape.num_elements()
            rows[id(kernel)] = LayerReport(path, name, tuple(kernel.shape), zeros, None)
        return rows[id(kernel)]

    if engine.quantizers is not None:
        for path, name, kernel in engine.quantizers.kernels_by_path():
            layer = row(path, name, kernel)
            if engine.phase.rounds:
                bits = engine.quantizers.kernel_bits(kernel)
                if bits is None and engine.quantization is not None:
                    bits = engine.quantization.weight_bits
                layer.bits = bits
                layer.scale = _smallest_and_largest(engine.quantizers.kernel_scale(kernel))
    if engine.pruner is not None:
        for target in engine.pruner.targets:
            row(target.path, target.key.split("/")[2], target.kernel)
    return list(rows.values())


def _smallest_and_largest(scale: np.ndarray | None) -> tuple[float, ...] | None:
    """The one scale of a kernel, or the smallest and largest of its channels'."""
    if scale is None:
        return None
    return (float(scale),) if scale.ndim == 0 else (float(scale.min()), float(scale.max()))
