"""A search that is interrupted or killed goes on, and processes share one without harm."""

import collections
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from helpers import search_child

pytestmark = pytest.mark.timeout(600)  # two and more processes that search

FILES = ("model.tflite", "model.tflite.json", "weights.npz", "state.npz")


class Searches:
    """Processes that search, all started by one that has imported what they need."""

    def __init__(self, kind):
        folder = pathlib.Path(search_child.__file__).parents[1]
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.starter = subprocess.Popen(
            [sys.executable, "-m", search_child.__name__, kind],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ask(self, line):
        self.starter.stdin.write(json.dumps(line) + "\n")
        self.starter.stdin.flush()
        return int(self.starter.stdout.readline())

    def start(self, root, *arguments, **environment):
        """The id of a new process."""
        arguments = [str(root), *map(str, arguments)]
        return self.ask({"arguments": arguments, "environment": environment})

    def wait(self, process):
        """Its exit code."""
        return self.ask(process)

    def run(self, root, *arguments):
        """The exit code; what the process printed is shown when a test fails."""
        try:
            return self.wait(self.start(root, *arguments))
        finally:
            print((root / search_child.LOG).read_text()[-3000:])

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.starter.pid, signal.SIGKILL)  # those that still search, too
        self.starter.communicate()


@pytest.fixture(scope="module")
def searches(request):
    """For the Keras that a test names."""
    started = Searches(request.param)
    yield started
    started.close()


with_keras3 = pytest.mark.parametrize("searches", ["keras3"], indirect=True)


