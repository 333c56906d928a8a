"""Configuration of a run: the sections of a YAML file, and the model function and priors that they define."""

import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Union

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from pydantic import (
    Field,
    create_model,
    field_validator,
    model_validator,
)

from gammajax import io, samplers
from gammajax.cli.outputs import ABSOLUTE, OUTPUTS, LimitsOutput, Output
from gammajax.cli.settings import (
    LINE_UNITS,
    MORPHOLOGY_UNITS,
    SPECTRUM_UNITS,
    Count,
    Degrees,
    Directions,
    Energies,
    Energy,
    Events,
    Fractions,
    Frame,
    Latitude,
    LatitudeValue,
    Livetime,
    Longitude,
    LongitudeValue,
    Number,
    Numbered,
    Positive,
    Radius,
    RightAscension,
    Strict,
    Switch,
    Texts,
    Truth,
    Value,
    Whole,
    is_name,
    number_in,
    seed,
    unknown,
    value_in,
)
from gammajax.instrument.observation import Observation
from gammajax.io.ctao_prod5 import EMBEDDED
from gammajax.io.text import same_unit
from gammajax.model import darkmatter, lines, mixture, morphology, shapes, spectra
from gammajax.model.absorption import Absorption
from gammajax.model.background_correction import BackgroundCorrection, check_degree, correction_prior
from gammajax.model.energy_dependent import EnergyDependent
from gammajax.model.priors import check_names, cube_size
from gammajax.model.response_change import ResponseChange
from gammajax.model.templates import TemplateMap
from gammajax.samplers.importance import LEAST

HIGHEST = 1000.0  # TeV, beyond the responses of Cherenkov telescopes


class Pointings(Strict):
    """Pointings to simulate, all with one response."""

    pointings: Directions
    frame: Frame = "icrs"
    livetime: Livetime
    energy_range: Energies = (0.1, 100.0)
    offset_max: Radius = 3.0
    exclusion: Texts | None = None

    def _each(self, read: Callable, **response) -> list[Observation]:
        """Observations that `read` makes, one for each pointing."""
        shared = self.model_dump(include=set(Pointings.model_fields) - {"pointings", "livetime"})
        shared |= {"livetime": self.livetime, **response}
        return [read(pointing=p, obs_id=str(i), **shared) for i, p in enumerate(self.pointings)]


class CtaoObservations(Pointings):
    """Pointings of CTAO, with an embedded response."""

    kind: Literal["ctao"]
    site: str = "South"
    zenith: number_in("deg") = 20.0  # pyright: ignore[reportInvalidTypeForm]
    hours: number_in("h") = 50.0  # pyright: ignore[reportInvalidTypeForm]

    @model_validator(mode="after")
    def _embedded(self):
        if (self.site, self.zenith, self.hours) not in EMBEDDED:
            embedded = " or ".join(f"site: {site}, zenith: {z}, hours: {h}" for site, z, h in EMBEDDED)
            raise ValueError(
                f"no response for site: {self.site}, zenith: {self.zenith:g}, hours: {self.hours:g} is embedded; there "
                f"is {embedded}; for another file write kind: response and path: FILE in the place of these keys"
            )
        return self

    def make(self) -> list[Observation]:
        """The observations, without events."""
        return self._each(io.ctao, site=self.site, zenith=self.zenith, hours=self.hours)


class ResponseObservations(Pointings):
    """Pointings with the response of a file."""

    kind: Literal["response"]
    path: str

    def make(self) -> list[Observation]:
        """The observations, without events; raises `ValueError` and `FileNotFoundError` for the file."""
        return self._each(partial(io.observation, self.path))


class GadfObservations(Strict):
    """Runs of a GADF data store."""

    kind: Literal["gadf"]
    path: str | Annotated[dict[str, str], Field(min_length=1)]
    obs_ids: Annotated[list[Whole], Field(min_length=1)] | None = None
    event_types: Texts | None = None
    frame: Frame = "icrs"
    energy_range: Energies | None = None
    offset_max: Radius = 2.0
    exclusion: Texts | None = None

    @model_validator(mode="after")
    def _once(self):
        for number in self.obs_ids or ():
            if (self.obs_ids or []).count(number) > 1:
                raise ValueError(f"obs_ids holds run {number} twice; give each run once")
        if self.energy_range and self.energy_range[1] > HIGHEST:
            low, high = self.energy_range
            raise ValueError(
                f"energy_range: no telescope sees [{low:g}, {high:g}] TeV; are these GeV? then write [{low:g} GeV, "
                f"{high:g} GeV]"
            )
        return self


class Simulation(Strict):
    """Events to simulate at the true parameters: a number, or true for the number that the fluxes predict."""

    simulate: Events


