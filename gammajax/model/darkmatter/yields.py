"""Photon yields: spectra of the photons from one annihilation, by channel and energy scale.

The embedded tables are PPPC4DMID with electroweak corrections (Cirelli et al. 2011, arXiv:1012.4515; Ciafaloni
et al. 2011, arXiv:1009.0224), in `gammajax/data` with their licence. [`gammajax.io.read_yields`][] reads others.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.display import block, described, document, extent, length, listed, words

INVISIBLE = "invisible"  # the channel that gives no photons


@dataclass(frozen=True, eq=False)
class Yields:
    """Tables of dN/dlog10(x) per annihilation, x = E / mass, indexed [mass, log10_x, channel].

    `mass` [TeV] and `log10_x` increase; `log10_x` is at most 0. For decays, `mass` is half the mass of the particle.
    Raises `ValueError` for axes that do not increase and for values that are negative, not finite or of another shape.
    """

    mass: Float[np.ndarray, " mass"]
    log10_x: Float[np.ndarray, " x"]
    channels: tuple[str, ...]
    values: Float[np.ndarray, "mass x channel"]

    @words
    def __repr__(self) -> str:
        """Masses and channels."""
        return block(
            f"Yields of {length(self.mass)} masses of {extent(self.mass, 'TeV')}, log10 x {extent(self.log10_x)}",
            f"channels {listed(self.channels)}",
        )

    def __post_init__(self):
        for name, nodes in (("masses", self.mass), ("values of log10 x", self.log10_x)):
            if nodes.size < 2 or not np.all(np.isfinite(nodes)) or np.any(np.diff(nodes) <= 0):
                raise ValueError(f"the {name} of a table of photon yields must be finite and increasing, at least two")
        if self.mass[0] <= 0 or self.log10_x[-1] > 1e-9:
            raise ValueError("a table of photon yields needs positive masses and x = E / mass of at most one")
        shape = (self.mass.size, self.log10_x.size, len(self.channels))
        if self.values.shape != shape:
            raise ValueError(f"photon yields must have shape (mass, x, channel) = {shape}, not {self.values.shape}")
        if not np.all(np.isfinite(self.values)) or np.any(self.values < 0):
            raise ValueError("photon yields must be finite and not negative")


class YieldTable(eqx.Module):
    """Photons per annihilation, as density in u = log10 x and as number above u, x = E / mass, for a grid of masses.

    `density` is dN/du at the nodes and linear between them; `above` is its exact integral from u to 0. The last
    index of both holds value and slope in ln mass, for a cubic Hermite interpolation that is smooth across nodes.
    Both are constant beyond the first and last mass.
    """

    log_mass: Float[np.ndarray, " mass"]
    log10_x: Float[np.ndarray, " x"]
    density: Float[np.ndarray, "mass x 2"]
    above: Float[np.ndarray, "mass x 2"]
    __repr__, __pdoc__ = described, document

    def rows(self, log_mass) -> tuple[Float[Array, " x"], Float[Array, " x"]]:
        """`density` and `above` at one mass."""
        nodes, densities, integrals = map(on_device, (self.log_mass, self.density, self.above))
        log_mass = jnp.clip(log_mass, nodes[0], nodes[-1])
        i = jnp.clip(jnp.searchsorted(nodes, log_mass, side="right") - 1, 0, nodes.size - 2)
        width = nodes[i + 1] - nodes[i]
        t = (log_mass - nodes[i]) / width
        lower = jnp.stack([(1.0 + 2.0 * t) * (1.0 - t) ** 2, t * (1.0 - t) ** 2 * width])
        upper = jnp.stack([t**2 * (3.0 - 2.0 * t), t**2 * (t - 1.0) * width])
        return densities[i] @ lower + densities[i + 1] @ upper, integrals[i] @ lower + integrals[i + 1] @ upper

    def evaluate(self, log_mass, u) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """dN/du and N(>u) per annihilation at log10 x = u."""
        return look_up(on_device(self.log10_x), *self.rows(log_mass), u)


def look_up(x, density, above, u) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """dN/du and N(>u) at log10 x = u from their rows at nodes `x`."""
    inside = jnp.clip(u, x[0], x[-1])
    n = jnp.clip(jnp.searchsorted(x, inside, side="right") - 1, 0, x.size - 2)
    step = x[n + 1] - x[n]
    # relative to the upper node: small differences near x = 1 keep their precision
    back = x[n + 1] - inside
    slope = (density[n] - density[n + 1]) / step
    value = jnp.where((u >= x[0]) & (u <= x[-1]), density[n + 1] + slope * back, 0.0)
    return value, above[n + 1] + (density[n + 1] + 0.5 * slope * back) * back


def on_device(array) -> Float[Array, "..."]:
    """Device copy of a host array: closed over by jit, a host array keeps the precision of its first use."""
    return jnp.asarray(np.array(array, jnp.result_type(float)))


@lru_cache(maxsize=1)
def embedded() -> Yields:
    """The yields of PPPC4DMID with electroweak corrections."""
    with (
        resources.as_file(resources.files("gammajax") / "data" / "pppc4dmid_gammas.npz") as path,
        np.load(path) as table,
    ):
        codes = table["dn_dlog10x"]
        values = np.where(codes == 0, 0.0, np.exp(table["log_offset"] + table["log_step"] * codes))
        names = tuple(str(name) for name in table["channels"])
        return Yields(table["mass"], table["log10_x"], names, values)


def channels() -> list[str]:
    """Names of the annihilation channels of PPPC4DMID."""
    return list(embedded().channels)


@lru_cache(maxsize=128)
def yield_table(channel: str, yields: Yields | None = None) -> YieldTable:
    """Photon yields of one channel above its threshold, by default from the embedded tables.

    Raises `ValueError` for an unknown channel, with a list of the channels.
    """
    table = embedded() if yields is None else yields
    if channel not in table.channels:
        raise ValueError(f"unknown annihilation channel {channel!r}; the channels are {', '.join(table.channels)}")
    density = table.values[:, :, table.channels.index(channel)]
    open_ = density.max(1) > 0
    if open_.sum() < 2:
        raise ValueError(f"the table of photon yields holds fewer than two masses with photons for channel {channel!r}")
    density, log_mass = density[open_], np.log(table.mass[open_])
    steps = 0.5 * np.diff(table.log10_x) * (density[:, 1:] + density[:, :-1])
    above = np.concatenate([np.cumsum(steps[:, ::-1], 1)[:, ::-1], np.zeros((density.shape[0], 1))], 1)
    with_slopes = [np.stack([rows, np.gradient(rows, log_mass, axis=0)], -1) for rows in (density, above)]
    return YieldTable(log_mass, table.log10_x, *with_slopes)
