"""Maps and cubes on HEALPix pixels, against gammapy with healpy."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from gammapy.maps import HpxGeom, HpxNDMap, MapAxis, WcsGeom, WcsNDMap
from gammapy.modeling import models as gp
from gammapy.modeling.models import SkyModel

import gammajax as gj
from gammajax.io.skymap import from_gammapy_map, read_map

ENERGY = np.array([0.05, 0.2, 0.8])  # TeV, of the planes
FLUX = "cm-2 s-1 TeV-1 sr-1"


def galaxy(nest=False, frame="galactic", nside=64, **region):
    """A cube of a Galaxy that steepens with latitude, as gammapy has it."""
    axis = MapAxis.from_nodes(ENERGY, unit="TeV", name="energy_true", interp="log")
    geom = HpxGeom.create(nside=nside, nest=nest, frame=frame, axes=[axis], **region)
    lat = geom.to_image().get_coord().skycoord.galactic.b.deg
    values = 1e-9 * (ENERGY[:, None] / 0.2) ** -(2.3 + 0.1 * np.abs(lat)) * np.exp(-0.2 * np.abs(lat))
    return HpxNDMap(geom, values.reshape(geom.data_shape), unit=FLUX)


@eqx.filter_jit
def evaluate(source, energy, lon, lat):
    return source.spectrum(energy) * source.morphology.at(energy).brightness(lon, lat)


def assert_the_galaxy(source, factor=1.0):
    """Means over 10 pixels' worth of directions near the Galactic centre, against the closed form."""
    random = np.random.default_rng(0)
    lon, lat = random.uniform(-4.0, 4.0, 6000), random.uniform(-4.0, 4.0, 6000)
    for energy in (0.05, 0.1, 0.5):
        expected = 1e-9 * (energy / 0.2) ** -(2.3 + 0.1 * np.abs(lat)) * np.exp(-0.2 * np.abs(lat))
        value = np.asarray(evaluate(source, *map(jnp.asarray, (np.full(lon.size, energy), lon, lat))), np.float64)
        # pixels of 0.92 deg, a curvature of 0.2^2 / 24 per deg^2, and the kink at the plane
        assert value.mean() == pytest.approx(factor * expected.mean(), rel=1.5e-2)
        assert np.abs(value / expected / factor - 1.0).max() < 0.3


def test_pixel_numbers(tmp_path):
    # numbers of healpy.ang2pix 1.20 (lonlat=True) for a few directions in caps, belt and at the edges of faces
    lon = np.array([0.0, 45.0, 130.0, 222.2, 359.99, 90.0, 271.3, 10.0])
    lat = np.array([90.0, 41.81, 60.0, -5.0, 0.0, -90.0, -77.0, 12.3])
    expected = {
        "RING": [0, 552, 194, 1671, 1567, 3069, 3027, 1186],
        "NESTED": [255, 63, 462, 2814, 1173, 2304, 2848, 1232],
    }
    for order, numbers in expected.items():
        table = fits.BinTableHDU.from_columns([fits.Column("SIGNAL", "E", array=np.arange(12.0 * 16**2))])
        table.header.update(PIXTYPE="HEALPIX", ORDERING=order, COORDSYS="G", NSIDE=16)
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / f"{order}.fits")
        np.testing.assert_array_equal(read_map(tmp_path / f"{order}.fits").values_at(lon, lat), numbers)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("gadf", {}),
        ("gadf", {"nest": True, "frame": "icrs"}),
        ("gadf", {"region": "DISK(0.0,0.0,20.0)"}),
        ("fgst-template", {}),
    ],
)
def test_cubes_that_gammapy_writes(format, options, tmp_path):
    sky = galaxy(**options)
    sky.write(tmp_path / "cube.fits", format=format)
    ours = read_map(tmp_path / "cube.fits")
    random = np.random.default_rng(1)
    lon, lat = random.uniform(0.0, 360.0, 500), np.degrees(np.arcsin(random.uniform(-1.0, 1.0, 500)))
    lon[:100], lat[:100] = random.uniform(-8.0, 8.0, (2, 100))  # of which a disk has some
    if options.get("frame") == "icrs":
        lon[:100] += 266.4
    expected = [sky.get_by_coord((lon * u.deg, lat * u.deg, np.full(lon.size, e) * u.TeV)) for e in ENERGY]
    np.testing.assert_allclose(ours.values_at(lon, lat), expected, rtol=1e-6)
    np.testing.assert_allclose(ours.energy, ENERGY, rtol=1e-6)
    memory = from_gammapy_map(sky)
    np.testing.assert_allclose(memory.values_at(lon, lat), expected, rtol=1e-6)
    np.testing.assert_allclose(ours.flux, memory.flux, rtol=1e-5)
    source = gj.io.read_cube(tmp_path / "cube.fits", "galactic", lon=0.0, lat=0.0, radius=6.0)
    assert_the_galaxy(source)


