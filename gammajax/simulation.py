"""Simulation: events from a model, drawn from the continuous response.

The simulation is independent of the engines. True energies come from the spectrum, true directions from the morphology.
Each photon is detected with probability effective area / envelope, displaced by the point spread function, given a
reconstructed energy and kept if it lies in the selection. This thinning sets the numbers of events; expected counts are
not used.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from gammajax.common.parameters import is_concrete
from gammajax.common.progress import Progress
from gammajax.events.cells import Binning, Cells
from gammajax.events.event_list import Events
from gammajax.events.on_off_run import OnOffRun
from gammajax.instrument.observation import Observation, as_tuple
from gammajax.instrument.sky import DEGREE, deproject, displace
from gammajax.likelihood.on_off import require_in_region
from gammajax.model.mixture import InstrumentBackground, Mixture, Source, require_component
from gammajax.model.off_background import OffBackground
from gammajax.model.response_change import changed_observations
from gammajax.model.temporal import PhaseCurve, Times

BATCH, FEW = 2**16, 2**12  # proposals per batch, for many and for few events
ENERGIES_PER_DECADE = 1000
FEWEST = 1024  # photons of an ON region that one program disperses: sizes are powers of two from here
BINS, LAYERS = 1024, 64  # their numbers are multiples of these, for photons and background
TIME_CELLS = 2048  # of a good time interval, in which a factor in time is constant
HOPELESS = 20_000  # proposals per event at which a component counts as hardly ever selected


def simulate(
    key: PRNGKeyArray,
    model: Mixture | Source | InstrumentBackground,
    observations: Sequence[Observation] | Observation,
    *,
    events: int | float | None = None,
    poisson: bool = False,
) -> Events:
    """Random events of a model, with truth columns, in the selections of `observations`.

    - Without `events`, fluxes are absolute and the total is a Poisson number.
    - With `events`, that many are drawn (`poisson=True`: a Poisson number with that mean) and divided among components
      at random, by the mixture's weights; a single component gets all events.

    - `key`: a `jax.random.key`; `model`: a [`gammajax.Mixture`][] or one component, with values of all parameters.
    - `observations`: one [`gammajax.Observation`][] or a list.

    Returns [`gammajax.Events`][]. Truth columns of background events repeat their reconstructed values. The list may be
    empty. Raises `ValueError` for `events` without weights, or with an invalid number, for a component with a weight
    but no events in the selection, and inside transformations.

    >>> import gammajax as gj, jax
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    >>> model = gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": 0.2})
    >>> len(gj.simulate(jax.random.key(0), model, run, events=200))
    200
    """
    require_component(model, "simulate")
    observations = as_tuple(observations)
    if not is_concrete(jnp.zeros(()), key, model):
        raise ValueError("simulate draws on the host: call it outside jit, grad and vmap")
    require_key(key)
    if not isinstance(model, Mixture):
        model = Mixture(component=model, weights=None if events is None else {})
    order = {path: number for number, path in enumerate(model.components)}
    # each group with a weight has one number of events; with absolute fluxes every component has its own
    groups = [paths for _, paths in model.groups] if model.weighted else [(path,) for path in order]
    key_total, key_split, key_order, *keys = jax.random.split(key, 3 + len(groups))
    numbers = [None] * len(keys)
    if events is not None and not (events >= 0 and np.isfinite(events) and (poisson or events == int(events))):
        raise ValueError(f"events must be a whole number that is not negative, or the mean of one; not {events}")
    if events is not None:
        if not model.weighted:
            raise ValueError("a total number of events needs a mixture with weights; leave out events= for fluxes")
        total = int(jax.random.poisson(key_total, events)) if poisson else int(events)
        numbers = _split(key_split, total, np.array([fraction for fraction, _ in model.groups], np.float64))
    elif model.weighted:
        raise ValueError("a mixture with weights has no absolute flux: give the number of events= to simulate")
    tables = []
    for key_group, paths, number in zip(keys, groups, numbers, strict=True):
        components = [model.components[path] for path in paths]
        columns, member = _group(key_group, components, observations, number, " + ".join(paths))
        component = np.array([order[path] for path in paths])[member]
        tables.append(np.concatenate([columns, component[None]]))
    table = np.concatenate(tables, axis=1)
    table = table[:, _generator(key_order).permutation(table.shape[1])]
    energy, lon, lat, energy_true, lon_true, lat_true, observation, component = table
    random = _generator(jax.random.fold_in(key_order, 1))
    time, phase = _times(random, list(model.components.values()), observations, observation, component)
    return Events(
        energy,
        lon,
        lat,
        observation.astype(int),
        energy_true=energy_true,
        lon_true=lon_true,
        lat_true=lat_true,
        component=component.astype(int),
        time=time,
        phase=phase,
    )


def _varied(samplers, factor, observations) -> list:
    """Samplers with as many proposals as the mean factor in time of their observations asks for."""
    nothing = np.zeros(0)
    means = factor.factors(Times.of(observations, nothing, nothing, jnp.zeros(0, int)))[1]
    means = np.asarray(means, np.float64)
    if not np.all(means >= 0):
        raise ValueError(f"the factor in time is negative or not a number: {means.min():.3g} in the mean of a run")
    return [eqx.tree_at(lambda s: s.proposals, s, s.proposals * mean) for s, mean in zip(samplers, means, strict=True)]


def _times(random, components, observations, observation, component):
    """Times (MJD) in the good time, and phases, of events; None without good times, and without phase curves."""
    factors = [part.time if isinstance(part, Source) else None for part in components]
    phased = [isinstance(factor, PhaseCurve) and factor.period is None for factor in factors]
    phase = random.uniform(size=observation.size)
    for number, factor in enumerate(factors):
        if not isinstance(factor, PhaseCurve) or not phased[number]:
            continue
        values, mine = np.asarray(factor.values, np.float64), np.flatnonzero(component == number)
        bins = random.choice(values.size, mine.size, p=values / values.sum())
        phase[mine] = (bins + random.uniform(size=mine.size)) / values.size
    phase = phase if any(phased) else None
    spans = [one.good_time for one in observations if one.good_time is not None]
    if len(spans) < len(observations):
        return None, phase
    time = np.zeros(observation.size)
    order = np.argsort(observation, kind="stable")
    ends = np.searchsorted(observation[order], np.arange(len(spans) + 1))
    known = Times.of(observations, np.zeros(0), None, jnp.zeros(0, int))
    for place, span in enumerate(spans):
        of_run = order[ends[place] : ends[place + 1]]
        edges = np.linspace(span[:, 0], span[:, 1], TIME_CELLS + 1, axis=1)
        low, width = edges[:, :-1].ravel(), np.diff(edges).ravel()
        for number, factor in enumerate(factors):
            mine = of_run[component[of_run] == number]
            weight = width
            if factor is not None and not phased[number] and mine.size:
                middle = jnp.asarray(low + 0.5 * width - float(known.reference))
                rows = middle, jnp.full(middle.size, place)
                times = eqx.tree_at(lambda t: (t.time, t.observation), known, rows)
                weight = width * np.asarray(factor.rows(times), np.float64)
            cell = random.choice(width.size, mine.size, p=weight / weight.sum()) if mine.size else np.zeros(0, int)
            time[mine] = low[cell] + width[cell] * random.uniform(size=mine.size)
    return time, phase


def simulate_cells(
    key: PRNGKeyArray,
    model: Mixture,
    observations: Sequence[Observation] | Observation,
    binning: Binning,
    *,
    events: int | float,
    at_once: int = 4_000_000,
    progress: bool = True,
) -> Cells:
    """Counts in cells of `events` random events of a mixture with weights, `at_once` of them in memory.

    For more events than memory holds; otherwise like [`gammajax.simulate`][] and [`gammajax.Events.compress`][], with
    the same `ValueError`.

    - `key`, `model`, `observations`, `events`: as of [`gammajax.simulate`][].
    - `binning`: the [`gammajax.Binning`][] of the observations. `progress`: show how far it is.

    Returns [`gammajax.Cells`][].

    >>> import gammajax as gj, jax
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    >>> model = gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": 0.2})
    >>> binning = gj.Binning.init(run, energy_per_decade=10, pixel=0.2)
    >>> gj.simulate_cells(jax.random.key(0), model, run, binning, events=300, at_once=100, progress=False).total
    300
    """
    require_key(key)
    if not events >= 1:
        raise ValueError(f"events must be at least one, not {events}")
    whole, rest = divmod(int(events), at_once)
    sizes = [at_once] * whole + ([rest] if rest else [])
    cells, begun = None, time.perf_counter()
    with Progress(progress, "simulate") as bar:
        for number, size in enumerate(sizes):
            part = binning(simulate(jax.random.fold_in(key, number), model, observations, events=size))
            cells = part if cells is None else cells + part
            rate = cells.total / (time.perf_counter() - begun)
            bar.update((number + 1) / len(sizes), f"{cells.total:.3g} of {events:.3g} events, {rate:.2g} per second")
    assert cells is not None  # there is one event at least
    return cells


def require_key(key) -> None:
    """Raise `ValueError` for a plain number, the most frequent mistake, which JAX calls invalid key data."""
    if not isinstance(key, jax.Array | np.ndarray):
        raise ValueError(f"the first argument is a key of random numbers, such as jax.random.key(0), not {key!r}")


def _split(key, total, fractions):
    """Multinomial numbers of events of each component."""
    return _generator(key).multinomial(total, fractions / fractions.sum()).tolist()


def _generator(key):
    """Random generator of numpy for draws on the host."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def simulate_on_off(key: PRNGKeyArray, model: Mixture, runs: Sequence[OnOffRun] | OnOffRun) -> list[OnOffRun]:
    """Runs with random ON and OFF events of a model, and the responses, regions and selections of `runs`.

    The model has absolute fluxes: sources in the ON region, and one [`gammajax.OffBackground`][] in ON and OFF. True
    energies are drawn from flux times area, in bins of 0.2 %, reconstructed ones from the energy dispersion.

    `key`: a `jax.random.key`; `model`: a [`gammajax.Mixture`][]. Returns a list of [`gammajax.OnOffRun`][]. Raises
    `ValueError` for weights, for no or several backgrounds, for sources that are no points or change in time or the
    directions of the response, and inside transformations.

    >>> import gammajax as gj, jax, numpy as np
    >>> full = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0).response
    >>> region = gj.RegionResponse.at(full.effective_area, full.energy_dispersion, full.psf, offset=0.5, radius=0.1)
    >>> run = gj.OnOffRun([], [], 0.2, 3600.0, region, radius=0.1, energy_min=1.0, energy_max=10.0)
    >>> source = gj.Source(gj.PowerLaw(2.5, 3e-11), gj.Point(0.0, 0.0))
    >>> background = gj.OffBackground(5.0 - 2.0 * np.arange(4), energy_min=1.0, energy_max=10.0)
    >>> runs = gj.simulate_on_off(jax.random.key(0), gj.Mixture(source=source, background=background), run)
    >>> len(runs), len(runs[0].on) > 10
    (1, True)
    """
    require_key(key)
    runs = [runs] if isinstance(runs, OnOffRun) else list(runs)
    if not is_concrete(jnp.zeros(()), key, model):
        raise ValueError("simulate_on_off draws on the host: call it outside jit, grad and vmap")
    if model.weighted:
        raise ValueError("ON and OFF regions need absolute fluxes: leave out the weights of the mixture")
    parts = model.components.values()
    backgrounds = [part for part in parts if isinstance(part, OffBackground)]
    if len(backgrounds) != 1:
        raise ValueError(f"ON and OFF regions need one OffBackground; the mixture has {len(backgrounds)}")
    norms = np.broadcast_to(np.asarray(backgrounds[0].norm), (len(runs),))
    sources = {path: part for path, part in model.components.items() if isinstance(part, Source)}
    for path, source in sources.items():
        require_in_region(path, source)
    changed = [(source.spectrum, changed_observations(runs, source.response)) for source in sources.values()]
    generators = [_generator(jax.random.fold_in(key, number)) for number in range(len(runs))]
    photons = []
    for number, random in enumerate(generators):
        each: dict[int, tuple[Any, list]] = {}  # by response
        for spectrum, others in changed:
            one = others[number]
            each.setdefault(id(one.response), (one.response, []))[1].append(_photons(random, one, spectrum))
        photons.append([(response, np.concatenate(true)) for response, true in each.values()])
    size = max(FEWEST, 1 << max((true.size for of in photons for _, true in of), default=0).bit_length())
    drawn = []
    for run, random, mine, norm in zip(runs, generators, photons, norms, strict=True):
        edges = np.geomspace(run.energy_min, run.energy_max, _fine(run.energy_min, run.energy_max))
        rate = norm * np.asarray(_rate(backgrounds[0], jnp.asarray(_padded(edges, BINS))), np.float64)[: edges.size]
        on, off = (_from_density(random, edges, rate * of(edges)) for of in (run.on_exposure, run.off_exposure))
        for response, true in mine:
            # the same number for all runs, so that they share a program
            padded = jnp.asarray(np.pad(true, (0, size - true.size), constant_values=1.0))
            seed = jax.random.key(random.integers(2**31))
            found = np.asarray(_dispersed(response, seed, padded), np.float64)[: true.size]
            on = np.append(on, found[(found > run.energy_min) & (found < run.energy_max)])
        drawn.append(eqx.tree_at(lambda r: (r.on, r.off), run, (on, off)))
    return drawn


