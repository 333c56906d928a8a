"""Importance weights: how far draws of an approximation are from the posterior, and how to mend them."""

import math

import jax
import numpy as np
from jaxtyping import Array, Float

K_HAT_MAX = 0.7  # Vehtari et al. 2024 (arXiv:1507.02646): above, importance weights are not to be trusted


def smooth(log_weight: Float[np.ndarray, " draw"]) -> tuple[Float[np.ndarray, " draw"], float]:
    """Pareto-smoothed log-weights, which add up to one, and k-hat, the shape of their tail (arXiv:1507.02646).

    The mean of weights has a finite variance where k-hat is below 0.5. Equal weights have no tail (minus infinity),
    and of too few it is not known (NaN); these are not smoothed.
    """
    from arviz_stats.base.array import array_stats

    log_weight = np.asarray(log_weight, np.float64)
    some = np.isfinite(log_weight)
    plain = log_weight - np.logaddexp.reduce(log_weight)
    count = int(some.sum())
    if count < 25:  # a fifth of them is the tail, which needs five
        return plain, math.nan
    tail = np.sort(log_weight[some])[-int(min(0.2 * count, 3.0 * math.sqrt(count))) - 1 :]
    if np.ptp(tail) < 1e-6:
        return plain, -math.inf
    # it takes log-likelihoods left out, of which weights are the inverse
    smoothed, k_hat = array_stats.psislw(-log_weight[some])
    plain[some] = smoothed
    return plain, float(k_hat)


def log_evidence(log_ratio: Float[np.ndarray, " draw"]) -> tuple[float, float]:
    """Logarithm of the mean weight, and its standard error."""
    top = log_ratio.max()
    weight = np.exp(log_ratio - top)
    mean = weight.mean()
    return float(top + np.log(mean)), float(weight.std(ddof=1) / mean / np.sqrt(weight.size))


def effective_size(log_weight: Float[np.ndarray, " draw"]) -> float:
    """Effective number of draws (Kish): the squared sum of the weights over the sum of their squares."""
    weight = np.exp(log_weight - log_weight.max())
    return float(weight.sum() ** 2 / (weight**2).sum())


def resample(key: Array, log_weight: Float[np.ndarray, " draw"], size: int) -> np.ndarray:
    """Indices of `size` draws in proportion to their weights, systematically and in random order."""
    key_place, key_order = jax.random.split(key)
    log_weight = np.asarray(log_weight, np.float64)
    chosen = systematic(
        np.exp(log_weight - np.logaddexp.reduce(log_weight)), size, float(jax.random.uniform(key_place))
    )
    return np.asarray(jax.random.permutation(key_order, chosen))


def systematic(weights: Float[np.ndarray, " draw"], number: int, place: float = 0.5) -> np.ndarray:
    """Indices of so many draws, each taken number x weight times up to rounding; weights add up to one."""
    return np.minimum(np.searchsorted(np.cumsum(weights), (np.arange(number) + place) / number), len(weights) - 1)
