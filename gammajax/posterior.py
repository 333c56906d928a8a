"""Posterior: a model, priors and events, as pure functions of a dict of parameters."""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Integer, PRNGKeyArray
from numpyro.distributions import Distribution

from gammajax import distributed
from gammajax.cells import Cells
from gammajax.dependence import Dependence, dependence
from gammajax.display import block, document, length, listed, number_of, rows, text, total, words
from gammajax.engines import ENGINES, BackgroundEngine, Engine, FixedEngine, KernelEngine, PreparedKernel, Rows
from gammajax.engines.kernel import folded
from gammajax.engines.rows import PER_DECADE
from gammajax.events import Events
from gammajax.likelihood import LEAST_COUNTS, mixture_density, sum_of_logs
from gammajax.mixture import (
    Component,
    InstrumentBackground,
    Mixture,
    Source,
    mixture_of,
    or_undefined,
    require_component,
)
from gammajax.observation import Aside, Observation, as_tuple
from gammajax.priors import centre, check_priors, cube_size, extremes, from_cube, shape
from gammajax.progress import DELAY, Progress, say
from gammajax.spectra import article, is_concrete, is_same

Parameters = dict[str, Float[Array, "..."]]
# above this number of events, single precision rounds scalars too much: at 9e5 and 3e6 events the q of a profile is off
# by 0.02 and 0.06 (rms; measured with a weak source above a background of free norm and tilt)
MANY = 3_000_000
JOINT = 8  # draws of the prior that tell engines the range of positions and sizes
EngineChoice = str | Callable[..., Engine]
JAX_CANNOT = (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError)
NOT_COMPILED = "the model cannot be compiled: take functions from jax.numpy, not numpy or math, and jnp.where for if"


