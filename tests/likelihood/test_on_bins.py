import jax.numpy as jnp
import numpy as np
import pytest
from on_off import HIGH, LOW, model, some_runs

import gammajax as gj
from gammajax.likelihood.on_bins import OnBins

EDGES = np.geomspace(LOW, HIGH, 7)
TRUTH = {"index": 2.5, "amplitude": 2.0, "b": np.linspace(7.0, 2.0, 6)}


@pytest.mark.slow
def test_bins_add_up_to_the_counts_of_the_term():
    runs = [*some_runs(2), *some_runs(1, seed=1)]
    term = gj.OnOff(runs)
    bins = OnBins.init(term, EDGES)
    assert bins.on.sum() == sum(run.on.size for run in runs) and bins.off.sum() == sum(run.off.size for run in runs)
    expected, whole = bins.by_energy(model(TRUTH)), term.expected_counts(model(TRUTH))
    np.testing.assert_allclose(expected["source"].sum(), whole["source"].sum(), rtol=2e-3)
    # the term counts ON and OFF: with a ratio of a third, one in four is in ON
    np.testing.assert_allclose(expected["background"].sum(), whole["background"].sum() / 4.0, rtol=1e-4)


def test_without_a_background_in_the_model_it_is_the_best_one():
    term = gj.OnOffCounts(some_runs(2), edges=[LOW, 2.0, HIGH])
    faint = gj.Mixture(source=gj.Source(gj.PowerLaw(2.5, 1e-20), gj.Point(0.0, 0.0)))
    bins = OnBins.init(term, EDGES)
    found = bins.by_energy(faint)
    # ON and OFF counts of one rate: a / (1 + a) of all counts are in ON
    np.testing.assert_allclose(found["OFF"], 0.25 * (bins.on + bins.off), rtol=1e-4)
    assert float(jnp.abs(found["source"]).max()) < 1e-6


@pytest.mark.filterwarnings("ignore")
def test_counts_of_regions_are_drawn():
    from numpyro import distributions as dist

    from gammajax.plots.counts import plot_counts

    class Result:
        samples = {"amplitude": np.array([1.0, 2.0, 3.0])}

    def of(p):
        return model({**TRUTH, "amplitude": p["amplitude"]})

    data = [gj.OnOff(some_runs(2), name="A"), gj.OnOffCounts(some_runs(1), edges=EDGES, name="B")]
    posterior = gj.Posterior(of, {"amplitude": dist.Uniform(0.0, 10.0)}, data, progress=False)
    figure = plot_counts(posterior, Result())
    titles = [axes.get_title() for part in figure.subfigs for half in part.subfigs for axes in half.axes]
    assert [title for title in titles if title] == [f"{n}: counts by reconstructed energy, ON" for n in "AB"]
