"""Checks of a configuration against the responses of its observations, before anything is simulated or sampled."""

import math
import warnings
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from gammajax.cli.config import Config, component_key, data_key
from gammajax.cli.data_section import HIGHEST, GadfObservations
from gammajax.engines.choice import explore_priors
from gammajax.events.on_off_run import OnOffRun
from gammajax.instrument.observation import Observation
from gammajax.io.pointing import separations
from gammajax.likelihood import Binned
from gammajax.model.darkmatter import Halo
from gammajax.model.mixture import InstrumentBackground, Source
from gammajax.model.off_background import OffBackground
from gammajax.model.priors import centre, check_priors

TAILS = 1.0  # deg, about the width that a point spread function adds to the reach of a pointing
ABOVE = 2.0  # times the highest energy of a response: reconstructed energies go that far
GEV_PER_TEV = 1000.0
CUSP = 20.0  # deg from the centre of a halo, which nobody points at for its cusp
HEAVY = 10.0  # times the highest energy: a heavier particle shows in photons of less than its mass
OTHER = {"icrs": "galactic", "galactic": "icrs"}


Read = Sequence[Observation] | Sequence[OnOffRun] | Sequence[Binned]


def check(config: Config, observations: Read | Mapping[str, Read]) -> None:
    """Check energies, offsets and directions of a configuration against `observations`, and check its model.

    `observations`: those of the data set, or of several by name; runs of ON and OFF regions and binned data likewise.

    Raises `ValueError` (`FileNotFoundError` for a file of the model) in one line that names the key and what would be
    right. A pointing that sees no source, a cut-off that no photon
    shows and a free flux that weights cancel are warnings.
    """
    read = dict(observations) if isinstance(observations, Mapping) else {"": observations}
    ranges = {name: [_energies_of(one) for one in found] for name, found in read.items() if found}
    if not ranges:
        return
    for name, found in ranges.items():
        _check_selection(config, name, *_span(found), read[name])
    low, high = _span([one for found in ranges.values() for one in found])
    _check_spectra(config, low, high)
    priors = config.priors()
    start = {name: centre(prior) for name, prior in priors.items()}
    truth = start | {name: jnp.asarray(value, float) for name, value in config.truths.items()}
    mixture = _build(config, truth, "")
    try:
        check_priors(priors)
        explore_priors(config.model.function(), priors, start, _build(config, start, " at the medians of the priors"))
    except ValueError as error:
        raise ValueError(f"parameters: {error}") from error
    for name, found in read.items():
        _check_runs(config, name, mixture, found)
    _check_directions(config, mixture, {name: read[name] for name in read if config.data_sets[name].of_events})
    for sentence in config.without_effect():
        warnings.warn(sentence, stacklevel=2)


def _energies_of(one: Observation | OnOffRun | Binned) -> tuple[float, float]:
    """True energies [TeV] of the response."""
    if isinstance(one, Binned):
        return float(one.edges_true[0]), float(one.edges_true[-1])
    axis = one.response.effective_area.axes[0]
    return math.exp(axis.lower), math.exp(axis.upper)


def _span(ranges) -> tuple[float, float]:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _check_runs(config, name: str, mixture, found) -> None:
    """Refuse numbers by run that are not one for each run of a data set."""
    for path in config.seen(name):
        component = mixture.components[path]
        try:
            if isinstance(component, InstrumentBackground) and config.data_sets[name].of_events:
                component.check_observations(found)
            if isinstance(component, Source) and component.response is not None:
                component.response.check_observations(len(found))
            if isinstance(component, OffBackground) and jnp.shape(component.norm) not in ((), (len(found),)):
                raise ValueError(
                    f"norm has shape {jnp.shape(component.norm)}; give one number, or {len(found)}, one for each run"
                )
        except ValueError as error:
            raise ValueError(f"{component_key(path)}: {error} of {data_key(name)}") from error


def _build(config, parameters, at: str):
    """The model at these parameters; an error names the component where it is."""
    for path, component in config.model.leaves().items():
        try:
            component.build(parameters)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{component_key(path)}{at}: {error}") from error
    try:
        return config.model.function()(parameters)
    except ValueError as error:
        raise ValueError(f"model{at}: {error}") from error


def _check_selection(config, name: str, low, high, found):
    settings, where = config.data_sets[name], data_key(name)
    first, last = settings.energy_range or (low, high)
    like_gev = last > ABOVE * high and 0.1 * low <= first / GEV_PER_TEV and last / GEV_PER_TEV <= ABOVE * high
    if first >= high or last <= low or last > HIGHEST or like_gev:
        raise ValueError(
            f"{where}.energy_range: [{first:g}, {last:g}] TeV is outside of the response's {low:.3g} to "
            f"{high:.4g} TeV" + (f"; are these GeV? then write [{first:g} GeV, {last:g} GeV]" if like_gev else "")
        )
    if not settings.of_events:
        return
    widest = max(one.response.effective_area.axes[1].upper for one in found)
    if settings.offset_max > widest + 1e-6:
        raise ValueError(
            f"{where}.offset_max: {settings.offset_max:g} deg is beyond the response, which ends at {widest:g} deg"
        )


