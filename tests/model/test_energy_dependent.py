import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

import gammajax as gj
from gammajax.instrument.sky import separation

ENDS = (0.1, 100.0)
ENERGY = np.array([0.02, 0.1, 0.7, 5.0, 100.0, 800.0])


def power(shape, delta, **others):
    return gj.EnergyDependent(shape, ENDS, [e**-delta for e in ENDS], **others)


def test_two_energies_are_a_power_law():
    nebula = power(gj.Gaussian(83.6, 22.0, 0.2), 0.3)
    found = [float(nebula.at(e).sigma) for e in ENERGY]
    np.testing.assert_allclose(found, 0.2 * np.clip(ENERGY, *ENDS) ** -0.3, rtol=1e-5)
    assert float(nebula.radius) == pytest.approx(6.1 * 0.2 * 0.1**-0.3, rel=1e-5)
    assert float(nebula.scale) == pytest.approx(0.2 * 100.0**-0.3, rel=1e-5)
    assert nebula.is_round and not power(gj.Gaussian(0.0, 0.0, 0.2, e=0.5), 0.3).is_round
    largest, size = nebula.largest(jnp.asarray(ENERGY))
    np.testing.assert_allclose(size * largest.sigma, found, rtol=1e-5)


def test_all_sizes_of_a_shape_change():
    disk = power(gj.Disk(0.0, 0.0, 0.5, edge=0.1), -0.2).at(10.0)
    assert float(disk.r_0) == pytest.approx(0.5 * 10.0**0.2, rel=1e-5)
    assert float(disk.edge / disk.r_0) == pytest.approx(0.2, rel=1e-5)


def test_shifts_are_linear_in_the_logarithm_of_energy():
    moving = gj.EnergyDependent(gj.Gaussian(10.0, 20.0, 0.1), (1.0, 10.0, 100.0), [1.0] * 3, [0.0, 0.3, 0.2])
    found = [float(moving.at(e).lon) for e in (0.5, 1.0, 10**0.5, 10.0, 10**1.5, 300.0)]
    np.testing.assert_allclose(found, 10.0 + np.array([0.0, 0.0, 0.15, 0.3, 0.25, 0.2]), atol=1e-5)
    assert not moving.is_round
    # the circle about the unshifted centre holds all of them
    assert float(moving.radius) == pytest.approx(0.61 + 0.3 * np.cos(np.radians(20.0)), rel=1e-3)


def test_many_energies_are_one_after_the_other():
    nebula = power(gj.Gaussian(83.6, 22.0, 0.2), 0.3)
    lon, lat = jnp.asarray([83.6, 83.7, 83.3]), jnp.asarray([22.0, 22.1, 22.2])
    found = jax.jit(lambda: nebula.at(ENERGY[:, None]).brightness(lon, lat))()
    expected = jnp.stack([nebula.at(e).brightness(lon, lat) for e in ENERGY])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [gj.Gaussian(83.6, 22.0, 0.2), gj.Disk(83.6, 22.0, 0.2), gj.Shell(83.6, 22.0, 0.2, 0.1)]
)
def test_directions_follow_the_shape_of_their_energy(shape):
    nebula = power(shape, 0.3)
    energy = jnp.asarray(np.repeat([0.5, 20.0], 1500))
    lon, lat = jax.jit(lambda key: nebula.at(energy).sample(key, 3000))(jax.random.key(1))
    away = np.asarray(separation(lon, lat, 83.6, 22.0))
    for part, at in ((away[:1500], 0.5), (away[1500:], 20.0)):
        known = nebula.at(at).sample(jax.random.key(2), 20_000)
        other = np.asarray(separation(*known, 83.6, 22.0))
        assert kstest(part, other).pvalue > 1e-3
        assert kstest(part, other * 1.3).pvalue < 1e-3


def test_simulated_photons_have_the_size_of_their_energy(observation):
    source = gj.Source(gj.PowerLaw(2.0, 1e-10), power(gj.Gaussian(0.0, 0.0, 0.2), 0.4))
    events = gj.simulate(jax.random.key(0), source, observation)
    away = np.asarray(separation(events.lon_true, events.lat_true, 0.0, 0.0)) / events.energy_true**-0.4
    # sigma = 0.2 at every energy, relative to the power law: squares are exponential
    assert len(events) > 1000
    for some in (events.energy_true < 1.0, events.energy_true >= 1.0):
        assert kstest(0.5 * away[some] ** 2 / 0.2**2, "expon").pvalue > 1e-3


@pytest.mark.slow
def test_gradients(observation):
    def brightness(p):
        shape = gj.EnergyDependent(gj.Gaussian(p[0], 0.0, p[1]), ENDS, [e ** -p[2] for e in ENDS])
        return shape.at(3.0).brightness(0.1, 0.1)

    with jax.enable_x64(True):
        at = jnp.asarray([0.02, 0.2, 0.3])
        found = jax.grad(brightness)(at)
        for i in range(3):
            step = 1e-5 * jnp.eye(3)[i]
            expected = (brightness(at + step) - brightness(at - step)) / 2e-5
            assert float(found[i]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((gj.Point(0.0, 0.0), ENDS, [1.0, 1.0]), "needs a shape with a size, .* not a Point"),
        ((gj.Gaussian(0.0, 0.0, 0.1), [1.0], [1.0]), "at least two energies"),
        ((gj.Gaussian(0.0, 0.0, 0.1), [2.0, 1.0], [1.0, 1.0]), "must be positive and increasing"),
        ((gj.Gaussian(0.0, 0.0, 0.1), ENDS, [1.0, 0.0]), "the size of an EnergyDependent is a positive factor"),
        ((gj.Gaussian(0.0, 0.0, 0.1), ENDS, [1.0] * 3), "size of an EnergyDependent has 3 numbers for 2 energies"),
        ((gj.Gaussian(0.0, 0.0, 0.1), ENDS, [1.0] * 2, [0.1]), "shift_lon of an EnergyDependent has 1 numbers"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        gj.EnergyDependent(*arguments)


def test_it_has_no_brightness_without_an_energy():
    nebula = power(gj.Gaussian(0.0, 0.0, 0.1), 0.3)
    for ask in (lambda: nebula.brightness(0.0, 0.0), lambda: nebula.sample(jax.random.key(0), 3), nebula.plot):
        with pytest.raises(TypeError, match=r"morphology.at\(energy\)"):
            ask()
    assert nebula.at(1.0).plot().get_xlabel() == "longitude [deg]"
    assert repr(nebula).startswith("EnergyDependent(shape=Gaussian(")


def test_gammapy_has_no_counterpart():
    source = gj.Source(gj.PowerLaw(2.0, 1e-12), power(gj.Gaussian(0.0, 0.0, 0.1), 0.3))
    with pytest.raises(ValueError, match="'nebula': gammapy has no counterpart of EnergyDependent"):
        gj.io.to_gammapy(gj.Mixture(nebula=source), frame="icrs")
