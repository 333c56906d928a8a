"""Interpolation in tables: windows about many places at once, and their sums over taps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

PART = 4096  # rows whose columns fit into the cache


def slices(table, first, size) -> Array:
    """Windows of the last dimensions of a table at the indices of all, one for each pair."""
    whole = tuple(range(table.ndim))
    single = table.ndim - len(size)
    numbers = jax.lax.GatherDimensionNumbers(tuple(range(1, len(size) + 1)), whole[:single], whole)
    return jax.lax.gather(table, jnp.stack(first, axis=-1), numbers, (1,) * single + tuple(size), mode="clip")


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def interpolated(
    table: Float[Array, "table offset energy radius"],
    low: Float[Array, "pair energy_tap"],
    across: Float[Array, "pair radius_tap"],
    first: tuple[Int[Array, " pair"], ...],
    window: int,
) -> list[Float[Array, " pair"]]:
    """Sums over taps in energy and radius of the parts of a table from `first` on, one for each offset of a window.

    Columns, which are faster than a matrix product for each pair by half, and gradients by two thirds.
    """
    return _tapped(slices(table, first, (window, low.shape[1], across.shape[1])), low, across)


def _tapped(near, low, across) -> list:
    low, across = _columns(low), _columns(across)
    return [
        sum(b * sum(a * near[:, node, i, j] for i, a in enumerate(low)) for j, b in enumerate(across))
        for node in range(near.shape[1])
    ]


def _columns(table):
    """Columns of a table; transposed they are laid side by side, where those of indexing would be padded and added."""
    return [column[:, 0] for column in jax.lax.split(table, (1,) * table.shape[1], axis=1)]


def _interpolated_tangents(window, primals, tangents):
    table, low, across, first = primals
    size = (window, low.shape[1], across.shape[1])
    near = slices(table, first, size)
    changes = []
    if not isinstance(tangents[0], SymbolicZero):
        weight = low[:, :, None] * across[:, None, :]
        changes.append(_columns((slices(tangents[0], first, size) * weight[:, None]).sum((2, 3))))
    if not isinstance(tangents[1], SymbolicZero):
        changes.append(_tapped(near, tangents[1], across))
    if not isinstance(tangents[2], SymbolicZero):
        changes.append(_tapped(near, low, tangents[2]))
    values = _tapped(near, low, across)
    total = [sum(parts, start=jnp.zeros_like(value)) for value, *parts in zip(values, *changes, strict=True)]
    return values, total


interpolated.defjvp(_interpolated_tangents, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def rowwise(function: Callable[[Any, Any], Array], columns: Any, fixed: Any) -> Float[Array, " row"]:
    """A function of one row's (columns, fixed), of every row; no derivatives by `fixed`.

    Values and slopes come from one pass, in the cache: the transpose of many elementary steps would write all that is
    between them to memory, and take three times as long.
    """
    return jax.vmap(function)(columns, fixed)


@rowwise.defjvp
def _rowwise_tangents(function, primals, tangents):
    one = jax.value_and_grad(function)
    # parts of rows on several devices would move between them
    if jax.default_backend() == "cpu" and jax.device_count() == 1:
        values, slopes = jax.lax.map(lambda row: one(*row), primals, batch_size=PART)
    else:
        values, slopes = jax.vmap(one)(*primals)
    columns = zip(jax.tree.leaves(slopes), jax.tree.leaves(tangents[0]), strict=True)
    return values, sum(jnp.sum((slope * change).reshape(values.size, -1), axis=1) for slope, change in columns)
