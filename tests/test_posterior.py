import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gammajax as gj
from gammajax.engines import KernelEngine
from gammajax.instrument.observation import Exclusion
from gammajax.instrument.sky import Grid

PER_DECADE = 15.0
OPTIONS = {"per_decade": PER_DECADE}
GRID = Grid(0.3, 0.2, 0.1, 1.0)


def components(p):
    return {
        "signal": gj.Source(gj.PowerLaw(p["index"], p.get("amplitude", 1.0) * 1e-12), gj.Point(0.3, 0.2)),
        "background": gj.InstrumentBackground(norm=30.0 * p.get("norm", 1.0), tilt=p["tilt"]),
    }


def weighted(p):
    return gj.Mixture(**components(p), weights={"signal": p["weight"]})


def absolute(p):
    return gj.Mixture(**components(p))


COMMON = {"index": dist.Uniform(1.5, 3.5), "tilt": dist.Normal(0.0, 0.2)}
# (model, priors): with weights, and with absolute fluxes
MODELS = {
    "mixture": (weighted, {**COMMON, "weight": dist.Beta(2.0, 3.0)}),
    "extended": (absolute, {**COMMON, "amplitude": dist.LogUniform(0.1, 10.0), "norm": dist.LogNormal(0.0, 0.3)}),
}
POINT = {"index": 2.1, "tilt": 0.1, "weight": 0.35, "amplitude": 1.4, "norm": 0.8}
NAMES = pytest.mark.parametrize("name", MODELS)


def point(name, **changes):
    return {parameter: jnp.asarray({**POINT, **changes}[parameter]) for parameter in MODELS[name][1]}


@pytest.fixture(scope="module")
def posteriors(observations, events):
    return {name: gj.Posterior(*MODELS[name], observations, events, **OPTIONS) for name in MODELS}


@eqx.filter_jit
def call(posterior, method, p):
    return getattr(posterior, method)(p)


@pytest.fixture(scope="module")
def by_component(observations, events):
    """Intensities and counts of both components for flux and norm one."""
    made = components({"index": jnp.asarray(2.1), "tilt": jnp.asarray(0.1)})
    intensity = [np.asarray(gj.intensity(c, observations, events, **OPTIONS), float) for c in made.values()]
    return intensity, [float(gj.expected_counts(c, observations, **OPTIONS)) for c in made.values()]


@pytest.mark.slow
@NAMES
def test_log_likelihood_by_hand(name, posteriors, by_component):
    p = point(name)
    factors = (1.4, 0.8) if name == "extended" else (1.0, 1.0)
    intensity, counts = ([f * x for f, x in zip(factors, column, strict=True)] for column in by_component)
    if name == "mixture":
        expected = np.log(0.35 * intensity[0] / counts[0] + 0.65 * intensity[1] / counts[1]).sum()
    else:
        expected = np.log(intensity[0] + intensity[1]).sum() - sum(counts)
    assert float(call(posteriors[name], "log_likelihood", p)) == pytest.approx(expected, rel=1e-5)
    found = call(posteriors[name], "expected_counts", p)
    assert list(found) == ["background", "signal"]  # jit sorts dictionaries
    for component, count in zip(("signal", "background"), counts, strict=True):
        assert found[component].shape == (2,) and float(found[component].sum()) == pytest.approx(count, rel=1e-5)


@NAMES
def test_ratio_and_reference_make_the_likelihood(name, posteriors):
    posterior = posteriors[name]
    p, start = point(name), posterior.reference_parameters
    assert float(call(posterior, "log_likelihood_ratio", start)) == pytest.approx(0.0, abs=1e-5)
    ratio, whole = (float(call(posterior, method, p)) for method in ("log_likelihood_ratio", "log_likelihood"))
    assert whole == pytest.approx(ratio + float(posterior.log_reference), rel=1e-6)
    assert float(call(posterior, "log_likelihood", start)) == pytest.approx(float(posterior.log_reference), rel=1e-6)


