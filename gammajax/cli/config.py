"""Configuration of a run: the sections of a YAML file, and what they must have in common."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gammajax.cli.data_section import Compression, CtaoObservations, GadfObservations, ResponseObservations, Simulation
from gammajax.cli.model_section import LEAST_FACTOR, MORPHOLOGIES, SCALES, Model, Part, Source, Tree
from gammajax.cli.outputs import ABSOLUTE, OUTPUTS, LimitsOutput, Output
from gammajax.cli.parameter_section import Parameter
from gammajax.cli.sampler_section import Nested, Nuts, Sampler
from gammajax.cli.settings import RightAscension, Strict, Whole, is_name, seed, unknown
from gammajax.io.text import same_unit
from gammajax.model import darkmatter
from gammajax.model.priors import check_names, cube_size


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
