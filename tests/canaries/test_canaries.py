"""What the adapters rely on and neither Keras promises, one test for each.

When one of these fails after an upgrade, the name says what moved; where it is used stands in
`frameworks/adapter.py`, `keras3.py` and `tf_keras.py`, unless the test names another module.
They touch Keras alone, never the package, so that a failure is never ours.
"""

import inspect
import json
import pathlib
import re
import sys
import types

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.python.distribute.values import PerReplicaSpec
from tensorflow.python.eager import context as tf_context
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util

X, Y = np.ones((8, 3), "float32"), np.ones((8, 2), "float32")


def net(keras, **arguments):
    layers = keras.layers
    model = keras.Sequential([layers.Input((3,), name="x"), layers.Dense(2, name="dense")])
    model.compile("sgd", loss="mse", **{"jit_compile": False, **arguments})
    return model


def fit(model, *callbacks, batch_size=2, **arguments):
    given = {"batch_size": batch_size, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(X, Y, callbacks=list(callbacks), **given)


def callback(keras, **hooks):
    return type("Given", (keras.callbacks.Callback,), hooks)()


# --- both: where things live


def test_the_modules_of_own_classes(keras):
    package = {"keras": "keras.src.", "tf_keras": "tf_keras."}[keras.__name__]
    for own in (keras.layers.Dense, keras.Model, keras.Sequential, keras.callbacks.EarlyStopping):
        assert own.__module__.startswith(package)
    assert keras.activations.relu.__module__.startswith(package)


def test_a_tensor_with_numbers_is_an_eager_tensor():
    """`graph_capture.is_eager` asks so; nothing public tells the two apart without making one."""
    assert isinstance(tf.constant(0), ops.EagerTensor)
    with tf.Graph().as_default():
        assert not isinstance(tf.constant(0), ops.EagerTensor)


def test_a_graph_that_xla_compiles_is_marked_as_such():
    """`devices.under_xla` asks so, inside of branches and of functions that are called too."""
    marked = []

    def note():
        marked.append(control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()))
        return tf.constant(0)

    def body(x):
        note()
        tf.cond(x > 0, note, tf.function(note))
        return x

    tf.function(body, jit_compile=True)(tf.constant(1))
    assert marked == [True] * 3
    marked.clear()
    tf.function(body)(tf.constant(1))
    note()
    assert marked == [False] * 4


def test_flatten_layers_gives_the_direct_layers(keras):
    layers = keras.layers
    inner = keras.Sequential([layers.Input((3,)), layers.Dense(2, name="deep")], name="inner")
    model = keras.Sequential([layers.Input((3,)), inner, layers.Dense(2, name="last")])
    direct = list(model._flatten_layers(include_self=False, recursive=False))
    assert [layer.name for layer in direct if "input" not in layer.name] == ["inner", "last"]
    deeper = list(inner._flatten_layers(include_self=False, recursive=False))
    assert "deep" in [layer.name for layer in deeper]


def test_flatten_layers_finds_a_recurrent_cell_and_the_layers_of_a_subclass(keras):
    class Holder(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.held = keras.layers.Dense(2, name="held")
            self.several = [keras.layers.Dense(2, name="listed")]

    lstm = keras.layers.LSTM(2)
    cells = list(lstm._flatten_layers(include_self=False, recursive=False))
    assert [type(cell).__name__ for cell in cells] == ["LSTMCell"]
    held = Holder()._flatten_layers(include_self=False, recursive=False)
    assert {"held", "listed"} <= {layer.name for layer in held}


def subclassed(keras):
    class Both(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.words = keras.layers.Dense(2), keras.layers.Embedding(5, 2)

        def call(self, inputs):
            return self.dense(inputs["x"]) + self.words(inputs["word"])

    return Both()


def test_a_subclassed_model_keeps_a_record_of_what_it_was_called_with():
    # `recorded_inputs`, which Keras 3's own `Model.export` goes by too; tf_keras' is public.
    given = {"x": np.zeros((4, 3), "float32"), "word": np.zeros(4, "int32")}
    model = subclassed(keras3)
    assert getattr(model, "_build_shapes_dict", None) is None
    model(given)
    assert list(model._build_shapes_dict.values()) == [{"x": (4, 3), "word": (4,)}]
    model = subclassed(tf_keras)
    assert model.save_spec() is None
    model(given)
    (specs,), kwargs = model.save_spec()
    assert specs["word"] == tf.TensorSpec((None,), tf.int32, "word")
    assert not kwargs


def test_an_embedding_of_keras_3_makes_integers_of_its_input_at_once():
    # `signature.py` tells by that what Keras 3 keeps no record of.
    embedding = keras3.layers.Embedding(5, 2)
    embedding.build()
    traced = tf.function(embedding.call).get_concrete_function(tf.TensorSpec((None,)))
    assert {op.type for op in traced.inputs[0].consumers()} == {"Cast"}


def test_the_frame_of_fit_tells_what_its_batches_are(keras):
    model = subclassed(keras)
    model.compile("sgd", "mse", jit_compile=False)
    found = []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            frame = sys._getframe(1)
            while frame.f_code.co_name != "fit":
                frame = frame.f_back
            found.append(frame.f_locals)

    data = {"x": np.zeros((8, 3), "float32"), "word": np.zeros(8, "int32")}
    model.fit(data, np.zeros((8, 2)), batch_size=4, verbose=0, callbacks=[Look()])
    (names,) = found
    if keras is keras3:
        specs = names["epoch_iterator"]._distributed_dataset.element_spec
    else:
        specs = names["data_handler"]._dataset.element_spec
    assert specs[0]["word"].dtype == tf.int32
    assert specs[0]["x"].shape.as_list()[1:] == [3]


def test_the_specs_of_a_strategy_are_one_per_replica():
    spec = tf.TensorSpec((None, 3))
    assert PerReplicaSpec(spec, spec)._value_specs == (spec, spec)


def test_tf_keras_asks_a_method_what_it_takes_by_its_signature():
    # `wrap_method`, of the `call` inside of Bidirectional and TimeDistributed.
    def method(_, *args, **kwargs):
        pass

    vars(method)["__signature__"] = inspect.signature(lambda self, x, training=None: None)
    bound = types.MethodType(method, object())
    assert tf_keras.src.utils.generic_utils.has_arg(bound, "training")
    assert not tf_keras.src.utils.generic_utils.has_arg(bound, "mask")


@pytest.mark.parametrize(
    ("module", "name"), [(keras3, "_trainable_variables"), (tf_keras, "_trainable_weights")]
)
def test_a_layer_lists_the_weights_it_made_itself(module, name):
    layer = module.layers.Dense(2)
    layer.build((None, 3))
    layer.trainable = False
    assert [tuple(weight.shape) for weight in getattr(layer, name)] == [(3, 2), (2,)]
    assert getattr(net(module), name) == []


KERNELS = {
    "Dense": (lambda layers: layers.Dense(2), (None, 3), "kernel"),
    "Conv2D": (lambda layers: layers.Conv2D(2, 1), (None, 4, 4, 3), "kernel"),
    "DepthwiseConv2D": (
        lambda layers: layers.DepthwiseConv2D(1),
        (None, 4, 4, 3),
        "depthwise_kernel",
    ),
    "SeparableConv2D-depthwise": (
        lambda layers: layers.SeparableConv2D(2, 1),
        (None, 4, 4, 3),
        "depthwise_kernel",
    ),
    "SeparableConv2D-pointwise": (
        lambda layers: layers.SeparableConv2D(2, 1),
        (None, 4, 4, 3),
        "pointwise_kernel",
    ),
}
STORAGE = {
    "kernel": ("_kernel", "kernel"),
    "depthwise_kernel": ("depthwise_kernel", "kernel"),
    "pointwise_kernel": ("pointwise_kernel",),
}


@pytest.mark.parametrize("name", KERNELS)
def test_call_reads_the_kernel_from_the_layers_dict(keras, name):
    # STORAGE_NAMES: the first of these names in `__dict__` is what `call` computes with.
    make, shape, kernel = KERNELS[name]
    layer = make(keras.layers)
    layer.build(shape)
    inputs = tf.ones((1, *shape[1:]))
    before = np.asarray(layer(inputs))
    assert np.any(before)
    key = next(key for key in STORAGE[kernel] if key in vars(layer))
    stored = vars(layer)[key]
    vars(layer)[key] = tf.zeros(stored.shape)
    assert not np.any(layer(inputs))
    vars(layer)[key] = stored
    np.testing.assert_array_equal(layer(inputs), before)


def test_call_reads_the_activation_from_the_layers_dict(keras):
    layer = keras.layers.Dense(2, activation="relu")
    layer.build((None, 3))
    assert "activation" in vars(layer)
    vars(layer)["activation"] = lambda tensor: tensor * 0.0 + 7.0
    assert np.all(np.asarray(layer(tf.ones((1, 3)))) == 7.0)


def test_an_instances_own_call_is_what_the_graph_runs(keras):
    layers = keras.layers
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2, name="dense")(inputs))
    vars(model.get_layer("dense"))["call"] = lambda tensor: tensor[:, :2] * 0.0 + 5.0
    assert np.all(np.asarray(model(X)) == 5.0)
    vars(model)["call"] = lambda tensor, training=None, mask=None: tensor * 0.0 + 6.0
    assert np.all(np.asarray(model(X)) == 6.0)


