"""Accuracy of intensities and expected counts, against quadrature with gammapy's own IRF objects.

Three comparisons, for a point, two Gaussians and an Einasto halo, on and off axis, at 0.1 to 60 TeV:
kernel against direct at many events; direct against a numpy quadrature that evaluates gammapy's IRFs and gammapy's
spatial models; expected counts against gammapy's `MapDataset.npred`. And the integral of the kernel's intensity
over the selected region against its own expected counts.

`free`: round shapes as the engine of free ones gives them, prepared for positions within 0.2 deg and sizes from 0.03 to
0.5 deg, against direct at other values; intensities, and expected counts. Last line: JSON.
"""

import argparse
import itertools
import json
import time
import warnings
from importlib import resources

import numpy as np

import gammajax as gj
from benchmarks.report import RESULTS, report
from gammajax.engines import FoldEngine, Rows
from gammajax.instrument.sky import displace

ENERGY_RANGE, OFFSET_MAX, LIVETIME, INDEX = (0.1, 60.0), 3.0, 3600.0, 2.5
ENERGIES = np.geomspace(0.11, 55.0, 9)
OFFSETS = {"on axis": 0.0, "off axis": 1.7}
ROUND = {
    "point": lambda lon, lat, size: gj.Point(lon, lat),
    "gaussian": gj.Gaussian,
    "generalized gaussian": lambda lon, lat, size: gj.GeneralizedGaussian(lon, lat, size, 1.0),
    "disk": gj.Disk,
    "ring": lambda lon, lat, size: gj.Ring(lon, lat, size, 0.5 * size),
    "shell": lambda lon, lat, size: gj.Shell(lon, lat, size, 0.2 * size),
}
PREPARED_SIZES, PREPARED_MOVES = (0.03, 0.5), 0.2  # deg
FREE_VALUES = ((0.07, 0.04, 0.06), (-0.11, 0.08, 0.37))  # deg: moves in longitude and latitude, and size


def sources(offset):
    """The test sources at `offset` deg from the pointing (0, 0)."""
    spectrum = gj.PowerLaw(INDEX, 1e-11)
    place = {"lon": offset, "lat": 0.0}
    return {
        "point": gj.Source(spectrum, gj.Point(**place)),
        "gaussian 0.05": gj.Source(spectrum, gj.Gaussian(**place, sigma=0.05)),
        "gaussian 0.3": gj.Source(spectrum, gj.Gaussian(**place, sigma=0.3)),
        "einasto": gj.Source(spectrum, gj.Einasto(**place)),
    }


def observation():
    """CTAO South pointing at (0, 0) in galactic coordinates."""
    return gj.io.ctao(
        site="South",
        pointing=(0.0, 0.0),
        frame="galactic",
        livetime=LIVETIME,
        energy_range=ENERGY_RANGE,
        offset_max=OFFSET_MAX,
    )


def test_events(lon, lat, largest):
    """Events on rings about the source at (lon, lat) [deg], at every energy, inside the field of view."""
    rad = np.concatenate([[0.0, 0.003], np.geomspace(0.01, largest, 14)])
    angle = np.array([10.0, 160.0])
    e, r, a = (x.ravel() for x in np.meshgrid(ENERGIES, rad, angle, indexing="ij"))
    lon, lat = (np.asarray(x, float) for x in displace(np.full(r.shape, lon), np.full(r.shape, lat), r, a))
    keep = np.hypot(lon, lat) < OFFSET_MAX - 0.02
    return gj.Events(e[keep], lon[keep], lat[keep])


def relative_errors(value, truth, energy):
    """|value / truth - 1| above 1e-4 and above 1e-6 of the maximum at the same energy."""
    peak = np.zeros_like(truth)
    for e in np.unique(energy):
        peak[energy == e] = truth[energy == e].max()
    error = np.abs(value / np.where(truth > 0, truth, 1.0) - 1.0)
    return error[truth > 1e-4 * peak], error[truth > 1e-6 * peak]


