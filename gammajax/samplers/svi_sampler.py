"""Variational inference: a distribution fitted to the posterior by gradients, then corrected by importance weights.

Numpyro's stochastic variational inference (Hoffman et al. 2013, arXiv:1206.7051) with a Gaussian of any covariance or
with inverse autoregressive flows (Kingma et al. 2016, arXiv:1606.04934), in coordinates in which the Laplace
approximation is the unit Gaussian. The weights (Yao et al. 2018, arXiv:1802.02538) measure the quality of the fit,
correct it, and give the evidence.
"""

from functools import lru_cache
from typing import Any, Literal, NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
from jaxtyping import PRNGKeyArray
from numpyro import optim
from numpyro.distributions import ImproperUniform, Normal, constraints
from numpyro.handlers import seed
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoIAFNormal, AutoMultivariateNormal
from numpyro.infer.initialization import init_to_value

from gammajax.results.result import Result
from gammajax.samplers.driver import RunOptions, Sampler, drive
from gammajax.samplers.importance import K_HAT_MAX, LEAST, weigh
from gammajax.samplers.outcome import finish
from gammajax.samplers.peaks import find_peak
from gammajax.samplers.space import dimension, log_density, parameters_at

BLOCK = 50  # steps between two reports


class Guide(NamedTuple):
    """The fitted distribution between two blocks of steps."""

    fitted: Any
    peak: jax.Array
    factor: jax.Array


