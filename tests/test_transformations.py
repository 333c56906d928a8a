"""Law: every public method of a posterior works under every transformation of JAX, and after pickling."""

import copy
import pickle
from functools import partial

import cloudpickle
import jax
import jax.numpy as jnp
import joblib
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density

import gammajax as gj

POINT = {"index": jnp.asarray(2.2), "share": jnp.asarray(0.3), "ratios": jnp.array([0.4, 0.6])}
AWAY = {"index": jnp.asarray(2.0), "share": jnp.asarray(0.5), "ratios": jnp.array([0.5, 0.5])}
PRIORS = {"index": dist.Normal(2.0, 0.5), "share": dist.Beta(2.0, 3.0), "ratios": dist.Dirichlet(jnp.ones(2))}


def weighted(p):
    """One weight is left out; plain numbers and parameters are mixed."""
    place = gj.Point(0.3, 0.2)
    hard, soft = (gj.Source(gj.PowerLaw(p["index"] + step), place) for step in (0.0, 1.0))
    signal = gj.Mixture(hard=hard, soft=soft, weights=p["ratios"])
    table = gj.TabulatedSpectrum(jnp.array([0.1, 1.0, 20.0]), jnp.array([1e-10, 1e-12, 1e-15]))
    other = gj.Source(table, gj.Point(-0.5, jnp.asarray(0.1)))
    sky = gj.InstrumentBackground(tilt=jnp.asarray(0.1))
    return gj.Mixture(
        signal=signal, other=other, sky=sky, weights={"signal": 0.9 * p["share"], "other": jnp.asarray(0.1)}
    )


def absolute(p):
    parts = weighted(p).components
    flux = gj.ProductSpectrum(parts["other"].spectrum, p["share"])
    return gj.Mixture(
        source=parts["signal/hard"], sky=parts["sky"], other=gj.Source(flux, gj.Point(0.1 * p["ratios"][0], 0.0))
    )


METHODS = {
    "log_likelihood": lambda posterior: posterior.log_likelihood,
    "log_likelihood_ratio": lambda posterior: posterior.log_likelihood_ratio,
    "log_prior": lambda posterior: posterior.log_prior,
    "density": lambda posterior: posterior.density,
    "expected_counts": lambda posterior: posterior.expected_counts,
    "counts": lambda posterior: posterior.counts,
    "fractions": lambda posterior: posterior.fractions,
    "flux_scales": lambda posterior: posterior.flux_scales,
    "scaled_fractions": lambda posterior: lambda p: posterior.scaled_fractions(p, posterior.flux_scales(p)),
    "with_reference": lambda posterior: lambda p: posterior.with_reference(p).log_likelihood_ratio(AWAY),
    "log_reference": lambda posterior: lambda p: posterior.log_reference + 0.0 * p["share"],
    "prior_transform": lambda posterior: lambda p: posterior.prior_transform(jnp.append(p["ratios"], p["share"])),
    "sample_prior": lambda posterior: lambda p: posterior.sample_prior(jax.random.key(0)),
}
NOT_OF_PARAMETERS = {"cube_size", "save", "data", "events", "total", "log_reference_exact"} | {
    "count", "engines", "model", "names", "observations", "priors", "reference", "reference_parameters", "terms"
}  # fmt: skip


def total(function, p):
    """One number from all outputs of a function."""
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(function(p)))


def two(p):
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), p)


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


VALUES = {
    "jit": lambda f: jax.jit(f)(POINT),
    "jit of a function": lambda f: jax.jit(lambda p: f(p))(POINT),
    "vmap": lambda f: first(jax.vmap(f)(two(POINT))),
    "vmap inside jit": lambda f: first(jax.jit(jax.vmap(f))(two(POINT))),
    "jit inside vmap": lambda f: first(jax.vmap(jax.jit(f))(two(POINT))),
    "map": lambda f: first(jax.lax.map(f, two(POINT))),
    "scan": lambda f: first(jax.lax.scan(lambda carry, p: (carry, f(p)), 0, two(POINT))[1]),
    "checkpoint": lambda f: jax.checkpoint(f)(POINT),
}
SCALARS = ("log_likelihood", "log_likelihood_ratio", "log_prior")
SLOPES = {
    "grad": lambda f: jax.grad(f)(POINT),
    "grad inside jit": lambda f: jax.jit(jax.grad(f))(POINT),
    "jacfwd": lambda f: jax.jacfwd(f)(POINT),
    "grad of checkpoint": lambda f: jax.grad(jax.checkpoint(f))(POINT),
    "hessian": lambda f: jax.hessian(f)(POINT),
    "hessian inside jit": lambda f: jax.jit(jax.hessian(f))(POINT),
}


@pytest.fixture(scope="module")
def posteriors(make_observation):
    observation = make_observation(energy_min=1.0, energy_max=4.0, offset_max=1.0)
    rng = np.random.default_rng(0)
    events = gj.Events(rng.uniform(1.0, 4.0, 30), rng.uniform(-0.6, 0.6, 30), rng.uniform(-0.6, 0.6, 30))
    models = {"weighted": weighted, "absolute": absolute}
    return {name: gj.Posterior(m, PRIORS, observation, events, per_decade=8.0) for name, m in models.items()}


