"""Light curve of RX J1713.7-3946 in 15 H.E.S.S. runs, beside gammapy's `LightCurveEstimator` on the same runs.

A supernova remnant is constant: the chi-square of a constant tests errors and covariance. The source is a Gaussian
with a power law at the values of the fit to all runs (`benchmarks.campaign`, case `fixed`), the background has a norm
and tilt for each run. gammapy has one dataset for each run with free norm and tilt, and refits them in each bin.

`off`: difference of the norms in units of gammapy's error. Seconds are those of the estimate alone, after the set-up
and the fit of all runs. Figure: `benchmarks/results/light-curve.png`. Last line: JSON.
"""

import argparse
import os
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from benchmarks.campaign import ENERGIES, OFFSET, SOURCE, TARGET, targets
from benchmarks.report import RESULTS, report

PIXEL = 0.05  # deg, of gammapy's maps


def model(p):
    """The remnant above backgrounds of their own."""
    spectrum = gj.PowerLaw(p["index"], 1e-11 * p["amplitude"], SOURCE["reference"])
    return gj.Mixture(
        source=gj.Source(spectrum, gj.Gaussian(SOURCE["lon"], SOURCE["lat"], SOURCE["size"])),
        background=gj.InstrumentBackground(norm=p["norm"], tilt=p["tilt"]),
    )


def gammapy_norms(store, obs_ids, observations, best):
    """Norms and errors of gammapy by run, relative to our fit, and seconds of fit and estimate."""
    import astropy.units as u
    from gammapy.estimators import LightCurveEstimator
    from gammapy.modeling import Fit
    from gammapy.modeling import models as gp

    from benchmarks.campaign import Problem
    from benchmarks.campaign_gammapy import datasets_of, stored

    runs = stored(store, obs_ids)
    place = (SOURCE["lon"], SOURCE["lat"], "gaussian", SOURCE["size"], SOURCE["reference"], PIXEL)
    datasets = datasets_of(Problem(*place, False, True, False, {}), runs, observations, False)
    spectrum = gp.PowerLawSpectralModel(
        index=float(best.parameters["index"]),
        amplitude=1e-11 * float(best.parameters["amplitude"]) * u.Unit("TeV-1 cm-2 s-1"),
        reference=SOURCE["reference"] * u.TeV,
    )
    shape = gp.GaussianSpatialModel(
        lon_0=SOURCE["lon"] * u.deg, lat_0=SOURCE["lat"] * u.deg, sigma=SOURCE["size"] * u.deg, frame="icrs"
    )
    shape.freeze()
    spectrum.freeze()
    source = gp.SkyModel(spectrum, shape, name="source")
    found, seconds = [], 0.0
    for dataset in datasets:
        background = gp.FoVBackgroundModel(dataset_name=dataset.name)
        background.spectral_model.tilt.frozen = False
        dataset.models = [source, background]
        Fit().run([dataset])
        spectrum.amplitude.frozen = False
        started = time.perf_counter()
        low, high = dataset.counts.geom.axes["energy"].edges[[0, -1]]
        points = LightCurveEstimator(
            energy_edges=[low.to_value("TeV"), high.to_value("TeV")] * u.TeV,
            source="source",
            selection_optional=[],
            reoptimize=True,
        ).run([dataset])
        seconds += time.perf_counter() - started
        spectrum.amplitude.frozen = True
        found.append([float(points.norm.data.squeeze()), float(points.norm_err.data.squeeze())])
    return np.array(found).T, seconds


def main() -> None:
    """Fit, estimate, compare and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path(os.environ.get("GAMMAPY_DATA", "")) / "hess-dl3-dr1")
    parser.add_argument("--without-gammapy", action="store_true")
    options = parser.parse_args()
    obs_ids = targets(options.store, TARGET)
    started = time.perf_counter()
    data = gj.io.read_gadf(options.store, obs_ids=obs_ids, offset_max=OFFSET, energy_range=ENERGIES, warn=False)
    size = (len(obs_ids),)
    priors = {
        "index": dist.Uniform(1.0, 4.0),
        "amplitude": dist.Uniform(0.01, 100.0),
        "norm": dist.Uniform(jnp.full(size, 0.2), 5.0),
        "tilt": dist.Uniform(jnp.full(size, -1.0), 1.0),
    }
    posterior = gj.Posterior(model, priors, data, progress=False)
    start = {"index": 2.2, "amplitude": 1.5, "norm": jnp.ones(size), "tilt": jnp.zeros(size)}
    best = gj.fit(posterior, initial=start, progress=False)
    figures: dict = {"events": posterior.total, "runs": len(obs_ids), "fit_s": time.perf_counter() - started}
    started = time.perf_counter()
    curve = gj.light_curve(posterior, "source", "runs", best=best, progress=False)
    figures["ours_s"] = time.perf_counter() - started
    print(curve, figures, flush=True)
    columns = {"norm": curve.norm, "norm_err": curve.norm_err}
    figures["chi_square"], figures["degrees"], figures["p_value"] = curve.constancy()
    nights = gj.light_curve(posterior, "source", "nights", best=best, progress=False)
    figures["nights"], figures["nights_p_value"] = nights.norm.size, nights.constancy()[2]
    curve.plot().figure.savefig(RESULTS / "light-curve.png", dpi=140)
    if not options.without_gammapy:
        (norm, error), seconds = gammapy_norms(options.store, obs_ids, posterior.observations, best)
        figures["gammapy_s"] = seconds
        columns |= {"gammapy_norm": norm, "gammapy_error": error, "off": (curve.norm - norm) / error}
        columns["ratio_of_errors"] = curve.norm_err / error
    figures["points"] = {
        label: {name: float(values[i]) for name, values in columns.items()} for i, label in enumerate(curve.labels)
    }
    report("light-curve", figures)


if __name__ == "__main__":
    main()
