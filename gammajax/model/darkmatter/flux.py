"""Spectra of dark matter: the yields of annihilation and decay with their normalisation."""

import abc
from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.parameters import Scalar, is_concrete, parameter, require_positive, scalar
from gammajax.model.darkmatter.yields import INVISIBLE, Yields, look_up, on_device, yield_table
from gammajax.model.spectra import Spectrum

GEV_PER_TEV = 1e3
# largest fraction of a channel below its threshold in a mixture: tables of particle models have virtual W and Z bosons
BELOW_THRESHOLD = 0.01


class Emission(Spectrum):
    """Base of annihilation and decay: yields of one channel or a mixture, at one energy scale, times a rate."""

    smooth: ClassVar[bool] = False
    mass_over_energy: ClassVar[float] = 1.0  # mass of the particle over the largest energy of a photon
    channel: eqx.AbstractVar[str | tuple[str, ...]]
    ratios: eqx.AbstractVar[Float[Array | np.ndarray, " channel"] | None]
    mass: eqx.AbstractVar[Scalar]
    yields: eqx.AbstractVar[Yields | None]

    @property
    def energy_scale(self) -> Scalar:
        """Largest energy of a photon [TeV]: the mass in the tables of yields."""
        return scalar(self.mass / self.mass_over_energy)

    @property
    @abc.abstractmethod
    def rate(self) -> Scalar:
        """Rate of annihilations or decays per area and time [cm^-2 s^-1], divided by 4 pi."""

    @property
    def _shares(self) -> list:
        """Channels with photons, and their branching ratios."""
        if isinstance(self.channel, str):
            return [(self.channel, 1.0)]
        assert self.ratios is not None
        return [(name, self.ratios[n]) for n, name in enumerate(self.channel) if name != INVISIBLE]

    def __check_init__(self):
        tables = {name: yield_table(name, self.yields) for name, _ in self._shares}
        if self.ratios is not None and is_concrete(self.ratios):
            ratios = dict(zip(self.channel, np.asarray(self.ratios, float).tolist(), strict=True))
            if not min(ratios.values()) >= 0:
                raise ValueError(f"branching ratios must not be negative: {ratios}")
            if abs(sum(ratios.values()) - 1.0) > 1e-5:
                raise ValueError(f"the branching ratios add up to {sum(ratios.values()):.6g}, not to one: {ratios}")
        require_positive(self, "mass")
        if not is_concrete(self.mass):
            return
        for name, ratio in self._shares:
            if isinstance(self.channel, tuple) and is_concrete(ratio) and float(ratio) < BELOW_THRESHOLD:
                continue
            # in terms of the particle's mass: a decaying particle has twice the energy scale
            low, high = np.exp(tables[name].log_mass[[0, -1]]) * self.mass_over_energy
            if not low * (1 - 1e-6) <= float(self.mass) <= high * (1 + 1e-6):
                raise ValueError(
                    f"mass {float(self.mass):g} TeV is outside the table of channel {name!r}, {low:g} to {high:g} TeV"
                )

    def _per_event(self, u):
        """dN/du and N(>u) of the mixture."""
        log_scale, density, above, x = jnp.log(self.energy_scale), 0.0, 0.0, jnp.array([-1.0, 0.0])
        for name, ratio in self._shares:
            table = yield_table(name, self.yields)
            rows, x = table.rows(log_scale), on_device(table.log10_x)
            density, above = density + ratio * rows[0], above + ratio * rows[1]
        return look_up(x, density + jnp.zeros_like(x), above + jnp.zeros_like(x), u)

    def __call__(self, energy):
        density, _ = self._per_event(jnp.log10(energy / self.energy_scale))
        return self.rate * density / (energy * jnp.log(10.0))

    def integral(self, edges):
        _, above = self._per_event(jnp.log10(edges / self.energy_scale))
        return self.rate * -jnp.diff(above)


