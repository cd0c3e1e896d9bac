"""Files from elsewhere: whatever is in them, this process goes on."""

import hashlib
import json
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.tflite_files import file_of

from keras_compress.tflite import inspect_tflite, load_tflite, trust
from keras_compress.tflite.probe import probing

MUTATIONS = 200
LIMIT_S = 5.0
LIMIT_KB = 1_000_000


def damaged(data, number):
    """`data` with bits flipped, the end cut off, or what may be a length or an offset changed."""
    draw = random.Random(number)
    changed = bytearray(data)
    kind = number % 4
    if kind == 0:
        for _ in range(draw.choice([1, 1, 2, 8, 40])):
            changed[draw.randrange(8, len(data))] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del changed[draw.randrange(len(data)) :]
    elif kind == 2:
        words = range(8, len(data) - 4, 4)
        small = [at for at in words if 0 < struct.unpack_from("<I", data, at)[0] < 65536]
        for _ in range(draw.choice([1, 1, 3])):
            value = draw.choice([0, 1, 2**20, 2**31 - 1, 2**31, 2**32 - 1, draw.randrange(2**16)])
            struct.pack_into("<I", changed, draw.choice(small), value)
    else:
        begin = draw.randrange(8, len(data) - 16)
        changed[begin : begin + 16] = draw.choice([b"\0", b"\xff"]) * 16
    return bytes(changed)


@pytest.fixture
def fresh(monkeypatch):
    """Nothing is known of any file, and the child is a new one."""
    monkeypatch.setattr(probing, "_harmless", set())
    probing.prober.stop()
    yield probing.prober
    probing.prober.stop()


def found_or_refused(read, given):
    """(what was read, the message of the ValueError): one of them is None."""
    try:
        return read(given), None
    except ValueError as error:
        return None, str(error)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("kind", ["int8", "float32", "sparse"])
