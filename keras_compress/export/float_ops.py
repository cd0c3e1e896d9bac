"""What in an integer file computes in float, with the layers it comes from; and what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from keras_compress.reports.export import FloatOpReport
from keras_compress.reports.inspection import MOVING
from keras_compress.tflite import ConversionError, FileReport, FloatOp

LayersOf = Callable[[str], list[str]]
"""The name of a file's tensor -> the paths of the layers that computed it."""


def named(ops: Sequence[FloatOp], layers_of: LayersOf) -> Iterator[FloatOpReport]:
    """The float ops with the layers they come from."""
    for op in ops:
        # What leads from integers to floats is there on account of what computes in them.
        tensors = op.beside if op.converts and op.beside else (op.tensor,)
        layers = [layer for tensor in tensors for layer in layers_of(tensor)]
        yield FloatOpReport(op.op, layers[0] if layers else None, op.tensor)


def rounded_anyway(contents: FileReport, layers_of: LayersOf, left_out: set[str]) -> Iterator[str]:
    """The layers that stay in float in the network and that an op of the file computes in integers:
    the converter takes a layer for quantized whose neighbours are.
    """
    floats = {op.tensor for op in contents.float_ops}
    computing = [op for op in contents.ops if op.name not in MOVING and op.output not in floats]
    found = {layer for op in computing for layer in layers_of(op.output)}
    real = [op for op in contents.float_ops if not (op.converts or op.moves)]
    # Of a layer with float ops in it, as a loop, a part is no whole.
    found -= {layer for op in real for layer in layers_of(op.tensor)}
    yield from sorted(left_out & found)


def refuse(
    ops: Sequence[FloatOp],
    layers_of: LayersOf,
    by_choice: set[str],
    chooses: bool,
    lacks_ranges: bool = False,
) -> None:
    """Raise if an op computes in float that `layers` did not leave out.

    Args:
        chooses: whether there are `layers` to choose by.
        lacks_ranges: whether they may be in float as a graph says no range there.

    Raises:
        ConversionError: naming the ops and their layers.
    """
    passing = set()
    for op in ops:
        layers = layers_of(op.tensor)
        if layers and by_choice.issuperset(layers) and not op.converts:
            passing.add(op.tensor)
    # What leads there and back, and what the converter moved to their side of it, is part of it.
    grown = -1
    while grown != len(passing):
        grown = len(passing)
        passing |= {op.tensor for op in ops if op.moves and passing.intersection(op.beside)}
    passing |= {op.tensor for op in ops if op.converts and passing.intersection(op.beside)}
    passing |= _rescaling(ops, layers_of, by_choice)
    refused = [op for op in ops if op.tensor not in passing]
    if not refused:
        return
    computing = [op for op in refused if not (op.converts or op.moves)]
    # Those that only lead there and back are not what has to be changed, if there are others.
    listed = dict.fromkeys(map(str, named(computing or refused, layers_of)))
    otherwise = (
        ", or leave these layers out by `layers=`" if chooses else ", or replace these layers"
    )
    if lacks_ranges:
        otherwise += "; where the graph lacks ranges, give `default_ranges_stats` as a guess"
    raise ConversionError(
        f"float ops would be left in the integer file: {', '.join(listed)}",
        f"Set `allow_float_ops=True` to write it all the same{otherwise}",
    )


def _rescaling(ops: Sequence[FloatOp], layers_of: LayersOf, by_choice: set[str]) -> set[str]:
    """The tensors of pairs that lead to floats and straight back, from one scale to another, on
    account of layers left out that compute nothing: a Dropout behind an input of the model.
    """
    pairs = [op for op in ops if op.converts and not op.beside]
    found = {op.tensor: layers_of(op.tensor) for op in pairs}
    back = [found[op.tensor] for op in pairs if op.op == "QUANTIZE"]
    if not back or not all(layers and by_choice.issuperset(layers) for layers in back):
        return set()
    return {tensor for tensor, layers in found.items() if by_choice.issuperset(layers)}
