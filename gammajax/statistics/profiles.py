"""Profile likelihood of one parameter: the maximum over all other parameters, with intervals, limits and tests.

q(v) = 2 (ln L_max - ln L(v)), where ln L(v) is the maximum at the value v (Wilks 1938, doi:10.1214/aoms/1177732360;
Rolke et al. 2005, arXiv:physics/0403059).
"""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from scipy.stats import chi2

from gammajax.common.display import block, document, extent, length, listed_values, text, words
from gammajax.common.parameters import check_labels
from gammajax.common.progress import DELAY, Progress
from gammajax.model.priors import bounds, quantile, shape
from gammajax.posterior import Parameters
from gammajax.samplers.space import labels, referred
from gammajax.statistics.conditional import Conditional, constraint_term, difference, fall, locate, maximise

DEEP = 9.0  # a profile without given values ends at this q, the edge of its 99.7 % interval
STEPS_MAX = 40  # of such a profile on each side
NOTHING = 1e-3  # negligible change of ln L, in single precision
INTERVALS = {0.6827: 1.0, 0.95: 3.8415}  # quantiles of chi-square with one degree of freedom
UPPER_LIMIT = 2.7055  # one-sided 95 %


class Profile(eqx.Module):
    """Profile likelihood of one number, from [`gammajax.profile`][].

    - `name`; `values`; `fall`: q = 2 (ln L_max - ln L) at each.
    - `parameters` that maximise the likelihood at each value, {name: [value, ...]}.
    - `best`: parameters of the maximum; `best_value`: the profiled number there; `support`: ends of its support.
    - `messages`: problems, in words. - `unit` of the values, for labels.

    >>> import gammajax as gj, jax.numpy as jnp, numpy as np
    >>> values = np.linspace(-4.0, 4.0, 81)
    >>> curve = gj.Profile("x", values, values**2, {"x": values}, {"x": jnp.array(0.0)}, 0.0, (-np.inf, np.inf))
    >>> [round(end, 2) for end in curve.interval(0.6827)]
    [-1.0, 1.0]
    """

    name: str = eqx.field(static=True)
    values: Float[np.ndarray, " value"]
    fall: Float[np.ndarray, " value"]
    parameters: dict[str, Float[np.ndarray, "value ..."]]
    best: Parameters
    best_value: float
    support: tuple[float, float]
    messages: tuple[str, ...] = ()
    unit: str = eqx.field(static=True, default="")
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Best value, intervals and messages."""
        spans = [
            f"{100 * level:.3g} %: {text(self._crossing(-1, height))} to {text(self._crossing(1, height))}"
            for level, height in INTERVALS.items()
        ]
        return block(
            f"Profile of {self.name}: highest at {text(self.best_value)}, {length(self.values)} values of "
            f"{extent(self.values)}",
            *spans,
            *self.messages,
        )

    def interval(self, level: float = 0.6827) -> tuple[float, float]:
        """Interval with q below the quantile of chi-square: 1 for 68 %, 3.84 for 95 %.

        The lower end is zero if the support ends at zero (a signal that cannot be negative) and q stays below the
        quantile there: L is known at zero itself. No other end of a support can end an interval: if q stays below the
        quantile up to it, the end is infinite, with a warning. The end is NaN if the values do not reach far enough.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level must be between 0 and 1, not {level}")
        height = float(chi2.ppf(level, 1))
        return self._said(-1, height), self._said(1, height)

    def upper_limit(self, level: float = 0.95) -> float:
        """One-sided limit: the value above the best with q = 2.71 for 95 %.

        Infinite, with a warning, if q stays below that up to the end of the support; NaN as in `interval`.
        """
        if not 0.5 < level < 1.0:
            raise ValueError(f"the level of a limit must be between 0.5 and 1, not {level}")
        return self._said(1, float(chi2.ppf(2.0 * level - 1.0, 1)))

    def _said(self, side: int, height: float) -> float:
        """The crossing, with a warning if there is none."""
        end = self._crossing(side, height)
        if np.isinf(end):
            edge, kind = self.support[side > 0], "limit" if side > 0 else "lower end"
            warnings.warn(
                f"q is below {height:.3g} up to the end of the prior of {self.name!r}, {edge:g}: there is no {kind} "
                "within; widen the prior, or constrain the parameters that are degenerate with it",
                stacklevel=3,
            )
        return end

    def _crossing(self, side: int, height: float) -> float:
        beyond = side * (self.values - self.best_value) > 0
        order = np.argsort(side * self.values[beyond])
        # the root of q is nearly straight
        at = np.append(self.best_value, self.values[beyond][order])
        root = np.append(0.0, np.sqrt(np.minimum(self.fall[beyond][order], 1e4)))  # finite for impossible values
        reached = np.flatnonzero(root >= np.sqrt(height))
        edge = self.support[side > 0]
        if not reached.size:
            ended = np.isclose(at[-1], edge, rtol=1e-6, atol=1e-12 * abs(at[0] - at[-1]))
            return np.nan if not ended else 0.0 if side < 0 and edge == 0 else side * np.inf
        # in units of the range: cross sections are smaller than the tolerances of root finders
        last, scale = reached[0], abs(at[-1] - at[0])
        curve = PchipInterpolator(np.abs(at - at[0]) / scale, root - np.sqrt(height))
        low, high = np.abs(at[last - 1 : last + 1] - at[0]) / scale
        return float(at[0] + side * scale * brentq(lambda u: float(curve(u)), low, high))

    def plot(self, ax=None, label: str | None = None):
        """Draw q against the values with the 68 % and 95 % intervals; returns the axes.

        `ax`: axes to draw in. `label` in place of the name; the unit of the profile follows it.
        """
        from gammajax.plots.profile_curves import plot_profile

        return plot_profile(self, ax, label)


