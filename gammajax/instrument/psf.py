"""Point spread functions: probability per solid angle of the reconstructed direction around the true direction.

The GADF specification has three forms (https://gamma-astro-data-formats.readthedocs.io, `PSF_3GAUSS`,
`PSF_KING`, `PSF_TABLE`). Each integrates to one at every energy and offset, also between the nodes of its
table: amplitudes are relative, so that an interpolated width cannot lose photons.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gammajax.common.display import block, document, words
from gammajax.instrument.sky import SQUARE_DEGREE, root
from gammajax.instrument.table import Table, covered

NEWTON_STEPS = 16  # for quantiles of sums of Gaussians; one step solves one Gaussian exactly


class PSF(eqx.Module):
    """Radially symmetric point spread function, by true energy [TeV] and offset [deg]."""

    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Ends of the table."""
        return block(f"{type(self).__name__}: {covered(next(iter(vars(self).values()), None), 'deg')}")

    @abc.abstractmethod
    def density(self, energy_true, offset, rad) -> Float[Array, "..."]:
        """Probability density [sr^-1] at separation `rad` [deg]."""

    @abc.abstractmethod
    def containment(self, energy_true, offset, rad) -> Float[Array, "..."]:
        """Probability of a reconstructed direction within `rad` [deg]."""

    @abc.abstractmethod
    def quantile(self, energy_true, offset, probability) -> Float[Array, "..."]:
        """Radius [deg] that contains `probability`, the inverse of `containment`."""

    def sample(self, key: PRNGKeyArray, energy_true, offset) -> Float[Array, "..."]:
        """Random separations [deg], one for each energy and offset."""
        return self.quantile(energy_true, offset, jax.random.uniform(key, jnp.shape(energy_true), maxval=1.0 - 1e-7))


class GaussPSF(PSF):
    """Sum of Gaussians: P(r) = Sum_i a_i exp(-r^2 / 2 s_i^2) / (2 pi Sum_i a_i s_i^2).

    `widths`: s_i [deg], `amplitudes`: a_i relative to each other (GADF: 1, AMPL_2, AMPL_3), both
    interpolated over (ln energy, offset).
    """

    widths: Table
    amplitudes: Table

    def _components(self, energy_true, offset):
        width = self.widths(jnp.log(energy_true), offset, outside=None)
        amplitude = jnp.maximum(self.amplitudes(jnp.log(energy_true), offset, outside=None), 0.0)
        width = jnp.maximum(width, 1e-3)
        weight = amplitude * width**2
        return width, weight / weight.sum(-1, keepdims=True)

    def density(self, energy_true, offset, rad):
        width, weight = self._components(energy_true, offset)
        gauss = jnp.exp(-0.5 * (rad[..., None] / width) ** 2) / (2.0 * jnp.pi * width**2 * SQUARE_DEGREE)
        return (weight * gauss).sum(-1)

    def containment(self, energy_true, offset, rad):
        width, weight = self._components(energy_true, offset)
        return -(weight * jnp.expm1(-0.5 * (rad[..., None] / width) ** 2)).sum(-1)

    def quantile(self, energy_true, offset, probability):
        width, weight = self._components(energy_true, offset)
        start = jnp.zeros(jnp.broadcast_shapes(width.shape[:-1], jnp.shape(probability)), width.dtype)
        fixed = jax.lax.stop_gradient((width, weight, jnp.log1p(-jnp.asarray(probability, width.dtype))))
        steps = NEWTON_STEPS if width.shape[-1] > 1 else 0  # the first step below solves one Gaussian
        square = jax.lax.fori_loop(0, steps, lambda _, square: _newton_step(square, *fixed), start)
        # steps at the solution add the derivatives of the implicit function, up to third order
        for _ in range(2):
            square = _newton_step(square, width, weight, jnp.log1p(-probability))
        return root(square)


def _newton_step(square, width, weight, log_outside):
    """One Newton step to ln Sum_i w_i exp(-r^2 / 2 s_i^2) = ln(1 - probability), from below: convex in r^2."""
    exponent = -0.5 * square[..., None] / width**2
    log_rest = jax.scipy.special.logsumexp(exponent, axis=-1, b=weight)
    share = weight * jnp.exp(exponent - log_rest[..., None])
    return square + (log_rest - log_outside) / (0.5 * share / width**2).sum(-1)


class KingPSF(PSF):
    """King function: P(r) = (1 - 1/g) (1 + r^2 / (2 g s^2))^-g / (2 pi s^2).

    `shape` holds s [deg] and g > 1 in its last dimension, interpolated over (ln energy, offset).
    """

    shape: Table

    def _parameters(self, energy_true, offset):
        value = self.shape(jnp.log(energy_true), offset, outside=None)
        return jnp.maximum(value[..., 0], 1e-3), jnp.maximum(value[..., 1], 1.0 + 1e-3)

    def density(self, energy_true, offset, rad):
        sigma, gamma = self._parameters(energy_true, offset)
        norm = (1.0 - 1.0 / gamma) / (2.0 * jnp.pi * sigma**2 * SQUARE_DEGREE)
        return norm * (1.0 + (rad / sigma) ** 2 / (2.0 * gamma)) ** -gamma

    def containment(self, energy_true, offset, rad):
        sigma, gamma = self._parameters(energy_true, offset)
        return 1.0 - (1.0 + (rad / sigma) ** 2 / (2.0 * gamma)) ** (1.0 - gamma)

    def quantile(self, energy_true, offset, probability):
        sigma, gamma = self._parameters(energy_true, offset)
        return sigma * root(2.0 * gamma * jnp.expm1(jnp.log1p(-probability) / (1.0 - gamma)))


