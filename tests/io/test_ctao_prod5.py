"""Observations with embedded responses or those of a file; orientation of the field of view."""

import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from gammapy.irf import load_irf_dict_from_file
from gammapy.utils.coordinates import FoVAltAzFrame, sky_to_fov

import gammajax.io
from gammajax.io import ctao, observation
from gammajax.io.pointing import fov_angle

DATA = Path(gammajax.io.__file__).parents[1] / "data"
LOCATION = EarthLocation.from_geodetic(16.5 * u.deg, -23.27 * u.deg, 1835 * u.m)
TIME = Time(53343.93, format="mjd", scale="tt")


@pytest.mark.slow
def test_import_is_light():
    code = "import sys, gammajax.io; print({'gammapy', 'astropy', 'regions', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("site", ["South", "north"])
def test_embedded_response_against_gammapy(site):
    response = ctao(site, pointing=(0.0, 0.0)).response
    import gammajax.io.irf as irf

    path = next(
        p for p in (irf.Path(irf.__file__).parents[1] / "data").glob("Prod5*") if site.lower() in p.name.lower()
    )
    irfs = load_irf_dict_from_file(path)
    random = np.random.default_rng(2)
    energy, offset = np.exp(random.uniform(np.log(0.1), np.log(50.0), 300)), random.uniform(0.0, 3.0, 300)
    rad, migra = random.uniform(0.0, 0.2, 300), random.uniform(0.7, 1.3, 300)
    at = {"energy_true": energy * u.TeV, "offset": offset * u.deg}
    edisp = irfs["edisp"]
    edisp.normalize()
    lon, lat = offset * np.cos(7 * offset), offset * np.sin(7 * offset)
    psf = irfs["psf"].evaluate(rad=rad * u.deg, **at)
    rate = irfs["bkg"].evaluate(energy=energy * u.TeV, fov_lon=lon * u.deg, fov_lat=lat * u.deg)
    for value, expected in [
        (eqx.filter_jit(response.area)(energy, offset), irfs["aeff"].evaluate(**at).to_value("cm2")),
        (eqx.filter_jit(response.psf.density)(energy, offset, rad), psf.to_value("sr-1")),
        (eqx.filter_jit(response.background.rate)(energy, lon, lat), rate.to_value("s-1 TeV-1 sr-1")),
    ]:
        np.testing.assert_allclose(value, expected, rtol=3e-4, atol=1e-6 * expected.max())
    # the profiles are noisy: a step from zero to the peak within one migra bin of 0.01. Nearer to the pointing than
    # the first offset of the table gammapy leaves the extrapolated profiles unnormalised
    offset = np.maximum(offset, 0.5)
    expected = edisp.evaluate(migra=migra, energy_true=energy * u.TeV, offset=offset * u.deg).to_value("") / energy
    value = eqx.filter_jit(response.energy_dispersion.density)(energy * migra, energy, offset)
    np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_dispersion_inside_the_first_offset_is_the_one_gammapy_extrapolates(offset, ctao_south):
    # what gammapy cuts off at zero leaves an integral above one, which ours divides by
    path = next(p for p in DATA.glob("Prod5-South*"))
    dispersion = load_irf_dict_from_file(path)["edisp"]
    dispersion.normalize()
    migra = np.linspace(0.0, 3.0, 1201)
    for energy in (0.2, 1.7, 11.6):
        true = np.geomspace(energy / 2.0, energy / 0.5, 500)
        values = dispersion.evaluate(energy_true=true[:, None] * u.TeV, migra=migra, offset=offset * u.deg).value
        theirs = dispersion.evaluate(energy_true=true * u.TeV, migra=energy / true, offset=offset * u.deg).value
        theirs = theirs / true / np.trapezoid(values, migra, axis=1)
        ours = ctao_south.response.energy_dispersion.density(energy, jnp.asarray(true), jnp.full(500, offset))
        folded = [np.trapezoid(density * true**-1.5, np.log(true)) for density in (np.asarray(ours, float), theirs)]
        assert folded[0] == pytest.approx(folded[1], rel=5e-3)


