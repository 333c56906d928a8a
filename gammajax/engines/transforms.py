"""Hankel transforms of round shapes and of point spread functions.

A transform of order n is 2 pi Int f(r) J_n(2 pi k r) r dr, at frequencies k [cycles/deg].
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import jv, roots_legendre

from gammajax.instrument.psf import PSF
from gammajax.instrument.sky import DEGREE, SQUARE_DEGREE
from gammajax.model.morphology import Morphology

RING_NODES = 400  # quadrature nodes of a point spread function
BESSEL_STEP = 0.05
TRANSFORMS = ((0, 0), (1, 1), (2, 0), (2, 2))  # power of rho and order of the Bessel function


class Bessel(eqx.Module):
    """J0, J1 and J2 by their Taylor series to third order about the nearest node, to 1e-8.

    `values`: J0 to J5 at multiples of 0.05, which give all derivatives.
    """

    values: Float[Array, "node 6"]

    @classmethod
    def upto(cls, largest: float) -> "Bessel":
        """Table from zero to the `largest` argument."""
        z = BESSEL_STEP * np.arange(math.ceil(largest / BESSEL_STEP) + 2)
        return cls(jnp.asarray(np.stack([jv(n, z) for n in range(6)], axis=-1)))

    def __call__(self, z: Float[Array, "*shape"]) -> tuple[Array, Array, Array]:
        """The functions at `z`, each of its shape."""
        return _bessel(z, self.values)


@jax.custom_jvp
def _bessel(z, values):
    where = jnp.clip(z / BESSEL_STEP, 0.0, values.shape[0] - 1.0)
    index = jnp.rint(where).astype(jnp.int32)
    h = BESSEL_STEP * (where - index)
    j0, j1, j2, j3, j4, j5 = jnp.moveaxis(values[index], -1, 0)
    # derivatives from 2 J_n' = J_(n-1) - J_(n+1), applied one to three times
    return (
        j0 + h * (-j1 + h / 4.0 * (j2 - j0 + h / 6.0 * (3.0 * j1 - j3))),
        j1 + h / 2.0 * (j0 - j2 + h / 4.0 * (j3 - 3.0 * j1 + h / 6.0 * (4.0 * j2 - 3.0 * j0 - j4))),
        j2 + h / 2.0 * (j1 - j3 + h / 4.0 * (j0 - 2.0 * j2 + j4 + h / 6.0 * (3.0 * j3 - 4.0 * j1 - j5))),
    )


@_bessel.defjvp
def _bessel_tangents(primals, tangents):
    # in closed form: derivatives of the interpolation would take many times as long; the table is no parameter
    functions = _bessel(*primals)
    return functions, tuple(slope * tangents[0] for slope in bessel_slopes(primals[0], functions))


def bessel_slopes(
    z: Float[Array, "*shape"], functions: tuple[Array, Array, Array]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Derivatives of J0, J1 and J2 from the functions; the last from the recurrence."""
    j0, j1, j2 = functions
    return -j1, 0.5 * (j0 - j2), jnp.where(z < 0.1, z * (0.25 - z**2 / 24.0), j1 - 2.0 * j2 / jnp.maximum(z, 0.1))


def shape_transforms(
    morphology: Morphology, k: Float[Array, " k"], bessel: Bessel, order: int
) -> tuple[Float[Array, " k"], Float[Array, " k"], Float[Array, " k"], Float[Array, " k"]]:
    """Transforms of S (J0), rho S (J1), rho^2 S (J0) and rho^2 S (J2) by Gauss-Legendre panels between the breaks."""
    rho, share = shape_quadrature(morphology, order)
    share = share / share.sum()
    functions = bessel(2.0 * jnp.pi * rho[:, None] * k)
    found = [(share * rho**power) @ functions[order] for power, order in TRANSFORMS]
    return found[0], found[1], found[2], found[3]


