"""Conversion of gammapy models to gammajax components, and back."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpyro.distributions as dist

from gammajax.common.display import block, listed, number_of, rows, text, words
from gammajax.common.writing import replacing
from gammajax.io.files import UNREADABLE, expand, one_line, quiet
from gammajax.io.pointing import plain_pair
from gammajax.io.spatial import morphology_from_gammapy, morphology_to_gammapy, to_frame
from gammajax.io.spectral import ENERGY_RANGE, Reader, is_flux, number, spectrum_from_gammapy, spectrum_to_gammapy
from gammajax.model.mixture import Component, InstrumentBackground, Mixture, Source
from gammajax.model.spectra import ProductSpectrum


class GammapyModels:
    """Components from gammapy models, and the model function of their free parameters.

    - `components`: name -> [`gammajax.Source`][] or [`gammajax.InstrumentBackground`][] with gammapy's values.
    - `parameters`: name -> value of the free parameters, in TeV, cm, s and deg. Names are gammapy's
      `parameters_unique_names`, for example "crab.spectral.index"; linked parameters become one parameter.
    - `bounds`: name -> (min, max) of gammapy, infinite if it has none.
    - `priors`: name -> numpyro distribution: gammapy's prior if the parameter has one, else uniform between its
      bounds, else broad about its value, on the allowed side of a single bound. They are a starting point: replace
      them by your own knowledge. A value with a unit that is not positive has no scale: it gets a note instead of a
      prior.
    - `notes`: sentences on tabulated, frozen and omitted models.

    [`gammajax.io.from_gammapy`][] makes it, with `models`, `frame`, `geom` and `energy_range`.
    `model(p)` is a [`gammajax.Mixture`][] of absolute fluxes, differentiable in `p`, for [`gammajax.Posterior`][].

    >>> import gammajax as gj
    >>> from gammapy.modeling.models import PointSpatialModel, PowerLawSpectralModel, SkyModel
    >>> spectrum = PowerLawSpectralModel(index=2.5, amplitude="3e-11 cm-2 s-1 TeV-1")
    >>> crab = SkyModel(spectrum, PointSpatialModel(lon_0="83.63 deg", lat_0="22.01 deg", frame="icrs"), name="crab")
    >>> models = gj.io.from_gammapy(crab)
    >>> float(models.model({"crab.spectral.index": 2.0}).components["crab"].spectrum.index)
    2.0
    """

    components: dict[str, Component]
    parameters: dict[str, float]
    bounds: dict[str, tuple[float, float]]
    priors: dict[str, dist.Distribution]
    notes: list[str]

    def __init__(self, models, frame: str, geom, energy_range):
        names: dict[int, str] = {}
        for model in models:
            for parameter, name in zip(model.parameters, _unique_names(model), strict=True):
                if not parameter.frozen:
                    names.setdefault(id(parameter), name)
        self._models, self._names, self._tables = models, names, {}
        self._options = (frame, geom, energy_range)
        self.components, read, self.notes = self._build({})
        self.parameters, self.bounds, self.priors, self._units = {}, {}, {}, {}
        for name in dict.fromkeys(names.values()):
            if name not in read:
                continue  # used by a table only
            parameter, unit = read[name]
            scale = float(parameter.unit.to(unit))
            low, high = (float(limit) * scale for limit in (parameter.min, parameter.max))
            self._units[name], self.parameters[name] = unit, float(parameter.value) * scale
            self.bounds[name] = (-np.inf if np.isnan(low) else low, np.inf if np.isnan(high) else high)
            prior = _prior(parameter, unit, scale, self.parameters[name], self.bounds[name])
            if prior is None:
                self.notes.append(
                    f"{name} is {self.parameters[name]:g} {unit}, without scale: give its prior to free it"
                )
            else:
                self.priors[name] = prior

    def model(self, parameters: Mapping[str, Any]) -> Mixture:
        """Mixture of absolute fluxes with these parameters; other parameters keep gammapy's values.

        Raises `ValueError` for names that are not free parameters.
        """
        unknown = [name for name in parameters if name not in self.parameters]
        if unknown:
            raise ValueError(f"unknown parameters {unknown}; the free ones are {list(self.parameters)}")
        return Mixture(**self._build(parameters)[0])

    def to_gammapy(self, parameters: Mapping[str, Any] = MappingProxyType({})):
        """The gammapy `Models` with these values, for example from a fit; positions are in `frame`.

        Unlike [`to_gammapy`][gammajax.io.to_gammapy] this keeps gammapy's own parameters, links and bounds.
        """
        from astropy import units as u
        from gammapy.modeling.models import Models

        self.model(parameters)
        models = copy.deepcopy(self._models)
        for new, old in zip(models, self._models, strict=True):
            for parameter, known in zip(new.parameters, old.parameters, strict=True):
                name = self._names.get(id(known))
                if name in parameters:
                    parameter.quantity = number(parameters[name]) * u.Unit(self._units[name])
        return Models(models)

    def _build(self, values):
        frame, geom, energy_range = self._options
        components, free, notes = {}, {}, []
        for model in self._models:
            read = Reader(self._names, values, self._tables, energy_range, prefix=model.name)
            components[model.name] = _component(model, read, frame, geom)
            free |= {name: found for name, found in read.free.items() if name not in free}
            notes += read.notes
        return components, free, notes

    @words
    def __repr__(self) -> str:
        """Components, free parameters and notes."""
        units = {name: str(unit) for name, unit in self._units.items()}
        values = [f"{name} = {text(value, units.get(name, ''))}" for name, value in self.parameters.items()]
        return block(
            f"GammapyModels of {number_of(len(self.components), 'component')}: {listed(list(self.components))}",
            *rows(values, 6),
            *rows(self.notes, 3),
        )


def from_gammapy(models, *, frame: str = "icrs", geom=None, energy_range=ENERGY_RANGE) -> GammapyModels:
    """Components from gammapy models: native if gammajax has the model, otherwise tables and maps.

    Native models are all parametric spectra of gammapy, its norm models and absorption as factors, their sums,
    differences and products, and point, Gaussian, generalised Gaussian, disk, shell, constant and template
    morphologies. A template that changes with energy becomes a [`gammajax.TemplateCube`][], with the integral of its
    map as a factor on the spectrum. Any other spectrum becomes a [`gammajax.TabulatedSpectrum`][], any other spatial
    model a [`gammajax.TemplateMap`][], with a note on the frozen parameters.

    **Arguments:**

    - `models`: a gammapy `SkyModel`, `FoVBackgroundModel`, `Models`, `DatasetModels` or list of them; or YAML, as text
      or as the path of a file.
    - `frame`: frame of the observations, "icrs" or "galactic". Positions and position angles, free or not, are
      converted to it.
    - `geom`: a gammapy `WcsGeom` with centre, size and pixels of maps; by default those of the model.
    - `energy_range` [TeV] of tables: it should contain the true energies of the observations.

    Returns [`gammajax.io.GammapyModels`][]. Brightness agrees with gammapy's to the order of the squared extent in rad,
    because some of gammapy's formulae are for a flat sky and some of gammajax's use chords. Constant models and
    templates that do not integrate to one scale the spectrum.

    Raises `ValueError` for a model without spatial part, a model other than a template that changes with energy, a
    model without the response applied, and for unreadable YAML; `FileNotFoundError` for a missing file.

    >>> import gammajax as gj
    >>> from gammapy.modeling.models import PointSpatialModel, PowerLawSpectralModel, SkyModel
    >>> spectrum = PowerLawSpectralModel(index=2.5, amplitude="3e-11 cm-2 s-1 TeV-1")
    >>> crab = SkyModel(spectrum, PointSpatialModel(lon_0="83.63 deg", lat_0="22.01 deg", frame="icrs"), name="crab")
    >>> models = gj.io.from_gammapy(crab)
    >>> list(models.components), list(models.parameters)[:2]
    (['crab'], ['crab.spectral.index', 'crab.spectral.amplitude'])
    """
    if frame not in ("icrs", "galactic"):
        raise ValueError(f"frame must be 'icrs' or 'galactic', not {frame!r}")
    models, notes = _checked(_model_list(models))
    done: set[int] = set()
    for model in models:
        if getattr(model, "spatial_model", None) is not None:
            to_frame(model.spatial_model, frame, done)
    result = GammapyModels(models, frame, geom, plain_pair(energy_range, "TeV"))
    result.notes = notes + result.notes
    return result


def _model_list(models) -> list:
    from gammapy.modeling.models import Models

    if isinstance(models, (str, os.PathLike)):
        text = isinstance(models, str) and "\n" in models
        path = None if text else expand(models)
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"{path}: no such file with gammapy models")
        try:
            with quiet():
                models = Models.from_yaml(models) if path is None else Models.read(path)
        except UNREADABLE as error:
            origin = "the text" if path is None else path
            raise ValueError(f"{origin} cannot be read as gammapy models: {one_line(error)}") from error
    models = [models] if hasattr(models, "parameters") and hasattr(models, "spectral_model") else list(models)
    if not models:
        raise ValueError("there are no models")
    # together, so that parameters they share stay shared
    return copy.deepcopy(models)


def _checked(models):
    notes, kept, backgrounds = [], [], []
    for model in models:
        kind = type(model).__name__
        if kind == "FoVBackgroundModel":
            if model.spatial_model is not None or type(model.spectral_model).__name__ != "PowerLawNormSpectralModel":
                raise ValueError(
                    f"{model.name}: the instrument background has a norm and a tilt; use a PowerLawNormSpectralModel "
                    "without spatial model"
                )
            backgrounds.append(model.name)
            if len(backgrounds) > 1:
                notes.append(f"{model.name}: left out; {backgrounds[0]} is the background of all observations")
                continue
        elif kind != "SkyModel":
            raise ValueError(f"{kind} has no counterpart; SkyModel and FoVBackgroundModel have")
        else:
            _check_sky_model(model, notes)
        kept.append(model)
    return kept, notes


def _check_sky_model(model, notes):
    if model.spatial_model is None:
        raise ValueError(f"{model.name}: there is no spatial model; give it one, such as a PointSpatialModel")
    if not all(model.apply_irf.values()):
        off = [name for name, applied in model.apply_irf.items() if not applied]
        raise ValueError(f"{model.name}: a response is always applied in full, {', '.join(off)} cannot be left out")
    if model.temporal_model is not None and type(model.temporal_model).__name__ != "ConstantTemporalModel":
        notes.append(f"{model.name}: taken as constant in time; {type(model.temporal_model).__name__} is left out")
        model.temporal_model = None
    if model.datasets_names:
        notes.append(f"{model.name}: applies to all observations, in gammapy to {model.datasets_names} only")


def _unique_names(model):
    return [f"{model.name}.{name}" for name in _all_names(model)]


def _all_names(model):
    """Names of all parameters, in the order of `parameters`: gammapy's unique names leave linked ones out."""
    if not hasattr(model, "_models"):
        return [parameter.name for parameter in model.parameters]
    parts = model._models
    if hasattr(model, "operator"):
        return [f"model{i + 1}.{name}" for i, part in enumerate(parts) for name in _all_names(part)]
    return [f"{part.type}.{name}" for part in parts for name in _all_names(part)]


