"""The examples, run as a user runs them."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("which", ["3", "2"])
def test_lenet_prints_its_table(which, tmp_path):
    command = [sys.executable, EXAMPLES / "lenet.py", "--keras", which, "--epochs", "2"]
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}  # no MNIST there
    child = subprocess.run(
        [*command, "--folder", tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert "LeNet on digits" in child.stdout
    rows = [re.split(r" *│ *", line) for line in child.stdout.splitlines() if line[:1] == "│"]
    sizes = {row[1]: row[2].replace(",", "") for row in rows}
    assert list(sizes) == ["float", "fake-quantized", "TFLite int8", "post-training int8"]
    assert "quantized: 1" in child.stdout  # the progress bar shows the switch
    assert "quantization watching -> on" in child.stderr
    float_file, int8_file = tmp_path / "lenet_float.tflite", tmp_path / "lenet.tflite"
    assert int(sizes["float"]) == float_file.stat().st_size
    assert int(sizes["TFLite int8"]) == int8_file.stat().st_size
    assert float_file.stat().st_size >= 3.5 * int8_file.stat().st_size
