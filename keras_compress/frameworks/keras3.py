"""Keras 3 with the TensorFlow backend."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import keras
import tensorflow as tf

from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.asked.graphs import GraphCall
from keras_compress.frameworks.protocols import (
    KerasCallbackList,
    KerasModel,
    KerasOperation,
    KerasTensor,
    KerasVariable,
)
from keras_compress.frameworks.updates import Updates, keras3_class, why_not_made_again


class Keras3(Adapter):
    keras = keras
    tree = keras.tree
    package = "keras.src"
    backup_method = "_save_model"
    own_weights = "_trainable_variables"

    def functional(self, model: Any) -> KerasModel | None:
        if isinstance(model, keras.Sequential):
            # A Sequential runs the Functional it keeps to itself; its own `layers` have no nodes.
            return getattr(model, "_functional", None)
        # Only a functional model has nodes; there is no public attribute that tells.
        return model if hasattr(model, "_nodes_by_depth") else None

    def nodes(self, functional: KerasModel) -> Iterator[GraphCall]:
        # `_nodes_by_depth` is what `Function._run_through_graph` itself walks; `operations` alone
        # has no edges.
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if not node.is_input:
                    inputs = list(node.input_tensors)
                    fill = functools.partial(_filled, node, inputs)
                    yield GraphCall(node.operation, inputs, list(node.outputs), fill)

    def graph_structures(self, functional: Any) -> tuple[object, object]:
        # `.input` is the structure the user passed, but Sequential has no such attribute until it
        # is built.
        return functional._inputs_struct, functional._outputs_struct

    def recorded_inputs(self, model: Any) -> object | None:
        # Private: what `Model.export` itself goes by. It has shapes, and no dtypes.
        recorded = list((getattr(model, "_build_shapes_dict", None) or {}).values())

        def specs(shape: Any) -> object:
            if isinstance(shape, dict):
                return {key: specs(own) for key, own in shape.items()}
            if all(size is None or isinstance(size, int) for size in shape):
                return tf.TensorSpec(shape, "float32")
            return type(shape)(map(specs, shape))

        return specs(recorded[0]) if len(recorded) == 1 else None

    def batch_spec(self, fit: dict[str, Any]) -> object:
        return fit["epoch_iterator"]._distributed_dataset.element_spec  # private

    def kind(self, operation: KerasOperation) -> str:
        return self.own_name(operation)

    def trusting(self) -> contextlib.AbstractContextManager[None]:
        # The public switch is for good, and for the whole process.
        scope: contextlib.AbstractContextManager[None] = (
            keras.src.saving.serialization_lib.SafeModeScope(safe_mode=False)
        )
        return scope

    def graph_end_names(self, functional: Any) -> tuple[list[str], list[str]]:
        # Each input tensor is named as its InputLayer; there is no `input_names` in Keras 3.
        names = [tensor.name for tensor in functional.inputs]
        return names, list(functional.output_names)

    def name_inputs_like(self, copy: KerasModel, original: KerasModel) -> None:
        # An input that was given no name has a number, and each new model the next one.
        pairs = zip(self.graph_of(copy).inputs, self.graph_of(original).inputs, strict=True)
        for mine, theirs in pairs:
            cast(Any, mine).name = theirs.name

    def computes_again(self, operation: KerasOperation) -> bool:
        # Private: what a `RematScope` leaves in the layers that are made, or called, inside of it.
        return getattr(operation, "_remat_mode", None) is not None

    def is_compiled(self, model: Any) -> bool:
        return bool(model.compiled)

    @property
    def float32_policy(self) -> dict[str, Any]:
        return {"_dtype_policy": keras.DTypePolicy("float32")}

    @contextlib.contextmanager
    def in_float32(self, model: Any) -> Iterator[None]:
        # A Sequential casts floats to the dtype of its `Input` before its `call` sees them: it
        # would make integers of what a file takes as real numbers.
        autocast, model.autocast = model.autocast, False
        try:
            with super().in_float32(model):
                yield
        finally:
            model.autocast = autocast

    def steps_per_execution(self, model: Any) -> int:
        return int(model.steps_per_execution)

    def updates_of_epoch(self, model: KerasModel, steps: int) -> int:
        # Each execution makes all its updates, past `steps_per_epoch` too, until the data end.
        fit = self._fit_under_way(model)
        if fit is None or not fit["epoch_iterator"].steps_per_epoch:
            return steps
        span = self.steps_per_execution(model)
        whole = -(-steps // span) * span
        there_are = fit["epoch_iterator"].data_adapter.num_batches  # None: endless, or not known
        return whole if there_are is None else min(whole, there_are)

    def build_like(self, model: KerasModel, inputs: object) -> None:
        with tf.init_scope():
            model.build(tf.nest.map_structure(lambda x: tuple(x.shape), inputs))

    def tf_variable(self, variable: KerasVariable) -> tf.Variable:
        # `.value` casts under a layer's autocast scope; masks and ranges need the stored numbers.
        return variable._value if isinstance(variable, keras.Variable) else variable

    def loss_lists(self, layer: KerasOperation) -> list[list[tf.Tensor]]:
        # Private: the public `losses` is a new list, which also has those of the weights.
        return [vars(layer)["_losses"]] if "_losses" in vars(layer) else []

    def log_value(self, value: tf.Tensor) -> tf.Tensor:
        return value  # Keras 3 averages logs over replicas

    def show_as_they_are(self, callback_list: KerasCallbackList, names: tuple[str, ...]) -> None:
        pass  # its bar shows the logs as they come

    def has_backup(self, callback: Any) -> bool:
        return os.path.exists(callback._weights_path)  # private

    def forget_restored_epoch(self, model: Any) -> None:
        model._initial_epoch = None  # private: a fit that was resumed leaves it behind

    def back_up_end(self, callback: Any, epochs: int, steps: int | None) -> None:
        callback._current_epoch = epochs  # private: the epoch that it would go on with
        callback._last_batch_seen = 0
        type(callback)._save_model(callback)

    def count_of(self, optimizer: Any) -> KerasVariable:
        # Private: where gradients are accumulated, the public count is of those that were applied.
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        return cast(KerasVariable, inner._iterations)

    def changed_class(self, plain: Any, updates: Updates) -> type:
        return keras3_class(plain, updates)

    def why_not_changed(self, optimizer: Any) -> str | None:
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            return "is no optimizer of Keras 3"
        several = getattr(keras.optimizers, "MultiOptimizer", ())
        if several and isinstance(optimizer, several):
            return "is several optimizers, with a rate and a count each"
        return None

    def why_not_begun_anew(self, optimizer: Any) -> str | None:
        if self.at_work(optimizer) is not optimizer:
            return "leaves out updates whose gradients overflow, and does not count them"
        return why_not_made_again(self, optimizer)

    def slotted(self, optimizer: Any, model: KerasModel) -> list[Any]:
        # Private: a new one has to be built for the same weights, in the same order.
        return list(optimizer._trainable_variables) if optimizer.built else []

    def kept_by(self, optimizer: Any) -> list[Any]:
        # Private: the count, the rate, and gradients that were collected for the next update.
        collected = getattr(optimizer, "_accumulated_gradients", None) or []
        return [optimizer._iterations, optimizer._learning_rate, *collected]

    def reset_best(self, callback: Any) -> bool:
        if self.isinstance(callback, "EarlyStopping"):
            callback.wait = 0
            callback.best = None
            callback.best_weights = None
            return True
        if self.isinstance(callback, "ReduceLROnPlateau"):
            callback.wait = 0
            callback.best = None
            return True
        if self.isinstance(callback, "ModelCheckpoint") and callback.save_best_only:
            callback.best = None
            return True
        return False


def _filled(
    node: Any, inputs: list[KerasTensor], values: Sequence[object]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # Private: what `Function._run_through_graph` does for every node.
    given = {id(own): value for own, value in zip(inputs, values, strict=True)}
    return cast(tuple[tuple[Any, ...], dict[str, Any]], node.arguments.fill_in(given))
