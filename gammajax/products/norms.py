"""Many free norms at once: their maximum, covariance and profiles, for points of a spectrum or of a light curve.

The likelihood of a sum of sources is concave in their norms. Profiles therefore take norms as they are, not in the
unconstrained space of samplers, and all values of all norms climb side by side: each step is one compiled call for
many points, with one gradient each (module `gammajax.statistics.climbs`).
"""

import warnings
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.stats import chi2, norm

from gammajax.common.progress import say
from gammajax.model.mixture import Mixture
from gammajax.model.priors import bounds
from gammajax.posterior import Posterior
from gammajax.samplers.space import constrained, dimension_of, referred, unconstrained
from gammajax.statistics.climbs import GAIN, at_ends, climb, measured, solved
from gammajax.statistics.profiles import DEEP, Profile

NORM = "norm of each point"  # the name of the parameter, with spaces to differ from others
GUESS = 0.1  # standard deviation of a number in the unconstrained space, before it is measured
SCANNED = (0.5, 1.0, 1.5, 2.0, 3.0)  # values of a profile on both sides of the maximum, in standard deviations
FURTHER, ROUNDS = 1.5, 8  # a profile that is not yet deep is continued by this factor, at most so often
RISEN, PEAKS = 0.02, 5  # a profile above the maximum by so much in ln L is a new maximum, at most so often
LEAST = 1e-3  # expected events of a bin
ROOM = 100.0  # a norm may reach this many expected events, and the norm of 10
AT_ONCE, EVENTS_AT_ONCE = 32, 4_000_000  # points, and points times events, in one compiled call


