"""Goodness of fits of ON and OFF events: planted faults are found, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from on_off import HIGH, LOW, model, run
from scipy.stats import truncnorm

import gammajax as gj
from gammajax.products.region_replicates import Streams

RATIO, REPLICAS = 0.2, 60
SPECTRAL = {"amplitude": dist.Uniform(0.0, 50.0), "index": dist.Uniform(0.0, 5.0)}
TRUTH = {"amplitude": 2.0, "index": 2.4, "b": jnp.asarray(6.3 - 3.0 * np.linspace(-1.0, 1.0, 6))}


def checked(runs, prior=None, **options):
    data = gj.OnOff(runs)
    priors = {**SPECTRAL, "b": data.background_prior(6) if prior is None else prior}
    posterior = gj.Posterior(model, priors, data, progress=False)
    best = gj.fit(posterior, progress=False)
    return gj.check(posterior, best, replicas=REPLICAS, progress=False, **options)


@pytest.fixture(scope="module")
def runs():
    return gj.simulate_on_off(jax.random.key(0), model(TRUTH), [run([], [], RATIO, obs_id=str(i)) for i in range(3)])


@pytest.fixture(scope="module")
def good(runs):
    return checked(runs)


def test_no_fault(runs, good):
    assert good.p_value > 0.02 and good.worst_p_value > 0.02, str(good)
    assert [one.name for one in good.quantities] == [
        "energy of ON events",
        "ON events of run",
        "energy of OFF events",
        "OFF events of run",
    ]
    for name, of in (("ON", "on"), ("OFF", "off")):
        number = sum(getattr(one, of).size for one in runs)
        for quantity in (f"energy of {name} events", f"{name} events of run"):
            assert good[quantity].count.sum() == number  # all events are in a bin
            assert good[quantity].expected.sum() == pytest.approx(number, rel=0.05)  # fluxes are free
    assert good.maps == ()
    assert good.plot() is not None


def test_a_background_that_is_not_as_smooth_as_its_prior(runs):
    """OFF events with a threshold; the prior of the second differences is too narrow, or the one they ask for."""
    random = np.random.default_rng(1)

    def bump(number):
        ends = (np.log([LOW, HIGH]) - np.log(1.2)) / 0.25
        return np.exp(truncnorm.rvs(*ends, np.log(1.2), 0.25, size=number, random_state=random))

    streams = [[np.concatenate([a, b]) for a, b in ((one.on, bump(150)), (one.off, bump(750)))] for one in runs]
    ragged = [run(*both, RATIO, obs_id=str(i)) for i, both in enumerate(streams)]
    found = checked(ragged, gj.OnOff(ragged).background_prior(6, 0.3))
    assert found.p_value < 1e-3, str(found)
    assert found["energy of OFF events"].p_value < 1e-3, str(found.table)
    assert checked(ragged, gj.OnOff(ragged).background_prior()).p_value > 0.01


@pytest.mark.parametrize("stream", ["on", "off"])
def test_a_broken_run(runs, stream):
    """Half of the events of one stream of one run are lost."""
    kept = slice(None, None, 2)
    streams = {name: getattr(runs[1], name)[kept if name == stream else slice(None)] for name in ("on", "off")}
    found = checked([runs[0], run(**streams, ratio=RATIO, obs_id="1"), runs[2]])
    assert found.p_value < 1e-2, str(found)
    assert found[f"{stream.upper()} events of run"].p_value < 1e-2, str(found.table)


@pytest.mark.slow
def test_both_kinds_of_data(runs):
    """Events and regions in one posterior: tests of each by name, and a map of the first alone."""
    observation = gj.io.ctao(pointing=(0.0, 0.0), livetime=600.0, energy_range=(1.0, 5.0), offset_max=1.0)

    def both(p):
        inside = model(p).components
        seen = gj.Source(inside["source"].spectrum, gj.Point(0.3, 0.0))
        return gj.Mixture(**inside, seen=seen, sky=gj.InstrumentBackground())

    events = gj.simulate(jax.random.key(1), both(TRUTH).only(["seen", "sky"]), observation)
    data = [
        gj.Unbinned(observation, events, components=["seen", "sky"], name="CTAO"),
        gj.OnOff(runs, components=["source", "background"], name="regions"),
    ]
    posterior = gj.Posterior(both, {**SPECTRAL, "b": data[1].background_prior(6)}, data, progress=False)
    found = gj.check(posterior, gj.fit(posterior, progress=False), replicas=50, progress=False)
    names = {one.name for one in found.quantities}
    assert {"CTAO: energy", "regions: energy of ON events", "regions: OFF events of run"} <= names
    assert len(found.maps) == 1 and found.p_value > 0.02


def test_streams_come_back_in_their_order(runs):
    """Rows of any order are those of the term that is made of them."""
    events = Streams.of(list(runs))
    shuffled = Streams(*(column[np.random.default_rng(0).permutation(column.size)] for column in events))
    made, order = shuffled.runs(list(runs))
    again = Streams.of(made)
    for before, after in zip(shuffled, again, strict=True):
        np.testing.assert_array_equal(before[order], after)


def test_no_runs_are_simulated_as_none():
    assert gj.simulate_on_off(jax.random.key(0), model(TRUTH), []) == []


def test_nothing_to_check(runs):
    def source(p):
        return gj.Mixture(source=model({**p, "b": TRUTH["b"]}).components["source"])

    counts = gj.OnOffCounts(runs, np.geomspace(LOW, HIGH, 7), name="cells")
    posterior = gj.Posterior(source, SPECTRAL, counts, progress=False)
    best = gj.fit(posterior, progress=False)
    with pytest.raises(ValueError, match="ON and OFF events; there are none among"):
        gj.check(posterior, best)
