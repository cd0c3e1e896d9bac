"""The rooms of the package, and the modules in them."""

import pathlib

import keras_compress

ROOT = pathlib.Path(keras_compress.__file__).parent

# The table of `docs/explanation/architecture.md`. What is in one room may import one another,
# though never in a circle.
FLOORS = {
    "_shared": 1,
    "frameworks": 2,
    "ranges": 2,
    "specs": 2,
    "reports": 2,
    "engines": 3,
    "tflite": 3,
    "export": 4,
    "fit": 5,
    "comparison": 5,
    "tuner": 6,
    "cli": 6,
    "__main__": 7,
}


def modules():
    """{dotted name below the package: path} of every module but the package's own `__init__`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts:
            found[".".join(parts)] = path
    return found
