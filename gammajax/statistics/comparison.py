"""Comparison of models of the same data: evidence, cross-validation over events, and information criteria.

An unbinned likelihood has a term for each event, so that the predictive score of event k by all others is known,

    elpd = Sum_k ln E_(theta | all but k)[lambda(x_k; theta)] - E_theta[N(theta)]

with the intensity lambda and the expected number N (of a mixture likelihood: with the density p(x_k), and without N).
Its expectation over the posterior of all other events is one over that of all events, weighted by 1 / lambda(x_k);
the weights are smoothed by a Pareto distribution, whose shape k-hat says how far they can be trusted (PSIS-LOO:
Vehtari, Gelman & Gabry 2017, doi:10.1007/s11222-016-9696-4; Vehtari et al. 2024, arXiv:1507.02646). WAIC is the same by
the variance of each term (Watanabe 2010, arXiv:1004.2316).
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import logsumexp

from gammajax.common.display import block, described, document, number_of, rows, words
from gammajax.common.progress import DELAY, Progress, say
from gammajax.events.cells import Cells
from gammajax.likelihood.unbinned import UnbinnedTerm
from gammajax.posterior import Posterior
from gammajax.results.result import Result
from gammajax.results.significance import strength
from gammajax.samplers.optimise import fit

DRAWS = 400  # of a posterior, behind each term
FEWEST = 100
CHUNK = 2**14  # events whose terms are kept at once
K_HAT = 0.7  # above it an importance-weighted mean has no reliable error (arXiv:1507.02646)


class Criteria(eqx.Module):
    """What is known of one model; None for what its result or posterior cannot tell.

    - `log_evidence`: ln Z and its standard error.
    - `elpd`: of the module [`gammajax.statistics.comparison`][], with the effective number of parameters `p_loo`;
      `waic`: the same by WAIC. Of every event, or cell with its `count`: its `scores` ln E[lambda], and `k_hat`.
      `expected`: the counts that elpd subtracts.
    - `log_likelihood`: the largest one; `aic` = 2 p - 2 ln L and `bic` = p ln n - 2 ln L with `parameters` p.

    >>> import gammajax as gj
    >>> gj.Criteria(log_evidence=(-12.0, 0.1)).aic is None
    True
    """

    log_evidence: tuple[float, float] | None = None
    elpd: float | None = None
    p_loo: float | None = None
    waic: float | None = None
    k_hat: Float[np.ndarray, " event"] | None = None
    scores: Float[np.ndarray, " event"] | None = None
    count: Float[np.ndarray, " event"] | None = None
    expected: float = 0.0
    log_likelihood: float | None = None
    parameters: int | None = None
    aic: float | None = None
    bic: float | None = None
    __repr__, __pdoc__ = described, document


class Comparison(eqx.Module):
    """Result of [`gammajax.compare`][]: the [`gammajax.Criteria`][] of each model by name, the best model first.

    `elpd_difference` and `elpd_error` are relative to the first model, over the same events.

    >>> import gammajax as gj
    >>> gj.compare({"line": gj.Criteria(log_evidence=(3.0, 0.1)), "none": gj.Criteria(log_evidence=(0.0, 0.1))})
    Comparison of 2 models, ordered by log evidence
      line: ln Z 3.00 +- 0.10
      none: ln Z 0.00 +- 0.10, ln B -3.00 +- 0.14 (moderate evidence against it)
    """

    models: dict[str, Criteria]
    elpd_difference: dict[str, float]
    elpd_error: dict[str, float]
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """A line for each model."""
        by = "log evidence" if _by_evidence(self.models) else "elpd" if _by_elpd(self.models) else "AIC"
        lines = [self._line(name) for name in self.models]
        return block(f"Comparison of {number_of(len(lines), 'model')}, ordered by {by}", *rows(lines, len(lines)))

    def _line(self, name) -> str:
        own, best = self.models[name], next(iter(self.models.values()))
        parts = []
        if own.log_evidence is not None:
            parts.append("ln Z {:.2f} +- {:.2f}".format(*own.log_evidence))
            if own is not best and best.log_evidence is not None:
                difference = own.log_evidence[0] - best.log_evidence[0]
                error = np.hypot(own.log_evidence[1], best.log_evidence[1])
                parts.append(f"ln B {difference:.2f} +- {error:.2f} ({strength(difference)} evidence against it)")
        if own.elpd is not None:
            relative = ""
            if own is not best and name in self.elpd_difference:
                relative = f" ({self.elpd_difference[name]:.2f} +- {self.elpd_error[name]:.2f} to the first)"
            parts.append(f"elpd {own.elpd:.2f}{relative}, p_loo {own.p_loo:.2f}")
        if own.aic is not None:
            parts.append(f"AIC {own.aic:.2f}, BIC {own.bic:.2f}")
        return f"{name}: {', '.join(parts)}"

    def plot(self, names=None, figure=None):
        """Draw ln B and the differences of elpd to the best model, with their errors; returns the figure.

        Arguments and errors as of [`gammajax.plots.comparisons.plot_comparison`][].
        """
        from gammajax.plots.comparisons import plot_comparison

        return plot_comparison(self, names, figure)


def compare(
    models: Mapping[str, "Result | Posterior | tuple[Result, Posterior] | Criteria"],
    *,
    draws: int = DRAWS,
    progress: bool = True,
) -> Comparison:
    """Compare models of the same data.

    - `models` by name: a [`gammajax.Result`][] tells its evidence; a [`gammajax.Posterior`][] is fitted, for AIC and
      BIC; a pair of both tells everything, also the predictive score of every event.
    - `draws` of a posterior behind each score. `progress`: show how far it is, after some seconds.

    AIC and BIC suppose that the likelihood is a parabola at its peak: not for a component on the edge of its prior.
    Evidence depends on the width of priors, scores hardly do. A warning names models whose scores rest on single draws.

    Returns a [`gammajax.Comparison`][]. Raises `ValueError` for fewer than two models, for other types, for data sets
    that differ in their number of events, and for several data sets or binned ones and for no events, which have no
    scores.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p, index=2.0):
    ...     source = gj.Source(gj.PowerLaw(index, 1e-11 * p["flux"]), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground())
    >>> events = gj.simulate(jax.random.key(0), model({"flux": 2.0}), run)
    >>> priors = {"flux": dist.LogNormal(0.0, 1.0)}
    >>> posteriors = {
    ...     "soft": gj.Posterior(lambda p: model(p, 4.0), priors, run, events, per_decade=20.0),
    ...     "hard": gj.Posterior(model, priors, run, events, per_decade=20.0),
    ... }
    >>> list(gj.compare(posteriors).models)
    ['hard', 'soft']
    """
    if len(models) < 2:
        raise ValueError("compare needs at least two models")
    with Progress(progress, "comparison", DELAY):
        found = {name: _criteria(name, value, draws) for name, value in models.items()}
    sizes = {name: _events(value) for name, value in models.items()}
    known = {size for size in sizes.values() if size is not None}
    if len(known) > 1:
        each = ", ".join(f"{name}: {size}" for name, size in sizes.items() if size is not None)
        raise ValueError(f"the models have different numbers of events ({each}); compare models of the same data")
    value = _value_of(found)
    order = sorted(found, key=lambda name: -value(found[name]))
    best = found[order[0]]
    difference, error = {}, {}
    for name in order:
        own = found[name]
        if own.scores is None or best.scores is None or own.count is None:
            continue
        if own.scores.size != best.scores.size:
            raise ValueError(f"models {order[0]!r} and {name!r} have other cells; compare models of the same data")
        each, count = own.scores - best.scores, own.count
        difference[name] = float(count @ each - (own.expected - best.expected))
        # of a sum over events whose number is random
        error[name] = float(np.sqrt(count @ each**2))
    return Comparison({name: found[name] for name in order}, difference, error)


def _value_of(models) -> Callable[[Any], float]:
    """The criterion that all models have, larger for a better one."""
    if _by_evidence(models):
        return lambda one: one.log_evidence[0]
    if _by_elpd(models):
        return lambda one: one.elpd
    if all(one.aic is not None for one in models.values()):
        return lambda one: -one.aic
    raise ValueError(
        "the models have no criterion in common: give results with evidence (smc, nested), posteriors, or pairs "
        "(result, posterior)"
    )


def _by_evidence(models) -> bool:
    return all(one.log_evidence is not None for one in models.values())


def _by_elpd(models) -> bool:
    return all(one.elpd is not None for one in models.values())


def _events(value) -> int | None:
    """Number of events of a model, where it is known."""
    result, posterior = _parts(value)
    if posterior is not None:
        return posterior.total
    events = None if result is None else result.tree.attrs.get("events")
    return None if events is None else int(events)


def _parts(value) -> tuple[Any, Any]:
    """Result and posterior of a model, None for what is not given."""
    if isinstance(value, tuple) and len(value) == 2:
        return value[0], value[1]
    return (value if isinstance(value, Result) else None), (value if isinstance(value, Posterior) else None)


def _criteria(name, value, draws) -> Criteria:
    if isinstance(value, Criteria):
        return value
    result, posterior = _parts(value)
    known_types = isinstance(result, Result | None) and isinstance(posterior, Posterior | None)
    if not known_types or (result is None and posterior is None):
        raise ValueError(f"model {name!r} is a {type(value).__name__}; give a result, a posterior, or a pair of both")
    known: dict = {} if result is None else {"log_evidence": result.log_evidence}
    if posterior is not None:
        best = fit(posterior, progress=False)
        peak = best.log_posterior - float(posterior.log_prior(best.parameters))
        count = sum(int(np.size(value)) for value in best.parameters.values())
        known |= {"log_likelihood": peak, "parameters": count, "aic": 2.0 * (count - peak)}
        known["bic"] = count * float(np.log(max(posterior.total, 1))) - 2.0 * peak
    if result is not None and posterior is not None:
        known |= _scores(name, result, posterior, draws)
    return Criteria(**known)


def _scores(name, result, posterior, draws) -> dict:
    """Predictive scores of events."""
    from arviz_stats.base.array import array_stats

    term = posterior.terms[0]
    if len(posterior.terms) > 1 or not isinstance(term, UnbinnedTerm):
        raise ValueError(f"model {name!r} has several or binned data sets; only one of events has scores of events")
    samples = {parameter: result.samples[parameter] for parameter in posterior.priors}
    size = len(next(iter(samples.values())))
    chosen = np.linspace(0, size - 1, min(size, draws)).astype(int)
    if chosen.size < FEWEST:
        raise ValueError(f"model {name!r} has {chosen.size} draws; scores of events need at least {FEWEST}")
    points = {parameter: jnp.asarray(values[chosen]) for parameter, values in samples.items()}
    expected = 0.0 if term.weighted else float(np.mean(np.asarray(_expectations(posterior, points), np.float64)))
    # rows are in an order of their own in every posterior
    data = term.data
    keys = (data.cell, data.observation) if isinstance(data, Cells) else (data.lat, data.lon, data.energy)
    occupied = np.lexsort([np.asarray(key) for key in keys])
    occupied = occupied[np.asarray(term.count)[occupied] > 0]
    if not occupied.size:
        raise ValueError(f"model {name!r} has no events to score")
    scores, means, spreads, k_hats = [], [], [], []
    for first in range(0, occupied.size, CHUNK):
        some = occupied[first : first + CHUNK]
        say(f"{name}: scores of {first} of {occupied.size} events")
        # the last chunk as large as the others, so that one program serves all
        log_density = np.asarray(_log_densities(posterior, points, jnp.asarray(np.resize(some, CHUNK))), np.float64)
        log_density = log_density[:, : some.size].T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that of `compare` counts the events
            log_weight, k_hat = array_stats.psislw(log_density, axis=-1)  # of 1 / density
        scores.append(logsumexp(log_density + log_weight, axis=1))
        means.append(logsumexp(log_density, axis=1) - np.log(chosen.size))
        spreads.append(log_density.var(axis=1))
        k_hats.append(k_hat)
    count = np.asarray(term.count)[occupied].astype(np.float64)
    score, mean, spread, k_hat = (np.concatenate(column) for column in (scores, means, spreads, k_hats))
    high = int(np.sum(k_hat > K_HAT))
    if high:
        warnings.warn(
            f"model {name!r}: the scores of {high} of {k_hat.size} events rest on few draws (k-hat above {K_HAT}); "
            "elpd may be too large",
            stacklevel=4,
        )
    elpd = float(count @ score)
    return {
        "elpd": elpd - expected,
        "p_loo": float(count @ mean) - elpd,
        "waic": float(count @ (mean - spread)) - expected,
        "k_hat": k_hat,
        "scores": score,
        "count": count,
        "expected": expected,
    }


@eqx.filter_jit
def _expectations(posterior, points) -> Float[Array, " draw"]:
    """Expected counts of all components."""
    return jax.lax.map(lambda p: sum(part.sum() for part in posterior.expected_counts(p).values()), points)


@eqx.filter_jit
def _log_densities(posterior, points, some: Int[Array, " row"]) -> Float[Array, "draw row"]:
    """Logarithm of the density of some rows at every draw."""
    return jax.lax.map(lambda p: jnp.log(posterior.density(p)[some]), points)
