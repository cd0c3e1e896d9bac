"""A process that is killed while one of its children works leaves neither child nor file."""

import signal
import tempfile

import pytest
from helpers.processes import run_script, wait_until_gone
from helpers.worker import worker_pid

from keras_compress.tflite import stop_worker
from keras_compress.tflite.conversion.process import Session

SECONDS = 2.0

CONVERTING = """
import pathlib, threading, time
import tensorflow as tf
from helpers.worker import worker_pid
from keras_compress.tflite import Conversion, convert

class Net(tf.Module):
    def __init__(self, depth):
        self.kernels = [tf.Variable(tf.random.normal((16, 16))) for _ in range(depth)]

    def __call__(self, x):
        for kernel in self.kernels:
            x = tf.nn.relu(tf.matmul(x, kernel))
        return {"y": x}

def convert_net(depth):
    net = Net(depth)
    spec = tf.TensorSpec((1, 16), name="x")
    function = tf.function(net.__call__).get_concrete_function(spec)
    return convert(function, Conversion("dynamic"))

convert_net(1)  # the worker has loaded TensorFlow
print(worker_pid(), flush=True)

def kill():
    while not list(pathlib.Path(tempfile.gettempdir()).glob("*/*/job.json")):
        time.sleep(0.01)
    time.sleep(1)
    os.kill(os.getpid(), 9)

threading.Thread(target=kill, daemon=True).start()
convert_net(2000)  # which takes about ten seconds
print("too late")
"""

STANDING_STILL = """
from helpers.worker import worker_pid
from keras_compress.tflite.conversion.process import Session
with Session():
    print(worker_pid(), flush=True)
    import time
    deadline = time.monotonic() + 10  # it is watched from early on
    while not open(f"/proc/{worker_pid()}/task/{worker_pid()}/children").read():
        time.sleep(0.01)
        if time.monotonic() > deadline:
            break
    os.kill(worker_pid(), 19)  # SIGSTOP: as deaf as in the converter, which holds Python's lock
    os.kill(os.getpid(), 9)
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "script",
    [pytest.param(CONVERTING, marks=pytest.mark.sweep), STANDING_STILL],
    ids=["converting", "standing-still"],
)
def test_a_worker_in_the_middle_of_a_job_ends_when_its_parent_is_killed(script, tmp_path):
    worker, result = run_script(script, tmp_path)
    assert result.returncode == -signal.SIGKILL
    assert "too late" not in result.stdout
    assert wait_until_gone([worker], tmp_path, SECONDS)


ALL_KILLED = """
from helpers.worker import worker_pid
from keras_compress.tflite.conversion.process import Session
with Session():
    import time
    worker = worker_pid()
    while not (watch := open(f"/proc/{worker}/task/{worker}/children").read()):
        time.sleep(0.01)
    print(worker, watch, flush=True)
    for pid in (int(watch), worker, os.getpid()):
        os.kill(pid, 9)
"""


@pytest.mark.timeout(120)
def test_the_folder_of_a_process_killed_with_all_its_children_is_removed_by_the_next(
    tmp_path, monkeypatch
):
    stop_worker()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    someones = tmp_path / "keras_compress_worker_notes"  # none of ours
    someones.mkdir()
    with Session() as session:
        living = session.folder.parent
    pids, _ = run_script(ALL_KILLED, tmp_path)
    assert wait_until_gone(pids)
    left = set(tmp_path.iterdir()) - {living, someones}
    assert len(left) == 1
    run_script(
        """
        from helpers.worker import worker_pid
        from keras_compress.tflite.conversion.process import Session
        with Session():
            print(worker_pid(), flush=True)
        """,
        tmp_path,
    )
    assert set(tmp_path.iterdir()) == {living, someones}
    with Session() as session:
        assert session.folder.parent == living  # the one that lived on is as good as ever
    assert worker_pid() is not None
    stop_worker()


PROBING = """
import subprocess, threading, time
from keras_compress.tflite.probe import probing

child = '''
import sys
from keras_compress.tflite.probe import child
child.JOBS = {"loop": lambda data: [0 for _ in iter(int, 1)]}
child.main()
'''
original = subprocess.Popen
subprocess.Popen = lambda _, **options: original([sys.executable, "-c", child], **options)
probing.SECONDS = {"loop": 60.0}
threading.Thread(target=probing.prober.ask, args=("loop", b"data"), daemon=True).start()

def children(pid):
    return open(f"/proc/{pid}/task/{pid}/children").read().split()

while probing.prober.child is None or not children(probing.prober.child.process.pid):
    time.sleep(0.01)
first = probing.prober.child.process.pid
print(first, *children(first), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.timeout(120)
def test_a_probe_in_the_middle_of_a_file_ends_when_its_parent_is_killed(tmp_path):
    pids, result = run_script(PROBING, tmp_path)
    assert result.returncode == -signal.SIGKILL
    assert len(pids) == 2
    assert wait_until_gone(pids, tmp_path, SECONDS)
