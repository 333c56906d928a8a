"""Best fit: the maximum of likelihood x prior, and the Gaussian (Laplace) approximation about it."""

import warnings

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro.distributions import MultivariateNormal, Normal
from numpyro.distributions.constraints import simplex

from gammajax.common.display import block, document, estimates, words
from gammajax.common.progress import DELAY, Progress, say
from gammajax.model.priors import bounds
from gammajax.samplers.newton import HALF, Density, Peak, by_newton, parameters_and_jacobian
from gammajax.samplers.peaks import AWAY, find_peak
from gammajax.samplers.space import (
    constrained,
    dimension_of,
    labels,
    labels_along,
    labels_of_space,
)


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
    parameters, jacobian = parameters_and_jacobian(posterior, jnp.asarray(peak.x))
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
    whole = Density(posterior, jacobian=False)
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


def _beside_edge(peak: Peak, number: int) -> Peak:
    """The highest point with a number at the distance from its edge where the log density has fallen by `HALF`."""
    density = Density(peak.posterior, jacobian=False)
    middle, side = density.middle, peak.edges[number]
    x, beside, last = peak.x.copy(), peak, None
    covariance = peak.covariance if peak.curved else None
    place = middle[number] + side * AWAY
    for _ in range(20):
        x[number] = place
        beside = by_newton(density, x, covariance, peak.edges)
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
