"""Fold: the sky brightness of a source through the point spread function, on an equal-area grid.

With hat functions h_m on offset nodes (a partition of unity) the response at any true direction is the
interpolation of the responses at the nodes, and the fold is a sum of translation-invariant convolutions

    C_em(Omega') = [h_m S] (x) P(r | E_e, offset_m)

done with fast Fourier transforms. The point spread function enters by its own Fourier transform (a Hankel
transform of the radial profile), so it may be narrower than a pixel, and the flux per pixel is divided by the
pixel's transform, so that pixels blur nothing. The result is kept as cubic B-spline coefficients.
"""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.fft import irfft2, rfft2
from scipy.interpolate import CubicSpline
from scipy.special import j0

from gammajax.morphology import Morphology, pixel_fractions
from gammajax.observation import Observation
from gammajax.psf import PSF
from gammajax.sky import SQUARE_DEGREE, Grid, spline_filter, spline_weights

RADIAL_NODES, FREQUENCY_NODES = 200, 400


@eqx.filter_jit
def hats(offset: Float[Array, "..."], nodes: Float[Array | np.ndarray, " offset"]) -> Float[Array, "... offset"]:
    """Hat functions of uniformly spaced offset `nodes` [deg]: they sum to one between the first and last node."""
    step = nodes[1] - nodes[0]
    clipped = jnp.clip(offset, nodes[0], nodes[-1])
    return jnp.maximum(0.0, 1.0 - jnp.abs(clipped[..., None] - jnp.asarray(nodes)) / step)


def offset_nodes(low: float, high: float, step: float) -> np.ndarray:
    """Multiples of `step` [deg] that enclose the offsets from `low` to `high`."""
    first = max(0, math.floor(low / step))
    return np.arange(first, max(math.ceil(high / step), first + 1) + 1) * step


@eqx.filter_jit
def psf_radius(psf: PSF, energy, offset) -> Float[Array, "..."]:
    """Radius [deg] that holds all but 2e-7 of the point spread function, at most 3 deg."""
    return jnp.minimum(psf.quantile(energy, offset, jnp.full(jnp.shape(energy), 1.0 - 2e-7)), 3.0)


def psf_transform(psf: PSF, energy: Float[np.ndarray, " energy"], offset: float, step: float, size: int):
    """Fourier transform of the point spread function, shape [energy, ky, kx] in rfft2 layout of a grid.

    P(k) = 2 pi Int P(r) J0(2 pi k r) r dr, by Gauss-Legendre quadrature that crowds towards r = 0.
    """
    t, weight = np.polynomial.legendre.leggauss(RADIAL_NODES)
    t, weight = 0.5 * (t + 1.0), 0.5 * weight
    k = (0.5 * math.sqrt(2.0) / step * 1.001) * np.linspace(0.0, 1.0, FREQUENCY_NODES) ** 2
    frequency = np.hypot(np.fft.fftfreq(size, step)[:, None], np.fft.rfftfreq(size, step)[None, :])
    energy = np.asarray(energy)
    outer = np.asarray(psf_radius(psf, jnp.asarray(energy), jnp.full(energy.shape, offset)), np.float64)
    rad = outer[:, None] * t**2
    density = _density(psf, jnp.asarray(energy)[:, None], jnp.full((energy.size, 1), offset), jnp.asarray(rad))
    ring = np.asarray(density, np.float64) * 2.0 * np.pi * rad * SQUARE_DEGREE * (2.0 * outer[:, None] * t * weight)
    result = np.empty((energy.size, *frequency.shape))
    for e in range(energy.size):
        radial = j0(2.0 * np.pi * k[:, None] * rad[e]) @ ring[e]
        result[e] = CubicSpline(k, radial / radial[0])(frequency)
    return result


@eqx.filter_jit
def _density(psf, energy, offset, rad):
    return psf.density(energy, offset, rad)


@eqx.filter_jit
def _quantile(psf, energy, offset, probability):
    return psf.quantile(energy, offset, probability)


def convolve(
    fractions: Float[np.ndarray, "y x"], transform: Float[np.ndarray, "energy ky kx"]
) -> Float[np.ndarray, "energy y x"]:
    """Spline coefficients of pixel-integrated `fractions` folded with a transform (on the host, double precision)."""
    size = fractions.shape[0]
    image = rfft2(np.asarray(fractions, np.float64)) * spline_filter(size)
    return np.stack([np.asarray(irfft2(image * row, s=(size, size), workers=-1)) for row in transform])