def trials(root):
    """Id -> what KerasTuner has written about the trial."""
    files = sorted((root / "project").glob("trial_*/trial.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def contents(folder):
    """File -> (its bytes, when it was written)."""
    return {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def fits(root):
    """Kind of fit -> the ids of the processes that began one, in order."""
    found = collections.defaultdict(list)
    for line in (root / search_child.FITS).read_text().splitlines():
        kind, process = line.split()
        found[kind].append(int(process))
    return found


def litert_accuracy(path):
    """Of the file on the validation data, by LiteRT alone; its input and output are integers."""
    _, _, x, y = search_child.data()
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    right = 0
    for image, label in zip(x, y, strict=True):
        if np.issubdtype(taken["dtype"], np.integer):
            scale, zero_point = taken["quantization"]
            limits = np.iinfo(taken["dtype"])
            image = np.clip(np.rint(image / scale) + zero_point, limits.min, limits.max)
        interpreter.set_tensor(taken["index"], image[None].astype(taken["dtype"]))
        interpreter.invoke()
        right += int(interpreter.get_tensor(given["index"]).argmax() == label)
    return right / len(y)


def assert_each_trial_once(root, count):
    """All trials are completed, scored once, and have a file of their own that scores the same."""
    found = trials(root)
    assert sorted(state["trial_id"] for state in found.values()) == list(map(str, range(count)))
    assert {state["status"] for state in found.values()} == {"COMPLETED"}
    oracle = json.loads((root / "project" / "oracle.json").read_text())
    for name in ("start_order", "end_order"):
        assert sorted(oracle[name]) == list(map(str, range(count))), name
    assert set(oracle["run_times"].values()) == {1}
    values = {state["hyperparameters"]["values"]["final_sparsity"] for state in found.values()}
    assert len(values) == count
    for name, state in found.items():
        metrics = state["metrics"]["metrics"]
        for metric, history in metrics.items():
            (observation,) = history["observations"]
            assert len(observation["value"]) == 1, (name, metric)
        folder = root / "project" / name
        assert [file for file in FILES if not (folder / file).exists()] == []
        (accuracy,) = metrics["tflite_accuracy"]["observations"][0]["value"]
        assert litert_accuracy(folder / "model.tflite") == pytest.approx(accuracy, abs=1e-6)
        # The sparsity that KerasTuner has drawn for this trial, not for another.
        (sparsity,) = metrics["sparsity"]["observations"][0]["value"]
        drawn = state["hyperparameters"]["values"]["final_sparsity"]
        assert sparsity == pytest.approx(drawn, abs=0.01)
    assert not list((root / "project").rglob("*.tmp")), "half-written files"


KILLED, INTERRUPTED = ("kill", -signal.SIGKILL), ("interrupt", -signal.SIGINT)


@pytest.mark.parametrize(
    ("searches", "how"),
    [
        pytest.param("keras3", INTERRUPTED, id="keras3-interrupt", marks=pytest.mark.sweep),
        pytest.param("tf_keras", KILLED, id="tf_keras-kill", marks=pytest.mark.sweep),
    ],
    indirect=["searches"],
)
def test_a_search_that_ended_in_mid_trial_goes_on(searches, how, tmp_path):
    word, code = how
    assert searches.run(tmp_path, 3, word, 2) == code
    before = trials(tmp_path)
    assert [state["status"] for state in before.values()] == ["COMPLETED", "RUNNING"]
    first = contents(tmp_path / "project" / "trial_0")
    floating = contents(tmp_path / "project" / "float")

    assert searches.run(tmp_path, 3) == 0
    assert_each_trial_once(tmp_path, 3)
    assert json.loads((tmp_path / "project" / "oracle.json").read_text())["ongoing_trials"] == {}
    begun = fits(tmp_path)
    assert len(begun[search_child.FLOAT]) == 1
    # One in the first process, then the one that did not end; in the second process two.
    killed, resumed = begun[search_child.COMPRESSED][0], begun[search_child.COMPRESSED][-1]
    assert begun[search_child.COMPRESSED] == [killed] * 2 + [resumed] * 2
    assert contents(tmp_path / "project" / "trial_0") == first
    assert contents(tmp_path / "project" / "float") == floating
    after = trials(tmp_path)["trial_1"]
    assert after["hyperparameters"]["values"] == before["trial_1"]["hyperparameters"]["values"]


@pytest.mark.sweep
@with_keras3
def test_a_trial_that_has_its_metrics_is_not_run_again(searches, tmp_path):
    """Killed after KerasTuner has written what the trial came to, before it has noted its end.

    It hands the trial out again, and keeps the metrics of the first run. So its files must stay.
    """
    assert searches.run(tmp_path, 2, "kill_before_end", 2) == -signal.SIGKILL
    before = trials(tmp_path)["trial_1"]
    assert before["status"] == "RUNNING"
    assert before["metrics"]["metrics"]
    files = {name: contents(tmp_path / "project" / "trial_1")[name] for name in FILES}

    assert searches.run(tmp_path, 2) == 0
    assert_each_trial_once(tmp_path, 2)
    after = contents(tmp_path / "project" / "trial_1")
    assert {name: after[name] for name in FILES} == files
    assert len(fits(tmp_path)[search_child.COMPRESSED]) == 2


@pytest.mark.sweep
@with_keras3
def test_a_killed_worker_is_started_again(searches, tmp_path):
    """A chief and two workers; one worker dies in its first trial."""
    count = 3
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def begin(name, *arguments):
        return searches.start(
            tmp_path,
            count,
            *arguments,
            KERASTUNER_TUNER_ID=name,
            KERASTUNER_ORACLE_IP="127.0.0.1",
            KERASTUNER_ORACLE_PORT=str(port),
        )

    try:
        chief = begin("chief")
        dying, other = begin("worker_0", "kill", 1), begin("worker_1")
        assert searches.wait(dying) == -signal.SIGKILL
        again = begin("worker_0")  # the chief keeps its trial for it
        assert [searches.wait(process) for process in (again, other, chief)] == [0, 0, 0]
    finally:
        print((tmp_path / search_child.LOG).read_text()[-5000:])
    assert_each_trial_once(tmp_path, count)
    begun = fits(tmp_path)
    assert len(begun[search_child.FLOAT]) == 1
    counts = collections.Counter(begun[search_child.COMPRESSED])
    assert counts.total() == count + 1
    assert counts[dying] == 1
    assert set(counts) == {dying, again, other}
