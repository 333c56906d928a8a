"""Law: the log-likelihood of several data sets is the sum of their log-likelihoods."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj

OPTIONS = {"per_decade": 10.0}
POINT = {"index": jnp.asarray(2.3), "flux": jnp.asarray(1.5), "norm": jnp.asarray(0.8), "spread": jnp.asarray(0.9)}
PRIORS = {
    "index": dist.Normal(2.3, 0.3),
    "flux": dist.LogNormal(0.0, 0.5),
    "norm": dist.LogNormal(0.0, 0.3),
    "spread": dist.LogNormal(0.0, 0.3),
}


def model(p):
    """A source in both data sets, and a background of each; that of the second is inside a mixture."""
    source = gj.Source(gj.PowerLaw(p["index"], p["flux"] * 2e-11), gj.Point(0.3, 0.2))
    return gj.Mixture(
        source=source,
        first=gj.InstrumentBackground(p["norm"]),
        second=gj.Mixture(sky=gj.InstrumentBackground(p["spread"], 0.1)),
    )


@pytest.fixture(scope="module")
def sets(observations, events):
    seen = np.asarray(events.observation)
    own = [gj.Events(*(column[seen == i] for column in (events.energy, events.lon, events.lat))) for i in range(2)]
    return list(zip(observations, own, strict=True))


@pytest.fixture(scope="module")
def both(sets):
    named = [("near", ["source", "first"]), ("far", ["source", "second"])]
    data = [gj.Unbinned(*of, name=n, components=c, **OPTIONS) for of, (n, c) in zip(sets, named, strict=True)]
    return gj.Posterior(model, PRIORS, data)


@pytest.fixture(scope="module")
def each(sets):
    """Posteriors of each data set alone, with the components that it sees."""
    seen = [["source", "first"], ["source", "second"]]
    used = [["index", "flux", "norm"], ["index", "flux", "spread"]]

    def single(of, names, parameters):
        def part(p):
            return model({**POINT, **p}).only(names)

        return gj.Posterior(part, {name: PRIORS[name] for name in parameters}, *of, **OPTIONS)

    return [single(*arguments) for arguments in zip(sets, seen, used, strict=True)], used


@eqx.filter_jit
def value_and_gradient(posterior, p):
    return jax.value_and_grad(posterior.log_likelihood_ratio)(p)


def test_terms_add_up(both, each):
    alone, used = each
    value, gradient = value_and_gradient(both, POINT)
    parts = [
        value_and_gradient(one, {name: POINT[name] for name in names}) for one, names in zip(alone, used, strict=True)
    ]
    assert float(value) == pytest.approx(sum(float(part) for part, _ in parts), rel=1e-5, abs=1e-4)
    for name in POINT:
        expected = sum(float(slope[name]) for _, slope in parts if name in slope)
        assert float(gradient[name]) == pytest.approx(expected, rel=1e-4, abs=1e-3), name
    assert float(both.log_reference) == pytest.approx(sum(float(one.log_reference) for one in alone), rel=1e-6)
    assert both.log_reference_exact() == pytest.approx(sum(one.log_reference_exact() for one in alone), rel=1e-9)
    assert both.total == sum(one.total for one in alone) == 60


def test_expected_counts_of_all_data_sets(both, each):
    found = both.expected_counts(POINT)
    assert list(found) == ["source", "first", "second/sky"]
    parts = [one.expected_counts({n: POINT[n] for n in names}) for one, names in zip(*each, strict=True)]
    for name, counts in found.items():
        expected = [float(part[name][0]) if name in part else 0.0 for part in parts]
        np.testing.assert_allclose(counts, expected, rtol=1e-5)
    assert set(both.flux_scales(POINT)) == set(found)
    np.testing.assert_allclose(both.counts(POINT)["source"], found["source"])


def test_another_reference_changes_a_constant_only(both):
    moved = both.with_reference(POINT)
    assert float(moved.log_likelihood_ratio(POINT)) == pytest.approx(0.0, abs=1e-5)
    assert float(moved.log_likelihood(POINT)) == pytest.approx(float(both.log_likelihood(POINT)), rel=1e-6)
    assert [term.name for term in moved.terms] == ["near", "far"]


def test_the_model_is_evaluated_once(sets):
    calls = []

    def counting(p):
        calls.append(1)
        return model(p)

    posterior = gj.Posterior(counting, PRIORS, [gj.Unbinned(*of, name=f"{i}", **OPTIONS) for i, of in enumerate(sets)])
    for function in (posterior.log_likelihood_ratio, posterior.with_reference, posterior.expected_counts):
        calls.clear()
        jax.eval_shape(function, POINT)
        assert len(calls) == 1


def weighted(p):
    source = model({**POINT, **p}).components["source"]
    return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": 0.3})


def dark(p):
    source = gj.Source(gj.TabulatedSpectrum([0.01, 0.02], [1e-9, 1e-9], p["flux"]), gj.Point(0.3, 0.2))
    return gj.Mixture(dark=source, sky=gj.InstrumentBackground(p["norm"]))


def unused(*names):
    return {name: PRIORS[name] for name in names}


# model, priors, changes of the data sets, and the message
REFUSED = {
    "weights": (weighted, unused("index", "flux"), {}, "several data sets need absolute fluxes"),
    "a component without counts": (dark, unused("flux", "norm"), {}, "component 'dark' expects no events"),
    "equal names": (model, PRIORS, {"name": "same"}, r"need different names, not \['same', 'same'\]"),
    "unknown components": (model, PRIORS, {"components": ["sorce"]}, r"no components \['sorce'\]; the components are"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, sets):
    made, priors, changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        gj.Posterior(made, priors, [gj.Unbinned(*of, **OPTIONS, **changes) for of in sets])


def test_misplaced_arguments(sets, both):
    data = [gj.Unbinned(*of, **OPTIONS) for of in sets]
    with pytest.raises(ValueError, match="give engine to the data set: gammajax.Unbinned"):
        gj.Posterior(model, PRIORS, data, engine="fold")
    with pytest.raises(ValueError, match="give events with their observations"):
        gj.Posterior(model, PRIORS, data, sets[0][1])
    with pytest.raises(ValueError, match="all data sets must be as gammajax.Unbinned"):
        gj.Posterior(model, PRIORS, [*data, sets[0][0]])
    with pytest.raises(ValueError, match=r"density are those of a single data set of events; .* \['near', 'far'\]"):
        both.density(POINT)
