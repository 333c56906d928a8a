"""Events of another simulator, fitted by gammajax and compared with its own: `benchmarks.outside_numpy`.

Pulls of fits to the outside events, as single events and in cells, and two-sample tests against `gj.simulate`:
Kolmogorov-Smirnov of each variable, chi2 of histograms in two of them, by component.
"""

import argparse
import time

import jax
import numpy as np
import numpyro.distributions as dist
from matplotlib import rc_context
from scipy.stats import chi2, ks_2samp

import gammajax as gj
from benchmarks import outside_numpy as outside
from benchmarks.report import RESULTS, report
from gammajax.plots.style import BOXED, COLOURS

TRUTH = {"mass": outside.MASS, "fraction": outside.FRACTION}
PRIORS = {"mass": dist.LogUniform(0.5, 50.0), "fraction": dist.Uniform(0.0, 1.0)}
CELLS = {"energy_per_decade": 40, "pixel": 0.1}
WIDE = {"energy_per_decade": 20, "pixel": 0.2}  # for more events than memory holds
PART = 2_000_000  # events in memory with all their columns
COMPONENTS = ("signal", "background")
FIGURE = {"energy": "energy [TeV]", "offset": "offset [deg]"}


def model(p):
    """The model of `gammajax run galactic-centre`."""
    return gj.Mixture(
        signal=gj.Source(gj.DarkMatter(channel=outside.CHANNEL, mass=p["mass"]), gj.Einasto()),
        background=gj.InstrumentBackground(),
        weights={"signal": p["fraction"]},
    )


def observations():
    """Its pointings."""
    settings = {"frame": "galactic", "livetime": 13000.0, "energy_range": outside.ENERGY, "offset_max": outside.OFFSET}
    return [gj.io.ctao("South", pointing=place, obs_id=str(i), **settings) for i, place in enumerate(outside.POINTINGS)]


def sources_of(response) -> dict:
    """The outside simulators of the components."""
    return {"signal": outside.DarkMatterSource(response), "background": outside.BackgroundSource(response)}


def drawn_outside(seed: int, numbers: dict[str, int]) -> dict[str, np.ndarray]:
    """Columns of the outside simulator by component."""
    sources, rng, found = sources_of(outside.telescope()), np.random.default_rng(seed), {}
    for name, number in numbers.items():
        found[name] = np.concatenate([sources[name].draw(rng, size) for size in outside.parts(number, PART)], axis=1)
        print(f"outside: {number} of {name}", flush=True)
    return found


def drawn_inside(seed: int, numbers: dict[str, int], observed) -> dict[str, np.ndarray]:
    """The same columns of `gj.simulate`."""
    found = {}
    for index, (name, number) in enumerate(numbers.items()):
        component, key = model(TRUTH).components[name], jax.random.fold_in(jax.random.key(seed), index)
        columns = []
        for part, size in enumerate(outside.parts(number, PART)):
            events = gj.simulate(jax.random.fold_in(key, part), component, observed, events=size)
            columns.append(np.stack([np.asarray(getattr(events, column), float) for column in outside.COLUMNS]))
        found[name] = np.concatenate(columns, axis=1)
        print(f"gammajax: {number} of {name}", flush=True)
    return found


def variables(name: str, columns: np.ndarray) -> dict[str, np.ndarray]:
    """What is compared: measured values, and for photons those that only a simulator knows."""
    energy, lon, lat, energy_true, lon_true, lat_true, observation = columns
    lon, lon_true = ((angle + 180.0) % 360.0 - 180.0 for angle in (lon, lon_true))
    pointing = np.array(outside.POINTINGS)[observation.astype(int)].T
    found = {"energy": energy, "offset": outside.separated(lon, lat, *pointing), "lon": lon, "lat": lat}
    if name == "signal":
        found |= {
            "from_centre": outside.separated(lon, lat, 0.0, 0.0),
            "energy_true": energy_true,
            "from_centre_true": outside.separated(lon_true, lat_true, 0.0, 0.0),
            "offset_true": outside.separated(lon_true, lat_true, *pointing),
            "displacement": outside.separated(lon, lat, lon_true, lat_true),
            "migra": energy / energy_true,
        }
    return found


