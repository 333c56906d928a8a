"""A posterior as a plugin of 3ML: its likelihood at the values of a stand-in for an astromodels model."""

import math
import sys
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.optimize import minimize

import gammajax as gj

# flat, so that the maximum of the likelihood is that of the posterior
PRIORS = {
    "flux": dist.Uniform(0.1, 10.0),
    "index": dist.Uniform(1.0, 4.0),
    "norm": dist.Uniform(0.0, 100.0).expand((2,)).to_event(1),
}
CALLS = []  # of the model function, which runs when it is compiled
FIT_FAILED = 1e12  # of threeML.minimizer.minimization
K, INDEX = "crab.spectrum.main.Powerlaw.K", "crab.spectrum.main.Powerlaw.index"
IN_THE_MODEL = {"flux": lambda model: 1e21 * model[K].value, "index": lambda model: -model[INDEX].value}


class Model(dict):
    """A stand-in for a model of astromodels: its parameters by path."""

    @property
    def free_parameters(self):
        return {path: number for path, number in self.items() if number.free}

    @property
    def parameters(self):
        return dict(self)


def number(value, bounds=(None, None), free=True):
    return SimpleNamespace(value=value, bounds=bounds, free=free)


def model(p):
    CALLS.append(p)
    source = gj.Source(gj.PowerLaw(p["index"], 1e-12 * p["flux"]), gj.Point(0.3, 0.2))
    return gj.Mixture(source=source, sky=gj.InstrumentBackground(p["norm"]))


def powerlaw(flux=2.0, index=2.2):
    """Per keV, and a negative index."""
    return Model({K: number(1e-21 * flux), INDEX: number(-index)})


@pytest.fixture(scope="module")
def posterior(observations):
    """In double precision, which the tests need as well."""
    truth = {"flux": 2.0, "index": 2.2, "norm": np.array([10.0, 20.0])}
    events = gj.simulate(jax.random.key(1), model(truth), observations)
    with jax.enable_x64(True):
        yield gj.Posterior(model, PRIORS, observations, events, progress=False)


@pytest.fixture
def plugin(posterior):
    return gj.io.to_threeml_plugin(posterior, "hess", parameters=IN_THE_MODEL, nuisance=["norm"])


@pytest.mark.slow
def test_a_fit_of_the_plugin_is_ours(posterior, plugin):
    """By a minimiser that sets the values of the model, as 3ML does with nuisance parameters as external ones."""
    assert list(plugin.nuisance_parameters) == ["hess_norm_0", "hess_norm_1"]
    assert [one.bounds for one in plugin.nuisance_parameters.values()] == [(0.0, 100.0)] * 2
    astro = powerlaw()
    plugin.set_model(astro)
    free = {**astro, **plugin.nuisance_parameters}
    ours = gj.fit(posterior, progress=False)
    scale = np.array([1e-21, 1.0, 10.0, 10.0])

    def minus(x):
        for one, value in zip(free.values(), x * scale, strict=True):
            one.value = value
        value = -plugin.inner_fit()
        return FIT_FAILED if math.isnan(value) else value

    bounds = [(0.1, 10.0), (-4.0, -1.0), (0.0, 10.0), (0.0, 10.0)]
    found = minimize(minus, np.array([1.0, -2.5, 1.5, 1.5]), method="Nelder-Mead", bounds=bounds)
    assert found.success, found.message
    minus(found.x)
    values = plugin.values()
    for name in PRIORS:
        error = np.asarray(ours.standard_deviations[name])
        np.testing.assert_allclose((values[name] - np.asarray(ours.parameters[name])) / error, 0.0, atol=0.02)


def test_the_likelihood_is_that_of_the_data(posterior, plugin):
    astro, random = powerlaw(), np.random.default_rng(0)
    plugin.set_model(astro)
    for _ in range(5):
        values = {"flux": random.uniform(1.0, 4.0), "index": random.uniform(1.8, 2.8)}
        values["norm"] = random.uniform(5.0, 30.0, 2)
        astro[K].value, astro[INDEX].value = 1e-21 * values["flux"], -values["index"]
        for one, value in zip(plugin.nuisance_parameters.values(), values["norm"], strict=True):
            one.value = value
        expected = float(posterior.log_likelihood({n: jnp.asarray(value) for n, value in values.items()}))
        assert plugin.get_log_like() == plugin.inner_fit() == pytest.approx(expected, abs=1e-4)
        np.testing.assert_allclose(plugin.values()["norm"], values["norm"])
    assert plugin.get_number_of_data_points() == posterior.total
    assert plugin.name == "hess" and "PosteriorPlugin hess" in repr(plugin)


def test_it_is_compiled_once(plugin):
    astro = powerlaw()
    plugin.set_model(astro)
    plugin.get_log_like()
    traced = len(CALLS)
    astro[K].value *= 1.1
    plugin.set_model(astro)
    plugin.get_log_like()
    assert len(CALLS) == traced > 0


