"""Flux points of the Crab nebula from four H.E.S.S. runs, beside gammapy's on the same runs.

Events of the runs of `tests/test_real_data.py` within 1 deg of the pointing; the source is a point with a power law,
the background has a free norm and tilt. gammapy's 3-D analysis of the stacked runs has 20 bins of energy per decade and
pixels of 0.025 deg.

- `slices`: bins of *reconstructed* energy, beside gammapy's `FluxPointsEstimator`: one norm of the whole source for the
  events of each bin, the background as it is in the global fit (`fixed`), or with `--kinds` free in each
  (`reoptimized`).
- `steps`: bins of *true* energy, all free together, beside a fit by gammapy of the same definition, with its covariance
  (a spectral model written here).

`off`: difference of the norms in units of gammapy's error. Seconds are those of the estimate alone, after reading, the
set-up and the global fit; ours with compilation and with profiles of ten values or more, gammapy's estimator with
the parts of `--optional`. Figure: `benchmarks/results/flux-points.png`. Last line: JSON.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import numpyro.distributions as dist

import gammajax as gj
from benchmarks.report import RESULTS, report

RUNS, TARGET = [23523, 23526, 23559, 23592], (83.6287, 22.0147)
ENERGIES, OFFSET, REFERENCE = (0.9, 90.0), 1.0, 1.45  # above the thresholds of all runs: gammapy stacks them
PER_DECADE, PIXEL = 20, 0.025
PRIORS = {
    "index": dist.Uniform(1.5, 4.0),
    "amplitude": dist.Uniform(0.1, 10.0),
    "norm": dist.Uniform(0.2, 5.0),
    "tilt": dist.Uniform(-1.0, 1.0),
}


def edges_of(per_decade: int) -> np.ndarray:
    """Edges [TeV] from the thresholds to 14 TeV, at edges of gammapy's bins."""
    return ENERGIES[0] * 10.0 ** (np.arange(round(1.2 * per_decade) + 1) / per_decade)


def model(p):
    """The nebula above the background."""
    return gj.Mixture(
        crab=gj.Source(gj.PowerLaw(p["index"], 1e-11 * p["amplitude"], REFERENCE), gj.Point(*TARGET)),
        background=gj.InstrumentBackground(norm=p["norm"], tilt=p["tilt"]),
    )


def stacked(store, selections):
    """The dataset of all runs of gammapy."""
    import astropy.units as u
    from astropy.coordinates import SkyCoord
    from gammapy.data import DataStore
    from gammapy.datasets import MapDataset
    from gammapy.makers import MapDatasetMaker
    from gammapy.maps import Map, MapAxis, WcsGeom

    centre = SkyCoord(*TARGET, unit="deg")
    steps = np.arange(round(PER_DECADE * np.log10(ENERGIES[1] / ENERGIES[0])) + 1)
    energy = MapAxis.from_energy_edges(ENERGIES[0] * 10.0 ** (steps / PER_DECADE) * u.TeV)
    # true energies share the edges
    steps = np.arange(-8, steps[-1] + 9)
    true = MapAxis.from_energy_edges(ENERGIES[0] * 10.0 ** (steps / PER_DECADE) * u.TeV, name="energy_true")
    geom = WcsGeom.create(skydir=centre, binsz=PIXEL, width=3.1, axes=[energy])
    total = MapDataset.create(geom, energy_axis_true=true, name="stacked")
    for run, selection in zip(DataStore.from_dir(store).get_observations(RUNS), selections, strict=True):
        one = MapDatasetMaker(background_oversampling=8).run(total, run)
        near = geom.separation(run.get_pointing_icrs(run.tmid)) <= OFFSET * u.deg
        above = geom.energy_mask(float(selection.energy_min) * (1.0 - 1e-6) * u.TeV, None)
        one.mask_safe = Map.from_geom(geom, data=above.data & near)
        total.stack(one)
    return total


def fitted(dataset):
    """The dataset with its models at the best fit, and the spectral model of the nebula."""
    import astropy.units as u
    from gammapy.modeling import Fit
    from gammapy.modeling import models as gp

    spectrum = gp.PowerLawSpectralModel(index=2.7, amplitude="1.7e-11 TeV-1 cm-2 s-1", reference=REFERENCE * u.TeV)
    place = gp.PointSpatialModel(lon_0=TARGET[0] * u.deg, lat_0=TARGET[1] * u.deg, frame="icrs")
    place.freeze()
    background = gp.FoVBackgroundModel(dataset_name="stacked")
    background.spectral_model.tilt.frozen = False
    dataset.models = [gp.SkyModel(spectrum, place, name="crab"), background]
    Fit().run([dataset])
    return spectrum


