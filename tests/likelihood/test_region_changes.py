"""Changes of the response in data of energies alone: as if the files had another response."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from on_off import HIGH, LOW, model, some_runs
from scipy import stats

import gammajax as gj
from gammajax.likelihood import Binned
from gammajax.likelihood.on_bins import OnBins

EDGES = np.geomspace(LOW, HIGH, 7)
POINT = {"amplitude": 1.3, "index": 2.4, "b": 3.0 - 1.5 * np.linspace(-1.0, 1.0, 6)}
SPLINE = {"effective_area_spline": [0.1, -0.1, 0.2], "spline_energies": [0.3, 1.0, 10.0]}
CHANGES = {
    "area": {"effective_area": 1.2, "effective_area_tilt": 0.2, "reference": 2.0, **SPLINE},
    "energy": {"energy_scale": -0.15, "energy_resolution": 1.3},
    "all": {"effective_area": 0.9, "energy_scale": 0.08, "energy_resolution": 1.2, **SPLINE},
}
KINDS = {
    "unbinned": gj.OnOff,
    "cells": lambda runs: gj.OnOffCounts(runs, EDGES),
    "cells of runs": lambda runs: gj.OnOffCounts(runs, EDGES, by_run=True),
}


def of(p, **change):
    """The model of the tests with a change of the response."""
    found = model(p)
    return gj.Mixture(**dict(zip(found.names, found.parts, strict=True)), response=gj.ResponseChange(**change))


@functools.cache
def runs():
    """Two runs."""
    return some_runs(2)


@functools.cache
def data(kind, change=""):
    """Their term, with responses that are changed in the files."""
    change = gj.ResponseChange(**CHANGES.get(change, {}))
    return KINDS[kind]([gj.changed(run, change) for run in runs()] if change.changed_fields(change.names) else runs())


@eqx.filter_jit
def values(term, mixture):
    """Of arrays, so that nothing is known when it is compiled."""
    return term.log_likelihood(mixture), term.expected_counts(mixture)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_change_is_another_response_in_the_files(kind, name):
    value, counts = values(data(kind), of(POINT, **CHANGES[name]))
    wanted, expected = values(data(kind, name), model(POINT))
    np.testing.assert_allclose(value, wanted, atol=0.02, rtol=2e-5)
    for path, number in expected.items():
        np.testing.assert_allclose(counts[path], number, rtol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_each_run_is_that_of_the_runs(kind):
    change = {"effective_area": jnp.array([1.2, 0.8]), "energy_scale": jnp.array([0.1, -0.1])}
    whole = gj.ResponseChange(**change)
    changed = [gj.changed(run, whole.select(i)) for i, run in enumerate(runs())]
    term, other = data(kind), KINDS[kind](changed)
    np.testing.assert_allclose(
        term.log_likelihood(of(POINT, **change)), other.log_likelihood(model(POINT)), atol=0.02, rtol=2e-5
    )
    mine = OnBins.init(term, EDGES).by_energy(of(POINT, **change))["source"]
    np.testing.assert_allclose(mine, OnBins.init(other, EDGES).by_energy(model(POINT))["source"], rtol=2e-3)
    with pytest.raises(ValueError, match="energy_scale of the response has shape"):
        term.log_likelihood(of(POINT, energy_scale=jnp.zeros(3)))


@pytest.mark.parametrize("kind", KINDS)
def test_slopes_of_a_change_are_differences(kind):
    term = data(kind)
    x = jnp.array([0.05, 0.1, -0.1])

    @jax.jit
    @jax.value_and_grad
    def value(x):
        change = {"energy_scale": x[0], "energy_resolution": jnp.exp(x[1]), "effective_area_tilt": x[2]}
        return term.log_likelihood(of(POINT, **change))

    slope, step = value(x)[1], 1e-3
    found = [(value(x.at[i].add(step))[0] - value(x.at[i].add(-step))[0]) / (2.0 * step) for i in range(3)]
    np.testing.assert_allclose(slope, found, atol=0.2, rtol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_changes_are_kept_and_free_ones_are_not(kind):
    priors = {"amplitude": dist.Uniform(0.1, 3.0)}

    def known(p):
        every = of({**POINT, "amplitude": p["amplitude"]}, energy_scale=p.get("scale", 0.1))
        return every if kind == "unbinned" else every.only(["source"])

    fixed = gj.Posterior(known, priors, data(kind), progress=False)
    free = gj.Posterior(known, priors | {"scale": dist.Normal(0.0, 0.1)}, data(kind), progress=False)
    assert list(fixed.terms[0].kernels) == ["source"] and not free.terms[0].kernels
    at = {"amplitude": jnp.asarray(1.1)}
    np.testing.assert_allclose(
        fixed.log_likelihood(at), free.log_likelihood(at | {"scale": jnp.asarray(0.1)}), atol=2e-3
    )


def test_a_simulated_scale_is_recovered():
    truth = {"effective_area": 1.1, "energy_scale": 0.2}
    longer = some_runs(2, livetime=3e5)
    drawn = gj.simulate_on_off(jax.random.key(1), of({**POINT, "b": POINT["b"] - 3.0}, **truth), longer)
    plain = gj.simulate_on_off(jax.random.key(1), of({**POINT, "b": POINT["b"] - 3.0}), longer)
    assert sum(run.on.size for run in drawn) > 1.2 * sum(run.on.size for run in plain)
    changed = [gj.changed(run, gj.ResponseChange(**truth)) for run in longer]
    expected = gj.OnOffCounts(changed, EDGES).signals(model(POINT))["source"]
    background = gj.OnOffCounts(changed, EDGES).ratio * gj.OnOffCounts(drawn, EDGES).off
    pulls = (gj.OnOffCounts(drawn, EDGES).on - expected - background) / np.sqrt(expected + background)
    assert np.abs(pulls).max() < 4.0


@pytest.mark.parametrize("field", ["psf_width", "pointing_lon", "pointing_lat"])
def test_changes_in_directions_are_refused(field):
    wrong = of(POINT, **{field: 1.05})
    for kind in KINDS:
        with pytest.raises(ValueError, match=field):
            data(kind).log_likelihood(wrong)
    with pytest.raises(ValueError, match=field):
        gj.simulate_on_off(jax.random.key(0), wrong, runs())
    with pytest.raises(ValueError, match=field):
        gj.changed(runs()[0], gj.ResponseChange(**{field: 1.05}))
    with pytest.raises(ValueError, match=field):
        gj.Posterior(
            lambda p: of(POINT, **{field: p["x"]}), {"x": dist.LogNormal(0.0, 0.1)}, data("unbinned"), progress=False
        )


def test_sources_that_are_no_points_are_not_drawn():
    background = gj.OffBackground(POINT["b"], LOW, HIGH)
    wide = gj.Mixture(source=gj.Source(gj.PowerLaw(2.5, 1e-11), gj.Gaussian(0.0, 0.0, 0.3)), background=background)
    with pytest.raises(ValueError, match="is a Gaussian"):
        gj.simulate_on_off(jax.random.key(0), wide, runs())


def gaussian_counts(edges, true, scale=0.0):
    """Binned data whose dispersion is a Gaussian in ln E' of one width at all energies."""
    mean = np.log(true[:-1] * true[1:]) / 2.0 + np.log1p(scale)
    below = stats.norm.cdf((np.log(edges)[None] - mean[:, None]) / 0.15)
    return Binned(
        name="counts",
        counts=np.ones((edges.size - 1, 1, 1)),
        mask=np.ones((edges.size - 1, 1, 1), bool),
        edges=edges,
        edges_true=true,
        exposure=1e13 * (true[1:] * true[:-1])[:, None, None] ** 0.4 / (1.0 + (0.4 / true[1:, None, None]) ** 3),
        response=lambda lon, lat: (None, np.diff(below, axis=1)),
    )


