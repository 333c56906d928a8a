"""Model of a configuration: sources, backgrounds and mixtures, and the function of parameters that they define."""

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, create_model, model_validator

from gammajax import io
from gammajax.cli.settings import (
    LINE_UNITS,
    MORPHOLOGY_UNITS,
    SPECTRUM_UNITS,
    Degrees,
    Energy,
    Fractions,
    Frame,
    Latitude,
    LatitudeValue,
    Longitude,
    LongitudeValue,
    Numbered,
    Positive,
    Strict,
    Switch,
    Value,
    Whole,
    by_run_in,
    number_in,
    unknown,
    value_in,
)
from gammajax.model import darkmatter, lines, mixture, morphology, shapes, spectra
from gammajax.model.absorption import Absorption
from gammajax.model.background_correction import BackgroundCorrection, correction_prior
from gammajax.model.energy_dependent import EnergyDependent
from gammajax.model.off_background import OffBackground
from gammajax.model.response_change import ResponseChange
from gammajax.model.templates import TemplateMap


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


class Reference(NamedTuple):
    """Key at which the model uses a parameter, its name, and what it must stand for there."""

    key: str
    name: str
    kind: Literal["number", "by run", "vector", "correction", "fractions"] = "number"

    def within(self, place: str) -> "Reference":
        """The same in a section of this name."""
        return self._replace(key=f"{place}.{self.key}")


class Part(Strict):
    """Section that stands for an object of the model."""

    type: str
    by_run: ClassVar[frozenset[str]] = frozenset()  # keys that take one number for each run, as a list
    vectors: ClassVar[frozenset[str]] = frozenset()  # keys that take a list
    words: ClassVar[frozenset[str]] = frozenset()  # keys with text that is not the name of a parameter
    fixed: ClassVar[frozenset[str]] = frozenset()  # keys with no names of parameters at all
    units: ClassVar[dict[str, str]] = {}  # of the keys that have one

    def arguments(self, parameters: dict) -> dict[str, Any]:
        """Arguments of the object, with names of parameters replaced by their values."""
        given = self._with(parameters.__getitem__, type(self).model_fields)
        lists = (name for name in self.by_run | self.vectors if isinstance(given.get(name), list))
        return given | {name: _filled(getattr(self, name), parameters) for name in lists}

    def references(self) -> list[Reference]:
        """Parameters used."""
        found: list[Reference] = []
        for key in type(self).model_fields:
            value = getattr(self, key)
            if isinstance(value, list) and key in self.by_run | self.vectors:
                found += _named(key, value)
                continue
            names: list[str] = []
            self._with(names.append, (key,))
            kind = "by run" if key in self.by_run else "vector" if key in self.vectors else "number"
            found += [Reference(key, name, kind) for name in names]
        return found

    def named_units(self) -> list[tuple[str, str, str]]:
        """Key, name and unit of each parameter that stands for a number with a unit."""
        named = [(key, getattr(self, key), unit) for key, unit in self.units.items() if key not in self.words]
        rows = ((key, value if isinstance(value, list) else [value], unit) for key, value, unit in named)
        return [(key, name, unit) for key, row, unit in rows for name in row if isinstance(name, str)]

    def _with(self, put: Callable[[str], Any], keys: Iterable[str]) -> dict[str, Any]:
        """Arguments of these keys, with `put` applied to the names of parameters."""

        def filled(name, value):
            if isinstance(value, dict) and name not in self.fixed:
                return {key: put(one) if isinstance(one, str) else one for key, one in value.items()}
            return put(value) if isinstance(value, str) and name not in self.words else value

        return {name: filled(name, getattr(self, name)) for name in keys if name != "type"}


def _part(
    tag: str,
    kind: Callable,
    default: Any = ...,
    *,
    units: Mapping[str, str],
    by_run: Iterable[str] = (),
    vectors: Iterable[str] = (),
) -> type[Part]:
    """Section with the arguments of a class or function as keys, and `type`; `units` by name of the argument.

    `by_run`, `vectors`: arguments with one number for each run, and with several.
    """
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
            unit = units.get(name, "")
            wanted: Any = ANGLES.get(name) or (by_run_in if name in by_run else value_in)(unit)
            wanted = Numbered if name in vectors else wanted
            fields[name] = (wanted | None if value is None else wanted, value)
    part = create_model(tag, __base__=Part, **fields)
    part.words, part.fixed = frozenset(words), frozenset(fixed)
    part.by_run, part.vectors = frozenset(by_run), frozenset(vectors)
    part.units = {name: units[name] for name in fields if name in units}
    return part


