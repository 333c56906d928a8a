"""Best fit: the maximum of likelihood x prior, and the Gaussian (Laplace) approximation about it.

L-BFGS in the unconstrained space finds the neighbourhood; Newton steps with the exact Hessian finish. Each step takes
the likelihood relative to the current point, so that single precision does not limit the position of the maximum.
"""

import warnings
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro.distributions.constraints import simplex

from gammajax.display import block, document, estimates, words
from gammajax.priors import bounds
from gammajax.progress import DELAY, Progress, say
from gammajax.samplers.space import (
    constrained,
    dimension_of,
    ends,
    labels,
    labels_along,
    labels_of_space,
    log_density,
    prior_draws,
    rounded_in,
    unconstrained,
)

CANDIDATES = 64  # the prior median and draws of the prior
STARTS = 8  # half the best candidates, half any: masses have several peaks, and the best may all be at a wrong one
SCANS, SCANNED = 3, 256  # number of scans for a higher peak, and points of a scan
HIGHER = 0.5  # least difference of log density of a higher peak
ITERATIONS = 200
NEWTON_STEPS = 40
# estimated distance to the maximum, in standard deviations of the Laplace approximation
FINISHED, CONVERGED = 1e-4, 0.05
# negligible information, relative to the square of a prior's width; of a combination, relative to its numbers alone
FLAT, DEGENERATE = 1e-8, {np.dtype(np.float32): 3e-7, np.dtype(np.float64): 1e-10}
# a combination of correlated numbers is degenerate if known to WIDE widths of the priors only
CORRELATED, WIDE = 1e-3, 10.0
AWAY = 5.0  # largest distance of starts from the middle of a prior, in the unconstrained space
EDGE, OUT = 1e-2, 20.0  # negligible change of log density up to an edge; unconstrained coordinate of the edge
HALF = 0.5  # fall of the log density at a one-sided error


class NotFinite(ValueError):
    """The posterior is not finite at the start of a search."""


class Fit(eqx.Module):
    """Maximum of likelihood x prior, as a density of the parameters themselves (no Jacobian).

    - `parameters`; `standard_deviations` of the same structure.
    - `names`, `covariance`: of all numbers in the parameters, in the order of `names` (the Hessian's inverse, carried
      to the parameters by the delta method).
    - `unconstrained_mean`, `unconstrained_covariance`: the same in the unconstrained space of samplers; a number at an
      end of its support is far out, without a width.
    - `log_posterior`: log L + log prior, not normalised.
    - `converged`; `gradient_norm`: sqrt(g C g), the estimated distance to the maximum in standard deviations.
    - `messages` about the fit, in words.

    A maximum at an end of the support has a one-sided error: the distance at which the log density, maximised over all
    other numbers, has fallen by 1/2. A maximum at zero is a normal result: half of all searches without a signal have
    it. In directions without information in the data, standard deviations are those of the priors.
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

    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Parameters with standard deviations."""
        state = "" if self.converged else ", not converged"
        return block(f"Fit({estimates(self.names, self.parameters, self.standard_deviations)}{state})")


