"""Predicted counts by reconstructed energy, for draws of the posterior.

Each component is simulated once ([`gammajax.simulate`][], which is independent of the engines). Its photons are
weighted for other parameters by the ratio of true spectra and brightnesses, which is exact:

    counts in a bin = Sum over simulated events in it of  phi(E, Omega; theta) / Sum_m n_m phi_m(E, Omega) / N_m

with n_m events simulated from phi_m, whose expected number is N_m. Two spectra are simulated: the spectrum at the
median of the posterior, and a power law that covers all energies, so that every draw has simulated photons.
Only expected totals come from the posterior. The position of a point source is kept at the median.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.constraints import simplex

from gammajax.common.display import described
from gammajax.events.event_list import Events
from gammajax.instrument.sky import separation_on_host
from gammajax.instrument.table import Table
from gammajax.model.mixture import Source
from gammajax.model.morphology import Point
from gammajax.model.response_change import mean_migra
from gammajax.model.spectra import PowerLaw
from gammajax.simulation import simulate

WIDER = 1.4  # of the range of energies of a simulation, for other energy scales
SIMULATED = (60_000, 300_000)  # fewest (for smooth maps) and most (for speed) events of a component


class Prediction(NamedTuple):
    """Expected counts by draw, component and bin of reconstructed energy; and weighted events at the median.

    `counts` [draw, component, bin] between `edges` [TeV]; `variance` [bin] of their sum from the finite number
    of simulated events; `events` of each component, and their `weights` at the median of the posterior, which add up to
    the component's expected counts.
    """

    names: tuple[str, ...]
    edges: np.ndarray
    counts: np.ndarray
    variance: np.ndarray
    events: tuple[Events, ...]
    weights: tuple[np.ndarray, ...]
    __repr__ = described


def predict(key, posterior, samples: dict, edges, events: int | None = None) -> Prediction:
    """Expected counts for `samples` {name: [draw, ...]} between `edges` [TeV].

    `events`: number of simulated events per component, by default enough to be more precise than the data.
    """
    median = {name: _median(posterior.priors.get(name), values) for name, values in samples.items()}
    points = {name: jnp.concatenate([median[name][None], jnp.asarray(values)]) for name, values in samples.items()}
    components = {path: part for path, part in posterior.model(median).components.items() if path in posterior.engines}
    totals = np.asarray(_expected(posterior, points), np.float64)
    scale = np.asarray(_scales(posterior, points), np.float64)
    counts, simulated, weights, variance = [], [], [], np.zeros(len(edges) - 1)
    for i, name in enumerate(components):
        number = int(np.clip(4 * (scale * totals)[0, i], *SIMULATED)) if events is None else events
        drawn, density = _simulate(jax.random.fold_in(key, i), posterior, components[name], name, number)
        field = _field(posterior.observations, components[name], drawn)
        inverse = jnp.asarray(1.0 / density)
        # the first and the last bin lie outside the edges
        bin_ = np.digitize(np.asarray(drawn.energy), edges)
        at_migra = _mean_migra(posterior.observations, components[name], drawn)
        setting = field, posterior.terms[0].times
        by_draw = _counts(posterior.model, name, points, median, drawn, inverse, at_migra, jnp.asarray(edges), setting)
        counts.append((np.asarray(by_draw, np.float64) * scale[:, i, None])[1:, 1:-1])
        at_median = np.asarray(_weights(posterior.model, name, median, drawn, inverse, setting), np.float64)
        at_median = at_median * scale[0, i]  # a view of a device array cannot be written
        if at_migra is not None:
            at_median *= _selected(drawn, posterior.observations)
        variance = variance + np.bincount(bin_, at_median**2, len(edges) + 1)[1:-1]
        simulated.append(drawn)
        weights.append(at_median)
    return Prediction(
        tuple(components),
        np.asarray(edges),
        np.stack(counts, axis=1),
        variance,
        tuple(simulated),
        tuple(weights),
    )


def predict_bins(posterior, term, samples: dict) -> Prediction:
    """Expected counts of binned data for `samples` {name: [draw, ...]} in their bins; without simulated events."""
    draws = {name: jnp.asarray(values) for name, values in samples.items()}
    found = _by_energy(posterior.model, term, draws)
    # the order of the model: jit sorts dicts
    names = [path for path in posterior.model(posterior.reference_parameters).components if path in found]
    names += [name for name in found if name not in names]
    counts = np.stack([np.asarray(found[name], np.float64) for name in names], axis=1)
    return Prediction(tuple(names), term.edges, counts, np.zeros(counts.shape[-1]), (), ())


@eqx.filter_jit
def _by_energy(model, term, draws):
    return jax.lax.map(lambda p: term.by_energy(model(p)), draws)


def _median(prior, values):
    """Median of draws, element by element; fractions keep their sum of one."""
    median = jnp.asarray(np.median(values, axis=0))
    return median / median.sum(-1, keepdims=True) if getattr(prior, "support", None) is simplex else median


def _simulate(key, posterior, component, name, number):
    """Events of one component, and the density [as phi] of the draws: the sum of n_m phi_m / N_m."""
    if isinstance(component, Source) and component.time is not None:  # the draws have no times, see `_weights`
        component = eqx.tree_at(lambda source: source.time, component, None)
    proposals, observations = [component], posterior.observations
    if isinstance(component, Source):
        # source spectra are not much flatter or steeper at the relevant energies
        proposals.append(Source(PowerLaw(index=2.5, amplitude=1e-12), component.morphology, component.response))
        if component.response is not None:  # other energies may come into the selection
            observations = tuple(_wider(observation) for observation in observations)
    share = number // len(proposals)
    parts = [
        simulate(jax.random.fold_in(key, m), proposal, observations, events=share)
        for m, proposal in enumerate(proposals)
    ]
    columns = ("energy", "lon", "lat", "observation", "energy_true", "lon_true", "lat_true")
    joined: dict = {column: np.concatenate([getattr(part, column) for part in parts]) for column in columns}
    drawn = Events(**joined)
    density, field = np.zeros(len(drawn)), _field(posterior.observations, component, drawn)
    for proposal, part in zip(proposals, parts, strict=True):
        expected = float(posterior.engines[name].expected_counts(proposal).sum())
        if observations is not posterior.observations:
            expected *= len(part) / max(_selected(part, posterior.observations).sum(), 1)
        density = density + share * np.asarray(_flux(proposal, drawn, field), np.float64) / expected
    return drawn, density


def _wider(observation):
    """The observation with a wider range of selected energies."""
    ends = observation.energy_min / WIDER, observation.energy_max * WIDER
    return eqx.tree_at(lambda o: (o.energy_min, o.energy_max), observation, ends)


def _selected(events, observations):
    """Whether simulated energies are in the selections."""
    low, high = (np.array([getattr(o, name) for o in observations]) for name in ("energy_min", "energy_max"))
    return (events.energy >= low[events.observation]) & (events.energy <= high[events.observation])


def _mean_migra(observations, component, events):
    """Mean of E'/E of the files at the true energies of events; None for a component with the files' response."""
    if not isinstance(component, Source) or component.response is None:
        return None
    mean = np.zeros(len(events))
    for number, observation in enumerate(observations):
        mine = np.flatnonzero(events.observation == number)
        dispersion = observation.response.energy_dispersion
        offset = separation_on_host(events.lon_true[mine], events.lat_true[mine], observation.lon, observation.lat)
        table = Table(dispersion.profile.axes[:2], mean_migra(dispersion))
        mean[mine] = np.asarray(table(jnp.log(events.energy_true[mine]), jnp.asarray(offset), outside=None))
    return jnp.asarray(mean)


def _energies(now, then, events, mean):
    """Reconstructed energies of events simulated with the response `then`, with the response `now`."""
    now, then = (response.select(jnp.asarray(events.observation)) for response in (now, then))
    true = jnp.asarray(events.energy_true)
    migra = jnp.asarray(events.energy) / true / (1.0 + then.energy_scale)
    stretch = now.energy_resolution / then.energy_resolution
    return true * (1.0 + now.energy_scale) * (mean + (migra - mean) * stretch)


def _field(observations, component, events):
    """Field-of-view longitudes and latitudes [deg] of events of a background with a correction, else None."""
    if isinstance(component, Source) or component.correction is None:
        return None
    place = np.zeros((2, len(events)))
    for number, observation in enumerate(observations):
        mine = np.flatnonzero(events.observation == number)
        place[:, mine] = observation.fov_coordinates(jnp.asarray(events.lon[mine]), jnp.asarray(events.lat[mine]))
    return jnp.asarray(place)


def _flux(component, events, field):
    """Spectrum x brightness at the true energies and directions, in a unit independent of the parameters.

    `field` as [`_field`][] makes it.
    """
    energy = jnp.asarray(events.energy_true)
    if not isinstance(component, Source):
        energy, observation = jnp.asarray(events.energy), jnp.asarray(events.observation)
        factor = component.select(observation).factor(energy)
        return factor if component.correction is None else factor * component.correction(energy, *field, observation)
    flux = component.spectrum(energy) * 1e12  # far from the limits of single precision
    if component.response is not None:
        flux = flux * _area_factor(component.response, energy, jnp.asarray(events.observation))
    if isinstance(component.morphology, Point):
        return flux
    morphology = component.morphology.at(energy)
    brightness = morphology.brightness(jnp.asarray(events.lon_true), jnp.asarray(events.lat_true))
    # an integrable cusp can be infinite at its centre
    return flux * jnp.minimum(brightness, 1e12)


def _area_factor(response, energy, observation):
    """Factor on the effective area at the true energies of events."""
    own = response.select(observation)
    each = jax.vmap(lambda e, o: response.select(o).area_factor(e[None])[0])
    return own.effective_area * each(energy, observation)


@eqx.filter_jit
def _weights(model, name, point, events, inverse, setting):
    """Weights of events; a factor in time enters by its mean over each observation."""
    component, (field, times) = model(point).components[name], setting
    weights = _flux(component, events, field) * inverse
    if isinstance(component, Source) and component.time is not None:
        weights *= component.time.factors(times)[1][jnp.asarray(events.observation)]
    return weights


@eqx.filter_jit
def _counts(model, name, points, median, events, inverse, mean, edges, setting):
    """Sums of weights [draw, bin], one draw at a time: the weights of all draws would not fit in memory.

    A response of its own moves the reconstructed energies of events with a `mean` of E'/E.
    """
    then = model(median).components[name]

    def one(point):
        energy = jnp.asarray(events.energy)
        if mean is not None:
            energy = _energies(model(point).components[name].response, then.response, events, mean)
        bin_ = jnp.searchsorted(edges, energy, side="right")
        return jnp.bincount(bin_, _weights(model, name, point, events, inverse, setting), length=edges.size + 1)

    return jax.lax.map(one, points)


@eqx.filter_jit
def _expected(posterior, points):
    """Expected counts [draw, component] by absolute flux."""

    def one(p):
        return jnp.stack([counts.sum() for counts in posterior.expected_counts(p).values()])

    return jax.lax.map(one, points)


@eqx.filter_jit
def _scales(posterior, points):
    """Factors on the absolute fluxes [draw, component]."""
    return jax.lax.map(lambda p: jnp.stack(list(posterior.flux_scales(p).values())), points)
