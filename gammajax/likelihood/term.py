"""Interfaces of data sets: their description, and their term of the log-likelihood."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from gammajax.common import distributed
from gammajax.engines.choice import JAX_CANNOT, NOT_COMPILED, Explored
from gammajax.model.mixture import Mixture, Source
from gammajax.model.response_change import require_no_directions

Parameters = dict[str, Float[Array, "..."]]


class Reference(NamedTuple):
    """Values of a term at its reference parameters: one number for each row of data, and terms of expected counts.

    Rows are events, cells or bins. The expected counts of every component have a last axis of parts that add up.
    """

    rows: Float[Array, "..."]
    counts: dict[str, Float[Array, "observation _"]]


class Setup(NamedTuple):
    """What data sets need of a posterior to become terms of it.

    The `model` with its parameters at the centres of the priors and its mixtures over the priors, a `name` for a data
    set without one, whether it is `alone`, and whether to show `progress`.
    """

    model: Callable[[Parameters], Mixture]
    parameters: Parameters
    explored: Explored
    name: str
    alone: bool
    progress: bool

    def referred(self, term: "Term") -> "Term":
        """The term relative to its value at the centres of the priors.

        Raises `ValueError` for a model that cannot be compiled, and, if there is no other data set, for a component
        that expects no events.
        """
        try:
            reference = eqx.filter_jit(_refer)(self.model, term, self.parameters)
        except JAX_CANNOT as error:
            raise ValueError(NOT_COMPILED) from error
        term = term.relative_to(reference)
        if self.alone:
            require_expected(self.explored.mixture, (term,))
        return term


class Data(eqx.Module):
    """Description of one data set, which a posterior makes a term of its log-likelihood."""

    name: eqx.AbstractVar[str | None]

    @abc.abstractmethod
    def prepare(self, setup: Setup) -> "Term":
        """The term of this data set; eager. Raises `ValueError` for data that do not fit the model."""


class Term(Data):
    """Log-likelihood of one data set, a function of the mixture at the current parameters.

    A subclass has the fields `name`, `count` (observed events of each row of its data) and `reference`; one with an
    `__init__` of its own has its own `relative_to`. Its methods are pure: they work under `jit`, `grad` and `vmap`.
    They ignore components of the mixture that the data set does not see. A term may also stand for its own description.
    """

    count: eqx.AbstractVar[Num[Array, "..."]]
    reference: eqx.AbstractVar[Reference]

    def prepare(self, setup: Setup) -> "Term":
        """The term itself, at its reference."""
        return setup.referred(self)

    @abc.abstractmethod
    def refer(self, mixture: Mixture) -> Reference:
        """Values at a mixture, to which `log_likelihood_ratio` may be relative."""

    @abc.abstractmethod
    def log_likelihood_ratio(self, mixture: Mixture) -> Float[Array, ""]:
        """Value of log L relative to the reference, accurate in single precision."""

    @property
    @abc.abstractmethod
    def log_reference(self) -> Float[Array, ""]:
        """Value of log L at the reference."""

    @abc.abstractmethod
    def log_reference_exact(self) -> float:
        """`log_reference` in double precision, on the host."""

    @abc.abstractmethod
    def expected_counts(self, mixture: Mixture) -> dict[str, Float[Array, " observation"]]:
        """Expected counts in every observation of the data set, of every component that it sees, by path."""

    def with_reference(self, mixture: Mixture) -> "Term":
        """The same term relative to its value at another mixture."""
        return self.relative_to(self.refer(mixture))

    def relative_to(self, reference: Reference) -> "Term":
        """The same term with other values at its reference."""
        return dataclasses.replace(self, reference=reference)

    @property
    @abc.abstractmethod
    def energy_range(self) -> tuple[float, float]:
        """Reconstructed energies [TeV] of the data."""

    @property
    @abc.abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Names of the observations."""

    @property
    def total(self) -> int:
        """Number of observed events, of all processes."""
        count = distributed.local(self.count)
        return round(float(distributed.over(distributed.spans(self.count), np.sum, count.sum(dtype=np.float64))))

    @property
    def number(self) -> Num[Array, ""]:
        """Number of observed events, as an array."""
        return jnp.sum(self.count)


def require_expected(mixture: Mixture, terms: Sequence[Term]) -> None:
    """Raise `ValueError` for a component that expects no events in any data set."""
    for name in mixture.components:
        counts = [term.reference.counts[name] for term in terms if name in term.reference.counts]
        if not any(float(part.sum()) > 0 for part in counts):
            raise ValueError(f"component {name!r} expects no events in the selection")


def require_energies_alone(path: str, source: Source) -> None:
    """Raise `ValueError` for a source that changes in time or the response in directions, in data of energies alone."""
    if source.time is not None:
        raise ValueError(f"component {path!r} changes in time, but binned data and ON and OFF regions have no times")
    if source.response is not None:
        require_no_directions(source.response, f"component {path!r}: binned data and ON and OFF regions")


def seen(components: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """Names of the components that a data set sees, as a tuple; None for all."""
    return components if components is None else (components,) if isinstance(components, str) else tuple(components)


def _refer(model, term, parameters) -> Reference:
    return term.refer(model(parameters))
