"""What is refused before the first step of a fit, because it cannot work."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence

from keras_compress.engines.engine import Engine, engine_inside
from keras_compress.engines.shipping import check_it_can_be_made
from keras_compress.engines.train_step import LOG_NAMES
from keras_compress.export.detections import check_heads
from keras_compress.export.input_ranges import check_calibrated, input_ranges
from keras_compress.export.model_source import ModelSource
from keras_compress.export.rehearse import WAYS, Rehearsal, in_words, look_ahead, rehearse
from keras_compress.export.rows import CALIBRATION_SAMPLES, SAMPLES, read_rows
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.finite import not_finite
from keras_compress.frameworks.inference import input_specs
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.reports.inspection import CONVERTING
from keras_compress.specs.export import Export


def check_model(adapter: Adapter, model: KerasModel) -> None:
    """Refuse a model that is not built, holds a compressed one, has metrics with names of ours, or
    is broken.
    """
    if not model.built and not adapter.grows(model):
        raise ValueError(
            "Compress: the model must be built; a subclassed one is built by calling it on a "
            f"batch of data. Received: model={type(model).__name__} without weights"
        )
    if engine_inside(model) is not None:
        raise ValueError(
            "Compress: the model must not hold one that is compressed on its own; `strip` that one "
            f"first. Received: model={type(model).__name__} with a compressed model in it"
        )
    names = adapter.metric_names(model)
    for name in LOG_NAMES:
        if name in names:
            raise ValueError(
                f"Compress: a metric must not be named {name!r}, which is a log of ours. "
                f"Received: metrics={sorted(names)}"
            )
    broken = next(not_finite(adapter, model), None) if model.built else None
    if broken is not None:
        raise ValueError(
            "Compress: the weights must be finite; training went wrong before this fit. "
            f"Received: {broken} with NaN or infinite values"
        )


def check_export(engine: Engine | None, export: Export) -> None:
    """Refuse an export for what it says of itself."""
    export.check_folder()
    export.check_data_files()
    if engine is None or engine.quantization is None or export.mode != "int8":
        check_calibrated(None, export)


def check_export_of(model: KerasModel, engine: Engine | None, export: Export) -> None:
    """Refuse an export whose data do not fit the built model, or that would leave layers in float
    though nobody said so.
    """
    _check_rows(model, export)
    _check_heads(model, export)
    if export.mode != "int8" or export.allow_float_ops or engine is None:
        return
    if export.default_ranges_stats is not None:
        return  # a range for what would have none
    left_out = engine.left_out["quantization"]
    if engine.quantization is not None and left_out and not engine.left_by_user:
        what = "; ".join(f"{path} ({reason})" for path, reason in left_out.items())
        told, ways = "", WAYS
        if export.rehearse:
            rehearsal, ways = look_ahead(model, export)
            told = f"{_told(rehearsal, ways)} "
        can = f"What can be done: {in_words(ways)}. " if ways else ""
        raise ValueError(
            "Export: `allow_float_ops` must be True for an integer file of this model, whose "
            f"layers would not all be rounded in the training: {what}. {told}{can}Received: "
            "allow_float_ops=False"
        )


def _told(found: Rehearsal, ways: list[str]) -> str:
    """What a file with those layers in it would be."""
    if found.error is not None:
        more = "" if ways else f" {found.error.remedy}."
        return f"With them there would be no file: {found.error.reason}.{more}"
    anyway = ", ".join(found.rounded_anyway)
    if found.float_ops:
        computing = [op for op in found.float_ops if op.op not in CONVERTING]
        ops = ", ".join(dict.fromkeys(map(str, computing or found.float_ops)))
        also = f", and its report list as `rounded_anyway`: {anyway}" if anyway else ""
        return f"The file would compute in float: {ops}{also}."
    listing = f"; its report would list as `rounded_anyway`: {anyway}" if anyway else ""
    return (
        "The file would be all-integer all the same, because the converter takes for quantized "
        f"what stands between rounded tensors{listing}."
    )


@dataclasses.dataclass
class Checks:
    """What is asked of a planned model before its first step: every check by itself, in order.

    Attributes:
        sizes: path of a file -> the bytes that its rehearsal came to; filled by the checks.
    """

    model: KerasModel
    engine: Engine | None
    exports: Sequence[Export]
    updates: int | None
    """Of the fit; None where nobody knows."""
    must_reach: bool
    """Whether what lies beyond the fit is an error."""
    say: Callable[..., None]
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)

    def __iter__(self) -> Iterator[Callable[[], None]]:
        for export in self.exports:
            yield functools.partial(check_export_of, self.model, self.engine, export)
        if self.engine is not None:
            yield self.engine.recipe.check
        if self.engine is not None and self.updates is not None and self.must_reach:
            yield functools.partial(check_reach, self.engine, self.updates)
        rehearsed = any(export.rehearse for export in self.exports)  # which makes it too
        if self.engine is not None and self.engine.shrinks and self.updates and not rehearsed:
            yield functools.partial(check_it_can_be_made, self.engine)
        # Not before a fit without updates, whose export comes at once.
        for export in self.exports if self.updates != 0 else ():
            yield functools.partial(self._rehearse, export)

    def run(self) -> None:
        """All of them; the first that finds something raises it."""
        for check in self:
            check()

    def _rehearse(self, export: Export) -> None:
        """Find before the first step what would fail after the last.

        Raises:
            ConversionError: there would be no file at the end.
        """
        if not export.rehearse:
            return
        adapter = adapter_of(self.model, "Compress")
        if adapter.functional(self.model) is None and adapter.grows(self.model):
            said = "is not rehearsed: the model gets its shapes with the first batch"
        else:
            begin = time.perf_counter()
            found = rehearse(self.model, export)
            if found.bytes is not None:
                self.sizes[export.path] = found.bytes
            said = f"is rehearsed: it took {time.perf_counter() - begin:.1f} s"
            if found.known:
                said = "is not rehearsed again: a network of this structure has passed before"
        self.say("The export to %s %s.", export.path, said)


def _check_rows(model: KerasModel, export: Export) -> None:
    """Read the export's data once, so that what does not fit is said before training.

    Raises:
        ValueError, TypeError: naming the field, the input and what was found; or the model has no
            inputs that a file could have.
    """
    adapter = adapter_of(model, "Compress")
    if adapter.functional(model) is None and adapter.grows(model):
        return  # a Sequential that gets its inputs with the first batch
    specs = input_specs(adapter, model, export.batch_size, export.input_shape)
    input_ranges(specs, export)
    sizes = {"representative_dataset": CALIBRATION_SAMPLES, "verify_data": SAMPLES}
    for field, samples in sizes.items():
        data = getattr(export, field)
        if data is not None:
            for _ in read_rows(specs, data, field, samples):
                pass


def _check_heads(model: KerasModel, export: Export) -> None:
    """Refuse an op for detections that does not fit the model's outputs.

    Raises:
        ValueError: with the shapes.
    """
    if export.postprocess is None or export.rehearse:  # the rehearsal would find it
        return
    adapter = adapter_of(model, "Compress")
    if adapter.functional(model) is None and adapter.grows(model):
        return
    with adapter.seeds_kept():
        source = ModelSource(model, export.input_shape)
        check_heads(export, source.function(export.batch_size, quantized=False))


def check_ranges_are_set(engine: Engine) -> None:
    """Refuse a plan in which no update sets the ranges: neither watched nor followed."""
    spec, delay, freeze_step = (
        engine.quantization,
        engine.timetable.delay,
        engine.timetable.freeze_step,
    )
    if spec is None or freeze_step is None or delay is None:
        return
    watched = delay and spec.calibration_steps
    if not watched and freeze_step <= delay:
        raise ValueError(
            "Quantization: `freeze_step` must lie after the delay, or `calibration_steps` be "
            "above 0 and the delay too, or no update would set the ranges. Received: "
            f"freeze_step={freeze_step}, delay={delay}, "
            f"calibration_steps={spec.calibration_steps}"
        )


def check_reach(engine: Engine, updates: int) -> None:
    """Refuse targets that lie beyond a fit of so many updates."""
    end = engine.step + updates
    for name, step in engine.timetable.targets():
        if step > end:
            raise ValueError(
                f"Compress: {name} must be reached within this fit, which ends at update {end}; "
                "train longer, use fractions, or say `partial=True` for a plan over several fits. "
                f"Received: step {step}"
            )
