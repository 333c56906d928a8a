"""Expected limits and discoveries against simulated experiments.

A point source of index 2 on the background of one CTAO pointing; its flux and the norm of the background are free.
`gj.sensitivity` says which limits and significances to expect. Experiments without the source are simulated, and the
limit that `gj.profile` quotes for each is counted below the median and the 68 and 95 % bands; in others the source has
the flux of the median discovery, and the significance that `gj.test_statistic` finds should have five as its median.
"""

import argparse
import time

import jax
import numpy as np
import numpyro.distributions as dist
from scipy.stats import binom, norm

import gammajax as gj
from benchmarks.report import report
from gammajax.statistics.forecasts import BANDS

PLACE = gj.Point(0.3, 0.2)
PRIORS = {"flux": dist.Uniform(0.0, 50.0), "index": dist.Uniform(1.0, 4.0), "norm": dist.Uniform(0.2, 5.0)}
FREE = ("flux", "norm")


def model(p):
    """Flux in units of 1e-13 TeV^-1 cm^-2 s^-1 at 1 TeV."""
    source = gj.Source(gj.PowerLaw(p.get("index", 2.0), p["flux"] * 1e-13), PLACE)
    return gj.Mixture(source=source, background=gj.InstrumentBackground(norm=p["norm"]))


def posteriors(seed: int, flux: float, count: int, observed):
    """Posteriors of simulated experiments."""
    engine = {"source": gj.engines.PreparedKernel.init(PLACE, observed)}
    priors = {name: PRIORS[name] for name in FREE}
    for i in range(count):
        key = jax.random.fold_in(jax.random.key(seed), i)
        events = gj.simulate(key, model({"flux": flux, "norm": 1.0}), observed)
        yield gj.Posterior(model, priors, observed, events, engine=engine)


def main():
    """Limits without the source, significances with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=400)
    parser.add_argument("--hours", type=float, default=2.0)
    options = parser.parse_args()
    started = time.perf_counter()
    observed = gj.io.ctao(
        "South",
        pointing=(0.0, 0.0),
        frame="galactic",
        livetime=3600.0 * options.hours,
        energy_range=(0.5, 20.0),
        offset_max=1.0,
    )
    expected = gj.sensitivity(
        jax.random.key(0),
        model,
        PRIORS,
        observed,
        {"flux": 1.0, "index": 2.0, "norm": 1.0},
        scale="flux",
        along="index",
        values=[2.0],
    )
    bands, discovery = expected.limits[:, 0], float(expected.discovery[0])
    print(
        f"limits {bands.round(3)}, discovery {discovery:.3f} [1e-13], {time.perf_counter() - started:.0f} s", flush=True
    )
    limits, events = [], []
    for posterior in posteriors(1, 0.0, options.experiments, observed):
        limits.append(gj.profile(posterior, "flux").upper_limit())
        events.append(len(posterior.events))
        if len(limits) % 20 == 0:
            print(f"{len(limits)} limits, {time.perf_counter() - started:.0f} s", flush=True)
    half = options.experiments // 2
    found = [gj.test_statistic(p, "flux").significance for p in posteriors(2, discovery, half, observed)]
    below = [float(np.mean(np.array(limits) < band)) for band in bands]
    chance = [float(norm.cdf(n)) for n in BANDS]
    count = options.experiments
    # counts of experiments: two-sided, 99 %
    within = [
        binom.ppf(0.005, count, c) <= b * count <= binom.ppf(0.995, count, c)
        for b, c in zip(below, chance, strict=True)
    ]
    report(
        "forecast" if options.hours == 2.0 else f"forecast-{options.hours:g}h",
        {
            "hours": options.hours,
            "experiments": count,
            "events": float(np.mean(events)),
            "limits": {
                f"{n:+g} sd": {"limit": float(limit), "below": part, "expected_below": c, "within_binomial": bool(w)}
                for n, limit, part, c, w in zip(BANDS, bands, below, chance, within, strict=True)
            },
            "median_limit_over_expected": float(np.median(limits) / bands[2]),
            "discovery": discovery,
            "significance_median": float(np.median(found)),
            "significance_error": float(1.2533 * np.std(found) / np.sqrt(half)),
            "significance_sd": float(np.std(found)),
            "seconds": time.perf_counter() - started,
        },
    )


if __name__ == "__main__":
    main()