class Peak(NamedTuple):
    """Maximum in the unconstrained space; the likelihood of `posterior` is relative to it.

    The columns of `others` are directions without a fall of the density, in widths of the priors. `rising`: whether the
    density rises along them; `degenerate`: whether it falls along each of their numbers alone. `edges` is -1 or 1 for
    numbers with their maximum at minus or plus infinity, at an end of the support.
    """

    posterior: eqx.Module
    x: np.ndarray
    covariance: np.ndarray
    distance: float
    others: np.ndarray
    rising: bool
    degenerate: bool
    edges: np.ndarray

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
    """Maximise likelihood x prior, from `initial` parameters or from the prior median and draws of the prior.

    It climbs from several of these, polishes the highest point reached, and scans each number from there for a higher
    peak. Peaks that differ in several numbers at once may still be missed: `smc` and `nested` look everywhere.
    A fit that did not converge says so in `messages` and by a warning; so does one that ends where a prior cuts. A
    maximum at zero, where a support ends, is a message only. `progress`: show how far a long search is.

    Raises `ValueError` for unknown parameters, or if the posterior is not finite at any start.
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
    value = _value(posterior, jnp.asarray(peak.x), False) + posterior.log_reference
    return Fit(
        parameters,
        deviations,
        tuple(labels(parameters)),
        covariance,
        peak.x,
        peak.covariance,
        float(value),
        peak.distance,
        converged,
        tuple(message for message, _ in notes),
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
    climbed = starts = _starts(posterior, initial, jacobian)
    if climb:
        climbed = []
        for number, start in enumerate(starts):
            say(f"climbing from start {number + 1} of {len(starts)}" + (", compiling" if number == 0 else ""))
            climbed.append(jax.block_until_ready(_climb(posterior, start, jacobian)))
    say("Newton steps")
    values = np.array([float(_value(posterior, x, jacobian)) for x in climbed])
    best = None
    for i in np.argsort(-np.where(np.isfinite(values), values, -np.inf)):
        peak = _newton(posterior, climbed[i], jacobian)
        if best is None or peak.converged:
            best = peak
        # other starts would end elsewhere in the same valley
        if best.highest:
            break
    assert best is not None  # there is a start
    return best if initial is not None else _out_of_side_peak(posterior, best, jacobian)


def _out_of_side_peak(posterior, peak: Peak, jacobian) -> Peak:
    """The peak, or a higher one from a scan of each number over its prior with the others fixed.

    Masses have several peaks, from lines and edges that other starts in the prior miss.
    """
    size, each = peak.x.size, max(SCANNED // peak.x.size, 1)
    draws = prior_draws(posterior, jax.random.key(1), 1024)
    places = np.quantile(draws, (np.arange(each) + 0.5) / each, axis=0).T.ravel()
    for scan in range(SCANS):
        say(f"scan {scan + 1} for a higher peak")
        points = np.tile(peak.x, (-(-size * each // CANDIDATES) * CANDIDATES, 1))
        points[np.arange(size * each), np.repeat(np.arange(size), each)] = places
        # in batches of the size that is already compiled
        batches = jnp.split(jnp.asarray(points), len(points) // CANDIDATES)
        values = np.ravel([_values(posterior, x, jacobian) for x in batches])
        best = int(np.argmax(np.where(np.isnan(values), -np.inf, values)))
        height = float(_value(posterior, jnp.asarray(peak.x), jacobian))
        if not values[best] > height + HIGHER:
            break
        higher = _newton(posterior, _climb(posterior, jnp.asarray(points[best]), jacobian), jacobian)
        if not float(_value(posterior, jnp.asarray(higher.x), jacobian)) > height:
            break
        peak = higher
    return peak


def _starts(posterior, initial, jacobian):
    """Starting points: the best candidates and, for variety, the first ones."""
    if initial is not None:
        given = unconstrained(posterior.priors, rounded_in(posterior.priors, initial))
        middle, _ = _spread(posterior)
        low, high = (jnp.asarray(side) for side in ends(posterior.priors))
        # at an edge the density is flat in this space: start inside, or at the edge if it is finite and better
        inside = jnp.where(low, jnp.maximum(given, middle - AWAY), given)
        inside = jnp.where(high, jnp.minimum(inside, middle + AWAY), inside)
        starts = [x for x in (inside, given) if np.all(np.isfinite(x)) and np.isfinite(_value(posterior, x, jacobian))]
        if not starts or np.any(np.isnan(given)):
            raise NotFinite("the posterior is not finite at the initial parameters; start inside the priors")
        return starts[:1] if np.array_equal(inside, given) else starts
    draws = jax.vmap(posterior.sample_prior)(jax.random.split(jax.random.key(0), CANDIDATES - 1))
    median = {name: jnp.asarray(value)[None] for name, value in posterior.reference_parameters.items()}
    points = jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]), median, draws)
    x = jax.vmap(lambda p: unconstrained(posterior.priors, p))(points)
    values = np.where(np.isfinite(x).all(1), _values(posterior, x, jacobian), -np.inf)
    values = np.where(np.isnan(values), -np.inf, values)
    order = np.argsort(-values)
    order = np.concatenate([order[: STARTS // 2], np.setdiff1d(np.arange(STARTS), order[: STARTS // 2])[: STARTS // 2]])
    if not np.isfinite(values[order[0]]):
        raise NotFinite("the posterior is not finite anywhere in its priors; give initial parameters")
    return [x[i] for i in order if np.isfinite(values[i])]


@eqx.filter_jit
def _climb(posterior, start, jacobian: bool):
    """Best point of L-BFGS, which ends when steps no longer improve at this precision."""

    def objective(x):
        return -log_density(posterior, x, jacobian)

    solver = optax.lbfgs(
        linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")
    )
    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(carry):
        x, state, best, lowest, stalled, count = carry
        value, gradient = value_and_grad(x, state=state)
        updates, state = solver.update(gradient, state, x, value=value, grad=gradient, value_fn=objective)
        x = x + updates
        reached = optax.tree.get(state, "value").astype(lowest.dtype)
        better = reached < lowest
        # Newton steps follow: a hundredth in log L is close enough
        stalled = jnp.where(reached < lowest - 0.01, 0, stalled + 1)
        best = jnp.where(better, x, best)
        return x, state, best, jnp.where(better, reached, lowest), stalled, count + 1

    def going(carry):
        x, *_, stalled, count = carry
        return (stalled < 4) & (count < ITERATIONS) & jnp.all(jnp.isfinite(x))

    carry = (start, solver.init(start), start, objective(start), jnp.asarray(0), jnp.asarray(0))
    return jax.lax.while_loop(going, step, carry)[2]


def _newton(posterior, x, jacobian, edges=None) -> Peak:
    """Damped Newton steps, uphill also where the density is not yet concave; `edges` are numbers that stay.

    Derivatives are along the directions of the last curvature, each one standard deviation long. Rounding is then
    relative to each direction, for any widths and correlations.
    """
    x = np.asarray(x)
    middle, width = (np.asarray(of, np.float64) for of in _spread(posterior))
    sides = ends(posterior.priors)
    edges = np.zeros(x.size, int) if edges is None else np.array(edges)
    closed = np.full(x.size, jacobian)  # numbers that cannot be at an edge
    peak = unknowable = Peak(posterior, x, np.diag(width**2), np.inf, np.eye(x.size), False, False, edges)
    basis, turned, stuck, trusted = None, False, False, None  # trusted: distance and position before a trusted step
    for _ in range(NEWTON_STEPS):
        free = np.flatnonzero(edges == 0)
        if basis is None:
            basis, turned, stuck, trusted = np.diag(width)[:, free], False, False, None
        padded = np.zeros((x.size, x.size), x.dtype)
        padded[:, : free.size] = basis
        basis = padded[:, : free.size].astype(np.float64)
        posterior, value, gradient, hessian = _local(posterior, jnp.asarray(x), jnp.asarray(padded), jacobian)
        gradient = np.asarray(gradient, np.float64)[: free.size]
        curvature = -np.asarray(hessian, np.float64)[: free.size, : free.size]
        curvature = 0.5 * (curvature + curvature.T)
        if not (np.all(np.isfinite(gradient)) and np.all(np.isfinite(curvature))):
            return unknowable._replace(posterior=posterior, x=x)
        # the same along each number alone
        back = np.linalg.inv(basis[free])
        slope, single = back.T @ gradient, np.diag(back.T @ curvature @ back)
        side = np.where(x[free] < middle[free], -1, 1)
        able = np.where(side < 0, sides[0][free], sides[1][free]) & (np.abs(x - middle)[free] > 3.0) & ~closed[free]
        ending = np.flatnonzero(able & _ends_there(-side * slope, -single))
        if ending.size:
            i, out = free[ending[0]], side[ending[0]]
            trial, inside = x.copy(), x.copy()
            trial[i], inside[i] = x[i] + out * OUT, middle[i]
            high, low = (float(_value(posterior, jnp.asarray(at), jacobian)) for at in (trial, inside))
            # the density falls from the end; otherwise the data do not constrain the number
            if high > float(value) - HALF and not low > high - EDGE:
                edges[i], x, basis = out, trial, None
                continue
            closed[i] = True
        if not free.size:
            none = np.zeros((x.size, 0))
            return Peak(posterior, x, np.zeros((x.size, x.size)), 0.0, none, False, False, edges)
        relative, directions = _principal(curvature, basis, width)
        reach = ((directions / width[:, None]) ** 2).sum(0)
        unknown, alone = FLAT * reach, directions[free].T ** 2 @ np.abs(single)
        mixed = np.maximum(DEGENERATE[x.dtype] * alone, np.minimum(CORRELATED * alone, reach / WIDE**2))
        none = np.abs(relative) <= np.maximum(unknown, mixed)
        rising, degenerate = (relative < 0) & ~none, none & (alone > 1e3 * unknown)
        others = directions / width[:, None] / np.sqrt(reach)
        # flat directions are as wide as the prior
        of_priors = others[:, none].T @ (basis / width[:, None])
        relative, directions = _principal(curvature + of_priors.T @ of_priors, basis, width)
        size = np.maximum(np.abs(relative), FLAT * ((directions / width[:, None]) ** 2).sum(0))
        # one standard deviation long
        directions = directions / np.sqrt(size)
        along = np.linalg.solve(basis[free], directions[free]).T @ gradient
        step, distance = directions @ along, float(np.sqrt(along @ along))
        covariance = directions @ directions.T
        if trusted is not None and distance > 0.9 * trusted[0]:  # no closer: rounding of the gradient
            x, stuck = (trusted[1], True) if distance > trusted[0] else (x, True)
        # terms that cancel in a combination have equal weight in units of each number's own error
        weight = np.ones((x.size, others.shape[1]))
        weight[np.ix_(free, degenerate)] = (width[free] * np.sqrt(np.abs(single)))[:, None]
        failing = (weight * others)[:, none | rising]
        rises, degenerates = bool(rising.any()), bool(degenerate.any())
        peak = Peak(posterior, x, covariance, distance, failing, rises, degenerates, edges.copy())
        if turned and (distance < FINISHED or stuck):
            break
        basis, turned, trusted = directions, True, None
        if distance < FINISHED:
            continue
        step *= min(1.0, 3.0 / max(np.abs(step / width).max(), 1e-30))
        if distance < 1.0 and not np.any(rising):
            # gradients are still exact when differences of values are not
            trusted, x = (distance, x), (x + step).astype(x.dtype)
            continue
        for shrink in 0.5 ** np.arange(12):
            trial = (x + shrink * step).astype(x.dtype)
            if float(_value(posterior, jnp.asarray(trial), jacobian)) > float(value):
                x = trial
                break
        else:  # no higher point at this precision
            stuck = True
    return peak


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
    middle, _ = (np.asarray(of, np.float64) for of in _spread(peak.posterior))
    side, top = peak.edges[number], float(_value(peak.posterior, jnp.asarray(peak.x), False))
    x, beside = peak.x.copy(), peak
    place = middle[number] + side * AWAY
    for _ in range(20):
        x[number] = place
        beside = _newton(peak.posterior, x, False, peak.edges)
        x = beside.x.copy()
        fallen = top - float(_value(peak.posterior, jnp.asarray(x), False))
        # the fall goes with the distance or its square, and the coordinate is the logarithm of the distance
        short = np.log(max(fallen, 1e-4) / HALF) if np.isfinite(fallen) else 2.0
        if abs(short) < 3e-3 or (short < 0 and side * (place - middle[number]) < -AWAY):
            break
        place += side * np.clip(short / 1.5, -2.0, 2.0)
    return beside


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
def _spread(posterior):
    """Middle of the priors in the unconstrained space, and half the width of their middle 68 %."""
    x = prior_draws(posterior, jax.random.key(2), 256)
    low, middle, high = jnp.quantile(x, jnp.asarray([0.16, 0.5, 0.84], x.dtype), axis=0)
    return middle, jnp.where(high > low, 0.5 * (high - low), 1.0)


@eqx.filter_jit
def _local(posterior, x, basis, jacobian: bool):
    """The posterior relative to `x`, and value, gradient and Hessian there, along the columns of `basis`."""
    posterior = posterior.with_reference(constrained(posterior.priors, x)[0])

    def gradient(u):
        value, slope = jax.value_and_grad(lambda u: log_density(posterior, x + basis @ u, jacobian))(u)
        return slope, (value, slope)

    # forward over reverse, in one pass with value and gradient
    hessian, (value, slope) = jax.jacfwd(gradient, has_aux=True)(jnp.zeros_like(x))
    return posterior, value, slope, hessian


@eqx.filter_jit
def _value(posterior, x, jacobian: bool):
    return log_density(posterior, x, jacobian)


@eqx.filter_jit
def _values(posterior, x, jacobian: bool):
    return jax.lax.map(lambda one: log_density(posterior, one, jacobian), x)


@eqx.filter_jit
def _parameters(posterior, x):
    """Parameters at `x`, and the Jacobian of all their numbers."""

    def flat(x):
        return ravel_pytree(constrained(posterior.priors, x)[0])[0]

    return constrained(posterior.priors, x)[0], jax.jacobian(flat)(x)