@NAMES
def test_another_reference_changes_a_constant_only(name, posteriors):
    posterior, here, there = posteriors[name], point(name), point(name, index=3.0, tilt=-0.3)
    moved = posterior.with_reference(here)
    np.testing.assert_array_equal(moved.reference_parameters["index"], here["index"])
    assert float(call(moved, "log_likelihood_ratio", here)) == pytest.approx(0.0, abs=1e-5)
    for p in (here, there):
        one, other = (float(call(q, "log_likelihood", p)) for q in (posterior, moved))
        assert one == pytest.approx(other, rel=1e-6)
    shift = [
        float(call(q, "log_likelihood_ratio", there) - call(q, "log_likelihood_ratio", here))
        for q in (posterior, moved)
    ]
    assert shift[0] == pytest.approx(shift[1], rel=1e-4)


@NAMES
def test_transformations(name, posteriors):
    posterior, p = posteriors[name], point(name)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda p, q: q.log_likelihood_ratio(p)))(p, posterior)
    for parameter, value in p.items():
        ends = [
            float(call(posterior, "log_likelihood_ratio", {**p, parameter: value + sign * 5e-3}))
            for sign in (1.0, -1.0)
        ]
        assert float(gradient[parameter]) == pytest.approx((ends[0] - ends[1]) / 1e-2, rel=5e-3, abs=0.02)
    many = {parameter: value + jnp.linspace(0.0, 0.1, 3) for parameter, value in p.items()}
    batch = eqx.filter_jit(lambda q, many: jax.vmap(q.log_likelihood_ratio)(many))(posterior, many)
    for i in range(3):
        one = call(posterior, "log_likelihood_ratio", {parameter: value[i] for parameter, value in many.items()})
        assert float(batch[i]) == pytest.approx(float(one), rel=1e-4, abs=1e-3)


# evaluations of the model in one call
EVALUATIONS = {
    "log_likelihood_ratio": 1,
    "log_likelihood": 1,
    "density": 1,
    "with_reference": 1,
    "expected_counts": 1,
    "counts": 1,
    "fractions": 1,
    "flux_scales": 1,
    "log_prior": 0,
}


@NAMES
def test_a_call_evaluates_the_model_once(name, observations, events):
    model, priors = MODELS[name]
    calls = []

    def counting(p):
        calls.append(1)
        return model(p)

    posterior = gj.Posterior(counting, priors, observations, events, **OPTIONS)

    def evaluations(function, p):
        calls.clear()
        jax.eval_shape(function, p)
        return len(calls)

    found = {method: evaluations(getattr(posterior, method), point(name)) for method in EVALUATIONS}
    assert found == EVALUATIONS
    assert evaluations(jax.value_and_grad(posterior.log_likelihood_ratio), point(name)) == 1
    calls.clear()
    assert np.isfinite([float(posterior.log_reference), posterior.log_reference_exact()]).all() and not calls


