"""Free response: the tables of a free source at the current change of the response.

The fold engine sums over true energies before the events, so most changes cost a look-up in other places:

- energy scale: D'(E'|E) = D(E' / (1 + z) | E) / (1 + z). Tables per ln E' move by ln(1 + z).
- pointing: the directions of events, excluded pixels and the pointing move together.
- constant area: a factor on the livetime.

Others change the tables, those of each run if runs differ:

- energy resolution: D'(E'|E) = D(m + (E' - m) / k | E) / k about the mean m of the profile, from the cumulative table,
  which keeps the means over steps and cells exact. Tabulated for a few k, and interpolated by polynomials in ln k. For
  cells the energy scale as well: with it, they take the cumulative table at every call.
- area that changes with energy: a factor at the true-energy nodes.
- width of the point spread function: tabulated for a few widths, and interpolated as well.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.ndimage import spline_filter1d

from gammajax.engines.convolution import spline_means
from gammajax.engines.detector import Detector
from gammajax.engines.energy import EnergyNodes
from gammajax.instrument.observation import Aside
from gammajax.instrument.response import Response
from gammajax.instrument.runs import Runs
from gammajax.model.response_change import ResponseChange, piecewise_mean, scaled_psf

ENDS = 64  # of intervals at a time
AREA = ("effective_area_tilt", "effective_area_spline")
# tabulated factors on a width: their least number, and more for a wider range of its logarithm
WIDTHS, WIDTHS_PER_RANGE = 4, 4.0
BEYOND = 1.6  # range of numbers of runs, in that of the draws of their prior: these reach some two standard deviations


class FreeResponse(eqx.Module):
    """What does not depend on the change; see the head of the module.

    - `mean`: of y = E'/E. `ends` [TeV] of intervals of E', with the `scale` of their means, and the `matrix` from means
      to spline coefficients. `log_widths` of the tabulated point spread functions, and `log_resolutions` of the
      `tabulated` A D and its `coarse` part; these are None if A D does not change, or if the cumulative table is taken
      at every call.
    - `names` of the free fields; `per_run`: whether tables are those of runs, not of responses; `cells`: whether the
      energy scale changes tables; `every`: see [`gammajax.engines.radial.FreeSource`][].
    """

    detector: Detector
    cumulative: Float[Array, "response energy y offset"]
    mean: Float[Array, "response energy offset"]
    energy: Float[Array, " energy"]
    ends: Float[Array, " end"]
    scale: Float[Array, " interval"]
    matrix: Float[Array, "interval interval"]
    log_widths: Float[Array, " width"]
    log_resolutions: Float[Array, " resolution"]
    tabulated: Float[Array, "resolution response offset interval energy"] | None
    coarse: Float[Array, "resolution response offset coarse energy"] | None
    names: tuple[str, ...] = eqx.field(static=True)
    per_run: bool = eqx.field(static=True)
    cells: bool = eqx.field(static=True)
    every: int = eqx.field(static=True)

    @classmethod
    def init(
        cls,
        changes: list[ResponseChange],
        names: tuple[str, ...],
        detector: Detector,
        nodes: EnergyNodes,
        ends: Float[np.ndarray, " end"],
        step: float | None,
        every: int,
    ) -> "FreeResponse":
        """For changes at several values of their free fields `names`; `step` in ln E' of intervals, None for cells."""
        count = ends.size - 1
        if step is None:
            scale, matrix = 1.0 / np.diff(ends), spline_filter1d(np.eye(count), 3, axis=0, mode="mirror")
        else:
            scale, matrix = np.full(count, 1.0 / step), spline_means(np.eye(count))
        dispersion = np.moveaxis(np.asarray(detector.dispersion, np.float64), 2, 3)
        tables = ("energy_resolution", "psf_width", *AREA, *(("energy_scale",) if step is None else ()))
        dtype = detector.area.dtype
        free = cls(
            detector,
            detector.cumulative(),
            jnp.asarray(piecewise_mean(np.asarray(detector.y.nodes, np.float64), dispersion), dtype),
            nodes.energy,
            jnp.asarray(ends),
            jnp.asarray(scale, dtype),
            jnp.asarray(matrix, dtype),
            jnp.asarray(log_factors(changes, names, "psf_width")),
            jnp.asarray(log_factors(changes, names, "energy_resolution")),
            None,
            None,
            names,
            changes[0].varies(*(name for name in tables if name in names)),
            step is None,
            every,
        )
        if not free.changing or (step is None and "energy_scale" in names):
            return free
        number = jnp.arange(free.mean.shape[0])
        each = [_detected(free, number, jnp.exp(factor)) for factor in free.log_resolutions]
        columns = [jnp.stack(column) for column in zip(*each, strict=True)]
        return eqx.tree_at(lambda f: (f.tabulated, f.coarse), free, columns, is_leaf=lambda x: x is None)

    def astype(self, dtype) -> "FreeResponse":
        """With A D tabulated in this precision."""
        if self.tabulated is None or self.coarse is None:
            return self
        columns = self.tabulated.astype(dtype), self.coarse.astype(dtype)
        return eqx.tree_at(lambda free: (free.tabulated, free.coarse), self, columns)

    def table_response(self, runs: Runs) -> Int[Array, " table"]:
        """Index of the response of each table."""
        return runs.response if self.per_run else jnp.arange(self.mean.shape[0])

    @property
    def changing(self) -> bool:
        """Whether A D changes, by more than other places in it."""
        return bool({"energy_resolution", *AREA, *(("energy_scale",) if self.cells else ())} & set(self.names))

    def tables(self, change: ResponseChange, runs: Runs) -> tuple[Array, Array] | None:
        """A D as in [`gammajax.engines.radial.FreeSource`][], `detected` and `coarse`; None if they do not change."""
        if not self.changing:
            return None
        response = self.table_response(runs)
        factor = jnp.broadcast_to(change.area_factor(self.energy), (response.size, self.energy.size))
        if self.tabulated is None or self.coarse is None:
            columns = [
                jnp.broadcast_to(value, response.size) for value in (change.energy_scale, change.energy_resolution)
            ]
            detected, coarse = jax.lax.map(
                jax.checkpoint(lambda columns: self.detected(*columns)), (response, *columns)
            )
        else:
            # polynomials say nothing beyond their nodes
            nodes = self.log_resolutions
            weight = lagrange(nodes, jnp.clip(jnp.log(change.energy_resolution), nodes[0], nodes[-1]))
            weight = jnp.broadcast_to(weight, (response.size, weight.shape[-1])).astype(self.tabulated.dtype)
            detected, coarse = (
                sum(weight[:, n, None, None, None] * table[n][response] for n in range(weight.shape[1]))
                for table in (self.tabulated, self.coarse)
            )
        return detected * factor[:, None, None], coarse * factor[:, None, None]

    def detected(self, response, scale, resolution) -> tuple[Array, Array]:
        """A D of one response [offset, interval, energy] without the factor on the area, and its coarse part."""
        limits = jax.lax.map(lambda end: self._below(end, response, scale, resolution), self.ends, batch_size=ENDS)
        values = jnp.diff(limits, axis=0) * self.scale[:, None, None]
        values = (values * self.detector.area[response]).transpose(2, 0, 1)
        return jnp.matmul(self.matrix, values), values[:, :: self.every]

    def exposure(self, change: ResponseChange, runs: Runs) -> Float[Array, "run energy offset"]:
        """T A times the integral of D over the selected energies [cm^2 s]."""
        size = runs.lon.size
        columns = [jnp.broadcast_to(value, size) for value in (change.energy_scale, change.energy_resolution)]
        factor = jnp.broadcast_to(change.area_factor(self.energy), (size, self.energy.size))

        def one(columns):
            q, low, high, livetime, z, resolution, factor = columns
            inside = self._below(high, q, z, resolution) - self._below(low, q, z, resolution)
            return livetime * factor[:, None] * self.detector.area[q] * inside

        parts = (runs.response, runs.energy_min, runs.energy_max, runs.livetime, *columns, factor)
        return jax.lax.map(jax.checkpoint(one), parts)

    def _below(self, limit, q, scale, resolution) -> Float[Array, "energy offset"]:
        """Integral of D up to a reconstructed energy [TeV]."""
        return self.detector.below(limit, self.energy, q, self.cumulative, (self.mean[q], scale, resolution))

    def log_width(self, change: ResponseChange) -> Float[Array, "*run"]:
        """Logarithm of the width of point spread functions, within the tabulated ones."""
        return jnp.clip(jnp.log(change.psf_width), self.log_widths[0], self.log_widths[-1])

    def blended(self, table: Float[Array, "row ..."], change: ResponseChange, index: Int[Array, " table"] | None):
        """Tables [response and width, ...] at the current width; of the responses `index`, or of all."""
        by_width = table.reshape(-1, self.log_widths.size, *table.shape[1:])
        weight = lagrange(self.log_widths, self.log_width(change))
        if weight.ndim == 1:
            shared = jnp.tensordot(weight, by_width, (0, 1)) if weight.size > 1 else by_width[:, 0]
            return shared if index is None else shared[index]
        assert index is not None
        return jax.lax.map(lambda pair: jnp.tensordot(pair[0], by_width[pair[1]], (0, 0)), (weight, index))


