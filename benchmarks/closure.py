"""Closure: simulate, fit, and compare with the truth in units of the fitted standard deviation.

Dark matter of 2 TeV annihilating to W+W- in an Einasto halo, 2 % of the events, on the instrument background of two
CTAO South pointings near the Galactic Centre; mass and signal fraction free. Simulation draws from the continuous
response and shares no grid with the engine. At 1e5 events the Gaussian of the fit is checked against NUTS once,
and both against the posterior on a grid.

`--shape` has another source instead, a power law with 5 % of the events: position, size, index and fraction free.
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

TRUTH = {"alpha": 0.02, "log_mass": float(np.log(2.0))}
PRIORS = {"alpha": dist.Uniform(0.0, 0.2), "log_mass": dist.Uniform(np.log(0.3), np.log(50.0))}


def model(p):
    """Fractions and mass to a mixture."""
    return gj.Mixture(
        signal=gj.Source(gj.DarkMatter(channel="W", mass=jax.numpy.exp(p["log_mass"])), gj.Einasto()),
        background=gj.InstrumentBackground(),
        weights={"signal": p["alpha"]},
    )


PLACE, EXTENT = (0.4, 0.3), 0.25  # deg
SHAPES = {
    "gaussian": gj.Gaussian,
    "disk": gj.Disk,
    "shell": lambda lon, lat, size: gj.Shell(lon, lat, size, 0.2),
}
SHAPE_TRUTH = {"alpha": 0.05, "index": 2.3, "lon": PLACE[0], "lat": PLACE[1], "size": EXTENT}
SHAPE_PRIORS = {
    "alpha": dist.Uniform(0.0, 0.2),
    "index": dist.Uniform(1.5, 3.5),
    "lon": dist.Uniform(PLACE[0] - 0.1, PLACE[0] + 0.1),
    "lat": dist.Uniform(PLACE[1] - 0.1, PLACE[1] + 0.1),
    "size": dist.Uniform(0.6 * EXTENT, 1.4 * EXTENT),
}


def model_of(shape):
    """Model of a free shape."""

    def made(p):
        source = gj.Source(gj.PowerLaw(p["index"], 1e-12), SHAPES[shape](p["lon"], p["lat"], p["size"]))
        return gj.Mixture(signal=source, background=gj.InstrumentBackground(), weights={"signal": p["alpha"]})

    return made


def observations():
    """Two pointings about the Galactic Centre."""
    return [
        gj.io.ctao(
            site="South", pointing=place, frame="galactic", livetime=180e3, energy_range=(0.2, 100.0), offset_max=3.0
        )
        for place in ((0.0, 1.0), (1.0, -0.5))
    ]


def exact(posterior):
    """The posterior itself on a grid, normalised: nodes and density of each parameter (their priors are uniform)."""
    mass = np.unique(np.r_[np.linspace(np.log(0.3), np.log(50.0), 120), np.linspace(0.3, 1.0, 71)])[1:-1]
    alpha = np.linspace(1e-4, 0.04, 80)

    @eqx.filter_jit
    def row(posterior, alpha, log_mass):
        return jax.lax.map(lambda a: posterior.log_likelihood_ratio({"alpha": a, "log_mass": log_mass}), alpha)

    height = np.array([row(posterior, jnp.asarray(alpha), jnp.asarray(m)) for m in mass], np.float64)
    density = np.exp(height - height.max())
    marginals = {"alpha": np.trapezoid(density, mass, axis=0), "log_mass": np.trapezoid(density, alpha, axis=1)}
    return {
        name: (nodes, marginals[name] / np.trapezoid(marginals[name], nodes))
        for name, nodes in {"alpha": alpha, "log_mass": mass}.items()
    }


def of_density(nodes, density):
    """Mean, standard deviation and 16, 50 and 84 % quantiles of a density on nodes."""
    mean = np.trapezoid(nodes * density, nodes)
    deviation = np.sqrt(np.trapezoid((nodes - mean) ** 2 * density, nodes))
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * np.diff(nodes) * (density[1:] + density[:-1]))])
    return mean, deviation, np.interp([0.16, 0.5, 0.84], cumulative / cumulative[-1], nodes)


def against_nuts(observed, events):
    """The Gaussian of a fit, and NUTS, against the posterior on a grid, in the fit's standard deviations.

    `mean_shift` and `sd_ratio` are of NUTS against the fit. At 1e5 events the signal has five standard deviations only
    and the mass a second peak with a part in 1e4 of the posterior, forty standard deviations away: quantiles say more.
    """
    posterior = gj.Posterior(
        model, PRIORS, observed, gj.simulate(jax.random.key(9), model(TRUTH), observed, events=events)
    )
    best = gj.fit(posterior)
    result = gj.nuts(jax.random.key(1), posterior, warmup=300, draws=500, chains=4, progress=False)
    figures = {}
    for name, (nodes, density) in exact(posterior.with_reference(best.parameters)).items():
        at, unit = float(best.parameters[name]), float(best.standard_deviations[name])
        draws = np.asarray(result.samples[name], np.float64).ravel()
        _, deviation, at_grid = of_density(nodes, density)
        sampled = np.quantile(draws, [0.16, 0.5, 0.84])
        figures[name] = {
            "mean_shift": (draws.mean() - at) / unit,
            "sd_ratio": draws.std() / unit,
            "exact_median_shift": (at_grid[1] - at) / unit,
            "exact_width_ratio": 0.5 * (at_grid[2] - at_grid[0]) / unit,
            "exact_sd_ratio": deviation / unit,
            "nuts_quantiles_off": {
                f"{percent} %": float(off)
                for percent, off in zip((16, 50, 84), (sampled - at_grid) / unit, strict=True)
            },
        }
    return figures


def main():
    """Run all seeds and report pulls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=20, help="0: only the check against NUTS and a grid")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="a source with a free shape instead of dark matter")
    options = parser.parse_args()
    observed, shape = observations(), options.shape
    made, truths, priors = (model_of(shape), SHAPE_TRUTH, SHAPE_PRIORS) if shape else (model, TRUTH, PRIORS)
    pulls, started = {name: [] for name in truths}, time.perf_counter()
    for seed in range(options.first, options.first + options.seeds):
        events = gj.simulate(jax.random.key(seed), made(truths), observed, events=options.events)
        best = gj.fit(gj.Posterior(made, priors, observed, events), initial=truths if shape else None)
        for name, truth in truths.items():
            pulls[name].append((float(best.parameters[name]) - truth) / float(best.standard_deviations[name]))
        now = {name: f"{values[-1]:+.2f}" for name, values in pulls.items()}
        print(f"seed {seed}: {best} pulls {now} ({time.perf_counter() - started:.0f} s)", flush=True)
    figures = {"events": options.events if options.seeds else 100_000, "seeds": options.seeds}
    if options.seeds:
        figures["seconds"] = time.perf_counter() - started
        figures["parameters"] = {
            name: {"mean_pull": float(np.mean(values)), "std_pull": float(np.std(values, ddof=1)), "pulls": values}
            for name, values in pulls.items()
        }
    if not shape:
        figures["against_nuts_1e5"] = against_nuts(observed, 100_000)
    started_at = (f"-{shape}" if shape else "") + (f"-from-{options.first}" if options.first else "")
    report(f"closure{started_at}" if options.seeds else "closure-check", figures)


if __name__ == "__main__":
    main()
