"""Layer by layer: the network's own rounded computation against the numbers in its file.

The network runs once, eagerly, and every rounded tensor that the file has too is compared with the
file's and then replaced by it. So each layer starts from what the file gave its own, and what one
does differently is not blamed on those behind it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_compress.engines.engine import Engine
from keras_compress.engines.quantizers import OnRounded
from keras_compress.frameworks.naming import Naming
from keras_compress.reports.export import LayerAgreement
from keras_compress.tflite import ComputedTensor

CLOSE = 1e-4
"""How far, as a share, the converter's float32 scale may be from ours."""


@dataclasses.dataclass(frozen=True)
class _Rounding:
    """One tensor that the network rounds; a shared layer has one for each of its calls."""

    path: str
    role: str
    scale: float
    size: int


def compare_layers(
    engine: Engine, inputs: Mapping[str, np.ndarray], tensors: Sequence[ComputedTensor]
) -> list[LayerAgreement]:
    """How far each rounded tensor is from the file's, in order of execution, by the user's paths;
    empty while nothing is rounded.

    A tensor that the converter fused away, or that cannot be told from another, is left out: the
    comparison goes on to the next one behind it.

    Args:
        engine: of the network that the file was made of.
        inputs: name -> real values, rows in front.
        tensors: what the file computed on them, in order of execution.
    """
    adapter, model, quantizers = engine.adapter, engine.model, engine.quantizers
    if quantizers is None or not engine.phase.rounds:
        return []
    naming = Naming(adapter, model, engine.output_names())  # of the model as it was traced
    names, _ = adapter.flat_names(model)

    def run(on_rounded: OnRounded) -> None:
        with quantizers.showing(on_rounded), adapter.in_float32(model):
            adapter.call_flat(model, [tf.convert_to_tensor(inputs[name]) for name in names])

    roundings: list[_Rounding] = []

    def note(path: str, role: str, scale: float, rounded: tf.Tensor) -> tf.Tensor:
        roundings.append(_Rounding(path, role, scale, int(rounded.shape.num_elements())))
        return rounded

    run(note)
    counterparts = _matched(roundings, tensors, naming)
    found: list[LayerAgreement] = []
    position = -1

    def compare(path: str, role: str, scale: float, rounded: tf.Tensor) -> tf.Tensor:
        nonlocal position
        position += 1
        theirs = counterparts.get(position)
        if theirs is None:
            return rounded
        numbers = theirs.values.reshape(rounded.shape)
        # Whole steps, as both have the same scale and zero; the rest is float32's.
        difference = np.round(np.abs(numbers.astype(np.float64) - rounded.numpy()) / theirs.scale)
        found.append(LayerAgreement(path, role, float(difference.max()), float(difference.mean())))
        return tf.cast(numbers, rounded.dtype)

    run(compare)
    return [dataclasses.replace(each, path=engine.user_path(each.path)) for each in found]


def _matched(
    roundings: list[_Rounding], tensors: Sequence[ComputedTensor], naming: Naming
) -> dict[int, ComputedTensor]:
    """Position of a rounding -> the file's tensor.

    They belong together when layer, scale and size are the same; of a shared layer in the order of
    its calls. Where there are more of one kind than of the other, nobody can tell.
    """
    groups: dict[tuple[str, float, int], list[int]] = defaultdict(list)
    for position, rounding in enumerate(roundings):
        groups[rounding.path, rounding.scale, rounding.size].append(position)
    matched: dict[int, ComputedTensor] = {}
    for (path, scale, size), positions in groups.items():
        alike = [
            tensor
            for tensor in tensors
            if tensor.values.size == size and abs(tensor.scale / scale - 1) < CLOSE
        ]
        roles = {roundings[position].role for position in positions}
        # A tensor that a layer computed, or, if none has its name, one that it only rounded.
        for layers in (naming.layers, naming.touching):
            candidates = [tensor for tensor in alike if path in layers(tensor.name)]
            ordered = _by_call(candidates, path, naming, len(roles))
            if ordered is not None and len(ordered) == len(positions):
                matched.update(zip(positions, ordered, strict=True))
                break
    return matched


def _by_call(
    candidates: list[ComputedTensor], path: str, naming: Naming, each: int
) -> list[ComputedTensor] | None:
    """A layer's tensors in the order of its calls, which need not be that of the file; None unless
    every call has as many of them as there should be.
    """
    if len(candidates) == 1:
        return candidates
    found = [naming.call(tensor.name, path) for tensor in candidates]
    calls = [call for call in found if call is not None]
    if len(calls) < len(found) or any(count != each for count in Counter(calls).values()):
        return None
    order = sorted(range(len(calls)), key=calls.__getitem__)
    return [candidates[position] for position in order]
