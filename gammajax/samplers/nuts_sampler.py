"""NUTS: Hamiltonian Monte Carlo that chooses its path lengths (Hoffman & Gelman 2014, arXiv:1111.4246).

The method of choice for smooth posteriors with one peak. The kernel is numpyro's. The posterior is an argument
of the compiled step, never a constant inside it. On accelerators all chains move together, so that one pass over
the events serves all of them. On a CPU they move one after the other, so that none waits for the longest path.
"""

from functools import lru_cache
from typing import Any, Literal, NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from numpyro.infer.hmc import hmc

from gammajax.results.result import Result
from gammajax.samplers.driver import RunOptions, Sampler, drive
from gammajax.samplers.outcome import finish, say
from gammajax.samplers.pathfinder import paths
from gammajax.samplers.peaks import find_peak
from gammajax.samplers.space import constrained, log_density

GRADIENTS = 6  # per step, typical of a posterior near a Gaussian
BLOCK = 25  # steps between two reports of progress
# Vehtari et al. 2021 (arXiv:1903.08008): R-hat below 1.01 and 100 effective draws per chain
R_HAT_MAX, ESS_PER_CHAIN = 1.01, 100
# a chain that is further below the best chain than this plus the dimension, after half of the warm-up, is in a peak of
# negligible weight: at most e^-5 of the posterior
SIDE_PEAK = 5.0
# least steps of warm-up for each parameter, for a dense mass matrix: the last covariance comes from two fifths of them
DENSE = 20


class Frame(NamedTuple):
    """Coordinates z in which the approximation that chains start from is a standard normal: x = centre + axes z."""

    centre: jax.Array
    axes: jax.Array

    def __call__(self, z):
        """Unbounded parameters x."""
        return self.centre + self.axes @ z


class Chains(NamedTuple):
    """Chains between two blocks of steps; `kept` masks chains that were not moved to the best chain."""

    moving: Any
    kept: jax.Array
    frame: Frame