def _photons(random, run: OnOffRun, spectrum) -> np.ndarray:
    """True energies [TeV] of the photons of a source that the ON region detects, whatever is reconstructed."""
    axis = run.response.effective_area.axes[0]
    low, high = np.exp(axis.lower), np.exp(axis.upper)
    edges = np.geomspace(low, high, _fine(low, high))
    padded = jnp.asarray(_padded(edges, BINS))
    area = run.livetime * np.asarray(_region_area(run.response, padded), np.float64)[: edges.size - 1]
    flux = np.asarray(_flux(spectrum, padded), np.float64)[: edges.size - 1]
    count = random.poisson(flux * area)
    return np.repeat(edges[:-1], count) * (1.0 + random.uniform(size=count.sum()) * (edges[1] / edges[0] - 1.0))


@eqx.filter_jit
def _region_area(response, edges):
    """Effective area [cm^2] of an ON region in the middles of bins."""
    return response.area(jnp.sqrt(edges[1:] * edges[:-1]), response.offset)


@eqx.filter_jit
def _dispersed(response, key, energy_true):
    """Random reconstructed energies [TeV] in an ON region."""
    return response.energy_dispersion.sample(key, energy_true, response.offset)


def _fine(low, high) -> int:
    """Number of edges of bins of a five-hundredth."""
    return int(np.ceil(500.0 * np.log(high / low))) + 1


