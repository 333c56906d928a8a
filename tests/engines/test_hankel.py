"""Round sources through a Gaussian point spread function are Gaussians in the plane: closed forms at every radius."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from gammajax.engines.hankel import RadialFold, radial_fold
from gammajax.engines.radial_profiles import COARSE_RADIUS, PADDING
from gammajax.instrument.runs import Runs

ENERGY = np.geomspace(0.1, 30.0, 12)[3:9]  # nodes of the response


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


@pytest.mark.parametrize("responses", [1, 40])
def test_few_components_make_up_all_transforms(make_observation, response, responses):
    """Folds of any size are the same by the components as by the transforms themselves, for any number of responses."""
    prior = [gj.Gaussian(0.4, 0.0, sigma) for sigma in (0.02, 0.3)]
    several = [
        eqx.tree_at(lambda r: r.psf.widths.values, response, replace_fn=lambda width, factor=factor: width * factor)
        for factor in np.geomspace(1.0, 1.1, responses)
    ]
    runs = Runs.of(tuple(eqx.tree_at(lambda o: o.response, make_observation(), each) for each in several))
    whole, few = (radial_fold(prior, runs, ENERGY, compress=compress) for compress in (False, True))
    assert isinstance(whole, RadialFold) and isinstance(few, RadialFold)
    assert few.parts is not None and few.parts.shape[0] < whole.k.size / (4 if responses == 1 else 3)
    for shape in (gj.Gaussian(0.4, 0.0, 0.05), gj.Disk(0.4, 0.0, 0.3)):
        tables = ((fold(shape).values, fold(shape).moments) for fold in (few, whole))
        for found, expected in zip(*map(jax.tree.leaves, tables), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6 * float(jnp.abs(expected).max()))