class Posterior(eqx.Module):
    """Posterior of the parameters of `model`, given events.

    **Arguments:**

    - `model`: function from a dict of parameters to a [`gammajax.Mixture`][]; ties and transforms are Python.
    - `priors`: numpyro distribution for each parameter.
    - `observations`, `events`: the data. `observations` may be the pair that `gammajax.io.read_gadf` returns; `events`
      may be the cells that [`gammajax.Events.compress`][] returns.
    - `engine`: "kernel", "fold", "direct" or "dense", for all sources or by name of component. The default is "kernel",
      or "fold" for components with a free morphology. Instead of a name it may be a function like
      [`gammajax.engines.Engine.init`][], for example `functools.partial(gj.engines.DenseEngine.init, method="linear")`,
      or a [`gammajax.engines.PreparedKernel`][], which serves many lists of events.
    - `per_decade`: true-energy nodes per decade; `bands`: nodes kept per event (default: set by the response).
    - `mesh`: devices that share the events, for example `jax.make_mesh((8,), ("events",))`; samplers need nothing else.
      With the devices of several processes, `gammajax.distributed.mesh()`, each process gives its own `events`, and all
      processes make the same calls.
    - `compact`: components without a free parameter keep their intensities instead of a kernel.
    - `dtype` of kernels and of other arrays with one number per event; sums over events are in double precision if
      x64 is on.
    - `progress`: show the progress of a long set-up.

    A mixture with weights has the mixture likelihood, a mixture without weights the extended likelihood. Components of
    inner mixtures are named by their path, as in "signal/W".

    Raises `ValueError` for priors with units or other types than distributions, for a model that needs other parameters
    or cannot be compiled, if an event cannot come from any component, if a prior leaves the range of a spectrum,
    if a component expects no events, if a template ends inside a field of view, if the kernel engine is chosen for
    a free morphology or the fold engine for a morphology that changes with energy, and if the table of a dense engine
    is too large.

    All methods of parameters are pure: they work under `jax.jit`, `jax.grad` and `jax.vmap`. A function compiled by
    `jax.jit` holds the events as constants; for millions of events pass the posterior as an argument, as in
    `jax.jit(lambda posterior, p: posterior.log_likelihood(p))`. Direct calls raise `ValueError` for parameters
    of other names or shapes than the priors, and for NaN; under transformations NaN gives NaN.
    """

    model: Callable[[Parameters], Mixture] = eqx.field(static=True)
    priors: dict[str, Distribution]
    _aside: Aside = eqx.field(static=True)  # the observations
    data: Events | Cells  # of each row
    engines: dict[str, Engine]
    count: Integer[Array, " row"]  # events of each row, zero for padding
    reference: Float[Array, " row"]
    reference_parameters: Parameters
    names: tuple[str, ...] = eqx.field(static=True)  # order of the priors: jax sorts dicts

    # by identity: jax.jit needs a hash of the function, and a bound method uses the hash of its object
    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Numbers of events and observations, engines of the components, and priors."""
        # without `total`: all processes would have to ask for it
        cells = f" in {length(self.data.count)} cells" if isinstance(self.data, Cells) else ""
        engines = [f"{name}: {type(engine).__name__}" for name, engine in self.engines.items()]
        return block(
            f"Posterior of {number_of(len(self.priors), 'parameter')} given {total(self.count)} events{cells} in "
            f"{number_of(len(self.observations), 'observation')}",
            f"components {listed(engines)}",
            *rows([f"{name}: {text(self.priors[name])}" for name in self.names]),
        )

    def __init__(
        self,
        model: Callable[[Parameters], Mixture],
        priors: dict[str, Distribution],
        observations: Any,
        events: Events | Cells | None = None,
        *,
        engine: EngineChoice | dict[str, EngineChoice] | None = None,
        per_decade: float = PER_DECADE,
        bands: int | None = None,
        mesh: Mesh | None = None,
        compact: bool = True,
        dtype: Any = np.float32,
        progress: bool = True,
    ):
        observations, events = _data(observations, events)
        # jit traces every new array; other transformations trace arrays that depend on their arguments
        if not is_concrete(jnp.zeros(()), priors, observations, events):
            raise ValueError(
                "a Posterior cannot be made inside jit, grad or vmap: make it outside, and use it or give it as an "
                "argument inside"
            )
        check_priors(priors)
        self.model, self.priors, self._aside = model, dict(priors), Aside(observations)
        self.names = tuple(priors)
        start = {name: centre(prior) for name, prior in self.priors.items()}
        mixture = mixture_of(model, start)
        variants = explore_priors(model, self.priors, start, mixture)
        try:
            depends = dependence(model, start)
        except JAX_CANNOT as error:
            raise ValueError(NOT_COMPILED) from error
        for name in depends.unused:
            _warn(f"the model does not use {name!r}: leave out its prior, or use it")
        if any(o.exclusion is not None for o in observations) and not any(o.excludes for o in observations):
            _warn("the excluded sky lies in none of the fields of view; are its frame and place right?")
        if not events.total and mixture.weighted:
            raise ValueError(
                "there are no events: fractions of none mean nothing; use a model of absolute fluxes, without weights"
            )
        variants += _together(model, self.priors)
        rows = Rows.init(events, observations, per_decade, bands, mesh, dtype, progress)
        with Progress(rows.progress, "set-up", DELAY):
            self.engines = _prepare(mixture, observations, rows, engine, depends, variants, compact)
        self.count = rows.place(rows.count)
        self.data = _of_rows(rows)
        self.reference_parameters = start
        self.reference = jnp.zeros(0)  # set below
        total = self.total
        if total > MANY and jnp.result_type(float) != jnp.float64:
            _warn(
                f"log-likelihoods of {total} events are rounded to about {6e-8 * total:.1g} in single "
                "precision, too much for samplers; switch on jax_enable_x64 (kernels stay in single precision)"
            )
        try:
            counts = eqx.filter_jit(Posterior.expected_counts)(self, start)
        except JAX_CANNOT as error:
            raise ValueError(NOT_COMPILED) from error
        for name, count in counts.items():
            if not float(count.sum()) > 0:
                raise ValueError(f"component {name!r} expects no events in the selection")
        self.reference = eqx.filter_jit(Posterior.density)(self, start)
        possible = distributed.local(self.reference > 0)  # compare first: a local copy of the references is large
        with distributed.together(rows.shared):
            impossible = np.flatnonzero(~possible & rows.valid)
            if impossible.size:
                row = impossible[0]
                energy, _, lon, lat, _ = (column.mean() for column in rows.points(impossible[:1]))
                kind, of = "cell" if isinstance(events, Cells) else "event", observations[rows.observation[row]]
                raise ValueError(
                    f"{kind} {rows.index[row]} ({energy:.4g} TeV at {lon:.4f}, {lat:.4f} deg, observation {of.obs_id}) "
                    f"cannot come from any component; {impossible.size} such {kind}s: restrict energy_range or "
                    "offset_max to where the response is defined"
                )

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The observations."""
        return self._aside.value

    @property
    def events(self) -> Events | Cells:
        """Events or cells of this process, sorted by energy, without truth columns."""
        valid = distributed.local(self.count) > 0
        if isinstance(self.data, Cells):
            columns = (self.data.observation, self.data.cell, self.data.count)
            return Cells(self.data.binning, *(distributed.local(column)[valid] for column in columns))
        return jax.tree.map(lambda column: distributed.local(column)[valid], self.data)

    @property
    def total(self) -> int:
        """Number of events, of all processes."""
        shared = distributed.spans(self.count)
        return int(distributed.over(shared, np.sum, distributed.local(self.count).sum(dtype=np.int64)))

    def expected_counts(self, parameters: Parameters) -> dict[str, Float[Array, " observation"]]:
        """Expected counts of every component in the selection of every observation, by its absolute flux."""
        return self._counts(self._mixture(parameters))

    def log_likelihood_ratio(self, parameters: Parameters) -> Float[Array, ""]:
        """Value of log L relative to the reference, accurate in single precision; samplers use it."""
        mixture = self._mixture(parameters)
        value = sum_of_logs(self._density(mixture), self.reference, self.count)
        if not mixture.weighted:
            value = value - self._total_between(self._mixture(self.reference_parameters), mixture)
        return value

    def log_likelihood(self, parameters: Parameters) -> Float[Array, ""]:
        """Value of log L (module [`gammajax.likelihood`][]); single precision loses its last digits for many events."""
        return self.log_likelihood_ratio(parameters) + self.log_reference

    @property
    def log_reference(self) -> Float[Array, ""]:
        """Value of log L at the reference parameters: `log_likelihood` minus `log_likelihood_ratio`."""
        value = sum_of_logs(self.reference, jnp.ones_like(self.reference), self.count)
        mixture = self._mixture(self.reference_parameters)
        return value if mixture.weighted else value - self._total(mixture)

    def log_reference_exact(self) -> float:
        """`log_reference` in double precision, on the host: for evidences, which are differences of large numbers."""
        count, reference = (distributed.local(array) for array in (self.count, self.reference))
        value = count[count > 0] @ np.log(reference[count > 0].astype(np.float64))
        value = float(distributed.over(distributed.spans(self.count), np.sum, value))
        mixture = self._mixture(self.reference_parameters)
        return value if mixture.weighted else value - float(self._total(mixture))

    def log_prior(self, parameters: Parameters) -> Float[Array, ""]:
        """Logarithm of the prior density."""
        self._check(parameters)
        return sum(
            (jnp.sum(prior.log_prob(parameters[name])) for name, prior in self.priors.items()), start=jnp.zeros(())
        )

    def prior_transform(self, u: Float[Array, " number"]) -> dict[str, Any]:
        """Parameters at a point of the unit cube of `cube_size` dimensions, in the order of the priors.

        For nested sampling. A vector of n elements takes n numbers; n fractions that add up to one take n - 1.
        Raises `ValueError` for another number of dimensions, and for concrete numbers outside the cube.
        """
        if jnp.shape(u) != (self.cube_size,):
            raise ValueError(f"a point of the unit cube has shape {(self.cube_size,)}, not {jnp.shape(u)}")
        if is_concrete(u) and not np.all((np.asarray(u) >= 0) & (np.asarray(u) <= 1)):
            raise ValueError(f"the numbers of a point of the unit cube must lie between 0 and 1: {np.asarray(u)}")
        parameters, first = {}, 0
        for name in self.names:
            size = cube_size(self.priors[name])
            parameters[name] = from_cube(self.priors[name], u[first : first + size])
            first += size
        return parameters

    @property
    def cube_size(self) -> int:
        """Dimensions of the unit cube of [`Posterior.prior_transform`][]."""
        return sum(cube_size(prior) for prior in self.priors.values())

    def sample_prior(self, key: PRNGKeyArray) -> Parameters:
        """One draw from the prior."""
        keys = jax.random.split(key, len(self.names))
        return {name: jnp.asarray(self.priors[name].sample(k)) for k, name in zip(keys, self.names, strict=True)}

    def fractions(self, parameters: Parameters) -> dict[str, Float[Array, ""]]:
        """Fraction of the detected events of every component and every inner mixture, by path."""
        mixture = self._mixture(parameters)
        return mixture.node_fractions(self._totals(mixture))

    def flux_scales(self, parameters: Parameters) -> dict[str, Float[Array, ""]]:
        """Factor on each component's absolute flux that yields its fraction of the observed events.

        s_i = w_i n / N_i with n observed events. Quantities proportional to the flux scale with it: the fraction
        corresponds to the model's `sigma_v` times the scale. The scale is one for a model without weights, and infinite
        for a component that expects no events but has a weight.
        """
        mixture = self._mixture(parameters)
        totals = self._totals(mixture)
        if not mixture.weighted:
            return {path: jnp.ones(()) for path in totals}
        events, scales = self.count.sum(), {}
        for path, fraction in mixture.component_fractions(totals).items():
            some = ~(totals[path] <= LEAST_COUNTS)
            scale = fraction * events / jnp.where(some, totals[path], 1.0)
            scales[path] = jnp.where(some, scale, jnp.where(fraction > 0, jnp.inf, 0.0))
        return scales

    def scaled_fractions(
        self, parameters: Parameters, scales: dict[str, Float[Array, ""] | float]
    ) -> dict[str, Float[Array, ""]]:
        """Fraction of the observed events of each component, if its flux is `scales` times the model's.

        The inverse of [`Posterior.flux_scales`][]: w_i = s_i N_i / n.
        Raises `ValueError` for an unknown component, and for NaN.
        """
        totals, events = self._totals(self._mixture(parameters)), self.count.sum()
        for path in scales:
            if path not in totals:
                raise ValueError(f"{path!r} is no component; the components are {list(totals)}")
            if is_concrete(scales[path]) and np.isnan(np.asarray(scales[path])):
                raise ValueError(f"the scale of {path!r} is not a number")
        return {path: scale * totals[path] / events for path, scale in scales.items()}

    def counts(self, parameters: Parameters) -> dict[str, Float[Array, " observation"]]:
        """Events of every component in every observation, by the model's fractions or absolute fluxes.

        Zero for a component without expected counts, for any fraction.
        """
        scales, expected = self.flux_scales(parameters), self.expected_counts(parameters)
        return {
            path: counts * jnp.where(jnp.isposinf(scales[path]), 0.0, scales[path]) for path, counts in expected.items()
        }

    def with_reference(self, parameters: Parameters) -> "Posterior":
        """The same posterior with another reference point; the ratio is most accurate near it."""
        return eqx.tree_at(
            lambda p: (p.reference, p.reference_parameters), self, (self.density(parameters), dict(parameters))
        )

    def density(self, parameters: Parameters) -> Float[Array, " row"]:
        """Density of every row, with padding: mixture density, or total intensity for absolute fluxes."""
        return self._density(self._mixture(parameters))

    def _mixture(self, parameters) -> Mixture:
        self._check(parameters)
        return self.model(parameters)

    def _check(self, parameters):
        """Raise `ValueError` for parameters that do not match the priors, and for concrete NaN."""
        if not isinstance(parameters, Mapping) or set(parameters) != set(self.names):
            given = sorted(parameters) if isinstance(parameters, Mapping) else f"a {type(parameters).__name__}"
            raise ValueError(f"the parameters are a dict of {sorted(self.names)}, not {given}")
        for name, prior in self.priors.items():
            value = parameters[name]
            if jnp.shape(value) != shape(prior):
                raise ValueError(f"parameter {name!r} has shape {jnp.shape(value)}, its prior has {shape(prior)}")
            if is_concrete(value) and np.any(np.isnan(np.asarray(value))):
                raise ValueError(f"parameter {name!r} is not a number: {np.asarray(value)}")

    def _density(self, mixture):
        parts = mixture.components.items()
        intensities = [or_undefined(part, self.engines[name].intensity(part)) for name, part in parts]
        if not mixture.weighted:
            return sum(intensities[1:], start=intensities[0])
        totals = self._totals(mixture)
        fractions = mixture.component_fractions(totals)
        return mixture_density(intensities, *(jnp.stack(list(column.values())) for column in (totals, fractions)))

    def _counts(self, mixture):
        parts = mixture.components.items()
        return {name: or_undefined(part, self.engines[name].expected_counts(part)) for name, part in parts}

    def _totals(self, mixture):
        return {name: counts.sum() for name, counts in self._counts(mixture).items()}

    def _total_between(self, reference, mixture):
        """Difference of the expected counts of two mixtures, by component: the totals are large."""
        total = jnp.zeros(())
        for (name, part), before in zip(mixture.components.items(), reference.components.values(), strict=True):
            total = total + or_undefined(part, self.engines[name].counts_between(before, part)).sum()
        return total

    def _total(self, mixture):
        return sum(self._totals(mixture).values(), start=jnp.zeros(()))


