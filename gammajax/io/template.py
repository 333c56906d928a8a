"""Templates from files: images and cubes with a celestial projection, and HEALPix maps."""

import math
from typing import Any

import equinox as eqx
import numpy as np
from scipy.ndimage import binary_dilation

from gammajax.io.files import UNREADABLE, expand, one_line, quiet
from gammajax.sky import Grid, deproject, project
from gammajax.templates import Edge, TemplateMap

OVERSAMPLE = 4  # points per side of a pixel of the map or the grid, whichever is smaller
LARGEST = 2000  # pixels per side of the grid; larger ones are asked for by mistake
SKY = math.degrees(2.0)  # radius [deg] of the projected sky
BRIGHT = 0.05  # of the mean brightness: a map that ends there is cut off


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

    Where the part that is read, or the map itself, ends while it is still bright, with 5 % of the mean brightness or
    more, the template remembers its edge. An observation with that edge in its field is an error: the flux beyond would
    be missing. For a source that does end there: `TemplateMap(template.grid, template.values)`.

    **Arguments:**

    - `frame`: "icrs" or "galactic", that of the observations; the map's own is in the file.
    - `lon`, `lat` [deg]: centre of the grid in `frame`, by default the middle of the map's bright pixels.
    - `radius` [deg]: half the side of the grid, by default what holds all bright pixels.
    - `step` [deg]: side of the pixels of the grid, by default that of the map's.

    Raises `ValueError` for a file that is neither, for a cube, a negative brightness, and a grid above 2000 pixels a
    side.
    """
    path = existing_map(path, frame)
    grid, values, edge = resample(_read(path), str(path), frame, lon, lat, radius, step)
    try:
        return TemplateMap(grid, values, edge)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def existing_map(path, frame):
    """Path of a map that exists, expanded, after a look at the frame."""
    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such map")
    if frame not in ("icrs", "galactic"):
        raise ValueError(f"frame must be 'icrs' or 'galactic', not {frame!r}")
    return path


def resample(sky, name, frame, lon=None, lat=None, radius=None, step=None) -> tuple[Grid, np.ndarray, Edge | None]:
    """Equal-area grid, the means over its pixels of `sky`, [y, x] or [plane, y, x], and the edge where it is cut off.

    `sky` has a `frame`, `step`, `bright` and `values_at`, which is not finite where nothing is known. The other
    arguments are those of [`read_template`][]; `name` is used in messages.
    """
    from astropy.coordinates import SkyCoord

    step = sky.step if step is None else step
    if lon is None or lat is None or radius is None:
        bright: Any = SkyCoord(*sky.bright(), unit="deg", frame=sky.frame).transform_to(frame)
        if bright.size == 0:
            raise ValueError(f"{name}: the map is empty")
        middle: Any = SkyCoord(bright.cartesian.mean(), frame=frame, representation_type="cartesian").spherical
        lon = float(middle.lon.deg) if lon is None else lon
        lat = float(middle.lat.deg) if lat is None else lat
        if radius is None:
            away = _project(bright.spherical.lon.deg, bright.spherical.lat.deg, lon, lat)
            radius = max(float(np.abs(away).max()) + sky.step, 2.0 * step)
    radius = min(radius, SKY)
    if 2.0 * radius / step > LARGEST:
        raise ValueError(
            f"{name}: {radius:.3g} deg in steps of {step:.3g} deg are more than {LARGEST} pixels a side; "
            "give lon, lat and radius [deg] of the part to keep, or a larger step"
        )
    grid = Grid(lon, lat, step, radius)
    points = math.ceil(OVERSAMPLE * max(1.0, step / sky.step))
    shifts = (np.arange(points) + 0.5) / points - 0.5
    x, y = np.meshgrid(*(np.asarray(grid.coordinates, float),) * 2)

    def values_at(shift_x, shift_y):
        at: Any = SkyCoord(
            *(np.asarray(c, float) for c in _directions(grid, shift_x, shift_y)), unit="deg", frame=frame
        )
        at = at.transform_to(sky.frame).spherical
        inside = np.hypot(x + shift_x * step, y + shift_y * step) < SKY
        return np.where(inside, sky.values_at(at.lon.deg, at.lat.deg), 0.0)

    total: Any = 0.0
    for shift_x in shifts:
        for shift_y in shifts:
            total = total + np.nan_to_num(values_at(shift_x, shift_y), posinf=0.0, neginf=0.0)
    values = total / points**2
    return grid, values, _edge(grid, values, np.isfinite(values_at(0.0, 0.0)), name)


def _edge(grid, values, known, name) -> Edge | None:
    """Unknown pixels next to bright ones, also those just outside the grid."""
    known, values = (a.reshape(-1, *a.shape[-2:]) for a in (known, values))
    mean = values.sum((1, 2), keepdims=True) / np.maximum(known.sum((1, 2), keepdims=True), 1)
    bright = np.any(known & (values > BRIGHT * mean), axis=0)
    unknown = np.pad(~known.all(0), 1, constant_values=True)
    coordinates = np.asarray(grid.coordinates, float)
    coordinates = np.concatenate([coordinates[:1] - grid.step, coordinates, coordinates[-1:] + grid.step])
    x, y = np.meshgrid(coordinates, coordinates)
    found = unknown & binary_dilation(np.pad(bright, 1)) & (np.hypot(x, y) < SKY)
    if not found.any():
        return None
    return Edge(name, *(np.asarray(c, float) for c in deproject(x[found], y[found], grid.lon, grid.lat)))


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
    return WcsMap(sky)


class WcsMap:
    """An image with a celestial projection, or planes of them, read by gammapy."""

    def __init__(self, sky):
        self.data, self.geom = np.asarray(sky.data, float), sky.geom.to_image()
        self.frame = sky.geom.frame
        self.step = float(np.sqrt(np.nanmedian(self.geom.solid_angle().to_value("deg2"))))

    def bright(self):
        """Directions [deg] of pixels that are not zero."""
        coordinates = self.geom.get_coord()
        some = np.any((np.isfinite(self.data) & (self.data != 0)).reshape(-1, *self.data.shape[-2:]), axis=0)
        return coordinates.lon.to_value("deg")[some], coordinates.lat.to_value("deg")[some]

    def values_at(self, lon, lat):
        """Values of the pixels in these directions [deg], not finite outside the map."""
        from astropy import units as u

        x, y = self.geom.coord_to_idx((lon * u.deg, lat * u.deg))
        inside = (x >= 0) & (y >= 0)
        return np.where(inside, self.data[..., np.maximum(y, 0), np.maximum(x, 0)], np.nan)


class _HealpixMap:
    """A HEALPix map, of the whole sky or with a column of pixel numbers; gammapy needs healpy for these."""

    def __init__(self, hdu):
        from astropy_healpix import HEALPix

        header = hdu.header
        nest = header["ORDERING"].strip().upper().startswith("NEST")
        system = str(header.get("COORDSYS", "C")).strip().upper()
        if system[0] not in "GCE" or system.startswith("ECL") or system == "E":
            raise ValueError(f"unknown coordinates {system!r}; galactic and celestial ones are known")
        self.frame = "galactic" if system[0] == "G" else "icrs"
        nside = int(header["NSIDE"])
        if nside < 1 or (nest and nside & (nside - 1)):
            raise ValueError(f"NSIDE is {nside}")
        explicit = str(header.get("INDXSCHM", "IMPLICIT")).strip().upper() == "EXPLICIT"
        columns = hdu.columns.names[1:] if explicit else hdu.columns.names
        if len(columns) > 1 and str(header.get("HPX_CONV", "")).strip():
            raise ValueError(f"a template must be an image, this one has the planes {columns}")
        values = np.asarray(hdu.data[columns[0]], float).ravel()
        values[np.isclose(values, -1.6375e30, rtol=1e-3)] = np.nan  # the standard's mark for no data
        pixels = np.asarray(hdu.data[hdu.columns.names[0]]).ravel() if explicit else np.arange(12 * nside**2)
        if values.shape != pixels.shape or pixels.max(initial=0) >= 12 * nside**2:
            raise ValueError(f"{values.size} values do not fit NSIDE {nside}")
        self.data = np.full(12 * nside**2, np.nan)
        self.data[pixels] = values
        self.step = math.degrees(math.sqrt(math.pi / 3.0) / nside)
        self.pixels = HEALPix(nside, "nested" if nest else "ring")

    def bright(self):
        lon, lat = self.pixels.healpix_to_lonlat(np.flatnonzero(np.isfinite(self.data) & (self.data != 0)))
        return lon.to_value("deg"), lat.to_value("deg")

    def values_at(self, lon, lat):
        from astropy import units as u

        return self.data[self.pixels.lonlat_to_healpix(lon * u.deg, lat * u.deg)]
