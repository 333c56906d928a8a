"""Importance weights: how far draws of an approximation are from the posterior, and how to mend them."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

LEAST = 25  # draws: a fifth of them is the tail, which needs five
NOTHING = 700.0  # a logarithm of a ratio that double precision rounds to none
TAILS = 5.0  # degrees of freedom of proposals: tails heavier than those of posteriors
K_HAT_MAX = 0.7  # Vehtari et al. 2024 (arXiv:1507.02646): above, importance weights are not to be trusted


def smooth(log_weight: Float[np.ndarray, " draw"]) -> tuple[Float[np.ndarray, " draw"], float]:
    """Pareto-smoothed log-weights, which add up to one, and k-hat, the shape of their tail (arXiv:1507.02646).

    The mean of weights has a finite variance where k-hat is below 0.5. Equal weights have no tail (minus infinity),
    and of too few it is not known (NaN); these are not smoothed. Where no tail fits k-hat is infinite.
    """
    from arviz_stats.base.array import array_stats

    log_weight = np.asarray(log_weight, np.float64)
    some = log_weight > log_weight.max() - NOTHING
    plain = log_weight - np.logaddexp.reduce(log_weight)
    count = int(some.sum())
    if count < LEAST:
        return plain, math.nan
    tail = np.sort(log_weight[some])[-int(min(0.2 * count, 3.0 * math.sqrt(count))) - 1 :]
    if np.ptp(tail) < 1e-6:
        return plain, -math.inf
    # it takes log-likelihoods left out, of which weights are the inverse
    with np.errstate(all="ignore"):
        smoothed, k_hat = array_stats.psislw(-log_weight[some])
    if not (np.all(np.isfinite(smoothed)) and np.isfinite(k_hat)):
        return plain, math.inf
    plain[some] = smoothed
    return plain, float(k_hat)


class Weighing(NamedTuple):
    """What draws of an approximation say of a density: weights that add up to one, k-hat, evidence, draws to keep."""

    log_weight: Float[np.ndarray, " draw"]
    k_hat: float
    log_evidence: float
    error: float
    chosen: Int[np.ndarray, " kept"]


def weigh(key: Array, log_ratio: Float[np.ndarray, " draw"]) -> Weighing:
    """Weigh draws by the logarithm of density over proposal; `chosen` are as many of them as the weights are worth.

    The evidence is the mean of the smoothed weights. Its error holds how far the smoothing moved it: of a heavy tail
    the spread of the weights that were drawn says too little.
    """
    log_ratio = np.asarray(log_ratio, np.float64)
    log_weight, k_hat = smooth(log_ratio)
    some = np.isfinite(log_weight)
    # smoothing leaves all but the tail, a fifth at most: there the difference is the logarithm of the sum
    log_sum = float(np.median(log_ratio[some] - log_weight[some]))
    plain = float(np.logaddexp.reduce(log_ratio))
    spread = np.exp(log_weight).std(ddof=1) * math.sqrt(log_weight.size)
    chosen = resample(key, log_weight, max(round(effective_size(log_weight)), 1))
    return Weighing(log_weight, k_hat, log_sum - math.log(log_weight.size), math.hypot(spread, log_sum - plain), chosen)


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
