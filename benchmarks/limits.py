"""Coverage of limits on the cross section of dark matter, and of their expected bands.

A dwarf galaxy, a point source with J = 1e19 GeV^2 cm^-5, on the background of one CTAO pointing; annihilation to b
quarks, events in cells, the norm of the background free. Experiments without a signal have limits that should lie below
the median in half of the cases and below the ends of the bands in 16, 84, 2.3 and 97.7 %. In as many experiments with a
signal of the median limit, the limit should lie above it in 95 %. Both for the profile likelihood (one-sided, q = 2.71)
and the Bayesian limit with a flat prior. Figure: `benchmarks/results/limits.png`. Last line: JSON.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from matplotlib import rc_context
from scipy.stats import binom, norm

import gammajax as gj
from benchmarks.report import RESULTS, report
from gammajax.plots.style import BOXED, COLOURS
from gammajax.statistics.forecasts import BANDS

MASSES = np.array([1.0, 3.0, 10.0])
UNIT, J = 1e-23, 1e19
PRIORS = {"mass": dist.LogUniform(0.5, 50.0), "sigma_v": dist.Uniform(0.0, 1e4), "norm": dist.Uniform(0.2, 5.0)}


def model(p):
    """Annihilation to b quarks; the cross section in units of 1e-23 cm^3 s^-1."""
    signal = gj.Source(gj.DarkMatter("b", p["mass"], UNIT * p["sigma_v"], J), gj.Point(0.0, 0.0))
    return gj.Mixture(signal=signal, background=gj.InstrumentBackground(norm=p["norm"]))


def point(mass, sigma_v):
    """Parameters with a norm of one."""
    return {"mass": jnp.asarray(mass), "sigma_v": jnp.asarray(sigma_v), "norm": jnp.asarray(1.0)}


def experiments(seed: int, count: int, sigma_v: float, observed, binning) -> list:
    """Cells of simulated experiments with a signal of the middle mass."""
    mixture, keys = model(point(MASSES[1], sigma_v)), jax.random.split(jax.random.key(seed), count)
    return [binning(gj.simulate(key, mixture, observed)) for key in keys]


class Shared:
    """One posterior for all experiments: of the cells that any of them has, with the counts of one."""

    def __init__(self, drawn: list, observed):
        everything = drawn[0]
        for cells in drawn[1:]:
            everything = everything + cells
        self.posterior = gj.Posterior(model, PRIORS, observed, everything, progress=False)
        (term,) = self.posterior.terms
        valid = np.asarray(term.count) > 0
        self.row = dict(zip(np.asarray(term.data.cell)[valid].tolist(), np.flatnonzero(valid).tolist(), strict=True))
        self.empty = np.zeros(term.count.shape, np.asarray(term.count).dtype)

    def of(self, cells):
        """The posterior of one experiment."""
        count = self.empty.copy()
        count[[self.row[cell] for cell in cells.cell.tolist()]] = cells.count
        return eqx.tree_at(lambda p: p.terms[0].count, self.posterior, jnp.asarray(count))


def shares(over: np.ndarray, wanted: float) -> dict:
    """The share of experiments, with its error and whether it is within 99 % of the binomial distribution."""
    count = over.size
    low, high = binom.ppf([0.005, 0.995], count, wanted)
    return {
        "share": float(over.mean()),
        "error": float(np.sqrt(over.mean() * (1.0 - over.mean()) / count)),
        "wanted": wanted,
        "within_binomial": bool(low <= over.sum() <= high),
    }


@rc_context(BOXED)
def draw(expected, limits, with_signal, sigma_v) -> None:
    """Limits beside the bands, and their distribution with a signal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    expected.plot(left)
    low2, low1, median, high1, high2 = np.quantile(limits, norm.cdf(BANDS), axis=0)
    left.errorbar(
        MASSES,
        median,
        [median - low1, high1 - median],
        fmt="s",
        color="black",
        ms=5,
        capsize=4,
        label="experiments, 68 %",
    )
    left.plot(MASSES, low2, "v", MASSES, high2, "^", color="0.3", ms=5, label="experiments, 95 %")
    left.set_xlim(0.9 * MASSES[0], 1.1 * MASSES[-1])
    handles, labels = left.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    left.legend(unique.values(), unique.keys(), fontsize=8, framealpha=0.85, edgecolor="none")
    for name, colour in (("limit", COLOURS[1]), ("bayesian", COLOURS[0])):
        ratio = with_signal[name] / sigma_v
        covered = np.mean(ratio >= 1.0)
        title = {"limit": "profile likelihood", "bayesian": "Bayesian"}[name]
        right.hist(
            ratio, np.linspace(0.0, 4.0, 41), histtype="step", color=colour, label=f"{title}: {covered:.3f} above"
        )
    right.axvline(1.0, color="0.4", ls=":")
    right.set(xlabel="95 % limit / simulated cross section", ylabel="experiments")
    right.set_ylim(top=1.25 * right.get_ylim()[1])  # room for the legend
    right.legend(frameon=False)
    figure.savefig(RESULTS / "limits.png", dpi=140)


