"""Off runs, and backgrounds that gammapy reads."""

import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from gammapy.irf import Background3D

import gammajax as gj
from gammajax.io.irf import response_from_gammapy

BACKGROUND = gj.InstrumentBackground(
    norm=1.2,
    tilt=0.1,
    correction=gj.BackgroundCorrection(
        np.array([0.2, -0.1, 0.3]),
        np.array([0.0, 0.2, -0.2]),
        np.array([[0.15], [-0.05]]),
        (0.6, 2.0, 7.0),
        (0.0, 1.0, 2.0),
    ),
)


@pytest.mark.parametrize("alignment", ["RADEC", "ALTAZ"])
def test_gammapy_reads_what_is_written(alignment, tmp_path, observation, functions):
    path = tmp_path / "new" / "bkg.fits"
    gj.io.write_background(path, BACKGROUND, observation, alignment=alignment, live_fraction=0.9)
    read = Background3D.read(path)
    assert read.fov_alignment.value == alignment
    energy, lon, lat = 1.7, 0.63, -0.41
    # gammapy's longitude grows westwards for RADEC, as here, and eastwards for ALTAZ
    east = -1.0 if alignment == "ALTAZ" else 1.0
    value = read.evaluate(energy=energy * u.TeV, fov_lon=east * lon * u.deg, fov_lat=lat * u.deg)
    rate = observation.response.background.rate(*map(jnp.asarray, (energy, lon, lat)))
    expected = 0.9 * float(rate * BACKGROUND.corrected(jnp.asarray(energy), lon, lat))
    assert value.to_value("s-1 TeV-1 sr-1") == pytest.approx(expected, rel=2e-3)  # linear between centres
    centre = read.axes["energy"].center[3], read.axes["fov_lon"].center[4], read.axes["fov_lat"].center[12]
    at = [jnp.asarray(float(c.value)) for c in centre]
    rate = observation.response.background.rate(at[0], east * at[1], at[2])
    exact = 0.9 * float(rate * BACKGROUND.corrected(at[0], east * at[1], at[2]))
    names = dict(zip(("energy", "fov_lon", "fov_lat"), centre, strict=True))
    assert read.evaluate(**names).to_value("s-1 TeV-1 sr-1") == pytest.approx(exact, rel=1e-5)
    # and so does gammajax: the background of an observation with this file
    response = response_from_gammapy(
        functions["aeff"], functions["edisp"], functions["psf_king"], read, "a", warn=False
    )
    again = float(response.background.rate(*map(jnp.asarray, (energy, lon, lat))))
    assert again == pytest.approx(expected, rel=2e-3)


def test_the_mean_of_runs_is_weighted_with_their_livetimes(tmp_path, make_observation):
    runs = [make_observation(), make_observation(lon=30.0, livetime=12000.0)]
    norms = gj.InstrumentBackground(norm=[1.0, 2.0])
    gj.io.write_background(tmp_path / "bkg.fits", norms, runs, alignment="RADEC")
    one = Background3D.read(tmp_path / "bkg.fits")
    gj.io.write_background(tmp_path / "bkg.fits", gj.InstrumentBackground(), runs, alignment="RADEC", overwrite=True)
    np.testing.assert_allclose(one.data / Background3D.read(tmp_path / "bkg.fits").data, 1.25, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alignment": None}, "alignment of the field of view must be 'RADEC' or 'ALTAZ', not None"),
        ({"live_fraction": 0.0}, "above 0 and at most 1, not 0.0"),
        ({"lon_edges": [1.0, 0.0, 2.0]}, "lon_edges must be at least three numbers that increase"),
        ({"energy_edges": [-1.0, 1.0, 2.0]}, "energy_edges must be"),
        ({"background": gj.InstrumentBackground(norm=[1.0, 2.0])}, "give one number, or 1"),
    ],
)
def test_errors_of_writing(changes, message, tmp_path, observation):
    arguments = {"background": BACKGROUND, "observations": observation, "alignment": "RADEC", **changes}
    with pytest.raises(ValueError, match=message):
        gj.io.write_background(tmp_path / "bkg.fits", **arguments)
    assert not list(tmp_path.iterdir())
    (tmp_path / "bkg.fits").touch()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        gj.io.write_background(tmp_path / "bkg.fits", BACKGROUND, observation, alignment="RADEC")


def test_off_runs_are_those_of_the_index(gammapy_data, tmp_path):
    folder = gammapy_data / "hess-dl3-dr1"
    with pytest.raises(ValueError, match=r"no off runs, .* target 'off data'; did you mean 'Off data'\?"):
        gj.io.read_off_runs(folder, "off data")
    events, observations = gj.io.read_off_runs(folder, "1ES 0414+009", energy_range=(0.5, 20.0), offset_max=1.5)
    with fits.open(folder / "obs-index.fits.gz") as hdus:
        table = hdus[1].data
        chosen = table["OBS_ID"][table["OBJECT"] == "1ES 0414+009"]
    assert [o.obs_id for o in observations] == [str(i) for i in chosen]
    same, _ = gj.io.read_gadf(folder, chosen.tolist(), energy_range=(0.5, 20.0), offset_max=1.5)
    np.testing.assert_array_equal(events.energy, same.energy)
