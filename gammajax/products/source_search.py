"""Maps of the test statistic of one more source, at every pixel, beside the best fit of a model.

Events k have the density b_k of the best fit. A source of unit norm at a pixel has intensity s_k and S expected counts:

    q(A) = 2 [Sum_k ln(1 + A s_k / b_k) - A S],

concave in the norm A, which is not negative: below zero the model may be negative where there is no event, and q grows
with nothing to stop it. TS is its maximum (gammapy's `TSMapEstimator` in bins), the error is from its curvature, and
the upper limit is where q falls by n_sigma_ul^2 from its maximum (Rolke et al. 2005). The model stays at its best fit.

Pixels come in square tiles. Each takes only the events within reach, padded to few sizes: programs are compiled for the
sizes, not for runs or pixels.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common import distributed
from gammajax.common.display import block, document, extent, words
from gammajax.common.progress import DELAY, Progress
from gammajax.engines.movable import MovableSource
from gammajax.events.event_list import Events
from gammajax.instrument.sky import mean_direction, separation_on_host
from gammajax.model.mixture import Source
from gammajax.model.morphology import Gaussian, Point
from gammajax.model.spectra import PowerLaw, Spectrum
from gammajax.products.spectral_points import parameters_of
from gammajax.samplers import fit

TILE = 16  # pixels along a side of a tile
SIZES = 3  # numbers of events that programs are compiled for, by halves
LEAST_EVENTS = 256
STEPS, LIMIT_STEPS = 50, 20  # at most, of Newton's method
CLOSE = 1e-3  # of an error, or of a limit: the last step towards it
WIDEST, MOST = 20.0, 4_000_000  # deg across a map, and pixels
UNIT = 1e-12  # TeV^-1 cm^-2 s^-1 at 1 TeV, of the default spectrum


class TSMap(eqx.Module):
    """Maps of one more source at every pixel, from [`gammajax.ts_map`][]; NaN outside all fields of view.

    - `lon`, `lat` [deg] of the pixels in the `frame` of the observations: a gnomonic (TAN) projection about `center`
      with pixels of `step` [deg]. The first index is y, to the north; longitudes fall along the second.
    - `ts`: test statistic. `flux`, `flux_err`, `flux_ul` [cm^-2 s^-1] between `energy_range` [TeV], for the assumed
      spectrum; errors are from the curvature, limits where the statistic falls by `n_sigma_ul`^2.
    - `npred`: expected counts of the source with that flux; `counts_ref`: those of one with `flux_ref` [cm^-2 s^-1].
    - `sigma` [deg] of the Gaussian, or None for a point.

    >>> import gammajax as gj, numpy as np
    >>> lon, lat = gj.products.source_search.tangent_grid((0.0, 0.0), (0.2, 0.2), 0.1)
    >>> one = np.ones((2, 2))
    >>> found = gj.TSMap("icrs", (0.0, 0.0), 0.1, lon, lat, 9.0 * one, one, one, one, one, one, 1.0, (1.0, 10.0))
    >>> float(found.sqrt_ts[0, 0])
    3.0
    """

    frame: str = eqx.field(static=True)
    center: tuple[float, float]
    step: float
    lon: Float[np.ndarray, "y x"]
    lat: Float[np.ndarray, "y x"]
    ts: Float[np.ndarray, "y x"]
    flux: Float[np.ndarray, "y x"]
    flux_err: Float[np.ndarray, "y x"]
    flux_ul: Float[np.ndarray, "y x"]
    npred: Float[np.ndarray, "y x"]
    counts_ref: Float[np.ndarray, "y x"]
    flux_ref: float
    energy_range: tuple[float, float]
    sigma: float | None = None
    n_sigma_ul: float = 2.0
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Pixels, and the range of significance."""
        shape = "a point" if self.sigma is None else f"a Gaussian of {self.sigma:.3g} deg"
        return block(
            f"TSMap of {shape}: {self.ts.shape[1]} x {self.ts.shape[0]} pixels of {self.step:.3g} deg",
            f"sqrt(TS) {extent(self.sqrt_ts[np.isfinite(self.ts)])}, {self.energy_range[0]:.3g} to "
            f"{self.energy_range[1]:.3g} TeV",
        )

    @property
    def sqrt_ts(self) -> Float[np.ndarray, "y x"]:
        """Significance in standard deviations, zero where no flux is better than any."""
        return np.sqrt(self.ts)

    def to_gammapy(self) -> dict:
        """Maps by name as `gammapy.maps.WcsNDMap`: "sqrt_ts", "ts", "flux", "flux_err", "flux_ul" and "npred"."""
        from gammajax.io.search_maps import maps_of

        return maps_of(self)

    def write(self, path, overwrite: bool = False):
        """Write all maps to a FITS file of images, which `gammapy.maps.Maps.read` and `Map.read(path, hdu=)` read.

        Under a temporary name first. Raises `FileExistsError` if the file exists and `overwrite` is false.
        """
        from gammajax.io.search_maps import write_search_maps

        return write_search_maps(self, path, overwrite)

    def peaks(self, threshold: float = 5.0, min_distance: float | None = None):
        """Table (`pandas.DataFrame`) of the peaks of sqrt(TS) above a threshold, the highest first.

        `min_distance` [deg] between peaks, by default three pixels. gammapy's `find_peaks` finds them.
        Raises `ValueError` for a distance that is not positive.
        """
        from gammajax.io.search_maps import peaks_of

        return peaks_of(self, threshold, 3.0 * self.step if min_distance is None else min_distance)

    def plot(self, ax=None, *, peaks: Any = None):
        """Draw sqrt(TS) with a colour bar, in given axes or a new figure; returns the axes. Rings are `peaks`."""
        from gammajax.plots.significance_maps import plot_significance

        return plot_significance(self, ax, peaks)


