"""Closure: simulate, fit, and compare with the truth in units of the fitted standard deviation.

Dark matter of 2 TeV annihilating to W+W- in an Einasto halo, 2 % of the events, on the instrument background of two
CTAO South pointings near the Galactic Centre; mass and signal fraction free. Simulation draws from the continuous
response and shares no grid with the engine. At 1e5 events the Gaussian of the fit is checked against NUTS once.
"""

import argparse
import time

import jax
import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from benchmarks.report import report

TRUTH = {"alpha": 0.02, "log_mass": float(np.log(2.0))}
PRIORS = {"alpha": dist.Uniform(0.0, 0.2), "log_mass": dist.Uniform(np.log(0.3), np.log(50.0))}


def model(p):
    """Fractions and mass to a mixture."""
    return gj.Mixture(
        signal=gj.Source(gj.DarkMatter(channel="W", mass=jax.numpy.exp(p["log_mass"])), gj.Einasto()),
        background=gj.InstrumentBackground(),
        weights={"signal": p["alpha"]},
    )


def observations():
    """Two pointings about the Galactic Centre."""
    return [
        gj.io.ctao(
            site="South", pointing=place, frame="galactic", livetime=180e3, energy_range=(0.2, 100.0), offset_max=3.0
        )
        for place in ((0.0, 1.0), (1.0, -0.5))
    ]


def against_nuts(observed, events):
    """Largest difference of fit and NUTS: means in standard deviations, and ratio of standard deviations minus one."""
    posterior = gj.Posterior(
        model, PRIORS, observed, gj.simulate(jax.random.key(9), model(TRUTH), observed, events=events)
    )
    best = gj.fit(posterior)
    result = gj.nuts(jax.random.key(1), posterior, warmup=300, draws=500, chains=2, progress=False)
    figures = {}
    for name in TRUTH:
        draws, deviation = np.asarray(result.samples[name]).ravel(), float(best.standard_deviations[name])
        figures[name] = {
            "mean_shift": float((draws.mean() - float(best.parameters[name])) / deviation),
            "sd_ratio": float(draws.std() / deviation),
        }
    return figures


def main():
    """Run all seeds and report pulls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    options = parser.parse_args()
    observed = observations()
    pulls, started = {name: [] for name in TRUTH}, time.perf_counter()
    for seed in range(options.first, options.first + options.seeds):
        events = gj.simulate(jax.random.key(seed), model(TRUTH), observed, events=options.events)
        best = gj.fit(gj.Posterior(model, PRIORS, observed, events))
        for name, truth in TRUTH.items():
            pulls[name].append((float(best.parameters[name]) - truth) / float(best.standard_deviations[name]))
        now = {name: f"{values[-1]:+.2f}" for name, values in pulls.items()}
        print(f"seed {seed}: {best} pulls {now} ({time.perf_counter() - started:.0f} s)", flush=True)
    figures = {
        "parameters": {
            name: {"mean_pull": float(np.mean(values)), "std_pull": float(np.std(values, ddof=1)), "pulls": values}
            for name, values in pulls.items()
        },
        "events": options.events,
        "seeds": options.seeds,
        "seconds": time.perf_counter() - started,
        "against_nuts_1e5": against_nuts(observed, 100_000),
    }
    report("closure" if options.first == 0 else f"closure-from-{options.first}", figures)


if __name__ == "__main__":
    main()
