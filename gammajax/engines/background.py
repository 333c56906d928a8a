"""Background engine: the instrument's background, from the background response at the events."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.engines.engine import Engine, Expected
from gammajax.engines.rows import Rows
from gammajax.instrument.sky import DEGREE, SQUARE_DEGREE, Grid, deproject, project
from gammajax.model.mixture import InstrumentBackground

ENERGIES_PER_DECADE, PANEL_POINTS = 40, 3
STEP, EXCLUDED_STEP = 0.1, 0.05  # deg, of panels of the quadrature over the field, and of nodes of excluded sky
CHUNK, FEW = 2**17, 2**12  # points per step of the set-up, for many and for few events


class BackgroundCounts(eqx.Module):
    """Function from a background to its expected counts by reconstructed energy.

    `counts` are those of the response over the selected regions, at fine energies [TeV].
    """

    energy: Float[Array, "observation energy"]
    counts: Float[Array, "observation energy"]

    def __call__(self, source: InstrumentBackground) -> Float[Array, "observation energy"]:
        """Expected counts; their sum over energies is the number in each selection."""
        factor = jax.vmap(lambda number, energy: source.select(number).factor(energy))
        return self.counts * factor(jnp.arange(self.energy.shape[0]), self.energy)


class BackgroundEngine(Engine):
    """Rate of the response at every row, and its integral over the region at fine reconstructed energies.

    `energy_row` [TeV] is the energy of an event, or the effective energy of a cell for a tilt.
    """

    rate: Float[Array, " row"]
    energy_row: Float[Array, " row"]
    observation: Int[Array, " row"]
    counted: BackgroundCounts

    @classmethod
    def init(cls, source: InstrumentBackground, observations, rows: Rows, variants=()) -> "BackgroundEngine":
        """Evaluate the background of every event's observation; eager.

        Raises `ValueError` for arrays of norms or tilts without one number per observation.
        """
        source.check_observations(len(observations))
        rate = np.zeros(rows.index.size, rows.dtype)
        energy_row = np.zeros(rows.index.size, rows.dtype)
        points = math.prod(rows.order)
        for number, observation in enumerate(observations):
            mine = np.flatnonzero(rows.observation == number)
            # two sizes of chunks: programs do not depend on numbers of events
            step = max((FEW if mine.size * points <= FEW else CHUNK) // points, 1)
            for first in range(0, mine.size, step):
                chunk = np.resize(mine[first : first + step], step)
                *columns, weight = rows.points(chunk).pairs()
                at = np.asarray(_background(observation, *map(jnp.asarray, columns)), np.float64)
                share = at.reshape(weight.shape) * weight
                rate[chunk] = total = share.sum(1)
                # first order of the mean of the tilt's power of energy, weighted with the rate of the cell
                log_energy = np.log(columns[0]).reshape(weight.shape)
                mean = (share * log_energy).sum(1) / np.where(total > 0, total, 1.0)
                energy_row[chunk] = np.exp(np.where(total > 0, mean, log_energy.mean(1)))
        energy, counts = selection_integrals(observations)
        return cls(
            rows.place(rate),
            rows.place(energy_row),
            rows.place(rows.observation),
            BackgroundCounts(jnp.asarray(energy), jnp.asarray(counts)),
        )

    @eqx.filter_jit
    def __call__(self, source: InstrumentBackground) -> Expected:
        """Intensities and counts, by reconstructed energy."""
        intensity = self.rate * source.select(self.observation).factor(self.energy_row)
        return Expected(intensity, self.counted(source))


def selection_integrals(
    observations,
) -> tuple[Float[np.ndarray, "observation energy"], Float[np.ndarray, "observation energy"]]:
    """Energies [TeV] and expected background counts: quadrature nodes and weights over the selected regions.

    Gauss-Legendre panels in ln E' end at the nodes of the response, where its interpolation has kinks. Observations may
    have different numbers of nodes: others have a weight of zero.
    """
    nodes, weights = np.polynomial.legendre.leggauss(PANEL_POINTS)
    panels = [_panels(observation) for observation in observations]
    size = max(edges.size for edges in panels)
    energies, counts, known = [], [], {}
    for observation, edges in zip(observations, panels, strict=True):
        edges = np.pad(edges, (0, size - edges.size), mode="edge")
        half, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
        energy = np.exp(middle[:, None] + half[:, None] * nodes).ravel()
        width = (half[:, None] * weights).ravel() * energy
        energies.append(energy)
        # without excluded sky the integral is the same for every pointing
        key = (id(observation.response), float(observation.offset_max), energy.tobytes())
        if observation.exclusion is not None or key not in known:
            sky = tuple(map(jnp.asarray, selection_nodes(observation)))
            rates = np.asarray(_rates(observation, sky, jnp.asarray(energy)), np.float64)
            rates = rates / float(observation.livetime)
            if observation.exclusion is None:
                known[key] = rates
        else:
            rates = known[key]
        counts.append(rates * float(observation.livetime) * width)
    return np.stack(energies), np.stack(counts)


def _panels(observation) -> np.ndarray:
    """Ends of the panels in ln E'."""
    table = observation.response.background
    if table is None:
        raise ValueError(f"observation {observation.obs_id} has no background response (BKG_2D or BKG_3D)")
    low, high = np.log(observation.energy_min), np.log(observation.energy_max)
    axis = table.log_rate.axes[0]
    breaks = np.concatenate([np.asarray(axis.nodes, np.float64), [axis.lower, axis.upper]])
    panels = np.linspace(low, high, 1 + int(np.ceil((high - low) * ENERGIES_PER_DECADE / np.log(10.0) / PANEL_POINTS)))
    return np.unique(np.concatenate([panels, breaks[(breaks > low) & (breaks < high)]]))


