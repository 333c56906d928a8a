"""Configuration of a run: the sections of a YAML file, and what they must have in common."""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from numpyro.distributions import Distribution
from pydantic import Field, field_validator, model_validator

from gammajax.cli.data_section import Compression, Observations, Pointings, Simulation
from gammajax.cli.model_section import LEAST_FACTOR, MORPHOLOGIES, SCALES, Model, Part, Source, Tree
from gammajax.cli.outputs import ABSOLUTE, OUTPUTS, LimitsOutput, Output
from gammajax.cli.parameter_section import Parameter
from gammajax.cli.sampler_section import Nested, Nuts, Sampler
from gammajax.cli.settings import RightAscension, Strict, Whole, is_name, seed, unknown
from gammajax.io.text import same_unit
from gammajax.model import darkmatter
from gammajax.model.mixture import within
from gammajax.model.priors import check_names, cube_size
from gammajax.model.response_change import DIRECTIONS


def data_key(name: str) -> str:
    """Key of a data set of this name, which is empty for a single one."""
    return f"observations.{name}" if name else "observations"


def component_key(path: str) -> str:
    """Key of the component at a path."""
    return f"model.components.{path.replace('/', '.components.')}"


def _is_halo_without_place(section: Part | None) -> bool:
    if section is None or {"lon", "lat"} <= section.model_fields_set:
        return False
    kind = MORPHOLOGIES[section.type]
    return isinstance(kind, type) and issubclass(kind, darkmatter.Halo)


