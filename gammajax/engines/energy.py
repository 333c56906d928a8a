"""True-energy nodes: the vector of fluxes that a kernel multiplies.

The response is sampled at few nodes, spaced by about the energy resolution, but the spectrum may have edges and lines.
So the spectrum is integrated exactly over sub-bins between the nodes, and each sub-bin's photons are shared among
the four nearest nodes with cubic Lagrange weights, the transpose of an interpolation of the response to the sub-bin.
Weights add up to one: photons are conserved, and the result is differentiable in edge energies.

Tabulated dispersions vary from one bin of migra to the next, on a scale much finer than the nodes. A response therefore
enters by its least-squares projection from the sub-bins (`project`), not by its values at the nodes: the sum over
nodes then equals the sum over sub-bins for every spectrum that is smooth between nodes.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.display import block, document, extent, length, words
from gammajax.model.spectra import Spectrum, energy_edges

SUB_BINS = 16


def lagrange(x: float, order: int) -> Float[np.ndarray, " node"]:
    """Weights at `x` of the Lagrange interpolation between the nodes 0, 1 ... `order` - 1."""
    nodes = range(order)
    return np.array([np.prod([(x - other) / (node - other) for other in nodes if other != node]) for node in nodes])


class EnergyNodes(eqx.Module):
    """Logarithmic nodes of true energy [TeV], and the matrices between them and their sub-bins."""

    energy: Float[Array, " energy"]
    edges: Float[Array, " edge"]
    sub_energy: Float[Array, " bin"]
    share: Float[Array, "energy bin"]
    project: Float[Array, "energy bin"]
    log_step: float = eqx.field(static=True)
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Number of nodes and their range."""
        return block(f"EnergyNodes: {length(self.energy)} of {extent(self.energy, 'TeV')}")

    def __init__(self, energy_min: float, energy_max: float, per_decade: float):
        energy = energy_edges(energy_min, energy_max, per_decade)
        count = max(energy.size, 4)
        energy = energy_min * 10.0 ** (np.arange(count) / per_decade)
        edges = energy_min * 10.0 ** (np.arange((count - 1) * SUB_BINS + 1) / (SUB_BINS * per_decade))
        share = np.zeros((count, edges.size - 1))
        for interval in range(count - 1):
            first = min(max(interval - 1, 0), count - 4)
            for sub in range(SUB_BINS):
                x = interval + (sub + 0.5) / SUB_BINS - first
                share[first : first + 4, interval * SUB_BINS + sub] = lagrange(x, 4)
        self.energy, self.edges, self.share = jnp.asarray(energy), jnp.asarray(edges), jnp.asarray(share)
        self.sub_energy = jnp.asarray(np.sqrt(edges[1:] * edges[:-1]))
        self.project = jnp.asarray(np.linalg.solve(share @ share.T, share))
        self.log_step = float(np.log(10.0) / per_decade)

    def flux(self, spectrum: Spectrum, factor: Float[Array, "*run bin"] | None = None) -> Float[Array, "*run energy"]:
        """Flux [cm^-2 s^-1] at the nodes; its sum is the integral of the spectrum over the nodes' range.

        A `factor` at the `sub_energy`, such as one on the effective area, multiplies the spectrum.
        """
        photons = spectrum.integral(self.edges)
        return self.share @ photons if factor is None else (factor * photons) @ self.share.T
