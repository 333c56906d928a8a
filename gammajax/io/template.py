"""Template maps from files: images with a celestial projection, and HEALPix maps."""

import math
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from gammajax.io.files import UNREADABLE, expand, one_line, quiet
from gammajax.sky import Grid, project
from gammajax.templates import TemplateMap

OVERSAMPLE = 4  # points per side of a pixel of the map or the grid, whichever is smaller
LARGEST = 2000  # pixels per side of the grid; larger ones are asked for by mistake
SKY = math.degrees(2.0)  # radius [deg] of the projected sky


def read_template(
    path,
    frame: str = "icrs",
    lon: float | int | None = None,
    lat: float | int | None = None,
    radius: float | int | None = None,
    step: float | int | None = None,
) -> TemplateMap:
    """Template from a FITS image or HEALPix map of surface brightness, in any unit per solid angle.

    Every pixel of an equal-area grid gets the mean of the map over it, the map being constant in its own pixels, so
    that photons are conserved; the template is then normalised to one *on the grid*. Pixels that are not finite count
    as empty. Counts per pixel must be divided by the solid angle first, unless all pixels of the map are equal-area.

    **Arguments:**

    - `frame`: "icrs" or "galactic", that of the observations; the map's own is in the file.
    - `lon`, `lat` [deg]: centre of the grid in `frame`, by default the middle of the map's bright pixels.
    - `radius` [deg]: half the side of the grid, by default what holds all bright pixels.
    - `step` [deg]: side of the pixels of the grid, by default that of the map's.

    Raises `ValueError` for a file that is neither, for a cube, a negative brightness, and a grid above 2000 pixels a
    side.
    """
    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such map")
    if frame not in ("icrs", "galactic"):
        raise ValueError(f"frame must be 'icrs' or 'galactic', not {frame!r}")
    from astropy.coordinates import SkyCoord

    sky = _read(path)
    step = sky.step if step is None else step
    if lon is None or lat is None or radius is None:
        bright: Any = SkyCoord(*sky.bright(), unit="deg", frame=sky.frame).transform_to(frame)
        if bright.size == 0:
            raise ValueError(f"{path}: the map is empty")
        middle: Any = SkyCoord(bright.cartesian.mean(), frame=frame, representation_type="cartesian").spherical
        lon = float(middle.lon.deg) if lon is None else lon
        lat = float(middle.lat.deg) if lat is None else lat
        if radius is None:
            away = _project(bright.spherical.lon.deg, bright.spherical.lat.deg, lon, lat)
            radius = max(float(np.abs(away).max()) + sky.step, 2.0 * step)
    radius = min(radius, SKY)
    if 2.0 * radius / step > LARGEST:
        raise ValueError(
            f"{path}: {radius:.3g} deg in steps of {step:.3g} deg are more than {LARGEST} pixels a side; "
            "give lon, lat and radius [deg] of the part to keep, or a larger step"
        )
    grid = Grid(lon, lat, step, radius)
    points = math.ceil(OVERSAMPLE * max(1.0, step / sky.step))
    shifts = (np.arange(points) + 0.5) / points - 0.5
    x, y = np.meshgrid(*(np.asarray(grid.coordinates, float),) * 2)
    total = np.zeros(x.shape)
    for shift_x in shifts:
        for shift_y in shifts:
            at: Any = SkyCoord(
                *(np.asarray(c, float) for c in _directions(grid, shift_x, shift_y)), unit="deg", frame=frame
            )
            at = at.transform_to(sky.frame).spherical
            inside = np.hypot(x + shift_x * step, y + shift_y * step) < SKY
            total += np.where(inside, sky.values_at(at.lon.deg, at.lat.deg), 0.0)
    try:
        return TemplateMap(grid, total / points**2)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@eqx.filter_jit
def _directions(grid, shift_x, shift_y):
    return grid.directions(shift_x, shift_y)


@eqx.filter_jit
def _project(lon, lat, lon0, lat0):
    return project(lon, lat, lon0, lat0)


def _read(path):
    from astropy.io import fits
    from gammapy.maps import Map

    try:
        with quiet():
            with fits.open(path) as file:
                hdus: Any = file
                for hdu in hdus:
                    if hdu.header.get("PIXTYPE") == "HEALPIX":
                        return _HealpixMap(hdu)
            sky = Map.read(path)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a map: {one_line(error)}") from error
    if not sky.geom.is_image:
        raise ValueError(f"{path}: a template must be an image, this one has the axes {sky.geom.axes.names}")
    return _WcsMap(sky)


class _WcsMap:
    """An image with a celestial projection, read by gammapy."""

    def __init__(self, sky):
        self.map = sky
        self.map.data = np.nan_to_num(np.asarray(sky.data, float), posinf=0.0, neginf=0.0)
        self.frame = sky.geom.frame
        self.step = float(np.sqrt(np.nanmedian(sky.geom.solid_angle().to_value("deg2"))))

    def bright(self):
        coordinates = self.map.geom.get_coord()
        some = self.map.data != 0
        return coordinates.lon.to_value("deg")[some], coordinates.lat.to_value("deg")[some]

    def values_at(self, lon, lat):
        from astropy import units as u

        return np.nan_to_num(self.map.get_by_coord({"lon": lon * u.deg, "lat": lat * u.deg}))


