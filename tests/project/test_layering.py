"""A package imports only from the floors below it, inside functions too; no module from itself."""

import ast

import pytest
from helpers.rooms import FLOORS, modules

import keras_compress

PACKAGE = "keras_compress"

FRAMEWORK_FREE_ROOMS = ("_shared", "ranges", "specs", "reports", "cli")
FRAMEWORKS = {"tensorflow", "keras", "tf_keras", "tensorflow_model_optimization", "ai_edge_litert"}


def room(module):
    """The row of a module, or None if the table does not know it."""
    name = module.partition(".")[0]
    return name if name in FLOORS else None


def imported(source, *, top_level_only=False):
    """Every absolute dotted name that a source imports; at its top level, without what only a type
    checker sees, if that is asked for.
    """
    tree = ast.parse(source)
    names = []
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names]
    return names


def targets(source, known, **options):
    """(the imported name, the module it lies in) for all that is of this package."""
    for name in imported(source, **options):
        if name.split(".")[0] != PACKAGE or name == f"{PACKAGE}.__version__":
            continue
        target = name.removeprefix(PACKAGE).removeprefix(".")
        if target not in known:  # a name in a module, or one in the package itself
            target = target.rpartition(".")[0]
        yield name, target


def violations(source, module, known):
    """What `source`, the text of `module`, may not import, in words."""
    own = room(module)
    if own is None:
        return [f"{module} is not in the table"]
    found = [
        f"{module} imports {name}: write it from the package's root"
        for name in imported(source)
        if name.startswith(".")
    ]
    for name, target in targets(source, known):
        other = room(target)
        if other is None:
            found.append(f"{module} imports {name}, which is not in the table")
        elif FLOORS[other] >= FLOORS[own] and other != own:
            found.append(f"{module} (floor {FLOORS[own]}) imports {target} (floor {FLOORS[other]})")
    return found


def circle(graph):
    """A way through `graph` (module -> modules it imports) that leads back to where it begins, as a
    list; empty if there is none.
    """
    done = set()

    def walk(module, way):
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for other in graph.get(module, ()):
            if found := walk(other, [*way, module]):
                return found
        done.add(module)
        return []

    return next((found for module in graph if (found := walk(module, []))), [])


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_from_floors_below(module):
    assert violations(modules()[module].read_text(), module, modules()) == []


def test_no_module_imports_itself_through_others():
    known = modules()
    graph = {
        module: [target for _, target in targets(path.read_text(), known, top_level_only=True)]
        for module, path in known.items()
    }
    assert circle(graph) == []
    assert sum(map(len, graph.values())) > 300  # it did find imports


def test_a_circle_is_found():
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []


@pytest.mark.parametrize("module", modules())
def test_the_rooms_without_framework_import_none(module):
    if room(module) in FRAMEWORK_FREE_ROOMS:
        names = imported(modules()[module].read_text())
        assert not {name.split(".")[0] for name in names} & FRAMEWORKS


def exported(source):
    """The functions, and whatever else is no class, that a package's `__init__` imports."""
    names = [name.rpartition(".")[2] for name in imported(source, top_level_only=True)]
    return {name for name in names if not name[:1].isupper()}


def test_no_module_bears_the_name_of_a_function_that_its_package_exports():
    known = modules()
    packages = {name: path for name, path in known.items() if path.name == "__init__.py"}
    clashes = [
        f"{package}.{name}"
        for package, path in packages.items()
        for name in exported(path.read_text())
        if f"{package}.{name}" in known
    ]
    clashes += [name for name in keras_compress.__all__ if name in known]
    assert clashes == []
    assert exported(packages["tflite"].read_text()) >= {"convert", "inspect_tflite"}


KNOWN = {*FLOORS, "tflite.file.inspect", "engines.in_place.masks", "fit.run"}

BAD = [
    ("specs", "from keras_compress import fit", "specs (floor 2) imports fit (floor 5)"),
    ("specs", "from keras_compress.fit.run import f", "specs (floor 2) imports fit.run (floor 5)"),
    ("specs", "import keras_compress.fit", "specs (floor 2) imports fit (floor 5)"),
    ("specs", "from keras_compress import reports", "specs (floor 2) imports reports (floor 2)"),
    (
        "export",
        "def f():\n    from keras_compress.fit import g",
        "export (floor 4) imports fit (floor 5)",
    ),
    (
        "tflite.file.inspect",
        "from keras_compress.engines.in_place import masks",
        "tflite.file.inspect (floor 3) imports engines.in_place.masks (floor 3)",
    ),
    (
        "fit.run",
        "from keras_compress import Pruning",
        "fit.run imports keras_compress.Pruning, which is not in the table",
    ),
    ("fit", "import keras_compress", "fit imports keras_compress, which is not in the table"),
    ("fit", "from ..specs import f", "fit imports ..specs.f: write it from the package's root"),
    ("novelty", "", "novelty is not in the table"),
]


@pytest.mark.parametrize(("module", "source", "message"), BAD)
def test_the_checker_finds_what_is_wrong(module, source, message):
    assert violations(source, module, KNOWN) == [message]


GOOD = [
    ("fit", "from keras_compress import __version__, specs\nimport numpy.linalg"),
    (
        "tflite.file.inspect",
        "from keras_compress.tflite import f\nfrom keras_compress import specs",
    ),
    ("engines.in_place.masks", "from keras_compress.engines.masks import Pruner"),
]


@pytest.mark.parametrize(("module", "source"), GOOD)
def test_the_checker_lets_pass_what_is_right(module, source):
    assert violations(source, module, KNOWN) == []
