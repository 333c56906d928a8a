import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.optimize import brentq
from toys import Toy, counting

from gammajax.samplers import fit, peaks
from gammajax.samplers.peaks import find_peak
from gammajax.samplers.space import constrained, log_density


def test_gaussian_posterior_is_found_exactly(gaussian):
    toy, mean, covariance = gaussian
    best = fit(toy)
    assert best.converged and best.messages == ()
    assert best.names == ("position[0]", "position[1]", "size")
    found = np.concatenate([best.parameters["position"], best.parameters["size"][None]])
    np.testing.assert_allclose(found, mean, atol=5e-4)  # single precision; the standard deviations are near one
    np.testing.assert_allclose(best.covariance, covariance, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(best.standard_deviations["size"], np.sqrt(covariance[2, 2]), rtol=1e-4)
    assert repr(best).startswith("Fit(size = 0.49898 +- 0.9, position[0] = ")


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
    # rounded like differences of large expected counts in single precision; gradients are exact
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
    higher = peaks._out_of_side_peak(toy, peak, False)
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


# ratio of the errors along two directions, and their rotation
DECADES = [(ratio, angle) for ratio in (1.0, 1e3, 1e6) for angle in (0.0, 0.3, np.pi / 4.0)]


@pytest.mark.parametrize("wide", [False, True])
def test_errors_over_six_decades(wide):
    def gaussian(p, precision):
        x = jnp.stack([p["x"], p["y"]])
        return -0.5 * x @ precision @ x

    with jax.enable_x64(wide):
        priors = {"x": dist.Normal(0.0, 1e3), "y": dist.Normal(0.0, 1e3)}
        for ratio, angle in DECADES:
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            precision = jnp.asarray(turn @ np.diag([ratio, 1.0]) @ turn.T)
            best = fit(Toy(gaussian, priors, {"x": jnp.asarray(1.0), "y": jnp.asarray(1.0)}, precision))
            exact = np.linalg.inv(np.asarray(precision, np.float64) + 1e-6 * np.eye(2))
            found = [best.standard_deviations["x"], best.standard_deviations["y"]]
            # single precision gives the smaller eigenvalue to the rounding of the larger
            np.testing.assert_allclose(found, np.sqrt(np.diag(exact)), rtol=1e-5 if wide else 0.03)
            assert best.converged and best.messages == ()


def relative(p, data):
    """On and off counts as `counting`, off counts of ten times the background, each relative to its expectation.

    The signal is in units of `data[2]`, as cross sections are.
    """
    background, unit = data[1] / 10.0, data[2]
    excess = data[0] - background
    on = p["signal"] / unit - excess + p["background"] - background
    off = 10.0 * (p["background"] - background)
    return data[0] * jnp.log1p(on / data[0]) - on + data[1] * jnp.log1p(off / data[1]) - off


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True])
def test_a_weak_signal_among_many_events(wide):
    # deficits, zero, and excesses from a hundredth of a standard deviation on, against the exact profile
    with jax.enable_x64(wide):
        for count, excess, unit in [
            (1e2, -1.0, 1.0),
            (1e6, -1.0, 1e-24),
            (1e4, 0.0, 1.0),
            (1e4, 0.003, 1.0),
            (1e6, 0.003, 1e-24),
            (1e6, 0.02, 1.0),
            (1e6, 0.3, 1e-24),
            (1e6, 30.0, 1.0),
        ]:
            deviation = np.sqrt(1.1 * count)
            on, off = count + excess * deviation, 10.0 * count
            priors = {
                "signal": dist.Uniform(0.0, 1e3 * deviation * unit),
                "background": dist.Uniform(0.0, 10.0 * count),
            }
            start = {"signal": 5.0 * deviation * unit, "background": count}
            start = {name: jnp.asarray(value) for name, value in start.items()}
            best = fit(Toy(relative, priors, start, jnp.asarray([on, off, unit])))

            def profile(signal, on=on, off=off):
                # the background solves a quadratic equation
                b = on + off - 11.0 * signal
                background = (b + np.sqrt(b**2 + 44.0 * off * signal)) / 22.0
                mean = signal + background
                terms = on * np.log(mean / on) - (mean - on), off * np.log(10.0 * background / off)
                return sum(terms) - 10.0 * background + off

            assert best.converged and "converged" not in "".join(best.messages)
            if best.parameters["signal"] == 0:
                assert excess < 0.01 and "highest at its bound, 0: its error is one-sided" in best.messages[0]
                one_sided = brentq(lambda s: profile(0.0) - profile(s) - 0.5, 0.01 * deviation, 5.0 * deviation)  # noqa: B023
            else:
                # in single precision counts are whole numbers here
                assert best.parameters["signal"] / unit == pytest.approx(on - off / 10.0, abs=0.01 * deviation)
                one_sided = np.sqrt(on + off / 100.0)
            assert best.standard_deviations["signal"] / unit == pytest.approx(one_sided, rel=0.04)


