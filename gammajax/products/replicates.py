"""Replicates: data sets drawn from a posterior, and the change of each one's counts by a fit of its own.

Counts n of a replicate in some bins are compared with what its own fit expects, not with the truth it was drawn from;
otherwise p-values are too large, since a fit follows the fluctuations of its data. One step of the fit is enough: with
the score S of each replicate (the gradient of ln L) at one common point,

    mu = <n> + J d,    d = (I + H)^-1 (S - <S> + g),    J = <Sum_k in bin s_k>,    I = <Sum_k s_k s_k^T>

where <> is the mean over replicates, s_k the gradient of the logarithm of the density of event k, and g and -H are the
gradient and curvature of everything else: the prior and other data sets. The observed data take the same step from the
same point. A statistic of n and mu does not depend on the parameters to first order, and posterior predictive p-values
of such statistics are uniform (Robins, van der Vaart & Ventura 2000, doi:10.1080/01621459.2000.10474310).
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from gammajax.common import distributed
from gammajax.common.progress import say
from gammajax.likelihood.term import Parameters
from gammajax.model.mixture import Mixture
from gammajax.samplers import Fit
from gammajax.samplers.space import parameters_at

AT_ONCE = 2**18  # events in one set of engines
DRAWS = 20  # of the posterior, at least; each gives several replicates
NEGLIGIBLE = 1e-6  # information of a combination of numbers, relative to that of each alone
LEAST_PART = 0.1  # of the mean counts that the step of a fit leaves


class Quantity(NamedTuple):
    """A quantity of events in bins: `values` of columns, NaN for those that do not count, and `edges`.

    `labels` of the bins where numbers do not name them.
    """

    name: str
    unit: str
    values: Callable[[Any], np.ndarray]
    edges: Float[np.ndarray, " edge"]
    labels: tuple[str, ...] = ()

    def bins(self, columns: Any) -> Int[np.ndarray, " row"]:
        """Bin of each row, -1 for none."""
        found = np.digitize(self.values(columns), self.edges) - 1
        return np.where(found < self.edges.size - 1, found, -1)


class Replicates(NamedTuple):
    """Counts of the data (first) and of replicates in the bins of quantities, and what a fit of each expects there.

    `slices` of the bins of each quantity.
    """

    quantities: tuple[Quantity, ...]
    slices: tuple[slice, ...]
    counts: Float[np.ndarray, "replicate bin"]
    expected: Float[np.ndarray, "replicate bin"]


def simulated_terms(posterior, *kinds: type, of: str) -> list:
    """Data sets of these kinds, of events, which `of` names.

    Raises `ValueError` if there is none, if one has no events, or if processes share them.
    """
    terms = [term for term in posterior.terms if isinstance(term, kinds)]
    if not terms:
        names = [term.name for term in posterior.terms]
        raise ValueError(f"simulated data are compared with data sets of {of}; there are none among {names}")
    if any(distributed.spans(term.count) for term in terms):
        raise ValueError("a posterior that several processes share cannot be checked; check that of one process")
    if not all(term.total for term in terms):
        raise ValueError("a data set without events cannot be checked")
    return terms


def draws_of(key: PRNGKeyArray, posterior, best: Any, number: int) -> Parameters:
    """Draws of a result, evenly spaced, or of the Gaussian of a fit: parameters [draw, ...]."""
    if isinstance(best, Fit):
        values, vectors = np.linalg.eigh(best.unconstrained_covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        z = np.asarray(jax.random.normal(key, (number, values.size)), np.float64)
        return dict(parameters_at(posterior, jnp.asarray(best.unconstrained_mean + z @ root.T, float)))
    size = len(best.samples[posterior.names[0]]) if posterior.names else 1
    chosen = np.rint(np.linspace(0, size - 1, number)).astype(int)
    return {name: jnp.asarray(best.samples[name][chosen]) for name in posterior.names}


class Maker(abc.ABC):
    """How data sets of a term of a posterior are simulated, and the score of each event at the parameters `centre`.

    - `mixture`: what the data set sees at the best parameters; `fixed`: whether the number of events is given.
    """

    mixture: Mixture
    fixed: bool

    def __init__(self, posterior, term, centre: Parameters):
        self.posterior, self.term, self.centre = posterior, term, centre

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray, parameters: Parameters, times: int) -> tuple[Any, Int[np.ndarray, " row"]]:
        """Events of `times` replicates together, and the replicate of each event."""

    @abc.abstractmethod
    def join(self, parts: list) -> Any:
        """One list of events, in order."""

    @abc.abstractmethod
    def rows(self, events: Any, data: bool) -> tuple[Any, Num[np.ndarray, " row"], Float[np.ndarray, "row number"]]:
        """Columns, numbers of events and scores of rows; `data`: those of the data come first."""


def replicate(
    key: PRNGKeyArray,
    maker: Maker,
    best: Any,
    number: int,
    quantities_of: Callable[[Mixture, Any, int], list[Quantity]],
    report: Callable[[float], None],
) -> Replicates:
    """Counts of `number` replicates of one data set, in bins that the first of them choose.

    `quantities_of` the mixture at the best parameters, simulated columns and their number of replicates; `report` is
    called with the part that is done.
    """
    each = int(np.clip(AT_ONCE // max(maker.term.total, 1), 1, max(1, number // DRAWS)))
    groups = -(-number // each)
    points = draws_of(jax.random.fold_in(key, 0), maker.posterior, best, groups)
    sums, pool, owner, made = None, [], [], 0
    for group in range(groups):
        parameters = {name: values[group] for name, values in points.items()}
        times = min(each, number - made)
        events, of = maker.draw(jax.random.fold_in(key, 1 + group), parameters, times)
        pool.append(events)
        owner.append(made + of)
        made += times
        if made < number and sum(of.size for of in owner) < AT_ONCE:
            continue
        say(f"{made} of {number} simulated data sets")
        replica = np.concatenate(owner)
        columns, weight, score = maker.rows(maker.join(pool), data=sums is None)
        own = weight.size - replica.size  # rows of the data
        if sums is None:
            simulated = jax.tree.map(lambda column, own=own: column[own:], columns)
            sums = _Sums(tuple(quantities_of(maker.mixture, simulated, made)), number, score.shape[1])
        sums.add(columns, np.concatenate([np.zeros(own, int), 1 + replica]), weight, score)
        pool, owner = [], []
        report(made / number)
    assert sums is not None
    return sums.fitted(maker.fixed, *_others(maker.posterior, maker.term, maker.centre))


@eqx.filter_jit
def slopes(density: Callable, parameters: Parameters, *data) -> tuple[Float[Array, " row"], Float[Array, "number row"]]:
    """Values of density(parameters, *data) of all rows, and their derivatives by all numbers of the parameters."""
    x, restore = ravel_pytree(parameters)

    def of(x):
        return density(restore(x), *data)

    return of(x), jax.lax.map(lambda axis: jax.jvp(of, (x,), (axis,))[1], jnp.eye(x.size, dtype=x.dtype))


class _Sums:
    """Sums over events: counts by replicate and bin, scores by replicate and by bin, and the information."""

    def __init__(self, quantities: tuple[Quantity, ...], number: int, size: int):
        self.quantities = quantities
        ends = np.cumsum([0, *(q.edges.size - 1 for q in quantities)])
        self.slices = tuple(slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True))
        self.counts = np.zeros((1 + number, ends[-1]))
        self.score = np.zeros((1 + number, size))
        self.size = np.zeros(1 + number)  # number of events
        self.response = np.zeros((ends[-1], size))
        self.information = np.zeros((size, size))

    def add(self, columns, replicate, weight, score) -> None:
        simulated = replicate > 0
        rows, number = self.counts.shape[0], self.counts.shape[0] - 1
        self.size += np.bincount(replicate, weight, rows)
        self.score += np.stack([np.bincount(replicate, weight * s, rows) for s in score.T], 1).reshape(rows, -1)
        self.information += (score[simulated].T * weight[simulated]) @ score[simulated] / number
        for quantity, place in zip(self.quantities, self.slices, strict=True):
            bins, width = quantity.bins(columns), place.stop - place.start
            some = bins >= 0
            both = replicate[some] * width + bins[some]
            self.counts[:, place] += np.bincount(both, weight[some], rows * width).reshape(rows, width)
            some &= simulated
            for i, s in enumerate(score.T):
                self.response[place, i] += np.bincount(bins[some], weight[some] * s[some], width) / number

    def fitted(self, fixed: bool, precision, pull) -> Replicates:
        """Expected counts after the step of the fit. `fixed`: whether the number of events is given."""
        number = self.counts.shape[0] - 1
        score, response, information = self.score, self.response, self.information
        if fixed:  # deviations from the mean score: fractions of all bins add up to one
            mean = score[1:].sum(0) / self.size[1:].sum()
            score = score - self.size[:, None] * mean
            response = response - self.counts[1:].mean(0)[:, None] * mean
            information = information - self.size[1:].mean() * np.outer(mean, mean)
        inverse = _inverse(information + precision)

        def others(values):
            """Mean over replicates, of each replicate over the others."""
            total = values[1:].sum(0)
            return np.concatenate([total[None] / number, (total - values[1:]) / (number - 1)])

        step = (score - others(score) + pull) @ inverse
        mean = others(self.counts)
        expected = np.maximum(mean + step @ response.T, LEAST_PART * mean)
        return Replicates(self.quantities, self.slices, self.counts, expected)


def _inverse(matrix) -> np.ndarray:
    """Inverse in the directions that have information."""
    width = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    scale = np.where(width > 0, 1.0 / np.where(width > 0, width, 1.0), 0.0)
    values, vectors = np.linalg.eigh(matrix * np.outer(scale, scale))
    kept = values > NEGLIGIBLE * max(1, matrix.shape[0])
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    return inverse * np.outer(scale, scale)


def _others(posterior, term, parameters) -> tuple[np.ndarray, np.ndarray]:
    """Minus the curvature, and the gradient, of the prior and all other data sets."""
    curvature, pull = _curved(posterior, [one is term for one in posterior.terms], parameters)
    curvature = -np.nan_to_num(np.asarray(curvature, np.float64), posinf=0.0, neginf=0.0)
    values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
    precision = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return precision, np.nan_to_num(np.asarray(pull, np.float64), posinf=0.0, neginf=0.0)


@eqx.filter_jit
def _curved(posterior, own, parameters):
    x, restore = ravel_pytree(parameters)

    def value(x):
        at = restore(x)
        mixture = posterior.model(at)
        rest = [one.log_likelihood_ratio(mixture) for one, mine in zip(posterior.terms, own, strict=True) if not mine]
        return posterior.log_prior(at) + sum(rest, start=jnp.zeros(()))

    slope = jax.grad(value)
    curvature = jax.lax.map(lambda axis: jax.jvp(slope, (x,), (axis,))[1], jnp.eye(x.size, dtype=x.dtype))
    return curvature, slope(x)