@overload
def intensity(component: Component, observations, events: Events, engine: str = "kernel", **options) -> Array: ...


@overload
def intensity(
    component: Mixture, observations, events: Events, engine: str = "kernel", **options
) -> dict[str, Array]: ...


def intensity(
    component: Component | Mixture, observations, events: Events, engine: str = "kernel", **options
) -> Float[Array, " event"] | dict[str, Float[Array, " event"]]:
    """Intensity lambda [TeV^-1 sr^-1] of one component at every event, by absolute flux; of a mixture by component.

    `observations` is one observation or a list; `engine` as in [`gammajax.Posterior`][], but for "dense"; `options` as
    there (`per_decade`, `bands`). Differentiable in the component's parameters;
    "kernel" in those of the spectrum only.
    Raises `ValueError` for anything else in their places.
    """
    require_component(component, "intensity")
    observations = as_tuple(observations)
    _require_events(events)
    if isinstance(component, Mixture):
        parts = component.components.items()
        return {path: intensity(part, observations, events, engine, **options) for path, part in parts}
    with jax.ensure_compile_time_eval():
        _check_fields(component, observations)
        rows = Rows.init(events, observations, **options)
        built = _engine_init(component, engine)(component, observations, rows)
        inverse = np.empty(len(events), int)
        inverse[rows.index[rows.valid]] = np.flatnonzero(rows.valid)
    return or_undefined(component, built.intensity(component)[inverse])