def test_the_compile_config_holds_the_objects_as_given(keras):
    def loss(y, predicted):
        return (y - predicted) ** 2

    optimizer = keras.optimizers.SGD(0.1)
    metric = keras.metrics.MeanSquaredError()
    model = net(keras)
    model.compile(optimizer, loss=loss, metrics=[metric], steps_per_execution=3)
    config = model._compile_config.config
    assert config["optimizer"] is optimizer
    assert config["loss"] is loss
    assert config["metrics"][0] is metric
    assert config["steps_per_execution"] == 3
    accepted = inspect.signature(model.compile).parameters
    assert set(config) <= set(accepted)
    assert {"weighted_metrics", "loss_weights", "run_eagerly", "jit_compile"} <= set(config)


def test_a_lambda_is_made_again_within_this_scope_only(keras):
    double = keras.layers.Lambda(lambda x: x * 2.0)
    model = keras.Sequential([keras.layers.Input((1,)), double])
    with pytest.raises(ValueError, match="safe_mode"):
        type(model).from_config(model.get_config())
    with keras.src.saving.serialization_lib.SafeModeScope(safe_mode=False):
        again = type(model).from_config(model.get_config())
    assert float(again(np.ones((1, 1), "float32"))[0, 0]) == 2.0
    with pytest.raises(ValueError, match="safe_mode"):
        type(model).from_config(model.get_config())


# --- both: how fit works


def test_the_callback_list_is_self_in_a_frame_above_its_hooks(keras):
    found = []

    def on_train_begin(self, logs=None):
        frame = sys._getframe(1)
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, keras.callbacks.CallbackList):
                found.append(owner)
                break
            frame = frame.f_back

    given = callback(keras, on_train_begin=on_train_begin)
    fit(net(keras), given)
    (callbacks,) = found
    assert any(member is given for member in callbacks.callbacks)
    assert (callbacks.params["epochs"], callbacks.params["steps"]) == (1, 4)


@pytest.mark.parametrize("split", [None, 0.25])
def test_the_frame_of_fit_holds_the_validation_data_under_these_names(keras, split):
    # `validation_data`: callbacks are told nothing of it, and `validation_split` is taken apart in
    # the frame only.
    found = []

    def on_train_end(self, logs=None):
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is self.model:
                found.append((frame.f_globals["__name__"], dict(frame.f_locals)))
            frame = frame.f_back

    model = net(keras)
    given = {"validation_split": split} if split else {"validation_data": (X[:3], Y[:3], Y[:3, 0])}
    fit(model, callback(keras, on_train_end=on_train_end), validation_steps=1, **given)
    ((module, names),) = [each for each in found if each[0] != __name__]
    assert module.startswith({"keras": "keras.src.", "tf_keras": "tf_keras."}[keras.__name__])
    assert np.shape(names["val_x"]) == ((2, 3) if split else (3, 3))
    assert len(names["val_y"]) == len(names["val_x"])
    assert (names["val_sample_weight"] is None) == bool(split)
    assert (names["validation_batch_size"], names["batch_size"]) == (None, 2)
    assert names["validation_steps"] == 1
    found.clear()
    fit(model, callback(keras, on_train_end=on_train_end))
    assert all("val_x" not in names for _, names in found)