def _component(model, read, frame, geom) -> Component:
    spectral = model.spectral_model
    if type(model).__name__ == "FoVBackgroundModel":
        return InstrumentBackground(read(spectral.norm), read(spectral.tilt), read(spectral.reference, "TeV"))
    spectrum = spectrum_from_gammapy(spectral, read)
    morphology, factor = morphology_from_gammapy(model.spatial_model, read, frame, geom)
    if model.spatial_model.is_energy_dependent and not is_flux(spectral):
        # the map is a flux, and gammapy's norm model a factor on it
        return Source(ProductSpectrum(factor, spectrum), morphology)
    return Source(spectrum if factor is None else ProductSpectrum(spectrum, factor), morphology)


def _prior(parameter, unit, scale, value, bounds) -> dist.Distribution | None:
    prior, (low, high) = parameter.prior, bounds
    kind = type(prior).__name__
    if kind == "GaussianPrior":
        return dist.Normal(prior.mu.value * scale, prior.sigma.value * scale)
    if kind in ("UniformPrior", "LogUniformPrior"):
        family = dist.Uniform if kind == "UniformPrior" else dist.LogUniform
        return family(prior.min.value * scale, prior.max.value * scale)
    if parameter.name not in ("lon_0", "lat_0") and np.isfinite(low) and np.isfinite(high):
        # not at the exact ends, where some shapes are undefined
        return dist.Uniform(low + 0.01 * (high - low), high - 0.01 * (high - low))
    value = float(np.clip(value, low, high))
    if parameter.name in ("lon_0", "lat_0"):
        family, ends = dist.Uniform, (value - 0.5, value + 0.5)
    elif value > 0 and (unit or parameter.interp == "log" or parameter.name in ("alpha_norm", "redshift")):
        factor = 100.0 if parameter.interp == "log" else 5.0
        family, ends = dist.LogUniform, (value / factor, value * factor)
    elif unit:
        return None
    else:
        family, ends = dist.Uniform, (value - 2.0, value + 2.0)
    return family(max(ends[0], low), min(ends[1], high))