@overload
def expected_counts(component: Component, observations, engine: str = "kernel", **options) -> Array: ...


@overload
def expected_counts(component: Mixture, observations, engine: str = "kernel", **options) -> dict[str, Array]: ...


def expected_counts(
    component: Component | Mixture, observations, engine: str = "kernel", **options
) -> Float[Array, ""] | dict[str, Float[Array, ""]]:
    """Expected counts N of one component, summed over the selections of one or several observations.

    Of a mixture those of every component by path, by absolute fluxes whatever its weights.
    Raises `ValueError` for anything else, such as a model that is not called.

    >>> import gammajax as gj
    >>> observation = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> source = gj.Source(gj.PowerLaw(2.3, 1e-12), gj.Point(0.3, 0.0))
    >>> counts = gj.expected_counts(gj.Mixture(source=source, sky=gj.InstrumentBackground()), observation)
    >>> list(counts)
    ['source', 'sky']
    """
    require_component(component, "expected_counts")
    observations = as_tuple(observations)
    if isinstance(component, Mixture):
        parts = component.components.items()
        return {path: expected_counts(part, observations, engine, **options) for path, part in parts}
    with jax.ensure_compile_time_eval():
        _check_fields(component, observations)
        rows = Rows.init(Events([], [], []), observations, **options)  # counts need no events
        built = _engine_init(component, engine)(component, observations, rows)
    return or_undefined(component, built.expected_counts(component).sum())


