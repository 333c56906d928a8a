"""Round sources through a Gaussian point spread function are Gaussians in the plane: closed forms at every radius."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import jv, jvp

import gammajax as gj
from gammajax.engines.hankel import COARSE_RADIUS, PADDING, Bessel, RadialFold, interpolated, radial_fold
from gammajax.instrument.runs import Runs

ENERGY = np.geomspace(0.1, 30.0, 12)[3:9]  # nodes of the response


@pytest.mark.slow
def test_bessel_functions():
    z = np.concatenate([np.linspace(0.0, 5.0, 1234), np.linspace(5.0, 200.0, 5001)])
    bessel = Bessel.upto(200.0)
    small = z < 5.0  # beyond, arguments are rounded
    for n, values in enumerate(bessel(jnp.asarray(z))):
        np.testing.assert_allclose(np.asarray(values)[small], jv(n, z[small]), atol=4e-7)
        np.testing.assert_allclose(values, jv(n, z), atol=2e-5)
    slopes = jax.jacfwd(lambda z: jnp.stack(bessel(z)).sum(1))(jnp.asarray(z))
    for n, slope in enumerate(slopes):
        np.testing.assert_allclose(slope, jvp(n, z), atol=3e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1, 2), (3, 4, 4)])
def test_interpolated_is_the_sum_over_taps(size):
    random = np.random.default_rng(0)
    table, low, across = (
        jnp.asarray(random.normal(size=shape)) for shape in ((2, 5, 6, 7), (20, size[1]), (20, size[2]))
    )
    ends = (2, *(n - m + 1 for n, m in zip(table.shape[1:], size, strict=True)))
    first = tuple(jnp.asarray(random.integers(0, end, 20)) for end in ends)

    def plain(table, low, across):
        number, *places = first
        near = [
            jax.lax.dynamic_slice(table[number[p]], [place[p] for place in places], size) for p in range(low.shape[0])
        ]
        return jnp.einsum("poar,pa,pr->op", jnp.stack(near), low, across)

    def ours(table, low, across):
        return jnp.stack(interpolated(table, low, across, first, size[0]))

    arguments = table, low, across
    np.testing.assert_allclose(ours(*arguments), plain(*arguments), atol=1e-5)
    tangents = tuple(jnp.cos(argument) for argument in arguments)
    for one, other in zip(*(jax.jvp(f, arguments, tangents) for f in (ours, plain)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for number in range(3):
        one, other = (jax.grad(lambda *a, f=f: (f(*a) ** 2).sum(), number)(*arguments) for f in (ours, plain))
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("lon", [0.2, 1.7])
def test_gaussians(make_observation, sigma, lon):
    fold = radial_fold([gj.Gaussian(lon, 0.0, sigma)], Runs.of((make_observation(),)), ENERGY)
    assert isinstance(fold, RadialFold)
    folded = fold(gj.Gaussian(lon, 0.0, sigma)).folded
    offset = np.asarray(folded.offsets)
    square = (0.12 * ENERGY**-0.2 * (1.0 + 0.08 * offset[:, None])) ** 2 + sigma**2
    rad = fold.radii.nodes(folded.coefficients.shape[1] - PADDING)
    exact = np.exp(-0.5 * rad[:, None, None] ** 2 / square) / (2.0 * np.pi * square)
    # the spline at its nodes
    near = [np.asarray(folded.coefficients[0, PADDING + i : PADDING + i + rad.size - 1]) for i in (-1, 0, 1)]
    value = (near[0] + 4.0 * near[1] + near[2]) / 6.0
    # far from the source nothing is left of it
    np.testing.assert_allclose(value, exact[: value.shape[0]], rtol=1e-3, atol=1e-6 * exact.max())
    assert folded.moments is not None
    mean = np.asarray(folded.moments[0][0])
    likely = (exact > 1e-3 * exact.max())[::COARSE_RADIUS]
    expected = np.broadcast_to(sigma**2 / square, likely.shape)
    np.testing.assert_allclose(mean[likely], expected[likely], rtol=3e-3)


@pytest.mark.slow
def test_nothing_is_left_far_from_narrow_sources(make_observation, response):
    """The widest point spread function sets the radii, the narrowest one the frequencies."""
    factor = jnp.geomspace(4.0, 0.2, 12)[:, None, None]
    uneven = eqx.tree_at(lambda r: r.psf.widths.values, response, replace_fn=lambda width: width * factor)
    observation = eqx.tree_at(lambda o: o.response, make_observation(), uneven)
    fold = radial_fold([gj.Gaussian(1.7, 0.0, 0.02)], Runs.of((observation,)), np.geomspace(0.1, 30.0, 12))
    assert isinstance(fold, RadialFold)
    coefficients = np.abs(np.asarray(fold(gj.Gaussian(1.7, 0.0, 0.02)).values[0, :, -1])).T
    rad = fold.radii.nodes(len(coefficients) - PADDING)
    far = (rad > 0.6) & (rad <= float(fold.radii.end))
    assert coefficients[PADDING:][far].max() < 1e-6 * coefficients.max()


@pytest.mark.slow
def test_few_components_make_up_all_transforms(make_observation):
    """Folds of any size are the same by the components as by the transforms themselves."""
    prior = [gj.Gaussian(0.4, 0.0, sigma) for sigma in (0.02, 0.3)]
    whole = radial_fold(prior, Runs.of((make_observation(),)), ENERGY)
    assert isinstance(whole, RadialFold)
    few = whole.compressed()
    assert few.parts is not None and few.parts.shape[0] < whole.k.size / 4
    for shape in (gj.Gaussian(0.4, 0.0, 0.05), gj.Disk(0.4, 0.0, 0.3)):
        tables = ((fold(shape).values, fold(shape).moments) for fold in (few, whole))
        for found, expected in zip(*map(jax.tree.leaves, tables), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6 * float(jnp.abs(expected).max()))
