import importlib

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from gammajax.engines import FixedEngine, FoldEngine, KernelEngine, PreparedKernel
from gammajax.instrument.sky import Grid

PER_DECADE = 15.0
OPTIONS = {"per_decade": PER_DECADE}
GRID = Grid(0.3, 0.2, 0.1, 1.0)
POINT = {"index": 2.1, "tilt": 0.1}


def components(p):
    return {
        "signal": gj.Source(gj.PowerLaw(p["index"], 1e-12), gj.Point(0.3, 0.2)),
        "background": gj.InstrumentBackground(norm=30.0, tilt=p["tilt"]),
    }


def weighted(p):
    return gj.Mixture(**components(p), weights={"signal": p["weight"]})


PRIORS = {"index": dist.Uniform(1.5, 3.5), "tilt": dist.Normal(0.0, 0.2), "weight": dist.Beta(2.0, 3.0)}


def free(p):
    source = gj.Source(gj.PowerLaw(2.3), gj.Point(p["lon"], p["lat"]))
    return gj.Mixture(signal=source, background=gj.InstrumentBackground(), weights={"signal": 0.3})


FREE = {"lon": dist.Uniform(0.1, 0.5), "lat": dist.Uniform(0.1, 0.4)}


@pytest.mark.slow
def test_a_free_morphology_takes_the_fold_engine(observations, events):
    posterior = gj.Posterior(free, FREE, observations[0], events[events.observation == 0][:3], **OPTIONS)
    assert isinstance(posterior.engines["signal"], FoldEngine)
    # one observation needs no list, and the likelihood knows about the position
    at = {"lon": jnp.asarray(0.3), "lat": jnp.asarray(0.39)}
    assert abs(float(posterior.log_likelihood_ratio(at))) > 0.1


@pytest.mark.parametrize("engine", ["kernel", {"signal": "kernel"}])
def test_the_kernel_engine_refuses_a_free_morphology(observations, events, engine):
    with pytest.raises(ValueError, match="the morphology of component 'signal' depends on parameter '(lon|lat)'"):
        gj.Posterior(free, FREE, observations, events, engine=engine, **OPTIONS)


@pytest.mark.slow
def test_components_share_the_kernel_of_their_morphology(observations, events):
    def two(p):
        place = gj.Point(0.3, 0.2)
        hard, soft = (gj.Source(gj.PowerLaw(p["index"] + d), place) for d in (0.0, 1.0))
        return gj.Mixture(hard=hard, soft=soft, weights={"hard": 0.5})

    posterior = gj.Posterior(two, {"index": dist.Uniform(1.5, 2.5)}, observations, events, **OPTIONS)
    assert isinstance(posterior.engines["hard"], KernelEngine)
    assert posterior.engines["hard"] is posterior.engines["soft"]


def test_a_prepared_kernel_serves_all_components_of_its_morphology(observations, events):
    def two(p):
        place = gj.Point(0.3, 0.2)
        parts = {name: gj.Source(gj.PowerLaw(p.get(name, 2.0), 1e-12), place) for name in ("hard", "soft", "known")}
        return gj.Mixture(**parts, weights={"hard": 0.3, "soft": 0.3})

    prepared = PreparedKernel.init(gj.Point(0.3, 0.2), observations, PER_DECADE)
    priors = {"hard": dist.Uniform(1.5, 2.0), "soft": dist.Uniform(2.0, 2.5)}
    for given in ("hard", "soft", "known"):
        posterior = gj.Posterior(two, priors, observations, events, engine={given: prepared}, **OPTIONS)
        assert posterior.engines["hard"] is posterior.engines["soft"]
        assert isinstance(posterior.engines["known"], FixedEngine)


