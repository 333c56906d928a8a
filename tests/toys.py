"""Posteriors with known answers, with the interface for samplers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from arviz_stats import ess


class Toy(eqx.Module):
    """A handwritten log-likelihood."""

    function: object = eqx.field(static=True)
    priors: dict
    reference_parameters: dict
    data: jax.Array

    def log_likelihood_ratio(self, parameters):
        return self.function(parameters, self.data)

    @property
    def log_reference(self):
        return jnp.zeros(())

    def log_reference_exact(self):
        return 0.0

    def log_prior(self, parameters):
        return sum(prior.log_prob(parameters[name]).sum() for name, prior in self.priors.items())

    def sample_prior(self, key):
        keys = jax.random.split(key, len(self.priors))
        return {name: self.priors[name].sample(k) for name, k in zip(sorted(self.priors), keys, strict=True)}

    def with_reference(self, parameters):
        return eqx.tree_at(lambda toy: toy.reference_parameters, self, dict(parameters))


def check_moments(result, name, mean, deviation):
    """Means and deviations of Gaussian draws: within 4 standard errors, of the draws that count for each of the two.

    Chains of NUTS turn back on themselves: more draws count for the mean than there are, fewer for the deviation.
    """
    draws = result.tree["posterior"][name]
    values = draws.to_numpy().reshape(-1, *draws.shape[2:])
    for_mean, for_deviation = (ess(draws, method=method).to_numpy() for method in ("bulk", "sd"))
    np.testing.assert_array_less(abs(values.mean(0) - mean) / deviation * np.sqrt(for_mean), 4.0)
    np.testing.assert_array_less(abs(values.std(0) / deviation - 1.0) * np.sqrt(2.0 * for_deviation), 4.0)


CENTRE = jnp.array([1.0, -2.0, 0.5])
PRECISION = jnp.array([[50.0, 20.0, 0.0], [20.0, 40.0, -5.0], [0.0, -5.0, 2.0]])


def quadratic(p, _):
    x = jnp.concatenate([p["position"], p["size"][None]]) - CENTRE
    return -0.5 * x @ PRECISION @ x


def switched(p, share):
    """`share[0]` of the Gaussian and `share[1]` of two peaks: one function, compiled once."""
    x = p["position"]
    # a third of the mass about (-4, -1), the rest about (4, 1)
    near, far = (-0.5 * ((x - sign * jnp.array([4.0, 1.0])) ** 2).sum() / 0.3**2 for sign in (-1.0, 1.0))
    return share[0] * quadratic(p, ()) + share[1] * jnp.logaddexp(near, far + jnp.log(2.0))


def counting(p, counts):
    """On counts of signal + background, off counts of five times the background; zero at the best fit."""
    on, off = p["signal"] + p["background"], 5.0 * p["background"]
    n_on, n_off = counts[0], counts[1]
    return n_on * jnp.log(on / n_on) - on + n_on + n_off * jnp.log(off / n_off) - off + n_off


def build(function, priors, start, data=()):
    return Toy(function, priors, {k: jnp.asarray(v, float) for k, v in start.items()}, jnp.asarray(data, float))


def gaussian_toy(share=(1.0, 0.0)):
    """Posterior with closed forms of mean and precision: priors of sd 10 add 1/100 to the precision."""
    priors = {"size": dist.Normal(0.0, 10.0), "position": dist.Normal(jnp.zeros(2), 10.0).to_event(1)}
    toy = build(switched, priors, {"position": jnp.zeros(2), "size": 0.0}, share)
    precision = PRECISION + jnp.eye(3) / 100.0
    return toy, jnp.linalg.solve(precision, PRECISION @ CENTRE), jnp.linalg.inv(precision)
