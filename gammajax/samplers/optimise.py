"""Best fit: the maximum of likelihood x prior, and the Gaussian (Laplace) approximation about it.

L-BFGS in the unconstrained space finds the neighbourhood; Newton steps with the exact Hessian finish, each with the
likelihood taken relative to the point itself, so that single precision does not limit where the maximum is found.
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

from gammajax.priors import bounds
from gammajax.samplers.space import (
    constrained,
    labels,
    labels_along,
    labels_of_space,
    log_density,
    prior_draws,
    unconstrained,
)

CANDIDATES = 64  # the prior median and draws of the prior
STARTS = 8  # half the best of them, half any: masses have several peaks, and the best draws may all sit at a wrong one
SCANS, SCANNED = 3, 256  # times that a higher peak is looked for, and at how many points
HIGHER = 0.5  # in log density
ITERATIONS = 200
NEWTON_STEPS = 25
# estimated distance to the maximum, in standard deviations of the Laplace approximation
FINISHED, CONVERGED = 1e-4, 0.05
ROUNDING = 0.02  # of log densities in single precision, by expected counts of 1e5 events


class Fit(eqx.Module):
    """Maximum of likelihood x prior, as a density of the parameters themselves (no Jacobian).

    - `parameters`; `standard_deviations` of the same structure.
    - `names`, `covariance`: of all numbers in the parameters, in the order of `names` (the Hessian's inverse, carried
      to the parameters by the delta method).
    - `unconstrained_mean`, `unconstrained_covariance`: the same in the space where samplers move.
    - `log_posterior`: log L + log prior, not normalised.
    - `converged`; `gradient_norm`: sqrt(g C g), the estimated distance to the maximum in standard deviations.
    - `messages`: what to know about the fit, in words.
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

    def __repr__(self) -> str:
        """Parameters with standard deviations, in a line."""
        flat, _ = ravel_pytree((self.parameters, self.standard_deviations))
        values, deviations = np.split(np.asarray(flat), 2)
        rows = zip(self.names, values, deviations, strict=True)
        state = "" if self.converged else ", not converged"
        return "Fit(" + ", ".join(f"{n} = {v:.5g} +- {d:.2g}" for n, v, d in rows) + state + ")"


class Peak(NamedTuple):
    """Maximum found in the unconstrained space; `posterior` takes its likelihood relative to it.

    The columns of `others` are directions in which the density does not fall, `rising` tells whether it rises there.
    """

    posterior: eqx.Module
    x: np.ndarray
    covariance: np.ndarray
    distance: float
    others: np.ndarray
    rising: bool

    @property
    def curved(self) -> bool:
        """Whether the density falls in all directions."""
        return self.others.size == 0

    @property
    def converged(self) -> bool:
        """Whether this is a maximum, to a small part of its own width."""
        return self.curved and self.distance < CONVERGED


def fit(posterior, *, initial: dict | None = None) -> Fit:
    """Maximise likelihood x prior, from `initial` parameters or from the prior median and draws of the prior.

    It climbs from several of these, polishes the highest point reached, and scans each number from there for a higher
    peak. Peaks that differ in several numbers at once may still be missed: `smc` and `nested` look everywhere.
    A fit that did not converge says so in `messages` and by a warning.

    Raises `ValueError` for unknown parameters or when the posterior is not finite at any start.
    """
    peak = find_peak(posterior, initial, jacobian=False)
    parameters, jacobian = _parameters(posterior, jnp.asarray(peak.x))
    jacobian = np.asarray(jacobian, np.float64)
    covariance = jacobian @ peak.covariance @ jacobian.T
    _, restore = ravel_pytree(parameters)
    deviations = restore(jnp.asarray(np.sqrt(np.diag(covariance))))
    messages = [
        f"parameter {name!r} lies at the edge of its prior; its standard deviation means little"
        for name, prior in sorted(posterior.priors.items())
        if _at_edge(prior, parameters[name])
    ]
    if not peak.converged and not messages:
        if peak.curved:
            where = f"{peak.distance:.2g} standard deviations from the maximum"
        elif not np.isfinite(peak.distance):
            where = "its derivatives are not finite there"
        else:
            names = labels_of_space(posterior.priors)
            along = dict.fromkeys(label for axis in peak.others.T for label in labels_along(names, axis))
            where = f"the posterior {'rises from' if peak.rising else 'is flat'} there along {' and '.join(along)}"
        messages.append(f"the fit has not converged: {where}")
    for message in messages:
        warnings.warn(message, stacklevel=2)
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
        peak.converged,
        tuple(messages),
    )


def find_peak(posterior, initial: dict | None = None, *, jacobian: bool, climb: bool = True) -> Peak:
    """Maximum of the density in the parameters, or with `jacobian` in the unconstrained space; raises as `fit` does.

    Without `climb` Newton steps start at once, for an `initial` that is near.
    """
    starts = _starts(posterior, initial, jacobian)
    climbed = [_climb(posterior, start, jacobian) for start in starts] if climb else starts
    values = np.array([float(_value(posterior, x, jacobian)) for x in climbed])
    best = None
    for i in np.argsort(-np.where(np.isfinite(values), values, -np.inf)):
        peak = _newton(posterior, climbed[i], jacobian)
        if best is None or peak.converged:
            best = peak
        if best.converged:
            break
    assert best is not None  # there is a start
    return best if initial is not None else _out_of_side_peak(posterior, best, jacobian)