class Compression(Strict):
    """Events merged in cells, as [`gammajax.Binning.init`][] makes them."""

    energy_per_decade: Positive | None = None
    pixel: Degrees | None = None


def _read(reader: Callable, **arguments):
    """What `reader` makes of a file: read once, and never while a model is being traced."""
    return _read_once(reader, json.dumps(arguments), jnp.result_type(float))


@lru_cache(maxsize=32)
def _read_once(reader, arguments, precision):
    del precision  # arrays have it
    with jax.ensure_compile_time_eval():
        return reader(**json.loads(arguments))


def _yields(path):
    return None if path is None else _read(io.read_yields, path=path)


# The functions below take arguments that a file can give and a class cannot: tables, and paths of files.
# Arguments with an annotation are as it says, all others a number or the name of a parameter.

Numbers = Mapping[str, Any]
# annotations of arguments that hold several parameters, and their form in a file
SEVERAL: dict[Any, Any] = {Numbers: dict[str, Value], str | Numbers: str | dict[str, Value]}


def tabulated(
    energy: list[Energy],
    flux: list[number_in("TeV-1 cm-2 s-1")],  # pyright: ignore[reportInvalidTypeForm]
    norm=1.0,
) -> spectra.TabulatedSpectrum:
    """Spectrum by its nodes."""
    return spectra.TabulatedSpectrum(energy, flux, norm)


def dark_matter(
    channel: str | Numbers, mass, sigma_v=2.2e-26, j_factor=1e23, yields: str | None = None
) -> darkmatter.DarkMatter:
    """Annihilation; `yields` is a path for [`gammajax.io.read_yields`][]."""
    return darkmatter.DarkMatter(channel, mass, sigma_v, j_factor, _yields(yields))


def dark_matter_decay(
    channel: str | Numbers, mass, decay_rate=1e-27, d_factor=2e23, yields: str | None = None
) -> darkmatter.DarkMatterDecay:
    """Decay; `yields` is a path for [`gammajax.io.read_yields`][]."""
    return darkmatter.DarkMatterDecay(channel, mass, decay_rate, d_factor, _yields(yields))


def particle_model(
    path: str,
    axes: dict[str, str],
    point: Numbers,
    mass: str = "mass",
    channels: dict[str, str] | None = None,
    group: str | None = None,
    unit: Literal["GeV", "TeV"] = "GeV",
    j_factor=1e23,
    yields: str | None = None,
) -> darkmatter.DarkMatter:
    """Annihilation by a table for [`gammajax.io.read_particle_model`][] at a `point` of its axes.

    `mass` is the axis that holds the mass of the annihilating particle.
    """
    table = _read(io.read_particle_model, path=path, axes=axes, channels=channels, group=group, unit=unit)
    if mass not in point:
        raise ValueError(f"the point of a particle model has no axis {mass!r}; it has {list(point)}")
    return darkmatter.DarkMatter(table.ratios(**point), point[mass], table.sigma_v(**point), j_factor, _yields(yields))


def template(
    path: str,
    frame: Frame = "icrs",
    lon: Longitude | None = None,
    lat: Latitude | None = None,
    radius: Degrees | None = None,
    step: Degrees | None = None,
) -> TemplateMap:
    """Map from a file for [`gammajax.io.read_template`][]."""
    return _read(io.read_template, path=path, frame=frame, lon=lon, lat=lat, radius=radius, step=step)


def absorption(path: str, redshift, alpha_norm=1.0) -> Absorption:
    """Absorption by a table for [`gammajax.io.read_absorption`][]."""
    table = _read(io.read_absorption, path=path, redshift=0.0)
    return Absorption(table.energy, table.redshift_grid, table.optical_depth, redshift, alpha_norm)


# values of `type:`; the keys of each section are the arguments of the class or function
SPECTRA: dict[str, Callable] = {
    "power-law": spectra.PowerLaw,
    "log-parabola": spectra.LogParabola,
    "exp-cutoff": spectra.ExponentialCutoffPowerLaw,
    "broken-power-law": spectra.BrokenPowerLaw,
    "smooth-broken-power-law": spectra.SmoothBrokenPowerLaw,
    "super-exp-cutoff-4fgl": spectra.SuperExponentialCutoffPowerLaw4FGL,
    "gaussian-line": lines.GaussianLine,
    "line": lines.Line,
    "tabulated": tabulated,
    "dark-matter": dark_matter,
    "dark-matter-decay": dark_matter_decay,
    "particle-model": particle_model,
}
MORPHOLOGIES: dict[str, Callable] = {
    "point": morphology.Point,
    "gaussian": morphology.Gaussian,
    "generalized-gaussian": morphology.GeneralizedGaussian,
    "disk": shapes.Disk,
    "ring": shapes.Ring,
    "shell": shapes.Shell,
    "constant": shapes.Constant,
    "template": template,
    "einasto": darkmatter.Einasto,
    "nfw": darkmatter.NFW,
    "generalized-nfw": darkmatter.GeneralizedNFW,
    "cored-nfw": darkmatter.CoredNFW,
    "burkert": darkmatter.Burkert,
    "moore": darkmatter.Moore,
    "isothermal": darkmatter.Isothermal,
    "zhao": darkmatter.Zhao,
}


