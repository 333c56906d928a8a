import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm

import gammajax as gj
from gammajax.instrument.response import Background, EnergyDispersion
from gammajax.instrument.table import Axis, Table

ENERGY, MIGRA = np.geomspace(0.1, 30.0, 8), np.linspace(0.2, 3.0, 141)
OFFSETS = {"from the pointing": np.array([0.0, 1.0, 2.0, 4.0]), "bin centres": np.array([0.5, 1.5, 2.5, 3.5])}


def dispersion(offset):
    e, o, m = np.meshgrid(ENERGY, offset, MIGRA, indexing="ij")
    width = 0.12 + 0.02 * o - 0.02 * np.log10(e)
    # a second bump, so that nothing is symmetric; any unit
    values = 5.0 * np.exp(-0.5 * ((m - 0.95) / width) ** 2) + 0.3 * np.exp(-0.5 * ((m - 1.6) / 0.2) ** 2)
    return EnergyDispersion(Axis(np.log(ENERGY)), Axis(offset, 0.0, 4.0), Axis(MIGRA), values)


DISPERSIONS = {name: dispersion(offset) for name, offset in OFFSETS.items()}
NAMES = pytest.mark.parametrize("name", DISPERSIONS)
PLACES = [(0.1, 0.0), (0.53, 0.2), (7.7, 2.2), (29.0, 3.9)]


@eqx.filter_jit
def density(table, energy, energy_true, offset):
    return table.density(energy, jnp.broadcast_to(energy_true, energy.shape), jnp.broadcast_to(offset, energy.shape))


@eqx.filter_jit
def probability(table, low, high, energy_true, offset):
    return table.probability(low, high, energy_true, offset)


def below(table, limits, energy_true, offset):
    """Integral of the density up to `limits`, in panels that end at the nodes of the table."""
    edges = np.unique(np.concatenate([np.asarray(table.profile.axes[2].nodes) * energy_true, limits]))
    nodes, weights = np.polynomial.legendre.leggauss(2)
    half, middle = 0.5 * np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    at = middle[:, None] + half[:, None] * nodes
    padded = np.resize(at, 800)
    value = np.asarray(density(table, jnp.asarray(padded), np.float32(energy_true), np.float32(offset)), np.float64)
    cumulative = np.cumsum((half[:, None] * weights * value[: at.size].reshape(at.shape)).sum(1))
    return np.interp(limits, edges, np.concatenate([[0.0], cumulative]))


@NAMES
@pytest.mark.parametrize("place", PLACES)
def test_dispersion_is_normalised_and_integrates(name, place):
    table = DISPERSIONS[name]
    limits = place[0] * np.array([0.2, 0.61, 0.9, 1.234, 2.0, 3.0])
    expected = below(table, limits, *place)
    assert expected[-1] == pytest.approx(1.0, abs=1e-5)
    low, high = jnp.asarray(limits[:-1]), jnp.asarray(limits[1:])
    columns = (jnp.full(5, value, jnp.float32) for value in place)
    np.testing.assert_allclose(probability(table, low, high, *columns), np.diff(expected), atol=2e-6)


@NAMES
def test_all_energies_have_probability_one(name):
    true = jnp.asarray(np.random.default_rng(0).uniform(0.1, 30.0, 5))
    total = probability(DISPERSIONS[name], 1e-3 * true, 1e3 * true, true, jnp.linspace(0.0, 4.0, 5))
    np.testing.assert_allclose(total, 1.0, atol=2e-6)


def test_sampled_energies_follow_the_dispersion():
    table, energy_true, offset = DISPERSIONS["bin centres"], 0.53, 2.2
    sample = eqx.filter_jit(table.sample)(jax.random.key(3), jnp.full(4000, energy_true), jnp.full(4000, offset))
    limits = energy_true * np.linspace(0.2, 3.0, 1001)
    columns = [jnp.full(limits.size, value, jnp.float32) for value in (1e-3, energy_true, offset)]
    cumulative = np.asarray(probability(table, columns[0], jnp.asarray(limits), *columns[1:]))
    assert kstest(np.asarray(sample, float), lambda e: np.interp(e, limits, cumulative)).pvalue > 1e-3


