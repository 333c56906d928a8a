"""Profile likelihoods of a scale at many settings of other parameters, all of them side by side.

The scale is proportional to the signal, zero for none: it is taken as it is, in units of its own error, which are found
for each setting. All settings have the same maximum without a signal, to which the likelihood is referred. Settings are
arguments of one compiled program, so neither their number nor that of values changes what is compiled.
"""

import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gammajax.common.progress import say
from gammajax.model.priors import centre, quantile
from gammajax.samplers.space import constrained, dimension_of, referred, unconstrained
from gammajax.statistics.climbs import at_ends, climb, measured, solved
from gammajax.statistics.conditional import Conditional, maximise
from gammajax.statistics.profiles import constrains, undefined_under

GUESS = 0.1  # standard deviation of a number in the unconstrained space, before it is measured
UNITS = 14  # steps to the unit of the scale; the distance in its logarithm halves at each
RISEN, PEAKS = 0.02, 3  # a profile above the maximum by so much in ln L is a new maximum, at most so often
# values on both sides of the maximum, in standard deviations: dense about the limits
BELOW = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
ABOVE = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
REACH, FURTHER, ROUNDS = 36.0, 1.4, 12  # q of the last value, factor between further values, and most of them
AT_ONCE, EVENTS_AT_ONCE = 32, 4_000_000  # points, and points times events, in one compiled call


class Scan(NamedTuple):
    """Profile of the scale at one setting: its values with zero first, and q = 2 (ln L_max - ln L) there.

    One of the values is the best. Without any effect of the scale on the likelihood there is only zero.
    """

    values: np.ndarray
    fall: np.ndarray
    best: float


def scan(
    posterior,
    scale: str,
    settings: list[dict[str, Any]],
    constraints: list[str] | None = None,
    none: dict[str, Any] | None = None,
) -> tuple[list[Scan], dict[str, Any]]:
    """Profiles of the parameter `scale` at each of the `settings`, {parameter: value}, over all other parameters.

    Also returned: the parameters of the maximum without a signal, at the first of the settings.

    All settings fix the same parameters. `none`: the maximum without a signal, if it is known. `constraints` as of
    [`gammajax.profile`][]. Raises `ValueError` for names and constraints that the posterior does not have, and if the
    events cannot come from the model without the scale.
    """
    space = _Space(posterior, scale, settings, constraints, none)
    space.find_units()
    which = np.flatnonzero(space.known)
    found: list[Scan] = [Scan(np.zeros(1), np.zeros(1), 0.0) for _ in settings]
    for row, one in zip(which, space.scanned(which), strict=True):
        found[row] = one
    return found, space.none_parameters


