import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from toys import Toy, counting

from gammajax.samplers import fit, optimise
from gammajax.samplers.optimise import find_peak
from gammajax.samplers.space import constrained


def test_gaussian_posterior_is_found_exactly(gaussian):
    toy, mean, covariance = gaussian
    best = fit(toy)
    assert best.converged and best.messages == ()
    assert best.names == ("position[0]", "position[1]", "size")
    found = np.concatenate([best.parameters["position"], best.parameters["size"][None]])
    np.testing.assert_allclose(found, mean, atol=5e-4)  # single precision; the standard deviations are near one
    np.testing.assert_allclose(best.covariance, covariance, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(best.standard_deviations["size"], np.sqrt(covariance[2, 2]), rtol=1e-4)
    assert "size = 0.49" in repr(best) and repr(best).endswith("+- 0.9)")


@pytest.mark.parametrize("wide", [False, True])
def test_counts_and_their_errors(wide):
    # with flat priors: background 300/5, signal 120 - 60; errors of counts propagate linearly
    with jax.enable_x64(wide):
        priors = {"signal": dist.Uniform(0.0, 1000.0), "background": dist.Uniform(0.0, 500.0)}
        start = {"signal": jnp.asarray(500.0), "background": jnp.asarray(250.0)}
        best = fit(Toy(counting, priors, start, jnp.asarray([120.0, 300.0])))
    assert best.converged
    assert best.parameters["signal"] == pytest.approx(60.0, rel=1e-4)
    assert best.parameters["background"] == pytest.approx(60.0, rel=1e-4)
    expected = [[300.0 / 25.0, -300.0 / 25.0], [-300.0 / 25.0, 120.0 + 300.0 / 25.0]]
    np.testing.assert_allclose(best.covariance, expected, rtol=2e-3)
    assert best.log_posterior == pytest.approx(-np.log(1000.0) - np.log(500.0), abs=1e-4)


def test_rounded_values_do_not_end_the_search(make_toy):
    # as differences of large expected counts are, in single precision; their gradients are not
    def rounded(p, _):
        value = -0.5 * ((p["x"] - 1.0) / 0.1) ** 2
        return value + jax.lax.stop_gradient(jnp.round(value, 2) - value)

    toy = make_toy(rounded, {"x": dist.Normal(3.0, 10.0)}, {"x": 0.5})
    start = {"x": jnp.asarray(1.0081)}
    peak = find_peak(toy, start, jacobian=False, climb=False)
    assert peak.converged
    np.testing.assert_allclose(peak.x, 1.0, atol=0.002)


def test_maximum_is_that_of_the_density_of_the_parameters(make_toy):
    # n = 1 count under a log-uniform prior: density x^1 exp(-x) / x has its maximum where x -> 0, not at x = 1
    toy = make_toy(lambda p, _: 3.0 * jnp.log(p["x"]) - p["x"], {"x": dist.LogUniform(0.01, 100.0)}, {"x": 10.0})
    assert fit(toy).parameters["x"] == pytest.approx(2.0, rel=1e-3)


def test_constant_terms_as_large_as_a_real_likelihood(make_toy):
    # an offset of 1e4 hides all but 1e-3 of log L in single precision; the fit must still end, near the maximum
    toy = make_toy(lambda p, _: 1e4 - 50.0 * (p["x"] - 0.3) ** 2, {"x": dist.Uniform(-5.0, 5.0)}, {"x": 4.0})
    best = fit(toy)
    assert best.parameters["x"] == pytest.approx(0.3, abs=0.02)
    assert best.standard_deviations["x"] == pytest.approx(0.1, rel=0.02)


def test_the_higher_of_two_peaks(make_toy):
    def two(p, _):
        return jnp.logaddexp(-0.5 * ((p["x"] - 8.0) / 0.3) ** 2 + 30.0, -0.5 * ((p["x"] + 6.0) / 2.0) ** 2)

    toy = make_toy(two, {"x": dist.Uniform(-10.0, 10.0)}, {"x": -6.0})
    assert fit(toy).parameters["x"] == pytest.approx(8.0, abs=1e-2)


def test_a_high_narrow_peak_beside_the_one_that_starts_lead_to(make_toy):
    def two(p, _):
        x = jnp.logaddexp(30.0 - 0.5 * ((p["x"] + 20.0) / 0.15) ** 2, 10.0 - 0.5 * ((p["x"] - 10.0) / 8.0) ** 2)
        return x - 0.5 * ((p["y"] - 0.5) / 0.001) ** 2

    priors = {"x": dist.Uniform(-50.0, 50.0), "y": dist.Uniform(0.0, 1.0)}
    toy = make_toy(two, priors, {"x": 0.0, "y": 0.5})
    assert fit(toy, initial={"x": 12.0, "y": 0.5}).parameters["x"] == pytest.approx(10.0, abs=1e-2)
    peak = find_peak(toy, {"x": 12.0, "y": 0.5}, jacobian=False)
    higher = optimise._out_of_side_peak(toy, peak, False)
    assert constrained(priors, jnp.asarray(higher.x))[0]["x"] == pytest.approx(-20.0, abs=1e-2) and higher.converged
    assert fit(toy).parameters["x"] == pytest.approx(-20.0, abs=1e-2)


def test_a_maximum_where_a_prior_cuts_is_said(make_toy):
    toy = make_toy(lambda p, _: 100.0 * p["x"], {"x": dist.Uniform(0.0, 1.0)}, {"x": 0.5})
    with pytest.warns(UserWarning, match="'x' lies at the edge of its prior, 1: its error is one-sided"):
        best = fit(toy)
    assert best.messages and best.converged and best.parameters["x"] == 1.0
    assert best.standard_deviations["x"] == pytest.approx(0.5 / 100.0, rel=0.01)


def test_a_direction_that_is_flat_is_said(make_toy):
    priors = {"x": dist.Uniform(0.0, 1.0), "y": dist.Uniform(0.0, 1.0)}
    toy = make_toy(lambda p, _: -50.0 * (p["x"] - 0.4) ** 2, priors, {"x": 0.5, "y": 0.5})
    with pytest.warns(UserWarning, match="has not converged: the posterior is flat there along y$"):
        assert not fit(toy).converged
    toy = make_toy(lambda p, _: -50.0 * (p["x"] + p["y"] - 1.0) ** 2, priors, {"x": 0.5, "y": 0.5})
    with pytest.warns(UserWarning, match="has not converged: the posterior is flat there along x and y$"):
        assert not fit(toy).converged
    three = {**priors, "z": dist.Uniform(0.0, 1.0)}
    toy = make_toy(lambda p, _: -50.0 * (p["x"] - 0.4) ** 2, three, {name: 0.5 for name in three})
    with pytest.warns(UserWarning, match="the posterior is flat there along (y and z|z and y)$"):
        assert not fit(toy).converged


def test_a_saddle_is_said(make_toy):
    toy = make_toy(lambda p, _: -50.0 * (p["x"] ** 2 - 1.0) ** 2, {"x": dist.Normal(0.0, 10.0)}, {"x": 0.0})
    with pytest.warns(UserWarning, match="has not converged: the posterior rises from there along x$"):
        assert not fit(toy, initial={"x": 0.0}).converged


def test_simplex(make_toy):
    # Dirichlet posterior: the mode is (n + a - 1) / (N + sum(a) - 3)
    counts = jnp.array([20.0, 30.0, 50.0])
    prior = {"weight": dist.Dirichlet(jnp.array([2.0, 2.0, 2.0]))}
    best = fit(make_toy(lambda p, _: (counts * jnp.log(p["weight"])).sum(), prior, {"weight": jnp.ones(3) / 3}))
    np.testing.assert_allclose(best.parameters["weight"], (counts + 1.0) / 103.0, rtol=1e-3)
    np.testing.assert_allclose(best.covariance.sum(0), 0.0, atol=1e-6)


def test_wrong_starts(on_off):
    with pytest.raises(ValueError, match=r"the parameters are \['background', 'signal'\]"):
        fit(on_off, initial={"signal": 1.0})
    with pytest.raises(ValueError, match="not finite at the initial parameters"):
        fit(on_off, initial={"signal": 1.0, "background": 501.0})
    assert fit(on_off, initial={"signal": 1.0, "background": 100.0}).converged