def _out_of_side_peak(posterior, peak: Peak, jacobian) -> Peak:
    """The peak, or a higher one that a scan of each number over its prior finds, the others held.

    Masses have several: of lines and edges that starts elsewhere in the prior do not see.
    """
    size, each = peak.x.size, max(SCANNED // peak.x.size, 1)
    draws = prior_draws(posterior, jax.random.key(1), 1024)
    places = np.quantile(draws, (np.arange(each) + 0.5) / each, axis=0).T.ravel()
    for _ in range(SCANS):
        points = np.tile(peak.x, (-(-size * each // CANDIDATES) * CANDIDATES, 1))
        points[np.arange(size * each), np.repeat(np.arange(size), each)] = places
        # in batches of the size that is compiled already
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
        x = unconstrained(posterior.priors, initial)
        if not (np.all(np.isfinite(x)) and np.isfinite(_value(posterior, x, jacobian))):
            raise ValueError("the posterior is not finite at the initial parameters; start inside the priors")
        return [x]
    draws = jax.vmap(posterior.sample_prior)(jax.random.split(jax.random.key(0), CANDIDATES - 1))
    median = {name: jnp.asarray(value)[None] for name, value in posterior.reference_parameters.items()}
    points = jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]), median, draws)
    x = jax.vmap(lambda p: unconstrained(posterior.priors, p))(points)
    values = np.where(np.isfinite(x).all(1), _values(posterior, x, jacobian), -np.inf)
    values = np.where(np.isnan(values), -np.inf, values)
    order = np.argsort(-values)
    order = np.concatenate([order[: STARTS // 2], np.setdiff1d(np.arange(STARTS), order[: STARTS // 2])[: STARTS // 2]])
    if not np.isfinite(values[order[0]]):
        raise ValueError("the posterior is not finite anywhere in its priors; give initial parameters")
    return [x[i] for i in order if np.isfinite(values[i])]


@eqx.filter_jit
def _climb(posterior, start, jacobian: bool):
    """Best point that L-BFGS finds; it ends when steps bring nothing more at this precision."""

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
        # Newton steps follow: a hundredth in log L is near enough
        stalled = jnp.where(reached < lowest - 0.01, 0, stalled + 1)
        best = jnp.where(better, x, best)
        return x, state, best, jnp.where(better, reached, lowest), stalled, count + 1

    def going(carry):
        x, *_, stalled, count = carry
        return (stalled < 4) & (count < ITERATIONS) & jnp.all(jnp.isfinite(x))

    carry = (start, solver.init(start), start, objective(start), jnp.asarray(0), jnp.asarray(0))
    return jax.lax.while_loop(going, step, carry)[2]


def _newton(posterior, x, jacobian) -> Peak:
    """Newton steps, damped and uphill also where the density is not yet concave."""
    x = np.asarray(x)
    for _ in range(NEWTON_STEPS):
        posterior, value, gradient, hessian = _local(posterior, jnp.asarray(x), jacobian)
        gradient, hessian = np.asarray(gradient, np.float64), np.asarray(hessian, np.float64)
        if not (np.all(np.isfinite(gradient)) and np.all(np.isfinite(hessian))):
            return Peak(posterior, x, np.eye(x.size), np.inf, np.eye(x.size), False)
        curvature, axes = np.linalg.eigh(-0.5 * (hessian + hessian.T))
        # a curvature below one is that of no data at all: such directions are as wide as the prior
        negligible = 1e-6 * max(curvature.max(), 1.0)
        others, rising = axes[:, curvature <= negligible], bool(curvature.min() < -negligible)
        curved = others.size == 0
        inverse = 1.0 / np.maximum(np.abs(curvature), 1e-6 * max(np.abs(curvature).max(), 1.0))
        covariance = (axes * inverse) @ axes.T
        step = covariance @ gradient
        distance = float(np.sqrt(gradient @ step))
        step *= min(1.0, 3.0 / max(np.abs(step).max(), 1e-30))
        if distance < FINISHED:
            break
        # gradients are exact where differences of values are no longer
        least = float(value) - (ROUNDING if CONVERGED < distance < 1.0 and curved else 0.0)
        for shrink in 0.5 ** np.arange(12):
            trial = (x + shrink * step).astype(x.dtype)
            if float(_value(posterior, jnp.asarray(trial), jacobian)) > least:
                break
        else:  # nothing higher at this precision
            break
        x = trial
    return Peak(posterior, x, covariance, distance, others, rising)


@eqx.filter_jit
def _local(posterior, x, jacobian: bool):
    """The posterior relative to `x`, and value, gradient and Hessian there."""
    posterior = posterior.with_reference(constrained(posterior.priors, x)[0])

    def gradient(x):
        value, slope = jax.value_and_grad(lambda x: log_density(posterior, x, jacobian))(x)
        return slope, (value, slope)

    # forward over reverse, in one pass with what it differentiates
    hessian, (value, slope) = jax.jacfwd(gradient, has_aux=True)(x)
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


def _at_edge(prior, value) -> bool:
    low, high = bounds(prior)
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        return False
    return bool(np.any((value - low) < 1e-5 * (high - low)) or np.any((high - value) < 1e-5 * (high - low)))
