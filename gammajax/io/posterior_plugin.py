"""A posterior as a plugin of 3ML, so that its fits and samplers run on the unbinned likelihood beside other data."""

# 3ML carries no types
# pyright: reportMissingImports=false

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gammajax.io.posterior_dataset import limits, numbers_of, values_of, warn_of_precision
from gammajax.model.priors import bounds

ROUNDING = 1e-6  # of the ends of supports, which may be in single precision
Place = str | Callable[[Any], float]


class _Prototype:
    """What 3ML's `PluginPrototype` keeps, where there is no 3ML."""

    def __init__(self, name: str, nuisance_parameters: dict[str, Any]):
        self.name, self.nuisance_parameters = name, nuisance_parameters


class _Number:
    """What a plugin reads of an astromodels `Parameter`, where there is no astromodels."""

    def __init__(self, name, value, min_value, max_value, desc):
        self.name, self.value, self.bounds, self.description = name, value, (min_value, max_value), desc
        self.free = True


def to_threeml_plugin(
    posterior: Any,
    name: str = "gammajax",
    *,
    parameters: Mapping[str, Place] | None = None,
    nuisance: Sequence[str] = (),
):
    """Plugin for 3ML's `DataList`: the log-likelihood of the data, at the parameters of an astromodels model.

        get_log_like = ln L(data | parameters), without the priors of the posterior: 3ML has its own

    - `posterior`: a [`gammajax.Posterior`][] of one or several data sets. `name` of the plugin, a Python identifier.
    - `parameters`: where each parameter of the posterior is in the model of astromodels: its path, as in
      `{"K": "crab.spectrum.main.Powerlaw.K"}`, or a function of the model, for other units and signs. The numbers of a
      vector `b` are `b_0`, `b_1`. By default a parameter has the same path as in the posterior.
    - `nuisance`: parameters that only these data have, such as the norm of a background. They become 3ML's
      `nuisance_parameters`, with the name of the plugin before theirs, free within the support of their priors.

    Values are taken as they are, so they must come in the units of the model function: astromodels has keV and negative
    indices, gammajax TeV and positive ones. Parameters may be fixed, linked, or external ones of the model. Outside
    the support of a prior the likelihood is not known: it is NaN, which 3ML's fits and samplers take as forbidden, and
    `set_model` warns of wider bounds. Fits of 3ML take derivatives by differences, which need double precision: turn on
    JAX's `jax_enable_x64` before the posterior is made, else there is a warning.

    Returns an instance of 3ML's `PluginPrototype`; without 3ML, an object with the same `set_model`, `get_log_like`,
    `inner_fit`, `get_number_of_data_points`, `nuisance_parameters` and `name`.
    Raises `ValueError` for another name, and for parameters that the posterior does not have; `set_model` for
    parameters that the model does not have.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> from types import SimpleNamespace
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11 * p["flux"]), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(p["norm"]))
    >>> events = gj.simulate(jax.random.key(0), model({"flux": 2.0, "norm": 1.0}), run)
    >>> priors = {"flux": dist.Uniform(0.1, 10.0), "norm": dist.Uniform(0.5, 2.0)}
    >>> path = "crab.spectrum.main.Powerlaw.K"
    >>> astro = SimpleNamespace(free_parameters={path: SimpleNamespace(value=2e-20)})  # in 3ML, a Model of astromodels
    >>> places = {"flux": lambda astro: 1e20 * astro.free_parameters[path].value}  # per keV
    >>> with jax.enable_x64(True):
    ...     posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    ...     plugin = gj.io.to_threeml_plugin(posterior, "ctao", parameters=places, nuisance=["norm"])
    ...     plugin.set_model(astro)
    ...     high = plugin.get_log_like()
    ...     astro.free_parameters[path].value = 8e-20
    ...     low = plugin.get_log_like()
    >>> list(plugin.nuisance_parameters), low < high
    (['ctao_norm'], True)
    """
    try:
        from threeML.plugin_prototype import PluginPrototype as Prototype
    except ImportError:
        Prototype: Any = _Prototype
    if not name.isidentifier() or name.lower() == "total":
        raise ValueError(f"the name of a plugin must be a Python identifier other than 'total', not {name!r}")
    start, places, labels = numbers_of(posterior)
    given = dict(parameters or {})
    unknown = [label for label in given if label not in labels] + [n for n in nuisance if n not in start]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no parameter of the posterior; the parameters are {labels}")
    warn_of_precision("3ML")
    own = {label: place for label, place in zip(labels, places, strict=True) if place[0] in nuisance}
    twice = [label for label in given if label in own]
    if twice:
        raise ValueError(f"{twice[0]!r} is a nuisance parameter, so it has no place in the model: give one of the two")
    ends = {label: limits(posterior.priors[n], place) for label, (n, place) in zip(labels, places, strict=True)}
    makes = {label: _parameter(name, label, start[n][place], ends[label]) for label, (n, place) in own.items()}
    constant = posterior.log_reference_exact()

    @eqx.filter_jit
    def ratio(posterior, numbers):
        values = values_of(start, places, numbers)
        kept = {n: jnp.clip(value, *bounds(posterior.priors[n])) for n, value in values.items()}
        near = [jnp.abs(values[n] - one) <= ROUNDING * jnp.abs(one) for n, one in kept.items()]
        inside = [jnp.asarray(posterior.priors[n].support(one)) for n, one in kept.items()]
        known = jnp.all(jnp.stack([jnp.all(one) for one in near + inside]))
        return jnp.where(known, posterior.log_likelihood_ratio(kept), jnp.nan)

    class PosteriorPlugin(Prototype):
        """Log-likelihood of a posterior with the interface of 3ML."""

        def __init__(self):
            super().__init__(name, {number.name: number for number in makes.values()})
            self._read: Callable[[], list[float]] | None = None

        def set_model(self, likelihood_model_instance) -> None:
            """Take the parameters of this model."""
            model, found = likelihood_model_instance, dict(makes)
            for label in labels:
                source = given.get(label, label)
                if label not in makes and not callable(source):
                    found[label] = _found(model, source, label)
                    _warn_of_bounds(found[label], source, label, ends[label])
            self._read = lambda: [
                float(found[label].value) if label in found else float(given[label](model))  # pyright: ignore
                for label in labels
            ]
            self._read()

        def values(self) -> dict[str, np.ndarray]:
            """Parameters of the posterior."""
            return {n: np.asarray(value) for n, value in values_of(start, places, self._numbers()).items()}

        def _numbers(self) -> list[float]:
            if self._read is None:
                raise ValueError(f"the plugin {name!r} has no model: call set_model first")
            return self._read()

        def get_log_like(self, *_, **__) -> float:
            """Log-likelihood of the data; NaN outside the support of the priors."""
            value = float(ratio(posterior, [jnp.asarray(number) for number in self._numbers()]))
            return value + constant if math.isfinite(value) else math.nan

        def inner_fit(self) -> float:
            """The same: nuisance parameters are free parameters of the model."""
            return self.get_log_like()

        def get_number_of_data_points(self) -> int:
            """Number of events."""
            return posterior.total

        def __repr__(self) -> str:
            return f"PosteriorPlugin {name}\n{posterior!r}"

    return PosteriorPlugin()


