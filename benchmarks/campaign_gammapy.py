"""The gammapy side of `benchmarks.campaign`: its 3-D analysis of the same runs, joint and stacked."""

import time
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from gammapy.data import DataStore, EventList, FixedPointingInfo, Observation
from gammapy.datasets import Datasets, MapDataset
from gammapy.irf import load_irf_dict_from_file
from gammapy.makers import MapDatasetMaker
from gammapy.maps import Map, MapAxis, WcsGeom
from gammapy.modeling import Fit
from gammapy.modeling import models as gammapy_models

AMPLITUDE = 1e-11  # TeV^-1 cm^-2 s^-1: amplitudes are in this unit
PER_DECADE, TRUE_PER_DECADE = 20, 20  # with 10, norm and tilt of RX J1713.7-3946 move by half an error
# of the background in energy: gammapy takes two points for a bin otherwise; the first bin would be 9 % too low
OVERSAMPLING = 8
ROOM = 0.3  # of a common bin, that the first bin of a run has at least
SHAPES = {
    "gaussian": ("GaussianSpatialModel", {"size": "sigma"}),
    "disk": ("DiskSpatialModel", {"size": "r_0"}),
    "shell": ("ShellSpatialModel", {"size": "radius"}),
    "point": ("PointSpatialModel", {}),
}


class Selection(NamedTuple):
    """Selected events of a run: energies [TeV], and the largest separation from the pointing [deg]."""

    energy_min: float
    energy_max: float
    offset_max: float


def stored(store, obs_ids):
    """Runs of a DL3 store."""
    return DataStore.from_dir(store).get_observations(obs_ids, required_irf="all-optional")


def made(runs, events, responses):
    """Runs that were simulated.

    `runs`: columns by run; `events`: columns by event, with the number of their run; `responses`: of each run, as paths
    of files or as runs of a store.
    """
    read = {key: response_of(key) if isinstance(key, str) else key for key in dict.fromkeys(responses)}
    found = []
    for i, key in enumerate(responses):
        mine = np.asarray(events["observation"]) == i
        place = SkyCoord(runs["lon"][i], runs["lat"][i], unit="deg")
        irfs = (
            read[key] if isinstance(read[key], dict) else {n: getattr(key, n) for n in ("aeff", "edisp", "psf", "bkg")}
        )
        # the rates of a store are per time on target; gammajax holds them per livetime
        dead = 0.0 if isinstance(read[key], dict) else key.observation_dead_time_fraction
        run = Observation.create(
            pointing=FixedPointingInfo(fixed_icrs=place),
            obs_id=i,
            livetime=runs["livetime"][i] / (1.0 - dead) * u.s,
            deadtime_fraction=dead,
            irfs=irfs,
        )
        columns = {"RA": "lon", "DEC": "lat", "ENERGY": "energy"}
        table = Table({name: np.asarray(events[column], float)[mine] for name, column in columns.items()})
        for name, unit in {"RA": "deg", "DEC": "deg", "ENERGY": "TeV"}.items():
            table[name].unit = unit
        table["TIME"] = run.tmid + np.zeros(len(table)) * u.s
        run._events = EventList(table)
        found.append(run)
    return found


def safe_energies(runs) -> list[tuple[float, float]]:
    """Safe energies [TeV] of runs by the headers of their effective areas; no limit is zero, or infinity."""
    headers = [run.aeff.meta for run in runs]
    return [(h.get("LO_THRES", 0.0), h.get("HI_THRES", 0.0) or np.inf) for h in headers]


def response_of(path):
    """Response functions of a file; dispersions of CTAO are not normalised there."""
    irfs = load_irf_dict_from_file(path)
    irfs["edisp"].normalize()
    return irfs


def axis_of(selection, common):
    """Energy axis that begins where the events of the run do, and has the common edges above."""
    low, high = selection.energy_min, selection.energy_max
    inner = common[(common > low * 10 ** (ROOM / PER_DECADE)) & (common < high * 10 ** (-ROOM / PER_DECADE))]
    return MapAxis.from_energy_edges(np.concatenate([[low], inner, [high]]) * u.TeV)


def dataset_of(run, selection, axis, centre, pixel):
    """Counts, background and response of a run about `centre`, masked outside of its selection."""
    true = MapAxis.from_energy_bounds(
        axis.edges[0] / 2.5, axis.edges[-1] * 2.0, nbin=TRUE_PER_DECADE, per_decade=True, name="energy_true"
    )
    geom = WcsGeom.create(skydir=centre, binsz=pixel, width=2.0 * selection.offset_max + 2 * pixel, axes=[axis])
    dataset = MapDatasetMaker(background_oversampling=OVERSAMPLING).run(
        MapDataset.create(geom, energy_axis_true=true, name=f"run-{run.obs_id}"), run
    )
    return masked(dataset, run, selection)


def masked(dataset, run, selection):
    """The dataset with the selection as its safe mask."""
    geom = dataset.counts.geom
    near = geom.separation(run.get_pointing_icrs(run.tmid)) <= selection.offset_max * u.deg
    slack = 1.0 + 1e-6  # edges are rounded
    energies = geom.energy_mask(selection.energy_min / slack * u.TeV, selection.energy_max * slack * u.TeV)
    dataset.mask_safe = Map.from_geom(geom, data=energies.data & near)
    return dataset


