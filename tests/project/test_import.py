"""Importing the package costs nothing and changes nothing; its names are one explicit list."""

import json
import os
import subprocess
import sys

import pytest

import keras_compress

FRAMEWORKS = ("tensorflow", "keras", "tf_keras", "tensorflow_model_optimization", "ai_edge_litert")

FRAMEWORK_FREE = """
import json, os, sys
before = dict(os.environ)
import keras_compress
names = [keras_compress.Pruning, keras_compress.Quantization, keras_compress.Export]
names += [keras_compress.PolynomialDecay, keras_compress.ConstantSparsity]
loaded = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"loaded": loaded, "same": dict(os.environ) == before}))
"""

EVERY_MODULE = """
import importlib, json, pkgutil
import keras_compress
names = [found.name for found in pkgutil.walk_packages(keras_compress.__path__, "keras_compress.")]
names = [name for name in names if not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
from tensorflow.python.eager import context
print(json.dumps({"count": len(names), "started": context.context()._initialized}))
"""


def printed(script, **given):
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, **given
    )
    return json.loads(done.stdout)


def test_importing_loads_no_framework_and_leaves_the_environment_alone():
    # An environment of its own: what an import sets here would be inherited, and so go unseen.
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    found = printed(FRAMEWORK_FREE, env=environment)
    assert "keras_compress" in found["loaded"]
    assert not set(found["loaded"]) & set(FRAMEWORKS)
    assert found["same"]


def test_importing_any_module_leaves_tensorflow_unstarted():
    """What has started takes no `set_memory_growth` any more, and a fork of it hangs in its ops."""
    found = printed(EVERY_MODULE)
    assert found["count"] > 100
    assert not found["started"]


@pytest.mark.parametrize("name", keras_compress.__all__)
def test_every_public_name_is_there(name):
    assert getattr(keras_compress, name) is not None


def test_public_names_are_listed():
    assert set(keras_compress.__all__) <= set(dir(keras_compress))


def test_an_unknown_name_is_an_attribute_error():
    message = "^module 'keras_compress' has no attribute 'prune'$"
    with pytest.raises(AttributeError, match=message):
        _ = keras_compress.prune