def pixels_hdu(columns, nside=32, **header):
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update(PIXTYPE="HEALPIX", ORDERING="RING", NSIDE=nside, **header)
    return table


def write(path, table, *others):
    fits.HDUList([fits.PrimaryHDU(), table, *others]).writeto(path)
    return path


ENERGIES = fits.BinTableHDU.from_columns([fits.Column("Energy", "D", array=ENERGY * 1e6)], name="ENERGIES")  # MeV
PART = {"lon": 0.0, "lat": 0.0, "radius": 6.0}


def test_layouts_of_galprop(tmp_path):
    """A column for each energy, or one of vectors in older files; energies in MeV, values without a unit."""
    sky = galaxy(nside=32)
    values = sky.data * 1e-6  # per MeV
    columns = [fits.Column(f"Bin{i}", "E", array=plane) for i, plane in enumerate(values)]
    vectors = pixels_hdu([fits.Column("Spectra", "3E", array=values.T)])
    vectors.header["HIERARCH COORDTYPE"] = "GAL"
    for name, table in (("columns", pixels_hdu(columns, COORDSYS="GAL")), ("vectors", vectors)):
        path = write(tmp_path / f"{name}.fits", table, ENERGIES)
        ours = read_map(path)
        assert ours.kind == "HEALPix map" and ours.axes == ["energy"] and ours.frame == "galactic"
        np.testing.assert_allclose(ours.data, values, rtol=1e-6)
        np.testing.assert_allclose(ours.energy, ENERGY, rtol=1e-12)
        with pytest.raises(ValueError, match="the values are in '', which is no flux per solid angle"):
            gj.io.read_cube(path, "galactic", **PART)
        source = gj.io.read_cube(path, "galactic", unit="ph cm-2 s-1 MeV-1 sr-1", **PART)
        truth = sky.get_by_coord((0.3 * u.deg, 0.4 * u.deg, 0.2 * u.TeV))[0]
        value = evaluate(source, *map(jnp.asarray, (0.2, 0.3, 0.4)))
        assert float(value) == pytest.approx(truth, rel=0.2)  # within a pixel of 1.8 deg; the neighbours differ by 40 %


def bins(low, high, unit, name="EBOUNDS"):
    """A table of energy bins about the planes."""
    edges = np.array([0.025, 0.1, 0.4, 1.6])
    columns = [fits.Column(low, "D", unit, array=edges[:-1]), fits.Column(high, "D", unit, array=edges[1:])]
    return fits.BinTableHDU.from_columns(columns, name=name)


def test_tables_of_energies(tmp_path):
    """Bins stand for their geometric means; an image has nothing to do with a table of bins in its file."""
    columns = [fits.Column(f"CHANNEL{i}", "E", array=np.full(768, 1.0 + i)) for i in range(3)]
    for low, high in (("E_MIN", "E_MAX"), ("Energy_MIN", "Energy_MAX")):
        path = write(tmp_path / f"{low}.fits", pixels_hdu(columns, 8, COORDSYS="G"), bins(low, high, "TeV"))
        np.testing.assert_allclose(read_map(path).energy, [0.05, 0.2, 0.8], rtol=1e-9)
        path = write(
            tmp_path / f"{low} named.fits", pixels_hdu(columns, 8, COORDSYS="G"), bins(low, high, "GeV", "BANDS")
        )
        np.testing.assert_allclose(read_map(path).energy, [5e-5, 2e-4, 8e-4], rtol=1e-9)
    for planes in (
        bins("E_MIN", "E_MAX", "TeV"),
        fits.BinTableHDU(bins("E_MIN", "E_MAX", "TeV").data[:1], name="EBOUNDS"),
    ):
        path = tmp_path / f"image {len(planes.data)}.fits"
        image = read_map(write(path, pixels_hdu(columns[:1], 8, COORDSYS="G"), planes))
        assert image.axes == [] and image.data.shape == (768,)
        assert gj.io.read_template(path, "galactic", **PART).values.size > 0