def profile(
    posterior,
    name: str,
    values=None,
    *,
    constraints: list[str] | None = None,
    initial: dict | None = None,
    units: dict[str, str] | None = None,
    progress: bool = True,
) -> Profile:
    """Profile likelihood over one parameter, or one number of a vector as in "position[0]".

        q(x) = 2 (ln L_max - max ln L at fixed x)

    - `posterior`: a [`gammajax.Posterior`][] or [`gammajax.Asimov`][]; `name` of the parameter.
    - `values`: where; by default steps from the maximum outwards, until q is 9 or the support ends.
    - `constraints`: parameters whose priors are constraint terms; by default all but what is profiled, none for `[]`
      (module [`gammajax.statistics.conditional`][]). Flat priors are none in any case.
    - `initial`: parameters near the maximum; by default it is searched for as [`gammajax.fit`][] does.
    - `units` of parameters by name, as those of samplers: kept with the profile, for its plot.
    - `progress`: show how far it is, after some seconds.

    Returns a [`gammajax.Profile`][]. The fit at each value starts from its neighbour's maximum, outwards from the best
    and then back; the higher maximum is kept. Fits that did not converge are listed in `messages` and raise a warning.
    Raises `ValueError` for unknown names, also in `units`, values outside the support, and fractions that add up to
    one.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> observation = gj.io.ctao(
    ...     pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0, frame="galactic"
    ... )
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), observation, events=200)
    >>> posterior = gj.Posterior(
    ...     model, {"fraction": dist.Uniform(0.0, 1.0)}, observation, events, per_decade=20.0
    ... )
    >>> found = gj.profile(posterior, "fraction")
    >>> low, high = found.interval(0.95)
    >>> bool(low < found.best_value < high < 0.5)
    True
    >>> bool(gj.test_statistic(posterior, "fraction").significance > 5)
    True
    """
    with Progress(progress, f"profile over {name}", DELAY) as bar:
        return _profile(posterior, name, values, constraints, initial, units or {}, bar)


def _profile(posterior, name, values, constraints, initial, units, bar: Progress) -> Profile:
    parameter, index = locate(posterior, name)
    check_labels({one: shape(prior) for one, prior in posterior.priors.items()}, units=units)
    support = _support(posterior.priors[parameter], index)
    likelihood = Conditional.init(posterior, constraints, [name])
    best, converged = maximise(likelihood, {}, initial)
    near = referred(likelihood, best)
    found: dict[float, tuple[float, Parameters, bool]] = {}

    def at(value, start) -> float:
        """Fit at a value, keep the higher of this fit and what was found before, and return q there."""
        bar.say(f"{len(found)} values, now {value:.4g}")
        parameters, good = maximise(near, {name: value}, start)
        q = 2.0 * float(difference(near, best, parameters))
        q = q if np.isfinite(q) else np.inf
        if value not in found or q < found[value][0]:
            found[value] = (q, parameters, good)
        return found[value][0]

    centre_value = float(np.asarray(best[parameter])[index])
    width = _width(posterior.priors[parameter], index)
    for edge in support:
        # an end of the support is approached, never reached
        if abs(centre_value - edge) < 0.01 * width and at(edge, best) < NOTHING:
            centre_value, (_, best, converged) = edge, found[edge]
            break
    if values is None:
        grid = []
        for edge in support:
            grid += _walk(at, found, best, centre_value, width, edge)
        found[centre_value] = (0.0, best, converged)
        grid = np.sort([centre_value, *grid])
    else:
        grid = np.sort(np.asarray(values, float).ravel())
        if grid.size == 0 or not (support[0] <= grid[0] and grid[-1] <= support[1]):
            raise ValueError(f"the values of {name!r} must lie in its support, {support[0]:g} to {support[1]:g}")
        for part in (grid[grid >= centre_value], grid[grid < centre_value][::-1]):
            start = best
            for value in part:
                at(float(value), start)
                start = found[float(value)][1]
    # back again: another start may lead to a higher maximum of the others
    for part in (grid[grid > centre_value][::-1], grid[grid < centre_value]):
        for far, value in zip(part[:-1], part[1:], strict=True):
            at(float(value), found[float(far)][1])
    fall_ = np.array([found[float(v)][0] for v in grid])
    lowest = int(np.argmin(fall_))
    # a fit at a value may be higher than the maximum of the search
    if fall_[lowest] < 0:
        best, centre_value = found[float(grid[lowest])][1], float(grid[lowest])
        fall_ = fall_ - fall_[lowest]
    bad = [float(v) for v in grid if not found[float(v)][2]]
    messages = [f"the fits at {name} = {', '.join(f'{v:.4g}' for v in bad)} have not converged"] if bad else []
    if not converged:
        messages.insert(0, "the best fit has not converged")
    for message in messages:
        warnings.warn(message, stacklevel=3)
    columns = [found[float(v)][1] for v in grid]
    parameters = {key: np.stack([np.asarray(column[key]) for column in columns]) for key in best}
    unit = units.get(parameter, "")
    return Profile(name, grid, fall_, parameters, best, centre_value, support, tuple(messages), unit)


