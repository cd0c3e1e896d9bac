"""What an edge between two phases costs: one trace of what changes, one compilation under XLA."""

import contextlib
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import keras_compress as kc
from keras_compress.engines import engine
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place.masks import MagnitudePruner

pytestmark = pytest.mark.slow_after(1)

EPOCH = 2  # updates; a phase each


@contextlib.contextmanager
def counting_compilations(folder):
    """A list that afterwards has one entry for each program that XLA has compiled inside."""
    found = []
    tf.profiler.experimental.start(str(folder))
    try:
        yield found
    finally:
        tf.profiler.experimental.stop()
    (written,) = folder.rglob("*.xplane.pb")
    for plane in xplane_pb2.XSpace.FromString(written.read_bytes()).planes:
        names = {key: each.name for key, each in plane.event_metadata.items()}
        events = (event for line in plane.lines for event in line.events)
        found += [1 for event in events if names[event.metadata_id] == "CpuCompiler::RunBackend"]


def phases_of_traces(model, method):
    """The phase at each trace of a step of the model, as a list that fills itself."""
    phases = []
    original = getattr(model, method)

    def noting(data):
        phases.append(str(engine_of(model).phase) if engine_of(model) else "plain")
        return original(data)

    vars(model)[method] = noting
    return phases


def fitted(keras, *callbacks, jit):
    """(phases of the traces of the training step, those of validation) of a fit of four epochs."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse", jit_compile=jit)
    traces = [phases_of_traces(model, method) for method in ("train_step", "test_step")]
    x, y = np.ones((8 * EPOCH, 4), "float32"), np.ones((8 * EPOCH, 2), "float32")
    model.fit(
        x, y, batch_size=8, epochs=4, validation_data=(x, y), shuffle=False, verbose=0,
        callbacks=list(callbacks),
    )  # fmt: skip
    return traces


def through_all_phases(pruning=None):
    quantization = kc.Quantization(delay=2 * EPOCH, calibration_steps=EPOCH, freeze_step=3 * EPOCH)
    return kc.Compress(pruning=pruning, quantization=quantization, verbose=0)


def halved():
    """By a schedule whose masks are not made anew at every step."""
    schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=4 * EPOCH, frequency=2)
    return kc.Pruning(schedule)


def test_an_edge_traces_the_step_once_and_validation_where_its_answer_changes(keras):
    plain_training, plain_validation = fitted(keras, jit=False)
    training, validation = fitted(keras, through_all_phases(), jit=False)
    # TensorFlow traces a first call twice where it makes variables.
    assert training == ["off"] * len(plain_training) + ["watching", "on", "frozen"]
    assert validation == ["off"] * len(plain_validation) + ["on", "frozen"]


def test_what_makes_the_masks_is_traced_once_for_all_phases(keras, monkeypatch):
    traced = []
    original = MagnitudePruner._renew

    def noting(self, targets, step):
        traced.append([target.path for target in targets])
        return original(self, targets, step)

    monkeypatch.setattr(MagnitudePruner, "_renew", noting)
    training, _ = fitted(keras, through_all_phases(halved()), jit=False)
    assert set(training) == {"off", "watching", "on", "frozen"}
    assert len(traced) == 1


@pytest.mark.slow
@pytest.mark.by_turns
def test_under_xla_an_edge_compiles_no_more_than_it_traces(keras, tmp_path):
    with counting_compilations(tmp_path / "plain") as plain:
        fitted(keras, jit=True)
    with counting_compilations(tmp_path / "ours") as ours:
        fitted(keras, through_all_phases(), jit=True)
    assert len(plain) == 2  # the step, and validation
    assert len(ours) == len(plain) + 3 + 2


@pytest.mark.by_turns
@pytest.mark.parametrize("pruned", [False, True])
def test_what_a_phase_has_traced_is_gone_when_the_next_one_trains(keras, monkeypatch, pruned):
    """Its graph would stand beside the next one: some MB for each phase of a large network."""
    monkeypatch.setattr(engine, "_LARGE", 2)  # layers
    graphs, left = [], {}

    class Net(keras.Model):
        def train_step(self, data):
            phase = str(engine_of(self).phase)
            left[phase] = [was for was, graph in graphs if was != phase and graph() is not None]
            graphs.append((phase, weakref.ref(tf.compat.v1.get_default_graph())))
            return super().train_step(data)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = Net(inputs, keras.layers.Dense(2)(keras.layers.Dense(3, activation="relu")(inputs)))
    model.compile("sgd", "mse", jit_compile=False)
    x, y = np.ones((8 * EPOCH, 4), "float32"), np.ones((8 * EPOCH, 2), "float32")
    callbacks = [through_all_phases(halved() if pruned else None)]
    model.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
    assert left == {"off": [], "watching": [], "on": [], "frozen": []}