RESPONSE_UNITS = {"pointing_lon": "deg", "pointing_lat": "deg", "reference": "TeV"}
ANGLES = {"lon": LongitudeValue, "lat": LatitudeValue}


class Part(Strict):
    """Section that stands for an object of the model."""

    type: str
    words: ClassVar[frozenset[str]] = frozenset()  # keys with text that is not the name of a parameter
    fixed: ClassVar[frozenset[str]] = frozenset()  # keys with no names of parameters at all
    units: ClassVar[dict[str, str]] = {}  # of the keys that have one

    def arguments(self, parameters: dict) -> dict[str, Any]:
        """Arguments of the object, with names of parameters replaced by their values."""
        return self._with(parameters.__getitem__, type(self).model_fields)

    def references(self) -> list[tuple[str, str]]:
        """Key and name of each parameter used."""
        found: list[tuple[str, str]] = []
        for key in type(self).model_fields:
            names: list[str] = []
            self._with(names.append, (key,))
            found += [(key, name) for name in names]
        return found

    def named_units(self) -> list[tuple[str, str, str]]:
        """Key, name and unit of each parameter that stands for a number with a unit."""
        named = ((key, getattr(self, key), unit) for key, unit in self.units.items() if key not in self.words)
        return [(key, name, unit) for key, name, unit in named if isinstance(name, str)]

    def _with(self, put: Callable[[str], Any], keys: Iterable[str]) -> dict[str, Any]:
        """Arguments of these keys, with `put` applied to the names of parameters."""

        def filled(name, value):
            if isinstance(value, dict) and name not in self.fixed:
                return {key: put(one) if isinstance(one, str) else one for key, one in value.items()}
            return put(value) if isinstance(value, str) and name not in self.words else value

        return {name: filled(name, getattr(self, name)) for name in keys if name != "type"}


def _part(tag: str, kind: Callable, default: Any = ..., *, units: Mapping[str, str]) -> type[Part]:
    """Section with the arguments of a class or function as keys, and `type`; `units` by name of the argument."""
    fields: dict[str, Any] = {"type": (Literal[tag], default)}  # pyright: ignore[reportInvalidTypeForm]
    words, fixed = set(), set()
    for name, argument in inspect.signature(kind).parameters.items():
        value = ... if argument.default is inspect.Parameter.empty else argument.default
        if inspect.isfunction(kind) and argument.annotation is not inspect.Parameter.empty:
            fields[name] = (SEVERAL.get(argument.annotation, argument.annotation), value)
            words.add(name)
            if argument.annotation not in SEVERAL:
                fixed.add(name)
        elif isinstance(value, bool):
            fields[name] = (Switch, value)
        else:
            wanted: Any = ANGLES.get(name) or value_in(units.get(name, ""))
            fields[name] = (wanted | None if value is None else wanted, value)
    part = create_model(tag, __base__=Part, **fields)
    part.words, part.fixed = frozenset(words), frozenset(fixed)
    part.units = {name: units[name] for name in fields if name in units}
    return part


def _one_of(kinds: dict[str, Callable], units: Mapping[str, str]) -> Any:
    parts = tuple(
        _part(tag, kind, units=LINE_UNITS if "line" in tag.split("-") else units) for tag, kind in kinds.items()
    )
    return Annotated[Union[parts], Field(discriminator="type")]  # noqa: UP007


AbsorptionPart = _part("absorption", absorption, "absorption", units={})


def _filled(row: list, parameters: dict) -> jax.Array:
    """Numbers, with the values of the parameters that are named among them."""
    return jnp.stack([jnp.asarray(parameters[one] if isinstance(one, str) else one, float) for one in row])


def _named(key: str, row: list) -> list[tuple[str, str]]:
    """Key and name of each parameter among numbers."""
    return [(f"{key}.{i}", one) for i, one in enumerate(row) if isinstance(one, str)]


