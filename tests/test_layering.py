"""A module imports only from the layers above it, inside functions too."""

import ast
import pathlib

import pytest

import keras_compress

PACKAGE = "keras_compress"
ROOT = pathlib.Path(keras_compress.__file__).parent

# The table of the README: a module may import modules of a smaller number. A folder is one row for
# all that is in it, and what is in it may import one another.
LAYERS = {
    "_checks": 0,
    "_files": 0,
    "_plain": 0,
    "_tables": 0,
    "plots": 1,
    "schedules": 1,
    "ranges": 1,
    "specs": 2,
    "state": 2,
    "report": 2,
    "float_ops": 4,
    "record": 4,
    "signals": 4,
    "verification": 4,
    "validation": 4,
    "engines": 4,
    "engines.selection": 4,
    "engines.pruner": 4,
    "engines.quantizers": 4,
    "comparison": 5,
    "engines.prunable": 5,
    "engines.checking": 5,
    "engines.base": 6,
    "engines.reporting": 7,
    "engines.snapshot": 7,
    "backup": 8,
    "sources": 8,
    "stripping": 8,
    "exporting": 9,
    "recording": 9,
    "preflight": 10,
    "run": 11,
    "callbacks": 12,
    "saving": 13,
    "wrapping": 13,
    "loading": 14,
    "comparing": 15,
    "converting": 15,
    "__main__": 17,
}
FOLDERS = {
    "frameworks": 3,
    "tflite": 3,
    "engines.in_place": 7,
    "engines.tfmot": 7,
    "cli": 16,
    "tuner": 14,
}

FRAMEWORK_FREE_LAYERS = (0, 1, 2)
FRAMEWORKS = {"tensorflow", "keras", "tf_keras", "tensorflow_model_optimization", "ai_edge_litert"}


def modules():
    """{dotted name below the package: path} of every module but the package's own `__init__`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts:
            found[".".join(parts)] = path
    return found


def row(module):
    """(layer, folder or the module itself), or None if the table does not know the module."""
    for folder, layer in FOLDERS.items():
        if module == folder or module.startswith(f"{folder}."):
            return layer, folder
    return (LAYERS[module], module) if module in LAYERS else None


def imported(source, module, *, is_package=False):
    """Every absolute dotted name that `source`, the text of `module`, imports."""
    here = f"{PACKAGE}.{module}".split(".")
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = here[: len(here) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def violations(source, module, known, *, is_package=False):
    """What `source`, the text of `module`, may not import, in words."""
    own = row(module)
    if own is None:
        return [f"{module} is not in the table"]
    found = []
    for name in imported(source, module, is_package=is_package):
        if name.split(".")[0] != PACKAGE or name == f"{PACKAGE}.__version__":
            continue
        target = name.removeprefix(PACKAGE).removeprefix(".")
        if target not in known:  # a name in a module, or one in the package itself
            target = target.rpartition(".")[0]
        other = row(target)
        if other is None:
            found.append(f"{module} imports {name}, which is not in the table")
        elif other[0] >= own[0] and other[1] != own[1]:
            found.append(f"{module} (layer {own[0]}) imports {target} (layer {other[0]})")
    return found


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_from_above(module):
    path = modules()[module]
    is_package = path.name == "__init__.py"
    assert violations(path.read_text(), module, modules(), is_package=is_package) == []


@pytest.mark.parametrize("module", modules())
def test_the_upper_layers_import_no_framework(module):
    if row(module)[0] in FRAMEWORK_FREE_LAYERS:
        names = imported(modules()[module].read_text(), module)
        assert not {name.split(".")[0] for name in names} & FRAMEWORKS


KNOWN = {*LAYERS, *FOLDERS, "tflite.convert", "tflite.inspect", "engines.in_place.pruning"}

BAD = [
    ("specs", "from keras_compress import run", "specs (layer 2) imports run (layer 11)"),
    ("specs", "from keras_compress.run import f", "specs (layer 2) imports run (layer 11)"),
    ("specs", "import keras_compress.run", "specs (layer 2) imports run (layer 11)"),
    ("specs", "from . import state", "specs (layer 2) imports state (layer 2)"),
    (
        "run",
        "def f():\n    from .callbacks import g",
        "run (layer 11) imports callbacks (layer 12)",
    ),
    (
        "tflite.convert",
        "from ..engines.in_place import pruning",
        "tflite.convert (layer 3) imports engines.in_place.pruning (layer 7)",
    ),
    (
        "run",
        "from keras_compress import Pruning",
        "run imports keras_compress.Pruning, which is not in the table",
    ),
    ("run", "import keras_compress", "run imports keras_compress, which is not in the table"),
    ("novelty", "", "novelty is not in the table"),
]


@pytest.mark.parametrize(("module", "source", "message"), BAD)
def test_the_checker_finds_what_is_wrong(module, source, message):
    assert violations(source, module, KNOWN) == [message]


GOOD = [
    ("run", False, "from keras_compress import __version__, specs\nimport numpy.linalg"),
    (
        "tflite.convert",
        False,
        "from . import inspect\nfrom .inspect import f\nfrom .. import specs",
    ),
    ("tflite", True, "from .convert import f\nfrom . import inspect\nfrom ..specs import Export"),
    ("engines.in_place.pruning", False, "from ..base import Engine\nfrom ... import _checks"),
]


@pytest.mark.parametrize(("module", "is_package", "source"), GOOD)
def test_the_checker_lets_pass_what_is_right(module, is_package, source):
    assert violations(source, module, KNOWN, is_package=is_package) == []
