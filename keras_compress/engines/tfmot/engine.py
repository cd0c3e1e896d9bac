"""The engine for wrapped models: tfmot's masks and quantizers under our count and phases."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from keras_compress.engines.engine import Engine
from keras_compress.engines.layers_argument import LEFT_BY_USER, select
from keras_compress.engines.prunable_kernels import plan_pruning
from keras_compress.engines.state import Phase
from keras_compress.engines.tfmot.kernels import HeldKernel, held_kernels, in_kernels, in_wrappers
from keras_compress.engines.tfmot.library import (
    PRUNED,
    QUANTIZED,
    PruneWrapper,
    basename,
    is_own,
    unwrapped_layer,
    wrapped_layers,
    wrapper_path,
)
from keras_compress.engines.tfmot.masks import TfmotPruner, TfmotTarget
from keras_compress.engines.tfmot.quantizers import WrapperQuantizers
from keras_compress.engines.tfmot.unwrap import separable_halves, separable_name, unwrapped
from keras_compress.engines.tfmot.wrap import Wrapped
from keras_compress.frameworks import inference
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel, KerasVariable, Method
from keras_compress.frameworks.reviving import known_classes
from keras_compress.frameworks.wrap_method import wrap_method
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization
from keras_compress.specs.schedules import Schedule, as_schedule

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_compress.frameworks.tf_keras import TFKeras

_UNLOADABLE = (
    "save: `filepath` must not end in '.keras' for a model in tfmot's wrappers, because such a "
    "file cannot be loaded again; `strip` the model first, or save its weights and `save_state`. "
    "Received: {}"
)


class Tfmot(Engine):
    """Drives a model in tfmot's wrappers: one that `wrap` made, or one wrapped by hand.

    `done` is what `wrap` did to the plain model; None for a model that was wrapped by hand, whose
    wrappers say what they do.
    """

    adapter: TFKeras

    def __init__(
        self,
        adapter: Adapter,
        model: KerasModel,
        pruning: Pruning | None,
        quantization: Quantization | None,
        done: Wrapped | None = None,
    ):
        self._done = done
        self._stock = False
        """Whether tfmot's quantizers are left to themselves, as nobody asked for anything else."""
        if done is None:
            pruning, quantization = self._recognised(adapter, model, pruning, quantization)
        super().__init__(adapter, model, pruning, quantization)
        if self._stock:
            self._phase = Phase.ON
            self.switched_at = 1

    def _recognised(
        self,
        adapter: Adapter,
        model: KerasModel,
        pruning: Pruning | None,
        quantization: Quantization | None,
    ) -> tuple[Pruning | None, Quantization | None]:
        """The specs of a model that was wrapped by hand."""
        if adapter.functional(model) is None or not model.built:
            raise ValueError(
                "Compress: a model that was wrapped by hand must be Sequential or functional, and "
                "built; call a Sequential on a batch of data first. "
                f"Received: model={type(model).__name__}"
            )
        check_no_structure("Compress", pruning)
        wrappers = {path: w for path, w in wrapped_layers(model) if is_own(w, PRUNED)}
        if wrappers:
            for name, given in (("pruning", pruning), ("quantization", quantization)):
                if given is not None:
                    raise ValueError(
                        f"Compress: `{name}` must be None for a model wrapped by "
                        "`prune_low_magnitude`, which is pruned by the schedule that it carries; "
                        "`strip` it first, or `wrap` the plain one. "
                        f"Received: {name}={given!r}"
                    )
            return self._carried(wrappers), None
        bits = next(
            (
                getattr(quantizer, "num_bits", 8)  # a user's own may be of any form
                for _, layer in wrapped_layers(model)
                for _, quantizer, _ in getattr(layer, "_weight_vars", ())
            ),
            8,
        )
        if quantization is None:
            self._stock = True
            # So that it counts as quantized; nobody asked for it, and `asked` does not show it.
            return pruning, Quantization(delay=0, weight_bits=4 if bits <= 4 else 8)
        for name, value, own in (
            ("weight_bits", quantization.weight_bits, bits),
            ("layers", quantization.layers, None),
        ):
            if value != own:
                raise ValueError(
                    f"Quantization: `{name}` must be {own} for this model, whose wrappers were put "
                    f"around its layers before. Received: {name}={value!r}"
                )
        return pruning, quantization

    @property
    def asked(self) -> dict[str, Any]:
        return {**super().asked, **({"quantization": None} if self._stock else {})}

    def _carried(self, wrappers: dict[str, Any]) -> Pruning:
        pruned = {path: w for path, w in wrappers.items() if w.pruning_vars}
        schedules: dict[str, Schedule] = {
            path: as_schedule(w.pruning_schedule, "Compress", "pruning_schedule")
            for path, w in pruned.items()
        }
        patterns = {
            (tuple(w.block_size), w.block_pooling_type, w.sparsity_m_by_n) for w in pruned.values()
        }
        if not pruned:
            raise ValueError(
                "Compress: a model wrapped by `prune_low_magnitude` must hold something to prune. "
                f"Received: wrappers around {sorted(wrappers)}, which have no kernel"
            )
        if len(patterns) != 1:
            raise ValueError(
                "Compress: the layers of a model wrapped by `prune_low_magnitude` must share block "
                "size, pooling and m by n. Received: (block_size, block_pooling_type, "
                f"sparsity_m_by_n) {sorted(map(str, patterns))}"
            )
        ((block_size, pooling, m_by_n),) = patterns
        return Pruning(
            None,
            layers=schedules,
            block_size=block_size,
            block_pooling_type=pooling,
            sparsity_m_by_n=m_by_n,
        )

    # --- attaching

    def attach(self) -> None:
        super().attach()
        self._go_on()
        self._undo.append(wrap_method(self.model, "save", self._refusing))
        # What `save_model`, the function, asks a model for.
        self._undo.append(wrap_method(self.model, "get_build_config", self._refusing_config))
        if self._done is not None:
            model: Any = self.model  # tf_keras alone has this attribute
            before = list(model.output_names)
            model.output_names = [self._plain_name(name) for name in before]
            self._undo.append(lambda: setattr(model, "output_names", before))

    def _go_on(self) -> None:
        """Count on from where tfmot's own callback has brought the wrappers of a model."""
        wrappers = [layer for _, layer in wrapped_layers(self.model) if is_own(layer, PRUNED)]
        done = max((int(wrapper.pruning_step.numpy()) for wrapper in wrappers), default=0)
        if done > 0 and self.pruner is not None:
            self.step = done
            for target in self.pruner.targets:
                target.started = True
            self.pruner.measure()
            self.counts.note()

    def read(self) -> None:
        """Learn what the wrappers have done, and leave them as they are."""
        self.place()
        if self.pruner is not None:
            self.timetable.schedules = self.pruner.schedules
        self._go_on()
        self.step = self.step or self.adapter.iterations(self.model) or 0
        while self._undo:
            self._undo.pop()()

    def place(self) -> None:
        if self._done is not None:
            self.left_out = self._done.left_out
        layers = dict(wrapped_layers(self.model))
        quantized = any(is_own(layer, QUANTIZED) for layer in layers.values())
        if quantized:
            self.quantizers = WrapperQuantizers(
                self.adapter, self.model, self._split(), driven=not self._stock
            )
            if self._done is None:
                self.left_out["quantization"] = {
                    path: LEFT_BY_USER
                    for path, layer in layers.items()
                    if not is_own(layer, QUANTIZED) and not self.adapter.is_input(layer)
                }
        if self.pruning is not None:
            find = self._in_kernels if quantized else self._in_wrappers
            targets = find(self.pruning, layers)
            for number, target in enumerate(targets):
                target.key = f"{number}/{target.key}"
            wrappers = [layer for layer in layers.values() if is_own(layer, PRUNED)]
            for wrapper in wrappers:
                self._undo.append(functools.partial(_give_back, wrapper, _taken(wrapper)))
            self.pruner = TfmotPruner(self.pruning, targets, wrappers)

    def _in_wrappers(self, spec: Pruning, layers: dict[str, Any]) -> list[TfmotTarget]:
        """What `PruneLowMagnitude` wrappers prune."""
        if self._done is not None:
            kernels = self._done.kernels
        else:
            schedules = cast(dict[str, Schedule], spec.layers)  # as `_carried` wrote it
            kernels = [
                HeldKernel(path, path, 0, basename(kernel), schedule)
                for path, schedule in schedules.items()
                for kernel, _, _ in layers[path].pruning_vars
            ]
        return list(in_wrappers(self.adapter, layers, kernels))

    def _in_kernels(self, spec: Pruning, layers: dict[str, Any]) -> list[TfmotTarget]:
        """What is pruned inside quantize wrappers, and where nothing was wrapped."""
        if self._done is not None:
            kernels = self._done.kernels
        else:
            kernels, left_out = held_kernels(self.adapter, self.plain_copy(), spec)
            self.left_out["pruning"] = left_out
        halves = {path: self.model.get_layer(name) for name, path in self._separable().items()}
        return list(in_kernels(self.adapter, layers, kernels, halves))

    # --- names

    def _separable(self) -> dict[str, str]:
        """Name of the pointwise half -> that of its SeparableConv2D, for those that tfmot split."""
        halves = separable_halves(self.model)
        if self._done is None:
            return {name: separable_name(first) for name, first in halves.items()}
        own = [name for name in halves if self._plain_name(name) not in self._done.paths]
        return dict(zip(own, self._done.separable, strict=True))

    def _split(self) -> dict[str, str]:
        """Path of either half of a SeparableConv2D that was split -> its own."""
        halves = separable_halves(self.model)
        return {
            self._plain_name(half): path
            for name, path in self._separable().items()
            for half in (name, halves[name])
        }

    def _plain_name(self, name: str) -> str:
        return unwrapped_layer(self.model.get_layer(name)).name

    def user_path(self, path: str) -> str:
        for plain, layer in wrapped_layers(self.model):
            if path == wrapper_path(plain, layer):
                return self._split().get(plain, plain)
        return path

    @functools.cached_property
    def _output_names(self) -> list[str]:
        return self.adapter.flat_names(self.plain_copy())[1]

    def output_names(self) -> list[str]:
        return self._output_names

    @functools.cached_property
    def _paths(self) -> list[str]:
        if self._done is not None:
            return self._done.paths
        return [path for path, _ in self.adapter.layers(self.plain_copy())]

    def paths(self) -> list[str]:
        return self._paths

    def chosen(self, spec: Pruning | Quantization) -> list[str]:
        plain = self.plain_copy()
        # Layers inside others get automatic names anew in every copy.
        names = dict(zip((p for p, _ in self.adapter.layers(plain)), self._paths, strict=True))
        if isinstance(spec, Pruning):
            found = [path for path, *_ in plan_pruning(self.adapter, plain, spec).kernels]
            return [names[path] for path in found]
        layers = {layer.name: layer for layer in plain.layers if not self.adapter.is_input(layer)}
        reasons = self.left_out["quantization"]
        refused = {path for path, reason in reasons.items() if reason != LEFT_BY_USER}
        return [path for path in select("Quantization", spec.layers, layers) if path not in refused]

    # --- leaving

    def network_behind(self, quantized: bool) -> KerasModel:
        return self.model if quantized else self.plain_copy()

    def check_saving(self, path: object) -> None:
        refuse_keras_file(path)

    def _refusing(self, save: Method) -> Method:
        @functools.wraps(save)
        def refusing(filepath: object, *args: object, **kwargs: object) -> object:
            refuse_keras_file(filepath)
            return save(filepath, *args, **kwargs)

        return refusing

    def _refusing_config(self, get_build_config: Method) -> Method:
        @functools.wraps(get_build_config)
        def refusing() -> object:
            if not self.adapter.writes_keras_file():
                return get_build_config()
            raise ValueError(_UNLOADABLE.format(f"model={type(self.model).__name__}"))

        return refusing

    def plain_copy(self) -> KerasModel:
        """A new plain model with the trained, masked weights, uncompiled."""
        masks: dict[int, np.ndarray] = {}
        if self.pruner is not None:
            masks = {id(target.kernel): target.kept() for target in self.pruner.targets}
        return plain_copy(self.adapter, self.model, self._separable(), masks)

    def inference_function(
        self,
        batch_size: int,
        *,
        quantized: bool = True,
        for_file: bool = True,
        input_shape: inference.Shapes = None,
    ) -> tf.types.experimental.ConcreteFunction:
        if self.quantizers is None or not quantized or not self.phase.rounds:
            model, names = self.plain_copy(), None
        else:
            model, names = self.model, self.output_names()
        return inference.inference_function(self.adapter, model, batch_size, names, input_shape)


