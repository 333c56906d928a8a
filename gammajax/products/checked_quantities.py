"""Quantities that a check compares: of events and cells in the field of view, and of ON and OFF events."""

import numpy as np

from gammajax.instrument.sky import separation_on_host
from gammajax.likelihood import OnOff
from gammajax.model.mixture import Mixture, Source
from gammajax.products.event_replicates import Columns, observed
from gammajax.products.region_replicates import Streams
from gammajax.products.replicates import Quantity
from gammajax.products.residuals import FINE, SkyCounts, on_host

LEAST = 15.0  # expected counts of a bin; narrower bins are joined
LEAST_SKY, IN_PIXEL, PIXELS = 5.0, 16.0, 2500  # expected counts of a pixel: least, and wanted; number of pixels
PER_DECADE = 10  # bins of energy
RINGS = 8  # of the offset, and intervals along each axis of the field of view
CONTAINED = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)  # of a source, where its rings end
BEYOND = (1.4, 2.0, 3.0)  # rings further out, relative to the last of these
NEAR = 0.7  # of a source: events within this containment have an energy test of their own
FEW_OF_SOURCE = 20  # simulated events, below which a source has no tests
LIFETIMES = (4, 30, 40.0)  # intervals of time: least, most, and events wanted in each
SECOND = 1.0 / 86400.0  # d
STEPS = (10, 100, 10.0)  # steps of the distribution of log-densities: least, most, and events wanted in each
LOG_DENSITY = "log-density"


class OfEvents:
    """Quantities of a data set, chosen by simulated events: no bin expects few of them.

    `places` [deg] of the pixels of the sky.
    """

    def __init__(self, term, prefix: str):
        self.term, self.prefix, self.places = term, prefix, {}
        self.times = getattr(observed(term), "time", None) is not None

    def __call__(self, mixture: Mixture, columns: Columns, number: int) -> list[Quantity]:
        """For columns of `number` simulated data sets together."""
        found = [
            energy_quantity("energy", self.term.energy_range, _energy),
            *self._field(),
            *self._runs(columns),
            *self._time(columns, number),
        ]
        found += [self._sky(columns, number), *self._sources(mixture, columns)]
        low, most, wanted = STEPS
        steps = int(np.clip(columns.energy.size / number / wanted, low, most))
        edges = np.quantile(columns.log_density, np.linspace(0.0, 1.0, steps + 1))
        edges[[0, -1]] += [-30.0, 30.0]
        joined = [_joined(q, columns, number) for q in found if not q.labels]
        found = joined + [q for q in found if q.labels]
        found.append(Quantity(LOG_DENSITY, "", lambda c: c.log_density, np.unique(edges)))
        self.places = {self.prefix + name: place for name, place in self.places.items()}
        return [q._replace(name=self.prefix + q.name) for q in found if q.edges.size > 2]

    def _field(self) -> list[Quantity]:
        observations = self.term.observations
        most = max(float(o.offset_max) for o in observations) * (1 + 1e-4)

        def offset(columns):
            lon, lat = (np.array([float(getattr(o, name)) for o in observations]) for name in ("lon", "lat"))
            run = columns.observation
            return separation_on_host(columns.lon, columns.lat, lon[run], lat[run])

        def along(axis):
            def values(columns):
                result = np.zeros(columns.lon.size)
                for number, one in enumerate(observations):
                    mine = np.flatnonzero(columns.observation == number)
                    place = on_host(one.fov_coordinates, columns.lon[mine], columns.lat[mine])
                    result[mine] = place[axis]
                return result

            return values

        side = np.linspace(-most, most, RINGS + 1)
        return [
            Quantity("offset", "deg", offset, np.sqrt(np.linspace(0.0, most**2, RINGS + 1))),
            Quantity("field-of-view longitude", "deg", along(0), side),
            Quantity("field-of-view latitude", "deg", along(1), side),
        ]

    def _runs(self, columns) -> list[Quantity]:
        labels = self.term.labels
        edges = np.arange(len(labels) + 1) - 0.5
        return [Quantity("observation", "", lambda c: c.observation.astype(float), edges, labels)] * (len(labels) > 1)

    def _time(self, columns, number) -> list[Quantity]:
        if not self.times:
            return []
        low, most, wanted = LIFETIMES
        intervals = int(np.clip(columns.energy.size / number / wanted, low, most))
        edges = np.quantile(columns.time, np.linspace(0.0, 1.0, intervals + 1))
        spans = np.concatenate([o.good_time for o in self.term.observations])
        edges[[0, -1]] = spans.min() - SECOND, spans.max() + SECOND
        edges = np.unique(edges)
        return [Quantity("time", "MJD", lambda c: np.asarray(c.time), edges)]

    def _sky(self, columns, number) -> Quantity:
        wide = SkyCounts.init(self.term, FINE)
        seen = np.asarray(wide.seen).sum() * wide.grid.step**2
        step = np.sqrt(max(seen * IN_PIXEL / max(columns.energy.size / number, 1.0), seen / PIXELS))
        step = float(np.clip(step, FINE, 0.5 * wide.radius))
        grid = SkyCounts.init(self.term, step).grid

        def pixel(columns):
            x, y = on_host(grid.pixel, columns.lon, columns.lat)
            return (np.rint(y) * grid.size + np.rint(x)).astype(int)

        expected = np.bincount(pixel(columns), minlength=grid.size**2) / number
        used = np.flatnonzero(expected >= LEAST_SKY)
        place = np.full(grid.size**2, np.nan)
        place[used] = np.arange(used.size)
        lon, lat = (np.asarray(side, float).ravel()[used] for side in grid.directions())
        self.places["sky"] = np.stack([lon % 360.0, lat], axis=1)
        labels = tuple(f"at ({a % 360.0:.2f}, {b:.2f}) deg, {step:.2g} deg wide" for a, b in zip(lon, lat, strict=True))
        edges = np.arange(used.size + 1) - 0.5
        return Quantity("sky", "", lambda c: place[np.clip(pixel(c), 0, grid.size**2 - 1)], edges, labels)

    def _sources(self, mixture, columns) -> list[Quantity]:
        found, known, clear = [], {}, []
        for i, (path, part) in enumerate(mixture.components.items()):
            if not isinstance(part, Source):
                continue
            centre = float(part.morphology.lon), float(part.morphology.lat)
            known.setdefault(centre, []).append((i, path))
        for centre, members in known.items():
            mine = np.isin(columns.component, [i for i, _ in members])
            if mine.sum() < FEW_OF_SOURCE:
                continue
            name = " + ".join(path for _, path in members)

            def distance(columns, centre=centre):
                return separation_on_host(columns.lon, columns.lat, *centre)

            own = distance(columns)[mine]
            reach = max(float(o.offset(*centre) + o.offset_max) for o in self.term.observations)
            inner = np.quantile(own, CONTAINED)
            edges = np.unique(np.concatenate([[0.0], inner, inner[-1] * np.array(BEYOND)]))
            edges = edges[edges < reach]
            found.append(Quantity(f"distance from {name}", "deg", distance, edges))
            clear.append((distance, float(inner[-1]) * BEYOND[0]))
            near = float(np.quantile(own, NEAR))
            if near < 0.5 * reach:

                def energy(columns, distance=distance, near=near):
                    return np.where(distance(columns) < near, columns.energy, np.nan)

                found.append(energy_quantity(f"energy within {near:.2g} deg of {name}", self.term.energy_range, energy))

        def away(columns):
            outside = np.all([distance(columns) > radius for distance, radius in clear], axis=0)
            return np.where(outside, columns.energy, np.nan)

        if clear:
            found.append(energy_quantity("energy away from the sources", self.term.energy_range, away))
        return found