def test_dispersion_by_hand():
    axes = Axis(np.log(ENERGY)), Axis([0.0, 4.0]), Axis(MIGRA)
    values = np.broadcast_to(norm.pdf(MIGRA, 1.2, 0.2), (8, 2, 141))
    table = EnergyDispersion(*axes, values)
    energy = jnp.array([2.0, 2.4, 3.0])
    expected = norm.pdf(np.asarray(energy) / 2.0, 1.2, 0.2) / 2.0
    np.testing.assert_allclose(density(table, energy, np.float32(2.0), np.float32(1.0)), expected, rtol=2e-3)
    assert density(table, jnp.array([6.1]), np.float32(2.0), np.float32(1.0))[0] == 0


@pytest.mark.parametrize("dimensions", [2, 3])
def test_background_is_zero_outside_its_table(dimensions):
    energy = Axis(np.log([0.5, 1.0, 10.0]))
    sky = [Axis([0.0, 3.0])] if dimensions == 2 else [Axis([-3.0, 3.0]), Axis([-2.0, 3.0])]
    values = np.full([3, *[2] * (dimensions - 1)], np.log(7.0))
    background = Background(Table((energy, *sky), values))
    rate = eqx.filter_jit(background.rate)(
        jnp.array([0.7, 0.49, 10.1, 2.0, 2.0, 9.9]),
        jnp.array([0.0, 0.0, 0.0, 3.1, 0.0, -2.1]),
        jnp.array([0.0, 0.0, 0.0, 0.0, -3.1, 2.1]),
    )
    np.testing.assert_allclose(rate, [7.0, 0.0, 0.0, 0.0, 0.0, 7.0], rtol=1e-5)


def test_background_of_three_dimensions_by_hand():
    # a power law in energy and an exponential in longitude are straight lines in the table
    energy, lon = np.array([0.5, 10.0]), np.array([-3.0, 3.0])
    values = -2.5 * np.log(energy)[:, None, None] + 0.3 * lon[None, :, None] + np.zeros((1, 1, 2))
    background = Background(Table((Axis(np.log(energy)), Axis(lon), Axis(lon)), values))
    rate = eqx.filter_jit(background.rate)(jnp.array([2.0]), jnp.array([1.0]), jnp.array([-0.5]))
    np.testing.assert_allclose(rate, 2.0**-2.5 * np.exp(0.3), rtol=1e-5)


def test_background_does_not_extrapolate_above_its_maximum():
    # bin centres; the logarithm rises steeply from a nearly empty cell
    background = Background(
        Table((Axis(np.log([0.5, 10.0])), Axis([0.5, 1.5], 0.0, 2.0)), np.array([[-60.0, 0.0]] * 2))
    )
    rate = eqx.filter_jit(background.rate)(jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0]), jnp.zeros(2))
    assert rate[0] <= 1.0 and rate[1] < 1e-20


def test_area(response):
    area = eqx.filter_jit(response.area)(jnp.array([0.1, 1.0, 31.0, 1.0]), jnp.array([0.0, 2.0, 0.0, 5.1]))
    np.testing.assert_allclose(area, [1e9 * 0.1**0.6, 1e9 * np.exp(-0.2), 0.0, 0.0], rtol=0.02)


def test_negative_area_is_cut_off(response):
    falling = Table((Axis([0.0, 1.0], -1.0, 2.0), Axis([0.0, 5.0])), np.array([[1.0, 1.0], [3.0, 3.0]]))
    changed = gj.Response(falling, response.psf, response.energy_dispersion)
    area = eqx.filter_jit(changed.area)(jnp.exp(jnp.array([-0.9, 1.9])), jnp.zeros(2))
    np.testing.assert_allclose(area, [0.0, 4.8], rtol=1e-5)
    assert changed.background is None
