"""Priors: shapes, unit-cube transforms, centres and ends of numpyro distributions."""

import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import (
    Beta,
    Dirichlet,
    Distribution,
    ExpandedDistribution,
    Independent,
    MultivariateNormal,
    biject_to,
)
from numpyro.distributions.constraints import simplex

from gammajax.common.parameters import is_concrete
from gammajax.model.mixture import stick_breaking

BISECTIONS = 60


SMALL = 1e-4  # probability beyond which tails do not count


def shape(prior: Distribution) -> tuple[int, ...]:
    """Shape of the parameter."""
    return prior.batch_shape + prior.event_shape


def cube_size(prior: Distribution) -> int:
    """Dimensions of the unit cube for a parameter; n - 1 for n fractions that add up to one."""
    if prior.support is simplex:
        return math.prod(prior.batch_shape) * (prior.event_shape[0] - 1)
    return math.prod(shape(prior))


def from_cube(prior: Distribution, u: Float[Array, " number"]) -> Float[Array, "..."]:
    """Parameter with this prior from numbers uniform between zero and one.

    Dirichlet fractions come from breaking a stick at Beta-distributed places, correlated normal numbers from
    independent ones. Raises `ValueError` for other vector-valued priors, and for priors without a cumulative
    distribution function.
    """
    if isinstance(prior, Dirichlet):
        # break i is Beta(alpha_i, sum of the later alphas)
        alpha = jnp.asarray(prior.concentration)
        after = jnp.flip(jnp.cumsum(jnp.flip(alpha, -1), -1), -1)[..., 1:]
        breaks = Beta(alpha[..., :-1], after)
        return stick_breaking(from_cube(breaks, u))
    if isinstance(prior, Independent):
        return from_cube(prior.base_dist, u)
    single: Any = prior.base_dist if isinstance(prior, ExpandedDistribution) else prior
    if isinstance(single, MultivariateNormal):
        z = jax.scipy.special.ndtri(u.reshape(shape(prior)))
        return jnp.asarray(single.loc) + (jnp.asarray(single.scale_tril) @ z[..., None])[..., 0]
    if prior.event_shape:
        raise ValueError(f"a {type(prior).__name__} prior cannot be made from the unit cube; draw from it instead")
    u = u.reshape(shape(prior))
    try:
        return single.icdf(u)
    except (NotImplementedError, ImportError):  # icdf of Beta and Gamma needs tensorflow_probability
        pass
    try:
        return _bisect(single, u)
    except NotImplementedError as error:
        raise ValueError(
            f"a {type(single).__name__} prior has no cumulative distribution function; draw from it instead"
        ) from error


def all_from_cube(priors: Mapping[str, Distribution], u: Float[Array, " number"]) -> dict[str, Float[Array, "..."]]:
    """Parameters with these priors from numbers uniform between zero and one, in the order of the priors.

    Raises `ValueError` for another number of them, and for concrete numbers outside this range.
    """
    sizes = [cube_size(prior) for prior in priors.values()]
    if jnp.shape(u) != (sum(sizes),):
        raise ValueError(f"a point of the unit cube has shape {(sum(sizes),)}, not {jnp.shape(u)}")
    if is_concrete(u) and not np.all((np.asarray(u) >= 0) & (np.asarray(u) <= 1)):
        raise ValueError(f"the numbers of a point of the unit cube must lie between 0 and 1: {np.asarray(u)}")
    ends = np.cumsum(sizes)
    parts = zip(priors.items(), ends - sizes, ends, strict=True)
    return {name: from_cube(prior, u[first:end]) for (name, prior), first, end in parts}


def check_names(names) -> None:
    """Raise `ValueError` for names of parameters that a result cannot hold: those of its own axes, and paths."""
    for name in names:
        if name in ("chain", "draw") or "/" in str(name):
            raise ValueError(f"a parameter cannot be called {name!r}: results use that; choose a name without '/'")


