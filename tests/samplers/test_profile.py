import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import chi2, kstest
from toys import CENTRE, PRECISION

import gammajax as gj

COVARIANCE = np.linalg.inv(PRECISION)


def li_ma(on, off, alpha):
    """TS of Li & Ma 1983 (doi:10.1086/161295), eq. 17."""
    total = on + off
    return 2.0 * (on * np.log((1 + alpha) / alpha * on / total) + off * np.log((1 + alpha) * off / total))


def counts(toy, on, off):
    return eqx.tree_at(lambda toy: toy.data, toy, jnp.asarray([float(on), float(off)]))


def test_profile_of_a_gaussian_is_its_marginal(gaussian):
    toy, _, _ = gaussian
    found = gj.profile(toy, "position[1]", constraints=[])
    # the prior is no part of it: mean and covariance of the likelihood
    mean, deviation = float(CENTRE[1]), COVARIANCE[1, 1] ** 0.5
    np.testing.assert_allclose(found.fall, ((found.values - mean) / deviation) ** 2, atol=2e-4)
    np.testing.assert_allclose(found.interval(), [mean - deviation, mean + deviation], atol=1e-3 * deviation)
    np.testing.assert_allclose(found.upper_limit(), mean + 1.6449 * deviation, atol=1e-3 * deviation)
    assert found.messages == ()
    # the others follow their regression on the number held
    size = float(CENTRE[2]) + COVARIANCE[1, 2] / COVARIANCE[1, 1] * (found.values - mean)
    np.testing.assert_allclose(found.parameters["size"], size, atol=1e-3)
    values = [-2.5, -2.0, -1.9]
    given = gj.profile(toy, "position[1]", values, constraints=[])
    np.testing.assert_allclose(given.fall, ((np.array(values) - mean) / deviation) ** 2, atol=2e-4)
    assert np.isnan(given.interval()[1]) and np.isfinite(given.interval()[0])


@pytest.mark.parametrize("unit", [1.0, 1e-26])
def test_intervals_in_any_unit(unit):
    # a parabola about 3 with a width of 2, to the left as far as zero only
    values = np.array([0.0, 1.0, 2.0, 4.0, 6.0, 8.0])
    found = gj.Profile("x", unit * values, ((values - 3.0) / 2.0) ** 2, {}, {}, 3.0 * unit, (0.0, 10.0 * unit))
    np.testing.assert_allclose(found.interval(), [unit, 5.0 * unit], rtol=1e-3)
    np.testing.assert_allclose(found.interval(0.95), [0.0, unit * (3.0 + 2.0 * 1.95996)], rtol=1e-3)
    np.testing.assert_allclose(found.upper_limit(), unit * (3.0 + 2.0 * 1.64485), rtol=1e-3)
    assert np.isnan(found.interval(0.999)[1])
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        found.interval(1.0)


def test_limits_at_the_end_of_the_support(on_off):
    # fewer on counts than expected: the maximum is no signal, the limit by a scan of both
    found = gj.profile(counts(on_off, 50, 300), "signal")
    assert found.best_value == 0.0 and found.interval()[0] == 0.0

    def likelihood(signal):
        background = np.linspace(40.0, 80.0, 400_001)
        mean = signal + background
        return (50.0 * np.log(mean) - mean + 300.0 * np.log(5.0 * background) - 5.0 * background).max()

    assert 2.0 * (likelihood(0.0) - likelihood(found.upper_limit())) == pytest.approx(2.7055, abs=5e-3)
    axes = found.plot()
    assert axes.get_xlabel() == "signal" and axes.get_xlim()[0] == 0.0


def test_on_off_counts_are_li_and_ma(on_off):
    found = gj.test_statistic(on_off, "signal")
    assert found.value == pytest.approx(li_ma(120, 300, 0.2), rel=1e-5)
    assert found.significance == pytest.approx(li_ma(120, 300, 0.2) ** 0.5, rel=1e-5)
    assert found.at_boundary and found.p_value == pytest.approx(0.5 * chi2.sf(found.value, 1))
    assert found.null_parameters["background"] == pytest.approx(70.0, rel=1e-4)  # 420 counts in 6 units
    # inside the support: both sides count
    other = gj.test_statistic(on_off, "signal", null=60.0)
    assert not other.at_boundary and other.value == pytest.approx(0.0, abs=1e-3)


def test_distribution_at_the_boundary(on_off):
    # without signal TS is zero in half of all cases, else chi-square
    start = {"signal": 20.0, "background": 200.0}
    random = np.random.default_rng(1)
    found = [
        gj.test_statistic(counts(on_off, on, off), "signal", initial=start)
        for on, off in zip(random.poisson(200, 120), random.poisson(1000, 120), strict=True)
    ]
    values = np.array([test.value for test in found])
    zeros = np.count_nonzero(values == 0.0)
    assert abs(zeros - 60) < 4.0 * np.sqrt(30.0)
    assert all(test.p_value == 1.0 for test in found if test.value == 0.0)
    assert kstest(values[values > 0], chi2(1).cdf).pvalue > 0.01


def test_a_mass_without_a_signal_is_said(make_toy):
    x = jnp.linspace(0.0, 10.0, 50)
    data = 5.0 + 4.0 * jnp.exp(-0.5 * (x - 6.0) ** 2)

    def line(p, data):
        mean = 5.0 + p["signal"] * jnp.exp(-0.5 * (x - p["mass"]) ** 2)
        return (data * jnp.log(mean / 5.0) - mean + 5.0).sum()

    toy = make_toy(
        line, {"signal": dist.Uniform(0.0, 20.0), "mass": dist.Uniform(0.0, 10.0)}, {"signal": 5.0, "mass": 5.0}, data
    )
    with pytest.warns(UserWarning, match="mass without meaning under the null: the p-value is local"):
        found = gj.test_statistic(toy, "signal")
    mean = 5.0 + 4.0 * np.exp(-0.5 * (np.asarray(x) - 6.0) ** 2)
    assert found.undefined == ("mass",)
    assert found.value == pytest.approx(2.0 * (mean * np.log(mean / 5.0) - mean + 5.0).sum(), rel=1e-3)


def test_what_cannot_be_profiled(on_off, make_toy):
    with pytest.raises(ValueError, match=r"'mass' is no parameter; the parameters are \['background', 'signal'\]"):
        gj.profile(on_off, "mass")
    with pytest.raises(ValueError, match="must lie in its support, 0 to 1000"):
        gj.profile(on_off, "signal", [-1.0])
    with pytest.raises(ValueError, match="must lie in its support"):
        gj.test_statistic(on_off, "signal", null=-1.0)
    toy = make_toy(lambda p, _: p["w"].sum(), {"w": dist.Dirichlet(jnp.ones(3))}, {"w": jnp.ones(3) / 3})
    with pytest.raises(ValueError, match="cannot change alone"):
        gj.profile(toy, "w[0]")
    with pytest.raises(ValueError, match=r"choose from \['w\[0\]'"):
        gj.profile(toy, "w")
