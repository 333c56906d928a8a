"""An empty list of events is valid data: ln L = -N, with closed forms for a flux with an exponential prior."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import gammajax as gj

RATE = 0.5  # of the prior
NONE = gj.Events([], [], [])


def model(p):
    source = gj.Source(gj.PowerLaw(2.0, 1e-13 * p["flux"]), gj.Point(0.3, 0.2))
    return gj.Mixture(source=source, sky=gj.InstrumentBackground(norm=1e-3))


@pytest.fixture(scope="module")
def posterior(observation):
    return gj.Posterior(model, {"flux": dist.Exponential(RATE)}, observation, NONE, per_decade=10.0)


@pytest.fixture(scope="module")
def counts(posterior):
    """Expected counts of a flux of one, and of the background."""
    expected = posterior.expected_counts({"flux": jnp.asarray(1.0)})
    return float(expected["source"].sum()), float(expected["sky"].sum())


def test_the_likelihood(posterior, counts):
    assert posterior.total == 0 and len(posterior.events) == 0
    values = jax.vmap(posterior.log_likelihood)({"flux": jnp.array([0.0, 1.0, 3.0])})
    np.testing.assert_allclose(values, -counts[0] * np.array([0.0, 1.0, 3.0]) - counts[1], rtol=1e-5, atol=1e-5)
    slope = jax.grad(posterior.log_likelihood)({"flux": jnp.asarray(2.0)})["flux"]
    assert float(slope) == pytest.approx(-counts[0], rel=1e-5)


def test_several_observations_and_exclusions_of_their_centres(make_observation, posterior, counts):
    several = [make_observation(), make_observation(obs_id="1", livetime=18000.0)]
    found = gj.Posterior(model, posterior.priors, several, NONE, per_decade=10.0)
    value = float(found.log_likelihood({"flux": jnp.asarray(1.0)}))
    assert value == pytest.approx(-1.5 * sum(counts), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nuts", "smc", "nested"])
def test_samplers(name, posterior, counts):
    """The posterior of the flux is exponential, the evidence RATE / (RATE + N) exp(-N_sky)."""
    options = {
        "nuts": {"warmup": 500, "draws": 1500, "chains": 4},
        "smc": {"particles": 512},
        "nested": {"live": 100},
    }[name]
    result = getattr(gj, name)(jax.random.key(3), posterior, progress=False, **options)
    draws = np.asarray(result.samples["flux"]).ravel()
    expected = stats.expon(scale=1.0 / (RATE + counts[0]))
    effective = min(float(result.summary().loc["flux", "ess_bulk"]), draws.size)
    assert abs(draws.mean() - expected.mean()) < 5.0 * expected.std() / np.sqrt(effective)
    assert abs(np.quantile(draws, 0.95) / expected.ppf(0.95) - 1.0) < 0.35
    if name == "nuts":
        assert float(result.summary().loc["flux", "r_hat"]) < 1.02
    else:
        log_evidence = np.log(RATE / (RATE + counts[0])) - counts[1]
        found, error = result.log_evidence
        assert abs(found - log_evidence) < 5.0 * error


def test_fractions_of_none_are_refused(observation):
    def shares(p):
        return gj.Mixture(**model({"flux": 1.0}).components, weights={"source": p["share"]})

    with pytest.raises(ValueError, match="there are no events: fractions of none mean nothing"):
        gj.Posterior(shares, {"share": dist.Uniform(0.0, 1.0)}, observation, NONE, per_decade=10.0)
