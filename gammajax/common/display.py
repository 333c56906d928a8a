"""Text of objects: their kind and main numbers with units, in a few lines of a terminal, never arrays.

Anything may stand in the place of a number: a tracer of a transformation, None or a shape from `jax.tree.map`, an array
that is gone. All functions here say so and never raise. They read scalars and short vectors, and compute nothing on a
device. Objects also print inside error messages.
"""

import dataclasses
import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import wadler_lindig
from jax.core import Tracer
from numpyro.distributions import Distribution, ExpandedDistribution, Independent, TransformedDistribution

WIDTH, LINES = 80, 12
FEW = 4  # numbers of a vector, or items of a list, that are shown one by one
FETCHED, LOOKED_THROUGH = 1_000, 10_000_000  # numbers that are read from a device, and on the host
UNBROKEN = "\N{NO-BREAK SPACE}"  # in the place of spaces at which lines must not end


def described(self) -> str:
    """`Name(field=self unit, ...)` of a module, dataclass or named tuple, unless it has words of its own."""
    return block(_fields(self))


def words(say: Callable[[Any], str]) -> Callable[[Any], str]:
    """A `__repr__` in own words, or `described` if the numbers it needs are traced or deleted."""

    @functools.wraps(say)
    def shown(self) -> str:
        try:
            return say(self)
        except Exception:  # whatever it is: a repr is the last place to raise
            return described(self)

    return shown


def document(self, **_) -> wadler_lindig.AbstractDoc:
    """Text that equinox prints for an object inside another, such as a bound method: its own `repr`."""
    return wadler_lindig.TextDoc(repr(self))


def block(head: str, *details: str) -> str:
    """Lines of a head and of details below it, wrapped; further lines are left out."""
    lines = _wrapped(head, "", "    ")
    for detail in details:
        lines += _wrapped(detail, "  ", "      ")
    return "\n".join(lines if len(lines) <= LINES else [*lines[: LINES - 1], "  ..."])


def rows(lines: Sequence[str], most: int = LINES - 4) -> list[str]:
    """As many of the lines as there is room for, and how many are left out."""
    return list(lines) if len(lines) <= most else [*lines[: most - 1], f"... and {len(lines) - most + 1} more"]


def listed(items: Sequence[str], most: int = 8) -> str:
    """Items between commas, each on one line, as many as there is room for."""
    shown = ", ".join(unbroken(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def unbroken(words: str) -> str:
    """Words on one line, if they fit in one."""
    return words.replace(" ", UNBROKEN) if len(words) < WIDTH // 2 else words


def number_of(count: int | str, noun: str) -> str:
    """The count with its noun, in the plural unless it is one."""
    return f"{count} {noun}{'' if str(count) == '1' else 's'}"


def text(value: Any, unit: str = "") -> str:
    """A value in words: a number with its unit, extent of a vector, shape of an array, or the object in its place."""
    if isinstance(value, Tracer):
        return "traced" if value.ndim == 0 else f"traced {_shape(value.shape)}"
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _array(value, unit)
    if isinstance(value, bool | str | None):
        return repr(value)
    if isinstance(value, int | float):
        return _with_unit(_number(value), unit)
    if isinstance(value, jax.ShapeDtypeStruct):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, Distribution):
        return _distribution(value)
    if isinstance(value, Mapping):
        return "{" + listed([f"{name}: {text(item)}" for name, item in value.items()], FEW) + "}"
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return "(" + listed([text(item) for item in value], FEW) + ")"
    if type(value).__repr__ in (described, eqx.Module.__repr__):
        return _fields(value)
    if type(value).__repr__ is object.__repr__:
        return f"<{type(value).__name__}>"
    if isinstance(value, type) or callable(value) and not isinstance(value, eqx.Module):
        return getattr(value, "__name__", type(value).__name__)
    return " ".join(repr(value).split())


def extent(value: Any, unit: str = "") -> str:
    """Smallest and largest of an array, as in "0.5 to 8 TeV"; else as [`text`][]."""
    numbers = _on_host(value)
    if numbers is None or numbers.size == 0 or numbers.dtype.kind not in "iuf":
        return text(value, unit)
    low, high = numbers.min(), numbers.max()
    between = _number(low) if low == high else f"{_number(low)} to {_number(high)}"
    return _with_unit(between, unit)


def total(value: Any) -> str:
    """Sum of an array of counts; else as [`text`][]."""
    numbers = _on_host(value, LOOKED_THROUGH)
    if numbers is None or numbers.dtype.kind not in "biuf":
        return text(value)
    return _number(numbers.sum(dtype=np.int64))


def item(values: Any, number: int) -> str:
    """One number of a vector; else as [`text`][]."""
    if isinstance(values, Tracer):
        return "traced"
    numbers = _on_host(values)
    return text(values if numbers is None or numbers.ndim != 1 or number >= numbers.size else numbers[number])


def listed_values(values: Mapping[str, Any]) -> str:
    """Values by name, as in "index = 2.3, flux = 1e-12"."""
    return listed([f"{name} = {text(value)}" for name, value in values.items()])


def estimates(names: Sequence[str], values: Any, deviations: Any) -> str:
    """Numbers of parameters with their standard deviations, as in "index = 2.3 +- 0.1".

    Elements of vectors come last: a background of many numbers hides no flux where the list is cut.
    """
    columns = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (values, deviations)]
    rows = sorted(zip(names, *columns, strict=True), key=lambda row: "[" in row[0])
    return listed([f"{name} = {v:.5g} +- {d:.2g}" for name, v, d in rows])


