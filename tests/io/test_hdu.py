"""One law for all HDUs of DL3 files: read in the units of the format, or one line that names what is wrong."""

import re
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits

from gammajax.io import hdu as reader
from gammajax.io import read_irf
from gammajax.io.units import parse

CLASSES = {
    "aeff": ("aeff", "aeff_2d"),
    "edisp": ("edisp", "edisp_2d"),
    "psf_3gauss": ("psf", "psf_3gauss"),
    "psf_king": ("psf", "psf_king"),
    "psf_table": ("psf", "psf_table"),
    "bkg_2d": ("bkg", "bkg_2d"),
    "bkg_3d": ("bkg", "bkg_3d"),
}
# the same quantity in another unit, in spellings that files have
OTHER = {
    "TeV": ["GeV", "erg", "MeV", "J"],
    "deg": ["arcmin", "rad", "arcsec"],
    "": ["%", "10**-2"],
    "m2": ["cm2", "cm**2", "km^2", "10**4 cm**2"],
    "sr-1": ["deg-2", "1/deg2", "arcmin^-2", "deg**-2", "sr^(-1)"],
    reader.RATE: ["1/s/TeV/sr", "TeV-1 s-1 sr-1", "1/(s GeV sr)", "/s/MeV/sr", "s-1 TeV-1 deg-2", "ct s-1 MeV-1 sr-1"],
    "s": ["min", "h", "d", "ms"],
}
COLUMNS = [
    (name, column)
    for name, (_, kind) in CLASSES.items()
    for column in [f"{axis}_{end}" for axis in reader.CLASSES[kind][0] for end in ("LO", "HI")]
    + list(reader.CLASSES[kind][1])
]
COLUMNS = [(name, column.replace("|ETRUE", "").replace("|BGD", "")) for name, column in COLUMNS]
WHERE = "file.fits, HDU TABLE"


def unit_of(column):
    return reader.VALUES.get(column, reader.AXES.get(column[:-3], "")) if column not in TIMES else TIMES[column]


def edited(hdu, name, values=None, drop=False, rows=None, **changes):
    """A copy with other values, format or unit of one column, without it, or with so many rows."""
    columns = []
    for column in hdu.columns:
        if column.name.upper() == name:
            if drop:
                continue
            array = np.asarray(hdu.data[column.name]) if values is None else np.asarray(values)
            size = array[0].size if array.ndim > 1 else 1
            dim = None if array.ndim < 3 else str(array.shape[:0:-1]).replace(" ", "")
            code = changes.get("format", "A" if array.dtype.kind in "US" else "D")
            code = f"{array.dtype.itemsize}A" if code == "A" else f"{size}{code}"
            columns.append(fits.Column(column.name, code, changes.get("unit", column.unit), dim=dim, array=array))
        else:
            columns.append(column)
    result = fits.BinTableHDU.from_columns(columns, nrows=len(hdu.data) if rows is None else rows, name=hdu.name)
    for key, value in hdu.header.items():
        if key not in result.header and not re.match("TDIM|TUNIT|TTYPE|TFORM|TNULL", key):
            result.header[key] = value
    return result


def arrays(function):
    """Axes [TeV, deg] and values of gammapy's object, whatever its units."""
    axes = [axis.edges.to_value("TeV" if "energy" in axis.name else axis.unit) for axis in function.axes]
    if isinstance(function.unit, dict):
        values = [function.quantity[name].to_value(unit or "") for name, unit in function.unit.items()]
    else:
        values = [function.quantity.value]
    return [np.asarray(a, float) for a in (*axes, *values)]


