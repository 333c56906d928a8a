import math

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from gammajax.samplers.importance import smooth, systematic
from gammajax.statistics.reweighting import information_loss

WIDTH = 0.5  # of the likelihood


def likelihood(p, data):
    return -0.5 * jnp.sum(((p["x"] - data) / WIDTH) ** 2)


def exact(prior_sd, data):
    """Mean, standard deviation and log-evidence of the conjugate Gaussian."""
    variance = 1.0 / (1.0 / WIDTH**2 + 1.0 / prior_sd**2)
    total = WIDTH**2 + prior_sd**2
    log_evidence = sum(-0.5 * d**2 / total + math.log(WIDTH / math.sqrt(total)) for d in data)
    return variance * np.asarray(data) / WIDTH**2, math.sqrt(variance), log_evidence


@pytest.fixture
def posterior_of(make_toy):
    def make(prior_sd, data, prior=None):
        prior = dist.Normal(jnp.zeros(2), prior_sd).to_event(1) if prior is None else prior
        return make_toy(likelihood, {"x": prior}, {"x": jnp.zeros(2)}, data)

    return make


@pytest.fixture(scope="module")
def run():
    """Draws of the posterior of data (1, 0) and a prior of width 1."""
    mean, sd, log_evidence = exact(1.0, (1.0, 0.0))
    draws = mean + sd * np.random.default_rng(0).normal(size=(4, 1000, 2))
    return gj.Result.from_samples(
        {"x": draws}, method="nuts", log_evidence=(log_evidence, 0.01), seed=1, units={"x": "m"}
    )


@pytest.mark.parametrize(("prior_sd", "data"), [(0.7, (1.3, 0.2)), (1.5, (0.8, 0.0))])
def test_of_another_model_is_the_closed_form(run, posterior_of, prior_sd, data):
    made = gj.reweight(run, posterior_of(1.0, (1.0, 0.0)), new_posterior=posterior_of(prior_sd, data))
    mean, sd, log_evidence = exact(prior_sd, data)
    effective = made.tree.attrs["effective_draws"]
    assert 1000 < effective < 4000 and made.tree.attrs["pareto_k"] < 0.7
    table = made.summary()
    for i in range(2):
        row = table.loc[f"x[{i}]"]
        assert row["mean"] == pytest.approx(mean[i], abs=4.0 * sd / effective**0.5)
        # the weights are functions of the old draws, which adds to the error of a variance
        assert row["sd"] == pytest.approx(sd, rel=5.0 / effective**0.5)
        assert made.samples["x"][:, i].mean() == pytest.approx(mean[i], abs=5.0 * sd / effective**0.5)
    value, error = made.log_evidence
    assert value == pytest.approx(log_evidence, abs=4.0 * error) and 0.01 < error < 0.05
    assert made.units == {"x": "m"} and len(made.samples["x"]) == int(effective)
    assert made.tree.attrs["information_loss"] == pytest.approx(5.0 / (2.0 * effective * math.log(2.0)))


def test_of_another_prior(run, posterior_of):
    made = gj.reweight(
        run, posterior_of(1.0, (1.0, 0.0)), log_prior=lambda p: dist.Normal(0.0, 0.7).log_prob(p["x"]).sum()
    )
    value, error = made.log_evidence
    assert value == pytest.approx(exact(0.7, (1.0, 0.0))[2], abs=4.0 * error)


def test_derived_quantities_are_left_out(posterior_of):
    draws = np.random.default_rng(0).normal(size=(4, 500, 2))
    result = gj.Result.from_samples({"x": draws}, method="nuts", truths={"x": np.zeros(2)}, units={"x": "m"})
    result = result.derive(square=lambda p: p["x"][0] ** 2, units={"square": "m$^2$"})
    made = gj.reweight(result, posterior_of(1.0, (0.0, 0.0)), new_posterior=posterior_of(1.1, (0.0, 0.0)))
    assert list(made.samples) == ["x"] == list(made.truths) and made.units == {"x": "m"}


def test_of_a_narrower_support(run, posterior_of):
    """A cut of the prior: the evidence changes by the posterior inside it over the prior inside it."""
    from scipy.stats import norm

    old = posterior_of(1.0, (1.0, 0.0), dist.Uniform(-10.0, 10.0).expand([2]).to_event(1))
    new = posterior_of(1.0, (1.0, 0.0), dist.Uniform(0.5, 10.5).expand([2]).to_event(1))
    draws = np.array([1.0, 0.0]) + WIDTH * np.random.default_rng(1).normal(size=(4, 1000, 2))
    result = gj.Result.from_samples({"x": draws}, method="nuts", log_evidence=(0.0, 0.0))
    with pytest.warns(UserWarning, match="'x' reaches beyond"):
        made = gj.reweight(result, old, new_posterior=new)
    assert made.messages == ["the prior of 'x' reaches beyond the one of the draws; what lies there is missed"]
    assert made.samples["x"].min() > 0.5
    value, error = made.log_evidence
    assert value == pytest.approx(np.log(4.0 * norm.sf(-1.0) * norm.sf(1.0)), abs=4.0 * error)