@eqx.filter_jit
def _rate(background, energy):
    return background.rate(energy)


def _from_density(random, edges, density) -> np.ndarray:
    """A Poisson number of energies with a density [TeV^-1] that is linear between edges, by inversion."""
    integral = np.append(0.0, np.cumsum(0.5 * np.diff(edges) * (density[1:] + density[:-1])))
    energy = np.interp(random.uniform(size=random.poisson(integral[-1])) * integral[-1], integral, edges)
    return np.clip(energy, edges[0], edges[-1])


def _group(key, components, observations, number, name):
    """Columns [7, event] and component of `number` events of the group, or of a Poisson number for None.

    Fluxes set the shares of the components within the group.
    """
    samplers, detected_in = [], []
    for component in components:
        if isinstance(component, OffBackground):
            raise ValueError("events of an OffBackground have no directions: draw ON and OFF by simulate_on_off")
        if isinstance(component, InstrumentBackground):
            component.check_observations(observations)
            samplers += [_BackgroundSampler.init(component.select(i), o) for i, o in enumerate(observations)]
            detected_in += observations
        else:
            mine = changed_observations(observations, component.response)
            own = [_SourceSampler.init(component, observation) for observation in mine]
            samplers += own if component.time is None else _varied(own, component.time, observations)
            detected_in += mine
    columns = _columns(key, samplers, tuple(detected_in), number, name)
    member, observation = np.divmod(columns[-1].astype(int), len(observations))
    # reconstructed directions are those of the files, relative to the files' pointings
    for row, place in ((1, "lon"), (2, "lat")):
        off = [
            float(getattr(o, place)) - float(getattr(observations[i % len(observations)], place))
            for i, o in enumerate(detected_in)
        ]
        columns[row] -= np.array(off)[columns[-1].astype(int)]
    return np.concatenate([columns[:-1], observation[None]]), member


