import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import transforms
from scipy.optimize import brentq, minimize
from scipy.stats import chi2, kstest
from toys import CENTRE, PRECISION

import gammajax as gj
from gammajax.statistics.conditional import Conditional, constraint_term

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
    # without the prior: mean and covariance of the likelihood
    mean, deviation = float(CENTRE[1]), COVARIANCE[1, 1] ** 0.5
    np.testing.assert_allclose(found.fall, ((found.values - mean) / deviation) ** 2, atol=2e-4)
    np.testing.assert_allclose(found.interval(), [mean - deviation, mean + deviation], atol=1e-3 * deviation)
    np.testing.assert_allclose(found.upper_limit(), mean + 1.6449 * deviation, atol=1e-3 * deviation)
    assert found.messages == ()
    # the others follow their regression on the fixed number
    size = float(CENTRE[2]) + COVARIANCE[1, 2] / COVARIANCE[1, 1] * (found.values - mean)
    np.testing.assert_allclose(found.parameters["size"], size, atol=1e-3)
    values = [-2.5, -2.0, -1.9]
    given = gj.profile(toy, "position[1]", values, constraints=[], units={"position": "deg"})
    assert given.plot().get_xlabel() == "position[1] [deg]"
    with pytest.raises(ValueError, match="units name 'elsewhere', which is none of"):
        gj.profile(toy, "position[1]", units={"elsewhere": "deg"})
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


@pytest.mark.slow
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


LOGIT = dist.TransformedDistribution(
    dist.Normal(0.0, 0.3), [transforms.SigmoidTransform(), transforms.AffineTransform(0.0, 2.0)]
)
# prior, its term up to a constant, and the maximum of the term; each is a measurement of a number near one
TERMS = {
    "normal": (dist.Normal(1.0, 0.2), lambda v: -0.5 * ((v - 1.0) / 0.2) ** 2, 1.0),
    "truncated": (dist.TruncatedNormal(1.0, 0.2, low=0.2), lambda v: -0.5 * ((v - 1.0) / 0.2) ** 2, 1.0),
    "truncated twice": (
        dist.TruncatedNormal(1.0, 0.2, low=0.2, high=3.0),
        lambda v: -0.5 * ((v - 1.0) / 0.2) ** 2,
        1.0,
    ),
    "half normal": (dist.HalfNormal(0.5), lambda v: -0.5 * (v / 0.5) ** 2, 0.0),
    "logarithm": (dist.LogNormal(0.0, 0.3), lambda v: -0.5 * (np.log(v) / 0.3) ** 2, 1.0),
    "vector": (dist.LogNormal(0.0, 0.3).expand([1]), lambda v: -0.5 * (np.log(v) / 0.3) ** 2, 1.0),
    "independent": (dist.Normal(jnp.ones(1), 0.2).to_event(1), lambda v: -0.5 * ((v - 1.0) / 0.2) ** 2, 1.0),
    "logit": (LOGIT, lambda v: -0.5 * (np.log(v / (2.0 - v)) / 0.3) ** 2, 1.0),
    "counts": (dist.Gamma(26.0, 25.0), lambda v: 25.0 * np.log(v) - 25.0 * v, 1.0),
    "binomial": (dist.Beta(41.0, 11.0), lambda v: 40.0 * np.log(v) + 10.0 * np.log(1.0 - v), 0.8),
    "heavy": (dist.StudentT(5.0, 1.0, 0.2), lambda v: -3.0 * np.log(1.0 + ((v - 1.0) / 0.2) ** 2 / 5.0), 1.0),
    "flat": (dist.Uniform(0.5, 1.5), lambda v: 0.0, None),
    "flat logarithm": (dist.LogUniform(0.1, 10.0), lambda v: 0.0, None),
}


@pytest.mark.parametrize("name", TERMS)
def test_constraint_terms_are_likelihoods(name):
    prior, term, top = TERMS[name]

    def found(value, truth=None):
        ones = jnp.ones(prior.shape(), bool)
        at, truth = (None if v is None else jnp.full(prior.shape(), v) for v in (value, truth))
        return float(constraint_term(prior, at, ones, truth))

    for value in (0.55, 0.7, 0.95):
        assert found(value) - found(0.9) == pytest.approx(term(value) - term(0.9), abs=2e-5)
    if top is not None:
        assert term(max(top, 1e-6)) >= max(term(top + 0.05), term(max(top - 0.05, 1e-6)))
    # about a truth: highest there
    assert found(0.9, 0.9) == 0.0 and found(0.85, 0.9) <= 1e-6 and found(0.95, 0.9) <= 1e-6
    assert float(constraint_term(prior, jnp.full(prior.shape(), 0.7), jnp.zeros(prior.shape(), bool))) == 0.0


def test_correlated_constraint_terms():
    covariance = jnp.asarray([[1.0, 0.6], [0.6, 0.5]])
    prior = dist.MultivariateNormal(jnp.asarray([1.0, 2.0]), covariance)
    value = jnp.asarray([1.5, 2.5])
    full = float(constraint_term(prior, value, jnp.ones(2, bool)))
    away = np.array([0.5, 0.5])
    assert full == pytest.approx(-0.5 * away @ np.linalg.solve(np.asarray(covariance), away), rel=1e-5)
    # with one number profiled the density of the other is its marginal
    assert float(constraint_term(prior, value, jnp.asarray([False, True]))) == pytest.approx(
        -0.5 * 0.25 / 0.5, rel=1e-5
    )