def test_damaged_files_give_a_report_or_a_clear_error(kind, fresh):
    data = file_of(kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for number in range(MUTATIONS):
        given = damaged(data, number)
        for read in (inspect_tflite, load_tflite):
            begin = time.perf_counter()
            found, message = found_or_refused(read, given)
            assert time.perf_counter() - begin < LIMIT_S, (number, read.__name__)
            if message is None:
                assert str(found)
            else:
                refused += 1
                assert message.startswith(f"{read.__name__}: `source` must be a")
                assert f"{len(given)} bytes" in message
    assert MUTATIONS / 4 < refused < 2 * MUTATIONS - MUTATIONS / 4  # both happen
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < LIMIT_KB / 4
    # Not by `wait4`, for which a child begins with the memory of whoever started it. Its copies
    # have their limit, as the next test shows.
    status = Path(f"/proc/{fresh.child.process.pid}/status").read_text()
    assert 0 < int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < LIMIT_KB


def test_what_crashes_loops_or_takes_memory_does_so_in_the_child(fresh, monkeypatch):
    data = file_of("float32")
    child = "import os, signal, sys, time; sys.argv = ['probe']\n" + PROBE_WITH_BAD_JOBS
    monkeypatch.setattr(probing, "SECONDS", dict.fromkeys(BAD_JOBS, 0.5))
    monkeypatch.setattr(subprocess, "Popen", with_command([sys.executable, "-c", child]))
    for job, message in BAD_JOBS.items():
        begin = time.perf_counter()
        assert message in fresh.ask(job, data)
        assert time.perf_counter() - begin < LIMIT_S
    assert fresh.ask("fine", data) == ""


BAD_JOBS = {
    "fine": "",
    "crash": "it crashes: SIGSEGV",
    "loop": "it takes longer than 0.5 seconds: pass `probe=False`",
    "memory": "it takes more than 1.0 GB of memory: pass `probe=False`",
    "leave": "it crashes: exit code 3",
    "error": "KeyError: 'no such thing'",
}
PROBE_WITH_BAD_JOBS = """
from keras_compress.tflite.probe import child as probe

def error(data):
    raise KeyError("no such thing")

probe.JOBS = {
    "fine": len,
    "crash": lambda data: os.kill(os.getpid(), signal.SIGSEGV),
    "loop": lambda data: [0 for _ in iter(int, 1)],
    "memory": lambda data: bytearray(2 * 10**9),
    "leave": lambda data: os._exit(3),
    "error": error,
}
probe.main()
"""


def with_command(command):
    original = subprocess.Popen

    def popen(_, **options):
        return original(command, **options)

    return popen


def test_one_child_tries_every_file_and_needs_no_tensorflow(fresh):
    load_tflite(file_of("float32"))
    first = fresh.child.process.pid
    with open(f"/proc/{first}/maps") as maps:
        loaded = maps.read()
    assert "litert" in loaded
    assert "tensorflow" not in loaded.replace("tensorflow_lite", "")
    inspect_tflite(file_of("int8"))
    assert fresh.child.process.pid == first


def test_a_child_that_is_gone_is_replaced(fresh):
    inspect_tflite(file_of("float32"))
    first = fresh.child.process
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    inspect_tflite(file_of("int8"))
    assert fresh.child.process.pid != first.pid


def test_an_interrupted_try_leaves_no_answer_for_the_next(fresh, monkeypatch):
    data = file_of("float32")
    inspect_tflite(data)
    first = fresh.child.process

    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        pipe = first.stdout
        patch.setattr(first, "stdout", SimpleNamespace(readline=interrupted, close=pipe.close))
        with pytest.raises(KeyboardInterrupt):
            load_tflite(data)
    assert first.poll() is not None
    with pytest.raises(ValueError, match="not cut off or damaged"):
        inspect_tflite(data[:999])


def test_a_child_that_cannot_start_says_so(fresh, monkeypatch):
    data = file_of("float32")
    monkeypatch.setattr(
        subprocess, "Popen", with_command([sys.executable, "-c", "raise SystemExit(7)"])
    )
    with pytest.raises(RuntimeError, match=r"ended with code 7. Pass `probe=False`"):
        inspect_tflite(data)
    assert inspect_tflite(data, probe=False).ops
    assert load_tflite(data, probe=False).inputs


@pytest.fixture
def asked(fresh, monkeypatch):
    """The jobs that a child was asked for."""
    jobs = []
    original = fresh.ask

    def ask(job, data):
        jobs.append(job)
        return original(job, data)

    monkeypatch.setattr(fresh, "ask", ask)
    return jobs


def test_a_file_is_tried_once_for_each_use(asked, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(file_of("int8"))
    for _ in range(2):
        inspect_tflite(path)
        load_tflite(path)
        load_tflite(file_of("int8"))
    assert asked == ["inspect", "load"]
    path.write_bytes(file_of("float32"))  # another file under the same name
    load_tflite(path)
    assert asked == ["inspect", "load", "load"]


def test_our_own_files_are_not_tried(asked, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(file_of("int8"))
    record = {"report": {"export": {"sha256": hashlib.sha256(file_of("int8")).hexdigest()}}}
    (tmp_path / "net.tflite.json").write_text(json.dumps(record))
    inspect_tflite(path)
    load_tflite(path)
    trust(file_of("float32"))
    load_tflite(file_of("float32"))
    assert asked == []


@pytest.mark.parametrize("record", ["[]", "{", '{"report": {"export": null}}', '{"report": 1}'])
def test_a_record_of_something_else_is_no_record(asked, tmp_path, record):
    path = tmp_path / "net.tflite"
    path.write_bytes(file_of("int8"))
    (tmp_path / "net.tflite.json").write_text(record)
    inspect_tflite(path)
    assert asked == ["inspect"]


def test_an_error_names_the_path_and_the_reason(fresh, tmp_path):
    path = tmp_path / "cut.tflite"
    path.write_bytes(file_of("int8")[:2000])
    for read, rule in ((inspect_tflite, "not cut off"), (load_tflite, "that LiteRT can run")):
        with pytest.raises(ValueError, match=rf"{rule}.* Received: source='{path}' \(\w+: \w"):
            read(path)


def test_a_forked_copy_of_this_process_has_a_child_of_its_own(fresh):
    inspect_tflite(file_of("int8"))
    pid = os.fork()
    if not pid:
        status = 1
        try:
            assert fresh.child is None
            inspect_tflite(file_of("float32"))
            fresh.stop()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert fresh.child.process.poll() is None
    load_tflite(file_of("int8"))