def _one_of(kinds: dict[str, Callable], units: Mapping[str, str]) -> Any:
    parts = tuple(
        _part(tag, kind, units=LINE_UNITS if "line" in tag.split("-") else units) for tag, kind in kinds.items()
    )
    return Annotated[Union[parts], Field(discriminator="type")]  # noqa: UP007


AbsorptionPart = _part("absorption", absorption, "absorption", units={})


def _filled(row: list, parameters: dict) -> Any:
    """Numbers, with the values of the parameters that are named among them."""
    if not any(isinstance(one, str) for one in row):
        return np.asarray(row, float)  # known while a model is being traced
    return jnp.stack([jnp.asarray(parameters[one] if isinstance(one, str) else one, float) for one in row])


def _named(key: str, row: list) -> list[Reference]:
    """Parameters among numbers."""
    return [Reference(f"{key}.{i}", one) for i, one in enumerate(row) if isinstance(one, str)]


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

    def references(self) -> list[Reference]:
        """Parameters used."""
        return [reference for key, column in self.columns.items() for reference in _named(key, column)]

    def named_units(self) -> list[tuple[str, str, str]]:
        """Key, name and unit of each parameter that stands for a number with a unit."""
        return [(key, name, "deg") for key, name, _ in self.references() if key.startswith("shift")]


RESPONSE_BY_RUN = frozenset(field.name for field in dataclasses.fields(ResponseChange)) - {
    "effective_area_spline",
    "reference",
    "spline_energies",
}


class ResponsePart(
    _part(
        "response",
        ResponseChange,
        "response",
        units=RESPONSE_UNITS,
        by_run=RESPONSE_BY_RUN,
        vectors=("effective_area_spline",),
    )
):
    """How the response to the photons of sources differs from the files; numbers or names of parameters."""

    spline_energies: list[Positive] = Field(default_factory=list)


class Source(Strict):
    """Source of photons, with a change of the response to them, and the energy scale of who reports them."""

    type: Literal["source"]
    spectrum: _one_of(SPECTRA, SPECTRUM_UNITS)  # pyright: ignore[reportInvalidTypeForm]
    morphology: _one_of(MORPHOLOGIES, MORPHOLOGY_UNITS)  # pyright: ignore[reportInvalidTypeForm]
    by_energy: ByEnergy | None = None
    absorption: AbsorptionPart | None = None  # pyright: ignore[reportInvalidTypeForm]
    z: Value | None = None  # pyright: ignore[reportInvalidTypeForm]
    response: ResponsePart | None = None

    def build(self, parameters: dict) -> mixture.Source:
        """The component at these parameters."""
        spectrum = SPECTRA[self.spectrum.type](**self.spectrum.arguments(parameters))
        if self.absorption is not None:
            spectrum = spectrum * absorption(**self.absorption.arguments(parameters))
        if self.z is not None:
            spectrum = spectra.RescaledSpectrum(spectrum, parameters[self.z] if isinstance(self.z, str) else self.z)
        shape = MORPHOLOGIES[self.morphology.type](**self.morphology.arguments(parameters))
        shape = shape if self.by_energy is None else self.by_energy.build(shape, parameters)
        response = None if self.response is None else ResponseChange(**self.response.arguments(parameters))
        return mixture.Source(spectrum, shape, response)

    def references(self) -> list[Reference]:
        """Parameters used."""
        parts = {
            "spectrum": self.spectrum,
            "morphology": self.morphology,
            "by_energy": self.by_energy,
            "absorption": self.absorption,
            "response": self.response,
        }
        used = [one.within(of) for of, part in parts.items() if part is not None for one in part.references()]
        return used + ([Reference("z", self.z)] if isinstance(self.z, str) else [])

    def named_units(self) -> list[tuple[str, str, str]]:
        """Key, name and unit of each parameter that stands for a number with a unit."""
        more = [part.named_units() for part in (self.by_energy, self.response) if part is not None]
        return self.spectrum.named_units() + self.morphology.named_units() + [one for part in more for one in part]


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

    def references(self) -> list[Reference]:
        """Parameters used."""
        if isinstance(self.numbers, str):
            return [Reference("numbers", self.numbers, "correction")]
        return _named("numbers", self.numbers)