def to_gammapy(
    components,
    *,
    frame: str,
    path=None,
    geom=None,
    energy_range=ENERGY_RANGE,
    dataset_name: str = "gammajax",
    overwrite: bool = False,
):
    """Gammapy `Models` for components with absolute fluxes, and their YAML.

    Each spectrum and morphology becomes its counterpart in gammapy with the same parameters. Without a counterpart, a
    spectrum (dark matter) becomes a `TemplateSpectralModel` and a morphology (halo, ring) a `TemplateSpatialModel`. A
    monochromatic line becomes a Gaussian with the width of its spline.

    Returns gammapy's `Models`.

    **Arguments:**

    - `components`: a [`gammajax.Mixture`][] without weights, a dict of components by name, or the result of
      [`from_gammapy`][].
    - `frame`: frame of the components, "icrs" or "galactic".
    - `path`: YAML file to write, with FITS files of template maps beside it; each file is written atomically.
    - `geom`: `WcsGeom` for the centre, size and pixels of the maps of morphologies without counterpart;
      `energy_range` [TeV] of tables.
    - `dataset_name` for the background. `overwrite`: replace existing files.

    Raises `ValueError` for a mixture with weights, which has no absolute fluxes (give its `components` to use their own
    fluxes), and for a morphology that needs `geom`; `FileExistsError` for an existing file.

    >>> import gammajax as gj
    >>> source = gj.Source(gj.PowerLaw(2.3, 1e-12), gj.Point(83.6, 22.0))
    >>> gj.io.to_gammapy({"source": source}, frame="icrs").names
    ['source']
    """
    from gammapy.modeling.models import Models

    if frame not in ("icrs", "galactic"):
        raise ValueError(f"frame must be 'icrs' or 'galactic', not {frame!r}")
    if isinstance(components, Mixture) and components.weighted:
        raise ValueError(
            "a mixture with weights says nothing about absolute fluxes; give a mixture without, or its components"
        )
    named = components if isinstance(components, Mapping) else components.components
    energy_range = plain_pair(energy_range, "TeV")
    options = (frame, geom, energy_range, dataset_name)
    models = Models([_model_to_gammapy(name, component, *options) for name, component in named.items()])
    if path is not None:
        _write(models, expand(path), overwrite)
    return models


