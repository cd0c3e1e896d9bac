"""The network that ships of a model whose channels are pruned: without them, quantized as it is."""

from __future__ import annotations

from typing import cast

from keras_compress.engines.engine import Engine
from keras_compress.engines.in_place.channels.rebuild import shipped_by_channel
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.engines.in_place.patches import PatchedQuantizers
from keras_compress.engines.same_answers import drawn_weights
from keras_compress.engines.state import State
from keras_compress.engines.strip import uncompiled
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.frameworks.reviving import known_classes


def network_that_ships(engine: Engine) -> tuple[KerasModel, Engine | None]:
    """A smaller copy of an engine's model with the masked weights, and the engine that rounds it
    over the same ranges, in the same phase; None where nothing is quantized. The model stays as it
    is.
    """
    with known_classes(engine.adapter, engine.model):
        small = uncompiled(engine.adapter, engine.model)
    engine.adapter.name_inputs_like(small, engine.model)
    if not isinstance(engine, InPlace) or engine.quantization is None:
        return small, None
    own = InPlace(engine.adapter, small, None, engine.named(engine.quantization))
    own.by_ops = engine.by_ops
    own.attach()
    own.switched_at = engine.switched_at
    own.set_phase(engine.phase)
    _hand_over(engine, own)
    return small, own


def check_it_can_be_made(engine: Engine) -> None:
    """Make the small network once and let it go: what would fail at the end of a training is found
    before it. No number of the model is another afterwards.

    Raises:
        ValueError: its class cannot be made from its config, or the small network would not answer
            as the masked model does.
    """
    with (
        engine.adapter.seeds_kept(),
        engine.pruned_to_the_end(),
        known_classes(engine.adapter, engine.model),
        drawn_weights(engine.adapter, engine.model),
    ):
        uncompiled(engine.adapter, engine.model)


def _hand_over(engine: InPlace, own: InPlace) -> None:
    """Give the small network the ranges of the large one; a magnitude that is kept for each channel
    goes with it.
    """
    ours, theirs = (cast(PatchedQuantizers, each.quantizers) for each in (engine, own))
    state = State(ranges=ours.ranges())
    kept: dict[str, object] = {}
    cuts = engine.cuts()
    for quantizer, key in zip(ours.kernels.values(), theirs.kernels, strict=True):
        if quantizer.frozen is None:
            continue
        kept[key] = shipped_by_channel(quantizer, quantizer.frozen.numpy(), cuts)
    state.kernel_ranges = kept  # type: ignore[assignment]  # arrays
    theirs.observed.assign(ours.observed)
    theirs.read_from(state)
