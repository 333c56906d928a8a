"""Response files against gammapy's own evaluation of them."""

import numpy as np
import pytest
from astropy import units as u
from equinox import filter_jit as jit
from gammapy.irf import load_irf_dict_from_file

from gammajax.io import read_irf
from gammajax.io.irf import load_irf, response_from_gammapy

ALL = ("aeff", "edisp", "psf_3gauss", "bkg_3d")
RANDOM = np.random.default_rng(1)
ENERGY = np.exp(RANDOM.uniform(np.log(0.11), np.log(15.0), 200))
OFFSET = RANDOM.uniform(0.0, 3.4, 200)  # reaches into the outer half bins


@pytest.fixture(scope="module")
def full(tmp_path_factory, write):
    path = write(tmp_path_factory.mktemp("irf") / "full.fits.gz", *ALL)
    return read_irf(path), load_irf_dict_from_file(path)


def close(value, expected, tolerance=1e-4):
    expected = np.asarray(expected, float)
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance * 1e-2 * np.abs(expected).max())


def test_effective_area(full):
    response, irfs = full
    expected = irfs["aeff"].evaluate(energy_true=ENERGY * u.TeV, offset=OFFSET * u.deg)
    close(jit(response.area)(ENERGY, OFFSET), expected.to_value("cm2"))
    assert jit(response.area)(ENERGY[:1], np.array([5.1])) == 0
    assert jit(response.area)(np.array([60.0]), OFFSET[:1]) == 0


def test_energy_dispersion(full):
    response, irfs = full
    migra = RANDOM.uniform(0.4, 1.7, 200)
    expected = irfs["edisp"]
    expected.normalize()
    expected = expected.evaluate(energy_true=ENERGY * u.TeV, migra=migra, offset=OFFSET * u.deg).to_value("") / ENERGY
    close(jit(response.energy_dispersion.density)(ENERGY * migra, ENERGY, OFFSET), expected)
    total = jit(response.energy_dispersion.probability)(1e-3 * ENERGY, 1e3 * ENERGY, ENERGY, OFFSET)
    np.testing.assert_allclose(total, 1.0, atol=1e-5)


@pytest.mark.parametrize("name", ["psf_3gauss", "psf_king", "psf_table"])
def test_psf(name, tmp_path, write):
    path = write(tmp_path / "irf.fits", "aeff", "edisp", name)
    psf, expected = read_irf(path).psf, load_irf_dict_from_file(path)["psf"]
    rad = RANDOM.uniform(0.0, 0.4, 200)
    expected = expected.evaluate(energy_true=ENERGY * u.TeV, offset=OFFSET * u.deg, rad=rad * u.deg).to_value("sr-1")
    density = jit(psf.density)(ENERGY, OFFSET, rad)
    if name == "psf_table":
        # a profile of gammapy is not normalised; its integral with straight lines between the nodes is near 1
        ratio = np.asarray(density) / expected
        np.testing.assert_allclose(ratio.mean(), 1.0, atol=0.01)
        expected = expected * ratio.mean()
    close(density, expected)
    radius = np.linspace(1e-4, 1.0, 4001)
    one = np.ones_like(radius)
    integral = np.trapezoid(2 * np.pi * radius * jit(psf.density)(one, one, radius) * (np.pi / 180) ** 2, radius)
    contained = jit(psf.containment)(one[:1], one[:1], radius[-1:])
    np.testing.assert_allclose(integral, contained[0], atol=1e-3)


