"""When everything happens in one compressed life: plain numbers, no framework.

The specs say it in updates or in fractions of a fit; the timetable knows the updates, once the
first fit has begun.
"""

from __future__ import annotations

import dataclasses
import math

from keras_compress.engines.state import Phase
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization
from keras_compress.specs.schedules import Schedule

FREEZE_STEP = "freeze_step"
"""The name of a target that a fit may end before: what has settled can be frozen at any time."""


@dataclasses.dataclass
class Timetable:
    """Schedules, delay and freeze step of one model.

    Attributes:
        pruning, quantization: the specs as they were given, fractions and all.
        schedules: path -> schedule of what is pruned; empty before that is known.
        delay, freeze_step: in updates; None before they are, or without quantization.
        resolved: (start, updates) of the fit that fractions are of; None before the first.
    """

    pruning: Pruning | None
    quantization: Quantization | None
    schedules: dict[str, Schedule] = dataclasses.field(default_factory=dict)
    delay: int | None = None
    freeze_step: int | None = None
    resolved: tuple[int, int] | None = None

    def copy(self) -> Timetable:
        """The same, which goes on by itself."""
        return dataclasses.replace(self, schedules=dict(self.schedules))

    # --- fractions

    @property
    def has_fractions(self) -> bool:
        """Whether some step is not yet an update."""
        if self.pruning is not None and not self.schedules:
            unresolved = self.pruning.has_fractions and self.resolved is None
        else:
            unresolved = any(schedule.has_fractions for schedule in self.schedules.values())
        if self.quantization is not None and self.delay is None:
            unresolved = unresolved or self.quantization.has_fractions
        return unresolved

    def resolve(self, start: int, updates: int) -> None:
        """Turn every fraction into an update of the fit of `updates` steps that begins after update
        `start`.
        """
        self.resolved = (start, updates)
        self.load()

    def load(self) -> None:
        """Bring schedules and phase edges to where the last `resolve` put them."""
        if self.resolved is None:
            return
        self.schedules = {
            path: schedule.resolve(*self.resolved) for path, schedule in self.schedules.items()
        }
        if self.quantization is not None and self.delay is None:
            resolved = self.quantization.resolve(*self.resolved)
            # `resolve` has made ints of both.
            self.delay, self.freeze_step = resolved.delay, resolved.freeze_step  # type: ignore[assignment]

    def clear(self) -> None:
        """Forget all but the specs."""
        self.schedules, self.resolved = {}, None
        self.delay = self.freeze_step = None

    # --- what is when

    def phase_after(self, done: int, span: int) -> Phase:
        """The phase of updates `done + 1` .. `done + span`, which run in one execution.

        An execution starts to watch when any of its updates should, and rounds when all of them do.
        """
        if self.quantization is None or self.delay is None:
            return Phase.OFF
        if self.freeze_step is not None and done >= self.freeze_step and done >= self.delay:
            return Phase.FROZEN
        if done >= self.delay:
            return Phase.ON
        watched = self.quantization.calibration_steps
        if watched and done + span > self.delay - watched:
            return Phase.WATCHING
        return Phase.OFF

    def edge_after(self, phase: Phase) -> float:
        """The number of updates after which `phase` may end; infinite where it never does."""
        if self.quantization is None or self.delay is None:
            return math.inf
        if phase is Phase.OFF:
            return self.delay - self.quantization.calibration_steps
        if phase is Phase.WATCHING:
            return self.delay
        if phase is Phase.ON and self.freeze_step is not None:
            return self.freeze_step
        return math.inf

    def is_pruned_by(self, step: int) -> bool:
        """Whether every schedule has reached its end by `step`; False where nothing is pruned."""
        return self.pruned_at is not None and step >= self.pruned_at

    @property
    def pruned_at(self) -> int | None:
        """The update by which every schedule has reached its end; None where nothing is pruned, or
        fractions are not yet resolved.
        """
        schedules = self.schedules.values()
        if not schedules or any(schedule.has_fractions for schedule in schedules):
            return None
        return max(map(self.reached_at, schedules))

    @property
    def pruned_from(self) -> int | None:
        """The update of the first mask of all; None where nothing is pruned, or fractions are not
        yet resolved.
        """
        schedules = self.schedules.values()
        if not schedules or any(schedule.has_fractions for schedule in schedules):
            return None
        return min(map(self.begun_at, schedules))

    def begun_at(self, schedule: Schedule) -> int:
        """The update of a schedule's first mask."""
        if self.pruning is not None and self.pruning.sparsity_m_by_n is not None:
            return self.reached_at(schedule)  # made once
        return schedule.first_step

    def reached_at(self, schedule: Schedule) -> int:
        """The update by which a schedule is at its target."""
        if self.pruning is not None and self.pruning.sparsity_m_by_n is not None:
            # Of ints, or nobody would ask.
            return max(schedule.begin_step, 1)  # type: ignore[return-value]
        return schedule.last_step

    def targets(self) -> list[tuple[str, int]]:
        """(name, step) of everything that the plan wants to reach."""
        found = [
            (f"the pruning of {path}", self.reached_at(schedule))
            for path, schedule in self.schedules.items()
        ]
        if len({step for _, step in found}) == 1:
            found = [("the final sparsity", found[0][1])]
        if self.delay is not None:
            found.append(("the delay", self.delay))
        if self.freeze_step is not None:
            found.append((FREEZE_STEP, self.freeze_step))
        return found
