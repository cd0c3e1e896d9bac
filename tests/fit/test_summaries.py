"""`CompressionSummaries`: what TensorBoard reads back is what the report, the masks and the ranges
say, and the training does not notice.
"""

import copy
import json
import pathlib
import pickle
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers.wrapped_nets import STEPS, compiled, data, fit, net, wrapped, zeros

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.fit.summaries import flat

pytestmark = pytest.mark.by_turns

PRUNING = kc.Pruning(kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=5, frequency=2))
QUANTIZATION = kc.Quantization(delay=5, calibration_steps=2, freeze_step=10)
KERNELS = [("conv", "kernel"), ("hidden", "kernel"), ("kind", "kernel")]


def compress(**arguments):
    """One that a fit may end before it is through."""
    given = {"pruning": PRUNING, "quantization": QUANTIZATION, "partial": True}
    return kc.Compress(**{**given, **arguments})


def trained(keras, *callbacks, model=None, **arguments):
    """A model after a fit, eager because that spares the traces."""
    model = compiled(keras, net(keras), run_eagerly=True) if model is None else model
    fit(model, *callbacks, **arguments)
    return model


class Events:
    """The event files of a folder, as TensorBoard reads them."""

    def __init__(self, folder):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self._found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
        self._found.Reload()
        self.tags = set(self._found.Tags()["tensors"])
        self.plugins = {tag: self._metadata(tag).plugin_data.plugin_name for tag in self.tags}

    def _metadata(self, tag):
        return self._found.SummaryMetadata(tag)

    def values(self, tag):
        """[(step, value)]."""
        # Files of one second are read in the order of their names, the tenth before the ninth.
        events = sorted(self._found.Tensors(tag), key=lambda event: event.wall_time)
        return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events]

    def curve(self, tag):
        """{step: value}, none of them twice."""
        values = self.values(tag)
        assert len(dict(values)) == len(values)
        return dict(values)

    def texts(self, tag):
        events = self._found.Tensors(tag)
        return [(e.step, tf.make_ndarray(e.tensor_proto).item().decode()) for e in events]

    def hyperparameters(self):
        from tensorboard.plugins.hparams import metadata

        content = self._found.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
        found = metadata.parse_session_start_info_plugin_data(content).hparams
        return {name: getattr(v, v.WhichOneof("kind")) for name, v in found.items()}


def watching(keras):
    """A callback, and what it notes after every update: number, phase, kernels, masks, ranges."""
    seen = []

    def on_train_batch_end(batch, logs):
        engine = engine_of(watch.model)
        kernels = {(t.path, t.kernel_name): t.kernel.numpy() for t in engine.pruner.targets}
        masks = {(t.path, t.kernel_name): t.kept() for t in engine.pruner.targets}
        seen.append((engine.step, str(engine.phase), kernels, masks, engine.quantizers.ranges()))

    watch = keras.callbacks.LambdaCallback(on_train_batch_end=on_train_batch_end)
    return watch, seen


def phases_of(seen):
    """[(update, phase)] of every first one."""
    return [
        (step, phase)
        for (step, phase, *_), before in zip(seen, [None, *seen], strict=False)
        if before is None or before[1] != phase
    ]


# --- the numbers


@pytest.fixture(scope="module", params=["first", "last"])
def run(request, keras, tmp_path_factory):
    """A fit with the callback before or after all others: (its model, what was seen, the events,
    the `Compress`).
    """
    folder = tmp_path_factory.mktemp("logs")
    summaries = kc.CompressionSummaries(folder, ranges=True)
    (watch, seen), own = watching(keras), compress()
    others = [own, watch]
    callbacks = [summaries, *others] if request.param == "first" else [*others, summaries]
    model = trained(keras, *callbacks, epochs=3)
    return model, seen, Events(folder), own


def test_sparsity_is_that_of_the_masks_at_the_end_of_every_epoch(run):
    _, seen, events, own = run
    ends = seen[STEPS - 1 :: STEPS]
    assert [step for step, *_ in ends] == [4, 8, 12]
    for kernel in KERNELS:
        expected = {step: zeros(masks[kernel]) for step, _, _, masks, _ in ends}
        assert events.curve(f"{'/'.join(kernel)}/sparsity") == pytest.approx(expected)
    whole = {
        step: zeros(np.concatenate([mask.ravel() for mask in masks.values()]))
        for step, _, _, masks, _ in ends
    }
    assert events.curve("sparsity") == pytest.approx(whole)
    assert whole[4] < whole[8] == 0.5  # it did change

    assert events.values("sparsity")[-1] == (own.report.step, pytest.approx(own.report.sparsity))
    for layer in own.report.layers:
        tag = f"{layer.path}/{layer.kernel}/sparsity"
        assert events.values(tag)[-1][1] == pytest.approx(layer.sparsity)


