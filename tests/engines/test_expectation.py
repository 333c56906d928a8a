import jax.numpy as jnp

import gammajax as gj
from gammajax.instrument.observation import Exclusion
from gammajax.instrument.sky import Grid

OPTIONS = {"per_decade": 15.0}


def test_expected_counts_of_a_field_whose_centre_is_excluded(make_observation):
    grid = Grid(0.0, 0.0, 0.05, 0.5)
    disk = Exclusion(grid, jnp.hypot(grid.coordinates[None, :], grid.coordinates[:, None]) < 0.3)
    selection = {"energy_min": 1.0, "energy_max": 3.0}
    source = gj.Source(gj.PowerLaw(2.0, 1e-12), gj.Point(0.3, 0.2))
    whole, some = (
        float(gj.expected_counts(source, make_observation(exclusion=part, **selection), **OPTIONS))
        for part in (None, disk)
    )
    assert 0.2 * whole < some < 0.95 * whole
