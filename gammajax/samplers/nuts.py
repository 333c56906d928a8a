"""NUTS: Hamiltonian Monte Carlo that chooses its path lengths (Hoffman & Gelman 2014, arXiv:1111.4246).

The method of choice for smooth posteriors with one peak. The kernel is numpyro's. The posterior travels as an argument
of the compiled step, never as a constant inside it. On accelerators all chains move together, so that one pass over
the events serves all of them; on a CPU one after the other, which saves them from waiting for the longest path.
"""

import json
import time
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from numpyro.infer.hmc import hmc

from gammajax.result import Result
from gammajax.samplers.fractions import sample_fractions
from gammajax.samplers.optimise import find_peak
from gammajax.samplers.space import constrained, log_density

BLOCK = 25  # steps between two reports of progress
# Vehtari et al. 2021 (arXiv:1903.08008): R-hat below 1.01 and 100 effective draws per chain
R_HAT_MAX, ESS_PER_CHAIN = 1.01, 100


class State(NamedTuple):
    """Chains between two blocks of steps."""

    posterior: eqx.Module
    chains: Any


def nuts(
    key: PRNGKeyArray,
    posterior,
    *,
    draws: int = 1000,
    warmup: int = 500,
    chains: int = 4,
    progress: bool = True,
    initial: dict | None = None,
    truths: dict | None = None,
    units: dict[str, str] | None = None,
    target_accept: float = 0.8,
    max_tree_depth: int = 8,
) -> Result:
    """Draw from a posterior, with chains scattered about its peak by the Laplace approximation.

    - `draws` kept per chain after `warmup` steps, in which step size and (dense) mass matrix adapt.
    - `initial`: parameters near the peak; by default they are searched for.
    - `truths`, `units`: kept with the result, for tables and plots.

    Chains that disagree, too few effective draws and divergences are said in `Result.messages` and as warnings.
    Raises `ValueError` for numbers of draws or chains that are not positive, and as [`gammajax.fit`][] does.
    """
    for name, value, least in (("draws", draws, 1), ("warmup", warmup, 10), ("chains", chains, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    started = time.perf_counter()
    seed = int(np.asarray(jax.random.key_data(key)).ravel()[-1])
    state = init(key, posterior, warmup, chains, initial, target_accept, max_tree_depth)
    jax.block_until_ready(state.chains)
    peaked = time.perf_counter()
    collected = []
    with _Progress(progress, warmup, draws) as bar:
        for _ in range(-(-(warmup + draws) // BLOCK)):
            state, record = step(state, warmup, target_accept, max_tree_depth)
            collected.append(jax.tree.map(np.asarray, record))
            bar.update(collected)
    record = jax.tree.map(lambda *parts: np.concatenate(parts)[warmup : warmup + draws].swapaxes(0, 1), *collected)
    samples, stats = record
    result = Result.from_samples(
        samples,
        method="nuts",
        sample_stats=stats,
        truths=truths,
        units=units,
        fractions=sample_fractions(posterior, samples),
        timings={"peak": peaked - started, "sampling": time.perf_counter() - peaked},
        seed=seed,
    )
    _diagnose(result, chains, int(stats["diverging"].sum()))
    return result


def init(key, posterior, warmup, chains, initial=None, target_accept=0.8, max_tree_depth=8) -> State:
    """Find the peak and put the chains about it."""
    peak = find_peak(posterior, initial, jacobian=True)
    kernel = _kernel(warmup, target_accept, max_tree_depth)
    return State(
        peak.posterior, kernel.start(peak.posterior, key, jnp.asarray(peak.x), jnp.asarray(peak.covariance), chains)
    )


def step(state: State, warmup, target_accept=0.8, max_tree_depth=8) -> tuple[State, tuple[dict, dict]]:
    """One block of steps of all chains: parameters and statistics [step, chain, ...]."""
    chains, record = _kernel(warmup, target_accept, max_tree_depth).block(*state)
    return State(state.posterior, chains), record


class _Kernel(NamedTuple):
    start: Any
    block: Any


@lru_cache(maxsize=16)
def _kernel(warmup, target_accept, max_tree_depth) -> _Kernel:
    """Compiled functions of one setting, kept so that other posteriors of the same shape need no compilation."""

    def potential(posterior):
        return lambda x: -log_density(posterior, x, True)

    first, next_ = hmc(potential_fn_gen=potential, algo="NUTS")

    @eqx.filter_jit
    def start(posterior, key, x, covariance, chains: int):
        def one(key):
            key, scatter = jax.random.split(key)
            z = x + jnp.linalg.cholesky(covariance) @ jax.random.normal(scatter, x.shape, x.dtype)
            z = jnp.where(jnp.isfinite(log_density(posterior, z, True)), z, x)
            return first(
                z,
                num_warmup=warmup,
                inverse_mass_matrix=covariance,
                dense_mass=True,
                target_accept_prob=target_accept,
                max_tree_depth=max_tree_depth,
                model_args=(posterior,),
                rng_key=key,
            )

        return jax.vmap(one)(jax.random.split(key, chains))

    @eqx.filter_jit
    def block(posterior, state):
        def all_chains(state):
            if jax.default_backend() == "cpu":
                return jax.lax.map(lambda chain: next_(chain, (posterior,)), state)
            return jax.vmap(lambda chain: next_(chain, (posterior,)))(state)

        def one(state, _):
            state = all_chains(state)
            parameters = jax.vmap(lambda x: constrained(posterior.priors, x)[0])(state.z)
            stats = {
                "diverging": state.diverging,
                "acceptance_rate": state.accept_prob,
                "n_steps": state.num_steps,
                "energy": state.energy,
                "lp": -state.potential_energy,
            }
            return state, (parameters, stats)

        return jax.lax.scan(one, state, length=BLOCK)

    return _Kernel(start, block)


def _diagnose(result, chains, divergences):
    """Warnings of the diagnostics, kept with the result."""
    ess, r_hat = result.diagnostics()
    messages = []
    worst = {name: float(np.max(value)) for name, value in r_hat.items() if np.max(value) > R_HAT_MAX}
    if worst:
        listed = ", ".join(f"{name} {value:.3f}" for name, value in worst.items())
        messages.append(f"the chains have not mixed: R-hat above {R_HAT_MAX} ({listed}); draw longer chains")
    least = {name: float(np.min(value)) for name, value in ess.items() if np.min(value) < ESS_PER_CHAIN * chains}
    if least:
        listed = ", ".join(f"{name} {value:.0f}" for name, value in least.items())
        messages.append(
            f"few effective draws: below {ESS_PER_CHAIN} per chain ({listed}); intervals are rough, draw more"
        )
    if divergences:
        messages.append(
            f"{divergences} divergent transitions: the posterior may be missed in parts; raise target_accept"
        )
    result.tree.attrs["messages"] = json.dumps(messages)
    for message in messages:
        warnings.warn(message, stacklevel=3)


class _Progress:
    """Progress bar, or nothing."""

    def __init__(self, shown, warmup, draws):
        self.warmup, self.total, self.bar = warmup, warmup + draws, None
        if shown:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            text = TextColumn("{task.description}")
            self.bar = Progress(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True)
            self.task = self.bar.add_task("  warm-up", total=self.total)

    def __enter__(self):
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def update(self, collected):
        """Show where the chains are after these blocks."""
        if not self.bar:
            return
        done = min(len(collected) * BLOCK, self.total)
        _, stats = collected[-1]
        phase = "warm-up" if done <= self.warmup else "sampling"
        self.bar.update(
            self.task, completed=done, description=f"  {phase}, {stats['n_steps'].mean():.1f} gradients per step"
        )