def test_the_threshold_is_the_smallest_magnitude_that_is_kept(run):
    model, seen, events, _ = run
    for kernel in KERNELS:
        expected = {
            step: np.abs(kernels[kernel][masks[kernel]]).min()
            for step, _, kernels, masks, _ in seen[STEPS - 1 :: STEPS]
        }
        assert events.curve(f"{'/'.join(kernel)}/threshold") == pytest.approx(expected)
    weights = model.get_layer("kind").get_weights()[0]
    smallest = np.abs(weights[weights != 0]).min()
    assert events.values("kind/kernel/threshold")[-1][1] == pytest.approx(smallest)


def test_the_phase_is_written_where_it_changes_and_at_the_end_of_every_epoch(run):
    _, seen, events, _ = run
    changes = [(1, "off"), (4, "watching"), (6, "on"), (11, "frozen")]
    assert phases_of(seen) == changes
    assert events.texts("phase/name") == changes
    expected = [(1, 0), (4, 1), (6, 2), (8, 2), (11, 3), (12, 3)]
    assert events.values("phase") == expected
    assert (events.plugins["phase"], events.plugins["phase/name"]) == ("scalars", "text")


def test_ranges_are_those_of_the_quantizers(run):
    model, seen, events, _ = run
    names = engine_of(model).quantizers.paths_of_ranges()
    assert set(names.values()) == {"input/0", "relu/output", "hidden/output", "kind/before"}
    for key, name in names.items():
        for place, end in enumerate(("minimum", "maximum")):
            expected = {
                step: float(ranges[key][place]) for step, *_, ranges in seen[STEPS - 1 :: STEPS]
            }
            assert events.curve(f"{name}/{end}") == pytest.approx(expected)
    x, _ = data()
    # The first three updates are not watched, and the first that is counts in full.
    first = x[3 * 8 :]
    assert events.values("input/0/minimum")[0] == (4, pytest.approx(first.min()))
    assert events.values("input/0/maximum")[0] == (4, pytest.approx(first.max()))


def test_the_specs_are_hyperparameters(run):
    _, _, events, _ = run
    found = events.hyperparameters()
    expected = flat({"pruning": PRUNING.get_config(), "quantization": QUANTIZATION.get_config()})
    assert found == expected
    assert found["pruning.schedule.final_sparsity"] == 0.5
    assert found["quantization.delay"] == 5
    assert found["pruning.block_size"] == "[1, 1]"
    assert "specs" not in events.tags


def test_flat_specs_are_plain_values():
    config = {"a": {"b": {"c": 1}, "d": None}, "e": [1, "x"], "f": True, "g": None}
    assert flat(config) == {"a.b.c": 1, "e": '[1, "x"]', "f": True}


def test_without_ranges_there_are_none_and_before_they_are_set_neither(keras, tmp_path):
    late = compress(quantization=kc.Quantization(delay=8, calibration_steps=2))
    without = kc.CompressionSummaries(tmp_path / "without")
    with_ranges = kc.CompressionSummaries(tmp_path / "with", ranges=True)
    trained(keras, late, without, with_ranges)
    assert not any("minimum" in tag for tag in Events(tmp_path / "without").tags)
    (only,) = Events(tmp_path / "with").values("hidden/output/maximum")
    assert only[0] == 8  # not of the first epoch, whose updates are not watched


@pytest.mark.parametrize(
    "pattern", [{"block_size": (2, 2)}, {"sparsity_m_by_n": (2, 4)}], ids=lambda p: next(iter(p))
)
def test_blocks_and_m_by_n_have_a_sparsity_and_no_threshold(keras, tmp_path, pattern):
    pruning = kc.Pruning(kc.ConstantSparsity(target_sparsity=0.5, begin_step=1), layers=["hidden"])
    pruning = kc.Pruning(pruning.schedule, layers=["hidden"], **pattern)
    model = trained(
        keras, kc.Compress(pruning=pruning), kc.CompressionSummaries(tmp_path), epochs=1
    )
    events = Events(tmp_path)
    weights = model.get_layer("hidden").get_weights()[0]
    assert events.values("hidden/kernel/sparsity") == [(4, pytest.approx(zeros(weights)))]
    assert "hidden/kernel/threshold" not in events.tags


# --- when


def test_every_so_many_updates_and_at_the_end(keras, tmp_path):
    trained(keras, compress(), kc.CompressionSummaries(tmp_path, update_freq=3), epochs=2)
    assert [step for step, _ in Events(tmp_path).values("sparsity")] == [3, 6, 8]