@pytest.mark.parametrize("order", ["as recommended", "transposed"])
def test_background_3d(order, tmp_path, write):
    def change(hdu):
        from astropy.io import fits
        from astropy.table import Table

        if hdu.name != "BACKGROUND" or order == "as recommended":
            return hdu
        table = Table.read(hdu)
        table["BGD"] = table["BKG"].quantity.transpose(0, 3, 2, 1)
        table.remove_column("BKG")
        return fits.BinTableHDU(table, header=hdu.header, name="BACKGROUND")

    path = write(tmp_path / "irf.fits", *ALL, change=change)
    background, expected = read_irf(path).background, load_irf_dict_from_file(path)["bkg"]
    assert load_irf(path)[1] == "RADEC"
    lon, lat = RANDOM.uniform(-3.5, 4.9, 200), RANDOM.uniform(-3.9, 3.9, 200)
    expected = expected.evaluate(energy=ENERGY * u.TeV, fov_lon=lon * u.deg, fov_lat=lat * u.deg)
    inside = expected.to_value("s-1 TeV-1 sr-1") > 1e-3  # away from the empty row of the highest energy
    assert inside.sum() > 100
    close(jit(background.rate)(ENERGY, lon, lat)[inside], expected.to_value("s-1 TeV-1 sr-1")[inside])
    assert jit(background.rate)(ENERGY[:1], np.array([5.1]), np.array([0.0])) == 0


def test_altaz_background_is_mirrored(tmp_path, write):
    path = write(tmp_path / "irf.fits", "aeff", "edisp", "psf_king", "bkg_altaz")
    background, expected = read_irf(path).background, load_irf_dict_from_file(path)["bkg"]
    assert load_irf(path)[1] == "ALTAZ"
    lon, lat = RANDOM.uniform(-3.0, 3.0, 50), RANDOM.uniform(-3.0, 3.0, 50)
    energy = np.full(50, 1.0)
    expected = expected.evaluate(energy=energy * u.TeV, fov_lon=-lon * u.deg, fov_lat=lat * u.deg)
    close(jit(background.rate)(energy, lon, lat), expected.to_value("s-1 TeV-1 sr-1"))


def test_background_2d(tmp_path, write):
    path = write(tmp_path / "irf.fits", "aeff", "edisp", "psf_king", "bkg_2d")
    background, expected = read_irf(path).background, load_irf_dict_from_file(path)["bkg"]
    assert load_irf(path)[1] is None
    expected = expected.evaluate(energy=ENERGY * u.TeV, offset=OFFSET * u.deg).to_value("s-1 TeV-1 sr-1")
    close(jit(background.rate)(ENERGY, np.zeros(200), OFFSET), expected)
    close(jit(background.rate)(ENERGY, -OFFSET, np.zeros(200)), expected)


def test_background_is_optional(tmp_path, write):
    assert read_irf(write(tmp_path / "irf.fits", "aeff", "edisp", "psf_king")).background is None


def test_missing_nodes_are_filled_with_their_neighbours(functions):
    irfs = {name: functions[name] for name in ("aeff", "edisp", "psf_3gauss")}
    edisp, psf = (type(irfs[n])(irfs[n].axes, irfs[n].data.copy(), irfs[n].unit) for n in ("edisp", "psf_3gauss"))
    edisp.data[:3], edisp.data[:, :, 3] = 0.0, 0.0
    for name, value in {"scale": 0.0, "sigma_1": 1.0, "sigma_2": np.nan}.items():
        psf.data[name][10:] = value
    whole = response_from_gammapy(irfs["aeff"], irfs["edisp"], irfs["psf_3gauss"], None, "whole")
    holes = response_from_gammapy(irfs["aeff"], edisp, psf, None, "holes")
    profile, complete = (np.asarray(r.energy_dispersion.profile.values) for r in (holes, whole))
    # the table has nodes in the middle between those of the file, and two more inside its first offset
    np.testing.assert_array_equal(profile[:6, :4], np.broadcast_to(complete[6:7, :4], (6, 4, 299)))
    np.testing.assert_array_equal(profile[:, 5], profile[:, 4])
    widths, complete = (np.asarray(r.psf.widths.values) for r in (holes, whole))
    np.testing.assert_array_equal(widths[10:], np.broadcast_to(complete[9:10], (2, 4, 2)))
    np.testing.assert_array_equal(widths[:10], complete[:10])


