"""Forecasts: expected errors, limits and discoveries of an observation, without events.

The Asimov data set is the expectation in place of events (Cowan et al. 2011, arXiv:1007.1727). With lambda_0 the
intensity at the true parameters, the expected log-likelihood relative to the truth is

    ln L_A(theta) = Int [ lambda_0 ln(lambda / lambda_0) - (lambda - lambda_0) ] dE' dOmega'.

For a mixture with n events, n p replaces lambda. The curvature of ln L_A at the truth is the Fisher information
F_ab = Int d_a lambda d_b lambda / lambda_0. The integrals are sums over simulated points with weights 1 / density.
Each term is stationary at the truth, so the maximum is exact, and the relative error of ln L_A does not grow with the
number of expected events. Points are drawn from all components (Veach & Guibas 1995, doi:10.1145/218380.218498), so
that a faint component has as many points as a bright one, and from sources with harder spectra too.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro.distributions.constraints import simplex
from scipy.linalg import null_space
from scipy.optimize import brentq
from scipy.stats import norm

from gammajax.common.display import article, block, document, estimates, extent, length, listed_values, total, words
from gammajax.common.parameters import is_same
from gammajax.common.progress import DELAY, Progress
from gammajax.events.event_list import Events
from gammajax.instrument.observation import as_tuple
from gammajax.likelihood import accurate_sum
from gammajax.model.mixture import InstrumentBackground, Source, mixture_of
from gammajax.model.priors import centre, shape
from gammajax.model.quantities import Quantity, find_quantity
from gammajax.model.spectra import PowerLaw
from gammajax.posterior import Parameters, Posterior
from gammajax.samplers.space import labels, labels_along, referred
from gammajax.simulation import simulate
from gammajax.statistics.conditional import Conditional, fall, maximise
from gammajax.statistics.profiles import UPPER_LIMIT

POINTS, POINTS_SENSITIVITY = 200_000, 50_000  # for 1 % on the error of a mass, and on the limit on a faint signal
BANDS = (-2, -1, 0, 1, 2)  # standard deviations of the best fit
HARDER = 1.5  # the ratio of signal to background rises at most with this power of energy
SINGULAR = 1e-6  # smallest eigenvalue, with ones on the diagonal, that single precision distinguishes from zero
DISCOVERY = 5.0  # standard deviations
REACH = 23.0  # range of the search for limits in e-folds from the true scale: ten decades


class Asimov(eqx.Module):
    """Posterior given the expectation at `truth` in place of events: for fits, profiles, tests and samplers.

        ln L_A(theta) = Int lambda(x; truth) ln(lambda(x; theta) / lambda(x; truth)) dx - N(theta) + N(truth)

    Cowan et al. 2011 (arXiv:1007.1727).

    - `posterior` of the simulated points; `volume` [TeV sr] of each point, the inverse of their density.
    - `expected` of each point at the truth. - `number`: expected events of a mixture; one for absolute fluxes, which
      predict the number of events.

    Log-likelihoods are relative to the truth: their maximum is zero, at the truth.

    >>> import gammajax as gj, jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> priors, truth = {"fraction": dist.Uniform(0.0, 1.0)}, {"fraction": jnp.array(0.2)}
    >>> asimov = gj.Asimov.init(jax.random.key(0), model, priors, run, truth, number=200, points=500, per_decade=20.0)
    >>> bool(abs(asimov.log_likelihood(truth)) < 1e-3)
    True
    """

    posterior: Posterior
    volume: Float[Array, " row"]
    number: Float[Array, ""]
    truth: Parameters
    expected: Float[Array, " row"]  # of each row at the truth
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """The truth and the number of points."""
        return block(f"Asimov data of {total(self.posterior.count)} points", f"truth: {listed_values(self.truth)}")

    @classmethod
    def init(
        cls,
        key: PRNGKeyArray,
        model,
        priors: dict,
        observations,
        parameters: dict,
        *,
        number: float | int | None = None,
        points: int = POINTS,
        also: tuple[dict, ...] = (),
        **options,
    ) -> "Asimov":
        """Simulate `points` from the components at `parameters` and at `also`; `options` as [`gammajax.Posterior`][].

        Raises `ValueError` as [`gammajax.forecast`][] does.
        """
        truth = complete(priors, parameters)
        mixture = mixture_of(model, truth)
        if any(isinstance(part, Source) and part.time is not None for part in mixture.components.values()):
            raise ValueError("an Asimov data set does not know factors in time: leave out time= of the sources")
        if mixture.weighted != (number is not None):
            raise ValueError(
                "a mixture with weights does not predict the number of events: give number="
                if mixture.weighted
                else "the model's absolute fluxes predict the number of events: leave number out"
            )
        observations = as_tuple(observations)
        proposals = _proposals(model, [truth, *(complete(priors, point) for point in also)], priors, observations)
        drawn, shares = [], []
        # variants of a source are similar: n variants get sqrt(n) times the points of one
        share_of = {name: 1.0 / np.sqrt(len(variants)) for name, variants in proposals.items()}
        together = sum(share_of[name] * len(variants) for name, variants in proposals.items())
        for i, (name, variants) in enumerate(proposals.items()):
            for j, component in enumerate(variants):
                share = max(1, round(points * share_of[name] / together))
                subkey = jax.random.fold_in(jax.random.fold_in(key, i), j)
                drawn.append(simulate(subkey, component, observations, events=share))
                shares.append((name, component, share))
        columns = ("energy", "lon", "lat", "observation")
        events = Events(**{column: np.concatenate([getattr(part, column) for part in drawn]) for column in columns})
        posterior = Posterior(model, priors, observations, events, compact=False, **options)
        density = np.zeros(posterior.count.size)
        for name, component, share in shares:
            intensity, total = _component(posterior.engines[name], component)
            density += share * np.asarray(intensity, np.float64) / float(total)
        volume = np.where(
            (np.asarray(posterior.count) > 0) & (density > 0), 1.0 / np.where(density > 0, density, 1.0), 0.0
        )
        volume = jnp.asarray(volume)
        scale = jnp.asarray(1.0 if number is None else number, float)
        return cls(posterior, volume, scale, truth, jnp.zeros_like(volume)).at(truth)

    def at(self, parameters: dict) -> "Asimov":
        """The expectation at other true parameters, with the same points."""
        posterior = referred(self.posterior, parameters)
        return Asimov(
            posterior, self.volume, self.number, dict(parameters), self.number * posterior.reference * self.volume
        )

    @property
    def priors(self):
        """Priors of the posterior."""
        return self.posterior.priors

    @property
    def reference_parameters(self) -> Parameters:
        """Reference point of the posterior."""
        return self.posterior.reference_parameters

    def log_likelihood_ratio(self, parameters: Parameters) -> Float[Array, ""]:
        """Value of ln L_A relative to the reference."""
        return self._between(self.posterior.density(parameters), self.posterior.reference)

    def log_likelihood(self, parameters: Parameters) -> Float[Array, ""]:
        """Value of ln L_A: zero at the truth, negative elsewhere."""
        return self._between(self.posterior.density(parameters), self.posterior.density(self.truth))

    @property
    def log_reference(self) -> Float[Array, ""]:
        """Value of ln L_A at the reference parameters."""
        return self._between(self.posterior.reference, self.posterior.density(self.truth))

    def log_reference_exact(self) -> float:
        """Value of ln L_A at the reference parameters, for samplers."""
        return float(self.log_reference)

    def _between(self, density, reference):
        seen = self.expected > 0
        # round the ratio only once: its error is the same in both terms and cancels
        excess = jnp.where(seen, density / jnp.where(seen, reference, 1.0) - 1.0, 0.0)
        ratio = jnp.log1p(excess)
        background = self.number * self.volume * jnp.where(seen, reference * excess, density - reference)
        return accurate_sum(jnp.where(seen, self.expected * ratio, 0.0) - background)

    def log_prior(self, parameters: Parameters) -> Float[Array, ""]:
        """Logarithm of the prior density."""
        return self.posterior.log_prior(parameters)

    def sample_prior(self, key: PRNGKeyArray) -> Parameters:
        """One draw from the prior."""
        return self.posterior.sample_prior(key)

    def with_reference(self, parameters: Parameters) -> "Asimov":
        """The same with log-likelihood ratios relative to another point."""
        return eqx.tree_at(lambda a: a.posterior, self, self.posterior.with_reference(parameters))


class Forecast(eqx.Module):
    """Expected errors of all parameters, from [`gammajax.forecast`][].

    - `parameters`: the truth; `standard_deviations` of the same structure.
    - `names` of all numbers in the parameters; `fisher` and `covariance` in the order of `names`. Both include the
      information of the priors if `prior` is true.
    - `precision`: largest relative error of a standard deviation from the finite number of points.
    - `asimov`: the data set, for [`gammajax.profile`][], [`gammajax.test_statistic`][] and samplers.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> priors = {"fraction": dist.Uniform(0.0, 1.0)}
    >>> expected = gj.forecast(
    ...     jax.random.key(0), model, priors, run, {"fraction": 0.2}, number=200, points=500, per_decade=20.0
    ... )
    >>> expected.names, expected.fisher.shape
    (('fraction',), (1, 1))
    """

    parameters: Parameters
    standard_deviations: Parameters
    names: tuple[str, ...] = eqx.field(static=True)
    fisher: Float[np.ndarray, "number number"]
    covariance: Float[np.ndarray, "number number"]
    precision: float
    asimov: Asimov

    @property
    def correlation(self) -> Float[np.ndarray, "number number"]:
        """Correlation matrix."""
        deviations = np.sqrt(np.diag(self.covariance))
        return self.covariance / np.outer(deviations, deviations)

    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Parameters with expected standard deviations."""
        return block(f"Forecast({estimates(self.names, self.parameters, self.standard_deviations)})")