def estimator(dataset, edges, optional, reoptimize):
    """Points of gammapy's estimator, and seconds."""
    import astropy.units as u
    from gammapy.estimators import FluxPointsEstimator

    started = time.perf_counter()
    points = FluxPointsEstimator(edges * u.TeV, source="crab", selection_optional=optional, reoptimize=reoptimize).run(
        dataset
    )
    return gj.FluxPoints.from_gammapy(points, "gammapy, slices"), time.perf_counter() - started


def steps(dataset, spectrum, edges):
    """Norms and covariance of gammapy's fit of factors in bins of true energy, and seconds."""
    import astropy.units as u
    from gammapy.modeling import Fit, Parameter, Parameters
    from gammapy.modeling.models import SkyModel, SpectralModel

    index, amplitude = spectrum.index.value, spectrum.amplitude.quantity

    class Steps(SpectralModel):
        """The power law times a factor in each bin; the last is for all energies above."""

        tag = ["Steps"]

        def __init__(self):
            self.default_parameters = Parameters([Parameter(f"norm_{i}", 1.0) for i in range(edges.size)])
            super().__init__()

        @staticmethod
        def factor(energy, norms):
            bins = np.clip(np.searchsorted(edges, energy.to_value("TeV"), side="right") - 1, 0, None)
            return np.stack([n.value if hasattr(n, "value") else n for n in norms])[bins, ...].reshape(bins.shape)

        def evaluate(self, energy, **norms):
            return (
                amplitude * (energy.to_value("TeV") / REFERENCE) ** -index * self.factor(energy, list(norms.values()))
            )

        def evaluate_integral(self, energy_min, energy_max, **norms):
            low, high = (e.to_value("TeV") / REFERENCE for e in (energy_min, energy_max))
            flux = amplitude * REFERENCE * u.TeV * (low ** (1 - index) - high ** (1 - index)) / (index - 1)
            return flux * self.factor(np.sqrt(energy_min * energy_max), list(norms.values()))

    # evaluators keep the parameters of the model that they have seen
    place, background = dataset.models["crab"].spatial_model, dataset.models[1]
    stepped = Steps()
    dataset.models = [SkyModel(stepped, place, name="crab"), background]
    started = time.perf_counter()
    result = Fit().run([dataset])
    seconds = time.perf_counter() - started
    norms = np.array([parameter.value for parameter in stepped.parameters])[:-1]
    names = [parameter.name for parameter in result.parameters]
    order = [names.index(f"norm_{i}") for i in range(norms.size)]
    covariance = np.asarray(result.covariance_result.matrix)[np.ix_(order, order)]
    return norms, covariance, seconds


def of_bins(edges, columns: dict) -> dict:
    """Finite values of each column by bin."""
    bins = zip(edges[:-1], edges[1:], strict=True)
    return {
        f"{low:.3g} to {high:.3g} TeV": {
            name: float(values[i]) for name, values in columns.items() if np.isfinite(values[i])
        }
        for i, (low, high) in enumerate(bins)
    }


def columns_of(points) -> dict:
    """Norms with errors and limits."""
    return {
        "norm": points.norm,
        "errn": points.norm_errn,
        "errp": points.norm_errp,
        "ul": points.norm_ul,
        "sqrt_ts": points.sqrt_ts,
    }


