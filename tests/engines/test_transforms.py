"""Bessel functions of tables against those of scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import jv, jvp

from gammajax.engines.transforms import Bessel


@pytest.mark.slow
def test_bessel_functions():
    z = np.concatenate([np.linspace(0.0, 5.0, 1234), np.linspace(5.0, 200.0, 5001)])
    bessel = Bessel.upto(200.0)
    small = z < 5.0  # beyond, arguments are rounded
    for n, values in enumerate(bessel(jnp.asarray(z))):
        np.testing.assert_allclose(np.asarray(values)[small], jv(n, z[small]), atol=4e-7)
        np.testing.assert_allclose(values, jv(n, z), atol=2e-5)
    slopes = jax.jacfwd(lambda z: jnp.stack(bessel(z)).sum(1))(jnp.asarray(z))
    for n, slope in enumerate(slopes):
        np.testing.assert_allclose(slope, jvp(n, z), atol=3e-5)
