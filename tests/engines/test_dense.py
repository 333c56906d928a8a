import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import numpyro.distributions as dist
import pytest

import gammajax as gj
from benchmarks.dense import (
    REPRESENTED,
    Case,
    dark_matter,
    dense_log_kernel,
    dense_marginal,
    fixed,
    load,
    riemann_weights,
)
from gammajax.engines import DenseEngine, FoldEngine, KernelEngine, Rows

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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DM", *OTHERS])
def test_marginals_of_gammabayes(name, reference, marginals):
    theirs = reference[0][f"logmarg_{name}"]
    seen = theirs > REPRESENTED
    assert seen.mean() > 0.9
    np.testing.assert_allclose(marginals[name][seen], theirs[seen], rtol=0, atol=1e-6)
    assert (marginals[name][~seen] < REPRESENTED + 1.0).all()


@pytest.mark.slow
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
    dispersion[:, :, 2] = 0.0  # a true position with no reconstructed energy
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


PER_DECADE = 15.0
BACKGROUND = gj.InstrumentBackground()


@pytest.fixture(scope="module")
def observation(make_observation):
    return make_observation(energy_min=1.0, energy_max=3.0)


@pytest.fixture(scope="module")
def rows(observation):
    random = np.random.default_rng(0)
    lon, lat = random.normal([0.2, -0.1], 0.2, (60, 2)).T
    return Rows.init(gj.Events(np.resize([1.1, 1.6, 2.8], 60), lon, lat), [observation], PER_DECADE)


def halo(mass, sigma_v=1.0):
    return gj.Source(gj.DarkMatter("b", mass=mass, sigma_v=sigma_v * 1e-24), gj.Point(0.2, -0.1))


ENDS = [halo(1.0), halo(100.0), halo(10.0, 0.1), halo(10.0, 9.0)]


@pytest.fixture(scope="module")
def kernel(observation, rows):
    return KernelEngine.init(halo(10.0), [observation], rows)


@pytest.fixture(scope="module")
def dense(observation, rows):
    """`dense(method)`: tables over the mass; the cross section only scales the flux."""
    made = {m: DenseEngine.init(halo(10.0), [observation], rows, ENDS, 41, m) for m in ("nearest", "linear")}
    return made.__getitem__


@eqx.filter_jit
def evaluate(engine, source):
    return engine.intensity(source), engine.expected_counts(source)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_at_a_node_it_is_the_engine_underneath(dense, kernel, method):
    table = dense(method)
    assert [axis.nodes.size for axis in table.axes] == [41]
    nodes = np.exp(np.asarray(table.axes[0].nodes))
    np.testing.assert_allclose(nodes, np.geomspace(1.0, 100.0, 41), rtol=1e-5)
    for mass, sigma_v in ((nodes[13], 1.0), (nodes[40], 3.0)):
        for value, expected in zip(
            evaluate(table, halo(mass, sigma_v)), evaluate(kernel, halo(mass, sigma_v)), strict=True
        ):
            # the mass of the node in single precision: off by 1e-6 of the step to the next
            np.testing.assert_allclose(value, expected, rtol=2e-5)


def test_between_nodes(dense, kernel):
    nodes = np.exp(np.asarray(dense("nearest").axes[0].nodes))
    mass = nodes[20] * (nodes[21] / nodes[20]) ** 0.4
    nearest, linear, exact = (evaluate(engine, halo(mass)) for engine in (dense("nearest"), dense("linear"), kernel))
    # GammaBayes: the density of the node, normalised to the expected counts
    node = evaluate(kernel, halo(nodes[20]))
    np.testing.assert_allclose(nearest[0] / nearest[1], node[0] / node[1], rtol=1e-5)
    seen = np.asarray(exact[0]) > 1e-4 * np.asarray(exact[0]).max()
    # 20 nodes per decade of mass: a step of 0.115 in ln(mass), squared, times the curvature over eight
    np.testing.assert_allclose(np.asarray(linear[0])[seen], np.asarray(exact[0])[seen], rtol=3e-3)
    np.testing.assert_allclose(linear[1], exact[1], rtol=3e-3)
    assert np.abs(nearest[0] / exact[0] - 1.0)[seen].max() > 5e-3


@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_the_last_node_holds_beyond_the_range(dense, method):
    (value, counts), (expected, at) = (evaluate(dense(method), halo(mass)) for mass in (0.95, 1.0))
    np.testing.assert_allclose(value / counts, expected / at, rtol=1e-5)


@pytest.mark.slow
def test_gradients(dense, kernel):
    def total(mass, engine):
        return jnp.log(engine.intensity(halo(mass))).sum() - engine.expected_counts(halo(mass)).sum()

    gradient = eqx.filter_jit(eqx.filter_grad(total))
    nodes = np.exp(np.asarray(dense("linear").axes[0].nodes))
    middle = jnp.asarray(np.sqrt(nodes[20] * nodes[21]))
    # halfway between nodes the chord has the slope of the curve, to second order
    assert float(gradient(middle, dense("linear"))) == pytest.approx(float(gradient(middle, kernel)), rel=0.02)
    with pytest.raises(ValueError, match="the nearest node of a dense table has no gradient"):
        gradient(middle, dense("nearest"))


