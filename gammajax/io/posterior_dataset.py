"""A posterior as a dataset of gammapy, so that its `Fit`, and what builds upon it, runs on the unbinned likelihood."""

# gammapy carries no types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportAssignmentType=false
# pyright: reportOptionalMemberAccess=false

import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import ExpandedDistribution, Independent, Normal

from gammajax.model.priors import bounds, shape


def to_gammapy_dataset(posterior: Any, name: str = "gammajax", *, priors: bool = True):
    """Dataset for `gammapy.modeling.Fit`, `gammapy.datasets.Datasets` and the samplers of gammapy.

        stat_sum = -2 ln(L / L_ref)

    relative to the posterior's reference. Minimisers of gammapy take differences of it: they need double precision, so
    turn on JAX's `jax_enable_x64` before the posterior is made. Without it errors may be off by factors: a warning.

    - `posterior`: a [`gammajax.Posterior`][] of one or several data sets. `name` of the dataset and of its model.
    - `priors`: give the parameters gammapy's `GaussianPrior` for a numpyro `Normal`. Other priors are limits only.

    Its `models` is one gammapy model whose parameters are the numbers of the posterior, `b_0`, `b_1` of a vector `b`,
    with the limits of their priors; it has no maps and spectra. Parameters may be set and frozen as
    ever; `dataset.values()` are those of the posterior.

    Returns an instance of gammapy's `Dataset`. Raises `ValueError` for a posterior without parameters.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> from gammapy.modeling import Fit
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11 * p["flux"]), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground())
    >>> events = gj.simulate(jax.random.key(0), model({"flux": 2.0}), run)
    >>> with jax.enable_x64(True):
    ...     posterior = gj.Posterior(model, {"flux": dist.Uniform(0.1, 10.0)}, run, events, per_decade=20.0)
    ...     dataset = gj.io.to_gammapy_dataset(posterior)
    ...     success = Fit().run(dataset).success
    ...     ours = float(gj.fit(posterior).parameters["flux"])
    >>> flux = dataset.models.parameters["flux"]
    >>> bool(success), abs(flux.value - ours) < 0.01 * flux.error
    (True, True)
    """
    from gammapy.datasets import Dataset
    from gammapy.modeling import Parameter
    from gammapy.modeling.models import DatasetModels, GaussianPrior, ModelBase

    if not posterior.priors:
        raise ValueError("the posterior has no parameters to fit")
    warn_of_precision("gammapy")
    start, places, labels = numbers_of(posterior)
    fields = {}
    for label, (parameter, place) in zip(labels, places, strict=True):
        low, high = limits(posterior.priors[parameter], place)
        fields[label] = Parameter(label, float(start[parameter][place]), min=low, max=high)
    kind = type("PosteriorModel", (ModelBase,), {**fields, "tag": "PosteriorModel", "name": name})
    model = kind()
    for label, (parameter, place) in zip(labels, places, strict=True):
        gauss = _gauss(posterior.priors[parameter])
        if priors and gauss is not None:
            mean, deviation = (float(np.broadcast_to(part, start[parameter].shape)[place]) for part in gauss)
            getattr(model, label).prior = GaussianPrior(mu=mean, sigma=deviation)

    @eqx.filter_jit
    def ratio(posterior, numbers):
        return posterior.log_likelihood_ratio(values_of(start, places, numbers))

    class PosteriorDataset(Dataset):
        """Log-likelihood of a posterior with the interface of gammapy."""

        tag = "PosteriorDataset"
        stat_type = "gammajax"
        mask_safe = mask_fit = None

        def __init__(self):
            self._name = name
            self.models = model

        @property
        def models(self):
            return self._models

        @models.setter
        def models(self, models):
            self._models = None if models is None else DatasetModels(models)

        def values(self) -> dict[str, jax.Array]:
            """Parameters of the posterior."""
            found = {n: np.zeros(start[n].shape) for n in posterior.names}
            for label, (parameter, place) in zip(labels, places, strict=True):
                found[parameter][place] = self.models.parameters[label].value
            return {n: jnp.asarray(value) for n, value in found.items()}

        def stat_sum(self) -> float:
            """Value of -2 ln L relative to the reference; infinite outside the support."""
            numbers = [jnp.asarray(float(self.models.parameters[label].value)) for label in labels]
            value = float(ratio(posterior, numbers))
            return math.inf if math.isnan(value) else -2.0 * value

        def _stat_sum_likelihood(self) -> float:
            return self.stat_sum()

        def stat_array(self):
            raise ValueError("an unbinned likelihood has no bins; use stat_sum")

        def __str__(self) -> str:
            return f"PosteriorDataset {name}\n{posterior!r}"

    return PosteriorDataset()


def warn_of_precision(package: str) -> None:
    """Warn, at the line that calls the caller, of derivatives that another package takes in single precision."""
    if jnp.result_type(float) != jnp.float64:
        warnings.warn(
            f"in single precision, derivatives that {package} takes by differences are noise, and errors may be wrong; "
            "call jax.config.update('jax_enable_x64', True) before the posterior is made",
            stacklevel=3,
        )


def numbers_of(posterior) -> tuple[dict[str, np.ndarray], list[tuple[str, tuple[int, ...]]], list[str]]:
    """Reference parameters, the parameter and place of each of their numbers, and its label: `b_0`, `b_1` of `b`."""
    start = {name: np.asarray(posterior.reference_parameters[name]) for name in posterior.names}
    places = [(name, place) for name in posterior.names for place in np.ndindex(start[name].shape)]
    return start, places, ["_".join([name, *map(str, place)]) for name, place in places]


def values_of(start, places, numbers) -> dict[str, jax.Array]:
    """Parameters of the shapes of `start` from the numbers at these places."""
    values = {name: jnp.zeros(np.shape(value)) for name, value in start.items()}
    for (name, place), number in zip(places, numbers, strict=True):
        values[name] = values[name].at[place].set(number)
    return values


def limits(prior, place: tuple[int, ...]) -> tuple[float, float]:
    """Limits of the support of the number at a place of the parameter, NaN for none, as of gammapy."""
    low, high = (float(np.broadcast_to(end, shape(prior))[place]) for end in bounds(prior))
    return (low if math.isfinite(low) else math.nan), (high if math.isfinite(high) else math.nan)


def _gauss(prior):
    """Mean and standard deviation of a Gaussian prior of independent numbers, or None."""
    base = prior
    while isinstance(base, Independent | ExpandedDistribution):
        base = base.base_dist
    return (base.loc, base.scale) if isinstance(base, Normal) else None