def test_weighted_points_serve(posterior_of):
    """Points of the prior, weighted by the likelihood, give the same as draws."""
    points = np.random.default_rng(2).normal(size=(20_000, 2))
    log_weight = -0.5 * np.sum(((points - [1.0, 0.0]) / WIDTH) ** 2, axis=1)
    result = gj.Result.from_samples(
        {"x": points[None, :5]},
        method="nested",
        weighted={"samples": {"x": points}, "log_weight": log_weight},
        log_evidence=(np.log(np.mean(np.exp(log_weight))), 0.02),
    )
    made = gj.reweight(result, posterior_of(1.0, (1.0, 0.0)), new_posterior=posterior_of(0.7, (1.3, 0.2)))
    mean, sd, log_evidence = exact(0.7, (1.3, 0.2))
    effective = made.tree.attrs["effective_draws"]
    assert made.summary().loc["x[0]", "mean"] == pytest.approx(mean[0], abs=4.0 * sd / effective**0.5)
    assert made.log_evidence[0] == pytest.approx(log_evidence, abs=4.0 * made.log_evidence[1])


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ({"new_posterior": (1.0, (3.5, 0.0))}, "reweighting loses too much: .* sample the new posterior"),
        (
            {"log_prior": lambda p: -jnp.inf * jnp.ones(())},
            "no draw has a positive, finite density under the new posterior",
        ),
        ({}, "give either new_posterior or log_prior"),
    ],
)
def test_refusals(run, posterior_of, new, message):
    if "new_posterior" in new:
        new = {"new_posterior": posterior_of(*new["new_posterior"])}
    with pytest.raises(ValueError, match=message):
        gj.reweight(run, posterior_of(1.0, (1.0, 0.0)), **new)


def test_wrong_parameters(run, make_toy, posterior_of):
    other = make_toy(lambda p, _: -p["y"], {"y": dist.Normal()}, {"y": 0.0})
    with pytest.raises(ValueError, match="the new posterior has parameters"):
        gj.reweight(run, posterior_of(1.0, (1.0, 0.0)), new_posterior=other)
    with pytest.raises(ValueError, match="no draws of \\['y'\\]"):
        gj.reweight(run, other, log_prior=lambda p: -p["y"])


def test_information_loss_is_the_divergence_of_estimated_gaussians():
    """Expected divergence of a Gaussian from Gaussians with the moments of 200 draws, by simulation."""
    generator, size, d = np.random.default_rng(3), 200, 3
    losses = []
    for _ in range(400):
        draws = generator.normal(size=(size, d))
        mean, covariance = draws.mean(0), np.cov(draws.T)
        inverse = np.linalg.inv(covariance)
        losses.append(0.5 * (np.trace(inverse) + mean @ inverse @ mean - d + np.linalg.slogdet(covariance)[1]))
    # 4 standard errors, and the next order in 1 / size
    tolerance = 4.0 * np.std(losses) / 400**0.5 / math.log(2.0) + 10.0 / size * information_loss(d, size)
    assert np.mean(losses) / math.log(2.0) == pytest.approx(information_loss(d, size), abs=tolerance)


def test_tail_index_and_systematic_draws():
    generator = np.random.default_rng(4)
    # weights u^-k have a Pareto tail of index k
    log_weight, k_hat = smooth(-0.5 * np.log(generator.uniform(size=20_000)))
    assert k_hat == pytest.approx(0.5, abs=0.15) and np.exp(log_weight).sum() == pytest.approx(1.0)
    assert smooth(np.zeros(100))[1] == -math.inf and math.isnan(smooth(np.arange(10.0))[1])
    # the larger weight stays the larger
    plain = np.sort(generator.normal(size=1000))
    assert np.all(np.diff(smooth(plain)[0]) >= 0) and np.corrcoef(plain, smooth(plain)[0])[0, 1] > 0.99
    weights = generator.dirichlet(np.ones(50))
    taken = np.bincount(systematic(weights, 1000), minlength=50)
    assert np.all(np.abs(taken - 1000 * weights) <= 1.0)
