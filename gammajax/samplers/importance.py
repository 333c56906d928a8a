"""Importance weights: quality and correction of draws from an approximation of the posterior."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

LEAST = 25  # draws: the tail is a fifth of them and needs five
NOTHING = 700.0  # log ratio at which double precision rounds the smaller number to zero
TAILS = 5.0  # degrees of freedom of proposals: their tails are heavier than those of posteriors
K_HAT_MAX = 0.7  # Vehtari et al. 2024 (arXiv:1507.02646): importance weights are unreliable above


def smooth(log_weight: Float[np.ndarray, " draw"]) -> tuple[Float[np.ndarray, " draw"], float]:
    """Logarithms of normalised Pareto-smoothed weights, and k-hat, the shape of their tail (arXiv:1507.02646).

    The mean of weights has a finite variance if k-hat is below 0.5. k-hat is minus infinity for equal weights, which
    have no tail, and NaN for too few weights; neither are smoothed. It is infinite if no tail fits.
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
    # the function takes leave-one-out log-likelihoods; weights are their inverse
    with np.errstate(all="ignore"):
        smoothed, k_hat = array_stats.psislw(-log_weight[some])
    if not (np.all(np.isfinite(smoothed)) and np.isfinite(k_hat)):
        return plain, math.inf
    plain[some] = smoothed
    return plain, float(k_hat)


class Weighing(NamedTuple):
    """Normalised weights of draws from an approximation, k-hat, evidence, and indices of the draws to keep."""

    log_weight: Float[np.ndarray, " draw"]
    k_hat: float
    log_evidence: float
    error: float
    chosen: Int[np.ndarray, " kept"]


def weigh(key: Array, log_ratio: Float[np.ndarray, " draw"]) -> Weighing:
    """Weigh draws by the logarithm of density over proposal; the number of `chosen` draws is the effective size.

    The evidence is the mean of the smoothed weights. Its error includes the shift from the smoothing: for a heavy tail
    the spread of the drawn weights is too small an error.
    """
    log_ratio = np.asarray(log_ratio, np.float64)
    log_weight, k_hat = smooth(log_ratio)
    some = np.isfinite(log_weight)
    # smoothing changes only the tail, at most a fifth: the median difference is the logarithm of the sum
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
    """Indices of `size` draws in proportion to their weights, by systematic resampling, in random order."""
    key_place, key_order = jax.random.split(key)
    log_weight = np.asarray(log_weight, np.float64)
    chosen = systematic(
        np.exp(log_weight - np.logaddexp.reduce(log_weight)), size, float(jax.random.uniform(key_place))
    )
    return np.asarray(jax.random.permutation(key_order, chosen))


def systematic(weights: Float[np.ndarray, " draw"], number: int, place: float = 0.5) -> np.ndarray:
    """Indices of `number` draws, each repeated number x weight times up to rounding; weights add up to one."""
    return np.minimum(np.searchsorted(np.cumsum(weights), (np.arange(number) + place) / number), len(weights) - 1)
