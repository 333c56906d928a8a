import os
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS
from gammapy.maps import Map
from gammapy.modeling.models import TemplateSpatialModel

import gammajax as gj

MEV = np.array([1e4, 1e5, 4e5, 8e5])  # energies of the planes
BRIGHTNESS = "TeV-1 cm-2 s-1 sr-1"


@eqx.filter_jit
def evaluate(source, energy, lon, lat):
    return source.spectrum(energy) * source.morphology.at(energy).brightness(lon, lat)


def ours(source, energy, lon, lat):
    return np.asarray(evaluate(source, *map(jnp.asarray, (energy, lon, lat))), np.float64)


def header():
    """8 x 6 deg about the Galactic centre in pixels of 0.1 deg."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["GLON-CAR", "GLAT-CAR"], [0.0, 0.0]
    wcs.wcs.cdelt, wcs.wcs.crpix = [-0.1, 0.1], [40.5, 30.5]
    return wcs.to_header()


def write_cube(path, planes=4):
    """Layout of Fermi-LAT, with an index that grows from the Galactic plane outwards."""
    lat = (np.arange(60) - 29.5) * 0.1 * np.ones((80, 1))
    index = 2.3 + 0.1 * np.abs(lat.T)
    values = 1e-10 * (MEV[:planes, None, None] / 1e4) ** -index * np.exp(-0.2 * np.abs(lat.T))
    table = fits.BinTableHDU.from_columns([fits.Column("Energy", "D", "MeV", array=MEV[:planes])], name="ENERGIES")
    fits.HDUList([fits.PrimaryHDU(values, header()), table]).writeto(path)
    return path


@pytest.fixture(scope="module")
def cube_file(tmp_path_factory):
    return write_cube(tmp_path_factory.mktemp("cube") / "galaxy.fits")


def test_a_cube_of_fermi_against_gammapy(cube_file, tmp_path):
    source = gj.io.read_cube(cube_file, "galactic")
    assert isinstance(source.morphology, gj.TemplateCube)
    energy = np.array([0.01, 0.03, 0.1, 0.2, 0.5, 0.79])
    truth = TemplateSpatialModel(Map.read(cube_file), normalize=False, filename="-")
    for lon, lat in ((0.05, 0.15), (-2.33, 1.51), (1.2, -2.6)):
        expected = truth.evaluate(lon * u.deg, lat * u.deg, energy * u.TeV).to_value(BRIGHTNESS)
        # pixels of 0.1 deg, over which the brightness changes by up to 8 %, against linear interpolation
        np.testing.assert_allclose(ours(source, energy, lon, lat), expected, rtol=0.04)
        # and in energy half a pixel of index, 0.005
        ratio = ours(source, energy, lon, lat) / expected
        np.testing.assert_allclose(ratio / ratio[0], 1.0, rtol=0.025)
    # a part of it, from gammapy's own file
    sky = Map.read(cube_file)
    sky.write(tmp_path / "gammapy.fits")
    part = gj.io.read_cube(tmp_path / "gammapy.fits", "galactic", lon=0.0, lat=0.0, radius=1.0)
    assert float(part.morphology.radius) < 2.0
    whole = ours(source, energy, 0.42, -0.33)
    np.testing.assert_allclose(ours(part, energy, 0.42, -0.33), whole, rtol=0.04)


def test_beyond_the_energies_of_a_file(cube_file):
    source = gj.io.read_cube(cube_file, "galactic", energy_range=(0.003, 50.0))
    total = np.asarray(source.spectrum(jnp.asarray([0.003, 0.01, 0.1, 0.4, 0.8, 1.6, 49.0])), np.float64)
    # power laws through the outer two planes
    assert total[5] / total[4] == pytest.approx(total[4] / total[3], rel=1e-4)
    assert np.log(total[6] / total[4]) / np.log(49.0 / 0.8) == pytest.approx(np.log2(total[4] / total[3]), rel=1e-4)
    assert np.log(total[0] / total[1]) / np.log(0.3) == pytest.approx(np.log10(total[2] / total[1]), rel=1e-4)
    # Int exp(-slope |b|) over the map
    slope = 0.2 + 0.1 * np.log(80.0)
    solid_angle = np.radians(1.0) ** 2 * 8.0 * 2.0 * (1.0 - np.exp(-3.0 * slope)) / slope
    assert total[4] == pytest.approx(1e-10 * 80.0**-2.3 * 1e6 * solid_angle, rel=5e-3)
    closed = gj.io.read_cube(cube_file, "galactic", energy_range=None)
    assert float(closed.spectrum(jnp.asarray(0.9))) == 0.0 < float(closed.spectrum(jnp.asarray(0.79)))
    high = gj.io.read_cube(cube_file, "galactic", energy_range=(1.0, 50.0))
    np.testing.assert_allclose(np.asarray(high.morphology.energy), [0.4, 0.8], rtol=1e-6)
    np.testing.assert_allclose(
        high.spectrum(jnp.asarray([1.5, 20.0])), source.spectrum(jnp.asarray([1.5, 20.0])), rtol=1e-4
    )


def test_a_cube_must_cover_the_field(cube_file, make_observation):
    source = gj.io.read_cube(cube_file, "galactic")
    far = [make_observation(lat=lat, obs_id="7") for lat in (0.9, 1.5)]
    source.morphology.check_field(far[0])
    message = (
        r"galaxy.fits: the template does not cover the field of observation 7, 2 deg about \(0, 1.5\) deg: it ends 1.5"
    )
    for use in (
        lambda: gj.expected_counts(source, far),
        lambda: gj.simulate(jax.random.key(0), source, far[1]),
        lambda: gj.intensity(source, far[1], gj.Events([1.0], [0.0], [1.5])),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    # an image cut by its reader; a map that fades, or ends elsewhere, is none of it
    image = gj.TemplateMap(source.morphology.grid, source.morphology.values[0], source.morphology.edge)
    with pytest.raises(ValueError, match="does not cover"):
        image.check_field(far[1])
    gj.TemplateMap(image.grid, image.values).check_field(far[1])


def test_isotropic(tmp_path):
    path = tmp_path / "iso.txt"
    path.write_text("".join(f"{e:.6g} {1e-7 * (e / 100.0) ** -2.3:.8g} 1e-9\n" for e in np.geomspace(100.0, 5e5, 30)))
    source = gj.io.read_isotropic(path, 30.0, 2.0)
    energy = np.array([0.01, 0.3, 0.5, 10.0, 300.0])
    expected = 1e-7 * (energy * 1e4) ** -2.3 * 1e6
    np.testing.assert_allclose(ours(source, energy, 12.0, -40.0), expected, rtol=1e-4)
    assert float(source.spectrum(jnp.asarray(501.0))) == 0.0
    assert float(source.morphology.lon) == 30.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_text("no cube"), "cannot be read as a map"),
        (lambda path: write_cube(path, planes=1), "two energies at least"),
        (
            lambda path: fits.writeto(path, np.ones((60, 80)), header()),
            "a cube has planes at several energies; this is a map with a celestial projection with the axes",
        ),
    ],
)
def test_bad_cubes(change, message, tmp_path):
    change(tmp_path / "bad.fits")
    with pytest.raises(ValueError, match=message) as error:
        gj.io.read_cube(tmp_path / "bad.fits", "galactic")
    assert "bad.fits" in str(error.value)


def test_bad_units_and_tables(cube_file, tmp_path):
    with pytest.raises(ValueError, match="the values are in '1 / sr', which is no flux per solid angle"):
        gj.io.read_cube(cube_file, "galactic", unit="sr-1")
    per_tev = gj.io.read_cube(cube_file, "galactic", unit="ph cm-2 s-1 TeV-1 sr-1")
    again = gj.io.read_cube(cube_file, "galactic")
    assert float(again.spectrum(jnp.asarray(0.1)) / per_tev.spectrum(jnp.asarray(0.1))) == pytest.approx(1e6, rel=1e-4)
    (tmp_path / "iso.txt").write_text("100.0\n200.0\n")
    with pytest.raises(ValueError, match="iso.txt cannot be read as energies and fluxes"):
        gj.io.read_isotropic(tmp_path / "iso.txt")
    for read in (gj.io.read_cube, gj.io.read_isotropic):
        with pytest.raises(FileNotFoundError, match="none.fits: no such"):
            read(tmp_path / "none.fits")


def test_the_diffuse_files_of_gammabayes(ctao_south):
    root = os.environ.get("GAMMABAYES_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip(
            "set GAMMABAYES_DATA to gammabayes/dark_matter/spectral_models to read the files of its package_data"
        )
    folder = Path(root).parents[1] / "package_data"
    source = gj.io.read_cube(folder / "gll_iem_v06_gc.fits.gz", "galactic")
    sky = Map.read(folder / "gll_iem_v06_gc.fits.gz")
    truth = TemplateSpatialModel(sky, normalize=False, filename="-")
    energy = np.array([0.02, 0.1, 0.5])
    x, y = (a.ravel() for a in np.meshgrid(*(np.arange(-3.0, 3.0, 0.03),) * 2))
    expected = [truth.evaluate(x * u.deg, y * u.deg, e * u.TeV).to_value(BRIGHTNESS).mean() for e in energy]
    means = [ours(source, np.full(x.size, e), x, y).mean() for e in energy]
    np.testing.assert_allclose(means, expected, rtol=5e-3)
    isotropic = gj.io.read_isotropic(folder / "iso_P8R2_SOURCE_V6_v06.txt")
    # the last line of the file
    assert ours(isotropic, np.array([0.877938]), 0.0, 0.0)[0] == pytest.approx(2.74918e-10, rel=1e-4)
    # the isotropic background is a few per cent of the Galaxy within 2 deg of its centre
    counts = [float(gj.expected_counts(s, ctao_south)) for s in (source, isotropic)]
    assert 0.005 < counts[1] / counts[0] < 0.1
