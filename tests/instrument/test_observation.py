import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from gammajax.instrument.observation import Exclusion
from gammajax.instrument.sky import Grid

RANDOM = np.random.default_rng(0)


@eqx.filter_jit
def call(observation, method, *arguments):
    return getattr(observation, method)(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"livetime": -1.0}, "observation 7: livetime must be positive and finite, not -1.0 s"),
        ({"livetime": 0.0}, "livetime must be positive"),
        ({"livetime": np.nan}, "livetime must be positive"),
        ({"livetime": np.inf}, "livetime must be positive"),
        ({"energy_min": 9.0}, "energy range must be increasing, not 9.0 to 8.0 TeV"),
        ({"energy_min": 0.0}, "energy range must be increasing"),
        ({"energy_max": np.inf}, "energy range must be increasing"),
        ({"energy_max": np.nan}, "energy range must be increasing"),
        ({"offset_max": 0.0}, "offset_max must be between 0 and 90 deg"),
        ({"offset_max": -1.0}, "offset_max must be between 0 and 90 deg"),
        ({"offset_max": 100.0}, "offset_max must be between 0 and 90 deg"),
        ({"lat": 95.0}, r"the pointing \(0.0, 95.0\) deg is not a direction"),
        ({"lon": np.nan}, "is not a direction"),
        ({"frame": "altaz"}, "frame must be 'icrs' or 'galactic', not 'altaz'"),
    ],
)
def test_bad_arguments(make_observation, changes, message):
    with pytest.raises(ValueError, match=message):
        make_observation(obs_id="7", **changes)


def test_selected_is_a_circle(make_observation):
    observation = make_observation(lon=30.0, lat=50.0, offset_max=1.5)
    lon, lat = 30.0 + RANDOM.uniform(-4.0, 4.0, 500), 50.0 + RANDOM.uniform(-2.0, 2.0, 500)
    separation = SkyCoord(30 * u.deg, 50 * u.deg).separation(SkyCoord(lon * u.deg, lat * u.deg)).deg
    clear = np.abs(separation - 1.5) > 1e-4
    inside = np.asarray(call(observation, "selected", jnp.asarray(lon), jnp.asarray(lat)))
    np.testing.assert_array_equal(inside[clear], (separation < 1.5)[clear])
    np.testing.assert_allclose(
        call(observation, "offset", jnp.asarray(lon), jnp.asarray(lat)), separation, rtol=1e-4, atol=1e-4
    )


def test_excluded_directions_are_not_selected(make_observation):
    # exclude the pixels with x > 0.25, 3 pixels of 0.5 deg on either side
    grid = Grid(30.0, 50.0, 0.5, 1.0)
    x = np.asarray(grid.coordinates)
    exclusion = Exclusion(grid, jnp.broadcast_to(jnp.asarray(x > 0.25), (grid.size, grid.size)))
    observation = make_observation(lon=30.0, lat=50.0, exclusion=exclusion)
    lon = 30.0 + np.array([0.0, 0.3, 0.5, 1.0, -0.5]) / np.cos(np.radians(50.0))
    lat = np.full(5, 50.0)
    selected = call(observation, "selected", jnp.asarray(lon), jnp.asarray(lat))
    np.testing.assert_array_equal(selected, [True, False, False, False, True])
    # nothing is excluded outside the raster
    outside = call(observation, "selected", jnp.array([30.0]), jnp.array([50.0 + 1.9]))
    assert outside[0] and x.max() < 1.8


@pytest.mark.parametrize("angle", [0.0, 35.0])
def test_field_of_view_coordinates_against_astropy(make_observation, angle):
    with jax.enable_x64(True):
        observation = make_observation(lon=83.6, lat=22.0, fov_angle=angle, frame="icrs")
        lon, lat = 83.6 + RANDOM.uniform(-2.0, 2.0, 50), 22.0 + RANDOM.uniform(-2.0, 2.0, 50)
        fov_lon, fov_lat = call(observation, "fov_coordinates", jnp.asarray(lon), jnp.asarray(lat))
    frame = SkyCoord(83.6 * u.deg, 22 * u.deg).skyoffset_frame(rotation=angle * u.deg)
    expected = SkyCoord(lon * u.deg, lat * u.deg).transform_to(frame)
    # gammapy's sign: the longitude grows against the sky's
    np.testing.assert_allclose(fov_lon, -expected.lon.wrap_at(180 * u.deg).deg, atol=1e-5)
    np.testing.assert_allclose(fov_lat, expected.lat.deg, atol=1e-5)


def test_background_grows_with_livetime(make_observation):
    at = jnp.array([1.0, 3.0]), jnp.array([0.5, 1.0]), jnp.array([0.0, -1.0])
    once = call(make_observation(livetime=100.0), "background", *at)
    twice = call(make_observation(livetime=200.0), "background", *at)
    np.testing.assert_allclose(twice, 2.0 * once, rtol=1e-6)
    offset2 = np.array([0.25, 2.0])
    expected = 100.0 * 0.05 * np.array([1.0, 3.0]) ** -2.7 * np.exp(-0.15 * offset2)
    np.testing.assert_allclose(once, expected, rtol=0.06)  # the table is coarse


def test_no_background(make_observation, response):
    without = eqx.tree_at(lambda r: r.background, response, None)
    observation = eqx.tree_at(lambda o: o.response, make_observation(obs_id="5"), without)
    with pytest.raises(ValueError, match="observation 5 has no background response"):
        observation.background(jnp.ones(1), jnp.zeros(1), jnp.zeros(1))
