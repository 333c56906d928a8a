"""Posterior: a model, priors and data, as pure functions of a dict of parameters."""

import functools
import inspect
import operator
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Integer, Num, PRNGKeyArray
from numpyro.distributions import Distribution

from gammajax.common import distributed, trees
from gammajax.common.display import block, document, number_of, rows, text, words
from gammajax.common.parameters import is_concrete
from gammajax.engines import Engine
from gammajax.engines.choice import EngineChoice, explore
from gammajax.engines.rows import PER_DECADE
from gammajax.events.cells import Cells
from gammajax.events.event_list import Events
from gammajax.instrument.observation import Observation
from gammajax.likelihood import Data, Unbinned, UnbinnedTerm
from gammajax.likelihood.term import Parameters, Reference, Setup, Term, require_expected
from gammajax.model.mixture import Mixture, mixture_of
from gammajax.model.priors import all_from_cube, centre, check_parameters, check_priors, cube_size

# above this number of events, single precision rounds scalars too much: at 9e5 and 3e6 events the q of a profile is off
# by 0.02 and 0.06 (rms; measured with a weak source above a background of free norm and tilt)
MANY = 3_000_000
KIND = "posterior"  # of a file
SAVED = ("priors", "terms", "reference_parameters", "names")  # fields in a file; the model is code


