"""Fixed engine: a component that no parameter changes, one number for each row."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from gammajax.engines.background import BackgroundEngine
from gammajax.engines.engine import Engine
from gammajax.engines.kernel import KernelEngine, evaluate, folded
from gammajax.engines.rows import Rows
from gammajax.mixture import InstrumentBackground, Source


class FixedEngine(Engine):
    """Intensities of one component as it was at the start, and the engine that counts for it.

    Its `intensity` is that of the component of `init`, whatever it is given.
    """

    engine: Engine
    values: Float[Array, " row"]

    @classmethod
    def init(
        cls, source: Source | InstrumentBackground, observations, rows: Rows, variants=(), *, prepared=None
    ) -> "FixedEngine":
        """Evaluate the component; eager. `prepared` is the [`PreparedKernel`][] of its morphology, if there is one."""
        if isinstance(source, InstrumentBackground):
            whole = BackgroundEngine.init(source, observations, rows)
            empty = jnp.zeros(0)
            of_rows = (empty, empty, jnp.zeros(0, int))
            engine = eqx.tree_at(lambda e: (e.rate, e.energy_row, e.observation), whole, of_rows)
            return cls(engine, _intensity(whole, source).astype(rows.dtype))
        if prepared is None:
            responses = folded(source.morphology, observations, rows.nodes)
        else:
            responses = prepared.responses_of([source, *variants], observations, rows)
        values, exposure = evaluate(responses, rows, rows.nodes.flux(source.spectrum))
        empty = jnp.zeros((0, rows.band, rows.block), rows.dtype)
        return cls(KernelEngine(rows.nodes, empty, jnp.asarray(rows.start[:0]), exposure), values.reshape(-1))

    def intensity(self, source: Source | InstrumentBackground) -> Float[Array, " row"]:
        """Intensity [TeV^-1 sr^-1] of every row."""
        return self.values

    def expected_counts(self, source: Source | InstrumentBackground) -> Float[Array, " observation"]:
        """Expected counts in the selection of every observation."""
        return self.engine.expected_counts(source)


@eqx.filter_jit
def _intensity(engine, source):
    return engine.intensity(source)
