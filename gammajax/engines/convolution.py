"""Fold: the sky brightness of a source through the point spread function, on an equal-area grid.

With hat functions h_m on offset nodes (a partition of unity) the response at any true direction is the
interpolation of the responses at the nodes, and the fold is a sum of translation-invariant convolutions

    C_em(Omega') = [h_m S] (x) P(r | E_e, offset_m)

computed by fast Fourier transforms. The point spread function enters by its Fourier transform (a Hankel
transform of the radial profile), so it may be narrower than a pixel. The flux per pixel is divided by the pixel's
transform, so pixels blur nothing, provided that they resolve the source. Narrow sources and sources with rims have
finer pixels than the grid of the result, which keeps the frequencies that pass the point spread function. The result
is stored as cubic B-spline coefficients.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.fft import irfft2
from scipy.interpolate import CubicSpline
from scipy.special import j0, roots_legendre

from gammajax.engines.energy import lagrange
from gammajax.instrument.observation import Observation
from gammajax.instrument.psf import PSF, psf_quantile, psf_radius
from gammajax.instrument.sky import SQUARE_DEGREE, Grid, spline_filter, spline_weights
from gammajax.model.morphology import Morphology, plane_fractions

RADIAL_NODES, FREQUENCY_NODES = 200, 400
TAPS = np.array([1.0, 76.0, 230.0, 76.0, 1.0]) / 384.0  # quartic B-spline at the integers


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


def psf_transform(psf: PSF, energy: Float[np.ndarray, " energy"], offset: float, step: float, size: int):
    """Fourier transform of the point spread function, shape [energy, ky, kx] in rfft2 layout of a grid."""
    return on_frequencies(radial_transform(psf, energy, offset, step), step, size)


def radial_transform(psf: PSF, energy: Float[np.ndarray, " energy"], offset: float, step: float) -> CubicSpline:
    """Fourier transform of the point spread function at all energies, a function of the frequency k [deg^-1].

    P(k) = 2 pi Int P(r) J0(2 pi k r) r dr, by Gauss-Legendre quadrature with nodes denser towards r = 0, for all k of
    a grid with pixels of `step` [deg].
    """
    t, weight = _legendre()
    k = (0.5 * math.sqrt(2.0) / step * 1.001) * np.linspace(0.0, 1.0, FREQUENCY_NODES) ** 2
    energy = np.asarray(energy)
    outer = np.asarray(psf_radius(psf, jnp.asarray(energy), jnp.full(energy.shape, offset)), np.float64)
    rad = outer[:, None] * t**2
    density = _density(psf, jnp.asarray(energy)[:, None], jnp.full((energy.size, 1), offset), jnp.asarray(rad))
    ring = np.asarray(density, np.float64) * 2.0 * np.pi * rad * SQUARE_DEGREE * (2.0 * outer[:, None] * t * weight)
    radial = np.stack([j0(2.0 * np.pi * k[:, None] * r) @ part for r, part in zip(rad, ring, strict=True)], axis=1)
    return CubicSpline(k, radial / radial[0])


def on_frequencies(radial: CubicSpline, step: float, size: int) -> Float[np.ndarray, "energy ky kx"]:
    """A radial transform at the frequencies of a grid, in rfft2 layout."""
    k = np.fft.rfftfreq(size, step)
    values = np.moveaxis(radial(np.hypot(k[:, None], k)), 2, 0)
    row = np.arange(size)
    return values[:, np.minimum(row, size - row)]


@lru_cache(maxsize=1)
def _legendre():
    t, weight = roots_legendre(RADIAL_NODES)
    return 0.5 * (t + 1.0), 0.5 * weight


@eqx.filter_jit
def _density(psf, energy, offset, rad):
    return psf.density(energy, offset, rad)


def convolve(
    fractions: Float[np.ndarray, "plane fine_y fine_x"], transform: Float[np.ndarray, "energy ky kx"]
) -> Float[np.ndarray, "energy y x"]:
    """Spline coefficients of pixel-integrated `fractions` folded with a transform (on the host, double precision).

    There is one plane of fractions per energy, or one for all. Its pixels may be finer than those of the transform by
    an odd factor.
    """
    size = transform.shape[1]
    filter_ = spline_filter(size, fractions.shape[1] // size)
    images = (image_transform(np.asarray(plane, np.float64), size) * filter_ for plane in fractions)
    images = itertools.repeat(next(images), len(transform)) if len(fractions) == 1 else images
    result = np.empty((len(transform), size, size))
    for plane, image, row in zip(result, images, transform, strict=True):
        plane[:] = np.asarray(irfft2(image * row, s=(size, size), workers=-1))
    return result


def image_transform(image, size: int):
    """Fourier transform (rfft2 layout) of an image at the frequencies of a grid of `size` pixels.

    The pixels of the image may be finer by an odd factor; the phase refers to the centre of the grid's pixels.
    """
    library = jnp if isinstance(image, jax.Array) else np
    shift = (image.shape[0] // size - 1) // 2
    transform = library.fft.rfft2(library.roll(image, (-shift, -shift), (0, 1)))
    frequency = np.fft.fftfreq(size, 1.0 / size).astype(int)  # negative frequencies count from the end
    return transform[frequency, : size // 2 + 1]


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
    """Fraction of every pixel that lies in the selected region.

    Points within half a spacing of the rim of the field count in part, by their distance from it: areas are then good
    to second order in the spacing.
    """
    spacing = grid.step / oversample

    def share(lon, lat):
        inside = jnp.clip(0.5 + (observation.offset_max - observation.offset(lon, lat)) / spacing, 0.0, 1.0)
        return inside if observation.exclusion is None else jnp.where(observation.exclusion(lon, lat), 0.0, inside)

    return grid.average(share, oversample)


def spline_means(means: Float[np.ndarray, "*batch interval column"]) -> Float[np.ndarray, "*batch interval column"]:
    """Coefficients of the cubic B-splines with these means over the unit intervals about the integers.

    Interpolation of values would let structure finer than a step change integrals.
    """
    count = means.shape[-2]
    index = np.arange(count)[:, None] + np.arange(-2, 3)
    index = (count - 1) - np.abs((count - 1) - np.abs(index))  # mirrored
    matrix = np.zeros((count, count))
    np.add.at(matrix, (np.arange(count)[:, None], index), np.broadcast_to(TAPS, index.shape))
    return np.linalg.solve(matrix, means)


@eqx.filter_jit
def spline_integral_weights(fractions: Float[Array, "y x"]) -> Float[Array, "y x"]:
    """Integral [pixel] of each pixel's cubic B-spline over a region given by pixel `fractions`."""
    padded = jnp.pad(fractions, 2)
    height, width = fractions.shape
    rows = jnp.stack([tap * padded[i : i + height] for i, tap in enumerate(TAPS)]).sum(0)
    return jnp.stack([tap * rows[:, i : i + width] for i, tap in enumerate(TAPS)]).sum(0)


