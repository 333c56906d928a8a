"""Configuration of a run: what a YAML file may say, and the model function and priors that it stands for."""

import difflib
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union

import numpyro.distributions as dist
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    create_model,
    model_validator,
)

from gammajax import darkmatter, lines, mixture, morphology, shapes, spectra

# a number, or the name of a parameter
Value = float | str
Range = tuple[PositiveFloat, PositiveFloat]


class Strict(BaseModel):
    """A section whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values):
        if isinstance(values, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for key in values:
                if key not in known:
                    raise ValueError(unknown("key", key, known))
        return values


def unknown(kind: str, name: str, known) -> str:
    """Message for an unknown name, with the nearest known one or all of them."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"unknown {kind} {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
    )


class CtaoObservations(Strict):
    """Simulated pointings of CTAO."""

    kind: Literal["ctao"]
    site: Literal["South", "North"] = "South"
    zenith: float = 20.0
    hours: float = 50.0
    pointings: list[tuple[float, float]] = Field(min_length=1)
    frame: Literal["icrs", "galactic"] = "icrs"
    livetime: PositiveFloat
    energy_range: Range = (0.1, 100.0)
    offset_max: PositiveFloat = 3.0


class GadfObservations(Strict):
    """Runs of a GADF data store."""

    kind: Literal["gadf"]
    path: str
    obs_ids: list[int] | None = None
    frame: Literal["icrs", "galactic"] = "icrs"
    energy_range: Range | None = None
    offset_max: PositiveFloat = 2.0
    exclusion: Any = None


class Simulation(Strict):
    """Events to simulate at the true values of the parameters: a number, or true for what the fluxes give."""

    simulate: bool | PositiveInt


# what `type:` may say; the keys of each section are the arguments of the class
SPECTRA: dict[str, Callable] = {
    "power-law": spectra.PowerLaw,
    "log-parabola": spectra.LogParabola,
    "exp-cutoff": spectra.ExponentialCutoffPowerLaw,
    "broken-power-law": spectra.BrokenPowerLaw,
    "smooth-broken-power-law": spectra.SmoothBrokenPowerLaw,
    "super-exp-cutoff-4fgl": spectra.SuperExponentialCutoffPowerLaw4FGL,
    "gaussian-line": lines.GaussianLine,
    "line": lines.Line,
    "dark-matter": darkmatter.DarkMatter,
    "dark-matter-decay": darkmatter.DarkMatterDecay,
}
MORPHOLOGIES: dict[str, Callable] = {
    "point": morphology.Point,
    "gaussian": morphology.Gaussian,
    "generalized-gaussian": morphology.GeneralizedGaussian,
    "disk": shapes.Disk,
    "ring": shapes.Ring,
    "shell": shapes.Shell,
    "constant": shapes.Constant,
    "einasto": darkmatter.Einasto,
    "nfw": darkmatter.NFW,
    "generalized-nfw": darkmatter.GeneralizedNFW,
    "cored-nfw": darkmatter.CoredNFW,
    "burkert": darkmatter.Burkert,
    "moore": darkmatter.Moore,
    "isothermal": darkmatter.Isothermal,
    "zhao": darkmatter.Zhao,
}
WORDS = ("type", "channel")  # text that is never the name of a parameter


class Part(Strict):
    """Section that stands for an object of the model."""

    type: str

    def arguments(self, parameters: dict) -> dict[str, Any]:
        """Arguments of the object, with names of parameters replaced by their values."""
        return {
            name: parameters[value] if isinstance(value, str) and name not in WORDS else value
            for name, value in self
            if name != "type"
        }

    def references(self) -> list[str]:
        """Names of the parameters used."""
        return [value for name, value in self if isinstance(value, str) and name not in WORDS]


def _part(tag: str, kind: Callable) -> type[Part]:
    """Section whose keys are the arguments of a class."""
    fields: dict[str, Any] = {"type": (Literal[tag], ...)}  # pyright: ignore[reportInvalidTypeForm]
    for name, argument in inspect.signature(kind).parameters.items():
        if name == "yields":  # tables are no text
            continue
        if isinstance(argument.default, bool):
            fields[name] = (bool, argument.default)
            continue
        if argument.default is None:
            fields[name] = (Value | None, None)
            continue
        required = argument.default is inspect.Parameter.empty
        fields[name] = (str if name in WORDS else Value, ... if required else argument.default)
    return create_model(tag, __base__=Part, **fields)


def _one_of(kinds: dict[str, Callable]) -> Any:
    parts = tuple(_part(tag, kind) for tag, kind in kinds.items())
    return Annotated[Union[parts], Field(discriminator="type")]  # noqa: UP007