def gammapy_irfs():
    """Gammapy's IRF objects for the embedded South file, dispersion normalised by gammapy."""
    from gammapy.irf import load_irf_dict_from_file

    name = "Prod5-South-20deg-AverageAz-14MSTs37SSTs.180000s-v0.1.fits.gz"
    with resources.as_file(resources.files("gammajax") / "data" / name) as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        irfs = load_irf_dict_from_file(path)
    irfs["edisp"].normalize()
    return irfs


def dispersion_norms(irfs):
    """Integral over migra of gammapy's dispersion below its first offset, 0.5 deg, by (ln E, offset).

    There gammapy extrapolates, and cuts off what comes out negative; from 0.5 deg on it is one.
    """
    import astropy.units as u
    from scipy.interpolate import RegularGridInterpolator

    energy, offset = np.geomspace(0.0127, 195.0, 1500), np.linspace(0.0, 0.5, 21)
    migra = np.linspace(0.0, 3.0, 3001)
    total = np.empty((energy.size, offset.size))
    for i, e in enumerate(energy):
        values = irfs["edisp"].evaluate(
            energy_true=e * u.TeV, migra=migra[:, None] * u.one, offset=offset[None, :] * u.deg
        )
        total[i] = np.trapezoid(values.value, migra, axis=0)
    return RegularGridInterpolator(
        (np.log(energy), offset), np.where(total > 0, total, 1.0), bounds_error=False, fill_value=None
    )


def reference_intensity(irfs, source, events):
    """Lambda by numpy quadrature: energies by trapezoid in ln E, directions in polar coordinates of size sigma(E)."""
    import astropy.units as u
    from scipy.integrate import quad

    morphology = source.morphology
    index, amplitude = float(source.spectrum.index), float(source.spectrum.amplitude)
    centre = np.array([float(morphology.lon), float(morphology.lat)])
    nodes, weights = np.polynomial.legendre.leggauss(20)
    t, w = 0.5 * (nodes + 1.0), 0.5 * weights
    angle = np.radians((np.arange(24) + 0.5) * 15.0)

    if isinstance(morphology, gj.Einasto):
        alpha, r_s, distance = float(morphology.alpha), float(morphology.r_s), float(morphology.distance)

        def line_of_sight(theta):
            b = distance * np.sin(theta)

            def density2(length):
                return np.exp(-4.0 / alpha * ((np.hypot(b, length) / r_s) ** alpha - 1.0))

            near = quad(density2, -distance * np.cos(theta), 0.0, points=[-b, -10 * b], limit=200)[0]
            far = quad(density2, 0.0, 10.0, points=[b, 10 * b], limit=200)[0]
            return near + far + quad(density2, 10.0, 500.0, limit=200)[0]

        theta = np.radians(np.concatenate([np.geomspace(1e-4, 5.0, 150), np.linspace(5.5, 179.9, 200)]))
        table = np.array([line_of_sight(x) for x in theta])
        sphere = np.trapezoid(2.0 * np.pi * np.sin(theta) * table * theta, np.log(theta))

        def brightness(separation):
            return np.exp(np.interp(np.log(np.maximum(separation, 1e-6)), np.log(theta), np.log(table))) / sphere

    elif isinstance(morphology, gj.Gaussian):
        sigma = np.radians(float(morphology.sigma))

        def brightness(separation):
            return np.exp((np.cos(separation) - 1.0) / sigma**2) / (
                2.0 * np.pi * sigma**2 * (1.0 - np.exp(-2.0 / sigma**2))
            )

    norms = dispersion_norms(irfs)

    def dispersion_norm(log_energy, offset):
        """At every true energy and every offset, which varies along the last axes."""
        offsets = offset.reshape(log_energy.size, -1)
        points = np.stack([np.broadcast_to(log_energy[:, None], offsets.shape), np.minimum(offsets, 0.5)], axis=-1)
        return norms(points)

    result = np.zeros(len(events))
    for k in range(len(events)):
        energy = events.energy[k]
        true = np.geomspace(
            max(energy / 2.9, 0.0127), min(energy / 0.3, 195.0), 4000 if isinstance(morphology, gj.Point) else 700
        )
        flux = amplitude * true**-index
        lon, lat = np.radians(events.lon[k]), np.radians(events.lat[k])
        if isinstance(morphology, gj.Point):
            offset = np.full((true.size, 1, 1), np.hypot(*centre))
            separation = np.full_like(offset, _separation(lon, lat, *np.radians(centre)))
            measure = np.ones_like(offset)
        else:
            width = irfs["psf"].evaluate_parameters(
                true * u.TeV, np.full(true.size, np.hypot(events.lon[k], events.lat[k])) * u.deg
            )
            sigma_psf = np.radians(width["sigma_1"].to_value("deg"))
            separation = sigma_psf[:, None, None] * 5.5 * t[None, :, None] * np.ones(angle.size)
            lat_true = np.arcsin(np.sin(lat) * np.cos(separation) + np.cos(lat) * np.sin(separation) * np.cos(angle))
            lon_true = lon + np.arctan2(
                np.sin(angle) * np.sin(separation) * np.cos(lat), np.cos(separation) - np.sin(lat) * np.sin(lat_true)
            )
            offset = np.degrees(_separation(lon_true, lat_true, 0.0, 0.0))
            to_centre = _separation(lon_true, lat_true, *np.radians(centre))
            step = (sigma_psf[:, None, None] * 5.5 * w[None, :, None]) * (2.0 * np.pi / angle.size)
            measure = brightness(to_centre) * np.sin(separation) * step
        e = true[:, None, None] * np.ones_like(offset)
        area = irfs["aeff"].evaluate(energy_true=e * u.TeV, offset=offset * u.deg).to_value("cm2")
        parameters = irfs["psf"].evaluate_parameters(energy_true=e * u.TeV, offset=offset * u.deg)
        s = parameters["sigma_1"].to_value("rad")  # one Gaussian in these files; its norm is made one
        spread = np.exp(-0.5 * (separation / s) ** 2) / (2.0 * np.pi * s**2)
        dispersion = (
            irfs["edisp"].evaluate(energy_true=e * u.TeV, migra=energy / e * u.one, offset=offset * u.deg).value
        )
        norm = dispersion_norm(np.log(true), offset.ravel())
        dispersion = dispersion / norm.reshape(dispersion.shape)
        inner = (area * spread * dispersion / e * measure).sum((1, 2))
        result[k] = LIVETIME * np.trapezoid(flux * inner * true, np.log(true))
    return result


