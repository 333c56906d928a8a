import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from gammajax.instrument import sky
from gammajax.instrument.sky import DEGREE, Grid, fast_size, spline_filter

# compiled as a whole: one operation after the other is slow
separation, displace, project, deproject, offset_coordinates, spline_weights = map(
    jax.jit,
    (sky.separation, sky.displace, sky.project, sky.deproject, sky.offset_coordinates, sky.spline_weights),
)
RANDOM = np.random.default_rng(0)
LON, LAT = RANDOM.uniform(0.0, 360.0, 300), np.degrees(np.arcsin(RANDOM.uniform(-1.0, 1.0, 300)))
DISTANCE, ANGLE = 10.0 ** RANDOM.uniform(-2.0, 2.0, 300), RANDOM.uniform(0.0, 360.0, 300)
directions = st.tuples(st.floats(-180.0, 180.0), st.floats(-80.0, 80.0))
hypothetical = settings(max_examples=20, deadline=None, derandomize=True)


def coordinates(lon, lat):
    return SkyCoord(np.asarray(lon, float), np.asarray(lat, float), unit="deg")


@pytest.mark.parametrize("wide", [False, True])
def test_separation_against_astropy(wide):
    with jax.enable_x64(wide):
        start = jnp.asarray(LON), jnp.asarray(LAT)
        stop = jnp.roll(start[0], 1), jnp.roll(start[1], 1)
        value = np.asarray(separation(*start, *stop))
        expected = coordinates(*start).separation(coordinates(*stop)).deg
    np.testing.assert_allclose(value, expected, rtol=1e-11 if wide else 3e-4)


@pytest.mark.parametrize("wide", [False, True])
def test_displace_against_astropy(wide):
    # single precision: float32 cannot hold a longitude near 360 deg better than 1.5e-5 deg
    with jax.enable_x64(wide):
        start = jnp.asarray(LON), jnp.asarray(LAT)
        value = displace(*start, jnp.asarray(DISTANCE), jnp.asarray(ANGLE))
        expected = coordinates(*start).directional_offset_by(ANGLE * u.deg, DISTANCE * u.deg)
        error = coordinates(*value).separation(expected).deg
    assert error.max() < (1e-9 if wide else 2e-3)
    if not wide:
        near = (DISTANCE < 1.0) & (np.abs(LAT) < 80.0)
        assert error[near].max() < 3e-5


def test_separation_has_a_gradient_where_it_vanishes():
    assert separation(10.0, 20.0, 10.0, 20.0) == 0
    assert np.isfinite(jax.grad(separation)(10.0, 20.0, 10.0, 20.0))


@hypothetical
@given(centre=directions, x=st.floats(-10.0, 10.0), y=st.floats(-10.0, 10.0))
def test_projection_round_trip(centre, x, y):
    with jax.enable_x64(True):
        back = project(*deproject(x, y, *centre), *centre)
    np.testing.assert_allclose(back, (x, y), atol=1e-9)


@jax.jit
@jax.jacobian
def derivative(position, lon, lat):
    return jnp.stack(sky.deproject(position[0], position[1], lon, lat))


@hypothetical
@given(centre=directions, x=st.floats(-20.0, 20.0), y=st.floats(-20.0, 20.0))
def test_projection_is_equal_area(centre, x, y):
    # solid angle per projected area: cos(lat) |d(lon, lat) / d(x, y)| = 1
    with jax.enable_x64(True):
        jacobian = derivative(jnp.array([x + 1e-3, y]), *centre)
        lat = deproject(x + 1e-3, y, *centre)[1]
        assert abs(jnp.linalg.det(jacobian)) * np.cos(DEGREE * lat) == pytest.approx(1.0, rel=1e-7)


def test_offset_coordinates_against_astropy():
    lon, lat = LON[:50], LAT[:50]
    centre = coordinates(83.6, 22.0)
    expected = coordinates(lon, lat).transform_to(centre.skyoffset_frame())
    with jax.enable_x64(True):
        u_, v = offset_coordinates(jnp.asarray(lon), jnp.asarray(lat), 83.6, 22.0)
    np.testing.assert_allclose(u_, expected.lon.wrap_at(180 * u.deg).deg, atol=1e-9)
    np.testing.assert_allclose(v, expected.lat.deg, atol=1e-9)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (266.4, -29.0), (10.0, 75.0)])
def test_grid(centre):
    grid = Grid(*centre, step=0.5, radius=3.0)
    assert grid.size >= 13 and grid.coordinates.shape == (grid.size,)
    x, y = jax.jit(lambda: grid.pixel(*grid.directions()))()
    number = np.arange(grid.size)
    np.testing.assert_allclose(x, np.broadcast_to(number, x.shape), atol=2e-3)
    np.testing.assert_allclose(y, np.broadcast_to(number[:, None], y.shape), atol=2e-3)
    assert grid.solid_angle == pytest.approx((0.5 * u.deg).to_value("rad") ** 2)


def test_grid_averages_over_pixels():
    grid = Grid(0.0, 0.0, step=0.5, radius=2.0)

    def power(n):
        return lambda lon, lat: sky.project(lon, lat, 0.0, 0.0)[0] ** n

    even, smooth = jax.jit(lambda: (grid.average(power(1), 4), grid.smooth_average(power(4), 3)))()
    x, half = np.asarray(grid.coordinates), 0.25
    np.testing.assert_allclose(even[0], x, atol=1e-5)
    # three Gauss-Legendre points integrate polynomials up to the fifth power
    np.testing.assert_allclose(smooth[0], ((x + half) ** 5 - (x - half) ** 5) / (10.0 * half), rtol=1e-4)


@hypothetical
@given(st.floats(0.0, 1.0))
def test_spline_weights_sum_to_one(fraction):
    weights = np.asarray(spline_weights(jnp.asarray(fraction)))
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1.0, abs=1e-6)
    # a cubic spline reproduces straight lines
    assert weights @ [-1.0, 0.0, 1.0, 2.0] == pytest.approx(fraction, abs=1e-6)


def test_spline_filter_keeps_the_mean_and_inverts_sampling():
    size, wave = 30, 2 * np.pi * 3 / 30
    # pixel averages of cos(w x): damped by sinc(w / 2); the spline must return the wave itself at the pixel centres
    averages = np.cos(wave * np.arange(size)) * np.sinc(wave / (2 * np.pi)) + 1.0
    image = np.broadcast_to(averages, (size, size))
    coefficients = np.fft.irfft2(np.fft.rfft2(image) * spline_filter(size), s=(size, size))
    values = (np.roll(coefficients, 1, 1) + 4 * coefficients + np.roll(coefficients, -1, 1)) / 6
    assert coefficients.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(values[0], np.cos(wave * np.arange(size)) + 1.0, atol=1e-12)


@pytest.mark.parametrize(("wanted", "size"), [(1, 1), (7, 8), (11, 12), (97, 100), (128, 128), (241, 243)])
def test_fast_size(wanted, size):
    assert fast_size(wanted) == size
