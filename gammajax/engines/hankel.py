"""Radial fold: a round source through the point spread functions of all runs, without images.

With the Hankel transforms Shat(k) of the source and Phat_jm(k) of the point spread function at true energy E_j and
offset m, the folded brightness at separation r from the centre of the source is

    C_jm(r) = Int Shat(k) Phat_jm(k) J0(2 pi k r) 2 pi k dk,

one matrix product for all energies, offsets and responses. Area and dispersion change over the source. They enter at
the distribution of the true directions Omega of photons that are reconstructed at r, by its first two moments,

    mean = Int Omega S P / C,    variances along and across the line from the centre of the source,

which are the transforms of rho S (with J1) and rho^2 S (with J0 and J2). The mean over that distribution of a function
of offset takes the function at two offsets, one standard deviation on either side of the mean of a Rice distribution.

A fixed source keeps C_jm(r) at the true energies of the kernels (`Folded`). A free one is folded at every call, with
the energies of the point spread functions, between which tables are linear, and the sum over true energies comes before
the events (`Sheet`): its cost does not grow with the events.

Radii are separations theta, in a plane whose rings have the area of the sky times theta / sin(theta): values are
multiplied by this. The other plane about the centre, of offsets, is the Lambert projection: its distances are off by a
part in theta^2 / 24, 3e-4 at 5 deg.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.ndimage import spline_filter1d
from scipy.special import jv, roots_legendre

from gammajax.engines.convolution import interpolated_energies, offset_nodes
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.interpolation import interpolated, rowwise, slices
from gammajax.engines.transforms import Bessel, psf_density, psf_hankel, shape_transforms, sized_transforms
from gammajax.instrument.psf import PSF, TablePSF, psf_quantile, psf_radius
from gammajax.instrument.runs import Runs
from gammajax.instrument.sky import (
    DEGREE,
    SQUARE_DEGREE,
    enclosing_cap,
    project,
    root,
    separation_on_host,
    spline_weights,
)
from gammajax.model.morphology import Morphology, Point

OFFSET_STEP, POINT_OFFSET_STEP = 0.25, 0.125  # deg; a source with a size averages over offsets
PADDING = 6  # spline nodes beyond the range, enough for end effects to vanish
STEP = 0.35  # of radii, in widths of the narrowest folded source: cubic interpolation of far tails is good to 0.6 %
POINT_STEP = 0.15  # the same for a point, whose table needs no transform
PSF_PER_DECADE = 30.0  # energies of point spread functions that are no tables: tails are good to 0.4 %
PANEL = 16  # least number of quadrature nodes between two breaks of a morphology; five for each cycle of a frequency
FLOOR = 1e-12  # deg^-2, no brightness
# frequencies of a source whose size changes, for each cycle at its radius: cubic interpolation is good to 1e-3
PER_CYCLE, LEAST_SIZES = 8.0, 32
COARSE_RADIUS = 2  # radii of a sheet in steps of moments, which change slowly
TRACE = 1e-8  # part of the maximum below which a brightness does not change with offset
LIKELY = 1e-3  # part of the maximum below which rows do not set the window of offsets
LOST = 1e-8  # of the norm of a profile: smaller components are left out
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


class Directions(NamedTuple):
    """Directions about the centre of a source, in the plane [deg].

    Separation, and vectors to the direction and to the pointing. Columns are separate: so are their gradients.
    """

    rad: Float[Array, "*pair"]
    position: tuple[Float[Array, "*pair"], Float[Array, "*pair"]]
    pointing: tuple[Float[Array, "*pair"], Float[Array, "*pair"]]

    @property
    def crowding(self) -> Float[Array, "*pair"]:
        """Area of rings in the plane over that on the sky [deg^2 per sr]: theta / sin(theta), to 1e-6 at 20 deg."""
        square = (DEGREE * self.rad) ** 2
        return (1.0 + square / 6.0 * (1.0 + 7.0 / 60.0 * square)) / SQUARE_DEGREE


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
    - `moments` of true directions as in [`gammajax.engines.hankel.Folded`][], at every second radius and at
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


def hat_values(sides, window: int) -> list[list[Float[Array, "*pair"]]]:
    """Hat function of every node of a window, each at its own position, for both sides of the mean."""
    last = window - 1.0
    return [
        [jnp.maximum(1.0 - jnp.abs(jnp.clip(side, 0.0, last) - node), 0.0) for node, side in enumerate(of_nodes)]
        for of_nodes in sides
    ]


def weighted_sum(weights, values):
    """Sum of the products of two lists of columns."""
    return sum(a * b for a, b in zip(weights, values, strict=True))


def distance(x, y):
    """Length of vectors in the plane."""
    return jnp.sqrt(jnp.maximum(x**2 + y**2, 1e-12))


def offsets_of(mean, across, stretch, directions: Directions) -> tuple[Array, Array]:
    """Offsets [deg] one standard deviation below and above the mean of true directions with moments [..., pair]."""
    east, north = directions.position
    # from the pointing to the mean direction
    x, y = mean * east - directions.pointing[0], mean * north - directions.pointing[1]
    away = distance(x, y)
    toward = (x * east + y * north) / away
    along = jnp.maximum(across + stretch * toward**2, 0.0)
    total = 2.0 * across + stretch * directions.rad**2
    return two_offsets(away, along, jnp.maximum(total - along, 0.0))


def two_offsets(away, along, across) -> tuple[Array, Array]:
    """Offsets [deg] one standard deviation below and above the mean of those of directions in the plane.

    The directions have variances `along` and `across` [deg^2] the line from the pointing to their mean, which is `away`
    [deg]. Across it they only add to the offset; the square of the mean of a Rice distribution, here to 4e-4.
    """
    across = jnp.maximum(across, 1e-8)  # derivatives stay finite at the pointing
    square = away**2
    part = (across + 0.0333 * square) / (across**2 + 0.4017 * across * square + 0.082 * square**2)
    more = across * (1.0 + (0.5 * math.pi - 1.0) * across * part)
    mean = jnp.sqrt(square + more)
    width = jnp.sqrt(jnp.maximum(along + across - more, 1e-12))
    return jnp.abs(mean - width), mean + width


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


class PointFold(eqx.Module):
    """Point spread functions of all responses, for a point source.

    - `reach` [deg]: radius that contains all of them; `psf` [deg^-2]: spline coefficients of the profiles.
    """

    offsets: Float[Array, " offset"]
    reach: float
    radii: Radii
    psf: Float[Array, "response offset energy radius"]
    linear: bool = eqx.field(static=True)

    @classmethod
    def init(cls, spreads: "Spreads") -> "PointFold":
        """Tabulate; eager."""
        radii, rad, inverse = spreads.radii(POINT_STEP)
        tables = [psf_density(psf, energy, offset, jnp.asarray(rad)) for psf, energy, offset in spreads.psfs]
        psf = [_without_gaps(np.asarray(table, np.float64)) @ inverse * SQUARE_DEGREE for table in tables]
        return cls(jnp.asarray(spreads.offsets), np.float64(spreads.reach), radii, _single(psf), spreads.linear)

    def __call__(self, morphology: Morphology) -> Profiles:
        """The tables: they do not depend on the position."""
        centre = jnp.asarray(morphology.lon), jnp.asarray(morphology.lat)
        return Profiles(centre, self.radii, self.offsets, self.psf, None, jnp.zeros(()), self.linear)


class RadialFold(eqx.Module):
    """Hankel transforms of the point spread functions of all responses, for extended round sources up to a size.

    - `reach` [deg]: radius that contains all point spread functions.
    - `psf`: transform by response, offset, energy and frequency `k` [cycles/deg]; or coefficients of `parts`, few
      functions of k that make up all of them.
    - `value`: from a transform to the spline coefficients of C(r); `mean`, `square`, `stretch`: to its moments at every
      second radius, with J1, J0 and J2.
    - `order`: quadrature nodes between two breaks of the morphology.
    - `energy` [TeV] of the point spread functions, for a source whose size changes with it, and `sizes`: number of
      frequencies of its largest size; otherwise None and zero.
    """

    offsets: Float[Array, " offset"]
    reach: float
    radii: Radii
    psf: Float[Array, "response offset energy column"]
    parts: Float[Array, "part k"] | None
    k: Float[Array, " k"]
    value: Float[Array, "k radius"]
    mean: Float[Array, "k node"]
    square: Float[Array, "k node"]
    stretch: Float[Array, "k node"]
    bessel: Bessel
    order: int = eqx.field(static=True)
    linear: bool = eqx.field(static=True)
    energy: Float[Array, " energy"] | None
    sizes: int = eqx.field(static=True)

    @classmethod
    def init(cls, spreads: "Spreads", panel: float, energy=None, compress: bool = False) -> "RadialFold":
        """Transform; eager, in double precision on the host. `panel` [deg]: largest distance between two breaks.

        `energy` [TeV] of the point spread functions, for a source that changes with it. `compress`: by principal
        components where that saves operations. Others are transformed for each energy, with its own source.
        """
        radii, rad, inverse = spreads.radii(STEP)
        reach = spreads.radius + spreads.reach
        highest = 1.0 / spreads.width
        # Gauss-Legendre nodes are sparsest in the middle, by pi / 2: more than two for each cycle at the largest radius
        number = -(-(math.ceil(4.0 * highest * reach) + 40) // 16) * 16
        k, weight = roots_legendre(number)
        k, weight = 0.5 * highest * (k + 1.0), 0.5 * highest * weight
        measure = (2.0 * np.pi * k * weight)[:, None]
        values = jv(0, 2.0 * np.pi * k[:, None] * rad) * measure @ inverse
        rad = rad[PADDING::COARSE_RADIUS]
        z = 2.0 * np.pi * k[:, None] * rad
        # ratios to the radius stay finite at the centre
        safe = np.maximum(rad, 1e-3 * spreads.width)
        first = jv(1, 2.0 * np.pi * k[:, None] * safe) / safe
        second = jv(2, 2.0 * np.pi * k[:, None] * safe) / safe**2
        psf = np.stack([_without_gaps(psf_hankel(*grid, spreads.reach, k)) for grid in spreads.psfs])
        parts = principal_components(psf.reshape(-1, number)) if compress and energy is None else None
        return cls(
            jnp.asarray(spreads.offsets),
            np.float64(spreads.reach),
            radii,
            _single(psf if parts is None else psf @ parts.T),
            None if parts is None else _single(parts),
            jnp.asarray(k),
            _single(values),
            _single(first * measure),
            _single(jv(0, z) * measure),
            _single(second * measure),
            Bessel.upto(2.0 * np.pi * highest * spreads.radius * 1.05),
            PANEL + -(-math.ceil(5.0 * highest * panel) // 16) * 16,
            spreads.linear,
            None if energy is None else jnp.asarray(energy),
            0 if energy is None else math.ceil(PER_CYCLE * highest * spreads.radius) + LEAST_SIZES,
        )

    def __call__(self, morphology: Morphology) -> Profiles:
        """Fold the source at its current parameters."""

        def folded(transform, matrix):
            if self.energy is not None:
                return jnp.matmul(self.psf * transform, matrix)
            if self.parts is None:
                return jnp.matmul(self.psf, transform[:, None] * matrix)
            return jnp.matmul(self.psf, (self.parts * transform) @ matrix)

        if self.energy is None:
            source, mean, square, stretch = shape_transforms(morphology, self.k, self.bessel, self.order)
        else:
            largest, size = morphology.largest(self.energy)
            source, mean, square, stretch = sized_transforms(largest, size, self.k, self.bessel, self.order, self.sizes)
        value, *moments = (
            folded(transform, matrix)
            for transform, matrix in (
                (source, self.value),
                (source, self.square),
                (mean, self.mean),
                (square, self.square),
                (stretch, self.stretch),
            )
        )
        centre = jnp.asarray(morphology.lon), jnp.asarray(morphology.lat)
        return Profiles(centre, self.radii, self.offsets, value, tuple(moments), morphology.radius, self.linear)


class Spreads(NamedTuple):
    """Point spread functions with a grid of their energies and offsets, and the sizes of a source in their fields.

    `narrow`, `width` [deg]: of the narrowest point spread function and folded source; `core` [deg]: up to which it may
    have edges; `reach` [deg] contains the point spread functions, `radius` [deg] the source.
    """

    psfs: list[tuple[PSF, Array, Array]]
    offsets: np.ndarray
    reach: float
    radius: float
    narrow: float
    width: float
    core: float

    @classmethod
    def of(cls, morphologies: Sequence[Morphology], runs: Runs, energy, moves: float = 0.0) -> "Spreads":
        """For one source at several values of its parameters; `energy` [TeV] of all responses, or of each.

        `moves` [deg]: of the pointings, in any direction.
        """
        energy = np.broadcast_to(energy, (len(runs.responses), np.shape(energy)[-1]))
        radius = max(float(m.radius) for m in morphologies)
        scale = min(float(m.scale) for m in morphologies)
        # the source may be anywhere between these positions
        lon, lat, spread = positions(morphologies)
        away = separation_on_host(lon, lat, runs.lon, runs.lat)
        tops = runs.highest_energy
        inside = np.linspace(0.0, float(runs.offset_max.max()), 5)
        each = list(zip(runs.responses, energy, tops, strict=True))
        probes = [_grid(response.psf, at, top, inside) for response, at, top in each]
        narrow = min(float(psf_quantile(psf, e, o, jnp.full(e.shape, 0.393)).min()) for psf, e, o in probes)
        reach = max(float(psf_radius(psf, e, o).max()) for psf, e, o in probes)
        # photons from farther than this from a pointing are not selected
        spread = spread + moves
        farthest = min(away.max() + spread + radius, float(runs.offset_max.max()) + reach)
        nearest = min(max(0.0, away.min() - spread - radius), farthest)
        is_point = isinstance(morphologies[0], Point)
        step = POINT_OFFSET_STEP if is_point else _offset_step([psf for psf, *_ in probes])
        offsets = offset_nodes(nearest, farthest, step)
        psfs = [_grid(response.psf, at, top, offsets) for response, at, top in each]
        width = math.hypot(scale, narrow)
        return cls(psfs, offsets, reach, radius, narrow, width, 3.0 * width + (0.0 if scale > 0 else radius))

    @property
    def linear(self) -> bool:
        """Whether all point spread functions are tables, linear between the nodes."""
        return all(isinstance(psf, TablePSF) for psf, *_ in self.psfs)

    def radii(self, step: float) -> tuple[Radii, np.ndarray, np.ndarray]:
        """Radii in steps of so many widths; the nodes with a mirror image beyond zero, and the spline's matrix."""
        end = jnp.asarray(self.radius + self.reach)
        radii = Radii(jnp.asarray(step * self.width), jnp.asarray(self.core), jnp.asarray(6.0 * self.width), end)
        count = math.ceil(float(radii.position(end))) + 1 + PADDING
        count = -(-count // 16) * 16
        even = np.abs(np.arange(-PADDING, count))  # profiles are even
        return radii, radii.nodes(count)[even], spline_filter1d(np.eye(even.size), 3, axis=1, mode="mirror")


def positions(morphologies: Sequence[Morphology]) -> tuple[float, float, float]:
    """Centre (lon, lat) and radius [deg] of a cap with all positions of a source, of which these are some."""
    return enclosing_cap(*(np.array([float(getattr(m, name)) for m in morphologies]) for name in ("lon", "lat")))


def _grid(psf, energy, top, offsets) -> tuple[PSF, Array, Array]:
    """A point spread function with energies up to the end of its response, and offsets [offset, energy]."""
    o, e = np.meshgrid(offsets, np.minimum(energy, top), indexing="ij")
    return psf, jnp.asarray(e), jnp.asarray(o)


def _offset_step(psfs) -> float:
    """Distance [deg] of offset nodes: that of tables which are linear between them, or a fixed one."""
    if not all(isinstance(psf, TablePSF) for psf in psfs):
        return OFFSET_STEP
    nodes = np.concatenate([np.asarray(psf.profile.axes[1].nodes) for psf in psfs]) / (2.0 * OFFSET_STEP)
    return 2.0 * OFFSET_STEP if np.allclose(nodes, np.rint(nodes), atol=1e-3) else OFFSET_STEP


def principal_components(rows: Float[np.ndarray, "row k"]) -> Float[np.ndarray, "part k"] | None:
    """Orthonormal functions that make up all rows, to 1e-8 of their norm; None if more than half of the columns."""
    _, strength, parts = np.linalg.svd(np.linalg.qr(rows, mode="r"), full_matrices=False)
    # a component of this strength may be all of one row
    count = int((strength > LOST * strength[0] / math.sqrt(len(rows))).sum())
    count = -(-count // 8) * 8  # equal numbers share compiled functions
    return parts[:count] if count <= rows.shape[1] // 2 else None


def radial_fold(
    morphologies: Sequence[Morphology],
    runs: Runs,
    energy: Float[np.ndarray, "*response energy"],
    moves: float = 0.0,
    compress: bool = False,
) -> PointFold | RadialFold:
    """Tables for one round source at several values of its parameters, at true energies [TeV]; eager.

    `moves` [deg]: of the pointings. `compress`: for many calls, some 25 principal components serve hundreds of
    frequencies.
    """
    spreads = Spreads.of(morphologies, runs, energy, moves)
    if isinstance(morphologies[0], Point):
        return PointFold.init(spreads)
    panel = max(float(np.diff(np.asarray(m.breaks)).max()) for m in morphologies)
    if not morphologies[0].is_energy_dependent:
        return RadialFold.init(spreads, panel, compress=compress)
    return RadialFold.init(spreads, panel, np.broadcast_to(energy, (len(runs.responses), np.shape(energy)[-1]))[0])


def _without_gaps(table: Float[np.ndarray, "offset energy part"]) -> Float[np.ndarray, "offset energy part"]:
    """Replace profiles of zeros by those of the nearest energy: densities between the two are normalised."""
    result = table.copy()
    for part in result:
        some = np.flatnonzero(np.any(part != 0, axis=1))
        if 0 < some.size < len(part):
            part[:] = part[some[np.abs(np.arange(len(part))[:, None] - some).argmin(1)]]
    return result


def _single(table) -> Array:
    """On the device, in its precision."""
    return jnp.asarray(np.asarray(table, jnp.zeros(()).dtype))


def psf_energies(
    runs: Runs, nodes: EnergyNodes, common: bool = False
) -> tuple[Float[np.ndarray, "response psf_energy"], Float[np.ndarray, "response energy psf_energy"]]:
    """Energies [TeV] of the point spread functions of all responses, and their interpolation to the nodes.

    Tables have their own energies: they are linear in ln E between them. Others follow cubic polynomials. `common`: the
    same for all responses, and close enough for a source that changes with energy.
    """
    energy = np.asarray(nodes.energy, np.float64)
    psfs = [response.psf for response in runs.responses]
    own = []
    if not common and all(isinstance(psf, TablePSF) for psf in psfs):
        for psf in psfs:
            assert isinstance(psf, TablePSF)
            at = np.asarray(psf.profile.axes[0].nodes, np.float64)
            low, high = np.searchsorted(at, np.log(energy[[0, -1]]), side="right")
            own.append(at[max(low - 1, 0) : high + 1])
        count = max(at.size for at in own)
        if 2 <= count < energy.size:
            return _stacked(own, count, np.log(energy))
    at, share = energy, np.eye(energy.size)
    if not any(isinstance(psf, TablePSF) for psf in psfs):
        share, at = interpolated_energies(energy, nodes.log_step, PSF_PER_DECADE, 4)
    every = len(psfs)
    return np.broadcast_to(at, (every, at.size)), np.broadcast_to(share, (every, *share.shape))


def _stacked(own, count: int, log_energy) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of tables of several lengths, and the hat functions of linear interpolation between them."""
    energies, shares = np.empty((len(own), count)), np.zeros((len(own), log_energy.size, count))
    for at, energy, share in zip(own, energies, shares, strict=True):
        energy[:] = np.exp(np.append(at, np.full(count - at.size, at[-1])))
        below = np.clip(np.searchsorted(at, log_energy, side="right") - 1, 0, max(at.size - 2, 0))
        above = np.minimum(below + 1, at.size - 1)
        part = (log_energy - at[below]) / np.where(above > below, at[above] - at[below], 1.0)
        row = np.arange(log_energy.size)
        share[row, below] += np.where(above > below, 1.0 - part, 1.0)
        share[row, above] += np.where(above > below, part, 0.0)
    return energies, shares


def directions(
    centre: tuple[Array, Array],
    runs: Runs,
    run: Int[Array, " pair"],
    lon: Float[Array, " pair"],
    lat: Float[Array, " pair"],
) -> Directions:
    """Directions [deg] that are reconstructed in some runs, about the `centre` (lon, lat) [deg] of the source."""
    x, y = project(lon, lat, *centre)
    rho = DEGREE * root(x**2 + y**2)
    # 2 arcsin(rho / 2); good to 1e-6 up to 20 deg
    rad = rho * (1.0 + rho**2 / 24.0 * (1.0 + 9.0 * rho**2 / 80.0)) / DEGREE
    east, north = (column[run] for column in project(runs.lon, runs.lat, *centre))
    return Directions(rad, (x, y), (east, north))