class Posterior(eqx.Module):
    """Posterior of the parameters of `model`, given events or several data sets.

        ln p(theta | data) = ln prior(theta) + Sum over data sets of ln L(data | theta) + constant

    **Arguments:**

    - `model`: function from a dict of parameters to a [`gammajax.Mixture`][]; ties and transforms are Python.
    - `priors`: numpyro distribution for each parameter.
    - `observations`, `events`: the data. `observations` may be the pair that `gammajax.io.read_gadf` returns; `events`
      may be the cells that [`gammajax.Events.compress`][] returns. In their place may be one or several data sets, as
      in `[gj.Unbinned(observations, events), *gj.io.from_gammapy_datasets(path)]`: their log-likelihoods add up, so
      fluxes must be absolute, and the options of engines are those of each data set.
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

    >>> import gammajax as gj, jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), run, events=200)
    >>> priors = {"fraction": dist.Uniform(0.0, 1.0)}
    >>> posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    >>> low, high = (posterior.log_likelihood({"fraction": jnp.array(fraction)}) for fraction in (0.2, 0.9))
    >>> bool(low > high)
    True
    """

    model: Callable[[Parameters], Mixture] = eqx.field(static=True)
    priors: dict[str, Distribution]
    terms: tuple[Term, ...]  # one for each data set
    reference_parameters: Parameters
    names: tuple[str, ...] = eqx.field(static=True)  # order of the priors: jax sorts dicts

    # by identity: jax.jit needs a hash of the function, and a bound method uses the hash of its object
    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Numbers of events and observations, engines of the components, and priors."""
        of = f"Posterior of {number_of(len(self.priors), 'parameter')} given "
        if len(self.terms) == 1:
            head, *more = repr(self.terms[0]).splitlines()
            details = [" ".join(line.strip() for line in more)] if more else []
            return block(of + head, *details, *rows([f"{name}: {text(self.priors[name])}" for name in self.names]))
        sets = [f"{term.name}: {repr(term).splitlines()[0]}" for term in self.terms]
        return block(
            of + f"{len(self.terms)} data sets",
            *rows(sets, 5),
            *rows([f"{name}: {text(self.priors[name])}" for name in self.names], 5),
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
        options = {"engine": engine, "per_decade": per_decade, "bands": bands, "mesh": mesh}
        data = _data_sets(observations, events, {**options, "compact": compact, "dtype": dtype})
        # jit traces every new array; other transformations trace arrays that depend on their arguments
        if not is_concrete(jnp.zeros(()), priors, *(vars(one) for one in data)):
            raise ValueError(
                "a Posterior cannot be made inside jit, grad or vmap: make it outside, and use it or give it as an "
                "argument inside"
            )
        check_priors(priors)
        self.model, self.priors = model, dict(priors)
        self.names = tuple(priors)
        self.reference_parameters = {name: centre(prior) for name, prior in self.priors.items()}
        explored = explore(model, self.priors, self.reference_parameters)
        for name in explored.dependence.unused:
            _warn(f"the model does not use {name!r}: leave out its prior, or use it")
        alone = len(data) == 1
        if explored.mixture.weighted and not alone:
            raise ValueError(
                "weights are fractions of the events of one data set; several data sets need absolute fluxes: a "
                "Mixture without weights"
            )
        setup = Setup(model, self.reference_parameters, explored, "events", alone, progress)
        names = [one.name or ("events" if alone else f"data set {i + 1}") for i, one in enumerate(data)]
        if len(set(names)) < len(names):
            raise ValueError(f"data sets need different names, not {names}")
        self.terms = tuple(one.prepare(setup._replace(name=name)) for one, name in zip(data, names, strict=True))
        require_expected(explored.mixture, self.terms)
        _warn_of_rounding(self.total, stacklevel=6)

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The observations of events."""
        return self._events_term("observations").observations

    @property
    def data(self) -> Events | Cells:
        """Events or cells of each row, with padding."""
        return self._events_term("data").data

    @property
    def events(self) -> Events | Cells:
        """Events or cells of this process, sorted by energy, without truth columns."""
        return self._events_term("events").events

    @property
    def engines(self) -> dict[str, Engine]:
        """Engine of every component."""
        return self._events_term("engines").engines

    @property
    def count(self) -> Integer[Array, " row"]:
        """Number of events of each row, zero for padding."""
        return self._events_term("count").count

    @property
    def reference(self) -> Float[Array, " row"]:
        """Density of each row at the reference parameters."""
        return self._events_term("reference").reference.rows

    @property
    def total(self) -> int:
        """Number of events, of all data sets and processes."""
        return sum(term.total for term in self.terms)

    def save(self, path) -> None:
        """Write all that has been prepared to one file at `path`, which [`gammajax.load_posterior`][] reads.

        The file holds engines, data and priors, but no code: keep the function of the model beside it. It is about as
        large as the posterior in memory. Raises `ValueError` for parts that a file cannot hold, such as an engine or a
        morphology of your own, and for a posterior that several processes share.

        >>> import gammajax as gj, jax, numpyro.distributions as dist, tempfile
        >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
        >>> def model(p):
        ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11 * p["flux"]), gj.Point(0.3, 0.0))
        ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground())
        >>> events = gj.simulate(jax.random.key(0), model({"flux": 1.0}), run)
        >>> posterior = gj.Posterior(model, {"flux": dist.Uniform(0.0, 5.0)}, run, events, per_decade=20.0)
        >>> path = tempfile.mkdtemp() + "/posterior.npz"
        >>> posterior.save(path)
        >>> again = gj.load_posterior(path, model)
        >>> p = {"flux": jax.numpy.array(2.0)}
        >>> bool(again.log_likelihood(p) == posterior.log_likelihood(p))
        True
        """
        if distributed.spans(self):
            raise ValueError("a posterior that several processes share cannot be saved: prepare it in one process")
        parts = {name: getattr(self, name) for name in SAVED}
        trees.write_tree(path, parts, {"gammajax": version("gammajax"), "kind": KIND, "parameters": list(self.names)})

    def log_likelihood_ratio(self, parameters: Parameters) -> Float[Array, ""]:
        """Value of log L relative to the reference, accurate in single precision; samplers use it."""
        mixture = self._mixture(parameters)
        return _sum(term.log_likelihood_ratio(mixture) for term in self.terms)

    def log_likelihood(self, parameters: Parameters) -> Float[Array, ""]:
        """Value of log L (module [`gammajax.likelihood`][]); single precision loses its last digits for many events."""
        return self.log_likelihood_ratio(parameters) + self.log_reference

    @property
    def log_reference(self) -> Float[Array, ""]:
        """Value of log L at the reference parameters: `log_likelihood` minus `log_likelihood_ratio`."""
        return _sum(term.log_reference for term in self.terms)

    def log_reference_exact(self) -> float:
        """`log_reference` in double precision, on the host: for evidences, which are differences of large numbers."""
        return sum(term.log_reference_exact() for term in self.terms)

    def density(self, parameters: Parameters) -> Float[Array, " row"]:
        """Density of every row, with padding: mixture density, or total intensity for absolute fluxes."""
        return self._events_term("density").density(self._mixture(parameters))

    def with_reference(self, parameters: Parameters) -> "Posterior":
        """The same posterior with another reference point; the ratio is most accurate near it."""
        mixture = self._mixture(parameters)
        terms = tuple(term.with_reference(mixture) for term in self.terms)
        return eqx.tree_at(lambda p: (p.terms, p.reference_parameters), self, (terms, dict(parameters)))

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
        """Expected counts of every component in the selection of every observation, by its absolute flux.

        The observations of all data sets, one after the other; zero where a data set does not see the component.
        """
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
        return mixture.flux_scales(_totals(self._counts(mixture)), self._number)

    def scaled_fractions(
        self, parameters: Parameters, scales: dict[str, Float[Array, ""] | float]
    ) -> dict[str, Float[Array, ""]]:
        """Fraction of the observed events of each component, if its flux is `scales` times the model's.

        The inverse of [`Posterior.flux_scales`][]: w_i = s_i N_i / n.
        Raises `ValueError` for an unknown component, and for NaN.
        """
        totals, events = _totals(self.expected_counts(parameters)), self._number
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
        scales = mixture.flux_scales(_totals(expected), self._number)
        return {
            path: counts * jnp.where(jnp.isposinf(scales[path]), 0.0, scales[path]) for path, counts in expected.items()
        }

    def _mixture(self, parameters) -> Mixture:
        check_parameters(parameters, self.priors)
        return self.model(parameters)

    def _counts(self, mixture) -> dict[str, Float[Array, " observation"]]:
        """Expected counts of every component, in the observations of all data sets."""
        parts = [term.expected_counts(mixture) for term in self.terms]
        if len(parts) == 1:
            return parts[0]
        none = [jnp.zeros(len(term.labels)) for term in self.terms]
        return {
            path: jnp.concatenate([part.get(path, zero) for part, zero in zip(parts, none, strict=True)])
            for path in mixture.components
        }

    def _alone(self, term: Term) -> "Posterior":
        """The posterior of one of its data sets."""
        return eqx.tree_at(lambda p: p.terms, self, (term,))

    @property
    def _number(self) -> Num[Array, ""]:
        """Number of observed events, as an array."""
        return functools.reduce(operator.add, (term.number for term in self.terms))

    def _events_term(self, what: str) -> UnbinnedTerm:
        """The only term, if it is of events."""
        term = self.terms[0]
        if len(self.terms) > 1 or not isinstance(term, UnbinnedTerm):
            names = [term.name for term in self.terms]
            raise ValueError(
                f"the posterior's {what} are those of a single data set of events; this posterior has the terms {names}"
            )
        return term


