"""Dark-matter annihilation: photon spectra per annihilation and their normalisation.

Spectra are those of PPPC4DMID with electroweak corrections (Cirelli et al. 2011, arXiv:1012.4515; Ciafaloni et al.
2011, arXiv:1009.0224), embedded in `gammajax/data` with their licence.
"""

from functools import lru_cache
from importlib import resources
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.spectra import Scalar, Spectrum, is_concrete, parameter, scalar

GEV_PER_TEV = 1e3


class YieldTable(eqx.Module):
    """Photons per annihilation and log10 x above log10 x = u, x = E / mass, for a grid of masses.

    `density` is dN/du at the nodes and linear between them; `above` is its exact integral from u to 0. The last
    index of both holds value and slope in ln mass, for a cubic Hermite interpolation that is smooth across nodes.
    """

    log_mass: Float[np.ndarray, " mass"]
    log10_x: Float[np.ndarray, " x"]
    density: Float[np.ndarray, "mass x 2"]
    above: Float[np.ndarray, "mass x 2"]

    def evaluate(self, log_mass, u) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """dN/du and N(>u) per annihilation at log10 x = u."""
        # copies: jax gives a host array that jit closes over the precision of its first use in the process
        nodes, x, densities, integrals = (
            jnp.asarray(np.array(array, jnp.result_type(float)))
            for array in (self.log_mass, self.log10_x, self.density, self.above)
        )
        i = jnp.clip(jnp.searchsorted(nodes, log_mass, side="right") - 1, 0, nodes.size - 2)
        width = nodes[i + 1] - nodes[i]
        t = (log_mass - nodes[i]) / width
        lower = jnp.stack([(1.0 + 2.0 * t) * (1.0 - t) ** 2, t * (1.0 - t) ** 2 * width])
        upper = jnp.stack([t**2 * (3.0 - 2.0 * t), t**2 * (t - 1.0) * width])
        density = densities[i] @ lower + densities[i + 1] @ upper
        above = integrals[i] @ lower + integrals[i + 1] @ upper
        inside = jnp.clip(u, x[0], x[-1])
        n = jnp.clip(jnp.searchsorted(x, inside, side="right") - 1, 0, x.size - 2)
        step = x[n + 1] - x[n]
        # measured from the upper node: small differences near x = 1 keep their precision
        back = x[n + 1] - inside
        slope = (density[n] - density[n + 1]) / step
        value = jnp.where((u >= x[0]) & (u <= x[-1]), density[n + 1] + slope * back, 0.0)
        return value, above[n + 1] + (density[n + 1] + 0.5 * slope * back) * back


@lru_cache(maxsize=1)
def _embedded():
    with (
        resources.as_file(resources.files("gammajax") / "data" / "pppc4dmid_gammas.npz") as path,
        np.load(path) as table,
    ):
        codes = table["dn_dlog10x"]
        values = np.where(codes == 0, 0.0, np.exp(table["log_offset"] + table["log_step"] * codes))
        return table["mass"], table["log10_x"], [str(name) for name in table["channels"]], values


def channels() -> list[str]:
    """Names of the annihilation channels of PPPC4DMID."""
    return list(_embedded()[2])


@lru_cache(maxsize=64)
def yield_table(channel: str) -> YieldTable:
    """Photon yields of one channel above its threshold; `ValueError` lists the channels for an unknown one."""
    mass, log10_x, names, values = _embedded()
    if channel not in names:
        raise ValueError(f"unknown annihilation channel {channel!r}; the channels are {', '.join(names)}")
    density = values[:, :, names.index(channel)]
    open_ = density.max(1) > 0
    density, log_mass = density[open_], np.log(mass[open_])
    steps = 0.5 * np.diff(log10_x) * (density[:, 1:] + density[:, :-1])
    above = np.concatenate([np.cumsum(steps[:, ::-1], 1)[:, ::-1], np.zeros((density.shape[0], 1))], 1)
    with_slopes = [np.stack([rows, np.gradient(rows, log_mass, axis=0)], -1) for rows in (density, above)]
    return YieldTable(log_mass, log10_x, *with_slopes)


class DarkMatter(Spectrum):
    """Annihilation into one channel: dPhi/dE = sigma_v J / (8 pi mass^2) dN/dE.

    - `channel`: a name of [`gammajax.darkmatter.channels`][], such as "W", "b" or "tau".
    - `mass` [TeV]; `sigma_v` [cm^3 s^-1].
    - `j_factor` [GeV^2 cm^-5]: integral of rho^2 over line of sight and the whole sky of the morphology beside it.

    For self-conjugate dark matter (Cirelli et al. 2011, eq. 56). Raises `ValueError` for an unknown channel and for a
    mass outside the table or below the channel's threshold.
    """

    smooth: ClassVar[bool] = False
    channel: str = eqx.field(static=True)
    mass: Scalar = parameter()
    sigma_v: Scalar = eqx.field(converter=scalar, default=2.2e-26)
    j_factor: Scalar = eqx.field(converter=scalar, default=1e23)

    def __check_init__(self):
        table = yield_table(self.channel)
        if is_concrete(self.mass):
            low, high = np.exp(table.log_mass[[0, -1]])
            if not low * (1 - 1e-6) <= float(self.mass) <= high * (1 + 1e-6):
                raise ValueError(
                    f"mass {float(self.mass):g} TeV is outside the table of channel {self.channel!r}, "
                    f"{low:g} to {high:g} TeV"
                )

    @property
    def _annihilations(self):
        # sigma_v J first: either alone is near the limits of single precision
        return (self.sigma_v * self.j_factor) / (8.0 * jnp.pi * (self.mass * GEV_PER_TEV) ** 2)

    def __call__(self, energy):
        density, _ = yield_table(self.channel).evaluate(jnp.log(self.mass), jnp.log10(energy / self.mass))
        return self._annihilations * density / (energy * jnp.log(10.0))

    def integral(self, edges):
        u = jnp.log10(edges / self.mass)
        _, above = yield_table(self.channel).evaluate(jnp.log(self.mass), u)
        return self._annihilations * -jnp.diff(above)