def _separation(lon1, lat1, lon2, lat2):
    half = np.sin(0.5 * (lat2 - lat1)) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin(0.5 * (lon2 - lon1)) ** 2
    return 2.0 * np.arcsin(np.sqrt(half))


def gammapy_counts(irfs, source):
    """Expected counts in the selection by gammapy's binned MapDataset."""
    import astropy.units as u
    from astropy.coordinates import SkyCoord
    from gammapy.data import FixedPointingInfo, Observation
    from gammapy.datasets import MapDataset
    from gammapy.makers import MapDatasetMaker
    from gammapy.maps import MapAxis, WcsGeom
    from gammapy.modeling.models import (
        GaussianSpatialModel,
        PointSpatialModel,
        PowerLawSpectralModel,
        SkyModel,
    )

    morphology = source.morphology
    place = {
        "lon_0": float(morphology.lon) * u.deg,
        "lat_0": float(morphology.lat) * u.deg,
        "frame": "galactic",
    }
    if isinstance(morphology, gj.Point):
        spatial = PointSpatialModel(**place)
    else:
        spatial = GaussianSpatialModel(sigma=float(morphology.sigma) * u.deg, **place)
    spectral = PowerLawSpectralModel(
        index=float(source.spectrum.index), amplitude=float(source.spectrum.amplitude) * u.Unit("TeV-1 cm-2 s-1")
    )
    pointing = SkyCoord(0.0, 0.0, unit="deg", frame="galactic")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observation = Observation.create(
            pointing=FixedPointingInfo(fixed_icrs=pointing.icrs), livetime=LIVETIME * u.s, irfs=irfs
        )
        geom = WcsGeom.create(
            skydir=pointing,
            frame="galactic",
            binsz=0.02,
            width=2.2 * OFFSET_MAX,
            axes=[MapAxis.from_energy_bounds(*ENERGY_RANGE * u.TeV, nbin=8, per_decade=True)],
        )
        true = MapAxis.from_energy_bounds("0.03 TeV", "190 TeV", nbin=30, per_decade=True, name="energy_true")
        empty = MapDataset.create(geom, energy_axis_true=true, binsz_irf=0.25 * u.deg, migra_axis=None)
        dataset = MapDatasetMaker(selection=["exposure", "psf", "edisp"]).run(empty, observation)
        dataset.models = [SkyModel(spectral_model=spectral, spatial_model=spatial, name="source")]
        counts = dataset.npred_signal()
    inside = geom.separation(pointing).to_value("deg") <= OFFSET_MAX
    return float(counts.data[:, inside].sum())


