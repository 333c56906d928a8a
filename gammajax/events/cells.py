"""Cells: events merged by reconstructed energy and direction, with their counts.

    log L = Sum_c n_c log( mean of lambda over the cell c )

is the likelihood of binned events with the intensity integrated over each cell, so estimates have no bias for cells of
any size. Wide cells lose information ([`gammajax.compression_loss`][] measures it). Cells are intervals of ln E', of
the offset from the pointing and of the position angle about it; they end at the edge of the selection. The mean over a
cell is exact in E' for sources. In directions it is a Gauss-Legendre rule with two points along each axis for cells up
to one standard deviation of the response and up to five for wider cells, so that the cells of a point source add up to
its expected counts to 1e-5; backgrounds have up to four points in ln E'.
"""

import math
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.common.display import block, document, extent, length, number_of, text, total, words
from gammajax.common.parameters import is_same
from gammajax.events.event_list import Events, Points, check_events
from gammajax.instrument.observation import Observation, as_tuple
from gammajax.instrument.psf import psf_quantile
from gammajax.instrument.sky import DEGREE, displace, offset_coordinates, separation

CHUNK = 2**20  # events or points per step
# width of cells in standard deviations of the response: the default and the maximum
DEFAULT, LARGEST = 0.5, 3.0
MOST = 1000  # points along a side of a cell, in maps


