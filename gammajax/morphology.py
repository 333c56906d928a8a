"""Morphologies: how the flux of a source is spread over the sky.

A morphology has a surface brightness [sr^-1] that integrates to one over the sky, an extent (centre and radius that
hold all of it) and draws random directions. [`gammajax.Point`][] alone has no surface brightness: engines evaluate
the point spread function at its exact position.
"""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gammajax.sky import DEGREE, Grid, deproject, displace, separation
from gammajax.spectra import Scalar, parameter, scalar


class Morphology(eqx.Module):
    """Interface of all morphologies; `lon`, `lat` [deg] is the centre, in the observations' frame."""

    lon: eqx.AbstractVar[Scalar]
    lat: eqx.AbstractVar[Scalar]

    @abc.abstractmethod
    def brightness(self, lon, lat) -> Float[Array, "..."]:
        """Fraction of the flux per solid angle [sr^-1] in a direction [deg]."""

    @abc.abstractmethod
    def sample(
        self, key: PRNGKeyArray, size: int, reach: Scalar | float = 180.0
    ) -> tuple[Float[Array, " size"], Float[Array, " size"]]:
        """Random directions (lon, lat) [deg], drawn from the continuous morphology.

        A morphology much larger than the field of view may draw only those within `reach` [deg] of its centre, the
        part `containment(reach)` of its flux.
        """

    def containment(self, reach: Scalar | float) -> Scalar | float:
        """Part of the flux that `sample` with this `reach` stands for; 1 where it takes no account of it."""
        del reach
        return 1.0

    @property
    @abc.abstractmethod
    def radius(self) -> Float[Array, ""]:
        """Separation [deg] from the centre that holds all but a part in 1e8 of the flux."""

    @property
    @abc.abstractmethod
    def scale(self) -> Float[Array, ""]:
        """Size [deg] below which the morphology has no structure; 0 for cusps and edges."""


class Point(Morphology):
    """A point source at (lon, lat) [deg]."""

    lon: Scalar = parameter()
    lat: Scalar = parameter()

    def brightness(self, lon, lat):
        raise TypeError("a point source has no surface brightness; use the point spread function at its position")

    def sample(self, key, size, reach=180.0):
        return jnp.full(size, self.lon), jnp.full(size, self.lat)

    @property
    def radius(self):
        return scalar(0.0)

    @property
    def scale(self):
        return scalar(0.0)


class Gaussian(Morphology):
    """Symmetric Gaussian: S = exp((cos r - 1) / s^2) / (2 pi s^2 (1 - exp(-2 / s^2))), s = sigma in rad.

    The von Mises-Fisher form of a Gaussian on the sphere, as in gammapy's `GaussianSpatialModel`; `sigma` [deg].
    """

    lon: Scalar = parameter()
    lat: Scalar = parameter()
    sigma: Scalar = parameter()

    def brightness(self, lon, lat):
        sigma = DEGREE * self.sigma
        # cos r - 1 = -2 sin^2(r/2), exact for small r
        half = jnp.sin(0.5 * DEGREE * separation(lon, lat, self.lon, self.lat))
        norm = -2.0 * jnp.pi * sigma**2 * jnp.expm1(-2.0 / sigma**2)
        return jnp.exp(-2.0 * (half / sigma) ** 2) / norm

    def sample(self, key, size, reach=180.0):
        key_radius, key_angle = jax.random.split(key)
        sigma = DEGREE * self.sigma
        u = jax.random.uniform(key_radius, (size,))
        # sin^2(r/2) is exponential, truncated at 1
        half2 = -0.5 * sigma**2 * jnp.log1p(u * jnp.expm1(-2.0 / sigma**2))
        rad = 2.0 / DEGREE * jnp.arcsin(jnp.sqrt(jnp.clip(half2, 0.0, 1.0)))
        return displace(self.lon, self.lat, rad, jax.random.uniform(key_angle, (size,), maxval=360.0))

    @property
    def radius(self):
        return jnp.minimum(6.1 * self.sigma, 180.0)

    @property
    def scale(self):
        return self.sigma


