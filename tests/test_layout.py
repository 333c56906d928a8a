"""Folders in the order of the flow, and one name for one thing."""

import ast
import importlib
import inspect
import pkgutil
from graphlib import TopologicalSorter
from pathlib import Path

import gammajax

# Of imports at the head of modules: io, results and simulation come after what they make or use. Imports within
# functions may point down: a response and a result draw themselves.
ORDER = ["common", "instrument", "events", "model", "io", "engines", "likelihood", "posterior", "simulation"]
ORDER += ["results", "samplers", "statistics", "products", "plots", "cli"]
MODULES = {info.name for info in pkgutil.walk_packages(gammajax.__path__, "gammajax.")}


def imports(name: str) -> set[str]:
    """Modules of the package that a module imports when it is itself imported."""
    found, body = set(), ast.parse(Path(str(importlib.import_module(name).__file__)).read_text()).body
    for node in body:
        if isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in full}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {module for module in found if module.split(".")[0] == "gammajax"}


def test_imports_point_up_the_flow():
    graph = {name: imports(name) for name in MODULES}
    TopologicalSorter(graph).prepare()  # raises for a circle
    place = {f"gammajax.{name}": i for i, name in enumerate(ORDER)}
    folder = {name: ".".join(name.split(".")[:2]) for name in MODULES}
    assert set(folder.values()) == set(place), "the order names all that is at the top"
    assert len(ORDER) <= 15
    wrong = [(a, b) for a in graph for b in graph[a] if b not in folder or place[folder[a]] < place[folder[b]]]
    assert not wrong


def test_a_name_is_one_module_and_no_function_beside_it():
    names = [name.split(".")[-1] for name in MODULES]
    assert sorted(names) == sorted(set(names))
    for name in MODULES:
        parent, last = name.rsplit(".", 1)
        assert inspect.ismodule(getattr(importlib.import_module(parent), last)), name
        assert not hasattr(importlib.import_module(name), last), name
