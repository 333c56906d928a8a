"""Significance: distance of a posterior from a value, and Bayes factors.

Draws of a posterior resolve probabilities down to about one in their effective number. A smaller probability is given
as a limit and marked as one.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gammajax.common.display import block, words

CONFIDENCE = 0.95  # of limits that come from too few draws
# draws that come this close [standard deviations] to a value without crossing it show an edge: of a smooth density
# some would lie beyond
EDGE, NEAREST = 0.25, 5
# fraction of the draws, and least number, for the density at a value
WINDOW, WINDOW_DRAWS = 0.25, 50
# of |ln B| (Trotta 2008, arXiv:0803.4089, table 1)
SCALE = ((1.0, "inconclusive"), (2.5, "weak"), (5.0, "moderate"), (math.inf, "strong"))


class Significance(NamedTuple):
    """Posterior probability `p` of lying on the other side of a value, and the same as `sigma` of a Gaussian.

    `sigma` = Phi^-1(1 - p) is positive if the bulk of the posterior lies above the value. With `limit`, `p` is an upper
    limit and |`sigma`| a lower limit. `text` says it in words. [`gammajax.Result.significance`][] makes it.

    >>> import gammajax as gj, numpy as np
    >>> draws = np.random.default_rng(0).normal(2.0, 1.0, (4, 500))
    >>> found = gj.Result.from_samples({"flux": draws}, method="example").significance("flux")
    >>> 0.01 < found.p < 0.04, found.limit
    (True, False)
    """

    p: float
    sigma: float
    limit: bool
    text: str

    @words
    def __str__(self) -> str:
        return block(self.text)

    @words
    def __repr__(self) -> str:
        return block(f"Significance: {self.text}")


class BayesFactor(NamedTuple):
    """Natural logarithm `log` of a Bayes factor B = Z / Z' and its standard `error`.

    [`gammajax.Result.bayes_factor`][] and [`gammajax.Result.compare`][] make it. With `limit`, `log` is a lower limit.
    `text` says it in words, by the scale of Trotta (2008, arXiv:0803.4089).

    >>> import gammajax as gj
    >>> round(gj.BayesFactor(log=2.0, error=0.1, limit=False, text="weak").probability, 3)  # B / (1 + B)
    0.881
    """

    log: float
    error: float
    limit: bool
    text: str

    @property
    def probability(self) -> float:
        """Probability of the first model for equal prior odds, B / (1 + B)."""
        return 0.5 * (1.0 + math.tanh(0.5 * self.log))

    @words
    def __str__(self) -> str:
        return block(self.text)

    @words
    def __repr__(self) -> str:
        return block(f"BayesFactor: {self.text}")


def tail_significance(
    name: str,
    values: Float[np.ndarray, " draw"],
    weights: Float[np.ndarray, " draw"],
    effective: float | int,
    null: float | int,
) -> Significance:
    """Posterior probability beyond `null`, see [`gammajax.Result.significance`][]; weights add up to one.

    Fewer than five effective draws beyond `null` give a limit: the Clopper-Pearson bound on their number (95 %).
    """
    from scipy.stats import beta, norm

    _require_finite(name, null)
    above = float(weights[values > null].sum())
    sign, p = (1.0, 1.0 - above) if above >= 0.5 else (-1.0, above)
    side, other = ("above", "below") if sign > 0 else ("below", "above")
    # rounding of the weights does not count as a draw
    seen = effective * p if p > 1e-9 else 0.0
    limit = seen < NEAREST
    if limit:
        if seen == 0 and _reaches(values, weights, effective, null):
            raise ValueError(
                f"no draw of {name!r} lies {other} {null:g}, but some lie next to it: an edge of the prior, where a "
                "tail probability means nothing; use bayes_factor with the density of the prior there"
            )
        p = float(beta.ppf(CONFIDENCE, seen + 1.0, max(effective - seen, 1.0)))
    sigma = sign * float(norm.isf(p))
    text = f"{name} is {side} {null:g} at {abs(sigma):.1f} sigma (probability {p:.2g} of the other side)"
    if limit:
        text = (
            f"{name} is {side} {null:g} at more than {max(abs(sigma), 0.0):.1f} sigma (probability of the other side "
            f"below {p:.2g}, {CONFIDENCE:.0%} limit of {effective:.0f} effective draws)"
        )
    return Significance(p, sigma, limit, text)


def savage_dickey(
    name: str,
    values: Float[np.ndarray, " draw"],
    weights: Float[np.ndarray, " draw"],
    effective: float | int,
    null: float | int,
    prior_density: float | int,
) -> BayesFactor:
    """Bayes factor against a fixed value, see [`gammajax.Result.bayes_factor`][]; weights add up to one.

    An error of ln B above one means that the draws do not reach the value. If the density falls towards the value, it
    is then at most the mean density up to the third-nearest draw, which gives a limit (95 %).
    """
    from scipy.stats import beta

    _require_finite(name, null)
    if not (prior_density > 0 and math.isfinite(prior_density)):
        raise ValueError(f"the prior density of {name!r} at {null:g} must be positive, it is {prior_density:g}")
    log_density, error = log_density_at(values, weights, effective, null)
    result = math.log(prior_density) - log_density
    limit = not error < 1.0
    if limit:
        distance, mass = _nearest(values, weights, null)
        last = min(int(np.searchsorted(mass, 3.0 / effective)), len(mass) - 1)
        upper = float(beta.ppf(CONFIDENCE, 3.0 + 1.0, max(effective - 3.0, 1.0)))
        result, error = math.log(prior_density * distance[last] / upper), math.nan
    known = f"ln B > {result:.1f}" if limit else f"ln B = {result:.2f} +- {error:.2f}"
    said = f"{known}, {strength(result, limit)}"
    if limit:
        said += f" ({CONFIDENCE:.0%} limit of {effective:.0f} effective draws)"
    favoured = "free" if result > 0 or limit else "fixed"
    return BayesFactor(result, error, limit, f"{name} {favoured} rather than {_opposite(favoured, null)}: {said}")


def model_comparison(first: tuple[float, float], second: tuple[float, float]) -> BayesFactor:
    """Bayes factor of two (log evidence, error), see [`gammajax.Result.compare`][]."""
    log, error = first[0] - second[0], math.hypot(first[1], second[1])
    factor = BayesFactor(log, error, False, "")
    favoured = "the first" if log >= 0 else "the second"
    text = (
        f"ln B = {log:.2f} +- {error:.2f}, {strength(log)} evidence for {favoured} model; "
        f"probability of the first {factor.probability:.3g} at equal odds"
    )
    return factor._replace(text=text)


def log_density_at(
    values: Float[np.ndarray, " draw"], weights: Float[np.ndarray, " draw"], effective: float | int, null: float | int
) -> tuple[float, float]:
    """Logarithm of the density of the draws at `null` and its standard error.

    The logarithm is a parabola over the quarter of the draws nearest to the value, fitted by local likelihood
    (Loader 1996, doi:10.1214/aos/1032298287). It is exact for Gaussians and for Gaussians truncated at the value, where
    kernel estimates lose half of the density.
    """
    from scipy.optimize import minimize

    distance, mass = _nearest(values, weights, null)
    part = min(max(WINDOW, WINDOW_DRAWS / effective), 1.0)
    width = distance[min(int(np.searchsorted(mass, part)), len(distance) - 1)]
    inside = np.abs(values - null) <= width
    share = float(weights[inside].sum())
    if not width > 0:
        return math.inf, math.inf
    x, w = (values[inside] - null) / width, weights[inside] / share
    signs = np.sign(x[x != 0])
    low, high = (0.0, 1.0) if np.all(signs > 0) else (-1.0, 0.0) if np.all(signs < 0) else (-1.0, 1.0)
    nodes, quadrature = np.polynomial.legendre.leggauss(64)
    nodes, quadrature = low + 0.5 * (high - low) * (nodes + 1.0), 0.5 * (high - low) * quadrature
    basis = np.stack([nodes, nodes**2])
    moments = np.array([w @ x, w @ x**2])

    def negative(slopes):
        exponent = slopes @ basis
        peak = exponent.max()
        terms = quadrature * np.exp(exponent - peak)
        norm = terms.sum()
        return peak + np.log(norm) - slopes @ moments, basis @ terms / norm - moments

    slopes = minimize(negative, np.zeros(2), jac=True, method="BFGS").x
    exponent = slopes @ basis
    peak = exponent.max()
    terms = quadrature * np.exp(exponent - peak)
    log_norm, terms = peak + np.log(terms.sum()), terms / terms.sum()
    mean = basis @ terms
    covariance = (basis * terms) @ basis.T - np.outer(mean, mean)
    # variance of the fraction in the window, and of the parabola at the value: d ln norm / d slopes = mean
    variance = (1.0 - share) / share + mean @ np.linalg.pinv(covariance) @ mean / share
    return math.log(share / width) - float(log_norm), math.sqrt(variance / effective)


def _require_finite(name, null):
    if not math.isfinite(null):
        raise ValueError(f"{name!r} must be compared with a finite number, not {null}")


def _nearest(values, weights, null):
    """Distances to a value in rising order, and the fraction of the draws within each."""
    distance = np.abs(values - null)
    order = np.argsort(distance)
    return distance[order], np.cumsum(weights[order])


def _reaches(values, weights, effective, null):
    """Whether draws come close to a value."""
    distance, mass = _nearest(values, weights, null)
    spread = math.sqrt(weights @ (values - weights @ values) ** 2)
    return distance[min(int(np.searchsorted(mass, NEAREST / effective)), len(mass) - 1)] < EDGE * spread


def strength(log: float, limit: bool = False) -> str:
    """Word for a Bayes factor by its logarithm."""
    if limit and log < SCALE[0][0]:  # a lower bound near zero is inconclusive
        return SCALE[0][1]
    return next(word for bound, word in SCALE if abs(log) < bound)


def _opposite(favoured, null):
    return f"fixed at {null:g}" if favoured == "free" else "free" if null == 0 else f"away from {null:g}"
