"""Checks of a configuration against the responses of its observations, before anything is simulated or sampled."""

import math
import warnings

import jax.numpy as jnp
import numpy as np

from gammajax.cli.config import Config
from gammajax.cli.data_section import HIGHEST
from gammajax.engines.choice import explore_priors
from gammajax.instrument.observation import Observation
from gammajax.io.pointing import separations
from gammajax.model.darkmatter import Halo
from gammajax.model.mixture import Source
from gammajax.model.priors import centre, check_priors

TAILS = 1.0  # deg, about the width that a point spread function adds to the reach of a pointing
ABOVE = 2.0  # times the highest energy of a response: reconstructed energies go that far
GEV_PER_TEV = 1000.0
CUSP = 20.0  # deg from the centre of a halo, which nobody points at for its cusp
HEAVY = 10.0  # times the highest energy: a heavier particle shows in photons of less than its mass
OTHER = {"icrs": "galactic", "galactic": "icrs"}


def check(config: Config, observations: list[Observation]) -> None:
    """Check energies, offsets and directions of a configuration against `observations`, and check its model.

    Raises `ValueError` (`FileNotFoundError` for a file of the model) in one line that names the key and what would be
    right. A pointing that sees no source, a cut-off that no photon
    shows and a free flux that weights cancel are warnings.
    """
    axes = [observation.response.effective_area.axes for observation in observations]
    if not axes:
        return
    low, high = (math.exp(edge) for edge in (min(a[0].lower for a in axes), max(a[0].upper for a in axes)))
    _check_selection(config, low, high, max(a[1].upper for a in axes))
    _check_spectra(config, low, high)
    priors = {name: parameter.distribution() for name, parameter in config.parameters.items()}
    start = {name: centre(prior) for name, prior in priors.items()}
    truth = start | {name: jnp.asarray(value, float) for name, value in config.truths.items()}
    mixture = _build(config, truth, "")
    try:
        check_priors(priors)
        explore_priors(config.model.function(), priors, start, _build(config, start, " at the medians of the priors"))
    except ValueError as error:
        raise ValueError(f"parameters: {error}") from error
    _check_directions(config, mixture, observations)
    for sentence in config.without_effect():
        warnings.warn(sentence, stacklevel=2)


def _build(config, parameters, at: str):
    """The model at these parameters; an error names the component where it is."""
    for path, component in config.model.leaves().items():
        try:
            component.build(parameters)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{_key(path)}{at}: {error}") from error
    try:
        return config.model.function()(parameters)
    except ValueError as error:
        raise ValueError(f"model{at}: {error}") from error


def _key(path: str) -> str:
    return f"model.components.{path.replace('/', '.components.')}"


def _check_selection(config, low, high, widest):
    settings = config.observations
    first, last = settings.energy_range or (low, high)
    like_gev = last > ABOVE * high and 0.1 * low <= first / GEV_PER_TEV and last / GEV_PER_TEV <= ABOVE * high
    if first >= high or last <= low or last > HIGHEST or like_gev:
        raise ValueError(
            f"observations.energy_range: [{first:g}, {last:g}] TeV is outside of the response's {low:.3g} to "
            f"{high:.4g} TeV" + (f"; are these GeV? then write [{first:g} GeV, {last:g} GeV]" if like_gev else "")
        )
    if settings.offset_max > widest + 1e-6:
        raise ValueError(
            f"observations.offset_max: {settings.offset_max:g} deg is beyond the response, which ends at {widest:g} deg"
        )


def _check_spectra(config, low, high):
    """Refuse energies and masses that no photon of the response could show."""
    limits = {"energy": (low, high), "mean": (low, high), "mass": (low, HEAVY * high)}
    for path, component in config.model.leaves().items():
        spectrum = getattr(component, "spectrum", component)
        where = _key(path) + ("" if spectrum is component else ".spectrum")
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
    elif parameter.concentration is None:
        middle = float(centre(parameter.distribution()))
        found[f"parameters.{value}"] = (middle, middle, math.inf)
    return found


def _check_directions(config, mixture, observations):
    """Refuse sources outside all fields of view, and pointings that see one only in the other frame."""
    settings = config.observations
    frame, known = settings.frame, config.truths
    sources = {}
    for path, component in mixture.components.items():
        section = getattr(config.model.leaves()[path], "morphology", None)
        free = [getattr(section, key, None) for key in ("lon", "lat")]
        if not isinstance(component, Source) or any(isinstance(one, str) and one not in known for one in free):
            continue
        shape = component.morphology
        sources[path] = (float(shape.lon), float(shape.lat), min(float(np.max(shape.radius)), 180.0))
    if not sources:
        return
    pointings = np.array([(float(o.lon), float(o.lat)) for o in observations])
    lon, lat, size = np.array(list(sources.values())).T
    places = np.stack([lon, lat], -1)
    reach = settings.offset_max + size + TAILS
    # a halo is in every field of view: far from its cusp may be meant, but not where the other frame is at the cusp
    halo = np.array([isinstance(mixture.components[path].morphology, Halo) for path in sources])
    far, near = np.where(halo, CUSP, reach), np.where(halo, settings.offset_max + TAILS, reach)
    away = separations(pointings, frame, places, frame)  # [pointing, source]
    moved = separations(pointings, OTHER[frame], places, frame)
    swapped = separations(pointings, frame, places, OTHER[frame])
    real = settings.kind == "gadf"  # the files know where they point
    for j, path in enumerate(sources):
        if np.all(away[:, j] > far[j]):
            i = int(away[:, j].argmin())
            end = ""
            if np.any(swapped[:, j] <= near[j]):
                end = f"; it looks like one in {OTHER[frame]}: convert it, or set observations.frame"
            elif not real and np.any(moved[:, j] <= near[j]):
                end = f"; the pointing looks like one in {OTHER[frame]}: convert it, or set observations.frame"
            elif halo[j]:
                continue
            raise ValueError(
                f"{_key(path)}.morphology: ({lon[j]:g}, {lat[j]:g}) deg, {frame}, is {away[i, j]:.3g} deg from the "
                f"nearest pointing, ({pointings[i][0]:g}, {pointings[i][1]:g}), which sees {settings.offset_max:g} deg"
                f"{end}"
            )
    for i, (lon_i, lat_i) in enumerate(pointings):
        if real or not np.all(away[i] > reach):
            continue
        message = (
            f"observations.pointings.{i}: ({lon_i:g}, {lat_i:g}) deg, {frame}, is {away[i].min():.3g} deg from the "
            "nearest source"
        )
        if np.any(moved[i] <= reach):
            raise ValueError(f"{message}; it looks like one in {OTHER[frame]}: convert it to {frame}")
        warnings.warn(f"{message}, and sees none", stacklevel=3)