@pytest.mark.slow
def test_numbers_of_a_fixed_component_give_counts_of_other_spectra(observations, events):
    """Plots of predicted counts weight events of a second spectrum."""
    posterior = gj.Posterior(fixed_parts, {"weight": dist.Beta(2.0, 3.0)}, observations, events, **OPTIONS)
    parts = components({"index": 2.9, "tilt": -0.2})
    for name, part in parts.items():
        found = posterior.engines[name].expected_counts(part).sum()
        assert float(found) == pytest.approx(float(gj.expected_counts(part, observations, **OPTIONS)), rel=1e-5)


@pytest.mark.slow
def test_components_share_the_kernel_of_their_template(observations, events):
    """Its arrays are compared by value."""
    values = np.ones((GRID.size, GRID.size))

    def two(p):
        hard, soft = (gj.Source(gj.PowerLaw(p["index"] + d), gj.TemplateMap(GRID, values)) for d in (0.0, 1.0))
        return gj.Mixture(hard=hard, soft=soft, weights={"hard": 0.5})

    posterior = gj.Posterior(two, {"index": dist.Uniform(1.5, 2.5)}, observations, events, **OPTIONS)
    assert posterior.engines["hard"] is posterior.engines["soft"]


def fixed_parts(p):
    """Only the weight is free."""
    return gj.Mixture(**components({**POINT, **p}), weights={"signal": p["weight"]})


def test_components_without_parameters_keep_one_number_for_each_event(observations, events):
    priors = {"weight": dist.Beta(2.0, 3.0)}
    compact, whole = (
        gj.Posterior(fixed_parts, priors, observations, events, compact=compact, **OPTIONS) for compact in (True, False)
    )
    assert all(isinstance(engine, FixedEngine) for engine in compact.engines.values())
    assert isinstance(whole.engines["signal"], KernelEngine)
    rows = compact.count.size
    assert all(
        engine.values.shape == (rows,) and engine.values.dtype == np.float32 for engine in compact.engines.values()
    )
    p = {"weight": jnp.asarray(0.3)}
    np.testing.assert_allclose(compact.density(p), whole.density(p), rtol=1e-6)
    for name, counts in compact.expected_counts(p).items():
        np.testing.assert_allclose(counts, whole.expected_counts(p)[name], rtol=1e-6)
    # a prepared kernel serves fixed components too
    prepared = PreparedKernel.init(gj.Point(0.3, 0.2), observations, PER_DECADE)
    again = gj.Posterior(fixed_parts, priors, observations, events, engine={"signal": prepared}, **OPTIONS)
    np.testing.assert_array_equal(again.engines["signal"].values, compact.engines["signal"].values)


@pytest.mark.slow
def test_a_morphology_is_folded_once(observations, events, monkeypatch):
    """The fold is shared by all fixed components, or with a free one, also if it is listed last."""
    fold = importlib.import_module("gammajax.engines.kernel").folded
    folds = []

    def folded(morphology, *rest):
        folds.append(morphology)
        return fold(morphology, *rest)

    for module in ("engines.kernel", "engines.fixed", "engines.choice"):
        monkeypatch.setattr(f"gammajax.{module}.folded", folded)

    def several(p):
        place = gj.Point(0.3, 0.2)
        indices = {"first": 2.0, "second": 3.0, "last": p["last"]}
        parts = {name: gj.Source(gj.PowerLaw(index, 1e-12), place) for name, index in indices.items()}
        return gj.Mixture(**parts, weights={"first": 0.1, "last": 0.5 * p["weight"]})

    counts, densities = [], []
    for last in (2.5, dist.Uniform(2.0, 3.0)):
        priors = {"weight": dist.Uniform(0.0, 1.0)} | ({} if isinstance(last, float) else {"last": last})
        posterior = gj.Posterior(lambda p: several({"last": 2.5} | p), priors, observations, events, **OPTIONS)
        counts.append((len(folds), [type(engine) for engine in posterior.engines.values()]))
        folds.clear()
        at = {"weight": jnp.asarray(0.6), "last": jnp.asarray(2.5)}
        densities.append(np.asarray(posterior.density({name: at[name] for name in priors})))
    assert counts == [(1, [FixedEngine] * 3), (1, [FixedEngine, FixedEngine, KernelEngine])]
    np.testing.assert_allclose(densities[0], densities[1], rtol=1e-5)
    # a kernel of another position is refused, also if the right one is given too
    wrong = {"first": PreparedKernel.init(gj.Point(0.0, 0.0), observations, PER_DECADE)}
    with pytest.raises(ValueError, match="prepared for other morphology"):
        gj.Posterior(several, priors, observations, events, engine=wrong, **OPTIONS)


