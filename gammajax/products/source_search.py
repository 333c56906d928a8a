"""Work that maps of one more source at every pixel share: pixels, rows within their reach, and a quadrature of the sky.

Pixels come in square tiles. Each takes only the events, or points, within reach, padded to few sizes: programs are
compiled for the sizes, not for runs or pixels.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.engines.hankel import POINT_STEP, STEP
from gammajax.events.event_list import Events
from gammajax.instrument.psf import psf_quantile
from gammajax.instrument.sky import Grid, enclosing_cap, mean_direction, separation_on_host
from gammajax.model.mixture import Source
from gammajax.model.morphology import Gaussian, Point
from gammajax.model.spectra import PowerLaw, Spectrum

TILE = 16  # pixels along a side of a tile
SIZES = 3  # numbers of events that programs are compiled for, by halves
LEAST_EVENTS = 256
WIDEST, MOST = 20.0, 4_000_000  # deg across a map, and pixels
# quadrature of the sky and energies: pixels in widths of the narrowest source, their limits [deg], energies per decade
PIXEL, PIXELS, ENERGIES = 1.0, (0.02, 0.1), 8
CONTAINED = 0.98  # of the photons, within the radius that such a quadrature takes
UNIT = 1e-12  # TeV^-1 cm^-2 s^-1 at 1 TeV, of the default spectrum


def tangent_grid(center, width, step: float) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"]]:
    """Longitudes and latitudes [deg] of pixels in a gnomonic projection (Calabretta & Greisen 2002), lon to the left.

    `center` and `width` (lon, lat) and `step` in deg.
    """
    x, y = (np.radians(step * (np.arange(n) - 0.5 * (n - 1))) for n in (round(w / step) for w in width))
    x, y = np.meshgrid(-x, y)
    lat0 = np.radians(center[1])
    north = np.cos(lat0) - y * np.sin(lat0)
    lon = np.degrees(np.arctan2(x, north)) + center[0]
    lat = np.degrees(np.arctan2(np.sin(lat0) + y * np.cos(lat0), np.hypot(x, north)))
    return lon, lat


def pixels_of(observations, center, width, step) -> tuple[tuple[float, float], np.ndarray, np.ndarray, np.ndarray]:
    """Center, longitudes and latitudes [deg] of the pixels [y, x], and which of them lie in a field of view."""
    if center is None:
        lon, lat = mean_direction(*np.array([[one.lon, one.lat] for one in observations], np.float64).T)
        center = lon % 360.0, lat
    center, width, step = _checked_grid(center, width, step)
    lon, lat = tangent_grid(center, width, step)
    inside = np.zeros(lon.shape, bool)
    for one in observations:
        inside |= separation_on_host(lon, lat, float(one.lon), float(one.lat)) <= float(one.offset_max)
    if not inside.any():
        raise ValueError(f"no pixel about {center} deg lies in a field of view of the observations")
    return center, lon, lat, inside


def source_of(spectrum, sigma, lon, lat) -> Source:
    """The source that is looked for, at the first of the positions [deg]."""
    if sigma is not None and not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive width [deg], or None for a point, not {sigma!r}")
    spectrum = PowerLaw(2.0, UNIT) if spectrum is None else spectrum
    if not isinstance(spectrum, Spectrum):
        raise ValueError(f"spectrum must be a spectrum such as gammajax.PowerLaw(2.0, 1e-12), not {spectrum!r}")
    place = float(lon[0]), float(lat[0])
    return Source(spectrum, Point(*place) if sigma is None else Gaussian(*place, float(sigma)))


def flux_of(spectrum, observations) -> tuple[tuple[float, float], float]:
    """Energies [TeV] of all selections, and the flux [cm^-2 s^-1] of a spectrum between them."""
    span = min(float(one.energy_min) for one in observations), max(float(one.energy_max) for one in observations)
    return span, float(np.asarray(spectrum.integral(jnp.asarray(span))).sum())


def _checked_grid(center, width, step):
    """Center, pair of widths and step [deg], if they make a grid."""
    place, size = np.asarray(center, float), np.broadcast_to(np.asarray(width, float), np.shape(width) or (2,))
    if place.shape != (2,) or not np.all(np.isfinite(place)) or abs(place[1]) > 90.0:
        raise ValueError(f"center must be a longitude and a latitude within +-90 deg, not {center!r}")
    if not (np.ndim(step) == 0 and np.isfinite(step) and step > 0):
        raise ValueError(f"step must be a positive size of pixels [deg], not {step!r}")
    if size.shape != (2,) or not (np.all(size >= step) and np.all(size <= WIDEST)):
        raise ValueError(f"width must be one or two sizes from the step to {WIDEST:g} deg, not {width!r}")
    if np.prod(size / step) > MOST:
        raise ValueError(f"the map would have {np.prod(size / step):.2g} pixels, more than {MOST}: use a larger step")
    return (float(place[0]), float(place[1])), (float(size[0]), float(size[1])), float(step)


def columns_of(table, events, density, weight: Any = 1.0, valid: Any = slice(None)) -> dict[str, np.ndarray]:
    """Columns of events for the table, with a density and weight; one more at the end stands for padding."""
    lon, lat, energy, run = (
        np.asarray(part)[valid] for part in (events.lon, events.lat, events.energy, events.observation)
    )
    dtype = jnp.zeros(()).dtype
    return {
        "vector": np.append(table.vectors(lon, lat), np.full((1, 3), 2.0), 0).astype(dtype),
        "place": np.append(table.energies(energy), 0.0).astype(dtype),
        "energy": np.append(energy, 1.0).astype(dtype),
        "run": np.append(run, 0).astype(np.int32),
        "density": np.append(density, 1.0).astype(dtype),
        "weight": np.append(np.broadcast_to(weight, energy.shape), 0.0).astype(dtype),
    }


def quadrature(
    table, source, observations, lon, lat, excluded: bool
) -> tuple[Events, Float[np.ndarray, " point"], float]:
    """Points in the selected, or the `excluded`, sky near pixels, their weights [TeV sr], and a radius [deg].

    Equal-area pixels about each pointing, or those of the exclusion, times Gauss-Legendre nodes in ln E'.
    Within the radius are most photons of a source.
    """
    is_point = isinstance(source.morphology, Point)
    width = float(table.radii.step) / (POINT_STEP if is_point else STEP)
    radius = max(_contained(one) for one in observations) + 3.0 * float(source.morphology.scale)
    radius = table.reach if excluded else min(radius, table.reach)
    *middle, spread = enclosing_cap(lon, lat)
    near = spread + radius
    parts = []
    for number, one in enumerate(observations):
        if not excluded:
            pixel = float(np.clip(PIXEL * width, *PIXELS))
            grid = Grid(one.lon, one.lat, pixel, float(one.offset_max))
            some = np.asarray(one.selected(*grid.directions()))
        elif one.exclusion is None or not one.excludes:
            continue
        else:  # pixels of the raster, as in the engines
            grid, some = one.exclusion.grid, np.asarray(one.exclusion.excluded)
        x, y = (np.asarray(angle, np.float64) for angle in grid.directions())
        some = some & (separation_on_host(x, y, float(one.lon), float(one.lat)) <= float(one.offset_max))
        some = some & (separation_on_host(x, y, *middle) <= near)
        ends = np.log([float(one.energy_min), float(one.energy_max)])
        node, share = np.polynomial.legendre.leggauss(max(int(np.ceil(ENERGIES * np.ptp(ends) / np.log(10.0))), 3))
        energy = np.exp(ends[0] + 0.5 * np.ptp(ends) * (node + 1.0))
        weight = np.full((some.sum(), 1), float(grid.solid_angle)) * (0.5 * np.ptp(ends) * share * energy)
        shape = weight.shape
        columns = np.broadcast_to(energy, shape), *(np.broadcast_to(a[some][:, None], shape) for a in (x, y))
        parts.append([*(column.ravel() for column in columns), np.full(weight.size, number), weight.ravel()])
    energy, x, y, run, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Events(energy, x, y, run.astype(int)), weight, radius


def _contained(observation) -> float:
    """Radius [deg] with most photons, of the widest point spread function in the selection."""
    energy = jnp.geomspace(float(observation.energy_min), float(observation.energy_max), 8)
    offset = jnp.asarray([0.0, 0.5, 1.0]) * float(observation.offset_max)
    e, o = (part.ravel() for part in jnp.meshgrid(energy, offset))
    return float(psf_quantile(observation.response.psf, e, o, jnp.full(e.shape, CONTAINED)).max())


def over_tiles(table, columns, lon, lat, inside, reach: float, evaluate: Callable, number: int, shown) -> np.ndarray:
    """Values [number, y, x] of all pixels inside, NaN elsewhere, by `evaluate` for the rows within reach of each tile.

    It takes the columns on the device, indices of rows, the positions and numbers of the pixels. The last row of the
    `columns` stands for padding.
    """
    tiles, near = _tiles(table, columns["vector"][:-1].astype(np.float64), lon, lat, inside, reach)
    sizes = [max(part.size, 1) for part in near]
    most = max(LEAST_EVENTS, 2 ** int(np.ceil(np.log2(max(sizes, default=1)))))
    classes = [max(most >> i, LEAST_EVENTS) for i in range(SIZES)]
    result = np.full((number, lon.size), np.nan)
    vectors = table.vectors(lon.ravel(), lat.ravel())
    padding = columns["energy"].size - 1
    device = {name: jnp.asarray(column) for name, column in columns.items()}
    for done, (pixels, rows, size) in enumerate(zip(tiles, near, sizes, strict=True)):
        length = min(one for one in classes if one >= size)
        some = np.append(rows, np.full(length - rows.size, padding)).astype(np.int32)
        padded = np.resize(pixels, TILE**2)
        position = jnp.asarray(vectors[padded], device["energy"].dtype)
        values = evaluate(device, jnp.asarray(some), position, padded)
        result[:, pixels] = np.stack(values)[:, : pixels.size]
        shown.update((done + 1) / len(tiles), f"{done + 1} of {len(tiles)} tiles")
    return result.reshape(number, *lon.shape)


def _tiles(table, events, lon, lat, inside, reach: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pixels inside of each square of the map, and the events within reach [deg] of any of them."""
    number = np.arange(lon.size).reshape(lon.shape)
    tiles, near = [], []
    for y in range(0, lon.shape[0], TILE):
        for x in range(0, lon.shape[1], TILE):
            part = slice(y, y + TILE), slice(x, x + TILE)
            pixels = number[part][inside[part]]
            if not pixels.size:
                continue
            vectors = table.vectors(lon.ravel()[pixels], lat.ravel()[pixels])
            middle = 0.5 * (vectors.min(0) + vectors.max(0))
            radius = np.sqrt(((vectors - middle) ** 2).sum(1).max())
            # a chord is shorter than its arc
            largest = np.radians(reach) + radius + 1e-6
            tiles.append(pixels)
            near.append(np.flatnonzero(((events - middle) ** 2).sum(1) <= largest**2))
    return tiles, near


@eqx.filter_jit
def ratios(table, columns, some, position) -> Float[Array, "event pixel"]:
    """Intensity of the source at each pixel of one tile over the density, of some of the events; zero for padding."""
    names = ("vector", "place", "energy", "run", "density")
    vector, place, energy, run, density = (columns[name][some] for name in names)
    real = some < columns["energy"].size - 1
    return jnp.where(real[:, None], table(vector, place, energy, run, position) / density[:, None], 0.0)
