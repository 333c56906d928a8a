import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from benchmarks.fold import by_event
from gammajax.engines.rows import Rows, true_energy_range


def events(size, observations=1, seed=0):
    random = np.random.default_rng(seed)
    energy = 0.5 * 16.0 ** random.uniform(size=size) ** 2
    lon, lat = random.uniform(-1.0, 1.0, (2, size))
    return gj.Events(energy, lon, lat, random.integers(0, observations, size))


@pytest.fixture(scope="module")
def pair(make_observation):
    return [make_observation(), make_observation(lon=0.5, energy_min=0.4)]


@pytest.mark.parametrize("size", [1, 31, 500])
def test_every_event_has_exactly_one_valid_row(pair, size):
    made = events(size, 2)
    rows = Rows.init(made, pair, 20.0)
    np.testing.assert_array_equal(np.sort(rows.index[rows.valid]), np.arange(size))
    np.testing.assert_array_equal(rows.observation, made.observation[rows.index])
    for column in ("energy", "lon", "lat"):
        np.testing.assert_array_equal(getattr(rows.points(), column)[:, 0], getattr(made, column)[rows.index])
    assert rows.index.size == rows.start.size * rows.block


def test_values_return_to_the_events(pair):
    made = events(77, 2)
    rows = Rows.init(made, pair, 20.0)
    values = jnp.asarray(np.where(rows.valid, rows.points().energy[:, 0], np.nan))
    np.testing.assert_array_equal(by_event(rows, values), jnp.asarray(made.energy))


def test_bands_cover_the_energies_that_an_event_can_come_from(pair, response):
    rows = Rows.init(events(300, 2), pair, 20.0)
    nodes, start = np.asarray(rows.nodes.energy), np.repeat(rows.start, rows.block)
    assert rows.start.min() >= 0 and rows.start.max() + rows.band <= nodes.size
    # energies resolved to 10 to 15 %: three standard deviations about each event, and the same band for a whole block
    assert np.all(nodes[start] <= rows.points().energy[:, 0] / 1.4)
    assert np.all(nodes[start + rows.band - 1] >= np.minimum(rows.points().energy[:, 0] / 0.6, nodes[-1]))
    assert rows.band < nodes.size
    spread = rows.points().energy.reshape(-1, rows.block)
    assert np.all(spread.max(1) / spread.min(1) <= np.exp(2.0 * rows.nodes.log_step) * (1 + 1e-6))


def test_bands_can_be_chosen(pair):
    rows = Rows.init(events(50, 2), pair, 20.0, bands=5)
    assert rows.band == 5
    middle = np.asarray(rows.nodes.energy)[np.repeat(rows.start, rows.block) + 2]
    np.testing.assert_allclose(middle / rows.points().energy[:, 0], 1.0, atol=0.5)


@pytest.mark.parametrize("bands", [0, -1])
def test_widths_of_bands_that_are_none_are_refused(pair, bands):
    with pytest.raises(ValueError, match="bands must be a whole number of at least one"):
        Rows.init(events(50, 2), pair, 20.0, bands=bands)


def test_bands_are_at_most_all_nodes(pair):
    rows = Rows.init(events(50, 2), pair, 20.0, bands=10_000)
    assert rows.band == rows.nodes.energy.size and np.all(rows.start == 0)


def test_true_energies_follow_the_selection(make_observation):
    # migra 0.4 to 1.8
    low, high = true_energy_range([make_observation(energy_min=1.0, energy_max=2.0)])
    assert (low, high) == (pytest.approx(1.0 / 1.8, rel=1e-4), pytest.approx(2.0 / 0.4, rel=1e-4))
    # and the effective area ends at 0.1 and 30 TeV
    low, high = true_energy_range([make_observation(energy_min=0.11, energy_max=20.0)])
    assert (low, high) == (pytest.approx(0.1, rel=1e-4), pytest.approx(30.0, rel=1e-4))
    with pytest.raises(ValueError, match="which the response does not cover"):
        true_energy_range([make_observation(energy_min=60.0, energy_max=80.0)])


@pytest.mark.parametrize("size", [1000, 15_000])
def test_data_sets_of_similar_size_share_shapes(pair, size):
    """Each shape is compiled anew; padding costs at most a quarter of the rows."""
    seen = set()
    for seed in range(12):
        number = int(size * (1.0 + 0.3 * seed / 11))
        rows = Rows.init(events(number, 2, seed), pair, 20.0)
        members, _ = rows.share(np.flatnonzero(rows.valid))
        assert members.size <= 1.25 * number
        seen.add((rows.index.size, rows.band, rows.block, members.size))
    assert len(seen) <= 5


def test_events_outside_the_selection_are_refused(pair):
    with pytest.raises(ValueError, match="outside the field of view"):
        Rows.init(gj.Events([1.0], [3.0], [0.0]), pair)