def test_fit_calls_the_hooks_of_the_list_through_the_instance(keras):
    # Whoever replaces one of them on the list acts before and after all callbacks.
    called = []
    model = net(keras)
    callbacks = keras.callbacks.CallbackList(
        [], add_history=True, model=model, epochs=1, steps=4, verbose=0
    )

    def watch(name):
        original = getattr(callbacks, name)

        def hook(*args, **kwargs):
            called.append(name)
            return original(*args, **kwargs)

        vars(callbacks)[name] = hook

    for name in ("on_epoch_end", "on_train_end"):
        watch(name)
    model.fit(X, Y, callbacks=callbacks, verbose=0)
    assert called == ["on_epoch_end", "on_train_end"]


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_fit_looks_up_the_train_function_at_every_execution(keras, steps_per_execution):
    # A function made in `on_train_batch_begin` runs this very execution, from the new `train_step`.
    traced = []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 4:
            original = self.model.train_step

            def train_step(data):
                traced.append(batch)
                return {**original(data), "ours": tf.constant(1.0)}

            vars(self.model)["train_step"] = train_step
            self.model.make_train_function(force=True)

    logs_seen = []

    def on_train_batch_end(self, batch, logs=None):
        logs_seen.append("ours" in logs)

    hooks = {
        "on_train_batch_begin": on_train_batch_begin,
        "on_train_batch_end": on_train_batch_end,
    }
    model = net(keras, steps_per_execution=steps_per_execution)
    history = fit(model, callback(keras, **hooks), batch_size=1).history
    assert traced
    executions = 8 // steps_per_execution
    assert logs_seen == [i >= executions // 2 for i in range(executions)]
    assert "ours" in history
    assert int(np.asarray(model.optimizer.iterations)) == 8


def test_test_and_predict_functions_are_made_anew_once_they_are_none(keras):
    model = net(keras)
    before = model.evaluate(X, Y, verbose=0), model.predict(X, verbose=0)
    vars(model)["call"] = lambda tensor, training=None, mask=None: tensor[:, :2] * 0.0 + 1.0
    assert model.evaluate(X, Y, verbose=0) == before[0]  # the old graph
    model.test_function = model.predict_function = None
    assert model.evaluate(X, Y, verbose=0) == 0.0
    assert np.all(model.predict(X, verbose=0) == 1.0)


@pytest.mark.parametrize(("module", "name"), [(keras3, "_save_model"), (tf_keras, "_backup")])
def test_backup_and_restore_writes_every_backup_through_one_method(module, name, tmp_path):
    backup = module.callbacks.BackupAndRestore(str(tmp_path / "backup"), save_freq="epoch")
    written = []
    original = getattr(backup, name)

    def method(*args, **kwargs):
        written.append(int(np.asarray(model.optimizer.iterations)))
        return original(*args, **kwargs)

    vars(backup)[name] = method
    model = net(module)
    fit(model, backup, epochs=2)
    assert written == [4, 8]
    assert str(backup.backup_dir).startswith(str(tmp_path))


def test_keras3_a_backup_of_the_end_is_one_of_the_epoch_behind_the_last(tmp_path):
    backup = keras3.callbacks.BackupAndRestore(str(tmp_path / "backup"), delete_checkpoint=False)
    found = []

    def on_epoch_begin(self, epoch, logs=None):
        found.append(pathlib.Path(backup._weights_path).exists())

    def on_train_end(self, logs=None):
        backup._current_epoch, backup._last_batch_seen = 7, 0
        backup._save_model()

    asking = callback(keras3, on_epoch_begin=on_epoch_begin, on_train_end=on_train_end)
    fit(net(keras3), backup, asking, epochs=2)
    assert found == [False, True], "before its first, and after"
    model = net(keras3)
    again = keras3.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    assert fit(model, again, epochs=7).epoch == []
    assert model._initial_epoch == 7
    assert fit(model, epochs=2).epoch == [], "it stays there, unless somebody forgets it"
    model._initial_epoch = None
    assert fit(model, epochs=2).epoch == [0, 1]


@pytest.mark.parametrize("save_freq", ["epoch", 3])
def test_tf_keras_a_backup_of_the_end_is_one_of_the_last_batch(tmp_path, save_freq):
    def backup(**arguments):
        return tf_keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), save_freq, **arguments)

    first, found = backup(delete_checkpoint=False), []

    def on_epoch_begin(self, epoch, logs=None):
        found.append(first._training_state.read_checkpoint_manager.latest_checkpoint is not None)

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            state = first._training_state
            state._ckpt_saved_epoch.assign(6)
            state._ckpt_saved_batch.assign(3)
            state.back_up(epoch=6)

    asking = callback(tf_keras, on_epoch_begin=on_epoch_begin, on_epoch_end=on_epoch_end)
    fit(net(tf_keras), first, asking, epochs=2)
    assert found == [False, True], "before its first, and after"
    model = net(tf_keras)
    assert fit(model, backup(), epochs=7).epoch == []
    with pytest.raises(AttributeError, match="_training_state"):
        fit(model, epochs=2)
    model._training_state = None
    assert fit(model, epochs=2).epoch == [0, 1]


def test_keras3_an_optimizer_counts_every_step_in_its_own_variable():
    accumulating = keras3.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    scaling = keras3.optimizers.LossScaleOptimizer(keras3.optimizers.SGD(0.1))
    for optimizer, public in ((accumulating, 1), (scaling, 4)):
        model = net(keras3)
        model.compile(optimizer, "mse", jit_compile=False)
        fit(model)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        assert (int(inner._iterations.numpy()), int(optimizer.iterations)) == (4, public)


def test_reduce_lr_on_plateau_begins_anew_from_what_reset_best_writes(keras):
    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = [1.0, 5.0, 4.5][epoch]
        if epoch == 1:
            plateau.wait, plateau.best = 0, None if keras is keras3 else np.inf

    plateau = keras.callbacks.ReduceLROnPlateau(monitor="score", mode="min", patience=1)
    model = net(keras)
    before = float(np.asarray(model.optimizer.learning_rate))
    if keras is tf_keras:
        assert plateau.monitor_op(-np.inf, np.inf)
        assert not plateau.monitor_op(np.inf, -np.inf)
    fit(model, callback(keras, on_epoch_end=on_epoch_end), plateau, epochs=3)
    assert (plateau.best, plateau.wait) == (4.5, 0)
    assert float(np.asarray(model.optimizer.learning_rate)) == pytest.approx(before)


def test_a_strategy_says_which_process_writes(keras):
    strategy = net(keras).distribute_strategy
    assert (strategy.extended.should_checkpoint, strategy.num_replicas_in_sync) == (True, 1)


def test_what_early_stopping_and_model_checkpoint_call_their_best(keras, tmp_path):
    stopping = keras.callbacks.EarlyStopping(monitor="loss", patience=3, restore_best_weights=True)
    # Keras 3 wants to know the ending.
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "best.weights.h5"),
        monitor="loss",
        save_best_only=True,
        save_weights_only=True,
    )
    fit(net(keras), stopping, checkpoint, epochs=2)
    assert stopping.restore_best_weights
    assert stopping.best_epoch == 1
    assert stopping.wait == 0
    assert [w.shape for w in stopping.best_weights] == [(3, 2), (2,)]
    assert float(stopping.best) == pytest.approx(float(checkpoint.best))


def test_early_stopping_begins_anew_from_what_reset_best_writes(keras):
    # Keras 3 begins with None, tf_keras with the worst number there is.
    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = [1.0, 5.0, 4.0, 4.5][epoch]
        if epoch == 1:
            stopping.wait, stopping.best_weights = 0, None
            stopping.best = None if keras is keras3 else np.inf

    stopping = keras.callbacks.EarlyStopping(
        monitor="score", mode="min", patience=10, restore_best_weights=True
    )
    if keras is tf_keras:
        assert stopping.monitor_op == np.less
    fit(net(keras), callback(keras, on_epoch_end=on_epoch_end), stopping, epochs=4)
    assert (stopping.best, stopping.best_epoch) == (4.0, 2)


DTYPE_POLICIES = [
    (keras3, lambda: {"_dtype_policy": keras3.DTypePolicy("float32")}),
    (
        tf_keras,
        lambda: {
            "_dtype_policy": tf_keras.mixed_precision.Policy("float32"),
            "_compute_dtype_object": tf.float32,
        },
    ),
]


@pytest.mark.parametrize(("module", "float32"), DTYPE_POLICIES, ids=["keras3", "tf_keras"])
def test_a_layer_of_a_mixed_policy_computes_in_what_these_attributes_say(module, float32):
    layer = module.layers.Dense(2, dtype="mixed_bfloat16")
    assert layer(tf.ones((1, 3))).dtype == tf.bfloat16
    assert set(float32()) <= set(vars(layer))
    before = {name: vars(layer)[name] for name in float32()}
    vars(layer).update(float32())
    assert layer(tf.ones((1, 3))).dtype == tf.float32
    vars(layer).update(before)
    assert layer(tf.ones((1, 3))).dtype == tf.bfloat16


# --- Keras 3


def test_keras3_a_functional_model_has_nodes_by_depth():
    inputs = keras3.Input((3,))
    hidden = keras3.layers.Dense(2, name="dense")(inputs)
    model = keras3.Model(inputs, hidden + keras3.ops.relu(hidden))
    nodes = [
        node
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in model._nodes_by_depth[depth]
    ]
    names = [type(node.operation).__name__ for node in nodes if not node.is_input]
    assert names == ["Dense", "Relu", "Add"]
    add = nodes[-1]
    assert [len(tensors) for tensors in (add.input_tensors, add.outputs)] == [2, 1]
    assert add.outputs[0] is model.outputs[0]
    assert not hasattr(keras3.Model(), "_nodes_by_depth")  # how a subclassed model is told


