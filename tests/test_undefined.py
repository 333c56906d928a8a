"""Law: a concrete NaN is refused by name, a traced NaN gives NaN; zeros are valid."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from gammajax.model.mixture import or_undefined
from gammajax.model.priors import check_priors

PLACE = {"lon": 0.1, "lat": 0.2}
HALO = {**PLACE, "distance": 8.5, "r_s": 20.0, "local_density": 0.3}
# arguments of a class: each of these numbers is made NaN and infinite in turn
SPECTRA = {
    gj.PowerLaw: {"index": 2.0, "amplitude": 1e-12, "reference": 1.0},
    gj.BrokenPowerLaw: {"index1": 2.0, "index2": 3.0, "amplitude": 1e-12, "ebreak": 1.0},
    gj.SmoothBrokenPowerLaw: {
        "index1": 2.0, "index2": 3.0, "amplitude": 1e-12, "ebreak": 1.0, "reference": 1.0, "beta": 1.0
    },
    gj.LogParabola: {"alpha": 2.0, "beta": 0.1, "amplitude": 1e-12, "reference": 1.0},
    gj.ExponentialCutoffPowerLaw: {
        "index": 2.0, "lambda_": 0.1, "amplitude": 1e-12, "reference": 1.0, "alpha": 1.0
    },
    gj.SuperExponentialCutoffPowerLaw4FGL: {
        "amplitude": 1e-12, "reference": 1.0, "expfactor": 1e-6, "index_1": 1.5, "index_2": 1.0
    },
    gj.GaussianLine: {"amplitude": 1e-12, "mean": 1.0, "sigma": 0.1},
    gj.Line: {"energy": 1.0, "amplitude": 1e-12},
}  # fmt: skip
MORPHOLOGIES = {
    gj.Point: PLACE,
    gj.Gaussian: {**PLACE, "sigma": 0.1, "e": 0.5, "phi": 30.0},
    gj.GeneralizedGaussian: {**PLACE, "r_0": 0.1, "eta": 0.5, "e": 0.5, "phi": 30.0},
    gj.Disk: {**PLACE, "r_0": 0.1, "e": 0.5, "phi": 30.0, "edge": 0.01},
    gj.Ring: {**PLACE, "r_0": 0.1, "width": 0.1, "edge": 0.01},
    gj.Shell: {**PLACE, "radius": 0.1, "width": 0.1},
    gj.Constant: PLACE,
    gj.NFW: HALO,
    gj.Burkert: HALO,
    gj.Moore: HALO,
    gj.Isothermal: HALO,
    gj.Einasto: {**HALO, "alpha": 0.17},
    gj.GeneralizedNFW: {**HALO, "gamma": 1.2},
    gj.CoredNFW: {**HALO, "r_c": 1.0},
}
EMISSION = {
    gj.DarkMatter: {"mass": 1.0, "sigma_v": 1e-26, "j_factor": 1e21},
    gj.DarkMatterDecay: {"mass": 1.0, "decay_rate": 1e-26, "d_factor": 1e20},
}
BACKGROUND = {"norm": 1.0, "tilt": 0.1, "reference": 1.0}
ONE = jnp.ones(())
SOME = gj.PowerLaw(2.0), gj.Point(0.0, 0.0)


def components():
    """Factory of a component from values of its numbers, and the values."""
    for cls, values in SPECTRA.items():
        yield cls.__name__, lambda cls=cls, **v: gj.Source(cls(**v), SOME[1]), values
    for cls, values in EMISSION.items():
        yield cls.__name__, lambda cls=cls, **v: gj.Source(cls("W", **v), SOME[1]), values
    for cls, values in MORPHOLOGIES.items():
        yield cls.__name__, lambda cls=cls, **v: gj.Source(SOME[0], cls(**v)), values
    yield "InstrumentBackground", gj.InstrumentBackground, BACKGROUND
    yield "product", lambda **v: gj.Source(v["factor"] * SOME[0], SOME[1]), {"factor": 2.0}
    table = [0.1, 1.0, 10.0], [1e-11, 1e-12, 1e-14]
    yield "table", lambda **v: gj.Source(gj.TabulatedSpectrum(*table, **v), SOME[1]), {"norm": 1.0}
    grid = ([0.1, 1.0], [0.0, 1.0], [[0.0, 0.0], [0.5, 1.0]])
    ebl = {"redshift": 0.3, "alpha_norm": 1.0}
    yield "absorption", lambda **v: gj.Source(SOME[0] * gj.Absorption(*grid, **v), SOME[1]), ebl


COMPONENTS = {name: (make, values) for name, make, values in components()}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPONENTS)
def test_numbers_of_components(name):
    make, values = COMPONENTS[name]
    make(**values)
    for changed in values:
        for bad in (jnp.nan, jnp.inf, -jnp.inf):
            with pytest.raises(ValueError, match=f"{changed.strip('_')}.*(nan|inf)"):
                make(**{**values, changed: bad})
        assert np.isnan(jax.jit(lambda v, changed=changed: or_undefined(make(**{**values, changed: v}), ONE))(jnp.nan))


def test_nodes_of_a_table():
    for bad in (jnp.nan, 0.0, -1.0, jnp.inf):
        with pytest.raises(ValueError, match="the fluxes of a tabulated spectrum must be positive and finite"):
            gj.TabulatedSpectrum([0.1, 1.0], [1.0, bad])


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (dist.Uniform(jnp.nan, 1.0, validate_args=False), "not a number"),
        (dist.Normal(jnp.nan, 1.0, validate_args=False), "not a number"),
        (dist.LogUniform(0.1, jnp.nan, validate_args=False), "not a number"),
        (dist.Normal(jnp.array([0.0, jnp.nan]), 1.0, validate_args=False).to_event(1), "not a number"),
        (dist.Uniform(0.0, jnp.inf), "no finite centre"),
    ],
)
def test_priors(prior, message):
    with pytest.raises(ValueError, match=f"the prior of 'mass' has .*{message}"):
        check_priors({"mass": prior})


@pytest.mark.parametrize(
    "weights",
    [
        {"a": jnp.nan},
        {"a": jnp.nan, "b": 0.5},
        jnp.array([jnp.nan, 0.5]),
        {"a": -0.1},
        {"a": 1.2},
        {"a": 0.5, "b": 0.6},
    ],
)
def test_weights_that_are_none(weights):
    """Concrete weights are refused, traced ones give NaN: weights never change silently."""

    def fractions(weights):
        return gj.Mixture(a=gj.Source(*SOME), b=gj.InstrumentBackground(), weights=weights).fractions

    with pytest.raises(ValueError, match="weights"):
        fractions(weights)
    assert np.all(np.isnan(jax.jit(fractions)(weights)))


def line(p):
    """Its line may lie at an energy without selected events."""
    source = gj.Source(gj.Line(p["energy"], 1e-11), gj.Point(0.3, 0.1))
    return gj.Mixture(line=source, sky=gj.InstrumentBackground(), weights={"line": p["weight"]})


def absolute(p):
    source = gj.Source(gj.PowerLaw(2.0, 1e-12 * p["flux"]), gj.Point(0.3, 0.1))
    return gj.Mixture(source=source, sky=gj.InstrumentBackground(norm=p["norm"]))


def node(p):
    """Two lines share one weight in proportion to their fluxes."""
    lines = {name: gj.Source(gj.Line(p["energy"], 1e-11), gj.Point(x, 0.1)) for name, x in (("a", 0.1), ("b", 0.3))}
    return gj.Mixture(lines=gj.Mixture(**lines), sky=gj.InstrumentBackground(), weights={"lines": p["weight"]})


UNIT = dist.Uniform(0.0, 1.0)
SHARED = {"energy": dist.LogUniform(0.02, 5.0), "weight": UNIT}
ZEROS = {  # model, priors, points where the likelihood is finite, and where it may be minus infinity
    "weights": (line, SHARED, [(1.0, 0.0), (0.02, 0.3), (0.02, 0.0)], [(1.0, 1.0), (0.02, 1.0)]),
    "nodes": (node, SHARED, [(1.0, 0.0), (0.02, 0.3), (0.02, 0.0)], [(1.0, 1.0), (0.02, 1.0)]),
    "fluxes": (absolute, {"flux": UNIT, "norm": UNIT}, [(0.0, 0.5), (0.0, 1.0)], [(0.5, 0.0), (0.0, 0.0)]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ZEROS)
def test_zeros(name, observation):
    model, priors, finite, infinite = ZEROS[name]
    events = gj.Events([1.0, 2.0, 0.7, 1.5], [0.3, 0.1, -0.2, 0.5], [0.1, 0.0, 0.2, -0.3])
    posterior = gj.Posterior(model, priors, observation, events, per_decade=10.0)
    both = jax.jit(jax.value_and_grad(posterior.log_likelihood))
    for place in [*finite, *infinite]:
        p = dict(zip(priors, map(jnp.asarray, place), strict=True))
        value, slope = both(p)
        assert np.isfinite(value) or (place in infinite and value == -np.inf)
        assert not np.isfinite(value) or all(np.isfinite(leaf) for leaf in slope.values()), (place, slope)
    if name != "fluxes":  # a line without counts has none of the events
        sky = np.asarray(both(dict(zip(priors, map(jnp.asarray, finite[2]), strict=True)))[0])
        dark = np.asarray(both(dict(zip(priors, map(jnp.asarray, finite[1]), strict=True)))[0])
        assert dark == pytest.approx(sky + 4.0 * np.log(0.7), abs=1e-3)
    nan = {name: jnp.asarray(jnp.nan) for name in priors}
    assert np.isnan(both(nan)[0])
    for changed in priors:
        assert np.isnan(both({**p, changed: jnp.asarray(jnp.nan)})[0])


def test_counts_of_a_component_that_expects_none(observation):
    events = gj.Events([1.0, 2.0], [0.3, 0.1], [0.1, 0.0])
    posterior = gj.Posterior(line, SHARED, observation, events, per_decade=10.0)
    p = {"energy": jnp.asarray(0.02), "weight": jnp.asarray(0.3)}
    assert float(posterior.counts(p)["line"].sum()) == 0.0 and np.isposinf(posterior.flux_scales(p)["line"])
    assert float(posterior.fractions(p)["line"]) == pytest.approx(0.3)
    assert float(posterior.counts(p)["sky"].sum()) == pytest.approx(1.4, rel=1e-5)
    none = posterior.flux_scales({**p, "weight": jnp.asarray(0.0)})
    assert float(none["line"]) == 0.0
