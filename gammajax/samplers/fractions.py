"""Fractions of the events of every node of a mixture, at the draws of a sampler."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def sample_fractions(posterior, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fractions [chain, draw] by path of the node.

    Empty for other objects than a [`gammajax.Posterior`][], for example a handwritten log-likelihood.
    """
    if not hasattr(posterior, "fractions"):
        return {}
    shape = np.shape(next(iter(samples.values())))[:2]
    draws = {name: jnp.asarray(values).reshape(-1, *np.shape(values)[2:]) for name, values in samples.items()}
    found = _fractions(posterior, draws)
    mixture = posterior.model(posterior.reference_parameters)  # for the order of names: jit sorts dicts
    names = mixture.node_fractions(dict.fromkeys(mixture.components, jnp.ones(())))
    return {name: np.asarray(found[name]).reshape(shape) for name in names}


@eqx.filter_jit
def _fractions(posterior, draws):
    return jax.lax.map(posterior.fractions, draws)
