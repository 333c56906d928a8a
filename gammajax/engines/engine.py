"""The interface of all engines."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float

from gammajax.common.display import block, document, memory, words
from gammajax.engines.rows import Rows


class Expected(NamedTuple):
    """Expectation of one component: its `intensity` [TeV^-1 sr^-1] of every row, and its `counts` in the selections.

    The counts are terms of a sum over the last axis, for example over energies. Likelihoods of absolute fluxes need the
    change of a large number of counts to a small fraction of one event: they take the difference of each term.

    Intensities next to zero are noise of either sign, of the nodes of true energy and of transforms.
    """

    intensity: Float[Array, " row"]
    counts: Float[Array, "observation term"]


class Engine(eqx.Module):
    """Function from one component of a mixture to its intensities and expected counts.

    `init` runs once, eagerly, and computes everything that does not depend on the parameters. The call is pure: a
    sampler calls the engine with the component at the current parameters. Intensities and counts come from one
    evaluation of its spectrum.
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
    def __call__(self, source: Any) -> Expected:
        """Intensities and counts."""

    @eqx.filter_jit
    def intensity(self, source: Any) -> Float[Array, " row"]:
        """Intensity [TeV^-1 sr^-1] of every row."""
        return self(source).intensity

    @eqx.filter_jit
    def expected_counts(self, source: Any) -> Float[Array, " observation"]:
        """Expected counts in the selection of every observation; the compiler leaves out the intensities."""
        return self(source).counts.sum(-1)
