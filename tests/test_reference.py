"""The reference: what the docstring of every public name says, and where the site has it."""

import dataclasses
import inspect
import re
import types
from collections import Counter
from pathlib import Path

import pytest

import gammajax as gj

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
MODULES = {"gammajax": gj, "gammajax.io": gj.io}
NAMES = {
    f"{prefix}.{name}": thing
    for prefix, module in MODULES.items()
    for name, thing in vars(module).items()
    if not name.startswith("_") and not isinstance(thing, types.ModuleType)
}
RAISE_NOTHING = {"gammajax.stick_breaking"}  # it is called under transformations
SITE = (ROOT / "mkdocs.yml").exists()


def at(path: str):
    """The object with this full name, or None."""
    thing = gj
    for part in path.split(".")[1:]:
        thing = getattr(thing, part, None)
    return thing


def text(thing) -> str:
    """The docstring with those that it links to: arguments may be described there."""
    own = inspect.getdoc(thing) or ""
    module = inspect.getmodule(thing)
    linked = [
        at(target or name) or getattr(module, name, None) for name, target in re.findall(r"\[`([^`]*)`\]\[(.*?)\]", own)
    ]
    return "\n".join([own, *(inspect.getdoc(other) or "" for other in linked if other is not None)])


def arguments(thing) -> list[str]:
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in inspect.signature(thing).parameters.values() if p.kind not in variable]


def test_there_are_about_a_hundred_names():
    assert len({id(thing) for thing in NAMES.values()}) >= 102


@pytest.mark.parametrize("name", NAMES)
def test_docstring(name):
    thing = NAMES[name]
    own = inspect.getdoc(thing) or ""
    first = own.split("\n\n")[0]
    assert first.endswith((".", ":")) and len(first) < 240, "it begins with one sentence, or one and its formula"
    assert re.search(r"^>>> import .*gammajax as gj", own, re.MULTILINE), "it has an example that runs as it stands"
    known = text(thing)
    if name != "gammajax.Result":  # a result is made by from_samples, which is described there
        missing = [argument for argument in arguments(thing) if not re.search(f"`{argument}(=[^`]*)?`", known)]
        assert not missing, "all arguments are described, between backticks"
    if inspect.isclass(thing):
        fields = dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
        units = {field.metadata.get("unit", "") for field in fields if field.name in arguments(thing)}
        assert not [unit for unit in units if unit and f"[{unit}" not in known], "units are given"
    else:
        assert re.search(r"\b[Rr]eturn(s|ed)?\b", own), "it says what it returns"
        assert name in RAISE_NOTHING or re.search(r"\b[Rr]aises?d?\b|errors", known), "it says what it raises"


@pytest.mark.skipif(not SITE, reason="an installed package has no pages")
def test_every_name_is_on_one_page():
    shown = Counter()
    for page in PAGES:
        for path in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
            shown[id(at(path))] += 1
    assert {name: shown[id(thing)] for name, thing in NAMES.items() if shown[id(thing)] != 1} == {}
