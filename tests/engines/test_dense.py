import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from benchmarks.dense import REPRESENTED, Case, dark_matter, fixed, load
from gammajax.engines import KernelEngine, Rows
from gammajax.engines.dense import dense_log_kernel, dense_marginal, interpolate, riemann_weights, tabulate

OTHERS = ["CCR_BKG", "FermiGaggeroDiffusePrior", "HESSCatalogueSources_Prior"]


@pytest.fixture(scope="module")
def reference():
    return load()


@pytest.fixture(scope="module")
def marginals(reference):
    """Marginals of all components of the case, by name."""
    arrays, events = reference
    with jax.enable_x64(True):
        case = Case(arrays)
        inputs = {name: jnp.asarray(arrays[name]) for name in ("logJ_Einasto", "logdNdE")}
        result = {"DM": dark_matter(case, inputs, jnp.asarray(events))}
        for name in OTHERS:
            result[name] = fixed(case, jnp.asarray(arrays[f"logprior_{name}"], float), jnp.asarray(events))
        return {name: np.asarray(value) for name, value in result.items()}


@pytest.mark.parametrize("name", ["DM", *OTHERS])
def test_marginals_of_gammabayes(name, reference, marginals):
    theirs = reference[0][f"logmarg_{name}"]
    seen = theirs > REPRESENTED
    assert seen.mean() > 0.9
    np.testing.assert_allclose(marginals[name][seen], theirs[seen], rtol=0, atol=1e-6)
    assert (marginals[name][~seen] < REPRESENTED + 1.0).all()


def test_mass_posterior_of_gammabayes(reference, marginals):
    arrays, _ = reference
    # uniform in the fraction of dark matter, and over the nodes of the mass
    fraction = np.linspace(0.0, 1.0, 2001)[1:-1, None, None]
    background = np.exp(marginals["CCR_BKG"])[:, None]
    mixture = fraction * np.exp(marginals["DM"]) + (1.0 - fraction) * background
    log_likelihood = (arrays["event_weights"][:, None] * np.log(mixture)).sum(1)
    top = log_likelihood.max()
    ours = np.log(np.exp(log_likelihood - top).mean(0))
    theirs = arrays["mass_log_posterior"]
    ours, theirs = (x - np.log(np.exp(x - x.max()).sum()) - x.max() for x in (ours, theirs))
    # beyond, the fraction piles up at zero and the posterior depends on how one integrates over it
    seen = theirs > theirs.max() - 10.0
    assert seen.sum() > 30
    np.testing.assert_allclose(ours[seen], theirs[seen], rtol=0, atol=2e-3)


def test_marginal_against_a_plain_sum():
    random = np.random.default_rng(0)
    spread, dispersion = random.uniform(0.1, 1.0, (2, 3, 4)), random.uniform(0.1, 1.0, (2, 5, 4))
    dispersion[:, :, 2] = 0.0  # a true position from which no energy is reached
    prior, spectrum = random.uniform(0.1, 1.0, (2, 4)), random.uniform(0.1, 1.0, (2, 6))
    energy = np.array([1.0, 2.0])
    solid_angle, width, weight = (
        np.full(3, 0.3),
        riemann_weights(np.geomspace(1.0, 16.0, 5), True),
        np.array([2.0, 4.0]),
    )
    np.testing.assert_allclose(width, 2.0 * np.geomspace(1.0, 16.0, 5), rtol=1e-6)
    np.testing.assert_allclose(riemann_weights(np.arange(4.0)), 1.0)
    with np.errstate(divide="ignore"):
        log_kernel = dense_log_kernel(
            lambda e: (jnp.log(spread)[(e > 1.5).astype(int)], jnp.log(dispersion)[(e > 1.5).astype(int)]),
            jnp.asarray(energy),
            jnp.log(prior),
            jnp.log(solid_angle),
            jnp.log(width),
        )
    value = dense_marginal(log_kernel, jnp.log(spectrum), jnp.log(weight))
    spread = spread / (spread * solid_angle[:, None]).sum(1, keepdims=True)
    norm = (dispersion * np.asarray(width)[:, None]).sum(1, keepdims=True)
    dispersion = dispersion / np.where(norm > 0, norm, 1.0)
    expected = np.einsum("xdp,xep,xp,xm,x->edm", spread, dispersion, prior, spectrum, weight)
    np.testing.assert_allclose(np.exp(value), expected, rtol=1e-5)


def test_interpolation():
    table = jnp.log(jnp.array([[1.0, 0.0], [3.0, 0.0], [5.0, 1.0]]))
    nodes = np.array([0.0, 1.0, 3.0])
    np.testing.assert_allclose(np.exp(interpolate(table, nodes, 0.6)), [3.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(np.exp(interpolate(table, nodes, 0.6, "linear")), [2.2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(np.exp(interpolate(table, nodes, 9.0, "linear")), [5.0, 1.0], rtol=1e-6)
    assert float(jax.grad(lambda x: jnp.exp(interpolate(table, nodes, x, "linear"))[0])(0.5)) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="'nearest' or 'linear', not 'cubic'"):
        interpolate(table, nodes, 0.6, "cubic")


def test_table_of_an_engine(observation):
    morphology = gj.Point(0.2, -0.1)
    rows = Rows.init(gj.Events([1.1, 2.0], [0.2, 0.3], [-0.1, 0.0]), [observation], 15.0)
    engine = KernelEngine.init(gj.Source(gj.PowerLaw(2.0), morphology), [observation], rows)

    def build(index):
        return gj.Source(gj.PowerLaw(index, 1e-11), morphology)

    indices = jnp.linspace(1.5, 3.5, 5)
    table = eqx.filter_jit(tabulate)(engine, build, indices)
    expected = engine.intensity(build(2.0)) / engine.expected_counts(build(2.0)).sum()
    np.testing.assert_allclose(np.exp(table[1]), expected, rtol=1e-4)
    np.testing.assert_allclose(interpolate(table, indices, 2.2), table[1])
