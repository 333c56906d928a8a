"""Offsets of true directions: the Rice distribution, drawn by numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gammajax.engines.plane import two_offsets


@pytest.mark.parametrize("away", [1e-6, 0.01, 1.0])
@pytest.mark.parametrize("spread", [0.0, 1e-9, 0.01])
def test_two_offsets_are_those_of_a_rice_distribution(away, spread):
    low, high = two_offsets(jnp.asarray(away), jnp.asarray(spread), jnp.asarray(spread))
    drawn = np.hypot(*(np.random.default_rng(0).normal(0.0, spread**0.5, (2, 400_000)) + [[away], [0.0]]))
    assert abs(float(low + high) / 2.0 - drawn.mean()) < 2e-3 * spread**0.5 + 2e-4
    slopes = jax.grad(lambda *a: two_offsets(*a)[0] + two_offsets(*a)[1], (0, 1, 2))(
        *map(float, (away, spread, spread))
    )
    assert np.all(np.isfinite(slopes))
