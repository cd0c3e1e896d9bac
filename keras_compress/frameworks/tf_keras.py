"""tf_keras, the Keras 2 that tfmot knows."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf
import tf_keras

from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.asked.graphs import GraphCall
from keras_compress.frameworks.protocols import (
    KerasCallback,
    KerasModel,
    KerasOperation,
    KerasTensor,
    KerasVariable,
)
from keras_compress.frameworks.random_streams import set_aside
from keras_compress.frameworks.updates import (
    Updates,
    legacy_class,
    tf_keras_class,
    why_not_made_again,
)

# What `TFOpLambda.symbol` says of an operator or function -> the class name of Keras 3's operation
# for it.
SYMBOLS = {
    "__operators__.add": "Add",
    "math.add": "Add",
    "add": "Add",
    "math.subtract": "Subtract",
    "subtract": "Subtract",
    "math.multiply": "Multiply",
    "multiply": "Multiply",
    "math.truediv": "TrueDivide",
    "math.divide": "Divide",
    "math.negative": "Negative",
    "negative": "Negative",
    "math.maximum": "Maximum",
    "maximum": "Maximum",
    "math.minimum": "Minimum",
    "minimum": "Minimum",
    "math.reduce_mean": "Mean",
    "math.reduce_sum": "Sum",
    "math.reduce_max": "Max",
    "linalg.matmul": "Matmul",
    "math.exp": "Exp",
    "exp": "Exp",
    "cast": "Cast",
    "concat": "Concatenate",
    "stack": "Stack",
    "split": "Split",
    "reshape": "Reshape",
    "expand_dims": "ExpandDims",
    "compat.v1.squeeze": "Squeeze",
    "squeeze": "Squeeze",
    "compat.v1.transpose": "Transpose",
    "transpose": "Transpose",
    "compat.v1.pad": "Pad",
    "pad": "Pad",
    "__operators__.getitem": "GetItem",
    "nn.relu": "Relu",
    "nn.relu6": "Relu6",
    "nn.leaky_relu": "LeakyRelu",
    "nn.elu": "Elu",
    "nn.selu": "Selu",
    "nn.softmax": "Softmax",
    "nn.silu": "Silu",
    "nn.swish": "Silu",
    "nn.gelu": "Gelu",
    "math.softplus": "Softplus",
    "math.sigmoid": "Sigmoid",
    "nn.sigmoid": "Sigmoid",
    "sigmoid": "Sigmoid",
    "math.tanh": "Tanh",
    "nn.tanh": "Tanh",
    "tanh": "Tanh",
}

NOTHING_IN_INFERENCE = (
    tf_keras.layers.Dropout,
    tf_keras.layers.GaussianDropout,
    tf_keras.layers.GaussianNoise,
    tf_keras.layers.AlphaDropout,
)
"""Random layers whose inside nobody looks at op by op."""

LEGACY = tf_keras.optimizers.legacy.Optimizer
"""What the older optimizers derive from."""


class TFKeras(Adapter):
    keras = tf_keras
    tree = tf.nest
    package = "tf_keras"
    has_tfmot = True
    backup_method = "_backup"
    own_weights = "_trainable_weights"

    def functional(self, model: Any) -> KerasModel | None:
        return model if getattr(model, "_is_graph_network", False) else None

    def nodes(self, functional: KerasModel) -> Iterator[GraphCall]:
        # `_nodes_by_depth` is what `Functional._run_internal_graph` itself walks.
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if not node.is_input:
                    inputs = list(node.keras_inputs)
                    fill = functools.partial(_filled, node, inputs)
                    yield GraphCall(node.layer, inputs, tf.nest.flatten(node.outputs), fill)

    def graph_structures(self, functional: Any) -> tuple[object, object]:
        # `.input` and `.output` flatten a dictionary; the nested form is kept here.
        return functional._nested_inputs, functional._nested_outputs

    def recorded_inputs(self, model: Any) -> object | None:
        specs = model.save_spec()
        if specs is not None:
            args, kwargs = specs
            return args[0] if len(args) == 1 and not kwargs else None
        shapes = (model.get_build_config() or {}).get("input_shape")  # of one built, never called
        is_one = shapes is not None and all(size is None or type(size) is int for size in shapes)
        return tf.TensorSpec(shapes, "float32") if is_one else None

    def batch_spec(self, fit: dict[str, Any]) -> object:
        return fit["data_handler"]._dataset.element_spec  # private

    def kind(self, operation: Any) -> str:
        name = type(operation).__name__
        if name in ("TFOpLambda", "SlicingOpLambda"):
            return SYMBOLS.get(operation.symbol, f"TFOpLambda({operation.symbol})")
        return self.own_name(operation)

    def is_compiled(self, model: Any) -> bool:
        return bool(model._is_compiled)

    def metric_prefix(self, model: Any, metric: object) -> str:
        # It renames the user's own objects, per output, and keeps no other record of them.
        container = model.compiled_metrics
        if container.built and len(container._output_names) > 1:
            groups = (container._output_names, container._metrics, container._weighted_metrics)
            for name, *metrics in zip(*groups, strict=True):
                if any(each is metric for each in tf.nest.flatten(metrics)):
                    return f"{name}_"
        return ""

    def trusting(self) -> contextlib.AbstractContextManager[None]:
        # The public switch is for good, and for the whole process.
        scope: contextlib.AbstractContextManager[None] = (
            tf_keras.src.saving.serialization_lib.SafeModeScope(safe_mode=False)
        )
        return scope

    def seed_generators(self) -> Iterator[Any]:
        yield from super().seed_generators()
        # Private: where `tf_keras.utils.set_random_seed` puts what initializers and layers ask.
        generator = getattr(tf_keras.src.backend._SEED_GENERATOR, "generator", None)
        if generator is not None:
            yield generator

    def graph_end_names(self, functional: Any) -> tuple[list[str], list[str]]:
        return list(functional.input_names), list(functional.output_names)

    @property
    def float32_policy(self) -> dict[str, Any]:
        policy = tf_keras.mixed_precision.Policy("float32")
        return {"_dtype_policy": policy, "_compute_dtype_object": tf.float32}

    def in_fit_state(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        # What was frozen when the model was compiled: its own `fit` and `evaluate` run inside this.
        scope = tf_keras.src.engine.training_utils.RespectCompiledTrainableState(model)
        return cast(contextlib.AbstractContextManager[Any], scope)

    def steps_per_execution(self, model: Any) -> int:
        # Private, and a variable, because the graph reads it; None before `compile`.
        steps = model._steps_per_execution
        return 1 if steps is None else int(steps.numpy())

    def retrace(self, model: Any, training_alone: bool = False) -> None:
        # While the last, shorter execution of an epoch runs, the variable holds its length; a train
        # function made for a length of 1 would run single steps ever after, and drop updates.
        whole = (self.compile_arguments(model) or {}).get("steps_per_execution")
        now = self.steps_per_execution(model)
        if not isinstance(whole, int) or whole == now:
            super().retrace(model, training_alone)
            return
        model._steps_per_execution.assign(whole)
        try:
            super().retrace(model, training_alone)
        finally:
            model._steps_per_execution.assign(now)

    def build_like(self, model: Any, inputs: Any) -> None:
        with tf.init_scope():
            if isinstance(model, tf_keras.Sequential) and tf.is_tensor(inputs):
                # As its first call would; `build` is told no dtype, and makes inputs of floats.
                model._build_graph_network_for_inferred_shape(
                    (None, *inputs.shape[1:]), inputs.dtype
                )
            if not model.built:
                model.build(tf.nest.map_structure(lambda x: (None, *x.shape[1:]), inputs))

    def tf_variable(self, variable: KerasVariable) -> tf.Variable:
        # Under a mixed policy the kernel is an AutoCastVariable around the stored one.
        return getattr(variable, "_variable", variable)

    def loss_lists(self, layer: Any) -> list[list[tf.Tensor]]:
        # Private: the public `losses` is a new list, which also has those of the weights. What a
        # call adds is kept per thread, as replicas have one each.
        return [layer._eager_losses] if isinstance(layer, tf_keras.layers.Layer) else []

    @contextlib.contextmanager
    def traceless(self, layers: Iterable[KerasOperation]) -> Iterator[None]:
        layers = list(layers)
        # Private: a random layer counts its seed on at every trace, so that no two draw alike.
        generators = [own for layer in layers if (own := vars(layer).get("_random_generator"))]
        seeds = [generator._seed for generator in generators]
        # Whoever is called outside of all others puts new lists in the place of the old ones.
        lists = [(layer, own) for layer in layers for own in self.loss_lists(layer)]
        try:
            with super().traceless(layers), set_aside():
                yield
        finally:
            for layer, own in lists:
                cast(Any, layer)._eager_losses = own
            for generator, seed in zip(generators, seeds, strict=True):
                generator._seed = seed

    def random_generators(self, model: Any, by_ops: Iterable[Any]) -> list[Any]:
        # Under XLA the ops draw in another way, and each replica has ops of its own.
        if model.jit_compile or model.distribute_strategy.num_replicas_in_sync > 1:
            return []
        inside = {id(own) for unit in by_ops for own in _with_all_inside(unit)}
        # Private: `RandomGenerator`, which has no state itself unless it was asked to.
        generators = [
            vars(layer)["_random_generator"]
            for layer in _with_all_inside(model)
            if isinstance(layer, tf_keras.__internal__.layers.BaseRandomLayer)
            and (id(layer) not in inside or isinstance(layer, NOTHING_IN_INFERENCE))
        ]
        return [own for own in generators if own._rng_type == own.RNG_LEGACY_STATEFUL]

    def log_value(self, value: tf.Tensor) -> tf.Tensor:
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return value if replicas == 1 else value / replicas  # tf_keras sums logs over replicas

    def writes_keras_file(self) -> bool:
        """Whether the configs that are asked for are those of a `.keras` file."""
        # Private: the scope in which `save_model` collects what layers share.
        shared = tf_keras.src.saving.serialization_lib.SHARED_OBJECTS
        return bool(getattr(shared, "enabled", False))

    def show_as_they_are(self, callback_list: Any, names: tuple[str, ...]) -> None:
        if callback_list._progbar is not None:  # private: the list keeps its bar to itself
            bar = callback_list._progbar
            bar.stateful_metrics = set(bar.stateful_metrics) | set(names)

    def append_callback(self, callback_list: Any, callback: KerasCallback) -> None:
        super().append_callback(callback_list, callback)
        # Private: the list asks its members once, when it is made, whether they have batch hooks.
        callback_list._should_call_train_batch_hooks = True

    def has_backup(self, callback: Any) -> bool:
        # Private: it restores the latest that this knows.
        return callback._training_state.read_checkpoint_manager.latest_checkpoint is not None

    def forget_restored_epoch(self, model: Any) -> None:
        # Private: the next fit asks for it, and `BackupAndRestore` has deleted it at its end.
        model._training_state = None

    def back_up_end(self, callback: Any, epochs: int, steps: int | None) -> None:
        # Private: what it reads, when it goes on, of the last epoch and of its last batch.
        state = callback._training_state
        state._ckpt_saved_epoch.assign(epochs - 1)
        state._ckpt_saved_batch.assign((steps or 1) - 1)
        state.back_up(epoch=epochs - 1)

    def changed_class(self, plain: Any, updates: Updates) -> type:
        make = legacy_class if issubclass(plain, LEGACY) else tf_keras_class
        return make(plain, updates)

    def why_not_changed(self, optimizer: Any) -> str | None:
        known = isinstance(optimizer, (tf_keras.optimizers.Optimizer, LEGACY))
        return None if known else "is no optimizer of tf_keras"

    def why_not_begun_anew(self, optimizer: Any) -> str | None:
        own = self.at_work(optimizer)
        if getattr(own, "use_ema", False) and own.ema_overwrite_frequency:
            return (
                "has an `ema_overwrite_frequency`, which goes by a count that does not begin anew"
            )
        return why_not_made_again(self, own)

    def slotted(self, optimizer: Any, model: Any) -> list[Any]:
        # Private: which weights it has slots for, by keys; a new one has to be built for the same,
        # in the same order.
        if isinstance(optimizer, LEGACY):
            keys, key_of = list(optimizer._slots), _legacy_key
        else:
            keys, key_of = list(getattr(optimizer, "_index_dict", ())), optimizer._var_key
        known = {key_of(each): each for each in model.variables}
        if strangers := [key for key in keys if key not in known]:
            raise ValueError(
                "Compress: an optimizer that begins anew must train weights of the model alone. "
                f"Received: {len(strangers)} weights of others in {type(optimizer).__name__}"
            )
        return [known[key] for key in keys]

    def build_optimizer(self, optimizer: Any, weights: list[Any]) -> None:
        if isinstance(optimizer, LEGACY):
            optimizer._create_all_weights(weights)  # private: as its first update does
        else:
            optimizer.build(weights)

    def kept_by(self, optimizer: Any) -> list[Any]:
        # Private: the count, the rate, and what else its user may have set.
        kept = [optimizer.iterations, *getattr(optimizer, "_hyper", {}).values()]
        names = ("_learning_rate", "_current_learning_rate")
        return [*kept, *(getattr(optimizer, name, None) for name in names)]

    def forget_traces(self, optimizer: Any) -> bool:
        # Private: Nadam counts the weights that it was traced for.
        if not hasattr(optimizer, "_u_product_counter"):
            return False
        optimizer._u_product_counter = 1
        return True

    def reset_best(self, callback: Any) -> bool:
        if self.isinstance(callback, "EarlyStopping"):
            callback.wait = 0
            callback.best_weights = None
        elif self.isinstance(callback, "ReduceLROnPlateau"):
            callback.wait = 0
        elif not (self.isinstance(callback, "ModelCheckpoint") and callback.save_best_only):
            return False
        callback.best = np.inf if callback.monitor_op(-np.inf, np.inf) else -np.inf
        return True


def _legacy_key(variable: Any) -> object:
    # Private: by what the older optimizers know a weight.
    return tf_keras.src.optimizers.legacy.optimizer_v2._var_key(variable)


def _with_all_inside(operation: Any) -> Iterator[Any]:
    """A layer and all that it is made of; the cells of recurrent ones too."""
    # Private: the public `submodules` fails at the cache of dropout masks in such a cell.
    if isinstance(operation, tf_keras.layers.Layer):
        yield from operation._flatten_layers()


def _filled(
    node: Any, inputs: list[KerasTensor], values: Sequence[object]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # Private: what `Functional._run_internal_graph` does for every node. It takes a value off its
    # list at each use.
    given: dict[str, list[object]] = {}
    for own, value in zip(inputs, values, strict=True):
        given.setdefault(str(id(own)), []).append(value)
    return cast(tuple[tuple[Any, ...], dict[str, Any]], node.map_arguments(given))
