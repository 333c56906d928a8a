"""Replicates of data sets of events and of cells: simulated with their responses, scored by their engines."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from gammajax.common.progress import say
from gammajax.engines import FixedEngine, KernelEngine, PreparedKernel, Rows
from gammajax.engines.choice import explore
from gammajax.engines.rows import PER_DECADE
from gammajax.events.cells import Binning, Cells
from gammajax.events.event_list import Events
from gammajax.likelihood import Unbinned, UnbinnedTerm
from gammajax.likelihood.term import Parameters, Setup
from gammajax.model.mixture import Mixture, Source
from gammajax.products.replicates import Maker, slopes
from gammajax.simulation import simulate


class Columns(NamedTuple):
    """Events or cells as columns: energy [TeV], direction [deg], observation, time (MJD) or None, ln of the density.

    `component` of simulated events, or -1.
    """

    energy: Float[np.ndarray, " row"]
    lon: Float[np.ndarray, " row"]
    lat: Float[np.ndarray, " row"]
    observation: Int[np.ndarray, " row"]
    time: Float[np.ndarray, " row"] | None
    log_density: Float[np.ndarray, " row"]
    component: Int[np.ndarray, " row"]


def drawn(key: PRNGKeyArray, posterior, term: UnbinnedTerm, parameters: Parameters, times: int) -> tuple[Events, Any]:
    """Events of `times` replicates of a data set together, and the replicate of each event.

    With absolute fluxes the livetimes are so many times longer, and each event is given to a replicate at random.
    """
    key, other = jax.random.split(key)
    mixture = seen_by(posterior, term, parameters)
    if term.weighted:
        events = simulate(key, mixture, term.observations, events=times * term.total)
        return events, np.arange(len(events)) % times  # simulate shuffles them
    longer = tuple(eqx.tree_at(lambda o: o.livetime, one, one.livetime * times) for one in term.observations)
    events = simulate(key, mixture, longer)
    random = np.random.default_rng(np.asarray(jax.random.key_data(other)).ravel())
    return events, random.integers(times, size=len(events))


def seen_by(posterior, term, parameters) -> Mixture:
    """The mixture that a data set sees."""
    mixture = posterior.model(parameters)
    return mixture if len(posterior.terms) == 1 else mixture.only(tuple(term.engines))


def observed(term: UnbinnedTerm) -> Events | Cells:
    """The data of a term, with their times."""
    data, times = term.events, term.times
    if isinstance(data, Cells):
        return data
    valid = np.asarray(term.count) > 0
    time, phase = (None if column is None else np.asarray(column, float)[valid] for column in (times.time, times.phase))
    time = None if time is None else time + float(times.reference)
    return Events(data.energy, data.lon, data.lat, np.asarray(data.observation), time=time, phase=phase)


def joined(parts: list[Events]) -> Events:
    """One list of simulated events."""
    names = ("energy", "lon", "lat", "observation", "component", "time", "phase")
    columns: dict = {}
    for name in names:
        values = [getattr(part, name) for part in parts]
        columns[name] = None if values[0] is None else np.concatenate(values)
    return Events(**columns)


class EventReplicates(Maker):
    """Replicates of events or cells; engines are folded once for all lists of events.

    `engine` as of a posterior; `see` is called with the simulated events or cells.
    """

    def __init__(
        self,
        posterior,
        term: UnbinnedTerm,
        centre: Parameters,
        engine: Any,
        see: Callable[[Events | Cells], None],
    ):
        super().__init__(posterior, term, centre)
        self.see = see
        self.explored = explore(posterior.model, posterior.priors, posterior.reference_parameters)
        self.mixture, self.fixed = seen_by(posterior, term, centre), term.weighted
        nodes = [getattr(engine, "nodes", None) for engine in term.engines.values()]
        steps = [one.log_step for one in nodes if one is not None]
        self.per_decade = float(np.log(10.0) / min(steps)) if steps else PER_DECADE
        self.engine = self._prepared() if engine is None else engine

    def _prepared(self) -> dict | None:
        say("folding the response")
        known: list[PreparedKernel] = []
        engine = {}
        for name, of in self.term.engines.items():
            part = self.mixture.components[name]
            if not isinstance(part, Source) or not isinstance(of, KernelEngine | FixedEngine):
                continue
            if part.response is not None:
                continue
            same = [one for one in known if eqx.tree_equal(one.morphology, part.morphology)]
            if not same:
                known.append(PreparedKernel.init(part.morphology, self.term.observations, self.per_decade))
            engine[name] = same[0] if same else known[-1]
        return engine or None

    def draw(self, key: PRNGKeyArray, parameters: Parameters, times: int) -> tuple[Events, np.ndarray]:
        """Events of `times` replicates together, and the replicate of each event."""
        return drawn(key, self.posterior, self.term, parameters, times)

    def join(self, parts: list[Events]) -> Events:
        """One list of simulated events."""
        return joined(parts)

    def rows(self, events: Events, data: bool) -> tuple[Columns, np.ndarray, np.ndarray]:
        """Columns, numbers of events and scores of rows, of the data first if they are asked for."""
        own = observed(self.term) if data else None
        if isinstance(self.term.data, Cells):
            return self._of_cells(self.term.data.binning, events, own)
        self.see(events)
        return self._of_events(events, own)

    def _of_events(self, events: Events, data):
        assert not isinstance(data, Cells)
        several = events if data is None else joined([_with_truth(data, events), events])
        times = several.time is not None
        usable = eqx.tree_at(lambda e: e.component, several, None, is_leaf=lambda leaf: leaf is None)
        log_density, score = self._scores(usable if times else usable.without_times())
        columns = Columns(
            several.energy,
            several.lon,
            several.lat,
            several.observation,
            several.time,
            log_density,
            np.asarray(several.component),
        )
        return columns, np.ones(len(several)), score

    def _of_cells(self, binning: Binning, events: Events, data):
        place = (np.asarray(events.observation, np.int64) << 32) + binning.locate(events)
        own, counts = np.zeros(0, np.int64), np.zeros(0, int)
        if data is not None:
            own = (np.asarray(data.observation, np.int64) << 32) + np.asarray(data.cell)
            counts = np.asarray(data.count)
        every, where = np.unique(np.concatenate([own, place]), return_inverse=True)
        cells = Cells.of(binning, every, np.ones(every.size, int))
        log_density, score = self._scores(cells)
        points = cells.points()
        lon = points.lon[:, 0] + ((points.lon - points.lon[:, :1] + 180.0) % 360.0 - 180.0).mean(1)
        columns = Columns(
            np.exp(np.log(points.energy).mean(1))[where],
            lon[where],
            points.lat.mean(1)[where],
            np.asarray(cells.observation)[where],
            None,
            log_density[where],
            np.concatenate([np.full(own.size, -1), np.asarray(events.component)]),
        )
        weight = np.concatenate([counts, np.ones(len(events))])
        self.see(Cells.of(binning, *np.unique(place, return_counts=True)))
        return columns, weight, score[where]

    def _scores(self, data: Events | Cells) -> tuple[np.ndarray, np.ndarray]:
        """Logarithm of the density of each event or cell, and its derivatives by all numbers of the parameters."""
        alone = len(self.posterior.terms) == 1
        setup = Setup(self.posterior.model, self.centre, self.explored, self.term.name, alone, False)
        names = None if alone else tuple(self.term.engines)
        dataset = Unbinned(
            self.term.observations, data, components=names, engine=self.engine, per_decade=self.per_decade
        )
        term = dataset.prepare(setup)
        rows = Rows.init(data, self.term.observations, self.per_decade)
        density, slope = map(np.asarray, slopes(_density, self.centre, self.posterior.model, term))
        order, valid = rows.index[rows.valid], rows.valid
        log_density, score = np.empty(len(data)), np.empty((len(data), slope.shape[0]))
        log_density[order] = np.log(density[valid].astype(np.float64))
        score[order] = (slope[:, valid] / density[valid]).T
        return log_density, score


def _with_truth(data: Events, like: Events) -> Events:
    """Data with the columns of simulated events; times only if both have them."""
    time = data.time if data.time is not None and like.time is not None else None
    if like.time is not None and time is None:
        time = np.full(len(data), like.time.min())
    phase = data.phase if like.phase is not None else None
    component = np.full(len(data), -1)
    return Events(data.energy, data.lon, data.lat, data.observation, component=component, time=time, phase=phase)


def _density(parameters, model, term):
    return term.density(model(parameters))
