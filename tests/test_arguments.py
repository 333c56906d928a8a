"""Functions of a model and observations take what people give them, or say in one sentence what they take."""

from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from gammajax import engines, io

KEY = jax.random.key(0)
OPTIONS: dict = {"per_decade": 10.0}
SOURCE = gj.Source(gj.PowerLaw(2.3, 1e-12), gj.Point(0.1, 0.0))
SKY = gj.InstrumentBackground()
MIXTURE = gj.Mixture(source=SOURCE, inner=gj.Mixture(sky=SKY))
EVENTS = gj.Events([1.0, 2.0], [0.0, 0.1], [0.0, 0.1])
PRIORS = {"flux": dist.Uniform(0.0, 2.0)}


def model(p):
    return gj.Mixture(source=gj.Source(gj.PowerLaw(2.3, 1e-12 * p["flux"]), gj.Point(0.1, 0.0)), sky=SKY)


def exposure(observations):
    from gammapy.maps import WcsGeom

    return gj.exposure(observations, WcsGeom.create(npix=4, binsz=0.5, frame="galactic"))


def posterior(model=model, observations=None, events=EVENTS, priors=PRIORS):
    return gj.Posterior(model, priors, observations, events, **OPTIONS)


# each takes a component or mixture, and observations
OF_COMPONENTS = {
    "expected_counts": lambda m, o: gj.expected_counts(m, o, **OPTIONS),
    "intensity": lambda m, o: gj.intensity(m, o, EVENTS, **OPTIONS),
    "simulate": lambda m, o: gj.simulate(KEY, m, o),
}
# each takes a function of parameters, and observations
OF_FUNCTIONS = {
    "Posterior": posterior,
    "forecast": lambda m, o: gj.forecast(KEY, m, PRIORS, o, {"flux": 1}, points=9, **OPTIONS),
    "sensitivity": lambda m, o: gj.sensitivity(
        KEY, m, PRIORS, o, {"flux": 1}, scale="flux", along="flux", values=[1.0], points=9, **OPTIONS
    ),
    "Asimov": lambda m, o: gj.Asimov.init(KEY, m, PRIORS, o, {"flux": 1}, points=9, **OPTIONS),
    "compression_loss": lambda m, o: gj.compression_loss(m, PRIORS, o, EVENTS, {"flux": 1}, **OPTIONS),
}
OF_OBSERVATIONS = {
    "Binning": lambda o: gj.Binning.init(o, 4.0, 0.5),
    "compress": lambda o: EVENTS.compress(o, 4.0, 0.5),
    "PreparedKernel": lambda o: engines.PreparedKernel.init(gj.Point(0.1, 0.0), o, 10.0),
    "exposure": exposure,
    **{name: lambda o, f=function: f(SOURCE, o) for name, function in OF_COMPONENTS.items()},
    **{name: lambda o, f=function: f(model, o) for name, function in OF_FUNCTIONS.items()},
}


