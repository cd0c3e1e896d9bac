"""What every engine does to a model over one compressed life: a wrapped `train_step` that counts,
prunes, watches and rounds. Engines differ in how masks and quantizers meet the network.
"""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress._shared.heap import give_back
from keras_compress.engines.counts import Counts
from keras_compress.engines.layers_argument import LEFT_BY_USER, with_names
from keras_compress.engines.masks import Pruner, Target
from keras_compress.engines.quantizers import Quantizers
from keras_compress.engines.readers import Readers
from keras_compress.engines.recipe import Recipe
from keras_compress.engines.state import Phase
from keras_compress.engines.timetable import Timetable
from keras_compress.engines.train_step import TrainStep
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.asked.graphs import layers_inside
from keras_compress.frameworks.graph_memory import forget_graphs
from keras_compress.frameworks.inference import Shapes
from keras_compress.frameworks.protocols import KerasLayer, KerasModel, Method
from keras_compress.frameworks.random_streams import RandomStreams
from keras_compress.frameworks.wrap_method import wrap_method
from keras_compress.reports.channels import LayerChannels
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization

_ATTRIBUTE = "_keras_compress_engine"

_LARGE = 20
"""Layers of a network whose graph is worth to be looked for."""


class Engine(abc.ABC):
    """Owns every change made to one model. Attached once, it stays until `detach`, over any number
    of fits.

    A Sequential that has no shapes yet is placed by its first training batch, before anything is
    updated.
    """

    def __init__(
        self,
        adapter: Adapter,
        model: KerasModel,
        pruning: Pruning | None,
        quantization: Quantization | None,
    ):
        self.adapter = adapter
        self.model = model
        self.pruning = pruning
        self.quantization = quantization
        """The specs as they were given, fractions and all."""
        self.owner: Any = None
        """The `Compress` in charge."""
        self.drives_bare_fits = False
        """Whether a `fit` without callback goes through the phases too: `wrap` was asked for it."""
        self.pruner: Pruner | None = None
        self.quantizers: Quantizers | None = None
        self.left_out: dict[str, dict[str, str]] = {"pruning": {}, "quantization": {}}
        """Per spec: path -> the reason why this one was left alone."""
        self.timetable = Timetable(pruning, quantization)
        self.switched_at: int | None = None
        """The first update whose forward pass was rounded, or would be, where the delay ends with a
        fit.
        """
        self.on_placed: Callable[[], None] | None = None
        """Called once a model without shapes is planned, for what can only be refused then."""
        self._phase = Phase.OFF
        self.in_loop = False
        """Whether a training loop of the user's own goes on."""
        self._undo: list[Callable[[], None]] = []
        self._wrapped: set[str] = set()
        self.streams = RandomStreams()
        self._train_step = TrainStep(self)
        self.recipe = Recipe(self)
        self.readers = Readers(self)
        self.counts = Counts(self)

    # --- what an engine is

    @abc.abstractmethod
    def place(self) -> None:
        """Make `pruner`, `quantizers` and `left_out` for the built model; whatever can be refused
        is refused before the first change to it.
        """

    @abc.abstractmethod
    def paths(self) -> list[str]:
        """All that a spec can name, in an order that does not depend on the names."""

    @abc.abstractmethod
    def chosen(self, spec: Pruning | Quantization) -> list[str]:
        """The paths of the layers that a spec means in this model."""

    @abc.abstractmethod
    def inference_function(
        self,
        batch_size: int,
        *,
        quantized: bool = True,
        for_file: bool = True,
        input_shape: Shapes = None,
    ) -> tf.types.experimental.ConcreteFunction:
        """The network as it answers now, as a ConcreteFunction of its flat inputs that can leave
        the process and returns name -> tensor.

        `quantized=False`: the float network, quantizers off. `for_file`: in the ops that make an
        integer file; otherwise as the network itself computes. `input_shape`: of inputs that the
        model leaves free.
        """

    @contextlib.contextmanager
    def in_float(self) -> Iterator[None]:
        """While inside, what is called answers as the plain network."""
        with self.tracing_in(Phase.OFF):
            yield

    @contextlib.contextmanager
    def holding_numbers(self) -> Iterator[None]:
        """While inside, what is traced of a network that rounds has its ranges as numbers: a graph
        that is sooner made, of the same answers until they move, for whoever throws it away.
        """
        strategy = self.model.distribute_strategy
        if self.quantizers is None or strategy.num_replicas_in_sync > 1:
            yield
            return
        with self.quantizers.leaving_the_process():
            yield

    def check_saving(self, path: object) -> None:  # noqa: B027  (not every engine has to)
        """Refuse to save the whole model to a path from which it could not be loaded."""

    def network_behind(self, quantized: bool) -> KerasModel:
        """The model whose layers `inference_function` traces."""
        return self.model

    # --- what an engine may know

    def user_path(self, path: str) -> str:
        """What the user calls the layer at a path of the model, which may be a wrapper of ours."""
        return path

    def output_names(self) -> list[str]:
        """What the user calls the flat outputs."""
        return self.adapter.flat_names(self.model)[1]

    def float_by_choice(self) -> set[str]:
        """The user's paths of the layers that stay in float because `layers` says it."""
        reasons = self.left_out["quantization"]
        return {path for path, reason in reasons.items() if reason == LEFT_BY_USER}

    # --- attaching

    @property
    def is_placed(self) -> bool:
        """Whether the plan is made; false only before the first batch of a model without shapes."""
        return self.pruner is not None or self.quantizers is not None or not self._wants_anything

    @property
    def _wants_anything(self) -> bool:
        return self.pruning is not None or self.quantization is not None

    def attach(self) -> None:
        """Change the model in place; what fails leaves it as it was."""
        model = self.model
        try:
            if model.built:
                self._place()
            self._undo.append(wrap_method(model, "train_step", self._train_step.around))
            self._undo += [*self.readers.patch(), *self.counts.patch()]
            remember(model, self)
            self.retrace()
            self.counts.note()
        except BaseException:  # Ctrl-C too must leave no patch that nobody knows of
            self.detach()
            raise

    def _place(self) -> None:
        with self.model.distribute_strategy.scope():
            self.place()
            if self.pruner is not None:
                self.timetable.schedules = self.pruner.schedules
            if self.quantizers is not None:
                self.quantizers.mode.phase = self._phase
                self.quantizers.patch()

    def wrap_once(self, name: str, make: Callable[[Method], Method]) -> None:
        """Wrap a method of the model, the first time this is asked for; `detach` gives it back."""
        if name not in self._wrapped:
            self._wrapped.add(name)
            self._undo.append(wrap_method(self.model, name, make))

    def detach(self) -> None:
        """Undo every change but those to the weights."""
        if self.quantizers is not None:
            self.quantizers.unpatch()
        while self._undo:
            self._undo.pop()()
        remember(self.model, None)
        self.retrace()

    def place_with(self, data: object) -> None:
        """Give a model without shapes those of the first batch, and place everything before its
        first update.
        """
        inputs = data[0] if isinstance(data, tuple | list) else data
        if not self.model.built:
            self.adapter.build_like(self.model, inputs)
        with tf.init_scope():
            try:
                self._place()
                self.load_timetable()
                check, self.on_placed = self.on_placed, None
                if check is not None:
                    check()
            except BaseException:
                if self.drives_bare_fits:
                    self._unplace()  # the next fit asks again
                else:
                    self.detach()  # as if it had never been asked
                raise
            self.begin_fit()

    def place_if_built(self) -> None:
        """Place what was built since it was attached, by a call of the model, say."""
        if self.model.built and not self.is_placed:
            self._place()
            self.load_timetable()

    def _unplace(self) -> None:
        if self.quantizers is not None:
            self.quantizers.unpatch()
        self.pruner = self.quantizers = None
        self.timetable.clear()
        self.retrace()

    def retrace(self, training_alone: bool = False) -> None:
        """Every step is traced anew, or every training step; what it draws goes on."""
        self.streams.traced_anew()
        self.adapter.retrace(self.model, training_alone)

    # --- specs

    def named(self, spec: Any) -> Any:
        """A spec as it is; one with a callable `layers`, with the names of what that chooses in
        this model.
        """
        if spec is None or not callable(spec.layers) or not self.is_placed:
            return spec
        return with_names(spec, self.chosen(spec))

    @property
    def asked(self) -> dict[str, Any]:
        """Both specs as somebody asked for them; None for what nobody did."""
        return {"pruning": self.pruning, "quantization": self.quantization}

    @functools.cached_property
    def configs(self) -> dict[str, dict[str, Any] | None]:
        """Both specs as plain dicts."""
        if not self.is_placed:
            raise ValueError("Compress: the state can be read once the model is built.")
        return {name: spec and self.named(spec).get_config() for name, spec in self.asked.items()}

    @property
    def left_by_user(self) -> bool:
        """Whether all that stays in float does so because `layers` says it."""
        reasons = self.left_out["quantization"].values()
        return bool(reasons) and all(reason == LEFT_BY_USER for reason in reasons)

    def check_same(self, pruning: Pruning | None, quantization: Quantization | None) -> None:
        """Refuse specs that differ from those already in charge of the model.

        Raises:
            ValueError: naming the difference.
        """
        for name, theirs in (("pruning", pruning), ("quantization", quantization)):
            ours = self.asked[name]
            if ours != theirs and self.named(ours) != self.named(theirs):
                raise ValueError(
                    f"Compress: `{name}` must equal that of the Compress already in charge of this "
                    f"model, which has {ours!r}; `strip` the model to begin anew. "
                    f"Received: {name}={theirs!r}"
                )

    # --- the life of a fit

    @property
    def step(self) -> int:
        """Updates done since compression first saw this model."""
        return int(self._train_step.counter.numpy())

    @step.setter
    def step(self, step: int) -> None:
        self._train_step.counter.assign(step)

    @property
    def counter(self) -> tf.Variable:
        """`step`, as a step itself reads it."""
        return self._train_step.counter

    @property
    def phase(self) -> Phase:
        return self._phase

    def set_phase(self, phase: Phase) -> None:
        """Enter a phase; the next step of each kind that this changes traces anew."""
        if phase is self._phase:
            return
        # Who only watches does so in training.
        plain_still = not (phase.rounds or self._phase.rounds)
        self._phase = phase
        if self.quantizers is not None:
            self.quantizers.enter(phase)
            self.retrace(training_alone=plain_still)
            self.free_memory()

    def free_memory(self) -> None:
        """Let go of what was traced and is not run any more, and of what was computed with it: it
        need not stand beside what comes next. Of a small network it is not worth the time that
        Python takes to find it.
        """
        if sum(1 for _ in self.adapter.layers(self.model)) >= _LARGE:
            forget_graphs()
        give_back()

    def enter(self, phase: Phase, update: int) -> None:
        """Enter a phase from the update of that number on."""
        if phase.rounds and not self._phase.rounds:
            self.switched_at = update
        self.set_phase(phase)

    @contextlib.contextmanager
    def tracing_in(self, phase: Phase) -> Iterator[None]:
        """While inside, a network that is traced is that of `phase`; the steps that the model has
        traced for itself stay, and are not asked for.
        """
        if self.quantizers is None:
            yield
            return
        before = self._phase, self.quantizers.mode.phase
        self._phase = self.quantizers.mode.phase = phase
        try:
            yield
        finally:
            self._phase, self.quantizers.mode.phase = before

    def resolve(self, start: int, updates: int) -> None:
        """Turn every fraction into an update of the fit of `updates` steps that begins after update
        `start`.
        """
        self.timetable.resolve(start, updates)
        self.go_by(self.timetable)

    def load_timetable(self) -> None:
        """Go by the last `resolve`, which came before the model was placed."""
        self.timetable.load()
        self.go_by(self.timetable)

    def go_by(self, timetable: Timetable) -> None:
        """Go by a timetable, perhaps of an earlier time or of another process."""
        self.timetable = timetable
        if self.pruner is not None and timetable.schedules:
            self.pruner.resolve(timetable.schedules)

    def begin_fit(self) -> None:
        """What must be so before the first update of any fit."""
        self.counts.note()
        if self.pruner is not None and self.timetable.resolved is not None:
            self.pruner.start(self.step + 1)
        if self.timetable.resolved is not None and self._train_step.is_stale:
            self.retrace()

    def apply_masks(self) -> None:
        """Make the masks hold exactly, whatever wrote to the weights."""
        self.counts.warn()
        if self.pruner is not None:
            self.pruner.apply()

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one of a strategy's that writes files."""
        return bool(self.model.distribute_strategy.extended.should_checkpoint)

    @property
    def works_alone(self) -> bool:
        """Whether no other process trains the same model."""
        strategy = self.model.distribute_strategy
        return not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)

    @contextlib.contextmanager
    def pruned_to_the_end(self) -> Iterator[None]:
        """While inside, the masks are those that the weights of now would get at last."""
        if self.pruner is None:
            yield
            return
        with self.pruner.trying():
            self.pruner.update_all(self.timetable.reached_at)
            yield

    def broken_kernels(self) -> list[str]:
        """The paths of the kernels under pruning that have NaN or infinite weights."""
        targets = [] if self.pruner is None else self.pruner.targets
        return [f"{each.path}/{each.kernel_name}" for each in targets if each.is_broken]

    def settle(self) -> None:
        """At the end of a fit: masks, and what is read off the kernels, belong to the weights."""
        self.apply_masks()
        if self.quantizers is not None:
            self.quantizers.settle()

    @property
    def sparsity(self) -> float:
        """The fraction of zeros over all kernels under pruning."""
        return 0.0 if self.pruner is None else float(self.pruner.sparsity.numpy())

    def kernel_scales(self) -> dict[int, np.ndarray]:
        """id of a rounded kernel -> the step between two integers, () or one for each channel that
        ships, where it is known.
        """
        quantizers = self.quantizers
        if quantizers is None:
            return {}
        found = {id(k): quantizers.kernel_scale(k) for _, _, k in quantizers.kernels_by_path()}
        return {key: scale for key, scale in found.items() if scale is not None}

    @property
    def has_unseen_ranges(self) -> bool:
        """Whether the model is, or is about to be, rounded over ranges that no update has set."""
        return self.quantizers is not None and int(self.quantizers.observed.numpy()) == 0

    # --- leaving

    @property
    def shrinks(self) -> bool:
        """Whether the network that ships is smaller than the model."""
        return self.pruner is not None and self.pruner.shrinks

    def channels(self) -> Iterator[LayerChannels]:
        """How many channels are left of each layer of which some are pruned."""
        yield from ()

    def shipped_config(self) -> dict[str, Any]:
        """The config of the network that ships."""
        return self.model.get_config()

    def shipped_weights(self) -> Iterator[tf.Tensor]:
        """The weights of the network that ships, in its own order."""
        return self.masked_weights()

    def masked_weights(self) -> Iterator[tf.Tensor]:
        """The model's weights in its own order, every dropped one zero, whatever the last update
        wrote.
        """
        targets = [] if self.pruner is None else self.pruner.targets
        pruned: dict[int, list[Target]] = {}
        for target in targets:
            pruned.setdefault(id(target.kernel), []).append(target)
        for variable in self.model.weights:
            kernel = self.adapter.tf_variable(variable)
            yield _masked(kernel, pruned.get(id(kernel), ()))

    def input_range(self, position: int) -> tuple[float, float] | None:
        """The watched range of a flat input; None for one that is not rounded."""
        return None if self.quantizers is None else self.quantizers.input_range(position)

    @contextlib.contextmanager
    def rounding_inputs(self, ranges: Mapping[int, tuple[float, float]]) -> Iterator[None]:
        """While inside, flat inputs are rounded over these ranges instead of those watched.

        Raises:
            ValueError: an input that is not rounded.
        """
        quantizers = self.quantizers
        found = {position: self.input_range(position) for position in ranges}
        watched = {position: limits for position, limits in found.items() if limits is not None}
        if quantizers is None or len(watched) < len(ranges):
            raise ValueError(
                "Export: `quantized_input_stats` must be for inputs that the quantized network "
                "rounds. Received: statistics of one that goes into a layer left out"
            )
        try:
            for position, limits in ranges.items():
                quantizers.set_input_range(position, limits)
            yield
        finally:
            for position, limits in watched.items():
                quantizers.set_input_range(position, limits)


