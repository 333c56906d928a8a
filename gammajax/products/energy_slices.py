"""Slices of reconstructed energy: one norm of a source fitted to the events of each, as gammapy's flux points.

The events of all slices are one data set, in which a slice of a run is an observation of its own, with narrower
energies. So engines are set up once. The likelihood of one slice keeps its events, and the expected counts of its
observations: all slices have arrays of the same shapes, and share compiled functions.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from scipy.linalg import block_diag

from gammajax.common.progress import say
from gammajax.engines import BackgroundEngine, DirectEngine, Engine, FixedEngine
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.engine import Expected
from gammajax.engines.rows import PER_DECADE
from gammajax.events.event_list import Events
from gammajax.instrument.observation import Observation
from gammajax.likelihood import Unbinned, UnbinnedTerm
from gammajax.model.dependences import dependence
from gammajax.model.mixture import Component, InstrumentBackground, Mixture, Source
from gammajax.model.temporal import PerObservation
from gammajax.posterior import Parameters, Posterior
from gammajax.products.norms import NORM, Norms, estimate, most_norm, replaced, require_events


class EngineWithin(Engine):
    """An engine whose expected counts are those of some observations alone: `inside` is one for them, else zero."""

    engine: Engine
    inside: Float[Array, " observation"]

    @classmethod
    def init(cls, source: Any, observations, rows, variants=()) -> "EngineWithin":
        """Not from events: it is made from another engine."""
        raise NotImplementedError

    def __call__(self, source: Any) -> Expected:
        """Intensities of all rows, and counts."""
        found = self.engine(source)
        return Expected(found.intensity, found.counts * self.inside[:, None])


def norms_by_slice(
    posterior: Posterior, component: str, edges, at: Parameters, reoptimize: bool, n_sigma: float, n_sigma_ul: float
) -> tuple[Norms, Float[np.ndarray, " slice"]]:
    """Norms of a source in slices of reconstructed energy, and the expected events of a norm of one.

    The source stays as it is `at` these parameters, times its norm. Others are fitted anew in each slice, or stay too.
    Raises `ValueError` for other data than one list of events, for factors in time, and for empty slices.
    """
    term, events = _events_of(posterior)
    at = {name: jnp.asarray(value) for name, value in at.items()}
    observations, owner, of = _narrowed(term.observations, edges)
    require_events(np.bincount(of, minlength=len(edges) - 1).astype(float), edges, component)
    events = _moved(events, edges, owner, of, len(term.observations))
    frozen = posterior.model(at).components[component]
    assert isinstance(frozen, Source)

    def whole(p):
        factor = PerObservation(jnp.broadcast_to(p[NORM][0], owner.shape))
        mixture = posterior.model({name: p[name] for name in at})
        source = Source(frozen.spectrum, frozen.morphology, frozen.response, factor)
        mixture = replaced(mixture, component, lambda _: source)
        for path in mixture.components:
            mixture = replaced(mixture, path, lambda part: _selected(part, owner))
        return mixture

    ones = jnp.ones(1)
    names = dependence(whole, {**at, NORM: ones}).unused if reoptimize else tuple(at)
    fixed = {name: at[name] for name in names if name != NORM}

    def model(p):
        return whole({**fixed, **p})

    start = {name: value for name, value in at.items() if name not in fixed} | {NORM: ones}
    priors = {name: posterior.priors[name] for name in posterior.names if name in start}
    priors[NORM] = dist.Uniform(jnp.zeros(1), 10.0 * ones)
    data = Unbinned(observations, events, name=term.name, **_options(term, model(start), component))
    together = Posterior(model, priors, [data], progress=False)
    each = np.bincount(of, np.asarray(together.expected_counts(start)[component], np.float64), len(edges) - 1)
    require_events(each, edges, component)
    found = []
    for number, expected in enumerate(each):
        say(f"{edges[number]:.3g} to {edges[number + 1]:.3g} TeV")
        part = _within(together, jnp.asarray(of == number), most_norm(expected[None]))
        found.append(estimate(part.with_reference(start), start, expected[None], 1, n_sigma, n_sigma_ul))
    return _joined(found), each


def _events_of(posterior: Posterior) -> tuple[UnbinnedTerm, Events]:
    """The data set and its events, if it can be sliced."""
    term = posterior.terms[0]
    if len(posterior.terms) > 1 or not isinstance(term, UnbinnedTerm):
        raise ValueError("slices of reconstructed energy are of a single data set of events; take energy='true'")
    events = term.events
    if not isinstance(events, Events):
        raise ValueError(
            "slices of reconstructed energy need the events, which these cells do not have; take energy='true'"
        )
    for path, part in posterior.model(posterior.reference_parameters).components.items():
        if isinstance(part, Source) and part.time is not None:
            raise ValueError(f"{path!r} changes in time, which slices of reconstructed energy do not know")
    return term, events


def _narrowed(
    observations: tuple[Observation, ...], edges
) -> tuple[tuple[Observation, ...], Int[np.ndarray, " part"], Int[np.ndarray, " part"]]:
    """Observations of the slices, the original of each, and its slice."""
    parts = [
        (number, i, max(low, float(one.energy_min)), min(high, float(one.energy_max)))
        for i, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True))
        for number, one in enumerate(observations)
    ]
    parts = [part for part in parts if part[2] < part[3]]
    narrowed = tuple(
        eqx.tree_at(lambda o: (o.energy_min, o.energy_max), observations[n], (np.float64(low), np.float64(high)))
        for n, _, low, high in parts
    )
    return narrowed, np.array([part[0] for part in parts], int), np.array([part[1] for part in parts], int)


def _moved(events: Events, edges, owner, of, number: int) -> Events:
    """The events within the edges, as those of the observations of their slices."""
    energy, observation = (np.asarray(column) for column in (events.energy, events.observation))
    slice_of = np.searchsorted(edges, energy, side="right") - 1
    place = np.full((len(edges) - 1, number), -1)
    place[of, owner] = np.arange(owner.size)
    inside = (slice_of >= 0) & (slice_of < len(edges) - 1)
    new = place[np.clip(slice_of, 0, len(edges) - 2), observation]
    inside &= new >= 0
    lon, lat = (np.asarray(column)[inside] for column in (events.lon, events.lat))
    return Events(energy[inside], lon, lat, new[inside])


def _selected(part: Component, owner) -> Component:
    """A component with the numbers of the original observation of every slice."""
    if isinstance(part, InstrumentBackground):
        return part.select(owner)
    if isinstance(part, Source) and part.response is not None:
        return Source(part.spectrum, part.morphology, part.response.select(owner), part.time)
    return part


def _options(term: UnbinnedTerm, mixture: Mixture, component: str) -> dict[str, Any]:
    """Options of the data set as those of the term."""
    found = jax.tree.leaves(term.engines, is_leaf=lambda part: isinstance(part, EnergyNodes))
    nodes = [part for part in found if isinstance(part, EnergyNodes)]
    engine = {
        path: type(of).init
        for path, of in term.engines.items()
        if isinstance(mixture.components[path], Source)
        # the source itself, and sources without free numbers, have fixed shapes now
        and (isinstance(of, DirectEngine) or not (isinstance(of, FixedEngine | BackgroundEngine) or path == component))
    }
    mesh = getattr(term.count.sharding, "mesh", None)
    per_decade = np.log(10.0) / nodes[0].log_step if nodes else PER_DECADE
    return {"engine": engine or None, "per_decade": float(per_decade), "mesh": mesh}


def _within(together: Posterior, inside, most) -> Posterior:
    """The posterior of the observations `inside`, with another end of the prior of the norm."""
    (term,) = together.terms
    assert isinstance(term, UnbinnedTerm)
    count = _counted(term.count, inside, term.times.observation)
    engines = {path: EngineWithin(engine, inside.astype(float)) for path, engine in term.engines.items()}
    term = dataclasses.replace(term, count=count, engines=engines)
    prior = dist.Uniform(jnp.zeros(1), jnp.asarray(most, float))
    return eqx.tree_at(lambda p: (p.terms, p.priors[NORM]), together, ((term,), prior))


@eqx.filter_jit
def _counted(count, inside, observation):
    return jnp.where(inside[observation], count, jnp.zeros_like(count))


def _joined(parts: list[Norms]) -> Norms:
    """Norms of all slices, independent of one another; their statistics add up."""
    longest = max(part.norm_scan.shape[1] for part in parts)
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("norm", "norm_errn", "norm_errp", "norm_ul", "ts")
    }
    for name in ("norm_scan", "stat_scan"):
        scans = [getattr(part, name) for part in parts]
        padded = [np.pad(scan, ((0, 0), (0, longest - scan.shape[1])), constant_values=np.nan) for scan in scans]
        columns[name] = np.concatenate(padded)
    messages = tuple(f"point {i}: {message}" for i, part in enumerate(parts) for message in part.messages)
    return Norms(
        **columns,
        covariance=np.asarray(block_diag(*(part.covariance for part in parts))),
        stat=sum(part.stat for part in parts),
        messages=messages,
    )