def test_a_small_change_of_many_expected_events(observations, events):
    """At 1e7 expected events, neighbouring numbers of single precision are one event apart."""
    unit = {
        "signal": gj.Source(gj.PowerLaw(2.1, 2.0**-40), gj.Point(0.3, 0.2)),
        "background": gj.InstrumentBackground(),
    }
    counts = {name: float(gj.expected_counts(part, observations, **OPTIONS)) for name, part in unit.items()}
    # a power of two: products with it are exact
    factor = {name: 2.0 ** round(np.log2(5e6 / count)) for name, count in counts.items()}

    def many(p):
        source = gj.Source(gj.PowerLaw(2.1, factor["signal"] * 2.0**-40 * p["signal"]), gj.Point(0.3, 0.2))
        return gj.Mixture(signal=source, background=gj.InstrumentBackground(factor["background"] * p["background"]))

    priors = {name: dist.Normal(1.0, 0.1) for name in unit}
    posterior = gj.Posterior(many, priors, observations, events, **OPTIONS)
    start, seen = posterior.reference_parameters, np.asarray(posterior.count) > 0
    ratio = jax.jit(lambda posterior, p: posterior.log_likelihood_ratio(p))
    for name, part in many(start).components.items():
        intensity = np.asarray(posterior.engines[name].intensity(part), float)[seen]
        share = intensity / np.asarray(posterior.reference, float)[seen]
        off = []
        for steps in range(1, 33):
            change = steps * 2.0**-23  # exact in single precision
            more = factor[name] * counts[name] * change
            found = float(ratio(posterior, {**start, name: jnp.asarray(1.0 + change)}))
            off.append(found - (np.log1p(change * share).sum() - more))
        # 0.13 from rounded fluxes at few energies; a difference of sums is off by 0.5
        assert np.sqrt(np.mean(np.square(off))) < 0.2, (name, off)


def test_one_trace_per_shape(observations, events):
    traces = []

    def counting(p):
        traces.append(1)
        return weighted(p)

    posterior = gj.Posterior(counting, MODELS["mixture"][1], observations, events, **OPTIONS)
    compiled = jax.jit(lambda p: posterior.log_likelihood_ratio(p))
    compiled(point("mixture"))
    before = len(traces)
    for index in (2.0, 2.5, 3.0):
        compiled(point("mixture", index=index))
    assert len(traces) == before


def test_a_posterior_may_be_closed_over(posteriors):
    # a value that is known only outside the trace
    for name, posterior in posteriors.items():
        inside = jax.jit(lambda p, posterior=posterior: posterior.log_likelihood_ratio(p))(point(name))
        assert float(inside) == pytest.approx(float(posterior.log_likelihood_ratio(point(name))), rel=1e-4, abs=1e-3)


def test_data_sets_of_about_the_same_size_share_compiled_functions(observations, events):
    traces = []

    @eqx.filter_jit
    def compiled(posterior, p):
        traces.append(1)
        return posterior.log_likelihood_ratio(p)

    for last in (60, 58):
        posterior = gj.Posterior(*MODELS["mixture"], observations, events[:last], **OPTIONS)
        assert len(posterior.events) == posterior.total == last
        np.testing.assert_array_equal(np.sort(posterior.events.lon), np.sort(events.lon[:last].astype(np.float32)))
        compiled(posterior, point("mixture"))
    assert len(traces) == 1


def test_prior(posteriors):
    posterior, p = posteriors["mixture"], point("mixture")
    expected = -np.log(2.0) + dist.Normal(0.0, 0.2).log_prob(0.1) + dist.Beta(2.0, 3.0).log_prob(0.35)
    assert float(posterior.log_prior(p)) == pytest.approx(float(expected), rel=1e-5)
    drawn = posterior.sample_prior(jax.random.key(0))
    assert set(drawn) == {"index", "tilt", "weight"} and 1.5 < drawn["index"] < 3.5 and 0 < drawn["weight"] < 1
    again = posterior.sample_prior(jax.random.key(0))
    assert all(drawn[parameter] == again[parameter] for parameter in drawn)


def test_prior_transform(posteriors):
    posterior = posteriors["extended"]
    p = posterior.prior_transform(jnp.array([0.25, 0.5, 0.75, 0.5]))
    assert list(p) == ["index", "tilt", "amplitude", "norm"]
    expected = {"index": 2.0, "tilt": 0.0, "amplitude": 10.0**0.5, "norm": 1.0}
    for parameter, value in expected.items():
        assert float(p[parameter]) == pytest.approx(value, rel=1e-4, abs=1e-6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.tuples(*[st.floats(1e-3, 1.0 - 1e-3)] * 4))
