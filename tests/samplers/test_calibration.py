"""The whole chain: prior draw, simulation, inference, rank of the truth; a small `benchmarks.calibration`."""

import warnings

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import binom, kstest

import gammajax as gj

PRIORS = {"fraction": dist.Uniform(0.1, 0.9), "index": dist.Normal(2.5, 0.4)}
SIMULATIONS, EVENTS, RANKS = 50, 150, 24


def model(p):
    return gj.Mixture(
        source=gj.Source(gj.PowerLaw(index=p["index"]), gj.Point(0.3, 0.2)),
        background=gj.InstrumentBackground(),
        weights={"source": p["fraction"]},
    )


@pytest.mark.slow
def test_ranks_of_the_truth_are_uniform(make_observation):
    observation = make_observation(energy_min=1.0, energy_max=4.0, offset_max=1.0)
    engine = {"source": gj.engines.PreparedKernel.init(gj.Point(0.3, 0.2), observation, 15.0)}
    ranks, held = [], []
    for seed in range(SIMULATIONS):
        keys = jax.random.split(jax.random.key(seed), 3)
        truth = {name: p.sample(jax.random.fold_in(keys[0], i)) for i, (name, p) in enumerate(PRIORS.items())}
        events = gj.simulate(keys[1], model(truth), observation, events=EVENTS)
        posterior = gj.Posterior(model, PRIORS, observation, events, engine=engine, per_decade=15.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # draws are few
            result = gj.nuts(keys[2], posterior, draws=100, warmup=60, chains=1, progress=False)
        draws = {name: result.samples[name] for name in PRIORS}
        thinned = {name: values[np.linspace(0, len(values) - 1, RANKS).astype(int)] for name, values in draws.items()}
        ranks.append([np.sum(thinned[name] < float(truth[name])) for name in PRIORS])
        held.append([abs(np.mean(draws[name] < float(truth[name])) - 0.5) < 0.5 * 0.6827 for name in PRIORS])
    spread = np.random.default_rng(0).uniform(size=(SIMULATIONS, len(PRIORS)))
    for uniform, inside in zip(((np.array(ranks) + spread) / (RANKS + 1)).T, np.array(held).T, strict=True):
        assert kstest(uniform, "uniform").pvalue > 0.01
        assert binom.ppf(0.005, SIMULATIONS, 0.6827) <= inside.sum() <= binom.ppf(0.995, SIMULATIONS, 0.6827)
