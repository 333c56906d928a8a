"""Many points at once: what samplers with particles share.

Likelihoods are computed some points at a time, so that memory does not grow with points times events.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gammajax.samplers.space import log_likelihood, prior_draws


def batch_size(posterior, count: int) -> int:
    """How many of `count` likelihoods to compute at once: as many as fit, and on a CPU in its caches.

    A divisor of the count: a remainder would be compiled, and computed, apart.
    """
    rows = max((leaf.size for leaf in jax.tree.leaves(posterior) if jnp.ndim(leaf) == 1), default=1)
    room = 2**22 if jax.default_backend() == "cpu" else 2**27
    return max(size for size in range(1, count + 1) if count % size == 0 and (size == 1 or size * rows <= room))


@eqx.filter_jit
def log_likelihoods(posterior, x: Float[Array, "particle dimension"], batch: int) -> Float[Array, " particle"]:
    """Logarithm of the likelihood ratio at every point, `batch` at a time."""
    return jax.lax.map(lambda one: log_likelihood(posterior, one), x, batch_size=batch)


def prior_particles(
    posterior, key: PRNGKeyArray, size: int, batch: int
) -> tuple[Float[Array, "particle dimension"], Float[Array, " dimension"]]:
    """Draws of the prior, and the one of highest likelihood."""
    x = _draws(posterior, key, size)
    return x, x[np.argmax(np.asarray(log_likelihoods(posterior, x, batch)))]


@eqx.filter_jit
def _draws(posterior, key, size):
    return prior_draws(posterior, key, size)
