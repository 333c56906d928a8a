"""Factors in time and light curves: flares, phase curves and constants that were simulated."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from figures import faults
from scipy.stats import chi2, kstest

import gammajax as gj
from gammajax.model.temporal import Times

DAY = 55000.0
# each of four runs has a gap; the last two are in another night
STARTS = DAY + np.array([0.800, 0.825, 1.800, 1.825])
OPTIONS = {"per_decade": 12.0, "progress": False}
PRIORS = {"flux": dist.Uniform(0.0, 5.0), "norm": dist.Uniform(0.2, 5.0)}
FLARE = gj.GaussianFlare(1.81, 0.004, 5.0, reference=DAY)


def model(p, time=None):
    source = gj.Source(gj.PowerLaw(2.3, 8e-11 * p["flux"]), gj.Point(0.1, 0.0), time=time)
    return gj.Mixture(nebula=source, sky=gj.InstrumentBackground(800.0 * p["norm"]))


@pytest.fixture(scope="module")
def runs(make_observation):
    return [
        make_observation(
            lat=0.1 * (i % 2),
            livetime=1500.0 - 100.0 * i,
            offset_max=1.0,
            obs_id=f"run {i}",
            good_time=[[start, start + 0.01], [start + 0.012, start + 0.02]],
        )
        for i, start in enumerate(STARTS)
    ]


@pytest.fixture(scope="module")
def flaring(runs):
    return gj.simulate(jax.random.key(3), model({"flux": 1.0, "norm": 1.0}, FLARE), runs)


@pytest.fixture(scope="module")
def posterior(runs, flaring):
    return gj.Posterior(model, PRIORS, runs, flaring, **OPTIONS)


@pytest.fixture(scope="module")
def best(posterior):
    return gj.fit(posterior, progress=False)


def means(function, runs):
    """Mean of a function of the day in each run, on a fine grid of its good time, normalised with the livetimes."""
    found = []
    for run in runs:
        day = np.concatenate([np.linspace(*(span - DAY), 40001)[:-1] for span in run.good_time])
        found.append(np.average(function(day), weights=np.repeat(np.diff(run.good_time)[:, 0], 40000)))
    livetime = np.array([float(run.livetime) for run in runs])
    return np.array(found) / (livetime @ found / livetime.sum())


def flare(day):
    return 1.0 + 5.0 * np.exp(-0.5 * ((day - 1.81) / 0.004) ** 2)


def burst(day):
    return 1.0 + 3.0 * np.exp(
        -np.where(day < 1.81, 1.81 - day, 0.0) / 0.002 - np.where(day > 1.81, day - 1.81, 0.0) / 0.005
    )


def orbit(day):
    return np.array([1.0, 3.0, 2.0, 0.5])[(day / 0.013 % 1.0 * 4).astype(int)]


FACTORS = {
    "gaussian": (FLARE, flare),
    "exponential": (gj.ExponentialFlare(1.81, 0.002, 0.005, 3.0, reference=DAY), burst),
    "function": (gj.TimeFunction(lambda day: 1.0 + day**2, reference=DAY), lambda day: 1.0 + day**2),
    "phase": (gj.PhaseCurve([1.0, 3.0, 2.0, 0.5], period=0.013, reference=DAY), orbit),
}


@pytest.mark.parametrize("name", FACTORS)
def test_means_are_integrals_over_the_good_time(name, runs):
    factor, function = FACTORS[name]
    day = np.array([0.801, 1.81, 1.842])
    rows, found = factor.factors(Times.of(runs, DAY + day, None, jnp.zeros(3, int)))
    # a kink within an interval
    np.testing.assert_allclose(found, means(function, runs), rtol=1e-2 if name == "exponential" else 1e-3)
    livetime = np.array([float(run.livetime) for run in runs])
    assert livetime @ np.asarray(found) / livetime.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(rows / rows[0], function(day) / function(day)[0], rtol=2e-3)


@pytest.mark.slow
def test_expected_counts_follow_the_factor(posterior, runs, flaring):
    steady = posterior.expected_counts({"flux": jnp.asarray(1.0), "norm": jnp.asarray(1.0)})
    other = gj.Posterior(lambda p: model(p, FLARE), PRIORS, runs, flaring, **OPTIONS)
    found = other.expected_counts({"flux": jnp.asarray(1.0), "norm": jnp.asarray(1.0)})
    ratio = np.asarray(found["nebula"]) / np.asarray(steady["nebula"])

    np.testing.assert_allclose(ratio, means(flare, runs), rtol=1e-3)
    np.testing.assert_allclose(found["sky"], steady["sky"])
    # simulated numbers, independent of the engines
    truth = np.bincount(flaring.observation[flaring.component == 0], minlength=4)
    expected = np.asarray(found["nebula"])
    assert ((truth - expected) ** 2 / expected).sum() < chi2.ppf(0.9999, 4)


def test_simulated_times_follow_the_factor(flaring):
    assert flaring.time is not None
    inside = [(flaring.time >= start) & (flaring.time <= start + 0.02) for start in STARTS]
    assert np.all(np.any(inside, 0)) and np.array_equal(np.argmax(inside, 0), flaring.observation)
    gaps = [(flaring.time > start + 0.01) & (flaring.time < start + 0.012) for start in STARTS]
    assert not np.any(gaps)
    steady = flaring.time[(flaring.component == 1) & (flaring.observation == 2)] - STARTS[2]
    live = np.where(steady > 0.011, steady - 0.002, steady) / 0.018
    assert kstest(live, "uniform").pvalue > 1e-4
    mine = flaring.time[(flaring.component == 0) & (flaring.observation == 2)] - DAY - 1.81
    # the mean of (1 + 5 g) between -0.01 and 0.01 less the gap is near the peak
    assert abs(np.median(mine)) < 5 * 0.005 / np.sqrt(mine.size)


def test_a_flare_is_recovered(runs, flaring):
    def flared(p):
        return model(p, gj.GaussianFlare(p["time"], jnp.exp(p["width"]), p["height"], reference=DAY))

    more = {"time": dist.Uniform(1.79, 1.83), "width": dist.Uniform(-7.0, -4.0), "height": dist.Uniform(0.0, 20.0)}
    posterior = gj.Posterior(flared, {**PRIORS, **more}, runs, flaring, **OPTIONS)
    start = {"flux": 1.0, "norm": 1.0, "time": 1.808, "width": -5.2, "height": 3.0}
    found = gj.fit(posterior, initial=start, progress=False)
    truth = {"flux": 1.0, "norm": 1.0, "time": 1.81, "width": np.log(0.004), "height": 5.0}
    pulls = {n: (float(found.parameters[n]) - v) / float(found.standard_deviations[n]) for n, v in truth.items()}
    assert found.converged and max(map(abs, pulls.values())) < 4.0, pulls


def test_a_phase_curve_is_recovered(runs):
    """Of the events' own phases, as a pulsar's."""
    values = np.array([0.2, 2.4, 1.0, 0.4])
    events = gj.simulate(jax.random.key(4), model({"flux": 1.0, "norm": 1.0}, gj.PhaseCurve(values)), runs)
    assert events.phase is not None and events.time is not None

    def phased(p):
        return model(p, gj.PhaseCurve(jnp.stack([p["a"], p["b"], p["c"], 0.4])))

    priors = {**PRIORS, **dict.fromkeys("abc", dist.Uniform(0.0, 10.0))}
    posterior = gj.Posterior(phased, priors, runs, events, **OPTIONS)
    found = gj.fit(posterior, initial={"flux": 1.0, "norm": 1.0, "a": 0.3, "b": 2.0, "c": 1.0}, progress=False)
    for name, value in zip("abc", values, strict=False):
        assert abs(float(found.parameters[name]) - value) < 4.0 * float(found.standard_deviations[name])


@pytest.mark.slow
def test_light_curve_in_runs_nights_and_bins(posterior, best, runs, flaring):
    curve = gj.light_curve(posterior, "nebula", best=best, progress=False)
    assert curve.labels == ("run 0", "run 1", "run 2", "run 3") and curve.messages == ()
    # the mean of each run, relative to the fit of all
    at = {"flux": jnp.asarray(1.0), "norm": jnp.asarray(1.0)}
    expected = np.bincount(flaring.observation[flaring.component == 0], minlength=4)
    expected = expected / np.asarray(posterior.expected_counts({**at, "flux": best.parameters["flux"]})["nebula"])
    # with the simulated number of photons only the background and overlap remain
    assert np.all(np.abs(curve.norm - expected) < 2.0 * curve.norm_err)
    assert curve.norm[2] > 1.5 and curve.constancy()[2] < 1e-6
    np.testing.assert_allclose(curve.time_min, STARTS)
    np.testing.assert_allclose(curve.time_max, STARTS + 0.02)
    nights = gj.light_curve(posterior, "nebula", "nights", best=best, progress=False)
    assert nights.norm.size == 2
    # bins of whole runs by time are those by number
    edges = [DAY, DAY + 0.822, DAY + 1.0, DAY + 1.822, DAY + 2.0]
    again = gj.light_curve(posterior, "nebula", edges, best=best, progress=False)
    np.testing.assert_allclose(again.norm, curve.norm, atol=0.02 * curve.norm_err.min())
    np.testing.assert_allclose(again.covariance, curve.covariance, atol=0.02 * curve.norm_err.min() ** 2)
    np.testing.assert_allclose(again.livetime, [float(run.livetime) for run in runs], rtol=1e-5)
    # one interval, and a norm of its own for all other times
    alone = gj.light_curve(posterior, "nebula", [[STARTS[2], STARTS[2] + 0.02]], best=best, progress=False)
    assert alone.norm[0] == pytest.approx(curve.norm[2], abs=0.1 * curve.norm_err[2])
    assert "LightCurve of nebula: 4 bins" in repr(curve) and len(curve.summary()) == 4
    assert faults(curve.plot(others={"again": again})) == []
    theirs = curve.to_gammapy()
    np.testing.assert_allclose(theirs.flux.quantity.to_value("cm-2 s-1").ravel(), curve.flux, rtol=1e-5)
    np.testing.assert_allclose(theirs.geom.axes["time"].time_min.tt.mjd, curve.time_min, atol=1e-6)


def test_blocks_find_the_flare(posterior, best):
    curve = gj.light_curve(posterior, "nebula", "blocks", best=best, progress=False)
    assert 3 <= curve.norm.size <= 8 and curve.norm.max() > 2.0 * curve.norm.min()
    peak = np.argmax(curve.norm)
    assert curve.time_min[peak] < DAY + 1.81 < curve.time_max[peak]


@pytest.mark.slow
def test_a_constant_source_is_constant_also_in_cells(runs):
    events = gj.simulate(jax.random.key(5), model({"flux": 1.0, "norm": 1.0}), runs)
    cells = gj.Posterior(model, PRIORS, runs, events.compress(runs, 40.0, 0.05), **OPTIONS)
    curve = gj.light_curve(cells, "nebula", progress=False)
    assert curve.constancy()[2] > 1e-4
    with pytest.raises(ValueError, match="cells have no times"):
        gj.light_curve(cells, "nebula", [DAY, DAY + 1.0, DAY + 2.0], progress=False)


@pytest.mark.slow
def test_what_cannot_be_done_is_refused_in_one_line(posterior, best, runs, flaring):
    def curve(component="nebula", edges="runs"):
        return gj.light_curve(posterior, component, edges, best=best, progress=False)

    calls = {
        "'sky' has no spectrum": lambda: curve("sky"),
        "edges must be 'runs', 'nights', 'blocks'": lambda: curve(edges="years"),
        "increasing edges": lambda: curve(edges=[DAY + 2.0, DAY]),
        "no good time in the bin": lambda: curve(edges=[DAY, DAY + 0.1, DAY + 3.0]),
        "a start before their stop": lambda: gj.SteppedTime([[2.0, 1.0]], [1.0, 1.0]),
        "as many norms and one": lambda: gj.SteppedTime([[1.0, 2.0]], [1.0]),
        "needs a start before each stop": lambda: gj.Observation(
            0.0, 0.0, 1.0, runs[0].response, energy_min=1.0, energy_max=2.0, offset_max=1.0, good_time=[[2.0, 1.0]]
        ),
        "has shape .2,.; give 4": lambda: gj.Posterior(
            lambda p: model(p, gj.PerObservation([1.0, 2.0])), PRIORS, runs, flaring, **OPTIONS
        ),
        "needs events with phase=": lambda: gj.Posterior(
            lambda p: model(p, gj.PhaseCurve([1.0, 2.0])), PRIORS, runs, flaring, **OPTIONS
        ),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