def test_the_likelihood_is_finite_over_the_prior(posteriors, u):
    posterior = posteriors["extended"]
    p = {name: jnp.asarray(value) for name, value in zip(MODELS["extended"][1], u, strict=True)}
    value = transformed(posterior, jnp.stack(list(p.values())))
    assert np.isfinite(value)


@eqx.filter_jit
def transformed(posterior, u):
    return posterior.log_likelihood_ratio(posterior.prior_transform(u))


def test_weights_at_their_bounds_are_finite_or_minus_infinity(posteriors):
    for weight in (0.0, 1.0):
        value = float(call(posteriors["mixture"], "log_likelihood_ratio", point("mixture", weight=weight)))
        assert not np.isnan(value)


def test_a_prior_that_the_model_never_uses_is_named(observations, events):
    model, priors = MODELS["mixture"]
    with pytest.warns(UserWarning, match="the model does not use 'spare': leave out its prior"):
        gj.Posterior(model, {**priors, "spare": dist.Uniform(0.0, 1.0)}, observations, events, **OPTIONS)

    def seldom(p):
        return model({**p, "weight": jnp.where(p["tilt"] > 5.0, p["weight"], 0.5)})

    gj.Posterior(seldom, priors, observations, events, **OPTIONS)  # the parameter is used, but not at the centre


def test_excluded_sky_that_lies_in_no_field_is_said(observations, events):
    model, priors = MODELS["mixture"]
    corner = jnp.hypot(GRID.coordinates[None, :] - 0.95, GRID.coordinates[:, None] - 0.95) < 0.1

    def excluding(part):
        return [eqx.tree_at(lambda o: o.exclusion, o, part, is_leaf=lambda x: x is None) for o in observations]

    # in a corner of the raster, outside the field
    narrow = [
        eqx.tree_at(lambda o: (o.lon, o.lat), o, (o.lon - 1.0, o.lat - 1.0)) for o in excluding(Exclusion(GRID, corner))
    ]
    near = events[np.asarray(gj.instrument.sky.separation(events.lon, events.lat, -1.0, -1.0)) < 1.9]
    with pytest.warns(UserWarning, match="the excluded sky lies in none of the fields of view"):
        gj.Posterior(model, priors, narrow[:1], near[near.observation == 0], **OPTIONS)


def test_many_events_ask_for_double_precision(observations, events, monkeypatch):
    monkeypatch.setattr("gammajax.posterior.MANY", 50)
    with pytest.warns(UserWarning, match="of 60 events are rounded .* switch on jax_enable_x64"):
        gj.Posterior(*MODELS["mixture"], observations, events, **OPTIONS)


def test_a_pair_of_events_and_observations(observations, events):
    posterior = gj.Posterior(*MODELS["mixture"], (events, observations), **OPTIONS)
    assert len(posterior.observations) == 2 and isinstance(posterior.engines["signal"], KernelEngine)


def test_an_impossible_event_is_named(observations):
    # far from a point source, and nothing else in the model
    made = gj.Events([1.1, 1.2], [0.3, -1.9], [0.2, 0.0])

    def alone(p):
        return gj.Mixture(signal=gj.Source(gj.PowerLaw(p["index"]), gj.Point(1.1, 0.0)), weights={})

    message = r"event 1 \(1.2 TeV at -1.9000, 0.0000 deg, observation 0\) cannot come from any component; 1 such events"
    with pytest.raises(ValueError, match=message):
        gj.Posterior(alone, {"index": dist.Uniform(2.0, 3.0)}, observations, made, **OPTIONS)


def test_a_component_that_expects_nothing_is_named(observations, events):
    def dark(p):
        source = gj.Source(gj.TabulatedSpectrum([0.01, 0.02], [1e-9, 1e-9], p["norm"]), gj.Point(0.3, 0.2))
        return gj.Mixture(dark=source, background=gj.InstrumentBackground(), weights={"dark": 0.1})

    with pytest.raises(ValueError, match="component 'dark' expects no events in the selection"):
        gj.Posterior(dark, {"norm": dist.Uniform(1.0, 2.0)}, observations, events, **OPTIONS)


