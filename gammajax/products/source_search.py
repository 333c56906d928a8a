"""Maps of the test statistic of one more source, at every pixel, beside the best fit of a model.

Events k have the density b_k of the best fit. A source of unit norm at a pixel has intensity s_k and S expected counts:

    q(A) = 2 [Sum_k ln(1 + A s_k / b_k) - A S],

concave in the norm A, which is not negative: below zero the model may be negative where there is no event, and q grows
with nothing to stop it. TS is its maximum (gammapy's `TSMapEstimator` in bins), the error is from its curvature, and
the upper limit is where q falls by n_sigma_ul^2 from its maximum (Rolke et al. 2005). The model stays at its best fit.

Excluded sky leaves S by a quadrature over its directions and energies. The same quadrature over the selected sky, with
the density of a model in place of events, gives the flux that would be detected (Cowan et al. 2011, arXiv:1007.1727):

    q(A) = 2 Int [(b + A s) ln(1 + A s / b) - A s] dx = significance^2.

Pixels come in square tiles. Each takes only the events, or points, within reach, padded to few sizes: programs are
compiled for the sizes, not for runs or pixels.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common import distributed
from gammajax.common.display import block, document, extent, words
from gammajax.common.progress import DELAY, Progress
from gammajax.engines.expectation import intensity
from gammajax.engines.hankel import POINT_STEP, STEP
from gammajax.engines.movable import MovableSource
from gammajax.events.event_list import Events
from gammajax.instrument.observation import as_tuple
from gammajax.instrument.psf import psf_quantile
from gammajax.instrument.sky import Grid, enclosing_cap, mean_direction, separation_on_host
from gammajax.model.mixture import Component, Mixture, Source
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
LEAST_LEFT = 0.01  # of the expected counts, beside excluded sky
# quadrature of the sky and energies: pixels in widths of the narrowest source, their limits [deg], energies per decade
PIXEL, PIXELS, ENERGIES = 1.0, (0.02, 0.1), 8
CONTAINED = 0.98  # of the photons, within the radius that such a quadrature takes
DETECT_STEPS = 30
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

    def plot(self, ax=None, *, peaks: Any = None, angle_unit: str = "deg"):
        """Draw sqrt(TS) with a colour bar, in given axes or a new figure; returns the axes. Rings are `peaks`.

        `angle_unit`: deg, or arcmin and arcsec from the centre. Raises `ValueError` for another unit.
        """
        from gammajax.plots.significance_maps import plot_significance

        return plot_significance(self, ax, peaks, angle_unit=angle_unit)


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

    Excluded sky is left out of the expected counts of a source; pixels with less than 1 % left are NaN.

    Raises `ValueError` for a posterior of fractions, of cells, of several data sets or of several processes, and for
    grids or widths that make no map.

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
    middle, lon, lat, inside = _pixels(observations, center, width, step)
    if not (np.isfinite(n_sigma_ul) and n_sigma_ul > 0):
        raise ValueError(f"n_sigma_ul must be a positive number of standard deviations, not {n_sigma_ul!r}")
    source = _source(spectrum, sigma, lon[inside], lat[inside])
    with Progress(progress, "TS map", DELAY) as shown:
        if best is None:
            best = fit(posterior, progress=False)
        parameters = _parameters(posterior, best)
        shown.say("tables of the response")
        table = MovableSource.init(source, observations, lon[inside], lat[inside])
        counts = np.where(inside, table.counts(lon, lat), np.nan)
        if any(one.exclusion is not None and one.excludes for one in observations):
            counts, inside = _with_exclusion(table, source, observations, lon, lat, inside, counts, shown)
        columns = _events_of(posterior, parameters, table)

        def evaluate(device, some, position, padded):
            expected = jnp.asarray(counts.ravel()[padded], position.dtype)
            # a program of its own: compilers repeat the lookups in every sum otherwise
            ratio = _ratios(table, device, some, position)
            return search(ratio, expected, jnp.asarray(float(n_sigma_ul)))

        found = _over_tiles(table, columns, lon, lat, inside, table.reach, evaluate, 4, shown)
    norm, error, limit, ts = found
    span, flux = _flux(source.spectrum, observations)
    return TSMap(
        str(observations[0].frame),
        middle,
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


class SensitivityMap(eqx.Module):
    """Flux that would be detected at every pixel, from [`gammajax.sensitivity_map`][]; NaN where no data are expected.

    - `lon`, `lat`, `frame`, `center`, `step` as of a [`gammajax.TSMap`][].
    - `flux` [cm^-2 s^-1] between `energy_range` [TeV] that is expected at `significance` standard deviations, for the
      assumed spectrum; `npred`: expected counts of the source with that flux.
    - `sigma` [deg] of the Gaussian, or None for a point.

    >>> import gammajax as gj, numpy as np
    >>> lon, lat = gj.products.source_search.tangent_grid((0.0, 0.0), (0.2, 0.2), 0.1)
    >>> flux = 1e-13 * np.ones((2, 2))
    >>> gj.SensitivityMap("icrs", (0.0, 0.0), 0.1, lon, lat, flux, 30.0 * np.ones((2, 2)), (1.0, 10.0))
    SensitivityMap of a point at 5 standard deviations: 2 x 2 pixels of 0.1 deg
      1e-13 cm^-2 s^-1, 1 to 10 TeV
    """

    frame: str = eqx.field(static=True)
    center: tuple[float, float]
    step: float
    lon: Float[np.ndarray, "y x"]
    lat: Float[np.ndarray, "y x"]
    flux: Float[np.ndarray, "y x"]
    npred: Float[np.ndarray, "y x"]
    energy_range: tuple[float, float]
    significance: float = 5.0
    sigma: float | None = None
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Pixels, and the range of fluxes."""
        shape = "a point" if self.sigma is None else f"a Gaussian of {self.sigma:.3g} deg"
        return block(
            f"SensitivityMap of {shape} at {self.significance:.3g} standard deviations: {self.flux.shape[1]} x "
            f"{self.flux.shape[0]} pixels of {self.step:.3g} deg",
            f"{extent(self.flux[np.isfinite(self.flux)], 'cm^-2 s^-1')}, {self.energy_range[0]:.3g} to "
            f"{self.energy_range[1]:.3g} TeV",
        )

    def to_gammapy(self) -> dict:
        """Maps by name as `gammapy.maps.WcsNDMap`: "flux" and "npred"."""
        from gammajax.io.search_maps import maps_of

        return maps_of(self, ("flux", "npred"))

    def write(self, path, overwrite: bool = False):
        """Write both maps to a FITS file of images, as [`gammajax.TSMap.write`][] does, with the same error."""
        from gammajax.io.search_maps import write_search_maps

        return write_search_maps(self, path, overwrite)

    def plot(self, ax=None, *, energy_unit: str = "TeV", angle_unit: str = "deg"):
        """Draw the flux with a colour bar, in given axes or a new figure; returns the axes.

        `energy_unit` of the range in the label: eV, keV, MeV, GeV, TeV, PeV or erg. `angle_unit` as of
        [`gammajax.TSMap.plot`][]. Raises `ValueError` for another unit.
        """
        from gammajax.plots.significance_maps import plot_sensitivity

        return plot_sensitivity(self, ax, energy_unit=energy_unit, angle_unit=angle_unit)


