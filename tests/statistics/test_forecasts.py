import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj

OPTIONS = {"per_decade": 15.0}


def components(p):
    return {
        "source": gj.Source(gj.PowerLaw(p.get("index", 2.0), p["flux"] * 1e-12), gj.Point(0.3, 0.2)),
        "sky": gj.InstrumentBackground(norm=30.0 * p["norm"]),
    }


def absolute(p):
    return gj.Mixture(**components(p))


PRIORS = {"flux": dist.Uniform(0.0, 10.0), "norm": dist.Uniform(0.0, 10.0), "index": dist.Uniform(1.0, 4.0)}
TRUTH = {"flux": 1.0, "norm": 1.0, "index": 2.0}


@pytest.fixture(scope="module")
def small(make_observation):
    return make_observation(livetime=3600.0, energy_min=1.0, energy_max=4.0, offset_max=1.0)


@pytest.fixture(scope="module")
def expected(small):
    return gj.forecast(jax.random.key(0), absolute, PRIORS, small, TRUTH, points=10_000, **OPTIONS)


@pytest.fixture(scope="module")
def grid(small):
    """Intensities by component and index, and widths, at a grid of energies and directions, for a quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(10)
    log_energy = np.log(2.0) + nodes * np.log(2.0)
    side = 1.0 - (np.arange(50) + 0.5) / 25.0
    e, x, y = np.meshgrid(np.exp(log_energy), side, side, indexing="ij")
    width = (np.exp(log_energy) * weights * np.log(2.0))[:, None, None] * np.radians(1.0 / 25.0) ** 2 + 0.0 * x
    inside = np.asarray(small.selected(x.ravel(), y.ravel()))
    events = gj.Events(*(column.ravel()[inside] for column in (e, x, y)))

    def intensity(name, **changes):
        return np.asarray(gj.intensity(components({**TRUTH, **changes})[name], small, events, **OPTIONS), float)

    sky = intensity("sky")

    def at(**changes):
        return intensity("source", **changes), sky

    return at, width.ravel()[inside]


@pytest.mark.slow
def test_fisher_information_is_the_integral(expected, grid):
    at, width = grid
    (source, sky), (steeper, _), (flatter, _) = at(), at(index=2.05), at(index=1.95)
    scores = [source, (steeper - flatter) / 0.1, sky]
    fisher = np.array([[(a * b / (source + sky) * width).sum() for a in scores] for b in scores])
    assert expected.names == ("flux", "index", "norm")
    np.testing.assert_allclose(expected.fisher, fisher, rtol=0.03, atol=0.01 * fisher.max())
    # the aim is 1 %; the points estimate their own error
    deviations = [float(expected.standard_deviations[name]) for name in expected.names]
    assert expected.precision < 0.01
    np.testing.assert_allclose(deviations, np.sqrt(np.diag(np.linalg.inv(fisher))), rtol=0.02)
    assert "flux = 1 +-" in repr(expected) and expected.correlation[1, 1] == pytest.approx(1.0)


def test_likelihood_of_the_expectation(expected, make_observation, small):
    # 20 times the events have on average 20 times its logarithm, with the scatter of a sum over events
    asimov, factor = expected.asimov, 20
    longer = make_observation(livetime=3600.0 * factor, energy_min=1.0, energy_max=4.0, offset_max=1.0)
    events = gj.simulate(jax.random.key(1), absolute({k: jnp.asarray(v) for k, v in TRUTH.items()}), longer)
    posterior = gj.Posterior(absolute, PRIORS, longer, events, **OPTIONS)
    truth = {name: jnp.asarray(value) for name, value in TRUTH.items()}
    posterior = posterior.with_reference(truth)
    for changes in ({"flux": 0.0}, {"flux": 1.6, "index": 2.4}, {"norm": 1.2}):
        point = {**truth, **{name: jnp.asarray(value) for name, value in changes.items()}}
        found = float(posterior.log_likelihood_ratio(point))
        logs = np.log(np.asarray(posterior.with_reference(point).reference / posterior.reference))
        scatter = np.sqrt((logs[np.asarray(posterior.count) > 0] ** 2).sum())
        predicted = float(asimov.log_likelihood(point))
        assert predicted < 0.0
        assert abs(found - factor * predicted) < 4.0 * scatter
    assert float(asimov.log_likelihood(truth)) == 0.0
    # relative to another point: the same differences
    moved = asimov.with_reference(point)
    assert float(moved.log_likelihood_ratio(truth)) == pytest.approx(-predicted, rel=1e-3)
    assert float(moved.log_reference) == pytest.approx(predicted, rel=1e-3)


@pytest.mark.slow
def test_samplers_take_the_expectation(expected):
    # the expected posterior is near the Gaussian of the expected covariance, the likelihood at its best is one
    result = gj.laplace(jax.random.key(2), expected.asimov, draws=1000, progress=False)
    value, error = result.log_evidence
    log_volume = np.log(10.0 * 10.0 * 3.0)
    prediction = 1.5 * np.log(2.0 * np.pi) + 0.5 * np.linalg.slogdet(expected.covariance)[1] - log_volume
    gaussian = result.tree.attrs["log_evidence_gaussian"]
    assert gaussian == pytest.approx(prediction, abs=0.3) and value == pytest.approx(gaussian, abs=0.3)
    assert error < 0.3
    # the index is hardly constrained: its prior truncates it
    assert np.std(result.samples["norm"]) == pytest.approx(float(expected.standard_deviations["norm"]), rel=0.25)


def test_counting(small):
    # one component: the error of its norm is Poisson; the fraction of two separate components is binomial
    sky = {"norm": dist.LogNormal(np.log(4.0), 0.05)}

    def model(p):
        return gj.Mixture(sky=gj.InstrumentBackground(norm=p["norm"]))

    count = float(gj.expected_counts(gj.InstrumentBackground(norm=4.0), small, **OPTIONS))
    options = {"points": 500, **OPTIONS}
    flat = gj.forecast(jax.random.key(0), model, sky, small, {"norm": 4.0}, prior=False, **options)
    assert float(flat.standard_deviations["norm"]) == pytest.approx(4.0 / count**0.5, rel=1e-3)
    with_prior = gj.forecast(jax.random.key(0), model, sky, small, {"norm": 4.0}, **options)
    curvature = (1.0 - 0.05**2) / (0.05 * 4.0) ** 2  # -d² ln prior
    assert float(with_prior.fisher[0, 0]) == pytest.approx(count / 16.0 + curvature, rel=1e-3)


def test_fractions_keep_their_sum(small, grid):
    def model(p):
        return gj.Mixture(**components(TRUTH), weights=p["weight"])

    found = gj.forecast(
        jax.random.key(2),
        model,
        {"weight": dist.Dirichlet(jnp.ones(2))},
        small,
        {"weight": [0.3, 0.7]},
        number=1000,
        points=10_000,
        **OPTIONS,
    )
    at, width = grid
    source, sky = (part / (part * width).sum() for part in at())
    information = 1000.0 * ((source - sky) ** 2 / (0.3 * source + 0.7 * sky) * width).sum()
    np.testing.assert_allclose(found.covariance, np.array([[1, -1], [-1, 1]]) / information, rtol=0.03)


@pytest.mark.slow
def test_limits_and_discoveries(small, grid):
    at, width = grid
    indices = [2.0, 3.0]
    found = gj.sensitivity(
        jax.random.key(3),
        absolute,
        PRIORS,
        small,
        TRUTH,
        scale="flux",
        along="index",
        values=indices,
        points=10_000,
        **OPTIONS,
    )
    from scipy.optimize import brentq, minimize_scalar

    def q(source, sky, given, flux):
        """Fall from the expectation, with the norm of the sky free."""

        def minus(norm):
            mean = flux * source + norm * sky
            return -2.0 * ((given * np.log(mean / given) - mean + given) * width).sum()

        return minimize_scalar(minus, bounds=(0.5, 9.0), method="bounded", options={"xatol": 1e-6}).fun

    for column, index in enumerate(indices):
        source, sky = at(index=index)
        limit = brentq(lambda flux: q(source, sky, sky, flux) - 2.7055, 1e-3, 3.0)  # noqa: B023
        discovery = brentq(lambda flux: q(source, sky, flux * source + sky, 0.0) - 25.0, 1e-3, 9.0)  # noqa: B023
        assert found.limits[2, column] == pytest.approx(limit, rel=0.02)
        assert found.discovery[column] == pytest.approx(discovery, rel=0.02)
        assert found.significance[column] == pytest.approx(q(source, sky, source + sky, 0.0) ** 0.5, rel=0.02)
    # Gaussian: the limit of a best fit N sigma from zero, which stays at zero below
    z, ratios = 1.6449, found.limits[:, 0] / found.limits[2, 0]
    np.testing.assert_allclose(ratios[3:], [(z + 1) / z, (z + 2) / z], rtol=1e-3)
    below = [(np.sqrt(z**2 + n**2) - n) / z for n in (2, 1)]
    np.testing.assert_allclose(ratios[:2], below, rtol=1e-3)
    axes = found.plot(ylabel="flux")
    assert axes.get_yscale() == "log" and len(axes.get_legend().get_texts()) == 4


@pytest.mark.slow
def test_sensitivity_with_an_uncertain_j_factor(small, grid):
    from scipy.optimize import brentq, minimize_scalar

    def uncertain(p):
        parts = components({"norm": 1.0, "index": p["index"], "flux": p["flux"] * p["j"]})
        return gj.Mixture(**parts)

    at, width = grid
    source, sky = at()
    priors = {"flux": dist.LogUniform(1e-2, 10.0), "index": PRIORS["index"], "j": dist.LogNormal(0.0, 0.3)}
    truth = {"flux": 1.0, "index": 2.0, "j": 1.0}
    options = {"scale": "flux", "along": "index", "values": [2.0], "points": 4000, **OPTIONS}
    found = gj.sensitivity(jax.random.key(3), uncertain, priors, small, truth, **options)

    def q(flux):
        """Fall from no signal, with the factor free within its constraint."""

        def minus(log_j):
            mean = flux * np.exp(log_j) * source + sky
            return -2.0 * ((sky * np.log(mean / sky) - mean + sky) * width).sum() + (log_j / 0.3) ** 2

        return minimize_scalar(minus, bounds=(-3.0, 1.0), method="bounded", options={"xatol": 1e-6}).fun

    assert found.limits[2, 0] == pytest.approx(brentq(lambda flux: q(flux) - 2.7055, 1e-3, 9.0), rel=0.03)
    # at another truth the constraining measurement is expected there
    shifted = {**truth, "flux": 1.0 / 1.2, "j": 1.2}
    moved = gj.sensitivity(jax.random.key(3), uncertain, priors, small, shifted, **options)
    assert moved.limits[2, 0] == pytest.approx(found.limits[2, 0] / 1.2, rel=0.02)
    # without the constraint nothing is excluded
    with pytest.warns(UserWarning, match="there is no limit on 'flux' at index = 2"):
        bare = gj.sensitivity(jax.random.key(3), uncertain, priors, small, truth, constraints=[], **options)
    assert np.all(np.isinf(bare.limits)) and np.all(np.isfinite(bare.discovery))


@pytest.mark.slow
def test_what_cannot_be_forecast(small):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="the parameters are"):
        gj.forecast(key, absolute, PRIORS, small, {"flux": 1.0})
    with pytest.raises(ValueError, match="leave number out"):
        gj.forecast(key, absolute, PRIORS, small, TRUTH, number=100)
    with pytest.raises(ValueError, match="the data would say nothing about index"):
        gj.forecast(key, absolute, PRIORS, small, {**TRUTH, "flux": 0.0}, points=500, **OPTIONS)
    with pytest.raises(ValueError, match="must be positive"):
        gj.sensitivity(key, absolute, PRIORS, small, {**TRUTH, "flux": 0.0}, scale="flux", along="index", values=[2.0])
