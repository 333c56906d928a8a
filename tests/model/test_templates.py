"""Template cubes: maps that change with energy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

import gammajax as gj
from gammajax.engines import ENGINES, Rows
from gammajax.instrument.sky import Grid
from gammajax.model.morphology import plane_fractions

ENERGY = np.array([0.2, 1.0, 9.0])
GRID = Grid(0.0, 0.0, 0.05, 1.6)
X, Y = np.meshgrid(GRID.coordinates, GRID.coordinates)
OTHER, SOME = Grid(0.1, 0.0, 0.11, 3.0), [0.1, 0.2, 0.4, 3.0, 30.0]  # grid and energies [TeV] to look at it
RAD2 = np.asarray(X, float) ** 2 + np.asarray(Y, float) ** 2


def width2(energy):
    """Square of the width [deg^2]: log-log between Gaussians, the inverse square is linear in ln E."""
    return 1.0 / np.interp(np.log(energy), np.log(ENERGY), [8.0, 12.0, 25.0])


@pytest.fixture(scope="module")
def cube():
    return gj.TemplateCube(GRID, ENERGY, np.exp(-0.5 * RAD2 / width2(ENERGY)[:, None, None]))


@eqx.filter_jit
def brightness(cube, energy, lon, lat):
    return cube.at(energy).brightness(lon, lat)


def test_between_planes_a_gaussian_stays_one(cube):
    energy = np.array([0.05, 0.2, 0.31, 0.5, 1.0, 2.3, 8.0, 9.0, 70.0])
    lon, lat = (jnp.asarray(c[16:49, 32]) for c in eqx.filter_jit(lambda grid: grid.directions())(GRID))
    value = np.asarray(brightness(cube, jnp.asarray(energy)[:, None], lon, lat), np.float64)
    width = width2(energy)[:, None]
    expected = np.exp(-0.5 * RAD2[16:49, 32] / width) / (2.0 * np.pi * np.radians(1.0) ** 2 * width)
    # single precision in the norm and in powers of the ratio of planes
    np.testing.assert_allclose(value, expected, rtol=3e-4)


def test_fractions_add_up_at_every_energy(cube):
    total = np.asarray(plane_fractions(cube, OTHER, jnp.asarray(SOME)), np.float64).sum((1, 2))
    np.testing.assert_allclose(total, 1.0, rtol=1e-4)


def test_equal_planes_are_a_map(cube):
    values = np.asarray(cube.values[1])
    same, image = gj.TemplateCube(GRID, ENERGY, [values, 3.0 * values, values]), gj.TemplateMap(GRID, values)
    every, one = (np.asarray(plane_fractions(morphology, OTHER, jnp.asarray(SOME))) for morphology in (same, image))
    assert one.shape == (1, *every.shape[1:])
    np.testing.assert_allclose(every, np.broadcast_to(one, every.shape), rtol=1e-6)


def test_simulated_photons_have_the_width_of_their_energy(cube, make_observation):
    observation = make_observation(energy_min=0.2)
    source = gj.Source(gj.PowerLaw(1.5, 1e-11), cube)
    drawn = gj.simulate(jax.random.key(4), source, observation, events=6000)
    energy, lon, lat = (np.asarray(c, float) for c in (drawn.energy_true, drawn.lon_true, drawn.lat_true))
    assert (energy < 0.5).sum() > 500 and (energy > 5.0).sum() > 500
    # detected with the effective area, which falls as exp(-0.05 r^2); within pixels the map is flat
    inverse = 1.0 / (width2(energy) + 0.05**2 / 12.0) + 0.1
    assert kstest(0.5 * ((lon + 180.0) % 360.0 - 180.0) ** 2 * inverse + 0.5 * lat**2 * inverse, "expon").pvalue > 1e-3


def test_bad_cubes(cube):
    planes = np.asarray(cube.values)
    with pytest.raises(ValueError, match="one plane per energy, at least two; not 1 planes"):
        gj.TemplateCube(GRID, ENERGY[:1], planes[:1])
    with pytest.raises(ValueError, match="must be positive, finite and increasing"):
        gj.TemplateCube(GRID, ENERGY[::-1], planes)
    with pytest.raises(ValueError, match="a plane at 9 TeV must be finite, non-negative and not all zero"):
        gj.TemplateCube(GRID, ENERGY, planes * np.array([1.0, 1.0, 0.0])[:, None, None])
    apart = np.stack([X < -0.5, X > 0.5])
    with pytest.raises(ValueError, match="planes at 0.2 and 1 TeV have next to nothing in common"):
        gj.TemplateCube(GRID, ENERGY[:2], apart)
    with pytest.raises(TypeError, match=r"take it of cube.at\(energy\)"):
        cube.brightness(0.0, 0.0)


def test_the_fold_engine_refuses_a_cube(cube, observation):
    rows = Rows.init(gj.Events([1.0], [0.0], [0.0]), [observation], 15.0)
    with pytest.raises(ValueError, match="only if it is round and keeps its position.*engine='kernel'"):
        ENGINES["fold"].init(gj.Source(gj.PowerLaw(2.0, 1e-11), cube), [observation], rows)
