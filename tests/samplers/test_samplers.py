"""Laws of every sampler, on posteriors with closed forms."""

import warnings
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import beta, kstest, norm
from toys import CENTRE, PRECISION, check_moments, gaussian_toy

import gammajax as gj

# method and options that make a short run
SHORT = {
    "nuts": (gj.nuts, {"draws": 400, "warmup": 100}),
    "smc": (gj.smc, {"particles": 400}),
    "smc hmc": (gj.smc, {"particles": 200, "kernel": "hmc"}),
    "nested": (gj.nested, {"live": 100, "precision": 0.01}),
    "svi": (gj.svi, {"guide": "gaussian", "steps": 200, "draws": 1000, "particles": 2}),
    "svi flow": (gj.svi, {"steps": 200, "draws": 1000, "particles": 2}),
    "laplace": (gj.laplace, {"draws": 1000}),
}
EXACT = ("smc", "smc hmc", "nested", "svi", "svi flow", "laplace")


def log_evidence():
    """Gaussian likelihood of width A^-1 about c under priors of sd 10: Z = |2 pi A^-1|^1/2 N(c; 0, A^-1 + 100)."""
    width = np.linalg.inv(PRECISION)
    spread = width + 100.0 * np.eye(3)
    normal = -0.5 * CENTRE @ np.linalg.solve(spread, CENTRE) - 0.5 * np.log(np.linalg.det(2.0 * np.pi * spread))
    return float(normal + 0.5 * np.log(np.linalg.det(2.0 * np.pi * width)))


