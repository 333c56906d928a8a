"""Fixed engine: a component without free parameters, one number per row."""

from collections.abc import Iterable, Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from gammajax.engines.background import BackgroundEngine
from gammajax.engines.engine import Engine
from gammajax.engines.kernel import KernelEngine, evaluate, folded
from gammajax.engines.rows import Rows
from gammajax.mixture import InstrumentBackground, Source


class FixedEngine(Engine):
    """Intensities of the component of `init`, and an engine for its expected counts.

    `intensity` ignores its argument: it always returns the intensities of the component of `init`.
    """

    engine: Engine
    values: Float[Array, " row"]

    @classmethod
    def init(cls, source: Source | InstrumentBackground, observations, rows: Rows, variants=()) -> "FixedEngine":
        """Evaluate the component; eager."""
        if isinstance(source, Source):
            return cls.of([source], folded(source.morphology, observations, rows.nodes), rows)[0]
        whole = BackgroundEngine.init(source, observations, rows)
        empty = jnp.zeros(0)
        of_rows = (empty, empty, jnp.zeros(0, int))
        engine = eqx.tree_at(lambda e: (e.rate, e.energy_row, e.observation), whole, of_rows)
        return cls(engine, _intensity(whole, source).astype(rows.dtype))

    @classmethod
    def of(cls, sources: Sequence[Source], responses: Iterable, rows: Rows) -> list["FixedEngine"]:
        """Evaluate sources with one morphology from its folded responses, one per observation."""
        fluxes = jnp.stack([rows.nodes.flux(source.spectrum) for source in sources])
        values, exposure = evaluate(responses, rows, fluxes)
        empty = jnp.zeros((0, rows.band, rows.block), rows.dtype)
        engine = KernelEngine(rows.nodes, empty, jnp.asarray(rows.start[:0]), exposure)
        return [cls(engine, values[:, i].reshape(-1)) for i in range(len(sources))]

    @classmethod
    def of_kernel(cls, kernel: KernelEngine, source: Source) -> "FixedEngine":
        """Evaluate a source with the kernel of another source with the same morphology."""
        empty = jnp.zeros((0, *kernel.kernel.shape[1:]), kernel.kernel.dtype), jnp.zeros(0, kernel.start.dtype)
        engine = eqx.tree_at(lambda e: (e.kernel, e.start), kernel, empty)
        return cls(engine, _intensity(kernel, source).astype(kernel.kernel.dtype))

    def intensity(self, source: Source | InstrumentBackground) -> Float[Array, " row"]:
        """Intensity [TeV^-1 sr^-1] of every row."""
        return self.values

    def expected_counts(self, source: Source | InstrumentBackground) -> Float[Array, " observation"]:
        """Expected counts in the selection of every observation."""
        return self.engine.expected_counts(source)

    def counts_between(
        self, reference: Source | InstrumentBackground, source: Source | InstrumentBackground
    ) -> Float[Array, " observation"]:
        """Zero: the component never changes."""
        return jnp.zeros_like(self.engine.expected_counts(source))


@eqx.filter_jit
def _intensity(engine, source):
    return engine.intensity(source)
