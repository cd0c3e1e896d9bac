"""Scripts under a strategy, in processes of their own: over two logical CPUs, as devices are set
but once; or as two workers on this machine.
"""

import json
import os
import socket
import subprocess
import sys
import textwrap

HEAD = """
import json
import sys

import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
device = tf.config.LogicalDeviceConfiguration
tf.config.set_logical_device_configuration(cpu, [device(), device()])
sys.path[:0] = {paths}
import {keras} as keras
import keras_compress as kc
from keras_compress.engines.engine import engine_of

two_replicas = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope


def ranges_of(model):
    # Key -> the range on each of the replicas.
    quantizers = engine_of(model).quantizers
    copies = [copy.numpy().tolist() for copy in quantizers.followed.variable.values]
    return dict(zip(quantizers.ranges(), zip(*copies, strict=True), strict=True))
"""


def printed(keras, script, folder):
    """What a script prints as its last line, in JSON; it finds there all that `HEAD` makes."""
    head = HEAD.format(paths=sys.path, keras=keras.__name__)
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


WORKER = """
import json
import os
import sys

import numpy as np
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before any op
sys.path[:0] = {paths}
import tf_keras as keras
import keras_compress as kc
from keras_compress.engines.engine import engine_of
"""


def printed_by_workers(script, folder):
    """What each of two workers prints as its last line, in JSON, and their exit codes. Of tf_keras:
    Keras 3 does not train so.
    """
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    workers = []
    for index in range(2):
        task = {
            "cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
            "task": {"type": "worker", "index": index},
        }
        workers.append(
            subprocess.Popen(
                [sys.executable, "-c", WORKER.format(paths=sys.path) + textwrap.dedent(script)],
                cwd=folder,
                env={**os.environ, "TF_CONFIG": json.dumps(task)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [worker.communicate(timeout=150) for worker in workers]
    lines = [(out.strip().splitlines() or [f"null  # {err[-2000:]}"])[-1] for out, err in said]
    return lines, [worker.returncode for worker in workers]