class ByEnergy(Strict):
    """Sizes and positions of a shape at some true energies: numbers, or names of parameters."""

    energy: list[Energy]
    size: list[Value]  # pyright: ignore[reportInvalidTypeForm]
    shift_lon: list[value_in("deg")] | None = None  # pyright: ignore[reportInvalidTypeForm]
    shift_lat: list[value_in("deg")] | None = None  # pyright: ignore[reportInvalidTypeForm]

    @property
    def columns(self) -> dict[str, list]:
        """The columns that are given, by name."""
        given = {name: getattr(self, name) for name in ("size", "shift_lon", "shift_lat")}
        return {name: column for name, column in given.items() if column is not None}

    @model_validator(mode="after")
    def _fits(self):
        if len(self.energy) < 2 or any(b <= a for a, b in pairwise(self.energy)):
            raise ValueError(f"energy: at least two that increase, as in [0.1, 100.0], not {self.energy}")
        for name, column in self.columns.items():
            if len(column) != len(self.energy):
                raise ValueError(f"{name}: one number for each of the {len(self.energy)} energies, not {len(column)}")
        return self

    def build(self, shape, parameters: dict) -> EnergyDependent:
        """The shape with these sizes, at these parameters."""
        columns = {name: _filled(column, parameters) for name, column in self.columns.items()}
        return EnergyDependent(shape, self.energy, **columns)

    def references(self) -> list[tuple[str, str]]:
        """Key and name of each parameter used."""
        return [reference for key, column in self.columns.items() for reference in _named(key, column)]

    def named_units(self) -> list[tuple[str, str, str]]:
        """Key, name and unit of each parameter that stands for a number with a unit."""
        return [(key, name, "deg") for key, name in self.references() if key.startswith("shift")]


class Source(Strict):
    """Source of photons."""

    type: Literal["source"]
    spectrum: _one_of(SPECTRA, SPECTRUM_UNITS)  # pyright: ignore[reportInvalidTypeForm]
    morphology: _one_of(MORPHOLOGIES, MORPHOLOGY_UNITS)  # pyright: ignore[reportInvalidTypeForm]
    by_energy: ByEnergy | None = None
    absorption: AbsorptionPart | None = None  # pyright: ignore[reportInvalidTypeForm]

    def build(self, parameters: dict) -> mixture.Source:
        """The component at these parameters."""
        spectrum = SPECTRA[self.spectrum.type](**self.spectrum.arguments(parameters))
        if self.absorption is not None:
            spectrum = spectrum * absorption(**self.absorption.arguments(parameters))
        shape = MORPHOLOGIES[self.morphology.type](**self.morphology.arguments(parameters))
        return mixture.Source(spectrum, shape if self.by_energy is None else self.by_energy.build(shape, parameters))

    def references(self) -> list[tuple[str, str]]:
        """Key and name of each parameter used."""
        parts = {
            "spectrum": self.spectrum,
            "morphology": self.morphology,
            "by_energy": self.by_energy,
            "absorption": self.absorption,
        }
        return [
            (f"{of}.{key}", name) for of, part in parts.items() if part is not None for key, name in part.references()
        ]

    def named_units(self) -> list[tuple[str, str, str]]:
        """Key, name and unit of each parameter that stands for a number with a unit."""
        by_energy = [] if self.by_energy is None else self.by_energy.named_units()
        return self.spectrum.named_units() + self.morphology.named_units() + by_energy


class CorrectionPart(Strict):
    """Smooth correction of the background: its numbers, or the parameter that holds them all, and what they are of."""

    numbers: Numbered
    energy_nodes: list[Energy] = Field(default_factory=list)
    offset_nodes: list[number_in("deg")] = Field(default_factory=list)  # pyright: ignore[reportInvalidTypeForm]
    degree: Whole = 0

    @property
    def of(self) -> tuple[list[float], list[float], int]:
        """What the numbers are of."""
        return self.energy_nodes, self.offset_nodes, self.degree

    @model_validator(mode="after")
    def _fits(self):
        correction_prior(*self.of)  # refuses nodes and degrees
        size = len(self.energy_nodes) + len(self.offset_nodes) + 2 * self.degree
        if not isinstance(self.numbers, str) and len(self.numbers) != size:
            raise ValueError(f"numbers: a correction of these nodes and degree has {size}, not {len(self.numbers)}")
        return self

    def build(self, parameters: dict) -> BackgroundCorrection:
        """The correction at these parameters."""
        if isinstance(self.numbers, str):
            return BackgroundCorrection.of(parameters[self.numbers], *self.of)
        return BackgroundCorrection.of(_filled(self.numbers, parameters), *self.of)

    def references(self) -> list[tuple[str, str]]:
        """Key and name of each parameter used."""
        if isinstance(self.numbers, str):
            return [("numbers", self.numbers)]
        return _named("numbers", self.numbers)


class Background(_part("background", mixture.InstrumentBackground, units=SPECTRUM_UNITS)):
    """The instrument's own background."""

    correction: CorrectionPart | None = None

    def build(self, parameters: dict) -> mixture.InstrumentBackground:
        """The component at these parameters."""
        arguments = self.arguments(parameters)
        if self.correction is not None:
            arguments["correction"] = self.correction.build(parameters)
        return mixture.InstrumentBackground(**arguments)

    def references(self) -> list[tuple[str, str]]:
        """Key and name of each parameter used."""
        own = [] if self.correction is None else self.correction.references()
        return super().references() + [(f"correction.{key}", name) for key, name in own]


