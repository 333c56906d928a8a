"""p-values of checks of ON and OFF events: uniform without a fault.

Two runs with ON and OFF regions of a CTAO South response: 200 ON events, half of them of a source with a power law,
and 350 OFF events of a background that is drawn from a smooth prior. Free are index, flux and the background,
whose prior `background_prior` makes from the OFF events of each simulation, as users have it. Each simulation is fitted
and checked ([`gammajax.check`][]); p-values must be uniform: Kolmogorov and Smirnov's test of each kind, and how often
p < 0.05. Last line: JSON.
"""

import argparse
import time
import warnings

import jax
import numpy as np
import numpyro.distributions as dist
from scipy.stats import kstest

import gammajax as gj
from benchmarks.report import report

RANGE = (0.5, 20.0)  # TeV
COEFFICIENTS = 8
ROWS = (384, 704)  # with padding, so that simulations share programs
TRUE = gj.smooth_prior(np.linspace(8.2, -0.3, COEFFICIENTS), 0.3, level=0.05, tilt=0.05)


def runs() -> list[gj.OnOffRun]:
    """Two runs without events."""
    full = gj.io.ctao("South", pointing=(0.0, 0.0), livetime=3600.0).response
    region = gj.RegionResponse.at(full.effective_area, full.energy_dispersion, full.psf, offset=0.5, radius=0.1)
    return [
        gj.OnOffRun([], [], 0.25, livetime, region, radius=0.1, energy_min=low, energy_max=RANGE[1], obs_id=name)
        for name, livetime, low in (("first", 7200.0, RANGE[0]), ("second", 4800.0, 0.8))
    ]


def model(p):
    """A power law in the ON region."""
    source = gj.Source(gj.PowerLaw(p["index"], 1e-12 * p["flux"]), gj.Point(0.0, 0.0))
    return gj.Mixture(source=source, background=gj.OffBackground(p["b"], *RANGE))


def one(seed: int, empty, replicas: int):
    """Posterior and p-values of one simulation."""
    keys = jax.random.split(jax.random.key(seed), 3)
    truth = {"index": 2.4, "flux": 1.0, "b": TRUE.sample(keys[0])}
    data = gj.OnOff(gj.simulate_on_off(keys[1], model(truth), empty), rows=ROWS)
    background = data.background_prior(COEFFICIENTS, energy_range=RANGE)
    priors = {"index": dist.Uniform(0.5, 5.0), "flux": dist.Uniform(0.0, 5.0), "b": background}
    posterior = gj.Posterior(model, priors, data, progress=False)
    best = gj.fit(posterior, initial=truth, progress=False)
    found = gj.check(posterior, best, key=keys[2], replicas=replicas, progress=False)
    return posterior.total, {name: float(p) for name, p in found.table["p_value"].items()}


def main() -> None:
    """Simulate, fit, check and test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    empty, values, sizes, started = runs(), {}, [], time.perf_counter()
    for seed in range(options.simulations):
        size, found = one(seed, empty, options.replicas)
        sizes.append(size)
        for name, p in found.items():
            values.setdefault(name, []).append(p)
        spent = time.perf_counter() - started
        print(seed, f"{size} events, {spent:.0f} s", {name: round(p, 3) for name, p in found.items()}, flush=True)
        if spent > 60.0 * options.minutes:
            break
    figures = {
        "simulations": len(sizes),
        "replicas": options.replicas,
        "events": float(np.mean(sizes)),
        "seconds_each": (time.perf_counter() - started) / max(len(sizes), 1),
        "without_fault": {
            name: {
                "ks_p_value": float(kstest(of, "uniform").pvalue),
                "below_0.05": float(np.mean(np.array(of) < 0.05)),
                "mean": float(np.mean(of)),
            }
            for name, of in values.items()
        },
        "p_values": {name: [round(p, 4) for p in of] for name, of in values.items()},
    }
    report("check-regions", figures)


if __name__ == "__main__":
    main()
