"""Nested slice sampling: live points move by slices through shrinking prior volumes of rising likelihood.

Skilling 2006 (doi:10.1214/06-BA127), in the form of Yallup, Kroupa & Handley 2026 (arXiv:2601.23252), by blackjax,
with the slices of [`gammajax.samplers.slices`][]. It gives the evidence with its error and finds peaks wherever the
live points cover the prior: the method of choice for several peaks, and the reference for the other methods.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from gammajax.results.result import Result
from gammajax.samplers.driver import RunOptions, Sampler, drive
from gammajax.samplers.importance import effective_size, resample
from gammajax.samplers.outcome import finish
from gammajax.samplers.particles import batch_size, prior_particles
from gammajax.samplers.slices import replace
from gammajax.samplers.space import dimension, log_likelihood, log_prior, parameters_at

BLOCK = 10  # steps between two reports
# typical e-foldings of the volume from prior to posterior, and likelihoods of a move along a slice
E_FOLDINGS, PER_SLICE = 10, 6
VOLUMES = 200  # drawn sequences of prior volumes: the error of the evidence
UNIFORM = 1e-3  # p-value of the ranks of new points among the live ones, below which they do not cover the volume


class Live(NamedTuple):
    """Live points between two steps."""

    key: PRNGKeyArray
    nested: Any


def nested(
    key: PRNGKeyArray,
    posterior,
    *,
    live: int = 500,
    delete: int | None = None,
    slices: int | None = None,
    precision: float = 1e-3,
    steps: int = 100_000,
    batch: int | None = None,
    **run_options: Unpack[RunOptions],
) -> Result:
    """Draw from a posterior and compute its evidence by nested sampling, from live points drawn from the prior.

    Skilling 2006 (doi:10.1214/06-BA127): Z = Int L dX over the prior volume X, by points whose likelihood rises. For
    several peaks, and evidences with a reliable error. `key`: a `jax.random.key`; `posterior`: a
    [`gammajax.Posterior`][]. Returns a [`gammajax.Result`][].

    - `live` points; the error of log Z is about the square root of information / live.
    - `delete`: points replaced together, by default a tenth of the live points; they move in parallel.
    - `slices` from a live point to a new point, by default three per dimension for two dimensions and five for six or
      more; too few slices make log Z too high.
    - `precision`: the run ends when the live points hold less than this fraction of the evidence, or after `steps`.
    - `batch`: points moved together; memory grows with it, results change only by rounding.
    - `run_options` of all samplers, see [`gammajax.samplers.driver.RunOptions`][].

    The result keeps all dead points with weights, likelihoods and likelihoods at birth (`weighted`), and equally
    weighted draws, as many as the effective size of the weights. The error of log Z is its spread over drawn prior
    volumes. `Result.messages` reports a run that ended early, and new points that crowd among the live points.
    Raises `ValueError` for numbers out of range; after SIGTERM exits with status 75.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), run, events=200)
    >>> priors = {"fraction": dist.Uniform(0.0, 1.0)}
    >>> posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    >>> result = gj.nested(jax.random.key(1), posterior, live=50, progress=False)
    >>> bool(0.0 < result.samples["fraction"].mean() < 0.5)
    True
    """
    numbers = dimension(posterior)
    delete = max(1, live // 10) if delete is None else delete
    slices = numbers * min(5, 2 + numbers // 2) if slices is None else slices
    if live < 2 * (numbers + 1):
        raise ValueError(f"live must be at least twice the {numbers} dimensions plus two, not {live}")
    if not 1 <= delete <= live // 2:
        raise ValueError(f"delete must lie between 1 and half of the {live} live points, not {delete}")
    if slices < 1 or steps < 1 or not 0.0 < precision < 1.0:
        raise ValueError("slices and steps must be positive and precision between 0 and 1")
    batch = batch_size(posterior, delete) if batch is None else max(1, min(batch, delete))
    compiled = _kernel(live, delete, slices, batch)

    def prepare(posterior, key):
        x, best = prior_particles(posterior, jax.random.fold_in(key, 0), live, batch_size(posterior, live))
        return {"x": best, "live": x}

    def left(record):
        """Logarithm of the fraction of the evidence in the live points."""
        live_part = float(record["log_z_live"][-1])
        return live_part - np.logaddexp(live_part, float(record["log_z"][-1]))

    def done(state, record, blocks):
        part = left(record)
        if part < np.log(precision) or blocks * BLOCK >= steps:
            return 1.0, "done"
        # by volume: the run ends a few e-foldings after the evidence of the live points begins to fall
        return 0.9 * float(np.clip(part / np.log(precision), 0.0, 1.0)), (
            f"-log X {-record['log_volume'][-1]:.1f}, log Z within {part:.2g}"
        )

    def over(state):
        """Whether the remaining volume has a single likelihood, so that points cannot climb."""
        height = np.asarray(state.nested.particles.loglikelihood)
        return bool(height.min() == height.max())

    options = {"live": live, "delete": delete, "slices": slices, "precision": precision, "steps": steps}
    sampler = Sampler(
        "nested",
        {**options, "batch": batch},
        prepare,
        compiled.start,
        compiled.step,
        done,
        over,
        values=live * E_FOLDINGS * slices * PER_SLICE,
    )
    run = drive(sampler, posterior, key, **run_options)
    record = run.record
    points = jax.tree.map(
        lambda dead, alive: np.concatenate([dead, np.asarray(alive)]), record["dead"], run.state.nested.particles
    )
    order = np.argsort(points.loglikelihood, kind="stable")
    points = jax.tree.map(lambda a: a[order], points)
    key_volume, key_draw = jax.random.split(jax.random.fold_in(key, 2))
    log_weight, log_volume, log_z = _weights(key_volume, points)
    weight = np.exp(log_weight - np.logaddexp.reduce(log_weight))
    information = float(weight @ points.loglikelihood.astype(np.float64) - log_z.mean())
    chosen = resample(key_draw, log_weight, max(round(effective_size(log_weight)), 1))
    samples = jax.tree.map(np.asarray, parameters_at(run.posterior, jnp.asarray(points.position[chosen])))
    every = jax.tree.map(np.asarray, parameters_at(run.posterior, jnp.asarray(points.position)))
    reference = run.posterior.log_reference_exact()
    birth = np.where(np.isnan(points.loglikelihood_birth), -np.inf, points.loglikelihood_birth.astype(np.float64))
    return finish(
        run,
        sampler,
        key,
        {name: values[None] for name, values in samples.items()},
        _messages(record, 0.0 if over(run.state) else np.exp(left(record)), precision),
        log_evidence=(float(log_z.mean()) + reference, float(log_z.std(ddof=1))),
        information=information,
        calls=int(record["calls"].astype(np.int64).sum()) + 2 * live,
        weighted={
            "samples": every,
            "log_weight": log_weight - log_z.mean(),
            "log_likelihood": points.loglikelihood.astype(np.float64) + reference,
            "log_likelihood_birth": birth + reference,
            "log_volume": log_volume,
        },
    )


def _weights(key, points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithms of mean weights and volumes of sorted points [point], and of the evidence [drawn volumes]."""
    from blackjax.ns.base import NSInfo
    from blackjax.ns.utils import log_weights

    with jax.enable_x64(True):
        wide: Any = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), points)
        info = NSInfo(wide, None)  # pyright: ignore[reportArgumentType]
        drawn = np.asarray(log_weights(key, info, VOLUMES))
        weight = drawn - points.loglikelihood[:, None].astype(np.float64)
    log_z = np.logaddexp.reduce(drawn, axis=0)
    mean = np.logaddexp.reduce(drawn, axis=1) - np.log(VOLUMES)
    shells = np.logaddexp.reduce(weight, axis=1) - np.log(VOLUMES)
    # volume above each point: the sum of all later shells
    log_volume = np.logaddexp.accumulate(shells[::-1])[::-1]
    return mean, log_volume, log_z


