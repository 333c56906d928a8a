"""Pathfinder: Gaussian approximations along paths of L-BFGS (Zhang et al. 2022, arXiv:2108.03782), by blackjax.

Draws come from the best approximation of each path by its evidence lower bound; they are weighted with the density
over all paths together. Paths may end in different peaks.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gammajax.samplers.importance import resample, smooth
from gammajax.samplers.space import log_density, prior_draws

PATHS, DRAWS, CANDIDATES = 8, 200, 64


def paths(posterior, key, count: int) -> dict[str, np.ndarray]:
    """Starting points for `count` chains, the covariance of all weighted draws, and the best draw as "x"."""
    key_prior, key_path, key_draw = jax.random.split(key, 3)
    x = _starts(posterior, key_prior)
    draws, log_density, log_proposal = (np.asarray(a, np.float64) for a in _paths(posterior, key_path, x))
    finite = np.isfinite(log_density) & np.isfinite(log_proposal) & np.isfinite(draws).all(-1)
    if not finite.any():
        raise ValueError("Pathfinder found no point of finite density; start='laplace', or give initial parameters")
    draws, ratio = draws[finite], (log_density - log_proposal)[finite]
    log_weight, _ = smooth(ratio)
    chosen = resample(key_draw, log_weight, count)
    weight = np.exp(log_weight)
    covariance = np.atleast_2d(np.cov(draws.T, aweights=weight / weight.sum()))
    # with few effective draws some directions have no width
    width = np.sqrt(np.maximum(np.diag(covariance), np.finfo(float).tiny))
    spread, axes = np.linalg.eigh(covariance / np.outer(width, width))
    covariance = (axes * np.maximum(spread, 1e-6 * spread.max())) @ axes.T * np.outer(width, width)
    best = draws[np.argmax(log_density[finite])]
    dtype = x.dtype
    return {"x": best.astype(dtype), "starts": draws[chosen].astype(dtype), "covariance": covariance}


@eqx.filter_jit
def _starts(posterior, key):
    """The best of some draws of the prior."""
    x = prior_draws(posterior, key, CANDIDATES)
    height = jax.lax.map(lambda one: log_density(posterior, one, True), x)
    return x[jnp.argsort(-jnp.where(jnp.isnan(height), -jnp.inf, height))[:PATHS]]


@eqx.filter_jit
def _paths(posterior, key, x):
    from blackjax.vi.multipathfinder import multi_approximate  # import late: it starts the device

    state, _ = multi_approximate(key, lambda one: log_density(posterior, one, True), x, DRAWS)
    samples: Any = state.samples
    return samples.reshape(-1, x.shape[-1]), state.logp.ravel(), state.logq.ravel()
