"""The likelihood with constraint terms and some numbers fixed, and its maximum: for profiles, tests and sensitivities.

Priors of nuisances are constraint terms of L, like another measurement: a J-factor, a systematic error of a norm.
By default every prior counts except the prior of the profiled number, of which only the support is kept.
`constraints=["j"]` names the priors that count in full; `constraints=[]` keeps only supports.

A term is the density of the prior in the parameter itself. For transforms of a normal prior, and priors given in the
logarithm, it is the density in that variable: `LogNormal` is normal in ln v, with its maximum at the median.
`Gamma(n + 1, t)` is the likelihood of n counts in a time t, `Beta(k + 1, n - k + 1)` the likelihood of k counts out of
n. `Uniform` and `LogUniform` (flat in ln v, without a scale) are supports. If an Asimov data set replaces the
events, the constraining measurements are expectations too: terms have their maximum at its truth.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    Uniform,
    biject_to,
    constraints,
)
from numpyro.distributions.transforms import AffineTransform, ExpTransform

from gammajax.model.priors import centre, shape
from gammajax.posterior import Parameters
from gammajax.samplers.optimise import at_ends
from gammajax.samplers.peaks import NotFinite, find_peak
from gammajax.samplers.space import constrained, labels, referred

HELD = 1e3  # curvature in the direction of fixed numbers: similar to that of data, neither flat nor stiff


class Conditional(eqx.Module):
    """The likelihood of a posterior with constraint terms and some numbers fixed, flat inside the supports of priors.

    `counted` masks the numbers with priors as constraint terms, by parameter. `held` has a mask and values for each
    parameter with fixed numbers. A fixed number stays in the optimiser's vector, pinned by a quadratic penalty that the
    likelihood ignores.
    """

    posterior: Any
    counted: dict[str, Array]
    held: dict[str, tuple[Array, Array]]
    middle: Parameters

    @classmethod
    def init(cls, posterior, counted: list[str] | tuple[str, ...] | None, profiled: list[str]) -> "Conditional":
        """Use the priors named in `counted` as constraint terms; by default all except the `profiled` labels.

        Raises `ValueError` for an unknown label or name and for fractions that add up to one.
        """
        priors = posterior.priors
        if isinstance(counted, str) or not set(counted or ()) <= set(priors):
            raise ValueError(f"constraints must be a list of parameters out of {sorted(priors)}, not {counted!r}")
        masks = {name: np.ones(shape(prior), bool) for name, prior in priors.items()}
        for label in profiled:
            name, index = locate(posterior, label)
            masks[name][index] = False
        if counted is not None:
            masks = {name: np.ones_like(mask) for name, mask in masks.items() if name in counted}
        counts = {name: jnp.asarray(mask) for name, mask in masks.items() if mask.any()}
        return cls(posterior, counts, {}, {name: centre(prior) for name, prior in priors.items()})

    def holding(self, values: dict[str, Any]) -> "Conditional":
        """The same with numbers fixed by label, as "mass" or "position[0]".

        Raises `ValueError` for an unknown label and for fractions that add up to one.
        """
        held = {}
        for label, value in values.items():
            name, index = locate(self.posterior, label)
            size = shape(self.priors[name])
            mask, at = held.get(name, (np.zeros(size, bool), np.zeros(size)))
            mask[index], at[index] = True, value
            held[name] = (mask, at)
        held = {name: (jnp.asarray(mask), jnp.asarray(at, float)) for name, (mask, at) in held.items()}
        return Conditional(self.posterior, self.counted, held, self.middle)

    @property
    def priors(self):
        """Priors of the posterior."""
        return self.posterior.priors

    @property
    def reference_parameters(self) -> Parameters:
        """Reference point of the posterior."""
        return self._at_middle(self.posterior.reference_parameters)

    def complete(self, parameters: Parameters) -> Parameters:
        """Parameters with the fixed numbers at their values."""
        return {
            name: jnp.where(self.held[name][0], self.held[name][1], value) if name in self.held else value
            for name, value in parameters.items()
        }

    def log_likelihood_ratio(self, parameters: Parameters) -> Float[Array, ""]:
        """Log-likelihood ratio of the posterior, with the fixed numbers at their values."""
        return self.posterior.log_likelihood_ratio(self.complete(parameters))

    def log_prior(self, parameters: Parameters) -> Float[Array, ""]:
        """Constraint terms, and the quadratic penalty of the fixed numbers."""
        total, complete = jnp.zeros(()), self.complete(parameters)
        # an Asimov data set has a truth
        truth = getattr(self.posterior, "truth", {})
        for name, mask in self.counted.items():
            # numbers that do not count stay at a value with finite density
            value = jnp.where(mask, complete[name], self.middle[name])
            total = total + constraint_term(self.priors[name], value, mask, truth.get(name))
        for name, (mask, _) in self.held.items():
            transform = biject_to(self.priors[name].support)
            away = transform.inv(parameters[name]) - transform.inv(self.middle[name])
            total = total - 0.5 * HELD * jnp.where(mask, away**2, 0.0).sum()
        return total

    def sample_prior(self, key) -> Parameters:
        """A draw from the prior, with the fixed numbers at their values."""
        return self._at_middle(self.posterior.sample_prior(key))

    def with_reference(self, parameters: Parameters) -> "Conditional":
        """The same with the likelihood relative to another point."""
        posterior = self.posterior.with_reference(self.complete(parameters))
        return Conditional(posterior, self.counted, self.held, self.middle)

    def _at_middle(self, parameters):
        return {
            name: jnp.where(self.held[name][0], self.middle[name], value) if name in self.held else value
            for name, value in parameters.items()
        }


def constraint_term(
    prior: Distribution, value: Float[Array, "..."], mask: Bool[Array, "..."], truth: Float[Array, "..."] | None = None
) -> Float[Array, ""]:
    """Logarithm of a prior as a constraint term (see the module), for the numbers in `mask`.

    Correlated normal numbers have the density marginalised over the others; other vector-valued priors count with all
    their elements. With `truth` the term is tilted, ln p(v) - ln p(t) - (v - t) d ln p(t), to have its maximum
    at the truth: a normal term is shifted, other terms keep their curvature at each value.
    """
    inner: Any = prior
    while True:
        if isinstance(inner, ExpandedDistribution | Independent):
            inner = inner.base_dist
        elif isinstance(inner, TransformedDistribution) and _in_its_variable(inner):
            for transform in reversed(inner.transforms):
                value = jnp.asarray(transform.inv(value))
                truth = None if truth is None else jnp.asarray(transform.inv(truth))
            inner = inner.base_dist
        else:
            break
    if isinstance(inner, Uniform):
        return jnp.zeros(())

    def density(value):
        if isinstance(inner, MultivariateNormal):
            away = jnp.where(mask, value - inner.loc, 0.0)
            both = mask[..., :, None] & mask[..., None, :]
            covariance: Any = inner.covariance_matrix
            among = jnp.where(both, covariance, jnp.eye(away.shape[-1]))
            return -0.5 * (away * jnp.linalg.solve(among, away[..., None])[..., 0]).sum()
        log_density = jnp.asarray(inner.log_prob(value))
        return jnp.where(mask.reshape(*log_density.shape, -1).any(-1), log_density, 0.0).sum()

    if truth is None:
        return density(value)
    truth = jnp.where(mask, truth, value)
    height, slope = jax.jvp(density, (truth,), (value - truth,))
    return density(value) - height - slope


def _in_its_variable(prior: TransformedDistribution) -> bool:
    """Whether a prior transforms a normal variable, or is the exponential of a variable."""
    base = prior.base_dist
    while isinstance(base, ExpandedDistribution | Independent):
        base = base.base_dist
    logarithm = all(isinstance(transform, ExpTransform | AffineTransform) for transform in prior.transforms)
    return isinstance(base, Normal | MultivariateNormal) or logarithm


def maximise(likelihood: Conditional, held: dict[str, Any], start: dict | None = None) -> tuple[Parameters, bool]:
    """Parameters of the maximum with some numbers fixed, and whether the search converged.

    An end of the support counts as a maximum. If the fixed numbers make the events impossible, any parameters are
    returned.
    """
    conditional = likelihood.holding(held)
    initial = None if start is None else conditional._at_middle(start)
    peak, near = None, [] if initial is None else [(initial, False), (initial, True)]
    try:
        for begin, climb in [*near, (None, True)]:
            peak = find_peak(conditional, begin, jacobian=False, climb=climb)
            if peak.highest:
                break
    except NotFinite:
        if peak is None and not held:
            raise
    if peak is None:
        return _complete(conditional, conditional.reference_parameters), True
    parameters = constrained(conditional.priors, jnp.asarray(peak.x))[0]
    return _complete(conditional, at_ends(conditional.priors, parameters, peak.edges)), peak.highest


def fall(likelihood: Conditional, best: Parameters, parameters: Parameters) -> float:
    """Value of q = 2 (ln L(best) - ln L(parameters)), with the likelihood relative to the best point."""
    near = referred(likelihood, best)
    return 2.0 * float(difference(near, best, parameters))


def locate(posterior, label: str) -> tuple[str, tuple[int, ...]]:
    """Parameter and index of a number by its label; `ValueError` for a number that cannot be fixed alone."""
    name = label.split("[")[0]
    if name not in posterior.priors:
        raise ValueError(f"{label!r} is no parameter; the parameters are {sorted(posterior.priors)}")
    prior = posterior.priors[name]
    names = labels({name: np.zeros(shape(prior))})
    if label not in names:
        raise ValueError(f"{label!r} is not a single number; choose from {names}")
    support = prior.support
    if support.event_dim and not isinstance(support, constraints.independent):
        raise ValueError(
            f"{label!r} cannot change alone: the numbers of {name!r} depend on one another; "
            "make each a parameter, as with gammajax.stick_breaking"
        )
    return name, tuple(int(i) for i in np.unravel_index(names.index(label), shape(prior) or (1,)))[: len(shape(prior))]


@eqx.filter_jit
def difference(near, best, parameters):
    """Fall of the log-likelihood from its reference point."""

    def height(at):
        return near.log_likelihood_ratio(at) + near.log_prior(at)

    return height(best) - height(parameters)


@eqx.filter_jit
def _complete(conditional, parameters):
    return conditional.complete(parameters)