def ts_map(
    posterior,
    *,
    center: tuple[float, float] | None = None,
    width: float | tuple[float, float],
    step: float,
    spectrum: Any = None,
    sigma: float | None = None,
    best: Any = None,
    n_sigma_ul: float = 2.0,
    progress: bool = True,
) -> TSMap:
    """Test statistic, flux, error and limit of a source at every pixel, beside the best fit; returns a `TSMap`.

    **Arguments:**

    - `posterior`: of events, with absolute fluxes. Its model is what is already known, such as the background.
    - `center` (lon, lat) [deg] in the frame of the observations, by default the mean pointing; `width` [deg] of the
      map, or a pair of longitude and latitude; `step` [deg] of the pixels.
    - `spectrum` of the source, of any amplitude; by default a power law of index 2.
    - `sigma` [deg]: width of a Gaussian source; None is a point.
    - `best`: a [`gammajax.Fit`][] or [`gammajax.Result`][] of the posterior, or a dict of its parameters; by default
      it is fitted.
    - `n_sigma_ul` of the upper limits. `progress`: show how far it is, after some seconds.

    Parameters of the model stay at `best`; a source that the model lacks makes the fitted background too high, so give
    strong sources to the model, or fit the background without them. Work grows with the pixels times the events in
    reach of each.

    Raises `ValueError` for a posterior of fractions, of cells, of several data sets or of several processes, for
    excluded sky, and for grids or widths that make no map.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> sky = gj.InstrumentBackground()
    >>> source = gj.Source(gj.PowerLaw(2.0, 2e-12), gj.Point(0.3, 0.0))
    >>> events = gj.simulate(jax.random.key(0), gj.Mixture(source=source, sky=sky), run)
    >>> def model(p):
    ...     return gj.Mixture(sky=gj.InstrumentBackground(p["norm"]))
    >>> posterior = gj.Posterior(model, {"norm": dist.Uniform(0.5, 2.0)}, run, events, per_decade=20.0, progress=False)
    >>> found = gj.ts_map(posterior, width=1.0, step=0.1, progress=False)
    >>> found.ts.shape
    (10, 10)
    """
    observations = _checked(posterior)
    frame = str(observations[0].frame)
    if center is None:
        lon, lat = mean_direction(*np.array([[one.lon, one.lat] for one in observations], np.float64).T)
        center = lon % 360.0, lat
    lon, lat = tangent_grid(*_checked_grid(center, width, step))
    if sigma is not None and not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive width [deg], or None for a point, not {sigma!r}")
    if not (np.isfinite(n_sigma_ul) and n_sigma_ul > 0):
        raise ValueError(f"n_sigma_ul must be a positive number of standard deviations, not {n_sigma_ul!r}")
    spectrum = PowerLaw(2.0, UNIT) if spectrum is None else spectrum
    if not isinstance(spectrum, Spectrum):
        raise ValueError(f"spectrum must be a spectrum such as gammajax.PowerLaw(2.0, 1e-12), not {spectrum!r}")
    inside = np.zeros(lon.shape, bool)
    for one in observations:
        inside |= separation_on_host(lon, lat, float(one.lon), float(one.lat)) <= float(one.offset_max)
    if not inside.any():
        raise ValueError(f"no pixel about {tuple(map(float, center))} deg lies in a field of view of the observations")
    with Progress(progress, "TS map", DELAY) as shown:
        if best is None:
            best = fit(posterior, progress=False)
        parameters = _parameters(posterior, best)
        place = float(lon[inside][0]), float(lat[inside][0])
        shape = Point(*place) if sigma is None else Gaussian(*place, float(sigma))
        shown.say("tables of the response")
        table = MovableSource.init(Source(spectrum, shape), observations, lon[inside], lat[inside])
        counts = np.where(inside, table.counts(lon, lat), np.nan)
        columns = _events_of(posterior, parameters, table)
        found = _searched(table, columns, lon, lat, inside, counts, float(n_sigma_ul), shown)
    norm, error, limit, ts = found
    span = min(float(one.energy_min) for one in observations), max(float(one.energy_max) for one in observations)
    flux = float(np.asarray(spectrum.integral(jnp.asarray(span))).sum())
    return TSMap(
        frame,
        (float(center[0]), float(center[1])),
        float(step),
        lon,
        lat,
        ts,
        norm * flux,
        error * flux,
        limit * flux,
        norm * counts,
        counts,
        flux,
        span,
        None if sigma is None else float(sigma),
        float(n_sigma_ul),
    )


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