def load_posterior(path, model: Callable[[Parameters], Mixture]) -> Posterior:
    """Return the posterior that [`gammajax.Posterior.save`][] wrote to `path`, on the default device of this process.

    It needs neither astropy nor gammapy, so a machine with an accelerator needs only JAX and the samplers. `model` is
    the function that the posterior was made with; at the reference parameters its intensities and expected counts must
    be those of the file to 1 %.

    Raises `ValueError` for another kind of file or a damaged one, for a file of a version with other modules, and for a
    model with other parameters, components or values; `FileNotFoundError` if there is no file.

    >>> import gammajax as gj
    >>> gj.load_posterior("none.npz", lambda p: gj.Mixture(sky=gj.InstrumentBackground()))
    Traceback (most recent call last):
        ...
    FileNotFoundError: none.npz: no such file
    """
    saved, header = trees.read_tree(path, KIND)
    if header.get("kind") != KIND or not isinstance(saved, dict) or set(saved) != set(SAVED):
        raise ValueError(f"{path}: not a {KIND} that gammajax wrote")
    posterior = object.__new__(Posterior)
    for name, value in {"model": model, **saved}.items():
        object.__setattr__(posterior, name, value)
    mixture = mixture_of(model, posterior.reference_parameters)
    for term in posterior.terms:
        try:
            now = eqx.filter_jit(term.refer)(mixture)
        except (TypeError, ValueError) as error:  # of shapes
            line = str(error).splitlines()[0]
            raise ValueError(f"{path}: its arrays do not fit this model, or one another ({line})") from error
        _require_same(path, term.reference, now)
    _warn_of_rounding(posterior.total, stacklevel=4)
    return posterior


def _require_same(path, before: Reference, now: Reference) -> None:
    """Raise `ValueError` if a model gives other values than those of the file."""
    if set(before.counts) != set(now.counts):
        raise ValueError(f"{path} has the components {sorted(before.counts)}, but the model has {sorted(now.counts)}")
    for what, one, other in (
        ("rows", before.rows, now.rows),
        *((n, before.counts[n], now.counts[n]) for n in now.counts),
    ):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if one.shape != other.shape or not np.allclose(one.sum(), other.sum(), rtol=0.01):
            raise ValueError(
                f"{path}: the model gives other {'intensities' if what == 'rows' else f'counts of {what!r}'} at the "
                "reference parameters than that of the file; load it with the model that it was made with"
            )


def _warn_of_rounding(number: int, stacklevel: int) -> None:
    if number > MANY and jnp.result_type(float) != jnp.float64:
        _warn(
            f"log-likelihoods of {number} events are rounded to about {6e-8 * number:.1g} in single precision, "
            "too much for samplers; switch on jax_enable_x64 (kernels stay in single precision)",
            stacklevel,
        )


def _data_sets(observations, events, options) -> tuple[Data, ...]:
    """Data sets, given as such or as observations and events with the options of engines."""
    given = tuple(observations) if isinstance(observations, list | tuple) else (observations,)
    if not any(isinstance(one, Data) for one in given):
        return (Unbinned(observations, events, **options),)
    for one in given:
        if not isinstance(one, Data):
            raise ValueError(f"all data sets must be as gammajax.Unbinned(observations, events), not {one!r}")
    if events is not None:
        raise ValueError("give events with their observations: gammajax.Unbinned(observations, events)")
    usual = inspect.signature(Unbinned).parameters
    for name, value in options.items():
        if value != usual[name].default:
            raise ValueError(f"give {name} to the data set: gammajax.Unbinned(observations, events, {name}=...)")
    return given


def _sum(values) -> Float[Array, ""]:
    return functools.reduce(operator.add, values)


def _totals(counts) -> dict[str, Float[Array, ""]]:
    return {name: part.sum() for name, part in counts.items()}


def _warn(message: str, stacklevel: int = 5) -> None:
    """Warn at the line that makes the posterior: equinox adds two calls on the stack."""
    warnings.warn(message, stacklevel=stacklevel)
