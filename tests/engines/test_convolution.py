import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import gammajax as gj
from gammajax.engines.convolution import (
    fold_coefficients,
    fold_energies,
    fold_plan,
    fold_transforms,
    hats,
    offset_nodes,
    psf_transform,
    spline_integral_weights,
    spline_taps,
)
from gammajax.instrument.psf import GaussPSF, psf_radius
from gammajax.instrument.sky import displace
from gammajax.instrument.table import Axis, Table

ENERGY = np.geomspace(0.5, 2.0, 3)
AXES = Axis(np.log([0.1, 30.0])), Axis([0.0, 5.0])
# widths [deg] at 1 TeV, amplitudes: the same at all offsets, so that hats add up to the whole
PSFS = {"one Gaussian": ([0.1], [1.0]), "two Gaussians": ([0.08, 0.2], [1.0, 0.05])}
# (morphology, tolerance). The wide one extends beyond the field of view; its grid about the pointing distorts distances
# by up to theta^2/8; times the logarithm, 9.2, this is 5e-3 in its far tails
MORPHOLOGIES = {"Gaussian": (gj.Gaussian(0.6, 0.4, 0.15), 1e-3), "far Gaussian": (gj.Gaussian(1.5, -1.2, 0.3), 5e-3)}


def width(widths, energy):
    return np.asarray(widths) * (1.0 - 0.1 * np.log(energy)[:, None])


def psf(name):
    widths, amplitudes = PSFS[name]
    nodes = width(widths, np.array([0.1, 30.0]))[:, None, :] * np.ones((1, 2, 1))
    return GaussPSF(Table(AXES, nodes), Table(AXES, np.broadcast_to(amplitudes, nodes.shape).copy()))


@eqx.filter_jit
def evaluate(coefficients, grid, lon, lat):
    index, weight = spline_taps(grid, lon, lat)
    return jnp.einsum("ktem,kt->ke", coefficients[index], weight)


@pytest.fixture(scope="module", params=[(p, m) for p in PSFS for m in MORPHOLOGIES][:3], ids=" of ".join)
def folded(request, observation):
    name, morphology = request.param
    changed = eqx.tree_at(lambda o: o.response.psf, observation, psf(name))
    source, tolerance = MORPHOLOGIES[morphology]
    plan = fold_plan([source], changed, ENERGY)
    grid = plan.grid(source, changed)
    radial = fold_transforms(changed.response, plan, ENERGY)
    return grid, plan, fold_coefficients(source, changed, plan, ENERGY, radial), source, PSFS[name], tolerance


@pytest.mark.slow
def test_variances_add(folded, observation):
    grid, plan, coefficients, morphology, (widths, amplitudes), tolerance = folded
    sigma = np.radians(width(widths, ENERGY))  # [energy, Gaussian]
    weight = np.array(amplitudes) * sigma**2
    weight /= weight.sum(1, keepdims=True)
    variance = sigma**2 + np.radians(float(morphology.sigma)) ** 2
    # down to exp(-9.2) = 1e-4 of the peak
    rad = np.sqrt(2 * 9.2 * variance.min()) * np.linspace(0.0, 1.0, 60)
    angle = np.linspace(0.0, 3000.0, 60)
    lon, lat = displace(morphology.lon, morphology.lat, jnp.asarray(np.degrees(rad)), jnp.asarray(angle))
    value = np.asarray(evaluate(coefficients, grid, lon, lat), np.float64)
    gaussians = np.exp(-0.5 * rad[:, None, None] ** 2 / variance) / (2 * np.pi * variance)
    expected = (weight * gaussians).sum(-1)
    seen = np.asarray(observation.selected(lon, lat))
    assert seen.sum() > 30
    np.testing.assert_allclose(value[seen], expected[seen], rtol=tolerance)


def test_photons_are_conserved(folded):
    grid, plan, coefficients, _, _, _ = folded
    inside = np.asarray(spline_integral_weights(jnp.ones((grid.size, grid.size)))).ravel()
    total = np.einsum("pem,p->e", np.asarray(coefficients, np.float64), inside) * grid.solid_angle
    # the wide source's far side lies outside the grid
    np.testing.assert_allclose(total, 1.0, atol=3e-5)


def test_transform_of_a_gaussian():
    size, step = 60, 0.04
    transform = psf_transform(psf("one Gaussian"), np.array([1.0]), 1.0, step, size)[0]
    k = np.hypot(np.fft.fftfreq(size, step)[:, None], np.fft.rfftfreq(size, step)[None, :])
    np.testing.assert_allclose(transform, np.exp(-2.0 * (np.pi * k * 0.1) ** 2), atol=1e-5)


def test_radius_of_the_psf():
    radius = psf_radius(psf("one Gaussian"), jnp.ones(1), jnp.ones(1))
    assert float(radius[0]) == pytest.approx(0.1 * np.sqrt(-2.0 * np.log(2e-7)), rel=1e-2)


def test_hats_are_a_partition_of_unity():
    nodes = offset_nodes(0.3, 2.1, 0.5)
    np.testing.assert_allclose(nodes, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
    offset = jnp.linspace(0.0, 3.0, 50)
    weight = np.asarray(hats(offset, jnp.asarray(nodes)))
    np.testing.assert_allclose(weight.sum(1), 1.0, atol=1e-6)
    # interpolation: exact for straight lines, constant beyond the last node
    np.testing.assert_allclose(weight @ nodes, np.minimum(offset, 2.5), atol=1e-6)
    assert offset_nodes(1.0, 1.0, 0.5).size == 2


def test_splines_outside_their_grid_are_zero(folded):
    grid, plan, coefficients, morphology, _, _ = folded
    far = jnp.asarray(float(morphology.lat) + 2.0 * plan.radius)[None]
    assert evaluate(coefficients, grid, jnp.asarray(morphology.lon, jnp.float32)[None], far).max() == 0


def test_fold_energies_reach_the_last_node():
    nodes = np.geomspace(0.1, 10.0, 21)
    every_third = fold_energies(nodes, 3)
    np.testing.assert_allclose(every_third[:-1], nodes[::3])
    assert nodes[-1] <= every_third[-1] < nodes[-1] * 10**0.3
