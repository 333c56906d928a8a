"""Background engine: the instrument's background, from the background response at the events."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.engines.engine import Engine, Expected
from gammajax.engines.rows import Rows
from gammajax.engines.selection import excluded_pixels, field_nodes
from gammajax.events.event_list import Points
from gammajax.instrument.sky import DEGREE, Grid, displace, offset_coordinates
from gammajax.model.background_correction import BackgroundCorrection, CorrectionBasis
from gammajax.model.mixture import InstrumentBackground
from gammajax.model.splines import cubic_weights

ENERGIES_PER_DECADE, PANEL_POINTS = 40, 3
STEP, POINTS, EXCLUDED_STEP = 0.1, 3, 0.05  # deg, of the quadrature over the field, and of nodes of excluded sky
# places over which a correction is interpolated: width [deg] and points of panels in offset, number of angles; energies
# per step of the set-up
FIELD_PANEL, FIELD_POINTS, ANGLES, ENERGIES_AT_ONCE = 0.5, 4, 16, 16
CHUNK, FEW = 2**17, 2**12  # points per step of the set-up, for many and for few events


class FieldCounts(eqx.Module):
    """Counts at every energy from every place of the field of view, for factors that change over the field.

    A smooth factor on the rates is interpolated between the places: by Lagrange polynomials in offset, in panels that
    end at the nodes of the correction, and by trigonometric ones in the angle. `counts` are the integrals of the rate
    times the cardinal function of each place; `basis` of the correction at the places.
    """

    counts: Float[Array, "observation energy place"]
    basis: CorrectionBasis

    def __call__(self, correction: BackgroundCorrection, number) -> Float[Array, " energy"]:
        """Expected counts of one observation with the factor over the field, minus those without it."""
        basis = jax.tree.map(lambda part: part[number], self.basis)
        # exactly nothing for a factor of one
        return self.counts[number] @ jnp.expm1(correction.log_factor(basis))


class BackgroundCounts(eqx.Module):
    """Function from a background to its expected counts by reconstructed energy.

    `counts` are those of the response over the selected regions, at fine energies [TeV]. `basis` of the correction in
    energy, and counts by place of the `field`, or None.
    """

    energy: Float[Array, "observation energy"]
    counts: Float[Array, "observation energy"]
    basis: Float[Array, "observation energy node"] | None = None
    field: FieldCounts | None = None

    def __call__(self, source: InstrumentBackground) -> Float[Array, "observation energy"]:
        """Expected counts; their sum over energies is the number in each selection."""

        def one(number):
            mine = source.select(number)
            factor, counts = mine.factor(self.energy[number]), self.counts[number]
            if mine.correction is None:
                return counts * factor
            if self.field is not None:
                counts = counts + self.field(mine.correction, number)
            if self.basis is not None:
                basis = CorrectionBasis(self.basis[number], None, None)
                factor = factor * jnp.exp(mine.correction.log_factor(basis))
            return counts * factor

        return jax.vmap(one)(jnp.arange(self.energy.shape[0]))


class BackgroundEngine(Engine):
    """Rate of the response at every row, and its integral over the region at fine reconstructed energies.

    `energy_row` [TeV] is the energy of an event, or the effective energy of a cell for a tilt; `basis` of the
    correction of an event, or its mean over a cell, or None.
    """

    rate: Float[Array, " row"]
    energy_row: Float[Array, " row"]
    observation: Int[Array, " row"]
    counted: BackgroundCounts
    basis: CorrectionBasis | None = None

    @classmethod
    def init(cls, source: InstrumentBackground, observations, rows: Rows, variants=()) -> "BackgroundEngine":
        """Evaluate the background of every event's observation; eager.

        Raises `ValueError` for arrays of numbers without one for each observation, and for nodes of the correction
        outside the tables of the background.
        """
        source.check_observations(observations)
        rate = np.zeros(rows.index.size, rows.dtype)
        energy_row = np.zeros(rows.index.size, rows.dtype)
        basis = None
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
                share = np.where(total[:, None] > 0, share, 1.0)
                share /= share.sum(1, keepdims=True)
                energy_row[chunk] = np.exp((share * log_energy).sum(1))
                if source.correction is not None:  # and of the correction: half its variance in the cell is missing
                    several = _basis(source.correction, observation, *map(jnp.asarray, columns))
                    means = jax.tree.map(lambda part, share=share: _means(part, share), several)
                    if basis is None:
                        basis = jax.tree.map(lambda part: np.zeros((rate.size, part.shape[1]), rows.dtype), means)
                    jax.tree.map(lambda whole, part, chunk=chunk: whole.__setitem__(chunk, part), basis, means)
        energy, counts = selection_integrals(observations, source.correction)
        return cls(
            rows.place(rate),
            rows.place(energy_row),
            rows.place(rows.observation),
            counted(observations, energy, counts, source.correction),
            jax.tree.map(rows.place, basis),
        )

    @eqx.filter_jit
    def __call__(self, source: InstrumentBackground) -> Expected:
        """Intensities and counts, by reconstructed energy."""
        intensity = self.rate * source.select(self.observation).factor(self.energy_row)
        if source.correction is not None:
            if self.basis is None:
                raise ValueError("the background got a correction after its engine was set up: have one from the start")
            intensity = intensity * jnp.exp(source.correction.log_factor(self.basis, self.observation))
        return Expected(intensity, self.counted(source))


def _means(part, share) -> np.ndarray:
    """Means of the factors of each number over the points of every row."""
    values = np.asarray(part).reshape(*share.shape, -1)
    return values[:, 0] if share.shape[1] == 1 else np.einsum("rp,rpn->rn", share, values)


def counted(observations, energy, counts, correction: BackgroundCorrection | None) -> BackgroundCounts:
    """Expected counts at energies and over the field of view, as the correction needs them."""
    energy, counts = jnp.asarray(energy), jnp.asarray(counts)
    if correction is None:
        return BackgroundCounts(energy, counts)
    basis = None if correction.energy is None else cubic_weights(np.log(correction.energy_nodes), jnp.log(energy))
    field = field_counts(observations, energy, counts, correction) if correction.in_field else None
    return BackgroundCounts(energy, counts, basis, field)


def field_counts(observations, energy, counts, correction: BackgroundCorrection) -> FieldCounts:
    """Counts from places of the field of view, eager."""
    places = [Places.of(float(o.offset_max), correction) for o in observations]
    most = max(place.offset.size for place in places)
    parts, bases, known = [], [], {}
    for observation, place, energies, number in zip(observations, places, energy, counts, strict=True):
        key = (id(observation.response), float(observation.offset_max), np.asarray(energies).tobytes())
        if observation.exclusion is not None or key not in known:
            shares = np.asarray(_place_shares(observation, place, tuple(map(jnp.asarray, _sky(observation))), energies))
            total = shares.sum(1, keepdims=True, dtype=np.float64)
            shares = shares / np.where(total > 0, total, 1.0)
            if observation.exclusion is None:
                known[key] = shares
        else:
            shares = known[key]
        # places of all observations in arrays of one size
        parts.append(_padded(np.asarray(number)[:, None] * shares, most * place.angles))
        offset, angle = _padded(place.offset, most), 360.0 / place.angles * np.arange(place.angles)
        where = (jnp.asarray(part.ravel()) for part in np.meshgrid(offset, angle, indexing="ij"))
        bases.append(_field_basis(correction, *where))
    basis = jax.tree.map(lambda *parts: jnp.stack(parts), *bases)
    return FieldCounts(jnp.asarray(np.stack(parts), float), basis)


def _padded(array, size) -> np.ndarray:
    """The array with zeros at the end of its last axis."""
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, size - array.shape[-1])])


class Places(eqx.Module):
    """Places of the field of view, [offset, angle]: Gauss-Legendre points of panels in `offset` [deg], equal angles.

    `edges` [deg] of the panels.
    """

    edges: Float[np.ndarray, " edge"]
    offset: Float[np.ndarray, " offset"]
    angles: int = eqx.field(static=True)

    @classmethod
    def of(cls, offset_max: float, correction: BackgroundCorrection) -> "Places":
        """Places for factors as smooth as a correction; round ones need one angle."""
        nodes = [node for node in correction.offset_nodes if 0.0 < node < offset_max * (1 - 1e-6)]
        ends = np.array([0.0, *nodes, offset_max])
        pieces = [np.linspace(a, b, int(np.ceil((b - a) / FIELD_PANEL - 1e-9)) + 1)[1:] for a, b in pairwise(ends)]
        edges = np.concatenate([[0.0], *pieces])
        half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
        offset = (middle + half * np.polynomial.legendre.leggauss(FIELD_POINTS)[0]).ravel()
        return cls(edges, offset, 1 if correction.gradients is None else ANGLES)

    def cardinal(self, offset, angle) -> Float[Array, "direction place"]:
        """Cardinal functions of all places at directions with these offsets [deg] and angles [rad]."""
        panel = jnp.clip(jnp.searchsorted(jnp.asarray(self.edges), offset, side="right") - 1, 0, self.edges.size - 2)
        points = jnp.asarray(self.offset).reshape(-1, FIELD_POINTS)
        mine = points[panel]
        far = offset[:, None] - mine
        lagrange = [
            jnp.prod(jnp.delete(far, k, axis=1) / jnp.delete(mine[:, k, None] - mine, k, axis=1), axis=1)
            for k in range(FIELD_POINTS)
        ]
        radial = jnp.zeros((offset.size, *points.shape)).at[jnp.arange(offset.size), panel].set(jnp.stack(lagrange, 1))
        radial = radial.reshape(offset.size, -1)
        if self.angles == 1:
            return radial
        off = angle[:, None] - 2.0 * jnp.pi / self.angles * jnp.arange(self.angles)
        waves = sum(jnp.cos(k * off) for k in range(1, self.angles // 2))
        round_ = (1.0 + 2.0 * waves + jnp.cos(self.angles // 2 * off)) / self.angles
        return (radial[:, :, None] * round_[:, None, :]).reshape(offset.size, -1)


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
    observations, correction: BackgroundCorrection | None = None
) -> tuple[Float[np.ndarray, "observation energy"], Float[np.ndarray, "observation energy"]]:
    """Energies [TeV] and expected background counts: quadrature nodes and weights over the selected regions.

    Gauss-Legendre panels in ln E' end at the nodes of the response, where its interpolation has kinks, and at those of
    a correction. Observations may have different numbers of nodes: others have a weight of zero.
    """
    nodes, weights = np.polynomial.legendre.leggauss(PANEL_POINTS)
    more = () if correction is None else correction.energy_nodes
    panels = [_panels(observation, np.log(np.asarray(more))) for observation in observations]
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


def _panels(observation, more) -> np.ndarray:
    """Ends of the panels in ln E'; `more` are further ones."""
    table = observation.response.background
    if table is None:
        raise ValueError(f"observation {observation.obs_id} has no background response (BKG_2D or BKG_3D)")
    low, high = np.log(observation.energy_min), np.log(observation.energy_max)
    axis = table.log_rate.axes[0]
    breaks = np.concatenate([np.asarray(axis.nodes, np.float64), [axis.lower, axis.upper], more])
    panels = np.linspace(low, high, 1 + int(np.ceil((high - low) * ENERGIES_PER_DECADE / np.log(10.0) / PANEL_POINTS)))
    return np.unique(np.concatenate([panels, breaks[(breaks > low) & (breaks < high)]]))