def test_observation_values():
    run = ctao(
        "SOUTH",
        20 * u.deg,
        50 * u.h,
        pointing=SkyCoord(0.5, -1.0, unit="deg", frame="galactic"),
        frame="galactic",
        livetime=2 * u.h,
        energy_range=[200, 5000] * u.GeV,
        offset_max=150 * u.arcmin,
        obs_id="7",
    )
    np.testing.assert_allclose([run.lon, run.lat, run.livetime], [0.5, -1.0, 7200.0], rtol=1e-6)
    np.testing.assert_allclose([run.energy_min, run.energy_max, run.offset_max], [0.2, 5.0, 2.5])
    assert run.obs_id == "7" and run.frame == "galactic"
    other = ctao(pointing=(1 * u.deg, 60 * u.arcmin))
    assert other.response is run.response and float(other.livetime) == 180000.0


def test_shared_fixture(ctao_south):
    assert ctao_south.frame == "galactic" and ctao_south.offset_max == 3.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"site": "East"}, "site='East'.*embedded: site='South', zenith=20, hours=50; site='North'.*read_irf"),
        ({"zenith": 40}, "no embedded CTAO response for site='South', zenith=40, hours=50"),
        ({"hours": 5}, "hours=5"),
        ({"pointing": 3.0}, "pointing must be"),
        ({"livetime": -1.0}, "livetime must be positive"),
        ({"energy_range": (1.0, 0.1)}, "energy range must be increasing"),
        ({"frame": "fk5"}, "frame must be"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ctao(**{"pointing": (0.0, 0.0), **arguments})


@pytest.mark.parametrize("frame", ["icrs", "galactic"])
def test_fov_coordinates_against_gammapy(frame):
    pointing = SkyCoord(83.6, 21.5, unit="deg")
    run = ctao(pointing=pointing, frame=frame)
    sky = pointing.directional_offset_by(np.arange(0, 360, 30) * u.deg, np.linspace(0.1, 3.0, 12) * u.deg)
    lon, lat = sky_to_fov(sky.ra, sky.dec, pointing.ra, pointing.dec)
    there = sky.transform_to(frame).spherical
    fov_lon, fov_lat = eqx.filter_jit(run.fov_coordinates)(there.lon.deg, there.lat.deg)
    np.testing.assert_allclose(fov_lon, lon.deg, atol=1e-4)
    np.testing.assert_allclose(fov_lat, lat.deg, atol=1e-4)


@pytest.mark.parametrize("frame", ["icrs", "galactic"])
def test_altaz_rate_against_gammapy(frame, tmp_path, write):
    path = write(tmp_path / "irf.fits", "aeff", "edisp", "psf_king", "bkg_altaz")
    pointing = SkyCoord(83.6, 21.5, unit="deg")
    there = pointing.transform_to(frame).spherical
    angle = fov_angle(there.lon.deg, there.lat.deg, frame, "ALTAZ", LOCATION, TIME)
    run = observation(path, pointing=pointing, livetime=100.0, frame=frame, fov_angle=angle)
    sky = pointing.directional_offset_by(np.arange(0, 360, 30) * u.deg, np.linspace(0.1, 3.0, 12) * u.deg)
    origin = pointing.transform_to(AltAz(location=LOCATION, obstime=TIME))
    fov = sky.transform_to(FoVAltAzFrame(origin=origin, location=LOCATION, obstime=TIME))
    table = load_irf_dict_from_file(path)["bkg"]
    expected = table.evaluate(energy=1 * u.TeV, fov_lon=fov.fov_lon, fov_lat=fov.fov_lat).to_value("s-1 TeV-1 sr-1")
    there = sky.transform_to(frame).spherical
    value = eqx.filter_jit(run.background)(np.ones(12), there.lon.deg, there.lat.deg)
    np.testing.assert_allclose(value, 100.0 * expected, rtol=1e-4)
    with pytest.raises(ValueError, match="FOVALIGN = ALTAZ.*pass fov_angle"):
        observation(path, pointing=pointing, livetime=100.0)
    with pytest.raises(ValueError, match="FOVALIGN is 'TILTED'"):
        fov_angle(0.0, 0.0, "icrs", "TILTED")


def test_future_times_need_no_network():
    angle = fov_angle(83.6, 21.5, "icrs", "ALTAZ", LOCATION, Time(66000.1, format="mjd", scale="tt"))
    assert np.isfinite(angle)
