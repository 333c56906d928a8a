"""Flux points, against closed forms, single fits by hand, and gammapy's files."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from figures import faults
from matplotlib.figure import Figure
from scipy.stats import chi2

import gammajax as gj

OPTIONS = {"per_decade": 20.0, "progress": False}
EDGES = [0.5, 0.9, 1.6, 2.8, 8.0]
TRUTH = {"index": 2.3, "flux": 1.5, "norm": 1.0}
PRIORS = {"index": dist.Uniform(1.0, 4.0), "flux": dist.Uniform(0.0, 10.0), "norm": dist.Uniform(0.5, 2.0)}


def model(p):
    spectrum = gj.PowerLaw(p["index"], 1e-11 * p["flux"])
    sources = gj.Mixture(nebula=gj.Source(spectrum, gj.Point(0.3, 0.1)))
    return gj.Mixture(sources=sources, sky=gj.InstrumentBackground(norm=60.0 * p["norm"]))


@pytest.fixture(scope="module")
def events(observation):
    return gj.simulate(jax.random.key(1), model(TRUTH), observation)


@pytest.fixture(scope="module")
def posterior(observation, events):
    return gj.Posterior(model, PRIORS, observation, events, **OPTIONS)


@pytest.fixture(scope="module")
def best(posterior):
    return gj.fit(posterior, progress=False)


@pytest.fixture(scope="module")
def points(posterior, best):
    return gj.flux_points(posterior, "sources/nebula", EDGES, best=best, progress=False)


@pytest.fixture(scope="module")
def by_hand(best, observation, events):
    """The same model, written without `flux_points`."""
    index, flux = (float(best.parameters[name]) for name in ("index", "flux"))

    def stepped(p):
        norms = jnp.stack([p["a"], p["a"], p["b"], p["c"], p["d"], p["d"]])
        spectrum = gj.SteppedSpectrum(gj.PowerLaw(index, 1e-11 * flux), EDGES, norms)
        source = gj.Source(spectrum, gj.Point(0.3, 0.1))
        return gj.Mixture(nebula=source, sky=gj.InstrumentBackground(norm=60.0 * p["norm"]))

    priors = {**dict.fromkeys("abcd", dist.Uniform(0.0, 10.0)), "norm": PRIORS["norm"]}
    return gj.Posterior(stepped, priors, observation, events, **OPTIONS)


@pytest.mark.slow
def test_norms_of_a_power_law_are_one(points):
    away = points.norm - 1.0
    assert away @ np.linalg.solve(points.covariance, away) < chi2.ppf(0.999, away.size)
    assert np.all(points.norm_err > 0.02) and np.all(points.norm_err < 0.3)
    assert points.messages == ()
    # the resolution is a tenth of the energy
    assert np.all(np.diag(points.correlation, 1) < -0.02)
    np.testing.assert_allclose(points.energy_ref, np.sqrt(np.multiply(EDGES[1:], EDGES[:-1])))


def test_reference_is_the_best_power_law(points, best, posterior):
    number = float(posterior.expected_counts(best.parameters)["sources/nebula"].sum())
    assert points.npred.sum() == pytest.approx(number, rel=0.02)
    index, flux = (float(best.parameters[name]) for name in ("index", "flux"))
    low, high = np.array(EDGES[:-1]), np.array(EDGES[1:])
    np.testing.assert_allclose(points.dnde_ref, 1e-11 * flux * points.energy_ref**-index, rtol=1e-5)
    np.testing.assert_allclose(
        points.flux_ref, 1e-11 * flux * (low ** (1 - index) - high ** (1 - index)) / (index - 1), rtol=1e-5
    )
    np.testing.assert_allclose(
        points.eflux_ref, 1e-11 * flux * (low ** (2 - index) - high ** (2 - index)) / (index - 2), rtol=1e-3
    )
    # the band of a power law is narrowest near its pivot, and as wide as the error of the flux at 1 TeV
    wide = 0.5 * np.log(points.band[2] / points.band[0])
    error = float(best.standard_deviations["flux"]) / flux
    assert np.interp(1.0, points.band_energy, wide) == pytest.approx(error, rel=0.02)


@pytest.mark.slow
def test_covariance_is_the_inverse_of_the_second_derivatives(points, by_hand):
    at = {name: jnp.asarray(norm) for name, norm in zip("abcd", points.norm, strict=True)}
    norm = jnp.asarray(gj.fit(by_hand, initial={**at, "norm": jnp.asarray(1.0)}, progress=False).parameters["norm"])
    names = [*"abcd", "norm"]

    def height(v):
        return by_hand.log_likelihood_ratio(dict(zip(names, v, strict=True)))

    place = jnp.asarray([*points.norm, float(norm)])
    assert np.all(np.abs(np.asarray(jax.grad(height)(place))[:4] * points.norm_err) < 0.05)
    covariance = np.linalg.inv(-np.asarray(jax.hessian(height)(place), np.float64))[:4, :4]
    np.testing.assert_allclose(points.covariance, covariance, atol=0.02 * np.diag(covariance).min())


@pytest.mark.slow
def test_errors_limits_and_tests_are_those_of_a_profile(points, by_hand):
    found = gj.profile(by_hand, "d", progress=False)
    low, high = found.interval()
    error = points.norm_err[3]
    ends = [points.norm[3] - points.norm_errn[3], points.norm[3] + points.norm_errp[3]]
    np.testing.assert_allclose(ends, [low, high], atol=0.03 * error)
    assert found.upper_limit(0.97725) == pytest.approx(points.norm_ul[3], abs=0.03 * error)
    test = gj.test_statistic(by_hand, "d", progress=False)
    assert points.ts[3] == pytest.approx(test.value, rel=5e-3)
    # the scan is the profile
    some = np.isfinite(points.norm_scan[3]) & (points.stat_scan[3] < 9.0)
    values = points.norm_scan[3][some]
    np.testing.assert_allclose(
        points.stat_scan[3][some], gj.profile(by_hand, "d", values, progress=False).fall, atol=0.02
    )


@pytest.mark.slow
def test_cells_give_the_same_points(points, best, observation, events):
    cells = events.compress([observation], 60.0, 0.03)
    coarse = gj.Posterior(model, PRIORS, observation, cells, **OPTIONS)
    found = gj.flux_points(coarse, "sources/nebula", EDGES, best=best, progress=False)
    np.testing.assert_allclose(found.norm, points.norm, atol=0.15 * points.norm_err.min())
    np.testing.assert_allclose(found.norm_err, points.norm_err, rtol=0.05)


@pytest.mark.slow
def test_a_silent_bin_has_a_limit_and_no_lower_error(observation):
    """A spectrum that ends at 2 TeV, above a background, and edges far inside the energies of the events."""
    truth = model(TRUTH)
    cut = gj.SteppedSpectrum(gj.PowerLaw(2.3, 1.5e-11), [0.1, 2.0], [1.0, 1.0, 0.0])
    truth = gj.Mixture(nebula=gj.Source(cut, gj.Point(0.3, 0.1)), sky=truth.components["sky"])
    events = gj.simulate(jax.random.key(2), truth, observation)
    posterior = gj.Posterior(model, PRIORS, observation, events, **OPTIONS)
    found = gj.flux_points(posterior, "sources/nebula", [1.0, 2.0, 3.0, 5.0], progress=False)
    assert np.all(found.norm >= 0.0) and np.all(found.norm_errn <= found.norm + 1e-6)
    assert found.is_ul[2] and found.sqrt_ts[2] < 2.0 and not found.is_ul[0]
    assert np.all(found.norm_ul > found.norm) and np.all(np.isfinite(found.norm_ul))
    assert np.all(np.linalg.eigvalsh(found.covariance) > 0)
    assert faults(found.plot().figure) == [] and faults(found.plot({"again": found}, energy_power=0).figure) == []


@pytest.mark.slow
def test_positions_and_shapes_stay_free(make_observation):
    def wide(p):
        shape = gj.Gaussian(0.3 + 0.1 * p["east"], 0.1, 0.03)
        source = gj.Source(gj.PowerLaw(2.3, 1e-11 * p["flux"]), shape)
        return gj.Mixture(nebula=source, sky=gj.InstrumentBackground(60.0))

    priors = {"flux": PRIORS["flux"], "east": dist.Normal(0.0, 1.0)}
    short = make_observation(livetime=5000.0)
    events = gj.simulate(jax.random.key(1), wide({"flux": 1.5, "east": 0.0}), short)
    posterior = gj.Posterior(wide, priors, short, events, per_decade=8.0, progress=False)
    start = gj.fit(posterior, initial={"flux": 1.5, "east": 0.0}, progress=False)
    found = gj.flux_points(posterior, "nebula", [0.5, 2.0, 8.0], best=start, progress=False)
    assert np.all(np.abs(found.norm - 1.0) < 5.0 * found.norm_err) and found.messages == ()


def test_of_a_result(posterior, best, points):
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(3), best.covariance, 200)
    samples = {name: np.asarray(best.parameters[name]) + draws[None, :, i] for i, name in enumerate(best.names)}
    result = gj.Result.from_samples(samples, method="test")
    found = gj.flux_points(posterior, "sources/nebula", EDGES, best=result, progress=False)
    error = points.norm_err * points.dnde_ref
    np.testing.assert_allclose(found.dnde / error, points.dnde / error, atol=0.05)
    wide = [np.log(one.band[2] / one.band[0]).mean() for one in (found, points)]
    assert wide[0] == pytest.approx(wide[1], rel=0.25)


def test_to_gammapy_and_back(points, tmp_path):
    theirs = points.to_gammapy()
    again = gj.FluxPoints.from_gammapy(theirs, points.component)
    for name in ("energy_edges", "norm", "norm_errn", "norm_errp", "norm_ul", "ts", "dnde_ref"):
        np.testing.assert_allclose(getattr(again, name), getattr(points, name), rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(theirs.dnde.quantity.to_value("TeV-1 cm-2 s-1").ravel(), points.dnde, rtol=1e-6)
    error = theirs.dnde_err.quantity.to_value("TeV-1 cm-2 s-1").ravel()
    np.testing.assert_allclose(error, points.norm_err * points.dnde_ref, rtol=1e-6)
    np.testing.assert_array_equal(theirs.is_ul.data.ravel(), points.is_ul)
    # gammapy's own limits from our scans
    limits = theirs.recompute_ul(n_sigma_ul=2)
    np.testing.assert_allclose(limits.norm_ul.data.ravel(), points.norm_ul, rtol=0.01)


@pytest.mark.parametrize("suffix", ["ecsv", "fits"])
def test_files(points, tmp_path, suffix):
    from gammapy.estimators import FluxPoints

    path = points.write(tmp_path / f"points.{suffix}")
    again = gj.FluxPoints.read(path)
    np.testing.assert_array_equal(again.covariance, points.covariance)
    assert (again.component, again.n_sigma, again.n_sigma_ul) == ("sources/nebula", 1.0, 2.0)
    assert again.components == points.components and "sources/nebula" in again.components
    theirs = FluxPoints.read(path)
    np.testing.assert_allclose(theirs.norm.data.ravel(), points.norm)
    assert theirs.has_stat_profiles
    with pytest.raises(FileExistsError, match="overwrite=True"):
        points.write(path)
    assert points.write(path, overwrite=True) == path
    assert list(tmp_path.iterdir()) == [path]
    # a file of gammapy has errors only
    theirs.write(tmp_path / f"theirs.{suffix}", sed_type="likelihood")
    alone = gj.FluxPoints.read(tmp_path / f"theirs.{suffix}", "nebula")
    np.testing.assert_allclose(alone.covariance, np.diag(points.norm_err**2))


def test_words_and_figures(points):
    lines = repr(points).splitlines()
    assert lines[0].startswith("FluxPoints: 4 bins of sources/nebula, 0.5 to 8 TeV") and "0.5 to 0.9 TeV" in repr(
        points
    )
    table = points.summary()
    assert len(table) == 4 and {"e_min", "e_max", "e2dnde", "errn", "errp", "ul", "sqrt_ts"} <= set(table.columns)
    assert faults(points.plot().figure) == [] and faults(points.plot_correlation().figure) == []
    figure = Figure(figsize=(12.0, 4.5), layout="constrained")  # of a paper
    left, right = figure.subplots(1, 2)
    assert points.plot(ax=left) is left and points.plot_correlation(right) is right
    assert len(figure.axes) == 3 and left.get_xlabel() == "energy [TeV]" and faults(figure) == []


def weighted(p):
    nebula = model({**p, "norm": 1.0}).components["sources/nebula"]
    return gj.Mixture(nebula=nebula, sky=gj.InstrumentBackground(), weights={"sky": 0.9})


@pytest.mark.slow
def test_what_cannot_be_done_is_refused_in_one_line(posterior, best, observation, events, points, tmp_path):
    def given(component="sources/nebula", edges=EDGES, posterior=posterior):
        return gj.flux_points(posterior, component, edges, best=best, progress=False)

    cases = {
        "'vela' is no component; flux points are of one of the sources": lambda: given("vela"),
        "'sky' has no spectrum of photons": lambda: given("sky"),
        "edges must increase": lambda: given(edges=[1.0, 3.0, 2.0]),
        "at least two positive energies": lambda: given(edges=[1.0]),
        "positive energies": lambda: given(edges=[-1.0, 2.0]),
        "from 40 to 80 TeV expects .* edges within the energies": lambda: given(edges=[1.0, 8.0, 40.0, 80.0]),
        "best must be a gammajax.Fit or": lambda: gj.flux_points(posterior, "sources/nebula", EDGES, best=3),
        "written as .ecsv or .fits": lambda: points.write(tmp_path / "points.txt"),
        "one axis, of energy": lambda: gj.FluxPoints.from_gammapy(3),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    few = gj.Events(*(np.asarray(column)[:9] for column in (events.energy, events.lon, events.lat)))
    priors = {"index": PRIORS["index"], "flux": PRIORS["flux"]}
    fractions = gj.Posterior(weighted, priors, observation, few, **OPTIONS)
    with pytest.raises(ValueError, match="absolute fluxes: make the Mixture without weights"):
        given(posterior=fractions)
    still = gj.Posterior(
        lambda p: model({**TRUTH, "norm": p["norm"]}), {"norm": PRIORS["norm"]}, observation, few, **OPTIONS
    )
    with pytest.raises(ValueError, match="no free parameter, .* compact=False"):
        given(posterior=still)
    with pytest.raises(FileNotFoundError):
        gj.FluxPoints.read(tmp_path / "nothing.ecsv")
