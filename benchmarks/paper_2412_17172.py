"""The question of arXiv 2412.17172v2 (Pinchbeck, Balazs & Thrane 2025): into what does dark matter annihilate?

CTAO South at the Galactic Centre, with the model of `benchmarks.paper_2401_13876`, at 0.2 to 5 TeV; a signal of five
standard deviations or more. The default is a fifth of the events of 525 hours, with a larger signal, since each of the
evidences takes half a million likelihoods; `--events 100000000 --signal 0.001` is the whole. Free are the mass, the
fractions of the events, and the ratios of seven channels, flat on the simplex. The paper's abstract states its result:
the ratios of five dominant channels within 95 % credibility. Its own table of ratios is not part of this project; here
W, Z and h have the ratios 2 : 1 : 1 of a heavy scalar singlet, which annihilates to Higgs and Goldstone bosons, and t,
b, tau and gluons have the rest, see `RATIOS`.

NUTS draws from the posterior of all seven. The evidence for the number of channels is that of nested sampling, or of
SMC with `--smc`, for the first one, three, five and seven channels of `RATIOS`. A model without a channel cannot
describe its photons; one with more channels pays for the room of its prior.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import scipy.stats
from matplotlib import rc_context

import gammajax as gj
from benchmarks import paper_2401_13876 as first_paper
from benchmarks.report import RESULTS, report
from benchmarks.scale import memory, observations, timed
from gammajax.plots.style import BOXED, COLOURS

RATIOS = {"W": 0.44, "Z": 0.22, "h": 0.22, "t": 0.05, "b": 0.04, "tau": 0.02, "g": 0.01}
NUMBERS = 1, 3, 5, 7  # of channels, for the evidence
FRACTIONS = "signal", "diffuse", "sources"
CELLS = {"energy_per_decade": 10.0, "pixel": 0.4}


def model_of(channels, diffuse: gj.Source):
    """Function of the parameters for some channels; one channel has no ratios."""
    background, sources = gj.InstrumentBackground(), first_paper.catalogue()

    def model(p):
        channel = channels[0] if len(channels) == 1 else dict(zip(channels, p["ratios"], strict=True))
        spectrum = gj.DarkMatter(channel, mass=p["mass"], sigma_v=first_paper.SIGMA_V)
        return gj.Mixture(
            signal=gj.Source(spectrum, gj.Einasto()),
            diffuse=diffuse,
            sources=sources,
            background=background,
            weights={name: p[name] for name in FRACTIONS},
        )

    return model


def priors_of(channels) -> dict:
    """Priors of the first paper, and ratios flat on the simplex."""
    ratios = {} if len(channels) == 1 else {"ratios": dist.Dirichlet(jnp.ones(len(channels)))}
    return {**first_paper.PRIORS, "mass": dist.LogUniform(0.3, 5.0), **ratios}


def intervals(values) -> dict:
    """Interval of 95 %, as percentiles, with the median."""
    low, median, high = np.quantile(values, [0.025, 0.5, 0.975])
    return {"low": float(low), "median": float(median), "high": float(high)}


@rc_context(BOXED)
def draw(figures):
    """Intervals of the ratios beside the truth and the prior, and evidences by the number of channels."""
    drawn, axes = plt.subplots(1, 2, figsize=(9.0, 3.6), width_ratios=(2, 1), layout="constrained")
    names = list(RATIOS)
    low, high = scipy.stats.beta(1, len(names) - 1).ppf([0.025, 0.975])
    axes[0].axvspan(low, high, color="0.9", label="prior, 95 %")
    for row, name in enumerate(names):
        found = figures["intervals95"][name]
        axes[0].plot(
            [found["low"], found["high"]], [row, row], color=COLOURS[1], lw=5, label="posterior, 95 %" * (not row)
        )
        axes[0].plot(found["median"], row, "|", color="k", ms=12, label="median" * (not row))
        axes[0].plot(RATIOS[name], row, "D", color=COLOURS[0], ms=6, label="truth" * (not row))
    axes[0].set(xlabel="ratio of the channel", xlim=(0.0, 1.0), yticks=range(len(names)), yticklabels=names)
    axes[0].invert_yaxis()
    axes[0].legend(frameon=False)
    for name, evidence in figures["evidence"].items():
        numbers = [int(number) for number in evidence]
        values = np.array([found["log_evidence"] for found in evidence.values()])
        errors = [found["error"] for found in evidence.values()]
        axes[1].errorbar(numbers, values - values[0], errors, fmt="o-", capsize=3, label=name)
    axes[1].set(xlabel="number of channels", ylabel="ln evidence, relative to one channel", xticks=NUMBERS)
    axes[1].legend(frameon=False)
    return drawn


def main():
    """Simulate, sample, compare numbers of channels, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--signal", type=float, default=2e-3, help="fraction of the events")
    parser.add_argument("--draws", type=int, default=500, help="of each of four chains")
    parser.add_argument("--live", type=int, default=200, help="live points of nested sampling; 0 for none")
    parser.add_argument("--smc", action="store_true", help="evidence by SMC too")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begun = time.perf_counter()
    observed, diffuse, channels = observations(energy_range=(0.2, 5.0)), first_paper.ridge(), tuple(RATIOS)
    model, priors = model_of(channels, diffuse), priors_of(channels)
    before = first_paper.models(diffuse)[0]
    truth = first_paper.truths(before, observed, 100_000_000, options.signal)
    truth = {name: jnp.asarray(value) for name, value in truth.items()} | {"ratios": jnp.array(list(RATIOS.values()))}
    binning = gj.Binning.init(observed, **CELLS)
    cells, simulate_s = timed(
        gj.simulate_cells, jax.random.key(0), model(truth), observed, binning, events=options.events
    )
    print(f"{len(cells)} cells of {cells.total} events in {simulate_s:.0f} s", flush=True)
    posterior, setup_s = timed(gj.Posterior, model, priors, observed, cells)
    print(f"set up in {setup_s:.0f} s", flush=True)
    units = {"mass": "TeV"}
    result, nuts_s = timed(gj.nuts, jax.random.key(1), posterior, draws=options.draws, truths=truth, units=units)
    print(result.summary().to_string(), flush=True)
    figures = {
        "events": options.events,
        "cells": len(cells),
        "simulate_s": simulate_s,
        "setup_s": setup_s,
        "nuts_s": nuts_s,
        "messages": result.messages,
        "truth": {name: float(truth[name]) for name in first_paper.PRIORS} | RATIOS,
        "signal_over_error": float(np.mean(result.samples["signal"]) / np.std(result.samples["signal"])),
        "intervals95": {name: intervals(result.samples[name]) for name in first_paper.PRIORS}
        | {name: intervals(column) for name, column in zip(channels, result.samples["ratios"].T, strict=True)},
        "evidence": {},
    }
    samplers = {"nested": lambda key, p: gj.nested(key, p, live=options.live)} if options.live else {}
    samplers |= {"smc": gj.smc} if options.smc else {}
    for number in NUMBERS:
        some = channels[:number]
        other = (
            posterior
            if number == len(channels)
            else gj.Posterior(model_of(some, diffuse), priors_of(some), observed, cells)
        )
        for name, sampler in samplers.items():
            sampled, seconds = timed(sampler, jax.random.key(2), other)
            figures["evidence"].setdefault(name, {})[number] = {
                "log_evidence": sampled.log_evidence[0],
                "error": sampled.log_evidence[1],
                "seconds": seconds,
                "messages": sampled.messages,
            }
            print(number, name, figures["evidence"][name][number], flush=True)
            report("paper-2412", {**figures, "total_s": time.perf_counter() - begun, "memory_bytes": memory()})
    draw(figures).savefig(RESULTS / "paper-2412-17172.png", dpi=150)
    report("paper-2412", {**figures, "total_s": time.perf_counter() - begun, "memory_bytes": memory()})


if __name__ == "__main__":
    main()