class ResponsePart(_part("response", ResponseChange, "response", units=RESPONSE_UNITS)):
    """How the response to the photons of sources differs from the files; numbers or names of parameters."""

    spline_energies: list[Positive] = Field(default_factory=list)


# keys that are proportional to the flux, and the least factor that is no logarithm
SCALES, LEAST_FACTOR = ("amplitude", "norm", "sigma_v", "j_factor", "decay_rate", "d_factor"), 1e6


class Tree(Strict):
    """Components by name, their weights when they are fractions of the events, and a change of the response.

    Weights are by name of the component, or the name of a parameter that holds them all.
    """

    components: dict[str, Annotated["Source | Background | Inner", Field(discriminator="type")]] = Field(min_length=1)
    weights: Fractions | None = None
    response: ResponsePart | None = None  # pyright: ignore[reportInvalidTypeForm]

    @model_validator(mode="after")
    def _names(self):
        for name in self.components:
            if "/" in name or name in ("weights", "response"):
                raise ValueError(f"components: no component can be called {name!r}; choose another, without '/'")
        for name in self.weights if isinstance(self.weights, dict) else ():
            if name not in self.components:
                raise ValueError("weights name an " + unknown("component", name, self.components))
        return self

    def build(self, parameters: dict) -> mixture.Mixture:
        """The mixture at these parameters."""
        weights = self.weights
        if isinstance(weights, str):
            weights = parameters[weights]
        elif weights is not None:
            weights = {k: parameters[v] if isinstance(v, str) else v for k, v in weights.items()}
        response = None if self.response is None else ResponseChange(**self.response.arguments(parameters))
        components = {name: component.build(parameters) for name, component in self.components.items()}
        return mixture.Mixture(weights=weights, response=response, **components)

    def trees(self, where: str = "model.") -> list[tuple[str, "Tree"]]:
        """This mixture and the mixtures in it, with their keys."""
        inner = {name: component for name, component in self.components.items() if isinstance(component, Tree)}
        return [(where, self)] + [
            found for name, tree in inner.items() for found in tree.trees(f"{where}components.{name}.")
        ]

    def leaves(self) -> dict[str, Any]:
        """Sources and backgrounds by path."""
        found = {}
        for name, component in self.components.items():
            inner = component.leaves() if isinstance(component, Tree) else {}
            found |= {f"{name}/{path}": leaf for path, leaf in inner.items()} or {name: component}
        return found

    def references(self) -> list[tuple[str, str]]:
        """Key and name of each parameter used."""
        components = self.components.items()
        used = [(f"components.{of}.{key}", name) for of, part in components for key, name in part.references()]
        if self.response is not None:
            used += [(f"response.{key}", name) for key, name in self.response.references()]
        weights = {"weights": self.weights} if isinstance(self.weights, str) else self.weights or {}
        return used + [(f"weights.{of}", name) for of, name in weights.items() if isinstance(name, str)]


class Inner(Tree):
    """Mixture within the mixture."""

    type: Literal["mixture"]


class Model(Tree):
    """The whole model."""

    def function(self) -> Callable[[dict], mixture.Mixture]:
        """The model as a plain function of a dict of parameters; it raises `ValueError` where one is missing."""
        needed = tuple(dict.fromkeys(name for _, name in self.references()))

        def model(parameters):  # a method of this class has no hash, which jit needs
            for name in needed:
                if name not in parameters:
                    raise ValueError(mixture.missing(name, parameters, "value"))
            return self.build(parameters)

        return model


# arguments of each prior, in the order of the distribution's own
PRIORS: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "uniform": (dist.Uniform, ("low", "high")),
    "log-uniform": (dist.LogUniform, ("low", "high")),
    "normal": (dist.Normal, ("mean", "sd")),
    "log-normal": (dist.LogNormal, ("mean", "sd")),
    "half-normal": (dist.HalfNormal, ("sd",)),
    "beta": (dist.Beta, ("a", "b")),
    "dirichlet": (lambda concentration: dist.Dirichlet(jnp.asarray(concentration, float)), ("concentration",)),
    "correction": (correction_prior, ()),
}
# arguments of `correction_prior` that a file may give
CORRECTION = ("energy_nodes", "offset_nodes", "degree", "energy_scale", "offset_scale", "gradient")