class Background(_part("background", mixture.InstrumentBackground, units=SPECTRUM_UNITS, by_run=("norm", "tilt"))):
    """The instrument's own background; norm and tilt may be one for each run."""

    correction: CorrectionPart | None = None

    def build(self, parameters: dict) -> mixture.InstrumentBackground:
        """The component at these parameters."""
        arguments = self.arguments(parameters)
        if self.correction is not None:
            arguments["correction"] = self.correction.build(parameters)
        return mixture.InstrumentBackground(**arguments)

    def references(self) -> list[Reference]:
        """Parameters used."""
        own = [] if self.correction is None else self.correction.references()
        return super().references() + [one.within("correction") for one in own]


class OffBackgroundPart(
    _part(
        "off-background",
        OffBackground,
        units={"energy_min": "TeV", "energy_max": "TeV"},
        by_run=("norm",),
        vectors=("log_rate",),
    )
):
    """The background of ON and OFF regions; its norm may be one for each run."""

    energy_min: Energy
    energy_max: Energy

    @model_validator(mode="after")
    def _increasing(self):
        if not self.energy_min < self.energy_max:
            raise ValueError(f"energy_max must be above energy_min, {self.energy_min:g} TeV, not {self.energy_max:g}")
        return self

    def build(self, parameters: dict) -> OffBackground:
        """The component at these parameters."""
        return OffBackground(**self.arguments(parameters))


# keys that are proportional to the flux, and the least factor that is no logarithm
SCALES, LEAST_FACTOR = ("amplitude", "norm", "sigma_v", "j_factor", "decay_rate", "d_factor"), 1e6


class Tree(Strict):
    """Components by name, their weights when they are fractions of the events, and a change of the response.

    Weights are by name of the component, or the name of a parameter that holds them all.
    """

    components: dict[str, Annotated["Source | Background | OffBackgroundPart | Inner", Field(discriminator="type")]] = (
        Field(min_length=1)
    )
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

    def nodes(self) -> list[str]:
        """Paths of all components, also of mixtures."""
        found = []
        for name, component in self.components.items():
            inner = component.nodes() if isinstance(component, Tree) else []
            found += [name, *(f"{name}/{path}" for path in inner)]
        return found

    def changed(self, above: ResponsePart | None = None) -> dict[str, list[str]]:
        """Fields of the response that differ from the files, by path of the source; `above`: those of its mixture."""
        found, mine = {}, self.response or above
        for name, component in self.components.items():
            if isinstance(component, Tree):
                found |= {f"{name}/{path}": fields for path, fields in component.changed(mine).items()}
            elif isinstance(component, Source) and (part := component.response or mine) is not None:
                found[name] = sorted(part.model_fields_set)
        return found

    def references(self) -> list[Reference]:
        """Parameters used."""
        components = self.components.items()
        used = [one.within(f"components.{of}") for of, part in components for one in part.references()]
        if self.response is not None:
            used += [one.within("response") for one in self.response.references()]
        if isinstance(self.weights, str):
            return [*used, Reference("weights", self.weights, "fractions")]
        weights = (self.weights or {}).items()
        return used + [Reference(f"weights.{of}", name) for of, name in weights if isinstance(name, str)]


class Inner(Tree):
    """Mixture within the mixture."""

    type: Literal["mixture"]


class Model(Tree):
    """The whole model."""

    def function(self) -> Callable[[dict], mixture.Mixture]:
        """The model as a plain function of a dict of parameters; it raises `ValueError` where one is missing."""
        needed = tuple(dict.fromkeys(one.name for one in self.references()))

        def model(parameters):  # a method of this class has no hash, which jit needs
            for name in needed:
                if name not in parameters:
                    raise ValueError(mixture.missing(name, parameters, "value"))
            return self.build(parameters)

        return model