def test_keras3_a_sequential_keeps_a_functional():
    model = keras3.Sequential([keras3.layers.Dense(2)])
    assert getattr(model, "_functional", None) is None
    model.build((None, 3))
    assert type(model._functional).__name__ == "Functional"
    assert hasattr(model._functional, "_nodes_by_depth")


def test_keras3_a_functional_keeps_its_structures_and_names():
    inputs = {"b": keras3.Input((3,), name="b"), "a": keras3.Input((3,), name="a")}
    model = keras3.Model(inputs, [keras3.layers.Dense(2, name="dense")(inputs["a"] + inputs["b"])])
    assert model._inputs_struct == inputs
    assert isinstance(model._outputs_struct, list)
    assert [tensor.name for tensor in model.inputs] == ["a", "b"]
    assert model.output_names == ["dense"]


def test_keras3_value_of_a_variable_casts_and_the_stored_one_does_not():
    layer = keras3.layers.Dense(2, dtype="mixed_bfloat16")
    layer.build((None, 3))
    assert isinstance(layer.kernel._value, tf.Variable)
    with keras3.src.backend.AutocastScope("bfloat16"):
        assert layer.kernel.value.dtype == tf.bfloat16
        assert layer.kernel._value.dtype == tf.float32


def test_keras3_the_progress_bar_averages_nothing():
    logger = keras3.callbacks.ProgbarLogger()
    logger.set_params({"verbose": 1, "epochs": 1, "steps": 4})
    logger._maybe_init_progbar()
    assert logger.progbar.stateless_metrics == set()


def test_keras3_is_compiled_and_steps_per_execution():
    assert keras3.Sequential().compiled is False
    model = net(keras3, steps_per_execution=3)
    assert (model.compiled, model.steps_per_execution) == (True, 3)


# --- tf_keras


def test_tf_keras_a_fit_goes_by_what_was_frozen_at_compile():
    model = net(tf_keras)
    model.layers[0].trainable = False
    seen = []

    def trainable():
        return model.layers[0].trainable

    fit(model, callback(tf_keras, on_train_begin=lambda self, logs=None: seen.append(trainable())))
    with tf_keras.src.engine.training_utils.RespectCompiledTrainableState(model):
        seen.append(trainable())
    assert seen == [True, True]
    assert trainable() is False


def test_tf_keras_a_functional_model_has_nodes_by_depth():
    inputs = tf_keras.Input((3,))
    hidden = tf_keras.layers.Dense(2, name="dense")(inputs)
    model = tf_keras.Model(inputs, hidden + tf.nn.relu(hidden))
    nodes = [
        node
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in model._nodes_by_depth[depth]
    ]
    names = [type(node.layer).__name__ for node in nodes if not node.is_input]
    assert names == ["Dense", "TFOpLambda", "TFOpLambda"]
    assert [node.layer.symbol for node in nodes[-2:]] == ["nn.relu", "__operators__.add"]
    add = nodes[-1]
    assert len(list(add.keras_inputs)) == 2
    assert tf.nest.flatten(add.outputs)[0] is model.outputs[0]