class _Space:
    """Points on the host: the scale in units of each setting, and the other numbers in the unconstrained space."""

    def __init__(self, posterior, scale, settings, constraints, none):
        if scale not in posterior.priors or np.ndim(centre(posterior.priors[scale])):
            raise ValueError(f"{scale!r} must be a parameter that is one number, out of {sorted(posterior.priors)}")
        for name, value in settings[0].items():
            if name not in posterior.priors or name == scale:
                raise ValueError(f"{name!r} is no parameter beside {scale!r}; they are {sorted(posterior.priors)}")
            if np.shape(value) != np.shape(centre(posterior.priors[name])):
                shape = np.shape(centre(posterior.priors[name]))
                raise ValueError(f"{name!r} has shape {shape}, not {np.shape(value)}")
        conditional = Conditional.init(posterior, constraints, [scale])
        counted = {name: mask for name, mask in conditional.counted.items() if name not in settings[0]}
        likelihood = Conditional(posterior, counted, {}, conditional.middle)
        self.names = sorted(set(posterior.priors) - {scale} - set(settings[0]))
        self.scale, self.prior = scale, posterior.priors[scale]
        say("without a signal")
        if none is None:
            none = self._without(likelihood, settings[0])
        others = {name: posterior.priors[name] for name in self.names}
        x = unconstrained(others, {name: none[name] for name in self.names}) if others else jnp.zeros(0)
        (self.none, closed), self.dtype = at_ends(others, np.asarray(x, np.float64)), x.dtype
        self.size = 1 + self.none.size
        self.floored = np.arange(self.size) == 0
        self.closed = np.append(False, closed)
        self.likelihood = referred(likelihood, none)
        self.held = {name: np.stack([np.asarray(one[name], float) for one in settings]) for name in settings[0]}
        self.unit = np.full(len(settings), float(np.asarray(quantile(self.prior, 0.84))))
        rows = sum(np.size(term.count) for term in getattr(_innermost(posterior), "terms", ()))
        self.batch = int(np.clip(EVENTS_AT_ONCE // max(rows, 1), 1, AT_ONCE))
        self.offset = float(_ratio(self.likelihood, none))
        self.none_parameters = none

    def _without(self, likelihood, setting) -> dict:
        """Parameters of the maximum without a signal; those without meaning there stay at the centre of their prior."""
        rest = _Rest(likelihood.posterior, {name: jnp.asarray(value, float) for name, value in setting.items()})
        counted = {name: mask for name, mask in likelihood.counted.items() if name in rest.priors}
        under = Conditional(rest, counted, {}, {name: likelihood.middle[name] for name in rest.priors})
        undefined = undefined_under(rest, self.scale, 0.0, under.middle)
        held = {label: value for label, value in undefined.items() if not constrains(under, label)}
        none, converged = maximise(under, {**held, self.scale: 0.0})
        none = {**none, **rest.values}
        if not np.isfinite(float(_ratio(referred(likelihood, none), none))):
            raise ValueError(
                f"the events are impossible with {self.scale} = 0: limits need a background that explains them"
            )
        if not converged:
            warnings.warn(f"the fit without a signal ({self.scale} = 0) has not converged", stacklevel=4)
        return none

    def at(self, points, which) -> tuple[np.ndarray, np.ndarray]:
        """Heights and gradients at points [point, number] of the settings `which`."""
        heights, gradients = np.empty(len(points)), np.empty(points.shape)
        for first in range(0, len(points), self.batch):
            some = np.resize(np.arange(first, min(first + self.batch, len(points))), self.batch)
            rows = which[some]
            held = {name: jnp.asarray(values[rows], self.dtype) for name, values in self.held.items()}
            place, unit = jnp.asarray(points[some], self.dtype), jnp.asarray(self.unit[rows], self.dtype)
            found = _heights(self.likelihood, self.scale, place, unit, held)
            stop = min(self.batch, len(points) - first)
            part = slice(first, first + stop)
            heights[part], gradients[part] = (np.asarray(one, np.float64)[:stop] for one in found)
        return np.where(np.isfinite(heights), heights - self.offset, -np.inf), gradients

    def find_units(self) -> None:
        """Set units to where ln L alone would fall by 1/2, beside its slope inwards; unknown where nothing changes."""
        rows = np.arange(self.unit.size)
        point = np.repeat(np.append(0.0, self.none)[None], rows.size, 0)
        one = point + np.append(1.0, 0.0 * self.none)
        self.known = np.ones(rows.size, bool)
        for _ in range(UNITS):
            say("scale of the signal")
            _, slope = self.at(point, rows)
            height, beyond = self.at(one, rows)
            slope, beyond = slope[:, 0], beyond[:, 0]
            possible = np.isfinite(height) & np.isfinite(beyond)
            curvature = np.maximum(slope - np.where(possible, beyond, 0.0), 0.0)
            inward = np.minimum(slope, 0.0)
            self.known = ~possible | (curvature > 0) | (inward < 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = (inward + np.sqrt(inward**2 + curvature)) / curvature
            factor = np.where(curvature > 1e-6 * inward**2, factor, 0.5 / np.maximum(-inward, 1e-30))
            factor = np.where(possible & self.known, np.clip(factor, 1e-6, 1e3), np.where(possible, 1.0, 1e-2))
            self.unit = self.unit * factor
            if np.all(np.abs(np.log(factor)) < 0.1):
                break

    def scanned(self, which) -> list[Scan]:
        """Profiles of the settings `which`, in the units of the parameter."""

        def at(of):
            return lambda points, index: self.at(points, of[index])

        if not which.size:
            return []
        start = np.repeat(np.append(1.0, self.none)[None], which.size, 0)
        width = np.repeat(np.append(1.0, np.full(self.none.size, GUESS))[None], which.size, 0)
        closed = np.repeat(self.closed[None], which.size, 0)
        best, curvature = start, np.zeros(0)
        for _ in range(2):
            curvature, width = measured(at(which), best, width, self.floored, self.dtype)
            best, _ = climb(at(which), best, curvature, width, closed, self.floored)
        found: list[list] = []
        for _ in range(PEAKS):
            found, best, top = self._profiles(which, best, curvature, width)
            if all(max(height for _, height, _ in of) < peak + RISEN for of, peak in zip(found, top, strict=True)):
                break
            best = np.stack([max(of, key=lambda one: one[1])[2] for of in found])
            best, _ = climb(at(which), best, curvature, width, closed, self.floored)
        result = []
        for row, of in zip(which, found, strict=True):
            values, heights = (np.array([one[i] for one in of]) for i in range(2))
            values, first = np.unique(values, return_index=True)
            heights = heights[first]
            fall = 2.0 * (heights.max() - heights)
            result.append(Scan(values * self.unit[row], fall, float(values[np.argmax(heights)] * self.unit[row])))
        return result

    def _profiles(self, which, best, curvature, width):
        """Values, heights and points of each profile, and the maxima that they start from."""
        top, slopes = self.at(best, which)
        shift = self._along(best, curvature, width)
        along = np.einsum("pi,pij,pj->p", shift, curvature, shift)
        inward = np.minimum(slopes[:, 0], 0.0) * (best[:, 0] <= 0.0)
        along = np.maximum(along, 1e-12)
        # where q = 1, also for a maximum at zero: slope v - curvature v^2 / 2 = -1 / 2
        error = (inward + np.sqrt(inward**2 + along)) / along
        found: list[list] = []
        wanted = []
        for i, point in enumerate(best):
            at_best = [(float(point[0]), float(top[i]), point)]
            # the maximum without a signal is known
            found.append(at_best if point[0] == 0 else [(0.0, 0.0, np.append(0.0, self.none)), *at_best])
            steps = np.concatenate([-np.array(BELOW), ABOVE]) * error[i]
            near = point[0] + steps
            wanted += [(i, value, point + (value - point[0]) * shift[i]) for value in near[near > 0.02 * error[i]]]
        for _ in range(ROUNDS):
            owner = np.array([one[0] for one in wanted])
            points = np.stack([one[2] for one in wanted])
            points[:, 0] = [one[1] for one in wanted]
            fixed = np.repeat((self.closed | self.floored)[None], owner.size, 0)
            points, heights = climb(
                lambda some, index, of=which[owner]: self.at(some, of[index]),
                points,
                curvature[owner],
                width[owner],
                fixed,
                self.floored,
            )
            for i, point, height in zip(owner, points, heights, strict=True):
                found[i].append((float(point[0]), float(height), point))
            wanted = []
            for i, of in enumerate(found):
                value, height, point = max(of, key=lambda one: one[0])
                if 2.0 * (max(one[1] for one in of) - height) < REACH:
                    away = value * (FURTHER - 1.0)
                    wanted.append((i, value + away, point + away * shift[i]))
            if not wanted:
                break
        return found, best, top

    def _along(self, best, curvature, width) -> np.ndarray:
        """Change of all numbers along each profile, for a change of one in the scale."""
        free = np.repeat((~self.closed & ~self.floored)[None], len(best), 0)
        shift = solved(curvature, -curvature[:, 0] * free, free, width)
        shift[:, 0] = 1.0
        return shift


class _Rest(eqx.Module):
    """A posterior with some of its parameters at fixed values, for fits of the others."""

    posterior: Any
    values: dict[str, Any]

    @property
    def priors(self):
        return {name: prior for name, prior in self.posterior.priors.items() if name not in self.values}

    @property
    def reference_parameters(self):
        return self._others(self.posterior.reference_parameters)

    @property
    def truth(self):
        return self._others(getattr(self.posterior, "truth", {}))

    def log_likelihood_ratio(self, parameters):
        return self.posterior.log_likelihood_ratio({**parameters, **self.values})

    def sample_prior(self, key):
        return self._others(self.posterior.sample_prior(key))

    def with_reference(self, parameters):
        return _Rest(self.posterior.with_reference({**parameters, **self.values}), self.values)

    def _others(self, parameters):
        return {name: value for name, value in parameters.items() if name not in self.values}


def _innermost(posterior):
    """The posterior within an Asimov data set."""
    return getattr(posterior, "posterior", posterior)


@eqx.filter_jit
def _ratio(likelihood, parameters):
    return likelihood.log_likelihood_ratio(parameters) + likelihood.log_prior(parameters)


@eqx.filter_jit
def _heights(likelihood, scale: str, points, unit, held):
    """Log densities at many points relative to no signal, and their gradients."""
    others = {name: prior for name, prior in likelihood.priors.items() if name != scale and name not in held}
    assert points.shape[1] == 1 + sum(dimension_of(prior) for prior in others.values())

    def height(point, unit, held):
        parameters = {**constrained(others, point[1:])[0], **held, scale: point[0] * unit}
        return likelihood.log_likelihood_ratio(parameters) + likelihood.log_prior(parameters)

    return jax.vmap(jax.value_and_grad(height))(points, unit, held)
