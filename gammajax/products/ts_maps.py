"""Maps of the test statistic of one more source, at every pixel, beside the best fit of a model.

Events k have the density b_k of the best fit. A source of unit norm at a pixel has intensity s_k and S expected counts:

    q(A) = 2 [Sum_k ln(1 + A s_k / b_k) - A S],

concave in the norm A, which is not negative: below zero the model may be negative where there is no event, and q grows
with nothing to stop it. TS is its maximum (gammapy's `TSMapEstimator` in bins), the error is from its curvature, and
the upper limit is where q falls by n_sigma_ul^2 from its maximum (Rolke et al. 2005). The model stays at its best fit.
Excluded sky leaves S by a quadrature over its directions and energies.
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
from gammajax.products.source_search import columns_of, flux_of, over_tiles, pixels_of, quadrature, ratios, source_of
from gammajax.products.spectral_points import parameters_of
from gammajax.samplers import fit

STEPS, LIMIT_STEPS = 50, 20  # at most, of Newton's method
CLOSE = 1e-3  # of an error, or of a limit: the last step towards it
LEAST_LEFT = 0.01  # of the expected counts, beside excluded sky


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
    middle, lon, lat, inside = pixels_of(observations, center, width, step)
    if not (np.isfinite(n_sigma_ul) and n_sigma_ul > 0):
        raise ValueError(f"n_sigma_ul must be a positive number of standard deviations, not {n_sigma_ul!r}")
    source = source_of(spectrum, sigma, lon[inside], lat[inside])
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
            ratio = ratios(table, device, some, position)
            return search(ratio, expected, jnp.asarray(float(n_sigma_ul)))

        found = over_tiles(table, columns, lon, lat, inside, table.reach, evaluate, 4, shown)
    norm, error, limit, ts = found
    span, flux = flux_of(source.spectrum, observations)
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


def _parameters(posterior, best):
    if isinstance(best, dict):
        return {name: jnp.asarray(value) for name, value in best.items()}
    return parameters_of(posterior, best)


def _events_of(posterior, parameters, table) -> dict[str, np.ndarray]:
    """Columns of the events for the table, with the density of the model."""
    density = np.asarray(eqx.filter_jit(lambda posterior, p: posterior.density(p))(posterior, parameters), np.float64)
    valid = np.asarray(posterior.count) > 0
    return columns_of(table, posterior.data, density[valid], valid=valid)


def _with_exclusion(table, source, observations, lon, lat, inside, counts, shown):
    """Expected counts without those in excluded sky, and the pixels that keep some."""
    points, weight, _ = quadrature(table, source, observations, lon[inside], lat[inside], excluded=True)
    columns = columns_of(table, points, np.ones(len(points)), weight)

    def evaluate(device, some, position, padded):
        return [(ratios(table, device, some, position) * device["weight"][some][:, None]).sum(0)]

    (lost,) = over_tiles(table, columns, lon, lat, inside, table.reach, evaluate, 1, shown)
    left = counts - lost
    kept = inside & (left > LEAST_LEFT * counts)
    if not kept.any():
        raise ValueError("the excluded sky leaves nothing of the map")
    return np.where(kept, left, np.nan), kept


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
