"""Likelihoods of many points, for samplers with particles.

They are computed in batches of points, so that memory does not grow with points times events.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array, Float, PRNGKeyArray

from gammajax.samplers.space import dimension, log_likelihood, prior_draws

ROOM, ROOM_ELSEWHERE = 2**26, 2**31  # bytes of a batch: a CPU is fastest within its caches


def batch_size(posterior, count: int, gradient: bool = False) -> int:
    """Number of likelihoods, or gradients, to compute at once: as many as fit in memory, on a CPU in its caches.

    It divides `count`: a remainder would need a separate compilation.
    """
    room = ROOM if jax.default_backend() == "cpu" else ROOM_ELSEWHERE
    each = working_size(posterior, gradient)
    return max(size for size in range(1, count + 1) if count % size == 0 and (size == 1 or size * each <= room))


def working_size(posterior, gradient: bool = False) -> int:
    """Working memory [bytes] of one likelihood, or its gradient, from its traced program.

    The compiler fuses steps that are separate here, and its Fourier transforms need extra memory: the true size differs
    by a factor of up to three.
    """

    def function(x):
        return log_likelihood(posterior, x)

    program = jax.make_jaxpr(jax.grad(function) if gradient else function)(jnp.zeros(dimension(posterior)))
    return _most_alive(program.jaxpr)


def _most_alive(program: Jaxpr) -> int:
    """Largest size [bytes] of intermediate results that are needed at the same time."""
    last = {var: number for number, step in enumerate(program.eqns) for var in step.invars if not _is_literal(var)}
    last |= {var: len(program.eqns) for var in program.outvars if not _is_literal(var)}
    alive, most = {}, 0
    for number, step in enumerate(program.eqns):
        made = {var: _bytes(var.aval) for var in step.outvars}
        within = max(map(_most_alive, _inner(step.params.values())), default=0)
        most = max(most, sum(alive.values()) + max(sum(made.values()), within))
        alive = {var: size for var, size in (alive | made).items() if last.get(var, -1) > number}
    return most


def _inner(values):
    """Programs among the parameters of a step: bodies of loops, branches, compiled functions."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, list | tuple):
            yield from _inner(value)


def _bytes(aval) -> int:
    return aval.size * getattr(aval.dtype, "itemsize", 8) if hasattr(aval, "size") else 0


def _is_literal(var) -> bool:
    return isinstance(var, Literal)


@eqx.filter_jit
def log_likelihoods(posterior, x: Float[Array, "particle dimension"], batch: int) -> Float[Array, " particle"]:
    """Logarithm of the likelihood ratio at every point, `batch` at a time."""
    return jax.lax.map(lambda one: log_likelihood(posterior, one), x, batch_size=batch)


def prior_particles(
    posterior, key: PRNGKeyArray, size: int, batch: int
) -> tuple[Float[Array, "particle dimension"], Float[Array, " dimension"]]:
    """Draws of the prior, and the draw of highest likelihood."""
    x = _draws(posterior, key, size)
    return x, x[np.argmax(np.asarray(log_likelihoods(posterior, x, batch)))]


@eqx.filter_jit
def _draws(posterior, key, size):
    return prior_draws(posterior, key, size)
