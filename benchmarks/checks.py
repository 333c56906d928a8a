"""p-values of checks: uniform without a fault, small with one.

Two CTAO South pointings of a source of 0.1 deg above the instrument background; free are index, flux and the norm of
the background, with priors as wide as the truth is drawn from. Each simulation is fitted and checked against
simulated data sets with fits of their own (`gammajax.check`). Without a fault p-values must be uniform: Kolmogorov and
Smirnov's test of each kind, and how often p < 0.05. `rough`: the same p-values by replicates from the fit without fits
of their own, as plain posterior predictive p-values of the best fit have them.

Faults: a source that the model does not have (a seventh of the flux of the other), an extension of 0.14 deg, a curved
spectrum, a background with another tilt, a pointing off by 0.12 deg in one run, and a run with two thirds of its
livetime. Figures: `benchmarks/results/checks.png`, and an example of a fault, `check-example.png` and
`residual-maps.png`. Last line: JSON.
"""

import argparse
import time
import warnings

import jax
import numpy as np
import numpyro.distributions as dist
from matplotlib import rc_context
from scipy.stats import kstest

import gammajax as gj
from benchmarks.report import RESULTS, report
from gammajax.plots.style import BOXED, COLOURS
from gammajax.products import goodness

DAY = 60000.0
PLACE = {"lon": 83.6, "lat": 22.2, "sigma": 0.1}
PRIORS = {"index": dist.Uniform(2.0, 3.0), "flux": dist.Uniform(0.7, 1.5), "norm": dist.Uniform(0.7, 1.5)}
SIZE = 1.2e-11  # TeV^-1 cm^-2 s^-1 at 1 TeV
PER_DECADE = 20.0
FAULTS = ("missing source", "wrong extension", "wrong spectrum", "wrong background tilt", "shifted pointing")
FAULTS = (*FAULTS, "broken run")


def runs():
    """Two pointings of twenty minutes."""
    response = gj.io.ctao("South", pointing=(PLACE["lon"], PLACE["lat"]), livetime=1800.0).response
    return [
        gj.Observation(
            PLACE["lon"],
            PLACE["lat"] + side,
            1200.0,
            response,
            energy_min=1.0,
            energy_max=30.0,
            offset_max=1.2,
            obs_id=f"run {i + 1}",
            good_time=[[DAY + 0.02 * i, DAY + 0.02 * i + 1200.0 / 86400.0]],
        )
        for i, side in enumerate((-0.5, 0.5))
    ]


def mixture(spectrum, size=PLACE["sigma"], norm=1.0, tilt=0.0, **others):
    """The source above the background."""
    source = gj.Source(spectrum, gj.Gaussian(PLACE["lon"], PLACE["lat"], size))
    return gj.Mixture(source=source, sky=gj.InstrumentBackground(norm, tilt), **others)


def model(p):
    """What is fitted."""
    return mixture(gj.PowerLaw(p["index"], SIZE * p["flux"]), norm=p["norm"])


