"""Posterior: a model, priors and events, as pure functions of a dict of parameters."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Integer, PRNGKeyArray
from numpyro.distributions import Distribution

from gammajax.common import distributed
from gammajax.common.display import block, document, length, listed, number_of, rows, text, total, words
from gammajax.common.parameters import is_concrete
from gammajax.common.progress import DELAY, Progress
from gammajax.engines import Engine, Rows
from gammajax.engines.choice import JAX_CANNOT, NOT_COMPILED, EngineChoice, engines_of, explore
from gammajax.engines.engine import Expected
from gammajax.engines.rows import PER_DECADE, data_of
from gammajax.events.cells import Cells
from gammajax.events.event_list import Events
from gammajax.instrument.observation import Aside, Observation
from gammajax.likelihood import extended_likelihood, mixture_density, mixture_likelihood, sum_of_logs, total_intensity
from gammajax.model.mixture import Mixture, or_undefined
from gammajax.model.priors import all_from_cube, centre, check_parameters, check_priors, cube_size

Parameters = dict[str, Float[Array, "..."]]
# above this number of events, single precision rounds scalars too much: at 9e5 and 3e6 events the q of a profile is off
# by 0.02 and 0.06 (rms; measured with a weak source above a background of free norm and tilt)
MANY = 3_000_000


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
    _reference_counts: dict[str, Float[Array, "observation _"]]  # their terms, for absolute fluxes only
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
        observations, events = data_of(observations, events)
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
        explored = explore(model, self.priors, start)
        for name in explored.dependence.unused:
            _warn(f"the model does not use {name!r}: leave out its prior, or use it")
        if any(o.exclusion is not None for o in observations) and not any(o.excludes for o in observations):
            _warn("the excluded sky lies in none of the fields of view; are its frame and place right?")
        if not events.total and explored.mixture.weighted:
            raise ValueError(
                "there are no events: fractions of none mean nothing; use a model of absolute fluxes, without weights"
            )
        rows = Rows.init(events, observations, per_decade, bands, mesh, dtype, progress)
        with Progress(rows.progress, "set-up", DELAY):
            self.engines = engines_of(explored, rows, engine, compact)
        self.count, self.data = rows.place(rows.count), rows.placed_data()
        self.reference_parameters, self.reference, self._reference_counts = start, jnp.zeros(0), {}  # set below
        number = self.total
        if number > MANY and jnp.result_type(float) != jnp.float64:
            _warn(
                f"log-likelihoods of {number} events are rounded to about {6e-8 * number:.1g} in single precision, "
                "too much for samplers; switch on jax_enable_x64 (kernels stay in single precision)"
            )
        try:
            self.reference, self._reference_counts, totals = eqx.filter_jit(Posterior._refer)(self, start)
        except JAX_CANNOT as error:
            raise ValueError(NOT_COMPILED) from error
        for name in explored.mixture.components:
            if not float(totals[name]) > 0:
                raise ValueError(f"component {name!r} expects no events in the selection")
        rows.require_possible(self.reference)

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

    def log_likelihood_ratio(self, parameters: Parameters) -> Float[Array, ""]:
        """Value of log L relative to the reference, accurate in single precision; samplers use it."""
        mixture, expected = self._expected(parameters)
        intensities = [part.intensity for part in expected.values()]
        if mixture.weighted:
            return mixture_likelihood(intensities, *_shares(mixture, expected), self.reference, self.count)
        counts = [part.counts for part in expected.values()]
        before = [self._reference_counts[name] for name in expected]
        return extended_likelihood(intensities, counts, self.reference, before, self.count)

    def log_likelihood(self, parameters: Parameters) -> Float[Array, ""]:
        """Value of log L (module [`gammajax.likelihood`][]); single precision loses its last digits for many events."""
        return self.log_likelihood_ratio(parameters) + self.log_reference

    @property
    def log_reference(self) -> Float[Array, ""]:
        """Value of log L at the reference parameters: `log_likelihood` minus `log_likelihood_ratio`."""
        value = sum_of_logs(self.reference, jnp.ones_like(self.reference), self.count)
        return value - sum((counts.sum() for counts in self._reference_counts.values()), start=jnp.zeros(()))

    def log_reference_exact(self) -> float:
        """`log_reference` in double precision, on the host: for evidences, which are differences of large numbers."""
        count, reference = (distributed.local(array) for array in (self.count, self.reference))
        value = count[count > 0] @ np.log(reference[count > 0].astype(np.float64))
        value = float(distributed.over(distributed.spans(self.count), np.sum, value))
        counts = map(distributed.local, self._reference_counts.values())
        return value - float(sum(part.sum(dtype=np.float64) for part in counts))

    def density(self, parameters: Parameters) -> Float[Array, " row"]:
        """Density of every row, with padding: mixture density, or total intensity for absolute fluxes."""
        return _density(*self._expected(parameters))

    def with_reference(self, parameters: Parameters) -> "Posterior":
        """The same posterior with another reference point; the ratio is most accurate near it."""
        reference, counts, _ = self._refer(parameters)
        return eqx.tree_at(
            lambda p: (p.reference, p.reference_parameters, p._reference_counts),
            self,
            (reference, dict(parameters), counts),
        )

    def log_prior(self, parameters: Parameters) -> Float[Array, ""]:
        """Logarithm of the prior density."""
        check_parameters(parameters, self.priors)
        return sum(
            (jnp.sum(prior.log_prob(parameters[name])) for name, prior in self.priors.items()), start=jnp.zeros(())
        )

    def prior_transform(self, u: Float[Array, " number"]) -> dict[str, Any]:
        """Parameters at a point of the unit cube of `cube_size` dimensions, in the order of the priors.

        For nested sampling. A vector of n elements takes n numbers; n fractions that add up to one take n - 1.
        Raises `ValueError` for another number of dimensions, and for concrete numbers outside the cube.
        """
        return all_from_cube({name: self.priors[name] for name in self.names}, u)

    @property
    def cube_size(self) -> int:
        """Dimensions of the unit cube of [`Posterior.prior_transform`][]."""
        return sum(cube_size(prior) for prior in self.priors.values())

    def sample_prior(self, key: PRNGKeyArray) -> Parameters:
        """One draw from the prior."""
        keys = jax.random.split(key, len(self.names))
        return {name: jnp.asarray(self.priors[name].sample(k)) for k, name in zip(keys, self.names, strict=True)}

    def expected_counts(self, parameters: Parameters) -> dict[str, Float[Array, " observation"]]:
        """Expected counts of every component in the selection of every observation, by its absolute flux."""
        return self._counts(self._mixture(parameters))

    def fractions(self, parameters: Parameters) -> dict[str, Float[Array, ""]]:
        """Fraction of the detected events of every component and every inner mixture, by path."""
        mixture = self._mixture(parameters)
        return mixture.node_fractions(_totals(self._counts(mixture)))

    def flux_scales(self, parameters: Parameters) -> dict[str, Float[Array, ""]]:
        """Factor on each component's absolute flux that yields its fraction of the observed events.

        s_i = w_i n / N_i with n observed events. Quantities proportional to the flux scale with it: the fraction
        corresponds to the model's `sigma_v` times the scale. The scale is one for a model without weights, and infinite
        for a component that expects no events but has a weight.
        """
        mixture = self._mixture(parameters)
        return mixture.flux_scales(_totals(self._counts(mixture)), self.count.sum())

    def scaled_fractions(
        self, parameters: Parameters, scales: dict[str, Float[Array, ""] | float]
    ) -> dict[str, Float[Array, ""]]:
        """Fraction of the observed events of each component, if its flux is `scales` times the model's.

        The inverse of [`Posterior.flux_scales`][]: w_i = s_i N_i / n.
        Raises `ValueError` for an unknown component, and for NaN.
        """
        totals, events = _totals(self.expected_counts(parameters)), self.count.sum()
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
        mixture = self._mixture(parameters)
        expected = self._counts(mixture)
        scales = mixture.flux_scales(_totals(expected), self.count.sum())
        return {
            path: counts * jnp.where(jnp.isposinf(scales[path]), 0.0, scales[path]) for path, counts in expected.items()
        }

    def _mixture(self, parameters) -> Mixture:
        check_parameters(parameters, self.priors)
        return self.model(parameters)

    def _counts(self, mixture) -> dict[str, Float[Array, " observation"]]:
        """Expected counts of every component, without the intensities."""
        parts = mixture.components.items()
        return {name: or_undefined(part, self.engines[name].expected_counts(part)) for name, part in parts}

    def _expected(self, parameters) -> tuple[Mixture, dict[str, Expected]]:
        """The mixture, and the intensities and counts of every component."""
        mixture = self._mixture(parameters)
        parts = mixture.components.items()
        return mixture, {name: or_undefined(part, self.engines[name](part)) for name, part in parts}

    def _refer(self, parameters):
        """Density, terms of the counts that the extended likelihood needs (no others), and totals of all counts."""
        mixture, expected = self._expected(parameters)
        counts = {} if mixture.weighted else {name: part.counts for name, part in expected.items()}
        return _density(mixture, expected), counts, {name: part.counts.sum() for name, part in expected.items()}


def _density(mixture, expected) -> Float[Array, " row"]:
    intensities = [part.intensity for part in expected.values()]
    if mixture.weighted:
        return mixture_density(intensities, *_shares(mixture, expected))
    return total_intensity(intensities)


def _shares(mixture, expected) -> tuple[Float[Array, " component"], Float[Array, " component"]]:
    """Expected counts and fractions of all components."""
    totals = _totals({name: part.counts for name, part in expected.items()})
    return jnp.stack(list(totals.values())), jnp.stack(list(mixture.component_fractions(totals).values()))


def _totals(counts) -> dict[str, Float[Array, ""]]:
    return {name: part.sum() for name, part in counts.items()}


def _warn(message: str) -> None:
    """Warn at the line that makes the posterior: equinox adds two calls on the stack."""
    warnings.warn(message, stacklevel=5)
