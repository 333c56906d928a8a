from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from gammajax.samplers.slices import TRIES, replace

FACTOR = jnp.array([[2.0, 0.0], [0.75, 0.66]])


class Particles(NamedTuple):
    position: jax.Array
    logdensity: jax.Array
    loglikelihood: jax.Array
    loglikelihood_birth: jax.Array


class State(NamedTuple):
    particles: Particles


def make(x, birth):
    """In an ellipse about the origin; the prior falls along the first axis."""
    squared = jnp.sum(_white(x) ** 2)
    return Particles(x, -x[0], -squared, jnp.zeros_like(squared) + birth)


def _white(x):
    return jax.scipy.linalg.solve_triangular(FACTOR, x, lower=True)


@pytest.fixture(scope="module")
def live():
    x = 0.4 * jax.random.normal(jax.random.key(0), (50, 2)) @ FACTOR.T
    return State(jax.vmap(lambda one: make(one, -jnp.inf))(x))


@pytest.mark.slow
def test_new_points_follow_the_prior_above_the_threshold(live):
    count, threshold = 20_000, jnp.asarray(-4.0)
    moved, calls = jax.jit(replace(make, 40, 1000, count))(jax.random.key(0), live, threshold, FACTOR)
    assert float(moved.loglikelihood.min()) > -4.0
    assert np.all(np.asarray(moved.loglikelihood_birth) == -4.0)
    assert 40 <= float(calls.mean()) < 120
    # in the metric of the ellipse, a disk of radius two with the prior exp(-2 y) along its first axis
    y = np.sort(np.asarray(jax.vmap(_white)(moved.position))[:, 0])
    grid = np.linspace(-2.0, 2.0, 4001)
    cumulative = np.cumsum(np.exp(-2.0 * grid) * np.sqrt(4.0 - grid**2))
    assert kstest(np.interp(y, grid, cumulative / cumulative[-1]), "uniform").pvalue > 0.01


@pytest.mark.slow
def test_size_of_batches_changes_nothing(live):
    # also a batch that does not divide the number of points, and a larger one
    one, *others = (
        replace(make, 4, size, 10)(jax.random.key(2), live, jnp.asarray(-3.0), FACTOR) for size in (1, 3, 16)
    )
    for other in others:
        np.testing.assert_allclose(one[0].position, other[0].position, rtol=1e-5)
        np.testing.assert_array_equal(one[1], other[1])


def test_points_stay_where_there_is_nothing_above():
    # all live points are as likely as the threshold: no slice has an inside
    def flat(x, birth):
        return Particles(x, jnp.zeros(()), jnp.zeros(()), jnp.zeros(()) + birth)

    x = jnp.ones((4, 1))
    state = State(jax.vmap(lambda one: flat(one, -jnp.inf))(x))
    moved, calls = replace(flat, 2, 2, 2)(jax.random.key(3), state, jnp.asarray(0.0), jnp.eye(1))
    np.testing.assert_array_equal(moved.position, x[:2])
    np.testing.assert_array_equal(calls, 2 * TRIES)