class Source(Strict):
    """Source of photons."""

    type: Literal["source"]
    spectrum: _one_of(SPECTRA)  # pyright: ignore[reportInvalidTypeForm]
    morphology: _one_of(MORPHOLOGIES)  # pyright: ignore[reportInvalidTypeForm]

    def build(self, parameters: dict) -> mixture.Source:
        """The component at these parameters."""
        spectrum = SPECTRA[self.spectrum.type](**self.spectrum.arguments(parameters))
        return mixture.Source(spectrum, MORPHOLOGIES[self.morphology.type](**self.morphology.arguments(parameters)))

    def references(self) -> list[str]:
        """Names of the parameters used."""
        return self.spectrum.references() + self.morphology.references()


class Background(_part("background", mixture.InstrumentBackground)):
    """The instrument's own background."""

    def build(self, parameters: dict) -> mixture.InstrumentBackground:
        """The component at these parameters."""
        return mixture.InstrumentBackground(**self.arguments(parameters))


class Model(Strict):
    """Components by name, and weights by component when they are fractions of the events."""

    components: dict[str, Annotated[Source | Background, Field(discriminator="type")]] = Field(min_length=1)
    weights: dict[str, Value] | None = None

    def function(self) -> Callable[[dict], mixture.Mixture]:
        """The model as a plain function of a dict of parameters."""

        def model(p):
            weights = self.weights and {k: p[v] if isinstance(v, str) else v for k, v in self.weights.items()}
            return mixture.Mixture(weights=weights, **{name: c.build(p) for name, c in self.components.items()})

        return model


# arguments of each prior, in the order of the distribution's own
PRIORS: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "uniform": (dist.Uniform, ("low", "high")),
    "log-uniform": (dist.LogUniform, ("low", "high")),
    "normal": (dist.Normal, ("mean", "sd")),
    "log-normal": (dist.LogNormal, ("mean", "sd")),
    "half-normal": (dist.HalfNormal, ("sd",)),
    "beta": (dist.Beta, ("a", "b")),
}


class Parameter(Strict):
    """Prior of one parameter, its true value when it is known, and its unit."""

    prior: Literal["uniform", "log-uniform", "normal", "log-normal", "half-normal", "beta"]
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    sd: PositiveFloat | None = None
    a: PositiveFloat | None = None
    b: PositiveFloat | None = None
    truth: float | None = None
    unit: str | None = None

    @model_validator(mode="after")
    def _arguments(self):
        names = PRIORS[self.prior][1]
        for name in ("low", "high", "mean", "sd", "a", "b"):
            if (getattr(self, name) is None) == (name in names):
                raise ValueError(f"a {self.prior} prior is given by {' and '.join(names)}")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.prior == "log-uniform" and not (self.low or 0.0) > 0:
            raise ValueError("a log-uniform prior needs low > 0")
        return self

    def distribution(self) -> dist.Distribution:
        """The prior as a numpyro distribution."""
        kind, names = PRIORS[self.prior]
        return kind(*(getattr(self, name) for name in names))


class Sampler(Strict):
    """How the posterior is explored."""

    method: Literal["nuts"] = "nuts"
    draws: PositiveInt = 1000
    warmup: PositiveInt = 300
    chains: PositiveInt = 4


class Config(Strict):
    """A whole run."""

    observations: Annotated[CtaoObservations | GadfObservations, Field(discriminator="kind")]
    events: Simulation | None = None
    model: Model
    parameters: dict[str, Parameter] = Field(min_length=1)
    sampler: Sampler = Sampler()
    precision: Literal[32, 64] = 64
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self):
        used = [name for component in self.model.components.values() for name in component.references()]
        used += [value for value in (self.model.weights or {}).values() if isinstance(value, str)]
        for name in used:
            if name not in self.parameters:
                raise ValueError("the model uses an " + unknown("parameter", name, self.parameters))
        for name in self.parameters:
            if name not in used:
                raise ValueError(f"parameter {name!r} is not used in the model")
        for name in self.model.weights or {}:
            if name not in self.model.components:
                raise ValueError("weights name an " + unknown("component", name, self.model.components))
        if self.observations.kind == "gadf" and self.events:
            raise ValueError("the events come from the data store; leave out the section events")
        if self.observations.kind == "ctao":
            if not (self.events and self.events.simulate):
                raise ValueError("observations of kind ctao need events to simulate, as in events: {simulate: 10000}")
            missing = [name for name, parameter in self.parameters.items() if parameter.truth is None]
            if missing:
                raise ValueError(f"to simulate events, parameter {missing[0]!r} needs a truth")
        return self

    @property
    def truths(self) -> dict[str, float]:
        """True values of the parameters that have one."""
        return {name: p.truth for name, p in self.parameters.items() if p.truth is not None}

    @property
    def units(self) -> dict[str, str]:
        """Units of the parameters that have one."""
        return {name: p.unit for name, p in self.parameters.items() if p.unit is not None}
