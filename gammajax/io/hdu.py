"""One HDU of a DL3 file, checked against the GADF formats (https://gamma-astro-data-formats.readthedocs.io).

Columns come in the units of the format, whatever the unit in the file. A column, unit or keyword that cannot be used is
one line with the file, the HDU, its name, and a value that would be right. Gammapy makes its objects of the result.
"""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false, reportIndexIssue=false, reportCallIssue=false

import contextlib
import gzip
import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gammajax.io.files import UNREADABLE, one_line, quiet
from gammajax.io.units import factor, parse

RATE = "s-1 MeV-1 sr-1"
# units by column; axes have a column for each end, NAME_LO and NAME_HI
AXES = {"ENERG": "TeV", "ETRUE": "TeV", "THETA": "deg", "RAD": "deg", "MIGRA": "", "DETX": "deg", "DETY": "deg"}
VALUES = {
    "EFFAREA": "m2",
    "MATRIX": "",
    "RPSF": "sr-1",
    "SCALE": "sr-1",
    **{f"SIGMA_{i}": "deg" for i in (1, 2, 3)},
    **{f"AMPL_{i}": "" for i in (2, 3)},
    "SIGMA": "deg",
    "GAMMA": "",
    "BKG": RATE,
    "BGD": RATE,
    "RAD_MAX": "deg",
}
EVENTS = {"ENERGY": "TeV", "RA": "deg", "DEC": "deg"}
# axes and values of each class, in the order of the format; other names in use follow a bar
CLASSES = {
    "aeff_2d": (("ENERG|ETRUE", "THETA"), ("EFFAREA",)),
    "edisp_2d": (("ENERG|ETRUE", "MIGRA", "THETA"), ("MATRIX",)),
    "psf_table": (("ENERG|ETRUE", "THETA", "RAD"), ("RPSF",)),
    "psf_3gauss": (("ENERG|ETRUE", "THETA"), ("SCALE", "SIGMA_1", "AMPL_2", "SIGMA_2", "AMPL_3", "SIGMA_3")),
    "psf_king": (("ENERG|ETRUE", "THETA"), ("SIGMA", "GAMMA")),
    "bkg_2d": (("ENERG", "THETA"), ("BKG|BGD",)),
    "bkg_3d": (("ENERG", "DETX", "DETY"), ("BKG|BGD",)),
    "rad_max_2d": (("ENERG", "THETA"), ("RAD_MAX",)),
}
# only ratios of SCALE matter, and files of the first CTA data challenge give it no unit
NEEDS_NO_UNIT = {"SCALE": "sr-1"}
NOT_NEGATIVE = ("EFFAREA", "BKG", "BGD", "THETA", "RAD", "RAD_MAX")
# texts for people, of which some writers repeat one with another value
TEXTS = ("TELLIST", "N_TELS", "OBSERVER", "AUTHOR", "CONTACT", "CREATED", "DATE")
BLOCK = 2880  # bytes; FITS files are a multiple


@contextlib.contextmanager
def opened(path, name=None):
    """The HDUs of a file; raises `ValueError` with its path, or `name`, if it cannot be read."""
    from astropy.io import fits

    try:
        with quiet(), fits.open(_complete(path), memmap=False) as hdus:
            len(hdus)  # reads all headers
            yield hdus
    except FileNotFoundError as error:
        raise ValueError(f"{name or path}: no such file") from error
    except Refused:
        raise
    except UNREADABLE as error:
        raise ValueError(f"{name or path}: not a readable FITS file ({one_line(error)})") from error


def _complete(path):
    """Content of a file, plain or by gzip; raises for one that is cut off, of which astropy reads the first HDUs."""
    data = Path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    elif data[:6] != b"SIMPLE":
        return path  # astropy knows other kinds of compression
    if len(data) % BLOCK:
        raise OSError("the file is cut off")
    return io.BytesIO(data)


class Refused(ValueError):
    """Error with a message that names the file, the HDU and the mistake."""


def find(hdus, name: str, file):
    """The table of that name. Raises `Refused` when there is none."""
    names = [hdu.name.upper() for hdu in hdus]
    if name.upper() not in names:
        raise Refused(f"{file}: no HDU {name}; the file has {', '.join(filter(None, names[1:])) or 'no tables'}")
    return hdus[names.index(name.upper())]