@eqx.filter_jit
def pixel_offsets(observation: Observation, grid: Grid) -> Float[Array, "y x"]:
    """Offset [deg] of the pixel centres of a grid."""
    return observation.offset(*grid.directions())


@dataclass(frozen=True)
class FoldPlan:
    """Sizes for folding one morphology in one observation.

    The grid with `step` [deg] reaches `radius` [deg] from the source; if the source is `wide` compared to the field of
    view, the grid is centred on the pointing. `offsets` [deg]: nodes of the hat functions. `divide`: source pixels per
    step, an odd number. `least` [deg]: minimum spread of the folded source.
    """

    step: float
    radius: float
    wide: bool
    offsets: tuple[float, ...]
    divide: int
    least: float

    def grid(self, morphology: Morphology, observation: Observation) -> Grid:
        """The grid of the result, which moves with the source unless it is wide."""
        centre = observation if self.wide else morphology
        return Grid(centre.lon, centre.lat, self.step, self.radius)

    def source_grid(self, morphology: Morphology, observation: Observation) -> Grid:
        """The grid of the source, with finer pixels."""
        centre = observation if self.wide else morphology
        return Grid(centre.lon, centre.lat, self.step, self.radius, self.divide)


def fold_plan(
    morphologies: Sequence[Morphology],
    observation: Observation,
    energy: Float[np.ndarray, " energy"],
    smooth: float = 0.2,
    edged: float = 0.6,
) -> FoldPlan:
    """Plan for all of `morphologies`: one source at several values of its parameters.

    For a source without edges, the step is `smooth` times sigma, its scale and the narrowest response in quadrature, so
    that it is resolved down to its far tails. For edges the step is `edged` times the sigma of the narrowest response,
    and 1.4 times for halos and templates that fill the field. Source pixels are a quarter of that sigma for edges and
    for sources narrower than an eighth of it, and a third of a step for halos as steep as NFW. Structure below the
    pixel size aliases: next to the centre of a halo the error is 1 % for a brightness that falls as separation^-1.3 and
    4 % for ^-1.6.
    """
    psf = observation.response.psf
    radius = max(float(m.radius) for m in morphologies)
    scale = min(float(m.scale) for m in morphologies)
    centres = [float(observation.offset(m.lon, m.lat)) for m in morphologies]
    e, o = np.meshgrid(energy, np.linspace(0.0, observation.offset_max, 5), indexing="ij")
    contained = np.asarray(psf_quantile(psf, jnp.asarray(e), jnp.asarray(o), jnp.full(e.shape, 0.393)))
    margin = float(np.asarray(psf_radius(psf, jnp.asarray(e), jnp.asarray(o))).max())
    narrow = float(contained.min())
    sigma = math.hypot(scale, narrow)
    field = observation.offset_max + margin
    wide = bool(max(centres) + radius + margin > field and radius > 0.5 * observation.offset_max)
    extent = field if wide else radius + margin
    if wide or len(morphologies) > 1:
        nearest, farthest = 0.0, field
    else:
        nearest, farthest = max(0.0, centres[0] - extent), centres[0] + extent
    fills = wide and not morphologies[0].sizes  # morphologies with sizes may be small for some parameters
    step = sigma * (smooth if scale > 0 else 1.4 if fills else edged)
    offsets = offset_nodes(nearest, farthest, 0.25 if extent < 2.0 else 0.5)
    # the widest sources are smooth, but the hats are not
    step = min(max(step, 2.0 * extent / 900.0), extent / 20.0, 0.5 * (offsets[1] - offsets[0]))
    finest = max(2.0 * scale, 0.25 * narrow, 2.0 * extent / 1000.0)  # a million pixels are enough
    divide = 2 * math.ceil(0.5 * (step / finest - 1.0)) + 1
    if radius >= 180.0:  # no rim in the field
        divide = 3 if max(cusp(m, step) for m in morphologies) > 0.95 else 1
    # pixels that move with the source are centred on it; other pixels must also resolve its position
    least = 0.5 * step / divide if wide else 0.05 * narrow
    return FoldPlan(step, extent, wide, tuple(offsets.tolist()), divide, least)


