"""Docstrings and signatures of the reference, for mkdocstrings: an extension of griffe, named in mkdocs.yml.

Docstrings are Markdown, whose examples need fences. The constructor of an equinox module comes from its fields, which
griffe does not read.
"""

import importlib
import inspect
import re
from typing import Any

import equinox as eqx
import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)  # up to the next empty line


def fenced(docstring: str) -> str:
    """The docstring with its examples, which no fence encloses yet, as blocks of code."""
    return EXAMPLE.sub(lambda example: f"```pycon\n{example.group()}\n```", docstring)


class Docstrings(griffe.Extension):
    """Fences about examples, and constructors from fields."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change all objects of the loaded package."""
        self._visit(pkg, pkg)

    def _visit(self, thing: Any, package: griffe.Module) -> None:
        if thing.is_alias:
            return
        if thing.docstring is not None:
            thing.docstring.value = fenced(thing.docstring.value)
        if thing.is_class and "__init__" not in thing.members:
            _construct(thing, package)
        if thing.is_module or thing.is_class:
            for member in thing.members.values():
                self._visit(member, package)


def _construct(thing: griffe.Class, package: griffe.Module) -> None:
    """Add the constructor that Python sees to a module or named tuple."""
    actual = getattr(importlib.import_module(thing.module.path), thing.name)
    if not issubclass(actual, eqx.Module | tuple):
        return
    arguments = inspect.signature(actual).parameters.values()
    parameters = [
        griffe.Parameter(
            argument.name,
            annotation=_annotation(actual, argument.name, package),
            kind=griffe.ParameterKind(argument.kind.description),
            default=None if argument.default is inspect.Parameter.empty else _value(argument.default),
        )
        for argument in arguments
    ]
    self = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    thing.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(self, *parameters)))


def _annotation(actual: type, name: str, package: griffe.Module) -> Any:
    """Annotation of a field as it is written, in the class or in one above it."""
    for parent in actual.__mro__:
        where = parent.__module__.split(".")
        if where[0] == package.name:
            place: Any = package
            for part in [*where[1:], *parent.__qualname__.split(".")]:
                place = place.members[part]
            if name in place.members and place.members[name].is_attribute:
                return place.members[name].annotation
    return None


def _value(default: Any) -> str:
    """A default as one writes it."""
    return f"{default:.6g}" if isinstance(default, float) else repr(default)