def test_what_has_no_meaning_without_a_signal(make_toy):
    # a line at an unknown position, where counts are below the background
    x = np.linspace(0.0, 10.0, 50)

    def line(p, data):
        excess = p["signal"] * jnp.exp(-0.5 * (x - p["mass"]) ** 2)
        return -(excess * (1.0 - data) + 0.5 * excess**2).sum()

    priors = {"signal": dist.Uniform(0.0, 20.0), "mass": dist.Uniform(0.0, 10.0)}
    best = fit(make_toy(line, priors, {"signal": 5.0, "mass": 5.0}, np.full(50, 0.7)))
    assert best.converged and best.parameters["signal"] == 0.0 and best.standard_deviations["signal"] > 0
    assert "the data do not constrain mass at that edge" in best.messages[-1]


def test_identical_sources_are_degenerate(make_toy):
    def twins(p, n):
        mean = p["a"] + p["b"] + 50.0
        return n[0] * jnp.log(mean / n[0]) - (mean - n[0])

    priors = {"a": dist.Uniform(0.0, 200.0), "b": dist.Uniform(0.0, 200.0)}
    toy = make_toy(twins, priors, {"a": 20.0, "b": 20.0}, [90.0])
    with pytest.warns(UserWarning, match="(a and b|b and a) are degenerate, the fit has not converged"):
        best = fit(toy)
    # unconstrained numbers are as wide as the prior
    assert 10.0 < best.standard_deviations["a"] < 100.0


