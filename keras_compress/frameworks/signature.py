"""What a model without a graph takes and gives: a subclassed one, whose `call` is Python.

What it takes is what it was first called with, of which Keras keeps a record, or what the fit that
is running has for it; what it gives shows in a trace that nobody runs.
"""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_compress.frameworks.graph_capture import DryTrace
from keras_compress.frameworks.protocols import KerasModel

if TYPE_CHECKING:
    from keras_compress.frameworks.adapter import Adapter


@dataclasses.dataclass(frozen=True, eq=False)
class End:
    """A flat input or output, in the place of a graph's tensor."""

    name: str
    shape: tuple[int | None, ...]
    """None for the batch, and for what else is free."""
    dtype: str


@dataclasses.dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, nested as its user passes and gets them."""

    inputs: object
    outputs: object


_known: weakref.WeakKeyDictionary[Any, Signature] = weakref.WeakKeyDictionary()
"""Not kept on the models, whose trackers would save and copy it."""


def signature_of(adapter: Adapter, model: KerasModel) -> Signature | None:
    """The signature of a model without a graph; None where Keras has no record of a call."""
    if model not in _known and model.built:
        recorded = adapter.recorded_inputs(model)
        if recorded is not None:
            _known[model] = _traced(adapter, model, recorded)
    return _known.get(model)


def settle(adapter: Adapter, model: KerasModel, given: object) -> None:
    """Let a model without a graph, built or not, have the signature of `given`, which is what it
    will be called with, as nested `tf.TensorSpec`s. It is built afterwards.
    """
    recorded = adapter.recorded_inputs(model) if model.built else None
    specs = given if recorded is None else _merged(adapter, given, recorded)
    _known[model] = _traced(adapter, model, specs)


def settle_like(adapter: Adapter, model: KerasModel, other: KerasModel) -> bool:
    """Build a copy of a model without a graph, and give it the same signature; False where that
    has none.
    """
    signature = signature_of(adapter, other)
    if signature is not None:
        specs = adapter.tree.map_structure(
            lambda end: tf.TensorSpec(end.shape, end.dtype), signature.inputs
        )
        settle(adapter, model, specs)
    return signature is not None


def _merged(adapter: Adapter, given: object, recorded: object) -> object:
    """What a model is given, with the sizes that it leaves open taken from the record."""
    flat = adapter.tree.flatten(given)
    before = adapter.tree.flatten(recorded)
    if [len(spec.shape) for spec in flat] != [len(spec.shape) for spec in before]:
        return recorded  # a `train_step` of the user's own, which makes inputs of other data
    merged = []
    for new, old in zip(flat, before, strict=True):
        sizes = [a if a is not None else b for a, b in zip(new.shape, old.shape, strict=True)]
        merged.append(tf.TensorSpec(sizes, new.dtype))
    return adapter.tree.pack_sequence_as(given, merged)


def _traced(adapter: Adapter, model: KerasModel, specs: object) -> Signature:
    """The signature of a model that is called with these; it is built by that, if it is not."""
    tree = adapter.tree
    flat = [
        End(f"input_{i}", (None, *spec.shape[1:]), _float32_or(spec.dtype))
        for i, spec in enumerate(tree.flatten(specs), start=1)
    ]
    taken = tree.pack_sequence_as(specs, flat)

    def answer() -> object:
        given = [tf.compat.v1.placeholder(end.dtype, end.shape) for end in flat]
        return model(tree.pack_sequence_as(specs, given), training=False)

    layers = [model, *(layer for _, layer in adapter.layers(model))]
    with tf.init_scope(), model.distribute_strategy.scope(), adapter.traceless(layers):
        given = DryTrace(answer).result
    tensors = tree.flatten(given)
    ends = [
        End(f"output_{i}", tuple(tensor.shape), _float32_or(tensor.dtype))
        for i, tensor in enumerate(tensors, start=1)
    ]
    return Signature(taken, tree.pack_sequence_as(given, ends))


def _float32_or(dtype: Any) -> str:
    """A dtype as a file has it: reals are float32, whatever the policy."""
    found = tf.as_dtype(dtype)
    return "float32" if found.is_floating else str(found.name)
