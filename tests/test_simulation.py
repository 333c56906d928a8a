import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from gammajax.events.event_list import check_events
from gammajax.instrument.observation import Exclusion
from gammajax.instrument.sky import Grid
from gammajax.simulation import require_key

SOURCES = {
    "point": gj.Source(gj.PowerLaw(2.3, 3e-10), gj.Point(0.3, 0.2)),
    "Gaussian": gj.Source(gj.ExponentialCutoffPowerLaw(1.8, 0.2, 3e-10), gj.Gaussian(-0.7, 0.2, 0.3)),
    "halo": gj.Source(gj.PowerLaw(2.3, 3e-9), gj.Einasto(0.3, 0.2)),
    "background": gj.InstrumentBackground(norm=3000.0, tilt=0.2),
}
POINT, BACKGROUND = SOURCES["point"], SOURCES["background"]
MIXTURE = gj.Mixture(background=BACKGROUND, signal=POINT, weights={"signal": 0.3})
COLUMNS = ("energy", "lon", "lat", "observation", "energy_true", "lon_true", "lat_true", "component")


@pytest.fixture(scope="module")
def observation(make_observation):
    """A narrow range of energies: few nodes for expected counts."""
    return make_observation(energy_min=1.0, energy_max=3.0)


def key(number):
    return jax.random.key(number)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_numbers_are_those_expected(name, observation):
    # two independent codes; a Poisson number within four standard deviations
    drawn = gj.simulate(key(7), SOURCES[name], observation)
    expected = float(gj.expected_counts(SOURCES[name], observation, per_decade=15.0))
    assert expected > 1000.0
    assert abs(len(drawn) - expected) < 4.0 * np.sqrt(expected)
    check_events(drawn, [observation])


def test_numbers_vary_from_draw_to_draw(observation):
    faint = gj.Source(gj.PowerLaw(2.3, 3e-12), POINT.morphology)
    mean = len(gj.simulate(key(1), POINT, observation)) / 100.0
    numbers = np.array([len(gj.simulate(key(i), faint, observation)) for i in range(16)])
    assert abs(numbers.mean() - mean) < 4.0 * np.sqrt(mean / 16.0)
    # the variance of a Poisson number is its mean; of 16 draws it is known to 37 %
    assert abs(numbers.var(ddof=1) / mean - 1.0) < 4.0 * np.sqrt(2.0 / 15.0)


def test_the_key_decides(observation):
    one, same, other = (gj.simulate(key(i), MIXTURE, observation, events=50) for i in (3, 3, 4))
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(one, column), getattr(same, column))
    assert not np.array_equal(one.energy, other.energy)


@pytest.mark.parametrize("number", [1, 1234])
def test_fixed_totals_are_exact(observation, number):
    assert len(gj.simulate(key(0), MIXTURE, observation, events=number)) == number
    assert len(gj.simulate(key(0), POINT, observation, events=number)) == number


def test_poisson_totals(observation):
    numbers = [len(gj.simulate(key(i), MIXTURE, observation, events=100, poisson=True)) for i in range(6)]
    assert len(set(numbers)) > 3 and abs(np.mean(numbers) - 100.0) < 4.0 * np.sqrt(100.0 / 6.0)


def test_components_are_multinomial(observation):
    drawn = gj.simulate(key(5), MIXTURE, observation, events=3000)
    assert MIXTURE.names == ("background", "signal")
    signal = (drawn.component == 1).sum()
    assert abs(signal - 900) < 4.0 * np.sqrt(3000 * 0.3 * 0.7) and signal != 900
    # shuffled: the first half is like the second
    half = (drawn.component[:1500] == 1).sum()
    assert abs(half - 450) < 4.0 * np.sqrt(1500 * 0.3 * 0.7)


def test_truth(observation):
    drawn = gj.simulate(key(5), MIXTURE, observation, events=2000)
    signal, background = drawn[drawn.component == 1], drawn[drawn.component == 0]
    np.testing.assert_array_equal(signal.lon_true, np.float32(0.3))
    np.testing.assert_array_equal(signal.lat_true, np.float32(0.2))
    # migra from 0.4 to 1.8; response from 0.1 to 30 TeV
    ratio = signal.energy / signal.energy_true
    assert ratio.min() > 0.4 and ratio.max() < 1.8
    assert abs(np.mean(ratio) - 0.98) < 0.03
    assert signal.energy_true.min() > 0.1 and signal.energy_true.max() < 30.0
    for column in ("energy", "lon", "lat"):
        np.testing.assert_array_equal(getattr(background, column), getattr(background, f"{column}_true"))


def test_displacements_follow_the_response(observation, response):
    # an offset and energy: the part within the 50 % radius is half
    drawn = gj.simulate(key(6), POINT, observation, events=4000)
    rad = np.hypot((drawn.lon - 0.3) * np.cos(np.radians(0.2)), drawn.lat - 0.2)
    true, offset = jnp.asarray(drawn.energy_true), jnp.full(4000, np.hypot(0.3, 0.2))
    half = np.asarray(eqx.filter_jit(response.psf.quantile)(true, offset, jnp.full(4000, 0.5)))
    assert abs((rad < half).sum() - 2000) < 4.0 * np.sqrt(1000)