def joined(parts) -> gj.Events:
    """Several lists of events as one."""
    names = ("energy", "lon", "lat", "observation", "time")
    return gj.Events(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def simulated(key, observed, fault: str | None, truth) -> gj.Events:
    """Events with a fault, or without."""
    usual = gj.PowerLaw(truth["index"], SIZE * truth["flux"])
    norm = truth["norm"]
    if fault == "missing source":
        extra = gj.Source(gj.PowerLaw(2.5, SIZE / 7.0), gj.Point(PLACE["lon"] + 0.5, PLACE["lat"] + 0.3))
        return gj.simulate(key, mixture(usual, norm=norm, extra=extra), observed)
    if fault == "wrong extension":
        return gj.simulate(key, mixture(usual, 0.14, norm), observed)
    if fault == "wrong spectrum":
        return gj.simulate(key, mixture(gj.LogParabola(1.3, 1.2, 1.2 * SIZE), norm=norm), observed)
    if fault == "wrong background tilt":
        return gj.simulate(key, mixture(usual, norm=norm, tilt=-0.3), observed)
    events = gj.simulate(key, mixture(usual, norm=norm), observed)
    if fault == "shifted pointing":
        lon = np.asarray(events.lon) + np.where(events.observation == 1, 0.12 / np.cos(np.radians(PLACE["lat"])), 0.0)
        moved = gj.Events(events.energy, lon, events.lat, events.observation, time=events.time)
        return moved[(moved.observation == 0) | np.asarray(observed[1].offset(moved.lon, moved.lat) < 1.199)]
    if fault == "broken run":
        less = np.random.default_rng(int(jax.random.randint(key, (), 0, 2**30))).uniform(size=len(events)) < 0.65
        return events[(events.observation == 0) | less]
    return events


def one(seed: int, observed, engine, fault: str | None, replicas: int):
    """Posterior, fit and check of one simulation."""
    keys = jax.random.split(jax.random.key(seed), 3)
    pairs = zip(jax.random.split(keys[0], len(PRIORS)), PRIORS.items(), strict=True)
    truth = {name: float(prior.sample(key)) for key, (name, prior) in pairs}
    events = simulated(keys[1], observed, fault, truth)
    # wider priors than the truth is drawn from: fits end inside
    wide = {name: dist.Uniform(0.2 * float(p.low), 3.0 * float(p.high)) for name, p in PRIORS.items()}
    posterior = gj.Posterior(model, wide, observed, events, engine=engine, per_decade=PER_DECADE, progress=False)
    best = gj.fit(posterior, initial=truth, progress=False)
    found = gj.check(posterior, best, key=keys[2], replicas=replicas, engine=engine, progress=False)
    return posterior, best, found


def p_values(found) -> dict[str, float]:
    """Of all tests."""
    return {common(name): float(p) for name, p in found.table["p_value"].items()}


def common(name: str) -> str:
    """Name of a test in all simulations; radii differ between them."""
    return name.split(" within ")[0] + " near source" if " within " in name else name


def rough(found) -> dict[str, float]:
    """p-values of the deviance against replicates that keep the parameters of the fit of the data."""
    kept = {}
    for quantity in found.quantities:
        if quantity.name != goodness.LOG_DENSITY:
            random = np.random.default_rng(0).poisson(quantity.expected, (2000, quantity.expected.size))
            other = goodness.deviance(random.astype(float), quantity.expected).sum(1)
            kept[common(quantity.name)] = goodness.p_value(
                float(goodness.deviance(quantity.count, quantity.expected).sum()), other
            )
    return kept


@rc_context(BOXED)
def draw(values: dict, faults: dict) -> None:
    """Distributions of p-values, and those with faults."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, of) in enumerate(values.items()):
        bold = name in ("all", "largest deviation", "log-density")
        colour = COLOURS[("all", "largest deviation", "log-density").index(name)] if bold else "0.7"
        label = name if bold else "other tests" if i == 0 else None
        left.plot(np.sort(of), (np.arange(len(of)) + 0.5) / len(of), color=colour, lw=1.8 if bold else 0.9, label=label)
    number = len(next(iter(values.values())))
    side = np.linspace(0.0, 1.0, 101)
    left.fill_between(
        side,
        side - 1.36 / np.sqrt(number),
        side + 1.36 / np.sqrt(number),
        color=COLOURS[1],
        alpha=0.12,
        lw=0,
        label="95 % band of Kolmogorov and Smirnov",
    )
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="p-value without a fault", ylabel="fraction of simulations below")
    left.legend(frameon=False, loc="lower right")
    for i, of in enumerate(faults.values()):
        right.plot(np.maximum(of["all"], 1e-16), np.full(len(of["all"]), i), "o", color=COLOURS[i % 6], alpha=0.7)
    right.axvline(0.01, color="0.4", ls="--", lw=1.0)
    right.set_yticks(range(len(faults)), list(faults))
    right.set(xscale="log", xlim=(3e-17, 1.0), xlabel="p-value of all tests together", ylabel="planted fault")
    figure.savefig(RESULTS / "checks.png", dpi=130)


def main() -> None:
    """Simulate, fit, check, test and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--with-fault", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=100)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    observed = runs()
    engine = {"source": gj.engines.PreparedKernel.init(gj.Gaussian(**PLACE), observed, PER_DECADE)}
    values, plain, sizes, started = {}, {}, [], time.perf_counter()
    for seed in range(options.simulations):
        posterior, _, found = one(seed, observed, engine, None, options.replicas)
        sizes.append(posterior.total)
        for kept, new in ((values, p_values(found)), (plain, rough(found))):
            for name, p in new.items():
                kept.setdefault(name, []).append(p)
        print(seed, f"{time.perf_counter() - started:.0f} s", f"{found.p_value:.3f}", flush=True)
    each = (time.perf_counter() - started) / max(options.simulations, 1)
    faults: dict = {}
    for i, fault in enumerate(FAULTS):
        for seed in range(options.with_fault):
            posterior, best, found = one(10_000 + 100 * i + seed, observed, engine, fault, options.replicas)
            for name, p in p_values(found).items():
                faults.setdefault(fault, {}).setdefault(name, []).append(p)
            print(fault, f"{found.p_value:.2g}", found.worst, flush=True)
        if fault == "missing source" and options.with_fault:
            found.plot().savefig(RESULTS / "check-example.png", dpi=80)
            gj.residual_maps(posterior, best, progress=False).plot().savefig(RESULTS / "residual-maps.png", dpi=100)
    complete = {name: of for name, of in values.items() if len(of) == options.simulations}
    figures = {
        "simulations": options.simulations,
        "replicas": options.replicas,
        "events": float(np.mean(sizes)),
        "seconds_each": each,
        "without_fault": {
            name: {
                "ks_p_value": float(kstest(of, "uniform").pvalue),
                "below_0.05": float(np.mean(np.array(of) < 0.05)),
                "mean": float(np.mean(of)),
                "rough_ks_p_value": float(kstest(plain[name], "uniform").pvalue) if name in plain else None,
                "rough_mean": float(np.mean(plain[name])) if name in plain else None,
            }
            for name, of in complete.items()
        },
        "faults": {
            fault: {
                "largest_p_value": float(max(of["all"])),
                "median_p_value": float(np.median(of["all"])),
                "found_by": min(
                    (name for name in of if name not in ("all", goodness.LARGEST)), key=lambda n: np.median(of[n])
                ),
            }
            for fault, of in faults.items()
        },
        "p_values": {name: [round(p, 4) for p in of] for name, of in values.items()},
    }
    draw(complete, faults)
    report("checks", figures)


if __name__ == "__main__":
    main()
