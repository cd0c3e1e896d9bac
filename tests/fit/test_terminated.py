"""A training that is told to end (SIGTERM, Ctrl-C), in the middle of a fit or of its export.

SIGTERM is what `timeout`, Slurm, Kubernetes and preemptible machines send. The library leaves it as
Python has it, where it ends the process at once; a script of its own may make an exception of it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import resume_child, terminated_child
from helpers.processes import wait_until_gone
from helpers.resumed import assert_equal_states, assert_equal_weights, ended, files_in
from helpers.worker import worker_pid

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.snapshot import take
from keras_compress.tflite import load_tflite, stop_worker

pytestmark = [pytest.mark.timeout(400), pytest.mark.by_turns]


@pytest.mark.sweep  # SIGKILL, which ends as it does, is in the suite
def test_a_terminated_process_is_resumed_in_the_fit_and_at_the_export(keras, tmp_path):
    kind = "keras3" if keras.__name__ == "keras" else "tf_keras"
    paths = [str(Path(__file__).parents[n]) for n in (2, 1)]  # of the package and the helpers
    done = subprocess.run(
        [sys.executable, terminated_child.__file__, kind, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads((tmp_path / terminated_child.ENDS).read_text())
    in_fit, in_export, last = ends["terminated"]
    for end in (in_fit, in_export):
        assert end["code"] == -signal.SIGTERM
        assert end["workers"] == 1
        assert end["gone"], "a worker lives on, or its folder does"
        # Neither a half file nor the whole one under another name.
        assert end["files"] == ["backup.compress.npz", "backup.compress.previous.npz"]
        assert end["backup"]
    assert last["code"] == 0
    assert not last["backup"]
    folder, alone = tmp_path / "terminated", tmp_path / "uninterrupted"
    # From the end, which has been backed up.
    assert json.loads((folder / resume_child.EPOCHS_RUN).read_text()) == []
    weights, state = ended(folder)
    expected_weights, expected = ended(alone)
    assert_equal_weights(weights, expected_weights)
    assert_equal_states(state, expected)
    file = terminated_child.FILE
    assert (folder / file).read_bytes() == (alone / file).read_bytes()


@pytest.fixture
def told_by(request):
    """A signal that becomes an exception, whatever a background process makes of it."""

    def leave(*_):
        sys.exit(143)

    number, handler = {
        "control-c": (signal.SIGINT, signal.default_int_handler),
        "a handler of SIGTERM": (signal.SIGTERM, leave),
    }[request.param]
    before = signal.signal(number, handler)
    yield number
    signal.signal(number, before)


def answers_of(path):
    return load_tflite(path).predict(resume_child.data()[0])


@pytest.mark.sweep_if(when=lambda told_by: told_by != "control-c")
@pytest.mark.parametrize("told_by", ["control-c", "a handler of SIGTERM"], indirect=True)
def test_an_exception_during_the_export_costs_nothing_but_the_file(
    keras, told_by, tmp_path, monkeypatch
):
    stop_worker()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def train(folder, *others):
        folder.mkdir(exist_ok=True)
        model, path = resume_child.net(keras), folder / "net.tflite"
        compress = resume_child.compress(verbose=0, export=kc.Export(path))
        callbacks = [resume_child.backup(keras, folder / "backup"), compress, *others]
        try:
            epochs = resume_child.fit(model, callbacks).epoch
        except (KeyboardInterrupt, SystemExit):
            epochs = None
        return model, epochs, path

    model, epochs, path = train(tmp_path / "alone")
    expected, answers, pid = take(engine_of(model)), answers_of(path), worker_pid()
    tell = resume_child.at_train_end(
        keras,
        lambda: terminated_child.when_converting(lambda: os.kill(os.getpid(), told_by)),
    )
    told, epochs, path = train(tmp_path / "told", tell)
    assert epochs is None
    assert worker_pid() is None
    assert wait_until_gone([pid], temporary, terminated_child.SECONDS)
    assert not list(path.parent.glob("*net.tflite*"))
    assert_equal_weights(told.get_weights(), model.get_weights())
    assert_equal_states(take(engine_of(told)), expected, except_for={"paths"})
    assert np.isfinite(told.predict(resume_child.data()[0], verbose=0)).all()
    resumed, epochs, path = train(tmp_path / "told")
    assert epochs == []
    assert_equal_weights(resumed.get_weights(), model.get_weights())
    assert_equal_states(take(engine_of(resumed)), expected, except_for={"paths"})
    np.testing.assert_array_equal(answers_of(path), answers)
    assert not files_in(path.parent / "backup")
    stop_worker()
