"""Parameters of a configuration: priors, truths and units."""

import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from pydantic import Field, model_validator

from gammajax.cli.settings import Count, Energy, Number, Positive, Strict, Truth, Whole, number_in
from gammajax.model.background_correction import check_degree, correction_prior
from gammajax.model.splines import smooth_prior

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
    "smooth": (smooth_prior, ()),
}
# arguments that a file may leave out
OPTIONAL = {
    "correction": ("energy_nodes", "offset_nodes", "degree", "energy_scale", "offset_scale", "gradient"),
    "smooth": ("centre", "scale", "level", "tilt"),
}
ONLY = tuple(dict.fromkeys(name for names in OPTIONAL.values() for name in names))


class Parameter(Strict):
    """Prior of one parameter, its true value when it is known, and its unit.

    `size`: number of elements of a vector, independent but for a smooth prior.
    """

    prior: Literal[
        "uniform",
        "log-uniform",
        "normal",
        "log-normal",
        "half-normal",
        "beta",
        "dirichlet",
        "correction",
        "smooth",
    ]
    size: Count | None = None
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
    centre: list[Number] | None = None
    scale: Positive | None = None
    level: Positive | None = None
    tilt: Positive | None = None
    truth: Truth | None = None
    unit: str | None = None

    @model_validator(mode="after")
    def _arguments(self):
        names = PRIORS[self.prior][1]
        own = OPTIONAL.get(self.prior, ())
        given = f"a {self.prior} prior is given by {' and '.join(names or own)}"
        for name in ("low", "high", "mean", "sd", "a", "b", "concentration"):
            value = getattr(self, name)
            if (value is None) == (name in names):
                raise ValueError(f"{given}; {name} is missing" if value is None else f"{given}, not by {name}: {value}")
        for name in ONLY:
            if name not in own and getattr(self, name) is not None:
                raise ValueError(f"{given}, not by {name}")
        if self.prior == "dirichlet" and self.size is not None:
            raise ValueError("the size of a dirichlet prior is that of its concentration; leave out size")
        if self.prior == "smooth" and (self.centre is None) == (self.size is None):
            raise ValueError("a smooth prior is given by its centre, a list, or by its size, the number of elements")
        if self.centre is not None and self.scale is None:
            raise ValueError("a smooth prior about a centre is given by scale; scale is missing")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.prior == "log-uniform" and not (self.low or 0.0) > 0:
            raise ValueError(f"a log-uniform prior needs low > 0, not {self.low:g}")
        if self.degree is not None:
            check_degree(self.degree)
        if self.truth is not None and _shape(self.truth) != self.shape:
            numbers = f"a list of {self.shape[-1]} numbers" if self.shape else "a number"
            wanted = numbers if len(self.shape) < 2 else f"{self.shape[0]} lists, each {numbers}"
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
        }.get(self.prior, (0.0, 1.0) if self.prior in ("beta", "dirichlet") else (-math.inf, math.inf))
        values: list = np.ravel(np.asarray(self.truth, float)).tolist()
        inside = all(low <= value <= high for value in values) and not (self.prior == "log-normal" and 0.0 in values)
        if not inside:
            support = f"from {low:g} to {high:g}" if math.isfinite(high) else "above zero"
            raise ValueError(f"truth = {self.truth} is outside the {self.prior} prior, which goes {support}")
        if self.prior == "dirichlet" and not abs(math.fsum(values) - 1.0) < 1e-5:
            raise ValueError(f"truth = {self.truth} adds up to {math.fsum(values):g}; fractions add up to one")

    def distribution(self) -> dist.Distribution:
        """The prior as a numpyro distribution; a smooth one that lacks them has centres of zero and a scale of one."""
        kind, names = PRIORS[self.prior]
        own = (*names, *OPTIONAL.get(self.prior, ()))
        if self.prior == "smooth":
            given = {name: getattr(self, name) for name in own if getattr(self, name) is not None}
            return kind(**{"centre": np.zeros(self.shape), "scale": 1.0, **given})
        if self.prior == "correction":
            prior = kind(**{name: getattr(self, name) for name in own if getattr(self, name) is not None})
        else:
            prior = kind(*(getattr(self, name) for name in names))
        return prior if self.size is None else prior.expand([self.size])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter: empty for a number."""
        if self.prior == "smooth":
            return (len(self.centre or ()) or self.size or 0,)
        several = () if self.size is None else (self.size,)
        if self.prior == "correction":
            return *several, len(self.energy_nodes or ()) + len(self.offset_nodes or ()) + 2 * (self.degree or 0)
        return (len(self.concentration),) if self.concentration else several


def _shape(value) -> tuple[int, ...] | None:
    """Shape of a number or of nested lists; None for ragged ones."""
    if not isinstance(value, list):
        return ()
    inner = {_shape(one) for one in value}
    shape = inner.pop() if len(inner) == 1 else None
    return None if shape is None else (len(value), *shape)
