"""Profiles of a folded round source, and their values at events.

A fixed source keeps C_jm(r) of [`gammajax.engines.hankel`][] at the true energies of the kernels (`Folded`). A free one
is folded at every call, with the energies of the point spread functions, between which tables are linear, and the sum
over true energies comes before the events (`Sheet`): its cost does not grow with the events.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.engines.interpolation import interpolated, rowwise, slices
from gammajax.engines.plane import Directions, distance, hat_values, offsets_of, weighted_sum
from gammajax.instrument.sky import spline_weights

PADDING = 6  # spline nodes beyond the range, enough for end effects to vanish
FLOOR = 1e-12  # deg^-2, no brightness
COARSE_RADIUS = 2  # radii of a sheet in steps of moments, which change slowly
TRACE = 1e-8  # part of the maximum below which a brightness does not change with offset
LIKELY = 1e-3  # part of the maximum below which rows do not set the window of offsets
LEAST = 1e-6  # part of the maximum below which the moments of true directions are noise


class Radii(eqx.Module):
    """Spline nodes in radius [deg]: steps are equal up to `core` and grow over the length `growth` beyond.

    Beyond `end` [deg] there is nothing: frequencies are too few for larger radii.
    """

    step: Float[Array, ""]
    core: Float[Array, ""]
    growth: Float[Array, ""]
    end: Float[Array, ""]

    def position(self, rad: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Coordinate of separations [deg]; nodes are integers."""
        beyond = self.growth * jnp.arcsinh(jnp.maximum(rad - self.core, 0.0) / self.growth)
        return (jnp.minimum(rad, self.core) + beyond) / self.step

    def at(self, position: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Separations [deg] at coordinates."""
        even = self.step * position
        beyond = self.growth * jnp.sinh(jnp.maximum(even - self.core, 0.0) / self.growth)
        return jnp.minimum(even, self.core) + beyond

    def nodes(self, count: int) -> Float[np.ndarray, " node"]:
        """The first `count` radii [deg], in double precision."""
        even = np.arange(count) * float(self.step)
        core, growth = float(self.core), float(self.growth)
        return np.where(even < core, even, core + growth * np.sinh(np.maximum(even - core, 0.0) / growth))


class Folded(eqx.Module):
    """A source folded with the point spread functions, at the current parameters.

    - `coefficients` [deg^-2]: cubic B-spline of C_jm(r), by response, radius, offset and energy.
    - `moments` of true directions at every second radius, for photons with the point spread function of each offset:
      mean distance from the centre [radius], variance across the line from the centre [deg^2], and along it minus
      across it [radius^2]. None for a point, whose photons come from its position.
    - `linear`: whether point spread functions are linear in offset between the nodes, as tables are.
    """

    radii: Radii
    offsets: Float[Array, " offset"]
    coefficients: Float[Array, "response radius offset energy"]
    moments: tuple[Float[Array, "response node offset energy"], ...] | None
    linear: bool = eqx.field(static=True)

    def sides(
        self, response, first, window: int, start, band: int, directions: Directions
    ) -> Float[Array, "2 pair offset band"]:
        """Offsets of true directions in steps of the nodes, one standard deviation below and above their mean.

        For photons with the point spread function of each offset node of a window from `first` on.
        """
        step = self.offsets[1] - self.offsets[0]
        if self.moments is None:
            away = distance(*directions.pointing)
            at = jnp.broadcast_to(away[:, None, None], (2, away.size, window, band))
            return (at - self.offsets[0]) / step
        last = self.moments[0].shape[1] - 1.001
        where = jnp.clip(self.radii.position(directions.rad) / COARSE_RADIUS, 0.0, last)
        index = where.astype(jnp.int32)
        share = (where - index)[:, None, None]

        def between(table):
            near = [slices(table, (response, index + i, first, start), (window, band)) for i in (0, 1)]
            return near[0] + share * (near[1] - near[0])

        mean, across, stretch = (jnp.moveaxis(between(table), 0, -1) for table in self.moments)
        sides = jnp.stack(offsets_of(mean, across, stretch, directions))
        return (jnp.moveaxis(sides, -1, 1) - self.offsets[0]) / step

    def kernel(
        self, detected: Float[Array, "pair offset band"], response, first, start, directions: Directions
    ) -> Float[Array, "pair band"]:
        """Sum over offset nodes of (h A D C)_jm(r) [per sr], with the mean hat functions of the true directions.

        `detected`: A D at the offset nodes of a window from `first` on, for energies from `start` on. Tabulated point
        spread functions are linear in offset. Others change by factors in their tails: the geometric mean of the
        arithmetic and the harmonic mean, which is linear in the logarithm to third order, replaces the arithmetic one.
        """
        window, band = detected.shape[1:]
        where = self.radii.position(directions.rad) + PADDING
        inside = directions.rad <= self.radii.end
        where = jnp.where(inside, where, 1.0)
        index = jnp.floor(where).astype(jnp.int32)
        taps = spline_weights(where - index)
        value = jnp.zeros((), taps.dtype)
        for tap in range(4):
            near = slices(self.coefficients, (response, index + (tap - 1), first, start), (window, band))
            value = value + taps[:, tap, None, None] * near
        at = self.sides(response, first, window, start, band, directions)
        at = jnp.clip(at - first[:, None, None].astype(at.dtype), 0.0, window - 1.0)
        hat = jnp.maximum(1.0 - jnp.abs(at - jnp.arange(window)[:, None]), 0.0)
        if self.linear:
            result = (hat.mean(0) * detected * value).sum(1)
        else:
            value = jnp.maximum(value, FLOOR)
            means = (hat * value).sum(2) * (hat / value).sum(2)
            total = jnp.maximum(hat.sum(2), 1e-6)
            result = ((hat * detected * value).sum(2) * total / jnp.sqrt(jnp.maximum(means, 1e-12))).mean(0)
        return jnp.where(inside, directions.crowding, 0.0)[:, None] * result


class Sheet(eqx.Module):
    """A source as it is detected: folded brightness times a response by offset, summed over true energies.

    - `values`: coefficients of a cubic B-spline in radius and, if there is more than one, in reconstructed energy, by
      response or run.
    - `moments` of true directions as in [`gammajax.engines.radial_profiles.Folded`][], at every second radius and at
      `coarse` energies, which may be every fourth. None for a point.
    - `spread`: the folded brightness alone, at the coarse energies, for point spread functions that are not linear in
      offset between the nodes; otherwise None.
    - `window`: number of offset nodes that the true directions of a photon reach.
    """

    radii: Radii
    offsets: Float[Array, " offset"]
    values: Float[Array, "table offset energy radius"]
    moments: Float[Array, "table offset 3 coarse node"] | None
    spread: Float[Array, "table offset coarse radius"] | None
    window: int = eqx.field(static=True)

    def __call__(
        self, table: Int[Array, " pair"], energy: Float[Array, " pair"], directions: Directions
    ) -> Float[Array, " pair"]:
        """Value [per sr] of pairs of a table and a direction; `energy`: position among the energies."""
        return rowwise(_over_offsets, *self._columns(table, energy, directions))

    def by_offset(
        self, table: Int[Array, " pair"], energy: Float[Array, " pair"], directions: Directions
    ) -> tuple[list[Float[Array, " pair"]], Int[Array, " pair"]]:
        """Terms of the value for the offset nodes of a window, and the first node of the windows."""
        columns, window = self._columns(table, energy, directions)
        return _by_offset(columns, window), window.first

    def _columns(self, table, energy, directions):
        """The tables at every pair, and where they stand."""
        inside = directions.rad <= self.radii.end
        where = jnp.where(inside, self.radii.position(directions.rad), 1.0)
        first, moments = self._moments(table, energy, where, directions)
        row, column = jnp.floor(energy).astype(jnp.int32), jnp.floor(where).astype(jnp.int32)
        single = self.values.shape[2] == 1
        taps = jnp.ones((table.size, 1), where.dtype) if single else spline_weights(energy - row)
        index = (table, first, row if single else row - 1, column + (PADDING - 1))
        across = spline_weights(where - column)
        value, spread = interpolated(self.values, taps, across, index, self.window), None
        if self.spread is not None:
            row = self._coarse(energy, self.spread.shape[2])
            one = jnp.ones((table.size, 1), where.dtype)
            spread = interpolated(self.spread, one, across, (table, first, row, column + (PADDING - 1)), self.window)
            # relative to the largest, which may be zero: powers of the inverse stay in the range of single precision
            top = jnp.maximum(jax.lax.stop_gradient(self.spread.max()), 1e-30)
            spread = [part / top for part in spread]
        begin, step = jnp.broadcast_arrays(self.offsets[0], self.offsets[1] - self.offsets[0], first)[:2]
        return RadialColumns(directions, value, moments, spread), Window(inside, first, begin, step)

    def _coarse(self, energy, count: int) -> Int[Array, " pair"]:
        """Index of the nearest of `count` coarse energies."""
        every = round((self.values.shape[2] - 1) / max(count - 1, 1))
        return jnp.rint(energy / max(every, 1)).astype(jnp.int32)

    def _moments(self, table, energy, where, directions):
        """First offset node of every pair's window, and the moments of true directions for each node of it."""
        step, count = self.offsets[1] - self.offsets[0], self.offsets.size
        if self.moments is None:
            at = jax.lax.stop_gradient((distance(*directions.pointing) - self.offsets[0]) / step)
            return jnp.clip(jnp.floor(at), 0, count - self.window).astype(jnp.int32), None
        # moments change slowly: those of the nearest energy, which does not depend on parameters
        parts = self.moments.shape[2]
        moments = self.moments.reshape(self.moments.shape[0], -1, *self.moments.shape[3:])
        row = self._coarse(energy, moments.shape[2])
        where = jnp.clip(where / COARSE_RADIUS, 0.0, moments.shape[3] - 1.001)
        column = where.astype(jnp.int32)
        share = jnp.stack([1.0 - (where - column), where - column], axis=1)
        one = jnp.ones((table.size, 1), share.dtype)

        def found(first, window):
            near = interpolated(moments, one, share, (table, parts * first, row, column), parts * window)
            return [near[parts * node : parts * (node + 1)] for node in range(window)]

        there = (a - b for a, b in zip(directions.position, directions.pointing, strict=True))
        nearest = jnp.clip(jnp.rint((distance(*there) - self.offsets[0]) / step), 0, count - 1).astype(jnp.int32)
        ((mean, across, stretch),) = found(nearest, 1)
        low, _ = jax.lax.stop_gradient(offsets_of(mean, across, stretch, directions))
        first = jnp.clip(jnp.floor((low - self.offsets[0]) / step), 0, count - self.window).astype(jnp.int32)
        return first, found(first, self.window)


class RadialColumns(NamedTuple):
    """Tables of a sheet at a pair: for each offset node of its window `value`, `moments` and `spread` of the sheet."""

    directions: Directions
    value: list[Array]
    moments: list[list[Array]] | None
    spread: list[Array] | None


class Window(NamedTuple):
    """The offset nodes of a pair: `first` of them, at `begin` + `step` times `first` [deg]; `inside` the table."""

    inside: Array
    first: Array
    begin: Array
    step: Array


def _by_offset(columns: RadialColumns, window: Window) -> list:
    """Terms of the value of a sheet for the offset nodes of the window; of one pair or of many."""
    directions, value, moments, spread = columns
    if moments is None:
        sides = [[distance(*directions.pointing)] * len(value)] * 2
    else:
        each = [offsets_of(mean, across, stretch, directions) for mean, across, stretch in moments]
        sides = list(zip(*each, strict=True))
    sides = [[(part - window.begin) / window.step - window.first for part in side] for side in sides]
    hats = hat_values(sides, len(value))
    if spread is not None:
        # the geometric mean of the arithmetic and the harmonic mean replaces the arithmetic one, as in `Folded`
        spread = [jnp.maximum(part, TRACE) for part in spread]
        inverse = [1.0 / part for part in spread]
        means = [jnp.sqrt(jnp.maximum(weighted_sum(hat, spread) * weighted_sum(hat, inverse), 1e-12)) for hat in hats]
        hats = [[part * (sum(hat) / mean) for part in hat] for hat, mean in zip(hats, means, strict=True)]
    factor = jnp.where(window.inside, 0.5 * directions.crowding, 0.0)
    return [factor * (low + high) * part for low, high, part in zip(*hats, value, strict=True)]


def _over_offsets(columns: RadialColumns, window: Window):
    return sum(_by_offset(columns, window))


class Profiles(eqx.Module):
    """A source folded with the point spread functions, at the current parameters.

    - `centre` (lon, lat) and `radius` [deg] of the source. `values` [deg^-2]: cubic B-spline of C_em(r); `moments`: the
      transforms with S, rho S, rho^2 S (J0 and J2) at every second radius, None for a point.
    """

    centre: tuple[Array, Array]
    radii: Radii
    offsets: Float[Array, " offset"]
    values: Float[Array, "response offset energy radius"]
    moments: tuple[Float[Array, "response offset energy node"], ...] | None
    radius: Float[Array, ""]
    linear: bool = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of responses, offsets and energies."""
        return self.values.shape[:3]

    @property
    def folded(self) -> Folded:
        """For kernels."""
        order = (0, 3, 1, 2)
        moments = self.moments
        if moments is not None:
            moments = tuple(part.transpose(order) for part in self.true_directions(*moments))
        return Folded(self.radii, self.offsets, self.values.transpose(order), moments, self.linear)

    def sheet(self, weight, coarse, window: int) -> Sheet:
        """Sum over energies with weights [table, offset, reconstructed energy, energy], and with coarser ones.

        Tables are those of the responses.
        """
        values = jnp.matmul(weight, self.values)
        moments = None
        if self.moments is not None:
            moments = self.true_directions(*(jnp.matmul(coarse, part) for part in self.moments))
            moments = jnp.stack(moments, axis=2)
        spread = None if self.linear else jnp.matmul(coarse.mean(1, keepdims=True), self.values)
        return Sheet(self.radii, self.offsets, values, moments, spread, window)

    def of(self, response: Int[Array, " table"]) -> "Profiles":
        """Those of some responses."""
        return eqx.tree_at(
            lambda p: (p.values, p.moments),
            self,
            replace_fn=lambda x: jax.tree.map(lambda a: a[response], x),
            is_leaf=lambda x: x is None,
        )

    def true_directions(self, total, mean, square, stretch):
        """Mean distance, variance across and stretch, from transforms [..., node]."""
        count = total.shape[-1]
        rad = jnp.maximum(self.radii.at(COARSE_RADIUS * jnp.arange(float(count))), 1e-9)
        some = total > LEAST * total.max(-1, keepdims=True)
        total = jnp.where(some, total, 1.0)
        # beyond, photons come from the near rim; these bounds hold for every source
        near = self.radius / rad
        mean = jnp.where(some, jnp.clip(mean / total, 0.0, near), jnp.minimum(near, 1.0))
        # means of rho^2, and of the squares along minus across [radius^2]
        square = jnp.where(some, jnp.clip(square / total, 0.0, self.radius**2), (mean * rad) ** 2)
        stretch = jnp.where(some, stretch / total, mean**2)
        across = jnp.maximum(0.5 * (square - stretch * rad**2), 0.0)
        return mean, across, stretch - mean**2

    @property
    def span(self) -> Float[Array, ""]:
        """Largest distance [deg] of the two offsets that stand for the true directions of a photon."""
        if self.moments is None:
            return jnp.zeros(())
        _, across, stretch = self.true_directions(*self.moments)
        rad = self.radii.at(COARSE_RADIUS * jnp.arange(float(across.shape[-1])))
        likely = self.moments[0] > LIKELY * self.moments[0].max(-1, keepdims=True)
        along = jnp.maximum(across, across + stretch * rad**2)
        return 2.0 * jnp.sqrt(jnp.where(likely, along, 0.0).max())
