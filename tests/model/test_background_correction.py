import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

import gammajax as gj

ENERGIES, OFFSETS = (0.5, 1.0, 3.0, 8.0), (0.0, 0.6, 1.5, 2.5)


def test_the_factor_is_that_of_scipy_splines_and_powers():
    random = np.random.default_rng(0)
    energy, offset, gradients = random.normal(size=4), random.normal(size=4), random.normal(size=(2, 3))
    made = gj.BackgroundCorrection(energy, offset, gradients, ENERGIES, OFFSETS)
    e, lon, lat = random.uniform(0.3, 12.0, 50), random.uniform(-1.4, 1.4, 50), random.uniform(-1.4, 1.4, 50)
    distance = np.degrees(np.arccos(np.cos(np.radians(lon)) * np.cos(np.radians(lat))))
    inside = np.clip(np.log(e), np.log(0.5), np.log(8.0))
    expected = CubicSpline(np.log(ENERGIES), energy, bc_type="natural")(inside)
    expected += CubicSpline(OFFSETS, offset, bc_type=("clamped", "natural"))(np.minimum(distance, 2.5))
    expected += sum(gradients[0, k - 1] * lon**k + gradients[1, k - 1] * lat**k for k in (1, 2, 3))
    np.testing.assert_allclose(np.log(made(*map(jnp.asarray, (e, lon, lat)))), expected, atol=2e-5)


def test_a_vector_is_values_at_nodes_and_gradients():
    numbers = np.arange(24.0).reshape(2, 12)
    made = gj.BackgroundCorrection.of(numbers, ENERGIES, OFFSETS, 2)
    np.testing.assert_array_equal(made.energy, numbers[:, :4])
    np.testing.assert_array_equal(made.offset, numbers[:, 4:8])
    np.testing.assert_array_equal(made.gradients, numbers[:, 8:].reshape(2, 2, 2))
    second = made.select(1)
    np.testing.assert_array_equal(second.gradients, [[20.0, 21.0], [22.0, 23.0]])
    # shared parts beside those of runs
    mixed = gj.BackgroundCorrection(numbers[0, :4], None, np.ones((2, 2, 1)), ENERGIES)
    assert mixed.select(0).energy.shape == (4,) and mixed.select(0).gradients.shape == (2, 1)
    one, other = (mixed(jnp.asarray(1.0), 0.5, 0.0, observation=i) for i in (0, 1))
    assert float(one) == float(other) == pytest.approx(np.exp(1.0 + 0.5), rel=1e-5)


def test_the_prior_has_the_stated_scales():
    prior = gj.correction_prior(ENERGIES, OFFSETS, 2, energy_scale=0.3, offset_scale=0.2, gradient=[0.1, 0.05])
    covariance = np.asarray(prior.covariance_matrix, np.float64)
    second = np.diff(np.eye(4), 2, axis=0)
    for start, scale in ((0, 0.3), (4, 0.2)):
        block = covariance[start : start + 4, start : start + 4]
        np.testing.assert_allclose(np.sqrt(np.diag(second @ block @ second.T)), scale, rtol=1e-4)
        assert np.sqrt(block.mean()) == pytest.approx(0.01, rel=1e-2)  # the level
    np.testing.assert_allclose(np.sqrt(np.diag(covariance))[8:], [0.1, 0.05, 0.1, 0.05], rtol=1e-5)
    np.testing.assert_allclose(covariance[:4, 4:], 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gj.BackgroundCorrection.of(np.zeros(4), degree=-1), r"degree .* from 0 \(no gradients\) to 6, not -1"),
        (lambda: gj.correction_prior(degree=-2), "degree .* not -2"),
        (lambda: gj.correction_prior(), "nothing to correct"),
        (lambda: gj.correction_prior(degree=2, gradient=[0.1, 0.1, 0.1]), "positive number, or 2"),
        (lambda: gj.correction_prior(ENERGIES, energy_scale=0.0), "scale .* positive"),
        (lambda: gj.BackgroundCorrection(np.zeros(2), energy_nodes=(1.0, 2.0)), "at least 3, increase"),
        (lambda: gj.BackgroundCorrection(np.zeros(3), energy_nodes=(1.0, 3.0, 2.0)), "increase"),
        (lambda: gj.BackgroundCorrection(np.zeros(3), energy_nodes=(0.0, 3.0, 4.0)), "positive"),
        (lambda: gj.BackgroundCorrection(offset=np.zeros(3), offset_nodes=(-1.0, 1.0, 2.0)), "zero or more"),
        (lambda: gj.BackgroundCorrection(np.zeros(3)), "give both"),
        (lambda: gj.BackgroundCorrection(np.zeros(4), energy_nodes=(1.0, 2.0, 3.0)), "must be the 3 energy_nodes"),
        (lambda: gj.BackgroundCorrection(np.full(3, np.nan), energy_nodes=(1.0, 2.0, 3.0)), "must be finite"),
        (lambda: gj.BackgroundCorrection(gradients=np.zeros(2)), r"give \(2, degree\)"),
        (lambda: gj.BackgroundCorrection(gradients=np.zeros((2, 45))), "degree of 1 to 6"),
        (lambda: gj.BackgroundCorrection.of(np.zeros(5), ENERGIES), "must be 4: 4 nodes of energy"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
