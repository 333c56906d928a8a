"""Goodness of fit: planted faults have small p-values, none has not, and statistics have their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from figures import faults
from scipy.stats import chi2, norm

import gammajax as gj
from gammajax.products import event_replicates, goodness, replicates

OPTIONS = {"per_decade": 12.0, "progress": False}
PRIORS = {"index": dist.Uniform(1.0, 4.0), "flux": dist.Uniform(0.0, 10.0), "norm": dist.Uniform(0.2, 5.0)}
TRUTH = {"index": 2.3, "flux": 1.0, "norm": 1.0}
PLACE = {"lon": 0.1, "lat": 0.1, "sigma": 0.1}
DAY = 55000.0
REPLICAS = 50


def mixture(spectrum, size=0.1, tilt=0.0, norm=1.0, **others):
    source = gj.Source(spectrum, gj.Gaussian(0.1, 0.1, size))
    return gj.Mixture(source=source, sky=gj.InstrumentBackground(40.0 * norm, tilt), **others)


def model(p):
    return mixture(gj.PowerLaw(p["index"], 8e-12 * p["flux"]), norm=p["norm"])


def usual(flux=1.0):
    return gj.PowerLaw(2.3, 8e-12 * flux)


@pytest.fixture(scope="module")
def runs(make_observation):
    return [
        make_observation(
            lat=0.4 * i, livetime=20000.0, offset_max=1.5, obs_id=f"run {i}", good_time=[[DAY + i, DAY + 0.12 + i]]
        )
        for i in range(2)
    ]


@pytest.fixture(scope="module")
def engine(runs):
    return {"source": gj.engines.PreparedKernel.init(gj.Gaussian(**PLACE), runs, OPTIONS["per_decade"])}


@pytest.fixture(scope="module")
def checked(runs, engine):
    """Posterior, fit and check of events."""

    def make(events, key=5, observations=runs):
        posterior = gj.Posterior(model, PRIORS, observations, events, engine=engine, **OPTIONS)
        best = gj.fit(posterior, initial=TRUTH, progress=False)
        found = gj.check(posterior, best, key=jax.random.key(key), replicas=REPLICAS, engine=engine, progress=False)
        return posterior, best, found

    return make


@pytest.fixture(scope="module")
def good(runs, checked):
    return checked(gj.simulate(jax.random.key(1), mixture(usual()), runs))


@pytest.mark.slow
def test_no_fault(good):
    posterior, _, found = good
    assert found.p_value > 0.02 and found.worst_p_value > 0.02
    assert all(one.p_value > 0.01 for one in found.quantities)
    assert found.replicas == REPLICAS
    names = set(found.table.index)
    wanted = {"energy", "offset", "field-of-view longitude", "field-of-view latitude", "time", "observation", "sky"}
    assert wanted | {"distance from source", "log-density", "largest deviation", "all"} <= names
    for one in found.quantities:
        if one.name in ("energy", "offset", "observation", "time"):
            assert one.count.sum() == posterior.total  # all events are in a bin
            assert one.expected.sum() == pytest.approx(posterior.total, rel=0.02)  # norms are free
        assert np.all(one.band[0] <= one.band[3])
    # three fitted numbers: about three degrees less than bins; the mean of 50 has an error of sqrt(2 / 50 / bins)
    energy = found["energy"]
    assert energy.replicated.mean() == pytest.approx(energy.count.size - 2.5, rel=4.0 * np.sqrt(2.0 / 50 / 12) + 0.1)
    with pytest.raises(ValueError, match="no quantity 'mass' was checked; there are energy, "):
        found["mass"]


def faulty(name, runs):
    """Events with a fault that the model does not have."""
    key = jax.random.key(2)
    match name:
        case "missing source":
            extra = gj.Source(gj.PowerLaw(2.3, 1.5e-12), gj.Point(-0.5, 0.6))
            return gj.simulate(key, mixture(usual(), extra=extra), runs)
        case "wrong extension":
            return gj.simulate(key, mixture(usual(), size=0.2), runs)
        case "wrong spectrum":
            return gj.simulate(key, mixture(gj.LogParabola(alpha=1.2, beta=1.2, amplitude=8e-12)), runs)
        case "wrong tilt of the background":
            return gj.simulate(key, mixture(usual(), tilt=-0.7), runs)
        case "shifted pointing":
            events = gj.simulate(key, mixture(usual()), runs)
            lon = np.asarray(events.lon) + np.where(events.observation == 1, 0.15, 0.0)
            events = gj.Events(events.energy, lon, events.lat, events.observation, time=events.time)
            return events[np.asarray(runs[1].offset(events.lon, events.lat)) < 1.45 + (events.observation == 0)]
        case "broken run":
            parts = [gj.simulate(key, mixture(usual(factor), norm=factor), runs) for factor in (1.0, 0.6)]
            parts = [part[part.observation == i] for i, part in enumerate(parts)]
            columns = {n: np.concatenate([getattr(p, n) for p in parts]) for n in ("energy", "lon", "lat", "time")}
            return gj.Events(observation=np.concatenate([part.observation for part in parts]), **columns)


FOUND_BY = {  # the quantity that shows a fault
    "missing source": "sky",
    "wrong extension": "distance from source",
    "wrong spectrum": "energy within",
    "wrong tilt of the background": "energy away",
    "shifted pointing": "sky",
    "broken run": "observation",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND_BY)
def test_a_planted_fault_is_found(name, runs, checked):
    quantity = FOUND_BY[name]
    _, _, found = checked(faulty(name, runs))
    mine = [one.p_value for one in found.quantities if one.name.startswith(quantity)]
    assert found.p_value < 1e-3, str(found)
    assert min(mine) < 1e-3, str(found.table)
    if name == "missing source":  # at (359.5, 0.6) deg
        assert found.worst.startswith("sky at (359.")
        lon, lat, value = found.maps[0].peak
        assert np.hypot(lon - 359.5, lat - 0.6) < 0.15 and value > 5.0


def test_figures_and_files(good, tmp_path):
    _, _, found = good
    assert faults(found.plot()) == []
    path = found.write(tmp_path / "check.csv")
    assert path.read_text().startswith("test,statistic,")
    assert "Check against 50 simulated data sets" in str(found)
    assert "CheckedQuantity energy" in str(found["energy"])


@pytest.mark.slow
def test_draws_of_a_result_and_cells(good, runs, engine):
    """Cells have fewer quantities, and much the same p-values as their events."""
    posterior, best, found = good
    cells = event_replicates.observed(posterior.terms[0]).compress(runs, energy_per_decade=20, pixel=0.1)
    binned = gj.Posterior(model, PRIORS, runs, cells, engine=engine, **OPTIONS)
    draws = np.random.default_rng(0).multivariate_normal(
        [float(best.parameters[name]) for name in best.names], best.covariance, (1, 400)
    )
    result = gj.Result.from_samples({name: draws[..., i] for i, name in enumerate(best.names)}, method="test")
    other = result.check(binned, replicas=50, engine=engine, progress=False)
    assert "time" not in other.table.index
    assert other.p_value > 0.01
    assert other["observation"].count.tolist() == found["observation"].count.tolist()
    assert other.maps[0].counts.sum() == pytest.approx(posterior.total, rel=1e-6)


@pytest.mark.slow
def test_several_data_sets_share_the_fit(good, runs):
    posterior, _, _ = good
    events = event_replicates.observed(posterior.terms[0])

    def background(p):
        return gj.Mixture(sky=gj.InstrumentBackground(40.0 * p["norm"], p["tilt"]))

    priors = {"norm": dist.Uniform(0.2, 20.0), "tilt": dist.Uniform(-3.0, 3.0)}
    sets = [gj.Unbinned(runs[i], _alone(events, i), name=f"set {i}", per_decade=12.0) for i in range(2)]
    joint = gj.Posterior(background, priors, sets, progress=False)
    found = gj.fit(joint, progress=False).check(joint, replicas=50, progress=False)
    assert {one.name.split(":")[0] for one in found.quantities} == {"set 0", "set 1"}
    assert [maps.name for maps in found.maps] == ["set 0", "set 1"]
    # the source is in both, and not in the model
    assert found.p_value < 1e-3
    assert found["set 0: offset"].p_value < 1e-3 and found["set 1: offset"].p_value < 1e-3


def _alone(events, number):
    mine = events[events.observation == number]
    return gj.Events(mine.energy, mine.lon, mine.lat)


@pytest.mark.slow
def test_a_mixture_with_weights(runs, engine):
    def fractions(p):
        source = gj.Source(gj.PowerLaw(p["index"], 1e-11), gj.Gaussian(**PLACE))
        return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})

    priors = {"index": PRIORS["index"], "fraction": dist.Uniform(0.0, 1.0)}
    truth = {"index": 2.3, "fraction": 0.5}
    events = gj.simulate(jax.random.key(3), fractions(truth), runs, events=800)
    posterior = gj.Posterior(fractions, priors, runs, events, engine=engine, **OPTIONS)
    best = gj.fit(posterior, initial=truth, progress=False)
    found = best.check(posterior, replicas=50, engine=engine, progress=False)
    assert found.p_value > 0.01
    energy = found["energy"]
    # all replicates have as many events: what is expected adds up to them
    assert energy.expected.sum() == pytest.approx(800.0, rel=1e-6)


def test_what_cannot_be_checked(good):
    posterior, best, _ = good
    with pytest.raises(ValueError, match="best must be a gammajax.Result or a gammajax.Fit"):
        gj.check(posterior, TRUTH)
    with pytest.raises(ValueError, match="replicas must be a whole number of at least 50, not 10"):
        gj.check(posterior, best, replicas=10)


def test_deviance_is_that_of_gammapy():
    from gammapy.stats import cash

    counts, expected = np.array([0.0, 3.0, 12.0, 40.0]), np.array([1.5, 3.0, 8.0, 55.0])
    saturated = cash(counts, np.maximum(counts, 1e-300))
    np.testing.assert_allclose(goodness.deviance(counts, expected), cash(counts, expected) - saturated, rtol=1e-6)
    assert np.sign(goodness.signed_root(counts, expected)).tolist() == [-1.0, 0.0, 1.0, -1.0]


def test_anderson_darling_is_that_of_scipy():
    """Of normal numbers, in many bins of equal probability."""
    values = np.sort(np.random.default_rng(3).normal(0.1, 1.1, 400))
    steps = 20_000
    counts = np.histogram(norm.cdf(values), steps, (0.0, 1.0))[0][None].astype(float)
    i = np.arange(1, 401)
    own = -400.0 - np.mean((2 * i - 1) * (norm.logcdf(values) + norm.logsf(values[::-1])))
    assert goodness.anderson_darling(counts, np.full((1, steps), 0.02))[0] == pytest.approx(own, rel=0.01)


def test_p_values_of_known_distributions():
    random = np.random.default_rng(4)
    replicated = random.chisquare(12.0, 20_000)
    for value in (8.0, 15.0, 60.0):
        assert goodness.p_value(value, replicated) == pytest.approx(chi2.sf(value, 12), rel=0.5 if value > 50 else 0.03)
    smallest = random.uniform(size=(4000, 7)).min(1)
    assert goodness.smallest_p_value(1e-6, smallest) == pytest.approx(7e-6, rel=0.1)
    assert goodness.smallest_p_value(0.2, smallest) == pytest.approx(1.0 - 0.8**7, rel=0.05)


def test_the_step_of_a_fit_is_the_projection():
    """Counts whose score is that of their norm: the fit takes their sum away, a prior half of it."""
    quantity = replicates.Quantity("x", "", lambda c: c.energy, np.arange(5.0))
    sums = replicates._Sums((quantity,), 3000, 1)
    random = np.random.default_rng(5)
    sums.counts = random.poisson([20.0, 10.0, 30.0, 40.0], (3001, 4)).astype(float)
    sums.score = sums.counts.sum(1, keepdims=True)  # of ln norm
    sums.size = sums.counts.sum(1)
    sums.response = np.array([[20.0], [10.0], [30.0], [40.0]])
    sums.information = np.array([[100.0]])
    free = sums.fitted(False, np.zeros((1, 1)), np.zeros(1))
    np.testing.assert_allclose(free.expected.sum(1), free.counts.sum(1), rtol=2e-3)
    assert goodness.deviance(free.counts, free.expected).sum(1)[1:].mean() == pytest.approx(3.0, abs=0.2)
    half = sums.fitted(False, np.array([[100.0]]), np.zeros(1))
    assert np.cov(half.expected.sum(1), half.counts.sum(1))[0, 1] == pytest.approx(50.0, rel=0.1)


@pytest.mark.slow
def test_the_prior_is_part_of_the_fit(runs):
    """A norm that its prior holds is no free norm: too many events are seen."""

    def held(p):
        return gj.Mixture(sky=gj.InstrumentBackground(40.0 * p["norm"]))

    events = gj.simulate(jax.random.key(6), held({"norm": 1.0}), runs)
    posterior = gj.Posterior(held, {"norm": dist.Normal(0.7, 0.01)}, runs, events, **OPTIONS)
    best = gj.fit(posterior, progress=False)
    assert gj.check(posterior, best, replicas=50, progress=False).p_value < 1e-3
    free = gj.Posterior(held, {"norm": dist.Normal(0.7, 1.0)}, runs, events, **OPTIONS)
    assert gj.check(free, gj.fit(free, progress=False), replicas=50, progress=False).p_value > 0.01
    assert jnp.isfinite(best.parameters["norm"])