@pytest.mark.parametrize(
    ("symbol", "function"),
    [
        ("__operators__.add", lambda x: x + x),
        ("math.add", tf.add),
        ("concat", lambda x: tf.concat([x, x], -1)),
        ("reshape", lambda x: tf.reshape(x, (-1, 3, 1))),
        ("nn.relu", tf.nn.relu),
        ("nn.relu6", tf.nn.relu6),
        ("nn.leaky_relu", tf.nn.leaky_relu),
        ("nn.softmax", tf.nn.softmax),
        ("nn.silu", tf.nn.silu),
        ("math.sigmoid", tf.sigmoid),
        ("math.tanh", tf.tanh),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tf_keras_the_symbol_of_an_operator(symbol, function):
    inputs = tf_keras.Input((3,))
    outputs = function(inputs, inputs) if function is tf.add else function(inputs)
    model = tf_keras.Model(inputs, outputs)
    assert [getattr(layer, "symbol", None) for layer in model.layers] == [None, symbol]


def test_tf_keras_is_graph_network_tells_functional_models():
    class Subclassed(tf_keras.Model):
        pass

    inputs = tf_keras.Input((3,))
    assert tf_keras.Model(inputs, inputs)._is_graph_network is True
    assert net(tf_keras)._is_graph_network is True
    assert not Subclassed()._is_graph_network
    assert not tf_keras.Sequential([tf_keras.layers.Dense(2)])._is_graph_network


def test_tf_keras_a_sequential_gets_its_graph_from_an_inferred_shape():
    model = tf_keras.Sequential([tf_keras.layers.Rescaling(2.0), tf_keras.layers.Dense(2)])
    model._build_graph_network_for_inferred_shape((None, 3), tf.uint8)
    assert model._is_graph_network
    assert model.built
    assert [(i.dtype, tuple(i.shape)) for i in model.inputs] == [(tf.uint8, (None, 3))]
    model(tf.ones((4, 3), tf.uint8))
    assert len(model.inputs) == 1
    by_build = tf_keras.Sequential([tf_keras.layers.Rescaling(2.0), tf_keras.layers.Dense(2)])
    by_build.build((None, 3))
    assert by_build.inputs[0].dtype == tf.float32  # why `build` alone will not do


def test_tf_keras_a_functional_keeps_its_structures_and_names():
    inputs = {"b": tf_keras.Input((3,), name="b"), "a": tf_keras.Input((3,), name="a")}
    outputs = {"only": tf_keras.layers.Dense(2, name="dense")(inputs["a"] + inputs["b"])}
    model = tf_keras.Model(inputs, outputs)
    assert set(model._nested_inputs) == {"a", "b"}
    assert set(model._nested_outputs) == {"only"}
    assert (model.input_names, model.output_names) == (["a", "b"], ["dense"])


def test_tf_keras_is_compiled():
    assert tf_keras.Sequential()._is_compiled is False
    assert net(tf_keras)._is_compiled is True


def test_tf_keras_compiled_metrics_are_kept_and_renamed_per_output():
    inputs = tf_keras.Input((3,))
    outputs = [tf_keras.layers.Dense(2, name=name)(inputs) for name in ("left", "right")]
    model = tf_keras.Model(inputs, outputs)
    metric, weighted = (tf_keras.metrics.MeanSquaredError(name=n) for n in ("mine", "weighted"))
    model.compile("sgd", "mse", metrics=[[metric], []], weighted_metrics=[[], [weighted]])
    assert not model.compiled_metrics.built
    model.fit(X, [Y, Y], verbose=0)
    container = model.compiled_metrics
    assert container.built
    assert list(container._output_names) == ["left", "right"]
    assert any(each is metric for each in tf.nest.flatten(container._metrics[0]))
    assert any(each is weighted for each in tf.nest.flatten(container._weighted_metrics[1]))
    assert (metric.name, weighted.name) == ("left_mine", "right_weighted")


def test_tf_keras_steps_per_execution_is_a_variable_that_the_last_execution_shortens():
    assert tf_keras.Sequential()._steps_per_execution is None
    lengths = []

    def on_train_batch_begin(self, batch, logs=None):
        lengths.append(int(self.model._steps_per_execution.numpy()))

    model = net(tf_keras, steps_per_execution=3)
    fit(model, callback(tf_keras, on_train_batch_begin=on_train_batch_begin))
    assert lengths == [3, 1]
    assert int(model._steps_per_execution.numpy()) == 3


def test_tf_keras_an_autocast_variable_wraps_the_stored_one():
    layer = tf_keras.layers.Dense(2, dtype="mixed_bfloat16")
    layer.build((None, 3))
    assert isinstance(layer.kernel._variable, tf.Variable)
    assert layer.kernel._variable.dtype == tf.float32
    assert not hasattr(net(tf_keras).get_layer("dense").kernel, "_variable")


def test_tf_keras_the_callback_list_keeps_its_progress_bar():
    callbacks = tf_keras.callbacks.CallbackList(
        [], add_progbar=True, model=net(tf_keras), verbose=1, epochs=1, steps=4
    )
    assert isinstance(callbacks._progbar, tf_keras.callbacks.ProgbarLogger)
    assert callbacks._progbar.stateful_metrics is not None
    without = tf_keras.callbacks.CallbackList([], model=net(tf_keras), epochs=1, steps=4)
    assert without._progbar is None


def test_tf_keras_takes_a_callback_of_keras_3_that_answers_these_questions():
    # fit/callback.py, frameworks/both.py: tf_keras asks each of them before it calls a batch hook.
    called = []

    class Both(keras3.callbacks.Callback):
        _supports_tf_logs = True
        _chief_worker_only = None

        def _implements_train_batch_hooks(self):
            return True

        def _implements_test_batch_hooks(self):
            return False

        def _implements_predict_batch_hooks(self):
            return False

        def on_train_batch_begin(self, batch, logs=None):
            called.append(batch)

        def on_epoch_begin(self, epoch, logs=None):
            called.append("epoch")

    for keras in (keras3, tf_keras):
        called.clear()
        fit(net(keras), Both())
        assert called == ["epoch", 0, 1, 2, 3]


# --- TensorFlow


def test_the_save_context_tells_when_tf_keras_writes_a_saved_model(tmp_path):
    # engines/quantizers.py: patches stay out of a SavedModel.
    from tensorflow.python.saved_model import save_context

    seen = []
    model = net(tf_keras)
    original = model.get_layer("dense").call

    def call(*args, **kwargs):
        seen.append(save_context.in_save_context())
        return original(*args, **kwargs)

    vars(model.get_layer("dense"))["call"] = call
    model(X)
    assert seen == [False]
    model.save(tmp_path / "saved", save_format="tf")
    assert seen[-1] is True


# --- tfmot, all of it used in `engines/tfmot/`


def uncompiled():
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            layers.Input((4, 4, 1)),
            layers.Conv2D(2, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flatten"),
            layers.Dense(3, activation="softmax", name="dense"),
        ]
    )


@pytest.fixture
def quantized(tfmot):
    """Original name -> wrapper, and "input"."""
    model = tfmot.quantization.keras.quantize_model(uncompiled())
    return {layer.name.removeprefix("quant_"): layer for layer in model.layers[1:]} | {
        "input": model.layers[0],
        "model": model,
    }


def test_tfmot_the_classes_and_modules_of_its_wrappers(tfmot, quantized):
    # tfmot/library.py tells them by name, so that tfmot need not be imported.
    pruned = tfmot.sparsity.keras.prune_low_magnitude(tf_keras.layers.Dense(2))
    annotated = tfmot.quantization.keras.quantize_annotate_layer(tf_keras.layers.Dense(2))
    expected = {
        "PruneLowMagnitude": pruned,
        "QuantizeWrapperV2": quantized["dense"],
        "QuantizeLayer": quantized["input"],
        "QuantizeAnnotate": annotated,
    }
    for name, layer in expected.items():
        assert type(layer).__name__ == name
        assert type(layer).__module__.partition(".")[0] == "tensorflow_model_optimization"
    bases = [base.__name__ for base in type(quantized["dense"]).__mro__]
    assert bases.index("QuantizeWrapper") == 1
    assert quantized["dense"].name == "quant_dense"
    assert pruned.name.startswith("prune_low_magnitude_")
    assert type(quantized["dense"].layer) is type(pruned.layer) is tf_keras.layers.Dense


def test_tfmot_the_registries_tell_what_is_supported():
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry,
    )
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    layers = tf_keras.layers
    quantize = default_8bit_quantize_registry.Default8BitQuantizeRegistry()
    made = (layers.Dense(2), layers.Conv1D(2, 1), layers.BatchNormalization())
    assert [quantize.supports(layer) for layer in made] == [True, False, False]
    prune = prune_registry.PruneRegistry
    made = (layers.Dense(2), layers.LSTM(2), layers.Bidirectional(layers.LSTM(2)))
    assert [prune.supports(layer) for layer in made] == [True, True, False]
    assert prune.supports(layers.DepthwiseConv2D(1))  # without pruning anything
    assert prune._weight_names(layers.DepthwiseConv2D(1)) == []


def test_tfmot_a_prune_wrapper_holds_its_variables_and_the_object_that_prunes(tfmot):
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, 0, -1, 1)
    model = tf_keras.Sequential([tf_keras.layers.Input((3,)), tf_keras.layers.Dense(4)])
    wrapper = tfmot.sparsity.keras.prune_low_magnitude(model, schedule).layers[0]
    ((kernel, mask, threshold),) = wrapper.pruning_vars
    assert kernel is wrapper.layer.kernel
    assert (mask.shape, mask.dtype, threshold.shape) == (kernel.shape, kernel.dtype, ())
    assert int(wrapper.pruning_step) == -1
    assert wrapper.pruning_schedule is schedule
    assert (tuple(wrapper.block_size), wrapper.block_pooling_type) == ((1, 1), "AVG")
    assert wrapper.sparsity_m_by_n is None

    called = []

    class Instead:
        def conditional_mask_update(self):
            called.append(("update", int(wrapper.pruning_step)))
            return tf.no_op()

        def weight_mask_op(self):
            called.append("mask")
            return tf.no_op()

    # Whoever replaces the object is called, after the wrapper has counted; then the masks hold.
    wrapper.pruning_obj = Instead()
    wrapper.pruning_step.assign(4)
    wrapper(tf.ones((1, 3)), training=True)
    assert called == [("update", 5), "mask"]
    wrapper(tf.ones((1, 3)), training=False)
    assert called[2:] == ["mask"]


@pytest.mark.parametrize("m_by_n", [None, (2, 4)])
def test_tfmot_pruning_asks_the_schedule_and_writes_mask_and_kernel(m_by_n):
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    kernel = tf.Variable(np.arange(1.0, 9.0, dtype="float32").reshape(8, 1))
    mask, threshold = tf.Variable(tf.ones((8, 1))), tf.Variable(0.0)
    step = tf.Variable(0, dtype=tf.int64)
    asked = []

    def schedule(given):
        asked.append(int(given))
        return tf.equal(given, 3), tf.constant(0.5)

    pruning = pruning_impl.Pruning(
        training_step_fn=lambda: step,
        pruning_vars=[(kernel, mask, threshold)],
        pruning_schedule=schedule,
        block_size=(1, 1),
        block_pooling_type="AVG",
        sparsity_m_by_n=m_by_n,
    )
    changed = []
    for number in (1, 2, 3):
        mask.assign(tf.ones((8, 1)))
        step.assign(number)
        pruning.conditional_mask_update()
        changed.append(float(tf.reduce_mean(mask)))
    # m by n asks nobody: it is done when the step is 1.
    assert changed == ([1.0, 1.0, 0.5] if m_by_n is None else [0.5, 1.0, 1.0])
    assert asked == ([] if m_by_n else [1, 2, 3, 3])
    mask.assign([[0.0], [1.0]] * 4)
    pruning.weight_mask_op()
    np.testing.assert_array_equal(kernel[:, 0], [0, 2, 0, 4, 0, 6, 0, 8])