def test_a_component_that_depends_on_a_product_is_not_fixed(observations, events):
    def product(p):
        return gj.Mixture(**components({**POINT, "index": 2.1 + p["a"] * p["b"]}), weights={"signal": 0.3})

    priors = {"a": dist.Normal(0.0, 0.1), "b": dist.Normal(0.0, 0.1)}
    posterior = gj.Posterior(product, priors, observations, events, **OPTIONS)
    assert isinstance(posterior.engines["signal"], KernelEngine)
    assert isinstance(posterior.engines["background"], FixedEngine)


def elsewhere(p):
    moved = gj.Source(gj.PowerLaw(p["index"]), gj.Point(0.3, 0.25))
    return gj.Mixture(signal=moved, sky=gj.InstrumentBackground(tilt=p["tilt"]), weights={"signal": p["weight"]})


@pytest.mark.slow
def test_a_prepared_kernel_serves_many_lists_of_events(observations, events):
    prepared = PreparedKernel.init(gj.Point(0.3, 0.2), observations, PER_DECADE)
    for some in (events, events[10:50]):
        expected = gj.Posterior(weighted, PRIORS, observations, some, **OPTIONS)
        found = gj.Posterior(weighted, PRIORS, observations, some, engine={"signal": prepared}, **OPTIONS)
        assert eqx.tree_equal(found.engines["signal"], expected.engines["signal"])
    with pytest.raises(ValueError, match="the morphology of component 'signal' depends on parameter"):
        gj.Posterior(free, FREE, observations, events, engine={"signal": prepared}, **OPTIONS)
    for arguments, options, wrong in (
        ((weighted, PRIORS, observations), {}, "true-energy nodes"),
        ((weighted, PRIORS, observations[:1]), OPTIONS, "observations"),
        ((elsewhere, PRIORS, observations), OPTIONS, "morphology"),
    ):
        mine = gj.Events(events.energy, events.lon, events.lat, 0)
        with pytest.raises(ValueError, match=f"the kernel was prepared for other {wrong}"):
            gj.Posterior(*arguments, mine, engine={"signal": prepared}, **options)


def with_mass(p):
    return gj.Mixture(signal=gj.Source(gj.DarkMatter("W", mass=p["mass"]), gj.Point(0.3, 0.2)), weights={})


def test_a_prior_beyond_the_table_is_named(observations, events):
    with pytest.raises(ValueError, match="the prior of 'mass' reaches 0.01: mass 0.01 TeV is outside the table"):
        gj.Posterior(with_mass, {"mass": dist.LogUniform(0.01, 50.0)}, observations, events, **OPTIONS)
    with pytest.raises(ValueError, match="the prior of 'mass' reaches 500: mass 500 TeV is outside the table"):
        gj.Posterior(with_mass, {"mass": dist.LogUniform(1.0, 500.0)}, observations, events, **OPTIONS)


def test_components_must_not_change_with_parameters(observations, events):
    def model(p):
        return gj.Mixture(**components(POINT), **({"more": gj.InstrumentBackground()} if p["n"] > 1.5 else {}))

    with pytest.raises(ValueError, match="components or weights change with 'n'"):
        gj.Posterior(model, {"n": dist.Uniform(0.0, 2.0)}, observations, events, **OPTIONS)
