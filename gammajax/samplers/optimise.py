"""Best fit: the maximum of likelihood x prior, and the Gaussian (Laplace) approximation about it.

One compiled program gives value and gradient of the log density at a point; all steps run on the host and call it.
Scipy's L-BFGS in the unconstrained space finds the neighbourhood, and Newton steps finish. Their curvature comes from
central differences of the gradient. Each Newton step takes the likelihood relative to the current point, so that single
precision does not limit the position of the maximum.
"""

import warnings
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro.distributions import MultivariateNormal, Normal
from numpyro.distributions.constraints import simplex
from scipy.optimize import minimize

from gammajax.common.display import block, document, estimates, words
from gammajax.common.progress import DELAY, Progress, say
from gammajax.model.priors import bounds
from gammajax.samplers.space import (
    constrained,
    dimension_of,
    ends,
    labels,
    labels_along,
    labels_of_space,
    log_density,
    prior_draws,
    referred,
    rounded_in,
    unconstrained,
)

DRAWS = 1024  # of the prior: for its widths, candidates, and the places of scans
CANDIDATES, MOST = 12, 64  # the prior median and draws of the prior; more, up to `MOST`, if the density is zero at all
STARTS = 8  # largest number of climbs: the next start only if the search from the last did not end at a maximum
# number of scans for a higher peak, points of a scan, least points for a number, and steps between points
SCANS, SCANNED, LEAST_SCANNED, BISECTIONS = 3, 96, 8, 12
HIGHER = 0.5  # least difference of log density of a higher point
NEAR, VALLEY = 2.0, 0.05  # a separate peak is worth a climb: largest depth below the highest, least valley between them
ITERATIONS = 200
NEWTON_STEPS, CHORDS = 40, 8  # steps, and steps with the same curvature
# differences of gradients: distances in standard deviations, and at most in widths of the prior, where valleys bend
STEP, REACH = 0.05, 0.02
SETTLED, TURNS = 4.0, 4  # largest change of curvature between two measurements, and measurements at one point
# estimated distance to the maximum, in standard deviations of the Laplace approximation
FINISHED, CONVERGED = 1e-4, 0.05
# negligible information, relative to the square of a prior's width; of a combination, relative to its numbers alone
FLAT, DEGENERATE = 1e-8, {np.dtype(np.float32): 3e-7, np.dtype(np.float64): 1e-10}
# a combination of correlated numbers is degenerate if known to WIDE widths of the priors only
CORRELATED, WIDE = 1e-3, 10.0
AWAY = 5.0  # largest distance of starts from the middle of a prior, in the unconstrained space
EDGE, OUT = 1e-2, 20.0  # negligible change of log density up to an edge; unconstrained coordinate of the edge
HALF = 0.5  # fall of the log density at a one-sided error
IMPOSSIBLE = 1e30  # in place of an infinite objective


class NotFinite(ValueError):
    """The posterior is not finite at the start of a search."""


