import numpy as np
import pytest
from astropy import units as u
from hypothesis import given, settings
from hypothesis import strategies as st

import gammajax as gj
from gammajax.events.event_list import check_events

TRUTH = {
    "energy_true": [1.1, 2.1, 3.1],
    "lon_true": [0.1, 0.2, 0.3],
    "lat_true": [0.0, 0.1, 0.2],
    "component": [0, 1, 0],
}


def events(energy=(1.0, 2.0, 3.0), lon=(0.0, 0.1, 0.2), lat=(0.0, -0.1, 0.3), observation=(0, 0, 1), **truth):
    return gj.Events(energy, lon, lat, observation, **truth)


def test_columns():
    made = events(**TRUTH)
    assert len(made) == 3 and made.energy.dtype == np.float64 and made.observation.dtype == np.int32
    assert isinstance(made.lon, np.ndarray)
    np.testing.assert_array_equal(events(observation=1).observation, 1)
    assert events().energy_true is None and events().component is None


def test_quantities_are_converted():
    made = gj.Events([500.0, 2000.0] * u.GeV, [30.0, 60.0] * u.arcmin, [0.0, 0.01] * u.rad)
    np.testing.assert_allclose(made.energy, [0.5, 2.0])
    np.testing.assert_allclose(made.lon, [0.5, 1.0])
    np.testing.assert_allclose(made.lat, [0.0, np.degrees(0.01)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energy": [1.0, np.nan, 3.0]}, "event 1: energy is not finite"),
        ({"energy": [1.0, 2.0, np.inf]}, "event 2: energy is not finite"),
        ({"lon": [np.nan, 1.0, 2.0]}, "event 0: lon is not finite"),
        ({"lat": [0.0, 1.0, -np.inf]}, "event 2: lat is not finite"),
        ({"energy": [1.0, -2.0, 3.0]}, "event 1: energies must be positive"),
        ({"energy": [1.0, 2.0, 0.0]}, "event 2: energies must be positive"),
        ({"lat": [0.0, 91.0, 0.0]}, "event 1: latitudes must be within"),
        ({"lon": [0.0, 1.0]}, "column lon has 2 entries, energy has 3"),
        ({"lat": [0.0]}, "column lat has 1 entries"),
        ({"energy_true": [1.0]}, "column energy_true has 1 entries"),
        ({"lon_true": [1.0, np.nan, 1.0]}, "event 1: lon_true is not finite"),
        ({"observation": [0, -1, 0]}, "non-negative indices"),
        ({"observation": [0.0, 1.0, 0.0]}, "non-negative indices"),
    ],
)
def test_bad_columns(changes, message):
    with pytest.raises(ValueError, match=message):
        events(**changes)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
def test_selecting_keeps_the_truth(mask):
    made, mask = events(**TRUTH), np.array(mask)
    for which in (mask, np.flatnonzero(mask)):
        some = made[which]
        for column in ("energy", "lon", "lat", "observation", *TRUTH):
            np.testing.assert_array_equal(getattr(some, column), getattr(made, column)[mask])


def test_slices():
    assert made_ends(events(**TRUTH)[1:]) == (2, 2.0, 2.1, 1)
    assert events()[:2].energy_true is None
    assert len(events()[np.zeros(3, bool)]) == 0


def made_ends(some):
    return len(some), some.energy[0], some.energy_true[0], some.component[0]


@pytest.fixture(scope="module")
def pair(make_observation):
    return [make_observation(obs_id="first"), make_observation(lon=0.5, obs_id="second")]


def test_good_events_pass(pair):
    check_events(events(), pair)
    # the last bit of single precision is allowed
    check_events(gj.Events([np.float32(8.0) * (1 + 1e-7), 0.5 * (1 - 1e-7)], [0.0, 2.0], [0.0, 0.0]), pair)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation": [0, 2, 1]}, "event 1 belongs to observation 2, there are 2 observations"),
        ({"lon": [0.0, 2.1, 0.2]}, r"event 1 lies 2\.10. deg from the pointing, outside .* observation first"),
        ({"lon": [0.0, 0.0, -1.6]}, "event 2 lies 2.121 deg .* observation second"),
        (
            {"energy": [1.0, 0.4, 1.0]},
            "event 1 has 0.4 TeV, outside the energy range 0.5 to 8 TeV of observation first",
        ),
        ({"energy": [1.0, 1.0, 9.0]}, "event 2 has 9 TeV, outside the energy range .* observation second"),
    ],
)
def test_events_outside_the_selection(pair, changes, message):
    with pytest.raises(ValueError, match=message):
        check_events(events(**changes), pair)


def test_bad_lists_of_observations(make_observation, pair):
    with pytest.raises(ValueError, match="list of observations is empty"):
        check_events(events(), [])
    with pytest.raises(ValueError, match="share one frame"):
        check_events(events(), [pair[0], make_observation(frame="icrs")])
