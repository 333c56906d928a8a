"""Systematic errors: data of another instrument than that of the files, fitted with and without parameters for it.

The effective area is 10 % larger and reconstructed energies are 5 % higher than in the files. A power law from a point
source (`flux`, `index`), and dark matter in a halo (`mass`, with a free flux), both on the instrument's background, are
fitted as if the files were right, and with a free `effective_area` and `energy_scale` whose priors are as wide as the
errors are large. Pulls are (value - truth) / error, and their mean over the seeds says what is worse than statistics.

`pulls` repeats the second fit with area and scale drawn from their priors: a response that is free is unbiased, and its
errors are right. `cost`: milliseconds of processor time of a value with gradient by the free fields of the response,
with 1e4 and 2e5 events.
"""

import argparse
import json
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from matplotlib import rc_context

import gammajax as gj
from benchmarks.report import RESULTS, report
from gammajax.plots.style import BOXED, COLOURS

WRONG = {"area": 1.10, "scale": 0.05}
WIDTHS = {"area": 0.10, "scale": 0.05}
NUISANCES = {"area": dist.LogNormal(0.0, WIDTHS["area"]), "scale": dist.Normal(0.0, WIDTHS["scale"])}
SIZES = {10_000: 1.0, 100_000: 10.0, 1_000_000: 100.0}  # events, and livetime in units of the first
COSTS = {
    "effective_area": dist.LogNormal(0.0, 0.1),
    "energy_scale": dist.Normal(0.0, 0.05),
    "energy_resolution": dist.LogNormal(0.0, 0.1),
    "psf_width": dist.LogNormal(0.0, 0.1),
}
CELLS = {"energy_per_decade": 20, "pixel": 0.05}
BACKGROUND = {"norm": dist.LogNormal(0.0, 0.1)}


def response(p):
    """The change of the response, None if it is not free."""
    return gj.ResponseChange(effective_area=p["area"], energy_scale=p["scale"]) if "area" in p else None


def power_law(p):
    """A point source, with fluxes in units of 1e-12 TeV^-1 cm^-2 s^-1."""
    source = gj.Source(gj.PowerLaw(p["index"], 1e-12 * p["flux"]), gj.Point(0.4, 0.3))
    return gj.Mixture(source=source, background=gj.InstrumentBackground(p["norm"]), response=response(p))


def dark_matter(p):
    """Annihilation to W+W- about the Galactic Centre; `flux` is the logarithm of a factor."""
    spectrum = gj.DarkMatter(
        channel="W", mass=jnp.exp(p["log_mass"]), sigma_v=1e-23 * jnp.exp(p["flux"]), j_factor=1e22
    )
    source = gj.Source(spectrum, gj.Gaussian(0.0, 0.0, sigma=0.3))
    return gj.Mixture(source=source, background=gj.InstrumentBackground(p["norm"]), response=response(p))


MODELS = {
    "power law": (
        power_law,
        {"flux": 12.0, "index": 2.4, "norm": 1.0},
        {"flux": dist.LogNormal(2.5, 1.0), "index": dist.Uniform(1.0, 4.0), **BACKGROUND},
        {"flux": "flux", "index": "index"},
    ),
    "dark matter": (
        dark_matter,
        {"log_mass": float(np.log(5.0)), "flux": 0.0, "norm": 1.0},
        {"log_mass": dist.Uniform(0.0, 4.0), "flux": dist.Normal(0.0, 2.0), **BACKGROUND},
        {"log_mass": "mass"},
    ),
}


def observation(livetime):
    """CTAO South, with as many hours as make the number of events."""
    return gj.io.ctao(
        "South", pointing=(0.0, 0.0), frame="galactic", livetime=livetime, energy_range=(0.2, 50.0), offset_max=1.5
    )


def simulated(key, model, truth, observed, wrong, cells):
    """Events of another response than that of the files."""
    mixture = model({**truth, **wrong})
    events = gj.simulate(key, mixture, observed)
    return events.compress([observed], **CELLS) if cells else events


def pulls_of(model, priors, truth, names, observed, data):
    """Pulls of the parameters, and the number of errors of one that a systematic error of one per cent is."""
    fit = gj.fit(gj.Posterior(model, priors, [observed], data, progress=False), progress=False)
    if not fit.converged:
        raise RuntimeError("the fit did not converge")
    found = {name: (float(fit.parameters[name]), float(fit.standard_deviations[name])) for name in priors}
    return {label: (found[name][0] - truth[name]) / found[name][1] for name, label in names.items()}, found


def cost(events: int) -> dict:
    """Milliseconds of a value with gradient of the power law, by the fields of the response that are free."""
    _, truth, priors, _ = MODELS["power law"]

    def model(p):
        change = gj.ResponseChange(**{name: p[name] for name in COSTS if name in p})
        source = gj.Source(gj.PowerLaw(p["index"], 1e-12 * p["flux"]), gj.Point(0.4, 0.3))
        return gj.Mixture(source=source, background=gj.InstrumentBackground(p["norm"]), response=change)

    observed = observation(0.43 * events)
    data = gj.simulate(jax.random.key(7), model(truth), observed)
    function = eqx.filter_jit(lambda posterior, p: jax.value_and_grad(posterior.log_likelihood_ratio)(p))
    found = {}
    for free in ([], *([name] for name in COSTS), list(COSTS)):
        posterior = gj.Posterior(model, {**priors, **{name: COSTS[name] for name in free}}, [observed], data)
        at = {n: jnp.asarray(truth[n]) for n in priors} | {n: 0.01 + (n != "energy_scale") for n in free}
        at = {name: jnp.asarray(value) for name, value in at.items()}
        jax.block_until_ready(function(posterior, at))
        seconds = []
        for _ in range(20):
            # of the processor: other work on the machine does not count
            started = time.process_time()
            jax.block_until_ready(function(posterior, at))
            seconds.append(time.process_time() - started)
        found["all" if len(free) > 1 else "".join(free) or "files"] = 1e3 * float(np.median(seconds))
    return found


