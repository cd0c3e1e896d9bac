"""`Compress`: the callback. Its hooks only tell the run what happens."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

from keras_compress._shared.checks import check_bool, check_fraction, check_int, type_error
from keras_compress.engines.engine import Engine, engine_of
from keras_compress.engines.state import Phase
from keras_compress.engines.strip import strip
from keras_compress.fit.loop import Loop, enter_phase_of_next
from keras_compress.fit.run import Run
from keras_compress.frameworks.both import BothKeras
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.protocols import KerasModel, Method
from keras_compress.reports.fit import Report
from keras_compress.specs.export import Export
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization

logger = logging.getLogger("keras_compress")

SPECS = ("pruning", "quantization", "export")
OWN = ("partial", "reset_best", "verbose")
"""The other arguments of a `Compress`."""

POSITION_OF_CALLBACKS = 5
"""In the arguments of `fit` of both Keras, without `self`."""


class _Member(BothKeras):
    """A callback that takes part in a run."""

    export: Export | None = None
    partial = False
    reset_best = True
    verbose = 1
    shows_progress = False
    _run: Run

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self._run.epoch_begin(epoch)

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        self._run.batch_begin(batch)


class Compress(_Member):
    """Prunes and quantizes the model of a `fit`, and leaves an integer TFLite file.

    The model stays the same object with the same layers; nothing is wrapped. When `fit` returns,
    the masks hold exactly, and `evaluate` and `predict` answer as the quantized network that ships.
    Where it stands in the list of callbacks does not matter. A step is one training batch, counted
    from 1 over all fits of the model since compression first saw it.

    A model that bears tfmot's wrappers is recognised. One from `prune_low_magnitude` goes by the
    schedule that it carries, with or without `UpdatePruningStep`, and takes no `pruning`. One from
    `quantize_model` or `quantize_apply` is left to its own quantizers, unless `quantization` gives
    them a delay and ranges that start at the first batch; it can be pruned inside its wrappers.

    Args:
        pruning: which kernels to zero, how far and when. None: none.
        quantization: what to round to integers, and from which step on. None: nothing.
        export: the file to write when `fit` ends. None: none. On its own it exports a model that is
            not compressed, or one that another `Compress` is in charge of.
        partial: this fit is one of several of a plan: targets beyond its end are no error, and
            nothing is exported before they are reached.
        reset_best: at the switch, and when the final sparsity is reached, EarlyStopping,
            ModelCheckpoint and ReduceLROnPlateau forget the best that they have seen, because it
            was of another network. False: they keep it.
        verbose: 1 prints, as Keras' own callbacks do, the plan in a line, what was reached and what
            became of the file, and logs it all to the logger "keras_compress" at level INFO. 2
            prints the whole plan, as `preview` has it, and how long each part of making the file
            took. 0: neither, but for warnings.
        on_export: called with the `Report` when the fit is through and its file exists, to hand
            it on: `lambda report: mlflow.log_artifact(report.export.path)`. An exception in it is
            logged, with its traceback, and costs nothing.

    Attributes:
        report: what the last fit did; None before the first. With the metrics of every network that
            was made, if the fit had validation data, which is read once more for each of them.
        stripped_model: `strip`'s result at the end of the last fit; None before the first.

    Raises:
        ValueError: there is nothing to do, or (at the start of `fit`) the specs do not fit the
            model or the fit.
        TypeError: an argument of the wrong kind.
    """

    def __init__(
        self,
        *,
        pruning: Pruning | None = None,
        quantization: Quantization | None = None,
        export: Export | None = None,
        partial: bool = False,
        reset_best: bool = True,
        verbose: int = 1,
        on_export: Callable[[Report], object] | None = None,
    ):
        super().__init__()
        for name, value, spec in (
            ("pruning", pruning, Pruning),
            ("quantization", quantization, Quantization),
            ("export", export, Export),
        ):
            if value is not None and not isinstance(value, spec):
                article = "an" if spec is Export else "a"
                raise type_error("Compress", name, value, f"{article} {spec.__name__} or None")
        if pruning is None and quantization is None and export is None:
            raise ValueError(
                "Compress: one of `pruning`, `quantization` and `export` must be given. "
                "Received: nothing to do"
            )
        self.pruning = pruning
        self.quantization = quantization
        self.export = export
        self.partial = check_bool("Compress", "partial", partial)
        self.reset_best = check_bool("Compress", "reset_best", reset_best)
        self.verbose = check_int("Compress", "verbose", verbose, minimum=0)
        if on_export is not None and not callable(on_export):
            raise type_error("Compress", "on_export", on_export, "a callable or None")
        self.on_export = on_export
        self.report: Report | None = None
        self.stripped_model: KerasModel | None = None
        self._loop: Loop | None = None

    def _given(self, names: Sequence[str]) -> dict[str, Any]:
        """Arguments, by their names."""
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        specs = self._given(SPECS).items()
        given = ", ".join(f"{name}={spec!r}" for name, spec in specs if spec is not None)
        return f"Compress({given})"

    @classmethod
    def int8(cls, path: str | os.PathLike[str], sparsity: float | None = None) -> Compress:
        """The usual case: float for 80 % of the fit, then integers, and an int8 file at `path`;
        pruned to a `sparsity` before, if one is given.

        The same as `Compress(pruning=Pruning(sparsity), quantization=Quantization(delay=0.8),
        export=Export(path))`.
        """
        pruning = None
        if sparsity is not None:
            pruning = Pruning(check_fraction("Compress.int8", "sparsity", sparsity))
        return cls(pruning=pruning, quantization=Quantization(delay=0.8), export=Export(path))

    def on_train_begin(self, logs: object = None) -> None:
        self.report = None
        self.stripped_model = None
        run = Run.of(self, self.model)
        self._run = run
        run.join(self, self.pruning, self.quantization)
        continue_in_bare_fits(self.model)

    # --- in a loop of one's own

    def begin(self, model: KerasModel, steps: int | None = None, optimizer: object = None) -> None:
        """Compress a model that no `fit` trains::

            compress.begin(model, steps=1000)
            for x, y in data:
                with compress.step():
                    train(x, y, compress.phase)  # a tf.function, traced anew for each phase
            report = compress.finish()

        The same masks, ranges and phases as in a `fit` of so many steps, whose callbacks do what
        `epoch_end` and `finish` do here.

        Args:
            model: built, or wrapped by `wrap`; compiled or not.
            steps: how many updates the loop has. None: nobody knows; then every step of the specs
                is an int.
            optimizer: what updates the weights, where it is not the one that the model was compiled
                with: its count tells whether each step has been one update.

        Raises:
            ValueError: as at the start of a `fit`; or the model belongs to a strategy of several
                replicas.
        """
        if steps is not None:
            steps = check_int("Compress.begin", "steps", steps, minimum=1)
        self.report = None
        self.stripped_model = None
        if self._loop is not None:
            self._loop.abandon()
            self._loop = None
        self._loop = Loop(self, model, steps, self.pruning, self.quantization, optimizer)
        self.set_model(model)
        continue_in_bare_fits(model)

    def step(self) -> contextlib.AbstractContextManager[None]:
        """A context around everything that one update of the weights takes: forward pass, gradients
        and the optimizer's own step, eager or compiled.

        Raises:
            RuntimeError: outside of `begin` and `finish`; there was more than one update inside; or
                a compiled function that was traced in an earlier phase and does not know of this
                one.
        """
        return self._loop_for("step").step()

    @property
    def phase(self) -> str:
        """That of the model which is trained, or was: "off", "watching", "on" or "frozen"."""
        engine = None if self.model is None else engine_of(self.model)
        return str(Phase.OFF if engine is None else engine.phase)

    def epoch_end(self, logs: dict[str, float] | None = None) -> None:
        """Make the masks hold, as at the end of an epoch of `fit`; `logs` are for the report's
        picture. Need not be called.
        """
        self._loop_for("epoch_end").epoch_end(logs)

    def finish(self) -> Report:
        """End the loop: what is pruned is zero, and the file is written, if there is one to write.
        The report on it all, which `report` keeps.
        """
        self._loop_for("finish").finish()
        self._loop = None
        return cast(Report, self.report)  # `finished` has set it

    def _loop_for(self, verb: str) -> Loop:
        if self._loop is None:
            raise RuntimeError(
                f"Compress.{verb}: `begin` must come first, and `finish` last. "
                "Received: a call outside of a loop"
            )
        return self._loop

    # --- the end of both

    def finished(self, report: Report) -> None:
        """Called by the run at the end."""
        self.report = report
        try:
            self.stripped_model = strip(self.model)
        except Exception as error:  # must not cost the training
            logger.warning("No stripped model: %s", error)

    def handed_on(self, report: Report) -> None:
        """Called by the run when every member has its report."""
        if self.on_export is None or report.export is None or not report.export.written:
            return
        try:
            self.on_export(report)
        except Exception:  # must not cost the training
            logger.exception("`on_export` failed; the file stands at %s.", report.export.path)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compress:
        """The same specs, without the model and the fit: KerasTuner copies callbacks for every
        trial.
        """
        specs = copy.deepcopy(self._given(SPECS), memo)
        return type(self)(**specs, **self._given(OWN), on_export=self.on_export)

    def __getstate__(self) -> dict[str, Any]:
        """Specs and report: a model, and the fit that is over, belong to their process."""
        return self._given([*SPECS, *OWN, "on_export", "report"])

    def __setstate__(self, state: dict[str, Any]) -> None:
        report = state.pop("report")
        self.__init__(**state)  # type: ignore[misc]
        self.report = report

    def get_config(self) -> dict[str, Any]:
        """A plain dict of plain values that `from_config` reads back; data and `on_export` are no
        part of it.
        """
        specs = self._given(SPECS).items()
        config = {name: spec and spec.get_config() for name, spec in specs}
        return {**config, **self._given(OWN)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Compress:
        """The callback that `get_config` described."""
        pruning, quantization, export = (config[name] for name in SPECS)
        specs = {
            "pruning": pruning and Pruning.from_config(pruning),
            "quantization": quantization and Quantization.from_config(quantization),
            "export": export and Export.from_config(export),
        }
        return cls(**{**config, **specs})


class _Continue(_Member):
    """Stands in for a `Compress` in a fit of a compressed model that was given none: the masks go
    on.
    """

    def on_train_begin(self, logs: object = None) -> None:
        owner = compression_of(self.model)
        self.verbose = 0 if owner is None else owner.verbose
        self._run = Run.of(self, self.model)
        self._run.join(self, drives=False)

    def finished(self, report: Report) -> None:
        pass

    def handed_on(self, report: Report) -> None:
        pass


def continue_in_bare_fits(model: KerasModel) -> None:
    """From now on a `fit` of this model without `Compress` keeps its masks, until `strip` or
    `detach`.
    """
    engine = engine_of(model)
    if engine is not None:
        engine.wrap_once("fit", functools.partial(_with_member, model))
        engine.wrap_once("train_on_batch", functools.partial(_in_phase, model))


def _in_phase(model: KerasModel, train_on_batch: Method) -> Method:
    """Single steps of a model that goes through its phases by itself do so too."""

    @functools.wraps(train_on_batch)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        engine = engine_of(model)
        if engine is not None and (engine.drives_bare_fits or engine.in_loop):
            enter_phase_of_next(engine)
        elif engine is not None:
            engine.recipe.restart_if_due(engine.step, 1)
        return train_on_batch(*args, **kwargs)

    return wrapped


def _with_member(model: KerasModel, fit: Method) -> Method:
    names = list(inspect.signature(fit).parameters)
    # A `fit` of the user's own may take what it passes on as `*args, **kwargs`.
    place = names.index("callbacks") if "callbacks" in names else POSITION_OF_CALLBACKS

    @functools.wraps(fit)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        callbacks: Any = args[place] if len(args) > place else kwargs.get("callbacks")
        members = getattr(callbacks, "callbacks", callbacks)  # Keras takes a ready CallbackList too
        flat = list(members) if isinstance(members, list | tuple) else [members]
        flat = [member for member in flat if member is not None]
        member = _missing_member(engine_of(model), flat)
        if member is not None and callbacks is not members:
            adapter_of(model, "Compress").append_callback(callbacks, member)
            member.set_model(model)  # as the list's members know it
        elif member is not None and len(args) > place:
            args = (*args[:place], [*flat, member], *args[place + 1 :])
        elif member is not None:
            kwargs["callbacks"] = [*flat, member]
        return fit(*args, **kwargs)

    return wrapped


def _missing_member(engine: Engine | None, callbacks: list[object]) -> Any:
    """Who has to stand in a list of callbacks besides those who do; None if nobody has."""
    if engine is not None and engine.drives_bare_fits:
        return None if any(member is engine.owner for member in callbacks) else engine.owner
    return None if any(isinstance(member, _Member) for member in callbacks) else _Continue()


def compression_of(model: KerasModel) -> Compress | None:
    """The `Compress` in charge of a model, or None. TypeError for what is no model."""
    adapter_of(model, "compression_of")  # refuses what is no model
    engine = engine_of(model)
    return None if engine is None else engine.owner
