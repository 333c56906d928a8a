"""Multilinear tables: the interpolation of all instrument responses.

Interpolation is linear between nodes and, like gammapy's, continues linearly outside the first and
last node up to the edges of the table. Outside the edges a table is zero.
"""

import itertools
import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gammajax.common.display import block, described, document, length, listed, text, unbroken, words


class Axis(eqx.Module):
    """One axis of a [`Table`][]: increasing nodes and the interval of definition.

    Nodes are in the coordinate of the linear interpolation (ln TeV for energies).
    `uniform`: whether steps count as equal; by default if they differ by less than 1e-4 (files store edges in
    single precision).
    Raises `ValueError` if the nodes are not finite and strictly increasing.
    """

    nodes: Float[Array, " node"]
    lower: float  # numpy's: arrays to jit, whose programs serve tables with other ends
    upper: float
    uniform: bool = eqx.field(static=True)
    __pdoc__ = document

    def __init__(self, nodes, lower: float | None = None, upper: float | None = None, uniform: bool | None = None):
        nodes = np.asarray(nodes, dtype=np.float64)
        if nodes.ndim != 1 or nodes.size == 0 or not np.all(np.isfinite(nodes)) or np.any(np.diff(nodes) <= 0):
            raise ValueError("the nodes of a table axis must be finite and strictly increasing")
        self.lower = np.float64(nodes[0] if lower is None else lower)
        self.upper = np.float64(nodes[-1] if upper is None else upper)
        steps = np.diff(nodes)
        equal = bool(nodes.size > 2 and np.ptp(steps) < 1e-4 * steps.mean())
        self.uniform = equal if uniform is None else uniform
        self.nodes = jnp.asarray(nodes)

    @words
    def __repr__(self) -> str:
        """Number of nodes and ends."""
        return block(f"Axis of {length(self.nodes)} nodes, {text(self.lower)} to {text(self.upper)}")

    def locate(self, x: Float[Array, "*shape"]) -> tuple[Int[Array, "*shape"], Float[Array, "*shape"]]:
        """Index of the cell below `x` and the (unclipped) fraction of the way to the next node."""
        n = self.nodes.size
        if n == 1:
            return jnp.zeros(x.shape, jnp.int32), jnp.zeros_like(x)
        if self.uniform:
            step = (self.nodes[-1] - self.nodes[0]) / (n - 1)
            position = (x - self.nodes[0]) / step
            index = jnp.clip(jnp.floor(position), 0, n - 2).astype(jnp.int32)
            return index, position - index
        index = jnp.clip(jnp.searchsorted(self.nodes, x, side="right") - 1, 0, n - 2).astype(jnp.int32)
        return index, (x - self.nodes[index]) / (self.nodes[index + 1] - self.nodes[index])

    def inside(self, x: Float[Array, "*shape"]) -> Bool[Array, "*shape"]:
        """Whether the table is defined at `x` (edges included)."""
        return (x >= self.lower) & (x <= self.upper)


class Table(eqx.Module):
    """Values on the product of axes, interpolated multilinearly.

    `values` has one dimension per axis and may have trailing dimensions, which results keep.
    Raises `ValueError` if the shapes do not agree, and for NaN in a numpy array.
    """

    axes: tuple[Axis, ...]
    values: Float[Array, "..."]
    __repr__, __pdoc__ = described, document

    def __init__(self, axes, values):
        self.axes = tuple(axes)
        self.values = jnp.asarray(values)
        expected = tuple(axis.nodes.size for axis in self.axes)
        if self.values.shape[: len(expected)] != expected:
            raise ValueError(f"table values have shape {self.values.shape}, the axes need {expected}")
        if isinstance(values, np.ndarray) and np.any(np.isnan(values)):
            raise ValueError(f"{int(np.isnan(values).sum())} table values of {values.size} are not numbers (NaN)")

    @partial(jax.jit, static_argnames="outside")
    def __call__(self, *coordinates, outside: float | None = 0.0) -> Float[Array, "..."]:
        """Interpolate at broadcastable `coordinates`, one per axis; `outside=None` extrapolates."""
        coordinates = jnp.broadcast_arrays(*[jnp.asarray(c, self.values.dtype) for c in coordinates])
        located = [axis.locate(x) for axis, x in zip(self.axes, coordinates, strict=True)]
        trailing = self.values.ndim - len(self.axes)
        # both neighbours along every axis, with their weights; cells lie in the table, so indices need no check
        sides = [
            [(index, 1.0)] if axis.nodes.size == 1 else [(index, 1.0 - fraction), (index + 1, fraction)]
            for axis, (index, fraction) in zip(self.axes, located, strict=True)
        ]
        result = jnp.zeros((), self.values.dtype)
        for corner in itertools.product(*sides):
            at, weights = zip(*corner, strict=True)
            value = self.values.at[at].get(mode="promise_in_bounds", wrap_negative_indices=False)
            weight = jnp.asarray(math.prod(weights), value.dtype)
            result = result + weight[(...,) + (None,) * trailing] * value
        if outside is None:
            return result
        inside = jnp.ones((), bool)
        for axis, x in zip(self.axes, coordinates, strict=True):
            inside = inside & axis.inside(x)
        return jnp.where(inside[(...,) + (None,) * trailing], result, jnp.asarray(outside, self.values.dtype))


def covered(table: Any, unit: str = "") -> str:
    """Ends of the axes of a table, of ln energy, offset and a third one in this unit, and the numbers of nodes."""
    if not isinstance(table, Table) or not all(isinstance(axis, Axis) for axis in table.axes) or not table.axes:
        return text(table)
    (low, high), *others = [(axis.lower, axis.upper) for axis in table.axes]
    ends = [f"{text(math.exp(low))} to {text(math.exp(high), 'TeV')}"]
    ends += [f"{text(low)} to {text(high, u)}" for (low, high), u in zip(others, ("deg", unit), strict=False)]
    return f"{listed(ends)} ({unbroken(' x '.join(length(axis.nodes) for axis in table.axes))})"


def refine(axis: Axis, values: np.ndarray, dimension: int) -> tuple[Axis, np.ndarray]:
    """Axis and values with one more node in the middle between neighbours, interpolated linearly."""
    nodes = np.asarray(axis.nodes, np.float64)
    return _resample(axis, np.sort(np.append(nodes, 0.5 * (nodes[1:] + nodes[:-1]))), values, dimension)


def extend(axis: Axis, values: np.ndarray, dimension: int) -> tuple[Axis, np.ndarray]:
    """Axis and values with linearly extrapolated nodes up to the ends of the axis (not below zero)."""
    nodes = np.asarray(axis.nodes, np.float64)
    if nodes.size < 2:
        return axis, values
    new = nodes
    for near, end in ((nodes[0], max(axis.lower, 0.0)), (nodes[-1], axis.upper)):
        if not np.isclose(near, end, atol=1e-6):
            new = np.append(new, [0.5 * (near + end), end])
    return _resample(axis, np.sort(new), values, dimension)


def _resample(axis, new, values, dimension):
    nodes = np.asarray(axis.nodes, np.float64)
    index = np.clip(np.searchsorted(nodes, new, side="right") - 1, 0, nodes.size - 2)
    fraction = (new - nodes[index]) / (nodes[index + 1] - nodes[index])
    shape = [-1 if d == dimension else 1 for d in range(values.ndim)]
    low, high = np.take(values, index, dimension), np.take(values, index + 1, dimension)
    return Axis(new, axis.lower, axis.upper), low + fraction.reshape(shape) * (high - low)
