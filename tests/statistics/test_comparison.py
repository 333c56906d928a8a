"""Comparison of models: scores against closed forms, and the better of two models."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj

SHAPE, RATE = 4.0, 2.0
DRAWS = 4000


def source(p, index=2.2):
    return gj.Mixture(source=gj.Source(gj.PowerLaw(index, 1e-12 * p["flux"]), gj.Point(0.3, 0.2)))


PRIORS = {"flux": dist.Gamma(SHAPE, RATE)}


@pytest.fixture(scope="module")
def events(observations):
    return gj.simulate(jax.random.key(1), source({"flux": jnp.asarray(2.0)}), observations)


@pytest.fixture(scope="module")
def alone(observations, events):
    """A single source with a free flux: a Gamma posterior, given exactly."""
    posterior = gj.Posterior(source, PRIORS, observations, events, progress=False)
    result, unit = exact(posterior)
    return result, posterior, unit


def exact(posterior):
    """Draws of the Gamma posterior, and expected counts for a flux of one."""
    unit = float(posterior.expected_counts({"flux": jnp.asarray(1.0)})["source"].sum())
    draws = np.random.default_rng(0).gamma(SHAPE + posterior.total, 1.0 / (RATE + unit), (4, DRAWS // 4))
    return gj.Result.from_samples({"flux": draws}, method="exact"), unit


@pytest.mark.slow
def test_scores_are_those_of_the_closed_form(alone, events):
    result, posterior, unit = alone
    found = gj.compare({"a": (result, posterior), "b": (result, posterior)}, draws=DRAWS).models["a"]
    n = len(events)
    density = np.asarray(posterior.density({"flux": jnp.asarray(1.0)}), np.float64)[np.asarray(posterior.count) > 0]
    # without event k the flux has the mean (shape + n - 1) / (rate + unit)
    score = np.log(density * (SHAPE + n - 1) / (RATE + unit))
    elpd = score.sum() - unit * (SHAPE + n) / (RATE + unit)
    assert found.elpd == pytest.approx(elpd, abs=0.05)
    assert found.p_loo == pytest.approx(n * np.log((SHAPE + n) / (SHAPE + n - 1)), rel=0.1)
    assert found.waic == pytest.approx(elpd, abs=0.2)
    rows = posterior.events
    order = np.lexsort((rows.lat, rows.lon, rows.energy))
    np.testing.assert_allclose(found.scores, score[order], atol=2e-3)
    assert found.k_hat.max() < 0.5
    # one parameter, at the peak of likelihood times prior
    peak = (SHAPE + n - 1) / (RATE + unit)
    log_likelihood = np.log(density * peak).sum() - unit * peak
    assert found.log_likelihood == pytest.approx(log_likelihood, abs=0.02)
    assert found.aic == pytest.approx(2.0 - 2.0 * log_likelihood, abs=0.05)
    assert found.bic == pytest.approx(np.log(n) - 2.0 * log_likelihood, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("cells", [False, True])
def test_the_true_model_is_better(cells, observations, events):
    data = events.compress(observations, energy_per_decade=20) if cells else events
    models = {}
    for name, index in {"wrong": 4.5, "true": 2.2}.items():
        posterior = gj.Posterior(
            lambda p, index=index: source(p, index), PRIORS, observations, data, engine="kernel", progress=False
        )
        models[name] = exact(posterior)[0], posterior
    found = gj.compare(models)
    assert list(found.models) == ["true", "wrong"]
    assert found.elpd_difference["true"] == 0.0
    assert found.elpd_difference["wrong"] < -3.0 * found.elpd_error["wrong"] < 0.0
    assert found.models["wrong"].aic > found.models["true"].aic + 10.0
    assert "ordered by elpd" in str(found) and "to the first" in str(found)
    figure = found.plot()
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "elpd of all events, less that of true",
        "-AIC / 2, less that of true",
    ]


def test_rows_in_another_order_are_paired(alone, observations, events):
    """The error of a difference is one of the same events, whatever the nodes of each posterior are."""
    result, posterior, _ = alone
    other = gj.Posterior(source, PRIORS, observations, events[::-1], per_decade=40.0, progress=False)
    first, second = gj.compare({"a": (result, posterior), "b": (result, other)}).models.values()
    np.testing.assert_allclose(first.scores, second.scores, atol=0.02)


def test_evidence_alone():
    plain = {name: gj.Criteria(log_evidence=value) for name, value in {"a": (1.0, 0.3), "b": (7.0, 0.4)}.items()}
    found = gj.compare(plain)
    assert list(found.models) == ["b", "a"]
    assert "ln B -6.00 +- 0.50 (strong evidence against it)" in str(found)
    assert len(found.plot().axes) == 1


@pytest.mark.slow
def test_what_cannot_be_compared(alone, observations, events):
    result, posterior, _ = alone
    with pytest.raises(ValueError, match="at least two models"):
        gj.compare({"a": result})
    with pytest.raises(ValueError, match="model 'b' is a float; give a result, a posterior, or a pair"):
        gj.compare({"a": result, "b": 3.0})
    with pytest.raises(ValueError, match="model 'b' is a tuple; give a result, a posterior, or a pair"):
        gj.compare({"a": result, "b": (posterior, result)})
    with pytest.raises(ValueError, match="no criterion in common"):
        gj.compare({"a": result, "b": gj.Criteria(aic=3.0)})
    fewer = gj.Posterior(source, PRIORS, observations, events[:-3], progress=False)
    with pytest.raises(ValueError, match="different numbers of events"):
        gj.compare({"a": posterior, "b": fewer})
    few = gj.Result.from_samples({"flux": np.ones((2, 20))}, method="short")
    with pytest.raises(ValueError, match="model 'b' has 40 draws; scores of events need at least 100"):
        gj.compare({"a": posterior, "b": (few, posterior)})
