"""The analysis of arXiv 2401.13876 (Pinchbeck, Thrane & Balazs 2024): 1e8 events, of which 1e5 are of dark matter.

525 hours of CTAO South at the Galactic Centre: dark matter of 1 TeV annihilating to W+W- (which for masses well above
the Higgs boson's is near to what a scalar singlet does) in an Einasto halo; the instrument's background; the Galaxy's
diffuse emission; three sources of H.E.S.S. catalogues. Free are the mass and the fractions of dark matter, of diffuse
emission and of the sources. Events go into cells as they are simulated. The posterior of mass, cross section and number
of events is drawn with the intervals that the paper quotes; the evidence is that of Laplace's approximation, or with
`--smc` of SMC too.

Fermi's map of the diffuse emission is not part of this project: `--diffuse` reads it from a file; without, a ridge of
half a degree about the plane stands in its place. `--seeds` makes closure instead, at a tenth of the events with as
many of dark matter.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from benchmarks.report import RESULTS, report
from benchmarks.scale import describe, memory, observations, timed
from gammajax.instrument.sky import Grid

SIGNAL = 1e-3  # of the events
MASS = 1.0
SIGMA_V = 1e-26  # of the model [cm^3 s^-1]: its fraction of the events says how many times that
PUBLISHED = {"mass": (0.96, 1.07), "sigma_v": (1.4e-25, 2.1e-25), "signal_events": (0.9e5, 1.3e5)}
PRIORS = {
    "mass": dist.LogUniform(0.3, 50.0),
    "signal": dist.LogUniform(1e-5, 0.1),
    "diffuse": dist.LogUniform(1e-5, 0.1),
    "sources": dist.LogUniform(1e-5, 0.1),
}
CELLS = {"energy_per_decade": 20.0, "pixel": 0.2}


def ridge() -> gj.Source:
    """Diffuse emission along the plane: 5e-9 TeV^-1 cm^-2 s^-1 sr^-1 at 1 TeV on it, falling by e in half a degree."""
    grid = Grid(0.0, 0.0, 0.05, 6.0)
    _, lat = grid.directions()
    brightness = 5e-9 * np.exp(-np.abs(np.asarray(lat)) / 0.5)
    return gj.Source(gj.PowerLaw(2.6, float(brightness.sum()) * grid.solid_angle), gj.TemplateMap(grid, brightness))


def catalogue() -> gj.Mixture:
    """Sources near the Galactic Centre; fluxes [TeV^-1 cm^-2 s^-1] at 1 TeV of H.E.S.S. publications.

    HESS J1745-290 (doi:10.1038/nature17147), G0.9+0.1 (doi:10.1051/0004-6361:200500022), HESS J1745-303
    (doi:10.1051/0004-6361:20079230).
    """
    cutoff = gj.ExponentialCutoffPowerLaw(index=2.14, amplitude=2.55e-12, reference=1.0, lambda_=1.0 / 10.7)
    return gj.Mixture(
        centre=gj.Source(cutoff, gj.Point(359.944, -0.046)),
        g09=gj.Source(gj.PowerLaw(2.40, 8.4e-13), gj.Point(0.872, 0.076)),
        j1745=gj.Source(gj.PowerLaw(2.71, 2.84e-12), gj.Gaussian(358.71, -0.64, 0.2)),
    )


def models(diffuse: gj.Source):
    """Functions of the parameters, with and without dark matter."""
    background, sources = gj.InstrumentBackground(), catalogue()

    def without(p):
        return gj.Mixture(
            diffuse=diffuse,
            sources=sources,
            background=background,
            weights={name: p[name] for name in ("diffuse", "sources")},
        )

    def model(p):
        signal = gj.Source(gj.DarkMatter("W", mass=p["mass"], sigma_v=SIGMA_V), gj.Einasto())
        return gj.Mixture(
            signal=signal,
            diffuse=diffuse,
            sources=sources,
            background=background,
            weights={name: p[name] for name in ("signal", "diffuse", "sources")},
        )

    return model, without


def truths(model, observed, events: int, signal: float = SIGNAL) -> dict:
    """Fractions that the fluxes make of so many events."""
    parts = model({"mass": MASS, "signal": SIGNAL, "diffuse": 0.01, "sources": 0.01}).components
    counts = {
        name: sum(float(gj.expected_counts(part, observed)) for path, part in parts.items() if path.startswith(name))
        for name in ("diffuse", "sources")
    }
    return {"mass": MASS, "signal": signal, **{name: number / events for name, number in counts.items()}}


def quoted(result, posterior, truth) -> gj.Result:
    """Mass, cross section [cm^3 s^-1] and number of signal events: what the paper gives intervals of."""
    total = posterior.total

    def sigma_v(p):
        return SIGMA_V * posterior.flux_scales(p)["signal"]

    units = {"sigma_v": "cm$^3$ s$^{-1}$"}
    derived = result.derive(sigma_v=sigma_v, signal_events=lambda p: p["signal"] * total, units=units)
    return gj.Result.from_samples(
        {name: derived.tree["posterior"][name].to_numpy() for name in PUBLISHED},
        method="nuts",
        truths={"mass": MASS, "sigma_v": float(sigma_v(truth)), "signal_events": SIGNAL * total},
        units={**units, "mass": "TeV"},
    )


def figure(result, events):
    """Corner plot with the published intervals as bands."""
    drawn = result.plot_corner()
    axes = np.array(drawn.axes).reshape(3, 3)
    for i, (name, (low, high)) in enumerate(PUBLISHED.items()):
        scale = 10.0 ** np.floor(np.log10(abs(np.median(result.samples[name]))))
        scale = 1.0 if 0.1 <= scale <= 100.0 else scale
        axes[i, i].axvspan(low / scale, high / scale, color="#edae49", alpha=0.35, lw=0, zorder=0)
    axes[0, 2].text(
        0.0,
        0.9,
        f"{events:.0e} events, 525 h\norange: intervals quoted in\narXiv 2401.13876",
        transform=axes[0, 2].transAxes,
        va="top",
    )
    return drawn


def closure(model, observed, truth, binning, events, seeds, key):
    """Pulls of fits to data sets of so many events."""
    parts = {name: part for name, part in model(truth).components.items() if isinstance(part, gj.Source)}
    engine = {name: gj.engines.PreparedKernel.init(part.morphology, observed) for name, part in parts.items()}
    pulls = {name: [] for name in truth}
    for seed in range(seeds):
        cells = gj.simulate_cells(jax.random.fold_in(key, seed), model(truth), observed, binning, events=events)
        best = gj.fit(gj.Posterior(model, PRIORS, observed, cells, engine=engine), initial=truth)
        for name, value in truth.items():
            pulls[name].append(float((best.parameters[name] - value) / best.standard_deviations[name]))
        print(seed, best, {name: round(values[-1], 2) for name, values in pulls.items()}, flush=True)
    return {
        name: {"mean_pull": float(np.mean(v)), "std_pull": float(np.std(v, ddof=1)), "pulls": v}
        for name, v in pulls.items()
    }


def main():
    """Simulate, compress, sample, compare with nothing, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--diffuse", help="file of Fermi's model of the Galaxy, such as gll_iem_v07.fits")
    parser.add_argument("--draws", type=int, default=500, help="of each of four chains")
    parser.add_argument("--smc", action="store_true", help="evidence by SMC too")
    parser.add_argument("--seeds", type=int, default=0, help="closure with so many data sets")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begun = time.perf_counter()
    observed = observations()
    diffuse = (
        gj.io.read_cube(options.diffuse, "galactic", 0.0, 0.0, 6.0, 0.1, unit=None) if options.diffuse else ridge()
    )
    model, without = models(diffuse)
    # of a tenth of the events a thousandth would hardly be seen, and pulls of its mass mean little
    truth = truths(model, observed, 100_000_000, SIGNAL * 100_000_000 / options.events if options.seeds else SIGNAL)
    print({name: float(f"{value:.3g}") for name, value in truth.items()}, flush=True)
    truth = {name: jnp.asarray(value) for name, value in truth.items()}
    binning = gj.Binning.init(observed, **CELLS)
    key = jax.random.key(0)
    if options.seeds:
        parameters = closure(model, observed, truth, binning, options.events, options.seeds, key)
        figures = {"events": options.events, "seeds": options.seeds, "parameters": parameters}
        report("paper-closure", {**figures, "seconds": time.perf_counter() - begun})
        return
    cells, simulate_s = timed(gj.simulate_cells, key, model(truth), observed, binning, events=options.events)
    print(f"{len(cells)} cells of {cells.total} events in {simulate_s:.0f} s", flush=True)
    posterior, setup_s = timed(gj.Posterior, model, PRIORS, observed, cells)
    print(f"set up in {setup_s:.0f} s", flush=True)
    result, nuts_s = timed(gj.nuts, jax.random.key(1), posterior, draws=options.draws, chains=4, truths=truth)
    print(result.summary().to_string(), flush=True)
    shown = quoted(result, posterior, truth)
    figure(shown, options.events).savefig(RESULTS / "paper-2401-13876.png", dpi=150)
    intervals = {name: np.quantile(v, [0.025, 0.5, 0.975]).tolist() for name, v in shown.samples.items()}
    no_signal = gj.Posterior(without, {n: PRIORS[n] for n in ("diffuse", "sources")}, observed, cells)
    started = time.perf_counter()
    evidences = {"laplace": [gj.laplace(key, p).log_evidence for p in (posterior, no_signal)]}
    if options.smc:
        evidences["smc"] = [gj.smc(key, p).log_evidence for p in (posterior, no_signal)]
    report(
        "paper",
        {
            "events": options.events,
            "cells": len(cells),
            "simulate_s": simulate_s,
            "setup_s": setup_s,
            "nuts_s": nuts_s,
            "evidence_s": time.perf_counter() - started,
            "total_s": time.perf_counter() - begun,
            "memory_bytes": memory(),
            "messages": result.messages,
            "intervals95": {name: {"low": v[0], "median": v[1], "high": v[2]} for name, v in intervals.items()},
            "published": {name: {"low": v[0], "high": v[1]} for name, v in PUBLISHED.items()},
            "truth": {name: float(v) for name, v in truth.items()},
            "parameters": describe(result),
            "log_bayes_factor": {name: pair[0][0] - pair[1][0] for name, pair in evidences.items()},
        },
    )


if __name__ == "__main__":
    main()