def test_other_errors(observations, events):
    model, priors = MODELS["mixture"]
    with pytest.raises(ValueError, match="the model must return a gammajax.Mixture, not dict"):
        gj.Posterior(components, priors, observations, events)
    misspelt = {name.replace("index", "indx"): prior for name, prior in priors.items()}
    with pytest.raises(ValueError, match="reads parameter 'index', which has no prior; known: indx, tilt, weight"):
        gj.Posterior(model, misspelt, observations, events)
    with pytest.raises(ValueError, match="cannot be compiled: take functions from jax.numpy"):
        gj.Posterior(lambda p: model({**p, "index": float(p["index"])}), priors, observations, events, **OPTIONS)
    with pytest.raises(ValueError, match=r"engine names unknown components \['sgnal'\]"):
        gj.Posterior(model, priors, observations, events, engine={"sgnal": "kernel"}, **OPTIONS)
    with pytest.raises(ValueError, match="unknown engine 'quick'; the engines are kernel, fold, direct"):
        gj.Posterior(model, priors, observations, events, engine="quick", **OPTIONS)
    with pytest.raises(ValueError, match="outside the energy range"):
        gj.Posterior(model, priors, observations, gj.Events([5.0], [0.0], [0.0]))


def tree(p):
    # two sources share an index; the second line's signal has two parts with free ratios
    hard, soft = (gj.Source(gj.PowerLaw(p["index"] + step, 1e-12), gj.Point(0.3, 0.2)) for step in (0.0, 1.0))
    background = gj.InstrumentBackground(norm=30.0)
    signal = gj.Mixture(hard=hard, soft=soft, weights=p["ratios"])
    return gj.Mixture(signal=signal, background=background, weights={"signal": p["weight"]})


TREE_PRIORS = {"index": dist.Uniform(1.5, 3.0), "weight": dist.Uniform(0.0, 1.0), "ratios": dist.Dirichlet(jnp.ones(2))}
TREE_POINT = {"index": jnp.asarray(2.2), "weight": jnp.asarray(0.4), "ratios": jnp.array([0.3, 0.7])}


def flat(p):
    inner = tree({**p, "weight": jnp.asarray(0.5), "ratios": jnp.array([0.5, 0.5])}).components
    parts = {"hard": inner["signal/hard"], "soft": inner["signal/soft"], "background": inner["background"]}
    weights = {"hard": p["weight"] * p["ratios"][0], "soft": p["weight"] * p["ratios"][1]}
    return gj.Mixture(**parts, weights=weights)


@pytest.fixture(scope="module")
def trees(observations, events):
    return [gj.Posterior(model, TREE_PRIORS, observations, events, **OPTIONS) for model in (tree, flat)]


def test_tree_is_the_mixture_it_spells_out(trees):
    nested, plain = ((call(p, "log_likelihood", TREE_POINT), call(p, "fractions", TREE_POINT)) for p in trees)
    assert float(nested[0]) == pytest.approx(float(plain[0]), rel=1e-6)
    assert {name: round(float(value), 4) for name, value in nested[1].items()} == {
        "background": 0.6,
        "signal": 0.4,
        "signal/hard": 0.12,
        "signal/soft": 0.28,
    }
    assert float(plain[1]["soft"]) == pytest.approx(0.28)
    assert trees[0].engines["signal/hard"] is trees[0].engines["signal/soft"]  # one position, one kernel


