"""A Keras model in memory, compressed or plain, as the source of a file."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import tensorflow as tf

from keras_compress.engines.engine import Engine, engine_of
from keras_compress.engines.shipping import network_that_ships
from keras_compress.engines.tfmot.engine import reader
from keras_compress.engines.tfmot.library import is_wrapped
from keras_compress.export.float_ops import LayersOf
from keras_compress.export.source import Range
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.finite import not_finite
from keras_compress.frameworks.inference import Shapes, inference_function, input_specs
from keras_compress.frameworks.naming import Naming
from keras_compress.frameworks.protocols import KerasModel


class ModelSource:
    """A Keras model in memory.

    Args:
        input_shape: of inputs that the model leaves free, as in `Export`.
        owner: whom to name in an error.
    """

    asymmetric = False
    rows = None
    detections = None

    def __init__(
        self,
        model: KerasModel,
        input_shape: Shapes = None,
        owner: str = "export_tflite",
    ):
        self._model = model
        self._input_shape = input_shape
        self._adapter = adapter_of(model, owner)
        self.keras = self._adapter.keras
        attached = engine_of(model)
        # Or one to read a model with that tfmot's wrappers alone have driven.
        wrapped = attached is None and is_wrapped(model, owner)
        self.attached = reader(self._adapter, model) if wrapped else attached

    @functools.cached_property
    def _shipped(self) -> tuple[KerasModel, Engine | None]:
        """The network of which the file is made, and its engine: the model itself, but for one that
        ships without its dropped channels.
        """
        if self.attached is None or not self.attached.shrinks:
            return self._model, self.attached
        return network_that_ships(self.attached)

    @property
    def network(self) -> KerasModel:
        return self._shipped[0]

    @property
    def engine(self) -> Engine | None:
        return self._shipped[1]

    @property
    def rounds(self) -> bool:
        return self.engine is not None and self.engine.phase.rounds

    def specs(self, batch_size: int) -> list[tf.TensorSpec]:
        return input_specs(self._adapter, self.network, batch_size, self._input_shape)

    def function(
        self, batch_size: int, *, quantized: bool, for_file: bool = True
    ) -> tf.types.experimental.ConcreteFunction:
        if self.engine is None:
            return inference_function(
                self._adapter, self.network, batch_size, input_shape=self._input_shape
            )
        return self.engine.inference_function(
            batch_size, quantized=quantized, for_file=for_file, input_shape=self._input_shape
        )

    def masked(self) -> contextlib.AbstractContextManager[None]:
        attached = engine_of(self._model)
        return contextlib.nullcontext() if attached is None else attached.readers.masked()

    def not_finite(self) -> str | None:
        for name in not_finite(self._adapter, self._model):
            return name
        quantizers = None if self.engine is None else self.engine.quantizers
        ranges = {} if quantizers is None else quantizers.ranges()
        return next((k for k, limits in ranges.items() if not np.isfinite(limits).all()), None)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        model, adapter = self._model, self._adapter
        engine = self.attached
        if engine is not None and not engine.works_alone:
            return None  # all processes would have to call it, and one writes the file
        structure, _ = adapter.structures(model)
        given = [inputs[name] for name in adapter.flat_names(model)[0]]
        own = vars(model)
        history = {"history": own["history"]} if "history" in own else {}
        traces = getattr(model, "predict_function", None) is None
        holding = engine.holding_numbers() if engine and traces else contextlib.nullcontext()
        try:
            with holding:
                answers = model.predict(adapter.tree.pack_sequence_as(structure, given), verbose=0)
        finally:
            if traces:
                model.predict_function = None  # the user's next one follows the ranges
            # tf_keras puts an empty one in the place of that which a `fit` will return
            own.pop("history", None)
            own.update(history)
        flat = [np.asarray(answer) for answer in adapter.tree.flatten(answers)]
        names = adapter.flat_names(model)[1] if engine is None else engine.output_names()
        return dict(zip(names, flat, strict=True)) if len(flat) == len(names) else None

    def layers_of(self, outputs: Sequence[str], quantized: bool) -> LayersOf:
        engine = self.engine
        traced = self.network if engine is None else engine.network_behind(quantized)
        naming = Naming(self._adapter, traced, outputs)

        def layers(tensor: str) -> list[str]:
            found = naming.layers(tensor)
            return list(found) if engine is None else [engine.user_path(path) for path in found]

        return layers

    def input_range(self, position: int) -> Range | None:
        return None if self.engine is None else self.engine.input_range(position)

    def rounding_inputs(
        self, ranges: Mapping[int, Range]
    ) -> contextlib.AbstractContextManager[None]:
        return cast(Engine, self.engine).rounding_inputs(ranges)  # who rounds has one
