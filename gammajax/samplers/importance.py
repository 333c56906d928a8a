"""Importance weights: how far draws of an approximation are from the posterior, and how to mend them."""

import jax
import numpy as np
from jaxtyping import Array, Float

K_HAT_MAX = 0.7  # Vehtari et al. 2024 (arXiv:1507.02646): above, importance weights are not to be trusted


def smooth(log_ratio: Float[np.ndarray, " draw"]) -> tuple[Float[np.ndarray, " draw"], float]:
    """Pareto-smoothed log-weights, which add up to one, and k-hat, the shape of their tail (arXiv:1507.02646)."""
    from arviz_stats.base.array import array_stats

    # it takes log-likelihoods left out, of which weights are the inverse
    log_weight, k_hat = array_stats.psislw(-np.asarray(log_ratio, np.float64))
    return np.asarray(log_weight), float(k_hat)


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
    weight = np.exp(np.asarray(log_weight, np.float64) - np.max(log_weight))
    places = (np.arange(size) + float(jax.random.uniform(key_place))) / size
    chosen = np.searchsorted(np.cumsum(weight) / weight.sum(), places)
    return np.asarray(jax.random.permutation(key_order, np.minimum(chosen, weight.size - 1)))
