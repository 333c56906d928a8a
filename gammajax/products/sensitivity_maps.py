"""Maps of the flux of one more source that would be detected at every pixel, beside a model.

A quadrature over the selected sky, with the density b of the model in place of events, gives the flux that is expected
at a significance (Cowan et al. 2011, arXiv:1007.1727):

    q(A) = 2 Int [(b + A s) ln(1 + A s / b) - A s] dx = significance^2.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.display import block, document, extent, words
from gammajax.common.progress import DELAY, Progress
from gammajax.engines.expectation import intensity
from gammajax.engines.movable import MovableSource
from gammajax.instrument.observation import as_tuple
from gammajax.model.mixture import Component, Mixture
from gammajax.products.source_search import columns_of, flux_of, over_tiles, pixels_of, quadrature, ratios, source_of

DETECT_STEPS = 30


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
    middle, lon, lat, inside = pixels_of(observations, center, width, step)
    source = source_of(spectrum, sigma, lon[inside], lat[inside])
    with Progress(progress, "sensitivity map", DELAY) as shown:
        shown.say("tables of the response")
        table = MovableSource.init(source, observations, lon[inside], lat[inside])
        points, weight, reach = quadrature(table, source, observations, lon[inside], lat[inside], excluded=False)
        shown.say("density of the model")
        parts = intensity(model, observations, points)
        parts = parts.values() if isinstance(parts, dict) else [parts]
        density = np.sum([np.asarray(part, np.float64) for part in parts], axis=0)
        some = np.flatnonzero(density > 0)
        if not some.size:
            raise ValueError("the model expects no photons in the selections: it needs a background")
        columns = columns_of(table, points[some], density[some], weight[some])

        def evaluate(device, some, position, padded):
            ratio = ratios(table, device, some, position)
            return detectable(ratio, device["weight"][some] * device["density"][some], jnp.asarray(float(significance)))

        norm, counts = over_tiles(table, columns, lon, lat, inside, reach, evaluate, 2, shown)
    span, flux = flux_of(source.spectrum, observations)
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