@pytest.mark.parametrize("per_decade", [5, 10, 30])
@pytest.mark.parametrize("scale", [-0.2, 0.05, 0.2])
def test_scales_of_binned_data_are_those_of_their_dispersion(per_decade, scale):
    true = np.geomspace(0.1, 100.0, 91)
    edges = np.geomspace(0.5, 20.0, int(1.6 * per_decade) + 1)
    priors = {"index": dist.Uniform(2.0, 3.0)}

    def mixture(p, **change):
        change = gj.ResponseChange(effective_area=1.3, effective_area_tilt=0.1, **change)
        return gj.Mixture(source=gj.Source(gj.PowerLaw(p["index"], 1e-11), gj.Point(0.0, 0.0)), response=change)

    def plain(p):
        spectrum = gj.PowerLaw(p["index"] + 0.1, 1.3e-11)
        return gj.Mixture(source=gj.Source(spectrum, gj.Point(0.0, 0.0)))

    here = gj.Posterior(lambda p: mixture(p, energy_scale=scale), priors, gaussian_counts(edges, true), progress=False)
    there = gj.Posterior(plain, priors, gaussian_counts(edges, true, scale), progress=False)
    for index in (2.1, 2.9):
        at = {"index": jnp.asarray(index)}
        found, wanted = (p.terms[0].by_energy(p.model(at))["source"] for p in (here, there))
        # photons that scale into the first and last bin from beyond the axis are extrapolated
        np.testing.assert_allclose(found, wanted, rtol=0.04 if per_decade < 10 else 0.02)
        np.testing.assert_allclose(found[1:-1], wanted[1:-1], rtol=0.01 if per_decade < 10 else 2e-3)


def test_binned_data_keep_resolution_and_directions():
    edges = np.geomspace(0.5, 20.0, 9)
    for change in ({"energy_resolution": 1.1}, {"psf_width": 1.1}, {"energy_scale": np.zeros(2)}):
        source = gj.Source(gj.PowerLaw(2.0, 1e-11), gj.Point(0.0, 0.0), gj.ResponseChange(**change))
        with pytest.raises(ValueError, match=next(iter(change)).replace("_", ".")):
            gj.Posterior(lambda p, s=source: gj.Mixture(s=s), {}, gaussian_counts(edges, edges), progress=False)