def _checked(posterior) -> tuple:
    """Observations of a posterior for which a map can be made."""
    observations = posterior.observations
    if posterior.terms[0].weighted:
        raise ValueError("a TS map needs absolute fluxes: a model without weights")
    if not isinstance(posterior.data, Events):
        raise ValueError("a TS map needs events; this posterior has cells: make it with the events themselves")
    if distributed.spans(posterior):
        raise ValueError("a TS map is made in one process; this posterior is shared by several")
    if any(one.exclusion is not None and one.excludes for one in observations):
        raise ValueError("a TS map cannot leave out excluded sky: make the posterior of observations without exclusion")
    return tuple(observations)


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
    return tuple(map(float, place)), tuple(map(float, size)), float(step)


def _parameters(posterior, best):
    if isinstance(best, dict):
        return {name: jnp.asarray(value) for name, value in best.items()}
    return parameters_of(posterior, best)


def _events_of(posterior, parameters, table) -> dict[str, np.ndarray]:
    """Columns of the events for the table, with the density of the model; one more at the end stands for padding."""
    density = np.asarray(eqx.filter_jit(lambda posterior, p: posterior.density(p))(posterior, parameters), np.float64)
    valid, data = np.asarray(posterior.count) > 0, posterior.data
    lon, lat, energy, run = (np.asarray(part)[valid] for part in (data.lon, data.lat, data.energy, data.observation))
    dtype = jnp.zeros(()).dtype
    return {
        "vector": np.append(table.vectors(lon, lat), np.full((1, 3), 2.0), 0).astype(dtype),
        "place": np.append(table.energies(energy), 0.0).astype(dtype),
        "energy": np.append(energy, 1.0).astype(dtype),
        "run": np.append(run, 0).astype(np.int32),
        "density": np.append(density[valid], 1.0).astype(dtype),
    }


def _searched(table, columns, lon, lat, inside, counts, n_sigma_ul, shown):
    """Norm, error, limit and TS of all pixels [y, x]."""
    tiles, near = _tiles(table, columns["vector"][:-1].astype(np.float64), lon, lat, inside)
    sizes = [max(part.size, 1) for part in near]
    most = max(LEAST_EVENTS, 2 ** int(np.ceil(np.log2(max(sizes)))))
    classes = [max(most >> i, LEAST_EVENTS) for i in range(SIZES)]
    result = np.full((4, lon.size), np.nan)
    vectors = table.vectors(lon.ravel(), lat.ravel())
    padding = columns["energy"].size - 1
    device = {name: jnp.asarray(column) for name, column in columns.items()}
    for done, (pixels, events, size) in enumerate(zip(tiles, near, sizes, strict=True)):
        length = min(one for one in classes if one >= size)
        some = np.append(events, np.full(length - events.size, padding)).astype(np.int32)
        padded = np.resize(pixels, TILE**2)
        position = jnp.asarray(vectors[padded], device["energy"].dtype)
        expected = jnp.asarray(counts.ravel()[padded], device["energy"].dtype)
        # a program of its own: compilers repeat the lookups in every sum otherwise
        ratio = _ratios(table, device, jnp.asarray(some), position)
        values = search(ratio, expected, jnp.asarray(n_sigma_ul))
        result[:, pixels] = np.stack(values)[:, : pixels.size]
        shown.update((done + 1) / len(tiles), f"{done + 1} of {len(tiles)} tiles")
    return tuple(part.reshape(lon.shape) for part in result)


