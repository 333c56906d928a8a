import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from gammajax.instrument.observation import Exclusion
from gammajax.instrument.sky import Grid

OPTIONS = {"per_decade": 15.0}


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "factor", [gj.GaussianFlare(0.55, 0.02, 3.0, reference=60000.0), gj.PerObservation([0.5, 2.0])]
)
def test_factors_in_time(factor, make_observation):
    selection = {"energy_min": 1.0, "energy_max": 3.0}
    spans = [[[60000.5, 60000.6]], [[60001.5, 60001.6]]]
    runs = [make_observation(good_time=span, **selection) for span in spans]
    steady = gj.Source(gj.PowerLaw(2.0, 1e-12), gj.Point(0.3, 0.2))
    changing = gj.Source(steady.spectrum, steady.morphology, time=factor)
    time = np.array([60000.55, 60000.501, 60001.55])
    events = gj.Events([1.5, 1.5, 1.5], [0.3] * 3, [0.2] * 3, [0, 0, 1], time=time)
    # by the midpoint rule in double precision
    middle = (np.arange(2000) + 0.5) / 2000
    if isinstance(factor, gj.PerObservation):
        means, at = np.array([0.5, 2.0]), np.array([0.5, 0.5, 2.0])
    else:
        shape = lambda day: 1.0 + 3.0 * np.exp(-0.5 * ((day - 0.55) / 0.02) ** 2)  # noqa: E731
        means = np.array([shape(start + 0.1 * middle).mean() for start in (0.5, 1.5)])
        at, means = shape(time - 60000.0) / means.mean(), means / means.mean()
    flat, moved = (gj.intensity(source, runs, events, **OPTIONS) for source in (steady, changing))
    np.testing.assert_allclose(moved / flat, at, rtol=2e-4)
    flat, moved = (
        np.array([float(gj.expected_counts(source, run, **OPTIONS)) for run in runs])
        if source is steady
        else float(gj.expected_counts(source, runs, **OPTIONS))
        for source in (steady, changing)
    )
    np.testing.assert_allclose(moved, (flat * means).sum(), rtol=2e-4)
