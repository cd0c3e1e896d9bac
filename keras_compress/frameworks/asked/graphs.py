"""What is asked about functional graphs, and about the layers in them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

from keras_compress.frameworks.asked.one_keras import OneKeras
from keras_compress.frameworks.protocols import (
    KerasLayer,
    KerasModel,
    KerasOperation,
    KerasTensor,
)

HARMLESS = frozenset(
    {
        "__init__", "__doc__", "__module__", "__qualname__", "__annotations__", "__firstlineno__",
        "__static_attributes__", "__init_subclass__", "__repr__", "get_config", "from_config",
        "__abstractmethods__", "_abc_impl", "_tf_api_names", "_tf_api_names_v1",
    }
)  # fmt: skip
"""What a class may define and still compute what its base computes."""


class GraphCall(NamedTuple):
    """One call of one operation in a functional graph."""

    operation: KerasOperation
    inputs: list[KerasTensor]
    """Flat, however they were passed."""
    outputs: list[KerasTensor]
    arguments: Callable[[Sequence[object]], tuple[tuple[Any, ...], dict[str, Any]]]
    """Other numbers in the place of `inputs` -> the arguments of the call with them."""


class Graphs(OneKeras):
    """One Keras, asked about graphs and layers."""

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

    @abc.abstractmethod
    def graph_end_names(self, functional: KerasModel) -> tuple[list[str], list[str]]:
        """The names of the layers at a functional graph's flat inputs and outputs."""

    def name_inputs_like(self, copy: KerasModel, original: KerasModel) -> None:
        """Give the inputs of a copy the names of the original's, where they do not bear those of
        their layers.
        """

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

    def is_input(self, layer: KerasLayer) -> bool:
        return type(layer).__name__ == "InputLayer"


def is_layer(operation: object) -> bool:
    """Whether something is a layer, or a model, and no bare operation."""
    return hasattr(operation, "_flatten_layers")


def layers_inside(layer: KerasLayer, deep: bool = True) -> Iterable[KerasLayer]:
    """What a layer is made of, whatever holds it; `deep`: with what that is made of, and so on."""
    # Private in both Keras, with one signature; `.layers` of a model shows the first level only.
    return layer._flatten_layers(include_self=False, recursive=deep)
