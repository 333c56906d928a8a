"""What the package says about itself in several files is the same in all of them."""

import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import gammajax as gj

ROOT = Path(__file__).parent.parent
OTHER_NAMES = {"matplotlib": "matplotlib-base", "wadler_lindig": "wadler-lindig"}  # of conda-forge
if not (ROOT / "pyproject.toml").exists():
    pytest.skip("an installed package has none of these files", allow_module_level=True)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(path: str):
    return YAML(typ="safe").load((ROOT / path).read_text())


def test_one_version():
    recipe, citation = read("conda/recipe.yaml"), read("CITATION.cff")
    assert gj.__version__ == PROJECT["version"] == recipe["context"]["version"] == citation["version"]


def test_every_dependency_has_a_lower_bound():
    everything = [
        *PROJECT["dependencies"],
        *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
    ]
    assert [one for one in everything if ">=" not in one and not one.startswith("gammajax[")] == []


def test_conda_has_the_same_dependencies():
    needed = set(read("conda/recipe.yaml")["requirements"]["run"])
    for dependency in PROJECT["dependencies"]:
        name, bounds = dependency.split(">=", 1)
        name = name.split("[")[0]
        assert f"{OTHER_NAMES.get(name, name)} >={bounds}" in needed


def test_workflows_cover_the_versions_of_python():
    versions = read(".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["python"]
    listed = [one.split(" :: ")[-1] for one in PROJECT["classifiers"] if "Python :: 3." in one]
    assert versions == listed
    assert PROJECT["requires-python"] == f">={versions[0]}"