def svi(
    key: PRNGKeyArray,
    posterior,
    *,
    guide: Literal["flow", "gaussian"] = "flow",
    steps: int = 2000,
    draws: int = 4000,
    particles: int = 8,
    learning_rate: float = 5e-3,
    initial: dict | None = None,
    **run_options: Unpack[RunOptions],
) -> Result:
    """Fit a distribution to a posterior, draw from it, and weight the draws with the posterior itself.

    Stochastic variational inference (Hoffman et al. 2013, arXiv:1206.7051), by numpyro. `key`: a `jax.random.key`;
    `posterior`: a [`gammajax.Posterior`][]. Returns a [`gammajax.Result`][].

    - `guide`: "flow" fits bent posteriors and needs at least two numbers; "gaussian" has a free covariance.
    - `steps` of Adam at a `learning_rate` that falls to zero, with `particles` draws for each gradient.
    - `draws` of the fitted distribution; the result has equally weighted draws, as many as the effective size of the
      weights, and all draws with weights (`weighted`).
    - `initial`: parameters near the maximum; by default a search finds them.
    - `run_options` of all samplers, see [`gammajax.samplers.driver.RunOptions`][].

    A Pareto k-hat above 0.7 (arXiv:1507.02646) means that the fit misses part of the posterior; `Result.messages`
    reports it.
    Raises `ValueError` for numbers that are too small, for a flow of one number, and as [`gammajax.fit`][] does.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), run, events=200)
    >>> priors = {"fraction": dist.Uniform(0.0, 1.0)}
    >>> posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    >>> result = gj.svi(jax.random.key(1), posterior, guide="gaussian", steps=1000, draws=500, progress=False)
    >>> bool(0.0 < result.samples["fraction"].mean() < 0.5)
    True
    """
    for name, value, least in (("steps", steps, 1), ("draws", draws, LEAST), ("particles", particles, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if guide not in ("flow", "gaussian"):
        raise ValueError(f"guide is 'flow' or 'gaussian', not {guide!r}")
    if guide == "flow" and dimension(posterior) < 2:
        raise ValueError("a flow needs at least two numbers; use guide='gaussian'")
    kernel = _kernel(guide, steps, particles, learning_rate, dimension(posterior), jnp.result_type(float))

    def prepare(posterior, key):
        peak = find_peak(posterior, initial, jacobian=True)
        return {"x": peak.x, "factor": np.linalg.cholesky(peak.covariance)}

    def done(state, record, blocks):
        return min(blocks * BLOCK / steps, 1.0), f"evidence bound {-record.mean():.3f}"

    options = {
        "guide": guide,
        "steps": steps,
        "draws": draws,
        "particles": particles,
        "learning_rate": learning_rate,
        "initial": initial,
    }
    values = 3.0 * steps * particles + draws
    sampler = Sampler("svi", options, prepare, kernel.start, kernel.step, done, values=values)
    run = drive(sampler, posterior, key, **run_options)
    key_draw, key_choice = jax.random.split(jax.random.fold_in(key, 2))
    x, log_ratio = kernel.draw(run.posterior, run.state, jax.random.split(key_draw, draws))
    weighing = weigh(key_choice, np.asarray(log_ratio))
    k_hat = weighing.k_hat
    every = jax.tree.map(np.asarray, parameters_at(run.posterior, x))
    messages = []
    if not k_hat < K_HAT_MAX:
        messages.append(
            f"the fitted distribution misses part of the posterior: Pareto k-hat {k_hat:.2f}, above {K_HAT_MAX}; "
            "take more steps, guide='flow', or sample by nuts or nested"
        )
    return finish(
        run,
        sampler,
        key,
        {name: values[weighing.chosen][None] for name, values in every.items()},
        messages,
        log_evidence=(weighing.log_evidence + run.posterior.log_reference_exact(), weighing.error),
        calls=len(run.record) * particles + draws,
        weighted={"samples": every, "log_weight": weighing.log_weight},
        attributes={"k_hat": k_hat},
    )


class _Kernel(NamedTuple):
    start: Any
    step: Any
    draw: Any


@lru_cache(maxsize=16)
def _kernel(guide, steps, particles, learning_rate, numbers, precision) -> _Kernel:
    """Functions of one setting, cached so that other posteriors of the same shape need no compilation."""
    del precision  # only a cache key: arrays of the guide depend on it

    def model(posterior, peak, factor):
        z = numpyro.sample("z", ImproperUniform(constraints.real_vector, (), (numbers,)))
        numpyro.factor("density", log_density(posterior, peak + factor @ z, True) + jnp.log(jnp.diag(factor)).sum())

    def shape(*_):
        numpyro.sample("z", Normal(jnp.zeros(numbers), 1.0).to_event(1))

    at_peak = init_to_value(values={"z": jnp.zeros(numbers)})
    if guide == "flow":
        fitted = AutoIAFNormal(shape, num_flows=2, hidden_dims=[16, 16], init_loc_fn=at_peak)
    else:
        fitted = AutoMultivariateNormal(shape, init_loc_fn=at_peak, init_scale=1.0)
    with seed(rng_seed=0), jax.ensure_compile_time_eval():
        fitted()  # the first call sets its shape and must not be traced
    # the rate falls to zero, so that the last steps average the noise of the gradients
    rate = optim.optax_to_numpyro(optax.adam(optax.cosine_decay_schedule(learning_rate, steps)))
    inference = SVI(model, fitted, rate, Trace_ELBO(num_particles=particles, vectorize_particles=False))

    @eqx.filter_jit
    def start(posterior, key, prepared):
        peak = jnp.asarray(prepared["x"])
        factor = jnp.asarray(prepared["factor"], peak.dtype)
        return Guide(inference.init(jax.random.fold_in(key, 1), posterior, peak, factor), peak, factor)

    @eqx.filter_jit
    def step(posterior, state):
        def one(fitted, _):
            return inference.stable_update(fitted, posterior, state.peak, state.factor)

        fitted, loss = jax.lax.scan(one, state.fitted, length=BLOCK)
        return Guide(fitted, state.peak, state.factor), loss

    @eqx.filter_jit
    def draw(posterior, state, keys):
        distribution = fitted.get_posterior(inference.get_params(state.fitted))

        def one(key):
            z, *bends = distribution.sample_with_intermediates(key)
            x = state.peak + state.factor @ z
            bends = [bend for bend in bends if bend]  # a Gaussian has none
            own = distribution.log_prob(z, *bends) - jnp.log(jnp.diag(state.factor)).sum()
            height = log_density(posterior, x, True)
            return x, jnp.where(jnp.isfinite(height), height - own, -jnp.inf)

        return jax.lax.map(one, keys)

    return _Kernel(start, step, draw)
