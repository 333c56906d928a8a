"""Background engine: the instrument's background, from the background response at the events."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.engines.engine import Engine, Expected
from gammajax.engines.rows import Rows
from gammajax.engines.selection import excluded_pixels, field_nodes
from gammajax.events.event_list import Points
from gammajax.instrument.sky import Grid
from gammajax.model.mixture import InstrumentBackground

ENERGIES_PER_DECADE, PANEL_POINTS = 40, 3
STEP, POINTS, EXCLUDED_STEP = 0.1, 3, 0.05  # deg, of the quadrature over the field, and of nodes of excluded sky
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
        points = 1 if rows.edges is None else 2 * PANEL_POINTS * rows.order[1]
        for number, observation in enumerate(observations):
            mine = np.flatnonzero(rows.observation == number)
            # two sizes of chunks: programs do not depend on numbers of events
            step = max((FEW if mine.size * points <= FEW else CHUNK) // points, 1)
            for first in range(0, mine.size, step):
                chunk = np.resize(mine[first : first + step], step)
                points_of = rows.points(chunk)
                if rows.edges is not None:
                    points_of = _split_at_nodes(points_of, observation)
                *columns, weight = points_of.pairs()
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


def _split_at_nodes(points: Points, observation) -> Points:
    """Points of cells with energies in two panels, which end at the node of the table in the cell if there is one."""
    x, weight = np.polynomial.legendre.leggauss(PANEL_POINTS)
    low, high = np.log(points.ends).T
    nodes = np.append(np.asarray(observation.response.background.log_rate.axes[0].nodes, np.float64), np.inf)
    inside = nodes[np.searchsorted(nodes, low, side="right")]
    middle = np.where(inside < high, inside, 0.5 * (low + high))
    half = 0.5 * np.stack([middle - low, high - middle], axis=1)[:, :, None]
    centre = 0.5 * np.stack([low + middle, middle + high], axis=1)[:, :, None]
    energy = np.exp(centre + half * x).reshape(low.size, -1)
    share = (half * weight).reshape(low.size, -1) * energy
    return points._replace(energy=energy, energy_weight=share / share.sum(1, keepdims=True))


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
            sky = tuple(map(jnp.asarray, _sky(observation)))
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


def _sky(observation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions (lon, lat) [deg] and solid angles [sr] of a quadrature over the selection.

    Excluded pixels are shared among the nearest nodes of a grid, so that shapes do not depend on their number.
    """
    lon, lat, solid_angle = field_nodes(observation, STEP, POINTS)
    if observation.exclusion is None:
        return lon, lat, solid_angle
    grid = Grid(observation.lon, observation.lat, EXCLUDED_STEP, float(observation.offset_max) + 2.0 * EXCLUDED_STEP)
    *excluded, part = excluded_pixels(observation)
    x, y = (np.asarray(place, np.float64) for place in grid.pixel(*excluded))
    total = np.zeros((grid.size, grid.size))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    for i, up in ((0, 1.0 - (y - row)), (1, y - row)):
        for j, right in ((0, 1.0 - (x - column)), (1, x - column)):
            np.add.at(total, (row + i, column + j), part * up * right)
    others = (np.asarray(place).ravel() for place in grid.directions())
    lon, lat = (np.concatenate(pair) for pair in zip((lon, lat), others, strict=True))
    return lon, lat, np.concatenate([solid_angle, -total.ravel()])


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