def _sky(observation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions (lon, lat) [deg] and solid angles [sr] of a quadrature over the selection.

    Excluded pixels are shared among the nearest nodes of a grid, so that shapes do not depend on their number; cubic
    polynomials are integrated exactly.
    """
    lon, lat, solid_angle = field_nodes(observation, STEP, POINTS)
    if observation.exclusion is None:
        return lon, lat, solid_angle
    grid = Grid(observation.lon, observation.lat, EXCLUDED_STEP, float(observation.offset_max) + 3.0 * EXCLUDED_STEP)
    *excluded, part = excluded_pixels(observation)
    x, y = (np.asarray(place, np.float64) for place in grid.pixel(*excluded))
    total = np.zeros((grid.size, grid.size))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    for i, up in zip(range(-1, 3), _cubic(y - row), strict=True):
        for j, right in zip(range(-1, 3), _cubic(x - column), strict=True):
            np.add.at(total, (row + i, column + j), part * up * right)
    others = (np.asarray(place).ravel() for place in grid.directions())
    lon, lat = (np.concatenate(pair) for pair in zip((lon, lat), others, strict=True))
    return lon, lat, np.concatenate([solid_angle, -total.ravel()])


def _cubic(f) -> tuple[np.ndarray, ...]:
    """Lagrange's weights of the nodes -1, 0, 1, 2 at f between 0 and 1."""
    return (
        -f * (f - 1.0) * (f - 2.0) / 6.0,
        (f + 1.0) * (f - 1.0) * (f - 2.0) / 2.0,
        -(f + 1.0) * f * (f - 2.0) / 2.0,
        (f + 1.0) * f * (f - 1.0) / 6.0,
    )


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


@eqx.filter_jit
def _basis(correction, observation, energy, lon, lat):
    return correction.basis(energy, *observation.fov_coordinates(lon, lat))


@eqx.filter_jit
def _field_basis(correction, offset, angle):
    return correction.field_basis(*displace(0.0, 0.0, offset, angle))


@eqx.filter_jit
def _place_shares(observation, places, sky, energy):
    """Integral over the selected region of the background times the cardinal function of each place, at each energy."""
    lon, lat, solid_angle = sky
    u, v = offset_coordinates(*observation.fov_coordinates(lon, lat), 0.0, 0.0)
    angle = jnp.arctan2(jnp.cos(DEGREE * v) * jnp.sin(DEGREE * u), jnp.sin(DEGREE * v))
    cardinal = places.cardinal(observation.offset(lon, lat), angle)

    def shares(e):
        return (observation.background(jnp.full(lon.shape, e), lon, lat) * solid_angle) @ cardinal

    return jax.lax.map(shares, energy, batch_size=ENERGIES_AT_ONCE)
