"""Radial fold: a round source through the point spread functions of all runs, without images.

With the Hankel transforms Shat(k) of the source and Phat_jm(k) of the point spread function at true energy E_j and
offset m, the folded brightness at separation r from the centre of the source is

    C_jm(r) = Int Shat(k) Phat_jm(k) J0(2 pi k r) 2 pi k dk,

one matrix product for all energies, offsets and responses. Area and dispersion change over the source. They enter at
the distribution of the true directions Omega of photons that are reconstructed at r, by its first two moments,

    mean = Int Omega S P / C,    variances along and across the line from the centre of the source,

which are the transforms of rho S (with J1) and rho^2 S (with J0 and J2). The mean over that distribution of a function
of offset takes the function at two offsets, one standard deviation on either side of the mean.

Radii are separations. The plane about the centre is the Lambert projection: its distances are off by a part in
theta^2 / 8, 1e-4 at 1.6 deg.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.ndimage import spline_filter1d
from scipy.special import jv

from gammajax.fold import offset_nodes, psf_quantile, psf_radius
from gammajax.morphology import Morphology, Point
from gammajax.psf import PSF, TablePSF
from gammajax.runs import Runs
from gammajax.sky import DEGREE, SQUARE_DEGREE, project, separation, separation_on_host, spline_weights

OFFSET_STEP, POINT_OFFSET_STEP = 0.25, 0.125  # deg; a source with a size averages over offsets
PADDING = 6  # spline nodes beyond the range, enough for end effects to vanish
STEP = 0.35  # of radii, in widths of the narrowest folded source: cubic interpolation of far tails is good to 0.6 %
POINT_STEP = 0.15  # the same for a point, whose table needs no transform
RING_NODES = 400  # quadrature nodes of a point spread function
PANEL = 16  # least number of quadrature nodes between two breaks of a morphology; five for each cycle of a frequency
BESSEL_STEP = 0.05
FLOOR = 1e-12  # deg^-2, no brightness
LEAST = 1e-6  # part of the maximum below which the moments of true directions are noise


class Bessel(eqx.Module):
    """J0, J1 and J2 by cubic Hermite interpolation, to 2e-8.

    `values`: the functions and their derivatives at multiples of 0.05.
    """

    values: Float[Array, "node 6"]

    @classmethod
    def upto(cls, largest: float) -> "Bessel":
        """Table from zero to the `largest` argument."""
        z = BESSEL_STEP * np.arange(math.ceil(largest / BESSEL_STEP) + 2)
        functions = [jv(n, z) for n in range(3)]
        slopes = [-jv(1, z), 0.5 * (jv(0, z) - jv(2, z)), 0.5 * (jv(1, z) - jv(3, z))]
        return cls(jnp.asarray(np.stack([*functions, *slopes], axis=-1)))

    def __call__(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape 3"]:
        """The functions at `z`."""
        where = jnp.clip(z / BESSEL_STEP, 0.0, self.values.shape[0] - 1.001)
        index = where.astype(jnp.int32)
        f = (where - index)[..., None]
        low, high = self.values[index], self.values[index + 1]
        g = 1.0 - f
        slopes = BESSEL_STEP * (g * low[..., 3:] - f * high[..., 3:]) * f * g
        return g**2 * (1.0 + 2.0 * f) * low[..., :3] + f**2 * (1.0 + 2.0 * g) * high[..., :3] + slopes


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

    def nodes(self, count: int) -> Float[np.ndarray, " node"]:
        """The first `count` radii [deg]."""
        even = np.arange(count) * float(self.step)
        core, growth = float(self.core), float(self.growth)
        return np.where(even < core, even, core + growth * np.sinh(np.maximum(even - core, 0.0) / growth))


class Directions(NamedTuple):
    """Directions about a source and a pointing: separation, position [deg] from the source's centre, and pointing."""

    rad: Float[Array, " pair"]
    position: Float[Array, "pair 2"]
    pointing: Float[Array, "pair 2"]


