"""Reweighting: a finished run under another prior or another model, without sampling again.

Draws theta_s of the old posterior with weights W_s become draws of the new posterior with weights

    w_s = W_s  L'(theta_s) pi'(theta_s) / (L(theta_s) pi(theta_s)),      Z' / Z = Sum_s w_s / Sum_s W_s.

The loss is measured as in population inference (Heinzel & Vitale 2025, arXiv:2509.07221): the expected
Kullback-Leibler divergence of the exact posterior from its Monte-Carlo estimate, E = Var(ln p) / 2 over the posterior
and over repetitions of the sum, should stay below 0.2 bits. For a sum over n_eff draws of a Gaussian with
k = d (d + 3) / 2 free numbers (means and covariances of d parameters) this is E = k / (2 n_eff) nat.
"""

import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gammajax.model.priors import centre, extremes
from gammajax.results.result import Result
from gammajax.samplers.fractions import sample_fractions
from gammajax.samplers.importance import smooth, systematic
from gammajax.samplers.space import referred

INFORMATION_LOSS_MAX = 0.2  # bits, as recommended in arXiv:2509.07221
CHUNK = 8  # draws at a time: each takes a few arrays of the length of the events


def reweight(result: Result, posterior, *, new_posterior: Any = None, log_prior=None, chunk: int = CHUNK) -> Result:
    """Result of the same draws under `new_posterior`, or under another prior density `log_prior(parameters)`.

        w = p_new(theta | data) / p(theta | data) of each draw theta of `result`

    - `posterior`: the posterior of `result`. `new_posterior` has the same data and parameters, and
      may have another model, other priors, responses or engines.
    - `log_prior`: logarithm of the joint prior density, -inf for excluded points; it must be normalised for a correct
      evidence. (The `log_prob` of a numpyro distribution ignores the ends of its support.)

    - `chunk`: draws whose likelihoods are computed together.

    Returns a [`gammajax.Result`][] of the parameters; derive other quantities again. The draws of the new result are
    equally weighted; its `weighted` points are exact. It has a log-evidence if the old result has one. Its attributes
    hold `effective_draws`, `information_loss` [bit] and `pareto_k`, the tail index of the weights (Vehtari et al. 2024,
    arXiv:1507.02646).

    Raises `ValueError` if the information loss is above 0.2 bits or the weights have a tail with k above 0.7 (for
    few draws above 1 - 1 / log10 of their number): sample anew then. Also raises it for parameters without draws, and
    for other data. A prior that reaches beyond the old prior, where there are no draws, gives a warning and a message.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), run, events=200)
    >>> priors = {"fraction": dist.Uniform(0.0, 1.0)}
    >>> posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    >>> result = gj.laplace(jax.random.key(1), posterior, draws=500, progress=False)
    >>> other = gj.Posterior(model, {"fraction": dist.Beta(1.0, 2.0)}, run, events, per_decade=20.0)
    >>> new = gj.reweight(result, posterior, new_posterior=other)
    >>> bool(new.samples["fraction"].mean() < result.samples["fraction"].mean() + 0.01)
    True
    """
    if (new_posterior is None) == (log_prior is None):
        raise ValueError("give either new_posterior or log_prior")
    names = list(posterior.priors)
    if new_posterior is not None and set(new_posterior.priors) != set(names):
        raise ValueError(
            f"the new posterior has parameters {sorted(new_posterior.priors)}, the old one {sorted(names)}"
        )
    missing = [name for name in names if name not in result.samples]
    if missing:
        raise ValueError(f"the result has no draws of {missing}; is it from this posterior?")
    messages = list(result.messages)
    if new_posterior is not None:
        sizes = [p.total for p in (posterior, new_posterior) if hasattr(p, "total")]
        if len(set(sizes)) > 1:
            raise ValueError(f"the posteriors are of {sizes[0]} and {sizes[1]} events; reweighting needs the same data")
        for message in _beyond(posterior, new_posterior):
            warnings.warn(message, stacklevel=2)
            messages.append(message)
    weighted = all(name in result.weighted for name in names)
    points = {name: (result.weighted if weighted else result.samples)[name] for name in names}
    count = len(next(iter(points.values())))
    old = result.weights if weighted else np.full(count, 1.0 / count)
    log_ratio, shift = _log_ratios(posterior, new_posterior, log_prior, points, chunk)
    log_ratio = np.where(old > 0, log_ratio, -np.inf)
    if np.any(np.isnan(log_ratio)) or not np.isfinite(log_ratio.max()):
        raise ValueError("no draw has a positive, finite density under the new posterior; sample the new posterior")
    with np.errstate(divide="ignore"):
        log_weight = np.log(old) + log_ratio
    log_sum = np.logaddexp.reduce(log_weight)
    weights = np.exp(log_weight - log_sum)
    # draws of a chain are correlated
    independent = 1.0 if weighted else _independent(result, names, count)
    effective = independent / float(np.sum(weights**2))
    numbers = sum(np.prod(values.shape[1:], dtype=int) for values in points.values())
    loss = information_loss(int(numbers), effective)
    _, pareto_k = smooth(log_weight)
    limit = min(1.0 - 1.0 / math.log10(max(count, 11)), 0.7)
    if loss > INFORMATION_LOSS_MAX or pareto_k > limit:
        raise ValueError(
            f"reweighting loses too much: {effective:.1f} effective draws of {count}, information loss {loss:.2g} bits "
            f"(at most {INFORMATION_LOSS_MAX}), Pareto k {pareto_k:.2f} (at most {limit:.2f}); sample the new posterior"
        )
    kept = systematic(weights, max(int(effective), 1))
    target = posterior if new_posterior is None else new_posterior
    samples = {name: values[kept][None] for name, values in points.items()}
    evidence = None
    if result.log_evidence is not None:
        value, error = result.log_evidence
        # delta method: relative variance of the mean ratio
        variance = np.sum((weights - old) ** 2) / independent
        evidence = value + shift + float(log_sum), math.hypot(error, math.sqrt(variance))
    return Result.from_samples(
        samples,
        method=f"{result.tree.attrs['method']}, reweighted",
        truths={name: value for name, value in result.truths.items() if name in names},
        units={name: unit for name, unit in result.units.items() if name in names},
        labels={name: label for name, label in result.labels.items() if name in names},
        fractions=sample_fractions(target, samples),
        messages=messages,
        weighted={"samples": points, "log_weight": log_weight},
        log_evidence=evidence,
        seed=result.tree.attrs.get("seed"),
        events=result.tree.attrs.get("events"),
        attributes={"effective_draws": effective, "information_loss": loss, "pareto_k": pareto_k},
    )


