"""What the engine asks of a Keras: the few places where Keras 3 and tf_keras differ.

Everything private is reached through one of the two subclasses, `keras3.py` and `tf_keras.py`, each
use with its reason. What is asked about graphs, kernels, optimizers, callbacks, a running `fit` and
seeds stands in `asked/`; what is asked about a model as a whole here.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, cast

import tensorflow as tf

from keras_compress.frameworks.asked.callbacks import Callbacks
from keras_compress.frameworks.asked.fits import Fits
from keras_compress.frameworks.asked.graphs import Graphs
from keras_compress.frameworks.asked.kernels import Kernels
from keras_compress.frameworks.asked.optimizers import Optimizers
from keras_compress.frameworks.asked.seeds import Seeds
from keras_compress.frameworks.devices import whole_float32
from keras_compress.frameworks.protocols import KerasModel, KerasOperation
from keras_compress.frameworks.signature import Signature, settle_like, signature_of


class Adapter(Graphs, Kernels, Optimizers, Callbacks, Fits, Seeds):
    """One Keras, as the engine sees it."""

    has_tfmot = False
    """Whether tfmot knows this Keras."""

    # --- what a model takes and gives

    def has_ends(self, model: KerasModel) -> bool:
        """Whether it is known what a model takes and gives: it has a graph, or was called."""
        return self.functional(model) is not None or signature_of(self, model) is not None

    def structures(self, model: KerasModel) -> tuple[object, object]:
        """The nested inputs and outputs of a model whose ends are known, as its user passes and
        gets them.
        """
        functional = self.functional(model)
        if functional is not None:
            return self.graph_structures(functional)
        signature = cast(Signature, signature_of(self, model))
        return signature.inputs, signature.outputs

    def end_names(self, model: KerasModel) -> tuple[list[str], list[str]]:
        """The names of a model's flat inputs and outputs: of the layers there, or "input_1",
        "output_1" and so on where there is no graph that would tell.
        """
        functional = self.functional(model)
        if functional is not None:
            return self.graph_end_names(functional)
        inputs, outputs = map(self.tree.flatten, self.structures(model))
        return [end.name for end in inputs], [end.name for end in outputs]

    def flat_names(self, model: KerasModel) -> tuple[list[str], list[str]]:
        """The names of a model's flat inputs and outputs, each unique: the keys of a dict, by which
        its user knows them, else `end_names`.
        """
        inputs, outputs = (
            [
                next((key for key, own in structure.items() if own is tensor), name)
                if isinstance(structure, dict)
                else name
                for tensor, name in zip(self.tree.flatten(structure), names, strict=True)
            ]
            for structure, names in zip(self.structures(model), self.end_names(model), strict=True)
        )
        return unique(inputs), unique(outputs)

    def input_specs(self, model: KerasModel) -> list[tf.TensorSpec]:
        """Name, shape (None for the batch) and dtype of a model's flat inputs."""
        structure, _ = self.structures(model)
        names, _ = self.flat_names(model)
        return [
            tf.TensorSpec(tensor.shape, tensor.dtype, name)
            for name, tensor in zip(names, self.tree.flatten(structure), strict=True)
        ]

    def call_flat(
        self, model: KerasModel, inputs: list[tf.Tensor], training: bool = False
    ) -> list[tf.Tensor]:
        """The flat outputs of a model for flat inputs."""
        structure, _ = self.structures(model)
        outputs = model(self.tree.pack_sequence_as(structure, inputs), training=training)
        flat: list[tf.Tensor] = self.tree.flatten(outputs)
        return flat

    # --- how it is made

    def grows(self, model: KerasModel) -> bool:
        """Whether a model without shapes gets them from its first batch."""
        return isinstance(model, self.keras.Sequential)

    @abc.abstractmethod
    def build_like(self, model: KerasModel, inputs: object) -> None:
        """Build a model that has no shapes yet for `inputs`, outside of any graph that is being
        traced.
        """

    def build_as(self, model: KerasModel, other: KerasModel) -> None:
        """Build a copy without shapes like the built model it was made from."""
        if self.functional(other) is None and settle_like(self, model, other):
            return
        config = other.get_build_config()
        if config is not None:
            model.build_from_config(config)

    @abc.abstractmethod
    def trusting(self) -> contextlib.AbstractContextManager[None]:
        """While inside, a Lambda layer is made again from its config (private in both Keras)."""

    # --- how it was compiled

    @abc.abstractmethod
    def is_compiled(self, model: KerasModel) -> bool: ...

    def compile_arguments(self, model: KerasModel) -> dict[str, Any] | None:
        """The arguments of the model's last `compile`, as objects; None if it was not compiled."""
        if not self.is_compiled(model):
            return None
        # `get_compile_config` would serialise them, which fails for a user's unregistered loss.
        return dict(model._compile_config.config)

    def metric_names(self, model: KerasModel) -> set[str]:
        """The names under which a compiled model's metrics will appear in its logs."""
        names = {metric.name for metric in model.metrics}
        arguments = self.compile_arguments(model) or {}
        # Metrics given as strings or functions are made with the first batch only.
        for metric in tf.nest.flatten(
            [arguments.get("metrics") or [], arguments.get("weighted_metrics") or []]
        ):
            name = getattr(metric, "name", getattr(metric, "__name__", metric))
            names.add(str(name))
        return names

    def metric_prefix(self, model: KerasModel, metric: object) -> str:
        """What this Keras has put before the name that a compiled metric was given."""
        return ""

    @abc.abstractmethod
    def steps_per_execution(self, model: KerasModel) -> int: ...

    @property
    def prints(self) -> bool:
        """Whether this Keras prints what it does, or was told to log it."""
        config = getattr(self.keras, "config", self.keras.utils)
        return bool(config.is_interactive_logging_enabled())

    # --- how its steps are traced

    def retrace(self, model: KerasModel, training_alone: bool = False) -> None:
        """Make the next step of every kind trace anew, in mid-epoch too; or, where what `evaluate`
        and `predict` answer stays the same, the next training step alone.

        Both Keras look up `train_function` at every step, so a new one takes effect at the very
        next; the other two are made on demand once they are None.
        """
        if model.train_function is not None:
            model.make_train_function(force=True)
        if training_alone:
            return
        model.test_function = None
        model.predict_function = None

    def computes_again(self, operation: KerasOperation) -> bool:
        """Whether its `call` is run once more for the gradient, then outside of its model's."""
        return False

    @abc.abstractmethod
    def loss_lists(self, layer: KerasOperation) -> list[list[tf.Tensor]]:
        """The lists in which a layer keeps the losses that its last calls added."""

    @contextlib.contextmanager
    def traceless(self, layers: Iterable[KerasOperation]) -> Iterator[None]:
        """While inside, calls of these layers leave nothing behind: no losses, no used seeds."""
        before = [(own, list(own)) for layer in layers for own in self.loss_lists(layer)]
        try:
            yield
        finally:
            for own, losses in before:
                own[:] = losses

    def random_generators(self, model: KerasModel, by_ops: Iterable[KerasOperation]) -> list[Any]:
        """What random layers of a model draw from by ops whose state a new trace of the training
        step would lose; of what is planned op by op, without what draws among those ops.
        """
        return []

    @abc.abstractmethod
    def log_value(self, value: tf.Tensor) -> tf.Tensor:
        """A value for the step's logs that shows as it is, however many replicas there are."""

    @property
    @abc.abstractmethod
    def float32_policy(self) -> dict[str, Any]:
        """What a layer holds under the float32 policy, by attribute (private in both Keras)."""

    @contextlib.contextmanager
    def in_float32(self, model: KerasModel) -> Iterator[None]:
        """While inside, layers compute in float32, as a file does: those of a mixed policy too, and
        on a GPU, which by itself rounds what it multiplies.
        """
        undo: list[tuple[dict[str, Any], dict[str, Any]]] = []
        try:
            for layer in (model, *(layer for _, layer in self.layers(model))):
                own = vars(layer)
                swaps = {k: v for k, v in self.float32_policy.items() if k in own}
                undo.append((own, {name: own[name] for name in swaps}))
                own.update(swaps)
            with whole_float32():
                yield
        finally:
            for own, before in undo:
                own.update(before)


def unique(names: list[str]) -> list[str]:
    """The names, with a number behind each that came before."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        unique.append(f"{name}_{count}" if count else name)
    return unique