def _walk(at, found, best, value, width, edge) -> list[float]:
    """Values from the best outwards, half a standard deviation apart, until q is deep or the support ends."""
    side, room = np.sign(edge - value), abs(edge - value)
    step, q = min(0.1 * width, 0.5 * room), np.inf
    for _ in range(STEPS_MAX if room > 0 else 0):
        q = at(value + side * step, best)
        if 0.2 < q < 5.0 or (q < 0.2 and step >= 0.5 * room):
            break
        step = min(step * float(np.clip(1.0 / np.sqrt(max(q, 1e-3)), 0.05, 20.0)), 0.5 * room)
    step = min(0.5 * step / np.sqrt(max(q, 0.05)), room / 6.0)
    grid, start = [], best
    while len(grid) < STEPS_MAX and step > 0:
        there = value + side * (len(grid) + 1) * step
        there = edge if abs(there - value) >= room * (1.0 - 1e-6) else there
        q = at(there, start)
        grid.append(there)
        start = found[there][1]
        if q > DEEP or there == edge:
            break
    return grid


class TestStatistic(eqx.Module):
    """Result of [`gammajax.test_statistic`][]: TS = 2 (ln L_max - ln L_null).

    - `name`, `null`; `value`: TS; `significance`: sqrt(TS), in standard deviations; `p_value`.
    - `at_boundary`: whether the null lies at an end of the support, so that TS is zero in half of all cases.
    - `best`, `null_parameters`: parameters that maximise the likelihood, without and with the null.
    - `undefined`: parameters without meaning under the null; `messages`: problems, in words.

    >>> import gammajax as gj
    >>> found = gj.TestStatistic("flux", 0.0, 25.0, p_value=2.9e-7, at_boundary=True, best={}, null_parameters={})
    >>> found.significance
    5.0
    """

    __test__ = False  # not for pytest

    name: str = eqx.field(static=True)
    null: float
    value: float
    p_value: float
    at_boundary: bool
    best: Parameters
    null_parameters: Parameters
    undefined: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """TS with its significance, the best fit and messages."""
        return block(
            f"TestStatistic of {self.name} = {text(self.null)}: TS = {text(self.value)}",
            f"{self.significance:.2f} sigma, p = {text(self.p_value)}",
            f"best fit: {listed_values(self.best)}",
            *(["the null lies at an end of the support: half chi-square"] if self.at_boundary else []),
            *self.messages,
        )

    @property
    def significance(self) -> float:
        """Standard deviations of the normal distribution: sqrt(TS), one-sided at a boundary, else two-sided."""
        return float(np.sqrt(self.value))


def test_statistic(
    posterior,
    name: str,
    null: float = 0.0,
    *,
    constraints: list[str] | None = None,
    initial: dict | None = None,
    progress: bool = True,
) -> TestStatistic:
    """Likelihood-ratio test of one number against a value, by default against no signal: TS = 2 (ln L_max - ln L_null).

    - `posterior`, `name`: as of [`gammajax.profile`][]; `null`: the value.

    Under the null TS follows chi-square with one degree of freedom (Wilks 1938). At an end of the support, for example
    a fraction of zero, TS is half chi-square and half zero (Chernoff 1954, doi:10.1214/aoms/1177728725; Self & Liang
    1987, doi:10.1080/01621459.1987.10478472). If a parameter is undefined under the null, for example the mass without
    a signal, the p-value is local, and a message says so. TS is infinite if the null makes events impossible, for
    example without a background.

    Returns a [`gammajax.TestStatistic`][]. `constraints`, `initial`, `progress`: as of [`gammajax.profile`][], which
    raises the same errors.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), run, events=200)
    >>> priors = {"fraction": dist.Uniform(0.0, 1.0)}
    >>> posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    >>> gj.test_statistic(posterior, "fraction", progress=False).significance > 5.0
    True
    """
    with Progress(progress, f"test of {name} = {null:g}", DELAY):
        return _test_statistic(posterior, name, null, constraints, initial)


