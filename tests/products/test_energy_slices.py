"""Flux points by reconstructed energy, against fits of each slice by hand, and a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj

OPTIONS = {"per_decade": 20.0, "progress": False}
EDGES = [0.5, 0.9, 2.0, 8.0]
TRUTH = {"index": 2.3, "flux": 1.5, "norm": 1.0}
PRIORS = {"index": dist.Uniform(1.0, 4.0), "flux": dist.Uniform(0.0, 10.0), "norm": dist.Uniform(0.5, 2.0)}


def model(p):
    spectrum = gj.PowerLaw(p["index"], 1e-11 * p["flux"])
    sources = gj.Mixture(nebula=gj.Source(spectrum, gj.Point(0.3, 0.1)))
    return gj.Mixture(sources=sources, sky=gj.InstrumentBackground(norm=60.0 * p["norm"]))


@pytest.fixture(scope="module")
def runs(make_observation):
    """Of different lower thresholds; the second has no events in the first slice."""
    return [make_observation(livetime=5000.0), make_observation(lon=0.5, livetime=4000.0, energy_min=1.0, obs_id="b")]


@pytest.fixture(scope="module")
def posterior(runs):
    return gj.Posterior(model, PRIORS, runs, gj.simulate(jax.random.key(1), model(TRUTH), runs), **OPTIONS)


@pytest.fixture(scope="module")
def best(posterior):
    return gj.fit(posterior, progress=False)


@pytest.fixture(scope="module")
def points(posterior, best):
    return gj.flux_points(posterior, "sources/nebula", EDGES, energy="reconstructed", best=best, progress=False)


def slice_by_hand(posterior, best, make_observation, low, high):
    """A posterior of one slice: observations with narrower energies, and their events."""
    events, runs = posterior.events, posterior.observations
    narrow = [
        make_observation(lon=float(run.lon), livetime=float(run.livetime), energy_min=max(low, float(run.energy_min)),
                         energy_max=high) for run in runs if float(run.energy_min) < high
    ]  # fmt: skip
    kept = (events.energy >= low) & (events.energy < high)
    columns = (np.asarray(column)[kept] for column in (events.energy, events.lon, events.lat, events.observation))
    index, flux = (float(best.parameters[name]) for name in ("index", "flux"))

    def scaled(p):
        source = gj.Source(gj.PowerLaw(index, 1e-11 * flux * p["factor"]), gj.Point(0.3, 0.1))
        return gj.Mixture(nebula=source, sky=gj.InstrumentBackground(norm=60.0 * p["norm"]))

    priors = {"factor": dist.Uniform(0.0, 10.0), "norm": PRIORS["norm"]}
    return gj.Posterior(scaled, priors, narrow, gj.Events(*columns), **OPTIONS)


@pytest.mark.parametrize("number", [0, 1])
def test_a_slice_is_a_fit_of_its_events(posterior, best, points, make_observation, number):
    by_hand = slice_by_hand(posterior, best, make_observation, *EDGES[number : number + 2])
    found = gj.profile(by_hand, "factor", progress=False)
    low, high = found.interval()
    error = points.norm_err[number]
    assert found.best == pytest.approx(points.norm[number], abs=0.02 * error)
    ends = [points.norm[number] - points.norm_errn[number], points.norm[number] + points.norm_errp[number]]
    np.testing.assert_allclose(ends, [low, high], atol=0.03 * error)
    assert found.upper_limit(0.97725) == pytest.approx(points.norm_ul[number], abs=0.03 * error)
    test = gj.test_statistic(by_hand, "factor", progress=False)
    assert points.ts[number] == pytest.approx(test.value, rel=5e-3)
    counts = by_hand.expected_counts({"factor": jnp.asarray(points.norm[number]), "norm": jnp.asarray(1.0)})
    assert points.npred[number] == pytest.approx(float(counts["nebula"].sum()), rel=1e-3)
