"""Configuration of a run: a YAML file, checked, and turned into observations, a model function and priors."""

import difflib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpyro.distributions as dist
import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from gammajax import darkmatter, mixture, morphology, spectra

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

    def options(self, parameters: dict, *skipped: str) -> dict[str, Any]:
        """Fields that are set, with names of parameters replaced by their values."""
        fields = {name: getattr(self, name) for name in type(self).model_fields if name not in (*skipped, "type")}
        given = {name: value for name, value in fields.items() if value is not None}
        return {name: parameters[value] if isinstance(value, str) else value for name, value in given.items()}


def unknown(kind: str, name: str, known) -> str:
    """Message for an unknown name, with the nearest known one or all of them."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"unknown {kind} {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}")


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


class PowerLaw(Strict):
    """Power law."""

    type: Literal["power-law"]
    index: Value
    amplitude: Value = 1e-12
    reference: Value = 1.0


class LogParabola(Strict):
    """Log parabola."""

    type: Literal["log-parabola"]
    alpha: Value
    beta: Value
    amplitude: Value = 1e-12
    reference: Value = 1.0


class ExpCutoff(Strict):
    """Power law with exponential cut-off."""

    type: Literal["exp-cutoff"]
    index: Value
    lambda_: Value
    amplitude: Value = 1e-12
    reference: Value = 1.0


class DarkMatter(Strict):
    """Annihilation into one channel."""

    type: Literal["dark-matter"]
    channel: str
    mass: Value
    sigma_v: Value | None = None
    j_factor: Value | None = None


class Point(Strict):
    """Point source."""

    type: Literal["point"]
    lon: Value
    lat: Value


class Gaussian(Strict):
    """Gaussian."""

    type: Literal["gaussian"]
    lon: Value
    lat: Value
    sigma: Value


class Disk(Strict):
    """Disk."""

    type: Literal["disk"]
    lon: Value
    lat: Value
    r_0: Value
    edge: Value | None = None


class Einasto(Strict):
    """Annihilation in an Einasto halo."""

    type: Literal["einasto"]
    lon: Value | None = None
    lat: Value | None = None
    alpha: Value | None = None
    r_s: Value | None = None
    distance: Value | None = None


BUILDERS: dict[str, Callable] = {
    "power-law": spectra.PowerLaw,
    "log-parabola": spectra.LogParabola,
    "exp-cutoff": spectra.ExponentialCutoffPowerLaw,
    "dark-matter": darkmatter.DarkMatter,
    "point": morphology.Point,
    "gaussian": morphology.Gaussian,
    "disk": morphology.Disk,
    "einasto": morphology.Einasto,
    "background": mixture.InstrumentBackground,
}


class Source(Strict):
    """Source of photons."""

    type: Literal["source"]
    spectrum: Annotated[PowerLaw | LogParabola | ExpCutoff | DarkMatter, Field(discriminator="type")]
    morphology: Annotated[Point | Gaussian | Disk | Einasto, Field(discriminator="type")]

    def build(self, parameters):
        """The component at these parameters."""
        spectrum, shape = self.spectrum, self.morphology
        kept = {"channel": spectrum.channel} if isinstance(spectrum, DarkMatter) else {}
        return mixture.Source(
            BUILDERS[spectrum.type](**kept, **spectrum.options(parameters, *kept)),
            BUILDERS[shape.type](**shape.options(parameters)),
        )

    def references(self) -> list[str]:
        """Names of parameters used."""
        fields = [(name, value) for part in (self.spectrum, self.morphology) for name, value in part]
        return [value for name, value in fields if isinstance(value, str) and name not in ("type", "channel")]


class Background(Strict):
    """The instrument's own background."""

    type: Literal["background"]
    norm: Value | None = None
    tilt: Value | None = None
    reference: Value | None = None

    def build(self, parameters):
        """The component at these parameters."""
        return BUILDERS["background"](**self.options(parameters))

    def references(self) -> list[str]:
        """Names of parameters used."""
        return [value for name, value in self if isinstance(value, str) and name != "type"]


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


def builtin(name: str) -> str:
    """Text of a built-in configuration: "galactic-centre", "crab" or "template"."""
    return (resources.files("gammajax") / "configs" / f"{name}.yaml").read_text()


def load(source: str) -> Config:
    """Configuration from the path of a YAML file or the name of a built-in one.

    Raises `FileNotFoundError`, or `ValueError` in one line that says where and what is wrong.
    """
    names = [f.name.removesuffix(".yaml") for f in (resources.files("gammajax") / "configs").iterdir()]
    if source in names:
        return parse(builtin(source), source)
    path = Path(source).expanduser()
    if not path.is_file():
        known = unknown("configuration", source, [n for n in names if n != "template"])
        raise FileNotFoundError(f"{source}: no such file" + ("" if path.suffix in (".yaml", ".yml") else f"; {known}"))
    return parse(path.read_text(), str(path))


def parse(text: str, name: str = "configuration") -> Config:
    """Configuration from YAML text; `name` is what errors call it."""
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{name}: must hold sections such as observations, model and parameters")
    try:
        return Config(**values) if all(isinstance(key, str) for key in values) else Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{name}: {_one_line(error)}") from error


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-12 is a number, as it is in every other language."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", __import__("re").compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _one_line(error: ValidationError) -> str:
    """The first problem of a configuration: where, what."""
    problem = error.errors(include_url=False)[0]
    tags = {*BUILDERS, "source", "ctao", "gadf", "int", "float", "str", "bool", "constrained-int", "list[int]"}
    place = ".".join(str(part) for part in problem["loc"] if part not in tags)
    context = problem.get("ctx", {})
    if problem["type"] == "union_tag_invalid":
        known = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
        message = unknown(context["discriminator"].strip("'"), context["tag"], known)
    elif problem["type"] == "value_error":
        message = str(context["error"])
    else:
        message = problem["msg"][0].lower() + problem["msg"][1:]
        if problem["type"] not in ("missing", "union_tag_not_found"):
            message += f", not {problem['input']!r}"
    return f"{place}: {message}" if place else message
