"""Event types of a run are observations of one livetime: fitted together, better than each alone, and unbiased."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj

TRUTH = {"flux": 3.0, "lon": 0.3, "norm": 1.0}
PRIORS = {"flux": dist.LogNormal(1.0, 1.0), "lon": dist.Normal(0.3, 0.2), "norm": dist.LogNormal(0.0, 0.5)}
SEEDS = range(6)


def model(p):
    source = gj.Source(gj.PowerLaw(2.2, 1e-12 * p["flux"]), gj.Point(p["lon"], 0.2))
    return gj.Mixture(source=source, background=gj.InstrumentBackground(p["norm"]))


@pytest.fixture(scope="module")
def types(make_observation):
    """Two types of one run: 40 % of the area with sharp directions, 60 % with ones three times as wide."""
    run = make_observation(livetime=7200.0, obs_id="1/sharp")
    sharp = gj.changed(run, gj.ResponseChange(effective_area=0.4, psf_width=0.5))
    wide = gj.changed(make_observation(livetime=7200.0, obs_id="1/wide"), gj.ResponseChange(effective_area=0.6))
    return [sharp, gj.changed(wide, gj.ResponseChange(psf_width=1.5))]


@pytest.fixture(scope="module")
def fits(types):
    """Values and errors of the types together and each alone, for each of several simulations."""
    found = {"both": [], "sharp": [], "wide": []}
    for seed in SEEDS:
        events = gj.simulate(jax.random.key(seed), model(TRUTH), types)
        data = {"both": (types, events)}
        data |= {k: (types[i], alone(events, i)) for i, k in enumerate(("sharp", "wide"))}
        for name, (observations, of) in data.items():
            fit = gj.fit(gj.Posterior(model, PRIORS, observations, of, progress=False))
            assert fit.converged
            found[name].append([(float(fit.parameters[p]), float(fit.standard_deviations[p])) for p in TRUTH])
    return {name: np.array(values) for name, values in found.items()}


def alone(events, number):
    of = events[events.observation == number]
    return gj.Events(of.energy, of.lon, of.lat)


@pytest.mark.slow
def test_together_is_better_than_either(fits):
    """Information adds up: of flux and position, as the prior of the norm would count twice."""
    errors = {name: values[:, :, 1].mean(axis=0) for name, values in fits.items()}
    assert np.all(errors["both"] < 0.97 * np.minimum(errors["sharp"], errors["wide"]))
    added = (errors["sharp"] ** -2 + errors["wide"] ** -2) ** -0.5
    np.testing.assert_allclose(errors["both"][:2], added[:2], rtol=0.08)


def test_together_is_unbiased(fits):
    pulls = (fits["both"][:, :, 0] - list(TRUTH.values())) / fits["both"][:, :, 1]
    assert np.all(np.abs(pulls.mean(axis=0)) < 3.0 / np.sqrt(len(SEEDS)))
    assert 0.5 < pulls.std() < 1.5


@pytest.mark.slow
def test_types_taken_for_one_another_are_noticed(types):
    """The test would fail if each type had the other's response."""
    events = gj.simulate(jax.random.key(0), model(TRUTH), types)
    right, wrong = (
        gj.fit(gj.Posterior(model, PRIORS, of, events, progress=False)).log_posterior for of in (types, types[::-1])
    )
    assert right - wrong > 10.0
