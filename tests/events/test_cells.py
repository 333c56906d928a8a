import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gammajax as gj
from benchmarks.fold import by_event
from gammajax.engines import Rows
from gammajax.instrument.observation import Exclusion
from gammajax.instrument.sky import DEGREE, Grid

CENTRE = (0.2, 0.1)


def exclusion():
    """A disk of 0.3 deg about (0.9, 0.0)."""
    grid = Grid(0.9, 0.0, 0.02, 0.5)
    x = grid.coordinates
    return Exclusion(grid, jnp.hypot(x[None, :], x[:, None]) < 0.3)


@pytest.fixture(scope="module")
def observations(make_observation):
    return [
        make_observation(obs_id="first"),
        make_observation(lon=0.5, energy_min=0.7, offset_max=1.2, obs_id="second", exclusion=exclusion()),
    ]


def random_events(size, observations, seed=0):
    """Uniform over the selections."""
    random = np.random.default_rng(seed)
    columns = []
    for number, o in enumerate(observations):
        u, turn = random.uniform(size=size), random.uniform(size=size)
        rad = float(o.offset_max) * np.sqrt(u)
        lon, lat = gj.instrument.sky.displace(float(o.lon), float(o.lat), rad, 360.0 * turn)
        energy = np.exp(random.uniform(np.log(o.energy_min), np.log(o.energy_max), size))
        keep = np.asarray(o.selected(lon, lat))
        columns.append([np.asarray(c, float)[keep] for c in (energy, lon, lat, np.full(size, number))])
    energy, lon, lat, number = np.concatenate(columns, axis=1)
    return gj.Events(energy, lon, lat, number.astype(int))


@pytest.mark.slow
@settings(max_examples=5, deadline=None, derandomize=True)
@given(per_decade=st.floats(5, 40), pixel=st.floats(0.05, 0.6), seed=st.integers(0, 9))
def test_every_event_is_counted_in_the_cell_that_holds_it(observations, per_decade, pixel, seed):
    events = random_events(500, observations, seed)
    binning = gj.Binning.init(observations, per_decade, pixel)
    cells = binning(events)
    assert cells.total == len(events) == events.total and len(cells) <= len(events)
    # one by one: points of its cell are about the event
    for i in range(0, len(events), 197):
        cell = binning(events[[i]])
        assert binning.locate(events[[i]])[0] == cell.cell[0]
        energy, lon, lat, weight = cell.points().pairs()
        assert weight.sum() == pytest.approx(1.0) and cell.count.tolist() == [1]
        assert cell.observation[0] == events.observation[i]
        width = np.log(binning.edges[1:] / binning.edges[:-1]).max()
        assert np.abs(np.log(energy / events.energy[i])).max() < width
        away = gj.instrument.sky.separation(lon, lat, events.lon[i], events.lat[i])
        assert float(away.max()) < 2.0 * pixel


def test_counts_add_up_and_do_not_depend_on_order(observations):
    events = random_events(400, observations)
    binning = gj.Binning.init(observations, 10.0, 0.3)
    whole = binning(events)
    shuffled = binning(events[np.random.default_rng(1).permutation(len(events))])
    summed = binning(events[:300]) + binning(events[300:])
    for other in (shuffled, summed, events.compress(observations, 10.0, 0.3)):
        for column in ("observation", "cell", "count"):
            np.testing.assert_array_equal(getattr(whole, column), getattr(other, column))
    with pytest.raises(ValueError, match="same binning"):
        whole + events.compress(observations, 10.0, 0.03)


def test_no_cell_crosses_a_selection(observations):
    binning = gj.Binning.init(observations, 7.0, 0.37)
    for o, rings in zip(observations, binning.rings, strict=True):
        assert {o.energy_min, o.energy_max} <= set(binning.edges)
        inside = (binning.edges[:-1] >= o.energy_min) & (binning.edges[1:] <= o.energy_max)
        np.testing.assert_array_equal(rings > 0, inside)


def everywhere(observation, per_decade, pixel):
    """All cells of an observation, with one event in each, and their volumes [TeV sr]."""
    binning = gj.Binning.init(observation, per_decade, pixel)
    table = binning._table(0)
    total = int(table.first[-1] + table.within[table.rings[-1]])
    cells = gj.Cells(binning, np.zeros(total, np.int32), np.arange(total, dtype=np.int32), np.ones(total, int))
    rings, within = binning.rings[0], np.asarray(table.within)
    volume = []
    for low, high, n in zip(binning.edges[:-1], binning.edges[1:], rings, strict=True):
        edges = np.cos(DEGREE * np.linspace(0.0, observation.offset_max, n + 1))
        in_ring = np.diff(within[: n + 1])
        volume.append(np.repeat((high - low) * 2.0 * np.pi * -np.diff(edges) / in_ring, in_ring))
    return cells, np.concatenate(volume)


