"""Simulation-based calibration of the whole chain: prior draw, simulation, inference, rank of the truth.

Talts et al. 2018 (arXiv:1804.06788). A small problem: 2000 events of one CTAO South pointing from three components,
dark matter to W bosons in an Einasto halo, an extended source with a power law, and the instrument background; free
are the mass, two fractions and the index. If simulator, likelihood and sampler agree, the rank of the truth among draws
is uniform: its empirical distribution lies inside the simultaneous 95 % band (Sailynoja et al. 2022,
arXiv:2103.10522), and intervals hold the truth as often as they say.
"""

import argparse
import json
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from arviz_stats.ecdf_utils import ecdf_pit
from matplotlib import rc_context
from scipy.stats import binom, chisquare

import gammajax as gj
from benchmarks.report import RESULTS, report
from gammajax.plots.style import BOXED, COLOURS

EVENTS = 2000
RANKS = 99  # draws that the truth is ranked among
PRIORS = {
    "log_mass": dist.Uniform(float(np.log(0.7)), float(np.log(20.0))),
    "signal": dist.Uniform(0.05, 0.45),
    "source": dist.Uniform(0.05, 0.45),
    "index": dist.Normal(2.5, 0.3),
}
METHODS = {
    "nuts": (gj.nuts, {"draws": 300, "warmup": 150, "chains": 2}),
    "smc": (gj.smc, {"particles": 400}),
    "nested": (gj.nested, {"live": 150, "precision": 0.01}),
    "svi": (gj.svi, {"steps": 1000, "draws": 1000, "particles": 4}),
    "laplace": (gj.laplace, {"draws": 1000}),
}


def model(p):
    """Three components of 2000 events."""
    return gj.Mixture(
        signal=gj.Source(gj.DarkMatter("W", mass=jnp.exp(p["log_mass"])), gj.Einasto()),
        source=gj.Source(gj.PowerLaw(index=p["index"]), gj.Gaussian(lon=0.5, lat=0.5, sigma=0.2)),
        background=gj.InstrumentBackground(),
        weights={"signal": p["signal"], "source": p["source"]},
    )


def observation():
    """One pointing."""
    return gj.io.ctao(
        "South", pointing=(0.0, 0.5), frame="galactic", livetime=3600.0, energy_range=(0.3, 30.0), offset_max=2.0
    )


def prepared(observed):
    """Folded responses, which are the same for all simulations."""
    parts = model({name: prior.mean for name, prior in PRIORS.items()}).components
    sources = {name: part for name, part in parts.items() if isinstance(part, gj.Source)}
    return {name: gj.engines.PreparedKernel.init(part.morphology, observed) for name, part in sources.items()}


def drawn(key) -> dict[str, float]:
    """True values from the priors."""
    return {name: float(prior.sample(jax.random.fold_in(key, i))) for i, (name, prior) in enumerate(PRIORS.items())}


def placed(value: float, draws, thinned, spread: float) -> tuple[float, int, int]:
    """Rank of a true value between 0 and 1, and whether the 68 and 95 % intervals of the draws hold it."""
    held = [
        int(low < value < high)
        for low, high in (np.quantile(draws, [0.5 - p / 2, 0.5 + p / 2]) for p in (0.6827, 0.9545))
    ]
    return float((np.sum(thinned < value) + spread) / (len(thinned) + 1)), held[0], held[1]


def one(seed: int, observed, engine, method, options) -> dict[str, tuple[float, int, int]]:
    """Rank of the truth between 0 and 1, and whether the 68 and 95 % intervals hold it, by parameter."""
    keys = jax.random.split(jax.random.key(seed), 4)
    truth = drawn(keys[0])
    events = gj.simulate(keys[1], model(truth), observed, events=EVENTS)
    result = method(keys[2], gj.Posterior(model, PRIORS, observed, events, engine=engine), progress=False, **options)
    found = {}
    for name, value in truth.items():
        draws = result.samples[name]
        thinned = draws[np.linspace(0, len(draws) - 1, RANKS).astype(int)]
        spread = float(jax.random.uniform(jax.random.fold_in(keys[3], list(truth).index(name))))
        found[name] = placed(value, draws, thinned, spread)
    return found


def closure(seeds: range, observed, engine, events: int = 1_000_000) -> dict:
    """Pulls of fits to many events, of truths from the priors: what the ranks of few events are too rough to show."""
    pulls = {name: [] for name in PRIORS}
    for seed in seeds:
        truth = drawn(jax.random.key(100 + seed))
        found = gj.simulate(jax.random.key(200 + seed), model(truth), observed, events=events)
        best = gj.fit(gj.Posterior(model, PRIORS, observed, found, engine=engine), initial=truth)
        for name, value in truth.items():
            pulls[name].append((float(best.parameters[name]) - value) / float(best.standard_deviations[name]))
        print("closure", seed, best, {name: round(values[-1], 2) for name, values in pulls.items()}, flush=True)
    each = {n: {"mean_pull": float(np.mean(v)), "std_pull": float(np.std(v, ddof=1))} for n, v in pulls.items()}
    return {"events": events, "seeds": len(seeds), "parameters": each}