CORNERS = [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]
SUPPORTS = {
    "uniform": (dist.Uniform(0.0, 2.0), (0.0, 1e-30, 1e-7, 2.0, 2.0 - 1e-6)),
    "half normal": (dist.HalfNormal(1.0), (0.0, 1e-30, 1e-6, 50.0)),
    "gamma": (dist.Gamma(2.0, 2.0), (0.0, 1e-6)),
    "logarithm": (dist.LogNormal(0.0, 1.0), (0.0, 1e-12, 100.0)),
    "beta": (dist.Beta(2.0, 2.0), (0.0, 1.0, 1e-8)),
    "flat logarithm": (dist.LogUniform(0.1, 10.0), (0.1, 10.0)),
    "truncated": (dist.TruncatedNormal(1.0, 1.0, low=0.0, high=4.0), (0.0, 4.0)),
    "simplex": (
        dist.Dirichlet(2.0 * jnp.ones(3)),
        ([0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SUPPORTS)
def test_starts_at_the_ends_of_supports(make_toy, name):
    prior, starts = SUPPORTS[name]
    centre = jnp.asarray([0.2, 0.3, 0.5]) if name == "simplex" else jnp.asarray(0.5)
    toy = make_toy(lambda p, c: -0.5 * (((p["x"] - c) / 0.01) ** 2).sum(), {"x": prior}, {"x": centre}, centre)
    for start in starts:
        best = fit(toy, initial={"x": jnp.asarray(start)})
        assert best.converged and best.messages == ()
        np.testing.assert_allclose(best.parameters["x"], centre, atol=0.002)
    with pytest.raises(ValueError, match="not finite at the initial parameters"):
        fit(toy, initial={"x": -1.0 + 0.0 * centre})


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


def banana(p, _):
    x, y = p["x"], p["y"]
    return -0.5 * (x**2 + ((y - 0.1 * x**2) / 0.1) ** 2)


def correlated(p, precision):
    x = jnp.stack([p["x"], p["y"], p["z"]]) - 0.3
    return -0.5 * x @ precision @ x


# likelihood, priors, start, data: the density of each is curved in another way, in the space of the search
CURVED = {
    "correlated": (
        correlated,
        {name: dist.Normal(0.0, 5.0) for name in "xyz"},
        dict.fromkeys("xyz", 0.0),
        np.linalg.inv([[1.0, 0.099, 0.0], [0.099, 0.01, 0.0], [0.0, 0.0, 1e-4]]),
    ),
    "few counts": (
        counting,
        {"signal": dist.Gamma(2.0, 0.1), "background": dist.Gamma(2.0, 0.1)},
        {"signal": 10.0, "background": 5.0},
        [9.0, 12.0],
    ),
    "bent": (banana, {"x": dist.Uniform(-20.0, 20.0), "y": dist.Normal(0.0, 30.0)}, {"x": 2.0, "y": 1.0}, []),
    "shares": (
        lambda p, n: (n * jnp.log(p["share"])).sum(),
        {"share": dist.Dirichlet(2.0 * jnp.ones(4))},
        {"share": jnp.ones(4) / 4.0},
        [3.0, 20.0, 40.0, 7.0],
    ),
    "narrow": (
        lambda p, at: -0.5 * (((p["place"] - at) / 1e-4) ** 2).sum(),
        {"place": dist.Uniform(-0.5 * jnp.ones(2), 0.5).to_event(1)},
        {"place": jnp.zeros(2)},
        [0.1234, -0.321],
    ),
    "wide": (
        lambda p, _: -0.5 * ((p["x"] - 1.0) / 8.0) ** 2 - 50.0 * (p["x"] - p["y"]) ** 2,
        {"x": dist.LogNormal(0.0, 1.0), "y": dist.HalfNormal(3.0)},
        {"x": 1.0, "y": 1.0},
        [],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("jacobian", [False, True])
@pytest.mark.parametrize("name", CURVED)
def test_covariance_is_that_of_the_exact_hessian(make_toy, name, jacobian, wide):
    function, priors, start, data = CURVED[name]
    with jax.enable_x64(wide):
        peak = find_peak(make_toy(function, priors, start, data), jacobian=jacobian)
    with jax.enable_x64(True):
        exact = make_toy(function, priors, start, data)
        hessian = jax.jit(jax.hessian(lambda x: log_density(exact, x, jacobian)))(jnp.asarray(peak.x, float))
        covariance = np.linalg.inv(-np.asarray(hessian))
    assert peak.converged
    deviations, expected = (np.sqrt(np.diag(of)) for of in (peak.covariance, covariance))
    np.testing.assert_allclose(deviations, expected, rtol=0.01)
    correlations = peak.covariance / np.outer(deviations, deviations), covariance / np.outer(expected, expected)
    np.testing.assert_allclose(*correlations, atol=0.02)


def test_one_program_with_the_likelihood_is_compiled(make_toy):
    # fits, searches in the space of samplers, and other data of the same shape share it
    traced = []

    def likelihood(p, data):
        traced.append(p)
        return counting(p, data)

    priors = {"signal": dist.Uniform(0.0, 1000.0), "background": dist.Uniform(0.0, 500.0)}
    start = {"signal": 500.0, "background": 250.0}
    for data in ([120.0, 300.0], [40.0, 300.0], [90.0, 100.0]):
        toy = make_toy(likelihood, priors, start, data)
        fit(toy)
        find_peak(toy, jacobian=True)
        find_peak(toy, {"signal": 50.0, "background": 60.0}, jacobian=False, climb=False)
    assert len(traced) == 1


def test_calls_of_a_fit(make_toy):
    # seven correlated numbers of widths over five decades: one climb, without a second start
    width, turn = np.geomspace(1e-3, 1e2, 7), np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))[0]
    root = turn * np.geomspace(1.0, 0.1, 7) @ turn.T / width[:, None] ** 0.0

    def gaussian(p, root):
        return -0.5 * ((root @ (p["x"] / width - 0.5)) ** 2).sum()

    prior = dist.Uniform(jnp.asarray(-20.0 * width), jnp.asarray(20.0 * width)).to_event(1)
    best = fit(make_toy(gaussian, {"x": prior}, {"x": np.zeros(7)}, root))
    assert best.converged and best.calls < 180
    np.testing.assert_allclose(best.parameters["x"] / width, 0.5, atol=0.01)


def test_two_peaks_of_equal_width_in_each_place(make_toy):
    # the starts lead to the lower one, for separations of a few widths and more; one number is another at each
    def two(p, places):
        def peak(x, y, height):
            return height - 0.5 * (((p["x"] - x) / 0.3) ** 2 + ((p["y"] - y) / 0.5) ** 2)

        return jnp.logaddexp(peak(places[0], 0.0, 5.0), peak(places[1], places[2], 8.0))

    priors = {"x": dist.Uniform(-10.0, 10.0), "y": dist.Uniform(-10.0, 10.0)}
    for low, high, beside in [(0.0, 2.0, 0.0), (0.0, -4.0, 0.3), (3.0, 8.0, 0.5), (-5.0, 7.0, -0.3)]:
        best = fit(make_toy(two, priors, {"x": low, "y": 0.0}, [low, high, beside]))
        assert best.converged and best.parameters["x"] == pytest.approx(high, abs=0.02)