@pytest.mark.slow
def test_posterior_of_a_mixture(observation):
    def model(p):
        return gj.Mixture(signal=halo(p["mass"]), background=BACKGROUND, weights={"signal": p["fraction"]})

    # a third about the source, harder than the rest
    random = np.random.default_rng(3)
    lon, lat = np.concatenate([random.normal([0.2, -0.1], 0.1, (100, 2)), random.uniform(-1.4, 1.4, (200, 2))]).T
    energy = np.concatenate(
        [random.choice([1.1, 1.6, 2.8], n, p=p) for n, p in ((100, [0.5, 0.3, 0.2]), (200, [0.7, 0.2, 0.1]))]
    )
    events = gj.Events(energy, lon, lat)
    priors = {"mass": dist.LogUniform(1.0, 100.0), "fraction": dist.Uniform(0.0, 1.0)}
    mass, fraction = np.geomspace(1.0, 100.0, 161)[1:-1], np.linspace(0.02, 0.98, 49)
    grid = {"mass": jnp.asarray(mass)[:, None], "fraction": jnp.asarray(fraction)[None, :]}
    moments = {}
    for name in ("kernel", "nearest", "linear"):
        engine = "kernel" if name == "kernel" else functools.partial(DenseEngine.init, method=name)
        posterior = gj.Posterior(model, priors, observation, events, engine={"signal": engine}, per_decade=PER_DECADE)
        assert isinstance(posterior.engines["signal"], KernelEngine if name == "kernel" else DenseEngine)
        value = np.asarray(_over(posterior, grid), np.float64)
        weight = np.exp(value - value.max())
        weight /= weight.sum()
        columns = np.log(mass), fraction
        means = [(weight.sum(1 - i) * column).sum() for i, column in enumerate(columns)]
        spreads = [
            np.sqrt((weight.sum(1 - i) * (c - m) ** 2).sum())
            for i, (c, m) in enumerate(zip(columns, means, strict=True))
        ]
        moments[name] = np.array(means), np.array(spreads)
    (exact, spread), (linear, _), (nearest, _) = (moments[name] for name in ("kernel", "linear", "nearest"))
    assert abs(exact[1] - 1.0 / 3.0) < 4.0 * spread[1]
    # in standard deviations of the posterior, which is as narrow as one step of the table: the chord is above a dip
    assert 0.08 < spread[0] < 0.16
    assert np.all(np.abs(linear - exact) < 0.15 * spread)
    assert np.all(np.abs(nearest - exact) < 0.5 * spread)


@eqx.filter_jit
def _over(posterior, grid):
    at = jax.tree.map(jnp.ravel, dict(zip(grid, jnp.broadcast_arrays(*grid.values()), strict=True)))
    value = jax.lax.map(posterior.log_likelihood_ratio, at, batch_size=64)
    return value.reshape(jnp.broadcast_shapes(*(a.shape for a in grid.values())))


@pytest.mark.slow
def test_a_free_morphology_is_folded(observation, rows):
    def build(lon):
        return gj.Source(gj.PowerLaw(2.3, 1e-11), gj.Point(lon, -0.1))

    table = DenseEngine.init(build(0.2), [observation], rows, [build(0.0), build(0.4)], 3, "linear")
    fold = FoldEngine.init(build(0.2), [observation], rows, [build(0.0), build(0.4)])
    np.testing.assert_allclose(table.axes[0].nodes, [0.0, 0.2, 0.4], atol=1e-6)
    for value, expected in zip(evaluate(table, build(0.2)), evaluate(fold, build(0.2)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_only_sources_can_be_tabulated(observation, rows, monkeypatch):
    # users have no run-time type checks
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="tabulates a Source, with spectrum and morphology, not InstrumentBackground"):
        DenseEngine.init(gj.InstrumentBackground(), [observation], rows)  # pyright: ignore[reportArgumentType]


def test_errors(observation, rows):
    def build(p):
        return gj.Source(gj.LogParabola(*p[:2], 1e-11), gj.Gaussian(*p[2:]))

    def init(variants, **options):
        return DenseEngine.init(build([2.0, 0.1, 0.2, -0.1, 0.2]), [observation], rows, variants, **options)

    ends = [build([2.0 + d, 0.1 + d, 0.2 + d, -0.1 + d, 0.2]) for d in (0.0, 0.05)]
    size = 4.0 * rows.index.size * 41.0**4 / 1e9
    with pytest.raises(
        ValueError, match=rf"{rows.index.size} rows at 41 nodes in each of 4 free numbers .*, {size:.3g} GB"
    ):
        init(ends)
    with pytest.raises(ValueError, match="method must be 'nearest' or 'linear', not 'cubic'"):
        init([], method="cubic")
    with pytest.raises(ValueError, match="at least 2 nodes"):
        init([], nodes=1)
    with pytest.raises(ValueError, match="a source of one form"):
        init([gj.Source(gj.PowerLaw(2.0), gj.Gaussian(0.2, -0.1, 0.2))])
    with pytest.raises(ValueError, match="before it is traced: use it in a gammajax.Posterior"):
        jax.jit(
            lambda index: gj.expected_counts(gj.Source(gj.PowerLaw(index), gj.Point(0.0, 0.0)), observation, "dense")
        )(2.0)


@pytest.mark.slow
def test_a_number_that_is_not_tabulated_must_not_change(observation):
    """A change that shows neither at the ends of the prior nor at its draws is in no table."""

    def model(p):
        index = jnp.where(jnp.abs(p["x"] - 0.123) < 1e-3, 3.0, 2.0)
        spectrum = gj.PowerLaw(index, 1e-12 * (1.0 + p["x"]))
        return gj.Mixture(source=gj.Source(spectrum, gj.Point(0.3, 0.2)), sky=gj.InstrumentBackground())

    events = gj.Events([1.0, 2.0], [0.3, 0.1], [0.2, 0.0])
    priors = {"x": dist.Uniform(0.0, 1.0)}
    posterior = gj.Posterior(model, priors, observation, events, engine={"source": "dense"}, per_decade=10.0)
    values = jax.jit(jax.vmap(posterior.log_likelihood))({"x": jnp.array([0.5, 0.123])})
    assert np.isfinite(values[0]) and np.isnan(values[1])