def information_loss(numbers: int, effective: float | int) -> float:
    """Information [bit] lost by an estimate of a posterior of `numbers` parameters from `effective` draws.

    k / (2 n ln 2) with k = d (d + 3) / 2: the expected divergence of a Gaussian from a Gaussian with estimated moments.

    >>> from gammajax.statistics.reweighting import information_loss
    >>> round(information_loss(2, 100.0), 4)
    0.0361
    """
    return 0.5 * (0.5 * numbers * (numbers + 3)) / (effective * math.log(2.0))


def _log_ratios(posterior, new_posterior, log_prior, points, chunk):
    """Logarithm of the new density over the old for every point, and a constant to add to all."""
    draws = {name: jnp.asarray(values) for name, values in points.items()}
    middle = {name: jnp.asarray(np.median(values, axis=0)) for name, values in points.items()}
    if new_posterior is None:

        def change(parameters):
            return jnp.asarray(log_prior(parameters)) - posterior.log_prior(parameters)

        convert = eqx.filter_closure_convert(change, {name: values[0] for name, values in draws.items()})
        return np.asarray(_mapped(convert, draws, chunk), np.float64), 0.0
    # reference near the draws, so that single precision resolves the difference
    old, new = (_at(p, middle) for p in (posterior, new_posterior))
    ratio = np.asarray(_mapped(_Change(old, new), draws, chunk), np.float64)
    return ratio, new.log_reference_exact() - old.log_reference_exact()


def _beyond(posterior, new_posterior) -> list[str]:
    """Messages about priors that reach beyond the old supports, where there are no draws."""
    found = []
    for name, prior in posterior.priors.items():
        new = new_posterior.priors[name]
        # a little inside: supports may be open
        values = [value + 1e-3 * (centre(new) - value) for value in extremes(new)]
        if not all(bool(jnp.all(prior.support(value))) for value in values):
            found.append(f"the prior of {name!r} reaches beyond the one of the draws; what lies there is missed")
    return found


def _at(posterior, parameters):
    moved = referred(posterior, parameters)
    return moved if np.isfinite(float(moved.log_reference)) else posterior


class _Change(eqx.Module):
    """Logarithm of new over old density of parameters."""

    old: Any
    new: Any

    def __call__(self, parameters):
        old, new = (p.log_likelihood_ratio(parameters) + p.log_prior(parameters) for p in (self.old, self.new))
        # numpyro densities continue beyond their support
        allowed = [jnp.all(prior.support(parameters[name])) for name, prior in self.new.priors.items()]
        return jnp.where(jnp.all(jnp.stack(allowed)), new - old, -jnp.inf)


@eqx.filter_jit
def _mapped(function, draws, chunk):
    return jax.lax.map(function, draws, batch_size=chunk)


def _independent(result, names, count) -> float:
    """Effective fraction of the draws of chains, for the parameter with the fewest effective draws."""
    sizes = result.diagnostics()[0]
    least = min((float(np.min(sizes[name])) for name in names), default=math.nan)
    return min(least / count, 1.0) if math.isfinite(least) else 1.0
