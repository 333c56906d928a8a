"""Fold engine: free positions, extensions and shapes, at a cost that hardly grows with the number of events.

The source at its current parameters is folded with the point spread functions of all runs inside the likelihood, and
its expectation is summed over true energies before the events. Round sources are folded by
[`gammajax.engines.hankel`][], others by [`gammajax.engines.images`][].
"""

import equinox as eqx
import jax.numpy as jnp

from gammajax.common.parameters import is_concrete
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.engine import Engine, Expected
from gammajax.engines.radial import FreeSource, groups
from gammajax.engines.rows import Rows
from gammajax.model.mixture import Source


class FoldEngine(Engine):
    """A source with a free morphology."""

    nodes: EnergyNodes
    sources: tuple[FreeSource, ...]  # the same source, in different runs

    @classmethod
    def init(cls, source: Source, observations, rows: Rows, variants=()) -> "FoldEngine":
        """Tabulate responses for the source and all its `variants`; eager.

        Raises `ValueError` for a morphology that changes with energy in more than the size of a round shape, and for a
        response that is traced.
        """
        del observations
        rows = rows.changed(source, variants)
        changes, free = [], ()
        if source.response is not None:
            all_changes = [source.response, *(v.response for v in variants if v.response is not None)]
            if not is_concrete(all_changes):
                raise ValueError(
                    "the fold engine tabulates a free response over the range of its priors: use it in a "
                    "gammajax.Posterior"
                )
            free = source.response.free(all_changes)
            changes = [change.only(free) for change in all_changes] if free else []
        morphologies = [source.morphology, *(variant.morphology for variant in variants)]
        if any(morphology.is_energy_dependent and not morphology.is_round for morphology in morphologies):
            raise ValueError(
                "the fold engine takes a morphology that changes with energy only if it is round and keeps its "
                "position; use engine='direct', engine='kernel' if no parameter of it is free, or morphology.at(energy)"
            )
        served = groups(morphologies, rows.runs)
        return cls(rows.nodes, tuple(FreeSource.init(morphologies, rows, some, changes, free) for some in served))

    @eqx.filter_jit
    def __call__(self, source: Source) -> Expected:
        """Intensities and counts; the counts are one term."""
        morphology, flux = source.morphology, self.nodes.flux(source.spectrum)
        each = [part(morphology, flux, source.response) for part in self.sources]
        served = jnp.concatenate([part.served for part in self.sources])
        counts = jnp.concatenate([part.counts for part in each])
        intensity = jnp.stack([part.intensity for part in each]).sum(0)
        return Expected(intensity, jnp.zeros_like(counts).at[served].set(counts))
