"""The selected region seen through the point spread function, against directions thrown by numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from gammajax.engines.acceptance import Acceptance, energy_probability
from gammajax.engines.energy import EnergyNodes
from gammajax.instrument.observation import Exclusion
from gammajax.instrument.sky import Grid, displace

NUMBER = 400_000


@pytest.mark.slow
@pytest.mark.parametrize("morphology", [gj.Point(0.15, 0.1), gj.Gaussian(0.15, 0.1, 0.05)], ids=["point", "gaussian"])
def test_beside_excluded_sky(morphology, make_observation):
    """Half of the sky is excluded, from a tenth of a degree beside the source on."""
    grid = Grid(0.0, 0.0, 0.04, 2.5)
    with jax.enable_x64(True):
        lon, _ = grid.directions()
        observation = make_observation(exclusion=Exclusion(grid, jnp.asarray((lon > 0.25) & (lon < 180.0))))
        nodes = EnergyNodes(0.9, 9.0, 8.0)
        found = Acceptance.init(morphology, observation, nodes)(morphology, nodes)
        offset = observation.offset(morphology.lon, morphology.lat)
        found = np.asarray(found / (observation.livetime * energy_probability(observation, nodes, offset)))
        random = np.random.default_rng(1)
        for energy, probability in list(zip(np.asarray(nodes.energy), found, strict=True))[1::3]:
            width = 0.12 * energy**-0.2 * (1.0 + 0.08 * float(offset))  # of the response of the tests
            width = np.hypot(width, getattr(morphology, "sigma", 0.0))
            radius, angle = width * np.sqrt(random.chisquare(2, NUMBER)), random.uniform(0.0, 360.0, NUMBER)
            kept = observation.selected(
                *displace(morphology.lon, morphology.lat, jnp.asarray(radius), jnp.asarray(angle))
            )
            assert probability == pytest.approx(float(np.mean(kept)), abs=2.5e-3), energy