class Disk(Morphology):
    """Uniform disk of angular radius `r_0` [deg]: S = 1 / (2 pi (1 - cos r_0)) inside.

    `edge` [deg] smooths the rim (an error function of that width), which makes the disk differentiable in
    position and radius; gammapy's `DiskSpatialModel` defines the same edge.
    """

    lon: Scalar = parameter()
    lat: Scalar = parameter()
    r_0: Scalar = parameter()
    edge: Scalar = eqx.field(converter=scalar, default=0.01)

    def brightness(self, lon, lat):
        area = 4.0 * jnp.pi * jnp.sin(0.5 * DEGREE * self.r_0) ** 2
        return self._inside(separation(lon, lat, self.lon, self.lat)) / area

    def _inside(self, rad):
        # edge is the width from 5 to 95 %
        width = jnp.maximum(self.edge, 1e-6) / 2.326
        return 0.5 * (1.0 - jax.scipy.special.erf((rad - self.r_0) / width))

    def sample(self, key, size, reach=180.0):
        # a smooth rim moves no flux to first order: draw from a table of the radial distribution
        rad = jnp.linspace(0.0, 1.0, 4096) * self.radius
        return _sample_radial(key, size, self.lon, self.lat, rad, self._inside(rad))

    @property
    def radius(self):
        return self.r_0 + 2.0 * self.edge

    @property
    def scale(self):
        return scalar(0.0)