class Points(eqx.Module):
    """What points of a spectrum and of a light curve share."""

    norm: eqx.AbstractVar[Float[np.ndarray, " point"]]
    ts: eqx.AbstractVar[Float[np.ndarray, " point"]]
    covariance: eqx.AbstractVar[Float[np.ndarray, "point point"]]

    @property
    def norm_err(self) -> Float[np.ndarray, " point"]:
        """Symmetric errors: roots of the variances."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def correlation(self) -> Float[np.ndarray, "point point"]:
        """Correlation matrix of the norms."""
        return self.covariance / np.outer(self.norm_err, self.norm_err)

    @property
    def sqrt_ts(self) -> Float[np.ndarray, " point"]:
        """Significance in standard deviations, negative for a negative norm."""
        return np.sign(self.norm) * np.sqrt(self.ts)

    @property
    def is_ul(self) -> np.ndarray:
        """Points to show as upper limits: below two standard deviations."""
        return ~(self.sqrt_ts >= 2.0)


class Norms(NamedTuple):
    """Norms at the maximum of the likelihood, with the names and meanings of [`gammajax.FluxPoints`][]."""

    norm: Float[np.ndarray, " point"]
    norm_errn: Float[np.ndarray, " point"]
    norm_errp: Float[np.ndarray, " point"]
    norm_ul: Float[np.ndarray, " point"]
    ts: Float[np.ndarray, " point"]
    covariance: Float[np.ndarray, "point point"]
    norm_scan: Float[np.ndarray, "point value"]
    stat_scan: Float[np.ndarray, "point value"]
    stat: float
    messages: tuple[str, ...]


def replaced(mixture: Mixture, path: str, change) -> Mixture:
    """The mixture with another component at a path, made from the one that is there."""
    name, _, inner = path.partition("/")
    number = mixture.names.index(name)
    part = mixture.parts[number]
    new = replaced(part, inner, change) if isinstance(part, Mixture) else change(part)
    return eqx.tree_at(lambda m: m.parts[number], mixture, new, is_leaf=lambda x: x is part)


def most_norm(events: Float[np.ndarray, " number"]) -> Float[np.ndarray, " number"]:
    """Largest norms, by the events that a norm of one expects."""
    return 10.0 + ROOM / np.maximum(events, LEAST)


def require_events(events: Float[np.ndarray, " point"], edges: Float[np.ndarray, " edge"], component: str) -> None:
    """Raise `ValueError` naming the first bin of energy in which a norm of one expects no events."""
    low = np.flatnonzero(~(events > LEAST))
    if low.size:
        raise ValueError(
            f"the bin from {edges[low[0]]:.4g} to {edges[low[0] + 1]:.4g} TeV expects {max(events[low[0]], 0.0):.2g} "
            f"events of {component!r}: take edges within the energies of the events, or wider bins"
        )


def estimate(
    posterior: Posterior,
    start: dict,
    events: Float[np.ndarray, " number"],
    number: int,
    n_sigma: float,
    n_sigma_ul: float,
) -> Norms:
    """Estimates of the first `number` of the norms in `NORM`, with all other numbers free.

    `start`: parameters near the maximum; `events` that a norm of one expects. Errors end where the profile falls by
    q = `n_sigma`^2, limits where it falls by `n_sigma_ul`^2. An error ends at a norm of zero if q is smaller there.
    """
    say("joint fit")
    most = np.asarray(bounds(posterior.priors[NORM])[1], np.float64)
    space, scans = _Space(posterior, start, events), []
    for _ in range(PEAKS):
        scans = _scans(space, number, most)
        highest = min(scans, key=lambda scan: scan.fall.min())
        if highest.fall.min() > -2.0 * RISEN:
            break
        space.move(highest.points[int(np.argmin(highest.fall))])
    profiles = [scan.profile(f"norm {i}", float(space.best[i]), float(most[i])) for i, scan in enumerate(scans)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an infinite limit is there to see
        ends = np.array([profile.interval(float(chi2.cdf(n_sigma**2, 1))) for profile in profiles])
        limits = np.array([profile.upper_limit(float(norm.cdf(n_sigma_ul))) for profile in profiles])
    best, up = space.best[:number].copy(), ends[:, 1] - space.best[:number]
    longest = max(profile.values.size for profile in profiles)
    values, fall = (
        np.stack([np.pad(array, (0, longest - array.size), constant_values=np.nan) for array in arrays])
        for arrays in ([profile.values for profile in profiles], [profile.fall for profile in profiles])
    )
    return Norms(
        norm=best,
        norm_errn=best - ends[:, 0],
        norm_errp=up,
        norm_ul=limits,
        ts=fall[:, 0],
        covariance=space.covariance(up),
        norm_scan=values,
        stat_scan=fall,
        stat=-2.0 * (space.log_likelihood_ratio(posterior) + posterior.log_reference_exact()),
        messages=() if space.converged else ("the joint fit has not converged",),
    )


class _Scan(NamedTuple):
    """Profile of one norm: q at its values, and the points of the maxima there."""

    values: np.ndarray
    fall: np.ndarray
    points: np.ndarray

    def profile(self, name, best, most) -> Profile:
        """The same in order, for intervals and limits; zero comes first."""
        order = np.argsort(self.values)
        return Profile(name, self.values[order], np.maximum(self.fall[order], 0.0), {}, {}, best, (0.0, most))


class _Space:
    """The log density over norms as they are and all other numbers in the unconstrained space, for steps on the host.

    `best` is the highest point, and heights are relative to it; `curvature` has minus the second derivatives there.
    `closed` masks other numbers at an end of their support: they stay. `width` has standard deviations along each
    number alone.
    """

    def __init__(self, posterior, start: dict, events: np.ndarray):
        others = {name: prior for name, prior in posterior.priors.items() if name != NORM}
        x = unconstrained(others, {name: start[name] for name in others}) if others else jnp.zeros(0)
        self.posterior, self.dtype, self.number = posterior, x.dtype, events.size
        self.norms = np.arange(events.size + x.size) < events.size
        x, closed = at_ends(others, np.asarray(x, np.float64))
        best = np.append(np.asarray(start[NORM], np.float64), x)
        self.closed = np.append(np.zeros(events.size, bool), closed)
        self.width = np.append(np.sqrt(np.maximum(events, 1.0)) / np.maximum(events, 1e-3), np.full(x.size, GUESS))
        rows = sum(np.size(term.count) for term in posterior.terms)
        self.batch = int(np.clip(EVENTS_AT_ONCE // max(rows, 1), 1, AT_ONCE))
        self.top = 0.0
        self.move(best)

    def move(self, point) -> None:
        """Climb to the maximum near a point, and measure the curvature there."""
        self.best, self.converged = np.array(point), False
        for _ in range(PEAKS):
            self.refer()
            self.curvature = self._measured()
            (self.best,), (gained,) = self.climb(self.best[None], self.closed[None])
            self.converged = bool(gained < RISEN)
            if gained < GAIN:
                break
        self.refer()

    def refer(self) -> None:
        """Take heights relative to the highest point."""
        self.posterior = referred(self.posterior, self.parameters(self.best))
        self.top += self.at(self.best[None])[0][0]

    def parameters(self, point) -> dict:
        """Parameters at a point."""
        return _parameters(self.posterior, jnp.asarray(point, self.dtype))

    def log_likelihood_ratio(self, posterior) -> float:
        """Likelihood at the highest point, relative to the reference of this posterior."""
        some = jnp.broadcast_to(jnp.asarray(self.best, self.dtype), (self.batch, self.best.size))
        return float(_heights(posterior, some)[0][0]) - float(_prior(posterior, self.parameters(self.best)))

    def at(self, points) -> tuple[np.ndarray, np.ndarray]:
        """Heights and gradients at points [point, number]."""
        heights, gradients = np.empty(len(points)), np.empty(points.shape)
        for first in range(0, len(points), self.batch):
            some = np.resize(points[first : first + self.batch], (self.batch, points.shape[1]))
            part = slice(first, min(first + self.batch, len(points)))
            found = _heights(self.posterior, jnp.asarray(some, self.dtype))
            heights[part], gradients[part] = (np.asarray(a, np.float64)[: part.stop - first] for a in found)
        return np.where(np.isfinite(heights), heights - self.top, -np.inf), gradients

    def _measured(self) -> np.ndarray:
        """Minus the second derivatives at the highest point."""
        (curvature,), (self.width,) = measured(self._at, self.best[None], self.width[None], self.norms, self.dtype)
        return curvature

    def climb(self, points, fixed) -> tuple[np.ndarray, np.ndarray]:
        """Maxima from points [point, number] with the `fixed` numbers of each at their values, and their heights."""
        curvature = np.repeat(self.curvature[None], len(points), 0)
        return climb(self._at, points, curvature, self.width, fixed, self.norms)

    def _at(self, points, _) -> tuple[np.ndarray, np.ndarray]:
        return self.at(points)

    def covariance(self, up) -> np.ndarray:
        """Inverse of the curvature, for the first norms. One at zero has the error `up`, shared along its profile."""
        at_zero = self.norms & (self.best <= 0.0)
        inside = ~self.closed & ~at_zero
        identity = np.eye(self.best.size)
        each = np.repeat(self.curvature[None], self.best.size, 0)
        whole = solved(each, identity * inside, np.repeat(inside[None], self.best.size, 0), self.width)
        for i in np.flatnonzero(at_zero[: up.size]):
            shift = self.along(i)
            whole = whole + up[i] ** 2 * np.outer(shift, shift)
        return whole[: up.size, : up.size]

    def along(self, i) -> np.ndarray:
        """Change of all numbers along the profile of one norm, for a change of one."""
        free = ~self.closed & ~(self.norms & (self.best <= 0.0))
        free[i] = False
        shift = solved(self.curvature[None], -self.curvature[None, i] * free, free[None], self.width)[0]
        shift[i] = 1.0
        return shift


def _scans(space: _Space, number: int, most: np.ndarray) -> list[_Scan]:
    """Profiles of the first norms at zero and at values on both sides of the maximum, until q is deep above it."""
    _, gradients = space.at(space.best[None])
    wanted = []
    for i in range(number):
        along, best = space.along(i), space.best[i]
        curvature, slope = max(along @ space.curvature @ along, 1e-12), min(gradients[0, i], 0.0)
        # where q = 1, also for a maximum at zero: slope v - curvature v^2 / 2 = -1 / 2
        error = (slope + np.sqrt(slope**2 + curvature)) / curvature
        steps = np.array([0.0, *SCANNED])
        values = np.unique(np.clip([0.0, *(best - error * steps[1:]), *(best + error * steps)], 0.0, most[i]))
        wanted += [(i, value, space.best + (value - best) * along) for value in values if value != best or best == 0.0]
    found: list[list] = [[] for _ in range(number)]
    for _ in range(ROUNDS):
        owner, values, points = (np.array(column) for column in zip(*wanted, strict=True))
        points[np.arange(owner.size), owner] = values
        fixed = np.repeat(space.closed[None], owner.size, 0)
        fixed[np.arange(owner.size), owner] = True
        points, heights = space.climb(points, fixed)
        for i, value, point, height in zip(owner, values, points, heights, strict=True):
            found[i].append((value, -2.0 * height, point))
        wanted = []
        for i, of in enumerate(found):
            value, fall, point = max(of, key=lambda one: one[0])
            if fall < DEEP and value < most[i]:
                away = (FURTHER - 1.0) * max(value - space.best[i], 1e-3)
                share = away / max(value - space.best[i], 1e-3)
                wanted.append((i, min(value + away, most[i]), point + share * (point - space.best)))
        if not wanted:
            break
    return [_Scan(*(np.array(column) for column in zip(*of, strict=True))) for of in found]


@eqx.filter_jit
def _parameters(posterior, point):
    others = {name: prior for name, prior in posterior.priors.items() if name != NORM}
    number = point.size - sum(dimension_of(prior) for prior in others.values())
    return {**constrained(others, point[number:])[0], NORM: point[:number]}


def _prior(posterior, parameters):
    """Log density of the priors of all but the norms."""
    others = [prior.log_prob(parameters[name]).sum() for name, prior in posterior.priors.items() if name != NORM]
    return sum(others, start=jnp.zeros(()))


@eqx.filter_jit
def _heights(posterior, points):
    """Log densities at many points, flat in the norms, and their gradients."""

    def height(point):
        parameters = _parameters(posterior, point)
        return posterior.log_likelihood_ratio(parameters) + _prior(posterior, parameters)

    return jax.vmap(jax.value_and_grad(height))(points)
