"""Fold engine: free positions, extensions and shapes, at a cost that hardly grows with the number of events.

The source at its current parameters is folded with the point spread functions of all runs inside the likelihood, and
its expectation is summed over true energies before the events. Round sources are folded by
[`gammajax.engines.hankel`][], others by [`gammajax.engines.images`][].
"""

import equinox as eqx

from gammajax.engines.energy import EnergyNodes
from gammajax.engines.engine import Engine, Expected
from gammajax.engines.radial import FreeSource
from gammajax.engines.rows import Rows
from gammajax.model.mixture import Source


class FoldEngine(Engine):
    """A source with a free morphology."""

    nodes: EnergyNodes
    source: FreeSource

    @classmethod
    def init(cls, source: Source, observations, rows: Rows, variants=()) -> "FoldEngine":
        """Tabulate responses for the source and all its `variants`; eager.

        Raises `ValueError` for a morphology that changes with energy.
        """
        del observations
        morphologies = [source.morphology, *(variant.morphology for variant in variants)]
        if any(morphology.is_energy_dependent for morphology in morphologies):
            raise ValueError(
                "the fold engine needs a morphology that does not change with energy; use engine='kernel', or "
                "morphology.at(energy)"
            )
        return cls(rows.nodes, FreeSource.init(morphologies, rows))

    @eqx.filter_jit
    def __call__(self, source: Source) -> Expected:
        """Intensities and counts; the counts are one term."""
        morphology, flux = source.morphology, self.nodes.flux(source.spectrum)
        folded = self.source.fold(morphology)
        counts = self.source.expected_counts(folded, morphology, flux)
        return Expected(self.source.intensity(folded, flux), counts[:, None])
