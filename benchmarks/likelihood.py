"""Speed of the likelihood: value and gradient of a three-parameter spectrum, against reading the kernel once.

The floor is the time of `jnp.sum` over the kernel array in the same process: value and gradient each read it once, so
twice that is what memory allows.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from benchmarks.report import report


def model(p):
    """Log-parabola in a Gaussian source, with instrument background."""
    spectrum = gj.LogParabola(p["alpha"], p["beta"], amplitude=1e-11)
    return gj.Mixture(
        source=gj.Source(spectrum, gj.Gaussian(0.3, 0.2, 0.3)),
        background=gj.InstrumentBackground(),
        weights={"source": p["fraction"]},
    )


def median_seconds(calls, repeats=31):
    """Median wall time of each compiled call, and the time of its first; taken in turn, so that all see one machine."""
    first, times = [], []
    for call in calls:
        started = time.perf_counter()
        jax.block_until_ready(call())
        first.append(time.perf_counter() - started)
    for _ in range(repeats):
        times.append([])
        for call in calls:
            started = time.perf_counter()
            jax.block_until_ready(call())
            times[-1].append(time.perf_counter() - started)
    return np.median(times, 0).tolist(), first


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--bands", type=int, default=48)
    options = parser.parse_args()
    observation = gj.io.ctao(
        site="South", pointing=(0.0, 0.0), frame="galactic", livetime=180e3, energy_range=(0.2, 100.0), offset_max=3.0
    )
    parameters = {"alpha": jnp.asarray(2.2), "beta": jnp.asarray(0.1), "fraction": jnp.asarray(0.1)}
    events = gj.simulate(jax.random.key(0), model(parameters), observation, events=options.events)
    priors = {"alpha": dist.Uniform(1.0, 4.0), "beta": dist.Uniform(-0.5, 1.0), "fraction": dist.Uniform(0.0, 1.0)}
    started = time.perf_counter()
    posterior = gj.Posterior(model, priors, observation, events, bands=options.bands)
    jax.block_until_ready(posterior)
    setup = time.perf_counter() - started
    kernel = posterior.engines["source"].kernel
    value = eqx.filter_jit(lambda posterior, p: posterior.log_likelihood_ratio(p))
    gradient = eqx.filter_jit(lambda posterior, p: jax.value_and_grad(posterior.log_likelihood_ratio)(p))
    read = jax.jit(jnp.sum)
    (read_s, value_s, value_and_grad_s), (*_, first) = median_seconds(
        [lambda: read(kernel), lambda: value(posterior, parameters), lambda: gradient(posterior, parameters)]
    )
    arrays = jax.tree.leaves((posterior.engines, posterior.count, posterior.reference))
    report(
        "likelihood",
        {
            "events": options.events,
            "bands": int(kernel.shape[1]),
            "read_s": read_s,
            "value_s": value_s,
            "value_and_grad_s": value_and_grad_s,
            "ratio_to_read": value_and_grad_s / read_s,
            "compile_s": first - value_and_grad_s,
            "setup_s": setup,
            "bytes_per_event": sum(array.nbytes for array in arrays) / options.events,
            "device": str(jax.devices()[0].device_kind),
        },
    )


if __name__ == "__main__":
    main()