class DarkMatter(Emission):
    """Annihilation: dPhi/dE = sigma_v J / (8 pi mass^2) Sum_c ratio_c dN_c/dE.

    - `channel`: a name of [`gammajax.darkmatter.channels`][] ("W", "b", "tau", ...), or a dict of names and their
      branching ratios, which may be free: `{"W": 0.7, "b": 0.3}`. "invisible" gives no photons.
    - `mass` [TeV]; `sigma_v` [cm^3 s^-1].
    - `j_factor` [GeV^2 cm^-5]: integral of rho^2 over the line of sight and the whole sky, for the source's morphology.
    - `yields`: tables of dN/dE from [`gammajax.io.read_yields`][], by default those of PPPC4DMID.

    The formula holds for self-conjugate dark matter (Cirelli et al. 2011, arXiv:1012.4515, eq. 56); the flux is half
    for other dark matter.

    Raises `ValueError` for an unknown channel, branching ratios that are negative or do not add up to one, and a mass
    outside the table or below the threshold of a channel (in a mixture: a channel with more than a hundredth). There is
    no check for traced ratios or masses: below its threshold a channel keeps the spectrum in x of the threshold.

    >>> import gammajax as gj, jax.numpy as jnp
    >>> spectrum = gj.DarkMatter({"W": 0.7, "b": 0.3}, mass=2.0, sigma_v=2.2e-26, j_factor=1e23)
    >>> spectrum.integral(jnp.array([0.1, 2.0, 3.0])).shape
    (2,)
    """

    channel: str | tuple[str, ...] = eqx.field(static=True)
    ratios: Float[Array | np.ndarray, " channel"] | None
    mass: Scalar = parameter("TeV")
    sigma_v: Scalar = parameter("cm^3 s^-1")
    j_factor: Scalar = parameter("GeV^2 cm^-5")
    yields: Yields | None = eqx.field(static=True, default=None)

    def __init__(self, channel, mass, sigma_v=2.2e-26, j_factor=1e23, yields=None):
        self.channel, self.ratios = _mixture(channel)
        self.mass, self.sigma_v, self.j_factor = scalar(mass), scalar(sigma_v), scalar(j_factor)
        self.yields = yields

    @property
    def rate(self):
        # sigma_v J first: each factor alone is near the limits of single precision
        return (self.sigma_v * self.j_factor) / (8.0 * jnp.pi * (self.mass * GEV_PER_TEV) ** 2)


class DarkMatterDecay(Emission):
    """Decay: dPhi/dE = decay_rate D / (4 pi mass) Sum_c ratio_c dN_c/dE, with dN/dE of two particles of mass / 2.

    - `channel`, `mass` [TeV], `yields`: as in [`gammajax.DarkMatter`][]; photons end at half the mass.
    - `decay_rate` [s^-1], the inverse of the lifetime.
    - `d_factor` [GeV cm^-2]: integral of rho over the line of sight and the whole sky, for the source's morphology,
      which should be a halo with `decay=True`.

    Cirelli et al. 2011 (arXiv:1012.4515, eq. 57). Raises `ValueError` as [`gammajax.DarkMatter`][] does.

    >>> import gammajax as gj, jax.numpy as jnp
    >>> float(gj.DarkMatterDecay("b", mass=2.0)(jnp.array([1.01]))[0])
    0.0
    """

    mass_over_energy: ClassVar[float] = 2.0
    channel: str | tuple[str, ...] = eqx.field(static=True)
    ratios: Float[Array | np.ndarray, " channel"] | None
    mass: Scalar = parameter("TeV")
    decay_rate: Scalar = parameter("s^-1")
    d_factor: Scalar = parameter("GeV cm^-2")
    yields: Yields | None = eqx.field(static=True, default=None)

    def __init__(self, channel, mass, decay_rate=1e-27, d_factor=2e23, yields=None):
        self.channel, self.ratios = _mixture(channel)
        self.mass, self.decay_rate, self.d_factor = scalar(mass), scalar(decay_rate), scalar(d_factor)
        self.yields = yields

    @property
    def rate(self):
        return (self.decay_rate * self.d_factor) / (4.0 * jnp.pi * self.mass * GEV_PER_TEV)


def _mixture(channel) -> tuple[str | tuple[str, ...], Float[Array | np.ndarray, " channel"] | None]:
    """Names of the channels and their ratios, None for one channel given by its name."""
    if isinstance(channel, str):
        return channel, None
    if not isinstance(channel, Mapping) or not channel:
        raise ValueError(f"channel must be a name or a dict of names and branching ratios, it is {channel!r}")
    ratios = [scalar(value) for value in channel.values()]
    # plain numbers stay on the host, so that their values are known inside jit
    return tuple(channel), (np if all(isinstance(r, np.ndarray) for r in ratios) else jnp).stack(ratios)