def _masked(kernel: tf.Variable, targets: Iterable[Target]) -> tf.Tensor:
    """Where the masks hold already, it is the kernel's own tensor: a variable that is assigned it
    shares its memory, until either of them is written to.
    """
    value = kernel.read_value()
    for target in targets:
        kept = target.kept()
        numbers = np.asarray(value)
        # Bit by bit: a zero that is negative costs as much in a zipped file as any other number.
        wrong = numbers.view(f"u{numbers.itemsize}") != 0
        wrong &= ~kept
        if wrong.any():
            value = tf.where(kept, value, tf.zeros((), value.dtype))
    return value


def engine_of(model: KerasLayer) -> Engine | None:
    """The engine attached to a model, or None."""
    engine: Engine | None = vars(model).get(_ATTRIBUTE)
    return engine


def engine_inside(model: KerasModel) -> Engine | None:
    """The engine attached to a model inside this one, or None."""
    engines = map(engine_of, layers_inside(model))
    return next((engine for engine in engines if engine is not None), None)


def remember(model: KerasModel, engine: Engine | None) -> None:
    """Note which engine is attached; past `__setattr__`, whose trackers would save and copy it."""
    if engine is None:
        vars(model).pop(_ATTRIBUTE, None)
    else:
        vars(model)[_ATTRIBUTE] = engine