def _model_to_gammapy(name, component, frame, geom, energy_range, dataset_name):
    from astropy import units as u
    from gammapy.modeling.models import FoVBackgroundModel, PowerLawNormSpectralModel, SkyModel

    if isinstance(component, InstrumentBackground):
        if component.correction is not None:
            raise ValueError(
                f"component {name!r}: gammapy has no model of a correction; write its background by io.write_background"
            )
        norm, tilt, reference = (number(v) for v in (component.norm, component.tilt, component.reference))
        factor = PowerLawNormSpectralModel(norm=norm, tilt=tilt, reference=reference * u.TeV)
        return FoVBackgroundModel(dataset_name, spectral_model=factor, name=name)
    if not isinstance(component, Source):
        raise ValueError(f"component {name!r} must be a Source or InstrumentBackground, not {component!r}")
    spatial, factor = morphology_to_gammapy(component.morphology, frame, geom, energy_range, name)
    spectrum = component.spectrum if factor is None else ProductSpectrum(component.spectrum, factor)
    try:
        return SkyModel(spectrum_to_gammapy(spectrum, energy_range), spatial, name=name)
    except ValueError as error:
        raise ValueError(f"component {name!r}: {error}") from error


def _write(models, path: Path, overwrite: bool) -> None:
    """YAML by gammapy's serialisation, and maps beside it, each under a temporary name until it is complete."""
    from gammapy.utils.scripts import to_yaml

    templates = {}
    for model in models:
        if type(getattr(model, "spatial_model", None)).__name__ == "TemplateSpatialModel":
            safe = "".join(c if c.isalnum() or c in "+-." else "_" for c in model.name)
            templates[path.with_name(f"{path.stem}_{safe}.fits")] = model.spatial_model
    for file in (path, *templates):
        if file.exists() and not overwrite:
            raise FileExistsError(f"{file} exists; pass overwrite=True to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)

    def complete(file, write):
        with replacing(file) as temporary:
            write(temporary)

    for file, template in templates.items():
        complete(file, lambda at, sky=template.map: sky.write(at, overwrite=True))
        # only the file name in the YAML, so that the folder can be moved
        template.filename = file.name
    models.update_link_label()
    text = to_yaml({"components": [model.to_dict() for model in models]})
    complete(path, lambda at: at.write_text(text))
    for file, template in templates.items():
        template.filename = str(file)
