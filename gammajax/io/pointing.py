"""Directions and quantities from user input, and the orientation of the field of view."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false

import warnings

import numpy as np
from jaxtyping import Float


def plain(value, unit: str):
    """Value of a `Quantity` in `unit`; plain numbers are in `unit` already."""
    return value.to_value(unit) if hasattr(value, "to_value") else value


def plain_pair(values, unit: str) -> tuple[float, float]:
    """[`plain`][] for a pair of numbers or quantities."""
    first, second = values
    return float(plain(first, unit)), float(plain(second, unit))


def direction(pointing, frame: str) -> tuple[float, float]:
    """Longitude and latitude [deg] in `frame`, from a pair [deg] in that frame or from any `SkyCoord`."""
    if hasattr(pointing, "transform_to"):
        pointing = pointing.transform_to(frame).spherical
        return float(pointing.lon.deg), float(pointing.lat.deg)
    try:
        return plain_pair(pointing, "deg")
    except (TypeError, ValueError):
        raise ValueError(f"pointing must be (lon, lat) in deg or a SkyCoord, not {pointing!r}") from None


def fov_angle(lon: float, lat: float, frame: str, alignment: str | None, location=None, time=None) -> float:
    """Position angle [deg], east of the north of `frame`, of the field-of-view latitude axis at a pointing [deg].

    The axis points to celestial north for "RADEC" and "REVERSE_LON_RADEC" and to the zenith for "ALTAZ", which needs
    the `EarthLocation` and a `Time`. The sky rotates about the pointing during a run (by up to some 10 deg): the
    angle holds for the given time, usually the middle of the run, and the rotation is not followed.
    `alignment=None`, a background without orientation, gives 0.

    Raises `ValueError` for an unknown alignment and for "ALTAZ" without location and time.
    """
    if alignment is None or (frame == "icrs" and alignment in ("RADEC", "REVERSE_LON_RADEC")):
        return 0.0
    from astropy.coordinates import AltAz, SkyCoord

    if alignment in ("RADEC", "REVERSE_LON_RADEC"):
        up = SkyCoord(0.0, 90.0, unit="deg", frame="icrs").transform_to(frame)
    elif alignment != "ALTAZ":
        raise ValueError(f"FOVALIGN is {alignment!r}; it must be RADEC or ALTAZ")
    elif location is None or time is None:
        raise ValueError("the background is aligned with the zenith (FOVALIGN = ALTAZ): pass fov_angle [deg]")
    else:
        from astropy.utils import iers
        from astropy.utils.exceptions import AstropyWarning
        from erfa import ErfaWarning

        # without network the Earth's rotation is known to a second, far better than needed
        with (
            iers.conf.set_temp("auto_download", False),
            iers.conf.set_temp("auto_max_age", None),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Tried to get polar motions|.*some times are outside", AstropyWarning)
            warnings.filterwarnings("ignore", ".*dubious year", ErfaWarning)
            zenith = SkyCoord(az=0.0, alt=90.0, unit="deg", frame=AltAz(location=location, obstime=time))
            up = zenith.transform_to(frame)
    return float(SkyCoord(lon, lat, unit="deg", frame=frame).position_angle(up).deg)


def separations(
    first: Float[np.ndarray, "first 2"], frame: str, second: Float[np.ndarray, "second 2"], other: str
) -> Float[np.ndarray, "first second"]:
    """Separations [deg] between directions (lon, lat) [deg] in `frame` and directions in the frame `other`."""
    from astropy.coordinates import SkyCoord

    first_sky = SkyCoord(*first.T[:, :, None], unit="deg", frame=frame)
    return np.asarray(first_sky.separation(SkyCoord(*second.T, unit="deg", frame=other)).deg)
