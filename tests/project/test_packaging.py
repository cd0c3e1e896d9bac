"""What `pyproject.toml` and the files beside it say of the package, agrees with one another."""

import ast
import json
import re
import tomllib

import pytest
from helpers.pages import ROOT

import keras_compress

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ["3.11", "3.12", "3.13"]


def names_of(requirement):
    """The extras that a requirement asks of this package; none if it is another package's."""
    found = re.fullmatch(r"keras-compress\[([\w,]+)\]", requirement)
    return found[1].split(",") if found else []


def test_the_pythons_are_the_same_everywhere():
    prefix = "Programming Language :: Python :: "
    listed = [each.removeprefix(prefix) for each in PROJECT["classifiers"] if prefix in each]
    assert [each for each in listed if "." in each] == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    assigned = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(assigned["PYTHONS"]) == PYTHONS


def test_all_is_what_a_user_can_install():
    (requirement,) = EXTRAS["all"]
    assert names_of(requirement) == ["examples", "plot", "tuner"]


@pytest.mark.parametrize("name", ["tests", "benchmarks", "docs"])
def test_a_group_is_its_extra(name):
    assert PYPROJECT["dependency-groups"][name] == [f"keras-compress[{name}]"]
    assert EXTRAS[name]


def test_extras_and_groups_name_extras_that_there_are():
    groups = PYPROJECT["dependency-groups"].values()
    lists = [*EXTRAS.values(), *groups]
    asked = {n for each in lists for item in each if isinstance(item, str) for n in names_of(item)}
    assert asked == {"benchmarks", "docs", "examples", "plot", "tests", "tuner"}
    assert asked <= set(EXTRAS)


def test_the_addresses_are_those_of_one_repository():
    home = PROJECT["urls"]["Homepage"]
    assert set(PROJECT["urls"]) == {"Homepage", "Documentation", "Issues", "Changelog"}
    assert PROJECT["urls"]["Issues"].startswith(home)
    assert PROJECT["urls"]["Changelog"] == f"{home}/blob/main/CHANGELOG.md"
    site = (ROOT / "mkdocs.yml").read_text()
    assert f"repo_url: {home}\n" in site
    assert f"site_url: {PROJECT['urls']['Documentation']}\n" in site
    assert f"repository-code: {home}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_schema_has_an_address():
    schema = json.loads((ROOT / "keras_compress" / "report.schema.json").read_text())
    assert schema["$id"] == PROJECT["urls"]["Documentation"] + "report.schema.json"


def test_what_is_cited_is_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {keras_compress.__version__}\n" in text
    assert f"\nlicense: {PROJECT['license']}\n" in text