@lru_cache
def run(name):
    """Result of a method, made once."""
    method, options = SHORT[name]
    return method(jax.random.key(5), gaussian_toy()[0], truths={"size": 0.5}, progress=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_moments_and_evidence_of_a_gaussian(gaussian, name):
    _, mean, covariance = gaussian
    result = run(name)
    assert result.messages == []
    table = result.summary()
    assert list(table.index) == ["position[0]", "position[1]", "size"]
    assert (table["ess_bulk"] > 150).all()
    mean, deviation = np.asarray(mean), np.sqrt(np.diag(covariance))
    check_moments(result, "position", mean[:2], deviation[:2])
    check_moments(result, "size", mean[2], deviation[2])
    if name in EXACT:
        value, error = result.log_evidence
        assert abs(value - log_evidence()) < 4.0 * error + 1e-4
        assert error < 0.5
    assert result.calls > 0 and result.tree.attrs["seed"] == 5 and result.truths["size"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("method", [gj.laplace, partial(gj.svi, guide="gaussian", steps=200, particles=2)])
def test_weights_mend_a_wrong_shape(make_toy, method):
    """Three successes and a failure: Beta(4, 2), far from a Gaussian where numbers are not bounded; Z = B(4, 2)."""
    toy = make_toy(lambda p, _: 3.0 * jnp.log(p["x"]) + jnp.log1p(-p["x"]), {"x": dist.Uniform(0.0, 1.0)}, {"x": 0.5})
    result = method(jax.random.key(2), toy, progress=False)
    exact = beta(4.0, 2.0)
    row, effective = result.summary().loc["x"], 1.0 / np.sum(result.weights**2)
    assert effective > 1500 and result.samples["x"].shape == (round(effective),) and result.weights.size == 4000
    error = exact.std() / np.sqrt(effective)
    assert abs(row["mean"] - exact.mean()) < 4.0 * error and row["sd"] == pytest.approx(exact.std(), rel=0.07)
    assert abs(result.samples["x"].mean() - exact.mean()) < 5.0 * error
    value, error = result.log_evidence
    assert abs(value - np.log(0.05)) < 4.0 * error and error < 0.1
    if method is gj.laplace:
        gaussian = result.tree.attrs["log_evidence_gaussian"]
        # at x = 4/6, where the density of the logit is x^4 (1 - x)^2 with the curvature 6 x (1 - x)
        assert gaussian == pytest.approx(
            4 * np.log(2 / 3) + 2 * np.log(1 / 3) + 0.5 * np.log(2 * np.pi / (6 * 2 / 9)), abs=1e-3
        )
        assert abs(value - np.log(0.05)) < 0.01 < 0.04 < abs(gaussian - np.log(0.05))


@pytest.mark.slow
def test_what_has_no_weights_is_said(make_toy):
    """Nearly all draws of a Gaussian miss a funnel: a message, and an error as large as the uncertainty."""

    def funnel(p, _):
        return -0.5 * (p["y"] ** 2).sum() * jnp.exp(-4.0 * p["s"]) - 2.0 * 12 * p["s"]

    priors = {"s": dist.Normal(0.0, 1.0), "y": dist.Normal(jnp.zeros(12), 10.0).to_event(1)}
    toy = make_toy(funnel, priors, {"s": jnp.asarray(0.0), "y": jnp.zeros(12)})
    with pytest.warns(UserWarning, match="the maximum was not found|Pareto k-hat"):
        result = gj.laplace(jax.random.key(0), toy, progress=False)
    assert result.log_evidence[1] > 1.0
    with pytest.raises(ValueError, match="draws are too few for a corner plot of 13 numbers"):
        result.plot_corner()


@pytest.mark.parametrize("name", ["nuts", "smc", "nested", "svi flow", "laplace"])
def test_same_key_same_draws(gaussian, name):
    method, options = SHORT[name]
    again = method(jax.random.key(5), gaussian[0], progress=False, **options)
    np.testing.assert_array_equal(run(name).samples["position"], again.samples["position"])
    assert run(name).log_evidence == again.log_evidence


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smc", "nested"])
def test_size_of_batches_changes_nothing(name):
    # in double precision: slices amplify rounding, which may depend on the batch
    method = {"smc": gj.smc, "nested": gj.nested}[name]
    options = {"smc": {"particles": 40, "moves": 1}, "nested": {"live": 20, "delete": 4, "steps": 20}}[name]
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # there are too few points
        toy, *_ = gaussian_toy()
        one, two = (method(jax.random.key(5), toy, progress=False, batch=n, **options) for n in (1, 2))
    np.testing.assert_allclose(one.samples["position"], two.samples["position"], rtol=1e-9)
    np.testing.assert_allclose(one.log_evidence, two.log_evidence, rtol=1e-9)


@pytest.mark.parametrize(("name", "error"), [("smc", 0.4), ("nested", 1.2)])
def test_information(gaussian, name, error):
    """For a Gaussian within a much wider one: the difference of their entropies and second moments."""
    _, mean, covariance = gaussian
    prior, posterior = 100.0 * np.eye(3), np.asarray(covariance)
    ratio = np.linalg.solve(prior, posterior)
    expected = 0.5 * (np.trace(ratio) + mean @ np.linalg.solve(prior, mean) - 3.0 - np.log(np.linalg.det(ratio)))
    # sd of the mean log L is sqrt(3 / 2 n), of log Z as given
    assert run(name).information == pytest.approx(float(expected), abs=error)


def test_nested_points():
    result = run("nested")
    stats, points = result.tree["weighted_stats"], result.tree["weighted"]
    birth, death = (stats[f"log_likelihood{kind}"].to_numpy() for kind in ("_birth", ""))
    assert np.all(birth < death) and np.isneginf(birth).sum() == 100
    # volumes shrink from one to nothing
    assert stats["log_volume"].to_numpy()[0] == pytest.approx(0.0, abs=2.0 / 100)
    assert np.all(np.diff(stats["log_volume"].to_numpy()) < 0)
    weight = np.exp(stats["log_weight"].to_numpy())
    assert weight.sum() == pytest.approx(1.0)
    assert weight @ points["size"].to_numpy() == pytest.approx(0.4990, abs=4 * 0.9 / 200**0.5)


@pytest.mark.parametrize("name", ["smc", "nested"])
def test_two_peaks(name):
    method, options = SHORT[name]
    result = method(jax.random.key(1), gaussian_toy((0.0, 1.0))[0], progress=False, **options)
    value, error = result.log_evidence
    # integral 3 x 2 pi 0.09 of the peaks, each under its prior
    prior = np.exp(-0.5 * 17.0 / 100.09) / (2.0 * np.pi * 100.09)
    assert abs(value - np.log(3.0 * 2.0 * np.pi * 0.09 * prior)) < 4.0 * error
    # binomial scatter about the share of each peak among draws of the prior
    assert np.mean(result.samples["position"][:, 0] > 0) == pytest.approx(2.0 / 3.0, abs=0.25)


@pytest.mark.slow
def test_a_narrow_peak_within_a_wide_one(make_toy):
    """Half of the mass has a twentieth of the width: proposals for particles in it are seldom accepted."""

    def slab_and_spike(p, _):
        wide, narrow = (-0.5 * (p["x"] ** 2).sum() / width**2 - 2.0 * jnp.log(width) for width in (1.0, 0.05))
        return jnp.logaddexp(wide, narrow)

    toy = make_toy(slab_and_spike, {"x": dist.Uniform(-10.0 * jnp.ones(2), 10.0).to_event(1)}, {"x": jnp.zeros(2)})
    with pytest.warns(UserWarning, match="of the particles did not move at the last temperature"):
        gj.smc(jax.random.key(0), toy, particles=600, moves=1, progress=False)
    result = gj.smc(jax.random.key(0), toy, particles=600, moves=60, progress=False)
    assert result.messages == []
    # 600 draws, correlated by their common ancestors
    assert np.mean((result.samples["x"] ** 2).sum(1) < 0.2**2) == pytest.approx(0.51, abs=0.12)
    assert result.log_evidence[0] == pytest.approx(np.log(4.0 * np.pi / 400.0), abs=4.0 * result.log_evidence[1])


@pytest.mark.parametrize("name", ["nuts", "smc", "nested", "svi flow"])
def test_no_data_give_the_prior(name):
    method, options = SHORT[name]
    result = method(jax.random.key(2), gaussian_toy((0.0, 0.0))[0], progress=False, **options)
    ess = result.summary()["ess_bulk"]
    columns = dict(zip(ess.index, [*result.samples["position"].T, result.samples["size"]], strict=True))
    for label, values in columns.items():
        # correlated draws: their effective number
        thin = values[:: max(1, round(len(values) / ess[label]))]
        assert kstest(thin, norm(0.0, 10.0).cdf).pvalue > 0.01, label
    if name != "nuts":
        assert abs(result.log_evidence[0]) < 4.0 * result.log_evidence[1] + 1e-4


@pytest.mark.slow
def test_bad_runs_are_said(make_toy):
    priors = {"x": dist.Normal(0.0, 1.0), "y": dist.Normal(0.0, 10.0)}
    toy = make_toy(lambda p, _: -0.5 * (p["y"] / jnp.exp(3.0 * p["x"])) ** 2 - 3.0 * p["x"], priors, {"x": 0, "y": 0})
    for method, options, words in (
        (gj.nested, {"live": 20, "steps": 5}, "ended early"),
        (gj.smc, {"particles": 64, "moves": 1, "kernel": "hmc"}, "stay near"),
        (gj.smc, {"particles": 64, "moves": 1, "kernel": "hmc"}, "did not move"),
        (gj.laplace, {"draws": 400}, "the posterior is no Gaussian"),
    ):
        with pytest.warns(UserWarning) as caught:
            result = method(jax.random.key(0), toy, progress=False, **options)
        assert any(words in message for message in result.messages), method
        assert sorted(str(warning.message) for warning in caught) == sorted(result.messages)
    flat = make_toy(lambda p, _: 0.5 * p["x"] ** 2, {"x": dist.Normal(0.0, 1.0)}, {"x": 0.0})
    with pytest.warns(UserWarning):
        result = gj.laplace(jax.random.key(0), flat, progress=False, draws=400)
    assert any("the maximum was not found" in message for message in result.messages)


def test_wrong_numbers(gaussian):
    toy, key = gaussian[0], jax.random.key(0)
    for method, options, message in (
        (gj.smc, {"particles": 10}, "multiple of 4"),
        (gj.smc, {"moves": 0}, "moves must be"),
        (gj.smc, {"target_ess": 1.0}, "target_ess must be"),
        (gj.nested, {"live": 3}, "live must be"),
        (gj.nested, {"delete": 300}, "delete must lie"),
        (gj.nested, {"slices": 0}, "must be positive"),
        (gj.svi, {"steps": 0}, "steps must be"),
        (gj.laplace, {"draws": 24}, "draws must be at least 25"),
        (gj.svi, {"draws": 24}, "draws must be at least 25"),
        # before any work is done
        *((method, {"truths": {"sise": 0.5}}, "truths name 'sise', which is none of") for method, _ in SHORT.values()),
        *((method, {"units": {"sise": "TeV"}}, "units name 'sise', which is none of") for method, _ in SHORT.values()),
    ):
        with pytest.raises(ValueError, match=message):
            method(key, toy, **options)
