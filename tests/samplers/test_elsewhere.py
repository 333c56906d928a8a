"""Other packages' samplers use the pure functions of a posterior."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import gammajax as gj

NAMES = ("fraction", "index")


def model(p):
    source = gj.Source(gj.PowerLaw(p["index"]), gj.Point(0.3, 0.0))
    return gj.Mixture(source=source, sky=gj.InstrumentBackground(), weights={"source": p["fraction"]})


@pytest.fixture(scope="module")
def posterior(make_observation):
    observation = make_observation(energy_min=1.0, energy_max=4.0, offset_max=1.0)
    events = gj.simulate(
        jax.random.key(0), model({"fraction": jnp.array(0.1), "index": jnp.array(2.3)}), observation, events=2000
    )
    priors = {"fraction": dist.Uniform(0.0, 0.5), "index": dist.Normal(2.5, 0.5)}
    return gj.Posterior(model, priors, observation, events, per_decade=15.0)


@pytest.fixture(scope="module")
def functions(posterior):
    """Log-likelihood of points and the transform of a point of the unit cube, on numpy arrays."""

    @eqx.filter_jit
    def log_likelihood(posterior, x):
        return jax.lax.map(lambda one: posterior.log_likelihood_ratio(dict(zip(NAMES, one, strict=True))), x)

    @eqx.filter_jit
    def transform(posterior, u):
        return jax.vmap(lambda one: jnp.stack([posterior.prior_transform(one)[name] for name in NAMES]))(u)

    def numpy(function, block=64):
        def call(x):
            # batches of one size: each size is compiled
            x = np.atleast_2d(x)
            padded = np.resize(x, (-(-len(x) // block) * block, x.shape[1])).reshape(-1, block, x.shape[1])
            parts = [np.asarray(function(posterior, jnp.asarray(part)), float) for part in padded]
            return np.concatenate(parts)[: len(x)]

        return call

    return numpy(log_likelihood), numpy(transform)


@pytest.fixture(scope="module")
def truth(functions):
    """Log-evidence and means by a grid over the prior's mass."""
    log_likelihood, transform = functions
    side = (np.arange(120) + 0.5) / 120.0
    u = np.stack([axis.ravel() for axis in np.meshgrid(0.1 + 0.2 * side, side, indexing="ij")], axis=1)
    x, logs = transform(u), log_likelihood(transform(u))
    weight = np.exp(logs - logs.max())
    return float(logs.max() + np.log(0.2 * weight.mean())), weight @ x / weight.sum(), logs


@pytest.mark.slow
def test_grid_holds_the_posterior(truth):
    _, mean, _ = truth
    assert 0.07 < mean[0] < 0.13 and 1.8 < mean[1] < 2.8


@pytest.mark.slow
def test_dynesty(functions, truth):
    dynesty = pytest.importorskip("dynesty", minversion="3")
    log_likelihood, transform = functions
    sampler = dynesty.NestedSampler(
        lambda x: float(log_likelihood(x)[0]), lambda u: transform(u)[0], 2, nlive=60, rstate=np.random.default_rng(0)
    )
    sampler.run_nested(print_progress=False, dlogz=0.3)
    log_evidence, mean, _ = truth
    assert abs(sampler.results.logz[-1] - log_evidence) < 4.0 * sampler.results.logzerr[-1]
    weights = np.exp(sampler.results.logwt - sampler.results.logz[-1])
    found = weights @ sampler.results.samples / weights.sum()
    spread = np.sqrt(weights @ (sampler.results.samples - found) ** 2 / weights.sum())
    assert np.all(np.abs(found - mean) < 0.5 * spread)


def test_ultranest(functions, truth):
    ultranest = pytest.importorskip("ultranest")
    log_likelihood, transform = functions
    np.random.seed(0)  # the sampler uses numpy's global generator
    sampler = ultranest.ReactiveNestedSampler(
        list(NAMES), log_likelihood, transform=transform, vectorized=True, ndraw_min=32, ndraw_max=32
    )
    result = sampler.run(min_num_live_points=60, show_status=False, viz_callback=False)
    log_evidence, mean, _ = truth
    assert abs(result["logz"] - log_evidence) < 4.0 * result["logzerr"]
    assert np.all(np.abs(np.array(result["posterior"]["mean"]) - mean) < 0.5 * np.array(result["posterior"]["stdev"]))


def test_numpyro_factor(posterior, truth):
    def mine():
        p = {name: numpyro.sample(name, prior) for name, prior in posterior.priors.items()}
        numpyro.factor("events", posterior.log_likelihood_ratio(p))

    point = {"fraction": jnp.array(0.12), "index": jnp.array(2.2)}
    density, _ = numpyro.infer.util.log_density(mine, (), {}, point)
    expected = posterior.log_likelihood_ratio(point) + posterior.log_prior(point)
    assert float(density) == pytest.approx(float(expected), rel=1e-5)