def response_class(header, given: str = "") -> str:
    """Class of a response function by its header, as "psf_3gauss"; `given` (by an index) where the header has none.

    Files of the first CTA data challenge write "3GAUSS".
    """
    kind = str(header.get("HDUCLAS2", "")).strip().lower()
    kind = {"rpsf": "psf", "eff_area": "aeff"}.get(kind, kind)
    name = str(header.get("HDUCLAS4", "")).strip().lower()
    return next((one for one in (name, f"{kind}_{name}") if one in CLASSES), str(given).strip().lower())


def read_response(hdu, where: str, given: str = ""):
    """Gammapy's response function of an HDU; `where` names file and HDU in messages, `given` as in `response_class`."""
    from astropy.table import Column, Table
    from gammapy.irf import IRF_REGISTRY

    kind = response_class(hdu.header, given)
    if kind not in CLASSES:
        classes = ", ".join(CLASSES).upper()
        raise Refused(f"{where}: HDUCLAS4 is {hdu.header.get('HDUCLAS4', 'missing')!r}; it must be one of {classes}")
    axes, values = ([_present(hdu, names.split("|"), where) for names in group] for group in CLASSES[kind])
    _one_row(hdu, where)
    columns = {name: _edges(hdu, name, where) for axis in axes for name in (f"{axis}_LO", f"{axis}_HI")}
    _check_edges(columns, axes, where)
    shape = tuple(columns[f"{axis}_LO"].size for axis in axes)
    for name in values:
        columns[name] = _array(hdu, name, shape, where, either_order=kind.startswith("bkg"))
    table = Table(
        {name: Column(value[None], unit=VALUES.get(name, AXES.get(name[:-3], ""))) for name, value in columns.items()},
        meta=_once(hdu.header, where),
    )
    if kind.startswith("bkg"):
        table.meta["HDUCLAS2"] = "BKG"
    try:
        with quiet():
            return IRF_REGISTRY.get_cls(kind).from_table(table)
    except UNREADABLE as error:
        if "FOVALIGN" in table.meta and table.meta["FOVALIGN"] not in ("RADEC", "ALTAZ", "REVERSE_LON_RADEC"):
            raise Refused(f"{where}: FOVALIGN is {table.meta['FOVALIGN']!r}; it must be RADEC or ALTAZ") from error
        raise Refused(f"{where}: not the class {kind.upper()} ({one_line(error)})") from error


def read_event_list(hdu, where: str):
    """Gammapy's `EventList` of an HDU, energies in TeV, directions in deg."""
    from astropy import units
    from astropy.table import Table
    from gammapy.data import EventList

    columns = {name: rows(hdu, name, unit, where) * units.Unit(unit) for name, unit in EVENTS.items()}
    columns["TIME"] = reference(hdu.header, where) + _times(hdu, "TIME", where) * units.s
    table = Table.read(hdu)
    table.remove_columns([name for name in table.colnames if name.upper() in (*columns, "MC_ID")])
    for name, values in columns.items():
        table[name] = values
    if "MC_ID" in _names(hdu):
        table["MC_ID"] = whole_rows(hdu, "MC_ID", where)
    table.meta = _once(hdu.header, where)
    return EventList(table)


def read_good_time(hdu, where: str):
    """Gammapy's `GTI` of an HDU."""
    from astropy import units
    from gammapy.data import GTI

    start, stop = (_times(hdu, name, where) for name in ("START", "STOP"))
    if start.size == 0:
        raise Refused(f"{where}: no rows; a run needs at least one good time interval, leave this run out")
    if not np.all(stop >= start):
        row = int(np.argmin(stop >= start))
        raise Refused(f"{where}, row {row}: STOP is before START ({stop[row]:g} s, {start[row]:g} s)")
    return GTI.create(start * units.s, stop * units.s, reference(hdu.header, where))


