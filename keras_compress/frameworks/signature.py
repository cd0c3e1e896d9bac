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


class UntraceableError(ValueError):
    """A model cannot be called without numbers."""


_known: weakref.WeakKeyDictionary[Any, Signature | str] = weakref.WeakKeyDictionary()
"""A signature, or why there is none. Not kept on the models, whose trackers would save and copy it.
"""


def signature_of(adapter: Adapter, model: KerasModel) -> Signature | None:
    """The signature of a model without a graph; None where Keras has no record of a call.

    Raises:
        UntraceableError: its `call` needs numbers, or fails.
    """
    if model not in _known and model.built:
        recorded = adapter.recorded_inputs(model)
        if recorded is not None:
            _note(adapter, model, recorded)
    found = _known.get(model)
    if isinstance(found, str):
        raise UntraceableError(found)
    return found


def settle(adapter: Adapter, model: KerasModel, given: object) -> None:
    """Let a model without a graph, built or not, have the signature of `given`, which is what it
    will be called with, as nested `tf.TensorSpec`s. It is built afterwards.

    Raises:
        UntraceableError: its `call` needs numbers, or does not take these.
    """
    recorded = adapter.recorded_inputs(model) if model.built else None
    if recorded is not None:
        # A `train_step` of the user's own may make other inputs of what the fit has.
        own_step = not adapter.owns(type(model).train_step.__module__)
        given = _merged(adapter, given, recorded, strict=own_step)
    _note(adapter, model, given)


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


def _note(adapter: Adapter, model: KerasModel, specs: object) -> None:
    try:
        _known[model] = _traced(adapter, model, specs)
    except UntraceableError as error:
        _known[model] = str(error)  # the error itself would keep the model alive
        raise


def _merged(adapter: Adapter, given: object, recorded: object, strict: bool) -> object:
    """What a model is given, with the sizes that it leaves open taken from the record; the record
    where the two do not go together. `strict`: nor do they where a size is another.
    """
    flat, before = map(adapter.tree.flatten, (given, recorded))
    if [len(spec.shape) for spec in flat] != [len(spec.shape) for spec in before]:
        return recorded
    merged = []
    for new, old in zip(flat, before, strict=True):
        pairs = list(zip(new.shape[1:], old.shape[1:], strict=True))
        if strict and any(None not in pair and pair[0] != pair[1] for pair in pairs):
            return recorded
        sizes = [there if here is None else here for here, there in pairs]
        merged.append(tf.TensorSpec((None, *sizes), new.dtype))
    return adapter.tree.pack_sequence_as(given, merged)


def _traced(adapter: Adapter, model: KerasModel, specs: object) -> Signature:
    """The signature of a model that is called with these; it is built by that, if it is not."""
    tree = adapter.tree
    flat = [((None, *spec.shape[1:]), _float32_or(spec.dtype)) for spec in tree.flatten(specs)]
    taken: list[tf.Tensor] = []

    def answer() -> object:
        taken.extend(tf.compat.v1.placeholder(dtype, shape) for shape, dtype in flat)
        return model(tree.pack_sequence_as(specs, taken), training=False)

    layers = [model, *(layer for _, layer in adapter.layers(model))]
    with tf.init_scope(), model.distribute_strategy.scope(), adapter.traceless(layers):
        try:
            given = DryTrace(answer).result
        except Exception as error:  # a user's own code
            what = " ".join(str(error).split())[:300]
            raise UntraceableError(
                "Compress: the model's `call` must be traceable, which it has to be for a file; "
                f"it fails without numbers ({type(error).__name__}: {what}). "
                f"Received: model={type(model).__name__}"
            ) from error
    inputs = [
        End(f"input_{i}", shape, _integers_read(tensor) or dtype)
        for i, (tensor, (shape, dtype)) in enumerate(zip(taken, flat, strict=True), start=1)
    ]
    outputs = [
        End(f"output_{i}", tuple(tensor.shape), _float32_or(tensor.dtype))
        for i, tensor in enumerate(tree.flatten(given), start=1)
    ]
    return Signature(tree.pack_sequence_as(specs, inputs), tree.pack_sequence_as(given, outputs))


def _integers_read(given: tf.Tensor) -> str | None:
    """The dtype of the integers that a model makes of an input before it does anything with it, as
    an Embedding does; None where it takes the numbers as they are. Keras 3 keeps no record of it.
    """
    casts = {op.outputs[0].dtype for op in given.consumers() if op.type == "Cast"}
    only = len(casts) == 1 and all(op.type == "Cast" for op in given.consumers())
    dtype = casts.pop() if only else None
    return dtype.name if dtype is not None and dtype.is_integer else None


def _float32_or(dtype: Any) -> str:
    """A dtype as a file has it: reals are float32, whatever the policy."""
    found = tf.as_dtype(dtype)
    return "float32" if found.is_floating else str(found.name)