def test_tfmot_blocks_that_span_a_dimension_fail(tfmot):
    # tfmot/kernels.py leaves such kernels alone.
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    for shape, fails in (((4, 4), True), ((4, 5), False), ((4, 1), True)):
        kernel = tf.Variable(tf.random.stateless_normal(shape, (1, 2)))
        pruning = pruning_impl.Pruning(
            lambda: tf.constant(1), [(kernel, None, None)], lambda step: (True, 0.5), (1, 4), "AVG"
        )
        if fails:
            with pytest.raises(ValueError, match=r"must be rank 2|window_shape|rank"):
                pruning._maybe_update_block_mask(kernel)
        else:
            pruning._maybe_update_block_mask(kernel)


def test_tfmot_schedules_take_their_fields_in_this_order(tfmot):
    sparsity = tfmot.sparsity.keras
    polynomial = sparsity.PolynomialDecay(0.1, 0.5, 2, 10, 4, 3)
    assert polynomial.get_config()["config"] == {
        "initial_sparsity": 0.1,
        "final_sparsity": 0.5,
        "begin_step": 2,
        "end_step": 10,
        "power": 4,
        "frequency": 3,
    }
    constant = sparsity.ConstantSparsity(0.5, 2, 10, 3)
    assert constant.get_config()["config"] == {
        "target_sparsity": 0.5,
        "begin_step": 2,
        "end_step": 10,
        "frequency": 3,
    }


def test_tfmot_where_the_quantizers_and_their_ranges_are(quantized):
    # tfmot/quantizers.py puts others in their places.
    ranges = {"min_var", "max_var"}
    ((kernel, quantizer, own),) = quantized["dense"]._weight_vars
    assert kernel.name == "dense/kernel:0"
    assert set(own) == ranges
    assert (quantizer.num_bits, quantizer.per_axis) == (8, False)
    assert (quantizer.symmetric, quantizer.narrow_range) == (True, True)
    (activation,) = quantized["dense"]._quantize_activations
    assert set(activation._pre_activation_vars) == ranges  # a softmax
    assert not hasattr(activation, "_post_activation_vars")
    assert type(activation.quantizer).__name__ == "MovingAverageQuantizer"
    assert not quantized["dense"]._output_quantizers
    (output,) = quantized["relu"]._output_quantizers
    assert type(output).__name__ == "MovingAverageQuantizer"
    assert set(quantized["relu"]._output_quantizer_vars) == ranges
    assert quantized["relu"]._weight_vars == []
    assert type(quantized["input"].quantizer).__name__ == "AllValuesQuantizer"
    assert set(quantized["input"].quantizer_vars) == ranges
    holders = (quantized["dense"], quantized["relu"], quantized["input"], activation)
    names = ("_weight_vars", "_output_quantizers", "quantizer", "quantizer")
    for holder, name in zip(holders, names, strict=True):
        assert name in vars(holder)


def test_tfmot_quantizers_are_called_where_they_are_kept(quantized):
    seen = []

    class Watch:
        def __init__(self, name):
            self.name = name

        def __call__(self, inputs, training, weights, **kwargs):
            seen.append((self.name, training, set(weights) >= {"min_var", "max_var"}))
            return tf.convert_to_tensor(inputs)

    dense, relu, model = quantized["dense"], quantized["relu"], quantized["model"]
    vars(dense)["_weight_vars"] = [(v, Watch("kernel"), r) for v, _, r in dense._weight_vars]
    vars(dense._quantize_activations[0])["quantizer"] = Watch("activation")
    vars(relu)["_output_quantizers"] = [Watch("output")]
    vars(quantized["input"])["quantizer"] = Watch("input")
    for training in (True, False):
        seen.clear()
        model(np.ones((1, 4, 4, 1), "float32"), training=training)
        names = ("input", "output", "kernel", "activation")
        assert seen == [(name, training, True) for name in names]


def test_tfmot_the_kernel_of_a_quantized_layer_is_in_the_wrappers_list_only(quantized):
    # tfmot/quantizers.py gives it back to its layer: a wrapper's own list heeds no `trainable`.
    wrapper = quantized["dense"]
    ((kernel, _, _),) = wrapper._weight_vars
    own, inner = vars(wrapper)["_trainable_weights"], vars(wrapper.layer)["_trainable_weights"]
    assert any(variable is kernel for variable in own)
    assert [variable.name for variable in inner] == ["dense/bias:0"]
    wrapper.trainable = False
    assert any(variable is kernel for variable in wrapper.trainable_weights)
    vars(wrapper)["_trainable_weights"] = []
    vars(wrapper.layer)["_trainable_weights"] = [kernel, *inner]
    assert wrapper.trainable_weights == []
    assert [v.name for v in wrapper.non_trainable_weights[:2]] == ["dense/kernel:0", "dense/bias:0"]
    wrapper.trainable = True
    names = ["dense/kernel:0", "dense/bias:0"]
    assert [variable.name for variable in wrapper.trainable_weights] == names
    # And it stays there, because what a call sets in its place is a tensor.
    quantized["model"](np.ones((1, 4, 4, 1), "float32"))
    assert [variable.name for variable in wrapper.trainable_weights] == names


def test_tfmot_a_moving_average_takes_its_decay(tfmot):
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops

    low, high = tf.Variable(-6.0), tf.Variable(6.0)
    quant_ops.MovingAvgQuantize(
        tf.constant([-1.0, 3.0]),
        low,
        high,
        ema_decay=tf.constant(0.25),
        is_training=True,
        num_bits=8,
        per_channel=False,
        symmetric=False,
        narrow_range=False,
    )
    assert (float(low), float(high)) == (-6 * 0.25 - 0.75, 6 * 0.25 + 3 * 0.75)


def test_tfmot_a_batch_norm_in_a_wrapper_is_called_through_the_instance(quantized):
    seen = []
    norm = quantized["norm"].layer

    def call(self, inputs, training=None):
        seen.append((self is norm, training))
        return inputs

    vars(norm)["call"] = call.__get__(norm)
    quantized["model"](np.ones((1, 4, 4, 1), "float32"), training=True)
    assert seen == [(True, True)]


def test_tfmot_what_it_cannot_quantize_is_named_so(tfmot):
    # tfmot/wrap.py reads the culprit's name.
    layers = tf_keras.layers
    norm = layers.BatchNormalization(name="late")
    model = tf_keras.Sequential([layers.Input((4,)), layers.ReLU(), norm])
    with pytest.raises(RuntimeError, match=r"^Layer late:<class .*> is not supported. "):
        tfmot.quantization.keras.quantize_model(model)


def test_tfmot_an_output_config_quantizes_the_output_alone(tfmot):
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs,
    )

    config = default_8bit_quantize_configs.Default8BitOutputQuantizeConfig()
    layer = tf_keras.layers.Dense(2, activation="elu")
    assert config.get_weights_and_quantizers(layer) == []
    assert config.get_activations_and_quantizers(layer) == []
    assert len(config.get_output_quantizers(layer)) == 1