def test_what_is_unknown(tmp_path):
    """The mark of the standard, and pixels that a table leaves out; also beyond the edge of a projected sky."""
    planes = np.ones((2, 768), np.float32)
    planes[1, 5] = -1.6375e30
    columns = [fits.Column("PIX", "J", array=np.arange(1, 768))]
    columns += [fits.Column(f"ENERGY{i}", "E", array=plane[1:]) for i, plane in enumerate(planes)]
    table = fits.BinTableHDU.from_columns([fits.Column("ENERGY", "D", array=[1e3, 1e4])], name="ENERGIES")
    path = write(tmp_path / "map.fits", pixels_hdu(columns, 8, COORDSYS="G", INDXSCHM="EXPLICIT"), table)
    data = read_map(path).data
    assert np.argwhere(np.isnan(data)).tolist() == [[0, 0], [1, 0], [1, 5]]
    whole = WcsNDMap.create(binsz=5.0, proj="AIT", frame="galactic")
    whole.data[...] = 1.0
    assert from_gammapy_map(whole).flux == pytest.approx(4.0 * np.pi, rel=0.1)  # pixels of 5 deg


def test_there_from_gammapy():
    """Templates of gammapy on HEALPix pixels, those that change with energy and those that do not."""
    sky = galaxy(nest=True, nside=32, region="DISK(0.0,0.0,8.0)")
    model = SkyModel(
        gp.PowerLawNormSpectralModel(norm=1.5),
        gp.TemplateSpatialModel(sky, normalize=False, filename="-", interp_kwargs={"method": "nearest"}),
        name="galaxy",
    )
    read = gj.io.from_gammapy(model, frame="galactic")
    source = read.components["galaxy"]
    assert "galaxy: the map ends while it is bright; beyond there is nothing, as in gammapy" in read.notes
    total = (source.spectrum(jnp.asarray(ENERGY)) / 1.5).astype(float)
    np.testing.assert_allclose(total, from_gammapy_map(sky).flux, rtol=1e-3)
    image = sky.slice_by_idx({"energy_true": 1})
    image = HpxNDMap(image.geom, image.data / image.data.sum() / image.geom.solid_angle().to_value("sr"), unit="sr-1")
    spatial = gp.TemplateSpatialModel(image, filename="-")
    geom = WcsGeom.create(skydir=(0.0, 0.0), width=8.0, binsz=0.1, frame="galactic")
    read = gj.io.from_gammapy(SkyModel(gp.PowerLawSpectralModel(), spatial, name="it"), frame="galactic", geom=geom)
    morphology = read.components["it"].morphology
    pixels = from_gammapy_map(image).pixels
    lon, lat = pixels.directions(pixels.find(np.array([0.5, 1.0]), np.array([0.4, 3.0])))  # the middles of two pixels
    low, high = np.asarray(morphology.brightness(jnp.asarray(lon), jnp.asarray(lat)), np.float64)
    expected = image.get_by_coord((lon * u.deg, lat * u.deg))
    assert low / high == pytest.approx(expected[0] / expected[1], rel=1e-3)
    # gammapy knows some pixels by their numbers only
    some = from_gammapy_map(sky.crop(1))
    np.testing.assert_array_equal(some.data[:, np.isfinite(some.data[0])], sky.crop(1).data)
    spatial.lon_0.value += 1.0
    with pytest.raises(ValueError, match="it: a HEALPix template moved from the centre of its map"):
        gj.io.from_gammapy(SkyModel(gp.PowerLawSpectralModel(), spatial, name="it"), frame="galactic")


def bad(path, change):
    sky = galaxy(nside=8)
    sky.write(path, format="gadf")
    with fits.open(path, mode="update") as file:
        change(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file[1].header.update(NSIDE=16), "values do not fit NSIDE 16"),
        (lambda file: file[1].header.update(NSIDE=12, ORDERING="NESTED"), "NSIDE is 12"),
        (lambda file: file[1].header.update(COORDSYS="ECL"), "unknown coordinates 'ECL'"),
        (lambda file: file[1].header.update(INDXSCHM="SPARSE"), "scheme SPARSE is not known"),
        (lambda file: file[1].header.update(COORDSYS=""), "unknown coordinates 'NONE'|unknown coordinates 'none'"),
        (lambda file: file[2].columns.change_unit("ENERGY_TRUE", ""), "have no unit"),
        (lambda file: file[2].data["ENERGY_TRUE"].fill(1.0), "do not increase"),
        (lambda file: file.__delitem__(2), "no table with the energies of its planes CHANNEL1 to CHANNEL3"),
        (lambda file: file[1].columns.del_col("CHANNEL1"), "2 columns CHANNEL2, CHANNEL3 do not fit 3 energies"),
        (lambda file: file[1].header.update(BUNIT="banana"), "the unit 'banana' of the values is not known to astropy"),
    ],
)
def test_bad_cubes(change, message, tmp_path):
    bad(tmp_path / "bad.fits", change)
    with pytest.raises(ValueError, match=message) as error:
        gj.io.read_cube(tmp_path / "bad.fits", "galactic", lon=0.0, lat=0.0, radius=5.0)
    assert "bad.fits" in str(error.value) and "\n" not in str(error.value)
