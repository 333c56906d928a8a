"""What every sampler must do, on posteriors whose answers are closed forms."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from conftest import CENTRE, PRECISION, gaussian_toy

import gammajax as gj

# method and options that make a short run
SHORT = {
    "nuts": (gj.nuts, {"draws": 250, "warmup": 50}),
    "smc": (gj.smc, {"particles": 400}),
    "smc hmc": (gj.smc, {"particles": 200, "kernel": "hmc"}),
    "nested": (gj.nested, {"live": 100, "precision": 0.01}),
    "svi": (gj.svi, {"guide": "gaussian", "steps": 200, "draws": 1000, "particles": 2}),
    "svi flow": (gj.svi, {"steps": 200, "draws": 1000, "particles": 2}),
    "laplace": (gj.laplace, {"draws": 250}),
}
EXACT = ("smc", "smc hmc", "nested", "svi", "svi flow", "laplace")


def log_evidence():
    """Gaussian likelihood of width A^-1 about c under priors of sd 10: Z = |2 pi A^-1|^1/2 N(c; 0, A^-1 + 100)."""
    width = np.linalg.inv(PRECISION)
    spread = width + 100.0 * np.eye(3)
    normal = -0.5 * CENTRE @ np.linalg.solve(spread, CENTRE) - 0.5 * np.log(np.linalg.det(2.0 * np.pi * spread))
    return float(normal + 0.5 * np.log(np.linalg.det(2.0 * np.pi * width)))


@pytest.fixture(scope="module")
def runs(gaussian):
    """Results by method, made once."""
    toy, mean, covariance = gaussian
    made = {}

    def run(name):
        if name not in made:
            method, options = SHORT[name]
            made[name] = method(jax.random.key(5), toy, truths={"size": 0.5}, progress=False, **options)
        return made[name]

    return run, mean, covariance


@pytest.mark.parametrize("name", SHORT)
def test_moments_and_evidence_of_a_gaussian(runs, name):
    run, mean, covariance = runs
    result = run(name)
    assert result.messages == []
    table = result.summary()
    assert list(table.index) == ["position[0]", "position[1]", "size"]
    columns = [*result.samples["position"].T, result.samples["size"]]
    for i, (label, values) in enumerate(zip(table.index, columns, strict=True)):
        ess, deviation = table.loc[label, "ess_bulk"], float(covariance[i, i]) ** 0.5
        assert ess > 150
        # four standard errors of the mean, and of the standard deviation of Gaussian draws
        assert abs(values.mean() - float(mean[i])) < 4.0 * deviation / np.sqrt(ess)
        assert abs(values.std() / deviation - 1.0) < 4.0 / np.sqrt(2.0 * ess)
    if name in EXACT:
        value, error = result.log_evidence
        assert abs(value - log_evidence()) < 4.0 * error + 1e-4
        assert error < 0.5
    assert result.calls > 0 and result.tree.attrs["seed"] == 5 and result.truths["size"] == 0.5


@pytest.mark.parametrize("name", ["nuts", "smc", "nested", "svi", "laplace"])
def test_same_key_same_draws(runs, gaussian, name):
    run, *_ = runs
    method, options = SHORT[name]
    again = method(jax.random.key(5), gaussian[0], progress=False, **options)
    np.testing.assert_array_equal(run(name).samples["position"], again.samples["position"])
    assert run(name).log_evidence == again.log_evidence


@pytest.mark.parametrize("name", ["smc", "nested"])
def test_size_of_batches_changes_nothing(name):
    # in double precision, as rounding, of which slices make much, may depend on it
    method = {"smc": gj.smc, "nested": gj.nested}[name]
    options = {"smc": {"particles": 40, "moves": 1}, "nested": {"live": 20, "delete": 4, "steps": 20}}[name]
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # so few points are not enough
        toy, *_ = gaussian_toy()
        one, two = (method(jax.random.key(5), toy, progress=False, batch=n, **options) for n in (1, 2))
    np.testing.assert_allclose(one.samples["position"], two.samples["position"], rtol=1e-9)
    np.testing.assert_allclose(one.log_evidence, two.log_evidence, rtol=1e-9)


def test_information(runs):
    """Of a Gaussian within a much wider one: the difference of their entropies and second moments."""
    run, mean, covariance = runs
    prior, posterior = 100.0 * np.eye(3), np.asarray(covariance)
    ratio = np.linalg.solve(prior, posterior)
    expected = 0.5 * (np.trace(ratio) + mean @ np.linalg.solve(prior, mean) - 3.0 - np.log(np.linalg.det(ratio)))
    for name, error in (("smc", 0.4), ("nested", 1.2)):
        # sd of the mean log L is sqrt(3 / 2 n), of log Z as given
        assert run(name).information == pytest.approx(float(expected), abs=error)


def test_nested_points(runs):
    run, *_ = runs
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


def two_peaks(p, _):
    """A third of the mass about -4, the rest about 4, in a plane."""
    x = jnp.stack([p["x"], p["y"]])
    near, far = (-0.5 * ((x - sign * jnp.array([4.0, 1.0])) ** 2).sum() / 0.3**2 for sign in (-1.0, 1.0))
    return jnp.logaddexp(near, far + jnp.log(2.0))


@pytest.mark.parametrize("name", ["smc", "nested"])
def test_two_peaks(make_toy, name):
    priors = {"x": dist.Uniform(-10.0, 10.0), "y": dist.Uniform(-10.0, 10.0)}
    toy = make_toy(two_peaks, priors, {"x": 0.0, "y": 0.0})
    method, options = SHORT[name]
    result = method(jax.random.key(1), toy, progress=False, **options)
    value, error = result.log_evidence
    # 3 x 2 pi 0.09 / 400
    assert abs(value - np.log(3.0 * 2.0 * np.pi * 0.09 / 400.0)) < 4.0 * error
    # binomial about the share that particles of the prior gave each peak
    assert np.mean(result.samples["x"] > 0) == pytest.approx(2.0 / 3.0, abs=0.2)


@pytest.mark.parametrize("name", ["nuts", "smc", "nested", "svi"])
def test_no_data_give_the_prior(make_toy, name):
    from scipy.stats import kstest

    priors = {"a": dist.LogUniform(0.01, 10.0), "b": dist.Beta(2.0, 5.0), "c": dist.Normal(1.0, 2.0)}
    toy = make_toy(lambda p, _: 0.0 * p["a"], priors, {"a": 0.3, "b": 0.3, "c": 1.0})
    method, options = SHORT["svi flow" if name == "svi" else name]
    options = options | ({"draws": 500, "warmup": 200} if name == "nuts" else {})
    result = method(jax.random.key(2), toy, progress=False, **options)
    table = result.summary()
    cdf = {
        "a": lambda a: np.log(a / 0.01) / np.log(1000.0),
        "b": lambda b: np.asarray(jax.scipy.special.betainc(2.0, 5.0, b)),
        "c": lambda c: np.asarray(jax.scipy.stats.norm.cdf(c, 1.0, 2.0)),
    }
    for parameter, function in cdf.items():
        values = result.samples[parameter]
        # correlated draws: as many as they are worth
        thin = values[:: max(1, round(len(values) / table.loc[parameter, "ess_bulk"]))]
        assert kstest(function(thin), "uniform").pvalue > 0.01, parameter
    if name != "nuts":
        assert abs(result.log_evidence[0]) < 4.0 * result.log_evidence[1] + 1e-4


def test_bad_runs_are_said(make_toy):
    priors = {"x": dist.Normal(0.0, 1.0), "y": dist.Normal(0.0, 10.0)}
    toy = make_toy(lambda p, _: -0.5 * (p["y"] / jnp.exp(3.0 * p["x"])) ** 2 - 3.0 * p["x"], priors, {"x": 0, "y": 0})
    for method, options, words in (
        (gj.nested, {"live": 20, "steps": 5}, "ended early"),
        (gj.smc, {"particles": 32, "moves": 1}, "descend from"),
        (gj.laplace, {"draws": 100}, "k-hat"),
    ):
        with pytest.warns(UserWarning) as caught:
            result = method(jax.random.key(0), toy, progress=False, **options)
        assert any(words in message for message in result.messages), method
        assert sorted(str(warning.message) for warning in caught) == sorted(result.messages)


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
        (gj.laplace, {"draws": 1}, "draws must be"),
    ):
        with pytest.raises(ValueError, match=message):
            method(key, toy, **options)
