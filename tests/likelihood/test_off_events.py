"""Priors that OFF events ask for: against the background itself, scipy, and backgrounds of known smoothness."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from on_off import HIGH, LOW, model, run
from scipy.optimize import minimize
from scipy.stats import truncnorm

import gammajax as gj
from gammajax.likelihood.off_events import Splines, smooth_counts
from gammajax.model.off_background import spline_basis

RATIO = 0.2


def power_law(random, number, index=2.7):
    """Energies of a power law in the selection."""
    low, high = LOW ** (1.0 - index), HIGH ** (1.0 - index)
    return (low + random.uniform(size=number) * (high - low)) ** (1.0 / (1.0 - index))


def bump(random, number):
    """Energies of a background with a threshold in the selection: a Gaussian in ln E'."""
    centre, width = np.log(1.2), 0.25
    ends = (np.log([LOW, HIGH]) - centre) / width
    return np.exp(truncnorm.rvs(*ends, centre, width, size=number, random_state=random))


def second_differences(prior) -> np.ndarray:
    """Their standard deviations."""
    rows = np.diff(np.eye(prior.event_shape[0]), 2, axis=0)
    return np.sqrt(np.diag(rows @ np.asarray(prior.covariance_matrix, np.float64) @ rows.T))


@pytest.mark.parametrize("size", [4, 6, 15])
def test_the_basis_is_that_of_the_background(size):
    """Within its energies, at both ends, and beyond them."""
    energy = np.array([0.1, 0.4, 0.5, 0.7, 2.0, 7.9, 8.0, 20.0, 100.0])
    coefficients = np.random.default_rng(size).normal(size=size)
    rate = gj.OffBackground(coefficients, 0.5, 8.0).rate(jnp.asarray(energy))
    np.testing.assert_allclose(spline_basis(energy, size, 0.5, 8.0) @ coefficients, np.log(rate), atol=3e-5)


def test_the_evidence_is_that_of_scipys_minimum():
    """Maximum and curvature by scipy and differences of its gradient."""
    size = 7
    splines = Splines.of([run([], bump(np.random.default_rng(0), 500))], size, LOW, HIGH)
    prior = gj.smooth_prior(np.full(size, 8.0), 1.5)
    precision, centre = np.asarray(prior.precision_matrix, np.float64), np.asarray(prior.loc, np.float64)

    def minus(x):
        rate = splines.exposure * np.exp(splines.basis @ x)
        away = precision @ (x - centre)
        slope = rate @ splines.basis - splines.observed + away
        return rate.sum() - splines.observed @ x + 0.5 * (x - centre) @ away, slope

    best = minimize(minus, centre, jac=True, method="BFGS", options={"gtol": 1e-6})
    step = 1e-4 * np.eye(size)
    curvature = np.array([(minus(best.x + h)[1] - minus(best.x - h)[1]) / 2e-4 for h in step])
    expected = -best.fun + 0.5 * np.linalg.slogdet(precision)[1] - 0.5 * np.linalg.slogdet(curvature)[1]
    found, value = splines.best(prior)
    assert value == pytest.approx(expected, abs=0.02)
    np.testing.assert_allclose(found, best.x, atol=2e-3)


@pytest.mark.parametrize("number", [0, 1, 40, 4000])
def test_power_laws_need_few_coefficients(number):
    """Whatever the number of events, none included; the centre is the power law."""
    prior = gj.OnOff(run([], power_law(np.random.default_rng(1), number))).background_prior()
    assert prior.event_shape == (6,)
    assert np.all(second_differences(prior) < 0.6)
    np.testing.assert_allclose(np.diff(prior.loc, 2), 0.0, atol=1e-5)


def test_thresholds_ask_for_less_smoothness():
    data = gj.OnOff(run([], bump(np.random.default_rng(2), 4000)))
    prior = data.background_prior()
    assert prior.event_shape[0] > 6
    assert second_differences(data.background_prior(6))[0] > 2.0
    # what is given is kept
    assert second_differences(data.background_prior(8, 0.3)) == pytest.approx(0.3, rel=1e-3)
    assert data.background_prior(scale=0.3).event_shape[0] > 6


def test_the_range_may_be_another_one():
    """The power law is the same, over other energies."""
    data = gj.OnOff(run([], power_law(np.random.default_rng(3), 300)))
    energy = jnp.array([0.6, 2.0, 7.0])
    own = gj.OffBackground(data.background_prior(6, 0.3).loc, LOW, HIGH).rate(energy)
    other = gj.OffBackground(data.background_prior(9, 0.3, energy_range=(0.3, 20.0)).loc, 0.3, 20.0).rate(energy)
    np.testing.assert_allclose(own, other, rtol=1e-4)


def true_background() -> np.ndarray:
    """Coefficients of the bump, without its norm: splines of a parabola are exact."""
    step = np.log(HIGH / LOW) / 3.0
    site = np.log(LOW) + step * np.arange(-1.0, 5.0) - np.log(1.2)
    return -0.5 * site**2 / 0.25**2 + step**2 / 6.0 / 0.25**2 - site


def test_backgrounds_with_a_threshold_do_not_bend_the_source():
    """Flux and index with the true background, of free norm; a prior that is too smooth is far off."""
    random = np.random.default_rng(4)
    on = np.concatenate([power_law(random, 300, 2.2), bump(random, 1200)])
    runs = [run(on, bump(random, 6000), RATIO)]
    spectral = {"amplitude": dist.Uniform(0.0, 20.0), "index": dist.Uniform(0.0, 5.0)}

    def fitted(model, data, **priors):
        return gj.fit(gj.Posterior(model, {**spectral, **priors}, data, progress=False), progress=False)

    def known(p):
        return model({**p, "b": p["level"] + true_background()})

    def source(p):
        return gj.Mixture(source=known({**p, "level": 0.0}).components["source"])

    data, shape = gj.OnOff(runs), true_background()
    rate = gj.OffBackground(shape, LOW, HIGH).rate(jnp.asarray(data.point))
    level = float(np.log(7200.0 / (data.background_exposure[0] @ rate)))
    wanted = fitted(known, data, level=dist.Normal(level, 1.0))

    def away(best):
        return max(abs(best.parameters[n] - wanted.parameters[n]) / wanted.standard_deviations[n] for n in spectral)

    assert away(fitted(model, data, b=data.background_prior())) < 1.0
    assert away(fitted(source, gj.OnOffCounts(runs, np.geomspace(LOW, HIGH, 25)))) < 1.0
    assert away(fitted(model, data, b=data.background_prior(6, 0.3))) > 2.0


def test_counts_of_the_smooth_background_are_those_of_the_events():
    """In every cell within three errors, and next to nothing beyond the last events."""
    energy, edges = bump(np.random.default_rng(6), 4000), np.geomspace(LOW, HIGH, 13)
    counts, smooth = np.histogram(energy, edges)[0], smooth_counts([run([], energy)], edges)[0]
    assert np.all(np.abs(counts - smooth) < 3.0 * np.sqrt(smooth + 1.0))
    assert smooth[-3:].sum() < 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 3}, "at least 4 coefficients, not 3"),
        ({"size": 6, "scale": -1.0}, "scale of a smooth prior must be positive"),
        ({"scale": 0.0}, "scale of a smooth prior must be positive"),
        ({"energy_range": (2.0, 1.0)}, "must be positive and increase: 2.0 to 1.0 TeV"),
        ({"level": 0.0}, "level of a smooth prior must be positive"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        gj.OnOff(run([], [1.0, 2.0])).background_prior(**options)
