"""`Quantization`: what to round to integers in training, and from which step on.

Steps are those of `specs/schedules.py`: an int counts updates, a float in [0, 1] is that fraction
of the fit that begins, until `resolve` has turned it into an int.
"""

import dataclasses
import logging
import os
from typing import TYPE_CHECKING, Any, Self

from keras_compress._shared import checks
from keras_compress._shared.checks import Layers
from keras_compress.specs.fields import (
    OF_UPDATES,
    check_of_updates,
    config_of_updates,
    read_config,
    set_field,
    writable_layers,
)
from keras_compress.specs.graph_rewriter import OWNER, read_graph_rewriter
from keras_compress.specs.schedules import resolve_step

logger = logging.getLogger("keras_compress")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
    """What to round to integers in training, and from which step on.

    The first `delay` updates are plain float training. Ranges are watched during the last
    `calibration_steps` of them, nothing being rounded yet. From then on the forward pass rounds as
    the integer file will.

    Args:
        delay: updates before rounding starts; int >= 0 or fraction of the fit. 0: from the first.
        weight_bits: 8 or 4.
        activation_bits: 8.
        calibration_steps: updates before the delay in which ranges are watched, int >= 0; all there
            are when there are fewer. 0: no watching.
        freeze_step: updates 1..freeze_step move ranges and batch-norm statistics, later ones do
            not; int or fraction of the fit, not below `delay`. None: never frozen.
        layers: None for every layer that can be quantized; names, where `"backbone/conv1"` is a
            layer of a nested model, or layers themselves, which stand for their names; or a
            callable `layer -> bool`. The others stay in float.
        learning_rate_factor: from update `delay` + 1 on, every update is made with this multiple
            (> 0) of the learning rate that the optimizer has then, whatever a schedule or a
            callback gives it; what reads the rate from outside sees it as it is. It takes the place
            of that of `Pruning`. None: the rate as it was before.
        restart_optimizer: True: before the first rounded update the optimizer's slots (momenta,
            accumulators, moving averages) begin anew, and so does what it counts for their bias
            correction; its `iterations` and a schedule of the learning rate go on.

    Raises:
        TypeError: for a value of the wrong type, a bool included.
        ValueError: for a value outside its range, or a `freeze_step` below the delay.
    """

    delay: int | float = 0
    weight_bits: int = 8
    activation_bits: int = 8
    calibration_steps: int = 200
    freeze_step: int | float | None = None
    layers: Layers = None
    learning_rate_factor: float | None = None
    restart_optimizer: bool = False

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(
            self,
            *,
            delay: float = 0,
            weight_bits: int = 8,
            activation_bits: int = 8,
            calibration_steps: int = 200,
            freeze_step: float | None = None,
            layers: checks.GivenLayers = None,
            learning_rate_factor: float | None = None,
            restart_optimizer: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        owner = "Quantization"
        set_field(self, "delay", checks.check_step(owner, "delay", self.delay))
        for name, choices in (("weight_bits", (4, 8)), ("activation_bits", (8,))):
            bits = checks.check_int_choice(owner, name, getattr(self, name), choices)
            set_field(self, name, bits)
        steps = checks.check_int(owner, "calibration_steps", self.calibration_steps, minimum=0)
        set_field(self, "calibration_steps", steps)
        if self.freeze_step is not None:
            set_field(
                self, "freeze_step", checks.check_step(owner, "freeze_step", self.freeze_step)
            )
            same_kind = isinstance(self.delay, float) == isinstance(self.freeze_step, float)
            if same_kind and self.freeze_step < self.delay:
                raise _freeze_error(self, self.delay, self.freeze_step)
        set_field(self, "layers", checks.check_layers(owner, self.layers))
        check_of_updates(owner, self)

    @classmethod
    def from_graph_rewriter(cls, text_or_path: str | os.PathLike[str]) -> Self:
        """The spec of the `graph_rewriter` block of an Object Detection API's `pipeline.config`.

        What the block leaves out has the API's defaults: a delay of 500000 updates, 8 bits for
        weights and activations. The rest of the file is not looked at. Ranges are watched from
        `calibration_steps` updates before the delay on, where TF1 watched them from the first; with
        `symmetric: true` activations keep their zero point all the same, which is logged.

        ```python
        kc.Quantization.from_graph_rewriter("pipeline.config")
        kc.Quantization.from_graph_rewriter("graph_rewriter { quantization { delay: 48000 } }")
        ```

        Args:
            text_or_path: the path of the file, or its text (anything with a brace in it).

        Raises:
            FileNotFoundError: there is no file at that path.
            ValueError: it is no protobuf text, has not one such block with `quantization` in it, a
                field that `graph_rewriter.proto` does not have, or bits other than 8 (of weights: 4
                or 8).
            TypeError: neither text nor a path.
        """
        fields = read_graph_rewriter(text_or_path)
        if fields.pop("symmetric"):
            logger.warning(
                "%s: `symmetric: true` is not supported and not needed: weights are symmetric "
                "always, as TFLite's integers of 8 bits are, and activations have a zero point.",
                OWNER,
            )
        return cls(**fields)

    @property
    def has_fractions(self) -> bool:
        """Whether a step is still a fraction of a fit."""
        return isinstance(self.delay, float) or isinstance(self.freeze_step, float)

    def resolve(self, start: int, updates: int) -> Self:
        """The same with ints for steps, in a fit of `updates` updates after the first `start`.

        Raises:
            ValueError: if the resolved `freeze_step` is below the delay.
        """
        if not self.has_fractions:
            return self
        delay = resolve_step(self.delay, start, updates)
        freeze_step = self.freeze_step
        if freeze_step is not None:
            freeze_step = resolve_step(freeze_step, start, updates)
            if freeze_step < delay:
                raise _freeze_error(self, delay, freeze_step)
        return dataclasses.replace(self, delay=delay, freeze_step=freeze_step)

    def get_config(self) -> dict[str, Any]:
        """A plain dict of plain values that `from_config` reads back equal.

        Raises:
            ValueError: if `layers` is a callable.
        """
        names = [field.name for field in dataclasses.fields(self) if field.name not in OF_UPDATES]
        config = {name: getattr(self, name) for name in names}
        config["layers"] = writable_layers("Quantization", self.layers)
        return config | config_of_updates(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The spec that `get_config` described.

        Raises:
            ValueError: if a key is missing or unknown, or a value is out of its range.
        """
        return cls(**read_config(cls, config, optional=OF_UPDATES))


def _freeze_error(spec: Quantization, delay: float, freeze_step: float) -> ValueError:
    first = ("freeze_step", spec.freeze_step, freeze_step)
    second = ("delay", spec.delay, delay)
    return checks.order_error("Quantization", "at least `delay`", first, second)