class Fit(eqx.Module):
    """Maximum of likelihood x prior, as a density of the parameters themselves (no Jacobian).

    [`gammajax.fit`][] makes it.

    - `parameters`; `standard_deviations` of the same structure.
    - `names`, `covariance`: of all numbers in the parameters, in the order of `names` (the Hessian's inverse, carried
      to the parameters by the delta method).
    - `unconstrained_mean`, `unconstrained_covariance`: the same in the unconstrained space of samplers; a number at an
      end of its support is far out, without a width.
    - `log_posterior`: log L + log prior, not normalised.
    - `converged`; `gradient_norm`: sqrt(g C g), the estimated distance to the maximum in standard deviations.
    - `messages` about the fit, in words.
    - `calls`: evaluations of value and gradient, which take nearly all the time of a fit.

    A maximum at an end of the support has a one-sided error: the distance at which the log density, maximised over all
    other numbers, has fallen by 1/2. A maximum at zero is a normal result: half of all searches without a signal have
    it. In directions without information in the data, standard deviations are those of the priors.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), run, events=200)
    >>> priors = {"fraction": dist.Uniform(0.0, 1.0)}
    >>> posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    >>> found = gj.fit(posterior, progress=False)
    >>> found.converged, found.names, found.covariance.shape
    (True, ('fraction',), (1, 1))
    """

    parameters: dict[str, Float[Array, "..."]]
    standard_deviations: dict[str, Float[Array, "..."]]
    names: tuple[str, ...] = eqx.field(static=True)
    covariance: Float[np.ndarray, "number number"]
    unconstrained_mean: Float[np.ndarray, " dimension"]
    unconstrained_covariance: Float[np.ndarray, "dimension dimension"]
    log_posterior: float
    gradient_norm: float
    converged: bool
    messages: tuple[str, ...]
    calls: int = 0

    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Parameters with standard deviations."""
        state = "" if self.converged else ", not converged"
        return block(f"Fit({estimates(self.names, self.parameters, self.standard_deviations)}{state})")

    def check(self, posterior, **options):
        """Goodness of fit (`gammajax.Check`) with p-values and residual maps, see [`gammajax.check`][]."""
        from gammajax.products.goodness import check

        return check(posterior, self, **options)

    def prior(self, name: str) -> Normal | MultivariateNormal:
        """The Gaussian of one parameter, a number or a vector, with its covariance: the prior of another fit.

        Raises `ValueError` for an unknown parameter, one with more dimensions, and a fit that has not converged.
        """
        if name not in self.parameters:
            raise ValueError(f"the fit has no parameter {name!r}; it has {', '.join(sorted(self.parameters))}")
        if not self.converged:
            raise ValueError(f"the fit has not converged, so its covariance is no prior: {'; '.join(self.messages)}")
        value = self.parameters[name]
        if jnp.ndim(value) == 0:
            return Normal(value, self.standard_deviations[name])
        if jnp.ndim(value) > 1:
            raise ValueError(f"parameter {name!r} has shape {jnp.shape(value)}; a number or a vector can be a prior")
        mine = [i for i, label in enumerate(self.names) if label.rsplit("[", 1)[0] == name]
        covariance = self.covariance[np.ix_(mine, mine)]
        return MultivariateNormal(value, scale_tril=jnp.asarray(np.linalg.cholesky(covariance)))


class Peak(NamedTuple):
    """Maximum in the unconstrained space; the likelihood of `posterior` is relative to it.

    The columns of `others` are directions without a fall of the density, in widths of the priors. `rising`: whether the
    density rises along them; `degenerate`: whether it falls along each of their numbers alone. `edges` is -1 or 1 for
    numbers with their maximum at minus or plus infinity, at an end of the support. `calls` as in `Fit`.
    """

    posterior: eqx.Module
    x: np.ndarray
    covariance: np.ndarray
    distance: float
    others: np.ndarray
    rising: bool
    degenerate: bool
    edges: np.ndarray
    calls: int = 0

    @property
    def curved(self) -> bool:
        """Whether the density falls in all directions."""
        return self.others.size == 0

    @property
    def converged(self) -> bool:
        """Whether this is a maximum, to a small part of its own width.

        At the edge of a support other numbers may be undefined, for example without a signal.
        """
        excused = bool(self.edges.any()) and not (self.rising or self.degenerate)
        return (self.curved or excused) and self.distance < CONVERGED

    @property
    def highest(self) -> bool:
        """Whether no point nearby is higher: a maximum, or a point in a valley of degenerate numbers."""
        return self.converged or (self.degenerate and not self.rising and self.distance < CONVERGED)


def fit(posterior, *, initial: dict | None = None, progress: bool = True) -> Fit:
    """Maximise likelihood x prior of `posterior`, from `initial` parameters or from the prior median and prior draws.

    It climbs from the best of these, and from others only if that search does not end at a maximum. From the maximum it
    scans each number with the others fixed, and climbs again only where a second peak is plausible: from a point higher
    by 1/2, or from a separate peak in one number that is less than 2 lower, since the others may follow. Peaks that
    differ in several numbers at once may still be missed: `smc` and `nested` look everywhere.
    `initial`: a dict of all parameters. Returns a [`gammajax.Fit`][].
    A fit that did not converge says so in `messages` and by a warning; so does one that ends where a prior cuts. A
    maximum at zero, where a support ends, is a message only. `progress`: show how far a long search is.

    Raises `ValueError` for unknown parameters, or if the posterior is not finite at any start.

    >>> import gammajax as gj, jax, numpyro.distributions as dist
    >>> run = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)
    >>> def model(p):
    ...     source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.3, 0.0))
    ...     return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})
    >>> events = gj.simulate(jax.random.key(0), model({"fraction": 0.2}), run, events=200)
    >>> priors = {"fraction": dist.Uniform(0.0, 1.0)}
    >>> posterior = gj.Posterior(model, priors, run, events, per_decade=20.0)
    >>> found = gj.fit(posterior, progress=False)
    >>> abs(found.parameters["fraction"] - 0.2).item() < 4 * found.standard_deviations["fraction"].item()
    True
    """
    with Progress(progress, "fit", DELAY):
        return _fit(posterior, initial)


def _fit(posterior, initial) -> Fit:
    peak = find_peak(posterior, initial, jacobian=False)
    say("errors at the maximum")
    parameters, jacobian = _parameters(posterior, jnp.asarray(peak.x))
    jacobian = np.asarray(jacobian, np.float64)
    covariance = jacobian @ peak.covariance @ jacobian.T
    parameters = at_ends(posterior.priors, parameters, peak.edges)
    flat, restore = ravel_pytree(parameters)
    names, notes, raised = labels_of_space(posterior.priors), [], []
    for i in np.flatnonzero(peak.edges):
        raised.append(_beside_edge(peak, int(i)))
        # covariance from a shift along the profile; exact for a Gaussian
        shift = np.asarray(ravel_pytree(constrained(posterior.priors, jnp.asarray(raised[-1].x))[0])[0] - flat, float)
        covariance = covariance + np.outer(shift, shift)
        notes.append(_edge_note(names[i], parameters, posterior.priors, peak.edges[i]))
    deviations = restore(jnp.asarray(np.sqrt(np.diag(covariance)), flat.dtype))
    # numbers undefined at an edge are defined beside it
    meaningless = peak.converged and not peak.curved and any(other.curved for other in raised)
    converged = peak.converged and (peak.curved or meaningless)
    along = dict.fromkeys(label for axis in peak.others.T for label in labels_along(names, axis))
    if meaningless:
        notes.append((f"the data do not constrain {' and '.join(along)} at that edge", False))
    elif not converged:
        if not np.isfinite(peak.distance):
            where = "its derivatives are not finite there"
        elif peak.curved:
            where = f"{peak.distance:.2g} standard deviations from the maximum"
        else:
            where = f"the posterior {'rises from' if peak.rising else 'is flat'} there along {' and '.join(along)}"
        these = f"{' and '.join(along)} are degenerate, " if peak.degenerate else ""
        notes.append((f"{these}the fit has not converged: {where}", True))
    for message, alarming in notes:
        if alarming:
            warnings.warn(message, stacklevel=3)
    whole = _Density(posterior, jacobian=False)
    value = whole.at(peak.x)[0] + float(posterior.log_reference)
    return Fit(
        parameters,
        deviations,
        tuple(labels(parameters)),
        covariance,
        peak.x,
        peak.covariance,
        value,
        peak.distance,
        converged,
        tuple(message for message, _ in notes),
        peak.calls + whole.calls + sum(other.calls for other in raised),
    )


def _edge_note(label, parameters, priors, side) -> tuple[str, bool]:
    """Message about a number at the end of its support, and whether it is a warning (not at zero)."""
    value = dict(zip(labels(parameters), np.asarray(ravel_pytree(parameters)[0]), strict=True))[label]
    error = "its error is one-sided, to where the profile falls by 1/2"
    if value == 0 or (side < 0 and priors[label.split("[")[0]].support is simplex):
        return f"{label!r} is highest at its bound, 0: {error}", False
    return f"{label!r} lies at the edge of its prior, {value:g}: {error}", True


def find_peak(posterior, initial: dict | None = None, *, jacobian: bool, climb: bool = True) -> Peak:
    """Maximum of the density in the parameters, or with `jacobian` in the unconstrained space; raises as `fit` does.

    Without `climb` Newton steps start at once, for an `initial` point near the maximum.
    """
    say("compiling, and searching for starts")
    density = _Density(posterior, jacobian)
    found = []
    for number, start in enumerate(_starts(density, initial)):
        say(f"climbing from start {number + 1}")
        found.append(_newton(density, *(_climb(density, start) if climb else (start, None))))
        # other starts would end elsewhere in the same valley
        if found[-1].highest:
            break
    peak = max(found, key=lambda one: (one.highest, one.converged, density.at(one.x)[0])) if found[1:] else found[0]
    peak = peak._replace(calls=density.calls)
    return peak if initial is not None else _out_of_side_peak(posterior, peak, jacobian)


class _Density:
    """Log density of a posterior in the unconstrained space, for steps on the host; it counts its evaluations.

    `middle` and `width` of the prior: its median, and half the width of its middle 68 %.
    """

    def __init__(self, posterior, jacobian: bool):
        self.posterior, self.jacobian, self.calls = posterior, jacobian, 0
        draws, reference = _prior(posterior)
        self.dtype, self.draws, self.reference = draws.dtype, np.asarray(draws), np.asarray(reference)
        low, middle, high = np.quantile(self.draws.astype(np.float64), [0.16, 0.5, 0.84], axis=0)
        self.middle, self.width = middle, np.where(high > low, 0.5 * (high - low), 1.0)

    def at(self, x) -> tuple[float, np.ndarray]:
        """Value and gradient."""
        self.calls += 1
        value, gradient = _value_and_gradient(self.posterior, np.asarray(x, self.dtype), np.asarray(self.jacobian))
        return float(value), np.asarray(gradient, np.float64)

    def refer(self, x) -> None:
        """Take the likelihood relative to `x` from now on."""
        self.posterior = referred(self.posterior, _parameters(self.posterior, jnp.asarray(x, self.dtype))[0])


def _out_of_side_peak(posterior, peak: Peak, jacobian) -> Peak:
    """The peak, or a higher one from a scan of each number over its prior with the others fixed.

    Masses have several peaks, from lines and edges that other starts in the prior miss.
    """
    density = _Density(posterior, jacobian)
    each = max(SCANNED // peak.x.size, LEAST_SCANNED)
    places = np.quantile(density.draws, (np.arange(each) + 0.5) / each, axis=0)
    for scan in range(SCANS):
        say(f"scan {scan + 1} for a higher peak")
        density.refer(peak.x)
        start = _second_start(density, peak.x, places)
        if start is None:
            break
        say("climbing to another peak")
        higher = _newton(density, *_climb(density, start))
        if not density.at(higher.x)[0] > density.at(peak.x)[0]:
            break
        peak = higher._replace(calls=peak.calls)
    return peak._replace(calls=peak.calls + density.calls)


def _second_start(density, x, places) -> np.ndarray | None:
    """A point near which a second and higher peak is plausible, from scans of each number over `places`.

    That is a point higher than the peak at `x`, or a separate peak of one number that is not much lower: it may rise
    as the other numbers follow. The slopes of two neighbouring points lead to a peak between them, at most as high as
    where their tangents cross; bisection finds it if that is high enough.
    """
    top = density.at(x)[0]
    starts, between = [(top + HIGHER, -1, 0.0)], []

    def point(number, place):
        value, gradient = density.at(_moved(x, number, place))
        known = np.isfinite(value) and np.isfinite(gradient[number])
        starts.append((value if known else -np.inf, number, place))
        return (place, value, gradient[number]) if known else (place, -np.inf, 0.0)

    def consider(number, valley, left, right):
        (a, low, up), (b, high, down) = left, right
        if up > 0 > down:
            place = (high - low + up * a - down * b) / (up - down)
            between.append((low + up * (place - a), number, valley, left, right, place))

    for number in range(x.size):
        row = [point(number, place) for place in places[:, number]]
        # beyond the last points the density rises by about one logarithmic slope
        starts.append((row[0][1] - min(row[0][2], 0.0), number, row[0][0]))
        starts.append((row[-1][1] + max(row[-1][2], 0.0), number, row[-1][0]))
        row = sorted([*row, (float(x[number]), top, 0.0)])
        middle = row.index((float(x[number]), top, 0.0))
        for i in range(len(row) - 1):
            valley = min(value for _, value, _ in (row[i + 1 : middle + 1] if i < middle else row[middle : i + 1]))
            consider(number, valley, row[i], row[i + 1])
    for _ in range(BISECTIONS):
        between = [one for one in between if one[0] > max(top - NEAR, one[2] + VALLEY)]
        if max(starts)[1] >= 0 or not between:
            break
        highest = max(between)
        between.remove(highest)
        _, number, valley, left, right, place = highest
        middle = point(number, place)
        best = max(left[1], middle[1], right[1])
        if best > max(top - NEAR, valley + VALLEY):
            return _moved(x, number, max(left, middle, right, key=lambda one: one[1])[0])
        consider(number, valley, *((middle, right) if middle[2] > 0 else (left, middle)))
    _, number, place = max(starts)
    return None if number < 0 else _moved(x, number, place)


def _moved(x, number, place) -> np.ndarray:
    """The point with one number at another place."""
    x = x.copy()
    x[number] = place
    return x


def _starts(density, initial):
    """Starting points, the best first."""
    priors = density.posterior.priors
    if initial is not None:
        given = np.asarray(unconstrained(priors, rounded_in(priors, initial)))
        low, high = ends(priors)
        # at an edge the density is flat in this space: start inside, or at the edge if it is finite and better
        inside = np.where(low, np.maximum(given, density.middle - AWAY), given)
        inside = np.where(high, np.minimum(inside, density.middle + AWAY), inside).astype(given.dtype)
        starts = [x for x in (inside, given) if np.all(np.isfinite(x)) and np.isfinite(density.at(x)[0])]
        if not starts or np.any(np.isnan(given)):
            raise NotFinite("the posterior is not finite at the initial parameters; start inside the priors")
        return starts[:1] if np.array_equal(inside, given) else starts
    points, values = [density.reference, *density.draws[: MOST - 1]], []
    for x in points:
        value = density.at(x)[0] if np.all(np.isfinite(x)) else -np.inf
        values.append(value if np.isfinite(value) else -np.inf)
        if len(values) >= CANDIDATES and max(values) > -np.inf:
            break
    order = [i for i in np.argsort(-np.array(values), kind="stable") if np.isfinite(values[i])]
    if not order:
        raise NotFinite("the posterior is not finite anywhere in its priors; give initial parameters")
    return [points[i] for i in order[:STARTS]]


def _climb(density, start) -> tuple[np.ndarray, np.ndarray]:
    """Best point of L-BFGS, which ends when steps no longer improve at this precision, and its covariance."""
    density.refer(start)
    middle, width = density.middle, density.width
    best, lowest, slow = start, np.inf, 0

    def objective(z):
        nonlocal best, lowest
        x = (middle + width * z).astype(density.dtype)
        value, gradient = density.at(x)
        if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
            return IMPOSSIBLE, np.zeros(z.size)
        if -value < lowest:
            best, lowest = x, -value
        return -value, -gradient * width

    reached = np.inf

    def stop(intermediate_result):
        nonlocal reached, slow
        # Newton steps follow: a hundredth in log L is close enough
        slow = 0 if lowest < reached - 0.01 else slow + 1
        reached = lowest
        if slow > 1:
            raise StopIteration

    found = minimize(
        objective,
        (start - middle) / width,
        jac=True,
        method="L-BFGS-B",
        callback=stop,
        options={"maxiter": ITERATIONS, "maxcor": 20, "ftol": 0.0, "gtol": 1e-4},
    )
    return best, found.hess_inv.todense() * np.outer(width, width)


def _newton(density, x, covariance=None, edges=None) -> Peak:
    """Damped Newton steps, uphill also where the density is not yet concave; `edges` are numbers that stay.

    Derivatives are along the directions of the last curvature, each one standard deviation long; the first are those of
    `covariance`. Rounding is then relative to each direction, for any widths and correlations. A curvature serves for
    several steps while these come closer. The last one is measured along directions in which it is close to one.
    """
    x = np.asarray(x, density.dtype)
    middle, width = density.middle, density.width
    sides = ends(density.posterior.priors)
    edges = np.zeros(x.size, int) if edges is None else np.array(edges)
    closed = np.full(x.size, density.jacobian)  # numbers that cannot be at an edge
    unknowable = Peak(density.posterior, x, np.diag(width**2), np.inf, np.eye(x.size), False, False, edges)
    peak = unknowable
    basis = None if covariance is None else _axes(covariance, edges == 0)
    stuck, turns = False, 0
    if basis is not None:
        x, _ = _chords(density, x, basis, basis.T @ density.at(x)[1])
    for _ in range(NEWTON_STEPS):
        free = np.flatnonzero(edges == 0)
        density.refer(x)
        value, gradient = density.at(x)
        if basis is None:
            basis = np.diag(_lengths(density, x, gradient, free))[:, free]
        curvature = _curvature(density, x, basis, free)
        if not (np.all(np.isfinite(gradient)) and np.all(np.isfinite(curvature))):
            return unknowable._replace(posterior=density.posterior, x=x)
        # the same along each number alone
        back = np.linalg.inv(basis[free])
        slope, single = gradient[free], np.diag(back.T @ curvature @ back)
        side = np.where(x[free] < middle[free], -1, 1)
        able = np.where(side < 0, sides[0][free], sides[1][free]) & (np.abs(x - middle)[free] > 3.0) & ~closed[free]
        ending = np.flatnonzero(able & _ends_there(-side * slope, -single))
        if ending.size:
            i, out = free[ending[0]], side[ending[0]]
            trial, inside = x.copy(), x.copy()
            trial[i], inside[i] = x[i] + out * OUT, middle[i]
            high, low = (density.at(at)[0] for at in (trial, inside))
            # the density falls from the end; otherwise the data do not constrain the number
            if high > value - HALF and not low > high - EDGE:
                edges[i], x, stuck, turns = out, trial, False, 0
                basis = None if peak is unknowable else _axes(peak.covariance, edges == 0)
                continue
            closed[i] = True
        if not free.size:
            none = np.zeros((x.size, 0))
            return Peak(density.posterior, x, np.zeros((x.size, x.size)), 0.0, none, False, False, edges)
        relative, directions = _principal(curvature, basis, width)
        reach = ((directions / width[:, None]) ** 2).sum(0)
        unknown, alone = FLAT * reach, directions[free].T ** 2 @ np.abs(single)
        mixed = np.maximum(DEGENERATE[x.dtype] * alone, np.minimum(CORRELATED * alone, reach / WIDE**2))
        none = np.abs(relative) <= np.maximum(unknown, mixed)
        rising, degenerate = (relative < 0) & ~none, none & (alone > 1e3 * unknown)
        others = directions / width[:, None] / np.sqrt(reach)
        # flat directions are as wide as the prior
        of_priors = others[:, none].T @ (basis / width[:, None])
        whole = curvature + of_priors.T @ of_priors
        among = np.abs(np.linalg.eigvalsh(whole))
        settled = (among.min() > 1.0 / SETTLED and among.max() < SETTLED) or turns == TURNS
        relative, directions = _principal(whole, basis, width)
        size = np.maximum(np.abs(relative), FLAT * ((directions / width[:, None]) ** 2).sum(0))
        # one standard deviation long
        directions = directions / np.sqrt(size)
        along = directions.T @ gradient
        step, distance = directions @ along, float(np.sqrt(along @ along))
        covariance = directions @ directions.T
        # terms that cancel in a combination have equal weight in units of each number's own error
        weight = np.ones((x.size, others.shape[1]))
        weight[np.ix_(free, degenerate)] = (width[free] * np.sqrt(np.abs(single)))[:, None]
        failing = (weight * others)[:, none | rising]
        rises, degenerates = bool(rising.any()), bool(degenerate.any())
        peak = Peak(density.posterior, x, covariance, distance, failing, rises, degenerates, edges.copy())
        if settled and (distance < FINISHED or stuck):
            break
        basis, turns = directions, turns + 1
        if distance < FINISHED or stuck:
            continue
        turns = 0
        step *= min(1.0, 3.0 / max(np.abs(step / width).max(), 1e-30))
        leap, outward = _leap(x, step, slope, side, free, sides, closed)
        if outward.any():
            high, slopes = density.at(leap)
            if high > value and np.all(np.sign(step) * slopes >= 0, where=outward):
                x = leap
                continue
        if distance < 1.0 and not np.any(rising):
            x, stuck = _chords(density, x, directions, directions.T @ gradient)
            if settled and stuck:
                break
            continue
        for shrink in 0.5 ** np.arange(12):
            trial = (x + shrink * step).astype(x.dtype)
            if density.at(trial)[0] > value:
                x = trial
                break
        else:  # no higher point at this precision
            stuck = True
    return peak


def _chords(density, x, directions, along) -> tuple[np.ndarray, bool]:
    """Steps of Newton with one curvature while each halves the distance, and whether the first came no closer.

    `directions` are one standard deviation long, `along` the gradient along them. Gradients are still exact when
    differences of values are not.
    """
    distance = np.sqrt(along @ along)
    for count in range(CHORDS):
        if not FINISHED < distance < 1.0:
            break
        trial = (x + directions @ along).astype(x.dtype)
        along = directions.T @ density.at(trial)[1]
        closer = np.sqrt(along @ along)
        if not closer < 0.9 * distance:  # rounding of the gradient, or another curvature
            return x, count == 0
        x, distance, slow = trial, closer, closer > 0.5 * distance
        if slow:
            break
    return x, False


def _leap(x, step, slope, side, free, sides, closed):
    """The point after a step, with numbers that go to an end of their support close to it, and which these are.

    A step of Newton would take such a number only one logarithmic unit nearer to its end.
    """
    leap, outward, out = x + step, np.zeros(x.size, bool), side * slope
    ended = np.where(side < 0, sides[0][free], sides[1][free]) & ~closed[free]
    outward[free] = ended & (out > EDGE) & (side * step[free] > 0.3)
    far = x[free] + side * np.maximum(np.log(np.maximum(out, EDGE) / EDGE) + 1.0, np.abs(step[free]))
    leap[free] = np.where(outward[free], far, leap[free])
    return leap.astype(x.dtype), outward


def _axes(covariance, free) -> np.ndarray | None:
    """Principal axes of a covariance, one standard deviation long, with the numbers that are not `free` fixed.

    None if a free number has no variance: it was at an edge.
    """
    known = np.diag(covariance) > 0
    if np.any(free & ~known):
        return None
    precision = np.linalg.inv(covariance[np.ix_(known, known)])
    covariance = np.linalg.inv(precision[np.ix_(free[known], free[known])])
    size = np.sqrt(np.diag(covariance))
    spread, axes = np.linalg.eigh(covariance / np.outer(size, size))
    directions = np.zeros((free.size, size.size))
    directions[free] = size[:, None] * axes * np.sqrt(np.maximum(spread, 1e-12))
    return directions


def _lengths(density, x, gradient, free) -> np.ndarray:
    """Distances along each number alone at which the density falls by about 1/2, at most the width of the prior."""
    lengths = density.width.copy()
    for i in free:
        for _ in range(8):
            beside = _moved(x, i, x[i] + min(STEP * lengths[i], REACH * density.width[i]))
            taken = float(beside[i]) - float(x[i])
            if taken == 0:  # at the precision of the number
                break
            second = np.abs((density.at(beside)[1][i] - gradient[i]) / taken)
            last, lengths[i] = lengths[i], 0.1 * lengths[i]
            if np.isfinite(second):
                lengths[i] = 1.0 / np.sqrt(max(second, density.width[i] ** -2))
            if lengths[i] > 0.3 * last:
                break
    return lengths


def _curvature(density, x, basis, free) -> np.ndarray:
    """Negative second derivatives along the columns of `basis`, from central differences of gradients."""
    steps, changes = np.zeros(basis.shape), np.zeros(basis.shape)
    for i, direction in enumerate(basis.T):
        size = min(STEP, REACH / np.abs(direction / density.width).max())
        # at least a few units of the last digit
        size = max(size, 8.0 * np.finfo(x.dtype).eps / np.max(np.abs(direction) / np.maximum(np.abs(x), 1e-30)))
        up, down = ((x + sign * size * direction).astype(x.dtype) for sign in (1.0, -1.0))
        steps[:, i] = up.astype(np.float64) - down
        with np.errstate(invalid="ignore"):
            changes[:, i] = density.at(up)[1] - density.at(down)[1]
    if not np.all(np.isfinite(changes)):
        return np.full((free.size, free.size), np.nan)
    # the steps that were taken, after rounding
    taken = np.linalg.solve(basis[free], steps[free])
    curvature = -np.linalg.lstsq(taken.T, changes.T @ basis)[0]
    return 0.5 * (curvature + curvature.T)


def _principal(curvature, basis, width):
    """Curvatures and directions of the eigenvectors along `basis`, with columns scaled to a curvature of one.

    The curvatures are close to one unless directions correlate.
    """
    length = ((basis / width[:, None]) ** 2).sum(0)
    own = np.sqrt(np.maximum(np.abs(np.diag(curvature)), FLAT * length))
    relative, axes = np.linalg.eigh(curvature / np.outer(own, own))
    return relative, basis @ (axes / own[:, None])


def _ends_there(slope, second):
    """Whether the density is highest at the end of the support, or not higher within 1/100 of its width.

    `slope` and `second` are derivatives along coordinates of the unconstrained space, in which the distance d to the
    end is exp(-|x|): d f' and d f' + d^2 f'' of the log density f(d).
    """
    curvature = second - slope
    return (np.abs(slope) + np.abs(curvature) < EDGE) & (slope - curvature <= 0.01 * np.sqrt(np.abs(curvature)))


def _beside_edge(peak: Peak, number: int) -> Peak:
    """The highest point with a number at the distance from its edge where the log density has fallen by `HALF`."""
    density = _Density(peak.posterior, jacobian=False)
    middle, side = density.middle, peak.edges[number]
    x, beside, last = peak.x.copy(), peak, None
    covariance = peak.covariance if peak.curved else None
    place = middle[number] + side * AWAY
    for _ in range(20):
        x[number] = place
        beside = _newton(density, x, covariance, peak.edges)
        x, covariance = beside.x.copy(), beside.covariance if beside.curved else None
        fallen = density.at(peak.x)[0] - density.at(x)[0]
        short = np.log(max(fallen, 1e-4) / HALF) if np.isfinite(fallen) else 2.0
        if abs(short) < 3e-3 or (short < 0 and side * (place - middle[number]) < -AWAY):
            break
        # the fall goes with the distance or its square, and the coordinate is the logarithm of the distance
        power = 1.5 if last is None else np.clip(side * (last[1] - short) / (place - last[0]), 0.5, 3.0)
        last = place, short
        place += side * np.clip(short / power, -2.0, 2.0)
    return beside._replace(calls=density.calls)


def at_ends(priors, parameters: dict, edges: np.ndarray) -> dict:
    """Parameters with numbers at an edge moved to the exact end of their supports."""
    result, first = {}, 0
    for name in sorted(priors):
        value = result[name] = parameters[name]
        size = dimension_of(priors[name])
        part, first = edges[first : first + size], first + size
        low, high = (np.broadcast_to(end, np.shape(value)) for end in bounds(priors[name]))
        if not part.any() or size != value.size:  # fractions only approach an end
            continue
        part = part.reshape(np.shape(value))
        low = np.where(np.isfinite(low), low, high)
        ended = jnp.where(part < 0, low, jnp.where(part > 0, high, value)).astype(value.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpyro warns about ends outside the support
            finite = np.all(np.isfinite(priors[name].log_prob(ended)))
        if finite:
            result[name] = ended
    return result


@eqx.filter_jit
def _prior(posterior):
    """Draws of the prior and the reference parameters, in the unconstrained space."""
    reference = {name: jnp.asarray(value, float) for name, value in posterior.reference_parameters.items()}
    return prior_draws(posterior, jax.random.key(0), DRAWS), unconstrained(posterior.priors, reference)


@eqx.filter_jit
def _value_and_gradient(posterior, x, jacobian):
    """Of the log density; `jacobian` is an argument, so that searches of both kinds share one program."""

    def height(x):
        value = log_density(posterior, x, False)
        # a branch: where it does not count, the volume may be infinite
        volume = jax.lax.cond(jacobian, lambda: constrained(posterior.priors, x)[1], lambda: jnp.zeros_like(value))
        return value + volume

    return jax.value_and_grad(height)(x)


@eqx.filter_jit
def _parameters(posterior, x):
    """Parameters at `x`, and the Jacobian of all their numbers."""

    def flat(x):
        return ravel_pytree(constrained(posterior.priors, x)[0])[0]

    return constrained(posterior.priors, x)[0], jax.jacobian(flat)(x)
