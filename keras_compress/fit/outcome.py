"""What a fit leaves: its report, with the file, the metrics of every network, and the record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from keras_compress.engines.engine import Engine
from keras_compress.export import writing
from keras_compress.export.model_source import ModelSource
from keras_compress.export.record import write_record
from keras_compress.export.source import report_before_export
from keras_compress.fit.plot_data import PlotData
from keras_compress.fit.validation import Validation
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.reports.export import ExportReport
from keras_compress.reports.fit import Report
from keras_compress.reports.validation import ValidationReport
from keras_compress.specs.export import Export
from keras_compress.tflite import Progress

logger = logging.getLogger("keras_compress")


class Outcome:
    """Of a fit that is through, for one member after the other. It holds the validation data.

    Args:
        plot_data: what was noted while the fit ran.
        validates: whether somebody reads the metrics.
        say: logs a message with its arguments, where it is wanted.
    """

    def __init__(
        self,
        adapter: Adapter,
        model: KerasModel,
        engine: Engine | None,
        plot_data: PlotData,
        validates: bool,
        say: Callable[..., None],
    ):
        self._adapter = adapter
        self._model = model
        self._engine = engine
        self._plot_data = plot_data
        self._validates = validates
        self._say = say
        self._validation: Validation | None = None
        """Made once: the networks are the same for every member."""

    def report(self, missed: Sequence[str], export: Export | None, progress: Progress) -> Report:
        """The report for a member with this export, whose file is written unless `missed` says what
        the fit ended before.
        """
        source = ModelSource(self._model, None if export is None else export.input_shape)
        report = report_before_export(source, export)
        report.missed = list(missed)
        self._plot_data.write(report, self._engine)
        if export is not None:
            report.export = _written(source, missed, export, progress)
        report.validation = self._validate(report.export, progress)
        write_record(report, self._adapter.keras)
        return report

    def _validate(self, export: ExportReport | None, progress: Progress) -> ValidationReport | None:
        if not self._validates:
            return None
        if self._validation is None:
            data = self._adapter.validation_data(self._model)
            if data is None:
                return None
            self._say("Evaluating what the fit has made on its validation data.")
            progress("evaluating on the validation data", None, None)
            rounds = self._engine is not None and self._engine.phase.rounds
            self._validation = Validation(self._adapter, self._model, data, rounds)
        return self._validation.report(export.path if export and export.written else None)


def _written(
    source: ModelSource, missed: Sequence[str], export: Export, progress: Progress
) -> ExportReport:
    why = f"the fit ended before {' and '.join(missed)}" if missed else None
    if source.attached is not None and not source.attached.is_chief:
        why = "the chief of the strategy's processes writes it"
    if why is not None:
        return ExportReport(export.path, export.mode, skipped=why)
    try:
        return writing.write_file(source, export, progress)
    except Exception as error:  # a failing export never costs the training
        notes = getattr(error, "__notes__", [])  # what the converter printed
        logger.error("No file at %s: %s", export.path, "\n".join([str(error), *notes]))
        return ExportReport(export.path, export.mode, error=f"{type(error).__name__}: {error}")