def selection_nodes(
    observation,
) -> tuple[Float[np.ndarray, " node"], Float[np.ndarray, " node"], Float[np.ndarray, " node"]]:
    """Directions (lon, lat) [deg] and solid angles [sr] of a quadrature over the selected region.

    Gauss-Legendre panels in both coordinates of the Lambert projection about the pointing, where the field is a disk;
    they end at multiples of 0.1 deg, as tables often do, and at the rim. Excluded pixels are nodes with negative solid
    angles, shared among the nearest nodes of a grid.
    """
    point, weight = np.polynomial.legendre.leggauss(2)
    end = 2.0 / DEGREE * np.sin(0.5 * DEGREE * float(observation.offset_max))
    inner = STEP * np.arange(1 - math.ceil(end / STEP - 1e-9), math.ceil(end / STEP - 1e-9))
    edges = np.concatenate([[-end], inner, [end]])

    def panels(edges):
        half, middle = 0.5 * np.diff(edges)[..., None], 0.5 * (edges[..., 1:] + edges[..., :-1])[..., None]
        nodes = middle + half * point, np.broadcast_to(half * weight, (*half.shape[:-1], point.size))
        return (part.reshape(*edges.shape[:-1], -1) for part in nodes)

    angle, width = panels(np.arcsin(edges / end))  # chords end smoothly in the angle
    y, limit = end * np.sin(angle), end * np.cos(angle)[:, None]
    x, length = panels(np.clip(edges, -limit, limit))
    x, y, solid_angle = x.ravel(), np.repeat(y, x.shape[1]), (length * limit * width[:, None]).ravel() * SQUARE_DEGREE
    if observation.exclusion is not None:
        grid = Grid(observation.lon, observation.lat, EXCLUDED_STEP, end + EXCLUDED_STEP)
        at, there = (part.ravel() for part in np.meshgrid(np.asarray(grid.coordinates), np.asarray(grid.coordinates)))
        excluded = _excluded(observation, grid)
        x, y, solid_angle = (np.concatenate(pair) for pair in ((x, at), (y, there), (solid_angle, -excluded)))
    lon, lat = deproject(jnp.asarray(x), jnp.asarray(y), observation.lon, observation.lat)
    return np.asarray(lon), np.asarray(lat), solid_angle


def _excluded(observation, grid) -> Float[np.ndarray, " node"]:
    """Solid angle [sr] of the excluded pixels within the field, at the centres of the pixels of a grid."""
    raster = observation.exclusion.grid
    chosen = np.asarray(observation.exclusion.excluded)
    directions = (np.asarray(part)[chosen] for part in raster.directions())
    x, y = (np.asarray(part, np.float64) for part in project(*directions, observation.lon, observation.lat))
    beyond = (
        2.0 / DEGREE * np.arcsin(np.clip(0.5 * DEGREE * np.hypot(x, y), 0.0, 1.0)) - observation.offset_max
    ) / raster.step
    inside = raster.solid_angle * np.clip(0.5 - beyond, 0.0, 1.0)
    x, y, inside = (part[inside > 0] for part in (x, y, inside))
    place = [part / grid.step + 0.5 * (grid.size - 1) for part in (x, y)]
    total = np.zeros((grid.size, grid.size))
    column, row = (np.floor(part).astype(int) for part in place)
    right, up = place[0] - column, place[1] - row
    for i, share in ((0, 1.0 - up), (1, up)):
        for j, part in ((0, 1.0 - right), (1, right)):
            np.add.at(total, (row + i, column + j), inside * share * part)
    return total.ravel()


@eqx.filter_jit
def _rates(observation, sky, energy):
    """Background [TeV^-1] over the livetime, integrated over the selected region, at each energy."""
    lon, lat, solid_angle = sky

    def rate(e):
        return (observation.background(jnp.full(lon.shape, e), lon, lat) * solid_angle).sum()

    return jax.lax.map(rate, energy)


@eqx.filter_jit
def _background(observation, energy, lon, lat):
    return observation.background(energy, lon, lat)
