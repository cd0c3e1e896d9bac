"""Without the extra `tuner` one is told how to get it."""

import pathlib
import subprocess
import sys

import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "sparsity_search.py"

WITHOUT = """
import sys
sys.modules[{missing!r}] = None
sys.argv = {argv!r}
try:
    {do}
except ImportError as error:
    print(error)
"""


def printed(missing, do, argv=()):
    program = WITHOUT.format(missing=missing, do=do, argv=list(argv))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("missing", ["keras_tuner", "tensorboard", "filelock"])
def test_the_error_names_the_extra(missing):
    said = printed(missing, "import keras_compress.tuner")
    assert said.splitlines()[-1] == (
        f"keras_compress.tuner: `{missing}` is needed; install it with "
        "`pip install 'keras_compress[tuner]'`."
    )


def test_the_example_has_a_help_without_it():
    do = f"import runpy; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    said = printed("keras_tuner", do, argv=["sparsity_search.py", "--help"])
    assert said.startswith("usage: sparsity_search.py")