def _columns(key, samplers, observations, number, name):
    """Columns [7, event]; the last column is the index of the sampler."""
    rates = np.array([float(sampler.proposals) for sampler in samplers])
    if number is None and not rates.any():  # a flux of zero, for example in experiments without a signal
        return np.zeros((7, 0))
    if not rates.sum() > 0:
        raise ValueError(f"component {name!r} gives no events in the selection")
    generator = _generator(key)
    if number is None:
        return _draw(key, samplers, observations, generator.poisson(rates))
    found, made, parts = 0, 0, []
    efficiency = 0.5
    while found < number and made <= HOPELESS * number + 1_000_000:
        proposals = int(1.05 * (number - found) / efficiency) + 1000
        made += proposals
        columns = _draw(
            jax.random.fold_in(key, len(parts)),
            samplers,
            observations,
            generator.multinomial(proposals, rates / rates.sum()),
        )
        efficiency = max(columns.shape[1] / proposals, 1e-5)
        # events are in order of observations: shuffle before cutting to the number
        parts.append(columns[:, generator.permutation(columns.shape[1])])
        found += columns.shape[1]
    if found < number:
        raise ValueError(
            f"component {name!r} gives hardly any events in the selection: {found} of {number} from {made:.2g} "
            "detected photons; look at its position, and at energy_range [TeV], offset_max [deg] and exclusion"
        )
    return np.concatenate(parts, axis=1)[:, :number] if parts else np.zeros((7, 0))