class Config(Strict):
    """A whole run."""

    observations: Observations
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
        self._check_data_sets()
        self._check_names()
        self._check_corrections()
        self._check_scales()
        self._check_sampler()
        self._check_frames()
        self._check_units()
        self._check_products()
        self._check_simulation()
        seed(self.seed, self.precision)
        return self

    @property
    def data_sets(self) -> dict[str, Any]:
        """Sections of the data sets by name; the name of a single one is empty."""
        return self.observations if isinstance(self.observations, dict) else {"": self.observations}

    @property
    def frame(self) -> str:
        """Frame of all directions."""
        return next(iter(self.data_sets.values())).frame

    def seen(self, name: str) -> dict[str, Any]:
        """Sources and backgrounds that a data set sees, by path."""
        data, leaves = self.data_sets[name], self.model.leaves()
        mine = [path for path in leaves if data.names is None or any(within(path, one) for one in data.names)]
        return {path: leaves[path] for path in mine if leaves[path].type in data.only}

    def _check_data_sets(self):
        """Refuse data sets that do not fit each other or the components that they see."""
        known = self.model.nodes()
        for name, data in self.data_sets.items():
            where = data_key(name)
            if isinstance(self.observations, dict) and not re.fullmatch(r"[A-Za-z][\w-]*", name):
                raise ValueError(f"observations: {name!r} cannot name a data set; use letters, digits, - and _")
            for one in data.names or ():
                if one not in known:
                    raise ValueError(f"{where}.components: {unknown('component', one, known)}")
            if data.names is not None and self.model.weights is not None:
                raise ValueError(
                    f"{where}.components: a model with weights shares the events among all components; leave out the "
                    "weights, or this key"
                )
            if not self.seen(name):
                able = " and ".join(data.only)
                raise ValueError(f"{where}.components: these data see no component; name some of type {able}")
            if data.frame != self.frame:
                first = data_key(next(iter(self.data_sets)))
                raise ValueError(
                    f"{where}.frame: {data.frame}, but {first}.frame is {self.frame}; the model has directions in one "
                    "frame"
                )
            if not data.of_events:
                self._check_regions(where, name, data)
        kinds = {data.kind for data in self.data_sets.values()}
        if self.model.weights is not None and (len(self.data_sets) > 1 or not self._events):
            of = "several data sets" if len(self.data_sets) > 1 else f"data of kind {kinds.pop()}"
            raise ValueError(f"model.weights: {of} need absolute fluxes; leave out the weights")
        for path, component in self.model.leaves().items():
            if not any(path in self.seen(name) for name in self.data_sets):
                raise ValueError(
                    f"{component_key(path)}: no data set sees this {component.type}; name it among the "
                    "components of one that can, or leave it out"
                )
        if self.compress and not self._events:
            raise ValueError("compress: only events are merged in cells, and there are none")

    @property
    def _events(self) -> list[str]:
        """Names of the data sets of events."""
        return [name for name, data in self.data_sets.items() if data.of_events]

    def _check_regions(self, where: str, name: str, data):
        """Refuse components that data in regions or bins would refuse after they are read."""
        seen = self.seen(name)
        other = "or name the components of these data by components"
        fixed = DIRECTIONS if data.kind == "on-off" else (*DIRECTIONS, "energy_resolution")
        for path, fields in self.model.changed().items():
            wrong = [field for field in fields if field in fixed]
            if path in seen and wrong:
                raise ValueError(
                    f"{where}: {path!r} changes the {wrong[0]} of the response, but {data.kind} data have that of "
                    f"their files; change the effective_area or energy_scale of the source of these data, {other}"
                )
        if data.kind == "on-off":
            for path, part in seen.items():
                if part.type == "source" and (part.morphology.type != "point" or part.by_energy is not None):
                    raise ValueError(
                        f"{where}: source {path!r} is no point, as those of ON regions are; make it one, {other}"
                    )
            backgrounds = [path for path, part in seen.items() if part.type == "off-background"]
            if data.edges is None and len(backgrounds) != 1:
                has = f"these see {', '.join(backgrounds)}" if backgrounds else "these see none"
                raise ValueError(
                    f"{where}: ON and OFF events need one component of type off-background, and {has}; name the "
                    "components of these data by components, or give edges for counts in cells, which need none"
                )
            return
        for path, part in seen.items():
            if part.type == "background":
                if part.correction is not None:
                    raise ValueError(f"{where}: counts in bins know no correction of {path!r}; leave it out, {other}")
                for key in ("norm", "tilt"):
                    value = getattr(part, key)
                    parameter = self.parameters.get(value) if isinstance(value, str) else None
                    if isinstance(value, list) or (parameter and parameter.shape):
                        raise ValueError(f"{where}: the {key} of {path!r} is by run; counts in bins have one, {other}")

    def _check_names(self):
        used = self.model.references()
        names = {one.name for one in used}
        for name in self.parameters:
            check_names([name])
            if not is_name(name):
                raise ValueError(f"parameters: {name!r} reads as a number or an angle; begin the name with a letter")
        for key, name, kind in used:
            if name not in self.parameters:
                raise ValueError(f"model.{key}: the model uses an {unknown('parameter', name, self.parameters)}")
            parameter = self.parameters[name]
            plain, size = parameter.prior not in ("dirichlet", "correction"), math.prod(parameter.shape)
            fits, wanted = {
                "number": (not parameter.shape, f"one number, not {size}"),
                "by run": (plain, "one number, or one for each run"),
                "vector": (plain and bool(parameter.shape), "several numbers: give its prior a size"),
                "correction": (parameter.prior == "correction", "numbers of a correction prior"),
                "fractions": (parameter.prior == "dirichlet", "fractions, of a dirichlet prior"),
            }[kind]
            if not fits:
                raise ValueError(f"model.{key}: parameter {name!r} must stand for {wanted}")
        for name, parameter in self.parameters.items():
            if name not in names:
                raise ValueError(f"parameters.{name}: parameter {name!r} is not used in the model")
            keys = [one.key for one in used if one.name == name and not one.key.endswith(".log_rate")]
            if parameter.prior == "smooth" and parameter.scale is None and keys:
                raise ValueError(
                    f"parameters.{name}: a smooth prior of model.{keys[0]} is given by scale; scale is missing, and "
                    "only a log_rate takes it from OFF events"
                )

    def _check_corrections(self):
        """Refuse corrections of other nodes and degree than their priors."""
        for path, component in self.model.leaves().items():
            correction = getattr(component, "correction", None)
            if correction is None or not isinstance(correction.numbers, str):
                continue
            prior = self.parameters[correction.numbers]
            if (prior.energy_nodes or [], prior.offset_nodes or [], prior.degree or 0) != correction.of:
                where = f"{component_key(path)}.correction"
                raise ValueError(
                    f"{where}: energy_nodes, offset_nodes and degree must be those of the prior of "
                    f"{correction.numbers!r}"
                )

    def _check_scales(self):
        """Refuse fluxes that cannot be."""
        for path, component in self.model.leaves().items():
            where = component_key(path)
            part: Any = getattr(component, "spectrum", component)
            for key in (*SCALES, "reference"):
                given = getattr(part, key, None)
                for value in given if isinstance(given, list) else [given]:
                    if not isinstance(value, (int, float)):
                        continue
                    if value < 0 or (key == "reference" and value == 0):
                        raise ValueError(f"{where}: {key} is {value:g}; it must be positive")
                    if key in ("j_factor", "d_factor") and 0 < value < LEAST_FACTOR:
                        raise ValueError(
                            f"{where}: {key} is {value:g}; is this its logarithm? write 1e{value:g} as a number"
                        )

    def without_effect(self) -> list[str]:
        """Sentences about free fluxes that weights cancel."""
        used = [one.name for one in self.model.references()]
        return [
            f"{where}components.{name}.{key}: the weights fix the counts of {name!r}, so that parameter {parameter!r} "
            "has no effect; give a number, or leave out the weights"
            for where, tree in self.model.trees()
            if tree.weights is not None
            for name, component in tree.components.items()
            if not isinstance(component, Tree)
            for key, parameter, _ in component.references()
            if key.split(".")[-1] in SCALES and used.count(parameter) == 1 and not self.parameters[parameter].shape
        ]

    def _check_sampler(self):
        """Refuse settings that a sampler would refuse after a long set-up."""
        if isinstance(self.sampler, Nested):
            size = sum(cube_size(prior) for prior in self.priors().values())
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
        frame, key = self.frame, f"{data_key(next(iter(self.data_sets)))}.frame"
        longitudes: dict[str, Any] = {}
        for name, data in self.data_sets.items():
            pairs: dict[str, Any] = {f"pointings.{i}": pair for i, pair in enumerate(getattr(data, "pointings", ()))}
            pairs |= {"target": data.target} if data.kind == "on-off" else {}
            off = getattr(data, "off", None)
            pairs |= {f"off.{i}": pair for i, pair in enumerate(off if isinstance(off, list) else ())}
            longitudes |= {f"{data_key(name)}.{of}": lon for of, (lon, _) in pairs.items()}
        for path, component in self.model.leaves().items():
            shape: Any = getattr(component, "morphology", None)
            where = f"{component_key(path)}.morphology"
            longitudes[where + ".lon"] = getattr(shape, "lon", None)
            if getattr(shape, "frame", frame) != frame:
                raise ValueError(
                    f"the template of component {path!r} is to be read in frame {frame}, that of the observations, not "
                    f"{shape.frame}"
                )
            if frame == "icrs" and _is_halo_without_place(shape):
                raise ValueError(
                    f"{where}: lon, lat are (0, 0) by default, which is the Galactic centre in frame galactic only, "
                    f"not in icrs; give both, or set {key}: galactic"
                )
        for where, lon in longitudes.items():
            if isinstance(lon, RightAscension) and frame != "icrs":
                raise ValueError(
                    f"{where}: a right ascension in hours, but {key} is {frame}; write a galactic "
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
            if product.of_one and not (len(self.data_sets) == 1 and self._events):
                raise ValueError(f"{where}: {product.of_one} of a single data set of events; {product.instead}")
            if product.type == "check":
                self.check_events(where)

    def check_events(self, where: str) -> None:
        """Raise `ValueError` if no data set is of events or of ON and OFF events, which simulated ones stand beside."""
        regions = [data for data in self.data_sets.values() if data.kind == "on-off" and data.edges is None]
        if not self._events and not regions:
            raise ValueError(f"{where}: data of events are compared with simulated ones; there are none")

    def check_shared(self) -> None:
        """Raise `ValueError` for data that several processes cannot share."""
        if len(self.data_sets) > 1 or not self._events:
            raise ValueError("--distributed is of a single data set of events; run this configuration in one process")

    @property
    def simulated(self) -> list[str]:
        """Names of the data sets that are simulated."""
        return [name for name, data in self.data_sets.items() if isinstance(data, Pointings)]

    def _check_simulation(self):
        if not self.simulated:
            if self.events:
                raise ValueError("the events come from files; leave out the section events")
            return
        if not (self.events and self.events.simulate):
            kind = self.data_sets[self.simulated[0]].kind
            number = "true" if isinstance(self.observations, dict) else 10000
            raise ValueError(
                f"observations of kind {kind} need events to simulate, as in events: {{simulate: {number}}}"
            )
        lacking = [name for name in self._to_simulate() if self.parameters[name].truth is None]
        if lacking:
            raise ValueError(f"parameters.{lacking[0]}: to simulate events, parameter {lacking[0]!r} needs a truth")
        number = self.events.simulate
        if number is True and self.model.weights is not None:
            raise ValueError("events.simulate: true is for a model without weights; give the number of events")
        if number is not True and self.model.weights is None:
            raise ValueError(
                f"events.simulate: {number} events need model.weights to share them; for absolute fluxes write true"
            )

    def _to_simulate(self) -> list[str]:
        """Parameters that the simulated data depend on: all but those of components that they do not see."""
        seen = {path for name in self.simulated for path in self.seen(name)}
        hidden = [f"{component_key(path)}." for path in self.model.leaves() if path not in seen]
        used = {one.name for one in self.model.references() if not f"model.{one.key}".startswith(tuple(hidden))}
        return [name for name in self.parameters if name in used]

    def priors(self, known: Mapping[str, Distribution] | None = None) -> dict[str, Distribution]:
        """Prior of each parameter; `known` are those that data decide."""
        return {name: parameter.distribution() for name, parameter in self.parameters.items()} | dict(known or {})

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
