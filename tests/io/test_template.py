import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy_healpix import HEALPix

import gammajax as gj

CENTRE = SkyCoord(184.55, -5.8, unit="deg", frame="galactic")  # of the Gaussian in the maps
SIGMA = 0.3


@eqx.filter_jit
def brightness(morphology, lon, lat):
    return morphology.brightness(lon, lat)


def gaussian(at):
    return np.exp(-0.5 * (at.separation(CENTRE).deg / SIGMA) ** 2)


def write_image(path, data=None):
    """A Gaussian on plate-carree pixels of 0.05 deg by 0.05 deg in galactic coordinates."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["GLON-CAR", "GLAT-CAR"], [184.0, 0.0]
    wcs.wcs.cdelt, wcs.wcs.crpix = [-0.05, 0.05], [40.5, 160.5]
    x, y = np.meshgrid(np.arange(80.0), np.arange(80.0))
    at = SkyCoord(*wcs.wcs_pix2world(x, y, 0), unit="deg", frame="galactic")
    fits.writeto(path, gaussian(at) if data is None else data, wcs.to_header())
    return path


def write_healpix(path, nest=True, system="G", explicit=False, nside=256):
    """The same Gaussian; the directions of the pixels are found by lookup, by means over what falls into each."""
    random = np.random.default_rng(0)
    rad = 2.5 * np.sqrt(random.uniform(size=400_000))
    at = CENTRE.directional_offset_by(random.uniform(0, 360, rad.size) * u.deg, rad * u.deg)
    seen = at if system == "G" else at.icrs
    pixels = HEALPix(nside, "nested" if nest else "ring")
    pixel = pixels.lonlat_to_healpix(seen.spherical.lon, seen.spherical.lat)
    count = np.bincount(pixel, minlength=12 * nside**2)
    values = np.bincount(pixel, gaussian(at), 12 * nside**2) / np.maximum(count, 1)
    return write_pixels(path, values, nest, system, np.flatnonzero(count) if explicit else None)


def write_pixels(path, values, nest, system="G", some=None):
    """All values, or `some` with the numbers of their pixels."""
    columns = [fits.Column("SIGNAL", "E", array=values)]
    if some is not None:
        columns = [fits.Column("PIX", "J", array=some), fits.Column("SIGNAL", "E", array=values[some])]
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update(
        PIXTYPE="HEALPIX", ORDERING="NESTED" if nest else "RING", COORDSYS=system, NSIDE=int((values.size / 12) ** 0.5),
        INDXSCHM="IMPLICIT" if some is None else "EXPLICIT",
    )  # fmt: skip
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


WRITERS = {
    "image": write_image,
    "nested": write_healpix,
    "ring": lambda path: write_healpix(path, nest=False, system="C"),
    "partial": lambda path: write_healpix(path, explicit=True),
}


@pytest.mark.parametrize("frame", ["icrs", "galactic"])
@pytest.mark.parametrize("name", WRITERS)
def test_map_of_a_gaussian(name, frame, tmp_path):
    template = gj.io.read_template(WRITERS[name](tmp_path / "map.fits"), frame, step=0.1)
    random = np.random.default_rng(1)
    at = CENTRE.directional_offset_by(random.uniform(0, 360, 4000) * u.deg, random.uniform(0, 0.9, 4000) * u.deg)
    at = at.transform_to(frame).spherical
    value = np.asarray(brightness(template, jnp.asarray(at.lon.deg), jnp.asarray(at.lat.deg)), np.float64)
    # pixels add a twelfth of the squares of their sides, of the map (0.05 or 0.23 deg) and of the grid
    # the values of the HEALPix maps are themselves averages over pixels
    width2 = SIGMA**2 + (0.05**2 if name == "image" else 2.0 * 0.229**2) / 12 + 0.1**2 / 12
    rad = SkyCoord(at, frame=frame).separation(CENTRE).deg
    expected = np.exp(-0.5 * rad**2 / width2) / (2.0 * np.pi * np.radians(1.0) ** 2 * width2)
    # half a pixel of either map, times the slope
    assert np.abs(value - expected).max() < 0.4 * expected.max()
    assert np.abs((value - expected).mean()) < 1e-2 * expected.mean()
    # centre and width of the whole
    x, y = np.meshgrid(*(np.asarray(template.grid.coordinates, float),) * 2)
    lon, lat = (np.asarray(c, float) for c in eqx.filter_jit(lambda grid: grid.directions())(template.grid))
    sky = SkyCoord(lon, lat, unit="deg", frame=frame)
    weight = np.asarray(template.values, np.float64) * template.grid.solid_angle
    assert weight.sum() == pytest.approx(1.0, abs=1e-5)
    away = CENTRE.transform_to(frame).spherical_offsets_to(sky)
    np.testing.assert_allclose([(weight * c.deg).sum() for c in away], 0.0, atol=5e-3)
    np.testing.assert_allclose([(weight * c.deg**2).sum() for c in away], width2, rtol=3e-2)


def test_part_of_a_map(tmp_path):
    path = write_healpix(tmp_path / "map.fits")
    centre = CENTRE.icrs
    template = gj.io.read_template(path, lon=centre.ra.deg, lat=centre.dec.deg, radius=0.5, step=0.05)
    assert float(template.lon) == pytest.approx(centre.ra.deg) and float(template.radius) < 1.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((80, 80)), "the map is empty"),
        (np.full((80, 80), np.nan), "the map is empty"),
        (-np.ones((80, 80)), "finite, non-negative"),
        (np.ones((3, 80, 80)), "cannot be read as a map|must be an image"),
    ],
)
def test_bad_maps(data, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        gj.io.read_template(write_image(tmp_path / "map.fits", data), "galactic")
    assert "map.fits" in str(error.value) and "\n" not in str(error.value)


def test_bad_arguments(tmp_path):
    path = write_image(tmp_path / "map.fits")
    with pytest.raises(FileNotFoundError, match="no such map"):
        gj.io.read_template(tmp_path / "none.fits")
    with pytest.raises(ValueError, match="frame must be"):
        gj.io.read_template(path, "fk5")
    with pytest.raises(ValueError, match="more than 2000 pixels a side; give lon, lat and radius"):
        gj.io.read_template(path, step=1e-3)
    (tmp_path / "text.fits").write_text("no map")
    with pytest.raises(ValueError, match="cannot be read as a map"):
        gj.io.read_template(tmp_path / "text.fits")
