"""Joint Crab: the spectrum of the Crab Nebula from five instruments, alone, together, and with free energy scales.

The data and published results of Nigro et al. 2019, "Towards open and reproducible multi-instrument analysis in
gamma-ray astronomy" (doi:10.1051/0004-6361/201834938): log-parabola at 1 TeV, ON radii 0.3, 0.141, 0.1, 0.1732 and
0.11 deg and energies of 0.03 to 2 (Fermi-LAT), 0.08 to 30 (MAGIC), 0.15 to 30 (VERITAS), 0.4 to 30 (FACT) and 0.66 to
30 TeV (H.E.S.S.). `--data` is the folder with its `results`, by default `joint-crab` beside `$GAMMAPY_DATA`.

Cases from the OGIP spectra: each instrument, `joint`, and `joint_scales` with energy scales z under Gaussian priors of
0.05 (Fermi-LAT) and 0.15 (others). Values and errors are those of the maximum of the likelihood times priors, as those
published. `joint_scales_nuts` are means and standard deviations of its posterior. Contours are drawn beside the
published covariances in `docs/images/joint-crab.png`.
"""

import argparse
import os
import resource
import time
from pathlib import Path

import jax
import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from benchmarks.report import report

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
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "joint-crab.png"
DRAWS = 2000


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


def cases(folder) -> dict:
    """Model, priors and data of each case, as functions: data are read when the case starts.

    Further cases from events (`joint_unbinned`, `joint_all`) are further rows.
    """
    scales = {f"z_{name}": dist.Normal(0.0, width) for name, width in WIDTHS.items()}
    alone = {name: (model, SPECTRAL, lambda name=name: ogip(folder, name)) for name in WIDTHS}
    return {
        **alone,
        "joint": (model, SPECTRAL, lambda: [data for name in WIDTHS for data in ogip(folder, name)]),
        "joint_scales": (
            scaled,
            {**SPECTRAL, **scales},
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


def by_nuts(posterior) -> dict:
    """Means and standard deviations of a posterior."""
    started = time.perf_counter()
    result = gj.nuts(jax.random.key(0), posterior, draws=DRAWS)
    values = {name: [float(np.mean(s)), float(np.std(s))] for name, s in result.samples.items()}
    return {**in_units(values), "seconds": time.perf_counter() - started, "memory_MB": memory()}


def draw(contours: dict) -> None:
    """Ellipses of 68 % of two parameters each, ours filled, the published ones dashed."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Ellipse

    pairs = [("alpha", "amplitude"), ("alpha", "beta"), ("beta", "amplitude")]
    figure = Figure(figsize=(13.0, 4.4), layout="constrained")
    for axes, pair in zip(figure.subplots(1, 3), pairs, strict=True):
        for i, (values, covariance, expected, their) in enumerate(contours.values()):
            names, colour = list(expected), f"C{i}"
            at = [names.index(name) for name in pair]
            for where, matrix, style in ((values, covariance, "-"), (expected, their, "--")):
                sizes, axes_of = np.linalg.eigh(matrix[np.ix_(at, at)])
                width, height = 2.0 * np.sqrt(2.279 * sizes)  # -2 ln 0.32
                angle = np.degrees(np.arctan2(axes_of[1, 0], axes_of[0, 0]))
                ours = style == "-"
                ellipse = Ellipse(
                    [where[name][0] for name in pair],
                    width,
                    height,
                    angle=angle,
                    fc=colour if ours else "none",
                    ec=colour,
                    alpha=0.35 if ours else 1.0,
                    ls=style,
                    lw=1.5,
                )
                axes.add_patch(ellipse)
        axes.autoscale_view()
        axes.set(
            **{
                f"{side}label": f"{name} [1e-11 TeV$^{{-1}}$ cm$^{{-2}}$ s$^{{-1}}$]" if name == "amplitude" else name
                for side, name in zip("xy", pair, strict=True)
            }
        )
    handles = [Line2D([], [], color=f"C{i}", lw=6, alpha=0.5, label=name) for i, name in enumerate(contours)]
    handles.append(Line2D([], [], color="0.3", ls="--", label="published"))
    figure.axes[0].legend(handles=handles, frameon=False, fontsize=8)
    figure.savefig(FIGURE, dpi=110)


def main():
    """Run all cases and report them beside the published values."""
    parser = argparse.ArgumentParser(description=__doc__)
    beside = Path(os.environ.get("GAMMAPY_DATA", ".")).parent / "joint-crab"
    parser.add_argument("--data", type=Path, default=beside, help="folder of the joint-crab material")
    parser.add_argument("--no-nuts", action="store_true", help="leave out the posterior with free scales")
    options = parser.parse_args()
    if not (options.data / "results").is_dir():
        print(f"no joint-crab material in {options.data}: see the docstring")
        return
    figures, contours = {}, {}
    for case in cases(options.data):
        figures[case], covariance, posterior = run(options.data, case)
        expected, their = published(options.data, case)
        values = {name: [figures[case][name][0] / (UNIT if name == "amplitude" else 1.0)] for name in expected}
        contours[case] = values, covariance, expected, their
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
            if not options.no_nuts:
                figures["joint_scales_nuts"] = by_nuts(posterior)
                print(figures["joint_scales_nuts"], flush=True)
    draw(contours)
    report("joint_crab", {"cases": figures})


if __name__ == "__main__":
    main()
