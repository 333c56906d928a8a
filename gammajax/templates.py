"""Templates: morphologies given by maps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.morphology import Morphology
from gammajax.sky import Grid, deproject
from gammajax.spectra import Scalar, scalar


class TemplateMap(Morphology):
    """A map of surface brightness on equal-area pixels, constant within each pixel.

    `values` [y, x] on `grid` ([`gammajax.sky.Grid`][]), in any unit: normalised to one.
    Raises `ValueError` for values that are negative, not finite or all zero.
    """

    lon: Scalar
    lat: Scalar
    grid: Grid
    values: Float[Array, "pixel pixel"]

    def __init__(self, grid: Grid, values):
        values = np.asarray(values, float)
        if values.shape != (grid.size, grid.size):
            raise ValueError(f"the template has shape {values.shape}, its grid needs {(grid.size, grid.size)}")
        if not np.all(np.isfinite(values)) or np.any(values < 0) or not np.any(values > 0):
            raise ValueError("a template must be finite, non-negative and not all zero")
        self.lon, self.lat, self.grid = grid.lon, grid.lat, grid
        self.values = jnp.asarray(values / values.sum() / grid.solid_angle)

    def brightness(self, lon, lat):
        x, y = self.grid.pixel(lon, lat)
        ix, iy = jnp.round(x).astype(jnp.int32), jnp.round(y).astype(jnp.int32)
        last = self.grid.size - 1
        inside = (ix >= 0) & (iy >= 0) & (ix <= last) & (iy <= last)
        return jnp.where(inside, self.values[jnp.clip(iy, 0, last), jnp.clip(ix, 0, last)], 0.0)

    def sample(self, key, size, reach=180.0):
        key_pixel, key_x, key_y = jax.random.split(key, 3)
        cumulative = jnp.cumsum(self.values.ravel())
        u = jax.random.uniform(key_pixel, (size,)) * cumulative[-1]
        pixel = jnp.minimum(jnp.searchsorted(cumulative, u, side="right"), cumulative.size - 1)
        middle = 0.5 * (self.grid.size - 1)
        x = pixel % self.grid.size + jax.random.uniform(key_x, (size,)) - 0.5
        y = pixel // self.grid.size + jax.random.uniform(key_y, (size,)) - 0.5
        return deproject((x - middle) * self.grid.step, (y - middle) * self.grid.step, self.grid.lon, self.grid.lat)

    @property
    def radius(self):
        return scalar(self.grid.size * self.grid.step / math.sqrt(2.0))

    @property
    def scale(self):
        return scalar(0.0)

    def pixel_fractions(self, grid, order):
        return _overlaps(self, grid)


def _overlaps(template, grid):
    """Flux of a template in the pixels of another grid.

    Its pixels are divided into squares no larger than those of the grid, which lie along its axes to a good
    approximation: exactly when both grids share a centre.
    """
    own = template.grid
    n = math.ceil(own.step / grid.step)
    inner = jnp.asarray(((np.arange(own.size * n) + 0.5) / n - 0.5 * own.size) * own.step)
    x, y = jnp.meshgrid(inner, inner)
    pixel = grid.pixel(*deproject(x, y, own.lon, own.lat))
    half = 0.5 * own.step / (grid.step * n)
    flux = jnp.repeat(jnp.repeat(template.values, n, 0), n, 1) * (own.solid_angle / n**2)
    # a square reaches into the pixel of its lower edge and the next
    first = [jnp.round(p - half).astype(jnp.int32) for p in pixel]
    beyond = [jnp.clip((p + half - i - 0.5) / (2.0 * half), 0.0, 1.0) for p, i in zip(pixel, first, strict=True)]
    fractions = jnp.zeros((grid.size, grid.size), flux.dtype)
    for dx in (0, 1):
        for dy in (0, 1):
            part = (beyond[0] if dx else 1.0 - beyond[0]) * (beyond[1] if dy else 1.0 - beyond[1])
            ix, iy = first[0] + dx, first[1] + dy
            inside = (ix >= 0) & (iy >= 0)  # negative indices would count from the other end
            row, column = jnp.where(inside, iy, grid.size), jnp.where(inside, ix, grid.size)
            fractions = fractions.at[row, column].add(flux * part, mode="drop")
    return fractions
