"""Climbs of the log density of a posterior to a maximum, in the unconstrained space.

One compiled program gives value and gradient at a point; all steps run on the host and call it. Scipy's L-BFGS finds
the neighbourhood, and Newton steps finish. Their curvature comes from central differences of the gradient. Each Newton
step takes the likelihood relative to the current point, so that single precision does not limit the position of the
maximum.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from gammajax.samplers.space import constrained, ends, log_density, prior_draws, referred, unconstrained

DRAWS = 1024  # of the prior: for its widths, candidates, and the places of scans
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
EDGE, OUT = 1e-2, 20.0  # negligible change of log density up to an edge; unconstrained coordinate of the edge
HALF = 0.5  # fall of the log density at a one-sided error
IMPOSSIBLE = 1e30  # in place of an infinite objective


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


class Density:
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
        parameters, _ = parameters_and_jacobian(self.posterior, jnp.asarray(x, self.dtype))
        self.posterior = referred(self.posterior, parameters)


def moved(x, number, place) -> np.ndarray:
    """The point with one number at another place."""
    x = x.copy()
    x[number] = place
    return x


def by_lbfgs(density, start) -> tuple[np.ndarray, np.ndarray]:
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


def by_newton(density, x, covariance=None, edges=None) -> Peak:
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
            beside = moved(x, i, x[i] + min(STEP * lengths[i], REACH * density.width[i]))
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
def parameters_and_jacobian(posterior, x):
    """Parameters at `x`, and the Jacobian of all their numbers."""

    def flat(x):
        return ravel_pytree(constrained(posterior.priors, x)[0])[0]

    return constrained(posterior.priors, x)[0], jax.jacobian(flat)(x)