def _warn(message: str) -> None:
    """Warn at the line that makes the posterior: equinox adds two calls on the stack."""
    warnings.warn(message, stacklevel=5)


def _data(observations, events) -> tuple[tuple[Observation, ...], Events | Cells]:
    """Observations and events, given separately or as the pair that read_gadf returns."""
    if events is None:
        if not (isinstance(observations, tuple) and len(observations) == 2 and isinstance(observations[0], Events)):
            raise ValueError("give observations and events, or the pair (events, observations) of read_gadf")
        events, observations = observations
    observations = as_tuple(observations)
    _require_events(events)
    return observations, events


def _require_events(events) -> None:
    if not isinstance(events, Events | Cells):
        kind = article(type(events).__name__)
        raise ValueError(f"events must be gammajax.Events(energy, lon, lat, observation) or Cells, not {kind}")


def _check_fields(component, observations) -> None:
    if isinstance(component, Source):
        for observation in observations:
            component.morphology.check_field(observation)


def _of_rows(rows: Rows) -> Events | Cells:
    """Events or cells of the rows, on their devices: every call would transfer leaves on the host.

    With padding, so that data sets of similar size share compiled functions.
    """

    def place(column):
        return rows.place(column[rows.index])

    if isinstance(rows.data, Events):
        return jax.tree.map(place, rows.data.without_truth())
    # edges stay on the host, in double precision
    return eqx.tree_at(lambda c: [c.observation, c.cell, c.count], rows.data, replace_fn=place)