@rc_context(BOXED)
def draw(figures):
    """Mean pulls with and without a free response, against the number of events."""
    from matplotlib.figure import Figure

    labels = [(name, label) for name, (_, _, _, labels) in MODELS.items() for label in labels.values()]
    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(labels)), labels, strict=True):
        for i, (kind, title) in enumerate({"files": "response of the files", "free": "free response"}.items()):
            sizes = [size for size in SIZES if str(size) in figures.get(name, {})]
            x = np.array(sizes) * (0.93 if i == 0 else 1.07)
            sets = [figures[name][str(size)][kind][label] for size in sizes]
            mean = [np.mean(pulls) for pulls in sets]
            axes.errorbar(
                x, mean, [np.std(pulls) for pulls in sets], fmt="os"[i], capsize=3, color=COLOURS[i], label=title
            )
        axes.axhline(0.0, color="0.5", lw=0.8)
        axes.axhspan(-1.0, 1.0, color="0.93", lw=0)
        axes.set_xscale("log")
        axes.set_xlim(0.5 * min(SIZES), 2.0 * max(SIZES))
        axes.set_yscale("symlog", linthresh=2.0)
        ticks = [-10, -3, -1, 0, 1, 3, 10, 30]
        axes.set_ylim(-5.0, 60.0)
        axes.set_yticks(ticks, [f"{tick:d}" for tick in ticks])
        axes.minorticks_off()
        axes.set(title=f"{name}: {label}", xlabel="events", ylabel="pull")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def misspecified(name, seeds, most) -> dict:
    """Pulls with the response of the files and with a free one, by the number of events."""
    model, truth, priors, names = MODELS[name]
    rate = float(sum(c.sum() for c in gj.expected_counts(model({**truth, **WRONG}), observation(3600.0)).values()))
    figures = {}
    for size in [size for size in SIZES if size <= most]:
        observed = observation(3600.0 * size / rate)
        found = {"files": {label: [] for label in names.values()}, "free": {label: [] for label in names.values()}}
        started = time.perf_counter()
        for seed in range(seeds):
            data = simulated(jax.random.key(seed), model, truth, observed, WRONG, size > 10_000)
            for kind, free in {"files": {}, "free": NUISANCES}.items():
                pulls, _ = pulls_of(model, {**priors, **free}, truth, names, observed, data)
                for label, pull in pulls.items():
                    found[kind][label].append(pull)
        figures[str(size)] = {**found, "seconds": time.perf_counter() - started}
        print(name, size, figures[str(size)], flush=True)
    return figures


def drawn(count) -> dict:
    """Pulls of all parameters where the response is drawn from its prior."""
    model, truth, priors, names = MODELS["power law"]
    rate = float(sum(c.sum() for c in gj.expected_counts(model(truth), observation(3600.0)).values()))
    observed = observation(3600.0 * 10_000 / rate)
    random, found = np.random.default_rng(5), {label: [] for label in [*names.values(), *NUISANCES]}
    for seed in range(count):
        wrong = {"area": float(np.exp(WIDTHS["area"] * random.normal())), "scale": WIDTHS["scale"] * random.normal()}
        data = simulated(jax.random.key(1000 + seed), model, truth, observed, wrong, False)
        pulls, values = pulls_of(model, {**priors, **NUISANCES}, truth, names, observed, data)
        for label, pull in {**pulls, **{n: (values[n][0] - wrong[n]) / values[n][1] for n in wrong}}.items():
            found[label].append(pull)
        print(seed, {label: round(pulls[-1], 2) for label, pulls in found.items()}, flush=True)
    return {n: {"mean": float(np.mean(p)), "width": float(np.std(p)), "pulls": p} for n, p in found.items()}


def main():
    """Misspecified responses, pulls of drawn ones, and the cost; parts that are not asked for stay as they were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = [*MODELS, "pulls", "cost"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seeds", type=int, default=2, help="of each size and model")
    parser.add_argument("--most", type=int, default=max(SIZES), help="events")
    parser.add_argument("--pulls", type=int, default=20, help="fits with a drawn response")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    path = RESULTS / "systematics-cpu.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    for name in MODELS:
        if name in options.parts:
            figures[name] = figures.get(name, {}) | misspecified(name, options.seeds, options.most)
    if "pulls" in options.parts:
        figures["pulls"] = drawn(options.pulls)
    if "cost" in options.parts:
        figures["cost"] = {str(events): cost(events) for events in (10_000, 200_000)}
        print(figures["cost"], flush=True)
    report("systematics", figures)
    draw(figures).savefig(RESULTS / "systematics.png", dpi=120)


if __name__ == "__main__":
    main()
