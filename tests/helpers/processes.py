"""Scripts in processes of their own, and whether anything of them lives on."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path


def alive(pid):
    """Whether a process runs; one that has ended, and that nobody has waited for yet, does not."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def run_script(script, tmp_path, timeout=60):
    """Runs a parent of its own worker, which prints the worker's pid (or several, in one line)
    first; returns these pids, as one number if it is one, and the result.
    """
    paths = [str(Path(__file__).parents[n]) for n in (2, 1)]  # of the package and the helpers
    text = f"import os, sys, tempfile\nsys.path[:0] = {paths!r}\n" + textwrap.dedent(script)
    result = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert result.stdout, result.stderr
    pids = [int(word) for word in result.stdout.splitlines()[0].split()]
    return pids[0] if len(pids) == 1 else pids, result


def wait_until_gone(pids, tmp_path=None, seconds=20.0):
    """Whether, that many seconds from now, none of the processes lives, and no folder of a worker
    is left in `tmp_path`. What lives then is killed.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        folders = tmp_path and list(tmp_path.glob("keras_compress_*"))
        if not folders and not any(map(alive, pids)):
            return True
        time.sleep(0.02)
    for pid in filter(alive, pids):
        os.kill(pid, signal.SIGKILL)
    return False
