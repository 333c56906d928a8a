"""TS map about the Crab Nebula in four H.E.S.S. runs, beside gammapy's `TSMapEstimator` on the same events.

A point with a power law of index 2 at every pixel, above a background of one norm, which is fitted with the nebula in
the model. gammapy has the same background in one stacked data set, with 10 bins of energy per decade.

`seconds`: the second call, after compilation; `first_s`: the first, with tables and compilation in both. gammapy's are
those of the estimator alone, without the maps of the data set (`gammapy_data_s`). `off`: relative differences of
sqrt(TS) where gammapy's is above 5, and of other quantities there. Figure: `benchmarks/results/ts-map.png`. Last line:
JSON.
"""

import argparse
import os
import time
from pathlib import Path

import equinox as eqx
import numpy as np
import numpyro.distributions as dist
from matplotlib import rc_context

import gammajax as gj
from benchmarks.report import RESULTS, report
from gammajax.plots.style import BOXED, COLOURS

RUNS = [23523, 23526, 23559, 23592]
CRAB = 83.6333, 22.0145
# above the safe energies of all runs, which `read_gadf` applies
OFFSET, ENERGIES = 2.0, (0.9, 30.0)
SIGNIFICANT = 5.0


def crab(p):
    """The nebula, whose fit gives the norm of the background."""
    spectrum = gj.PowerLaw(p["index"], 1e-11 * p["amplitude"])
    return gj.Mixture(crab=gj.Source(spectrum, gj.Point(*CRAB)), background=gj.InstrumentBackground(p["norm"]))


def background(p):
    """The background alone."""
    return gj.Mixture(background=gj.InstrumentBackground(p["norm"]))


def gammapy_maps(store, pixels, step, norm):
    """Maps of gammapy by name, and seconds of the data set and of the estimator."""
    import astropy.units as u
    from gammapy.data import DataStore
    from gammapy.datasets import MapDataset
    from gammapy.estimators import TSMapEstimator
    from gammapy.makers import MapDatasetMaker, SafeMaskMaker
    from gammapy.maps import MapAxis, WcsGeom
    from gammapy.modeling import models as gp

    started = time.perf_counter()
    axis = MapAxis.from_energy_bounds(*ENERGIES, 10, unit="TeV", per_decade=True)
    axis_true = MapAxis.from_energy_bounds(0.3, 100.0, 20, unit="TeV", per_decade=True, name="energy_true")
    geom = WcsGeom.create(skydir=CRAB, binsz=step, npix=(pixels, pixels), proj="TAN", frame="icrs", axes=[axis])
    stacked = MapDataset.create(geom, energy_axis_true=axis_true, name="stacked")
    maker, mask = MapDatasetMaker(), SafeMaskMaker(methods=["offset-max"], offset_max=OFFSET * u.deg)
    for observation in DataStore.from_dir(store).get_observations(RUNS):
        dataset = maker.run(
            stacked.cutout(observation.get_pointing_icrs(observation.tmid), width="4.2 deg"), observation
        )
        stacked.stack(mask.run(dataset, observation))
    model = gp.FoVBackgroundModel(dataset_name="stacked")
    model.spectral_model.norm.value = norm
    stacked.models = [model]
    prepared = time.perf_counter()
    source = gp.SkyModel(gp.PowerLawSpectralModel(index=2.0), gp.PointSpatialModel(frame="icrs"))
    estimator = TSMapEstimator(source, kernel_width=1.3 * u.deg, n_sigma_ul=2, selection_optional=["ul"])
    found = estimator.run(stacked)
    seconds = prepared - started, time.perf_counter() - prepared
    names = ("sqrt_ts", "flux", "flux_err", "flux_ul")
    return {name: np.squeeze(getattr(found, name).data) for name in names}, seconds


@rc_context(BOXED)
def draw(ours, theirs, path):
    """Both maps, and one against the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15.0, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    ours.plot(left).set_title("gammajax, events")
    other = eqx.tree_at(lambda m: (m.ts, m.flux), ours, (theirs["sqrt_ts"] ** 2, theirs["flux"]))
    other.plot(middle).set_title("gammapy, bins")
    known = np.isfinite(theirs["sqrt_ts"]) & np.isfinite(ours.ts)
    right.plot(theirs["sqrt_ts"][known], ours.sqrt_ts[known], ".", ms=1.5, color=COLOURS[1], rasterized=True)
    ends = np.array([-5.0, 1.05 * np.nanmax(ours.sqrt_ts)])
    right.plot(ends, ends, color=COLOURS[0], lw=1.0)
    right.set(xlabel=r"$\sqrt{\mathrm{TS}}$, gammapy", ylabel=r"$\sqrt{\mathrm{TS}}$, gammajax")
    figure.savefig(path, dpi=140)


def main() -> None:
    """Make both maps, compare and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path(os.environ.get("GAMMAPY_DATA", "")) / "hess-dl3-dr1")
    parser.add_argument("--pixels", type=int, default=200)
    parser.add_argument("--step", type=float, default=0.02)
    parser.add_argument("--without-gammapy", action="store_true")
    options = parser.parse_args()
    data = gj.io.read_gadf(options.store, obs_ids=RUNS, offset_max=OFFSET, energy_range=ENERGIES, warn=False)
    priors = {"norm": dist.Uniform(0.2, 5.0)}
    more = {"index": dist.Uniform(1.0, 4.0), "amplitude": dist.Uniform(0.1, 20.0)}
    best = gj.fit(gj.Posterior(crab, {**priors, **more}, data, progress=False), progress=False)
    posterior = gj.Posterior(background, priors, data, progress=False)
    norm = float(best.parameters["norm"])
    arguments = {"center": CRAB, "width": options.pixels * options.step, "step": options.step, "best": {"norm": norm}}
    figures: dict = {"events": posterior.total, "runs": len(RUNS), "pixels": options.pixels**2, "norm": norm}
    for name in ("first_s", "seconds"):
        started = time.perf_counter()
        found = gj.ts_map(posterior, **arguments, progress=False)
        figures[name] = time.perf_counter() - started
    print(found, figures, flush=True)
    figures["peak"] = found.peaks().iloc[0].to_dict()
    if not options.without_gammapy:
        theirs, (figures["gammapy_data_s"], figures["gammapy_s"]) = gammapy_maps(
            options.store, options.pixels, options.step, norm
        )
        figures["part_of_gammapy"] = figures["seconds"] / figures["gammapy_s"]
        some = (theirs["sqrt_ts"] > SIGNIFICANT) & np.isfinite(found.ts)
        figures["significant"] = int(some.sum())
        off = {"sqrt_ts": found.sqrt_ts, "flux": found.flux, "flux_err": found.flux_err, "flux_ul": found.flux_ul}
        for name, values in off.items():
            ratio = values[some] / theirs[name][some] - 1.0
            figures[f"off_{name}"] = {
                "median": float(np.median(ratio)),
                "median_size": float(np.median(np.abs(ratio))),
                "largest": float(np.abs(ratio).max()),
            }
        figures["within_5_percent"] = float(np.mean(np.abs(found.sqrt_ts[some] / theirs["sqrt_ts"][some] - 1) < 0.05))
        known = np.isfinite(theirs["sqrt_ts"]) & np.isfinite(found.ts)
        figures["rms_difference_elsewhere"] = float(
            np.std((found.sqrt_ts - theirs["sqrt_ts"])[known & (np.abs(theirs["sqrt_ts"]) < SIGNIFICANT)])
        )
        draw(found, theirs, RESULTS / "ts-map.png")
    report("ts-map", figures)


if __name__ == "__main__":
    main()