def _draw(key, samplers, observations, proposals):
    """All accepted events from given numbers of proposals in each observation."""
    batches = []
    for number, count in enumerate(proposals):
        size = FEW if count <= FEW else BATCH
        for first in range(0, int(count), size):
            key, subkey = jax.random.split(key)
            batches.append((number, subkey, min(int(count) - first, size), size))

    def accepted(batch):
        number, subkey, count, size = batch
        columns, keep = map(np.asarray, _batch(samplers[number], observations[number], subkey, size))
        chosen = columns[:, np.flatnonzero(keep[:count])]
        return np.concatenate([chosen, np.full((1, chosen.shape[1]), number)], dtype=np.float64)

    # a batch uses one core: threads use the other cores, and map keeps the order of batches
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        parts = list(pool.map(accepted, batches))
    return np.concatenate(parts, axis=1) if parts else np.zeros((7, 0))


@eqx.filter_jit
def _batch(sampler, observation, key, size: int):
    columns, keep = sampler.draw(key, observation, size)
    energy, lon, lat = columns[:3]
    keep = keep & (energy >= observation.energy_min) & (energy <= observation.energy_max)
    return columns, keep & observation.selected(lon, lat)


class _SourceSampler(eqx.Module):
    """Photons of one source in one observation: energies in tiny bins of flux x envelope of the effective area."""

    source: Source
    reach: jax.Array  # photons from farther than this from the source's centre cannot reach the field of view
    log_edges: jax.Array
    cumulative: jax.Array  # from the highest energy down, so that rare high energies are resolved
    envelope: jax.Array
    proposals: jax.Array

    @classmethod
    def init(cls, source, observation):
        source.morphology.check_field(observation)
        axis, offsets = observation.response.effective_area.axes
        low, high = axis.lower, axis.upper
        count = int(np.ceil((high - low) / np.log(10.0) * ENERGIES_PER_DECADE)) + 1
        nodes = np.asarray(axis.nodes, np.float64)
        # the area is linear between the table's nodes: if the nodes are edges, its maximum is at an edge
        log_edges = np.unique(np.concatenate([np.linspace(low, high, count), nodes[(nodes > low) & (nodes < high)]]))
        log_edges = _padded(log_edges, BINS)
        at = np.append(
            np.clip(np.asarray(offsets.nodes), offsets.lower, offsets.upper), [0.0, offsets.lower, offsets.upper]
        )
        inner = np.exp(np.clip(log_edges, low + 1e-6, high - 1e-6))
        area = np.asarray(_area(observation.response, jnp.asarray(inner), jnp.asarray(at))).max(1)
        envelope = np.maximum(area[1:], area[:-1]) * 1.001
        flux = np.asarray(_flux(source.spectrum, jnp.asarray(np.exp(log_edges))), np.float64)
        rate = np.maximum(flux, 0.0) * envelope
        falling = np.concatenate([[0.0], np.cumsum(rate[::-1])])
        total = falling[-1]
        reach, part = _reach(source.morphology, observation)
        return cls(
            source,
            reach,
            jnp.asarray(log_edges[::-1].copy()),
            jnp.asarray(falling / (total if total > 0 else 1.0)),
            jnp.asarray(envelope[::-1].copy()),
            jnp.asarray(total) * observation.livetime * part,
        )

    def draw(self, key, observation, size):
        keys = jax.random.split(key, 7)
        bin_ = _locate(self.cumulative, _uniform(keys[0], size))
        fraction = jax.random.uniform(keys[1], (size,))
        energy_true = jnp.exp(self.log_edges[bin_] + fraction * (self.log_edges[bin_ + 1] - self.log_edges[bin_]))
        lon_true, lat_true = self.source.morphology.at(energy_true).sample(keys[2], size, self.reach)
        offset = observation.offset(lon_true, lat_true)
        response = observation.response
        detected = jax.random.uniform(keys[3], (size,)) * self.envelope[bin_] < response.area(energy_true, offset)
        rad = response.psf.sample(keys[4], energy_true, offset)
        lon, lat = displace(lon_true, lat_true, rad, jax.random.uniform(keys[5], (size,), maxval=360.0))
        energy = response.energy_dispersion.sample(keys[6], energy_true, offset)
        return jnp.stack([energy, lon, lat, energy_true, lon_true, lat_true]), detected


