"""The life of one fit: begin, step, epoch end, finish. The only state machine.

A `Run` belongs to one `fit` and to all `Compress` callbacks in its list. It acts before or after
all other callbacks through the `CallbackList` itself, so that it does not matter where in the list
anybody stands. What must outlive the fit is in the engine, which is attached to the model; between
any two hooks the model is usable, because neither Keras calls a hook on an exception or Ctrl-C.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from keras_compress.engines.engine import Engine, engine_of
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.engines.snapshot import restore_arrays, take
from keras_compress.engines.state import Phase, State
from keras_compress.engines.strip import strip
from keras_compress.engines.tfmot.engine import Tfmot
from keras_compress.engines.tfmot.library import is_wrapped
from keras_compress.engines.train_step import LOG_NAMES
from keras_compress.export import writing
from keras_compress.export.model_source import ModelSource
from keras_compress.export.record import write_record
from keras_compress.fit import backup, preflight
from keras_compress.fit.history import Recording
from keras_compress.fit.validation import Validation
from keras_compress.frameworks.adapter import Adapter, wrap_method
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.protocols import Method
from keras_compress.frameworks.signature import UntraceableError, settle
from keras_compress.reports.file import ExportReport
from keras_compress.reports.fit import Report
from keras_compress.reports.validation import ValidationReport
from keras_compress.specs.export import Export
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization
from keras_compress.tflite.conversion.process import start_worker

logger = logging.getLogger("keras_compress")

_ATTRIBUTE = "_keras_compress_run"


class Run:
    """One fit. `members` are the `Compress` callbacks in its list, the one in charge first."""

    def __init__(self, model: Any, adapter: Adapter, callbacks: Any):
        self.model = model
        self.adapter = adapter
        self.callbacks = callbacks
        self.engine: Any = None
        self.members: list[Any] = []
        self.drives = False
        """Whether a `Compress` takes part, so that the phases go on; a bare fit leaves the phase as
        it is.
        """
        self._undo: list[Callable[[], None]] = []
        self._started = False
        self._attached_here = False
        self._asked = False
        """Whether some member has specs of its own."""
        self._epoch_first: int | None = None
        self._edge: float = 0
        self._reset_due: list[str] = []
        self._best: dict[int, tuple[int, State]] = {}
        self._validation: Validation | None = None
        self._recording = Recording()

    @classmethod
    def of(cls, member: Any, model: Any) -> Run:
        """The run of the fit that is calling `member`, made by the first that asks."""
        adapter = adapter_of(model)
        callbacks = adapter.callback_list(member)
        if callbacks is None:
            raise RuntimeError(
                f"{type(member).__name__}: must stand in the `callbacks` of a `fit`, whose list "
                "calls it. Received: a call from elsewhere"
            )
        run = vars(callbacks).get(_ATTRIBUTE)
        if run is None or member in run.members:  # or a list that a fit which failed left behind
            if run is not None:
                run._let_go()
            run = cls(model, adapter, callbacks)
            vars(callbacks)[_ATTRIBUTE] = run
            run._hook()
        return run

    # --- begin

    def join(
        self,
        member: Any,
        pruning: Pruning | None = None,
        quantization: Quantization | None = None,
        export: Export | None = None,
        drives: bool = True,
    ) -> None:
        """Take a callback in at `on_train_begin`; what can be refused now is refused now."""
        self.members.append(member)
        self.drives = self.drives or drives
        try:
            if export is not None and export.rehearse:
                start_worker()
            self._take_charge(member, pruning, quantization)
        except BaseException:
            self._withdraw()
            raise

    def _take_charge(
        self, member: Any, pruning: Pruning | None, quantization: Quantization | None
    ) -> None:
        model = self.model
        self._settle()
        preflight.check_model(self.adapter, model)
        asks = pruning is not None or quantization is not None
        if asks and self._attached_here and not self._asked:
            self.engine.detach()  # an export earlier in the list took wrappers for what they are
            self._attached_here = False
        self._asked = self._asked or asks
        self.engine = engine_of(model)
        if self.engine is None and is_wrapped(model):
            self._attach(Tfmot(self.adapter, model, pruning, quantization), member)
        elif self.engine is None and asks:
            self._attach(InPlace(self.adapter, model, pruning, quantization), member)
        elif asks:
            self.engine.check_same(pruning, quantization)

    def _settle(self) -> None:
        """Let a model without a graph, which may not even be built, have the inputs of this fit."""
        model, adapter = self.model, self.adapter
        if adapter.functional(model) is None and not adapter.grows(model) and not engine_of(model):
            given, was_built = adapter.fit_inputs(model), model.built
            try:
                if given is not None:
                    settle(adapter, model, given)
            except UntraceableError:
                if not was_built:  # or it is said once anybody asks: pruning does not
                    raise

    def _attach(self, engine: Engine, member: Any) -> None:
        engine.owner = member
        engine.attach()
        self.engine = engine
        self._attached_here = True

    def _withdraw(self) -> None:
        """Leave a model that this fit compressed, and its callbacks, as if never asked."""
        self._let_go()
        if self.engine is not None:
            self.engine.on_placed = None
        if self._attached_here:
            self._attached_here = False
            self.engine.detach()

    def _hook(self) -> None:
        """Act before or after everybody else, through the list that calls them all."""
        self.adapter.show_as_they_are(self.callbacks, LOG_NAMES)

        def around(name: str, before: Method | None, after: Method | None) -> None:
            def make(original: Method) -> Method:
                def hook(*args: Any, **kwargs: Any) -> Any:
                    if before is not None:
                        before(*args)
                    result = original(*args, **kwargs)
                    if after is not None:
                        after(*args)
                    return result

                return hook

            self._undo.append(wrap_method(self.callbacks, name, make))

        around("on_test_begin", lambda *_: self.engine and self.engine.apply_masks(), None)
        around("on_epoch_end", self._before_epoch_end, self._after_epoch_end)
        around("on_train_end", self._before_train_end, lambda *_: self._finish())

    def epoch_begin(self, epoch: int) -> None:
        """The first one, once everybody's `on_train_begin` is through, knows where and how long the
        fit will be.
        """
        self._epoch_first = None
        if not self._started:
            self._started = True
            before = None
            try:
                if self.engine is not None:
                    self.engine.place_if_built()
                    before = self.engine.timetable.copy()
                self._begin(epoch)
            except BaseException:
                if before is not None:
                    self.engine.go_by(before)
                self._withdraw()
                raise
        if self.engine is not None:
            self._reached_before = self.engine.timetable.is_pruned_by(self.engine.step)

    def _begin(self, epoch: int) -> None:
        engine = self.engine
        exports = [m.export for m in self.members if getattr(m, "export", None) is not None]
        for export in exports:
            preflight.check_export(engine, export)
        updates = self._updates(epoch)
        if engine is None:
            for export in exports:
                preflight.check_export_of(self.model, engine, export)
            self._rehearse(exports, updates)
            return
        for callback in self.callbacks.callbacks:
            saves = self.adapter.isinstance(callback, "ModelCheckpoint")
            if saves and not callback.save_weights_only:
                engine.check_saving(callback.filepath)
        let_go = backup.watch(
            self.adapter, self.model, engine, self.callbacks, self.members[0].iterations
        )
        if let_go is not None:
            self._undo.append(let_go)
        if engine.timetable.has_fractions:
            if updates is None:
                given = " ".join(str(s) for s in (engine.pruning, engine.quantization) if s)
                raise ValueError(
                    "Compress: steps must be ints, because this fit does not know its length; give "
                    f"`steps_per_epoch`, or count updates. Received: {given}"
                )
            engine.resolve(engine.step, updates)
        else:
            engine.resolve(engine.step, 0)

        def check() -> None:
            for export in exports:
                preflight.check_export_of(self.model, engine, export)
            if self.drives and updates is not None and not self._partial:
                preflight.check_reach(engine, updates)
            self._rehearse(exports, updates)
            self._recording.begin(engine)

        preflight.check_ranges_are_set(engine)
        if engine.is_placed:
            check()
        else:  # a Sequential without shapes: with the first batch, before it counts
            engine.on_placed = check
        engine.begin_fit()
        if not self.drives and engine.quantization is not None:
            self._say(
                "This fit has no Compress: masks keep to their schedule, quantization stays %s.",
                engine.phase,
            )

    def _rehearse(self, exports: list[Export], updates: int | None) -> None:
        """Find before the first step what would fail after the last; not before a fit that has
        none, whose export comes at once.
        """
        for export in exports if updates != 0 else ():
            said = preflight.rehearsed(self.model, export)
            if said is not None:
                self._say("The export to %s %s.", export.path, said)

    @property
    def _partial(self) -> bool:
        return any(getattr(member, "partial", False) for member in self.members)

    def _updates(self, epoch: int) -> int | None:
        params = self.callbacks.params
        steps = params.get("steps")
        return None if steps is None else steps * max(params["epochs"] - epoch, 0)

    # --- step

    def batch_begin(self, batch: int) -> None:
        """Enter the phase of the updates that are about to run."""
        engine = self.engine
        if engine is None or engine.quantization is None or not self.drives:
            return
        if self._epoch_first is None:
            self._epoch_first = engine.step - batch  # a restored backup begins within an epoch
            self._edge = 0
        done = self._epoch_first + batch
        if done < self._edge:  # nothing can change yet, and to ask for more takes its time
            return
        span = self.adapter.steps_per_execution(self.model)
        phase = engine.timetable.phase_after(done, span)
        if phase.rounds and not engine.phase.rounds:
            self._reset_due.append(f"quantization is on from update {done + 1}")
        self._enter(phase, done + 1)
        self._edge = engine.timetable.edge_after(phase) - span

    def _enter(self, phase: Phase, update: int) -> None:
        """Change the phase, from the update of that number on."""
        engine = self.engine
        if phase is engine.phase:
            return
        if phase.rounds and not engine.phase.rounds:
            engine.switched_at = update
        self._say("Update %d: quantization %s -> %s.", update, engine.phase, phase)
        engine.set_phase(phase)

    # --- epoch end

    def _before_epoch_end(self, epoch: int, *_: Any) -> None:
        if self.engine is None:
            return
        self.engine.apply_masks()
        if not self._reached_before and self.engine.timetable.is_pruned_by(self.engine.step):
            self._reset_due.append("the final sparsity is reached")
        for reason in self._reset_due:
            reset = [c for c in self.callbacks.callbacks if self.adapter.reset_best(c)]
            for callback in reset:
                self._say("%s: its best so far is forgotten, %s.", type(callback).__name__, reason)
        self._reset_due.clear()

    def _after_epoch_end(self, epoch: int, logs: Any = None, *_: Any) -> None:
        """Keep masks and ranges beside the weights that an EarlyStopping has just kept."""
        self._recording.epoch_end(epoch, self.engine and self.engine.step, logs)
        if self.engine is None:
            return
        for callback in self.callbacks.callbacks:
            if self._restores(callback) and callback.best_epoch == epoch:
                self._best[id(callback)] = (epoch, take(self.engine))

    def _restores(self, callback: Any) -> bool:
        return (
            self.adapter.isinstance(callback, "EarlyStopping")
            and callback.restore_best_weights
            and callback.best_weights is not None
        )

    # --- finish

    def _before_train_end(self, *_: Any) -> None:
        """A fit without an epoch, as one that resumes a backup of its last, begins only here."""
        if not self._started:
            self.epoch_begin(self.callbacks.params["epochs"])

    def _finish(self) -> None:
        """After everybody's `on_train_end`: EarlyStopping has put its weights back, an optimizer
        its moving average.
        """
        self._let_go()
        engine = self.engine
        if engine is not None and self._started:
            for callback in self.callbacks.callbacks:
                if id(callback) in self._best and self._restores(callback):
                    epoch, state = self._best[id(callback)]
                    if callback.best_epoch == epoch:
                        restore_arrays(engine, state)
            engine.settle()
        missed = self._missed()
        if self.drives and engine is not None and engine.quantization is not None and not missed:
            # A delay that ends with the fit: no update is rounded, the model is.
            self._enter(engine.timetable.phase_after(engine.step, 1), engine.step + 1)
        for member in self.members:
            member.finished(self._report(missed, getattr(member, "export", None)))
        self._validation = None  # it holds the data, and this run lives as long as its members

    def _missed(self) -> list[str]:
        if self.engine is None or not self._started:
            return []
        step = self.engine.step
        missed = [
            f"{name} at update {at}" for name, at in self.engine.timetable.targets() if at > step
        ]
        if not missed and self.engine.has_unseen_ranges:
            missed = ["any update that would set the ranges"]
        if missed and self.drives:
            message = "The fit ended at update %d, before %s; nothing is exported."
            say = self._say if self._partial else logger.warning
            say(message, step, " and ".join(missed))
        return missed

    def _report(self, missed: list[str], export: Export | None) -> Report:
        source = ModelSource(self.model, None if export is None else export.input_shape)
        report = writing.report_on(source, export)
        report.missed = list(missed)
        self._recording.write(report, self.engine)
        if export is not None:
            report.export = self._export(source, missed, export)
        report.validation = self._validate(report.export)
        write_record(report, self.adapter.keras)
        return report

    def _export(self, source: ModelSource, missed: list[str], export: Export) -> ExportReport:
        if missed:
            why = f"the fit ended before {' and '.join(missed)}"
            return ExportReport(export.path, export.mode, skipped=why)
        try:
            return writing.write_file(source, export)
        except Exception as error:  # a failing export never costs the training
            notes = getattr(error, "__notes__", [])  # what the converter printed
            logger.error("No file at %s: %s", export.path, "\n".join([str(error), *notes]))
            return ExportReport(export.path, export.mode, error=f"{type(error).__name__}: {error}")

    def _validate(self, export: ExportReport | None) -> ValidationReport | None:
        if not self.drives:
            return None  # nobody reads the report
        if self._validation is None:
            data = self.adapter.validation_data(self.model)
            if data is None:
                return None
            self._say("Evaluating what the fit has made on its validation data.")
            rounds = self.engine is not None and self.engine.phase.rounds
            self._validation = Validation(self.adapter, self.model, data, strip, rounds)
        return self._validation.report(export.path if export and export.written else None)

    def _say(self, message: str, *args: Any) -> None:
        if any(member.verbose for member in self.members):
            logger.info(message, *args)

    def _let_go(self) -> None:
        vars(self.callbacks).pop(_ATTRIBUTE, None)
        while self._undo:
            self._undo.pop()()