def _engine_init(component, engine: EngineChoice) -> Callable[..., Engine]:
    if isinstance(component, InstrumentBackground):
        return BackgroundEngine.init
    if not isinstance(engine, str):
        return engine
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; the engines are {', '.join(ENGINES)}")
    return ENGINES[engine].init


def _prepare(mixture, observations, rows, engine, depends: Dependence, variants, compact: bool):
    """One engine for each component; components that share a morphology share its kernel.

    If `compact`, components without a free parameter keep intensities instead of a kernel.
    """
    free = {path: names[0] for path, names in depends.morphologies.items() if names}
    fixed = [path for path, names in depends.components.items() if not names] if compact else []
    chosen = engine if isinstance(engine, dict) else {}
    unknown = [name for name in chosen if name not in mixture.components]
    if unknown:
        raise ValueError(f"engine names unknown components {unknown}; the components are {list(mixture.components)}")
    parts, inits = mixture.components, {}
    for name, component in parts.items():
        _check_fields(component, observations)
        default = engine if engine and not chosen else ("fold" if name in free else "kernel")
        inits[name] = _engine_init(component, chosen.get(name, default))
    engines, kernels = {}, []
    # the background first: its temporary arrays are freed before kernels exist; fixed components last: a kernel of
    # their morphology may exist by then
    order = sorted(parts, key=lambda name: (not isinstance(parts[name], InstrumentBackground), name in fixed))
    for name in order:
        component, init = parts[name], inits[name]
        ours = [other.components[name] for other in variants]
        if name in engines:
            continue
        say(f"engine of {name}")
        if init == KernelEngine.init or isinstance(init, PreparedKernel):
            if name in free:
                raise ValueError(
                    f"the morphology of component {name!r} depends on parameter {free[name]!r}, but the kernel engine "
                    "keeps it fixed; use engine='fold'"
                )
            same = [built for morphology, built in kernels if is_same(morphology, component.morphology)]
            alike, responses = [name], None
            if isinstance(init, PreparedKernel):
                responses = init.responses_of([component, *ours], observations, rows)
            if same:
                engines[name] = FixedEngine.of_kernel(same[0], component) if name in fixed else same[0]
            elif name in fixed:
                if responses is None:
                    alike = [other for other in fixed if inits[other] == init]
                    alike = [other for other in alike if is_same(parts[other].morphology, component.morphology)]
                    responses = folded(component.morphology, observations, rows.nodes)
                engines |= zip(alike, FixedEngine.of([parts[other] for other in alike], responses, rows), strict=True)
            else:
                engines[name] = init(component, observations, rows)
                kernels.append((component.morphology, engines[name]))
        elif name in fixed and init == BackgroundEngine.init:
            engines[name] = FixedEngine.init(component, observations, rows)
        else:
            engines[name] = init(component, observations, rows, ours)
    return {name: engines[name] for name in parts}


def explore_priors(model, priors, start, mixture) -> list[Mixture]:
    """Mixtures at the ends of every prior: for validation, and for the reach of positions and sizes.

    Raises `ValueError` naming the prior if a spectrum refuses one of these values.
    """
    variants = []
    for name, prior in priors.items():
        for value in extremes(prior):
            try:
                changed = model({**start, name: value})
            except ValueError as error:
                reached = ", ".join(f"{number:g}" for number in np.ravel(value))
                raise ValueError(f"the prior of {name!r} reaches {reached}: {error}") from error
            if list(changed.components) != list(mixture.components) or changed.weighted != mixture.weighted:
                raise ValueError(f"the model's components or weights change with {name!r}; they must stay the same")
            variants.append(changed)
    return variants


def _together(model, priors) -> list[Mixture]:
    """Mixtures with all parameters at their low or high ends, or at draws: products reach further than their factors.

    Points that the model refuses are left out.
    """
    ends = [extremes(prior) for prior in priors.values()]
    points = [dict(zip(priors, [of[which] for of in ends], strict=True)) for which in (0, -1)]
    keys = jax.random.split(jax.random.key(0), (JOINT, len(priors)))
    points += [{name: prior.sample(k) for k, (name, prior) in zip(row, priors.items(), strict=True)} for row in keys]
    found = []
    for point in points:
        with contextlib.suppress(ValueError):
            found.append(model(point))
    return found
