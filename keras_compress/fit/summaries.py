"""`CompressionSummaries`: the callback that shows TensorBoard what compression does to a model."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from keras_compress._shared.checks import (
    as_text_path,
    check_bool,
    is_int,
    meant_int,
    type_error,
    value_error,
)
from keras_compress.engines.engine import Engine, engine_of
from keras_compress.engines.state import Phase
from keras_compress.fit.event_file import EventFile
from keras_compress.frameworks.both import BothKeras

logger = logging.getLogger("keras_compress")

OWNER = "CompressionSummaries"
ARGUMENTS = ("log_dir", "ranges", "update_freq")


class CompressionSummaries(BothKeras):
    """Writes for TensorBoard what compression does, as tfmot's `PruningSummaries` does for pruning.

    It stands in the `callbacks` of a `fit`, beside `Compress`, before or after it, or alone where
    the model is wrapped or compressed already, and changes nothing of the training. Beside a
    `TensorBoard` of the same `log_dir` its metrics and these specs are one row of the HParams tab.

    The horizontal axis counts the updates since compression first saw the model, so that one fit
    goes on where the last has ended. These are written:

    - `<path>/<kernel>/sparsity`: the fraction that the kernel's mask drops, in [0, 1].
    - `<path>/<kernel>/threshold`: the smallest magnitude that is kept. In place it is that of the
      weights as they are now. In tfmot's wrappers it is tfmot's own: of the update that made the
      mask, 0 before the first, and of what was pooled where blocks are pruned. Left out for blocks
      in place and for m by n, which no one magnitude decides.
    - `sparsity`: over all kernels under pruning.
    - `phase`: that of the last update, 0 for "off", 1 for "watching", 2 for "on", 3 for "frozen";
      and as a text `phase/name`, at the first update of a fit and whenever it changes.
    - `<path>/<role>/minimum` and `/maximum`, with `ranges=True`: of every activation, once an
      update has set them; "output" is the role of what a layer gives, and "input/0" is the first
      input of the model.
    - The specs as hyperparameters, "pruning.schedule.final_sparsity" for one; without the package
      `tensorboard` as a text `specs` in JSON.

    What comes after the last update (a model that is frozen early, weights that EarlyStopping puts
    back) shows in the next fit. Of several workers the chief writes. A model that is not compressed
    is warned of, and nothing is written.

    Args:
        log_dir: the folder of the event files, made when there is something to write.
        ranges: write the ranges of activations too, two numbers for each.
        update_freq: "epoch" for the end of every epoch, or a number of updates after which to
            write, and once more at the end. A change of the phase is written at once.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: `log_dir` is empty, or `update_freq` another word or below 1.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        *,
        ranges: bool = False,
        update_freq: str | int = "epoch",
    ):
        super().__init__()
        self.log_dir = _check_folder(log_dir)
        self.ranges = check_bool(OWNER, "ranges", ranges)
        self.update_freq = _check_frequency(update_freq)
        self._file: EventFile | None = None
        self._forget_fit()

    def _forget_fit(self) -> None:
        self._asked = False
        """Whether the engine of this fit has been looked for."""
        self._engine: Engine | None = None
        """Whose numbers are written; None for nobody's."""
        self._phase: Phase | None = None
        self._phase_at: int | None = None
        """The last one that was written, and its update."""
        self._written_at: int | None = None
        self._epoch_first: int | None = None
        """The update after which this epoch began; None before its first batch has ended."""
        self._next: int | None = None
        """The update to be written next, where every so many are."""

    # --- hooks

    def on_train_begin(self, logs: object = None) -> None:
        self._close()  # neither Keras tells of the end of a fit that was interrupted
        self._forget_fit()

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self._epoch_first = None
        if self._asked:
            return
        self._asked = True  # now that every `Compress` has begun
        engine = engine_of(self.model)
        if engine is None:
            logger.warning(
                "%s: this fit's model is not compressed, and nothing is written; give a `Compress` "
                "to the same fit, or `wrap` the model.",
                OWNER,
            )
        elif engine.is_chief:
            self._engine = engine

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        engine = self._engine
        if engine is None:
            return
        if engine.phase is not self._phase:
            self._write_phase(engine, engine.step)
        if is_int(self.update_freq) and self._is_due(engine, batch, self.update_freq):
            self._write(engine)

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        if self._engine is not None and self.update_freq == "epoch":
            self._write(self._engine)

    def on_train_end(self, logs: object = None) -> None:
        if self._engine is not None and self._written_at != self._engine.step:
            self._write(self._engine)
        self._close()
        self._forget_fit()

    # --- writing

    def _is_due(self, engine: Engine, batch: int, every: int) -> bool:
        """Whether a multiple of `every` has been reached."""
        if self._epoch_first is None:  # read once an epoch: to ask for it waits for the device
            self._epoch_first = engine.step - (batch + 1)
        done = self._epoch_first + batch + 1
        if self._next is None:
            self._next = (self._epoch_first // every + 1) * every
        if done < self._next:
            return False
        self._next = (done // every + 1) * every
        return True

    def _write(self, engine: Engine) -> None:
        if not engine.is_placed:  # an epoch without a batch
            return
        step = engine.step
        self._write_phase(engine, step)
        self._opened(engine).scalars(dict(numbers(engine, self.ranges)), step)
        self._written_at = step

    def _write_phase(self, engine: Engine, step: int) -> None:
        file, phase = self._opened(engine), engine.phase
        if (phase, step) != (self._phase, self._phase_at):
            file.scalars({"phase": list(Phase).index(phase)}, step)
        if phase is not self._phase:
            file.text("phase/name", str(phase), step)
        self._phase, self._phase_at = phase, step

    def _opened(self, engine: Engine) -> EventFile:
        if self._file is None:
            self._file = EventFile(self.log_dir)
            self._file.hyperparameters(flat(engine.configs), engine.configs)
        return self._file

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    # --- copies

    def __getstate__(self) -> dict[str, Any]:
        """The arguments: a model and an open file belong to their process and fit."""
        return {name: getattr(self, name) for name in ARGUMENTS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def numbers(engine: Engine, ranges: bool) -> Iterator[tuple[str, float]]:
    """(tag, value) of all that is a number, but for the phase; `ranges`: of activations too."""
    if engine.pruner is not None:
        for target in engine.pruner.targets:
            kept = target.kept()
            yield f"{target.path}/{target.kernel_name}/sparsity", 1.0 - float(kept.mean())
            threshold = engine.pruner.threshold(target)
            if threshold is not None:
                yield f"{target.path}/{target.kernel_name}/threshold", threshold
        yield "sparsity", engine.sparsity
    if ranges and engine.quantizers is not None and not engine.has_unseen_ranges:
        paths = engine.quantizers.paths_of_ranges()
        for key, (low, high) in engine.quantizers.ranges().items():
            yield f"{paths[key]}/minimum", float(low.min())
            yield f"{paths[key]}/maximum", float(high.max())


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """A nested config in one level, its keys joined by dots; lists as JSON, and no None."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            plain = isinstance(value, bool | int | float | str)
            found[f"{prefix}{key}"] = value if plain else json.dumps(value)
    return found


def _check_folder(log_dir: object) -> str:
    rule = "the path of a folder"
    text = as_text_path(OWNER, "log_dir", log_dir, rule)
    if not text:
        raise value_error(OWNER, "log_dir", text, rule)
    return text


def _check_frequency(update_freq: object) -> str | int:
    rule = "'epoch' or an int >= 1"
    if not isinstance(update_freq, str) and not is_int(update_freq):
        raise type_error(OWNER, "update_freq", update_freq, rule, hint=meant_int(update_freq))
    if update_freq != "epoch" and (isinstance(update_freq, str) or update_freq < 1):
        hint = "did you mean 1?" if update_freq == "batch" else ""
        raise value_error(OWNER, "update_freq", update_freq, rule, hint=hint)
    return update_freq if isinstance(update_freq, str) else int(update_freq)