def datasets_of(problem, runs, selections, stacked):
    """One dataset for each run, or one for all.

    Alone, a run has its own energy axis, which begins at its threshold. Together, all share the union of the edges, and
    a run is masked below its threshold: no bin is cut.
    """
    low, high = min(s.energy_min for s in selections), max(s.energy_max for s in selections)
    common = np.geomspace(low, high, int(np.ceil(PER_DECADE * np.log10(high / low))) + 1)
    if not stacked:
        return Datasets(
            [
                dataset_of(run, s, axis_of(s, common), run.get_pointing_icrs(run.tmid), problem.pixel)
                for run, s in zip(runs, selections, strict=True)
            ]
        )
    ends = np.unique(np.round([end for s in selections for end in (s.energy_min, s.energy_max)], 9))
    far = [edge for edge in common if np.min(np.abs(np.log10(edge / ends))) > ROOM / PER_DECADE]
    axis = MapAxis.from_energy_edges(np.unique(np.concatenate([ends, far])) * u.TeV)
    centre = SkyCoord(problem.lon, problem.lat, unit="deg")
    offset = max(run.get_pointing_icrs(run.tmid).separation(centre).deg for run in runs)
    wide = offset + max(s.offset_max for s in selections)
    widest = Selection(low, high, wide)
    true = MapAxis.from_energy_bounds(
        axis.edges[0] / 2.5, axis.edges[-1] * 2.0, nbin=TRUE_PER_DECADE, per_decade=True, name="energy_true"
    )
    geom = WcsGeom.create(skydir=centre, binsz=problem.pixel, width=2.0 * widest.offset_max, axes=[axis])
    total = MapDataset.create(geom, energy_axis_true=true, name="stacked")
    for run, s in zip(runs, selections, strict=True):
        place, width = run.get_pointing_icrs(run.tmid), (2.0 * s.offset_max + 4 * problem.pixel) * u.deg
        cut = total.cutout(place, width=width, mode="trim", name=f"run-{run.obs_id}")
        total.stack(masked(MapDatasetMaker(background_oversampling=OVERSAMPLING).run(cut, run), run, s))
    return Datasets([total])


def models_of(problem, datasets):
    """Source and backgrounds at the start of a fit, and the parameters that are reported, by name."""
    unit = AMPLITUDE * u.Unit("TeV-1 cm-2 s-1")
    start = problem.start
    options = {"index": start["index"], "reference": problem.reference * u.TeV}
    if problem.cutoff:
        spectrum = gammapy_models.ExpCutoffPowerLawSpectralModel(lambda_=start["lambda"] / u.TeV, **options)
    else:
        spectrum = gammapy_models.PowerLawSpectralModel(**options)
    spectrum.amplitude.quantity = start["amplitude"] * unit
    kind, sizes = SHAPES[problem.shape]
    shape = getattr(gammapy_models, kind)(
        lon_0=problem.lon * u.deg,
        lat_0=problem.lat * u.deg,
        frame="icrs",
        **{theirs: problem.size * u.deg for theirs in sizes.values()},
    )
    for name in shape.parameters.names:
        parameter = shape.parameters[name]
        parameter.frozen = not (problem.free and name in ("lon_0", "lat_0", *sizes.values()))
        if not parameter.frozen:  # with the first steps of one degree it leaves the field of view
            low, high = (0.2 * problem.size, 3.0 * problem.size) if name in sizes.values() else (-0.5, 0.5)
            middle = 0.0 if name in sizes.values() else parameter.value
            parameter.min, parameter.max, parameter.error = middle + low, middle + high, 0.02
    backgrounds = [gammapy_models.FoVBackgroundModel(dataset_name=dataset.name) for dataset in datasets]
    for background in backgrounds:
        background.spectral_model.tilt.frozen = False
        if not problem.per_run:
            background.spectral_model.norm = backgrounds[0].spectral_model.norm
            background.spectral_model.tilt = backgrounds[0].spectral_model.tilt
    datasets.models = [gammapy_models.SkyModel(spectrum, shape, name="source"), *backgrounds]
    reported = {"index": spectrum.index, "amplitude": spectrum.amplitude}
    if problem.cutoff:
        reported["lambda"] = spectrum.lambda_
    if problem.free:
        reported |= {"lon": shape.lon_0, "lat": shape.lat_0}
        reported |= {ours: getattr(shape, theirs) for ours, theirs in sizes.items()}
    shared = [("", backgrounds[0])] if not problem.per_run else [(f"[{i}]", b) for i, b in enumerate(backgrounds)]
    for label, background in shared:
        reported |= {f"norm{label}": background.spectral_model.norm, f"tilt{label}": background.spectral_model.tilt}
    return reported


def analyse(problem, runs, selections, stacked, started) -> dict:
    """Set up and fit, once; `started` [s since the epoch]: start of the process."""
    begun = time.perf_counter()
    datasets = datasets_of(problem, runs, selections, stacked)
    reported = models_of(problem, datasets)
    setup_s = time.perf_counter() - begun
    datasets.stat_sum()
    begun = time.perf_counter()
    reported["index"].value += 1e-3  # it keeps the counts of unchanged models
    datasets.stat_sum()
    value_s = time.perf_counter() - begun
    reported["index"].value -= 1e-3
    for parameter in reported.values():  # first steps; one is far for most
        if not parameter.error:
            parameter.error = 0.1 * (abs(parameter.value) or 1.0)
    begun = time.perf_counter()
    best = Fit().run(datasets)
    fit_s = time.perf_counter() - begun
    return {
        "runs": len(runs),
        "events": int(sum(d.counts.data[d.mask_safe.data].sum() for d in datasets)),
        "cold_total_s": time.time() - started,
        "setup_s": setup_s,
        "value_s": value_s,
        "fit_s": fit_s,
        "fit_calls": int(best.optimize_result.nfev),
        "converged": bool(best.success),
        "parameters": {name: [float(p.value), float(p.error)] for name, p in reported.items()},
    }
