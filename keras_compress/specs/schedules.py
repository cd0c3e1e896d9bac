"""How much of a kernel to zero, and at which step: plain numbers in and out.

A step is one optimizer update, counted from 1 over the whole compressed training (never per epoch).
A sparsity is a fraction in [0, 1), never per cent: 0.5 zeroes half of a kernel's elements.

Where a step is asked for, an int counts updates and a float in [0, 1] is that fraction of the fit
that begins, so 1 is the first update and 1.0 the last one. `resolve` turns fractions into ints.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Self, overload

from keras_compress._shared import checks


class _Schedule:
    """What both schedules share: the grid of updates, fractions of a fit, and the plain dict.

    The fields are declared here and made by each dataclass, which so keeps its own order of them.
    """

    kind: ClassVar[str]
    begin_step: int | float
    end_step: int | float
    frequency: int

    @property
    def has_fractions(self) -> bool:
        """Whether a step is still a fraction of a fit, so that `resolve` has to come first."""
        return isinstance(self.begin_step, float) or isinstance(self.end_step, float)

    @property
    def first_step(self) -> int:
        """The first step at which a mask is computed: there is no step 0. ValueError while it is a
        fraction.
        """
        begin, end = self._steps()
        if begin > 0:
            return begin
        return self.frequency if end < 0 else min(self.frequency, end)

    def updates_at(self, step: int) -> bool:
        """Whether the mask is computed anew at `step`.

        True on the grid `(step - begin_step) % frequency == 0` from `begin_step` to `end_step`,
        and at `end_step` itself wherever the grid falls. False before the one and after the other.

        Raises:
            ValueError: if a step is still a fraction.
        """
        begin, end = self._steps()
        if step < begin or step > end >= 0:
            return False
        return (step - begin) % self.frequency == 0 or step == end

    def resolve(self, start: int, updates: int) -> Self:
        """The schedule with ints for steps, in a fit of `updates` updates after the first `start`.

        A fraction `f` becomes `start + round(f * updates)`; ints stay as they are.

        Raises:
            ValueError: if the resolved steps are out of order; the message quotes both forms.
        """
        if not self.has_fractions:
            return self
        begin = resolve_step(self.begin_step, start, updates)
        end = resolve_step(self.end_step, start, updates)
        self._check_order(begin, end)
        return type(self)(**{**self._fields(), "begin_step": begin, "end_step": end})

    def get_config(self) -> dict[str, Any]:
        """A plain dict of plain values, `kind` included, that `from_config` reads back equal."""
        return {"kind": self.kind, **self._fields()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The schedule that `get_config` described.

        Raises:
            ValueError: if a key is missing or unknown, or a value is out of its range.
        """
        names = _field_names(cls)
        arguments = checks.check_keys(cls.kind, config, ["kind", *names], ["kind", *names])
        kind = arguments.pop("kind")
        checks.check_choice(cls.kind, "kind", kind, [cls.kind])
        return cls(**arguments)

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _field_names(type(self))}

    def _steps(self) -> tuple[int, int]:
        """(begin, end) as ints, or the error that asks for `resolve`."""
        begin = checks.check_resolved(self.kind, "begin_step", self.begin_step)
        return begin, checks.check_resolved(self.kind, "end_step", self.end_step)

    def _check_order(self, begin: float, end: float) -> None:
        """Raise if `begin` and `end`, both ints or both fractions, are out of order."""
        raise NotImplementedError

    def _order_error(self, rule: str, begin: float, end: float) -> ValueError:
        """The error for steps out of order, in the form that was compared."""
        first = ("begin_step", self.begin_step, begin)
        return checks.order_error(self.kind, rule, first, ("end_step", self.end_step, end))

    def _check_shared(self, *, allow_forever: bool) -> None:
        """Normalise and check the three fields of both schedules."""
        begin = checks.check_step(self.kind, "begin_step", self.begin_step)
        end = checks.check_step(self.kind, "end_step", self.end_step, allow_forever=allow_forever)
        frequency = checks.check_int(self.kind, "frequency", self.frequency, minimum=1)
        object.__setattr__(self, "begin_step", begin)
        object.__setattr__(self, "end_step", end)
        object.__setattr__(self, "frequency", frequency)
        if isinstance(begin, float) == isinstance(end, float):
            self._check_order(begin, end)


