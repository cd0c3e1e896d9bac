"""Memory that was freed, given back to the system."""

import sys
import threading

import numpy as np
import pytest

from keras_compress._shared.heap import give_back

MEGABYTES = 128


def resident():
    """MB."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_what_another_thread_has_freed_goes_back():
    kept = []

    def use():
        arrays = [np.ones(1 << 13) for _ in range(16 * MEGABYTES)]  # 64 KB each
        kept.extend(arrays[::100])  # so that nothing is at the end of the heap
        del arrays

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    held = resident()
    give_back()
    assert resident() < held - MEGABYTES / 2
    assert all(array.all() for array in kept)