def _test_statistic(posterior, name, null, constraints, initial) -> TestStatistic:
    parameter, index = locate(posterior, name)
    low, high = _support(posterior.priors[parameter], index)
    if not low <= null <= high:
        raise ValueError(f"the null of {name!r} must lie in its support, {low:g} to {high:g}, not at {null:g}")
    likelihood = Conditional.init(posterior, constraints, [name])
    best, converged = maximise(likelihood, {}, initial)
    undefined = {
        label: value
        for label, value in undefined_under(posterior, name, null, best).items()
        if not constrains(likelihood, label)
    }
    under, well = maximise(likelihood, {name: null, **undefined}, best)
    value = fall(likelihood, best, under)
    if np.isnan(value):
        raise ValueError(f"the likelihood is not a number (NaN) at the best fit or under {name} = {null:g}")
    at_boundary = null in (low, high)
    if at_boundary and value < 0.1:
        # a maximum at the boundary is approached, never reached: check the slope there
        inward = float(_slope(posterior, under, parameter)[index]) * (1.0 if null == low else -1.0)
        if inward <= 0:
            value, best, converged = 0.0, under, well
        # so close to the end that the unconstrained space is flat
        converged |= abs(float(best[parameter][index]) - null) < 0.01 * _width(posterior.priors[parameter], index)
    # the null may be the maximum itself, to the precision of the fit
    value = max(value, 0.0)
    tail = float(chi2.sf(value, 1))
    p_value = (0.5 * tail if value > 0 else 1.0) if at_boundary else tail
    messages = []
    if not (converged and well):
        messages.append("a fit of the test has not converged; TS may be too small or too large")
    if undefined:
        messages.append(
            f"{', '.join(undefined)} without meaning under the null: the p-value is local; the global p-value "
            "is larger (look-elsewhere effect, Gross & Vitells 2010, arXiv:1005.1891)"
        )
    for message in messages:
        warnings.warn(message, stacklevel=3)
    return TestStatistic(name, float(null), value, p_value, at_boundary, best, under, tuple(undefined), tuple(messages))


test_statistic.__test__ = False  # not for pytest, either


def undefined_under(posterior, name, null, best) -> dict[str, float]:
    """Numbers without effect under the null, at their values of the best fit."""
    parameter, index = locate(posterior, name)
    under = {**best, parameter: jnp.asarray(best[parameter]).at[index].set(null)}
    near = referred(posterior, under)
    draws = [posterior.sample_prior(jax.random.key(number)) for number in range(3)]
    found = {}
    for other in sorted(posterior.priors):
        for label in labels({other: best[other]}) if other != parameter else ():
            try:
                _, at = locate(posterior, label)
            except ValueError:  # fractions
                continue
            moved = [{**under, other: under[other].at[at].set(draw[other][at])} for draw in draws]
            if all(abs(float(_ratio(near, under) - _ratio(near, point))) < NOTHING for point in moved):
                found[label] = float(best[other][at])
    return found


def constrains(likelihood, label) -> bool:
    """Whether the prior of a number is a constraint term that is not flat."""
    name, index = locate(likelihood.posterior, label)
    if name not in likelihood.counted or not bool(likelihood.counted[name][index]):
        return False
    prior, ones = likelihood.priors[name], likelihood.counted[name]
    middle = likelihood.middle[name]
    slope = jax.grad(lambda v: constraint_term(prior, v, ones))
    curved = jax.jvp(slope, (middle,), (jnp.ones_like(middle),))[1]
    return bool(np.any(np.asarray(slope(middle))) or np.any(np.asarray(curved)))


def _support(prior, index) -> tuple[float, float]:
    """Ends of the support of one number."""
    low, high = (float(np.broadcast_to(end, shape(prior))[index]) for end in bounds(prior))
    return low, high


def _width(prior, index) -> float:
    """Width of the middle 68 % of a prior: an initial scale."""
    low, high = (np.asarray(quantile(prior, probability)) for probability in (0.16, 0.84))
    return float((high - low)[index])


@eqx.filter_jit
def _ratio(posterior, parameters):
    return posterior.log_likelihood_ratio(parameters)


@eqx.filter_jit
def _slope(posterior, parameters, name: str):
    return jax.grad(lambda v: posterior.with_reference(parameters).log_likelihood_ratio({**parameters, name: v}))(
        parameters[name]
    )