def forecast(
    key: PRNGKeyArray,
    model,
    priors: dict,
    observations,
    parameters: dict,
    *,
    number: float | int | None = None,
    prior: bool = True,
    points: int = POINTS,
    **options,
) -> Forecast:
    """Expected Fisher information and covariance of observations, without events.

        F_ij = Int (d lambda / d theta_i) (d lambda / d theta_j) / lambda dx

    for absolute fluxes; for a mixture with the density in place of lambda, times `number`. Returns a
    [`gammajax.Forecast`][]. `key`: a `jax.random.key`.

    - `model`, `priors`, `observations`, `options`: as in [`gammajax.Posterior`][].
    - `parameters`: the truth. - `number` of expected events, for a mixture with weights.
    - `prior`: whether the curvature of ln prior adds to the information, as in [`gammajax.fit`][].
    - `points`: number of simulated points with derivatives (module [`gammajax.statistics.forecasts`][]).

    Raises `ValueError` for parameters that do not match the priors, a `number` that is missing or given for absolute
    fluxes, a component without events, and parameters that the data do not constrain.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> observation = gj.io.ctao(
    ...     pointing=(0.0, 0.0), livetime=36000.0, energy_range=(1.0, 5.0), offset_max=1.0, frame="galactic"
    ... )
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(p["index"], p["flux"] * 1e-12), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground())
    >>> priors = {"index": dist.Uniform(1.0, 4.0), "flux": dist.Uniform(0.0, 10.0)}
    >>> expected = gj.forecast(
    ...     jax.random.key(0), model, priors, observation, {"index": 2.2, "flux": 1.0}, points=2000, per_decade=20.0
    ... )
    >>> bool(expected.standard_deviations["flux"] < 0.2)
    True
    """
    asimov = Asimov.init(key, model, priors, observations, parameters, number=number, points=points, **options)
    truth = asimov.truth
    flat, restore = ravel_pytree(truth)
    names = labels(truth)
    scale = _scales(priors, truth)
    # derivatives in units of each number's size: derivatives by cross sections of 1e-26 would overflow
    units = jnp.eye(flat.size, dtype=flat.dtype) * jnp.asarray(scale, flat.dtype)
    score = np.stack([np.asarray(_derivative(asimov, restore(unit)), np.float64) for unit in units], axis=1)
    volume = np.asarray(asimov.volume, np.float64) * float(asimov.number)
    density = np.asarray(asimov.posterior.reference, np.float64)
    weight = np.where(density > 0, volume / np.where(density > 0, density, 1.0), 0.0)
    fisher = (score * weight[:, None]).T @ score
    total = fisher
    if prior:
        curvature = np.asarray(_prior_curvature(asimov, jnp.asarray(scale, flat.dtype)), np.float64)
        total = fisher - curvature
    covariance = _invert(total, _tangent(priors, scale), names)
    # contribution of each point to the variances: its scatter gives the error of the sums
    pull = weight[:, None] * (score @ covariance) ** 2
    count = np.count_nonzero(volume)
    scatter = np.sqrt(np.maximum((pull**2).sum(0) - pull.sum(0) ** 2 / count, 0.0))
    variances = np.diag(covariance)
    precision = 0.5 * float(np.max(scatter / np.where(variances > 0, variances, 1.0)))
    outer = np.outer(scale, scale)
    covariance = covariance * outer
    deviations = restore(jnp.asarray(np.sqrt(np.diag(covariance)), flat.dtype))
    return Forecast(truth, deviations, tuple(names), total / outer, covariance, precision, asimov)


