"""Residual maps: counts, what a posterior expects, and the significance of the difference, within a circle everywhere.

The expectation is simulated from the fit, with the livetime many times longer: with exclusions, edges of the field and
every response as in the data. With n events within the radius and N simulated ones, alpha times less livetime, and
mu = alpha N,

    sqrt(TS)  = sign(n - mu) sqrt(2 [n ln(n / mu) - (n - mu)])                                 a known expectation
    Li & Ma   = equation 17 of Li & Ma (1983, doi:10.1086/161295) for n, N and alpha    with the statistics of both
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from gammajax.common.display import block, document, extent, words
from gammajax.common.progress import DELAY, Progress
from gammajax.events.cells import Cells
from gammajax.events.event_list import Events
from gammajax.instrument.sky import Grid, deproject, mean_direction
from gammajax.likelihood import UnbinnedTerm
from gammajax.products.event_replicates import drawn, observed
from gammajax.products.replicates import simulated_terms
from gammajax.products.spectral_points import parameters_of

FINE, RADIUS = 0.05, 0.15  # deg: pixels, and circles in which events are counted
SIDE = 400  # most pixels along a side
SIMULATED = 2_000_000  # events of the expectation, and its times the livetime: least and most
TIMES = (20, 500)
AT_ONCE = 500_000  # simulated events in memory
LEAST = 1.0  # expected events in a circle with a significance


class ResidualMaps(eqx.Module):
    """Counts and model on the sky, from [`gammajax.residual_maps`][]; images [y, x] on equal-area pixels.

    - `name` of the data set; `frame` of the directions; `lon`, `lat` [deg] of the middle, `step` [deg] of a pixel.
    - `counts`, `model`: events and expected events of each pixel, y to the north and x to the east.
    - `sqrt_ts`, `li_ma`: significances of the events within `radius` [deg] of each pixel, NaN where fewer than one is
      expected.
    - `excluded`: pixels that are excluded in all observations; `seen`: those in a field of view and not excluded.

    >>> import gammajax as gj, numpy as np
    >>> one = np.ones((3, 3))
    >>> maps = gj.ResidualMaps("events", "icrs", 83.6, 22.0, 0.1, 0.15, one, one, one, one, one > 2, one > 0)
    >>> maps.excess.sum().item()
    0.0
    """

    name: str = eqx.field(static=True)
    frame: str = eqx.field(static=True)
    lon: float
    lat: float
    step: float
    radius: float
    counts: Float[np.ndarray, "pixel pixel"]
    model: Float[np.ndarray, "pixel pixel"]
    sqrt_ts: Float[np.ndarray, "pixel pixel"]
    li_ma: Float[np.ndarray, "pixel pixel"]
    excluded: Bool[np.ndarray, "pixel pixel"]
    seen: Bool[np.ndarray, "pixel pixel"]
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Pixels, events, and the range of significances."""
        return block(
            f"ResidualMaps of {self.name}: {self.counts.shape[0]} x {self.counts.shape[1]} pixels of {self.step:.3g} "
            f"deg, {self.frame}",
            f"{self.counts.sum():.0f} events, {self.model.sum():.1f} expected",
            f"sqrt(TS) within {self.radius:.3g} deg: {extent(self.sqrt_ts[np.isfinite(self.sqrt_ts)])}",
        )

    @property
    def excess(self) -> Float[np.ndarray, "pixel pixel"]:
        """Events minus expected events of each pixel."""
        return self.counts - self.model

    @property
    def peak(self) -> tuple[float, float, float]:
        """Direction [deg] of the largest deviation, and sqrt(TS) there."""
        size = np.where(np.isfinite(self.sqrt_ts), np.abs(self.sqrt_ts), -1.0)
        y, x = np.unravel_index(int(np.argmax(size)), size.shape)
        lon, lat = deproject(float(self.along[x]), float(self.along[y]), self.lon, self.lat)
        return float(lon) % 360.0, float(lat), float(self.sqrt_ts[y, x])

    @property
    def along(self) -> Float[np.ndarray, " pixel"]:
        """Projected coordinate [deg] of the pixels along both axes, from the middle to the east and to the north."""
        return (np.arange(self.counts.shape[0]) - 0.5 * (self.counts.shape[0] - 1)) * self.step

    def write(self, path, overwrite: bool = False) -> Path:
        """Write a FITS file with the images COUNTS, MODEL, SQRT_TS, LI_MA, EXCLUDED and SEEN, and their coordinates.

        `gammapy.maps.Map.read(path, hdu="SQRT_TS")` reads them. The file is first written under a temporary name.
        Raises `FileExistsError` if it exists and `overwrite` is false.
        """
        from gammajax.io.residual_file import write_residuals

        return write_residuals(self, path, overwrite)

    def plot(self, figure=None, *, angle_unit: str = "deg"):
        """Draw counts, model and sqrt(TS), with the excluded sky hatched; returns the figure.

        Arguments and errors as of [`gammajax.plots.residual_panels.plot_residuals`][].
        """
        from gammajax.plots.residual_panels import plot_residuals

        return plot_residuals(self, figure, angle_unit=angle_unit)


