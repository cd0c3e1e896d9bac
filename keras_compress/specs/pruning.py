"""`Pruning`: which kernels to zero, how far and in what pattern.

Steps are those of `specs/schedules.py`: an int counts updates, a float in [0, 1] is that fraction
of the fit that begins, until `resolve` has turned it into an int.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from keras_compress._shared import checks
from keras_compress._shared.checks import Layers
from keras_compress.specs.fields import (
    OF_UPDATES,
    check_of_updates,
    config_of_updates,
    read_config,
    set_field,
    writable_layers,
)
from keras_compress.specs.schedules import Schedule, as_schedule, schedule_from_config

CHANNELS = "channels"
"""The `structure` of whole channels."""

OF_CHANNELS = ("score", "allocation", "multiple_of", "weights")
"""The fields that say something of channels alone."""

OF_WEIGHTS = ("block_size", "block_pooling_type", "sparsity_m_by_n")
"""The fields that say something of single weights alone."""


@dataclasses.dataclass(frozen=True)
class Pruning:
    """Which kernels to prune, how far, and in what pattern.

    The smallest weights of each kernel are zeroed, as many as its schedule says at that step, and
    stay zero until the mask is computed anew. With `structure="channels"` whole output channels of
    dense and convolution layers are dropped, with all that hangs on them, and what `strip`, the
    export and `Compress.stripped_model` hold is the network without them: it is smaller and faster
    by itself.

    Args:
        schedule: `PolynomialDecay` or `ConstantSparsity`, tfmot's own two included; or a sparsity,
            as 0.5, which is reached by a `PolynomialDecay` between 20 % and 60 % of the fit. None
            only if `layers` is a dict, which then names all that is pruned.
        layers: None for every kernel that can be pruned; names, where `"backbone/conv1"` is a layer
            of a nested model, or layers themselves, which stand for their names; a callable
            `layer -> bool`; or a dict of name -> schedule, where the layers it does not name get
            `schedule`.
        block_size: (rows, columns) zeroed together, in rank-2 kernels.
        block_pooling_type: "AVG" or "MAX": what of a block's magnitudes is compared.
        sparsity_m_by_n: (m, n): m zeros in every n consecutive weights along the input axis, as
            (2, 4); every target must be m / n. Not together with a `block_size`.
        structure: "channels": a sparsity is the share of channels that are dropped. None: single
            weights, in the patterns above. Not together with one of those.
        score: of channels, what is compared: "l2", the root of the mean square of all weights that
            hang on a channel; "l1", their mean magnitude; "gamma", that of batch norm's scales
            alone. The lowest are dropped.
        allocation: of channels: "uniform", of each group of coupled layers the same share;
            "global", the lowest of all groups together, each score as a share of its group's mean.
        multiple_of: of channels: what is left of each group is a multiple of it (4 or 8 suit
            integer kernels), and at least that.
        weights: of channels: a schedule, or a sparsity, by which single weights of those that are
            left are zeroed too, in every kernel that can be pruned. It is best reached when the
            channels are: what goes later takes zeros with it.
        learning_rate_factor: from the update of the first mask on, every update is made with this
            multiple (> 0) of the learning rate that the optimizer has then, whatever a schedule or
            a callback gives it; what reads the rate from outside sees it as it is. Of several
            schedules the first to begin counts. None: the rate as it is.
        restart_optimizer: True: before the update of the first mask the optimizer's slots
            (momenta, accumulators, moving averages) begin anew, and so does what it counts for
            their bias correction; its `iterations` and a schedule of the learning rate go on. With
            a `steps_per_execution` above 1 that is before the execution which that update is in.

    Raises:
        TypeError: for a value of the wrong type.
        ValueError: for a value outside its range, or fields that contradict each other.
    """

    schedule: Schedule | None
    _: dataclasses.KW_ONLY
    layers: Layers | dict[str, Schedule] = None
    block_size: tuple[int, int] = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: tuple[int, int] | None = None
    structure: str | None = None
    score: str = "l2"
    allocation: str = "uniform"
    multiple_of: int = 1
    weights: Schedule | None = None
    learning_rate_factor: float | None = None
    restart_optimizer: bool = False

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(
            self,
            schedule: float | object | None,
            *,
            layers: checks.GivenLayers | Mapping[Any, object] = None,
            block_size: Sequence[int] = (1, 1),
            block_pooling_type: str = "AVG",
            sparsity_m_by_n: Sequence[int] | None = None,
            structure: str | None = None,
            score: str = "l2",
            allocation: str = "uniform",
            multiple_of: int = 1,
            weights: float | object | None = None,
            learning_rate_factor: float | None = None,
            restart_optimizer: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        owner = "Pruning"
        layers: Layers | dict[str, Schedule]
        if isinstance(self.layers, Mapping):
            names = checks.check_names(owner, self.layers)
            layers = {
                name: as_schedule(each, owner, f"layers[{name!r}]")
                for name, each in zip(names, self.layers.values(), strict=True)
            }
        else:
            layers = checks.check_layers(owner, self.layers, also="or a dict of name -> schedule")
        set_field(self, "layers", layers)
        if self.schedule is not None:
            set_field(self, "schedule", as_schedule(self.schedule, owner))
        elif not isinstance(layers, dict):
            rule = "a schedule unless `layers` is a dict of name -> schedule"
            raise checks.type_error(owner, "schedule", None, rule)
        block_size = checks.check_int_pair(owner, "block_size", self.block_size, minimum=1)
        set_field(self, "block_size", block_size)
        checks.check_choice(owner, "block_pooling_type", self.block_pooling_type, ("AVG", "MAX"))
        if self.sparsity_m_by_n is not None:
            self._check_m_by_n()
        self._check_structure()
        check_of_updates(owner, self)

    def _check_structure(self) -> None:
        owner = "Pruning"
        if self.structure is not None:
            checks.check_choice(owner, "structure", self.structure, (CHANNELS,), " or None")
        checks.check_choice(owner, "score", self.score, ("l2", "l1", "gamma"))
        checks.check_choice(owner, "allocation", self.allocation, ("uniform", "global"))
        multiple_of = checks.check_int(owner, "multiple_of", self.multiple_of, minimum=1)
        set_field(self, "multiple_of", multiple_of)
        if self.weights is not None:
            set_field(self, "weights", as_schedule(self.weights, owner, "weights"))
        defaults = {
            field.name: field.default
            for field in dataclasses.fields(self)
            if field.default is not dataclasses.MISSING
        }
        strangers: tuple[str, ...] = OF_CHANNELS
        rule = f"its default without structure={CHANNELS!r}"
        if self.structure is not None:
            strangers = OF_WEIGHTS
            rule = f"its default with structure={self.structure!r}"
        for name in strangers:
            if getattr(self, name) != defaults[name]:
                raise checks.value_error(owner, name, getattr(self, name), rule)

    def _check_m_by_n(self) -> None:
        name = "sparsity_m_by_n"
        m, n = checks.check_int_pair("Pruning", name, self.sparsity_m_by_n, minimum=1)
        if not m < n:
            raise checks.value_error("Pruning", name, (m, n), "(m, n) with 0 < m < n")
        if self.block_size != (1, 1):
            raise checks.value_error(
                "Pruning", "block_size", self.block_size, f"(1, 1) with {name}={(m, n)}"
            )
        for schedule in self.schedules:
            if abs(schedule.target - m / n) > 1e-6:
                target = "final" if schedule.kind == "PolynomialDecay" else "target"
                raise checks.value_error(
                    "Pruning", f"{target}_sparsity", schedule.target, f"{m}/{n} with {name}={m, n}"
                )
        set_field(self, name, (m, n))

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """Every schedule in it: the general one first, then those of named layers, then that of
        the single weights of what channels are left.
        """
        own = tuple(self.layers.values()) if isinstance(self.layers, dict) else ()
        single = () if self.weights is None else (self.weights,)
        return (*(() if self.schedule is None else (self.schedule,)), *own, *single)

    @property
    def has_fractions(self) -> bool:
        """Whether a step is still a fraction of a fit."""
        return any(schedule.has_fractions for schedule in self.schedules)

    def resolve(self, start: int, updates: int) -> Self:
        """The same with ints for steps, in a fit of `updates` updates after the first `start`.

        Raises:
            ValueError: if the resolved steps of a schedule are out of order.
        """
        if not self.has_fractions:
            return self
        schedule, layers = self.schedule, self.layers
        if schedule is not None:
            schedule = schedule.resolve(start, updates)
        if isinstance(layers, dict):
            layers = {name: each.resolve(start, updates) for name, each in layers.items()}
        weights = self.weights and self.weights.resolve(start, updates)
        return dataclasses.replace(self, schedule=schedule, layers=layers, weights=weights)

    def get_config(self) -> dict[str, Any]:
        """A plain dict of plain values that `from_config` reads back equal.

        Raises:
            ValueError: if `layers` is a callable.
        """
        layers: list[str] | dict[str, dict[str, Any]] | None
        if isinstance(self.layers, dict):
            layers = {name: each.get_config() for name, each in self.layers.items()}
        else:
            layers = writable_layers("Pruning", self.layers)
        config: dict[str, Any] = {
            "schedule": None if self.schedule is None else self.schedule.get_config(),
            "layers": layers,
            "block_size": list(self.block_size),
            "block_pooling_type": self.block_pooling_type,
            "sparsity_m_by_n": None if self.sparsity_m_by_n is None else list(self.sparsity_m_by_n),
        }
        if self.structure is not None:  # without, it is what it was before there was one
            config |= {name: getattr(self, name) for name in ("structure", *OF_CHANNELS)}
            config["weights"] = self.weights and self.weights.get_config()
        return config | config_of_updates(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The spec that `get_config` described.

        Raises:
            ValueError: if a key is missing or unknown, or a value is out of its range.
        """
        of_channels = ("structure", *OF_CHANNELS)
        optional = () if isinstance(config, Mapping) and "structure" in config else of_channels
        arguments = read_config(cls, config, optional=(*optional, *OF_UPDATES))
        if arguments["schedule"] is not None:
            arguments["schedule"] = schedule_from_config(arguments["schedule"])
        if arguments.get("weights") is not None:
            arguments["weights"] = schedule_from_config(arguments["weights"])
        if isinstance(arguments["layers"], dict):
            arguments["layers"] = {
                name: schedule_from_config(each) for name, each in arguments["layers"].items()
            }
        return cls(**arguments)