class Einasto(Morphology):
    """Annihilation in a halo with the Einasto profile rho = exp(-2/alpha ((r / r_s)^alpha - 1)).

    S(theta) is proportional to the integral of rho^2 along the line of sight and normalised to one over the sky.
    `lon`, `lat` [deg]: centre of the halo; `distance`, `r_s` [kpc]; defaults for the Milky Way from
    Cirelli et al. 2011 (arXiv:1012.4515), in galactic coordinates.
    """

    lon: Scalar = eqx.field(converter=scalar, default=0.0)
    lat: Scalar = eqx.field(converter=scalar, default=0.0)
    alpha: Scalar = eqx.field(converter=scalar, default=0.17)
    r_s: Scalar = eqx.field(converter=scalar, default=28.44)
    distance: Scalar = eqx.field(converter=scalar, default=8.33)

    def profile(self, rad: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Integral of rho^2 along the line of sight at `rad` [deg] from the centre (arbitrary unit)."""
        angle = DEGREE * rad[..., None]
        impact = self.distance * jnp.maximum(jnp.sin(angle), 1e-9)
        # l = b sinh(u) resolves the closest approach; 50 r_s is far beyond the halo
        start = -jnp.arcsinh(self.distance * jnp.cos(angle) / impact)
        stop = jnp.arcsinh(50.0 * self.r_s / impact)
        nodes, weights = np.polynomial.legendre.leggauss(128)
        # two panels meet at the closest approach when it lies ahead of the observer
        near = jnp.minimum(start, 0.0)
        result = 0.0
        for low, high in ((near, jnp.zeros_like(near)), (jnp.maximum(start, 0.0), stop)):
            u = 0.5 * (high - low) * jnp.asarray(nodes) + 0.5 * (high + low)
            radius = impact * jnp.cosh(u)
            density2 = jnp.exp(-4.0 / self.alpha * ((radius / self.r_s) ** self.alpha - 1.0))
            result = result + (0.5 * (high - low) * jnp.asarray(weights) * density2 * radius).sum(-1)
        return result

    def _table(self):
        rad = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-4, 180.0, 600)])
        return rad, self.profile(rad)

    def brightness(self, lon, lat):
        rad, profile = self._table()
        distance = jnp.maximum(separation(lon, lat, self.lon, self.lat), rad[1])
        value = jnp.exp(jnp.interp(jnp.log(distance), jnp.log(rad[1:]), jnp.log(profile[1:])))
        return value / _radial_integral(rad, profile)[-1]

    def sample(self, key, size, reach=180.0):
        rad, profile = self._table()
        return _sample_radial(key, size, self.lon, self.lat, rad, profile, self.containment(reach))

    def containment(self, reach):
        rad, profile = self._table()
        cumulative = _radial_integral(rad, profile)
        return jnp.interp(reach, rad, cumulative) / cumulative[-1]

    @property
    def radius(self):
        return scalar(180.0)

    @property
    def scale(self):
        return scalar(0.0)


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


@eqx.filter_jit
def pixel_fractions(morphology: Morphology, grid: Grid, order: int = 3) -> Float[Array, "pixel pixel"]:
    """Fraction of the flux in every pixel of `grid`, integrated over the pixel and not sampled at its centre.

    Gauss-Legendre quadrature with `order`^2 points; in the pixels next to the centre of the source, where
    halos have their cusp, an average over 51^2. Templates are cut exactly where two pixels overlap.
    """
    if isinstance(morphology, TemplateMap):
        return _overlaps(morphology, grid)
    density = grid.smooth_average(morphology.brightness, order)
    # refine 5 x 5 pixels about the centre of the source
    x, y = grid.pixel(morphology.lon, morphology.lat)
    half, fine = 2, 51
    ix = jnp.clip(jnp.round(x).astype(jnp.int32), half, grid.size - 1 - half)
    iy = jnp.clip(jnp.round(y).astype(jnp.int32), half, grid.size - 1 - half)
    near = np.arange(-half, half + 1)
    shift = (np.arange(fine) + 0.5) / fine - 0.5
    middle = 0.5 * (grid.size - 1)
    px = (ix + near[None, None, None, :] + shift[None, :, None, None] - middle) * grid.step
    py = (iy + near[None, None, :, None] + shift[:, None, None, None] - middle) * grid.step
    px, py = jnp.broadcast_arrays(px, py)
    patch = morphology.brightness(*deproject(px, py, grid.lon, grid.lat)).mean((0, 1))
    density = jax.lax.dynamic_update_slice(density, patch.astype(density.dtype), (iy - half, ix - half))
    return density * grid.solid_angle


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


def _radial_integral(rad, profile):
    """Cumulative integral of a radial profile over the sphere [sr], trapezoid in 1 - cos r between nodes."""
    cap = 2.0 * jnp.sin(0.5 * DEGREE * rad) ** 2
    return jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.pi * (profile[1:] + profile[:-1]) * jnp.diff(cap))])


def _sample_radial(key, size, lon, lat, rad, profile, part: Scalar | float = 1.0):
    """Random directions about (lon, lat) from a radial profile at fine nodes `rad`, the inner `part` of its flux."""
    key_radius, key_angle = jax.random.split(key)
    cumulative = _radial_integral(rad, profile)
    u = jax.random.uniform(key_radius, (size,)) * part * cumulative[-1]
    i = jnp.clip(jnp.searchsorted(cumulative, u, side="right") - 1, 0, rad.size - 2)
    cap = 2.0 * jnp.sin(0.5 * DEGREE * rad) ** 2
    # the profile is linear in the cap area within a step: invert the quadratic
    step = cap[i + 1] - cap[i]
    rest = (u - cumulative[i]) / (2.0 * jnp.pi)
    slope = (profile[i + 1] - profile[i]) / jnp.maximum(step, 1e-30)
    root = jnp.sqrt(jnp.maximum(profile[i] ** 2 + 2.0 * slope * rest, 0.0))
    area = cap[i] + jnp.clip(2.0 * rest / jnp.maximum(profile[i] + root, 1e-30), 0.0, step)
    distance = 2.0 / DEGREE * jnp.arcsin(jnp.sqrt(jnp.clip(0.5 * area, 0.0, 1.0)))
    return displace(lon, lat, distance, jax.random.uniform(key_angle, (size,), maxval=360.0))