def compare_slices(posterior, best, dataset, edges, optional, reoptimize) -> tuple[dict, dict, dict]:
    """Bins of reconstructed energy: norms, errors and seconds of both, on the reference of ours."""
    started = time.perf_counter()
    ours = gj.flux_points(
        posterior, "crab", edges, energy="reconstructed", reoptimize=reoptimize, best=best, progress=False
    )
    seconds = time.perf_counter() - started
    print(ours, seconds, flush=True)
    theirs, estimator_s = estimator(dataset, edges, optional, reoptimize)
    print(theirs, estimator_s, flush=True)
    # gammapy's norms are relative to its own fit
    ratio = theirs.flux_ref / ours.flux_ref
    error = theirs.norm_err * ratio
    columns = {
        **columns_of(ours),
        **{f"estimator_{name}": values * ratio for name, values in columns_of(theirs).items() if name != "sqrt_ts"},
        "estimator_sqrt_ts": theirs.sqrt_ts,
        "off": (ours.norm - theirs.norm * ratio) / error,
        "ratio_of_errors": ours.norm_err / error,
        "limit_off": (ours.norm_ul - theirs.norm_ul * ratio) / error,
    }
    both = {"crab, by reconstructed energy": ours, "gammapy, by reconstructed energy": theirs}
    return of_bins(edges, columns), {"ours_s": seconds, "estimator_s": estimator_s}, both


def compare_steps(posterior, best, dataset, spectrum, edges) -> tuple[dict, dict, gj.FluxPoints]:
    """Bins of true energy: norms, errors and seconds of both, on the reference of ours."""
    started = time.perf_counter()
    ours = gj.flux_points(posterior, "crab", edges, best=best, progress=False)
    seconds = time.perf_counter() - started
    print(ours, seconds, flush=True)
    reference = reference_fluxes(spectrum, edges)
    norms, covariance, steps_s = steps(dataset, spectrum, edges)
    ratio = reference / ours.flux_ref
    error = np.sqrt(np.diag(covariance)) * ratio
    correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    columns = {
        **columns_of(ours),
        "correlation_with_next": np.append(np.diag(ours.correlation, 1), np.nan),
        "steps_norm": norms * ratio,
        "steps_error": error,
        "off": (ours.norm - norms * ratio) / error,
        "ratio_of_errors": ours.norm_err / error,
        "steps_correlation_with_next": np.append(np.diag(correlation, 1), np.nan),
    }
    return of_bins(edges, columns), {"ours_s": seconds, "steps_s": steps_s}, ours


def reference_fluxes(spectrum, edges) -> np.ndarray:
    """Fluxes [cm^-2 s^-1] of gammapy's global fit in the bins."""
    import astropy.units as u

    return spectrum.integral(edges[:-1] * u.TeV, edges[1:] * u.TeV).to_value("cm-2 s-1")


def main() -> None:
    """Fit, estimate, compare and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default=Path(os.environ.get("GAMMAPY_DATA", "")) / "hess-dl3-dr1")
    parser.add_argument("--per-decade", type=int, nargs="+", default=[5])
    parser.add_argument(
        "--optional", nargs="*", default=["errn-errp", "ul"], help="of the estimator: errn-errp, ul, scan"
    )
    parser.add_argument("--kinds", nargs="+", default=["fixed"], choices=["fixed", "reoptimized"])
    options = parser.parse_args()
    started = time.perf_counter()
    data = gj.io.read_gadf(options.store, obs_ids=RUNS, offset_max=OFFSET, energy_range=ENERGIES, warn=False)
    posterior = gj.Posterior(model, PRIORS, data, progress=False)
    best = gj.fit(posterior, progress=False)
    figures = {"global_fit_s": time.perf_counter() - started}
    started = time.perf_counter()
    dataset = stacked(options.store, posterior.observations)
    spectrum = fitted(dataset)
    figures["gammapy_global_fit_s"] = time.perf_counter() - started
    print(figures, flush=True)
    for per_decade in options.per_decade:
        edges = edges_of(per_decade)
        of, both = f"{per_decade} per decade", {}
        for kind in options.kinds:
            name = f"slices, {kind}, {of}"
            figures[name], seconds, both[kind] = compare_slices(
                posterior, best, dataset, edges, options.optional, kind == "reoptimized"
            )
            off = [abs(point["off"]) for point in figures[name].values()]
            figures |= {f"{name}, worst_off": max(off)} | {f"{name}, {key}": value for key, value in seconds.items()}
        # last: it changes the models of the dataset
        name = f"steps, {of}"
        figures[name], seconds, ours = compare_steps(posterior, best, dataset, spectrum, edges)
        figures |= {f"{name}, {key}": value for key, value in seconds.items()}
        if per_decade == options.per_decade[0]:
            ours.plot(both[options.kinds[0]]).figure.savefig(RESULTS / "flux-points.png", dpi=140)
    report("flux-points", figures)


if __name__ == "__main__":
    main()
