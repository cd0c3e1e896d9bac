"""The whole package is typed, and few of its annotations say nothing."""

import ast
import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "keras_compress"

FRAMEWORKS = {
    "ai_edge_litert",
    "keras",
    "keras_tuner",
    "tensorflow",
    "tensorflow_model_optimization",
    "tf_keras",
}

BARE_AT_MOST = 0.08  # of all annotations

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]


# --- what mypy checks


def frameworks_of(source):
    """The frameworks that a source imports when it is itself imported."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.partition(".")[0] for name in names} & FRAMEWORKS


def test_mypy_checks_the_whole_package_strictly():
    assert CONFIG["strict"] is True
    assert CONFIG["files"] == ["keras_compress"]
    assert set(CONFIG) == {"python_version", "strict", "files", "overrides"}
    loosened = [name for each in CONFIG["overrides"] for name in each["module"]]
    assert not [name for name in loosened if name.startswith("keras_compress")]


@pytest.mark.parametrize(
    "file", ["frameworks/protocols.py", "tflite/file/schema.py", "tuner/protocols.py"]
)
def test_the_protocols_import_no_framework(file):
    assert not frameworks_of((PACKAGE / file).read_text())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import numpy\nfrom keras_compress.frameworks import tf_keras", set()),
        ("def f():\n    import keras", set()),
        ("if TYPE_CHECKING:\n    import keras", set()),
        ("import tensorflow as tf, os", {"tensorflow"}),
        ("from tensorflow.python.framework import ops\nimport keras", {"tensorflow", "keras"}),
    ],
)
def test_what_a_source_imports_at_its_top_level_is_found(source, found):
    assert frameworks_of(source) == found


# --- annotations that say nothing


def annotations(source):
    """Every annotation of an argument, of what a function returns and of a variable."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            found += [each.annotation for each in every if each is not None]
            found.append(node.returns)
        elif isinstance(node, ast.AnnAssign):
            found.append(node.annotation)
    return [ast.unparse(each) for each in found if each is not None]


def second_names(source):
    """The names under which a source has `Any` once more."""
    return [
        ast.unparse(target)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and ast.unparse(node.value) in ("Any", "typing.Any")
        for target in node.targets
    ]


def is_bare(annotation):
    return annotation in ("Any", "typing.Any")


SOURCES = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def test_few_annotations_are_bare_any():
    found = [each for source in SOURCES.values() for each in annotations(source)]
    assert len(found) > 3000
    assert sum(map(is_bare, found)) / len(found) < BARE_AT_MOST


def test_any_goes_by_no_other_name():
    assert [name for source in SOURCES.values() for name in second_names(source)] == []


SMALL = """
Loose = Any
x: Any = 1
y: dict[str, Any] = {}

class C:
    z: typing.Any

    async def f(self, a: Any, /, b: int, *c: Any, d: Any = 1, **e: Any) -> Any: ...

def g(a, b: Any | None) -> None:
    held: list[Any] = []
    return lambda x: x
"""


def test_the_counter_finds_every_kind_of_annotation():
    found = annotations(SMALL)
    # Bare: x, z, and of f four arguments and what it returns.
    assert sum(map(is_bare, found)) == 7
    # The others: y, b of f, b of g, what g returns, and held.
    assert sorted(each for each in found if not is_bare(each)) == [
        "Any | None",
        "None",
        "dict[str, Any]",
        "int",
        "list[Any]",
    ]
    assert second_names(SMALL) == ["Loose"]
