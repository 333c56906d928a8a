"""The interface of all engines."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from gammajax.display import block, document, memory, words
from gammajax.engines.rows import Rows


class Engine(eqx.Module):
    """Intensities and expected counts of one component of a mixture.

    `init` runs once, eagerly, and computes everything that does not depend on the parameters. The other methods are
    pure: a sampler calls them with the component at the current parameters.
    """

    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Kind and size."""
        return block(f"{type(self).__name__}, {memory(self)}")

    @classmethod
    @abc.abstractmethod
    def init(cls, source: Any, observations, rows: Rows, variants=()) -> "Engine":
        """Prepare for the events in `rows`; `variants` are the component at the ends and some draws of the priors."""

    @abc.abstractmethod
    def intensity(self, source: Any) -> Float[Array, " row"]:
        """Intensity [TeV^-1 sr^-1] of every row."""

    @abc.abstractmethod
    def expected_counts(self, source: Any) -> Float[Array, " observation"]:
        """Expected counts in the selection of every observation."""

    def counts_between(self, reference: Any, source: Any) -> Float[Array, " observation"]:
        """Expected counts of `source` minus those of `reference`.

        Likelihoods of absolute fluxes need this difference of large numbers to a small fraction of one event. Engines
        with counts as a sum over energies take the difference of each term, for single precision.
        """
        return self.expected_counts(source) - self.expected_counts(reference)