class Sensitivity(eqx.Module):
    """Expected limits and significances of a scale against another parameter, from [`gammajax.sensitivity`][].

    - `scale`, `along`: names; `values` of the latter.
    - `limits` [band, value]: quantiles of the upper limit on the scale without signal, for the best fit -2, -1, 0, 1
      and 2 standard deviations from zero; the median is `limits[2]`.
    - `discovery`: scale that gives a median significance of 5; `significance`: the median at the scale of the `truth`.
    - `level` of the limits. - `scale_quantity`, `along_quantity`: physical quantities of the parameters if the model
      has them; for labels.

    >>> import gammajax as gj, numpy as np
    >>> limits = np.array([[1.0, 2.0], [1.5, 3.0], [2.0, 4.0], [3.0, 6.0], [4.0, 8.0]])
    >>> expected = gj.Sensitivity("sigma_v", "mass", np.array([1.0, 10.0]), limits, limits[2] * 3, limits[2] / 3, {})
    >>> expected.limits[2].tolist()  # the medians
    [2.0, 4.0]
    """

    scale: str = eqx.field(static=True)
    along: str = eqx.field(static=True)
    values: Float[np.ndarray, " value"]
    limits: Float[np.ndarray, "band value"]
    discovery: Float[np.ndarray, " value"]
    significance: Float[np.ndarray, " value"]
    truth: Parameters
    level: float = eqx.field(static=True, default=0.95)
    scale_quantity: Quantity | None = eqx.field(static=True, default=None)
    along_quantity: Quantity | None = eqx.field(static=True, default=None)
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Ranges of the median limit and of the discovery."""
        return block(
            f"Sensitivity to {self.scale} along {self.along}: {length(self.values)} values of {extent(self.values)}",
            f"median {100 * self.level:g} % limit on {self.scale}: {extent(self.limits[2])}",
            f"discovery at {extent(self.discovery)}; significance of the truth {extent(self.significance)} sigma",
        )

    def plot(
        self,
        ax=None,
        *,
        xlabel: str | None = None,
        ylabel: str | None = None,
        unit: float | int | None = None,
        energy_unit: str = "TeV",
    ):
        """Draw median limit, 68 % and 95 % bands and discovery against the other parameter; returns the axes.

        If the scale is a cross section or decay rate of dark matter in the model, or the other parameter its
        mass, axes are in cm^3 s^-1, s^-1 or TeV, and the thermal relic
        (2.2e-26, Steigman et al. 2012) is drawn. Other axes have the name of the parameter and no unit.

        `unit`: value of scale = 1 in the unit of the axis, 1 if only `ylabel` is given. `xlabel` and
        `ylabel` label the parameter's own numbers, `ylabel` those times `unit`. `energy_unit` of the mass: eV, keV,
        MeV, GeV, TeV, PeV or erg. Raises `ValueError` for another one, and if the axis is no mass of the model.
        """
        from gammajax.plots.cross_sections import plot_expected

        return plot_expected(self, ax, xlabel, ylabel, unit, energy_unit)


def sensitivity(
    key: PRNGKeyArray,
    model,
    priors: dict,
    observations,
    parameters: dict,
    *,
    scale: str = "sigma_v",
    along: str = "mass",
    values,
    number: float | int | None = None,
    level: float = 0.95,
    constraints: list[str] | None = None,
    points: int = POINTS_SENSITIVITY,
    progress: bool = True,
    **options,
) -> Sensitivity:
    """Expected upper limit on a scale, and its discovery, at each of `values` of the parameter `along`.

    `scale` is proportional to the signal, zero for none. All parameters but these two are profiled; their priors are
    constraint terms about the truth, or those of `constraints` alone, as of [`gammajax.profile`][]. `parameters` are
    the truth: the others everywhere, the scale for `significance`. The rest is as of [`gammajax.forecast`][].
    Limits are infinite, with a warning, where no scale is excluded: where a nuisance can hide any signal.
    `level` of the limits. `progress`: show how far it is, after some seconds.
    Returns a [`gammajax.Sensitivity`][].

    The median limit mu has q_mu,A = z² = 2.71 (95 %, one-sided) given the expectation without signal, and
    sigma = mu / z. If the best fit lies N sigma above zero the limit is sigma (z + N) (Cowan et al. 2011,
    arXiv:1007.1727, section 4.4). For a downward fluctuation the best non-negative signal is zero, and the limit is
    sigma (sqrt(z² + N²) - |N|). The bands are therefore those of the limits of [`gammajax.Profile`][]. A discovery has
    sqrt(q_0,A) = 5 given the expectation with the signal. These formulae are asymptotic, and inaccurate for a handful
    of events.

    Raises `ValueError` as [`gammajax.forecast`][] does.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(p["index"], 1e-12 * p["flux"]), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground())
    >>> priors = {"index": dist.Uniform(1.0, 4.0), "flux": dist.Uniform(0.0, 100.0)}
    >>> expected = gj.sensitivity(
    ...     jax.random.key(0), model, priors, run, {"index": 2.0, "flux": 1.0}, scale="flux", along="index",
    ...     values=[2.0], points=500, progress=False, per_decade=20.0,
    ... )
    >>> bool(expected.limits[2, 0] < expected.discovery[0])  # a limit is easier than a discovery
    True
    """
    values = np.atleast_1d(np.asarray(values, float))
    truth = complete(priors, parameters)
    for argument, name in {"scale": scale, "along": along}.items():
        if name not in priors or jnp.ndim(truth[name]):
            known = sorted(priors)
            raise ValueError(f"{argument}={name!r} must be a parameter that is one number; the parameters are {known}")
    if not 0.5 < level < 1.0:
        raise ValueError(f"the level of a limit must be between 0.5 and 1, not {level}")
    if not float(truth[scale]) > 0:
        raise ValueError(f"the true {scale!r} must be positive: it sets the scale of the search")
    there = [{**truth, along: jnp.asarray(value)} for value in values]
    asimov = Asimov.init(
        key, model, priors, observations, there[0], also=tuple(there[1:]), number=number, points=points, **options
    )
    z = float(np.sqrt(UPPER_LIMIT)) if level == 0.95 else float(norm.ppf(level))
    rows = []
    with Progress(progress, f"sensitivity to {scale}", DELAY) as bar:
        for number_done, point in enumerate(there):
            bar.update(number_done / len(there), f"sensitivity at {along} = {float(point[along]):.4g}")
            rows.append(_at_value(Conditional.init(asimov, constraints, [scale, along]), point, scale, along, z))
    sigma, discovery, significance = np.array(rows).T
    bands = [np.sqrt(z**2 + min(n, 0) ** 2) + n for n in BANDS]
    quantities = (find_quantity(model, there, name) for name in (scale, along))
    return Sensitivity(scale, along, values, np.outer(bands, sigma), discovery, significance, truth, level, *quantities)


def _at_value(likelihood, point, scale, along, z):
    """Standard deviation of the scale at the limit, the scale of a discovery, and the significance of the truth."""
    size, fixed = float(point[scale]), float(point[along])
    none = {**point, scale: jnp.zeros_like(point[scale])}
    without = _at(likelihood, none)

    def limit(log_mu) -> float:
        """Root of q_mu,A without signal."""
        best, _ = maximise(without, {scale: size * np.exp(log_mu), along: fixed}, none)
        return np.sqrt(max(fall(without, none, best), 0.0))

    def found(log_mu) -> float:
        """Root of q_0,A with the signal."""
        strong = {**point, scale: jnp.asarray(size * np.exp(log_mu), point[scale].dtype)}
        given = _at(likelihood, strong)
        best, _ = maximise(given, {scale: 0.0, along: fixed}, strong)
        return np.sqrt(max(fall(given, strong, best), 0.0))

    mu, discovery = size * _solve(limit, z), size * _solve(found, DISCOVERY)
    for what, value in (("limit on", mu), ("discovery of", discovery)):
        if np.isinf(value):
            warnings.warn(
                f"there is no {what} {scale!r} at {along} = {fixed:g}: other parameters can compensate any value",
                stacklevel=3,
            )
    return mu / z, discovery, found(0.0)


def _solve(function, height: float) -> float:
    """Factor exp(x) at which a function of x reaches a height, to a thousandth; infinite if it never does.

    The function rises by half to one e-fold per e-fold, or less.
    """
    low = high = 0.0
    below = above = np.log(max(function(0.0), 1e-9) / height)
    while below > 0:
        high, above = low, below
        low = low - min(max(2.0 * below, 0.1), REACH)
        if low < -2.0 * REACH:  # any faint signal reaches the height
            return 0.0
        below = np.log(max(function(low), 1e-9) / height)
    while above <= 0:
        low, below = high, above
        high = high + min(max(-1.2 * above, 0.1), 3.0)
        if high > REACH:
            return np.inf
        above = np.log(max(function(high), 1e-9) / height)
    root: Any = brentq(lambda at: np.log(max(function(at), 1e-9) / height), low, high, xtol=1e-3)
    return float(np.exp(root))


def complete(priors, parameters) -> Parameters:
    """Parameters as arrays of the shapes of the priors; `ValueError` when they are not those of the priors."""
    if not isinstance(parameters, Mapping) or set(parameters) != set(priors):
        given = sorted(parameters) if isinstance(parameters, Mapping) else article(type(parameters).__name__)
        raise ValueError(f"the parameters are a dict of {sorted(priors)}, not {given}")
    return {
        name: jnp.broadcast_to(jnp.asarray(value, float), shape(priors[name])) for name, value in parameters.items()
    }


def _proposals(model, points, priors, observations) -> dict:
    """Components to simulate, by path: the distinct ones at the points, or the one at the centre of the priors.

    Components without flux at the points are included: their derivatives are part of the information.
    """
    mixtures = [model(point) for point in points]
    centred = model({name: centre(prior) for name, prior in priors.items()})
    found = {}
    for name in mixtures[0].components:
        variants = []
        for mixture in mixtures:
            component = mixture.components[name]
            if _shines(component, observations) and not any(is_same(component, v) for v in variants):
                variants.append(component)
        found[name] = [harder for v in variants or [centred.components[name]] for harder in _hardened(v)]
    return found


def _hardened(component) -> list:
    """The component; for a source also a harder spectrum: its information is at energies above the steep background."""
    if isinstance(component, InstrumentBackground):
        return [component]
    return [component, Source(component.spectrum * PowerLaw(-HARDER, 1.0), component.morphology)]


def _shines(component, observations) -> bool:
    if isinstance(component, InstrumentBackground):
        return bool(np.any(np.asarray(component.norm) > 0))
    edges = np.geomspace(
        min(o.energy_min for o in observations) / 3.0, 3.0 * max(o.energy_max for o in observations), 50
    )
    return bool(np.asarray(component.spectrum.integral(jnp.asarray(edges))).sum() > 0)


def _scales(priors, truth) -> np.ndarray:
    """Size of every number, as unit of derivatives: its value, the size of its prior, or one."""
    own = np.abs(np.asarray(ravel_pytree(truth)[0], np.float64))
    typical = np.abs(np.asarray(ravel_pytree({n: centre(p) for n, p in priors.items()})[0], np.float64))
    return np.where(own > 0, own, np.where(typical > 0, typical, 1.0))


def _tangent(priors, scale) -> np.ndarray:
    """Allowed directions of change [number, direction], in units of `scale`: fractions keep their sum."""
    rows, first = [], 0
    for name in sorted(priors):
        size = int(np.prod(shape(priors[name])))
        step = shape(priors[name])[-1] if priors[name].support is simplex else size
        for start in range(first, first + size, step) if priors[name].support is simplex else ():
            row = np.zeros(scale.size)
            row[start : start + step] = scale[start : start + step]
            rows.append(row)
        first += size
    return null_space(np.stack(rows)) if rows else np.eye(scale.size)


def _invert(information, tangent, names) -> np.ndarray:
    """Covariance within the tangent space; `ValueError` for directions without information."""
    inside = tangent.T @ information @ tangent
    size = np.sqrt(np.maximum(np.diag(inside), 0.0))
    unit = np.where(size > 0, size, 1.0)
    curvature, axes = np.linalg.eigh(inside / np.outer(unit, unit))
    if not curvature[0] > SINGULAR:
        blamed = ", ".join(labels_along(names, tangent @ (axes[:, 0] / unit)))
        raise ValueError(
            f"the data would say nothing about {blamed} at these parameters: fix it, or give it a prior "
            "that is not flat"
        )
    inverse = (axes / curvature) @ axes.T / np.outer(unit, unit)
    return tangent @ inverse @ tangent.T


@eqx.filter_jit
def _component(engine, component):
    expected = engine(component)
    return expected.intensity, expected.counts.sum()


@eqx.filter_jit
def _at(likelihood, parameters):
    return eqx.tree_at(lambda c: c.posterior, likelihood, likelihood.posterior.at(parameters))


@eqx.filter_jit
def _derivative(asimov, direction):
    """Derivative of the density of every row at the truth along a direction."""
    return jax.jvp(asimov.posterior.density, (asimov.truth,), (direction,))[1]


@eqx.filter_jit
def _prior_curvature(asimov, scale):
    """Second derivatives of ln prior at the truth, in units of `scale`."""
    flat, restore = ravel_pytree(asimov.truth)
    return jax.hessian(lambda u: asimov.log_prior(restore(flat + scale * u)))(jnp.zeros_like(flat))