def test_excluded_sky_is_empty(make_observation):
    grid = Grid(0.0, 0.0, 0.2, 2.0)
    x = jnp.broadcast_to(grid.coordinates, (grid.size, grid.size))
    observation = make_observation(exclusion=Exclusion(grid, (x > 0.3) & (x < 0.7)), energy_min=1.0, energy_max=3.0)
    drawn = gj.simulate(key(8), BACKGROUND, observation)
    assert np.all(np.asarray(observation.selected(jnp.asarray(drawn.lon), jnp.asarray(drawn.lat))))
    assert drawn.energy.min() >= 1.0 and drawn.energy.max() <= 3.0
    expected = float(gj.expected_counts(BACKGROUND, observation, per_decade=15.0))
    assert abs(len(drawn) - expected) < 4.0 * np.sqrt(expected)


def test_several_observations_share_events_by_exposure(observation, make_observation):
    pair = [observation, make_observation(livetime=72000.0, energy_min=1.0, energy_max=3.0)]
    drawn = gj.simulate(key(9), POINT, pair, events=3000)
    second = (drawn.observation == 1).sum()
    assert abs(second - 2000) < 4.0 * np.sqrt(3000 * 2.0 / 9.0)
    check_events(drawn, pair)


def test_a_seed_is_no_key():
    with pytest.raises(ValueError, match=r"the first argument is a key of random numbers, .* not 1"):
        require_key(1)


@pytest.mark.slow
def test_errors(observation, make_observation):
    with pytest.raises(ValueError, match="a total number of events needs a mixture with weights"):
        gj.simulate(key(0), gj.Mixture(a=POINT, b=BACKGROUND), observation, events=10)
    with pytest.raises(ValueError, match="a mixture with weights has no absolute flux"):
        gj.simulate(key(0), MIXTURE, observation)
    grid = Grid(0.0, 0.0, 0.1, 2.0)
    excluded = Exclusion(grid, jnp.ones((grid.size, grid.size), bool))
    with pytest.raises(ValueError, match=r"component '.*' gives hardly any events .*: 0 of \d+ from [\d.e+]+ detected"):
        gj.simulate(key(0), MIXTURE, make_observation(exclusion=excluded, offset_max=1.0), events=10)
    dark = gj.Source(gj.TabulatedSpectrum([0.01, 0.02], [1e-9, 1e-9]), POINT.morphology)
    with pytest.raises(ValueError, match="component 'dark' gives no events in the selection"):
        gj.simulate(key(0), gj.Mixture(dark=dark, b=BACKGROUND, weights={"dark": 0.5}), observation, events=10)
    none = gj.Source(gj.PowerLaw(2.0, 0.0), POINT.morphology)
    assert set(gj.simulate(key(0), gj.Mixture(none=none, b=BACKGROUND), observation).component) == {1}
    assert len(gj.simulate(key(0), gj.Source(gj.PowerLaw(2.0, 1e-20), POINT.morphology), observation)) == 0
    without = eqx.tree_at(lambda o: o.response.background, observation, None)
    with pytest.raises(ValueError, match="observation 0 has no background response"):
        gj.simulate(key(0), BACKGROUND, without)


def test_tree_draws_by_weights_and_by_fluxes(make_observation):
    observations = [make_observation(energy_min=1.0, energy_max=3.0, livetime=t) for t in (10000.0, 30000.0)]
    bright = gj.Source(gj.PowerLaw(2.3, 9e-10), gj.Point(0.3, 0.2))
    sky = gj.Mixture(one=POINT, three=bright)
    tree = gj.Mixture(sky=sky, background=gj.InstrumentBackground(norm=[1.0, 2.0]), weights={"sky": 0.6})
    drawn = gj.simulate(key(11), tree, observations, events=4000)
    assert len(drawn) == 4000 and list(tree.components) == ["sky/one", "sky/three", "background"]
    of = [drawn.component == i for i in range(3)]
    for part, expected in ((of[2].sum(), 0.4), (of[0].sum(), 0.15), ((drawn.observation[of[1]] == 1).sum(), 0.3375)):
        assert abs(part - 4000 * expected) < 4.0 * np.sqrt(4000 * expected * (1 - expected))
    # the background is three times as long and twice as strong in the second
    second = (drawn.observation[of[2]] == 1).sum()
    assert abs(second - of[2].sum() * 6.0 / 7.0) < 4.0 * np.sqrt(of[2].sum() * 6.0 / 49.0)
    # by absolute flux
    drawn = gj.simulate(key(12), gj.Mixture(sky=sky), observations)
    one, three = ((drawn.component == i).sum() for i in range(2))
    assert abs(three - 3.0 * one) < 4.0 * np.sqrt(three + 9.0 * one)


def test_no_simulation_inside_a_transformation(observation):
    with pytest.raises(ValueError, match="simulate draws on the host: call it outside jit, grad and vmap"):
        jax.jit(lambda key: gj.simulate(key, POINT, observation).energy)(key(0))
    for number in (-1, 2.5, np.nan):
        with pytest.raises(ValueError, match="events must be a whole number that is not negative"):
            gj.simulate(key(0), MIXTURE, observation, events=number)
