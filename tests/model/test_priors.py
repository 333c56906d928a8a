import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from astropy import units as u
from scipy import stats

from gammajax.model.priors import centre, check_priors, cube_size, extremes, from_cube, quantile

U = np.random.default_rng(4).uniform(size=(2000, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (dist.Uniform(-1.0, 3.0), stats.uniform(-1.0, 4.0)),
        (dist.Beta(2.0, 0.5), stats.beta(2.0, 0.5)),
        (dist.Gamma(3.0, 2.0), stats.gamma(3.0, scale=0.5)),
        (dist.HalfNormal(2.0), stats.halfnorm(scale=2.0)),
    ],
)
def test_numbers_are_quantiles(prior, expected):
    u = np.linspace(0.01, 0.99, 25)
    found = jax.vmap(lambda v: from_cube(prior, v))(jnp.asarray(u)[:, None])
    np.testing.assert_allclose(found, expected.ppf(u), rtol=2e-4, atol=1e-5)
    assert float(quantile(prior, 0.5)) == pytest.approx(expected.ppf(0.5), rel=1e-4)


@pytest.mark.slow
def test_dirichlet_from_the_cube():
    alpha = np.array([0.7, 2.0, 4.0])
    prior = dist.Dirichlet(jnp.asarray(alpha))
    assert cube_size(prior) == 2
    weights = np.asarray(jax.vmap(lambda u: from_cube(prior, u))(jnp.asarray(U)), float)
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-6)
    for i in range(3):  # each fraction alone is Beta distributed
        assert stats.kstest(weights[:, i], stats.beta(alpha[i], alpha.sum() - alpha[i]).cdf).pvalue > 1e-3
    np.testing.assert_allclose(np.cov(weights.T)[0, 2], -alpha[0] * alpha[2] / (alpha.sum() ** 2 * 7.7), rtol=0.3)


def test_correlated_normal_from_the_cube():
    covariance = np.array([[1.0, 0.6], [0.6, 0.5]])
    prior = dist.MultivariateNormal(jnp.array([1.0, -1.0]), jnp.asarray(covariance))
    drawn = np.asarray(jax.vmap(lambda u: from_cube(prior, u))(jnp.asarray(U)), float)
    np.testing.assert_allclose(drawn.mean(0), [1.0, -1.0], atol=0.08)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.08)


def test_correlated_normals_of_several_runs_from_the_cube():
    single = dist.MultivariateNormal(jnp.array([1.0, -1.0]), jnp.array([[1.0, 0.6], [0.6, 0.5]]))
    prior, u = single.expand([3]), jnp.linspace(0.1, 0.9, 6)
    assert cube_size(prior) == 6
    each = jnp.stack([from_cube(single, u[i : i + 2]) for i in (0, 2, 4)])
    np.testing.assert_allclose(from_cube(prior, u), each, rtol=1e-6)


def test_vectors():
    prior = dist.Uniform(0.0, 2.0).expand([3])
    assert cube_size(prior) == 3 and centre(prior).tolist() == [1.0, 1.0, 1.0]
    assert [end.tolist() for end in extremes(prior)] == [[0.0] * 3, [2.0] * 3]
    np.testing.assert_allclose(from_cube(prior, jnp.array([0.0, 0.25, 1.0])), [0.0, 0.5, 2.0])
    joined = dist.Normal(jnp.array([1.0, 2.0]), 1.0).to_event(1)
    np.testing.assert_allclose(from_cube(joined, jnp.array([0.5, 0.5])), [1.0, 2.0], atol=1e-6)
    assert centre(joined).tolist() == [1.0, 2.0] and len(extremes(joined)) == 8
    simplex = dist.Dirichlet(jnp.ones(2))
    assert centre(simplex).tolist() == [0.5, 0.5]
    assert [end.tolist() for end in extremes(simplex)] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ((0.0, 1.0), "the prior of 'mass' must be a numpyro distribution, .* not \\(0.0, 1.0\\)"),
        (dist.LogUniform(100.0 * u.GeV, 1e4 * u.GeV), r"the prior of 'mass' has a unit \(100.0 GeV\)"),
        (dist.Uniform(10.0, 1.0), "the prior of 'mass' has an empty range"),
    ],
)
def test_what_is_no_prior(prior, message):
    with pytest.raises(ValueError, match=message):
        check_priors({"fraction": dist.Beta(0.5, 0.5), "mass": prior})


class Drawn(dist.Distribution):
    """Uniform between 2 and 4, with draws only."""

    support = dist.constraints.real

    def sample(self, key, sample_shape=()):
        return jax.random.uniform(key, sample_shape, minval=2.0, maxval=4.0)


