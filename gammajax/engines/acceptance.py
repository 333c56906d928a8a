"""Acceptance: the probability that a photon with given true energy and direction passes the event selection."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.fft import irfft2, rfft2
from scipy.ndimage import convolve1d

from gammajax.engines.convolution import (
    hats,
    offset_nodes,
    psf_transform,
    selected_fractions,
    spline_means,
    spline_taps,
)
from gammajax.engines.energy import EnergyNodes
from gammajax.instrument.observation import Observation
from gammajax.instrument.psf import psf_radius
from gammajax.instrument.sky import DEGREE, Grid, displace
from gammajax.model.morphology import Morphology, Point, plane_fractions

NODES, WEIGHTS = np.polynomial.legendre.leggauss(48)
SMALL = 1.0  # deg, radius below which integrals use nodes in the shape instead of pixels of the field
ANGLES = np.arange(96) * (360.0 / 96.0)


class Acceptance(eqx.Module):
    """Exposure of one source within the selection of one observation, differentiable in its morphology.

    `inside` [coarse, pixel, pixel]: probability of a reconstructed direction in the selected region, at true energies
    `log_energy` and the pixels of a grid about the pointing, and `spline` of it, between pixels. `area` [energy,
    offset]: effective area times the probability of the selected energies. A point source needs none of these, but the
    spline of the `excluded` sky [pixel, pixel], if there is any.
    """

    observation: Observation
    log_energy: Any
    grid: Any
    inside: Any
    spline: Any
    offsets: Any
    area: Any
    excluded: Any = None

    @classmethod
    def init(cls, morphology: Morphology, observation: Observation, nodes: EnergyNodes) -> "Acceptance":
        """Fold the selection with the point spread function, at 24 energies; eager."""
        if isinstance(morphology, Point):
            exclusion = observation.exclusion
            excluded = None if exclusion is None else _raster(np.asarray(exclusion.excluded, float))
            return cls(observation, None, None, None, None, None, None, excluded)
        energy = np.asarray(nodes.energy, np.float64)
        coarse = energy[:: max(1, energy.size // 24)]
        grid, inside = field_probability(observation, coarse)
        offsets = jnp.asarray(np.arange(0.0, grid.size * grid.step / np.sqrt(2.0) + 0.2, 0.1))
        area = energy_probability(observation, nodes, offsets)
        spline = _smooth(inside) if morphology.sizes else None
        return cls(observation, jnp.asarray(np.log(coarse)), grid, jnp.asarray(inside), spline, offsets, area)

    def __call__(self, morphology: Morphology, nodes: EnergyNodes) -> Float[Array, " energy"]:
        """Livetime x Int S A Dbar V over the sky [cm^2 s] at the nodes.

        Pixels, or quadrature nodes for small shapes, are sorted into fine hat functions of offset, which interpolate A
        and Dbar.
        """
        observation = self.observation
        if isinstance(morphology, Point):
            inside = point_probability(observation, self.excluded, nodes.energy, morphology.lon, morphology.lat)
            offset = observation.offset(morphology.lon, morphology.lat)
            return observation.livetime * energy_probability(observation, nodes, offset) * inside
        fractions = plane_fractions(morphology, self.grid, jnp.exp(self.log_energy), least=self.grid.step)
        weight = hats(observation.offset(*self.grid.directions()), self.offsets).reshape(-1, self.offsets.size)
        by_offset = (self.inside * fractions).reshape(self.inside.shape[0], -1) @ weight
        if morphology.sizes:
            by_offset = jnp.where(morphology.radius < SMALL, self._small(morphology), by_offset)
        at_node = jax.vmap(lambda column: jnp.interp(jnp.log(nodes.energy), self.log_energy, column), 1, 1)(by_offset)
        return observation.livetime * (self.area * at_node).sum(-1)

    def _small(self, morphology) -> Float[Array, "coarse offset"]:
        """Probability by hat function of offset, from nodes in a shape that pixels do not resolve."""
        lon, lat, solid_angle = (
            part.ravel() for part in morphology.nodes(morphology.lon, morphology.lat, 0.5 * SMALL, SMALL)
        )
        share = morphology.brightness(lon, lat) * solid_angle
        total = share.sum()
        share = share / jnp.where(total > 0, total, 1.0)  # the total is zero for large shapes, which use pixels
        index, tap = spline_taps(self.grid, lon, lat)
        inside = (self.spline.reshape(self.spline.shape[0], -1)[:, index] * tap).sum(-1)
        return (inside * share) @ hats(self.observation.offset(lon, lat), self.offsets)


@eqx.filter_jit
def energy_probability(observation: Observation, nodes: EnergyNodes, offset: Float[Array, "*offset"]):
    """Effective area [cm^2] at the nodes times the probability of the selected energies, shape [energy, *offset]."""

    def at_energies(energy):
        shape = (energy.size, *offset.shape)
        column = jnp.broadcast_to(energy.reshape(-1, *(1,) * offset.ndim), shape)
        return column, jnp.broadcast_to(offset, shape)

    probability = observation.response.energy_dispersion.probability(
        jnp.asarray(observation.energy_min), jnp.asarray(observation.energy_max), *at_energies(nodes.sub_energy)
    )
    projected = jnp.tensordot(nodes.project, probability, 1)
    return observation.response.area(*at_energies(nodes.energy)) * jnp.maximum(projected, 0.0)


@eqx.filter_jit
def point_probability(
    observation: Observation, excluded: Float[Array, "y x"] | None, energy: Float[Array, " energy"], lon, lat
) -> Float[Array, " energy"]:
    """Probability that the direction of a photon from (lon, lat) is reconstructed in the selected region.

    The integrand over the point spread function is the fraction of a circle about the source inside offset_max (closed
    form) times the mean of the spline of `excluded` sky on it. Differentiable in the position.
    """
    offset = observation.offset(lon, lat)
    offsets = jnp.full(energy.shape, offset)
    # u^2 puts more quadrature nodes in the far tail, where a circle first leaves the region
    probability = 1.0 - (0.5 * (1.0 - NODES)) ** 2
    weight = 0.5 * WEIGHTS * (1.0 - NODES)
    shape = (energy.size, NODES.size)
    rad = observation.response.psf.quantile(
        jnp.broadcast_to(energy[:, None], shape),
        jnp.broadcast_to(offsets[:, None], shape),
        jnp.broadcast_to(jnp.asarray(probability, offsets.dtype), shape),
    )
    fraction = _circle_inside(offset, rad, observation.offset_max)
    if observation.exclusion is not None:
        assert excluded is not None
        circle = displace(lon, lat, rad[..., None], jnp.asarray(ANGLES))
        index, tap = spline_taps(observation.exclusion.grid, *circle)
        fraction = fraction * (1.0 - (excluded.ravel()[index] * tap).sum(-1).mean(-1))
    return fraction @ jnp.asarray(weight, rad.dtype)


def _circle_inside(offset, rad, offset_max):
    """Fraction within `offset_max` of a circle of radius `rad` at `offset` from the pointing (all deg)."""
    r, o, big = DEGREE * rad, DEGREE * offset, DEGREE * offset_max
    sines = jnp.sin(o) * jnp.sin(r)
    cosine = (jnp.cos(big) - jnp.cos(o) * jnp.cos(r)) / jnp.maximum(sines, 1e-12)
    crossing = jnp.abs(cosine) < 1.0
    angle = jnp.arccos(jnp.where(crossing, cosine, 0.0)) / jnp.pi
    return jnp.where(crossing, angle, jnp.where(cosine <= -1.0, 1.0, 0.0))


def field_probability(
    observation: Observation, energy: Float[np.ndarray, " energy"], step: float = 0.03
) -> tuple[Grid, Float[np.ndarray, "energy y x"]]:
    """Like [`point_probability`][], for every pixel of a grid about the pointing: the selection folded with the PSF."""
    psf = observation.response.psf
    probe = np.full(energy.shape, 0.5 * observation.offset_max)
    margin = float(np.asarray(psf_radius(psf, jnp.asarray(energy), jnp.asarray(probe))).max())
    field = float(observation.offset_max) + 1.2 * margin
    grid = Grid(observation.lon, observation.lat, step, field)
    selected = rfft2(np.asarray(selected_fractions(observation, grid), np.float64))
    offset = observation.offset(*grid.directions())
    nodes = offset_nodes(0.0, field, 0.5)
    weight = np.asarray(hats(offset, jnp.asarray(nodes)))
    result = np.zeros((energy.size, grid.size, grid.size))
    for m, node in enumerate(nodes):
        transform = psf_transform(psf, energy, float(node), grid.step, grid.size)
        for e in range(energy.size):
            result[e] += weight[..., m] * irfft2(selected * transform[e], s=(grid.size, grid.size), workers=-1)
    return grid, np.clip(result, 0.0, 1.0)


def _smooth(means: Float[np.ndarray, "*batch y x"]) -> Float[Array, "*batch y x"]:
    """Coefficients of the cubic spline with these means over the pixels: of a function without edges."""
    return jnp.asarray(np.swapaxes(spline_means(np.swapaxes(spline_means(means), -1, -2)), -1, -2))


def _raster(values: Float[np.ndarray, "y x"]) -> Float[Array, "y x"]:
    """Coefficients of the cubic spline with the second moments of square pixels, so that edges stay where they are.

    In units of a pixel a cubic B-spline has a variance of 1/3, a square of 1/12.
    """
    for axis in (0, 1):
        values = convolve1d(values, [-1.0 / 8.0, 5.0 / 4.0, -1.0 / 8.0], axis, mode="nearest")
    return jnp.asarray(values)
