"""Data sets and the posterior of a configuration: files are read, events simulated, responses prepared."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from gammajax.cli import terminal
from gammajax.cli.configurations import check
from gammajax.cli.data_section import (
    CtaoObservations,
    GammapyDatasets,
    OnOffObservations,
    Pointings,
    ResponseObservations,
)
from gammajax.common import distributed
from gammajax.events.cells import Binning, Cells
from gammajax.instrument.observation import Observation
from gammajax.likelihood import Binned, Data, OnOff, Unbinned
from gammajax.likelihood.on_off import OnOffTerm
from gammajax.model.priors import centre
from gammajax.posterior import Posterior
from gammajax.simulation import simulate, simulate_cells


class Read(NamedTuple):
    """What the files of a data set hold: observations, ON and OFF runs or binned data, and events if they have any.

    `whole`: whether these are the events of all processes.
    """

    found: Sequence[Any]
    events: Any = None
    whole: bool = True


def prepared(config, key, progress: bool, shared: bool, timings: dict) -> Posterior:
    """The posterior of a configuration, with its events read or simulated; a line for each of the two steps."""
    part = (jax.process_index(), jax.process_count()) if shared else (0, 1)
    model = config.model.function()
    with terminal.step("events", timings) as say:
        with distributed.together(shared):
            data, whole = _data_sets(config, model, key, progress and part[0] == 0, part)
        if shared and whole:
            data = [Unbinned(one.observations, distributed.share(one.events)) for one in data]
        say(", ".join(_content(one, shared) for one in data))
    with terminal.step("response", timings) as say:
        if shared:
            mesh = distributed.mesh()
            data = [Unbinned(one.observations, one.events, mesh=mesh) for one in data]
        posterior = Posterior(model, config.priors(_background_priors(config, data)), data, progress=progress)
        say("; ".join(_engines(term, len(posterior.terms) > 1) for term in posterior.terms))
    return posterior


def _data_sets(config, model, key, progress, part) -> tuple[list, bool]:
    """The data sets of a configuration, and whether they have the events of all processes.

    `part`: index of this process and number of processes; each reads its share of a list of events. All processes make
    all simulated events and all cells, because they are cheap or must be counted together.
    """
    read = {name: _read(config, section, name, part) for name, section in config.data_sets.items()}
    check(config, {name: one.found for name, one in read.items()})
    data: list[Data] = []
    for number, (name, section) in enumerate(config.data_sets.items()):
        found, events, _ = read[name]
        if isinstance(section, OnOffObservations):
            data.append(section.data_set(list(found), name or None))
        elif isinstance(section, GammapyDatasets):
            data += found
        else:
            if isinstance(section, Pointings):
                # the key of a single data set is that of the run
                own = jax.random.fold_in(key, number) if name else key
                events = _simulated(config, model, own, name, found, progress)
            elif config.compress:
                events = events.compress(found, **config.compress.model_dump())
            data.append(Unbinned(found, events, components=section.names, name=name or None))
    return data, all(one.whole for one in read.values())


def _read(config, section, name: str, part) -> Read:
    if isinstance(section, CtaoObservations | ResponseObservations):
        return Read(section.make())
    if isinstance(section, OnOffObservations):
        return Read(section.read())
    if isinstance(section, GammapyDatasets):
        return Read(section.read(name or None))
    events, observations = section.read((0, 1) if config.compress else part)
    return Read(observations, events, bool(config.compress))


def _simulated(config, model, key, name: str, observations: Sequence[Observation], progress):
    """Events or cells of a simulated data set, at the truths of the components that it sees."""
    number, cells = config.events.simulate, config.compress and config.compress.model_dump()
    truth = {name: centre(prior) for name, prior in config.priors().items()}
    truth |= {name: jnp.asarray(value) for name, value in config.truths.items()}
    mixture = model(truth)
    if name and not mixture.weighted:
        mixture = mixture.only(list(config.seen(name)))
    if cells and number is not True:
        binning = Binning.init(observations, **cells)
        return simulate_cells(key, mixture, observations, binning, events=number, progress=progress)
    events = simulate(key, mixture, observations, events=None if number is True else number)
    return events.compress(observations, **cells) if cells else events


def _background_priors(config, data) -> dict[str, Distribution]:
    """Smooth priors of backgrounds of ON and OFF regions without a centre: what their OFF events ask for."""
    priors = {}
    for one in (one for one in data if isinstance(one, OnOff)):
        for part in config.seen(one.name or "").values():
            if part.type != "off-background" or not isinstance(part.log_rate, str):
                continue
            given = config.parameters[part.log_rate]
            if given.prior == "smooth" and given.centre is None:
                scales = {name: getattr(given, name) for name in ("level", "tilt") if getattr(given, name) is not None}
                ends = part.energy_min, part.energy_max
                priors[part.log_rate] = one.background_prior(given.size, given.scale, energy_range=ends, **scales)
    return priors


def _content(data: Data, shared: bool) -> str:
    """Numbers of events and observations, with the name of the data set if it has one."""
    name = f"{data.name}: " if data.name else ""
    if isinstance(data, Unbinned):
        total, held = (int(distributed.over(shared, np.sum, n)) for n in (data.events.total, len(data.events)))
        cells = f" in {held} cells," if isinstance(data.events, Cells) else ""
        return f"{name}{total} events{cells} in {len(data.observations)} observations"
    if isinstance(data, OnOffTerm):
        on, off = (sum(len(getattr(run, of)) for run in data.runs) for of in ("on", "off"))
        return f"{name}{on} ON and {off} OFF events in {len(data.runs)} runs"
    assert isinstance(data, Binned)
    return f"{name}{data.counts[data.mask].sum():g} counts in {data.mask.sum()} bins"


def _engines(term, several: bool) -> str:
    name = f"{term.name}: " if several else ""
    engines = getattr(term, "engines", None)
    if engines is None:
        return name + type(term).__name__
    own = ", ".join(f"{path}: {type(engine).__name__}" for path, engine in engines.items())
    return f"{term.name} ({own})" if several else own
