"""`wrap`: the way in before `compile`, after which a bare `fit` does it all."""

from __future__ import annotations

from keras_compress._shared.checks import check_choice
from keras_compress.engines.engine import Engine, engine_inside, engine_of
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.engines.tfmot.engine import Tfmot, check_no_structure
from keras_compress.engines.tfmot.library import is_wrapped
from keras_compress.engines.tfmot.wrap import wrapped
from keras_compress.fit.callback import Compress, continue_in_bare_fits
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization

ENGINES = ("in_place", "tfmot")


def wrap(
    model: KerasModel,
    *,
    pruning: Pruning | None = None,
    quantization: Quantization | None = None,
    engine: str | None = None,
    verbose: int = 1,
) -> KerasModel:
    """Compress a model from its first `fit` on: wrap, `compile`, `fit`, and no callback to add.

    The specs mean what they mean in `Compress`; `compression_of(model)` gives the one in charge,
    whose `report` and `stripped_model` each fit renews. A `Compress` in the callbacks of a fit, for
    its export say, joins in.

    Args:
        model: built or a Sequential that its first batch builds, and not compiled yet.
        pruning: which kernels to zero, how far and when. None: none. Of whole channels in place
            only.
        quantization: what to round to integers, and from which step on. None: nothing.
        engine: "tfmot" (the default for tf_keras) returns a new model in the wrappers of
            `prune_low_magnitude` or `quantize_model`; for both at once in those of the latter, with
            the kernels inside pruned by tfmot's own code. "in_place" (the default for Keras 3; give
            it for what tfmot cannot wrap) returns the same model.
        verbose: what its bare fits print, as in `Compress`.

    Raises:
        TypeError: `model` is no Keras model, or a spec of the wrong kind.
        ValueError: nothing to do; the model is compiled, compressed or wrapped already; it is not
            built; `engine` is unknown or does not take it; the specs do not fit it.
    """
    adapter = adapter_of(model, "wrap")
    if pruning is None and quantization is None:
        raise ValueError(
            "wrap: one of `pruning` and `quantization` must be given. Received: nothing to do"
        )
    # Refuses what is no spec.
    owner = Compress(pruning=pruning, quantization=quantization, verbose=verbose)
    _check_unused(adapter, model)
    if engine is None:
        engine = "tfmot" if adapter.has_tfmot else "in_place"
    check_choice("wrap", "engine", engine, ENGINES)
    attached: Engine
    if engine == "tfmot":
        check_no_structure("wrap", pruning)
        if not adapter.has_tfmot:
            raise ValueError(
                'wrap: `engine` must be "in_place" for a Keras 3 model, which tfmot does not know. '
                f"Received: engine={engine!r}"
            )
        with model.distribute_strategy.scope():
            done = wrapped(adapter, model, pruning, quantization)
        model = done.model
        attached = Tfmot(adapter, model, pruning, quantization, done)
    else:
        if not model.built and not adapter.grows(model):
            raise ValueError(
                "wrap: `model` must be built; a subclassed one is built by calling it on a batch "
                f"of data. Received: model={type(model).__name__} without weights"
            )
        attached = InPlace(adapter, model, pruning, quantization)
    attached.owner = owner
    owner.set_model(model)
    attached.drives_bare_fits = True
    attached.attach()
    continue_in_bare_fits(model)
    return model


def _check_unused(adapter: Adapter, model: KerasModel) -> None:
    if engine_of(model) or engine_inside(model) or is_wrapped(model, "wrap"):
        raise ValueError(
            "wrap: `model` must be plain, without a compressed or wrapped part; `strip` it first. "
            f"Received: model={type(model).__name__} with compression in it"
        )
    if adapter.is_compiled(model):
        raise ValueError(
            "wrap: `model` must not be compiled yet; wrap it first and compile what `wrap` "
            "returns, or give `Compress` to `fit`. "
            f"Received: model={type(model).__name__}, compiled"
        )
