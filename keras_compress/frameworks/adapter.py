"""What the engine asks of a Keras: the few places where Keras 3 and tf_keras differ.

Everything private is reached through one of the two subclasses, `keras3.py` and `tf_keras.py`, each
use with its reason.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import inspect
import random
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context as tf_context

from keras_compress.frameworks.devices import whole_float32
from keras_compress.frameworks.protocols import (
    KerasCallback,
    KerasCallbackList,
    KerasLayer,
    KerasModel,
    KerasOperation,
    KerasTensor,
    KerasVariable,
    Method,
)
from keras_compress.frameworks.signature import Signature, settle_like, signature_of
from keras_compress.frameworks.updates import Updates, put_back

# The names under which the two Keras keep a canonical kernel on a layer.
STORAGE_NAMES = {
    "kernel": ("_kernel", "kernel"),
    "depthwise_kernel": ("depthwise_kernel", "kernel"),
    "pointwise_kernel": ("pointwise_kernel",),
    "embeddings": ("_embeddings", "embeddings"),
}

MADE_OF_OTHERS = "is made of other weights when it is used (LoRA, or Keras' own quantization)"
"""Why a kernel is not one variable; its name goes before."""


@dataclasses.dataclass(frozen=True)
class ValidationData:
    """The arguments with which `fit` calls `evaluate`."""

    x: object
    y: object
    sample_weight: object
    batch_size: int | None
    steps: int | None
    """None: all batches there are."""


HARMLESS = frozenset(
    {
        "__init__", "__doc__", "__module__", "__qualname__", "__annotations__", "__firstlineno__",
        "__static_attributes__", "__init_subclass__", "__repr__", "get_config", "from_config",
        "__abstractmethods__", "_abc_impl", "_tf_api_names", "_tf_api_names_v1",
    }
)  # fmt: skip
"""What a class may define and still compute what its base computes."""


_SEEDS = threading.RLock()
"""Held by whoever has put the process' seeds aside."""


class GraphCall(NamedTuple):
    """One call of one operation in a functional graph."""

    operation: KerasOperation
    inputs: list[KerasTensor]
    """Flat, however they were passed."""
    outputs: list[KerasTensor]
    arguments: Callable[[Sequence[object]], tuple[tuple[Any, ...], dict[str, Any]]]
    """Other numbers in the place of `inputs` -> the arguments of the call with them."""


