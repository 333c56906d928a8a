from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from gammapy.data import DataStore
from gammapy.irf import load_irf_dict_from_file
from gammapy.makers.utils import make_map_exposure_true_energy
from gammapy.maps import Map, MapAxis, WcsGeom

import gammajax as gj
from gammajax.io.ctao_prod5 import EMBEDDED

ENERGY = MapAxis.from_energy_bounds("0.1 TeV", "60 TeV", nbin=12, name="energy_true")


def geometry(lon, lat, frame, axes=(ENERGY,), width=5.0):
    place = SkyCoord(lon, lat, unit="deg", frame=frame)
    return WcsGeom.create(skydir=place, width=width, binsz=0.25, frame=frame, axes=list(axes), proj="TAN")


@pytest.fixture(scope="module")
def pair():
    region = "galactic;circle(0.5, 0.5, 0.6)"
    options = {"frame": "galactic", "energy_range": (0.5, 20.0), "livetime": 7200.0}
    return [
        gj.io.ctao("South", pointing=(0.0, 0.0), offset_max=2.0, obs_id="10", **options),
        gj.io.ctao("South", pointing=(1.0, 0.5), offset_max=1.5, obs_id="11", exclusion=region, **options),
    ]


def test_ctao_against_gammapy(pair):
    # another frame than that of the observations
    centre = SkyCoord(0.0, 0.0, unit="deg", frame="galactic")
    geom = geometry(centre.icrs.ra.deg, centre.icrs.dec.deg, "icrs")
    ours = gj.exposure(pair, geom, masked=False)
    path = Path(gj.__file__).parent / "data" / EMBEDDED["South", 20, 50]
    area = load_irf_dict_from_file(path)["aeff"]
    theirs = []
    for number, place in enumerate([(0.0, 0.0), (1.0, 0.5)]):
        pointing = SkyCoord(*place, unit="deg", frame="galactic")
        theirs.append(make_map_exposure_true_energy(pointing, 7200 * u.s, area, geom).quantity.to_value("cm2 s"))
        seen = theirs[-1] > 1e-4 * theirs[-1].max()
        np.testing.assert_allclose(ours.observations[number].data[seen], theirs[-1][seen], rtol=1e-3)
    seen = sum(theirs) > 1e-4 * sum(theirs).max()
    np.testing.assert_allclose(ours.total.data[seen], sum(theirs)[seen], rtol=1e-3)
    assert ours.total.unit == "cm2 s"


def test_hess_against_gammapy(gammapy_data):
    store = gammapy_data / "hess-dl3-dr1"
    observation = gj.io.read_gadf(store, obs_ids=[23523], offset_max=2.0).observations[0]
    theirs = DataStore.from_dir(store).get_observations([23523])[0]
    pointing = theirs.get_pointing_icrs(theirs.tmid)
    geom = geometry(pointing.ra.deg, pointing.dec.deg, "icrs", width=3.5)
    ours = gj.exposure(observation, geom)
    expected = make_map_exposure_true_energy(pointing, theirs.observation_live_time_duration, theirs.aeff, geom)
    expected = expected.quantity.to_value("cm2 s")
    seen = (expected > 1e-4 * expected.max()) & ours.masks[0].data
    assert seen.sum() > 1000
    np.testing.assert_allclose(ours.total.data[seen], expected[seen], rtol=1e-3)


def test_masks(pair):
    whole, masked = (gj.exposure(pair, geometry(0.0, 0.0, "galactic"), masked=m) for m in (False, True))
    centres = masked.masks[0].geom.get_coord().skycoord
    away = [centres.separation(pointing).deg for pointing in masked.pointings]
    hole = centres.separation(SkyCoord(0.5, 0.5, unit="deg", frame="galactic")).deg
    np.testing.assert_array_equal(masked.masks[0].data, away[0] < 2.0)
    clear = np.abs(hole - 0.6) > 0.02  # the raster of excluded sky
    np.testing.assert_array_equal(masked.masks[1].data[clear], ((away[1] < 1.5) & (hole > 0.6))[clear])
    for one, other, mask, same in zip(masked.observations, whole.observations, masked.masks, whole.masks, strict=True):
        np.testing.assert_array_equal(one.data, np.where(mask.data, other.data, 0.0))
        np.testing.assert_array_equal(mask.data, same.data)
    np.testing.assert_allclose(masked.total.data, sum(one.data for one in masked.observations))


def test_file(pair, tmp_path):
    result = gj.exposure(pair, geometry(0.0, 0.0, "galactic"))
    path = result.write(tmp_path / "exposure.fits.gz")
    assert [file.name for file in tmp_path.iterdir()] == ["exposure.fits.gz"]
    for name, one in {"EXPOSURE": result.total, "EXPOSURE_1": result.observations[1]}.items():
        read = Map.read(path, hdu=name)
        assert read.unit == "cm2 s" and read.geom.axes.names == ["energy_true"]
        np.testing.assert_allclose(read.data, one.data, rtol=1e-6)
    np.testing.assert_array_equal(Map.read(path, hdu="MASK_1").data, result.masks[1].data)
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        result.write(path)
    result.write(path, overwrite=True)


def test_image_gets_energies_and_a_plot(pair):
    result = gj.exposure(pair, geometry(0.0, 0.0, "galactic", axes=()))
    energy = result.total.geom.axes["energy_true"]
    assert energy.nbin == pytest.approx(10 * np.log10(float(energy.edges[-1] / energy.edges[0])), abs=1.0)
    figure = result.plot()
    figure.canvas.draw()
    assert figure.axes[0].get_xlabel() == "Galactic longitude [deg]"
    assert figure.axes[-1].get_ylabel() == "exposure [cm$^2$ s]"


def test_errors(pair):
    with pytest.raises(ValueError, match="geom must be a gammapy.maps.WcsGeom.* not str"):
        gj.exposure(pair, "all sky")
    with pytest.raises(ValueError, match=r"with the axes \['energy'\]"):
        gj.exposure(pair, geometry(0.0, 0.0, "icrs", axes=[ENERGY.copy(name="energy")]))
    with pytest.raises(ValueError, match="at least one observation"):
        gj.exposure([], geometry(0.0, 0.0, "icrs"))
