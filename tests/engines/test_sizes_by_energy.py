"""Shapes whose size changes with energy, in all engines."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from gammajax.engines import FoldEngine, Rows
from gammajax.instrument.observation import Exclusion
from gammajax.instrument.sky import Grid

ENDS = (0.3, 10.0)
SPECTRUM = gj.PowerLaw(2.3, 1e-11)
PER_DECADE = 15.0


def power(shape, delta, **others):
    return gj.EnergyDependent(shape, ENDS, [e**-delta for e in ENDS], **others)


# (morphology, largest difference from the direct engine)
SOURCES = {
    "Gaussian": (power(gj.Gaussian(0.3, 0.2, 0.3), 0.4), 5e-3),
    "growing disk off axis": (power(gj.Disk(-0.7, 0.2, 0.4, 0.1), -0.4), 5e-3),
}
MOVING = power(gj.Gaussian(0.3, 0.2, 0.2), 0.2, shift_lon=[0.0, 0.3], shift_lat=[0.0, -0.1])
# not of the fold engine
FIXED = {"moving": (MOVING, 1e-2), "elongated": (power(gj.Gaussian(0.3, 0.2, 0.3, e=0.8, phi=40.0), 0.3), 5e-3)}


@pytest.fixture(scope="module")
def observation(make_observation):
    return make_observation(energy_min=1.0, energy_max=3.0)


def events(morphology):
    lon, lat = (np.asarray(x, float) for x in morphology.at(1.2).sample(jax.random.key(1), 24))
    return gj.Events(np.resize([1.1, 2.5], 24), lon, lat)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SOURCES, *FIXED])
def test_engines_agree_with_direct(name, observation):
    morphology, most = {**SOURCES, **FIXED}[name]
    source, some = gj.Source(SPECTRUM, morphology), events(morphology)
    options = {"per_decade": PER_DECADE, "bands": 64}
    direct = np.asarray(gj.intensity(source, observation, some, "direct", **options))
    counts = float(gj.expected_counts(source, observation, "direct", per_decade=PER_DECADE))
    for engine in ("kernel", "fold") if name in SOURCES else ("kernel",):
        off = np.asarray(gj.intensity(source, observation, some, engine, **options)) / direct - 1.0
        assert np.abs(off).max() < most and np.median(np.abs(off)) < 2e-3, engine
        found = float(gj.expected_counts(source, observation, engine, per_decade=PER_DECADE))
        assert found == pytest.approx(counts, rel=3e-3)


@pytest.mark.slow
def test_a_line_sees_one_size(observation):
    """Photons of one energy: the same as a constant shape of that size."""
    line = gj.Line(1.5, 1e-11)
    morphology = SOURCES["Gaussian"][0]
    some = events(morphology)
    values = []
    for shape in (morphology, morphology.at(1.5), morphology.at(2.0)):
        source = gj.Source(line, shape)
        intensity = gj.intensity(source, observation, some, "fold", per_decade=60.0)
        values.append((np.asarray(intensity), float(gj.expected_counts(source, observation, "fold", per_decade=60.0))))
    (found, counts), (expected, number), (other, _) = values
    seen = expected > 1e-3 * expected.max()
    np.testing.assert_allclose(found[seen], expected[seen], rtol=5e-3)
    assert counts == pytest.approx(number, rel=1e-3)
    assert np.abs(other[seen] / expected[seen] - 1.0).max() > 0.05


@pytest.mark.parametrize("name", FIXED)
def test_fold_refuses_what_moves_or_is_elongated(name, observation):
    morphology, _ = FIXED[name]
    with pytest.raises(ValueError, match="only if it is round and keeps its position; use engine='direct'"):
        gj.expected_counts(gj.Source(SPECTRUM, morphology), observation, "fold", per_decade=PER_DECADE)


@pytest.mark.slow
def test_excluded_sky_leaves_the_counts(make_observation):
    grid = Grid(0.3, 0.2, 0.05, 0.3)
    excluded = jnp.ones((grid.size, grid.size), bool)
    run = make_observation(energy_min=1.0, energy_max=3.0)
    run = eqx.tree_at(lambda o: o.exclusion, run, Exclusion(grid, excluded), is_leaf=lambda x: x is None)
    source = gj.Source(SPECTRUM, SOURCES["Gaussian"][0])
    counts = [float(gj.expected_counts(source, run, e, per_decade=PER_DECADE)) for e in ("direct", "kernel", "fold")]
    assert counts[1] == pytest.approx(counts[2], rel=1e-3)
    assert counts[1] == pytest.approx(counts[0], rel=2e-2)  # the direct engine smooths the rim of the hole


@pytest.mark.slow
def test_gradients_in_size_and_slope(make_observation):
    observation = make_observation(energy_min=1.0, energy_max=3.0, offset_max=0.9)
    rng = np.random.default_rng(1)
    some = gj.Events(rng.uniform(1.1, 2.9, 24), rng.uniform(0.1, 0.7, 24), rng.uniform(-0.1, 0.4, 24))

    def source(x):
        shape = gj.Gaussian(x[0], 0.2, x[1])
        return gj.Source(SPECTRUM, gj.EnergyDependent(shape, ENDS, [e ** -x[2] for e in ENDS]))

    place = np.array([0.4, 0.2, 0.3])
    with jax.enable_x64(True):
        rows = Rows.init(some, (observation,), 8.0, dtype=np.float64)
        ends = [source(place + np.array([0, d, e])) for d in (-0.05, 0.05) for e in (-0.2, 0.2)]
        engine = FoldEngine.init(source(place), (observation,), rows, ends)

        def function(x):
            mean = jnp.log(engine.intensity(source(x)))[rows.valid].mean()
            both = jnp.stack([mean, jnp.log(engine.expected_counts(source(x))[0])])
            return both, both

        compiled = jax.jit(jax.jacfwd(function, has_aux=True))
        found, step = np.asarray(compiled(jnp.asarray(place))[0]), 1e-6  # kinks of hat functions are close
        ends = [[compiled(jnp.asarray(place + sign * step * d))[1] for d in np.eye(3)] for sign in (1, -1)]
    numeric = (np.asarray(ends[0]) - np.asarray(ends[1])).T / (2.0 * step)
    assert np.all(np.abs(found - numeric) < 1e-4 * np.abs(numeric).max(1, keepdims=True)), (found, numeric)


@pytest.mark.slow
def test_the_truth_is_recovered(make_observation):
    """Size at 1 TeV and its slope from simulated events; their cells see the same."""
    run = make_observation(energy_min=1.0, energy_max=4.0, offset_max=1.2)

    def model(p):
        nebula = gj.EnergyDependent(gj.Gaussian(0.3, 0.2, p["sigma"]), ENDS, [e ** -p["delta"] for e in ENDS])
        return gj.Mixture(source=gj.Source(gj.PowerLaw(2.3, 3e-11), nebula), sky=gj.InstrumentBackground())

    truth = {"sigma": 0.25, "delta": 0.4}
    priors = {"sigma": dist.Uniform(0.15, 0.35), "delta": dist.Uniform(-0.2, 0.8)}
    made = gj.simulate(jax.random.key(3), model(truth), run)
    posterior = gj.Posterior(model, priors, run, made, per_decade=PER_DECADE, progress=False)
    best = gj.fit(posterior, progress=False)
    for name, value in truth.items():
        assert abs(float(best.parameters[name]) - value) < 3.5 * float(best.standard_deviations[name]), name
    assert float(best.standard_deviations["delta"]) < 0.1  # a constant size is excluded
    cells = made.compress(run, energy_per_decade=20, pixel=0.08)
    merged = gj.Posterior(model, priors, run, cells, per_decade=PER_DECADE, progress=False)
    other = {**best.parameters, "delta": best.parameters["delta"] - 0.2}

    @eqx.filter_jit
    def fall(data):
        return data.log_likelihood(best.parameters) - data.log_likelihood(other)

    falls = [float(fall(posterior)), float(fall(merged))]
    assert falls[0] > 5.0 and falls[1] == pytest.approx(falls[0], rel=0.1)
