"""Splines in the logarithm of a factor, linear in their numbers, and the prior that keeps them smooth."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import MultivariateNormal
from scipy.interpolate import CubicSpline


def cubic_weights(
    nodes: Float[np.ndarray, " node"] | Sequence[float], x: Float[Array, "*shape"], flat: bool = False
) -> Float[Array, "*shape node"]:
    """Weights of the values at `nodes` in their natural cubic spline at x: spline(x) = weights @ values.

    Constant beyond the first and last node. `flat`: without a slope at the first node.
    """
    nodes = np.asarray(nodes, np.float64)
    if nodes.size == 1:
        return jnp.ones((*jnp.shape(x), 1))
    return piece_weights(jnp.asarray(nodes), cubic_pieces(nodes, flat), x)


def cubic_pieces(nodes: Float[np.ndarray, " node"], flat: bool = False) -> Float[Array, "power interval node"]:
    """Coefficients of the natural cubic splines through each unit vector; splines are linear in their values."""
    ends: Any = ("clamped" if flat else "natural", "natural")
    return jnp.asarray(CubicSpline(nodes, np.eye(nodes.size), bc_type=ends).c)


def piece_weights(
    nodes: Float[Array, " node"], pieces: Float[Array, "power interval node"], x: Float[Array, "*shape"]
) -> Float[Array, "*shape node"]:
    """Weights of the values at `nodes` in the splines of these pieces at x, constant beyond the nodes."""
    inside = jnp.clip(x, nodes[0], nodes[-1])
    index = jnp.clip(jnp.searchsorted(nodes, inside, side="right") - 1, 0, nodes.size - 2)
    step = inside - nodes[index]
    powers = jnp.stack([step**3, step**2, step, jnp.ones_like(step)])
    return jnp.einsum("p...,p...n->...n", powers, pieces[:, index])


def smooth_prior(
    centre: Float[Array | np.ndarray, " coefficient"] | Sequence[float],
    scale: float,
    *,
    level: float = 1.0,
    tilt: float = 1.0,
) -> MultivariateNormal:
    """Prior of the coefficients of a spline: Gaussian second differences of standard deviation `scale`.

    x - centre has independent second differences x_(i-1) - 2 x_i + x_(i+1) ~ N(0, scale^2), a mean ~ N(0, level^2), and
    a slope, by which its straight part rises from the middle to either end, ~ N(0, tilt^2). Of log-splines all three
    are in natural logarithms: `scale` says by how much the index may change from one interval to the next, times the
    width of an interval in ln E.

    - `centre` [coefficient]: the means. - `scale`, `level`, `tilt` as above.

    Returns a numpyro distribution over vectors of that length. Raises `ValueError` for fewer than three coefficients,
    and scales that are not positive.

    >>> import gammajax as gj
    >>> gj.smooth_prior([0.0, -1.0, -2.0, -3.0], scale=0.3).event_shape
    (4,)
    """
    centre = np.asarray(centre, np.float64)
    if centre.ndim != 1 or centre.size < 3 or not np.all(np.isfinite(centre)):
        raise ValueError(f"the centre of a smooth prior is a vector of at least three finite numbers, not {centre}")
    for name, value in (("scale", scale), ("level", level), ("tilt", tilt)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} of a smooth prior must be positive and finite, it is {value}")
    line = np.linspace(-1.0, 1.0, centre.size)
    rows = np.vstack(
        [
            np.diff(np.eye(centre.size), 2, axis=0) / scale,
            np.full(centre.size, 1.0 / (centre.size * level)),
            line / (line @ line * tilt),
        ]
    )
    factor = np.linalg.inv(rows)  # x = centre + factor z with independent z ~ N(0, 1)
    return MultivariateNormal(jnp.asarray(centre), scale_tril=jnp.asarray(np.linalg.cholesky(factor @ factor.T)))