class OfRegions:
    """Quantities of ON and OFF events."""

    def __init__(self, term: OnOff, prefix: str):
        self.term, self.prefix, self.places = term, prefix, {}

    def __call__(self, mixture: Mixture, columns: Streams, number: int) -> list[Quantity]:
        """For events of `number` simulated data sets together."""
        found, labels = [], self.term.labels
        for name, on in (("ON", True), ("OFF", False)):

            def among(values, on=on):
                return lambda columns: np.where(columns.on == on, values(columns), np.nan)

            energy = energy_quantity(f"energy of {name} events", self.term.energy_range, among(_energy))
            found.append(_joined(energy, columns, number))
            if len(labels) > 1:
                runs, edges = among(lambda c: c.run.astype(float)), np.arange(len(labels) + 1) - 0.5
                found.append(Quantity(f"{name} events of run", "", runs, edges, labels))
        return [q._replace(name=self.prefix + q.name) for q in found if q.edges.size > 2]


def energy_quantity(name: str, energy_range: tuple[float, float], values) -> Quantity:
    """Bins of equal ratios of energies."""
    low, high = energy_range
    edges = np.geomspace(low, high, 1 + max(4, round(PER_DECADE * np.log10(high / low))))
    edges[[0, -1]] *= [1 - 1e-6, 1 + 1e-6]
    return Quantity(name, "TeV", values, edges)


def _energy(columns: Columns | Streams) -> np.ndarray:
    return columns.energy


def _joined(quantity: Quantity, columns: Columns | Streams, number: int) -> Quantity:
    """The quantity with neighbouring bins joined until each expects `LEAST` events."""
    bins, size = quantity.bins(columns), quantity.edges.size - 1
    expected = np.bincount(bins[bins >= 0], minlength=size) / number
    kept, inside = [0], 0.0
    for i in range(size):
        inside += expected[i]
        if inside >= LEAST:
            kept.append(i + 1)
            inside = 0.0
    if len(kept) > 1:
        kept[-1] = size  # the rest belongs to the last
    return quantity._replace(edges=quantity.edges[kept])