def cusp(morphology: Morphology, step: float) -> float:
    """Power with which the brightness falls from the centre, within one step [deg]."""
    near, far = (float(_brightness(morphology, morphology.lat + part * step)) for part in (0.1, 1.0))
    return math.log10(near / far) if far > 0 else 0.0  # a source that ends within a step has no cusp


@eqx.filter_jit
def _brightness(morphology, lat):
    return morphology.brightness(morphology.lon, lat)


def fold_energies(energy: Float[np.ndarray, " energy"], stride: int) -> Float[np.ndarray, " fold_energy"]:
    """Every `stride`-th node, and one at or beyond the last."""
    step = math.log10(energy[1] / energy[0])
    return energy[0] * 10.0 ** (np.arange(math.ceil((energy.size - 1) / stride) + 1) * stride * step)


def interpolated_energies(
    energy: Float[np.ndarray, " energy"], log_step: float, per_decade: float, order: int
) -> tuple[Float[np.ndarray, "energy psf_energy"], Float[np.ndarray, " psf_energy"]]:
    """Interpolation [energy, psf_energy] in ln E between `order` nodes, and the energies [TeV]."""
    stride = max(1, round(math.log(10.0) / per_decade / log_step))
    at = fold_energies(energy, stride)
    matrix = np.zeros((energy.size, at.size))
    if stride == 1 or at.size < order:
        return np.eye(energy.size), energy
    for j in range(energy.size):
        x = j / stride
        first = min(max(int(x) - order // 2 + 1, 0), at.size - order)
        matrix[j, first : first + order] = lagrange(x - first, order)
    return matrix, at


def fold_transforms(response, plan: FoldPlan, energy: Float[np.ndarray, " energy"]) -> list[CubicSpline]:
    """Transforms of the point spread function of a response at the offsets of a plan."""
    energy = np.minimum(energy, math.exp(float(response.effective_area.axes[0].upper)))
    return [radial_transform(response.psf, energy, offset, plan.step) for offset in plan.offsets]


def fold_coefficients(
    morphology: Morphology,
    observation: Observation,
    plan: FoldPlan,
    energy: Float[np.ndarray, " energy"],
    radial: Sequence[CubicSpline],
) -> Float[Array, "pixel energy offset"]:
    """Spline coefficients [sr^-1] of h_m S folded with P at every energy and offset node; on the host.

    `radial`: the [`gammajax.engines.convolution.fold_transforms`][] of the plan.
    """
    grid = plan.grid(morphology, observation)
    source, order = plan.source_grid(morphology, observation), 3 if plan.wide or plan.divide > 1 else 8
    # as an array: a number would be part of the program
    least = jnp.asarray(plan.least, float)
    fractions = np.asarray(plane_fractions(morphology, source, jnp.asarray(energy), order, least))
    offsets = np.asarray(pixel_offsets(observation, source), np.float64)
    maps = jnp.zeros((grid.size**2, energy.size, len(plan.offsets)), jnp.float32)
    for m in range(len(plan.offsets)):
        hat = np.interp(offsets, plan.offsets, np.arange(len(plan.offsets)) == m).astype(fractions.dtype)
        folded = convolve(fractions * hat, on_frequencies(radial[m], grid.step, grid.size))
        folded /= grid.solid_angle
        maps = _put(maps, m, folded.astype(np.float32))
    return maps


@partial(jax.jit, donate_argnums=0)
def _put(maps, m, planes):
    """Write the planes of one offset in place, without a second copy of the large maps."""
    return maps.at[..., m].set(planes.reshape(len(planes), -1).T.astype(maps.dtype))
