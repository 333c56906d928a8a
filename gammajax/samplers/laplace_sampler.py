"""Laplace approximation: the Gaussian about the maximum of a posterior, corrected by importance weights.

The fastest method. The Gaussian is exact for many events and parameters far from their bounds (Tierney & Kadane 1986);
otherwise weights correct it near this one peak. The search for the maximum is that of [`gammajax.fit`][].
"""

from functools import lru_cache
from typing import Any, NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from numpyro.distributions import MultivariateStudentT

from gammajax.results.result import Result
from gammajax.samplers.driver import RunOptions, Sampler, drive
from gammajax.samplers.importance import K_HAT_MAX, LEAST, TAILS, weigh
from gammajax.samplers.outcome import finish
from gammajax.samplers.peaks import find_peak
from gammajax.samplers.space import log_density, parameters_at

BLOCK = 250  # draws between two reports
FINITE = 0.5  # k-hat below which weights have a finite variance


def laplace(
    key: PRNGKeyArray,
    posterior,
    *,
    draws: int = 4000,
    initial: dict | None = None,
    **run_options: Unpack[RunOptions],
) -> Result:
    """Draw about the maximum, in the unconstrained space, and weight with the posterior itself.

    For posteriors close to a Gaussian: the fastest evidence. `key`: a `jax.random.key`; `posterior`: a
    [`gammajax.Posterior`][]. Returns a [`gammajax.Result`][].

    - `draws` from a Student t with the centre and covariance of the Gaussian; its tails are heavier than those of
      posteriors. The result has equally weighted draws, as many as the effective size of the weights, and all draws
      with weights (`weighted`).
    - `initial`: parameters near the maximum; by default a search finds them.
    - `run_options` of all samplers, see [`gammajax.samplers.driver.RunOptions`][].

    The evidence is the mean weight. `log_evidence_gaussian` in `Result.tree.attrs` is the evidence of the Gaussian:
    log density at the maximum + d/2 log 2 pi + 1/2 log det C, with the covariance C of d numbers. If the weights
    have no finite variance, a Pareto k-hat above 0.5 (arXiv:1507.02646), the error of the evidence includes the
    difference of the two. Above 0.7 the posterior is not close to a Gaussian, and `Result.messages` has a message.
    Raises `ValueError` for fewer than 25 draws, and as [`gammajax.fit`][] does.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), run, events=200)
    >>> priors = {"fraction": dist.Uniform(0.0, 1.0)}
    >>> posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    >>> result = gj.laplace(jax.random.key(1), posterior, draws=500, progress=False)
    >>> bool(0.0 < result.samples["fraction"].mean() < 0.5)
    True
    """
    if draws < LEAST:
        raise ValueError(f"draws must be at least {LEAST}, not {draws}")
    start, step = _kernel()

    def prepare(posterior, key):
        peak = find_peak(posterior, initial, jacobian=True)
        factor = np.linalg.cholesky(peak.covariance)
        return {"x": peak.x, "factor": factor, "converged": np.asarray(peak.converged)}

    def done(state, record, steps):
        return min(steps * BLOCK / draws, 1.0), "draws"

    sampler = Sampler(
        "laplace",
        {"draws": draws, "initial": initial},
        prepare,
        start,
        step,
        done,
        values=draws,
    )
    run = drive(sampler, posterior, key, **run_options)
    x, log_ratio = (values[:draws] for values in run.record)
    every = jax.tree.map(np.asarray, parameters_at(run.posterior, jnp.asarray(x)))
    factor = run.prepared["factor"]
    top = float(eqx.filter_jit(log_density)(run.posterior, jnp.asarray(run.prepared["x"]), True))
    own = top + 0.5 * x.shape[1] * np.log(2.0 * np.pi) + np.log(np.diag(factor)).sum()
    weighing = weigh(jax.random.fold_in(key, 2), log_ratio)
    error, k_hat = weighing.error, weighing.k_hat
    if not k_hat < FINITE:
        error = float(np.hypot(error, own - weighing.log_evidence))
    messages = []
    if not run.prepared["converged"]:
        messages.append("the maximum was not found: the Gaussian approximation is unreliable")
    if not k_hat < K_HAT_MAX:
        messages.append(
            f"the posterior is no Gaussian: Pareto k-hat {k_hat:.2f}, above {K_HAT_MAX}; sample it, by nuts or nested"
        )
    reference = run.posterior.log_reference_exact()
    return finish(
        run,
        sampler,
        key,
        {name: values[weighing.chosen][None] for name, values in every.items()},
        messages,
        log_evidence=(weighing.log_evidence + reference, error),
        calls=draws,
        weighted={"samples": every, "log_weight": weighing.log_weight},
        attributes={"log_evidence_gaussian": own + reference, "k_hat": k_hat},
    )


class _Kernel(NamedTuple):
    start: Any
    step: Any


@lru_cache(maxsize=1)
def _kernel() -> _Kernel:
    @eqx.filter_jit
    def start(posterior, key, prepared):
        x = jnp.asarray(prepared["x"])
        return key, x, jnp.asarray(prepared["factor"], x.dtype)

    @eqx.filter_jit
    def step(posterior, state):
        key, peak, factor = state
        key, here = jax.random.split(key)
        proposal = MultivariateStudentT(TAILS, peak, factor)
        x = proposal.sample(here, (BLOCK,)).astype(peak.dtype)
        height = jax.lax.map(lambda one: log_density(posterior, one, True), x)
        log_ratio = jnp.where(jnp.isfinite(height), height - proposal.log_prob(x), -jnp.inf)
        return (key, peak, factor), (x, log_ratio)

    return _Kernel(start, step)