def _check_spectra(config, low, high):
    """Refuse energies and masses that no photon of the response could show."""
    limits = {"energy": (low, high), "mean": (low, high), "mass": (low, HEAVY * high)}
    for path, component in config.model.leaves().items():
        spectrum = getattr(component, "spectrum", component)
        where = component_key(path) + ("" if spectrum is component else ".spectrum")
        named = {key: getattr(spectrum, key) for key, unit in spectrum.units.items() if unit == "TeV"}
        if spectrum.type == "particle-model":
            named["mass"] = spectrum.point.get(spectrum.mass)
        for key, value in named.items():
            least, most = limits.get(key, (0.0, max(high, 1.0)))
            for place, (first, last, widest) in _energies(config, f"{where}.{key}", value, HEAVY * high).items():
                above = first > most or last > widest
                if above or last < least:
                    text = f"{first:g}" if first == last else f"{first:g} to {last:g}"
                    raise ValueError(
                        f"{place}: {text} TeV is outside of the response's {low:.3g} to {high:.4g} TeV"
                        + ("; is it in GeV? energies are in TeV" if above else "")
                    )
        inverse = getattr(spectrum, "lambda_", None)
        inverse = config.truths.get(inverse) if isinstance(inverse, str) else inverse
        if isinstance(inverse, float) and inverse > 0 and not low <= 1.0 / inverse <= HEAVY * high:
            warnings.warn(
                f"{where}.lambda_: the cut-off 1 / {inverse:g} = {1.0 / inverse:.3g} TeV is outside of the response's "
                f"{low:.3g} to {high:.4g} TeV; lambda_ is in 1/TeV",
                stacklevel=3,
            )


def _energies(config, where: str, value, widest: float) -> dict[str, tuple[float, float, float]]:
    """Least and largest energy [TeV] that a key stands for, and how large that may be, by place.

    Of a number, the nodes of a table, or of a parameter the truth and the range of the prior.
    """
    if value is None:
        return {}
    if not isinstance(value, str):
        nodes = value if isinstance(value, list) else [value]
        return {where: (min(nodes), max(nodes), math.inf)}
    parameter = config.parameters[value]
    found = {}
    if isinstance(parameter.truth, float):
        found[f"parameters.{value}.truth"] = (parameter.truth, parameter.truth, math.inf)
    if parameter.low is not None:
        found[f"parameters.{value}"] = (parameter.low, parameter.high, widest)
    elif not parameter.shape:
        middle = float(centre(parameter.distribution()))
        found[f"parameters.{value}"] = (middle, middle, math.inf)
    return found


def _check_directions(config, mixture, read):
    """Refuse sources outside all fields of view, and pointings that see one only in the other frame.

    `read`: observations of events by data set. Sources that other data see may be outside.
    """
    frame, known = config.frame, config.truths
    others = {path for name in config.data_sets if name not in read for path in config.seen(name)}
    sources = {}
    for path, component in mixture.components.items():
        section = getattr(config.model.leaves()[path], "morphology", None)
        free = [getattr(section, key, None) for key in ("lon", "lat")]
        if not isinstance(component, Source) or any(isinstance(one, str) and one not in known for one in free):
            continue
        shape = component.morphology
        sources[path] = (float(shape.lon), float(shape.lat), min(float(np.max(shape.radius)), 180.0))
    rows = [(name, i, one) for name, found in read.items() for i, one in enumerate(found)]
    if not sources or not rows:
        return
    pointings = np.array([(float(o.lon), float(o.lat)) for _, _, o in rows])
    real = np.array([isinstance(config.data_sets[name], GadfObservations) for name, _, _ in rows])  # files know where
    sees = np.array([[path in config.seen(name) for path in sources] for name, _, _ in rows])
    offset_max = np.array([config.data_sets[name].offset_max for name, _, _ in rows])[:, None]
    lon, lat, size = np.array(list(sources.values())).T
    places = np.stack([lon, lat], -1)
    reach = offset_max + size + TAILS  # [pointing, source]
    # a halo is in every field of view: far from its cusp may be meant, but not where the other frame is at the cusp
    halo = np.array([isinstance(mixture.components[path].morphology, Halo) for path in sources])
    far, near = np.where(halo, CUSP, reach), np.where(halo, offset_max + TAILS, reach)
    away = separations(pointings, frame, places, frame)  # [pointing, source]
    moved = separations(pointings, OTHER[frame], places, frame)
    swapped = separations(pointings, frame, places, OTHER[frame])
    first = data_key(next(iter(config.data_sets)))
    for j, path in enumerate(sources):
        mine = np.flatnonzero(sees[:, j])
        if path in others or not mine.size or not np.all(away[mine, j] > far[mine, j]):
            continue
        i = int(mine[away[mine, j].argmin()])
        end = ""
        if np.any(swapped[mine, j] <= near[mine, j]):
            end = f"; it looks like one in {OTHER[frame]}: convert it, or set {first}.frame"
        elif np.any(moved[mine, j][~real[mine]] <= near[mine, j][~real[mine]]):
            end = f"; the pointing looks like one in {OTHER[frame]}: convert it, or set {first}.frame"
        elif halo[j]:
            continue
        raise ValueError(
            f"{component_key(path)}.morphology: ({lon[j]:g}, {lat[j]:g}) deg, {frame}, is {away[i, j]:.3g} deg from "
            f"the nearest pointing, ({pointings[i][0]:g}, {pointings[i][1]:g}), which sees "
            f"{offset_max[i, 0]:g} deg{end}"
        )
    for i, (name, number, _) in enumerate(rows):
        mine = sees[i]
        if real[i] or not mine.any() or not np.all(away[i, mine] > reach[i, mine]):
            continue
        message = (
            f"{data_key(name)}.pointings.{number}: ({pointings[i][0]:g}, {pointings[i][1]:g}) deg, {frame}, is "
            f"{away[i, mine].min():.3g} deg from the nearest source"
        )
        if np.any(moved[i, mine] <= reach[i, mine]):
            raise ValueError(f"{message}; it looks like one in {OTHER[frame]}: convert it to {frame}")
        warnings.warn(f"{message}, and sees none", stacklevel=3)