def check_priors(priors: dict[str, Any]) -> None:
    """Raise `ValueError` naming a prior that is not a numpyro distribution, has a unit or NaN, or no finite range."""
    check_names(priors)
    for name, prior in priors.items():
        if not isinstance(prior, Distribution):
            raise ValueError(
                f"the prior of {name!r} must be a numpyro distribution, such as dist.Uniform(0.0, 1.0), not {prior!r}"
            )
        for value in vars(prior).values():
            if hasattr(value, "unit"):
                raise ValueError(
                    f"the prior of {name!r} has a unit ({value}), which would be lost; priors take plain numbers, "
                    "energies and masses in TeV, angles in deg"
                )
        numbers = [leaf for leaf in jax.tree.leaves(prior) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
        if any(np.any(np.isnan(number)) for number in numbers):
            raise ValueError(f"the prior of {name!r} has a parameter that is not a number (NaN)")
        middle = centre(prior)
        if prior.support is not None and not np.all(np.asarray(prior.support(middle))):
            raise ValueError(f"the prior of {name!r} has an empty range: is its lower end above the upper?")
        if not np.all(np.isfinite(middle)):
            raise ValueError(f"the prior of {name!r} has no finite centre: is its range infinite?")


def check_parameters(parameters: Any, priors: Mapping[str, Distribution]) -> None:
    """Raise `ValueError` for parameters that do not match the priors, and for concrete NaN."""
    if not isinstance(parameters, Mapping) or set(parameters) != set(priors):
        given = sorted(parameters) if isinstance(parameters, Mapping) else f"a {type(parameters).__name__}"
        raise ValueError(f"the parameters are a dict of {sorted(priors)}, not {given}")
    for name, prior in priors.items():
        value = parameters[name]
        if jnp.shape(value) != shape(prior):
            raise ValueError(f"parameter {name!r} has shape {jnp.shape(value)}, its prior has {shape(prior)}")
        if is_concrete(value) and np.any(np.isnan(np.asarray(value))):
            raise ValueError(f"parameter {name!r} is not a number: {np.asarray(value)}")


def centre(prior: Distribution) -> Float[Array, "..."]:
    """Median, or the mean for vector-valued distributions with dependent elements."""
    if prior.event_shape:
        return jnp.asarray(prior.mean, float)
    return quantile(prior, 0.5)


def extremes(prior: Distribution) -> list[Float[Array, "..."]]:
    """Values near the edges of the prior: its ends, the corners of a simplex, or a few draws."""
    if prior.support is simplex:
        corners = np.eye(prior.event_shape[0])
        return [jnp.broadcast_to(jnp.asarray(corner, float), shape(prior)) for corner in corners]
    if prior.event_shape:
        return list(jnp.asarray(prior.sample(jax.random.key(0), (8,))))
    return [_reached(prior, 0.0, SMALL), _reached(prior, 1.0, 1.0 - SMALL)]


def _reached(prior, end, near) -> Float[Array, "..."]:
    """Quantile `end`, or `near` where that is no part of the support, as zero of a log-normal."""
    value = quantile(prior, end)
    inside = prior.support is None or np.all(np.asarray(prior.support(value)))
    return value if inside else quantile(prior, near)


def bounds(prior: Distribution) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the support; infinite if unbounded."""
    support = getattr(prior.support, "base_constraint", prior.support)
    low, high = (getattr(support, end, None) for end in ("lower_bound", "upper_bound"))
    return np.asarray(-np.inf if low is None else low), np.asarray(np.inf if high is None else high)


def quantile(prior: Distribution, probability: float) -> Float[Array, "..."]:
    """Quantile of every number; at 0 and 1 the ends of the support, or far in the tails if it is unbounded."""
    if probability in (0.0, 1.0):
        bound = bounds(prior)[int(probability)]
        if np.all(np.isfinite(bound)):
            return jnp.broadcast_to(jnp.asarray(bound, float), shape(prior))
    probability = min(max(probability, SMALL), 1.0 - SMALL)
    try:
        return jnp.asarray(from_cube(prior, jnp.full(math.prod(shape(prior)), probability)), float)
    except ValueError:  # some distributions can only be sampled
        return jnp.quantile(prior.sample(jax.random.key(0), (4096,)), probability, axis=0)


@eqx.filter_jit
def _bisect(prior, u):
    """Solve cdf(x) = u in the unconstrained space, where a positive x is a logarithm: small values are resolved."""
    transform = biject_to(prior.support)
    fixed = jax.lax.stop_gradient(prior)
    low, high = jnp.full(u.shape, -60.0), jnp.full(u.shape, 60.0)

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        above = fixed.cdf(transform(middle)) > u
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (low, high))
    x = jax.lax.stop_gradient(0.5 * (low + high))
    # Newton steps that keep the value add the derivatives of the implicit function, up to third order
    density = fixed.log_prob(transform(x)) + transform.log_abs_det_jacobian(x, transform(x))
    inside = jnp.isfinite(density)  # false if rounding has reached an end
    y = jnp.where(inside, x, 0.0)
    for _ in range(2):
        value = transform(y)
        log_density = prior.log_prob(value) + transform.log_abs_det_jacobian(y, value)
        step = (u - prior.cdf(value)) * jnp.exp(-log_density)
        y = y + step - jax.lax.stop_gradient(step)
    return transform(jnp.where(inside, y, x))