class Parameter(Strict):
    """Prior of one parameter, its true value when it is known, and its unit."""

    prior: Literal["uniform", "log-uniform", "normal", "log-normal", "half-normal", "beta", "dirichlet", "correction"]
    low: Number | None = None
    high: Number | None = None
    mean: Number | None = None
    sd: Positive | None = None
    a: Positive | None = None
    b: Positive | None = None
    concentration: list[Positive] | None = Field(None, min_length=2)
    energy_nodes: list[Energy] | None = None
    offset_nodes: list[number_in("deg")] | None = None  # pyright: ignore[reportInvalidTypeForm]
    degree: Whole | None = None
    energy_scale: Positive | None = None
    offset_scale: Positive | None = None
    gradient: Positive | None = None
    truth: Truth | None = None
    unit: str | None = None

    @model_validator(mode="after")
    def _arguments(self):
        names = PRIORS[self.prior][1]
        given = f"a {self.prior} prior is given by {' and '.join(names or CORRECTION)}"
        for name in ("low", "high", "mean", "sd", "a", "b", "concentration"):
            value = getattr(self, name)
            if (value is None) == (name in names):
                raise ValueError(f"{given}; {name} is missing" if value is None else f"{given}, not by {name}: {value}")
        for name in CORRECTION:
            if self.prior != "correction" and getattr(self, name) is not None:
                raise ValueError(f"{given}, not by {name}")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.prior == "log-uniform" and not (self.low or 0.0) > 0:
            raise ValueError(f"a log-uniform prior needs low > 0, not {self.low:g}")
        if self.degree is not None:
            check_degree(self.degree)
        numbers = self.numbers
        if self.truth is not None and (len(self.truth) if isinstance(self.truth, list) else None) != numbers:
            wanted = f"a list of {numbers} numbers" if numbers else "a number"
            raise ValueError(f"the truth of a {self.prior} prior is {wanted}, not {self.truth}")
        if self.truth is not None:
            self._check_truth()
        try:
            self.distribution()
        except ValueError as error:
            raise ValueError(f"a {self.prior} prior cannot be made of these numbers ({error})") from error
        return self

    def _check_truth(self):
        """Raise `ValueError` for a truth where the prior has no density; ends count as inside."""
        low, high = {
            "uniform": (self.low, self.high),
            "log-uniform": (self.low, self.high),
            "half-normal": (0.0, math.inf),
            "log-normal": (0.0, math.inf),
        }.get(self.prior, (-math.inf, math.inf) if self.prior in ("normal", "correction") else (0.0, 1.0))
        values: list = self.truth if isinstance(self.truth, list) else [self.truth]
        inside = all(low <= value <= high for value in values) and not (self.prior == "log-normal" and 0.0 in values)
        if not inside:
            support = f"from {low:g} to {high:g}" if math.isfinite(high) else "above zero"
            raise ValueError(f"truth = {self.truth} is outside the {self.prior} prior, which goes {support}")
        if self.prior == "dirichlet" and not abs(math.fsum(values) - 1.0) < 1e-5:
            raise ValueError(f"truth = {self.truth} adds up to {math.fsum(values):g}; fractions add up to one")

    def distribution(self) -> dist.Distribution:
        """The prior as a numpyro distribution."""
        kind, names = PRIORS[self.prior]
        if self.prior == "correction":
            return kind(**{name: getattr(self, name) for name in CORRECTION if getattr(self, name) is not None})
        return kind(*(getattr(self, name) for name in names))

    @property
    def numbers(self) -> int | None:
        """Number of elements of a vector, None for a number."""
        if self.prior == "correction":
            return len(self.energy_nodes or ()) + len(self.offset_nodes or ()) + 2 * (self.degree or 0)
        return len(self.concentration) if self.concentration else None


def _default(sampler: Callable, name: str) -> Any:
    """Default value of an option, as the sampler declares it."""
    return inspect.signature(sampler).parameters[name].default


class Nuts(Strict):
    """Hamiltonian Monte Carlo: for posteriors with one peak."""

    method: Literal["nuts"]
    draws: Count = _default(samplers.nuts, "draws")
    warmup: Count = 300
    chains: Count = _default(samplers.nuts, "chains")
    start: Literal["laplace", "pathfinder"] = _default(samplers.nuts, "start")


class Smc(Strict):
    """Tempered particles: evidence, several peaks."""

    method: Literal["smc"]
    particles: Count = _default(samplers.smc, "particles")
    kernel: Literal["independent", "hmc", "nuts"] = _default(samplers.smc, "kernel")
    moves: Count | None = _default(samplers.smc, "moves")


class Nested(Strict):
    """Nested slice sampling: evidence, several peaks."""

    method: Literal["nested"]
    live: Count = _default(samplers.nested, "live")
    slices: Count | None = _default(samplers.nested, "slices")
    precision: Positive = _default(samplers.nested, "precision")


class Svi(Strict):
    """A fitted distribution, corrected by importance weights."""

    method: Literal["svi"]
    guide: Literal["flow", "gaussian"] = _default(samplers.svi, "guide")
    steps: Count = _default(samplers.svi, "steps")
    draws: Whole = Field(_default(samplers.svi, "draws"), ge=LEAST)