def main() -> None:
    """Limits of all experiments, and how many lie where they should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=500)
    parser.add_argument("--hours", type=float, default=20.0)
    options = parser.parse_args()
    started, count = time.perf_counter(), options.experiments
    observed = gj.io.ctao(
        "South",
        pointing=(0.0, 0.0),
        frame="galactic",
        livetime=3600.0 * options.hours,
        energy_range=(0.5, 20.0),
        offset_max=0.4,
    )
    binning = gj.Binning.init(observed, energy_per_decade=20, pixel=0.025)  # lose 3 % of the information; 40 % if 0.1
    truth = point(MASSES[1], 0.0)
    also = tuple(point(mass, 1.0) for mass in MASSES)
    asimov = gj.Asimov.init(jax.random.key(0), model, PRIORS, observed, also[0], also=also[1:], points=50_000).at(truth)
    expected = gj.limits(asimov, values=MASSES, target="dwarf", progress=False)
    signal = float(expected.expected[2, 1]) / UNIT
    print(f"expected {expected.expected[2]}, {time.perf_counter() - started:.0f} s", flush=True)
    without = experiments(1, count, 0.0, observed, binning)
    with_signal = experiments(2, count, signal, observed, binning)
    shared = Shared([*without, *with_signal], observed)
    events = float(np.mean([cells.total for cells in without]))
    print(f"{events:.0f} events, {len(shared.row)} cells, {time.perf_counter() - started:.0f} s", flush=True)
    limits, significant, calls = [], [], time.perf_counter()
    for i, cells in enumerate(without):
        found = gj.limits(shared.of(cells), values=MASSES, progress=False)
        limits.append([found.limit, found.bayesian])
        significant.append(found.ts)
        if (i + 1) % 50 == 0:
            print(f"{i + 1} without a signal, {time.perf_counter() - started:.0f} s", flush=True)
    seconds = (time.perf_counter() - calls) / count
    over: dict[str, list] = {"limit": [], "bayesian": [], "best": []}
    for i, cells in enumerate(with_signal):
        found = gj.limits(shared.of(cells), values=MASSES[1:2], progress=False)
        for name, values in over.items():
            values.append(float(getattr(found, name)[0]))
        if (i + 1) % 50 == 0:
            print(f"{i + 1} with a signal, {time.perf_counter() - started:.0f} s", flush=True)
    limits, signals = np.array(limits), {name: np.array(values) for name, values in over.items()}
    truth_value, chance = signal * UNIT, norm.cdf(BANDS)
    draw(expected, limits[:, 0], signals, truth_value)
    report(
        "limits",
        {
            "hours": options.hours,
            "experiments": count,
            "events": events,
            "cells": len(shared.row),
            "masses": MASSES.tolist(),
            "median_expected": expected.expected[2].tolist(),
            "median_over_expected": (np.median(limits[:, 0], axis=0) / expected.expected[2]).tolist(),
            "below_bands": {
                f"{mass:g} TeV": {
                    f"{n:+d} sd": shares(limits[:, 0, column] < expected.expected[row, column], float(chance[row]))
                    for row, n in enumerate(BANDS)
                }
                for column, mass in enumerate(MASSES)
            },
            "ts_is_zero": shares(np.array(significant)[:, 1] < 0.01, 0.5),
            "coverage": {name: shares(signals[name] >= truth_value, 0.95) for name in ("limit", "bayesian")},
            "best_over_truth": [float(np.mean(signals["best"]) / truth_value)],
            "seconds_per_experiment": seconds,
            "seconds": time.perf_counter() - started,
        },
    )


if __name__ == "__main__":
    main()