def _messages(record, left, precision) -> list[str]:
    from scipy.stats import kstest

    messages = []
    if left >= precision:
        messages.append(
            f"the run ended early: the live points still hold {100.0 * left:.2g} % of the evidence; raise steps"
        )
    ranks = record["ranks"].ravel()
    p_value = float(kstest(ranks, "uniform").pvalue) if ranks.size else 1.0
    if p_value < UNIFORM:
        messages.append(
            f"new points are not spread evenly among the live ones (p = {p_value:.1g}, Fowlie et al. 2020): "
            "the evidence may be off; raise slices or live"
        )
    return messages


class _Kernel(NamedTuple):
    start: Any
    step: Any


@lru_cache(maxsize=16)
def _kernel(live, delete, slices, batch) -> _Kernel:
    """Functions of one setting, cached so that other posteriors of the same shape need no compilation."""
    # importing blackjax starts the device, which importing gammajax must not do
    from blackjax.ns import adaptive, base, nss

    def make(posterior):
        """The state of a particle, from its position."""

        def state(x, loglikelihood_birth=jnp.nan):
            return base.init_state_strategy(
                x,
                lambda x: log_prior(posterior, x),
                lambda x: log_likelihood(posterior, x),
                loglikelihood_birth,
            )

        return state

    @eqx.filter_jit
    def start(posterior, key, prepared):
        particle = make(posterior)
        found = nss.init(
            jnp.asarray(prepared["live"]),
            lambda x: jax.lax.map(particle, x, batch_size=batch),
            update_inner_kernel_params_fn=nss.live_covariance_factor,
        )
        return Live(jax.random.fold_in(key, 1), found)

    @eqx.filter_jit
    def step(posterior, state):
        kernel = adaptive.build_kernel(
            partial(base.delete_fn, num_delete=delete),
            replace(make(posterior), slices, batch, delete),
            nss.live_covariance_factor,
        )

        def one(state, _):
            key, here = jax.random.split(state.key)
            after, info = kernel(here, state.nested)
            fresh = after.particles.loglikelihood_birth == info.particles.loglikelihood.max()
            height = jnp.where(fresh, jnp.inf, after.particles.loglikelihood)
            new = jax.lax.top_k(fresh.astype(jnp.int32), delete)[1]
            # rank of each new point among the points that stayed
            below = (height[None, :] < after.particles.loglikelihood[new][:, None]).sum(1)
            spread = jax.random.uniform(jax.random.fold_in(here, 1), (delete,))
            record = {
                "dead": info.particles,
                "log_z": after.integrator.logZ[None],
                "log_z_live": after.integrator.logZ_live[None],
                "log_volume": after.integrator.logX[None],
                "ranks": (below + spread)[None] / (live - delete + 1),
                "calls": info.update_info.sum()[None],
            }
            return Live(key, after), record

        state, record = jax.lax.scan(one, state, length=BLOCK)
        return state, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), record)

    return _Kernel(start, step)
