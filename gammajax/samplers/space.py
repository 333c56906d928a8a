"""Unconstrained space: one flat vector of all parameters, each mapped to the whole real line.

The map of a parameter is numpyro's `biject_to` of its prior's support. The vector holds parameters in the order of
their sorted names, because jax sorts dicts.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro.distributions import Distribution, biject_to
from numpyro.distributions.constraints import simplex

from gammajax.model.priors import bounds

Priors = dict[str, Distribution]
LOWEST = -1e30  # in place of minus infinity


def constrained(
    priors: Priors, x: Float[Array, " dimension"]
) -> tuple[dict[str, Float[Array, "..."]], Float[Array, ""]]:
    """Parameters at `x` and the logarithm of the Jacobian determinant |d parameters / d x|."""
    parameters, log_jacobian, first = {}, jnp.zeros((), x.dtype), 0
    for name in sorted(priors):
        transform, shape = _transform(priors[name])
        size = math.prod(shape)
        y = x[first : first + size].reshape(shape)
        parameters[name] = transform(y)
        log_jacobian = log_jacobian + transform.log_abs_det_jacobian(y, parameters[name]).sum()
        first += size
    return parameters, log_jacobian


def labels_along(names: Sequence[str], direction: Float[np.ndarray, " dimension"]) -> list[str]:
    """Labels of the numbers with the largest parts in a direction."""
    size = np.abs(direction)
    return [name for name, part in zip(names, size, strict=True) if part > 0.3 * size.max()]


def unconstrained(priors: Priors, parameters: dict) -> Float[Array, " dimension"]:
    """The vector of given parameters; infinite for a parameter at the edge of its prior.

    Raises `ValueError` if the names do not match the priors.
    """
    if set(parameters) != set(priors):
        raise ValueError(f"the parameters are {sorted(priors)}, not {sorted(parameters)}")
    parts = [_transform(priors[name])[0].inv(jnp.asarray(parameters[name], float)) for name in sorted(priors)]
    return jnp.concatenate([jnp.ravel(part) for part in parts])


def rounded_in(priors: Priors, parameters: dict) -> dict:
    """Parameters moved back inside the support, if only rounding has put them at its end or beyond."""
    result = dict(parameters)
    for name, prior in priors.items():
        if name not in parameters:
            continue
        value = jnp.asarray(parameters[name], float)
        small = 4.0 * float(jnp.finfo(value.dtype).eps)
        if prior.support is simplex:
            near = np.all(value >= 0) and np.allclose(value.sum(-1), 1.0, atol=1e-5)
            result[name] = (value + small) / (value + small).sum(-1, keepdims=True) if near else value
            continue
        low, high = bounds(prior)
        size = np.maximum(np.where(np.isfinite(low), np.abs(low), 0.0), np.where(np.isfinite(high), np.abs(high), 0.0))
        inside = jnp.where(value <= low, low + small * size, jnp.where(value >= high, high - small * size, value))
        result[name] = jnp.where(jnp.abs(inside - value) <= 2.0 * small * size, inside, value).astype(value.dtype)
    return result


@eqx.filter_jit
def parameters_at(posterior, x: Float[Array, "point dimension"]) -> dict[str, Float[Array, "point ..."]]:
    """Parameters at many points."""
    return jax.vmap(lambda one: constrained(posterior.priors, one)[0])(x)


@eqx.filter_jit
def referred(posterior, parameters: dict):
    """The posterior with log-likelihood ratios relative to `parameters`; compiled separately, for identical bits."""
    return posterior.with_reference(parameters)


def labels(parameters: dict) -> list[str]:
    """Name of every number in the parameters, in sorted order: "mass", "weight[0]", "weight[1]"."""
    result = []
    for name in sorted(parameters):
        size = jnp.size(parameters[name])
        result += [name] if jnp.ndim(parameters[name]) == 0 else [f"{name}[{i}]" for i in range(size)]
    return result


def log_density(posterior, x: Float[Array, " dimension"], jacobian: bool) -> Float[Array, ""]:
    """Logarithm of likelihood ratio x prior at `x`; with `jacobian` as a density in `x`, else in the parameters."""
    parameters, log_jacobian = constrained(posterior.priors, x)
    value = posterior.log_likelihood_ratio(parameters) + posterior.log_prior(parameters)
    return value + log_jacobian if jacobian else value


def labels_of_space(priors: Priors) -> list[str]:
    """Labels of the numbers of the vector; the last of fractions that add up to one is missing."""
    return labels({name: np.zeros(_transform(prior)[1]) for name, prior in priors.items()})


def dimension(posterior) -> int:
    """Length of the vector."""
    return sum(dimension_of(prior) for prior in posterior.priors.values())


def dimension_of(prior: Distribution) -> int:
    """Length of a parameter in the vector."""
    return math.prod(_transform(prior)[1])


def ends(priors: Priors) -> tuple[np.ndarray, np.ndarray]:
    """Whether the support ends for a number of the vector at minus, and at plus infinity."""
    low, high = [], []
    for name in sorted(priors):
        prior, size = priors[name], dimension_of(priors[name])
        if prior.support is simplex:
            ended = np.ones((2, size), bool)
        else:
            # a support with a single end approaches it at minus infinity
            bound = np.isfinite(np.broadcast_arrays(*bounds(prior)))
            one, both = bound.any(0), bound.all(0)
            ended = [np.broadcast_to(part, _transform(prior)[1]).ravel() for part in (one, both)]
        low.append(ended[0])
        high.append(ended[1])
    return np.concatenate(low), np.concatenate(high)


def log_prior(posterior, x: Float[Array, " dimension"]) -> Float[Array, ""]:
    """Logarithm of the prior as a density in `x`."""
    parameters, log_jacobian = constrained(posterior.priors, x)
    return _finite(posterior.log_prior(parameters) + log_jacobian)


def log_likelihood(posterior, x: Float[Array, " dimension"]) -> Float[Array, ""]:
    """Logarithm of the likelihood ratio at `x`."""
    return _finite(posterior.log_likelihood_ratio(constrained(posterior.priors, x)[0]))


def prior_draws(posterior, key: PRNGKeyArray, size: int) -> Float[Array, "size dimension"]:
    """Draws of the prior in the unconstrained space."""
    draws = jax.vmap(posterior.sample_prior)(jax.random.split(key, size))
    x = jax.vmap(lambda parameters: unconstrained(posterior.priors, parameters))(draws)
    # a draw exactly at the edge, one in 1e7 in single precision, has no finite position
    return jnp.where(jnp.isfinite(x), x, 0.0)


def _finite(value):
    """A finite number for comparisons and products with zero, also if the density is zero."""
    return jnp.maximum(jnp.where(jnp.isnan(value), -jnp.inf, value), LOWEST)


def _transform(prior):
    transform = biject_to(prior.support)
    return transform, transform.inverse_shape(prior.batch_shape + prior.event_shape)
