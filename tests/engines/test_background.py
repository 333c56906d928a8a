"""Corrections of the instrument's background: counts, intensities, simulated events, cells and predictions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import chi2

import gammajax as gj
from gammajax.engines import BackgroundEngine, Rows
from gammajax.engines import background as engines_background
from gammajax.instrument.sky import displace
from gammajax.io.exclusion import exclusion_map
from gammajax.results.prediction import predict

ENERGIES, OFFSETS = (1.0, 1.4, 2.0, 3.0), (0.0, 0.7, 1.4, 2.0)
RANDOM = np.random.default_rng(3)
ROWS = {
    "energy": {"energy": (RANDOM.normal(0.0, 0.3, (2, 4)), 4), "energy_nodes": ENERGIES},
    "offset": {"offset": (RANDOM.normal(0.0, 0.3, (2, 4)), 4), "offset_nodes": OFFSETS},
    "gradients": {"gradients": (RANDOM.normal(0.0, 0.2, (2, 2, 2)), 0)},
}
ROWS["all"] = {**ROWS["energy"], **ROWS["offset"], **ROWS["gradients"]}
CASES = [(kind, per_run) for kind in ROWS for per_run in (False, True)]


def correction(kind, per_run, scale=1.0):
    """A correction of one kind, shared or one for each of two runs."""
    parts = {
        name: value if name.endswith("nodes") else scale * (value[0] if per_run else value[0][0])
        for name, value in ROWS[kind].items()
    }
    return gj.BackgroundCorrection(**parts)


@pytest.fixture(scope="module")
def runs(make_observation):
    """Two runs; the second has another energy range, a turned field of view and excluded sky."""
    excluded = exclusion_map("galactic; circle(1.0, 0.3, 0.5)", 0.5, 0.0, "galactic", 2.0)
    return [
        make_observation(energy_min=1.0, energy_max=3.0),
        make_observation(lon=0.5, livetime=20000.0, energy_min=1.2, energy_max=3.0, fov_angle=30.0, exclusion=excluded),
    ]


def panels(edges, points):
    node, weight = np.polynomial.legendre.leggauss(points)
    half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
    return (middle + half * node).ravel(), (half * weight).ravel()


def quadrature(observation):
    """Energies, directions and weights of an integral over the selection, in polar coordinates about the pointing."""
    table = np.exp(np.asarray(observation.response.background.log_rate.axes[0].nodes))
    inner = [e for e in (*ENERGIES, *table, 1.7, 2.4) if observation.energy_min < e < observation.energy_max]
    log_energy, step = panels(np.log(np.sort([observation.energy_min, observation.energy_max, *inner])), 3)
    offset, width = panels(np.unique([*OFFSETS, 0.35, 1.0, 1.7]), 3)
    angle = 360.0 / 24 * (np.arange(24) + 0.5)
    o, a = (part.ravel() for part in np.meshgrid(offset, angle, indexing="ij"))
    solid_angle = np.repeat(np.sin(np.radians(offset)) * np.radians(width) * 2.0 * np.pi / 24, 24)
    sky = [*map(np.asarray, displace(float(observation.lon), float(observation.lat), o, a)), solid_angle]
    if observation.exclusion is not None:  # less its pixels, all of which are within the field
        grid = observation.exclusion.grid
        lon, lat = (np.asarray(part)[np.asarray(observation.exclusion.excluded)] for part in grid.directions())
        sky = [np.concatenate(pair) for pair in zip(sky, (lon, lat, np.full(lon.size, -grid.solid_angle)), strict=True)]
    lon, lat, solid_angle = sky
    energy, weight = np.exp(log_energy), step * np.exp(log_energy)
    size = lon.size
    weights = np.outer(weight, solid_angle).ravel()
    return np.repeat(energy, size), np.tile(lon, energy.size), np.tile(lat, energy.size), weights


@pytest.fixture(scope="module")
def grids(runs):
    """Quadrature of each run, and its uncorrected rates."""
    found = []
    for run in runs:
        energy, lon, lat, weight = quadrature(run)
        rate = eqx.filter_jit(lambda o, *at: o.background(*at))(run, *map(jnp.asarray, (energy, lon, lat)))
        field = run.fov_coordinates(jnp.asarray(lon), jnp.asarray(lat))
        found.append((energy, *map(np.asarray, field), np.asarray(rate, np.float64) * weight))
    return found


@eqx.filter_jit
def corrected(background, energy, lon, lat):
    return background.corrected(energy, lon, lat)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "per_run"), CASES)
def test_counts_are_the_integral_of_the_intensity(kind, per_run, runs, grids, events):
    background = gj.InstrumentBackground(norm=[1.3, 0.8], tilt=0.4, correction=correction(kind, per_run))
    some = events[(events.observation == 0) | (np.hypot(events.lon - 1.0, events.lat - 0.3) > 0.55)]
    some = some[(some.observation == 0) | (some.energy > 1.2)]
    rows = Rows.init(some, runs, 15.0)
    engine = BackgroundEngine.init(background, runs, rows)
    expected = []
    for number, (energy, lon, lat, rate) in enumerate(grids):
        mine = background.select(number)
        factor = np.asarray(
            eqx.filter_jit(lambda b, *at: b.corrected(*at))(mine, *map(jnp.asarray, (energy, lon, lat)))
        )
        expected.append(rate @ factor.astype(np.float64))
    np.testing.assert_allclose(engine.expected_counts(background), expected, rtol=3e-5)
    # and the intensities of events are rates times the same factor
    intensity = np.asarray(engine.intensity(background))
    for row in np.flatnonzero(rows.valid)[::7]:
        event = rows.index[row]
        number, at = some.observation[event], [some.energy[event], some.lon[event], some.lat[event]]
        run, energy = runs[number], jnp.asarray(some.energy[event])
        field = run.fov_coordinates(*map(jnp.asarray, at[1:]))
        value = run.background(*map(jnp.asarray, at)) * background.select(number).corrected(energy, *field)
        assert intensity[row] == pytest.approx(float(value), rel=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "per_run"), CASES)
def test_zeros_change_nothing_and_gradients_are_differences(kind, per_run, runs, events):
    rows = Rows.init(events[events.observation == 0], runs, 15.0)
    none, some = (gj.InstrumentBackground(1.2, 0.3, correction=c) for c in (None, correction(kind, per_run, 0.0)))
    plain, zero = (BackgroundEngine.init(b, runs, rows)(b) for b in (none, some))
    np.testing.assert_array_equal(plain.intensity, zero.intensity)
    # energies of the quadrature are others: panels end at the nodes
    np.testing.assert_allclose(plain.counts.sum(1), zero.counts.sum(1), rtol=3e-6)
    engine = BackgroundEngine.init(some, runs, rows)
    np.testing.assert_array_equal(
        engine(gj.InstrumentBackground(1.2, 0.3, correction=correction(kind, per_run, 0.0))).counts, zero.counts
    )

    def value(scale):
        source = gj.InstrumentBackground(correction=correction(kind, per_run, scale))
        return jnp.log(engine.intensity(source)).mean() + jnp.log(engine.expected_counts(source)).sum()

    slope = (value(1.01) - value(0.99)) / 0.02
    assert float(jax.grad(value)(1.0)) == pytest.approx(float(slope), abs=2e-4)


def model(p):
    """A background with one vector of numbers."""
    shape = gj.BackgroundCorrection.of(p["shape"], ENERGIES, OFFSETS, 1)
    return gj.Mixture(background=gj.InstrumentBackground(norm=p["norm"], correction=shape))


PRIORS = {
    "norm": dist.LogNormal(0.0, 0.2),
    "shape": gj.correction_prior(ENERGIES, OFFSETS, 1, energy_scale=0.3, offset_scale=0.3, gradient=0.2),
}


@pytest.fixture(scope="module")
def simulated(runs):
    """Numbers from the prior, about twenty thousand events of them in the two runs, and the fit."""
    truth = {"norm": jnp.asarray(1.1), "shape": PRIORS["shape"].sample(jax.random.key(5))}
    longer = [eqx.tree_at(lambda o: o.livetime, run, run.livetime * 4000.0) for run in runs]
    events = gj.simulate(jax.random.key(6), model(truth), longer)
    posterior = gj.Posterior(model, PRIORS, longer, events, progress=False)
    return truth, longer, events, posterior, gj.fit(posterior, progress=False)


@pytest.mark.slow
def test_a_simulated_correction_is_recovered(simulated):
    truth, _, events, posterior, fit = simulated
    assert len(events) > 10_000 and fit.converged
    expected = float(posterior.expected_counts(truth)["background"].sum())
    assert abs(len(events) - expected) < 4.0 * np.sqrt(expected)
    off = np.asarray(fit.parameters["shape"] - truth["shape"], np.float64)
    prior = fit.prior("shape")
    # the truth comes from the prior: chi2 of as many numbers
    assert 0.001 < chi2.cdf(off @ np.asarray(prior.precision_matrix, np.float64) @ off, off.size) < 0.999
    # the fit knows more than its prior
    assert np.asarray(fit.standard_deviations["shape"])[1:4].max() < 0.1


def test_the_posterior_of_a_fit_is_the_next_prior(simulated):
    _, _, _, _, fit = simulated
    place = [i for i, name in enumerate(fit.names) if name.startswith("shape")]
    np.testing.assert_allclose(
        np.sqrt(np.diag(fit.prior("shape").covariance_matrix)), np.sqrt(np.diag(fit.covariance)[place]), rtol=1e-3
    )
    assert float(fit.prior("norm").scale) == pytest.approx(float(fit.standard_deviations["norm"]))
    with pytest.raises(ValueError, match="the fit has no parameter 'form'; it has norm, shape"):
        fit.prior("form")
    with pytest.raises(ValueError, match="has not converged"):
        eqx.tree_at(lambda f: f.converged, fit, False).prior("shape")


@pytest.mark.slow
def test_cells_give_the_same_fit(simulated):
    truth, runs, events, posterior, fit = simulated
    cells = events.compress(runs)
    merged = gj.Posterior(model, PRIORS, runs, cells, progress=False)
    ratios = []
    for one in (posterior, merged):
        at = one.with_reference(fit.parameters)
        ratios.append([float(at.log_likelihood_ratio({**fit.parameters, "shape": fit.parameters["shape"] + step}))
                       for step in 0.05 * np.eye(10)])  # fmt: skip
    # cells lose information, and have the mean of the logarithm of the correction
    np.testing.assert_allclose(*ratios, atol=0.6)
    assert np.abs(ratios).max() > 5.0


@pytest.mark.slow
def test_predictions_follow_the_correction(simulated):
    truth, runs, _, posterior, _ = simulated
    changed = truth["shape"].at[:4].add(jnp.array([0.3, 0.0, -0.3, 0.2])).at[8].add(0.3)
    samples = {"norm": jnp.full(2, truth["norm"]), "shape": jnp.stack([truth["shape"], changed])}
    edges = np.array(ENERGIES)  # panels of the engine end there
    found = predict(jax.random.key(0), posterior, samples, edges, events=100_000)
    points = [{name: draws[i] for name, draws in samples.items()} for i in (0, 1)]
    totals = [float(posterior.expected_counts(point)["background"].sum()) for point in points]
    np.testing.assert_allclose(found.counts.sum((1, 2)), totals, rtol=3e-3)
    engine = posterior.engines["background"]
    for draw in (0, 1):
        source = model(points[draw]).components["background"]
        by_energy = np.asarray(engine.counted(source), np.float64)
        energy = np.asarray(engine.counted.energy)
        expected = np.histogram(energy.ravel(), edges, weights=by_energy.ravel())[0]
        np.testing.assert_allclose(found.counts[draw, 0], expected, rtol=1.5e-2)


def test_one_program_serves_any_number_of_runs(make_observation):
    """Set-up and call: nothing is compiled for a run."""
    background = gj.InstrumentBackground(correction=correction("all", False))

    def compiled(count):
        runs = [make_observation(lon=0.1 * i, energy_min=1.0, energy_max=3.0) for i in range(count)]
        number = np.repeat(np.arange(count), 8)
        events = gj.Events(np.full(8 * count, 1.5), 0.1 * number, np.zeros(8 * count), number)
        BackgroundEngine.init(background, runs, Rows.init(events, runs, 15.0))
        functions = engines_background._rates, engines_background._place_shares, engines_background._basis
        return [function._cached._cache_size() for function in functions]

    assert compiled(2) == compiled(5)


def test_errors(runs, events):
    rows = Rows.init(events[events.observation == 0], runs, 15.0)

    def ready(**parts):
        return BackgroundEngine.init(gj.InstrumentBackground(correction=gj.BackgroundCorrection(**parts)), runs, rows)

    with pytest.raises(ValueError, match="node at 40 TeV .* outside the tables .* go from 0.3 to 10 TeV"):
        ready(energy=np.zeros(3), energy_nodes=(1.0, 2.0, 40.0))
    with pytest.raises(ValueError, match="node at 7 deg .* go from 0 to 5 deg"):
        ready(offset=np.zeros(3), offset_nodes=(0.0, 2.0, 7.0))
    with pytest.raises(ValueError, match="for 3 observations; there are 2"):
        ready(energy=np.zeros((3, 3)), energy_nodes=(1.0, 2.0, 3.0))
    engine = BackgroundEngine.init(gj.InstrumentBackground(), runs, rows)
    with pytest.raises(ValueError, match="a correction after its engine was set up"):
        engine.intensity(gj.InstrumentBackground(correction=correction("energy", False)))
