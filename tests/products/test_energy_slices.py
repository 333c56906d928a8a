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


@pytest.mark.slow
def test_a_slice_is_a_fit_of_its_events(posterior, best, points, make_observation):
    """Of both runs, with the background free."""
    by_hand = slice_by_hand(posterior, best, make_observation, *EDGES[1:3])
    found = gj.profile(by_hand, "factor", progress=False)
    error = points.norm_err[1]
    assert float(found.best["factor"]) == pytest.approx(points.norm[1], abs=0.02 * error)
    ends = [points.norm[1] - points.norm_errn[1], points.norm[1] + points.norm_errp[1]]
    np.testing.assert_allclose(ends, found.interval(), atol=0.03 * error)
    assert found.upper_limit(0.97725) == pytest.approx(points.norm_ul[1], abs=0.03 * error)
    counts = by_hand.expected_counts({"factor": jnp.asarray(points.norm[1]), "norm": jnp.asarray(1.0)})
    assert points.npred[1] == pytest.approx(float(counts["nebula"].sum()), rel=1e-3)


@pytest.mark.slow
def test_fixed_backgrounds_leave_a_sum_over_events(posterior, best, make_observation):
    """Of ln L = -n S + Sum ln(n s_k + b_k): maximum, error and TS of a slice, by intensities of each component."""
    points = gj.flux_points(
        posterior, "sources/nebula", EDGES, energy="reconstructed", reoptimize=False, best=best, progress=False
    )
    np.testing.assert_array_equal(points.covariance, np.diag(np.diag(points.covariance)))
    low, high = EDGES[:2]
    run = make_observation(livetime=5000.0, energy_max=high)
    events, parts = posterior.events, model(best.parameters).components
    kept = (events.energy >= low) & (events.energy < high)
    assert np.all(np.asarray(events.observation)[kept] == 0)
    slice_events = gj.Events(*(np.asarray(column)[kept] for column in (events.energy, events.lon, events.lat)))
    s, b = (
        np.asarray(gj.intensity(parts[name], run, slice_events, per_decade=20.0), np.float64)
        for name in ("sources/nebula", "sky")
    )
    total = float(gj.expected_counts(parts["sources/nebula"], run, per_decade=20.0))
    n = np.linspace(0.0, 3.0, 30001)
    height = -n * total + np.log(n[:, None] * s / b + 1.0).sum(1)
    error = 1.0 / np.sqrt(((s / (points.norm[0] * s + b)) ** 2).sum())
    assert points.norm[0] == pytest.approx(n[height.argmax()], abs=0.03 * error)  # other nodes of true energy
    assert points.norm_err[0] == pytest.approx(error, rel=0.01)
    assert points.ts[0] == pytest.approx(2.0 * height.max(), rel=2e-3)
    assert points.npred[0] == pytest.approx(points.norm[0] * total, rel=1e-3)
    assert points.energy == "reconstructed" and "0.5 to 8 TeV of reconstructed energy" in " ".join(repr(points).split())


def test_numbers_of_each_run_are_those_of_its_slices(runs, posterior, best, points):
    """A norm of the background of each run, in the place of one."""

    def of_runs(p):
        sky = gj.InstrumentBackground(norm=60.0 * p["norms"])
        return gj.Mixture(sources=model({**p, "norm": 1.0}).parts[0], sky=sky)

    priors = {**PRIORS, "norms": dist.Uniform(0.5, 2.0).expand((2,)).to_event(1)}
    del priors["norm"]
    other = gj.Posterior(of_runs, priors, runs, posterior.events, **OPTIONS)
    at = {**best.parameters, "norms": jnp.full(2, best.parameters["norm"])}
    draws = {name: np.tile(np.asarray(at[name]), (1, 3) + (1,) * jnp.ndim(at[name])) for name in priors}
    same = gj.Result.from_samples(draws, method="test")
    found = gj.flux_points(
        other, "sources/nebula", EDGES, energy="reconstructed", reoptimize=False, best=same, progress=False
    )
    np.testing.assert_allclose(found.norm, points.norm, atol=0.3 * points.norm_err.min())  # the norm is nearly known
    assert np.all(found.norm_err < 1.01 * points.norm_err)


def test_files_and_gammapy(points, tmp_path):
    path = points.write(tmp_path / "points.ecsv")
    again = gj.FluxPoints.read(path)
    assert again.energy == "reconstructed"
    np.testing.assert_allclose(again.norm_ul, points.norm_ul)
    theirs = points.to_gammapy()
    np.testing.assert_allclose(theirs.sqrt_ts.data.ravel(), points.sqrt_ts)
    limits = theirs.recompute_ul(n_sigma_ul=2)
    np.testing.assert_allclose(limits.norm_ul.data.ravel(), points.norm_ul, rtol=0.01)


@pytest.mark.slow
def test_what_cannot_be_sliced_is_refused_in_one_line(runs, posterior, best):
    def given(posterior=posterior, edges=EDGES, energy="reconstructed"):
        return gj.flux_points(posterior, "sources/nebula", edges, energy=energy, best=best, progress=False)

    def flaring(p):
        mixture = model(p)
        nebula = mixture.components["sources/nebula"]
        each = gj.Source(nebula.spectrum, nebula.morphology, time=gj.PerObservation([1.0, 2.0]))
        return gj.Mixture(sources=gj.Mixture(nebula=each), sky=mixture.components["sky"])

    few = gj.Events([2.0, 3.0], [0.3, 0.2], [0.1, 0.0])
    two = [gj.Unbinned(runs[:1], few, name="a", per_decade=8.0), gj.Unbinned(runs[:1], few, name="b", per_decade=8.0)]
    cells = gj.Posterior(model, PRIORS, runs, few.compress(runs, 20.0, 0.1), per_decade=8.0, progress=False)
    timed = gj.Posterior(flaring, PRIORS, runs, few, per_decade=8.0, progress=False)
    cases = {
        "energy must be 'true' or 'reconstructed', not 'reco'": lambda: given(energy="reco"),
        "from 9 to 20 TeV expects 0 events": lambda: given(edges=[1.0, 9.0, 20.0]),
        "from 20 to 40 TeV expects 0 events": lambda: given(edges=[20.0, 40.0]),
        "single data set of events; take energy='true'": lambda: given(gj.Posterior(model, PRIORS, two)),
        "need the events, which these cells do not have": lambda: given(cells),
        "'sources/nebula' changes in time": lambda: given(timed),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
