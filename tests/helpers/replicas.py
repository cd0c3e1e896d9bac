"""Scripts under a MirroredStrategy over two logical CPUs, in processes of their own: devices are
set but once.
"""

import json
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