def sized_transforms(
    largest: Morphology, size: Float[Array, " energy"], k: Float[Array, " k"], bessel: Bessel, order: int, number: int
) -> tuple[Float[Array, "energy k"], Float[Array, "energy k"], Float[Array, "energy k"], Float[Array, "energy k"]]:
    """[`shape_transforms`][] of a shape at sizes from zero to one, in units of the `largest`.

    In the plane they are those of the largest shape at frequencies times the size, here between `number` equal steps by
    cubic Hermite interpolation, with the exact slopes.
    """
    rho, share = shape_quadrature(largest, order)
    share = share / share.sum()
    step = k[-1] / (number - 2)
    z = 2.0 * jnp.pi * rho[:, None] * step * jnp.arange(float(number))
    functions = bessel(z)
    slopes_of = bessel_slopes(z, functions)
    where = size[:, None] * k / step
    index = jnp.clip(where.astype(jnp.int32), 0, number - 2)
    f = where - index
    g = 1.0 - f
    found = []
    for power, order in TRANSFORMS:
        values = (share * rho**power) @ functions[order]
        slopes = 2.0 * jnp.pi * step * ((share * rho ** (power + 1)) @ slopes_of[order])
        ends = [part[index + i] for part in (values, slopes) for i in (0, 1)]
        low, high, low_slope, high_slope = ends
        between = g**2 * ((1.0 + 2.0 * f) * low + f * low_slope) + f**2 * ((1.0 + 2.0 * g) * high - g * high_slope)
        found.append(size[:, None] ** power * between)
    return found[0], found[1], found[2], found[3]


def shape_quadrature(
    morphology: Morphology, order: int, low: Float[Array, ""] | float = 0.0, high: Float[Array, ""] | float = 180.0
) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
    """Separations [deg] from the centre of a round source, from `low` to `high`, and the parts of its flux there."""
    node, weight = (jnp.asarray(a.tolist()) for a in np.polynomial.legendre.leggauss(order))
    edges = jnp.clip(morphology.breaks, low, high)
    length = jnp.diff(edges)[:, None]
    # nodes denser at both ends, where profiles may have vertical rims
    t = 0.5 * (node + 1.0)
    rho = (edges[:-1, None] + length * t**2 * (3.0 - 2.0 * t)).ravel()
    width = (length * 3.0 * t * (1.0 - t) * weight).ravel()
    there = eqx.tree_at(lambda m: (m.lon, m.lat), morphology, (jnp.zeros_like(rho[0]), jnp.zeros_like(rho[0])))
    return rho, 2.0 * jnp.pi * DEGREE * there.brightness(rho, jnp.zeros_like(rho)) * jnp.sin(DEGREE * rho) * width


def psf_hankel(psf: PSF, energy, offset, reach: float, k) -> Float[np.ndarray, "*shape k"]:
    """Hankel transform of point spread functions, 2 pi Int P(r) J0(2 pi k r) r dr, one at k = 0."""
    rad, ring = psf_rings(psf, energy, offset, reach)
    return ring @ jv(0, 2.0 * np.pi * rad[:, None] * k)


def psf_rings(psf: PSF, energy, offset, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Radii [deg], denser towards zero, and probabilities [*shape, radius] in rings about them; their sum is one."""
    t, weight = roots_legendre(RING_NODES)
    t, weight = 0.5 * (t + 1.0), 0.5 * weight
    rad = reach * t**2
    density = np.asarray(psf_density(psf, energy, offset, jnp.asarray(rad)), np.float64)
    ring = density * (2.0 * np.pi * rad * SQUARE_DEGREE * 2.0 * reach * t * weight)
    total = ring.sum(-1, keepdims=True)
    return rad, ring / np.where(total > 0, total, 1.0)


@eqx.filter_jit
def psf_density(psf, energy, offset, rad):
    """Point spread function [sr^-1] at all radii, shape [*energy, radius]."""
    shape = (*energy.shape, rad.size)
    return psf.density(*(jnp.broadcast_to(a[..., None], shape) for a in (energy, offset)), jnp.broadcast_to(rad, shape))
