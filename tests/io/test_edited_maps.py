"""Edited copies of maps and tables: the same numbers in any unit, or one line that names file, HDU and keyword."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from gammapy.maps import HpxGeom, Map, MapAxis, WcsGeom

from gammajax.io import read_cube, read_isotropic, read_particle_model, read_template, read_yields
from gammajax.io.exclusion import exclusion_map

ENERGY = np.array([1e4, 1e5, 1e6]) * u.MeV
BRIGHTNESS = u.Unit("cm-2 s-1 MeV-1 sr-1")
PART = {"frame": "galactic", "lon": 10.0, "lat": 1.0, "radius": 0.5, "step": 0.1}
KINDS = ("fermi", "gammapy", "healpix", "healpix-gammapy")


def values():
    return (1e-12 * (ENERGY.value / 1e5) ** -2.5) * BRIGHTNESS


def write(path, kind, unit=BRIGHTNESS, energy_unit="MeV"):
    """A cube that is as bright everywhere, in any unit."""
    flux, energy = values().to(unit), ENERGY.to(energy_unit)
    wcs = WcsGeom.create(skydir=SkyCoord(10.0, 1.0, unit="deg", frame="galactic"), frame="galactic", width=2, binsz=0.1)
    healpix = HpxGeom.create(nside=8, frame="galactic", nest=False)
    if kind.endswith("gammapy"):
        geom = (healpix if kind.startswith("healpix") else wcs).to_cube(
            [MapAxis.from_nodes(energy, name="energy_true", interp="log")]
        )
        data = np.ones(geom.data_shape) * flux.value.reshape(-1, *[1] * (len(geom.data_shape) - 1))
        Map.from_geom(geom, data=data, unit=unit).write(path)
        return path
    table = fits.BinTableHDU.from_columns(
        [fits.Column("Energy", "D", energy_unit, array=energy.value)], name="ENERGIES"
    )
    if kind == "fermi":
        header = wcs.wcs.to_header()
        header["BUNIT"] = u.Unit(unit).to_string("fits")
        image = fits.PrimaryHDU((np.ones((20, 20)) * flux.value[:, None, None]).astype(">f4"), header)
        fits.HDUList([image, table]).writeto(path)
        return path
    columns = [fits.Column(f"BIN{i}", "D", str(u.Unit(unit)), array=np.full(768, f)) for i, f in enumerate(flux.value)]
    pixels = fits.BinTableHDU.from_columns(columns, name="SKYMAP")
    pixels.header.update(PIXTYPE="HEALPIX", NSIDE=8, ORDERING="RING", COORDSYS="G")
    fits.HDUList([fits.PrimaryHDU(), pixels, table]).writeto(path)
    return path


def brightness(path):
    """Flux over the part of the sky at 0.01, 0.1 and 1 TeV."""
    source = read_cube(path, energy_range=None, **PART)
    return np.asarray(source.spectrum(np.array([0.0101, 0.1, 0.99])))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    return {kind: write(folder / f"{kind}.fits", kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("unit", "energy_unit"),
    [("m-2 s-1 TeV-1 sr-1", "TeV"), ("erg-1 cm-2 s-1 deg-2", "GeV"), ("ph cm-2 s-1 GeV-1 sr-1", "keV")],
)
def test_units_are_converted(kind, unit, energy_unit, files, tmp_path):
    if "ph" in unit and kind != "fermi":
        unit = unit.removeprefix("ph ")
    expected = brightness(files[kind])
    given = values().to(u.Unit(unit) / (u.ph if "ph" in unit else 1)).value * u.Unit(unit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "values", lambda: given)
        path = write(tmp_path / "cube.fits", kind, unit, energy_unit)
    np.testing.assert_allclose(brightness(path), expected, rtol=1e-4)


def header(hdu=0, **keys):
    def change(file):
        for key, value in keys.items():
            if value is None:
                file[hdu].header.remove(key, ignore_missing=True)
            else:
                file[hdu].header[key] = value

    return change


def energies(change=None, unit="MeV", form="D", name=None):
    def edit(file):
        old = next(column for column in file[-1].columns if column.name in ("Energy", "ENERGY_TRUE"))
        numbers = np.array(file[-1].data[old.name])
        column = fits.Column(name or old.name, form, unit, array=numbers if change is None else change(numbers))
        table = fits.BinTableHDU.from_columns([column], name=file[-1].name)
        table.header.update(
            {key: file[-1].header[key] for key in file[-1].header if key.startswith(("AXCOLS", "INTERP"))}
        )
        file[-1] = table

    return edit


def data(change):
    def edit(file):
        file[0].data = change(file[0].data.copy())

    return edit


def drop(number):
    return lambda file: file.pop(number)


UNITS = [
    (lambda hdu: header(hdu, BUNIT="banana"), "the unit 'banana' of the values is not known"),
    (
        lambda hdu: header(hdu, BUNIT="photons/cm2/s/MeV/sr"),
        "the unit 'photons/cm2/s/MeV/sr' of the values is not known",
    ),
    (lambda hdu: header(hdu, BUNIT="MeV cm-2 s-1 sr-1"), "no flux per solid angle"),
    (lambda hdu: header(hdu, BUNIT=5), "no flux per solid angle"),
]
TABLES = [
    (energies(unit="banana"), "column .* of .* must be numbers with a unit such as 'MeV': 'banana'"),
    (energies(unit="cm"), "column .* of .* must be numbers with a unit such as 'MeV': 'cm'"),
    (energies(lambda e: e[::-1]), "do not increase"),
    (energies(lambda e: np.where(e == e[1], np.nan, e)), "must be positive and finite"),
    (energies(lambda e: np.where(e == e[2], np.inf, e)), "must be positive and finite"),
    (energies(lambda e: -e), "must be positive and finite"),
    (energies(lambda e: 0 * e), "must be positive and finite"),
    (energies(lambda e: e[[0, 0, 1]]), "do not increase"),
    (energies(lambda e: np.array(["a", "b", "c"]), form="3A"), "must be numbers .* could not convert string"),
    (energies(lambda e: e[:2]), "energies"),
    (energies(lambda e: e[:0]), "energies|several energies"),
    (energies(name="FOO"), "has no energies but the columns FOO"),
    (drop(-1), "energies"),
]
IMAGES = [
    (header(CTYPE1=None), "CTYPE1 of PRIMARY must be a longitude such as .*, it is ''"),
    (header(CTYPE2="LINEAR"), "CTYPE2 of PRIMARY must be a latitude such as .*, it is 'LINEAR'"),
    (header(CTYPE1=5), "CTYPE1 of PRIMARY must be a longitude"),
    (header(CTYPE1="GLAT-CAR", CTYPE2="GLON-CAR"), "CTYPE1 of PRIMARY must be a longitude"),
    (header(CTYPE1="GLON-XXX", CTYPE2="GLAT-XXX"), "projection of PRIMARY is not known: .*XXX"),
    (header(CRPIX1=None), "CRPIX1 of PRIMARY must be a number, it is missing"),
    (header(CRVAL2="text"), "CRVAL2 of PRIMARY must be a number, it is 'text'"),
    (header(CDELT1=None), "CDELT1 of PRIMARY must be a number, it is missing"),
    (header(CDELT1=0.0), "projection of PRIMARY is not known"),
    (header(CUNIT1="banana"), "projection of PRIMARY is not known: .*CUNIT1"),
    (data(lambda d: d[None]), "has 4 axes"),
    (data(lambda d: d * np.nan), "must be finite, non-negative and not all zero"),
    (data(lambda d: -d), "must be finite, non-negative and not all zero"),
    (lambda file: file.__setitem__(0, fits.PrimaryHDU()), "no HDU is an image, and none a HEALPix map"),
]
HEALPIX = [
    (header(1, NSIDE="text"), "NSIDE of .* must be a whole number, it is 'text'"),
    (header(1, NSIDE=0), "NSIDE is 0"),
    (header(1, ORDERING=None), "ORDERING of .* must be 'RING' or 'NESTED', it is 'MISSING'"),
    (header(1, ORDERING="SPIRAL"), "ORDERING of .* it is 'SPIRAL'"),
    (header(1, ORDERING=5), "ORDERING of .* it is '5'"),
    (header(1, COORDSYS=None), "COORDSYS may be 'G' for galactic"),
    (header(1, PIXTYPE=None), "no HDU is an image, and none a HEALPix map"),
]
CASES = (
    [(kind, make(int("healpix" in kind)), f"{message}|after BUNIT") for kind in KINDS for make, message in UNITS]
    + [(kind, change, message) for kind in KINDS for change, message in TABLES]
    + [(kind, change, message) for kind in ("fermi", "gammapy") for change, message in IMAGES]
    + [(kind, change, message) for kind in ("healpix", "healpix-gammapy") for change, message in HEALPIX]
    + [("gammapy", header(WCSSHAPE=""), "cannot be read as a map")]
    + [("gammapy", energies(unit=None), "have no unit"), ("healpix-gammapy", energies(unit=None), "have no unit")]
    + [("healpix", header(1, BUNIT="cm-2 s-1 TeV-1 sr-1"), "after BUNIT and in .* after BIN0")]
)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "change", "message"), CASES)
def test_faults_are_named(kind, change, message, files, tmp_path):
    path = tmp_path / "edited.fits"
    with fits.open(files[kind]) as file:
        edited = fits.HDUList([hdu.copy() for hdu in file])
        change(edited)
        edited.writeto(path, output_verify="ignore")
    with pytest.raises(ValueError, match=message) as error:
        brightness(path)
    assert "edited.fits" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("change", [header(BUNIT=None), energies(unit=None), header(BUNIT="")])
def test_cubes_of_fermi_need_no_units(change, files, tmp_path):
    with fits.open(files["fermi"]) as file:
        edited = fits.HDUList([hdu.copy() for hdu in file])
        change(edited)
        edited.writeto(tmp_path / "edited.fits")
    np.testing.assert_allclose(brightness(tmp_path / "edited.fits"), brightness(files["fermi"]), rtol=1e-5)


@pytest.mark.parametrize(("system", "equinox"), [("ICRS", None), ("FK5", 1975.0), ("FK4", 1950.0), ("FK4", 1975.0)])
def test_equinoxes(system, equinox, tmp_path):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crpix, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [15.5, 15.5], [-0.02, 0.02]
    wcs.wcs.radesys = system
    if equinox is not None:
        wcs.wcs.equinox = equinox
    there = SkyCoord(83.6, 22.0, unit="deg").transform_to(wcs_to_celestial_frame(wcs))
    wcs.wcs.crval = [there.ra.deg, there.dec.deg]
    distance = np.hypot(*(np.mgrid[:30, :30] - 14.5))
    fits.PrimaryHDU(np.exp(-0.05 * distance**2), wcs.to_header()).writeto(tmp_path / "image.fits")
    template = read_template(tmp_path / "image.fits")
    assert SkyCoord(float(template.grid.lon), float(template.grid.lat), unit="deg").separation(
        SkyCoord(83.6, 22.0, unit="deg")
    ).deg == pytest.approx(0.0, abs=2e-3)
    # masks in such a frame, too
    geom = WcsGeom(wcs, (30, 30))
    excluded = exclusion_map(Map.from_geom(geom, data=distance > 5.0), 83.6, 22.0, "icrs", 0.5)
    radius = np.hypot(*np.meshgrid(*[np.asarray(excluded.grid.coordinates)] * 2))
    assert np.mean(np.asarray(excluded.excluded) != (radius < 0.1)) < 0.01


def test_energies_far_from_the_range(files, tmp_path):
    path = write(tmp_path / "cube.fits", "gammapy", energy_unit="keV")
    with fits.open(path, mode="update") as file:
        file[1].columns.change_unit("ENERGY_TRUE", "eV")
    with pytest.raises(ValueError, match="cube.fits: the energies 1e-05 to 0.001 TeV are far .*: look at their unit"):
        read_cube(path, energy_range=(2.0, 500.0), **PART)


ROWS = ["1e4 1e-10", "1e5 1e-12", "1e6 1e-14"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + "\n".join(ROWS).encode(),
        "\r\n".join(ROWS).encode(),
        "# Stra\xdfe\n\n".encode("latin-1") + "\n".join(row.replace(" ", "\t") for row in ROWS).encode(),
    ],
)
def test_texts_as_editors_save_them(content, tmp_path):
    (tmp_path / "iso.txt").write_bytes(content)
    spectrum = read_isotropic(tmp_path / "iso.txt").spectrum
    assert float(spectrum(np.array([0.1]))[0]) == pytest.approx(4e6 * np.pi * 1e-12, rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "two columns and two rows at least"),
        (ROWS[:1], "two columns and two rows at least"),
        (["1e4", "1e5"], "two columns and two rows at least"),
        (ROWS[::-1], "energies must be positive, finite and increasing"),
        ([*ROWS, ROWS[-1]], "energies must be positive, finite and increasing"),
        (["nan 1e-10", *ROWS], "energies must be positive, finite and increasing"),
        ([*ROWS, "1e7 nan"], "fluxes must be positive and finite"),
        ([*ROWS, "1e7 0"], "fluxes must be positive and finite"),
        ([*ROWS, "1e7 abc"], "could not convert string 'abc'"),
        ([*ROWS, "1e7"], "number of columns changed"),
        (["1e10 1e-10", "1e11 1e-11"], "far from energy_range"),
        (["\0"], "UTF-16"),
    ],
)
def test_bad_isotropic_spectra(rows, message, tmp_path):
    (tmp_path / "iso.txt").write_text("\n".join(rows))
    with pytest.raises(ValueError, match=f"iso.txt cannot be read as energies and fluxes: .*{message}") as error:
        read_isotropic(tmp_path / "iso.txt")
    assert "\n" not in str(error.value)


def test_repeated_columns_and_bad_rows(tmp_path):
    (tmp_path / "y.dat").write_text(
        "mDM Log[10,x] b b\n" + "\n".join(f"{m} {x} 1 2" for m in (10, 20) for x in (-1, 0))
    )
    with pytest.raises(ValueError, match="y.dat has more than one column of a channel: b, b"):
        read_yields(tmp_path / "y.dat")
    (tmp_path / "y.dat").write_text("mDM Log[10,x] b\n")
    with pytest.raises(ValueError, match="y.dat must have the columns"):
        read_yields(tmp_path / "y.dat")
    good = [f"{m},{c},1e-26" for m in (100, 200) for c in (1, 2)]
    for rows, message in [
        (["mass,c,c", *good], "columns have the same name: mass, c, c"),
        (["mass,c,bb", *good, "300,1"], "row 6 has 2 values for 3 columns"),
        (["mass,c,bb", *(f"-{row}" for row in good)], "the values of 'mass', column 'mass', must be positive"),
        (["mass,c,bb", *good[:-1], "200,2,nan"], "must be finite and not negative"),
        (["mass,c,bb"], "no rows below the names"),
        ([""], "no rows below the names"),
    ]:
        (tmp_path / "p.csv").write_text("\n".join(rows))
        with pytest.raises(ValueError, match=f"p.csv.*{message}"):
            read_particle_model(tmp_path / "p.csv", {"mass": "mass", "c": "c"})