def test_every_so_many_updates_where_batches_run_several_at_a_time(keras, tmp_path):
    model = compiled(keras, net(keras), steps_per_execution=2)
    summaries = kc.CompressionSummaries(tmp_path, update_freq=3)
    trained(keras, kc.Compress(pruning=PRUNING), summaries, model=model)
    assert [step for step, _ in Events(tmp_path).values("sparsity")] == [4, 6, 8]


def test_a_tensorboard_that_records_few_steps_does_not_decide_what_is_written(keras, tmp_path):
    board = keras.callbacks.TensorBoard(str(tmp_path), update_freq=1000)
    summaries = kc.CompressionSummaries(tmp_path, update_freq=1)
    trained(keras, board, compress(), summaries, epochs=1)
    assert [step for step, _ in Events(tmp_path).values("sparsity")] == [1, 2, 3, 4]


def test_another_fit_goes_on_where_the_first_was(keras, tmp_path):
    summaries = kc.CompressionSummaries(tmp_path)
    model = trained(keras, compress(), summaries, epochs=1)
    trained(keras, summaries, model=model, epochs=1)  # without `Compress` the masks go on
    assert [step for step, _ in Events(tmp_path).values("sparsity")] == [4, 8]


def test_a_wrapped_model_needs_no_compress(keras, tmp_path):
    model = wrapped(keras, engine="in_place", pruning=PRUNING, quantization=QUANTIZATION)
    fit(model, kc.CompressionSummaries(tmp_path), epochs=3)
    events = Events(tmp_path)
    assert events.values("sparsity")[-1] == (12, 0.5)
    assert events.texts("phase/name")[-1] == (11, "frozen")


# --- tfmot


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("hand", [True, False], ids=["by-hand", "by-wrap"])
def test_tfmots_own_summaries_show_the_same(tfmot, tmp_path, hand):
    import tf_keras

    if hand:
        # Driven by any `Compress` in the list; this one makes no file, as it ends too early.
        schedule = {"initial_sparsity": 0.0, "final_sparsity": 0.5, "begin_step": 1, "end_step": 21}
        schedule = tfmot.sparsity.keras.PolynomialDecay(**schedule, frequency=2)
        model = tfmot.sparsity.keras.prune_low_magnitude(net(tf_keras), schedule)
        export = kc.Export(tmp_path / "net.tflite", mode="float32", rehearse=False)
        own = [kc.Compress(export=export, partial=True)]
    else:
        model, own = kc.wrap(net(tf_keras), pruning=PRUNING), []
    compiled(tf_keras, model)
    summaries = kc.CompressionSummaries(tmp_path / "ours")
    board = tfmot.sparsity.keras.PruningSummaries(str(tmp_path / "theirs"))
    fit(model, *own, summaries, board, epochs=4)
    ours, theirs = Events(tmp_path / "ours"), Events(tmp_path / "theirs" / "metrics")
    for tag in ("sparsity", "threshold"):
        for path, _ in KERNELS:
            (name,) = (t for t in theirs.tags if path in t and t.endswith(f"/{tag}"))
            # They write at the beginning of an epoch, we at its end.
            expected = theirs.curve(name)
            assert expected.pop(0) == 0
            found = ours.curve(f"{path}/kernel/{tag}")
            assert found.pop(16) > 0
            assert list(expected) == [4, 8, 12]
            assert expected[4] != expected[8]
            assert found == pytest.approx(expected, rel=1e-6)


def test_quantizers_of_tfmots_wrappers_have_names(tmp_path):
    import tf_keras

    model = wrapped(tf_keras, engine="tfmot", quantization=QUANTIZATION)
    fit(model, kc.CompressionSummaries(tmp_path, ranges=True), epochs=3)
    events = Events(tmp_path)
    engine = engine_of(model)
    names = engine.quantizers.paths_of_ranges()
    assert len(set(names.values())) == len(names)
    assert {"relu", "hidden", "kind"} <= {name.partition("/")[0] for name in names.values()}
    for key, limits in engine.quantizers.ranges().items():
        for end, limit in zip(("minimum", "maximum"), limits, strict=True):
            assert events.values(f"{names[key]}/{end}")[-1] == (12, pytest.approx(limit))


# --- what it leaves alone


def test_the_training_is_the_same_with_and_without(keras, tmp_path):
    def weights(*callbacks):
        keras.utils.set_random_seed(3)
        layers = keras.layers
        model = keras.Sequential(
            [
                layers.Input((6, 6, 1)),
                layers.Flatten(),
                layers.Dense(8, activation="relu"),
                layers.Dropout(0.5),
                layers.Dense(4, activation="softmax"),
            ]
        )
        compiled(keras, model, run_eagerly=True)
        fit(model, *callbacks, compress(), shuffle=True)
        return [variable.numpy() for variable in model.weights]

    every = kc.CompressionSummaries(tmp_path, ranges=True, update_freq=1)
    for mine, plain in zip(weights(every), weights(), strict=True):
        np.testing.assert_array_equal(mine, plain)
    assert len(Events(tmp_path).values("sparsity")) == 8


