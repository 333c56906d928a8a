"""Moves of nested sampling: slices through the live points, with an independent pace for every point.

Hit-and-run slices (Neal 2003, doi:10.1214/aos/1056562461) along orthogonal directions in the metric of the live points,
with new directions for every sweep (Handley, Hobson & Lasenby 2015, arXiv:1506.00171). Many points move in parallel on
one device. If they moved slice by slice, all would wait for the point whose interval shrinks most often. Instead, each
point starts its next slice at once, and a finished point is replaced by the next point: points wait only at the end.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

WIDTH = 4.0  # of the first interval, in standard deviations of the live points: few slices are wider
TRIES = 100  # in one slice; after them the point does not move


class Walk(NamedTuple):
    """A moving point, with its number of finished slices and the interval of the current slice."""

    key: PRNGKeyArray
    point: Any
    slices: Int[Array, ""]
    level: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]
    tries: Int[Array, ""]
    total: Int[Array, ""]


def replace(make: Callable, slices: int, batch: int, delete: int) -> Callable:
    """Inner kernel for blackjax: `delete` new points, started from live points above the threshold, `batch` at a time.

    `make(x, loglikelihood_birth)` is the state of a particle. The kernel returns the new particles and the number of
    likelihoods computed for each.
    """

    def inner_kernel(key, state, threshold, covariance_factor):
        key_from, key_move = jax.random.split(key)
        above = state.particles.loglikelihood > threshold
        above = jnp.where(above.any(), above, True)
        source = jax.random.choice(key_from, above.size, (delete,), p=above / above.sum())
        first = jax.tree.map(lambda a: a[source], state.particles)
        start = partial(_start, slices, covariance_factor)
        walks, directions = jax.vmap(start)(jax.random.split(key_move, delete), first)

        def all_try(carry):
            walks, at, waiting = carry
            # indices beyond the last point gather arbitrary values, which are not written
            tried = jax.vmap(partial(_try, make, threshold))(*jax.tree.map(lambda a: a[at], (walks, directions)))
            walks = jax.tree.map(lambda a, new: a.at[at].set(new, mode="drop"), walks, tried)
            there = tried.slices >= slices
            return walks, jnp.where(there, waiting + jnp.cumsum(there) - 1, at), waiting + there.sum()

        carry = walks, jnp.arange(batch), jnp.asarray(batch)
        walks, *_ = jax.lax.while_loop(lambda carry: (carry[1] < delete).any(), all_try, carry)
        born = jnp.full_like(walks.point.loglikelihood_birth, threshold)
        return walks.point._replace(loglikelihood_birth=born), walks.total

    return inner_kernel


def _start(slices, factor, key, point) -> tuple[Walk, Float[Array, "slice dimension"]]:
    """The state before the first slice, and the directions of all slices."""
    numbers = factor.shape[0]
    key, key_directions, key_first = jax.random.split(key, 3)
    sweeps = -(-slices // numbers)
    basis, _ = jnp.linalg.qr(jax.random.normal(key_directions, (sweeps, numbers, numbers), factor.dtype))
    directions = basis.reshape(sweeps * numbers, numbers) @ factor.T
    none = jnp.zeros((), jnp.int32)
    level, low, high = _interval(key_first, point)
    return Walk(key, point, none, level, low, high, none, none), directions


def _interval(key, point):
    """Level of the prior density, and an interval about the point: of fixed width, which costs no likelihood."""
    height, place = jax.random.uniform(key, (2,), point.position.dtype)
    return point.logdensity + jnp.log(height), -WIDTH * place, WIDTH * (1.0 - place)


def _try(make, threshold, walk, directions) -> Walk:
    """Try one position in the interval (one likelihood): move the point there, or shrink the interval."""
    key, key_place, key_next = jax.random.split(walk.key, 3)
    t = walk.low + (walk.high - walk.low) * jax.random.uniform(key_place, (), walk.low.dtype)
    to = make(walk.point.position + t * directions[walk.slices], threshold)
    inside = (to.loglikelihood > threshold) & (to.logdensity >= walk.level)
    point = jax.tree.map(lambda there, here: jnp.where(inside, there, here), to, walk.point)
    over = inside | (walk.tries + 1 >= TRIES)
    cut = walk.level, jnp.where(t < 0.0, t, walk.low), jnp.where(t < 0.0, walk.high, t)
    level, low, high = (jnp.where(over, new, old) for new, old in zip(_interval(key_next, point), cut, strict=True))
    tries = jnp.where(over, 0, walk.tries + 1)
    return Walk(key, point, walk.slices + over, level, low, high, tries, walk.total + 1)
