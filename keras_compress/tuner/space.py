"""What a search varies: one declaration, and from it the specs of one trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from keras_compress._shared.checks import check_int, type_error, value_error
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization
from keras_compress.specs.schedules import PolynomialDecay, Schedule

OWNER = "CompressionHyperModel"
SPARSITY = "final_sparsity"


@dataclasses.dataclass(frozen=True)
class Space:
    """The hyperparameters of a compression.

    Each field is a number, which is fixed; a tuple `(low, high)`, a range that is searched; or a
    list, of which one is chosen. Steps are fractions of a trial's fit.

    Attributes:
        final_sparsity: of all kernels that can be pruned; or a dict of layer name, or of a tuple of
            names that share one target, -> what it is for these (the others are left alone). None:
            no pruning.
        begin_step, end_step: of the PolynomialDecay.
        frequency: updates between two masks.
        delay: of the quantization.
        weight_bits: 8, 4 or [8, 4].
        layers: which layers are quantized, as in `Quantization`.
        structure, score, allocation, multiple_of: as in `Pruning`: with `structure="channels"`
            a `final_sparsity` is the share of channels that go, and bytes and latency fall with it.
    """

    final_sparsity: Any = (0.3, 0.9)
    begin_step: Any = 0.0
    end_step: Any = 0.5
    frequency: int = 10
    delay: Any = 0.6
    weight_bits: Any = 8
    layers: Any = None
    structure: str | None = None
    score: str = "l2"
    allocation: str = "uniform"
    multiple_of: int = 1

    def __post_init__(self) -> None:
        check_int(OWNER, "frequency", self.frequency, minimum=1)
        for name, _, values in self._entries():
            _check(name, values)
        _, last_begin = _bounds(self.begin_step)
        first_end, _ = _bounds(self.end_step)
        if self.final_sparsity is not None and last_begin >= first_end:
            raise value_error(
                OWNER, "end_step", self.end_step, f"above `begin_step`, {self.begin_step!r}"
            )
        named = [layer for _, group, _ in self._entries() for layer in group or ()]
        if twice := sorted({layer for layer in named if named.count(layer) > 1}):
            raise value_error(OWNER, SPARSITY, twice, "a dict that names every layer once")
        self.specs(_First())  # what the specs refuse, they refuse now

    def _entries(self) -> Iterator[tuple[str, Any, Any]]:
        """(name of the hyperparameter, layers it is for, its values)."""
        if isinstance(self.final_sparsity, Mapping):
            if not self.final_sparsity:
                raise value_error(OWNER, SPARSITY, self.final_sparsity, "None or name some layer")
            for layers, values in self.final_sparsity.items():
                group = (layers,) if isinstance(layers, str) else tuple(layers)
                yield f"{SPARSITY}/{'+'.join(group)}", group, values
        elif self.final_sparsity is not None:
            yield SPARSITY, None, self.final_sparsity
        if self.final_sparsity is not None:
            yield "begin_step", None, self.begin_step
            yield "end_step", None, self.end_step
        yield "delay", None, self.delay
        yield "weight_bits", None, self.weight_bits

    def specs(self, hp: Any) -> tuple[Pruning | None, Quantization]:
        """The specs at one point of the space, which is declared on the way.

        Args:
            hp: KerasTuner's HyperParameters.
        """
        drawn = {name: _drawn(hp, name, values) for name, _, values in self._entries()}
        pruning = None
        how: dict[str, Any] = {
            "structure": self.structure,
            "score": self.score,
            "allocation": self.allocation,
            "multiple_of": self.multiple_of,
        }
        if self.final_sparsity is not None:

            def schedule(final_sparsity: float) -> PolynomialDecay:
                return PolynomialDecay(
                    final_sparsity=final_sparsity,
                    begin_step=drawn["begin_step"],
                    end_step=drawn["end_step"],
                    frequency=self.frequency,
                )

            groups = [(name, group) for name, group, _ in self._entries() if group is not None]
            if groups:
                layers: dict[str, Schedule] = {
                    layer: schedule(drawn[name]) for name, group in groups for layer in group
                }
                pruning = Pruning(None, layers=layers, **how)
            else:
                pruning = Pruning(schedule(drawn[SPARSITY]), **how)
        quantization = Quantization(
            delay=drawn["delay"], weight_bits=int(drawn["weight_bits"]), layers=self.layers
        )
        return pruning, quantization


class _First:
    """Stands for KerasTuner's HyperParameters, at the lower ends."""

    def Float(self, name: str, low: float, high: float) -> float:  # noqa: N802  (KerasTuner's name)
        return low

    def Choice(self, name: str, values: list[Any]) -> Any:  # noqa: N802  (KerasTuner's name)
        return values[0]


def _drawn(hp: Any, name: str, values: Any) -> Any:
    # Floats, because an int would be a step and no fraction.
    kind = int if name == "weight_bits" else float
    if isinstance(values, tuple):
        return hp.Float(name, *map(float, values))
    if isinstance(values, list):
        return hp.Choice(name, [kind(value) for value in values])
    return kind(values)


def _bounds(values: Any) -> tuple[float, float]:
    numbers = values if isinstance(values, tuple | list) else [values]
    return min(numbers), max(numbers)


def _check(name: str, values: Any) -> None:
    """Refuse what is neither a number, nor a range, nor a list of numbers."""
    field = name.partition("/")[0]
    rule = "a number, a range (low, high) or a list of numbers to choose from"
    numbers = list(values) if isinstance(values, tuple | list) else [values]
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise type_error(OWNER, field, values, rule)
    if isinstance(values, tuple) and (len(values) != 2 or not values[0] < values[1]):
        raise value_error(OWNER, field, values, "a range (low, high) with low < high")
    if field == "weight_bits" and (isinstance(values, tuple) or not {4, 8}.issuperset(numbers)):
        raise value_error(OWNER, field, values, "4, 8 or [4, 8]")
    top = 1.0 if field != SPARSITY else 0.999
    if field != "weight_bits" and any(not 0 <= n <= top for n in numbers):
        raise value_error(OWNER, field, values, f"fractions between 0 and {top:g}")
