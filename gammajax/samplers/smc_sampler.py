"""Sequential Monte Carlo: particles move from the prior to the posterior through tempered likelihoods.

Del Moral, Doucet & Jasra 2006 (doi:10.1111/j.1467-9868.2006.00553.x), by blackjax. Temperatures keep the effective size
of the weights at a given value (Jasra et al. 2011). The method gives the evidence, handles several peaks if the
particles find them, and works on many particles at once: the method of choice on accelerators.
"""

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpyro.distributions import MultivariateStudentT

from gammajax.results.result import Result
from gammajax.samplers.driver import RunOptions, Sampler, drive
from gammajax.samplers.importance import TAILS
from gammajax.samplers.outcome import finish
from gammajax.samplers.particles import batch_size, log_likelihoods, prior_particles
from gammajax.samplers.space import log_likelihood, log_prior, parameters_at

Kernel = Literal["independent", "hmc", "nuts"]
KERNELS = {"independent": "irmh", "hmc": "hmc", "nuts": "nuts"}  # names of blackjax
TEMPERATURES, GRADIENTS = 15, 7  # typical numbers of temperatures, and of gradients in a move of NUTS
GROUPS = 4  # of particles, which descend from other ones: they must agree as chains must
# a quarter of the period of a Gaussian at the largest step: independent of the start
LEAPFROGS, LONGEST_STEP = 6, 0.26
TARGET_ACCEPT = 0.8
# fraction of unmoved particles above which the next temperatures make more rounds of moves, and largest number of
# rounds. Stopping once every particle has moved would stop while the tails are still empty: variances 4 % too small
STUCK, ROUNDS = 0.01, 32
LEFT = 0.05  # fraction of unmoved particles at the last temperature above which a warning is raised
CORRELATED = 0.5  # correlation of particles with their start of the last moves above which the moves were too few
FEW_ANCESTORS = 20


class Particles(NamedTuple):
    """Particles between two temperatures; `eve` is the first ancestor of each."""

    key: PRNGKeyArray
    tempered: Any
    eve: Int[Array, " particle"]
    step_size: Float[Array, ""]
    rounds: Int[Array, ""]  # of moves at the next temperature