def test_tfmot_a_separable_convolution_becomes_two_layers_of_automatic_names(tfmot):
    layers = tf_keras.layers
    separable = layers.SeparableConv2D(3, 3, name="separable")
    model = tf_keras.Sequential([layers.Input((4, 4, 1)), separable])
    model = tfmot.quantization.keras.quantize_model(model)
    _, depthwise, pointwise = (getattr(layer, "layer", layer) for layer in model.layers)
    assert (type(depthwise), type(pointwise)) == (layers.DepthwiseConv2D, layers.Conv2D)
    assert re.fullmatch(r"depthwise_conv2d(_\d+)?", depthwise.name)
    assert re.fullmatch(r"conv2d(_\d+)?", pointwise.name)
    assert (depthwise.use_bias, pointwise.kernel_size) == (False, (1, 1))


def test_tfmot_the_activation_in_a_config_is_its_own(quantized):
    # tfmot/unwrap.py reads the one that it stands for.
    config = tf_keras.utils.serialize_keras_object(quantized["dense"].layer)["config"]
    assert config["activation"]["class_name"] == "QuantizeAwareActivation"
    assert config["activation"]["config"]["activation"] == "softmax"
    config = tf_keras.utils.serialize_keras_object(quantized["conv"].layer)["config"]
    assert config["activation"]["config"]["activation"]["class_name"] == "NoOpActivation"


def test_tfmot_the_prune_preserving_scheme_keeps_a_mask_beside_the_range(tfmot):
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    quantization = tfmot.quantization.keras
    model = quantization.quantize_apply(quantization.quantize_annotate_model(uncompiled()), scheme)
    ((kernel, _, variables),) = model.get_layer("quant_dense")._weight_vars
    assert set(variables) == {"min_var", "max_var", "sparsity_mask"}
    np.testing.assert_array_equal(variables["sparsity_mask"], np.ones(kernel.shape))


# --- KerasTuner: tuner/bridge.py and tuner/trials.py


@pytest.fixture(scope="module")
def one_trial(tmp_path_factory):
    """(tuner after a search of one trial, callbacks that its `HyperModel.fit` was given)."""
    import keras_tuner

    given = []

    class Given(keras_tuner.HyperModel):
        def build(self, hp):
            hp.Boolean("free")
            return net(keras3)

        def fit(self, hp, model, *args, callbacks, **kwargs):
            given.extend(callbacks)
            return {"score": 0.5, "other": 2.0}

    objective = keras_tuner.Objective("score", "max")
    folder = str(tmp_path_factory.mktemp("tuner"))
    tuner = keras_tuner.RandomSearch(Given(), objective, 1, directory=folder)
    tuner.search(verbose=0)
    return tuner, given


def test_keras_tuner_the_callbacks_of_a_fit_know_the_trial(one_trial):
    tuner, given = one_trial
    known = {type(each).__name__: each for each in given}
    assert set(known) == {"TunerCallback", "SaveBestEpoch"}
    assert {type(each).__module__.partition(".")[0] for each in given} == {"keras_tuner"}
    assert known["TunerCallback"].tuner is tuner
    assert known["TunerCallback"].trial.trial_id == "0"
    assert known["SaveBestEpoch"].filepath == tuner._get_checkpoint_fname("0")


def test_keras_tuner_what_it_writes_of_a_trial(one_trial):
    tuner, _ = one_trial
    state = json.loads((pathlib.Path(tuner.get_trial_dir("0")) / "trial.json").read_text())
    assert (state["trial_id"], state["status"], state["message"]) == ("0", "COMPLETED", None)
    assert set(state["hyperparameters"]["values"]) == {"free"}
    metrics = state["metrics"]["metrics"]
    assert {name: m["observations"][-1]["value"] for name, m in metrics.items()} == {
        "score": [0.5],
        "other": [2.0],
    }


def test_tensorflow_the_registry_of_gradients_keeps_a_graph():
    """Of frameworks/graph_memory.py: where, and by which names, so that it can be let go."""
    registry = ops.gradient_registry._registry
    before = set(registry)

    @tf.function
    def traced(x):
        return tf.custom_gradient(lambda x: (1 * x, lambda upstream: upstream))(x)

    graph = traced.get_concrete_function(tf.TensorSpec((), tf.float32)).graph
    (name,) = set(registry) - before
    assert name.startswith("CustomGradient-")
    inner = inspect.getclosurevars(registry[name]["type"]).nonlocals["tape_grad_fn"]
    (result,) = tf.nest.flatten(inspect.getclosurevars(inner).nonlocals["result"])
    assert result.graph is graph


def test_keras3_a_layer_knows_that_it_is_computed_again():
    """Of Keras3.computes_again."""
    with keras3.RematScope(mode="full"):
        layer = keras3.layers.Dense(2)
    assert layer._remat_mode is not None
    assert keras3.layers.Dense(2)._remat_mode is None


# --- the TFLite converter (`tflite/conversion/job.py`)


@pytest.fixture
def product():
    """A function of one matrix product with ReLU, and its variable."""
    kernel = tf.Variable(np.eye(4, dtype="float32"), name="kernel")
    spec = tf.TensorSpec((1, 4), name="x")
    function = tf.function(lambda x: {"y": tf.nn.relu(tf.matmul(x, kernel))})
    return function.get_concrete_function(spec), kernel


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected:UserWarning")
def test_tflite_a_calibrated_file_goes_through_one_function_as_its_first_argument(
    product, monkeypatch
):
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.python import lite

    given, quantize = [], lite._mlir_quantize

    def noting(calibrated, *args, **kwargs):
        given.append(calibrated)
        return quantize(calibrated, *args, **kwargs)

    monkeypatch.setattr(lite, "_mlir_quantize", noting)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([product[0]])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: [[np.full((1, 4), 3.0, "float32")]]
    converter.convert()
    (calibrated,) = given
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(calibrated, 0))
    (graph,) = model.subgraphs
    image = graph.tensors[graph.inputs[0]]
    assert image.type == schema.TensorType.FLOAT32 == 0
    assert (list(image.quantization.min), list(image.quantization.max)) == ([3.0], [3.0])


def test_tflite_the_new_converter_takes_default_ranges_among_its_arguments(product):
    from tensorflow.lite.python import convert

    converter = tf.lite.TFLiteConverter.from_concrete_functions([product[0]])
    converter._debug_info = None
    arguments = converter._get_base_converter_args()
    assert isinstance(arguments, dict)
    assert "default_ranges_stats" not in arguments
    flags = convert.build_conversion_flags(**arguments, default_ranges_stats=(-2.0, 3.0))
    assert (flags.default_ranges_min, flags.default_ranges_max) == (-2.0, 3.0)


def test_tensorflow_draws_the_seeds_of_eager_ops_from_one_generator():
    context = tf_context.context()
    tf.random.set_seed(3)
    first = float(tf.random.uniform(()))
    state = context._rng.getstate()
    tf.random.uniform(())
    assert context._rng.getstate() != state
    tf.random.set_seed(3)
    assert float(tf.random.uniform(())) == first


def test_tf_keras_draws_seeds_from_a_generator_of_its_own():
    tf_keras.utils.set_random_seed(0)
    generator = tf_keras.src.backend._SEED_GENERATOR.generator
    state = generator.getstate()
    tf_keras.initializers.GlorotUniform()((2, 2))
    assert generator.getstate() != state


def test_autograph_lets_an_error_pass_that_asks_for_it():
    class AsItIsError(RuntimeError):
        ag_pass_through = True

        def __init__(self, one, other):
            super().__init__(one + other)

    def failing():
        raise AsItIsError("one", "other")

    with pytest.raises(AsItIsError, match=r"^oneother$"):
        tf.function(failing)()