def _parameter(plugin: str, label: str, value, ends: tuple[float, float]):
    """Nuisance parameter of astromodels, whose names are identifiers."""
    try:
        from astromodels import Parameter as Number
    except ImportError:
        Number: Any = _Number
    low, high = (None if math.isnan(end) else end for end in ends)
    name = "".join(letter if letter.isalnum() else "_" for letter in f"{plugin}_{label}")
    return Number(name, float(value), min_value=low, max_value=high, desc=f"{label} of {plugin}")


def _found(model, path: str, label: str):
    """The parameter of a model at a path, free or not. Raises `ValueError` if there is none."""
    free = model.free_parameters
    known = {**getattr(model, "parameters", {}), **free}
    if path in known:
        return known[path]
    of = "" if path == label else f" for {label!r}"
    raise ValueError(
        f"the model has no parameter {path!r}{of}: give its path in `parameters`, or name {label!r} in `nuisance`; "
        f"the free parameters are {list(free)}"
    )


def _warn_of_bounds(number, path: str, label: str, ends: tuple[float, float]) -> None:
    """Warn of bounds beyond the support of the prior."""
    low, high = ends
    least, most = (math.nan if end is None else float(end) for end in getattr(number, "bounds", (None, None)))
    if getattr(number, "free", True) and (least < low - ROUNDING * abs(low) or most > high + ROUNDING * abs(high)):
        warnings.warn(
            f"{path} may lie between {least:g} and {most:g}, but the prior of {label!r} ends at {low:g} and {high:g}: "
            "beyond, the likelihood is not known and 3ML gets NaN; take narrower bounds",
            stacklevel=3,
        )