SOURCES = {
    "gaussian": lambda: gj.Source(gj.PowerLaw(2.5, 1e-11), gj.Gaussian(*CENTRE, 0.2)),
    "background": lambda: gj.InstrumentBackground(norm=1.2, tilt=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_cells_add_up_to_the_expected_counts(make_observation, name):
    """Means over all cells times their volumes are the integral over the selection."""
    observation, source = make_observation(energy_min=0.8, energy_max=5.0, offset_max=1.0), SOURCES[name]()
    cells, volume = everywhere(observation, 15.0, 0.1)
    assert volume.sum() == pytest.approx((5.0 - 0.8) * 2.0 * np.pi * (1.0 - np.cos(DEGREE)), rel=1e-12)
    rows = Rows.init(cells, [observation], per_decade=20.0)
    init = gj.engines.BackgroundEngine.init if name == "background" else gj.engines.KernelEngine.init
    engine = init(source, [observation], rows)
    total = (by_event(rows, engine.intensity(source)) * volume).sum()
    assert total == pytest.approx(float(engine.expected_counts(source).sum()), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kernel", "fold", "direct"])
def test_engines_average_over_cells(make_observation, name):
    """Against the intensity of single events at random places in a cell."""
    observation, source = make_observation(energy_min=0.8, energy_max=5.0, offset_max=1.0), SOURCES["gaussian"]()
    binning = gj.Binning.init(observation, 8.0, 0.15)
    where = gj.Events([1.5], [CENTRE[0] + 0.2], [CENTRE[1]])
    random = np.random.default_rng(2)
    lon, lat = (at + random.uniform(-0.2, 0.2, 20_000) for at in (CENTRE[0] + 0.2, CENTRE[1]))
    events = gj.Events(1.5 * np.exp(random.uniform(-0.3, 0.3, 20_000)), lon, lat)
    chosen = np.flatnonzero(binning.locate(events) == binning.locate(where)[0])[:150]
    assert chosen.size > 100
    single = gj.intensity(source, observation, events[chosen], engine=name, per_decade=20.0)
    # events are uniform in ln E', the mean is over E'
    weight = events.energy[chosen]
    expected = np.average(np.asarray(single), weights=weight)
    error = np.std(np.asarray(single) * weight / weight.mean()) / np.sqrt(chosen.size)
    rows = Rows.init(binning(where), [observation], per_decade=20.0)
    engine = gj.engines.ENGINES[name].init(source, [observation], rows)
    assert by_event(rows, engine.intensity(source))[0] == pytest.approx(expected, abs=4.0 * error)


def model(p):
    return gj.Mixture(
        source=gj.Source(gj.PowerLaw(p["index"], 1e-11), gj.Gaussian(*CENTRE, 0.2)),
        background=gj.InstrumentBackground(),
        weights={"source": p["fraction"]},
    )


PRIORS = {"index": dist.Uniform(1.5, 3.5), "fraction": dist.Uniform(0.0, 1.0)}
TRUTH = {"index": jnp.asarray(2.5), "fraction": jnp.asarray(0.4)}


@pytest.fixture(scope="module")
def options(observations):
    """The folded response for several posteriors."""
    morphology = model(TRUTH).components["source"].morphology
    return {"engine": gj.engines.PreparedKernel.init(morphology, observations, 20.0), "per_decade": 20.0}


@pytest.fixture(scope="module")
def loss(observations, options):
    events = gj.simulate(jax.random.key(1), model(TRUTH), observations, events=20_000)
    return events, gj.compression_loss(model, PRIORS, observations, events, TRUTH, subsample=3000, **options)


@pytest.mark.slow
def test_little_is_lost(loss):
    _, found = loss
    assert found.names == ("fraction", "index") and found.events == 3000 and 1000 < found.cells < 3000
    assert 0.0 < found.lost < 0.05 and np.all(found.errors < 1.03) and np.all(found.errors > 0.99)
    np.testing.assert_allclose(found.log_likelihood_ratio, found.log_likelihood_ratio_compressed, atol=0.25)
    np.testing.assert_allclose(np.diag(found.information_compressed / found.information), 1.0, atol=0.05)


@pytest.mark.slow
def test_wide_cells_leave_estimates_without_bias(observations, loss, options):
    """Cells of the largest width: estimates from single events and from cells agree within the lost information."""
    events, _ = loss
    cells = events.compress(observations, 5.0, 0.4)
    assert len(cells) < 0.6 * len(events)
    fits = [gj.fit(gj.Posterior(model, PRIORS, observations, data, **options)) for data in (events, cells)]
    for name in PRIORS:
        shift = float(fits[1].parameters[name] - fits[0].parameters[name])
        deviation = float(fits[0].standard_deviations[name])
        assert abs(shift) < 0.5 * deviation
        assert float(fits[1].standard_deviations[name]) == pytest.approx(deviation, rel=0.15)


@pytest.mark.slow
def test_wide_cells_leave_the_tilt_of_the_background_without_bias(observations):
    def tilted(p):
        return gj.Mixture(background=gj.InstrumentBackground(norm=p["norm"], tilt=p["tilt"]))

    events = gj.simulate(jax.random.key(3), model({**TRUTH, "fraction": jnp.zeros(())}), observations, events=10_000)
    priors = {"norm": dist.LogUniform(1e-3, 1e3), "tilt": dist.Normal(0.0, 1.0)}
    both = [events, events.compress(observations, 5.0, 0.4)]
    single, merged = (gj.fit(gj.Posterior(tilted, priors, observations, data, per_decade=20.0)) for data in both)
    deviation = float(single.standard_deviations["tilt"])
    assert abs(float(merged.parameters["tilt"] - single.parameters["tilt"])) < 0.5 * deviation
    assert float(merged.standard_deviations["tilt"]) == pytest.approx(deviation, rel=0.1)


@pytest.mark.slow
def test_parameters_that_events_cannot_tell_apart_are_refused(observations, loss, options):
    def both(p):
        return model({"index": p["index"], "fraction": p["one"] * p["other"]})

    priors = {name: dist.Uniform(0.0, 1.0) for name in ("one", "other")} | {"index": PRIORS["index"]}
    for factor in (1.0, 1.02, 1.05):
        truth = {"one": 0.5 * factor, "other": 0.8 * factor, "index": 2.5 * factor}
        with pytest.raises(ValueError, match="^the events cannot tell one from other at the parameters$"):
            gj.compression_loss(both, priors, observations, loss[0], truth, subsample=3000, **options)


def test_a_posterior_of_cells_knows_its_events(observations, loss, options):
    events, _ = loss
    cells = events.compress(observations, 5.0, 0.4)
    posterior = gj.Posterior(model, PRIORS, observations, cells, **options)
    counts = posterior.counts(TRUTH)
    assert sum(float(c.sum()) for c in counts.values()) == pytest.approx(events.total, rel=1e-5)
    again = posterior.events
    assert gj.common.parameters.is_same(again.binning, cells.binning) and (again + cells).total == 2 * events.total
    shares = posterior.fractions(TRUTH)
    assert float(shares["source"]) == pytest.approx(0.4, rel=1e-5)
    # the reference is the sum of count times log of density
    density = np.asarray(posterior.density(posterior.reference_parameters), float)
    count = np.asarray(posterior.count)
    assert posterior.log_reference_exact() == pytest.approx(
        (count[count > 0] * np.log(density[count > 0])).sum(), rel=1e-5
    )


@pytest.mark.slow
def test_simulated_cells_are_those_of_simulated_events(observations):
    binning = gj.Binning.init(observations, 5.0, 0.4)
    found = gj.simulate_cells(
        jax.random.key(3), model(TRUTH), observations, binning, events=3000, at_once=1500, progress=False
    )
    parts = [
        gj.simulate(jax.random.fold_in(jax.random.key(3), i), model(TRUTH), observations, events=1500) for i in (0, 1)
    ]
    np.testing.assert_array_equal(found.count, (binning(parts[0]) + binning(parts[1])).count)
    with pytest.raises(ValueError, match="at least one"):
        gj.simulate_cells(jax.random.key(3), model(TRUTH), observations, binning, events=0, progress=False)


@pytest.mark.slow
def test_bad_input(observations, loss):
    events, _ = loss
    for options in ({"pixel": 0.0}, {"energy_per_decade": -1.0}):
        with pytest.raises(ValueError, match="must be positive"):
            events.compress(observations, **options)
    cells = events.compress(observations, 5.0, 0.4)
    with pytest.raises(ValueError, match="other observations"):
        gj.Posterior(model, PRIORS, observations[::-1], cells)
    one = dataclasses.replace(
        events, energy=np.ones(len(events)), lon=np.full(len(events), 0.9), lat=np.zeros(len(events))
    )
    with pytest.raises(ValueError, match="at 0.9000, 0.0000 deg is in the excluded sky of observation second"):
        gj.Binning.init(observations)(one)
    with pytest.raises(ValueError, match="outside the energy range"):
        gj.Binning.init(observations)(dataclasses.replace(events, energy=events.energy * 100.0))