def closure(observation, source):
    """Integral of the kernel's intensity over the selected region, relative to expected counts, minus one.

    Gauss-Legendre in ln E' and along spokes from the source to the edge of the region.
    """
    morphology = source.morphology
    nodes, weights = np.polynomial.legendre.leggauss(3)
    # fine enough for the uneven dispersion table
    edges = np.log(np.geomspace(*ENERGY_RANGE, 251))
    half, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    energy = np.exp(middle[:, None] + half[:, None] * nodes).ravel()
    energy_weight = (half[:, None] * weights).ravel() * energy
    centre = (float(morphology.lon), float(morphology.lat))
    # rings about the source: whole ones, and spokes that end on the edge of the region
    spokes = 8 if not isinstance(morphology, gj.Einasto) else 16
    angle = (np.arange(spokes) + 0.5) * (360.0 / spokes)
    low, high = np.zeros(spokes), np.full(spokes, 2.0 * OFFSET_MAX)
    for _ in range(40):
        reach = 0.5 * (low + high)
        there = displace(np.full(spokes, centre[0]), np.zeros(spokes), reach, angle)
        inside = np.asarray(observation.offset(*there)) < OFFSET_MAX
        low, high = np.where(inside, reach, low), np.where(inside, high, reach)
    breaks = np.concatenate([[0.0], np.geomspace(0.002, 1.0, 64 if isinstance(morphology, gj.Einasto) else 28)])
    if isinstance(morphology, gj.Point):
        breaks = np.minimum(breaks, 0.9) if centre[0] else breaks
        breaks = np.unique(breaks * 0.35)
    half, middle = 0.5 * np.diff(breaks), 0.5 * (breaks[1:] + breaks[:-1])
    t, t_weight = (middle[:, None] + half[:, None] * nodes).ravel(), (half[:, None] * weights).ravel()
    rad = t[:, None] * reach
    rad_weight = t_weight[:, None] * reach * np.sin(np.radians(rad)) * np.pi / 180.0 * (2.0 * np.pi / spokes)
    shape = (energy.size, *rad.shape)
    e, r, a = (np.broadcast_to(x, shape).ravel() for x in (energy[:, None, None], rad, angle))
    weight = (energy_weight[:, None, None] * rad_weight).ravel()
    lon, lat = (np.asarray(x, float) for x in displace(np.full(r.shape, centre[0]), np.full(r.shape, centre[1]), r, a))
    value = np.asarray(gj.intensity(source, observation, gj.Events(e, lon, lat)), float)
    return float((value * weight).sum() / float(gj.expected_counts(source, observation)) - 1.0)


