"""Detector: effective area and energy dispersion at the true-energy nodes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.energy import SUB_BINS, EnergyNodes
from gammajax.observation import Observation
from gammajax.table import Axis


class DetectorResponse(eqx.Module):
    """t A_m(E_j) D_m(E'|E_j) at offset nodes m, with D projected to the nodes and tabulated in y = E'/E_j."""

    area: Float[Array, "energy offset"]
    dispersion: Float[Array, "energy y offset"]
    y: Axis

    @classmethod
    def init(cls, observation: Observation, nodes: EnergyNodes, offsets: Float[Array, " offset"]):
        """Tabulate at the offsets [deg]."""
        migra = observation.response.energy_dispersion.profile.axes[2]
        # a quarter of the table's bins: linear interpolation then loses at most 3e-4; energy resolutions are at least
        # some percent, so bins finer than a percent contain only noise
        step = max(float(jnp.diff(migra.nodes).min()), 0.01) / 4.0
        reach = float(np.exp(2.0 * nodes.log_step))  # the projection mixes neighbouring nodes
        low, high = migra.lower / reach, migra.upper * reach
        y = np.linspace(low, high, int(np.ceil((high - low) / step)) + 1)
        return cls(*_tabulate(observation, nodes, jnp.asarray(offsets), jnp.asarray(y)), Axis(y))

    def __call__(self, energy, node, energy_true) -> Float[Array, "event band offset"]:
        """T A D [cm^2 s TeV^-1] for events at `energy` and the nodes of their bands."""
        y = energy[:, None] / energy_true
        index, fraction = self.y.locate(y)
        below, above = self.dispersion[node, index], self.dispersion[node, index + 1]
        density = below + fraction[..., None] * (above - below)
        return self.area[node] * jnp.where(self.y.inside(y)[..., None], density, 0.0) / energy_true[..., None]

    @eqx.filter_jit
    def exposure(self, observation: Observation, energy: Float[Array, " energy"]) -> Float[Array, "energy offset"]:
        """T A times the integral of D over the selected energies, from the same table as the events."""
        nodes, values = self.y.nodes, self.dispersion
        steps = 0.5 * jnp.diff(nodes)[:, None] * (values[:, 1:] + values[:, :-1])
        cumulative = jnp.pad(jnp.cumsum(steps, 1), ((0, 0), (1, 0), (0, 0)))

        def below(limit):
            y = jnp.clip(limit / energy, nodes[0], nodes[-1])
            index, _ = self.y.locate(y)
            row = jnp.arange(energy.size)
            rest = y - nodes[index]
            slope = (values[row, index + 1] - values[row, index]) / (nodes[index + 1] - nodes[index])[:, None]
            return cumulative[row, index] + rest[:, None] * (values[row, index] + 0.5 * rest[:, None] * slope)

        return self.area * (below(observation.energy_max) - below(observation.energy_min))


@eqx.filter_jit
def _tabulate(observation, nodes, offsets, y):
    shape = (nodes.energy.size, offsets.size)
    energy, offset = jnp.broadcast_to(nodes.energy[:, None], shape), jnp.broadcast_to(offsets, shape)
    area = observation.livetime * observation.response.area(energy, offset)
    reach = 8 * SUB_BINS  # the projection falls off within a few nodes
    bins = nodes.sub_energy.size

    def one_node(j):
        first = jnp.clip(j * SUB_BINS - reach, 0, max(bins - 2 * reach, 0))
        near = min(2 * reach, bins)
        sub = jax.lax.dynamic_slice(nodes.sub_energy, (first,), (near,))
        weight = jax.lax.dynamic_slice(nodes.project, (j, first), (1, near))[0]
        density = observation.response.energy_dispersion.density(
            (y * nodes.energy[j])[None, :, None], sub[:, None, None], offsets[None, None, :]
        )
        return nodes.energy[j] * jnp.tensordot(weight, density, 1)

    return area, jax.lax.map(one_node, jnp.arange(nodes.energy.size))