def test_fractions_and_fluxes_convert_both_ways(trees):
    posterior = trees[0]
    scales = call(posterior, "flux_scales", TREE_POINT)
    back = eqx.filter_jit(posterior.scaled_fractions)(TREE_POINT, scales)
    assert {name: round(float(value), 5) for name, value in back.items()} == {
        "signal/hard": 0.12,
        "signal/soft": 0.28,
        "background": 0.6,
    }
    counts = call(posterior, "counts", TREE_POINT)
    assert sum(float(count.sum()) for count in counts.values()) == pytest.approx(60.0, rel=1e-5)
    # twice the flux in the model is half the scale, for all draws at once
    doubled = {**TREE_POINT, "weight": jnp.array([0.2, 0.4, 0.8])}
    axes = ({"index": None, "ratios": None, "weight": 0},)
    found = jax.vmap(posterior.flux_scales, in_axes=axes)(doubled)["signal/hard"]
    np.testing.assert_allclose(found, float(scales["signal/hard"]) * np.array([0.5, 1.0, 2.0]), rtol=1e-5)
    with pytest.raises(ValueError, match="'signal' is no component; the components are"):
        posterior.scaled_fractions(TREE_POINT, {"signal": 1.0})


def test_group_without_weights_keeps_the_proportions_of_its_fluxes(observations, events, trees):
    def grouped(p):
        parts = tree({**p, "ratios": TREE_POINT["ratios"]}).components
        signal = gj.Mixture(hard=parts["signal/hard"], soft=parts["signal/soft"])
        return gj.Mixture(signal=signal, background=parts["background"], weights={"signal": p["weight"]})

    priors = {name: TREE_PRIORS[name] for name in ("index", "weight")}
    point = {name: TREE_POINT[name] for name in priors}
    posterior = gj.Posterior(grouped, priors, observations, events, **OPTIONS)
    counts = {name: float(value.sum()) for name, value in call(posterior, "expected_counts", point).items()}
    share = counts["signal/hard"] / (counts["signal/hard"] + counts["signal/soft"])
    same = {**TREE_POINT, "ratios": jnp.array([share, 1.0 - share])}
    expected = float(call(trees[0], "log_likelihood", same))
    assert float(call(posterior, "log_likelihood", point)) == pytest.approx(expected, rel=1e-6)


def test_cube_of_a_tree(trees):
    posterior = trees[0]
    assert posterior.cube_size == 3
    p = posterior.prior_transform(jnp.array([0.5, 0.25, 0.5]))
    assert float(p["index"]) == pytest.approx(2.25) and float(p["weight"]) == pytest.approx(0.25)
    np.testing.assert_allclose(p["ratios"], [0.5, 0.5], atol=1e-5)


def test_background_norm_of_every_observation(observations, events, by_component):
    def model(p):
        # a scatter from run to run, its width a parameter too
        return absolute({**POINT, "norm": p["norm"] * jnp.exp(p["scatter"] * p["run"])})

    unit = dist.Normal(0.0, 1.0).expand([2])
    priors = {"norm": dist.LogNormal(0.0, 0.3), "scatter": dist.HalfNormal(0.2), "run": unit}
    posterior = gj.Posterior(model, priors, observations, events, **OPTIONS)
    p = {"norm": jnp.asarray(0.8), "scatter": jnp.asarray(0.5), "run": jnp.array([-1.0, 2.0])}
    norms = 0.8 * np.exp([-0.5, 1.0])
    (signal, background), _ = by_component
    expected = np.log(1.4 * signal + norms[np.asarray(events.observation)] * background).sum()
    counts = call(posterior, "expected_counts", p)
    one = call(posterior, "expected_counts", {**p, "run": jnp.zeros(2)})["background"] / 0.8
    np.testing.assert_allclose(counts["background"], norms * np.asarray(one), rtol=1e-5)
    expected -= float(counts["signal"].sum() + counts["background"].sum())
    assert float(call(posterior, "log_likelihood", p)) == pytest.approx(expected, rel=1e-5)
    assert posterior.cube_size == 4
    with pytest.raises(ValueError, match=r"norm has shape \(2,\); give one number, or 1"):
        gj.Posterior(model, priors, observations[:1], events[np.asarray(events.observation) == 0], **OPTIONS)