class _HealpixMap:
    """A HEALPix map, of the whole sky or with a column of pixel numbers; gammapy needs healpy for these."""

    def __init__(self, hdu):
        header = hdu.header
        self.nest = header["ORDERING"].strip().upper().startswith("NEST")
        system = str(header.get("COORDSYS", "C")).strip().upper()
        if system[0] not in "GCE" or system.startswith("ECL") or system == "E":
            raise ValueError(f"unknown coordinates {system!r}; galactic and celestial ones are known")
        self.frame = "galactic" if system[0] == "G" else "icrs"
        self.nside = int(header["NSIDE"])
        if self.nside < 1 or (self.nest and self.nside & (self.nside - 1)):
            raise ValueError(f"NSIDE is {self.nside}")
        explicit = str(header.get("INDXSCHM", "IMPLICIT")).strip().upper() == "EXPLICIT"
        columns = hdu.columns.names[1:] if explicit else hdu.columns.names
        if len(columns) > 1 and str(header.get("HPX_CONV", "")).strip():
            raise ValueError(f"a template must be an image, this one has the planes {columns}")
        values = np.asarray(hdu.data[columns[0]], float).ravel()
        values[np.isclose(values, -1.6375e30, rtol=1e-3)] = 0.0  # the standard's mark for no data
        pixels = np.asarray(hdu.data[hdu.columns.names[0]]).ravel() if explicit else np.arange(12 * self.nside**2)
        if values.shape != pixels.shape or pixels.max(initial=0) >= 12 * self.nside**2:
            raise ValueError(f"{values.size} values do not fit NSIDE {self.nside}")
        self.data = np.zeros(12 * self.nside**2)
        self.data[pixels] = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        self.step = math.degrees(math.sqrt(math.pi / 3.0) / self.nside)

    def bright(self):
        found = []
        for first in range(0, self.data.size, 1_000_000):  # in parts: large maps have 1e8 pixels
            lon, lat = healpix_centre(self.nside, np.arange(first, min(first + 1_000_000, self.data.size)))
            some = self.values_at(lon, lat) != 0
            found.append((lon[some], lat[some]))
        return tuple(np.concatenate(column) for column in zip(*found, strict=True))

    def values_at(self, lon, lat):
        return self.data[healpix_pixel(self.nside, self.nest, lon, lat)]


def healpix_pixel(nside: int, nest: bool, lon, lat) -> Int[np.ndarray, "..."]:
    """Number of the HEALPix pixel that holds a direction [deg] (Gorski et al. 2005, ApJ 622, 759, section 5)."""
    z, quarter = np.sin(np.radians(lat)), np.mod(np.asarray(lon, float), 360.0) / 90.0
    z, quarter = np.broadcast_arrays(z, quarter)
    # lines of equal number run along the two diagonals of the (longitude, z) plane; in the caps they crowd
    up = np.floor(nside * (0.5 + quarter - 0.75 * z)).astype(np.int64)
    down = np.floor(nside * (0.5 + quarter + 0.75 * z)).astype(np.int64)
    base = np.minimum(quarter.astype(np.int64), 3)
    part, reach = quarter - base, nside * np.sqrt(3.0 * _one_minus(z, lat))
    cap_up = np.minimum(np.floor(part * reach).astype(np.int64), nside - 1)
    cap_down = np.minimum(np.floor((1.0 - part) * reach).astype(np.int64), nside - 1)
    belt, north = np.abs(z) <= 2.0 / 3.0, z > 0
    if not nest:
        ring = nside + 1 + up - down
        number = ((up + down - nside + (ring % 2 == 0) + 1) // 2) % (4 * nside)
        equatorial = 2 * nside * (nside - 1) + (ring - 1) * 4 * nside + number
        ring = cap_up + cap_down + 1
        number = np.floor(quarter * ring).astype(np.int64) % (4 * ring)
        cap = np.where(north, 2 * ring * (ring - 1), 12 * nside**2 - 2 * ring * (ring + 1)) + number
        return np.where(belt, equatorial, cap)
    face_up, face_down = up // nside, down // nside
    face = np.where(face_up == face_down, face_up % 4 + 4, np.where(face_up < face_down, face_up, face_down + 8))
    x, y = down % nside, nside - 1 - up % nside
    face = np.where(belt, face, np.where(north, base, base + 8))
    x = np.where(belt, x, np.where(north, nside - 1 - cap_down, cap_up))
    y = np.where(belt, y, np.where(north, nside - 1 - cap_up, cap_down))
    return face * nside**2 + _spread(x) + 2 * _spread(y)


def healpix_centre(nside: int, pixel) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Longitude and latitude [deg] of the centres of pixels numbered along rings (same paper)."""
    capped = 2 * nside * (nside - 1)
    last = 12 * nside**2 - 1
    south = pixel > last - capped
    mirrored = np.where(south, last - pixel, pixel)
    ring = np.floor(0.5 * (1.0 + np.sqrt(1.0 + 2.0 * mirrored))).astype(np.int64)
    number = mirrored - 2 * ring * (ring - 1)
    number = np.where(south, 4 * ring - 1 - number, number)
    cap_sine = (1.0 - ring**2 / (3.0 * nside**2)) * np.where(south, -1.0, 1.0)
    belt = (mirrored >= capped) & ~south
    row, column = (pixel - capped) // (4 * nside) + nside, (pixel - capped) % (4 * nside)
    sine = np.where(belt, 4.0 / 3.0 - 2.0 * row / (3.0 * nside), cap_sine)
    lon = np.where(belt, (column + 0.5 * ((row + nside) % 2 == 0)) / nside, (number + 0.5) / ring) * 90.0
    return lon, np.degrees(np.arcsin(sine))


def _one_minus(z, lat) -> Float[np.ndarray, "..."]:
    """1 - |z| without cancellation at the poles."""
    return 2.0 * np.sin(np.radians(0.5 * (90.0 - np.abs(np.broadcast_to(lat, z.shape))))) ** 2


def _spread(number):
    """Bits of a number moved to the even places."""
    bits = range(30)
    return sum((((number >> bit) & 1) << (2 * bit) for bit in bits), start=np.zeros_like(number))