def nuts(
    key: PRNGKeyArray,
    posterior,
    *,
    draws: int = 1000,
    warmup: int = 500,
    chains: int = 4,
    initial: dict | None = None,
    start: Literal["laplace", "pathfinder"] = "laplace",
    target_accept: float = 0.8,
    max_tree_depth: int = 8,
    **run_options: Unpack[RunOptions],
) -> Result:
    """Draw from a posterior with the No-U-Turn sampler, with chains scattered about its peak.

    Hoffman & Gelman 2014 (arXiv:1111.4246), by numpyro. For one peak, and any number of parameters. `key`: a
    `jax.random.key`; `posterior`: a [`gammajax.Posterior`][]. Returns a [`gammajax.Result`][].

    - `draws` kept per chain, of `chains`, after `warmup` steps, in which step size and mass matrix adapt. The matrix is
      relative to the Laplace approximation: dense with at least 20 steps for each parameter, else diagonal.
    - `initial`: parameters near the peak; by default a search finds them.
    - `start`: chains start from the Laplace approximation, or by Pathfinder (Zhang et al. 2022, arXiv:2108.03782) from
      draws of the prior, which may spread them over several peaks.
    - `target_accept`: mean acceptance that the step size aims at; `max_tree_depth`: of a trajectory, at most 2^depth
      steps.
    - `run_options` of all samplers, see [`gammajax.samplers.driver.RunOptions`][].

    After half the warm-up, a chain in a peak of negligible weight moves to the position of the best chain.
    `Result.messages` and warnings report chains that disagree, too few effective draws and divergences.
    Raises `ValueError` for numbers of draws or chains that are not positive, and as [`gammajax.fit`][] does; after
    SIGTERM it writes the checkpoint and exits with status 75.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), run, events=200)
    >>> priors = {"fraction": dist.Uniform(0.0, 1.0)}
    >>> posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    >>> result = gj.nuts(jax.random.key(1), posterior, draws=300, warmup=200, progress=False)
    >>> bool(0.0 < result.samples["fraction"].mean() < 0.5)
    True
    """
    for name, value, least in (("draws", draws, 1), ("warmup", warmup, 10), ("chains", chains, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if start not in ("laplace", "pathfinder"):
        raise ValueError(f"start is 'laplace' or 'pathfinder', not {start!r}")
    if start == "pathfinder" and initial is not None:
        raise ValueError("Pathfinder starts from draws of the prior; leave out initial, or start='laplace'")
    kernel = _kernel(warmup, target_accept, max_tree_depth)
    total = warmup + draws

    def prepare(posterior, key):
        if start == "pathfinder":
            found = paths(posterior, key, chains)
            axes = np.linalg.cholesky(found["covariance"])
            starts = np.linalg.solve(axes, (found["starts"] - found["x"]).T).T
            x = found["x"]
        else:
            peak = find_peak(posterior, initial, jacobian=True)
            x, axes = peak.x, np.linalg.cholesky(peak.covariance)
            starts = np.asarray(jax.random.normal(jax.random.fold_in(key, 1), (chains, x.size)))
        return {"x": x, "axes": axes.astype(x.dtype), "starts": starts.astype(x.dtype)}

    def done(chains, record, steps):
        parameters, stats = record
        now = "warm-up" if steps * BLOCK <= warmup else "sampling"
        return min(steps * BLOCK / total, 1.0), f"{now}, {stats['n_steps'].mean():.1f} gradients per step"

    def fix(chains, record, steps):
        return _out_of_side_peaks(chains, record) if steps == max(1, warmup // (2 * BLOCK)) else chains

    options = {
        "draws": draws,
        "warmup": warmup,
        "chains": chains,
        "initial": initial,
        "start": start,
        "target_accept": target_accept,
        "max_tree_depth": max_tree_depth,
    }
    sampler = Sampler(
        "nuts",
        options,
        prepare,
        kernel.start,
        kernel.block,
        done,
        fix=fix,
        values=2.0 * GRADIENTS * total * chains,
    )
    run = drive(sampler, posterior, key, **run_options)
    record = jax.tree.map(lambda values: values[warmup:total].swapaxes(0, 1), run.record)
    samples, stats = record
    result = finish(
        run,
        sampler,
        key,
        samples,
        sample_stats=stats,
        calls=int(run.record[1]["n_steps"].sum()),
    )
    _diagnose(result, int(stats["diverging"].sum()), int((~run.state.kept).sum()))
    return result


def _out_of_side_peaks(chains: Chains, record) -> Chains:
    """Move chains far below the best chain to its position."""
    height = np.asarray(record[1]["lp"]).mean(0)
    best, dimension = int(np.argmax(height)), chains.moving.z.shape[-1]
    kept = jnp.asarray(height > height[best] - SIDE_PEAK - dimension)
    moving = jax.tree.map(
        lambda a: jnp.where(kept.reshape((-1,) + (1,) * (a.ndim - 1)), a, a[best]), chains.moving._replace(rng_key=())
    )
    return Chains(moving._replace(rng_key=chains.moving.rng_key), kept, chains.frame)


class _Kernel(NamedTuple):
    start: Any
    block: Any


@lru_cache(maxsize=16)
def _kernel(warmup, target_accept, max_tree_depth) -> _Kernel:
    """Functions of one setting, cached so that other posteriors of the same shape need no compilation."""

    def potential(posterior, frame):
        return lambda z: -log_density(posterior, frame(z), True)

    first, next_ = hmc(potential_fn_gen=potential, algo="NUTS")

    @eqx.filter_jit
    def start(posterior, key, prepared):
        # numpyro shrinks the covariance of few draws towards a small multiple of one: scales must be alike
        frame = Frame(*(jnp.asarray(prepared[name]) for name in ("x", "axes")))
        size = frame.centre.size

        def one(key, z):
            z = jnp.where(jnp.isfinite(log_density(posterior, frame(z), True)), z, 0.0)
            return first(
                z,
                num_warmup=warmup,
                dense_mass=warmup >= DENSE * size,
                target_accept_prob=target_accept,
                max_tree_depth=max_tree_depth,
                model_args=(posterior, frame),
                rng_key=key,
            )

        starts = jnp.asarray(prepared["starts"])
        moving = jax.vmap(one)(jax.random.split(key, len(starts)), starts)
        return Chains(moving, jnp.ones(len(starts), bool), frame)

    @eqx.filter_jit
    def block(posterior, chains):
        def move(chain):
            return next_(chain, (posterior, chains.frame))

        def all_chains(moving):
            return jax.lax.map(move, moving) if jax.default_backend() == "cpu" else jax.vmap(move)(moving)

        def one(moving, _):
            moving = all_chains(moving)
            parameters = jax.vmap(lambda z: constrained(posterior.priors, chains.frame(z))[0])(moving.z)
            stats = {
                "diverging": moving.diverging,
                "acceptance_rate": moving.accept_prob,
                "n_steps": moving.num_steps,
                "energy": moving.energy,
                "lp": -moving.potential_energy,
            }
            return moving, (parameters, stats)

        moving, record = jax.lax.scan(one, chains.moving, length=BLOCK)
        return chains._replace(moving=moving), record

    return _Kernel(start, block)


def _diagnose(result, divergences, moved):
    """Warnings of the diagnostics, kept with the result."""
    ess, r_hat = result.diagnostics()
    chains = result.tree["posterior"].sizes["chain"]
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
    if moved:
        result.tree.attrs["chains_moved"] = moved
    say(result, messages)
