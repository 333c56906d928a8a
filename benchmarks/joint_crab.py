"""Joint Crab: the spectrum of the Crab Nebula from five instruments, alone, together, and with free energy scales.

The data and published results of Nigro et al. 2019, "Towards open and reproducible multi-instrument analysis in
gamma-ray astronomy" (doi:10.1051/0004-6361/201834938): log-parabola at 1 TeV, ON radii 0.3, 0.141, 0.1, 0.1732 and
0.11 deg and energies of 0.03 to 2 (Fermi-LAT), 0.08 to 30 (MAGIC), 0.15 to 30 (VERITAS), 0.4 to 30 (FACT) and 0.66 to
30 TeV (H.E.S.S.). `--data` is the folder with its `results`, by default `joint-crab` beside `$GAMMAPY_DATA`.

Cases from the OGIP spectra: each instrument, `joint`, and `joint_scales` with energy scales z under Gaussian priors of
0.05 (Fermi-LAT) and 0.15 (others). Values and errors are those of the maximum of the likelihood times priors, as those
published. `joint_scales_nuts` are means and standard deviations of its posterior. Contours are drawn beside the
published covariances in `docs/images/joint-crab.png`.

Cases from the events: `joint_unbinned` has the ON and OFF events of MAGIC, VERITAS, FACT and H.E.S.S. one by one, each
with a free background (58 parameters with the energy scales), and the spectrum of Fermi-LAT, whose events have no ON
and OFF regions. `joint_all` has the events of H.E.S.S. in three dimensions instead, with the position of the source and
the norm and tilt of the background of each run free. Both by NUTS. `evidence`: ln Z with energy scales free and
without them, by nested sampling of cells of the ON and OFF counts, whose backgrounds are integrated in closed form;
and the same difference from the density of the scales at zero in the posterior of `joint_unbinned` (Savage and Dickey).
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import jax
import numpy as np
import numpyro.distributions as dist
from matplotlib import rc_context

import gammajax as gj
from benchmarks.report import RESULTS, report
from gammajax.plots.style import BOXED, COLOURS

CRAB = 83.63, 22.01
WIDTHS = {"fermi": 0.05, "magic": 0.15, "veritas": 0.15, "fact": 0.15, "hess": 0.15}  # of the priors of z
RANGES = {
    "fermi": (0.03, 2.0),
    "magic": (0.08, 30.0),
    "veritas": (0.15, 30.0),
    "fact": (0.4, 30.0),
    "hess": (0.66, 30.0),
}
SPECTRAL = {"amplitude": dist.Uniform(0.5, 12.0), "alpha": dist.Uniform(1.0, 5.0), "beta": dist.Uniform(-2.0, 4.0)}
UNIT = 1e-11  # TeV^-1 cm^-2 s^-1, of amplitudes
EVENTS = {
    "magic": None,
    "veritas": None,
    "fact": None,
    "hess": 0.11,
}  # radius of the ON region [deg]; cuts of the files
HESS_RUNS = [23523, 23526, 23559, 23592]
CELLS = 10  # per decade
SAMPLED = ["joint_scales_nuts", "joint_unbinned", "joint_all", "evidence"]
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "joint-crab.png"
DRAWS = 2000
EVENT_DRAWS = {"joint_unbinned": 500, "joint_all": 1000}  # of each chain
LABELS = {
    "fermi": "Fermi-LAT",
    "magic": "MAGIC",
    "veritas": "VERITAS",
    "fact": "FACT",
    "hess": "H.E.S.S.",
    "joint": "joint",
    "joint_scales": "joint, scales free",
    "joint_unbinned": "joint, scales free, from events",
    "joint_all": "the same, H.E.S.S. in three dimensions",
}


def spectrum(p):
    """Log-parabola at 1 TeV. The published beta is that of the common logarithm of the energy."""
    return gj.LogParabola(p["alpha"], p["beta"] / np.log(10.0), p["amplitude"] * UNIT, 1.0)


def model(p):
    """One source for all instruments."""
    return gj.Mixture(crab=gj.Source(spectrum(p), gj.Point(*CRAB)))


def scaled(p):
    """The same source, as each instrument reports it."""
    reported = {name: gj.RescaledSpectrum(spectrum(p), p[f"z_{name}"]) for name in WIDTHS}
    return gj.Mixture(**{name: gj.Source(reported[name], gj.Point(*CRAB)) for name in WIDTHS})


def ogip(folder, instrument, components=None):
    """Spectra of one instrument."""
    paths = sorted((folder / "results" / "spectra" / instrument).glob("pha*"))
    return gj.io.from_gammapy_datasets(paths, components=components, energy_range=RANGES[instrument])


def on_off(folder, name, **options):
    """ON and OFF runs of one instrument."""
    path = Path(os.environ["GAMMAPY_DATA"]) / "hess-dl3-dr1" if name == "hess" else folder / "data" / name
    ids = HESS_RUNS if name == "hess" else None
    return gj.io.read_on_off(
        path, ids, target=CRAB, radius=EVENTS[name], energy_range=RANGES[name], warn=False, **options
    )


def unbinned(folder, regions=tuple(EVENTS)) -> tuple:
    """Model, priors and data of the events of `regions`, and the spectrum of Fermi-LAT, with energy scales free."""
    terms = {name: gj.OnOff(on_off(folder, name), components=[name, f"off_{name}"], name=name) for name in regions}
    ranges = {name: term.energy_range for name, term in terms.items()}

    def of(p):
        backgrounds = {f"off_{name}": gj.OffBackground(p[f"b_{name}"], *ranges[name]) for name in regions}
        return gj.Mixture(**scaled(p).components, **backgrounds)

    smooth = {f"b_{name}": terms[name].background_prior() for name in regions}
    return of, {**SPECTRAL, **scales(), **smooth}, [*ogip(folder, "fermi", "fermi"), *terms.values()]


def everything(folder) -> tuple:
    """As `unbinned`, with the events of H.E.S.S. in three dimensions."""
    of_regions, priors, data = unbinned(folder, [name for name in EVENTS if name != "hess"])
    store = Path(os.environ["GAMMAPY_DATA"]) / "hess-dl3-dr1"
    observations, events = reversed(gj.io.read_gadf(store, HESS_RUNS, energy_range=RANGES["hess"], warn=False))

    def of(p):
        parts = dict(of_regions(p).components)
        parts["hess"] = gj.Source(parts["hess"].spectrum, gj.Point(p["lon"], p["lat"]))
        return gj.Mixture(**parts, sky=gj.InstrumentBackground(p["norm"], p["tilt"]))

    runs = (len(HESS_RUNS),)
    more = {
        "lon": dist.Normal(CRAB[0], 0.02),
        "lat": dist.Normal(CRAB[1], 0.02),
        "norm": dist.LogNormal(0.0, 0.3).expand(runs).to_event(1),
        "tilt": dist.Normal(0.0, 0.2).expand(runs).to_event(1),
    }
    three = gj.Unbinned(observations, events, components=["hess", "sky"], name="hess")
    return of, {**priors, **more}, [*data, three]


def cells(folder, free: bool) -> tuple:
    """As `unbinned`, by counts in cells of energy, with energy scales free or zero."""

    def counts(name):
        low, high = RANGES[name]
        edges = np.geomspace(low, high, round(CELLS * np.log10(high / low)) + 1)
        return gj.OnOffCounts(on_off(folder, name), edges, components=name, name=name)

    def of(p):
        return scaled(p if free else {**p, **{f"z_{name}": 0.0 for name in WIDTHS}})

    data = [*ogip(folder, "fermi", "fermi"), *(counts(name) for name in EVENTS)]
    return of, {**SPECTRAL, **(scales() if free else {})}, data


def scales() -> dict:
    """Priors of the energy scales."""
    return {f"z_{name}": dist.Normal(0.0, width) for name, width in WIDTHS.items()}


def cases(folder) -> dict:
    """Model, priors and data of each case from spectra, as functions: data are read when the case starts."""
    alone = {name: (model, SPECTRAL, lambda name=name: ogip(folder, name)) for name in WIDTHS}
    return {
        **alone,
        "joint": (model, SPECTRAL, lambda: [data for name in WIDTHS for data in ogip(folder, name)]),
        "joint_scales": (
            scaled,
            {**SPECTRAL, **scales()},
            lambda: [data for name in WIDTHS for data in ogip(folder, name, name)],
        ),
    }


def published(folder, case) -> tuple[dict, np.ndarray]:
    """Values and errors by name, and covariance in their order, amplitudes in `UNIT`."""
    from ruamel.yaml import YAML

    name = {"joint_scales": "joint_systematics"}.get(case, case)
    fit = YAML(typ="safe").load(folder / "results" / "fit" / f"fit_{name}.yaml")
    free = [i for i, parameter in enumerate(fit["parameters"]) if not parameter["frozen"]]
    names = [fit["parameters"][i]["name"] for i in free]
    units = np.array([UNIT if name == "amplitude" else 1.0 for name in names])
    covariance = np.array(fit["covariance"], float)[np.ix_(free, free)] / np.outer(units, units)
    values = {
        name: [fit["parameters"][i]["value"] / unit, fit["parameters"][i]["error"] / unit]
        for i, name, unit in zip(free, names, units, strict=True)
    }
    return values, covariance


def in_units(values: dict) -> dict:
    """Amplitudes in TeV^-1 cm^-2 s^-1."""
    return {name: [n * (UNIT if name == "amplitude" else 1.0) for n in pair] for name, pair in values.items()}


def memory() -> float:
    """Largest memory of this process so far [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def run(folder, case) -> tuple[dict, np.ndarray, gj.Posterior]:
    """Values with errors, and covariance in the order of the published one; and the posterior."""
    made, priors, read = cases(folder)[case]
    started = time.perf_counter()
    posterior = gj.Posterior(made, priors, read())
    best = gj.fit(posterior)
    seconds = time.perf_counter() - started
    values = {name: [float(best.parameters[name]), float(best.standard_deviations[name])] for name in priors}
    expected, _ = published(folder, case)
    order = [best.names.index(name) for name in expected]
    off = {name: [(values[name][i] - expected[name][i]) / expected[name][1] for i in (0, 1)] for name in expected}
    entry = {**in_units(values), "seconds": seconds, "memory_MB": memory()}
    entry |= {"published": in_units(expected), "off_in_published_errors": off}
    return entry, best.covariance[np.ix_(order, order)], posterior


def by_nuts(posterior, draws=DRAWS) -> tuple[dict, gj.Result]:
    """Means and standard deviations of a posterior, and its samples."""
    started = time.perf_counter()
    result = gj.nuts(jax.random.key(0), posterior, draws=draws)
    values = {name: [float(np.mean(s)), float(np.std(s))] for name, s in result.samples.items() if s.ndim == 1}
    return {**in_units(values), "seconds": time.perf_counter() - started, "memory_MB": memory()}, result


def from_events(folder, made, draws) -> tuple[dict, gj.Result]:
    """Means and standard deviations of a case from events, with the seconds from files to samples."""
    started = time.perf_counter()
    posterior = gj.Posterior(*made(folder))
    setup = time.perf_counter() - started
    entry, result = by_nuts(posterior, draws)
    entry |= {"setup_seconds": setup, "seconds": setup + entry["seconds"]}
    entry["parameters"] = sum(int(np.prod(s.shape[1:])) for s in result.samples.values())
    entry["largest_r_hat"] = max(float(np.max(r_hat)) for r_hat in result.diagnostics()[1].values())
    return entry, result


def density_at_zero(samples) -> float:
    """Logarithm of the posterior density of all scales at zero over that of their prior: ln Z(zero) - ln Z(free).

    By the Gaussian of the samples; of a posterior that is one it is exact.
    """
    from scipy.stats import multivariate_normal

    z = np.stack([np.ravel(samples[f"z_{name}"]) for name in WIDTHS], 1)
    at_zero = multivariate_normal(z.mean(0), np.cov(z.T)).logpdf(np.zeros(len(WIDTHS)))
    return float(
        at_zero
        - multivariate_normal(np.zeros(len(WIDTHS)), np.diag(np.square(list(WIDTHS.values())))).logpdf(
            np.zeros(len(WIDTHS))
        )
    )


def evidence(folder) -> dict:
    """Evidence of cells with free scales and without them, and their values."""
    found = {}
    for free in (False, True):
        started = time.perf_counter()
        result = gj.nested(jax.random.key(1), gj.Posterior(*cells(folder, free)))
        values = {name: [float(np.mean(s)), float(np.std(s))] for name, s in result.samples.items()}
        found["free" if free else "zero"] = {
            "log_evidence": result.log_evidence,
            **in_units(values),
            "seconds": time.perf_counter() - started,
        }
    return found


@rc_context(BOXED)
def draw(contours: dict) -> None:
    """Ellipses of 68 % of two parameters each, ours filled, the published ones dashed; below, the joint ones alone."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    pairs = [("alpha", "amplitude"), ("alpha", "beta"), ("beta", "amplitude")]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(LABELS)}
    hatches = {name: "" if i < len(COLOURS) else "///" for i, name in enumerate(LABELS)}  # more cases than colours
    cases = [name for name in LABELS if name in contours]
    rows = cases, [name for name in cases if name not in WIDTHS]
    figure = Figure(figsize=(12.0, 8.4), layout="constrained")
    for line, names in zip(figure.subplots(2, 3), rows, strict=True):
        for axes, pair in zip(line, pairs, strict=True):
            for name in names:
                for key in (name, f"{name} published"):
                    if key not in contours:
                        continue
                    ellipse, ours = ellipse_of(contours[key], pair), key == name
                    ellipse.set(
                        fc=colours[name] if ours else "none",
                        ec=colours[name],
                        alpha=0.35 if ours else 1.0,
                        hatch=hatches[name] if ours else "",
                        ls="-" if ours else "--",
                        lw=1.5,
                    )
                    axes.add_patch(ellipse)
            axes.autoscale_view()
            labels = [
                "amplitude [1e-11 TeV$^{-1}$ cm$^{-2}$ s$^{-1}$]" if part == "amplitude" else part for part in pair
            ]
            axes.set(xlabel=labels[0], ylabel=labels[1])
    handles: list = [Patch(fc=colours[n], alpha=0.5, hatch=hatches[n], label=LABELS[n]) for n in cases]
    handles.append(Line2D([], [], color="0.3", ls="--", label="published"))
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=4)
    figure.savefig(FIGURE, dpi=110)


def ellipse_of(contour, pair):
    """Ellipse of 68 % of the Gaussian of two parameters; a contour has values by name, and their covariance."""
    from matplotlib.patches import Ellipse

    values, covariance = contour
    at = [list(values).index(name) for name in pair]
    sizes, axes = np.linalg.eigh(np.array(covariance)[np.ix_(at, at)])
    width, height = 2.0 * np.sqrt(2.279 * sizes)  # -2 ln 0.32
    x, y = (values[name][0] / (UNIT if name == "amplitude" else 1.0) for name in pair)
    return Ellipse((x, y), width, height, angle=np.degrees(np.arctan2(axes[1, 0], axes[0, 0])))


def main():
    """Run all cases and report them beside the published values."""
    parser = argparse.ArgumentParser(description=__doc__)
    beside = Path(os.environ.get("GAMMAPY_DATA", ".")).parent / "joint-crab"
    parser.add_argument("--data", type=Path, default=beside, help="folder of the joint-crab material")
    parser.add_argument(
        "--sampled",
        nargs="*",
        choices=SAMPLED,
        default=SAMPLED,
        help="cases by samplers; others stay as they were",
    )
    options = parser.parse_args()
    if not (options.data / "results").is_dir():
        print(f"no joint-crab material in {options.data}: see the docstring")
        return
    path, contours = RESULTS / "joint_crab-cpu.json", {}
    figures = json.loads(path.read_text())["cases"] if path.exists() else {}
    for case in cases(options.data):
        figures[case], covariance, posterior = run(options.data, case)
        expected, their = published(options.data, case)
        contours[case] = {name: figures[case][name] for name in expected}, covariance
        contours[f"{case} published"] = in_units(expected), their
        off = {
            name: f"{pair[0]:+.2f} {pair[1]:+.2f}" for name, pair in figures[case]["off_in_published_errors"].items()
        }
        print(
            f"{case}: {figures[case]['seconds']:.1f} s, value and error off by (in published errors) {off}", flush=True
        )
        if case == "joint_scales":
            correlation = [c / np.sqrt(np.outer(np.diag(c), np.diag(c))) for c in (covariance, their)]
            figures[case]["covariance"] = covariance.tolist()
            figures[case]["largest_difference_of_correlations"] = float(np.abs(correlation[0] - correlation[1]).max())
            if "joint_scales_nuts" in options.sampled:
                figures["joint_scales_nuts"], _ = by_nuts(posterior)
                print(figures["joint_scales_nuts"], flush=True)
    for case, made in {"joint_unbinned": unbinned, "joint_all": everything}.items():
        if case not in options.sampled:
            continue
        figures[case], result = from_events(options.data, made, EVENT_DRAWS[case])
        print(case, figures[case], flush=True)
        draws = np.stack([np.ravel(result.samples[name]) for name in SPECTRAL])
        figures[case]["covariance"] = np.cov(draws).tolist()  # amplitudes in `UNIT`, as that of the scales
        if case == "joint_unbinned":
            figures[case]["ln_zero_over_free_by_density"] = density_at_zero(result.samples)
        report("joint_crab", {"cases": figures})  # the next one takes long
    if "evidence" in options.sampled:
        figures["evidence"] = evidence(options.data)
        print(figures["evidence"], flush=True)
    for case in EVENT_DRAWS:
        if case in figures:
            contours[case] = {name: figures[case][name] for name in SPECTRAL}, figures[case]["covariance"]
    draw(contours)
    report("joint_crab", {"cases": figures})


if __name__ == "__main__":
    main()
