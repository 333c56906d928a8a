"""Every function and method of the package raises an error that names an unknown keyword argument."""

import importlib
import inspect
import pkgutil
from types import SimpleNamespace
from typing import is_typeddict

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pydantic
import pytest

import gammajax as gj
from gammajax.model.morphology import draw_map
from gammajax.plots.corner import plot_corner

KEY = jax.random.key(0)
SOURCE = gj.Source(gj.PowerLaw(2.0), gj.Point(0.3, 0.0))
EVENTS = gj.Events([1.0, 2.0], [0.0, 0.1], [0.0, 0.1], [0, 0])
TABLE = gj.ParticleModel({"mass": [0.1, 1.0]}, {"W": [1e-26, 2e-26]})
ABSORPTION = gj.Absorption([0.1, 1.0, 10.0], [0.0, 1.0], [[0.0, 0.0, 0.0], [0.1, 1.0, 9.0]], redshift=0.1)


def model(p):
    return gj.Mixture(source=SOURCE, sky=gj.InstrumentBackground(), weights={"source": p["f"]})


PRIORS = {"f": dist.Uniform(0.0, 1.0)}


def result():
    return gj.Result.from_samples({"x": np.random.default_rng(0).normal(size=(1, 50))}, method="test")


def catalogue(**options):
    """A catalogue of one source, as gammapy's are."""
    from gammajax.io.catalogs import _models

    class Entry:
        name = "one"

        def sky_model(self):
            raise AssertionError("options must reach the catalogue")

    return _models(Entry(), options)


# functions with arbitrary keywords, and their response to a meaningless one
ANY = {
    "Absorption.plot": lambda _, **k: ABSORPTION.plot((0.1, 1.0), **k),
    "Spectrum.plot": lambda _, **k: gj.PowerLaw(2.0).plot((1.0, 2.0), **k),
    "Morphology.plot": lambda _, **k: gj.Gaussian(0.0, 0.0, 1.0).plot(**k),
    "Point.plot": lambda _, **k: gj.Point(0.0, 0.0).plot(**k),
    "Halo.plot": lambda _, **k: gj.NFW().plot(width=1.0, **k),
    "Halo.plot_density": lambda _, **k: gj.NFW().plot_density(**k),
    "draw_map": lambda _, **k: draw_map(gj.Gaussian(0.0, 0.0, 1.0), 1.0, "", **k),
    "ParticleModel.plot": lambda _, **k: TABLE.plot(**k),
    "ParticleModel.ratios": lambda _, **k: TABLE.ratios(mass=0.5, **k),
    "ParticleModel.sigma_v": lambda _, **k: TABLE.sigma_v(mass=0.5, **k),
    "Mixture": lambda _, **k: gj.Mixture(source=SOURCE, **k),
    "plot_corner": lambda _, **k: plot_corner(result(), **k),
    "Result.plot_corner": lambda _, **k: result().plot_corner(**k),
    "Result.plot_counts": lambda _, **k: result().plot_counts(None, **k),
    "Result.plot_spectrum": lambda _, **k: result().plot_spectrum(None, **k),
    "Result.check": lambda _, **k: result().check(None, **k),
    "Fit.check": lambda _, **k: gj.Fit.check(None, None, **k),
    "Result.with_labels": lambda _, **k: result().with_labels(**dict.fromkeys(k, ["a"])),
    "Result.derive": lambda _, **k: result().derive(**k),
    "intensity": lambda o, **k: gj.intensity(SOURCE, o, EVENTS, **k),
    "expected_counts": lambda o, **k: gj.expected_counts(SOURCE, o, **k),
    "compression_loss": lambda o, **k: gj.compression_loss(model, PRIORS, o, EVENTS, {"f": jnp.array(0.5)}, **k),
    "Asimov.init": lambda o, **k: gj.Asimov.init(KEY, model, PRIORS, o, {"f": 0.5}, number=9, points=9, **k),
    "forecast": lambda o, **k: gj.forecast(KEY, model, PRIORS, o, {"f": 0.5}, number=9, points=9, **k),
    "sensitivity": lambda o, **k: gj.sensitivity(
        KEY,
        lambda p: model({"f": p["f"]}),
        {**PRIORS, "m": PRIORS["f"]},
        o,
        {"f": 0.5, "m": 0.5},
        scale="f",
        along="m",
        values=[0.5],
        number=9,
        points=9,
        **k,
    ),
    "catalog": lambda _, **k: catalogue(**k),
    "nuts": lambda _, **k: gj.nuts(KEY, SimpleNamespace(priors=PRIORS), **k),
    "smc": lambda _, **k: gj.smc(KEY, SimpleNamespace(priors=PRIORS), batch=1, **k),
    "nested": lambda _, **k: gj.nested(KEY, SimpleNamespace(priors=PRIORS), batch=1, **k),
    "svi": lambda _, **k: gj.svi(KEY, SimpleNamespace(priors=PRIORS), guide="gaussian", **k),
    "laplace": lambda _, **k: gj.laplace(KEY, SimpleNamespace(priors=PRIORS), **k),
    "finish": lambda _, **k: gj.Result.from_samples({"x": np.ones((1, 5))}, method="test", **k),
}


def callables():
    """Functions, classes and methods of all modules by qualified name, once each."""
    found = {}
    for info in pkgutil.walk_packages(gj.__path__, "gammajax."):
        module = importlib.import_module(info.name)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != info.name or not callable(thing):
                continue
            found[name] = thing
            if inspect.isclass(thing) and not issubclass(thing, pydantic.BaseModel):
                for method, member in inspect.getmembers(thing, callable):
                    if not method.startswith("_") and str(getattr(member, "__module__", "")).startswith("gammajax"):
                        found[member.__qualname__] = member
    return found


def test_the_table_holds_all_that_take_any_keyword():
    """All others have named arguments only, and Python itself rejects the rest."""
    takes_any = set()
    for name, function in callables().items():
        if is_typeddict(function) or (inspect.isclass(function) and issubclass(function, BaseException)):
            continue
        arguments = inspect.signature(function).parameters.values()
        if any(argument.kind is argument.VAR_KEYWORD for argument in arguments):
            takes_any.add(name)
    configuration = {n for n, c in callables().items() if inspect.isclass(c) and issubclass(c, pydantic.BaseModel)}
    printing = {"document"}  # which the printer of equinox gives all that it has
    assert takes_any - configuration - printing == set(ANY)


@pytest.mark.slow
@pytest.mark.parametrize("name", ANY)
@pytest.mark.filterwarnings("ignore::UserWarning")  # unused parameters of the toy models
def test_an_unknown_keyword_is_an_error_that_names_it(name, observation):
    with pytest.raises((TypeError, ValueError, AttributeError), match="nonsense") as caught:
        ANY[name](observation, nonsense=1)
    assert "\n" not in str(caught.value)


def test_our_own_errors_name_what_is_known():
    with pytest.raises(ValueError, match="no option 'nonsense'; it has names, truths, figure, bins, .*quantiles"):
        result().plot_corner(nonsense=1)
    with pytest.raises(ValueError, match="no option 'titles'"):  # ours to set
        result().plot_corner(titles=["a"])
    with pytest.raises(ValueError, match="'nonsense' must be a function .*, not 1; the only other keyword is units="):
        result().derive(nonsense=1)
    figure = result().plot_corner(bins=10, quantiles=())  # over ours
    assert len(figure.axes) == 1
