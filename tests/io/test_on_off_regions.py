"""ON and OFF events of real files against gammapy's own counts; bad input in one line."""

import os
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from gammapy.data import DataStore
from gammapy.datasets import SpectrumDataset
from gammapy.makers import (
    ReflectedRegionsBackgroundMaker,
    ReflectedRegionsFinder,
    SpectrumDatasetMaker,
    WobbleRegionsFinder,
)
from gammapy.maps import MapAxis, RegionGeom
from regions import CircleAnnulusSkyRegion, CircleSkyRegion, PointSkyRegion

import gammajax as gj

CRAB = (83.63308, 22.01450)
SKY = SkyCoord(*CRAB, unit="deg")


@pytest.fixture(scope="module")
def joint_crab():
    """DL3 files of the joint-crab paper, beside the collection of gammapy or where JOINT_CRAB says."""
    beside = Path(os.environ.get("GAMMAPY_DATA", "/nowhere")).parent / "joint-crab"
    path = Path(os.environ.get("JOINT_CRAB", beside))
    if not path.is_dir():
        pytest.skip("set JOINT_CRAB to the folder of the joint-crab data to run this test")
    return path / "data"


def gammapys(folder, region, finder, energies):
    """ON and OFF counts and acceptance ratios of gammapy's makers."""
    axes = (
        MapAxis.from_energy_bounds(*energies, 2, unit="TeV"),
        MapAxis.from_energy_bounds(0.01, 100, 9, unit="TeV", name="energy_true"),
    )
    empty = SpectrumDataset.create(geom=RegionGeom(region, axes=axes[:1]), energy_axis_true=axes[1])
    maker = SpectrumDatasetMaker(selection=["counts"], use_region_center=True)
    background, found = ReflectedRegionsBackgroundMaker(region_finder=finder), []
    for run in DataStore.from_dir(folder).get_observations(required_irf="point-like"):
        data = background.run(maker.run(empty.copy(), run), run)
        ratio = (data.acceptance / data.acceptance_off).data.ravel()[0]
        found.append((data.counts.data.sum(), data.counts_off.data.sum(), ratio))
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, radius, energies", [("magic", 0.1414213, (0.1, 30.0)), ("veritas", 0.1, (0.2, 30.0))])
def test_fixed_cuts_give_the_counts_of_gammapy(joint_crab, name, radius, energies):
    finder = ReflectedRegionsFinder()
    expected = gammapys(joint_crab / name, CircleSkyRegion(SKY, radius * u.deg), finder, energies)
    runs = gj.io.read_on_off(joint_crab / name, target=CRAB, off=finder, energy_range=energies)
    for run, (on, off, ratio) in zip(runs, expected, strict=True):
        assert abs(run.on.size - on) <= 1 and abs(run.off.size - off) <= 2
        assert run.ratio[0] == pytest.approx(ratio)
        assert run.response.containment is None


@pytest.mark.filterwarnings("ignore")
def test_cuts_by_energy_give_the_counts_of_gammapy(gammapy_data):
    folder = gammapy_data / "magic/rad_max/data"
    expected = gammapys(folder, PointSkyRegion(SKY), WobbleRegionsFinder(n_off_regions=1), (0.1, 30.0))
    runs = gj.io.read_on_off(folder, target=SKY, off="wobble", energy_range=(0.1, 30.0))
    # the order of runs is that of the index
    counts = sorted((run.on.size, run.off.size, run.ratio[0]) for run in runs)
    np.testing.assert_allclose(counts, sorted(expected))
    assert np.ptp(runs[0].radius) > 0.1


@pytest.fixture(scope="module")
def hess(gammapy_data):
    return gammapy_data / "hess-dl3-dr1"


def test_full_enclosure_has_the_containment_of_the_region(hess):
    """Response of the file at the region's offset, times the part of its point spread function in the region."""
    run = gj.io.read_on_off(hess, [23523], target=CRAB, radius=0.11, energy_range=(0.66, 30.0))[0]
    data = gj.io.read_gadf(hess, [23523])
    observation = data.observations[0]
    offset = float(observation.offset(*CRAB))
    energy = np.array([1.0, 5.0])
    part = observation.response.psf.containment(energy, np.full(2, offset), np.full(2, 0.11))
    expected = np.asarray(observation.response.area(energy, offset)) * np.asarray(part)
    np.testing.assert_allclose(run.response.area(energy, offset), expected, rtol=2e-3)
    assert run.livetime == pytest.approx(float(observation.livetime))


@pytest.mark.slow
def test_rings_and_excluded_sky(hess):
    """A ring has the background of its solid angle, as the background table weighs it; excluded sky takes its part."""
    options = {"obs_ids": [23523], "target": CRAB, "radius": 0.11, "energy_range": (0.66, 30.0)}
    ring = CircleAnnulusSkyRegion(SKY, 0.3 * u.deg, 0.5 * u.deg)
    whole = gj.io.read_on_off(hess, off=ring, **options)[0]
    solid = 0.11**2 / (0.5**2 - 0.3**2)
    assert whole.ratio.max() == pytest.approx(solid, rel=0.25)
    half = f"icrs; circle({CRAB[0] + 0.45}, {CRAB[1]}, 0.3)"
    some = gj.io.read_on_off(hess, off=ring, exclusion=half, **options)[0]
    assert some.off.size < whole.off.size and np.all(some.ratio > 1.05 * whole.ratio)
    # the same rate of background events
    rates = [run.off.size * run.ratio.mean() for run in (whole, some)]
    assert rates[0] == pytest.approx(rates[1], abs=3.0 * np.sqrt(rates[0] * some.ratio.mean()))
    away = gj.io.read_on_off(hess, off="reflected", exclusion=half, **options)[0]
    assert away.ratio[0] > gj.io.read_on_off(hess, off="reflected", **options)[0].ratio[0]