class _Required:
    """In the place of an argument that has to be given, between others that need not be."""

    def __repr__(self) -> str:
        return "<required>"


REQUIRED: Any = _Required()


@dataclasses.dataclass(frozen=True)
class PolynomialDecay(_Schedule):
    """Fraction of a kernel to zero, rising steeply at first and settling at the end.

    The fraction is `initial_sparsity` until `begin_step`, `final_sparsity` from `end_step` on, and
    in between `final + (initial - final) * (1 - t)**power` with
    `t = (step - begin_step) / (end_step - begin_step)`. Most weights go early, while the learning
    rate can still repair the damage [1].

    The mask is computed anew every `frequency` steps from `begin_step` on and once more at
    `end_step`, so that `final_sparsity` is always reached. tfmot's class of the same name stops at
    the last point of the grid; on the grid the two agree.

    Args:
        initial_sparsity: fraction in [0, 1) at `begin_step`.
        final_sparsity: fraction in [0, 1) at `end_step`.
        begin_step: first step at which a mask is computed; int >= 0 or fraction of the fit.
        end_step: last such step, after `begin_step`; int or fraction of the fit.
        power: exponent > 0; 1 is a straight line, 3 is the paper's.
        frequency: steps between two masks, int >= 1.

    Raises:
        TypeError: for a value of the wrong type, a bool included.
        ValueError: for a value outside its range, or steps out of order.

    References:
        [1] Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878.
    """

    kind: ClassVar[str] = "PolynomialDecay"

    initial_sparsity: float = 0.0
    final_sparsity: float = REQUIRED
    begin_step: int | float = REQUIRED
    end_step: int | float = REQUIRED
    power: int | float = 3
    frequency: int = 100

    if TYPE_CHECKING:  # by position in tfmot's order, and by name without the first

        @overload
        def __init__(
            self,
            initial_sparsity: float,
            final_sparsity: float,
            begin_step: float,
            end_step: float,
            power: float = 3,
            frequency: int = 100,
        ) -> None: ...
        @overload
        def __init__(
            self,
            *,
            initial_sparsity: float = 0.0,
            final_sparsity: float,
            begin_step: float,
            end_step: float,
            power: float = 3,
            frequency: int = 100,
        ) -> None: ...
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __post_init__(self) -> None:
        missing = [name for name, value in self._fields().items() if value is REQUIRED]
        if missing:
            raise TypeError(
                f"PolynomialDecay: {' and '.join(f'`{name}`' for name in missing)} must be given. "
                f"Received: {self!r}"
            )
        for name in ("initial_sparsity", "final_sparsity"):
            value = checks.check_fraction(self.kind, name, getattr(self, name))
            object.__setattr__(self, name, value)
        object.__setattr__(self, "power", checks.check_positive(self.kind, "power", self.power))
        self._check_shared(allow_forever=False)

    @property
    def target(self) -> float:
        """The sparsity at the end."""
        return self.final_sparsity

    @property
    def last_step(self) -> int:
        """The step at which the target is reached. ValueError while it is a fraction."""
        return self._steps()[1]

    def sparsity(self, step: int) -> float:
        """Fraction to zero at `step`, in [0, 1). ValueError while a step is a fraction."""
        begin, end = self._steps()
        if step <= begin:
            return self.initial_sparsity
        if step >= end:
            return self.final_sparsity
        rest: float = (1 - (step - begin) / (end - begin)) ** self.power
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * rest

    def _check_order(self, begin: float, end: float) -> None:
        if not begin < end:
            raise self._order_error("less than `end_step`", begin, end)


