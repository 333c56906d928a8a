"""Predicted counts of a source with a morphology that changes with energy; the tests of plots have an ordinary one."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from gammajax.instrument.sky import Grid
from gammajax.results.prediction import predict

GRID = Grid(0.0, 0.0, 0.05, 1.6)
X, Y = (np.asarray(c, float) for c in np.meshgrid(GRID.coordinates, GRID.coordinates))
SIGMA = np.array([0.45, 0.3, 0.15])[:, None, None]  # deg, at 0.3, 1.5 and 7 TeV
CUBE = gj.TemplateCube(GRID, [0.3, 1.5, 7.0], np.exp(-0.5 * (X**2 + Y**2) / SIGMA**2))
TRUTH = {"index": 2.3, "fraction": 0.4}


def model(p):
    return gj.Mixture(
        signal=gj.Source(gj.PowerLaw(p["index"]), CUBE),
        background=gj.InstrumentBackground(),
        weights={"signal": p["fraction"]},
    )


@pytest.fixture(scope="module")
def posterior(observation):
    truth = {name: jnp.asarray(value) for name, value in TRUTH.items()}
    events = gj.simulate(jax.random.key(0), model(truth), observation, events=1500)
    priors = {"index": dist.Normal(2.3, 0.5), "fraction": dist.Beta(1.0, 2.0)}
    return gj.Posterior(model, priors, observation, events)


@pytest.mark.slow
def test_a_posterior_with_a_cube(posterior):
    found = gj.fit(posterior)
    for name, value in TRUTH.items():
        assert abs(float(found.parameters[name]) - value) < 4.0 * float(found.standard_deviations[name])


@pytest.mark.slow
def test_counts_and_where_they_are(posterior, observation):
    """Weighted events at another index have the counts and the spread of a fresh simulation, by energy."""
    draws = {"index": np.array([2.8]), "fraction": np.array([0.3])}
    edges = np.array([0.5, 1.0, 2.0, 8.0])
    prediction = predict(jax.random.key(1), posterior, draws, edges, events=20_000)
    np.testing.assert_allclose(prediction.counts[0].sum(1), [450.0, 1050.0], rtol=0.04)
    source = model({name: jnp.asarray(values[0]) for name, values in draws.items()}).components["signal"]
    fresh = gj.simulate(jax.random.key(2), source, observation, events=20_000)
    spread = []
    for events, weights in ((prediction.events[0], prediction.weights[0]), (fresh, np.ones(20_000))):
        lon = (np.asarray(events.lon, float) + 180.0) % 360.0 - 180.0
        rad2 = lon**2 + np.asarray(events.lat, float) ** 2
        bin_ = np.digitize(events.energy, edges)
        counts = np.bincount(bin_, weights, 5)[1:-1]
        spread.append((counts / counts.sum(), np.bincount(bin_, weights * rad2, 5)[1:-1] / counts))
    # 400 to 14000 events in a bin: 4 standard errors
    np.testing.assert_allclose(spread[0][0], spread[1][0], atol=0.015)
    np.testing.assert_allclose(spread[0][1], spread[1][1], rtol=0.15)
    assert np.all(np.diff(spread[1][1]) < -0.02)  # a constant morphology would fail


@pytest.mark.slow
def test_counts_of_a_flare(make_observation):
    """The mean flux of a flare, at other parameters than those of the data, is that of the engine."""
    runs = [make_observation(good_time=[[start, start + 0.1]]) for start in (60000.5, 60001.5)]

    def model(p):
        flare = gj.GaussianFlare(0.55, 0.02, p["height"], reference=60000.0)
        source = gj.Source(gj.PowerLaw(2.3, 1e-10), gj.Point(0.3, 0.0), time=flare)
        return gj.Mixture(signal=source, background=gj.InstrumentBackground())

    events = gj.simulate(jax.random.key(0), model({"height": jnp.array(3.0)}), runs)
    posterior = gj.Posterior(model, {"height": dist.Uniform(0.0, 9.0)}, runs, events)
    draws = {"height": np.array([0.5, 8.0])}
    prediction = predict(jax.random.key(1), posterior, draws, np.array([0.3, 20.0]), events=20_000)
    for draw, height in enumerate(draws["height"]):
        expected = posterior.expected_counts({"height": jnp.array(height)})
        signal = prediction.counts[draw, prediction.names.index("signal"), 0]
        assert signal == pytest.approx(float(expected["signal"].sum()), rel=0.03)
    # both runs have the mean flux of all data: their shares change with the height, the sum does not
    found = np.bincount(prediction.events[0].observation, prediction.weights[0], 2)
    expected = posterior.expected_counts({"height": jnp.array(np.median(draws["height"]))})["signal"]
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=0.05)
