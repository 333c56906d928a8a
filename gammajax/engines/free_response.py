"""Free response: the tables of a free source at the current change of the response.

The fold engine sums over true energies before the events, so most changes cost a look-up in other places:

- energy scale: D'(E'|E) = D(E' / (1 + z) | E) / (1 + z). Tables per ln E' move by ln(1 + z).
- pointing: the directions of events, excluded pixels and the pointing move together.
- constant area: a factor on the livetime.

Others change the tables, those of each run if runs differ:

- energy resolution: D'(E'|E) = D(m + (E' - m) / k | E) / k about the mean m of the profile, from the cumulative table,
  which keeps the means over steps and cells exact. For cells the energy scale as well.
- area that changes with energy: a factor at the true-energy nodes.
- width of the point spread function: point spread functions are tabulated for a few widths, and interpolated by
  polynomials in the logarithm of the width.
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

AREA = ("effective_area_tilt", "effective_area_spline")
# widths of point spread functions: their least number, and more for a wider range of ln(width)
WIDTHS, WIDTHS_PER_RANGE = 4, 8.0


class FreeResponse(eqx.Module):
    """What does not depend on the change; see the head of the module.

    - `mean`: of y = E'/E. `ends` [TeV] of intervals of E', with the `scale` of their means, and the `matrix` from means
      to spline coefficients. `log_widths` of the tabulated point spread functions.
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
        return cls(
            detector,
            detector.cumulative(),
            jnp.asarray(piecewise_mean(np.asarray(detector.y.nodes, np.float64), dispersion), dtype),
            nodes.energy,
            jnp.asarray(ends),
            jnp.asarray(scale, dtype),
            jnp.asarray(matrix, dtype),
            jnp.asarray(log_widths(changes, names)),
            names,
            changes[0].varies(*(name for name in tables if name in names)),
            step is None,
            every,
        )

    def table_response(self, runs: Runs) -> Int[Array, " table"]:
        """Index of the response of each table."""
        return runs.response if self.per_run else jnp.arange(self.mean.shape[0])

    def tables(self, change: ResponseChange, runs: Runs) -> tuple[Array, Array] | None:
        """A D as in [`gammajax.engines.radial.FreeSource`][], `detected` and `coarse`; None if they do not change."""
        changing = {"energy_resolution", *AREA, *(("energy_scale",) if self.cells else ())}
        if not changing & set(self.names):
            return None
        response = self.table_response(runs)
        size = response.size
        scale = change.energy_scale if self.cells else 0.0
        columns = [jnp.broadcast_to(value, size) for value in (scale, change.energy_resolution)]
        factor = jnp.broadcast_to(change.area_factor(self.energy), (size, self.energy.size))

        def one(columns):
            q, z, resolution, factor = columns
            limits = jax.lax.map(lambda end: self._below(end, q, z, resolution), self.ends)
            values = jnp.diff(limits, axis=0) * self.scale[:, None, None]
            values = (values * factor[:, None] * self.detector.area[q]).transpose(2, 0, 1)
            return jnp.matmul(self.matrix, values), values[:, :: self.every]

        return jax.lax.map(jax.checkpoint(one), (response, *columns, factor))

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

    def _below(self, limit, q, z, resolution) -> Float[Array, "energy offset"]:
        """Integral of D up to a reconstructed energy [TeV]."""
        y, mean = self.detector.y, self.mean[q]
        at = mean + (limit / self.energy[:, None] / (1.0 + z) - mean) / resolution
        at = jnp.clip(at, y.nodes[0], y.nodes[-1])
        index, _ = y.locate(at)
        row, column = jnp.arange(at.shape[0])[:, None], jnp.arange(at.shape[1])
        low, high = (self.detector.dispersion[q, row, index + i, column] for i in (0, 1))
        step, rest = y.nodes[1] - y.nodes[0], at - y.nodes[index]
        return self.cumulative[q, row, index, column] + rest * (low + 0.5 * rest / step * (high - low))

    def widths(self, change: ResponseChange) -> Float[Array, "*run width"]:
        """Weights of the tabulated widths: Lagrange's polynomials."""
        u, nodes = jnp.log(change.psf_width)[..., None], self.log_widths
        u = jnp.clip(u, nodes[0], nodes[-1])
        others = [jnp.delete(nodes, n, assume_unique_indices=True) for n in range(nodes.size)]
        return jnp.stack([jnp.prod((u - o) / (nodes[n] - o), axis=-1) for n, o in enumerate(others)], axis=-1)

    def blended(self, table: Float[Array, "row ..."], change: ResponseChange, index: Int[Array, " table"] | None):
        """Tables [response and width, ...] at the current width; of the responses `index`, or of all."""
        by_width = table.reshape(-1, self.log_widths.size, *table.shape[1:])
        weight = self.widths(change)
        if weight.ndim == 1:
            shared = jnp.tensordot(weight, by_width, (0, 1)) if weight.size > 1 else by_width[:, 0]
            return shared if index is None else shared[index]
        assert index is not None
        return jax.lax.map(lambda pair: jnp.tensordot(pair[0], by_width[pair[1]], (0, 0)), (weight, index))


def log_widths(changes: list[ResponseChange], names: tuple[str, ...]) -> Float[np.ndarray, " width"]:
    """Chebyshev nodes of ln(psf_width) over the range of the changes; zero if it is not free."""
    if "psf_width" not in names:
        return np.zeros(1)
    values = np.log(np.concatenate([np.ravel(change.psf_width) for change in changes]))
    half, middle = 0.5 * np.ptp(values), 0.5 * (values.max() + values.min())
    count = WIDTHS + math.ceil(WIDTHS_PER_RANGE * half * 2.0)
    # stretched, so that the first and the last node are the ends
    nodes = -np.cos(np.pi * (np.arange(count) + 0.5) / count)
    return middle + half * nodes / nodes[-1]


def several_widths(runs: Runs, changes: list[ResponseChange], names: tuple[str, ...]) -> Runs:
    """Runs for folds: each response with point spread functions of all tabulated widths, at all pointings."""
    factors = np.exp(log_widths(changes, names))
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