def same(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize(("name", "column"), COLUMNS)
def test_columns_in_other_units(name, column, make_hdu):
    hdu, unit = make_hdu(name), unit_of(column)
    right = reader.read_response(hdu, WHERE)
    for text in OTHER[unit]:
        factor = (u.Unit(unit) * (u.ct if text.startswith("ct") else u.one)).to(parse(text))
        values = np.asarray(hdu.data[column], float) * factor
        same(reader.read_response(edited(hdu, column, values, unit=text), WHERE), right)
        if text in ("%", "10**-2"):
            break
    # without a unit: that of the format, and a word about it unless the format needs none
    bare = edited(hdu, column, unit="")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        same(reader.read_response(bare, WHERE), right)
    assert len(said) == (0 if unit == "" or column == "SCALE" else 1)
    assert not said or f"{WHERE}: the column {column} has no unit; it is read in {unit}" == str(said[0].message)
    # single precision, and scaled integers
    same(reader.read_response(edited(hdu, column, format="E"), WHERE), right)


FAULTS = {
    "unit that nothing reads": lambda h, c: edited(h, c, unit="banana"),
    "another dimension": lambda h, c: edited(h, c, unit="K"),
    "spelling nobody reads": lambda h, c: edited(h, c, unit="1/s/MeV/deg^2"),
    "no column": lambda h, c: edited(h, c, drop=True),
    "text": lambda h, c: edited(h, c, np.array(["a"])),
    "two rows": lambda h, c: edited(h, c, rows=2),
    "no rows": lambda h, c: fits.BinTableHDU(h.data[:0], h.header),
    "nan": lambda h, c: edited(h, c, np.full_like(np.asarray(h.data[c], float), np.nan)),
    "too few": lambda h, c: edited(h, c, np.asarray(h.data[c], float)[..., :-1]),
    "reversed": lambda h, c: edited(h, c, np.asarray(h.data[c], float)[..., ::-1]),
    "negative": lambda h, c: edited(h, c, -1.0 - np.asarray(h.data[c], float)),
}
# faults that these columns do not have
FINE = {
    "reversed": set(reader.VALUES),
    "negative": set(reader.VALUES) - {"EFFAREA", "BKG"}
    | {f"{a}_{e}" for a in ("DETX", "DETY", "MIGRA") for e in ("LO", "HI")},
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line(fault, make_hdu):
    for name, column in COLUMNS:
        if column in FINE.get(fault, ()):
            continue
        hdu = FAULTS[fault](make_hdu(name), column)
        with pytest.raises(ValueError) as caught:
            reader.read_response(hdu, WHERE)
        message = str(caught.value)
        assert message.startswith(WHERE) and "\n" not in message and len(message) < 250, (name, column, message)
        assert "rows" in message or column.split("_LO")[0].split("_HI")[0] in message, (name, column, message)
        if "unit" in fault or "dimension" in fault:
            assert ("banana" if "unit" in fault else "'K'") in message


def test_other_names_and_classes(make_hdu, tmp_path):
    # as in files of the first CTA data challenge
    hdu = make_hdu("psf_3gauss")
    hdu.header["HDUCLAS4"] = "3GAUSS"
    assert reader.response_class(hdu.header) == "psf_3gauss"
    energies = make_hdu("edisp")
    for end in ("LO", "HI"):
        energies.columns[f"ENERG_{end}"].name = f"ETRUE_{end}"
    same(reader.read_response(energies, WHERE), reader.read_response(make_hdu("edisp"), WHERE))
    # the header of the file decides, the index helps where it has none
    assert reader.read_response(make_hdu("psf_king"), WHERE, "psf_3gauss").tag == "psf_king"
    del hdu.header["HDUCLAS4"], hdu.header["HDUCLAS2"]
    assert reader.read_response(hdu, WHERE, "psf_3gauss").tag == "psf_3gauss"
    with pytest.raises(ValueError, match="HDUCLAS4 is 'missing'; it must be one of AEFF_2D, "):
        reader.read_response(hdu, WHERE)
    with pytest.raises(ValueError, match="no column RAD_LO; the table has ENERG_LO, "):
        reader.read_response(hdu, WHERE, "psf_table")
    hdu = make_hdu("bkg_3d")
    hdu.header["FOVALIGN"] = "NORTH"
    with pytest.raises(ValueError, match="FOVALIGN is 'NORTH'; it must be RADEC or ALTAZ"):
        reader.read_response(hdu, WHERE)
    with pytest.raises(ValueError, match="no column"):
        reader.read_response(fits.ImageHDU(np.zeros((2, 2)), hdu.header), WHERE)


def test_a_file_in_other_units(tmp_path, write):
    """End to end: the same response, whatever the units in the file."""
    other = {"EFFAREA": "cm2", "RPSF": "deg-2", "BKG": "1/s/TeV/sr", "ENERG_LO": "GeV", "ENERG_HI": "GeV"}

    def change(hdu):
        for column, unit in other.items():
            if column in hdu.columns.names:
                factor = u.Unit(unit_of(column)).to(parse(unit))
                hdu = edited(hdu, column, np.asarray(hdu.data[column], float) * factor, unit=unit)
        return hdu

    names = ("aeff", "edisp", "psf_table", "bkg_3d")
    right, changed = (
        read_irf(write(tmp_path / "a.fits", *names)),
        read_irf(write(tmp_path / "b.fits", *names, change=change)),
    )
    for one, two in [
        (right.effective_area.values, changed.effective_area.values),
        (right.background.log_rate.values, changed.background.log_rate.values),
        (right.effective_area.axes[0].nodes, changed.effective_area.axes[0].nodes),
        (
            right.psf.profile.values if hasattr(right.psf, "profile") else 0,
            changed.psf.profile.values if hasattr(changed.psf, "profile") else 0,
        ),
    ]:
        np.testing.assert_allclose(one, two, rtol=3e-6, atol=1e-5)


TIMES = {"TIME": "s", "START": "s", "STOP": "s", "ENERGY": "TeV", "RA": "deg", "DEC": "deg"}
HEADER = {"MJDREFI": 51544, "MJDREFF": 0.5, "TIMEUNIT": "s", "TIMESYS": "TT"}


def events(**header):
    columns = {"TIME": [1.0, 2.0], "ENERGY": [1.0, 3.0], "RA": [10.0, 11.0], "DEC": [-3.0, 4.0]}
    columns = [fits.Column(name, "D", unit_of(name), array=np.array(v)) for name, v in columns.items()]
    columns.append(fits.Column("MC_ID", "K", array=np.array([4, 5])))
    return fits.BinTableHDU.from_columns(columns, header=fits.Header({**HEADER, **header}), name="EVENTS")


def good_time(start=(0.0,), stop=(10.0,), **header):
    columns = [fits.Column(n, "D", "s", array=np.array(v)) for n, v in (("START", start), ("STOP", stop))]
    return fits.BinTableHDU.from_columns(columns, header=fits.Header({**HEADER, **header}), name="GTI")


@pytest.mark.parametrize("column", TIMES)
def test_events_and_good_time(column):
    read, hdu = (
        (reader.read_good_time, good_time()) if column in ("START", "STOP") else (reader.read_event_list, events())
    )
    right = read(hdu, WHERE).table
    for unit in OTHER[TIMES[column]]:
        values = np.asarray(hdu.data[column], float) * u.Unit(TIMES[column]).to(unit)
        found = read(edited(hdu, column, values, unit=unit), WHERE).table
        for name in right.colnames:
            if name in ("TIME", "START", "STOP"):
                assert np.all(np.abs((found[name] - right[name]).to_value("s")) < 1e-4)
            else:
                assert found[name].unit == right[name].unit
                np.testing.assert_allclose(np.asarray(found[name]), np.asarray(right[name]), rtol=1e-9)
    for fault in ("unit that nothing reads", "another dimension", "no column", "text"):
        with pytest.raises(ValueError, match=f"^{re.escape(WHERE)}.*{column}"):
            read(FAULTS[fault](hdu, column), WHERE)
    if column in ("TIME", "START", "STOP"):
        # the unit of the header holds for columns without one
        bare = edited(hdu, column, unit="")
        assert np.all(np.abs((read(bare, WHERE).table[column] - right[column]).to_value("s")) < 1e-4)
        with pytest.raises(ValueError, match=f"{column} is not finite"):
            read(edited(hdu, column, np.full(len(hdu.data), np.nan)), WHERE)
    else:
        with pytest.warns(UserWarning, match=f"the column {column} has no unit; it is read in {TIMES[column]}"):
            read(edited(hdu, column, unit=""), WHERE)


KEYWORDS = [
    ({"MJDREFI": None}, "no keyword MJDREFI; the reference time is MJDREFI"),
    ({"MJDREFF": None}, "no keyword MJDREFF"),
    ({"MJDREFI": "now"}, "MJDREFI is 'now', which is not a number"),
    ({"MJDREFI": True}, "MJDREFI is True, which is not a number"),
    ({"TIMESYS": "LUNAR"}, "TIMESYS is 'lunar'; it must be one of"),
    ({"MJDREFI": "51544", "MJDREFF": "0.5"}, None),
    ({"MJDREFI": None, "MJDREFF": None, "MJDREF": 51544.5}, None),
    ({"TIMESYS": None}, None),
    ({"TIMESYS": "tt"}, None),
]


@pytest.mark.parametrize(("changes", "message"), KEYWORDS)
def test_reference_times(changes, message):
    for read, make in ((reader.read_event_list, events), (reader.read_good_time, good_time)):
        hdu = make()
        for key, value in changes.items():
            hdu.header.pop(key, None)
            if value is not None:
                hdu.header[key] = value
        if message:
            with pytest.raises(ValueError, match=f"^{re.escape(WHERE)}: {re.escape(message)}"):
                read(hdu, WHERE)
        else:
            name = read(make(), WHERE).table.colnames[0] if make is good_time else "TIME"
            assert np.all(np.abs((read(hdu, WHERE).table[name] - read(make(), WHERE).table[name]).to_value("s")) < 1e-5)


def test_good_time_intervals():
    for hdu, message in [
        (good_time((), ()), "no rows; a run needs at least one good time interval"),
        (good_time((5.0,), (1.0,)), "row 0: STOP is before START"),
    ]:
        with pytest.raises(ValueError, match=message):
            reader.read_good_time(hdu, WHERE)
    # the unit of the header alone
    hours = edited(edited(good_time((0.0,), (1.0,), TIMEUNIT="h"), "START", unit=""), "STOP", unit="")
    assert reader.read_good_time(hours, WHERE).time_sum.to_value("s") == pytest.approx(3600.0)


def test_files(tmp_path):
    for name, data, message in [
        ("text.fits", b"nothing", "not a readable FITS file"),
        ("none.fits", None, "no such file"),
    ]:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}: {message}"), reader.opened(tmp_path / name):
            pass
    fits.HDUList([fits.PrimaryHDU(), good_time()]).writeto(tmp_path / "a.fits")
    with reader.opened(tmp_path / "a.fits") as hdus:
        assert reader.find(hdus, "gti", "a.fits").name == "GTI"
        with pytest.raises(ValueError, match="^a.fits: no HDU EVENTS; the file has GTI$"):
            reader.find(hdus, "EVENTS", "a.fits")


@pytest.mark.parametrize("unit", ["[TeV]", "dex(TeV)", "mag(TeV)", "dex", "dB"])
def test_logarithmic_units_are_refused(unit):
    with pytest.raises(ValueError, match=f"^{WHERE}: .*ENERGY.*'TeV'$"):
        reader.read_event_list(edited(events(), "ENERGY", unit=unit), WHERE)


def test_one_number_in_each_row():
    one = fits.Column("ENERGY", "1D", "TeV", dim="(1)", array=np.array([[1.0], [3.0]]))
    two = fits.Column("ENERGY", "2D", "TeV", array=np.ones((2, 2)))
    others = [column for column in events().columns if column.name != "ENERGY"]
    header = fits.Header(HEADER)
    found = reader.read_event_list(fits.BinTableHDU.from_columns([*others, one], header=header), WHERE)
    np.testing.assert_array_equal(found.table["ENERGY"].value, [1.0, 3.0])
    with pytest.raises(ValueError, match=r"the column ENERGY has \(2,\) numbers in each row; it must have one"):
        reader.read_event_list(fits.BinTableHDU.from_columns([*others, two], header=header), WHERE)


@pytest.mark.parametrize("label", [1.7, 2.0**32 + 1.0, np.nan])
def test_labels_are_whole_numbers(label):
    with pytest.raises(ValueError, match="row 0: MC_ID is .*; it must be a whole number below"):
        reader.read_event_list(edited(events(), "MC_ID", np.array([label, 1.0]), format="D"), WHERE)


def test_a_keyword_that_is_there_twice():
    same, other = events(), events()
    same.header.append(("MJDREFI", 51544))
    other.header.append(("MJDREFI", 51545))
    assert len(reader.read_event_list(same, WHERE).table) == 2
    with pytest.raises(ValueError, match="the keyword MJDREFI is there twice, as 51544 and 51545"):
        reader.read_event_list(other, WHERE)


def test_a_background_needs_the_order_of_its_axes(make_hdu):
    hdu = make_hdu("bkg_3d")
    flat = fits.Column("BKG", f"{hdu.data['BKG'].size}D", reader.RATE, array=hdu.data["BKG"].reshape(1, -1))
    columns = [column for column in hdu.columns if column.name != "BKG"]
    table = fits.BinTableHDU.from_columns([*columns, flat], name="BACKGROUND")
    table.header.update({"HDUCLAS2": "BKG", "HDUCLAS4": "BKG_3D"})
    with pytest.raises(ValueError, match="the column BKG needs a TDIM"):
        reader.read_response(table, WHERE)
    infinite = np.asarray(hdu.data["BKG"], float).copy()
    infinite[0, 1, 2, 3] = np.inf
    with pytest.raises(ValueError, match=r"the column BKG has infinite values, the first at \(1, 2, 3\)"):
        reader.read_response(edited(hdu, "BKG", infinite), WHERE)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("part", [0.5, 0.8, 0.95, 0.99])
def test_a_file_that_is_cut_off(tmp_path, write, suffix, part):
    whole = write(tmp_path / f"whole.fits{suffix}", "aeff", "edisp", "psf_king", "bkg_3d")
    assert read_irf(whole).background is not None
    data = whole.read_bytes()
    cut = tmp_path / f"cut.fits{suffix}"
    cut.write_bytes(data[: int(part * len(data)) // 7 * 7 + 1])
    with pytest.raises(ValueError, match=f"cut.fits{suffix}: not a readable FITS file"):
        read_irf(cut)


@pytest.mark.parametrize("value", ["''", "-1", "'\x01", "T"])
@pytest.mark.parametrize("key", ["TFORM1", "TTYPE1"])
def test_a_damaged_header(key, value, tmp_path, write):
    path = write(tmp_path / "irf.fits", "aeff", "edisp", "psf_king", "bkg_3d")
    data = path.read_bytes()
    place = data.index(f"{key:8s}= ".encode())
    path.write_bytes(data[:place] + f"{key:8s}= {value}".ljust(80).encode("latin-1") + data[place + 80 :])
    with pytest.raises(ValueError, match="irf.fits") as caught:
        read_irf(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"HDUCLAS4": "BKG3D"}, {"HDUCLAS4": None}, {"HDUCLAS4": ""}])
def test_a_background_of_an_unknown_class_is_not_left_out(tmp_path, write, changes):
    def change(hdu):
        if hdu.name == "BACKGROUND":
            for key, value in changes.items():
                hdu.header.remove(key)
                if value is not None:
                    hdu.header[key] = value
        return hdu

    with pytest.raises(ValueError, match="HDU BACKGROUND: HDUCLAS4 is .*; it must be one of .*BKG_2D, BKG_3D"):
        read_irf(write(tmp_path / "irf.fits", "aeff", "edisp", "psf_king", "bkg_3d", change=change))


def test_names_of_hdus_in_lower_case():
    hdu = events()
    hdu.header["EXTNAME"] = "events"
    assert reader.find(fits.HDUList([fits.PrimaryHDU(), hdu]), "EVENTS", "a.fits") is not None