@pytest.fixture(autouse=True)
def without_type_checks():
    """As users have it: the checks of types that tests switch on would come before the sentences."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_a_mixture_gives_each_component_by_path(observation, several):
    given = [observation, observation] if several else observation
    counts = gj.expected_counts(MIXTURE, given, **OPTIONS)
    assert list(counts) == ["source", "inner/sky"]
    for part, count in zip((SOURCE, SKY), counts.values(), strict=True):
        assert float(count) == pytest.approx((1 + several) * float(gj.expected_counts(part, observation, **OPTIONS)))
    found = gj.intensity(MIXTURE, given, EVENTS, **OPTIONS)
    np.testing.assert_array_equal(found["source"], gj.intensity(SOURCE, given, EVENTS, **OPTIONS))


def test_counts_of_a_mixture_are_those_of_its_posterior_and_have_gradients(observation):
    made: Any = posterior(observations=observation)
    found = jax.jit(lambda flux: gj.expected_counts(model({"flux": flux}), observation, **OPTIONS))
    for name, counts in made.expected_counts({"flux": 1.5}).items():  # plain numbers are parameters
        assert float(found(1.5)[name]) == pytest.approx(float(counts.sum()), rel=1e-5)
    slope = jax.grad(lambda flux: found(flux)["source"])(1.5)
    assert float(slope) == pytest.approx(float(found(1.0)["source"]), rel=1e-5)


NO_MIXTURES = {
    "function": model,
    "observation": None,
    "spectrum": SOURCE.spectrum,
    "morphology": SOURCE.morphology,
    "dict": {"source": SOURCE},
    "list": [SOURCE],
    "text": "source",
    "nothing": False,
    "number": 1.5,
}


@pytest.mark.parametrize("name", OF_COMPONENTS)
@pytest.mark.parametrize("given", NO_MIXTURES)
def test_what_is_no_mixture_is_named(name, given, observation):
    wrong = observation if given == "observation" else NO_MIXTURES[given]
    with pytest.raises(ValueError, match=rf"as model\(parameters\) returns it, not an? {type(wrong).__name__}$"):
        OF_COMPONENTS[name](wrong, observation)


NO_FUNCTIONS = {
    "mixture": (MIXTURE, "must be a function .* not a Mixture; write lambda p: mixture"),
    "source": (SOURCE, "must be a function .* not a Source; write lambda p: mixture"),
    "spectrum": (SOURCE.spectrum, "must be a function .* not a PowerLaw"),
    "text": ("model", "must be a function .* not a str"),
    "nothing": (None, "must be a function .* not a NoneType"),
    "returns a source": (lambda p: SOURCE, r"must return a gammajax.Mixture, not Source; return Mixture\(source=...\)"),
    "returns nothing": (lambda p: None, "must return a gammajax.Mixture, not NoneType"),
    "asks for more": (lambda p: model({"flux": p["norm"]}), "reads parameter 'norm', which has no prior; known: flux"),
}


@pytest.mark.parametrize("name", OF_FUNCTIONS)
@pytest.mark.parametrize("given", NO_FUNCTIONS)
def test_what_is_no_function_is_named(name, given, observation):
    wrong, words = NO_FUNCTIONS[given]
    with pytest.raises(ValueError, match=words):
        OF_FUNCTIONS[name](wrong, observation)


NO_OBSERVATIONS = {
    "none": ([], "list of observations is empty"),
    "nothing": (None, "or a list of them, not a NoneType"),
    "text": ("run", "or a list of them, not a str"),
    "events": (EVENTS, "or a list of them, not an Events"),
    "source": (SOURCE, "or a list of them, not a Source"),
    "list of lists": ([[]], "or a list of them, not a list"),
    "number": (3, "or a list of them, not an int"),
    "pair": (io.Data(EVENTS, []), "give their .observations here"),
}


@pytest.mark.parametrize("name", OF_OBSERVATIONS)
@pytest.mark.parametrize("given", NO_OBSERVATIONS)
def test_what_are_no_observations_is_named(name, given):
    wrong, words = NO_OBSERVATIONS[given]
    with pytest.raises(ValueError, match=words):
        OF_OBSERVATIONS[name](wrong)


@pytest.mark.parametrize("wrong", [np.ones(3), [1.0], {"energy": 1.0}, "events.fits", 3])
def test_what_are_no_events_is_named(wrong, observation):
    words = r"events must be gammajax.Events\(energy, lon, lat, observation\) or Cells, not an? "
    with pytest.raises(ValueError, match=words + type(wrong).__name__):
        posterior(observations=observation, events=wrong)
    with pytest.raises(ValueError, match=words + type(wrong).__name__):
        gj.intensity(SOURCE, observation, wrong)


def test_one_observation_is_a_list_of_one(observation):
    for name in ("expected_counts", "intensity", "simulate"):
        one, many = (jax.tree.leaves(OF_COMPONENTS[name](MIXTURE, given)) for given in (observation, [observation]))
        for a, b in zip(one, many, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wrong", [1.0, [1.0], {"norm": 1.0}, {}])
def test_parameters_are_a_dict_of_the_priors(wrong, observation):
    with pytest.raises(ValueError, match=r"the parameters are a dict of \['flux'\], not"):
        gj.forecast(KEY, model, PRIORS, observation, wrong, points=9, **OPTIONS)
    with pytest.raises(ValueError, match=r"the parameters are a dict of \['flux'\], not"):
        gj.compression_loss(model, PRIORS, observation, EVENTS, wrong, **OPTIONS)
    made: Any = posterior(observations=observation)
    assert jnp.isfinite(made.log_likelihood({"flux": 1}))
