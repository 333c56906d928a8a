import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gammajax.likelihood import (
    accurate_sum,
    extended_likelihood,
    mixture_density,
    mixture_likelihood,
    sum_of_logs,
    total_intensity,
)

RANDOM = np.random.default_rng(0)
# sums that lose digits when added one after the other
VALUES = {
    "of one sign": RANDOM.uniform(0.0, 1.0, 4_000),
    "large offset": 1e3 + RANDOM.normal(size=4_097),
    "eight decades": 10.0 ** RANDOM.uniform(-4.0, 4.0, 3_999),
    "one": np.array([3.5]),
    "three": np.array([1e8, 1.0, 1.0]),
}
summed = jax.jit(accurate_sum)
hypothetical = settings(max_examples=20, deadline=None, derandomize=True)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize(("wide", "tolerance"), [(False, 1e-7), (True, 1e-12)])
def test_accurate_sum_against_fsum(name, wide, tolerance):
    with jax.enable_x64(wide):
        values = jnp.asarray(VALUES[name])
        assert float(summed(values)) == pytest.approx(math.fsum(np.asarray(values, np.float64)), rel=tolerance)


@pytest.mark.parametrize("size", [2, 63, 64, 65, 4_097, 99_999])
def test_rounded_once(size):
    """Of any kind: the last digit is right, as if the exact sum were rounded."""
    random = np.random.default_rng(size)
    kinds = [
        random.normal(size=size),
        np.full(size, 0.3),
        random.integers(0, 3, size),
        10.0 ** random.uniform(-4.0, 4.0, size) * random.choice([-1.0, 1.0], size),
        np.append(1e7, random.normal(size=size - 1)),
    ]
    for values in kinds:
        values = values.astype(np.float32)
        exact = math.fsum(values.astype(float))
        assert abs(float(summed(jnp.asarray(values))) - exact) <= 0.51 * np.spacing(np.float32(abs(exact)))


@pytest.mark.parametrize(
    ("values", "total"), [([np.inf, 1.0], np.inf), ([-np.inf, 1.0], -np.inf), ([np.nan, 1.0], np.nan), ([], 0.0)]
)
def test_without_digits(values, total):
    np.testing.assert_equal(float(summed(jnp.asarray(values, jnp.float32))), total)


def test_cancelling_terms():
    # a plain sum in single precision is off by hundreds
    big = RANDOM.normal(size=2_000).astype(np.float32) * 1e6
    values = np.concatenate([big, -big, RANDOM.uniform(size=100).astype(np.float32)])
    values = values[RANDOM.permutation(values.size)]
    assert float(summed(jnp.asarray(values))) == pytest.approx(math.fsum(values.astype(float)), abs=0.2)


def test_gradient_is_one():
    np.testing.assert_array_equal(jax.jit(jax.grad(accurate_sum))(jnp.asarray(VALUES["eight decades"])), 1.0)
    second = jax.jit(jax.hessian(lambda x: accurate_sum(x**2)))(jnp.arange(3.0))
    np.testing.assert_allclose(second, 2.0 * np.eye(3))


@hypothetical
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=37, max_size=37), st.permutations(range(37)))
def test_order_does_not_matter(values, order):
    values = np.array(values, np.float32)
    limit = 1e-7 * np.abs(values).sum() + 1e-30
    assert abs(float(summed(jnp.asarray(values))) - float(summed(jnp.asarray(values[list(order)])))) <= limit


def test_vmap():
    rows = jnp.asarray(RANDOM.normal(size=(3, 50)))
    np.testing.assert_allclose(jax.jit(jax.vmap(accurate_sum))(rows), rows.sum(1), rtol=1e-4)


def test_mixture_density_by_hand():
    intensities = jnp.array([[1.0, 2.0, 0.0], [4.0, 0.0, 1.0]])
    density = mixture_density(intensities, jnp.array([10.0, 20.0]), jnp.array([0.3, 0.7]))
    np.testing.assert_allclose(density, [0.3 * 0.1 + 0.7 * 0.2, 0.3 * 0.2, 0.7 * 0.05], rtol=1e-6)


def test_sum_of_logs_counts_valid_rows_only():
    density, reference = jnp.array([2.0, 0.0, 6.0]), jnp.array([1.0, 4.0, 2.0])
    count = jnp.array([1, 0, 1])
    value, gradient = jax.jit(jax.value_and_grad(sum_of_logs))(density, reference, count)
    assert value == pytest.approx(np.log(2.0) + np.log(3.0))
    np.testing.assert_allclose(gradient, [0.5, 0.0, 1.0 / 6.0], rtol=1e-6)


def two_components():
    """Intensities, terms of counts by observation, and events of five rows."""
    intensities = RANDOM.uniform(0.1, 2.0, (2, 5))
    return intensities, [RANDOM.uniform(1.0, 9.0, (3, 4)), RANDOM.uniform(1.0, 9.0, (3, 7))], np.array([1, 0, 3, 1, 2])


def test_padding_without_density_has_no_gradient():
    row, count = jnp.array([2.0, 0.0]), jnp.array([3, 0])
    slope = jax.grad(lambda scale: sum_of_logs(scale * row, row, count))(1.0)
    assert float(slope) == 3.0


def test_mixture_likelihood_by_hand():
    intensities, terms, count = two_components()
    counts, fractions, reference = np.array([part.sum() for part in terms]), np.array([0.3, 0.7]), intensities[1]
    density = (fractions / counts) @ intensities
    found = mixture_likelihood(
        list(map(jnp.asarray, intensities)), *map(jnp.asarray, (counts, fractions, reference, count))
    )
    assert float(found) == pytest.approx(count @ np.log(density / reference), rel=1e-5)


def test_extended_likelihood_by_hand():
    intensities, terms, count = two_components()
    before = [0.9 * part for part in terms]
    reference = intensities[0] + 0.5 * intensities[1]
    found = extended_likelihood(
        list(map(jnp.asarray, intensities)),
        list(map(jnp.asarray, terms)),
        jnp.asarray(reference),
        list(map(jnp.asarray, before)),
        jnp.asarray(count),
    )
    expected = count @ np.log(intensities.sum(0) / reference) - sum(part.sum() for part in terms) * 0.1
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("total", [1e6, 1e7, 1e8])
def test_a_small_change_of_many_counts(total):
    """Half an event more: beyond 1e7, neighbouring totals in single precision are one or eight events apart."""
    before = RANDOM.uniform(0.5, 1.5, (4, 100))
    before = (before * total / before.sum()).astype(np.float32)
    now = before.copy()
    now[1, 7], now[3, 99] = now[1, 7] + 1.0, now[3, 99] - 0.5
    exact = now.astype(float).sum() - before.astype(float).sum()
    ones = jnp.ones(3)
    found = extended_likelihood([ones], [jnp.asarray(now)], ones, [jnp.asarray(before)], jnp.ones(3, int))
    assert float(found) == pytest.approx(-exact, abs=1e-6)


def test_negative_noise_of_one_component_leaves_a_positive_density():
    intensities = [jnp.array([1.0, 1.0, -1.0]), jnp.array([-0.01, -2.0, -1.0])]
    for density in (
        total_intensity(intensities),
        mixture_density(intensities, jnp.array([1.0, 1.0]), jnp.array([1.0, 1.0])),
    ):
        np.testing.assert_allclose(density, [0.99, 0.1, 0.0], rtol=1e-6)