def test_tflite_the_names_of_places_come_from_one_function():
    from tensorflow.lite.python import lite

    assert callable(lite._get_debug_info)


def test_tensorflow_two_halves_of_freezing_give_a_graph_of_constants(product):
    from tensorflow.python.framework import convert_to_constants

    variables = convert_to_constants._FunctionConverterDataInEager(
        func=product[0], lower_control_flow=False, aggressive_inlining=False
    )
    graph, _converted = convert_to_constants._replace_variables_by_constants(variables)
    kinds = [node.op for node in graph.node]
    assert "Const" in kinds
    assert not {"VarHandleOp", "ReadVariableOp"} & set(kinds)
    assert [node.name for node in graph.node if node.op == "Placeholder"] == ["x"]


def test_tflite_the_converter_asks_one_method_for_the_frozen_graph(product):
    from tensorflow.python.framework import convert_to_constants

    function, kernel = product
    frozen, graph = convert_to_constants.convert_variables_to_constants_v2_as_graph(
        function, lower_control_flow=False
    )
    plain = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    kernel.assign(2.0 * kernel)  # another network, of which the given graph knows nothing
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    ends = (frozen.inputs, frozen.outputs)
    converter._freeze_concrete_function = lambda: (graph, *ends, None)
    assert converter.convert() == plain


def test_tensorflow_a_function_knows_its_variables_by_their_handles(product):
    function, kernel = product
    assert [variable.handle is kernel.handle for variable in function.graph.variables] == [True]
    assert [outer is kernel.handle for outer, _ in function.graph.captures] == [True]


# --- TensorFlow: graphs under trace (frameworks/graph_capture.py)


def test_tensorflow_a_func_graph_makes_its_ops_by_one_method_that_an_instance_may_replace():
    from tensorflow.python.framework.func_graph import FuncGraph

    made = []
    graph = FuncGraph("dry")
    original = graph._create_op_internal

    def create(op_type, inputs, *args, **kwargs):
        made.append(op_type)
        return original(op_type, inputs, *args, **kwargs)

    with graph.as_default():
        x = tf.constant([1.0])
        graph._create_op_internal = create
        y = tf.nn.relu(x + x)
        del graph._create_op_internal
        tf.tanh(y)
    assert [name for name in made if name != "Const"] == ["AddV2", "Relu"]


def test_tensorflow_the_tape_records_an_op_with_the_inputs_that_it_was_made_with():
    @tf.function(autograph=False)
    def gradient(x):
        graph = tf.compat.v1.get_default_graph()
        original = graph._create_op_internal

        def create(op_type, inputs, *args, **kwargs):
            if op_type == "Square":
                inputs = [five]
            return original(op_type, inputs, *args, **kwargs)

        with tf.GradientTape() as tape:
            tape.watch(x)
            five = x + 5.0
            graph._create_op_internal = create
            y = tf.square(x)
            del graph._create_op_internal
        return tape.gradient(y, x)

    assert float(gradient(tf.constant(1.0))) == 12.0  # 2 (x + 5), not 2 x


def test_tensorflow_a_func_graph_knows_what_it_captured():
    from tensorflow.python.framework.func_graph import FuncGraph

    variable = tf.Variable(tf.ones((20, 20)))

    @tf.function(autograph=False)
    def outer(x):
        graph = FuncGraph("dry")
        with graph.as_default():
            y = tf.matmul(x, variable)
        captured = {id(outer) for outer, _ in graph.captures}
        assert captured == {id(x), id(variable.handle)}
        inner = {id(own) for _, own in graph.captures}
        assert id(y.op.inputs[0]) in inner
        assert not tf.executing_eagerly()
        return x

    outer(tf.ones((2, 20)))


def test_keras_a_layer_keeps_the_losses_of_its_calls_in_a_list(keras):
    class Lossy(keras.layers.Layer):
        def call(self, x):
            self.add_loss(tf.reduce_mean(x))
            return x

    layer = Lossy()
    layer(np.ones((2, 3), "float32"))
    kept = layer._losses if keras is keras3 else layer._eager_losses
    assert isinstance(kept, list)
    assert len(kept) == 1
    kept.clear()
    assert not layer.losses


def test_tf_keras_a_random_layer_counts_its_seed_on_at_every_trace():
    layer = tf_keras.layers.Dropout(0.5, seed=7)
    layer.build((None, 3))
    tf.function(lambda x: layer(x, training=True)).get_concrete_function(tf.ones((2, 3)))
    assert vars(layer)["_random_generator"]._seed == 8


# --- optimizers, which `frameworks/updates.py` gives another class for the time of a step


def test_keras3_an_update_reads_rate_and_count_by_what_a_subclass_can_change():
    class Changed(keras3.optimizers.Adam):
        def _get_current_learning_rate(self):
            return super()._get_current_learning_rate() * 0.0

        @property
        def iterations(self):
            counted.append(1)
            return super().iterations

    counted, optimizer, weight = [], keras3.optimizers.Adam(0.1), keras3.Variable([1.0])
    object.__setattr__(optimizer, "__class__", Changed)
    optimizer.apply([tf.constant([1.0])], [weight])
    assert float(weight.numpy()[0]) == 1.0
    assert counted
    assert optimizer._trainable_variables == [weight]
    assert int(optimizer._iterations.numpy()) == 1
    assert float(optimizer._learning_rate.numpy()) == np.float32(0.1)


def test_tf_keras_an_update_reads_rate_and_count_by_what_a_subclass_can_change():
    class Changed(tf_keras.optimizers.Adam):
        def update_step(self, gradient, variable):
            inside.append(True)
            super().update_step(gradient, variable)
            inside.pop()

        @property
        def learning_rate(self):
            return super().learning_rate * 0.0

        @property
        def iterations(self):
            counted.append(bool(inside))
            return super().iterations

    inside, counted, optimizer = [], [], tf_keras.optimizers.Adam(0.1)
    weight = tf.Variable([1.0])
    object.__setattr__(optimizer, "__class__", Changed)
    optimizer.apply_gradients([(tf.constant([1.0]), weight)])
    assert float(weight.numpy()[0]) == 1.0
    assert True in counted
    assert counted[-1] is False  # where one is added to it
    assert list(optimizer._index_dict) == [optimizer._var_key(weight)]
    nadam = tf_keras.optimizers.Nadam()
    nadam.build([weight])
    assert nadam._u_product_counter == 1
    assert not any(each is nadam._u_product for each in nadam.variables)


def test_tf_keras_an_older_update_reads_rate_and_count_in_one_place():
    class Changed(tf_keras.optimizers.legacy.Adam):
        def _decayed_lr(self, dtype):
            return super()._decayed_lr(dtype) * 0.0

        def _prepare_local(self, *args):
            inside.append(True)
            super()._prepare_local(*args)
            inside.pop()

        @property
        def iterations(self):
            counted.append(bool(inside))
            return super().iterations

    inside, counted, optimizer = [], [], tf_keras.optimizers.legacy.Adam(0.1)
    weight = tf.Variable([1.0])
    object.__setattr__(optimizer, "__class__", Changed)
    optimizer.apply_gradients([(tf.constant([1.0]), weight)])
    assert float(weight.numpy()[0]) == 1.0
    assert True in counted
    assert counted[-1] is False
    key_of = tf_keras.src.optimizers.legacy.optimizer_v2._var_key
    assert list(optimizer._slots) == [key_of(weight)]