def same(found, expected, rtol=2e-4):
    def check(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5 * np.abs(b).max(initial=0.0))

    jax.tree.map(check, found, expected)


@pytest.mark.slow
def test_the_table_has_all_public_methods(posteriors):
    public = {name for name in dir(posteriors["weighted"]) if not name.startswith("_")}
    assert public == set(METHODS) | NOT_OF_PARAMETERS


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weighted", "absolute"])
@pytest.mark.parametrize("method", METHODS)
def test_values(kind, method, posteriors):
    function = METHODS[method](posteriors[kind])
    expected = function(POINT)
    # the costly ones are the same program in all methods of parameters
    chosen = VALUES if method in ("log_likelihood", "prior_transform", "fractions") else ("jit", "vmap inside jit")
    for name in chosen:
        same(VALUES[name](function), expected)
    same(jax.jit(lambda posterior, p: METHODS[method](posterior)(p))(posteriors[kind], POINT), expected)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(jax.grad(partial(total, function))(POINT)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weighted", "absolute"])
@pytest.mark.parametrize("method", SCALARS)
def test_slopes(kind, method, posteriors):
    function = getattr(posteriors[kind], method)
    chosen = SLOPES if method == "log_likelihood" else ("grad", "hessian inside jit")
    found = {name: SLOPES[name](function) for name in chosen}
    for name, slope in found.items():
        same(slope, found["hessian inside jit" if "hessian" in name else "grad"], rtol=1e-3)
    step = {"index": jnp.asarray(0.01), "share": jnp.asarray(0.01), "ratios": jnp.array([0.01, -0.01])}
    ends = [function(jax.tree.map(lambda x, d, s=sign: x + s * d, POINT, step)) for sign in (1, -1)]
    along = sum(jnp.vdot(found["grad"][name], step[name]) for name in step)
    assert float(ends[0] - ends[1]) == pytest.approx(2.0 * float(along), rel=0.05, abs=2e-3)


def test_a_numpyro_model(posteriors):
    posterior = posteriors["weighted"]

    def model():
        p = {name: numpyro.sample(name, prior) for name, prior in posterior.priors.items()}
        numpyro.factor("events", posterior.log_likelihood(p))

    found = jax.jit(lambda p: log_density(model, (), {}, p)[0])(POINT)
    assert float(found) == pytest.approx(float(posterior.log_likelihood(POINT) + posterior.log_prior(POINT)), rel=1e-6)


@pytest.mark.parametrize("made", ["jit", "grad", "vmap"])
def test_a_posterior_cannot_be_made_inside(made, posteriors):
    old = posteriors["weighted"]

    def function(x):
        priors = {**PRIORS, "index": dist.Normal(x, 0.5)}
        return gj.Posterior(weighted, priors, old.observations, old.events, per_decade=8.0).log_prior(POINT)

    argument = jnp.ones(2) if made == "vmap" else jnp.asarray(1.0)
    with pytest.raises(ValueError, match="a Posterior cannot be made inside jit, grad or vmap"):
        getattr(jax, made)(function)(argument)


COPIES = {
    "pickle": lambda posterior: pickle.loads(pickle.dumps(posterior)),
    "cloudpickle": lambda posterior: pickle.loads(cloudpickle.dumps(posterior)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "tree": lambda posterior: jax.tree.map(lambda leaf: leaf, posterior),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies(name, posteriors):
    for posterior in posteriors.values():
        again = COPIES[name](posterior)
        same(jax.jit(again.log_likelihood)(POINT), posterior.log_likelihood(POINT), rtol=1e-6)


@pytest.mark.slow
def test_two_processes(posteriors):
    posterior, points = posteriors["weighted"], [{**POINT, "share": jnp.asarray(s)} for s in (0.2, 0.4)]
    with joblib.parallel_config("loky", n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(posterior.log_likelihood)(p) for p in points)
    same(jnp.stack(found), jnp.stack([posterior.log_likelihood(p) for p in points]), rtol=1e-6)


def test_wrong_parameters_are_named(posteriors):
    posterior = posteriors["weighted"]
    for p, message in (
        ({**POINT, "share": jnp.asarray(jnp.nan)}, "parameter 'share' is not a number: nan"),
        ({**POINT, "share": jnp.zeros(2)}, r"parameter 'share' has shape \(2,\), its prior has \(\)"),
        ({"share": POINT["share"]}, r"the parameters are a dict of \['index', 'ratios', 'share'\], not \['share'\]"),
        ({**POINT, "shore": POINT["share"]}, "not .*'shore'"),
    ):
        for method in ("log_likelihood", "log_prior", "expected_counts", "fractions"):
            with pytest.raises(ValueError, match=message):
                getattr(posterior, method)(p)
