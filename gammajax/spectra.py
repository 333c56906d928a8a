"""Spectra: differential photon flux and its integral over energy bins.

A spectrum has two methods: `spectrum(energy)` is the differential flux [TeV^-1 cm^-2 s^-1] and
`spectrum.integral(edges)` the flux [cm^-2 s^-1] in the bins between increasing `edges` [TeV]. The likelihood
uses integrals only, so that edges and lines conserve photons. Adding a spectrum means one such class.
"""

import abc
import math
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

if TYPE_CHECKING:  # type checkers do not know that fields convert plain numbers
    Scalar = Any
else:
    Scalar = Float[Array | np.ndarray, ""]

NODES, WEIGHTS = (array.tolist() for array in np.polynomial.legendre.leggauss(12))


def scalar(value) -> Scalar:
    """A floating scalar leaf. Plain numbers stay on the host, so that inside jit they can still be looked at."""
    if isinstance(value, jax.Array):
        return value.astype(jnp.result_type(float))
    return np.asarray(value, dtype=jnp.result_type(float))


def parameter() -> Any:
    """Field of a module that holds one scalar parameter."""
    return eqx.field(converter=scalar)


class Spectrum(eqx.Module):
    """Interface of all spectra."""

    @abc.abstractmethod
    def __call__(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Differential flux [TeV^-1 cm^-2 s^-1] at true `energy` [TeV]."""

    @abc.abstractmethod
    def integral(self, edges: Float[Array, " edge"]) -> Float[Array, " energy"]:
        """Flux [cm^-2 s^-1] between neighbouring `edges` [TeV]."""


class PowerLaw(Spectrum):
    """dN/dE = amplitude (E / reference)^-index.

    `amplitude` [TeV^-1 cm^-2 s^-1], `reference` [TeV]. The bin integral is exact, through index = 1.
    """

    index: Scalar = parameter()
    amplitude: Scalar = eqx.field(converter=scalar, default=1e-12)
    reference: Scalar = eqx.field(converter=scalar, default=1.0)

    def __call__(self, energy):
        return self.amplitude * jnp.exp(-self.index * jnp.log(energy / self.reference))

    def integral(self, edges):
        log_edges = jnp.log(edges / self.reference)
        width = jnp.diff(log_edges)
        slope = 1.0 - self.index
        return (
            self.amplitude * self.reference * jnp.exp(slope * log_edges[:-1]) * width * _mean_exponential(slope * width)
        )


class LogParabola(Spectrum):
    """dN/dE = amplitude (E / reference)^-(alpha + beta ln(E / reference)).

    `amplitude` [TeV^-1 cm^-2 s^-1], `reference` [TeV].
    """

    alpha: Scalar = parameter()
    beta: Scalar = parameter()
    amplitude: Scalar = eqx.field(converter=scalar, default=1e-12)
    reference: Scalar = eqx.field(converter=scalar, default=1.0)

    def __call__(self, energy):
        x = jnp.log(energy / self.reference)
        return self.amplitude * jnp.exp(-(self.alpha + self.beta * x) * x)

    def integral(self, edges):
        return _gauss_legendre(self, edges)


class ExponentialCutoffPowerLaw(Spectrum):
    """dN/dE = amplitude (E / reference)^-index exp(-lambda E).

    `amplitude` [TeV^-1 cm^-2 s^-1], `reference` [TeV], `lambda_` [TeV^-1] the inverse cut-off energy.
    """

    index: Scalar = parameter()
    lambda_: Scalar = parameter()
    amplitude: Scalar = eqx.field(converter=scalar, default=1e-12)
    reference: Scalar = eqx.field(converter=scalar, default=1.0)

    def __call__(self, energy):
        return self.amplitude * jnp.exp(-self.index * jnp.log(energy / self.reference) - self.lambda_ * energy)

    def integral(self, edges):
        return _gauss_legendre(self, edges)


class TabulatedSpectrum(Spectrum):
    """Table of differential fluxes, a power law between nodes and zero outside them, times `norm`.

    `energy` [TeV] increasing, `flux` [TeV^-1 cm^-2 s^-1] positive. The bin integral is exact.
    Raises `ValueError` for a table that is not increasing or not positive.
    """

    energy: Float[Array, " node"]
    flux: Float[Array, " node"]
    norm: Scalar = eqx.field(converter=scalar, default=1.0)

    def __init__(self, energy, flux, norm=1.0):
        energy, flux = np.asarray(energy, float), np.asarray(flux, float)
        if energy.ndim != 1 or energy.size < 2 or energy.shape != flux.shape:
            raise ValueError("a tabulated spectrum needs equally many energies and fluxes, at least two")
        if not (np.all(np.isfinite(energy)) and energy[0] > 0 and np.all(np.diff(energy) > 0)):
            raise ValueError("the energies of a tabulated spectrum must be positive, finite and increasing")
        if not (np.all(np.isfinite(flux)) and np.all(flux > 0)):
            raise ValueError("the fluxes of a tabulated spectrum must be positive and finite")
        self.energy, self.flux, self.norm = jnp.asarray(energy), jnp.asarray(flux), scalar(norm)

    def __call__(self, energy):
        inside = (energy >= self.energy[0]) & (energy <= self.energy[-1])
        log_flux = jnp.interp(jnp.log(energy), jnp.log(self.energy), jnp.log(self.flux))
        return self.norm * jnp.where(inside, jnp.exp(log_flux), 0.0)

    def integral(self, edges):
        log_nodes = jnp.log(self.energy)
        log_power = jnp.log(self.flux) + log_nodes  # ln(E dN/dE)
        width = jnp.diff(log_nodes)
        slope = jnp.diff(log_power) / width
        segments = jnp.exp(log_power[:-1]) * width * _mean_exponential(slope * width)
        cumulative = jnp.concatenate([jnp.zeros(1), jnp.cumsum(segments)])
        x = jnp.clip(jnp.log(edges), log_nodes[0], log_nodes[-1])
        i = jnp.clip(jnp.searchsorted(log_nodes, x, side="right") - 1, 0, width.size - 1)
        step = x - log_nodes[i]
        below = cumulative[i] + jnp.exp(log_power[i]) * step * _mean_exponential(slope[i] * step)
        return self.norm * jnp.diff(below)


def _mean_exponential(z):
    """(exp(z) - 1) / z, smooth through zero."""
    small = jnp.abs(z) < 1e-3
    safe = jnp.where(small, 1.0, z)
    return jnp.where(small, 1.0 + z / 2.0 + z**2 / 6.0 + z**3 / 24.0, jnp.expm1(safe) / safe)


def _gauss_legendre(spectrum, edges):
    """Integral over each bin by 12-point Gauss-Legendre quadrature in ln E.

    For a cut-off power law the relative error is below 1e-10 in bins up to a factor of 2 wide around the cut-off.
    """
    log_edges = jnp.log(edges)
    half, middle = 0.5 * jnp.diff(log_edges), 0.5 * (log_edges[1:] + log_edges[:-1])
    energy = jnp.exp(middle[:, None] + half[:, None] * jnp.asarray(NODES))
    return half * (spectrum(energy) * energy * jnp.asarray(WEIGHTS)).sum(-1)


def energy_edges(energy_min: float, energy_max: float, per_decade: float) -> np.ndarray:
    """Logarithmic bin edges [TeV] from `energy_min` to at least `energy_max`."""
    bins = max(1, math.ceil(per_decade * math.log10(energy_max / energy_min) - 1e-9))
    return energy_min * 10.0 ** (np.arange(bins + 1) / per_decade)