class Laplace(Strict):
    """The Gaussian about the maximum, corrected by importance weights."""

    method: Literal["laplace"]
    draws: Whole = Field(_default(samplers.laplace, "draws"), ge=LEAST)


Sampler = Annotated[Nuts | Smc | Nested | Svi | Laplace, Field(discriminator="method")]


def _is_halo_without_place(section: Part | None) -> bool:
    if section is None or {"lon", "lat"} <= section.model_fields_set:
        return False
    kind = MORPHOLOGIES[section.type]
    return isinstance(kind, type) and issubclass(kind, darkmatter.Halo)


class Config(Strict):
    """A whole run."""

    observations: Annotated[CtaoObservations | ResponseObservations | GadfObservations, Field(discriminator="kind")]
    events: Simulation | None = None
    compress: Compression | None = None
    model: Model
    parameters: dict[str, Parameter] = Field(min_length=1)
    sampler: Sampler = Nuts(method="nuts")
    products: dict[str, Output] = {}
    precision: Literal[32, 64] = 64
    seed: Whole = 0

    @field_validator("sampler", mode="before")
    @classmethod
    def _nuts_by_default(cls, sampler):
        return {"method": "nuts", **sampler} if isinstance(sampler, dict) else sampler

    @model_validator(mode="after")
    def _consistent(self):
        self._check_names()
        self._check_corrections()
        self._check_scales()
        self._check_sampler()
        self._check_frames()
        self._check_units()
        self._check_products()
        if self.observations.kind == "gadf":
            if self.events:
                raise ValueError("the events come from the data store; leave out the section events")
        else:
            self._check_simulation()
        seed(self.seed, self.precision)
        return self

    def _check_names(self):
        used = self.model.references()
        for name in self.parameters:
            check_names([name])
            if not is_name(name):
                raise ValueError(f"parameters: {name!r} reads as a number or an angle; begin the name with a letter")
        for key, name in used:
            if name not in self.parameters:
                raise ValueError(f"model.{key}: the model uses an {unknown('parameter', name, self.parameters)}")
            prior, several = self.parameters[name].prior, self.parameters[name].numbers
            vectors = {"weights": "dirichlet", "numbers": "correction"}
            kind = vectors.get(key.split(".")[-1])
            if prior != kind and (kind or several):
                wanted = {"dirichlet": "fractions, of a dirichlet prior", "correction": "numbers of a correction prior"}
                wanted = wanted[kind] if kind else f"one number, not {several}"
                raise ValueError(f"model.{key}: parameter {name!r} must stand for {wanted}")
        for name in self.parameters:
            if name not in {name for _, name in used}:
                raise ValueError(f"parameters.{name}: parameter {name!r} is not used in the model")

    def _check_corrections(self):
        """Refuse corrections of other nodes and degree than their priors."""
        for path, component in self.model.leaves().items():
            correction = getattr(component, "correction", None)
            if correction is None or not isinstance(correction.numbers, str):
                continue
            prior = self.parameters[correction.numbers]
            if (prior.energy_nodes or [], prior.offset_nodes or [], prior.degree or 0) != correction.of:
                where = f"model.components.{path.replace('/', '.components.')}.correction"
                raise ValueError(
                    f"{where}: energy_nodes, offset_nodes and degree must be those of the prior of "
                    f"{correction.numbers!r}"
                )

    def _check_scales(self):
        """Refuse fluxes that cannot be."""
        for path, component in self.model.leaves().items():
            where = f"model.components.{path.replace('/', '.components.')}"
            part: Any = getattr(component, "spectrum", component)
            for key in (*SCALES, "reference"):
                value = getattr(part, key, None)
                if isinstance(value, (int, float)) and (value < 0 or (key == "reference" and value == 0)):
                    raise ValueError(f"{where}: {key} is {value:g}; it must be positive")
                if key in ("j_factor", "d_factor") and isinstance(value, (int, float)) and 0 < value < LEAST_FACTOR:
                    raise ValueError(
                        f"{where}: {key} is {value:g}; is this its logarithm? write 1e{value:g} as a number"
                    )

    def without_effect(self) -> list[str]:
        """Sentences about free fluxes that weights cancel."""
        used = [name for _, name in self.model.references()]
        return [
            f"{where}components.{name}.{key}: the weights fix the counts of {name!r}, so that parameter {parameter!r} "
            "has no effect; give a number, or leave out the weights"
            for where, tree in self.model.trees()
            if tree.weights is not None
            for name, component in tree.components.items()
            if not isinstance(component, Tree)
            for key, parameter in component.references()
            if key.split(".")[-1] in SCALES and used.count(parameter) == 1
        ]

    def _check_sampler(self):
        """Refuse settings that a sampler would refuse after a long set-up."""
        if isinstance(self.sampler, Nested):
            size = sum(cube_size(p.distribution()) for p in self.parameters.values())
            if self.sampler.live < 2 * (size + 1):
                raise ValueError(
                    f"sampler.live: {self.sampler.live} is below {2 * (size + 1)}, twice the dimensions plus two"
                )
            if not self.sampler.precision < 1.0:
                raise ValueError(
                    f"sampler.precision: {self.sampler.precision:g} must be below 1, the precision of the evidence; "
                    "the precision of numbers is a key of the whole configuration"
                )

    def _check_frames(self):
        """Refuse templates of another frame, hours in the galactic one, and halos at a centre of another frame."""
        frame = self.observations.frame
        pointings: Any = getattr(self.observations, "pointings", ())
        longitudes = {f"observations.pointings.{i}": lon for i, (lon, _) in enumerate(pointings)}
        for path, component in self.model.leaves().items():
            shape: Any = getattr(component, "morphology", None)
            where = f"model.components.{path.replace('/', '.components.')}.morphology"
            longitudes[where + ".lon"] = getattr(shape, "lon", None)
            if getattr(shape, "frame", frame) != frame:
                raise ValueError(
                    f"the template of component {path!r} is to be read in frame {frame}, that of the observations, not "
                    f"{shape.frame}"
                )
            if frame == "icrs" and _is_halo_without_place(shape):
                raise ValueError(
                    f"{where}: lon, lat are (0, 0) by default, which is the Galactic centre in frame galactic only, "
                    "not in icrs; give both, or set observations.frame: galactic"
                )
        for where, lon in longitudes.items():
            if isinstance(lon, RightAscension) and frame != "icrs":
                raise ValueError(
                    f"{where}: a right ascension in hours, but observations.frame is {frame}; write a galactic "
                    "longitude in degrees, as 184.5575 or 184d33m27s"
                )

    def _check_units(self):
        """Refuse labels of parameters in another unit than the model reads them in."""
        for path, component in self.model.leaves().items():
            for key, name, unit in component.named_units():
                label = self.parameters[name].unit
                if label is not None and not same_unit(label, unit):
                    raise ValueError(
                        f"parameters.{name}.unit: the model reads {name} in {unit} ({key} of component {path!r}), not "
                        f"in {label}; give the prior in {unit}"
                    )

    def _check_products(self):
        """Refuse products of components that are no sources of absolute flux, and names that are no files."""
        leaves = self.model.leaves()
        for name, product in self.products.items():
            where = f"products.{name}"
            if not re.fullmatch(r"[A-Za-z][\w-]*", name) or name in OUTPUTS:
                raise ValueError(
                    f"{where}: {name!r} is to be the name of files; use letters, digits, - and _, and none of "
                    f"{', '.join(OUTPUTS)}"
                )
            if isinstance(product, LimitsOutput):
                for key, parameter in (("scale", product.scale), ("mass", product.mass)):
                    if parameter not in self.parameters:
                        raise ValueError(f"{where}.{key}: {unknown('parameter', parameter, self.parameters)}")
            component = getattr(product, "component", None)
            if component is not None and component not in leaves:
                raise ValueError(f"{where}.component: {unknown('component', component, leaves)}")
            if component is not None and not isinstance(leaves[component], Source):
                raise ValueError(f"{where}.component: {component!r} is a background; {product.type} are of a source")
            if product.type in ABSOLUTE and self.model.weights is not None:
                raise ValueError(f"{where}: {product.type} need absolute fluxes: a model without weights")

    def _check_simulation(self):
        if not (self.events and self.events.simulate):
            kind = self.observations.kind
            raise ValueError(f"observations of kind {kind} need events to simulate, as in events: {{simulate: 10000}}")
        lacking = [name for name, parameter in self.parameters.items() if parameter.truth is None]
        if lacking:
            raise ValueError(f"parameters.{lacking[0]}: to simulate events, parameter {lacking[0]!r} needs a truth")
        number = self.events.simulate
        if number is True and self.model.weights is not None:
            raise ValueError("events.simulate: true is for a model without weights; give the number of events")
        if number is not True and self.model.weights is None:
            raise ValueError(
                f"events.simulate: {number} events need model.weights to share them; for absolute fluxes write true"
            )

    def with_seed(self, value: int) -> "Config":
        """The same run with another seed; raises `ValueError` for one that `jax.random.key` does not take."""
        return self.model_copy(update={"seed": seed(value, self.precision)})

    @property
    def truths(self) -> dict[str, float | list[float]]:
        """True values of the parameters that have one."""
        return {name: p.truth for name, p in self.parameters.items() if p.truth is not None}

    @property
    def units(self) -> dict[str, str]:
        """Units of the parameters that have one."""
        return {name: p.unit for name, p in self.parameters.items() if p.unit is not None}