def column(hdu, name: str, unit: str, where: str, otherwise: str | None = None) -> np.ndarray:
    """Numbers of a column in `unit` as float64; `otherwise` is the unit of a column that names none.

    Raises `Refused` for a missing column, text, and a unit that cannot be read or has another dimension. Without
    `otherwise`, a column that names no unit is read in `unit`, with a warning.
    """
    names = _names(hdu)
    if name not in names:
        raise Refused(f"{where}: no column {name}; the table has {', '.join(names) or 'none'}")
    values = hdu.data[name]
    if values.dtype.kind == "O":  # arrays of variable length
        if len({np.shape(one) for one in values}) > 1:
            raise Refused(f"{where}: the rows of {name} differ in length")
        values = np.stack(list(values)) if len(values) else np.zeros(0)
    if values.dtype.kind not in "fiu":
        raise Refused(f"{where}: the column {name} does not hold numbers, its format is {hdu.columns[name].format}")
    text = str(hdu.columns[name].unit or "").strip()
    if not text:
        if otherwise is None and unit:
            warnings.warn(f"{where}: the column {name} has no unit; it is read in {unit}", stacklevel=2)
        text = otherwise or unit
    return values.astype(np.float64) * _scale(text, unit, name, where)


def number(header, keyword: str, where: str, right: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Value of a keyword; text that holds a number counts. `right` says how it should be.

    Raises `Refused` when it is missing, not a number, or not between `low` and `high`.
    """
    value = optional_number(header, keyword, where, right)
    if value is None:
        raise Refused(f"{where}: no keyword {keyword}; {right}")
    if not low <= value <= high:
        raise Refused(f"{where}: {keyword} is {value:g}; {right}")
    return value


def optional_number(header, keyword: str, where: str, right: str) -> float | None:
    """As [`number`][], None for a keyword that is missing or has no value."""
    from astropy.io.fits.card import Undefined

    value = _once(header, where).get(keyword)
    if value is None or isinstance(value, Undefined) or (isinstance(value, str) and not value.strip()):
        return None
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        result = math.nan
    if math.isnan(result):
        raise Refused(f"{where}: {keyword} is {value!r}, which is not a number; {right}")
    return result


def _once(header, where: str) -> dict[str, Any]:
    """Keywords with their values; a keyword that is there twice must have one value, unless it is a text."""
    values: dict[str, Any] = {}
    for key, value in header.items():
        if key in ("COMMENT", "HISTORY", ""):
            continue
        if key in values and key in TEXTS:
            continue
        if key in values and repr(values[key]) != repr(value):
            raise Refused(f"{where}: the keyword {key} is there twice, as {values[key]!r} and {value!r}")
        values[key] = value
    return values


def _scale(text: str, unit: str, name: str, where: str) -> float:
    """Factor from the unit that a file names to that of the format."""
    if text == unit:
        return 1.0
    found = parse(text)
    if found is None:
        raise Refused(f"{where}: the unit {text!r} of {name} cannot be read; right would be {unit!r}")
    scale = factor(found, unit)
    if scale is None:
        raise Refused(f"{where}: {name} is in {text!r}; its unit must be convertible to {unit!r}")
    return scale


def _names(hdu) -> list[str]:
    """Columns of a table; images have none."""
    columns = getattr(hdu, "columns", None)
    return [] if columns is None or hdu.data is None else [name.upper() for name in columns.names]


def _present(hdu, alternatives, where) -> str:
    """The first of these names that has a column, without the _LO of axes."""
    names = _names(hdu)
    for name in alternatives:
        if name in names or f"{name}_LO" in names:
            return name
    name = alternatives[0] if alternatives[0] in VALUES else f"{alternatives[0]}_LO"
    raise Refused(f"{where}: no column {name}; the table has {', '.join(names) or 'none'}")


def _one_row(hdu, where):
    if len(hdu.data) != 1:
        raise Refused(f"{where}: the table has {len(hdu.data)} rows; a response function is one row of arrays")


def _edges(hdu, name, where) -> np.ndarray:
    values = np.ravel(column(hdu, name, AXES[name[:-3]], where)[0])
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise Refused(f"{where}: the column {name} {'is not finite' if values.size else 'is empty'}")
    if AXES[name[:-3]] == "TeV" and np.any(values <= 0):
        raise Refused(f"{where}: the column {name} must hold positive energies")
    elif name[:-3] in NOT_NEGATIVE and np.any(values < -1e-6):
        raise Refused(f"{where}: the column {name} must not be negative")
    return values


def _check_edges(columns, axes, where):
    for axis in axes:
        low, high = columns[f"{axis}_LO"], columns[f"{axis}_HI"]
        if low.size != high.size:
            raise Refused(f"{where}: {axis}_LO has {low.size} bins and {axis}_HI has {high.size}")
        nodes = np.allclose(low, high, rtol=1e-6)
        if np.any(np.diff(low) <= 0) or np.any(np.diff(high) <= 0) or not (nodes or np.all(low < high)):
            raise Refused(f"{where}: the bins of {axis}_LO and {axis}_HI must increase, each from low to high")
        # rounded in single precision
        if not nodes and not np.allclose(low[1:], high[:-1], rtol=1e-3, atol=1e-6):
            raise Refused(f"{where}: the bins of {axis}_LO and {axis}_HI must join without gaps")


def _array(hdu, name, shape, where, either_order) -> np.ndarray:
    """Array of a response function; FITS has the axes in the other order, and some backgrounds in this one."""
    values = column(hdu, name, VALUES[name], where, otherwise=NEEDS_NO_UNIT.get(name))[0]
    if values.size == np.prod(shape) and values.ndim != len(shape):
        if either_order and sum(size > 1 for size in shape) > 1:
            raise Refused(f"{where}: the column {name} needs a TDIM; without one the order of its axes is not known")
        values = values.reshape(shape[::-1])  # axes of one bin are left out by some writers
    if values.shape != shape[::-1] and not (either_order and values.shape == shape):
        raise Refused(f"{where}: the column {name} has the shape {values.shape}; its axes have {shape[::-1]} bins")
    if not np.any(np.isfinite(values)):
        raise Refused(f"{where}: the column {name} has no finite value")
    if np.any(np.isinf(values)):
        raise Refused(f"{where}: the column {name} has infinite values, the first at {_place(np.isinf(values))}")
    # smoothed areas of real runs undershoot by 1e-4 of their maximum
    if name in NOT_NEGATIVE and np.nanmin(values) < -0.01 * np.nanmax(values):
        raise Refused(f"{where}: the column {name} must not be negative")
    return values


def rows(hdu, name: str, unit: str, where: str, otherwise: str | None = None) -> np.ndarray:
    """Column with one number in each row; raises as [`column`][] does."""
    values = column(hdu, name, unit, where, otherwise)
    if values.size != len(values):
        raise Refused(f"{where}: the column {name} has {values.shape[1:]} numbers in each row; it must have one")
    return values.reshape(len(values))


def whole_rows(hdu, name: str, where: str) -> np.ndarray:
    """Column of whole numbers, one in each row."""
    values = rows(hdu, name, "", where)
    if not np.all(np.abs(values) < 2**31) or np.any(values != np.round(values)):
        row = int(np.argmin((np.abs(values) < 2**31) & (values == np.round(values))))
        raise Refused(f"{where}, row {row}: {name} is {values[row]:g}; it must be a whole number below 2^31")
    return values.astype(np.int64)


def _place(mask) -> tuple[int, ...]:
    """Index of the first true element."""
    return tuple(int(i) for i in np.argwhere(mask)[0])


def _times(hdu, name, where) -> np.ndarray:
    """Times of a column [s] since the reference of the header."""
    values = rows(hdu, name, "s", where, otherwise=str(hdu.header.get("TIMEUNIT") or "s"))
    if not np.all(np.isfinite(values)):
        raise Refused(f"{where}, row {int(np.argmin(np.isfinite(values)))}: {name} is not finite")
    return values


def reference(header, where):
    """Reference time of a header, MJDREFI and MJDREFF, or MJDREF of the FITS standard, in the scale TIMESYS."""
    from astropy.time import Time

    right = "the reference time is MJDREFI + MJDREFF [MJD], as 51544 and 0.5"
    whole = optional_number(header, "MJDREF", where, right)
    if whole is None or "MJDREFI" in header:
        whole = number(header, "MJDREFI", where, right)
        part = number(header, "MJDREFF", where, right)
    else:
        part = 0.0
    scale = str(header.get("TIMESYS") or "tt").strip().lower()
    scales = [name for name in Time.SCALES if name != "local"]
    if scale not in scales:
        raise Refused(f"{where}: TIMESYS is {scale!r}; it must be one of {', '.join(scales)}")
    return Time(whole, part, format="mjd", scale=scale)