class _BackgroundSampler(eqx.Module):
    """Background in one observation: energy layers between the nodes of the table, thinned to its exact value.

    Within a layer and a square of sky, the values at the corners of the table's cells bound the rate.
    """

    background: InstrumentBackground
    log_edges: jax.Array
    cumulative: jax.Array
    envelope: jax.Array
    half_width: jax.Array
    squares: jax.Array
    proposals: jax.Array

    @classmethod
    def init(cls, background, observation):
        axis = observation.response.background.log_rate.axes[0] if observation.response.background else None
        if axis is None:
            raise ValueError(f"observation {observation.obs_id} has no background response (BKG_2D or BKG_3D)")
        low, high = max(axis.lower, np.log(observation.energy_min)), min(axis.upper, np.log(observation.energy_max))
        if not low < high:
            raise ValueError(f"observation {observation.obs_id}: the background response does not cover the energies")
        nodes = np.asarray(axis.nodes, np.float64)
        nodes = nodes[(nodes > low) & (nodes < high)]
        # splines of a correction bend between the corners
        step = 0.1 if background.correction is None else 0.05
        log_edges = _padded(np.unique(np.concatenate([np.arange(low, high, step), [high], nodes])), LAYERS)
        # equal-area squares of sky, smaller than the table's cells; corners bound the linear interpolation of the log
        half_width, squares = observation.offset_max, max(8, int(np.ceil(observation.offset_max / step)))
        corners = np.linspace(-half_width, half_width, 2 * squares + 1)
        x, y = np.meshgrid(corners, corners)
        lon, lat = deproject(jnp.asarray(x), jnp.asarray(y), observation.lon, observation.lat)
        energy = np.exp(np.clip(log_edges, axis.lower + 1e-6, axis.upper - 1e-6))
        at_corner = np.asarray(_layers(observation, background, jnp.asarray(energy), lon, lat), np.float64)
        # maximum over the corners of a square and the middle of its sides
        square = _corner_maximum(at_corner, 2)
        envelope = 1.02 * np.maximum(square[1:], square[:-1])  # kinks of the table inside a square
        pixel = (2.0 * half_width / squares * DEGREE) ** 2
        rate = envelope * np.diff(log_edges)[:, None, None] * pixel
        rate, envelope = rate[::-1], envelope[::-1]
        falling = np.concatenate([[0.0], np.cumsum(rate.ravel())])
        return cls(
            background,
            jnp.asarray(log_edges[::-1].copy()),
            jnp.asarray(falling / (falling[-1] if falling[-1] > 0 else 1.0)),
            jnp.asarray(np.where(rate > 0, envelope, np.inf).ravel()),
            jnp.asarray(half_width),
            jnp.asarray(squares),
            jnp.asarray(falling[-1]),
        )

    def draw(self, key, observation, size):
        keys = jax.random.split(key, 5)
        cell = _locate(self.cumulative, _uniform(keys[0], size))
        layer, square = cell // self.squares**2, cell % self.squares**2
        u, v, w = (jax.random.uniform(k, (size,)) for k in keys[1:4])
        energy = jnp.exp(self.log_edges[layer] + u * (self.log_edges[layer + 1] - self.log_edges[layer]))
        step = 2.0 * self.half_width / self.squares
        x = (square % self.squares + v) * step - self.half_width
        y = (square // self.squares + w) * step - self.half_width
        lon, lat = deproject(x, y, observation.lon, observation.lat)
        factor = self.background.corrected(energy, *observation.fov_coordinates(lon, lat))
        rate = observation.background(energy, lon, lat) * factor * energy
        keep = jax.random.uniform(keys[4], (size,)) * self.envelope[cell] < rate
        return jnp.stack([energy, lon, lat, energy, lon, lat]), keep


@eqx.filter_jit
def _reach(morphology, observation):
    """Largest separation [deg] from a morphology's centre whose photons can reach the field of view.

    Also returns the part of the flux within this separation.
    """
    axis = observation.response.effective_area.axes[0]
    energy = jnp.exp(jnp.linspace(axis.lower, axis.upper, 24))
    offset = jnp.full(energy.shape, observation.offset_max)
    spread = observation.response.psf.quantile(energy, offset, jnp.full(energy.shape, 1.0 - 2e-7)).max()
    reach = observation.offset(morphology.lon, morphology.lat) + observation.offset_max + jnp.minimum(spread, 10.0)
    return reach, morphology.containment(reach)


@eqx.filter_jit
def _flux(spectrum, edges):
    return spectrum.integral(edges)


@eqx.filter_jit
def _area(response, energy, offset):
    return response.area(energy[:, None], offset[None, :])


@eqx.filter_jit
def _layers(observation, background, energy, lon, lat):
    """Background [sr^-1] per ln E' at layers of energy and directions."""

    def layer(e):
        factor = background.corrected(e, *observation.fov_coordinates(lon, lat))
        return observation.background(jnp.full(lon.shape, e), lon, lat) * factor * e

    return jax.lax.map(layer, energy)


def _padded(edges, unit):
    """Edges with the last one repeated, so that their number is one of few: programs depend on it."""
    return np.pad(edges, (0, -edges.size % unit), mode="edge")


def _corner_maximum(values, step):
    """Maximum over the (step + 1)^2 points of every square of a grid of corners."""
    last = values.shape[-1] - 1
    stacked = [
        values[:, i : last - step + i + 1 : step, j : last - step + j + 1 : step]
        for i in range(step + 1)
        for j in range(step + 1)
    ]
    return np.max(stacked, axis=0)


def _locate(cumulative, u):
    return jnp.clip(jnp.searchsorted(cumulative, u, side="right") - 1, 0, cumulative.size - 2)


def _uniform(key, size):
    """Uniform numbers with full floating resolution near zero, for rare events."""
    coarse, fine = jax.random.split(key)
    return jax.random.uniform(coarse, (size,)) + jax.random.uniform(fine, (size,)) * 2.0**-23