def test_priors_that_can_only_be_drawn_from():
    with pytest.raises(ValueError, match="a Drawn prior has no cumulative distribution function"):
        from_cube(Drawn(), jnp.full(1, 0.5))
    assert float(centre(Drawn())) == pytest.approx(3.0, abs=0.1)
    with pytest.raises(ValueError, match="LKJ prior cannot be made from the unit cube"):
        from_cube(dist.LKJ(3), jnp.full(3, 0.5))


# (prior with two hyperparameters, their values); JAX has no derivatives in the shape of a Beta distribution, and no
# second derivative in the shape of a Gamma distribution
FAMILIES = {
    "Uniform": (lambda a, b: dist.Uniform(a, a + b), (-1.0, 3.0)),
    "LogUniform": (lambda a, b: dist.LogUniform(a, a * b), (0.1, 30.0)),
    "Normal": (dist.Normal, (1.0, 0.5)),
    "LogNormal": (dist.LogNormal, (0.2, 0.5)),
    "HalfNormal": (lambda a, b: dist.HalfNormal(a * b), (2.0, 0.7)),
    "TruncatedNormal": (lambda a, b: dist.TruncatedNormal(a, b, low=0.1, high=2.0), (1.0, 0.5)),
    "truncated below": (lambda a, b: dist.TruncatedNormal(a, b, low=0.1), (1.0, 0.5)),
    "Gamma": (dist.Gamma, (3.0, 2.0)),
    "InverseGamma": (dist.InverseGamma, (3.0, 2.0)),
    "Exponential": (lambda a, b: dist.Exponential(a * b), (3.0, 2.0)),
    "HalfCauchy": (lambda a, b: dist.HalfCauchy(a * b), (3.0, 2.0)),
    "Cauchy": (dist.Cauchy, (0.3, 2.0)),
    "Laplace": (dist.Laplace, (0.3, 2.0)),
    "Logistic": (dist.Logistic, (0.3, 2.0)),
    "Gumbel": (dist.Gumbel, (0.3, 2.0)),
    "Weibull": (dist.Weibull, (1.5, 2.0)),
    "Pareto": (dist.Pareto, (1.5, 2.0)),
    "Beta": (lambda a, b: dist.Beta(2.0, 0.5), (0.0, 0.0)),
    "Beta at one end": (lambda a, b: dist.Beta(1.0, 9.0), (0.0, 0.0)),
    "StudentT": (lambda a, b: dist.StudentT(4.0, a, b), (0.3, 2.0)),
    "Dirichlet": (lambda a, b: dist.Dirichlet(jnp.array([0.7, 2.0, 4.0])), (0.0, 0.0)),
    "MultivariateNormal": (
        lambda a, b: dist.MultivariateNormal(jnp.stack([a, b]), jnp.array([[1.0, 0.6], [0.6, 0.5]])),
        (1.0, -1.0),
    ),
    "vector": (lambda a, b: dist.Gamma(jnp.stack([a, 2.0 * a]), b).to_event(1), (3.0, 2.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_transform_and_density(name):
    """In the unit cube and in the numbers of the prior, first and second, against finite differences."""
    make, numbers = FAMILIES[name]
    with jax.enable_x64(True):
        size = cube_size(make(*map(jnp.asarray, numbers)))
        place = jnp.asarray([*np.linspace(0.3, 0.6, size), *numbers])

        def transformed(x):
            value = from_cube(make(x[size], x[size + 1]), x[:size]).ravel()
            return value @ (1.0 + jnp.arange(value.size))

        value = from_cube(make(*map(jnp.asarray, numbers)), place[:size])

        def density(x):
            moved = value if size < value.size else value + (x[:size] - place[:size]).reshape(value.shape)
            return make(x[size], x[size + 1]).log_prob(moved).sum()

        steps = 1e-5 * np.eye(place.size)
        for function in (transformed, density):
            slope = jax.jit(jax.grad(function))
            numeric = np.array([(function(place + d) - function(place - d)) / 2e-5 for d in steps])
            np.testing.assert_allclose(slope(place), numeric, rtol=1e-5, atol=1e-7)

        def of_cube(u):
            value = from_cube(make(*map(jnp.asarray, numbers)), u).ravel()
            return value @ (1.0 + jnp.arange(value.size))

        slope, steps = jax.jit(jax.grad(of_cube)), 1e-5 * np.eye(size)
        curved = np.array([(slope(place[:size] + d) - slope(place[:size] - d)) / 2e-5 for d in steps])
        np.testing.assert_allclose(jax.jit(jax.hessian(of_cube))(place[:size]), curved, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_transforms_at_the_ends_have_no_undefined_gradient(name):
    make, numbers = FAMILIES[name]
    prior = make(*map(jnp.asarray, numbers))
    for end in (1e-6, 1.0 - 1e-6):
        jacobian = jax.jacfwd(lambda u: from_cube(prior, u))(jnp.full(cube_size(prior), end))
        assert not np.any(np.isnan(jacobian))