def smc(
    key: PRNGKeyArray,
    posterior,
    *,
    particles: int = 1000,
    kernel: Kernel = "independent",
    moves: int | None = None,
    target_ess: float = 0.7,
    batch: int | None = None,
    **run_options: Unpack[RunOptions],
) -> Result:
    """Draw from a posterior and estimate its evidence by sequential Monte Carlo, from draws of the prior.

    Del Moral, Doucet & Jasra 2006 (doi:10.1111/j.1467-9868.2006.00553.x), tempered: the density is prior x L^t, with t
    from 0 to 1. For several peaks. `key`: a `jax.random.key`; `posterior`: a [`gammajax.Posterior`][]. Returns a
    [`gammajax.Result`][].

    - `particles`: one draw of the posterior each, in four groups as chains.
    - `kernel`: moves of particles at each temperature. "independent" proposes from a Student t with the particles' mean
      and covariance, best up to some ten parameters; "hmc" and "nuts" follow gradients.
    - `moves` at each temperature; by default 8 independent moves or 3 along gradients. If more than 1 % of the
      particles have not moved at all, the next temperatures make more moves, up to 32 times as many. That happens if
      few proposals are accepted, for example in a peak much narrower than the rest. The number falls again when half
      would be enough.
    - `target_ess`: effective fraction of the particles at a new temperature.
    - `batch`: particles whose likelihoods are computed together; memory grows with it, results change only by rounding.
      By default as many as fit in 64 MiB on a CPU, and in 2 GiB elsewhere.
    - `run_options` of all samplers, see [`gammajax.samplers.driver.RunOptions`][].

    log Z is the sum over temperatures of the logarithm of the mean weight. Its error comes from the number of remaining
    first ancestors (Lee & Whiteley 2018, arXiv:1509.00394) or, if larger, from the spread of the weights.
    `Result.messages` reports moves that leave particles near their start. Groups that disagree show in the R-hat of the
    summary.
    Raises `ValueError` for numbers out of range; after SIGTERM exits with status 75.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), run, events=200)
    >>> priors = {"fraction": dist.Uniform(0.0, 1.0)}
    >>> posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    >>> result = gj.smc(jax.random.key(1), posterior, particles=200, progress=False)
    >>> bool(0.0 < result.samples["fraction"].mean() < 0.5)
    True
    """
    moves = moves if moves is not None else {"independent": 8}.get(kernel, 3)
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; the kernels are {', '.join(KERNELS)}")
    if particles < 8 * GROUPS or particles % GROUPS:
        raise ValueError(f"particles must be a multiple of {GROUPS} and at least {8 * GROUPS}, not {particles}")
    if moves < 1:
        raise ValueError(f"moves must be at least 1, not {moves}")
    if not 0.1 <= target_ess < 1.0:
        raise ValueError(f"target_ess must be at least 0.1 and below 1, not {target_ess}")
    if batch is None:
        batch = batch_size(posterior, particles, gradient=kernel != "independent")
    batch = max(1, min(batch, particles))
    compiled = _kernel(particles, kernel, moves, target_ess, batch)

    def prepare(posterior, key):
        x, best = prior_particles(posterior, jax.random.fold_in(key, 0), particles, batch)
        return {"x": best, "particles": x}

    def done(state, record, steps):
        temperature = float(record["temperature"][-1])
        if record["last"][-1]:
            return 1.0, "done"
        # temperatures grow by about the same factor at each step
        part = 1.0 + math.log(max(temperature, 1e-9)) / math.log(1e9)
        return min(part, 0.99), f"temperature {temperature:.3g}, acceptance {record['acceptance'][-1]:.2f}"

    options = {
        "particles": particles,
        "kernel": kernel,
        "moves": moves,
        "target_ess": target_ess,
        "batch": batch,
    }
    per_move = {"independent": 1, "hmc": 3 * LEAPFROGS}.get(kernel, 3 * GRADIENTS)
    sampler = Sampler(
        "smc",
        options,
        prepare,
        compiled.start,
        compiled.step,
        done,
        values=TEMPERATURES * particles * moves * per_move,
    )
    run = drive(sampler, posterior, key, **run_options)
    record = run.record
    x = run.state.tempered.particles
    samples = {
        name: np.asarray(values).reshape(GROUPS, particles // GROUPS, *values.shape[1:])
        for name, values in parameters_at(run.posterior, x).items()
    }
    log_ratio = float(record["increment"].astype(np.float64).sum())
    log_z = log_ratio + run.posterior.log_reference_exact()
    mean = float(np.mean(np.asarray(log_likelihoods(run.posterior, x, batch), np.float64)))
    return finish(
        run,
        sampler,
        key,
        samples,
        _messages(record, particles),
        log_evidence=(log_z, _error(record, run.state.eve)),
        information=mean - log_ratio,
        calls=int(record["calls"].sum()) + particles,
        smc_stats={name: record[name] for name in ("temperature", "ess", "acceptance")},
    )


def _error(record, eve) -> float:
    """Standard error of log Z."""
    particles, steps = eve.shape[0], len(record["ess"])
    share = np.bincount(np.asarray(eve), minlength=particles) / particles
    ancestors = 1.0 - (particles / (particles - 1.0)) ** steps * (1.0 - (share**2).sum())
    weights = (1.0 / record["ess"].astype(np.float64) - 1.0 / particles).clip(0.0).sum()
    return float(np.sqrt(max(ancestors, weights)))


def _messages(record, particles) -> list[str]:
    messages = []
    correlation = float(record["correlation"][-1])
    if not correlation < CORRELATED:
        messages.append(
            f"particles stay near where they start: a correlation of {correlation:.2f} after the last moves; "
            "raise moves, or take kernel='hmc'"
        )
    stuck = float(record["stuck"][-1])
    if stuck > LEFT:
        messages.append(
            f"{stuck:.0%} of the particles did not move at the last temperature: the evidence, and the share of a peak "
            "much narrower than the rest, may be wrong; raise moves, or take kernel='hmc' or gammajax.nested"
        )
    least = float(record["ess"].min())
    if least < 0.1 * particles:
        messages.append(
            f"weights degenerate: an effective size of {least:.0f} of {particles} particles; raise the number"
        )
    ancestors = int(record["ancestors"][-1])
    if ancestors < FEW_ANCESTORS:
        messages.append(
            f"all particles descend from {ancestors} of the prior's: peaks may be missed and the evidence is rough; "
            "take more particles"
        )
    return messages


class _Kernel(NamedTuple):
    start: Any
    step: Any


@lru_cache(maxsize=16)
def _kernel(particles, kernel, moves, target_ess, batch) -> _Kernel:
    """Functions of one setting, cached so that other posteriors of the same shape need no compilation."""
    from blackjax.smc import adaptive_tempered, base, resampling  # import late: it starts the device

    most = max(STUCK, 1.5 / particles)  # one unmoved particle is always allowed

    def in_rounds(rounds):
        """Update strategy for blackjax: rounds of moves; returns the last particles and the sums over the rounds."""

        def strategy(init, density, move, num_mcmc_steps, n_particles, batch_size=0):
            update, _ = base.update_and_take_last(init, density, move, num_mcmc_steps, n_particles, batch_size)

            def several(keys, start, _):
                def again(number, state):
                    x, sums = state
                    x, info = update(jax.vmap(jax.random.fold_in, (0, None))(keys, number), x, {})
                    return x, jax.tree.map(jnp.add, sums, _sums(kernel, info))

                first = start, {"steps": 0, "acceptance": jnp.zeros((), start.dtype)}
                x, sums = jax.lax.fori_loop(0, rounds, again, first)
                return x, {"stuck": jnp.mean(jnp.all(x == start, axis=1)), **sums}

            return several, n_particles

        return strategy

    @eqx.filter_jit
    def start(posterior, key, prepared):
        x = jnp.asarray(prepared["particles"])
        tempered = adaptive_tempered.init(x)
        tempered = tempered._replace(tempering_param=jnp.zeros((), x.dtype))
        return Particles(
            jax.random.fold_in(key, 1),
            tempered,
            jnp.arange(particles),
            jnp.full((), LONGEST_STEP, x.dtype),
            jnp.ones((), int),
        )

    @eqx.filter_jit
    def step(posterior, state):
        key, here = jax.random.split(state.key)
        x, weights = state.tempered.particles, state.tempered.weights
        mean = weights @ x
        covariance = (x - mean).T @ ((x - mean) * weights[:, None]) + 1e-6 * jnp.diag(jnp.var(x, 0) + 1e-12)
        init, move = _moves(kernel, mean, covariance, state.step_size)
        advance = adaptive_tempered.build_kernel(
            lambda one: log_prior(posterior, one),
            lambda one: log_likelihood(posterior, one),
            move,
            init,
            resampling.systematic,
            target_ess,
            batch_size=batch,
            update_strategy=in_rounds(state.rounds),  # pyright: ignore[reportArgumentType]
        )
        tempered, info = advance(here, state.tempered, moves, {})
        before, after = x[info.ancestors], tempered.particles
        moved, spread = after - after.mean(0), before - before.mean(0)
        correlation = (moved * spread).mean(0) / jnp.sqrt((moved**2).mean(0) * (spread**2).mean(0))
        told = info.update_info
        acceptance = told["acceptance"] / state.rounds
        eve = state.eve[info.ancestors]
        record = {
            "temperature": tempered.tempering_param,
            # the last temperature needs no weights
            "last": state.tempered.tempering_param >= 1.0,
            "ess": 1.0 / (tempered.weights**2).sum(),
            "acceptance": acceptance,
            "increment": info.log_likelihood_increment,
            "correlation": jnp.max(correlation),
            "ancestors": jnp.count_nonzero(jnp.bincount(eve, length=particles)),
            "stuck": told["stuck"],
            # likelihoods of the moves, at the start of each round, for the weights and for the next temperature
            "calls": told["steps"] + (state.rounds + 2) * particles,
        }
        # step size in units of the particles' width; adapts until the acceptance is right
        change = jnp.exp(jnp.clip(2.0 * (acceptance - TARGET_ACCEPT), -0.7, 0.3))
        longest = LONGEST_STEP if kernel == "hmc" else 1.0
        # if each round leaves the same fraction unmoved, with a margin of a factor of two
        stuck = jnp.clip(told["stuck"], 1e-9, 1.0 - 1e-6)
        more = jnp.clip(jnp.ceil(2.0 * state.rounds * jnp.log(most) / jnp.log(stuck)), 1, ROUNDS).astype(int)
        half = (state.rounds + 1) // 2
        fewer = jnp.where(half * jnp.log(stuck) <= state.rounds * jnp.log(most), half, state.rounds)
        rounds = jnp.where(stuck > most, more, fewer)
        state = Particles(key, tempered, eve, jnp.clip(state.step_size * change, 0.01, longest), rounds)
        return state, jax.tree.map(lambda value: jnp.asarray(value)[None], record)

    return _Kernel(start, step)


def _moves(kernel, mean, covariance, step_size):
    """Start and step of a Markov chain for a density, fitted to the particles."""
    import blackjax

    mcmc = getattr(blackjax, KERNELS[kernel])
    step = mcmc.build_kernel()
    if kernel == "independent":
        proposal = MultivariateStudentT(TAILS, mean, jnp.linalg.cholesky(covariance))
        fitted = {
            "proposal_distribution": proposal.sample,
            "proposal_logdensity_fn": lambda _, to: proposal.log_prob(to.position),
        }
    else:
        length = {"num_integration_steps": LEAPFROGS} if kernel == "hmc" else {"max_num_doublings": 6}
        fitted = {"step_size": step_size, "inverse_mass_matrix": covariance, **length}
    return mcmc.init, lambda key, state, density: step(key, state, density, **fitted)


def _sums(kernel, info):
    """Number of likelihoods of a round of moves, and the mean acceptance."""
    steps = jnp.size(info.acceptance_rate) if kernel == "independent" else info.num_integration_steps.sum()
    return {"steps": jnp.asarray(steps, int), "acceptance": info.acceptance_rate.mean()}