class Binning(eqx.Module):
    """Cells of a list of observations, made by [`gammajax.Binning.init`][].

    - `edges` [TeV] of reconstructed energy, the same for all observations.
    - `rings`: number of rings of equal width from the pointing to `offset_max`, by observation and energy interval;
      zero outside the selection. Ring i has about 2 pi (i + 1) cells.
    - `fields`: the observations without their responses.
    - `order`: quadrature points along the energy axis and along both axes of direction.

    >>> import gammajax as gj
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> binning = gj.Binning.init(run, energy_per_decade=10, pixel=0.2)
    >>> binning(gj.Events([1.2, 1.2], [0.3, 0.3], [0.1, 0.1])).count.tolist()
    [2]
    """

    edges: Float[np.ndarray, " edge"]
    rings: Int[np.ndarray, "observation energy"]
    fields: tuple[Observation, ...]
    order: tuple[int, int] = eqx.field(static=True)
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Numbers of observations, intervals of energy and rings."""
        return block(
            f"Binning of {number_of(length(self.rings), 'observation')}, {length(self.rings, 1)} intervals of energy",
            f"edges {extent(self.edges, 'TeV')}, rings about the pointing {extent(self.rings)}",
        )

    @classmethod
    def init(
        cls, observations, energy_per_decade: float | int | None = None, pixel: float | int | None = None
    ) -> "Binning":
        """Choose cells: by default half as wide as the standard deviations of the response in energy and direction.

        `energy_per_decade` and `pixel` [deg] set the width of cells, at most three standard deviations of the energy
        dispersion and of the point spread function.
        Raises `ValueError` for numbers that are not positive, or have a unit.
        """
        for name, value in (("energy_per_decade", energy_per_decade), ("pixel", pixel)):
            if hasattr(value, "unit"):
                raise ValueError(f"{name} has a unit ({value}); give a plain number, an angle in deg")
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name} must be positive, not {value}")
        observations = as_tuple(observations)
        low, high = min(o.energy_min for o in observations), max(o.energy_max for o in observations)
        probe = np.geomspace(low, high, 200)
        widths = [_resolution(observation, probe) for observation in observations]
        narrow_energy, narrow_sky = (np.min([pair[i] for pair in widths], axis=0) for i in range(2))

        def width(asked, resolution):
            return DEFAULT * resolution if asked is None else np.minimum(asked, LARGEST * resolution)

        step = width(None if energy_per_decade is None else np.log(10.0) / energy_per_decade, narrow_energy)
        # edges by the local widths, between the edges of the selections
        position = np.concatenate([[0.0], np.cumsum(np.diff(np.log(probe)) * 2.0 / (step[1:] + step[:-1]))])
        inner = np.interp(np.linspace(0.0, position[-1], 1 + int(np.ceil(position[-1] - 1e-6))), position, probe)
        ends = [end for o in observations for end in (o.energy_min, o.energy_max)]
        edges = np.unique(np.concatenate([inner[1:-1], ends]))
        # keep the edges of selections; drop others that would make a much narrower cell
        keep = np.isin(edges, ends) | (np.abs(np.log(edges[:, None] / np.unique(ends))).min(1) > 0.3 * step.min())
        edges = edges[keep]
        middle = np.sqrt(edges[1:] * edges[:-1])
        at_most = np.interp(np.log(middle), np.log(probe), width(pixel, narrow_sky))
        rings = [
            np.where((middle > o.energy_min) & (middle < o.energy_max), np.ceil(o.offset_max / at_most - 1e-9), 0)
            for o in observations
        ]
        fields = tuple(_field(observation) for observation in observations)
        widest = [(step / narrow_energy).max(), (width(pixel, narrow_sky) / narrow_sky).max()]
        energies = 1 + max(1, math.ceil(widest[0] - 1e-6))
        directions = int(np.clip(math.ceil(2.0 * widest[1] - 1e-6), 2, 5))
        return cls(edges, np.array(rings, np.int32), fields, (energies, directions))

    def locate(self, events: Events) -> Int[np.ndarray, " event"]:
        """Index of the cell of each event, among the cells of its observation.

        Raises `ValueError` for an event outside the selection of its observation.
        """
        check_events(events, self.fields)
        result = np.empty(len(events), np.int32)
        for number, field in enumerate(self.fields):
            mine = np.flatnonzero(events.observation == number)
            size = CHUNK if mine.size > CHUNK else -(-mine.size // 4096) * 4096
            inside = np.flatnonzero(self.rings[number])
            for first in range(0, mine.size, max(size, 1)):
                chunk = mine[first : first + size]
                padded = np.resize(chunk, size)
                interval = np.searchsorted(self.edges, events.energy[padded], side="right") - 1
                # single precision may put an event on either side of the last edge
                interval = np.clip(interval, inside[0], inside[-1]).astype(np.int32)
                columns = map(jnp.asarray, (interval, events.lon[padded], events.lat[padded]))
                result[chunk] = np.asarray(_locate(field, self._table(number), *columns))[: chunk.size]
        return result

    def __call__(self, events: Events) -> "Cells":
        """Count events; the cells of several lists can be added. Raises `ValueError` as `locate` does."""
        place = (np.asarray(events.observation, np.int64) << 32) + self.locate(events)
        return Cells.of(self, *np.unique(place, return_counts=True))

    @property
    def energies(self) -> Float[np.ndarray, "interval energy"]:
        """Energies [TeV] of the points in each interval between two edges."""
        x, _ = np.polynomial.legendre.leggauss(self.order[0])
        low, high = self.edges[:-1, None], self.edges[1:, None]
        return low * (high / low) ** (0.5 + 0.5 * x)

    def _table(self, observation: int) -> "_Table":
        rings = self.rings[observation]
        # nearly square cells, none longer than the width of its ring
        in_ring = np.ceil(2.0 * np.pi * (np.arange(rings.max()) + 1))
        within = np.concatenate([[0], np.cumsum(in_ring)])
        first = np.concatenate([[0], np.cumsum(within[rings])[:-1]])
        if first[-1] + within[rings[-1]] > np.iinfo(np.int32).max:
            raise ValueError("more than 2^31 cells in one observation: use larger cells")
        return _Table(*(jnp.asarray(column, jnp.int32) for column in (rings, first, within)))


class _Table(eqx.Module):
    """Cells of one observation: rings and first cell of every energy interval, and cells within the first rings."""

    rings: Int[Array, " energy"]
    first: Int[Array, " energy"]
    within: Int[Array, " ring"]


class Cells(eqx.Module):
    """Counts of events in cells, which a [`gammajax.Posterior`][] takes in place of events.

        ln L = Sum_c n_c ln(mean of lambda over the cell c)

    - `binning`: the [`gammajax.Binning`][] of the cells.
    - `observation`, `cell`: indices of every cell with events, sorted; `count`: number of its events.

    [`gammajax.Events.compress`][] makes them. Cells of the same binning add up.

    >>> import gammajax as gj
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> events = gj.Events([1.2, 1.2, 4.0], [0.3, 0.3, 0.0], [0.1, 0.1, 0.5])
    >>> cells = events.compress(run, energy_per_decade=10, pixel=0.2)
    >>> cells.total, len(cells)
    (3, 2)
    """

    binning: Binning
    observation: Int[np.ndarray, " cell"]
    cell: Int[np.ndarray, " cell"]
    count: Int[np.ndarray, " cell"]
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Numbers of cells and of events in them."""
        return block(f"Cells: {length(self.count)} with {total(self.count)} events", text(self.binning))

    def __len__(self) -> int:
        return self.count.size

    @property
    def total(self) -> int:
        """Number of events."""
        return int(self.count.sum())

    def __getitem__(self, which) -> "Cells":
        """The cells selected by a boolean mask, slice or index array."""
        return Cells(self.binning, self.observation[which], self.cell[which], self.count[which])

    def __add__(self, other: "Cells") -> "Cells":
        """Sum of the counts of two `Cells` with the same binning."""
        if not is_same(self.binning, other.binning):
            raise ValueError("only cells of the same binning can be added")
        place = [(np.asarray(c.observation, np.int64) << 32) + np.asarray(c.cell) for c in (self, other)]
        place, where = np.unique(np.concatenate(place), return_inverse=True)
        return Cells.of(self.binning, place, np.bincount(where, np.concatenate([self.count, other.count])))

    @classmethod
    def of(cls, binning: Binning, place: Int[np.ndarray, " cell"], count) -> "Cells":
        """Cells from 64-bit indices; the upper half of the bits is the observation."""
        observation, cell = place >> 32, place & (2**32 - 1)
        return cls(binning, observation.astype(np.int32), cell.astype(np.int32), np.asarray(count, np.int64))

    def check_observations(self, observations) -> None:
        """Raise `ValueError` unless these are the observations of the binning."""
        if not is_same(self.binning.fields, tuple(_field(observation) for observation in observations)):
            raise ValueError("the cells are of other observations, or of another selection: compress the events anew")

    def energies(self) -> Float[np.ndarray, "cell energy"]:
        """Energies [TeV] of the points of every cell."""
        return self.binning.energies[self._intervals(self.observation, self.cell)]

    def _intervals(self, observation, cell) -> Int[np.ndarray, " cell"]:
        """Interval of energy of cells."""
        result = np.empty(cell.size, np.int32)
        for number in range(len(self.binning.fields)):
            mine = observation == number
            result[mine] = np.searchsorted(np.asarray(self.binning._table(number).first), cell[mine], "right") - 1
        return result

    def points(self, which: Int[np.ndarray, " some"] | slice = slice(None)) -> Points:
        """Quadrature points of the mean over each cell, or over some of the cells.

        Directions in excluded sky have weight zero, unless all points of the cell are excluded.
        """
        binning = self.binning
        energies, directions = binning.order[0], binning.order[1] ** 2
        shapes = 2 * (energies,) + 3 * (directions,)
        observation, cells = self.observation[which], self.cell[which]
        columns = [np.empty((cells.size, size), np.float64) for size in shapes]
        for number, field in enumerate(binning.fields):
            mine = np.flatnonzero(observation == number)
            size = min(CHUNK // directions, -(-mine.size // 512) * 512)
            for first in range(0, mine.size, max(size, 1)):
                chunk = mine[first : first + size]
                cell = jnp.asarray(np.resize(cells[chunk], size))
                made = _points(field, binning._table(number), jnp.asarray(binning.energies), cell, binning.order)
                for column, part in zip(columns, made, strict=True):
                    column[chunk] = np.asarray(part)[: chunk.size]
        interval = self._intervals(observation, cells)
        columns.append(np.stack([binning.edges[interval], binning.edges[interval + 1]], axis=1))
        return Points(*columns)

    def spread(
        self, step: float, centre: tuple[float, float], reach: float
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Directions (lon, lat) [deg] and numbers of events, in batches: for maps with pixels of `step` [deg].

        The events of each cell are spread evenly over its part of the selected sky, with three points per step, so that
        a map shows no pattern of the cells. Cells farther than `reach` [deg] from `centre` may be left out.
        """
        for number, field in enumerate(self.binning.fields):
            mine = self.observation == number
            own = self.binning._table(number)
            table = jax.tree.map(np.asarray, own)
            interval = np.searchsorted(table.first, self.cell[mine], "right") - 1
            # energy intervals with equally many rings have the same cells on the sky
            rest, rings = self.cell[mine] - table.first[interval], table.rings[interval]
            for count in np.unique(rings):
                same = rings == count
                cell, where = np.unique(rest[same], return_inverse=True)
                events, width = np.bincount(where, self.count[mine][same]), float(field.offset_max) / count
                for chunk, lon, lat, _ in _batches(field, own, cell, width, 1):
                    near = np.asarray(separation(lon[:, 0], lat[:, 0], *centre)) < reach + 2.5 * width
                    side = min(1 + math.ceil(3.0 * width / step), MOST)
                    some = cell[chunk][near]
                    for part, lon, lat, weight in _batches(field, own, some, width, side):
                        weight = events[chunk][near][part, None] * weight
                        yield lon.ravel(), lat.ravel(), weight.ravel()


def _batches(field, table, cell, width, side):
    """Slices of `cell`, and longitudes, latitudes and weights [cell, point] of `side`^2 points in each."""
    size = min(max(CHUNK // side**2, 1), -(-cell.size // 512) * 512)
    for first in range(0, cell.size, size or 1):
        chunk = slice(first, first + size)
        padded = jnp.asarray(np.resize(cell[chunk], size), jnp.int32)
        made = _spread(field, table, padded, jnp.asarray(width), side)
        yield chunk, *(np.asarray(column, np.float64)[: cell[chunk].size] for column in made)


def _field(observation) -> Observation:
    """The observation without its response."""
    return eqx.tree_at(lambda o: o.response, observation, None)


def _resolution(observation, energy) -> tuple[np.ndarray, np.ndarray]:
    """Smallest standard deviations in the field, in ln E' and on the sky [deg], at energies [TeV]."""
    axis = observation.response.effective_area.axes[0]
    energy = np.clip(energy, np.exp(axis.lower) * (1 + 1e-5), np.exp(axis.upper) * (1 - 1e-5))
    migra = np.linspace(0.0, 3.0, 1501)[1:]
    narrow = []
    for offset in np.linspace(0.0, observation.offset_max, 4):
        below, sigma = _spreads(observation.response, *map(jnp.asarray, (energy, migra, offset)))
        quantiles = [[np.interp(part, row, migra) for part in (0.1587, 0.8413)] for row in np.asarray(below)]
        low, high = np.array(quantiles).T
        # an empty table at some energy sets no width there
        narrow.append((np.where(high > low, 0.5 * np.log(high / low), np.inf), np.where(sigma > 0, sigma, np.inf)))
    smallest = np.min(narrow, axis=0)
    return tuple(np.where(np.isfinite(smallest), smallest, [[0.2], [0.2]]).clip(1e-3))


@eqx.filter_jit
def _spreads(response, energy, migra, offset):
    true = energy[:, None]
    below = response.energy_dispersion.probability(jnp.zeros(()), migra * true, true, offset)
    offset = jnp.broadcast_to(offset, energy.shape)
    return below, psf_quantile(response.psf, energy, offset, jnp.full(energy.shape, 0.393))


@eqx.filter_jit
def _locate(field, table, interval, lon, lat):
    """Index of the cell of each event."""
    u, v = offset_coordinates(lon, lat, field.lon, field.lat)
    turn = jnp.arctan2(jnp.cos(DEGREE * v) * jnp.sin(DEGREE * u), jnp.sin(DEGREE * v)) / (2.0 * jnp.pi)
    count = table.rings[interval]
    ring = jnp.clip((field.offset(lon, lat) / field.offset_max * count).astype(jnp.int32), 0, count - 1)
    in_ring = table.within[ring + 1] - table.within[ring]
    sector = jnp.clip(((turn % 1.0) * in_ring).astype(jnp.int32), 0, in_ring - 1)
    return table.first[interval] + table.within[ring] + sector


@eqx.filter_jit
def _points(field, table, energies, cell, order: tuple[int, int]):
    """Columns of [`Points`][]."""
    interval = jnp.searchsorted(table.first, cell, side="right") - 1
    rest = cell - table.first[interval]
    ring = jnp.searchsorted(table.within, rest, side="right") - 1
    sector, in_ring = rest - table.within[ring], table.within[ring + 1] - table.within[ring]
    (_, x_rule), (y, y_rule) = (np.polynomial.legendre.leggauss(n) for n in order)
    energy = energies[interval]
    # the mean is over E' and solid angle
    energy_weight = x_rule * energy
    i, j = (part.ravel() for part in np.meshgrid(0.5 + 0.5 * y, 0.5 + 0.5 * y, indexing="ij"))
    distance = (ring[:, None] + i) * (field.offset_max / table.rings[interval])[:, None]
    lon, lat = displace(field.lon, field.lat, distance, 360.0 * (sector[:, None] + j) / in_ring[:, None])
    weight = _selected_weights(field, lon, lat, np.outer(y_rule, y_rule).ravel() * jnp.sin(DEGREE * distance))
    return energy, energy_weight / energy_weight.sum(1, keepdims=True), lon, lat, weight


@eqx.filter_jit
def _spread(field, table, cell, width, side: int):
    """Directions and weights of `side`^2 points in each cell of an energy interval with rings of `width` [deg]."""
    ring = jnp.searchsorted(table.within, cell, side="right") - 1
    sector, in_ring = cell - table.within[ring], table.within[ring + 1] - table.within[ring]
    i, j = (part.ravel() for part in np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    # each row is rotated against the next, so that points of many cells do not line up
    shift = (0.618 * (ring[:, None] * side + i)) % 1.0
    distance = (ring[:, None] + (i + 0.5) / side) * width
    lon, lat = displace(
        field.lon, field.lat, distance, 360.0 * (sector[:, None] + (j + shift) / side) / in_ring[:, None]
    )
    return lon, lat, _selected_weights(field, lon, lat, jnp.sin(DEGREE * distance))


def _selected_weights(field, lon, lat, weight):
    """Weights that add up to one in each row; zero in excluded sky, unless the whole row is excluded."""
    kept = weight * field.selected(lon, lat)
    weight = jnp.where(kept.sum(1, keepdims=True) > 0, kept, weight)
    return weight / weight.sum(1, keepdims=True)
