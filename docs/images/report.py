"""Makes `docs/images/report.png`: the picture of the README's example.

python docs/images/report.py

Needs the extras "examples" and "plot". The example's own files go into a temporary folder.
"""

import os
import pathlib
import re
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow

import keras

ROOT = pathlib.Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "report.png"


def main():
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    keras.utils.set_random_seed(0)
    names = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        exec(example, names)
        os.chdir(ROOT)
    names["compress"].report.plot(PICTURE)


if __name__ == "__main__":
    main()
