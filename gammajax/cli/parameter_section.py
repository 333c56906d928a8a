"""Parameters of a configuration: priors, truths and units."""

import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpyro.distributions as dist
from pydantic import Field, model_validator

from gammajax.cli.settings import Energy, Number, Positive, Strict, Truth, Whole, number_in
from gammajax.model.background_correction import check_degree, correction_prior

# arguments of each prior, in the order of the distribution's own
PRIORS: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "uniform": (dist.Uniform, ("low", "high")),
    "log-uniform": (dist.LogUniform, ("low", "high")),
    "normal": (dist.Normal, ("mean", "sd")),
    "log-normal": (dist.LogNormal, ("mean", "sd")),
    "half-normal": (dist.HalfNormal, ("sd",)),
    "beta": (dist.Beta, ("a", "b")),
    "dirichlet": (lambda concentration: dist.Dirichlet(jnp.asarray(concentration, float)), ("concentration",)),
    "correction": (correction_prior, ()),
}
# arguments of `correction_prior` that a file may give
CORRECTION = ("energy_nodes", "offset_nodes", "degree", "energy_scale", "offset_scale", "gradient")


class Parameter(Strict):
    """Prior of one parameter, its true value when it is known, and its unit."""

    prior: Literal["uniform", "log-uniform", "normal", "log-normal", "half-normal", "beta", "dirichlet", "correction"]
    low: Number | None = None
    high: Number | None = None
    mean: Number | None = None
    sd: Positive | None = None
    a: Positive | None = None
    b: Positive | None = None
    concentration: list[Positive] | None = Field(None, min_length=2)
    energy_nodes: list[Energy] | None = None
    offset_nodes: list[number_in("deg")] | None = None  # pyright: ignore[reportInvalidTypeForm]
    degree: Whole | None = None
    energy_scale: Positive | None = None
    offset_scale: Positive | None = None
    gradient: Positive | None = None
    truth: Truth | None = None
    unit: str | None = None

    @model_validator(mode="after")
    def _arguments(self):
        names = PRIORS[self.prior][1]
        given = f"a {self.prior} prior is given by {' and '.join(names or CORRECTION)}"
        for name in ("low", "high", "mean", "sd", "a", "b", "concentration"):
            value = getattr(self, name)
            if (value is None) == (name in names):
                raise ValueError(f"{given}; {name} is missing" if value is None else f"{given}, not by {name}: {value}")
        for name in CORRECTION:
            if self.prior != "correction" and getattr(self, name) is not None:
                raise ValueError(f"{given}, not by {name}")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.prior == "log-uniform" and not (self.low or 0.0) > 0:
            raise ValueError(f"a log-uniform prior needs low > 0, not {self.low:g}")
        if self.degree is not None:
            check_degree(self.degree)
        numbers = self.numbers
        if self.truth is not None and (len(self.truth) if isinstance(self.truth, list) else None) != numbers:
            wanted = f"a list of {numbers} numbers" if numbers else "a number"
            raise ValueError(f"the truth of a {self.prior} prior is {wanted}, not {self.truth}")
        if self.truth is not None:
            self._check_truth()
        try:
            self.distribution()
        except ValueError as error:
            raise ValueError(f"a {self.prior} prior cannot be made of these numbers ({error})") from error
        return self

    def _check_truth(self):
        """Raise `ValueError` for a truth where the prior has no density; ends count as inside."""
        low, high = {
            "uniform": (self.low, self.high),
            "log-uniform": (self.low, self.high),
            "half-normal": (0.0, math.inf),
            "log-normal": (0.0, math.inf),
        }.get(self.prior, (-math.inf, math.inf) if self.prior in ("normal", "correction") else (0.0, 1.0))
        values: list = self.truth if isinstance(self.truth, list) else [self.truth]
        inside = all(low <= value <= high for value in values) and not (self.prior == "log-normal" and 0.0 in values)
        if not inside:
            support = f"from {low:g} to {high:g}" if math.isfinite(high) else "above zero"
            raise ValueError(f"truth = {self.truth} is outside the {self.prior} prior, which goes {support}")
        if self.prior == "dirichlet" and not abs(math.fsum(values) - 1.0) < 1e-5:
            raise ValueError(f"truth = {self.truth} adds up to {math.fsum(values):g}; fractions add up to one")

    def distribution(self) -> dist.Distribution:
        """The prior as a numpyro distribution."""
        kind, names = PRIORS[self.prior]
        if self.prior == "correction":
            return kind(**{name: getattr(self, name) for name in CORRECTION if getattr(self, name) is not None})
        return kind(*(getattr(self, name) for name in names))

    @property
    def numbers(self) -> int | None:
        """Number of elements of a vector, None for a number."""
        if self.prior == "correction":
            return len(self.energy_nodes or ()) + len(self.offset_nodes or ()) + 2 * (self.degree or 0)
        return len(self.concentration) if self.concentration else None
