"""Exposure: expected counts of a source from one table by run, true energy and offset.

    T_oj(offset) = t (A Dbar)_j(offset) V_j(offset)
    N_o = Sum_j F_j Int S(Omega) T_oj(offset of Omega) dOmega - (intensity integrated over excluded sky)

with the probability Dbar of the selected energies, and V_j(offset), the part of the point spread function about a
direction at this offset that lies within `offset_max`; both between the nodes as in the intensities.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.engines.convolution import interpolated_energies
from gammajax.engines.detector import Detector
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.transforms import psf_rings, shape_quadrature
from gammajax.instrument.psf import TablePSF
from gammajax.instrument.runs import Runs
from gammajax.instrument.sky import DEGREE, separation
from gammajax.model.morphology import Morphology, Point

FINE = 0.03125  # deg, step of the table
ANGLES = 12  # on half a circle about a source of a degree, in the field
HERMITE = 16  # points along one axis, for the mean over the distance between nodes
PANEL = 16  # quadrature nodes between two breaks of such a source
GAUSSIAN_RADIUS = 6.0  # radius of a Gaussian source in its sigma
SHAPES_PER_DECADE = 6.0  # energies of a source that changes with energy: means over it change slowly


class Exposure(eqx.Module):
    """Exposure [cm^2 s] of directions, by run, true energy and offset from `first` [deg] on in equal steps.

    `energy` [TeV] of the nodes; `shape_energy` [TeV] of a source that changes with it, and the `share` of the nodes.
    """

    table: Float[Array, "run energy offset"]
    first: Float[Array, ""]
    step: Float[Array, ""]
    energy: Float[Array, " energy"]
    shape_energy: Float[Array, " shape"]
    share: Float[Array, "energy shape"]
    degrees: int = eqx.field(static=True)  # of the source within the field: more nodes for larger ones
    smoothing: Float[Array, "offset offset"] | None = None

    @classmethod
    def init(cls, detector: Detector, runs: Runs, nodes: EnergyNodes, reach: float, radius: float) -> "Exposure":
        """Tabulate for point spread functions within `reach` [deg], sources within `radius`; eager, on the host."""
        coarse = np.asarray(detector.offsets, np.float64)
        fine = fine_offsets(coarse)
        area = np.asarray(detector.exposure(runs, nodes.energy), np.float64)
        inside, key = selected_parts(runs, nodes, coarse, reach, radius)
        hats = fine_hats(coarse)
        table = np.stack([of_run @ hats * inside[k] for of_run, k in zip(area, key, strict=True)])
        dtype = jnp.zeros(()).dtype
        degrees = max(math.ceil(min(radius, float(fine[-1]))), 1)
        energy = np.asarray(nodes.energy, np.float64)
        share, at = interpolated_energies(energy, nodes.log_step, SHAPES_PER_DECADE, 4)
        parts = (table, fine[0], fine[1] - fine[0], energy, at, share)
        whole, first, step, energy, at, share = (jnp.asarray(part, dtype) for part in parts)
        return cls(whole, first, step, energy, at, share, degrees)

    def smooth(self, width: float) -> "Exposure":
        """Convolved with (2 - r^2 / 2 s^2) exp(-r^2 / 2 s^2) / 2 pi s^2 of s = `width` [deg], for `of_nodes`; eager.

        Nodes alias the rim of the selection, which is as narrow as the point spread function. This kernel of fourth
        order leaves sums over smooth sources as they are.
        """
        x, weight = np.polynomial.hermite_e.hermegauss(HERMITE)
        weight = np.outer(weight, weight) * (2.0 - 0.5 * (x[:, None] ** 2 + x**2)) / (2.0 * np.pi)
        count = self.table.shape[2]
        fine = float(self.first) + float(self.step) * np.arange(count)
        offset = np.hypot(fine[:, None, None] + width * x[:, None], width * x).reshape(1, -1)
        matrix = _smoothing(self, jnp.asarray(offset), jnp.asarray(weight.ravel()), jnp.eye(count))
        return eqx.tree_at(lambda e: e.smoothing, self, matrix, is_leaf=lambda x: x is None).of(self.table)

    def of(self, table: Float[Array, "run energy offset"]) -> "Exposure":
        """The same for another table, as smooth as this one."""
        table = table if self.smoothing is None else table @ self.smoothing
        return eqx.tree_at(lambda e: e.table, self, table)

    def __call__(self, morphology: Morphology, flux: Float[Array, " energy"], runs: Runs) -> Float[Array, " run"]:
        """Expected counts of every run, without regard to excluded sky."""
        if not morphology.is_energy_dependent:
            return self._over(morphology, jnp.einsum("rjo,j->ro", self.table, flux), runs)
        tables = jnp.einsum("rjo,js->sro", self.table, flux[:, None] * self.share)

        @jax.checkpoint
        def one(row):
            energy, table = row
            return self._over(morphology.at(energy), table, runs)

        return jax.lax.map(one, (self.shape_energy, tables)).sum(0)

    def of_nodes(
        self,
        lon: Float[Array, " node"],
        lat: Float[Array, " node"],
        share: Float[Array, " node"],
        flux: Float[Array, " energy"],
        runs: Runs,
    ) -> Float[Array, " run"]:
        """The same for a source with parts of its flux `share` in the directions (lon, lat) [deg]."""

        @jax.checkpoint
        def one(run):
            table = jnp.einsum("jo,j->o", self.table[run], flux)
            offset = separation(lon, lat, runs.lon[run], runs.lat[run])
            return self._at(table[None], offset[None])[0] @ share

        return jax.lax.map(one, jnp.arange(runs.lon.size))

    def by_energy(self, morphology: Morphology, runs: Runs) -> Float[Array, "run energy"]:
        """Exposure [cm^2 s] of every run and node."""
        tables = jnp.moveaxis(self.table, 1, 0)
        if morphology.is_energy_dependent:
            each = jax.lax.map(lambda row: self._over(morphology.at(row[0]), row[1], runs), (self.energy, tables))
        else:
            # one energy after the other: tables of all at the places of many runs fill the memory
            places = self._places(morphology, runs)
            each = jax.lax.map(lambda table: self._mean(table, *places), tables)
        return each.T

    def _over(self, morphology, table, runs):
        """Mean of tables [run, offset] over the source."""
        return self._mean(table, *self._places(morphology, runs))

    def _mean(self, table, offset, share):
        """Mean of tables [run, offset] over places."""
        values = self._at(table, offset.reshape(offset.shape[0], -1)).reshape(offset.shape)
        return (values.mean(2) * share).sum(1)

    def _places(self, morphology, runs) -> tuple[Float[Array, "run ring angle"], Float[Array, "run ring"]]:
        """Offsets [deg] of places of the source within the field, and the parts of their rings."""
        away = separation(morphology.lon, morphology.lat, runs.lon, runs.lat)
        if isinstance(morphology, Point):
            return away[:, None, None], jnp.ones_like(away)[:, None]
        # rings about the source, and their arcs, within the field
        field = self.first + (self.table.shape[-1] - 1) * self.step
        ends = jnp.maximum(away - field, 0.0), away + field
        order = PANEL * self.degrees
        rho, share = jax.vmap(lambda low, high: shape_quadrature(morphology, order, low, high))(*ends)
        sines = jnp.sin(DEGREE * away)[:, None] * jnp.sin(DEGREE * rho)
        nearest = jnp.sin(0.5 * DEGREE * (away[:, None] - rho)) ** 2
        room = jnp.sin(0.5 * DEGREE * field) ** 2 - nearest
        whole = room >= sines
        part = jnp.where(whole, 0.5, jnp.maximum(room / jnp.where(whole, 1.0, sines), 1e-12))
        arc = jnp.where(whole, jnp.pi, 2.0 * jnp.arcsin(jnp.sqrt(part)))
        number = ANGLES * self.degrees
        angle = arc[..., None] * jnp.asarray((np.arange(number) + 0.5) / number)
        half = nearest[..., None] + sines[..., None] * jnp.sin(0.5 * angle) ** 2
        offset = 2.0 / DEGREE * jnp.arcsin(jnp.sqrt(jnp.clip(half, 1e-16, 1.0)))
        return offset, share * arc / jnp.pi

    def _at(self, table, offset):
        """Cubic interpolation (Catmull-Rom) of tables [run, offset] at offsets [run, point]; zero beyond the table."""
        last = table.shape[1] - 1
        where = (offset - self.first) / self.step
        beyond = where > last
        where = jnp.clip(where, 0.0, last * (1.0 - 1e-6))
        index = where.astype(jnp.int32)
        f = where - index
        # linear continuation at both ends
        table = jnp.concatenate(
            [2.0 * table[:, :1] - table[:, 1:2], table, 2.0 * table[:, -1:] - table[:, -2:-1]], axis=1
        )
        run = jnp.arange(table.shape[0])[:, None]
        a, b, c, d = (table[run, index + i] for i in range(4))
        slopes = 0.5 * f * (c - a + f * (2.0 * a - 5.0 * b + 4.0 * c - d + f * (3.0 * (b - c) + d - a)))
        return jnp.where(beyond, 0.0, b + slopes)


def fine_offsets(coarse: Float[np.ndarray, " offset"]) -> Float[np.ndarray, " fine"]:
    """Offsets [deg] of the table, between those of hat functions."""
    return np.linspace(coarse[0], coarse[-1], _finer(coarse) * (coarse.size - 1) + 1)


def fine_hats(coarse: Float[np.ndarray, " offset"]) -> Float[np.ndarray, "offset fine"]:
    """Hat functions at the offsets of the table."""
    fine = fine_offsets(coarse)
    return np.stack([np.interp(fine, coarse, row) for row in np.eye(coarse.size)])


@eqx.filter_jit
def _smoothing(exposure, offset, weight, unit):
    """Part of each row of the table in the means over points [row, place]; rows beyond the table are zero."""

    def one(row):
        return exposure._at(row[None], offset)[0].reshape(-1, weight.size) @ weight

    return jax.lax.map(one, unit)


def selected_parts(
    runs: Runs, nodes: EnergyNodes, coarse: Float[np.ndarray, " offset"], reach: float, radius: float
) -> tuple[Float[np.ndarray, "kind energy fine"], Int[np.ndarray, " run"]]:
    """V of each kind of run, a response and an `offset_max`, and the kind of every run."""
    columns = np.asarray(runs.response).tolist(), np.asarray(runs.offset_max).tolist()
    keys = list(zip(*columns, strict=True))
    kinds = list(dict.fromkeys(keys))
    parts = np.stack([selected_part(runs, key, nodes, coarse, reach, radius) for key in kinds])
    return parts, np.array([kinds.index(key) for key in keys])


def _finer(coarse) -> int:
    return round((coarse[1] - coarse[0]) / FINE)


def selected_part(
    runs: Runs,
    key: tuple[int, float],
    nodes: EnergyNodes,
    coarse: Float[np.ndarray, " offset"],
    reach: float,
    radius: float,
) -> Float[np.ndarray, "energy fine"]:
    """V of a kind of run (response, `offset_max`) at the fine nodes, interpolated between hats like the intensities.

    The mean of two point spread functions that are no tables has not all photons: it lacks a part that goes with the
    square of their relative difference in width. Folded with a source of this `radius` [deg] they differ less.
    """
    response, offset_max = key
    fine, finer = fine_offsets(coarse), _finer(coarse)
    psf = runs.responses[response].psf
    energy = np.minimum(np.asarray(nodes.energy, np.float64), runs.highest_energy[response])
    energy, offset = map(jnp.asarray, np.meshgrid(energy, coarse, indexing="ij"))
    rad, ring = psf_rings(psf, energy, offset, reach)
    circle = _circle_inside(fine[:, None], rad, offset_max)
    width = 0.5 * (ring * rad**2).sum(-1)
    wider = width + (radius / GAUSSIAN_RADIUS) ** 2
    kept = (width / np.where(wider > 0, wider, 1.0)) ** 2
    columns = []
    for m in range(coarse.size - 1):
        low, high = np.maximum(ring[:, m], 1e-300), np.maximum(ring[:, m + 1], 1e-300)
        last = m == coarse.size - 2
        shares = np.linspace(0.0, 1.0, finer + 1)[: finer + last]
        for share, part in zip(shares, circle[finer * m :], strict=False):
            between = (1.0 - share) * low + share * high
            if not isinstance(psf, TablePSF):
                between = np.sqrt(between / ((1.0 - share) / low + share / high))
                lacking = np.maximum(between.sum(-1, keepdims=True), 0.5)  # or there is none at all
                between = between * lacking ** (kept[:, m, None] - 1.0)
            columns.append(between @ part)
    return np.stack(columns, axis=-1)


def _circle_inside(offset, rad, offset_max):
    """Fraction within `offset_max` of circles of radius `rad` about directions at `offset` (all deg)."""
    r, o, big = DEGREE * rad, DEGREE * offset, DEGREE * offset_max
    # by half angles, which keep their digits for small circles
    sines = np.sin(o) * np.sin(r)
    half = (np.sin(0.5 * big) ** 2 - np.sin(0.5 * (o - r)) ** 2) / np.maximum(sines, 1e-30)
    return 2.0 / np.pi * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))