@dataclasses.dataclass(frozen=True)
class ConstantSparsity(_Schedule):
    """The same fraction of a kernel to zero at every update of the mask.

    The mask is computed anew every `frequency` steps from `begin_step` on and, where there is an
    end, once more at `end_step`; the masks then stay. `sparsity` is the target at every step, as in
    tfmot; `updates_at` says where it is applied.

    Args:
        target_sparsity: fraction in [0, 1).
        begin_step: first step at which a mask is computed; int >= 0 or fraction of the fit.
        end_step: last such step, not before `begin_step`; int or fraction of the fit; -1: no end.
        frequency: steps between two masks, int >= 1.

    Raises:
        TypeError: for a value of the wrong type, a bool included.
        ValueError: for a value outside its range, or steps out of order.
    """

    kind: ClassVar[str] = "ConstantSparsity"

    target_sparsity: float
    begin_step: int | float
    end_step: int | float = -1
    frequency: int = 100

    def __post_init__(self) -> None:
        value = checks.check_fraction(self.kind, "target_sparsity", self.target_sparsity)
        object.__setattr__(self, "target_sparsity", value)
        self._check_shared(allow_forever=True)

    @property
    def target(self) -> float:
        """The sparsity at every step."""
        return self.target_sparsity

    @property
    def last_step(self) -> int:
        """The step by which the target is reached, which is the first. ValueError while it is a
        fraction.
        """
        return self.first_step

    def sparsity(self, step: int) -> float:
        """Fraction to zero, whatever the step. ValueError while a step is a fraction."""
        self._steps()
        return self.target_sparsity

    def _check_order(self, begin: float, end: float) -> None:
        if end != -1 and not begin <= end:
            raise self._order_error("at most `end_step`", begin, end)
        if end == 0 and isinstance(end, int):  # steps count from 1
            rule = "at least the first step, or no mask would be computed; -1 is without an end"
            raise checks.value_error(self.kind, "end_step", self.end_step, rule)


Schedule = PolynomialDecay | ConstantSparsity

USUAL_FREQUENCY = 10
"""Of the schedule that a bare sparsity stands for: fits of a few hundred updates get there too."""

_KINDS: dict[str, type[PolynomialDecay] | type[ConstantSparsity]] = {
    "PolynomialDecay": PolynomialDecay,
    "ConstantSparsity": ConstantSparsity,
}


def _field_names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def resolve_step(step: int | float, start: int, updates: int) -> int:
    """An int as it is; a fraction of a fit of `updates` updates after the first `start`, as an int.

    `start + round(step * updates)`, a half to the even neighbour.
    """
    return start + round(step * updates) if isinstance(step, float) else step


def as_schedule(value: object, owner: str, name: str = "schedule") -> Schedule:
    """`value` as a schedule: ours as it is, tfmot's own two classes converted; a number is the
    sparsity of the usual one.

    tfmot's are known by their name and module, so that tfmot need not be imported; a class derived
    from them may mean anything and is refused. Its steps are counts even where they are floats.

    Raises:
        TypeError: for anything else; `owner` and `name` are quoted in the message.
        ValueError: for a tfmot schedule with values that ours refuse.
    """
    if isinstance(value, PolynomialDecay | ConstantSparsity):
        return value
    if checks.is_number(value):
        sparsity = checks.check_fraction(owner, name, value)
        return PolynomialDecay(
            final_sparsity=sparsity, begin_step=0.2, end_step=0.6, frequency=USUAL_FREQUENCY
        )
    kind = type(value).__name__
    if (
        kind not in _KINDS
        or type(value).__module__.split(".")[0] != "tensorflow_model_optimization"
    ):
        rule = "a PolynomialDecay or ConstantSparsity, of keras_compress or of tfmot, or a sparsity"
        raise checks.type_error(owner, name, value, rule)
    arguments = {name: getattr(value, name) for name in _field_names(_KINDS[kind])}
    for name in ("begin_step", "end_step"):
        step = arguments[name]
        if checks.meant_int(step):
            step = int(step)
        arguments[name] = checks.check_int(kind, name, step)
    return _KINDS[kind](**arguments)


def schedule_from_config(config: dict[str, Any]) -> Schedule:
    """The schedule that a `get_config` described, of the class that its `kind` names.

    Raises:
        TypeError: if `config` is not a dict.
        ValueError: if its `kind`, another key or a value is unknown.
    """
    if not isinstance(config, dict):
        raise checks.type_error("Schedule", "config", config, "a dict")
    kind = checks.check_choice("Schedule", "kind", config.get("kind"), _KINDS)
    return _KINDS[kind].from_config(config)