def _tiles(table, events, lon, lat, inside) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pixels inside of each square of the map, and the events within reach of any of them."""
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
            reach = np.radians(table.reach) + radius + 1e-6
            tiles.append(pixels)
            near.append(np.flatnonzero(((events - middle) ** 2).sum(1) <= reach**2))
    return tiles, near


@eqx.filter_jit
def _ratios(table, columns, some, position) -> Float[Array, "event pixel"]:
    """Intensity of the source at each pixel of one tile over the density, of some of the events; zero for padding."""
    names = ("vector", "place", "energy", "run", "density")
    vector, place, energy, run, density = (columns[name][some] for name in names)
    real = some < columns["energy"].size - 1
    return jnp.where(real[:, None], table(vector, place, energy, run, position) / density[:, None], 0.0)


@eqx.filter_jit
def search(
    ratio: Float[Array, "event pixel"], counts: Float[Array, " pixel"], n_sigma_ul: Float[Array, ""] | float
) -> tuple[Float[Array, " pixel"], Float[Array, " pixel"], Float[Array, " pixel"], Float[Array, " pixel"]]:
    """Norm A >= 0 at the maximum of q(A) = 2 [Sum ln(1 + A ratio) - A counts], its error, upper limit and q.

    Newton's method. The derivative falls and is convex in A: steps from below never pass the maximum, and those from
    above that leave the range are halved towards its lower end. Without any event in reach the norm is zero, and its
    error is NaN.
    """
    some = ratio.max(0) > 0
    # in units of one expected count
    counts = jnp.maximum(counts, 1e-30)
    ratio = ratio / counts
    lowest = -1.0 / jnp.maximum(ratio.max(0), 1e-30)

    def slopes(norm):
        part = ratio / (1.0 + norm * ratio)
        return part.sum(0) - 1.0, jnp.maximum((part**2).sum(0), 1e-30)

    def climb(state):
        norm, _, step = state
        slope, curvature = slopes(norm)
        wanted = norm + slope / curvature
        wanted = jnp.where(wanted > lowest, wanted, 0.5 * (norm + lowest))
        return wanted, jnp.abs(wanted - norm) * jnp.sqrt(curvature), step + 1

    def moving(state):
        return (state[2] < STEPS) & jnp.any(jnp.where(some, state[1], 0.0) > CLOSE)

    start = jnp.zeros_like(counts), jnp.full_like(counts, jnp.inf), 0
    norm, _, _ = jax.lax.while_loop(moving, climb, start)
    norm = jnp.where(some, jnp.maximum(norm, 0.0), 0.0)
    error = 1.0 / jnp.sqrt(slopes(norm)[1])
    ts = 2.0 * (jnp.log1p(norm * ratio).sum(0) - norm)
    # ln L relative to its maximum, without a difference of large numbers
    relative = ratio / (1.0 + norm * ratio)

    def descend(state):
        away, _, step = state
        fall = away - jnp.log1p(away * relative).sum(0) - 0.5 * n_sigma_ul**2
        slope = 1.0 - (relative / (1.0 + away * relative)).sum(0)
        wanted = jnp.maximum(away - fall / jnp.maximum(slope, 1e-6), 0.1 * away)
        return wanted, jnp.abs(wanted - away) / wanted, step + 1

    def falling(state):
        return (state[2] < LIMIT_STEPS) & jnp.any(state[1] > CLOSE)

    # without events the limit is known
    start = jnp.where(some, n_sigma_ul * error, 0.5 * n_sigma_ul**2)
    away, _, _ = jax.lax.while_loop(falling, descend, (start, jnp.full_like(counts, jnp.inf), 0))
    error = jnp.where(some, error, jnp.nan)
    return norm / counts, error / counts, (norm + away) / counts, jnp.maximum(ts, 0.0)
