"""The notebooks are run by hand: here their names must still exist, and their outputs must be from one complete run."""

import ast
import importlib
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)


def cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_notebooks():
    assert list(FOLDER.glob("*.ipynb"))


@NOTEBOOKS
def test_every_name_exists(path):
    lines = "\n".join("".join(cell["source"]) for cell in cells(path)).splitlines()
    tree = ast.parse("\n".join(line for line in lines if not line.startswith("%")))
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {name.asname: importlib.import_module(name.name) for name in node.names if name.asname}
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                assert hasattr(importlib.import_module(node.module), name.name), name.name
    found = 0
    for node in ast.walk(tree):
        names, root = [], node
        while isinstance(root, ast.Attribute):
            names, root = [root.attr, *names], root.value
        if names and isinstance(root, ast.Name) and root.id == "gj":
            found, at = found + 1, modules["gj"]
            for name in names:
                at = getattr(at, name)
    assert found > 5


@NOTEBOOKS
def test_it_was_run_from_top_to_bottom(path):
    ran = cells(path)
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    assert not [output for cell in ran for output in cell["outputs"] if output["output_type"] == "error"]
