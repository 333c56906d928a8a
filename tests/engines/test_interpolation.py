"""Sums over taps and their derivatives against plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gammajax.engines.interpolation import PART, interpolated, rowwise


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


@pytest.mark.parametrize("size", [1, 7, PART, PART + 3])
def test_a_function_of_rows_has_the_derivatives_of_its_steps(size):
    def function(columns, fixed):
        x, (y, z) = columns
        return jnp.where(fixed > 0.0, jnp.sin(x) * y @ y, 0.0) + z * x

    random = np.random.default_rng(size)
    x, y, z, fixed = (jnp.asarray(random.normal(size=shape)) for shape in (size, (size, 3), size, size))
    columns = x, (y, z)

    def plain(columns):
        return (jax.vmap(function)(columns, fixed) ** 2).sum()

    def ours(columns):
        return (rowwise(function, columns, fixed) ** 2).sum()

    np.testing.assert_allclose(ours(columns), plain(columns), rtol=1e-5)
    change = jax.tree.map(jnp.ones_like, columns)
    for way in (jax.grad, jax.jacfwd, lambda f: lambda x: jax.jvp(jax.grad(f), (x,), (change,))[1]):
        if way is jax.jacfwd and size > 7:
            continue
        for mine, theirs in zip(*map(jax.tree.leaves, (way(ours)(columns), way(plain)(columns))), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=1e-4)
