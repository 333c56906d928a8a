"""Response reduced to a region of the sky: effective area and energy dispersion of a source at its centre."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gammajax.common.display import block, document, text, words
from gammajax.instrument.psf import PSF, psf_containment
from gammajax.instrument.response import EnergyDispersion
from gammajax.instrument.table import Axis, Table, covered

PER_DECADE = 100  # energies of the table of containment, which is smooth


class RegionResponse(eqx.Module):
    """Effective area after the cut on direction and energy dispersion, of a source at the centre of a region.

    - `effective_area` [cm^2] and `energy_dispersion`: tables at one offset.
    - `containment`: part of the point spread function in the region, over ln energy; None for point-like responses,
      whose area is that of events within their own cut.

    >>> import gammajax as gj
    >>> full = gj.io.ctao(pointing=(0.0, 0.0), livetime=3600.0).response
    >>> region = gj.RegionResponse.at(full.effective_area, full.energy_dispersion, full.psf, offset=0.5, radius=0.1)
    >>> bool(region.area(1.0, 0.5) < full.area(1.0, 0.5))
    True
    """

    effective_area: Table
    energy_dispersion: EnergyDispersion
    containment: Table | None = None
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Kind, and what the tables cover."""
        return block(
            f"RegionResponse, {'point-like' if self.containment is None else 'with containment'}",
            f"effective area: {covered(self.effective_area)}",
            text(self.energy_dispersion),
        )

    @classmethod
    def at(
        cls, effective_area: Table, energy_dispersion: EnergyDispersion, psf: PSF | None, offset: float, radius: float
    ) -> "RegionResponse":
        """Reduce tables over (ln energy, offset, ...) to a circle of this `radius` [deg] at this `offset` [deg].

        Without `psf` the response is point-like. The area is zero at offsets beyond its table.
        """
        inside = bool(effective_area.axes[1].inside(jnp.asarray(offset)))
        area = _at_offset(effective_area, offset)
        area = area if inside else Table(area.axes, jnp.zeros_like(area.values))
        tables = energy_dispersion.profile, energy_dispersion.cumulative
        reduced = eqx.tree_at(
            lambda d: (d.profile, d.cumulative), energy_dispersion, tuple(_at_offset(table, offset) for table in tables)
        )
        if psf is None:
            return cls(area, reduced)
        axis = effective_area.axes[0]
        nodes = np.linspace(axis.lower, axis.upper, max(int((axis.upper - axis.lower) / np.log(10) * PER_DECADE), 2))
        part = psf_containment(psf, jnp.exp(nodes), jnp.full(nodes.shape, offset), jnp.full(nodes.shape, radius))
        return cls(area, reduced, Table((Axis(nodes),), part))

    @property
    def offset(self) -> Float[Array, ""]:
        """The offset of the tables [deg]."""
        return self.effective_area.axes[1].nodes[0]

    def area(self, energy_true, offset) -> Float[Array, "..."]:
        """Effective area [cm^2] times containment at true energies [TeV], zero outside its table; of one offset."""
        log_energy = jnp.log(energy_true)
        area = jnp.maximum(self.effective_area(log_energy, offset, outside=None), 0.0)
        area = jnp.where(self.effective_area.axes[0].inside(log_energy), area, 0.0)
        return area if self.containment is None else area * self.containment(log_energy, outside=None)


def _at_offset(table: Table, offset: float) -> Table:
    """Table over (ln energy, offset, ...) at one offset: multilinear tables stay exact."""
    energy, offsets, *others = table.axes
    index, fraction = offsets.locate(jnp.asarray(offset))
    low = table.values[:, index]
    high = table.values[:, min(int(index) + 1, offsets.nodes.size - 1)]
    return Table((energy, Axis([offset]), *others), (low + fraction * (high - low))[:, None])
