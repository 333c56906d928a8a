"""Replicates: data sets drawn from a posterior, and the change of each one's counts by a fit of its own.

Counts n of a replicate in some bins are compared with what its own fit expects, not with the truth it was drawn from;
otherwise p-values are too large, since a fit follows the fluctuations of its data. One step of the fit is enough: with
the score S of each replicate (the gradient of ln L) at one common point,

    mu = <n> + J d,    d = (I + H)^-1 (S - <S> + g),    J = <Sum_k in bin s_k>,    I = <Sum_k s_k s_k^T>

where <> is the mean over replicates, s_k the gradient of the logarithm of the density of event k, and g and -H are the
gradient and curvature of everything else: the prior and other data sets. The observed data take the same step from the
same point. A statistic of n and mu does not depend on the parameters to first order, and posterior predictive p-values
of such statistics are uniform (Robins, van der Vaart & Ventura 2000, doi:10.1080/01621459.2000.10474310).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int, PRNGKeyArray

from gammajax.common import distributed
from gammajax.common.progress import say
from gammajax.engines import FixedEngine, KernelEngine, PreparedKernel, Rows
from gammajax.engines.choice import explore
from gammajax.engines.rows import PER_DECADE
from gammajax.events.cells import Binning, Cells
from gammajax.events.event_list import Events
from gammajax.likelihood import Unbinned, UnbinnedTerm
from gammajax.likelihood.term import Parameters, Setup
from gammajax.model.mixture import Mixture, Source
from gammajax.products.spectral_points import parameters_of
from gammajax.samplers import Fit
from gammajax.samplers.space import parameters_at
from gammajax.simulation import simulate

AT_ONCE = 2**18  # events in one set of engines
DRAWS = 20  # of the posterior, at least; each gives several replicates
NEGLIGIBLE = 1e-6  # information of a combination of numbers, relative to that of each alone
LEAST_PART = 0.1  # of the mean counts that the step of a fit leaves


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

    def after(self, first: int) -> "Columns":
        """The rows from the first of these on."""
        return jax.tree.map(lambda column: column[first:], self)


class Quantity(NamedTuple):
    """A quantity of events in bins: `values` of columns, NaN for those that do not count, and `edges`.

    `labels` of the bins where numbers do not name them.
    """

    name: str
    unit: str
    values: Callable[[Columns], np.ndarray]
    edges: Float[np.ndarray, " edge"]
    labels: tuple[str, ...] = ()

    def bins(self, columns: Columns) -> Int[np.ndarray, " row"]:
        """Bin of each row, -1 for none."""
        found = np.digitize(self.values(columns), self.edges) - 1
        return np.where(found < self.edges.size - 1, found, -1)


class Replicates(NamedTuple):
    """Counts of the data (first) and of replicates in the bins of quantities, and what a fit of each expects there.

    `slices` of the bins of each quantity; `simulated`: events or cells of all replicates together, for maps.
    """

    quantities: tuple[Quantity, ...]
    slices: tuple[slice, ...]
    counts: Float[np.ndarray, "replicate bin"]
    expected: Float[np.ndarray, "replicate bin"]


def events_terms(posterior) -> list[UnbinnedTerm]:
    """Data sets of events. Raises `ValueError` if there is none, or if processes share them."""
    terms = [term for term in posterior.terms if isinstance(term, UnbinnedTerm)]
    if not terms:
        names = [term.name for term in posterior.terms]
        raise ValueError(f"simulated data are compared with data sets of events or cells; there are none among {names}")
    if any(distributed.spans(term.count) for term in terms):
        raise ValueError("a posterior that several processes share cannot be checked; check that of one process")
    if not all(term.total for term in terms):
        raise ValueError("a data set without events cannot be checked")
    return terms


def draws_of(key: PRNGKeyArray, posterior, best: Any, number: int) -> Parameters:
    """Draws of a result, evenly spaced, or of the Gaussian of a fit: parameters [draw, ...]."""
    if isinstance(best, Fit):
        values, vectors = np.linalg.eigh(best.unconstrained_covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        z = np.asarray(jax.random.normal(key, (number, values.size)), np.float64)
        return dict(parameters_at(posterior, jnp.asarray(best.unconstrained_mean + z @ root.T, float)))
    size = len(best.samples[posterior.names[0]]) if posterior.names else 1
    chosen = np.rint(np.linspace(0, size - 1, number)).astype(int)
    return {name: jnp.asarray(best.samples[name][chosen]) for name in posterior.names}


def drawn(key: PRNGKeyArray, posterior, term: UnbinnedTerm, parameters: Parameters, times: int) -> tuple[Events, Any]:
    """Events of `times` replicates of a data set together, and the replicate of each event.

    With absolute fluxes the livetimes are so many times longer, and each event is given to a replicate at random.
    """
    key, other = jax.random.split(key)
    mixture = _seen(posterior, term, parameters)
    if term.weighted:
        events = simulate(key, mixture, term.observations, events=times * term.total)
        return events, np.arange(len(events)) % times  # simulate shuffles them
    longer = tuple(eqx.tree_at(lambda o: o.livetime, one, one.livetime * times) for one in term.observations)
    events = simulate(key, mixture, longer)
    random = np.random.default_rng(np.asarray(jax.random.key_data(other)).ravel())
    return events, random.integers(times, size=len(events))


def _seen(posterior, term, parameters) -> Mixture:
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


def replicate(
    key: PRNGKeyArray,
    posterior,
    term: UnbinnedTerm,
    best: Any,
    number: int,
    quantities_of: Callable[[Mixture, Columns, int], list[Quantity]],
    see: Callable[[Events | Cells], None],
    report: Callable[[float], None],
    engine: Any = None,
) -> Replicates:
    """Counts of `number` replicates of one data set, in bins that the first of them choose.

    `quantities_of` the mixture at the best parameters, simulated columns and their number of replicates; `see` is
    called with the simulated events or cells, `report` with the part that is done. `engine` as of a posterior.
    """
    centre = parameters_of(posterior, best)
    each = int(np.clip(AT_ONCE // max(term.total, 1), 1, max(1, number // DRAWS)))
    groups = -(-number // each)
    points = draws_of(jax.random.fold_in(key, 0), posterior, best, groups)
    scorer, sums = _Scorer(posterior, term, centre, engine), None
    pool, owner, made = [], [], 0
    for group in range(groups):
        parameters = {name: values[group] for name, values in points.items()}
        times = min(each, number - made)
        events, of = drawn(jax.random.fold_in(key, 1 + group), posterior, term, parameters, times)
        pool.append(events)
        owner.append(made + of)
        made += times
        if made < number and sum(map(len, pool)) < AT_ONCE:
            continue
        say(f"{made} of {number} simulated data sets")
        replica = np.concatenate(owner)
        events = joined(pool)
        first = sums is None
        columns, weight, score, simulated = scorer(events, observed(term) if first else None)
        see(simulated)
        own = weight.size - len(events)  # rows of the data
        if sums is None:
            found = quantities_of(scorer.mixture, columns.after(own), made)
            sums = _Sums(tuple(found), number, score.shape[1])
        sums.add(columns, np.concatenate([np.zeros(own, int), 1 + replica]), weight, score)
        pool, owner = [], []
        report(made / number)
    assert sums is not None
    return sums.fitted(term.weighted, *_others(posterior, term, centre))


def joined(parts: list[Events]) -> Events:
    """One list of simulated events."""
    names = ("energy", "lon", "lat", "observation", "component", "time", "phase")
    columns: dict = {}
    for name in names:
        values = [getattr(part, name) for part in parts]
        columns[name] = None if values[0] is None else np.concatenate(values)
    return Events(**columns)


class _Sums:
    """Sums over events: counts by replicate and bin, scores by replicate and by bin, and the information."""

    def __init__(self, quantities: tuple[Quantity, ...], number: int, size: int):
        self.quantities = quantities
        ends = np.cumsum([0, *(q.edges.size - 1 for q in quantities)])
        self.slices = tuple(slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True))
        self.counts = np.zeros((1 + number, ends[-1]))
        self.score = np.zeros((1 + number, size))
        self.size = np.zeros(1 + number)  # number of events
        self.response = np.zeros((ends[-1], size))
        self.information = np.zeros((size, size))

    def add(self, columns, replicate, weight, score) -> None:
        simulated = replicate > 0
        rows, number = self.counts.shape[0], self.counts.shape[0] - 1
        self.size += np.bincount(replicate, weight, rows)
        self.score += np.stack([np.bincount(replicate, weight * s, rows) for s in score.T], 1).reshape(rows, -1)
        self.information += (score[simulated].T * weight[simulated]) @ score[simulated] / number
        for quantity, place in zip(self.quantities, self.slices, strict=True):
            bins, width = quantity.bins(columns), place.stop - place.start
            some = bins >= 0
            both = replicate[some] * width + bins[some]
            self.counts[:, place] += np.bincount(both, weight[some], rows * width).reshape(rows, width)
            some &= simulated
            for i, s in enumerate(score.T):
                self.response[place, i] += np.bincount(bins[some], weight[some] * s[some], width) / number

    def fitted(self, fixed: bool, precision, pull) -> Replicates:
        """Expected counts after the step of the fit. `fixed`: whether the number of events is given."""
        number = self.counts.shape[0] - 1
        score, response, information = self.score, self.response, self.information
        if fixed:  # deviations from the mean score: fractions of all bins add up to one
            mean = score[1:].sum(0) / self.size[1:].sum()
            score = score - self.size[:, None] * mean
            response = response - self.counts[1:].mean(0)[:, None] * mean
            information = information - self.size[1:].mean() * np.outer(mean, mean)
        inverse = _inverse(information + precision)

        def others(values):
            """Mean over replicates, of each replicate over the others."""
            total = values[1:].sum(0)
            return np.concatenate([total[None] / number, (total - values[1:]) / (number - 1)])

        step = (score - others(score) + pull) @ inverse
        mean = others(self.counts)
        expected = np.maximum(mean + step @ response.T, LEAST_PART * mean)
        return Replicates(self.quantities, self.slices, self.counts, expected)


def _inverse(matrix) -> np.ndarray:
    """Inverse in the directions that have information."""
    width = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    scale = np.where(width > 0, 1.0 / np.where(width > 0, width, 1.0), 0.0)
    values, vectors = np.linalg.eigh(matrix * np.outer(scale, scale))
    kept = values > NEGLIGIBLE * max(1, matrix.shape[0])
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    return inverse * np.outer(scale, scale)


class _Scorer:
    """Engines for simulated events, as a posterior of them would have: folded once for all lists of events."""

    def __init__(self, posterior, term: UnbinnedTerm, centre: Parameters, engine: Any):
        self.posterior, self.term, self.centre = posterior, term, centre
        self.explored = explore(posterior.model, posterior.priors, posterior.reference_parameters)
        self.mixture = _seen(posterior, term, centre)
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

    def __call__(self, events: Events, data: Events | Cells | None):
        """Columns, numbers of events and scores of rows, of the data first; and the simulated events or cells."""
        if isinstance(self.term.data, Cells):
            return self._of_cells(self.term.data.binning, events, data)
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
        return columns, np.ones(len(several)), score, events

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
        simulated = Cells.of(binning, *np.unique(place, return_counts=True))
        return columns, weight, score[where], simulated

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
        density, slopes = map(np.asarray, _slopes(self.posterior.model, term, self.centre))
        order, valid = rows.index[rows.valid], rows.valid
        log_density, score = np.empty(len(data)), np.empty((len(data), slopes.shape[0]))
        log_density[order] = np.log(density[valid].astype(np.float64))
        score[order] = (slopes[:, valid] / density[valid]).T
        return log_density, score


def _with_truth(data: Events, like: Events) -> Events:
    """Data with the columns of simulated events; times only if both have them."""
    time = data.time if data.time is not None and like.time is not None else None
    if like.time is not None and time is None:
        time = np.full(len(data), like.time.min())
    phase = data.phase if like.phase is not None else None
    component = np.full(len(data), -1)
    return Events(data.energy, data.lon, data.lat, data.observation, component=component, time=time, phase=phase)


@eqx.filter_jit
def _slopes(model, term, parameters):
    """Density of all rows, and its derivatives [number, row]."""
    x, restore = ravel_pytree(parameters)

    def density(x):
        return term.density(model(restore(x)))

    return density(x), jax.lax.map(lambda axis: jax.jvp(density, (x,), (axis,))[1], jnp.eye(x.size, dtype=x.dtype))


def _others(posterior, term, parameters) -> tuple[np.ndarray, np.ndarray]:
    """Minus the curvature, and the gradient, of the prior and all other data sets."""
    curvature, pull = _curved(posterior, [one is term for one in posterior.terms], parameters)
    curvature = -np.nan_to_num(np.asarray(curvature, np.float64), posinf=0.0, neginf=0.0)
    values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
    precision = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return precision, np.nan_to_num(np.asarray(pull, np.float64), posinf=0.0, neginf=0.0)


@eqx.filter_jit
def _curved(posterior, own, parameters):
    x, restore = ravel_pytree(parameters)

    def value(x):
        at = restore(x)
        mixture = posterior.model(at)
        rest = [one.log_likelihood_ratio(mixture) for one, mine in zip(posterior.terms, own, strict=True) if not mine]
        return posterior.log_prior(at) + sum(rest, start=jnp.zeros(()))

    slope = jax.grad(value)
    curvature = jax.lax.map(lambda axis: jax.jvp(slope, (x,), (axis,))[1], jnp.eye(x.size, dtype=x.dtype))
    return curvature, slope(x)