@pytest.mark.parametrize(
    ("name", "factor", "message"),
    [
        ("edisp", 0.01, r"the energy dispersion integrates to 0\.01 at .* TeV and .* deg, not to 1; it was normalised"),
        ("psf_3gauss", 2.0, r"the point spread function integrates to 2 at .* TeV and .* deg"),
        ("psf_table", 2.0, r"the point spread function integrates to 2 at .* TeV and .* deg"),
    ],
)
def test_wrong_normalisation_warns_once(name, factor, message, functions):
    original = functions[name]
    data = original.data.copy()
    if name == "psf_3gauss":
        data["scale"] *= factor
    else:
        data *= factor
    irfs = {"edisp": functions["edisp"], "psf": functions["psf_3gauss"]}
    irfs[name.split("_")[0]] = type(original)(original.axes, data, original.unit)
    with pytest.warns(UserWarning, match=f"file: {message}") as record:
        response_from_gammapy(functions["aeff"], **irfs, bkg=None, name="file")
    assert len(record) == 1
    response_from_gammapy(functions["aeff"], **irfs, bkg=None, name="file", warn=False)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("edisp", "psf_king"), r"irf\.fits: no effective area \(AEFF_2D\) HDU; needed: .*; found: EDISP_2D, PSF_KING"),
        (("aeff", "psf_king"), r"no energy dispersion \(EDISP_2D\) HDU; .* found: AEFF_2D, PSF_KING"),
        (("aeff", "edisp"), r"no point spread function \(PSF_3GAUSS, PSF_KING or PSF_TABLE\) HDU"),
    ],
)
def test_missing_function(names, message, tmp_path, write):
    with pytest.raises(ValueError, match=message):
        read_irf(write(tmp_path / "irf.fits", *names))


def test_point_like_files_are_refused(tmp_path, write):
    def change(hdu):
        hdu.header["HDUCLAS3"] = "POINT-LIKE"
        return hdu

    with pytest.raises(ValueError, match=r"irf\.fits: point-like response \(RAD_MAX\)"):
        read_irf(write(tmp_path / "irf.fits", "aeff", "edisp", change=change))


def test_unreadable_files(tmp_path, write, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/none\.fits: no such file"):
        read_irf("$SOMEWHERE/none.fits")
    (tmp_path / "text.fits").write_text("not a table\n")
    (tmp_path / "empty.fits.gz").write_bytes(b"")
    whole = write(tmp_path / "whole.fits", *ALL).read_bytes()
    (tmp_path / "cut.fits").write_bytes(whole[: len(whole) // 2])
    for name in ("text.fits", "empty.fits.gz", "cut.fits"):
        with pytest.raises(ValueError, match=rf"^\S*{name}: (not a readable FITS file|.*cannot be read) \([^\n]*\)$"):
            read_irf(f"$SOMEWHERE/{name}")


@pytest.mark.parametrize(
    ("name", "unit", "message"),
    [
        ("aeff", "s", "the effective area has a unit that does not fit"),
        ("bkg_2d", "m2", "the background has a unit that does not fit"),
        ("psf_king", {"sigma": u.TeV, "gamma": u.one}, "the point spread function has a unit that does not fit"),
        ("aeff", "cm2", None),
        ("bkg_2d", "", None),  # that of the format, as gammapy takes it
        ("bkg_2d", "s-1 MeV-1 sr-1", None),
    ],
)
def test_units_in_memory(name, unit, message, functions):
    kind = name.split("_")[0]
    irfs = {
        "aeff": functions["aeff"],
        "edisp": functions["edisp"],
        "psf": functions["psf_king"],
        "bkg": functions["bkg_2d"],
    }
    right = response_from_gammapy(**irfs, name="file")
    irfs[kind] = type(irfs[kind])(irfs[kind].axes, irfs[kind].data * 1e4 if unit == "cm2" else irfs[kind].data, unit)
    if message:
        with pytest.raises(ValueError, match=f"file: {message}"):
            response_from_gammapy(**irfs, name="file")
    else:
        same = response_from_gammapy(**irfs, name="file")
        np.testing.assert_allclose(same.effective_area.values, right.effective_area.values, rtol=1e-6)
        np.testing.assert_allclose(same.background.log_rate.values, right.background.log_rate.values, rtol=1e-6)
