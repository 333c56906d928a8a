"""A posterior as a dataset of gammapy: its `Fit` finds the maximum that ours finds."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from gammapy.datasets import Datasets
from gammapy.modeling import Fit

import gammajax as gj

PRIORS = {
    "flux": dist.Uniform(0.1, 10.0),
    "index": dist.Normal(2.0, 0.05),
    "norm": dist.LogNormal(2.5, 0.5).expand((2,)).to_event(1),
}


def model(p):
    source = gj.Source(gj.PowerLaw(p["index"], 1e-12 * p["flux"]), gj.Point(0.3, 0.2))
    return gj.Mixture(source=source, sky=gj.InstrumentBackground(p["norm"]))


@pytest.fixture(scope="module")
def posterior(observations):
    """In double precision, which the tests need as well."""
    truth = {"flux": 2.0, "index": 2.2, "norm": np.array([10.0, 20.0])}
    events = gj.simulate(jax.random.key(1), model(truth), observations)
    with jax.enable_x64(True):
        yield gj.Posterior(model, PRIORS, observations, events, progress=False)


@pytest.mark.slow
def test_a_fit_of_gammapy_is_ours(posterior):
    dataset = gj.io.to_gammapy_dataset(posterior)
    assert dataset.models.parameters.names == ["flux", "index", "norm_0", "norm_1"]
    flux = dataset.models.parameters["flux"]
    assert (flux.min, flux.max) == (pytest.approx(0.1), 10.0)
    found = Fit().run(Datasets([dataset]))
    assert found.success, str(found)
    # the prior of the index is known to gammapy, those of the norms are not
    ours = gj.fit(gj.Posterior(model, {**PRIORS, "norm": dist.Uniform(0.0, 100.0).expand((2,)).to_event(1)},
                               posterior.observations, posterior.events, progress=False))  # fmt: skip
    for name in ("flux", "index"):
        found = dataset.models.parameters[name]
        assert found.value == pytest.approx(float(ours.parameters[name]), abs=0.03 * found.error)
        assert found.error == pytest.approx(float(ours.standard_deviations[name]), rel=0.1)
    np.testing.assert_allclose(dataset.values()["norm"], ours.parameters["norm"], rtol=0.03)


def test_the_statistic_is_that_of_the_likelihood(posterior):
    dataset = gj.io.to_gammapy_dataset(posterior, name="mine", priors=False)
    assert dataset.models.parameters.prior_stat_sum() == 0.0
    values = dataset.values()
    first = dataset.stat_sum()
    dataset.models.parameters["flux"].value = 3.0
    other = {**values, "flux": 0.0 * values["flux"] + 3.0}
    ratio = float(posterior.log_likelihood(other) - posterior.log_likelihood(values))
    assert dataset.stat_sum() - first == pytest.approx(-2.0 * ratio, abs=0.01)
    assert dataset.name == "mine" and "PosteriorDataset mine" in str(dataset)
    with pytest.raises(ValueError, match="no bins"):
        dataset.stat_array()


def test_single_precision_is_warned_of(posterior):
    with jax.enable_x64(False), pytest.warns(UserWarning, match="in single precision, derivatives that gammapy takes"):
        gj.io.to_gammapy_dataset(posterior)


def test_limits_are_those_of_each_number(posterior):
    low, high = np.array([1.0, 5.0]), np.array([4.0, 50.0])
    priors = {**PRIORS, "norm": dist.Uniform(low, high).to_event(1)}
    other = gj.Posterior(model, priors, posterior.observations, posterior.events, progress=False)
    parameters = gj.io.to_gammapy_dataset(other).models.parameters
    assert [(parameters[f"norm_{i}"].min, parameters[f"norm_{i}"].max) for i in range(2)] == [(1.0, 4.0), (5.0, 50.0)]