def free_shapes(observed) -> dict:
    """Figures of the engine of free shapes, by shape, place and size."""
    rows = {}
    for place, offset in OFFSETS.items():
        for name, shape in ROUND.items():
            spectrum = gj.PowerLaw(INDEX, 1e-11)
            corners = itertools.product((-1, 1), (-1, 1), PREPARED_SIZES)
            variants = [
                gj.Source(spectrum, shape(offset + PREPARED_MOVES * x, PREPARED_MOVES * y, size))
                for x, y, size in corners
            ]
            for move_lon, move_lat, size in FREE_VALUES[:1] if name == "point" else FREE_VALUES:
                lon = offset + move_lon
                source = gj.Source(spectrum, shape(lon, move_lat, size))
                events = test_events(lon, move_lat, 0.6 if name == "point" else 0.6 + 1.5 * size)
                prepared = Rows.init(events, (observed,))
                found = FoldEngine.init(variants[0], (observed,), prepared, variants[1:])(source)
                intensity = np.empty(len(events))
                intensity[prepared.index[prepared.valid]] = np.asarray(found.intensity, float)[prepared.valid]
                direct = np.asarray(gj.intensity(source, observed, events, engine="direct"), float)
                high, low = relative_errors(intensity, direct, events.energy)
                counts = float(found.counts.sum()) / float(gj.expected_counts(source, observed, "direct")) - 1.0
                label = f"{name}, {place}" if name == "point" else f"{name} {size:g}, {place}"
                row = {"max": high.max(), "median": np.median(high), "max_1e-6": low.max(), "counts": counts}
                rows[label] = {key: float(f"{value:.3g}") for key, value in row.items()}
                print(label, rows[label], flush=True)
    return rows


def main():
    """Run all comparisons and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("fixed", "free"), help="one part; figures of the other stay")
    options = parser.parse_args()
    path = RESULTS / "accuracy-cpu.json"
    figures = json.loads(path.read_text()) if options.only and path.exists() else {}
    figures.pop("machine", None)
    if options.only != "free":
        figures |= fixed_shapes()
    if options.only != "fixed":
        figures["free"] = free_shapes(observation())
    report("accuracy", figures)


def fixed_shapes() -> dict:
    """Figures of sources of fixed shape."""
    irfs = gammapy_irfs()
    observed = observation()
    bright, faint, outside, npred, closures, rows = [], [], [], [], [], {}
    for place, offset in OFFSETS.items():
        for name, source in sources(offset).items():
            began = time.perf_counter()
            morphology = source.morphology
            largest = {"point": 0.6, "gaussian 0.05": 0.6, "gaussian 0.3": 1.25, "einasto": 2.5}[name]
            events = test_events(offset, 0.0, largest)
            kernel = np.asarray(gj.intensity(source, observed, events, engine="kernel"), float)
            direct = np.asarray(gj.intensity(source, observed, events, engine="direct"), float)
            high, low = relative_errors(kernel, direct, events.energy)
            row = {"kernel_max": high.max(), "kernel_median": np.median(high), "kernel_max_1e-6": low.max()}
            some = np.random.default_rng(1).permutation(len(events))[:40]
            some = some[direct[some] > 1e-6 * direct.max()] if name != "einasto" else some
            few = events[some]
            outer = np.abs(direct[some] / reference_intensity(irfs, source, few) - 1.0)
            # tails below 1e-4 of the peak at the same energy are judged with the 3 % bound
            peak = np.array([direct[events.energy == e].max() for e in few.energy])
            outer = outer[direct[some] > 1e-4 * peak]
            row |= {"direct_max": outer.max(), "direct_median": np.median(outer)}
            bright.append(high), faint.append(low), outside.append(outer)
            if not isinstance(morphology, gj.Einasto):
                ratio = float(gj.expected_counts(source, observed)) / gammapy_counts(irfs, source) - 1.0
                row["npred"] = abs(ratio)
                npred.append(abs(ratio))
            row["closure"] = closure(observed, source)
            closures.append(abs(row["closure"]))
            rows[f"{name}, {place}"] = {key: float(f"{value:.3g}") for key, value in row.items()}
            print(f"{time.perf_counter() - began:.0f} s {name}, {place}:", rows[f"{name}, {place}"], flush=True)
    bright, faint, outside = (np.concatenate(x) for x in (bright, faint, outside))
    figures = {
        "max_rel_err": max(bright.max(), outside.max()),
        "median_rel_err": max(np.median(bright), np.median(outside)),
        "max_rel_err_1e-6": faint.max(),
        "npred_rel_err": max(npred),
        "closure_rel_err": max(closures),
    }
    return {key: float(f"{value:.3g}") for key, value in figures.items()} | {"cases": rows}


if __name__ == "__main__":
    main()
