"""The engine that works in place: masks of our own, quantizers patched into the layers' `call`."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_compress.engines.engine import Engine
from keras_compress.engines.in_place import plan
from keras_compress.engines.in_place.channels.masks import ChannelPruner
from keras_compress.engines.in_place.channels.plan import plan_channels
from keras_compress.engines.in_place.channels.rebuild import (
    Cuts,
    cuts_of,
    shipped_by_channel,
    small_config,
    small_weight,
)
from keras_compress.engines.in_place.fake_quant import KernelQuantizer
from keras_compress.engines.in_place.masks import MagnitudePruner
from keras_compress.engines.in_place.patches import PatchedQuantizers
from keras_compress.engines.prunable_kernels import make_targets, plan_pruning
from keras_compress.engines.state import Phase
from keras_compress.frameworks import inference
from keras_compress.frameworks.protocols import Method
from keras_compress.frameworks.wrap_method import wrap_method
from keras_compress.reports.channels import LayerChannels
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization

if TYPE_CHECKING:
    import numpy as np


class InPlace(Engine):
    """Prunes and quantizes the very object the user compiled."""

    by_ops = True
    """What the table does not know is quantized inside by its ops."""

    def attach(self) -> None:
        super().attach()
        if hasattr(self.model, "export"):
            self._undo.append(wrap_method(self.model, "export", self._patched_export))

    def place(self) -> None:
        adapter, model = self.adapter, self.model
        pruning, quantization = self.pruning, self.quantization
        kernels = channels = placement = None
        if pruning is not None and pruning.structure is not None:
            channels = plan_channels(adapter, model, pruning)
            self.left_out["pruning"] = channels.left_out
        elif pruning is not None:
            kernels = plan_pruning(adapter, model, pruning)
            self.left_out["pruning"] = kernels.left_out
        if quantization is not None:
            placement = plan.plan_quantization(adapter, model, quantization, self.by_ops)
            self.left_out["quantization"] = placement.left_out
        # Only now, when nothing is refused any more.
        if pruning is not None and channels is not None:
            self.pruner = ChannelPruner(adapter, pruning, channels)
        elif pruning is not None and kernels is not None:
            self.pruner = MagnitudePruner(pruning, make_targets(adapter, kernels))
        if quantization is not None and placement is not None:
            self.quantizers = PatchedQuantizers(
                adapter, model, placement, quantization.weight_bits, quantization.activation_bits
            )

    def paths(self) -> list[str]:
        return plan.paths(self.adapter, self.model)

    def chosen(self, spec: Pruning | Quantization) -> list[str]:
        if spec is self.pruning and self.pruner is not None:
            return self.pruner.paths
        if isinstance(spec, Pruning) and spec.structure is not None:
            with self.in_float():  # layers are run to see what they move
                return list(plan_channels(self.adapter, self.model, spec).schedules)
        if isinstance(spec, Pruning):
            return [path for path, *_ in plan_pruning(self.adapter, self.model, spec).kernels]
        if spec is self.quantization and isinstance(self.quantizers, PatchedQuantizers):
            placement = self.quantizers.placement
        else:
            with self.in_float():  # units are found by tracing the model
                placement = plan.plan_quantization(self.adapter, self.model, spec, self.by_ops)
        return [path for path in placement.names if path not in placement.left_out]

    def channels(self) -> Iterator[LayerChannels]:
        if not isinstance(self.pruner, ChannelPruner):
            return
        makers, kept = self.pruner.channels.makers, self.pruner.kept_ids()
        for path in self.pruner.paths:
            yield LayerChannels(path, len(makers[path]), int(kept[makers[path]].sum()))

    def shipped_config(self) -> dict[str, Any]:
        if not isinstance(self.pruner, ChannelPruner):
            return super().shipped_config()
        return small_config(self.model, self.pruner.channels, self.pruner.kept_ids())

    def shipped_weights(self) -> Iterator[tf.Tensor]:
        if not isinstance(self.pruner, ChannelPruner):
            yield from super().shipped_weights()
            return
        cuts = self.cuts()
        for variable, value in zip(self.model.weights, self.masked_weights(), strict=True):
            own = self.adapter.tf_variable(variable)
            if id(own) in cuts:
                value = tf.convert_to_tensor(small_weight(own, value.numpy(), cuts))
            yield value

    def cuts(self) -> Cuts:
        """What becomes smaller in the network that ships, as the masks are now: as it looks at all
        of them, it is asked for once.
        """
        if not isinstance(self.pruner, ChannelPruner):
            return {}
        return cuts_of(self.pruner.channels, self.pruner.kept_ids())

    def kernel_scales(self) -> dict[int, np.ndarray]:
        scales = super().kernel_scales()
        if not isinstance(self.quantizers, PatchedQuantizers):
            return scales
        quantizers: dict[int, KernelQuantizer] = {}
        for each in self.quantizers.kernels.values():
            quantizers.setdefault(id(each.variable), each)
        cuts = self.cuts()
        return {
            key: shipped_by_channel(quantizers[key], scale, cuts) for key, scale in scales.items()
        }

    def _patched_export(self, original: Method) -> Method:
        @functools.wraps(original)
        def export(*args: object, **kwargs: object) -> object:
            if self.quantizers is None:
                return original(*args, **kwargs)
            with self.quantizers.leaving_the_process():
                return original(*args, **kwargs)

        return export

    def inference_function(
        self,
        batch_size: int,
        *,
        quantized: bool = True,
        for_file: bool = True,
        input_shape: inference.Shapes = None,
    ) -> tf.types.experimental.ConcreteFunction:
        trace = functools.partial(
            inference.inference_function,
            self.adapter,
            self.model,
            batch_size,
            input_shape=input_shape,
        )
        quantizers = self.quantizers
        if not isinstance(quantizers, PatchedQuantizers):
            return trace()
        mode = quantizers.mode
        before = mode.phase
        try:
            if not quantized:
                mode.phase = Phase.OFF
            with quantizers.leaving_the_process(exporting=for_file):
                # As the network itself computes, it takes what its user gives it.
                return trace(floats=quantizers.floating_inputs() if for_file else ())
        finally:
            mode.phase = before
