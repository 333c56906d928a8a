"""Samplers of a configuration: the options of each method."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from gammajax import samplers
from gammajax.cli.settings import Count, Positive, Strict, Whole
from gammajax.samplers.importance import LEAST


def _default(sampler: Callable, name: str) -> Any:
    """Default value of an option, as the sampler declares it."""
    return inspect.signature(sampler).parameters[name].default


class Nuts(Strict):
    """Hamiltonian Monte Carlo: for posteriors with one peak."""

    method: Literal["nuts"]
    draws: Count = _default(samplers.nuts, "draws")
    warmup: Count = 300
    chains: Count = _default(samplers.nuts, "chains")
    start: Literal["laplace", "pathfinder"] = _default(samplers.nuts, "start")


class Smc(Strict):
    """Tempered particles: evidence, several peaks."""

    method: Literal["smc"]
    particles: Count = _default(samplers.smc, "particles")
    kernel: Literal["independent", "hmc", "nuts"] = _default(samplers.smc, "kernel")
    moves: Count | None = _default(samplers.smc, "moves")


class Nested(Strict):
    """Nested slice sampling: evidence, several peaks."""

    method: Literal["nested"]
    live: Count = _default(samplers.nested, "live")
    slices: Count | None = _default(samplers.nested, "slices")
    precision: Positive = _default(samplers.nested, "precision")


class Svi(Strict):
    """A fitted distribution, corrected by importance weights."""

    method: Literal["svi"]
    guide: Literal["flow", "gaussian"] = _default(samplers.svi, "guide")
    steps: Count = _default(samplers.svi, "steps")
    draws: Whole = Field(_default(samplers.svi, "draws"), ge=LEAST)


class Laplace(Strict):
    """The Gaussian about the maximum, corrected by importance weights."""

    method: Literal["laplace"]
    draws: Whole = Field(_default(samplers.laplace, "draws"), ge=LEAST)


Sampler = Annotated[Nuts | Smc | Nested | Svi | Laplace, Field(discriminator="method")]