def sensitivity_map(
    model: Mixture | Component,
    observations,
    *,
    center: tuple[float, float] | None = None,
    width: float | tuple[float, float],
    step: float,
    spectrum: Any = None,
    sigma: float | None = None,
    significance: float = 5.0,
    progress: bool = True,
) -> SensitivityMap:
    """Flux of a source at every pixel that would be detected beside a model; no events are needed.

    The expectation with the source (its Asimov data set) has sqrt(TS) = `significance` there. Parameters of the model
    are fixed: where a source can hide in a free background, [`gammajax.sensitivity`][] profiles it.

    **Arguments:**

    - `model`: a [`gammajax.Mixture`][] or one component, with values of all parameters and absolute fluxes.
    - `observations`: one [`gammajax.Observation`][] or a list; excluded sky is left out.
    - `center`, `width`, `step`, `spectrum`, `sigma`, `progress`: as of [`gammajax.ts_map`][].
    - `significance`: number of standard deviations.

    The formula is asymptotic: for a handful of counts (`npred`), thresholds of simulations differ. Energies and
    directions where the model has no photon do not count.

    Returns a [`gammajax.SensitivityMap`][]. Raises `ValueError` for weights, for a model without any density, for a
    significance that is not positive, and as `ts_map` does for grids.

    >>> import gammajax as gj
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> found = gj.sensitivity_map(gj.InstrumentBackground(), run, width=1.0, step=0.25, progress=False)
    >>> found.flux.shape, bool((found.flux > 0).all())
    ((4, 4), True)
    """
    observations = as_tuple(observations)
    if isinstance(model, Mixture) and model.weighted:
        raise ValueError("a sensitivity map needs absolute fluxes: a model without weights")
    if not (np.isfinite(significance) and significance > 0):
        raise ValueError(f"significance must be a positive number of standard deviations, not {significance!r}")
    middle, lon, lat, inside = _pixels(observations, center, width, step)
    source = _source(spectrum, sigma, lon[inside], lat[inside])
    with Progress(progress, "sensitivity map", DELAY) as shown:
        shown.say("tables of the response")
        table = MovableSource.init(source, observations, lon[inside], lat[inside])
        points, weight, reach = _quadrature(table, source, observations, lon[inside], lat[inside], excluded=False)
        shown.say("density of the model")
        parts = intensity(model, observations, points)
        parts = parts.values() if isinstance(parts, dict) else [parts]
        density = np.sum([np.asarray(part, np.float64) for part in parts], axis=0)
        some = np.flatnonzero(density > 0)
        if not some.size:
            raise ValueError("the model expects no photons in the selections: it needs a background")
        columns = _columns(table, points[some], density[some], weight[some])

        def evaluate(device, some, position, padded):
            ratio = _ratios(table, device, some, position)
            return detectable(ratio, device["weight"][some] * device["density"][some], jnp.asarray(float(significance)))

        norm, counts = _over_tiles(table, columns, lon, lat, inside, reach, evaluate, 2, shown)
    span, flux = _flux(source.spectrum, observations)
    return SensitivityMap(
        str(observations[0].frame),
        middle,
        float(step),
        lon,
        lat,
        norm * flux,
        counts,
        span,
        float(significance),
        None if sigma is None else float(sigma),
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
    return tuple(observations)


def _pixels(observations, center, width, step) -> tuple[tuple[float, float], np.ndarray, np.ndarray, np.ndarray]:
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


def _source(spectrum, sigma, lon, lat) -> Source:
    """The source that is looked for, at the first of the positions [deg]."""
    if sigma is not None and not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive width [deg], or None for a point, not {sigma!r}")
    spectrum = PowerLaw(2.0, UNIT) if spectrum is None else spectrum
    if not isinstance(spectrum, Spectrum):
        raise ValueError(f"spectrum must be a spectrum such as gammajax.PowerLaw(2.0, 1e-12), not {spectrum!r}")
    place = float(lon[0]), float(lat[0])
    return Source(spectrum, Point(*place) if sigma is None else Gaussian(*place, float(sigma)))


def _flux(spectrum, observations) -> tuple[tuple[float, float], float]:
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


def _parameters(posterior, best):
    if isinstance(best, dict):
        return {name: jnp.asarray(value) for name, value in best.items()}
    return parameters_of(posterior, best)


def _events_of(posterior, parameters, table) -> dict[str, np.ndarray]:
    """Columns of the events for the table, with the density of the model."""
    density = np.asarray(eqx.filter_jit(lambda posterior, p: posterior.density(p))(posterior, parameters), np.float64)
    valid = np.asarray(posterior.count) > 0
    return _columns(table, posterior.data, density[valid], valid=valid)


def _columns(table, events, density, weight: Any = 1.0, valid: Any = slice(None)) -> dict[str, np.ndarray]:
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


def _quadrature(
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


def _with_exclusion(table, source, observations, lon, lat, inside, counts, shown):
    """Expected counts without those in excluded sky, and the pixels that keep some."""
    points, weight, _ = _quadrature(table, source, observations, lon[inside], lat[inside], excluded=True)
    columns = _columns(table, points, np.ones(len(points)), weight)

    def evaluate(device, some, position, padded):
        return [(_ratios(table, device, some, position) * device["weight"][some][:, None]).sum(0)]

    (lost,) = _over_tiles(table, columns, lon, lat, inside, table.reach, evaluate, 1, shown)
    left = counts - lost
    kept = inside & (left > LEAST_LEFT * counts)
    if not kept.any():
        raise ValueError("the excluded sky leaves nothing of the map")
    return np.where(kept, left, np.nan), kept


def _over_tiles(table, columns, lon, lat, inside, reach: float, evaluate: Callable, number: int, shown) -> np.ndarray:
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


@eqx.filter_jit
def detectable(
    ratio: Float[Array, "point pixel"], counts: Float[Array, " point"], significance: Float[Array, ""] | float
) -> tuple[Float[Array, " pixel"], Float[Array, " pixel"]]:
    """Norm A with q(A) = 2 Sum counts [(1 + A ratio) ln(1 + A ratio) - A ratio] = significance^2, and its counts.

    Newton's method for sqrt(q), which is concave in A: from the norm of many counts, which is too small, steps
    never pass the solution. NaN without any signal.
    """
    counts = counts[:, None]
    square = (counts * ratio**2).sum(0)
    some = square > 0
    start = significance / jnp.sqrt(jnp.where(some, square, 1.0))

    def climb(state):
        norm, _, step = state
        x = norm * ratio
        log = jnp.log1p(x)
        # differences of nearly equal numbers below
        part = jnp.where(x < 0.03, x**2 * (0.5 - x / 6.0 + x**2 / 12.0), (1.0 + x) * log - x)
        root = jnp.sqrt(jnp.maximum(2.0 * (counts * part).sum(0), 1e-30))
        slope = (counts * ratio * log).sum(0) / root
        wanted = norm + jnp.maximum(significance - root, 0.0) / jnp.where(slope > 0, slope, 1.0)
        return wanted, (wanted - norm) / wanted, step + 1

    def moving(state):
        return (state[2] < DETECT_STEPS) & jnp.any(jnp.where(some, state[1], 0.0) > 1e-4)

    norm, _, _ = jax.lax.while_loop(moving, climb, (start, jnp.ones_like(start), 0))
    norm = jnp.where(some, norm, jnp.nan)
    return norm, norm * (counts * ratio).sum(0)