class TablePSF(PSF):
    """Tabulated radial profile [sr^-1] over (ln energy, offset, rad), linear between the nodes.

    `cumulative` is the exact integral of 2 pi r P(r) dr of every profile at its nodes.
    """

    profile: Table
    cumulative: Table

    def __init__(self, energy_axis, offset_axis, rad_axis, values):
        """Normalise `values` [energy, offset, rad] (any unit); profiles of zeros stay zero."""
        rad = np.asarray(rad_axis.nodes, np.float64)
        values = np.maximum(np.asarray(values, np.float64), 0.0)
        # int 2 pi r P dr with P linear between nodes
        r0, r1 = rad[:-1], rad[1:]
        p0, p1 = values[..., :-1], values[..., 1:]
        rings = np.pi / 3.0 * (r1 - r0) * (p0 * (2.0 * r0 + r1) + p1 * (r0 + 2.0 * r1)) * SQUARE_DEGREE
        inner = np.pi * rad[0] ** 2 * values[..., :1] * SQUARE_DEGREE
        cumulative = np.concatenate([inner, inner + np.cumsum(rings, -1)], -1)
        total = cumulative[..., -1:]
        safe = np.where(total > 0, total, 1.0)
        axes = (energy_axis, offset_axis, rad_axis)
        self.profile = Table(axes, values / safe)
        self.cumulative = Table(axes, cumulative / safe)

    def _total(self, energy_true, offset):
        ones = jnp.broadcast_to(
            self.cumulative.axes[2].nodes[-1], jnp.broadcast_shapes(energy_true.shape, offset.shape)
        )
        return jnp.maximum(self.cumulative(jnp.log(energy_true), offset, ones, outside=None), 1e-6)

    def density(self, energy_true, offset, rad):
        energy_true, offset, rad = jnp.broadcast_arrays(energy_true, offset, rad)
        value = jnp.maximum(self.profile(jnp.log(energy_true), offset, rad, outside=None), 0.0)
        value = jnp.where(rad <= self.profile.axes[2].upper, value, 0.0)
        return value / self._total(energy_true, offset)

    def containment(self, energy_true, offset, rad):
        energy_true, offset, rad = jnp.broadcast_arrays(energy_true, offset, rad)
        axis = self.cumulative.axes[2]
        rad = jnp.clip(rad, axis.nodes[0], axis.nodes[-1])
        value = self.cumulative(jnp.log(energy_true), offset, rad, outside=None)
        return jnp.clip(value / self._total(energy_true, offset), 0.0, 1.0)

    def quantile(self, energy_true, offset, probability):
        energy_true, offset, probability = jnp.broadcast_arrays(energy_true, offset, jnp.asarray(probability))
        axes = self.cumulative.axes
        values = Table(axes[:2], self.cumulative.values)(jnp.log(energy_true), offset, outside=None)
        values = jnp.clip(values / jnp.maximum(values[..., -1:], 1e-6), 0.0, 1.0)
        last = axes[2].nodes.size - 2
        index = jnp.clip((values < probability[..., None]).sum(-1) - 1, 0, last)
        low = jnp.take_along_axis(values, index[..., None], -1)[..., 0]
        high = jnp.take_along_axis(values, index[..., None] + 1, -1)[..., 0]
        fraction = jnp.clip((probability - low) / jnp.maximum(high - low, 1e-12), 0.0, 1.0)
        # the density is nearly constant within a step, so the containment grows with rad^2
        r2 = axes[2].nodes ** 2
        return root(r2[index] + fraction * (r2[index + 1] - r2[index]))


@eqx.filter_jit
def psf_radius(psf: PSF, energy, offset) -> Float[Array, "..."]:
    """Radius [deg] that contains all but 2e-7 of the point spread function, at most 3 deg."""
    return jnp.minimum(psf.quantile(energy, offset, jnp.full(jnp.shape(energy), 1.0 - 2e-7)), 3.0)


@eqx.filter_jit
def psf_quantile(psf: PSF, energy, offset, probability) -> Float[Array, "..."]:
    """Radius [deg] that contains a given part of the point spread function; compiled."""
    return psf.quantile(energy, offset, probability)


@eqx.filter_jit
def psf_containment(psf: PSF, energy, offset, rad) -> Float[Array, "..."]:
    """Probability of a reconstructed direction within `rad` [deg]; compiled."""
    return psf.containment(energy, offset, rad)