def test_phases(gammapy_data):
    """ON and OFF phases of one region, in memory; a column PHASE is needed."""
    run = DataStore.from_dir(gammapy_data / "hess-dl3-dr1").get_observations([23523])[0]
    options = {"target": CRAB, "radius": 0.11, "energy_range": (0.66, 30.0)}
    with pytest.raises(ValueError, match="no column PHASE"):
        gj.io.on_off_from_gammapy(run, phase=((0.9, 1.1), (0.3, 0.8)), **options)
    table = run.events.table.copy()
    table["PHASE"] = np.random.default_rng(0).uniform(size=len(table))
    run._events = type(run.events)(table)
    found = gj.io.on_off_from_gammapy(run, phase=((0.9, 1.1), (0.3, 0.8)), **options)[0]
    assert found.ratio[0] == pytest.approx(0.4) and found.part == pytest.approx(0.2)
    all_on = gj.io.on_off_from_gammapy(run, off=[(CRAB[0] + 1.0, CRAB[1])], **options)[0].on.size
    assert found.on.size == pytest.approx(0.2 * all_on, abs=4.0 * np.sqrt(0.16 * all_on))


BAD = {
    "ON and OFF overlap": ({"off": [(83.75, 22.0145)]}, "overlaps the ON region"),
    "OFF regions overlap": ({"off": [(84.5, 22.0), (84.55, 22.0)]}, "overlaps another OFF region"),
    "ring overlaps": ({"off": CircleAnnulusSkyRegion(SKY, 0.05 * u.deg, 0.5 * u.deg)}, "overlaps the ON region"),
    "no OFF regions": ({"off": []}, "there is no OFF region"),
    "OFF is None": ({"off": None}, "without OFF events"),
    "unknown": ({"off": "mirrored"}, "off must be 'reflected'"),
    "no radius": ({"radius": None}, "needs the radius"),
    "negative radius": ({"radius": -1.0}, "must be positive"),
    "far away": ({"target": (80.0, 22.0)}, "deg from the pointing"),
    "no energies": ({"energy_range": (1e3, 1e4)}, "no energies are left"),
    "phases overlap": ({"phase": ((0.9, 1.1), (0.0, 0.5))}, "overlap the OFF phases"),
    "phases": ({"phase": 0.3}, "phase must be ON and OFF intervals"),
    "frame": ({"frame": "fk5"}, "frame must be"),
    "all excluded": ({"exclusion": "icrs; circle(83.63, 22.01, 4)"}, "there is no OFF region"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_line_for_bad_input(hess, case):
    changes, message = BAD[case]
    options = {"target": CRAB, "radius": 0.11, "energy_range": (0.66, 30.0), **changes}
    with pytest.raises(ValueError, match=message) as error:
        gj.io.read_on_off(hess, [23523], **options)
    assert "\n" not in str(error.value)


def test_a_point_like_response_needs_a_radius(gammapy_data, tmp_path):
    source = gammapy_data / "magic/rad_max/data"
    for name in ("hdu-index.fits.gz", "obs-index.fits.gz"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    for path in source.glob("*DL3*.fits"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with fits.open(tmp_path / "hdu-index.fits.gz") as hdus:
        table = hdus[1].data
        hdus[1].data = table[table["HDU_TYPE"] != "rad_max"]
        hdus.writeto(tmp_path / "new.fits.gz")
    (tmp_path / "new.fits.gz").replace(tmp_path / "hdu-index.fits.gz")
    with pytest.raises(ValueError, match="no radius of the cut on direction; it needs an HDU RAD_MAX_2D"):
        gj.io.read_on_off(tmp_path, target=CRAB)


@pytest.mark.parametrize("ratio", [0.0, -1.0, np.nan])
def test_acceptance_ratios_are_positive(hess, ratio):
    run = gj.io.read_on_off(hess, [23523], target=CRAB, radius=0.11, energy_range=(0.66, 30.0))[0]
    with pytest.raises(ValueError, match="acceptance ratio of ON to OFF must be positive"):
        gj.OnOffRun(run.on, run.off, ratio, 1.0, run.response, radius=0.1, energy_min=0.66, energy_max=30.0)
    with pytest.raises(ValueError, match="ON events without OFF events"):
        gj.OnOffRun(run.on, None, 1.0, 1.0, run.response, radius=0.1, energy_min=0.66, energy_max=30.0)


def test_a_cut_of_another_radius_is_refused(joint_crab):
    with pytest.raises(ValueError, match="holds after a cut at 0.1 deg, not at 0.2; leave out radius"):
        gj.io.read_on_off(joint_crab / "veritas", target=CRAB, radius=0.2)
