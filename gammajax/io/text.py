"""Quantities and angles that people write as text, such as "10 h", "200 GeV", "83d37m43s" or "05:34:31.94"."""

# astropy carries no types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import re
import warnings

from gammajax.io.files import one_line

# one of each kind that differs from the unit itself
EXAMPLES = {"s": "10 h", "h": "30 min", "TeV": "200 GeV", "deg": "6 arcmin", "kpc": "200 pc", "TeV-1": "1e-3 GeV-1"}
DECIMAL = r"\d+(?:\.\d*)?"
DEGREES = re.compile(
    rf"[+-]?{DECIMAL}\s*(?:d|°)\s*(?:{DECIMAL}\s*(?:m|'|′)\s*)?(?:{DECIMAL}\s*(?:s|\"|″|''))?", re.VERBOSE
)
HOURS = re.compile(rf"[+-]?{DECIMAL}\s*h\s*(?:{DECIMAL}\s*m\s*)?(?:{DECIMAL}\s*s)?", re.VERBOSE)
BASE_60 = re.compile(rf"[+-]?\d+(?:\s*:\s*\d+\s*:\s*|\s+\d+\s+){DECIMAL}")
COLONS = re.compile(r"[+-]?[\d.]+\s*:")


def read_quantity(text: str, unit: str) -> float:
    """Number in `unit` of a text with a unit that converts to it; a plain number is in `unit` already.

    Raises `ValueError` for anything else.
    """
    from astropy import units

    example = EXAMPLES.get(unit, f"1 {unit}")
    wanted = f"a number in {unit}, or one with a unit as in '{example}'" if unit else "a number"
    try:
        quantity = units.Quantity(text)
    except (TypeError, ValueError) as error:
        near = re.search(r"Did you mean ([^?]*)\?", str(error))
        raise ValueError(f"must be {wanted}, not {text!r}" + (f"; did you mean {near[1]}?" if near else "")) from error
    try:
        if quantity.unit == units.dimensionless_unscaled:
            return float(quantity.value)
        return float(quantity.to_value(unit))
    except (TypeError, ValueError, units.UnitConversionError) as error:
        raise ValueError(f"must be {wanted}; {text!r} is of another kind") from error


def same_unit(label: str, unit: str) -> bool:
    """Whether a label means `unit`, as far as it can be read; labels such as LaTeX cannot."""
    from astropy import units

    try:
        read = units.Unit(label)
    except ValueError:
        return True
    return bool(read == units.Unit(unit))


def read_angle(text: str) -> tuple[float, bool]:
    r"""Angle [deg] of a text, and whether it is written in hours, as right ascensions alone are.

    - Degrees: "83d37m43s", "83°37'43\"", "83.63 deg", "6 arcmin". Hours: "5h34m31.94s".
    - Three numbers with colons or spaces, "05:34:31.94": in hours here; read them as degrees for a latitude with
      [`read_latitude`][].

    Raises `ValueError` for anything else, for hours outside 0 to 24, and for minutes or seconds from 60.
    """
    text = text.strip()
    if HOURS.fullmatch(text) or BASE_60.fullmatch(text):
        if not 0 <= float(re.split(r"[\s:h]", text)[0]) < 24 or text.startswith("-"):
            raise ValueError(f"{text!r} is no right ascension, from 0 to 24 h; degrees are written as in 83d37m43s")
        return _angle(text, "hourangle"), True
    if DEGREES.fullmatch(text):
        return _angle(text, "deg"), False
    if COLONS.match(text):
        raise ValueError(f"{text!r} is no angle: colons separate three numbers, as in 05:34:31.94")
    return read_quantity(text, "deg"), "hour" in text


def read_latitude(text: str) -> float:
    """Latitude or declination [deg]: as [`read_angle`][], but colons are of degrees, "+22:00:52".

    Raises `ValueError` for hours.
    """
    text = text.strip()
    if BASE_60.fullmatch(text):
        return _angle(text, "deg")
    value, hours = read_angle(text)
    if hours:
        raise ValueError(f"{text!r} is in hours, a latitude is in degrees, as in +22:00:52 or 22d00m52s")
    return value


def _angle(text, unit) -> float:
    from astropy.coordinates import Angle

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # astropy carries 60 minutes over
        try:
            return float(Angle(text, unit=unit).deg)
        except (ValueError, Warning) as error:
            raise ValueError(f"{text!r} is no angle ({one_line(error)})") from error
