"""What a file can be made of, and what is asked of it.

A source gives functions that leave the process, and knows which of its inputs are rounded, how, and
which layer a tensor came from.
"""

from __future__ import annotations

import contextlib
import logging
import types
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from keras_compress.engines.engine import Engine
from keras_compress.engines.reporting import channels_report, report_on
from keras_compress.export.float_ops import LayersOf
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.reports.fit import Report
from keras_compress.specs.detection import DetectionPostProcess
from keras_compress.specs.export import Export

logger = logging.getLogger("keras_compress")

Range = tuple[float, float]


class Source(Protocol):
    """What an export asks of a network.

    Attributes:
        keras: the package that the network belongs to; None for a graph.
        engine: of the network of which the file is made, where it is compressed; None of anything
            else.
        attached: of the model itself, which is another where the network ships without its
            dropped channels.
        rounds: whether the network, as it answers, rounds its numbers.
        asymmetric: whether it rounds weights over ranges whose middle is not 0, which only TF1 did.
        rows: how many a graph takes at once, where it takes no other number; None of anything else.
        detections: what a frozen graph has behind its outputs; None of anything else.
    """

    @property
    def keras(self) -> types.ModuleType | None: ...

    @property
    def engine(self) -> Engine | None: ...

    @property
    def attached(self) -> Engine | None: ...

    @property
    def network(self) -> KerasModel | None:
        """The model of which the file is made; None of a graph."""

    @property
    def rounds(self) -> bool: ...

    @property
    def asymmetric(self) -> bool: ...

    @property
    def rows(self) -> int | None: ...

    @property
    def detections(self) -> DetectionPostProcess | None: ...

    def specs(self, batch_size: int) -> list[tf.TensorSpec]:
        """The flat inputs of `function`, without tracing it."""

    def function(
        self, batch_size: int, *, quantized: bool, for_file: bool = True
    ) -> tf.types.experimental.ConcreteFunction:
        """The network in inference, as `inference_function` describes it: rounding or float."""

    def masked(self) -> contextlib.AbstractContextManager[None]:
        """While inside, its weights are as they are meant to leave."""

    def not_finite(self) -> str | None:
        """The first weight or range with a NaN or infinite number in it, by its name."""

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        """What `model.predict` gives for name -> rows, by the names of the outputs; None where
        there is no model, or where it gives another number of things.
        """

    def layers_of(self, outputs: Sequence[str], quantized: bool) -> LayersOf:
        """For a file with these names of outputs."""

    def input_range(self, position: int) -> Range | None:
        """The range over which a flat input is rounded; None for one that is not."""

    def rounding_inputs(
        self, ranges: Mapping[int, Range]
    ) -> contextlib.AbstractContextManager[None]:
        """While inside, flat inputs are rounded over these ranges.

        Raises:
            ValueError: a model that does not round that input.
        """


def report_before_export(source: Source, export: Export | None) -> Report:
    """The report on a network as it is now, with the spec of the export that it lacks as yet."""
    engine = source.attached
    report = Report.of_plain_model() if engine is None else report_on(engine)
    report.specs["export"] = export and export.get_config()
    if engine is not None and engine.shrinks:
        try:
            if source.network is not None:
                report.channels = channels_report(engine, source.network)
        except Exception as error:  # what cannot be made is said by whoever needs it
            logger.warning("No report on the channels: %s", error)
    return report
