"""Background engine: the instrument's background, from the background response at the events."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.engines.engine import Engine
from gammajax.engines.rows import Rows
from gammajax.fold import selected_fractions
from gammajax.mixture import InstrumentBackground
from gammajax.sky import Grid

ENERGIES_PER_DECADE, PANEL_POINTS, STEP = 40, 3, 0.05
CHUNK = 2**17  # points per step of the set-up


class BackgroundEngine(Engine):
    """Rate of the response at every row, and its integral over the region at fine reconstructed energies.

    `energy_row` [TeV] is the energy of an event, or the effective energy of a cell for a tilt.
    """

    rate: Float[Array, " row"]
    energy_row: Float[Array, " row"]
    observation: Int[Array, " row"]
    energy: Float[Array, "observation energy"]
    counts: Float[Array, "observation energy"]

    @classmethod
    def init(cls, source: InstrumentBackground, observations, rows: Rows, variants=()) -> "BackgroundEngine":
        """Evaluate the background of every event's observation; eager.

        Raises `ValueError` for arrays of norms or tilts without one number per observation.
        """
        source.check_observations(len(observations))
        rate = np.zeros(rows.index.size, rows.dtype)
        energy_row = np.zeros(rows.index.size, rows.dtype)
        grids = []
        for number, observation in enumerate(observations):
            mine = np.flatnonzero(rows.observation == number)
            step = CHUNK // math.prod(rows.order)
            for first in range(0, mine.size, step):
                chunk = mine[first : first + step]
                *columns, weight = rows.points(chunk).pairs()
                at = np.asarray(_background(observation, *map(jnp.asarray, columns)), np.float64)
                share = at.reshape(weight.shape) * weight
                rate[chunk] = total = share.sum(1)
                # first order of the mean of the tilt's power of energy, weighted with the rate of the cell
                log_energy = np.log(columns[0]).reshape(weight.shape)
                mean = (share * log_energy).sum(1) / np.where(total > 0, total, 1.0)
                energy_row[chunk] = np.exp(np.where(total > 0, mean, log_energy.mean(1)))
            grids.append(selection_integral(observation))
        # observations may cover different energies: pad to the same number of nodes
        size = max(energy.size for energy, _ in grids)
        padded = [
            [np.pad(a, (0, size - a.size), mode=mode) for a, mode in zip(pair, ("edge", "constant"), strict=True)]
            for pair in grids
        ]
        energy, counts = (np.stack(arrays) for arrays in zip(*padded, strict=True))
        return cls(
            rows.place(rate),
            rows.place(energy_row),
            rows.place(rows.observation),
            jnp.asarray(energy),
            jnp.asarray(counts),
        )

    def intensity(self, source: InstrumentBackground) -> Float[Array, " row"]:
        """Intensity [TeV^-1 sr^-1] of every row."""
        return self.rate * source.select(self.observation).factor(self.energy_row)

    def expected_counts(self, source: InstrumentBackground) -> Float[Array, " observation"]:
        """Expected counts in the selection of every observation."""
        return (self.counts * self._factor(source)).sum(-1)

    def counts_between(
        self, reference: InstrumentBackground, source: InstrumentBackground
    ) -> Float[Array, " observation"]:
        """Expected counts of `source` minus those of `reference`."""
        return (self.counts * (self._factor(source) - self._factor(reference))).sum(-1)

    def _factor(self, source) -> Float[Array, "observation energy"]:
        factor = jax.vmap(lambda number, energy: source.select(number).factor(energy))
        return factor(jnp.arange(self.energy.shape[0]), self.energy)


def selection_integral(observation) -> tuple[np.ndarray, np.ndarray]:
    """Energies [TeV] and expected background counts: quadrature nodes and weights over the selected region.

    Gauss-Legendre panels in ln E' end at the nodes of the response, where its interpolation has kinks.
    """
    table = observation.response.background
    if table is None:
        raise ValueError(f"observation {observation.obs_id} has no background response (BKG_2D or BKG_3D)")
    low, high = np.log(observation.energy_min), np.log(observation.energy_max)
    axis = table.log_rate.axes[0]
    breaks = np.asarray(axis.nodes, np.float64)
    breaks = np.concatenate([breaks, [axis.lower, axis.upper]])
    panels = np.linspace(low, high, 1 + int(np.ceil((high - low) * ENERGIES_PER_DECADE / np.log(10.0) / PANEL_POINTS)))
    edges = np.unique(np.concatenate([panels, breaks[(breaks > low) & (breaks < high)]]))
    nodes, weights = np.polynomial.legendre.leggauss(PANEL_POINTS)
    half, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    energy = np.exp(middle[:, None] + half[:, None] * nodes).ravel()
    width = (half[:, None] * weights).ravel() * energy
    grid = Grid(observation.lon, observation.lat, STEP, observation.offset_max)
    return energy, np.asarray(_rates(observation, grid, jnp.asarray(energy)), np.float64) * width


@eqx.filter_jit
def _rates(observation, grid, energy):
    """Background [s^-1 TeV^-1 ...] over the livetime, integrated over the selected region, at each energy."""
    lon, lat = grid.directions()
    fraction = selected_fractions(observation, grid, 4) * grid.solid_angle

    def rate(e):
        return (observation.background(jnp.full(lon.shape, e), lon, lat) * fraction).sum()

    return jax.lax.map(rate, energy)


@eqx.filter_jit
def _background(observation, energy, lon, lat):
    return observation.background(energy, lon, lat)
