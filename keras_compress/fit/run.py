"""The life of one fit: begin, step, epoch end, finish. The only state machine.

A `Run` belongs to one `fit` and to all `Compress` callbacks in its list. It acts before or after
all other callbacks through the `CallbackList` itself, so that it does not matter where in the list
anybody stands. What must outlive the fit is in the engine, which is attached to the model; between
any two hooks the model is usable, because neither Keras calls a hook on an exception or Ctrl-C.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from keras_compress._shared.heap import give_back
from keras_compress.engines.engine import Engine, engine_of
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.engines.state import Phase
from keras_compress.engines.tfmot.engine import Tfmot
from keras_compress.engines.tfmot.library import is_wrapped
from keras_compress.engines.timetable import FREEZE_STEP
from keras_compress.engines.train_step import LOG_NAMES
from keras_compress.fit import preflight
from keras_compress.fit.backup import Accompanied
from keras_compress.fit.best_weights import BestWeights
from keras_compress.fit.outcome import Outcome
from keras_compress.fit.plan import plan_of
from keras_compress.fit.plot_data import PlotData
from keras_compress.fit.voice import Voice
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.own_traces import keep_quiet_about_them
from keras_compress.frameworks.protocols import KerasCallbackList, KerasModel, Method
from keras_compress.frameworks.signature import UntraceableError, settle
from keras_compress.frameworks.wrap_method import wrap_method
from keras_compress.reports.fit import Report
from keras_compress.specs.export import Export
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization
from keras_compress.tflite.conversion.process import start_worker

if TYPE_CHECKING:
    import tensorflow as tf

logger = logging.getLogger("keras_compress")

_ATTRIBUTE = "_keras_compress_run"


class Member(Protocol):
    """A callback of ours, as the run of its fit knows it."""

    export: Export | None
    partial: bool
    reset_best: bool
    verbose: int
    shows_progress: bool

    def finished(self, report: Report) -> None:
        """Called at the end of the fit."""

    def handed_on(self, report: Report) -> None:
        """Called at the very end, when everybody has his report."""


class Run:
    """One fit. `members` are the `Compress` callbacks in its list, the one in charge first."""

    def __init__(self, model: KerasModel, adapter: Adapter, callbacks: KerasCallbackList):
        self.model = model
        self.adapter = adapter
        self.callbacks = callbacks
        self.engine: Engine | None = None
        self.members: list[Member] = []
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
        self._begun_at: int | None = None
        """The update after which this fit began."""
        self._reached_before = False
        """Whether the final sparsity was reached when this epoch began."""
        self._forget_due: list[str] = []
        """Why what has been the best so far is so no more."""
        self._backup: Accompanied | None = None
        self._best = BestWeights(adapter, callbacks)
        self._voice = Voice(adapter, self.members)
        self._hear_again: Callable[[], None] = lambda: None
        """TensorFlow's warnings of traces."""
        self._warned_of: set[str] = set()
        """The kernels that this fit has said to be broken."""
        self._plot_data = PlotData()
        self._swapped_in: list[tf.Tensor] | None = None
        """What the masks took from the weights that a callback validates with."""

    @classmethod
    def of(cls, member: Member, model: KerasModel) -> Run:
        """The run of the fit that is calling `member`, made by the first that asks."""
        adapter = adapter_of(model, "Compress")
        callbacks = adapter.callback_list(member)
        if callbacks is None:
            raise RuntimeError(
                f"{type(member).__name__}: must stand in the `callbacks` of a `fit`, whose list "
                "calls it. Received: a call from elsewhere"
            )
        run: Run | None = vars(callbacks).get(_ATTRIBUTE)
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
        member: Member,
        pruning: Pruning | None = None,
        quantization: Quantization | None = None,
        drives: bool = True,
    ) -> None:
        """Take a callback in at `on_train_begin`; what can be refused now is refused now."""
        self.members.append(member)
        self.drives = self.drives or drives
        try:
            if member.export is not None and member.export.rehearse:
                start_worker()
            self._take_charge(member, pruning, quantization)
        except BaseException:
            self.withdraw()
            raise

    def _take_charge(
        self, member: Member, pruning: Pruning | None, quantization: Quantization | None
    ) -> None:
        model = self.model
        self._settle()
        preflight.check_model(self.adapter, model)
        asks = pruning is not None or quantization is not None
        if asks and not self._asked:
            self._detach()  # an export earlier in the list took wrappers for what they are
        self._asked = self._asked or asks
        self.engine = engine_of(model)
        if self.engine is None and is_wrapped(model, "Compress"):
            self._attach(Tfmot(self.adapter, model, pruning, quantization), member)
        elif self.engine is None and asks:
            self._attach(InPlace(self.adapter, model, pruning, quantization), member)
        elif self.engine is not None and asks:
            if self._attached_here:
                self._check_together(pruning, quantization)
            self.engine.check_same(pruning, quantization)

    def _check_together(self, pruning: Pruning | None, quantization: Quantization | None) -> None:
        """Refuse a second `Compress` of the same list with a spec that the first one lacks."""
        for name, asked in (("pruning", pruning), ("quantization", quantization)):
            if asked is not None and self.engine is not None and self.engine.asked[name] is None:
                raise ValueError(
                    "Compress: one callback must have all specs; write `Compress(pruning=..., "
                    f"quantization=...)` in the place of two. Received: {name}={asked!r} in a list "
                    "with another Compress"
                )

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

    def _attach(self, engine: Engine, member: Member) -> None:
        engine.owner = member
        engine.attach()
        self.engine = engine
        self._attached_here = True

    def withdraw(self) -> None:
        """Leave a model that this fit compressed, and its callbacks, as if never asked."""
        self._let_go()
        self._hear_again()
        if self.engine is not None:
            self.engine.on_placed = None
        self._detach()

    def _detach(self) -> None:
        """Take away the engine that this fit has attached, if it has."""
        if self._attached_here and self.engine is not None:
            self._attached_here = False
            self.engine.detach()

    def _hook(self) -> None:
        """Act before or after everybody else, through the list that calls them all."""
        self.adapter.show_as_they_are(self.callbacks, LOG_NAMES)
        self._hear_again = keep_quiet_about_them()

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

        if any(map(self.adapter.swaps_weights, self.callbacks.callbacks)):
            around("on_test_begin", None, self._mask_what_was_swapped_in)
            around("on_test_end", self._unmask_it, None)
        around("on_epoch_end", self._before_epoch_end, self._after_epoch_end)
        around("on_train_end", self._before_train_end, lambda *_: self.finish())

    def _mask_what_was_swapped_in(self, *_: object) -> None:
        """A moving average of weights, with which the fit is validated, has more than the masks
        keep: it came after them.
        """
        if self.engine is not None and self._started:
            self._swapped_in = self.engine.readers.mask()

    def _unmask_it(self, *_: object) -> None:
        """Before it goes. Not after an interruption, where it never does."""
        if self.engine is not None and self._swapped_in is not None:
            self.engine.readers.put_back(self._swapped_in)
        self._swapped_in = None

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
                if self.engine is not None and before is not None:
                    self.engine.go_by(before)
                self.withdraw()
                raise
        if self.engine is not None:
            self._reached_before = self.engine.timetable.is_pruned_by(self.engine.step)

    def _begin(self, epoch: int) -> None:
        engine = self.engine
        exports = [member.export for member in self.members if member.export is not None]
        for export in exports:
            preflight.check_export(engine, export)
        updates = self._updates(epoch)
        self._backup = Accompanied.begin(
            self.adapter, self.model, engine, self.callbacks, self._say
        )
        if self._backup is not None:
            self._undo.append(self._backup.let_go)
        # A backup of the end has nothing more to reach: it is there for the export.
        at_end = updates == 0 and self._backup is not None and self._backup.restored
        must_reach = self.drives and not self._partial and not at_end
        checks = preflight.Checks(self.model, engine, exports, updates, must_reach, self._say)
        if engine is None:
            checks.run()
            self._announce(checks, epoch)
            return
        saving: list[Any] = [
            each
            for each in self.callbacks.callbacks
            if self.adapter.isinstance(each, "ModelCheckpoint")
        ]
        for callback in saving:
            if not callback.save_weights_only:
                engine.check_saving(callback.filepath)
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
            checks.run()
            self._plot_data.begin(engine)
            self._announce(checks, epoch)

        self._begun_at = engine.step
        preflight.check_ranges_are_set(engine)
        if engine.is_placed:
            check()
        else:  # a Sequential without shapes: with the first batch, before it counts
            engine.on_placed = check
        engine.begin_fit()
        give_back()  # what was used so far, before the first step takes its own
        if not self.drives and engine.quantization is not None:
            self._say(
                "This fit has no Compress: masks keep to their schedule, quantization stays %s.",
                engine.phase,
            )

    def _announce(self, checks: preflight.Checks, epoch: int) -> None:
        """Print what this fit is going to do, which begins with that epoch."""
        if self.drives and checks.updates != 0 and self._voice.verbose:
            planned = plan_of(checks, epoch + 1, self.callbacks.params["epochs"])
            self._voice.say(str(planned) if self._voice.verbose > 1 else planned.in_a_line())

    @property
    def _partial(self) -> bool:
        return any(member.partial for member in self.members)

    def _updates(self, epoch: int) -> int | None:
        params = self.callbacks.params
        steps: int | None = params.get("steps")
        if steps is None:
            return None
        epochs: int = max(params["epochs"] - epoch, 0)
        return self.adapter.updates_of_epoch(self.model, steps) * epochs

    # --- step

    def step_begin(self) -> None:
        """Enter the phase of the next update, whoever makes it."""
        engine = self.engine
        if engine is None:
            return
        if engine.quantization is not None:
            self._enter(engine, engine.timetable.phase_after(engine.step, 1), engine.step + 1)
        self._restart(engine, engine.step, 1)

    def batch_begin(self, batch: int) -> None:
        """Enter the phase of the updates that are about to run."""
        engine = self.engine
        if engine is None or not (self._has_phases or engine.recipe.restarts):
            return
        if self._epoch_first is None:
            self._epoch_first = engine.step - batch  # a restored backup begins within an epoch
            self._edge = 0
        done = self._epoch_first + batch
        if done < self._edge:  # nothing can change yet, and to ask for more takes its time
            return
        span = self.adapter.steps_per_execution(self.model)
        self._edge = math.inf
        if self._has_phases:
            phase = engine.timetable.phase_after(done, span)
            if phase.rounds and not engine.phase.rounds:
                self._forget_due.append(f"quantization is on from update {done + 1}")
            self._enter(engine, phase, done + 1)
            self._edge = engine.timetable.edge_after(phase) - span
        self._restart(engine, done, span)

    @property
    def _has_phases(self) -> bool:
        """Whether this fit moves the phases of quantization on."""
        return self.engine is not None and self.engine.quantization is not None and self.drives

    def _restart(self, engine: Engine, done: int, span: int) -> None:
        """Let the optimizer begin anew before updates `done + 1` .. `done + span`, if it has to."""
        if not engine.recipe.restarts:
            return
        if engine.recipe.restart_if_due(done, span):
            self._say("Update %d: the optimizer begins anew.", done + 1)
            self._voice.later(done + 1, "the optimizer begins anew.")
        if not engine.is_placed:
            self._edge = done  # until its schedules are known
        elif (edge := engine.recipe.next_restart(done + span)) is not None:
            self._edge = min(self._edge, edge - span)

    def _enter(self, engine: Engine, phase: Phase, update: int) -> None:
        """Change the phase, from the update of that number on."""
        if phase is engine.phase:
            return
        self._say("Update %d: quantization %s -> %s.", update, engine.phase, phase)
        if phase.rounds and not engine.phase.rounds:
            self._voice.later(update, "from here on the network rounds to integers.")
        engine.enter(phase, update)

    # --- epoch end

    def epoch_end(self, epoch: int, logs: Mapping[str, object] | None = None) -> None:
        """Where there is no list of callbacks to be hooked."""
        self._before_epoch_end(epoch)
        self._after_epoch_end(epoch, logs)

    def _before_epoch_end(self, epoch: int, *_: object) -> None:
        if self.engine is None:
            return
        self.engine.apply_masks()
        self._warn_of_broken(self.engine)
        if self._note_pruned(self.engine):
            self._forget_due.append("the final sparsity is reached")
        wanted = all(member.reset_best for member in self.members)
        for reason in self._forget_due if wanted else ():
            for who in self._best.forget():
                self._say("%s: its best so far is forgotten, %s.", who, reason)
        self._forget_due.clear()

    def _note_pruned(self, engine: Engine) -> bool:
        """Whether the final sparsity has been reached since this was last asked."""
        if self._reached_before or not engine.timetable.is_pruned_by(engine.step):
            return False
        self._reached_before = True
        at = engine.timetable.pruned_at or engine.step
        what = "channels are dropped" if engine.shrinks else "weights are zeros"
        self._voice.later(at, f"pruned, {engine.sparsity:.1%} of the {what}.")
        return True

    def _warn_of_broken(self, engine: Engine) -> None:
        """Say once of each kernel that it has diverged, and so is not pruned any further."""
        found = set(engine.broken_kernels()) - self._warned_of
        self._warned_of |= found
        if found:
            logger.warning(
                "NaN or infinite weights in %s: the training has diverged, and their masks stay as "
                "they are.",
                ", ".join(sorted(found)),
            )

    def _after_epoch_end(
        self, epoch: int, logs: Mapping[str, object] | None = None, *_: object
    ) -> None:
        engine = self.engine
        self._voice.flush()  # Keras' bar is through
        self._plot_data.epoch_end(epoch, None if engine is None else engine.step, logs)
        if engine is not None:
            self._best.keep(engine, epoch)

    # --- finish

    def _before_train_end(self, *_: object) -> None:
        """A fit without an epoch, as one that resumes a backup of its last, begins only here."""
        if not self._started:
            self.epoch_begin(self.callbacks.params["epochs"])

    def finish(self) -> None:
        """After everybody's `on_train_end`: EarlyStopping has put its weights back, an optimizer
        its moving average.
        """
        self._let_go()
        self._voice.flush()
        engine = self.engine
        of = None if engine is None else engine.step
        if engine is not None and self._started:
            of = self._best.put_back(engine)
            engine.settle()
        missed = self._missed(of)
        if self.drives and engine is not None and engine.quantization is not None and not missed:
            phase = engine.timetable.phase_after(engine.step, 1)
            if self._freezes_early:
                phase = Phase.FROZEN
                self._say("The fit ended at update %d, before freeze_step: frozen here.", of)
            elif engine.step == self._begun_at and engine.phase is Phase.FROZEN:
                phase = Phase.FROZEN  # as the fit has ended that this one resumes
            # A delay that ends with the fit: no update is rounded, the model is.
            self._enter(engine, phase, engine.step + 1)
        if self.drives and engine is not None and self._started:
            self._note_pruned(engine)  # in a loop that tells of no epoch
        self._voice.flush()
        if engine is not None:
            engine.free_memory()  # the copies that now come need not add to it
        # Not kept: it holds the data, and this run lives as long as its members.
        outcome = Outcome(self.adapter, self.model, engine, self._plot_data, self.drives, self._say)
        failed = ["what was interrupted"]
        try:
            self._keep_for_export(missed)
            reports = []
            for member in self.members:
                with self._voice.progress(member.export if not missed else None) as told:
                    reports.append(outcome.report(missed, member.export, told))
            exports = [report.export for report in reports if report.export is not None]
            failed = [export.path for export in exports if export.error is not None]
        finally:
            self._end_backup(failed)
            self._hear_again()
        for member, report in zip(self.members, reports, strict=True):
            self._voice.conclude(member, report)
            member.finished(report)
        for member, report in zip(self.members, reports, strict=True):
            member.handed_on(report)

    def _keep_for_export(self, missed: list[str]) -> None:
        """Back the end up, before a file is made of it: what EarlyStopping has put back, and masks
        and ranges as they ship, are in no backup of an epoch.
        """
        if self._backup is None or missed or not any(m.export is not None for m in self.members):
            return
        params = self.callbacks.params
        self._backup.back_up_end(params["epochs"], params.get("steps"))

    def _end_backup(self, failed: list[str]) -> None:
        """Let the backup go that a training leaves, but for one that still has a file to write."""
        if self._backup is None:
            return
        if failed:
            logger.warning(
                "The backup is kept: the same fit, run again, goes on at the export of %s.",
                ", ".join(failed),
            )
        self._backup.end(keep=bool(failed))

    @property
    def _freezes_early(self) -> bool:
        """Whether somebody has ended the fit before its freeze step, after which it would only have
        stood still. The next fit goes on to where that step is.
        """
        engine = self.engine
        freeze_step = None if engine is None else engine.timetable.freeze_step
        stopped = bool(getattr(self.model, "stop_training", False))
        stopped = stopped and self.adapter.in_fit(self.model)
        if engine is None or freeze_step is None or self._partial or not self.drives:
            return False
        return stopped and freeze_step > engine.step

    def _missed(self, step: int | None) -> list[str]:
        """What lies behind the update that the weights are of."""
        if self.engine is None or step is None or not self._started:
            return []
        optional = FREEZE_STEP if self._freezes_early or self.engine.phase is Phase.FROZEN else ""
        missed = [
            f"{name} at update {at}"
            for name, at in self.engine.timetable.targets()
            if at > step and name != optional
        ]
        if not missed and self.engine.has_unseen_ranges:
            missed = ["any update that would set the ranges"]
        if missed and self.drives:
            # Weights put back may be of an epoch before, where the fit itself has reached it all.
            now = self.engine.step
            is_fit = step == now or any(at > now for _, at in self.engine.timetable.targets())
            what = "The fit ended at" if is_fit else "The weights put back are of"
            message = f"{what} update %d, before %s; nothing is exported."
            say = self._say if self._partial else logger.warning
            say(message, now if is_fit else step, " and ".join(missed))
        return missed

    def _say(self, message: str, *args: object) -> None:
        if any(member.verbose for member in self.members):
            logger.info(message, *args)

    def _let_go(self) -> None:
        self._swapped_in = None
        vars(self.callbacks).pop(_ATTRIBUTE, None)
        while self._undo:
            self._undo.pop()()
