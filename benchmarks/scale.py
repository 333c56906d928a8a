"""Many events: set-up, speed against the memory's own, and whole posteriors.

Dark matter of 1 TeV annihilating to W+W- in an Einasto halo, a thousandth of the events, on the instrument background
of three CTAO South pointings about the Galactic Centre; mass and signal fraction free. With `--pixel` or
`--energy-per-decade` events are counted in cells as they are simulated, and never held.

Speed: bytes of the kernel, of which value and gradient each read all, by seconds, against a copy of an array on the
same device.
"""

import argparse
import ctypes
import gc
import resource
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from benchmarks.likelihood import median_seconds
from benchmarks.report import report

TRUTH = {"fraction": 1e-3, "log_mass": 0.0}
PRIORS = {"fraction": dist.LogUniform(1e-5, 0.1), "log_mass": dist.Uniform(np.log(0.3), np.log(50.0))}
POINTINGS = ((0.0, 0.0), (0.0, 1.0), (0.0, -1.0))


def model(p):
    """Fraction and mass to a mixture."""
    return gj.Mixture(
        signal=gj.Source(gj.DarkMatter(channel="W", mass=jnp.exp(p["log_mass"])), gj.Einasto()),
        background=gj.InstrumentBackground(),
        weights={"signal": p["fraction"]},
    )


def observations(hours: float = 525.0, energy_range=(0.2, 100.0)):
    """Three pointings that share the time."""
    settings = {"frame": "galactic", "energy_range": energy_range, "offset_max": 3.0}
    return [
        gj.io.ctao("South", pointing=place, livetime=hours * 3600.0 / len(POINTINGS), obs_id=str(i), **settings)
        for i, place in enumerate(POINTINGS)
    ]


def data(key, observed, events: int, binning: gj.Binning | None):
    """Events, or cells with counts."""
    truth = model({name: jnp.asarray(value) for name, value in TRUTH.items()})
    if binning is None:
        return gj.simulate(key, truth, observed, events=events)
    return gj.simulate_cells(key, truth, observed, binning, events=events)


def memory() -> float:
    """Largest memory of this process so far [bytes]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def peak_memory(function, *arguments) -> float:
    """Most memory of this process during a call, beyond that before it [bytes]; of Linux."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
    before = _status("VmRSS")
    result = jax.block_until_ready(function(*arguments))
    del result
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * float(line.split()[1]) for line in lines if line.startswith(name))


def timed(function, *arguments, **options):
    """What a function returns, and the seconds it takes."""
    started = time.perf_counter()
    result = jax.block_until_ready(function(*arguments, **options))
    return result, time.perf_counter() - started


def describe(result) -> dict:
    """Median and standard deviation of every parameter."""
    return {name: {"median": float(np.median(v)), "sd": float(np.std(v))} for name, v in result.samples.items()}


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--pixel", type=float, help="cells so wide [deg]")
    parser.add_argument("--energy-per-decade", type=float, help="cells so many")
    parser.add_argument("--draws", type=int, default=1000, help="of each of four chains of NUTS; 0 for none")
    parser.add_argument("--peak", action="store_true", help="set up once more, for the memory it takes")
    parser.add_argument("--evidence", action="store_true", help="SMC too")
    options = parser.parse_args()
    # weights and expected counts of so many events need more than seven digits; kernels stay in single precision
    jax.config.update("jax_enable_x64", True)
    binned = options.pixel is not None or options.energy_per_decade is not None
    begun = time.perf_counter()
    observed = observations()
    binning = gj.Binning.init(observed, options.energy_per_decade, options.pixel) if binned else None
    drawn, simulate_s = timed(data, jax.random.key(0), observed, options.events, binning)
    print(f"{len(drawn)} {'cells' if binned else 'events'} in {simulate_s:.0f} s", flush=True)
    posterior, setup_s = timed(gj.Posterior, model, PRIORS, observed, drawn)
    print(f"set up in {setup_s:.0f} s", flush=True)
    kernel = posterior.engines["signal"].kernel
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves((posterior.engines, posterior.count, posterior.reference)))
    peak = None
    if options.peak:  # without what compiling takes
        held = kept + sum(leaf.nbytes for leaf in jax.tree.leaves(posterior.data))
        peak = peak_memory(gj.Posterior, model, PRIORS, observed, drawn) / held
    point = {name: jnp.asarray(value) for name, value in TRUTH.items()}
    value = eqx.filter_jit(lambda posterior, p: posterior.log_likelihood_ratio(p))
    gradient = eqx.filter_jit(lambda posterior, p: jax.value_and_grad(posterior.log_likelihood_ratio)(p))
    copy, read = jax.jit(lambda a: a + 1.0), jax.jit(jnp.sum)
    calls = [lambda: value(posterior, point), lambda: gradient(posterior, point), lambda: read(kernel)]
    (value_s, gradient_s, read_s), _ = median_seconds(calls, repeats=11)
    # of a part where two of the whole would not fit
    part = kernel[: max(1, kernel.shape[0] // 4)]
    (copy_s,), _ = median_seconds([lambda: copy(part)], repeats=11)
    figures = {
        "events": options.events,
        "rows": len(drawn),
        "cells": {"energy_per_decade": options.energy_per_decade, "pixel": options.pixel} if binned else None,
        "band": int(kernel.shape[1]),
        "simulate_s": simulate_s,
        "setup_s": setup_s,
        "bytes_per_row": kept / len(drawn),
        "bytes_per_event": kept / options.events,
        "setup_peak_over_kept": peak,
        "value_s": value_s,
        "value_and_grad_s": gradient_s,
        "read_bytes_per_s": kernel.nbytes / read_s,
        "copy_bytes_per_s": 2.0 * part.nbytes / copy_s,
        "likelihood_bytes_per_s": 2.0 * kernel.nbytes / gradient_s,
    }
    print({name: number for name, number in figures.items() if name.endswith("_s")}, flush=True)
    key = jax.random.key(1)
    if options.draws:
        result, figures["nuts_s"] = timed(gj.nuts, key, posterior, draws=options.draws, chains=4)
        figures["nuts"] = describe(result)
        figures["nuts_messages"] = result.messages
        print(result.summary(), flush=True)
    if options.evidence:
        result, figures["evidence_s"] = timed(gj.smc, key, posterior)
        figures["smc"] = {**describe(result), "log_evidence": result.log_evidence}
        nothing = float(posterior.log_likelihood({**point, "fraction": jnp.zeros(())}))
        figures["log_bayes_factor_over_no_signal"] = result.log_evidence[0] - nothing
    figures["truth"] = TRUTH
    figures["total_s"] = time.perf_counter() - begun
    figures["memory_bytes"] = memory()
    figures["device"] = str(jax.devices()[0].device_kind)
    report(f"scale-{options.events:.0e}{'-cells' if binned else ''}".replace("+0", ""), figures)


if __name__ == "__main__":
    main()
