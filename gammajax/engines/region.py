"""Region: rates and counts of sources at the centres of ON regions, whose response may differ from the files.

A change of the response ([`gammajax.ResponseChange`][]) makes the area a(E) A(E), which is a factor on the flux, and
the dispersion D'(E'|E) = D(m E + (E' / (1 + z) - m E) / k | E) / (k (1 + z)) about the mean m of E'/E: other places in
the same table. The kernel of the files is kept; that of a change is looked up in every call, unless it is fixed.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.engines.detector import Detector
from gammajax.engines.energy import EnergyNodes
from gammajax.instrument.runs import Runs
from gammajax.model.mixture import Source
from gammajax.model.response_change import DISPERSION, ResponseChange, piecewise_mean

CHUNK = 2**14  # events whose kernel is made at once


class Changes(NamedTuple):
    """Energy scale z and factor k on the resolution of every run."""

    scale: Float[Array, " run"]
    resolution: Float[Array, " run"]


class Region(eqx.Module):
    """Livetime, effective area and energy dispersion of the ON regions of all runs at the nodes of true energy."""

    nodes: EnergyNodes
    livetime: Float[Array, " run"]
    response: Int[Array, " run"]
    detector: Detector
    cumulative: Float[Array, "response energy y offset"]
    mean: Float[Array, "response energy"]

    @classmethod
    def init(cls, runs: Runs, nodes: EnergyNodes) -> "Region":
        """Tabulate the responses of ON regions; eager."""
        detector = Detector.init(runs, nodes, np.zeros(1))
        density = np.asarray(detector.dispersion[..., 0], np.float64)
        mean = jnp.asarray(piecewise_mean(np.asarray(detector.y.nodes, np.float64), density))
        return cls(nodes, runs.livetime, runs.response, detector, detector.cumulative(), mean)

    def flux(self, source: Source) -> Float[Array, "*run energy"]:
        """Flux [cm^-2 s^-1] at the nodes, times the factor on the area; of each run if the factor is.

        Raises `ValueError` for fields of the response that are neither shared nor one of each run.
        """
        change = source.response
        if change is None:
            return self.nodes.flux(source.spectrum)
        change.check_observations(self.livetime.size)
        factor = jnp.asarray(change.effective_area)[..., None] * change.area_factor(self.nodes.sub_energy)
        return self.nodes.flux(source.spectrum, factor)

    def changes(self, change: ResponseChange | None) -> Changes | None:
        """Scale and resolution of every run; None for those of the files."""
        if change is None or not change.changed_fields(DISPERSION):
            return None
        change.check_observations(self.livetime.size)
        of = (change.energy_scale, change.energy_resolution)
        return Changes(*(jnp.broadcast_to(jnp.asarray(value), self.livetime.shape) for value in of))

    @eqx.filter_jit
    def kernel(self, energy: Float[Array, " row"], run: Int[Array, " row"], changes: Changes | None = None):
        """Livetime x area x dispersion [cm^2 s TeV^-1] of reconstructed energies [TeV] at the nodes, [row, energy]."""
        if energy.size == 0:
            return jnp.zeros((0, self.nodes.energy.size))
        size = min(CHUNK, energy.size)
        return jax.lax.map(
            jax.checkpoint(lambda row: self._density(row[0], row[1], changes)), (energy, run), batch_size=size
        )

    @eqx.filter_jit
    def exposure(self, limits: Float[Array, "run edge"], changes: Changes | None = None):
        """Livetime x area x probability of a reconstructed energy in each cell [cm^2 s], [run, cell, energy].

        `limits` [TeV]: edges of the cells, within the selection of each run.
        """

        def one(row):
            edges, livetime, q, of_run = row
            shift = None if of_run is None else (self.mean[q][:, None], of_run.scale, of_run.resolution)
            below = jax.vmap(lambda edge: self.detector.below(edge, self.nodes.energy, q, self.cumulative, shift))
            return livetime * self.detector.area[q, :, 0] * jnp.diff(below(edges)[..., 0], axis=0)

        return jax.lax.map(jax.checkpoint(one), (limits, self.livetime, self.response, changes))

    def counts(
        self, flux: Float[Array, "*run energy"], limits: Float[Array, "run edge"], changes: Changes | None
    ) -> Float[Array, "run cell"]:
        """Expected counts in each cell of a source with these fluxes, as `flux` returns them."""
        return (self.exposure(limits, changes) * (flux if flux.ndim == 1 else flux[:, None])).sum(-1)

    def _density(self, energy, run, changes):
        """Kernel of one energy at the nodes."""
        q, y = self.response[run], energy / self.nodes.energy
        width = self.nodes.energy
        if changes is not None:
            scale, resolution = 1.0 + changes.scale[run], changes.resolution[run]
            y = self.mean[q] + (y / scale - self.mean[q]) / resolution
            width = width * scale * resolution
        index, fraction = self.detector.y.locate(y)
        row = jnp.arange(y.size)
        low, high = (self.detector.dispersion[q, row, index + i, 0] for i in (0, 1))
        density = jnp.where(self.detector.y.inside(y), low + fraction * (high - low), 0.0)
        return self.livetime[run] * self.detector.area[q, :, 0] * density / width