def binned_p(one: np.ndarray, two: np.ndarray) -> dict:
    """chi2 of two histograms for equal distributions, over bins of twenty events and more."""
    used = one + two >= 20
    a, b = one[used].astype(float), two[used].astype(float)
    n, m = a.sum(), b.sum()
    value = ((a * np.sqrt(m / n) - b * np.sqrt(n / m)) ** 2 / (a + b)).sum()
    return {"p": float(chi2.sf(value, a.size - 1)), "chi2": float(value), "bins": int(a.size)}


def pulls_of_bins(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Relative differences of two histograms, and their errors."""
    n, m = one.sum(), two.sum()
    mean = (one + two) / (n + m)
    return np.stack([(one / n - two / m) / mean, np.sqrt((1.0 / n + 1.0 / m) / mean)])


def compared(name: str, one: np.ndarray, two: np.ndarray) -> tuple[dict, dict]:
    """p-values of a component, and what the figure draws."""
    first, second = variables(name, one), variables(name, two)
    tests, drawn = {}, {}
    for variable in first:
        test = ks_2samp(first[variable], second[variable], method="asymp")
        where = float(test.statistic_location)
        tests[variable] = {"p": float(test.pvalue), "largest_difference": float(test.statistic), "at": where}
    scale = {v: np.log if v == "energy" else (lambda x: x) for v in ("energy", "offset", "lon", "lat")}
    for x, y, bins in (("energy", "offset", (40, 30)), ("lon", "lat", (80, 80)), ("energy", "lon", (40, 40))):
        edges = [np.histogram_bin_edges(scale[v](first[v]), n) for v, n in zip((x, y), bins, strict=True)]
        # wider at both ends for the other list
        edges = [np.concatenate([[-np.inf], e[1:-1], [np.inf]]) for e in edges]
        counts = [np.histogram2d(scale[x](v[x]), scale[y](v[y]), edges)[0] for v in (first, second)]
        tests[f"{x} and {y}"] = binned_p(*counts)
    counts = [np.bincount(columns[-1].astype(int), minlength=len(outside.POINTINGS)) for columns in (one, two)]
    tests["observation"] = binned_p(*counts)
    for variable in FIGURE:
        edges = np.quantile(first[variable], np.linspace(0.0, 1.0, 41))
        edges[[0, -1]] = [0.0, np.inf]
        counts = [np.histogram(v[variable], edges)[0].astype(float) for v in (first, second)]
        drawn[variable] = (np.quantile(first[variable], np.arange(0.0125, 1.0, 0.025)), *pulls_of_bins(*counts))
    return tests, drawn


def fitted(observed, data) -> dict:
    """Fit of the outside events, and its pulls."""
    started = time.perf_counter()
    best = gj.fit(gj.Posterior(model, PRIORS, observed, data), initial=TRUTH)
    found = {"rows": len(data), "seconds": time.perf_counter() - started, "converged": bool(best.converged)}
    for name, truth in TRUTH.items():
        value, deviation = float(best.parameters[name]), float(best.standard_deviations[name])
        found[name] = {"value": value, "sd": deviation, "pull": (value - truth) / deviation}
    print(found, flush=True)
    return found


def in_cells(seed: int, events: int, binning: gj.Binning) -> gj.Cells:
    """Cells of outside events, a part of them in memory."""
    sources, rng, cells = sources_of(outside.telescope()), np.random.default_rng(seed), None
    for size in outside.parts(events, PART):
        signal = int(rng.binomial(size, outside.FRACTION))
        numbers = {"signal": signal, "background": size - signal}
        part = binning(events_of({name: sources[name].draw(rng, number) for name, number in numbers.items()}))
        cells = part if cells is None else cells + part
        print(f"outside: {cells.total:.3g} events in {len(cells)} cells", flush=True)
    assert cells is not None
    return cells


def events_of(columns: dict[str, np.ndarray]) -> gj.Events:
    """Events of all components, in random order."""
    table = np.concatenate([part[[0, 1, 2, 6]] for part in columns.values()], axis=1)
    table = table[:, np.random.default_rng(0).permutation(table.shape[1])]
    return gj.Events(*table[:3], table[3].astype(int))


@rc_context(BOXED)
def plot(drawn: dict):
    """Relative differences in energy and offset, by component."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    panels = figure.subplots(len(drawn), len(FIGURE), sharey="row")
    for line, (name, of) in zip(panels, drawn.items(), strict=True):
        for axes, (variable, label) in zip(line, FIGURE.items(), strict=True):
            x, difference, error = of[variable]
            axes.errorbar(x, 1e3 * difference, 1e3 * error, fmt="o", ms=3.0, lw=1.0, color=COLOURS[1])
            axes.axhline(0.0, color="0.4", lw=0.8)
            axes.set(title=name, xlabel=label)
            if variable == "energy":
                axes.set_xscale("log")
                axes.set_xticks([0.2, 0.5, 1.0, 2.0, 5.0], ["0.2", "0.5", "1", "2", "5"], minor=False)
                axes.xaxis.set_minor_formatter(NullFormatter())
        line[0].set_ylabel("outside / gammajax - 1 [$10^{-3}$]")
    return figure


def main():
    """Draw, compare, fit, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--signal", type=int, default=5_000_000, help="more photons of the signal alone, to compare")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--wide", action="store_true", help="only a fit in wide cells, for more events than memory holds"
    )
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    observed = observations()
    if options.wide:
        cells = in_cells(options.seed + 100, options.events, gj.Binning.init(observed, **WIDE))
        fits = {"cells": fitted(observed, cells)}
        report(
            f"outside-{options.events:.0e}".replace("+0", ""), {"events": options.events, "cells": WIDE, "fits": fits}
        )
        return
    signal = int(np.random.default_rng(1000 + options.seed).binomial(options.events, outside.FRACTION))
    numbers = {"signal": signal, "background": options.events - signal}
    found, other = drawn_outside(options.seed, numbers), drawn_inside(options.seed, numbers, observed)
    tests, drawn = {}, {}
    for name in COMPONENTS:
        tests[name], drawn[name] = compared(name, found[name], other.pop(name))
        print(name, {key: round(test["p"], 4) for key, test in tests[name].items()}, flush=True)
    events = events_of(found)
    del found
    cells = gj.Binning.init(observed, **CELLS)(events)
    fits = {"events": fitted(observed, events), "cells": fitted(observed, cells)}
    if options.signal:
        alone = {"signal": options.signal}
        pair = drawn_outside(options.seed + 500, alone), drawn_inside(options.seed + 500, alone, observed)
        tests["more signal"], drawn["signal"] = compared("signal", *(each["signal"] for each in pair))
        print("more signal", {key: round(test["p"], 4) for key, test in tests["more signal"].items()}, flush=True)
    every = [test["p"] for of in tests.values() for test in of.values()]
    pulls = [fit[name]["pull"] for fit in fits.values() for name in TRUTH]
    figures = {
        "events": options.events,
        "more_signal": options.signal,
        "truth": TRUTH,
        "cells": CELLS,
        "largest_pull": float(np.max(np.abs(pulls))),
        "tests": len(every),
        "smallest_p": float(np.min(every)),
        "fits": fits,
        "p_values": {
            test: {name: of[test]["p"] for name, of in tests.items() if test in of} for test in tests["signal"]
        },
        "details": [{"component": name, "test": test, **of[test]} for name, of in tests.items() for test in of],
    }
    report("outside", figures)
    plot(drawn).savefig(RESULTS / "outside.png", dpi=120)


if __name__ == "__main__":
    main()