class Adapter(abc.ABC):
    """One Keras, as the engine sees it. Stateless; `keras` is its package."""

    keras: types.ModuleType
    tree: types.ModuleType
    """What flattens and packs nested inputs and outputs in this Keras' order of keys."""
    package: str
    """The module prefix of this Keras' own classes."""
    has_tfmot = False
    """Whether tfmot knows this Keras."""
    backup_method: str
    """The method of `BackupAndRestore` that writes a backup (private in both Keras; no public hook
    tells of it).
    """
    own_weights: str
    """The attribute of a layer that lists the trainable weights it made itself (private in both
    Keras; the public list has those of its sublayers too, and is empty when the layer is frozen).
    """

    # --- the graph

    @abc.abstractmethod
    def functional(self, model: KerasOperation) -> KerasModel | None:
        """The functional graph behind a model: itself, what a Sequential builds, or None
        (subclassed, unbuilt).
        """

    def graph_of(self, model: KerasOperation) -> KerasModel:
        """`functional` of a model that is known to have one."""
        return cast(KerasModel, self.functional(model))

    def graph_inside(self, operation: KerasOperation) -> KerasModel | None:
        """The functional graph that an operation of a graph runs; None for one that computes by a
        `call` of its own, whatever graph it has.
        """
        own = type(operation).call
        return self.functional(operation) if self.owns(getattr(own, "__module__", "")) else None

    @abc.abstractmethod
    def nodes(self, functional: KerasModel) -> Iterator[GraphCall]:
        """The calls of a graph in order of execution, inputs left out."""

    @abc.abstractmethod
    def graph_structures(self, functional: KerasModel) -> tuple[object, object]:
        """The nested inputs and outputs of a functional graph, as the user passed them."""

    @abc.abstractmethod
    def recorded_inputs(self, model: KerasModel) -> object | None:
        """What a model without a graph was first called with, as nested `tf.TensorSpec`s; None
        where this Keras has no record of it, or there were several arguments.
        """

    def has_ends(self, model: KerasModel) -> bool:
        """Whether it is known what a model takes and gives: it has a graph, or was called."""
        return self.functional(model) is not None or signature_of(self, model) is not None

    def structures(self, model: KerasModel) -> tuple[object, object]:
        """The nested inputs and outputs of a model whose ends are known, as its user passes and
        gets them.
        """
        functional = self.functional(model)
        if functional is not None:
            return self.graph_structures(functional)
        signature = cast(Signature, signature_of(self, model))
        return signature.inputs, signature.outputs

    @abc.abstractmethod
    def kind(self, operation: KerasOperation) -> str:
        """The canonical class name of a layer or bare operation; "" for what is not this Keras'
        own.
        """

    def own_name(self, operation: object) -> str:
        """The name of Keras' own class that an operation computes as: its own, or the one that a
        user's class derives from without touching what it computes; "" for any other.
        """
        for base in type(operation).__mro__:
            if self.owns(base.__module__):
                return base.__name__
            if not HARMLESS.issuperset(vars(base)):
                return ""
        return ""

    def is_own(self, thing: object) -> bool:
        """Whether the class of `thing` is Keras' own, not a user's."""
        return self.owns(type(thing).__module__)

    def owns(self, module: str | None) -> bool:
        """Whether a module is Keras' own."""
        return (module or "").startswith(f"{self.package}.")

    def kinds(self, layer: KerasOperation) -> Iterator[str]:
        """The names of Keras' own classes that a layer is or derives from, nearest first."""
        for base in type(layer).__mro__:
            if self.owns(base.__module__):
                yield base.__name__

    def layers(self, model: KerasLayer, prefix: str = "") -> Iterator[tuple[str, KerasLayer]]:
        """(path, layer) of every layer below a model, each once, containers before their own."""
        seen: set[int] = set()

        def walk(parent: KerasLayer, prefix: str) -> Iterator[tuple[str, KerasLayer]]:
            for layer in layers_inside(parent, deep=False):
                if id(layer) not in seen:
                    seen.add(id(layer))
                    yield prefix + layer.name, layer
                    yield from walk(layer, f"{prefix}{layer.name}/")

        return walk(model, prefix)

    @contextlib.contextmanager
    def seeds_kept(self) -> Iterator[None]:
        """While inside, whoever draws a seed or a random number leaves no trace: afterwards comes
        what would have come. One thread at a time: two that overlap would put back each other's
        stand-ins. What another thread draws meanwhile is drawn once more.
        """
        with _SEEDS, self._seeds_kept():
            yield

    @contextlib.contextmanager
    def _seeds_kept(self) -> Iterator[None]:
        generators = list(self.seed_generators())
        states = [generator.getstate() for generator in generators]
        numbers = np.random.get_state()
        # Private, and there only once `tf.random.set_seed` was called: eager ops without a seed get
        # theirs here.
        # Each seed has a kernel with a state of its own, so the same ones must not be given out
        # twice: others are, while inside.
        eager = tf_context.context()
        seeds, others = vars(eager).get("_rng"), random.Random("seeds_kept")
        if seeds is not None:
            eager._rng = others
        try:
            yield
        finally:
            if vars(eager).get("_rng") is others:
                eager._rng = seeds
            np.random.set_state(numbers)
            for generator, state in zip(generators, states, strict=True):
                generator.setstate(state)

    def seed_generators(self) -> Iterator[Any]:
        """What seeds are drawn from: each has `getstate` and `setstate`."""
        yield random

    def is_input(self, layer: KerasLayer) -> bool:
        return type(layer).__name__ == "InputLayer"

    # --- a model's life

    @abc.abstractmethod
    def is_compiled(self, model: KerasModel) -> bool: ...

    def iterations(self, model: KerasModel) -> int | None:
        """The optimizer's own count of steps; None without an optimizer."""
        optimizer = getattr(model, "optimizer", None)
        return None if optimizer is None else int(self.count_of(optimizer).numpy())

    def count_of(self, optimizer: Any) -> KerasVariable:
        """The variable in which an optimizer counts."""
        return cast(KerasVariable, optimizer.iterations)

    # --- how an optimizer makes its updates

    def making(self, optimizer: Any, updates: Updates) -> contextlib.AbstractContextManager[None]:
        """While inside, an optimizer makes its updates so."""
        return updates.by(self.at_work(optimizer), self.changed_class)

    def at_work(self, optimizer: Any) -> Any:
        """The optimizer that has rate, count and slots: what one that scales the loss holds."""
        return getattr(optimizer, "inner_optimizer", optimizer)

    @abc.abstractmethod
    def changed_class(self, plain: Any, updates: Updates) -> type:
        """The class by which an optimizer of that class makes its updates so."""

    @abc.abstractmethod
    def why_not_changed(self, optimizer: Any) -> str | None:
        """Why this Keras' way to change the updates of an optimizer is not there for this one."""

    @abc.abstractmethod
    def why_not_begun_anew(self, optimizer: Any) -> str | None:
        """Why an optimizer could not begin anew and then go on as a new one would."""

    def begin_anew(self, optimizer: Any, model: KerasModel) -> bool:
        """Give an optimizer the slots of a new one for the weights as they are; its count and its
        learning rate stay. Whether its next update has to be traced anew for that.
        """
        own = self.at_work(optimizer)
        weights = self.slotted(own, model)
        if not weights:  # new itself
            return False
        with model.distribute_strategy.scope():
            fresh = self.new_like(own)
            self.build_optimizer(fresh, weights)
            put_back(own, fresh, self.kept_by)
        return self.forget_traces(own)

    def new_like(self, optimizer: Any) -> Any:
        """A new optimizer of the same config, but for its rate, which makes no slots."""
        config = dict(optimizer.get_config())
        if "learning_rate" in config:  # a user's schedule may not be made again so easily
            config["learning_rate"] = 0.1
        return type(optimizer).from_config(config)

    @abc.abstractmethod
    def slotted(self, optimizer: Any, model: KerasModel) -> list[Any]:
        """The weights that an optimizer has slots for, in its own order."""

    def build_optimizer(self, optimizer: Any, weights: list[Any]) -> None:
        """Make the slots of a new optimizer."""
        optimizer.build(weights)

    @abc.abstractmethod
    def kept_by(self, optimizer: Any) -> list[Any]:
        """The variables of an optimizer that are no slots."""

    def forget_traces(self, optimizer: Any) -> bool:
        """Begin anew what an optimizer counts while it is traced; whether it counts anything."""
        return False

    def grows(self, model: KerasModel) -> bool:
        """Whether a model without shapes gets them from its first batch."""
        return isinstance(model, self.keras.Sequential)

    def append_callback(self, callback_list: KerasCallbackList, callback: KerasCallback) -> None:
        """Put a callback that has batch hooks behind those of a ready list."""
        callback_list.callbacks.append(callback)

    def metric_names(self, model: KerasModel) -> set[str]:
        """The names under which a compiled model's metrics will appear in its logs."""
        names = {metric.name for metric in model.metrics}
        arguments = self.compile_arguments(model) or {}
        # Metrics given as strings or functions are made with the first batch only.
        for metric in tf.nest.flatten(
            [arguments.get("metrics") or [], arguments.get("weighted_metrics") or []]
        ):
            name = getattr(metric, "name", getattr(metric, "__name__", metric))
            names.add(str(name))
        return names

    def weight_name(self, variable: KerasVariable) -> str:
        return getattr(variable, "path", variable.name)

    @abc.abstractmethod
    def steps_per_execution(self, model: KerasModel) -> int: ...

    @abc.abstractmethod
    def build_like(self, model: KerasModel, inputs: object) -> None:
        """Build a model that has no shapes yet for `inputs`, outside of any graph that is being
        traced.
        """

    def build_as(self, model: KerasModel, other: KerasModel) -> None:
        """Build a copy without shapes like the built model it was made from."""
        if self.functional(other) is None and settle_like(self, model, other):
            return
        config = other.get_build_config()
        if config is not None:
            model.build_from_config(config)

    def retrace(self, model: KerasModel, training_alone: bool = False) -> None:
        """Make the next step of every kind trace anew, in mid-epoch too; or, where what `evaluate`
        and `predict` answer stays the same, the next training step alone.

        Both Keras look up `train_function` at every step, so a new one takes effect at the very
        next; the other two are made on demand once they are None.
        """
        if model.train_function is not None:
            model.make_train_function(force=True)
        if training_alone:
            return
        model.test_function = None
        model.predict_function = None

    def computes_again(self, operation: KerasOperation) -> bool:
        """Whether its `call` is run once more for the gradient, then outside of its model's."""
        return False

    def storage(self, layer: KerasOperation, kernel: str) -> str:
        """The key in the layer's `__dict__` that holds a kernel while `call` runs."""
        key, *_ = (key for key in STORAGE_NAMES[kernel] if key in layer.__dict__)
        return key

    def own_kernel(self, layer: KerasOperation, kernel: str) -> KerasVariable | None:
        """The variable that is a kernel; None where the layer computes with another, made of it: by
        LoRA, or by a quantization of Keras' own.
        """
        if getattr(layer, "quantization_mode", None) is not None:
            return None
        for key in STORAGE_NAMES.get(kernel, (kernel,)):
            if key in layer.__dict__:
                own = cast(KerasVariable, layer.__dict__[key])
                return own if getattr(layer, key.removeprefix("_"), None) is own else None
        return None

    @abc.abstractmethod
    def tf_variable(self, variable: KerasVariable) -> tf.Variable:
        """The TensorFlow variable behind a Keras variable, free of any autocast scope."""

    @abc.abstractmethod
    def loss_lists(self, layer: KerasOperation) -> list[list[tf.Tensor]]:
        """The lists in which a layer keeps the losses that its last calls added."""

    @contextlib.contextmanager
    def traceless(self, layers: Iterable[KerasOperation]) -> Iterator[None]:
        """While inside, calls of these layers leave nothing behind: no losses, no used seeds."""
        before = [(own, list(own)) for layer in layers for own in self.loss_lists(layer)]
        try:
            yield
        finally:
            for own, losses in before:
                own[:] = losses

    def random_generators(self, model: KerasModel, by_ops: Iterable[KerasOperation]) -> list[Any]:
        """What random layers of a model draw from by ops whose state a new trace of the training
        step would lose; of what is planned op by op, without what draws among those ops.
        """
        return []

    @abc.abstractmethod
    def log_value(self, value: tf.Tensor) -> tf.Tensor:
        """A value for the step's logs that shows as it is, however many replicas there are."""

    @abc.abstractmethod
    def show_as_they_are(self, callback_list: KerasCallbackList, names: tuple[str, ...]) -> None:
        """Keep the progress bar from averaging these logs over the steps of an epoch."""

    @abc.abstractmethod
    def has_backup(self, callback: object) -> bool:
        """Whether a `BackupAndRestore` found a backup when its training began, and has restored it;
        asked before it writes one of its own.
        """

    @abc.abstractmethod
    def forget_restored_epoch(self, model: KerasModel) -> None:
        """Let the next `fit` begin at its first epoch, whatever a backup said to the one before."""

    @abc.abstractmethod
    def back_up_end(self, callback: object, epochs: int, steps: int | None) -> None:
        """Let a `BackupAndRestore` write a backup from which a training of so many epochs of so
        many steps has nothing left to train.
        """

    @abc.abstractmethod
    def reset_best(self, callback: object) -> bool:
        """Forget the best value that an EarlyStopping, ModelCheckpoint or ReduceLROnPlateau has
        seen; False for any other callback.
        """

    def isinstance(self, callback: object, name: str) -> bool:
        """Whether a callback is (derived from) this Keras' callback of that name."""
        return isinstance(callback, getattr(self.keras.callbacks, name))

    def compile_arguments(self, model: KerasModel) -> dict[str, Any] | None:
        """The arguments of the model's last `compile`, as objects; None if it was not compiled."""
        if not self.is_compiled(model):
            return None
        # `get_compile_config` would serialise them, which fails for a user's unregistered loss.
        return dict(model._compile_config.config)

    def metric_prefix(self, model: KerasModel, metric: object) -> str:
        """What this Keras has put before the name that a compiled metric was given."""
        return ""

    def callback_list(self, callback: object) -> KerasCallbackList | None:
        """The `CallbackList` that is calling `callback`, found on the stack.

        No public road leads from a callback to the list that it stands in, and whoever must act
        before or after all others needs it.
        """
        for frame in _callers():
            caller = frame.f_locals.get("self")
            if isinstance(caller, self.keras.callbacks.CallbackList) and any(
                member is callback for member in caller.callbacks
            ):
                found: KerasCallbackList = caller
                return found
        return None

    def _fit_under_way(self, model: KerasModel) -> dict[str, Any] | None:
        """The local variables of the `fit` of this Keras that is running; None where there is none.

        What callbacks are not told is read off them. Both Keras use the same names.
        """
        for frame in _callers():
            is_fit = frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model
            if is_fit and self.owns(frame.f_globals.get("__name__")):
                return frame.f_locals
        return None

    def in_fit_state(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        """While inside, what is frozen is so as a `fit` would have it."""
        return contextlib.nullcontext()

    @property
    def prints(self) -> bool:
        """Whether this Keras prints what it does, or was told to log it."""
        config = getattr(self.keras, "config", self.keras.utils)
        return bool(config.is_interactive_logging_enabled())

    def in_fit(self, model: KerasModel) -> bool:
        """Whether a `fit` of this Keras is training the model right now."""
        return self._fit_under_way(model) is not None

    def validation_data(self, model: KerasModel) -> ValidationData | None:
        """What the `fit` that is running evaluates the model on after each epoch; None for nothing,
        or where no `fit` of this Keras runs.

        In `fit` alone `validation_split` has been taken apart.
        """
        found = self._fit_under_way(model)
        if found is None or "val_x" not in found:
            return None
        return ValidationData(
            found["val_x"],
            found["val_y"],
            found["val_sample_weight"],
            found["validation_batch_size"] or found["batch_size"],
            found["validation_steps"],
        )

    def fit_inputs(self, model: KerasModel) -> object | None:
        """What the `fit` that is running calls the model with, as nested `tf.TensorSpec`s; None
        where no `fit` of this Keras runs, or its data do not tell.
        """
        found = self._fit_under_way(model)
        if found is None:
            return None
        spec = self.batch_spec(found)
        x = spec[0] if isinstance(spec, tuple) else spec
        # Private: under a strategy a spec is one per replica, all alike.
        x = self.tree.map_structure(lambda own: getattr(own, "_value_specs", [own])[0], x)
        flat = self.tree.flatten(x)
        # Not what is sparse or ragged.
        told = all(isinstance(own, tf.TensorSpec) and own.shape.rank for own in flat)
        return x if flat and told else None

    @abc.abstractmethod
    def batch_spec(self, fit: dict[str, Any]) -> object:
        """The `tf.TensorSpec`s of the batches of a `fit` with these local variables."""

    @abc.abstractmethod
    def trusting(self) -> contextlib.AbstractContextManager[None]:
        """While inside, a Lambda layer is made again from its config (private in both Keras)."""

    @abc.abstractmethod
    def graph_end_names(self, functional: KerasModel) -> tuple[list[str], list[str]]:
        """The names of the layers at a functional graph's flat inputs and outputs."""

    def name_inputs_like(  # noqa: B027  (not every Keras has to)
        self, copy: KerasModel, original: KerasModel
    ) -> None:
        """Give the inputs of a copy the names of the original's, where they do not bear those of
        their layers.
        """

    def end_names(self, model: KerasModel) -> tuple[list[str], list[str]]:
        """The names of a model's flat inputs and outputs: of the layers there, or "input_1",
        "output_1" and so on where there is no graph that would tell.
        """
        functional = self.functional(model)
        if functional is not None:
            return self.graph_end_names(functional)
        inputs, outputs = map(self.tree.flatten, self.structures(model))
        return [end.name for end in inputs], [end.name for end in outputs]

    def flat_names(self, model: KerasModel) -> tuple[list[str], list[str]]:
        """The names of a model's flat inputs and outputs, each unique: the keys of a dict, by which
        its user knows them, else `end_names`.
        """
        inputs, outputs = (
            [
                next((key for key, own in structure.items() if own is tensor), name)
                if isinstance(structure, dict)
                else name
                for tensor, name in zip(self.tree.flatten(structure), names, strict=True)
            ]
            for structure, names in zip(self.structures(model), self.end_names(model), strict=True)
        )
        return unique(inputs), unique(outputs)

    def input_specs(self, model: KerasModel) -> list[tf.TensorSpec]:
        """Name, shape (None for the batch) and dtype of a model's flat inputs."""
        structure, _ = self.structures(model)
        names, _ = self.flat_names(model)
        return [
            tf.TensorSpec(tensor.shape, tensor.dtype, name)
            for name, tensor in zip(names, self.tree.flatten(structure), strict=True)
        ]

    @property
    @abc.abstractmethod
    def float32_policy(self) -> dict[str, Any]:
        """What a layer holds under the float32 policy, by attribute (private in both Keras)."""

    @contextlib.contextmanager
    def in_float32(self, model: KerasModel) -> Iterator[None]:
        """While inside, layers compute in float32, as a file does: those of a mixed policy too, and
        on a GPU, which by itself rounds what it multiplies.
        """
        undo: list[tuple[dict[str, Any], dict[str, Any]]] = []
        try:
            for layer in (model, *(layer for _, layer in self.layers(model))):
                own = vars(layer)
                swaps = {k: v for k, v in self.float32_policy.items() if k in own}
                undo.append((own, {name: own[name] for name in swaps}))
                own.update(swaps)
            with whole_float32():
                yield
        finally:
            for own, before in undo:
                own.update(before)

    def call_flat(
        self, model: KerasModel, inputs: list[tf.Tensor], training: bool = False
    ) -> list[tf.Tensor]:
        """The flat outputs of a model for flat inputs."""
        structure, _ = self.structures(model)
        outputs = model(self.tree.pack_sequence_as(structure, inputs), training=training)
        flat: list[tf.Tensor] = self.tree.flatten(outputs)
        return flat


def _callers() -> Iterator[types.FrameType]:
    """The frames that the caller of this stands on, innermost first."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def is_layer(operation: object) -> bool:
    """Whether something is a layer, or a model, and no bare operation."""
    return hasattr(operation, "_flatten_layers")


def layers_inside(layer: KerasLayer, deep: bool = True) -> Iterable[KerasLayer]:
    """What a layer is made of, whatever holds it; `deep`: with what that is made of, and so on."""
    # Private in both Keras, with one signature; `.layers` of a model shows the first level only.
    return layer._flatten_layers(include_self=False, recursive=deep)


def unique(names: list[str]) -> list[str]:
    """The names, with a number behind each that came before."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        unique.append(f"{name}_{count}" if count else name)
    return unique


def wrap_method(thing: object, name: str, make: Callable[[Method], Method]) -> Callable[[], None]:
    """Replace a method on one instance by `make(original)`; returns what undoes it.

    Written to `__dict__`, because `__setattr__` of both Keras inspects and tracks what it is given.
    A method takes the place of a method: tf_keras looks at `self` when it writes a SavedModel.
    """
    own = thing.__dict__
    had, before = name in own, own.get(name)
    original = getattr(thing, name)
    replacement = make(original)
    own[name] = replacement
    if inspect.ismethod(original):

        @functools.wraps(original.__func__)
        def method(_: object, *args: object, **kwargs: object) -> object:
            return replacement(*args, **kwargs)

        # tf_keras' wrappers of layers ask what the `call` inside takes, and do not look behind it.
        vars(method)["__signature__"] = inspect.signature(original.__func__)
        own[name] = types.MethodType(method, thing)

    def undo() -> None:
        if had:
            own[name] = before
        else:
            own.pop(name, None)

    return undo