def test_a_model_that_is_not_compressed_is_warned_of_once(keras, tmp_path, caplog):
    trained(keras, kc.CompressionSummaries(tmp_path / "logs"))
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("keras_compress", "WARNING")
    ]
    assert caplog.messages == [
        "CompressionSummaries: this fit's model is not compressed, and nothing is written; give a "
        "`Compress` to the same fit, or `wrap` the model."
    ]
    assert not (tmp_path / "logs").exists()


def test_a_worker_that_is_not_the_chief_writes_nothing(keras, tmp_path, monkeypatch, caplog):
    model = wrapped(keras, engine="in_place", pruning=PRUNING)
    monkeypatch.setattr(type(engine_of(model)), "is_chief", False)
    fit(model, kc.CompressionSummaries(tmp_path / "logs"), epochs=3)
    assert not (tmp_path / "logs").exists()
    assert caplog.messages == []


def test_a_fit_after_an_interrupted_one_begins_a_new_file(keras, tmp_path):
    summaries = kc.CompressionSummaries(tmp_path)

    def on_epoch_begin(epoch, logs):
        if epoch == 1:
            raise KeyboardInterrupt

    stop = keras.callbacks.LambdaCallback(on_epoch_begin=on_epoch_begin)
    model = compiled(keras, net(keras), run_eagerly=True)
    with pytest.raises(KeyboardInterrupt):
        fit(model, compress(), summaries, stop)
    left_open = summaries._file
    assert [step for step, _ in Events(tmp_path).values("sparsity")] == [4]
    fit(model, compress(), summaries, epochs=1)
    assert left_open._writer._closed
    assert summaries._file is None
    assert len(list(pathlib.Path(tmp_path).iterdir())) == 2
    assert [step for step, _ in Events(tmp_path).values("sparsity")] == [4, 8]


def test_without_tensorboard_the_specs_are_a_text(keras, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        for name in [n for n in sys.modules if n.partition(".")[0] == "tensorboard"]:
            patched.delitem(sys.modules, name)
        patched.setitem(sys.modules, "tensorboard", None)
        trained(keras, compress(), kc.CompressionSummaries(tmp_path), epochs=1)
    events = Events(tmp_path)
    ((step, text),) = events.texts("specs")
    assert (step, events.plugins["specs"]) == (0, "text")
    assert json.loads(text.removeprefix("```\n").removesuffix("\n```")) == {
        "pruning": PRUNING.get_config(),
        "quantization": QUANTIZATION.get_config(),
    }
    assert [step for step, _ in events.values("sparsity")] == [4]
    assert not any(tag.startswith("_hparams_") for tag in events.tags)


# --- copies and arguments


@pytest.mark.parametrize("again", [copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))])
def test_a_copy_has_the_arguments_and_nothing_of_the_fit(keras, tmp_path, again):
    own = kc.CompressionSummaries(tmp_path / "a", ranges=True, update_freq=2)
    before = again(own)
    trained(keras, compress(), before, epochs=1)
    for copied in (before, again(before)):
        assert (copied.log_dir, copied.ranges, copied.update_freq) == (str(tmp_path / "a"), True, 2)
    assert again(before).model is None
    assert [step for step, _ in Events(tmp_path / "a").values("sparsity")] == [2, 4]


BAD = [
    ({"log_dir": 3}, TypeError, "`log_dir` must be the path of a folder. Received: log_dir=3"),
    ({"log_dir": ""}, ValueError, "`log_dir` must be the path of a folder. Received: log_dir=''"),
    ({"ranges": 1}, TypeError, "`ranges` must be True or False. Received: ranges=1"),
    (
        {"update_freq": 0},
        ValueError,
        "`update_freq` must be 'epoch' or an int >= 1. Received: update_freq=0",
    ),
    (
        {"update_freq": "batch"},
        ValueError,
        "`update_freq` must be 'epoch' or an int >= 1. Received: update_freq='batch' "
        "(did you mean 1?)",
    ),
    (
        {"update_freq": True},
        TypeError,
        "`update_freq` must be 'epoch' or an int >= 1. Received: update_freq=True",
    ),
    (
        {"update_freq": 2.0},
        TypeError,
        "`update_freq` must be 'epoch' or an int >= 1. Received: update_freq=2.0 (did you mean 2?)",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_what_is_refused(arguments, error, message):
    with pytest.raises(error) as raised:
        kc.CompressionSummaries(**{"log_dir": "logs", **arguments})
    assert str(raised.value) == f"CompressionSummaries: {message}"
