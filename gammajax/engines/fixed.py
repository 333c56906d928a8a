"""Fixed engine: a component without free parameters, one number per row."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from gammajax.engines.background import BackgroundEngine
from gammajax.engines.energy import EnergyNodes
from gammajax.engines.engine import Engine, Expected
from gammajax.engines.kernel import KernelEngine, evaluate, folded
from gammajax.engines.rows import Rows
from gammajax.model.mixture import InstrumentBackground, Source


class SourceCounts(eqx.Module):
    """Function from a source with a known morphology to its expected counts by true energy.

    `exposure` [cm^2 s] by observation and node, within the selection.
    """

    nodes: EnergyNodes
    exposure: Float[Array, "observation energy"]

    def __call__(self, source: Source) -> Float[Array, "observation energy"]:
        """Expected counts; their sum over energies is the number in each selection."""
        return self.exposure * self.nodes.flux(source.spectrum)


class FixedEngine(Engine):
    """Intensities and counts of the component of `init`; a call ignores its argument.

    `counted` gives the counts of other spectra with the same morphology, or of other norms and tilts.
    """

    values: Float[Array, " row"]
    counts: Float[Array, "observation term"]
    counted: Callable[[Any], Float[Array, "observation energy"]]  # SourceCounts or BackgroundCounts

    @classmethod
    def init(cls, source: Source | InstrumentBackground, observations, rows: Rows, variants=()) -> "FixedEngine":
        """Evaluate the component; eager."""
        if isinstance(source, Source):
            rows = rows.changed(source)
            return cls.of([source], folded(source.morphology, rows.runs.observations, rows.nodes), rows)[0]
        whole = BackgroundEngine.init(source, observations, rows)
        values, counts = whole(source)
        return cls(values.astype(rows.dtype), counts, whole.counted)

    @classmethod
    def of(cls, sources: Sequence[Source], responses: Iterable, rows: Rows) -> list["FixedEngine"]:
        """Evaluate sources with one morphology from its folded responses, one per observation."""
        fluxes = jnp.stack([rows.nodes.flux(source.spectrum) for source in sources])
        values, exposure = evaluate(responses, rows, fluxes)
        counted = SourceCounts(rows.nodes, exposure)
        return [cls(values[:, i].reshape(-1), exposure * flux, counted) for i, flux in enumerate(fluxes)]

    @classmethod
    def of_kernel(cls, kernel: KernelEngine, source: Source) -> "FixedEngine":
        """Evaluate a source with the kernel of another source with the same morphology."""
        values, counts = kernel(source)
        return cls(values.astype(kernel.kernel.dtype), counts, SourceCounts(kernel.nodes, kernel.exposure))

    def __call__(self, source: Source | InstrumentBackground) -> Expected:
        """Intensities and counts of the component of `init`."""
        return Expected(self.values, self.counts)

    @eqx.filter_jit
    def expected_counts(self, source: Source | InstrumentBackground) -> Float[Array, " observation"]:
        """Expected counts in the selection of every observation, of any spectrum, norm and tilt."""
        return self.counted(source).sum(-1)