def lagrange(nodes: Float[Array, " node"], u: Float[Array, "*shape"]) -> Float[Array, "*shape node"]:
    """Weights of the polynomial through values at the `nodes`."""
    others = [jnp.delete(nodes, n, assume_unique_indices=True) for n in range(nodes.size)]
    u = jnp.asarray(u)[..., None]
    return jnp.stack([jnp.prod((u - o) / (nodes[n] - o), axis=-1) for n, o in enumerate(others)], axis=-1)


def log_factors(changes: list[ResponseChange], names: tuple[str, ...], name: str) -> Float[np.ndarray, " node"]:
    """Chebyshev nodes of the logarithm of the field `name` over the range of the changes; zero if it is not free."""
    if name not in names:
        return np.zeros(1)
    values = np.log(np.concatenate([np.ravel(getattr(change, name)) for change in changes]))
    half, middle = 0.5 * np.ptp(values), 0.5 * (values.max() + values.min())
    if changes[0].varies(name):
        half *= BEYOND
    count = WIDTHS + math.ceil(WIDTHS_PER_RANGE * half * 2.0)
    # stretched, so that the first and the last node are the ends
    nodes = -np.cos(np.pi * (np.arange(count) + 0.5) / count)
    return middle + half * nodes / nodes[-1]


def several_widths(runs: Runs, changes: list[ResponseChange], names: tuple[str, ...]) -> Runs:
    """Runs for folds: each response with point spread functions of all tabulated widths, at all pointings."""
    factors = np.exp(log_factors(changes, names, "psf_width"))
    responses = tuple(
        Response(r.effective_area, scaled_psf(r.psf, float(f)), r.energy_dispersion, r.background)
        if "psf_width" in names
        else r
        for r in runs.responses
        for f in factors
    )
    lon, lat = (
        np.concatenate([np.broadcast_to(np.asarray(start) + getattr(c, name), start.shape) for c in changes])
        for start, name in ((runs.lon, "pointing_lon"), (runs.lat, "pointing_lat"))
    )

    def repeated(column):
        return jnp.tile(column, len(changes))

    return Runs(
        jnp.asarray(lon),
        jnp.asarray(lat),
        repeated(runs.livetime),
        repeated(runs.energy_min),
        repeated(runs.energy_max),
        repeated(runs.offset_max),
        repeated(runs.response * factors.size),
        Aside((runs.observations, responses)),
    )


@eqx.filter_jit
def _detected(free, responses, resolution):
    return jax.lax.map(lambda response: free.detected(response, 0.0, resolution), responses)