def test_parameters_by_name_and_path(posterior):
    """Free, fixed, linked: what counts is the value."""
    plugin = gj.io.to_threeml_plugin(
        posterior, parameters={"norm_0": "left", "norm_1": lambda m: 2.0 * m["left"].value}
    )
    astro = Model(flux=number(2.0), index=number(2.2, free=False), left=number(10.0))
    plugin.set_model(astro)
    np.testing.assert_allclose(plugin.values()["norm"], [10.0, 20.0])
    assert plugin.nuisance_parameters == {} and math.isfinite(plugin.get_log_like())


def test_outside_the_support_it_is_what_threeml_takes_as_forbidden(plugin):
    """NaN: `JointLikelihood` takes it as a failed step, samplers as -inf."""
    astro = powerlaw(flux=20.0)
    plugin.set_model(astro)
    assert math.isnan(plugin.get_log_like())
    astro[K].value = math.nan
    assert math.isnan(plugin.get_log_like())
    astro[K].value = 1e-22  # an end, which is a little higher in single precision
    assert math.isfinite(plugin.get_log_like())


def test_bounds_beyond_the_prior_are_warned_of(posterior):
    plugin = gj.io.to_threeml_plugin(posterior, nuisance=["norm"])
    with pytest.warns(UserWarning, match="flux may lie between 0 and 5, but the prior of 'flux' ends at 0.1 and 10"):
        plugin.set_model(Model(flux=number(2.0, (0.0, 5.0)), index=number(2.0, (1.0, 3.0))))
    plugin.set_model(Model(flux=number(2.0, (0.0, 5.0), free=False), index=number(2.0, (1.5, None))))
    plugin.set_model(Model(flux=number(2.0, (0.1, 10.0)), index=number(2.0)))


# arguments, and the message
REFUSED = {
    "name": ({"name": "H.E.S.S."}, "must be a Python identifier other than 'total', not 'H.E.S.S.'"),
    "total": ({"name": "Total"}, "must be a Python identifier other than 'total'"),
    "extra": ({"parameters": {"amplitude": K}}, r"'amplitude' is no parameter of the posterior; the parameters are \["),
    "vector": ({"parameters": {"norm": K}}, r"'norm' is no parameter of the posterior; .*'norm_0', 'norm_1'\]"),
    "nuisance": ({"nuisance": ["tilt"]}, "'tilt' is no parameter of the posterior"),
    "both": ({"parameters": {"norm_1": K}, "nuisance": ["norm"]}, "'norm_1' is a nuisance parameter, so"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(posterior, case):
    arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        gj.io.to_threeml_plugin(posterior, **arguments)


def test_missing_parameters_are_named(posterior, plugin):
    with pytest.raises(ValueError, match="the plugin 'hess' has no model: call set_model first"):
        plugin.get_log_like()
    other = gj.io.to_threeml_plugin(posterior, parameters={"index": INDEX}, nuisance=["norm"])
    with pytest.raises(ValueError, match=r"no parameter 'flux': give its path .* the free parameters are \['crab"):
        other.set_model(powerlaw())
    with pytest.raises(ValueError, match=f"no parameter '{INDEX}' for 'index'"):
        other.set_model(Model(flux=number(2.0)))


def test_it_is_a_plugin_of_threeml(posterior, monkeypatch):
    """Stand-ins with the constructors of 3ML's and astromodels' classes."""

    class PluginPrototype:
        def __init__(self, name, nuisance_parameters):
            assert isinstance(nuisance_parameters, dict)
            self._name, self._nuisance_parameters, self._tag = name, nuisance_parameters, None

        name = property(lambda self: self._name)
        nuisance_parameters = property(lambda self: self._nuisance_parameters)

    class Parameter:
        def __init__(self, name=None, value=None, min_value=None, max_value=None, delta=None, desc=None, free=True):
            assert name.isidentifier()
            self.name, self.value, self.bounds = name, value, (min_value, max_value)

    modules = {"threeML": {}, "threeML.plugin_prototype": {"PluginPrototype": PluginPrototype}}
    modules["astromodels"] = {"Parameter": Parameter}
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    plugin = gj.io.to_threeml_plugin(posterior, "hess", parameters=IN_THE_MODEL, nuisance=["norm"])
    assert isinstance(plugin, PluginPrototype) and plugin.name == "hess"
    assert all(isinstance(one, Parameter) for one in plugin.nuisance_parameters.values())
    plugin.set_model(powerlaw())
    assert math.isfinite(plugin.get_log_like())


def test_single_precision_is_warned_of(posterior):
    with jax.enable_x64(False), pytest.warns(UserWarning, match="in single precision, derivatives that 3ML takes"):
        gj.io.to_threeml_plugin(posterior)