def check_no_structure(owner: str, pruning: Pruning | None) -> None:
    """Refuse what tfmot's wrappers do not know.

    Raises:
        ValueError: whole channels are to be pruned.
    """
    if pruning is not None and pruning.structure is not None:
        raise ValueError(
            f"{owner}: `structure` must be None for tfmot's wrappers, which mask the weights of "
            "one layer each and know of no channels that go through several; give "
            '`wrap(engine="in_place")`, or the plain model to `fit` with a `Compress`. '
            f"Received: structure={pruning.structure!r}"
        )


def reader(adapter: Adapter, model: KerasModel) -> Tfmot:
    """An engine that was never attached, to read a model that was wrapped by hand."""
    engine = Tfmot(adapter, model, None, None)
    engine.read()
    return engine


def plain_copy(
    adapter: Adapter,
    model: KerasModel,
    separable: dict[str, str] | None = None,
    masks: dict[int, np.ndarray] | None = None,
) -> KerasModel:
    """A wrapped model without its wrappers: new, uncompiled, with original names and classes.

    `masks`: id of a kernel's variable -> True where a weight is kept, for kernels that bear no
    pruning wrapper.
    """
    masks = dict(masks or {})
    for _, layer in wrapped_layers(model):
        for kernel, mask, _ in layer.pruning_vars if is_own(layer, PRUNED) else ():
            masks.setdefault(id(adapter.tf_variable(kernel)), mask.numpy().astype(bool))

    def value(variable: KerasVariable) -> np.ndarray:
        own = adapter.tf_variable(variable)
        numbers: np.ndarray = own.numpy()
        mask = masks.get(id(own))
        return numbers if mask is None else np.where(mask, numbers, np.zeros([], numbers.dtype))

    with known_classes(adapter, model):
        return unwrapped(adapter, model, separable, value)


def refuse_keras_file(path: object) -> None:
    """Refuse to save a wrapped model in a format from which it could not be loaded.

    Raises:
        ValueError: `path` ends in ".keras".
    """
    if isinstance(path, str | os.PathLike) and os.fspath(path).endswith(".keras"):
        raise ValueError(_UNLOADABLE.format(f"filepath={os.fspath(path)!r}"))


def _taken(wrapper: PruneWrapper) -> tuple[object, object]:
    """What of a `PruneLowMagnitude` the pruner replaces."""
    return wrapper.pruning_obj, wrapper.pruning_schedule


def _give_back(wrapper: PruneWrapper, taken: tuple[object, object]) -> None:
    wrapper.pruning_obj, wrapper.pruning_schedule = taken