class Folded(eqx.Module):
    """A source folded with the point spread functions, at the current parameters.

    - `coefficients` [deg^-2]: cubic B-spline of C_jm(r), by response, radius, offset and energy.
    - `moments` of true directions, for photons with the point spread function of each offset: mean distance from the
      centre [radius], variance across the line from the centre [deg^2], and along it minus across it [radius^2]. None
      for a point, whose photons come from its position.
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
            away = jnp.hypot(directions.pointing[:, 0], directions.pointing[:, 1])
            at = jnp.broadcast_to(away[:, None, None], (2, away.size, window, band))
            return (at - self.offsets[0]) / step
        where = jnp.clip(self.radii.position(directions.rad), 0.0, self.moments[0].shape[1] - 1.001)
        index = where.astype(jnp.int32)
        share = (where - index)[:, None, None]

        def between(table):
            near = [_slices(table, (response, index + i, first, start), (window, band)) for i in (0, 1)]
            return near[0] + share * (near[1] - near[0])

        mean, across, stretch = map(between, self.moments)
        east, north = (directions.position[:, i, None, None] for i in range(2))
        # from the pointing to the mean direction
        x, y = mean * east - directions.pointing[:, :1, None], mean * north - directions.pointing[:, 1:, None]
        distance = jnp.sqrt(jnp.maximum(x**2 + y**2, 1e-12))
        toward = (x * east + y * north) / distance
        along = jnp.maximum(across + stretch * toward**2, 0.0)
        total = 2.0 * across + stretch * (directions.rad**2)[:, None, None]
        # spread across the line to the pointing only adds to the offset
        distance = jnp.sqrt(distance**2 + jnp.maximum(total - along, 0.0))
        width = jnp.sqrt(jnp.maximum(along, 1e-12))
        return (jnp.stack([jnp.abs(distance - width), distance + width]) - self.offsets[0]) / step

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
            near = _slices(self.coefficients, (response, index + (tap - 1), first, start), (window, band))
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
        return jnp.where(inside[:, None], result, 0.0) / SQUARE_DEGREE


def _slices(table, first, size):
    """Windows of the last two dimensions of a table at the indices of all four, one for each pair."""
    numbers = jax.lax.GatherDimensionNumbers((1, 2), (0, 1), (0, 1, 2, 3))
    index = jnp.stack(first, axis=-1)
    return jax.lax.gather(table, index, numbers, (1, 1, *size), mode="clip")


class PointFold(eqx.Module):
    """Point spread functions of all responses, for a point source.

    - `reach` [deg]: radius that contains all of them; `psf` [deg^-2]: spline coefficients of the profiles.
    """

    offsets: Float[Array, " offset"]
    reach: float
    radii: Radii
    psf: Float[Array, "response radius offset energy"]
    linear: bool = eqx.field(static=True)

    @classmethod
    def init(cls, spreads: "Spreads") -> "PointFold":
        """Tabulate; eager."""
        radii, rad, inverse = spreads.radii(POINT_STEP)
        tables = [_density(psf, energy, offset, jnp.asarray(rad)) for psf, energy, offset in spreads.psfs]
        psf = np.stack([(np.asarray(t, np.float64) @ inverse * SQUARE_DEGREE).transpose(2, 1, 0) for t in tables])
        return cls(jnp.asarray(spreads.offsets), np.float64(spreads.reach), radii, _single(psf), spreads.linear)

    def __call__(self, morphology: Morphology) -> Folded:
        """The tables: they do not depend on the position."""
        return Folded(self.radii, self.offsets, self.psf, None, self.linear)


class RadialFold(eqx.Module):
    """Hankel transforms of the point spread functions of all responses, for extended round sources up to a size.

    - `reach` [deg]: radius that contains all point spread functions.
    - `psf`: transform by response, energy, offset and frequency `k` [cycles/deg].
    - `value`: from a transform to the spline coefficients of C(r); `mean`, `square`, `stretch`: to its moments at the
      radii `rad`, with J1, J0 and J2.
    - `order`: quadrature nodes between two breaks of the morphology.
    """

    offsets: Float[Array, " offset"]
    reach: float
    radii: Radii
    psf: Float[Array, "response energy offset k"]
    k: Float[Array, " k"]
    value: Float[Array, "k radius"]
    mean: Float[Array, "k node"]
    square: Float[Array, "k node"]
    stretch: Float[Array, "k node"]
    rad: Float[Array, " node"]
    bessel: Bessel
    order: int = eqx.field(static=True)
    linear: bool = eqx.field(static=True)

    @classmethod
    def init(cls, spreads: "Spreads", panel: float) -> "RadialFold":
        """Transform; eager, in double precision on the host. `panel` [deg]: largest distance between two breaks."""
        radii, rad, inverse = spreads.radii(STEP)
        reach = spreads.radius + spreads.reach
        highest = 1.0 / spreads.width
        # Gauss-Legendre nodes are sparsest in the middle, by pi / 2: more than two for each cycle at the largest radius
        number = -(-(math.ceil(4.0 * highest * reach) + 40) // 16) * 16
        k, weight = np.polynomial.legendre.leggauss(number)
        k, weight = 0.5 * highest * (k + 1.0), 0.5 * highest * weight
        measure = (2.0 * np.pi * k * weight)[:, None]
        values = jv(0, 2.0 * np.pi * k[:, None] * rad) * measure @ inverse
        rad = rad[PADDING:]
        z = 2.0 * np.pi * k[:, None] * rad
        # ratios to the radius stay finite at the centre
        safe = np.maximum(rad, 1e-3 * spreads.width)
        first = jv(1, 2.0 * np.pi * k[:, None] * safe) / safe
        second = jv(2, 2.0 * np.pi * k[:, None] * safe) / safe**2
        transforms = [psf_hankel(psf, energy, offset, spreads.reach, k) for psf, energy, offset in spreads.psfs]
        return cls(
            jnp.asarray(spreads.offsets),
            np.float64(spreads.reach),
            radii,
            _single(np.stack(transforms)),
            jnp.asarray(k),
            _single(values),
            _single(first * measure),
            _single(jv(0, z) * measure),
            _single(second * measure),
            jnp.asarray(rad),
            Bessel.upto(2.0 * np.pi * highest * spreads.radius * 1.05),
            PANEL + -(-math.ceil(5.0 * highest * panel) // 16) * 16,
            spreads.linear,
        )

    def __call__(self, morphology: Morphology) -> Folded:
        """Fold the source at its current parameters."""
        source, mean, square, stretch = shape_transforms(morphology, self.k, self.bessel, self.order)

        def through(transform, matrix):
            return jnp.einsum("qjmk,kr->qrmj", self.psf, transform[:, None] * matrix)

        total = through(source, self.square)
        some = total > LEAST * total.max(1, keepdims=True)
        total = jnp.where(some, total, 1.0)
        # beyond, photons come from the near rim; these bounds hold for every source
        rad, radius = self._rad, morphology.radius
        near = radius / rad
        mean = jnp.where(some, jnp.clip(through(mean, self.mean) / total, 0.0, near), jnp.minimum(near, 1.0))
        # means of rho^2, and of the squares along minus across [radius^2]
        square = jnp.where(some, jnp.clip(through(square, self.square) / total, 0.0, radius**2), (mean * rad) ** 2)
        stretch = jnp.where(some, through(stretch, self.stretch) / total, mean**2)
        across = jnp.maximum(0.5 * (square - stretch * rad**2), 0.0)
        moments = mean, across, stretch - mean**2
        return Folded(self.radii, self.offsets, through(source, self.value), moments, self.linear)

    @property
    def _rad(self):
        return jnp.maximum(self.rad, 1e-9)[:, None, None]


class Spreads(NamedTuple):
    """Point spread functions with a grid of their energies and offsets, and the sizes of a source in their fields.

    `width` [deg]: of the narrowest folded source; `core` [deg]: up to which it may have edges; `reach` [deg] contains
    the point spread functions, `radius` [deg] the source.
    """

    psfs: list[tuple[PSF, Array, Array]]
    offsets: np.ndarray
    reach: float
    radius: float
    width: float
    core: float

    @classmethod
    def of(cls, morphologies: Sequence[Morphology], runs: Runs, energy) -> "Spreads":
        """For one source at several values of its parameters."""
        radius = max(float(m.radius) for m in morphologies)
        scale = min(float(m.scale) for m in morphologies)
        lon, lat = (np.array([[float(getattr(m, name))] for m in morphologies]) for name in ("lon", "lat"))
        away = separation_on_host(lon, lat, runs.lon, runs.lat)
        tops = runs.highest_energy
        inside = np.linspace(0.0, float(runs.offset_max.max()), 5)
        probes = [_grid(response.psf, energy, top, inside) for response, top in zip(runs.responses, tops, strict=True)]
        narrow = min(float(psf_quantile(psf, e, o, jnp.full(e.shape, 0.393)).min()) for psf, e, o in probes)
        reach = max(float(psf_radius(psf, e, o).max()) for psf, e, o in probes)
        # photons from farther than this from a pointing are not selected
        farthest = min(away.max() + radius, float(runs.offset_max.max()) + reach)
        nearest = min(max(0.0, away.min() - radius), farthest)
        is_point = isinstance(morphologies[0], Point)
        step = POINT_OFFSET_STEP if is_point else _offset_step([psf for psf, *_ in probes])
        offsets = offset_nodes(nearest, farthest, step)
        psfs = [_grid(response.psf, energy, top, offsets) for response, top in zip(runs.responses, tops, strict=True)]
        width = math.hypot(scale, narrow)
        return cls(psfs, offsets, reach, radius, width, 3.0 * width + (0.0 if scale > 0 else radius))

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


def _grid(psf, energy, top, offsets) -> tuple[PSF, Array, Array]:
    """A point spread function with energies up to the end of its response, and offsets."""
    e, o = np.meshgrid(np.minimum(energy, top), offsets, indexing="ij")
    return psf, jnp.asarray(e), jnp.asarray(o)


def _offset_step(psfs) -> float:
    """Distance [deg] of offset nodes: that of tables which are linear between them, or a fixed one."""
    if not all(isinstance(psf, TablePSF) for psf in psfs):
        return OFFSET_STEP
    nodes = np.concatenate([np.asarray(psf.profile.axes[1].nodes) for psf in psfs]) / (2.0 * OFFSET_STEP)
    return 2.0 * OFFSET_STEP if np.allclose(nodes, np.rint(nodes), atol=1e-3) else OFFSET_STEP


def radial_fold(
    morphologies: Sequence[Morphology], runs: Runs, energy: Float[np.ndarray, " energy"]
) -> PointFold | RadialFold:
    """Tables for one round source at several values of its parameters; eager."""
    spreads = Spreads.of(morphologies, runs, energy)
    if isinstance(morphologies[0], Point):
        return PointFold.init(spreads)
    return RadialFold.init(spreads, max(float(np.diff(np.asarray(m.breaks)).max()) for m in morphologies))


def _single(table) -> Array:
    """On the device, in its precision."""
    return jnp.asarray(np.asarray(table, jnp.zeros(()).dtype))


def shape_transforms(
    morphology: Morphology, k: Float[Array, " k"], bessel: Bessel, order: int
) -> tuple[Float[Array, " k"], Float[Array, " k"], Float[Array, " k"], Float[Array, " k"]]:
    """Transforms of S (J0), rho S (J1), rho^2 S (J0) and rho^2 S (J2) by Gauss-Legendre panels between the breaks."""
    rho, share = shape_quadrature(morphology, order)
    functions = bessel(2.0 * jnp.pi * rho[:, None] * k)
    orders = ((0, 0), (1, 1), (2, 0), (2, 2))  # power of rho, order of the Bessel function
    found = [(share * rho**power) @ functions[..., order] for power, order in orders]
    return found[0], found[1], found[2], found[3]


def shape_quadrature(morphology: Morphology, order: int) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
    """Separations [deg] from the centre of a round source, and the parts of its flux; their sum is one."""
    node, weight = (jnp.asarray(a.tolist()) for a in np.polynomial.legendre.leggauss(order))
    edges = morphology.breaks
    length = jnp.diff(edges)[:, None]
    # nodes denser at both ends, where profiles may have vertical rims
    t = 0.5 * (node + 1.0)
    rho = (edges[:-1, None] + length * t**2 * (3.0 - 2.0 * t)).ravel()
    width = (length * 3.0 * t * (1.0 - t) * weight).ravel()
    there = eqx.tree_at(lambda m: (m.lon, m.lat), morphology, (jnp.zeros_like(rho[0]), jnp.zeros_like(rho[0])))
    share = there.brightness(rho, jnp.zeros_like(rho)) * jnp.sin(DEGREE * rho) * width
    return rho, share / share.sum()


def psf_hankel(psf: PSF, energy, offset, reach: float, k) -> Float[np.ndarray, "energy offset k"]:
    """Hankel transform of point spread functions, 2 pi Int P(r) J0(2 pi k r) r dr, one at k = 0."""
    rad, ring = psf_rings(psf, energy, offset, reach)
    return ring @ jv(0, 2.0 * np.pi * rad[:, None] * k)


def psf_rings(psf: PSF, energy, offset, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Radii [deg], denser towards zero, and probabilities [*shape, radius] in rings about them; their sum is one."""
    t, weight = np.polynomial.legendre.leggauss(RING_NODES)
    t, weight = 0.5 * (t + 1.0), 0.5 * weight
    rad = reach * t**2
    density = np.asarray(_density(psf, energy, offset, jnp.asarray(rad)), np.float64)
    ring = density * (2.0 * np.pi * rad * SQUARE_DEGREE * 2.0 * reach * t * weight)
    total = ring.sum(-1, keepdims=True)
    return rad, ring / np.where(total > 0, total, 1.0)


@eqx.filter_jit
def _density(psf, energy, offset, rad):
    """Point spread function [sr^-1] at all radii, shape [*energy, radius]."""
    shape = (*energy.shape, rad.size)
    return psf.density(*(jnp.broadcast_to(a[..., None], shape) for a in (energy, offset)), jnp.broadcast_to(rad, shape))


def directions(morphology: Morphology, lon: Float[Array, " pair"], lat: Float[Array, " pair"], pointing) -> Directions:
    """Directions [deg] about the centre of the source; `pointing`: those (lon, lat) of the runs [pair]."""
    centre = morphology.lon, morphology.lat
    rad = separation(lon, lat, *centre)
    position = jnp.stack(project(lon, lat, *centre), axis=-1)
    return Directions(rad, position, jnp.stack(project(*pointing, *centre), axis=-1))