def add(kept: dict, found: dict[str, tuple[float, int, int]]) -> None:
    """Add a simulation to what is kept of earlier ones by parameter: ranks, and how many intervals held the truth."""
    for name, (rank, held68, held95) in found.items():
        of = kept.setdefault(name, {"ranks": [], "held68": 0, "held95": 0})
        of["ranks"].append(round(rank, 4))
        of["held68"] += held68
        of["held95"] += held95


def inside(rank: np.ndarray, level: float) -> bool:
    """Whether the distribution of the ranks lies in the simultaneous band of this level."""
    _, ecdf, lower, upper = ecdf_pit(rank, level, 2000)
    return bool(np.all((ecdf >= lower) & (ecdf <= upper)))


def figures(kept: dict, seconds: float) -> dict:
    """What the ranks say."""
    count, parameters = len(next(iter(kept.values()))["ranks"]), {}
    for name, of in kept.items():
        rank = np.array(of["ranks"])
        bins = int(np.clip(count // 20, 4, 20))
        parameters[name] = {
            "inside_band": inside(rank, 0.95),
            "inside_joint_band": inside(rank, 1.0 - 0.05 / len(kept)),
            "p": float(chisquare(np.histogram(rank, bins, (0.0, 1.0))[0]).pvalue),
            "mean_rank_sigma": float((rank.mean() - 0.5) * np.sqrt(12.0 * count)),
            "coverage68": of["held68"] / count,
            "coverage95": of["held95"] / count,
            **of,
        }
    inner = {"68": 0.6827, "95": 0.9545}
    each = list(parameters.values())
    return {
        "simulations": count,
        "inside_band": all(p["inside_band"] for p in each),
        # 95 % for all parameters together: of four bands of 95 % one is left by chance in up to 19 % of the cases
        "inside_joint_band": all(p["inside_joint_band"] for p in each),
        "min_p": min(p["p"] for p in each),
        **{f"coverage{name}": float(np.mean([p[f"coverage{name}"] for p in each])) for name in inner},
        # two-sided, 99 %, for each parameter
        "coverage_within_binomial": all(
            binom.ppf(0.005, count, level) <= p[f"held{name}"] <= binom.ppf(0.995, count, level)
            for p in each
            for name, level in inner.items()
        ),
        "seconds": seconds,
        "parameters": parameters,
    }


@rc_context(BOXED)
def plot(methods: dict, most: int = 6):
    """Distribution of the ranks minus the uniform one, with the band; `most` parameters of a method in a row."""
    from matplotlib.figure import Figure

    lines = [
        [(f"{method}: {name}", of) for name, of in list(found["parameters"].items())[first : first + most]]
        for method, found in methods.items()
        for first in range(0, len(found["parameters"]), most)
    ]
    columns = max(map(len, lines))
    figure = Figure(figsize=(3.2 * columns, 2.4 * len(lines) + 0.4), layout="constrained")
    panels = figure.subplots(len(lines), columns, squeeze=False, sharey="row")
    for row, line in zip(panels, lines, strict=True):
        for axes, (title, parameter) in zip(row, line, strict=False):
            x, ecdf, lower, upper = ecdf_pit(np.array(parameter["ranks"]), 0.95, 2000)
            axes.fill_between(x, lower - x, upper - x, color="0.85", lw=0, step="mid")
            axes.step(x, ecdf - x, where="mid", color=COLOURS[1], lw=1.2)
            axes.axhline(0.0, color="0.4", lw=0.6)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("rank of the truth")
        for axes in row[len(line) :]:
            axes.set_visible(False)
        row[0].set_ylabel("ECDF - uniform")
    return figure


def main():
    """Calibrate the methods that are asked for, from where earlier runs ended: their simulations are in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--simulations", type=int, default=1000, help="of nuts; a fifth of it for the others")
    parser.add_argument("--first", type=int, default=0, help="seed of the first simulation: others than the file has")
    parser.add_argument("--closure", type=int, default=0, help="fits of a million events instead")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of each method at most")
    options = parser.parse_args()
    label = f"calibration-from-{options.first}" if options.first else "calibration"
    path = RESULTS / f"{label}-{jax.devices()[0].platform}.json"
    methods = json.loads(path.read_text())["methods"] if path.exists() else {}
    observed = observation()
    engine = prepared(observed)
    if options.closure:
        report("calibration-closure", closure(range(options.first, options.first + options.closure), observed, engine))
        return
    for name in options.methods:
        method, settings = METHODS[name]
        wanted = options.simulations if name == "nuts" else options.simulations // 5
        before = methods.get(name, {"parameters": {}, "seconds": 0.0, "simulations": 0})
        kept = {p: {k: of[k] for k in ("ranks", "held68", "held95")} for p, of in before["parameters"].items()}
        started, spent = time.perf_counter(), 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # few draws
            for seed in range(before["simulations"], wanted):
                add(kept, one(options.first + seed, observed, engine, method, settings))
                spent = time.perf_counter() - started
                if seed % 20 == 19:
                    print(f"{name}: {seed + 1} of {wanted}, {spent:.0f} s", flush=True)
                if spent > 60.0 * options.minutes:
                    break
        methods[name] = figures(kept, before["seconds"] + spent)
        print(name, {k: v for k, v in methods[name].items() if k != "parameters"}, flush=True)
        report(label, {"events": EVENTS, "methods": methods})
        plot(methods).savefig(RESULTS / f"{label}.png", dpi=120)


if __name__ == "__main__":
    main()