def nuisances(p, data):
    """Counts of a signal with an uncertain acceptance over a background, with one part for each other nuisance."""
    parts = sum(p[name].sum() for name in sorted(p) if name not in ("signal", "acceptance"))
    mean = p["signal"] * p["acceptance"] + 20.0 * parts
    return data[0] * jnp.log(mean / data[0]) - mean + data[0]


@pytest.fixture(scope="module")
def uncertain():
    """A signal with nuisances of several kinds of priors, against scipy."""
    from toys import build

    chosen = ["truncated", "vector", "counts"]
    priors = {name: TERMS[name][0] for name in chosen}
    priors |= {"signal": dist.LogUniform(0.1, 1e4), "acceptance": dist.LogNormal(0.0, 0.3)}
    start = {name: np.full(prior.shape(), 0.9) for name, prior in priors.items()}
    observed = 20.0 * sum(TERMS[name][2] for name in chosen) + 200.0
    toy = build(nuisances, priors, {**start, "signal": 100.0}, [observed])

    def fallen(signal):
        def minus(x):
            mean = signal * np.exp(x[0]) + 20.0 * x[1:].sum()
            terms = sum(
                TERMS[name][1](v) - TERMS[name][1](TERMS[name][2]) for name, v in zip(chosen, x[1:], strict=True)
            )
            return -2.0 * (observed * np.log(mean / observed) - mean + observed + terms - 0.5 * (x[0] / 0.3) ** 2)

        ends = [(-2.0, 2.0), *[(0.21, 1.9)] * len(chosen)]
        start = np.append(0.0, np.full(len(chosen), 0.95))
        return minimize(minus, start, bounds=ends, options={"maxfun": 100_000, "ftol": 1e-13, "gtol": 1e-9}).fun

    return toy, fallen


@pytest.mark.slow
def test_profiles_with_constrained_nuisances(uncertain):
    toy, fallen = uncertain
    found = gj.profile(toy, "signal")
    assert found.messages == () and found.best_value == pytest.approx(200.0, rel=2e-3)
    limit = brentq(lambda signal: fallen(signal) - 2.7055, 210.0, 900.0, rtol=1e-5)
    assert found.upper_limit() == pytest.approx(limit, rel=2e-3)
    low, high = (brentq(lambda signal: fallen(signal) - 1.0, *ends, rtol=1e-5) for ends in ((50, 199), (201, 600)))
    np.testing.assert_allclose(found.interval(), [low, high], rtol=2e-3)
    test = gj.test_statistic(toy, "signal", null=50.0, initial=found.best)
    assert test.value == pytest.approx(fallen(50.0), rel=2e-3) and test.undefined == ()


@pytest.mark.slow
def test_the_end_of_a_prior_is_no_limit(make_toy):
    # only signal times acceptance is measured: a constraint on the acceptance is needed for the signal
    def product(p, data):
        return -0.5 * ((p["signal"] * p["j"] - 5.0) / data[0]) ** 2

    priors = {"signal": dist.LogUniform(0.1, 100.0), "j": dist.LogNormal(0.0, 0.3)}
    toy = make_toy(product, priors, {"signal": 3.0, "j": 1.0}, [0.5])
    found = gj.profile(toy, "signal")

    # the maximum over j of both
    def fallen(signal):
        j = np.linspace(0.01, 4.0, 400_001)
        return (((signal * j - 5.0) / 0.5) ** 2 + (np.log(j) / 0.3) ** 2).min()

    assert fallen(found.upper_limit()) == pytest.approx(2.7055, rel=5e-3)
    assert fallen(found.interval()[0]) == pytest.approx(1.0, rel=5e-3)
    bare = gj.profile(toy, "signal", constraints=[], initial=found.best)
    with pytest.warns(UserWarning, match="up to the end of the prior of 'signal', 100: there is no limit within"):
        assert bare.upper_limit() == np.inf
    with pytest.warns(UserWarning, match="there is no (limit|lower end) within"):
        bare.interval()
    bare.plot()
    with pytest.raises(ValueError, match=r"constraints must be a list of parameters out of \['j', 'signal'\]"):
        gj.profile(toy, "signal", constraints=["k"])
    # named priors count in full, also of the profiled number
    both = Conditional.init(toy, ["signal", "j"], ["signal"])
    assert sorted(both.counted) == ["j", "signal"] and sorted(Conditional.init(toy, None, ["signal"]).counted) == ["j"]


def test_events_that_are_impossible_under_the_null(make_toy):
    toy = make_toy(
        lambda p, n: n[0] * jnp.log(p["norm"]) - p["norm"], {"norm": dist.Uniform(0.0, 50.0)}, {"norm": 10.0}, [9.0]
    )
    found = gj.test_statistic(toy, "norm")
    assert found.value == np.inf and found.p_value == 0.0 and found.messages == ()
    assert gj.test_statistic(toy, "norm", null=9.0).value == pytest.approx(0.0, abs=1e-5)


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