def spline_taps(grid: Grid, lon, lat):
    """Flat pixel indices and weights [..., 16] of the cubic B-spline at directions; weight 0 outside the grid."""
    x, y = grid.pixel(lon, lat)
    ix, iy = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    wx, wy = spline_weights(x - ix), spline_weights(y - iy)
    inside = (ix >= 1) & (iy >= 1) & (ix < grid.size - 2) & (iy < grid.size - 2)
    ix = jnp.clip(ix, 1, grid.size - 3)[..., None] + jnp.arange(-1, 3)
    iy = jnp.clip(iy, 1, grid.size - 3)[..., None] + jnp.arange(-1, 3)
    index = iy[..., :, None] * grid.size + ix[..., None, :]
    weight = jnp.where(inside[..., None, None], wy[..., :, None] * wx[..., None, :], 0.0)
    return index.reshape(*index.shape[:-2], 16), weight.reshape(*weight.shape[:-2], 16)


@eqx.filter_jit
def selected_fractions(observation: Observation, grid: Grid, oversample: int = 6) -> Float[Array, "y x"]:
    """Fraction of every pixel that lies in the selected region."""
    return grid.average(observation.selected, oversample)


@eqx.filter_jit
def spline_integral_weights(fractions: Float[Array, "y x"]) -> Float[Array, "y x"]:
    """Integral [pixel] of each pixel's cubic B-spline over a region given by pixel `fractions`."""
    taps = np.array([1.0, 76.0, 230.0, 76.0, 1.0]) / 384.0  # quartic B-spline at the integers
    padded = jnp.pad(fractions, 2)
    height, width = fractions.shape
    rows = jnp.stack([tap * padded[i : i + height] for i, tap in enumerate(taps)]).sum(0)
    return jnp.stack([tap * rows[:, i : i + width] for i, tap in enumerate(taps)]).sum(0)


@eqx.filter_jit
def _pixel_hats(observation, grid, nodes):
    return hats(observation.offset(*grid.directions()), nodes)


class FoldPlan:
    """Grid, energies and offset nodes for folding one morphology in one observation (host side, not a pytree)."""

    def __init__(self, morphology: Morphology, observation: Observation, energy: np.ndarray):
        psf = observation.response.psf
        radius, scale = float(morphology.radius), float(morphology.scale)
        centre_offset = float(observation.offset(morphology.lon, morphology.lat))
        probe = np.linspace(0.0, observation.offset_max, 5)
        e, o = np.meshgrid(energy, probe, indexing="ij")
        contained = np.asarray(_quantile(psf, jnp.asarray(e), jnp.asarray(o), jnp.full(e.shape, 0.393)))
        margin = float(np.asarray(psf_radius(psf, jnp.asarray(e), jnp.asarray(o))).max())
        sigma = math.hypot(scale, float(contained.min()))
        field = observation.offset_max + margin
        wide = centre_offset + radius + margin > field and radius > 0.5 * observation.offset_max
        if wide:
            self.lon, self.lat, self.radius, centre_offset = observation.lon, observation.lat, field, 0.0
        else:
            self.lon, self.lat, self.radius = morphology.lon, morphology.lat, radius + margin
        # a smooth source is resolved down to its far tails, one with edges down to the narrowest response; a halo that
        # fills the field has neither, but for its cusp
        step = sigma / 5.0 if scale > 0 else (1.4 * sigma if wide else 0.7 * sigma)
        self.grid = Grid(self.lon, self.lat, max(step, 2.0 * self.radius / 900.0), self.radius)
        self.offsets = offset_nodes(
            max(0.0, centre_offset - self.radius), centre_offset + self.radius, 0.25 if self.radius < 2.0 else 0.5
        )
        self.fractions = pixel_fractions(morphology, self.grid, 3 if wide else 8)
        # the response is folded at every node for small sources, at eight energies per decade for wide ones
        log_step = math.log10(energy[1] / energy[0])
        self.stride = 1 if self.grid.size <= 250 else max(1, round(1.0 / (8.0 * log_step)))
        count = math.ceil((energy.size - 1) / self.stride) + 1
        self.energy = energy[0] * 10.0 ** (np.arange(count) * self.stride * log_step)

    def coefficients(self, observation: Observation) -> Float[Array, "pixel energy offset"]:
        """Spline coefficients [sr^-1] of h_m S folded with P at every fold energy and offset node."""
        weight = np.asarray(_pixel_hats(observation, self.grid, jnp.asarray(self.offsets)))
        fractions = np.asarray(self.fractions)
        top = float(observation.response.effective_area.axes[0].upper)
        energy = np.minimum(self.energy, math.exp(top))
        maps = []
        for m, offset in enumerate(self.offsets):
            transform = psf_transform(observation.response.psf, energy, float(offset), self.grid.step, self.grid.size)
            folded = convolve(fractions * weight[..., m], transform) / self.grid.solid_angle
            maps.append(folded.reshape(energy.size, -1).astype(np.float32))
        return jnp.asarray(np.stack(maps).transpose(2, 1, 0))