def plain_unit(unit: str) -> str:
    """A unit as text: LaTeX's dollars and braces are left out."""
    return unit.translate(str.maketrans("", "", "${}"))


def length(value: Any, axis: int = 0) -> str:
    """Size of an array along an axis, "?" if it has none."""
    shape = getattr(value, "shape", None)
    return str(shape[axis]) if isinstance(shape, tuple) and len(shape) > axis else "?"


def memory(tree: Any) -> str:
    """Size of all arrays in a tree, in MB."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, np.ndarray | jax.Array)]
    return f"{sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 1e6:.3g} MB"


def _fields(value) -> str:
    """The description in one line. Fields that are None by default are left out where they are."""
    if dataclasses.is_dataclass(value):
        fields = [(field.name, field.metadata.get("unit", ""), field.default) for field in dataclasses.fields(value)]
    else:
        names = getattr(value, "_fields", None) or vars(value)
        fields = [(name, "", dataclasses.MISSING) for name in names]
    parts = []
    for name, unit, default in fields:
        found = getattr(value, name, dataclasses.MISSING)  # not yet there while it is being made
        if found is not dataclasses.MISSING and not (found is None and default is None):
            parts.append(unbroken(f"{name}={text(found, unit)}"))
    return f"{type(value).__name__}({', '.join(parts)})"


def _wrapped(words: str, indent: str, continued: str) -> list[str]:
    lines = textwrap.wrap(words, WIDTH, initial_indent=indent, subsequent_indent=continued, break_on_hyphens=False)
    return [line.replace(UNBROKEN, " ") for line in lines] or [indent]


def _with_unit(number: str, unit: str) -> str:
    return f"{number} {unit}" if unit else number


def _number(value) -> str:
    return str(value) if isinstance(value, bool | np.bool_ | int | np.integer) else f"{value:.6g}"


def _array(value, unit: str) -> str:
    if not (jnp.issubdtype(value.dtype, np.number) or value.dtype == bool):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if value.ndim > 1 or value.size == 0:
        return f"{_shape(value.shape)} numbers"
    if isinstance(value, jax.Array) and value.is_deleted():
        return "deleted"
    numbers = _on_host(value)
    if numbers is None:
        return f"{_shape(value.shape)} numbers"
    if numbers.ndim == 0:
        return _with_unit(_number(numbers[()]), unit)
    if numbers.size <= FEW:
        return _with_unit("[" + ", ".join(_number(number) for number in numbers) + "]", unit)
    return f"{numbers.size} numbers, {extent(numbers, unit)}"


def _on_host(value, fetched: int = FETCHED) -> np.ndarray | None:
    """An array with numbers that are cheap to read, or None."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value) if value.size <= LOOKED_THROUGH else None
    if not isinstance(value, jax.Array) or isinstance(value, Tracer) or value.is_deleted() or value.size > fetched:
        return None
    if not (jnp.issubdtype(value.dtype, np.number) or value.dtype == bool):
        return None
    return np.asarray(value) if value.is_fully_addressable or value.is_fully_replicated else None


def _shape(shape) -> str:
    return " x ".join(map(str, shape)) if shape else "1"


def _distribution(prior) -> str:
    """Name and arguments; arguments of the base distribution come first."""
    given, base = vars(prior), vars(prior).get("base_dist")
    shape = f" x {_shape(prior.batch_shape)}" if prior.batch_shape else ""
    if isinstance(prior, Independent):
        return text(base)
    if isinstance(prior, ExpandedDistribution):
        return text(base) + shape
    parts = [f"{name}={text(given[name])}" for name in type(prior).arg_constraints if name in given]
    if base is not None and not (parts and isinstance(prior, TransformedDistribution)):
        return f"{type(prior).__name__}({', '.join([text(base), *parts])})"
    return f"{type(prior).__name__}({', '.join(parts)}){shape}"


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'AEIOUaeiou' else 'a'} {noun}"