def residual_maps(
    posterior,
    best: Any,
    *,
    key: PRNGKeyArray | None = None,
    data_set: str | None = None,
    step: float = FINE,
    radius: float = RADIUS,
    progress: bool = True,
) -> ResidualMaps:
    """Maps of counts, of the expectation at the best fit, and of the significance of the difference.

    - `posterior`: a [`gammajax.Posterior`][]; `best`: a [`gammajax.Fit`][], or a [`gammajax.Result`][], whose means
      are taken.
    - `key`: a `jax.random.key` of the simulation. `progress`: show how far it is.
    - `data_set`: name of one of several data sets. `step` of pixels, and `radius` of circles [deg].

    Returns [`gammajax.ResidualMaps`][]. Raises `ValueError` for a posterior without data of events, for one that
    several processes share, for several data sets without a name, and for a step or radius that is not positive.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11 * p["flux"]), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground())
    >>> events = gj.simulate(jax.random.key(0), model({"flux": 1.0}), run)
    >>> posterior = gj.Posterior(model, {"flux": dist.Uniform(0.0, 5.0)}, run, events, per_decade=20.0)
    >>> maps = gj.residual_maps(posterior, gj.fit(posterior, progress=False), step=0.1, progress=False)
    >>> maps.counts.sum().item() == len(events)
    True
    """
    for name, value in (("step", step), ("radius", radius)):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be a positive angle [deg], not {value}")
    terms = simulated_terms(posterior, UnbinnedTerm, of="events or cells")
    names = [term.name for term in terms]
    if data_set is None and len(terms) > 1 or data_set is not None and data_set not in names:
        raise ValueError(f"data_set must be one of {names}, not {data_set!r}")
    term = terms[0 if data_set is None else names.index(data_set)]
    parameters = parameters_of(posterior, best)
    sky = SkyCounts.init(term, step)
    times = int(np.clip(SIMULATED // term.total, *TIMES))
    parts = -(-times * term.total // AT_ONCE)
    made, key = 0, jax.random.key(0) if key is None else key
    with Progress(progress, "residual maps", DELAY) as bar:
        for part in range(parts):
            more = (times - made) // (parts - part)
            if more:
                events, _ = drawn(jax.random.fold_in(key, part), posterior, term, parameters, more)
                sky.add(events if not isinstance(term.data, Cells) else term.data.binning(events))
            made += more
            bar.update((part + 1) / parts, "simulated events")
    return residuals_of(term, sky, times, radius)


class SkyCounts:
    """Counts on a grid that covers the fields of view of a data set; cells are spread evenly over their sky."""

    def __init__(self, grid: Grid, radius: float, seen, excluded):
        self.grid, self.radius, self.seen, self.excluded = grid, radius, seen, excluded
        self.counts = np.zeros(seen.shape)

    @classmethod
    def init(cls, term: UnbinnedTerm, step: float) -> "SkyCounts":
        """A grid about the middle of the pointings, with larger pixels for very wide fields."""
        observations = term.observations
        lon, lat = mean_direction(*np.array([[o.lon, o.lat] for o in observations], np.float64).T)
        radius = max(float(o.offset(lon, lat) + o.offset_max) for o in observations)
        grid = Grid(lon, lat, max(step, 2.0 * radius / SIDE), radius)
        seen, excluded = np.zeros((2, grid.size, grid.size), bool)
        lon, lat = grid.directions()
        for one in observations:  # not compiled: a program would be one for each observation
            inside, selected = np.asarray(one.offset(lon, lat) <= one.offset_max), np.asarray(one.selected(lon, lat))
            seen |= selected
            excluded |= inside & ~selected
        return cls(grid, radius, seen, excluded & ~seen)

    def add(self, data: Events | Cells) -> None:
        """Count events, or the events of cells."""
        centre, reach = (float(self.grid.lon), float(self.grid.lat)), 1.5 * self.radius
        batches = (
            [(data.lon, data.lat, None)] if isinstance(data, Events) else data.spread(self.grid.step, centre, reach)
        )
        for lon, lat, weight in batches:
            x, y = (np.rint(side).astype(int) for side in on_host(self.grid.pixel, np.asarray(lon), np.asarray(lat)))
            inside = (x >= 0) & (y >= 0) & (x < self.grid.size) & (y < self.grid.size)
            pixel = (y * self.grid.size + x)[inside]
            weight = None if weight is None else np.asarray(weight, float)[inside]
            self.counts += np.bincount(pixel, weight, self.grid.size**2).reshape(self.counts.shape)

    def empty(self) -> "SkyCounts":
        """The same grid without counts."""
        return SkyCounts(self.grid, self.radius, self.seen, self.excluded)


def residuals_of(term: UnbinnedTerm, simulated: SkyCounts, times: int, radius: float) -> ResidualMaps:
    """Maps of a data set, from the counts of `times` simulated data sets together."""
    from gammajax.io.residual_file import significances

    sky, grid = simulated.empty(), simulated.grid
    sky.add(observed(term))
    on, off = (within(counts, radius / grid.step) for counts in (sky.counts, simulated.counts))
    sqrt_ts, li_ma = significances(on, off, 1.0 / times)
    known = simulated.seen & (off / times >= LEAST)
    return ResidualMaps(
        term.name,
        term.observations[0].frame,
        float(grid.lon) % 360.0,
        float(grid.lat),
        grid.step,
        float(radius),
        sky.counts,
        simulated.counts / times,
        np.where(known, sqrt_ts, np.nan),
        np.where(known, li_ma, np.nan),
        simulated.excluded,
        simulated.seen,
    )


def within(counts: Float[np.ndarray, "y x"], radius: float) -> Float[np.ndarray, "y x"]:
    """Sum of the counts of all pixels whose middle is within `radius` [pixel] of each."""
    from scipy.signal import fftconvolve

    reach = int(np.ceil(radius))
    x, y = np.meshgrid(*[np.arange(-reach, reach + 1)] * 2)
    summed = fftconvolve(counts, (np.hypot(x, y) <= max(radius, 1e-6)).astype(float), mode="same")
    # counts of events are whole numbers, those of cells are not
    return np.maximum(np.where(np.abs(summed - np.rint(summed)) < 1e-6, np.rint(summed), summed), 0.0)


def on_host(function, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Arrays that a compiled function of columns gives, with few different sizes."""
    size = columns[0].size
    if not size:
        return tuple(np.zeros(0) for _ in function(*(jnp.zeros(1) for _ in columns)))
    padded = max(4096, 1 << (size - 1).bit_length())
    found = function(*(jnp.asarray(np.resize(column, padded)) for column in columns))
    return tuple(np.asarray(values, float)[:size] for values in found)
