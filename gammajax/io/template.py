"""Templates from files, and resampling of sky maps onto equal-area grids."""

import math
from typing import Any

import equinox as eqx
import numpy as np
from scipy.ndimage import binary_dilation

from gammajax.instrument.sky import Grid, deproject, project
from gammajax.io.skymap import existing_map, read_map
from gammajax.model.templates import Edge, TemplateMap

OVERSAMPLE = 4  # points per side of a pixel of the map or the grid, whichever is smaller
LARGEST = 2000  # pixels per side of the grid; larger grids are most likely a mistake
SKY = math.degrees(2.0)  # radius [deg] of the projected sky
BRIGHT = 0.05  # of the mean brightness: a map with brighter pixels at its end is cut off


def read_template(
    path,
    frame: str = "icrs",
    lon: float | int | None = None,
    lat: float | int | None = None,
    radius: float | int | None = None,
    step: float | int | None = None,
) -> TemplateMap:
    """Template from a FITS image or HEALPix map of surface brightness, in any unit per solid angle.

    Every pixel of an equal-area grid gets the mean of the map, which is constant within its own pixels: this conserves
    photons. The template is then normalised to one *on the grid*. Pixels that are not finite count as empty. Divide
    counts per pixel by the solid angle first, unless all pixels of the map have equal area.

    If the map, or the part that is read, ends while it is still bright (5 % of the mean brightness or more), the
    template stores this edge. An observation with that edge in its field is an error: the flux beyond would be missing.
    For a source that really ends there use `TemplateMap(template.grid, template.values)`.

    Returns a [`gammajax.TemplateMap`][].

    **Arguments:**

    - `path` of the file; environment variables are expanded.
    - `frame`: frame of the observations, "icrs" or "galactic"; the file gives the map's own frame.
    - `lon`, `lat` [deg]: centre of the grid in `frame`, by default the middle of the map's bright pixels.
    - `radius` [deg]: half the side of the grid, by default large enough for all bright pixels.
    - `step` [deg]: side of the pixels of the grid, by default the side of the map's pixels.

    Raises `ValueError` for other files, for a cube, a negative brightness, and a grid above 2000 pixels a side.

    >>> import pathlib, tempfile, gammajax as gj, numpy as np
    >>> from gammapy.maps import WcsGeom, WcsNDMap
    >>> geom = WcsGeom.create(skydir=(0.0, 0.0), width=4.0, binsz=0.1, frame="galactic")
    >>> separation = geom.separation(geom.center_skydir).deg
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "excess.fits"
    >>> WcsNDMap(geom, np.exp(-0.5 * (separation / 0.3) ** 2), unit="sr-1").write(file)
    >>> template = gj.io.read_template(file, frame="galactic")
    >>> bool(template.brightness(0.0, 0.0) > template.brightness(0.5, 0.0))
    True
    """
    path = existing_map(path, frame)
    sky = read_map(path)
    if sky.axes:
        raise ValueError(f"{path}: a template must be an image, this one has the axes {sky.axes}")
    grid, values, edge = resample(sky, str(path), frame, lon, lat, radius, step)
    try:
        return TemplateMap(grid, values, edge)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def resample(sky, name, frame, lon=None, lat=None, radius=None, step=None) -> tuple[Grid, np.ndarray, Edge | None]:
    """Equal-area grid, means of `sky` over its pixels, [y, x] or [plane, y, x], and the edge if the map is cut off.

    `sky` is a [`gammajax.io.skymap.SkyMap`][] or has its `frame`, `step`, `bright` and `values_at`. The other arguments
    are those of [`read_template`][]; `name` is for messages.
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
    """Unknown pixels next to bright pixels, also just outside the grid."""
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
